/* SPDX-License-Identifier: Apache-2.0 */
#include "walk.h"

#include "commit.h"
#include "../base/status.h"
#include "directory.h"
#include "large.h"
#include "roots.h"
#include "segment.h"

#include <errno.h>

struct walk {
	struct heap *heap;
	struct roots_set own; /* the root table and its records: not the program's objects */
	int (*visit)(const struct object *object, void *arg);
	void *arg;
};

static int visit_object(struct walk *walk, const struct object *object)
{
	return roots_set_has(&walk->own, object->off) ? 0 : walk->visit(object, walk->arg);
}

static int walk_slab(struct walk *walk, struct unit *slab)
{
	uint64_t unit_no = unit_no_of(walk->heap, slab);
	const uint64_t *head = unit_words(walk->heap, segment_of_unit(unit_no)) + index_in_segment(unit_no);
	uint64_t head_word = truth_load(head);
	struct object object = {.unit = slab, .kind = UNIT_IS_SLAB, .len = slab->slot_size, .is_live = true};

	for (unsigned w = 0; w < slab->words; w++) {
		const uint64_t *pair = slab_pair(slab, w);
		uint64_t live = truth_load(&pair[0]) & ~truth_load(&pair[1]) & slab_word_mask(slab, w);

		for (live &= ~slab_joined(slab, w); live; live &= live - 1) {
			int r;

			object.slot = w * 64 + lowest_bit(live);
			object.len = count_bits(slab_object_slots(slab, object.slot)) * (uint64_t)slab->slot_size;
			object.off = (unit_no << UNIT_SHIFT) + (uint64_t)object.slot * slab->slot_size;
			r = visit_object(walk, &object);
			if (r)
				return r;
			/* visit freed the last one, and the slab went with it */
			if (truth_load(head) != head_word)
				return 0;
		}
	}
	return 0;
}

static int walk_large(struct walk *walk, struct unit *unit)
{
	struct object object = {.unit = unit, .kind = unit_state(unit), .len = large_size(unit), .is_live = true};

	object.off = unit_no_of(walk->heap, unit) << UNIT_SHIFT;
	return visit_object(walk, &object);
}

static enum segment_state resolved_state(struct heap *heap, uint64_t segment_no)
{
	enum segment_state state;

	heap_lock(heap);
	segment_resolve(heap, segment_no * SEGMENT_UNITS);
	state = segment_state(heap, segment_no);
	heap_unlock(heap);
	return state;
}

static int walk_segment(struct walk *walk, uint64_t segment_no)
{
	struct unit *units = &walk->heap->units[segment_no * SEGMENT_UNITS];
	enum segment_state state = resolved_state(walk->heap, segment_no);
	int r = 0;

	if (state == SEG_HUGE)
		return walk_large(walk, units);
	if (state != SEG_EXAMINED)
		return 0;
	for (unsigned u = metadata_unit(segment_no) + 1; !r && u < SEGMENT_UNITS; u++) {
		if (units[u].back)
			continue;
		if (unit_state(&units[u]) == UNIT_IS_SLAB)
			r = walk_slab(walk, &units[u]);
		else if (unit_state(&units[u]) == UNIT_IS_RUN)
			r = walk_large(walk, &units[u]);
		/* freeing may have released the whole segment */
		if (walk->heap->segments[segment_no].state != SEG_EXAMINED)
			break;
	}
	return r;
}

int walk_objects(struct heap *heap, int (*visit)(const struct object *object, void *arg), void *arg)
{
	struct walk walk = {.heap = heap, .visit = visit, .arg = arg};
	int r = 0;

	if (roots_set_make(heap, &walk.own))
		return -1;
	for (uint64_t s = 0; !r && s <= directory_last(heap) && s < heap->covered; s++)
		r = walk_segment(&walk, s);
	roots_set_drop(&walk.own);
	return r;
}

static void count_object(struct fm_statistics *stats, enum unit_state state, uint64_t n, uint64_t len)
{
	stats->live_objects += n;
	stats->live_bytes += n * len;
	if (state == UNIT_IS_SLAB)
		stats->small_objects += n;
	else if (state == UNIT_IS_RUN)
		stats->large_objects += n;
	else
		stats->huge_objects += n;
}

static void count_slab(struct fm_statistics *stats, const struct unit *slab)
{
	stats->slab_bytes += slab->units * UNIT_SIZE;
	for (unsigned w = 0; w < slab->words; w++) {
		const uint64_t *pair = slab_pair(slab, w);
		uint64_t live = truth_load(&pair[0]) & slab_word_mask(slab, w), freed = truth_load(&pair[1]);
		uint64_t joined = slab_joined(slab, w);

		stats->remote_frees += count_bits(freed);
		freed |= joined_to(freed & ~joined, joined);
		stats->live_bytes += count_bits(live & ~freed & joined) * (uint64_t)slab->slot_size;
		count_object(stats, UNIT_IS_SLAB, count_bits(live & ~freed & ~joined), slab->slot_size);
	}
}

/* By the file's words: threads take and release units meanwhile. Needs the lock. */
static void count_segment(struct heap *heap, uint64_t segment_no, struct fm_statistics *stats)
{
	const uint64_t *words = unit_words(heap, segment_no);
	unsigned first = metadata_unit(segment_no) + 1;
	uint64_t units_in_file = min_u64((heap->store.size >> UNIT_SHIFT) - segment_no * SEGMENT_UNITS, SEGMENT_UNITS);
	enum segment_state state;

	segment_resolve(heap, segment_no * SEGMENT_UNITS);
	state = segment_state(heap, segment_no);
	if (state == SEG_HUGE)
		count_object(stats, UNIT_IS_HUGE, 1, large_size(&heap->units[segment_no * SEGMENT_UNITS]));
	if (state == SEG_FREE)
		stats->free_bytes += units_in_file * UNIT_SIZE;
	if (state != SEG_EXAMINED)
		return;
	for (unsigned u = first; u < units_in_file; u++) {
		uint64_t word = truth_load(&words[u]);
		struct unit slab;

		if (word == UNIT_FREE || word == UNIT_INTERIOR) /* of nothing: those of objects are skipped below */
			stats->free_bytes += UNIT_SIZE;
		if (!unit_word_is_valid(word, u, first))
			continue;
		if (unit_word_kind(word) == UNIT_SLAB) {
			slab_lay_out(heap, &slab, segment_no * SEGMENT_UNITS + u, word);
			count_slab(stats, &slab);
		} else {
			count_object(stats, UNIT_IS_RUN, 1, run_word_pages(word) * LENGTH_PAGE);
		}
		u += (unsigned)unit_word_units(word) - 1;
	}
}

/* What the root table takes is not the program's. */
static void discount_roots(struct heap *heap, const struct roots_set *own, struct fm_statistics *stats)
{
	struct object object;

	for (uint64_t i = 0; i < own->slots; i++)
		if (own->slot[i] && alloc_object_at(heap, own->slot[i], &object) && object.is_live)
			count_object(stats, object.kind, UINT64_MAX, object.len); /* minus one */
}

int walk_stats(struct heap *heap, struct fm_statistics *stats)
{
	struct roots_set own;
	struct os_stat st;
	int r = store_stat(&heap->store, &st);

	if (r == -EBADF)
		st = (struct os_stat){.size = heap_size(heap)};
	else if (r)
		return fail(-r, "looking at the heap's file:");
	stats->file_size = st.size;
	stats->disk_size = st.blocks * 512;
	stats->max_size = heap->store.max_size;
	stats->address_space = heap->store.reserved;
	heap_commit_stats(heap, stats);
	if (roots_set_make(heap, &own))
		return -1;
	for (uint64_t s = 0; s << SEGMENT_SHIFT < heap_size(heap); s++) {
		heap_lock(heap);
		if (s << SEGMENT_SHIFT < heap->store.size)
			count_segment(heap, s, stats);
		heap_unlock(heap);
	}
	discount_roots(heap, &own, stats);
	roots_set_drop(&own);
	return 0;
}
