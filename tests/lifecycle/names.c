/* SPDX-License-Identifier: Apache-2.0
 *
 * A heap renamed and unlinked while it is open, and copied while it is open and after it was closed.
 */
#define _GNU_SOURCE 1
#include "../support/lifecycle_util.h"

/* ---------------------------------------------------------------- names */

static void test_renamed(void **state)
{
	fm_heap *heap = fm_open(path, 0, NULL);
	void *p;

	(void)state;
	assert_non_null(heap);
	assert_int_equal(rename(path, other), 0);
	assert_int_equal(try_open(other, 0), EBUSY);
	assert_int_equal(try_open(path, 0), ENOENT);
	p = fm_malloc(heap, 3 << 20);
	assert_non_null(p);
	proc_fill(p, 5, 3 << 20);
	assert_int_equal(fm_root_set(heap, "new", p, 2), 0);
	assert_int_equal(fm_close(heap), 0);
	assert_int_equal(access(path, F_OK), -1);
	heap = fm_open(other, 0, NULL);
	assert_non_null(heap);
	assert_true(is_complete(heap));
	p = fm_root_get(heap, "new", 2);
	assert_non_null(p);
	assert_true(proc_intact(p, 5, 3 << 20, 3 << 20));
	assert_int_equal(fm_close(heap), 0);
}

static void test_unlinked(void **state)
{
	fm_heap *heap = fm_open(path, 0, NULL), *second;

	(void)state;
	assert_non_null(heap);
	assert_int_equal(unlink(path), 0);
	assert_non_null(fm_malloc(heap, 6 << 20));
	assert_non_null(fm_malloc(heap, 60));

	/* The name is free for another heap. */
	second = fm_open(path, FM_CREATE, NULL);
	assert_non_null(second);
	assert_int_equal(proc_count_objects(second), 0);
	assert_true(is_complete(heap));
	assert_int_equal(fm_close(heap), 0);
	assert_non_null(fm_malloc(second, 60));
	assert_int_equal(fm_close(second), 0);
	assert_int_equal(try_open(path, 0), 0);
}

/* ---------------------------------------------------------------- copies */

static void test_copied_while_open(void **state)
{
	fm_heap *heap = fm_open(path, 0, NULL), *copy;

	(void)state;
	assert_non_null(heap);
	assert_non_null(fm_malloc(heap, 100));
	assert_int_equal(try_copy(), EUCLEAN);
	assert_int_equal(try_open(other, FM_RDONLY), EUCLEAN);
	copy = fm_open(other, FM_RECOVER, NULL);
	assert_non_null(copy);
	assert_true(is_complete(copy));
	assert_int_equal(fm_close(copy), 0);
	assert_int_equal(try_open(other, 0), 0);

	assert_int_equal(try_copy(), EUCLEAN);
	assert_int_equal(setenv("FMALLOC_RECOVER", "1", 1), 0);
	assert_int_equal(try_open(other, 0), 0);
	assert_int_equal(unsetenv("FMALLOC_RECOVER"), 0);

	assert_true(is_complete(heap));
	assert_int_equal(fm_close(heap), 0);
}

static void test_copied_when_closed(void **state)
{
	fm_heap *a, *b;

	(void)state;
	assert_int_equal(try_copy(), 0);
	a = fm_open(path, 0, NULL);
	b = fm_open(other, 0, NULL);
	assert_non_null(a);
	assert_non_null(b);
	assert_true(is_complete(a));
	assert_true(is_complete(b));
	assert_int_equal(fm_close(a), 0);
	assert_int_equal(fm_close(b), 0);
}

/* The copy of a dirty heap stays refused until it is recovered, then is a heap like any other. */
static void test_copy_refused_repeatedly(void **state)
{
	fm_heap *heap = fm_open(path, 0, NULL);

	(void)state;
	assert_non_null(heap);
	assert_int_equal(proc_copy(path, other, false), 0);
	assert_int_equal(proc_copy(other, third, false), 0);
	assert_int_equal(try_open(other, 0), EUCLEAN);
	assert_int_equal(try_open(other, FM_CREATE), EUCLEAN);
	assert_true(proc_same_file(other, third));
	assert_int_equal(try_open(other, FM_RECOVER), 0);
	assert_int_equal(try_open(other, 0), 0);
	assert_int_equal(fm_close(heap), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_renamed),
		TEST(test_unlinked),
		TEST(test_copied_while_open),
		TEST(test_copied_when_closed),
		TEST(test_copy_refused_repeatedly),
	};

	return cmocka_run_group_tests_name("names", tests, setup, teardown);
}
