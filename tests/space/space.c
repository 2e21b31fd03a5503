/* SPDX-License-Identifier: Apache-2.0
 *
 * No space (part of test 12 of the plan): max_size, RLIMIT_FSIZE, RLIMIT_AS; and, on a small file
 * system that space.sh mounts and names in FM_SPACE_DIR, a full disk. Everything ends in an error
 * return, never in a signal; the heap works on after space returns, and nothing is lost. Each case is
 * a process of its own, since SIGBUS and SIGXFSZ would kill it.
 */
#define _GNU_SOURCE 1
#include "../support/proc_util.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#define MIB ((size_t)1 << 20)
#define ROOM (24 * MIB)     /* left free on the small file system */
#define SLOW_DISK 10        /* times the usual limit: on a full btrfs each first store to a page waits for some 10 ms */

static char *dir;
static char path[PATH_MAX], other[PATH_MAX], base_filler[PATH_MAX], filler[PATH_MAX], spare_path[PATH_MAX];

/* ---------------------------------------------------------------- piles of objects */

struct item {
	uint64_t off;
	size_t size;
	uint64_t id;
};

struct pile {
	struct item *item;
	size_t count, room;
	uint64_t next_id;
};

static void pile_add(struct pile *pile, fm_heap *heap, void *p, size_t size)
{
	proc_must(p != NULL);
	if (pile->count == pile->room) {
		pile->room = pile->room ? 2 * pile->room : 256;
		pile->item = realloc(pile->item, pile->room * sizeof(*pile->item));
		proc_must(pile->item != NULL);
	}
	proc_fill(p, ++pile->next_id, size);
	pile->item[pile->count++] = (struct item){ fm_offset_of(heap, p), size, pile->next_id };
}

static bool pile_intact(const struct pile *pile, fm_heap *heap)
{
	for (size_t i = 0; i < pile->count; i++) {
		const struct item *it = &pile->item[i];

		if (!proc_intact(fm_at(heap, it->off), it->id, it->size, it->size))
			return false;
	}
	return true;
}

/* Store into every object again, and into one page in eight of the large ones: btrfs takes milliseconds
 * for each page once it is full. */
static void pile_rewrite(const struct pile *pile, fm_heap *heap)
{
	for (size_t i = 0; i < pile->count; i++) {
		const struct item *it = &pile->item[i];
		volatile unsigned char *p = fm_at(heap, it->off);

		for (size_t at = it->id % 8 * 4096; at < it->size; at += (size_t)8 * 4096)
			p[at] = p[at];
		if (it->size)
			p[it->size - 1] = p[it->size - 1];
	}
}

static void pile_pop(struct pile *pile, fm_heap *heap)
{
	proc_must(pile->count > 0);
	proc_must(fm_free(fm_at(heap, pile->item[--pile->count].off)) == 0);
}

/* Allocate and touch objects of `size` bytes until none fits: NULL, ENOMEM and a sentence. */
static void pile_up(struct pile *pile, fm_heap *heap, size_t size)
{
	void *p;

	errno = 0;
	while ((p = fm_malloc(heap, size)) != NULL)
		pile_add(pile, heap, p, size);
	proc_must(errno == ENOMEM);
	proc_must(fm_last_error()[0] != '\0');
}

/* Fill the heap with objects of all kinds until none fits, the last ones of `smallest` bytes. */
static void fill_heap(struct pile *pile, fm_heap *heap, size_t smallest)
{
	static const size_t sizes[] = { 9 * MIB, 2 * MIB, 200000, 20000, 1000, 64, 24 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]) && sizes[i] >= smallest; i++)
		pile_up(pile, heap, sizes[i]);
}

static uint64_t count_all(fm_heap *heap)
{
	proc_must(proc_check(heap) == 0);
	return proc_count_objects(heap);
}

/* The heap at `path` opens and holds exactly the pile. */
static void must_hold(const struct pile *pile)
{
	fm_heap *heap = fm_open(path, 0, NULL);

	proc_must(heap != NULL);
	proc_must(count_all(heap) == pile->count);
	proc_must(pile_intact(pile, heap));
	proc_must(fm_close(heap) == 0);
}

/* A heap that ran full works on: what is freed can be had again. */
static void must_work_on(struct pile *pile, fm_heap *heap)
{
	for (int i = 0; i < 3; i++) {
		size_t size = pile->item[pile->count - 1].size;
		void *p;

		pile_pop(pile, heap);
		p = fm_malloc(heap, size);
		proc_must(p != NULL);
		pile_add(pile, heap, p, size);
	}
	proc_must(pile_intact(pile, heap));
}

/* ---------------------------------------------------------------- filling the disk */

static void sync_disk(void)
{
	int fd = open(dir, O_RDONLY | O_CLOEXEC);

	proc_must(fd >= 0 && syncfs(fd) == 0);
	close(fd);
}

/* Bytes that the file system says are available. */
static size_t available(void)
{
	struct statvfs st;

	proc_must(statvfs(dir, &st) == 0);
	return (size_t)st.f_bavail * st.f_frsize;
}

/* Take all space but `left` bytes, in ever smaller steps, and put it on the device. */
static void fill_disk(size_t left)
{
	static char block[65536];
	static const size_t steps[] = { 16 * MIB, MIB, 65536, 4096 };
	int fd = open(filler, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	struct stat st;

	proc_must(fd >= 0);
	if (left) {
		int spare = open(spare_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

		proc_must(spare >= 0 && fallocate(spare, 0, 0, (off_t)left) == 0);
		close(spare);
	}
	for (size_t i = 0; i < 4; i++)
		while (fstat(fd, &st) == 0 && fallocate(fd, 0, st.st_size, (off_t)steps[i]) == 0)
			;
	for (int round = 0; round < 3; round++) {
		for (size_t len = sizeof(block); len >= 512; len /= 2)
			while (write(fd, block, len) > 0)
				;
		(void)fsync(fd);
	}
	close(fd);
	proc_must(left == 0 || unlink(spare_path) == 0);
	sync_disk();
}

static void free_disk(void)
{
	size_t now = available();

	proc_must(unlink(filler) == 0);
	sync_disk();
	for (int i = 0; i < 500 && available() < now + MIB; i++)
		proc_sleep_us(10000); /* some file systems give back in the background */
}

/* ---------------------------------------------------------------- a full disk */

static int fill_until_null(void *arg)
{
	fm_heap *heap = fm_open(path, FM_CREATE, NULL);
	struct pile pile = { 0 };
	struct item *last;

	(void)arg;
	proc_must(heap != NULL);
	fill_heap(&pile, heap, 24);
	proc_must(pile.count > 10);
	proc_must(pile_intact(&pile, heap));
	proc_must(count_all(heap) == pile.count);

	/* A realloc that finds no room leaves the object. */
	last = &pile.item[0];
	proc_must(fm_realloc(heap, fm_at(heap, last->off), 512 * MIB) == NULL && errno == ENOMEM);
	proc_must(fm_calloc(heap, 40, MIB) == NULL && errno == ENOMEM);
	proc_must(fm_aligned_alloc(heap, MIB, 30 * MIB) == NULL && errno == ENOMEM);
	proc_must(pile_intact(&pile, heap));

	/* It can be stored to again, also after it went to the device. */
	for (int i = 0; i < 2; i++) {
		pile_rewrite(&pile, heap);
		proc_must(fm_sync(heap) == 0);
	}
	must_work_on(&pile, heap);
	for (size_t n = pile.count / 2; pile.count > n;)
		pile_pop(&pile, heap);
	fill_heap(&pile, heap, 1000);
	proc_must(pile_intact(&pile, heap));
	proc_must(fm_close(heap) == 0);
	must_hold(&pile);
	return 0;
}

/* Names of roots need objects too; running out of them loses no older one. */
static int fill_with_roots(void *arg)
{
	fm_heap *heap = fm_open(path, FM_CREATE, NULL);
	struct pile pile = { 0 };
	char name[64];
	long n = 0;

	(void)arg;
	proc_must(heap != NULL);
	fill_heap(&pile, heap, 24);
	do
		snprintf(name, sizeof(name), "a root with a name of some length, number %ld", n);
	while (n < 300000 && fm_root_set(heap, name, fm_at(heap, pile.item[0].off), 5) == 0 && ++n);
	proc_must(n < 300000);
	proc_must(errno == ENOMEM && fm_last_error()[0] != '\0');
	for (long i = 0; i < n; i += 1 + n / 100) {
		snprintf(name, sizeof(name), "a root with a name of some length, number %ld", i);
		proc_must(fm_root_get(heap, name, 5) == fm_at(heap, pile.item[0].off));
	}
	proc_must(count_all(heap) == pile.count);
	proc_must(fm_close(heap) == 0);
	must_hold(&pile);
	return 0;
}

static int others_take_the_rest(void *arg)
{
	fm_heap *heap = fm_open(path, FM_CREATE, NULL);
	struct pile pile = { 0 };
	void *p;

	(void)arg;
	proc_must(heap != NULL);
	for (size_t i = 0; i < 40; i++) {
		size_t size = i % 4 ? 100 * i : 300000;

		p = fm_malloc(heap, size);
		proc_must(p != NULL);
		pile_add(&pile, heap, p, size);
	}
	fill_disk(0);
	fill_heap(&pile, heap, 24);
	pile_rewrite(&pile, heap);
	proc_must(fm_sync(heap) == 0);
	pile_rewrite(&pile, heap);
	must_work_on(&pile, heap);
	proc_must(count_all(heap) == pile.count);
	free_disk();
	p = fm_malloc(heap, 5 * MIB);
	proc_must(p != NULL);
	pile_add(&pile, heap, p, 5 * MIB);
	proc_must(fm_close(heap) == 0);
	must_hold(&pile);
	return 0;
}

/* Closed and opened again while the disk is full. */
static int reopen_on_full_disk(void *arg)
{
	fm_heap *heap = fm_open(path, FM_CREATE, NULL);
	struct pile pile = { 0 };

	(void)arg;
	proc_must(heap != NULL);
	for (size_t i = 0; i < 10; i++) {
		void *p = fm_malloc(heap, i * 100000);

		proc_must(p != NULL);
		pile_add(&pile, heap, p, i * 100000);
	}
	fill_disk(0);
	proc_must(fm_close(heap) == 0);
	fill_disk(0); /* what closing gave back */
	heap = fm_open(path, 0, NULL);
	proc_must(heap != NULL);
	pile_rewrite(&pile, heap);
	fill_heap(&pile, heap, 24);
	proc_must(fm_close(heap) == 0);
	must_hold(&pile);
	return 0;
}

static int create_on_full_disk(void *arg)
{
	fm_heap *heap;
	int fd;

	(void)arg;
	fill_disk(0);
	errno = 0;
	proc_must(fm_open(path, FM_CREATE, NULL) == NULL);
	proc_must(errno == ENOSPC);
	proc_must(fm_last_error()[0] != '\0');
	proc_must(access(path, F_OK) == -1);

	/* Taking over a file of zeros fails as well, and leaves it one. */
	free_disk();
	fd = open(other, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	proc_must(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
	close(fd);
	fill_disk(0);
	proc_must(fm_open(other, FM_CREATE, NULL) == NULL);
	proc_must(errno == ENOSPC);
	free_disk();
	heap = fm_open(other, FM_CREATE, NULL);
	proc_must(heap != NULL);
	proc_must(fm_close(heap) == 0);
	heap = fm_open(path, FM_CREATE, NULL);
	proc_must(heap != NULL);
	proc_must(fm_close(heap) == 0);
	return 0;
}

/* The lowest free space is a hole and the disk is full; what is freed behind it has its blocks and is found. */
struct refill {
	size_t size;     /* of what is allocated then */
	bool is_reopened; /* what is freed is of an earlier process */
	size_t left;     /* bytes on the disk */
	size_t least;    /* bytes that can be had */
};

static int refill(void *arg)
{
	const struct refill *r = arg;
	struct fm_options options = { .size = sizeof(options), .decay_ms = -1 };
	fm_heap *heap = fm_open(path, FM_CREATE, &options);
	struct pile pile = { 0 };
	uint64_t hole, off;

	proc_must(heap != NULL);
	hole = fm_offset_of(heap, fm_malloc(heap, 5 * MIB));
	off = fm_offset_of(heap, fm_malloc(heap, 5 * MIB));
	proc_must(hole && off > hole);
	proc_must(fm_free(fm_at(heap, hole)) == 0);
	proc_must(fm_trim(heap, 0) == 1);
	if (r->is_reopened) {
		proc_must(fm_close(heap) == 0);
		heap = fm_open(path, 0, &options);
		proc_must(heap != NULL);
	}
	fill_disk(r->left);
	proc_must(fm_free(fm_at(heap, off)) == 0);
	pile_up(&pile, heap, r->size);
	proc_must(pile.count * r->size >= r->least);
	pile_rewrite(&pile, heap);
	proc_must(fm_sync(heap) == 0);
	pile_rewrite(&pile, heap);
	must_work_on(&pile, heap);
	proc_must(count_all(heap) == pile.count);
	proc_must(fm_close(heap) == 0);
	must_hold(&pile);
	return 0;
}

/* ---------------------------------------------------------------- holes */

/* Give back every block of zeros, as fallocate -d does. Returns the bytes given back. */
static size_t dig_holes(const char *where)
{
	static char block[4096];
	static const char zero[4096];
	int fd = open(where, O_RDWR | O_CLOEXEC);
	struct stat before, after;

	proc_must(fd >= 0 && fsync(fd) == 0 && fstat(fd, &before) == 0);
	for (off_t at = 0; at < before.st_size; at += 4096) {
		ssize_t n = pread(fd, block, sizeof(block), at);

		proc_must(n >= 0);
		if (memcmp(block, zero, (size_t)n) == 0)
			proc_must(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, n) == 0);
	}
	proc_must(fsync(fd) == 0 && fstat(fd, &after) == 0);
	close(fd);
	return (size_t)(before.st_blocks - after.st_blocks) * 512;
}

struct holes {
	bool zero_objects;   /* live objects of zeros become holes too */
	enum { DUG, COPIED, CLONED } how;
};

#define LIVE 40

/* A heap in which half the space is free and zero; the offsets of the live objects go to `off`. */
static void make_holed_heap(uint64_t off[LIVE], bool zero_objects)
{
	fm_heap *heap = fm_open(path, FM_CREATE, NULL);
	void *freed[LIVE];

	proc_must(heap != NULL);
	for (size_t i = 0; i < LIVE; i++) {
		size_t size = i < 4 ? MIB : i < 30 ? 70000 : 3000;
		void *p = fm_malloc(heap, size);

		freed[i] = fm_malloc(heap, size);
		proc_must(p && freed[i]);
		memset(freed[i], 0, size);
		memset(p, 0, size);
		if (!zero_objects)
			proc_fill(p, i, size);
		off[i] = fm_offset_of(heap, p);
	}
	for (size_t i = 0; i < LIVE; i++)
		proc_must(fm_free(freed[i]) == 0);
	proc_must(fm_close(heap) == 0);
}

static bool holed_heap_intact(fm_heap *heap, const uint64_t off[LIVE], bool zero_objects)
{
	for (size_t i = 0; i < LIVE; i++) {
		size_t size = i < 4 ? MIB : i < 30 ? 70000 : 3000;
		const unsigned char *p = fm_at(heap, off[i]);

		if (!zero_objects && !proc_intact(p, i, size, size))
			return false;
		for (size_t at = 0; zero_objects && at < size; at++)
			if (p[at])
				return false;
	}
	return true;
}

/* Store into every page of the live objects, with what they hold. */
static void touch_holed_heap(fm_heap *heap, const uint64_t off[LIVE])
{
	for (size_t i = 0; i < LIVE; i++) {
		size_t size = i < 4 ? MIB : i < 30 ? 70000 : 3000;
		volatile unsigned char *p = fm_at(heap, off[i]);

		for (size_t at = 0; at < size; at += 512)
			p[at] = p[at];
	}
}

/* Make an empty file for a copy of the heap. On btrfs it gets the heap's NOCOW attribute, which an empty
 * file alone can get: in a file without it any store may need a new block, whatever was allocated before,
 * and no library can keep such a copy from SIGBUS on a full disk. */
static int open_copy(void)
{
	int in = open(path, O_RDONLY | O_CLOEXEC), flags = 0, copy_flags = 0;
	int out = open(other, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	proc_must(in >= 0 && out >= 0);
	if (ioctl(in, FS_IOC_GETFLAGS, &flags) == 0 && flags & FS_NOCOW_FL) {
		proc_must(ioctl(out, FS_IOC_GETFLAGS, &copy_flags) == 0);
		copy_flags |= FS_NOCOW_FL;
		proc_must(ioctl(out, FS_IOC_SETFLAGS, &copy_flags) == 0);
	}
	close(in);
	return out;
}

/* Make a clone that shares the blocks, as cp does by default where it can. Is that possible here? */
static bool clone_file(void)
{
	int out = open_copy(), in = open(path, O_RDONLY | O_CLOEXEC);
	bool done = ioctl(out, FICLONE, in) == 0;

	close(in);
	close(out);
	return done;
}

/* Make the holes, or a copy with holes or shared blocks in the place of the heap. */
static bool make_holes(const struct holes *h)
{
	struct stat was, is;

	if (h->how == DUG) {
		proc_must(dig_holes(path) >= 2 * MIB);
		return true;
	}
	proc_must(stat(path, &was) == 0);
	if (h->how == CLONED) {
		if (!clone_file())
			return false;
		/* The original stays, so that blocks stay shared. */
		proc_must(rename(path, filler) == 0 && rename(other, path) == 0);
		proc_must(rename(filler, other) == 0);
		return true;
	}
	close(open_copy());
	proc_must(proc_copy(path, other, true) == 0);
	proc_must(rename(other, path) == 0);
	sync_disk();
	proc_must(stat(path, &is) == 0 && (was.st_blocks - is.st_blocks) * 512 >= (off_t)(2 * MIB));
	return true;
}

/* All that is live and all that is still to be had can be stored to, also after a sync. */
static void use_holed_heap(struct pile *pile, fm_heap *heap, const uint64_t off[LIVE])
{
	for (int i = 0; i < 2; i++) {
		touch_holed_heap(heap, off);
		proc_must(fm_sync(heap) == 0);
	}
	fill_heap(pile, heap, 1000);
	pile_rewrite(pile, heap);
	proc_must(pile_intact(pile, heap));
	proc_must(fm_sync(heap) == 0);
	pile_rewrite(pile, heap);
	proc_must(fm_close(heap) == 0);
}

/* With space again, all is there: the live objects and what was added to them. */
static void must_be_whole(const struct holes *h, const uint64_t off[LIVE], struct pile *pile)
{
	fm_heap *heap = fm_open(path, 0, NULL);

	proc_must(heap != NULL);
	proc_must(count_all(heap) == LIVE + pile->count);
	proc_must(pile_intact(pile, heap));
	proc_must(holed_heap_intact(heap, off, h->zero_objects));
	touch_holed_heap(heap, off);
	while (pile->count)
		pile_pop(pile, heap);
	proc_must(fm_malloc(heap, 3 * MIB) != NULL);
	proc_must(fm_close(heap) == 0);
}

/* Open a heap with holes on a disk that is full but for `left` bytes: an error, each time, or a heap of
 * which all can be stored to. */
static int use_holes(const struct holes *h, size_t left)
{
	uint64_t off[LIVE];
	struct pile pile = { 0 };

	make_holed_heap(off, h->zero_objects);
	if (!make_holes(h))
		return 77;
	fill_disk(left);
	for (int i = 0; i < 3; i++) {
		fm_heap *heap = fm_open(path, 0, NULL);

		if (heap) {
			printf("# opened at try %d with %zu KiB left\n", i + 1, left >> 10);
			fflush(stdout);
			use_holed_heap(&pile, heap, off);
			break;
		}
		proc_must(errno == ENOSPC);
		proc_must(fm_last_error()[0] != '\0');
	}
	free_disk();
	unlink(other);
	must_be_whole(h, off, &pile);
	proc_must(unlink(path) == 0);
	sync_disk();
	return 0;
}

static int use_holes_on_full_disk(void *arg)
{
	static const size_t left[] = { 0, 100 << 10, 400 << 10, 1 << 20, 2560 << 10, 8704 << 10 };
	int r = 0;

	for (size_t i = 0; i < sizeof(left) / sizeof(left[0]) && r == 0; i++)
		r = use_holes(arg, left[i]);
	return r;
}

/* ---------------------------------------------------------------- limits of heap and process */

static int max_size(void *arg)
{
	struct fm_options options = { .size = sizeof(options), .max_size = 20 * MIB };
	struct fm_statistics stats = { .size = sizeof(stats) };
	struct pile pile = { 0 };
	fm_heap *heap = fm_open(path, FM_CREATE, &options);
	struct stat st;
	size_t full;

	(void)arg;
	proc_must(heap != NULL);
	fill_heap(&pile, heap, 24);
	proc_must(pile_intact(&pile, heap));
	proc_must(fm_stats(heap, &stats) == 0);
	proc_must(stats.max_size <= 20 * MIB && stats.file_size <= 20 * MIB);
	proc_must(stat(path, &st) == 0 && st.st_size <= (off_t)(20 * MIB));
	proc_must(stats.live_bytes >= 15 * MIB); /* most of it is to be had */
	must_work_on(&pile, heap);
	proc_must(fm_malloc(heap, SIZE_MAX) == NULL && errno == ENOMEM);
	proc_must(fm_malloc(heap, (size_t)5 << 30) == NULL && errno == ENOMEM);
	proc_must(count_all(heap) == pile.count);
	proc_must(fm_close(heap) == 0);

	/* The limit is the opening's, not the file's. */
	full = pile.count;
	options.max_size = 40 * MIB;
	heap = fm_open(path, 0, &options);
	proc_must(heap != NULL);
	fill_heap(&pile, heap, 1000);
	proc_must(pile.count > full);
	proc_must(fm_close(heap) == 0);
	proc_must(stat(path, &st) == 0 && st.st_size <= (off_t)(40 * MIB));
	must_hold(&pile);
	return 0;
}

static int address_space_option(void *arg)
{
	struct fm_options options = { .size = sizeof(options), .address_space = 24 * MIB };
	struct fm_statistics stats = { .size = sizeof(stats) };
	fm_heap *heap = fm_open(path, FM_CREATE, &options);
	struct pile pile = { 0 };

	(void)arg;
	proc_must(heap != NULL);
	fill_heap(&pile, heap, 1000);
	proc_must(fm_stats(heap, &stats) == 0);
	proc_must(stats.file_size <= stats.address_space);
	must_work_on(&pile, heap);
	proc_must(fm_close(heap) == 0);
	must_hold(&pile);
	return 0;
}

static void limit_file_size(rlim_t bytes)
{
	struct rlimit limit;

	proc_must(getrlimit(RLIMIT_FSIZE, &limit) == 0);
	limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
	proc_must(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

static void limit_address_space(rlim_t bytes)
{
	struct rlimit limit;

	proc_must(getrlimit(RLIMIT_AS, &limit) == 0);
	limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
	proc_must(setrlimit(RLIMIT_AS, &limit) == 0);
}

static int file_size_limit(void *arg)
{
	struct pile pile = { 0 };
	fm_heap *heap;
	struct stat st;
	void *p;

	(void)arg;
	limit_file_size(12 * MIB);
	heap = fm_open(path, FM_CREATE, NULL);
	proc_must(heap != NULL);
	fill_heap(&pile, heap, 24);
	proc_must(stat(path, &st) == 0 && st.st_size <= (off_t)(12 * MIB));
	proc_must(pile_intact(&pile, heap));
	must_work_on(&pile, heap);
	limit_file_size(40 * MIB);
	p = fm_malloc(heap, 10 * MIB);
	proc_must(p != NULL);
	pile_add(&pile, heap, p, 10 * MIB);
	proc_must(fm_close(heap) == 0);
	must_hold(&pile);
	return 0;
}

/* Any limit, also one below the header, when creating, opening, allocating, syncing and closing. */
static int tiny_file_size_limits(void *arg)
{
	static const size_t limits[] = {
		0,      1,      512,    4096,   8192,   8704, 12288,   16384,
		65536, 131071, 131072, 131073, 200000, 262144, MIB, 5 * MIB,
	};
	fm_heap *heap = fm_open(other, FM_CREATE, NULL);
	struct pile pile = { 0 };

	(void)arg;
	proc_must(heap != NULL);
	pile_add(&pile, heap, fm_malloc(heap, 2 * MIB), 2 * MIB);
	pile_add(&pile, heap, fm_malloc(heap, 100), 100);
	proc_must(fm_close(heap) == 0);
	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		bool created;

		limit_file_size(limits[i]);
		heap = fm_open(path, FM_CREATE, NULL);
		created = heap != NULL;
		proc_must(heap || (errno != 0 && fm_last_error()[0] != '\0'));
		if (heap) {
			(void)fm_malloc(heap, 100);
			proc_must(fm_malloc(heap, 6 * MIB) == NULL && errno == ENOMEM);
			proc_must(fm_close(heap) == 0);
		}
		heap = fm_open(other, 0, NULL);
		proc_must(heap || (errno != 0 && fm_last_error()[0] != '\0'));
		if (heap) {
			proc_must(fm_malloc(heap, 8 * MIB) == NULL);
			proc_must(fm_close(heap) == 0);
		}
		limit_file_size(RLIM_INFINITY);
		heap = fm_open(path, 0, NULL);
		proc_must(created == (heap != NULL));
		proc_must(created || access(path, F_OK) == -1);
		if (heap) {
			proc_must(proc_check(heap) == 0);

			/* The limit drops while the heap is open. */
			limit_file_size(limits[i]);
			proc_must(fm_malloc(heap, 8 * MIB) == NULL && errno == ENOMEM);
			(void)fm_sync(heap);
			(void)fm_close(heap);
			limit_file_size(RLIM_INFINITY);
			heap = fm_open(path, 0, NULL);
			proc_must(heap != NULL);
			proc_must(proc_check(heap) == 0);
			proc_must(fm_close(heap) == 0);
			proc_must(unlink(path) == 0);
		}
	}
	proc_must(rename(other, path) == 0);
	must_hold(&pile);
	return 0;
}

/* Bytes of address space that this process uses. */
static size_t address_space_used(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	unsigned long pages = 0;

	proc_must(f && fscanf(f, "%lu", &pages) == 1);
	fclose(f);
	return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* With little address space the heap gets less of it, or an error; nothing else. */
static int address_space_limit(void *arg)
{
	static const size_t more[] = { 0, 65536, MIB, 8 * MIB, 40 * MIB, 200 * MIB, 4096 * MIB };
	struct pile pile = { 0 };
	fm_heap *heap = fm_open(path, FM_CREATE, NULL);
	size_t used = address_space_used();
	int opened = 0;

	(void)arg;
	proc_must(heap != NULL);
	pile_add(&pile, heap, fm_malloc(heap, 10 * MIB), 10 * MIB);
	proc_must(fm_close(heap) == 0);
	used = address_space_used();
	for (size_t i = 0; i < sizeof(more) / sizeof(more[0]); i++) {
		struct fm_options options = { .size = sizeof(options), .max_size = 40 * MIB };

		limit_address_space(used + more[i]);
		heap = fm_open(path, 0, &options);
		if (heap) {
			struct pile added = { 0 };

			opened++;
			added.room = 64;
			added.item = malloc(64 * sizeof(*added.item));
			proc_must(added.item != NULL);
			pile_up(&added, heap, 5 * MIB);
			proc_must(pile_intact(&pile, heap));
			while (added.count)
				pile_pop(&added, heap);
			free(added.item);
			proc_must(fm_close(heap) == 0);
		} else {
			proc_must(errno == ENOMEM);
			proc_must(fm_last_error()[0] != '\0');
			proc_must(more[i] < 200 * MIB);
		}
		limit_address_space(RLIM_INFINITY);
	}
	proc_must(opened >= 2);
	must_hold(&pile);
	return 0;
}

/* ---------------------------------------------------------------- tests */

static void run(int (*function)(void *), void *arg)
{
	int end = proc_end(proc_start(function, arg, SLOW_DISK * PROC_LIMIT_MS));

	if (end == 77)
		skip();
	if (end < 0)
		print_error("died: %s\n", strsignal(-end));
	assert_int_equal(end, 0);
}

#define TEST(name, function) \
	static void name(void **state) \
	{ \
		(void)state; \
		run(function, NULL); \
	}

#define REFILL_TEST(name, ...) \
	static void name(void **state) \
	{ \
		struct refill how = { __VA_ARGS__ }; \
\
		(void)state; \
		run(refill, &how); \
	}

#define HOLES_TEST(name, zero, way) \
	static void name(void **state) \
	{ \
		struct holes holes = { zero, way }; \
\
		(void)state; \
		run(use_holes_on_full_disk, &holes); \
	}

TEST(test_fill_until_null, fill_until_null)
TEST(test_fill_with_roots, fill_with_roots)
TEST(test_others_take_the_rest, others_take_the_rest)
TEST(test_reopen_on_full_disk, reopen_on_full_disk)
TEST(test_create_on_full_disk, create_on_full_disk)
REFILL_TEST(test_refill_huge, 5 * MIB, false, 0, 5 * MIB)
REFILL_TEST(test_refill_huge_reopened, 5 * MIB, true, 0, 5 * MIB)
REFILL_TEST(test_refill_large, 500000, false, 0, 7 * MIB)
REFILL_TEST(test_refill_small, 1000, false, 0, 8 * MIB)
REFILL_TEST(test_refill_small_nearly_full, 1000, false, 192 << 10, 8 * MIB)
HOLES_TEST(test_free_space_punched, false, DUG)
HOLES_TEST(test_zero_objects_punched, true, DUG)
HOLES_TEST(test_sparse_copy, false, COPIED)
HOLES_TEST(test_sparse_copy_of_zeros, true, COPIED)
HOLES_TEST(test_cloned_copy, false, CLONED)
TEST(test_max_size, max_size)
TEST(test_address_space_option, address_space_option)
TEST(test_file_size_limit, file_size_limit)
TEST(test_tiny_file_size_limits, tiny_file_size_limits)

static void test_address_space_limit(void **state)
{
	(void)state;
	if (PROC_SANITIZED) {
		print_message("# a sanitizer needs the address space\n");
		skip();
	}
	run(address_space_limit, NULL);
}

/* Leave ROOM bytes on the small file system, and no other file than the one that takes the rest. */
static int before(void **state)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	char name[PATH_MAX + 256];

	(void)state;
	while (d && (e = readdir(d)) != NULL) {
		snprintf(name, sizeof(name), "%s/%s", dir, e->d_name);
		if (e->d_type == DT_REG && strcmp(name, base_filler) != 0)
			unlink(name);
	}
	if (d)
		closedir(d);
	proc_path(other, dir, "other");
	if (getenv("FM_SPACE_DIR"))
		sync_disk();
	return 0;
}

static int setup(void **state)
{
	const char *small = getenv("FM_SPACE_DIR");
	int fd;

	(void)state;
	dir = small ? strdup(small) : proc_dir_make();
	proc_path(path, dir, "heap");
	proc_path(other, dir, "other");
	proc_path(filler, dir, "filler");
	proc_path(spare_path, dir, "spare");
	proc_path(base_filler, dir, "base");
	if (!small)
		return 0;
	if (available() > ROOM) {
		fd = open(base_filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0 || fallocate(fd, 0, 0, (off_t)(available() - ROOM)) != 0)
			return -1;
		close(fd);
	}
	sync_disk();
	printf("# %s: %zu MiB available\n", dir, available() / MIB);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	if (getenv("FM_SPACE_DIR"))
		free(dir);
	else
		proc_dir_remove(dir);
	return 0;
}

#define UNIT(test) cmocka_unit_test_setup(test, before)

int main(void)
{
	const struct CMUnitTest limits[] = {
		UNIT(test_max_size),
		UNIT(test_address_space_option),
		UNIT(test_file_size_limit),
		UNIT(test_tiny_file_size_limits),
		UNIT(test_address_space_limit),
	};
	const struct CMUnitTest disk[] = {
		UNIT(test_fill_until_null),
		UNIT(test_fill_with_roots),
		UNIT(test_others_take_the_rest),
		UNIT(test_reopen_on_full_disk),
		UNIT(test_create_on_full_disk),
		UNIT(test_refill_huge),
		UNIT(test_refill_huge_reopened),
		UNIT(test_refill_large),
		UNIT(test_refill_small),
		UNIT(test_refill_small_nearly_full),
		UNIT(test_free_space_punched),
		UNIT(test_zero_objects_punched),
		UNIT(test_sparse_copy),
		UNIT(test_sparse_copy_of_zeros),
		UNIT(test_cloned_copy),
	};

	if (getenv("FM_SPACE_DIR"))
		return cmocka_run_group_tests_name("space on a small disk", disk, setup, teardown);
	return cmocka_run_group_tests_name("space", limits, setup, teardown);
}
