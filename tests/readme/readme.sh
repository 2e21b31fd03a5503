#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The examples of README.md, word for word: they compile without a warning against the built
# library, as C and C++, static and shared, and the second run finds what the first one wrote.
#
#   FM_BUILD  the build folder (default: build)     CC, CXX  the compilers (default: cc, c++)
set -u

root=$(cd "$(dirname "$0")/../.." && pwd)
build=$(cd "${FM_BUILD:-$root/build}" && pwd) || exit 1
tests=0
failures=0

ok() { # ok STATUS NAME
	tests=$((tests + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $tests - $2"
	else
		failures=$((failures + 1))
		echo "not ok $tests - $2"
		sed 's/^/# /' log
	fi
}

# The first block of README.md that is marked as language $1.
extract() {
	awk -v open="\`\`\`$1" '$0 == open && !n { on = 1; n++; next } /^```/ { on = 0 } on' \
		"$root/README.md"
}

echo 1..13
dir=$(mktemp -d --tmpdir fmalloc-readme.XXXXXX)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM HUP PIPE
cd "$dir" || exit 1

# A library built with a sanitizer is linked with it.
san=
nm "$build/libfmalloc.a" 2>/dev/null >symbols
if grep -q ' U __tsan_' symbols; then
	san=-fsanitize=thread
elif grep -q ' U __asan_' symbols; then
	san=-fsanitize=address,undefined
elif grep -q ' U __ubsan_' symbols; then
	san=-fsanitize=undefined
fi

extract c >example.c
extract cpp >example.cpp
echo 'a block marked c or cpp is missing' >log
[ -s example.c ] && [ -s example.cpp ]
ok $? 'README.md has an example in C and one in C++'

# try LANGUAGE STANDARD COMPILER LINKING LIBRARY-ARGUMENTS...
try() {
	language=$1 standard=$2 compiler=$3 linking=$4
	shift 4
	# shellcheck disable=SC2086 # a compiler may be "ccache gcc"; $san is one word or none
	$compiler -std="$standard" -Wall -Wextra -Werror $san -I"$root/include" -o prog \
		"example.$language" "$@" -lpthread 2>log
	ok $? "the $language example compiles ($standard, $linking)"
	rm -f ./*.heap
	./prog >out 2>log && [ "$(cat out)" = 1 ]
	ok $? "its first run writes a list ($linking)"
	{ ./prog && ./prog; } >out 2>log && [ "$(tr '\n' , <out)" = '2 1,3 2 1,' ]
	ok $? "its later runs find it and add to it ($linking)"
}

LD_LIBRARY_PATH=$build${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
try c gnu11 "${CC:-cc}" static "$build/libfmalloc.a"
try c c11 "${CC:-cc}" shared -L"$build" -lfmalloc
try cpp c++11 "${CXX:-c++}" static "$build/libfmalloc.a"
try cpp c++17 "${CXX:-c++}" shared -L"$build" -lfmalloc
exit $failures
