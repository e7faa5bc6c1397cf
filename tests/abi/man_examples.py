#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The example programs of ipcbus(3) compile as they are printed, with all warnings, against the
public headers alone.
Usage: man_examples.py PAGE.scd "C COMPILER" "C++ COMPILER" INCLUDE_DIRECTORY..."""

import re
import subprocess
import sys

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror", "-fsyntax-only"]


def main():
    page, c_compiler, cpp_compiler, *directories = sys.argv[1:]
    with open(page, encoding="utf-8") as file:
        blocks = re.findall(r"^```\n(.*?)^```$", file.read(), re.MULTILINE | re.DOTALL)
    programs = [block.replace("\\\\", "\\") for block in blocks if block.startswith("#include")]
    includes = [word for directory in directories for word in ("-I", directory)]
    passed = failed = 0
    for program in programs:
        if ".hpp>" in program:
            command = cpp_compiler.split() + ["-std=c++20", "-x", "c++"]
        else:
            command = c_compiler.split() + ["-std=c11", "-x", "c"]
        done = subprocess.run(command + WARNINGS + includes + ["-"], input=program, text=True,
                              check=False)
        passed, failed = (passed + 1, failed) if done.returncode == 0 else (passed, failed + 1)
    print(f"{passed} passed, {failed} failed")
    return 0 if passed >= 3 and failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
