/* SPDX-License-Identifier: Apache-2.0
 *
 * What was found where a heap meets threads, signals, forks and unloading, each kept as a case:
 *
 *   - a thread that ended beside fm_close touched the heap that was gone;
 *   - a thread cancelled inside fm_malloc kept the heap's lock for ever;
 *   - a visitor of fm_root_each that asked for a root hung;
 *   - in a folder that can't be read, a heap was created and then reported as failed;
 *   - a thread that ended after dlclose ran code that was gone;
 *   - exit() in a signal handler that had interrupted fm_malloc hung;
 *   - a child forked while another thread reported a misuse hung at its first call;
 *   - a child forked beside fm_close kept the closed heap's lock: EBUSY;
 *   - a thread whose objects all were freed by another kept an empty slab twice, and hung;
 *   - an offset or pointer of what another thread was just freeing and allocating anew ended in a division by zero, or
 *     in 256 GiB that were said to lie in one object;
 *   - an idle thread held up frees in slabs that another one had made of its units;
 *   - a busy thread that always found slots of its own never took back what others had freed.
 *
 * Each case runs in a child with a time limit: a crash or a hang is a failure.
 *
 *   FM_SCALE    per cent of the default number of rounds
 *   FM_LIBRARY  the shared library to load (libfmalloc.so of this build)
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include <dlfcn.h>
#include <grp.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/prctl.h>

#define LIMIT_MS (PROC_SANITIZED ? 60000u : 20000u)
#define NOT_HERE 77 /* exit code of a child: the case can't be made here */
#define SIZE_OPTIONS .size = sizeof(struct fm_options)

static char *dir;
static char path[PATH_MAX];

static int before(void **state)
{
	(void)state;
	unlink(path);
	return 0;
}

static int setup(void **state)
{
	(void)state;
	dir = proc_dir_make();
	proc_path(path, dir, "heap");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	proc_dir_remove(dir);
	return 0;
}

static void passes(int (*run)(void *), const char *why_not)
{
	int r = proc_end(proc_start(run, NULL, LIMIT_MS));

	if (r == NOT_HERE) {
		print_message("# %s\n", why_not);
		skip();
	}
	assert_int_equal(r, 0);
}

static unsigned rounds(unsigned n)
{
	uint64_t scaled = n * proc_env("FM_SCALE", 100) / 100;

	return scaled ? (unsigned)scaled : 1;
}

static fm_heap *make_heap(void)
{
	fm_heap *heap = fm_open(path, FM_CREATE | FM_EXCL, NULL);

	proc_must(heap != NULL);
	return heap;
}

static void close_checked(fm_heap *heap)
{
	proc_must(proc_check(heap) == 0);
	proc_must(fm_close(heap) == 0);
}

/* ---------------------------------------------------------------- threads that end beside fm_close */

#define ENDING 4

static fm_heap *heap_of_threads;
static sem_t finished;

/* Has done all it wanted with the heap when it says so; what is left is its end. */
static void *use_and_end(void *arg)
{
	for (size_t i = 0; i < 50; i++)
		fm_free(fm_malloc(heap_of_threads, 24 + 8 * i));
	sem_post(&finished);
	return arg;
}

static int close_beside_ends(void *arg)
{
	unsigned n = rounds(1500);

	sem_init(&finished, 0, 0);
	for (unsigned round = 0; round < n; round++) {
		pthread_t thread[ENDING];
		int fd = memfd_create("heap", MFD_CLOEXEC);

		proc_must(fd >= 0);
		heap_of_threads = fm_open_fd(fd, FM_CREATE, NULL);
		proc_must(heap_of_threads != NULL);
		for (int i = 0; i < ENDING; i++)
			proc_must(pthread_create(&thread[i], NULL, use_and_end, arg) == 0);
		for (int i = 0; i < ENDING; i++)
			while (sem_wait(&finished) != 0)
				;
		proc_must(fm_close(heap_of_threads) == 0);
		for (int i = 0; i < ENDING; i++)
			proc_must(pthread_join(thread[i], NULL) == 0);
		close(fd);
	}
	return 0;
}

static void test_close_beside_ends(void **state)
{
	(void)state;
	passes(close_beside_ends, "");
}

/* ---------------------------------------------------------------- cancelled threads */

/* Takes and gives back, so that the file grows; what it holds at its end is lost. */
static void *grow_until_cancelled(void *arg)
{
	fm_heap *heap = arg;
	void *kept[64] = { NULL };

	for (unsigned i = 0;; i++) {
		proc_must(fm_free(kept[i % 64]) == 0);
		kept[i % 64] = fm_malloc(heap, 200000 + 100000 * (i % 50));
		pthread_testcancel();
	}
	return NULL;
}

static int cancelled(void *arg)
{
	struct fm_options options = { SIZE_OPTIONS, .max_size = UINT64_C(1) << 30 };
	unsigned n = rounds(50);

	(void)arg;
	for (unsigned round = 0; round < n; round++) {
		int fd = memfd_create("heap", MFD_CLOEXEC);
		fm_heap *heap = fm_open_fd(fd, FM_CREATE, &options);
		pthread_t thread;
		void *result;

		proc_must(heap != NULL);
		proc_must(pthread_create(&thread, NULL, grow_until_cancelled, heap) == 0);
		proc_sleep_us(500 + 74 * round);
		proc_must(pthread_cancel(thread) == 0);
		proc_must(pthread_join(thread, &result) == 0);
		proc_must(result == PTHREAD_CANCELED);
		proc_must(fm_malloc(heap, 24) != NULL);
		proc_must(fm_malloc(heap, 9 << 20) != NULL);
		close_checked(heap);
		close(fd);
	}
	return 0;
}

static void test_cancelled(void **state)
{
	(void)state;
	passes(cancelled, "");
}

/* ---------------------------------------------------------------- calls from a visitor of roots */

struct visits {
	fm_heap *heap;
	unsigned count;
};

static int look_around(const char *name, void *p, uint64_t type_tag, void *arg)
{
	struct visits *visits = arg;
	struct fm_statistics stats = { .size = sizeof(stats) };

	proc_must(fm_root_get(visits->heap, name, type_tag) == p);
	proc_must(proc_count_objects(visits->heap) == 3);
	proc_must(fm_stats(visits->heap, &stats) == 0);
	proc_must(stats.live_objects >= 3);
	visits->count++;
	return 0;
}

static int visitor_calls(void *arg)
{
	static const char *const names[] = { "one", "two", "three" };
	struct visits visits = { make_heap(), 0 };

	(void)arg;
	for (unsigned i = 0; i < 3; i++)
		proc_must(fm_root_set(visits.heap, names[i], fm_malloc(visits.heap, 100), i) == 0);
	proc_must(fm_root_each(visits.heap, look_around, &visits) == 0);
	proc_must(visits.count == 3);
	close_checked(visits.heap);
	return 0;
}

static void test_visitor_calls(void **state)
{
	(void)state;
	passes(visitor_calls, "");
}

/* ---------------------------------------------------------------- a folder that can't be read */

static int create_unread(void *arg)
{
	char folder[PATH_MAX], name[PATH_MAX];
	bool init = false;
	struct fm_info *heap;
	struct stat st;

	(void)arg;
	proc_path(folder, dir, "unreadable");
	proc_path(name, folder, "heap");
	umask(0);
	proc_must(mkdir(folder, 0333) == 0 && chmod(dir, 0711) == 0);
	if (geteuid() == 0 && (setgroups(0, NULL) != 0 || setgid(65534) != 0 || setuid(65534) != 0))
		return NOT_HERE;
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); // or /proc/self/fd is root's
	if (stat(folder, &st) != 0 || access(folder, W_OK) != 0 || opendir(folder))
		return NOT_HERE;

	heap = fmalloc_init(name, &init);
	proc_must(heap != NULL);
	proc_must(init);
	proc_must(fm_malloc(heap, 100) != NULL);
	proc_must(fm_close(heap) == 0);
	heap = fmalloc_init(name, &init);
	proc_must(heap != NULL);
	proc_must(!init);
	proc_must(proc_count_objects(heap) == 1);
	close_checked(heap);
	return 0;
}

static void test_create_unread(void **state)
{
	(void)state;
	passes(create_unread, "permissions don't count for this user, or the folder can't be reached");
}

/* ---------------------------------------------------------------- the library unloaded */

static struct {
	struct fm_info *(*init)(const char *, bool *);
	void *(*alloc)(size_t);
	sem_t has_used, may_end;
} loaded;

static void *use_loaded(void *arg)
{
	bool init;

	proc_must(loaded.init(path, &init) != NULL);
	proc_must(loaded.alloc(10) != NULL);
	sem_post(&loaded.has_used);
	sem_wait(&loaded.may_end);
	return arg;
}

/* The shared library of this build: build/KIND/tests/AREA/PROGRAM has it three folders up. */
static void library_path(char out[PATH_MAX])
{
	const char *given = getenv("FM_LIBRARY");
	ssize_t len;

	if (given && *given) {
		snprintf(out, PATH_MAX, "%s", given);
		return;
	}
	len = readlink("/proc/self/exe", out, PATH_MAX - 1);
	proc_must(len > 0);
	out[len] = 0;
	for (int i = 0; i < 3 && strrchr(out, '/'); i++)
		*strrchr(out, '/') = 0;
	proc_must(strlen(out) + sizeof("/libfmalloc.so") < PATH_MAX);
	strcat(out, "/libfmalloc.so");
}

/* Put the function's address into *function: ISO C has no conversion from what dlsym returns. */
static void find_function(void *library, const char *name, void *function)
{
	void *found = dlsym(library, name);

	proc_must(found != NULL);
	memcpy(function, &found, sizeof(found));
}

static int unloaded(void *arg)
{
	char name[PATH_MAX];
	pthread_t thread;
	void *library;

	library_path(name);
	if (access(name, R_OK) != 0)
		return NOT_HERE;
	library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
	if (!library)
		fprintf(stderr, "# %s\n", dlerror());
	proc_must(library != NULL);
	find_function(library, "fmalloc_init", &loaded.init);
	find_function(library, "fmalloc", &loaded.alloc);
	sem_init(&loaded.has_used, 0, 0);
	sem_init(&loaded.may_end, 0, 0);
	proc_must(pthread_create(&thread, NULL, use_loaded, arg) == 0);
	while (sem_wait(&loaded.has_used) != 0)
		;
	proc_must(dlclose(library) == 0);
	sem_post(&loaded.may_end);
	proc_must(pthread_join(thread, NULL) == 0);
	return 0;
}

static void test_unloaded(void **state)
{
	(void)state;
	passes(unloaded, "no libfmalloc.so beside the tests; FM_LIBRARY may name one");
}

/* ---------------------------------------------------------------- exit() in a signal handler */

#define LEFT_BY_HANDLER 7

static void leave(int signal_no)
{
	(void)signal_no;
	exit(LEFT_BY_HANDLER);
}

/* It is in the library's calls nearly all of its time, and in the lock most of it. */
static int interrupted(void *arg)
{
	struct itimerval after = { .it_value = { 0, *(int *)arg } };
	fm_heap *heap = fm_open(path, FM_CREATE, NULL);

	proc_must(heap != NULL);
	signal(SIGVTALRM, leave);
	setitimer(ITIMER_VIRTUAL, &after, NULL);
	for (;;)
		fm_free(fm_malloc(heap, 700000));
	return 0;
}

static int exit_in_handler(void *arg)
{
	unsigned n = rounds(PROC_SANITIZED ? 20 : 60);
	fm_heap *heap;

	(void)arg;
	for (unsigned round = 0; round < n; round++) {
		int after_us = 2000 + 137 * (int)round;

		proc_must(proc_end(proc_start(interrupted, &after_us, LIMIT_MS / 4)) == LEFT_BY_HANDLER);
	}
	heap = fm_open(path, 0, NULL);
	proc_must(heap != NULL);
	close_checked(heap);
	return 0;
}

static void test_exit_in_handler(void **state)
{
	(void)state;
	passes(exit_in_handler, "");
}

/* ---------------------------------------------------------------- fork beside a report of misuse */

static _Atomic int is_over, reports;

static void count_report(const struct fm_misuse *misuse, void *arg)
{
	(void)misuse;
	(void)arg;
	reports++;
}

static void *misuse(void *arg)
{
	int no_object;

	while (!is_over)
		fm_free(&no_object);
	return arg;
}

static int first_call(void *arg)
{
	proc_must(fm_malloc(arg, 10) == NULL);
	proc_must(errno == EPERM);
	return 0;
}

static int fork_beside_misuse(void *arg)
{
	fm_heap *heap = make_heap();
	unsigned n = rounds(PROC_SANITIZED ? 100 : 400);
	pthread_t thread[2];

	fm_set_misuse_handler(count_report, NULL);
	for (int i = 0; i < 2; i++)
		proc_must(pthread_create(&thread[i], NULL, misuse, arg) == 0);
	for (unsigned round = 0; round < n; round++)
		proc_must(proc_end(proc_start(first_call, heap, LIMIT_MS / 4)) == 0);
	is_over = 1;
	for (int i = 0; i < 2; i++)
		proc_must(pthread_join(thread[i], NULL) == 0);
	proc_must(reports > 0);
	close_checked(heap);
	return 0;
}

static void test_fork_beside_misuse(void **state)
{
	(void)state;
	passes(fork_beside_misuse, "");
}

/* ---------------------------------------------------------------- fork beside fm_close */

static _Atomic int forks;

/* Children that live longer than the heap stays closed, and are gone soon after. */
static void *fork_on(void *arg)
{
	while (!is_over) {
		pid_t pid = fork();

		proc_must(pid >= 0);
		if (pid == 0) {
			proc_sleep_us(100000);
			_exit(0);
		}
		forks++;
		proc_sleep_us(300);
	}
	return arg;
}

static int fork_beside_close(void *arg)
{
	unsigned n = rounds(PROC_SANITIZED ? 50 : 300);
	pthread_t thread;

	signal(SIGCHLD, SIG_IGN); // nobody waits for them
	proc_must(fm_close(make_heap()) == 0);
	proc_must(pthread_create(&thread, NULL, fork_on, arg) == 0);
	for (unsigned round = 0; round < n || forks < 20; round++) {
		fm_heap *heap = fm_open(path, 0, NULL);
		char *p;

		proc_must(heap != NULL);
		p = fm_malloc(heap, 1 << 20);
		proc_must(p != NULL);
		memset(p, 1, 1 << 20);
		proc_must(fm_free(p) == 0);
		proc_must(fm_close(heap) == 0);
	}
	is_over = 1;
	proc_must(pthread_join(thread, NULL) == 0);
	return 0;
}

static void test_fork_beside_close(void **state)
{
	(void)state;
	passes(fork_beside_close, "");
}

/* ---------------------------------------------------------------- all objects freed by another thread */

#define RING 4096u

static struct {
	void *_Atomic place[RING];
	uint64_t count;
} ring;

static void *free_all(void *arg)
{
	for (uint64_t i = 0; i < ring.count; i++) {
		void *p;

		while (!(p = atomic_exchange(&ring.place[i % RING], NULL)))
			sched_yield();
		if (fm_free(p))
			return arg; /* not NULL: a failure */
	}
	return NULL;
}

static int all_freed_elsewhere(void *arg)
{
	fm_heap *heap = fm_open(path, FM_CREATE, NULL);
	uint64_t rng = 1;
	pthread_t thread;
	void *failed;

	(void)arg;
	ring.count = 400000 * proc_env("FM_SCALE", 100) / 100;
	proc_must(heap && pthread_create(&thread, NULL, free_all, heap) == 0);
	for (uint64_t i = 0; i < ring.count; i++) {
		void *p = fm_malloc(heap, 16 + proc_below(&rng, 241));

		proc_must(p != NULL);
		while (atomic_load(&ring.place[i % RING]))
			sched_yield();
		atomic_store(&ring.place[i % RING], p);
	}
	proc_must(pthread_join(thread, &failed) == 0 && !failed);
	proc_must(proc_check(heap) == 0);
	return fm_close(heap);
}

static void test_all_freed_elsewhere(void **state)
{
	(void)state;
	passes(all_freed_elsewhere, NULL);
}

/* ---------------------------------------------------------------- offsets of what is gone */

#define STALE     16
#define STALE_LEN (400 * (size_t)1024) /* as a run, and as one of the slots of a slab of several units */

static struct {
	fm_heap *heap;
	_Atomic uint64_t off[STALE];
	atomic_bool is_over;
} stale;

static void *free_and_allocate(void *arg)
{
	void *p[STALE];

	(void)arg;
	while (!atomic_load(&stale.is_over)) {
		for (unsigned i = 0; i < STALE; i++) {
			p[i] = fm_malloc(stale.heap, STALE_LEN);
			proc_must(p[i] != NULL);
			atomic_store(&stale.off[i], fm_offset_of(stale.heap, p[i]));
		}
		for (unsigned i = 0; i < STALE; i++)
			proc_must(fm_free(p[i]) == 0);
	}
	return NULL;
}

static int stale_offsets(void *arg)
{
	uint64_t calls = 300000 * proc_env("FM_SCALE", 100) / 100;
	pthread_t thread;

	(void)arg;
	stale.heap = make_heap();
	proc_must(stale.heap && pthread_create(&thread, NULL, free_and_allocate, NULL) == 0);
	while (!atomic_load(&stale.off[STALE - 1]))
		sched_yield();
	for (uint64_t i = 0; i < calls; i++) {
		uint64_t off = atomic_load(&stale.off[i % STALE]);
		char *p = (char *)stale.heap->mem + off;

		/* more than any object has; not the start of one */
		proc_must(!fm_at_checked(stale.heap, off, (size_t)1 << 30));
		proc_must(fm_free(p + 8) != 0 && fm_usable_size(p + 8) == 0);
		proc_must(fm_usable_size(p) < (size_t)1 << 30);
	}
	atomic_store(&stale.is_over, true);
	proc_must(pthread_join(thread, NULL) == 0);
	proc_must(proc_check(stale.heap) == 0);
	return fm_close(stale.heap);
}

static void test_stale_offsets(void **state)
{
	(void)state;
	passes(stale_offsets, NULL);
}

/* ---------------------------------------------------------------- frees that are held up */

#define HELD_LEN  256
#define HELD_SLAB (64 * (size_t)1024 / HELD_LEN) /* slots */
#define HELD      (256 * HELD_SLAB)
#define HELD_MIB  (1024 * (uint64_t)1024)
#define SMALLER   200000

/* Three threads, of which one at a time does something. */
static struct {
	fm_heap *heap;
	void *owners[HELD], *makers[HELD], *smaller[SMALLER];
	uint64_t rng;
} held;

struct hand {
	pthread_t thread;
	sem_t go, done;
	void (*task)(void);
};

static void *follow(void *arg)
{
	struct hand *hand = arg;

	while (sem_wait(&hand->go) == 0 && hand->task) {
		hand->task();
		sem_post(&hand->done);
	}
	return NULL;
}

static void let(struct hand *hand, void (*task)(void))
{
	hand->task = task;
	sem_post(&hand->go);
	if (task)
		sem_wait(&hand->done);
	else
		proc_must(pthread_join(hand->thread, NULL) == 0);
}

static void begin_hands(struct hand *hands, unsigned n)
{
	held.heap = make_heap();
	held.rng = proc_seed();
	proc_must(held.heap != NULL);
	for (unsigned i = 0; i < n; i++) {
		sem_init(&hands[i].go, 0, 0);
		sem_init(&hands[i].done, 0, 0);
		proc_must(pthread_create(&hands[i].thread, NULL, follow, &hands[i]) == 0);
	}
}

static int end_hands(struct hand *hands, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		let(&hands[i], NULL);
	proc_must(proc_check(held.heap) == 0);
	return fm_close(held.heap);
}

static struct fm_statistics held_stats(void)
{
	struct fm_statistics stats = {.size = sizeof(stats)};

	proc_must(fm_stats(held.heap, &stats) == 0);
	return stats;
}

static void held_fill(void **objects, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++) {
		if (!objects[i])
			objects[i] = fm_malloc(held.heap, HELD_LEN);
		proc_must(objects[i] != NULL);
	}
}

static void held_free(void **objects, size_t from, size_t step)
{
	for (size_t i = from; i < HELD; i += step) {
		proc_must(!objects[i] || fm_free(objects[i]) == 0);
		objects[i] = NULL;
	}
}

static void owner_fills(void)
{
	held_fill(held.owners, 0, HELD);
}

static void owner_frees_one_a_slab(void)
{
	held_free(held.owners, 1, HELD_SLAB);
}

static void other_frees_one_a_slab(void)
{
	held_free(held.owners, 0, HELD_SLAB);
}

/* It meets what the other thread freed on the way, and releases slabs. */
static void owner_fills_most_and_frees_all(void)
{
	held_fill(held.owners, 0, HELD - 64 * HELD_SLAB);
	held_free(held.owners, 0, 1);
}

static void maker_fills(void)
{
	held_fill(held.makers, 0, HELD);
}

static void other_frees_makers(void)
{
	held_free(held.makers, 0, 1);
}

static int idle_owner(void *arg)
{
	struct hand hands[3];
	uint64_t size;

	(void)arg;
	begin_hands(hands, 3);
	let(&hands[0], owner_fills);
	let(&hands[0], owner_frees_one_a_slab);
	let(&hands[1], other_frees_one_a_slab);
	let(&hands[0], owner_fills_most_and_frees_all);
	let(&hands[2], maker_fills);
	size = held_stats().file_size;
	let(&hands[1], other_frees_makers);
	let(&hands[2], maker_fills);
	proc_must(held_stats().file_size <= size + 4 * HELD_MIB);
	return end_hands(hands, 3);
}

static void test_idle_owner(void **state)
{
	(void)state;
	passes(idle_owner, NULL);
}

static void owner_makes_others(void)
{
	for (unsigned i = 0; i < SMALLER; i++) {
		held.smaller[i] = fm_malloc(held.heap, 32);
		proc_must(held.smaller[i] != NULL);
	}
}

static void other_frees_owners(void)
{
	held_free(held.owners, 0, 1);
}

/* Half of the smaller ones live: it always finds free slots of its own. */
static void owner_is_busy_with_others(void)
{
	for (unsigned i = 0; i < 10 * SMALLER; i++) {
		void **p = &held.smaller[proc_below(&held.rng, SMALLER)];

		if (*p)
			proc_must(fm_free(*p) == 0);
		*p = *p ? NULL : fm_malloc(held.heap, 32);
	}
}

static int busy_owner(void *arg)
{
	struct hand hands[2];

	(void)arg;
	begin_hands(hands, 2);
	let(&hands[0], owner_makes_others);
	let(&hands[0], owner_fills);
	let(&hands[1], other_frees_owners);
	proc_must(held_stats().remote_frees == HELD);
	let(&hands[0], owner_is_busy_with_others);
	proc_must(held_stats().remote_frees == 0);
	return end_hands(hands, 2);
}

static void test_busy_owner(void **state)
{
	(void)state;
	passes(busy_owner, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_close_beside_ends, before),
		cmocka_unit_test_setup(test_cancelled, before),
		cmocka_unit_test_setup(test_visitor_calls, before),
		cmocka_unit_test_setup(test_create_unread, before),
		cmocka_unit_test_setup(test_unloaded, before),
		cmocka_unit_test_setup(test_exit_in_handler, before),
		cmocka_unit_test_setup(test_fork_beside_misuse, before),
		cmocka_unit_test_setup(test_fork_beside_close, before),
		cmocka_unit_test_setup(test_all_freed_elsewhere, before),
		cmocka_unit_test_setup(test_stale_offsets, before),
		cmocka_unit_test_setup(test_idle_owner, before),
		cmocka_unit_test_setup(test_busy_owner, before),
	};

	return cmocka_run_group_tests_name("findings_process", tests, setup, teardown);
}
