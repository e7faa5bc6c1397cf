#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: the installed service does under a real systemd what its units and ipcbusd(8) say.
Method: `meson install` into an overlay of this system's root, which is then booted by
systemd-nspawn, with no network and nothing but the test's own target; there this same file runs as
a service (--inside), and its exit status is the container's. Nothing of it touches this system: the
overlay is in memory, and all mounts are in a mount namespace of their own.
Usage: systemd_test.py MESON BUILD_DIRECTORY BINDIR. Skipped where there is no systemd-nspawn, not
root, or where a container may not be booted.
"""

import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import unittest

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve()
SUPPORT = HERE.parent.parent / "support"  # also in the container
sys.path.insert(0, str(SUPPORT))

import boot_container  # noqa: E402

# ------------------------------------------------------------------------------- on the outside


def outside(meson, build, bindir, *names):
    boot_container.enter_namespaces()
    inside = pathlib.Path(boot_container.INSIDE)

    def fill(root):
        """Installs the service as a package would, and the test."""
        call = boot_container.call
        call(meson, "install", "-C", build, "--no-rebuild", "--quiet", "--destdir", root)
        call("ldconfig", "-r", root)
        call("systemd-sysusers", f"--root={root}")
        call("systemctl", f"--root={root}", "enable", "ipcbusd.socket")
        for file in (HERE, SUPPORT / "tool_case.py", SUPPORT / "boot_container.py"):
            folder = root / (inside / file.parent.name).relative_to("/")
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder)

    return boot_container.boot(
        "/", fill, ["/usr/bin/python3", str(inside / "system" / HERE.name), "--inside", *names],
        [f"PATH={bindir}:/usr/sbin:/usr/bin:/sbin:/bin", f"IPCBUS_TEST_DAEMON={bindir}/ipcbusd",
         f"IPCBUS_TEST_PUB={bindir}/ipcbus-pub", f"IPCBUS_TEST_CAT={bindir}/ipcbus-cat"])


if "--inside" not in sys.argv:
    sys.exit(outside(*sys.argv[1:]))

# -------------------------------------------------------------------------------- in the container

from tool_case import CAT, LONG, PUB, Case  # noqa: E402

UNIT = "ipcbusd.service"
SOCKET = "ipcbusd.socket"
ERROR, WARNING = 3, 4  # of syslog(3)


def systemctl(*words):
    return subprocess.run(["systemctl", *words], check=True, capture_output=True, text=True).stdout


def shown(name, unit=UNIT):
    return systemctl("show", "-P", name, unit).strip()


def journal():
    """What the service has logged, as dictionaries. (--after-cursor= of systemd 252 leaves out the
    first line that a filter lets through.)"""
    subprocess.run(["journalctl", "--sync"], check=True)
    lines = subprocess.run(["journalctl", "-u", UNIT, "-o", "json"], check=True,
                           capture_output=True, text=True).stdout
    return [json.loads(line) for line in lines.splitlines()]


class Service(Case):
    def setUp(self):
        super().setUp()
        del self.environment["IPCBUS_ADDRESS"]  # the bus of the system
        systemctl("stop", UNIT, SOCKET)
        systemctl("reset-failed")
        systemctl("start", SOCKET)
        self.socket_path = re.match(r"(\S+) \(Stream\)", shown("Listen", SOCKET))[1]
        self.config = re.search(r"-c (\S+)", shown("ExecStart"))[1]
        with open(self.config, encoding="utf-8") as file:
            self.addCleanup(self.write_config, file.read())
        self.logged = len(journal())

    def write_config(self, text):
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(text)

    def messages(self, priority=7):
        """Of this test, and at least so grave."""
        return [line["MESSAGE"] for line in journal()[self.logged:]
                if int(line["PRIORITY"]) <= priority]

    def drop_in(self, text):
        folder = f"/run/systemd/system/{UNIT}.d"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/test.conf", "w", encoding="utf-8") as file:
            file.write("[Service]\n" + text)
        systemctl("daemon-reload")
        self.addCleanup(systemctl, "daemon-reload")
        self.addCleanup(shutil.rmtree, folder)

    def stream(self):
        """A publisher that we write to, and a reader of it, both with what has arrived."""
        reader = self.cat("stream", ready=True)
        writer = self.tool(PUB, "stream", "--wait-subs", "1", stdin=subprocess.PIPE)
        return writer, reader

    def send(self, writer, reader, text):
        writer.process.stdin.write(text + b"\n")
        writer.process.stdin.flush()
        self.assertEqual(reader.process.stdout.readline(), text + b"\n")

    def wait_until(self, name, value):
        deadline = time.monotonic() + LONG
        while shown(name) != value:
            self.assertLess(time.monotonic(), deadline, f"{name} is {shown(name)}, never {value}")

    def wait_for_change(self, name):
        deadline = time.monotonic() + LONG
        before = shown(name)
        while shown(name) == before:
            self.assertLess(time.monotonic(), deadline, f"{name} stays {before}")

    # ---------------------------------------------------------------------------------- start

    def test_clients_that_come_first_wait(self):
        self.assertEqual(shown("ActiveState"), "inactive")
        readers = [self.tool(CAT, "-C", "3", "t/#") for _ in range(4)]
        writers = [self.tool(PUB, f"t/{i}", "-m", str(i), "--wait-subs", "4") for i in range(3)]
        for writer in writers:
            self.assertDone(writer.finish())
        for reader in readers:
            result = reader.finish()
            self.assertDone(result)
            self.assertEqual(sorted(result.out.split()), [b"0", b"1", b"2"])
        self.assertEqual((shown("ActiveState"), shown("NRestarts")), ("active", "0"))

    def test_ready_when_started(self):
        systemctl("start", UNIT)
        self.assertEqual((shown("SubState"), shown("StatusText")), ("running", "serving"))
        self.assertIn(f"listening on unix:{self.socket_path}", self.messages())
        with open(f"/proc/{shown('MainPID')}/status", encoding="ascii") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        user = subprocess.run(["id", "-u", "ipcbus"], check=True, capture_output=True, text=True)
        self.assertEqual(status["Uid"].split()[1], user.stdout.strip())
        self.assertEqual((status["CapEff"], status["NoNewPrivs"], status["Seccomp"]),
                         ("0" * 16, "1", "2"))

    def test_any_user_may_publish(self):
        reader = self.cat("-C", "1", "t", ready=True)
        words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", PUB, "t", "-m", "x"]
        self.assertDone(self.tool(*words).finish())
        self.assertDone(reader.finish(), b"x\n")

    def test_boot_begins_with_the_socket(self):
        for unit in "sockets.target", SOCKET:
            self.assertEqual(systemctl("is-active", unit), "active\n")
        self.assertIn("sockets.target", shown("Before", SOCKET).split())
        self.assertIn(SOCKET, shown("After").split())

    def test_exposure(self):
        done = subprocess.run(["systemd-analyze", "security", "--no-pager", "--threshold=15", UNIT],
                              check=False, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout)
        print(done.stdout.splitlines()[-1])

    # --------------------------------------------------------------------------------- reload

    def test_good_reload(self):
        writer, reader = self.stream()
        self.send(writer, reader, b"before")
        before = shown("MainPID")
        self.write_config('[publications]\nstall_timeout = "7s"\n[log]\nlevel = "debug"\n')
        systemctl("reload", UNIT)
        self.assertEqual(shown("StatusText"), "reloaded, 2 changes")
        self.assertIn("reload: publications.stall_timeout: 5s -> 7s (new objects only)",
                      self.messages())
        self.assertEqual((shown("MainPID"), shown("ActiveState")), (before, "active"))
        self.send(writer, reader, b"after")

    def check_refused(self, config, text):
        writer, reader = self.stream()
        self.send(writer, reader, b"before")
        before = shown("MainPID")
        self.write_config(config)
        systemctl("reload", UNIT)
        self.assertIn("refused", shown("StatusText"))
        self.assertIn(text, shown("StatusText"))
        self.assertIn(text, "\n".join(self.messages(ERROR)))
        self.assertEqual((shown("MainPID"), shown("ActiveState")), (before, "active"))
        self.send(writer, reader, b"after")
        self.assertDone(self.pub("another", "-n"))

    def test_reload_of_a_file_with_an_error(self):
        self.check_refused("[limits]\nclients = 77\nclienst = 5\n", f"{self.config}:3:1: ")

    def test_reload_that_needs_a_restart(self):
        self.check_refused('[limits]\nclients = 77\n[listen]\nmode = "0600"\n', "listen.mode")

    def test_start_with_a_bad_file(self):
        self.write_config("[limits]\nclients = 0\nnonsense = 1\n")
        done = subprocess.run(["systemctl", "start", UNIT], check=False, capture_output=True)
        self.assertNotEqual(done.returncode, 0)
        errors = "\n".join(self.messages(ERROR))
        self.assertIn(f"{self.config}:2:", errors)
        self.assertIn(f"{self.config}:3:", errors)

    # ------------------------------------------------------------------------- stop and restart

    def test_stop(self):
        systemctl("start", UNIT)
        systemctl("stop", UNIT)
        self.assertEqual((shown("Result"), shown("ExecMainStatus")), ("success", "0"))
        self.assertEqual(self.messages(WARNING), [])
        self.assertTrue(os.path.exists(self.socket_path))
        self.assertDone(self.pub("t", "-n"))  # starts it again
        self.assertEqual(shown("ActiveState"), "active")
        systemctl("stop", UNIT, SOCKET)
        self.assertFalse(os.path.exists(self.socket_path))

    def check_goes_on(self, *commands):
        """Readers and writers that were there go on, with each other and with new ones."""
        writer, reader = self.stream()
        self.send(writer, reader, b"before")
        for command in commands:
            command()
            self.send(writer, reader, b"at once")
            late = self.cat("-C", "1", "stream", ready=True)
            self.assertDone(self.pub("stream", "-m", "of another", "--wait-subs", "2"))
            self.assertDone(late.finish(), b"of another\n")
            self.assertEqual(reader.process.stdout.readline(), b"of another\n")
        writer.process.stdin.close()
        self.assertEqual(writer.process.wait(LONG), 0)

    def test_restart(self):
        # Longer than that it does not wait for a client that is busy elsewhere.
        self.write_config('[limits]\ndrain_timeout = "500ms"\n')
        before = os.stat(self.socket_path).st_ino
        self.check_goes_on(*[lambda: systemctl("restart", UNIT)] * 3)
        # A container into which this file is mounted finds the new daemon by it.
        self.assertEqual(os.stat(self.socket_path).st_ino, before)

    def test_killed(self):
        def kill():
            process = os.pidfd_open(int(shown("MainPID")))
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [])  # it accepts nothing any more
            os.close(process)

        self.check_goes_on(*[kill] * 3)
        self.assertEqual(shown("NRestarts"), "3")

    def test_watchdog(self):
        self.drop_in("WatchdogSec=2s\nTimeoutAbortSec=100ms\n")
        systemctl("start", UNIT)
        first = int(shown("MainPID"))

        def hang():
            os.kill(first, signal.SIGSTOP)
            self.wait_until("NRestarts", "1")

        self.check_goes_on(hang)
        self.assertNotEqual(int(shown("MainPID")), first)
        self.assertIn("watchdog", "\n".join(self.messages(WARNING)).lower())
        # The next one beats in time.
        for _ in range(3):
            self.wait_for_change("WatchdogTimestampMonotonic")
        self.assertEqual(shown("NRestarts"), "1")

    # -------------------------------------------------------------------------------- journal

    def test_priorities(self):
        systemctl("start", UNIT)
        self.write_config("nonsense = 1\n")
        systemctl("reload", UNIT)
        systemctl("stop", UNIT)
        own = [line for line in journal()[self.logged:] if line["_COMM"] == "ipcbusd"]
        levels = {line["MESSAGE"].split(" ")[0]: line["PRIORITY"] for line in own}
        self.assertEqual(levels["listening"], "6")
        self.assertEqual(levels["reload:"], "3")
        self.assertEqual(levels["ended"], "6")
        for line in own:
            self.assertNotRegex(line["MESSAGE"], r"^\d{4}-|^<\d>")  # the journal knows the time
            self.assertEqual(line["SYSLOG_IDENTIFIER"], "ipcbusd")


def main():
    names = sys.argv[sys.argv.index("--inside") + 1:]
    loader = unittest.defaultTestLoader
    module = sys.modules[__name__]
    suite = (loader.loadTestsFromNames(names, module) if names
             else loader.loadTestsFromModule(module))
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    failed = len({test.id().split(" ")[0] for test, _ in result.failures + result.errors})
    print(f"{result.testsRun - failed - len(result.skipped)} passed, {failed} failed")
    return 0 if failed == 0 and result.testsRun > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
