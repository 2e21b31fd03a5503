/* SPDX-License-Identifier: Apache-2.0 */
#include "heap.h"

#include "../base/status.h"
#include "backing.h"
#include "directory.h"
#include "giveback.h"
#include "owner.h"
#include "recover.h"
#include "segment.h"

#include <errno.h>
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
	void *units, *segments;
	int r;

	heap->segments_max = heap->store.reserved >> SEGMENT_SHIFT;
	r = os->reserve_memory(round_up(heap->segments_max * SEGMENT_UNITS * sizeof(struct unit), page), &units);
	if (!r) {
		heap->units = units;
		r = os->reserve_memory(round_up(heap->segments_max * sizeof(struct segment), page), &segments);
	}
	if (!r) {
		heap->segments = segments;
		r = descriptors_cover(heap, (heap->store.size + SEGMENT_SIZE - 1) >> SEGMENT_SHIFT);
	}
	return r ? fail(-r, "reserving memory for the heap's descriptors:") : 0;
}

/* The truth about a file that ends before what it says is used can't be trusted. */
static int check_length(struct heap *heap)
{
	uint64_t last = directory_last(heap);
	uint64_t end = backing_used_end(heap, last);

	/* the last segments may be free, or parts of a huge object: its head tells */
	while (end == 0 && last > 0)
		end = backing_used_end(heap, --last);
	if (end <= heap->store.size)
		return 0;
	return fail(EBADMSG, "the file was cut: it ends at %llu and the heap uses it up to %llu",
	            (unsigned long long)heap->store.size, (unsigned long long)end);
}

/* What comes after the file is open, locked and mapped. */
static int take_into_use(struct heap *heap)
{
	struct store *store = &heap->store;

	if (make_tables(heap) || directory_open(heap))
		return -1;
	if (store->is_unclean && recover_heap(heap))
		return -1;
	if (check_length(heap))
		return -1;
	if (store->read_only)
		return 0;
	if (!store->created && (store->is_moved || store_has_lost_blocks(store)) && backing_restore(heap))
		return -1;
	if (store_mark_dirty(store))
		return -1;
	store_record_blocks(store);
	return 0;
}

static int judge(struct store *store, const struct store_request *request)
{
	if (store->created)
		return 0;
	if (store->size < HEAP_MIN_SIZE)
		return fail(EBADMSG, "the file was cut to %llu bytes", (unsigned long long)store->size);
	store->is_ragged = store->size % UNIT_SIZE != 0;
	store->size = round_down(store->size, UNIT_SIZE);
	store_judge(store);
	if (!store->is_unclean)
		return 0;
	if (!request->recover)
		return fail(EUCLEAN, "the heap was in use at a power cut, or copied while in use: open it with "
		                     "FM_RECOVER (or FMALLOC_RECOVER=1) to check and repair it, and trace from "
		                     "its roots before writing");
	if (request->read_only)
		return fail(EUCLEAN, "the heap needs repair, which a read-only opening can't do");
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
	if (!heap->store.created &&
	    store_map(&heap->store, request->fixed, request->address_space, request->max_size))
		goto close;
	if (take_into_use(heap))
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

int heap_close(struct heap *heap)
{
	int r = 0, saved;

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
	r = heap->rests ? store_sync(&heap->store) : store_mark_clean(&heap->store);
	saved = errno;
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

	if (!heap_may_write(heap) || !owner_try_membership())
		return 0;
	/* exit() in a signal handler may have interrupted the holder */
	if (pthread_mutex_trylock(&heap->lock)) {
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
	heap->is_scanned = heap->rests = false;
	heap->covered = heap->free_hint = heap->examine_cursor = heap->buckets_used = 0;
	memset(heap->directory_segment, 0, sizeof(heap->directory_segment));
	memset(heap->bucket, 0, sizeof(heap->bucket));
	memset(heap->unowned, 0, sizeof(heap->unowned));
	heap->caches = NULL;
}

int heap_reopen(struct heap *heap, int fd)
{
	if (store_reopen(&heap->store, fd))
		return -1;
	renew_locks(heap);
	forget_derived(heap);
	if (make_tables(heap) || directory_open(heap) || check_length(heap) || store_mark_dirty(&heap->store))
		return -1;
	heap->pub.fd = heap->store.fd;
	return 0;
}

int heap_detach(struct heap *heap)
{
	if (store_detach(&heap->store))
		return -1;
	renew_locks(heap);
	heap->pub.fd = -1;
	heap->is_detached = true;
	return 0;
}
