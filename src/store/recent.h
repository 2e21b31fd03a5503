/* SPDX-License-Identifier: Apache-2.0
 *
 * Where written pages were found lately, so that a scan which may end early begins there. By groups of ranges of 2 MiB, of
 * which a heap has at most 1024: one range each in a heap of up to 2 GiB, then 2, 4, ...
 */
#ifndef FM_STORE_RECENT_H
#define FM_STORE_RECENT_H

#include <stdbool.h>
#include <stdint.h>

#define RECENT_GROUPS 1024

struct recent {
	uint64_t now[RECENT_GROUPS / 64];    /* a bit for each group in which something was found since the last turn, */
	uint64_t before[RECENT_GROUPS / 64]; /* and between that and the turn before it */
	uint64_t first[RECENT_GROUPS / 64];  /* those of both, when this find began, and what lies between two of them */
	unsigned shift;                      /* a group has 1 << shift ranges */
	unsigned finds;                      /* since the last turn */
};

/* A find begins in a heap of so many ranges; it has found pages in one of them. */
void recent_begin(struct recent *recent, uint64_t ranges);
void recent_add(struct recent *recent, uint64_t range);

/* The next of `ranges` from *to on in whose groups the last thousand finds or two, before this one, found something, or on
 * both sides of it; `other`: those where they did not. Neighbours together, [*from, *to), as long as they are less than `step`. False: there
 * is none. */
bool recent_next(const struct recent *recent, bool other, uint64_t step, uint64_t ranges, uint64_t *from, uint64_t *to);

/* How many ranges recent_next() gives, without `other` and without an end. */
uint64_t recent_count(const struct recent *recent);

#endif
