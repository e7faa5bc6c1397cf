# SPDX-License-Identifier: Apache-2.0
"""Boots a root directory under a real systemd, in a container without network that ends with what
it was booted for, and changes nothing of the root or of this system: the container has an overlay
of it in memory, and all mounts are in a mount namespace of its own. Takes root and systemd-nspawn;
where they, or a container that boots, may not be had, the test is skipped.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

SKIP = 77
INSIDE = "/selftest"  # in the container: where the test's own files may lie
TARGET = """[Unit]
Requires=basic.target
After=basic.target
Wants=selftest.service systemd-journald.service
AllowIsolate=yes
"""
SERVICE = """[Unit]
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
{environment}
ExecStart={command}
StandardOutput=file:/out/log
StandardError=inherit
TimeoutStartSec={seconds}
"""


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIP)


def try_to(*words):
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        skip(f"{words[0]} is refused here: {done.stderr.strip()}")


def call(*words, **options):
    done = subprocess.run([str(word) for word in words], check=False, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if done.returncode != 0:
        raise SystemExit(f"{words[0]}: exit {done.returncode}: {done.stdout}")
    return done.stdout


def enter_namespaces():
    """Starts this program again in namespaces of its own, also of pids: whatever ends us ends all
    of it."""
    if os.geteuid() != 0:
        skip("it takes root to boot a container")
    for program in ("systemd-nspawn", "systemd-sysusers", "unshare"):
        if not shutil.which(program):
            skip(f"{program} is missing (systemd-container)")
    if os.environ.get("IPCBUS_TEST_NAMESPACE") != "own":
        try_to("unshare", "--mount", "--pid", "--fork", "true")
        os.environ["IPCBUS_TEST_NAMESPACE"] = "own"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "--pid", "--fork",
                              "--kill-child", "--mount-proc", sys.executable, *sys.argv])


def boot(lower, fill, command, environment=(), seconds=110):
    """Boots an overlay of `lower`, after fill(root) has put into it what it wants, runs `command`
    there, prints what that has printed, and returns its exit status."""
    with tempfile.TemporaryDirectory(prefix="ipcbus-boot-") as name:
        top = pathlib.Path(name)
        try_to("mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(top))
        for folder in ("upper", "work", "root", "out"):
            (top / folder).mkdir()
        root = top / "root"
        mounted = subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o",
             f"lowerdir={lower},upperdir={top}/upper,workdir={top}/work", str(root)],
            check=False, capture_output=True, text=True)
        try:
            if mounted.returncode != 0:
                skip(f"no overlay of {lower} can be mounted: {mounted.stderr.strip()}")
            fill(root)
            (root / "etc/machine-id").unlink(missing_ok=True)
            (root / "etc/machine-id").write_text("")
            units = root / "etc/systemd/system"
            (units / "selftest.target").write_text(TARGET)
            (units / "selftest.service").write_text(SERVICE.format(
                command=" ".join(command), seconds=seconds,
                environment="\n".join(f"Environment={setting}" for setting in environment)))
            done = subprocess.run(
                ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network",
                 "--system-call-filter=@known", f"--bind={top}/out:/out", "--console=pipe",
                 "--boot", "-D", str(root), "systemd.unit=selftest.target"],
                check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            log = top / "out" / "log"
            if not log.exists():
                skip(f"systemd-nspawn boots nothing here: exit {done.returncode}: "
                     f"{(done.stderr or done.stdout).strip()[-500:]}")
            print(log.read_text(errors="replace"), end="", flush=True)
            return done.returncode
        finally:
            subprocess.run(["umount", "-l", str(root), str(top)], check=False,
                           capture_output=True)
