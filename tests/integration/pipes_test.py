#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The tools as ends of pipes, named and unnamed, of files and of sockets: whatever the bytes are,
they come out as they went in; a slow reader stalls the producer at the other end; a FIFO is
followed from writer to writer (--follow). Against a private ipcbusd each test (tool_case.py).
"""

import os
import select
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
sys.dont_write_bytecode = True
from tool_case import LONG, PUB, Case, run_tests  # noqa: E402

ALL_BYTES = bytes(range(256))


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Pipes(Case):
    """The tools as ends of pipes, named and unnamed, of files and of sockets."""

    def fifo(self, name):
        path = os.path.join(self.directory, name)
        os.mkfifo(path)
        return path

    def test_a_slow_reader_stalls_the_producer_and_loses_nothing(self):
        self.start_daemon("[publications]\nstall_timeout = \"10min\"\n")
        reader = self.cat("--framed", "t", "--strict", stdout=subprocess.PIPE)
        read_end, write_end = os.pipe()
        publisher = self.tool(PUB, "--framed", "--ring-size", "64KiB", "t", stdin=read_end)
        os.close(read_end)
        os.set_blocking(write_end, False)
        self.addCleanup(os.close, write_end)
        reader.stop()
        message = ALL_BYTES * 16
        framed = len(message).to_bytes(4, "little") + message
        stream = framed * 3000
        written = 0
        # What ring, pipe and the tool's buffer hold, and no more.
        while select.select([], [write_end], [], 1)[1]:
            written += os.write(write_end, stream[written:written + 4096])
            self.assertLess(written, 1 << 20)
        self.assertGreater(written, 65536)
        self.assertIsNone(publisher.process.poll())
        reader.go_on()
        received = bytearray()
        while len(received) < len(stream):
            ready = select.select([reader.process.stdout],
                                  [write_end] if written < len(stream) else [], [], LONG)
            self.assertTrue(ready[0] or ready[1])
            if ready[1]:
                written += os.write(write_end, stream[written:written + 4096])
            if ready[0]:
                received += os.read(reader.process.stdout.fileno(), 1 << 16)
        self.assertEqual(bytes(received), stream)

    def test_sockets_files_and_fifos_at_either_end(self):
        self.start_daemon()
        payloads = [b"", ALL_BYTES, b"\n\0\n", b"x" * 10_000]
        framed = b"".join(len(p).to_bytes(4, "little") + p for p in payloads)
        ours, theirs = socket.socketpair()
        with open(os.path.join(self.directory, "out"), "w+b") as out_file, ours, theirs:
            to_socket = self.cat("--framed", "-C", "8", "t", stdout=theirs)
            to_file = self.cat("--framed", "-C", "8", "t", stdout=out_file)
            path = self.fifo("out.fifo")
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as out_fifo, \
                    open(path, "wb") as fifo_end:
                to_fifo = self.cat("--framed", "-C", "8", "t", stdout=fifo_end)
                with open(os.path.join(self.directory, "in"), "w+b") as in_file:
                    in_file.write(framed)
                    in_file.seek(0)
                    self.assertDone(self.tool(PUB, "--framed", "t", stdin=in_file).finish())
                in_ours, in_theirs = socket.socketpair()
                with in_ours, in_theirs:
                    publisher = self.tool(PUB, "--framed", "t", stdin=in_theirs)
                    in_ours.sendall(framed)
                    in_ours.shutdown(socket.SHUT_WR)
                    self.assertDone(publisher.finish())
                self.assertDone(to_fifo.finish())
                fifo_end.close()
                os.set_blocking(out_fifo.fileno(), True)
                self.assertEqual(out_fifo.read(), framed * 2)
            self.assertDone(to_socket.finish())
            theirs.close()
            self.assertEqual(b"".join(iter(lambda: ours.recv(1 << 16), b"")), framed * 2)
            self.assertDone(to_file.finish())
            out_file.seek(0)
            self.assertEqual(out_file.read(), framed * 2)

    def follower(self, *words):
        path = self.fifo("in.fifo")
        reader = self.cat("-0", "t")
        publisher = self.tool(PUB, "--follow", path, "t", *words)
        return path, reader, publisher

    def expect(self, reader, *payloads):
        for payload in payloads:
            received = b""
            while not received.endswith(b"\0"):
                received += os.read(reader.process.stdout.fileno(), 1)
            self.assertEqual(received, payload + b"\0")

    def test_writers_of_a_fifo_come_and_go(self):
        self.start_daemon()
        path, reader, publisher = self.follower()
        for i in range(20):
            with open(path, "wb") as writer:
                writer.write(b"one %d\ntwo\nno newline" % i)
            self.expect(reader, b"one %d" % i, b"two", b"no newline")
        with open(path, "wb"):
            pass  # one that writes nothing
        with open(path, "wb", buffering=0) as writer:
            for i in range(3):
                writer.write(b"by and by\n")
                self.expect(reader, b"by and by")
        used = cpu_seconds(publisher.process.pid)
        self.assertIsNone(publisher.process.poll())
        time.sleep(0.5)  # it waits without a writer, and does not spin
        self.assertLess(cpu_seconds(publisher.process.pid) - used, 0.1)
        publisher.signal(signal.SIGTERM)
        result = publisher.finish()
        self.assertEqual((result.code, result.err), (143, ""))

    def test_all_that_a_writer_writes_as_one_message_or_framed(self):
        self.start_daemon()
        path, reader, publisher = self.follower("-s", "-C", "2")
        for text in (b"first\nof two lines\n", b"second"):
            with open(path, "wb") as writer:
                writer.write(text)
            self.expect(reader, text)
        self.assertDone(publisher.finish())
        for broken in (b"\x05\0", b"\x05\0\0\0abc"):
            os.unlink(path)
            path, reader, publisher = self.follower("--framed", "-C", "2")
            with open(path, "wb") as writer:
                writer.write(broken)
            self.assertRegex(publisher.process.stderr.readline().decode(),
                             r"\Aipcbus-pub: a writer of '.*' ended inside a message\n\Z")
            with open(path, "wb") as writer:
                writer.write(b"\x03\0\0\0one\x03\0\0\0two")
            self.expect(reader, b"one", b"two")
            self.assertDone(publisher.finish())

    def test_what_its_writers_do_wrong_is_said_once_a_second(self):
        self.start_daemon()
        path, reader, publisher = self.follower("--ring-size", "64KiB")
        began = time.monotonic()
        with open(path, "wb") as writer:
            writer.write((b"x" * 100_000 + b"\nshort\n") * 200)
        self.expect(reader, *[b"short"] * 200)
        took = time.monotonic() - began
        publisher.signal(signal.SIGTERM)
        lines = publisher.finish().err.splitlines()
        self.assertIn("cannot publish message 1: ", lines[0])
        self.assertLessEqual(len(lines), took + 2)

    def test_what_cannot_be_followed(self):
        self.assertFails(self.tool(PUB, "t", "--follow", "/nonexistent/fifo").finish(), 1,
                         "No such file")
        self.assertFails(self.tool(PUB, "t", "--follow", "/dev/null").finish(), 1, "it is no FIFO")
        self.start_daemon()
        self.assertEqual(
            self.tool(PUB, "t", "--follow", self.fifo("silent"), "-W", "200ms").finish().code, 124)


if __name__ == "__main__":
    sys.exit(run_tests())
