#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The benchmark of commits works, in TAP: its programs build and run for some milliseconds, with our heap, the limit and
# the peers that are installed; the page says what recorded results say. No figure of this machine is judged.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${FM_BUILD:-build}
number=0
failures=0

# $1: 0 if it holds; $2: what holds; the file log says more
ok()
{
	number=$((number + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $number - $2"
	else
		echo "not ok $number - $2"
		sed 's/^/# /' "$dir/log"
		failures=$((failures + 1))
	fi
}

skip()
{
	number=$((number + 1))
	echo "ok $number - $1 # SKIP $2"
}

if ! command -v python3 >/dev/null; then
	echo "1..1"
	echo "ok 1 - the benchmark of commits # SKIP python3 is missing"
	exit 0
fi
dir=$(mktemp -d --tmpdir fmalloc-bench-commit.XXXXXX) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM HUP

# ---------------------------------------------------------------- programs

make -s "$build/bench/commit/ours" "$build/bench/commit/limit" >"$dir/log" 2>&1 && ! grep -q warning: "$dir/log"
ok $? "our heap's program and the limit's build, without a warning"

for peer in lmdb:lmdb.h sqlite:sqlite3.h rocksdb:rocksdb/c.h pmemobj:libpmemobj.h; do
	if ! echo "#include <${peer#*:}>" | ${CC:-cc} -xc -fsyntax-only - 2>/dev/null; then
		skip "the program of ${peer%:*}" "${peer#*:} is missing"
		continue
	fi
	mkdir "$dir/peer"
	make -s "$build/bench/commit/${peer%:*}" >"$dir/log" 2>&1 && ! grep -q warning: "$dir/log" &&
		"$build/bench/commit/${peer%:*}" "$dir/peer" records=500 batch=10 ms=30 >"$dir/figures" 2>"$dir/log" &&
		grep -q '"operations": [1-9].*"checksum": 500,.*"p99_ns": [1-9]' "$dir/figures"
	ok $? "the program of ${peer%:*} builds, updates, and reads back what it wrote"
	rm -rf "$dir/peer"
done

"$build/bench/commit/ours" "$dir" records=0 >"$dir/log" 2>&1
[ $? -eq 2 ] && grep -q 'at least 1' "$dir/log"
ok $? "no records are refused"

bench/commit/run --build "$build" --trial --ms 30 --rounds 2 --files "$dir/files" --results "$dir/results.json" --out "$dir/trial" \
	commit-10 commit-1000 read threads minute resident-8 >"$dir/log" 2>&1
ok $? "two rounds of some cases, our heap in none of them failing"

python3 - "$dir/results.json" >"$dir/log" 2>&1 <<'END'
import json, sys
sys.dont_write_bytecode = True
sys.path.insert(0, "bench")
from suite import commits
runs = json.load(open(sys.argv[1]))["runs"]
by_key = {(run["case"], run["who"], run["round"]): run for run in runs}
assert len(by_key) == len(runs)
for name in ("commit-10", "commit-1000", "read", "threads-8", "minute-1", "minute-10000", "resident-8-10"):
    for who in ("ours", "ours-declared"):
        if name == "read" and who != "ours":
            continue
        run = by_key[name, who, 0]
        assert run["ns"] > 0 and run["operations"] > 0 and run["checksum"] > 0, (name, who, run)
        if name != "read":
            assert 0 < run["median_ns"] <= run["p99_ns"] <= run["longest_ns"] and run["together_ns"] > 0, run
            assert run["journal_bytes_per_update"] > 100 and run["flushes_per_commit"] >= 1, run
            assert (run["tracking"] == 4) == (who == "ours-declared"), run
        assert run["checksum"] == 20000 * (8 if name.startswith("resident-8") else 1) or name == "read", run
first = [run["who"] for run in runs if run["case"] == "commit-10"]
half = len(first) // 2
assert first[half:] == first[1:half] + first[:1], first
assert by_key["threads-8", "ours", 0]["flushes_per_commit"] >= 1
END
ok $? "each case has figures, and the contestants alternate"

ls "$dir/files" >"$dir/log"
[ ! -s "$dir/log" ]
ok $? "the stores are gone afterwards"

! bench/commit/run --build "$build" --files "$dir/files" comit >"$dir/log" 2>&1 && grep -q 'nothing is called comit' "$dir/log"
ok $? "an unknown case is refused"

# ---------------------------------------------------------------- the page

python3 - "$dir/recorded.json" >"$dir/log" 2>&1 <<'END'
import json, sys
us = {("commit-1", "limit"): (90, 100, 110), ("commit-1", "ours"): (110, 115, 300), ("commit-1", "ours-declared"): (110, 110, 110),
      ("commit-1", "sqlite"): (150, 150, 150), ("commit-10", "ours"): (100, 100, 100), ("commit-10", "lmdb"): (299, 299, 299),
      ("commit-10", "rocksdb"): (125, 125, 125), ("read", "ours"): (1, 1, 1), ("read", "lmdb"): (8, 8, 8),
      ("resident-1-1", "ours-declared"): (200, 200, 200), ("threads-8", "ours"): (28, 28, 28)}
runs = [{"case": case, "who": who, "round": i, "ns": value * 1000, "together_ns": value * 1000, "others": 0.01}
        for (case, who), values in us.items() for i, value in enumerate(values)]
runs += [{"case": "minute-10000", "who": "ours", "round": 0, "ns": 4e6, "median_ns": 4e6, "p99_ns": 41e6, "longest_ns": 5e7,
          "device_bytes_per_update": 601.0}, {"case": "commit-1", "who": "rocksdb", "round": 0, "error": "broke"}]
json.dump({"date": "-", "commit": "-", "rounds": 3, "ms": 1, "minute": 1, "records": 1000, "trial": False, "machine": {},
           "packages": {}, "load": [0, 0], "runs": runs}, open(sys.argv[1], "w"))
END
bench/commit/run --page "$dir/recorded.json" --out "$dir/page" >>"$dir/log" 2>&1
ok $? "the page is written from recorded results"

# $1: a line of the page; $2: what it shows
line()
{
	echo "not in the page: $1" >"$dir/log"
	grep -qxF -- "$1" "$dir/page/performance-commit.md"
	ok $? "$2"
}

line '| 1 update a commit: at least 0.80 of the limit | 0.87 | met |' "a bar that is met, of medians"
line '| the same, declared: at least 0.93 | 0.91 | **missed** |' "a bar that is missed"
line '| 10 updates a commit: at least 3 times LMDB | 2.99 | **missed** |' "a bar against a peer"
line '| 10 updates a commit: at least 1.25 times RocksDB | 1.25 | met |' "a bar that is just met"
line '| random reads: at least 8 times LMDB | 8.00 | met |' "reads"
line "| 1 GiB resident, 1 update a commit, declared: of the small heap's commits per second, at least 0.7 | 0.55 | **missed** |" "large heaps"
line "| 8 threads, ours: at least 4 times one thread's commits per second | 4.11 | met |" "threads"
line '| a minute, 10000 updates a commit, ours: 99th percentile within 10 medians | 10.2 | **missed** |' "the tail of commit times"
line '| a minute, 10000 updates a commit, ours: at most 600 bytes written per update | 601 | **missed** |' "bytes written"
line '| 1 | 100 us | 115 us | 110 us | - | 150 us | failed | - |' "medians of all, a failed peer is called so"
line '| 1 | **0.87** | - | 1.30 | - | - |' "ratios, a lost one is bold"

if command -v gnuplot >/dev/null; then
	python3 -c 'import sys, xml.dom.minidom as x; x.parse(sys.argv[1])' "$dir/page/performance/commits.svg" >"$dir/log" 2>&1 &&
		grep -q 'performance/commits.svg' "$dir/page/performance-commit.md"
	ok $? "the plot is SVG, and the page shows it"
else
	skip "the plot" "gnuplot is missing"
fi
echo "1..$number"
[ "$failures" -eq 0 ]
