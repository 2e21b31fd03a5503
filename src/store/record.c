/* SPDX-License-Identifier: Apache-2.0 */
#include "record.h"

#include "../base/crc32c.h"

#include <string.h>

void record_begin(struct record *record, void *bytes, uint64_t room)
{
	record->bytes = bytes;
	record->room = room;
	record->used = sizeof(struct record_rec);
	record->last = 0;
	record->entries = 0;
	memset(bytes, 0, sizeof(struct record_rec));
}

static uint64_t word_at(const uint8_t *bytes)
{
	uint64_t word;

	memcpy(&word, bytes, 8);
	return word;
}

/* Does `off` continue the last entry? */
static bool continues(const struct record *record, uint64_t off, uint64_t len)
{
	uint64_t word;

	if (!record->last)
		return false;
	word = word_at(record->bytes + record->last);
	return entry_off(word) + entry_len(word) == off && entry_len(word) + len <= ENTRY_MAX;
}

bool record_put(struct record *record, uint64_t off, const void *data, uint64_t len)
{
	bool longer = continues(record, off, len);
	uint64_t need = len + (longer ? 0 : 8);
	uint64_t word;

	if (round_up(record->used + need, RECORD_ALIGN) > record->room)
		return false;
	if (longer) {
		word = word_at(record->bytes + record->last) + len;
	} else {
		record->last = record->used;
		record->used += 8;
		record->entries++;
		word = entry_word(off, len);
	}
	memcpy(record->bytes + record->last, &word, 8);
	memcpy(record->bytes + record->used, data, len);
	record->used += len;
	return true;
}

static uint32_t checksum_of(const struct record_rec *header)
{
	uint32_t crc = crc32c(header, offsetof(struct record_rec, checksum));

	return crc32c_extend(crc, header + 1, header->used - sizeof(*header));
}

uint64_t record_seal(struct record *record)
{
	struct record_rec *header = record_header(record);
	uint64_t len = round_up(record->used, RECORD_ALIGN);

	memset(record->bytes + record->used, 0, len - record->used);
	memcpy(header->magic, RECORD_MAGIC, sizeof(header->magic));
	header->len = len;
	header->used = record->used;
	header->entries = record->entries;
	header->checksum = checksum_of(header);
	return len;
}

uint64_t record_len(const struct record_rec *header, uint64_t most)
{
	if (memcmp(header->magic, RECORD_MAGIC, sizeof(header->magic)) != 0 || header->len % RECORD_ALIGN ||
	    header->len > most || header->used < sizeof(*header) || header->used > header->len ||
	    header->len - header->used >= RECORD_ALIGN)
		return 0;
	return header->len;
}

static bool entries_are_valid(const struct record_rec *header)
{
	const uint8_t *bytes = (const uint8_t *)header;
	uint64_t at = sizeof(*header);

	for (uint32_t i = 0; i < header->entries; i++) {
		uint64_t word, len;

		if (header->used - at < 8)
			return false;
		word = word_at(bytes + at);
		len = entry_len(word);
		at += 8;
		if (len == 0 || len % 8 || entry_off(word) % 8 || header->used - at < len ||
		    entry_off(word) + len > header->file_size)
			return false;
		at += len;
	}
	return at == header->used;
}

bool record_is_valid(const struct record_rec *header)
{
	return header->checksum == checksum_of(header) && entries_are_valid(header) &&
	       (header->kind == RECORD_PART || header->kind == RECORD_COMMIT) && header->sequence != 0 &&
	       header->first <= header->sequence;
}

bool record_next(const struct record_rec *header, uint64_t *at, struct record_entry *entry)
{
	const uint8_t *bytes = (const uint8_t *)header;
	uint64_t word;

	if (*at == 0)
		*at = sizeof(*header);
	if (*at >= header->used)
		return false;
	word = word_at(bytes + *at);
	entry->off = entry_off(word);
	entry->len = entry_len(word);
	entry->data = bytes + *at + 8;
	*at += 8 + entry->len;
	return true;
}
