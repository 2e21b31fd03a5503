/* SPDX-License-Identifier: Apache-2.0
 *
 * Short records are written past the page cache (src/store/journal.c), by a descriptor of their own: where the file system
 * can do that, and else as the others are.
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include "os/os.h"
#include "store/format.h"

#include <fcntl.h>

#define LONG_BYTES 200000u
#define COMMITS    40u

static struct {
	char *dir, path[300];
	struct os_calls table;
	fm_heap *heap;
	uint64_t *data;
	int direct_fd;              /* that the heap has; -1: none */
	unsigned direct, buffered;  /* records written */
	unsigned direct_refused;    /* tries that may fail: once, and then no more */
	bool is_wrong;              /* one that had to be written the other way */
	int open_error, error;      /* of the opening; of each write past the cache */
} t;

static int reopen_direct(int fd)
{
	t.direct_fd = t.open_error ? -t.open_error : os_linux.reopen_direct(fd);
	return t.direct_fd;
}

static bool is_record(const void *buf, size_t len)
{
	return len >= sizeof(struct record_rec) && memcmp(buf, RECORD_MAGIC, 8) == 0;
}

static int write_record(int fd, const void *buf, size_t len, uint64_t off)
{
	bool is_direct = fcntl(fd, F_GETFL) & O_DIRECT;

	t.is_wrong |= is_direct && (!is_record(buf, len) || off < SEGMENT_SIZE || len > 16 * 1024 || off % 4096 ||
	                            len % 4096 || (uintptr_t)buf % 4096);
	if (is_record(buf, len))
		*(is_direct ? &t.direct : &t.buffered) += 1;
	if (!is_direct || !t.error)
		return os_linux.pwrite_sync(fd, buf, len, off);
	os_linux.pwrite_full(fd, buf, len / 2 / 4096 * 4096, off);
	return -t.error;
}

static void open_it(unsigned flags)
{
	struct fm_options options = {.size = sizeof(options), .address_space = 1 << 30};

	t.heap = fm_open(t.path, FM_ATOMIC | flags, &options);
	if (!t.heap)
		fail_msg("%s", fm_last_error());
}

/* A heap whose journal has an extent beside the header's. */
static void begin(void)
{
	unlink(t.path);
	t.table = os_linux;
	t.table.reopen_direct = reopen_direct;
	t.table.pwrite_sync = write_record;
	os = &t.table;
	open_it(FM_CREATE);
	t.direct = t.buffered = 0;
	assert_int_equal(fm_root_set(t.heap, "data", fm_malloc(t.heap, 100), 0), 0);
	assert_int_equal(fm_commit(t.heap), 0); /* in the header */
	assert_true(t.direct == 0 && t.buffered == 1);
	t.data = fm_malloc(t.heap, LONG_BYTES);
	assert_non_null(t.data);
	memset(t.data, 1, LONG_BYTES);
	assert_int_equal(fm_root_set(t.heap, "data", t.data, 0), 0);
	assert_int_equal(fm_commit(t.heap), 0);
	t.direct = t.buffered = 0;
}

static void commit_some(void)
{
	for (uint64_t i = 0; i < COMMITS; i++) {
		t.data[i] = i + 100;
		assert_int_equal(fm_commit(t.heap), 0);
	}
}

/* Opened, it has what commit_some() committed. */
static void has_some(void)
{
	open_it(0);
	t.data = fm_root_get(t.heap, "data", 0);
	assert_non_null(t.data);
	for (uint64_t i = 0; i < COMMITS; i++)
		assert_int_equal(t.data[i], i + 100);
	assert_int_equal(fm_check(t.heap, NULL, NULL), 0);
}

static void end(void)
{
	if (t.heap)
		assert_int_equal(fm_close(t.heap), 0);
	t.heap = NULL;
	assert_false(t.is_wrong);
	os = &os_linux;
	has_some();
	assert_int_equal(fm_close(t.heap), 0);
	t.heap = NULL;
	t.open_error = t.error = 0;
}

static void short_records(void **state)
{
	(void)state;
	begin();
	commit_some();
	assert_int_equal(t.direct_fd < 0 ? t.buffered : t.direct, COMMITS);
	assert_int_equal(t.direct + t.buffered, COMMITS);
	t.direct = t.buffered = 0;
	memset(t.data + COMMITS, 2, 100000);
	assert_int_equal(fm_commit(t.heap), 0);
	assert_true(t.direct == 0 && t.buffered == 1);
	end();
}

/* A file system that does not know O_DIRECT; and one that opens a file so and refuses each write, or breaks it off. */
static void other_file_systems(void **state)
{
	t.open_error = *(int *)*state ? 0 : EINVAL;
	t.error = *(int *)*state;
	begin();
	t.direct_refused = t.error && t.direct_fd >= 0;
	commit_some();
	assert_int_equal(t.buffered, COMMITS);
	assert_int_equal(t.direct, t.direct_refused);
	end();
}

/* What was written so is read by who comes after a kill, through the cache. */
static void killed(void **state)
{
	pid_t pid;
	int status;

	(void)state;
	begin();
	assert_int_equal(fm_close(t.heap), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		open_it(0);
		t.data = fm_root_get(t.heap, "data", 0);
		for (unsigned turn = 0; turn < 3; turn++)
			commit_some();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	t.heap = NULL;
	end();
}

static void a_failing_device(void **state)
{
	(void)state;
	begin();
	commit_some();
	if (t.direct_fd < 0)
		skip();
	t.error = EIO;
	t.data[0] = 1;
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(fm_commit(t.heap), -1);
		assert_int_equal(errno, EIO);
	}
	assert_int_equal(fm_close(t.heap), -1);
	t.heap = NULL;
	t.error = 0;
	os = &os_linux;
	open_it(0);
	t.data = fm_root_get(t.heap, "data", 0);
	assert_true((t.data[0] == 1 || t.data[0] == 100) && t.data[1] == 101);
	assert_int_equal(fm_close(t.heap), 0);
}

static void closed_by_the_program(void **state)
{
	int own;

	(void)state;
	begin();
	commit_some();
	if (t.direct_fd < 0)
		skip();
	assert_int_equal(close(t.direct_fd), 0);
	t.data[COMMITS] = 1;
	assert_int_equal(fm_commit(t.heap), -1);
	assert_int_equal(errno, EBADF);
	/* and has a file of its own under the number */
	own = open(t.dir, O_RDONLY | O_DIRECTORY);
	assert_true(own >= 0);
	assert_int_equal(dup2(own, t.direct_fd), t.direct_fd);
	assert_int_equal(fm_commit(t.heap), -1);
	assert_int_equal(errno, EBADF);
	assert_int_equal(fm_close(t.heap), 0);
	t.heap = NULL;
	assert_int_equal(close(t.direct_fd), 0);
	assert_int_equal(close(own), 0);
	end();
}

int main(void)
{
	static int at_opening, at_writing = EINVAL, not_supported = EOPNOTSUPP;
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(short_records),
		{"O_DIRECT is unknown", other_file_systems, NULL, NULL, &at_opening},
		{"O_DIRECT is refused", other_file_systems, NULL, NULL, &at_writing},
		{"O_DIRECT is not supported", other_file_systems, NULL, NULL, &not_supported},
		cmocka_unit_test(killed),
		cmocka_unit_test(a_failing_device),
		cmocka_unit_test(closed_by_the_program),
	};
	int failed;

	unsetenv("FMALLOC_TRACK");
	t.dir = proc_dir_make();
	snprintf(t.path, sizeof(t.path), "%s/heap", t.dir);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	proc_dir_remove(t.dir);
	return failed;
}
