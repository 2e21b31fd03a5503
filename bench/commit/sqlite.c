/* SPDX-License-Identifier: Apache-2.0 */
#include "store.h"
#include "bench.h"

#include <errno.h>
#include <limits.h>
#include <sqlite3.h>

/* A connection a thread. */
struct connection {
	sqlite3 *db;
	sqlite3_stmt *begin, *update, *select, *commit;
};

static struct connection *connections;
static unsigned connection_count;
static char path[PATH_MAX];

static void need(sqlite3 *db, int status, int wanted)
{
	if (status != wanted) {
		fprintf(stderr, "%s\n", sqlite3_errmsg(db));
		errno = EIO;
		bench_die("sqlite");
	}
}

static void run(sqlite3 *db, const char *text)
{
	need(db, sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *text)
{
	sqlite3_stmt *stmt = NULL;

	need(db, sqlite3_prepare_v3(db, text, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL), SQLITE_OK);
	return stmt;
}

static void step(struct connection *c, sqlite3_stmt *stmt)
{
	need(c->db, sqlite3_step(stmt), SQLITE_DONE);
	sqlite3_reset(stmt);
}

static void fill(struct connection *c, uint64_t records)
{
	sqlite3_stmt *insert;
	const unsigned char zero[VALUE_LEN] = {0};

	run(c->db, "CREATE TABLE records (key INTEGER PRIMARY KEY, value BLOB) STRICT");
	insert = prepare(c->db, "INSERT INTO records VALUES (?1, ?2)");
	run(c->db, "BEGIN");
	for (uint64_t key = 0; key < records; key++) {
		sqlite3_bind_int64(insert, 1, (sqlite3_int64)key);
		sqlite3_bind_blob(insert, 2, zero, VALUE_LEN, SQLITE_STATIC);
		step(c, insert);
	}
	run(c->db, "COMMIT");
	run(c->db, "PRAGMA wal_checkpoint(TRUNCATE)");
	sqlite3_finalize(insert);
}

static void connect_to(struct connection *c)
{
	if (sqlite3_open(path, &c->db) != SQLITE_OK)
		bench_die("sqlite3_open");
	sqlite3_busy_timeout(c->db, 60000);
	run(c->db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-262144");
}

static void prepare_all(struct connection *c)
{
	c->begin = prepare(c->db, "BEGIN IMMEDIATE");
	c->update = prepare(c->db, "UPDATE records SET value = ?2 WHERE key = ?1");
	c->select = prepare(c->db, "SELECT value FROM records WHERE key = ?1");
	c->commit = prepare(c->db, "COMMIT");
}

void store_open(const char *folder, uint64_t records, unsigned threads)
{
	snprintf(path, sizeof(path), "%s/sqlite", folder);
	connections = bench_table(threads, sizeof(*connections));
	connection_count = threads;
	for (unsigned i = 0; i < threads; i++) {
		struct connection *c = &connections[i];

		connect_to(c);
		if (i == 0)
			fill(c, records);
		prepare_all(c);
	}
}

void store_close(void)
{
	for (unsigned i = 0; i < connection_count; i++) {
		struct connection *c = &connections[i];

		sqlite3_finalize(c->begin);
		sqlite3_finalize(c->update);
		sqlite3_finalize(c->select);
		sqlite3_finalize(c->commit);
		need(c->db, sqlite3_close(c->db), SQLITE_OK);
	}
}

void store_reopen(void)
{
	store_close();
	for (unsigned i = 0; i < connection_count; i++) {
		connect_to(&connections[i]);
		prepare_all(&connections[i]);
	}
}

void store_begin(unsigned thread)
{
	step(&connections[thread], connections[thread].begin);
}

void store_update(unsigned thread, uint64_t key, const unsigned char *value)
{
	struct connection *c = &connections[thread];

	sqlite3_bind_int64(c->update, 1, (sqlite3_int64)key);
	sqlite3_bind_blob(c->update, 2, value, VALUE_LEN, SQLITE_STATIC);
	step(c, c->update);
}

void store_commit(unsigned thread)
{
	step(&connections[thread], connections[thread].commit);
}

void store_read_begin(void)
{
	run(connections[0].db, "BEGIN");
}

uint64_t store_read(uint64_t key)
{
	struct connection *c = &connections[0];
	uint64_t value;

	sqlite3_bind_int64(c->select, 1, (sqlite3_int64)key);
	need(c->db, sqlite3_step(c->select), SQLITE_ROW);
	memcpy(&value, sqlite3_column_blob(c->select, 0), sizeof(value));
	sqlite3_reset(c->select);
	return value;
}

void store_read_end(void)
{
	run(connections[0].db, "COMMIT");
}

void store_report(uint64_t commits, uint64_t updates)
{
	(void)commits;
	(void)updates;
}
