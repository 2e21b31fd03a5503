/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading all truth of a heap and judging it, by the file's words alone. fm_check reports what is wrong;
 * recovery mends it, each finding by single stores, so that it can be killed and repeated.
 *
 * What a finding is mended to: what may be an object stays allocated; of two overlapping heads the longer
 * is kept; a word that says nothing is cleared.
 */
#ifndef FM_ALLOC_AUDIT_H
#define FM_ALLOC_AUDIT_H

#include "heap.h"

struct audit {
	struct heap *heap;
	bool mend;
	void (*finding)(const struct fm_finding *finding, void *arg); /* or NULL */
	void *arg;
	long count;
};

/* One pass; adds to audit->count. No thread may be changing the heap. */
void audit_heap(struct audit *audit);

/* Compare what this process derived with the file: descriptors, free units, windows. */
void audit_derived(struct audit *audit);

#endif
