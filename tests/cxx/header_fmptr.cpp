/* SPDX-License-Identifier: Apache-2.0
 *
 * fmptr.hpp alone, before any other header.
 */
#include <fmptr.hpp>

struct pair {
	fm_ptr<struct pair> a, b;
};

static uint64_t before_cmocka(struct pair *p)
{
	p->a = p;
	p->b = NULL;
	return p->a == p && !p->b ? (uint64_t)p->a : 0;
}

#include <setjmp.h>
#include <stdarg.h>
extern "C" {
#include <cmocka.h>
}

static void works_alone(void **)
{
	struct pair p;
	assert_int_equal(sizeof p, 16);

	/* Without a heap an offset counts from address 0. */
	assert_int_equal(before_cmocka(&p), (uint64_t)&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(works_alone),
	};
	return cmocka_run_group_tests_name("fmptr.hpp alone", tests, NULL, NULL);
}
