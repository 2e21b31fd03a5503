/* SPDX-License-Identifier: Apache-2.0
 *
 * Misuse: addresses inside the heap that are not the start of an object.
 */
#include "../support/misuse_case.h"

#define UNIT    (64 * KIB)
#define SEGMENT (4 * MIB)

static uint64_t file_size(const struct misuse_case *c)
{
	struct fm_statistics s = { .size = sizeof s };

	NEED(fm_stats(c->heap, &s) == 0);
	return s.file_size;
}

static void invalid_at(struct misuse_case *c, uint64_t offset)
{
	wrong_pointer(c, fm_at(c->heap, offset), FM_INVALID_POINTER, c->heap);
}

/* Every place but the first of an object is wrong. */
static void inside_small(struct misuse_case *c)
{
	static const size_t sizes[] = { 16, 24, 40, 100, 320, 1000 };

	for (unsigned i = 0; i < 6; i++) {
		char *p = fm_malloc(c->heap, sizes[i]);
		size_t usable = fm_usable_size(p);

		NEED(p);
		for (size_t at = 1; at < usable; at += usable / 9 + 1)
			wrong_pointer(c, p + at, FM_INVALID_POINTER, c->heap);
		wrong_pointer(c, p + usable - 1, FM_INVALID_POINTER, c->heap);
	}
}

static void misaligned(struct misuse_case *c)
{
	static const int steps[] = { 1, 2, 3, 4, 5, 7 };
	char *p = fm_malloc(c->heap, 64);

	NEED(p);
	for (unsigned i = 0; i < 6; i++)
		wrong_pointer(c, p + steps[i], FM_INVALID_POINTER, c->heap);
}

static void inside_medium(struct misuse_case *c)
{
	char *p = fm_malloc(c->heap, 8 * KIB);

	NEED(p);
	wrong_pointer(c, p + 8, FM_INVALID_POINTER, c->heap);
	wrong_pointer(c, p + 16, FM_INVALID_POINTER, c->heap);
	wrong_pointer(c, p + 4096, FM_INVALID_POINTER, c->heap);
	wrong_pointer(c, p + 8 * KIB - 1, FM_INVALID_POINTER, c->heap);
}

/* An object of several units: the second begins inside it. */
static void inside_a_large_slot(struct misuse_case *c)
{
	char *p = fm_malloc(c->heap, 300 * KIB);

	NEED(p);
	wrong_pointer(c, p + 8, FM_INVALID_POINTER, c->heap);
	for (uintptr_t at = ((uintptr_t)p + UNIT) / UNIT * UNIT; at < (uintptr_t)p + 300 * KIB; at += UNIT)
		wrong_pointer(c, (void *)at, FM_INVALID_POINTER, c->heap);
}

static void inside_a_run(struct misuse_case *c)
{
	char *p = fm_malloc(c->heap, 1 * MIB);

	NEED(p);
	wrong_pointer(c, p + 8, FM_INVALID_POINTER, c->heap);
	wrong_pointer(c, p + 4096, FM_INVALID_POINTER, c->heap);
	wrong_pointer(c, p + UNIT, FM_INVALID_POINTER, c->heap);
	wrong_pointer(c, p + 1 * MIB - UNIT, FM_INVALID_POINTER, c->heap);
	wrong_pointer(c, p + 1 * MIB - 8, FM_INVALID_POINTER, c->heap);
}

/* Whole segments, whose places of metadata hold the program's bytes: also such that look like it. */
static void inside_a_huge_object(struct misuse_case *c)
{
	char *p = fm_malloc(c->heap, 20 * MIB);

	NEED(p);
	memset(p, 0xff, 20 * MIB);
	wrong_pointer(c, p + 8, FM_INVALID_POINTER, c->heap);
	wrong_pointer(c, p + UNIT, FM_INVALID_POINTER, c->heap);
	for (size_t at = SEGMENT; at < 20 * MIB; at += SEGMENT) {
		wrong_pointer(c, p + at, FM_INVALID_POINTER, c->heap);
		wrong_pointer(c, p + at + UNIT, FM_INVALID_POINTER, c->heap);
		wrong_pointer(c, p + at - UNIT, FM_INVALID_POINTER, c->heap);
	}
	wrong_pointer(c, p + 20 * MIB - 8, FM_INVALID_POINTER, c->heap);
}

/* The first byte after an object that lies alone in its units. */
static void one_past_a_run(struct misuse_case *c)
{
	char *p = fm_malloc(c->heap, 1 * MIB + 100);
	size_t usable = fm_usable_size(p);

	NEED(p && usable % UNIT != 0);
	wrong_pointer(c, p + usable, FM_INVALID_POINTER, c->heap);
	wrong_pointer(c, p + usable + 8, FM_INVALID_POINTER, c->heap);
}

static void one_past_a_huge_object(struct misuse_case *c)
{
	char *p = fm_malloc(c->heap, 9 * MIB + 100);
	size_t usable = fm_usable_size(p);

	NEED(p && usable % UNIT != 0);
	wrong_pointer(c, p + usable, FM_INVALID_POINTER, c->heap);
	wrong_pointer(c, p + usable / UNIT * UNIT + UNIT, FM_NO_OBJECT, c->heap);
}

static void one_before(struct misuse_case *c)
{
	char *p = fm_malloc(c->heap, 1 * MIB);

	NEED(p);
	wrong_pointer(c, p - 1, FM_INVALID_POINTER, c->heap);
}

/* Slots of a fresh class that nobody ever got. */
static void a_slot_never_handed_out(struct misuse_case *c)
{
	char *p = fm_malloc(c->heap, 408), *q = p + 408;

	NEED(p);
	NEED(fm_usable_size(p) >= 408);
	q = p + fm_usable_size(p);
	if ((uintptr_t)q / UNIT != (uintptr_t)p / UNIT)
		q = p - fm_usable_size(p);
	wrong_pointer(c, q, FM_NO_OBJECT, c->heap);
}

/* What is left at the end of a unit that is a slab, after its last slot. */
static void the_tail_of_a_slab(struct misuse_case *c)
{
	enum { N = 3000 };
	static const size_t sizes[] = { 24, 40, 72 }; // they don't divide a unit
	static char *p[N];

	for (unsigned k = 0; k < 3; k++) {
		unsigned tails = 0;

		for (unsigned i = 0; i < N; i++)
			NEED((p[i] = fm_malloc(c->heap, sizes[k])));
		for (unsigned i = 0; i < N; i++) {
			char *after = p[i] + fm_usable_size(p[i]);

			// the unit ends inside what would be the next slot
			if ((uintptr_t)after % UNIT == 0 || (uintptr_t)after % UNIT + sizes[k] <= UNIT)
				continue;
			wrong_pointer(c, after, FM_INVALID_POINTER, c->heap);
			wrong_pointer(c, after + 8, FM_INVALID_POINTER, c->heap);
			tails++;
		}
		NEED(tails > 0);
	}
}

static void the_superblock(struct misuse_case *c)
{
	wrong_pointer(c, c->heap->mem, FM_INVALID_POINTER, c->heap);
	invalid_at(c, 8);
	invalid_at(c, 64);
	invalid_at(c, 4095);
}

static void the_application_page(struct misuse_case *c)
{
	invalid_at(c, PAGE_SIZE);
	invalid_at(c, PAGE_SIZE + 64);
}

static void the_rest_of_the_header(struct misuse_case *c)
{
	for (uint64_t offset = 8 * KIB; offset < UNIT; offset += 4 * KIB)
		invalid_at(c, offset);
}

static void the_metadata_unit(struct misuse_case *c)
{
	invalid_at(c, UNIT);
	invalid_at(c, UNIT + 8);
	invalid_at(c, UNIT + 512);
	invalid_at(c, 2 * UNIT - 8);
}

/* The second segment begins with its metadata, once objects are there. */
static void the_metadata_of_another_segment(struct misuse_case *c)
{
	for (unsigned i = 0; i < 12; i++) {
		char *p = fm_malloc(c->heap, 1 * MIB);

		NEED(p && p != (char *)c->heap->mem + SEGMENT);
	}
	NEED(file_size(c) > SEGMENT + UNIT);
	invalid_at(c, SEGMENT);
	invalid_at(c, SEGMENT + 8);
	invalid_at(c, SEGMENT + UNIT - 8);
}

/* The units of a run that was freed: whether they ever were objects of their own nobody can tell. */
static void a_free_unit(struct misuse_case *c)
{
	char *p = fm_malloc(c->heap, 1 * MIB), *q = fm_malloc(c->heap, 1 * MIB);

	NEED(p && q);
	NEED(fm_free(p) == 0);
	wrong_pointer(c, p + UNIT + 8, FM_NO_OBJECT, c->heap);
	wrong_pointer(c, p + 5 * UNIT + 1, FM_INVALID_POINTER, c->heap);
	wrong_pointer(c, p + 5 * UNIT, FM_NO_OBJECT, c->heap);
}

static void the_end_of_the_file(struct misuse_case *c)
{
	uint64_t end = file_size(c);

	wrong_pointer(c, fm_at(c->heap, end - 1), FM_INVALID_POINTER, c->heap);
	wrong_pointer(c, fm_at(c->heap, end), FM_NO_OBJECT, c->heap);
	wrong_pointer(c, fm_at(c->heap, end + 8), FM_INVALID_POINTER, c->heap);
}

/* Address space that is reserved and not backed by the file. */
static void the_reservation(struct misuse_case *c)
{
	struct fm_statistics s = { .size = sizeof s };

	NEED(fm_stats(c->heap, &s) == 0);
	NEED(s.address_space > s.file_size + 64 * MIB);
	wrong_pointer(c, fm_at(c->heap, s.file_size + 40 * MIB + 24), FM_INVALID_POINTER, c->heap);
	wrong_pointer(c, fm_at(c->heap, s.address_space / 2 + 24), FM_INVALID_POINTER, c->heap);
	wrong_pointer(c, fm_at(c->heap, s.address_space - 8), FM_INVALID_POINTER, c->heap);
}

MISUSE_TEST(inside_small)
MISUSE_TEST(misaligned)
MISUSE_TEST(inside_medium)
MISUSE_TEST(inside_a_large_slot)
MISUSE_TEST(inside_a_run)
MISUSE_TEST(inside_a_huge_object)
MISUSE_TEST(one_past_a_run)
MISUSE_TEST(one_past_a_huge_object)
MISUSE_TEST(one_before)
MISUSE_TEST(a_slot_never_handed_out)
MISUSE_TEST(the_tail_of_a_slab)
MISUSE_TEST(the_superblock)
MISUSE_TEST(the_application_page)
MISUSE_TEST(the_rest_of_the_header)
MISUSE_TEST(the_metadata_unit)
MISUSE_TEST(the_metadata_of_another_segment)
MISUSE_TEST(a_free_unit)
MISUSE_TEST(the_end_of_the_file)
MISUSE_TEST(the_reservation)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inside_small),
		cmocka_unit_test(test_misaligned),
		cmocka_unit_test(test_inside_medium),
		cmocka_unit_test(test_inside_a_large_slot),
		cmocka_unit_test(test_inside_a_run),
		cmocka_unit_test(test_inside_a_huge_object),
		cmocka_unit_test(test_one_past_a_run),
		cmocka_unit_test(test_one_past_a_huge_object),
		cmocka_unit_test(test_one_before),
		cmocka_unit_test(test_a_slot_never_handed_out),
		cmocka_unit_test(test_the_tail_of_a_slab),
		cmocka_unit_test(test_the_superblock),
		cmocka_unit_test(test_the_application_page),
		cmocka_unit_test(test_the_rest_of_the_header),
		cmocka_unit_test(test_the_metadata_unit),
		cmocka_unit_test(test_the_metadata_of_another_segment),
		cmocka_unit_test(test_a_free_unit),
		cmocka_unit_test(test_the_end_of_the_file),
		cmocka_unit_test(test_the_reservation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
