/* SPDX-License-Identifier: Apache-2.0 */
#include "../base/bits.h"
#include "atomic.h"

#define TO_THE_END UINT64_MAX

/* One find of so many is made to the end to see whether the count is right. */
#define VERIFY_EACH 64

void tally_begin(struct tally *tally, uint64_t others)
{
	uint64_t now = os->process_fault_count(), known = tally->faults + tally->own + (others - tally->others);

	tally->expected = TO_THE_END;
	if (!tally->is_refuted && tally->faults && now >= known)
		tally->expected = now - known;
	tally->faults = now;
	tally->others = others;
	tally->own = 0;
	tally->runs = 0;
	tally->pages = 0;
	tally->unseen = 0;
	tally->known = 0;
	tally->is_verifying = tally_may_end_early(tally) && ++tally->turns % VERIFY_EACH == 0;
}

void tally_add(struct tally *tally, uint64_t from, uint64_t to)
{
	unsigned i = tally->unseen;

	if (!tally_may_end_early(tally))
		return;
	if (i == TALLY_MAX) {
		tally->expected = TO_THE_END;
		return;
	}
	for (; i > 0 && tally->range[i - 1].from > from; i--)
		tally->range[i] = tally->range[i - 1];
	tally->range[i].from = from;
	tally->range[i].to = to;
	tally->pages += to - from;
	tally->unseen++;
}

/* Compare the page, and keep what that tells if there is room. Does it differ? 1, 0 or -errno. */
static int differs(struct tally *tally, const struct track *track, uint64_t page)
{
	uint64_t lines = 0;
	int r = atomic_is_own(track->store, page) ? 0 : diff_lines(track->store->atomic, page, ALL_LINES, &lines);

	if (r)
		return r;
	if (tally->known < TALLY_MAX) {
		tally->compared[tally->known].page = page;
		tally->compared[tally->known++].lines = lines;
	}
	return lines != 0;
}

void tally_own_begin(const struct tally *tally, struct tally_own *own)
{
	own->is_counted = tally->faults && !tally_knows_all(tally);
	if (!own->is_counted)
		return;
	os->hold_signals(&own->signals);
	own->faults = os->fault_count();
}

void tally_own_end(struct tally *tally, const struct tally_own *own)
{
	if (!own->is_counted)
		return;
	tally->own += os->fault_count() - own->faults;
	os->release_signals(&own->signals);
}

/* A run: is there a change in it, and how many changed pages with a fault of their own? */
struct run {
	bool is_changed;
	uint64_t own;
};

/* Look at pages [from, to) of it: at as many as can be kept, until the first change, and at those for which there are
 * hints. 0 or -errno. */
static int look_at(struct tally *tally, const struct track *track, uint64_t from, uint64_t to, struct run *run)
{
	for (; from < to; from++) {
		bool has_own = hints_have(&track->hints, from);
		int r = 0;

		if (!run->is_changed || has_own || tally->known < TALLY_MAX)
			r = differs(tally, track, from);
		if (r < 0)
			return r;
		run->is_changed |= r > 0;
		run->own += r > 0 && has_own;
	}
	return 0;
}

static uint64_t faults_of(const struct run *run)
{
	return max_u64(run->is_changed, run->own);
}

/* Look at the ranges that were not looked at yet. The scan may have split a run. */
static void look(struct tally *tally, const struct track *track)
{
	struct run run = {0};
	struct tally_own own;

	if (tally->unseen == 0)
		return;
	tally_own_begin(tally, &own);
	for (unsigned i = 0; i < tally->unseen; i++) {
		if (i > 0 && tally->range[i].from != tally->range[i - 1].to) {
			tally->runs += faults_of(&run);
			run = (struct run){0};
		}
		if (look_at(tally, track, tally->range[i].from, tally->range[i].to, &run))
			tally->expected = TO_THE_END;
	}
	tally->runs += faults_of(&run);
	tally->unseen = 0;
	tally_own_end(tally, &own);
}

/* Have more runs been found than there were faults up to `now`? */
static bool is_too_many(const struct tally *tally, uint64_t now)
{
	return tally_may_end_early(tally) && tally->runs > tally->expected + (now - tally->faults);
}

bool tally_is_complete(struct tally *tally, const struct track *track)
{
	uint64_t now, most = tally->runs + tally->unseen + track->hints.n;

	if (!tally_may_end_early(tally) || tally->is_verifying || most < tally->expected)
		return false;
	look(tally, track);
	if (tally->runs < tally->expected)
		return false;
	now = os->process_fault_count() - tally->own;
	tally->is_refuted |= is_too_many(tally, now);
	return tally->runs == tally->expected && now == tally->faults;
}

void tally_end(struct tally *tally, const struct track *track)
{
	if (tally->is_verifying) {
		look(tally, track);
		tally->is_refuted |= is_too_many(tally, os->process_fault_count() - tally->own);
	}
	tally->known = 0;
}

bool tally_knows_all(const struct tally *tally)
{
	return tally->known > 0 && tally->known == tally->pages;
}

bool tally_knows(const struct tally *tally, uint64_t page, uint64_t *lines)
{
	for (unsigned i = 0; i < tally->known; i++) {
		if (tally->compared[i].page != page)
			continue;
		*lines = tally->compared[i].lines;
		return true;
	}
	return false;
}

void tally_give_up(struct tally *tally)
{
	tally->expected = TO_THE_END;
}

void tally_forget(struct tally *tally)
{
	tally->faults = 0;
	tally->known = 0;
}
