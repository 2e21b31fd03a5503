/* SPDX-License-Identifier: Apache-2.0
 *
 * Bringing the bytes of a durable record to their places in the file, in the page cache: not synced.
 *
 * A write costs 2 to 4 us, more where the file system keeps the page in a large folio. Into a shared mapping of
 * the file, the *view*, it is a copy: 1 us, and a page fault more for the first one since the last checkpoint.
 * [measured on Linux 6.18, ext4] That fault makes a whole folio dirty, where a write makes a page of it dirty.
 * The kernel counts for both how much is in folios that became dirty, which is the most that a checkpoint can
 * have to write. When it is more than four times what was applied, entries are written.
 *
 * C6  what the view refuses is written
 */
#ifndef FM_STORE_PLACE_H
#define FM_STORE_PLACE_H

#include "pageset.h"
#include "record.h"

#include <pthread.h>

struct place {
	uint8_t *view;          /* NULL: there is none */
	uint64_t len;

	pthread_mutex_t lock;   /* C5, and what follows; the last one to be taken. A forked child may find it locked, and does
	                           not use the heap */
	uint64_t pages, dirtied; /* since the last checkpoint: applied to, summed over all entries; and made dirty, by whole
	                           folios, whichever way */
	bool is_refused;        /* since then the view has refused something */

	struct pageset *copied; /* a snapshot is being made: pages that were applied since; else NULL */
	uint64_t bytes;         /* atomic: applied so far */
	uint64_t faults;        /* page faults of copying, which were no stores into the heap: the committer's */
};

/* For the file `fd`, of `len` bytes at most. `with_view`: it does no harm to write again what is there already. */
void place_open(struct place *place, int fd, uint64_t len, bool with_view);
void place_close(struct place *place);

/* Write all entries of a valid record. Committer; 0 or -errno, then some may be written. */
int place_write(struct place *place, int fd, const struct record_rec *header);

/* A checkpoint: the file's first `size` bytes, `len` at most, become durable part by part, since a commit that
 * comes meanwhile may have to wait for the part. Adds to *flushes, atomic. One thread at a time, beside the
 * committer. False: nothing is known, and the file is to be synced by `fd`. */
bool place_sync(struct place *place, int fd, uint64_t size, uint64_t *flushes);

#endif
