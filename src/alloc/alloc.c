/* SPDX-License-Identifier: Apache-2.0 */
#include "alloc.h"

#include "../base/status.h"
#include "directory.h"
#include "giveback.h"
#include "large.h"
#include "segment.h"

#include <errno.h>
#include <string.h>

static int prepare_change(struct heap *heap)
{
	if (unlikely(heap->read_only))
		return fail(EROFS, "the heap is open for reading only");
	return unlikely(load_relaxed(&heap->rests)) ? heap_wake(heap) : 0;
}

static void *alloc_slot(struct heap *heap, struct tcache *tcache, unsigned class_no, bool may_join)
{
	void *p;

	if (likely(tcache != NULL))
		return tcache_refill(tcache, class_no, may_join);
	/* a thread at its end, or no memory for its state */
	heap_lock(heap);
	p = slab_take_unowned(heap, class_no);
	heap_unlock(heap);
	return p;
}

/* In the segments that the thread knows, without the lock. */
static void *alloc_near(struct heap *heap, struct tcache *tcache, size_t size, size_t alignment, bool *is_zero)
{
	void *p;

	tcache_begin_units(tcache);
	p = large_alloc_near(heap, &tcache->near, size, alignment, is_zero);
	tcache_end_units(tcache);
	return p;
}

static void *alloc_anywhere(struct heap *heap, struct tcache *tcache, size_t size, size_t alignment, bool *is_zero)
{
	void *p;

	heap_lock(heap);
	p = large_alloc(heap, tcache ? &tcache->near : NULL, size, alignment, is_zero);
	heap_unlock(heap);
	return p;
}

static void *alloc_large(struct heap *heap, struct tcache *tcache, size_t size, size_t alignment, bool *is_zero)
{
	void *p = NULL;

	if (likely(tcache != NULL)) {
		inbox_drain(tcache); /* a thread of large objects alone comes by no other place that does */
		p = alloc_near(heap, tcache, size, alignment, is_zero);
	}
	return p ? p : alloc_anywhere(heap, tcache, size, alignment, is_zero);
}

/* Not in an atomic heap, where each free of a run settles its segment, with the lock; and free slots of the class come first. */
static bool is_better_alone(const struct heap *heap, const struct tcache *tcache, unsigned class_no)
{
	return size_classes[class_no].is_alone && tcache && !heap->store.is_atomic && !load_relaxed(&heap->unowned[class_no]);
}

/* An object of a class that is alone in its units: space that is there is used before the heap grows, in the order of
 * tcache_refill(). NULL: there is no space, or a slab. */
static void *alloc_alone(struct heap *heap, struct tcache *tcache, unsigned class_no, size_t size, size_t alignment,
                         bool *is_zero)
{
	enum fm_misuse_kind misuse;
	void *p;

	inbox_drain(tcache);
	if (tcache_take_own(tcache, class_no, &p))
		return p;
	p = alloc_near(heap, tcache, size, alignment, is_zero);
	if (!p && tcache_release_kept(tcache))
		p = alloc_near(heap, tcache, size, alignment, is_zero);
	if (!p && alignment <= 8)
		p = tcache_take_joined(tcache, class_no, large_units(size));
	if (p)
		return p;
	p = alloc_anywhere(heap, tcache, size, alignment, is_zero);
	if (!p || !load_relaxed(&heap->unowned[class_no]))
		return p;
	/* looking for space has examined segments with slabs of the class: those first */
	alloc_free(heap, p, &misuse);
	*is_zero = false;
	return NULL;
}

static void *alloc_once(struct heap *heap, struct tcache *tcache, size_t size, size_t alignment, bool *is_zero)
{
	unsigned class_no = NO_CLASS;
	void *p = NULL;

	if (size <= SMALL_MAX)
		class_no = alignment <= 8 ? class_of(size) : class_aligned(size, alignment);
	if (class_no == NO_CLASS)
		return alloc_large(heap, tcache, size, alignment, is_zero);
	if (is_better_alone(heap, tcache, class_no))
		p = alloc_alone(heap, tcache, class_no, size, alignment, is_zero);
	return p ? p : alloc_slot(heap, tcache, class_no, alignment <= 8);
}

void *alloc_new(struct heap *heap, size_t size, size_t alignment, bool *is_zero)
{
	struct tcache *tcache;
	void *p;

	*is_zero = false;
	if (prepare_change(heap))
		return NULL;
	tcache = tcache_attach(heap);
	p = alloc_once(heap, tcache, size, alignment, is_zero);
	if (likely(p != NULL))
		return p;
	if (tcache && tcache_release_empty(tcache))
		p = alloc_once(heap, tcache, size, alignment, is_zero);
	if (!p)
		errno = ENOMEM; /* giving space back may have changed it */
	return p;
}

/* ---------------------------------------------------------------- from an address to its object */

static bool slot_is_live(const struct unit *slab, uint32_t slot)
{
	const uint64_t *pair = slab_pair(slab, slot / 64);

	return (truth_load(&pair[0]) & ~truth_load(&pair[1])) >> slot % 64 & 1;
}

/* The head descriptor for the unit of `off`, examined; NULL if nothing is allocated there. Needs the lock. */
static struct unit *head_at(struct heap *heap, uint64_t off)
{
	uint64_t unit_no = off >> UNIT_SHIFT;
	uint64_t segment_no = segment_of_unit(unit_no);
	struct unit *unit;

	if (off >= heap->store.size)
		return NULL;
	segment_resolve(heap, unit_no);
	switch (segment_state(heap, segment_no)) {
	case SEG_EXAMINED:
		unit = &heap->units[unit_no];
		unit -= load_relaxed(&unit->back);
		return unit_state(unit) == UNIT_IS_SLAB || unit_state(unit) == UNIT_IS_RUN ? unit : NULL;
	case SEG_INTERIOR:
		while (segment_state(heap, segment_no) == SEG_INTERIOR)
			segment_no--;
		/* fall through */
	case SEG_HUGE:
		return &heap->units[segment_no * SEGMENT_UNITS];
	default:
		return NULL;
	}
}

/* The head of a slab or run that is described already; else NULL. Without the lock: if something is live at `off`, its
 * slab or run stays. */
static struct unit *described_head(struct heap *heap, uint64_t off)
{
	struct unit *unit;

	if (off >= heap_size(heap))
		return NULL;
	unit = &heap->units[off >> UNIT_SHIFT];
	unit -= load_relaxed(&unit->back);
	/* the owner pairs with the release in slab_set_owner */
	return load_acquire(&unit->owner) != 0 || unit_state(unit) == UNIT_IS_RUN ? unit : NULL;
}

/* The thread's cache of the heap, if it has one. */
static struct tcache *own_cache(const struct heap *heap)
{
	struct tcache *tcache = thread_current->cache[heap->slot];

	return tcache && tcache->heap == heap ? tcache : NULL;
}

bool alloc_object_at(struct heap *heap, uint64_t off, struct object *object)
{
	struct unit *unit = described_head(heap, off);
	uint64_t start, slot, slot_size;

	if (!unit) {
		heap_lock(heap);
		unit = head_at(heap, off);
		heap_unlock(heap);
	}
	if (!unit)
		return false;
	start = unit_no_of(heap, unit) << UNIT_SHIFT;
	object->unit = unit;
	object->kind = UNIT_IS_SLAB;
	object->slot = 0;
	/* units change hands without the lock: what is live stays, what is not may be gone by now, or something else */
	if (load_acquire(&unit->owner) == 0) {
		object->off = start;
		object->is_live = large_is_there(heap, unit, &object->kind, &object->len) && off - start < object->len;
		return object->is_live;
	}
	slot_size = load_relaxed(&unit->slot_size);
	slot = (off - start) / slot_size;
	if (slot >= load_relaxed(&unit->slots))
		return false;
	while (bit_is_set(slab_joined(unit, (unsigned)slot / 64), slot))
		slot--;
	object->slot = (uint32_t)slot;
	object->off = start + slot * slot_size;
	object->len = count_bits(slab_object_slots(unit, object->slot)) * slot_size;
	object->is_live = slot_is_live(unit, object->slot);
	return true;
}

/* The live object that begins at `p`; false after fail() with *misuse set. */
static bool find_live(struct heap *heap, const void *p, struct object *object, enum fm_misuse_kind *misuse)
{
	uint64_t off = (uint64_t)((const uint8_t *)p - heap->store.base);

	if (alloc_object_at(heap, off, object)) {
		if (object->is_live && object->off == off)
			return true;
		if (object->off == off) {
			*misuse = FM_DOUBLE_FREE;
			return fail(EINVAL, "%p is freed already", p), false;
		}
	} else if (off < heap_size(heap) && off % 8 == 0 && off >= HEAP_MIN_SIZE &&
	           unit_state(&heap->units[off >> UNIT_SHIFT]) != UNIT_IS_META) {
		enum segment_state state;

		heap_lock(heap);
		state = segment_state(heap, off >> SEGMENT_SHIFT);
		heap_unlock(heap);
		if (state == SEG_DAMAGED)
			return fail(EUCLEAN, "%p lies in a damaged part of the heap", p), false;
		if (state == SEG_FREE || unit_state(&heap->units[off >> UNIT_SHIFT]) == UNIT_IS_FREE) {
			/* its slab, run or segment was released as a whole */
			*misuse = FM_DOUBLE_FREE;
			return fail(EINVAL, "%p is freed already, or never was an object", p), false;
		}
	}
	*misuse = FM_INVALID_POINTER;
	return fail(EINVAL, "%p is not the start of an object", p), false;
}

/* ---------------------------------------------------------------- freeing */

/* A slot of a slab that is described already: no lock. False: it has to be found out. */
static bool free_slot(struct heap *heap, uint64_t off)
{
	struct unit *unit = described_head(heap, off);

	return unit && unit_state(unit) == UNIT_IS_SLAB && slab_free_at(heap, unit, off);
}

bool alloc_free_run(struct heap *heap, struct tcache *tcache, struct unit *unit)
{
	bool done;

	if (likely(tcache != NULL)) {
		tcache_begin_units(tcache);
		done = large_free_run(heap, &tcache->near, unit);
		tcache_end_units(tcache);
	} else {
		heap_lock(heap);
		done = large_free_run(heap, NULL, unit);
		heap_unlock(heap);
	}
	if (done)
		giveback_note(heap);
	return done;
}

int alloc_free(struct heap *heap, void *p, enum fm_misuse_kind *misuse)
{
	struct object object;
	bool done;

	if (prepare_change(heap))
		return -1;
	if (free_slot(heap, (uint64_t)((uint8_t *)p - heap->store.base)))
		return 0;
	if (!find_live(heap, p, &object, misuse))
		return -1;
	if (object.kind == UNIT_IS_SLAB) {
		done = slab_free_remote(heap, object.unit, object.slot) == 0;
	} else if (object.kind == UNIT_IS_RUN) {
		done = alloc_free_run(heap, own_cache(heap), object.unit);
	} else {
		heap_lock(heap);
		done = large_free_huge(heap, object.unit);
		heap_unlock(heap);
		giveback_note(heap);
	}
	if (done)
		return 0;
	*misuse = FM_DOUBLE_FREE;
	return fail(EINVAL, "%p was freed by another thread meanwhile", p);
}

size_t alloc_usable_size(struct heap *heap, const void *p, enum fm_misuse_kind *misuse)
{
	struct object object;

	return find_live(heap, p, &object, misuse) ? object.len : 0;
}

/* ---------------------------------------------------------------- giving space back */

int alloc_trim(struct heap *heap, uint64_t keep_len)
{
	struct tcache *tcache;
	bool any = false;

	if (prepare_change(heap))
		return -1;
	if (!giveback_may(heap))
		return 0;
	tcache = tcache_attach(heap);
	if (tcache)
		tcache_release_empty(tcache);
	heap_lock(heap);
	if (giveback_tail(heap))
		any = true;
	if (giveback_now(heap, keep_len, UNIT_SIZE))
		any = true;
	heap_unlock(heap);
	return any;
}

/* ---------------------------------------------------------------- changing the size */

/* In place: the slot is right for the size, or the large object can be cut or extended. */
static bool resize_in_place(struct heap *heap, const struct object *object, size_t size)
{
	struct tcache *tcache;
	bool done;

	if (object->kind == UNIT_IS_SLAB)
		return slot_suits(object->unit, object->off, object->len, size);
	if (size <= SMALL_MAX && size < object->len / KEEP_SHARE)
		return false;
	tcache = own_cache(heap);
	if (likely(tcache != NULL)) {
		tcache_begin_units(tcache);
		done = large_resize_within(heap, object->unit, size);
		tcache_end_units(tcache);
		if (done)
			return true;
	}
	heap_lock(heap);
	done = large_resize(heap, tcache ? &tcache->near : NULL, object->unit, size);
	heap_unlock(heap);
	giveback_note(heap);
	return done;
}

/* Where an object goes that can't be resized in place. */
static void *new_place(struct heap *heap, const struct object *object, size_t size)
{
	void *place = NULL;
	bool is_zero;

	/* what has grown to more than a segment may grow on. No holes are made in an atomic heap */
	if (size > object->len && size > SEGMENT_SIZE && giveback_may(heap)) {
		heap_lock(heap);
		place = large_alloc_roomy(heap, size);
		heap_unlock(heap);
	}
	return place ? place : alloc_new(heap, size, 8, &is_zero);
}

void *alloc_resize(struct heap *heap, void *p, size_t size, enum fm_misuse_kind *misuse)
{
	struct object object;
	void *moved;

	if (prepare_change(heap) || !find_live(heap, p, &object, misuse))
		return NULL;
	if (resize_in_place(heap, &object, size))
		return p;
	moved = new_place(heap, &object, size);
	if (!moved)
		return NULL;
	store_wrote(&heap->store, moved, min_u64(size, object.len));
	memcpy(moved, p, min_u64(size, object.len));
	if (alloc_free(heap, p, misuse) == 0)
		return moved;
	/* freed by another thread under our hands */
	alloc_free(heap, moved, misuse);
	return NULL;
}
