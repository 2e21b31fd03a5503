#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Forks by reflink, in TAP: on XFS and btrfs a child's copy of the heap takes no space until one of the two stores. Mounting
# needs root; what is missing is skipped with the reason.
#
#   FM_BUILD   the build folder (default: build)
set -u
here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "${FM_BUILD:-$here/../../build}" && pwd) || exit 1
library=$build/libfmalloc-preload.so
PATH=$PATH:/sbin:/usr/sbin
number=0
failures=0

if [ "$(id -u)" = 0 ] && [ -z "${FM_INSIDE:-}" ] && unshare --mount true 2>/dev/null; then
	FM_INSIDE=1 exec unshare --mount --propagation private sh "$0"
fi
dir=$(mktemp -d --tmpdir fmalloc-reflink.XXXXXX) || exit 1
mounted=
leave() {
	[ -z "$mounted" ] || umount "$mounted" 2>/dev/null || umount -l "$mounted" 2>/dev/null
	rm -rf --one-file-system "$dir"
}
trap leave EXIT
trap 'exit 1' INT TERM HUP PIPE

verdict() {
	number=$((number + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $number - $2"
	else
		failures=$((failures + 1))
		echo "not ok $number - $2"
		sed 's/^/# /' "$dir/log"
	fi
}

skip() {
	number=$((number + 1))
	echo "ok $number - $1 # SKIP $2"
}

# A hundred MiB, and a child that looks at all of it: how many MiB more are in use while it lives?
program='
import os, sys
mount, amount = sys.argv[1], 100 << 20
def used():
    os.sync()
    s = os.statvfs(mount)
    return (s.f_blocks - s.f_bfree) * s.f_frsize >> 20
data = bytearray(os.urandom(1 << 20) * (amount >> 20))
before = used()
ours, theirs = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    good = data[:1 << 20] == data[-1 << 20:] and data[5] == data[(50 << 20) + 5]
    os.write(ours[1], b"x")
    os.read(theirs[0], 1)
    good = good and data[5] == data[(50 << 20) + 5]      # the parent has stored there meanwhile
    data[7] ^= 1
    os._exit(0 if good else 1)
os.read(ours[0], 1)
more = used() - before
data[5] ^= 255
seven = data[7]
os.write(theirs[1], b"x")
status = os.waitpid(pid, 0)[1]
print(more, "MiB more", status)
sys.exit(0 if status == 0 and data[7] == seven and more < 30 else 1)
'
for system in xfs btrfs; do
	what="a fork on $system shares blocks"
	if [ "$(id -u)" != 0 ]; then
		skip "$what" "mounting needs root"
	elif [ ! -f "$library" ]; then
		skip "$what" "$library is not built"
	elif [ ! -x /usr/bin/python3 ]; then
		skip "$what" "no python3"
	elif ! command -v mkfs.$system >/dev/null; then
		skip "$what" "mkfs.$system is missing"
	else
		mkdir "$dir/$system"
		truncate -s 600M "$dir/image"
		if mkfs.$system -q -f "$dir/image" >"$dir/log" 2>&1 && mount -o loop "$dir/image" "$dir/$system" 2>"$dir/log"; then
			mounted=$dir/$system
			FMALLOC_PRELOAD=$mounted/heap.fm LD_PRELOAD=$library PYTHONMALLOC=malloc \
				/usr/bin/python3 -c "$program" "$mounted" >"$dir/log" 2>&1
			verdict $? "$what"
			env TMPDIR="$mounted" CMOCKA_MESSAGE_OUTPUT=TAP "$build/tests/preload/process" >"$dir/log" 2>&1
			verdict $? "all policies on $system"
			umount "$mounted"
			mounted=
		else
			skip "$what" "$(tail -n 1 "$dir/log")"
			skip "all policies on $system" "no mount"
		fi
		rm -f "$dir/image"
	fi
done
echo "1..$number"
[ "$failures" -eq 0 ]
