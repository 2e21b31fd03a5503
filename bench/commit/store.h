/* SPDX-License-Identifier: Apache-2.0
 *
 * A store of records, each a key of 8 bytes and a value of 100: the one interface by which bench/commit/commit.c
 * drives our heap and its peers. Each is a file of its own, linked to the program of its name.
 *
 *   ours      an atomic heap: one object a record, found by a table of offsets; declared=1: FM_DECLARED and
 *             fm_will_write
 *   lmdb      one environment, integer keys, default flags: durable when mdb_txn_commit returns
 *   sqlite    one table with an integer primary key, WAL, synchronous=FULL, prepared statements
 *   rocksdb   a WriteBatch a commit, sync=1
 *   pmemobj   a transaction a commit, over an array in one object: its lookup is cheaper than any other
 *   limit     no store: one synchronous write (RWF_DSYNC) of what a record of the commit must hold, in a file of the
 *             store's size. Values are in volatile memory, and are lost
 *
 * Words used below
 *   update     a new value for one key
 *   commit     returns when all updates since the one before are durable
 *
 * A call that fails ends the program with bench_die.
 */
#ifndef STORE_H
#define STORE_H

#include <stdbool.h>
#include <stdint.h>

#define VALUE_LEN 100

/* Make the store in `folder` with keys 0 to records - 1, all values zero, durable. `threads` will use it. */
void store_open(const char *folder, uint64_t records, unsigned threads);
void store_close(void);

/* Close the store and open it again: from here on it has what was committed. No thread is using it. (The limit goes on.) */
void store_reopen(void);

/* One thread's changes: begin, updates of keys that no other thread updates, commit. `thread` is below `threads`. */
void store_begin(unsigned thread);
void store_update(unsigned thread, uint64_t key, const unsigned char *value);
void store_commit(unsigned thread);

/* Reading, by thread 0 only: the value's first 8 bytes. Reads lie between the two others. */
void store_read_begin(void);
uint64_t store_read(uint64_t key);
void store_read_end(void);

/* Add what the store counts itself to the report; `commits` and `updates` were done since store_open(). */
void store_report(uint64_t commits, uint64_t updates);

#endif
