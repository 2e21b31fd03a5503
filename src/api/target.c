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

/* What the thread has set, or NULL. Not in its struct thread, which is gone when late destructors run. */
static __thread struct heap *chosen;

struct heap *target_heap(void)
{
	struct heap *heap = chosen;
	enum fm_misuse_kind kind;

	/* closed meanwhile, or the parent's */
	if (!heap || !load_acquire(&heap->is_open) || !*heap->alive)
		heap = registry_first();
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
	__fm_addr_base = heap ? (uint64_t)(uintptr_t)heap->store.base : 0;
	chosen = heap;
	thread_target = &tcache_none; /* the next call finds the cache */
}

void target_refresh(void)
{
	struct heap *first = registry_first();

	store_relaxed(&__fm_first_base, first ? (uint64_t)(uintptr_t)first->store.base : 0);
	/* a child that opens a heap of its own leaves its parent's target */
	if (chosen && !*chosen->alive) {
		chosen = NULL;
		__fm_addr_base = 0;
	}
}

void target_forget(struct heap *heap)
{
	if (__fm_addr_base == (uint64_t)(uintptr_t)heap->store.base)
		__fm_addr_base = 0;
	if (chosen == heap)
		chosen = NULL;
}
