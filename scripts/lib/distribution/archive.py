"""Wheels as files: a zip archive that is the same for the same content, and closes with the list of what is in it.

https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

import base64
import hashlib
import os
import time
import zipfile

# The date of every entry, unless SOURCE_DATE_EPOCH names another: the earliest that the format has.
EPOCH = 315532800


class Archive:
    """The entries of a wheel, written in order by `write`."""

    def __init__(self, info):
        """`info`: the name of the .dist-info folder."""
        self._info = info
        self._entries = {}

    def add(self, name, content, executable=False):
        """An entry. Names are given once."""
        assert name not in self._entries, f"{name} is there twice"
        self._entries[name] = (content, executable)

    def names(self):
        """The entries, as they will be listed."""
        return sorted(self._entries, key=self._order)

    def write(self, path):
        """Writes the wheel. A file that is there is replaced whole."""
        lines = []
        fresh = path.with_suffix(".new")
        with zipfile.ZipFile(fresh, "w") as archive:
            for name in self.names():
                content, executable = self._entries[name]
                _put(archive, name, content, executable)
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                lines.append(f"{name},sha256={digest},{len(content)}\n")
            record = f"{self._info}/RECORD"
            lines.append(f"{record},,\n")
            _put(archive, record, "".join(lines).encode(), False)
        os.replace(fresh, path)

    def _order(self, name):
        # what is said about the wheel comes last, as the specification recommends
        return (name.startswith(f"{self._info}/"), name)


def _put(archive, name, content, executable):
    date = time.gmtime(max(EPOCH, int(os.environ.get("SOURCE_DATE_EPOCH") or EPOCH)))
    entry = zipfile.ZipInfo(name, date[:6])
    entry.create_system = 3  # Unix: the mode counts
    entry.external_attr = (0o100755 if executable else 0o100644) << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, content, compresslevel=9)
