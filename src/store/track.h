/* SPDX-License-Identifier: Apache-2.0
 *
 * Finding the pages that were written since the last commit: one interface, four ways.
 *
 *   uffd      userfaultfd, asynchronous write protection and PAGEMAP_SCAN. The default where it works
 *   mprotect  granules of 64 KiB are read-only until SIGSEGV tells of the first store. The kernel's own stores into
 *             a read-only granule (read(2), recv) fail with EFAULT: fm_will_write() first
 *   pagemap   all private pages, by /proc/self/pagemap: slow, and needs nothing
 *   declared  what fm_will_write() named; the library's own stores by one of the others (declared.c)
 *
 * T1  protect before diff: a page is protected again before its contents are compared, so that a store after the
 *     comparison is found by the next commit
 * T2  what was found and not committed stays found
 */
#ifndef FM_STORE_TRACK_H
#define FM_STORE_TRACK_H

#include "pageset.h"
#include "store.h"

enum track_kind { TRACK_UFFD = 1, TRACK_MPROTECT, TRACK_PAGEMAP, TRACK_DECLARED };

struct track;

struct track_way {
	enum track_kind kind;
	const char *name; /* for FMALLOC_TRACK */
	/* Begin: [0, size) of the mapping is accessible, and nothing in it is written. 0 or -errno. */
	int (*open)(struct track *track);
	void (*close)(struct track *track);
	/* Bytes [from, to) of the mapping have become accessible. 0 or -errno. */
	int (*extended)(struct track *track, uint64_t from, uint64_t to);
	/* Add all pages that were written since the last time to track->found, and protect them. */
	int (*find)(struct track *track);
	/* Bytes [from, to) are about to be written. */
	int (*will_write)(struct track *track, uint64_t from, uint64_t to);
	/* All private pages were dropped. */
	int (*dropped)(struct track *track);
};

struct track {
	const struct track_way *way;
	struct store *store;
	struct pageset found;  /* the committer's: found, and not committed yet */
	struct pageset noted;  /* added to at any time: granules written, pages declared */
	bool drops_unchanged;  /* a page found unchanged is better dropped than kept */
	int watch_fd, pagemap_fd;
	struct track *next;    /* of those the signal handler knows */
};

extern const struct track_way track_uffd, track_mprotect, track_pagemap_bits;

/* Choose: the way that `name` says, or the best that works if NULL. 0, or -1 after fail(). */
int track_open(struct track *track, struct store *store, const char *name);
void track_close(struct track *track);

#endif
