#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Full disks (part of test 12 of the plan): runs the program beside it on small file systems of its
# own, ext4, XFS, btrfs and tmpfs, and prints TAP. Needs root; what is missing is skipped with the
# reason. Mounts are made in a mount namespace of their own where possible, and taken away at the end.
#
#   space.sh [program]   the program made from space.c (FM_SPACE_PROGRAM, build/tests/space/space)
#   FM_SPACE_FS          the file systems ("ext4 xfs btrfs tmpfs")

here=$(cd "$(dirname "$0")" && pwd)
program=${1:-${FM_SPACE_PROGRAM:-$here/../../build/tests/space/space}}
systems=${FM_SPACE_FS:-ext4 xfs btrfs tmpfs}

skip_all() {
	n=0
	for fs in $systems; do
		n=$((n + 1))
		echo "ok $n - $fs # SKIP $1"
	done
	echo "1..$n"
	exit 0
}

[ -x "$program" ] || {
	echo "not ok 1 - $program is missing"
	echo "1..1"
	exit 1
}
[ "$(id -u)" = 0 ] || skip_all "mounting needs root"
PATH=$PATH:/sbin:/usr/sbin
if [ -z "$FM_SPACE_INSIDE" ] && unshare --mount true 2>/dev/null; then
	FM_SPACE_INSIDE=1 exec unshare --mount --propagation private "$0" "$program"
fi

dir=$(mktemp -d "${TMPDIR:-/tmp}/fmspace-XXXXXX") || skip_all "no scratch folder"
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
	if [ "$1" = tmpfs ]; then
		mount -t tmpfs -o size=64m none "$mnt" 2>/dev/null || reason="tmpfs can't be mounted"
	else
		command -v "mkfs.$1" >/dev/null || reason="mkfs.$1 is missing"
		[ -n "$reason" ] || case $1 in
		ext4) truncate -s 128M "$image" && mkfs.ext4 -q -F -m 0 "$image" ;;
		xfs) truncate -s 320M "$image" && mkfs.xfs -q -f "$image" ;;
		btrfs) truncate -s 400M "$image" && mkfs.btrfs -q -f "$image" ;;
		*) false ;;
		esac >/dev/null 2>"$dir/errors" || reason="mkfs.$1 failed: $(tail -n 1 "$dir/errors")"
		[ -n "$reason" ] || mount -o loop "$image" "$mnt" 2>"$dir/errors" ||
			reason="$1 can't be mounted: $(tail -n 1 "$dir/errors")"
	fi
	[ -n "$reason" ] && return 1
	mounted=$mnt
}

# Pass the program's TAP on, numbered anew and with the file system's name.
run_program() {
	FM_SPACE_DIR=$mounted CMOCKA_MESSAGE_OUTPUT=TAP "$program" >"$dir/out" 2>&1
	status=$?
	while IFS= read -r line; do
		case $line in
		"ok "* | "not ok "*)
			count=$((count + 1))
			result=${line%%ok *}ok
			rest=${line#*ok }
			number=${rest%% *}
			rest=${rest#"$number"}
			rest=${rest# }
			rest=${rest#- }
			case $rest in
			"# SKIP "*) result=ok rest="${rest#"# SKIP "} # SKIP not possible on $1" ;;
			esac
			echo "$result $count - $1: $rest"
			[ "$result" = ok ] || failed=1
			;;
		1..*) ;;
		"#"*) echo "$line" ;;
		*) echo "# $line" ;;
		esac
	done <"$dir/out"
	if [ $status -ne 0 ] && [ -z "$failed" ]; then
		count=$((count + 1))
		echo "not ok $count - $1: the program ended with status $status"
		failed=1
	fi
}

count=0
failed=
for fs in $systems; do
	reason=
	if make_fs "$fs"; then
		run_program "$fs"
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
