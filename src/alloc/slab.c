/* SPDX-License-Identifier: Apache-2.0 */
#include "slab.h"

#include "backing.h"
#include "segment.h"

/* Pairs that follow one another in memory: the places of pair 0 are multiples of that (pair_colour). */
#define LINE_PAIRS 4

/* Bytes that windows use of a new slab at first. */
#define FIRST_REACH 4095

void slab_unjoin(struct unit *slab, unsigned w)
{
	uint64_t *joint = slab_joint(slab, w);

	if (slab->has_joined && truth_load(joint) & ~truth_load(slab_pair(slab, w)))
		truth_store(joint, truth_load(joint) & truth_load(slab_pair(slab, w)));
}

void slab_forget_joined(struct unit *slab)
{
	if (!slab->has_joined)
		return;
	for (unsigned w = 0; w < slab->words; w++)
		if (truth_load(slab_joint(slab, w)))
			return;
	store_relaxed(&slab->has_joined, 0u);
	/* as in harvesting, so that no remote bit is missed */
	store_seq(&slab->quick_owner, load_relaxed(&slab->owner));
	slab_harvest(slab, slab_all_words(slab));
}

uint64_t slab_harvest_word(struct unit *slab, unsigned w)
{
	uint64_t *pair = slab_pair(slab, w);
	uint64_t live = truth_load(&pair[0]);
	uint64_t freed = truth_load_acquire(&pair[1]); /* pairs with truth_set_bits in owner.c */

	if (freed) {
		live &= ~(freed | joined_to(freed, slab_joined(slab, w)));
		truth_store(&pair[0], live);
		slab_unjoin(slab, w);
		truth_clear_bits(&pair[1], freed);
	}
	return live;
}

void slab_harvest(struct unit *slab, uint64_t words)
{
	for (; words; words &= words - 1) {
		unsigned w = lowest_bit(words);
		uint64_t bit = UINT64_C(1) << w;
		uint64_t live = slab_harvest_word(slab, w);

		if (~live & slab_word_mask(slab, w))
			slab->summary |= bit;
		if (!live)
			slab->empty |= bit;
	}
}

/* Slots of word `w` that are free, or freed by another thread. */
static uint64_t free_in(const struct unit *slab, unsigned w)
{
	const uint64_t *pair = slab_pair(slab, w);

	return (~truth_load(&pair[0]) | truth_load(&pair[1])) & slab_word_mask(slab, w);
}

/* Are there none in the LINE_PAIRS words from `w` on, which have all 64 slots? Their pairs are in one cache line. */
static bool are_full(const struct unit *slab, unsigned w)
{
	const uint64_t *pair = slab_pair(slab, w);
	uint64_t live = UINT64_MAX, freed = 0;

	for (unsigned i = 0; i < 2 * LINE_PAIRS; i += 2) {
		live &= truth_load(&pair[i]);
		freed |= truth_load(&pair[i + 1]);
	}
	return live == UINT64_MAX && freed == 0;
}

/* Bring the summary's words [w, end) up to date; how many slots are free there. */
static unsigned look(struct unit *slab, unsigned w, unsigned end)
{
	unsigned whole = slab->slots / 64, n = 0;
	uint64_t summary = slab->summary & ~range_mask(w, end - w);

	while (w < end) {
		uint64_t free;

		if (w % LINE_PAIRS == 0 && w + LINE_PAIRS <= min_u64(whole, end) && are_full(slab, w)) {
			w += LINE_PAIRS;
			continue;
		}
		free = free_in(slab, w);
		summary |= (uint64_t)(free != 0) << w++;
		n += (unsigned)count_bits(free);
	}
	slab->summary = summary;
	return n;
}

void slab_look(struct unit *slab)
{
	unsigned from = 0, free = 0, reach = slab->reach;

	for (;;) {
		free += look(slab, from, reach);
		if (reach == slab->words || free >= reach * 64 / 3)
			break;
		from = reach;
		reach = (unsigned)min_u64(2 * reach, slab->words);
	}
	slab->reach = (uint8_t)reach;
}

/* Words of a new slab that take some memory pages at most. */
static unsigned first_reach(const struct unit *slab)
{
	return (unsigned)min_u64(FIRST_REACH / 64 / slab->slot_size + 1, slab->words);
}

void slab_lay_out(const struct heap *heap, struct unit *slab, uint64_t unit_no, uint64_t word)
{
	uint64_t segment_no = segment_of_unit(unit_no);
	unsigned u = index_in_segment(unit_no);

	/* relaxed: threads with a pointer to what the units were before may look (alloc_object_at) */
	store_relaxed(&slab->slot_size, slab_word_slot_size(word));
	store_relaxed(&slab->units, (uint8_t)slab_word_units(word));
	store_relaxed(&slab->slots, (uint16_t)(((uint64_t)slab->units << UNIT_SHIFT) / slab->slot_size));
	store_relaxed(&slab->words, (uint8_t)((slab->slots + 63) / 64));
	store_relaxed(&slab->reciprocal, (uint64_t)(UINT32_MAX / slab->slot_size + 1));
	store_relaxed(&slab->remainders, (uint32_t)slab->reciprocal);
	store_relaxed(&slab->class_no, (uint8_t)class_with_slot(slab->slot_size));
	store_relaxed(&slab->pair_0, unit_words(heap, segment_no) + u * (PAIRS_LEN / 8) + 2 * pair_colour(segment_no, u));
	store_relaxed(&slab->has_joined, 0u);
	for (unsigned w = 0; w < slab->words && slab_can_join(slab); w++)
		if (truth_load(slab_joint(slab, w)))
			store_relaxed(&slab->has_joined, 1u);
}

void slab_describe(struct heap *heap, uint64_t unit_no, uint64_t word)
{
	struct unit *slab = &heap->units[unit_no];

	slab_lay_out(heap, slab, unit_no, word);
	store_relaxed(&slab->no_run, (uint8_t)65);
	slab->summary = slab->empty = 0;
	slab->reach = slab->words;
	slab->alarm = ALARM_ALWAYS;
	store_relaxed(&slab->back, (uint8_t)0);
	slab->next = slab->prev = slab->owned_next = slab->owned_prev = NULL;
	store_relaxed(&slab->pending, 0);
	unit_set_state(slab, UNIT_IS_SLAB);
}

struct unit *slab_make(struct heap *heap, uint64_t unit_no, unsigned class_no, uint64_t owner)
{
	const struct size_class *class = &size_classes[class_no];
	uint64_t word = slab_word(class->units, class->slot_size);
	uint64_t off = unit_no << UNIT_SHIFT, len = (uint64_t)class->units << UNIT_SHIFT;
	uint64_t *words;
	struct unit *slab;

	/* small objects fill their slab; of large ones nobody knows how much will be written */
	if (backing_take(heap, off, len) && len == UNIT_SIZE)
		store_prefault(&heap->store, off, len);
	slab_describe(heap, unit_no, word);
	slab = &heap->units[unit_no];
	for (unsigned w = 0; w <= slab->words && w < PAIRS; w++)
		truth_clear_words(slab_pair(slab, w), 2);
	for (unsigned w = 0; w < slab->words && slab_can_join(slab); w++)
		truth_clear_words(slab_joint(slab, w), 2);
	store_relaxed(&slab->has_joined, 0u); /* what the units said in an earlier life */
	words = unit_words(heap, segment_of_unit(unit_no)) + index_in_segment(unit_no);
	describe_interiors(heap, unit_no, 1, class->units, UNIT_IS_SLAB);
	for (unsigned i = 1; i < class->units; i++)
		truth_store(&words[i], UNIT_INTERIOR);
	truth_store(&words[0], word);
	slab->summary = slab->empty = slab_all_words(slab);
	slab->reach = (uint8_t)first_reach(slab);
	slab_set_owner(slab, owner);
	/* a late notification of the units' earlier life may have come before the owner could be seen */
	exchange_seq(&slab->pending, UINT64_C(0));
	return slab;
}

void slab_release(struct heap *heap, struct near *near, struct unit *slab)
{
	uint64_t unit_no = unit_no_of(heap, slab);

	truth_store(unit_words(heap, segment_of_unit(unit_no)) + index_in_segment(unit_no), UNIT_FREE);
	units_release(heap, near, unit_no, slab->units);
}

static void unowned_push(struct heap *heap, struct unit *slab)
{
	struct unit **head = &heap->unowned[slab->class_no];

	slab->alarm = ALARM_EMPTY;
	slab->prev = NULL;
	slab->next = *head;
	if (*head)
		(*head)->prev = slab;
	store_relaxed(head, slab);
}

static void unowned_remove(struct heap *heap, struct unit *slab)
{
	if (slab->prev)
		slab->prev->next = slab->next;
	else
		store_relaxed(&heap->unowned[slab->class_no], slab->next);
	if (slab->next)
		slab->next->prev = slab->prev;
	slab->next = slab->prev = NULL;
	slab->alarm = ALARM_ALWAYS;
}

/* Release the unowned slab if it is empty, list it if it has free slots. */
static void place(struct heap *heap, struct unit *slab)
{
	if (slab->empty == slab_all_words(slab)) {
		if (slab_is_listed(slab))
			unowned_remove(heap, slab);
		slab_release(heap, NULL, slab);
		if (heap->store.is_atomic)
			units_settle(heap); /* as in giveback_note */
	} else if (slab->summary && !slab_is_listed(slab) && slab->class_no != NO_CLASS) {
		unowned_push(heap, slab);
	}
}

/* Harvest all of an unowned slab and count anew. Where nothing may be written all is left as if it were
 * full. */
static void count_anew(struct heap *heap, struct unit *slab)
{
	slab->summary = slab->empty = 0;
	if (!heap_may_write(heap))
		return;
	exchange_seq(&slab->pending, UINT64_C(0));
	slab_harvest(slab, slab_all_words(slab));
	/* what a kill left behind an object that was being made or freed */
	for (unsigned w = 0; w < slab->words; w++)
		slab_unjoin(slab, w);
}

void slab_collect(struct heap *heap, struct unit *slab)
{
	slab_harvest(slab, exchange_seq(&slab->pending, UINT64_C(0)) & slab_all_words(slab));
	place(heap, slab);
}

void slab_settle(struct heap *heap, struct unit *slab)
{
	count_anew(heap, slab);
	place(heap, slab);
}

struct unit *slab_adopt(struct heap *heap, unsigned class_no, uint64_t owner)
{
	struct unit *slab = heap->unowned[class_no];

	if (!slab)
		return NULL;
	unowned_remove(heap, slab);
	/* Dekker pair with a freeing thread (owner.h): the owner first, then a look at the remote words */
	slab_set_owner(slab, owner);
	count_anew(heap, slab);
	return slab;
}

void *slab_take_unowned(struct heap *heap, unsigned class_no)
{
	struct unit *slab;
	unsigned w, slot;
	uint64_t *pair;
	uint64_t free;

	while (!heap->unowned[class_no] && segment_examine_some(heap))
		;
	slab = heap->unowned[class_no];
	if (!slab) {
		uint64_t unit_no = units_take(heap, NULL, size_classes[class_no].units, 1);

		if (unit_no == 0)
			return NULL;
		slab = slab_make(heap, unit_no, class_no, OWNER_NONE);
		unowned_push(heap, slab);
	}
	w = lowest_bit(slab->summary);
	pair = slab_pair(slab, w);
	free = ~slab_harvest_word(slab, w) & ~truth_load(&pair[1]) & slab_word_mask(slab, w);
	slot = lowest_bit(free);
	truth_store(&pair[0], truth_load(&pair[0]) | UINT64_C(1) << slot);
	if (!(free & (free - 1)))
		slab->summary &= ~(UINT64_C(1) << w);
	slab->empty &= ~(UINT64_C(1) << w);
	if (!slab->summary)
		unowned_remove(heap, slab);
	return unit_address(heap, slab) + (size_t)(w * 64 + slot) * slab->slot_size;
}
