/* SPDX-License-Identifier: Apache-2.0 */
#include "super.h"

#include "../base/bits.h"
#include "../base/crc32c.h"

#include <errno.h>
#include <string.h>

#define SECTOR sizeof(struct super_rec)

static const uint64_t copy_off[2] = {SUPER_COPY_1_OFF, SUPER_COPY_2_OFF};

static uint32_t checksum_of(const struct super_rec *rec)
{
	return crc32c(rec, offsetof(struct super_rec, checksum));
}

static bool has_magic(const struct super_rec *rec)
{
	return memcmp(rec->magic, SUPER_MAGIC, sizeof(rec->magic)) == 0;
}

static bool is_zero(const struct super_rec *rec)
{
	static const struct super_rec zero;

	return memcmp(rec, &zero, sizeof(zero)) == 0;
}

/* Journal extents lie in whole pages, beyond the truth page, and end before 2^62. */
static bool has_valid_journal(const struct super_rec *rec)
{
	for (unsigned i = 0; i < JOURNAL_EXTENTS; i++) {
		const struct extent_rec *e = &rec->journal[i];

		if (e->len == 0 && e->off == 0)
			continue;
		if (e->off % LENGTH_PAGE || e->len % LENGTH_PAGE || e->len == 0 || e->off < FIRST_JOURNAL_OFF ||
		    e->off >> 62 || e->len >> 62)
			return false;
	}
	return true;
}

static bool is_valid(const struct super_rec *rec)
{
	return has_magic(rec) && rec->checksum == checksum_of(rec);
}

/* Of a valid record of our version: can its fields be what this library writes? */
static bool is_sane(const struct super_rec *rec)
{
	return (rec->kind == SUPER_LIVE || rec->kind == SUPER_ATOMIC) && rec->state <= SUPER_DIRTY &&
	       rec->preferred_address % SEGMENT_SIZE == 0 && rec->preferred_address >> 47 == 0 &&
	       rec->sequence != 0 && rec->sequence < UINT64_MAX / 2 && has_valid_journal(rec);
}

static enum super_verdict judge_invalid(const struct super_rec rec[2])
{
	uint64_t first;

	if (has_magic(&rec[0]) || has_magic(&rec[1]))
		return SUPER_DAMAGED;
	if (is_zero(&rec[0]) && is_zero(&rec[1]))
		return SUPER_EMPTY;
	memcpy(&first, &rec[0], sizeof(first));
	if (first == ORIGINAL_MAGIC_1 || first == ORIGINAL_MAGIC_2)
		return SUPER_ORIGINAL;
	return SUPER_FOREIGN;
}

int super_read(int fd, uint64_t file_size, struct super *super, enum super_verdict *verdict)
{
	struct super_rec rec[2];
	bool valid[2];

	memset(rec, 0, sizeof(rec));
	for (unsigned i = 0; i < 2; i++) {
		ssize_t n = file_size > copy_off[i] ? os->pread_full(fd, &rec[i], SECTOR, copy_off[i]) : 0;

		if (n < 0)
			return (int)n;
		valid[i] = n == (ssize_t)SECTOR && is_valid(&rec[i]);
	}
	if (!valid[0] && !valid[1]) {
		*verdict = judge_invalid(rec);
		return 0;
	}
	super->no_sync = false;
	super->copy = valid[0] && valid[1] ? rec[1].sequence > rec[0].sequence : valid[1];
	super->both_valid = valid[0] && valid[1];
	super->rec = rec[super->copy];
	if (super->rec.byte_order != SUPER_BYTE_ORDER || super->rec.version != SUPER_VERSION ||
	    super->rec.incompat & ~SUPER_INCOMPAT)
		*verdict = SUPER_UNKNOWN;
	else
		*verdict = is_sane(&super->rec) ? SUPER_OK : SUPER_DAMAGED;
	return 0;
}

void super_set_uuid(struct super_rec *rec, const uint8_t random[16])
{
	memcpy(rec->uuid, random, 16);
	rec->uuid[6] = (uint8_t)((rec->uuid[6] & 0x0f) | 0x40);
	rec->uuid[8] = (uint8_t)((rec->uuid[8] & 0x3f) | 0x80);
}

void super_init(struct super_rec *rec, const uint8_t uuid[16])
{
	memset(rec, 0, sizeof(*rec));
	memcpy(rec->magic, SUPER_MAGIC, sizeof(rec->magic));
	rec->byte_order = SUPER_BYTE_ORDER;
	rec->version = SUPER_VERSION;
	super_set_uuid(rec, uuid);
	rec->sequence = 1;
	rec->kind = SUPER_LIVE;
	rec->generation = 1;
	rec->journal[0].off = FIRST_JOURNAL_OFF;
	rec->journal[0].len = FIRST_JOURNAL_LEN;
}

void super_seal(struct super_rec *rec)
{
	rec->checksum = checksum_of(rec);
}

int super_write(int fd, struct super *super, const struct super_rec *next)
{
	struct super_rec rec = *next, before;
	unsigned copy = 1 - super->copy;
	ssize_t had;
	int r;

	if (copy_off[copy] + SECTOR > os->file_size_limit())
		return -EFBIG; /* the kernel would send SIGXFSZ */
	had = os->pread_full(fd, &before, SECTOR, copy_off[copy]);
	if (had < 0)
		return (int)had;
	rec.sequence = super->rec.sequence + 1;
	super_seal(&rec);
	r = super->no_sync ? os->pwrite_full(fd, &rec, SECTOR, copy_off[copy])
	                   : os->pwrite_sync(fd, &rec, SECTOR, copy_off[copy]);
	if (r) {
		/* J10 */
		os->pwrite_full(fd, &before, (size_t)had, copy_off[copy]);
		return r;
	}
	super->rec = rec;
	super->copy = copy;
	super->both_valid = true;
	return 0;
}
