/* SPDX-License-Identifier: Apache-2.0
 *
 * Written pages by userfaultfd and PAGEMAP_SCAN. The reservation is registered and nothing is protected at first:
 * a page is protected by the scan that finds it, be it that it was written or only read.
 *
 * The kernel looks at each entry of a page table that exists, 2 MiB of the heap: 2 ns each. A *dense* range, most of
 * whose pages were found by now, is scanned in a faster way, 0.8 to 1 ns, which in turn finds those of its pages
 * that nobody touched, each once: then they are compared for nothing, and read in where they were not yet. The
 * first store into a protected page costs 1 us. [measured on Linux 6.18] So it is first looked where page
 * faults were (hints.h), and then where pages were found lately (recent.h).
 */
#include "atomic.h"
#include "track.h"

#include "../base/atomics.h"
#include "../base/bits.h"

#include <errno.h>

#define RANGES 256

/* Pages in a page table, of 4 KiB, and so many of them make it dense: the others are few. */
#define RANGE_PAGES UINT64_C(512)
#define DENSE_PAGES (RANGE_PAGES * 7 / 8)

/* Where so few pages are looked for that half of the scan is saved, or a third, it is made in so many steps, of 16 MiB at least. A
 * step costs a system call. */
#define FEW         2
#define STEPS       8
#define STEP_RANGES 8

/* So many pages beside a run are looked at first: the kernel drops a page of the range from the TLB in 0.1 us. */
#define BESIDE 16

static int make_sets(struct track *track)
{
	uint64_t pages = track->store->reserved / LENGTH_PAGE;
	int r = pageset_make(&track->seen, pages);

	return r ? r : pageset_make(&track->dense, pages / RANGE_PAGES);
}

static void drop_sets(struct track *track)
{
	pageset_drop(&track->seen);
	pageset_drop(&track->dense);
}

static int open_watch(struct track *track)
{
	struct store *store = track->store;
	int r;

	track->watch_fd = os->watch(store->base, store->reserved);
	if (track->watch_fd < 0)
		return track->watch_fd;
	track->watch_id = track_id_of(track->watch_fd);
	r = make_sets(track);
	if (!r)
		r = track_open_pagemap(track);
	if (!r)
		return 0;
	drop_sets(track);
	os->close(track->watch_fd);
	return r;
}

static void close_watch(struct track *track)
{
	hints_end(&track->hints);
	drop_sets(track);
	track_close_pagemap(track);
	if (store_is_file(&track->watch_id, track->watch_fd))
		os->close(track->watch_fd);
}

/* Pages [from, to) were found outside of the dense ranges: has one of theirs become dense? */
static void note_seen(struct track *track, uint64_t from, uint64_t to)
{
	if (!pageset_add(&track->seen, from, to))
		return;
	for (uint64_t range = from / RANGE_PAGES; range * RANGE_PAGES < to; range++)
		if (pageset_count(&track->seen, range * RANGE_PAGES, (range + 1) * RANGE_PAGES) >= DENSE_PAGES)
			pageset_add(&track->dense, range, range + 1);
}

/* ---------------------------------------------------------------- scanning */

static uint64_t ranges_of(uint64_t pages)
{
	return (pages + RANGE_PAGES - 1) / RANGE_PAGES;
}

/* The end of the run of ranges that are dense, or not, like that of `page`. */
static uint64_t run_end(const struct track *track, uint64_t page, uint64_t end, bool is_dense)
{
	uint64_t range = page / RANGE_PAGES;

	do
		range++;
	while (range * RANGE_PAGES < end && pageset_has(&track->dense, range) == is_dense);
	return min_u64(range * RANGE_PAGES, end);
}

/* Find in pages [*page, to) until *page. */
static int scan_once(struct track *track, uint64_t *page, uint64_t to, bool is_dense)
{
	uint64_t base = (uintptr_t)track->store->base, from = base + *page * LENGTH_PAGE, before = from;
	struct os_range ranges[RANGES];
	unsigned room = (unsigned)min_u64(to - *page, RANGES); /* which the kernel allocates */
	int n = os->scan(track->pagemap_fd, is_dense, &from, base + to * LENGTH_PAGE, ranges, room);

	if (n < 0)
		return n;
	for (int i = 0; i < n; i++) {
		uint64_t start = (ranges[i].start - base) / LENGTH_PAGE, end = (ranges[i].end - base) / LENGTH_PAGE;

		pageset_add(&track->found, start, end);
		if (!is_dense)
			note_seen(track, start, end);
		tally_add(&track->tally, start, end);
		recent_add(&track->recent, start / RANGE_PAGES);
	}
	*page = (from - base) / LENGTH_PAGE;
	return from > before ? 0 : -EIO; /* no progress: not what the interface promises */
}

/* Find in pages [page, to). 0 or -errno. */
static int scan(struct track *track, uint64_t page, uint64_t to)
{
	int r = 0;

	while (!r && page < to) {
		bool is_dense = pageset_has(&track->dense, page / RANGE_PAGES);
		uint64_t end = run_end(track, page, to, is_dense);

		while (!r && page < end)
			r = scan_once(track, &page, end, is_dense);
	}
	return r;
}

/* Where pages were found lately, or the `other` ranges, `step` of them at a time. 1: and with them all is found that was
 * written, 0: not that we know, or -errno. */
static int scan_ranges(struct track *track, uint64_t end, bool other, uint64_t step)
{
	uint64_t ranges = ranges_of(end), from, to = 0;
	int r = 0;

	while (!r && recent_next(&track->recent, other, step, ranges, &from, &to)) {
		r = scan(track, from * RANGE_PAGES, min_u64(to * RANGE_PAGES, end));
		if (!r && to < ranges)
			r = tally_is_complete(&track->tally, track);
	}
	return r;
}

/* Find in pages [from, *to), and in those beside as long as the first or the last one was found: a run of pages that a
 * kernel opened at one fault counts once, and must not be cut. Up to `done` all was looked at before; *to is where this
 * has come. */
static int scan_whole_runs(struct track *track, uint64_t done, uint64_t from, uint64_t *to, uint64_t end)
{
	int r = scan(track, from, *to);

	for (uint64_t step = BESIDE; !r && from > done && pageset_has(&track->found, from); step *= 2) {
		uint64_t below = from - min_u64(from - done, step);

		r = scan(track, below, from);
		from = below;
	}
	for (uint64_t step = BESIDE; !r && *to < end && pageset_has(&track->found, *to - 1); step *= 2) {
		uint64_t above = min_u64(*to + step, end);

		r = scan(track, *to, above);
		*to = above;
	}
	return r;
}

/* Where page faults were. 1: and with them all is found that was written, 0: not that we know, and this
 * find goes to the end; or -errno. */
static int scan_hints(struct track *track, uint64_t end)
{
	const struct hints *hints = &track->hints;
	uint64_t ratio = store_page_ratio(), done = 0;
	int r = 0;

	for (unsigned i = 0, next; !r && i < hints->n; i = next) {
		uint64_t from = max_u64(done, hints->page[i] - min_u64(hints->page[i], ratio)), to;

		next = hints_group_end(hints, i);
		to = min_u64(hints->page[next - 1] + 2 * ratio, end);
		if (from >= to)
			continue;
		r = scan_whole_runs(track, done, from, &to, end);
		done = to;
	}
	if (r || hints->n == 0)
		return r;
	if (tally_is_complete(&track->tally, track))
		return 1;
	tally_give_up(&track->tally);
	return 0;
}

/* First where pages were found lately, in steps if it is likely that not all of them are needed; then the rest. For many
 * pages all over the heap that is not worth it. As scan_ranges(). */
static int scan_heap(struct track *track, uint64_t end)
{
	uint64_t ranges = recent_count(&track->recent);
	bool are_few = track->tally.expected <= FEW;
	int r = 0;

	if (!track->tally.is_verifying) {
		r = tally_may_end_early(&track->tally) ? scan_hints(track, end) : 0;
		hints_learn(&track->hints, r == 1, track->tally.expected, end);
	}
	if (r)
		return r;
	if (!tally_may_end_early(&track->tally) || (!are_few && ranges > ranges_of(end) / 2))
		return scan(track, 0, end);
	r = scan_ranges(track, end, false, are_few ? max_u64(ranges / STEPS, STEP_RANGES) : UINT64_MAX);
	return r ? r : scan_ranges(track, end, true, UINT64_MAX);
}

/* 1, or -EBADF: the program has closed the descriptor, and the kernel protects nothing any more. */
static int is_watched(const struct track *track)
{
	return store_is_file(&track->watch_id, track->watch_fd) ? 1 : -EBADF;
}

static int find(struct track *track)
{
	uint64_t end = round_up(load_relaxed(&track->store->size), os->page_size()) / LENGTH_PAGE;
	int r = track_check_pagemap(track);

	tally_begin(&track->tally, track->store->atomic->place.faults);
	hints_take(&track->hints, track->store->base, end);
	recent_begin(&track->recent, ranges_of(end));
	if (!r && tally_is_complete(&track->tally, track))
		r = is_watched(track); /* no fault: nothing that is protected was written, and everything is */
	else if (!r)
		r = scan_heap(track, end);
	if (r == 0)
		tally_end(&track->tally, track);
	if (r >= 0)
		return 0;
	tally_forget(&track->tally);
	return is_watched(track) < 0 ? -EBADF : r;
}

static int find_all(struct track *track)
{
	pageset_move(&track->noted, &track->found);
	if (pageset_next(&track->found, 0) != UINT64_MAX)
		tally_forget(&track->tally);
	return find(track);
}

static void rest(struct track *track)
{
	hints_begin(&track->hints, load_relaxed(&track->store->size) / LENGTH_PAGE);
}

const struct track_way track_uffd = {
	.kind = TRACK_UFFD,
	.name = "uffd",
	.open = open_watch,
	.close = close_watch,
	.find = find_all,
	.rest = rest,
	.will_write = track_note,
};
