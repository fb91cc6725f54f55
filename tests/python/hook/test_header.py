"""shim/include/zerogpu.h is a C header: it compiles alone, as C and as C++, and declares what the recorder defines."""

import subprocess

import pytest


@pytest.mark.parametrize("language, standard", [("c", "c99"), ("c++", "c++11")])
def test_the_header_compiles_alone(headers, language, standard):
    command = ["cc", "-x", language, "-std=" + standard, "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"]
    source = b'#include "zerogpu.h"\n#include "zerogpu.h"\nint main(void) { return 0; }\n'
    subprocess.run(command + ["-I", headers, "-"], input=source, check=True)
