/* SPDX-License-Identifier: Apache-2.0
 *
 * The free units of segments. A segment's free units are the bits of one word: whoever clears bits of it by one
 * compare-and-swap has taken those units, and alone changes what the file and the descriptors say of them, until he
 * sets the bits again. So a thread takes and releases units without the lock in segments that it knows; the lock is
 * for those who look for others.
 */
#ifndef FM_ALLOC_UNITS_H
#define FM_ALLOC_UNITS_H

#include "heap.h"

#define NEAR_SEGMENTS 16

/* Segments in which a thread took or released units, in the order of their numbers, which is the order in which they
 * are tried: that keeps the last ones empty. Where several threads allocate, those of which it is the taker come first:
 * each store that takes or describes units would else often wait for what another processor has just written. They may be
 * anything by now. */
struct near_segment {
	uint32_t no;                     /* number + 1 */
	uint8_t below;                   /* it had no backed run of so many units when last looked at */
	bool is_own;                     /* and the cache was its taker. What the segment says of it is often in another
	                                    processor's cache */
};

struct near {
	struct near_segment segment[NEAR_SEGMENTS];
	uint32_t n;
	uint32_t turn;                   /* who makes room for another one */
	uint32_t id;                     /* the cache's, in segment.taker */
	uint32_t releases;               /* that heap->releases does not have yet */
	uint64_t lane;                   /* the one it took of last: its first unit / LANE_UNITS, + 1 */
};

/* Threads that allocate side by side take units of lanes of their own, while there are any: what the processor fetches
 * ahead behind the end of one thread's slab would else often be what another thread is writing. */
#define LANE_UNITS 8

/* Which free units will do: any; such that a store into them can't fail; of those, such that were used before. */
enum which_units { ANY, BACKED, USED_BEFORE };

/* Take `n` consecutive backed units in one of the segments of `near`: their first one's number, or 0. Their truth and
 * descriptors are the caller's to set. Without the lock. */
uint64_t units_take_near(struct heap *heap, struct near *near, unsigned n, enum which_units which);

/* The units are free by truth now: so they are here. `near` may be NULL. With or without the lock. */
void units_release(struct heap *heap, struct near *near, uint64_t unit_no, unsigned n);

/* Something was released: the decay's clock goes by that. units_release() counts; whole segments are the caller's to count. */
void units_count_release(struct heap *heap, struct near *near);

/* The cache leaves: what it has counted is the heap's. */
void units_leave(struct heap *heap, const struct near *near);

/* ---- These need heap->lock. */

/* Take `n` consecutive units, the first at a multiple of `align_units` in its segment, backed; n is at most
 * SEGMENT_UNITS - align_units, since unit 0 is never free. `near` may be NULL. The first unit's number, or 0 and
 * errno ENOMEM. */
uint64_t units_take(struct heap *heap, struct near *near, unsigned n, unsigned align_units);

/* Take units [unit_no, unit_no + n) of one segment if all are free and can be backed. */
bool units_take_at(struct heap *heap, uint64_t unit_no, unsigned n);

/* Are there `n` consecutive free units that were used before, so that taking them needs no more blocks? */
bool units_are_at_hand(struct heap *heap, unsigned n);

/* These units of the segment are free: it is new, or examined. */
void units_offer(struct heap *heap, uint64_t segment_no, uint64_t units);

/* No thread takes these units any more, if all of them are free: else false. Until they are offered again. */
bool units_withdraw(struct heap *heap, uint64_t segment_no, uint64_t units);

/* Take note of what was released since the last time. In an atomic heap segments without used units become free ones;
 * in a live one they keep their metadata, and threads go on taking units of them, until somebody wants free segments. */
void units_settle(struct heap *heap);

/* The same, and segments without used units become free ones in any heap. */
void units_release_segments(struct heap *heap);

#endif
