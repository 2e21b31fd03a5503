/* SPDX-License-Identifier: Apache-2.0
 *
 * For tests of scans that end before the heap does: a heap whose pages were all written and committed, a table that sees
 * scans, and whether pages are committed.
 */
#ifndef SCAN_UTIL_H
#define SCAN_UTIL_H

#include "api_util.h"
#include "os_util.h"
#include "proc_util.h"

#include "alloc/heap.h"
#include "os/os.h"
#include "store/atomic.h"

#include <string.h>

#define HEAP  ((size_t)96 * MIB)
#define PAGE  ((size_t)4096)
#define TABLE ((size_t)2 * MIB) /* what a page table maps */
#define PAGES (HEAP / PAGE)

static struct {
	fm_heap *heap;
	uint8_t *p; /* HEAP bytes, at a multiple of TABLE */
	int fd;
	struct os_calls table;
	const struct os_calls *samples; /* whose samples of page faults are told; NULL: the kernel's */
	uint64_t scanned; /* bytes */
	uint64_t faults;  /* told instead of the true ones; 0: the true ones, */
	bool is_unknown;  /* 0 is told */
	uint64_t own;     /* without so many: those of fm_commit */
	int fails;        /* so many scans fail */
	volatile uint8_t *beside; /* stored into at the next scan */
} t;

/* ---------------------------------------------------------------- the table */

static inline int seen_scan(int fd, bool is_dense, uint64_t *from, uint64_t to, struct os_range *found, unsigned n)
{
	uint64_t before = *from;
	int r;

	if (t.fails) {
		t.fails--;
		return -ENOMEM;
	}
	if (t.beside)
		++*t.beside;
	t.beside = NULL;
	r = os_linux.scan(fd, is_dense, from, to, found, n);
	t.scanned += *from - before;
	return r;
}

static inline uint64_t told_fault_count(void)
{
	if (t.is_unknown)
		return 0;
	return t.faults ? t.faults : os_linux.process_fault_count() - t.own;
}

/* ---------------------------------------------------------------- the heap */

/* Page faults so far but for those of copying, which the library knows; as it does those of comparing. */
static inline uint64_t counted_faults(void)
{
	return os_linux.process_fault_count() - heap_of_handle(t.heap)->store.atomic->place.faults;
}

static inline void commit(void)
{
	uint64_t before = counted_faults();

	t.scanned = 0;
	assert_int_equal(fm_commit(t.heap), 0);
	t.own += counted_faults() - before - heap_of_handle(t.heap)->store.atomic->track.tally.own;
}

/* A heap with an object all of whose pages were written and committed, but for those that are left out. Bytes of
 * `options.keep_max`; 0: by default. */
static inline void make_heap(uint64_t keep_max, bool (*is_left_out)(size_t page))
{
	struct fm_options options = {.size = sizeof options, .keep_max = keep_max, .disable = FM_NO_CHECKPOINT};
	uint8_t *p;

	t.table = os_linux;
	t.table.scan = seen_scan;
	t.table.process_fault_count = told_fault_count;
	t.table.stores_cheaply = always_cheaply;
	if (t.samples) {
		t.table.sample_faults = t.samples->sample_faults;
		t.table.read_samples = t.samples->read_samples;
		t.table.end_samples = t.samples->end_samples;
	}
	os = &t.table;
	t.faults = 0;
	t.is_unknown = false;
	t.own = 0;
	t.fails = 0;
	t.beside = NULL;
	setenv("FMALLOC_TRACK", "uffd", 1);
	t.heap = fm_open(heap_path, FM_CREATE | FM_ATOMIC, &options);
	if (!t.heap) {
		print_message("# no userfaultfd here: %s\n", fm_last_error());
		skip();
	}
	p = fm_calloc(t.heap, 1, HEAP + TABLE);
	assert_non_null(p);
	t.p = p + (TABLE - (uintptr_t)p % TABLE) % TABLE;
	t.fd = open(heap_path, O_RDONLY | O_CLOEXEC);
	assert_true(t.fd >= 0);
	for (size_t page = 0; page < PAGES; page++)
		if (!is_left_out || !is_left_out(page))
			t.p[page * PAGE]++;
	commit();
	commit();
}

static inline void drop_heap(void)
{
	assert_int_equal(fm_close(t.heap), 0);
	close(t.fd);
	os = &os_linux;
}

/* Is the page in the file as in memory? What is committed is applied when fm_commit returns. */
static inline bool is_committed(size_t page)
{
	uint8_t bytes[PAGE];

	assert_int_equal(pread(t.fd, bytes, PAGE, (t.p - (uint8_t *)t.heap->mem) + (off_t)(page * PAGE)), PAGE);
	return memcmp(bytes, t.p + page * PAGE, PAGE) == 0;
}

static inline void all_is_committed(void)
{
	for (size_t page = 0; page < PAGES; page++)
		if (!is_committed(page))
			fail_msg("page %zu is not what was committed", page);
}

#endif
