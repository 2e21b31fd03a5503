/* SPDX-License-Identifier: Apache-2.0
 *
 * Zeros written where the heap is about to store for the first time (src/store/prefault.c): never for a heap that takes
 * little, only into the unit just taken, nothing twice, and no more than a few trials where it does not pay. Whatever
 * fails of it is not noticed. Uses the library's internal headers: the table of system calls, the state of units.
 */
#define _GNU_SOURCE 1
#include "proc_util.h"

#include "alloc/heap.h"
#include "os/os.h"

#define FOLIO        (16 * 1024)
#define TAKEN_BEFORE (16 << 20)
#define TRIALS       4
#define UNITS_ASKED  256         /* whether they are cached, before that is given up */
#define OBJECT       240
#define SHORT        (18 << 20) /* bytes of objects: some beyond TAKEN_BEFORE */
#define LONG         (22 << 20)

static struct {
	struct os_calls table;
	unsigned writes, populated;  /* zeros written; populating calls */
	unsigned asked;              /* for pages in the cache */
	int is_cached;               /* the answer */
	uint64_t last_off, end;      /* of the last write; of the highest one */
	bool is_twice, is_odd;       /* a place was written twice; a write was no folio */
	bool is_over;                /* what comes now doesn't count */
	uint8_t seen[(128 << 20) / FOLIO];
	uint64_t faults;
	bool maps_folios;            /* what a populated folio costs: 1 fault, or one a page */
	unsigned fail_write;         /* the n-th write fails, 0: none does */
	bool fail_all;               /* and all after it */
	int write_error, populate_error;
	uint64_t write_ms, clock_ms; /* a write takes so long; what that comes to */
	uint64_t limit;              /* RLIMIT_FSIZE */
	int fd;
	fm_heap *heap;
} r;

static bool is_zeros(const uint8_t *bytes, size_t len)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, len - 1) == 0;
}

static int seen_pwrite_full(int fd, const void *buf, size_t len, uint64_t off)
{
	if (r.is_over || off < HEAP_MIN_SIZE || !is_zeros(buf, len))
		return os_linux.pwrite_full(fd, buf, len, off);
	r.writes++;
	r.last_off = off;
	r.end = off + len > r.end ? off + len : r.end;
	r.is_odd |= len != FOLIO || off % FOLIO || off / FOLIO >= sizeof(r.seen);
	if (!r.is_odd)
		r.is_twice |= r.seen[off / FOLIO]++ != 0;
	r.clock_ms += r.write_ms;
	if (r.fail_write && (r.writes == r.fail_write || (r.fail_all && r.writes > r.fail_write))) {
		os_linux.pwrite_full(fd, buf, len / 3, off);
		return -r.write_error;
	}
	return os_linux.pwrite_full(fd, buf, len, off);
}

static int seen_advise(void *at, uint64_t len, enum os_advice advice)
{
	if (advice != OS_POPULATE_WRITE)
		return os_linux.advise(at, len, advice);
	r.populated++;
	r.faults += r.maps_folios ? 1 : len / 4096;
	return r.populate_error ? -r.populate_error : os_linux.advise(at, len, advice);
}

static int seen_is_cached(void *at, uint64_t len)
{
	(void)at;
	(void)len;
	r.asked++;
	return r.is_cached;
}

static uint64_t seen_fault_count(void)
{
	return r.faults;
}

static uint64_t seen_now_ms(void)
{
	return r.clock_ms;
}

static uint64_t seen_file_size_limit(void)
{
	return r.limit;
}

/* A new heap, in a machine where prefaulting pays. */
static void begin(unsigned flags)
{
	memset(&r, 0, sizeof(r));
	r.table = os_linux;
	r.table.pwrite_full = seen_pwrite_full;
	r.table.advise = seen_advise;
	r.table.is_cached = seen_is_cached;
	r.table.fault_count = seen_fault_count;
	r.table.now_ms = seen_now_ms;
	r.table.file_size_limit = seen_file_size_limit;
	r.limit = UINT64_MAX;
	r.maps_folios = true;
	os = &r.table;
	r.fd = memfd_create("heap", MFD_CLOEXEC);
	assert_true(r.fd >= 0);
	r.heap = fm_open_fd(r.fd, FM_CREATE | flags, NULL);
	assert_non_null(r.heap);
}

static void end(void)
{
	assert_int_equal(proc_check(r.heap), 0);
	assert_int_equal(fm_close(r.heap), 0);
	os = &os_linux;
	close(r.fd);
	assert_false(r.is_odd);
	assert_false(r.is_twice);
}

static bool is_in_use(uint64_t off)
{
	unsigned state = heap_of_handle(r.heap)->units[off >> UNIT_SHIFT].state;

	return state == UNIT_IS_SLAB || state == UNIT_IS_META || state == UNIT_IS_RUN;
}

struct object {
	struct object *before;
	uint64_t no, check;
	uint64_t more[OBJECT / 8 - 3];
};

/* Objects of `bytes` in all, linked; each new one is looked at: what was written for it lies in a unit in use. */
static struct object *fill(struct object *last, uint64_t bytes)
{
	for (uint64_t i = 0; i < bytes / OBJECT; i++) {
		unsigned before = r.writes;
		struct object *object = fm_malloc(r.heap, OBJECT);

		assert_non_null(object);
		if (r.writes != before)
			assert_true(is_in_use(r.last_off));
		object->before = last;
		object->no = last ? last->no + 1 : 0;
		object->check = proc_mix(object->no);
		last = object;
	}
	return last;
}

/* All objects hold what was stored in them. */
static void must_be_whole(const struct object *last)
{
	for (uint64_t no = last->no; last; last = last->before, no--)
		if (last->no != no || last->check != proc_mix(no))
			fail_msg("object %llu is damaged", (unsigned long long)no);
}

/* ---------------------------------------------------------------- where it pays */

static void test_nothing_in_small_heaps(void **state)
{
	(void)state;
	begin(0);
	must_be_whole(fill(NULL, TAKEN_BEFORE - (1 << 20)));
	assert_int_equal(r.writes, 0);
	assert_int_equal(r.populated, 0);
	assert_int_equal(r.asked, 0);
	end();
}

static void test_only_what_is_taken(void **state)
{
	struct object *last;
	uint64_t units = 0;

	(void)state;
	begin(0);
	last = fill(NULL, LONG);
	must_be_whole(last);
	for (uint64_t off = HEAP_MIN_SIZE; off < heap_size(heap_of_handle(r.heap)); off += UNIT_SIZE)
		units += is_in_use(off);
	/* from the first byte beyond TAKEN_BEFORE on, each unit whole: none ahead, none left out */
	assert_int_equal(r.writes * (uint64_t)FOLIO, units * UNIT_SIZE - TAKEN_BEFORE);
	assert_true(r.end <= heap_size(heap_of_handle(r.heap)));
	assert_int_equal(r.populated, 1);
	end();
}

static void test_used_units_are_left_alone(void **state)
{
	struct object *last;

	(void)state;
	begin(0);
	last = fill(NULL, LONG);
	while (last) {
		struct object *before = last->before;

		assert_int_equal(fm_free(last), 0);
		last = before;
	}
	/* in end(): no place was written twice */
	must_be_whole(fill(NULL, LONG));
	end();
}

static void test_large_objects_are_left_alone(void **state)
{
	unsigned writes;
	struct object *last;

	(void)state;
	begin(0);
	last = fill(NULL, SHORT);
	writes = r.writes;
	assert_true(writes > 0);
	for (unsigned i = 0; i < 10; i++) {
		char *p = fm_malloc(r.heap, 300000 + i * 500000);

		assert_non_null(p);
		p[0] = 1;
	}
	/* the metadata of new segments, at most */
	assert_true(r.writes - writes <= 12 * UNIT_SIZE / FOLIO);
	for (uint64_t off = 0; off < sizeof(r.seen) * FOLIO; off += FOLIO)
		if (r.seen[off / FOLIO])
			assert_int_not_equal(heap_of_handle(r.heap)->units[off >> UNIT_SHIFT].state, UNIT_IS_RUN);
	must_be_whole(last);
	end();
}

static void test_objects_read_as_zero(void **state)
{
	(void)state;
	begin(0);
	for (unsigned i = 0; i < SHORT / UNIT_SIZE; i++) {
		uint8_t *p = fm_calloc(r.heap, 1, UNIT_SIZE);

		assert_non_null(p);
		assert_true(is_zeros(p, UNIT_SIZE));
		memset(p, (int)i % 255 + 1, UNIT_SIZE);
	}
	assert_true(r.writes > 0);
	end();
}

static void test_atomic_heaps_are_left_alone(void **state)
{
	(void)state;
	begin(FM_ATOMIC);
	must_be_whole(fill(NULL, SHORT));
	assert_int_equal(r.writes, 0);
	r.is_over = true; /* a commit writes what the pages hold */
	assert_int_equal(fm_commit(r.heap), 0);
	end();
}

/* ---------------------------------------------------------------- where it does not, or fails */

static void test_no_gain(void **state)
{
	(void)state;
	begin(0);
	r.maps_folios = false;
	must_be_whole(fill(NULL, LONG));
	assert_int_equal(r.writes, TRIALS);
	assert_int_equal(r.populated, TRIALS);
	end();
}

/* Pages that are in the cache one by one say nothing; where they always are, that is not asked for ever. */
static void test_cached_pages(void **state)
{
	struct object *last;

	(void)state;
	begin(0);
	r.is_cached = 1;
	for (last = NULL; r.asked < UNITS_ASKED / 2;)
		last = fill(last, UNIT_SIZE / 2);
	assert_int_equal(r.writes, 0);
	r.is_cached = 0;
	must_be_whole(fill(last, LONG - SHORT));
	assert_true(r.writes > (LONG - SHORT) / FOLIO - 2 * UNIT_SIZE / FOLIO);
	end();

	for (unsigned fails = 0; fails < 2; fails++) {
		begin(0);
		r.is_cached = fails ? -ENOMEM : 1;
		must_be_whole(fill(NULL, TAKEN_BEFORE + (UNITS_ASKED + 16) * UNIT_SIZE));
		assert_int_equal(r.asked, UNITS_ASKED);
		assert_int_equal(r.writes, 0);
		end();
	}
}

static void test_gain_in_the_last_trial(void **state)
{
	struct object *last;

	(void)state;
	begin(0);
	r.maps_folios = false;
	for (last = NULL; r.populated < TRIALS - 1;)
		last = fill(last, UNIT_SIZE / 2);
	r.maps_folios = true;
	last = fill(last, LONG - SHORT);
	must_be_whole(last);
	assert_int_equal(r.populated, TRIALS);
	assert_true(r.writes > (LONG - SHORT) / FOLIO - 2 * UNIT_SIZE / FOLIO);
	end();
}

static void test_slow_writes(void **state)
{
	(void)state;
	begin(0);
	r.write_ms = 5;
	must_be_whole(fill(NULL, LONG));
	assert_int_equal(r.writes, TRIALS);
	assert_int_equal(r.populated, 0);
	end();
}

static void test_failing_calls(void **state)
{
	static const int errors[] = {ENOSPC, EIO, ENOMEM, EDQUOT, EINVAL, EFAULT, EHWPOISON, EFBIG};

	(void)state;
	for (unsigned e = 0; e < sizeof(errors) / sizeof(errors[0]); e++) {
		/* each of the first writes, and one long after the trial */
		for (unsigned n = 1; n <= 40; n += n < 5 ? 1 : 35) {
			for (unsigned all = 0; all < 2; all++) {
				begin(0);
				r.fail_write = n;
				r.fail_all = all;
				r.write_error = errors[e];
				must_be_whole(fill(NULL, SHORT));
				if (n > 1) /* it had paid before, and is over now */
					assert_int_equal(r.writes, n);
				else if (all)
					assert_int_equal(r.writes, TRIALS);
				else
					assert_true(r.writes > TRIALS);
				end();
			}
		}
		begin(0);
		r.populate_error = errors[e];
		must_be_whole(fill(NULL, SHORT));
		assert_int_equal(r.populated, TRIALS);
		assert_int_equal(r.writes, TRIALS);
		end();
	}
}

/* A write beyond RLIMIT_FSIZE would be a SIGXFSZ. */
static void test_limit_of_file_size(void **state)
{
	unsigned writes, more = 0;
	struct object *last;

	(void)state;
	begin(0);
	last = fill(NULL, SHORT);
	writes = r.writes;
	r.limit = SHORT / 4;
	/* there are units that were backed before */
	for (struct object *object; (object = fm_malloc(r.heap, OBJECT)) != NULL; more++) {
		*object = (struct object){last, last->no + 1, proc_mix(last->no + 1), {0}};
		last = object;
	}
	assert_int_equal(errno, ENOMEM);
	assert_true(more * OBJECT > UNIT_SIZE);
	assert_int_equal(r.writes, writes);
	must_be_whole(last);
	end();
}

/* With the kernel's own answers, whatever they are, in a file of the scratch folder. */
static void test_this_machine(void **state)
{
	char *dir = proc_dir_make();
	char path[PATH_MAX];
	struct object *last;
	uint64_t faults;

	(void)state;
	proc_path(path, dir, "heap");
	begin(0);
	assert_int_equal(fm_close(r.heap), 0);
	r.table.fault_count = os_linux.fault_count;
	r.table.is_cached = os_linux.is_cached;
	r.table.now_ms = os_linux.now_ms;
	r.heap = fm_open(path, FM_CREATE, NULL);
	assert_non_null(r.heap);
	faults = os_linux.fault_count();
	last = fill(NULL, LONG);
	faults = os_linux.fault_count() - faults;
	must_be_whole(last);
	assert_true(r.populated <= TRIALS);
	/* it pays here: a fault for each folio, and for what came before; sanitizers have memory of their own beside it */
	if (r.writes > r.populated && !PROC_SANITIZED)
		assert_true(faults < (TAKEN_BEFORE + (LONG - TAKEN_BEFORE) / 2) / 4096 + 256);
	printf("# %u folios written, %u trials, %llu page faults for %u pages\n", r.writes, r.populated,
	       (unsigned long long)faults, LONG / 4096);
	end();
	proc_dir_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_in_small_heaps),
		cmocka_unit_test(test_only_what_is_taken),
		cmocka_unit_test(test_used_units_are_left_alone),
		cmocka_unit_test(test_large_objects_are_left_alone),
		cmocka_unit_test(test_objects_read_as_zero),
		cmocka_unit_test(test_atomic_heaps_are_left_alone),
		cmocka_unit_test(test_no_gain),
		cmocka_unit_test(test_gain_in_the_last_trial),
		cmocka_unit_test(test_cached_pages),
		cmocka_unit_test(test_slow_writes),
		cmocka_unit_test(test_failing_calls),
		cmocka_unit_test(test_limit_of_file_size),
		cmocka_unit_test(test_this_machine),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
