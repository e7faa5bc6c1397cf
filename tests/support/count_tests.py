#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""count_tests.py TESTLOG.json: prints "PASSED FAILED" of a `meson test`.

A program of many test cases counts with each of them: doctest says how many there were in its last
lines, other programs may end with a line "N passed, N failed". A program that says nothing of the
kind is one test. One that failed without a failed case to show for it (a crash, a time-out, a leak
found at exit) is one failure more.
"""

import json
import re
import sys

DOCTEST = re.compile(r"test cases:\s*\d+\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed")
PLAIN = re.compile(r"^(\d+) passed, (\d+) failed$", re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def count(test):
    output = COLOUR.sub("", test.get("stdout") or "")
    found = DOCTEST.findall(output) or PLAIN.findall(output)
    passed, failed = (int(n) for n in found[-1]) if found else (0, 0)
    if test["result"] in ("OK", "EXPECTEDFAIL"):
        if found and passed == 0 and failed == 0:
            print(f"{test['name']}: it ran no test case at all", file=sys.stderr)
            return 0, 1
        return (passed, failed) if found else (1, 0)
    if test["result"] == "SKIP":
        return 0, 0
    return passed, max(failed, 1)


def main():
    passed = failed = 0
    with open(sys.argv[1], encoding="utf-8") as log:
        for line in log:
            one_passed, one_failed = count(json.loads(line))
            passed += one_passed
            failed += one_failed
    print(passed, failed)


if __name__ == "__main__":
    main()
