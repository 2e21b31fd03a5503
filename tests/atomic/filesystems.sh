#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Atomic heaps on file systems of their own, ext4, XFS, btrfs and tmpfs: killed in the middle of commits, conversions and
# snapshots and opened again; every way of finding pages; the order of writes; a disk that becomes full in growth, commit,
# apply and snapshot. Prints TAP. Mounting needs root; what is missing is skipped with the reason. Mounts are made in a mount
# namespace of their own where possible, and taken away at the end.
#
#   filesystems.sh [folder]   the test programs' (build/tests/atomic)
#   FM_SPACE_FS               the file systems ("ext4 xfs btrfs tmpfs")
#   FM_FS_KILLS               kills on each (60)

here=$(cd "$(dirname "$0")" && pwd)
programs=${1:-$here/../../build/tests/atomic}
systems=${FM_SPACE_FS:-ext4 xfs btrfs tmpfs}
PATH=$PATH:/sbin:/usr/sbin
export CMOCKA_MESSAGE_OUTPUT=TAP

if [ "$(id -u)" = 0 ] && [ -z "$FM_SPACE_INSIDE" ] && unshare --mount true 2>/dev/null; then
	FM_SPACE_INSIDE=1 exec unshare --mount --propagation private sh "$0" "$programs"
fi

dir=$(mktemp -d --tmpdir fmfs-XXXXXX) || exit 1
mounted=
leave() {
	[ -z "$mounted" ] || umount "$mounted" 2>/dev/null || umount -l "$mounted" 2>/dev/null
	rm -rf --one-file-system "$dir"
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Make and mount file system $1 at $dir/$1, or say why not in $reason.
make_fs() {
	mnt=$dir/$1
	image=$dir/$1.image
	mkdir "$mnt"
	if [ "$(id -u)" != 0 ]; then
		reason="mounting needs root"
	elif [ "$1" = tmpfs ]; then
		mount -t tmpfs -o size=192m none "$mnt" 2>/dev/null || reason="tmpfs can't be mounted"
	else
		command -v "mkfs.$1" >/dev/null || reason="mkfs.$1 is missing"
		truncate -s 400M "$image"
		[ -n "$reason" ] || case $1 in
		ext4) mkfs.ext4 -q -F -m 0 "$image" ;;
		xfs) mkfs.xfs -q -f "$image" ;;
		btrfs) mkfs.btrfs -q -f "$image" ;;
		*) false ;;
		esac >/dev/null 2>"$dir/errors" || reason="mkfs.$1 failed: $(tail -n 1 "$dir/errors")"
		[ -n "$reason" ] || mount -o loop "$image" "$mnt" 2>"$dir/errors" ||
			reason="$1 can't be mounted: $(tail -n 1 "$dir/errors")"
	fi
	[ -n "$reason" ] && return 1
	mounted=$mnt
}

# Run the rest as a test on the file system $1, its name $2.
run() {
	label="$1: $2"
	shift 2
	count=$((count + 1))
	if env TMPDIR="$mounted" FM_SPACE_DIR="$mounted" "$@" >"$dir/out" 2>&1; then
		echo "ok $count - $label"
		grep '^#' "$dir/out" | grep -v 'FM_SEED\|finding pages' | head -n 8
	else
		echo "not ok $count - $label"
		sed 's/^/# /' "$dir/out" | tail -n 12
		failed=1
	fi
}

count=0
failed=
for fs in $systems; do
	reason=
	if make_fs "$fs"; then
		run "$fs" "killed and opened again" env FM_KILLS="${FM_FS_KILLS:-60}" "$programs/kill"
		run "$fs" "every way of finding pages" "$programs/commit"
		run "$fs" "stores by the kernel" "$programs/kernel"
		run "$fs" "the order of writes" env FM_ROUNDS=20 "$programs/order"
		run "$fs" "a full disk" "$programs/space"
		umount "$mounted" || umount -l "$mounted"
		mounted=
		rm -f "$dir/$fs.image"
	else
		count=$((count + 1))
		echo "ok $count - $fs # SKIP $reason"
	fi
done
echo "1..$count"
[ -z "$failed" ]
