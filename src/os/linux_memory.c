/* SPDX-License-Identifier: Apache-2.0
 *
 * Address space and the pages in it.
 */
#define _GNU_SOURCE
#include "linux_memory.h"

#include <errno.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

/* Where a new mapping goes. A plain hint is passed over by some kernels although the place is free: where a page lies
 * right behind it. Kernels before 4.17 do not know the flag, and take the address for a hint. */
static int place(const void *at, bool replace)
{
	return replace ? MAP_FIXED : at ? MAP_FIXED_NOREPLACE : 0;
}

static int result_of(int r)
{
	return r < 0 ? -errno : r;
}

int memory_reserve_file(int fd, void *at, bool replace, uint64_t len, void **result)
{
	void *p = mmap(at, len, PROT_NONE, MAP_SHARED | place(at, replace), fd, 0);

	if (p == MAP_FAILED)
		return -errno;
	/* a core of the whole reservation would be a terabyte; store_may_dump() */
	madvise(p, len, MADV_DONTDUMP);
	*result = p;
	return 0;
}

int memory_reserve_private(int fd, void *at, bool replace, uint64_t len, void **result)
{
	/* NORESERVE: what is written is copied page by page, and is not the whole reservation */
	void *p = mmap(at, len, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE | place(at, replace), fd, 0);

	if (p == MAP_FAILED)
		return -errno;
	*result = p;
	return 0;
}

int memory_view(void *at, uint64_t len, void **result)
{
	void *p = mremap(at, 0, len, MREMAP_MAYMOVE); /* of length 0: the old one stays */
	int r;

	if (p == MAP_FAILED)
		return -errno;
	r = result_of(mprotect(p, len, PROT_READ));
	if (r)
		munmap(p, len);
	else
		*result = p;
	return r;
}

/* [Measured on Linux 6.18, the heap's way of using it (store/place.h): on ext4, XFS and tmpfs it is cheaper than writing, on btrfs
 * dearer by 1.2 to 1.4. Others were not measured.] */
bool memory_stores_cheaply(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 &&
	       (fs.f_type == EXT4_SUPER_MAGIC /* ext2 and ext3, too */ || fs.f_type == XFS_SUPER_MAGIC || fs.f_type == TMPFS_MAGIC);
}

/* Pieces of a call. */
#define PIECES 64

/* Bytes between two pieces in memory that are copied for nothing rather than in a call of their own. */
#define GAP_MAX 64

/* The kernel copies, from this process to itself: a page that can't be had is an error then, and not a SIGBUS. The
 * result is how many pieces were copied. */
static int copy_pieces(uint8_t *view, const struct os_piece *pieces, unsigned n)
{
	uint8_t gap[GAP_MAX];
	const uint8_t *start = pieces[0].data, *end = start;
	struct iovec from, to[2 * PIECES];
	unsigned i, parts = 0;
	ssize_t copied;

	for (i = 0; i < n && i < PIECES; i++) {
		const uint8_t *data = pieces[i].data;

		if (data < end || (size_t)(data - end) > GAP_MAX)
			break;
		if (data > end)
			to[parts++] = (struct iovec){gap, (size_t)(data - end)};
		to[parts++] = (struct iovec){view + pieces[i].off, pieces[i].len};
		end = data + pieces[i].len;
	}
	from = (struct iovec){(void *)(uintptr_t)start, (size_t)(end - start)};
	/* by the thread's number: the process's is that of its first thread, which may have ended */
	copied = process_vm_readv((pid_t)syscall(SYS_gettid), to, parts, &from, 1, 0);
	if (copied < 0)
		return -errno;
	return (size_t)copied == from.iov_len ? (int)i : -EFAULT;
}

int memory_write_view(int fd, void *view, const struct os_piece *pieces, unsigned n)
{
	(void)fd; /* the view is enough here; tests that put themselves between need it */
	for (unsigned done = 0; done < n;) {
		int r = copy_pieces(view, pieces + done, n - done);

		if (r < 0)
			return r;
		done += (unsigned)r;
	}
	return 0;
}

int memory_sync_view(int fd, void *at, uint64_t len)
{
	(void)fd;
	return result_of(msync(at, len, MS_SYNC));
}

int memory_map_private(int fd, void *at, uint64_t len)
{
	int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;

	return mmap(at, len, PROT_READ | PROT_WRITE, flags, fd, 0) == MAP_FAILED ? -errno : 0;
}

int memory_move(void *from, void *at, uint64_t len)
{
	return mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED ? -errno : 0;
}

int memory_reserve(uint64_t len, void **result)
{
	void *p = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	*result = p;
	return 0;
}

int memory_protect(void *at, uint64_t len, bool readable, bool writable)
{
	int protection = (readable ? PROT_READ : PROT_NONE) | (writable ? PROT_WRITE : PROT_NONE);

	return result_of(mprotect(at, len, protection));
}

int memory_unmap(void *at, uint64_t len)
{
	return result_of(munmap(at, len));
}

int memory_advise(void *at, uint64_t len, enum os_advice advice)
{
	static const int value[] = {
		[OS_POPULATE_WRITE] = MADV_POPULATE_WRITE,
		[OS_WIPE_ON_FORK] = MADV_WIPEONFORK,
		[OS_DONT_DUMP] = MADV_DONTDUMP,
		[OS_DUMP] = MADV_DODUMP,
		[OS_DROP] = MADV_DONTNEED,
	};

	int r = result_of(madvise(at, len, value[advice]));

	/* a program that locks its memory (mlockall) */
	if (r == -EINVAL && advice == OS_DROP)
		r = result_of(madvise(at, len, MADV_DONTNEED_LOCKED));
	return r;
}

int memory_is_cached(void *at, uint64_t len)
{
	unsigned char in_memory[16];
	size_t pages = (len + (size_t)sysconf(_SC_PAGESIZE) - 1) / (size_t)sysconf(_SC_PAGESIZE);

	if (pages > sizeof(in_memory))
		return -EINVAL;
	if (mincore(at, len, in_memory) < 0)
		return -errno;
	for (size_t i = 0; i < pages; i++)
		if (in_memory[i] & 1)
			return 1;
	return 0;
}
