#!/bin/sh
# The architecture as a test, in TAP: who includes whom, who may call the system, who may store truth, what
# the library exports and never does. FM_BUILD is the folder of the build (default: build).
set -u
cd "$(dirname "$0")/../.." || exit 1
build=${FM_BUILD:-build}
number=0
failures=0

# $1: what holds; $2: what was found against it, "" if nothing
verdict()
{
	number=$((number + 1))
	if [ -z "$2" ]; then
		echo "ok $number - $1"
	else
		echo "not ok $number - $1"
		echo "$2" | sed 's/^/# /'
		failures=$((failures + 1))
	fi
}

# includes of a folder that are neither its own files, nor of a layer to its left, nor the system's
layer()
{
	folder=$1
	shift
	allowed="\"\\.\\./\\.\\./include/fmalloc\\.h\""
	for left in "$@"; do
		allowed="$allowed|\"\\.\\./$left/[a-z0-9_]*\\.h\""
	done
	grep -nE '^ *# *include *"' src/"$folder"/*.[ch] | grep -vE '#include "[a-z0-9_]+\.h"' | grep -vE "$allowed"
}

verdict "base includes only itself" "$(layer base)"
verdict "os includes only base" "$(layer os base)"
verdict "store includes only base and os" "$(layer store base os)"
verdict "alloc includes only base, os and store" "$(layer alloc base os store)"
verdict "api includes only the layers below" "$(layer api base os store alloc)"
verdict "outside src only include/ is used, tests of modules excepted" \
	"$(grep -nE '#include "(\.\./)*src/|#include "(base|os|store|alloc|api)/' -r include examples bench tests 2>/dev/null |
		grep -vE '^tests/(unit|atomic|crash|concurrency|hostile|support)/')"
verdict "preload uses include/ and src/api/embed.h alone" \
	"$(grep -nE '#include "' preload/*.[ch] | grep -vE '"(preload|\.\./src/api/embed)\.h"')"
verdict "system calls are made in src/os alone" \
	"$(grep -nE '#include <(sys/(mman|stat|file|ioctl|uio|random|resource)|unistd|fcntl|linux/.*)\.h>' src/base/* src/store/* \
		src/alloc/* src/api/*)"
verdict "no file of src has more than 600 lines" "$(wc -l src/*/*.[ch] | awk '$1 > 600 && $2 != "total"')"

# plain assignments to unit words, pairs, directory words or the truth page, by index, member or pointer
place='((unit_words|slab_pair|directory_word|head_word|store_truth)\([^;=]*\)|(^|[^a-z_>.])(words|pair|pairs|truth))'
through='(\[[^]]*\]|->[a-z_]+(\[[^]]*\])?)'
assigned='[[:space:]]*([|&^+-]?=[^=]|\+\+|--)'
find_stores()
{
	grep -nE "$place$through$assigned|[;{}[:space:]]\*$place$assigned|mem(set|cpy)\(&?$place" "$@" |
		grep -vE '(uint64_t|truth_page_rec) \*[a-z_]+ = '
}
sample=$(mktemp)
trap 'rm -f "$sample"' EXIT
printf '\tpair[0] |= 1;\n\tunit_words(heap, 3)[u] = 0;\n\ttruth->root_table = 7;\n\t*directory_word(heap, s) = 1;\n' >"$sample"
verdict "the search for plain stores finds samples" "$(test "$(find_stores "$sample" | wc -l)" = 4 || find_stores "$sample")"
verdict "truth is stored through store/truth.h alone" "$(find_stores src/*/*.[ch])"

if [ -f "$build/libfmalloc.so" ]; then
	exported=$(nm -D --defined-only "$build/libfmalloc.so" | awk '$2 != "A" {sub(/@.*/, "", $3); print $3}' | sort)
	listed=$(sed -n '/global:/,/local:/s/^[[:space:]]*\([a-z_]*\);$/\1/p' src/fmalloc.map | sort)
	different=$( (echo "$exported"; echo "$listed") | sort | uniq -u)
	verdict "the library exports what src/fmalloc.map lists" "$different"
	verdict "the archive defines what src/fmalloc.map lists, and nothing else" \
		"$( (nm -g --defined-only "$build/libfmalloc.a" | awk 'NF == 3 {print $3}' | sort; echo "$listed") | sort | uniq -u)"
	verdict "the library neither prints nor exits; only misuse.c can abort" \
		"$(nm -D --undefined-only "$build/libfmalloc.so" |
			grep -E ' (printf|fprintf|puts|putchar|fputs|perror|vprintf|vfprintf|exit|_exit|_Exit|__assert_fail|syslog)(@|$)';
		for object in "$build"/pic/*/*.o; do
			nm --undefined-only "$object" | grep -qE ' abort(@|$)' && [ "${object##*/}" != misuse.o ] && echo "$object aborts"
		done)"
	verdict "the library needs libc alone" \
		"$(readelf -d "$build/libfmalloc.so" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | grep -vE '^(libc|libpthread|ld-linux-.*)\.so')"
else
	for what in exports archive calls needs; do
		number=$((number + 1))
		echo "ok $number - $what # SKIP $build/libfmalloc.so is not built"
	done
fi
echo "1..$number"
[ "$failures" -eq 0 ]
