/* SPDX-License-Identifier: Apache-2.0
 *
 * Random kill -9 (test 6 of the plan, for atomic heaps). Threads of a child change an atomic heap in rounds, each round
 * in a section, and ask for commits; how far each thread came and what was acknowledged is in shared memory. The parent
 * kills the child at a random time, also inside opening, closing, conversion, snapshots, and then perhaps the one that
 * recovers the heap, and the next; opens the heap at once, and:
 *
 *   - each thread's part is exactly that after one of its rounds, not before the one that a returned commit included;
 *     all of it: the words of the round, the objects, their contents, and nothing else is allocated;
 *   - fm_check finds nothing;
 *   - a snapshot that has its name is whole, and no other file is left.
 *
 * What a thread does in a round follows from its number and the round's: the parent computes what there should be.
 *
 *   FM_KILLS     kills in all (250)
 *   FM_THREADS   threads of the child (3)
 *   FM_KILL_US   longest life of a child, microseconds (25000)
 *   FM_SEED      choices of the run
 */
#define _GNU_SOURCE 1
#include "../support/proc_util.h"
#include "../support/way.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>

#define MAX_THREADS 8
#define SLOTS       40
#define RENEW       60 /* kills that one heap lives */

static const char *const ways[] = {"uffd", "mprotect", "pagemap", "declared"};

/* What outlives the child. */
struct shared {
	_Atomic uint64_t begun[MAX_THREADS], acknowledged[MAX_THREADS];
};

/* A thread's part of the heap: an object that its root names. */
struct slot {
	uint64_t off, id, size;
};

struct part {
	uint64_t round;
	struct slot slots[SLOTS];
	uint64_t round_again;
};

/* The same as the parent computes it. */
static struct part expected[MAX_THREADS];

static struct {
	uint64_t seed, rng, threads;
	struct shared *shared;
	char *dir, path[256], copy[260];
	const char *way;
	uint64_t kills, commits, recoveries, snapshots;
} t;

/* ---------------------------------------------------------------- a round */

/* The changes of round `round`: which slots get which object. */
static unsigned plan(unsigned thread, uint64_t round, unsigned slot[8], struct slot to[8])
{
	uint64_t rng = t.seed * 1000003 + thread * 7919 + round * 104729;
	unsigned n = (unsigned)proc_below(&rng, proc_below(&rng, 10) ? 3 : 8) + 1;

	for (unsigned i = 0; i < n; i++) {
		slot[i] = (unsigned)proc_below(&rng, SLOTS);
		to[i].off = 0;
		to[i].id = proc_rand(&rng) | 1;
		to[i].size = proc_below(&rng, 40) ? proc_below(&rng, 700) + 16 : proc_below(&rng, 200000) + 16;
		if (proc_below(&rng, 4) == 0)
			to[i].size = 0; /* free it */
	}
	return n;
}

/* The parent's idea of it. */
static void compute(unsigned thread, uint64_t round)
{
	struct part *part = &expected[thread];

	while (part->round < round) {
		struct slot to[8];
		unsigned slot[8], n = plan(thread, ++part->round, slot, to);

		for (unsigned i = 0; i < n; i++)
			part->slots[slot[i]] = to[i];
	}
}

static void *writing(fm_heap *heap, void *p, size_t len)
{
	if (strcmp(t.way, "declared") == 0)
		proc_must(fm_will_write(heap, p, len) == 0);
	return p;
}

static void do_round(fm_heap *heap, struct part *part, unsigned thread, uint64_t round)
{
	struct slot to[8];
	unsigned slot[8], n = plan(thread, round, slot, to);

	writing(heap, part, sizeof(*part));
	part->round = round;
	for (unsigned i = 0; i < n; i++) {
		struct slot *s = &part->slots[slot[i]];
		void *p = NULL;

		if (s->off)
			proc_must(fm_free(fm_at(heap, s->off)) == 0);
		if (to[i].size) {
			p = fm_malloc(heap, to[i].size);
			proc_must(p != NULL);
			proc_fill(writing(heap, p, to[i].size), to[i].id, to[i].size);
		}
		*s = to[i];
		s->off = fm_offset_of(heap, p);
	}
	part->round_again = round;
}

/* ---------------------------------------------------------------- the child */

struct worker {
	fm_heap *heap;
	unsigned number;
};

static void *work(void *arg)
{
	const struct worker *w = arg;
	char name[16];
	struct part *part;
	uint64_t rng = t.seed + w->number + (uint64_t)getpid();

	snprintf(name, sizeof(name), "part%u", w->number);
	part = fm_root_get(w->heap, name, 1);
	proc_must(part != NULL);
	for (uint64_t round = part->round + 1;; round++) {
		atomic_store(&t.shared->begun[w->number], round);
		proc_must(fm_begin(w->heap) == 0);
		do_round(w->heap, part, w->number, round);
		proc_must(fm_end(w->heap) == 0);
		if (proc_below(&rng, 3) == 0)
			continue;
		proc_must(fm_commit(w->heap) == 0);
		atomic_store(&t.shared->acknowledged[w->number], round);
	}
	return NULL;
}

static fm_heap *open_it(unsigned flags)
{
	struct fm_options options = {.size = sizeof(options), .address_space = 1 << 30};

	return fm_open(t.path, atomic_heap() | flags, &options);
}

/* A live heap for a while, and atomic again. */
static void convert(void)
{
	struct fm_options options = {.size = sizeof(options), .address_space = 1 << 30};
	fm_heap *heap = fm_open(t.path, FM_CONVERT, &options);

	proc_must(heap != NULL);
	proc_must(fm_close(heap) == 0);
	heap = open_it(FM_CONVERT);
	proc_must(heap != NULL);
	proc_must(fm_close(heap) == 0);
}

static void *take_snapshots(void *arg)
{
	for (;;) {
		unlink(t.copy);
		proc_must(fm_snapshot(arg, t.copy) == 0);
	}
	return NULL;
}

static void child(void)
{
	struct worker workers[MAX_THREADS];
	pthread_t threads[MAX_THREADS];
	uint64_t rng = t.seed ^ (uint64_t)getpid();
	fm_heap *heap = open_it(0);

	proc_must(heap != NULL);
	/* sometimes open and close again and again instead */
	while (proc_below(&rng, 4) == 0) {
		proc_must(fm_malloc(heap, 100000) != NULL);
		proc_must(fm_close(heap) == 0);
		if (proc_below(&rng, 3) == 0)
			convert();
		heap = open_it(0);
		proc_must(heap != NULL);
	}
	for (unsigned i = 0; i < t.threads; i++) {
		workers[i] = (struct worker){heap, i};
		proc_must(pthread_create(&threads[i], NULL, work, &workers[i]) == 0);
	}
	if (proc_below(&rng, 4) == 0)
		take_snapshots(heap);
	pthread_join(threads[0], NULL);
}

/* ---------------------------------------------------------------- the parent */

static void make_heap(void)
{
	fm_heap *heap = open_it(FM_CREATE);

	if (!heap)
		fail_msg("%s", fm_last_error());
	for (unsigned i = 0; i < t.threads; i++) {
		char name[16];
		struct part *part = fm_calloc(heap, 1, sizeof(*part));

		snprintf(name, sizeof(name), "part%u", i);
		assert_non_null(part);
		assert_int_equal(fm_root_set(heap, name, part, 1), 0);
		memset(&expected[i], 0, sizeof(expected[i]));
		atomic_store(&t.shared->begun[i], 0);
		atomic_store(&t.shared->acknowledged[i], 0);
	}
	assert_int_equal(fm_commit(heap), 0);
	assert_int_equal(fm_close(heap), 0);
}

static int count_one(void *p, size_t usable, void *arg)
{
	(void)p;
	(void)usable;
	++*(unsigned *)arg;
	return 0;
}

static void verify(void)
{
	fm_heap *heap = open_it(0);
	unsigned objects = (unsigned)t.threads, seen = 0;

	if (!heap && errno == EPROTOTYPE)
		heap = open_it(FM_CONVERT); /* killed in the middle of a conversion: it is a live heap */
	if (!heap)
		fail_msg("seed %llu, kill %llu: %s", (unsigned long long)t.seed, (unsigned long long)t.kills, fm_last_error());
	for (unsigned i = 0; i < t.threads; i++) {
		uint64_t begun = atomic_load(&t.shared->begun[i]), least = atomic_load(&t.shared->acknowledged[i]);
		const struct part *part;
		char name[16];

		snprintf(name, sizeof(name), "part%u", i);
		part = fm_root_get(heap, name, 1);
		assert_non_null(part);
		if (part->round != part->round_again || part->round < least || part->round > begun)
			fail_msg("seed %llu, kill %llu: thread %u is at round %llu, %llu; acknowledged %llu, begun %llu",
			         (unsigned long long)t.seed, (unsigned long long)t.kills, i, (unsigned long long)part->round,
			         (unsigned long long)part->round_again, (unsigned long long)least, (unsigned long long)begun);
		compute(i, part->round);
		for (unsigned k = 0; k < SLOTS; k++) {
			const struct slot *is = &part->slots[k], *should = &expected[i].slots[k];

			if (is->size != should->size || is->id != should->id || !is->off != !should->size ||
			    (is->off && !proc_intact(fm_at(heap, is->off), is->id, is->size, SIZE_MAX)))
				fail_msg("seed %llu, kill %llu: slot %u of thread %u in round %llu", (unsigned long long)t.seed,
				         (unsigned long long)t.kills, k, i, (unsigned long long)part->round);
			objects += is->off != 0;
		}
		t.commits += part->round - least < 2;
		atomic_store(&t.shared->acknowledged[i], part->round);
	}
	assert_int_equal(fm_walk(heap, count_one, &seen), 0);
	assert_int_equal(seen, objects);
	assert_int_equal(fm_check(heap, NULL, NULL), 0);
	assert_int_equal(fm_close(heap), 0);
}

/* A snapshot has its name when it is whole: each thread's part is that after a round. */
static void verify_snapshot(void)
{
	struct fm_options options = {.size = sizeof(options), .address_space = 1 << 30};
	fm_heap *heap;

	if (access(t.copy, F_OK))
		return;
	heap = fm_open(t.copy, atomic_heap(), &options);
	if (!heap)
		fail_msg("seed %llu, kill %llu: the snapshot: %s", (unsigned long long)t.seed, (unsigned long long)t.kills,
		         fm_last_error());
	for (unsigned i = 0; i < t.threads; i++) {
		const struct part *part;
		char name[16];

		snprintf(name, sizeof(name), "part%u", i);
		part = fm_root_get(heap, name, 1);
		assert_non_null(part);
		assert_int_equal(part->round, part->round_again);
		for (unsigned k = 0; k < SLOTS; k++) {
			const struct slot *is = &part->slots[k];

			assert_true(!is->off || proc_intact(fm_at(heap, is->off), is->id, is->size, SIZE_MAX));
		}
	}
	assert_int_equal(fm_check(heap, NULL, NULL), 0);
	assert_int_equal(fm_close(heap), 0);
	unlink(t.copy);
	t.snapshots++;
}

static unsigned count_files(void)
{
	DIR *dir = opendir(t.dir);
	unsigned n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n - 2;
}

static void reopen_only(void)
{
	fm_heap *heap = open_it(0);

	if (!heap && errno == EPROTOTYPE)
		heap = open_it(FM_CONVERT);
	proc_must(heap != NULL);
	pause();
}

static void kill_one(uint64_t us, void (*what)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		what();
		_exit(0);
	}
	usleep((useconds_t)us);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		fail_msg("seed %llu: the child ended by itself: status %x", (unsigned long long)t.seed, (unsigned)status);
	t.kills++;
}

static void one_kill(uint64_t longest_us)
{
	kill_one(proc_below(&t.rng, longest_us), child);
	/* who recovers is killed as well, in the milliseconds in which he does */
	while (proc_below(&t.rng, 3) == 0) {
		kill_one(proc_below(&t.rng, 3000), reopen_only);
		t.recoveries++;
	}
	verify();
	verify_snapshot();
	assert_int_equal(count_files(), 1);
}

static void test_kills(void **state)
{
	uint64_t kills = proc_env("FM_KILLS", 250), longest = proc_env("FM_KILL_US", 25000);

	(void)state;
	for (uint64_t i = 0; i < kills; i++) {
		if (i % RENEW == 0) {
			t.way = ways[i / RENEW % 4];
			setenv("FMALLOC_TRACK", t.way, 1);
			unlink(t.path);
			make_heap();
		}
		one_kill(longest);
	}
	printf("# %llu kills, %llu of them in recovery; %llu snapshots; rounds of thread 0: %llu\n",
	       (unsigned long long)t.kills, (unsigned long long)t.recoveries, (unsigned long long)t.snapshots,
	       (unsigned long long)expected[0].round);
	assert_true(expected[0].round > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_kills)};
	int r;

	t.seed = proc_seed();
	t.rng = t.seed;
	t.threads = proc_env("FM_THREADS", 3);
	if (t.threads > MAX_THREADS)
		t.threads = MAX_THREADS;
	t.shared = mmap(NULL, sizeof(*t.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (t.shared == MAP_FAILED)
		return 1;
	t.dir = proc_dir_make();
	snprintf(t.path, sizeof(t.path), "%s/heap", t.dir);
	snprintf(t.copy, sizeof(t.copy), "%s/copy", t.dir);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	proc_dir_remove(t.dir);
	return r;
}
