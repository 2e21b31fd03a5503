/* SPDX-License-Identifier: Apache-2.0
 *
 * Stores into an atomic heap that the kernel makes: read, pread, readv, recv, io_uring, O_DIRECT, registered buffers; as
 * docs/atomic.md says for each way of finding pages. By default all that is found which ends before the commit; into a
 * read-only granule the kernel stores nothing (EFAULT) unless fm_will_write() opened it.
 */
#define _GNU_SOURCE 1
#include "api_util.h"
#include "way.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define PAGES 16u

static const char *const ways[] = {"uffd", "mprotect", "pagemap", "declared"};
static const char *way;

/* ---------------------------------------------------------------- a ring of one */

static struct {
	int fd;
	struct io_uring_params params;
	uint8_t *submit, *complete;
	struct io_uring_sqe *sqe;
} ring;

static uint32_t *at(uint8_t *base, uint32_t off)
{
	return (uint32_t *)(void *)(base + off);
}

static bool make_ring(void)
{
	memset(&ring, 0, sizeof ring);
	ring.fd = (int)syscall(SYS_io_uring_setup, 2, &ring.params);
	if (ring.fd < 0)
		return false;
	ring.submit = mmap(NULL, ring.params.sq_off.array + ring.params.sq_entries * 4, PROT_READ | PROT_WRITE,
	                   MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQ_RING);
	ring.complete = mmap(NULL, ring.params.cq_off.cqes + ring.params.cq_entries * sizeof(struct io_uring_cqe),
	                     PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_CQ_RING);
	ring.sqe = mmap(NULL, ring.params.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
	                MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQES);
	return ring.submit != MAP_FAILED && ring.complete != MAP_FAILED && (void *)ring.sqe != MAP_FAILED;
}

/* One read by the ring, to its end: bytes or -errno. */
static int ring_read(uint8_t opcode, int fd, void *p, unsigned len)
{
	uint32_t tail = *at(ring.submit, ring.params.sq_off.tail);
	uint32_t mask = *at(ring.submit, ring.params.sq_off.ring_mask), head;
	const struct io_uring_cqe *cqe;
	int r;

	memset(&ring.sqe[tail & mask], 0, sizeof(*ring.sqe));
	ring.sqe[tail & mask].opcode = opcode;
	ring.sqe[tail & mask].fd = fd;
	ring.sqe[tail & mask].addr = (uintptr_t)p;
	ring.sqe[tail & mask].len = len;
	at(ring.submit, ring.params.sq_off.array)[tail & mask] = tail & mask;
	__atomic_store_n(at(ring.submit, ring.params.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
	r = (int)syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	assert_int_equal(r, 1);
	head = *at(ring.complete, ring.params.cq_off.head);
	cqe = (const struct io_uring_cqe *)(const void *)(ring.complete + ring.params.cq_off.cqes) +
	      (head & *at(ring.complete, ring.params.cq_off.ring_mask));
	r = cqe->res;
	__atomic_store_n(at(ring.complete, ring.params.cq_off.head), head + 1, __ATOMIC_RELEASE);
	return r;
}

/* ---------------------------------------------------------------- the heap, and where bytes come from */

static fm_heap *heap;
static char *object; /* of PAGES pages, at a page */

static uint64_t *app(void)
{
	return (uint64_t *)(void *)((char *)heap->mem + PAGE_SIZE);
}

static bool is_way(const char *name)
{
	return strcmp(way, name) == 0;
}

static void begin(void)
{
	heap = open_or_fail(heap_path, atomic_heap() | FM_CREATE | FM_EXCL, NULL);
	object = fm_aligned_alloc(heap, 65536, PAGES * PAGE_SIZE);
	assert_non_null(object);
	assert_int_equal(fm_will_write(heap, object, PAGES * PAGE_SIZE), 0);
	memset(object, 1, PAGES * PAGE_SIZE);
	assert_int_equal(fm_will_write(heap, app(), 8), 0);
	app()[0] = fm_offset_of(heap, object);
	assert_int_equal(fm_commit(heap), 0);
	/* nothing is under protection that is found once because it was read */
	assert_int_equal(fm_commit(heap), 0);
}

/* After committing, and opening again, page `page` holds `text` and the others what they held. */
static void expect_committed(unsigned page, const void *text, size_t len)
{
	assert_int_equal(fm_commit(heap), 0);
	close_checked(heap);
	heap = open_or_fail(heap_path, atomic_heap(), NULL);
	object = fm_at(heap, app()[0]);
	assert_memory_equal(object + page * PAGE_SIZE, text, len);
	for (unsigned i = 0; i < PAGES; i++)
		assert_int_equal(object[(i + 1) * PAGE_SIZE - 1] == 1, i != page || len < PAGE_SIZE);
	close_checked(heap);
}

static int page_of_text(char text[PAGE_SIZE])
{
	int fd = open(path_of("text"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	for (unsigned i = 0; i < PAGE_SIZE; i++)
		text[i] = (char)(i * 7 + 3);
	assert_int_equal(pwrite(fd, text, PAGE_SIZE, 0), PAGE_SIZE);
	return fd;
}

/* Where it must be said: the declared way always; a granule that is read-only refuses the kernel without it. */
static void before_store(int (*store)(char *), char *to)
{
	if (is_way("mprotect")) {
		assert_int_equal(store(to), -EFAULT);
		assert_int_equal(*to, 1);
	}
	if (is_way("mprotect") || is_way("declared"))
		assert_int_equal(fm_will_write(heap, to, PAGE_SIZE), 0);
}

static int source;

static int by_read(char *to)
{
	lseek(source, 0, SEEK_SET);
	return read(source, to, PAGE_SIZE) == PAGE_SIZE ? 0 : -errno;
}

static int by_readv(char *to)
{
	struct iovec parts[2] = {{to, 100}, {to + 100, PAGE_SIZE - 100}};

	return preadv(source, parts, 2, 0) == PAGE_SIZE ? 0 : -errno;
}

static int by_recv(char *to)
{
	static char text[PAGE_SIZE];
	int ends[2], r;

	assert_int_equal(pread(source, text, PAGE_SIZE, 0), PAGE_SIZE);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
	assert_int_equal(send(ends[1], text, PAGE_SIZE, 0), PAGE_SIZE);
	r = recv(ends[0], to, PAGE_SIZE, 0) == PAGE_SIZE ? 0 : -errno;
	close(ends[0]);
	close(ends[1]);
	return r;
}

static int by_ring(char *to)
{
	int r = ring_read(IORING_OP_READ, source, to, PAGE_SIZE);

	return r == PAGE_SIZE ? 0 : r;
}

static void by(int (*store)(char *))
{
	static char text[PAGE_SIZE];

	source = page_of_text(text);
	begin();
	before_store(store, object + 5 * PAGE_SIZE);
	assert_int_equal(store(object + 5 * PAGE_SIZE), 0);
	expect_committed(5, text, PAGE_SIZE);
	close(source);
}

static void read_is_found(void **state)
{
	(void)state;
	by(by_read);
}

static void readv_is_found(void **state)
{
	(void)state;
	by(by_readv);
}

static void recv_is_found(void **state)
{
	(void)state;
	by(by_recv);
}

static void need_ring(void)
{
	if (!make_ring()) {
		print_message("# no io_uring here: %s\n", strerror(errno));
		skip();
	}
}

static void io_uring_is_found(void **state)
{
	(void)state;
	need_ring();
	by(by_ring);
	close(ring.fd);
}

static void direct_read_is_found(void **state)
{
	static char text[PAGE_SIZE];

	(void)state;
	close(page_of_text(text));
	source = open(path_of("text"), O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (source < 0) {
		print_message("# no O_DIRECT here: %s\n", strerror(errno));
		skip();
	}
	begin();
	before_store(by_read, object + 5 * PAGE_SIZE);
	assert_int_equal(by_read(object + 5 * PAGE_SIZE), 0);
	expect_committed(5, text, PAGE_SIZE);
	close(source);
}

/* An object lies where segments had their metadata before they were freed. The kernel's stores are as good there. */
static void where_metadata_was(void **state)
{
	enum { SEGMENTS = 12, PIECE = 65536 };
	static char text[PIECE];
	char *p[SEGMENTS], *huge;

	(void)state;
	source = open(path_of("text"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	memset(text, 5, sizeof text);
	assert_int_equal(write(source, text, PIECE), PIECE);
	begin();
	for (unsigned i = 0; i < SEGMENTS; i++) {
		p[i] = fm_malloc(heap, 3 * MIB);
		assert_non_null(p[i]);
	}
	assert_int_equal(fm_commit(heap), 0);
	for (unsigned i = 0; i < SEGMENTS; i++)
		assert_int_equal(fm_free(p[i]), 0);
	assert_int_equal(fm_commit(heap), 0);
	huge = fm_malloc(heap, 24 * MIB);
	assert_non_null(huge);
	for (unsigned round = 0; round < 3; round++) {
		/* the second time the pages are noted already, the third time read-only anew */
		assert_int_equal(fm_will_write(heap, huge, 24 * MIB), 0);
		for (size_t at = 0; at < 24 * MIB; at += PIECE)
			assert_int_equal(pread(source, huge + at, PIECE, 0), PIECE);
		if (round)
			assert_int_equal(fm_commit(heap), 0);
	}
	assert_int_equal(fm_root_set(heap, "huge", huge, 0), 0);
	assert_int_equal(fm_commit(heap), 0);
	close_checked(heap);
	heap = open_or_fail(heap_path, atomic_heap(), NULL);
	huge = fm_root_get(heap, "huge", 0);
	for (size_t at = 0; at < 24 * MIB; at += PIECE)
		assert_memory_equal(huge + at, text, PIECE);
	close_checked(heap);
	close(source);
}

/* A registered buffer is written past the page tables: declared, it is committed. It is the heap's memory up to the next
 * commit or rollback, and then to be registered again. */
static void registered_buffers_are_declared(void **state)
{
	static char text[PAGE_SIZE];
	struct iovec buffer;

	(void)state;
	need_ring();
	source = page_of_text(text);
	begin();
	for (unsigned round = 0; round < 3; round++) {
		char *to = object + 5 * PAGE_SIZE;

		assert_int_equal(fm_will_write(heap, to, PAGE_SIZE), 0);
		buffer = (struct iovec){to, PAGE_SIZE};
		if (syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &buffer, 1)) {
			print_message("# no registered buffers here: %s\n", strerror(errno));
			skip();
		}
		for (unsigned i = 0; i < PAGE_SIZE; i++)
			text[i] = (char)(i * 5 + round);
		assert_int_equal(pwrite(source, text, PAGE_SIZE, 0), PAGE_SIZE);
		assert_int_equal(ring_read(IORING_OP_READ_FIXED, source, to, PAGE_SIZE), PAGE_SIZE);
		if (round == 1) {
			assert_int_equal(fm_rollback(heap), 0);
			assert_int_equal(to[0], 0); /* of round 0 */
		} else {
			assert_int_equal(fm_commit(heap), 0);
		}
		assert_int_equal(syscall(SYS_io_uring_register, ring.fd, IORING_UNREGISTER_BUFFERS, NULL, 0), 0);
	}
	if (is_way("uffd")) {
		/* a page that a commit protected since it was registered, and left where it is */
		assert_int_equal(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &buffer, 1), 0);
		assert_int_equal(fm_commit(heap), 0);
		assert_int_equal(fm_commit(heap), 0);
		text[0]++;
		assert_int_equal(pwrite(source, text, PAGE_SIZE, 0), PAGE_SIZE);
		assert_int_equal(fm_will_write(heap, object + 5 * PAGE_SIZE, PAGE_SIZE), 0);
		assert_int_equal(ring_read(IORING_OP_READ_FIXED, source, object + 5 * PAGE_SIZE, PAGE_SIZE), PAGE_SIZE);
	}
	expect_committed(5, text, PAGE_SIZE);
	close(source);
	close(ring.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		API_TEST(read_is_found),
		API_TEST(readv_is_found),
		API_TEST(recv_is_found),
		API_TEST(io_uring_is_found),
		API_TEST(direct_read_is_found),
		API_TEST(where_metadata_was),
		API_TEST(registered_buffers_are_declared),
	};
	int r = 0;

	for (unsigned i = 0; i < sizeof ways / sizeof ways[0]; i++) {
		way = ways[i];
		if (getenv("FM_WAY") && strcmp(getenv("FM_WAY"), way) != 0)
			continue;
		setenv("FMALLOC_TRACK", way, 1);
		print_message("# finding pages by %s\n", way);
		r += cmocka_run_group_tests_name(way, tests, NULL, NULL);
	}
	return r;
}
