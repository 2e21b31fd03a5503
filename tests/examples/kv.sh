#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# examples/kv: what it stores is what awk and sort say, and after a kill at a random moment of load or put the
# heap is exactly a commit: all that was acknowledged, and at most the commit after it, whole.
#
#   FM_BUILD  the build folder (default: build)     FM_KILLS  kills of load, and of put (default: 20)
#   FM_SEED   seed of the text and the delays
set -u
export LC_ALL=C

root=$(cd "$(dirname "$0")/../.." && pwd)
kv=${FM_BUILD:-$root/build}/examples/kv
kills=${FM_KILLS:-20}
[ "$kills" -gt 200 ] && kills=200 # a second or so takes a few of them
seed=${FM_SEED:-$(od -An -N3 -tu4 /dev/urandom | tr -d ' ')}
batch=20
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

echo 1..17
echo "# FM_SEED=$seed FM_KILLS=$kills"
case $kv in /*) ;; *) kv=$PWD/$kv ;; esac
if [ ! -x "$kv" ]; then
	echo "Bail out! $kv is missing; build the examples first"
	exit 1
fi
dir=$(mktemp -d --tmpdir fmalloc-kv.XXXXXX)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM HUP PIPE
cd "$dir" || exit 1

# 3010 lines (no multiple of the batch's 20), a third of them words, the others one of 400 keys with a value of 0 to 300
# bytes: entries are made, overwritten and replaced by longer ones. Bytes above 127, empty lines and keys.
awk -v seed="$seed" 'BEGIN {
	srand(seed)
	for (i = 0; i < 300; i++)
		long = long sprintf("%c", 33 + int(90 * rand()))
	for (i = 1; i <= 3010; i++) {
		if (rand() < 0.3)
			printf "  w%d  \303\244%d\f%s\n", 200 * rand(), 30 * rand(), rand() < 0.5 ? "end " : ""
		else if (rand() < 0.02)
			print rand() < 0.5 ? "" : "\tvalue of the empty key"
		else
			printf "%s%d\t%s %d\t.\n", rand() < 0.5 ? "key/" : "k", 200 * rand(), substr(long, 1, int(301 * rand() * rand())), i
	}
}' >text

# "LINE<TAB>KEY<TAB>VALUE" of each put that loading the text makes
awk -v OFS='\t' '
	index($0, "\t") { print NR, substr($0, 1, index($0, "\t") - 1), substr($0, index($0, "\t") + 1); next }
	{ gsub(/[ \f\r\v]+/, " "); n = split($0, word, " "); for (i = 1; i <= n; i++) print NR, word[i], NR }' text >puts

# Add the puts of the first $1 lines to the history.
remember() { awk -F'\t' -v n="$1" '$1 > n { exit } { print }' puts >>history; }

# Is the heap what the history makes, the last value of each key, sorted?
holds() {
	awk '{ rest = substr($0, index($0, "\t") + 1); tab = index(rest, "\t"); value[substr(rest, 1, tab - 1)] = substr(rest, tab) }
		END { for (key in value) print key value[key] }' history | sort -t "$(printf '\t')" -k1,1 >expected
	"$kv" heap scan '' >found 2>>errors && [ -s expected ] && cmp -s expected found
}

now_us() { echo $(($(date +%s%N) / 1000)); }
delay_of() { # delay_of NUMBER MICROSECONDS: up to so much, in seconds
	awk -v seed="$seed" -v n="$1" -v us="$2" 'BEGIN { srand(seed + 7919 * n); rand(); printf "%.6f", 0.0003 + rand() * us / 1e6 }'
}

# ---------------------------------------------------------------- what it stores

: >history
begun=$(now_us)
"$kv" heap load text $batch >printed 2>>errors
status=$?
duration=$(($(now_us) - begun))
remember 3010
[ $status -eq 0 ] && holds
ok $? 'after load the heap is what awk and sort make of the text'
awk -v batch=$batch 'BEGIN { for (i = batch; i <= 3010; i += batch) print i " lines"; print "3010 lines" }' | cmp -s - printed
ok $? 'each commit of load was acknowledged'

grep '^key/1' expected >some
"$kv" heap scan key/1 2>>errors | cmp -s - some && [ -s some ]
ok $? 'scan gives the keys of a prefix'
"$kv" heap scan nothing-begins-so >found 2>>errors && [ ! -s found ]
ok $? 'scan of a prefix that nothing has prints nothing'

status=0
awk -F'\t' 'NR % 40 == 3 { print $1 }' expected >keys
while read -r key; do
	grep -F "$(printf '%s\t' "$key")" expected | awk -v key="$key" 'index($0, key "\t") == 1 { print substr($0, length(key) + 2) }' >one
	"$kv" heap get "$key" 2>>errors | cmp -s - one || status=1
done <keys
[ $status -eq 0 ] && [ -s keys ]
ok $? 'get prints the value'

"$kv" heap put 'a key' 'a	value' 2>>errors && [ "$("$kv" heap get 'a key')" = 'a	value' ]
ok $? 'put and get'
"$kv" heap del 'a key' 2>>errors && ! "$kv" heap get 'a key' >found && [ ! -s found ] && holds
ok $? 'del forgets the key and nothing else'
"$kv" heap get 'a key'
get=$?
"$kv" heap del 'a key'
[ "$get $?" = '1 1' ]
ok $? 'get and del of a missing key end with status 1'

# ---------------------------------------------------------------- kills

# The text is loaded over and over; the longest delay adapts itself so that some third of the runs are killed.
tries=0
done_kills=0
partial=0
first_bad=
while [ $done_kills -lt "$kills" ] && [ $tries -lt $((20 * kills)) ] && [ -z "$first_bad" ]; do
	tries=$((tries + 1))
	{ timeout --foreground -s KILL "$(delay_of $tries $duration)" "$kv" heap load text $batch >printed 2>>errors; } 2>/dev/null
	status=$?
	sure=$(tail -n 1 printed | sed 's/ lines//')
	case $status in
	137) done_kills=$((done_kills + 1)) duration=$((duration * 21 / 20)) ;;
	0 | 124) duration=$((duration * 9 / 10)) ;;
	*) first_bad="try $tries: status $status" ;;
	esac
	cp history before
	remember "${sure:-0}"
	if ! holds; then
		# one commit more may be there than was printed
		cp before history
		remember $((${sure:-0} + batch))
		holds || first_bad="try $tries: neither ${sure:-0} lines nor a commit more"
	fi
	[ $status -eq 137 ] && [ "${sure:-0}" -gt 0 ] && [ "${sure:-0}" -lt 3000 ] && partial=$((partial + 1))
	sort -t "$(printf '\t')" -s -k2,2 history | awk -F'\t' '{ if (NR > 1 && $2 != key) print last; key = $2; last = $0 }
		END { if (NR) print last }' >shorter && mv shorter history
done
[ -z "$first_bad" ] || echo "# $first_bad"
echo "# $done_kills kills of load in $tries runs, $partial of them between its commits"
[ -z "$first_bad" ] && [ $done_kills -eq "$kills" ]
ok $? "after each of $kills kills of load the heap is exactly a commit"
[ $partial -gt 0 ]
ok $? 'some of the kills fell between the commits of a load'

"$kv" heap load text $batch >printed 2>>errors
remember 3010
holds
ok $? 'the next load completes what was interrupted'

begun=$(now_us)
"$kv" heap put slow 0
duration=$((($(now_us) - begun) * 3 / 2))
tries=0
done_kills=0
changed=0
was=0
first_bad=
while [ $done_kills -lt "$kills" ] && [ $tries -lt $((20 * kills)) ] && [ -z "$first_bad" ]; do
	tries=$((tries + 1))
	{ timeout --foreground -s KILL "$(delay_of $tries $duration)" "$kv" heap put slow $tries 2>>errors; } 2>/dev/null
	status=$?
	now=$("$kv" heap get slow 2>>errors)
	case $status in
	137) done_kills=$((done_kills + 1)) duration=$((duration * 21 / 20)) ;;
	0 | 124) duration=$((duration * 9 / 10)) ;;
	*) first_bad="try $tries: status $status" ;;
	esac
	[ "$now" = "$tries" ] || { [ "$now" = "$was" ] && [ $status -ne 0 ]; } || first_bad="try $tries: $was was, $now is there, status $status"
	[ $status -eq 137 ] && [ "$now" = "$tries" ] && changed=$((changed + 1))
	was=$now
done
[ -z "$first_bad" ] || echo "# $first_bad"
echo "# $done_kills kills of put in $tries runs; $changed had committed"
[ -z "$first_bad" ] && [ $done_kills -eq "$kills" ]
ok $? "after each of $kills kills of put the value is the old or the new one"
"$kv" heap del slow && holds
ok $? 'and nothing else has changed'

# ---------------------------------------------------------------- errors

# $1: a sentence that stderr must have; then arguments of kv that end with status 2 and nothing on stdout
refused() {
	sentence=$1
	shift
	"$kv" "$@" >out 2>err
	[ $? -eq 2 ] && [ ! -s out ] && grep -q -- "$sentence" err && return
	echo "# kv $*: $(head -n 1 err)"
	return 1
}

refused usage: && refused usage: heap && refused usage: heap get && refused usage: heap get a b && refused usage: heap put a &&
	refused usage: heap frobnicate a && refused usage: heap load && refused usage: heap load a 1 2
ok $? 'a wrong command line is answered with the usage'

cp heap cut && truncate -s 5000 cut
cp heap garbled && head -c 65536 /dev/urandom | dd of=garbled conv=notrunc bs=65536 iflag=fullblock 2>/dev/null
cp text nonheap
refused 'missing' missing get a && refused "$dir" "$dir" get a && refused nonheap nonheap get a &&
	refused cut cut get a && refused garbled garbled put a b && cmp -s text nonheap && [ ! -e missing ]
ok $? 'what is no heap, or a damaged one, is refused and left alone'

printf 'good\tline\nbad \000 line\n' >binary
refused 'line 2' heap load binary && refused 'No such file' heap load missing && holds
ok $? 'a load that fails leaves the last commit'
[ -e /dev/full ] && ! "$kv" heap scan '' >/dev/full 2>err && grep -q output err
ok $? 'output that can not be written is an error'

[ $failures -eq 0 ] || sort errors | uniq -c | sed 's/^/# /' | head -20
exit $failures
