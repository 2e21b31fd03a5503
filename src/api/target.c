/* SPDX-License-Identifier: Apache-2.0 */
#include "target.h"

#include "../base/status.h"
#include "registry.h"

#include <errno.h>

/* Read by the inline operators of fm_ptr<T>: the base of the thread's target, 0 if it has set none (the
 * original's name), and that of the heap which is everybody's target then. */
extern __thread uint64_t __fm_addr_base;
FM_API __thread uint64_t __fm_addr_base;
extern uint64_t __fm_first_base;
FM_API uint64_t __fm_first_base;

/* What the thread has set, or NULL, and which opening of the handle that was. Not in its struct thread, which is gone
 * when late destructors run. __fm_addr_base always belongs to it. */
static __thread struct heap *chosen;
static __thread uint64_t chosen_serial;

static void choose(struct heap *heap)
{
	chosen = heap;
	chosen_serial = heap ? heap->serial : 0;
	__fm_addr_base = heap ? (uint64_t)(uintptr_t)heap->store.base : 0;
}

/* Another thread has closed what this one has set; the handle may be another heap's by now. */
static bool is_gone(void)
{
	return !load_acquire(&chosen->is_open) || load_relaxed(&chosen->serial) != chosen_serial;
}

/* What the thread works on: fmalloc() and fm_ptr<T> go on with the first heap together, or not at all. */
static struct heap *current(void)
{
	struct heap *first;

	if (chosen && is_gone())
		choose(NULL);
	if (chosen && *chosen->alive)
		return chosen;
	first = registry_first();
	/* the parent's target stays for reading, until the child has a heap of its own */
	if (chosen && first && *first->alive)
		choose(NULL);
	return first;
}

struct heap *target_heap(void)
{
	struct heap *heap = current();
	enum fm_misuse_kind kind;

	if (!heap)
		return fail(EINVAL, "no heap is open: there is no target"), NULL;
	if (heap_is_usable(heap, &kind)) {
		registry_usable(&heap->pub); /* reports */
		return NULL;
	}
	return heap;
}

struct heap *target_use(void)
{
	struct heap *heap = target_heap();
	struct tcache *tcache = heap ? tcache_attach(heap) : NULL;

	if (tcache)
		thread_target = tcache;
	return heap;
}

struct fm_info *fmalloc_get_target(void)
{
	struct heap *heap = target_heap();

	return heap ? &heap->pub : NULL;
}

void fmalloc_set_target(struct fm_info *fi)
{
	struct heap *heap = fi ? registry_usable(fi) : NULL;

	if (fi && !heap)
		return;
	choose(heap);
	thread_target = &tcache_none; /* the next call finds the cache */
}

void target_refresh(void)
{
	struct heap *first = registry_first();

	store_relaxed(&__fm_first_base, first ? (uint64_t)(uintptr_t)first->store.base : 0);
	/* a child that opens a heap of its own leaves its parent's target */
	if (chosen && (is_gone() || !*chosen->alive))
		choose(NULL);
}

void target_forget(struct heap *heap)
{
	if (chosen == heap)
		choose(NULL);
}
