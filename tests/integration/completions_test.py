#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: what can be typed behind a command of ipcbus can be completed, in bash and in zsh: every
option that --help names, every word that an option takes, files where a file goes; and
that --help fits a screen of 24 lines.
Method: bash reads the completion as it is installed, and its function is called with what a line
would give it; zsh does the same with an _arguments that only says what it was given.
Usage: completions_test.py DIRECTORY_OF_COMPLETIONS TOOL=PROGRAM...
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

SKIP = 77
HELPERS = "/usr/share/bash-completion/bash_completion"
OPTION = re.compile(r"(?<![\w/-])(--[a-z][\w-]+|-[A-Za-z0-9])(?![\w-])")
BASH = """
source "$1" && source "$2" || exit 1
compopt() { :; }  # there is no line that is being edited
shift 2
line=$1 tool=$2 previous=$3
shift 3
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9 COMP_KEY=9
function=$(complete -p "${tool##*/}" | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
"$function" "$tool" "${COMP_WORDS[COMP_CWORD]}" "$previous"
printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """
_arguments() { print -rl -- "$@"; }
words=("$2")
source "$1"
"""

DIRECTORY = pathlib.Path(sys.argv[1]).resolve()
TOOLS = dict(word.split("=", 1) for word in sys.argv[2:])


def run(*words, code=0, **options):
    done = subprocess.run([str(word) for word in words], check=False, capture_output=True,
                          text=True, timeout=60, **options)
    if done.returncode != code:
        raise AssertionError(f"{words}: exit {done.returncode}: {done.stdout}{done.stderr}")
    return done


def options_of_help(tool):
    return set(OPTION.findall(run(TOOLS[tool], "--help").stdout))


def complete(tool, *words, where="/"):
    """What bash offers for the last of `words`; it cuts them at = and : first."""
    cut = [TOOLS[tool]]
    for word in words:
        cut += [piece for piece in re.split(r"([=:])", word) if piece] or [""]
    done = run("bash", "--norc", "-c", BASH, "bash", HELPERS, DIRECTORY / tool,
               " ".join([TOOLS[tool], *words]), TOOLS[tool], cut[-2] if len(cut) > 1 else "",
               *cut, cwd=where)
    if done.stderr:
        raise AssertionError(f"{words}: {done.stderr}")
    return set(done.stdout.split())


def zsh_specs(tool):
    lines = run("zsh", "-f", "-c", ZSH, "zsh", DIRECTORY / f"_{tool}", TOOLS[tool]).stdout
    return lines.splitlines()


def words_of_refusal(tool, *words):
    """What the tool says that it would take instead."""
    error = run(TOOLS[tool], *words, code=2).stderr
    return set(re.search(r"not one of ([^;(]*)", error)[1].replace("last:N", "last:").strip()
               .split(", "))


class Completions(unittest.TestCase):
    def test_every_option_of_help(self):
        for tool in TOOLS:
            with self.subTest(tool):
                wanted = options_of_help(tool)
                self.assertGreater(len(wanted), 5)
                offered = complete(tool, "-")
                self.assertEqual(wanted - offered, set())
                self.assertNotIn("--print-options", offered)

    def test_help_fits_a_screen(self):
        for tool, program in TOOLS.items():
            with self.subTest(tool):
                lines = run(program, "--help").stdout.splitlines()
                self.assertLessEqual(len(lines), 24)
                self.assertLessEqual(max(map(len, lines)), 80)

    def test_who_takes_a_value(self):
        """Is asked for one if it is the last word."""
        for tool, program in TOOLS.items():
            for line in run(program, "--print-options").stdout.splitlines():
                for name in line.rstrip("=").split() if line.startswith("-") else ():
                    if line.endswith("="):
                        self.assertRegex(run(program, name, code=2).stderr, "needs an? ")

    def test_words(self):
        for tool, option, extra in (("ipcbus-cat", "--mode", ["t"]), ("ipcbus-cat", "--from", ["t"]),
                                    ("ipcbus-bench", "--mode", ["latency"]),
                                    ("ipcbus-bench", "--wait", ["latency"])):
            with self.subTest(tool=tool, option=option):
                wanted = words_of_refusal(tool, option, "nonsense", *extra)
                self.assertEqual(complete(tool, option, ""), wanted)
                self.assertEqual(complete(tool, option + "="), wanted)
                first = min(wanted)
                self.assertEqual(complete(tool, f"{option}={first[:2]}"), {first})
        self.assertEqual(complete("ipcbus-bench", ""),
                         words_of_refusal("ipcbus-bench", "nonsense"))
        self.assertEqual(complete("ipcbus-bench", "thr"), {"throughput"})

    def test_files(self):
        with tempfile.TemporaryDirectory(prefix="ipcbus-completions-") as name:
            for file in ("one.toml", "other"):
                pathlib.Path(name, file).touch()
            for tool, option in (("ipcbusd", "-c"), ("ipcbusd", "--config"), ("ipcbus-pub", "-f"),
                                 ("ipcbus-pub", "--follow"), ("ipcbus-cat", "--pidfile")):
                self.assertEqual(complete(tool, option, "", where=name), {"one.toml", "other"})
                self.assertEqual(complete(tool, option, "on", where=name), {"one.toml"})
            self.assertEqual(complete("ipcbus-pub", "--file=on", where=name), {"one.toml"})
            # Behind the colon, where readline goes on.
            self.assertEqual(complete("ipcbus-pub", "--address", "unix:on", where=name),
                             {"one.toml"})
            self.assertEqual(complete("ipcbus-req", "--token-file", "on", where=name),
                             {"one.toml"})
        for tool, option in (("ipcbus-pub", "--address"), ("ipcbusd", "--listen")):
            self.assertEqual(complete(tool, option, ""), {"unix:", "tcp:", "tls:"})
            self.assertEqual(complete(tool, option, "u"), {"unix:"})
            self.assertEqual(complete(tool, option, "tls:"), set())

    def test_other_values(self):
        self.assertLessEqual({"USR1", "USR2"}, complete("ipcbus-pub", "--on-signal", "US"))
        self.assertEqual(complete("ipcbus-cat", "--signal", "SIGHU"), {"SIGHUP"})
        self.assertIn("bash", complete("ipcbus-cat", "--exec", "bas"))
        self.assertEqual(complete("ipcbus-pub", "--rate", ""), set())
        self.assertEqual(complete("ipcbus-pub", "--", "-"), set())
        self.assertEqual(complete("ipcbus-pub", "--rat"), {"--rate"})

    @unittest.skipUnless(shutil.which("zsh"), "no zsh")
    def test_zsh(self):
        for tool in TOOLS:
            with self.subTest(tool):
                run("zsh", "-n", DIRECTORY / f"_{tool}")
                specs = zsh_specs(tool)
                offered = {re.match(r"\*?(-[\w-]*)", spec)[1] for spec in specs
                           if re.match(r"\*?--?\w", spec)}
                self.assertEqual(options_of_help(tool) - offered, set())
        self.assertIn("*--mode=:value:(reliable lossy latest)", zsh_specs("ipcbus-cat"))
        self.assertIn("*-f+:value:_files", zsh_specs("ipcbus-pub"))
        self.assertIn("*--strict", zsh_specs("ipcbus-cat"))
        self.assertIn("*--token-file=:value:_files", zsh_specs("ipcbus-reply"))
        self.assertIn("*--address=:value:_ipcbus_address", zsh_specs("ipcbus-req"))
        modes = re.search(r":operand:\((.*)\)", zsh_specs("ipcbus-bench")[-1])[1]
        self.assertEqual(set(modes.split()), words_of_refusal("ipcbus-bench", "nonsense"))

    def test_zsh_asks_the_tool(self):
        for tool in TOOLS:
            text = (DIRECTORY / f"_{tool}").read_text()
            self.assertEqual(text.split("\n", 1)[0], f"#compdef {tool}")
            self.assertIn("--print-options", text)


if __name__ == "__main__":
    if not os.path.exists(HELPERS):
        print("skipped: bash-completion is not installed")
        sys.exit(SKIP)
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Completions)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    failed = len({test.id().split(" ")[0] for test, _ in result.failures + result.errors})
    print(f"{result.testsRun - failed - len(result.skipped)} passed, {failed} failed")
    sys.exit(0 if failed == 0 else 1)
