/* SPDX-License-Identifier: Apache-2.0 */
#include "classes.h"

#include "../store/format.h"

#include <pthread.h>

struct size_class size_classes[CLASSES];

/* At most this share of a slab's bytes may be too little for another slot. */
#define TAIL_SHARE 32
#define MAX_UNITS  16u

/* At most this share of its units an object that is alone in them may waste, besides what its class does. */
#define ALONE_SHARE 8

static uint32_t slot_size_of(unsigned class_no)
{
	unsigned coarse;

	if (class_no < FINE_CLASSES)
		return 16 + 8 * class_no;
	coarse = class_no - FINE_CLASSES;
	return (9 + coarse % 8) << (coarse / 8 + 4);
}

/* The fewest units whose tail is within TAIL_SHARE; else the count with the smallest share. */
static unsigned units_for(uint32_t slot_size)
{
	unsigned best = 0;
	uint64_t best_tail = 0;

	for (unsigned units = 1; units <= MAX_UNITS; units++) {
		uint64_t len = units * UNIT_SIZE;
		uint64_t tail = len % slot_size;

		if (len < slot_size)
			continue;
		if (tail * TAIL_SHARE <= len)
			return units;
		if (!best || tail * best < best_tail * units) {
			best = units;
			best_tail = tail;
		}
	}
	return best;
}

static bool is_alone(uint32_t slot_size)
{
	uint64_t len = round_up(slot_size, UNIT_SIZE);

	return slot_size > UNIT_SIZE && (len - slot_size) * ALONE_SHARE <= len;
}

static void fill(void)
{
	for (unsigned c = 0; c < CLASSES; c++) {
		struct size_class *class = &size_classes[c];

		class->slot_size = slot_size_of(c);
		class->units = (uint8_t)units_for(class->slot_size);
		class->slots = (uint16_t)(class->units * UNIT_SIZE / class->slot_size);
		class->is_alone = is_alone(class->slot_size);
	}
}

void classes_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, fill);
}

unsigned class_with_slot(uint32_t slot_size)
{
	unsigned c;

	if (slot_size < SLOT_MIN_SIZE || slot_size > SMALL_MAX)
		return NO_CLASS;
	c = class_of(slot_size);
	return size_classes[c].slot_size == slot_size ? c : NO_CLASS;
}

unsigned class_aligned(size_t size, size_t alignment)
{
	size_t want = size ? round_up(size, alignment) : alignment;

	if (alignment > UNIT_SIZE)
		return NO_CLASS; /* slabs begin at multiples of units */
	for (; want <= SMALL_MAX; want += alignment) {
		unsigned c = class_of(want);

		if (size_classes[c].slot_size % alignment == 0)
			return c;
	}
	return NO_CLASS;
}
