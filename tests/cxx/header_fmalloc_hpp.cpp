/* SPDX-License-Identifier: Apache-2.0
 *
 * fmalloc.hpp alone, before any other header, twice, with what programs took from it in silence.
 */
#include <fmalloc.hpp>
#include <fmalloc.hpp>

#ifndef PAGE_SIZE
#error "no PAGE_SIZE"
#endif

static_assert(PAGE_SIZE == 4096, "the application's page");
static_assert(offsetof(struct fm_info, fd) == 0, "the original's members first");
static_assert(offsetof(struct fm_info, mem) == 8, "the original's members first");
static_assert(offsetof(struct fm_info, s) == 16, "the original's members first");

static int uses_the_standard_headers(void)
{
	std::atomic<int> atomic(1);
	std::vector<int> vector = { 3, 2 };
	std::sort(vector.begin(), vector.end());
	assert(vector[0] == 2);
	char text[] = "12";
	struct stat st;
	uint8_t byte = (uint8_t)strlen(text);
	int fd = open("/dev/null", O_RDWR);
	int ok = fd >= 0 && fstat(fd, &st) == 0 && ioctl(fd, FIONBIO, NULL) < 0;
	void *mem = mmap(NULL, PAGE_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ok = ok && mem != MAP_FAILED && munmap(mem, PAGE_SIZE) == 0;
	if (fd < 0)
		exit(1);
	printf("# %d\n", byte);
	return ok ? atomic + vector[0] : 0;
}

#include <setjmp.h>
#include <stdarg.h>
extern "C" {
#include <cmocka.h>
}

static void works_alone(void **)
{
	assert_int_equal(uses_the_standard_headers(), 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(works_alone),
	};
	return cmocka_run_group_tests_name("fmalloc.hpp alone", tests, NULL, NULL);
}
