/* SPDX-License-Identifier: Apache-2.0
 *
 * Where pages were found lately: in heaps of any size the ranges that come first and the others are all ranges, each once;
 * first come those that the finds of late named.
 *
 *   FM_SEED   which ranges
 */
#define _GNU_SOURCE 1
#include "proc_util.h"
#include "store/recent.h"

static struct recent recent;

/* Ranges of both kinds: how often each was given. */
static void cover(uint64_t ranges, uint64_t step, uint8_t *times, bool other)
{
	uint64_t from, to = 0, before = 0;

	while (recent_next(&recent, other, step, ranges, &from, &to)) {
		assert_true(before <= from && from < to && to <= ranges);
		assert_true(step == UINT64_MAX || to - from < step + (UINT64_C(1) << recent.shift));
		before = to;
		for (; from < to; from++)
			times[from]++;
	}
}

static void all_once(uint64_t ranges, uint64_t step)
{
	uint8_t *times = calloc(ranges, 1);

	assert_non_null(times);
	cover(ranges, step, times, false);
	cover(ranges, UINT64_MAX, times, true);
	for (uint64_t range = 0; range < ranges; range++)
		assert_int_equal(times[range], 1);
	free(times);
}

static void test_all_ranges_once(void **state)
{
	uint64_t seed = proc_seed(), rng = seed;

	(void)state;
	for (unsigned turn = 0; turn < 300; turn++) {
		uint64_t ranges = 1 + proc_below(&rng, UINT64_C(1) << proc_below(&rng, 15));

		memset(&recent, 0, sizeof recent);
		for (unsigned find = 0; find < 20; find++) {
			recent_begin(&recent, ranges);
			all_once(ranges, 1 + proc_below(&rng, 20));
			/* while a scan is under way nothing changes */
			for (uint64_t n = proc_below(&rng, ranges); n; n--)
				recent_add(&recent, proc_below(&rng, ranges));
			all_once(ranges, UINT64_MAX);
			ranges += proc_below(&rng, 2) * proc_below(&rng, ranges);
		}
	}
}

static bool comes_first(uint64_t range, uint64_t ranges)
{
	uint8_t *times = calloc(ranges, 1);
	bool is;

	assert_non_null(times);
	cover(ranges, UINT64_MAX, times, false);
	is = times[range];
	free(times);
	return is;
}

static void test_what_was_found_comes_first(void **state)
{
	(void)state;
	memset(&recent, 0, sizeof recent);
	recent_begin(&recent, 1000);
	recent_add(&recent, 7);
	recent_add(&recent, 63);
	recent_add(&recent, 65);
	recent_begin(&recent, 1000);
	assert_true(comes_first(7, 1000));
	assert_true(comes_first(64, 1000)); /* between two */
	assert_false(comes_first(8, 1000));
	assert_int_equal(recent_count(&recent), 4);
	recent_begin(&recent, 5000); /* groups of 8 ranges */
	assert_true(comes_first(0, 5000));
	assert_false(comes_first(4999, 5000));
	recent_add(&recent, 4999);
	recent_begin(&recent, 5000);
	assert_true(comes_first(4999, 5000));
}

static void test_what_was_not_found_for_long_does_not(void **state)
{
	unsigned finds = 0;

	(void)state;
	memset(&recent, 0, sizeof recent);
	recent_begin(&recent, 100);
	recent_add(&recent, 50);
	do {
		recent_begin(&recent, 100);
		finds++;
	} while (comes_first(50, 100) && finds < 10000);
	assert_in_range(finds, 1024, 2048);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_all_ranges_once),
		cmocka_unit_test(test_what_was_found_comes_first),
		cmocka_unit_test(test_what_was_not_found_for_long_does_not),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
