/* SPDX-License-Identifier: Apache-2.0 */
#include "../alloc/alloc.h"
#include "../alloc/fast.h"
#include "../base/status.h"
#include "embed.h"
#include "misuse.h"
#include "registry.h"
#include "target.h"

#include <errno.h>
#include <string.h>

#define noinline __attribute__((noinline))

struct embedder embedder __attribute__((weak));

/* ---------------------------------------------------------------- allocating */

static bool is_too_large(size_t size)
{
	if (likely(size <= PTRDIFF_MAX))
		return false;
	fail(ENOMEM, "%zu bytes are more than an object can have", size);
	return true;
}

static noinline void *malloc_slow(struct heap *heap, size_t size)
{
	bool is_zero;

	return is_too_large(size) ? NULL : alloc_new(heap, size, 8, &is_zero);
}

/* Take a slot of the thread's own slabs, also for sizes beyond the table. */
static bool take(struct tcache *tcache, size_t size, void **p)
{
	return likely(size <= SMALL_MAX) && tcache_take_own(tcache, class_of(size), p);
}

/* The thread's cache of an open heap of this process, the most recent one from now on; NULL if it has none. */
static struct tcache *recent_of(struct heap *heap)
{
	struct tcache *tcache = thread_current->cache[heap->slot];

	if (!tcache || tcache->heap != heap)
		return NULL;
	thread_recent = tcache;
	return tcache;
}

/* Another heap than the most recent one, or no slot at hand, or more than the table has. */
static noinline void *malloc_handle(fm_heap *handle, size_t size)
{
	struct tcache *tcache = thread_recent;
	struct heap *heap;
	void *p;

	if (likely(tcache->heap == heap_of_handle(handle) && take(tcache, size, &p)))
		return p;
	heap = registry_usable(handle);
	if (!heap)
		return NULL;
	tcache = recent_of(heap);
	return tcache && take(tcache, size, &p) ? p : malloc_slow(heap, size);
}

static noinline void *malloc_target(size_t size)
{
	struct heap *heap;
	void *p;

	if (likely(take(thread_target, size, &p)))
		return p;
	heap = target_use();
	if (heap)
		return malloc_slow(heap, size);
	return embedder.no_target ? embedder.no_target(size) : NULL;
}

void *fm_malloc(fm_heap *handle, size_t size)
{
	struct tcache *tcache = thread_recent;
	void *p;

	if (likely(size <= TABLE_MAX && tcache->heap == heap_of_handle(handle) &&
	           fast_take(tcache, size, &p)))
		return p;
	return malloc_handle(handle, size);
}

void *fmalloc(size_t size)
{
	struct tcache *tcache = thread_target;
	void *p;

	if (likely(size <= TABLE_MAX && fast_take(tcache, size, &p)))
		return p;
	return malloc_target(size);
}

void *fm_calloc(fm_heap *handle, size_t n, size_t size)
{
	struct heap *heap = registry_usable(handle);
	bool is_zero;
	size_t total;
	void *p;

	if (!heap)
		return NULL;
	if (__builtin_mul_overflow(n, size, &total))
		return fail(ENOMEM, "%zu times %zu bytes overflow", n, size), NULL;
	if (is_too_large(total))
		return NULL;
	p = alloc_new(heap, total, 8, &is_zero);
	if (p && !is_zero) {
		store_wrote(&heap->store, p, total);
		memset(p, 0, total);
	}
	return p;
}

void *fm_aligned_alloc(fm_heap *handle, size_t alignment, size_t size)
{
	struct heap *heap = registry_usable(handle);
	bool is_zero;

	if (!heap)
		return NULL;
	if (!is_power_of_two(alignment) || alignment > SEGMENT_SIZE)
		return fail(EINVAL, "alignment %zu is not a power of two up to 4 MiB", alignment), NULL;
	return is_too_large(size) ? NULL : alloc_new(heap, size, alignment, &is_zero);
}

static char *copy_string(fm_heap *handle, const char *s, size_t len)
{
	char *copy = fm_malloc(handle, len + 1);

	if (copy) {
		store_wrote(&heap_of_handle(handle)->store, copy, len + 1);
		memcpy(copy, s, len);
		copy[len] = 0;
	}
	return copy;
}

char *fm_strdup(fm_heap *handle, const char *s)
{
	return copy_string(handle, s, strlen(s));
}

char *fm_strndup(fm_heap *handle, const char *s, size_t n)
{
	return copy_string(handle, s, strnlen(s, n));
}

/* ---------------------------------------------------------------- freeing */

/* The usable heap in which `p` lies, or NULL after fail() and the handler. */
static struct heap *heap_with(const void *p)
{
	struct heap *heap = registry_find(p);
	enum fm_misuse_kind kind = FM_FOREIGN_POINTER;

	if (!heap)
		fail(EINVAL, "%p lies in no open heap", p);
	else if (registry_check(&heap->pub, &kind) == 0)
		return heap;
	misuse_report(kind, p, heap ? &heap->pub : NULL);
	return NULL;
}

/* Free a run, or an object in a slab of any thread, by the descriptor alone; false: look closer. */
static bool free_described(struct tcache *tcache, const void *p)
{
	uint64_t off = (uintptr_t)p - (uintptr_t)tcache->base;
	struct unit *unit;
	uint64_t owner;

	if (off >> UNIT_SHIFT >= tcache->units_len)
		return false;
	unit = &tcache->units[off >> UNIT_SHIFT];
	unit -= load_relaxed(&unit->back);
	owner = load_acquire(&unit->owner); /* pairs with the release in slab_set_owner */
	if (owner == tcache->id)
		return tcache_free_own(tcache, unit, off);
	if (owner == 0)
		return unit_state(unit) == UNIT_IS_RUN && off == (uint64_t)(unit - tcache->units) << UNIT_SHIFT &&
		       alloc_free_run(tcache->heap, tcache, unit);
	return slab_free_at(tcache->heap, unit, off);
}

/* errno stays as it is where `p` is freed: giving space back may have failed on the way. */
static noinline int free_slow(void *p)
{
	enum fm_misuse_kind misuse = 0;
	struct heap *heap;
	struct tcache *tcache;
	int saved = errno;

	if (!p || free_described(thread_recent, p))
		return errno = saved, 0;
	if (embedder.free_foreign && embedder.free_foreign(p))
		return 0;
	heap = heap_with(p);
	if (!heap)
		return -1;
	tcache = recent_of(heap);
	if (tcache) {
		tcache->units_len = heap_size(heap) >> UNIT_SHIFT;
		if (free_described(tcache, p))
			return errno = saved, 0;
	}
	if (alloc_free(heap, p, &misuse) == 0)
		return errno = saved, 0;
	if (misuse)
		misuse_report(misuse, p, &heap->pub);
	return -1;
}

/* Free an object of the most recent heap if that takes a few instructions; false: look closer. */
static forced_inline bool free_fast(void *p)
{
	return likely(fast_free(thread_recent, p));
}

int fm_free(void *p)
{
	return free_fast(p) ? 0 : free_slow(p);
}

void ffree(void *addr)
{
	if (!free_fast(addr))
		free_slow(addr);
}

/* ---------------------------------------------------------------- the rest of the family */

/* The own slab in which a live object of one slot begins at `p`; NULL: look closer. */
static const struct unit *own_slab_of(const struct tcache *tcache, const void *p)
{
	uint64_t off = (uintptr_t)p - (uintptr_t)tcache->base;
	const struct unit *slab;
	uint32_t slot;

	if (off >> UNIT_SHIFT >= tcache->units_len)
		return NULL;
	slab = &tcache->units[off >> UNIT_SHIFT];
	slab -= load_relaxed(&slab->back);
	/* its quick owner: no slots are joined, and no other thread has freed any since the last harvest */
	if (load_relaxed(&slab->quick_owner) != tcache->id)
		return NULL;
	slot = slab_slot_at(slab, off - ((uint64_t)(slab - tcache->units) << UNIT_SHIFT));
	return slot != UINT32_MAX && bit_is_set(truth_load(slab_pair(slab, slot / 64)), slot) ? slab : NULL;
}

/* Change the size of an object in an own slab without a look at the heap; NULL: look closer. */
static void *realloc_own(struct tcache *tcache, void *p, size_t size)
{
	const struct unit *slab = own_slab_of(tcache, p);
	size_t len;
	void *moved;

	if (!slab)
		return NULL;
	len = slab->slot_size;
	if (slot_suits(slab, (uintptr_t)p - (uintptr_t)tcache->base, len, size))
		return p;
	if (!take(tcache, size, &moved))
		return NULL;
	store_wrote(&tcache->heap->store, moved, min_u64(size, len));
	memcpy(moved, p, min_u64(size, len));
	if (likely(fast_free(tcache, p) || free_described(tcache, p)))
		return moved;
	/* freed by another thread under our hands */
	fm_free(moved);
	return NULL;
}

void *fm_realloc(fm_heap *handle, void *p, size_t size)
{
	struct tcache *tcache = thread_recent;
	enum fm_misuse_kind misuse = 0;
	struct heap *heap;
	void *result;

	if (!p)
		return fm_malloc(handle, size);
	if (likely(size <= SMALL_MAX && tcache->heap == heap_of_handle(handle))) {
		result = realloc_own(tcache, p, size);
		if (likely(result != NULL))
			return result;
	}
	heap = registry_usable(handle);
	if (!heap || is_too_large(size))
		return NULL;
	if ((uintptr_t)p - (uintptr_t)heap->store.base >= heap->store.reserved) {
		fail(EINVAL, "%p does not lie in this heap", p);
		misuse_report(FM_FOREIGN_POINTER, p, registry_find(p) ? &registry_find(p)->pub : NULL);
		return NULL;
	}
	result = alloc_resize(heap, p, size, &misuse);
	if (!result && misuse)
		misuse_report(misuse, p, &heap->pub);
	return result;
}

void *fm_reallocarray(fm_heap *handle, void *p, size_t n, size_t size)
{
	size_t total;

	if (__builtin_mul_overflow(n, size, &total))
		return fail(ENOMEM, "%zu times %zu bytes overflow", n, size), NULL;
	return fm_realloc(handle, p, total);
}

size_t fm_usable_size(const void *p)
{
	enum fm_misuse_kind misuse = 0;
	struct object object;
	struct heap *heap;
	size_t size;

	if (!p)
		return fail(EINVAL, "NULL has no size"), 0;
	heap = registry_find(p);
	if (heap && heap->is_detached)
		return alloc_object_at(heap, (uint64_t)((const uint8_t *)p - heap->store.base), &object) ? object.len : 0;
	heap = heap_with(p);
	if (!heap)
		return 0;
	size = alloc_usable_size(heap, p, &misuse);
	if (size == 0 && misuse)
		misuse_report(misuse, p, &heap->pub);
	return size;
}

fm_heap *fm_heap_of(const void *p)
{
	struct heap *heap = registry_find(p);

	return heap ? &heap->pub : NULL;
}

void *fm_at_checked(fm_heap *handle, uint64_t offset, size_t len)
{
	struct heap *heap = registry_usable(handle);
	struct object object;

	if (!heap)
		return NULL;
	if (offset >= APP_PAGE_OFF && offset < APP_PAGE_OFF + PAGE_SIZE && len <= APP_PAGE_OFF + PAGE_SIZE - offset)
		return heap->store.base + offset;
	if (offset < heap_size(heap) && alloc_object_at(heap, offset, &object) && object.is_live &&
	    len <= object.off + object.len - offset)
		return heap->store.base + offset;
	return fail(EINVAL, "the %zu bytes at offset %llu are not inside one live object", len,
	            (unsigned long long)offset), NULL;
}
