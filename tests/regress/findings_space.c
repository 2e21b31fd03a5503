/* SPDX-License-Identifier: Apache-2.0
 *
 * What was found in the use of the file's space, each kept as a case:
 *
 *   - an aligned request for more units than any segment has behind such an alignment took the whole
 *     address space, or max_size, and failed;
 *   - holes in live objects (a sparse copy, a restored backup) stayed holes when the heap was opened;
 *   - a full heap with free slots or units only where nobody had looked yet said ENOMEM once;
 *   - bytes behind the heap's end came back as zeros of fm_calloc;
 *   - with a second thread, free units in the lanes of a heap at its limit were not found.
 *
 * Each case runs in a child with a time limit: a crash or a hang is a failure.
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sys/ioctl.h>

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)
#define UNIT (64 * KIB)
#define SEGMENT (4 * MIB)
#define LIMIT_MS (PROC_SANITIZED ? 60000u : 15000u)
#define SIZE_OPTIONS .size = sizeof(struct fm_options)
#define NOT_HERE 77 /* exit code of a child: the file system can't do what the case needs */

static char *dir;
static char path[PATH_MAX], other[PATH_MAX];

static int before(void **state)
{
	(void)state;
	unlink(path);
	unlink(other);
	return 0;
}

static int setup(void **state)
{
	(void)state;
	dir = proc_dir_make();
	proc_path(path, dir, "heap");
	proc_path(other, dir, "heap.copy");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	proc_dir_remove(dir);
	return 0;
}

static void passes(int (*run)(void *), void *arg)
{
	int r = proc_end(proc_start(run, arg, LIMIT_MS));

	if (r == NOT_HERE) {
		print_message("# the file system here can't do it\n");
		skip();
	}
	assert_int_equal(r, 0);
}

static uint64_t file_size(void)
{
	struct stat st;

	proc_must(stat(path, &st) == 0);
	return (uint64_t)st.st_size;
}

static uint64_t round_up_to(uint64_t n, uint64_t grain)
{
	return (n + grain - 1) / grain * grain;
}

/* ---------------------------------------------------------------- aligned requests */

/* One object in a new heap: it is aligned, the file grows to hold it, shrinks to it, and to nothing. */
static void aligned_alone(size_t alignment, size_t size)
{
	struct fm_options options = { SIZE_OPTIONS, .max_size = 64 * MIB };
	fm_heap *heap = fm_open(path, FM_CREATE | FM_EXCL, &options);
	uint64_t empty = file_size(), off;
	char *p;

	proc_must(heap != NULL);
	p = fm_aligned_alloc(heap, alignment, size);
	if (!p)
		fprintf(stderr, "# %zu bytes at a multiple of %zu\n", size, alignment);
	proc_must(p != NULL);
	off = fm_offset_of(heap, p);
	proc_must(off % alignment == 0);
	proc_must(fm_usable_size(p) >= size);
	proc_must(off + size <= 2 * SEGMENT);
	proc_must(file_size() <= round_up_to(off + size, UNIT) + UNIT);
	proc_fill(p, alignment, size);
	proc_must(proc_check(heap) == 0);
	proc_must(fm_close(heap) == 0);
	proc_must(file_size() == round_up_to(off + size, UNIT));

	heap = fm_open(path, 0, &options);
	proc_must(heap != NULL);
	proc_must(proc_intact(fm_at(heap, off), alignment, size, size));
	proc_must(fm_free(fm_at(heap, off)) == 0);
	proc_must(fm_close(heap) == 0);
	proc_must(file_size() == empty);
	proc_must(unlink(path) == 0);
}

static int aligned_objects(void *arg)
{
	(void)arg;
	aligned_alone(2 * MIB, 5 * MIB / 2);
	for (size_t alignment = 2 * UNIT; alignment <= 2 * MIB; alignment *= 2) {
		size_t most = (SEGMENT - alignment) / UNIT; // units behind the first multiple in a segment

		aligned_alone(alignment, (most - 1) * UNIT);
		aligned_alone(alignment, most * UNIT);
		aligned_alone(alignment, most * UNIT + 1);
		aligned_alone(alignment, (most + 1) * UNIT);
		aligned_alone(alignment, SEGMENT - UNIT);
	}
	return 0;
}

static void test_aligned_objects(void **state)
{
	(void)state;
	passes(aligned_objects, NULL);
}

/* ---------------------------------------------------------------- holes */

#define LARGE 40
#define SMALL 4000
#define PERIOD ((LARGE + SMALL) / LARGE)

static uint64_t offs[LARGE + SMALL];

/* A closed heap of LARGE objects and small ones between, all zeros, at offs[]. */
static void make_zeros(void)
{
	fm_heap *heap = fm_open(path, FM_CREATE | FM_EXCL, NULL);

	proc_must(heap != NULL);
	for (int i = 0; i < LARGE + SMALL; i++) {
		size_t size = i % PERIOD == 0 ? MIB : 1000;
		char *p = fm_malloc(heap, size);

		proc_must(p != NULL);
		memset(p, 0, size); // written zeros: blocks that are no holes
		offs[i] = fm_offset_of(heap, p);
	}
	proc_must(fm_close(heap) == 0);
}

static uint64_t disk_size(const char *where)
{
	struct stat st;

	proc_must(stat(where, &st) == 0);
	return (uint64_t)st.st_blocks * 512;
}

/* Are there blocks for all bytes of [off, off + len)? Also true if it can't be told. (SEEK_HOLE calls
 * blocks a hole that are allocated but not written to, which is what the library gets.) */
static bool is_backed(int fd, uint64_t off, uint64_t len)
{
	union {
		struct fiemap map;
		char room[sizeof(struct fiemap) + 64 * sizeof(struct fiemap_extent)];
	} query;
	uint64_t end = off + len;

	while (off < end) {
		memset(&query, 0, sizeof(query));
		query.map.fm_start = off;
		query.map.fm_length = end - off;
		query.map.fm_extent_count = 64;
		if (ioctl(fd, FS_IOC_FIEMAP, &query.map) != 0)
			return true;
		if (query.map.fm_mapped_extents == 0)
			return false;
		for (unsigned i = 0; i < query.map.fm_mapped_extents; i++) {
			const struct fiemap_extent *extent = &query.map.fm_extents[i];

			if (extent->fe_logical > off)
				return false;
			off = extent->fe_logical + extent->fe_length;
		}
	}
	return true;
}

static int must_be_backed(void *p, size_t usable, void *arg)
{
	fm_heap *heap = arg;

	proc_must(is_backed(heap->fd, fm_offset_of(heap, p), usable));
	return 0;
}

/* Open what lost blocks: all objects have theirs again. */
static void opens_backed(const char *where)
{
	struct fm_statistics stats = { .size = sizeof(stats) };
	fm_heap *heap = fm_open(where, 0, NULL);

	proc_must(heap != NULL);
	proc_must(fm_stats(heap, &stats) == 0);
	proc_must(disk_size(where) >= stats.live_bytes);
	proc_must(fm_walk(heap, must_be_backed, heap) == 0);
	proc_must(proc_count_objects(heap) == LARGE + SMALL);
	proc_must(proc_check(heap) == 0);
	proc_must(fm_close(heap) == 0);
}

/* The same file, with pages punched out of the second half of its objects: half of each large one, and
 * the page where every tenth small one begins. */
static int punched(void *arg)
{
	uint64_t disk;
	int fd;

	(void)arg;
	make_zeros();
	disk = disk_size(path);
	fd = open(path, O_RDWR | O_CLOEXEC);
	proc_must(fd >= 0);
	for (int i = (LARGE + SMALL) / 2; i < LARGE + SMALL; i++) {
		bool is_large = i % PERIOD == 0;
		uint64_t from = is_large ? offs[i] + MIB / 4 : offs[i] & ~UINT64_C(4095);
		uint64_t len = is_large ? MIB / 2 : 4096;

		if (!is_large && i % 10 != 0)
			continue;
		if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)len) != 0)
			return errno == EOPNOTSUPP ? NOT_HERE : 1;
	}
	fsync(fd);
	close(fd);
	if (disk_size(path) >= disk)
		return NOT_HERE;
	opens_backed(path);
	return 0;
}

/* A copy that leaves out all that is zero. */
static int copied(void *arg)
{
	uint64_t disk;
	int fd;

	(void)arg;
	make_zeros();
	disk = disk_size(path);
	proc_must(proc_copy(path, other, true) == 0);
	fd = open(other, O_RDWR | O_CLOEXEC);
	proc_must(fd >= 0);
	fsync(fd); // blocks are counted when they are allocated
	close(fd);
	if (disk_size(other) >= disk / 2)
		return NOT_HERE;
	opens_backed(other);
	return 0;
}

static void test_punched(void **state)
{
	(void)state;
	passes(punched, NULL);
}

static void test_sparse_copy(void **state)
{
	(void)state;
	passes(copied, NULL);
}

/* ---------------------------------------------------------------- full heaps */

/* How the heap was left. FORGOTTEN: by a kill, and was opened and closed since by somebody who had no
 * need to look for space: it is clean, but nothing is noted of its segments. */
enum end { CLOSED, KILLED, FORGOTTEN };

struct full {
	uint64_t max_size;
	void (*fill)(fm_heap *heap); // until ENOMEM, and free a few
	size_t size;                 // of an object for which there is room again
	enum end end;
};

#define MANY ((size_t)200000)
#define SEGMENTS 160 // more than one look takes in

static void *objects[MANY];

static size_t take_all(fm_heap *heap, size_t size, size_t n)
{
	while (n < MANY && (objects[n] = fm_malloc(heap, size)))
		n++;
	proc_must(n < MANY && errno == ENOMEM);
	return n;
}

/* Every hundredth slot. */
static void fill_slots(fm_heap *heap)
{
	size_t n = take_all(heap, 104, 0);

	for (size_t i = 0; i < n; i += 100)
		proc_must(fm_free(objects[i]) == 0);
}

/* Every segment but the first holds 40 + 23 units; the first 40 + 2 * 11. The 23 are freed in the last
 * three. */
static void fill_units(fm_heap *heap)
{
	size_t n = take_all(heap, 40 * UNIT, 0), m = take_all(heap, 23 * UNIT, n), freed = 0;
	uint64_t top = 0;

	take_all(heap, 11 * UNIT, m);
	for (size_t i = n; i < m; i++)
		if (fm_offset_of(heap, objects[i]) > top)
			top = fm_offset_of(heap, objects[i]);
	for (size_t i = n; i < m; i++) {
		if (top - fm_offset_of(heap, objects[i]) >= 3 * SEGMENT)
			continue;
		proc_must(fm_free(objects[i]) == 0);
		freed++;
	}
	proc_must(freed == 3);
}

static int fill_full(void *arg)
{
	const struct full *full = arg;
	struct fm_options options = { SIZE_OPTIONS, .max_size = full->max_size };
	fm_heap *heap = fm_open(path, FM_CREATE | FM_EXCL, &options);

	proc_must(heap != NULL);
	full->fill(heap);
	if (full->end != CLOSED)
		raise(SIGKILL);
	proc_must(fm_close(heap) == 0);
	return 0;
}

static int open_and_close(void *arg)
{
	const struct full *full = arg;
	struct fm_options options = { SIZE_OPTIONS, .max_size = full->max_size };
	fm_heap *heap = fm_open(path, 0, &options);

	proc_must(heap != NULL);
	proc_must(fm_close(heap) == 0);
	return 0;
}

static int use_full(void *arg)
{
	const struct full *full = arg;
	struct fm_options options = { SIZE_OPTIONS, .max_size = full->max_size };
	fm_heap *heap = fm_open(path, 0, &options);

	proc_must(heap != NULL);
	for (int i = 0; i < 3; i++)
		proc_must(fm_malloc(heap, full->size) != NULL);
	proc_must(proc_check(heap) == 0);
	proc_must(fm_close(heap) == 0);
	return 0;
}

static void test_full(void **state)
{
	struct full *full = *state;

	assert_int_equal(proc_end(proc_start(fill_full, full, LIMIT_MS)),
	                 full->end == CLOSED ? 0 : -SIGKILL);
	if (full->end == FORGOTTEN)
		passes(open_and_close, full);
	passes(use_full, full);
}

static struct full slots_closed = { 16 * MIB, fill_slots, 104, CLOSED };
static struct full slots_killed = { 16 * MIB, fill_slots, 104, KILLED };
static struct full units_closed = { SEGMENTS * SEGMENT, fill_units, 20 * UNIT, FORGOTTEN };
static struct full units_killed = { SEGMENTS * SEGMENT, fill_units, 20 * UNIT, KILLED };

/* ---------------------------------------------------------------- bytes behind the end */

static bool is_zero(const char *p, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (p[i] != 0)
			return false;
	return true;
}

static void zeros_in_spite_of(size_t tail, size_t size)
{
	fm_heap *heap = fm_open(path, FM_CREATE | FM_EXCL, NULL);
	char *garbage = malloc(tail);
	int fd;

	proc_must(heap != NULL && garbage != NULL);
	proc_must(fm_malloc(heap, 24) != NULL);
	proc_must(fm_close(heap) == 0);
	memset(garbage, 'X', tail);
	fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	proc_must(fd >= 0 && write(fd, garbage, tail) == (ssize_t)tail);
	close(fd);
	free(garbage);

	heap = fm_open(path, 0, NULL);
	proc_must(heap != NULL);
	for (size_t taken = 0; taken < 2 * tail + size; taken += size) {
		char *p = fm_calloc(heap, 1, size);

		proc_must(p != NULL);
		proc_must(is_zero(p, size));
	}
	proc_must(proc_check(heap) == 0);
	proc_must(fm_close(heap) == 0);
	proc_must(unlink(path) == 0);
}

static int garbage_tails(void *arg)
{
	static const size_t tails[] = { 1, 4096, 40000, UNIT - 1, UNIT, UNIT + 1, 150000, SEGMENT + 5 };
	static const size_t sizes[] = { 100, 60000, 600000, 3 * MIB, 9 * MIB };

	(void)arg;
	for (size_t i = 0; i < sizeof(tails) / sizeof(tails[0]); i++)
		for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++)
			zeros_in_spite_of(tails[i], sizes[k]);
	return 0;
}

static void test_garbage_tails(void **state)
{
	(void)state;
	passes(garbage_tails, NULL);
}

/* ---------------------------------------------------------------- two threads at the limit */

#define LIMIT_UNITS 34
#define KEPT_OF     8 /* one unit in so many stays in use: no lane is free */

static struct {
	fm_heap *heap;
	pthread_barrier_t turn;
} beside;

/* A thread that has a cache of the heap, and does nothing. */
static void *rest(void *arg)
{
	(void)arg;
	proc_must(fm_malloc(beside.heap, 100) != NULL);
	pthread_barrier_wait(&beside.turn);
	pthread_barrier_wait(&beside.turn);
	return NULL;
}

static void limited_beside(size_t size, bool reopens)
{
	const struct fm_options options = { SIZE_OPTIONS, .max_size = LIMIT_UNITS * UNIT };
	void *units[LIMIT_UNITS];
	unsigned n = 0, freed = 0;
	uint64_t bytes = 0;
	pthread_t thread;

	beside.heap = fm_open(path, FM_CREATE | FM_EXCL, &options);
	proc_must(beside.heap != NULL);
	while (n < LIMIT_UNITS && (units[n] = fm_malloc(beside.heap, UNIT)))
		n++;
	for (unsigned i = 1; i < n - 1; i++) {
		if (i % KEPT_OF) {
			proc_must(fm_free(units[i]) == 0);
			freed++;
		}
	}
	if (reopens) {
		proc_must(fm_close(beside.heap) == 0);
		beside.heap = fm_open(path, 0, &options);
		proc_must(beside.heap != NULL);
	} else {
		proc_must(fm_trim(beside.heap, 0) >= 0);
	}
	proc_must(pthread_barrier_init(&beside.turn, NULL, 2) == 0);
	proc_must(pthread_create(&thread, NULL, rest, NULL) == 0);
	pthread_barrier_wait(&beside.turn);
	while (fm_malloc(beside.heap, size))
		bytes += size;
	/* the other thread has one of the units; and what slots of this size leave of each */
	proc_must(bytes >= (freed - 2) * (UNIT / size * size));
	pthread_barrier_wait(&beside.turn);
	proc_must(pthread_join(thread, NULL) == 0);
	pthread_barrier_destroy(&beside.turn);
	proc_must(proc_check(beside.heap) == 0 && fm_close(beside.heap) == 0 && unlink(path) == 0);
}

static int limits_beside(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < 4; i++)
		limited_beside(i & 1 ? UNIT : 1000, i & 2);
	return 0;
}

static void test_limits_beside(void **state)
{
	(void)state;
	passes(limits_beside, NULL);
}

#define FULL(which) \
	{ "test_full_" #which, test_full, before, NULL, &which }

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_aligned_objects, before),
		cmocka_unit_test_setup(test_punched, before),
		cmocka_unit_test_setup(test_sparse_copy, before),
		FULL(slots_closed),
		FULL(slots_killed),
		FULL(units_closed),
		FULL(units_killed),
		cmocka_unit_test_setup(test_garbage_tails, before),
		cmocka_unit_test_setup(test_limits_beside, before),
	};

	return cmocka_run_group_tests_name("findings_space", tests, setup, teardown);
}
