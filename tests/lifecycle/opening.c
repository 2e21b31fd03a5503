/* SPDX-License-Identifier: Apache-2.0
 *
 * A heap opened twice, by processes and by readers; read-only files; what is no file; descriptors 0 to 2
 * closed, and none left.
 */
#define _GNU_SOURCE 1
#include "../support/lifecycle_util.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define NOBODY 65534

/* ---------------------------------------------------------------- opened twice */

static void test_twice_in_process(void **state)
{
	fm_heap *heap = fm_open(path, 0, NULL);
	int fd;

	(void)state;
	assert_non_null(heap);
	assert_int_equal(try_open(path, 0), EBUSY);
	assert_int_equal(try_open(path, FM_CREATE), EBUSY);
	assert_int_equal(try_open(path, FM_RDONLY), EBUSY);
	assert_int_equal(symlink(path, other), 0);
	assert_int_equal(try_open(other, 0), EBUSY);
	assert_int_equal(link(path, third), 0);
	assert_int_equal(try_open(third, 0), EBUSY);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_null(fm_open_fd(fd, 0, NULL));
	assert_int_equal(errno, EBUSY);
	close(fd);
	assert_true(is_complete(heap));
	assert_int_equal(fm_close(heap), 0);
	assert_int_equal(try_open(third, 0), 0);
}

static void test_twice_by_processes(void **state)
{
	pid_t holder;

	(void)state;
	assert_int_equal(symlink(path, other), 0);
	assert_int_equal(link(path, third), 0);
	holder = start_holder(path, 0);
	assert_int_equal(try_open(path, 0), EBUSY);
	assert_int_equal(try_open(path, FM_RDONLY), EBUSY);
	assert_int_equal(try_open(path, FM_CREATE | FM_EXCL), EEXIST);
	assert_int_equal(try_open(other, 0), EBUSY);
	assert_int_equal(try_open(third, 0), EBUSY);
	assert_int_equal(end_holder(holder), 0);
	assert_int_equal(try_open(other, 0), 0);
	assert_int_equal(try_open(third, 0), 0);
}

static void test_readers(void **state)
{
	pid_t first = start_holder(path, FM_RDONLY), second;
	fm_heap *heap;

	(void)state;
	second = start_holder(path, FM_RDONLY);
	heap = fm_open(path, FM_RDONLY, NULL);
	assert_non_null(heap);
	assert_true(is_complete(heap));
	assert_int_equal(try_open_elsewhere(path, 0), EBUSY);
	assert_int_equal(fm_close(heap), 0);
	assert_int_equal(try_open(path, 0), EBUSY);
	shared->go = 1;
	assert_int_equal(proc_end(first), 0);
	assert_int_equal(proc_end(second), 0);
	assert_int_equal(try_open(path, 0), 0);
}

/* A killed reader leaves nothing behind either. */
static void test_reader_killed(void **state)
{
	pid_t reader = start_holder(path, FM_RDONLY);

	(void)state;
	assert_int_equal(proc_kill(reader), -SIGKILL);
	assert_int_equal(try_open(path, 0), 0);
}

static void test_not_files(void **state)
{
	(void)state;
	assert_true(try_open(dir, 0) > 0);
	assert_true(try_open(dir, FM_CREATE) > 0);
	assert_int_equal(mkfifo(other, 0600), 0);
	assert_true(try_open(other, FM_CREATE) > 0);
	assert_true(try_open(other, FM_RDONLY) > 0);
	assert_true(try_open("/dev/null", FM_CREATE) > 0);
	assert_true(try_open("/dev/zero", FM_CREATE) > 0);
	assert_int_equal(symlink("nowhere/at/all", third), 0);
	assert_int_equal(try_open(third, 0), ENOENT);
}

/* ---------------------------------------------------------------- reading only */

static int use_read_only_file(void *arg)
{
	fm_heap *heap;
	void *objects;

	(void)arg;
	if (geteuid() == 0)
		proc_must(setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0);
	proc_must(fm_open(path, 0, NULL) == NULL);
	proc_must(errno == EACCES);
	proc_must(fm_last_error()[0] != '\0');
	heap = fm_open(path, FM_RDONLY, NULL);
	proc_must(heap != NULL);
	proc_must(is_complete(heap));
	objects = fm_root_get(heap, "objects", 1);
	proc_must(fm_malloc(heap, 10) == NULL && errno == EROFS);
	proc_must(fm_calloc(heap, 1, 10) == NULL && errno == EROFS);
	proc_must(fm_realloc(heap, objects, 10) == NULL && errno == EROFS);
	proc_must(fm_free(objects) == -1 && errno == EROFS);
	proc_must(fm_root_set(heap, "x", NULL, 1) == -1 && errno == EROFS);
	proc_must(fm_root_remove(heap, "objects") == -1 && errno == EROFS);
	proc_must(fm_usable_size(objects) >= OBJECTS * 8);
	proc_must(is_complete(heap));
	proc_must(fm_close(heap) == 0);
	return 0;
}

static void test_read_only_file(void **state)
{
	struct stat st, last;

	(void)state;
	assert_int_equal(proc_copy(path, other, false), 0);
	assert_int_equal(chmod(path, 0444), 0);
	assert_int_equal(chmod(dir, 0755), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(proc_run(use_read_only_file, NULL), 0);
	assert_int_equal(chmod(dir, 0700), 0);
	assert_int_equal(stat(path, &last), 0);
	assert_memory_equal(&st.st_mtim, &last.st_mtim, sizeof(st.st_mtim));
	assert_true(proc_same_file(path, other));
}

static int store_into_read_only(void *arg)
{
	fm_heap *heap = fm_open(path, FM_RDONLY, NULL);

	(void)arg;
	proc_must(heap != NULL);
	((volatile char *)heap->mem)[PAGE_SIZE] = 1;
	return 0;
}

/* A store into a heap opened for reading is stopped by the processor, not by luck. */
static void test_read_only_store(void **state)
{
	(void)state;
	assert_int_equal(proc_run(store_into_read_only, NULL), -SIGSEGV);
	assert_int_equal(try_open(path, 0), 0);
}

/* ---------------------------------------------------------------- descriptors */

static bool is_closed(int fd)
{
	return fcntl(fd, F_GETFD) == -1 && errno == EBADF;
}

static bool low_are_closed(void)
{
	return is_closed(0) && is_closed(1) && is_closed(2);
}

/* Runs without descriptors 0 to 2; returns the number of the check that failed. */
static int use_without_low_fds(void *arg)
{
	fm_heap *heap;

	(void)arg;
	close(0);
	close(1);
	close(2);
	heap = fm_open(path, 0, NULL);
	if (!heap || heap->fd < 3 || !low_are_closed())
		return 1;
	if (!(fcntl(heap->fd, F_GETFD) & FD_CLOEXEC))
		return 2;
	for (int i = 0; i < 20; i++)
		if (!fm_malloc(heap, 1 << 20) || !fm_malloc(heap, 50))
			return 3;
	if (!low_are_closed() || fm_sync(heap) != 0 || fm_check(heap, NULL, NULL) != 0)
		return 4;
	if (fm_close(heap) != 0 || !low_are_closed())
		return 5;
	heap = fm_open(other, FM_CREATE, NULL);
	if (!heap || heap->fd < 3 || !low_are_closed() || fm_close(heap) != 0)
		return 6;
	heap = fm_open(path, FM_RDONLY, NULL);
	if (!heap || heap->fd < 3 || !low_are_closed() || fm_close(heap) != 0)
		return 7;
	return low_are_closed() ? 0 : 8;
}

static void test_low_descriptors(void **state)
{
	(void)state;
	assert_int_equal(proc_run(use_without_low_fds, NULL), 0);
	assert_int_equal(try_open(path, 0), 0);
	assert_int_equal(try_open(other, 0), 0);
}

static int use_without_descriptors(void *arg)
{
	struct rlimit limit;
	int last = -1, fd;
	fm_heap *heap;

	(void)arg;
	proc_must(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	limit.rlim_cur = 64;
	proc_must(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	while ((fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
		last = fd;
	proc_must(fm_open(path, 0, NULL) == NULL && errno == EMFILE);
	proc_must(fm_open(other, FM_CREATE, NULL) == NULL && errno == EMFILE);
	for (fd = last - 15; fd <= last; fd++)
		close(fd);
	heap = fm_open(path, 0, NULL);
	proc_must(heap != NULL);
	while (open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0)
		;
	proc_must(fm_malloc(heap, 9 << 20) != NULL);
	proc_must(is_complete(heap));
	proc_must(fm_close(heap) == 0);
	return 0;
}

static void test_no_descriptors(void **state)
{
	(void)state;
	assert_int_equal(proc_run(use_without_descriptors, NULL), 0);
	assert_int_equal(access(other, F_OK), -1);
	assert_int_equal(try_open(path, 0), 0);
}

/* ---------------------------------------------------------------- threads with little stack */

#define SMALL_STACK 32768

static void *use_everything(void *unused)
{
	fm_heap *heap = fm_open(path, FM_CREATE, NULL);
	struct fm_statistics stats = { .size = sizeof(stats) };
	void *p;

	(void)unused;
	proc_must(heap != NULL); /* the file is long, and all zero */
	p = fm_malloc(heap, 100);
	proc_must(p != NULL && fm_root_set(heap, "one", p, 1) == 0);
	proc_must(fm_malloc(heap, 9 << 20) != NULL);
	proc_must(fm_stats(heap, &stats) == 0);
	proc_must(fm_check(heap, NULL, NULL) == 0);
	proc_must(fm_sync(heap) == 0 && fm_trim(heap, 0) >= 0);
	proc_must(fm_close(heap) == 0);
	proc_must(try_open(path, FM_RECOVER) == 0);
	proc_must(try_open(path, FM_ATOMIC | FM_CONVERT) == 0);
	for (unsigned i = 0; i < 2; i++) {
		heap = fm_open(other, FM_CREATE | FM_ATOMIC | (i ? FM_DECLARED : 0), NULL);
		proc_must(heap != NULL);
		p = fm_calloc(heap, 1, 1 << 20);
		proc_must(p != NULL && fm_root_set(heap, "two", p, 1) == 0);
		proc_must(fm_commit(heap) == 0);
		proc_must(fm_will_write(heap, p, 1 << 20) == 0);
		memset(p, 1, 1 << 20);
		proc_must(fm_rollback(heap) == 0);
		proc_must(fm_snapshot(heap, third) == 0);
		proc_must(fm_check(heap, NULL, NULL) == 0);
		proc_must(fm_close(heap) == 0);
		proc_must(try_open(third, FM_ATOMIC | FM_RDONLY) == 0);
		proc_must(unlink(third) == 0);
	}
	return NULL;
}

static int use_in_small_thread(void *unused)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), len = 64 * page + SMALL_STACK;
	uint8_t *memory = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_attr_t attributes;
	pthread_t thread;
	void *result;

	(void)unused;
	proc_must(memory != MAP_FAILED);
	/* what is written to far below the stack is as wrong as what meets a guard page */
	memset(memory, 0x5a, 64 * page);
	proc_must(pthread_attr_init(&attributes) == 0);
	proc_must(pthread_attr_setstack(&attributes, memory + 64 * page, SMALL_STACK) == 0);
	proc_must(pthread_create(&thread, &attributes, use_everything, NULL) == 0);
	proc_must(pthread_join(thread, &result) == 0);
	for (size_t i = 0; i < 64 * page; i++)
		proc_must(memory[i] == 0x5a);
	return 0;
}

static void test_small_stack(void **state)
{
	int fd;

	(void)state;
	if (PROC_SANITIZED)
		skip();
	unlink(path);
	fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	/* a block of zeros, not a hole alone */
	assert_int_equal(pwrite(fd, "", 1, 0), 1);
	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	assert_int_equal(close(fd), 0);
	assert_int_equal(proc_run(use_in_small_thread, NULL), 0);
}

/* ---------------------------------------------------------------- the boot's id, in new programs */

/* Leaves so many descriptors free, opens the heap, and is killed. Exit code: errno. */
static int be_killed_with_few(const char *where, unsigned n)
{
	struct rlimit limit;
	int fd, last = -1;
	fm_heap *heap;

	proc_must(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	limit.rlim_cur = 64;
	proc_must(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	while ((fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
		last = fd;
	while (n--)
		close(last--);
	heap = fm_open(where, 0, NULL);
	if (!heap)
		return errno;
	proc_must(fm_malloc(heap, 100) != NULL);
	kill(getpid(), SIGKILL);
	return 0;
}

/* A kill is a kill, however few descriptors those have who open the heap before and after it. */
static void test_killed_with_few_descriptors(void **state)
{
	unsigned opened = 0;
	char command[20];

	(void)state;
	for (unsigned round = 0; round < 2; round++) /* of a clean heap, of a killed one */
		for (unsigned n = 0; n < 8; n++) {
			int r;

			if (round == 0)
				assert_int_equal(try_open(path, 0), 0);
			snprintf(command, sizeof(command), "few-%u", n);
			r = start_self(command, path);
			opened += r == -SIGKILL;
			if (r != -SIGKILL)
				assert_int_equal(r, EMFILE);
			if (round == 0)
				assert_int_equal(try_open(path, 0), 0);
		}
	assert_true(opened >= 8);
	assert_int_equal(try_open(path, 0), 0);
}

/* Where /proc is missing nothing is begun that a kill would end in EUCLEAN; what is clean can be read. */
static int open_jailed(const char *where)
{
	char jail[PATH_MAX];
	const char *name = strrchr(where, '/');

	proc_must(snprintf(jail, sizeof(jail), "%.*s", (int)(name - where), where) < PATH_MAX);
	proc_must(chroot(jail) == 0 && chdir("/") == 0);
	proc_must(try_open(name, FM_RDONLY) == 0);
	proc_must(try_open(name, 0) == ENOSYS);
	proc_must(try_open("/new", FM_CREATE) == ENOSYS);
	proc_must(access("/new", F_OK) != 0);
	return 0;
}

/* The id is known from an opening before: /proc is needed no longer, to open a killed heap either. */
static int enter_jail_opened(const char *where)
{
	char jail[PATH_MAX];
	const char *name = strrchr(where, '/');
	fm_heap *heap = fm_open(where, 0, NULL);

	proc_must(heap != NULL && fm_close(heap) == 0);
	proc_must(snprintf(jail, sizeof(jail), "%.*s", (int)(name - where), where) < PATH_MAX);
	proc_must(chroot(jail) == 0 && chdir("/") == 0);
	heap = fm_open(name, 0, NULL);
	proc_must(heap != NULL && fm_malloc(heap, 100) != NULL);
	kill(getpid(), SIGKILL);
	return 0;
}

static void test_without_proc(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	assert_int_equal(start_self("jailed", path), 0);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(start_self("opened-jailed", path), -SIGKILL);
	assert_int_equal(try_open(path, 0), 0);
}

/* A descriptor is no permission, and no /proc: its file is opened anew, or two who have it would share the lock. */
static int open_descriptor(void *arg)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	const char *how = arg;
	fm_heap *heap;

	proc_must(fd >= 0);
	proc_must(try_open(path, 0) == 0);
	if (*how == 'j')
		proc_must(chroot(dir) == 0 && chdir("/") == 0);
	else
		proc_must(setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
	heap = fm_open_fd(fd, 0, NULL);
	if (!heap) {
		proc_must(strstr(fm_last_error(), "/proc/self/fd") != NULL);
		return errno;
	}
	proc_must(fm_open_fd(fd, 0, NULL) == NULL && errno == EBUSY);
	proc_must(fm_close(heap) == 0);
	return 0;
}

static void test_passed_descriptor(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	assert_int_equal(proc_run(open_descriptor, "jail"), ENOENT);
	assert_int_equal(proc_run(open_descriptor, "nobody"), EACCES);
	assert_int_equal(chmod(path, 0666), 0);
	assert_int_equal(proc_run(open_descriptor, "nobody"), 0);
	assert_int_equal(try_open(path, 0), 0);
}

static int run_command(const char *command, const char *where)
{
	alarm(60);
	if (strncmp(command, "few-", 4) == 0)
		return be_killed_with_few(where, (unsigned)atoi(command + 4));
	return strcmp(command, "jailed") == 0 ? open_jailed(where) : enter_jail_opened(where);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(test_twice_in_process),
		TEST(test_twice_by_processes),
		TEST(test_readers),
		TEST(test_reader_killed),
		TEST(test_not_files),
		TEST(test_read_only_file),
		TEST(test_read_only_store),
		TEST(test_low_descriptors),
		TEST(test_no_descriptors),
		TEST(test_small_stack),
		TEST(test_killed_with_few_descriptors),
		TEST(test_without_proc),
		TEST(test_passed_descriptor),
	};

	if (argc == 3)
		return run_command(argv[1], argv[2]);
	return cmocka_run_group_tests_name("opening", tests, setup, teardown);
}
