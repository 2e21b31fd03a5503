/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading the journal: which records are complete commits that are still needed, and what they hold.
 */
#ifndef FM_STORE_REPLAY_H
#define FM_STORE_REPLAY_H

#include "record.h"
#include "store.h"

/* What a record's header says, of those that are valid. */
struct replay_item {
	uint64_t sequence, commit, position, len, first, file_size;
	uint32_t kind, checksum, chain_checksum;
};

struct replay {
	struct store *store;
	struct replay_item *items; /* by sequence; the first `needed` are to be applied, in this order */
	uint64_t count, needed;
	uint64_t room;             /* bytes mapped for items */
	uint8_t *bytes;            /* one record */
	uint64_t bytes_room;
	uint8_t *chunk;            /* a piece of the journal */
	uint64_t chunk_room;
};

/* Judge the extents and read the journal of the heap whose superblock was read. 0, or -1 after fail(): EBADMSG if
 * it is damaged. */
int replay_load(struct replay *replay, struct store *store);

/* Call `put` for all entries of all commits in order. 0, or -1 after fail(). */
int replay_each(struct replay *replay, int (*put)(void *arg, const struct record_entry *entry), void *arg);

void replay_drop(struct replay *replay);

/* Read the record of `item` into replay->bytes. 0, or -1 after fail(). */
int replay_read(struct replay *replay, const struct replay_item *item);

#endif
