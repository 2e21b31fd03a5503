/* SPDX-License-Identifier: Apache-2.0
 *
 * src/base/bits.h against brute force. Uses the library's internal header.
 *
 *   FM_SEED    of the random masks
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include "base/bits.h"

static uint64_t seed;

static bool has_bit(uint64_t mask, unsigned i)
{
	return i < 64 && (mask >> i & 1);
}

static uint64_t slow_run_starts(uint64_t mask, unsigned n)
{
	uint64_t starts = 0;

	for (unsigned i = 0; i < 64; i++) {
		bool all = true;

		for (unsigned j = i; j < i + n; j++)
			all = all && has_bit(mask, j);
		if (all)
			starts |= UINT64_C(1) << i;
	}
	return starts;
}

static unsigned slow_longest_run(uint64_t mask)
{
	unsigned longest = 0, here = 0;

	for (unsigned i = 0; i < 64; i++) {
		here = has_bit(mask, i) ? here + 1 : 0;
		if (here > longest)
			longest = here;
	}
	return longest;
}

static void compare_runs(uint64_t mask)
{
	for (unsigned n = 1; n <= 64; n++)
		if (run_starts(mask, n) != slow_run_starts(mask, n))
			fail_msg("run_starts(%#llx, %u) is %#llx", (unsigned long long)mask, n,
			         (unsigned long long)run_starts(mask, n));
	if (longest_run(mask) != slow_longest_run(mask))
		fail_msg("longest_run(%#llx) is %u", (unsigned long long)mask, longest_run(mask));
}

static void test_runs(void **state)
{
	uint64_t rng = seed;

	(void)state;
	compare_runs(0);
	compare_runs(UINT64_MAX);
	/* every single run, and every single gap */
	for (unsigned from = 0; from < 64; from++) {
		for (unsigned n = 1; from + n <= 64; n++) {
			compare_runs(range_mask(from, n));
			compare_runs(~range_mask(from, n));
		}
	}
	for (unsigned i = 0; i < 2000; i++) {
		uint64_t mask = proc_rand(&rng);

		compare_runs(mask);
		compare_runs(mask | proc_rand(&rng) | proc_rand(&rng));
		compare_runs(mask & proc_rand(&rng));
	}
}

static void test_masks(void **state)
{
	(void)state;
	for (unsigned n = 0; n <= 64; n++) {
		uint64_t slow = 0;

		for (unsigned i = 0; i < n; i++)
			slow |= UINT64_C(1) << i;
		assert_int_equal(low_mask(n), slow);
		for (unsigned from = 0; from + n <= 64; from++) {
			uint64_t range = 0;

			for (unsigned i = from; i < from + n; i++)
				range |= UINT64_C(1) << i;
			/* a range of none at 64 would be a shift by 64 */
			if (from < 64 || n == 0)
				assert_int_equal(range_mask(from, n), range);
		}
	}
}

static void test_single_bits(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 64; i++) {
		uint64_t bit = UINT64_C(1) << i;

		assert_int_equal(lowest_bit(bit), i);
		assert_int_equal(highest_bit(bit), i);
		assert_int_equal(lowest_bit(UINT64_MAX << i), i);
		assert_int_equal(highest_bit(UINT64_MAX >> (63 - i)), i);
		assert_int_equal(count_bits(UINT64_MAX << i), 64 - i);
		assert_true(is_power_of_two(bit));
		if (i > 0)
			assert_false(is_power_of_two(bit | 1));
		if (i > 1)
			assert_false(is_power_of_two(bit - 1));
	}
	assert_false(is_power_of_two(0));
}

static void test_rounding(void **state)
{
	uint64_t rng = seed;

	(void)state;
	for (unsigned shift = 0; shift < 30; shift++) {
		uint64_t to = UINT64_C(1) << shift;

		for (unsigned i = 0; i < 200; i++) {
			uint64_t x = proc_rand(&rng) >> (1 + i % 60);

			assert_int_equal(round_down(x, to), x / to * to);
			assert_int_equal(round_up(x, to), (x / to + (x % to != 0)) * to);
			assert_int_equal(round_up(x / to * to, to), x / to * to);
		}
	}
	assert_int_equal(min_u64(3, UINT64_MAX), 3);
	assert_int_equal(min_u64(UINT64_MAX, 3), 3);
	assert_true(max_u64(3, UINT64_MAX) == UINT64_MAX);
	assert_true(max_u64(UINT64_MAX, 3) == UINT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_runs),
		cmocka_unit_test(test_masks),
		cmocka_unit_test(test_single_bits),
		cmocka_unit_test(test_rounding),
	};

	seed = proc_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
