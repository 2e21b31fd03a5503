/* SPDX-License-Identifier: Apache-2.0
 *
 * Allocating when a window has no slot: from the thread's own slabs, from others, from new ones.
 */
#include "giveback.h"
#include "join.h"
#include "lists.h"
#include "owner.h"
#include "segment.h"

#include <string.h>

/* Slabs that are used up before the inbox is looked into: seldom, since what it names was written last by another
 * processor; often enough that what it holds up stays little. */
#define DRAIN_EVERY 16

static struct unit *make_near(struct tcache *tcache, unsigned class_no)
{
	struct heap *heap = tcache->heap;
	struct unit *slab = NULL;
	uint64_t unit_no;

	tcache_begin_units(tcache);
	unit_no = units_take_near(heap, &tcache->near, size_classes[class_no].units, USED_BEFORE);
	if (unit_no)
		slab = slab_make(heap, unit_no, class_no, tcache->id);
	tcache_end_units(tcache);
	return slab;
}

bool tcache_release_kept(struct tcache *tcache)
{
	if (!tcache->kept)
		return false;
	kept_release(tcache, 0);
	giveback_note(tcache->heap);
	return true;
}

/* A slab in a segment that the cache knows, of units that were used before; NULL if there are none, or there are slabs
 * of the class without owner, which come first. Without the lock. */
static struct unit *acquire_near(struct tcache *tcache, unsigned class_no)
{
	struct heap *heap = tcache->heap;
	struct unit *slab;

	if (load_relaxed(&heap->unowned[class_no]))
		return NULL;
	slab = make_near(tcache, class_no);
	if (!slab && tcache_release_kept(tcache))
		slab = make_near(tcache, class_no);
	if (slab)
		owned_push(tcache, slab);
	tcache->units_len = heap_size(heap) >> UNIT_SHIFT;
	return slab;
}

/* Is there a slab to adopt, or `units` that were used before? */
static bool can_do_without_growth(struct tcache *tcache, unsigned class_no, unsigned units)
{
	struct heap *heap = tcache->heap;
	bool can;

	kept_release(tcache, 0);
	heap_lock(heap);
	can = heap->unowned[class_no] || units_are_at_hand(heap, units);
	heap_unlock(heap);
	return can;
}

static struct unit *acquire(struct tcache *tcache, unsigned class_no)
{
	struct heap *heap = tcache->heap;
	struct unit *slab;
	uint64_t unit_no;

	heap_lock(heap);
	slab = slab_adopt(heap, class_no, tcache->id);
	if (!slab) {
		kept_release(tcache, 0);
		unit_no = units_take(heap, &tcache->near, size_classes[class_no].units, 1);
		slab = unit_no ? slab_make(heap, unit_no, class_no, tcache->id) : NULL;
		/* trying may have examined segments with slabs of this class: use those first */
		if (heap->unowned[class_no]) {
			if (slab) {
				slab_set_owner(slab, OWNER_NONE);
				slab_settle(heap, slab);
			}
			slab = slab_adopt(heap, class_no, tcache->id);
		}
	}
	if (slab)
		owned_push(tcache, slab);
	tcache->units_len = heap_size(heap) >> UNIT_SHIFT;
	heap_unlock(heap);
	return slab;
}

/* Let the window have the next word of `slab` that has free slots, or had when the summary was made: in turn, so that each
 * has gathered some. */
static void window_load(struct tcache *tcache, struct window *window, struct unit *slab)
{
	uint64_t words = slab->summary & low_mask(slab->reach), behind = words & ~low_mask(window->word + 1);
	unsigned w = lowest_bit(behind ? behind : words);
	uint64_t *pair = slab_pair(slab, w);

	if (unlikely(truth_load(&pair[1]) != 0))
		slab_harvest_word(slab, w);
	window->live = (intptr_t)pair - (intptr_t)tcache;
	window->mask = slab_word_mask(slab, w);
	window->word = w;
	window->slot_size = slab->slot_size;
	window->base = tcache->base + ((uint64_t)(slab - tcache->units) << UNIT_SHIFT) +
	               (uint64_t)w * 64 * slab->slot_size;
}

static void window_clear(struct tcache *tcache, unsigned class_no)
{
	memset(&tcache->window[class_no], 0, sizeof(tcache->window[class_no]));
	tcache->current[class_no] = NULL;
}

/* The window is the slab's from now on, before its first word. The slab is in no list, its summary complete. */
static void window_enter(struct tcache *tcache, unsigned class_no, struct unit *slab)
{
	slab->alarm = ALARM_NEVER;
	store_relaxed(&slab->no_run, (uint8_t)65);
	slab_forget_joined(slab);
	tcache->current[class_no] = slab;
	tcache->window[class_no].word = PAIRS - 1;
	if (!(slab->summary & low_mask(slab->reach)))
		slab_look(slab);
}

/* The window's word is full, whatever was freed there since it was loaded: has the slab another one with free slots? If
 * the summary knows of none, what was freed meanwhile is looked for. */
static bool has_next_word(struct unit *slab, const struct window *window)
{
	slab->summary &= ~(UINT64_C(1) << window->word);
	if (!(slab->summary & low_mask(slab->reach)) && slab->words > 1)
		slab_look(slab);
	return slab->summary & low_mask(slab->reach);
}

/* The cache's next slab with free slots, or NULL. */
static struct unit *next_slab(struct tcache *tcache, unsigned class_no)
{
	struct unit *slab = tcache_next_partial(tcache, class_no);

	return slab ? slab : kept_take(tcache, class_no);
}

/* The window's slab is full. A thread that always finds another one would never look into its inbox. */
static void leave_slab(struct tcache *tcache, unsigned class_no, struct unit *slab)
{
	slab->empty = 0;
	slab->alarm = ALARM_ALWAYS;
	window_clear(tcache, class_no);
	if (++tcache->used_up % DRAIN_EVERY == 0)
		inbox_drain(tcache);
}

bool tcache_take_own(struct tcache *tcache, unsigned class_no, void **p)
{
	struct window *window = &tcache->window[class_no];
	struct unit *slab = tcache->current[class_no];

	while (!window_take(tcache, window, p)) {
		if (slab && !has_next_word(slab, window)) {
			leave_slab(tcache, class_no, slab);
			slab = NULL;
		}
		if (!slab) {
			slab = next_slab(tcache, class_no);
			if (!slab)
				return false; /* and nothing was stored: tcache_none is all threads' */
			window_enter(tcache, class_no, slab);
		}
		window_load(tcache, window, slab);
	}
	return true;
}

void *tcache_take_joined(struct tcache *tcache, unsigned class_no, unsigned units)
{
	if (!tcache->source[class_no] && can_do_without_growth(tcache, class_no, units))
		return NULL;
	return join_take(tcache, class_no);
}

/* A slab from where the lock may be needed, or of new space; or joined slots for *p, if the caller may have any multiple
 * of 16. NULL if there is neither, or with *p. */
static struct unit *find_slab(struct tcache *tcache, unsigned class_no, bool may_join, void **p)
{
	struct unit *slab = acquire_near(tcache, class_no);

	if (slab)
		return slab;
	if (may_join)
		*p = tcache_take_joined(tcache, class_no, size_classes[class_no].units);
	return *p ? NULL : acquire(tcache, class_no);
}

void *tcache_refill(struct tcache *tcache, unsigned class_no, bool may_join)
{
	struct unit *slab;
	void *p = NULL;

	while (!tcache_take_own(tcache, class_no, &p)) {
		if (inbox_drain(tcache))
			continue;
		p = NULL;
		slab = find_slab(tcache, class_no, may_join, &p);
		if (!slab)
			return p;
		window_enter(tcache, class_no, slab);
		window_load(tcache, &tcache->window[class_no], slab);
	}
	return p;
}

/* The slab is in the window and nothing in it is allocated. */
static bool is_current_empty(const struct tcache *tcache, unsigned class_no)
{
	const struct unit *slab = tcache->current[class_no];

	for (unsigned w = 0; slab && w < slab->words; w++)
		if (truth_load(slab_pair(slab, w)))
			return false;
	return slab;
}

bool tcache_release_empty(struct tcache *tcache)
{
	struct heap *heap = tcache->heap;
	bool any;

	inbox_drain(tcache);
	for (unsigned c = 0; c < CLASSES; c++)
		join_end(tcache, c);
	for (unsigned c = 0; c < CLASSES; c++) {
		struct unit *slab = tcache->current[c];

		if (!is_current_empty(tcache, c))
			continue;
		window_clear(tcache, c);
		slab->empty = slab_all_words(slab);
		kept_push(tcache, slab);
	}
	any = tcache->kept;
	kept_release(tcache, 0);
	if (any)
		giveback_note(heap);
	return any;
}
