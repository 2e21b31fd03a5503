/* SPDX-License-Identifier: Apache-2.0
 *
 * When has a scan found all? The kernel counts the page faults of a process (getrusage), and each run of
 * neighbouring pages that was written since it was protected has cost one at least. A scan that has found as
 * many runs as there were faults is complete, wherever it is: what it has not looked at was not written.
 *
 * T4  a scan ends early only if (a) the runs of found pages in which something has changed explain as many faults as there
 *     were since the last find began, less those of copying into the view (place.h) and of comparing pages here, (b) there
 *     was no other fault since this one began, and (c) all that was found before is committed, and nothing is
 *     noted. A run explains one fault, or as many as it has changed pages of which the kernel has a sample (hints.h).
 *     Whatever else costs faults (reading, a second store, the same bytes again) makes it go on to the end
 *
 * A run counts once however long it is, so a kernel that opened a block of pages at a fault, one without holes, would change
 * nothing; and if none does, a run has had as many faults as it has changed pages at least, whatever samples say.
 * A fault that is under way is not counted yet: none is that stores into the heap, in the pause. Stores
 * for which no thread of this process faults (ptrace, process_vm_writev by another one) are never counted: docs/atomic.md.
 */
#ifndef FM_STORE_TALLY_H
#define FM_STORE_TALLY_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

/* With more faults than this the scan goes to its end: the last of so many is near it. */
#define TALLY_MAX 64

struct track;

struct tally {
	uint64_t faults;   /* of the process when the last find began; 0: not known */
	uint64_t others;   /* and those among them that can't have been stores into the heap; */
	uint64_t own;      /* and those of comparing, since then */
	uint64_t expected; /* faults between that and the beginning of this find; more than TALLY_MAX: to the end */
	uint64_t pages;    /* found by this find; */
	uint64_t runs;     /* faults that they explain, */
	unsigned unseen;   /* but for ranges of which it is not known yet: */
	struct {
		uint64_t from, to; /* pages, ascending */
	} range[TALLY_MAX];
	unsigned known;    /* so many pages were compared meanwhile: */
	struct {
		uint64_t page, lines; /* a bit for each line that differs */
	} compared[TALLY_MAX];
	unsigned turns;    /* finds that might have ended early */
	bool is_verifying; /* and this one goes to the end nevertheless */
	bool is_refuted;   /* more runs than faults: this kernel counts otherwise. Never again */
};

/* A find begins. `others`: page faults of the process so far that were no stores into the heap. */
void tally_begin(struct tally *tally, uint64_t others);

/* It has found pages [from, to). */
void tally_add(struct tally *tally, uint64_t from, uint64_t to);

/* Is there hope that it need not go to the end? */
static inline bool tally_may_end_early(const struct tally *tally)
{
	return tally->expected <= TALLY_MAX;
}

/* This find goes to the end, for runs may have been found in parts. */
void tally_give_up(struct tally *tally);

/* What this thread does between the two stores nothing into the heap, and its page faults don't count: those of
 * mapping what was committed, to compare with. No signal handler runs meanwhile, for it might store, but for what this
 * thread causes itself. Where faults aren't counted, or all is known that comparing would tell, this does nothing. */
struct tally_own {
	bool is_counted;
	sigset_t signals;
	uint64_t faults;
};
void tally_own_begin(const struct tally *tally, struct tally_own *own);
void tally_own_end(struct tally *tally, const struct tally_own *own);

/* Is that all? */
bool tally_is_complete(struct tally *tally, const struct track *track);

/* It has gone to the end. */
void tally_end(struct tally *tally, const struct track *track);

/* Has it ended early, and were all found pages compared? Was this one, and which lines of it differ? Nothing is stored
 * into the heap between the find and this. */
bool tally_knows_all(const struct tally *tally);
bool tally_knows(const struct tally *tally, uint64_t page, uint64_t *lines);

/* The next find goes to the end: pages may have been written before the last one that it did not find, or none may be
 * overlooked. */
void tally_forget(struct tally *tally);

#endif
