/* SPDX-License-Identifier: Apache-2.0
 *
 * FM_DECLARED: the program names what it writes, and nothing else is looked at. The allocator's own stores are found by
 * mprotect of its metadata: a fault for each unit of metadata that changes between two commits, and nothing while
 * none does. What the library stores into objects (roots, calloc, strdup) it declares itself.
 */
#include "atomic.h"

#include "../base/bits.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int metadata(struct track *track, uint64_t from, uint64_t to)
{
	uint64_t page_size = os->page_size();
	bool is_new = pageset_add(&track->metadata, from / LENGTH_PAGE, to / LENGTH_PAGE);

	/* what is noted is open, and is read-only again after the next commit */
	if (!is_new && pageset_has(&track->noted, from / LENGTH_PAGE))
		return 0;
	from = round_down(from, page_size);
	return os->protect(track->store->base + from, round_up(to, page_size) - from, true, false);
}

static int open_declared(struct track *track)
{
	const char *debug = getenv("FMALLOC_DEBUG");
	int r = pageset_make(&track->metadata, track->store->reserved / LENGTH_PAGE);

	if (!r)
		r = pageset_make(&track->always, track->store->reserved / LENGTH_PAGE);
	if (!r)
		r = track_join_faults(track);
	if (!r) {
		r = metadata(track, TRUTH_PAGE_OFF, FIRST_JOURNAL_OFF);
		if (r)
			track_leave_faults(track);
	}
	if (r) {
		pageset_drop(&track->metadata);
		pageset_drop(&track->always);
	}
	track->checks = debug && strcmp(debug, "declared") == 0;
	return r;
}

static int extended(struct track *track, uint64_t from, uint64_t to)
{
	(void)track;
	(void)from;
	(void)to;
	return 0;
}

static int will_write(struct track *track, uint64_t from, uint64_t to)
{
	pageset_add(&track->noted, from / LENGTH_PAGE, (to + LENGTH_PAGE - 1) / LENGTH_PAGE);
	return 0;
}

/* For debugging: is there a private page that is not found and differs from what is committed? */
static int check(struct track *track)
{
	uint64_t pages = track->store->size / LENGTH_PAGE;
	uint8_t is_private;
	bool can_ask = track_check_pagemap(track) == 0;

	for (uint64_t page = 0; page < pages && os->page_size() == LENGTH_PAGE; page++) {
		if (pageset_has(&track->found, page) || atomic_is_own(track->store, page))
			continue;
		if (can_ask &&
		    os->private_pages(track->pagemap_fd, (uintptr_t)track->store->base + page * LENGTH_PAGE, 1,
		                      &is_private) == 0 && !is_private)
			continue;
		if (diff_size(track->store->atomic, page) > 0) {
			track->undeclared = page * LENGTH_PAGE;
			return -EPROTO;
		}
	}
	return 0;
}

static int find(struct track *track)
{
	const struct pageset *always = &track->always;
	int r = track_find_noted(track, &track->metadata);

	for (uint64_t page = pageset_next(always, 0); page != UINT64_MAX; page = pageset_next(always, page + 1))
		pageset_add(&track->found, page, page + 1);
	return r || !track->checks ? r : check(track);
}

/* Pages that were open stay so until their next commit; what is read-only stays that. */
static int dropped(struct track *track)
{
	return track_find_noted(track, &track->metadata);
}

const struct track_way track_declared = {
	.kind = TRACK_DECLARED,
	.name = "declared",
	.open = open_declared,
	.close = track_leave_faults,
	.extended = extended,
	.find = find,
	.will_write = will_write,
	.dropped = dropped,
	.metadata = metadata,
};
