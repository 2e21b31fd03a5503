/* SPDX-License-Identifier: Apache-2.0
 *
 * Where and how a heap is mapped: fixed addresses, reading only, descriptors instead of paths; syncing
 * and closing; where threads allocate.
 */
#include "../support/api_util.h"

#include <pthread.h>

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

/* A page of somebody else's right behind the place, or right before it, takes nothing of it. */
static void neighbours_take_nothing(void **state)
{
	struct fm_options options = { .size = sizeof options, .address_space = 4 * MIB };
	unsigned flags[] = { 0, FM_ATOMIC };

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		const char *path = path_of(i ? "atomic.fm" : "live.fm");
		fm_heap *heap = open_or_fail(path, FM_CREATE | flags[i], &options);
		struct fm_statistics stats = { .size = sizeof stats };
		char *home = heap->mem, *before, *behind;

		assert_int_equal(fm_stats(heap, &stats), 0);
		close_checked(heap);
		before = mmap(home - 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		behind = mmap(home + stats.address_space, 4096, PROT_READ,
		              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		assert_ptr_equal(before, home - 4096);
		assert_ptr_equal(behind, home + stats.address_space);
		heap = open_or_fail(path, FM_FIXED | flags[i], &options);
		assert_ptr_equal(heap->mem, home);
		close_checked(heap);
		munmap(before, 4096);
		munmap(behind, 4096);
	}
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

/* ---------------------------------------------------------------- any address */

/* Where the heap lies when nothing is in its way, it does not lie when something is: a page of somebody else's, which
 * stays as it was. */
static void the_usual_place_is_taken(void **state)
{
	fm_heap *heap = create_heap();
	struct fm_statistics stats = { .size = sizeof stats };
	char *usual, *taken;

	(void)state;
	close_checked(heap);
	heap = open_or_fail(heap_path, 0, NULL);
	usual = heap->mem;
	close_checked(heap);
	taken = mmap(usual, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	assert_ptr_equal(taken, usual);
	*taken = 'x';
	heap = open_or_fail(heap_path, 0, NULL);
	assert_int_equal((uintptr_t)heap->mem % (4 * MIB), 0);
	assert_int_equal(fm_stats(heap, &stats), 0);
	assert_true(taken < (char *)heap->mem || taken >= (char *)heap->mem + stats.address_space);
	assert_non_null(fm_malloc(heap, 100));
	assert_int_equal(*taken, 'x');
	close_checked(heap);
	munmap(taken, 4096);
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

/* ---------------------------------------------------------------- threads side by side */

#define LANE    (512 * 1024) /* of LANE_UNITS units */
#define LANES   64
#define BY_TURN 700 /* objects of 1 KiB: more than a lane has */

struct side {
	fm_heap *heap;
	pthread_barrier_t *turn;
	unsigned who;
	unsigned char in_lane[LANES]; /* it has an object there */
};

static void *allocate_by_turns(void *arg)
{
	struct side *side = arg;

	for (unsigned i = 0; i < 2 * BY_TURN; i++) {
		if (i % 2 == side->who) {
			char *p = fm_malloc(side->heap, 1024);

			NEED(p && (size_t)(p - (char *)side->heap->mem) / LANE < LANES);
			side->in_lane[(p - (char *)side->heap->mem) / LANE] = 1;
		}
		pthread_barrier_wait(side->turn);
	}
	return NULL;
}

static void threads_allocate_apart(void **state)
{
	fm_heap *heap = create_heap();
	pthread_barrier_t turn;
	struct side sides[2];
	pthread_t threads[2];
	unsigned lanes[2] = { 0 };

	(void)state;
	assert_int_equal(pthread_barrier_init(&turn, NULL, 2), 0);
	for (unsigned i = 0; i < 2; i++) {
		sides[i] = (struct side){ .heap = heap, .turn = &turn, .who = i };
		assert_int_equal(pthread_create(&threads[i], NULL, allocate_by_turns, &sides[i]), 0);
	}
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	for (unsigned l = 0; l < LANES; l++) {
		assert_false(sides[0].in_lane[l] && sides[1].in_lane[l]);
		lanes[0] += sides[0].in_lane[l];
		lanes[1] += sides[1].in_lane[l];
	}
	// nobody took more than they filled
	assert_in_range(lanes[0], 2, 3);
	assert_in_range(lanes[1], 2, 3);
	pthread_barrier_destroy(&turn);
	close_checked(heap);
}

/* ---------------------------------------------------------------- main */

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		API_TEST(fixed_in_fresh_processes),
		API_TEST(the_fixed_place_is_taken),
		API_TEST(neighbours_take_nothing),
		API_TEST(two_made_together_open_together),
		API_TEST(the_usual_place_is_taken),
		API_TEST(reading_only),
		API_TEST(reading_only_creates_nothing),
		API_TEST(a_heap_in_a_memfd),
		API_TEST(what_open_fd_refuses),
		API_TEST(closing_trims_the_file),
		API_TEST(a_closed_heap_is_gone),
		API_TEST(sync_any_time),
		API_TEST(the_application_page_is_kept),
		API_TEST(threads_allocate_apart),
	};

	if (argc == 4 && strcmp(argv[1], "--open-fixed") == 0)
		return open_fixed(argv[2], argv[3]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
