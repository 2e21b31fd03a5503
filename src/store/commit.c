/* SPDX-License-Identifier: Apache-2.0
 *
 * The way of a commit: prepare, write, apply.
 */
#include "../base/atomics.h"
#include "../base/crc32c.h"
#include "atomic.h"

#include <errno.h>
#include <string.h>

uint64_t atomic_record_max = RECORD_MAX;

/* Entries of a record that take longer to apply than another thread takes to wake up. */
#define LONG_FROM 32

/* Unchanged pages that are looked up together. */
#define UNCHANGED_RUN 512

bool atomic_is_own(const struct store *store, uint64_t page)
{
	uint64_t off = page * LENGTH_PAGE;

	if (off == SUPER_COPY_1_OFF || off == SUPER_COPY_2_OFF ||
	    (off >= FIRST_JOURNAL_OFF && off < FIRST_JOURNAL_OFF + FIRST_JOURNAL_LEN))
		return true;
	return off >= SEGMENT_SIZE && store_is_journal(store, off >> SEGMENT_SHIFT);
}

/* ---------------------------------------------------------------- private pages that are kept */

/* The whole memory page in which `page` is. */
static uint64_t first_of(uint64_t page, uint64_t ratio)
{
	return round_down(page, ratio);
}

static bool may_drop(const struct atomic *atomic, uint64_t page, uint64_t ratio)
{
	for (uint64_t i = 0; i < ratio; i++)
		if (pageset_has(&atomic->track.found, page + i))
			return false;
	return true;
}

static void drop(struct atomic *atomic, uint64_t page, uint64_t pages)
{
	if (os->advise(atomic->store->base + page * LENGTH_PAGE, pages * LENGTH_PAGE, OS_DROP))
		return;
	for (uint64_t i = page; i < page + pages; i++) {
		if (!pageset_has(&atomic->kept, i))
			continue;
		pageset_remove(&atomic->kept, i);
		store_relaxed(&atomic->kept_pages, atomic->kept_pages - 1);
	}
}

static bool is_surplus(const struct atomic *atomic)
{
	return atomic->kept_pages > atomic->keep_max;
}

/* C4. In the pause, after a whole scan: bring the kept pages back to their budget. */
static void drop_surplus(struct atomic *atomic)
{
	uint64_t ratio = store_page_ratio();
	uint64_t turns = 0;

	while (is_surplus(atomic) && turns < 2) {
		uint64_t page = pageset_next(&atomic->kept, atomic->hand), end;

		if (page == UINT64_MAX) {
			atomic->hand = 0;
			turns++;
			continue;
		}
		page = first_of(page, ratio);
		for (end = page; end - page < 64 && pageset_has(&atomic->kept, end); end += ratio)
			if (!may_drop(atomic, end, ratio))
				break;
		if (end > page)
			drop(atomic, page, end - page);
		atomic->hand = max_u64(end, page + ratio);
	}
}

/* For the way that has no kept pages: drop those that are as committed. */
static void drop_unchanged(struct atomic *atomic)
{
	struct pageset *found = &atomic->track.found;

	for (uint64_t page = pageset_next(found, 0); page != UINT64_MAX; page = pageset_next(found, page + 1))
		if (!atomic_is_own(atomic->store, page) && diff_size(atomic, page) == 0 &&
		    os->advise(atomic->store->base + page * LENGTH_PAGE, LENGTH_PAGE, OS_DROP) == 0)
			pageset_remove(found, page);
}

static bool is_over_budget(const struct atomic *atomic)
{
	return max_u64(atomic->kept_pages, atomic->private_pages) > 2 * atomic->keep_max;
}

bool atomic_keeps_too_much(const struct atomic *atomic)
{
	return !atomic->is_unapplied && is_over_budget(atomic);
}

void atomic_keep_less(struct atomic *atomic)
{
	if (track_find(&atomic->track, true))
		return;
	if (!atomic->track.drops_unchanged)
		drop_surplus(atomic);
	else if (os->page_size() == LENGTH_PAGE)
		drop_unchanged(atomic);
	atomic->private_pages = 0;
}

/* The found pages are committed: they are kept ones now. */
static void keep_found(struct atomic *atomic)
{
	struct pageset *found = &atomic->track.found;

	atomic->private_pages = 0;
	for (uint64_t page = pageset_next(found, 0); page != UINT64_MAX; page = pageset_next(found, page)) {
		atomic->private_pages++;
		track_settled(&atomic->track, page);
		if (!atomic->track.drops_unchanged && pageset_add(&atomic->kept, page, page + 1))
			store_relaxed(&atomic->kept_pages, atomic->kept_pages + 1);
	}
}

/* ---------------------------------------------------------------- prepare */

static void begin_record(struct atomic *atomic)
{
	record_begin(&atomic->record, atomic->buffer, atomic_record_max);
	/* J6: not what it is when the record is written, which may not be synced */
	record_header(&atomic->record)->file_size = atomic->file_size;
}

/* Pages [from, to) were found and are unchanged: only read, or written with what was there. Those that are private
 * copies are kept, or dropped; nothing is to be done for the others. */
static void settle_unchanged(struct atomic *atomic, uint64_t from, uint64_t to)
{
	uint64_t ratio = store_page_ratio();
	uint8_t is_private[UNCHANGED_RUN];

	if (from == to || ratio != 1)
		return;
	if (track_check_pagemap(&atomic->track) ||
	    os->private_pages(atomic->track.pagemap_fd, (uintptr_t)atomic->store->base + from * LENGTH_PAGE,
	                      (unsigned)(to - from), is_private))
		return;
	for (uint64_t page = from; page < to; page++) {
		if (!is_private[page - from])
			track_settled(&atomic->track, page);
		else if (atomic->track.drops_unchanged &&
		         os->advise(atomic->store->base + page * LENGTH_PAGE, LENGTH_PAGE, OS_DROP) == 0)
			track_settled(&atomic->track, page);
	}
}

/* Compare the found pages from *page on, until the record is full. 1: it is, 0: all were compared, or -errno. */
static int compare_from(struct atomic *atomic, uint64_t *page)
{
	struct pageset *found = &atomic->track.found;
	uint64_t from = 0, to = 0; /* the last run of unchanged ones */
	int r = 0;

	for (; *page != UINT64_MAX; *page = pageset_next(found, *page + 1)) {
		r = atomic_is_own(atomic->store, *page) ? 0 : diff_page(atomic, *page);
		if (r < 0 || r == DIFF_FULL)
			break;
		/* a large commit compares its first pages twice */
		if (*page >= atomic->counted) {
			count(&atomic->pages_found, 1);
			count(&atomic->pages_changed, (uint64_t)r);
			atomic->counted = *page + 1;
		}
		if (r)
			continue;
		if (*page != to || to - from == UNCHANGED_RUN) {
			settle_unchanged(atomic, from, to);
			from = *page;
		}
		to = *page + 1;
	}
	settle_unchanged(atomic, from, to);
	return r == DIFF_FULL ? 1 : r < 0 ? r : 0;
}

int atomic_prepare(struct atomic *atomic, bool *changed)
{
	struct tally_own own;
	uint64_t page, len;
	int r = track_find(&atomic->track, is_surplus(atomic));

	if (r)
		return r;
	atomic->file_size = load_relaxed(&atomic->store->size);
	drop_surplus(atomic);
	begin_record(atomic);
	atomic->counted = 0;
	page = pageset_next(&atomic->track.found, 0);
	tally_own_begin(&atomic->track.tally, &own);
	r = compare_from(atomic, &page);
	tally_own_end(&atomic->track.tally, &own);
	if (r < 0)
		return r;
	atomic->is_large = r == 1;
	*changed = atomic->record.entries != 0;
	if (!*changed)
		keep_found(atomic);
	if (!*changed || atomic->is_large)
		return 0;
	len = round_up(atomic->record.used, RECORD_ALIGN);
	atomic->grows = journal_plan_growth(&atomic->journal, len, len);
	return 0;
}

/* ---------------------------------------------------------------- write */

/* `r` of a write to a journal that was to grow before it: where it finds no room, what kept the journal small says why. */
static int tell_why(int r, int grown)
{
	return r == -ENOSPC && grown ? grown : r;
}

int atomic_write(struct atomic *atomic)
{
	uint64_t position;
	int grown = atomic->grows ? journal_grow(&atomic->journal) : 0;
	int r = grown;

	/* a journal that can't grow is slower, or too small, which the next call says */
	if (r != -EIO)
		r = journal_write(&atomic->journal, &atomic->record, RECORD_COMMIT, 0, 0, &position);
	if (r)
		return tell_why(r, grown);
	journal_committed(&atomic->journal);
	keep_found(atomic);
	atomic->chain_len = 0;
	atomic->is_unapplied = true;
	count(&atomic->commits, 1);
	return 0;
}

/* Bytes of all records of the chain, and of each at most. */
static int chain_size(struct atomic *atomic, uint64_t *total, uint64_t *records)
{
	struct pageset *found = &atomic->track.found;
	uint64_t bytes = 0;

	for (uint64_t page = pageset_next(found, 0); page != UINT64_MAX; page = pageset_next(found, page + 1)) {
		int64_t size = atomic_is_own(atomic->store, page) ? 0 : diff_size(atomic, page);

		if (size < 0)
			return (int)size;
		bytes += (uint64_t)size;
	}
	/* a part ends where a page does not fit any more */
	*records = bytes / (atomic_record_max - 2 * LENGTH_PAGE) + 2;
	*total = bytes + *records * 2 * LENGTH_PAGE;
	return 0;
}

static int make_chain(struct atomic *atomic, uint64_t records)
{
	uint64_t need = round_up(records * sizeof(*atomic->chain), os->page_size());
	void *memory;
	int r;

	atomic->chain_len = 0;
	if (need <= atomic->chain_room)
		return 0;
	r = os->reserve_memory(need, &memory);
	if (!r)
		r = os->protect(memory, need, true, true);
	if (r)
		return r;
	if (atomic->chain)
		os->unmap(atomic->chain, atomic->chain_room);
	atomic->chain = memory;
	atomic->chain_room = need;
	return 0;
}

/* Write the parts and the record that closes the chain. J2: each is on the device before the next begins. */
static int write_chain(struct atomic *atomic, uint64_t records)
{
	struct record_rec *header = record_header(&atomic->record);
	uint64_t page = pageset_next(&atomic->track.found, 0), first = 0;
	uint32_t crc = 0;

	for (int full = 1; full;) {
		struct chain *link = &atomic->chain[atomic->chain_len];
		int r;

		if (atomic->chain_len == records)
			return -EBUSY; /* more than was counted: somebody wrote into the heap meanwhile */
		begin_record(atomic);
		full = compare_from(atomic, &page);
		if (full < 0)
			return full;
		r = journal_write(&atomic->journal, &atomic->record, full ? RECORD_PART : RECORD_COMMIT, first,
		                  full ? 0 : crc, &link->position);
		if (r)
			return r;
		link->len = header->len;
		atomic->chain_len++;
		if (!first)
			first = header->sequence;
		crc = crc32c_extend(crc, &header->checksum, sizeof(header->checksum));
	}
	return 0;
}

int atomic_write_large(struct atomic *atomic)
{
	uint64_t total = 0, records = 0;
	int r = chain_size(atomic, &total, &records), grown = 0;

	if (!r)
		r = make_chain(atomic, records);
	if (r)
		return r;
	if (journal_plan_growth(&atomic->journal, total, atomic_record_max))
		grown = journal_grow(&atomic->journal);
	if (grown == -EIO)
		return grown;
	r = write_chain(atomic, records);
	if (r) {
		journal_abandon(&atomic->journal);
		return tell_why(r, grown);
	}
	journal_committed(&atomic->journal);
	keep_found(atomic);
	atomic->is_unapplied = true;
	count(&atomic->commits, 1);
	return 0;
}

/* ---------------------------------------------------------------- apply */

/* C2: what is applied comes from the journal, whose records passed through the buffer. */
static int apply_chain(struct atomic *atomic, int fd)
{
	const struct record_rec *header = record_header(&atomic->record);

	for (unsigned i = 0; i < atomic->chain_len; i++) {
		const struct chain *link = &atomic->chain[i];
		ssize_t n = os->pread_full(fd, atomic->buffer, link->len, link->position);
		int r;

		if (n != (ssize_t)link->len || record_len(header, link->len) != link->len || !record_is_valid(header))
			return n < 0 ? (int)n : -EIO;
		r = place_write(&atomic->place, fd, header);
		if (r)
			return r;
	}
	return 0;
}

static int apply(struct atomic *atomic)
{
	int fd = store_borrow(atomic->store);
	int r = fd;

	if (fd >= 0)
		r = atomic->chain_len ? apply_chain(atomic, fd)
		                      : place_write(&atomic->place, fd, record_header(&atomic->record));
	store_give_back(atomic->store, fd);
	return r;
}

int atomic_catch_up(struct atomic *atomic)
{
	int r;

	if (journal_is_poisoned(&atomic->journal))
		return -EIO;
	if (!atomic->is_unapplied)
		return 0;
	r = apply(atomic);
	if (r == -EIO)
		return journal_poison(&atomic->journal, EIO);
	if (r)
		return r;
	atomic->is_unapplied = false;
	journal_applied(&atomic->journal);
	return 0;
}

bool atomic_may_apply_aside(const struct atomic *atomic)
{
	return atomic->is_unapplied && !is_over_budget(atomic) &&
	       (atomic->chain_len || atomic->record.entries >= LONG_FROM);
}

void atomic_apply(struct atomic *atomic)
{
	atomic_catch_up(atomic);
	track_rest(&atomic->track);
}

int atomic_drop_changes(struct atomic *atomic)
{
	struct store *store = atomic->store;
	int r = os->advise(store->base, round_up(store->size, os->page_size()), OS_DROP);

	if (r)
		return r;
	track_dropped(&atomic->track);
	pageset_clear(&atomic->kept);
	store_relaxed(&atomic->kept_pages, 0);
	count(&atomic->rollbacks, 1);
	return 0;
}
