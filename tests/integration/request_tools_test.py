#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""ipcbus-req and ipcbus-reply as programs: what goes in and out, statuses and exit codes, several
of each, and what ends them. Real processes against a private ipcbusd (tool_case.py); nothing is
waited for by sleeping: responders tell when they serve (--ready-fd), commands tell that they run
through FIFOs.
"""

import json
import os
import pathlib
import signal
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))

from tool_case import LONG, Case  # noqa: E402

REQ = os.environ["IPCBUS_TEST_REQ"]
REPLY = os.environ["IPCBUS_TEST_REPLY"]
# What a time-out would take, unless it is what is tested.
FAR = f"{10 * LONG}s"
# Every byte there is, often enough to fill pipes.
BINARY = bytes(range(256)) * 800


class RequestCase(Case):
    def setUp(self):
        super().setUp()
        self.adopt_orphans()
        self.start_daemon()

    def reply(self, *words, **options):
        """An ipcbus-reply that serves, and goes on."""
        options.setdefault("ready", True)
        return self.tool(REPLY, *words, **options)

    def req(self, *words, stdin=b"", timeout=FAR, **options):
        words = words if "-W" in words else (*words, "-W", timeout)
        return self.tool(REQ, *words, stdin=-1, **options).finish(stdin=stdin)

    def fifo(self, name):
        path = os.path.join(self.directory, name)
        os.mkfifo(path)
        return path

    def assertEnds(self, pid):
        """It is dead, or is so soon; perhaps nobody has taken note of it."""
        deadline = time.monotonic() + LONG
        while time.monotonic() < deadline:
            try:
                with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                    if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                        return
            except FileNotFoundError:
                return
            time.sleep(0.001)
        self.fail(f"process {pid} goes on")

    def assertRequestFails(self, result, code, text, out=b""):
        self.assertEqual((result.code, result.out), (code, out), result)
        self.assertRegex(result.err, r"\Aipcbus-req: [^\n]+\n\Z")
        self.assertIn(text, result.err)


class Answers(RequestCase):
    def own_uid(self):
        """As the other side is told: of a remote client, what stands for its host."""
        if "IPCBUS_TEST_TCP" not in os.environ:
            return os.getuid()
        value = 2166136261
        for byte in b"host:127.0.0.1":
            value = (value ^ byte) * 16777619 % 2**32
        return 2**31 + value % (2**31 - 3)

    def test_echo(self):
        self.reply("echo", "--echo")
        self.assertDone(self.req("echo", "-m", "hello"), b"hello\n")
        self.assertDone(self.req("-t", "echo", "-n"), b"\n")
        self.assertDone(self.req("echo", "-m", "hello", "-N"), b"hello")
        self.assertDone(self.req("echo", stdin=b"1\n2\n\n3"), b"1\n2\n\n3\n")
        self.assertDone(self.req("echo", "-0", stdin=b"a\nb\0c"), b"a\nb\nc\n")
        self.assertDone(self.req("echo", "-s", "-N", stdin=BINARY), BINARY)
        self.assertDone(self.req("echo", "-m", "hi", "-x"), b"6869\n")

    def test_text(self):
        self.reply("text", "-m", "as ever")
        self.assertDone(self.req("text", stdin=b"1\n2\n"), b"as ever\nas ever\n")

    def test_exec_gets_the_request_and_who_asks(self):
        self.reply("calc/#", "--exec",
                   'printf "%s %s %s " "$IPCBUS_TOPIC" "$IPCBUS_SIZE" "$IPCBUS_UID"; cat')
        self.assertDone(self.req("calc/a/b", "-m", "1+2"), b"calc/a/b 3 %d 1+2\n" % self.own_uid())

    def test_exec_is_binary_safe_and_may_ignore_its_input(self):
        self.reply("cat", "--exec", "cat")
        path = os.path.join(self.directory, "binary")
        pathlib.Path(path).write_bytes(BINARY)
        self.assertDone(self.req("cat", "-f", path, "-N"), BINARY)
        self.reply("true", "--exec", "true")
        self.assertDone(self.req("true", "-f", path), b"\n")

    def test_exit_status(self):
        self.reply("exit", "--exec", 'read n; echo "it was $n"; exit $n')
        self.assertDone(self.req("exit", "-m", "0", "-N"), b"it was 0\n")
        self.assertRequestFails(self.req("exit", "-m", "77", "-N"), 6, "status 77",
                                b"it was 77\n")
        quiet = self.req("exit", "-m", "3", "-q", "-F", "%S\\n")
        self.assertEqual((quiet.code, quiet.out, quiet.err), (6, b"3\n", ""), quiet)
        # One that went wrong does not end the rest.
        some = self.req("exit", "-F", "%S %s\\n", stdin=b"0\n1\n0\n")
        self.assertEqual((some.code, some.out), (6, b"0 1\n1 2\n0 3\n"), some)
        self.reply("kill", "--exec", "kill -9 $$")
        self.assertRequestFails(self.req("kill", "-n", "-N"), 6, f"status {128 + 9}")
        self.reply("none", "--exec", "/there/is/no/such/program 2>/dev/null")
        self.assertRequestFails(self.req("none", "-n", "-N"), 6, "status 127")

    def test_formats(self):
        self.reply("form", "--echo")
        reply = json.loads(self.req("form", "-m", "hello", "-j").out)
        self.assertEqual((reply["topic"], reply["payload"], reply["status"], reply["request"],
                          reply["size"]), ("form", "hello", 0, 1, 5))
        self.assertIn("responder", reply)
        self.assertEqual(reply["uid"], self.own_uid())
        self.assertIn("time", reply)
        self.assertDone(self.req("form", "-m", "x", "-F", "%t|%p|%x|%l|%s|%S|%u|%%\\n"),
                        b"form|x|78|1|1|0|%d|%%\n" % self.own_uid())
        self.assertRequestFails(self.req("form", "-F", "%L"), 2, "unknown token '%L'")

    def test_a_reply_larger_than_is_taken(self):
        self.reply("big", "--exec", "head -c 5000 /dev/zero", "-q")
        result = self.req("big", "-n", "--max-reply", "1000", "-F", "%S %p")
        self.assertEqual(result.code, 6, result)
        self.assertTrue(result.out.startswith(b"125 a reply of 5000 bytes is larger"), result)
        self.assertDone(self.req("big", "-n", "-N"), bytes(5000))
        self.reply("odd", "--exec", "head -c 5000 /dev/zero; exit 125", "-q")
        result = self.req("odd", "-n", "--max-reply", "1000", "-F", "%S %p")
        self.assertEqual((result.code, result.out[:31]), (6, b"125 a reply of 5000 bytes is la"))

    def test_a_command_without_end(self):
        server = self.reply("yes", "--exec", "yes | cat")
        result = self.req("yes", "-n", "-F", "%S %p")
        self.assertEqual(result.code, 6, result)
        self.assertRegex(result.out, rb"\A125 cannot run 'yes \| cat': it has written more than")
        # What is left running may go on writing: what was there when the command ended counts.
        self.reply("left", "--exec", "yes & echo done")
        result = self.req("left", "-n", "-N", "--max-reply", "4MiB", "-F", "%S\\n%p")
        self.assertEqual(result.code, 0, result)
        lines = result.out.split(b"\n")
        self.assertEqual((lines[0], lines.count(b"done")), (b"0", 1), lines[:9])
        server.stop()

    def test_a_command_that_takes_too_long(self):
        path = os.path.join(self.directory, "child")
        self.reply("long", "--exec-timeout", "300ms", "--exec",
                   f"read how; [ $how = short ] || {{ sleep 1000 & echo $! >{path}; "
                   "[ $how = deaf ] && trap '' TERM; while :; do :; done; }")
        self.assertDone(self.req("long", "-m", "short", "-N"))
        for how in ("long", "deaf"):
            result = self.req("long", "-m", how, "-F", "%S %p")
            self.assertEqual(result.code, 6, result)
            self.assertRegex(result.out, rb"\A125 cannot run .*: it did not end within 300ms\Z")
            with open(path, encoding="ascii") as file:
                child = int(file.read())
            self.assertEnds(child)  # it is of the same group
        self.assertDone(self.req("long", "-m", "short", "-N"))


class Who(RequestCase):
    def test_nobody(self):
        self.assertRequestFails(self.req("nobody", "-m", "x"), 7, "nobody serves 'nobody'")
        self.cat("#")  # reads messages: no responder
        self.cat("nobody")
        self.assertRequestFails(self.req("nobody", "-a", "-m", "x"), 7, "nobody serves")

    def test_requests_are_no_messages(self):
        reader = self.cat("-v", "#", "-C", "1")
        self.reply("t", "--echo")
        self.assertDone(self.req("t", "-m", "request"), b"request\n")
        self.assertDone(self.pub("t", "-m", "message"))
        self.assertDone(reader.finish(), b"t message\n")

    def test_wait_responders(self):
        waiting = self.tool(REQ, "later", "-m", "x", "--wait-responders", "2", "-W", FAR)
        self.reply("later", "--echo")
        self.reply("+", "--echo")
        self.assertDone(waiting.finish(), b"x\n")
        self.assertRequestFails(self.req("later", "-n", "--wait-responders", "3", "-W", "50ms"),
                                124, "2 of 3 responders")

    def test_all(self):
        for i in range(3):
            self.reply("who", "-m", str(i))
        result = self.req("who", "-a", "-n")
        self.assertDone(result)
        self.assertEqual(sorted(result.out.split()), [b"0", b"1", b"2"])
        two = self.req("who", "-C", "2", "-n")
        self.assertDone(two)
        self.assertEqual(len(two.out.split()), 2)
        four = self.req("who", "-C", "4", "-n")
        self.assertEqual((four.code, len(four.out.split())), (1, 3), four)
        self.assertIn("3 of 4", four.err)
        one = self.req("who", "-n", stdin=b"")
        self.assertEqual(len(one.out.split()), 1)

    def test_shared(self):
        for i in range(2):
            self.reply("shared", "-m", str(i))
        result = self.req("shared", stdin=b"\n" * 10)
        self.assertDone(result)
        self.assertEqual(sorted(result.out.split()), [b"0"] * 5 + [b"1"] * 5)


class Ends(RequestCase):
    def test_count_and_timeout(self):
        server = self.reply("c", "--echo", "-C", "2")
        self.assertDone(self.req("c", stdin=b"1\n2\n"), b"1\n2\n")
        self.assertDone(server.finish(), b"")
        late = self.tool(REPLY, "c", "--echo", "-C", "2", "-W", "20ms").finish()
        self.assertEqual(late.code, 124, late)
        self.assertIn("0 came within 20ms", late.err)

    def test_deadline(self):
        # Each its own: whoever writes to one that is still being read is read by the one before.
        gates = [self.fifo(f"gate{i}") for i in range(3)]
        server = self.reply("slow", "--exec", f"read i; cat {self.directory}/gate$i")
        self.assertRequestFails(self.req("slow", "-m", "0", "-W", "50ms"), 124, "within 50ms")
        with open(gates[0], "wb") as writer:  # its reply is nobody's: the next is answered rightly
            writer.write(b"late")
        second = self.tool(REQ, "slow", "-m", "1", "-N", "-W", FAR)
        with open(gates[1], "wb") as writer:
            writer.write(b"in time")
        self.assertDone(second.finish(), b"in time")
        server.stop()
        self.assertRequestFails(self.req("slow", "-m", "2", "-W", "50ms"), 124, "within 50ms")
        server.go_on()

    def test_death_in_the_middle(self):
        for number in (signal.SIGKILL, signal.SIGABRT):
            running, gate = self.fifo(f"running{number}"), self.fifo(f"gate{number}")
            server = self.reply("die", "--exec", f"echo >{running}; cat {gate}")
            asking = self.tool(REQ, "die", "-n", "-W", FAR)
            with open(running, "rb") as reader:
                reader.read()
            server.signal(number)
            self.assertRequestFails(asking.finish(), 1, "has gone before it answered")
            with open(gate, "wb"):  # its command ends, too
                pass

    def test_a_signal_is_passed_on_and_the_request_answered(self):
        running, gate = self.fifo("running"), self.fifo("gate")
        server = self.reply("stop", "--exec",
                            f"trap 'echo stopped; exit 9' TERM; echo >{running}; read x <{gate}")
        asking = self.tool(REQ, "stop", "-n", "-N", "-F", "%S %p", "-W", FAR)
        with open(running, "rb") as reader:
            reader.read()
        server.signal(signal.SIGTERM)
        result = asking.finish()
        self.assertEqual((result.code, result.out), (6, b"9 stopped\n"), result)
        self.assertEqual(server.finish().code, 128 + signal.SIGTERM)

    def test_background_commands_are_not_waited_for(self):
        gate = self.fifo("gate")
        self.reply("back", "--exec", f"(cat {gate}) & echo done")
        self.assertDone(self.req("back", "-n", "-N"), b"done\n")
        with open(gate, "wb"):
            pass

    def test_signals_end_req(self):
        gate, running = self.fifo("gate"), self.fifo("running")
        self.reply("never", "--exec", f"echo >{running}; cat {gate}")
        asking = self.tool(REQ, "never", "-n", "-W", FAR)
        with open(running, "rb") as reader:
            reader.read()
        asking.signal(signal.SIGINT)
        self.assertEqual(asking.finish().code, 128 + signal.SIGINT)
        with open(gate, "wb"):
            pass

    def test_usage(self):
        for words in (["t", "-m", "x", "-n"], ["a/+", "-m", "x"], [], ["a", "b"],
                      ["a", "-C", "0"], ["a", "--max-reply", "1GiB"]):
            self.assertRequestFails(self.req(*words), 2, "")
        for words in (["t"], ["t", "--echo", "-m", "x"], ["--echo"], ["a", "b", "--echo"],
                      ["a//b", "--echo"], ["t", "--exec", ""], ["t", "--echo", "--ready-fd", "1"],
                      ["t", "--echo", "--exec-timeout", "1s"]):
            result = self.tool(REPLY, *words).finish()
            self.assertEqual((result.code, result.out), (2, b""), result)
            self.assertRegex(result.err, r"\Aipcbus-reply: [^\n]+\n\Z")
        for tool in (REQ, REPLY):
            self.assertDone(self.tool(tool, "--help").finish())
            self.assertDone(self.tool(tool, "--version").finish())
            missing = self.tool(tool, "t", "--address", "unix:/nonexistent/s",
                                *(["--echo"] if tool == REPLY else ["-n"])).finish()
            self.assertEqual(missing.code, 3, missing)


if __name__ == "__main__":
    unittest.main()
