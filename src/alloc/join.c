/* SPDX-License-Identifier: Apache-2.0 */
#include "join.h"

/* Slabs of each class that one call looks at, and of all that a sample looks at. */
#define SLABS_A_CLASS 2
#define SAMPLE        16

/* What an object of joined slots may waste: first no more than in a slab of its own would be wasted; then a third,
 * which is less than what growing takes while those slots lie idle. */
static const unsigned waste_share[] = {8, 3};

#define PASSES (sizeof(waste_share) / sizeof(waste_share[0]))

/* Slots for an object as large as a slot of `class_no`; 0 if one would do, or their number is too large. */
static unsigned slots_for(unsigned class_no, unsigned of)
{
	uint32_t want = size_classes[class_no].slot_size, slot_size = size_classes[of].slot_size;
	uint32_t n = (want + slot_size - 1) / slot_size;

	return n > 1 && n <= 64 ? n : 0;
}

/* The same, and 0 if too much would be wasted. */
static unsigned slots_within(unsigned class_no, unsigned of, unsigned share)
{
	uint32_t n = slots_for(class_no, of);
	uint32_t len = n * size_classes[of].slot_size;

	return n && (len - size_classes[class_no].slot_size) * share <= len ? n : 0;
}

/* Slots at which an object may begin: of slots that are odd multiples of 8 only every second lies at a multiple
 * of 16. */
static uint64_t beginnings(unsigned class_no, const struct unit *slab)
{
	return size_classes[class_no].slot_size % 16 == 0 && slab->slot_size % 16 ? UINT64_C(0x5555555555555555)
	                                                                           : UINT64_MAX;
}

/* Make the `n` free slots from `first` of word `w` one object. Keeps S1, S4, S7. */
static void *make_joined(struct tcache *tcache, struct unit *slab, unsigned w, unsigned first, unsigned n)
{
	uint64_t *live = slab_pair(slab, w);
	uint64_t *joint = slab_joint(slab, w);
	uint64_t slots = range_mask(first, n);

	if (!slab->has_joined) {
		store_relaxed(&slab->has_joined, 1u);
		store_seq(&slab->quick_owner, OWNER_NONE);
	}
	tcache->join_budget -= min_u64(n * (uint64_t)slab->slot_size, tcache->join_budget);
	truth_store(joint, truth_load(joint) | (slots & (slots - 1)));
	truth_store(live, truth_load(live) | slots);
	if (!(~truth_load(live) & slab_word_mask(slab, w)))
		slab->summary &= ~(UINT64_C(1) << w);
	return unit_address(tcache->heap, slab) + (w * UINT64_C(64) + first) * slab->slot_size;
}

/* Take a run of `n` free slots of `slab`, or note that it has none. */
static void *take_run(struct tcache *tcache, unsigned class_no, struct unit *slab, unsigned n)
{
	uint64_t begin = beginnings(class_no, slab);

	for (uint64_t words = slab->summary; words; words &= words - 1) {
		unsigned w = lowest_bit(words);
		uint64_t free = ~slab_harvest_word(slab, w) & slab_word_mask(slab, w);
		uint64_t runs = run_starts(free, n) & begin;

		if (runs)
			return make_joined(tcache, slab, w, lowest_bit(runs), n);
	}
	store_relaxed(&slab->no_run, (uint8_t)n);
	return NULL;
}

void join_end(struct tcache *tcache, unsigned class_no)
{
	struct unit *slab = tcache->source[class_no];

	tcache->source[class_no] = NULL;
	if (slab)
		tcache_put_back(tcache, slab);
}

/* Free slots of the slab, in 256ths. */
static unsigned free_share(const struct unit *slab)
{
	unsigned used = 0;

	for (unsigned w = 0; w < slab->words; w++)
		used += count_bits(truth_load(slab_pair(slab, w)));
	return (slab->slots - used) * 256 / slab->slots;
}

/* Where a program's sizes stay as they are, free slots are soon needed for their own class, and frees in slabs of
 * joined slots cost more: there the heap had better grow. So slots are joined only after a sample of the thread's
 * slabs was found more than half free, and then as many as leave a quarter of them free. */
static bool may_join(struct tcache *tcache, uint64_t len)
{
	unsigned share = 0, looked = 0;

	if (tcache->join_budget >= len)
		return true;
	for (; looked < SAMPLE; looked++) {
		if (!tcache->sample)
			tcache->sample = tcache->owned;
		if (!tcache->sample)
			return false;
		share += free_share(tcache->sample);
		tcache->sample = tcache->sample->owned_next;
	}
	share /= looked;
	if (share <= 128)
		return false;
	tcache->join_budget = (tcache->owned_units << UNIT_SHIFT) * (share - 64) / 256;
	return tcache->join_budget >= len;
}

/* A slab of class `of` from which an object of `n` slots for `class_no` can be made. */
static void *take_from_class(struct tcache *tcache, unsigned class_no, unsigned of, unsigned n)
{
	for (unsigned i = 0; i < SLABS_A_CLASS; i++) {
		struct unit *slab = tcache_next_partial(tcache, of);
		void *p;

		if (!slab)
			return NULL;
		slab_look(slab);
		p = slab_can_join(slab) && n < load_relaxed(&slab->no_run) ? take_run(tcache, class_no, slab, n) : NULL;
		if (p) {
			tcache->source[class_no] = slab;
			return p;
		}
		tcache_put_back(tcache, slab); /* as the last of its class */
	}
	return NULL;
}

void *join_take(struct tcache *tcache, unsigned class_no)
{
	struct unit *slab = tcache->source[class_no];

	if (!may_join(tcache, size_classes[class_no].slot_size)) {
		join_end(tcache, class_no);
		return NULL;
	}

	if (slab) {
		void *p = take_run(tcache, class_no, slab, slots_for(class_no, slab->class_no));

		if (p)
			return p;
		join_end(tcache, class_no);
	}
	for (unsigned pass = 0; pass < PASSES; pass++) {
		/* of large slots first: the fewer the slots, the less there is to find */
		for (unsigned of = class_no; of-- > 0;) {
			unsigned n = tcache->partial[of] ? slots_within(class_no, of, waste_share[pass]) : 0;
			void *p = n ? take_from_class(tcache, class_no, of, n) : NULL;

			if (p)
				return p;
		}
	}
	return NULL;
}
