/* SPDX-License-Identifier: Apache-2.0 */
#include "commit.h"

#include "../base/status.h"
#include "../store/atomic.h"
#include "directory.h"

#include <errno.h>

static int tell(int r, const char *what)
{
	switch (r) {
	case 0:
		return 0;
	case -EIO:
		return fail(EIO, "%s: the device failed; the heap can be read, and reopening it tells what the last "
		                 "commit is", what);
	case -ECANCELED:
		return fail(ECANCELED, "%s: fm_abort was called; fm_rollback first", what);
	default:
		return fail(-r, "%s failed, and can be tried again:", what);
	}
}

/* ---------------------------------------------------------------- sections */

/* The thread's cache, which knows its section; NULL if it has none. */
static struct tcache *cache_of(struct heap *heap)
{
	return thread_current->cache[heap->slot];
}

bool heap_is_inside(struct heap *heap)
{
	struct tcache *tcache = cache_of(heap);

	return tcache && tcache->section_heap == heap && tcache->section_serial == heap->serial &&
	       tcache->section_depth > 0;
}

int heap_begin(struct heap *heap)
{
	struct tcache *tcache;

	if (heap_is_inside(heap)) {
		cache_of(heap)->section_depth++;
		return 0;
	}
	if (journal_is_poisoned(&heap->store.atomic->journal))
		return tell(-EIO, "fm_begin");
	gate_enter(&heap->gate);
	tcache = tcache_attach(heap);
	if (!tcache) {
		gate_leave(&heap->gate, false);
		return fail(ENOMEM, "no memory for the thread's state in the heap, or the thread is at its end");
	}
	tcache->section_heap = heap;
	tcache->section_serial = heap->serial;
	tcache->section_depth = 1;
	return 0;
}

static int leave(struct heap *heap, bool is_abort)
{
	struct tcache *tcache = cache_of(heap);

	if (!heap_is_inside(heap))
		return fail(EINVAL, "the thread is in no section of the heap: fm_begin is missing");
	if (!is_abort && --tcache->section_depth > 0)
		return 0;
	tcache->section_depth = 0;
	tcache->section_heap = NULL;
	gate_leave(&heap->gate, is_abort);
	return 0;
}

int heap_end(struct heap *heap)
{
	return leave(heap, false);
}

int heap_abort(struct heap *heap)
{
	return leave(heap, true);
}

void heap_section_abandoned(struct heap *heap)
{
	gate_leave(&heap->gate, true);
}

/* ---------------------------------------------------------------- commit */

/* Nobody is inside a section, and nobody joins, leaves or takes a slow path. */
static void begin_pause(struct heap *heap)
{
	gate_close(&heap->gate);
	owner_lock_membership();
	heap_lock(heap);
}

static void end_pause(struct heap *heap)
{
	heap_unlock(heap);
	owner_unlock_membership();
	gate_open(&heap->gate);
}

/* A plan of the journal names segments: their descriptors and states are looked at like all others. */
static int prepare(struct heap *heap, bool *changed)
{
	struct atomic *atomic = heap->store.atomic;
	int r = heap->gate.is_canceled ? -ECANCELED : atomic_prepare(atomic, changed);

	if (!r && *changed && atomic->is_large) {
		r = atomic_write_large(atomic);
		*changed = false;
	}
	return r;
}

/* As committer: commit for all who have asked when the pause begins. */
static void lead(struct heap *heap)
{
	struct atomic *atomic = heap->store.atomic;
	struct gate_waiter *group;
	bool changed = false;
	int r = atomic_catch_up(atomic);

	gate_gather(&heap->gate);
	begin_pause(heap);
	group = gate_group(&heap->gate);
	if (!r)
		r = prepare(heap, &changed);
	end_pause(heap);
	if (!r && changed)
		r = atomic_write(atomic);
	/* whatever failed so: the handle is poisoned, as the contract says of EIO */
	if (r == -EIO)
		journal_poison(&atomic->journal, EIO);
	gate_serve(&heap->gate, group, r);
	/* it is durable: bringing it to its place is nobody's to wait for but the next committer's */
	if (!r && atomic_may_apply_aside(atomic) && applier_hand_over(heap))
		return;
	if (!r)
		atomic_apply(atomic);
	if (!r && atomic_keeps_too_much(atomic)) {
		begin_pause(heap);
		atomic_keep_less(atomic);
		end_pause(heap);
	}
	gate_give(&heap->gate);
}

int heap_commit(struct heap *heap)
{
	struct gate_waiter waiter;

	if (heap_is_inside(heap))
		return fail(EDEADLK, "fm_commit inside the thread's own section: fm_end first");
	if (gate_ask(&heap->gate, &waiter))
		lead(heap);
	if (waiter.result == -EPROTO)
		return fail(EPROTO, "fm_commit: the page at offset %llu was changed and not declared by fm_will_write",
		            (unsigned long long)heap->store.atomic->track.undeclared);
	if (waiter.result == 0)
		count(&heap->commit_calls, 1);
	return tell(waiter.result, "fm_commit");
}

/* ---------------------------------------------------------------- rollback */

/* In the pause. Half of the changes are nothing that may be committed: after a failure nothing is. */
static int go_back(struct heap *heap)
{
	struct atomic *atomic = heap->store.atomic;
	int r = atomic_drop_changes(atomic);

	if (!r)
		r = heap_reset(heap);
	if (r)
		journal_poison(&atomic->journal, EIO);
	else
		heap->gate.is_canceled = false;
	return r;
}

int heap_rollback(struct heap *heap)
{
	struct atomic *atomic = heap->store.atomic;
	int r, failed = 0;

	if (heap_is_inside(heap))
		return fail(EDEADLK, "fm_rollback inside the thread's own section: fm_abort first");
	gate_take(&heap->gate);
	r = atomic_catch_up(atomic);
	if (r == -EIO)
		journal_poison(&atomic->journal, EIO);
	begin_pause(heap);
	if (!r)
		failed = go_back(heap);
	end_pause(heap);
	gate_give(&heap->gate);
	if (failed)
		return fail(EIO, "fm_rollback could not forget all changes (%s): nothing is committed any more, and reopening "
		                 "the heap finds its last commit", status_describe(-failed));
	return tell(r, "fm_rollback");
}

/* ---------------------------------------------------------------- snapshots */

int heap_snapshot(struct heap *heap, const char *path)
{
	struct atomic *atomic = heap->store.atomic;
	struct snapshot snapshot;
	int r;

	/* the committer may be waiting for our section */
	if (heap_is_inside(heap))
		return fail(EDEADLK, "fm_snapshot inside the thread's own section: fm_end first");
	if (journal_is_poisoned(&atomic->journal))
		return tell(-EIO, "fm_snapshot");
	/* two at a time would share the set of pages; the second waits */
	pthread_mutex_lock(&heap->snapshot_lock);
	gate_take(&heap->gate);
	heap_lock(heap); /* the file does not grow */
	r = snapshot_begin(&snapshot, atomic, path);
	heap_unlock(heap);
	gate_give(&heap->gate);
	if (!r)
		r = snapshot_copy(&snapshot, atomic);
	if (!r) {
		gate_take(&heap->gate);
		heap_lock(heap);
		r = snapshot_catch_up(&snapshot, atomic);
		heap_unlock(heap);
		gate_give(&heap->gate);
	}
	if (!r)
		r = snapshot_publish(&snapshot, atomic);
	/* the committer looks at the set */
	gate_take(&heap->gate);
	snapshot_drop(&snapshot, atomic);
	gate_give(&heap->gate);
	pthread_mutex_unlock(&heap->snapshot_lock);
	return r;
}

/* ---------------------------------------------------------------- statistics */

void heap_commit_stats(struct heap *heap, struct fm_statistics *stats)
{
	const struct atomic *atomic = heap->store.atomic;
	const struct journal *journal;

	stats->is_atomic = heap->store.is_atomic;
	if (!atomic) {
		stats->generation = heap->store.super.rec.generation;
		return;
	}
	journal = &atomic->journal;
	stats->generation = journal->generation;
	stats->commits = load_relaxed(&atomic->commits);
	stats->commit_calls = load_relaxed(&heap->commit_calls);
	stats->rollbacks = load_relaxed(&atomic->rollbacks);
	stats->pages_found = load_relaxed(&atomic->pages_found);
	stats->pages_changed = load_relaxed(&atomic->pages_changed);
	stats->journal_bytes = load_relaxed(&journal->bytes);
	stats->applied_bytes = load_relaxed(&atomic->place.bytes);
	stats->journal_size = load_relaxed(&journal->capacity);
	stats->growth_flushes = load_relaxed(&journal->growth_flushes);
	stats->checkpoint_flushes = load_relaxed(&journal->checkpoint_flushes);
	stats->flushes = load_relaxed(&journal->flushes);
	stats->checkpoints = load_relaxed(&journal->checkpoints);
	stats->waits = load_relaxed(&journal->waits);
	stats->kept_bytes = load_relaxed(&atomic->kept_pages) * LENGTH_PAGE;
	stats->tracking = atomic->track.way->kind;
}

/* ---------------------------------------------------------------- declared writes */

int heap_will_write(struct heap *heap, const void *addr, size_t len)
{
	struct track *track = &heap->store.atomic->track;
	uint64_t off = (uint64_t)((const uint8_t *)addr - heap->store.base);
	int r;

	if (off >= heap_size(heap) || len > heap_size(heap) - off)
		return fail(EINVAL, "the %zu bytes at %p do not lie in this heap", len, addr);
	if (len == 0)
		return 0;
	/* inside, the pause waits for us; outside, a commit would find half of what is done here. Not by the gate: a thread
	 * that holds a lock which sections take may declare */
	if (heap_is_inside(heap))
		r = track->way->will_write(track, off, off + len);
	else
		r = track_will_write_beside(track, off, off + len);
	return r ? fail(-r, "preparing %zu bytes for writing:", len) : 0;
}
