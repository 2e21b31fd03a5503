/* SPDX-License-Identifier: Apache-2.0 */
#include "recent.h"

#include "../base/bits.h"

#include <string.h>

#define WORDS        (RECENT_GROUPS / 64)
#define FINDS_A_TURN 1024

static bool has(const uint64_t *groups, uint64_t group)
{
	return groups[group / 64] >> group % 64 & 1;
}

static void set(uint64_t *groups, uint64_t group)
{
	groups[group / 64] |= UINT64_C(1) << group % 64;
}

/* Of each two groups make one. */
static void join_groups(uint64_t *groups)
{
	uint64_t joined[WORDS] = {0};

	for (uint64_t group = 0; group < RECENT_GROUPS; group++)
		if (has(groups, group))
			set(joined, group / 2);
	memcpy(groups, joined, sizeof(joined));
}

/* A single group between two is taken with them: that is cheaper than a system call more. */
static void choose_first(struct recent *recent)
{
	uint64_t found[WORDS];

	for (unsigned w = 0; w < WORDS; w++)
		found[w] = recent->now[w] | recent->before[w];
	for (unsigned w = 0; w < WORDS; w++) {
		uint64_t below = w ? found[w - 1] >> 63 : 0, above = w + 1 < WORDS ? found[w + 1] << 63 : 0;

		recent->first[w] = found[w] | ((found[w] << 1 | below) & (found[w] >> 1 | above));
	}
}

void recent_begin(struct recent *recent, uint64_t ranges)
{
	for (; ranges > (uint64_t)RECENT_GROUPS << recent->shift; recent->shift++) {
		join_groups(recent->now);
		join_groups(recent->before);
	}
	if (++recent->finds == FINDS_A_TURN) {
		recent->finds = 0;
		memcpy(recent->before, recent->now, sizeof(recent->now));
		memset(recent->now, 0, sizeof(recent->now));
	}
	choose_first(recent);
}

void recent_add(struct recent *recent, uint64_t range)
{
	set(recent->now, range >> recent->shift);
}

static bool is_first(const struct recent *recent, uint64_t range)
{
	return has(recent->first, range >> recent->shift);
}

bool recent_next(const struct recent *recent, bool other, uint64_t step, uint64_t ranges, uint64_t *from, uint64_t *to)
{
	uint64_t group = UINT64_C(1) << recent->shift, range = *to;

	while (range < ranges && is_first(recent, range) == other)
		range += group;
	*from = range;
	while (range < ranges && range - *from < step && is_first(recent, range) != other)
		range += group;
	*to = min_u64(range, ranges);
	return *from < ranges;
}

uint64_t recent_count(const struct recent *recent)
{
	unsigned n = 0;

	for (unsigned w = 0; w < WORDS; w++)
		n += (unsigned)__builtin_popcountll(recent->first[w]);
	return (uint64_t)n << recent->shift;
}
