/* SPDX-License-Identifier: Apache-2.0
 *
 * Checkpoints: how they bring to the device what was applied, part by part through the view
 * (src/store/place.h), what they do when that fails, and when the next one begins.
 */
#define _GNU_SOURCE 1
#include "os_util.h"
#include "proc_util.h"

#include "alloc/heap.h"
#include "base/atomics.h"
#include "base/bits.h"
#include "store/atomic.h"

#define PAGES 100u
#define STEP  4096u
#define LARGE (200 * MIB) /* so that the file has some parts */
#define PART  (8 * MIB)   /* dirty bytes that are synced at once */

static struct {
	char *dir, path[300];
	struct os_calls table;
	fm_heap *heap;
	uint8_t *data;
	uint64_t dirtied, each;     /* bytes; and what each write makes dirty */
	unsigned parts, syncs;      /* by the view; of the whole file */
	uint64_t dropped, synced;   /* of the view, from its beginning */
	unsigned fails_at;          /* the part whose sync fails; 0: none */
	int error;                  /* of syncs of the whole file */
	unsigned supers;            /* superblocks, and how much of the file was synced before the last one */
	uint64_t before_super;
	bool blocks;                /* a part waits until this is false again */
	bool bad;                   /* a part was not behind the one before, or mapped */
} t;

static struct atomic *atomic_of(void)
{
	return heap_of_handle(t.heap)->store.atomic;
}

static uint64_t heap_len(void)
{
	return heap_size(heap_of_handle(t.heap));
}

static int seen_write(int fd, const void *buf, size_t len, uint64_t off)
{
	t.dirtied += len <= STEP ? t.each : 0;
	return os_linux.pwrite_full(fd, buf, len, off);
}

static uint64_t seen_dirtied(void)
{
	return t.dirtied;
}

static int seen_advise(void *at, uint64_t len, enum os_advice advice)
{
	const uint8_t *view = atomic_of()->place.view, *start = at;

	if (advice == OS_DROP && start >= view && start < view + GIB) {
		t.bad = t.bad || start != view + t.dropped;
		t.dropped += len;
	}
	return os_linux.advise(at, len, advice);
}

/* Without its pages, for which the sync would have to interrupt other processors, and with no gap. */
static int seen_sync_view(int fd, void *at, uint64_t len)
{
	int r;

	t.bad = t.bad || at != atomic_of()->place.view + t.synced || t.dropped != t.synced + len;
	store_release(&t.parts, t.parts + 1);
	while (load_acquire(&t.blocks))
		proc_sleep_us(100);
	r = os_linux.sync_view(fd, at, len);
	t.synced += len;
	return t.parts == t.fails_at ? -EIO : r;
}

static int seen_sync(int fd)
{
	int r = os_linux.sync(fd);

	t.syncs++;
	return t.error ? -t.error : r;
}

static int seen_super(int fd, const void *buf, size_t len, uint64_t off)
{
	if (off == SUPER_COPY_1_OFF || off == SUPER_COPY_2_OFF) {
		t.supers++;
		t.before_super = t.synced;
	}
	return os_linux.pwrite_sync(fd, buf, len, off);
}

static void forget(void)
{
	t.parts = t.syncs = t.supers = 0;
	t.dropped = t.synced = t.before_super = 0;
}

static void commit(unsigned pages, uint8_t value)
{
	for (unsigned i = 0; i < pages; i++)
		memset(t.data + i * STEP, value, 8);
	assert_int_equal(fm_commit(t.heap), 0);
}

static void begin(uint64_t large, unsigned disable)
{
	struct fm_options options = {
		.size = sizeof(options), .address_space = GIB, .journal_max = 1, .disable = disable};

	unlink(t.path);
	memset(&t.table, 0, sizeof(t.table));
	t.table = os_linux;
	t.table.stores_cheaply = always_cheaply;
	t.table.pwrite_full = seen_write;
	t.table.dirtied = seen_dirtied;
	t.fails_at = 0;
	t.error = 0;
	t.each = STEP;
	os = &t.table;
	t.heap = fm_open(t.path, FM_ATOMIC | FM_CREATE, &options);
	if (!t.heap)
		fail_msg("%s", fm_last_error());
	assert_non_null(atomic_of()->place.view);
	t.data = fm_calloc(t.heap, PAGES, STEP);
	assert_non_null(t.data);
	assert_int_equal(fm_root_set(t.heap, "data", t.data, 0), 0);
	assert_true(!large || fm_malloc(t.heap, large));
	commit(PAGES, 1);
	assert_int_equal(journal_checkpoint(&atomic_of()->journal), 0);
	t.table.advise = seen_advise;
	t.table.sync_view = seen_sync_view;
	t.table.sync = seen_sync;
	t.table.pwrite_sync = seen_super;
	forget();
}

static void end(uint8_t value)
{
	assert_false(t.bad);
	os = &os_linux;
	fm_close(t.heap);
	t.heap = fm_open(t.path, FM_ATOMIC, NULL);
	if (!t.heap)
		fail_msg("%s", fm_last_error());
	t.data = fm_root_get(t.heap, "data", 0);
	assert_non_null(t.data);
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(t.data[i * STEP], value);
	assert_int_equal(fm_check(t.heap, NULL, NULL), 0);
	assert_int_equal(fm_close(t.heap), 0);
}

static uint64_t flushes(void)
{
	struct fm_statistics stats = {.size = sizeof(stats)};

	assert_int_equal(fm_stats(t.heap, &stats), 0);
	return stats.checkpoint_flushes;
}

/* As many parts as there are dirty bytes for, of equal length: all of the file, and the superblock behind it. */
static void it_syncs_part_by_part(void **state)
{
	(void)state;
	begin(LARGE, FM_NO_CHECKPOINT);
	for (unsigned many = 0; many <= 6; many++) {
		uint64_t before = flushes();

		t.each = many * PART / 4;
		commit(4, (uint8_t)(2 + many)); /* written, and not by the view: four pages */
		assert_int_equal(journal_checkpoint(&atomic_of()->journal), 0);
		/* the superblock and the records of allocation are pages, too */
		assert_true(t.parts >= many + 1 && t.parts <= many + 1 + many / 2 + 1);
		assert_true(t.synced >= heap_len());
		assert_int_equal(t.dropped, t.synced);
		assert_int_equal(t.syncs, 0);
		assert_true(t.supers == 1 && t.before_super == t.synced);
		assert_int_equal(flushes() - before, t.parts + 1);
		forget();
	}
	t.each = STEP;
	commit(PAGES, 9);
	end(9);
}

/* The error may be one that the view's description alone is told of; another description knows as well. */
static void where_it_fails_the_file_is_synced(void **state)
{
	(void)state;
	begin(LARGE, FM_NO_CHECKPOINT);
	for (unsigned part = 1; part <= 4; part++) {
		uint64_t oldest = atomic_of()->journal.oldest;

		t.each = PART;
		commit(4, (uint8_t)(part + 1));
		t.fails_at = part;
		assert_int_equal(journal_checkpoint(&atomic_of()->journal), 0);
		assert_int_equal(t.parts, part);
		assert_int_equal(t.syncs, 1);
		assert_int_equal(t.supers, 1);
		assert_true(atomic_of()->journal.oldest > oldest);
		forget();
	}
	commit(PAGES, 9);
	t.error = EIO;
	t.fails_at = 1;
	assert_int_equal(journal_checkpoint(&atomic_of()->journal), -EIO);
	assert_int_equal(t.supers, 0);
	assert_int_equal(fm_commit(t.heap), -1);
	assert_int_equal(errno, EIO);
	end(9);
}

/* Commits until a checkpoint is asked for, and no more before its thread syncs: how many. */
static unsigned commit_until_checkpoint(void)
{
	struct journal *journal = &atomic_of()->journal;
	unsigned commits = 0;
	bool is_short = false;

	while (!is_short && commits++ < 100000) {
		commit(4, (uint8_t)commits);
		pthread_mutex_lock(&journal->lock);
		is_short = journal_is_short(journal);
		pthread_mutex_unlock(&journal->lock);
	}
	for (unsigned i = 0; i < 10000 && !load_acquire(&t.parts); i++)
		proc_sleep_us(1000);
	assert_int_equal(load_acquire(&t.parts), 1);
	return commits;
}

/* A commit beside a checkpoint finds the journal as short as before. That is no reason for another one. */
static void one_is_enough(void **state)
{
	struct journal *journal;
	uint64_t before;

	(void)state;
	begin(0, 0);
	journal = &atomic_of()->journal;
	before = load_relaxed(&journal->checkpoints);
	t.blocks = true;
	commit_until_checkpoint();
	for (unsigned i = 0; i < 3; i++)
		commit(4, (uint8_t)(101 + i));
	store_release(&t.blocks, false);
	for (unsigned i = 0; i < 10000 && load_relaxed(&journal->checkpoints) == before; i++)
		proc_sleep_us(1000);
	assert_int_equal(load_relaxed(&journal->checkpoints), before + 1);
	pthread_mutex_lock(&journal->lock);
	assert_false(journal->is_wanted);
	pthread_mutex_unlock(&journal->lock);
	proc_sleep_us(50000);
	assert_int_equal(load_acquire(&t.parts), 1);
	/* the next one comes when it is time */
	forget();
	assert_true(commit_until_checkpoint() > 1);
	commit(PAGES, 9);
	pthread_mutex_lock(&journal->checkpoint_lock); /* the thread is not in the middle of one */
	pthread_mutex_unlock(&journal->checkpoint_lock);
	end(9);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_syncs_part_by_part),
		cmocka_unit_test(where_it_fails_the_file_is_synced),
		cmocka_unit_test(one_is_enough),
	};
	int failed;

	t.dir = proc_dir_make();
	snprintf(t.path, sizeof(t.path), "%s/heap", t.dir);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	proc_dir_remove(t.dir);
	return failed;
}
