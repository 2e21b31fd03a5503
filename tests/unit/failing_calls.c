/* SPDX-License-Identifier: Apache-2.0
 *
 * The n-th system call fails (test 7 of the plan), for every n, once and from then on for ever, with each
 * of several errors, during every operation of a heap:
 *
 *   - the operation fails with the right error, or does without the call; nothing crashes;
 *   - what failed to open leaves no descriptor and no mapping behind, and no damage in the file;
 *   - a heap that is open works on, with everything in it, and checks clean; so it does reopened;
 *   - after a failed sync nothing reports success any more, and closing does not mark the heap clean.
 *
 * Uses the library's internal headers: the table of system calls, the superblock.
 *
 *   FM_SCALE   per cent: of the errors tried (at least one)
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include "alloc/owner.h"
#include "os/os.h"
#include "store/super.h"

static const int errors[] = {ENOSPC, EIO, ENOMEM, EINTR, EDQUOT};

/* ---------------------------------------------------------------- the table */

static struct {
	struct os_calls table;
	bool is_armed, for_ever;
	unsigned n, count; /* the call that fails; those made since arming */
	int error;
	const char *last;  /* name of the call that failed */
	unsigned fired;
	bool other_boot;
	long fds, bytes;   /* descriptors open; address space in use */
} fault;

static bool fails(const char *name)
{
	if (!fault.is_armed)
		return false;
	fault.count++;
	if (fault.count != fault.n && !(fault.for_ever && fault.count > fault.n))
		return false;
	if (!fault.fired++)
		fault.last = name;
	return true;
}

static int opened(int fd)
{
	fault.fds += fd >= 0;
	return fd;
}

static int reserved(int r, uint64_t len)
{
	if (r == 0)
		fault.bytes += (long)len;
	return r;
}

#define CALL(name, params, args) \
	static int fault_##name params \
	{ \
		return fails(#name) ? -fault.error : os_linux.name args; \
	}
#define CALL_FD(name, params, args) \
	static int fault_##name params \
	{ \
		return fails(#name) ? -fault.error : opened(os_linux.name args); \
	}

CALL_FD(open, (const char *path, bool writable), (path, writable))
CALL_FD(copy_fd, (int fd), (fd))
CALL_FD(reopen, (int fd, bool writable), (fd, writable))
CALL_FD(reopen_direct, (int fd), (fd))
CALL_FD(create_unnamed, (const char *dir, mode_t mode), (dir, mode))
CALL_FD(create_named, (const char *path, mode_t mode), (path, mode))
CALL(link_unnamed, (int fd, const char *path), (fd, path))
CALL(link_named, (const char *from, const char *path), (from, path))
CALL(stat_fd, (int fd, struct os_stat *st), (fd, st))
CALL(stat_path, (const char *path, struct os_stat *st), (path, st))
CALL(set_mode, (int fd, mode_t mode), (fd, mode))
CALL(lock, (int fd, bool exclusive), (fd, exclusive))
CALL(unlock, (int fd), (fd))
CALL(no_copy_on_write, (int fd), (fd))
CALL(unshare, (int fd, uint64_t off, uint64_t len), (fd, off, len))
CALL(is_shared, (int fd, uint64_t off, uint64_t len), (fd, off, len))
CALL(pwrite_full, (int fd, const void *buf, size_t len, uint64_t off), (fd, buf, len, off))
CALL(pwrite_sync, (int fd, const void *buf, size_t len, uint64_t off), (fd, buf, len, off))
CALL(sync, (int fd), (fd))
CALL(sync_dir, (const char *dir), (dir))
CALL(allocate, (int fd, uint64_t off, uint64_t len), (fd, off, len))
CALL(punch, (int fd, uint64_t off, uint64_t len), (fd, off, len))
CALL(truncate, (int fd, uint64_t size), (fd, size))
CALL(next_data, (int fd, uint64_t *off), (fd, off))
CALL(next_hole, (int fd, uint64_t *off), (fd, off))
CALL(clone_file, (int to, int from), (to, from))
CALL(view, (void *at, uint64_t len, void **result), (at, len, result))
CALL(map_private, (int fd, void *at, uint64_t len), (fd, at, len))
CALL(move_memory, (void *from, void *at, uint64_t len), (from, at, len))
CALL(protect, (void *at, uint64_t len, bool readable, bool writable), (at, len, readable, writable))
CALL(advise, (void *at, uint64_t len, enum os_advice advice), (at, len, advice))
CALL(is_cached, (void *at, uint64_t len), (at, len))
CALL(random, (void *buf, size_t len), (buf, len))

static ssize_t fault_pread_full(int fd, void *buf, size_t len, uint64_t off)
{
	return fails("pread_full") ? -fault.error : os_linux.pread_full(fd, buf, len, off);
}

static int fault_reserve_file(int fd, void *at, bool replace, uint64_t len, void **result)
{
	if (fails("reserve_file"))
		return -fault.error;
	return reserved(os_linux.reserve_file(fd, at, replace, len, result), replace ? 0 : len);
}

static int fault_reserve_memory(uint64_t len, void **result)
{
	return fails("reserve_memory") ? -fault.error : reserved(os_linux.reserve_memory(len, result), len);
}

/* These do their work even if they report an error. */
static int fault_close(int fd)
{
	bool is_bad = fails("close");
	int r = os_linux.close(fd);

	fault.fds -= r == 0;
	return is_bad ? -fault.error : r;
}

static int fault_unmap(void *at, uint64_t len)
{
	int r = os_linux.unmap(at, len);

	if (r == 0)
		fault.bytes -= (long)len;
	return r;
}

static int fault_boot_id(uint8_t id[16])
{
	int r = fails("boot_id") ? -fault.error : os_linux.boot_id(id);

	if (fault.other_boot)
		id[0] ^= 1;
	return r;
}

static void arm(unsigned n, int error, bool for_ever)
{
	fault.is_armed = true;
	fault.n = n;
	fault.count = fault.fired = 0;
	fault.error = error;
	fault.for_ever = for_ever;
	fault.last = "none";
}

static void disarm(void)
{
	fault.is_armed = false;
}

#define FAIL(format, ...) \
	fail_msg("call %u (%s) fails %s with %s: " format, fault.n, fault.last, \
	         fault.for_ever ? "for ever" : "once", strerror(fault.error), __VA_ARGS__)

/* ---------------------------------------------------------------- the heap */

#define OBJECTS 60

static struct {
	char *dir;
	char path[PATH_MAX];
	int fd;           /* a memory file... */
	uint8_t *bytes;   /* ...and what is in it, closed... */
	uint64_t size;
	uint8_t *in_use;  /* ...and as a kill would leave it */
	uint64_t in_use_size;
	uint64_t off[OBJECTS];
} t;

static size_t size_of(unsigned i)
{
	return i == 0 ? 700000 : i == 1 ? 5000000 : i == 2 ? 100000 : 16 + i * 40;
}

/* Of large objects only the beginning is filled: the file is written again for every failure. */
static size_t filled_of(unsigned i)
{
	return size_of(i) < 8192 ? size_of(i) : 8192;
}

static uint8_t *read_all(uint64_t *size)
{
	struct stat st;
	uint8_t *bytes;

	assert_int_equal(fstat(t.fd, &st), 0);
	*size = (uint64_t)st.st_size;
	bytes = malloc(*size);
	assert_non_null(bytes);
	assert_int_equal(pread(t.fd, bytes, *size, 0), *size);
	return bytes;
}

/* Put the file back as it was; zero pages are left out. */
static void restore(const uint8_t *bytes, uint64_t size)
{
	static const uint8_t zero[4096];

	assert_int_equal(ftruncate(t.fd, 0), 0);
	assert_int_equal(ftruncate(t.fd, (off_t)size), 0);
	for (uint64_t at = 0; at < size; at += 4096)
		if (memcmp(bytes + at, zero, 4096) != 0)
			assert_int_equal(pwrite(t.fd, bytes + at, 4096, (off_t)at), 4096);
}

static void must_be_whole(fm_heap *heap, const char *when)
{
	if (proc_check(heap) != 0)
		FAIL("%s: fm_check", when);
	for (unsigned i = 0; i < OBJECTS; i++)
		if (fm_usable_size(fm_at(heap, t.off[i])) < size_of(i) ||
		    !proc_intact(fm_at(heap, t.off[i]), i, filled_of(i), SIZE_MAX))
			FAIL("%s: object %u is lost or damaged", when, i);
	if (fm_root_get(heap, "root", 5) != fm_at(heap, t.off[3]))
		FAIL("%s: the root is lost: %s", when, fm_last_error());
	if (proc_count_objects(heap) != OBJECTS)
		FAIL("%s: %llu objects", when, (unsigned long long)proc_count_objects(heap));
}

static void must_work(fm_heap *heap, const char *when)
{
	void *p[20];

	for (unsigned i = 0; i < 20; i++) {
		p[i] = fm_malloc(heap, i * i * 1500);
		if (!p[i])
			FAIL("%s: malloc: %s", when, fm_last_error());
		proc_fill(p[i], i, i * i * 1500);
	}
	for (unsigned i = 0; i < 20; i++)
		if (!proc_intact(p[i], i, i * i * 1500, SIZE_MAX) || fm_free(p[i]) != 0)
			FAIL("%s: object %u: %s", when, i, fm_last_error());
	if (proc_check(heap) != 0)
		FAIL("%s: fm_check", when);
}

static fm_heap *open_again(unsigned flags, const char *when)
{
	fm_heap *heap = fm_open_fd(t.fd, flags, NULL);

	if (!heap)
		FAIL("%s: opening: %s (%s)", when, strerror(errno), fm_last_error());
	return heap;
}

static void close_it(fm_heap *heap)
{
	if (fm_close(heap) != 0)
		FAIL("closing: %s (%s)", strerror(errno), fm_last_error());
}

/* Repeat `one` for every call, error and persistence; it returns false when the operation is over before
 * the n-th call. */
static void for_each_failure(bool (*one)(void))
{
	unsigned kinds = (unsigned)(proc_env("FM_SCALE", 100) * (sizeof(errors) / sizeof(errors[0])) / 100);
	unsigned tried = 0;

	for (unsigned e = 0; e < (kinds ? kinds : 1); e++) {
		for (unsigned for_ever = 0; for_ever < 2; for_ever++) {
			/* from the 60th call on, those of a loop, one in five */
			for (unsigned n = 1;; n += n < 60 ? 1 : 5) {
				long fds, bytes;

				arm(n, errors[e], for_ever);
				disarm();
				fds = fault.fds;
				bytes = fault.bytes;
				if (!one())
					break;
				tried++;
				if (fault.fds != fds)
					FAIL("%ld descriptors are left", fault.fds - fds);
				if (fault.bytes != bytes)
					FAIL("%ld bytes stay mapped", fault.bytes - bytes);
				if (n > 100000)
					FAIL("%s", "no end");
			}
		}
	}
	assert_true(tried > 0);
	printf("# %u failures\n", tried);
}

/* ---------------------------------------------------------------- opening */

static unsigned open_flags;
static const struct fm_options *open_options;
static bool in_use, other_boot, other_file;

static bool one_opening(void)
{
	fm_heap *heap;
	bool fired;
	int error;

	restore(in_use ? t.in_use : t.bytes, in_use ? t.in_use_size : t.size);
	fault.other_boot = other_boot;
	fault.is_armed = true;
	heap = fm_open_fd(t.fd, open_flags, open_options);
	error = errno;
	disarm();
	fired = fault.fired > 0;
	if (!heap && !fired)
		FAIL("opening without a failure: %s (%s)", strerror(error), fm_last_error());
	if (!heap && error != fault.error && !(open_flags & FM_FIXED && error == EADDRINUSE))
		FAIL("opening: %s (%s)", strerror(error), fm_last_error());
	if (heap) {
		must_be_whole(heap, "opened");
		if (!(open_flags & FM_RDONLY))
			must_work(heap, "opened");
		close_it(heap);
	}
	heap = open_again(open_flags, "again");
	must_be_whole(heap, "again");
	close_it(heap);
	fault.other_boot = false;
	return fired;
}

static void opening(unsigned flags, bool is_in_use, bool is_other_boot, const struct fm_options *options)
{
	open_flags = flags;
	open_options = options;
	in_use = is_in_use;
	other_boot = is_other_boot;
	for_each_failure(one_opening);
}

static void test_opening(void **state)
{
	struct fm_options small = {.size = sizeof(small), .address_space = 64 << 20};

	(void)state;
	opening(0, false, false, NULL);
	opening(0, false, false, &small);
	opening(FM_CREATE | FM_WAIT, false, false, NULL);
	opening(FM_FIXED, false, false, NULL);
}

static void test_opening_for_reading(void **state)
{
	(void)state;
	opening(FM_RDONLY, false, false, NULL);
}

static void test_opening_after_a_kill(void **state)
{
	(void)state;
	opening(0, true, false, NULL);
}

static void test_recovering(void **state)
{
	(void)state;
	opening(FM_RECOVER, true, true, NULL);
}

static int moved_stat_fd(int fd, struct os_stat *st)
{
	int r = fault_stat_fd(fd, st);

	if (r == 0 && other_file)
		st->id.birth_sec ^= 1;
	else if (r == 0)
		st->blocks = 1 << 20; /* restore() leaves holes: none that count */
	return r;
}

/* The file is a copy: what it uses is backed first. */
static void test_opening_a_copy(void **state)
{
	(void)state;
	other_file = true;
	opening(0, false, false, NULL);
	other_file = false;
}

/* ---------------------------------------------------------------- creating */

static bool one_creation_in_fd(void)
{
	fm_heap *heap;
	bool fired;
	int error;

	assert_int_equal(ftruncate(t.fd, 0), 0);
	assert_int_equal(ftruncate(t.fd, 300000), 0);
	fault.is_armed = true;
	heap = fm_open_fd(t.fd, FM_CREATE, NULL);
	error = errno;
	disarm();
	fired = fault.fired > 0;
	if (!heap && (!fired || error != fault.error))
		FAIL("creating: %s (%s)", strerror(error), fm_last_error());
	if (!heap)
		heap = open_again(FM_CREATE, "again");
	must_work(heap, "created");
	close_it(heap);
	return fired;
}

static void test_creating_in_a_descriptor(void **state)
{
	(void)state;
	for_each_failure(one_creation_in_fd);
}

static unsigned create_flags;

static unsigned count_files(void)
{
	DIR *d = opendir(t.dir);
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static bool one_creation(void)
{
	fm_heap *heap;
	bool fired, exists;
	int error;

	unlink(t.path);
	fault.is_armed = true;
	heap = fm_open(t.path, create_flags, NULL);
	error = errno;
	disarm();
	fired = fault.fired > 0;
	if (!heap && (!fired || error != fault.error))
		FAIL("creating: %s (%s)", strerror(error), fm_last_error());
	exists = access(t.path, F_OK) == 0;
	if (count_files() != exists)
		FAIL("%u files are left", count_files());
	if (heap && !exists)
		FAIL("%s", "there is no file");
	if (!heap) {
		/* what is there under its name is a heap */
		heap = fm_open(t.path, exists ? 0 : create_flags, NULL);
		if (!heap)
			FAIL("again: %s (%s)", strerror(errno), fm_last_error());
	}
	must_work(heap, "created");
	close_it(heap);
	return fired;
}

static void test_creating(void **state)
{
	(void)state;
	create_flags = FM_CREATE;
	for_each_failure(one_creation);
	create_flags = FM_CREATE | FM_EXCL;
	for_each_failure(one_creation);
}

/* ---------------------------------------------------------------- working */

static bool one_growth(void)
{
	static const size_t sizes[] = {100, 40000, 300000, 600000, 4200000};
	enum { N = sizeof(sizes) / sizeof(sizes[0]) };
	struct { void *p; size_t size; } made[4 * N];
	unsigned n = 0;
	bool fired;
	fm_heap *heap;

	restore(t.bytes, t.size);
	heap = open_again(0, "before");
	fault.is_armed = true;
	for (unsigned i = 0; i < 4 * N; i++) {
		size_t size = sizes[i % N] + i;
		void *p;

		errno = 0;
		if (i < N)
			p = fm_malloc(heap, size);
		else if (i < 2 * N)
			p = fm_calloc(heap, 1, size);
		else if (i < 3 * N)
			p = fm_aligned_alloc(heap, (size_t)32 << i % N * 4, size);
		else
			p = n ? fm_realloc(heap, made[0].p, size) : NULL;
		if (!p && n && errno != ENOMEM)
			FAIL("allocating %zu bytes: %s (%s)", size, strerror(errno), fm_last_error());
		if (!p)
			continue;
		made[i < 3 * N ? n++ : 0].p = p;
		made[i < 3 * N ? n - 1 : 0].size = size;
		proc_fill(p, i < 3 * N ? n - 1 : 0, size);
	}
	disarm();
	fired = fault.fired > 0;
	for (unsigned i = 0; i < n; i++)
		if (!proc_intact(made[i].p, i, made[i].size, SIZE_MAX) || fm_free(made[i].p) != 0)
			FAIL("object %u of %zu bytes: %s", i, made[i].size, fm_last_error());
	must_work(heap, "afterwards");
	must_be_whole(heap, "afterwards");
	close_it(heap);
	heap = open_again(0, "reopened");
	must_be_whole(heap, "reopened");
	close_it(heap);
	return fired;
}

static void test_growing(void **state)
{
	(void)state;
	for_each_failure(one_growth);
}

static int count_root(const char *name, void *p, uint64_t tag, void *arg)
{
	(void)p;
	(void)tag;
	*(unsigned *)arg += strcmp(name, "root") == 0;
	return 0;
}

static bool one_look(void)
{
	struct fm_statistics stats = {.size = sizeof(stats)};
	uint64_t objects = 0;
	unsigned roots = 0;
	bool fired;
	fm_heap *heap;

	restore(t.bytes, t.size);
	heap = open_again(0, "before");
	fault.is_armed = true;
	if (fm_stats(heap, &stats) == 0 ? stats.live_objects != OBJECTS : errno != fault.error)
		FAIL("fm_stats: %s", fm_last_error());
	if (fm_walk(heap, proc_count_one, &objects) == 0 ? objects != OBJECTS : errno != fault.error)
		FAIL("fm_walk: %s", fm_last_error());
	if (fm_root_each(heap, count_root, &roots) == 0 ? roots != 1 : errno != fault.error)
		FAIL("fm_root_each: %s", fm_last_error());
	if (fm_check(heap, NULL, NULL) != 0 && !fault.fired)
		FAIL("fm_check: %s", fm_last_error());
	if (!fm_root_get(heap, "root", 5) && errno != fault.error)
		FAIL("fm_root_get: %s", fm_last_error());
	disarm();
	fired = fault.fired > 0;
	must_be_whole(heap, "afterwards");
	close_it(heap);
	return fired;
}

static void test_looking(void **state)
{
	(void)state;
	for_each_failure(one_look);
}

/* ---------------------------------------------------------------- syncing and closing */

static uint32_t state_of_file(void)
{
	enum super_verdict verdict;
	struct super super;

	assert_int_equal(super_read(t.fd, HEAP_MIN_SIZE, &super, &verdict), 0);
	assert_int_equal(verdict, SUPER_OK);
	return super.rec.state;
}

/* A copy of the descriptor is a precaution, as is looking at whose file it is. */
static bool is_done_without(void)
{
	return strcmp(fault.last, "copy_fd") == 0 || strcmp(fault.last, "stat_fd") == 0 ||
	       strcmp(fault.last, "close") == 0;
}

static bool one_sync(void)
{
	bool fired;
	fm_heap *heap;
	int r, error;

	restore(t.bytes, t.size);
	heap = open_again(0, "before");
	fault.is_armed = true;
	r = fm_sync(heap);
	error = errno;
	disarm();
	fired = fault.fired > 0;
	if (r ? !fired : fired && !is_done_without())
		FAIL("fm_sync gives %d", r);
	if (r && error != fault.error)
		FAIL("fm_sync: %s (%s)", strerror(error), fm_last_error());
	if (r) {
		if (fm_sync(heap) == 0)
			FAIL("%s", "a later fm_sync reports success");
		must_work(heap, "poisoned");
		must_be_whole(heap, "poisoned");
		if (fm_close(heap) == 0)
			FAIL("%s", "fm_close reports success");
		if (state_of_file() != SUPER_DIRTY)
			FAIL("%s", "fm_close marks the heap clean");
	} else {
		close_it(heap);
		assert_int_equal(state_of_file(), SUPER_CLEAN);
	}
	heap = open_again(0, "reopened");
	must_be_whole(heap, "reopened");
	close_it(heap);
	return fired;
}

static void test_syncing(void **state)
{
	(void)state;
	for_each_failure(one_sync);
}

/* ---------------------------------------------------------------- a child's memory */

static bool in_child; /* the failure is in the child's part */

static bool is_whole(fm_heap *heap)
{
	for (unsigned i = 0; i < OBJECTS; i++)
		if (!proc_intact(fm_at(heap, t.off[i]), i, filled_of(i), SIZE_MAX))
			return false;
	return proc_check(heap) == 0 && fm_malloc(heap, 100000);
}

/* Exits with 1 if something is wrong, else 2, and 3 if a call failed. */
static void go_on_in_child(fm_heap *heap, int fd)
{
	int r, error;

	fault.is_armed = in_child;
	r = fm_child_reopen(heap, fd);
	error = errno;
	disarm();
	if (r ? error != fault.error && error != EBUSY : !is_whole(heap))
		_exit(1);
	if (r && (fault.fired == 0 || fm_malloc(heap, 1) || errno != EPERM))
		_exit(1);
	_exit(fault.fired ? 3 : 2);
}

static bool one_copy(void)
{
	fm_heap *heap;
	int r, error, status = 0, fd = memfd_create("copy", MFD_CLOEXEC);
	bool fired;

	restore(t.bytes, t.size);
	heap = open_again(0, "before");
	fault.is_armed = !in_child;
	r = fm_copy_fd(heap, fd);
	error = errno;
	disarm();
	fired = fault.fired > 0;
	if (r && (!fired || error != fault.error))
		FAIL("fm_copy_fd: %s (%s)", strerror(error), fm_last_error());
	if (r == 0) {
		pid_t pid = fork();

		if (pid == 0)
			go_on_in_child(heap, fd);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!WIFEXITED(status) || WEXITSTATUS(status) < 2)
			FAIL("the child: status %#x", (unsigned)status);
	}
	if (in_child)
		fired = WEXITSTATUS(status) == 3;
	close(fd);
	must_work(heap, "copied");
	must_be_whole(heap, "copied");
	close_it(heap);
	return fired;
}

static void test_copying(void **state)
{
	(void)state;
	in_child = false;
	for_each_failure(one_copy);
}

static void test_going_on_in_a_child(void **state)
{
	(void)state;
	in_child = true;
	for_each_failure(one_copy);
}

static bool close_poisons(void)
{
	return strcmp(fault.last, "sync") == 0 || strcmp(fault.last, "pwrite_sync") == 0;
}

static bool one_closing(void)
{
	bool fired;
	fm_heap *heap;
	void *p;
	int r, error;

	restore(t.bytes, t.size);
	heap = open_again(0, "before");
	/* something to trim, to punch and to harvest */
	p = fm_malloc(heap, 3000000);
	assert_non_null(p);
	assert_non_null(fm_malloc(heap, 3000000));
	proc_fill(p, 1, 3000000);
	assert_int_equal(fm_free(p), 0);
	fault.is_armed = true;
	r = fm_close(heap);
	error = errno;
	disarm();
	fired = fault.fired > 0;
	if (r && (!fired || error != fault.error))
		FAIL("fm_close: %s (%s)", strerror(error), fm_last_error());
	if ((r == 0) != (state_of_file() == SUPER_CLEAN))
		FAIL("fm_close gives %d and leaves state %u", r, state_of_file());
	if (r == 0 && fired && close_poisons())
		FAIL("%s", "fm_close reports success");
	heap = open_again(0, "reopened");
	if (proc_count_objects(heap) != OBJECTS + 1)
		FAIL("%s", "objects are lost");
	must_work(heap, "reopened");
	close_it(heap);
	assert_int_equal(state_of_file(), SUPER_CLEAN);
	return fired;
}

static void test_closing(void **state)
{
	(void)state;
	for_each_failure(one_closing);
}

/* ---------------------------------------------------------------- machines that lack something */

static int never(int error)
{
	return -error;
}

static int no_allocate(int fd, uint64_t off, uint64_t len)
{
	(void)fd;
	(void)off;
	(void)len;
	return never(EOPNOTSUPP);
}

static int no_unnamed(const char *dir, mode_t mode)
{
	(void)dir;
	(void)mode;
	return never(EOPNOTSUPP);
}

static int no_reopen(int fd, bool writable)
{
	(void)fd;
	(void)writable;
	return never(ENOENT);
}

static int no_boot_id(uint8_t id[16])
{
	memset(id, 0, 16);
	return never(ENOSYS);
}

static void live_once(const char *what)
{
	fm_heap *heap;
	void *p;

	unlink(t.path);
	for (unsigned i = 0; i < 3; i++) {
		heap = fm_open(t.path, i ? 0 : FM_CREATE, NULL);
		if (!heap)
			fail_msg("%s: opening %u: %s", what, i, fm_last_error());
		must_work(heap, what);
		p = fm_calloc(heap, 1, 900000);
		assert_non_null(p);
		for (unsigned k = 0; k < 900000; k++)
			assert_int_equal(((uint8_t *)p)[k], 0);
		proc_fill(p, i, 900000);
		assert_int_equal(fm_free(p), 0);
		assert_int_equal(proc_count_objects(heap), i);
		assert_non_null(fm_malloc(heap, 100));
		assert_int_equal(count_files(), 1);
		close_it(heap);
	}
}

static void test_machines(void **state)
{
	uint64_t size;
	uint8_t *bytes;
	fm_heap *heap;

	(void)state;
	fault.table.allocate = no_allocate;
	live_once("no fallocate");
	fault.table.create_unnamed = no_unnamed;
	live_once("no unnamed files");
	fault.table.reopen = no_reopen;
	live_once("no /proc");
	fault.table.create_unnamed = fault_create_unnamed;
	live_once("unnamed files that can't be linked");
	fault.table.allocate = fault_allocate;
	fault.table.reopen = fault_reopen;
	fault.table.boot_id = no_boot_id;
	/* without one, a kill can't be told from a power cut: nothing that may be killed is begun */
	unlink(t.path);
	assert_null(fm_open(t.path, FM_CREATE, NULL));
	assert_int_equal(errno, ENOSYS);
	assert_int_equal(count_files(), 0);
	restore(t.bytes, t.size);
	for (unsigned i = 0; i < 2; i++) {
		assert_null(fm_open_fd(t.fd, i ? FM_RECOVER : 0, NULL));
		assert_int_equal(errno, ENOSYS);
		assert_non_null(strstr(fm_last_error(), "boot_id"));
	}
	bytes = read_all(&size);
	assert_int_equal(size, t.size);
	assert_memory_equal(bytes, t.bytes, size);
	free(bytes);
	heap = open_again(FM_RDONLY, "no boot id");
	must_be_whole(heap, "no boot id");
	close_it(heap);
	restore(t.in_use, t.in_use_size);
	assert_null(fm_open_fd(t.fd, FM_RDONLY, NULL));
	assert_int_equal(errno, ENOSYS);
	fault.table.boot_id = fault_boot_id;
	heap = open_again(0, "no boot id");
	must_be_whole(heap, "no boot id");
	close_it(heap);
}

static unsigned tries_to_lock, handled;

static void note_signal(int number)
{
	(void)number;
	handled++;
}

/* Taken, and a signal comes while the caller is awake. */
static int lock_and_signal(int fd, bool exclusive)
{
	(void)fd;
	(void)exclusive;
	if (++tries_to_lock == 3)
		raise(SIGUSR1);
	return -EWOULDBLOCK;
}

static void test_signal_between_sleeps(void **state)
{
	struct fm_options options = {.size = sizeof(options), .wait_ms = 500};
	struct sigaction action = {.sa_handler = note_signal, .sa_flags = SA_RESTART}, before;

	(void)state;
	restore(t.bytes, t.size);
	assert_int_equal(sigaction(SIGUSR1, &action, &before), 0);
	fault.table.lock = lock_and_signal;
	assert_null(fm_open_fd(t.fd, FM_WAIT, &options));
	assert_int_equal(errno, EINTR);
	assert_int_equal(tries_to_lock, 3);
	assert_int_equal(handled, 1);
	fault.table.lock = fault_lock;
	assert_int_equal(sigaction(SIGUSR1, &before, NULL), 0);
}

/* All calls that can fail are replaced above: a new one in the table has to be, too. */
static void test_table(void **state)
{
	size_t calls = sizeof(struct os_calls) / sizeof(void *), same = 0;

	(void)state;
	for (size_t i = 0; i < calls; i++)
		same += memcmp((const char *)&fault.table + i * sizeof(void *),
		               (const char *)&os_linux + i * sizeof(void *), sizeof(void *)) == 0;
	/* unlink, file_size_limit, page_size, thread_count, fault_count, now_ms, sleep_ms, hold_signals, release_signals, yield, wait_word, wake_word, memory_limit; and clone,
	 * reserve_private, watch, pagemap, scan, private_pages, on_fault, sample_faults, read_samples, end_samples, process_fault_count, write_view, sync_view, stores_cheaply,
	 * dirtied, which atomic heaps alone use (tests/atomic/failing_calls.c, tally.c, place.c, checkpoint.c) */
	assert_int_equal(same, 28);
}

/* ---------------------------------------------------------------- */

static void make_heap(void)
{
	fm_heap *heap = fm_open_fd(t.fd, FM_CREATE, NULL);

	assert_non_null(heap);
	for (unsigned i = 0; i < OBJECTS; i++) {
		void *p = fm_malloc(heap, size_of(i));

		assert_non_null(p);
		proc_fill(p, i, filled_of(i));
		t.off[i] = fm_offset_of(heap, p);
	}
	assert_int_equal(fm_root_set(heap, "root", fm_at(heap, t.off[3]), 5), 0);
	t.in_use = read_all(&t.in_use_size);
	assert_int_equal(fm_close(heap), 0);
	t.bytes = read_all(&t.size);
}

/* Every slot for a heap gets this thread's cache now, so that later openings map nothing that stays. */
static void warm_up(void)
{
	for (unsigned i = 0; i < HEAPS_MAX; i++) {
		struct fm_options options = {.size = sizeof(options), .address_space = 8 << 20};
		int fd = memfd_create("warm", MFD_CLOEXEC);
		fm_heap *heap = fm_open_fd(fd, FM_CREATE, &options);

		assert_non_null(heap);
		assert_non_null(fm_malloc(heap, 1));
		assert_int_equal(fm_close(heap), 0);
		close(fd);
	}
}

static int setup(void **state)
{
	(void)state;
	fault.table = os_linux;
#define REPLACE(name) fault.table.name = fault_##name
	REPLACE(open);
	REPLACE(reopen);
	REPLACE(reopen_direct);
	REPLACE(copy_fd);
	REPLACE(create_unnamed);
	REPLACE(create_named);
	REPLACE(link_unnamed);
	REPLACE(link_named);
	REPLACE(close);
	REPLACE(stat_path);
	REPLACE(set_mode);
	REPLACE(lock);
	REPLACE(unlock);
	REPLACE(no_copy_on_write);
	REPLACE(unshare);
	REPLACE(is_shared);
	REPLACE(pread_full);
	REPLACE(pwrite_full);
	REPLACE(pwrite_sync);
	REPLACE(sync);
	REPLACE(sync_dir);
	REPLACE(allocate);
	REPLACE(punch);
	REPLACE(truncate);
	REPLACE(next_data);
	REPLACE(next_hole);
	REPLACE(clone_file);
	REPLACE(view);
	REPLACE(map_private);
	REPLACE(move_memory);
	REPLACE(reserve_file);
	REPLACE(reserve_memory);
	REPLACE(protect);
	REPLACE(unmap);
	REPLACE(advise);
	REPLACE(is_cached);
	REPLACE(boot_id);
	REPLACE(random);
	fault.table.stat_fd = moved_stat_fd;
	os = &fault.table;
	t.dir = proc_dir_make();
	proc_path(t.path, t.dir, "heap");
	t.fd = memfd_create("heap", MFD_CLOEXEC);
	if (t.fd < 0)
		return -1;
	make_heap();
	warm_up();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	os = &os_linux;
	proc_dir_remove(t.dir);
	free(t.bytes);
	free(t.in_use);
	return close(t.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_opening),
		cmocka_unit_test(test_opening_for_reading),
		cmocka_unit_test(test_opening_after_a_kill),
		cmocka_unit_test(test_recovering),
		cmocka_unit_test(test_opening_a_copy),
		cmocka_unit_test(test_creating_in_a_descriptor),
		cmocka_unit_test(test_creating),
		cmocka_unit_test(test_growing),
		cmocka_unit_test(test_looking),
		cmocka_unit_test(test_syncing),
		cmocka_unit_test(test_copying),
		cmocka_unit_test(test_going_on_in_a_child),
		cmocka_unit_test(test_closing),
		cmocka_unit_test(test_machines),
		cmocka_unit_test(test_signal_between_sleeps),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
