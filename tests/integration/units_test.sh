#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# units_test.sh IPCBUSD UNIT...: systemd finds no fault with the units as they are installed, and
# the service stays locked up. Needs no running systemd; skipped where its tools are not there.
set -eu

ipcbusd=$(realpath "$1")
shift
command -v systemd-analyze >/dev/null || exit 77

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The units name the installed daemon, which `verify` looks for: give it the built one.
for unit; do
    sed "s,^ExecStart=[^ ]*,ExecStart=$ipcbusd," "$unit" >"$work/$(basename "$unit")"
done

SYSTEMD_UNIT_PATH="$work:" systemd-analyze verify --man=no "$work"/*.service "$work"/*.socket \
    >"$work/complaints" 2>&1 || { cat "$work/complaints"; exit 1; }
if [ -s "$work/complaints" ]; then
    cat "$work/complaints"
    exit 1
fi

# Exposure from 0 (nothing) to 10; in tenths here, and 0.5 as this is written.
systemd-analyze security --offline=true --threshold=15 --no-pager "$work/ipcbusd.service" \
    >"$work/exposure" || { cat "$work/exposure"; exit 1; }
tail -n 1 "$work/exposure"
