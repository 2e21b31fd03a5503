/* SPDX-License-Identifier: Apache-2.0
 *
 * Scans that end before the heap does, because as many written pages were found as there were page faults (T4, on the
 * way of userfaultfd): they do end early, and nothing is missed. Then each of the conditions by itself: a commit
 * that would be incomplete without it.
 *
 *   FM_SEED      which pages the random test writes
 *   FM_COMMITS   of it (600)
 */
#define _GNU_SOURCE 1
#include "scan_util.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

/* ---------------------------------------------------------------- tests */

/* One store a commit, anywhere: about half of the heap is looked at, and nothing if there was none. A sanitizer's memory
 * costs faults in fm_commit itself, and then scans go to the end. */
static void test_scans_end_early(void **state)
{
	uint64_t sum = 0, nothing = 0;

	(void)state;
	make_heap(0, NULL);
	for (unsigned i = 0; i < 200; i++) {
		size_t page = i * 7919u % PAGES;

		t.p[page * PAGE]++;
		commit();
		sum += t.scanned;
		assert_true(is_committed(page));
		commit();
		nothing += t.scanned == 0;
	}
	assert_true(sum > 0);
	if (!PROC_SANITIZED) {
		assert_true(sum < 200 * (HEAP * 3 / 4));
		assert_true(nothing > 150);
	}
	drop_heap();
}

/* Stores into one part of a large heap: only that is looked at. */
static void test_scans_of_one_place(void **state)
{
	unsigned few = 0;

	(void)state;
	make_heap(0, NULL);
	for (unsigned i = 0; i < 3000; i++) { /* the heap's beginning is forgotten */
		t.p[PAGES / 2 * PAGE + i % 50 * 2 * PAGE]++;
		commit();
		few += i >= 2500 && t.scanned <= 2 * TABLE;
	}
	assert_true(PROC_SANITIZED || few > 400);
	all_is_committed();
	drop_heap();
}

static void store_by_kernel(size_t page, uint64_t value)
{
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	assert_int_equal(write(ends[1], &value, sizeof value), sizeof value);
	assert_int_equal(read(ends[0], t.p + page * PAGE, sizeof value), sizeof value);
	close(ends[0]);
	close(ends[1]);
}

static bool is_rare(size_t page)
{
	return page % 13 == 5;
}

/* Few and many pages, near and far, by the program and by the kernel, with the same bytes, beside pages that are only
 * read, in ranges with pages that nobody touched. */
static void test_nothing_is_missed(void **state)
{
	uint64_t seed = proc_seed(), rng = seed, ended = 0;
	unsigned commits = (unsigned)proc_env("FM_COMMITS", 600);
	size_t written[100];
	volatile uint8_t sum = 0;

	(void)state;
	make_heap(0, is_rare);
	for (unsigned i = 0; i < commits; i++) {
		unsigned n = (unsigned)(proc_rand(&rng) % (proc_rand(&rng) % 16 ? 5 : 100));
		size_t near = proc_rand(&rng) % PAGES, width = proc_rand(&rng) % 3 ? PAGES : 40;

		for (unsigned k = 0; k < n; k++) {
			size_t page = (near + proc_rand(&rng) % width) % PAGES;

			written[k] = page;
			switch (proc_rand(&rng) % 8) {
			case 0:
				sum += t.p[page * PAGE]; /* read only */
				break;
			case 1:
				*(volatile uint8_t *)(t.p + page * PAGE) = t.p[page * PAGE];
				break;
			case 2:
				store_by_kernel(page, proc_rand(&rng));
				break;
			default:
				t.p[page * PAGE + proc_rand(&rng) % PAGE]++;
			}
		}
		commit();
		ended += t.scanned < HEAP;
		for (unsigned k = 0; k < n; k++)
			if (!is_committed(written[k]))
				fail_msg("seed %llu, commit %u: page %zu is missing", (unsigned long long)seed, i, written[k]);
	}
	all_is_committed();
	assert_true(PROC_SANITIZED || ended > 0);
	(void)sum;
	drop_heap();
}

static bool is_in_first(size_t page)
{
	return page < TABLE / PAGE;
}

/* A page that nobody touched is found in a dense range, without a fault: it must not be taken for the one that was written. */
static void test_untouched_pages_do_not_count(void **state)
{
	(void)state;
	make_heap(0, is_in_first);
	for (size_t page = 0; page < TABLE / PAGE; page++)
		if (page != 100)
			t.p[page * PAGE]++;
	commit();
	t.p[(PAGES - 1) * PAGE]++;
	commit();
	all_is_committed();
	drop_heap();
}

/* A scan that failed has found less than the faults before it say. */
static void test_failed_scan(void **state)
{
	(void)state;
	make_heap(0, NULL);
	for (unsigned i = 0; i < 10; i++) {
		t.p[i * 2000 * PAGE]++;
		t.fails = 1;
		assert_int_equal(fm_commit(t.heap), -1);
		assert_int_equal(errno, ENOMEM);
		commit();
		assert_true(is_committed(i * 2000));
	}
	drop_heap();
}

/* A store during the scan is found, and taken for the one before it, unless there was no fault meanwhile. */
static void test_store_beside(void **state)
{
	unsigned early = 0;

	(void)state;
	make_heap(0, NULL);
	for (unsigned i = 0; i < 20; i++) {
		size_t page = PAGES - 1 - i;

		t.p[page * PAGE]++;
		t.beside = t.p + i * PAGE;
		commit();
		assert_true(is_committed(page));
		early += t.scanned < HEAP;
		commit();
		assert_true(is_committed(i));
	}
	assert_true(early < 20);
	drop_heap();
}

/* A system that does not tell how many faults there were, from some time on, and then does again. */
static void test_unknown_count(void **state)
{
	(void)state;
	make_heap(0, NULL);
	for (unsigned i = 0; i < 60; i++) {
		t.is_unknown = i % 20 < 10;
		t.p[i * 300 * PAGE]++;
		commit();
		assert_true(is_committed(i * 300));
		assert_true(!t.is_unknown || t.scanned >= HEAP);
	}
	all_is_committed();
	drop_heap();
}

/* Where fewer faults are counted than there were, that is noticed, and all is found from then on. */
static void test_wrong_count_is_noticed(void **state)
{
	unsigned missing = 0;

	(void)state;
	make_heap(0, NULL);
	t.faults = os_linux.process_fault_count();
	commit();
	for (size_t i = 0; i < 200; i++) {
		t.p[i * 100 * PAGE]++;
		commit();
		missing += !is_committed(i * 100);
		assert_true(i < 70 || is_committed(i * 100));
	}
	assert_true(PROC_SANITIZED || missing > 0); /* else the count was not relied on */
	all_is_committed();
	drop_heap();
}

/* The library's descriptor of the userfaultfd. */
static int watch_of_library(void)
{
	char name[64], target[64];

	for (int fd = 3; fd < 4096; fd++) {
		ssize_t n;

		snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
		n = readlink(name, target, sizeof target - 1);
		target[n > 0 ? n : 0] = 0;
		if (strstr(target, "userfaultfd"))
			return fd;
	}
	fail_msg("no userfaultfd");
	return -1;
}

/* The program has closed it: then stores cost no faults. */
static void test_closed_watch(void **state)
{
	(void)state;
	make_heap(0, NULL);
	close(watch_of_library());
	for (unsigned i = 0; i < 5; i++) {
		t.p[i * 2000 * PAGE]++;
		assert_int_equal(fm_commit(t.heap), -1);
		assert_int_equal(errno, EBADF);
	}
	fm_close(t.heap);
	close(t.fd);
	os = &os_linux;
}

/* What a commit that failed has found differs from the file for reasons that are older than the faults. Its protection can go
 * without a fault (KSM makes an entry of the page table anew): it must not be taken for what is written afterwards. */
static void test_failed_commit(void **state)
{
	int watch;

	(void)state;
	make_heap(0, NULL);
	watch = watch_of_library();
	for (size_t i = 0; i < 10; i++) {
		size_t page = 100 + i, last = PAGES - 1 - i;
		struct uffdio_writeprotect open_page = {.range = {(uintptr_t)(t.p + page * PAGE), PAGE}};
		struct rlimit before, limit;

		t.p[page * PAGE]++;
		assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
		limit = before;
		limit.rlim_cur = 512;
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
		FAILS(fm_commit(t.heap), -1, EFBIG);
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
		assert_int_equal(ioctl(watch, UFFDIO_WRITEPROTECT, &open_page), 0);
		t.p[last * PAGE]++;
		commit();
		assert_true(is_committed(page) && is_committed(last));
	}
	drop_heap();
}

/* A store without a fault of ours that is declared, and an ordinary one: both are in the commit. */
static void test_declared_store(void **state)
{
	(void)state;
	make_heap(0, NULL);
	for (size_t i = 0; i < 50; i++) {
		pid_t child;
		int status;

		assert_int_equal(fm_will_write(t.heap, t.p + i * PAGE, 1), 0);
		child = vfork();
		if (child == 0) {
			t.p[i * PAGE]++;
			_exit(0);
		}
		assert_int_equal(waitpid(child, &status, 0), child);
		t.p[(PAGES - 1 - i) * PAGE]++;
		commit();
		assert_true(is_committed(i) && is_committed(PAGES - 1 - i));
	}
	drop_heap();
}

/* Another process stores into this one's memory, and no fault of ours is counted: can it? */
static bool store_from_outside(size_t page, uint8_t value)
{
	struct iovec from = {.iov_base = &value, .iov_len = 1}, to = {.iov_base = t.p + page * PAGE, .iov_len = 1};
	pid_t parent = getpid(), child = vfork(); /* fork would cost faults of ours */
	int status;

	if (child == 0)
		_exit(process_vm_writev(parent, &from, 1, &to, 1, 0) == 1 ? 0 : 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	return status == 0;
}

/* Then a commit may not have all that it should (docs/atomic.md). But no page is dropped that was written. */
static void test_nothing_written_is_dropped(void **state)
{
	enum { KEPT = 20, BUDGET = 8 };
	size_t last = PAGES - 2 * KEPT;

	(void)state;
	make_heap(BUDGET * PAGE, NULL);
	for (unsigned i = 0; i < 100; i++) {
		size_t page = last + i % KEPT * 2;
		uint8_t wanted;

		for (size_t k = 0; k < KEPT; k++)
			t.p[(last + k * 2) * PAGE]++;
		commit();
		if (!store_from_outside(i, (uint8_t)(i + 2))) {
			print_message("# no process_vm_writev here\n");
			skip();
		}
		wanted = ++t.p[page * PAGE];
		commit();
		assert_int_equal(t.p[page * PAGE], wanted);
		assert_int_equal(t.p[i * PAGE], (uint8_t)(i + 2));
	}
	commit();
	all_is_committed();
	drop_heap();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		API_TEST(test_scans_end_early),
		API_TEST(test_scans_of_one_place),
		API_TEST(test_nothing_is_missed),
		API_TEST(test_untouched_pages_do_not_count),
		API_TEST(test_failed_scan),
		API_TEST(test_store_beside),
		API_TEST(test_unknown_count),
		API_TEST(test_wrong_count_is_noticed),
		API_TEST(test_closed_watch),
		API_TEST(test_failed_commit),
		API_TEST(test_declared_store),
		API_TEST(test_nothing_written_is_dropped),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
