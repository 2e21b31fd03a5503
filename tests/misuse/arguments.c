/* SPDX-License-Identifier: Apache-2.0
 *
 * Arguments at and beyond their limits. None of them is reported to the handler of misuse; all that
 * must fail fail with the documented errno and a text, and leave the heap as it was.
 */
#include "../support/misuse_case.h"

/* `call` gives `result` with errno `wanted` and a text; the heap and the handler know nothing of it. */
#define FAILS(c, call, result, wanted) \
	do { \
		bool as_expected_; \
		int error_; \
\
		misuse_snapshot(c); \
		errno = 0; \
		as_expected_ = (call) == (result); \
		error_ = errno; \
		NEED(as_expected_); \
		if (error_ != (wanted)) \
			fprintf(stderr, "# errno %d instead of %d: %s\n", error_, (wanted), \
			        fm_last_error()); \
		NEED(error_ == (wanted)); \
		NEED(fm_last_error()[0] != 0); \
		NEED((c)->seen.calls == 0); \
		misuse_compare((c), 0); \
	} while (0)

/* ---------------------------------------------------------------- sizes */

static void zero_bytes_are_objects(struct misuse_case *c)
{
	enum { N = 3000 };
	static char *p[N];

	for (unsigned i = 0; i < N; i++) {
		p[i] = i % 3 == 0 ? fm_malloc(c->heap, 0) :
		       i % 3 == 1 ? fm_calloc(c->heap, i % 2 ? 0 : 7, i % 2 ? 7 : 0) :
		                    fm_aligned_alloc(c->heap, 32, 0);
		NEED(p[i] && (uintptr_t)p[i] % 8 == 0);
		NEED(fm_usable_size(p[i]) > 0);
		memset(p[i], (int)i, fm_usable_size(p[i]));
	}
	for (unsigned i = 0; i < N; i++)
		for (size_t j = 0; j < fm_usable_size(p[i]); j++)
			NEED(p[i][j] == (char)i);
	for (unsigned i = 0; i < N; i++)
		NEED(fm_free(p[i]) == 0);
	NEED(c->seen.calls == 0);
}

static void realloc_to_zero_keeps_an_object(struct misuse_case *c)
{
	static const size_t sizes[] = { 0, 10, 100, 5000, 100000, 1048576, 9 * 1024 * 1024 };

	for (unsigned i = 0; i < 7; i++) {
		void *p = fm_malloc(c->heap, sizes[i]), *q;

		NEED(p);
		q = fm_realloc(c->heap, p, 0);
		NEED(q && fm_usable_size(q) > 0 && fm_heap_of(q) == c->heap);
		q = fm_reallocarray(c->heap, q, 0, 50);
		NEED(q && fm_usable_size(q) > 0);
		NEED(fm_free(q) == 0);
	}
	NEED(c->seen.calls == 0);
}

static void sizes_beyond_everything(struct misuse_case *c)
{
	static const size_t sizes[] = { SIZE_MAX,        SIZE_MAX - 1,     SIZE_MAX - 7,
		                        SIZE_MAX - 15,   SIZE_MAX - 4095,  SIZE_MAX - 65535,
		                        SIZE_MAX / 2,    SIZE_MAX / 2 + 1, (size_t)1 << 62,
		                        (size_t)1 << 48, (size_t)1 << 47 };

	for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		FAILS(c, fm_malloc(c->heap, sizes[i]), NULL, ENOMEM);
		FAILS(c, fm_calloc(c->heap, 1, sizes[i]), NULL, ENOMEM);
		FAILS(c, fm_calloc(c->heap, sizes[i], 1), NULL, ENOMEM);
		FAILS(c, fm_realloc(c->heap, NULL, sizes[i]), NULL, ENOMEM);
		FAILS(c, fm_realloc(c->heap, c->objects[5], sizes[i]), NULL, ENOMEM);
		FAILS(c, fm_realloc(c->heap, c->objects[15], sizes[i]), NULL, ENOMEM);
		FAILS(c, fm_aligned_alloc(c->heap, 16, sizes[i]), NULL, ENOMEM);
		FAILS(c, fm_aligned_alloc(c->heap, 4 * MIB, sizes[i]), NULL, ENOMEM);
		FAILS(c, fmalloc(sizes[i]), NULL, ENOMEM);
	}
}

static void overflowing_products(struct misuse_case *c)
{
	static const size_t pairs[][2] = {
		{ SIZE_MAX, 2 },           { 2, SIZE_MAX },
		{ SIZE_MAX, SIZE_MAX },    { SIZE_MAX / 2 + 1, 2 },
		{ (size_t)1 << 32, (size_t)1 << 32 }, { SIZE_MAX / 3 + 1, 3 },
		{ 16, SIZE_MAX / 16 + 1 }, { (size_t)1 << 63, (size_t)1 << 63 },
	};

	for (unsigned i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
		size_t n = pairs[i][0], size = pairs[i][1];

		FAILS(c, fm_calloc(c->heap, n, size), NULL, ENOMEM);
		FAILS(c, fm_reallocarray(c->heap, NULL, n, size), NULL, ENOMEM);
		FAILS(c, fm_reallocarray(c->heap, c->objects[5], n, size), NULL, ENOMEM);
		FAILS(c, fcalloc(n, size), NULL, ENOMEM);
		FAILS(c, freallocarray(c->objects[5], n, size), NULL, ENOMEM);
	}
}

/* More than 4 GiB, whose lower 32 bits are a small number, in a heap that may not grow so far. */
static void beyond_4_gib_and_max_size(struct misuse_case *c)
{
	static const size_t sizes[] = { ((size_t)1 << 32),       ((size_t)1 << 32) + 16,
		                        ((size_t)1 << 32) + 100, ((size_t)5 << 32) + 4096,
		                        ((size_t)1 << 36) + 1,   ((size_t)1 << 40) };
	struct fm_options options = { .size = sizeof options, .max_size = 64 * MIB };
	struct stat before, after;

	NEED(fm_close(c->heap) == 0);
	c->heap = fm_open(c->path, 0, &options);
	NEED(c->heap);
	misuse_snapshot(c);
	c->objects[5] = c->before[0].p;
	NEED(stat(c->path, &before) == 0);
	for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		FAILS(c, fm_malloc(c->heap, sizes[i]), NULL, ENOMEM);
		FAILS(c, fm_calloc(c->heap, sizes[i] / 4, 4), NULL, ENOMEM);
		FAILS(c, fm_realloc(c->heap, c->objects[5], sizes[i]), NULL, ENOMEM);
		FAILS(c, fm_aligned_alloc(c->heap, 64, sizes[i]), NULL, ENOMEM);
	}
	NEED(stat(c->path, &after) == 0 && after.st_size == before.st_size);
}

/* ---------------------------------------------------------------- alignments */

static void bad_alignments(struct misuse_case *c)
{
	static const size_t alignments[] = { 0,  3,  5,   6,   7,   12,       24,
		                             48, 96, 100, 4095, 4097, 3 * 1024 * 1024, 8 * 1024 * 1024,
		                             16 * 1024 * 1024, (size_t)1 << 32, (size_t)1 << 63, SIZE_MAX,
		                             SIZE_MAX / 2 };

	for (unsigned i = 0; i < sizeof alignments / sizeof alignments[0]; i++) {
		FAILS(c, fm_aligned_alloc(c->heap, alignments[i], 64), NULL, EINVAL);
		FAILS(c, fm_aligned_alloc(c->heap, alignments[i], 0), NULL, EINVAL);
		FAILS(c, faligned_alloc(alignments[i], 64), NULL, EINVAL);
	}
}

static void good_alignments(struct misuse_case *c)
{
	static const size_t sizes[] = { 0, 1, 24, 100, 5000, 65536, 600000, 5 * 1024 * 1024 };

	for (size_t alignment = 1; alignment <= 4 * MIB; alignment *= 2) {
		for (unsigned i = 0; i < 8; i++) {
			char *p = fm_aligned_alloc(c->heap, alignment, sizes[i]);

			NEED(p && (uintptr_t)p % alignment == 0);
			NEED((uintptr_t)p % (sizes[i] % 16 == 0 ? 16 : 8) == 0);
			NEED(fm_usable_size(p) >= sizes[i]);
			memset(p, 1, sizes[i]);
			NEED(fm_free(p) == 0);
		}
	}
	NEED(c->seen.calls == 0);
}

/* ---------------------------------------------------------------- NULL */

static int visit_root(const char *name, void *p, uint64_t tag, void *arg)
{
	(void)name;
	(void)p;
	(void)tag;
	(void)arg;
	return 1;
}

static int visit_object(void *p, size_t usable, void *arg)
{
	(void)p;
	(void)usable;
	(void)arg;
	return 1;
}

/* NULL is what a failed fm_open gave, or no target: EINVAL, as the functions on the target have it. */
static void a_null_heap(struct misuse_case *c)
{
	struct fm_statistics s = { .size = sizeof s };

	FAILS(c, fm_malloc(NULL, 10), NULL, EINVAL);
	FAILS(c, fm_calloc(NULL, 1, 10), NULL, EINVAL);
	FAILS(c, fm_realloc(NULL, NULL, 10), NULL, EINVAL);
	FAILS(c, fm_realloc(NULL, c->objects[5], 10), NULL, EINVAL);
	FAILS(c, fm_reallocarray(NULL, NULL, 10, 10), NULL, EINVAL);
	FAILS(c, fm_aligned_alloc(NULL, 16, 10), NULL, EINVAL);
	FAILS(c, fm_strdup(NULL, "text"), NULL, EINVAL);
	FAILS(c, fm_strndup(NULL, "text", 2), NULL, EINVAL);
	FAILS(c, fm_close(NULL), -1, EINVAL);
	FAILS(c, fm_sync(NULL), -1, EINVAL);
	FAILS(c, fm_at_checked(NULL, PAGE_SIZE, 1), NULL, EINVAL);
	FAILS(c, fm_root_set(NULL, "name", NULL, 0), -1, EINVAL);
	FAILS(c, fm_root_get(NULL, "name", 0), NULL, EINVAL);
	FAILS(c, fm_root_remove(NULL, "name"), -1, EINVAL);
	FAILS(c, fm_root_each(NULL, visit_root, NULL), -1, EINVAL);
	FAILS(c, fm_stats(NULL, &s), -1, EINVAL);
	FAILS(c, fm_walk(NULL, visit_object, NULL), -1, EINVAL);
	FAILS(c, fm_check(NULL, NULL, NULL), -1, EINVAL);
}

static void other_nulls(struct misuse_case *c)
{
	FAILS(c, fm_open(NULL, FM_CREATE, NULL), NULL, EINVAL);
	FAILS(c, fm_root_set(c->heap, NULL, NULL, 0), -1, EINVAL);
	FAILS(c, fm_root_get(c->heap, NULL, 0), NULL, EINVAL);
	FAILS(c, fm_root_remove(c->heap, NULL), -1, EINVAL);
	FAILS(c, fm_walk(c->heap, NULL, NULL), -1, EINVAL);
	FAILS(c, fm_stats(c->heap, NULL), -1, EINVAL);
}

/* ---------------------------------------------------------------- names of roots */

static void names_of_roots(struct misuse_case *c)
{
	char name[300];

	memset(name, 'n', sizeof name);
	name[256] = 0;
	FAILS(c, fm_root_set(c->heap, "", c->objects[0], 0), -1, EINVAL);
	FAILS(c, fm_root_set(c->heap, name, c->objects[0], 0), -1, EINVAL);
	name[256] = 'n';
	name[299] = 0;
	FAILS(c, fm_root_set(c->heap, name, c->objects[0], 0), -1, EINVAL);
	name[255] = 0;
	NEED(fm_root_set(c->heap, name, c->objects[0], 0) == 0);
	NEED(fm_root_get(c->heap, name, 0) == c->objects[0]);
	name[254] = 0;
	FAILS(c, fm_root_get(c->heap, name, 0), NULL, ENOENT);
}

static void roots_elsewhere(struct misuse_case *c)
{
	char path[4200];
	fm_heap *other;
	void *theirs;
	int on_stack = 0;

	snprintf(path, sizeof path, "%s/other.fm", misuse_folder);
	other = fm_open(path, FM_CREATE, NULL);
	NEED(other);
	theirs = fm_malloc(other, 10);
	NEED(theirs);
	fm_set_misuse_handler(NULL, NULL); // whether this is misuse is the library's choice
	FAILS(c, fm_root_set(c->heap, "name", &on_stack, 0), -1, EINVAL);
	FAILS(c, fm_root_set(c->heap, "name", theirs, 0), -1, EINVAL);
	FAILS(c, fm_root_set(c->heap, "name", (char *)c->heap->mem - 8, 0), -1, EINVAL);
	FAILS(c, fm_root_get(c->heap, "name", 0), NULL, ENOENT);
	NEED(fm_close(other) == 0);
}

/* ---------------------------------------------------------------- opening */

static void path_in(char *path, size_t size, const char *name)
{
	snprintf(path, size, "%s/%s", misuse_folder, name);
}

static void unknown_flags(struct misuse_case *c)
{
	char path[4200];

	path_in(path, sizeof path, "other.fm");
	for (unsigned bit = 9; bit < 32; bit++) {
		FAILS(c, fm_open(path, FM_CREATE | 1u << bit, NULL), NULL, EINVAL);
		NEED(access(path, F_OK) != 0);
	}
}

static void excl_without_create(struct misuse_case *c)
{
	char path[4200];

	path_in(path, sizeof path, "other.fm");
	FAILS(c, fm_open(path, FM_EXCL, NULL), NULL, EINVAL);
	NEED(access(path, F_OK) != 0);
}

static void unknown_things_to_disable(struct misuse_case *c)
{
	struct fm_options options = { .size = sizeof options, .disable = 0x80000000u };
	char path[4200];

	path_in(path, sizeof path, "other.fm");
	FAILS(c, fm_open(path, FM_CREATE, &options), NULL, EINVAL);
	NEED(access(path, F_OK) != 0);
}

/* A program built with an older header has a shorter struct: the rest reads as 0. */
static void shorter_options(struct misuse_case *c)
{
	struct fm_options options = {
		.size = offsetof(struct fm_options, max_size) + sizeof options.max_size,
		.max_size = 32 * MIB,
		.address_space = 1,
		.mode = 0777,
		.wait_ms = -5,
		.disable = ~0u,
	};
	struct fm_statistics s = { .size = sizeof s };
	char path[4200];
	struct stat st;
	fm_heap *other;

	path_in(path, sizeof path, "other.fm");
	umask(0);
	other = fm_open(path, FM_CREATE, &options);
	NEED(other);
	NEED(stat(path, &st) == 0 && (st.st_mode & 07777) == 0600);
	NEED(fm_stats(other, &s) == 0 && s.max_size == 32 * MIB && s.address_space >= 32 * MIB);
	NEED(!fm_malloc(other, 33 * MIB) && errno == ENOMEM);
	NEED(fm_close(other) == 0);
	options.size = sizeof options.size;
	options.max_size = 1;
	other = fm_open(path, 0, &options);
	NEED(other && fm_stats(other, &s) == 0 && s.max_size > 32 * MIB);
	NEED(fm_close(other) == 0);
	NEED(c->seen.calls == 0);
}

/* A program built with a newer header has a longer one. What it leaves at 0 asks for nothing. */
static void longer_options(struct misuse_case *c)
{
	struct {
		struct fm_options known;
		uint64_t unknown[4];
	} options = { .known = { .size = sizeof options, .max_size = 32 * MIB } };
	char path[4200];
	fm_heap *other;

	path_in(path, sizeof path, "other.fm");
	other = fm_open(path, FM_CREATE, &options.known);
	NEED(other && fm_close(other) == 0);
	NEED(c->seen.calls == 0);
}

static void no_options_size(struct misuse_case *c)
{
	struct fm_options options = { .size = 0, .max_size = 32 * MIB };
	char path[4200];

	path_in(path, sizeof path, "other.fm");
	FAILS(c, fm_open(path, FM_CREATE, &options), NULL, EINVAL);
}

/* ---------------------------------------------------------------- offsets */

static void offsets_of_no_object(struct misuse_case *c)
{
	uint64_t object = fm_offset_of(c->heap, c->objects[8]);
	size_t usable = fm_usable_size(c->objects[8]);
	struct fm_statistics s = { .size = sizeof s };

	NEED(fm_stats(c->heap, &s) == 0);
	NEED(fm_at_checked(c->heap, object, usable) == c->objects[8]);
	NEED(fm_at_checked(c->heap, PAGE_SIZE, PAGE_SIZE) == (char *)c->heap->mem + PAGE_SIZE);
	FAILS(c, fm_at_checked(c->heap, 0, 1), NULL, EINVAL);
	FAILS(c, fm_at_checked(c->heap, PAGE_SIZE - 1, 1), NULL, EINVAL);
	FAILS(c, fm_at_checked(c->heap, PAGE_SIZE - 1, 2), NULL, EINVAL);
	FAILS(c, fm_at_checked(c->heap, PAGE_SIZE, PAGE_SIZE + 1), NULL, EINVAL);
	FAILS(c, fm_at_checked(c->heap, 2 * PAGE_SIZE, 1), NULL, EINVAL);
	FAILS(c, fm_at_checked(c->heap, 65536, 8), NULL, EINVAL);
	FAILS(c, fm_at_checked(c->heap, object, usable + 1), NULL, EINVAL);
	FAILS(c, fm_at_checked(c->heap, object, SIZE_MAX), NULL, EINVAL);
	FAILS(c, fm_at_checked(c->heap, object, SIZE_MAX - object), NULL, EINVAL);
	FAILS(c, fm_at_checked(c->heap, s.file_size, 1), NULL, EINVAL);
	FAILS(c, fm_at_checked(c->heap, s.file_size - 1, 2), NULL, EINVAL);
	FAILS(c, fm_at_checked(c->heap, s.address_space, 1), NULL, EINVAL);
	FAILS(c, fm_at_checked(c->heap, s.address_space * 2, 1), NULL, EINVAL);
	FAILS(c, fm_at_checked(c->heap, UINT64_MAX, 1), NULL, EINVAL);
	FAILS(c, fm_at_checked(c->heap, UINT64_MAX - 7, 16), NULL, EINVAL);
	FAILS(c, fm_at_checked(c->heap, (uint64_t)1 << 63, 16), NULL, EINVAL);
}

/* Behind a large object its last unit, or segment, goes on, and is nobody's. */
static void offsets_behind_large_objects(struct misuse_case *c)
{
	static const size_t sizes[] = { 1000 * 1000, 9 * 1000 * 1000 };

	for (unsigned i = 0; i < 2; i++) {
		char *p = fm_malloc(c->heap, sizes[i]);
		uint64_t object = fm_offset_of(c->heap, p);
		size_t usable = fm_usable_size(p);

		NEED(p && usable % 65536 != 0);
		NEED(fm_at_checked(c->heap, object + usable - 1, 1) == p + usable - 1);
		FAILS(c, fm_at_checked(c->heap, object + usable, 1), NULL, EINVAL);
		FAILS(c, fm_at_checked(c->heap, object + usable + 8, 8), NULL, EINVAL);
		FAILS(c, fm_at_checked(c->heap, object + usable - 1, 2), NULL, EINVAL);
	}
}

HARMLESS_TEST(zero_bytes_are_objects)
HARMLESS_TEST(realloc_to_zero_keeps_an_object)
HARMLESS_TEST(sizes_beyond_everything)
HARMLESS_TEST(overflowing_products)
HARMLESS_TEST(beyond_4_gib_and_max_size)
HARMLESS_TEST(bad_alignments)
HARMLESS_TEST(good_alignments)
HARMLESS_TEST(a_null_heap)
HARMLESS_TEST(other_nulls)
HARMLESS_TEST(names_of_roots)
HARMLESS_TEST(roots_elsewhere)
HARMLESS_TEST(unknown_flags)
HARMLESS_TEST(excl_without_create)
HARMLESS_TEST(unknown_things_to_disable)
HARMLESS_TEST(shorter_options)
HARMLESS_TEST(longer_options)
HARMLESS_TEST(no_options_size)
HARMLESS_TEST(offsets_of_no_object)
HARMLESS_TEST(offsets_behind_large_objects)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_zero_bytes_are_objects),
		cmocka_unit_test(test_realloc_to_zero_keeps_an_object),
		cmocka_unit_test(test_sizes_beyond_everything),
		cmocka_unit_test(test_overflowing_products),
		cmocka_unit_test(test_beyond_4_gib_and_max_size),
		cmocka_unit_test(test_bad_alignments),
		cmocka_unit_test(test_good_alignments),
		cmocka_unit_test(test_a_null_heap),
		cmocka_unit_test(test_other_nulls),
		cmocka_unit_test(test_names_of_roots),
		cmocka_unit_test(test_roots_elsewhere),
		cmocka_unit_test(test_unknown_flags),
		cmocka_unit_test(test_excl_without_create),
		cmocka_unit_test(test_unknown_things_to_disable),
		cmocka_unit_test(test_shorter_options),
		cmocka_unit_test(test_longer_options),
		cmocka_unit_test(test_no_options_size),
		cmocka_unit_test(test_offsets_of_no_object),
		cmocka_unit_test(test_offsets_behind_large_objects),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
