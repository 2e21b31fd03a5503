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
	tally->unseen = 0;
	tally->is_verifying = tally_may_end_early(tally) && ++tally->turns % VERIFY_EACH == 0;
}

void tally_add(struct tally *tally, uint64_t from, uint64_t to)
{
	if (!tally_may_end_early(tally))
		return;
	if (tally->unseen == TALLY_MAX) {
		tally->expected = TO_THE_END;
		return;
	}
	tally->range[tally->unseen].from = from;
	tally->range[tally->unseen++].to = to;
}

/* Does one of pages [from, to) differ? 1, 0 or -errno. */
static int differs(const struct track *track, uint64_t from, uint64_t to)
{
	unsigned line;
	int r = 0;

	for (; from < to && !r; from++)
		r = atomic_is_own(track->store, from) ? 0 : diff_first(track->store->atomic, from, ALL_LINES, &line);
	return r;
}

void tally_own_begin(struct tally_own *own)
{
	os->hold_signals(&own->signals);
	own->faults = os->fault_count();
}

void tally_own_end(struct tally *tally, const struct tally_own *own)
{
	tally->own += os->fault_count() - own->faults;
	os->release_signals(&own->signals);
}

/* Look at the ranges that were not looked at yet. The scan may have split a run. */
static void look(struct tally *tally, const struct track *track)
{
	uint64_t end = UINT64_MAX;
	struct tally_own own;
	int is_changed = 0;

	tally_own_begin(&own);
	for (unsigned i = 0; i < tally->unseen; i++) {
		bool goes_on = is_changed && tally->range[i].from == end;

		end = tally->range[i].to;
		if (goes_on)
			continue;
		is_changed = differs(track, tally->range[i].from, end);
		if (is_changed < 0)
			tally->expected = TO_THE_END;
		tally->runs += is_changed > 0;
	}
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
	uint64_t now;

	if (!tally_may_end_early(tally) || tally->is_verifying || tally->runs + tally->unseen < tally->expected)
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
	if (!tally->is_verifying)
		return;
	look(tally, track);
	tally->is_refuted |= is_too_many(tally, os->process_fault_count() - tally->own);
}

void tally_give_up(struct tally *tally)
{
	tally->expected = TO_THE_END;
}

void tally_forget(struct tally *tally)
{
	tally->faults = 0;
}
