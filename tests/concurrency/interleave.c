/* SPDX-License-Identifier: Apache-2.0
 *
 * Bounded interleavings of the protocol by which threads free each other's objects, leave and adopt slabs
 * (src/alloc/owner.h). Three threads run random programs, one at a time; before each sequentially
 * consistent access or store with release and after each store of truth the scheduler may switch to another thread.
 *
 *   switches   small programs: every place for one switch is tried, then random places for up to four
 *   splits     long programs in a random order of whole operations, of which up to three are interrupted
 *              in the middle and go on much later
 *   recycling  a slab is released and made again by another thread while a notification about its earlier
 *              life is on its way; the order of operations that leads there, and many near it
 *   again      the owner frees once more what another thread has freed, around a drain: every place for two switches
 *
 * What was freed and not allocated again can't be freed, whoever tries while no other thread is in the middle of an
 * operation (AGAIN).
 * After each interleaving every thread empties its inbox. Then no free may be left uncollected, fm_check
 * finds nothing, exactly the objects that were not freed are alive and none was handed out twice; when all
 * are freed and all threads gone, no slab is left.
 *
 * The sources under test are compiled into this program, with their atomics and locks replaced.
 *
 *   FM_INTERLEAVINGS  how many of each kind to try (default below); FM_SCALE: per cent of the default
 *   FM_SEED           of the programs and schedules; FM_PROGRAM: only this program, as printed
 */
#define _GNU_SOURCE 1
#define FM_TRUTH_HOOK 1
#include "proc_util.h"

#include <pthread.h>
#include <semaphore.h>

#undef fail /* the library's is a function */
#include "../../src/base/atomics.h"

static void step(void);
static int lock_in_turns(pthread_mutex_t *mutex);

#undef load_seq
#undef store_seq
#undef exchange_seq
#undef fetch_or_seq
#undef store_release
#define load_seq(p)        (step(), __atomic_load_n((p), __ATOMIC_SEQ_CST))
#define store_release(p, v) (step(), __atomic_store_n((p), (v), __ATOMIC_RELEASE))
#define store_seq(p, v)    (step(), __atomic_store_n((p), (v), __ATOMIC_SEQ_CST))
#define exchange_seq(p, v) (step(), __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST))
#define fetch_or_seq(p, v) (step(), __atomic_fetch_or((p), (v), __ATOMIC_SEQ_CST))
#define compare_exchange_seq(p, old, new) (step(), (compare_exchange_seq)((p), (old), (new)))
#define pthread_mutex_lock(mutex) lock_in_turns(mutex)

#define KEPT_UNITS 1 /* the second empty slab is released */
#include "../../src/alloc/lists.c"
#include "../../src/alloc/join.c"
#include "../../src/alloc/owner.c"
#include "../../src/alloc/units.c"
#include "../../src/alloc/slab.c"
#include "../../src/alloc/alloc.c"
#include "../../src/alloc/heap.c"
#include "../../src/api/malloc.c"

#undef pthread_mutex_lock

#define INTERLEAVINGS 40000
#define THREADS       3
#define OBJECTS       72
#define MAX_OPS       40
#define MAX_SWITCHES  4
#define MAX_SPLITS    3
#define MAX_TURNS     (THREADS * MAX_OPS + MAX_SPLITS)

/* ---------------------------------------------------------------- the scheduler */

static struct {
	bool is_active;
	unsigned running, count;            /* steps so far */
	bool is_over[THREADS];
	sem_t go[THREADS], main;
	struct { unsigned at, to; } switches[MAX_SWITCHES]; /* before step `at`, to thread `to` */
	unsigned n_switches, next;
	/* or: whose operation is next, and operations that end their turn before step `at` of theirs */
	unsigned turn[MAX_TURNS];
	unsigned n_turns, next_turn;
	struct { unsigned thread, op, at; } split[MAX_SPLITS];
	unsigned n_splits;
	unsigned op[THREADS], steps[THREADS]; /* the operation of each thread, its steps so far */
} sched;

static __thread unsigned self = THREADS; /* no thread of the scheduler */

static void hand_over(unsigned to)
{
	sched.running = to;
	sem_post(&sched.go[to]);
	sem_wait(&sched.go[self]);
}

/* The next thread after this one that is not over, or THREADS. */
static unsigned another(void)
{
	for (unsigned i = 1; i < THREADS; i++)
		if (!sched.is_over[(self + i) % THREADS])
			return (self + i) % THREADS;
	return THREADS;
}

static void end_turn(void)
{
	while (sched.next_turn < sched.n_turns) {
		unsigned to = sched.turn[sched.next_turn++];

		if (sched.is_over[to])
			continue;
		if (to != self)
			hand_over(to);
		return;
	}
}

static void step(void)
{
	unsigned now;

	if (self == THREADS || !sched.is_active)
		return;
	now = sched.steps[self]++;
	for (unsigned i = 0; i < sched.n_splits; i++)
		if (sched.split[i].thread == self && sched.split[i].op == sched.op[self] &&
		    sched.split[i].at == now)
			end_turn();
	now = sched.count++;
	if (sched.next == sched.n_switches || sched.switches[sched.next].at != now)
		return;
	now = sched.switches[sched.next++].to;
	if (now != self && !sched.is_over[now])
		hand_over(now);
}

static int lock_in_turns(pthread_mutex_t *mutex)
{
	if (self == THREADS || !sched.is_active)
		return pthread_mutex_lock(mutex);
	step();
	while (pthread_mutex_trylock(mutex) != 0) {
		unsigned to = another();

		if (to == THREADS) {
			fprintf(stderr, "# deadlock\n");
			abort();
		}
		hand_over(to);
	}
	return 0;
}

static void stored(const uint64_t *word)
{
	(void)word;
	step();
}

void (*fm_truth_hook)(const uint64_t *word) = stored;

/* ---------------------------------------------------------------- programs */

enum verb { ALLOC, RELEASE, LEAVE, AGAIN, DRAIN };

struct op {
	enum verb verb;
	unsigned object;
};

struct program {
	unsigned made_by[OBJECTS]; /* before the threads run; THREADS: by an operation */
	unsigned n_objects;
	struct op op[THREADS][MAX_OPS];
	unsigned n_ops[THREADS];
	size_t size;
};

static struct {
	fm_heap *heap;
	struct program program;
	void *p[OBJECTS];       /* NULL: not made yet, or freed */
	void *was[OBJECTS];     /* freed, and nothing was allocated since */
	unsigned inside;        /* threads in the middle of an operation */
	void (*task)(void);
	sem_t done;
	uint64_t seed, program_no;
	char failure[300];
} t;

static void fail_program(const char *what, uint64_t value)
{
	if (t.failure[0])
		return;
	snprintf(t.failure, sizeof(t.failure),
	         "%s: %llu (FM_SEED=%llu FM_PROGRAM=%llu, %u switches, %u splits): %s", what,
	         (unsigned long long)value, (unsigned long long)t.seed, (unsigned long long)t.program_no,
	         sched.n_switches, sched.n_splits, fm_last_error());
}

static void leave(void)
{
	if (thread_current == &thread_none)
		return;
	thread_exit(thread_current);
	thread_current = &thread_none; /* it may come again */
}

static void drain(void)
{
	struct tcache *tcache = thread_current->cache[heap_of_handle(t.heap)->slot];

	if (tcache && tcache->heap)
		inbox_drain(tcache);
}

static void *allocate(void)
{
	void *p = fm_malloc(t.heap, t.program.size);

	for (unsigned i = 0; i < OBJECTS; i++)
		if (t.was[i] == p)
			t.was[i] = NULL;
	return p;
}

static void run_program(void)
{
	const struct program *program = &t.program;

	for (unsigned i = 0; i < program->n_ops[self]; i++) {
		unsigned object = program->op[self][i].object;
		void *p = t.p[object];

		sched.op[self] = i;
		sched.steps[self] = 0;
		t.inside++;
		switch (program->op[self][i].verb) {
		case ALLOC:
			t.p[object] = allocate();
			if (!t.p[object])
				fail_program("malloc", object);
			break;
		case RELEASE:
			t.p[object] = NULL;
			t.was[object] = p; /* before it can be allocated again */
			if (fm_free(p) != 0)
				fail_program("free", object);
			break;
		case AGAIN:
			/* who is interrupted may have taken it already, or be just taking it back; and nobody may meanwhile */
			if (!t.was[object] || t.inside > 1)
				break;
			sched.is_active = false;
			if (fm_free(t.was[object]) == 0)
				fail_program("freed twice", object);
			sched.is_active = true;
			break;
		case DRAIN:
			drain();
			break;
		default:
			leave();
		}
		t.inside--;
		end_turn();
	}
}

static void make_objects(void)
{
	for (unsigned i = 0; i < t.program.n_objects; i++)
		if (t.program.made_by[i] == self)
			t.p[i] = allocate();
}

static void free_some(void)
{
	for (unsigned i = self; i < OBJECTS; i += THREADS) {
		if (t.p[i] && fm_free(t.p[i]) != 0)
			fail_program("free at the end", i);
		t.p[i] = NULL;
	}
}

/* A program in which thread 0 owns most objects, and all free what others made. */
static void make_program(uint64_t program_no)
{
	static const size_t sizes[] = {16384, 16384, 30000, 300000, 900};
	uint64_t rng = proc_mix(t.seed + program_no);
	struct program *program = &t.program;

	memset(program, 0, sizeof(*program));
	t.program_no = program_no;
	program->size = sizes[proc_below(&rng, 5)];
	program->n_objects = 2 + (unsigned)proc_below(&rng, 9);
	for (unsigned i = 0; i < program->n_objects; i++) {
		unsigned by = (unsigned)proc_below(&rng, 3);
		struct op op = {RELEASE, i};

		program->made_by[i] = proc_below(&rng, 4) ? 0 : 1;
		if (proc_below(&rng, 8))
			program->op[by][program->n_ops[by]++] = op;
		if (proc_below(&rng, 3) == 0)
			program->op[0][program->n_ops[0]++] = (struct op){AGAIN, i};
	}
	for (unsigned n = 1 + (unsigned)proc_below(&rng, 6); n > 0; n--) {
		unsigned by = (unsigned)proc_below(&rng, 3);
		unsigned at = (unsigned)proc_below(&rng, program->n_ops[by] + 1);
		bool is_leaving = proc_below(&rng, 3) == 0;

		if (program->n_ops[by] == MAX_OPS || (!is_leaving && program->n_objects == OBJECTS))
			continue;
		memmove(&program->op[by][at + 1], &program->op[by][at],
		        (program->n_ops[by] - at) * sizeof(struct op));
		program->op[by][at] = (struct op){is_leaving ? LEAVE : ALLOC, program->n_objects};
		program->n_ops[by]++;
		if (!is_leaving)
			program->made_by[program->n_objects++] = THREADS;
	}
}

/* ---------------------------------------------------------------- threads */

static void *thread_main(void *arg)
{
	self = (unsigned)(uintptr_t)arg;
	for (;;) {
		sem_wait(&sched.go[self]);
		if (!t.task)
			return NULL;
		t.task();
		if (!sched.is_active) {
			sem_post(&t.done);
			continue;
		}
		sched.is_over[self] = true;
		if (another() < THREADS) {
			sched.running = another();
			sem_post(&sched.go[sched.running]);
		} else {
			sem_post(&t.done);
		}
	}
}

/* Let each thread do `task`, one after the other. */
static void each(void (*task)(void))
{
	t.task = task;
	for (unsigned i = 0; i < THREADS; i++) {
		sem_post(&sched.go[i]);
		sem_wait(&t.done);
	}
}

/* ---------------------------------------------------------------- one interleaving */

static unsigned count_alive(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < OBJECTS; i++) {
		n += t.p[i] != NULL;
		for (unsigned k = 0; k < i; k++)
			if (t.p[i] && t.p[i] == t.p[k])
				fail_program("an object was handed out twice", i);
	}
	return n;
}

/* Run the program with the switches that are set, beginning with thread `first`. */
static void interleave(unsigned first)
{
	struct fm_statistics stats = {.size = sizeof(stats)};

	memset(t.was, 0, sizeof(t.was));
	each(make_objects);
	t.task = run_program;
	memset(sched.is_over, 0, sizeof(sched.is_over));
	sched.count = sched.next = 0;
	sched.next_turn = sched.n_turns && first == sched.turn[0];
	sched.is_active = true;
	sched.running = first;
	sem_post(&sched.go[first]);
	sem_wait(&t.done);
	sched.is_active = false;

	each(drain);
	if (fm_stats(t.heap, &stats) != 0 || stats.remote_frees)
		fail_program("frees that nobody collects", stats.remote_frees);
	if (stats.live_objects != count_alive())
		fail_program("objects alive", stats.live_objects);
	if (fm_check(t.heap, proc_print_finding, NULL) != 0)
		fail_program("fm_check", 0);
	each(free_some);
	each(leave);
	if (fm_stats(t.heap, &stats) != 0 || stats.slab_bytes || stats.live_objects || stats.remote_frees)
		fail_program("bytes in slabs that nobody owns", stats.slab_bytes);
	if (fm_check(t.heap, proc_print_finding, NULL) != 0)
		fail_program("fm_check at the end", 0);
}

/* How many steps the program has without switches, then one switch everywhere. */
static uint64_t one_switch(void)
{
	uint64_t done = 0;

	for (unsigned first = 0; first < THREADS && !t.failure[0]; first++) {
		unsigned steps;

		sched.n_switches = 0;
		interleave(first);
		steps = sched.count;
		done++;
		sched.n_switches = 1;
		for (unsigned at = 0; at < steps && !t.failure[0]; at++) {
			for (unsigned to = 0; to < THREADS && !t.failure[0]; to++) {
				sched.switches[0].at = at;
				sched.switches[0].to = to;
				interleave(first);
				done++;
			}
		}
	}
	return done;
}

static uint64_t more_switches(uint64_t *rng, unsigned tries)
{
	unsigned steps = sched.count + 10;

	for (unsigned i = 0; i < tries && !t.failure[0]; i++) {
		unsigned n = 2 + (unsigned)proc_below(rng, MAX_SWITCHES - 1), at = 0;

		for (unsigned k = 0; k < n; k++) {
			at += (unsigned)proc_below(rng, 2 * steps / n + 1);
			sched.switches[k].at = at++;
			sched.switches[k].to = (unsigned)proc_below(rng, THREADS);
		}
		sched.n_switches = n;
		interleave((unsigned)proc_below(rng, THREADS));
	}
	return tries;
}

/* `enough`: interleavings of a kind to try. */
static uint64_t enough(void)
{
	return proc_env("FM_INTERLEAVINGS", INTERLEAVINGS * proc_env("FM_SCALE", 100) / 100);
}

static void finish(uint64_t programs, uint64_t done, double start)
{
	printf("# %llu programs, %llu interleavings, %.0f a second\n", (unsigned long long)programs,
	       (unsigned long long)done, (double)done / (proc_now() - start));
	sched.n_switches = sched.n_splits = sched.n_turns = 0;
	assert_string_equal(t.failure, "");
	assert_true(done > 0);
}

static void test_switches(void **state)
{
	uint64_t only = proc_env("FM_PROGRAM", 0), done = 0, programs = 0;
	double start = proc_now();

	(void)state;
	for (uint64_t no = only ? only : 1; done < enough() && !t.failure[0]; no++) {
		uint64_t rng = proc_mix(t.seed ^ no << 32);

		make_program(no);
		done += one_switch();
		done += more_switches(&rng, 400);
		programs++;
		if (only)
			break;
	}
	finish(programs, done, start);
}

/* ---------------------------------------------------------------- long programs */

static void add_op(unsigned thread, enum verb verb, unsigned object)
{
	struct program *program = &t.program;

	if (program->n_ops[thread] < MAX_OPS)
		program->op[thread][program->n_ops[thread]++] = (struct op){verb, object};
}

static unsigned add_alloc(unsigned thread)
{
	unsigned object = t.program.n_objects;

	if (object == OBJECTS)
		return OBJECTS;
	t.program.made_by[t.program.n_objects++] = THREADS;
	add_op(thread, ALLOC, object);
	return object;
}

/* Take a random one from the list of *n. */
static unsigned take_one(uint64_t *rng, unsigned *list, unsigned *n)
{
	unsigned at = (unsigned)proc_below(rng, *n), object = list[at];

	list[at] = list[--*n];
	return object;
}

/* Thread 0 fills and empties slabs while the others free what it made, and make slabs of their own from
 * what it gave back. An operation that frees what is not made yet frees NULL. */
static void make_long_program(uint64_t *rng)
{
	struct program *program = &t.program;
	unsigned live[OBJECTS], n = 0, others[OBJECTS], n_others = 0;

	memset(program, 0, sizeof(*program));
	program->size = proc_below(rng, 3) ? 16384 : 30000;
	program->n_objects = 4 + (unsigned)proc_below(rng, 6);
	for (unsigned i = 0; i < program->n_objects; i++) {
		program->made_by[i] = 0;
		if (proc_below(rng, 3) == 0)
			others[n_others++] = i;
		else
			live[n++] = i;
	}
	for (unsigned i = 10 + (unsigned)proc_below(rng, 20); i > 0; i--) {
		/* it frees for a while, and allocates for a while */
		bool frees = proc_below(rng, 8) < (i / 6 % 2 ? 6 : 2);

		if (frees && n) {
			add_op(0, RELEASE, take_one(rng, live, &n));
		} else {
			unsigned object = add_alloc(0);

			if (object < OBJECTS && proc_below(rng, 6))
				live[n++] = object;
			else if (object < OBJECTS)
				others[n_others++] = object;
		}
		if (proc_below(rng, 24) == 0)
			add_op(0, LEAVE, 0);
	}
	for (unsigned i = 3 + (unsigned)proc_below(rng, 12); i > 0; i--) {
		unsigned by = 1 + (unsigned)proc_below(rng, 2), object;

		if (proc_below(rng, 2) && n_others) {
			add_op(by, RELEASE, take_one(rng, others, &n_others));
		} else if (proc_below(rng, 12) == 0) {
			add_op(by, LEAVE, 0);
		} else {
			object = add_alloc(by);
			if (object < OBJECTS && proc_below(rng, 2))
				add_op(3 - by, RELEASE, object);
		}
	}
}

/* A random order of the operations, a few of them split. */
static void make_turns(uint64_t *rng)
{
	const struct program *program = &t.program;
	unsigned n = 0;

	for (unsigned i = 0; i < THREADS; i++)
		for (unsigned k = 0; k < program->n_ops[i]; k++)
			sched.turn[n++] = i;
	sched.n_splits = (unsigned)proc_below(rng, MAX_SPLITS + 1);
	for (unsigned i = 0; i < sched.n_splits; i++) {
		unsigned by = (unsigned)proc_below(rng, THREADS);

		if (program->n_ops[by] == 0)
			by = 0;
		sched.split[i].thread = by;
		sched.split[i].op = (unsigned)proc_below(rng, program->n_ops[by]);
		sched.split[i].at = (unsigned)proc_below(rng, 12);
		sched.turn[n++] = by;
	}
	sched.n_turns = n;
	for (unsigned i = n; i > 1; i--) {
		unsigned k = (unsigned)proc_below(rng, i), turn = sched.turn[i - 1];

		sched.turn[i - 1] = sched.turn[k];
		sched.turn[k] = turn;
	}
}

static void test_splits(void **state)
{
	uint64_t only = proc_env("FM_PROGRAM", 0), done = 0, programs = 0;
	double start = proc_now();

	(void)state;
	sched.n_switches = 0;
	for (uint64_t no = only ? only : 1; done < enough() && !t.failure[0]; no++) {
		uint64_t rng = proc_mix(t.seed ^ no << 24 ^ 5);

		t.program_no = no;
		make_long_program(&rng);
		programs++;
		for (unsigned i = 0; i < 8 && !t.failure[0]; i++, done++) {
			make_turns(&rng);
			interleave((unsigned)proc_below(&rng, THREADS));
		}
		if (only)
			break;
	}
	finish(programs, done, start);
}

/* ---------------------------------------------------------------- recycling */

/* Slots of 16 KiB, four to a slab; objects 0..3 are slab X, 4..7 slab Y, both of thread 0. Thread 1 frees
 * object 1 and is interrupted before it says so; thread 0 meets the free slot by itself, uses X up, goes on
 * to the next slab, empties Y, which it keeps, and X, which it releases. Thread 2 makes a slab of X's unit,
 * and an object there is freed. The plots differ in when thread 1 goes on: */
struct move {
	unsigned thread;
	struct op op;
	bool is_split, goes_on; /* its turn ends in the middle; it is the rest of the thread's last operation */
};

#define PLOTS     4
#define MAX_MOVES 24

static const struct move plots[PLOTS][MAX_MOVES] = {
	{ /* before X is released: the notification waits in thread 0's inbox */
		{0, {RELEASE, 0}, 0, 0}, {1, {RELEASE, 1}, 1, 0}, {0, {ALLOC, 8}, 0, 0}, {0, {ALLOC, 9}, 0, 0},
		{0, {ALLOC, 10}, 0, 0}, {1, {RELEASE, 1}, 0, 1}, {0, {RELEASE, 4}, 0, 0}, {0, {RELEASE, 5}, 0, 0},
		{0, {RELEASE, 6}, 0, 0}, {0, {RELEASE, 7}, 0, 0}, {0, {RELEASE, 8}, 0, 0}, {0, {RELEASE, 9}, 0, 0},
		{0, {RELEASE, 2}, 0, 0}, {0, {RELEASE, 3}, 0, 0}, {2, {ALLOC, 11}, 0, 0}, {2, {ALLOC, 12}, 0, 0},
		{1, {RELEASE, 11}, 0, 0}, {0, {LEAVE, 0}, 0, 0}, {2, {ALLOC, 13}, 0, 0}, {1, {RELEASE, 12}, 0, 0},
	},
	{ /* when nobody owns X, and once more when thread 2 does */
		{0, {RELEASE, 0}, 0, 0}, {1, {RELEASE, 1}, 1, 0}, {0, {ALLOC, 8}, 0, 0}, {0, {ALLOC, 9}, 0, 0},
		{0, {ALLOC, 10}, 0, 0}, {0, {RELEASE, 4}, 0, 0}, {0, {RELEASE, 5}, 0, 0}, {0, {RELEASE, 6}, 0, 0},
		{0, {RELEASE, 7}, 0, 0}, {0, {RELEASE, 8}, 0, 0}, {0, {RELEASE, 9}, 0, 0}, {0, {RELEASE, 2}, 0, 0},
		{0, {RELEASE, 3}, 0, 0}, {1, {RELEASE, 1}, 1, 1}, {2, {ALLOC, 11}, 0, 0}, {2, {ALLOC, 12}, 0, 0},
		{0, {RELEASE, 11}, 0, 0}, {1, {RELEASE, 1}, 0, 1}, {2, {ALLOC, 13}, 0, 0}, {0, {RELEASE, 12}, 0, 0},
		{0, {LEAVE, 0}, 0, 0},
	},
	{ /* while thread 2 makes the slab */
		{0, {RELEASE, 0}, 0, 0}, {1, {RELEASE, 1}, 1, 0}, {0, {ALLOC, 8}, 0, 0}, {0, {ALLOC, 9}, 0, 0},
		{0, {ALLOC, 10}, 0, 0}, {0, {RELEASE, 4}, 0, 0}, {0, {RELEASE, 5}, 0, 0}, {0, {RELEASE, 6}, 0, 0},
		{0, {RELEASE, 7}, 0, 0}, {0, {RELEASE, 8}, 0, 0}, {0, {RELEASE, 9}, 0, 0}, {0, {RELEASE, 2}, 0, 0},
		{0, {RELEASE, 3}, 0, 0}, {2, {ALLOC, 11}, 1, 0}, {1, {RELEASE, 1}, 0, 1}, {2, {ALLOC, 11}, 0, 1},
		{0, {RELEASE, 11}, 0, 0}, {2, {ALLOC, 12}, 0, 0}, {2, {ALLOC, 13}, 0, 0}, {1, {RELEASE, 12}, 0, 0},
		{0, {LEAVE, 0}, 0, 0},
	},
	{ /* the same, and thread 2 makes it without the lock, since it has had units of that segment before */
		{0, {RELEASE, 0}, 0, 0}, {2, {ALLOC, 11}, 0, 0}, {2, {ALLOC, 12}, 0, 0}, {2, {ALLOC, 13}, 0, 0},
		{2, {ALLOC, 14}, 0, 0}, {1, {RELEASE, 1}, 1, 0}, {0, {ALLOC, 8}, 0, 0}, {0, {ALLOC, 9}, 0, 0},
		{0, {ALLOC, 10}, 0, 0}, {0, {RELEASE, 4}, 0, 0}, {0, {RELEASE, 5}, 0, 0}, {0, {RELEASE, 6}, 0, 0},
		{0, {RELEASE, 7}, 0, 0}, {0, {RELEASE, 8}, 0, 0}, {0, {RELEASE, 9}, 0, 0}, {0, {RELEASE, 2}, 0, 0},
		{0, {RELEASE, 3}, 0, 0}, {2, {ALLOC, 15}, 1, 0}, {1, {RELEASE, 1}, 0, 1}, {2, {ALLOC, 15}, 0, 1},
		{2, {ALLOC, 16}, 0, 0}, {0, {RELEASE, 15}, 0, 0}, {1, {RELEASE, 16}, 0, 0}, {0, {LEAVE, 0}, 0, 0},
	},
};

static void add_split(unsigned thread, unsigned at)
{
	if (t.program.n_ops[thread] == 0)
		return;
	sched.split[sched.n_splits].thread = thread;
	sched.split[sched.n_splits].op = t.program.n_ops[thread] - 1;
	sched.split[sched.n_splits].at = at;
	sched.n_splits++;
}

/* The plot with its turns ending at random steps, and with a few neighbours exchanged or moves left out. */
static void make_recycling(uint64_t *rng)
{
	struct program *program = &t.program;
	struct move moves[MAX_MOVES];
	unsigned n = 0, at[THREADS] = {0};

	memcpy(moves, plots[proc_below(rng, PLOTS)], sizeof(moves));
	memset(program, 0, sizeof(*program));
	program->size = 16384;
	program->n_objects = 17;
	for (unsigned i = 8; i < 17; i++)
		program->made_by[i] = THREADS;
	while (n < MAX_MOVES && (n == 0 || moves[n].thread || moves[n].op.object || moves[n].op.verb))
		n++;
	for (uint64_t swaps = proc_below(rng, 3); swaps > 0; swaps--) {
		unsigned i = (unsigned)proc_below(rng, n - 1);
		struct move first = moves[i];

		moves[i] = moves[i + 1];
		moves[i + 1] = first;
	}
	sched.n_splits = sched.n_turns = 0;
	for (unsigned i = 0; i < n; i++) {
		unsigned thread = moves[i].thread;

		if (proc_below(rng, 100) == 0)
			continue;
		if (!moves[i].goes_on)
			add_op(thread, moves[i].op.verb, moves[i].op.object);
		if (moves[i].is_split) {
			/* an allocation that makes a slab has more steps than freeing */
			at[thread] += 1 + (unsigned)proc_below(rng, thread == 2 ? 60 : 10);
			add_split(thread, at[thread]);
		}
		sched.turn[sched.n_turns++] = thread;
	}
}

static void test_recycling(void **state)
{
	uint64_t only = proc_env("FM_PROGRAM", 0), done = 0;
	double start = proc_now();

	(void)state;
	for (uint64_t no = only ? only : 1; done < enough() / 2 && !t.failure[0]; no++) {
		uint64_t rng = proc_mix(t.seed ^ no << 24 ^ 9);

		t.program_no = no;
		make_recycling(&rng);
		/* the first thread's first operation is the first turn */
		interleave(sched.turn[0]);
		done++;
		if (only)
			break;
	}
	finish(done, done, start);
}

/* ---------------------------------------------------------------- freed twice */

/* Slots in the first live word of a slab; the objects behind it are in the second. */
#define FIRST_WORD 64

/* Thread 0's slab has two words. Thread 1 frees in one, so that the slab waits in thread 0's inbox and its frees are not
 * quick; then in the other, or the same, while thread 0 drains and frees that one again. */
static void make_again(unsigned second)
{
	struct program *program = &t.program;

	memset(program, 0, sizeof(*program));
	program->size = 900;
	program->n_objects = FIRST_WORD + 2;
	add_op(1, RELEASE, 0);
	add_op(1, RELEASE, second);
	add_op(0, DRAIN, 0);
	add_op(0, AGAIN, second);
	add_op(0, DRAIN, 0);
	add_op(0, AGAIN, second);
	add_op(2, RELEASE, FIRST_WORD + 1);
	add_op(2, AGAIN, second);
}

static void test_again(void **state)
{
	static const unsigned seconds[] = {FIRST_WORD, 1};
	uint64_t done = 0;
	double start = proc_now();

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		unsigned steps;

		make_again(seconds[i]);
		sched.n_switches = 0;
		interleave(1);
		steps = sched.count;
		sched.n_switches = 2;
		for (unsigned at = 0; at < steps && !t.failure[0]; at++) {
			for (unsigned then = at + 1; then < steps && !t.failure[0]; then++, done++) {
				sched.switches[0].at = at;
				sched.switches[0].to = 0;
				sched.switches[1].at = then;
				sched.switches[1].to = 1;
				interleave(1);
			}
		}
	}
	finish(2, done, start);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_switches), cmocka_unit_test(test_splits),
	                                   cmocka_unit_test(test_recycling), cmocka_unit_test(test_again)};
	struct fm_options options = {.size = sizeof(options), .address_space = 64 * MIB};
	pthread_t thread[THREADS];
	int fd = memfd_create("heap", MFD_CLOEXEC), failed;

	t.seed = proc_seed();
	t.heap = fm_open_fd(fd, FM_CREATE, &options);
	if (!t.heap)
		return 1;
	sem_init(&t.done, 0, 0);
	for (unsigned i = 0; i < THREADS; i++) {
		sem_init(&sched.go[i], 0, 0);
		if (pthread_create(&thread[i], NULL, thread_main, (void *)(uintptr_t)i) != 0)
			return 1;
	}
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	t.task = NULL;
	for (unsigned i = 0; i < THREADS; i++) {
		sem_post(&sched.go[i]);
		pthread_join(thread[i], NULL);
	}
	if (!failed && fm_close(t.heap) != 0)
		failed = 1;
	close(fd);
	return failed;
}
