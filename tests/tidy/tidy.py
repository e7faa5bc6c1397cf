#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What no compiler checks in this tree: every file says what it is and under which license; no line
of C++ is longer than 100 columns; the ordering tags of libclient/protocol, like [W8], are defined in
one head comment and used in code; meson installs all public headers; nothing is left over.
Usage: tidy.py SOURCE_DIRECTORY. Prints FILE:LINE: FAULT for each fault.
"""

import pathlib
import re
import sys

COLUMNS_MAX = 100
FOLDERS = ("libclient", "daemon", "tools", "systemd", "tests", ".ci")
C_LIKE = {".c", ".cpp", ".h", ".hpp"}
# Files that begin with the license and a comment; another kind says so here or in NO_HEAD.
HEADED = C_LIKE | {".py", ".sh", ".build", ".scd", ".in", ".map", ".txt", ".sysusers", ".tmpfiles",
                   ".toml", ".pml", ".typed", ".clang-format", ".clang-tidy", ".editorconfig",
                   "control", ".install", ".symbols"}
# What Debian reads there knows no comments.
NO_HEAD = {"LICENSE", "README.md", ".gitignore", "systemd/debian/copyright",
           "systemd/debian/source/format"}
# A page of the manual has a NAME instead; the others say by their names what they are.
LICENSE_ALONE = {".scd", ".in", ".map", ".editorconfig"}
SPDX = "SPDX-License-Identifier: Apache-2.0"
HEAD_LINES = 6

# In two pieces each, so that this file does not hold them.
LEFT_OVER = re.compile(r"\b(TO" r"DO|FIX" r"ME|HA" r"CK|XX" r"X)\b")
MACHINE_PATH = re.compile(r"(?<![\w.$}])/(wo" r"rk|ro" r"ot|tmp/te" r"am)(?![\w-])")

TAG = re.compile(r"\[([A-Z]\d+)\]")
# "//   [W8] store ...", also as the second step of a line, or in the second column of a table.
DEFINITION = re.compile(r"(?:^//|\s{2,}|[.)]\s+)\s*\[([A-Z]\d+)\] [\w`]")


class Tidy:
    def __init__(self, root):
        self.root = root
        self.faults = 0
        self.files = {}
        names = [path for path in root.iterdir() if path.is_file()]
        for folder in FOLDERS:
            names += [path for path in (root / folder).rglob("*") if path.is_file()]
        for path in sorted(names):
            name = path.relative_to(root)
            if not {"__pycache__", "corpus"} & set(name.parts):  # a corpus is data
                self.files[name] = path.read_text("utf-8", errors="replace")

    def fault(self, name, line, text):
        self.faults += 1
        print(f"{name}:{line}: {text}")

    def check_head(self, name, text):
        if str(name) in NO_HEAD:
            return
        kind = name.suffix or name.name
        lines = text.split("\n")[:HEAD_LINES]
        spdx = next((i for i, line in enumerate(lines) if SPDX in line), None)
        if spdx is None:
            self.fault(name, 1, f"no line '{SPDX}'")
            return
        if kind not in HEADED and not lines[0].startswith("#!"):
            self.fault(name, 1, "a kind of file that tidy.py does not know")
        if kind in LICENSE_ALONE:
            return
        after = [line for line in lines[spdx + 1:] if line.strip(" */#\"")]
        if not after or not re.match(r"//|/?\s?\*|#|\"\"\"", after[0]) or \
                after[0].startswith(("#include", "#pragma")):
            self.fault(name, spdx + 2, "no comment that says what this file is")

    def check_lines(self, name, text):
        for number, line in enumerate(text.split("\n"), 1):
            if name.suffix in C_LIKE and len(line) > COLUMNS_MAX:
                self.fault(name, number, f"{len(line)} columns; {COLUMNS_MAX} is the most")
            if found := LEFT_OVER.search(line):
                self.fault(name, number, f"{found[0]}: finish it")
            if found := MACHINE_PATH.search(line):
                self.fault(name, number, f"{found[0]}: a path of somebody's machine")

    def check_tags(self):
        """The heads of libclient/protocol define; everything below them, and all other code of
        library and daemon, uses."""
        defined = {}
        used = {}
        for name, text in self.files.items():
            if name.parts[0] not in ("libclient", "daemon") or name.suffix not in C_LIKE:
                continue
            in_head = name.suffix == ".hpp" and "protocol" in name.parts
            for number, line in enumerate(text.split("\n"), 1):
                in_head = in_head and line.startswith("//")
                if in_head:
                    for tag in DEFINITION.findall(line):
                        defined.setdefault(tag, {}).setdefault(name, number)
                else:
                    for tag in TAG.findall(line):
                        used.setdefault(tag, (name, number))
        for tag, (name, number) in sorted(used.items()):
            if tag not in defined:
                self.fault(name, number, f"[{tag}] is defined in no head of libclient/protocol")
        for tag, places in sorted(defined.items()):
            name, number = next(iter(places.items()))
            if tag not in used:
                self.fault(name, number, f"[{tag}] is defined, but no code says where it is done")
        if not defined:
            self.fault(pathlib.Path("libclient/protocol"), 1, "no ordering tags at all")

    def check_public_headers(self):
        folder = pathlib.Path("libclient/include/ipcbus")
        build = self.files[folder / "meson.build"]
        for name in self.files:
            if name.parent == folder and name.name != "meson.build" and f"'{name.name}'" not in build:
                self.fault(name, 1, "a public header that meson.build does not name")

    def check_protocol_page(self):
        """What a client without the library sends first is what the daemon wants."""
        layout = self.files[pathlib.Path("libclient/protocol/layout.hpp")]
        version = re.search(r"kLayoutVersion = (\d+);", layout).group(1)
        name = pathlib.Path("libclient/man/ipcbus-protocol.7.scd")
        said = re.findall(r"(?:memory\s+layout|u32 +layout_version) +(\d+)", self.files[name])
        if len(said) != 3 or set(said) != {version}:
            self.fault(name, 1, f"says layout version {said}, it is {version}, and said three times")

    def check(self):
        for name, text in self.files.items():
            self.check_head(name, text)
            self.check_lines(name, text)
        self.check_tags()
        self.check_public_headers()
        self.check_protocol_page()
        return self.faults


def main():
    tidy = Tidy(pathlib.Path(sys.argv[1]))
    faults = tidy.check()
    print(f"{len(tidy.files)} files, {faults} faults")
    return 1 if faults or len(tidy.files) < 100 else 0


if __name__ == "__main__":
    sys.exit(main())
