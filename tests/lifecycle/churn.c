/* SPDX-License-Identifier: Apache-2.0
 *
 * Many short threads, many short runs, many openings: nothing grows.
 *
 *   FM_CHURN       short threads (2000)
 *   FM_SHORT_RUNS  short runs of a program (200)
 */
#define _GNU_SOURCE 1
#include "../support/lifecycle_util.h"

#include <pthread.h>

static void *short_thread(void *arg)
{
	void *p[20];
	fm_heap *heap = arg;

	for (size_t i = 0; i < 20; i++) {
		p[i] = fm_malloc(heap, (size_t)16 << i % 7);
		if (!p[i])
			return NULL;
		proc_fill(p[i], i, (size_t)16 << i % 7);
	}
	for (size_t i = 0; i < 20; i++)
		if (!proc_intact(p[i], i, (size_t)16 << i % 7, (size_t)16 << i % 7) || fm_free(p[i]) != 0)
			return NULL;
	return heap;
}

static void run_threads(fm_heap *heap, long count)
{
	for (long i = 0; i < count; i += 4) {
		pthread_t thread[4];
		void *result;

		for (int j = 0; j < 4; j++)
			assert_int_equal(pthread_create(&thread[j], NULL, short_thread, heap), 0);
		for (int j = 0; j < 4; j++) {
			assert_int_equal(pthread_join(thread[j], &result), 0);
			assert_ptr_equal(result, heap);
		}
	}
}

static void test_thread_churn(void **state)
{
	fm_heap *heap = fm_open(path, 0, NULL);
	struct fm_statistics stats = { .size = sizeof(stats) };
	uint64_t objects, size;
	long fds, maps;

	(void)state;
	assert_non_null(heap);
	objects = proc_count_objects(heap);
	run_threads(heap, 100);
	assert_int_equal(fm_stats(heap, &stats), 0);
	size = stats.file_size;
	fds = proc_count_fds();
	maps = proc_count_maps();
	run_threads(heap, (long)proc_env("FM_CHURN", 2000));
	assert_int_equal(fm_stats(heap, &stats), 0);
	assert_in_range(stats.file_size, 0, size + (4 << 20));
	assert_int_equal(proc_count_objects(heap), objects);
	assert_in_range(proc_count_fds(), 0, fds);
	assert_in_range(proc_count_maps(), 0, maps + 20);
	assert_true(is_complete(heap));
	assert_int_equal(fm_close(heap), 0);
}

/* One short run: objects of 20 sizes, allocated and freed; it may leave without closing. */
static int short_run(void *arg)
{
	bool closes = *(bool *)arg;
	fm_heap *heap = fm_open(path, 0, NULL);
	void *p[60];

	proc_must(heap != NULL);
	for (size_t i = 0; i < 60; i++) {
		p[i] = fm_malloc(heap, 16 + i % 20 * 100);
		proc_must(p[i] != NULL);
		proc_fill(p[i], i, 16 + i % 20 * 100);
	}
	for (size_t i = 0; i < 60; i++)
		proc_must(fm_free(p[i]) == 0);
	if (closes)
		proc_must(fm_close(heap) == 0);
	return 0;
}

/* Twenty size classes need at most twenty units; the file stays below two segments, however many
 * runs there were and however they ended. */
static void test_short_runs(void **state)
{
	long runs = (long)proc_env("FM_SHORT_RUNS", 200);
	uint64_t rng = 1;
	struct stat st;
	fm_heap *heap;

	(void)state;
	for (long i = 0; i < runs; i++) {
		bool closes = proc_below(&rng, 2) != 0;

		assert_int_equal(proc_run(short_run, &closes), 0);
		assert_int_equal(stat(path, &st), 0);
		assert_in_range(st.st_size, 1, 8 << 20);
	}
	heap = fm_open(path, 0, NULL);
	assert_non_null(heap);
	assert_int_equal(proc_count_objects(heap), 1 + OBJECTS);
	assert_true(is_complete(heap));
	assert_int_equal(fm_close(heap), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_in_range(st.st_size, 1, 4 << 20);
}

static void test_reopen_many_times(void **state)
{
	struct fm_statistics stats = { .size = sizeof(stats) };
	struct stat st, last;
	long fds, maps;
	uint64_t generation;
	fm_heap *heap;

	(void)state;
	assert_int_equal(try_open(path, 0), 0);
	fds = proc_count_fds();
	maps = proc_count_maps();
	assert_int_equal(stat(path, &st), 0);
	heap = fm_open(path, 0, NULL);
	assert_int_equal(fm_stats(heap, &stats), 0);
	generation = stats.generation;
	assert_int_equal(fm_close(heap), 0);
	for (int i = 0; i < 100; i++)
		assert_int_equal(try_open(path, i % 2 ? FM_RDONLY : 0), 0);
	assert_in_range(proc_count_fds(), 0, fds);
	assert_in_range(proc_count_maps(), 0, maps + 4);
	assert_int_equal(stat(path, &last), 0);
	assert_int_equal(last.st_size, st.st_size);
	heap = fm_open(path, 0, NULL);
	assert_int_equal(fm_stats(heap, &stats), 0);
	assert_int_equal(stats.generation, generation + 51);
	assert_true(is_complete(heap));
	assert_int_equal(fm_close(heap), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_thread_churn),
		TEST(test_short_runs),
		TEST(test_reopen_many_times),
	};

	return cmocka_run_group_tests_name("churn", tests, setup, teardown);
}
