/* SPDX-License-Identifier: Apache-2.0 */
#include "store.h"
#include "bench.h"

#include <fmalloc.h>
#include <limits.h>

struct record {
	uint64_t key;
	unsigned char value[VALUE_LEN];
};

typedef fm_ptr(struct record) record_ptr;

/* The key stands beside the pointer, so that looking for one reads no other's record. */
struct slot {
	uint64_t key;
	record_ptr record;
};

/* Open addressing by a hash of the key, at most half full. */
struct table {
	uint64_t mask;
	struct slot slot[];
};

#define ROOT "records"
#define TABLE_TAG 1

static char path[PATH_MAX];
static fm_heap *heap;
static struct table *table;
static bool is_declared;
static struct fm_statistics at_start;

static uint64_t hash_of(uint64_t key)
{
	key *= UINT64_C(0x9e3779b97f4a7c15);
	return key ^ key >> 32;
}

/* Where the key is, or the free slot where it would be. */
static struct slot *slot_of(uint64_t key)
{
	uint64_t i = hash_of(key) & table->mask;

	while (table->slot[i].key != key && table->slot[i].record)
		i = (i + 1) & table->mask;
	return &table->slot[i];
}

static void declare(const void *at, size_t len)
{
	if (is_declared && fm_will_write(heap, at, len))
		bench_die(fm_last_error());
}

static void commit(void)
{
	if (fm_commit(heap))
		bench_die(fm_last_error());
}

static void add_record(uint64_t key)
{
	struct slot *slot = slot_of(key);
	struct record *record = bench_need(fm_malloc(heap, sizeof(*record)));

	declare(record, sizeof(*record));
	record->key = key;
	memset(record->value, 0, sizeof(record->value));
	declare(slot, sizeof(*slot));
	slot->key = key;
	fm_set(heap, &slot->record, record);
}

static void fill(uint64_t records)
{
	uint64_t slots = 1024;

	while (slots < records * 2)
		slots *= 2;
	table = bench_need(fm_calloc(heap, 1, sizeof(*table) + slots * sizeof(table->slot[0])));
	declare(table, sizeof(*table));
	table->mask = slots - 1;
	if (fm_root_set(heap, ROOT, table, TABLE_TAG))
		bench_die(fm_last_error());
	for (uint64_t key = 0; key < records; key++) {
		add_record(key);
		if (key % 10000 == 9999)
			commit();
	}
	commit();
}

static void look(struct fm_statistics *stats)
{
	stats->size = sizeof(*stats);
	if (fm_stats(heap, stats))
		bench_die(fm_last_error());
}

static void open_heap(unsigned flags)
{
	struct fm_options options = {.size = sizeof(options), .disable = FM_NO_EXIT_SYNC};

	heap = fm_open(path, flags | FM_ATOMIC | (is_declared ? FM_DECLARED : 0), &options);
	if (!heap)
		bench_die(fm_last_error());
}

void store_open(const char *folder, uint64_t records, unsigned threads)
{
	(void)threads;
	is_declared = bench_option("declared", 0);
	snprintf(path, sizeof(path), "%s/ours", folder);
	open_heap(FM_CREATE | FM_EXCL);
	fill(records);
	look(&at_start);
}

void store_close(void)
{
	if (fm_close(heap))
		bench_die(fm_last_error());
}

void store_reopen(void)
{
	store_close();
	open_heap(0);
	table = bench_need(fm_root_get(heap, ROOT, TABLE_TAG));
}

void store_begin(unsigned thread)
{
	(void)thread;
	if (fm_begin(heap))
		bench_die(fm_last_error());
}

void store_update(unsigned thread, uint64_t key, const unsigned char *value)
{
	struct record *record = fm_get(heap, slot_of(key)->record);

	(void)thread;
	declare(record->value, VALUE_LEN);
	memcpy(record->value, value, VALUE_LEN);
}

void store_commit(unsigned thread)
{
	(void)thread;
	if (fm_end(heap))
		bench_die(fm_last_error());
	commit();
}

void store_read_begin(void)
{
}

uint64_t store_read(uint64_t key)
{
	struct record *record = fm_get(heap, slot_of(key)->record);
	uint64_t value;

	memcpy(&value, record->value, sizeof(value));
	return value;
}

void store_read_end(void)
{
}

void store_report(uint64_t commits, uint64_t updates)
{
	struct fm_statistics now;
	double n = updates ? (double)updates : 1;

	look(&now);
	bench_add("journal_bytes_per_update", (double)(now.journal_bytes - at_start.journal_bytes) / n);
	bench_add("applied_bytes_per_update", (double)(now.applied_bytes - at_start.applied_bytes) / n);
	bench_add("journal_size", (double)now.journal_size);
	bench_add("flushes_per_commit", (double)(now.flushes - at_start.flushes) / (double)(now.commits - at_start.commits + !commits));
	bench_add("growth_flushes", (double)(now.growth_flushes - at_start.growth_flushes));
	bench_add("checkpoints", (double)(now.checkpoints - at_start.checkpoints));
	bench_add("waits", (double)(now.waits - at_start.waits));
	bench_add("tracking", (double)now.tracking);
}
