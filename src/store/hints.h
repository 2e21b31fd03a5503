/* SPDX-License-Identifier: Apache-2.0
 *
 * Where to look for written pages: at the addresses of page faults, of which the kernel keeps samples. They
 * are hints. Some are missing: of stores by the kernel, of what found no room. Whether they were all is for
 * tally.h to say.
 *
 * Samples make page faults dearer and take locked memory: one heap of a process has them at a time, one that
 * has use of them.
 */
#ifndef FM_STORE_HINTS_H
#define FM_STORE_HINTS_H

#include "../os/os.h"

/* More of them than this are not worth a look at each. */
#define HINTS_MAX 64

struct hints {
	struct os_samples samples;
	bool is_on;
	bool is_refused;           /* by the system, for good */
	unsigned useless;          /* finds since they helped last */
	unsigned few;              /* finds that they would have helped, one after the other, */
	unsigned wait;             /* of which they begin after so many; 0: not known yet */
	unsigned n;                /* as of the last hints_take(): */
	uint64_t page[HINTS_MAX];  /* first ones of memory pages, ascending, each once */
};

/* Take samples from now on, if the heap of so many pages is worth it, they are likely to help, and the system
 * allows it. Not in the pause: it takes 20 us for each thread and processor. */
void hints_begin(struct hints *hints, uint64_t pages);
void hints_end(struct hints *hints);

/* All samples since the last time, of the `pages` at `base`. Too many: none. */
void hints_take(struct hints *hints, const void *base, uint64_t pages);

/* Is there a hint for the page? */
bool hints_have(const struct hints *hints, uint64_t page);

/* Behind the hints from the i-th on that are so near to each other that one look is for all. */
unsigned hints_group_end(const struct hints *hints, unsigned i);

/* A find of so many faults in a heap of so many pages is over: they helped, or not. Where they don't, they
 * end. */
void hints_learn(struct hints *hints, bool helped, uint64_t faults, uint64_t pages);

#endif
