#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: publisher, subscriber and daemon of different users, in containers of their own that share
nothing but the one socket, and whose profile refuses io_uring to clients, work as on one host; what
is read-only stays so; who dies there is noticed; users are told apart.
Method: IPCBUS_TEST_CONTAINER makes the containers (see container.cpp); the daemon runs in one, or
on the host. Skipped where namespaces may not be made (not root; a container that forbids it).
"""

import array
import collections
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import termios
import time
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))

from tool_case import CAT, DAEMON, LONG, PUB, Case  # noqa: E402

CONTAINER = os.environ["IPCBUS_TEST_CONTAINER"]
CLIENT = os.environ["IPCBUS_TEST_CLIENT"]
BUILD = os.path.commonpath([CONTAINER, DAEMON, PUB])
DAEMON_UID, PUBLISHER_UID, SUBSCRIBER_UID, OTHER_UID = 61001, 61002, 61003, 61004
LINES = int(os.environ.get("IPCBUS_TEST_LINES", "200000"))
AT_REST = 4 + 3  # memfds of a daemon without clients: rings_ready, and the pages of the next client
SKIP = 77
FAILED = 125  # as container.cpp says it of itself
SO_PEERPIDFD = 77
# Asks from the inside: user, namespaces, root, other processes, io_uring.
PROBE = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
ring = libc.syscall(425, 1, None)
print(json.dumps({
    "uid": os.getuid(),
    "io_uring": ctypes.get_errno() if ring < 0 else 0,
    "namespaces": {name: os.readlink("/proc/self/ns/" + name)
                   for name in ("mnt", "pid", "ipc", "net")},
    "processes": sum(name.isdigit() for name in os.listdir("/proc")),
    "beside_the_socket": os.listdir(os.path.dirname(os.environ["IPCBUS_ADDRESS"][len("unix:"):])),
}))
"""


def container(*options):
    """The words that go before a command."""
    return [CONTAINER, "--show", BUILD, *options, "--"]


def refused(*options):
    """Why no such container can be made here; "": it can."""
    done = subprocess.run([*container(*options), "/bin/true"], check=False, capture_output=True,
                          text=True)
    if done.returncode not in (SKIP, FAILED):
        return ""
    return done.stderr.strip() or f"exit {done.returncode}"


def needs_user_namespaces(test):
    """Skips where containers can be made, but none with users of their own."""
    @functools.wraps(test)
    def checked(self):
        reason = refused("--uid", "1000", "--map", "1000000")
        if reason:
            self.skipTest(f"no user namespace can be made here ({reason})")
        test(self)
    return checked


def numbers(count):
    return b"".join(b"%d\n" % i for i in range(1, count + 1))


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def descriptors_of(pid):
    """How many of each kind: "socket", "pidfd", "memfd:ipcbus-ring" and so on."""
    kinds = collections.Counter()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            link = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue  # closed meanwhile
        found = re.search(r"^socket|pidfd|memfd:[\w-]+", link)
        kinds[found[0] if found else link] += 1
    return kinds


def has_peer_pidfd():
    one, other = socket.socketpair()
    with one, other:
        try:
            os.close(one.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))
            return True
        except OSError:
            return False


class Containers(Case):
    def setUp(self):
        super().setUp()
        self.socket_path = self.address[len("unix:"):]
        os.chmod(self.directory, 0o711)
        os.chown(self.directory, DAEMON_UID, DAEMON_UID)

    def serve(self, config="", isolated=True):
        """Starts the daemon; self.daemon_pid is its number on the host."""
        path = os.path.join(self.directory, "ipcbusd.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(config)
        command = [DAEMON, "-c", path, "--listen", self.address]
        if isolated:
            command = container("--uid", str(DAEMON_UID), "--keep", self.directory) + command
        else:
            command = ["setpriv", f"--reuid={DAEMON_UID}", f"--regid={DAEMON_UID}",
                       "--clear-groups", *command]
        # Its log into a file: nobody reads a pipe of it meanwhile.
        with open(os.path.join(self.directory, "log"), "wb") as log:
            self.daemon = subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL,
                                           stdout=log, stderr=log)
        self.addCleanup(self.daemon.wait)
        self.addCleanup(self.daemon.kill)
        result = self.pub("-t", "ready", "-n", "--connect-timeout", f"{LONG}s")
        self.assertEqual(result.code, 0, result)
        self.daemon_pid = self.inside(self.daemon.pid) if isolated else self.daemon.pid

    def inside(self, pid):
        """The command of that container."""
        return children_of(children_of(pid)[0])[0]

    def user(self, uid, *command, options=(), **more):
        """A command in a container of that user's that sees nothing of ours but the socket."""
        words = container("--uid", str(uid), "--no-io-uring", "--show", self.socket_path, *options)
        return self.tool(*words, *command, **more)

    def collector(self, count, topic, options=()):
        """A reader of so many messages and the file that they go to: unlike a pipe, never full."""
        path = os.path.join(self.directory, "received")
        with open(path, "wb") as file:
            reader = self.user(SUBSCRIBER_UID, CAT, "-C", str(count), topic, ready=True,
                               stdout=file, options=options)
        return reader, path

    def assertCollected(self, collector, data):
        reader, path = collector
        result = reader.finish()
        self.assertEqual((result.code, result.err), (0, ""))
        with open(path, "rb") as file:
            received = hashlib.file_digest(file, "sha256").hexdigest()
        self.assertEqual(received, hashlib.sha256(data).hexdigest())

    def assertStream(self, publisher_options=(), subscriber_options=()):
        data = numbers(LINES)
        collector = self.collector(LINES, "stream", subscriber_options)
        writer = self.user(PUBLISHER_UID, PUB, "stream", "--wait-subs", "1", "--max-block",
                           f"{LONG}s", stdin=subprocess.PIPE, options=publisher_options)
        self.assertDone(writer.finish(stdin=data))
        self.assertCollected(collector, data)

    def assertAtRest(self):
        """The daemon has let go of all clients, and has made ready what it keeps for the next."""
        deadline = time.monotonic() + LONG
        while True:
            kinds = descriptors_of(self.daemon_pid)
            if (kinds["socket"], kinds["pidfd"]) == (1, 0) and \
                    sum(count for kind, count in kinds.items() if "memfd" in kind) == AT_REST:
                return
            if time.monotonic() > deadline:
                self.fail(f"this is left: {kinds}")

    def test_the_containers_are_what_they_claim(self):
        self.serve()
        seen = json.loads(self.user(SUBSCRIBER_UID, "/usr/bin/python3", "-c", PROBE).finish().out)
        self.assertEqual(seen["uid"], SUBSCRIBER_UID)
        self.assertEqual(os.strerror(seen["io_uring"]), "Operation not permitted")
        self.assertEqual(seen["beside_the_socket"], ["bus.sock"])
        self.assertEqual(seen["processes"], 2)
        for name, there in seen["namespaces"].items():
            self.assertNotEqual(there, os.readlink("/proc/self/ns/" + name))
            self.assertNotEqual(there, os.readlink(f"/proc/{self.daemon_pid}/ns/{name}"))

    def test_three_users_in_three_containers(self):
        self.serve()
        self.assertStream()

    def test_clients_in_containers_daemon_on_the_host(self):
        self.serve(isolated=False)
        self.assertStream()

    @needs_user_namespaces
    def test_clients_in_user_namespaces(self):
        self.serve()
        self.assertStream(("--map", "1000000"), ("--map", "2000000"))

    def test_daemon_ends_well_in_its_container(self):
        self.serve()
        os.kill(self.daemon_pid, signal.SIGTERM)
        self.assertEqual(self.daemon.wait(LONG), 0)
        self.assertFalse(os.path.exists(self.socket_path))

    def test_daemon_without_io_uring_says_so(self):
        words = container("--uid", str(DAEMON_UID), "--no-io-uring", "--keep", self.directory)
        result = self.tool(*words, DAEMON, "--listen", self.address).finish()
        self.assertEqual(result.code, 1, result)
        self.assertRegex(result.err, r"io_uring")
        self.assertEqual(result.err.count("\n"), 1, result)

    # ------------------------------------------------------------------------------ attacks

    def attack(self, case, uid, topic):
        self.environment.update(IPCBUS_TEST_ADDRESS=self.address, IPCBUS_TEST_TOPIC=topic)
        result = self.user(uid, CLIENT, "--test-case=" + case).finish()
        self.assertEqual(result.code, 0, result.out.decode() + result.err)
        self.assertIn(b"1 passed", result.out)

    def test_read_only_stays_read_only(self):
        """Whoever attacks: a stranger, somebody with the publisher's uid, with the daemon's."""
        self.serve()
        data = numbers(LINES // 10)
        collector = self.collector(LINES // 10, "honest")
        other_reader = self.user(SUBSCRIBER_UID, CAT, "lure", ready=True)
        writer = self.user(PUBLISHER_UID, PUB, "honest", stdin=subprocess.PIPE)
        begun = self.user(SUBSCRIBER_UID, CAT, "-C", "1", "honest", ready=True)
        half = data.index(b"\n", len(data) // 2) + 1
        writer.process.stdin.write(data[:half])
        writer.process.stdin.flush()
        self.assertEqual(begun.finish().code, 0)  # it is advertised, and sends
        self.settle(writer)
        for uid in OTHER_UID, PUBLISHER_UID, DAEMON_UID:
            with self.subTest(uid=uid):
                self.attack("attack as reader", uid, "honest")
                self.attack("attack as publisher", uid, "lure")
                self.attack("attack mappings", uid, "honest")
        self.assertDone(writer.finish(stdin=data[half:]))
        self.assertCollected(collector, data)
        self.assertIsNone(other_reader.process.poll())

    def settle(self, tool):
        """Waits until that tool has read its stdin, and sleeps."""
        pid = self.inside(tool.process.pid)
        deadline = time.monotonic() + LONG
        while time.monotonic() < deadline:
            with open(f"/proc/{pid}/wchan", encoding="ascii") as file:
                where = file.read()
            if "pipe_read" in where or (where == "0" and self.has_read_all(pid, tool)):
                return
        self.fail("it does not wait for its stdin")

    def has_read_all(self, pid, tool):
        """The same as far as can be seen where the kernel does not say where somebody sleeps."""
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            state = file.read().rsplit(") ", 1)[1][0]
        left = array.array("i", [0])
        fcntl.ioctl(tool.process.stdin, termios.FIONREAD, left)
        return state == "S" and left[0] == 0

    # -------------------------------------------------------------------------------- deaths

    def test_a_killed_container_is_reaped(self):
        """A stopped reader holds its publisher back; its container is killed: the publisher goes
        on, long before the stall timeout, and the daemon has forgotten it."""
        self.serve('[publications]\nstall_timeout = "600s"\n')
        collector = self.collector(LINES, "t")
        stopped = self.user(OTHER_UID, CAT, "t", ready=True, stdout=subprocess.DEVNULL)
        os.kill(self.inside(stopped.process.pid), signal.SIGSTOP)
        data = numbers(LINES)
        with open(os.path.join(self.directory, "sent"), "w+b") as file:
            file.write(data)
            file.seek(0)
            writer = self.user(PUBLISHER_UID, PUB, "t", "--ring-size", "64KiB", "--wait-subs", "2",
                               "--max-block", f"{10 * LONG}s", stdin=file)
        with self.assertRaises(subprocess.TimeoutExpired):
            writer.process.wait(1)  # it is held back
        stopped.process.kill()
        self.assertDone(writer.finish())
        self.assertCollected(collector, data)
        self.assertAtRest()

    def test_a_killed_publisher_container_is_reaped(self):
        self.serve()
        reader = self.user(SUBSCRIBER_UID, CAT, "-C", "2", "t", ready=True)
        writer = self.user(PUBLISHER_UID, PUB, "t", stdin=subprocess.PIPE)
        first = self.user(OTHER_UID, CAT, "-C", "1", "t", ready=True)
        writer.process.stdin.write(b"before it died\n")
        writer.process.stdin.flush()
        self.assertEqual(first.finish().out, b"before it died\n")
        writer.process.kill()
        self.assertDone(self.user(PUBLISHER_UID, PUB, "t", "-m", "anew").finish())
        self.assertDone(reader.finish(), b"before it died\nanew\n")
        self.assertAtRest()

    def check_forked(self):
        self.environment.update(IPCBUS_TEST_ADDRESS=self.address, IPCBUS_TEST_TOPIC="t")
        client = self.user(SUBSCRIBER_UID, CLIENT, "--test-case=parent")
        self.assertIn(b"ready\n", iter(client.process.stdout.readline, b""))
        self.assertGreaterEqual(descriptors_of(self.daemon_pid)["socket"], 2)
        first = children_of(client.process.pid)[0]
        parent = children_of(first)[0]
        child = children_of(parent)[0]
        os.kill(parent, signal.SIGKILL)
        self.assertAtRest()
        self.assertIn(child, children_of(first))  # it lives, and with it the socket
        client.process.kill()

    def test_a_killed_parent_is_reaped_daemon_on_the_host(self):
        self.serve(isolated=False)
        self.check_forked()

    @unittest.skipUnless(has_peer_pidfd(), "a kernel without SO_PEERPIDFD: who is in another pid "
                         "namespace than the daemon is watched by the socket alone")
    def test_a_killed_parent_is_reaped_daemon_in_a_container(self):
        self.serve()
        self.check_forked()

    # --------------------------------------------------------------------------------- users

    def check_told_apart(self, first, second):
        """Two publications for a uid: the third is refused to the first user, not to the second."""
        self.serve("[limits.per_uid]\npublications = 2\n")
        reader = self.user(SUBSCRIBER_UID, CAT, "-C", "3", "q/#", ready=True)
        for topic, (uid, options) in ("q/1", first), ("q/2", first), ("q/3", second):
            with self.subTest(topic=topic):
                holder = self.user(uid, PUB, topic, options=options, stdin=subprocess.PIPE)
                seen = self.user(SUBSCRIBER_UID, CAT, "-C", "1", topic, ready=True)
                holder.process.stdin.write(b"here\n")
                holder.process.stdin.flush()
                self.assertEqual(seen.finish().out, b"here\n")
        result = self.user(first[0], PUB, "q/4", "-n", options=first[1]).finish()
        self.assertNotEqual(result.code, 0)
        self.assertIn("limits.per_uid.publications", result.err)
        self.assertEqual(reader.finish().out, b"here\n" * 3)

    def test_users_of_two_containers_are_two(self):
        self.check_told_apart((PUBLISHER_UID, ()), (OTHER_UID, ()))

    @needs_user_namespaces
    def test_one_uid_in_two_user_namespaces_is_two_users(self):
        self.check_told_apart((1000, ("--map", "1000000")), (1000, ("--map", "2000000")))


def main():
    reason = refused("--uid", str(OTHER_UID)) if os.geteuid() == 0 else "not root"
    if reason:
        print(f"skipped: no containers can be made here ({reason})")
        return SKIP
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules[__name__])
    if len(sys.argv) > 1:
        suite = unittest.defaultTestLoader.loadTestsFromNames(sys.argv[1:],
                                                              sys.modules[__name__])
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    failed = len({test.id().split(" ")[0] for test, _ in result.failures + result.errors})
    print(f"{result.testsRun - failed - len(result.skipped)} passed, {failed} failed")
    return 0 if failed == 0 and result.testsRun > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
