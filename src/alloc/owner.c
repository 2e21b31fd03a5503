/* SPDX-License-Identifier: Apache-2.0 */
#include "owner.h"

#include "commit.h"
#include "lists.h"
#include "pool.h"

#include <sched.h>
#include <string.h>

#define GENERATION_SHIFT 48
#define ADDRESS_MASK     ((UINT64_C(1) << GENERATION_SHIFT) - 1)

static struct thread thread_none; /* of a thread that has not called us yet */
static struct thread thread_left; /* of one whose key destructor has run */

__thread struct thread *thread_current __attribute__((tls_model("initial-exec"))) = &thread_none;

struct tcache tcache_none;

__thread struct tcache *thread_target __attribute__((tls_model("initial-exec"))) = &tcache_none;
__thread struct tcache *thread_recent __attribute__((tls_model("initial-exec"))) = &tcache_none;

/* Held while a cache joins or leaves a heap, and while a heap is closed: a thread at its end and a closing heap
 * meet here. Taken before heap->lock. */
static pthread_mutex_t membership = PTHREAD_MUTEX_INITIALIZER;

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool has_key;

/* ---------------------------------------------------------------- remote frees */

/* What stands in a slab's inbox_next for the head of an inbox. */
static uint32_t inbox_number(const struct heap *heap, uint64_t head)
{
	const struct unit *slab = (const struct unit *)(uintptr_t)(head & ADDRESS_MASK);

	return slab ? (uint32_t)unit_no_of(heap, slab) + 1 : 0;
}

/* The slab behind `slab` in an inbox, or NULL. */
static struct unit *inbox_next(const struct heap *heap, const struct unit *slab)
{
	return slab->inbox_next ? &heap->units[slab->inbox_next - 1] : NULL;
}

static bool inbox_push(const struct heap *heap, uint64_t owner, struct unit *slab)
{
	struct tcache *tcache = (struct tcache *)(uintptr_t)(owner & ADDRESS_MASK);
	uint64_t head = load_seq(&tcache->inbox);

	do {
		if (head >> GENERATION_SHIFT != owner >> GENERATION_SHIFT)
			return false;
		slab->inbox_next = inbox_number(heap, head);
	} while (!compare_exchange_seq(&tcache->inbox, &head,
	                               (owner & ~ADDRESS_MASK) | (uint64_t)(uintptr_t)slab));
	return true;
}

/* F4 and F5, with slab->queued set by the caller. */
static void notify_owner(struct heap *heap, struct unit *slab)
{
	for (;;) {
		uint64_t owner = load_seq(&slab->owner);

		if (owner == OWNER_NONE) {
			heap_lock(heap);
			if (load_seq(&slab->owner) == OWNER_NONE) {
				store_seq(&slab->queued, 0);
				slab_collect(heap, slab);
				heap_unlock(heap);
				return;
			}
			heap_unlock(heap);
		} else if (owner == 0) {
			/* The owner harvested our slot and released the slab before we came here. If the units
			 * are a slab again by now, one of its frees may have counted on our `queued`. */
			store_seq(&slab->queued, 0);
			if (load_seq(&slab->owner) == 0)
				return;
			fetch_or_seq(&slab->pending, ~UINT64_C(0));
			if (exchange_seq(&slab->queued, 1))
				return;
		} else if (inbox_push(heap, owner, slab)) {
			return;
		}
	}
}

int slab_free_remote(struct heap *heap, struct unit *slab, uint32_t slot)
{
	unsigned w = slot / 64;
	uint64_t bit = UINT64_C(1) << slot % 64;
	uint64_t *pair = slab_pair(slab, w);
	uint64_t pending;
	bool was_quick;

	if (!(truth_load(&pair[0]) & ~slab_joined(slab, w) & bit) || truth_set_bits(&pair[1], bit) & bit)
		return -1;
	pending = load_seq(&slab->pending);
	if (!(pending >> w & 1))
		pending = fetch_or_seq(&slab->pending, UINT64_C(1) << w);
	was_quick = load_seq(&slab->quick_owner) != OWNER_NONE;
	if (was_quick)
		store_seq(&slab->quick_owner, OWNER_NONE);
	if ((was_quick || pending == 0) && exchange_seq(&slab->queued, 1) == 0)
		notify_owner(heap, slab);
	return 0;
}

bool slab_free_at(struct heap *heap, struct unit *slab, uint64_t off)
{
	uint32_t slot = slab_slot_at(slab, off - (unit_no_of(heap, slab) << UNIT_SHIFT));

	return slot != UINT32_MAX && slab_free_remote(heap, slab, slot) == 0;
}

/* Take back what other threads freed in `slab`. */
static void harvest_own(struct tcache *tcache, struct unit *slab)
{
	uint64_t words;

	if (!slab->has_joined)
		store_seq(&slab->quick_owner, tcache->id);
	words = exchange_seq(&slab->pending, UINT64_C(0)) & slab_all_words(slab);
	slab_harvest(slab, words);
	if (slab->summary && (slab->alarm == ALARM_ALWAYS || slab->empty == slab_all_words(slab)))
		slab_changed(tcache, slab);
}

bool inbox_drain(struct tcache *tcache)
{
	uint64_t generation = tcache->id & ~ADDRESS_MASK;
	struct unit *slab, *next;

	if (load_seq(&tcache->inbox) == generation)
		return false;
	slab = (struct unit *)(uintptr_t)(exchange_seq(&tcache->inbox, generation) & ADDRESS_MASK);
	for (; slab; slab = next) {
		next = inbox_next(tcache->heap, slab);
		store_seq(&slab->queued, 0);
		/* a slab that was released and made again by somebody else since: its frees are theirs */
		if (load_seq(&slab->owner) == tcache->id)
			harvest_own(tcache, slab);
		else if (load_seq(&slab->pending) && exchange_seq(&slab->queued, 1) == 0)
			notify_owner(tcache->heap, slab);
	}
	kept_trim(tcache);
	return true;
}

/* ---------------------------------------------------------------- units without the lock */

/* is_busy before the look at is_copied, and is_copied before the look at is_busy, are a Dekker pair. */
void tcache_begin_units(struct tcache *tcache)
{
	struct heap *heap = tcache->heap;

	store_seq(&tcache->is_busy, true);
	while (unlikely(load_seq(&heap->is_copied))) {
		store_seq(&tcache->is_busy, false);
		heap_lock(heap);
		heap_unlock(heap);
		store_seq(&tcache->is_busy, true);
	}
}

void tcache_end_units(struct tcache *tcache)
{
	store_release(&tcache->is_busy, false); /* pairs with the load in owner_hold_units */
}

bool owner_is_busy(const struct heap *heap)
{
	for (const struct tcache *tcache = heap->caches; tcache; tcache = tcache->heap_next)
		if (load_seq(&tcache->is_busy))
			return true;
	return false;
}

void owner_hold_units(struct heap *heap)
{
	store_seq(&heap->is_copied, true);
	for (struct tcache *tcache = heap->caches; tcache; tcache = tcache->heap_next)
		while (load_seq(&tcache->is_busy))
			sched_yield();
}

void owner_release_units(struct heap *heap)
{
	store_seq(&heap->is_copied, false);
}

/* ---------------------------------------------------------------- coming and going */

static void thread_exit(void *arg)
{
	struct thread *thread = arg;

	if (thread_current != thread)
		return; /* a child: the parent's thread, wiped */
	for (unsigned i = 0; i < HEAPS_MAX; i++) {
		struct tcache *tcache = thread->cache[i];

		/* before membership is taken, for which whoever waits for the section's end may hold */
		if (tcache && tcache->section_heap && tcache->section_heap->serial == tcache->section_serial)
			heap_section_abandoned(tcache->section_heap);
		if (tcache)
			tcache->section_heap = NULL;
	}
	pthread_mutex_lock(&membership);
	for (unsigned i = 0; i < HEAPS_MAX; i++) {
		struct tcache *tcache = thread->cache[i];

		if (!tcache)
			continue;
		if (tcache->heap) {
			struct heap *heap = tcache->heap;

			heap_lock(heap);
			tcache_leave(tcache);
			heap_unlock(heap);
		}
		thread->cache[i] = NULL;
		pool_put_tcache(tcache);
	}
	pthread_mutex_unlock(&membership);
	thread_current = &thread_left;
	thread_target = thread_recent = &tcache_none;
	pool_put_thread(thread);
}

static void make_key(void)
{
	has_key = pthread_key_create(&key, thread_exit) == 0;
}

struct thread *thread_attach(void)
{
	struct thread *thread = thread_current;

	if (thread != &thread_none)
		return thread == &thread_left ? NULL : thread;
	pthread_once(&key_once, make_key);
	if (!has_key)
		return NULL;
	thread = pool_get_thread();
	if (!thread)
		return NULL;
	if (pthread_setspecific(key, thread)) {
		pool_put_thread(thread);
		return NULL;
	}
	thread_current = thread;
	return thread;
}

struct tcache *tcache_attach(struct heap *heap)
{
	struct thread *thread = thread_attach();
	struct tcache *tcache;

	if (!thread)
		return NULL;
	tcache = thread->cache[heap->slot];
	if (tcache && tcache->heap == heap)
		return tcache;
	if (thread_target == tcache)
		thread_target = &tcache_none; /* it was another heap's, which was the target: target_use() finds the next */
	if (!tcache) {
		tcache = pool_get_tcache();
		if (!tcache)
			return NULL;
		thread->cache[heap->slot] = tcache;
	}
	pthread_mutex_lock(&membership);
	heap_lock(heap);
	/* the generation of the last use stays in the inbox */
	tcache->id = (load_seq(&tcache->inbox) & ~ADDRESS_MASK) | (uint64_t)(uintptr_t)tcache;
	tcache->heap = heap;
	tcache->thread = thread;
	tcache->near.id = ++heap->cache_serial;
	tcache->base = heap->store.base;
	tcache->units_len = heap_size(heap) >> UNIT_SHIFT;
	tcache->units = heap->units;
	for (unsigned i = 0; i <= TABLE_MAX / 8; i++)
		tcache->window_at[i] = (uint16_t)(offsetof(struct tcache, window) + class_of(i * 8) * sizeof(struct window));
	tcache->heap_prev = NULL;
	tcache->heap_next = heap->caches;
	if (heap->caches)
		heap->caches->heap_prev = tcache;
	heap->caches = tcache;
	store_relaxed(&heap->cache_count, heap->cache_count + 1);
	heap_unlock(heap);
	pthread_mutex_unlock(&membership);
	return tcache;
}

/* A slab that was in the inbox of a leaving cache. With the lock held no owner changes, and no inbox is
 * closed. If it is somebody else's by now, those who found `queued` set count on us. */
static void pass_on(struct heap *heap, struct unit *slab)
{
	uint64_t owner;

	store_seq(&slab->queued, 0);
	owner = load_seq(&slab->owner);
	if (owner == OWNER_NONE)
		slab_collect(heap, slab);
	else if (owner != 0 && load_seq(&slab->pending) && exchange_seq(&slab->queued, 1) == 0)
		inbox_push(heap, owner, slab);
}

static void unlink_cache(struct tcache *tcache)
{
	if (tcache->heap_prev)
		tcache->heap_prev->heap_next = tcache->heap_next;
	else
		tcache->heap->caches = tcache->heap_next;
	if (tcache->heap_next)
		tcache->heap_next->heap_prev = tcache->heap_prev;
	store_relaxed(&tcache->heap->cache_count, tcache->heap->cache_count - 1);
	units_leave(tcache->heap, &tcache->near);
	/* all but the inbox and its generation, which outlive the stay */
	memset(tcache, 0, offsetof(struct tcache, inbox));
	tcache->heap_next = tcache->heap_prev = NULL;
}

void tcache_leave(struct tcache *tcache)
{
	struct heap *heap = tcache->heap;
	uint64_t generation = (tcache->id >> GENERATION_SHIFT) + 1;
	struct unit *slab, *next;
	uint64_t head;

	for (slab = tcache->owned; slab; slab = slab->owned_next)
		slab_set_owner(slab, OWNER_NONE);
	head = exchange_seq(&tcache->inbox, generation << GENERATION_SHIFT) & ADDRESS_MASK;
	while ((slab = tcache->owned) != NULL) {
		owned_remove(tcache, slab);
		slab->next = slab->prev = NULL;
		slab->alarm = ALARM_ALWAYS;
		slab_settle(heap, slab);
	}
	for (slab = (struct unit *)(uintptr_t)head; slab; slab = next) {
		next = inbox_next(heap, slab);
		pass_on(heap, slab);
	}
	unlink_cache(tcache);
}

void tcache_discard_all(struct heap *heap)
{
	while (heap->caches) {
		struct tcache *tcache = heap->caches;
		uint64_t generation = (tcache->id >> GENERATION_SHIFT) + 1;

		store_seq(&tcache->inbox, generation << GENERATION_SHIFT);
		unlink_cache(tcache);
	}
}

void tcache_leave_all(struct heap *heap)
{
	while (heap->caches)
		tcache_leave(heap->caches);
}

void owner_lock_membership(void)
{
	pthread_mutex_lock(&membership);
}

bool owner_try_membership(void)
{
	return pthread_mutex_trylock(&membership) == 0;
}

void owner_unlock_membership(void)
{
	pthread_mutex_unlock(&membership);
}
