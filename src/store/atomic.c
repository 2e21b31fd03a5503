/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening and closing an atomic heap.
 */
#include "atomic.h"

#include "../base/atomics.h"
#include "../base/status.h"

#include <errno.h>
#include <string.h>

#define JOURNAL_MAX (256 * MIB)

/* Of the memory that the process may use, for pages that are kept private. */
#define KEEP_SHARE 8

bool store_is_journal(const struct store *store, uint64_t segment_no)
{
	for (unsigned i = 0; i < store->reserved_extents; i++) {
		const struct extent_rec *e = &store->reserved_extent[i];

		if (segment_no >= e->off >> SEGMENT_SHIFT && segment_no < (e->off + e->len) >> SEGMENT_SHIFT)
			return true;
	}
	return false;
}

int store_read_super(struct store *store, int fd, struct super *super, enum super_verdict *verdict)
{
	int r;

	if (store->atomic)
		pthread_mutex_lock(&store->atomic->journal.super_lock);
	r = super_read(fd, store->size, super, verdict);
	if (store->atomic)
		pthread_mutex_unlock(&store->atomic->journal.super_lock);
	return r;
}

void store_reserve_journal(struct store *store)
{
	store->reserved_extents = 0;
	store->end = max_u64(store->end, store->size);
	for (unsigned i = 0; i < JOURNAL_EXTENTS && store->super.rec.journal[i].len; i++)
		if (store->super.rec.journal[i].off >= SEGMENT_SIZE)
			store->reserved_extent[store->reserved_extents++] = store->super.rec.journal[i];
}

/* All memory that commits need, so that they ask for none. */
static int make_memory(struct atomic *atomic)
{
	int r = os->reserve_memory(RECORD_MAX, &atomic->buffer);

	if (r)
		return r;
	r = os->protect(atomic->buffer, RECORD_MAX, true, true);
	if (!r)
		r = pageset_make(&atomic->kept, atomic->store->reserved / LENGTH_PAGE);
	if (r)
		os->unmap(atomic->buffer, RECORD_MAX);
	return r;
}

static void drop_memory(struct atomic *atomic)
{
	pageset_drop(&atomic->kept);
	os->unmap(atomic->buffer, RECORD_MAX);
	if (atomic->chain)
		os->unmap(atomic->chain, atomic->chain_room);
}

/* The committed version to compare with. Without address space for it each page is read. */
static void map_committed(struct atomic *atomic)
{
	struct store *store = atomic->store;
	void *view;

	if (os->reserve_file(store->fd, NULL, false, store->reserved, &view))
		return;
	if (os->protect(view, store->reserved, true, false) == 0)
		atomic->committed = view;
	else
		os->unmap(view, store->reserved);
}

int atomic_open(struct store *store, const struct store_request *request, const char *way)
{
	uint64_t memory = request->keep_max ? request->keep_max : os->memory_limit() / KEEP_SHARE;
	uint64_t limit = request->journal_max ? request->journal_max : JOURNAL_MAX;
	/* a limit that the reservation does not reach is none: the heap can't come so far */
	uint64_t floor = request->max_size < store->reserved ? request->max_size : 0;
	void *self;
	struct atomic *atomic;
	int r = os->reserve_memory(round_up(sizeof(*atomic), os->page_size()), &self);

	if (!r)
		r = os->protect(self, round_up(sizeof(*atomic), os->page_size()), true, true);
	if (r)
		return fail(-r, "memory for the state of commits:");
	atomic = self;
	atomic->store = store;
	atomic->line = request->sector ? request->sector : 64;
	atomic->keep_max = memory / LENGTH_PAGE;
	atomic->commits_at_close = request->commit_at_close;
	r = make_memory(atomic);
	if (r) {
		r = fail(-r, "memory for commits:");
		goto free_self;
	}
	if (track_open(&atomic->track, store, request->declared, way))
		goto free_memory;
	if (journal_open(&atomic->journal, store, limit, floor, !request->no_thread))
		goto close_track;
	map_committed(atomic);
	/* what is written again and is in no record must not be garbled */
	place_open(&atomic->place, store->fd, store->reserved, request->sector <= 64);
	atomic->journal.place = &atomic->place;
	store->atomic = atomic;
	store->declares = atomic->track.way->kind == TRACK_DECLARED;
	return 0;

close_track:
	track_close(&atomic->track);
free_memory:
	drop_memory(atomic);
free_self:
	os->unmap(self, round_up(sizeof(*atomic), os->page_size()));
	return -1;
}

int atomic_extended(struct store *store, uint64_t size)
{
	struct atomic *atomic = store->atomic;

	store->end = max_u64(store->end, size);
	store_release(&atomic->journal.must_sync, true);
	return track_extended(&atomic->track, store->size, size);
}

void store_declare_metadata(struct store *store, uint64_t off, uint64_t len)
{
	struct track *track = &store->atomic->track;

	/* where it can't be protected (vm.max_map_count) every commit looks at it */
	if (track->way->metadata(track, off, off + len))
		pageset_add(&track->always, off / LENGTH_PAGE, (off + len) / LENGTH_PAGE);
}

void store_declare_write(struct store *store, const void *addr, uint64_t len)
{
	struct track *track = &store->atomic->track;
	uint64_t off = (uint64_t)((const uint8_t *)addr - store->base);

	track->way->will_write(track, off, off + len);
}

static void set_clean(struct super_rec *rec, uint64_t oldest)
{
	rec->journal_oldest = oldest;
	rec->state = SUPER_CLEAN;
}

static int not_finished(int r)
{
	return r ? fail(-r, "the heap is at its last commit, but its journal could not be retired:") : 0;
}

int atomic_finish(struct atomic *atomic)
{
	int r = atomic_catch_up(atomic);

	checkpoint_stop(&atomic->journal);
	return not_finished(r ? r : journal_checkpoint(&atomic->journal));
}

int atomic_mark_clean(struct atomic *atomic)
{
	struct journal *journal = &atomic->journal;
	int r = journal_sync(journal, journal->fd); /* what was cut off and punched: the next commits compare with zeros there */

	if (!r && journal_is_poisoned(journal))
		r = -EIO;
	if (!r)
		r = journal_update_super(journal, set_clean, journal->oldest);
	return not_finished(r);
}

void atomic_close(struct store *store)
{
	struct atomic *atomic = store->atomic;

	if (!atomic)
		return;
	journal_close(&atomic->journal);
	track_close(&atomic->track);
	if (atomic->committed)
		os->unmap((void *)(uintptr_t)atomic->committed, store->reserved);
	place_close(&atomic->place);
	drop_memory(atomic);
	os->unmap(atomic, round_up(sizeof(*atomic), os->page_size()));
	store->atomic = NULL;
	store->declares = false;
}
