/* SPDX-License-Identifier: Apache-2.0
 *
 * Written pages by mprotect: the mapping is read-only in granules of 64 KiB, and SIGSEGV opens one for writing and
 * notes it. The set of noted pages is the set of open granules.
 */
#include "track.h"

#include "../base/atomics.h"
#include "../base/bits.h"

#include <pthread.h>

/* Those that the handler looks through; entries are added and taken away under the lock, and read without it: a
 * thread that faults in a heap uses that heap, which is in the list then. */
static struct track *tracks; /* atomic */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

int track_open_granules(struct track *track, uint64_t from, uint64_t to)
{
	uint64_t size = load_acquire(&track->store->size);
	int r;

	from = round_down(from, TRACK_GRANULE);
	to = min_u64(round_up(to, TRACK_GRANULE), round_up(size, os->page_size()));
	r = os->protect(track->store->base + from, to - from, true, true);
	if (r) {
		/* too many pieces of mapping (vm.max_map_count): one for all, and all counts as written */
		from = 0;
		to = round_up(size, os->page_size());
		r = os->protect(track->store->base, to, true, true);
	}
	/* T3. Opened first: if a commit gets in between, which only a store outside of the sections lets it, the granule
	 * is noted in the end and not open for ever in no set */
	pageset_add(&track->noted, from / LENGTH_PAGE, to / LENGTH_PAGE);
	return r;
}

/* In a signal handler. In a forked child it opens the child's own copy. */
static bool on_fault(void *addr)
{
	for (struct track *track = load_acquire(&tracks); track; track = load_acquire(&track->next)) {
		const struct store *store = track->store;
		uint64_t off = (uintptr_t)addr - (uintptr_t)load_relaxed(&store->base);

		if (off < load_acquire(&store->size))
			return track_open_granules(track, off, off + 1) == 0;
	}
	return false;
}

static int protect_all(struct track *track)
{
	const struct store *store = track->store;

	return os->protect(store->base, round_up(store->size, os->page_size()), true, false);
}

int track_join_faults(struct track *track)
{
	int r = os->on_fault(on_fault);

	if (r)
		return r;
	pthread_mutex_lock(&lock);
	store_relaxed(&track->next, tracks);
	store_release(&tracks, track);
	pthread_mutex_unlock(&lock);
	track_open_pagemap(track); /* it does without */
	return 0;
}

void track_leave_faults(struct track *track)
{
	struct track **at = &tracks;

	pthread_mutex_lock(&lock);
	while (*at != track)
		at = &(*at)->next;
	store_release(at, track->next);
	pthread_mutex_unlock(&lock);
	track_close_pagemap(track);
}

static int open_faults(struct track *track)
{
	int r = track_join_faults(track);

	if (r)
		return r;
	r = protect_all(track);
	if (r)
		track_leave_faults(track);
	return r;
}

static int extended(struct track *track, uint64_t from, uint64_t to)
{
	return os->protect(track->store->base + from, to - from, true, false);
}

static bool is_in(const struct pageset *which, uint64_t page)
{
	return !which || pageset_has(which, page);
}

/* T1: read-only again, then found. Runs of neighbours in one call. */
int track_find_noted(struct track *track, const struct pageset *which)
{
	struct pageset *noted = &track->noted;
	uint64_t page = pageset_next(noted, 0);

	while (page != UINT64_MAX) {
		uint64_t end = page;
		int r = 0;

		while (pageset_has(noted, end) && is_in(which, end) == is_in(which, page))
			end++;
		if (is_in(which, page))
			r = os->protect(track->store->base + page * LENGTH_PAGE, (end - page) * LENGTH_PAGE, true, false);
		if (r)
			return r;
		page = pageset_next(noted, end);
	}
	pageset_move(noted, &track->found);
	return 0;
}

static int find(struct track *track)
{
	return track_find_noted(track, NULL);
}

/* What can't be made read-only (vm.max_map_count) stays noted: the next commit finds it, unchanged or not. */
static void dropped(struct track *track)
{
	if (protect_all(track) == 0)
		pageset_clear(&track->noted);
}

const struct track_way track_mprotect = {
	.kind = TRACK_MPROTECT,
	.name = "mprotect",
	.open = open_faults,
	.close = track_leave_faults,
	.extended = extended,
	.find = find,
	.will_write = track_open_granules,
	.dropped = dropped,
};
