/* SPDX-License-Identifier: Apache-2.0
 *
 * FM_DECLARED: the program names what it writes, and nothing else is looked at. The allocator's own stores are found by
 * mprotect of its metadata: a fault for each unit of metadata that changes between two commits, and nothing while
 * none does. What the library stores into objects (roots, calloc, strdup) it declares itself.
 *
 * Declarations are noted by lines of 64 bytes, and only those are compared: a page takes 1 us to compare where memory has
 * to be read for it [measured]. Lines are noted before their page is, so that whoever finds the page finds them. One that
 * has none, because a fault found it and nobody declared it, is compared whole, and so is metadata, declared or not.
 */
#include "atomic.h"

#include "../base/atomics.h"
#include "../base/bits.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Is one of pages [from, to) noted? Others may be noted meanwhile. */
static bool is_noted(const struct track *track, uint64_t from, uint64_t to)
{
	while (from < to && !pageset_has(&track->noted, from))
		from++;
	return from < to;
}

static int metadata(struct track *track, uint64_t from, uint64_t to)
{
	uint64_t page_size = os->page_size();

	/* metadata is read-only, or noted and open */
	if (!pageset_add(&track->metadata, from / LENGTH_PAGE, to / LENGTH_PAGE))
		return 0;
	if (is_noted(track, from / LENGTH_PAGE, to / LENGTH_PAGE)) {
		/* the program declared something there before: open until the next commit, which finds it */
		pageset_add(&track->noted, from / LENGTH_PAGE, to / LENGTH_PAGE);
		return 0;
	}
	from = round_down(from, page_size);
	return os->protect(track->store->base + from, round_up(to, page_size) - from, true, false);
}

/* ---------------------------------------------------------------- lines */

static uint64_t lines_len(const struct track *track)
{
	return round_up(track->store->reserved / LENGTH_PAGE * sizeof(uint64_t), os->page_size());
}

static int make_lines(struct track *track)
{
	uint64_t len = lines_len(track);
	void *memory;
	int r = os->reserve_memory(2 * len, &memory);

	if (r)
		return r;
	r = os->protect(memory, 2 * len, true, true);
	if (r) {
		os->unmap(memory, 2 * len);
		return r;
	}
	track->noted_lines = memory;
	track->found_lines = track->noted_lines + len / sizeof(uint64_t);
	return 0;
}

static void drop_lines(struct track *track)
{
	if (track->noted_lines)
		os->unmap(track->noted_lines, 2 * lines_len(track));
	track->noted_lines = track->found_lines = NULL;
}

static void note_lines(struct track *track, uint64_t from, uint64_t to)
{
	while (from < to) {
		uint64_t end = min_u64(round_down(from, LENGTH_PAGE) + LENGTH_PAGE, to);
		unsigned first = (unsigned)(from % LENGTH_PAGE / LINE), last = (unsigned)((end - 1) % LENGTH_PAGE / LINE);

		fetch_or_seq(&track->noted_lines[from / LENGTH_PAGE], range_mask(first, last - first + 1));
		from = end;
	}
}

/* Found pages take the lines that were noted for them along. Those of a commit that failed stay found: T2. */
static void find_lines(struct track *track)
{
	const struct pageset *found = &track->found;

	for (uint64_t page = pageset_next(found, 0); page != UINT64_MAX; page = pageset_next(found, page + 1)) {
		uint64_t *lines = &track->found_lines[page];

		if (load_relaxed(&track->noted_lines[page]))
			*lines |= exchange_seq(&track->noted_lines[page], UINT64_C(0));
		/* found by a fault or always, and not by a declaration: nothing says what was written */
		if (*lines == 0 || pageset_has(&track->metadata, page))
			*lines = ALL_LINES;
	}
}

/* ---------------------------------------------------------------- the way */

static int open_declared(struct track *track)
{
	const char *debug = getenv("FMALLOC_DEBUG");
	int r = pageset_make(&track->metadata, track->store->reserved / LENGTH_PAGE);

	if (!r)
		r = pageset_make(&track->always, track->store->reserved / LENGTH_PAGE);
	if (!r)
		r = make_lines(track);
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
		drop_lines(track);
	}
	track->checks = debug && strcmp(debug, "declared") == 0;
	return r;
}

/* What was metadata before its segment was freed is read-only, as if it still were: were it taken out of the set, a
 * rollback would have to put it back. The program's own stores there are found by their faults, but the kernel's
 * (read(2) into an object) fail. */
static int open_metadata(struct track *track, uint64_t from, uint64_t to)
{
	while (from < to) {
		uint64_t end = min_u64(round_down(from, LENGTH_PAGE) + LENGTH_PAGE, to);

		if (pageset_has(&track->metadata, from / LENGTH_PAGE) && !pageset_has(&track->noted, from / LENGTH_PAGE)) {
			int r = track_open_granules(track, from, end);

			if (r)
				return r;
			end = round_down(from, TRACK_GRANULE) + TRACK_GRANULE;
		}
		from = end;
	}
	return 0;
}

static int will_write(struct track *track, uint64_t from, uint64_t to)
{
	int r;

	note_lines(track, from, to);
	r = open_metadata(track, from, to);
	if (r)
		return r;
	pageset_add(&track->noted, from / LENGTH_PAGE, (to + LENGTH_PAGE - 1) / LENGTH_PAGE);
	return 0;
}

/* For debugging: is there a private page that is not found, or a line of a found one that was not declared, and differs
 * from what is committed? */
static int check(struct track *track)
{
	uint64_t pages = track->store->size / LENGTH_PAGE, lines = 0;
	uint8_t is_private;
	bool can_ask = track_check_pagemap(track) == 0;

	for (uint64_t page = 0; page < pages && os->page_size() == LENGTH_PAGE; page++) {
		uint64_t declared = pageset_has(&track->found, page) ? track_lines(track, page) : 0;

		if (declared == ALL_LINES || atomic_is_own(track->store, page))
			continue;
		if (can_ask &&
		    os->private_pages(track->pagemap_fd, (uintptr_t)track->store->base + page * LENGTH_PAGE, 1,
		                      &is_private) == 0 && !is_private)
			continue;
		if (diff_lines(track->store->atomic, page, ~declared, &lines) == 0 && lines) {
			track->undeclared = page * LENGTH_PAGE + lowest_bit(lines) * LINE;
			return -EPROTO;
		}
	}
	return 0;
}

static int find(struct track *track)
{
	const struct pageset *always = &track->always;
	int r = track_find_noted(track, &track->metadata);

	/* nothing was found, and lines stay with their pages */
	if (r)
		return r;
	for (uint64_t page = pageset_next(always, 0); page != UINT64_MAX; page = pageset_next(always, page + 1))
		pageset_add(&track->found, page, page + 1);
	find_lines(track);
	return track->checks ? check(track) : 0;
}

/* Metadata that can't be made read-only (vm.max_map_count) stays noted, and with it all that is: the next commit finds
 * it, unchanged or not. */
static void dropped(struct track *track)
{
	const struct pageset *found = &track->found;

	if (track_find_noted(track, &track->metadata) == 0)
		find_lines(track);
	for (uint64_t page = pageset_next(found, 0); page != UINT64_MAX; page = pageset_next(found, page))
		track_settled(track, page);
}

static void close_declared(struct track *track)
{
	track_leave_faults(track);
	drop_lines(track);
}

const struct track_way track_declared = {
	.kind = TRACK_DECLARED,
	.name = "declared",
	.open = open_declared,
	.close = close_declared,
	.find = find,
	.will_write = will_write,
	.dropped = dropped,
	.metadata = metadata,
};
