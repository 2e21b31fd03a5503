/* SPDX-License-Identifier: Apache-2.0
 *
 * Random kill -9 (test 6 of the plan). Threads of a child work on a heap and log every intent and
 * every acknowledgement in shared memory, which outlives them; the parent kills the child at a random
 * time, opens the heap at once and compares it with the log:
 *
 *   - opening needs no flag, and fm_check has no finding;
 *   - every acknowledged object is live at its offset with its content, every acknowledged free is
 *     gone;
 *   - an operation in flight is done or not done, never half; a realloc left the old object or the
 *     new;
 *   - at most one object of each thread in flight is live without an owner (leaked);
 *   - named roots and words of the application page say what was acknowledged.
 *
 * The heap goes on into the next round, over many kills, then a new one is made.
 *
 *   FM_KILLS     kills in all (300)
 *   FM_THREADS   threads of the child (4)
 *   FM_KILL_US   longest life of a child, microseconds (20000)
 *   FM_SEED      choices of the run; the timing stays the scheduler's
 *   FM_KEEP      keep the folder
 */
#define _GNU_SOURCE 1
#include "../support/proc_util.h"

#include <pthread.h>
#include <stdatomic.h>

#define MAX_THREADS 64
#define SLOTS 256       /* of each thread */
#define ROOTS 3         /* names of each thread */
#define RENEW 100       /* rounds that one heap lives */
#define REALLOC_MIN 16  /* bytes: enough content to know a moved object by */

enum op { OP_NONE, OP_ALLOC, OP_FREE, OP_REALLOC, OP_ROOT };

/* An object that was acknowledged: off != 0. Changed only by the holder of the lock, whose intent
 * names the slot meanwhile. */
struct slot {
	_Atomic int lock;
	uint64_t off, size, id;
};

struct root {
	uint64_t off, tag;
	bool present;
};

/* What a thread is doing. The fields are written before op; got says that the library's call
 * returned, new_off what it gave, and that the content is complete. */
struct intent {
	_Atomic int op, got;
	unsigned owner, slot;           /* of the slot, or (op root) owner and number of the root */
	uint64_t old_off, old_size, id, size;
	_Atomic uint64_t new_off;
	struct root root;
};

/* The log; lies in shared memory. */
struct log {
	_Atomic int ready, waiting;
	_Atomic long ops;
	uint64_t table_off[MAX_THREADS];
	struct intent intents[MAX_THREADS];
	struct root roots[MAX_THREADS][ROOTS];
	_Atomic uint64_t counters[MAX_THREADS];
	struct slot slots[MAX_THREADS][SLOTS];
};

/* A thread's table in the heap: offsets of the objects of its slots. */
struct table {
	_Atomic uint64_t off[SLOTS];
};

enum mode { MODE_MIXED, MODE_GROW, MODE_CYCLE };

struct child {
	enum mode mode;
	uint64_t seed;
	bool die;               /* verify in the child, then die unclosed */
};

static struct log *shared;
static unsigned threads;
static uint64_t seed, longest_us;
static char path[PATH_MAX];
static long leaks, kills;

/* ---------------------------------------------------------------- the child */

static fm_heap *child_heap;
static struct child child_mode;

static void root_name(char out[32], unsigned t, unsigned i)
{
	snprintf(out, 32, "root %u of thread %u", i, t);
}

static struct table *table_of(fm_heap *heap, unsigned t)
{
	return fm_at(heap, shared->table_off[t]);
}

static uint64_t choose_size(unsigned slot, uint64_t *rng)
{
	if (slot == 0)
		return (4u << 20) + proc_below(rng, 6u << 20);
	if (slot < 5)
		return (448u << 10) + proc_below(rng, 3u << 20);
	if (slot < 17)
		return (32u << 10) + proc_below(rng, 416u << 10);
	return proc_below(rng, proc_below(rng, 5) ? 512 : 32u << 10);
}

static unsigned choose_slot(enum mode mode, uint64_t *rng)
{
	uint64_t n = proc_below(rng, mode == MODE_GROW ? 50 : 2000);

	if (n == 0)
		return 0;
	if (n < (mode == MODE_GROW ? 8 : 12))
		return (unsigned)(1 + proc_below(rng, 4));
	if (n < (mode == MODE_GROW ? 20 : 100))
		return (unsigned)(5 + proc_below(rng, 12));
	return (unsigned)(17 + proc_below(rng, SLOTS - 17));
}

static void do_alloc(unsigned t, unsigned owner, unsigned slot, uint64_t *rng)
{
	struct intent *in = &shared->intents[t];
	struct slot *s = &shared->slots[owner][slot];
	uint64_t size = choose_size(slot, rng), id = proc_rand(rng);
	unsigned way = (unsigned)proc_below(rng, 10);
	void *p;

	in->owner = owner;
	in->slot = slot;
	in->size = size;
	in->id = id;
	in->got = 0;
	in->op = OP_ALLOC;
	if (way == 0)
		p = fm_calloc(child_heap, 1, size);
	else if (way == 1)
		p = fm_aligned_alloc(child_heap, (size_t)16 << proc_below(rng, 9), size);
	else
		p = fm_malloc(child_heap, size);
	proc_must(p != NULL);
	proc_fill(p, id, size);
	in->new_off = fm_offset_of(child_heap, p);
	in->got = 1;
	table_of(child_heap, owner)->off[slot] = in->new_off;
	s->off = in->new_off;
	s->size = size;
	s->id = id;
	in->op = OP_NONE;
}

static void do_free(unsigned t, unsigned owner, unsigned slot)
{
	struct intent *in = &shared->intents[t];
	struct slot *s = &shared->slots[owner][slot];

	in->owner = owner;
	in->slot = slot;
	in->got = 0;
	in->op = OP_FREE;
	table_of(child_heap, owner)->off[slot] = 0;
	proc_must(fm_free(fm_at(child_heap, s->off)) == 0);
	s->off = 0;
	in->op = OP_NONE;
}

static void do_realloc(unsigned t, unsigned owner, unsigned slot, uint64_t *rng)
{
	struct intent *in = &shared->intents[t];
	struct slot *s = &shared->slots[owner][slot];
	uint64_t size = choose_size(slot, rng);
	void *p;

	if (size < REALLOC_MIN)
		size = REALLOC_MIN;
	in->owner = owner;
	in->slot = slot;
	in->old_off = s->off;
	in->old_size = s->size;
	in->size = size;
	in->id = s->id;
	in->got = 0;
	in->op = OP_REALLOC;
	p = fm_realloc(child_heap, fm_at(child_heap, s->off), size);
	proc_must(p != NULL);
	proc_must(proc_intact(p, s->id, s->size, size));
	proc_fill(p, s->id, size);
	in->new_off = fm_offset_of(child_heap, p);
	in->got = 1;
	table_of(child_heap, owner)->off[slot] = in->new_off;
	s->off = in->new_off;
	s->size = size;
	in->op = OP_NONE;
}

static void do_root(unsigned t, uint64_t *rng)
{
	struct intent *in = &shared->intents[t];
	unsigned i = (unsigned)proc_below(rng, ROOTS);
	struct root *r = &shared->roots[t][i];
	char name[32];

	root_name(name, t, i);
	in->owner = t;
	in->slot = i;
	in->root.present = !r->present || proc_below(rng, 3) != 0;
	in->root.off = shared->table_off[t] + proc_below(rng, SLOTS) * 8;
	in->root.tag = proc_rand(rng);
	in->got = 0;
	in->op = OP_ROOT;
	if (in->root.present)
		proc_must(fm_root_set(child_heap, name, fm_at(child_heap, in->root.off),
		                      in->root.tag) == 0);
	else
		proc_must(fm_root_remove(child_heap, name) == 0);
	in->got = 1;
	*r = in->root;
	in->op = OP_NONE;
}

static void do_count(unsigned t)
{
	_Atomic uint64_t *word = (_Atomic uint64_t *)(void *)((char *)child_heap->mem + PAGE_SIZE) + t;
	uint64_t next = shared->counters[t] + 1;

	*word = next;
	shared->counters[t] = next;
}

/* One operation of thread `t`, mostly on its own slots; a quarter on another thread's. */
static void do_something(unsigned t, enum mode mode, uint64_t *rng)
{
	unsigned owner = proc_below(rng, 4) ? t : (unsigned)proc_below(rng, threads);
	unsigned slot = choose_slot(mode, rng);
	struct slot *s = &shared->slots[owner][slot];
	uint64_t what = proc_below(rng, 100);
	int unlocked = 0;

	shared->ops++;
	if (what < 2) {
		do_root(t, rng);
		return;
	}
	if (what < 6) {
		do_count(t);
		return;
	}
	if (!atomic_compare_exchange_strong(&s->lock, &unlocked, 1))
		return;
	if (s->off == 0)
		do_alloc(t, owner, slot, rng);
	else if (what < 60)
		do_free(t, owner, slot);
	else if (what < 80 && s->size >= REALLOC_MIN)
		do_realloc(t, owner, slot, rng);
	else
		proc_must(proc_intact(fm_at(child_heap, s->off), s->id, s->size, s->size));
	s->lock = 0;
}

/* A thread works for a while, then starts its successor and ends beside it. */
static void *thread_main(void *arg)
{
	unsigned t = (unsigned)(uintptr_t)arg;
	uint64_t rng = proc_mix(child_mode.seed ^ (uint64_t)t << 32 ^ shared->counters[t] << 40);
	uint64_t count = 1 + proc_below(&rng, 3000);
	pthread_attr_t attr;
	pthread_t next;

	rng ^= (uint64_t)shared->ops;
	for (uint64_t i = 0; i < count; i++)
		do_something(t, child_mode.mode, &rng);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	proc_must(pthread_create(&next, &attr, thread_main, arg) == 0);
	pthread_attr_destroy(&attr);
	return NULL;
}

/* Open the heap and work with all threads until killed. */
static int work(void *arg)
{
	child_mode = *(struct child *)arg;
	child_heap = fm_open(path, 0, NULL);
	proc_must(child_heap != NULL);
	shared->ready = 1;
	for (unsigned t = 0; t < threads; t++) {
		pthread_t id;

		proc_must(pthread_create(&id, NULL, thread_main, (void *)(uintptr_t)t) == 0);
	}
	while (shared->ready)
		pause();
	return 0;
}

/* Open, do a few things that grow the file, free, close, again and again until killed. */
static int cycle(void *arg)
{
	uint64_t rng = ((struct child *)arg)->seed;

	while (shared->ready < 2) {
		uint64_t n = proc_below(&rng, 3) * proc_below(&rng, 20);

		child_heap = fm_open(path, 0, NULL);
		proc_must(child_heap != NULL);
		shared->ready = 1;
		for (uint64_t i = 0; i < n; i++)
			do_something(0, MODE_GROW, &rng);
		proc_must(fm_close(child_heap) == 0);
	}
	return 0;
}

/* ---------------------------------------------------------------- comparing heap and log */

struct seen {
	uint64_t off, size;
	bool claimed;
};

struct view {
	fm_heap *heap;
	struct seen *seen;
	size_t count, room;
	long problems;
};

static void problem(struct view *v, const char *what, uint64_t off, uint64_t size)
{
	v->problems++;
	fprintf(stderr, "# kill %ld: %s (offset %#llx, size %llu)\n", kills, what,
	        (unsigned long long)off, (unsigned long long)size);
}

static int view_add(void *p, size_t usable, void *arg)
{
	struct view *v = arg;
	uint64_t off = fm_offset_of(v->heap, p);

	if (v->count == v->room) {
		v->room = v->room ? v->room * 2 : 1024;
		v->seen = realloc(v->seen, v->room * sizeof(*v->seen));
		if (!v->seen)
			abort();
	}
	if (v->count > 0) {
		struct seen *last = &v->seen[v->count - 1];

		if (off < last->off + last->size)
			problem(v, "fm_walk: an object overlaps the one before it", off, usable);
	}
	v->seen[v->count++] = (struct seen){ off, usable, false };
	return 0;
}

static struct seen *view_find(struct view *v, uint64_t off)
{
	size_t low = 0, high = v->count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (v->seen[mid].off == off)
			return &v->seen[mid];
		if (v->seen[mid].off < off)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

/* An acknowledged object must be there with its content. */
static void claim(struct view *v, uint64_t off, uint64_t size, uint64_t id, bool has_content)
{
	struct seen *s = view_find(v, off);

	if (!s)
		problem(v, "an acknowledged object is gone", off, size);
	else if (s->claimed)
		problem(v, "two acknowledged objects share one place", off, size);
	else if (s->size < size)
		problem(v, "an acknowledged object is too short", off, size);
	else if (has_content && !proc_intact(fm_at(v->heap, off), id, size, size))
		problem(v, "an acknowledged object lost its content", off, size);
	if (s)
		s->claimed = true;
}

/* The object, if it is live, nobody else's, and holds the first `upto` bytes of its content. */
static struct seen *find_unclaimed(struct view *v, uint64_t off, uint64_t id, uint64_t size,
                                   uint64_t upto)
{
	struct seen *s = view_find(v, off);

	if (!s || s->claimed || s->size < upto || !proc_intact(fm_at(v->heap, off), id, size, upto))
		return NULL;
	return s;
}

static bool slot_in_flight(unsigned owner, unsigned slot)
{
	for (unsigned t = 0; t < threads; t++) {
		struct intent *in = &shared->intents[t];

		if (in->op != OP_NONE && in->op != OP_ROOT && in->owner == owner && in->slot == slot)
			return true;
	}
	return false;
}

static void check_slots(struct view *v)
{
	for (unsigned t = 0; t < threads; t++) {
		claim(v, shared->table_off[t], sizeof(struct table), 0, false);
		for (unsigned i = 0; i < SLOTS; i++) {
			struct slot *s = &shared->slots[t][i];

			if (slot_in_flight(t, i))
				continue;
			if (s->off)
				claim(v, s->off, s->size, s->id, true);
			if (table_of(v->heap, t)->off[i] != s->off)
				problem(v, "a table of the heap does not say what was acknowledged", s->off, i);
		}
	}
}

/* What was in flight and had returned from the library counts as acknowledged. */
static void check_returned(struct view *v, struct intent *in)
{
	struct slot *s = &shared->slots[in->owner][in->slot];

	if (!in->got || (in->op != OP_ALLOC && in->op != OP_REALLOC))
		return;
	claim(v, in->new_off, in->size, in->id, true);
	s->off = in->new_off;
	s->size = in->size;
	s->id = in->id;
	in->op = OP_NONE;
	table_of(v->heap, in->owner)->off[in->slot] = s->off;
}

/* A free in flight: either. */
static void check_free(struct view *v, struct intent *in)
{
	struct slot *s = &shared->slots[in->owner][in->slot];
	struct seen *found = find_unclaimed(v, s->off, s->id, s->size, s->size);

	if (found)
		found->claimed = true;
	else
		s->off = 0;
	table_of(v->heap, in->owner)->off[in->slot] = s->off;
}

/* A realloc in flight: the old object, or the new, or both; what is found is freed. Returns the number
 * of objects that may be live without an owner. */
static long check_realloc(struct view *v, struct intent *in)
{
	struct slot *s = &shared->slots[in->owner][in->slot];
	uint64_t common = in->size < in->old_size ? in->size : in->old_size;
	struct seen *found = find_unclaimed(v, in->old_off, in->id, in->old_size, common);
	bool is_old = found != NULL;

	for (size_t i = 0; i < v->count && !found; i++)
		if (v->seen[i].size >= in->size)
			found = find_unclaimed(v, v->seen[i].off, in->id, in->old_size, common);
	if (!found)
		problem(v, "a realloc left neither the old nor the new object", in->old_off, in->size);
	else
		found->claimed = true;
	s->off = 0;
	table_of(v->heap, in->owner)->off[in->slot] = 0;
	if (found && fm_free(fm_at(v->heap, found->off)) != 0)
		problem(v, "what a realloc left can't be freed", found->off, found->size);
	return is_old;
}

static long check_in_flight(struct view *v)
{
	long may_leak = 0;

	for (unsigned t = 0; t < threads; t++)
		check_returned(v, &shared->intents[t]);
	for (unsigned t = 0; t < threads; t++) {
		struct intent *in = &shared->intents[t];

		if (in->op == OP_REALLOC)
			may_leak += check_realloc(v, in);
		else if (in->op == OP_ALLOC || in->op == OP_ROOT)
			may_leak++;
	}
	/* Last: the place of a short object that was freed may be a new object's by now. */
	for (unsigned t = 0; t < threads; t++)
		if (shared->intents[t].op == OP_FREE)
			check_free(v, &shared->intents[t]);
	return may_leak;
}

static bool root_is(struct view *v, const char *name, const struct root *r)
{
	void *p = fm_root_get(v->heap, name, r->tag);

	if (!r->present)
		return !p && errno == ENOENT;
	return p && fm_offset_of(v->heap, p) == r->off;
}

static void check_roots(struct view *v)
{
	for (unsigned t = 0; t < threads; t++) {
		struct intent *in = &shared->intents[t];
		_Atomic uint64_t *word = (_Atomic uint64_t *)(void *)((char *)v->heap->mem + PAGE_SIZE) + t;

		for (unsigned i = 0; i < ROOTS; i++) {
			struct root *r = &shared->roots[t][i];
			bool in_flight = in->op == OP_ROOT && in->slot == i;
			char name[32];

			root_name(name, t, i);
			if (in_flight && root_is(v, name, &in->root))
				*r = in->root;
			else if (!root_is(v, name, r) && !(in_flight && in->got))
				problem(v, "a root does not say what was acknowledged", r->off, r->tag);
			else if (in_flight && in->got)
				problem(v, "a root set before the kill is not there", in->root.off, i);
		}
		if (*word != shared->counters[t] && *word != shared->counters[t] + 1)
			problem(v, "a word of the application page is not what was stored", *word,
			        shared->counters[t]);
		shared->counters[t] = *word;
	}
}

/* Compare the open heap with the log; afterwards both say the same, and nothing is in flight. Returns
 * the number of problems, each of which was printed. */
static long verify(fm_heap *heap)
{
	struct view v = { heap, NULL, 0, 0, 0 };
	long unowned = 0, may_leak;

	if (proc_check(heap) != 0)
		problem(&v, "fm_check has findings", 0, 0);
	if (fm_walk(heap, view_add, &v) != 0)
		problem(&v, "fm_walk failed", 0, 0);
	check_slots(&v);
	may_leak = check_in_flight(&v);
	check_roots(&v);
	for (size_t i = 0; i < v.count; i++) {
		if (v.seen[i].claimed)
			continue;
		unowned++;
		if (fm_free(fm_at(heap, v.seen[i].off)) != 0)
			problem(&v, "a leaked object can't be freed", v.seen[i].off, v.seen[i].size);
		if (unowned > may_leak)
			problem(&v, "an object that nobody was allocating is live", v.seen[i].off,
			        v.seen[i].size);
	}
	leaks += unowned;
	for (unsigned t = 0; t < threads; t++) {
		shared->intents[t].op = OP_NONE;
		for (unsigned i = 0; i < SLOTS; i++)
			shared->slots[t][i].lock = 0;
	}
	if (unowned && proc_check(heap) != 0)
		problem(&v, "fm_check has findings after the leaked objects were freed", 0, 0);
	free(v.seen);
	return v.problems;
}

/* Open, which must succeed at once, verify, and close or (in a child) die. */
static int verify_and_leave(void *arg)
{
	const struct child *c = arg;
	fm_heap *heap = fm_open(path, 0, NULL);

	proc_must(heap != NULL);
	proc_must(verify(heap) == 0);
	if (c->die)
		raise(SIGKILL);
	proc_must(fm_close(heap) == 0);
	return 0;
}

/* Wait for the lock of a process that will be killed, then verify. */
static int wait_and_verify(void *arg)
{
	struct fm_options options = { .size = sizeof(options), .wait_ms = 20000 };
	const struct child *c = arg;
	fm_heap *heap;

	shared->waiting = 1;
	heap = fm_open(path, FM_WAIT, &options);
	proc_must(heap != NULL);
	proc_must(verify(heap) == 0);
	if (c->die)
		raise(SIGKILL);
	proc_must(fm_close(heap) == 0);
	return 0;
}

/* ---------------------------------------------------------------- rounds */

static void make_heap(void)
{
	fm_heap *heap;

	unlink(path);
	memset(shared, 0, sizeof(*shared));
	heap = fm_open(path, FM_CREATE | FM_EXCL, NULL);
	assert_non_null(heap);
	for (unsigned t = 0; t < threads; t++) {
		struct table *table = fm_calloc(heap, 1, sizeof(*table));
		char name[32];

		assert_non_null(table);
		shared->table_off[t] = fm_offset_of(heap, table);
		snprintf(name, sizeof(name), "table %u", t);
		assert_int_equal(fm_root_set(heap, name, table, t), 0);
	}
	assert_int_equal(fm_close(heap), 0);
}

static void verify_here(void)
{
	fm_heap *heap = fm_open(path, 0, NULL);

	if (!heap)
		fail_msg("kill %ld: opening failed: %s (%s)", kills, strerror(errno), fm_last_error());
	assert_int_equal(verify(heap), 0);
	assert_int_equal(fm_close(heap), 0);
}

static void kill_child(pid_t pid)
{
	int end = proc_kill(pid);

	kills++;
	if (end != -SIGKILL)
		fail_msg("kill %ld: the child ended by itself: %d", kills, end);
}

/* A working child, killed; with a waiter behind it that takes the heap over and verifies it. */
static void round_with_waiter(struct child *c, uint64_t *rng)
{
	pid_t worker = proc_start(work, c, PROC_LIMIT_MS), waiter;
	int end;

	assert_true(proc_wait_flag(&shared->ready, 1, 10000));
	c->die = proc_below(rng, 2) != 0;
	waiter = proc_start(wait_and_verify, c, PROC_LIMIT_MS);
	assert_true(proc_wait_flag(&shared->waiting, 1, 10000));
	proc_sleep_us(proc_below(rng, longest_us));
	kill_child(worker);
	end = proc_end(waiter);
	assert_int_equal(end, c->die ? -SIGKILL : 0);
}

static void round_of_kill(uint64_t *rng)
{
	struct child c = { .seed = proc_rand(rng) };
	uint64_t what = proc_below(rng, 100);
	pid_t pid;

	shared->ready = 0;
	shared->waiting = 0;
	c.mode = what < 70 ? MODE_MIXED : what < 82 ? MODE_GROW : MODE_CYCLE;
	if (what >= 94) {
		c.mode = MODE_MIXED;
		round_with_waiter(&c, rng);
		return;
	}
	pid = proc_start(c.mode == MODE_CYCLE ? cycle : work, &c, PROC_LIMIT_MS);
	if (proc_below(rng, 2))
		assert_true(proc_wait_flag(&shared->ready, 1, 10000));
	proc_sleep_us(proc_below(rng, longest_us));
	kill_child(pid);

	/* Every third time the heap goes dirty from hand to hand, verified but never closed. */
	if (proc_below(rng, 3) == 0) {
		c.die = true;
		assert_int_equal(proc_run(verify_and_leave, &c), -SIGKILL);
	} else {
		verify_here();
	}
}

static void test_kill_working(void **state)
{
	long rounds = (long)proc_env("FM_KILLS", 300) * 4 / 5, ops = 0;
	uint64_t rng = seed;
	double start = proc_now();

	(void)state;
	kills = leaks = 0;
	for (long i = 0; i < rounds; i++) {
		if (i % RENEW == 0) {
			ops += i ? shared->ops : 0;
			make_heap();
		}
		round_of_kill(&rng);
	}
	ops += shared->ops;
	printf("# %ld kills of %u threads, %.0f a second; %ld operations, %ld objects leaked\n", kills,
	       threads, (double)kills / (proc_now() - start), ops, leaks);
	assert_true(rounds == 0 || ops > rounds);
	assert_true(rounds == 0 || shared->counters[0] > 0);
}

/* ---------------------------------------------------------------- creation */

struct creation {
	_Atomic int opened;
	_Atomic long objects;
};

static int create(void *arg)
{
	struct creation *c = arg;
	fm_heap *heap = fm_open(path, FM_CREATE, NULL);

	proc_must(heap != NULL);
	c->opened = 1;
	for (long i = 1; c->opened; i++) {
		void *p = i < 10000 ? fm_malloc(heap, 40) : heap->mem;

		proc_must(p != NULL);
		if (i < 10000)
			c->objects = i;
	}
	return 0;
}

/* Number of files in the folder. */
static int count_files(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int n = 0;

	assert_non_null(d);
	while ((e = readdir(d)) != NULL)
		n += e->d_name[0] != '.' || (e->d_name[1] != '\0' && e->d_name[1] != '.');
	closedir(d);
	return n;
}

static bool has_unnamed_files(const char *dir)
{
	int fd = open(dir, O_TMPFILE | O_RDWR, 0600);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* Kill a creation; `old_size` is -1 without a file, or the size of the zero file that is taken over.
 * Returns whether the creation was complete. */
static bool kill_creation(struct creation *c, uint64_t *rng, off_t old_size, uint64_t within_us)
{
	fm_heap *heap;
	uint64_t objects;
	pid_t pid;

	unlink(path);
	c->opened = 0;
	c->objects = 0;
	if (old_size >= 0) {
		int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);

		assert_true(fd >= 0);
		assert_int_equal(ftruncate(fd, old_size), 0);
		close(fd);
	}
	pid = proc_start(create, c, PROC_LIMIT_MS);
	proc_sleep_us(proc_below(rng, within_us));
	kill_child(pid);

	heap = fm_open(path, old_size >= 0 ? FM_CREATE : 0, NULL);
	if (!heap && errno == ENOENT && old_size < 0 && !c->opened)
		return false;
	if (!heap)
		fail_msg("kill %ld: creation (old size %ld) killed, opening failed: %s (%s)", kills,
		         (long)old_size, strerror(errno), fm_last_error());
	assert_int_equal(proc_check(heap), 0);
	objects = proc_count_objects(heap);
	assert_in_range(objects, (uint64_t)c->objects, (uint64_t)c->objects + 1);
	assert_non_null(fm_malloc(heap, 100));
	assert_int_equal(fm_close(heap), 0);
	return c->opened != 0;
}

/* Microseconds that a creation takes at least. */
static uint64_t time_creation(const char *dir)
{
	char probe[PATH_MAX];
	double least = 1;

	proc_path(probe, dir, "probe");
	for (int i = 0; i < 5; i++) {
		double start = proc_now(), took;
		fm_heap *heap = fm_open(probe, FM_CREATE | FM_EXCL, NULL);

		took = proc_now() - start;
		assert_non_null(heap);
		assert_int_equal(fm_close(heap), 0);
		unlink(probe);
		least = took < least ? took : least;
	}
	return (uint64_t)(least * 1e6);
}

/* A creation killed at any time leaves no file, or a heap that opens; a zero file that was being
 * taken over can be taken over again. */
static void test_kill_creating(void **state)
{
	static const off_t sizes[] = { -1, -1, 0, 4096, 65536, 1 << 20 };
	char *dir = *state;
	struct creation *c = proc_shared(sizeof(*c));
	uint64_t rng = seed + 1, took_us;
	double start;
	long rounds = (long)proc_env("FM_KILLS", 300) / 5, complete = 0;

	kills = 0;
	unlink(path);
	took_us = time_creation(dir);
	start = proc_now();
	for (long i = 0; i < rounds; i++)
		complete += kill_creation(c, &rng, sizes[proc_below(&rng, 6)], 2 * took_us + 400);
	printf("# %ld kills around creation (of %llu us), %.0f a second; %ld were complete\n", kills,
	       (unsigned long long)took_us, (double)kills / (proc_now() - start), complete);
	unlink(path);
	if (has_unnamed_files(dir))
		assert_int_equal(count_files(dir), 0);
}

static int setup(void **state)
{
	char *dir = proc_dir_make();

	seed = proc_seed();
	threads = (unsigned)proc_env("FM_THREADS", 4);
	longest_us = proc_env("FM_KILL_US", 20000);
	if (threads < 1 || threads > MAX_THREADS)
		threads = 4;
	shared = proc_shared(sizeof(*shared));
	proc_path(path, dir, "heap");
	*state = dir;
	return 0;
}

static int teardown(void **state)
{
	proc_dir_remove(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kill_working),
		cmocka_unit_test(test_kill_creating),
	};

	return cmocka_run_group_tests_name("kill", tests, setup, teardown);
}
