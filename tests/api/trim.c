/* SPDX-License-Identifier: Apache-2.0
 *
 * Giving space back: fm_trim, and by itself after decay_ms.
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include <pthread.h>
#include <stdatomic.h>

#define MIB UINT64_C(1048576)
#define OBJECTS 64 /* of 1 MiB */

static int fd;
static fm_heap *heap;
static void *object[OBJECTS];

static void open_heap(int decay_ms)
{
	struct fm_options options = {.size = sizeof(options), .decay_ms = decay_ms};

	fd = memfd_create("trim", MFD_CLOEXEC);
	assert_true(fd >= 0);
	heap = fm_open_fd(fd, FM_CREATE, &options);
	assert_non_null(heap);
}

static void close_heap(void)
{
	assert_int_equal(fm_close(heap), 0);
	close(fd);
}

static uint64_t blocks(void)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void expect_sound(void)
{
	assert_int_equal(proc_check(heap), 0);
}

static void fill_all(void)
{
	for (unsigned i = 0; i < OBJECTS; i++) {
		object[i] = fm_malloc(heap, MIB);
		assert_non_null(object[i]);
		memset(object[i], 0x40 + (int)i, MIB);
	}
}

static void expect_object(unsigned i)
{
	const unsigned char *bytes = object[i];

	for (uint64_t b = 0; b < MIB; b += 511)
		assert_int_equal(bytes[b], 0x40 + i);
	assert_int_equal(bytes[MIB - 1], 0x40 + i);
}

/* Every second object: holes in the midst, and at the end none. */
static void free_even(void)
{
	for (unsigned i = 0; i < OBJECTS; i += 2)
		assert_int_equal(fm_free(object[i]), 0);
}

static void test_holes(void **state)
{
	uint64_t before;

	(void)state;
	open_heap(-1);
	fill_all();
	assert_int_equal(fm_trim(heap, SIZE_MAX), 1); /* the last growth step */
	before = blocks();
	assert_true(before >= OBJECTS * MIB);
	free_even();
	assert_true(blocks() == before);
	assert_int_equal(fm_trim(heap, SIZE_MAX), 0);
	assert_true(blocks() == before);
	assert_int_equal(fm_trim(heap, 0), 1);
	assert_in_range(blocks(), OBJECTS / 2 * MIB, OBJECTS / 2 * MIB + 2 * MIB);
	assert_int_equal(fm_trim(heap, 0), 0);
	expect_sound();
	for (unsigned i = 1; i < OBJECTS; i += 2)
		expect_object(i);
	/* what is punched reads as zero, and is there again when it is handed out */
	for (unsigned i = 0; i < OBJECTS; i += 2) {
		unsigned char *bytes = fm_calloc(heap, 1, MIB);

		assert_non_null(bytes);
		for (uint64_t b = 0; b < MIB; b++)
			if (bytes[b])
				fail_msg("byte %llu of a new object is %u", (unsigned long long)b, bytes[b]);
		object[i] = bytes;
		memset(bytes, 0x40 + (int)i, MIB);
	}
	assert_true(blocks() >= OBJECTS * MIB);
	for (unsigned i = 0; i < OBJECTS; i++)
		expect_object(i);
	expect_sound();
	close_heap();
}

static void test_keeping(void **state)
{
	uint64_t used;

	(void)state;
	open_heap(-1);
	fill_all();
	fm_trim(heap, 0);
	used = blocks();
	free_even();
	assert_int_equal(fm_trim(heap, 8 * MIB), 1);
	assert_in_range(blocks(), used - OBJECTS / 2 * MIB + 8 * MIB - 65536, used - OBJECTS / 2 * MIB + 8 * MIB);
	assert_int_equal(fm_trim(heap, 8 * MIB), 0);
	expect_sound();
	close_heap();
}

/* The file becomes shorter, and objects larger than a segment come and go. */
static void test_tail(void **state)
{
	uint64_t length;
	struct stat st;
	void *small, *huge;

	(void)state;
	open_heap(-1);
	small = fm_malloc(heap, 100);
	huge = fm_malloc(heap, 50 * MIB);
	assert_non_null(huge);
	memset(huge, 1, 50 * MIB);
	assert_int_equal(fstat(fd, &st), 0);
	length = (uint64_t)st.st_size;
	assert_int_equal(fm_free(huge), 0);
	assert_int_equal(fm_trim(heap, 0), 1);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true((uint64_t)st.st_size + 50 * MIB <= length);
	expect_sound();
	for (unsigned i = 0; i < 20; i++) {
		huge = fm_malloc(heap, (5 + i) * MIB);
		assert_non_null(huge);
		memset(huge, 2, (5 + i) * MIB);
		assert_int_equal(fm_free(huge), 0);
		assert_int_equal(fm_trim(heap, 0), 1);
	}
	memset(small, 3, 100);
	assert_int_equal(fm_free(small), 0);
	expect_sound();
	close_heap();
}

/* Huge objects that another process made, freed and made shorter; also if they are given back by closing. */
static void test_huge_of_before(void **state)
{
	(void)state;
	for (unsigned closes = 0; closes < 2; closes++) {
		uint64_t off[3], used;

		open_heap(-1);
		for (unsigned i = 0; i < 3; i++)
			off[i] = fm_offset_of(heap, memset(fm_malloc(heap, 10 * MIB), 0x40 + (int)i, 10 * MIB));
		assert_int_equal(fm_close(heap), 0);
		heap = fm_open_fd(fd, 0, NULL);
		assert_non_null(heap);
		used = blocks();
		assert_int_equal(fm_free(fm_at(heap, off[0])), 0);
		assert_ptr_equal(fm_realloc(heap, fm_at(heap, off[1]), 5 * MIB), fm_at(heap, off[1]));
		if (closes) {
			assert_int_equal(fm_close(heap), 0);
			heap = fm_open_fd(fd, 0, NULL);
			assert_non_null(heap);
		} else {
			assert_int_equal(fm_trim(heap, 0), 1);
		}
		assert_true(blocks() <= used - 12 * MIB); /* whole segments of the second one */
		for (unsigned i = 1; i < 3; i++) {
			object[i] = fm_at(heap, off[i]);
			expect_object(i);
		}
		expect_sound();
		close_heap();
	}
}

static void *resize_in_place(void *p, uint64_t size)
{
	void *same = fm_realloc(heap, p, size);

	assert_ptr_equal(same, p);
	return same;
}

/* Segments that are without used units keep their metadata for a while: a huge object gets them all the same, where the
 * heap can't grow, and before it grows. */
static void test_empty_segments(void **state)
{
	struct fm_options options = {.size = sizeof(options), .decay_ms = -1, .max_size = 44 * MIB};
	uint64_t length = 0;
	struct stat st;

	(void)state;
	fd = memfd_create("segments", MFD_CLOEXEC);
	assert_true(fd >= 0);
	heap = fm_open_fd(fd, FM_CREATE, &options);
	assert_non_null(heap);
	for (unsigned round = 0; round < 20; round++) {
		void *huge, *run[10];

		for (unsigned i = 0; i < 10; i++) {
			run[i] = fm_malloc(heap, 3 * MIB); /* one a segment */
			assert_non_null(run[i]);
		}
		expect_sound();
		for (unsigned i = 0; i < 10; i++)
			assert_int_equal(fm_free(run[i]), 0);
		huge = fm_malloc(heap, 30 * MIB);
		assert_non_null(huge);
		memset(huge, (int)round, 30 * MIB);
		expect_sound();
		assert_int_equal(fm_free(huge), 0);
		assert_int_equal(fstat(fd, &st), 0);
		if (round == 0)
			length = (uint64_t)st.st_size;
		assert_int_equal(st.st_size, length);
	}
	close_heap();
}

/* Small objects: what the thread keeps goes too. */
static void test_small(void **state)
{
	enum { SMALL = 100000 };
	static void *p[SMALL];
	uint64_t full;

	(void)state;
	open_heap(-1);
	for (unsigned i = 0; i < SMALL; i++) {
		p[i] = fm_malloc(heap, 64);
		assert_non_null(p[i]);
	}
	full = blocks();
	for (unsigned i = 0; i < SMALL; i++)
		assert_int_equal(fm_free(p[i]), 0);
	assert_true(blocks() == full);
	assert_int_equal(fm_trim(heap, 0), 1);
	assert_true(blocks() <= 4 * 65536);
	expect_sound();
	close_heap();
}

/* Releases of units let the heap look at the clock. */
static void release_some(void)
{
	for (unsigned i = 0; i < 64; i++) {
		void *p = fm_malloc(heap, 2 * MIB);

		assert_non_null(p);
		assert_int_equal(fm_free(p), 0);
	}
}

static void test_decay(void **state)
{
	uint64_t used;

	(void)state;
	open_heap(50);
	fill_all();
	used = blocks();
	free_even();
	release_some();
	assert_true(blocks() >= used); /* it may have looked, but not twice */
	for (unsigned i = 0; i < 3; i++) {
		proc_sleep_us(60000);
		release_some();
	}
	assert_true(blocks() <= used - (OBJECTS / 2 - 4) * MIB);
	for (unsigned i = 1; i < OBJECTS; i += 2)
		expect_object(i);
	expect_sound();
	close_heap();

	open_heap(-1);
	fill_all();
	used = blocks();
	free_even();
	for (unsigned i = 0; i < 3; i++) {
		proc_sleep_us(60000);
		release_some();
	}
	assert_true(blocks() >= used);
	close_heap();
}

static void give_back(bool by_time)
{
	if (!by_time) {
		assert_int_equal(fm_trim(heap, 0), 1);
		return;
	}
	for (unsigned i = 0; i < 3; i++) {
		release_some();
		proc_sleep_us(60000);
	}
	release_some();
}

/* Behind a huge object's end nobody can use its last segment: what an earlier object left there is given back. */
static void test_tail_of_huge(void **state)
{
	(void)state;
	for (unsigned by_time = 0; by_time < 2; by_time++) {
		uint64_t used, tail = 3 * MIB + MIB / 2;
		char *first, *p;

		open_heap(by_time ? 50 : -1);
		release_some(); /* their segment is there */
		first = memset(fm_malloc(heap, 12 * MIB), 1, 12 * MIB);
		used = blocks();
		assert_int_equal(fm_free(first), 0);
		p = fm_malloc(heap, 12 * MIB - tail);
		assert_ptr_equal(p, first);
		memset(p, 2, 12 * MIB - tail);
		assert_true(blocks() >= used);
		give_back(by_time);
		assert_true(blocks() <= used - tail && blocks() >= 12 * MIB - tail);
		p = resize_in_place(p, 12 * MIB);
		for (uint64_t i = 12 * MIB - tail; i < 12 * MIB; i++)
			p[i] = 3;
		p = resize_in_place(p, 10 * MIB);
		give_back(by_time);
		assert_true(blocks() <= used - 2 * MIB && blocks() >= 10 * MIB);
		for (uint64_t i = 0; i < 10 * MIB; i++)
			assert_true(p[i] == (i < 12 * MIB - tail ? 2 : 3));
		/* a whole number of segments has no tail */
		p = resize_in_place(p, 8 * MIB);
		give_back(by_time);
		for (uint64_t i = 0; i < 8 * MIB; i++)
			assert_true(p[i] == 2);
		assert_int_equal(fm_free(p), 0);
		expect_sound();
		p = fm_calloc(heap, 12, MIB);
		assert_ptr_equal(p, first);
		for (uint64_t i = 0; i < 12 * MIB; i++)
			assert_true(p[i] == 0);
		close_heap();
	}
}

/* Also that of an object which an earlier process made and this one shortens. */
static void test_tail_of_before(void **state)
{
	uint64_t off, used;

	(void)state;
	open_heap(-1);
	off = fm_offset_of(heap, memset(fm_malloc(heap, 8 * MIB), 1, 8 * MIB));
	assert_non_null(fm_malloc(heap, 8 * MIB)); /* the file is not cut */
	assert_int_equal(fm_close(heap), 0);
	heap = fm_open_fd(fd, 0, NULL);
	assert_non_null(heap);
	used = blocks();
	resize_in_place(fm_at(heap, off), 5 * MIB);
	assert_int_equal(fm_trim(heap, 0), 1);
	assert_true(blocks() <= used - 3 * MIB);
	expect_sound();
	close_heap();
}

static void test_errors(void **state)
{
	struct fm_options options = {.size = sizeof(options), .decay_ms = -2};
	fm_heap *closed;

	(void)state;
	assert_int_equal(fm_trim(NULL, 0), -1);
	assert_int_equal(errno, EINVAL);
	open_heap(0);
	assert_int_equal(fm_close(heap), 0);
	closed = heap;
	heap = fm_open_fd(fd, FM_RDONLY, NULL);
	assert_non_null(heap);
	assert_int_equal(fm_trim(heap, 0), -1);
	assert_int_equal(errno, EROFS);
	assert_int_equal(fm_trim(closed, 0), -1);
	assert_int_equal(errno, EBADF);
	assert_int_equal(fm_close(heap), 0);
	assert_null(fm_open_fd(fd, 0, &options));
	assert_int_equal(errno, EINVAL);
	close(fd);
}

/* ---------------------------------------------------------------- while others use the heap */

static uint64_t seed;
static _Atomic bool stop;
static _Atomic unsigned failures;

static void *churn(void *arg)
{
	uint64_t rng = seed + (uintptr_t)arg;
	unsigned char *p[32] = {0};
	size_t size[32] = {0};

	while (!atomic_load(&stop)) {
		unsigned i = (unsigned)proc_below(&rng, 32);

		for (size_t b = 0; b < size[i]; b += 4095)
			if (p[i][b] != (unsigned char)i)
				atomic_fetch_add(&failures, 1);
		if (fm_free(p[i]))
			atomic_fetch_add(&failures, 1);
		size[i] = (size_t)proc_below(&rng, 2) ? (size_t)proc_below(&rng, 5 * MIB) : (size_t)proc_below(&rng, 2000);
		p[i] = fm_malloc(heap, size[i]);
		if (!p[i]) {
			atomic_fetch_add(&failures, 1);
			size[i] = 0;
		}
		for (size_t b = 0; b < size[i]; b += 4095)
			p[i][b] = (unsigned char)i;
	}
	for (unsigned i = 0; i < 32; i++)
		fm_free(p[i]);
	return NULL;
}

static void test_beside_others(void **state)
{
	pthread_t threads[3];

	(void)state;
	seed = proc_seed(); /* prints it */
	open_heap(20);
	for (uintptr_t t = 0; t < 3; t++)
		assert_int_equal(pthread_create(&threads[t], NULL, churn, (void *)(t + 1)), 0);
	for (unsigned i = 0; i < 200; i++) {
		assert_true(fm_trim(heap, i % 2 * 10 * MIB) >= 0);
		proc_sleep_us(5000);
	}
	atomic_store(&stop, true);
	for (unsigned t = 0; t < 3; t++)
		assert_int_equal(pthread_join(threads[t], NULL), 0);
	assert_int_equal(atomic_load(&failures), 0);
	expect_sound();
	assert_true(fm_trim(heap, 0) >= 0);
	assert_true(blocks() <= 4 * 65536);
	close_heap();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_holes),
		cmocka_unit_test(test_keeping),
		cmocka_unit_test(test_tail),
		cmocka_unit_test(test_huge_of_before),
		cmocka_unit_test(test_empty_segments),
		cmocka_unit_test(test_small),
		cmocka_unit_test(test_decay),
		cmocka_unit_test(test_tail_of_huge),
		cmocka_unit_test(test_tail_of_before),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_beside_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
