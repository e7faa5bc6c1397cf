#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the Promela models of this folder with Spin: every state of every check is visited, and no
assertion fails, no process waits for ever. And every check can fail: each model has twins, in which
one step of the protocol is left out or moved; in each of them the search must find an error.

Each model says in its head which functions of libclient and daemon it stands for, what its scale is
and what it leaves out; the heads of those files name the model. memory.pml has the memory: explicit
store buffers, as on x86-64, or weaker (-DWEAK). Whoever changes the order of a load, a store or a
fence changes the model first.

    check.py MODEL [--long]          all checks of a model; --long: the large ones
    check.py MODEL --trail FLAGS [TWIN]   one check, its shortest way into an error, step by step
    check.py MODEL --list            what would be done

The last line is "N passed, N failed"; exit status 1 if something failed, 77 (skipped) without Spin.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
MEMORY_MB = 1500
MEMORY_LONG_MB = 6000
DEPTH = 400000
SECONDS_MAX = 240
SECONDS_LONG_MAX = 1500
SKIPPED = 77

# model: (flags, twins that must fail with them). A twin stands where it is found soonest. One with
# '=' before it is a change that does no harm, as its model says: it must pass.
QUICK = {
    "ring": [
        ("-DLOSSY -DNREC=6", "NO_TERMINATOR_ROOM NO_ZERO_CHECK CHECK_FIRST NO_RECHECK_R7 "
                             "LOSS_FROM_ZERO"),
        ("-DRELIABLE -DDEMOTE -DNREC=5", "NO_CHECK_RELIABLE WRITE_OVER_CURSOR"),
        ("-DRELIABLE -DDEMOTE -DLOAN -DNREC=5", "NO_CHECK_RELEASE"),
        ("-DRELIABLE -DWRAP=3 -DNREC=5", ""),
        ("-DLATEST -DWRAP=3 -DNREC=6", ""),
        ("-DLOSSY -DCLAIM -DNREC=5", ""),
        ("-DLOSSY -DWEAK -DNREC=5", "NO_FENCE_W4 PLAIN_W8"),
    ],
    "wake": [
        ("-DNW=2 -DNMSG=1 -DSLEEP_ALL", "SHORT_LOOK_S6 BIT_LATE_A2"),
        ("-DNW=1 -DNMSG=3 -DSPUR=1",
         "NO_FENCE_P1 NO_FENCE_S5 EXCHANGE_LATE_P2 BELL_LATE_S1 SLEEPERS_LATE_S4 WORD_FIRST_A1 "
         "SUMMARY_FIRST_P6 ASLEEP_EARLY_P7 SAME_EPISODE_S2 REREAD_P4 STAYS_PARKED_A2"),
        ("-DNW=1 -DNMSG=2 -DJOIN", "NO_ROUND_DUE LOOK_BEFORE_ROUND NO_LOOK_S7 NO_FENCE_FRAMES"),
        ("-DNW=1 -DNMSG=3 -DUNFENCED",
         "NO_WORD_F1 NO_FENCE_F2 =NO_LOOK_F3 EARLY_F4 NO_BARRIER_F4 LOOK_BEFORE_BARRIER "
         "NO_ROUND_F5 =LATE_F5 =PLAIN_F5"),
        ("-DNW=1 -DNMSG=3 -DUNFENCED -DREFUSED -DWEAK", "PARKED_UNFENCED"),
        ("-DNW=1 -DNMSG=2 -DMOVE", "STAYS_PARKED_MOVE"),
        ("-DNW=2 -DNMSG=2 -DNMSG1=0 -DSAMEBIT", ""),
        ("-DNW=1 -DNMSG=2 -DNOISE=1", "NO_MEMORY_P4"),
        ("-DNW=1 -DNMSG=1 -DLIAR=1", "UNBOUNDED_WAITER"),
        ("-DNW=1 -DNMSG=2 -DSPUR=1 -DWEAK", "PLAIN_S4"),
        ("-DNW=1 -DNMSG=3 -DSPUR=1 -DLOOP",
         "NO_CHECK_E4 CHECK_FIRST_E4 NO_LEVEL_E5 SIGNAL_FIRST_E4 =CLEAR_FIRST_E3 NO_FENCE_S5 "
         "BELL_LATE_S1"),
        ("-DNW=1 -DNMSG=2 -DLOOP -DNOISE=1", "BELL_SAYS_E5 NO_CHECK_E4"),
    ],
    "full": [
        ("-DNMSG=4", "NO_FENCE_C1 NO_FENCE_B3 BELL_LATE_B1 WANTED_LATE_B2 NO_FENCE_P1 "
                     "ZERO_IS_A_CURSOR"),
        ("-DWRAP=2", "UNSIGNED"),
        ("-DNMSG=4 -DWEAK", ""),
        ("-DDIE -DNMSG=3", "ASLEEP_LATE_B2 ATTENTION_FIRST_B4 RING_EARLY NO_FENCE_FRAMES"),
        ("-DAWAY -DCAP=4 -DBATCH=2", ""),
        ("-DBATCH=3 -DNMSG=4", "NO_STORE_EMPTY"),
        ("-DMANY -DNMSG=4", "NO_FINISH"),
        ("-DSTOP -DNMSG=4", "NO_STALL"),
        ("-DLIAR=1 -DNR=2 -DNMSG=3", "ACCUSED_COUNTS_ALL"),
        ("-DADDRESSED -DAWAY -DNR=2 -DNMSG=3", "WANTED_NEEDED WANTED_ONCE"),
        ("-DADDRESSED -DAWAY -DNR=2 -DNMSG=3 -DBATCH=2", "NO_STORE_RECEIVED"),
    ],
    "addressed": [
        ("-DNREC=7", "HOLD_AT_RECORD"),
        ("-DNREC=9 -DSMALL=3 -DSMALL_FROM=6", "HOLD_AT_MARK"),
        ("-DNREC=10 -DSMALL=0", "NO_LOOK_AGAIN"),
        ("-DNREC=7 -DDEMOTE", "LOOK_LATE_H2 LOST_TO_FLOOR"),
        ("-DNREC=7 -DWRAP=8", ""),
    ],
    "join": [
        ("-DNREC=5", "NO_FENCE_J2 START_FIRST NO_LOOK_M1 NOT_WAITED RAISE_TOO_FAR "
                     "NEWEST_BEFORE_WORD START_AT_NEWEST"),
        ("-DNREC=5 -DWEAK", ""),
        ("-DNREC=5 -DWRAP=3", "ZERO_IS_NONE"),
        ("-DNREC=4 -DLEAVE", "NOTHING_OWED"),
        ("-DNREC=3 -DNR=2 -DREUSE", "SLOT_NOT_CLEARED"),
        ("-DNREC=5 -DMANY -DK=9", "NO_LOOK_W5"),
        ("-DNREC=5 -DHISTORY -DK=6", "NO_MARGIN_J4 =MARK_BEFORE_WORD NO_FENCE_J2 RAISE_TOO_FAR"),
    ],
    "succession": [
        ("-DRINGS=3 -DNREC=4", "READ_AT_ONCE NOTHING_EXPECTED SEQUENCE_ANEW SEQUENCE_EARLY "
                               "NOT_CLOSED CLOSED_EARLY NEWEST_HELD"),
        ("-DRINGS=2 -DNREC=4 -DDIE", "ENDED_AT_ONCE"),
        ("-DRINGS=3 -DNREC=4 -DORPHAN", "DROPPED_UNREAD LOSS_FORGOTTEN"),
    ],
}
LONG = {
    "ring": [
        ("-DLOSSY -DNREC=8", ""),
        ("-DRELIABLE -DDEMOTE -DNREC=6", ""),
        ("-DRELIABLE -DDEMOTE -DLOAN -DNREC=6", ""),
        ("-DRELIABLE -DNREC=7 -DWRAP=5", ""),
        ("-DLATEST -DNREC=7", ""),
        ("-DRELIABLE -DLOSSY -DNREC=4", ""),
        ("-DRELIABLE -DDEMOTE -DCLAIM -DNREC=5", ""),
        ("-DLOSSY -DWEAK -DLOAN -DNREC=6", ""),
        ("-DRELIABLE -DDEMOTE -DWEAK -DNREC=6", ""),
        ("-DLATEST -DWEAK -DNREC=6", ""),
        ("-DLOSSY -DSTRIDE=2 -DNREC=7", ""),
    ],
    "wake": [
        ("-DNW=2 -DNMSG=1", ""),
        ("-DNW=2 -DNMSG=1 -DSPUR=1", ""),
        ("-DNW=2 -DNMSG=1 -DWEAK", ""),
        ("-DNW=1 -DNMSG=3 -DJOIN", ""),
        ("-DNW=1 -DNMSG=2 -DJOIN -DWEAK", "NO_ROUND_DUE NO_FENCE_FRAMES"),
        ("-DNW=1 -DNMSG=1 -DNR=2", ""),
        ("-DNW=2 -DNMSG=1 -DMOVE -DSLEEP_ALL", ""),
        ("-DNW=1 -DNMSG=3 -DUNFENCED -DWEAK", "NO_FENCE_F2 NO_BARRIER_F4 =NO_LOOK_F3 =PLAIN_F5"),
        ("-DNW=2 -DNMSG=2 -DNMSG1=0 -DUNFENCED", "NO_BARRIER_F4"),
        ("-DNW=1 -DNMSG=2 -DUNFENCED -DJOIN", "NO_ROUND_DUE"),
        ("-DNW=1 -DNMSG=2 -DNOISE=2", ""),
        ("-DNW=2 -DNMSG=1 -DSPUR=1 -DLOOP -DSLEEP_ALL", ""),
        ("-DNW=1 -DNMSG=2 -DLOOP -DJOIN", ""),
        ("-DNW=1 -DNMSG=2 -DLOOP -DNOISE=2", ""),
        ("-DNW=1 -DNMSG=2 -DSPUR=1 -DLOOP -DWEAK", "NO_CHECK_E4"),
        ("-DNW=1 -DNMSG=2 -DLIAR=2", ""),
    ],
    "full": [
        ("-DNMSG=6", ""),
        ("-DDIE -DNMSG=5", ""),
        ("-DDIE -DNMSG=4 -DWEAK", ""),
        ("-DAWAY -DCAP=4 -DBATCH=2 -DWEAK", ""),
        ("-DNR=2 -DCAP=2 -DNMSG=2", ""),
        ("-DLIAR=2 -DNR=2 -DNMSG=4", "NO_STALL"),
    ],
    "addressed": [
        ("-DNREC=8", ""),
        ("-DNREC=7 -DTO=2 -DDEMOTE", ""),
        ("-DNREC=7 -DSMALL=1 -DDEMOTE -DWEAK", ""),
    ],
    "join": [
        ("-DNREC=7", ""),
        ("-DNREC=6 -DWEAK", ""),
        ("-DNREC=6 -DWRAP=5", ""),
        ("-DNREC=6 -DMANY -DK=9", "CHANGE_UNSEEN NO_FENCE_W4"),
        ("-DNREC=3 -DNR=2", ""),
        ("-DNREC=4 -DNR=2 -DREUSE", ""),
        ("-DNREC=3 -DNR=2 -DREUSE -DWEAK", "SLOT_EARLY"),
        ("-DNREC=6 -DHISTORY -DK=6 -DWEAK", ""),
        ("-DNREC=7 -DHISTORY -DK=6 -DCAP=16", ""),
    ],
    "succession": [
        ("-DRINGS=4 -DNREC=5 -DORPHAN", ""),
        ("-DRINGS=3 -DNREC=5 -DDIE -DORPHAN", ""),
    ],
}


class Checker:
    def __init__(self, model, long):
        self.model = model
        self.long = long
        self.passed = 0
        self.failed = 0

    def build(self, folder, flags, *options):
        """pan, the program that visits the states of one check, in `folder`."""
        for name in ("memory.pml", f"{self.model}.pml"):
            shutil.copy(HERE / name, folder)
        memory = MEMORY_LONG_MB if self.long else MEMORY_MB
        compiler = os.environ.get("CC", "gcc").split()
        for command in (
            ["spin", "-a", *flags.split(), f"{self.model}.pml"],
            [*compiler, "-w", "-O2" if self.long else "-O1", "-DSAFETY", "-DCOLLAPSE",
             "-DVECTORSZ=4096", f"-DMEMLIM={memory}", *options, "-o", "pan", "pan.c"],
        ):
            made = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
            if made.returncode != 0 or "Error" in made.stdout:
                raise RuntimeError(f"{' '.join(command)}: {made.stdout}{made.stderr}")

    def search(self, folder, twin):
        """What pan says: (what went wrong with the search itself or "", error or "", states)."""
        environment = dict(os.environ, TWIN=twin)
        try:
            done = subprocess.run(["./pan", f"-m{DEPTH}"], cwd=folder, text=True, check=False,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
                                  timeout=SECONDS_LONG_MAX if self.long else SECONDS_MAX)
        except subprocess.TimeoutExpired:
            return "it took too long", "", 0
        states = re.search(r"([\d.e+]+) states, stored", done.stdout)
        errors = re.search(r"errors: (\d+)", done.stdout)
        if states is None or errors is None:
            return "pan: " + done.stdout[-300:].strip(), "", 0
        error = re.search(r"^pan:1: (.*?) \(at depth \d+\)", done.stdout, re.MULTILINE)
        what = error[1] if error else ""
        fault = ""
        if "max search depth too small" in done.stdout:
            fault = "the search was not deep enough"
        elif any(text in done.stdout for text in ("out of memory", "memory limit", "MEMLIM bound")):
            fault = "out of memory"
        elif "sb[" in what or "invalid array index" in what:
            fault = "the model itself is wrong: " + what
        elif (int(errors[1]) != 0) != bool(what):
            fault = "pan contradicts itself"
        return fault, what, int(float(states[1]))

    def tell(self, good, text):
        self.passed += good
        self.failed += not good
        print(f"{'ok    ' if good else 'FAILED'} {self.model} {text}", flush=True)

    def check(self, flags, twins):
        with tempfile.TemporaryDirectory(prefix="model-") as folder:
            try:
                self.build(folder, flags)
            except RuntimeError as error:
                self.tell(False, f"{flags}: {error}")
                return
            for entry in ["", *twins.split()]:
                twin = entry.lstrip("=")
                harmless = entry != twin
                began = time.monotonic()
                fault, error, states = self.search(folder, twin)
                took = f"{states} states, {time.monotonic() - began:.1f} s"
                if fault:
                    self.tell(False, f"{flags} {twin}: {fault}")
                elif harmless:
                    self.tell(error == "", f"{flags}, harmless {twin}: {took}" +
                              (error and f": {error}"))
                elif twin:
                    self.tell(error != "", f"{flags}, twin {twin}: " + (
                        f"found after {took}" if error else f"NOT found in {took}"))
                else:
                    self.tell(error == "", f"{flags}: {took}" + (error and f": {error}"))

    def check_twins_used(self):
        """Every twin that the model lists is looked for somewhere."""
        listed = set(re.findall(r"\bX\((\w+)\)", (HERE / f"{self.model}.pml").read_text()))
        used = {twin.lstrip("=") for table in (QUICK, LONG) for _, twins in table[self.model]
                for twin in twins.split()}
        if listed != used:
            self.tell(False, f"twins that are nowhere looked for, or not there: {listed ^ used}")

    def trail(self, flags, twin):
        with tempfile.TemporaryDirectory(prefix="model-") as folder:
            self.build(folder, flags, "-DBFS")
            fault, error, states = self.search(folder, twin)
            print(f"{self.model} {flags} {twin}: {fault or error or 'no error'} ({states} states)")
            if error:
                self.build(folder, flags)
                replay = subprocess.run(["./pan", "-r", f"{self.model}.pml.trail"], cwd=folder,
                                        text=True, capture_output=True, check=False,
                                        env=dict(os.environ, TWIN=twin))
                print(replay.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(QUICK))
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--trail", nargs="+", metavar=("FLAGS", "TWIN"))
    arguments = parser.parse_args()
    checks = (LONG if arguments.long else QUICK)[arguments.model]
    if arguments.list:
        for flags, twins in checks:
            print(arguments.model, flags, twins and f"(twins: {twins})")
        return 0
    for program in ("spin", os.environ.get("CC", "gcc").split()[-1]):
        if shutil.which(program) is None:
            print(f"skipped: {program} is not installed (Debian: apt install spin gcc)")
            return SKIPPED
    checker = Checker(arguments.model, arguments.long)
    if arguments.trail:
        checker.trail(arguments.trail[0], " ".join(arguments.trail[1:]))
        return 0
    checker.check_twins_used()
    for flags, twins in checks:
        checker.check(flags, twins)
    print(f"{checker.passed} passed, {checker.failed} failed")
    return 1 if checker.failed or not checker.passed else 0


if __name__ == "__main__":
    sys.exit(main())
