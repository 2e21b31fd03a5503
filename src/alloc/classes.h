/* SPDX-License-Identifier: Apache-2.0
 *
 * Size classes: 16 to 128 bytes by 8, then eight to each doubling up to 512 KiB, so that from 128 bytes on
 * a slot wastes at most 1/9 of itself. A request that is a multiple of 16 meets a class that is one.
 *
 * Where whole units of its own waste an eighth at most of an object larger than a unit, it is *alone* in them: a run (large.h),
 * unless the heap is atomic. A slab would have one slot, or take up to 15 units, of which a program with one object or two
 * uses few.
 *
 * Which slot size and how many units a slab has is written in the file; this table only says what new slabs
 * get.
 */
#ifndef FM_ALLOC_CLASSES_H
#define FM_ALLOC_CLASSES_H

#include "../base/bits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FINE_MAX      128u /* classes below by 8 bytes */
#define FINE_CLASSES  15u  /* 16, 24, ..., 128 */
#define CLASSES       (FINE_CLASSES + 12 * 8)
#define SMALL_MAX     (UINT64_C(512) * 1024)
#define NO_CLASS      0xff

struct size_class {
	uint32_t slot_size; /* bytes */
	uint16_t slots;
	uint8_t units;
	bool is_alone;
};

extern struct size_class size_classes[CLASSES] __attribute__((visibility("hidden")));

/* Fill the table. Idempotent; called before the first heap opens. */
void classes_init(void);

/* What objects are aligned to at least; an embedder of the library may want 16 for all sizes. */
#ifndef LEAST_ALIGNMENT
#define LEAST_ALIGNMENT 8u
#endif

/* `size` in eighths that a slot must have. */
static inline size_t class_eighths(size_t size)
{
	return (size + LEAST_ALIGNMENT - 1) / LEAST_ALIGNMENT * (LEAST_ALIGNMENT / 8);
}

/* The smallest class for `size` bytes; size <= SMALL_MAX. */
static inline unsigned class_of(size_t size)
{
	if (size <= FINE_MAX) {
		unsigned eighths = (unsigned)class_eighths(size);

		return eighths < 2 ? 0 : eighths - 2;
	} else {
		size_t last = size - 1;
		unsigned doubling = highest_bit(last); /* 7 for 129..256 */

		return FINE_CLASSES + (doubling - 7) * 8 + ((unsigned)(last >> (doubling - 3)) & 7);
	}
}

/* The class whose slots are exactly `slot_size` bytes, or NO_CLASS. */
unsigned class_with_slot(uint32_t slot_size);

/* The smallest class for `size` bytes whose slots all lie at multiples of `alignment`, or NO_CLASS. */
unsigned class_aligned(size_t size, size_t alignment);

#endif
