/* SPDX-License-Identifier: Apache-2.0
 *
 * fmalloc.h in C++, alone, before any other header: C linkage, and no macro of C's pointer members.
 */
#include <fmalloc.h>

#if defined(fm_ptr) || defined(fm_get) || defined(fm_set)
#error "C's macros in C++"
#endif

template <class T>
struct fm_ptr { /* the name is free */
	T *p;
};

extern "C" int fm_free(void *p); /* the linkage is C's */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>
extern "C" {
#include <cmocka.h>
}

static void every_family_works(void **)
{
	int fd = memfd_create("header", MFD_CLOEXEC);
	assert_true(fd >= 0);
	struct fm_options options = {};
	options.size = sizeof options;
	options.max_size = 64u << 20;
	fm_heap *heap = fm_open_fd(fd, FM_CREATE, &options);
	close(fd);
	assert_non_null(heap);

	fm_ptr<int> numbers = { (int *)fm_calloc(heap, 4, sizeof(int)) };
	assert_non_null(numbers.p);
	numbers.p[3] = 7;
	numbers.p = (int *)fm_reallocarray(heap, numbers.p, 1000, sizeof(int));
	assert_non_null(numbers.p);
	assert_int_equal(numbers.p[3], 7);
	assert_ptr_equal(fm_at(heap, fm_offset_of(heap, numbers.p)), numbers.p);
	assert_int_equal(fm_root_set(heap, "numbers", numbers.p, 1), 0);
	assert_ptr_equal(fm_root_get(heap, "numbers", 1), numbers.p);

	fmalloc_set_target(heap);
	char *text = fstrdup("text");
	assert_non_null(text);
	text = (char *)freallocarray(text, 10, 10);
	assert_string_equal(text, "text");
	assert_true(fmalloc_usable_size(text) >= 100);
	text = (char *)frealloc(text, 5);
	assert_string_equal(text, "text");
	char *part = fstrndup(text, 2);
	assert_string_equal(part, "te");
	void *aligned = faligned_alloc(256, 10), *zero = fcalloc(2, 50);
	assert_int_equal((uintptr_t)aligned % 256, 0);
	assert_int_equal(*(char *)zero, 0);
	void *all[] = { text, part, aligned, zero };
	for (void *p : all)
		assert_int_equal(fm_free(p), 0);
	errno = 0;
	assert_null(fcalloc(SIZE_MAX, 2));
	assert_int_equal(errno, ENOMEM);
	assert_int_equal(fm_check(heap, NULL, NULL), 0);
	assert_int_equal(fm_close(heap), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_family_works),
	};
	return cmocka_run_group_tests_name("fmalloc.h in C++", tests, NULL, NULL);
}
