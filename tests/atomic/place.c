/* SPDX-License-Identifier: Apache-2.0
 *
 * How a commit's bytes come to their places (src/store/place.h): by writing, or by copying into a view of the file. What
 * the view refuses is written, and what it makes dirty for nothing is bounded.
 */
#define _GNU_SOURCE 1
#include "os_util.h"
#include "proc_util.h"

#include "alloc/heap.h"
#include "base/bits.h"
#include "os/os.h"
#include "store/atomic.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#define PAGES 300u
#define STEP  4096u
#define FEW   4u
#define MANY  100u

static struct {
	char *dir, path[300];
	struct os_calls table;
	fm_heap *heap;
	uint8_t *data;
	unsigned calls, pieces, writes; /* by the view, and without it */
	uint64_t dirtied, folio;        /* bytes; pages that each entry makes dirty, if it is the first in its folio, */
	bool is_dirty;                  /* which none is */
	unsigned sector;
	unsigned done;                  /* pieces that the view takes before it fails with */
	int error;                      /* 0: it does not */
} t;

static void touch(unsigned pages)
{
	if (!t.is_dirty)
		t.dirtied += pages * t.folio * STEP;
}

static int seen_view(int fd, void *view, const struct os_piece *pieces, unsigned n)
{
	int r;

	t.calls++;
	t.pieces += n;
	touch(n);
	r = os_linux.write_view(fd, view, pieces, t.error && t.done < n ? t.done : n);
	return t.error ? -t.error : r;
}

static int seen_write(int fd, const void *buf, size_t len, uint64_t off)
{
	/* zeros for the journal are longer */
	t.writes += len <= STEP;
	touch(1);
	return os_linux.pwrite_full(fd, buf, len, off);
}

static uint64_t seen_dirtied(void)
{
	return t.dirtied;
}

static struct atomic *atomic_of(void)
{
	return heap_of_handle(t.heap)->store.atomic;
}

static void fill(unsigned pages, uint8_t value)
{
	for (unsigned i = 0; i < pages; i++)
		memset(t.data + i * STEP, value, 8);
}

static void commit(unsigned pages, uint8_t value)
{
	fill(pages, value);
	assert_int_equal(fm_commit(t.heap), 0);
}

static void open_it(unsigned flags)
{
	struct fm_options options = {
		.size = sizeof(options), .address_space = GIB, .disable = FM_NO_CHECKPOINT, .sector = t.sector};

	t.heap = fm_open(t.path, FM_ATOMIC | flags, &options);
	if (!t.heap)
		fail_msg("%s", fm_last_error());
}

static void checkpoint(void)
{
	assert_int_equal(journal_checkpoint(&atomic_of()->journal), 0);
}

static uint64_t applied_bytes(void)
{
	struct fm_statistics stats = {.size = sizeof(stats)};

	assert_int_equal(fm_stats(t.heap, &stats), 0);
	return stats.applied_bytes;
}

static void begin(void)
{
	unlink(t.path);
	t.table = os_linux;
	t.table.write_view = seen_view;
	t.table.pwrite_full = seen_write;
	t.table.dirtied = seen_dirtied;
	t.table.stores_cheaply = always_cheaply;
	t.folio = 1;
	t.is_dirty = false;
	t.error = 0;
	os = &t.table;
	open_it(FM_CREATE);
	t.data = fm_calloc(t.heap, PAGES, STEP);
	assert_non_null(t.data);
	assert_int_equal(fm_root_set(t.heap, "data", t.data, 0), 0);
	fill(PAGES, 1);
	t.writes = 0;
	assert_int_equal(fm_commit(t.heap), 0);
	/* how large folios are is not known before the first batch was written */
	assert_true(t.sector ? t.writes > PAGES : t.writes == 64);
	checkpoint();
	t.calls = t.pieces = t.writes = 0;
}

/* What another process reads from the file, where the pages are that have `value` now. */
static void must_be_in_file(unsigned pages, uint8_t value)
{
	uint8_t byte = 0;
	int fd = open(t.path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	for (unsigned i = 0; i < pages; i++) {
		assert_int_equal(pread(fd, &byte, 1, (off_t)(fm_offset_of(t.heap, t.data) + i * STEP)), 1);
		assert_int_equal(byte, value);
	}
	close(fd);
}

static void end(uint8_t value)
{
	assert_int_equal(fm_close(t.heap), 0);
	os = &os_linux;
	open_it(0);
	t.data = fm_root_get(t.heap, "data", 0);
	assert_non_null(t.data);
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(t.data[i * STEP], value);
	assert_int_equal(fm_check(t.heap, NULL, NULL), 0);
	assert_int_equal(fm_close(t.heap), 0);
}

static void few_are_written_and_many_copied(void **state)
{
	uint64_t before;

	(void)state;
	begin();
	commit(MANY, 5);
	assert_true(t.pieces > 0 && t.pieces + t.writes == MANY); /* the first ones are written */
	t.calls = t.pieces = t.writes = 0;
	before = applied_bytes();
	commit(FEW, 2);
	assert_int_equal(t.calls, 0);
	assert_int_equal(t.writes, FEW);
	must_be_in_file(FEW, 2);
	commit(MANY, 3);
	assert_int_equal(t.pieces, MANY);
	assert_int_equal(t.writes, FEW);
	assert_int_equal(applied_bytes() - before, (FEW + MANY) * 64);
	must_be_in_file(MANY, 3);
	commit(PAGES, 4);
	must_be_in_file(PAGES, 4);
	end(4);
}

/* And so is all that comes before the next checkpoint. */
static void what_the_view_refuses_is_written(void **state)
{
	static const int errors[] = {EFAULT, ENOSYS, EPERM};

	(void)state;
	for (unsigned e = 0; e < 3; e++) {
		for (unsigned done = 0; done <= MANY; done += MANY / 4) {
			begin();
			t.error = errors[e];
			t.done = done;
			commit(MANY, 2);
			assert_int_equal(t.calls, 1);
			assert_int_equal(t.writes, MANY);
			must_be_in_file(MANY, 2);
			commit(MANY, 3);
			assert_int_equal(t.calls, 1);
			assert_int_equal(t.writes, 2 * MANY);
			must_be_in_file(MANY, 3);
			checkpoint();
			commit(MANY, 4);
			assert_int_equal(t.calls, 2);
			must_be_in_file(MANY, 4);
			commit(PAGES, 5);
			end(5);
		}
	}
}

/* Commits of pages that are clean again: how many pages the view took of `commits` times MANY. */
static unsigned copied_of(unsigned commits)
{
	static uint8_t value = 100;

	t.pieces = 0;
	for (unsigned i = 0; i < commits; i++) {
		commit(MANY, ++value);
	}
	return t.pieces;
}

/* Four times as many pages as were applied to may be dirty. */
static void what_it_makes_dirty_is_bounded(void **state)
{
	(void)state;
	begin();
	for (t.folio = 1; t.folio <= 6; t.folio++) {
		unsigned first = t.folio <= 4 ? 36 : 0;

		checkpoint();
		assert_int_equal(copied_of(1), first); /* nothing is known before 64 were written */
		assert_int_equal(copied_of(5), t.folio <= 4 ? 5 * MANY : 0);
	}
	/* when all of the file is dirty it does not become more */
	t.is_dirty = true;
	assert_int_equal(copied_of(3), 0);
	assert_int_equal(copied_of(5), 5 * MANY);
	commit(PAGES, 9);
	end(9);
}

/* A folio that a write has made dirty is made dirty by the view as a whole, which the kernel does not count any more. */
static void folios_that_are_dirty_count(void **state)
{
	(void)state;
	begin();
	t.folio = 512;
	for (unsigned i = 0; i < MANY / FEW; i++) {
		commit(FEW, (uint8_t)(2 + i));
	}
	t.is_dirty = true;
	assert_int_equal(copied_of(1), 0);
	commit(PAGES, 9);
	end(9);
}

/* Where a sector that is being written may be garbled, a folio that is dirty as a whole would put at risk what no record has. */
static void whole_sectors_are_written(void **state)
{
	(void)state;
	t.sector = 512;
	begin();
	commit(PAGES, 2);
	assert_int_equal(t.calls, 0);
	assert_true(t.writes >= PAGES);
	must_be_in_file(PAGES, 2);
	end(2);
	t.sector = 0;
}

static void without_address_space_all_is_written(void **state)
{
	(void)state;
	begin();
	fill(PAGES, 1);
	assert_int_equal(fm_close(t.heap), 0);
	t.table.reserve_file = no_view;
	open_it(0);
	t.data = fm_root_get(t.heap, "data", 0);
	commit(PAGES, 2);
	assert_int_equal(t.calls, 0);
	assert_true(t.writes >= PAGES);
	must_be_in_file(PAGES, 2);
	end(2);
}

/* ---------------------------------------------------------------- the call itself */

static uint64_t next(uint64_t *random)
{
	return *random = *random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
}

/* Pieces that lie side by side, near each other, far from each other and not in order; more than go into one call. */
static void the_call_copies_exactly_the_pieces(void **state)
{
	enum { N = 1000, LEN = 4 << 20 };
	static struct os_piece pieces[N];
	uint64_t random = proc_seed();
	uint8_t *source = malloc(1 << 20), *expected = calloc(1, LEN);
	void *view;
	int fd = memfd_create("file", MFD_CLOEXEC);

	(void)state;
	assert_true(source && expected && fd >= 0);
	assert_int_equal(ftruncate(fd, LEN), 0);
	assert_int_equal(os_linux.reserve_file(fd, NULL, false, LEN, &view), 0);
	assert_int_equal(os_linux.protect(view, LEN, true, true), 0);
	for (unsigned i = 0; i < 1 << 20; i++)
		source[i] = (uint8_t)(next(&random) >> 33);
	for (unsigned round = 0; round < 20; round++) {
		uint64_t at = 0;
		unsigned n = round ? (unsigned)(random % N) : 0;

		for (unsigned i = 0; i < n; i++) {
			next(&random);
			pieces[i].len = 8 + random / 7 % 900;
			pieces[i].off = (random >> 20) % (LEN - 1000);
			at = i % 10 == 9 ? (random >> 30) % 100000 : at + (i % 3 ? 8 : i % 5 ? 0 : 65);
			pieces[i].data = source + at;
			memcpy(expected + pieces[i].off, source + at, pieces[i].len);
			at += pieces[i].len;
		}
		assert_int_equal(os_linux.write_view(fd, view, pieces, n), 0);
		assert_memory_equal(view, expected, LEN);
	}
	/* behind the file's end, which would be a SIGBUS */
	pieces[0] = (struct os_piece){LEN - 4096, 8, source};
	pieces[1] = (struct os_piece){LEN - 8, 8, source + 8};
	assert_int_equal(ftruncate(fd, LEN - 4096), 0);
	assert_int_equal(os_linux.write_view(fd, view, pieces, 2), -EFAULT);
	assert_int_equal(ftruncate(fd, LEN), 0);
	assert_int_equal(os_linux.write_view(fd, view, pieces, 2), 0);
	assert_memory_equal((uint8_t *)view + LEN - 8, source + 8, 8);
	/* nothing is at address 8 */
	pieces[1].data = (const void *)8;
	assert_int_equal(os_linux.write_view(fd, view, pieces, 2), -EFAULT);
	os_linux.unmap(view, LEN);
	close(fd);
	free(source);
	free(expected);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(few_are_written_and_many_copied),
		cmocka_unit_test(what_the_view_refuses_is_written),
		cmocka_unit_test(what_it_makes_dirty_is_bounded),
		cmocka_unit_test(folios_that_are_dirty_count),
		cmocka_unit_test(whole_sectors_are_written),
		cmocka_unit_test(without_address_space_all_is_written),
		cmocka_unit_test(the_call_copies_exactly_the_pieces),
	};
	int failed;

	t.dir = proc_dir_make();
	snprintf(t.path, sizeof(t.path), "%s/heap", t.dir);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	proc_dir_remove(t.dir);
	return failed;
}
