/* SPDX-License-Identifier: Apache-2.0
 *
 * The superblock: reading, judging and replacing its two copies. Never through the mapping.
 */
#ifndef FM_STORE_SUPER_H
#define FM_STORE_SUPER_H

#include "../os/os.h"
#include "format.h"

#include <stdbool.h>

struct super {
	struct super_rec rec; /* the copy that counts */
	unsigned copy;        /* its number, 0 or 1 */
	bool both_valid;
	bool no_sync;         /* written without waiting for the device */
};

/* What the first bytes of a file are. */
enum super_verdict {
	SUPER_OK,
	SUPER_EMPTY,    /* both copies are all zero: perhaps a file to adopt */
	SUPER_FOREIGN,  /* something else */
	SUPER_ORIGINAL, /* a heap of the original fmalloc */
	SUPER_DAMAGED,  /* ours, but no copy is valid */
	SUPER_UNKNOWN,  /* ours, of a newer version or with features that this library lacks */
};

/* Read and judge. 0 with *verdict, and with SUPER_OK *super; or -errno. */
int super_read(int fd, uint64_t file_size, struct super *super, enum super_verdict *verdict);

/* Put `next` (sequence and checksum are filled in) over the older copy by one synchronous write, and make
 * it the one that counts. 0, or -errno with *super as it was, and so the file for whoever opens it on this boot: what was
 * refused would count in the page cache, and the next superblock go over the copy that counts on the device. */
int super_write(int fd, struct super *super, const struct super_rec *next);

/* A record for a new heap: everything but boot, file, state and address. */
void super_init(struct super_rec *rec, const uint8_t uuid[16]);

void super_seal(struct super_rec *rec);

/* Give the record the UUID made from 16 random bytes. */
void super_set_uuid(struct super_rec *rec, const uint8_t random[16]);

#endif
