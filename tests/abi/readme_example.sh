#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# README.md quotes readme_example.cpp word for word, and the example says what README.md says that
# it says. Arguments: README.md, readme_example.cpp, the program made of it, ipcbusd, ipcbus-pub.
set -eu
readme=$1 source=$2 example=$3 ipcbusd=$4 pub=$5

work=$(mktemp -d)
daemon=
clean_up() {
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT

# shellcheck disable=SC2016 # backticks of Markdown
sed -n '/^```cpp$/,/^```$/p' "$readme" | sed '1d;$d' >"$work/quoted"
sed -n '/^#include/,$p' "$source" >"$work/compiled"
[ -s "$work/compiled" ]
diff -u "$work/compiled" "$work/quoted"

export IPCBUS_ADDRESS="unix:$work/bus.sock"
"$ipcbusd" --listen "$IPCBUS_ADDRESS" 2>"$work/log" &
daemon=$!
"$pub" -t ready -n --connect-timeout 10s || { cat "$work/log" >&2; exit 1; }
"$example" >"$work/said"
echo "plant/7/temp: 21.5" | diff -u - "$work/said"
