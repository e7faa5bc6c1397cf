#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What libipcbus.so exports, what libipcbus.map names and what ipcbus.h declares must be the same
# functions: a name too few breaks programs when they link, a name too many can never be taken
# away. And the library must not yield. Usage: exports.sh LIBRARY MAP HEADER; prints what is wrong,
# exits 1 if anything is.
set -eu
export LC_ALL=C
library=$1 map=$2 header=$3

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

# Defined dynamic symbols; the version node itself is an absolute one (type A).
nm -D --defined-only "$library" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' |
    sort >"$directory/library"
grep -oE '^[[:space:]]*ipcbus_[a-z0-9_]+;' "$map" | tr -d ' \t;' | sort >"$directory/map"
# Comments out, declarations on one line each, then the name before the first parenthesis.
sed -e 's,/\*.*\*/,,' -e '/\/\*/,/\*\//d' -e '/^#/d' "$header" | tr '\n' ' ' | tr ';' '\n' |
    grep IPCBUS_EXPORT | sed -E 's/^[^(]*[ *](ipcbus_[a-z0-9_]+)\(.*/\1/' |
    sort >"$directory/header"

status=0
compare() {
    if ! diff "$directory/$1" "$directory/$2" >"$directory/diff"; then
        echo "$1 (<) and $2 (>) differ:"
        grep '^[<>]' "$directory/diff"
        status=1
    fi
}
[ -s "$directory/header" ] || { echo "no functions found in $header"; exit 1; }
compare header map
compare map library
if nm -D --undefined-only "$library" | grep -w sched_yield; then
    echo "the library yields: libclient/protocol/spin_budget.hpp says why it must not"
    status=1
fi
exit $status
