/* SPDX-License-Identifier: Apache-2.0 */
#include "lists.h"

#include "giveback.h"

/* Slots from this size on are handed out again last freed first. */
#define FIRST_FROM 32768u

/* kept_max() */
#ifndef KEPT_UNITS
#define KEPT_UNITS 16
#endif
#define KEPT_SHARE 4

static void partial_push_first(struct tcache *tcache, struct unit *slab)
{
	struct unit *first = tcache->partial[slab->class_no];

	slab->alarm = ALARM_EMPTY;
	slab->next = first;
	slab->prev = NULL;
	if (first)
		first->prev = slab;
	else
		tcache->partial_last[slab->class_no] = slab;
	tcache->partial[slab->class_no] = slab;
}

/* At the end: by the time its turn comes, a slab that was full has more than one free slot. But large slots are
 * better used while their pages are in the cache, and few. */
static void partial_push(struct tcache *tcache, struct unit *slab)
{
	struct unit *last = tcache->partial_last[slab->class_no];

	if (slab->slot_size >= FIRST_FROM) {
		partial_push_first(tcache, slab);
		return;
	}
	slab->alarm = ALARM_EMPTY;
	slab->next = NULL;
	slab->prev = last;
	if (last)
		last->next = slab;
	else
		tcache->partial[slab->class_no] = slab;
	tcache->partial_last[slab->class_no] = slab;
}

static void partial_remove(struct tcache *tcache, struct unit *slab)
{
	if (slab->prev)
		slab->prev->next = slab->next;
	else
		tcache->partial[slab->class_no] = slab->next;
	if (slab->next)
		slab->next->prev = slab->prev;
	else
		tcache->partial_last[slab->class_no] = slab->prev;
	slab->next = slab->prev = NULL;
	slab->alarm = ALARM_ALWAYS;
}

void kept_push(struct tcache *tcache, struct unit *slab)
{
	slab->alarm = ALARM_KEPT;
	slab->next = tcache->kept;
	tcache->kept = slab;
	tcache->kept_units += slab->units;
}

struct unit *kept_take(struct tcache *tcache, unsigned class_no)
{
	for (struct unit **link = &tcache->kept; *link; link = &(*link)->next) {
		struct unit *slab = *link;

		if (slab->class_no != class_no)
			continue;
		*link = slab->next;
		slab->next = NULL;
		slab->alarm = ALARM_ALWAYS;
		slab->summary = slab_all_words(slab);
		tcache->kept_units -= slab->units;
		return slab;
	}
	return NULL;
}

void owned_push(struct tcache *tcache, struct unit *slab)
{
	slab->owned_prev = NULL;
	slab->owned_next = tcache->owned;
	if (tcache->owned)
		tcache->owned->owned_prev = slab;
	tcache->owned = slab;
	tcache->owned_units += slab->units;
}

void owned_remove(struct tcache *tcache, struct unit *slab)
{
	if (slab->owned_prev)
		slab->owned_prev->owned_next = slab->owned_next;
	else
		tcache->owned = slab->owned_next;
	if (slab->owned_next)
		slab->owned_next->owned_prev = slab->owned_prev;
	if (tcache->sample == slab)
		tcache->sample = slab->owned_next;
	slab->owned_next = slab->owned_prev = NULL;
	tcache->owned_units -= slab->units;
}

void owned_release(struct tcache *tcache, struct unit *slab)
{
	owned_remove(tcache, slab);
	tcache_begin_units(tcache);
	slab_release(tcache->heap, &tcache->near, slab);
	tcache_end_units(tcache);
}

/* Empty slabs that a cache may keep: enough that a program that frees all and allocates anew makes no slabs,
 * little beside what it has. */
static uint64_t kept_max(const struct tcache *tcache)
{
	return KEPT_UNITS + tcache->owned_units / KEPT_SHARE;
}

/* The slab is in the cache's inbox, or about to be. If its units became another thread's slab, that one's frees would not
 * be told before this inbox is emptied: so it is not released. */
static bool waits_in_inbox(const struct unit *slab)
{
	return load_seq(&slab->queued);
}

void kept_release(struct tcache *tcache, uint64_t units)
{
	struct unit **link = &tcache->kept;

	while (*link && tcache->kept_units > units) {
		struct unit *slab = *link;

		if (waits_in_inbox(slab)) {
			link = &slab->next;
			continue;
		}
		*link = slab->next;
		slab->next = NULL;
		slab->alarm = ALARM_ALWAYS;
		tcache->kept_units -= slab->units;
		owned_release(tcache, slab);
	}
}

void kept_trim(struct tcache *tcache)
{
	if (tcache->kept_units <= kept_max(tcache))
		return;
	kept_release(tcache, kept_max(tcache));
	giveback_note(tcache->heap);
}

/* There is room for it, and its slots are no larger than a unit: what it has would be missed by large objects. In atomic heaps
 * each release needs the lock. */
static bool is_worth_keeping(const struct tcache *tcache, const struct unit *slab)
{
	return (slab->slot_size <= UNIT_SIZE || tcache->heap->store.is_atomic) &&
	       tcache->kept_units + slab->units <= kept_max(tcache);
}

void slab_changed(struct tcache *tcache, struct unit *slab)
{
	if (slab->alarm == ALARM_NEVER || slab->alarm == ALARM_KEPT)
		return;
	if (slab->empty != slab_all_words(slab)) {
		if (slab->alarm == ALARM_ALWAYS)
			partial_push(tcache, slab);
		return;
	}
	if (slab->alarm == ALARM_EMPTY)
		partial_remove(tcache, slab);
	if (is_worth_keeping(tcache, slab) || waits_in_inbox(slab)) {
		kept_push(tcache, slab);
		return;
	}
	owned_release(tcache, slab);
	giveback_note(tcache->heap);
}

struct unit *tcache_next_partial(struct tcache *tcache, unsigned class_no)
{
	struct unit *slab = tcache->partial[class_no];

	if (slab) {
		partial_remove(tcache, slab);
		slab->alarm = ALARM_NEVER;
	}
	return slab;
}

void tcache_put_back(struct tcache *tcache, struct unit *slab)
{
	slab->summary = slab->empty = 0;
	slab_harvest(slab, slab_all_words(slab));
	slab->alarm = ALARM_ALWAYS;
	if (slab->summary)
		slab_changed(tcache, slab);
}

void tcache_slot_freed(struct tcache *tcache, struct unit *slab, unsigned w, uint64_t live)
{
	slab->summary |= UINT64_C(1) << w;
	if (live >= slab->alarm)
		return;
	if (live == 0)
		slab->empty |= UINT64_C(1) << w;
	slab_changed(tcache, slab);
}

bool tcache_free_own(struct tcache *tcache, struct unit *slab, uint64_t off)
{
	uint32_t slot = slab_slot_at(slab, off - (unit_no_of(tcache->heap, slab) << UNIT_SHIFT));
	uint64_t *pair;
	uint64_t live;

	if (slot == UINT32_MAX)
		return false;
	pair = slab_pair(slab, slot / 64);
	live = truth_load(&pair[0]);
	if (!bit_is_set(live & ~truth_load(&pair[1]) & ~slab_joined(slab, slot / 64), slot))
		return false;
	live &= ~slab_object_slots(slab, slot);
	truth_store(&pair[0], live);
	slab_unjoin(slab, slot / 64);
	tcache_slot_freed(tcache, slab, slot / 64, live);
	return true;
}
