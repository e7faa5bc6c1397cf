#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""ipcbus-stat as a program, beside ipcbus-pub and ipcbus-cat on a private bus: what it shows is
what goes on; who holds whom back; batches, a terminal, JSON and Prometheus; how it ends, and that
it finds a daemon again.
"""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from tool_case import LONG, PUB, Case, run_tests  # noqa: E402

STAT = os.environ["IPCBUS_TEST_STAT"]


def rows(text, title):
    """The table that begins with that title: a dictionary a line."""
    lines = text.split("\n")
    first = next(i for i, line in enumerate(lines) if line.split()[:1] == [title])
    names = lines[first].split()
    table = []
    for line in lines[first + 1:]:
        if not line:
            break
        table.append(dict(zip(names, line.split(None, len(names) - 1))))
    return table


class StatCase(Case):
    def stat(self, *words):
        return self.tool(STAT, *words).finish()

    def state(self, *words):
        result = self.stat("-1", "-j", *words)
        self.assertDone(result)
        return json.loads(result.out)

    def wait_for(self, condition, *words):
        """Looks until it is so; there is nothing that would say when."""
        end = time.monotonic() + LONG
        while True:
            state = self.state(*words)
            if condition(state):
                return state
            self.assertLess(time.monotonic(), end, state)

    def read_terminal(self, master, enough):
        seen = b""
        while not enough(seen):
            seen += os.read(master, 65536)
        return seen


class What(StatCase):
    def test_who_holds_whom_back(self):
        self.start_daemon("[publications]\nstall_timeout = \"10min\"\n")
        cat = self.cat("plant/#", "-i", "slow one", stdout=subprocess.DEVNULL)
        cat.stop()
        publisher = self.tool(PUB, "plant/7/temp", "-m", "x" * 1000, "--repeat", "100000",
                              "--ring-size", "64KiB", "--max-block", "1h")
        state = self.wait_for(lambda s: any(p["blocked"] for p in s["publications"]), "plant/#")
        self.assertEqual([p["topic"] for p in state["publications"]], ["plant/7/temp"])
        self.assertGreater(state["publications"][0]["ring_used"], 0.9)
        self.assertEqual([s["holds"] for s in state["subscriptions"]], [True])
        self.assertEqual([a["holds"] for a in state["attachments"]], [True])
        result = self.stat("--once", "--attachments")
        self.assertDone(result)
        text = result.out.decode()
        self.assertRegex(text, r"\nHELD BACK\nplant/7/temp: client \d+ \(ipcbus-pub, pid "
                               rf"{publisher.process.pid}\) waits for client \d+ \(ipcbus-cat, pid "
                               rf"{cat.process.pid}\) 'plant/#', \d\d\.\dK behind\n\Z")
        publication = rows(text, "PUBLICATION")[0]
        self.assertEqual((publication["STATE"], publication["TOPIC"], publication["RING"]),
                         ("blocked", "plant/7/temp", "64.0K"))
        self.assertIn(publication["USE"], ("98%", "99%", "100%"))
        subscription = rows(text, "SUBSCRIPTION")[0]
        self.assertEqual((subscription["STATE"], subscription["FILTER"], subscription["MODE"]),
                         ("holds", "plant/#", "reliable"))
        self.assertEqual(rows(text, "ATTACHMENT")[0]["STATE"], "holds")
        names = {row["CLIENT"]: row for row in rows(text, "CLIENT")}
        self.assertEqual(names[subscription["CLIENT"]]["NAME"].split()[0], "slow")
        cat.go_on()
        self.assertDone(publisher.finish())
        text = self.stat("--once").out.decode()
        self.assertNotIn("HELD BACK", text)

    def test_rates(self):
        self.start_daemon()
        self.cat("t", stdout=subprocess.DEVNULL)
        self.tool(PUB, "t", "-m", "hello", "--repeat", "1000000", "--rate", "1000")
        self.wait_for(lambda s: s["publications"] and s["publications"][0]["messages"] > 0)
        result = self.stat("-j", "t")
        state = json.loads(result.out)
        publication, subscription = state["publications"][0], state["subscriptions"][0]
        # Of a second in which a machine may have paused.
        self.assertLess(100, publication["messages_per_s"])
        self.assertLess(publication["messages_per_s"], 3000)
        self.assertAlmostEqual(publication["bytes_per_s"], 32 * publication["messages_per_s"],
                               delta=1)
        self.assertLess(100, subscription["received_per_s"])
        self.assertEqual(subscription["lost"], 0)

    def test_only_some_topics(self):
        self.start_daemon()
        for topic in ("a/1", "b/1", "c/1"):
            self.cat(topic, stdout=subprocess.DEVNULL)
        self.assertEqual(len(self.state()["subscriptions"]), 3)
        self.assertEqual([s["filter"] for s in self.state("a/#")["subscriptions"]], ["a/1"])
        both = self.state("-t", "a/#", "+/1", "-t", "b/1")["subscriptions"]
        self.assertEqual({s["filter"] for s in both}, {"a/1", "b/1", "c/1"})
        two = self.state("a/#", "b/1")
        self.assertEqual({s["filter"] for s in two["subscriptions"]}, {"a/1", "b/1"})
        self.assertEqual(len(two["clients"]), 2)

    def test_prometheus(self):
        self.start_daemon()
        self.cat('quo"te', stdout=subprocess.DEVNULL)
        result = self.stat("--prometheus")
        self.assertDone(result)
        name, label = r"[a-z_]+", r'[a-z]+="(?:[^"\\\n]|\\["\\n])*"'
        for line in result.out.decode().splitlines():
            self.assertRegex(line, rf"\A(?:# (?:HELP|TYPE) {name} .+|{name}(?:{{{label}(?:,{label})*}})?"
                                   r" [0-9.e+-]+)\Z")
        self.assertIn(b"\nipcbus_subscriptions 1\n", result.out)
        self.assertNotIn(b"ipcbus_publication_messages_total{", result.out)


class How(StatCase):
    def test_batches(self):
        self.start_daemon()
        self.cat("t", stdout=subprocess.DEVNULL)
        result = self.stat("--watch", "20ms", "-C", "3")
        self.assertDone(result)
        reports = re.split(r"(?m)^bus ", result.out.decode())
        self.assertEqual(reports[0], "")
        self.assertEqual(len(reports), 4)
        self.assertEqual(rows(reports[1], "SUBSCRIPTION")[0]["MSG/S"], "-")
        self.assertEqual(rows(reports[2], "SUBSCRIPTION")[0]["MSG/S"], "0")
        self.assertNotIn("\x1b", result.out.decode())
        lines = self.stat("--watch", "20ms", "-C", "3", "--json").out.splitlines()
        self.assertEqual(len(lines), 3)
        self.assertNotIn("received_per_s", json.loads(lines[0])["subscriptions"][0])
        self.assertEqual(json.loads(lines[2])["subscriptions"][0]["received_per_s"], 0)

    def test_a_terminal_is_redrawn(self):
        self.start_daemon()
        self.environment["TERM"] = "xterm"
        master, terminal = pty.openpty()
        self.addCleanup(os.close, master)
        stat = self.tool(STAT, "--watch", "20ms", stdout=terminal)
        seen = self.read_terminal(master, lambda seen: seen.count(b"\x1b[H") >= 3)
        self.assertTrue(seen.startswith(b"\x1b[H\x1b[2J\x1b[Kbus "), seen[:100])
        self.assertEqual(seen.count(b"\x1b[2J"), 1)
        self.assertIn(b"\x1b[KCLIENT ", seen)
        stat.signal(signal.SIGINT)
        self.assertEqual(stat.finish().code, 130)
        os.close(terminal)
        # Not one that cannot be redrawn.
        self.environment["TERM"] = "dumb"
        master, terminal = pty.openpty()
        self.addCleanup(os.close, master)
        self.assertEqual(self.tool(STAT, "--watch", "20ms", "-C", "2", stdout=terminal)
                         .finish().code, 0)
        os.close(terminal)
        self.assertNotIn(b"\x1b", os.read(master, 65536))

    def test_signals_and_a_reader_that_leaves(self):
        self.start_daemon()
        for words in (["--watch", "1h"], []):
            stat = self.tool(STAT, *words, "-d")
            self.assertIn(b"connected", stat.process.stderr.readline())
            stat.signal(signal.SIGTERM)
            self.assertEqual(stat.finish().code, 143)
        stat = self.tool(STAT, "--watch", "10ms")
        stat.process.stdout.read(10)
        stat.process.stdout.close()
        stat.process.stdout = None
        self.assertEqual(stat.finish().code, 0)

    def test_a_daemon_that_goes_and_comes(self):
        daemon = self.start_daemon()
        stat = self.tool(STAT, "--watch", "50ms", "-j")
        first = json.loads(stat.process.stdout.readline())
        once = self.tool(STAT, "--watch", "50ms", "-j", "--no-reconnect")
        once.process.stdout.readline()
        daemon.kill()
        daemon.wait()
        self.assertIn(b"lost the connection", stat.process.stderr.readline())
        result = once.finish()
        self.assertEqual(result.code, 3, result)
        self.assertRegex(result.err, r"\Aipcbus-stat: cannot look at the bus: [^\n]+\n\Z")
        self.assertFails(self.stat(), 3, "cannot connect")
        self.start_daemon()
        self.assertIn(b"connected again", stat.process.stderr.readline())
        other = first
        while other["bus"] == first["bus"]:
            other = json.loads(stat.process.stdout.readline())
        self.assertNotIn("sleeps_per_s", other["clients"][0])
        stat.signal(signal.SIGINT)
        self.assertEqual(stat.finish().code, 130)

    def test_what_is_wrong_is_said(self):
        self.assertFails(self.stat("a//b"), 2, "a level is empty")
        self.assertFails(self.stat("-C", "1"), 2, "--watch")
        self.assertFails(self.stat("--address", "bus.sock"), 2)
        self.assertFails(self.stat(), 3, "cannot connect")
        self.assertFails(self.stat("--address", "tcp:127.0.0.1:1"), 2,
                         "'tcp:127.0.0.1:1': statistics do not cross TCP")
        result = self.stat("--help")
        self.assertDone(result)
        self.assertIn(b"ipcbus-stat [OPTION]", result.out)
        self.assertIn(b"layout", self.stat("-V").out)
        self.start_daemon()
        self.assertFails(self.stat("-i", "n" * 65), 2, "64 bytes")
        self.assertFails(self.stat("-i", "a\x01b"), 2, "control characters")
        full = self.tool(STAT, "-1", stdout=open("/dev/full", "wb"))
        result = full.finish()
        self.assertEqual(result.code, 1, result)
        self.assertIn("standard output", result.err)


if __name__ == "__main__":
    sys.exit(run_tests())
