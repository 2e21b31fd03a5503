/* SPDX-License-Identifier: Apache-2.0
 *
 * The n-th system call of an operation on an atomic heap fails (tests 7 and 8 of the plan), for every n up to 60 and
 * some beyond, once and from
 * then on for ever, with each of several errors; a failing write has written a part. Afterwards:
 *
 *   - what returned 0 holds; a commit that failed is there as a whole or not at all;
 *   - a heap whose commit failed with another error than EIO works on: the commit can be tried again, and rolled back;
 *   - after EIO nothing reports success, and reading goes on;
 *   - reopened the heap is at a commit, fm_check finds nothing, and it works; no file is left half made.
 *
 *   FM_WAY   only this way of finding written pages
 */
#define _GNU_SOURCE 1
#include "proc_util.h"
#include "way.h"

#include "os/os.h"
#include "store/atomic.h"

static const int errors[] = {ENOSPC, EIO, ENOMEM};
static const char *const ways[] = {"uffd", "mprotect", "pagemap", "declared"};

static struct {
	struct os_calls table;
	bool is_armed, for_ever;
	unsigned n, count, fired;
	int error;
	const char *name;
} fault;

static struct {
	char dir[64], path[80];
	int fd;          /* of the heap's file, a memory file */
	uint8_t *bytes;  /* of a clean heap at commit 3 */
	uint64_t size;
	uint8_t *killed; /* of one that was killed at commit 5 */
	uint64_t killed_size;
	const char *way;
} t;

/* ---------------------------------------------------------------- the table */

static bool fails(const char *name)
{
	if (!fault.is_armed)
		return false;
	fault.count++;
	if (fault.count != fault.n && !(fault.for_ever && fault.count > fault.n))
		return false;
	if (!fault.fired++)
		fault.name = name;
	return true;
}

#define CALL(name, params, args) \
	static int fault_##name params \
	{ \
		return fails(#name) ? -fault.error : os_linux.name args; \
	}

CALL(open, (const char *path, bool writable), (path, writable))
CALL(reopen, (int fd, bool writable), (fd, writable))
CALL(reopen_direct, (int fd), (fd))
CALL(create_unnamed, (const char *dir, mode_t mode), (dir, mode))
CALL(link_unnamed, (int fd, const char *path), (fd, path))
CALL(stat_fd, (int fd, struct os_stat *st), (fd, st))
CALL(lock, (int fd, bool exclusive), (fd, exclusive))
CALL(sync_dir, (const char *dir), (dir))
CALL(allocate, (int fd, uint64_t off, uint64_t len), (fd, off, len))
CALL(punch, (int fd, uint64_t off, uint64_t len), (fd, off, len))
CALL(truncate, (int fd, uint64_t size), (fd, size))
CALL(reserve_file, (int fd, void *at, bool replace, uint64_t len, void **result), (fd, at, replace, len, result))
CALL(reserve_private, (int fd, void *at, bool replace, uint64_t len, void **result), (fd, at, replace, len, result))
CALL(reserve_memory, (uint64_t len, void **result), (len, result))
CALL(advise, (void *at, uint64_t len, enum os_advice advice), (at, len, advice))
CALL(watch, (void *at, uint64_t len), (at, len))
CALL(pagemap, (void), ())
CALL(scan, (int fd, bool is_dense, uint64_t *from, uint64_t to, struct os_range *found, unsigned n),
     (fd, is_dense, from, to, found, n))
CALL(private_pages, (int fd, uint64_t from, unsigned n, uint8_t *is_private), (fd, from, n, is_private))
CALL(on_fault, (os_fault_handler *handler), (handler))
CALL(random, (void *buf, size_t len), (buf, len))
CALL(boot_id, (uint8_t id[16]), (id))
CALL(clone, (int from, int to, uint64_t off, uint64_t len), (from, to, off, len))
CALL(sync, (int fd), (fd))
CALL(sync_view, (int fd, void *at, uint64_t len), (fd, at, len))

/* What opens a granule for a store that faulted can't report an error. */
static int fault_protect(void *at, uint64_t len, bool readable, bool writable)
{
	bool opens = readable && writable && len <= UNIT_SIZE && !strstr("uffd pagemap", t.way);

	return !opens && fails("protect") ? -fault.error : os_linux.protect(at, len, readable, writable);
}

static ssize_t fault_pread_full(int fd, void *buf, size_t len, uint64_t off)
{
	return fails("pread_full") ? -fault.error : os_linux.pread_full(fd, buf, len, off);
}

static int fault_pwrite_full(int fd, const void *buf, size_t len, uint64_t off)
{
	if (!fails("pwrite_full"))
		return os_linux.pwrite_full(fd, buf, len, off);
	os_linux.pwrite_full(fd, buf, len / 2, off);
	return -fault.error;
}

static int fault_write_view(int fd, void *view, const struct os_piece *pieces, unsigned n)
{
	if (!fails("write_view"))
		return os_linux.write_view(fd, view, pieces, n);
	os_linux.write_view(fd, view, pieces, n / 2);
	return -fault.error;
}

/* The first superblock of a heap has no other copy yet: it relies on a sector being written whole or not at all. */
static bool whole_sectors;

static int fault_pwrite_sync(int fd, const void *buf, size_t len, uint64_t off)
{
	if (!fails("pwrite_sync"))
		return os_linux.pwrite_full(fd, buf, len, off);
	if (fault.n % 2 == 0)
		os_linux.pwrite_full(fd, buf, len, off);
	else if (len > 512 || !whole_sectors)
		os_linux.pwrite_full(fd, buf, len / 2, off);
	return -fault.error;
}

/* ---------------------------------------------------------------- what a heap holds */

#define LARGE 600000

static uint64_t *app_of(const fm_heap *heap)
{
	return (uint64_t *)(void *)((char *)heap->mem + PAGE_SIZE);
}

static void *writing(fm_heap *heap, void *p, size_t len)
{
	if (strcmp(t.way, "declared") == 0)
		fm_will_write(heap, p, len);
	return p;
}

/* Change the heap from what commit k - 1 has to what commit k has. False: there is no memory. */
static bool change(fm_heap *heap, uint64_t k)
{
	uint64_t *app = writing(heap, app_of(heap), PAGE_SIZE);
	size_t size = k == 4 ? LARGE : 3000;
	char *p = fm_malloc(heap, size), *gone;

	if (!p)
		return false;
	gone = fm_at(heap, app[k % 4 + 8]);
	if (gone && fm_free(gone) != 0)
		return false;
	proc_fill(writing(heap, p, size), k, size);
	app[k % 4 + 8] = fm_offset_of(heap, p);
	app[k % 4 + 16] = k;
	app[0] = k;
	return fm_root_set(heap, "k", p, k) == 0;
}

/* The commit that the heap is at, with all that belongs to it; what is not so fails the test. */
static uint64_t commit_of(fm_heap *heap, const char *what)
{
	uint64_t *app = app_of(heap), k = app[0];
	char text[200];

	snprintf(text, sizeof(text), "%s, %s %u fails with %d%s: %s", t.way, fault.name ? fault.name : "nothing", fault.n,
	         fault.error, fault.for_ever ? " for ever" : "", what);
	for (uint64_t i = k > 3 ? k - 3 : 1; i <= k; i++) {
		size_t size = i == 4 ? LARGE : 3000;
		char *p = fm_at(heap, app[i % 4 + 8]);

		if (!p || app[i % 4 + 16] != i || fm_usable_size(p) < size || !proc_intact(p, i, size, SIZE_MAX))
			fail_msg("%s: object %d of commit %d: %s", text, (int)i, (int)k, fm_last_error());
	}
	if (k && fm_root_get(heap, "k", k) != fm_at(heap, app[k % 4 + 8]))
		fail_msg("%s: root of commit %d: %s", text, (int)k, fm_last_error());
	if (fm_check(heap, NULL, NULL) != 0)
		fail_msg("%s: fm_check at commit %d: %s", text, (int)k, fm_last_error());
	return k;
}

static const struct fm_options options = {
	.size = sizeof(options),
	.address_space = 64 << 20,
	.disable = FM_NO_CHECKPOINT | FM_NO_ATFORK,
};

static void restore(const uint8_t *bytes, uint64_t size)
{
	if (ftruncate(t.fd, 0) || ftruncate(t.fd, (off_t)size))
		fail_msg("%s", strerror(errno));
	if (size)
		assert_int_equal(os_linux.pwrite_full(t.fd, bytes, size, 0), 0);
}

static uint8_t *read_all(uint64_t *size)
{
	struct stat st;
	uint8_t *bytes;

	assert_int_equal(fstat(t.fd, &st), 0);
	bytes = malloc((size_t)st.st_size);
	assert_non_null(bytes);
	*size = (uint64_t)st.st_size;
	assert_int_equal(os_linux.pread_full(t.fd, bytes, *size, 0), (ssize_t)*size);
	return bytes;
}

static fm_heap *must_open(unsigned flags)
{
	fm_heap *heap = fm_open_fd(t.fd, flags, &options);

	if (!heap)
		fail_msg("%s, %s %u (%d%s): opening again: %s", t.way, fault.name, fault.n, fault.error,
		         fault.for_ever ? ", for ever" : "", fm_last_error());
	return heap;
}

/* ---------------------------------------------------------------- every call, every error */

/* Run `operation`, which says whether a call failed, for every n. */
static void for_each_failure(void (*operation)(void))
{
	for (unsigned e = 0; e < sizeof(errors) / sizeof(errors[0]); e++) {
		for (unsigned for_ever = 0; for_ever < 2; for_ever++) {
			unsigned n = 0;

			do {
				/* of hundreds of calls that are alike, some */
				n += 1 + (n > 60 ? n / 12 : 0);
				fault.n = n;
				fault.count = fault.fired = 0;
				fault.for_ever = for_ever;
				fault.error = errors[e];
				fault.name = NULL;
				operation();
				fault.is_armed = false;
			} while (fault.fired);
			if (e == 0 && !for_ever)
				printf("# about %u calls\n", n - 1);
		}
	}
}

/* The heap is closed, opened again, and is at commit `least` or a later one up to `most`; and works. */
static void must_be_at(uint64_t least, uint64_t most)
{
	fm_heap *heap = must_open(atomic_heap());
	uint64_t k = commit_of(heap, "reopened");

	if (k < least || k > most)
		fail_msg("%s, %s %u (%d%s): at commit %d instead of %d to %d", t.way, fault.name, fault.n, fault.error,
		         fault.for_ever ? ", for ever" : "", (int)k, (int)least, (int)most);
	assert_true(change(heap, k + 1));
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(fm_close(heap), 0);
	heap = must_open(atomic_heap());
	assert_int_equal(commit_of(heap, "used"), k + 1);
	assert_int_equal(fm_close(heap), 0);
}

/* ---------------------------------------------------------------- the operations */

/* After EIO nothing is committed any more, nor begun. */
static void must_be_poisoned(fm_heap *heap)
{
	if (fm_commit(heap) == 0 || errno != EIO || fm_begin(heap) == 0 || errno != EIO || fm_rollback(heap) == 0 ||
	    errno != EIO)
		fail_msg("%s, %s %u (%d): success after EIO", t.way, fault.name, fault.n, fault.error);
}

/* Commits from `first` on, with failures; then without. */
static void commits_from(uint64_t first, uint64_t last)
{
	fm_heap *heap = must_open(atomic_heap());
	uint64_t done = first - 1, tried = first - 1;
	int error = 0;
	bool full = false;

	fault.is_armed = true;
	for (uint64_t k = first; k <= last && !error; k++) {
		full = !change(heap, k);
		if (full)
			break;
		tried = k;
		if (fm_commit(heap))
			error = errno;
		else
			done = k;
	}
	fault.is_armed = false;
	if (full) {
		/* half changed */
		if (fm_rollback(heap) != 0 && errno != EIO)
			fail_msg("%s %u: rollback: %s", fault.name, fault.n, fm_last_error());
	} else if (error == EIO) {
		must_be_poisoned(heap);
		assert_int_equal(app_of(heap)[0], tried);
	} else if (error) {
		/* the changes are not lost: the commit can be tried again, or taken back */
		assert_int_equal(commit_of(heap, "not committed"), tried);
		if (fault.n % 2 && fm_rollback(heap) == 0) {
			assert_int_equal(commit_of(heap, "rolled back"), done);
		} else {
			if (fm_commit(heap))
				fail_msg("%s %u (%d): again: %s", fault.name, fault.n, error, fm_last_error());
			done = tried;
		}
	}
	/* EIO poisons; then the commit may be there or not */
	if (fm_close(heap) != 0 && errno != EIO)
		fail_msg("%s %u: closing: %s", fault.name, fault.n, fm_last_error());
	must_be_at(done, error == EIO ? tried : done);
}

static void committing(void)
{
	restore(t.bytes, t.size);
	commits_from(4, 9);
}

/* A record holds little: chains, and a journal that has to grow. */
static void committing_chains(void)
{
	atomic_record_max = 65536;
	committing();
	atomic_record_max = RECORD_MAX;
}

/* It is done, and the same changes can be made anew; or nothing has changed, and they can be committed; or it is EIO. */
static void roll_back(bool goes_on)
{
	fm_heap *heap;
	uint64_t done = 3;
	int error;

	restore(t.bytes, t.size);
	heap = must_open(atomic_heap());
	assert_true(change(heap, 4));
	fault.is_armed = true;
	error = fm_rollback(heap) ? errno : 0;
	fault.is_armed = false;
	if (error == EIO) {
		must_be_poisoned(heap);
	} else {
		assert_int_equal(commit_of(heap, "after a rollback"), error ? 4 : 3);
		if (goes_on) {
			/* pages that were opened before are found again */
			if (!error)
				assert_true(change(heap, 4));
			assert_int_equal(fm_commit(heap), 0);
			done = 4;
		} else if (error) {
			assert_int_equal(fm_rollback(heap), 0);
		}
		assert_int_equal(commit_of(heap, "and then"), done);
	}
	if (fm_close(heap) != 0 && errno != EIO)
		fail_msg("%s %u: closing: %s", fault.name, fault.n, fm_last_error());
	must_be_at(done, done);
}

static void rolling_back(void)
{
	roll_back(false);
}

static void rolling_back_and_on(void)
{
	roll_back(true);
}

static void closing(void)
{
	fm_heap *heap;

	restore(t.bytes, t.size);
	heap = must_open(atomic_heap());
	assert_true(change(heap, 4));
	assert_int_equal(fm_commit(heap), 0);
	assert_true(change(heap, 5));
	assert_int_equal(fm_commit(heap), 0);
	assert_non_null(fm_malloc(heap, 9000000));
	fault.is_armed = true;
	fm_close(heap);
	fault.is_armed = false;
	must_be_at(5, 5);
}

static void open_then_look(const uint8_t *bytes, uint64_t size, unsigned flags, uint64_t k)
{
	fm_heap *heap;

	restore(bytes, size);
	fault.is_armed = true;
	heap = fm_open_fd(t.fd, flags, &options);
	fault.is_armed = false;
	if (heap) {
		assert_int_equal(commit_of(heap, "opened"), k);
		fm_close(heap);
	} else if (!fault.fired) {
		fail_msg("opening: %s", fm_last_error());
	}
	must_be_at(k, k);
}

static void opening(void)
{
	open_then_look(t.bytes, t.size, atomic_heap(), 3);
}

static void recovering(void)
{
	open_then_look(t.killed, t.killed_size, atomic_heap(), 5);
}

static void reading(void)
{
	open_then_look(t.killed, t.killed_size, atomic_heap() | FM_RDONLY, 5);
}

/* To a live heap and back: it is of one kind or of the other. */
static void converting(void)
{
	fm_heap *heap;

	restore(t.killed, t.killed_size);
	fault.is_armed = true;
	heap = fm_open_fd(t.fd, FM_CONVERT, &options);
	fault.is_armed = false;
	if (heap) {
		assert_int_equal(commit_of(heap, "a live heap"), 5);
		assert_int_equal(fm_close(heap), 0);
	}
	heap = fm_open_fd(t.fd, atomic_heap(), &options);
	if (!heap) {
		assert_int_equal(errno, EPROTOTYPE);
		/* a live heap without a boot id in its mark is one of another boot */
		heap = fm_open_fd(t.fd, FM_RECOVER, &options);
		assert_non_null(heap);
		assert_int_equal(fm_close(heap), 0);
		fault.is_armed = !fault.fired;
		heap = fm_open_fd(t.fd, atomic_heap() | FM_CONVERT, &options);
		fault.is_armed = false;
		if (!heap)
			heap = must_open(atomic_heap() | FM_CONVERT);
	}
	assert_int_equal(commit_of(heap, "atomic again"), 5);
	fm_close(heap);
	must_be_at(5, 5);
}

static void creating(void)
{
	fm_heap *heap;

	restore(NULL, 0);
	whole_sectors = true;
	fault.is_armed = true;
	heap = fm_open_fd(t.fd, atomic_heap() | FM_CREATE, &options);
	fault.is_armed = false;
	whole_sectors = false;
	if (!heap && !fault.fired)
		fail_msg("creating: %s", fm_last_error());
	if (heap)
		fm_close(heap);
	heap = must_open(atomic_heap() | FM_CREATE);
	assert_int_equal(commit_of(heap, "created"), 0);
	assert_int_equal(fm_close(heap), 0);
	must_be_at(0, 0);
}

static void one_operation(void **state)
{
	for_each_failure((void (*)(void))*state);
}

/* ---------------------------------------------------------------- */

static void make_heaps(void)
{
	fm_heap *heap;

	restore(NULL, 0);
	heap = must_open(atomic_heap() | FM_CREATE);
	for (uint64_t k = 1; k <= 3; k++) {
		assert_true(change(heap, k));
		assert_int_equal(fm_commit(heap), 0);
	}
	assert_int_equal(fm_close(heap), 0);
	t.bytes = read_all(&t.size);
	heap = must_open(atomic_heap());
	for (uint64_t k = 4; k <= 5; k++) {
		assert_true(change(heap, k));
		assert_int_equal(fm_commit(heap), 0);
	}
	t.killed = read_all(&t.killed_size);
	/* nothing of what was applied reached the device */
	assert_int_equal(fm_close(heap), 0);
}

static int setup(void **state)
{
	(void)state;
	t.fd = memfd_create("heap", MFD_CLOEXEC);
	if (t.fd < 0)
		return -1;
	make_heaps();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	free(t.bytes);
	free(t.killed);
	return close(t.fd);
}

static void prepare_table(void)
{
	fault.table = os_linux;
#define REPLACE(name) fault.table.name = fault_##name
	REPLACE(open);
	REPLACE(reopen);
	REPLACE(reopen_direct);
	REPLACE(create_unnamed);
	REPLACE(link_unnamed);
	REPLACE(stat_fd);
	REPLACE(lock);
	REPLACE(sync_dir);
	REPLACE(allocate);
	REPLACE(punch);
	REPLACE(truncate);
	REPLACE(reserve_file);
	REPLACE(reserve_private);
	REPLACE(reserve_memory);
	REPLACE(protect);
	REPLACE(advise);
	REPLACE(watch);
	REPLACE(pagemap);
	REPLACE(scan);
	REPLACE(private_pages);
	REPLACE(on_fault);
	REPLACE(random);
	REPLACE(boot_id);
	REPLACE(clone);
	REPLACE(sync);
	REPLACE(sync_view);
	REPLACE(pread_full);
	REPLACE(pwrite_full);
	REPLACE(write_view);
	REPLACE(pwrite_sync);
	os = &fault.table;
}

int main(void)
{
	static const struct {
		const char *name;
		void (*operation)(void);
	} operations[] = {
		{"committing", committing},
		{"committing chains", committing_chains},
		{"rolling back", rolling_back},
		{"rolling back, and going on", rolling_back_and_on},
		{"closing", closing},
		{"opening", opening},
		{"recovering", recovering},
		{"reading", reading},
		{"converting", converting},
		{"creating", creating},
	};
	enum { N = sizeof(operations) / sizeof(operations[0]) };
	struct CMUnitTest tests[N];
	const char *only = getenv("FM_WAY");
	int r = 0;

	prepare_table();
	for (unsigned i = 0; i < N; i++)
		tests[i] = (struct CMUnitTest){operations[i].name, one_operation, NULL, NULL, (void *)operations[i].operation};
	if (getenv("FM_TEST"))
		cmocka_set_test_filter(getenv("FM_TEST"));
	for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		t.way = ways[i];
		if (only && strcmp(only, t.way) != 0)
			continue;
		setenv("FMALLOC_TRACK", t.way, 1);
		r += cmocka_run_group_tests_name(t.way, tests, setup, teardown);
	}
	return r;
}
