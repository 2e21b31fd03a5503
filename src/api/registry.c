/* SPDX-License-Identifier: Apache-2.0 */
#include "registry.h"

#include "../alloc/pool.h"
#include "../base/status.h"
#include "misuse.h"

#include <errno.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct heap heaps[HEAPS_MAX];
static uint8_t is_taken[HEAPS_MAX];
static uint64_t *alive_words; /* wiped in a child */
static uint32_t next_slot;    /* where the search for a free slot begins: the one given back longest ago */
static uint32_t slots_used;   /* atomic: no heap at or above */
static uint64_t serial;

struct heap *registry_take(uint64_t **alive)
{
	struct heap *heap = NULL;

	pthread_mutex_lock(&lock);
	if (!alive_words)
		alive_words = pool_pages(HEAPS_MAX * sizeof(*alive_words));
	if (!alive_words) {
		fail(ENOMEM, "memory that a fork wipes can't be had");
		goto out;
	}
	for (uint32_t i = 0; i < HEAPS_MAX; i++) {
		uint32_t slot = (next_slot + i) % HEAPS_MAX;

		if (is_taken[slot])
			continue;
		is_taken[slot] = 1;
		next_slot = (slot + 1) % HEAPS_MAX;
		heap = &heaps[slot];
		memset(heap, 0, sizeof(*heap));
		heap->slot = slot;
		heap->serial = ++serial;
		alive_words[slot] = 1;
		*alive = &alive_words[slot];
		if (slot >= slots_used)
			store_release(&slots_used, slot + 1);
		goto out;
	}
	fail(EMFILE, "%u heaps are open", HEAPS_MAX);
out:
	pthread_mutex_unlock(&lock);
	return heap;
}

void registry_give(struct heap *heap)
{
	pthread_mutex_lock(&lock);
	is_taken[heap->slot] = 0;
	pthread_mutex_unlock(&lock);
}

struct heap *registry_find(const void *p)
{
	uint32_t n = load_acquire(&slots_used);

	for (uint32_t i = 0; i < n; i++) {
		struct heap *heap = &heaps[i];

		if (load_acquire(&heap->is_open) &&
		    (uintptr_t)p - (uintptr_t)heap->store.base < heap->store.reserved)
			return heap;
	}
	return NULL;
}

struct heap *registry_first(void)
{
	uint32_t n = load_acquire(&slots_used);
	struct heap *first = NULL;

	for (uint32_t i = 0; i < n; i++) {
		struct heap *heap = &heaps[i];

		if (!load_acquire(&heap->is_open))
			continue;
		/* a child prefers what it opened itself */
		if (!first || (*heap->alive != *first->alive ? *heap->alive : heap->serial < first->serial))
			first = heap;
	}
	return first;
}

void registry_each(void (*visit)(struct heap *heap))
{
	for (uint32_t i = 0; i < slots_used; i++)
		if (load_acquire(&heaps[i].is_open))
			visit(&heaps[i]);
}

struct heap *registry_usable(const fm_heap *handle)
{
	struct heap *heap = heap_of_handle(handle);
	enum fm_misuse_kind kind;
	uintptr_t distance = (uintptr_t)heap - (uintptr_t)heaps;

	if (!handle) {
		fail(EINVAL, "the heap is NULL");
		return NULL;
	}
	if (distance >= sizeof(heaps) || distance % sizeof(heaps[0])) {
		fail(EBADF, "%p is no heap handle", (const void *)handle);
		kind = FM_CLOSED_HEAP;
	} else if (heap_is_usable(heap, &kind) == 0) {
		return heap;
	}
	misuse_report(kind, handle, kind == FM_FORKED_CHILD ? &heap->pub : NULL);
	return NULL;
}

void registry_lock(void)
{
	pthread_mutex_lock(&lock);
}

void registry_unlock(void)
{
	pthread_mutex_unlock(&lock);
}
