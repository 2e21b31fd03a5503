/* SPDX-License-Identifier: Apache-2.0
 *
 * The dirty mark of a live heap. It says which boot and which file took the heap into use: after a kill
 * both are still the same and the page cache has everything; after a power cut, or in a copy, one differs.
 *
 *   clean --(mark_dirty: superblock on the device)--> dirty --(mark_clean: data, then superblock)--> clean
 *
 * A crash between the two steps of mark_clean leaves the heap dirty with all data on the device.
 */
#include "../base/status.h"
#include "store.h"
#include "truth.h"

#include <errno.h>
#include <string.h>

static bool is_this_file(const struct store *store)
{
	const struct super_rec *rec = &store->super.rec;

	return rec->dev == store->id.dev && rec->ino == store->id.ino &&
	       rec->birth_sec == store->id.birth_sec && rec->birth_nsec == store->id.birth_nsec;
}

static bool is_this_boot(const struct store *store)
{
	return !store->boot_error && memcmp(store->boot_id, store->super.rec.boot_id, sizeof(store->boot_id)) == 0;
}

void store_learn_boot(struct store *store)
{
	store->boot_error = -os->boot_id(store->boot_id);
}

int store_boot_unknown(const struct store *store)
{
	if (store->boot_error == ENOSYS)
		return fail(ENOSYS, "/proc/sys/kernel/random/boot_id can't be read, without which no later opening could "
		                    "tell a kill from a power cut");
	return fail(store->boot_error, "reading /proc/sys/kernel/random/boot_id:");
}

bool store_is_of_another_boot(const struct store *store)
{
	static const uint8_t unknown[16];
	const uint8_t *then = store->super.rec.boot_id;

	return is_this_file(store) && memcmp(then, unknown, sizeof(unknown)) != 0 && !store->boot_error &&
	       !is_this_boot(store);
}

int store_judge(struct store *store)
{
	const struct super_rec *rec = &store->super.rec;

	store->is_moved = !is_this_file(store);
	if (rec->state == SUPER_CLEAN)
		store->is_unclean = !store->super.both_valid;
	else if (store->is_moved || store->is_atomic || !store->boot_error)
		store->is_unclean = store->is_moved || !is_this_boot(store);
	else
		return store_boot_unknown(store);
	return 0;
}

void store_stamp(const struct store *store, struct super_rec *rec)
{
	rec->state = SUPER_DIRTY;
	rec->dev = store->id.dev;
	rec->ino = store->id.ino;
	rec->birth_sec = store->id.birth_sec;
	rec->birth_nsec = store->id.birth_nsec;
	memcpy(rec->boot_id, store->boot_id, sizeof(rec->boot_id));
}

static int write_super(struct store *store, const struct super_rec *next)
{
	int fd = store_borrow(store);
	int r = fd < 0 ? fd : super_write(fd, &store->super, next);

	store_give_back(store, fd);
	return r;
}

int store_mark_dirty(struct store *store)
{
	struct truth_page_rec *truth = store_truth(store);
	struct super_rec next = store->super.rec;
	int r;

	if (store->super.rec.state == SUPER_DIRTY && !store->is_unclean && !store->is_moved &&
	    (store->is_marked || truth_load(&truth->mark_sequence) == store->super.rec.sequence)) {
		store->is_marked = true;
		return 0;
	}
	next.generation++;
	store_stamp(store, &next);
	r = write_super(store, &next);
	if (r) {
		/* the error of an earlier write may have been reported to this one */
		store->sync_failed = true;
		return fail(-r, "marking the heap as in use:");
	}
	/* only now: whoever reads this word on this boot knows that the mark is on the device */
	truth_store(&truth->mark_sequence, store->super.rec.sequence);
	store->is_marked = true;
	store->is_unclean = store->is_moved = false;
	return 0;
}

int store_sync(struct store *store)
{
	int fd, r;

	if (store->no_sync)
		return 0;
	fd = store_borrow(store);
	r = fd < 0 ? fd : os->sync(fd);
	store_give_back(store, fd);
	if (!r && !store->sync_failed)
		return 0;
	/* the kernel reports a lost page once; a later success would not mean that it is there */
	store->sync_failed = true;
	return fail(r ? -r : EIO, r ? "syncing the heap:" : "an earlier sync of this heap failed");
}

int store_mark_clean(struct store *store)
{
	struct super_rec next;
	int r;

	if (store->read_only || store->no_sync || store->super.rec.state == SUPER_CLEAN)
		return 0;
	store_record_blocks(store);
	if (store_sync(store))
		return -1;
	next = store->super.rec;
	next.state = SUPER_CLEAN;
	r = write_super(store, &next);
	if (r) {
		store->sync_failed = true;
		return fail(-r, "marking the heap as clean:");
	}
	store->is_marked = false;
	return 0;
}
