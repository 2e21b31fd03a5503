/* SPDX-License-Identifier: Apache-2.0 */
#include "heap.h"

#include "../base/status.h"
#include "../store/atomic.h"
#include "backing.h"
#include "commit.h"
#include "directory.h"
#include "giveback.h"
#include "owner.h"
#include "recover.h"
#include "segment.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Free space within the file is given back at closing where it comes in pieces of at least this size: a
 * punched hole costs up to 400 us, and as much again when it is filled. */
#define PUNCH_AT_LEAST (1 * MIB)

void heap_lock(struct heap *heap)
{
	int state;

	/* fallocate and others are cancellation points; malloc must be none */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	pthread_mutex_lock(&heap->lock);
	heap->cancel_state = state;
}

void heap_unlock(struct heap *heap)
{
	int state = heap->cancel_state;

	pthread_mutex_unlock(&heap->lock);
	pthread_setcancelstate(state, NULL);
}

int heap_is_usable(const struct heap *heap, enum fm_misuse_kind *kind)
{
	if (!load_acquire(&heap->is_open)) {
		*kind = FM_CLOSED_HEAP;
		return fail(EBADF, "the heap is not open");
	}
	if (!load_relaxed(heap->alive)) {
		*kind = FM_FORKED_CHILD;
		return fail(EPERM, "this process is a fork of the one that opened the heap");
	}
	return 0;
}

static void free_tables(struct heap *heap)
{
	uint64_t page = os->page_size();

	if (heap->units)
		os->unmap(heap->units, round_up(heap->segments_max * SEGMENT_UNITS * sizeof(struct unit), page));
	if (heap->segments)
		os->unmap(heap->segments, round_up(heap->segments_max * sizeof(struct segment), page));
	heap->units = NULL;
	heap->segments = NULL;
}

/* Address space for the descriptors of the whole reservation; accessible as far as the file goes. */
static int make_tables(struct heap *heap)
{
	uint64_t page = os->page_size();
	uint64_t units_len, segments_len;
	void *tables;
	int r;

	heap->segments_max = heap->store.reserved >> SEGMENT_SHIFT;
	units_len = round_up(heap->segments_max * SEGMENT_UNITS * sizeof(struct unit), page);
	segments_len = round_up(heap->segments_max * sizeof(struct segment), page);
	r = os->reserve_memory(units_len + segments_len, &tables);
	if (!r) {
		heap->units = tables;
		heap->segments = (struct segment *)(void *)((uint8_t *)tables + units_len);
		r = descriptors_cover(heap, (heap->store.size + SEGMENT_SIZE - 1) >> SEGMENT_SHIFT);
	}
	return r ? fail(-r, "reserving memory for the heap's descriptors:") : 0;
}

/* Where the last used segment's last used unit ends, by the words. */
static uint64_t used_end(struct heap *heap)
{
	uint64_t last = directory_last(heap);
	uint64_t end = backing_used_end(heap, last);

	/* the last segments may be free, or parts of a huge object: its head tells */
	while (end == 0 && last > 0)
		end = backing_used_end(heap, --last);
	return end;
}

/* The truth about a file that ends before what it says is used can't be trusted. */
static int check_length(struct heap *heap)
{
	uint64_t end = used_end(heap);

	if (end > heap->store.size)
		return fail(EBADMSG, "the file was cut: it ends at %llu and the heap uses it up to %llu",
		            (unsigned long long)heap->store.size, (unsigned long long)end);
	if (end > (directory_last(heap) + 1) << SEGMENT_SHIFT)
		return fail(EBADMSG, "the heap is damaged: its last segment is %llu, and it uses the file up to %llu",
		            (unsigned long long)directory_last(heap), (unsigned long long)end);
	return 0;
}

/* What comes after the file is open, locked and mapped. */
static int take_into_use(struct heap *heap)
{
	struct store *store = &heap->store;

	if (make_tables(heap) || directory_open(heap))
		return -1;
	if (store->is_atomic && directory_judge_journal(heap))
		return -1;
	if (store->is_unclean && recover_heap(heap))
		return -1;
	if (check_length(heap))
		return -1;
	if (store->read_only)
		return 0;
	if (!store->created && (store->is_moved || store_has_lost_blocks(store)) && backing_restore(heap))
		return -1;
	if (store->is_atomic)
		return 0;
	if (store_mark_dirty(store))
		return -1;
	store_record_blocks(store);
	return 0;
}

static bool recover_by_environment(void)
{
	const char *value = getenv("FMALLOC_RECOVER");

	return value && strcmp(value, "1") == 0;
}

static int judge(struct store *store, const struct store_request *request)
{
	if (store->created)
		return 0;
	if (store->size < HEAP_MIN_SIZE)
		return fail(EBADMSG, "the file was cut to %llu bytes", (unsigned long long)store->size);
	store->is_ragged = store->size % UNIT_SIZE != 0;
	store->size = round_down(store->size, UNIT_SIZE);
	if (store_judge(store))
		return -1;
	/* of an atomic heap a crash leaves nothing unclean that its journal does not mend */
	if (store->is_atomic)
		store->is_unclean = false;
	if (!store->is_unclean)
		return 0;
	if (!request->recover && !recover_by_environment())
		return fail(EUCLEAN, "the heap was in use at a power cut, or copied while in use: open it with "
		                     "FM_RECOVER (or FMALLOC_RECOVER=1) to check and repair it, and trace from "
		                     "its roots before writing");
	if (request->read_only)
		return fail(EUCLEAN, "the heap needs repair, which a read-only opening can't do");
	return 0;
}

/* Before an atomic heap is mapped: the file is at its last commit, and a new generation may begin. */
static int bring_to_commit(struct store *store, const struct store_request *request)
{
	if (!store->created && !request->read_only) {
		/* the entry may be known to this boot's cache alone */
		int r = request->path && store->super.rec.generation <= 1 ? store_sync_folder(request->path) : 0;

		if (r)
			return fail(-r, "syncing the folder of %s:", request->path);
		if (recover_atomic(store))
			return -1;
	}
	store_reserve_journal(store);
	return 0;
}

static int begin_commits(struct heap *heap, const struct store_request *request)
{
	gate_init(&heap->gate);
	applier_init(&heap->applier, !request->no_thread);
	pthread_mutex_init(&heap->snapshot_lock, NULL);
	if (atomic_open(&heap->store, request, request->track))
		return -1;
	for (unsigned i = 0; i < DIRECTORY_EXTENTS && heap->directory_segment[i]; i++)
		store_metadata(&heap->store, heap->directory_segment[i] << SEGMENT_SHIFT, SEGMENT_SIZE);
	return 0;
}

int heap_open(struct heap *heap, const struct store_request *request, const uint64_t *alive)
{
	int saved;

	classes_init();
	pthread_mutex_init(&heap->lock, NULL);
	pthread_mutex_init(&heap->roots_lock, NULL);
	if (store_open_file(&heap->store, request))
		return -1;
	heap->read_only = request->read_only;
	heap->alive = alive;
	if (judge(&heap->store, request))
		goto close;
	if (!heap->store.created && heap->store.is_atomic != request->atomic &&
	    store_convert(&heap->store, request->atomic))
		goto close;
	if (heap->store.is_atomic && bring_to_commit(&heap->store, request))
		goto close;
	if (!heap->store.created && store_map(&heap->store, request, alive))
		goto close;
	if (heap->store.is_atomic && request->read_only && recover_into_memory(&heap->store))
		goto unmap;
	if (take_into_use(heap) || (heap->store.is_atomic && !request->read_only && begin_commits(heap, request)))
		goto unmap;
	heap->pub.fd = heap->store.fd;
	heap->pub.mem = heap->store.base;
	heap->pub.s = (struct fm_super *)(void *)heap->store.base;
	store_release(&heap->is_open, 1);
	return 0;

unmap:
	saved = errno;
	free_tables(heap);
	store_unmap(&heap->store);
	errno = saved;
close:
	store_close_file(&heap->store);
	return -1;
}

/* The end of an atomic heap: what was committed is at its place, and space that it does not use is given back. */
static int close_atomic(struct heap *heap)
{
	struct atomic *atomic = heap->store.atomic;
	int r = atomic->commits_at_close ? heap_commit(heap) : 0;
	int saved = errno;
	int finished;

	gate_take(&heap->gate);
	applier_destroy(&heap->applier);
	finished = atomic_finish(atomic);
	if (finished)
		saved = errno;
	owner_lock_membership();
	heap_lock(heap);
	tcache_discard_all(heap);
	/* the blocks of what only dropped changes used, and of what the commit freed */
	if (!finished && atomic_drop_changes(atomic) == 0 && heap_reset(heap) == 0) {
		directory_scan(heap);
		if (journal_shrink(&atomic->journal, used_end(heap)) == 0)
			store_reserve_journal(&heap->store);
		giveback_tail(heap);
		giveback_now(heap, 0, PUNCH_AT_LEAST);
	}
	if (!finished) {
		finished = atomic_mark_clean(atomic);
		saved = finished ? errno : saved;
	}
	store_release(&heap->is_open, 0);
	heap_unlock(heap);
	owner_unlock_membership();
	gate_give(&heap->gate);
	atomic_close(&heap->store);
	gate_destroy(&heap->gate);
	pthread_mutex_destroy(&heap->snapshot_lock);
	errno = saved;
	return r || finished ? -1 : 0;
}

static int close_live(struct heap *heap)
{
	owner_lock_membership();
	heap_lock(heap);
	tcache_leave_all(heap);
	if (heap_may_write(heap)) {
		giveback_tail(heap);
		giveback_now(heap, 0, PUNCH_AT_LEAST);
		segment_note_full(heap);
	}
	store_release(&heap->is_open, 0);
	heap_unlock(heap);
	owner_unlock_membership();
	/* a heap at rest is marked clean already, but its objects may have been stored to since */
	return heap->rests ? store_sync(&heap->store) : store_mark_clean(&heap->store);
}

int heap_close(struct heap *heap)
{
	int r = heap->store.atomic ? close_atomic(heap) : close_live(heap);
	int saved = errno;

	heap->pub.mem = NULL;
	heap->pub.fd = -1;
	free_tables(heap);
	store_unmap(&heap->store);
	store_close_file(&heap->store);
	pthread_mutex_destroy(&heap->lock);
	pthread_mutex_destroy(&heap->roots_lock);
	errno = saved;
	return r;
}

int heap_rest(struct heap *heap)
{
	int r;

	/* what an atomic heap has not committed is dropped, whatever ends the process */
	if (heap->store.is_atomic || !heap_may_write(heap) || !owner_try_membership())
		return 0;
	/* exit() in a signal handler may have interrupted the holder */
	if (pthread_mutex_trylock(&heap->lock)) {
		owner_unlock_membership();
		return 0;
	}
	/* or a thread that has units in hand */
	if (owner_is_busy(heap)) {
		pthread_mutex_unlock(&heap->lock);
		owner_unlock_membership();
		return 0;
	}
	tcache_leave_all(heap);
	giveback_tail(heap);
	segment_note_full(heap);
	r = store_mark_clean(&heap->store);
	if (!r)
		store_relaxed(&heap->rests, true);
	pthread_mutex_unlock(&heap->lock);
	owner_unlock_membership();
	return r;
}

int heap_wake(struct heap *heap)
{
	int r = 0;

	heap_lock(heap);
	if (heap->rests) {
		r = store_mark_dirty(&heap->store);
		for (uint64_t s = 0; !r && s <= directory_last(heap) && s < heap->covered; s++) {
			uint64_t *word = directory_word(heap, s);

			/* as after examining: the hints hold no longer */
			if (heap->segments[s].state == SEG_EXAMINED && truth_load(word) & SEGMENT_FULL_HINT)
				truth_store(word, truth_load(word) & ~SEGMENT_FULL_HINT);
		}
		if (!r)
			store_relaxed(&heap->rests, false);
	}
	heap_unlock(heap);
	return r;
}

/* ---------------------------------------------------------------- in a forked child */

/* Other threads of the parent may have held them. */
static void renew_locks(struct heap *heap)
{
	pthread_mutex_init(&heap->lock, NULL);
	pthread_mutex_init(&heap->roots_lock, NULL);
}

/* Caches were wiped by the fork; descriptors and lists may have been caught in the middle of a change. */
static void forget_derived(struct heap *heap)
{
	free_tables(heap);
	heap->is_scanned = heap->rests = heap->is_copied = false;
	heap->covered = heap->free_hint = heap->examine_cursor = heap->buckets_used = heap->stale = 0;
	memset(heap->directory_segment, 0, sizeof(heap->directory_segment));
	memset(heap->bucket, 0, sizeof(heap->bucket));
	memset(heap->unowned, 0, sizeof(heap->unowned));
	heap->caches = NULL;
	heap->cache_count = 0;
}

/* After the store is the process's own. */
static int derive_again(struct heap *heap)
{
	renew_locks(heap);
	forget_derived(heap);
	heap->pub.fd = heap->store.fd;
	return make_tables(heap) || directory_open(heap) || check_length(heap) ? -1 : 0;
}

static void shorten_table(void *table, uint64_t len, uint64_t was)
{
	uint64_t page = os->page_size();

	if (table && round_up(len, page) < round_up(was, page))
		os->unmap((uint8_t *)table + round_up(len, page), round_up(was, page) - round_up(len, page));
}

/* What the descriptors may grow into is not needed any more, and a limit on address space may have been set. */
static void shorten_tables(struct heap *heap)
{
	uint64_t was = heap->segments_max;
	uint64_t keep = min_u64(was, round_up(heap->store.size, SEGMENT_SIZE) >> SEGMENT_SHIFT);

	shorten_table(heap->units, keep * SEGMENT_UNITS * sizeof(struct unit), was * SEGMENT_UNITS * sizeof(struct unit));
	shorten_table(heap->segments, keep * sizeof(struct segment), was * sizeof(struct segment));
	heap->segments_max = keep;
	heap->covered = min_u64(heap->covered, keep);
}

int heap_reopen(struct heap *heap, int fd)
{
	shorten_tables(heap);
	if (store_reopen(&heap->store, fd) || derive_again(heap))
		return -1;
	return store_mark_dirty(&heap->store);
}

int heap_adopt(struct heap *heap, void *memory, uint64_t len)
{
	shorten_tables(heap);
	return store_adopt(&heap->store, memory, len) ? -1 : derive_again(heap);
}

int heap_detach(struct heap *heap)
{
	shorten_tables(heap);
	if (store_detach(&heap->store))
		return -1;
	renew_locks(heap);
	heap->pub.fd = -1;
	heap->is_detached = true;
	return 0;
}
