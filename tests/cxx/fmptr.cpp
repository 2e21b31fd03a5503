/* SPDX-License-Identifier: Apache-2.0
 *
 * fm_ptr<T>: its layout, and the value of each of its operations against that of a raw pointer.
 */
#include <fmalloc.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
extern "C" {
#include <cmocka.h>
}

struct node {
	int val;
	fm_ptr<struct node> next;
} __attribute__((packed));

struct odd {
	char c;
	fm_ptr<const char> text;
} __attribute__((packed));

struct left {
	int l;
};

struct right {
	int r;
};

struct both : left, right {
	int b;
};

struct unknown; // stays incomplete

/* ---------------------------------------------------------------- what holds at compile time */

static_assert(sizeof(fm_ptr<node>) == 8, "8 bytes");
static_assert(alignof(fm_ptr<node>) == 1, "at any address");
static_assert(sizeof(node) == 12 && offsetof(node, next) == 4, "no padding in a packed struct");
static_assert(sizeof(odd) == 9 && offsetof(odd, text) == 1, "no padding in a packed struct");
static_assert(sizeof(fm_ptr<void>) == 8 && sizeof(fm_ptr<unknown>) == 8, "whatever T is");

static_assert(std::is_trivially_copyable<fm_ptr<node>>::value, "memcpy and realloc may move it");
static_assert(std::is_trivially_copyable<node>::value, "also as a member");
static_assert(std::is_trivially_destructible<fm_ptr<node>>::value, "nothing happens at its end");
static_assert(std::is_standard_layout<fm_ptr<node>>::value, "the layout is that of C");
static_assert(std::is_nothrow_default_constructible<fm_ptr<node>>::value, "never throws");

static_assert(std::is_convertible<fm_ptr<node>, node *>::value, "to T *");
static_assert(std::is_convertible<const fm_ptr<node>, const void *>::value, "to any U *");
static_assert(std::is_convertible<fm_ptr<node>, fm_ptr<void>>::value, "as T * to U *");
static_assert(std::is_convertible<fm_ptr<node>, fm_ptr<const node>>::value, "as T * to U *");
static_assert(std::is_convertible<fm_ptr<both>, fm_ptr<right>>::value, "as T * to U *");
static_assert(std::is_convertible<std::nullptr_t, fm_ptr<node>>::value, "null");
static_assert(!std::is_convertible<fm_ptr<node>, bool>::value, "bool by intent only");
static_assert(!std::is_convertible<fm_ptr<node>, long>::value, "integers by intent only");
static_assert(!std::is_constructible<double, fm_ptr<node>>::value, "not a number");
static_assert(!std::is_convertible<fm_ptr<const node>, fm_ptr<node>>::value, "const stays");
static_assert(!std::is_constructible<fm_ptr<node>, fm_ptr<left>>::value, "not of another type");
static_assert(!std::is_constructible<fm_ptr<node>, fm_ptr<void>>::value, "not of another type");
static_assert(!std::is_assignable<fm_ptr<node> &, fm_ptr<left>>::value, "not of another type");
static_assert(!std::is_assignable<fm_ptr<node> &, int>::value, "an int is no address");
static_assert(!std::is_assignable<fm_ptr<node> &, bool>::value, "a bool is no address");
static_assert(!std::is_assignable<fm_ptr<node> &, double>::value, "a number is no address");

template <class P>
static auto has_star(int) -> decltype((void)*std::declval<P>(), std::true_type());
template <class P>
static std::false_type has_star(...);

template <class P>
static auto has_index(int) -> decltype((void)std::declval<P>()[0], std::true_type());
template <class P>
static std::false_type has_index(...);

static_assert(decltype(has_star<fm_ptr<node>>(0))::value, "* of an object");
static_assert(decltype(has_index<fm_ptr<node>>(0))::value, "[] of an object");
static_assert(!decltype(has_star<fm_ptr<void>>(0))::value, "no * of void");
static_assert(!decltype(has_star<fm_ptr<const void>>(0))::value, "no * of void");
static_assert(!decltype(has_index<fm_ptr<void>>(0))::value, "no [] of void");

static_assert(std::is_same<decltype(*fm_ptr<int>()), int &>::value, "as a pointer does it");
static_assert(std::is_same<decltype(*fm_ptr<const int>()), const int &>::value, "as a pointer");
static_assert(std::is_same<decltype(fm_ptr<int>() + 1), int *>::value, "as a pointer does it");
static_assert(std::is_same<decltype(fm_ptr<int>() - fm_ptr<int>()), ptrdiff_t>::value, "a number");

/* ---------------------------------------------------------------- helpers */

static fm_heap *heap;

static int open_heap(void **)
{
	int fd = memfd_create("fmptr", MFD_CLOEXEC);
	if (fd < 0)
		return -1;
	heap = fm_open_fd(fd, FM_CREATE, NULL);
	close(fd);
	if (!heap)
		return -1;
	fmalloc_set_target(heap);
	return 0;
}

static int close_heap(void **)
{
	return fm_close(heap);
}

template <class T>
static T *make(size_t n)
{
	T *p = (T *)fcalloc(n, sizeof(T));
	assert_non_null(p);
	return p;
}

template <class T>
static uint64_t bytes_of(const fm_ptr<T> &p)
{
	uint64_t bytes;
	memcpy(&bytes, (const char *)&p, sizeof bytes);
	return bytes;
}

static uint64_t offset(const void *p)
{
	return (uint64_t)((const char *)p - (const char *)heap->mem);
}

static int sum(struct node *n)
{
	int total = 0;
	while (n) {
		total += n->val;
		n = n->next;
	}
	return total;
}

/* ---------------------------------------------------------------- making and assigning */

static void null_is_zero_bytes(void **)
{
	fm_ptr<node> a;
	fm_ptr<node> b = nullptr, c = NULL, d = 0, e = {};
	fm_ptr<node> f(nullptr), g(NULL), h(0), i((node *)nullptr);
	char zeros[8] = { 0 };

	for (fm_ptr<node> *p : { &a, &b, &c, &d, &e, &f, &g, &h, &i }) {
		assert_memory_equal(p, zeros, 8);
		assert_false((bool)*p);
		assert_true(!*p);
		assert_null((node *)*p);
		assert_null(p->operator->());
		assert_int_equal((uintptr_t)*p, 0);
	}
}

static void assigning_null(void **)
{
	node *n = make<node>(1);
	fm_ptr<node> p(n);

	p = nullptr;
	assert_int_equal(bytes_of(p), 0);
	p = n;
	assert_int_equal(bytes_of(p), offset(n));
	p = NULL;
	assert_int_equal(bytes_of(p), 0);
	p = n;
	p = 0;
	assert_int_equal(bytes_of(p), 0);
	p = n;
	p = (void *)NULL;
	assert_int_equal(bytes_of(p), 0);
	p = n;
	p = (uintptr_t)0;
	assert_int_equal(bytes_of(p), 0);
	p = n;
	p = {};
	assert_int_equal(bytes_of(p), 0);
}

static void bytes_are_the_offset(void **)
{
	node *n = make<node>(3);

	for (int i = 0; i < 3; i++) {
		fm_ptr<node> p(n + i);
		assert_int_equal(bytes_of(p), offset(n + i));
		assert_int_equal(bytes_of(p), fm_offset_of(heap, n + i));
		assert_ptr_equal((node *)p, fm_at(heap, bytes_of(p)));
	}

	fm_ptr<char> page((char *)heap->mem + PAGE_SIZE);
	assert_int_equal(bytes_of(page), PAGE_SIZE);
}

static void from_pointers_of_any_type(void **)
{
	node *n = make<node>(1);
	const node *cn = n;
	void *v = n;
	const void *cv = n;
	char *c = (char *)n;
	unsigned long ul = (unsigned long)n;
	unsigned long long ull = (unsigned long long)ul;

	const fm_ptr<node> made[] = {
		fm_ptr<node>(n), fm_ptr<node>(cn), fm_ptr<node>(v),
		fm_ptr<node>(cv), fm_ptr<node>(c), fm_ptr<node>{ n },
	};
	for (const fm_ptr<node> &p : made)
		assert_int_equal(bytes_of(p), offset(n));

	fm_ptr<node> a, b, d, e, f, g, h;
	a = n;
	b = cn;
	d = v;
	e = cv;
	f = c;
	g = ul;
	h = ull;
	for (const fm_ptr<node> &p : { a, b, d, e, f, g, h })
		assert_int_equal(bytes_of(p), offset(n));
	assert_true(&(a = n) == &a);

	fm_ptr<void> pv(n);
	fm_ptr<const node> pc(n);
	assert_int_equal(bytes_of(pv), offset(n));
	assert_int_equal(bytes_of(pc), offset(n));
}

static void from_fm_ptr(void **)
{
	node *n = make<node>(2);
	const fm_ptr<node> a(n);
	fm_ptr<node> b = a, c(a), d, e;

	assert_int_equal(bytes_of(b), offset(n));
	assert_int_equal(bytes_of(c), offset(n));
	d = a;
	assert_int_equal(bytes_of(d), offset(n));
	d = fm_ptr<node>(n + 1);
	assert_int_equal(bytes_of(d), offset(n + 1));
	e = d = b;
	assert_int_equal(bytes_of(e), offset(n));
	d = fm_ptr<node>();
	assert_int_equal(bytes_of(d), 0);

	fm_ptr<const node> cn = a;
	fm_ptr<void> v = a;
	fm_ptr<const void> cv;
	cv = v;
	assert_int_equal(bytes_of(cn), offset(n));
	assert_int_equal(bytes_of(v), offset(n));
	assert_int_equal(bytes_of(cv), offset(n));
	cn = fm_ptr<node>();
	assert_int_equal(bytes_of(cn), 0);

	std::swap(b, e = fm_ptr<node>(n + 1));
	assert_int_equal(bytes_of(b), offset(n + 1));
	assert_int_equal(bytes_of(e), offset(n));
}

/* ---------------------------------------------------------------- converting */

static const void *take_void(const void *p)
{
	return p;
}

static node *give_back(const fm_ptr<node> &p)
{
	return p;
}

static void to_pointers_of_any_type(void **)
{
	node *n = make<node>(1);
	const fm_ptr<node> p(n);

	node *a = p;
	const node *b = p;
	void *c = p;
	const volatile void *d = p;
	unsigned char *e = p;
	node **f = p;
	void (*g)(void) = p;
	assert_ptr_equal(a, n);
	assert_ptr_equal(b, n);
	assert_ptr_equal(c, n);
	assert_true(d == n);
	assert_ptr_equal(e, n);
	assert_ptr_equal(f, n);
	assert_true((uintptr_t)g == (uintptr_t)n);
	assert_ptr_equal((node *)p, n);
	assert_ptr_equal(static_cast<void *>(p), n);
	assert_ptr_equal(take_void(p), n);
	assert_ptr_equal(give_back(p), n);
	assert_null(take_void(fm_ptr<node>()));
}

static void to_bool(void **)
{
	node *n = make<node>(1);
	fm_ptr<node> p(n), null;
	int seen = 0;

	if (p)
		seen |= 1;
	if (!null)
		seen |= 2;
	if (p && !null)
		seen |= 4;
	seen |= null || p ? 8 : 0;
	while (null)
		seen = 0;
	assert_int_equal(seen, 15);
	assert_true((bool)p);
	assert_false(static_cast<bool>(null));
	assert_true(n->next ? false : true);
}

static void to_integers(void **)
{
	node *n = make<node>(1);
	const fm_ptr<node> p(n), null;
	uintptr_t a = (uintptr_t)n;

	assert_true((short)p == (short)a);
	assert_true((unsigned short)p == (unsigned short)a);
	assert_true((int)p == (int)a);
	assert_true((unsigned int)p == (unsigned int)a);
	assert_true((long)p == (long)a);
	assert_true((unsigned long)p == (unsigned long)a);
	assert_true((long long)p == (long long)a);
	assert_true((unsigned long long)p == (unsigned long long)a);
	assert_true((uint64_t)p == a && (uintptr_t)p == a && (size_t)p == a);
	assert_true(static_cast<uint64_t>(p) - (uint64_t)heap->mem == bytes_of(p));
	assert_true((short)null == 0 && (int)null == 0 && (unsigned long)null == 0);
}

static void in_conditional_expressions(void **)
{
	node *n = make<node>(2);
	fm_ptr<node> p(n), q(n + 1);

	for (int yes = 0; yes <= 1; yes++) {
		node *raw = n + 1;
		node *a = yes ? p : raw;
		node *b = yes ? raw : p;
		node *c = yes ? p : q;
		node *d = yes ? p : nullptr;
		node *e = yes ? NULL : p;
		node *f = yes ? p->next : raw;
		assert_ptr_equal(a, yes ? n : n + 1);
		assert_ptr_equal(b, yes ? n + 1 : n);
		assert_ptr_equal(c, yes ? n : n + 1);
		assert_ptr_equal(d, yes ? n : (node *)NULL);
		assert_ptr_equal(e, yes ? (node *)NULL : n);
		assert_ptr_equal(f, yes ? (node *)NULL : n + 1);
	}
}

static void to_bases_and_back(void **)
{
	both *d = make<both>(1);
	right *base = d;
	assert_true((void *)base != (void *)d);

	fm_ptr<both> p(d);
	right *r = p;
	fm_ptr<right> q = p, assigned;
	assigned = d;
	both *back = q;
	assert_ptr_equal(r, base);
	assert_int_equal(bytes_of(q), offset(base));
	assert_int_equal(bytes_of(assigned), offset(base));
	assert_ptr_equal(back, d);
	assert_true(p == q && q == p && q == d && p == base && d == q && base == p);

	fm_ptr<both> null;
	right *none = null;
	fm_ptr<right> null_base = null;
	assert_null(none);
	assert_int_equal(bytes_of(null_base), 0);
}

/* ---------------------------------------------------------------- using */

static void members_and_objects(void **)
{
	node *n = make<node>(2);
	const fm_ptr<node> p(n);

	p->val = 7;
	assert_int_equal(n->val, 7);
	(*p).val = 8;
	assert_int_equal(n->val, 8);
	assert_ptr_equal(&*p, n);
	p->next = n + 1;
	p->next->val = 9;
	assert_int_equal(n[1].val, 9);
	assert_int_equal(bytes_of(n->next), offset(n + 1));
	assert_true(&n->next == (void *)((char *)n + 4));

	const node *c = n;
	assert_int_equal(c->next->val, 9);

	int *i = make<int>(4);
	fm_ptr<int> numbers(i);
	*numbers = 1;
	numbers[1] = 2;
	numbers[2u] = 3;
	numbers[(size_t)3] = 4;
	assert_true(i[0] == 1 && i[1] == 2 && i[2] == 3 && i[3] == 4);
	fm_ptr<int> last(i + 3);
	assert_int_equal(last[-2], 2);
	fm_ptr<const int> read_only = numbers;
	assert_int_equal(*read_only + read_only[3], 5);
}

static void lists_grow_at_the_end(void **)
{
	node *head = make<node>(1);
	int expected = 0;

	for (int i = 1; i <= 100; i++) {
		struct node *n = head;
		struct node *newnode = (struct node *)fmalloc(sizeof(struct node));
		assert_non_null(newnode);
		newnode->val = i;
		newnode->next = NULL;
		while (n->next)
			n = n->next;
		n->next = newnode;
		expected += i;
	}
	assert_int_equal(sum(head->next), expected);

	while (head->next) {
		node *n = head->next;
		head->next = n->next;
		assert_int_equal(fm_free(n), 0);
	}
	assert_int_equal(sum(head), 0);
}

static void freed_through_fm_ptr(void **)
{
	fm_ptr<node> p(make<node>(1));
	assert_true(fm_usable_size(p) >= sizeof(node));
	assert_ptr_equal(fm_heap_of(p), heap);
	ffree(p);
	assert_int_equal(fm_usable_size(p), 0);

	fm_ptr<node> null;
	assert_int_equal(fm_free(null), 0);
}

static void at_odd_addresses(void **)
{
	odd *o = make<odd>(3);
	char *text = make<char>(6);
	memcpy(text, "hello", 6);

	for (int i = 0; i < 3; i++) {
		o[i].c = 'x';
		o[i].text = text + i;
	}
	for (int i = 0; i < 3; i++) {
		uint64_t bytes;
		memcpy(&bytes, (char *)o + 9 * i + 1, 8);
		assert_int_equal(bytes, offset(text + i));
		assert_string_equal(o[i].text, text + i);
		assert_int_equal(o[i].c, 'x');
	}
}

static void void_and_incomplete(void **)
{
	char *c = make<char>(16);
	fm_ptr<void> v(c);
	fm_ptr<unknown> u((unknown *)c);

	assert_int_equal(bytes_of(v), offset(c));
	assert_int_equal(bytes_of(u), offset(c));
	assert_ptr_equal((void *)v, c);
	assert_ptr_equal((unknown *)u, c);
	fm_ptr<unknown> copy = u;
	fm_ptr<const unknown> read_only = u;
	v = u;
	assert_true(copy == u && read_only == u && v == u && v == c);
	u = nullptr;
	copy = c + 8;
	assert_true(!u && copy > read_only);
	assert_int_equal(bytes_of(copy), offset(c + 8));
}

/* ---------------------------------------------------------------- arithmetic */

enum steps { TWO = 2 };

static void adding_and_subtracting(void **)
{
	node *n = make<node>(10);
	const fm_ptr<node> p(n + 4), q(n + 9);

	assert_ptr_equal(p + 1, n + 5);
	assert_ptr_equal(p + 3u, n + 7);
	assert_ptr_equal(p + (size_t)3, n + 7);
	assert_ptr_equal(p + (short)-4, n);
	assert_ptr_equal(p + TWO, n + 6);
	assert_ptr_equal(2 + p, n + 6);
	assert_ptr_equal((size_t)5 + p, n + 9);
	assert_ptr_equal(p - 4, n);
	assert_ptr_equal(p - -1, n + 5);
	assert_ptr_equal(p - 2u, n + 2);

	assert_int_equal(q - p, 5);
	assert_int_equal(p - q, -5);
	assert_int_equal(p - p, 0);
	assert_int_equal(p - n, 4);
	assert_int_equal(n - p, -4);
	assert_int_equal(q - (const node *)n, 9);
	assert_int_equal(fm_ptr<const node>(n + 1) - p, -3);

	fm_ptr<node> r;
	r = p + 1;
	assert_int_equal(bytes_of(r), offset(n + 5));
	(p + 2)->val = 6;
	assert_int_equal(n[6].val, 6);
}

static void stepping(void **)
{
	node *n = make<node>(10);
	fm_ptr<node> p(n + 4);

	assert_true(&++p == &p);
	assert_ptr_equal((node *)p, n + 5);
	assert_true(&--p == &p);
	assert_ptr_equal((node *)p, n + 4);
	assert_ptr_equal((node *)p++, n + 4);
	assert_ptr_equal((node *)p, n + 5);
	assert_ptr_equal((node *)p--, n + 5);
	assert_ptr_equal((node *)p, n + 4);
	assert_true(&(p += 3) == &p);
	assert_ptr_equal((node *)p, n + 7);
	assert_true(&(p -= 5u) == &p);
	assert_ptr_equal((node *)p, n + 2);
	p += -TWO;
	assert_ptr_equal((node *)p, n);
	assert_int_equal(bytes_of(p), offset(n));

	for (fm_ptr<node> i(n), end(n + 10); i != end; ++i)
		i->val = (int)(i - n);
	int expected = 0;
	for (const node *i = n; i < n + 10; i++)
		assert_int_equal(i->val, expected++);
	assert_int_equal(expected, 10);
}

/* ---------------------------------------------------------------- comparisons */

/* p and q compare as the addresses a and b do, whichever kind of pointer they are. */
template <class P, class Q>
static void compare_as(const P &p, const Q &q, const void *x, const void *y)
{
	uintptr_t a = (uintptr_t)x, b = (uintptr_t)y;

	assert_true((p == q) == (a == b));
	assert_true((p != q) == (a != b));
	assert_true((p < q) == (a < b));
	assert_true((p <= q) == (a <= b));
	assert_true((p > q) == (a > b));
	assert_true((p >= q) == (a >= b));
}

static void comparing(void **)
{
	node *n = make<node>(3);
	node *raw[] = { NULL, n, n + 1, n + 2 };

	for (node *a : raw) {
		for (node *b : raw) {
			const fm_ptr<node> p(a), q(b);
			compare_as(p, q, a, b);
			compare_as(p, fm_ptr<const node>(b), a, b);
			compare_as(fm_ptr<void>(a), q, a, b);
			compare_as(p, b, a, b);
			compare_as(a, q, a, b);
			compare_as(p, (const node *)b, a, b);
			compare_as((const node *)a, q, a, b);
			compare_as(p, (void *)b, a, b);
			compare_as((void *)a, q, a, b);
			compare_as(p, (char *)b, a, b);
			compare_as(p, (uintptr_t)b, a, b);
			compare_as((unsigned long long)a, q, a, b);
		}
		const fm_ptr<node> p(a);
		compare_as(p, nullptr, a, NULL);
		compare_as(nullptr, p, NULL, a);
		assert_true((p == NULL) == (a == NULL) && (NULL == p) == (a == NULL));
		assert_true((p != NULL) == (a != NULL) && (NULL != p) == (a != NULL));
		assert_true((p == 0) == (a == NULL) && (0 == p) == (a == NULL));
		assert_true((p != 0) == (a != NULL) && (0 != p) == (a != NULL));
	}

	node in_place[2];
	fm_ptr<node> p(n);
	assert_true(p != in_place);
	fm_ptr<node> same(n);
	assert_false(&p == &same);
}

/* ---------------------------------------------------------------- copying bytes */

static void copied_by_memcpy(void **)
{
	node *n = make<node>(2), *copy = make<node>(1);
	n->val = 3;
	n->next = n + 1;
	n[1].val = 4;

	memcpy(copy, n, sizeof(node));
	assert_ptr_equal((node *)copy->next, n + 1);
	assert_int_equal(sum(copy), 7);

	uint64_t bytes = offset(copy);
	fm_ptr<node> p;
	memcpy((void *)&p, &bytes, sizeof p);
	assert_ptr_equal((node *)p, copy);
	assert_true(p == copy && p);
}

static void moved_by_realloc(void **)
{
	size_t count = 8;
	node *target = make<node>(1);
	node *n = make<node>(count);
	bool moved = false;

	for (size_t i = 0; i < count; i++)
		n[i].next = target;
	while (count < 100000) {
		uint64_t before = offset(n);
		n = (node *)frealloc(n, 2 * count * sizeof(node));
		assert_non_null(n);
		moved = moved || offset(n) != before;
		for (size_t i = 0; i < count; i++)
			assert_true(n[i].next == target);
		for (size_t i = count; i < 2 * count; i++)
			n[i].next = target;
		count *= 2;
	}
	assert_true(moved);
	ffree(n);
}

static void in_standard_containers(void **)
{
	node *n = make<node>(50);
	std::vector<fm_ptr<node>> v;

	for (int i = 0; i < 50; i++)
		v.push_back(fm_ptr<node>(n + i * 7 % 50));
	std::sort(v.begin(), v.end());
	for (int i = 0; i < 50; i++)
		assert_ptr_equal((node *)v[(size_t)i], n + i);
	assert_true(std::find(v.begin(), v.end(), n + 20) - v.begin() == 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(null_is_zero_bytes),
		cmocka_unit_test(assigning_null),
		cmocka_unit_test(bytes_are_the_offset),
		cmocka_unit_test(from_pointers_of_any_type),
		cmocka_unit_test(from_fm_ptr),
		cmocka_unit_test(to_pointers_of_any_type),
		cmocka_unit_test(to_bool),
		cmocka_unit_test(to_integers),
		cmocka_unit_test(in_conditional_expressions),
		cmocka_unit_test(to_bases_and_back),
		cmocka_unit_test(members_and_objects),
		cmocka_unit_test(lists_grow_at_the_end),
		cmocka_unit_test(freed_through_fm_ptr),
		cmocka_unit_test(at_odd_addresses),
		cmocka_unit_test(void_and_incomplete),
		cmocka_unit_test(adding_and_subtracting),
		cmocka_unit_test(stepping),
		cmocka_unit_test(comparing),
		cmocka_unit_test(copied_by_memcpy),
		cmocka_unit_test(moved_by_realloc),
		cmocka_unit_test(in_standard_containers),
	};
	return cmocka_run_group_tests_name("fm_ptr<T>", tests, open_heap, close_heap);
}
