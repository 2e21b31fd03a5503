/* SPDX-License-Identifier: Apache-2.0
 *
 * The allocating functions as fmalloc.h states them, the thread's target, offsets and typed pointers.
 * (Long sequences of operations: tests/model. Wrong pointers and handles: tests/misuse.)
 */
#include "../support/api_util.h"

/* ---------------------------------------------------------------- allocating */

static void objects_stay(void **state)
{
	static const size_t sizes[] = { 1, 16, 24, 100, 5000, 65536, 100000, 700000, 5000000, 9000000 };
	enum { N = sizeof sizes / sizeof sizes[0] };
	fm_heap *heap = create_heap();
	uint64_t offsets[N];

	(void)state;
	for (unsigned i = 0; i < N; i++) {
		unsigned char *p = fm_malloc(heap, sizes[i]);

		assert_non_null(p);
		assert_int_equal((uintptr_t)p % (sizes[i] % 16 == 0 ? 16 : 8), 0);
		assert_true(fm_usable_size(p) >= sizes[i]);
		memset(p, (int)i + 1, sizes[i]);
		offsets[i] = fm_offset_of(heap, p);
	}
	for (unsigned round = 0; round < 3; round++) {
		heap = reopen(heap);
		assert_int_equal(live_objects(heap), N);
		for (unsigned i = 0; i < N; i++) {
			unsigned char *p = fm_at_checked(heap, offsets[i], sizes[i]);

			assert_non_null(p);
			assert_true(p[0] == i + 1 && p[sizes[i] - 1] == i + 1 && p[sizes[i] / 2] == i + 1);
		}
	}
	close_checked(heap);
}

static void nodes_cost_what_they_measure(void **state)
{
	fm_heap *heap = create_heap();

	(void)state;
	for (size_t size = 16; size <= 128; size += 8) {
		void *p = fm_malloc(heap, size);

		assert_int_equal(fm_usable_size(p), size);
	}
	close_checked(heap);
}

static bool is_zero(const unsigned char *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

/* calloc is zero also where something else was before, in this process or in an earlier one. */
static void calloc_is_zero(void **state)
{
	static const size_t sizes[] = { 1, 24, 1000, 30000, 200000, 1000000, 9000000 };
	fm_heap *heap = create_heap();

	(void)state;
	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
			unsigned char *p[500];
			// enough to come round to the same places
			unsigned n = sizes[i] < 2000 ? 500 : sizes[i] < 50000 ? 50 : 3;

			for (unsigned j = 0; j < n; j++) {
				p[j] = j % 2 ? fm_calloc(heap, sizes[i], 1) : fm_calloc(heap, 1, sizes[i]);
				assert_non_null(p[j]);
				assert_true(is_zero(p[j], sizes[i]));
				memset(p[j], 0xff, fm_usable_size(p[j]));
			}
			for (unsigned j = 0; j < n; j++)
				assert_int_equal(fm_free(p[j]), 0);
		}
		if (round % 2)
			heap = reopen(heap);
	}
	assert_non_null(fm_calloc(heap, 0, 0));
	close_checked(heap);
}

static void realloc_keeps_contents(void **state)
{
	static const size_t sizes[] = { 10,     11,      100,     90,     5000,    20000, 70000,
		                        600000, 5000000, 9000000, 900000, 100000, 1000,  5 };
	fm_heap *heap = create_heap();
	unsigned char *p = fm_realloc(heap, NULL, 10);
	size_t kept = 10;

	(void)state;
	assert_non_null(p);
	for (size_t i = 0; i < 10; i++)
		p[i] = (unsigned char)(i * 3);
	for (unsigned i = 1; i < sizeof sizes / sizeof sizes[0]; i++) {
		p = fm_realloc(heap, p, sizes[i]);
		assert_non_null(p);
		assert_true(fm_usable_size(p) >= sizes[i]);
		assert_int_equal(live_objects(heap), 1);
		kept = kept < sizes[i] ? kept : sizes[i];
		for (size_t j = 0; j < kept; j++)
			assert_int_equal(p[j], (unsigned char)(j * 3));
		for (size_t j = kept; j < sizes[i]; j++)
			p[j] = (unsigned char)(j * 3);
		kept = sizes[i];
	}
	FAILS(fm_realloc(heap, p, SIZE_MAX), NULL, ENOMEM);
	FAILS(fm_reallocarray(heap, p, SIZE_MAX / 2, 3), NULL, ENOMEM);
	for (size_t j = 0; j < kept; j++)
		assert_int_equal(p[j], (unsigned char)(j * 3));
	p = fm_reallocarray(heap, p, 100, 7);
	assert_non_null(p);
	assert_true(fm_usable_size(p) >= 700);
	p = fm_realloc(heap, p, 0);
	assert_non_null(p);
	assert_int_equal(live_objects(heap), 1);
	assert_int_equal(fm_free(p), 0);
	close_checked(heap);
}

static void strings_are_copied(void **state)
{
	fm_heap *heap = create_heap();
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *text = pages + page - 5, *p;

	(void)state;
	assert_true(pages != MAP_FAILED);
	assert_int_equal(mprotect(pages + page, page, PROT_NONE), 0);
	assert_string_equal(fm_strdup(heap, "some text"), "some text");
	assert_string_equal(fm_strdup(heap, ""), "");
	assert_string_equal(fm_strndup(heap, "some text", 4), "some");
	assert_string_equal(fm_strndup(heap, "some text", 9), "some text");
	assert_string_equal(fm_strndup(heap, "some text", 10), "some text");
	assert_string_equal(fm_strndup(heap, "some text", SIZE_MAX), "some text");
	assert_string_equal(fm_strndup(heap, "some text", 0), "");
	memcpy(text, "12345", 5); // no byte behind them, and no terminating one
	assert_string_equal(fm_strndup(heap, text, 5), "12345");
	assert_string_equal(fm_strndup(heap, text, 3), "123");
	text[4] = 0;
	assert_string_equal(fm_strdup(heap, text), "1234");
	assert_string_equal(fm_strndup(heap, text, 100), "1234");
	munmap(pages, 2 * page);
	p = malloc(3 * MIB);
	assert_non_null(p);
	memset(p, 'l', 3 * MIB);
	p[3 * MIB - 1] = 0;
	text = fm_strdup(heap, p);
	assert_non_null(text);
	assert_int_equal(strcmp(text, p), 0);
	free(p);
	assert_int_equal(live_objects(heap), 12);
	close_checked(heap);
}

/* Nothing is written into an object that was freed, or beside one. */
static void free_leaves_the_bytes(void **state)
{
	static const size_t sizes[] = { 16, 24, 64, 500, 5000, 40000 };
	fm_heap *heap = create_heap();

	(void)state;
	for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		unsigned char *keep = fm_malloc(heap, sizes[i]), *p = fm_malloc(heap, sizes[i]);

		assert_non_null(keep);
		assert_non_null(p);
		memset(p, 0xab, sizes[i]);
		assert_int_equal(fm_free(p), 0);
		for (size_t j = 0; j < sizes[i]; j++)
			assert_int_equal(p[j], 0xab);
	}
	close_checked(heap);
}

static void max_size_is_a_limit(void **state)
{
	struct fm_options options = { .size = sizeof options, .max_size = 20 * MIB };
	fm_heap *heap = open_or_fail(heap_path, FM_CREATE, &options);
	struct fm_statistics s = { .size = sizeof s };
	void *p[400], *q;
	unsigned n = 0;

	(void)state;
	FAILS(fm_malloc(heap, 21 * MIB), NULL, ENOMEM);
	while ((q = fm_malloc(heap, 100000)))
		p[n++] = q;
	assert_int_equal(errno, ENOMEM);
	assert_true(fm_last_error()[0]);
	assert_in_range(n, 160, 209);
	assert_int_equal(fm_stats(heap, &s), 0);
	assert_int_equal(s.max_size, 20 * MIB);
	assert_true(s.file_size <= 20 * MIB);
	for (unsigned i = 0; i < n; i += 2)
		assert_int_equal(fm_free(p[i]), 0);
	for (unsigned i = 0; i < n; i += 2) {
		p[i] = fm_malloc(heap, 100000);
		assert_non_null(p[i]);
	}
	close_checked(heap);
	// the limit is this opening's, not the file's
	heap = open_or_fail(heap_path, 0, NULL);
	assert_int_equal(live_objects(heap), n);
	assert_non_null(fm_malloc(heap, 21 * MIB));
	close_checked(heap);
}

/* What is looked for space before an allocation fails holds a live object: one that took the place after
 * a word of its slab had become empty, and that the thread's window has left behind. */
static void a_full_heap_takes_nothing_back(void **state)
{
	struct fm_options options = { .size = sizeof options, .max_size = 16 * MIB };
	fm_heap *heap = open_or_fail(heap_path, FM_CREATE, &options);
	enum { WORDS = 6 };

	(void)state;
	for (size_t size = 16; size <= 1024; size *= 2) {
		void *p[64 * WORDS], *left;
		size_t before = live_objects(heap);

		for (unsigned i = 0; i < 64 * WORDS; i++)
			assert_non_null(p[i] = fm_malloc(heap, size));
		assert_int_equal(fm_free(fm_malloc(heap, size)), 0);
		left = fm_malloc(heap, size);
		assert_non_null(left);
		for (unsigned i = 0; i < 64 * WORDS; i++)
			assert_int_equal(fm_free(p[i]), 0);
		for (unsigned i = 0; i < 70; i++)
			assert_int_equal(fm_free(fm_malloc(heap, size)), 0);
		FAILS(fm_malloc(heap, 17 * MIB), NULL, ENOMEM);
		assert_int_equal(fm_usable_size(left), size);
		assert_int_equal(live_objects(heap), before + 1);
	}
	close_checked(heap);
}

static void address_space_is_a_limit(void **state)
{
	struct fm_options options = { .size = sizeof options, .address_space = 64 * MIB };
	fm_heap *heap = open_or_fail(heap_path, FM_CREATE, &options);
	struct fm_statistics s = { .size = sizeof s };

	(void)state;
	assert_int_equal(fm_stats(heap, &s), 0);
	assert_int_equal(s.address_space, 64 * MIB);
	assert_true(s.max_size <= 64 * MIB);
	FAILS(fm_malloc(heap, 70 * MIB), NULL, ENOMEM);
	assert_non_null(fm_malloc(heap, 30 * MIB));
	FAILS(fm_malloc(heap, 40 * MIB), NULL, ENOMEM);
	assert_non_null(fm_malloc(heap, 1 * MIB));
	close_checked(heap);
	heap = open_or_fail(heap_path, 0, NULL);
	assert_non_null(fm_malloc(heap, 70 * MIB));
	close_checked(heap);
}

static void heap_of_an_address(void **state)
{
	fm_heap *a = create_heap(), *b = open_or_fail(path_of("b.fm"), FM_CREATE, NULL);
	char *p = fm_malloc(a, 100), *q = fm_malloc(b, 10 * MIB);
	int on_stack;

	(void)state;
	assert_ptr_equal(fm_heap_of(p), a);
	assert_ptr_equal(fm_heap_of(p + 50), a);
	assert_ptr_equal(fm_heap_of(a->mem), a);
	assert_ptr_equal(fm_heap_of((char *)a->mem + PAGE_SIZE), a);
	assert_ptr_equal(fm_heap_of(q), b);
	assert_ptr_equal(fm_heap_of(q + 9 * MIB), b);
	assert_null(fm_heap_of(NULL));
	assert_null(fm_heap_of(&on_stack));
	assert_ptr_not_equal(fm_heap_of((char *)a->mem - 1), a); /* the other one may lie right below it */
	close_checked(a);
	assert_null(fm_heap_of(p));
	assert_ptr_equal(fm_heap_of(q), b);
	close_checked(b);
}

/* ---------------------------------------------------------------- the thread's target */

static fm_heap *heap_a, *heap_b;

/* fmalloc's words, not those on a heap that is NULL, which the program has not named. */
static bool is_about_target(void)
{
	bool is = strstr(fm_last_error(), "there is no target") != NULL;

	fm_malloc(NULL, 1);
	return is && !strstr(fm_last_error(), "there is no target");
}

static void no_target(void)
{
	errno = 0;
	NEED(!fmalloc_get_target() && errno == EINVAL);
	errno = 0;
	NEED(!fmalloc(10) && errno == EINVAL && fm_last_error()[0]);
	errno = 0;
	NEED(!fcalloc(1, 10) && errno == EINVAL && is_about_target());
	errno = 0;
	NEED(!frealloc(NULL, 10) && errno == EINVAL && is_about_target());
	errno = 0;
	NEED(!freallocarray(NULL, 1, 10) && errno == EINVAL && is_about_target());
	errno = 0;
	NEED(!faligned_alloc(16, 10) && errno == EINVAL && is_about_target());
	errno = 0;
	NEED(!fstrdup("text") && errno == EINVAL && is_about_target());
	errno = 0;
	NEED(!fstrndup("text", 2) && errno == EINVAL && is_about_target());
	errno = 0;
	ffree(NULL);
	NEED(errno == 0);
}

static void without_a_heap_there_is_no_target(void **state)
{
	(void)state;
	in_child(no_target);
}

static void *expects_a(void *arg)
{
	NEED(fmalloc_get_target() == heap_a);
	NEED(fm_heap_of(fmalloc(10)) == heap_a);
	return arg;
}

static void *sets_b(void *arg)
{
	fmalloc_set_target(heap_b);
	NEED(fmalloc_get_target() == heap_b);
	NEED(fm_heap_of(fmalloc(10)) == heap_b);
	return arg;
}

static void run_thread(void *(*act)(void *))
{
	pthread_t thread;

	NEED(pthread_create(&thread, NULL, act, NULL) == 0 && pthread_join(thread, NULL) == 0);
}

static void each_has_its_target(void)
{
	void *p;
	bool init = false;

	heap_a = fm_open(heap_path, FM_CREATE, NULL);
	NEED(heap_a);
	NEED(fmalloc_get_target() == heap_a);
	heap_b = fmalloc_init(path_of("b.fm"), &init);
	NEED(heap_b && init);
	NEED(fmalloc_get_target() == heap_a);
	run_thread(expects_a);
	fmalloc_set_target(heap_b);
	NEED(fmalloc_get_target() == heap_b);
	run_thread(expects_a);
	run_thread(sets_b);
	run_thread(expects_a);
	NEED(fm_heap_of(p = fmalloc(100)) == heap_b);
	NEED(fmalloc_usable_size(p) >= 100);
	fmalloc_set_target(heap_a);
	ffree(p); // it lies where it lies
	NEED(fm_heap_of(fcalloc(2, 10)) == heap_a);
	NEED(fm_heap_of(frealloc(NULL, 10)) == heap_a);
	NEED(fm_heap_of(freallocarray(NULL, 2, 10)) == heap_a);
	NEED(fm_heap_of(p = faligned_alloc(4096, 10)) == heap_a && (uintptr_t)p % 4096 == 0);
	NEED(fm_heap_of(p = fstrdup("text")) == heap_a && strcmp(p, "text") == 0);
	NEED(fm_heap_of(p = fstrndup("text", 2)) == heap_a && strcmp(p, "te") == 0);
	NEED(fm_check(heap_a, print_finding, NULL) == 0 && fm_check(heap_b, print_finding, NULL) == 0);
	NEED(fm_close(heap_a) == 0 && fm_close(heap_b) == 0);
	errno = 0;
	NEED(!fmalloc_get_target() && errno == EINVAL);
	errno = 0;
	NEED(!fmalloc(10) && errno == EINVAL);
}

static void each_thread_has_its_target(void **state)
{
	(void)state;
	in_child(each_has_its_target);
}

static void the_original_interface(void **state)
{
	struct fm_info *heap;
	bool init = false;
	char *p;

	(void)state;
	heap = fmalloc_init(heap_path, &init);
	assert_non_null(heap);
	assert_true(init);
	assert_int_equal(mode_of(heap_path) & 077, 0);
	fmalloc_set_target(heap);
	p = fmalloc(100);
	assert_non_null(p);
	strcpy(p, "found again");
	*(uint64_t *)((char *)heap->mem + PAGE_SIZE) = (uint64_t)(p - (char *)heap->mem);
	assert_int_equal(fm_close(heap), 0);
	init = true;
	heap = fmalloc_init(heap_path, &init);
	assert_non_null(heap);
	assert_false(init);
	p = (char *)heap->mem + *(uint64_t *)((char *)heap->mem + PAGE_SIZE);
	assert_string_equal(p, "found again");
	FAILS(fmalloc_init(heap_path, &init), NULL, EBUSY);
	ffree(p);
	assert_int_equal(live_objects(heap), 0);
	close_checked(heap);
	write_file(path_of("foreign"), "foreign", 7);
	FAILS(fmalloc_init(path_of("foreign"), &init), NULL, EILSEQ);
	FAILS(fmalloc_init(path_of("no/folder"), &init), NULL, ENOENT);
	write_file(path_of("zeros"), "\0\0\0\0\0\0\0", 7);
	init = false;
	heap = fmalloc_init(path_of("zeros"), &init);
	assert_non_null(heap);
	assert_true(init);
	close_checked(heap);
}

/* ---------------------------------------------------------------- offsets and pointers */

static void offsets_and_addresses(void **state)
{
	fm_heap *heap = create_heap();
	char *p = fm_malloc(heap, 100);
	uint64_t offset = fm_offset_of(heap, p);

	(void)state;
	assert_true(offset >= 64 * KIB);
	assert_ptr_equal(fm_at(heap, offset), p);
	assert_ptr_equal(fm_at(heap, offset + 10), p + 10);
	assert_null(fm_at(heap, 0));
	assert_int_equal(fm_offset_of(heap, NULL), 0);
	assert_ptr_equal(fm_at_checked(heap, offset, 100), p);
	assert_ptr_equal(fm_at_checked(heap, offset + 10, 90), p + 10);
	assert_ptr_equal(fm_at_checked(heap, PAGE_SIZE + 8, 8), (char *)heap->mem + PAGE_SIZE + 8);
	FAILS(fm_at_checked(heap, offset, fm_usable_size(p) + 1), NULL, EINVAL);
	FAILS(fm_at_checked(heap, 0, 1), NULL, EINVAL);
	assert_int_equal(fm_free(p), 0);
	FAILS(fm_at_checked(heap, offset, 1), NULL, EINVAL);
	close_checked(heap);
}

struct unknown;

struct list_node {
	fm_ptr(struct list_node) next;
	fm_ptr(struct unknown) incomplete;
	fm_ptr(const char) text;
	uint32_t n;
};

static void pointers_in_the_heap(void **state)
{
	fm_heap *heap = create_heap();
	struct list_node *head, copy;
	unsigned n = 0;

	(void)state;
	assert_int_equal(sizeof head->next, 8);
	assert_int_equal(sizeof head->incomplete, 8);
	head = fm_calloc(heap, 1, sizeof *head);
	assert_non_null(head);
	assert_null(fm_get(heap, head->next)); // zero bytes are null
	assert_null(fm_get(heap, head->text));
	assert_int_equal(fm_root_set(heap, "head", head, 1), 0);
	for (unsigned i = 0; i < 100; i++) {
		struct list_node *node = fm_calloc(heap, 1, sizeof *node);

		node->n = i;
		fm_set(heap, &node->text, fm_strdup(heap, i % 2 ? "odd" : "even"));
		node->next = head->next;
		fm_set(heap, &head->next, node);
		assert_ptr_equal(fm_get(heap, head->next), node);
		copy = *node; // copied by assignment and memcpy, to anywhere
		assert_string_equal(fm_get(heap, copy.text), i % 2 ? "odd" : "even");
	}
	heap = reopen(heap);
	head = fm_root_get(heap, "head", 1);
	for (struct list_node *node = fm_get(heap, head->next); node; node = fm_get(heap, node->next)) {
		assert_int_equal(node->n, 99 - n);
		assert_string_equal(fm_get(heap, node->text), node->n % 2 ? "odd" : "even");
		n++;
	}
	assert_int_equal(n, 100);
	fm_set(heap, &head->next, NULL);
	assert_null(fm_get(heap, head->next));
	close_checked(heap);
}

/* The folder of fmalloc.h, from where this file was compiled. */
static bool find_include(char *path, size_t size)
{
	const char *ends = strstr(__FILE__, "tests/api/");

	snprintf(path, size, "%.*sinclude", (int)(ends ? ends - __FILE__ : 0), __FILE__);
	if (access(path, F_OK) != 0)
		snprintf(path, size, "include");
	return access(path, F_OK) == 0;
}

static const char snippet_start[] =
	"#include <fmalloc.h>\n"
	"struct apple; struct pear { int weight; };\n"
	"struct holder { fm_ptr(struct apple) a, a2; fm_ptr(struct pear) p, p2; fm_ptr(char) c;\n"
	"	fm_ptr(const char) t; };\n"
	"void f(fm_heap *heap, struct holder *h, struct apple *apple, struct pear *pear, char *c);\n"
	"void f(fm_heap *heap, struct holder *h, struct apple *apple, struct pear *pear, char *c)\n"
	"{\n"
	"	(void)heap; (void)h; (void)apple; (void)pear; (void)c;\n"
	"	";

static const struct {
	bool compiles;
	const char *line;
} snippets[] = {
	{ true, ";" },
	{ true, "h->a = h->a2;" },
	{ true, "h->p = h->p2;" },
	{ true, "h->a = 0;" },
	{ true, "h->a = NULL;" },
	{ true, "struct holder copy = *h; *h = copy;" },
	{ true, "fm_set(heap, &h->a, apple);" },
	{ true, "fm_set(heap, &h->p, pear);" },
	{ true, "fm_set(heap, &h->p, NULL);" },
	{ true, "fm_set(heap, &h->t, c);" },
	{ true, "fm_set(heap, &h->t, \"text\");" },
	{ true, "fm_set(heap, &h->p, fm_malloc(heap, sizeof(struct pear)));" },
	{ true, "struct apple *got = fm_get(heap, h->a); (void)got;" },
	{ true, "fm_get(heap, h->p)->weight = 5;" },
	{ true, "if (h->a == h->a2 || !h->p) c = fm_get(heap, h->c);" },
	{ true, "const char *got = fm_get(heap, h->c); got = fm_get(heap, h->t); (void)got;" },
	{ true, "_Static_assert(sizeof(fm_ptr(struct apple)) == 8, \"8 bytes\");" },
	{ false, "h->a = h->p;" },
	{ false, "h->p = h->a;" },
	{ false, "h->c = h->p;" },
	{ false, "h->a = apple;" },
	{ false, "h->p = pear;" },
	{ false, "pear = h->p;" },
	{ false, "h->p = 8;" },
	{ false, "fm_set(heap, &h->a, pear);" },
	{ false, "fm_set(heap, &h->p, apple);" },
	{ false, "fm_set(heap, &h->c, (const char *)c);" },
	{ false, "fm_set(heap, &h->p, h->p2);" },
	{ false, "struct apple *got = fm_get(heap, h->p); (void)got;" },
	{ false, "char *got = fm_get(heap, h->t); (void)got;" },
	{ false, "h->p->weight = 5;" },
	{ false, "(*h->p).weight = 5;" },
	{ false, "int n = h->p; (void)n;" },
	{ false, "if (h->a == h->p) c = NULL;" },
	{ false, "fm_get(heap, h->a)->weight = 5;" },
};

static void wrong_types_do_not_compile(void **state)
{
	char include[4200], command[9000], name[4200];
	const char *cc = getenv("CC");

	(void)state;
	cc = cc && *cc ? cc : "cc";
	snprintf(command, sizeof command, "%s --version >/dev/null 2>&1", cc);
	if (!find_include(include, sizeof include) || system(command) != 0) {
		print_message("# no compiler or no include folder here\n");
		skip();
	}
	snprintf(name, sizeof name, "%s", path_of("snippet.c"));
	for (unsigned i = 0; i < sizeof snippets / sizeof snippets[0]; i++) {
		FILE *file = fopen(name, "w");
		int status;

		assert_non_null(file);
		fprintf(file, "%s%s\n}\n", snippet_start, snippets[i].line);
		assert_int_equal(fclose(file), 0);
		snprintf(command, sizeof command,
		         "%s -std=c11 -Wall -Wextra -Wconversion -Werror -fsyntax-only -I'%s' '%s' "
		         ">'%s' 2>&1", cc, include, name, path_of("messages"));
		status = system(command);
		assert_true(status != -1 && WIFEXITED(status));
		if ((WEXITSTATUS(status) == 0) != snippets[i].compiles)
			fail_msg("%s: %s", snippets[i].compiles ? "does not compile" : "compiles",
			         snippets[i].line);
	}
}

/* ---------------------------------------------------------------- main */

int main(void)
{
	const struct CMUnitTest tests[] = {
		API_TEST(objects_stay),
		API_TEST(nodes_cost_what_they_measure),
		API_TEST(calloc_is_zero),
		API_TEST(realloc_keeps_contents),
		API_TEST(strings_are_copied),
		API_TEST(free_leaves_the_bytes),
		API_TEST(max_size_is_a_limit),
		API_TEST(a_full_heap_takes_nothing_back),
		API_TEST(address_space_is_a_limit),
		API_TEST(heap_of_an_address),
		API_TEST(without_a_heap_there_is_no_target),
		API_TEST(each_thread_has_its_target),
		API_TEST(the_original_interface),
		API_TEST(offsets_and_addresses),
		API_TEST(pointers_in_the_heap),
		API_TEST(wrong_types_do_not_compile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
