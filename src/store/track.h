/* SPDX-License-Identifier: Apache-2.0
 *
 * Finding the pages that were written since the last commit: one interface, four ways.
 *
 *   uffd      userfaultfd, asynchronous write protection and PAGEMAP_SCAN. The default where it works
 *   mprotect  granules of 64 KiB are read-only until SIGSEGV tells of the first store. The kernel's own stores into
 *             a read-only granule (read(2), recv) fail with EFAULT: fm_will_write() first
 *   pagemap   all private pages, by /proc/self/pagemap: slow, and needs nothing
 *   declared  what fm_will_write() named; the allocator's own stores by mprotect of its metadata alone
 *
 * T1  protect before diff: a page is protected again before its contents are compared, so that a store after the
 *     comparison is found by the next commit
 * T2  what was found and not committed stays found
 * T3  a page that can be stored into without a fault is in `noted`, or nobody finds it: whoever opens pages is done
 *     with both before the next find, and before the next drop. Threads inside a section are, which the committer waits
 *     for; fm_will_write outside of one holds the lock
 */
#ifndef FM_STORE_TRACK_H
#define FM_STORE_TRACK_H

#include "hints.h"
#include "pageset.h"
#include "recent.h"
#include "store.h"
#include "tally.h"

#include <pthread.h>

enum track_kind { TRACK_UFFD = 1, TRACK_MPROTECT, TRACK_PAGEMAP, TRACK_DECLARED };

struct track;

struct track_way {
	enum track_kind kind;
	const char *name; /* in FMALLOC_TRACK */
	/* Begin: [0, size) of the mapping is accessible, and nothing in it is written. 0 or -errno. */
	int (*open)(struct track *track);
	void (*close)(struct track *track);
	/* Bytes [from, to) of the mapping have become accessible. 0 or -errno. NULL: nothing is to be done, as below. */
	int (*extended)(struct track *track, uint64_t from, uint64_t to);
	/* Add all pages that were written since the last time to track->found, and protect them. */
	int (*find)(struct track *track);
	/* A commit is durable and nobody waits: the time for what makes later finds cheaper. NULL: there is nothing. */
	void (*rest)(struct track *track);
	/* Bytes [from, to) are about to be written. */
	int (*will_write)(struct track *track, uint64_t from, uint64_t to);
	/* All private pages were dropped: nothing is written any more, which `found` and `noted` are to say. What stays open
	 * stays noted, since nobody can be told of a failure: the old contents are gone. NULL: no page is open. */
	void (*dropped)(struct track *track);
	/* Bytes [from, to) are the allocator's: it stores there without declaring. Before it does. */
	int (*metadata)(struct track *track, uint64_t from, uint64_t to);
};

struct track {
	const struct track_way *way;
	struct store *store;
	pthread_mutex_t lock;  /* T3. No lock is taken under it, and nobody is waited for */
	struct pageset found;  /* the committer's: found, and not committed yet */
	struct pageset noted;  /* added to at any time: granules written, pages declared */
	struct pageset metadata; /* declared: pages that are the allocator's; */
	struct pageset always;   /* those among them that can't be protected */
	struct pageset seen;   /* uffd: pages that were found, in ranges that are not dense; */
	struct pageset dense;  /* of which 2 MiB most pages were found, by number of the range */
	struct hints hints;    /* uffd: where page faults were, */
	struct recent recent;  /* where pages were found, */
	struct tally tally;    /* and whether all was found that was written */
	uint64_t *noted_lines; /* declared: by page, the lines that were declared since it was found last; */
	uint64_t *found_lines; /* and of pages in `found`, where they are never 0: the committer's */
	bool drops_unchanged;  /* a page found unchanged is better dropped than kept */
	bool checks;           /* declared: every private page is compared, for debugging */
	uint64_t undeclared;   /* and this is the first byte that was changed without a declaration */
	int watch_fd, pagemap_fd;
	struct os_file_id watch_id, pagemap_id; /* which files they are */
	struct track *next;    /* of those the signal handler knows */
};

/* What was written is told apart by lines of so many bytes: 64 in a page, a bit each. */
#define LINE      64u
#define ALL_LINES UINT64_MAX

extern const struct track_way track_uffd, track_mprotect, track_pagemap_bits, track_declared;

/* The lines of a found page that may have been written; and: nothing in it is to be committed any more, it is no longer
 * found. */
uint64_t track_lines(const struct track *track, uint64_t page);
void track_settled(struct track *track, uint64_t page);

int track_extended(struct track *track, uint64_t from, uint64_t to);

/* In the pause: as way->find and way->dropped. `whole`: don't rely on T4, for nothing that was written may be dropped. */
int track_find(struct track *track, bool whole);

/* Committer, behind a commit: as way->rest. */
void track_rest(struct track *track);
void track_dropped(struct track *track);

/* As way->will_write, by a thread for which the pause does not wait. */
int track_will_write_beside(struct track *track, uint64_t from, uint64_t to);

/* For will_write: note the pages, nothing else, for writers that the page tables don't see. 0. */
int track_note(struct track *track, uint64_t from, uint64_t to);

/* Choose: that of declared writes, or the way that `name` says, or the best that works if NULL. 0, or -1 after fail(). */
int track_open(struct track *track, struct store *store, bool declared, const char *name);
void track_close(struct track *track);

/* Open track->pagemap_fd, or ask whether it is ours still: 0 or -errno; or close it if it is. */
int track_open_pagemap(struct track *track);
int track_check_pagemap(const struct track *track);
void track_close_pagemap(struct track *track);

/* Which file is `fd`? All zero if that can't be told. */
struct os_file_id track_id_of(int fd);

/* ---- track_mprotect.c, for track_declared.c too */

/* SIGSEGV for a store into the heap opens a granule and notes it, from now on; or no longer. 0 or -errno. */
int track_join_faults(struct track *track);
void track_leave_faults(struct track *track);

/* Open the granules in which bytes [from, to) lie for writing, and note them. 0 or -errno. */
#define TRACK_GRANULE UNIT_SIZE
int track_open_granules(struct track *track, uint64_t from, uint64_t to);

/* Make those noted pages read-only that are in `which` (NULL: all), then they are found. 0 or -errno. */
int track_find_noted(struct track *track, const struct pageset *which);

#endif
