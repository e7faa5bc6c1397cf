#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Large streams through the real tools, from a pipe into a ring and out of it in other processes:
every reader gets every line, in order, as sha256 says. With one reader and eight; with everybody
stopped and continued at random; with readers that come and go; as lines and as messages of 0 bytes
to 16 MiB. A seed (IPCBUS_TEST_SEED) gives the same sizes and the same pauses again.

IPCBUS_TEST_LINES (default 1000000) and IPCBUS_TEST_MIB (default 128) say how much; the suite "long"
runs 5,000,000 lines and 2 GiB.
"""

import hashlib
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from tool_case import CAT, PUB, Case  # noqa: E402

LINES = int(os.environ.get("IPCBUS_TEST_LINES", "1000000"))
BYTES = int(os.environ.get("IPCBUS_TEST_MIB", "128")) << 20
SEED = int(os.environ.get("IPCBUS_TEST_SEED", str(random.SystemRandom().randrange(1 << 32))))
PATIENCE = 600  # seconds; who needs them has failed


class Digest:
    """What a tool writes, read in a thread of its own: bytes and their sha256."""

    def __init__(self, tool):
        self.sha, self.bytes = hashlib.sha256(), 0
        self.thread = threading.Thread(target=self.run, args=(tool.process.stdout,))
        self.thread.start()

    def run(self, stream):
        while chunk := stream.read1(1 << 20):
            self.sha.update(chunk)
            self.bytes += len(chunk)

    def result(self):
        self.thread.join(PATIENCE)
        return self.bytes, self.sha.hexdigest()


def lines():
    for first in range(1, LINES + 1, 10_000):
        yield b"".join(b"%d\n" % i for i in range(first, min(first + 10_000, LINES + 1)))


def random_bytes(seed, count):
    """Incompressible, and without a limit on memory."""
    generator = random.Random(seed)
    while count > 0:
        chunk = generator.randbytes(min(count, 1 << 20))
        yield chunk
        count -= len(chunk)


class Streams(Case):
    def setUp(self):
        super().setUp()
        print(f"IPCBUS_TEST_SEED={SEED}", file=sys.stderr)
        self.random = random.Random(SEED)
        self.start_daemon()

    def read(self, *words, **options):
        reader = self.cat("-W", str(PATIENCE), *words, **options)
        return reader, Digest(reader)

    def write(self, chunks, *words):
        """Publishes what `chunks` yields; returns bytes and sha256 of it, and the tool."""
        sha, count = hashlib.sha256(), 0
        publisher = self.tool(PUB, *words, stdin=subprocess.PIPE)
        for chunk in chunks:
            publisher.process.stdin.write(chunk)
            sha.update(chunk)
            count += len(chunk)
        publisher.process.stdin.close()
        publisher.process.stdin = None
        return (count, sha.hexdigest()), publisher

    def run_lines(self, readers):
        out = [self.read("-C", str(LINES), "--strict", "t") for _ in range(readers)]
        sent, publisher = self.write(lines(), "-l", "t", "--wait-subs", str(readers))
        self.assertDone(publisher.finish(PATIENCE))
        for reader, digest in out:
            self.assertEqual(digest.result(), sent)
            self.assertEqual(reader.process.wait(PATIENCE), 0)

    def test_one_reader(self):
        self.run_lines(1)

    def test_eight_readers(self):
        self.run_lines(8)

    def test_everybody_stopped_and_continued_at_random(self):
        out = [self.read("-C", str(LINES), "--strict", "t") for _ in range(3)]
        publisher = self.tool(PUB, "-l", "t", "--wait-subs", "3", stdin=subprocess.PIPE)
        tools = [reader for reader, _ in out] + [publisher]
        over = threading.Event()

        def disturb():
            while not over.is_set():
                victim = self.random.choice(tools)
                pause = self.random.random() * 0.02
                try:
                    victim.process.send_signal(signal.SIGSTOP)
                    over.wait(pause)
                    victim.process.send_signal(signal.SIGCONT)
                except ProcessLookupError:
                    pass
                over.wait(self.random.random() * 0.02)

        disturber = threading.Thread(target=disturb)
        disturber.start()
        sha, count = hashlib.sha256(), 0
        try:
            for chunk in lines():
                publisher.process.stdin.write(chunk)
                sha.update(chunk)
                count += len(chunk)
            publisher.process.stdin.close()
            publisher.process.stdin = None
            results = [digest.result() for _, digest in out]
        finally:
            over.set()
            disturber.join()
            for tool in tools:
                tool.process.send_signal(signal.SIGCONT)
        for result in results:
            self.assertEqual(result, (count, sha.hexdigest()))
        self.assertDone(publisher.finish(PATIENCE))

    def test_readers_that_come_and_go(self):
        """One stays and gets all; the others get a stretch without a hole."""
        steady = self.read("-C", str(LINES), "--strict", "t")
        over = threading.Event()
        stretches, faults = [], []

        def visit():
            while not over.is_set():
                visitor = self.cat("-C", "5000", "--idle", "200ms", "--strict", "t")
                out = visitor.finish(PATIENCE)
                numbers = [int(line) for line in out.out.split()]
                if numbers != list(range(numbers[0], numbers[0] + len(numbers)) if numbers else []):
                    faults.append(numbers[:3])
                if out.code != 0:
                    faults.append(out)
                stretches.append(len(numbers))

        visitors = [threading.Thread(target=visit) for _ in range(2)]
        for visitor in visitors:
            visitor.start()
        sent, publisher = self.write(lines(), "-l", "t", "--wait-subs", "1")
        self.assertDone(publisher.finish(PATIENCE))
        self.assertEqual(steady[1].result(), sent)
        over.set()
        for visitor in visitors:
            visitor.join(PATIENCE)
        self.assertEqual(faults, [])
        self.assertGreater(len(stretches), 1)

    def test_a_large_file_as_lines(self):
        def text():
            for chunk in random_bytes(SEED, BYTES):
                # lines of 0 to a few hundred bytes; the last chunk ends in a newline, too
                yield chunk.replace(b"\0", b"\n")[:-1] + b"\n"

        reader = self.cat("--idle", "3s", "--strict", "t")
        digest = Digest(reader)
        sent, publisher = self.write(text(), "-l", "t", "--wait-subs", "1")
        self.assertDone(publisher.finish(PATIENCE))
        self.assertEqual(digest.result(), sent)

    def test_messages_of_0_bytes_to_16_mib(self):
        def frames():
            left = BYTES
            while left > 0:
                # all orders of size alike, so that small ones are many
                size = min(left, int(2 ** (self.random.random() * 24.0001)) - 1, 16 << 20)
                if self.random.random() < 0.002:
                    size = min(left, 16 << 20)
                payload = (self.random.randbytes(64) * (size // 64 + 1))[:size]
                yield struct.pack("<I", size) + payload
                left -= max(size, 1)

        reader = self.cat("--framed", "--idle", "5s", "--strict", "t")
        digest = Digest(reader)
        sent, publisher = self.write(frames(), "--framed", "t", "--ring-size", "64MiB",
                                     "--wait-subs", "1")
        self.assertDone(publisher.finish(PATIENCE))
        self.assertEqual(digest.result(), sent)


if __name__ == "__main__":
    unittest.main(verbosity=2)
