#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""ipcbus-bench as a program: every mode against a private ipcbusd, its numbers consistent with each
other, its exit codes; and above all that a message that is wrong or lost does not go unnoticed:
somebody else publishes on its topic, its reader is stopped until it is overtaken. How fast
anything is is not tested.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from tool_case import DAEMON, LONG, PUB, Case  # noqa: E402

BENCH = os.environ["IPCBUS_TEST_BENCH"]
SHORT = ["--duration", "20ms", "--warmup", "5ms", "--slice", "1ms"]
PERCENTILES = ["min", "p50", "p90", "p99", "p99.9", "p99.99", "max"]


def children_of(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def name_of(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
            return file.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class BenchCase(Case):
    def start(self, *words):
        return self.tool(BENCH, *words)

    def bench(self, *words):
        return self.start(*words).finish()

    def measured(self, *words):
        """The JSON of a run that must do well."""
        result = self.bench(*words, "--json")
        self.assertEqual((result.code, result.err), (0, ""), result)
        self.assertEqual(result.out.count(b"\n"), 1, result)
        return json.loads(result.out)

    def child(self, tool, name):
        """Waits until the tool has a child of that name, and returns its pid."""
        deadline = time.monotonic() + LONG
        while time.monotonic() < deadline and tool.process.poll() is None:
            for pid in children_of(tool.process.pid):
                if name_of(pid) == name:
                    return pid
            time.sleep(0.001)
        raise AssertionError(f"no {name}: {tool.finish()}")

    def assertDistribution(self, found, count=None):
        values = [found[name] for name in PERCENTILES]
        self.assertEqual(values, sorted(values), found)
        self.assertGreater(found["count"], 0)
        self.assertLessEqual(found["min"], found["mean"])
        self.assertLessEqual(found["mean"], found["max"])
        if count is not None:
            self.assertEqual(found["count"], count, found)

    def assertQuartiles(self, found, count):
        self.assertEqual(found["count"], count, found)
        self.assertGreater(found["p25"], 0)
        self.assertLessEqual(found["p25"], found["p50"])
        self.assertLessEqual(found["p50"], found["p75"])

    def assertClasses(self, classes):
        self.assertEqual(len({one["class"] for one in classes}), len(classes))
        self.assertLessEqual({one["class"] for one in classes},
                             {"sibling", "near", "far", "one-cpu", "mixed"})
        self.assertAlmostEqual(sum(one["share"] for one in classes), 1, places=3)
        for one in classes:
            self.assertGreater(one["ping_pong_ns"], 0)


class WithoutDaemon(BenchCase):
    def test_wrong_usage_is_exit_2_with_one_line(self):
        for words in [[], ["speed"], ["latency", "connect"], ["-Z", "latency"], ["--nonsense"],
                      ["latency", "--readers", "2"], ["control", "--size", "1"],
                      ["connect", "--wait", "spin"], ["throughput", "--clients", "2"],
                      ["fanout", "--readers", "65"], ["fanout", "--readers", "0"],
                      ["latency", "--wait", "hard"], ["latency", "--mode", "best"],
                      ["latency", "--size", "1TB"], ["latency", "--size"],
                      ["latency", "--duration", "soon"], ["latency", "--duration", "0"],
                      ["latency", "--repeat", "0"], ["latency", "--pin", "0-"],
                      ["latency", "--pin", "99999"], ["latency", "--untouched"],
                      ["throughput", "--batch", "2", "--in-place"],
                      ["throughput", "--batch", "0"], ["latency", "--daemon", "/bin/true"],
                      ["latency", "--private", "--address", self.address],
                      ["latency", "--topic", "a/#"], ["latency", "--address", "nonsense"],
                      ["control", "--publications", "2", "--matches", "3"]]:
            with self.subTest(words):
                self.assertFails(self.bench(*words), 2)

    def test_help_and_version_go_to_stdout(self):
        result = self.bench("--help")
        self.assertDone(result)
        for word in (b"latency", b"--private", b"--json", b"Exit:"):
            self.assertIn(word, result.out)
        self.assertTrue(self.bench("-V").out.startswith(b"ipcbus-bench "))

    def test_no_daemon_is_exit_3(self):
        self.assertFails(self.bench("latency"), 3, "cannot connect")

    def test_a_private_daemon_that_does_not_start_is_exit_3(self):
        for path in ("/nonexistent", "/bin/false"):
            self.assertFails(self.bench("latency", "--private", "--daemon", path), 3,
                             f"cannot start ipcbusd: {path} ended")

    def test_messages_that_do_not_fit(self):
        self.start_daemon()
        self.assertFails(self.bench("throughput", "--size", "64KiB", "--ring", "64KiB", *SHORT), 2,
                         "a larger --ring allows more")
        self.assertFails(self.bench("throughput", "--size", "128MiB", *SHORT), 1,
                         "publications.ring_bytes_max")


class PrivateBus(BenchCase):
    """--private: nothing is left, however it ends."""

    def setUp(self):
        super().setUp()
        self.environment["TMPDIR"] = self.directory
        # It is not looked at: there is nobody.
        self.environment["IPCBUS_ADDRESS"] = "unix:/nonexistent/bus.sock"

    def test_it_finds_the_daemon_of_its_build_tree(self):
        measured = self.measured("latency", "--private", *SHORT)
        self.assertGreater(measured["all"]["messages"], 0)
        self.assertIn("daemon_cpu_ns", measured["all"])
        self.assertEqual(os.listdir(self.directory), [])

    def test_a_daemon_that_is_named(self):
        self.measured("connect", "--private", "--daemon", DAEMON, *SHORT[:4])
        self.assertEqual(os.listdir(self.directory), [])

    def processes(self, tool, name):
        self.child(tool, name)
        return children_of(tool.process.pid)

    def test_a_signal_ends_all_of_it(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            tool = self.start("throughput", "--private", "--duration", "50s")
            pids = self.processes(tool, "bench-reader-0")
            self.assertIn("ipcbusd", [name_of(pid) for pid in pids])
            tool.signal(number)
            result = tool.finish()
            self.assertEqual((result.code, result.out), (128 + number, b""), result)
            self.assertEqual([pid for pid in pids if is_alive(pid)], [])
            self.assertEqual(os.listdir(self.directory), [])

    def test_nobody_survives_a_parent_that_is_killed(self):
        tool = self.start("throughput", "--private", "--duration", "50s")
        pids = self.processes(tool, "bench-reader-0")
        tool.signal(signal.SIGKILL)
        tool.finish()
        deadline = time.monotonic() + LONG
        while any(is_alive(pid) for pid in pids):
            self.assertLess(time.monotonic(), deadline, "somebody is still there")
            time.sleep(0.005)


class Modes(BenchCase):
    def setUp(self):
        super().setUp()
        self.start_daemon()

    def assertLatency(self, result):
        self.assertDistribution(result["one_way_ns"], result["messages"] // 2)
        self.assertClasses(result["classes"])
        for one in result["classes"]:
            self.assertDistribution(one["one_way_ns"])
        self.assertEqual(sum(one["one_way_ns"]["count"] for one in result["classes"]),
                         result["one_way_ns"]["count"])

    def test_latency(self):
        for wait, extra in itertools.product(
                ("spin", "adaptive", "sleep"),
                ([], ["--in-place", "--size", "100000"], ["--read-in-place", "--size", "1"],
                 ["--in-place", "--untouched", "--size", "1MiB"], ["--mode", "latest"])):
            with self.subTest(wait=wait, extra=extra):
                measured = self.measured("latency", "--wait", wait, *extra, *SHORT)
                self.assertEqual(measured["options"]["wait"], wait)
                self.assertEqual(len(measured["runs"]), 1)
                self.assertEqual(measured["runs"][0], measured["all"])
                self.assertLatency(measured["all"])

    def test_request(self):
        for wait, extra in itertools.product(
                ("spin", "adaptive", "sleep"),
                ([], ["--size", "0"], ["--size", "100000"], ["--ring", "64KiB"])):
            with self.subTest(wait=wait, extra=extra):
                measured = self.measured("request", "--wait", wait, *extra, *SHORT)
                result = measured["all"]
                self.assertGreater(result["requests"], 0)
                self.assertEqual(result["request_ns"]["count"], result["requests"])
                self.assertEqual(2 * result["one_way_ns"]["count"], result["messages"])
                ratio = result["request_ns"]["p50"] / result["one_way_ns"]["p50"]
                # Written with six digits.
                self.assertAlmostEqual(result["ratio"], ratio, delta=ratio * 1e-5)
        repeated = self.measured("request", "--repeat", "2", *SHORT)
        self.assertEqual(sum(run["requests"] for run in repeated["runs"]),
                         repeated["all"]["requests"])

    def test_repeats_are_added_up(self):
        measured = self.measured("latency", "--repeat", "3", *SHORT)
        self.assertEqual(len(measured["runs"]), 3)
        for run in measured["runs"]:
            self.assertLatency(run)
        self.assertLatency(measured["all"])
        self.assertEqual(sum(run["messages"] for run in measured["runs"]),
                         measured["all"]["messages"])

    def assertStream(self, measured, readers=1):
        options = measured["options"]
        for result in measured["runs"] + [measured["all"]]:
            self.assertEqual(result["received"] + result["lost"], readers * result["published"])
            self.assertGreaterEqual(result["published"], result["messages"])
            self.assertGreater(result["messages"], 0)
            self.assertAlmostEqual(result["rate"] * result["seconds"] / result["messages"], 1,
                                   places=3)
            self.assertAlmostEqual(result["bytes_per_second"], result["rate"] * options["size"],
                                   delta=result["rate"] * options["size"] / 1000)
            self.assertQuartiles(result["messages_per_second"], result["slices"])
            self.assertQuartiles(result["writer_cpu_ns"], result["slices"])
            self.assertClasses(result["classes"])
            self.assertEqual(sum(one["slices"] for one in result["classes"]), result["slices"])
        if options["mode"] == "reliable":
            self.assertEqual(measured["all"]["lost"], 0)

    def test_throughput_of_all_sizes(self):
        for size in ("0", "1", "7", "8", "15", "16", "63", "64", "65", "513", "4096", "300001"):
            with self.subTest(size=size):
                self.assertStream(self.measured("throughput", "--size", size, *SHORT))

    def test_throughput_in_all_ways(self):
        for size, extra in itertools.product(
                ("5", "64", "5000"),
                (["--in-place"], ["--read-in-place"], ["--batch", "16"], ["--read-batch", "64"],
                 ["--in-place", "--read-batch", "7"], ["--in-place", "--untouched"],
                 ["--wait", "spin", "--ring", "64KiB"], ["--wait", "sleep", "--repeat", "2"])):
            with self.subTest(size=size, extra=extra):
                self.assertStream(self.measured("throughput", "--size", size, *extra, *SHORT))

    def test_fanout(self):
        for readers, extra in ((1, []), (3, ["--batch", "8"]), (16, ["--wait", "sleep"])):
            with self.subTest(readers=readers):
                measured = self.measured("fanout", "--readers", str(readers), *extra, *SHORT)
                self.assertStream(measured, readers)
                self.assertGreater(measured["all"]["burst_writer_cpu_ns"]["count"], 0)

    def test_connect(self):
        measured = self.measured("connect", "--ring", "64KiB", *SHORT[:4])
        result = measured["all"]
        self.assertEqual(result["ring_bytes"], 65536)
        count = result["total_ns"]["count"]
        for phase in ("connect", "advertise", "subscribe", "message", "total", "close"):
            self.assertDistribution(result[phase + "_ns"], count)
        self.assertGreaterEqual(result["total_ns"]["max"], result["connect_ns"]["max"])

    def test_control(self):
        for clients, publications, subscriptions, matches, processes in (
                (1, 1, 1, 1, 1), (20, 103, 50, 10, 3), (3, 40, 7, 40, 4), (5, 5, 5, 0, 2),
                (2, 0, 0, 0, 2)):
            words = ["--clients", str(clients), "--publications", str(publications),
                     "--subscriptions", str(subscriptions), "--matches", str(matches),
                     "--processes", str(processes)]
            with self.subTest(words):
                result = self.measured("control", *words)["all"]
                self.assertEqual(result["attachments"], subscriptions * matches)
                self.assertEqual(result["received"], subscriptions * matches)
                operations = {one["phase"]: one["operations"] for one in result["phases"]}
                self.assertEqual(operations, {
                    "connect": clients, "advertise": publications, "subscribe": subscriptions,
                    "attach": subscriptions * matches, "message": subscriptions * matches,
                    "close": clients})
                self.assertGreaterEqual(sum(one["wall_ns"] for one in result["phases"]),
                                        result["set_up_ns"])
                self.assertGreater(result["daemon_rss_bytes"], 0)

    def test_for_people(self):
        for mode, words in (("latency", ["p99.99", "round trips: size, sequence and every byte"]),
                            ("request", ["x one way", "of all checked, none lost"]),
                            ("throughput", ["writer CPU", "checked, none lost"]),
                            ("fanout", ["in bursts", "checked, none lost"]),
                            ("connect", ["subscribe", "the message of each checked"])):
            result = self.bench(mode, *SHORT[:4], "--repeat", "2")
            self.assertDone(result)
            for word in words:
                self.assertIn(word, result.out.decode())
        result = self.bench("control", "--clients", "3", "--publications", "5")
        self.assertDone(result)
        self.assertIn(b"set up (all before the messages) in ", result.out)


class WrongMessages(BenchCase):
    """The run fails, with the exit code of what happened and one line that says it."""

    def intruder(self, topic, *words):
        """Publishes to the topic as soon as somebody is subscribed there."""
        return self.tool(PUB, topic, "--wait-subs", "1", *words)

    def test_somebody_else_publishes(self):
        self.start_daemon()
        zeros = os.path.join(self.directory, "zeros")
        with open(zeros, "wb") as file:
            file.write(bytes(64))
        for words, fault in ((["-m", "wrong"], "5 bytes instead of 64"),
                             (["-n"], "0 bytes instead of 64"),
                             (["-f", zeros], "byte "),
                             (["-f", "/bin/true"], "bytes instead of 64")):
            for mode in (["throughput"], ["fanout", "--readers", "2"],
                         ["throughput", "--read-in-place"], ["throughput", "--mode", "lossy"]):
                with self.subTest(words=words, mode=mode):
                    intruder = self.intruder("t/stream", *words)
                    result = self.bench(*mode, "--topic", "t", "--duration", "20s")
                    self.assertFails(result, 1, " is corrupt: ")
                    self.assertIn(fault, result.err)
                    self.assertDone(intruder.finish())

    def test_somebody_else_publishes_in_the_middle(self):
        self.start_daemon()
        for mode, topic, name in (("throughput", "t/stream", "bench-reader-0"),
                                  ("latency", "t/ping", "bench-answerer"),
                                  ("latency", "t/pong", "bench-asker")):
            with self.subTest(topic=topic):
                tool = self.start(mode, "--topic", "t", "--duration", "20s")
                self.child(tool, name)
                self.assertDone(self.intruder(topic, "-m", "x" * 64).finish())
                self.assertFails(tool.finish(), 1, " is corrupt: ")

    def test_the_publishers_own_bytes_on_another_topic_are_no_fault(self):
        self.start_daemon()
        intruder = self.intruder("t/stream/x", "-m", "x")
        self.measured("throughput", "--topic", "t", *SHORT)
        intruder.close()

    def stop_and_go(self, tool, pid):
        """Stops the process for longer than it takes to overtake it, again and again, until the
        tool has ended."""
        deadline = time.monotonic() + LONG
        while tool.process.poll() is None and time.monotonic() < deadline:
            try:
                os.kill(pid, signal.SIGSTOP)
                try:
                    tool.process.wait(0.3)
                except subprocess.TimeoutExpired:
                    pass
                os.kill(pid, signal.SIGCONT)
                tool.process.wait(0.05)
            except (subprocess.TimeoutExpired, ProcessLookupError):
                pass
        return tool.finish()

    def test_a_reliable_reader_that_is_passed_by_has_lost_messages(self):
        self.start_daemon('[publications]\nstall_timeout = "50ms"\n')
        for extra in ([], ["--read-in-place"], ["--batch", "16"]):
            with self.subTest(extra):
                tool = self.start("throughput", "--ring", "64KiB", "--duration", "20s", "--warmup",
                                  "0", "--slice", "20s", *extra)
                result = self.stop_and_go(tool, self.child(tool, "bench-reader-0"))
                self.assertFails(result, 5, "lost by a reliable subscriber")

    def test_what_a_lossy_reader_loses_is_counted_and_fails_a_strict_run(self):
        self.start_daemon()
        for mode, extra in (("lossy", []), ("lossy", ["--read-in-place"]),
                            ("lossy", ["--read-batch", "64"]), ("latest", [])):
            with self.subTest(mode=mode, extra=extra):
                # 15 messages fill the ring, and the first slice has 64 already. Slices may become
                # longer than it takes to stop and go on: so none is shortened until a stop finds
                # the ring with room for the rest of it, however slow the machine is.
                words = ["throughput", "--mode", mode, "--ring", "64KiB", "--size", "4KiB",
                         "--duration", "2s", "--warmup", "0", "--slice", "1s", "--strict",
                         "--json", *extra]
                tool = self.start(*words)
                result = self.stop_and_go(tool, self.child(tool, "bench-reader-0"))
                self.assertEqual(result.code, 5, result)
                self.assertRegex(result.err,
                                 rf"\Aipcbus-bench: \d+ messages? lost by .* {mode}\n\Z")
                measured = json.loads(result.out)["all"]
                self.assertGreater(measured["lost"], 0)
                self.assertEqual(measured["received"] + measured["lost"], measured["published"])

    def test_a_member_that_is_killed_fails_the_run(self):
        self.start_daemon()
        tool = self.start("throughput", "--duration", "20s")
        os.kill(self.child(tool, "bench-writer"), signal.SIGKILL)
        self.assertFails(tool.finish(), 1, "ended by signal 9")

    def test_without_the_daemon_messages_go_on_unless_told_otherwise(self):
        daemon = self.start_daemon()
        # The second ends when the daemon does, so it may be told to take long.
        for extra, code in ((["--duration", "2s"], 0),
                            (["--duration", "60s", "--no-reconnect"], 3)):
            with self.subTest(extra):
                if daemon.poll() is not None:
                    daemon = self.start_daemon()
                tool = self.start("throughput", "--topic", "t", *extra)
                self.assertDone(self.tool(PUB, "t/other", "-n").finish())
                self.child(tool, "bench-reader-0")
                self.wait_for_messages(tool)
                daemon.kill()
                daemon.wait()
                self.assertEqual(tool.finish().code, code)

    def wait_for_messages(self, tool):
        """Until its reader has worked: CPU time is spent once all are attached."""
        pid = self.child(tool, "bench-reader-0")
        deadline = time.monotonic() + LONG
        ticks = 0
        while ticks < 10 and tool.process.poll() is None:
            self.assertLess(time.monotonic(), deadline)
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                ticks = int(file.read().rsplit(")", 1)[1].split()[11])
            time.sleep(0.005)


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
