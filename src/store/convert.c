/* SPDX-License-Identifier: Apache-2.0
 *
 * A heap of one kind becomes one of the other by one write of the superblock: before it the heap is wholly of the old
 * kind, and after it of the new one.
 */
#include "../base/status.h"
#include "atomic.h"

#include <errno.h>
#include <string.h>

static int write_super(struct store *store, const struct super_rec *next)
{
	int r = super_write(store->fd, &store->super, next);

	return r ? fail(-r, "writing the superblock of the other kind:") : 0;
}

/* All data of the live heap on the device, before the superblock says that nothing has to be judged. */
static int to_atomic(struct store *store)
{
	struct super_rec next = store->super.rec;
	int r;

	if (store->is_unclean)
		return fail(EUCLEAN, "the heap has to be recovered first, as a live heap with FM_RECOVER");
	r = os->sync(store->fd);
	if (r)
		return fail(-r, "syncing the live heap:");
	next.kind = SUPER_ATOMIC;
	next.state = SUPER_CLEAN;
	next.generation++;
	next.journal_oldest = 1;
	memset(next.journal, 0, sizeof(next.journal));
	next.journal[0].off = FIRST_JOURNAL_OFF;
	next.journal[0].len = FIRST_JOURNAL_LEN;
	return write_super(store, &next);
}

static int to_live(struct store *store)
{
	struct super_rec next;

	if (recover_atomic(store))
		return -1;
	next = store->super.rec;
	next.kind = SUPER_LIVE;
	next.journal_oldest = 0;
	memset(next.journal, 0, sizeof(next.journal));
	next.journal[0].off = FIRST_JOURNAL_OFF;
	next.journal[0].len = FIRST_JOURNAL_LEN;
	store_stamp(store, &next);
	return write_super(store, &next);
}

int store_convert(struct store *store, bool to_atomic_kind)
{
	if (to_atomic_kind ? to_atomic(store) : to_live(store))
		return -1;
	store->is_atomic = to_atomic_kind;
	return 0;
}
