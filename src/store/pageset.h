/* SPDX-License-Identifier: Apache-2.0
 *
 * A set of the heap's pages of 4 KiB: a bit for each, and above it a bit for each word of 64 that is not zero.
 * Adding and moving are atomic, so that a signal handler and several threads may add at any time; everything else
 * is for one thread while nobody adds.
 */
#ifndef FM_STORE_PAGESET_H
#define FM_STORE_PAGESET_H

#include <stdbool.h>
#include <stdint.h>

struct pageset {
	uint64_t *words;   /* one bit a page */
	uint64_t *summary; /* one bit a word */
	uint64_t pages;    /* that there may be */
	uint64_t high;     /* atomic: all that were ever added are below; only so far is anything looked at */
	uint64_t mapped;   /* bytes of both */
};

/* A set for pages below `pages`, empty. 0 or -errno. */
int pageset_make(struct pageset *set, uint64_t pages);
void pageset_drop(struct pageset *set);

/* Add pages [from, to); true if at least one was not in it. */
bool pageset_add(struct pageset *set, uint64_t from, uint64_t to);

/* The same after the pages were changed: whoever moves them out of the set has what was written before. pageset_add() leaves a
 * word alone that has the bits, and orders nothing. */
void pageset_add_changed(struct pageset *set, uint64_t from, uint64_t to);

/* Move all pages of `from` into `to`. Those that are added meanwhile are in one of the two. */
void pageset_move(struct pageset *from, struct pageset *to);

void pageset_clear(struct pageset *set);
void pageset_remove(struct pageset *set, uint64_t page);

/* The first page of the set at or after `from`, or UINT64_MAX. */
uint64_t pageset_next(const struct pageset *set, uint64_t from);

/* How many of [from, to), multiples of 64, are in the set. */
unsigned pageset_count(const struct pageset *set, uint64_t from, uint64_t to);

bool pageset_has(const struct pageset *set, uint64_t page);

#endif
