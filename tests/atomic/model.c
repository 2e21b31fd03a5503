/* SPDX-License-Identifier: Apache-2.0
 *
 * Random operations on an atomic heap against a model of it, on every way of finding pages, with one thread and with
 * several (test 11 of the plan): allocating, freeing also what other threads allocated, resizing, stores, roots, in
 * sections, nested and aborted; commits by any thread, rollbacks, closing with and without a commit, opening elsewhere,
 * snapshots, conversion there and back. The model knows what there should be now and at the last commit; after each of
 * these the heap holds exactly that: contents, sizes, roots, no object more, none less, and fm_check finds nothing.
 *
 *   FM_OPS    operations in all (200000)
 *   FM_SEED   which
 */
#define _GNU_SOURCE 1
#include "../support/proc_util.h"
#include "../support/way.h"

#include <pthread.h>

#define PARTS 3
#define SLOTS 300
#define ROOTS 4

static const char *const ways[] = {"uffd", "mprotect", "pagemap", "declared"};

struct slot {
	uint64_t off, id;
	size_t size, alignment;
};

/* What belongs to one thread. */
struct part {
	struct slot slots[SLOTS];
	uint64_t roots[ROOTS]; /* offsets, 0: none */
	uint64_t word;         /* in the application's page */
};

static struct {
	uint64_t seed, rng;
	unsigned threads;
	const char *way;
	char *dir, path[256], copy[256];
	fm_heap *heap;
	bool commits_at_close;
	struct part now[PARTS], committed[PARTS];
	uint64_t rollbacks, reopened, snapshots, aborts, converted;
} t;

struct worker {
	pthread_t thread;
	unsigned number;
	uint64_t rng, operations;
	struct part *part;
	bool aborts;
	char error[200];
};

#define MUST(w, condition) \
	do { \
		if (!(condition) && !(w)->error[0]) \
			snprintf((w)->error, sizeof((w)->error), "line %d: %s: %s", __LINE__, #condition, fm_last_error()); \
	} while (0)

static void *writing(fm_heap *heap, void *p, size_t len)
{
	if (strcmp(t.way, "declared") == 0 && fm_will_write(heap, p, len))
		return NULL;
	return p;
}

static uint64_t *word_of(fm_heap *heap, unsigned part)
{
	return (uint64_t *)(void *)((char *)heap->mem + PAGE_SIZE + 512 * part);
}

/* ---------------------------------------------------------------- operations */

static size_t any_size(uint64_t *rng)
{
	uint64_t n = proc_below(rng, 1000);

	return n < 800 ? proc_below(rng, 400) + 1 : n < 960 ? proc_below(rng, 9000) + 1
	       : n < 996 ? proc_below(rng, 300000) + 1 : proc_below(rng, 6000000) + 1;
}

static void fill_slot(struct worker *w, struct slot *s, void *p, size_t size, size_t alignment)
{
	if (!p)
		return;
	MUST(w, (uintptr_t)p % alignment == 0 && fm_usable_size(p) >= size);
	*s = (struct slot){fm_offset_of(t.heap, p), proc_rand(&w->rng), size, alignment};
	p = writing(t.heap, p, size);
	MUST(w, p);
	if (p)
		proc_fill(p, s->id, size);
}

static void check_slot(struct worker *w, fm_heap *heap, const struct slot *s)
{
	if (s->off)
		MUST(w, proc_intact(fm_at(heap, s->off), s->id, s->size, SIZE_MAX) &&
		        fm_usable_size(fm_at(heap, s->off)) >= s->size);
}

static void set_root(struct worker *w, unsigned k, uint64_t off)
{
	char name[16];

	snprintf(name, sizeof(name), "p%ur%u", w->number, k);
	if (off)
		MUST(w, fm_root_set(t.heap, name, fm_at(t.heap, off), k) == 0);
	else if (w->part->roots[k])
		MUST(w, fm_root_remove(t.heap, name) == 0);
	w->part->roots[k] = off;
}

static void forget_roots(struct worker *w, uint64_t off)
{
	for (unsigned k = 0; k < ROOTS; k++)
		if (w->part->roots[k] == off)
			set_root(w, k, 0);
}

static void operate(struct worker *w)
{
	struct slot *s = &w->part->slots[proc_below(&w->rng, SLOTS)];
	size_t size = any_size(&w->rng), alignment = (size_t)16 << proc_below(&w->rng, 9);
	void *p = fm_at(t.heap, s->off);

	check_slot(w, t.heap, s);
	switch (proc_below(&w->rng, 10)) {
	case 0:
		set_root(w, (unsigned)proc_below(&w->rng, ROOTS), proc_below(&w->rng, 3) ? s->off : 0);
		break;
	case 1:
		if (writing(t.heap, word_of(t.heap, w->number), 8))
			*word_of(t.heap, w->number) = w->part->word = proc_rand(&w->rng);
		break;
	case 2:
		if (p)
			fill_slot(w, s, p, s->size, s->alignment);
		break;
	case 3:
		if (p) {
			forget_roots(w, s->off);
			p = fm_realloc(t.heap, p, size);
			MUST(w, p && proc_intact(p, s->id, s->size, s->size < size ? s->size : size));
			fill_slot(w, s, p, size, 8);
		}
		break;
	default:
		if (p) {
			MUST(w, fm_free(p) == 0);
			forget_roots(w, s->off);
			s->off = 0;
		} else if (proc_below(&w->rng, 5) == 0) {
			fill_slot(w, s, fm_aligned_alloc(t.heap, alignment, size), size, alignment);
		} else if (proc_below(&w->rng, 4) == 0) {
			char *zero = fm_calloc(t.heap, 1, size);

			MUST(w, zero && zero[0] == 0 && zero[size / 2] == 0 && zero[size - 1] == 0);
			fill_slot(w, s, zero, size, 8);
		} else {
			fill_slot(w, s, fm_malloc(t.heap, size), size, 8);
		}
	}
}

static void *work(void *arg)
{
	struct worker *w = arg;

	while (w->operations && !w->error[0]) {
		uint64_t n = proc_below(&w->rng, 20) + 1;
		unsigned depth = (unsigned)proc_below(&w->rng, 3) + 1;

		for (unsigned i = 0; i < depth; i++)
			MUST(w, fm_begin(t.heap) == 0);
		for (n = n < w->operations ? n : w->operations; n; n--, w->operations--)
			operate(w);
		if (w->aborts && w->operations == 0) {
			MUST(w, fm_abort(t.heap) == 0);
			return NULL;
		}
		for (unsigned i = 0; i < depth; i++)
			MUST(w, fm_end(t.heap) == 0);
	}
	return NULL;
}

/* ---------------------------------------------------------------- the heap against the model */

static int count_one(void *p, size_t usable, void *arg)
{
	(void)p;
	(void)usable;
	++*(size_t *)arg;
	return 0;
}

static void audit(fm_heap *heap, const struct part parts[PARTS], const char *when)
{
	struct worker w = {.error = ""};
	size_t objects = 0, seen = 0;

	for (unsigned i = 0; i < PARTS; i++) {
		for (unsigned k = 0; k < SLOTS; k++) {
			check_slot(&w, heap, &parts[i].slots[k]);
			objects += parts[i].slots[k].off != 0;
		}
		for (unsigned k = 0; k < ROOTS; k++) {
			char name[16];

			snprintf(name, sizeof(name), "p%ur%u", i, k);
			MUST(&w, fm_root_get(heap, name, k) == fm_at(heap, parts[i].roots[k]));
		}
		MUST(&w, *word_of(heap, i) == parts[i].word);
	}
	MUST(&w, fm_walk(heap, count_one, &seen) == 0);
	MUST(&w, seen == objects);
	MUST(&w, fm_check(heap, NULL, NULL) == 0);
	if (w.error[0])
		fail_msg("seed %llu, %s, %u threads, %s: %s (%zu objects, %zu expected)", (unsigned long long)t.seed, t.way,
		         t.threads, when, w.error, seen, objects);
}

static void restored(const char *when)
{
	memcpy(t.now, t.committed, sizeof(t.now));
	audit(t.heap, t.now, when);
}

static void committed(void)
{
	memcpy(t.committed, t.now, sizeof(t.committed));
}

static fm_heap *open_it(const char *path, unsigned flags, bool commits)
{
	struct fm_options options = {.size = sizeof(options), .address_space = UINT64_C(4) << 30, .commit_at_close = commits};
	fm_heap *heap = fm_open(path, flags, &options);

	if (!heap)
		fail_msg("seed %llu, %s: %s", (unsigned long long)t.seed, t.way, fm_last_error());
	return heap;
}

/* Closed, perhaps a live heap for a while, and opened at another address. */
static void reopen(void)
{
	void *before = t.heap->mem, *blocked = MAP_FAILED;

	assert_int_equal(fm_close(t.heap), 0);
	if (proc_below(&t.rng, 4) == 0) {
		t.heap = open_it(t.path, FM_CONVERT, false);
		audit(t.heap, t.committed, "as a live heap");
		assert_int_equal(fm_close(t.heap), 0);
		t.heap = open_it(t.path, atomic_heap() | FM_CONVERT, false);
		assert_int_equal(fm_close(t.heap), 0);
		t.converted++;
	}
	if (proc_below(&t.rng, 2))
		blocked = mmap(before, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	t.commits_at_close = proc_below(&t.rng, 2);
	t.heap = open_it(t.path, atomic_heap(), t.commits_at_close);
	if (blocked != MAP_FAILED) {
		assert_ptr_not_equal(t.heap->mem, before);
		munmap(blocked, 4096);
	}
	t.reopened++;
	restored("opened again");
}

static void take_snapshot(void)
{
	fm_heap *copy;

	assert_int_equal(fm_snapshot(t.heap, t.copy), 0);
	copy = open_it(t.copy, atomic_heap(), false);
	audit(copy, t.committed, "a snapshot");
	assert_int_equal(fm_close(copy), 0);
	unlink(t.copy);
	t.snapshots++;
}

/* Nobody is at work: something for the whole heap. */
static void between(bool aborted)
{
	uint64_t what = proc_below(&t.rng, 12);

	if (aborted) {
		assert_int_equal(fm_commit(t.heap), -1);
		assert_int_equal(errno, ECANCELED);
		t.aborts++;
		what = 0;
	}
	switch (what) {
	case 0:
	case 1:
		assert_int_equal(fm_rollback(t.heap), 0);
		t.rollbacks++;
		restored("rolled back");
		break;
	case 2:
		assert_int_equal(fm_commit(t.heap), 0);
		committed();
		reopen();
		break;
	case 3:
		/* with what is not committed, which is dropped unless closing commits */
		if (t.commits_at_close)
			committed();
		reopen();
		break;
	case 4:
		take_snapshot();
		break;
	default:
		assert_int_equal(fm_commit(t.heap), 0);
		committed();
	}
}

/* Objects change hands. */
static void exchange(void)
{
	for (unsigned n = 0; n < 40; n++) {
		struct part *a = &t.now[proc_below(&t.rng, PARTS)], *b = &t.now[proc_below(&t.rng, PARTS)];
		unsigned i = (unsigned)proc_below(&t.rng, SLOTS), k = (unsigned)proc_below(&t.rng, SLOTS);
		struct slot s = a->slots[i];
		bool has_root = false;

		for (unsigned r = 0; r < ROOTS; r++)
			has_root = has_root || a->roots[r] == s.off || b->roots[r] == b->slots[k].off;
		if (has_root || a == b)
			continue;
		a->slots[i] = b->slots[k];
		b->slots[k] = s;
	}
}

static void run(uint64_t operations)
{
	memset(t.now, 0, sizeof(t.now));
	memset(t.committed, 0, sizeof(t.committed));
	unlink(t.path);
	setenv("FMALLOC_TRACK", t.way, 1);
	t.commits_at_close = false;
	t.heap = open_it(t.path, atomic_heap() | FM_CREATE, false);
	while (operations) {
		uint64_t n = proc_below(&t.rng, 4) ? 60 : 1500;
		struct worker workers[PARTS];
		bool aborts = proc_below(&t.rng, 10) == 0;

		n = n < operations ? n : operations;
		operations -= n;
		for (unsigned i = 0; i < t.threads; i++)
			workers[i] = (struct worker){.number = i, .rng = proc_rand(&t.rng), .operations = n / t.threads + 1,
			                             .part = &t.now[i], .aborts = aborts && i == 0};
		for (unsigned i = 1; i < t.threads; i++)
			assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
		work(&workers[0]);
		for (unsigned i = 1; i < t.threads; i++)
			assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
		for (unsigned i = 0; i < t.threads; i++)
			if (workers[i].error[0])
				fail_msg("seed %llu, %s, thread %u: %s", (unsigned long long)t.seed, t.way, i, workers[i].error);
		if (t.threads > 1 && !aborts)
			exchange();
		between(aborts);
	}
	audit(t.heap, t.now, "at the end");
	assert_int_equal(fm_close(t.heap), 0);
}

static void every_way(void **state)
{
	uint64_t operations = proc_env("FM_OPS", 200000) / 8;

	t.threads = *(const unsigned *)*state;
	for (unsigned i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		t.way = ways[i];
		run(operations);
	}
	printf("# %u threads: %llu rollbacks, %llu aborts, %llu openings elsewhere, %llu conversions, %llu snapshots\n",
	       t.threads, (unsigned long long)t.rollbacks, (unsigned long long)t.aborts, (unsigned long long)t.reopened,
	       (unsigned long long)t.converted, (unsigned long long)t.snapshots);
	assert_true(t.rollbacks && t.aborts && t.reopened && t.snapshots);
}

int main(void)
{
	static unsigned one = 1, several = PARTS;
	const struct CMUnitTest tests[] = {
		{"one thread", every_way, NULL, NULL, &one},
		{"several threads", every_way, NULL, NULL, &several},
	};
	int r;

	t.seed = proc_seed();
	t.rng = t.seed;
	t.dir = proc_dir_make();
	snprintf(t.path, sizeof(t.path), "%s/heap", t.dir);
	snprintf(t.copy, sizeof(t.copy), "%s/copy", t.dir);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	proc_dir_remove(t.dir);
	return r;
}
