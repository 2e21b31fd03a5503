/* SPDX-License-Identifier: Apache-2.0
 *
 * fm_ptr<T> counts from the target of the thread that uses it: two heaps, threads with a target
 * each, threads that set none.
 *
 * cmocka's assertions work in the main thread only: the others count what is wrong.
 */
#include <fmalloc.hpp>

#include "folder_util.h"

#include <string>
#include <thread>

#include <errno.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
extern "C" {
#include <cmocka.h>
}

#define NODES  2000
#define ROUNDS 20

struct node {
	int val;
	fm_ptr<struct node> next;
} __attribute__((packed));

struct app_page {
	fm_ptr<struct node> head;
};

static fm_heap *first, *second;

static fm_heap *open_heap(void)
{
	int fd = memfd_create("fmptr_threads", MFD_CLOEXEC);
	if (fd < 0)
		return NULL;
	fm_heap *heap = fm_open_fd(fd, FM_CREATE, NULL);
	close(fd);
	return heap;
}

static uint64_t bytes_of(const fm_ptr<node> &p)
{
	uint64_t bytes;
	memcpy(&bytes, (const char *)&p, sizeof bytes);
	return bytes;
}

static void opening(void **)
{
	first = open_heap();
	assert_non_null(first);
	second = open_heap();
	assert_non_null(second);
	assert_ptr_not_equal(first->mem, second->mem);
}

static void closing(void **)
{
	assert_int_equal(fm_close(second), 0);
	assert_int_equal(fm_close(first), 0);
}

static struct app_page *page_of(fm_heap *heap)
{
	return (struct app_page *)((char *)heap->mem + PAGE_SIZE);
}

/* Put a node in front of the list of `heap`, the thread's target. True if that failed. */
static bool push(fm_heap *heap, int val)
{
	struct node *n = (struct node *)fmalloc(sizeof(struct node));
	if (!n || fm_heap_of(n) != heap)
		return true;
	n->val = val;
	n->next = page_of(heap)->head;
	page_of(heap)->head = n;
	return false;
}

/* What is wrong with the list of `heap`: `count` nodes, counting down to `base`. */
static long faults_in_list(fm_heap *heap, int base, int count)
{
	long faults = 0;
	int expected = base + count - 1;

	for (struct node *n = page_of(heap)->head; n; n = n->next) {
		faults += fm_heap_of(n) != heap;
		faults += n->val != expected--;
	}
	return faults + (expected != base - 1);
}

static void fill_and_read(fm_heap *heap, int base, long *faults)
{
	fmalloc_set_target(heap);
	*faults += __fm_addr_base != (uint64_t)heap->mem;
	*faults += fmalloc_get_target() != heap;
	page_of(heap)->head = NULL;
	for (int i = 0; i < NODES; i++)
		*faults += push(heap, base + i);
	for (int i = 0; i < ROUNDS; i++)
		*faults += faults_in_list(heap, base, NODES);
}

static void two_threads_two_targets(void **)
{
	long faults[2] = { 0, 0 };
	std::thread a(fill_and_read, first, 0, &faults[0]);
	std::thread b(fill_and_read, second, 1000000, &faults[1]);
	a.join();
	b.join();
	assert_int_equal(faults[0], 0);
	assert_int_equal(faults[1], 0);

	std::thread c([&] {
		fmalloc_set_target(second);
		faults[1] += faults_in_list(second, 1000000, NODES);
		fmalloc_set_target(first);
		faults[0] += faults_in_list(first, 0, NODES);
	});
	c.join();
	assert_int_equal(faults[0], 0);
	assert_int_equal(faults[1], 0);
	assert_int_equal(fm_check(first, NULL, NULL), 0);
	assert_int_equal(fm_check(second, NULL, NULL), 0);
}

/* A pointer's bytes stay, and the heap that they mean is the thread's target of the moment. */
static void the_target_decides(void **)
{
	struct {
		uint64_t bytes[2];
		void *address[2], *from_other_target;
	} seen = {};

	std::thread t([&] {
		fm_ptr<node> p, q;
		fmalloc_set_target(first);
		p = (char *)first->mem + 65536;
		seen.bytes[0] = bytes_of(p);
		seen.address[0] = p;
		fmalloc_set_target(second);
		seen.address[1] = p;
		q = (char *)second->mem + 65536;
		seen.bytes[1] = bytes_of(q);
		fmalloc_set_target(first);
		seen.from_other_target = q;
	});
	t.join();
	assert_int_equal(seen.bytes[0], 65536);
	assert_int_equal(seen.bytes[1], 65536);
	assert_ptr_equal(seen.address[0], (char *)first->mem + 65536);
	assert_ptr_equal(seen.address[1], (char *)second->mem + 65536);
	assert_ptr_equal(seen.from_other_target, (char *)first->mem + 65536);
}

/* Threads that set no target work on the first heap, the main thread too. */
static void without_a_target(void **)
{
	assert_int_equal(__fm_addr_base, 0);
	assert_ptr_equal(fmalloc_get_target(), first);

	page_of(first)->head = nullptr;
	for (int i = 0; i < 5; i++)
		assert_false(push(first, i));
	assert_int_equal(__fm_addr_base, 0);
	assert_int_equal(faults_in_list(first, 0, 5), 0);
	assert_int_equal(bytes_of(page_of(first)->head),
	                 fm_offset_of(first, page_of(first)->head));

	struct {
		uint64_t base_before, base_after;
		fm_heap *target;
		long faults;
		node *found;
	} seen = {};
	node *head = page_of(first)->head;
	std::thread t([&] {
		seen.base_before = __fm_addr_base;
		seen.target = fmalloc_get_target();
		seen.found = page_of(first)->head;
		seen.faults += faults_in_list(first, 0, 5);
		for (int i = 5; i < 10; i++)
			seen.faults += push(first, i);
		seen.faults += faults_in_list(first, 0, 10);
		seen.base_after = __fm_addr_base;
	});
	t.join();
	assert_int_equal(seen.base_before, 0);
	assert_int_equal(seen.base_after, 0);
	assert_ptr_equal(seen.target, first);
	assert_ptr_equal(seen.found, head);
	assert_int_equal(seen.faults, 0);
	assert_int_equal(faults_in_list(first, 0, 10), 0);
}

/* A thread's target is its own: setting it changes nothing for others, nor for later threads. */
static void a_target_is_the_threads_own(void **)
{
	long faults = 0;
	std::thread t([&] {
		fmalloc_set_target(second);
		std::thread inner([&] {
			faults += __fm_addr_base != 0;
			faults += fmalloc_get_target() != first;
		});
		inner.join();
		faults += __fm_addr_base != (uint64_t)second->mem;
		faults += fmalloc_get_target() != second;
	});
	t.join();
	assert_int_equal(faults, 0);
	assert_int_equal(__fm_addr_base, 0);
	assert_ptr_equal(fmalloc_get_target(), first);
}

/* Null needs no heap, and nothing is allocated without one. */
static void before_any_heap(void **)
{
	fm_ptr<node> p;
	fm_ptr<node> q = p;

	assert_int_equal(__fm_addr_base, 0);
	errno = 0;
	assert_null(fmalloc_get_target());
	assert_int_equal(errno, EINVAL);
	assert_true(!p && p == nullptr && p == q);
	assert_null((node *)p);
	p = NULL;
	assert_int_equal(bytes_of(p), 0);
	errno = 0;
	p = (struct node *)fmalloc(sizeof(struct node));
	assert_int_equal(errno, EINVAL);
	assert_int_equal(bytes_of(p), 0);
}

/* A thread that sets no target follows the first heap, also when others close it and open the next:
 * fm_ptr and fmalloc never differ about the heap. */
static char folder[256];

static int make_folder(void **)
{
	return folder_make(folder, sizeof folder, "fmptr-threads");
}

static int remove_folder(void **)
{
	for (const char *name : { "/a", "/b" })
		unlink((std::string(folder) + name).c_str());
	return rmdir(folder);
}

static void the_first_heap_is_replaced(void **)
{
	std::string a = std::string(folder) + "/a", b = std::string(folder) + "/b";
	bool init = false;
	fm_heap *heap = fmalloc_init(a.c_str(), &init);
	assert_non_null(heap);
	assert_true(init);
	assert_ptr_equal(fmalloc_get_target(), heap);

	int closed = -1;
	std::thread t([&] {
		closed = fm_close(heap);
		heap = fmalloc_init(b.c_str(), &init);
	});
	t.join();
	assert_int_equal(closed, 0);
	assert_non_null(heap);
	assert_ptr_equal(fmalloc_get_target(), heap);

	struct node *n = (struct node *)fmalloc(sizeof(struct node));
	assert_ptr_equal(fm_heap_of(n), heap);
	uint64_t bytes = bytes_of(fm_ptr<node>(n)), offset = fm_offset_of(heap, n);
	assert_int_equal(fm_close(heap), 0);
	assert_int_equal(bytes, offset);
}

/* What a thread finds of its target, which another thread has closed: all three of one heap, and the link right. */
struct found {
	fm_heap *target, *allocated;
	uint64_t base, offset, right;
};

static void look(struct found *found)
{
	struct node *n = (struct node *)fmalloc(sizeof(struct node));
	found->allocated = fm_heap_of(n);
	found->target = fmalloc_get_target();
	found->base = __fm_addr_base;
	found->offset = bytes_of(fm_ptr<node>(n));
	found->right = found->allocated ? fm_offset_of(found->allocated, n) : 1;
}

/* Open heaps until one has the handle `closed`, and leave that one open. */
static fm_heap *reuse(fm_heap *closed)
{
	for (int i = 0; i < 5000; i++) {
		fm_heap *heap = open_heap();
		if (!heap || heap == closed)
			return heap;
		fm_close(heap);
	}
	return NULL;
}

static void assert_first(const struct found *found, fm_heap *heap)
{
	assert_ptr_equal(found->target, heap);
	assert_ptr_equal(found->allocated, heap);
	assert_int_equal(found->base, 0);
	assert_int_equal(found->offset, found->right);
}

/* The main thread closes the target of another, which goes on with the first heap. */
static void the_target_is_closed_elsewhere(void **)
{
	first = open_heap();
	second = open_heap();
	assert_true(first && second);

	struct found found[3] = {};
	std::atomic<int> step(0);
	auto wait_for = [&](int n) {
		while (step != n)
			std::this_thread::yield();
	};
	std::thread t([&] {
		fmalloc_set_target(second);
		look(&found[0]);
		step = 1;
		wait_for(2);
		look(&found[1]);
		look(&found[2]);
	});
	wait_for(1);
	uint64_t base = (uint64_t)second->mem;
	fm_heap *closed = second;
	int r = fm_close(second);
	step = 2;
	t.join();
	assert_int_equal(r, 0);
	assert_ptr_equal(found[0].target, closed);
	assert_int_equal(found[0].base, base);
	assert_first(&found[1], first);
	assert_first(&found[2], first);
	assert_int_equal(fm_close(first), 0);
}

/* The same, and an unrelated heap has the closed one's handle when the thread looks. `use` makes the thread allocate
 * from that heap, so that the thread's cache of the target becomes the cache of the other. */
static void handle_reused(bool use, bool own_close)
{
	first = open_heap();
	second = open_heap();
	assert_true(first && second);

	struct found found = {};
	std::atomic<int> step(0);
	fm_heap *closed = second, *other = NULL;
	auto wait_for = [&](int n) {
		while (step != n)
			std::this_thread::yield();
	};
	std::thread t([&] {
		fmalloc_set_target(second);
		fmalloc(sizeof(struct node));
		if (own_close)
			fm_close(second);
		step = 1;
		wait_for(2);
		if (use && other)
			fm_malloc(other, sizeof(struct node));
		look(&found);
	});
	wait_for(1);
	if (!own_close)
		fm_close(second);
	other = reuse(closed);
	step = 2;
	t.join();
	assert_ptr_equal(other, closed);
	assert_first(&found, first);
	assert_int_equal(fm_close(other), 0);
	assert_int_equal(fm_close(first), 0);
}

static void the_targets_handle_is_reused(void **)
{
	handle_reused(false, false);
	handle_reused(true, false);
	handle_reused(true, true);
}

/* A child that opens a heap of its own in another thread than the one that was forked: that one's target was the
 * parent's, and is the child's now. Without one it stays, for reading. */
static void the_target_in_a_child(void **)
{
	first = open_heap();
	second = open_heap();
	assert_true(first && second);
	fmalloc_set_target(second);
	pid_t pid = fork();
	if (pid == 0) {
		struct found found = {};
		if (fmalloc(8) || errno != EPERM || __fm_addr_base != (uint64_t)second->mem)
			_exit(1);
		fm_heap *own = NULL;
		std::thread([&] { own = open_heap(); }).join();
		if (!own)
			_exit(2);
		look(&found);
		_exit(found.target == own && found.allocated == own && !found.base && found.offset == found.right ? 0 : 3);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	fmalloc_set_target(NULL);
	assert_int_equal(fm_close(second), 0);
	assert_int_equal(fm_close(first), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(before_any_heap),
		cmocka_unit_test(opening),
		cmocka_unit_test(two_threads_two_targets),
		cmocka_unit_test(the_target_decides),
		cmocka_unit_test(without_a_target),
		cmocka_unit_test(a_target_is_the_threads_own),
		cmocka_unit_test(closing),
		cmocka_unit_test(the_target_is_closed_elsewhere),
		cmocka_unit_test(the_targets_handle_is_reused),
		cmocka_unit_test(the_target_in_a_child),
		cmocka_unit_test_setup_teardown(the_first_heap_is_replaced, make_folder, remove_folder),
	};
	return cmocka_run_group_tests_name("fm_ptr<T> and targets", tests, NULL, NULL);
}
