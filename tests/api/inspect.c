/* SPDX-License-Identifier: Apache-2.0
 *
 * Named roots, statistics, walking, the verifier, and the texts of errors.
 */
#include "../support/api_util.h"

/* ---------------------------------------------------------------- roots */

static void roots_are_found_again(void **state)
{
	fm_heap *heap = create_heap();
	char longest[256], bytes[256];
	void *p = fm_malloc(heap, 100);

	(void)state;
	memset(longest, 'x', 255);
	longest[255] = 0;
	for (int i = 0; i < 255; i++)
		bytes[i] = (char)(i + 1);
	bytes[255] = 0;
	assert_int_equal(fm_root_set(heap, "a", p, 1), 0);
	assert_int_equal(fm_root_set(heap, longest, (char *)p + 50, UINT64_MAX), 0);
	assert_int_equal(fm_root_set(heap, bytes, NULL, 0), 0);
	assert_int_equal(fm_root_set(heap, "a ", (char *)heap->mem + PAGE_SIZE, 3), 0);
	for (unsigned round = 0; round < 2; round++) {
		p = fm_root_get(heap, "a", 1);
		assert_non_null(p);
		assert_ptr_equal(fm_root_get(heap, longest, UINT64_MAX), (char *)p + 50);
		errno = EAGAIN;
		assert_null(fm_root_get(heap, bytes, 0));
		assert_int_equal(errno, 0);
		assert_ptr_equal(fm_root_get(heap, "a ", 3), (char *)heap->mem + PAGE_SIZE);
		FAILS(fm_root_get(heap, "a", 2), NULL, EPROTOTYPE);
		FAILS(fm_root_get(heap, bytes, 1), NULL, EPROTOTYPE);
		FAILS(fm_root_get(heap, "A", 1), NULL, ENOENT);
		FAILS(fm_root_get(heap, "a  ", 3), NULL, ENOENT);
		heap = reopen(heap);
	}
	assert_int_equal(live_objects(heap), 1);
	close_checked(heap);
}

static void roots_are_replaced_and_removed(void **state)
{
	fm_heap *heap = create_heap();
	void *p = fm_malloc(heap, 10), *q = fm_malloc(heap, 10);

	(void)state;
	assert_int_equal(fm_root_set(heap, "it", p, 1), 0);
	assert_int_equal(fm_root_set(heap, "it", q, 1), 0);
	assert_ptr_equal(fm_root_get(heap, "it", 1), q);
	assert_int_equal(fm_root_set(heap, "it", p, 2), 0);
	assert_ptr_equal(fm_root_get(heap, "it", 2), p);
	FAILS(fm_root_get(heap, "it", 1), NULL, EPROTOTYPE);
	assert_int_equal(fm_root_remove(heap, "it"), 0);
	FAILS(fm_root_get(heap, "it", 2), NULL, ENOENT);
	FAILS(fm_root_remove(heap, "it"), -1, ENOENT);
	FAILS(fm_root_remove(heap, ""), -1, EINVAL);
	FAILS(fm_root_remove(heap, NULL), -1, EINVAL);
	FAILS(fm_root_get(heap, "", 1), NULL, EINVAL);
	assert_true(fm_usable_size(p) >= 10 && fm_usable_size(q) >= 10); // the objects stay
	assert_int_equal(live_objects(heap), 2);
	assert_int_equal(fm_root_set(heap, "it", p, 1), 0);
	assert_int_equal(fm_free(p), 0); // an ordinary object
	assert_int_equal(fm_root_remove(heap, "it"), 0);
	heap = reopen(heap);
	FAILS(fm_root_get(heap, "it", 1), NULL, ENOENT);
	close_checked(heap);
}

struct seen_roots {
	unsigned count, stop_at;
	unsigned char seen[3000];
	fm_heap *heap;
};

static int see_root(const char *name, void *p, uint64_t tag, void *arg)
{
	struct seen_roots *seen = arg;
	unsigned n = (unsigned)strtoul(name + 5, NULL, 10);

	if (strncmp(name, "root ", 5) != 0 || n >= 3000 || tag != n * 7 ||
	    p != fm_at(seen->heap, n % 3 == 0 ? 0 : PAGE_SIZE + n) || seen->seen[n]++)
		return -77;
	return ++seen->count == seen->stop_at ? 5 : 0;
}

static void many_roots(void **state)
{
	fm_heap *heap = create_heap();
	struct seen_roots seen;
	char name[30];

	(void)state;
	for (unsigned i = 0; i < 3000; i++) {
		void *p = fm_at(heap, i % 3 == 0 ? 0 : PAGE_SIZE + i);

		snprintf(name, sizeof name, "root %u", i);
		assert_int_equal(fm_root_set(heap, name, p, i * 7), 0);
	}
	heap = reopen(heap);
	for (unsigned stop_at = 0; stop_at <= 3000; stop_at += 1500) {
		memset(&seen, 0, sizeof seen);
		seen.heap = heap;
		seen.stop_at = stop_at;
		assert_int_equal(fm_root_each(heap, see_root, &seen), stop_at ? 5 : 0);
		assert_int_equal(seen.count, stop_at ? stop_at : 3000);
	}
	for (unsigned i = 0; i < 3000; i += 2) {
		snprintf(name, sizeof name, "root %u", i);
		assert_int_equal(fm_root_remove(heap, name), 0);
	}
	memset(&seen, 0, sizeof seen);
	seen.heap = heap;
	assert_int_equal(fm_root_each(heap, see_root, &seen), 0);
	assert_int_equal(seen.count, 1500);
	for (unsigned i = 0; i < 3000; i++)
		assert_int_equal(seen.seen[i], i % 2);
	assert_int_equal(live_objects(heap), 0);
	close_checked(heap);
}

static void a_root_set_for_ever_costs_nothing(void **state)
{
	fm_heap *heap = create_heap();
	struct fm_statistics before = { .size = sizeof before }, after = { .size = sizeof after };
	void *p = fm_malloc(heap, 10);
	char name[30];

	(void)state;
	assert_int_equal(fm_root_set(heap, "it", p, 1), 0);
	assert_int_equal(fm_stats(heap, &before), 0);
	for (unsigned i = 0; i < 30000; i++) {
		assert_int_equal(fm_root_set(heap, "it", i % 2 ? p : NULL, i), 0);
		snprintf(name, sizeof name, "passing %u", i);
		assert_int_equal(fm_root_set(heap, name, p, i), 0);
		assert_int_equal(fm_root_remove(heap, name), 0);
	}
	assert_int_equal(fm_stats(heap, &after), 0);
	assert_true(after.file_size <= before.file_size + 512 * KIB);
	assert_int_equal(after.live_objects, before.live_objects);
	close_checked(heap);
}

/* Nothing to call is an error whether there is something to call it for or not. */
static void visitors_are_needed(void **state)
{
	fm_heap *heap = create_heap();

	(void)state;
	FAILS(fm_root_each(heap, NULL, NULL), -1, EINVAL);
	FAILS(fm_walk(heap, NULL, NULL), -1, EINVAL);
	assert_int_equal(fm_root_set(heap, "it", fm_malloc(heap, 10), 1), 0);
	FAILS(fm_root_each(heap, NULL, NULL), -1, EINVAL);
	FAILS(fm_walk(heap, NULL, NULL), -1, EINVAL);
	close_checked(heap);
}

static void *set_roots(void *arg)
{
	static unsigned numbers;
	unsigned self = __atomic_fetch_add(&numbers, 1, __ATOMIC_RELAXED);
	char name[30];

	for (unsigned i = 0; i < 2000; i++) {
		snprintf(name, sizeof name, "thread %u root %u", self, i % 50);
		if (fm_root_set(arg, name, fm_at(arg, PAGE_SIZE + i), self) != 0 ||
		    fm_root_get(arg, name, self) != fm_at(arg, PAGE_SIZE + i) ||
		    (i % 3 == 0 && fm_root_remove(arg, name) != 0))
			return arg;
	}
	return NULL;
}

static void roots_and_threads(void **state)
{
	fm_heap *heap = create_heap();
	pthread_t threads[4];
	void *result;

	(void)state;
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, set_roots, heap), 0);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(pthread_join(threads[i], &result), 0);
		assert_null(result);
	}
	close_checked(heap);
}

/* ---------------------------------------------------------------- looking into a heap */

static void statistics(void **state)
{
	struct fm_options options = { .size = sizeof options, .max_size = 256 * MIB };
	fm_heap *heap = open_or_fail(heap_path, FM_CREATE, &options);
	struct fm_statistics s = { .size = sizeof s };
	uint64_t bytes = 0, generation;
	struct stat st;

	(void)state;
	assert_int_equal(fm_stats(heap, &s), 0);
	assert_int_equal(s.size, sizeof s);
	assert_int_equal(s.live_objects + s.live_bytes + s.remote_frees, 0);
	generation = s.generation;
	for (unsigned i = 0; i < 100; i++)
		bytes += fm_usable_size(fm_malloc(heap, 50));
	for (unsigned i = 0; i < 3; i++)
		bytes += fm_usable_size(fm_malloc(heap, 1 * MIB));
	bytes += fm_usable_size(fm_malloc(heap, 20 * MIB));
	assert_int_equal(fm_root_set(heap, "not counted", NULL, 0), 0);
	assert_int_equal(fm_stats(heap, &s), 0);
	assert_int_equal(s.live_objects, 104);
	assert_int_equal(s.small_objects, 100);
	assert_int_equal(s.large_objects, 3);
	assert_int_equal(s.huge_objects, 1);
	assert_int_equal(s.live_bytes, bytes);
	assert_int_equal(s.max_size, 256 * MIB);
	assert_true(s.slab_bytes >= 5000 && s.slab_bytes % (64 * KIB) == 0);
	assert_true(s.address_space >= 256 * MIB);
	assert_int_equal(stat(heap_path, &st), 0);
	assert_int_equal(s.file_size, st.st_size);
	assert_int_equal(s.disk_size, st.st_blocks * 512);
	heap = reopen(heap);
	assert_int_equal(fm_stats(heap, &s), 0);
	assert_int_equal(s.generation, generation + 1);
	assert_int_equal(s.live_objects, 104);
	close_checked(heap);
}

static void a_shorter_struct_of_statistics(void **state)
{
	fm_heap *heap = create_heap();
	struct fm_statistics s;
	size_t len = offsetof(struct fm_statistics, live_bytes);

	(void)state;
	assert_non_null(fm_malloc(heap, 10));
	memset(&s, 0xee, sizeof s);
	s.size = len;
	assert_int_equal(fm_stats(heap, &s), 0);
	assert_int_equal(s.size, len);
	assert_int_equal(s.live_objects, 1);
	for (size_t i = len; i < sizeof s; i++)
		assert_int_equal(((unsigned char *)&s)[i], 0xee);
	close_checked(heap);
}

static void a_longer_struct_of_statistics(void **state)
{
	fm_heap *heap = create_heap();
	struct {
		struct fm_statistics known;
		unsigned char more[64];
	} s;

	(void)state;
	assert_non_null(fm_malloc(heap, 10));
	memset(&s, 0xee, sizeof s);
	s.known.size = sizeof s - 8;
	assert_int_equal(fm_stats(heap, &s.known), 0);
	assert_int_equal(s.known.size, sizeof s - 8);
	assert_int_equal(s.known.live_objects, 1);
	for (size_t i = 0; i < sizeof s.more; i++)
		assert_int_equal(s.more[i], i < sizeof s.more - 8 ? 0 : 0xee);
	s.known.size = SIZE_MAX; /* not a size */
	FAILS(fm_stats(heap, &s.known), -1, EINVAL);
	close_checked(heap);
}

struct walk {
	const char *last;
	unsigned count, stop_at;
	bool frees;
};

static int walk_visit(void *p, size_t usable, void *arg)
{
	struct walk *w = arg;

	if ((const char *)p <= w->last || fm_usable_size(p) != usable || (w->frees && fm_free(p) != 0))
		return -77;
	w->last = p;
	return ++w->count == w->stop_at ? 9 : 0;
}

static void walks(void **state)
{
	fm_heap *heap = create_heap();
	struct walk whole = { 0 }, part = { .stop_at = 50 }, freeing = { .frees = true };
	struct walk none = { .stop_at = 1 };

	(void)state;
	for (unsigned i = 0; i < 3000; i++)
		assert_non_null(fm_malloc(heap, i % 700 ? i : i * 3000));
	assert_int_equal(fm_walk(heap, walk_visit, &whole), 0);
	assert_int_equal(whole.count, 3000);
	assert_int_equal(fm_walk(heap, walk_visit, &part), 9);
	assert_int_equal(part.count, 50);
	assert_int_equal(fm_walk(heap, walk_visit, &freeing), 0);
	assert_int_equal(freeing.count, 3000);
	assert_int_equal(fm_walk(heap, walk_visit, &none), 0);
	close_checked(heap);
}

static void count_finding(const struct fm_finding *finding, void *arg)
{
	if (finding->text && finding->text[0])
		++*(long *)arg;
}

/* Nonsense in the first unit of metadata (docs/format.md: unit 1) is found, and each finding told. */
static void spoil_and_check(void)
{
	fm_heap *heap = fm_open(heap_path, FM_CREATE, NULL);
	long findings, told = 0;

	NEED(heap);
	for (unsigned i = 0; i < 1000; i++)
		NEED(fm_malloc(heap, 100));
	NEED(fm_check(heap, count_finding, &told) == 0 && told == 0);
	memset((char *)heap->mem + 64 * KIB, 0xa5, 64 * KIB);
	findings = fm_check(heap, count_finding, &told);
	NEED(findings > 0);
	NEED(told == findings);
	NEED(fm_check(heap, NULL, NULL) == findings);
}

static void the_verifier_finds_damage(void **state)
{
	(void)state;
	in_child(spoil_and_check);
}

/* ---------------------------------------------------------------- errors */

static void *text_of_a_new_thread(void *arg)
{
	*(bool *)arg = fm_last_error()[0] == 0;
	return fm_malloc(NULL, 10); // fails, with a text in this thread
}

static void texts_belong_to_threads(void **state)
{
	bool empty = false;
	char before[400];
	pthread_t thread;

	(void)state;
	FAILS(fm_open(path_of("missing"), 0, NULL), NULL, ENOENT);
	snprintf(before, sizeof before, "%s", fm_last_error());
	assert_int_equal(pthread_create(&thread, NULL, text_of_a_new_thread, &empty), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(empty);
	assert_string_equal(fm_last_error(), before);
}

static void *no_failure_no_text(void *arg)
{
	fm_heap *heap;

	NEED(fm_last_error() && fm_last_error()[0] == 0);
	heap = fm_open(heap_path, FM_CREATE, NULL);
	NEED(heap && fm_free(fm_malloc(heap, 10)) == 0 && fm_close(heap) == 0);
	NEED(fm_last_error()[0] == 0);
	heap = fm_open(heap_path, 0, NULL);
	NEED(heap && fm_root_set(heap, "it", NULL, 0) == 0 && fm_close(heap) == 0);
	NEED(fm_last_error()[0] == 0);
	return arg;
}

static void nothing_fails(void)
{
	pthread_t thread;

	NEED(pthread_create(&thread, NULL, no_failure_no_text, NULL) == 0);
	NEED(pthread_join(thread, NULL) == 0);
}

static void nothing_failed_yet(void **state)
{
	(void)state;
	in_child(nothing_fails);
}

/* Calls that succeed print nothing and leave errno alone; calls that fail print nothing either. */
static void silent(void)
{
	int ends[2];
	char byte;
	fm_heap *heap;
	void *p;

	NEED(pipe(ends) == 0);
	NEED(dup2(ends[1], 1) == 1 && dup2(ends[1], 2) == 2);
	heap = fm_open(heap_path, FM_CREATE, NULL);
	NEED(heap && (p = fm_malloc(heap, 100)) && fm_free(p) == 0);
	NEED(fm_free(p) == -1 && !fm_malloc(heap, SIZE_MAX) && !fm_open(heap_path, 0, NULL));
	NEED(!fm_open(path_of("missing"), 0, NULL) && fm_check(heap, NULL, NULL) == 0);
	NEED(fm_close(heap) == 0);
	close(1);
	close(2);
	close(ends[1]);
	NEED(read(ends[0], &byte, 1) == 0);
}

static void the_library_prints_nothing(void **state)
{
	(void)state;
	in_child(silent);
}

/* ---------------------------------------------------------------- main */

/* What a large object had is free when it is freed, each unit of it. */
static void freed_space_is_counted(void **state)
{
	fm_heap *heap = create_heap();
	void *large = fm_malloc(heap, 1 << 20);
	struct fm_statistics before = {.size = sizeof before}, after = {.size = sizeof after};

	(void)state;
	assert_non_null(large);
	assert_int_equal(fm_stats(heap, &before), 0);
	assert_int_equal(fm_free(large), 0);
	assert_int_equal(fm_stats(heap, &after), 0);
	assert_int_equal(after.file_size, before.file_size);
	assert_int_equal(after.free_bytes, before.free_bytes + (1 << 20));
	close_checked(heap);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		API_TEST(roots_are_found_again),
		API_TEST(roots_are_replaced_and_removed),
		API_TEST(many_roots),
		API_TEST(a_root_set_for_ever_costs_nothing),
		API_TEST(visitors_are_needed),
		API_TEST(roots_and_threads),
		API_TEST(statistics),
		API_TEST(freed_space_is_counted),
		API_TEST(a_shorter_struct_of_statistics),
		API_TEST(a_longer_struct_of_statistics),
		API_TEST(walks),
		API_TEST(the_verifier_finds_damage),
		API_TEST(texts_belong_to_threads),
		API_TEST(nothing_failed_yet),
		API_TEST(the_library_prints_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
