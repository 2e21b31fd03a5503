#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# What `make demo` runs, with the words of this machine's texts, in which there are form feeds, and with a list of words.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${FM_BUILD:-$root/build}
list=$(mktemp --tmpdir fmalloc-words.XXXXXX)
trap 'rm -f "$list" "$list.out"' EXIT
failures=0

try() { # try NUMBER NAME WORDS
	if FM_WORDS=$3 sh "$root/examples/demo.sh" "$build" >"$list.out" 2>&1; then
		echo "ok $1 - $2"
	else
		failures=1
		tail -n 5 "$list.out" | sed 's/^/# /'
		echo "not ok $1 - $2"
	fi
}

echo 1..2
seq 1 100000 | sed 's/^/word/' >"$list"
try 1 'the demo with texts' /nonexistent
try 2 'the demo with a list of words' "$list"
exit $failures
