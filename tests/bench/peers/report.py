# SPDX-License-Identifier: Apache-2.0
"""Tables of what compare_run measured: medians and ratios within a class, and the targets."""

import collections
import statistics

CLASSES = ("sibling", "near", "far")
PAIRS_MIN = 3
SHARE_MIN = 0.03  # of all slices, for a class to be shown
SLEEPS_MIN = 0.9  # of the round trips of a slice in which both sides are to sleep


def show_time(ns):
    for limit, divisor, unit in ((1e3, 1, "ns"), (1e6, 1e3, "us"), (1e9, 1e6, "ms")):
        if ns < limit:
            return f"{ns / divisor:.3g} {unit}" if ns / divisor < 1000 else f"{ns / divisor:.0f} {unit}"
    return f"{ns / 1e9:.3g} s"


def show_rate(ns):
    rate = 1e9 / ns if ns > 0 else 0
    for limit, divisor, unit in ((1e3, 1, ""), (1e6, 1e3, " k"), (1e9, 1e6, " M")):
        if rate < limit:
            return f"{rate / divisor:.3g}{unit}/s"
    return f"{rate / 1e9:.3g} G/s"


class Report:
    def __init__(self, results, control):
        self.tasks = results["tasks"]
        self.left_out = results["left_out"]
        self.control = control
        self.pooled = {}
        self.rounds = collections.defaultdict(dict)  # (workload, peer, class): round: value
        self.dropped = collections.Counter()         # workload: slices of no class
        self.awake = collections.Counter()           # (workload, peer): slices that did not sleep
        self.daemon_ran = [0, 0]  # slices in which it did, all
        for slice_ in results["slices"]:
            self.take(slice_)
        for pool in results["pooled"]:
            task = self.tasks[pool["task"]]
            self.pooled[task["workload"], task["peer"], pool["distance"]] = pool
        self.targets = self.judge()

    def take(self, slice_):
        task = self.tasks[slice_["task"]]
        workload, peer = task["workload"], task["peer"]
        if peer == "ipcbus":
            self.daemon_ran[0] += slice_["server_cpu_ns"] > 0
            self.daemon_ran[1] += 1
        if workload == "latency-sleep":
            sleeps = min(slice_["writer_sleeps"], slice_["reader_sleeps"])
            if sleeps < SLEEPS_MIN * slice_["count"]:
                self.awake[workload, peer] += 1
                return
        if slice_["distance"] == "mixed":
            self.dropped[workload] += 1
            return
        key = workload, peer, slice_["distance"]
        self.rounds[key][slice_["round"]] = slice_["value_ns"]

    # -------------------------------------------------------------------- numbers

    def median(self, workload, peer, distance):
        values = self.rounds.get((workload, peer, distance), {}).values()
        return statistics.median(values) if values else None

    def ratio(self, above, below, distance):
        """Median of the ratios of two (workload, peer) by round; of medians if too few rounds have
        both; None if one of them was not measured in this class."""
        a = self.rounds.get((*above, distance), {})
        b = self.rounds.get((*below, distance), {})
        pairs = [a[number] / b[number] for number in a if b.get(number)]
        if len(pairs) >= PAIRS_MIN:
            return statistics.median(pairs)
        if not a or not b:
            return None
        return statistics.median(a.values()) / statistics.median(b.values())

    def percentile(self, workload, peer, distance, name):
        pool = self.pooled.get((workload, peer, distance))
        return pool[name] if pool else None

    def slices_of(self, distance):
        return sum(len(rounds) for key, rounds in self.rounds.items() if key[2] == distance)

    def classes(self):
        """Those with enough slices to tell something."""
        least = SHARE_MIN * sum(len(rounds) for rounds in self.rounds.values())
        return [name for name in CLASSES if self.slices_of(name) > least]

    # -------------------------------------------------------------------- targets

    def judge(self):
        rows = []

        def judged(what, distance):
            """The targets are for CPUs that are near; far has one of its own."""
            return distance in ("", "near") or (distance == "far" and what == "x bare loop, every")

        def row(workload, what, measured, limit, at_most, distance=""):
            if measured is None:
                return
            met = measured <= limit if at_most else measured >= limit
            sign = "<=" if at_most else ">="
            rows.append({"workload": workload, "what": what, "class": distance,
                         "target": f"{sign} {limit:g}", "measured": measured,
                         "met": met if judged(what, distance) else None})

        for distance in self.classes():
            self.judge_class(row, distance)
        self.judge_control(row)
        return rows

    def judge_class(self, row, distance):
        def of(workload, peer="ipcbus"):
            return workload, peer

        def time(name, workload, below, limit, what):
            row(name, what, self.ratio(of(workload), below, distance), limit, True, distance)

        def rate(name, workload, other, limit, what):
            row(name, what, self.ratio(other, of(workload), distance), limit, False, distance)

        line, futex = "bare cache line", "bare futex"
        name = "64 B one way, spinning"
        time(name, "latency-spin", of("latency-spin", line), 1.5, "p50 / bare cache line")
        p99 = [self.percentile("latency-spin", peer, distance, "p99_ns") for peer in ("ipcbus", line)]
        row(name, "p99 / its p99", p99[0] / p99[1] if all(p99) else None, 3, True, distance)
        name = "64 B one way, sleeping"
        time(name, "latency-sleep", of("latency-sleep", futex), 1.1, "/ bare futex")
        for peer in ("pipe", "Unix stream", "Unix seqpacket"):
            time(name, "latency-sleep", of("latency-sleep", peer), 1, f"/ {peer}")
        time("adaptive ping-pong", "latency-adaptive", of("latency-spin"), 1.2, "/ spinning")
        bare = of("stream-64", "bare loop, every")
        name = "64 B, a call a message"
        rate(name, "stream-64", bare, 1.2 if distance == "far" else 1.4, "x bare loop, every")
        rate(name, "stream-64", of("stream-64", "pipe"), 20, "x pipe")
        rate(name, "stream-64", of("stream-64", "ZeroMQ ipc"), 8, "x ZeroMQ")
        rate("64 B in batches", "batch-64", of("batch-64", "bare loop, every 16"), 0.9,
             "x bare loop, every 16")
        for size in ("1KiB", "64KiB", "1MiB"):
            workload = f"stream-{size}"
            copies = [peer for peer in ("copying, memcpy", "copying, wide")
                      if self.median(workload, peer, distance)]
            if copies:
                best = min(copies, key=lambda peer: self.median(workload, peer, distance))
                rate(f"{size} copied in, read in place", workload, of(workload, best), 0.9,
                     f"x {best}")
        time("1 MiB in place, latency", "latency-in-place-1MiB", of("latency-spin"), 2, "/ 64 B")
        self.judge_tcp(row, distance)
        for readers in (8, 64):
            time("CPU time of a publish", f"publish-cost-{readers}", of("publish-cost-1"), 1.3,
                 f"{readers} readers / 1")
        for readers in (1, 2, 3, 4):
            rate("readers that share a CPU", f"shared-cpu-{readers}", bare, 0.8,
                 f"{readers}: x bare loop, 1 to 1")
        time("8 sleeping readers", "wake-8", of("wake-8", futex), 1.2, "/ bare futex wakes")
        for workload in ("rings-latency", "rings-drain"):
            time("1,000 rings, one active", f"{workload}-1000", of(f"{workload}-1"), 1.5,
                 f"/ one ring ({workload.split('-')[1]})")

    def judge_tcp(self, row, distance):
        """From a remote publisher to a remote subscriber."""
        for workload, size, below, limit in (
                ("tcp-stream-64", "64 B", "NATS", 3),
                ("tcp-stream-64", "64 B", "mosquitto tcp", 3),
                ("tcp-stream-16KiB", "16 KiB", "bare TCP", 0.7)):
            row(f"{size} over TCP", f"x {below}",
                self.ratio((workload, below), (workload, "ipcbus tcp"), distance), limit, False,
                distance)
        row("64 B over TCP, one way", "p50 / bare TCP relay",
            self.ratio(("tcp-latency", "ipcbus tcp"), ("tcp-latency", "bare TCP relay"), distance),
            1.2, True, distance)

    def judge_control(self, row):
        idle = [value for key, values in self.rounds.items() if key[0] == "idle-waiter"
                for value in values.values()]
        if idle:
            row("idle waiter", "CPU, % of one", statistics.median(idle) / 1e7, 0.1, True)
        for name, limit in (("connect", 500), ("connect-64KiB", 300)):
            if result := self.bench_result(name):
                ring = "default ring" if name == "connect" else "ring of 64 KiB"
                row("connect to first message", f"p50, us, {ring}",
                    result["total_ns"]["p50"] / 1e3, limit, True)
        self.judge_crowd(row)
        if self.daemon_ran[1]:
            row("daemon while messages flow", "slices in which it ran, %",
                100 * self.daemon_ran[0] / self.daemon_ran[1], 1, True)

    def bench_result(self, name):
        """What ipcbus-bench found."""
        return self.control[name]["all"] if name in self.control else None

    def judge_crowd(self, row):
        """2,000 clients, 10,000 publications, 1,000 subscriptions of 10 matches each; and what the
        daemon spends on the same 1,000 matches beside few rings and beside many."""
        crowd = self.bench_result("control")
        if crowd is None:
            return
        name = "2,000 clients, 10,000 rings"
        row(name, "set up, s", crowd["set_up_ns"] / 1e9, 5, True)
        if "daemon_rss_bytes" in crowd:
            # Its own, and what it shares that is not rings: the pages of its clients.
            rings = crowd["ring_bytes"] * sum(phase["operations"] for phase in crowd["phases"]
                                              if phase["phase"] == "advertise")
            pages = max(0, crowd["daemon_shared_bytes"] - rings)
            beside = crowd["daemon_rss_bytes"] + pages
            row(name, "daemon beside rings, MiB", beside / 2**20, 200, True)
        costs = {run: phase["daemon_cpu_ns"] for run in ("match-many", "match-few")
                 if (result := self.bench_result(run))
                 for phase in result["phases"]
                 if phase["phase"] == "subscribe" and "daemon_cpu_ns" in phase}
        if len(costs) == 2:
            row(name, "a match / with 1,000 rings", costs["match-many"] / costs["match-few"],
                1.5, True)

    # --------------------------------------------------------------------- tables

    def show(self):
        for absent in self.left_out:
            print(f"left out: {absent['peer']}: {absent['why']}")
        for (workload, peer), count in sorted(self.awake.items()):
            print(f"thrown away: {workload}, {peer}: {count} slices in which not both sides slept")
        if self.dropped:
            print(f"thrown away: {sum(self.dropped.values())} slices during which the distance "
                  "of the CPUs changed")
        for distance in CLASSES:
            if distance in self.classes():
                self.show_class(distance)
            elif count := self.slices_of(distance):
                print(f"not shown: {count} slices of class {distance}")
        self.show_targets()

    def show_class(self, distance):
        lines = [values for (_, peer, name), values in self.rounds.items()
                 if name == distance and peer == "bare cache line"]
        one_way = statistics.median(v for values in lines for v in values.values()) if lines else None
        told = f" (bare cache line one way: {show_time(one_way)})" if one_way else ""
        print(f"\nclass {distance}{told}: medians; times as long as ipcbus, by round\n")
        print(f"  {'workload':24} {'':24} {'median':>9} {'rate':>10} {'x ipcbus':>9} {'p99':>9} "
              f"{'slices':>7}")
        last = None
        for task in self.tasks:
            workload, peer = task["workload"], task["peer"]
            value = self.median(workload, peer, distance)
            if value is None:
                continue
            own = "ipcbus tcp" if workload.startswith("tcp-") else "ipcbus"
            ratio = self.ratio((workload, peer), (workload, own), distance)
            p99 = self.percentile(workload, peer, distance, "p99_ns")
            rate = "" if task["ping_pong"] else show_rate(value)
            print(f"  {workload if workload != last else '':24} {peer:24} {show_time(value):>9} "
                  f"{rate:>10} {f'{ratio:.2f}' if ratio else '-':>9} "
                  f"{show_time(p99) if p99 else '':>9} "
                  f"{len(self.rounds[workload, peer, distance]):7}")
            last = workload

    def show_targets(self):
        if not self.targets:
            return
        print("\ntargets (for class near; what was measured in other classes is only shown)\n")
        print(f"  {'workload':30} {'':28} {'class':8} {'target':>8} {'measured':>9}")
        for row in self.targets:
            verdict = {True: "met", False: "NOT MET", None: ""}[row["met"]]
            print(f"  {row['workload']:30} {row['what']:28} {row['class']:8} {row['target']:>8} "
                  f"{row['measured']:>9.3g}  {verdict}")
