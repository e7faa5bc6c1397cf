#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Goal: between two hosts on a bad line, 50 ms long, of 10 Mbit/s, that loses a packet in a hundred
and whose cable is pulled out and put back: nothing is lost that was said to be sent; who loses the
connection comes back by himself and is told exactly how many messages he missed; and clients of the
bus's own host notice nothing of it.
Method: two network namespaces, and a third one between them, in which this program is the line: it
carries each packet from one to the other, late, or not at all (AF_PACKET). The daemon is in one,
with the tools of its host; the other's tools reach it by TCP, and by TLS. Skipped where namespaces
may not be made.
"""

import collections
import ctypes
import fcntl
import json
import os
import pathlib
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))

from tool_case import CAT, DAEMON, LONG, PUB, Case, run_tests  # noqa: E402

DELAY_S, LOSS, BITS_PER_S = 0.05, 0.01, 10_000_000
QUEUE_S = 0.1            # what waits at the line's end: more than that is dropped
DEAD_S = 2               # as the daemon is configured
NEAR, FAR, PORT = "10.77.0.1", "10.77.0.2", 4222

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17
ETH_P_ALL, PACKET_OUTGOING = 3, 4


def checked(result):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Namespace:
    """A network namespace, which ends with what holds its descriptor."""

    def __init__(self):
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            checked(LIBC.unshare(CLONE_NEWNET))
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            checked(LIBC.setns(own, CLONE_NEWNET))
        finally:
            os.close(own)
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"

    def words(self, *words):
        """That command, in there."""
        return ["nsenter", f"--net={self.path}", "--", *words]

    def ip(self, text):
        subprocess.run(self.words("ip", *text.split()), check=True)

    def socket(self, *arguments):
        """One that belongs there; used by whoever has it."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            checked(LIBC.setns(self.fd, CLONE_NEWNET))
            made = socket.socket(*arguments)
            checked(LIBC.setns(own, CLONE_NEWNET))
            return made
        finally:
            os.close(own)

    def segment_here(self, device):
        """Packets leave as a cable has them: of its size, with their checksums."""
        value = ctypes.create_string_buffer(struct.pack("II", ETHTOOL_STXCSUM, 0))
        request = struct.pack("16sQ16x", device.encode(), ctypes.addressof(value))
        with self.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, SIOCETHTOOL, request)

    def close(self):
        os.close(self.fd)


class Line:
    """The cable between two devices of a namespace, and the thread that is its packets' way."""

    def __init__(self, namespace, devices):
        self.sockets = []
        for device in devices:
            end = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            end.bind((device, ETH_P_ALL))
            end.setblocking(False)
            self.sockets.append(end)
        self.whole = True
        self.carried = self.dropped = 0
        self.dice = random.Random(1)
        self.on_the_way = [collections.deque(), collections.deque()]  # (when it is there, packet)
        self.free_at = [0.0, 0.0]
        self.end_read, self.end_write = os.pipe()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def close(self):
        os.close(self.end_write)
        self.thread.join()
        os.close(self.end_read)
        for end in self.sockets:
            end.close()

    def run(self):
        poll = select.poll()
        poll.register(self.end_read, select.POLLIN)
        for end in self.sockets:
            poll.register(end, select.POLLIN)
        while True:
            due = min((queue[0][0] for queue in self.on_the_way if queue), default=None)
            wait_ms = None if due is None else max(0, (due - time.monotonic()) * 1000)
            ready = [fd for fd, _ in poll.poll(wait_ms)]
            if self.end_read in ready:
                return
            for side, end in enumerate(self.sockets):
                if end.fileno() in ready:
                    self.take(side)
            for side, end in enumerate(self.sockets):
                self.deliver(side, end)

    def take(self, side):
        while True:
            try:
                packet, where = self.sockets[side].recvfrom(65536)
            except OSError:  # nothing more, or the device was down for a moment
                return
            if where[2] == PACKET_OUTGOING:
                continue
            now = time.monotonic()
            begins = max(now, self.free_at[side])
            if not self.whole or begins - now > QUEUE_S or self.dice.random() < LOSS:
                self.dropped += 1
                continue
            self.free_at[side] = begins + len(packet) * 8 / BITS_PER_S
            self.on_the_way[1 - side].append((self.free_at[side] + DELAY_S, packet))

    def deliver(self, side, end):
        queue = self.on_the_way[side]
        while queue and queue[0][0] <= time.monotonic():
            _, packet = queue.popleft()
            try:
                end.send(packet)
                self.carried += 1
            except OSError:  # no room
                self.dropped += 1


def refused():
    """Why there can be no such network here; "": there can."""
    if os.geteuid() != 0:
        return "not root"
    try:
        place = Namespace()
    except OSError as error:
        return f"no network namespace can be made here: {error.strerror}"
    try:
        words = place.words(*"ip link add name one type veth peer name other".split())
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            return done.stderr.strip()
        place.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except OSError as error:
        return str(error)
    finally:
        place.close()
    return ""


def lines(name, count):
    """Distinct, a hundred bytes each."""
    return b"".join(b"%s %-90d\n" % (name, i) for i in range(1, count + 1))


class Output:
    """Lines of a tool that goes on, as they come; its own thread."""

    def __init__(self, stream):
        self.lines = []
        self.changed = threading.Condition()
        self.ended = False
        self.thread = threading.Thread(target=self.run, args=(stream,), daemon=True)
        self.thread.start()

    def run(self, stream):
        for line in stream:
            with self.changed:
                self.lines.append(line)
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def wait(self, condition, timeout=LONG):
        """Until that is true of the lines; whether it is."""
        with self.changed:
            self.changed.wait_for(lambda: condition(self.lines) or self.ended, timeout)
            return condition(self.lines)

    def messages(self):
        with self.changed:
            return [json.loads(line) for line in self.lines]


@unittest.skipIf(refused(), refused())
class Network(Case):
    def setUp(self):
        super().setUp()
        self.near, self.far, between = Namespace(), Namespace(), Namespace()
        for place in (self.near, self.far, between):
            self.addCleanup(place.close)
            place.ip("link set lo up")
        for place, device, address, peer in ((self.near, "near", NEAR, "to-near"),
                                             (self.far, "far", FAR, "to-far")):
            between.ip(f"link add name {peer} type veth peer name {device} netns {place.path}")
            between.ip(f"link set {peer} up")
            place.segment_here(device)
            place.ip(f"address add {address}/24 dev {device}")
            place.ip(f"link set {device} up")
        self.line = Line(between, ("to-near", "to-far"))
        self.addCleanup(self.line.close)

    def serve(self, tls=False):
        here = self.directory
        listen = f'listen = ["{NEAR}:{PORT}"]\ninsecure = true\n'
        self.far_environment = dict(self.environment, IPCBUS_ADDRESS=f"tcp:{NEAR}:{PORT}")
        if tls:
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                 "ec_paramgen_curve:P-256", "-noenc", "-days", "2", "-subj", "/CN=near",
                 "-addext", f"subjectAltName=IP:{NEAR}", "-keyout", f"{here}/key.pem",
                 "-out", f"{here}/cert.pem"], check=True, stderr=subprocess.DEVNULL)
            listen = (f'listen_tls = ["{NEAR}:{PORT}"]\ncertificate = "{here}/cert.pem"\n'
                      f'key = "{here}/key.pem"\n')
            self.far_environment.update(IPCBUS_ADDRESS=f"tls:{NEAR}:{PORT}",
                                        IPCBUS_CA_FILE=f"{here}/cert.pem")
        with open(f"{here}/ipcbusd.toml", "w", encoding="utf-8") as file:
            file.write(f'[tcp]\n{listen}dead_peer_timeout = "{DEAD_S}s"\n')
        self.log_path = f"{here}/log"
        with open(self.log_path, "wb") as log:
            daemon = subprocess.Popen(
                self.near.words(DAEMON, "-c", f"{here}/ipcbusd.toml", "--listen", self.address),
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.addCleanup(daemon.wait)
        self.addCleanup(daemon.kill)
        ready = self.pub("-t", "ready", "-n", "--connect-timeout", f"{LONG}s")
        self.assertEqual(ready.code, 0, (ready, self.log()))

    def log(self):
        with open(self.log_path, encoding="utf-8") as log:
            return log.read()

    def there(self, *words, **options):
        """A tool on the other host."""
        own, self.environment = self.environment, self.far_environment
        try:
            return self.tool(*self.far.words(*words), **options)
        finally:
            self.environment = own

    def pull(self, seconds):
        self.line.whole = False
        time.sleep(seconds)  # so long is the cable out
        self.line.whole = True

    def both_ways(self, count):
        """Each host publishes to the other; the cable is out for a moment, and nobody has to
        connect anew: nothing is lost."""
        there, here = lines(b"there", count), lines(b"here", count)
        cats = [self.cat("up", "--strict", "--no-reconnect", "-C", str(count)),
                self.there(CAT, "down", "--strict", "--no-reconnect", "-C", str(count),
                           ready=True),
                self.cat("down", "--strict", "--no-reconnect", "-C", str(count))]
        heard = [Output(cat.process.stdout) for cat in cats]
        pubs = [self.there(PUB, "up", "--no-reconnect", stdin=subprocess.PIPE),
                self.tool(PUB, "down", "--wait-subs", "2", "--no-reconnect",
                          stdin=subprocess.PIPE)]
        feeders = [threading.Thread(target=lambda pub=pub, text=text: (
            pub.process.stdin.write(text), pub.process.stdin.close()))
            for pub, text in zip(pubs, (there, here))]
        for feeder in feeders:
            feeder.start()
        some = count // 4
        for output in heard[:2]:  # in the middle of it
            self.assertTrue(output.wait(lambda got: len(got) >= some), len(output.lines))
        self.pull(DEAD_S / 4)
        for output, text in zip(heard, (there, here, here)):
            self.assertTrue(output.wait(lambda got: len(got) >= count), len(output.lines))
            self.assertEqual(b"".join(output.lines), text)
        for feeder in feeders:
            feeder.join()
        for tool in pubs + cats:
            self.assertEqual(tool.process.wait(LONG), 0, tool.process.stderr.read())
        # The line was what it is said to be.
        self.assertGreater(self.line.carried, 500)
        self.assertGreater(self.line.dropped, 10)

    def test_all_of_it_arrives(self):
        self.serve()
        self.both_ways(8000)

    def test_all_of_it_arrives_over_tls(self):
        self.serve(tls=True)
        self.both_ways(3000)

    def test_who_was_told_that_it_is_sent_may_believe_it(self):
        """ipcbus-pub ends with 0 once the daemon has everything: cut then, nothing is missing."""
        self.serve()
        cat = self.cat("done", "--strict")
        heard = Output(cat.process.stdout)
        text = lines(b"done", 2000)
        pub = self.there(PUB, "done", stdin=subprocess.PIPE)
        result = pub.finish(stdin=text)
        self.line.whole = False
        self.assertDone(result, b"")
        self.assertTrue(heard.wait(lambda got: len(got) == 2000, 1), len(heard.lines))
        self.assertEqual(b"".join(heard.lines), text)

    def account(self, messages, last):
        """In order, each once, and what is missing is what was told as lost."""
        expected = 1
        for message in messages:
            self.assertEqual(message["sequence"], expected + message["lost"] - self.lost,
                             (message, expected, self.lost))
            self.lost = message["lost"]
            expected = message["sequence"] + 1
            self.assertEqual(message["payload"], str(message["sequence"]))
        self.assertEqual(expected, last + 1)
        self.assertEqual(len(messages) + self.lost, last)

    def test_the_cable_is_out_until_the_connection_is_dead(self):
        self.serve()
        far = self.there(CAT, "-j", "down", ready=True)
        near = self.cat("-j", "up", "down", "local")
        strict = self.cat("-j", "local", "--strict", "--no-reconnect")
        heard, here, local = (Output(tool.process.stdout) for tool in (far, near, strict))
        pubs = {"up": self.there(PUB, "up", stdin=subprocess.PIPE),
                "down": self.tool(PUB, "down", "--no-reconnect", stdin=subprocess.PIPE),
                "local": self.tool(PUB, "local", "--no-reconnect", stdin=subprocess.PIPE)}
        sent = 0

        def publish():
            nonlocal sent
            sent += 1
            for pub in pubs.values():
                pub.process.stdin.write(b"%d\n" % sent)
                pub.process.stdin.flush()

        def publish_until(condition):
            deadline = time.monotonic() + LONG
            while not condition():
                self.assertLess(time.monotonic(), deadline, self.log())
                publish()
                time.sleep(0.005)  # a pace, which is part of the test

        def of(output, topic):
            return [message for message in output.messages() if message["topic"] == topic]

        publish_until(lambda: sent >= 200)
        # What has been heard by both sides before is not counted as lost later.
        before = sent
        self.assertTrue(heard.wait(lambda got: len(got) >= before), len(heard.lines))
        self.assertTrue(here.wait(lambda _: len(of(here, "up")) >= before))
        self.line.whole = False
        # Each connection's end: as long as TCP has something to say, and asks in vain.
        publish_until(lambda: self.log().count("its connection has ended") >= 2)
        self.line.whole = True
        told, came = len(heard.lines), len(of(here, "up"))
        publish_until(lambda: len(heard.lines) > told + 50 and len(of(here, "up")) > came + 50
                      and json.loads(heard.lines[-1])["lost"] > 0)
        for pub in pubs.values():
            self.assertDone(pub.finish(stdin=b""), b"")
        last = b'"sequence":%d,' % sent
        for output, topics in ((heard, 1), (here, 3), (local, 1)):
            self.assertTrue(output.wait(lambda got: sum(last in line for line in got) == topics),
                            (topics, output.lines[-3:]))
        for output, topic, may_lose in ((heard, "down", True), (local, "local", False),
                                        (here, "down", False), (here, "local", False)):
            self.lost = 0
            messages = of(output, topic)
            if output is here:
                messages = [dict(message, lost=0) for message in messages]
            self.account(messages, sent)
            self.assertEqual(self.lost > 0, may_lose, (topic, self.lost))
        # The publisher over there: what was heard before the cut, no more lost than is told.
        up = of(here, "up")
        self.assertEqual([message["sequence"] for message in up[:before]],
                         list(range(1, before + 1)))
        sequences = [message["sequence"] for message in up]
        self.assertEqual(sequences, sorted(set(sequences)))
        self.assertEqual(here.messages()[-1]["lost"], sent - len(up))


if __name__ == "__main__":
    reason = refused()
    if reason:
        print(f"no network can be made here: {reason}")
        sys.exit(77)
    sys.exit(run_tests())
