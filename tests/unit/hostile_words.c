/* SPDX-License-Identifier: Apache-2.0
 *
 * Words that no heap of ours holds, written into a file where the library reads them: lengths that reach
 * beyond the file, the address space, or what a word can count. Opening, checking, recovering and using
 * such a heap reports what is wrong and touches nothing outside.
 *
 * Uses the file format of src/store/format.h. Each case runs in a child with a time limit.
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include "store/format.h"

#define LIMIT_MS (PROC_SANITIZED ? 30000u : 10000u)
#define PAGES_MAX ((UINT64_C(1) << HUGE_PAGES_BITS) - 1)

static char *dir;
static char path[PATH_MAX], copy[PATH_MAX];

static int setup(void **state)
{
	(void)state;
	dir = proc_dir_make();
	proc_path(path, dir, "heap");
	proc_path(copy, dir, "heap.copy");
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	proc_dir_remove(dir);
	return 0;
}

static int before(void **state)
{
	(void)state;
	unlink(path);
	unlink(copy);
	return 0;
}

static void put_word(int fd, uint64_t off, uint64_t word)
{
	proc_must(pwrite(fd, &word, sizeof(word), (off_t)off) == (ssize_t)sizeof(word));
}

static void put_last_segment(int fd, uint64_t segment_no)
{
	put_word(fd, TRUTH_PAGE_OFF + offsetof(struct truth_page_rec, last_segment), segment_no);
}

static void put_root_table(int fd, uint64_t off)
{
	put_word(fd, TRUTH_PAGE_OFF + offsetof(struct truth_page_rec, root_table), off);
}

static void put_directory(int fd, uint64_t segment_no, uint64_t word)
{
	put_word(fd, DIRECTORY_OFF + 8 * segment_no, word);
}

/* A closed heap with one object, of `segments` segments, open for damage. */
static int closed_heap(uint64_t segments)
{
	fm_heap *heap = fm_open(path, FM_CREATE | FM_EXCL, NULL);
	int fd;

	proc_must(heap != NULL);
	proc_must(fm_malloc(heap, 24) != NULL);
	proc_must(fm_close(heap) == 0);
	fd = open(path, O_RDWR | O_CLOEXEC);
	proc_must(fd >= 0);
	proc_must(ftruncate(fd, (off_t)(segments * SEGMENT_SIZE)) == 0);
	return fd;
}

/* A copy made while the heap was in use, at `copy`, open for damage. */
static int unclean_copy(uint64_t segments)
{
	fm_heap *heap = fm_open(path, FM_CREATE | FM_EXCL, NULL);
	int fd;

	proc_must(heap != NULL);
	proc_must(fm_malloc(heap, 24) != NULL);
	proc_must(proc_copy(path, copy, true) == 0);
	proc_must(fm_close(heap) == 0);
	fd = open(copy, O_RDWR | O_CLOEXEC);
	proc_must(fd >= 0);
	proc_must(ftruncate(fd, (off_t)(segments * SEGMENT_SIZE)) == 0);
	return fd;
}

/* The root table is said to be a huge object that reaches beyond the file, and beyond all addresses. */
static int root_table_in_huge(void *arg)
{
	static const uint64_t pages[] = { 2 * SEGMENT_PAGES + 1, UINT64_C(1) << 28, UINT64_C(1) << 39,
	                                  PAGES_MAX };

	(void)arg;
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
		int fd = closed_heap(3);
		fm_heap *heap;

		put_last_segment(fd, 2);
		put_directory(fd, 1, huge_word(pages[i]));
		put_directory(fd, 2, SEGMENT_METADATA);
		put_root_table(fd, SEGMENT_SIZE);
		put_word(fd, SEGMENT_SIZE, UINT64_C(1) << 40); // its capacity
		close(fd);
		heap = fm_open(path, FM_RDONLY, NULL);
		proc_must(heap != NULL);
		// the huge word, and the root table that is in no object
		proc_must(fm_check(heap, NULL, NULL) >= 2);
		proc_must(fm_root_get(heap, "any", 0) == NULL);
		proc_must(fm_close(heap) == 0);
		proc_must(unlink(path) == 0);
	}
	return 0;
}

/* A huge object of a sparse file whose last segment is beyond what the file's directory reaches; or more
 * than the file has. Recovery drops it, and is done with it: what it opens is sound. */
static int recovery_of_huge(void *arg)
{
	static const struct {
		uint64_t segment_no, pages;
	} heads[] = {
		{ 2000, 200 * SEGMENT_PAGES },
		{ 2047, 2 * SEGMENT_PAGES },
		{ 2047, PAGES_MAX },
		{ 1, PAGES_MAX },
		{ 0, 0 }, // ends before the first segment
	};

	(void)arg;
	for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
		int fd = unclean_copy(3000);
		fm_heap *heap;
		struct stat st;

		put_directory(fd, heads[i].segment_no, huge_word(heads[i].pages));
		close(fd);
		heap = fm_open(copy, 0, NULL);
		proc_must(heap == NULL && errno == EUCLEAN);
		heap = fm_open(copy, FM_RECOVER, NULL);
		proc_must(heap != NULL);
		proc_must(proc_check(heap) == 0);
		proc_must(proc_count_objects(heap) == 1);
		proc_must(fm_malloc(heap, 5 * SEGMENT_SIZE) != NULL);
		proc_must(fm_close(heap) == 0);
		proc_must(stat(copy, &st) == 0 && (uint64_t)st.st_size <= 8 * SEGMENT_SIZE);
		proc_must(unlink(copy) == 0 && unlink(path) == 0);
	}
	return 0;
}

/* The last segment is said to be one inside the huge object that ends the heap: what lies beyond would be handed out
 * again. */
static int last_segment_in_huge(void *arg)
{
	static const unsigned flags[] = { 0, FM_RDONLY, FM_RECOVER, FM_CREATE };
	fm_heap *heap = fm_open(path, FM_CREATE | FM_EXCL, NULL);
	uint64_t off;

	(void)arg;
	proc_must(heap != NULL);
	off = fm_offset_of(heap, fm_malloc(heap, 11 * SEGMENT_SIZE / 4));
	proc_must(off == SEGMENT_SIZE);
	proc_must(fm_close(heap) == 0);
	for (uint64_t last = 1; last < 4; last++) {
		int fd = open(path, O_RDWR | O_CLOEXEC);

		proc_must(fd >= 0);
		put_last_segment(fd, last);
		close(fd);
		proc_must(proc_copy(path, copy, false) == 0);
		for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]) && last < 3; i++) {
			proc_must(fm_open(path, flags[i], NULL) == NULL && errno == EBADMSG);
			proc_must(proc_same_file(path, copy));
		}
		proc_must(unlink(copy) == 0);
	}
	heap = fm_open(path, 0, NULL);
	proc_must(heap != NULL);
	proc_must(proc_check(heap) == 0);
	proc_must(fm_usable_size(fm_at(heap, off)) == 11 * SEGMENT_SIZE / 4);
	proc_must(fm_close(heap) == 0);
	return 0;
}

/* The same of one with a used segment inside, so that the end of the heap does not tell. */
static int huge_beyond_last(void *arg)
{
	int fd = closed_heap(6);
	fm_heap *heap;
	void *damaged;

	(void)arg;
	put_last_segment(fd, 3);
	put_directory(fd, 1, huge_word(5 * SEGMENT_PAGES));
	put_directory(fd, 2, SEGMENT_INTERIOR);
	put_directory(fd, 3, SEGMENT_METADATA);
	close(fd);
	heap = fm_open(path, 0, NULL);
	proc_must(heap != NULL);
	proc_must(fm_check(heap, NULL, NULL) > 0);
	proc_must(proc_count_objects(heap) == 1);
	damaged = fm_at(heap, SEGMENT_SIZE);
	for (int i = 0; i < 3; i++)
		proc_must(fm_malloc(heap, 5 * SEGMENT_SIZE / 4) != NULL);
	proc_must(fm_usable_size(damaged) == 0);
	proc_must(fm_free(damaged) == -1 && errno == EUCLEAN);
	proc_must(proc_count_objects(heap) == 4);
	proc_must(fm_close(heap) == 0);
	return 0;
}

/* A power cut after a huge object has grown: its word is newer than the page with the last segment. */
static int recovery_of_grown(void *arg)
{
	(void)arg;
	for (uint64_t before = 1; before < 4; before++) {
		fm_heap *heap = fm_open(path, FM_CREATE | FM_EXCL, NULL);
		uint64_t off;
		void *p;
		int fd;

		proc_must(heap != NULL);
		p = fm_malloc(heap, before * SEGMENT_SIZE);
		off = fm_offset_of(heap, p);
		proc_must(off == SEGMENT_SIZE && fm_realloc(heap, p, 4 * SEGMENT_SIZE) == p);
		proc_fill(p, 1, 4 * SEGMENT_SIZE);
		proc_must(proc_copy(path, copy, true) == 0);
		proc_must(fm_close(heap) == 0);
		fd = open(copy, O_RDWR | O_CLOEXEC);
		proc_must(fd >= 0);
		put_last_segment(fd, before);
		close(fd);
		heap = fm_open(copy, FM_RECOVER, NULL);
		proc_must(heap != NULL);
		proc_must(proc_check(heap) == 0);
		proc_must(proc_count_objects(heap) == 1);
		proc_must(proc_intact(fm_at(heap, off), 1, 4 * SEGMENT_SIZE, 4 * SEGMENT_SIZE));
		proc_must(fm_close(heap) == 0);
		proc_must(unlink(copy) == 0 && unlink(path) == 0);
	}
	return 0;
}

static void passes(int (*run)(void *))
{
	assert_int_equal(proc_end(proc_start(run, NULL, LIMIT_MS)), 0);
}

static void test_root_table_in_huge(void **state)
{
	(void)state;
	passes(root_table_in_huge);
}

static void test_recovery_of_huge(void **state)
{
	(void)state;
	passes(recovery_of_huge);
}

static void test_last_segment_in_huge(void **state)
{
	(void)state;
	passes(last_segment_in_huge);
}

static void test_huge_beyond_last(void **state)
{
	(void)state;
	passes(huge_beyond_last);
}

static void test_recovery_of_grown(void **state)
{
	(void)state;
	passes(recovery_of_grown);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_root_table_in_huge, before),
		cmocka_unit_test_setup(test_recovery_of_huge, before),
		cmocka_unit_test_setup(test_recovery_of_grown, before),
		cmocka_unit_test_setup(test_last_segment_in_huge, before),
		cmocka_unit_test_setup(test_huge_beyond_last, before),
	};

	return cmocka_run_group_tests_name("hostile_words", tests, setup, teardown);
}
