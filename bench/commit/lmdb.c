/* SPDX-License-Identifier: Apache-2.0 */
#include "store.h"
#include "bench.h"

#include <errno.h>
#include <lmdb.h>

static MDB_env *env;
static MDB_dbi dbi;
static MDB_txn **open_txn; /* by thread */
static MDB_txn *reader;
static const char *path;
static size_t map_size;

static void need(int status)
{
	if (status) {
		fprintf(stderr, "%s\n", mdb_strerror(status));
		errno = status > 0 ? status : EIO;
		bench_die("lmdb");
	}
}

static void put(MDB_txn *txn, uint64_t key, const unsigned char *value)
{
	MDB_val k = {sizeof(key), &key}, v = {VALUE_LEN, (void *)(uintptr_t)value};

	need(mdb_put(txn, dbi, &k, &v, 0));
}

static void fill(uint64_t records)
{
	const unsigned char zero[VALUE_LEN] = {0};
	MDB_txn *txn;

	need(mdb_txn_begin(env, NULL, 0, &txn));
	need(mdb_dbi_open(txn, NULL, MDB_INTEGERKEY, &dbi));
	for (uint64_t key = 0; key < records; key++)
		put(txn, key, zero);
	need(mdb_txn_commit(txn));
}

static void open_environment(void)
{
	need(mdb_env_create(&env));
	need(mdb_env_set_mapsize(env, map_size));
	need(mdb_env_open(env, path, 0, 0600));
}

void store_open(const char *folder, uint64_t records, unsigned threads)
{
	open_txn = bench_table(threads, sizeof(*open_txn));
	path = folder;
	map_size = (records * 108 * 8 + (64 << 20)) & ~(size_t)4095;
	open_environment();
	fill(records);
}

void store_close(void)
{
	mdb_env_close(env);
}

void store_reopen(void)
{
	store_close();
	open_environment();
	store_read_begin();
	need(mdb_dbi_open(reader, NULL, MDB_INTEGERKEY, &dbi));
	need(mdb_txn_commit(reader));
}

void store_begin(unsigned thread)
{
	need(mdb_txn_begin(env, NULL, 0, &open_txn[thread]));
}

void store_update(unsigned thread, uint64_t key, const unsigned char *value)
{
	put(open_txn[thread], key, value);
}

void store_commit(unsigned thread)
{
	need(mdb_txn_commit(open_txn[thread]));
}

void store_read_begin(void)
{
	need(mdb_txn_begin(env, NULL, MDB_RDONLY, &reader));
}

uint64_t store_read(uint64_t key)
{
	MDB_val k = {sizeof(key), &key}, v;
	uint64_t value;

	need(mdb_get(reader, dbi, &k, &v));
	memcpy(&value, v.mv_data, sizeof(value));
	return value;
}

void store_read_end(void)
{
	mdb_txn_abort(reader);
}

void store_report(uint64_t commits, uint64_t updates)
{
	(void)commits;
	(void)updates;
}
