"""Chromium for the tests of this folder: an installed one (Debian's package `chromium`), headless, silent on the network."""

import contextlib
import os
import shutil

from playwright.sync_api import sync_playwright

# No sandbox: tests also run as root and in containers. The rest keeps the browser from talking to anyone by itself.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def path():
    """The browser's executable: ZEROGPU_TEST_CHROMIUM, else `chromium` on the path."""
    found = os.environ.get("ZEROGPU_TEST_CHROMIUM") or shutil.which("chromium")
    if not found:
        raise FileNotFoundError("Chromium is missing: apt-get install --no-install-recommends chromium")
    return found


@contextlib.contextmanager
def launched(**options):
    """A running browser (playwright's Browser), which ends with the block. `options` go to playwright's launch."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path(), headless=True, args=FLAGS, **options)
        try:
            yield browser
        finally:
            browser.close()
