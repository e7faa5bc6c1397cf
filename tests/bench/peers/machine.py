# SPDX-License-Identifier: Apache-2.0
"""What kind of machine this is: without it a figure says nothing."""

import os
import pathlib
import platform
import subprocess


def read(path, otherwise=""):
    try:
        return pathlib.Path(path).read_text().strip()
    except OSError:
        return otherwise


def cpu_times():
    """Of all CPUs together, in ticks: total and what the hypervisor took away."""
    fields = [int(field) for field in read("/proc/stat").split("\n")[0].split()[1:]]
    return sum(fields[:8]), fields[7]


def caches():
    found = []
    for index in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind = {"Data": "d", "Instruction": "i"}.get(read(index / "type"), "")
        shared = read(index / "shared_cpu_list")
        found.append(f"L{read(index / 'level')}{kind} {read(index / 'size')} (CPU {shared})")
    return ", ".join(found)


def virtualisation():
    try:
        detected = subprocess.run(["systemd-detect-virt", "--vm"], capture_output=True, text=True)
        return detected.stdout.strip() or "unknown"
    except OSError:
        hypervisor = " hypervisor" in read("/proc/cpuinfo")
        return "yes" if hypervisor else "no"


def describe(before):
    """`before`: cpu_times() when the run began."""
    model = next((line.split(":", 1)[1].strip() for line in read("/proc/cpuinfo").split("\n")
                  if line.startswith("model name")), platform.machine())
    total, stolen = (now - then for now, then in zip(cpu_times(), before))
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "caches": caches(),
        "kernel": platform.release(),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "none visible"),
        "virtualised": virtualisation(),
        "steal_percent": round(100 * stolen / total, 2) if total else 0.0,
    }


def show(about):
    print(f"{about['cpus']} CPUs, {about['cpu']}; {about['caches']}")
    print(f"kernel {about['kernel']}; frequency governor: {about['governor']}; virtualised: "
          f"{about['virtualised']}; stolen by the hypervisor during the run: "
          f"{about['steal_percent']} %")
