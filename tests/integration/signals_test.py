#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Programs that understand only signals: ipcbus-cat --signal sends them one for each message, and
ipcbus-pub --on-signal publishes when one comes. No number that was given out again is signalled;
no signal is lost. Against a private ipcbusd each test (tool_case.py).
"""

import os
import select
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
sys.dont_write_bytecode = True
from tool_case import LONG, PUB, Case, run_tests  # noqa: E402


class SignalsSent(Case):
    """--signal: a process that understands nothing but signals and writes a pidfile."""

    TARGET = ("import os, resource, signal, sys\n"
              "pending_max, uid = int(sys.argv[2]), int(sys.argv[3])\n"
              "if pending_max:\n"
              "    resource.setrlimit(resource.RLIMIT_SIGPENDING, (pending_max, pending_max))\n"
              "if uid:\n"
              "    os.setresuid(uid, uid, uid)\n"
              "number = signal.SIGRTMIN + 1\n"
              "signal.pthread_sigmask(signal.SIG_BLOCK, [number])\n"
              "with open(sys.argv[1] + '.new', 'w') as file: file.write(str(os.getpid()) + '\\n')\n"
              "os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
              "print('ready', flush=True)\n"
              "while True:\n"
              "    signal.sigwait([number])\n"
              "    print('signalled', flush=True)\n")

    def setUp(self):
        super().setUp()
        self.start_daemon()
        self.pidfile = os.path.join(self.directory, "service.pid")

    def target(self, pending_max=0, uid=0):
        """`uid`: whose it becomes; 0: ours."""
        if uid != 0:
            os.chmod(self.directory, 0o1777)
        process = subprocess.Popen(
            [sys.executable, "-c", self.TARGET, self.pidfile, str(pending_max), str(uid)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), b"ready\n")
        return process

    def sender(self, *words):
        return self.cat("--signal", "RTMIN+1", "--pidfile", self.pidfile, "t", *words)

    def test_a_signal_for_each_message_also_to_a_service_that_was_restarted(self):
        target = self.target()
        sender = self.sender()
        self.assertDone(self.pub("t", stdin=b"1\n2\n3\n"))
        for _ in range(3):
            self.assertEqual(target.stdout.readline(), b"signalled\n")
        for kill_first in (True, False):
            before = target
            if kill_first:
                before.kill()
                before.wait()
            target = self.target()
            self.assertDone(self.pub("t", "-n"))
            self.assertEqual(target.stdout.readline(), b"signalled\n")
            before.kill()
            self.assertEqual(before.stdout.read(), b"")
        sender.signal(signal.SIGTERM)
        result = sender.finish()
        self.assertEqual((result.code, result.out, result.err), (143, b"", ""))

    def test_a_number_that_was_given_out_again_is_not_signalled(self):
        target = self.target()
        old = time.time() - 3600
        os.utime(self.pidfile, (old, old))
        sender = self.sender("-C", "1")
        self.assertDone(self.pub("t", "-n"))
        self.assertFails(sender.finish(), 1, "it is another one")
        target.kill()
        self.assertEqual(target.stdout.read(), b"")

    def test_a_file_that_others_may_write_is_not_trusted(self):
        target = self.target()
        cases = [("others than its owner", 0o664, None), ("others than its owner", 0o646, None)]
        if os.geteuid() == 0:
            # Whoever may write it must not aim root's signals at a process that is not its own.
            cases.append(("it belongs to user 12345", 0o644, 12345))
        for text, mode, owner in cases:
            with self.subTest(text=text, mode=mode):
                os.chmod(self.pidfile, mode)
                if owner is not None:
                    os.chown(self.pidfile, owner, owner)
                self.not_trusted(text)
        target.kill()
        self.assertEqual(target.stdout.read(), b"")

    def not_trusted(self, text):
        sender = self.sender("-C", "1")
        self.assertDone(self.pub("t", "-n"))
        result = sender.finish()
        self.assertFails(result, 1, "is not trusted: ")
        self.assertIn(text, result.err)

    def refused(self, target, text):
        self.not_trusted(text)
        target.kill()
        self.assertEqual(target.stdout.read(), b"")

    def test_a_link_in_the_place_of_the_file_is_not_trusted(self):
        real = self.pidfile + ".real"
        for link, text in ((os.symlink, "it is a symbolic link"), (os.link, "has more names")):
            with self.subTest(text=text):
                target = self.target()
                os.rename(self.pidfile, real)
                link(real, self.pidfile)
                self.refused(target, text)
                os.unlink(self.pidfile)

    def test_a_directory_that_others_may_write_is_not_trusted(self):
        inner = os.path.join(self.directory, "inner")
        os.mkdir(inner)
        self.pidfile = os.path.join(inner, "service.pid")
        for place in (inner, self.directory):
            for mode, trusted in ((0o770, False), (0o702, False), (0o1777, True)):
                with self.subTest(place=place, mode=mode):
                    os.chmod(place, mode)
                    target = self.target()
                    if trusted:
                        sender = self.sender("-C", "1")
                        self.assertDone(self.pub("t", "-n"))
                        self.assertDone(sender.finish(), b"")
                        self.assertEqual(target.stdout.readline(), b"signalled\n")
                    else:
                        self.refused(target, "may write the directory")
            os.chmod(place, 0o700)

    @unittest.skipUnless(os.geteuid() == 0, "needs another user")
    def test_a_directory_of_the_service_holds_no_other_ones_file(self):
        real = os.path.join(self.directory, "real")
        service = os.path.join(self.directory, "service")
        os.mkdir(real)
        os.mkdir(service)
        os.chown(service, 12345, 12345)
        # A file of ours that it has come by, and a link that it has set, on the way to ours.
        self.pidfile = os.path.join(service, "service.pid")
        target = self.target()
        self.refused(target, "belongs to user 12345")
        self.pidfile = os.path.join(real, "service.pid")
        target = self.target()
        os.symlink(real, os.path.join(service, "link"))
        os.lchown(os.path.join(service, "link"), 12345, 12345)
        self.pidfile = os.path.join(service, "link", "service.pid")
        self.refused(target, "belongs to user 12345")
        target = self.target()
        os.chown(service, 0, 0)
        self.refused(target, "is a symbolic link of user 12345's")

    @unittest.skipUnless(os.geteuid() == 0, "needs another user")
    def test_a_service_that_owns_its_file(self):
        target = self.target(uid=12345)
        self.assertEqual(os.stat(self.pidfile).st_uid, 12345)
        sender = self.sender("-C", "1")
        self.assertDone(self.pub("t", "-n"))
        self.assertDone(sender.finish(), b"")
        self.assertEqual(target.stdout.readline(), b"signalled\n")

    def test_each_real_time_signal_arrives_however_slowly_they_are_taken(self):
        limit = 16
        # What is pending is counted by user: one of its own, if that can be had.
        target = self.target(limit, 23456 if os.geteuid() == 0 else 0)
        os.kill(target.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, target.pid, os.WSTOPPED)
        sender = self.sender("-C", "100")
        self.assertDone(self.pub("t", stdin=b"x\n" * 100))
        deadline = time.monotonic() + LONG
        while self.pending(target.pid) < limit:
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)
        os.kill(target.pid, signal.SIGCONT)
        for _ in range(100):
            self.assertTrue(select.select([target.stdout], [], [], LONG)[0], "one is missing")
            self.assertEqual(target.stdout.readline(), b"signalled\n")
        self.assertDone(sender.finish(), b"")

    @staticmethod
    def pending(pid):
        """Signals that are queued with its user's processes."""
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            return int(file.read().split("SigQ:")[1].split("/")[0])

    def test_a_process_that_is_not_there_is_reported_and_the_rest_goes_on(self):
        ended = subprocess.Popen(["true"])
        ended.wait()
        for content, text in ((None, "No such file"), (b"", "it holds no process id"),
                              (b"word\n", "it holds no process id"),
                              (b"-1\n", "it holds no process id"),
                              (b"99999999999999999999\n", "it holds no process id"),
                              (b"12x\n", "it holds no process id"),
                              (b"%d\n" % ended.pid, "has ended")):
            with self.subTest(content=content):
                if content is not None:
                    with open(self.pidfile, "wb") as file:
                        file.write(content)
                sender = self.sender("-C", "1")
                self.assertDone(self.pub("t", "-n"))
                self.assertFails(sender.finish(), 1, text)
        sender = self.sender("-C", "500")
        self.assertDone(self.pub("t", stdin=b"x\n" * 500))
        result = sender.finish()
        self.assertEqual(result.code, 1)
        reports = result.err.splitlines()
        self.assertLess(len(reports), 50)  # one a second
        self.assertEqual(reports[-1], "ipcbus-cat: 500 signals could not be sent")
        sender = self.sender()
        self.assertDone(self.pub("t", "-n"))
        self.assertIn(b"cannot send RTMIN+1 for message 1: ", sender.process.stderr.readline())
        target = self.target()
        self.assertDone(self.pub("t", "-n"))
        self.assertEqual(target.stdout.readline(), b"signalled\n")


class SignalsTaken(Case):
    """ipcbus-pub --on-signal."""

    def test_the_signals_of_the_c_library_are_none(self):
        for number in range(1, signal.SIGRTMAX + 1):
            known = number in set(signal.Signals) or number >= signal.SIGRTMIN
            result = self.tool(PUB, "t", "--on-signal", str(number), "-W", "nonsense").finish()
            self.assertFails(result, 2, "nonsense" if known and number not in (9, 14, 19)
                             else "signal" if not known else "cannot be waited for")

    def publisher(self, number, *words):
        """One that may be signalled at once: it inherits the signal as blocked."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        try:
            return self.tool(PUB, "t", "--on-signal", *words)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])

    def test_a_message_each_time(self):
        self.start_daemon()
        reader = self.cat("-F", "%l:%p\n", "t")
        for number, words, line in ((signal.SIGUSR1, ("USR1", "-m", "ping"), b"4:ping\n"),
                                    (signal.SIGUSR2, ("sigusr2",), b"0:\n"),
                                    (signal.SIGRTMIN + 2, ("RTMIN+2", "-n"), b"0:\n"),
                                    (signal.SIGHUP, ("1", "-m", "hup"), b"3:hup\n")):
            tool = self.publisher(number, *words, "-C", "3")
            for _ in range(3):
                tool.signal(number)
                self.assertEqual(reader.process.stdout.readline(), line)
            self.assertDone(tool.finish(), b"")

    def test_queued_ones_are_all_published(self):
        self.start_daemon()
        reader = self.cat("-C", "50", "t")
        tool = self.publisher(signal.SIGRTMIN + 1, "RTMIN+1", "-m", "x", "-C", "50")
        for _ in range(50):
            tool.signal(signal.SIGRTMIN + 1)
        self.assertDone(tool.finish(), b"")
        self.assertDone(reader.finish(), b"x\n" * 50)

    def test_it_ends_as_told(self):
        self.start_daemon()
        reader = self.cat("t")
        tool = self.publisher(signal.SIGUSR1, "USR1")
        tool.signal(signal.SIGUSR1)
        self.assertEqual(reader.process.stdout.readline(), b"\n")
        tool.signal(signal.SIGTERM)
        self.assertEqual(tool.finish().code, 143)
        self.assertFails(self.publisher(signal.SIGUSR1, "USR1", "-W", "100ms").finish(), 124)
        before = self.publisher(signal.SIGUSR1, "USR1", "-C", "1", "--connect-timeout", "30s")
        before.signal(signal.SIGUSR1)
        self.assertDone(before.finish(), b"")


if __name__ == "__main__":
    sys.exit(run_tests())
