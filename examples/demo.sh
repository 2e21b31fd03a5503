#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2018,SC2019
#
# demo.sh BUILD: the examples at work, each line of counts checked against tr, sort and uniq.
# Exits non-zero when something differs from what it should be.
#
#   FM_WORDS  a file of words for kv (default: /usr/share/dict/words; where there is none, the texts of the first part)
set -eu
export LC_ALL=C

bin=$(cd "$1" && pwd)/examples
dir=$(mktemp -d --tmpdir fmalloc-demo.XXXXXX)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM HUP PIPE
cd "$dir"

say() { printf '\n== %s\n' "$*"; }
die() { printf 'demo: FAILED: %s\n' "$*" >&2; exit 1; }

# The files that wordcount takes by default, found without it: real paths, no .gz, no zero byte.
list_corpus() {
	for f in /usr/share/common-licenses/* /usr/share/doc/*/copyright; do
		if [ -f "$f" ]; then printf '%s\n' "$f"; fi
	done | xargs -d '\n' realpath | grep -v '\.gz$' | sort -u | xargs -d '\n' grep -LaP '\0' | sort
}

# "COUNT WORD" of the files listed in $1, most frequent first; awk ends each file by a newline.
count_independently() {
	[ -s "$1" ] || return 0
	xargs -d '\n' awk 1 <"$1" | tr A-Z a-z | tr -cs a-z '\n' | sed '/^$/d' | sort | uniq -c |
		awk '{ print $1, $2 }'
}

# Compare the heap with $1 whole runs and the first $2 files of another.
check() {
	head -n "$2" corpus >part
	count_independently part >part.counts
	awk -v runs="$1" 'FILENAME == "all.counts" { n[$2] += runs * $1; next } { n[$2] += $1 }
		END { for (w in n) if (n[w]) print n[w], w }' all.counts part.counts |
		sort -k1,1nr -k2,2 >expected
	"$bin/wordcount" words.heap --top 1000000000 >found 2>log || die "$(cat log)"
	cmp expected found || die 'the heap and the independent count differ'
	[ -s found ] || die 'no counts'
	printf 'checked: all %d counts equal those of tr | sort | uniq -c over %s\n' "$(wc -l <found)" "$3"
}

# What is in the heap, from what wordcount reports at opening: "opened in 80 us: 768 files, ..."
report() {
	"$bin/wordcount" words.heap --query the 2>opened >/dev/null || die "$(cat opened)"
	cat opened
}
files_in() { printf '%s\n' "$1" | sed 's/.*us: \([0-9]*\) files.*/\1/'; }

for program in list list_cpp; do
	[ -x "$bin/$program" ] || die "$bin/$program is missing"
	say "$program: a linked list, written by the first process and read by the second"
	"$bin/$program" $program.heap
	"$bin/$program" $program.heap >second
	tr '\n' ' ' <second
	echo
	grep -q '[0-9]' second || die "$program found no list"
done

say 'wordcount: the first process counts the licence texts and copyright files of this machine'
list_corpus >corpus
files=$(wc -l <corpus)
count_independently corpus >all.counts
"$bin/wordcount" words.heap 2>&1
check 1 0 "$files files"

say 'the second process answers from the reopened heap'
"$bin/wordcount" words.heap --top 5 2>&1
"$bin/wordcount" words.heap --query licence license warranty 2>&1

say 'a third process is killed (SIGKILL) while it counts the same files again'
mkfifo names
tries=0
status=0
while [ $status -ne 137 ]; do
	tries=$((tries + 1))
	[ $tries -le 20 ] || die "counting $files files is over before it can be killed"
	before=$(files_in "$(report)")
	"$bin/wordcount" words.heap -v >names 2>log &
	pid=$!
	seen=0
	exec 3<names
	while [ $seen -lt $((files / 3)) ] && read -r _ <&3; do
		seen=$((seen + 1))
	done
	kill -9 $pid 2>/dev/null || :
	status=0
	wait $pid 2>/dev/null || status=$?
	seen=$((seen + $(wc -l <&3)))
	exec 3<&-
done
echo "killed when it had printed the names of $seen finished files"
opened=$(report)
echo "$opened"
now=$(files_in "$opened")
# One file more may be in the heap than was printed: the one whose name was about to be.
more=$((now - before - seen))
[ $more -eq 0 ] || [ $more -eq 1 ] || die "$seen files were finished, $((more + seen)) are there"
check $((now / files)) $((now % files)) "the $now files that are finished"

say 'the fourth process completes the run'
"$bin/wordcount" words.heap 2>&1
now=$(files_in "$(report)")
[ $((now % files)) -eq 0 ] || die "the run is not complete: $now files of $files"
check $((now / files)) 0 "$now files"

say 'kv: the words of this machine go into an atomic heap, and the process is killed (SIGKILL) meanwhile'
words=${FM_WORDS:-/usr/share/dict/words}
if [ -s "$words" ]; then
	cat "$words" >text
else
	# kv takes all of these for spaces, and awk does not
	xargs -d '\n' cat <corpus | tr -d '\0' | tr '\t\f\r\v' '    ' >text
fi
lines=$(wc -l <text)

# What the heap must hold when the first $1 lines are committed: each word with the last line that it is in.
expect_words() {
	head -n "$1" text | awk '{ for (i = 1; i <= NF; i++) at[$i] = NR } END { for (w in at) print w "\t" at[w] }' |
		sort -t "$(printf '\t')" -k1,1 >expected
}

mkfifo commits
tries=0
status=0
while [ $status -ne 137 ]; do
	tries=$((tries + 1))
	[ $tries -le 20 ] || die "loading $lines lines is over before it can be killed"
	rm -f kv.heap
	"$bin/kv" kv.heap load text 100 >commits 2>log &
	pid=$!
	exec 3<commits
	while read -r sure _ <&3 && [ "$sure" -lt $((lines / 3)) ]; do :; done
	kill -9 $pid 2>/dev/null || :
	status=0
	wait $pid 2>/dev/null || status=$?
	while read -r more _ <&3; do sure=$more; done
	exec 3<&-
done
echo "killed when it had printed that $sure of $lines lines are committed"
"$bin/kv" kv.heap scan '' >found 2>log || die "$(cat log)"
now=$sure
expect_words "$now"
# One commit more may be there than was printed: the one that was about to be.
cmp -s expected found || { now=$((sure + 100)) && expect_words "$now"; }
cmp expected found || die "the heap is neither the last commit nor the one after it"
printf 'checked: the heap is exactly its commit of %d lines: %d words, as awk and sort find them\n' "$now" "$(wc -l <found)"

say 'another process loads the rest, and others ask'
"$bin/kv" kv.heap load text 10000 | tail -n 1
"$bin/kv" kv.heap scan '' >found
expect_words "$lines"
cmp expected found || die 'the loaded words and those that awk finds differ'
printf 'checked: all %d words are those of awk and sort\n' "$(wc -l <found)"
word=$(sed -n "$(($(wc -l <found) / 2))p" found | cut -f 1)
"$bin/kv" kv.heap scan "$word"
"$bin/kv" kv.heap put "$word" 'a value of its own'
printf '%s: %s\n' "$word" "$("$bin/kv" kv.heap get "$word")"
"$bin/kv" kv.heap del "$word"
"$bin/kv" kv.heap get "$word" && die "$word is still there"
printf '%s is deleted\n' "$word"
