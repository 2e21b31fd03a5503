/* SPDX-License-Identifier: Apache-2.0 */
#include "pageset.h"

#include "../base/atomics.h"
#include "../base/bits.h"
#include "../os/os.h"

int pageset_make(struct pageset *set, uint64_t pages)
{
	uint64_t words = (pages + 63) / 64 + 1;
	uint64_t summary = (words + 63) / 64 + 1;
	void *memory;
	int r;

	set->pages = pages;
	set->high = 0;
	set->mapped = round_up((words + summary) * 8, os->page_size());
	r = os->reserve_memory(set->mapped, &memory);
	if (r)
		return r;
	r = os->protect(memory, set->mapped, true, true);
	if (r) {
		os->unmap(memory, set->mapped);
		return r;
	}
	set->words = memory;
	set->summary = set->words + words;
	return 0;
}

void pageset_drop(struct pageset *set)
{
	if (set->words)
		os->unmap(set->words, set->mapped);
	set->words = set->summary = NULL;
}

/* Before a bit is set: whoever looks then, looks far enough. */
static void raise_high(struct pageset *set, uint64_t to)
{
	uint64_t high = load_relaxed(&set->high);

	while (high < to && !compare_exchange_seq(&set->high, &high, to))
		;
}

/* Was one of [from, to) not in the set? `always`: the words are written even so, and that is said of all. */
static bool add(struct pageset *set, uint64_t from, uint64_t to, bool always)
{
	bool any = false;

	to = min_u64(to, set->pages);
	raise_high(set, to);
	while (from < to) {
		uint64_t w = from / 64;
		unsigned n = (unsigned)min_u64(to - from, 64 - from % 64);
		uint64_t bits = range_mask((unsigned)(from % 64), n);

		if (always || ~load_relaxed(&set->words[w]) & bits) {
			any = true;
			fetch_or_seq(&set->words[w], bits);
			fetch_or_seq(&set->summary[w / 64], UINT64_C(1) << w % 64);
		}
		from += n;
	}
	return any;
}

bool pageset_add(struct pageset *set, uint64_t from, uint64_t to)
{
	return add(set, from, to, false);
}

void pageset_add_changed(struct pageset *set, uint64_t from, uint64_t to)
{
	/* pairs with the exchange in pageset_move(): it comes before and leaves the bits, or after and has seen this */
	add(set, from, to, true);
}

void pageset_move(struct pageset *from, struct pageset *to)
{
	uint64_t last = load_acquire(&from->high) / 64 / 64;

	for (uint64_t s = 0; s <= last; s++) {
		/* the summary first: who adds meanwhile sets its bit again after the word's */
		uint64_t words = load_relaxed(&from->summary[s]) ? exchange_seq(&from->summary[s], UINT64_C(0)) : 0;

		for (; words; words &= words - 1) {
			uint64_t w = s * 64 + lowest_bit(words);
			uint64_t bits = exchange_seq(&from->words[w], UINT64_C(0));

			for (; bits; bits &= bits - 1)
				pageset_add(to, w * 64 + lowest_bit(bits), w * 64 + lowest_bit(bits) + 1);
		}
	}
}

void pageset_clear(struct pageset *set)
{
	for (uint64_t page = pageset_next(set, 0); page != UINT64_MAX; page = pageset_next(set, page))
		pageset_remove(set, page);
}

void pageset_remove(struct pageset *set, uint64_t page)
{
	uint64_t w = page / 64;

	set->words[w] &= ~(UINT64_C(1) << page % 64);
	if (!set->words[w])
		set->summary[w / 64] &= ~(UINT64_C(1) << w % 64);
}

uint64_t pageset_next(const struct pageset *set, uint64_t from)
{
	uint64_t high = load_acquire(&set->high);
	uint64_t w = from / 64, s, last = high / 64 / 64;
	uint64_t bits;

	if (from >= high)
		return UINT64_MAX;
	bits = set->words[w] & ~low_mask((unsigned)(from % 64));
	if (bits)
		return w * 64 + lowest_bit(bits);
	w++;
	s = w / 64;
	bits = s <= last ? set->summary[s] & ~low_mask((unsigned)(w % 64)) : 0;
	for (;;) {
		/* a bit may stand over a word that was moved away while it was being added to */
		for (; bits; bits &= bits - 1) {
			w = s * 64 + lowest_bit(bits);
			if (set->words[w])
				return w * 64 + lowest_bit(set->words[w]);
		}
		if (++s > last)
			return UINT64_MAX;
		bits = set->summary[s];
	}
}

unsigned pageset_count(const struct pageset *set, uint64_t from, uint64_t to)
{
	unsigned n = 0;

	for (uint64_t w = from / 64; w < to / 64; w++)
		n += (unsigned)__builtin_popcountll(set->words[w]);
	return n;
}

bool pageset_has(const struct pageset *set, uint64_t page)
{
	return page < set->pages && load_relaxed(&set->words[page / 64]) >> page % 64 & 1;
}
