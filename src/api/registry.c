/* SPDX-License-Identifier: Apache-2.0 */
#include "registry.h"

#include "../alloc/pool.h"
#include "../base/status.h"
#include "misuse.h"

#include <errno.h>
#include <string.h>

/* Where a heap lies. `len` is stored last at opening and first at closing: found again unchanged after the
 * other two were read, they belong together. */
struct range {
	uint64_t len; /* atomic; 0: unused */
	uint64_t base;
	struct heap *heap;
};

/* In one page, mostly: all of it is written at each opening, and a page's first fault takes 2 us. */
static struct {
	pthread_mutex_t lock;
	uint32_t next;                /* where to look for a free one: the one given back longest ago */
	uint64_t serial;
	uint64_t *alive;              /* a word for each, wiped in a child */
	uint8_t is_taken[HEAPS_MAX];
} slots = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct heap heaps[HEAPS_MAX];
static struct range ranges[HEAPS_MAX]; /* the lowest unused ones are taken first: few to search */
static uint32_t ranges_used;           /* atomic: none in use at or above */

struct heap *registry_take(uint64_t **alive)
{
	struct heap *heap = NULL;

	pthread_mutex_lock(&slots.lock);
	if (!slots.alive)
		slots.alive = pool_pages(HEAPS_MAX * sizeof(*slots.alive));
	if (!slots.alive) {
		fail(ENOMEM, "memory that a fork wipes can't be had");
		goto out;
	}
	for (uint32_t i = 0; i < HEAPS_MAX; i++) {
		uint32_t slot = (slots.next + i) % HEAPS_MAX;

		if (slots.is_taken[slot])
			continue;
		slots.is_taken[slot] = 1;
		slots.next = (slot + 1) % HEAPS_MAX;
		heap = &heaps[slot];
		/* what other threads may look at through a stale handle stays as closing left it */
		memset((char *)heap + offsetof(struct heap, serial), 0,
		       sizeof(*heap) - offsetof(struct heap, serial));
		heap->slot = slot;
		heap->serial = ++slots.serial;
		heap->store.lock_fd = -1;
		slots.alive[slot] = 1;
		*alive = &slots.alive[slot];
		goto out;
	}
	fail(EMFILE, "%u heaps are open", HEAPS_MAX);
out:
	pthread_mutex_unlock(&slots.lock);
	return heap;
}

void registry_publish(struct heap *heap)
{
	uint32_t i = 0;

	pthread_mutex_lock(&slots.lock);
	while (load_relaxed(&ranges[i].len)) /* as many as there are slots */
		i++;
	store_relaxed(&ranges[i].base, (uint64_t)(uintptr_t)heap->store.base);
	store_relaxed(&ranges[i].heap, heap);
	store_release(&ranges[i].len, heap->store.reserved);
	if (i >= ranges_used)
		store_release(&ranges_used, i + 1);
	pthread_mutex_unlock(&slots.lock);
}

void registry_withdraw(struct heap *heap)
{
	pthread_mutex_lock(&slots.lock);
	for (uint32_t i = 0; i < ranges_used; i++)
		if (ranges[i].len && ranges[i].heap == heap)
			store_seq(&ranges[i].len, UINT64_C(0));
	while (ranges_used && !ranges[ranges_used - 1].len)
		store_release(&ranges_used, ranges_used - 1);
	pthread_mutex_unlock(&slots.lock);
}

void registry_shorten(struct heap *heap)
{
	for (uint32_t i = 0; i < ranges_used; i++)
		if (ranges[i].len && ranges[i].heap == heap)
			store_release(&ranges[i].len, heap->store.reserved);
}

void registry_give(struct heap *heap)
{
	pthread_mutex_lock(&slots.lock);
	slots.is_taken[heap->slot] = 0;
	pthread_mutex_unlock(&slots.lock);
}

struct heap *registry_find(const void *p)
{
	uint32_t n = load_acquire(&ranges_used);

	for (uint32_t i = 0; i < n; i++) {
		uint64_t len = load_acquire(&ranges[i].len);
		uint64_t base = load_acquire(&ranges[i].base);
		struct heap *heap = load_acquire(&ranges[i].heap);

		if ((uintptr_t)p - base < len && load_relaxed(&ranges[i].len) == len)
			return heap;
	}
	return NULL;
}

struct heap *registry_first(void)
{
	uint32_t n = load_acquire(&ranges_used);
	struct heap *first = NULL;

	for (uint32_t i = 0; i < n; i++) {
		struct heap *heap = load_acquire(&ranges[i].heap);

		if (!load_acquire(&ranges[i].len) || !load_acquire(&heap->is_open))
			continue;
		/* a child prefers what it opened itself */
		if (!first || (*heap->alive != *first->alive ? *heap->alive : heap->serial < first->serial))
			first = heap;
	}
	return first;
}

void registry_each(void (*visit)(struct heap *heap))
{
	uint32_t n = load_acquire(&ranges_used);

	for (uint32_t i = 0; i < n; i++) {
		struct heap *heap = load_acquire(&ranges[i].heap);

		if (load_acquire(&ranges[i].len) && load_acquire(&heap->is_open))
			visit(heap);
	}
}

void registry_each_inherited(void (*visit)(struct heap *heap))
{
	for (uint32_t i = 0; i < HEAPS_MAX; i++)
		if (slots.is_taken[i] && !slots.alive[i])
			visit(&heaps[i]);
}

int registry_check(const fm_heap *handle, enum fm_misuse_kind *kind)
{
	uintptr_t distance = (uintptr_t)handle - (uintptr_t)heaps;

	*kind = 0;
	if (!handle)
		return fail(EINVAL, "the heap is NULL");
	if (distance < sizeof(heaps) && distance % sizeof(heaps[0]) == 0)
		return heap_is_usable(heap_of_handle(handle), kind);
	*kind = FM_CLOSED_HEAP;
	return fail(EBADF, "%p is no heap handle", (const void *)handle);
}

struct heap *registry_usable(const fm_heap *handle)
{
	struct heap *heap = heap_of_handle(handle);
	enum fm_misuse_kind kind;

	if (registry_check(handle, &kind) == 0)
		return heap;
	if (kind)
		misuse_report(kind, handle, kind == FM_FORKED_CHILD ? &heap->pub : NULL);
	return NULL;
}

void registry_revive(struct heap *heap)
{
	store_release(&slots.alive[heap->slot], UINT64_C(1));
}

void registry_lock(void)
{
	pthread_mutex_lock(&slots.lock);
}

void registry_unlock(void)
{
	pthread_mutex_unlock(&slots.lock);
}
