/* SPDX-License-Identifier: Apache-2.0
 *
 * The journal of an atomic heap: where records go, when their space may be used again, and the superblock that
 * says so. The invariants J1 to J10 are those of docs/atomic.md.
 *
 * Space is a ring over the extents in order. Virtual positions rise for ever: position v is byte v mod capacity of
 * the ring. Records of commits in [oldest, commit) are needed and lie in [tail, head).
 *
 *      tail           applied_head             head
 *        |-- applied, not synced --|-- not applied --|
 *
 * Who may call what: "committer" is one thread at a time (alloc/gate.h sees to it). The checkpoint runs beside it.
 */
#ifndef FM_STORE_JOURNAL_H
#define FM_STORE_JOURNAL_H

#include "place.h"
#include "record.h"
#include "store.h"

#include <pthread.h>

struct journal {
	struct store *store;
	uint8_t uuid[16];      /* of the heap; */
	uint64_t generation;   /* both as in the superblock, which the checkpoint writes */
	int fd;                /* the committer's description: records */
	int direct_fd;         /* the committer's for short records: past the page cache; -1: there is none */
	int sync_fd;           /* the checkpointer's: a writeback error is reported once to each */
	struct extent_rec extent[JOURNAL_EXTENTS]; /* the committer's copy */
	unsigned extents;
	uint64_t limit;        /* bytes to grow to, of itself */
	uint64_t floor;        /* extents lie behind it: the heap's max_size, 0 if it has none of its own. The heap would
	                          else have to grow over them, beyond what it was allowed */
	uint64_t bytes_at_growth; /* `bytes` when it grew last */
	struct extent_rec plan; /* reserved for the next extent; len 0: none. Needs heap->lock to be made */
	struct place *place;   /* of what is applied, which a sync asks for; or NULL */
	bool must_sync;        /* atomic: the file grew since it was synced last: J6 */

	pthread_mutex_t super_lock; /* who writes the superblock */
	pthread_mutex_t checkpoint_lock; /* who checkpoints; taken before the others */
	pthread_mutex_t lock;  /* what follows */
	pthread_cond_t changed;
	uint64_t capacity;
	uint64_t head, applied_head, tail;
	uint64_t reserve;      /* when less is free, it is time for a checkpoint */
	uint64_t commit;       /* the next one's number */
	uint64_t applied;      /* number of the last one that is applied in full */
	uint64_t oldest;
	uint64_t sequence;     /* the next record's */
	int error;             /* the handle is poisoned; 0: not */
	int checkpoint_result; /* of the last one: 0 or -errno */

	pthread_t thread;
	bool may_thread;       /* it may be begun */
	bool has_thread, thread_ends, is_wanted;

	/* statistics, atomic */
	uint64_t bytes, flushes, growth_flushes, checkpoint_flushes, checkpoints, waits;
};

/* Take the extents of the superblock into use: after recovery, before the first commit. `path` is for
 * messages. 0, or -1 after fail(). */
int journal_open(struct journal *journal, struct store *store, uint64_t limit, uint64_t floor, bool with_thread);

/* End the thread, close the descriptions. */
void journal_close(struct journal *journal);

/* The device failed: nothing is acknowledged any more on this handle. Returns -err. */
int journal_poison(struct journal *journal, int err);
bool journal_is_poisoned(struct journal *journal);

/* ---- committer; 0 or -errno */

/* Bytes that a record may have at most. */
uint64_t journal_longest(const struct journal *journal);

/* Does a commit of `total` bytes in records of at most `longest` need a larger journal, or would it be good to
 * have one? Then a place for the extent is chosen: needs heap->lock. */
bool journal_plan_growth(struct journal *journal, uint64_t total, uint64_t longest);

/* Carry out the plan: the extent is zeroed and named by the superblock, and everything in the journal is retired.
 * On failure the journal is as it was. */
int journal_grow(struct journal *journal);

/* At closing, everything retired: a journal larger than a heap that uses `used` bytes would have, or far behind what it
 * uses, becomes the first extent alone. */
int journal_shrink(struct journal *journal, uint64_t used);

/* Write the sealed record (`record->...header` gets its place and number here) where there is room, waiting for a
 * checkpoint if there is none. It is on the device when 0 is returned. *position is where it lies. */
int journal_write(struct journal *journal, struct record *record, enum record_kind kind, uint64_t first,
                  uint32_t chain_checksum, uint64_t *position);

/* The commit that the record written last belongs to is durable: J1. And: it is applied in full. */
void journal_committed(struct journal *journal);
void journal_applied(struct journal *journal);

/* The chain that was begun is given up: its records will never belong to a commit. */
void journal_abandon(struct journal *journal);

/* ---- anybody; 0 or -errno */

/* Sync the file by `own`, one of the journal's descriptors. 0, or -errno; -EBADF: the program has closed it. */
int journal_sync(const struct journal *journal, int own);

/* Replace the superblock: `change` is called on a copy. */
int journal_update_super(struct journal *journal, void (*change)(struct super_rec *rec, uint64_t value), uint64_t value);

/* The superblock as it is now. */
struct super_rec journal_super(struct journal *journal);

/* Nothing was written, and so the outcome is known: the program has closed our descriptor, or RLIMIT_FSIZE is less. */
bool journal_is_harmless(int r);

/* Is so much used that it is time for a checkpoint? Needs `lock`. */
bool journal_is_short(const struct journal *journal);

/* ---- checkpoint.c */

/* Sync the file and retire everything that is applied. 0 or -errno. */
int journal_checkpoint(struct journal *journal);

/* Begin and end the thread that does it. 0 or -errno. */
int checkpoint_start(struct journal *journal);
void checkpoint_stop(struct journal *journal);

#endif
