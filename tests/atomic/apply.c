/* SPDX-License-Identifier: Apache-2.0
 *
 * Long commits are brought to their place by a thread beside the program (src/alloc/applier.h): fm_commit returns before,
 * and whatever needs the file as committed waits. Writes to the places of pages pass through here, and can be held up.
 */
#define _GNU_SOURCE 1
#include "os_util.h"
#include "proc_util.h"

#include "alloc/heap.h"
#include "base/atomics.h"
#include "os/os.h"

#include <pthread.h>
#include <time.h>

#define PAGES 200u
#define STEP  4096u

static struct {
	char *dir, path[300];
	struct os_calls table;
	fm_heap *heap;
	uint8_t *data;
	/* under the mutex */
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	bool is_held, waited;
	unsigned written, fails;
	int error;
} t = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static int write_place(int fd, const void *buf, size_t len, uint64_t off)
{
	int r = 0;

	pthread_mutex_lock(&t.mutex);
	while (t.is_held) {
		t.waited = true;
		pthread_cond_broadcast(&t.changed);
		pthread_cond_wait(&t.changed, &t.mutex);
	}
	t.written++;
	if (t.fails) {
		t.fails--;
		r = t.error;
	}
	pthread_mutex_unlock(&t.mutex);
	return r ? r : os_linux.pwrite_full(fd, buf, len, off);
}

static void hold(bool is_held)
{
	pthread_mutex_lock(&t.mutex);
	t.is_held = is_held;
	t.waited = false;
	t.written = 0;
	pthread_cond_broadcast(&t.changed);
	pthread_mutex_unlock(&t.mutex);
}

static unsigned written(void)
{
	unsigned n;

	pthread_mutex_lock(&t.mutex);
	n = t.written;
	pthread_mutex_unlock(&t.mutex);
	return n;
}

/* Some thread has come to the place where it is held up. */
static void wait_until_held(void)
{
	pthread_mutex_lock(&t.mutex);
	while (!t.waited)
		pthread_cond_wait(&t.changed, &t.mutex);
	pthread_mutex_unlock(&t.mutex);
}

static void fill(unsigned pages, uint8_t value)
{
	for (unsigned i = 0; i < pages; i++)
		memset(t.data + i * STEP, value, 8);
}

static bool all_are(const uint8_t *data, uint8_t value)
{
	for (unsigned i = 0; i < PAGES; i++)
		for (unsigned b = 0; b < 8; b++)
			if (data[i * STEP + b] != value)
				return false;
	return true;
}

static void open_it(unsigned flags, unsigned disable)
{
	struct fm_options options = {.size = sizeof(options), .address_space = 1 << 30, .disable = disable};

	t.heap = fm_open(t.path, FM_ATOMIC | flags, &options);
	if (!t.heap)
		fail_msg("%s", fm_last_error());
}

/* The heap with its pages at value 1, committed and applied; writes to places pass through write_place from here on. */
static void begin(unsigned disable)
{
	unlink(t.path);
	hold(false);
	t.fails = 0;
	open_it(FM_CREATE, disable);
	t.data = fm_calloc(t.heap, PAGES, STEP);
	assert_non_null(t.data);
	assert_int_equal(fm_root_set(t.heap, "data", t.data, 0), 0);
	fill(PAGES, 1);
	assert_int_equal(fm_commit(t.heap), 0);
	assert_int_equal(fm_commit(t.heap), 0); /* it has waited for the first */
	t.table = os_linux;
	t.table.pwrite_full = write_place;
	t.table.write_view = view_by_writing;
	t.table.stores_cheaply = always_cheaply;
	os = &t.table;
}

/* Closed and opened, it is as `value` says. */
static void end(uint8_t value)
{
	if (t.heap)
		assert_int_equal(fm_close(t.heap), 0);
	os = &os_linux;
	open_it(0, 0);
	t.data = fm_root_get(t.heap, "data", 0);
	assert_non_null(t.data);
	assert_true(all_are(t.data, value));
	assert_int_equal(fm_check(t.heap, NULL, NULL), 0);
	assert_int_equal(fm_close(t.heap), 0);
	t.heap = NULL;
}

static void returns_before_the_apply(void **state)
{
	(void)state;
	begin(0);
	hold(true);
	fill(PAGES, 2);
	assert_int_equal(fm_commit(t.heap), 0);
	wait_until_held();
	assert_int_equal(written(), 0);
	fill(PAGES, 3); /* what the program does meanwhile is not what is applied */
	hold(false);
	assert_int_equal(fm_rollback(t.heap), 0);
	assert_true(all_are(t.data, 2));
	end(2);
}

static void *release_later(void *arg)
{
	struct timespec pause = {.tv_nsec = 50000000};

	nanosleep(&pause, NULL);
	hold(false);
	return arg;
}

enum waiting { COMMIT, ROLLBACK, SNAPSHOT, CLOSE };

/* The call begins while the apply is held up for 50 ms, and has to find all in its place. */
static void waits(void **state)
{
	enum waiting what = *(enum waiting *)*state;
	char copy[320];
	pthread_t thread;

	begin(0);
	hold(true);
	fill(PAGES, 2);
	assert_int_equal(fm_commit(t.heap), 0);
	wait_until_held();
	if (what == COMMIT || what == ROLLBACK)
		fill(PAGES, 3);
	assert_int_equal(pthread_create(&thread, NULL, release_later, NULL), 0);
	switch (what) {
	case COMMIT:
		assert_int_equal(fm_commit(t.heap), 0);
		break;
	case ROLLBACK:
		assert_int_equal(fm_rollback(t.heap), 0);
		assert_true(all_are(t.data, 2));
		break;
	case SNAPSHOT:
		snprintf(copy, sizeof(copy), "%s.copy", t.path);
		unlink(copy);
		assert_int_equal(fm_snapshot(t.heap, copy), 0);
		unlink(copy);
		break;
	case CLOSE:
		assert_int_equal(fm_close(t.heap), 0);
		t.heap = NULL;
		break;
	}
	assert_true(written() >= PAGES);
	assert_int_equal(pthread_join(thread, NULL), 0);
	end(what == COMMIT ? 3 : 2);
}

/* A short one is applied when fm_commit returns, and so is a long one without threads. */
static void applies_itself(void **state)
{
	unsigned disable = *(unsigned *)*state;
	unsigned pages = disable ? PAGES : 8;

	begin(disable);
	hold(false);
	fill(pages, 2);
	assert_int_equal(fm_commit(t.heap), 0);
	assert_true(written() >= pages);
	fill(PAGES, 2);
	assert_int_equal(fm_commit(t.heap), 0);
	end(2);
}

/* What failed is done again before the next commit. */
static void no_space_is_tried_again(void **state)
{
	(void)state;
	begin(0);
	t.error = -ENOSPC;
	t.fails = 3; /* by the view and by writing, and again by writing */
	fill(PAGES, 2);
	assert_int_equal(fm_commit(t.heap), 0);
	fill(PAGES, 3);
	assert_int_equal(fm_commit(t.heap), -1); /* the last failure */
	assert_int_equal(errno, ENOSPC);
	assert_int_equal(fm_commit(t.heap), 0);
	end(3);
}

static void a_failing_device_is_told_by_the_next(void **state)
{
	(void)state;
	begin(0);
	t.error = -EIO;
	t.fails = 2;
	fill(PAGES, 2);
	assert_int_equal(fm_commit(t.heap), 0);
	fill(PAGES, 3);
	assert_int_equal(fm_commit(t.heap), -1);
	assert_int_equal(errno, EIO);
	assert_int_equal(fm_close(t.heap), -1);
	t.heap = NULL;
	end(2);
}

/* ---------------------------------------------------------------- a file system without fallocate */

/* There pages of which the process does not know that they have blocks are backed by reading and writing them. */
#define HUGE_SIZE (8u << 20)

static struct {
	pthread_t program;
	uint64_t page;              /* in the middle of the commit; 0: nobody stops */
	bool was_read, was_applied; /* atomic */
} back;

static int cannot_allocate(int fd, uint64_t off, uint64_t len)
{
	(void)fd;
	(void)off;
	(void)len;
	return -EOPNOTSUPP;
}

/* What is waited for may be what waits for us. */
static void wait_for(const bool *what)
{
	for (unsigned ms = 0; ms < 300 && !load_acquire(what); ms++)
		proc_sleep_us(1000);
}

static ssize_t read_page(int fd, void *buf, size_t len, uint64_t off)
{
	ssize_t n = os_linux.pread_full(fd, buf, len, off);

	if (back.page && off == back.page && pthread_equal(pthread_self(), back.program)) {
		store_release(&back.was_read, true);
		wait_for(&back.was_applied);
	}
	return n;
}

static int write_page(int fd, const void *buf, size_t len, uint64_t off)
{
	bool applies = back.page && off / STEP == back.page / STEP && !pthread_equal(pthread_self(), back.program);
	int r;

	if (applies)
		wait_for(&back.was_read);
	r = os_linux.pwrite_full(fd, buf, len, off);
	if (applies)
		store_release(&back.was_applied, true);
	return r;
}

/* C5: what is applied between the reading and the writing is not lost. */
static void backing_loses_nothing(void **state)
{
	struct heap *heap;

	(void)state;
	unlink(t.path);
	memset(&back, 0, sizeof(back));
	back.program = pthread_self();
	t.table = os_linux;
	t.table.allocate = cannot_allocate;
	t.table.pread_full = read_page;
	t.table.pwrite_full = write_page;
	t.table.write_view = view_by_writing;
	t.table.stores_cheaply = always_cheaply;
	os = &t.table;
	open_it(FM_CREATE, 0);
	t.data = fm_malloc(t.heap, HUGE_SIZE);
	assert_non_null(t.data);
	memset(t.data, 1, HUGE_SIZE);
	assert_int_equal(fm_root_set(t.heap, "data", t.data, 0), 0);
	assert_int_equal(fm_commit(t.heap), 0);
	assert_int_equal(fm_close(t.heap), 0);
	open_it(0, 0);
	t.data = fm_root_get(t.heap, "data", 0);
	back.page = fm_offset_of(t.heap, t.data) + PAGES / 2 * STEP;
	fill(PAGES, 2);
	assert_int_equal(fm_commit(t.heap), 0);
	heap = heap_of_handle(t.heap);
	heap_lock(heap);
	assert_int_equal(store_back(&heap->store, fm_offset_of(t.heap, t.data), HUGE_SIZE), 0);
	heap_unlock(heap);
	assert_true(load_acquire(&back.was_read));
	assert_int_equal(fm_rollback(t.heap), 0);
	back.page = 0;
	assert_true(all_are(t.data, 2));
	end(2);
}

int main(void)
{
	static enum waiting commit = COMMIT, rollback = ROLLBACK, snapshot = SNAPSHOT, closing = CLOSE;
	static unsigned with = 0, without = FM_NO_CHECKPOINT;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(returns_before_the_apply),
		{"a commit waits", waits, NULL, NULL, &commit},
		{"a rollback waits", waits, NULL, NULL, &rollback},
		{"a snapshot waits", waits, NULL, NULL, &snapshot},
		{"closing waits", waits, NULL, NULL, &closing},
		{"a short one is applied at once", applies_itself, NULL, NULL, &with},
		{"without threads all are", applies_itself, NULL, NULL, &without},
		cmocka_unit_test(no_space_is_tried_again),
		cmocka_unit_test(a_failing_device_is_told_by_the_next),
		cmocka_unit_test(backing_loses_nothing),
	};
	int failed;

	t.dir = proc_dir_make();
	snprintf(t.path, sizeof(t.path), "%s/heap", t.dir);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	proc_dir_remove(t.dir);
	return failed;
}
