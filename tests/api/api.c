/* SPDX-License-Identifier: Apache-2.0
 *
 * The contract of each public function as fmalloc.h states it: what it returns, each documented errno
 * that can be provoked, and what it must leave alone. (Wrong pointers and handles: tests/misuse. Long
 * sequences of operations: tests/model.)
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "fmalloc.h"

#define KIB ((size_t)1024)
#define MIB ((size_t)1024 * KIB)

static char folder[4096];
static char heap_path[4200]; /* a path in the folder; no file there at a test's start */

/* ---------------------------------------------------------------- helpers */

/* The path of `name` in the test's folder; valid until the eighth call after this one. */
static const char *path_of(const char *name)
{
	static char paths[8][4600];
	static unsigned next;
	char *path = paths[next++ % 8];

	snprintf(path, sizeof paths[0], "%s/%s", folder, name);
	return path;
}

static int make_folder(void **state)
{
	const char *tmp = getenv("TMPDIR");

	(void)state;
	snprintf(folder, sizeof folder, "%s/fm-api-XXXXXX", tmp && *tmp ? tmp : "/tmp");
	if (!mkdtemp(folder))
		return -1;
	snprintf(heap_path, sizeof heap_path, "%s/heap.fm", folder);
	return 0;
}

static int remove_folder(void **state)
{
	DIR *dir = opendir(folder);

	(void)state;
	for (struct dirent *entry; dir && (entry = readdir(dir));)
		if (entry->d_name[0] != '.' && unlink(path_of(entry->d_name)) != 0)
			rmdir(path_of(entry->d_name));
	if (dir)
		closedir(dir);
	return rmdir(folder);
}

/* In a child: anything else than `condition` ends it and fails the test. */
#define NEED(condition) \
	do { \
		if (!(condition)) \
			child_failed(__LINE__, #condition); \
	} while (0)

__attribute__((noreturn))
static void child_failed(int line, const char *condition)
{
	fprintf(stderr, "# api.c:%d: not so: %s (errno %d, last error \"%s\")\n", line, condition, errno,
	        fm_last_error());
	_exit(1);
}

/* Run `act` in a child, which must come to its end. */
static void in_child(void (*act)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		alarm(60);
		act();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* `call` gives `result` with errno `wanted` and a text. */
#define FAILS(call, result, wanted) \
	do { \
		bool as_expected_; \
		int error_; \
\
		errno = 0; \
		as_expected_ = (call) == (result); \
		error_ = errno; \
		if (!as_expected_ || error_ != (wanted)) \
			fail_msg("%s: errno %d (%s) instead of %d", #call, error_, fm_last_error(), (wanted)); \
		assert_true(fm_last_error()[0] != 0); \
	} while (0)

static fm_heap *open_or_fail(const char *path, unsigned flags, const struct fm_options *options)
{
	fm_heap *heap = fm_open(path, flags, options);

	if (!heap)
		fail_msg("fm_open %s: errno %d (%s)", path, errno, fm_last_error());
	return heap;
}

static fm_heap *create_heap(void)
{
	return open_or_fail(heap_path, FM_CREATE | FM_EXCL, NULL);
}

static fm_heap *reopen(fm_heap *heap)
{
	assert_int_equal(fm_close(heap), 0);
	return open_or_fail(heap_path, 0, NULL);
}

static void write_file(const char *path, const void *bytes, size_t len)
{
	FILE *file = fopen(path, "wb");

	assert_non_null(file);
	assert_int_equal(fwrite(bytes, 1, len, file), len);
	assert_int_equal(fclose(file), 0);
}

/* The bytes of a file, in memory to be freed. */
static unsigned char *read_file(const char *path, size_t *len)
{
	struct stat st;
	unsigned char *bytes;
	FILE *file = fopen(path, "rb");

	assert_non_null(file);
	assert_int_equal(fstat(fileno(file), &st), 0);
	*len = (size_t)st.st_size;
	bytes = malloc(*len + 1);
	assert_non_null(bytes);
	assert_int_equal(fread(bytes, 1, *len, file), *len);
	fclose(file);
	return bytes;
}

static void assert_file_is(const char *path, const void *bytes, size_t len)
{
	size_t now;
	unsigned char *is = read_file(path, &now);

	assert_int_equal(now, len);
	assert_memory_equal(is, bytes, len);
	free(is);
}

static void copy_file(const char *from, const char *to)
{
	size_t len;
	unsigned char *bytes = read_file(from, &len);

	write_file(to, bytes, len);
	free(bytes);
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Another process that has the heap open until holder_stop(). It was forked before it opened it. */
struct holder {
	pid_t pid;
	int to, from, unread;
};

static struct holder holder_start(const char *path, unsigned flags, int hold_ms)
{
	struct holder holder;
	int to[2], from[2];
	char byte;

	assert_int_equal(pipe(to), 0);
	assert_int_equal(pipe(from), 0);
	holder.pid = fork();
	assert_true(holder.pid >= 0);
	if (holder.pid == 0) {
		fm_heap *heap;

		alarm(60);
		heap = fm_open(path, flags, NULL);
		NEED(heap);
		NEED(write(from[1], "x", 1) == 1);
		if (hold_ms)
			usleep((useconds_t)hold_ms * 1000);
		else
			NEED(read(to[0], &byte, 1) == 1);
		NEED(fm_close(heap) == 0);
		_exit(0);
	}
	holder.to = to[1];
	holder.from = from[0];
	close(from[1]);
	assert_int_equal(read(holder.from, &byte, 1), 1); // 0 if it failed to open it
	holder.unread = to[0]; // so that a holder which is gone by itself is no SIGPIPE
	return holder;
}

static void holder_stop(struct holder *holder)
{
	int status;

	assert_int_equal(write(holder->to, "x", 1), 1);
	close(holder->to);
	close(holder->from);
	close(holder->unread);
	assert_int_equal(waitpid(holder->pid, &status, 0), holder->pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static int count_object(void *p, size_t usable, void *arg)
{
	(void)p;
	(void)usable;
	++*(size_t *)arg;
	return 0;
}

static size_t live_objects(fm_heap *heap)
{
	size_t count = 0;

	assert_int_equal(fm_walk(heap, count_object, &count), 0);
	return count;
}

static void print_finding(const struct fm_finding *finding, void *arg)
{
	(void)arg;
	fprintf(stderr, "# fm_check: at %#" PRIx64 " is %#" PRIx64 ": %s\n", finding->offset, finding->value,
	        finding->text);
}

static void close_checked(fm_heap *heap)
{
	assert_int_equal(fm_check(heap, print_finding, NULL), 0);
	assert_int_equal(fm_close(heap), 0);
}

/* ---------------------------------------------------------------- creating */

static void a_missing_file_is_created(void **state)
{
	static const char zeros[PAGE_SIZE];
	fm_heap *heap;

	(void)state;
	FAILS(fm_open(heap_path, 0, NULL), NULL, ENOENT);
	assert_int_equal(access(heap_path, F_OK), -1);
	heap = open_or_fail(heap_path, FM_CREATE, NULL);
	assert_int_equal(access(heap_path, F_OK), 0);
	assert_ptr_equal(heap->mem, heap->s);
	assert_true(heap->fd >= 0);
	assert_memory_equal((char *)heap->mem + PAGE_SIZE, zeros, PAGE_SIZE);
	assert_int_equal(live_objects(heap), 0);
	close_checked(heap);
	close_checked(open_or_fail(heap_path, 0, NULL));
	close_checked(open_or_fail(heap_path, FM_CREATE, NULL));
}

static void excl_refuses_what_exists(void **state)
{
	(void)state;
	close_checked(open_or_fail(heap_path, FM_CREATE | FM_EXCL, NULL));
	FAILS(fm_open(heap_path, FM_CREATE | FM_EXCL, NULL), NULL, EEXIST);
	close_checked(open_or_fail(heap_path, 0, NULL));
	write_file(path_of("empty"), "", 0);
	FAILS(fm_open(path_of("empty"), FM_CREATE | FM_EXCL, NULL), NULL, EEXIST);
	assert_file_is(path_of("empty"), "", 0);
	assert_int_equal(symlink("nowhere", path_of("dangling")), 0);
	FAILS(fm_open(path_of("dangling"), FM_CREATE | FM_EXCL, NULL), NULL, EEXIST);
	assert_int_equal(access(path_of("nowhere"), F_OK), -1);
}

static mode_t mode_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_mode & 07777;
}

static void permissions_are_as_asked_for(void **state)
{
	static const struct {
		mode_t mode, mask, result;
	} cases[] = { { 0, 0, 0600 },        { 0, 0777 & ~0700, 0600 }, { 0666, 022, 0644 },
		      { 0666, 0, 0666 },     { 0640, 077, 0600 },       { 0400 | 0200 | 040, 0, 0640 } };
	mode_t before = umask(0);

	(void)state;
	for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct fm_options options = { .size = sizeof options, .mode = cases[i].mode };

		umask(cases[i].mask);
		close_checked(open_or_fail(heap_path, FM_CREATE, &options));
		assert_int_equal(mode_of(heap_path), cases[i].result);
		// the mode of what exists stays
		options.mode = 0600;
		close_checked(open_or_fail(heap_path, FM_CREATE, &options));
		assert_int_equal(mode_of(heap_path), cases[i].result);
		unlink(heap_path);
	}
	umask(before);
}

static void a_file_of_zeros_becomes_a_heap(void **state)
{
	static const size_t sizes[] = { 0, 1, 511, 4096, 12345, 65536, 100000, 1048576, 9000001 };
	static char zeros[9000001];

	(void)state;
	for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		fm_heap *heap;

		write_file(heap_path, zeros, sizes[i]);
		FAILS(fm_open(heap_path, 0, NULL), NULL, EILSEQ);
		assert_file_is(heap_path, zeros, sizes[i]);
		heap = open_or_fail(heap_path, FM_CREATE, NULL);
		assert_memory_equal((char *)heap->mem + PAGE_SIZE, zeros, PAGE_SIZE);
		assert_int_equal(live_objects(heap), 0);
		assert_non_null(fm_malloc(heap, 100000));
		close_checked(heap);
		heap = open_or_fail(heap_path, 0, NULL);
		assert_int_equal(live_objects(heap), 1);
		close_checked(heap);
		unlink(heap_path);
	}
}

static void a_sparse_file_of_zeros_becomes_a_heap(void **state)
{
	struct fm_options options = { .size = sizeof options };
	fm_heap *heap;

	(void)state;
	write_file(heap_path, "", 0);
	assert_int_equal(truncate(heap_path, (off_t)1 << 32), 0);
	heap = open_or_fail(heap_path, FM_CREATE, &options);
	memset(fm_malloc(heap, 1 * MIB), 1, 1 * MIB);
	close_checked(heap);
	heap = open_or_fail(heap_path, 0, NULL);
	assert_int_equal(live_objects(heap), 1);
	close_checked(heap);
}

/* A file that holds anything else is refused, and not a byte of it changes. */
static void refused_untouched(const void *bytes, size_t len, unsigned flags)
{
	struct stat before, after;
	int fd;

	write_file(heap_path, bytes, len);
	assert_int_equal(stat(heap_path, &before), 0);
	FAILS(fm_open(heap_path, flags, NULL), NULL, EILSEQ);
	fd = open(heap_path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	FAILS(fm_open_fd(fd, flags, NULL), NULL, EILSEQ);
	assert_int_equal(close(fd), 0);
	assert_file_is(heap_path, bytes, len);
	assert_int_equal(stat(heap_path, &after), 0);
	assert_int_equal(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
	assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
	assert_int_equal(before.st_ino, after.st_ino);
	assert_int_equal(before.st_mode, after.st_mode);
	unlink(heap_path);
}

static void foreign_files_are_refused(void **state)
{
	static const size_t sizes[] = { 1, 7, 8, 100, 4096, 65536, 262144, 1048577 };
	static const unsigned flags[] = { 0, FM_CREATE, FM_RDONLY, FM_RECOVER, FM_CREATE | FM_RECOVER };
	static unsigned char bytes[1048577];

	(void)state;
	for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		for (unsigned j = 0; j < sizeof flags / sizeof flags[0]; j++) {
			for (size_t k = 0; k < sizes[i]; k++)
				bytes[k] = (unsigned char)("some text\n"[k % 10]);
			refused_untouched(bytes, sizes[i], flags[j]);
			// zeros but for one byte, the first and the last
			memset(bytes, 0, sizes[i]);
			bytes[sizes[i] - 1] = 1;
			refused_untouched(bytes, sizes[i], flags[j]);
			bytes[sizes[i] - 1] = 0;
			bytes[0] = 1;
			refused_untouched(bytes, sizes[i], flags[j]);
		}
	}
}

static void heaps_of_the_original_are_refused_by_name(void **state)
{
	static const uint64_t magics[] = { 123456, 123457 };
	static const size_t sizes[] = { 4096, 16384, 2097152 };
	static unsigned char bytes[2097152];
	char generic[300];

	(void)state;
	write_file(heap_path, "something else entirely", 23);
	FAILS(fm_open(heap_path, 0, NULL), NULL, EILSEQ);
	snprintf(generic, sizeof generic, "%s", fm_last_error());
	assert_null(strstr(generic, "original"));
	for (unsigned i = 0; i < 2; i++) {
		for (unsigned j = 0; j < 3; j++) {
			memset(bytes, 0, sizes[j]);
			for (unsigned k = 0; k < 8; k++)
				bytes[k] = (unsigned char)(magics[i] >> (8 * k));
			refused_untouched(bytes, sizes[j], 0);
			refused_untouched(bytes, sizes[j], FM_CREATE);
			write_file(heap_path, bytes, sizes[j]);
			FAILS(fm_open(heap_path, FM_CREATE, NULL), NULL, EILSEQ);
			assert_non_null(strstr(fm_last_error(), "original"));
			unlink(heap_path);
		}
	}
}

static void what_open_refuses(void **state)
{
	char name[400];
	fm_heap *heap;

	(void)state;
	memset(name, 'n', sizeof name);
	name[300] = 0;
	FAILS(fm_open(path_of(name), FM_CREATE, NULL), NULL, ENAMETOOLONG);
	FAILS(fm_open("", FM_CREATE, NULL), NULL, ENOENT);
	FAILS(fm_open(path_of("no/folder/here"), FM_CREATE, NULL), NULL, ENOENT);
	write_file(path_of("file"), "x", 1);
	FAILS(fm_open(path_of("file/below"), FM_CREATE, NULL), NULL, ENOTDIR);
	assert_int_equal(mkdir(path_of("folder"), 0700), 0);
	errno = 0;
	assert_null(fm_open(path_of("folder"), FM_CREATE, NULL));
	assert_true(errno == EISDIR || errno == EINVAL);
	assert_int_equal(mkfifo(path_of("fifo"), 0600), 0);
	FAILS(fm_open(path_of("fifo"), FM_CREATE, NULL), NULL, EINVAL);
	FAILS(fm_open("/dev/null", FM_CREATE, NULL), NULL, EINVAL);
	assert_int_equal(symlink(path_of("loop"), path_of("loop")), 0);
	FAILS(fm_open(path_of("loop"), 0, NULL), NULL, ELOOP);
	// a symbolic link to a heap is that heap
	close_checked(create_heap());
	assert_int_equal(symlink("heap.fm", path_of("link")), 0);
	heap = open_or_fail(path_of("link"), 0, NULL);
	FAILS(fm_open(heap_path, 0, NULL), NULL, EBUSY);
	close_checked(heap);
}

static void no_descriptors_left(void **state)
{
	struct rlimit before, now;
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	(void)state;
	close_checked(create_heap());
	assert_true(fd >= 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	for (rlim_t spare = 0; spare < 2; spare++) {
		now = before;
		now.rlim_cur = (rlim_t)fd + spare;
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &now), 0);
		errno = 0;
		FAILS(fm_open(heap_path, 0, NULL), NULL, EMFILE);
		FAILS(fm_open(path_of("new.fm"), FM_CREATE, NULL), NULL, EMFILE);
	}
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(close(fd), 0);
	assert_int_equal(access(path_of("new.fm"), F_OK), -1);
	close_checked(open_or_fail(heap_path, 0, NULL));
}

/* The descriptors that a process with 0, 1 and 2 closed gets are none of these. */
static void low_descriptors(void)
{
	fm_heap *heap;

	NEED(close(0) == 0 && close(1) == 0);
	heap = fm_open(heap_path, FM_CREATE, NULL);
	NEED(heap);
	NEED(fcntl(heap->fd, F_GETFD) & FD_CLOEXEC);
	NEED(fcntl(0, F_GETFD) == -1 && fcntl(1, F_GETFD) == -1);
	NEED(fm_malloc(heap, 1000));
	NEED(fm_close(heap) == 0);
	NEED(fcntl(0, F_GETFD) == -1 && fcntl(1, F_GETFD) == -1);
}

static void closed_standard_descriptors_stay_closed(void **state)
{
	(void)state;
	in_child(low_descriptors);
}

static unsigned open_descriptors(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) != -1;
	return count;
}

static void no_descriptor_leaks(void **state)
{
	unsigned before = open_descriptors();

	(void)state;
	for (unsigned i = 0; i < 20; i++) {
		fm_heap *heap = open_or_fail(heap_path, FM_CREATE, NULL);

		FAILS(fm_open(heap_path, 0, NULL), NULL, EBUSY);
		close_checked(heap);
		FAILS(fm_open(heap_path, FM_CREATE | FM_EXCL, NULL), NULL, EEXIST);
		FAILS(fm_open(path_of("missing"), 0, NULL), NULL, ENOENT);
	}
	write_file(path_of("foreign"), "foreign", 7);
	FAILS(fm_open(path_of("foreign"), 0, NULL), NULL, EILSEQ);
	assert_int_equal(open_descriptors(), before);
}

/* ---------------------------------------------------------------- who else has it open */

static void busy_in_the_same_process(void **state)
{
	fm_heap *heap = create_heap();
	int fd = open(heap_path, O_RDWR | O_CLOEXEC);

	(void)state;
	assert_true(fd >= 0);
	FAILS(fm_open(heap_path, 0, NULL), NULL, EBUSY);
	FAILS(fm_open(heap_path, FM_CREATE, NULL), NULL, EBUSY);
	FAILS(fm_open(heap_path, FM_RDONLY, NULL), NULL, EBUSY);
	FAILS(fm_open(heap_path, FM_RECOVER, NULL), NULL, EBUSY);
	FAILS(fm_open_fd(fd, 0, NULL), NULL, EBUSY);
	assert_int_equal(link(heap_path, path_of("hard")), 0);
	FAILS(fm_open(path_of("hard"), 0, NULL), NULL, EBUSY);
	assert_int_equal(rename(heap_path, path_of("renamed")), 0);
	FAILS(fm_open(path_of("renamed"), 0, NULL), NULL, EBUSY);
	assert_non_null(fm_malloc(heap, 100));
	close_checked(heap);
	heap = fm_open_fd(fd, 0, NULL);
	assert_non_null(heap);
	close_checked(heap);
	close(fd);
}

static void busy_in_another_process(void **state)
{
	struct holder holder;

	(void)state;
	holder = holder_start(heap_path, FM_CREATE, 0);
	FAILS(fm_open(heap_path, 0, NULL), NULL, EBUSY);
	FAILS(fm_open(heap_path, FM_CREATE, NULL), NULL, EBUSY);
	FAILS(fm_open(heap_path, FM_RDONLY, NULL), NULL, EBUSY);
	FAILS(fm_open(heap_path, FM_CREATE | FM_EXCL, NULL), NULL, EEXIST);
	holder_stop(&holder);
	close_checked(open_or_fail(heap_path, 0, NULL));
}

static void readers_beside_each_other(void **state)
{
	struct holder first, second;
	fm_heap *heap;

	(void)state;
	close_checked(create_heap());
	first = holder_start(heap_path, FM_RDONLY, 0);
	second = holder_start(heap_path, FM_RDONLY, 0);
	heap = open_or_fail(heap_path, FM_RDONLY, NULL);
	assert_int_equal(fm_close(heap), 0);
	FAILS(fm_open(heap_path, 0, NULL), NULL, EBUSY);
	holder_stop(&first);
	FAILS(fm_open(heap_path, 0, NULL), NULL, EBUSY);
	holder_stop(&second);
	close_checked(open_or_fail(heap_path, 0, NULL));
}

static void waiting_times_out(void **state)
{
	struct fm_options options = { .size = sizeof options, .wait_ms = 300 };
	struct holder holder;
	uint64_t start;

	(void)state;
	holder = holder_start(heap_path, FM_CREATE, 0);
	start = now_ms();
	FAILS(fm_open(heap_path, FM_WAIT, &options), NULL, ETIMEDOUT);
	assert_in_range(now_ms() - start, 290, 5000);
	holder_stop(&holder);
}

static void waiting_ends_when_it_is_free(void **state)
{
	struct fm_options options = { .size = sizeof options, .wait_ms = 20000 };
	struct holder holder;
	uint64_t start;

	(void)state;
	for (unsigned limited = 0; limited < 2; limited++) {
		holder = holder_start(heap_path, FM_CREATE, 300);
		start = now_ms();
		close_checked(open_or_fail(heap_path, FM_WAIT, limited ? &options : NULL));
		assert_in_range(now_ms() - start, 100, 15000);
		holder_stop(&holder);
	}
}

static void on_alarm(int signal_no)
{
	(void)signal_no;
}

static void waiting_is_interrupted(void **state)
{
	struct itimerval timer = { { 0, 50000 }, { 0, 150000 } }, none = { { 0, 0 }, { 0, 0 } };
	struct sigaction action = { .sa_handler = on_alarm }, before;
	struct holder holder;
	uint64_t start;

	(void)state;
	holder = holder_start(heap_path, FM_CREATE, 0);
	assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
	start = now_ms();
	assert_int_equal(setitimer(ITIMER_REAL, &timer, NULL), 0);
	FAILS(fm_open(heap_path, FM_WAIT, NULL), NULL, EINTR);
	assert_int_equal(setitimer(ITIMER_REAL, &none, NULL), 0);
	assert_in_range(now_ms() - start, 50, 5000);
	assert_int_equal(sigaction(SIGALRM, &before, NULL), 0);
	holder_stop(&holder);
}

/* ---------------------------------------------------------------- damaged and unclean */

static void flip(const char *path, off_t offset)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	unsigned char byte;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, offset), 1);
	byte = (unsigned char)~byte;
	assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
	assert_int_equal(close(fd), 0);
}

/* The superblock stands at 0 and at 8 KiB (docs/format.md). */
static void both_superblocks_damaged(void **state)
{
	(void)state;
	close_checked(create_heap());
	for (off_t at = 32; at < 64; at += 7) {
		flip(heap_path, at);
		flip(heap_path, 8192 + at);
		FAILS(fm_open(heap_path, 0, NULL), NULL, EBADMSG);
		FAILS(fm_open(heap_path, FM_CREATE, NULL), NULL, EBADMSG);
		FAILS(fm_open(heap_path, FM_RDONLY, NULL), NULL, EBADMSG);
		flip(heap_path, at);
		flip(heap_path, 8192 + at);
	}
	close_checked(open_or_fail(heap_path, 0, NULL));
}

static void a_file_cut_short(void **state)
{
	fm_heap *heap = create_heap();
	struct stat st;

	(void)state;
	for (unsigned i = 0; i < 10; i++)
		assert_non_null(fm_malloc(heap, 1 * MIB));
	close_checked(heap);
	assert_int_equal(stat(heap_path, &st), 0);
	for (off_t len = st.st_size - 65536; len > 65536; len /= 2) {
		copy_file(heap_path, path_of("cut.fm"));
		assert_int_equal(truncate(path_of("cut.fm"), len), 0);
		FAILS(fm_open(path_of("cut.fm"), 0, NULL), NULL, EBADMSG);
		FAILS(fm_open(path_of("cut.fm"), FM_CREATE, NULL), NULL, EBADMSG);
		FAILS(fm_open(path_of("cut.fm"), FM_RDONLY, NULL), NULL, EBADMSG);
		assert_int_equal(stat(path_of("cut.fm"), &st), 0);
		assert_int_equal(st.st_size, len);
	}
}

static void a_copy_made_while_in_use(void **state)
{
	fm_heap *heap = create_heap();
	void *p = fm_malloc(heap, 100);

	(void)state;
	assert_int_equal(fm_root_set(heap, "it", p, 1), 0);
	copy_file(heap_path, path_of("copy.fm"));
	copy_file(heap_path, path_of("second.fm"));
	close_checked(heap);
	FAILS(fm_open(path_of("copy.fm"), 0, NULL), NULL, EUCLEAN);
	FAILS(fm_open(path_of("copy.fm"), FM_CREATE, NULL), NULL, EUCLEAN);
	heap = open_or_fail(path_of("copy.fm"), FM_RECOVER, NULL);
	assert_non_null(fm_root_get(heap, "it", 1));
	assert_int_equal(live_objects(heap), 1);
	close_checked(heap);
	close_checked(open_or_fail(path_of("copy.fm"), 0, NULL));
	FAILS(fm_open(path_of("second.fm"), 0, NULL), NULL, EUCLEAN);
	assert_int_equal(setenv("FMALLOC_RECOVER", "1", 1), 0);
	heap = fm_open(path_of("second.fm"), 0, NULL);
	assert_int_equal(unsetenv("FMALLOC_RECOVER"), 0);
	assert_non_null(heap);
	assert_non_null(fm_root_get(heap, "it", 1));
	close_checked(heap);
	// a copy of a closed heap is a heap
	copy_file(heap_path, path_of("third.fm"));
	heap = open_or_fail(path_of("third.fm"), 0, NULL);
	assert_int_equal(live_objects(heap), 1);
	close_checked(heap);
}

static void open_and_die(void)
{
	fm_heap *heap = fm_open(heap_path, FM_CREATE, NULL);
	char *p;

	NEED(heap);
	for (unsigned i = 0; i < 1000; i++) {
		p = fm_malloc(heap, 100 + i);
		NEED(p);
		memset(p, (int)i, 100 + i);
	}
	NEED(fm_root_set(heap, "last", p, 0) == 0);
}

static void open_and_leave_by_exit(void)
{
	open_and_die();
	exit(0);
}

static void open_and_leave_unsynced(void)
{
	struct fm_options options = { .size = sizeof options, .disable = FM_NO_EXIT_SYNC };

	NEED(fm_open(heap_path, FM_CREATE, &options));
	exit(0);
}

static void a_process_that_ends_without_closing(void **state)
{
	fm_heap *heap;

	(void)state;
	for (size_t run = 1; run <= 3; run++) {
		in_child(open_and_die);
		heap = open_or_fail(heap_path, 0, NULL);
		assert_int_equal(live_objects(heap), run * 1000);
		assert_non_null(fm_root_get(heap, "last", 0));
		close_checked(heap);
	}
}

/* A normal exit marks the heap clean: another file of the same contents needs no recovery. */
static void a_normal_exit_leaves_it_clean(void **state)
{
	(void)state;
	in_child(open_and_leave_by_exit);
	copy_file(heap_path, path_of("copy.fm"));
	close_checked(open_or_fail(path_of("copy.fm"), 0, NULL));
	in_child(open_and_leave_unsynced);
	copy_file(heap_path, path_of("copy.fm"));
	FAILS(fm_open(path_of("copy.fm"), 0, NULL), NULL, EUCLEAN);
	close_checked(open_or_fail(heap_path, 0, NULL));
}

static pid_t left_child;

/* A process that is killed while a child of it lives on. */
static void die_before_the_child(unsigned disable)
{
	struct fm_options options = { .size = sizeof options, .disable = disable };
	int ready[2], status;
	pid_t pid;
	char byte;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		NEED(fm_open(heap_path, FM_CREATE, &options));
		pid_t child = fork();

		NEED(child >= 0);
		if (child == 0) {
			pid_t self = getpid();

			NEED(write(ready[1], &self, sizeof self) == sizeof self);
			NEED(write(ready[1], "x", 1) == 1);
			sleep(60);
			_exit(0);
		}
		sleep(60);
		_exit(0);
	}
	assert_int_equal(read(ready[0], &left_child, sizeof left_child), sizeof left_child);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(ready[0]);
	close(ready[1]);
}

static void fork_and_the_lock(void **state)
{
	(void)state;
	die_before_the_child(0);
	close_checked(open_or_fail(heap_path, 0, NULL));
	assert_int_equal(kill(left_child, SIGKILL), 0);
	die_before_the_child(FM_NO_ATFORK);
	FAILS(fm_open(heap_path, 0, NULL), NULL, EBUSY);
	assert_int_equal(kill(left_child, SIGKILL), 0);
	close_checked(open_or_fail(heap_path, FM_WAIT, NULL));
}

/* ---------------------------------------------------------------- fixed addresses */

struct raw_node {
	struct raw_node *next; /* an address, good where the heap was made */
	uint64_t n;
};

/* What a fresh process does to the heap made by fixed_in_fresh_processes(): main() comes here. */
static int open_fixed(const char *path, const char *home)
{
	fm_heap *heap = fm_open(path, FM_FIXED, NULL);
	struct raw_node *node;
	uint64_t n = 0;

	NEED(heap);
	NEED((uintptr_t)heap->mem == strtoull(home, NULL, 16));
	for (node = fm_root_get(heap, "list", 0); node; node = node->next)
		NEED(node->n == n++);
	NEED(n == 50);
	NEED(fm_close(heap) == 0);
	return 0;
}

static void fixed_in_fresh_processes(void **state)
{
	fm_heap *heap = create_heap();
	struct raw_node *first = NULL;
	char home[40];

	(void)state;
	for (uint64_t n = 50; n-- > 0;) {
		struct raw_node *node = fm_malloc(heap, sizeof *node);

		assert_non_null(node);
		*node = (struct raw_node){ first, n };
		first = node;
	}
	assert_int_equal(fm_root_set(heap, "list", first, 0), 0);
	snprintf(home, sizeof home, "%" PRIxPTR, (uintptr_t)heap->mem);
	close_checked(heap);
	for (unsigned i = 0; i < 20; i++) {
		int status;
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			execl("/proc/self/exe", "api", "--open-fixed", heap_path, home, (char *)NULL);
			_exit(127);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
	}
}

static void the_fixed_place_is_taken(void **state)
{
	fm_heap *heap = create_heap();
	void *home = heap->mem, *taken;

	(void)state;
	close_checked(heap);
	taken = mmap(home, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	assert_ptr_equal(taken, home);
	FAILS(fm_open(heap_path, FM_FIXED, NULL), NULL, EADDRINUSE);
	FAILS(fm_open(heap_path, FM_FIXED | FM_RDONLY, NULL), NULL, EADDRINUSE);
	// without FM_FIXED the heap goes elsewhere, and its home stays its home
	heap = open_or_fail(heap_path, 0, NULL);
	assert_ptr_not_equal(heap->mem, home);
	close_checked(heap);
	munmap(taken, 4096);
	heap = open_or_fail(heap_path, FM_FIXED, NULL);
	assert_ptr_equal(heap->mem, home);
	close_checked(heap);
}

static void two_made_together_open_together(void **state)
{
	fm_heap *a = create_heap(), *b = open_or_fail(path_of("b.fm"), FM_CREATE, NULL);
	void *home[2] = { a->mem, b->mem };

	(void)state;
	close_checked(a);
	close_checked(b);
	b = open_or_fail(path_of("b.fm"), FM_FIXED, NULL);
	a = open_or_fail(heap_path, FM_FIXED, NULL);
	assert_ptr_equal(a->mem, home[0]);
	assert_ptr_equal(b->mem, home[1]);
	close_checked(a);
	close_checked(b);
}

/* ---------------------------------------------------------------- read-only */

static void store_and_see(void)
{
	fm_heap *heap = fm_open(heap_path, FM_RDONLY, NULL);
	struct sigaction action = { .sa_handler = _exit };
	volatile char *p;

	NEED(heap);
	NEED(sigaction(SIGSEGV, &action, NULL) == 0);
	p = fm_root_get(heap, "it", 7);
	NEED(p && *p == 'c');
	*p = 'x'; // ends the process with its number
}

static void reading_only(void **state)
{
	fm_heap *heap = create_heap();
	struct fm_statistics s = { .size = sizeof s };
	uint64_t offset, generation;
	unsigned char *bytes;
	struct stat before, after;
	size_t len;
	int status;
	pid_t pid;
	char *p;

	(void)state;
	p = fm_strdup(heap, "contents");
	assert_non_null(p);
	assert_int_equal(fm_root_set(heap, "it", p, 7), 0);
	offset = fm_offset_of(heap, p);
	assert_int_equal(fm_stats(heap, &s), 0);
	generation = s.generation;
	close_checked(heap);
	bytes = read_file(heap_path, &len);
	assert_int_equal(stat(heap_path, &before), 0);

	heap = open_or_fail(heap_path, FM_RDONLY, NULL);
	p = fm_root_get(heap, "it", 7);
	assert_int_equal(fm_offset_of(heap, p), offset);
	assert_string_equal(p, "contents");
	assert_true(fm_usable_size(p) >= 9);
	assert_ptr_equal(fm_heap_of(p), heap);
	assert_ptr_equal(fm_at_checked(heap, offset, 9), p);
	assert_int_equal(live_objects(heap), 1);
	assert_int_equal(fm_check(heap, print_finding, NULL), 0);
	assert_int_equal(fm_stats(heap, &s), 0);
	assert_int_equal(s.live_objects, 1);
	assert_int_equal(s.generation, generation);
	FAILS(fm_malloc(heap, 10), NULL, EROFS);
	FAILS(fm_malloc(heap, 10 * MIB), NULL, EROFS);
	FAILS(fm_calloc(heap, 1, 10), NULL, EROFS);
	FAILS(fm_realloc(heap, NULL, 10), NULL, EROFS);
	FAILS(fm_realloc(heap, p, 1000), NULL, EROFS);
	FAILS(fm_realloc(heap, p, 9), NULL, EROFS);
	FAILS(fm_reallocarray(heap, p, 10, 10), NULL, EROFS);
	FAILS(fm_aligned_alloc(heap, 64, 10), NULL, EROFS);
	FAILS(fm_strdup(heap, "text"), NULL, EROFS);
	FAILS(fm_strndup(heap, "text", 2), NULL, EROFS);
	FAILS(fm_free(p), -1, EROFS);
	FAILS(fm_root_set(heap, "it", NULL, 7), -1, EROFS);
	FAILS(fm_root_set(heap, "other", p, 7), -1, EROFS);
	FAILS(fm_root_remove(heap, "it"), -1, EROFS);
	assert_ptr_equal(fm_root_get(heap, "it", 7), p);
	assert_int_equal(fm_close(heap), 0);

	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		store_and_see();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == SIGSEGV);
	assert_file_is(heap_path, bytes, len);
	free(bytes);
	assert_int_equal(stat(heap_path, &after), 0);
	assert_int_equal(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
	assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
	assert_int_equal(before.st_blocks, after.st_blocks);
}

static void reading_only_creates_nothing(void **state)
{
	(void)state;
	FAILS(fm_open(heap_path, FM_RDONLY, NULL), NULL, ENOENT);
	assert_int_equal(access(heap_path, F_OK), -1);
}

/* ---------------------------------------------------------------- descriptors */

static int make_memfd(void)
{
	int fd = memfd_create("heap", MFD_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void a_heap_in_a_memfd(void **state)
{
	int fd = make_memfd(), second = dup(fd);
	fm_heap *heap;
	char *p;

	(void)state;
	FAILS(fm_open_fd(fd, 0, NULL), NULL, EILSEQ);
	heap = fm_open_fd(fd, FM_CREATE, NULL);
	assert_non_null(heap);
	FAILS(fm_open_fd(fd, 0, NULL), NULL, EBUSY);
	assert_int_equal(close(fd), 0); // the caller's to close at any time
	p = fm_malloc(heap, 3 * MIB);
	assert_non_null(p);
	memset(p, 3, 3 * MIB);
	assert_int_equal(fm_root_set(heap, "it", p, 0), 0);
	assert_int_equal(fm_sync(heap), 0);
	close_checked(heap);
	heap = fm_open_fd(second, 0, NULL);
	assert_non_null(heap);
	p = fm_root_get(heap, "it", 0);
	assert_non_null(p);
	assert_int_equal(p[0] + p[3 * MIB - 1], 6);
	close_checked(heap);
	assert_int_equal(fcntl(second, F_GETFD), 0); // open, and as the caller made it
	heap = fm_open_fd(second, FM_RDONLY, NULL);
	assert_non_null(heap);
	FAILS(fm_malloc(heap, 10), NULL, EROFS);
	assert_int_equal(fm_close(heap), 0);
	assert_int_equal(close(second), 0);
}

static void what_open_fd_refuses(void **state)
{
	int fd = make_memfd(), reading, ends[2];
	fm_heap *heap;

	(void)state;
	FAILS(fm_open_fd(-1, FM_CREATE, NULL), NULL, EBADF);
	FAILS(fm_open_fd(1000000, FM_CREATE, NULL), NULL, EBADF);
	FAILS(fm_open_fd(fd, FM_CREATE | FM_EXCL, NULL), NULL, EINVAL);
	FAILS(fm_open_fd(fd, FM_CREATE | 1u << 20, NULL), NULL, EINVAL);
	assert_int_equal(lseek(fd, 0, SEEK_END), 0); // it is still empty
	assert_int_equal(close(fd), 0);
	assert_int_equal(pipe(ends), 0);
	errno = 0;
	assert_null(fm_open_fd(ends[1], FM_CREATE, NULL));
	assert_true(errno != 0);
	close(ends[0]);
	close(ends[1]);
	close_checked(create_heap());
	reading = open(heap_path, O_RDONLY | O_CLOEXEC);
	assert_true(reading >= 0);
	errno = 0;
	assert_null(fm_open_fd(reading, 0, NULL));
	assert_true(errno == EBADF || errno == EACCES || errno == EINVAL);
	heap = fm_open_fd(reading, FM_RDONLY, NULL);
	assert_non_null(heap);
	assert_int_equal(fm_close(heap), 0);
	assert_int_equal(close(reading), 0);
}

/* ---------------------------------------------------------------- closing and syncing */

static void closing_trims_the_file(void **state)
{
	fm_heap *heap = create_heap();
	struct stat st;
	char *p;

	(void)state;
	p = fm_malloc(heap, 1000);
	assert_non_null(p);
	assert_int_equal(fm_free(fm_malloc(heap, 30 * MIB)), 0);
	strcpy(p, "stays");
	assert_int_equal(fm_root_set(heap, "it", p, 0), 0);
	close_checked(heap);
	assert_int_equal(stat(heap_path, &st), 0);
	assert_true(st.st_size <= (off_t)(5 * MIB));
	heap = open_or_fail(heap_path, 0, NULL);
	assert_string_equal(fm_root_get(heap, "it", 0), "stays");
	close_checked(heap);
}

static void a_closed_heap_is_gone(void **state)
{
	fm_heap *heap = create_heap();
	unsigned char *mem = heap->mem;
	void *p = fm_malloc(heap, 100);

	(void)state;
	assert_ptr_equal(fm_heap_of(p), heap);
	close_checked(heap);
	assert_null(fm_heap_of(p));
	errno = 0;
	assert_int_equal(msync(mem, 4096, MS_ASYNC), -1); // nothing is mapped there any more
	assert_int_equal(errno, ENOMEM);
}

static void sync_any_time(void **state)
{
	fm_heap *heap = create_heap();

	(void)state;
	assert_int_equal(fm_sync(heap), 0);
	memset(fm_malloc(heap, 1 * MIB), 1, 1 * MIB);
	assert_int_equal(fm_sync(heap), 0);
	assert_int_equal(fm_sync(heap), 0);
	assert_int_equal(fm_free(fm_malloc(heap, 10 * MIB)), 0);
	assert_int_equal(fm_sync(heap), 0);
	close_checked(heap);
}

/* The application's page is the program's: the library never writes to it. */
static void the_application_page_is_kept(void **state)
{
	fm_heap *heap = create_heap();
	unsigned char page[PAGE_SIZE];

	(void)state;
	for (unsigned i = 0; i < PAGE_SIZE; i++)
		page[i] = (unsigned char)(i * 7 + 1);
	memcpy((char *)heap->mem + PAGE_SIZE, page, PAGE_SIZE);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(fm_free(fm_malloc(heap, i * 500)), 0);
	assert_int_equal(fm_root_set(heap, "it", (char *)heap->mem + PAGE_SIZE, 1), 0);
	assert_int_equal(fm_sync(heap), 0);
	heap = reopen(heap);
	assert_memory_equal((char *)heap->mem + PAGE_SIZE, page, PAGE_SIZE);
	assert_ptr_equal(fm_root_get(heap, "it", 1), (char *)heap->mem + PAGE_SIZE);
	close_checked(heap);
}

/* ---------------------------------------------------------------- allocating */

static void objects_stay(void **state)
{
	static const size_t sizes[] = { 1, 16, 24, 100, 5000, 65536, 100000, 700000, 5000000, 9000000 };
	enum { N = sizeof sizes / sizeof sizes[0] };
	fm_heap *heap = create_heap();
	uint64_t offsets[N];

	(void)state;
	for (unsigned i = 0; i < N; i++) {
		unsigned char *p = fm_malloc(heap, sizes[i]);

		assert_non_null(p);
		assert_int_equal((uintptr_t)p % (sizes[i] % 16 == 0 ? 16 : 8), 0);
		assert_true(fm_usable_size(p) >= sizes[i]);
		memset(p, (int)i + 1, sizes[i]);
		offsets[i] = fm_offset_of(heap, p);
	}
	for (unsigned round = 0; round < 3; round++) {
		heap = reopen(heap);
		assert_int_equal(live_objects(heap), N);
		for (unsigned i = 0; i < N; i++) {
			unsigned char *p = fm_at_checked(heap, offsets[i], sizes[i]);

			assert_non_null(p);
			assert_true(p[0] == i + 1 && p[sizes[i] - 1] == i + 1 && p[sizes[i] / 2] == i + 1);
		}
	}
	close_checked(heap);
}

static void nodes_cost_what_they_measure(void **state)
{
	fm_heap *heap = create_heap();

	(void)state;
	for (size_t size = 16; size <= 128; size += 8) {
		void *p = fm_malloc(heap, size);

		assert_int_equal(fm_usable_size(p), size);
	}
	close_checked(heap);
}

static bool is_zero(const unsigned char *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

/* calloc is zero also where something else was before, in this process or in an earlier one. */
static void calloc_is_zero(void **state)
{
	static const size_t sizes[] = { 1, 24, 1000, 30000, 200000, 1000000, 9000000 };
	fm_heap *heap = create_heap();

	(void)state;
	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
			unsigned char *p[3];

			for (unsigned j = 0; j < 3; j++) {
				p[j] = j % 2 ? fm_calloc(heap, sizes[i], 1) : fm_calloc(heap, 1, sizes[i]);
				assert_non_null(p[j]);
				assert_true(is_zero(p[j], sizes[i]));
				memset(p[j], 0xff, fm_usable_size(p[j]));
			}
			for (unsigned j = 0; j < 3; j++)
				assert_int_equal(fm_free(p[j]), 0);
		}
		if (round % 2)
			heap = reopen(heap);
	}
	assert_non_null(fm_calloc(heap, 0, 0));
	close_checked(heap);
}

static void realloc_keeps_contents(void **state)
{
	static const size_t sizes[] = { 10,     11,      100,     90,     5000,    20000, 70000,
		                        600000, 5000000, 9000000, 900000, 100000, 1000,  5 };
	fm_heap *heap = create_heap();
	unsigned char *p = fm_realloc(heap, NULL, 10);
	size_t kept = 10;

	(void)state;
	assert_non_null(p);
	for (size_t i = 0; i < 10; i++)
		p[i] = (unsigned char)(i * 3);
	for (unsigned i = 1; i < sizeof sizes / sizeof sizes[0]; i++) {
		p = fm_realloc(heap, p, sizes[i]);
		assert_non_null(p);
		assert_true(fm_usable_size(p) >= sizes[i]);
		assert_int_equal(live_objects(heap), 1);
		kept = kept < sizes[i] ? kept : sizes[i];
		for (size_t j = 0; j < kept; j++)
			assert_int_equal(p[j], (unsigned char)(j * 3));
		for (size_t j = kept; j < sizes[i]; j++)
			p[j] = (unsigned char)(j * 3);
		kept = sizes[i];
	}
	FAILS(fm_realloc(heap, p, SIZE_MAX), NULL, ENOMEM);
	FAILS(fm_reallocarray(heap, p, SIZE_MAX / 2, 3), NULL, ENOMEM);
	for (size_t j = 0; j < kept; j++)
		assert_int_equal(p[j], (unsigned char)(j * 3));
	p = fm_reallocarray(heap, p, 100, 7);
	assert_non_null(p);
	assert_true(fm_usable_size(p) >= 700);
	p = fm_realloc(heap, p, 0);
	assert_non_null(p);
	assert_int_equal(live_objects(heap), 1);
	assert_int_equal(fm_free(p), 0);
	close_checked(heap);
}

static void strings_are_copied(void **state)
{
	fm_heap *heap = create_heap();
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *text = pages + page - 5, *p;

	(void)state;
	assert_true(pages != MAP_FAILED);
	assert_int_equal(mprotect(pages + page, page, PROT_NONE), 0);
	assert_string_equal(fm_strdup(heap, "some text"), "some text");
	assert_string_equal(fm_strdup(heap, ""), "");
	assert_string_equal(fm_strndup(heap, "some text", 4), "some");
	assert_string_equal(fm_strndup(heap, "some text", 9), "some text");
	assert_string_equal(fm_strndup(heap, "some text", 10), "some text");
	assert_string_equal(fm_strndup(heap, "some text", SIZE_MAX), "some text");
	assert_string_equal(fm_strndup(heap, "some text", 0), "");
	memcpy(text, "12345", 5); // no byte behind them, and no terminating one
	assert_string_equal(fm_strndup(heap, text, 5), "12345");
	assert_string_equal(fm_strndup(heap, text, 3), "123");
	text[4] = 0;
	assert_string_equal(fm_strdup(heap, text), "1234");
	assert_string_equal(fm_strndup(heap, text, 100), "1234");
	munmap(pages, 2 * page);
	p = malloc(3 * MIB);
	assert_non_null(p);
	memset(p, 'l', 3 * MIB);
	p[3 * MIB - 1] = 0;
	text = fm_strdup(heap, p);
	assert_non_null(text);
	assert_int_equal(strcmp(text, p), 0);
	free(p);
	assert_int_equal(live_objects(heap), 12);
	close_checked(heap);
}

/* Nothing is written into an object that was freed, or beside one. */
static void free_leaves_the_bytes(void **state)
{
	static const size_t sizes[] = { 16, 24, 64, 500, 5000, 40000 };
	fm_heap *heap = create_heap();

	(void)state;
	for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		unsigned char *keep = fm_malloc(heap, sizes[i]), *p = fm_malloc(heap, sizes[i]);

		assert_non_null(keep);
		assert_non_null(p);
		memset(p, 0xab, sizes[i]);
		assert_int_equal(fm_free(p), 0);
		for (size_t j = 0; j < sizes[i]; j++)
			assert_int_equal(p[j], 0xab);
	}
	close_checked(heap);
}

static void max_size_is_a_limit(void **state)
{
	struct fm_options options = { .size = sizeof options, .max_size = 20 * MIB };
	fm_heap *heap = open_or_fail(heap_path, FM_CREATE, &options);
	struct fm_statistics s = { .size = sizeof s };
	void *p[400], *q;
	unsigned n = 0;

	(void)state;
	FAILS(fm_malloc(heap, 21 * MIB), NULL, ENOMEM);
	while ((q = fm_malloc(heap, 100000)))
		p[n++] = q;
	assert_int_equal(errno, ENOMEM);
	assert_true(fm_last_error()[0]);
	assert_in_range(n, 160, 209);
	assert_int_equal(fm_stats(heap, &s), 0);
	assert_int_equal(s.max_size, 20 * MIB);
	assert_true(s.file_size <= 20 * MIB);
	for (unsigned i = 0; i < n; i += 2)
		assert_int_equal(fm_free(p[i]), 0);
	for (unsigned i = 0; i < n; i += 2) {
		p[i] = fm_malloc(heap, 100000);
		assert_non_null(p[i]);
	}
	close_checked(heap);
	// the limit is this opening's, not the file's
	heap = open_or_fail(heap_path, 0, NULL);
	assert_int_equal(live_objects(heap), n);
	assert_non_null(fm_malloc(heap, 21 * MIB));
	close_checked(heap);
}

static void address_space_is_a_limit(void **state)
{
	struct fm_options options = { .size = sizeof options, .address_space = 64 * MIB };
	fm_heap *heap = open_or_fail(heap_path, FM_CREATE, &options);
	struct fm_statistics s = { .size = sizeof s };

	(void)state;
	assert_int_equal(fm_stats(heap, &s), 0);
	assert_int_equal(s.address_space, 64 * MIB);
	assert_true(s.max_size <= 64 * MIB);
	FAILS(fm_malloc(heap, 70 * MIB), NULL, ENOMEM);
	assert_non_null(fm_malloc(heap, 30 * MIB));
	FAILS(fm_malloc(heap, 40 * MIB), NULL, ENOMEM);
	assert_non_null(fm_malloc(heap, 1 * MIB));
	close_checked(heap);
	heap = open_or_fail(heap_path, 0, NULL);
	assert_non_null(fm_malloc(heap, 70 * MIB));
	close_checked(heap);
}

static void heap_of_an_address(void **state)
{
	fm_heap *a = create_heap(), *b = open_or_fail(path_of("b.fm"), FM_CREATE, NULL);
	char *p = fm_malloc(a, 100), *q = fm_malloc(b, 10 * MIB);
	int on_stack;

	(void)state;
	assert_ptr_equal(fm_heap_of(p), a);
	assert_ptr_equal(fm_heap_of(p + 50), a);
	assert_ptr_equal(fm_heap_of(a->mem), a);
	assert_ptr_equal(fm_heap_of((char *)a->mem + PAGE_SIZE), a);
	assert_ptr_equal(fm_heap_of(q), b);
	assert_ptr_equal(fm_heap_of(q + 9 * MIB), b);
	assert_null(fm_heap_of(NULL));
	assert_null(fm_heap_of(&on_stack));
	assert_null(fm_heap_of((char *)a->mem - 1));
	close_checked(a);
	assert_null(fm_heap_of(p));
	assert_ptr_equal(fm_heap_of(q), b);
	close_checked(b);
}

/* ---------------------------------------------------------------- the thread's target */

static fm_heap *heap_a, *heap_b;

static void no_target(void)
{
	errno = 0;
	NEED(!fmalloc_get_target() && errno == EINVAL);
	errno = 0;
	NEED(!fmalloc(10) && errno == EINVAL && fm_last_error()[0]);
	errno = 0;
	NEED(!fcalloc(1, 10) && errno == EINVAL);
	errno = 0;
	NEED(!frealloc(NULL, 10) && errno == EINVAL);
	errno = 0;
	NEED(!freallocarray(NULL, 1, 10) && errno == EINVAL);
	errno = 0;
	NEED(!faligned_alloc(16, 10) && errno == EINVAL);
	errno = 0;
	NEED(!fstrdup("text") && errno == EINVAL);
	errno = 0;
	NEED(!fstrndup("text", 2) && errno == EINVAL);
	errno = 0;
	ffree(NULL);
	NEED(errno == 0);
}

static void without_a_heap_there_is_no_target(void **state)
{
	(void)state;
	in_child(no_target);
}

static void *expects_a(void *arg)
{
	NEED(fmalloc_get_target() == heap_a);
	NEED(fm_heap_of(fmalloc(10)) == heap_a);
	return arg;
}

static void *sets_b(void *arg)
{
	fmalloc_set_target(heap_b);
	NEED(fmalloc_get_target() == heap_b);
	NEED(fm_heap_of(fmalloc(10)) == heap_b);
	return arg;
}

static void run_thread(void *(*act)(void *))
{
	pthread_t thread;

	NEED(pthread_create(&thread, NULL, act, NULL) == 0 && pthread_join(thread, NULL) == 0);
}

static void each_has_its_target(void)
{
	void *p;
	bool init = false;

	heap_a = fm_open(heap_path, FM_CREATE, NULL);
	NEED(heap_a);
	NEED(fmalloc_get_target() == heap_a);
	heap_b = fmalloc_init(path_of("b.fm"), &init);
	NEED(heap_b && init);
	NEED(fmalloc_get_target() == heap_a);
	run_thread(expects_a);
	fmalloc_set_target(heap_b);
	NEED(fmalloc_get_target() == heap_b);
	run_thread(expects_a);
	run_thread(sets_b);
	run_thread(expects_a);
	NEED(fm_heap_of(p = fmalloc(100)) == heap_b);
	NEED(fmalloc_usable_size(p) >= 100);
	fmalloc_set_target(heap_a);
	ffree(p); // it lies where it lies
	NEED(fm_heap_of(fcalloc(2, 10)) == heap_a);
	NEED(fm_heap_of(frealloc(NULL, 10)) == heap_a);
	NEED(fm_heap_of(freallocarray(NULL, 2, 10)) == heap_a);
	NEED(fm_heap_of(p = faligned_alloc(4096, 10)) == heap_a && (uintptr_t)p % 4096 == 0);
	NEED(fm_heap_of(p = fstrdup("text")) == heap_a && strcmp(p, "text") == 0);
	NEED(fm_heap_of(p = fstrndup("text", 2)) == heap_a && strcmp(p, "te") == 0);
	NEED(fm_check(heap_a, print_finding, NULL) == 0 && fm_check(heap_b, print_finding, NULL) == 0);
	NEED(fm_close(heap_a) == 0 && fm_close(heap_b) == 0);
	errno = 0;
	NEED(!fmalloc_get_target() && errno == EINVAL);
	errno = 0;
	NEED(!fmalloc(10) && errno == EINVAL);
}

static void each_thread_has_its_target(void **state)
{
	(void)state;
	in_child(each_has_its_target);
}

static void the_original_interface(void **state)
{
	struct fm_info *heap;
	bool init = false;
	char *p;

	(void)state;
	heap = fmalloc_init(heap_path, &init);
	assert_non_null(heap);
	assert_true(init);
	assert_int_equal(mode_of(heap_path) & 077, 0);
	fmalloc_set_target(heap);
	p = fmalloc(100);
	assert_non_null(p);
	strcpy(p, "found again");
	*(uint64_t *)((char *)heap->mem + PAGE_SIZE) = (uint64_t)(p - (char *)heap->mem);
	assert_int_equal(fm_close(heap), 0);
	init = true;
	heap = fmalloc_init(heap_path, &init);
	assert_non_null(heap);
	assert_false(init);
	p = (char *)heap->mem + *(uint64_t *)((char *)heap->mem + PAGE_SIZE);
	assert_string_equal(p, "found again");
	FAILS(fmalloc_init(heap_path, &init), NULL, EBUSY);
	ffree(p);
	assert_int_equal(live_objects(heap), 0);
	close_checked(heap);
	write_file(path_of("foreign"), "foreign", 7);
	FAILS(fmalloc_init(path_of("foreign"), &init), NULL, EILSEQ);
	FAILS(fmalloc_init(path_of("no/folder"), &init), NULL, ENOENT);
	write_file(path_of("zeros"), "\0\0\0\0\0\0\0", 7);
	init = false;
	heap = fmalloc_init(path_of("zeros"), &init);
	assert_non_null(heap);
	assert_true(init);
	close_checked(heap);
}

/* ---------------------------------------------------------------- offsets and pointers */

static void offsets_and_addresses(void **state)
{
	fm_heap *heap = create_heap();
	char *p = fm_malloc(heap, 100);
	uint64_t offset = fm_offset_of(heap, p);

	(void)state;
	assert_true(offset >= 64 * KIB);
	assert_ptr_equal(fm_at(heap, offset), p);
	assert_ptr_equal(fm_at(heap, offset + 10), p + 10);
	assert_null(fm_at(heap, 0));
	assert_int_equal(fm_offset_of(heap, NULL), 0);
	assert_ptr_equal(fm_at_checked(heap, offset, 100), p);
	assert_ptr_equal(fm_at_checked(heap, offset + 10, 90), p + 10);
	assert_ptr_equal(fm_at_checked(heap, PAGE_SIZE + 8, 8), (char *)heap->mem + PAGE_SIZE + 8);
	FAILS(fm_at_checked(heap, offset, fm_usable_size(p) + 1), NULL, EINVAL);
	FAILS(fm_at_checked(heap, 0, 1), NULL, EINVAL);
	assert_int_equal(fm_free(p), 0);
	FAILS(fm_at_checked(heap, offset, 1), NULL, EINVAL);
	close_checked(heap);
}

struct unknown;

struct list_node {
	fm_ptr(struct list_node) next;
	fm_ptr(struct unknown) incomplete;
	fm_ptr(const char) text;
	uint32_t n;
};

static void pointers_in_the_heap(void **state)
{
	fm_heap *heap = create_heap();
	struct list_node *head, copy;
	unsigned n = 0;

	(void)state;
	assert_int_equal(sizeof head->next, 8);
	assert_int_equal(sizeof head->incomplete, 8);
	head = fm_calloc(heap, 1, sizeof *head);
	assert_non_null(head);
	assert_null(fm_get(heap, head->next)); // zero bytes are null
	assert_null(fm_get(heap, head->text));
	assert_int_equal(fm_root_set(heap, "head", head, 1), 0);
	for (unsigned i = 0; i < 100; i++) {
		struct list_node *node = fm_calloc(heap, 1, sizeof *node);

		node->n = i;
		fm_set(heap, &node->text, fm_strdup(heap, i % 2 ? "odd" : "even"));
		node->next = head->next;
		fm_set(heap, &head->next, node);
		assert_ptr_equal(fm_get(heap, head->next), node);
		copy = *node; // copied by assignment and memcpy, to anywhere
		assert_string_equal(fm_get(heap, copy.text), i % 2 ? "odd" : "even");
	}
	heap = reopen(heap);
	head = fm_root_get(heap, "head", 1);
	for (struct list_node *node = fm_get(heap, head->next); node; node = fm_get(heap, node->next)) {
		assert_int_equal(node->n, 99 - n);
		assert_string_equal(fm_get(heap, node->text), node->n % 2 ? "odd" : "even");
		n++;
	}
	assert_int_equal(n, 100);
	fm_set(heap, &head->next, NULL);
	assert_null(fm_get(heap, head->next));
	close_checked(heap);
}

/* The folder of fmalloc.h, from where this file was compiled. */
static bool find_include(char *path, size_t size)
{
	const char *ends = strstr(__FILE__, "tests/api/");

	snprintf(path, size, "%.*sinclude", (int)(ends ? ends - __FILE__ : 0), __FILE__);
	if (access(path, F_OK) != 0)
		snprintf(path, size, "include");
	return access(path, F_OK) == 0;
}

static const char snippet_start[] =
	"#include <fmalloc.h>\n"
	"struct apple; struct pear { int weight; };\n"
	"struct holder { fm_ptr(struct apple) a, a2; fm_ptr(struct pear) p, p2; fm_ptr(char) c;\n"
	"	fm_ptr(const char) t; };\n"
	"void f(fm_heap *heap, struct holder *h, struct apple *apple, struct pear *pear, char *c);\n"
	"void f(fm_heap *heap, struct holder *h, struct apple *apple, struct pear *pear, char *c)\n"
	"{\n"
	"	(void)heap; (void)h; (void)apple; (void)pear; (void)c;\n"
	"	";

static const struct {
	bool compiles;
	const char *line;
} snippets[] = {
	{ true, ";" },
	{ true, "h->a = h->a2;" },
	{ true, "h->p = h->p2;" },
	{ true, "h->a = 0;" },
	{ true, "h->a = NULL;" },
	{ true, "struct holder copy = *h; *h = copy;" },
	{ true, "fm_set(heap, &h->a, apple);" },
	{ true, "fm_set(heap, &h->p, pear);" },
	{ true, "fm_set(heap, &h->p, NULL);" },
	{ true, "fm_set(heap, &h->t, c);" },
	{ true, "fm_set(heap, &h->t, \"text\");" },
	{ true, "fm_set(heap, &h->p, fm_malloc(heap, sizeof(struct pear)));" },
	{ true, "struct apple *got = fm_get(heap, h->a); (void)got;" },
	{ true, "fm_get(heap, h->p)->weight = 5;" },
	{ true, "if (h->a == h->a2 || !h->p) c = fm_get(heap, h->c);" },
	{ true, "const char *got = fm_get(heap, h->c); got = fm_get(heap, h->t); (void)got;" },
	{ true, "_Static_assert(sizeof(fm_ptr(struct apple)) == 8, \"8 bytes\");" },
	{ false, "h->a = h->p;" },
	{ false, "h->p = h->a;" },
	{ false, "h->c = h->p;" },
	{ false, "h->a = apple;" },
	{ false, "h->p = pear;" },
	{ false, "pear = h->p;" },
	{ false, "h->p = 8;" },
	{ false, "fm_set(heap, &h->a, pear);" },
	{ false, "fm_set(heap, &h->p, apple);" },
	{ false, "fm_set(heap, &h->c, (const char *)c);" },
	{ false, "fm_set(heap, &h->p, h->p2);" },
	{ false, "struct apple *got = fm_get(heap, h->p); (void)got;" },
	{ false, "char *got = fm_get(heap, h->t); (void)got;" },
	{ false, "h->p->weight = 5;" },
	{ false, "(*h->p).weight = 5;" },
	{ false, "int n = h->p; (void)n;" },
	{ false, "if (h->a == h->p) c = NULL;" },
	{ false, "fm_get(heap, h->a)->weight = 5;" },
};

static void wrong_types_do_not_compile(void **state)
{
	char include[4200], command[9000], name[4200];
	const char *cc = getenv("CC");

	(void)state;
	cc = cc && *cc ? cc : "cc";
	snprintf(command, sizeof command, "%s --version >/dev/null 2>&1", cc);
	if (!find_include(include, sizeof include) || system(command) != 0) {
		print_message("# no compiler or no include folder here\n");
		skip();
	}
	snprintf(name, sizeof name, "%s", path_of("snippet.c"));
	for (unsigned i = 0; i < sizeof snippets / sizeof snippets[0]; i++) {
		FILE *file = fopen(name, "w");
		int status;

		assert_non_null(file);
		fprintf(file, "%s%s\n}\n", snippet_start, snippets[i].line);
		assert_int_equal(fclose(file), 0);
		snprintf(command, sizeof command,
		         "%s -std=c11 -Wall -Wextra -Wconversion -Werror -fsyntax-only -I'%s' '%s' >'%s' 2>&1",
		         cc, include, name, path_of("messages"));
		status = system(command);
		assert_true(status != -1 && WIFEXITED(status));
		if ((WEXITSTATUS(status) == 0) != snippets[i].compiles)
			fail_msg("%s: %s", snippets[i].compiles ? "does not compile" : "compiles",
			         snippets[i].line);
	}
}

/* ---------------------------------------------------------------- roots */

static void roots_are_found_again(void **state)
{
	fm_heap *heap = create_heap();
	char longest[256], bytes[256];
	void *p = fm_malloc(heap, 100);

	(void)state;
	memset(longest, 'x', 255);
	longest[255] = 0;
	for (int i = 0; i < 255; i++)
		bytes[i] = (char)(i + 1);
	bytes[255] = 0;
	assert_int_equal(fm_root_set(heap, "a", p, 1), 0);
	assert_int_equal(fm_root_set(heap, longest, (char *)p + 50, UINT64_MAX), 0);
	assert_int_equal(fm_root_set(heap, bytes, NULL, 0), 0);
	assert_int_equal(fm_root_set(heap, "a ", (char *)heap->mem + PAGE_SIZE, 3), 0);
	for (unsigned round = 0; round < 2; round++) {
		p = fm_root_get(heap, "a", 1);
		assert_non_null(p);
		assert_ptr_equal(fm_root_get(heap, longest, UINT64_MAX), (char *)p + 50);
		errno = EAGAIN;
		assert_null(fm_root_get(heap, bytes, 0));
		assert_int_equal(errno, 0);
		assert_ptr_equal(fm_root_get(heap, "a ", 3), (char *)heap->mem + PAGE_SIZE);
		FAILS(fm_root_get(heap, "a", 2), NULL, EPROTOTYPE);
		FAILS(fm_root_get(heap, bytes, 1), NULL, EPROTOTYPE);
		FAILS(fm_root_get(heap, "A", 1), NULL, ENOENT);
		FAILS(fm_root_get(heap, "a  ", 3), NULL, ENOENT);
		heap = reopen(heap);
	}
	assert_int_equal(live_objects(heap), 1);
	close_checked(heap);
}

static void roots_are_replaced_and_removed(void **state)
{
	fm_heap *heap = create_heap();
	void *p = fm_malloc(heap, 10), *q = fm_malloc(heap, 10);

	(void)state;
	assert_int_equal(fm_root_set(heap, "it", p, 1), 0);
	assert_int_equal(fm_root_set(heap, "it", q, 1), 0);
	assert_ptr_equal(fm_root_get(heap, "it", 1), q);
	assert_int_equal(fm_root_set(heap, "it", p, 2), 0);
	assert_ptr_equal(fm_root_get(heap, "it", 2), p);
	FAILS(fm_root_get(heap, "it", 1), NULL, EPROTOTYPE);
	assert_int_equal(fm_root_remove(heap, "it"), 0);
	FAILS(fm_root_get(heap, "it", 2), NULL, ENOENT);
	FAILS(fm_root_remove(heap, "it"), -1, ENOENT);
	assert_true(fm_usable_size(p) >= 10 && fm_usable_size(q) >= 10); // the objects stay
	assert_int_equal(live_objects(heap), 2);
	assert_int_equal(fm_root_set(heap, "it", p, 1), 0);
	assert_int_equal(fm_free(p), 0); // an ordinary object
	assert_int_equal(fm_root_remove(heap, "it"), 0);
	heap = reopen(heap);
	FAILS(fm_root_get(heap, "it", 1), NULL, ENOENT);
	close_checked(heap);
}

struct seen_roots {
	unsigned count, stop_at;
	unsigned char seen[3000];
	fm_heap *heap;
};

static int see_root(const char *name, void *p, uint64_t tag, void *arg)
{
	struct seen_roots *seen = arg;
	unsigned n = (unsigned)strtoul(name + 5, NULL, 10);

	if (strncmp(name, "root ", 5) != 0 || n >= 3000 || tag != n * 7 ||
	    p != fm_at(seen->heap, n % 3 == 0 ? 0 : PAGE_SIZE + n) || seen->seen[n]++)
		return -77;
	return ++seen->count == seen->stop_at ? 5 : 0;
}

static void many_roots(void **state)
{
	fm_heap *heap = create_heap();
	struct seen_roots seen;
	char name[30];

	(void)state;
	for (unsigned i = 0; i < 3000; i++) {
		snprintf(name, sizeof name, "root %u", i);
		assert_int_equal(fm_root_set(heap, name, fm_at(heap, i % 3 == 0 ? 0 : PAGE_SIZE + i), i * 7), 0);
	}
	heap = reopen(heap);
	for (unsigned stop_at = 0; stop_at <= 3000; stop_at += 1500) {
		memset(&seen, 0, sizeof seen);
		seen.heap = heap;
		seen.stop_at = stop_at;
		assert_int_equal(fm_root_each(heap, see_root, &seen), stop_at ? 5 : 0);
		assert_int_equal(seen.count, stop_at ? stop_at : 3000);
	}
	for (unsigned i = 0; i < 3000; i += 2) {
		snprintf(name, sizeof name, "root %u", i);
		assert_int_equal(fm_root_remove(heap, name), 0);
	}
	memset(&seen, 0, sizeof seen);
	seen.heap = heap;
	assert_int_equal(fm_root_each(heap, see_root, &seen), 0);
	assert_int_equal(seen.count, 1500);
	for (unsigned i = 0; i < 3000; i++)
		assert_int_equal(seen.seen[i], i % 2);
	assert_int_equal(live_objects(heap), 0);
	close_checked(heap);
}

static void a_root_set_for_ever_costs_nothing(void **state)
{
	fm_heap *heap = create_heap();
	struct fm_statistics before = { .size = sizeof before }, after = { .size = sizeof after };
	void *p = fm_malloc(heap, 10);
	char name[30];

	(void)state;
	assert_int_equal(fm_root_set(heap, "it", p, 1), 0);
	assert_int_equal(fm_stats(heap, &before), 0);
	for (unsigned i = 0; i < 30000; i++) {
		assert_int_equal(fm_root_set(heap, "it", i % 2 ? p : NULL, i), 0);
		snprintf(name, sizeof name, "passing %u", i);
		assert_int_equal(fm_root_set(heap, name, p, i), 0);
		assert_int_equal(fm_root_remove(heap, name), 0);
	}
	assert_int_equal(fm_stats(heap, &after), 0);
	assert_true(after.file_size <= before.file_size + 512 * KIB);
	assert_int_equal(after.live_objects, before.live_objects);
	close_checked(heap);
}

static void *set_roots(void *arg)
{
	static unsigned numbers;
	unsigned self = __atomic_fetch_add(&numbers, 1, __ATOMIC_RELAXED);
	char name[30];

	for (unsigned i = 0; i < 2000; i++) {
		snprintf(name, sizeof name, "thread %u root %u", self, i % 50);
		if (fm_root_set(arg, name, fm_at(arg, PAGE_SIZE + i), self) != 0 ||
		    fm_root_get(arg, name, self) != fm_at(arg, PAGE_SIZE + i) ||
		    (i % 3 == 0 && fm_root_remove(arg, name) != 0))
			return arg;
	}
	return NULL;
}

static void roots_and_threads(void **state)
{
	fm_heap *heap = create_heap();
	pthread_t threads[4];
	void *result;

	(void)state;
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, set_roots, heap), 0);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(pthread_join(threads[i], &result), 0);
		assert_null(result);
	}
	close_checked(heap);
}

/* ---------------------------------------------------------------- looking into a heap */

static void statistics(void **state)
{
	struct fm_options options = { .size = sizeof options, .max_size = 256 * MIB };
	fm_heap *heap = open_or_fail(heap_path, FM_CREATE, &options);
	struct fm_statistics s = { .size = sizeof s };
	uint64_t bytes = 0, generation;
	struct stat st;

	(void)state;
	assert_int_equal(fm_stats(heap, &s), 0);
	assert_int_equal(s.size, sizeof s);
	assert_int_equal(s.live_objects + s.live_bytes + s.remote_frees, 0);
	generation = s.generation;
	for (unsigned i = 0; i < 100; i++)
		bytes += fm_usable_size(fm_malloc(heap, 50));
	for (unsigned i = 0; i < 3; i++)
		bytes += fm_usable_size(fm_malloc(heap, 1 * MIB));
	bytes += fm_usable_size(fm_malloc(heap, 20 * MIB));
	assert_int_equal(fm_root_set(heap, "not counted", NULL, 0), 0);
	assert_int_equal(fm_stats(heap, &s), 0);
	assert_int_equal(s.live_objects, 104);
	assert_int_equal(s.small_objects, 100);
	assert_int_equal(s.large_objects, 3);
	assert_int_equal(s.huge_objects, 1);
	assert_int_equal(s.live_bytes, bytes);
	assert_int_equal(s.max_size, 256 * MIB);
	assert_true(s.slab_bytes >= 5000 && s.slab_bytes % (64 * KIB) == 0);
	assert_true(s.address_space >= 256 * MIB);
	assert_int_equal(stat(heap_path, &st), 0);
	assert_int_equal(s.file_size, st.st_size);
	assert_int_equal(s.disk_size, st.st_blocks * 512);
	heap = reopen(heap);
	assert_int_equal(fm_stats(heap, &s), 0);
	assert_int_equal(s.generation, generation + 1);
	assert_int_equal(s.live_objects, 104);
	close_checked(heap);
}

static void a_shorter_struct_of_statistics(void **state)
{
	fm_heap *heap = create_heap();
	struct fm_statistics s;
	size_t len = offsetof(struct fm_statistics, live_bytes);

	(void)state;
	assert_non_null(fm_malloc(heap, 10));
	memset(&s, 0xee, sizeof s);
	s.size = len;
	assert_int_equal(fm_stats(heap, &s), 0);
	assert_int_equal(s.size, len);
	assert_int_equal(s.live_objects, 1);
	for (size_t i = len; i < sizeof s; i++)
		assert_int_equal(((unsigned char *)&s)[i], 0xee);
	close_checked(heap);
}

struct walk {
	const char *last;
	unsigned count, stop_at;
	bool frees;
};

static int walk_visit(void *p, size_t usable, void *arg)
{
	struct walk *w = arg;

	if ((const char *)p <= w->last || fm_usable_size(p) != usable || (w->frees && fm_free(p) != 0))
		return -77;
	w->last = p;
	return ++w->count == w->stop_at ? 9 : 0;
}

static void walks(void **state)
{
	fm_heap *heap = create_heap();
	struct walk whole = { 0 }, part = { .stop_at = 50 }, freeing = { .frees = true };
	struct walk none = { .stop_at = 1 };

	(void)state;
	for (unsigned i = 0; i < 3000; i++)
		assert_non_null(fm_malloc(heap, i % 700 ? i : i * 3000));
	assert_int_equal(fm_walk(heap, walk_visit, &whole), 0);
	assert_int_equal(whole.count, 3000);
	assert_int_equal(fm_walk(heap, walk_visit, &part), 9);
	assert_int_equal(part.count, 50);
	assert_int_equal(fm_walk(heap, walk_visit, &freeing), 0);
	assert_int_equal(freeing.count, 3000);
	assert_int_equal(fm_walk(heap, walk_visit, &none), 0);
	close_checked(heap);
}

static void count_finding(const struct fm_finding *finding, void *arg)
{
	if (finding->text && finding->text[0])
		++*(long *)arg;
}

/* Nonsense in the first unit of metadata (docs/format.md: unit 1) is found, and each finding told. */
static void spoil_and_check(void)
{
	fm_heap *heap = fm_open(heap_path, FM_CREATE, NULL);
	long findings, told = 0;

	NEED(heap);
	for (unsigned i = 0; i < 1000; i++)
		NEED(fm_malloc(heap, 100));
	NEED(fm_check(heap, count_finding, &told) == 0 && told == 0);
	memset((char *)heap->mem + 64 * KIB, 0xa5, 64 * KIB);
	findings = fm_check(heap, count_finding, &told);
	NEED(findings > 0);
	NEED(told == findings);
	NEED(fm_check(heap, NULL, NULL) == findings);
}

static void the_verifier_finds_damage(void **state)
{
	(void)state;
	in_child(spoil_and_check);
}

/* ---------------------------------------------------------------- errors */

static void *text_of_a_new_thread(void *arg)
{
	*(bool *)arg = fm_last_error()[0] == 0;
	return fm_malloc(NULL, 10); // fails, with a text in this thread
}

static void texts_belong_to_threads(void **state)
{
	bool empty = false;
	char before[400];
	pthread_t thread;

	(void)state;
	FAILS(fm_open(path_of("missing"), 0, NULL), NULL, ENOENT);
	snprintf(before, sizeof before, "%s", fm_last_error());
	assert_int_equal(pthread_create(&thread, NULL, text_of_a_new_thread, &empty), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(empty);
	assert_string_equal(fm_last_error(), before);
}

static void *no_failure_no_text(void *arg)
{
	fm_heap *heap;

	NEED(fm_last_error() && fm_last_error()[0] == 0);
	heap = fm_open(heap_path, FM_CREATE, NULL);
	NEED(heap && fm_free(fm_malloc(heap, 10)) == 0 && fm_close(heap) == 0);
	NEED(fm_last_error()[0] == 0);
	heap = fm_open(heap_path, 0, NULL);
	NEED(heap && fm_root_set(heap, "it", NULL, 0) == 0 && fm_close(heap) == 0);
	NEED(fm_last_error()[0] == 0);
	return arg;
}

static void nothing_fails(void)
{
	pthread_t thread;

	NEED(pthread_create(&thread, NULL, no_failure_no_text, NULL) == 0);
	NEED(pthread_join(thread, NULL) == 0);
}

static void nothing_failed_yet(void **state)
{
	(void)state;
	in_child(nothing_fails);
}

/* Calls that succeed print nothing and leave errno alone; calls that fail print nothing either. */
static void silent(void)
{
	int ends[2];
	char byte;
	fm_heap *heap;
	void *p;

	NEED(pipe(ends) == 0);
	NEED(dup2(ends[1], 1) == 1 && dup2(ends[1], 2) == 2);
	heap = fm_open(heap_path, FM_CREATE, NULL);
	NEED(heap && (p = fm_malloc(heap, 100)) && fm_free(p) == 0);
	NEED(fm_free(p) == -1 && !fm_malloc(heap, SIZE_MAX) && !fm_open(heap_path, 0, NULL));
	NEED(!fm_open(path_of("missing"), 0, NULL) && fm_check(heap, NULL, NULL) == 0);
	NEED(fm_close(heap) == 0);
	close(1);
	close(2);
	close(ends[1]);
	NEED(read(ends[0], &byte, 1) == 0);
}

static void the_library_prints_nothing(void **state)
{
	(void)state;
	in_child(silent);
}

/* ---------------------------------------------------------------- main */

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(a_missing_file_is_created),
		TEST(excl_refuses_what_exists),
		TEST(permissions_are_as_asked_for),
		TEST(a_file_of_zeros_becomes_a_heap),
		TEST(a_sparse_file_of_zeros_becomes_a_heap),
		TEST(foreign_files_are_refused),
		TEST(heaps_of_the_original_are_refused_by_name),
		TEST(what_open_refuses),
		TEST(no_descriptors_left),
		TEST(closed_standard_descriptors_stay_closed),
		TEST(no_descriptor_leaks),
		TEST(busy_in_the_same_process),
		TEST(busy_in_another_process),
		TEST(readers_beside_each_other),
		TEST(waiting_times_out),
		TEST(waiting_ends_when_it_is_free),
		TEST(waiting_is_interrupted),
		TEST(both_superblocks_damaged),
		TEST(a_file_cut_short),
		TEST(a_copy_made_while_in_use),
		TEST(a_process_that_ends_without_closing),
		TEST(a_normal_exit_leaves_it_clean),
		TEST(fork_and_the_lock),
		TEST(fixed_in_fresh_processes),
		TEST(the_fixed_place_is_taken),
		TEST(two_made_together_open_together),
		TEST(reading_only),
		TEST(reading_only_creates_nothing),
		TEST(a_heap_in_a_memfd),
		TEST(what_open_fd_refuses),
		TEST(closing_trims_the_file),
		TEST(a_closed_heap_is_gone),
		TEST(sync_any_time),
		TEST(the_application_page_is_kept),
		TEST(objects_stay),
		TEST(nodes_cost_what_they_measure),
		TEST(calloc_is_zero),
		TEST(realloc_keeps_contents),
		TEST(strings_are_copied),
		TEST(free_leaves_the_bytes),
		TEST(max_size_is_a_limit),
		TEST(address_space_is_a_limit),
		TEST(heap_of_an_address),
		TEST(without_a_heap_there_is_no_target),
		TEST(each_thread_has_its_target),
		TEST(the_original_interface),
		TEST(offsets_and_addresses),
		TEST(pointers_in_the_heap),
		TEST(wrong_types_do_not_compile),
		TEST(roots_are_found_again),
		TEST(roots_are_replaced_and_removed),
		TEST(many_roots),
		TEST(a_root_set_for_ever_costs_nothing),
		TEST(roots_and_threads),
		TEST(statistics),
		TEST(a_shorter_struct_of_statistics),
		TEST(walks),
		TEST(the_verifier_finds_damage),
		TEST(texts_belong_to_threads),
		TEST(nothing_failed_yet),
		TEST(the_library_prints_nothing),
	};

	if (argc == 4 && strcmp(argv[1], "--open-fixed") == 0)
		return open_fixed(argv[2], argv[3]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
