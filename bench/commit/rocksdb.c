/* SPDX-License-Identifier: Apache-2.0 */
#include "store.h"
#include "bench.h"

#include <errno.h>
#include <limits.h>
#include <rocksdb/c.h>

static char path[PATH_MAX];
static rocksdb_t *db;
static rocksdb_options_t *options;
static rocksdb_writeoptions_t *durable;
static rocksdb_readoptions_t *reading;
static rocksdb_writebatch_t **batch; /* by thread */

static void need(char *error)
{
	if (error) {
		fprintf(stderr, "%s\n", error);
		errno = EIO;
		bench_die("rocksdb");
	}
}

/* Keys sort as numbers. */
static void put(rocksdb_writebatch_t *to, uint64_t key, const unsigned char *value)
{
	uint64_t big_endian = __builtin_bswap64(key);

	rocksdb_writebatch_put(to, (char *)&big_endian, sizeof(big_endian), (const char *)value, VALUE_LEN);
}

static void fill(uint64_t records)
{
	const unsigned char zero[VALUE_LEN] = {0};
	rocksdb_flushoptions_t *flush = rocksdb_flushoptions_create();
	char *error = NULL;

	for (uint64_t key = 0; key < records; key++) {
		put(batch[0], key, zero);
		if (key % 10000 != 9999 && key != records - 1)
			continue;
		rocksdb_write(db, durable, batch[0], &error);
		need(error);
		rocksdb_writebatch_clear(batch[0]);
	}
	rocksdb_flush(db, flush, &error);
	need(error);
	rocksdb_flushoptions_destroy(flush);
}

static void open_db(void)
{
	char *error = NULL;

	db = rocksdb_open(options, path, &error);
	need(error);
}

void store_open(const char *folder, uint64_t records, unsigned threads)
{
	snprintf(path, sizeof(path), "%s/rocksdb", folder);
	options = rocksdb_options_create();
	rocksdb_options_set_create_if_missing(options, 1);
	durable = rocksdb_writeoptions_create();
	rocksdb_writeoptions_set_sync(durable, 1);
	reading = rocksdb_readoptions_create();
	open_db();
	batch = bench_table(threads, sizeof(*batch));
	for (unsigned i = 0; i < threads; i++)
		batch[i] = rocksdb_writebatch_create();
	fill(records);
}

void store_close(void)
{
	rocksdb_close(db);
}

void store_reopen(void)
{
	store_close();
	open_db();
}

void store_begin(unsigned thread)
{
	rocksdb_writebatch_clear(batch[thread]);
}

void store_update(unsigned thread, uint64_t key, const unsigned char *value)
{
	put(batch[thread], key, value);
}

void store_commit(unsigned thread)
{
	char *error = NULL;

	rocksdb_write(db, durable, batch[thread], &error);
	need(error);
}

void store_read_begin(void)
{
}

uint64_t store_read(uint64_t key)
{
	uint64_t big_endian = __builtin_bswap64(key), value = 0;
	char *error = NULL;
	size_t len = 0;
	const char *at;
	rocksdb_pinnableslice_t *slice = rocksdb_get_pinned(db, reading, (char *)&big_endian, sizeof(big_endian), &error);

	need(error);
	at = slice ? rocksdb_pinnableslice_value(slice, &len) : NULL;
	if (len != VALUE_LEN)
		bench_die("rocksdb: a record is missing");
	memcpy(&value, at, sizeof(value));
	rocksdb_pinnableslice_destroy(slice);
	return value;
}

void store_read_end(void)
{
}

void store_report(uint64_t commits, uint64_t updates)
{
	(void)commits;
	(void)updates;
}
