/* SPDX-License-Identifier: Apache-2.0
 *
 * Journal records: building one in memory, judging one that was read, walking its entries. Knows nothing of
 * files. A commit is applied and replayed by the same walk over the same bytes.
 */
#ifndef FM_STORE_RECORD_H
#define FM_STORE_RECORD_H

#include "../base/bits.h"
#include "format.h"

#include <stdbool.h>

/* A record under construction in `bytes`. */
struct record {
	uint8_t *bytes;
	uint64_t room;     /* bytes there are */
	uint64_t used;     /* header and entries so far */
	uint64_t last;     /* where the last entry's word is, 0: none */
	uint32_t entries;
};

static inline struct record_rec *record_header(const struct record *record)
{
	return (struct record_rec *)(void *)record->bytes;
}

void record_begin(struct record *record, void *bytes, uint64_t room);

/* Append [off, off + len): copied from `data`. False if there is no room; nothing has changed then. */
bool record_put(struct record *record, uint64_t off, const void *data, uint64_t len);

/* Fill in length and checksum, pad with zeros. The other fields of the header are the caller's. Returns the
 * record's length. */
uint64_t record_seal(struct record *record);

/* Length that a record with this header must have in memory, or 0 if it is none: by the magic and the sizes
 * alone, for a reader that has only the first RECORD_ALIGN bytes. `most` bytes are there at most. */
uint64_t record_len(const struct record_rec *header, uint64_t most);

/* Are the checksum right and the entries such as record_put makes them? All `header->len` bytes are there. */
bool record_is_valid(const struct record_rec *header);

/* Bytes of a record that hold entries. */
struct record_entry {
	uint64_t off, len;
	const uint8_t *data;
};

/* The entry at *at (0: the first), and *at moved to the next; false at the end. The record is valid. */
bool record_next(const struct record_rec *header, uint64_t *at, struct record_entry *entry);

#endif
