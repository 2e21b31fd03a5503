#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The manual page tells of all that the header declares, and of nothing else, in TAP: functions, flags, options, the
# errors of opening, environment variables, and limits.
#
#   FM_MANUAL, FM_HEADER  the files (default: man/fmalloc.3, include/fmalloc.h)
set -u
cd "$(dirname "$0")/../.." || exit 1
manual=${FM_MANUAL:-man/fmalloc.3}
header=${FM_HEADER:-include/fmalloc.h}
number=0
failures=0
dir=$(mktemp -d --tmpdir fmalloc-manual.XXXXXX)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM HUP PIPE

# $1: what holds; $2: what was found against it, "" if nothing; $3: how many things were looked at, some
verdict()
{
	number=$((number + 1))
	if [ -z "$2" ] && [ "${3:-1}" -gt 0 ]; then
		echo "ok $number - $1"
	else
		echo "not ok $number - $1"
		echo "${2:-nothing was found to compare}" | sed 's/^/# /'
		failures=$((failures + 1))
	fi
}

# the lists are $dir/header and $dir/manual
same() # NAME
{
	sort -u "$dir/header" -o "$dir/header"
	sort -u "$dir/manual" -o "$dir/manual"
	verdict "$1" "$(comm -23 "$dir/header" "$dir/manual" | sed 's/$/: not in the manual page/'
		comm -13 "$dir/header" "$dir/manual" | sed 's/$/: not in the header/')" "$(wc -l <"$dir/header")"
}

section() # NAME: the lines of a .Sh section of the page
{
	awk -v name=".Sh $1" '/^\.Sh / { on = $0 == name } on' "$manual"
}

# from the line of $1 up to the next one of $2
between()
{
	awk -v from="$1" -v to="$2" 'index($0, from) { on = 1 } on && index($0, to) { exit } on'
}

# functions: declarations and inline ones, and the three macros of C
{
	grep -E '^(FM_API|static inline) .*\(' "$header" | sed -E 's/^([^(]*[ *])([a-z_]+)\(.*/\2/'
	sed -nE 's/^#define (fm_[a-z]+)\(.*/\1/p' "$header"
} >"$dir/header"
section SYNOPSIS | sed -nE 's/^\.F[no] ([a-z_]+).*/\1/p' >"$dir/manual"
same "the functions are the header's"

# flags: those of fm_open in its list, the others anywhere
sed -nE 's/^#define (FM_[A-Z_]+) +0x.*/\1/p' "$header" | grep -v '^FM_NO_' >"$dir/header"
section DESCRIPTION | sed -nE 's/^\.It Dv (FM_[A-Z]+)$/\1/p' >"$dir/manual"
same "the flags of fm_open are the header's"
sed -nE 's/^#define (FM_NO_[A-Z_]+) +0x.*/\1/p' "$header" >"$dir/header"
section DESCRIPTION | between '.It Fa disable' '.El' | grep -oE 'FM_NO_[A-Z_]+' >"$dir/manual"
same "the bits of fm_options.disable are the header's"

# options, but for the size
between 'struct fm_options {' '};' <"$header" | sed -nE 's/^\t[a-z][a-z0-9_ ]* ([a-z_]+);.*/\1/p' |
	grep -vx size >"$dir/header"
section DESCRIPTION | sed -nE 's/^\.It Fa ([a-z_]+)$/\1/p' >"$dir/manual"
same "the options are the header's"

# errors of opening
between 'Open the heap in the file' 'FM_API fm_heap *fm_open(' <"$header" | grep -oE '\bE[A-Z]{2,}\b' |
	grep -vx EXCL >"$dir/header"
section ERRORS | between 'Opening fails with' '.El' | sed -nE 's/^\.It Bq Er //p' | tr -d ',' | tr ' ' '\n' >"$dir/manual"
same "the errors of opening are the header's"

# the environment, from the sources
grep -ohE 'getenv\("[A-Z_]+"\)' src/*/*.c | sed -E 's/.*"(.*)".*/\1/' >"$dir/header"
section ENVIRONMENT | grep -oE 'FMALLOC_[A-Z_]+' >"$dir/manual"
same "the environment variables are those that the library reads"
for word in abort declared; do
	verdict "FMALLOC_DEBUG=$word is in the manual page and the README" \
		"$(section ENVIRONMENT | grep -q "^\.Ql $word" || echo "not in $manual"
		grep -q "FMALLOC_DEBUG=$word" README.md || echo 'not in README.md')"
done

# how many heaps a process may have open
max=$(sed -nE 's/^#define HEAPS_MAX ([0-9]+)u?$/\1/p' src/alloc/owner.h)
verdict "the number of heaps that a process may open is documented" \
	"$(for file in "$manual" "$header" README.md; do grep -q "$max heaps" "$file" || echo "not in $file: $max heaps"; done)" \
	"${max:-0}"

if command -v mandoc >/dev/null; then
	verdict "mandoc has no error and no warning" "$(mandoc -T lint -W warning "$manual" 2>&1)"
else
	number=$((number + 1))
	echo "ok $number - mandoc # SKIP not installed"
fi
echo "1..$number"
[ "$failures" -eq 0 ]
