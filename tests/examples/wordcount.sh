#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2018,SC2019
#
# examples/wordcount killed at random moments: after each kill the heap opens and holds every file
# whose name was printed, whole, once, and at most one file more. The oracle is tr | sort | uniq -c.
#
#   FM_BUILD  the build folder (default: build)     FM_KILLS  kills to make (default: 20)
#   FM_SEED   seed of the corpus and the delays
set -u
export LC_ALL=C

root=$(cd "$(dirname "$0")/../.." && pwd)
wordcount=${FM_BUILD:-$root/build}/examples/wordcount
kills=${FM_KILLS:-20}
seed=${FM_SEED:-$(od -An -N3 -tu4 /dev/urandom | tr -d ' ')}
tests=0
failures=0

ok() { # ok STATUS NAME
	tests=$((tests + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $tests - $2"
	else
		failures=$((failures + 1))
		echo "not ok $tests - $2 (FM_SEED=$seed)"
	fi
}

echo 1..7
echo "# FM_SEED=$seed FM_KILLS=$kills"
case $wordcount in /*) ;; *) wordcount=$PWD/$wordcount ;; esac
if [ ! -x "$wordcount" ]; then
	echo "Bail out! $wordcount is missing; build the examples first"
	exit 1
fi
dir=$(mktemp -d --tmpdir fmalloc-wordcount.XXXXXX)
dir=$(realpath "$dir")
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM HUP PIPE
cd "$dir" || exit 1

# 60 files of 900 words in a folder and a folder in it; up to 20000 different words, so that the
# table grows on the way. Letters of both cases, digits, bytes above 127; no newline at the end.
make_corpus() {
	mkdir -p 'corpus/in ner'
	awk -v seed="$seed" 'BEGIN {
		srand(seed)
		split(" |, |.\n|-|7|\303\244|\t", sep, "|")
		for (f = 0; f < 60; f++) {
			name = sprintf("corpus/%sfile %02d", f % 3 ? "" : "in ner/", f)
			for (i = 0; i < 900; i++) {
				w = ""
				for (k = int(20000 * rand() * rand()) + 1; k > 0; k = int(k / 26))
					w = w sprintf("%c", (rand() < 0.1 ? 65 : 97) + k % 26)
				printf "%s%s", w, sep[1 + int(7 * rand())] >name
			}
			close(name)
		}
	}'
	: >corpus/empty
	printf 'not \0 counted' >corpus/binary
	printf 'not counted' >corpus/text.gz
	ln -s 'file 01' corpus/link
}

count_file() { tr A-Z a-z <"$1" | tr -cs a-z '\n' | sed '/^$/d' | sort | uniq -c; }

# "FILE COUNT WORD" for each file that wordcount must count, in its order.
count_each() {
	find "$dir/corpus" -type f ! -name '*.gz' ! -name binary | sort >list
	i=0
	while read -r f; do
		count_file "$f" | awk -v i=$i '{ print i, $1, $2 }'
		i=$((i + 1))
	done <list >each
}

# Do the counts in the heap equal those of the first $1 files, the list being repeated as needed?
holds() {
	awk -v n="$1" -v files="$files" '
		{ runs = int(n / files) + ($1 < n % files); c[$3] += runs * $2 }
		END { for (w in c) if (c[w]) print c[w], w }' each | sort -k1,1nr -k2,2 >expected
	"$wordcount" heap --top 1000000000 >found 2>>errors && cmp -s expected found
}

# The number of files whose counts are in the heap; fails when the heap can't be read.
files_in_heap() {
	"$wordcount" heap --query a >/dev/null 2>opened || return 1
	sed -n 's/.*us: \([0-9]*\) files.*/\1/p' opened
}

now_us() { echo $(($(date +%s%N) / 1000)); }

make_corpus
count_each
files=$(wc -l <list)

begun=$(now_us)
"$wordcount" heap corpus 2>>errors && holds "$files"
ok $? "the counts of $files files equal those of tr | sort | uniq -c"
duration=$(($(now_us) - begun))

"$wordcount" heap corpus 2>>errors && holds $((2 * files))
ok $? 'a second run adds to the counts'

awk 'NR % 1000 == 7 { print $2 }' expected >asked
while read -r w; do grep " $w\$" expected; done <asked >answers
# shellcheck disable=SC2046 # the words hold letters only
"$wordcount" heap --query $(tr a-z A-Z <asked) 2>>errors | cmp -s answers - && [ -s answers ]
ok $? 'words are found by --query'

# The kills. `sure` counts the names printed: files that may not be lost. The longest delay adapts
# itself, so that some third of the runs are killed and many kills fall into the counting.
# timeout --foreground waits for the killed process, with which its lock ends; its status 124 says
# that the process ended by itself at the last moment.
rm heap
done_kills=0
tries=0
interrupted=0
first_bad=
sure=0
before=0
while [ $done_kills -lt "$kills" ] && [ $tries -lt $((20 * kills)) ] && [ -z "$first_bad" ]; do
	tries=$((tries + 1))
	delay=$(awk -v seed="$seed" -v n=$tries -v us=$duration 'BEGIN {
		srand(seed + 7919 * n); rand(); printf "%.6f", 0.0003 + rand() * us / 1e6 }')
	{ timeout --foreground -s KILL "$delay" "$wordcount" heap -v corpus >names 2>>errors; } 2>/dev/null
	status=$?
	case $status in
	137) done_kills=$((done_kills + 1)) duration=$((duration * 21 / 20)) ;;
	0 | 124) duration=$((duration * 9 / 10)) ;;
	*) first_bad="try $tries: status $status" ;;
	esac
	printed=$(wc -l <names)
	sure=$((before + printed))
	if ! now=$(files_in_heap); then
		# Killed before there was an index; a heap that ever counted a file has one.
		[ $sure -eq 0 ] || first_bad="try $tries: $(tail -n 1 opened)"
		continue
	fi
	grep -q interrupted opened && interrupted=$((interrupted + 1))
	[ "$now" -ge $sure ] && [ "$now" -le $((sure + 1)) ] ||
		first_bad="try $tries: $before files before, $printed printed, $now in the heap"
	holds "$now" || first_bad="try $tries: the counts are not those of $now files"
	before=$now
done
[ -z "$first_bad" ] || echo "# $first_bad"
echo "# $done_kills kills in $tries runs, $interrupted of them in a run; $before files counted"
[ -z "$first_bad" ] && [ $done_kills -eq "$kills" ]
ok $? "after each of $kills kills every finished count is there, once"
[ $interrupted -gt 0 ]
ok $? 'some of the kills interrupted a run'

"$wordcount" heap corpus 2>>errors
now=$(files_in_heap) && [ "$now" -gt 0 ] && [ $((now % files)) -eq 0 ] && holds "$now"
ok $? 'the next run of the same files completes the interrupted one'

# An interrupted run is finished before other files are counted.
tries=0
: >opened
while ! grep -q interrupted opened && [ $tries -lt 200 ]; do
	tries=$((tries + 1))
	{ timeout --foreground -s KILL "$(awk -v us=$duration -v n=$tries 'BEGIN {
		printf "%.6f", (n % 20 + 1) / 20 * us / 1e6 }')" "$wordcount" heap corpus 2>>errors; } 2>/dev/null
	now=$(files_in_heap)
done
grep -q interrupted opened
was=$?
echo 'zyzzyvazyzzyva' >other
"$wordcount" heap other 2>>errors
[ $was -eq 0 ] && [ "$(files_in_heap)" -eq $(((now / files + 1) * files + 1)) ] &&
	[ "$("$wordcount" heap --query zyzzyvazyzzyva 2>>errors)" = '1 zyzzyvazyzzyva' ]
ok $? 'other files are counted after the interrupted run'

[ $failures -eq 0 ] || grep '^wordcount:' errors | sort | uniq -c | sed 's/^/# /' | head -20
exit $failures
