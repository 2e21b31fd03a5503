/* SPDX-License-Identifier: Apache-2.0
 *
 * Where page faults were, as hints of where to look for written pages (src/store/hints.h): with them a commit looks at few
 * pages, and whatever they say, it misses none.
 *
 *   FM_SEED      which pages the random test writes, and what the hints are
 *   FM_COMMITS   of it (600)
 */
#define _GNU_SOURCE 1
#include "scan_util.h"

#include <signal.h>

#define HINTS 4096u

static struct {
	uint64_t address[HINTS]; /* what the table tells */
	unsigned n;
	unsigned begun, ended;   /* times */
	int refused;             /* so sampling fails; 0: it works */
	uint8_t *stored_by_handler;
} h;

/* ---------------------------------------------------------------- told hints */

static int begin_told(struct os_samples *samples)
{
	(void)samples;
	h.begun++;
	return -h.refused;
}

static unsigned read_told(struct os_samples *samples, uint64_t *addresses, unsigned n)
{
	unsigned taken = 0;

	(void)samples;
	while (taken < n && h.n > 0)
		addresses[taken++] = h.address[--h.n];
	return taken;
}

static void end_told(struct os_samples *samples)
{
	(void)samples;
	h.ended++;
}

static const struct os_calls told = {.sample_faults = begin_told, .read_samples = read_told, .end_samples = end_told};

static void tell(uint64_t address)
{
	if (h.n < HINTS)
		h.address[h.n++] = address;
}

static void tell_page(size_t page)
{
	tell((uintptr_t)t.p + page * PAGE + page % PAGE);
}

/* The heap, with hints that are told from then on. */
static void make_told(int refused)
{
	memset(&h, 0, sizeof(h));
	h.refused = refused;
	t.samples = &told;
	make_heap(0, NULL);
}

static void drop_told(void)
{
	drop_heap();
	t.samples = NULL;
}

/* Finds of few faults, until samples are taken. */
static void until_begun(void)
{
	for (unsigned i = 0; i < 1000 && !heap_of_handle(t.heap)->store.atomic->track.hints.is_on; i++) {
		t.p[i * PAGE]++;
		commit();
	}
	assert_true(heap_of_handle(t.heap)->store.atomic->track.hints.is_on);
}

/* With the kernel's own. */
static void make_sampled(void)
{
	make_heap(0, NULL);
	if (heap_of_handle(t.heap)->store.atomic->track.hints.is_refused) {
		drop_heap();
		print_message("# the system allows no samples of page faults\n");
		skip();
	}
	until_begun();
}

/* ---------------------------------------------------------------- tests */

/* With the kernel's own samples commits look at no more pages than `store` says of each, and miss nothing. */
static void looks_at_few(size_t (*store)(size_t commit))
{
	unsigned few = 0, commits = 0;

	make_sampled();
	for (; commits < 400; commits++) {
		size_t most = store(commits);

		commit();
		few += t.scanned <= most * PAGE;
	}
	/* one of 64 goes to the end to see that faults are counted right */
	assert_true(PROC_SANITIZED || few > commits * 9 / 10);
	all_is_committed();
	drop_heap();
}

static size_t store_anywhere(size_t commit)
{
	size_t pages = 1 + commit % 9;

	for (size_t i = 0; i < pages; i++)
		t.p[(commit * 7919 + i * 1009) % PAGES * PAGE]++;
	return 3 * pages;
}

static void few_pages_are_looked_at(void **state)
{
	(void)state;
	looks_at_few(store_anywhere);
}

static size_t store_into_neighbours(size_t commit)
{
	size_t page = commit * 7919 % (PAGES - 1000), pages = 2 + commit % 3;

	for (size_t i = 0; i < pages; i++)
		t.p[(page + i) * PAGE]++;
	t.p[(page + 500) * PAGE]++;
	return pages + 2 + 3;
}

/* Neighbours that have had a fault each are no run that was opened at one: the two of an object across them, too. */
static void neighbours_are_told_apart(void **state)
{
	(void)state;
	looks_at_few(store_into_neighbours);
}

static size_t store_into_every_other(size_t commit)
{
	size_t page = commit * 7919 % (PAGES - 1000), pages = 15 + commit % 10;

	for (size_t i = 0; i < pages; i++)
		t.p[(page + 2 * i) * PAGE]++;
	return 2 * pages + 2;
}

/* Many of them in one place are one look. */
static void near_ones_are_looked_at_together(void **state)
{
	(void)state;
	looks_at_few(store_into_every_other);
}

static void *store_there(void *page)
{
	for (unsigned i = 0; i < 5; i++)
		((uint8_t *)page)[i * 3000 * PAGE]++;
	return NULL;
}

/* And those of another thread. */
static void other_threads_too(void **state)
{
	unsigned few = 0;
	pthread_t thread;

	(void)state;
	make_sampled();
	for (unsigned i = 0; i < 50; i++) {
		assert_int_equal(pthread_create(&thread, NULL, store_there, t.p + i * PAGE), 0);
		assert_int_equal(pthread_join(thread, NULL), 0);
		commit();
		few += t.scanned < HEAP / 2;
	}
	assert_true(PROC_SANITIZED || few > 25);
	all_is_committed();
	drop_heap();
}

/* Hints that are right, wrong, missing, too many, doubled, of other memory. */
static void whatever_they_say_nothing_is_missed(void **state)
{
	uint64_t seed = proc_seed(), rng = seed, early = 0;
	unsigned commits = (unsigned)proc_env("FM_COMMITS", 600);
	size_t written[100];

	(void)state;
	make_told(0);
	for (unsigned i = 0; i < commits; i++) {
		unsigned n = (unsigned)(proc_rand(&rng) % (proc_rand(&rng) % 16 ? 8 : 100)), kind = proc_rand(&rng) % 8;
		size_t near = proc_rand(&rng) % PAGES, width = proc_rand(&rng) % 3 ? PAGES : 40;

		h.n = 0;
		for (unsigned k = 0; k < n; k++) {
			written[k] = (near + proc_rand(&rng) % width) % PAGES;
			t.p[written[k] * PAGE + proc_rand(&rng) % PAGE]++;
			if (kind < 5 || proc_rand(&rng) % 4)
				tell_page(written[k]);
			if (kind == 6)
				tell_page(written[k]);
		}
		for (uint64_t k = kind < 4 ? 0 : proc_rand(&rng) % (proc_rand(&rng) % 8 ? 4 : HINTS); k > 0; k--)
			tell(k % 3 ? proc_rand(&rng) : (uintptr_t)t.heap->mem + proc_rand(&rng) % (2 * HEAP));
		commit();
		early += t.scanned < HEAP / 2;
		for (unsigned k = 0; k < n; k++)
			if (!is_committed(written[k]))
				fail_msg("seed %llu, commit %u: page %zu is missing", (unsigned long long)seed, i, written[k]);
	}
	all_is_committed();
	assert_true(PROC_SANITIZED || early > commits / 10);
	drop_told();
}

/* As if the kernel had opened pages at one fault, of the first, the last or another one: they count once, and all are
 * found, however far they go. */
static void a_run_counts_once(void **state)
{
	static const size_t lengths[] = {2, 60, 60};
	unsigned early = 0;

	(void)state;
	make_told(0);
	until_begun();
	for (size_t i = 0; i < 99; i++) {
		size_t page = i * 80 + 15, len = lengths[i % 3], other = PAGES - 1 - i;

		for (size_t k = 0; k < len; k++)
			t.p[(page + k) * PAGE]++;
		t.own += len - 1;
		h.n = 0;
		tell_page(page + i % len);
		if (i % 3) {
			t.p[other * PAGE]++;
			if (i % 3 == 1)
				tell_page(other);
		}
		commit();
		for (size_t k = 0; k < len; k++)
			assert_true(is_committed(page + k));
		assert_true(is_committed(other));
		early += t.scanned < HEAP / 2;
	}
	assert_true(PROC_SANITIZED || early > 60);
	drop_told();
}

/* Samples that do not help are no longer taken, and are again when there are few faults a commit. */
static void they_end_and_begin_again(void **state)
{
	(void)state;
	make_told(0);
	until_begun();
	for (unsigned turn = 0; turn < 2; turn++) {
		unsigned begun = h.begun, ended = h.ended, commits;

		for (commits = 0; commits < 100 && h.ended == ended; commits++) {
			for (size_t page = 0; page < 1000; page++)
				t.p[page * PAGE]++;
			commit();
		}
		assert_int_equal(h.ended, ended + 1);
		assert_true(commits >= 16);
		for (commits = 0; commits < 300; commits++) {
			for (size_t page = 0; page < 100; page++)
				t.p[page * PAGE]++;
			commit();
		}
		assert_int_equal(h.begun, begun);
		for (commits = 0; commits < 2000 && h.begun == begun; commits++) {
			t.p[commits * PAGE]++;
			commit();
		}
		assert_true(PROC_SANITIZED || (h.begun == begun + 1 && commits >= 100));
		if (h.begun == begun)
			break;
	}
	all_is_committed();
	assert_int_equal(h.begun - h.ended, heap_of_handle(t.heap)->store.atomic->track.hints.is_on);
	drop_told();
	assert_int_equal(h.begun, h.ended);
}

/* A system that does not allow it is asked once; where there are too many threads, again later. */
static void refused(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		make_told(i ? E2BIG : EACCES);
		for (unsigned k = 0; k < 600; k++) {
			t.p[k * PAGE]++;
			commit();
			assert_true(is_committed(k));
		}
		assert_true(i ? h.begun > 1 || PROC_SANITIZED : h.begun == 1);
		drop_told();
		assert_int_equal(h.ended, 0);
	}
}

/* They cost memory and time: one heap of a process has them. */
static void one_heap_has_them(void **state)
{
	struct hints first = {.few = 1000, .wait = 1}, second = first;

	(void)state;
	memset(&h, 0, sizeof(h));
	os = &told;
	hints_begin(&first, 100000);
	hints_begin(&second, 100000);
	assert_true(first.is_on && !second.is_on && h.begun == 1);
	hints_end(&first);
	second.few = 1000;
	hints_begin(&second, 100000);
	assert_true(!first.is_on && second.is_on && h.begun == 2);
	hints_end(&first);
	hints_end(&second);
	assert_int_equal(h.ended, 2);
	os = &os_linux;
}

/* ---------------------------------------------------------------- faults of copying */

static void store_now(int sig)
{
	(void)sig;
	++*h.stored_by_handler;
}

/* Raised in the middle of the copying, whose faults are none of the heap. */
static int write_view_and_raise(int fd, void *view, const struct os_piece *pieces, unsigned n)
{
	if (h.stored_by_handler)
		raise(SIGUSR1);
	return os_linux.write_view(fd, view, pieces, n);
}

/* However large folios are here: entries are copied behind others that were written. */
static uint64_t nothing_dirtied(void)
{
	return 0;
}

static void make_copying(void)
{
	make_told(0);
	until_begun();
	t.table.process_fault_count = os_linux.process_fault_count; /* fm_commit's, too */
	t.table.dirtied = nothing_dirtied;
	assert_non_null(heap_of_handle(t.heap)->store.atomic->place.view);
}

/* Those of a page that is stored into for the first time since it was unmapped. */
static void faults_of_copying_do_not_count(void **state)
{
	unsigned few = 0;

	(void)state;
	make_copying();
	for (size_t i = 0; i < 60; i++) {
		uint64_t before;

		assert_int_equal(journal_checkpoint(&heap_of_handle(t.heap)->store.atomic->journal), 0);
		for (size_t k = 0; k < 20; k++)
			t.p[(5000 + k * 100) * PAGE]++;
		commit(); /* written */
		for (size_t k = 0; k < 20; k++)
			t.p[(8000 + k * 100) * PAGE]++;
		before = heap_of_handle(t.heap)->store.atomic->place.faults;
		commit(); /* and copied */
		assert_true(heap_of_handle(t.heap)->store.atomic->place.faults > before);
		t.p[(PAGES - 1 - i) * PAGE]++;
		h.n = 0;
		tell_page(PAGES - 1 - i);
		commit();
		assert_true(is_committed(PAGES - 1 - i));
		few += t.scanned <= 3 * PAGE;
	}
	assert_true(PROC_SANITIZED || few > 40);
	drop_told();
}

/* Those of mapping what was committed, to compare with it: whether the find ends early or not. */
static void faults_of_comparing_do_not_count(void **state)
{
	const struct atomic *atomic;
	unsigned few = 0;

	(void)state;
	make_copying();
	atomic = heap_of_handle(t.heap)->store.atomic;
	assert_non_null(atomic->committed);
	for (size_t i = 0; i < 60; i++) {
		size_t pages = i % 2 ? 1 : 100;

		assert_int_equal(os->advise((void *)(uintptr_t)atomic->committed, heap_of_handle(t.heap)->store.size, OS_DROP), 0);
		h.n = 0;
		for (size_t k = 0; k < pages; k++)
			t.p[(PAGES - 1 - i - k * 200) * PAGE]++;
		if (pages == 1)
			tell_page(PAGES - 1 - i);
		commit();
		for (size_t k = 0; k < pages; k++)
			assert_true(is_committed(PAGES - 1 - i - k * 200));
		assert_true(PROC_SANITIZED || pages > 1 || atomic->track.tally.own > 0 || t.scanned > 3 * PAGE);
		t.p[i * PAGE]++;
		tell_page(i);
		commit();
		assert_true(is_committed(i));
		few += t.scanned <= 3 * PAGE;
	}
	assert_true(PROC_SANITIZED || few > 40);
	drop_told();
}

/* A hint at a page that was found and is as before explains no fault. */
static void unchanged_pages_explain_nothing(void **state)
{
	(void)state;
	make_told(0);
	until_begun();
	for (size_t i = 0; i < 60; i++) {
		volatile uint8_t *same = t.p + (500 + 10 * i) * PAGE;
		size_t other = PAGES - 1 - i;

		*same = *same;
		same[PAGE]++;
		t.p[other * PAGE]++;
		t.own++; /* as if the one of the first page was counted before */
		h.n = 0;
		tell_page(500 + 10 * i);
		tell_page(501 + 10 * i);
		commit();
		assert_true(is_committed(501 + 10 * i) && is_committed(other));
	}
	drop_told();
}

static struct {
	volatile uint8_t *at; /* stored into at the second scan */
	unsigned scans;
} second;

static int store_at_second(int fd, bool is_dense, uint64_t *from, uint64_t to, struct os_range *found, unsigned n)
{
	if (++second.scans == 2)
		++*second.at;
	return seen_scan(fd, is_dense, from, to, found, n);
}

/* What a look at the hints has told is forgotten when the find goes to the end: a store between both, into a page that
 * was looked at, is in the next commit. */
static void a_store_behind_the_look(void **state)
{
	(void)state;
	make_told(0);
	until_begun();
	t.table.scan = store_at_second;
	for (size_t i = 0; i < 20; i++) {
		size_t page = 100 + i * 7, other = 20000 + i * 5;

		t.p[page * PAGE]++;
		t.p[other * PAGE]++;
		h.n = 0;
		tell_page(page);
		second.at = t.p + page * PAGE + 320;
		second.scans = 0;
		commit();
		commit();
		assert_true(second.scans >= 2 && is_committed(page) && is_committed(other));
	}
	drop_told();
}

/* What was found out by one find is forgotten by the next: the same pages, other lines. */
static void other_lines_of_the_same_pages(void **state)
{
	uint64_t lines = PAGE / 64;
	unsigned known = 0;

	(void)state;
	make_told(0);
	until_begun();
	for (size_t i = 0; i < 3 * lines; i++) {
		h.n = 0;
		for (size_t k = 0; k < 5; k++) {
			t.p[k * 1000 * PAGE + (i + k) % lines * 64]++;
			tell_page(k * 1000);
		}
		commit();
		known += tally_knows_all(&heap_of_handle(t.heap)->store.atomic->track.tally);
		for (size_t k = 0; k < 5; k++)
			assert_true(is_committed(k * 1000));
	}
	assert_true(PROC_SANITIZED || known > 2 * lines);
	drop_told();
}

static void a_handler_that_stores_counts(void **state)
{
	struct sigaction action = {.sa_handler = store_now}, before;

	(void)state;
	assert_int_equal(sigaction(SIGUSR1, &action, &before), 0);
	make_copying();
	t.table.write_view = write_view_and_raise;
	for (size_t i = 0; i < 60; i++) {
		h.stored_by_handler = NULL;
		for (size_t k = 0; k < 20; k++)
			t.p[(5000 + k * 100) * PAGE]++;
		commit(); /* written */
		for (size_t k = 0; k < 20; k++) {
			t.p[(5000 + k * 100) * PAGE]++;
			tell_page(5000 + k * 100);
		}
		h.stored_by_handler = t.p + i * PAGE;
		commit(); /* by the view */
		h.stored_by_handler = NULL;
		t.p[(PAGES - 1 - i) * PAGE]++;
		h.n = 0;
		tell_page(PAGES - 1 - i);
		commit();
		assert_true(is_committed(i) && is_committed(PAGES - 1 - i));
	}
	drop_told();
	assert_int_equal(sigaction(SIGUSR1, &before, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		API_TEST(few_pages_are_looked_at),
		API_TEST(neighbours_are_told_apart),
		API_TEST(near_ones_are_looked_at_together),
		API_TEST(other_threads_too),
		API_TEST(whatever_they_say_nothing_is_missed),
		API_TEST(a_run_counts_once),
		API_TEST(they_end_and_begin_again),
		API_TEST(refused),
		API_TEST(one_heap_has_them),
		API_TEST(faults_of_copying_do_not_count),
		API_TEST(faults_of_comparing_do_not_count),
		API_TEST(unchanged_pages_explain_nothing),
		API_TEST(a_store_behind_the_look),
		API_TEST(other_lines_of_the_same_pages),
		API_TEST(a_handler_that_stores_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
