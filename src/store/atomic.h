/* SPDX-License-Identifier: Apache-2.0
 *
 * An atomic heap open for writing, as bytes: what commit and rollback do below allocation. docs/atomic.md has the
 * protocol and its invariants; the letters J, T, C, R and N in comments are theirs.
 *
 * A commit is prepared in the pause, in which nobody changes the heap (alloc/gate.h), and written after it. One
 * thread at a time is the committer.
 *
 *            prepare                write                    apply
 *   CLEAN ------------> PREPARED ------------> DURABLE ------------> CLEAN
 *     ^                    |  failed: the pages stay found     | failed: again before the next prepare
 *     +--------------------+                                   +-----+
 *
 *   C1  no page is compared before all earlier commits are applied in full
 *   C2  what is applied comes from the record's bytes, never from the page
 *   C3  a commit returns 0 only after its record is on the device
 *   C4  a private page is dropped only in the pause, if it is unwritten there and its last commit applied
 *   C5  nobody writes a page back that was read before a part of it was applied
 */
#ifndef FM_STORE_ATOMIC_H
#define FM_STORE_ATOMIC_H

#include "journal.h"
#include "place.h"
#include "track.h"

struct atomic {
	struct store *store;
	struct journal journal;
	struct track track;
	const uint8_t *committed; /* the file mapped shared, to compare with; NULL: it is read */
	uint64_t line;            /* bytes that are written whole */
	struct record record;
	void *buffer;             /* of the record */
	struct chain *chain;      /* records of a commit too long for one, by place; else NULL */
	uint64_t chain_room;
	unsigned chain_len;
	bool is_unapplied;        /* state DURABLE: of `record`, or `chain` */
	bool is_large;            /* PREPARED, and more than one record holds */
	bool grows;               /* the journal has a plan to be carried out */
	bool commits_at_close;
	uint64_t file_size;       /* at the pause */

	/* pages kept private: C4 */
	struct pageset kept;
	uint64_t kept_pages, keep_max; /* pages */
	uint64_t private_pages;   /* that the last commit found, and that are not dropped since */
	uint64_t hand;            /* where to look for pages to drop next */

	struct place place;

	/* statistics */
	uint64_t commits, rollbacks, pages_found, pages_changed;
	uint64_t counted;         /* pages below are in the figures of the commit that is prepared */
};

struct chain {
	uint64_t position, len;
};

/* Bring the file to its last commit, before it is mapped: R1 to R3. 0, or -1 after fail(). */
int recover_atomic(struct store *store);

/* The same in the memory of a heap that is mapped for reading only. 0, or -1 after fail(). */
int recover_into_memory(struct store *store);

/* Make store->atomic for the recovered and mapped heap. `way`: how to find written pages, NULL: the best. 0, or -1
 * after fail(). */
int atomic_open(struct store *store, const struct store_request *request, const char *way);

/* Everything applied, synced and retired; no thread is left. -1 after fail() if not: then the journal still has it. */
int atomic_finish(struct atomic *atomic);

/* After that, and after the file's unused space was given back: the heap is closed in order. 0, or -1 after fail(). */
int atomic_mark_clean(struct atomic *atomic);
void atomic_close(struct store *store);

/* The file has `size` bytes now, and the mapping is accessible so far. Needs heap->lock. 0 or -errno. */
int atomic_extended(struct store *store, uint64_t size);

/* ---- committer. 0 or -errno */

/* Finish an apply that failed earlier: C1. */
int atomic_catch_up(struct atomic *atomic);

/* In the pause, with heap->lock: find and compare. *changed: is there anything to be written? */
int atomic_prepare(struct atomic *atomic, bool *changed);

/* If `is_large` was set: also in the pause. Writes the whole chain. */
int atomic_write_large(struct atomic *atomic);

/* Else after the pause. The commit is durable when 0 is returned. */
int atomic_write(struct atomic *atomic);

/* May the durable commit be applied by a thread beside the program, and is that worth it? Not where the budget asks for
 * dropping pages behind it: a program with one thread is in no section, and stores as soon as fm_commit returns. */
bool atomic_may_apply_aside(const struct atomic *atomic);

/* Bring the durable commit to its place. Errors are kept for atomic_catch_up. */
void atomic_apply(struct atomic *atomic);

/* After a large commit far more pages are private than the budget allows, and the program may write as many others
 * before the next one: then a pause of its own brings them back to the budget. The second is called in it, with
 * heap->lock. */
bool atomic_keeps_too_much(const struct atomic *atomic);
void atomic_keep_less(struct atomic *atomic);

/* In the pause, with heap->lock: drop every private page. Everything is applied. After a failure some may be dropped. */
int atomic_drop_changes(struct atomic *atomic);

/* Is page `page` of 4 KiB one of the superblock's or journal's? */
bool atomic_is_own(const struct store *store, uint64_t page);

/* RECORD_MAX. Tests make it smaller, while no heap is open. */
extern uint64_t atomic_record_max;

/* ---- snapshot.c: a copy of the last commit. Steps 1, 3 by the committer, 2 by nobody in particular; 0, or -1 after
 * fail(), after which only snapshot_drop() is to be called */
struct snapshot {
	struct store store;      /* of the new file */
	struct store_request request;
	char temporary[STORE_NAME_MAX];
	struct pageset touched, again;
	void *bytes;             /* for copying, CHUNK of them: more than a thread's stack may have */
	uint64_t size;
	bool is_cloned, is_linked;
};

int snapshot_begin(struct snapshot *snapshot, struct atomic *atomic, const char *path);
int snapshot_copy(struct snapshot *snapshot, struct atomic *atomic);
int snapshot_catch_up(struct snapshot *snapshot, struct atomic *atomic);
int snapshot_publish(struct snapshot *snapshot, struct atomic *atomic);
void snapshot_drop(struct snapshot *snapshot, struct atomic *atomic);

/* ---- diff.c */

#define DIFF_FULL 2

/* Put the changed lines of `page` into the record. 1: it differs, 0: it does not, DIFF_FULL: the record is full and
 * has nothing of the page, or -errno. */
int diff_page(struct atomic *atomic, uint64_t page);

/* T1: a bit for each line of 64 bytes that differs, if nothing but `which` may have been written. 0 or -errno. */
int diff_lines(const struct atomic *atomic, uint64_t page, uint64_t which, uint64_t *lines);

/* Bytes that the page would take in records, or -errno. */
int64_t diff_size(struct atomic *atomic, uint64_t page);

#endif
