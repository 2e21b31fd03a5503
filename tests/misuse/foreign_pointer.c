/* SPDX-License-Identifier: Apache-2.0
 *
 * Misuse: addresses that lie in no open heap, or in another heap than the one named.
 */
#include "../support/misuse_case.h"

static int in_data = 1;

static void foreign(struct misuse_case *c, void *p)
{
	wrong_pointer(c, p, FM_FOREIGN_POINTER, NULL);
}

/* An address from a number, past the compiler's knowledge of it. */
static void *address(uintptr_t n)
{
	volatile uintptr_t hidden = n;

	return (void *)hidden;
}

static void the_stack(struct misuse_case *c)
{
	uint64_t local[4] = { 1, 2, 3, 4 };

	foreign(c, address((uintptr_t)local));
	NEED(local[0] == 1 && local[3] == 4);
}

static void malloc_of_libc(struct misuse_case *c)
{
	char *small = malloc(100), *large = malloc(10 * MIB);

	NEED(small && large);
	memset(small, 5, 100);
	foreign(c, small);
	foreign(c, large);
	NEED(small[0] == 5 && small[99] == 5);
	free(small);
	free(large);
}

static void static_data(struct misuse_case *c)
{
	foreign(c, address((uintptr_t)&in_data));
	NEED(in_data == 1);
}

static void program_text(struct misuse_case *c)
{
	foreign(c, address((uintptr_t)&the_stack));
}

static void the_heap_handle(struct misuse_case *c)
{
	foreign(c, address((uintptr_t)c->heap));
	NEED(fm_heap_of(c->objects[0]) == c->heap);
}

static void a_mapping(struct misuse_case *c)
{
	char *p = mmap(NULL, 1 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	NEED(p != MAP_FAILED);
	foreign(c, p);
	foreign(c, p + 64 * KIB);
	munmap(p, 1 * MIB);
}

static void an_unmapped_address(struct misuse_case *c)
{
	char *p = mmap(NULL, 1 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	NEED(p != MAP_FAILED && munmap(p, 1 * MIB) == 0);
	foreign(c, p);
}

static void low_numbers(struct misuse_case *c)
{
	static const uintptr_t numbers[] = { 1, 2, 7, 8, 16, 4096, 65536, 4 * 1024 * 1024 };

	for (unsigned i = 0; i < 8; i++)
		foreign(c, address(numbers[i]));
}

static void high_numbers(struct misuse_case *c)
{
	foreign(c, address(UINTPTR_MAX));
	foreign(c, address(UINTPTR_MAX - 7));
	foreign(c, address(UINTPTR_MAX - 15));
	foreign(c, address((uintptr_t)1 << 63));
	foreign(c, address((uintptr_t)1 << 47));
	foreign(c, address(((uintptr_t)1 << 47) - 16));
}

static void beside_the_reservation(struct misuse_case *c)
{
	struct fm_statistics s = { .size = sizeof s };
	uintptr_t mem = (uintptr_t)c->heap->mem;

	NEED(fm_stats(c->heap, &s) == 0);
	foreign(c, address(mem - 1));
	foreign(c, address(mem - 16));
	foreign(c, address(mem - 4 * MIB));
	foreign(c, address(mem + s.address_space));
	foreign(c, address(mem + s.address_space + 64 * KIB));
}

/* An offset taken for an address. */
static void an_offset(struct misuse_case *c)
{
	foreign(c, address(fm_offset_of(c->heap, c->objects[5])));
}

static fm_heap *open_other(const char *name)
{
	char path[4200];

	snprintf(path, sizeof path, "%s/%s", misuse_folder, name);
	return fm_open(path, FM_CREATE, NULL);
}

/* realloc names one heap, and the object lies in another: which keeps it. */
static void realloc_in_another_heap(struct misuse_case *c)
{
	fm_heap *other = open_other("other.fm");
	char *p;

	NEED(other);
	p = fm_malloc(other, 100);
	NEED(p);
	memset(p, 9, 100);
	wrong_realloc(c, p, FM_FOREIGN_POINTER, other);
	WRONG_CALL(c, fm_reallocarray(c->heap, p, 10, 50), NULL, EINVAL, FM_FOREIGN_POINTER, p, other);
	WRONG_CALL(c, fm_realloc(other, c->objects[4], 500), NULL, EINVAL, FM_FOREIGN_POINTER,
	           c->objects[4], c->heap);
	NEED(p[0] == 9 && p[99] == 9);
	NEED(fm_usable_size(p) >= 100);
	NEED(fm_heap_of(p) == other);
	NEED(fm_check(other, misuse_print_finding, NULL) == 0);
	NEED(fm_free(p) == 0);
	NEED(fm_close(other) == 0);
}

/* frealloc works on the thread's target, which is not where the object lies. */
static void frealloc_with_another_target(struct misuse_case *c)
{
	fm_heap *other = open_other("other.fm");

	NEED(other);
	fmalloc_set_target(other);
	WRONG_CALL(c, frealloc(c->objects[7], 1000), NULL, EINVAL, FM_FOREIGN_POINTER, c->objects[7],
	           c->heap);
	fmalloc_set_target(c->heap);
	NEED(fm_close(other) == 0);
}

/* Objects of a heap that was closed are nobody's. */
static void of_a_closed_heap(struct misuse_case *c)
{
	fm_heap *other = open_other("other.fm");
	void *small, *run;

	NEED(other);
	small = fm_malloc(other, 100);
	run = fm_malloc(other, 1 * MIB);
	NEED(small && run);
	NEED(fm_close(other) == 0);
	foreign(c, small);
	foreign(c, run);
}

/* fm_free() of another open heap's object is no misuse: it goes where it lies. */
static void free_finds_the_heap(struct misuse_case *c)
{
	fm_heap *other = open_other("other.fm"), *third = open_other("third.fm");
	void *p[3];

	NEED(other && third);
	for (unsigned round = 0; round < 100; round++) {
		p[0] = fm_malloc(c->heap, 100);
		p[1] = fm_malloc(other, 100);
		p[2] = fm_malloc(third, 1 * MIB);
		NEED(p[0] && p[1] && p[2]);
		for (unsigned i = 0; i < 3; i++)
			NEED(fm_free(p[(i + round) % 3]) == 0);
	}
	NEED(c->seen.calls == 0);
	NEED(fm_close(other) == 0);
	NEED(fm_close(third) == 0);
}

static void null_is_fine(struct misuse_case *c)
{
	void *p;

	NEED(fm_free(NULL) == 0);
	errno = 0;
	ffree(NULL);
	NEED(errno == 0);
	NEED((p = fm_realloc(c->heap, NULL, 100)));
	NEED(fm_free(p) == 0);
	NEED(!fm_heap_of(NULL));
	errno = 0;
	NEED(fm_usable_size(NULL) == 0 && errno == EINVAL);
}

static void null_is_no_misuse(struct misuse_case *c)
{
	NEED(fm_free(NULL) == 0);
	ffree(NULL);
	NEED(c->seen.calls == 0);
}

MISUSE_TEST(the_stack)
MISUSE_TEST(malloc_of_libc)
MISUSE_TEST(static_data)
MISUSE_TEST(program_text)
MISUSE_TEST(the_heap_handle)
MISUSE_TEST(a_mapping)
MISUSE_TEST(an_unmapped_address)
MISUSE_TEST(low_numbers)
MISUSE_TEST(high_numbers)
MISUSE_TEST(beside_the_reservation)
MISUSE_TEST(an_offset)
MISUSE_TEST(realloc_in_another_heap)
MISUSE_TEST(frealloc_with_another_target)
MISUSE_TEST(of_a_closed_heap)
HARMLESS_TEST(free_finds_the_heap)
HARMLESS_TEST(null_is_fine)
HARMLESS_TEST(null_is_no_misuse)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_stack),
		cmocka_unit_test(test_malloc_of_libc),
		cmocka_unit_test(test_static_data),
		cmocka_unit_test(test_program_text),
		cmocka_unit_test(test_the_heap_handle),
		cmocka_unit_test(test_a_mapping),
		cmocka_unit_test(test_an_unmapped_address),
		cmocka_unit_test(test_low_numbers),
		cmocka_unit_test(test_high_numbers),
		cmocka_unit_test(test_beside_the_reservation),
		cmocka_unit_test(test_an_offset),
		cmocka_unit_test(test_realloc_in_another_heap),
		cmocka_unit_test(test_frealloc_with_another_target),
		cmocka_unit_test(test_of_a_closed_heap),
		cmocka_unit_test(test_free_finds_the_heap),
		cmocka_unit_test(test_null_is_fine),
		cmocka_unit_test(test_null_is_no_misuse),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
