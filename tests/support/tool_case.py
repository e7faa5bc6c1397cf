# SPDX-License-Identifier: Apache-2.0
"""For tests of the tools as programs: Case has a private ipcbusd in a directory of its own, and
starts ipcbus-pub and ipcbus-cat against it. Programs from IPCBUS_TEST_DAEMON, IPCBUS_TEST_PUB and
IPCBUS_TEST_CAT. Nothing is waited for by sleeping: readers tell when they are subscribed
(--ready-fd), and publishers wait for them (--wait-subs). Whatever was started ends with the test.
"""

import ctypes
import glob
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

DAEMON = os.environ["IPCBUS_TEST_DAEMON"]
PUB = os.environ["IPCBUS_TEST_PUB"]
CAT = os.environ["IPCBUS_TEST_CAT"]
# Seconds; who needs them has failed. A machine that is so many times slower says so.
LONG = 30 * int(os.environ.get("IPCBUS_TEST_PATIENCE", "1"))

# Whoever runs the tests in the background ignores some signals, and the tools would, too.
for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(ignored) == signal.SIG_IGN:
        signal.signal(ignored, signal.SIG_DFL)


PR_SET_CHILD_SUBREAPER = 36


def end_orphans():
    """Ends what this process has adopted, and what that leaves behind. Every child is an orphan
    once all that the test has started itself has ended."""
    while True:
        children = []
        for path in glob.glob("/proc/self/task/*/children"):
            with open(path, encoding="ascii") as file:
                children += [int(word) for word in file.read().split()]
        if not children:
            return
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def run_tests():
    """Of the program that is run, those that its arguments name, or all; says how many passed."""
    program = sys.modules["__main__"]
    loader = unittest.defaultTestLoader
    suite = (loader.loadTestsFromNames(sys.argv[1:], program) if len(sys.argv) > 1
             else loader.loadTestsFromModule(program))
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    failed = len({test.id().split(" ")[0] for test, _ in result.failures + result.errors})
    print(f"{result.testsRun - failed} passed, {failed} failed")
    return 0 if failed == 0 and result.testsRun > 0 else 1


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __repr__(self):
        return f"exit {self.code}, stdout {self.out[:200]!r}, stderr {self.err[:500]!r}"


class Tool:
    """A tool that runs; ended with the test."""

    def __init__(self, words, environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                 ready=False):
        self.ready_end = None
        extra = {}
        if ready:
            self.ready_end, write_end = os.pipe()
            words = words + ["--ready-fd", str(write_end)]
            extra["pass_fds"] = [write_end]
        self.process = subprocess.Popen(words, env=environment, stdin=stdin, stdout=stdout,
                                        stderr=subprocess.PIPE, **extra)
        if ready:
            os.close(write_end)
            line = os.read(self.ready_end, 100)
            if line != b"ready\n":
                raise AssertionError(f"not ready: {line!r} {self.finish()}")

    def finish(self, timeout=LONG, stdin=None):
        try:
            out, err = self.process.communicate(stdin, timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"{self.process.args} did not end: {out[-200:]!r} {err!r}")
        return Result(self.process.returncode, out, err.decode())

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self):
        """Stops it and waits until it stands still."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def go_on(self):
        self.signal(signal.SIGCONT)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass
        if self.ready_end is not None:
            os.close(self.ready_end)


def free_port():
    """One that the kernel gives to nobody who does not name it."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


class Case(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="ipcbus-")
        self.addCleanup(shutil.rmtree, self.directory)
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.startswith("IPCBUS") or name.startswith("IPCBUS_TEST")}
        over_tcp = "IPCBUS_TEST_TCP" in os.environ
        self.address = f"tcp:127.0.0.1:{free_port()}" if over_tcp else self.unix_address()
        self.environment["IPCBUS_ADDRESS"] = self.address

    def adopt_orphans(self):
        """What commands of the tools (--exec) leave behind ends with the test, too. To be called
        before any of them is started, and what is started later is ended first."""
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
        self.addCleanup(end_orphans)

    def unix_address(self):
        return "unix:" + os.path.join(self.directory, "bus.sock")

    def start_daemon(self, config=None):
        words = [DAEMON, "--listen", self.address]
        if config is not None:
            path = os.path.join(self.directory, "ipcbusd.toml")
            with open(path, "w", encoding="utf-8") as file:
                file.write(config)
            words += ["-c", path]
        with open(os.path.join(self.directory, "log"), "ab") as log:
            daemon = subprocess.Popen(words, env=self.environment, stdin=subprocess.DEVNULL,
                                      stdout=log, stderr=log)
        self.addCleanup(daemon.wait)
        self.addCleanup(daemon.kill)
        result = self.pub("-t", "ready", "-n", "--connect-timeout", "10s")
        with open(os.path.join(self.directory, "log"), encoding="utf-8") as log:
            self.assertEqual(result.code, 0, (result, log.read()))
        return daemon

    def tool(self, *words, **options):
        tool = Tool(list(words), self.environment, **options)
        self.addCleanup(tool.close)
        return tool

    def cat(self, *words, **options):
        """A subscribed ipcbus-cat that goes on running."""
        options.setdefault("ready", True)
        return self.tool(CAT, *words, **options)

    def pub(self, *words, stdin=b"", **options):
        return self.tool(PUB, *words, stdin=subprocess.PIPE, **options).finish(stdin=stdin)

    def assertDone(self, result, out=None):
        self.assertEqual((result.code, result.err), (0, ""), result)
        if out is not None:
            self.assertEqual(result.out, out)

    def assertFails(self, result, code, text=""):
        """That exit code, nothing on stdout, one line on stderr that begins with the tool."""
        self.assertEqual(result.code, code, result)
        self.assertEqual(result.out, b"", result)
        self.assertRegex(result.err, r"\Aipcbus-(pub|cat|stat|bench): [^\n]+\n\Z")
        self.assertIn(text, result.err)
