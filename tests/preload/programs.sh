#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Programs of Debian under libfmalloc-preload.so, in TAP: each does the same work with and without it, and the results
# are compared. That the heap was really used is read from what the library says at exit (FMALLOC_PRELOAD_STATS),
# or from the maps of the running process.
#
#   FM_BUILD   the build folder (default: build)
#   FM_SCALE   per cent of the amounts of work (default: 100)
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
build=$(cd "${FM_BUILD:-$root/build}" && pwd) || exit 1
library=$build/libfmalloc-preload.so
scale=${FM_SCALE:-100}
number=0
failures=0
dir=$(mktemp -d --tmpdir fmalloc-preload.XXXXXX)
heaps=$dir/heaps
stats=$dir/stats
log=$dir/log
server=
group=
mkdir "$heaps"

clean() {
	[ -n "$server" ] && kill "$server" 2>/dev/null && wait "$server" 2>/dev/null
	[ -n "$group" ] && rmdir "$group" 2>/dev/null
	rm -rf "$dir"
}
trap clean EXIT
trap 'exit 1' INT TERM HUP PIPE
cd "$dir" || exit 1

# $1: status; $2: what holds. The log says more of a failure.
verdict() {
	number=$((number + 1))
	if [ "$1" -eq 0 ]; then
		echo "ok $number - $2"
	else
		failures=$((failures + 1))
		echo "not ok $number - $2"
		tail -n 20 "$log" | sed 's/^/# /'
	fi
}

skip() {
	number=$((number + 1))
	echo "ok $number - $1 # SKIP $2"
}

have() {
	for program in "$@"; do
		command -v "$program" >/dev/null 2>&1 || return 1
	done
}

with() {
	env FMALLOC_PRELOAD="$heaps/heap.fm" FMALLOC_PRELOAD_STATS="$stats" LD_PRELOAD="$library" "$@"
}

# Did processes named $1 say at their exit that they had more than $2 KiB of a file?
used() {
	awk -v name="$1" -v least="$2" '$2 ~ name && $3 == "place=file" {
		sub("disk=", "", $4); if ($4 / 1024 > least) found++ } END { exit !found }' "$stats" ||
		{ echo "no $1 has used $2 KiB of a heap:"; cat "$stats"; return 1; }
}

# $1: what; $2: program for used(), $3: KiB; then the function that does the work: it prints its result.
compare() {
	begin=$(date +%s)
	what=$1 program=$2 least=$3
	shift 3
	: >"$stats"
	run=
	"$@" >plain 2>plain.err
	plain=$?
	run=with
	"$@" >preloaded 2>preloaded.err
	status=$?
	{
		echo "without: $plain, with: $status"
		diff plain.err preloaded.err
		diff plain preloaded
		[ -s plain ] || echo "no result"
	} >"$log" 2>&1
	{ [ $plain -eq 0 ] && [ $status -eq 0 ] && [ -s plain ] && cmp plain preloaded && used "$program" "$least"; } >>"$log" 2>&1
	verdict $? "$what: the same with and without, and the heap was used"
	echo "#   $(($(date +%s) - begin)) s"
}

[ -f "$library" ] || { echo "1..1"; echo "ok 1 - programs # SKIP $library is not built"; exit 0; }

# ---------------------------------------------------------------- shells

subshells() {
	$run bash -c '
		total=0
		for i in $(seq '$((200 * scale / 100))'); do
			list=(a{1..100}); list[50]=$i
			x=$( (echo "${list[50]}"; (for j in 1 2 3; do echo "$j${list[99]}"; done) | sort -r | head -n 1) )
			total=$((total + ${#x})); printf "%s " $x
		done
		echo; echo $total
		(exit 7); echo $?
		cat <(echo one) <(echo two)
		coproc cat; echo through >&"${COPROC[1]}"; read -r line <&"${COPROC[0]}"; echo "$line"
		exec 3>&- 9>&-; for fd in 3 4 5 6 7 8 9; do eval "exec $fd>/dev/null"; done
		array=(); for i in {1..20000}; do array+=("element $i"); done; echo ${#array[@]} "${array[19999]}"'
}
if have bash; then
	compare "bash, 200 subshells" bash 64 subshells
else
	skip "bash" "no bash"
fi

# ---------------------------------------------------------------- interpreters

perl_work() {
	$run perl -e '
		my %h; $h{"key $_"} = ["value" x ($_ % 50), $_] for 1 .. '$((2000 * scale))';
		my $sum = 0; $sum += length($h{$_}[0]) * $h{$_}[1] for sort keys %h;
		delete $h{"key $_"} for grep { $_ % 3 } 1 .. '$((2000 * scale))';
		my $text = join ",", map { "$_=$h{$_}[1]" } sort keys %h; my $n = () = $text =~ /(\d+)=\1/g;
		my $pid = open(my $child, "-|") // die; if (!$pid) { $h{x} = "y" x 1e6; print scalar(keys %h); exit }
		my $said = <$child>; close $child; print "$sum $n ", length($text), " $said\n"'
}
if have perl; then
	compare "perl, hashes and a fork" perl 10000 perl_work
else
	skip "perl" "no perl"
fi

python=/usr/bin/python3
modules="test_list test_dict test_set test_bytes test_json test_re test_heapq test_deque test_gc
	test_thread test_fork1 test_posix test_zlib test_mmap test_threading"
python_run() {
	$run env PYTHONMALLOC=malloc $python -m test -q "$@" >python.log 2>&1
	status=$?
	grep -E '^(Result:|== Tests result:|[0-9]+ tests? |All [0-9]+ tests|    test_)' python.log
	[ $status -eq 0 ]
}
present=
for module in $modules; do
	$python -c "import test.$module" 2>/dev/null && present="$present $module"
done
if [ -n "$present" ]; then
	compare "python3, its own tests of$present" python3 4000 python_run $present
	# it looks which descriptors a child has, and finds the child's heap
	compare "python3, its own test of child processes" python3 1000 \
		python_run -m 'POSIXProcessTestCase' -i test_pass_fds_redirected test_subprocess
else
	skip "python3" "no test suite"
	skip "python3, its own test of child processes" "no test suite"
fi

# ---------------------------------------------------------------- git, sqlite3, gcc

git_work() {
	rm -rf work copy.git
	export GIT_CONFIG_NOSYSTEM=1 HOME="$dir" GIT_AUTHOR_DATE="1700000000 +0000" GIT_COMMITTER_DATE="1700000000 +0000"
	$run git init -q work && cd work || return 1
	git config user.name n
	git config user.email e@example.org
	cp -r "$root/src" "$root/docs" "$root/tests" .
	$run git add . && $run git commit -q -m first || return 1
	for i in 1 2 3 4 5; do
		find . -name '*.c' | sort | head -n $((i * 9)) | while read -r file; do sed -i "1s|^|/* $i */|" "$file"; done
		$run git commit -q -a -m "number $i" || return 1
	done
	$run git clone -q --bare --no-local . ../copy.git || return 1
	cd ../copy.git
	$run git repack -q -a -d -f --threads=2 && $run git fsck --full --strict 2>&1 || return 1
	$run git log --stat --format=%H | cksum
	$run git grep -c include HEAD | cksum
	$run git count-objects -v | grep -E '^(in-pack|packs|garbage)'
	cd "$dir"
}
if have git; then
	compare "git: commit, clone, repack, fsck" git 1000 git_work
else
	skip "git" "no git"
fi

sqlite_work() {
	rm -f work.db
	$run sqlite3 work.db "
		PRAGMA cache_size = -64000; PRAGMA journal_mode = WAL;
		CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, number REAL);
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $((2000 * scale)))
			INSERT INTO t SELECT i, printf('%08x', i * 2654435761 % 4294967296), i % 1000 / 7.0 FROM n;
		CREATE INDEX by_name ON t(name); CREATE INDEX by_number ON t(number, name);
		DELETE FROM t WHERE id % 7 = 0; UPDATE t SET name = name || '-' || id WHERE id % 5 = 0;
		SELECT count(*), sum(length(name)), round(sum(number), 3) FROM t;
		SELECT name, count(*) OVER (ORDER BY name) FROM t ORDER BY number DESC, name LIMIT 5;
		SELECT length(group_concat(name)) FROM (SELECT name FROM t ORDER BY name);
		VACUUM; PRAGMA integrity_check;"
}
if have sqlite3; then
	compare "sqlite3" sqlite3 4000 sqlite_work
else
	skip "sqlite3" "no sqlite3"
fi

gcc_work() {
	rm -rf project
	mkdir project && cp -r "$root/src" "$root/include" "$root/preload" "$root/Makefile" project
	$run make -s -C project CC=gcc build/libfmalloc.a build/libfmalloc.so 2>&1 || return 1
	(cd project && find build -name '*.o' | sort | xargs sha256sum)
}
if have gcc make; then
	compare "gcc compiles this project" cc1 10000 gcc_work
else
	skip "gcc" "no gcc"
fi

# ---------------------------------------------------------------- compression by threads

i=0
while [ $i -lt $((40 * scale / 100 + 1)) ]; do
	cat "$root"/src/*/*.c "$root"/tests/*/*.c "$library"
	i=$((i + 1))
done >big
squeeze() {
	$run "$@" <big >big.squeezed && cksum <big.squeezed && $run "$1" -dc <big.squeezed | cksum
}
for command in "xz -T2 -1 --block-size=4MiB" "pigz -p2 -3" "zstd -T2 -9"; do
	program=${command%% *}
	if have "$program"; then
		compare "$command" "$program" 1000 squeeze $command
		cksum <big >"$log"
		tail -n 1 preloaded | cmp - "$log" >>"$log"
		verdict $? "$program gives back what it was given"
	else
		skip "$program" "no $program"
		skip "$program gives back what it was given" "no $program"
	fi
done

# ---------------------------------------------------------------- redis

cli() {
	redis-cli -s "$dir/socket" "$@"
}

start_redis() {
	"$@" "$dir/redis-server" --port 0 --unixsocket "$dir/socket" --dir "$dir" --dbfilename dump.rdb --save "" \
		--enable-debug-command yes --daemonize no >redis.log 2>&1 &
	server=$!
	for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		[ "$(cli ping 2>/dev/null)" = PONG ] && return 0
		sleep 0.2
	done
	cat redis.log
	return 1
}

stop_redis() {
	cli shutdown nosave >/dev/null 2>&1
	wait "$server"
	server=
}

# A thousand keys that change together: in a dump of one moment they are all alike.
together='for i = 1, 1000 do redis.call("set", "together:" .. i, ARGV[1]) end'

background_save() {
	cli debug populate $((2000 * scale)) fixed 100 || return 1
	cli eval 'for i = 1, 20000 do redis.call("hset", "hash:" .. i % 500, "field:" .. i, string.rep("v", i % 300)) end' 0
	fixed=$(cli eval 'local k = redis.call("keys", "hash:*"); table.sort(k); local s = ""
		for _, key in ipairs(k) do local h = redis.call("hgetall", key); table.sort(h); s = redis.sha1hex(s .. table.concat(h)) end
		return s' 0)
	cli eval "$together" 0 first
	for n in $(seq 4000); do echo "EVAL '$together' 0 $n"; done >changes
	redis-benchmark -s "$dir/socket" -q -n $((500 * scale)) -r 100000 -d 200 -t set,lpush,hset >>redis.benchmark &
	noise=$!
	cli <changes >changes.out &
	writer=$!
	sleep 0.2
	cli bgsave
	for try in $(seq 300); do
		cli info persistence | tr -d '\r' | grep -q 'rdb_bgsave_in_progress:0' && break
		sleep 0.1
	done
	wait $noise $writer
	cli info persistence | tr -d '\r' | grep -q 'rdb_last_bgsave_status:ok' || return 1
	grep -i err changes.out && return 1
	redis-check-rdb dump.rdb | grep 'RDB looks OK' || return 1
	stop_redis
	# by a server that knows nothing of us
	start_redis || return 1
	alike=$(cli eval 'local seen, n = {}, 0
		for i = 1, 1000 do local v = redis.call("get", "together:" .. i); if not seen[v] then seen[v] = true; n = n + 1 end end
		return n' 0)
	again=$(cli eval 'local k = redis.call("keys", "hash:*"); table.sort(k); local s = ""
		for _, key in ipairs(k) do local h = redis.call("hgetall", key); table.sort(h); s = redis.sha1hex(s .. table.concat(h)) end
		return s' 0)
	when=$(cli get together:1)
	echo "values among the keys that change together: $alike; digests: $fixed, $again; saved at $when"
	# in the midst of it
	[ "$when" != first ] && [ "$when" -lt 4000 ] && [ "$alike" = 1 ] && [ "$fixed" = "$again" ] &&
		[ "$(cli eval 'return #redis.call("keys", "fixed:*")' 0)" = $((2000 * scale)) ]
}

# one program by two names; the package with the second starts no service
if have redis-benchmark redis-check-rdb; then
	ln -s "$(command -v redis-check-rdb)" redis-server
	start_redis with >"$log" 2>&1 && {
		redis-benchmark -s "$dir/socket" -q -n $((200 * scale)) -r 20000 -d 300 -P 8 \
			-t ping,set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100,mset | tr '\r' '\n' | grep 'per second' | sed 's/:.*//'
	} >benchmark 2>>"$log"
	cat benchmark >>"$log"
	[ "$(wc -l <benchmark)" -ge 11 ]
	verdict $? "redis-server under redis-benchmark"
	kib=$(($(stat -L -c %b /proc/$server/map_files/$(sed -n 's/ .*#.*deleted.*//p' /proc/$server/maps | head -n 1) 2>/dev/null || echo 0) / 2))
	{ grep "rw-s.*$heaps/.*deleted" /proc/$server/maps && echo "$kib KiB" && [ "$kib" -gt 8000 ]; } >"$log" 2>&1
	if [ -r /proc/$server/map_files ] && [ "$(id -u)" = 0 ]; then
		verdict $? "redis-server keeps its data in the file"
	else
		skip "redis-server keeps its data in the file" "not root"
	fi
	background_save >"$log" 2>&1
	verdict $? "redis-server saves in the background while it is written to: one moment, and what it had"
	stop_redis
else
	skip "redis-server under redis-benchmark" "no redis"
	skip "redis-server keeps its data in the file" "no redis"
	skip "redis-server saves in the background" "no redis"
fi

# ---------------------------------------------------------------- more than there is memory

# A control group of 64 MiB, version 1 or 2 of them, in $group; or why there is none in $reason.
make_group() {
	reason="not root"
	[ "$(id -u)" = 0 ] || return 1
	reason="the folder is in memory itself"
	[ "$(stat -f -c %T "$heaps")" != tmpfs ] || return 1
	reason="no control group of memory can be made"
	for place in /sys/fs/cgroup/memory:memory.limit_in_bytes /sys/fs/cgroup:memory.max; do
		group=${place%%:*}/fmalloc-preload.$$
		mkdir "$group" 2>/dev/null || continue
		echo 67108864 2>/dev/null >"$group/${place##*:}" && return 0
		rmdir "$group"
	done
	group=
	return 1
}

# 256 MiB, stored and read again
large='
import array
blocks = [array.array("Q", range(i, i + 131072)) for i in range(256)]
print(sum(b[7] + b[-1] for b in blocks))
'
what="a program with four times the memory that there is"
if ! make_group; then
	skip "$what" "$reason"
elif [ ! -x /usr/bin/python3 ]; then
	skip "$what" "no python3"
else
	in_group() {
		sh -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$group" "$@"
	}
	{ in_group env PYTHONMALLOC=malloc /usr/bin/python3 -c "$large" || echo "without: status $?"; } >"$log" 2>&1
	in_group env FMALLOC_PRELOAD="$heaps" LD_PRELOAD="$library" PYTHONMALLOC=malloc /usr/bin/python3 -c "$large" >large 2>>"$log"
	cat large >>"$log"
	grep -q "without: status 137" "$log" && [ "$(cat large)" = 33621248 ]
	verdict $? "$what, which is killed without the library"
fi

ls -A "$heaps" >"$log"
test ! -s "$log"
verdict $? "no file is left behind"
echo "1..$number"
[ "$failures" -eq 0 ]
