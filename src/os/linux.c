/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of system calls on Linux.
 */
#define _GNU_SOURCE
#include "../base/atomics.h"
#include "linux_memory.h"
#include "linux_samples.h"
#include "linux_thread.h"
#include "linux_track.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef FALLOC_FL_UNSHARE_RANGE
#define FALLOC_FL_UNSHARE_RANGE 0x40
#endif

/* What is asked of a file: no times. A kernel that keeps fine-grained ones (since 6.13) changes a file's times at the next
 * write after each look at them, and ext4 without a journal then writes the inode at every synchronous write. */
#define ASKED (STATX_TYPE | STATX_INO | STATX_SIZE | STATX_BLOCKS | STATX_BTIME)

const struct os_calls *os = &os_linux;

static int result_of(long r)
{
	return r < 0 ? -errno : (int)r;
}

/* Low numbers are what programs name: shells redirect 3 to 9, and a heap at 0 to 2 would be written to by printf.
 * Within 1024, since the kernel's table is as long as its highest number. */
#define HIGHEST_FD 1024u
#define HIGH_FDS   64u

static int lowest_fd(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur < 2 * HIGH_FDS)
		return 3;
	return (int)((limit.rlim_cur < HIGHEST_FD ? limit.rlim_cur : HIGHEST_FD) - HIGH_FDS);
}

static int linux_copy_fd(int fd)
{
	int lowest = fd >= (int)(HIGHEST_FD - HIGH_FDS) ? fd : lowest_fd(); /* the copy of a high one is high */
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, lowest);

	return result_of(copy < 0 && errno != EBADF ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : copy);
}

int out_of_the_way(int fd)
{
	int high;

	if (fd < 0)
		return -errno;
	high = linux_copy_fd(fd);
	if (high < 0 && fd > 2)
		return fd;
	close(fd);
	return high;
}

static int open_as(const char *path, int flags)
{
	int fd;

	/* O_NONBLOCK: a path that is a pipe or a device must not make us wait */
	do
		fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	while (fd < 0 && errno == EINTR);
	return out_of_the_way(fd);
}

static int linux_open(const char *path, bool writable)
{
	return open_as(path, writable ? O_RDWR : O_RDONLY);
}

static int reopen_as(int fd, bool writable, int flags)
{
	char path[32];
	int given = fcntl(fd, F_GETFL);

	if (given < 0)
		return -errno;
	if ((given & O_ACCMODE) == O_WRONLY || (writable && (given & O_ACCMODE) != O_RDWR))
		return -EACCES; /* what the file allows is more than the caller was given */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open_as(path, (writable ? O_RDWR : O_RDONLY) | flags);
}

static int linux_reopen(int fd, bool writable)
{
	return reopen_as(fd, writable, 0);
}

static int linux_reopen_direct(int fd)
{
	return reopen_as(fd, true, O_DIRECT);
}

static int linux_create_unnamed(const char *dir, mode_t mode)
{
	return out_of_the_way(open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, mode));
}

static int linux_create_named(const char *path, mode_t mode)
{
	return out_of_the_way(open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, mode));
}

static int linux_link_unnamed(int fd, const char *path)
{
	char from[32];

	snprintf(from, sizeof(from), "/proc/self/fd/%d", fd);
	return result_of(linkat(AT_FDCWD, from, AT_FDCWD, path, AT_SYMLINK_FOLLOW));
}

static int linux_link_named(const char *from, const char *path)
{
	int r = result_of(link(from, path));

	unlink(from);
	return r;
}

static int linux_unlink(const char *path)
{
	return result_of(unlink(path));
}

static int linux_close(int fd)
{
	return result_of(close(fd));
}

static void convert_stat(const struct statx *sx, struct os_stat *st)
{
	memset(st, 0, sizeof(*st));
	st->id.dev = makedev(sx->stx_dev_major, sx->stx_dev_minor);
	st->id.ino = sx->stx_ino;
	if (sx->stx_mask & STATX_BTIME) {
		st->id.birth_sec = (uint64_t)sx->stx_btime.tv_sec;
		st->id.birth_nsec = sx->stx_btime.tv_nsec;
	}
	st->size = sx->stx_size;
	st->blocks = sx->stx_blocks;
	st->is_regular = S_ISREG(sx->stx_mode);
}

static int linux_stat_fd(int fd, struct os_stat *st)
{
	struct statx sx;

	if (statx(fd, "", AT_EMPTY_PATH, ASKED, &sx) < 0)
		return -errno;
	convert_stat(&sx, st);
	return 0;
}

static int linux_stat_path(const char *path, struct os_stat *st)
{
	struct statx sx;

	if (statx(AT_FDCWD, path, 0, ASKED, &sx) < 0)
		return -errno;
	convert_stat(&sx, st);
	return 0;
}

static int linux_set_mode(int fd, mode_t mode)
{
	return result_of(fchmod(fd, mode));
}

static int linux_lock(int fd, bool exclusive)
{
	int r;

	do
		r = result_of(flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB));
	while (r == -EINTR);
	return r;
}

static int linux_unlock(int fd)
{
	return result_of(flock(fd, LOCK_UN));
}

/* A store into a fallocated block of a copy-on-write file needs a new block, and raises SIGBUS when the
 * disk is full (measured on btrfs from the second overwrite on). */
static int linux_no_copy_on_write(int fd)
{
	int flags;

	if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
		return -errno;
	flags |= (int)FS_NOCOW_FL;
	return result_of(ioctl(fd, FS_IOC_SETFLAGS, &flags));
}

static ssize_t linux_pread_full(int fd, void *buf, size_t len, uint64_t off)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(off + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

static int linux_pwrite_full(int fd, const void *buf, size_t len, uint64_t off)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(fd, (const char *)buf + done, len - done, (off_t)(off + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		done += (size_t)n;
	}
	return 0;
}

static int linux_sync(int fd)
{
	int r;

	do
		r = result_of(fdatasync(fd));
	while (r == -EINTR);
	return r;
}

static int linux_pwrite_sync(int fd, const void *buf, size_t len, uint64_t off)
{
	struct iovec io = {(void *)(uintptr_t)buf, len};
	ssize_t n = pwritev2(fd, &io, 1, (off_t)off, RWF_DSYNC);
	int r;

	if (n == (ssize_t)len)
		return 0;
	/* cut short, interrupted, or a kernel or file system without RWF_DSYNC */
	if (n < 0 && errno != EINTR && errno != EOPNOTSUPP && errno != ENOSYS)
		return -errno;
	r = linux_pwrite_full(fd, buf, len, off);
	return r ? r : linux_sync(fd);
}

static int linux_sync_dir(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r;

	if (fd < 0)
		return -errno;
	r = result_of(fsync(fd));
	close(fd);
	return r;
}

static int linux_allocate(int fd, uint64_t off, uint64_t len)
{
	int r;

	do
		r = result_of(fallocate(fd, 0, (off_t)off, (off_t)len));
	while (r == -EINTR);
	return r;
}

static int linux_unshare(int fd, uint64_t off, uint64_t len)
{
	return result_of(fallocate(fd, FALLOC_FL_UNSHARE_RANGE, (off_t)off, (off_t)len));
}

static int linux_is_shared(int fd, uint64_t off, uint64_t len)
{
	enum { EXTENTS = 32 };
	union {
		struct fiemap map;
		char room[sizeof(struct fiemap) + EXTENTS * sizeof(struct fiemap_extent)];
	} query;
	uint64_t end = off + len;

	while (off < end) {
		const struct fiemap_extent *last;

		memset(&query.map, 0, sizeof(query.map));
		query.map.fm_start = off;
		query.map.fm_length = end - off;
		query.map.fm_extent_count = EXTENTS;
		if (ioctl(fd, FS_IOC_FIEMAP, &query.map) < 0)
			return -errno;
		if (query.map.fm_mapped_extents == 0)
			return 0;
		for (unsigned i = 0; i < query.map.fm_mapped_extents; i++)
			if (query.map.fm_extents[i].fe_flags & FIEMAP_EXTENT_SHARED)
				return 1;
		last = &query.map.fm_extents[query.map.fm_mapped_extents - 1];
		if (last->fe_flags & FIEMAP_EXTENT_LAST)
			return 0;
		off = last->fe_logical + last->fe_length;
	}
	return 0;
}

static int linux_punch(int fd, uint64_t off, uint64_t len)
{
	return result_of(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len));
}

static int linux_truncate(int fd, uint64_t size)
{
	int r;

	do
		r = result_of(ftruncate(fd, (off_t)size));
	while (r == -EINTR);
	return r;
}

static int linux_next_data(int fd, uint64_t *off)
{
	off_t found = lseek(fd, (off_t)*off, SEEK_DATA);

	if (found < 0)
		return -errno;
	*off = (uint64_t)found;
	return 0;
}

static int linux_next_hole(int fd, uint64_t *off)
{
	off_t found = lseek(fd, (off_t)*off, SEEK_HOLE);

	if (found < 0)
		return -errno;
	*off = (uint64_t)found;
	return 0;
}

static int linux_clone_file(int to, int from)
{
	return result_of(ioctl(to, FICLONE, from));
}

static int linux_clone(int from, int to, uint64_t off, uint64_t len)
{
	struct file_clone_range range = {.src_fd = from, .src_offset = off, .src_length = len, .dest_offset = off};

	return result_of(ioctl(to, FICLONERANGE, &range));
}

static int read_boot_id(uint8_t id[16])
{
	char text[36]; /* hexadecimal digits and four dashes */
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n;
	unsigned nibbles = 0;

	if (fd < 0)
		return errno == EMFILE || errno == ENFILE || errno == ENOMEM ? -errno : -ENOSYS;
	n = linux_pread_full(fd, text, sizeof(text), 0);
	close(fd);
	memset(id, 0, 16);
	for (ssize_t i = 0; i < n && nibbles < 32; i++) {
		char c = text[i];
		unsigned digit;

		if (c >= '0' && c <= '9')
			digit = (unsigned)(c - '0');
		else if (c >= 'a' && c <= 'f')
			digit = (unsigned)(c - 'a') + 10;
		else
			continue;
		id[nibbles / 2] = (uint8_t)((unsigned)id[nibbles / 2] << 4 | digit);
		nibbles++;
	}
	return nibbles == 32 ? 0 : -ENOSYS;
}

static int linux_boot_id(uint8_t id[16])
{
	/* atomic; the second is 0: not read yet. Threads that read it at once find the same */
	static uint64_t known[2];
	uint64_t halves[2];
	int r;

	halves[1] = load_acquire(&known[1]); /* pairs with the release below */
	halves[0] = load_relaxed(&known[0]);
	if (!halves[1]) {
		r = read_boot_id((uint8_t *)halves);
		if (r)
			return r;
		store_relaxed(&known[0], halves[0]);
		store_release(&known[1], halves[1]);
	}
	memcpy(id, halves, sizeof(halves));
	return 0;
}

static int linux_random(void *buf, size_t len)
{
	ssize_t n;

	do
		n = getrandom(buf, len, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EIO;
}

static uint64_t linux_file_size_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_FSIZE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
		return UINT64_MAX;
	return limit.rlim_cur;
}

static uint64_t linux_page_size(void)
{
	return (uint64_t)getpagesize();
}

static uint64_t linux_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

const struct os_calls os_linux = {
	.open = linux_open,
	.reopen = linux_reopen,
	.reopen_direct = linux_reopen_direct,
	.create_unnamed = linux_create_unnamed,
	.create_named = linux_create_named,
	.link_unnamed = linux_link_unnamed,
	.link_named = linux_link_named,
	.unlink = linux_unlink,
	.close = linux_close,
	.copy_fd = linux_copy_fd,
	.stat_fd = linux_stat_fd,
	.stat_path = linux_stat_path,
	.set_mode = linux_set_mode,
	.lock = linux_lock,
	.unlock = linux_unlock,
	.stores_cheaply = memory_stores_cheaply,
	.no_copy_on_write = linux_no_copy_on_write,
	.pread_full = linux_pread_full,
	.pwrite_full = linux_pwrite_full,
	.write_view = memory_write_view,
	.pwrite_sync = linux_pwrite_sync,
	.sync = linux_sync,
	.sync_view = memory_sync_view,
	.sync_dir = linux_sync_dir,
	.allocate = linux_allocate,
	.unshare = linux_unshare,
	.is_shared = linux_is_shared,
	.punch = linux_punch,
	.truncate = linux_truncate,
	.next_data = linux_next_data,
	.clone = linux_clone,
	.next_hole = linux_next_hole,
	.clone_file = linux_clone_file,
	.reserve_file = memory_reserve_file,
	.reserve_private = memory_reserve_private,
	.reserve_memory = memory_reserve,
	.view = memory_view,
	.map_private = memory_map_private,
	.move_memory = memory_move,
	.protect = memory_protect,
	.unmap = memory_unmap,
	.advise = memory_advise,
	.is_cached = memory_is_cached,
	.watch = track_watch,
	.pagemap = track_pagemap,
	.scan = track_scan,
	.private_pages = track_private_pages,
	.sample_faults = samples_open,
	.read_samples = samples_read,
	.end_samples = samples_close,
	.on_fault = track_on_fault,
	.memory_limit = track_memory_limit,
	.boot_id = linux_boot_id,
	.random = linux_random,
	.file_size_limit = linux_file_size_limit,
	.page_size = linux_page_size,
	.thread_count = thread_count,
	.fault_count = thread_fault_count,
	.process_fault_count = thread_process_fault_count,
	.dirtied = thread_dirtied,
	.now_ms = linux_now_ms,
	.hold_signals = thread_hold_signals,
	.release_signals = thread_release_signals,
	.sleep_ms = thread_sleep_ms,
	.yield = thread_yield,
	.wait_word = thread_wait_word,
	.wake_word = thread_wake_word,
};
