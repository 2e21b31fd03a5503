#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# No space (part of test 12 of the plan): runs the program beside it as it is, and on small file systems
# made for it, ext4, XFS, btrfs and tmpfs; prints TAP. Mounting needs root; what is missing is skipped
# with the reason. Mounts are made in a mount namespace of their own where possible, and taken away at
# the end.
#
#   space.sh [program]   the program made from space.c (FM_SPACE_PROGRAM, build/tests/space/space)
#   FM_SPACE_FS          the file systems ("ext4 xfs btrfs tmpfs")

here=$(cd "$(dirname "$0")" && pwd)
program=${1:-${FM_SPACE_PROGRAM:-$here/../../build/tests/space/space}}
systems=${FM_SPACE_FS:-ext4 xfs btrfs tmpfs}
PATH=$PATH:/sbin:/usr/sbin

[ -x "$program" ] || {
	echo "not ok 1 - $program is missing"
	echo "1..1"
	exit 1
}
if [ "$(id -u)" = 0 ] && [ -z "$FM_SPACE_INSIDE" ] && unshare --mount true 2>/dev/null; then
	FM_SPACE_INSIDE=1 exec unshare --mount --propagation private sh "$0" "$program"
fi

dir=$(mktemp -d --tmpdir fmspace-XXXXXX) || exit 1
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

# Run the program on the file system $1, or without one, and pass its TAP on, numbered anew.
run_program() {
	if [ -n "$mounted" ]; then
		FM_SPACE_DIR=$mounted CMOCKA_MESSAGE_OUTPUT=TAP "$program" >"$dir/out" 2>&1
	else
		env -u FM_SPACE_DIR CMOCKA_MESSAGE_OUTPUT=TAP "$program" >"$dir/out" 2>&1
	fi
	status=$?
	bad=
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
			"# SKIP "*) result=ok rest="${rest#"# SKIP "} # SKIP not possible here" ;;
			esac
			echo "$result $count - $1: $rest"
			[ "$result" = ok ] || bad=1
			;;
		1..*) ;;
		"#"*) echo "$line" ;;
		*) echo "# $line" ;;
		esac
	done <"$dir/out"
	if [ $status -ne 0 ] && [ -z "$bad" ]; then
		count=$((count + 1))
		echo "not ok $count - $1: the program ended with status $status"
		bad=1
	fi
	[ -z "$bad" ] || failed=1
}

count=0
failed=
run_program limits
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
