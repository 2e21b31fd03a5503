/* SPDX-License-Identifier: Apache-2.0
 *
 * Declared writes are noted by lines of 64 bytes (src/store/track_declared.c), and nothing else of a page is compared:
 * every declared byte has to be in its commit, after whatever happened to the commits before.
 */
#include "api_util.h"

#include <string.h>

#define SPREAD 40000u
#define STEPS  3000u

static struct {
	fm_heap *heap;
	unsigned char *p;
	unsigned char expected[SPREAD], committed[SPREAD];
	uint64_t random;
} t;

static uint64_t below(uint64_t n)
{
	t.random = t.random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (t.random >> 33) % n;
}

static void open_it(unsigned flags, const struct fm_options *options)
{
	t.heap = open_or_fail(heap_path, FM_ATOMIC | FM_DECLARED | flags, options);
}

static uint64_t *root(void)
{
	return (uint64_t *)(void *)((char *)t.heap->mem + PAGE_SIZE);
}

static void make(const struct fm_options *options)
{
	t.random = 77;
	open_it(FM_CREATE | FM_EXCL, options);
	t.p = fm_calloc(t.heap, 1, SPREAD);
	assert_non_null(t.p);
	assert_int_equal(fm_will_write(t.heap, root(), 8), 0);
	root()[0] = fm_offset_of(t.heap, t.p);
	memset(t.expected, 0, SPREAD);
	assert_int_equal(fm_commit(t.heap), 0);
	memcpy(t.committed, t.expected, SPREAD);
}

/* Ranges within lines, over their ends and over those of pages. */
static void write_some(void)
{
	static const unsigned lengths[] = {1, 8, 63, 64, 65, 200, 4096, 9000};
	unsigned len = lengths[below(sizeof lengths / sizeof lengths[0])];
	uint64_t from = below(SPREAD - len);
	unsigned char value = (unsigned char)below(256);

	assert_int_equal(fm_will_write(t.heap, t.p + from, len), 0);
	memset(t.p + from, value, len);
	memset(t.expected + from, value, len);
}

static void commit(void)
{
	assert_int_equal(fm_commit(t.heap), 0);
	memcpy(t.committed, t.expected, SPREAD);
}

static void roll_back(void)
{
	assert_int_equal(fm_rollback(t.heap), 0);
	memcpy(t.expected, t.committed, SPREAD);
	assert_memory_equal(t.p, t.expected, SPREAD);
}

/* No file may be written beyond its first page: nothing is, and the commit can be tried again. */
static void fail_to_commit(void)
{
	struct rlimit limit, low;

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	low = limit;
	low.rlim_cur = 4096;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
	assert_int_equal(fm_commit(t.heap), -1);
	assert_int_equal(errno, EFBIG);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void one_step(unsigned step)
{
	write_some();
	/* declared, and not written */
	if (step % 7 == 0)
		assert_int_equal(fm_will_write(t.heap, t.p + below(SPREAD - 100), 100), 0);
	switch (below(12)) {
	case 0:
	case 1:
	case 2:
		commit();
		break;
	case 3:
		fail_to_commit();
		write_some();
		break;
	case 4:
		roll_back();
		break;
	default:
		break;
	}
}

static void ranges(void **state)
{
	struct fm_options options = {.size = sizeof options};

	options.sector = *(unsigned *)*state;
	make(&options);
	for (unsigned step = 0; step < STEPS; step++)
		one_step(step);
	commit();
	assert_int_equal(fm_close(t.heap), 0);
	open_it(0, &options);
	assert_memory_equal(fm_at(t.heap, root()[0]), t.expected, SPREAD);
	close_checked(t.heap);
}

/* What the debug build of a program's declarations finds: nothing in what the library itself writes. */
static void checked(void **state)
{
	char *text;

	(void)state;
	setenv("FMALLOC_DEBUG", "declared", 1);
	make(NULL);
	for (unsigned step = 0; step < 200; step++) {
		unsigned char *grown = fm_realloc(t.heap, fm_calloc(t.heap, 3, 100 + step), 3000 + step);

		assert_non_null(grown);
		text = fm_strdup(t.heap, "declared by the library");
		assert_non_null(text);
		assert_int_equal(fm_root_set(t.heap, "text", text, step), 0);
		if (step % 2)
			assert_int_equal(fm_free(grown), 0);
		write_some();
		commit();
	}
	unsetenv("FMALLOC_DEBUG");
	close_checked(t.heap);
}

static uint64_t tracking(fm_heap *heap)
{
	struct fm_statistics stats = {.size = sizeof stats};

	assert_int_equal(fm_stats(heap, &stats), 0);
	assert_int_equal(fm_close(heap), 0);
	return stats.tracking;
}

/* A program that does not declare loses nothing by what is in its environment. */
static void by_the_program_alone(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		setenv("FMALLOC_TRACK", "declared", 1);
		FAILS(fm_open(heap_path, FM_ATOMIC | FM_CREATE, NULL), NULL, EINVAL);
		assert_non_null(strstr(fm_last_error(), "FM_DECLARED"));
		assert_int_equal(tracking(open_or_fail(heap_path, FM_ATOMIC | FM_DECLARED | FM_CREATE, NULL)), 4);
		setenv("FMALLOC_TRACK", "pagemap", 1);
		assert_int_equal(tracking(open_or_fail(heap_path, FM_ATOMIC | FM_DECLARED, NULL)), 4);
		assert_int_equal(tracking(open_or_fail(heap_path, FM_ATOMIC, NULL)), 3);
	}
	setenv("FMALLOC_TRACK", "declared", 1);
	assert_int_equal(fm_close(open_or_fail(heap_path, FM_ATOMIC | FM_RDONLY, NULL)), 0);
	assert_int_equal(fm_close(open_or_fail(heap_path, FM_CONVERT, NULL)), 0);
	setenv("FMALLOC_TRACK", "declarations", 1);
	FAILS(fm_open(heap_path, FM_ATOMIC | FM_CONVERT, NULL), NULL, EINVAL);
	unsetenv("FMALLOC_TRACK");
}

int main(void)
{
	static unsigned lines = 0, sectors = 512, blocks = 4096;
	const struct CMUnitTest tests[] = {
		{"ranges", ranges, make_folder, remove_folder, &lines},
		{"ranges, sectors of 512", ranges, make_folder, remove_folder, &sectors},
		{"ranges, sectors of 4096", ranges, make_folder, remove_folder, &blocks},
		API_TEST(checked),
		API_TEST(by_the_program_alone),
	};

	unsetenv("FMALLOC_TRACK");
	return cmocka_run_group_tests_name("declared", tests, NULL, NULL);
}
