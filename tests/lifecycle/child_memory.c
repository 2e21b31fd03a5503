/* SPDX-License-Identifier: Apache-2.0
 *
 * fm_copy_fd, fm_child_reopen and fm_child_detach: a forked child with memory of its own. And heaps whose
 * descriptors the program has closed, and given to files of its own.
 */
#define _GNU_SOURCE 1
#include "../support/lifecycle_util.h"

#include <pthread.h>
#include <sys/syscall.h>

/* A file without a name beside the heap. */
static int new_file(void)
{
	char copy[PATH_MAX];
	int fd;

	proc_path(copy, dir, "copy");
	fd = open(copy, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	unlink(copy);
	return fd;
}

static void overwrite(fm_heap *heap, int byte)
{
	const uint64_t *offs = fm_root_get(heap, "objects", 1);

	proc_must(offs != NULL);
	for (unsigned i = 0; i < OBJECTS; i++)
		memset(fm_at(heap, offs[i]), byte, 10 + i * 7);
}

/* Allocate small, large and huge objects, store into all of each, free half. */
static void use(fm_heap *heap)
{
	for (size_t size = 1; size < 20000000; size = size * 2 + 1) {
		uint8_t *p = fm_malloc(heap, size), *q = fm_malloc(heap, size);

		proc_must(p && q);
		memset(p, 1, size);
		memset(q, 2, size);
		proc_must(p[0] == 1 && p[size - 1] == 1);
		proc_must(fm_free(p) == 0);
	}
	proc_must(proc_check(heap) == 0);
}

/* ---------------------------------------------------------------- a copy */

static int copy_fd;

/* The same handle and addresses, another file; the parent is going on. */
static int child_with_copy(void *arg)
{
	fm_heap *heap = arg;
	void *at = fm_root_get(heap, "objects", 1), *base = heap->mem;

	proc_must(at == NULL && errno == EPERM);
	proc_must(fm_child_reopen(heap, copy_fd) == 0);
	proc_must(heap->mem == base && fmalloc_get_target() == heap);
	shared->ready = 1;
	proc_must(proc_wait_flag(&shared->go, 1, 10000)); /* the parent has overwritten all */
	proc_must(is_complete(heap));
	use(heap);
	overwrite(heap, 0xc1);
	ffree(fmalloc(100));
	proc_must(fm_child_reopen(heap, copy_fd) == -1 && errno == EINVAL); /* it is this process's now */
	proc_must(fm_child_detach(heap) == -1 && errno == EINVAL);
	proc_must(fm_sync(heap) == 0 && fm_close(heap) == 0);
	/* the copy is a heap that was closed */
	heap = fm_open_fd(copy_fd, 0, NULL);
	proc_must(heap != NULL && proc_check(heap) == 0 && fm_root_get(heap, "objects", 1) != NULL);
	proc_must(fm_close(heap) == 0);
	return 0;
}

static void test_copy(void **state)
{
	fm_heap *heap = fm_open(path, 0, NULL);
	uint64_t *more;
	pid_t pid;

	(void)state;
	assert_non_null(heap);
	more = fm_malloc(heap, 5000000);
	assert_non_null(more);
	copy_fd = new_file();
	assert_true(copy_fd >= 0);
	assert_int_equal(fm_copy_fd(heap, copy_fd), 0);
	pid = proc_start(child_with_copy, heap, PROC_LIMIT_MS);
	assert_true(proc_wait_flag(&shared->ready, 1, 10000));
	use(heap);
	overwrite(heap, 0xaa);
	shared->go = 1;
	assert_int_equal(proc_end(pid), 0);
	assert_int_equal(proc_check(heap), 0);
	overwrite(heap, 0xbb);
	assert_int_equal(*(uint8_t *)fm_at(heap, *(uint64_t *)fm_root_get(heap, "objects", 1)), 0xbb);
	close(copy_fd);
	assert_int_equal(fm_close(heap), 0);
}

/* What was allocated, freed and stored after the copy is the parent's alone, even if the file has grown since. */
static int child_of_an_older_copy(void *arg)
{
	proc_must(fm_child_reopen(arg, copy_fd) == 0);
	proc_must(is_complete(arg));
	use(arg);
	return 0;
}

static void test_older_copy(void **state)
{
	fm_heap *heap = fm_open(path, 0, NULL);

	(void)state;
	copy_fd = new_file();
	assert_int_equal(fm_copy_fd(heap, copy_fd), 0);
	use(heap);
	overwrite(heap, 0xaa);
	assert_int_equal(proc_run(child_of_an_older_copy, heap), 0);
	close(copy_fd);
	assert_int_equal(fm_close(heap), 0);
}

static _Atomic bool stop;

static void *allocate_on(void *arg)
{
	void *mine[200] = {0};
	uint64_t random = 1;

	while (!stop) {
		uint64_t number = proc_rand(&random), i = number % 200;

		fm_free(mine[i]);
		mine[i] = fm_malloc(arg, number >> 20 & (number % 16 ? 0x3ff : 0x1fffff));
	}
	for (unsigned i = 0; i < 200; i++)
		fm_free(mine[i]);
	return NULL;
}

/* The copy is a valid heap whatever other threads are doing. */
static void test_copy_among_threads(void **state)
{
	fm_heap *heap = fm_open(path, 0, NULL);
	pthread_t thread[3];

	(void)state;
	stop = false;
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, allocate_on, heap), 0);
	for (unsigned i = 0; i < 30; i++) {
		copy_fd = new_file();
		assert_int_equal(fm_copy_fd(heap, copy_fd), 0);
		assert_int_equal(proc_run(child_of_an_older_copy, heap), 0);
		close(copy_fd);
	}
	stop = true;
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pthread_join(thread[i], NULL), 0);
	assert_int_equal(proc_check(heap), 0);
	assert_int_equal(fm_close(heap), 0);
}

static int wrong_files(void *arg)
{
	int empty = new_file(), foreign = open("/proc/self/exe", O_RDONLY), other_heap = open(other, O_RDWR);
	fm_heap *mine;

	proc_must(fm_child_reopen(arg, empty) == -1 && errno == EILSEQ && fm_last_error()[0]);
	proc_must(fm_child_reopen(arg, foreign) == -1);
	proc_must(fm_child_reopen(arg, other_heap) == -1 && errno == EILSEQ);
	proc_must(fm_child_reopen(arg, -1) == -1 && errno == EBADF);
	proc_must(fm_child_reopen(NULL, copy_fd) == -1 && errno == EINVAL);
	proc_must(fm_malloc(arg, 1) == NULL && errno == EPERM);
	mine = fm_open(third, FM_CREATE, NULL);
	proc_must(mine != NULL);
	proc_must(fm_child_reopen(mine, copy_fd) == -1 && errno == EINVAL);
	/* and then the right one */
	proc_must(fm_child_reopen(arg, copy_fd) == 0 && is_complete(arg));
	use(arg);
	use(mine);
	return 0;
}

static void test_wrong_files(void **state)
{
	fm_heap *heap = fm_open(path, 0, NULL), *reader;

	(void)state;
	assert_int_equal(make_heap(other), 0);
	copy_fd = new_file();
	assert_int_equal(fm_copy_fd(heap, copy_fd), 0);
	assert_int_equal(fm_child_reopen(heap, copy_fd), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(proc_run(wrong_files, heap), 0);
	close(copy_fd);
	assert_int_equal(fm_copy_fd(heap, copy_fd), -1);
	assert_int_equal(errno, EBADF);
	assert_int_equal(fm_copy_fd(NULL, 0), -1);
	assert_int_equal(errno, EINVAL);
	assert_true(is_complete(heap));
	assert_int_equal(fm_close(heap), 0);
	assert_int_equal(fm_copy_fd(heap, 0), -1);
	assert_int_equal(errno, EBADF);
	reader = fm_open(path, FM_RDONLY, NULL);
	copy_fd = new_file();
	assert_int_equal(fm_copy_fd(reader, copy_fd), -1);
	assert_int_equal(errno, EROFS);
	close(copy_fd);
	assert_int_equal(fm_close(reader), 0);
}

/* ---------------------------------------------------------------- detached */

static int detached_child(void *arg)
{
	fm_heap *heap = arg;
	uint8_t *p = fm_at(heap, shared->value[0]);

	proc_must(fm_usable_size(p) == 0 && errno == EPERM);
	proc_must(fm_child_detach(heap) == 0);
	proc_must(p[0] == 1 && p[999] == 1);
	memset(p, 2, 1000);
	proc_must(fm_usable_size(p) >= 1000);
	proc_must(fm_malloc(heap, 10) == NULL && errno == EPERM);
	proc_must(fm_free(p) == -1 && errno == EPERM);
	proc_must(fm_child_detach(heap) == -1 && errno == EINVAL);
	shared->ready = 1;
	proc_must(proc_wait_flag(&shared->go, 1, 10000)); /* the parent has stored 3 and freed it */
	proc_must(p[0] == 2 && p[999] == 2);
	proc_must(fm_usable_size(p) >= 1000);
	return 0;
}

static void detach(bool with_descriptors)
{
	fm_heap *heap = fm_open(path, 0, NULL);
	uint8_t *p;
	pid_t pid;

	assert_non_null(heap);
	p = fm_malloc(heap, 1000);
	assert_non_null(p);
	memset(p, 1, 1000);
	shared->value[0] = fm_offset_of(heap, p);
	if (!with_descriptors)
		close(heap->fd);
	pid = proc_start(detached_child, heap, PROC_LIMIT_MS);
	assert_true(proc_wait_flag(&shared->ready, 1, 10000));
	assert_int_equal(p[0], 1);
	memset(p, 3, 1000);
	assert_int_equal(fm_free(p), 0);
	shared->go = 1;
	assert_int_equal(proc_end(pid), 0);
	assert_int_equal(p[0], 3);
	assert_true(is_complete(heap));
	fm_close(heap);
}

static void test_detach(void **state)
{
	(void)state;
	detach(true);
}

static void test_detach_without_descriptors(void **state)
{
	(void)state;
	detach(false);
}

/* ---------------------------------------------------------------- descriptors */

/* A file of the user's at each number that the heap had: it is never written to, cut or synced in the heap's name. */
static void test_reused_descriptors(void **state)
{
	static const char text[] = "somebody else's";
	fm_heap *heap = fm_open(path, 0, NULL);
	int high = heap->fd + 4;
	struct stat before_stat, after;
	char *big;

	(void)state;
	assert_int_equal(stat(path, &before_stat), 0);
	for (int fd = heap->fd - 4; fd < high; fd++) {
		struct stat st;
		int mine;

		if (fstat(fd, &st) || st.st_ino != before_stat.st_ino)
			continue;
		mine = new_file();
		assert_int_equal(pwrite(mine, text, sizeof(text), 0), sizeof(text));
		assert_int_equal(dup2(mine, fd), fd);
		close(mine);
	}
	/* the file can't become longer without one; what it has can be used */
	assert_non_null(fm_malloc(heap, 100));
	assert_null(fm_malloc(heap, 100000000));
	assert_int_equal(errno, ENOMEM);
	assert_true(is_complete(heap));
	assert_int_equal(fm_sync(heap), -1);
	assert_int_equal(errno, EBADF);
	assert_int_equal(fm_close(heap), -1);
	for (int fd = high - 8; fd < high; fd++) {
		char back[sizeof(text) + 1];
		struct stat st;

		if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_nlink)
			continue;
		assert_int_equal(st.st_size, sizeof(text));
		assert_int_equal(pread(fd, back, sizeof(back), 0), sizeof(text));
		assert_string_equal(back, text);
		shared->count++;
		close(fd);
	}
	assert_int_equal(shared->count, 2);
	/* the lock went with its descriptor; the heap is as after a kill */
	heap = fm_open(path, 0, NULL);
	assert_non_null(heap);
	assert_true(is_complete(heap));
	/* a file that is long enough grows through the mapping */
	assert_int_equal(ftruncate(heap->fd, 200 << 20), 0);
	close(heap->fd);
	big = fm_malloc(heap, 30000000);
	assert_non_null(big);
	memset(big, 1, 30000000);
	assert_int_equal(proc_check(heap), 0);
	assert_int_equal(fm_close(heap), -1);
	assert_int_equal(stat(path, &after), 0);
	assert_true(after.st_blocks * 512 >= 30000000);
}

/* ---------------------------------------------------------------- no sync */

static void test_no_sync(void **state)
{
	struct fm_options options = {SIZE_OPTIONS, .disable = FM_NO_SYNC};
	fm_heap *heap = fm_open(other, FM_CREATE, &options);

	(void)state;
	assert_non_null(heap);
	use(heap);
	assert_int_equal(fm_sync(heap), 0);
	assert_int_equal(fm_close(heap), 0);
	/* as after a kill: good on this boot, unclean for a copy of it */
	assert_int_equal(try_open(other, 0), 0);
	heap = fm_open(other, 0, &options);
	assert_non_null(heap);
	assert_int_equal(fm_close(heap), 0);
	unlink(third);
	assert_int_equal(proc_copy(other, third, false), 0);
	assert_int_equal(try_open(third, 0), EUCLEAN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_copy), TEST(test_older_copy), TEST(test_copy_among_threads), TEST(test_wrong_files),
		TEST(test_detach), TEST(test_detach_without_descriptors), TEST(test_reused_descriptors), TEST(test_no_sync),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
