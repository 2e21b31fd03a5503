/* SPDX-License-Identifier: Apache-2.0
 *
 * Huge objects that grow: fm_realloc puts one that has to move where it can grow on in place, and the room that it and
 * the others leave costs no blocks, nor is it lost.
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include <sys/wait.h>

#define MIB     UINT64_C(1048576)
#define SEGMENT (4 * MIB)
#define ARRAYS  8

/* docs/format.md */
#define LAST_SEGMENT_OFF 12288
#define DIRECTORY_OFF    16384
#define SEGMENT_HUGE     3

static char *dir;
static char path[300];
static fm_heap *heap;

static void open_it(uint64_t max_size)
{
	struct fm_options options = {.size = sizeof(options), .decay_ms = -1, .max_size = max_size};

	unlink(path);
	heap = fm_open(path, FM_CREATE, &options);
	assert_non_null(heap);
}

static void close_it(void)
{
	assert_int_equal(proc_check(heap), 0);
	assert_int_equal(fm_close(heap), 0);
}

static struct stat status(void)
{
	struct stat st;

	assert_int_equal(fstat(heap->fd, &st), 0);
	return st;
}

static uint64_t blocks(void)
{
	return (uint64_t)status().st_blocks * 512;
}

/* A word at the end of every MiB, and one at the object's end: made of their place. */
static void mark(char *p, uint64_t from, uint64_t size, uint64_t id)
{
	for (uint64_t at = (from & ~(MIB - 1)) + MIB - 8; at < size; at += MIB)
		*(uint64_t *)(void *)(p + at) = proc_mix(id + at);
}

static void expect_marks(const char *p, uint64_t size, uint64_t id)
{
	for (uint64_t at = MIB - 8; at < size; at += MIB)
		assert_true(*(const uint64_t *)(const void *)(p + at) == proc_mix(id + at));
}

static char *grow(char *p, uint64_t from, uint64_t size, uint64_t id)
{
	char *q = fm_realloc(heap, p, size);

	assert_non_null(q);
	assert_true(fm_usable_size(q) >= size);
	expect_marks(q, from, id);
	mark(q, from, size, id);
	return q;
}

/* An array that doubles is copied every other time. */
static void a_doubling_array_stays(void **state)
{
	char *p, *q;
	uint64_t size;
	unsigned moves = 0, steps = 0;

	(void)state;
	open_it(0);
	p = grow(NULL, 0, 5 * MIB, 1);
	/* somebody is behind it */
	assert_non_null(fm_malloc(heap, 5 * MIB));
	for (size = 5 * MIB; size < 600 * MIB; size *= 2, p = q) {
		q = grow(p, size, 2 * size, 1);
		moves += q != p;
		steps++;
		/* something is always allocated between */
		assert_non_null(fm_malloc(heap, MIB));
	}
	assert_true(moves <= (steps + 1) / 2);
	expect_marks(p, size, 1);
	close_it();
}

/* Arrays that grow by turns, each until it is twice as long as where it came to be a huge object. */
static void arrays_by_turns_stay(void **state)
{
	char *array[ARRAYS] = {NULL};
	uint64_t before = 0, live;

	(void)state;
	open_it(0);
	for (uint64_t size = 65536; size < 16 * MIB; before = size, size = (size + size / 2 + 7) & ~UINT64_C(7))
		for (unsigned i = 0; i < ARRAYS; i++) {
			char *p = grow(array[i], before, size, i);

			assert_true(before < SEGMENT || p == array[i]);
			array[i] = p;
		}
	live = ARRAYS * before;
	/* the room for those that grew, and what they left when they were runs */
	assert_true((uint64_t)status().st_size > live + ARRAYS * SEGMENT);
	assert_true(blocks() <= live + 16 * SEGMENT);
	for (unsigned i = 0; i < ARRAYS; i++)
		expect_marks(array[i], before, i);
	close_it();
}

/* The room of an array is free for all others. */
static void others_use_the_room(void **state)
{
	char *p, *others[12];
	off_t length;

	(void)state;
	open_it(0);
	p = grow(NULL, 0, 10 * MIB, 1);
	assert_non_null(fm_malloc(heap, 10 * MIB));
	p = grow(p, 10 * MIB, 40 * MIB, 1);
	length = status().st_size;
	for (unsigned i = 0; i < 12; i++) {
		others[i] = fm_malloc(heap, 3 * MIB);
		assert_true(others[i] && others[i] < p);
	}
	assert_true(status().st_size == length);
	/* what was a hole has blocks before anybody stores there */
	assert_true(blocks() >= 10 * MIB + 40 * MIB + 12 * 3 * MIB);
	for (unsigned i = 0; i < 12; i++)
		memset(others[i], 1, 3 * MIB);
	expect_marks(p, 40 * MIB, 1);
	close_it();
}

/* Inside the file the room is behind the object, where nothing else is. */
static void inside_the_room_is_behind(void **state)
{
	char *gap, *p;

	(void)state;
	open_it(0);
	p = grow(NULL, 0, 5 * MIB, 1);
	assert_non_null(fm_malloc(heap, 5 * MIB));
	gap = fm_malloc(heap, 6 * SEGMENT);
	assert_non_null(fm_malloc(heap, 5 * MIB));
	assert_int_equal(fm_free(gap), 0);
	p = grow(p, 5 * MIB, 3 * SEGMENT, 1);
	assert_ptr_equal(p, gap);
	assert_ptr_equal(grow(p, 3 * SEGMENT, 4 * SEGMENT, 1), p);
	assert_ptr_equal(grow(p, 4 * SEGMENT, 6 * SEGMENT, 1), p);
	close_it();
}

/* Segments without used units are taken before the file grows. */
static void empty_segments_come_first(void **state)
{
	char *runs[60], *p;
	off_t length;

	(void)state;
	open_it(0);
	for (unsigned i = 0; i < 60; i++)
		assert_non_null(runs[i] = fm_malloc(heap, 3 * MIB));
	p = grow(NULL, 0, 5 * MIB, 1);
	assert_non_null(fm_malloc(heap, 5 * MIB));
	length = status().st_size;
	for (unsigned i = 0; i < 60; i++)
		assert_int_equal(fm_free(runs[i]), 0);
	p = grow(p, 5 * MIB, 80 * MIB, 1);
	assert_true(p < (char *)heap->mem + length);
	assert_true(status().st_size == length);
	close_it();
}

/* A heap that may not grow much leaves no room: others find place for all of it. */
static void a_limited_heap_leaves_none(void **state)
{
	char *p;

	(void)state;
	open_it(64 * MIB);
	p = grow(NULL, 0, 2 * SEGMENT, 1);
	assert_non_null(fm_malloc(heap, SEGMENT));
	p = grow(p, 2 * SEGMENT, 3 * SEGMENT, 1);
	assert_non_null(fm_malloc(heap, 28 * MIB));
	expect_marks(p, 3 * SEGMENT, 1);
	close_it();
}

/* In a damaged file a segment's word behind the last one in use says something: it does not begin to count when an
 * object is put behind it. */
static void words_behind_the_end_count_nothing(void **state)
{
	uint64_t last, word = SEGMENT_HUGE | 4 * 1024 << 16; /* four segments */
	char *p;
	int fd;

	(void)state;
	open_it(0);
	p = grow(NULL, 0, 5 * MIB, 1);
	assert_non_null(fm_malloc(heap, 5 * MIB));
	assert_int_equal(fm_root_set(heap, "p", p, 0), 0);
	assert_int_equal(fm_close(heap), 0);
	fd = open(path, O_RDWR);
	assert_int_equal(pread(fd, &last, 8, LAST_SEGMENT_OFF), 8);
	assert_in_range(last, 2, 4);
	assert_int_equal(pwrite(fd, &word, 8, (off_t)(DIRECTORY_OFF + 8 * (last + 2))), 8);
	close(fd);
	heap = fm_open(path, 0, NULL);
	assert_non_null(heap);
	p = grow(fm_root_get(heap, "p", 0), 5 * MIB, 14 * MIB, 1);
	assert_true((uint64_t)(p - (char *)heap->mem) / SEGMENT > last + 2);
	assert_int_equal(fm_root_set(heap, "p", p, 0), 0);
	assert_int_equal(fm_close(heap), 0);
	heap = fm_open(path, 0, NULL);
	assert_non_null(heap);
	p = fm_root_get(heap, "p", 0);
	assert_true(fm_usable_size(p) >= 14 * MIB);
	for (unsigned i = 0; i < 12; i++) {
		char *other = fm_malloc(heap, 3 * MIB);

		assert_non_null(other);
		assert_true(other + 3 * MIB <= p || other >= p + 14 * MIB);
	}
	expect_marks(p, 14 * MIB, 1);
	close_it();
}

/* Where there is place for the object and not for the room, the object has it. */
static void without_room_it_fits(void **state)
{
	char *p;

	(void)state;
	open_it(64 * MIB);
	p = grow(NULL, 0, 18 * MIB, 1);
	assert_non_null(fm_malloc(heap, 100));
	p = grow(p, 18 * MIB, 38 * MIB, 1);
	assert_null(fm_realloc(heap, p, 62 * MIB));
	assert_int_equal(errno, ENOMEM);
	expect_marks(p, 38 * MIB, 1);
	/* where it was is free again */
	assert_non_null(fm_malloc(heap, 16 * MIB));
	close_it();
}

/* Killed while arrays grow, behind holes: all is there, the room too. */
static void killed_it_opens(void **state)
{
	uint64_t size = 5 * MIB;
	char *p;
	pid_t pid;
	int how;

	(void)state;
	open_it(0);
	assert_int_equal(fm_close(heap), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		char *array[2] = {NULL};

		heap = fm_open(path, 0, NULL);
		for (uint64_t before = 0, n = size; n <= 40 * MIB; before = n, n *= 2)
			for (unsigned i = 0; i < 2; i++) {
				array[i] = fm_realloc(heap, array[i], n);
				mark(array[i], before, n, i);
				fm_root_set(heap, i ? "b" : "a", array[i], n);
			}
		raise(SIGKILL);
	}
	assert_int_equal(waitpid(pid, &how, 0), pid);
	assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
	heap = fm_open(path, 0, NULL);
	if (!heap)
		fail_msg("%s", fm_last_error());
	size = 40 * MIB;
	p = fm_root_get(heap, "a", size);
	assert_non_null(p);
	expect_marks(p, size, 0);
	expect_marks(fm_root_get(heap, "b", size), size, 1);
	/* place for the old ones is found in the holes, and stores there hold */
	for (unsigned i = 0; i < 3; i++)
		assert_non_null(memset(fm_malloc(heap, 9 * MIB), 7, 9 * MIB));
	p = grow(p, size, 3 * size, 0);
	expect_marks(p, 3 * size, 0);
	expect_marks(fm_root_get(heap, "b", size), size, 1);
	close_it();
}

/* An atomic heap makes no holes: what is free there may be what the last commit needs. */
static void an_atomic_heap_grows_as_ever(void **state)
{
	char *p;

	(void)state;
	unlink(path);
	heap = fm_open(path, FM_CREATE | FM_ATOMIC, NULL);
	if (!heap)
		fail_msg("%s", fm_last_error());
	p = grow(NULL, 0, 5 * MIB, 1);
	assert_non_null(fm_malloc(heap, 5 * MIB));
	assert_int_equal(fm_root_set(heap, "a", p, 0), 0);
	assert_int_equal(fm_commit(heap), 0);
	p = grow(p, 5 * MIB, 10 * MIB, 1);
	p = grow(p, 10 * MIB, 30 * MIB, 1);
	assert_true(blocks() + 4 * MIB >= (uint64_t)status().st_size);
	assert_int_equal(fm_rollback(heap), 0);
	expect_marks(fm_root_get(heap, "a", 0), 5 * MIB, 1);
	close_it();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_doubling_array_stays),
		cmocka_unit_test(arrays_by_turns_stay),
		cmocka_unit_test(others_use_the_room),
		cmocka_unit_test(inside_the_room_is_behind),
		cmocka_unit_test(empty_segments_come_first),
		cmocka_unit_test(a_limited_heap_leaves_none),
		cmocka_unit_test(words_behind_the_end_count_nothing),
		cmocka_unit_test(without_room_it_fits),
		cmocka_unit_test(killed_it_opens),
		cmocka_unit_test(an_atomic_heap_grows_as_ever),
	};
	int failed;

	dir = proc_dir_make();
	snprintf(path, sizeof(path), "%s/heap", dir);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	proc_dir_remove(dir);
	return failed;
}
