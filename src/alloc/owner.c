/* SPDX-License-Identifier: Apache-2.0 */
#include "owner.h"

#include "commit.h"
#include "pool.h"

#include <string.h>

#define GENERATION_SHIFT 48
#define ADDRESS_MASK     ((UINT64_C(1) << GENERATION_SHIFT) - 1)

static struct thread thread_none; /* of a thread that has not called us yet */
static struct thread thread_left; /* of one whose key destructor has run */

__thread struct thread *thread_current __attribute__((tls_model("initial-exec"))) = &thread_none;

struct tcache tcache_none;
__thread struct tcache *thread_target __attribute__((tls_model("initial-exec"))) = &tcache_none;

/* Held while a cache joins or leaves a heap, and while a heap is closed: a thread at its end and a closing heap
 * meet here. Taken before heap->lock. */
static pthread_mutex_t membership = PTHREAD_MUTEX_INITIALIZER;

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool has_key;

/* ---------------------------------------------------------------- lists of an owner */

/* At the end: by the time its turn comes, a slab that was full has more than one free slot. */
static void partial_push(struct tcache *tcache, struct unit *slab)
{
	struct unit *last = tcache->partial_last[slab->class_no];

	slab->is_listed = 1;
	slab->next = NULL;
	slab->prev = last;
	if (last)
		last->next = slab;
	else
		tcache->partial[slab->class_no] = slab;
	tcache->partial_last[slab->class_no] = slab;
}

static void partial_remove(struct tcache *tcache, struct unit *slab)
{
	if (slab->prev)
		slab->prev->next = slab->next;
	else
		tcache->partial[slab->class_no] = slab->next;
	if (slab->next)
		slab->next->prev = slab->prev;
	else
		tcache->partial_last[slab->class_no] = slab->prev;
	slab->next = slab->prev = NULL;
	slab->is_listed = 0;
}

static void owned_push(struct tcache *tcache, struct unit *slab)
{
	slab->owned_prev = NULL;
	slab->owned_next = tcache->owned;
	if (tcache->owned)
		tcache->owned->owned_prev = slab;
	tcache->owned = slab;
}

static void owned_remove(struct tcache *tcache, struct unit *slab)
{
	if (slab->owned_prev)
		slab->owned_prev->owned_next = slab->owned_next;
	else
		tcache->owned = slab->owned_next;
	if (slab->owned_next)
		slab->owned_next->owned_prev = slab->owned_prev;
	slab->owned_next = slab->owned_prev = NULL;
}

static void release(struct tcache *tcache, struct unit *slab)
{
	struct heap *heap = tcache->heap;

	owned_remove(tcache, slab);
	heap_lock(heap);
	slab_release(heap, slab);
	heap_unlock(heap);
}

/* The slab has got free slots, or an empty word: list it if it was full, keep or release it if it is empty. */
static void slab_changed(struct tcache *tcache, struct unit *slab)
{
	struct unit **spare = &tcache->spare[slab->class_no];

	if (tcache->current[slab->class_no] == slab)
		return;
	if (slab->empty != slab_all_words(slab)) {
		if (!slab->is_listed)
			partial_push(tcache, slab);
		return;
	}
	if (!*spare)
		*spare = slab;
	if (*spare == slab) {
		/* kept: the next refill would only make one again */
		if (!slab->is_listed)
			partial_push(tcache, slab);
		return;
	}
	if (slab->is_listed)
		partial_remove(tcache, slab);
	release(tcache, slab);
}

void tcache_slot_freed(struct tcache *tcache, struct unit *slab, unsigned w, uint64_t live)
{
	if (live == 0)
		slab->empty |= UINT64_C(1) << w;
	if (live == 0 || !slab->is_listed)
		slab_changed(tcache, slab);
}

/* ---------------------------------------------------------------- remote frees */

static bool inbox_push(uint64_t owner, struct unit *slab)
{
	struct tcache *tcache = (struct tcache *)(uintptr_t)(owner & ADDRESS_MASK);
	uint64_t head = load_seq(&tcache->inbox);

	do {
		if (head >> GENERATION_SHIFT != owner >> GENERATION_SHIFT)
			return false;
		slab->inbox_next = (struct unit *)(uintptr_t)(head & ADDRESS_MASK);
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
		} else if (inbox_push(owner, slab)) {
			return;
		}
	}
}

int slab_free_remote(struct heap *heap, struct unit *slab, uint32_t slot)
{
	unsigned w = slot / 64;
	uint64_t bit = UINT64_C(1) << slot % 64;
	uint64_t *pair = slab_pair(slab, w);

	if (!(truth_load(&pair[0]) & bit) || truth_set_bits(&pair[1], bit) & bit)
		return -1;
	if (load_seq(&slab->pending) & UINT64_C(1) << w)
		return 0;
	if (fetch_or_seq(&slab->pending, UINT64_C(1) << w))
		return 0;
	if (exchange_seq(&slab->queued, 1) == 0)
		notify_owner(heap, slab);
	return 0;
}

/* Take back what other threads freed in `slab`. */
static void harvest_own(struct tcache *tcache, struct unit *slab)
{
	uint64_t words = exchange_seq(&slab->pending, UINT64_C(0)) & slab_all_words(slab);

	slab_harvest(slab, words);
	if (slab->summary && (!slab->is_listed || slab->empty == slab_all_words(slab)))
		slab_changed(tcache, slab);
}

static void inbox_drain(struct tcache *tcache)
{
	uint64_t generation = tcache->id & ~ADDRESS_MASK;
	uint64_t head;

	if (load_seq(&tcache->inbox) == generation)
		return;
	head = exchange_seq(&tcache->inbox, generation) & ADDRESS_MASK;
	while (head) {
		struct unit *slab = (struct unit *)(uintptr_t)head;

		head = (uint64_t)(uintptr_t)slab->inbox_next;
		store_seq(&slab->queued, 0);
		/* a slab that was released and made again by somebody else since: its frees are theirs */
		if (load_seq(&slab->owner) == tcache->id)
			harvest_own(tcache, slab);
		else if (load_seq(&slab->pending) && exchange_seq(&slab->queued, 1) == 0)
			notify_owner(tcache->heap, slab);
	}
}

/* ---------------------------------------------------------------- allocating behind the window */

static struct unit *acquire(struct tcache *tcache, unsigned class_no)
{
	struct heap *heap = tcache->heap;
	struct unit *slab;

	heap_lock(heap);
	slab = slab_adopt(heap, class_no, tcache->id);
	if (!slab) {
		slab = slab_make(heap, class_no, tcache->id);
		/* trying may have examined segments with slabs of this class: use those first */
		if (heap->unowned[class_no]) {
			if (slab) {
				store_seq(&slab->owner, OWNER_NONE);
				slab_settle(heap, slab);
			}
			slab = slab_adopt(heap, class_no, tcache->id);
		}
	}
	if (slab)
		owned_push(tcache, slab);
	tcache->size = heap_size(heap);
	heap_unlock(heap);
	return slab;
}

static void window_load(struct tcache *tcache, struct unit *slab)
{
	struct window *window = &tcache->window[slab->class_no];
	unsigned w = lowest_bit(slab->summary);
	uint64_t *pair = slab_pair(slab, w);
	uint64_t live = slab_harvest_word(slab, w);

	/* S5 for the word that leaves the window: it may have been 0 for a while in there */
	if (window->live && truth_load(window->live))
		slab->empty &= ~(UINT64_C(1) << window->word);
	slab->summary &= ~(UINT64_C(1) << w);
	slab->empty &= ~(UINT64_C(1) << w);
	window->live = &pair[0];
	window->word = w;
	window->slot_size = slab->slot_size;
	window->base = unit_address(tcache->heap, slab) + (size_t)w * 64 * slab->slot_size;
	window->avail = ~live & ~truth_load(&pair[1]) & slab_word_mask(slab, w);
}

static void window_clear(struct tcache *tcache, unsigned class_no)
{
	memset(&tcache->window[class_no], 0, sizeof(tcache->window[class_no]));
	tcache->current[class_no] = NULL;
}

void *tcache_next_word(struct tcache *tcache, unsigned class_no)
{
	struct window *window = &tcache->window[class_no];
	struct unit *slab = tcache->current[class_no];

	if (!slab || !slab->summary || load_relaxed(&tcache->inbox) & ADDRESS_MASK)
		return NULL;
	window_load(tcache, slab);
	return window->avail ? window_take(window) : NULL;
}

void *tcache_refill(struct tcache *tcache, unsigned class_no)
{
	struct window *window = &tcache->window[class_no];

	inbox_drain(tcache);
	while (!window->avail) {
		struct unit *slab = tcache->current[class_no];

		if (slab && !slab->summary) {
			slab->is_listed = 0;
			window_clear(tcache, class_no);
			slab = NULL;
		}
		if (!slab) {
			slab = tcache->partial[class_no];
			if (slab)
				partial_remove(tcache, slab);
			else if (!(slab = acquire(tcache, class_no)))
				return NULL;
			if (tcache->spare[class_no] == slab)
				tcache->spare[class_no] = NULL;
			slab->is_listed = 1;
			tcache->current[class_no] = slab;
		}
		window_load(tcache, slab);
	}
	return window_take(window);
}

/* The slab is in the window and nothing in it is allocated. */
static bool is_current_empty(const struct tcache *tcache, unsigned class_no)
{
	const struct unit *slab = tcache->current[class_no];
	const struct window *window = &tcache->window[class_no];

	return slab && truth_load(window->live) == 0 &&
	       (slab->empty | UINT64_C(1) << window->word) == slab_all_words(slab);
}

bool tcache_release_empty(struct tcache *tcache)
{
	bool any = false;

	inbox_drain(tcache);
	for (unsigned c = 0; c < CLASSES; c++) {
		struct unit *slab = tcache->spare[c];

		if (slab) {
			partial_remove(tcache, slab);
			release(tcache, slab);
			tcache->spare[c] = NULL;
			any = true;
		}
		if (is_current_empty(tcache, c)) {
			slab = tcache->current[c];
			slab->is_listed = 0;
			window_clear(tcache, c);
			release(tcache, slab);
			any = true;
		}
	}
	return any;
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
	thread_target = &tcache_none;
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
	tcache->base = heap->store.base;
	tcache->size = heap_size(heap);
	tcache->units = heap->units;
	tcache->heap_prev = NULL;
	tcache->heap_next = heap->caches;
	if (heap->caches)
		heap->caches->heap_prev = tcache;
	heap->caches = tcache;
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
		inbox_push(owner, slab);
}

static void unlink_cache(struct tcache *tcache)
{
	if (tcache->heap_prev)
		tcache->heap_prev->heap_next = tcache->heap_next;
	else
		tcache->heap->caches = tcache->heap_next;
	if (tcache->heap_next)
		tcache->heap_next->heap_prev = tcache->heap_prev;
	/* all but the inbox and its generation, which outlive the stay */
	memset(tcache, 0, offsetof(struct tcache, inbox));
	tcache->heap_next = tcache->heap_prev = NULL;
}

void tcache_leave(struct tcache *tcache)
{
	struct heap *heap = tcache->heap;
	uint64_t generation = (tcache->id >> GENERATION_SHIFT) + 1;
	uint64_t head;

	for (struct unit *slab = tcache->owned; slab; slab = slab->owned_next)
		store_seq(&slab->owner, OWNER_NONE);
	head = exchange_seq(&tcache->inbox, generation << GENERATION_SHIFT) & ADDRESS_MASK;
	while (tcache->owned) {
		struct unit *slab = tcache->owned;

		owned_remove(tcache, slab);
		slab->next = slab->prev = NULL;
		slab->is_listed = 0;
		slab_settle(heap, slab);
	}
	while (head) {
		struct unit *slab = (struct unit *)(uintptr_t)head;

		head = (uint64_t)(uintptr_t)slab->inbox_next;
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
