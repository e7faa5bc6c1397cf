#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""ipcbus-pub and ipcbus-cat as a shell script sees them: exit codes, stdout to the byte, one line
on stderr, signals, and pipes that break. Against a private ipcbusd each test class (tool_case.py).
"""

import base64
import json
import os
import random
import re
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from tool_case import CAT, DAEMON, LONG, PUB, Case, Tool  # noqa: E402

ALL_BYTES = bytes(range(256))


def framed(messages):
    return b"".join(struct.pack("<I", len(message)) + message for message in messages)


def unframed(data):
    messages = []
    while data:
        size, = struct.unpack("<I", data[:4])
        messages.append(data[4:4 + size])
        data = data[4 + size:]
    return messages


class WithoutDaemon(Case):
    def run_tool(self, *words, **options):
        return self.tool(*words, **options).finish()

    def test_wrong_usage_is_exit_2_with_one_line(self):
        both = [[], ["--nonsense", "t"], ["-Z", "t"], ["-C", "t"], ["-C", "0", "t"],
                ["-C", "x", "t"], ["-C", "1.5", "t"], ["-C"], ["-W", "soon", "t"],
                ["-W", "-1", "t"], ["--connect-timeout", "1x", "t"], ["t//u"], ["/t"], ["t/"],
                [""], ["-t"], ["a/#/b"], ["a+"], ["t\nu"], ["--address", "", "t"],
                ["--address", "nonsense", "t"], ["--retain", "t"],
                ["--help=1"], ["x" * 256]]
        pub = [["--from", "new", "t"],
               ["a", "b"], ["-t", "a", "b"], ["-t", "a", "-t", "b"], ["a/#"], ["+/b"],
               ["-m", "x", "-n", "t"], ["-l", "-s", "t"], ["-l", "-l", "t"], ["-f", "x", "-0", "t"],
               ["--framed", "-m", "x", "t"], ["--repeat", "2", "t"], ["--repeat", "2", "-l", "t"],
               ["--repeat", "0", "-n", "t"], ["--repeat-delay", "1s", "t"],
               ["--rate", "0", "-n", "t"], ["--rate", "fast", "-n", "t"],
               ["--rate", "5", "--repeat-delay", "1", "-n", "t"], ["--wait-subs", "0", "t"],
               ["--wait-subs", "-1", "t"], ["--max-block", "x", "t"], ["--ring-size", "0", "t"],
               ["--ring-size", "64Kib", "t"], ["--ring-size", "1TB", "t"],
               ["--ring-size", "2GiB", "t"], ["-m"], ["-v", "t"],
               ["--follow", "", "t"], ["--follow", "f", "-m", "x", "t"],
               ["--follow", "f", "-n", "t"], ["--follow", "f", "-f", "x", "t"],
               ["--follow", "f", "-s", "--repeat", "2", "t"],
               ["--follow", "f", "--on-signal", "USR1", "t"],
               ["--on-signal", "NONE", "t"], ["--on-signal", "", "t"], ["--on-signal", "KILL", "t"],
               ["--on-signal", "STOP", "t"], ["--on-signal", "ALRM", "t"],
               ["--on-signal", "0", "t"], ["--on-signal", "65", "t"],
               ["--on-signal", "RTMIN+99", "t"], ["--on-signal", "USR1", "-l", "t"],
               ["--on-signal", "USR1", "-n", "--repeat", "2", "t"]]
        cat = [["-F", "%q", "t"], ["-F", "%", "t"], ["-F", "\\q", "t"], ["-j", "-x", "t"],
               ["-j", "-v", "t"], ["-F", "%p", "-v", "t"], ["-N", "-0", "t"],
               ["--framed", "-N", "t"], ["--framed", "-x", "t"], ["--mode", "best", "t"],
               ["--from", "best", "t"], ["--from", "last", "t"], ["--from", "last:", "t"],
               ["--from", "last:0", "t"], ["--from", "last:x", "t"], ["--from", "oldest:1", "t"],
               ["--mode", "latest", "--strict", "t"], ["--ready-fd", "1", "t"],
               ["--ready-fd", "0", "t"], ["--ready-fd", "99", "t"], ["--ready-fd", "x", "t"],
               ["--exec", "", "t"], ["--exec", "true", "-j", "t"], ["--exec", "true", "-N", "t"],
               ["--signal", "HUP", "t"], ["--pidfile", "f", "t"], ["--pidfile", "", "t"],
               ["--signal", "NONE", "--pidfile", "f", "t"],
               ["--signal", "HUP", "--pidfile", "f", "-v", "t"],
               ["--signal", "HUP", "--pidfile", "f", "--exec", "true", "t"],
               ["--idle", "x", "t"], ["--idle", "t"], ["-m", "x", "t"], ["t", "a/#/b"]]
        for tool, cases in ((PUB, both + pub), (CAT, both + cat)):
            for words in cases:
                with self.subTest(tool=os.path.basename(tool), words=words):
                    self.assertFails(self.run_tool(tool, *words), 2)

    def test_errors_name_what_is_wrong(self):
        for words, text in ((["--nonsense"], "'--nonsense'"), (["-C", "many", "t"], "'many'"),
                            (["a//b"], "'a//b'"), (["t", "--"], "cannot connect: ")):
            self.assertIn(text, self.run_tool(CAT, *words).err)

    def test_help_and_version_go_to_stdout(self):
        for tool in (PUB, CAT):
            for word in ("--help", "-h"):
                result = self.run_tool(tool, word, "t")
                self.assertDone(result)
                lines = result.out.decode().splitlines()
                self.assertLessEqual(len(lines), 24)
                self.assertLessEqual(max(map(len, lines)), 80)
            for word in ("--version", "-V"):
                result = self.run_tool(tool, word)
                self.assertDone(result)
                self.assertRegex(result.out.decode(),
                                 r"\Aipcbus-(pub|cat) \d+\.\d+\.\d+\nlibrary \d+\.\d+\.\d+ "
                                 r"\(compiled with \d+\.\d+\.\d+\), "
                                 r"protocol \d+\.\d+, layout \d+\n\Z")

    def test_stdout_that_cannot_be_written_is_an_error(self):
        with open("/dev/full", "wb") as full:
            result = self.run_tool(CAT, "--help", stdout=full)
        self.assertEqual(result.code, 1)
        self.assertIn("cannot write to standard output", result.err)
        closed = subprocess.run([CAT, "--help"], stderr=subprocess.PIPE, timeout=LONG, check=False,
                                preexec_fn=lambda: os.close(1))
        self.assertEqual(closed.returncode, 1)

    def test_stdout_has_no_escape_sequence(self):
        for tool in (PUB, CAT):
            for word in ("--help", "--version", "--nonsense"):
                result = self.run_tool(tool, word)
                self.assertNotIn("\x1b", result.out.decode() + result.err)

    def test_no_daemon_is_exit_3(self):
        self.assertFails(self.run_tool(CAT, "t"), 3, "cannot connect: ")
        self.assertFails(self.run_tool(PUB, "t", "-n"), 3, "cannot connect: ")
        begun = time.monotonic()
        self.assertFails(self.run_tool(CAT, "t", "--connect-timeout", "300ms"), 3)
        self.assertGreaterEqual(time.monotonic() - begun, 0.3)
        self.assertLess(time.monotonic() - begun, 5)

    def test_the_option_wins_over_the_environment(self):
        other = "unix:" + os.path.join(self.directory, "other.sock")
        self.assertFails(self.run_tool(CAT, "t", "--address", other), 3, "other.sock")

    def test_a_tool_may_be_started_before_its_daemon(self):
        early = self.tool(PUB, "t", "-n", "--connect-timeout", "20s")
        self.start_daemon()
        self.assertDone(early.finish())

    def test_connecting_can_be_interrupted(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            tool = self.tool(CAT, "t", "--connect-timeout", "1h", "-d")
            # Wait until its handlers are there: SigCgt of /proc shows them.
            path = f"/proc/{tool.process.pid}/status"
            for _ in range(1000):
                with open(path, encoding="ascii") as status:
                    caught = int(re.search(r"SigCgt:\s*(\w+)", status.read()).group(1), 16)
                if caught >> (number - 1) & 1:
                    break
                time.sleep(0.005)
            tool.signal(number)
            self.assertEqual(tool.finish(5).code, 128 + number)

    def test_a_missing_file_is_told_before_connecting(self):
        self.assertFails(self.run_tool(PUB, "t", "-f", "/nonexistent/file"), 1, "/nonexistent/file")


class Payloads(Case):
    MESSAGES = [b"", b"\0", b"\0" * 7, ALL_BYTES, b"line\n", b"\n", b"%s %n", "grün".encode(), b"x"]

    def setUp(self):
        super().setUp()
        self.start_daemon()

    def sent(self, *words, stdin=b"", messages, cat=("--framed",)):
        reader = self.cat(*cat, "-C", str(messages), "-W", str(LONG), "t")
        self.assertDone(self.pub("t", "--wait-subs", "1", *words, stdin=stdin))
        result = reader.finish()
        self.assertDone(result)
        return result.out

    def test_every_payload_option_is_binary_safe(self):
        everything = self.MESSAGES + [random.Random(1).randbytes(200_000)]
        out = self.sent("--framed", stdin=framed(everything), messages=len(everything))
        self.assertEqual(unframed(out), everything)
        path = os.path.join(self.directory, "payload")
        for message in everything:
            self.assertEqual(self.sent("-s", stdin=message, messages=1), framed([message]))
            with open(path, "wb") as file:
                file.write(message)
            self.assertEqual(self.sent("-f", path, messages=1), framed([message]))
        lines = [message for message in everything if b"\n" not in message]
        self.assertEqual(self.sent("-l", stdin=b"".join(m + b"\n" for m in lines),
                                   messages=len(lines)), framed(lines))
        pieces = [message for message in everything if b"\0" not in message]
        self.assertEqual(self.sent("-0", stdin=b"".join(m + b"\0" for m in pieces),
                                   messages=len(pieces)), framed(pieces))
        self.assertEqual(self.sent("-n", messages=1), framed([b""]))
        self.assertEqual(self.sent("-m", "grün\n ", messages=1), framed(["grün\n ".encode()]))
        self.assertEqual(self.sent("-m", "", messages=1), framed([b""]))

    def test_a_megabyte_and_the_ring_that_it_takes(self):
        big = random.Random(2).randbytes(1 << 20)
        path = os.path.join(self.directory, "big")
        with open(path, "wb") as file:
            file.write(big)
        self.assertEqual(self.sent("-f", path, messages=1), framed([big]))
        self.assertEqual(self.sent("-s", "--ring-size", "8MiB", stdin=big, messages=1),
                         framed([big]))
        self.assertEqual(self.sent("--framed", "--ring-size", "8MiB", stdin=framed([big, b"", big]),
                                   messages=3), framed([big, b"", big]))
        line = big.replace(b"\n", b" ")
        self.assertEqual(self.sent("-l", "--ring-size", "5MB", stdin=b"a\n" + line + b"\nb",
                                   messages=3), framed([b"a", line, b"b"]))

    def test_too_long_names_the_limit_and_the_remedy(self):
        for words, stdin, named in (
                (["-l"], b"short\n" + b"x" * 20_000 + b"\n", "message 2: "),
                (["-0"], b"short\0short\0" + b"x" * 20_000, "message 3: "),
                (["--framed"], framed([b"x" * 20_000]), "message 1: "),
                (["-m", "x" * 20_000], b"", "the message: "),
                (["-s"], b"x" * 20_000, "message 1: ")):
            with self.subTest(words=words[0]):
                result = self.pub("t", "--ring-size", "64KiB", *words, stdin=stdin)
                self.assertFails(result, 1, named)
                self.assertIn("--ring-size", result.err)
                self.assertRegex(result.err, r"the largest here is \d+;")

    def test_what_came_before_a_line_that_is_too_long_was_published(self):
        reader = self.cat("-C", "2", "-W", str(LONG), "t")
        result = self.pub("t", "--wait-subs", "1", "--ring-size", "64KiB",
                          stdin=b"one\ntwo\n" + b"x" * 70_000)
        self.assertEqual(result.code, 1)
        self.assertDone(reader.finish(), b"one\ntwo\n")

    def test_the_largest_message_of_a_ring_is_about_a_quarter(self):
        refused = self.pub("t", "--ring-size", "64KiB", "-m", "x" * 65536)
        limit = int(re.search(r"the largest here is (\d+);", refused.err).group(1))
        self.assertAlmostEqual(limit, 16384, delta=512)
        for size, code in ((limit, 0), (limit + 1, 1)):
            result = self.pub("t", "--ring-size", "64KiB", "-m", "x" * size)
            self.assertEqual(result.code, code, result)

    def test_a_length_that_is_cut_short_is_an_error(self):
        for stdin in (b"\1\0\0", b"\5\0\0\0abc", b"\1\0\0\0a\2\0\0\0b"):
            self.assertFails(self.pub("t", "--framed", stdin=stdin), 1, "ends inside a message")

    def test_lines_are_the_default_and_the_last_needs_no_newline(self):
        self.assertEqual(self.sent(stdin=b"a\n\nb", messages=3), framed([b"a", b"", b"b"]))

    def test_fifos_and_directories_as_files(self):
        fifo = os.path.join(self.directory, "fifo")
        os.mkfifo(fifo)
        reader = self.cat("-C", "1", "-W", str(LONG), "-N", "t")
        publisher = self.tool(PUB, "t", "--wait-subs", "1", "-f", fifo)
        with open(fifo, "wb") as file:
            file.write(b"through\0a fifo\n")
        self.assertDone(publisher.finish())
        self.assertDone(reader.finish(), b"through\0a fifo\n")
        self.assertFails(self.pub("t", "-f", self.directory), 1, "Is a directory")

    def test_stdin_is_left_alone_when_there_is_a_payload(self):
        read_end, write_end = os.pipe()  # never closed meanwhile: who reads it waits
        try:
            os.write(write_end, b"mine\n")
            for words in (["-m", "x"], ["-n"], ["-f", "/dev/null"]):
                self.assertDone(self.tool(PUB, "t", *words, stdin=read_end).finish(10))
            self.assertEqual(os.read(read_end, 100), b"mine\n")
        finally:
            os.close(read_end)
            os.close(write_end)

    def test_output_styles(self):
        message = "grün\0!".encode()
        for words, expected in (
                ([], message + b"\n"), (["-N"], message), (["-0"], message + b"\0"),
                (["-v"], b"t " + message + b"\n"), (["-vN"], b"t " + message),
                (["-x"], message.hex().encode() + b"\n"),
                (["-v", "-x", "-0"], b"t " + message.hex().encode() + b"\0"),
                (["--framed"], framed([message])),
                (["-F", "%l:%p|%x|%t|%L|%%\\t\\0\\n"],
                 b"7:" + message + b"|" + message.hex().encode() + b"|t|0|%\t\0\n"),
                (["-F", "%p", "-0"], message + b"\0")):
            with self.subTest(words=words):
                self.assertEqual(self.sent("-s", stdin=message, messages=1, cat=words), expected)

    def test_sequences_and_times_of_a_format(self):
        begun = time.time()
        out = self.sent("-l", stdin=b"a\nb\nc\n", messages=3, cat=["-F", "%s %U %I\\n"])
        numbers = []
        for line in out.decode().splitlines():
            number, unix, iso = line.split(" ")
            numbers.append(int(number))
            self.assertLessEqual(begun - 0.001, float(unix))
            self.assertLessEqual(float(unix), time.time() + 0.001)
            self.assertRegex(unix, r"\A\d+\.\d{9}\Z")
            self.assertEqual(iso, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(int(unix[:-10]))) +
                             unix[-10:] + "Z")
        self.assertEqual(numbers, list(range(numbers[0], numbers[0] + 3)))

    def test_json_lines(self):
        payloads = [b"plain", b"", "\"grün\"\n\\".encode(), b"a\0b", b"\xff\xfe", ALL_BYTES]
        out = self.sent("--framed", stdin=framed(payloads), messages=len(payloads), cat=["-j"])
        lines = out.splitlines()
        self.assertEqual(len(lines), len(payloads))
        for line, payload in zip(lines, payloads):
            parsed = json.loads(line)
            self.assertEqual(parsed["topic"], "t")
            self.assertEqual(parsed["size"], len(payload))
            self.assertEqual(parsed["lost"], 0)
            if parsed.get("base64"):
                self.assertEqual(base64.b64decode(parsed["payload"]), payload)
                self.assertRaises(UnicodeDecodeError, payload.decode)
            else:
                self.assertEqual(parsed["payload"].encode(), payload)

    def test_several_topics_and_wildcards(self):
        reader = self.cat("-v", "-t", "plant/+/temp", "-t", "door", "car/#", "-C", "5", "-W",
                          str(LONG))
        for topic in ("plant/7/temp", "plant/7/speed", "door", "doors", "car", "car/1/x",
                      "plant/8/temp"):
            self.assertDone(self.pub(topic, "-m", "to " + topic))
        result = reader.finish()
        self.assertDone(result)
        self.assertEqual(sorted(result.out.decode().splitlines()),
                         sorted(f"{topic} to {topic}" for topic in
                                ("plant/7/temp", "door", "car", "car/1/x", "plant/8/temp")))

    def test_millions_of_lines_arrive_in_order(self):
        lines = b"".join(b"%d\n" % i for i in range(1_000_000))
        with open(os.path.join(self.directory, "lines"), "w+b") as file:
            reader = self.cat("-C", "1000000", "-W", str(LONG), "t", stdout=file)
            publisher = self.tool(PUB, "t", "--wait-subs", "1", stdin=subprocess.PIPE)
            publisher.process.stdin.write(lines)
            self.assertDone(publisher.finish())
            self.assertDone(reader.finish())
            file.seek(0)
            self.assertTrue(file.read() == lines)


class Limits(Case):
    def setUp(self):
        super().setUp()
        self.start_daemon()

    def test_count(self):
        reader = self.cat("-C", "2", "t")
        self.assertDone(self.pub("t", "--wait-subs", "1", stdin=b"1\n2\n3\n4\n"))
        self.assertDone(reader.finish(), b"1\n2\n")
        reader = self.cat("--idle", "300ms", "t")
        self.assertDone(self.pub("t", "-C", "3", stdin=b"1\n2\n3\n4\n"))
        self.assertDone(reader.finish(), b"1\n2\n3\n")

    def test_timeouts_are_124(self):
        begun = time.monotonic()
        result = self.cat("-W", "200ms", "t").finish()
        self.assertEqual((result.code, result.out, result.err), (124, b"", ""), result)
        self.assertFails(self.cat("-W", "0.2", "-C", "2", "t").finish(), 124,
                         "0 came within 200ms")
        self.assertFails(self.pub("t", "-n", "--wait-subs", "1", "-W", "200ms"), 124,
                         "0 of 1 subscriber came within 200ms")
        waiting = self.tool(PUB, "t", "-W", "200ms", stdin=subprocess.PIPE)
        waiting.process.wait(LONG)  # its stdin stays open and says nothing
        self.assertEqual(waiting.process.returncode, 124)
        self.assertFails(self.pub("t", "-n", "--repeat", "100", "--repeat-delay", "50ms", "-W",
                                  "200ms"), 124, "published")
        self.assertGreaterEqual(time.monotonic() - begun, 1.0)

    def test_a_timeout_ends_also_who_always_has_something_to_read(self):
        reader = self.cat("-W", "300ms", "t", stdout=subprocess.DEVNULL)
        busy = self.tool(PUB, "t", "-n", "--repeat", "1000000000")
        self.assertEqual(reader.finish().code, 124)
        busy.signal(signal.SIGTERM)
        self.assertEqual(busy.finish().code, 143)

    def test_idle_counts_from_the_last_message(self):
        reader = self.cat("--idle", "400ms", "t")
        begun = time.monotonic()
        self.assertDone(self.pub("t", "-m", "x", "--repeat", "5", "--repeat-delay", "200ms"))
        self.assertDone(reader.finish(), b"x\n" * 5)
        self.assertGreaterEqual(time.monotonic() - begun, 1.2)
        begun = time.monotonic()
        self.assertDone(self.cat("--idle", "200ms", "t").finish(), b"")
        self.assertGreaterEqual(time.monotonic() - begun, 0.2)

    def test_end_stops_when_there_is_nothing_to_read(self):
        self.assertDone(self.tool(CAT, "--end", "t").finish(), b"")
        self.assertDone(self.tool(CAT, "--end", "t", "u/#").finish(), b"")

    def test_rate_and_repeat(self):
        begun = time.monotonic()
        reader = self.cat("-C", "25", "t")
        self.assertDone(self.pub("t", "-m", "x", "--repeat", "25", "--rate", "100"))
        taken = time.monotonic() - begun
        self.assertDone(reader.finish(), b"x\n" * 25)
        self.assertGreaterEqual(taken, 0.24)
        begun = time.monotonic()
        self.assertDone(self.pub("t", "--rate", "100", stdin=b"x\n" * 25))
        self.assertGreaterEqual(time.monotonic() - begun, 0.24)
        self.assertDone(self.pub("t", "--rate", "1e6", stdin=b"x\n" * 10_000))

    def test_progress_is_told_while_it_waits_and_at_the_end(self):
        reader = self.cat("t", "-P")
        writer = self.tool(PUB, "t", "-P", stdin=subprocess.PIPE)
        for tool in (reader, writer):  # who never tells what is waited for here is ended
            timer = threading.Timer(LONG, tool.process.kill)
            timer.start()
            self.addCleanup(timer.cancel)
        self.assertEqual(reader.process.stderr.readline(), b"ipcbus-cat: 0 messages, 0.0/s\n")
        writer.process.stdin.write(b"x\n" * 1000)
        writer.process.stdin.flush()
        lines = [reader.process.stdout.readline() for _ in range(1000)]
        self.assertEqual(lines, [b"x\n"] * 1000)
        for tool, name in ((writer, "pub"), (reader, "cat")):
            line = tool.process.stderr.readline().decode()
            while "1000 messages" not in line:
                self.assertRegex(line, rf"\Aipcbus-{name}: 0 messages, 0.0/s\n\Z")
                line = tool.process.stderr.readline().decode()
            self.assertRegex(line, rf"\Aipcbus-{name}: 1000 messages, (\d{{3,}}|\d\d\.\d)/s\n\Z")
        writer.process.stdin.write(b"last\n")
        result = writer.finish(stdin=b"")
        self.assertEqual(result.code, 0)
        self.assertRegex(result.err.splitlines()[-1],
                         r"\Aipcbus-pub: 1001 messages in \d+(\.\d+)?s, \d+(\.\d)?/s\Z")
        self.assertEqual(reader.process.stdout.readline(), b"last\n")
        reader.signal(signal.SIGTERM)
        result = reader.finish()
        self.assertEqual((result.code, result.out), (128 + signal.SIGTERM, b""))
        self.assertRegex(result.err.splitlines()[-1],
                         r"\Aipcbus-cat: 1001 messages in \d+(\.\d+)?s, \d+(\.\d)?/s\Z")

    def test_progress_of_a_short_run_is_one_line(self):
        self.assertRegex(self.pub("t", "-n", "--repeat", "3", "--progress").err,
                         r"\Aipcbus-pub: 3 messages in [\d.]+m?s, \d+(\.\d)?/s\n\Z")
        self.assertDone(self.pub("t", "-n"))

    def test_a_full_ring_and_max_block(self):
        self.cat("t").stop()
        lines = b"x" * 1000 + b"\n"
        for words, text in ((["--max-block", "0"], "the ring is full"),
                            (["--max-block", "100ms"], "full for 100ms"),
                            (["-W", "200ms"], "not done within 200ms")):
            with self.subTest(words=words):
                result = self.pub("t", "--ring-size", "64KiB", *words, stdin=lines * 200)
                self.assertFails(result, 124, text)

    def test_denied_is_4(self):
        self.assertFails(self.pub("$bus/x", "-n"), 4, "$bus/x")


class Delivery(Case):
    def setUp(self):
        super().setUp()
        self.start_daemon()

    def test_ready_fd_says_a_line_and_closes(self):
        reader = self.cat("t")  # the line was read there
        self.assertEqual(os.read(reader.ready_end, 100), b"")

    def test_who_is_ready_misses_nothing(self):
        for i in range(20):
            reader = self.cat("-C", "1", "-W", "10s", f"t/{i}")
            self.assertDone(self.pub(f"t/{i}", "-m", "first"))
            self.assertDone(reader.finish(), b"first\n")

    def test_no_line_is_held_back(self):
        reader = self.cat("-v", "t")
        publisher = self.tool(PUB, "t", stdin=subprocess.PIPE)
        for i in range(20):
            os.write(publisher.process.stdin.fileno(), b"%d\npart of" % i)
            line = reader.process.stdout.readline()
            self.assertTrue(line.endswith(b"%d\n" % i), line)

    def test_lost_messages_are_counted(self):
        total = 5000
        reader = self.cat("--mode", "lossy", "-F", "%s\\n", "--idle", "500ms", "t")
        publisher = self.tool(PUB, "t", "--ring-size", "64KiB", stdin=subprocess.PIPE)
        os.write(publisher.process.stdin.fileno(), b"first\n")
        first = int(reader.process.stdout.readline())
        reader.stop()
        publisher.process.stdin.write(b"x" * 99 + b"\n")
        publisher.process.stdin.write((b"x" * 99 + b"\n") * (total - 2))
        self.assertDone(publisher.finish())
        reader.go_on()
        result = reader.finish()
        self.assertEqual(result.code, 0, result)
        lost = sum(int(n) for n in re.findall(r"^ipcbus-cat: lost (\d+) messages? \(\d+ in all\)$",
                                              result.err, re.MULTILINE))
        self.assertEqual(len(result.err.splitlines()), 1, result)
        numbers = [int(line) for line in result.out.splitlines()]
        self.assertGreater(lost, 0)
        self.assertEqual(len(numbers) + 1 + lost, total)
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertEqual(numbers[-1], first + total - 1)

    def lose(self, *words):
        """A stopped lossy reader whose ring went round; goes on at the end."""
        reader = self.cat("--mode", "lossy", "--idle", "500ms", *words, "t")
        publisher = self.tool(PUB, "t", "--ring-size", "64KiB", stdin=subprocess.PIPE)
        os.write(publisher.process.stdin.fileno(), b"first\n")
        self.assertEqual(reader.process.stdout.readline(), b"first\n")
        reader.stop()
        publisher.process.stdin.write((b"x" * 99 + b"\n") * 5000)
        self.assertDone(publisher.finish())
        reader.go_on()
        return reader.finish()

    def test_strict_is_5_at_the_first_loss(self):
        result = self.lose("--strict")
        self.assertFails(result, 5, "lost (--strict)")

    def test_quiet_says_nothing_of_losses(self):
        result = self.lose("-q")
        self.assertEqual((result.code, result.err), (0, ""), result)

    def test_latest_skips_and_does_not_complain(self):
        result = self.lose("--mode", "latest")
        self.assertDone(result)
        self.assertLess(len(result.out.splitlines()), 100)

    def test_a_slow_reliable_reader_loses_nothing(self):
        lines = b"".join(b"%099d\n" % i for i in range(5000))
        path = os.path.join(self.directory, "lines")
        with open(path, "wb") as file:
            file.write(lines)
        reader = self.cat("-C", "5000", "t")
        with open(path, "rb") as file:
            publisher = self.tool(PUB, "t", "--wait-subs", "1", "--ring-size", "64KiB", stdin=file)
        out = b""
        while len(out) < len(lines):
            piece = os.read(reader.process.stdout.fileno(), 2000)
            self.assertTrue(piece)
            out += piece
        self.assertTrue(out == lines)
        self.assertDone(publisher.finish())
        self.assertDone(reader.finish(), b"")

    def test_wait_subs(self):
        publisher = self.tool(PUB, "t", "-m", "all there", "--wait-subs", "3")
        readers = [self.cat("-C", "1", "t") for _ in range(3)]
        self.assertDone(publisher.finish())
        for reader in readers:
            self.assertDone(reader.finish(), b"all there\n")


class History(Case):
    def test_what_was_published_before_and_what_comes(self):
        self.start_daemon()
        first = self.cat("-C", "10", "t")
        publisher = self.tool(PUB, "t", stdin=subprocess.PIPE)
        publisher.process.stdin.write(b"".join(b"%d\n" % i for i in range(10)))
        publisher.process.stdin.flush()
        everything = b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"
        self.assertDone(first.finish(), everything)
        for start, out in (("new", b""), ("last:1", b"9\n"), ("last:3", b"7\n8\n9\n"),
                           ("last:10", everything), ("last:99999999999", everything),
                           ("oldest", everything)):
            with self.subTest(start=start):
                self.assertDone(self.tool(CAT, "t", "--from", start, "--end").finish(), out)
        self.assertDone(self.tool(CAT, "t", "u", "--from", "last:2", "--end").finish(),
                        b"8\n9\n")
        live = self.cat("t", "--from", "last:2", "-C", "4", "--strict")
        publisher.process.stdin.write(b"10\n11\n")
        publisher.process.stdin.flush()
        self.assertDone(live.finish(), b"8\n9\n10\n11\n")
        publisher.process.stdin.close()
        publisher.process.wait(LONG)


class Commands(Case):
    def setUp(self):
        super().setUp()
        self.start_daemon()

    def run_command(self, command, *words, stdin, messages=1):
        reader = self.cat("--exec", command, "-C", str(messages), "-W", str(LONG), *words, "t/#")
        self.assertDone(self.pub("t/7", "--wait-subs", "1", "--framed", "--ring-size", "8MiB",
                                 stdin=framed(stdin)))
        return reader.finish()

    def test_payload_on_stdin_and_the_rest_in_the_environment(self):
        result = self.run_command(
            'printf "%s %s %s [" "$IPCBUS_TOPIC" "$IPCBUS_SIZE" "$IPCBUS_LOST"; cat; echo "]"',
            stdin=[b"one", b"", ALL_BYTES], messages=3)
        self.assertDone(result, b"t/7 3 0 [one]\nt/7 0 0 []\nt/7 256 0 [" + ALL_BYTES + b"]\n")

    def test_sequence_and_address(self):
        result = self.run_command('echo "$IPCBUS_SEQUENCE $IPCBUS_PUBLICATION $IPCBUS_ADDRESS"',
                                  "--address", self.address, stdin=[b"a", b"b"], messages=2)
        self.assertDone(result)
        first, second = (line.split() for line in result.out.decode().splitlines())
        self.assertEqual(int(second[0]), int(first[0]) + 1)
        self.assertEqual((first[1], first[2]), (second[1], self.address))

    def test_a_command_need_not_read_and_a_megabyte_does_not_block(self):
        big = random.Random(3).randbytes(1 << 20)
        self.assertDone(self.run_command("true", stdin=[big]), b"")
        self.assertDone(self.run_command("wc -c", stdin=[big]), b"1048576\n")

    def test_a_command_that_fails_is_reported_and_the_rest_goes_on(self):
        result = self.run_command('read -r n; echo "$n"; exit "$n"', stdin=[b"0\n", b"3\n", b"0\n"],
                                  messages=3)
        self.assertEqual((result.code, result.out), (1, b"0\n3\n0\n"), result)
        self.assertRegex(result.err, r"\Aipcbus-cat: cannot run '.*' for message \d+ of 't/7': "
                                     r"exit status 3\n\Z")
        result = self.run_command("kill -9 $$", stdin=[b""])
        self.assertEqual(result.code, 1)
        self.assertIn("ended by signal 9", result.err)
        self.assertEqual(self.run_command("/nonexistent/command 2>&-", stdin=[b""]).code, 1)

    def test_a_broken_pipe_ends_a_command_as_anywhere(self):
        # yes(1) dies of SIGPIPE only if that is not ignored.
        self.assertDone(self.run_command("yes | head -n 1", stdin=[b""]), b"y\n")

    def test_descriptors_of_the_bus_are_not_inherited(self):
        result = self.run_command("ls -l /proc/self/fd", stdin=[b""])
        self.assertDone(result)
        self.assertNotIn(b"socket:", result.out.split(b"2 -> ")[-1], result)
        self.assertEqual(result.out.count(b"memfd:"), 1, result)

    def test_a_signal_ends_cat_and_its_command(self):
        reader = self.cat("--exec", "echo started; exec sleep 1000", "t")
        self.assertDone(self.pub("t", "--wait-subs", "1", "-n"))
        self.assertEqual(reader.process.stdout.readline(), b"started\n")
        reader.signal(signal.SIGTERM)
        result = reader.finish(10)
        self.assertEqual((result.code, result.err), (143, ""), result)


class Signals(Case):
    def setUp(self):
        super().setUp()
        self.start_daemon()

    def test_a_waiting_cat(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            for words in (["t"], ["t", "u"]):
                reader = self.cat(*words)
                reader.signal(number)
                result = reader.finish(5)
                self.assertEqual((result.code, result.out, result.err), (128 + number, b"", ""))

    def test_no_signal_falls_into_the_gap(self):
        # The gap is between the last look at the flag and the wait: when a line has been written,
        # cat is about there. No second message comes, so one that slept through it sleeps on.
        publisher = self.tool(PUB, "t", stdin=subprocess.PIPE)
        for i in range(40):
            reader = self.cat("t")
            os.write(publisher.process.stdin.fileno(), b"x\n")
            self.assertEqual(os.read(reader.process.stdout.fileno(), 10), b"x\n")
            reader.signal(signal.SIGTERM if i % 2 else signal.SIGINT)
            self.assertEqual(reader.finish(5).code, 143 if i % 2 else 130)

    def test_what_was_received_is_written_first(self):
        reader = self.cat("t")
        self.assertDone(self.pub("t", "--wait-subs", "1", stdin=b"1\n2\n3\n"))
        self.assertEqual(os.read(reader.process.stdout.fileno(), 2), b"1\n")
        reader.signal(signal.SIGINT)
        result = reader.finish(5)
        self.assertEqual((result.code, result.out), (130, b"2\n3\n"), result)

    def test_a_cat_whose_reader_is_stuck(self):
        reader = self.cat("t")
        publisher = self.tool(PUB, "t", "--wait-subs", "1", "-W", "20s", "-m", "x" * 1000,
                              "--repeat", "100000")
        # Nobody reads: when the publisher stands still, cat is stuck in a write.
        deadline = time.monotonic() + LONG
        while time.monotonic() < deadline:
            with open(f"/proc/{reader.process.pid}/wchan", encoding="ascii") as wchan:
                if "pipe" in wchan.read():
                    break
            time.sleep(0.02)
        reader.signal(signal.SIGTERM)
        self.assertEqual(reader.process.wait(5), 143)
        self.assertDone(publisher.finish())  # nobody is in its way any more

    def test_a_waiting_or_stuck_pub(self):
        waiting = self.tool(PUB, "t", "-n", "--wait-subs", "9", "-d")
        reading = self.tool(PUB, "t", "-d", stdin=subprocess.PIPE)
        sleeping = self.tool(PUB, "t", "-n", "--repeat", "2", "--repeat-delay", "1h", "-d")
        self.cat("u").stop()
        stuck = self.tool(PUB, "u", "-m", "x" * 1000, "--repeat", "100000", "-d")
        for publisher, number in ((waiting, signal.SIGINT), (reading, signal.SIGTERM),
                                  (sleeping, signal.SIGHUP), (stuck, signal.SIGTERM)):
            while b"publishing to" not in publisher.process.stderr.readline():
                pass
            time.sleep(0.05)  # into its wait; before it is right, too
            publisher.signal(number)
            self.assertEqual(publisher.process.wait(5), 128 + number)

    def test_ignored_signals_stay_ignored(self):
        reader = subprocess.Popen(
            [CAT, "-C", "1", "t"], env=self.environment, stdout=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
        self.addCleanup(reader.stdout.close)
        publisher = self.tool(PUB, "t", "-m", "still here", "--wait-subs", "1",
                              stdin=subprocess.DEVNULL)
        reader.send_signal(signal.SIGINT)
        self.assertDone(publisher.finish())
        self.assertEqual(reader.communicate(timeout=LONG)[0], b"still here\n")
        self.assertEqual(reader.returncode, 0)

    def test_a_closed_pipe_ends_cat_quietly(self):
        reader = self.cat("t")
        reader.process.stdout.close()
        reader.process.stdout = None
        self.assertDone(self.pub("t", "--wait-subs", "1", stdin=b"x\n"))
        _, err = reader.process.communicate(timeout=LONG)
        self.assertEqual((reader.process.returncode, err), (0, b""))

    def test_a_full_disk_is_an_error(self):
        with open("/dev/full", "wb") as full:
            reader = self.cat("t", stdout=full)
        self.assertDone(self.pub("t", "--wait-subs", "1", "-m", "x"))
        result = reader.finish()
        self.assertEqual(result.code, 1)
        self.assertIn("cannot write to standard output: No space left", result.err)


class DaemonGone(Case):
    def test_without_a_daemon_the_rings_go_on_and_the_connection_is_made_again(self):
        daemon = self.start_daemon()
        reader = self.cat("t")
        publisher = self.tool(PUB, "t", "--wait-subs", "1", stdin=subprocess.PIPE)
        send = publisher.process.stdin.fileno()
        os.write(send, b"with\n")
        self.assertEqual(reader.process.stdout.readline(), b"with\n")
        daemon.kill()
        daemon.wait()
        os.write(send, b"without\n")
        self.assertEqual(reader.process.stdout.readline(), b"without\n")
        os.unlink(os.path.join(self.directory, "bus.sock"))
        self.start_daemon()
        deadline = time.monotonic() + LONG
        reader2 = self.cat("t")  # only the new daemon knows it
        line = b""
        while not line and time.monotonic() < deadline:
            os.write(send, b"again\n")
            out, _, _ = select.select([reader2.process.stdout], [], [], 0.2)
            line = reader2.process.stdout.readline() if out else b""
        self.assertEqual(line, b"again\n")
        self.assertEqual(reader.process.stdout.readline(), b"again\n")
        publisher.process.stdin.close()
        self.assertEqual(publisher.process.wait(LONG), 0)

    def test_no_reconnect_is_exit_3(self):
        daemon = self.start_daemon()
        reader = self.cat("--no-reconnect", "t")
        two = self.cat("--no-reconnect", "t", "u")
        publisher = self.tool(PUB, "t", "--no-reconnect", "-n", "--repeat", "1000000", "--rate",
                              "50", "-d")
        while b"publishing to" not in publisher.process.stderr.readline():
            pass
        daemon.kill()
        daemon.wait()
        for tool in (reader, two, publisher):
            result = tool.finish()
            self.assertEqual(result.code, 3, result)
            self.assertIn("cannot ", result.err)


def main():
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules[__name__])
    if len(sys.argv) > 1:
        suite = unittest.defaultTestLoader.loadTestsFromNames(sys.argv[1:],
                                                              sys.modules[__name__])
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    failed = len({test.id().split(" ")[0] for test, _ in result.failures + result.errors})
    print(f"{result.testsRun - failed} passed, {failed} failed")
    return 0 if failed == 0 and result.testsRun > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
