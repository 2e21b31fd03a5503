/* SPDX-License-Identifier: Apache-2.0
 *
 * Recovery of a live heap after a simulated power cut. Writeback has no order: after a cut each page of the
 * file is as it was at some time since it was last synced. Here each 4 KiB page comes at random from one of
 * two states of a heap in use (sometimes from the time before it was first written: zeros), the file is as
 * long as in either of them, and the boot is another one.
 *
 *   - without FM_RECOVER it is EUCLEAN, also for reading, and no byte of the file changes;
 *   - with it the heap opens, fm_check finds nothing, and the heap works on, closes and reopens clean;
 *   - an object that is the same in both states is there, with its content, and so are its roots;
 *   - the same holds for copies taken at every store of truth of the recovery itself.
 *
 * Linked with the hook build; uses src/os/os.h and src/store/format.h through crash_util.h.
 *
 *   FM_CUTS    power cuts to simulate (default below); FM_SCALE: per cent of the default
 *   FM_SEED    of everything random; FM_CASE: only this cut, as printed
 */
#define _GNU_SOURCE 1
#include "crash_util.h"

void (*fm_truth_hook)(const uint64_t *word);

#define CUTS       150
#define CUTS_EACH  25 /* of one heap */
#define MIB        (UINT64_C(1) << 20)
#define GIB        (UINT64_C(1) << 30)
#define MAX_SIZE   (24 * MIB)
#define OBJECTS    200
#define ROOTS      5
#define KILLS_EACH 6  /* copies taken during one recovery */

struct object {
	uint64_t off, id; /* off 0: not allocated */
	size_t size;
	bool is_stable;   /* the same in both states */
};

struct state {
	uint8_t *bytes;
	uint64_t size;
	uint64_t root_table;
};

static struct {
	struct crash_file original, copy, second;
	struct fm_options options;
	fm_heap *heap;
	struct object object[OBJECTS];
	struct state before, after;
	uint64_t seed, cut_no, rng;
	bool has_zeros;        /* some pages of this cut are from before the first write */
	unsigned stores, kills;
	bool is_looking;
	uint64_t mended, killed;
	char failure[500];
} t;

static void fail_cut(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void fail_cut(const char *format, ...)
{
	char what[300];
	va_list args;

	if (t.failure[0])
		return;
	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	snprintf(t.failure, sizeof(t.failure), "FM_SEED=%llu FM_CASE=%llu store %u: %s",
	         (unsigned long long)t.seed, (unsigned long long)t.cut_no, t.stores, what);
}

static void print_finding(const struct fm_finding *f, void *arg)
{
	fail_cut("%s: finding at %#llx (%#llx): %s", (const char *)arg, (unsigned long long)f->offset,
	         (unsigned long long)f->value, f->text);
}

/* ---------------------------------------------------------------- two states of a heap in use */

static size_t random_size(void)
{
	switch (proc_below(&t.rng, 24)) {
	case 0:
		return 600 * 1024 + proc_below(&t.rng, 2 * MIB);
	case 1:
		return proc_below(&t.rng, 4) ? 100 * 1024 + proc_below(&t.rng, 400 * 1024)
		                             : 4 * MIB + proc_below(&t.rng, 5 * MIB);
	case 2:
	case 3:
		return 1024 + proc_below(&t.rng, 60 * 1024);
	default:
		return (size_t)16 << proc_below(&t.rng, 6);
	}
}

static void change_one(void)
{
	struct object *object = &t.object[proc_below(&t.rng, OBJECTS)];
	char name[32];
	void *p;

	if (object->off) {
		assert_int_equal(fm_free(fm_at(t.heap, object->off)), 0);
		object->off = 0;
		return;
	}
	object->size = random_size();
	object->is_stable = false;
	p = fm_malloc(t.heap, object->size);
	if (!p)
		return;
	object->off = fm_offset_of(t.heap, p);
	object->id = proc_rand(&t.rng);
	crash_fill(p, object->id, object->size);
	if (proc_below(&t.rng, 8) == 0) {
		snprintf(name, sizeof(name), "changing %u", (unsigned)proc_below(&t.rng, 40));
		assert_int_equal(fm_root_set(t.heap, name, p, 1), 0);
	}
}

static void keep_state(struct state *state)
{
	state->size = crash_file_size(&t.original);
	memcpy(state->bytes, t.original.map, state->size);
	memset(state->bytes + state->size, 0, MAX_SIZE - state->size);
	state->root_table = ((const struct truth_page_rec *)(void *)(state->bytes + TRUTH_PAGE_OFF))->root_table;
}

static void make_states(void)
{
	unsigned changes = 20 + (unsigned)proc_below(&t.rng, 400);

	memset(t.object, 0, sizeof(t.object));
	assert_int_equal(ftruncate(t.original.fd, 0), 0);
	t.heap = fm_open_fd(t.original.fd, FM_CREATE, &t.options);
	assert_non_null(t.heap);
	for (unsigned i = 0; i < ROOTS; i++) {
		char name[32];
		void *p = fm_malloc(t.heap, 100);

		snprintf(name, sizeof(name), "stable %u", i);
		assert_non_null(p);
		crash_fill(p, i, 100);
		assert_int_equal(fm_root_set(t.heap, name, p, i), 0);
	}
	for (unsigned i = 0; i < changes; i++)
		change_one();
	if (proc_below(&t.rng, 2)) {
		/* slabs without owner, unexamined segments */
		assert_int_equal(fm_close(t.heap), 0);
		t.heap = fm_open_fd(t.original.fd, 0, &t.options);
		assert_non_null(t.heap);
	}
	keep_state(&t.before);
	for (unsigned i = 0; i < OBJECTS; i++)
		t.object[i].is_stable = t.object[i].off != 0;
	changes = 1 + (unsigned)proc_below(&t.rng, 300);
	for (unsigned i = 0; i < changes; i++)
		change_one();
	keep_state(&t.after);
	assert_int_equal(fm_close(t.heap), 0);
}

/* ---------------------------------------------------------------- the cut */

static void make_cut(void)
{
	unsigned new_share = (unsigned)proc_below(&t.rng, 101);
	uint64_t size = proc_below(&t.rng, 2) ? t.before.size : t.after.size;

	t.has_zeros = proc_below(&t.rng, 4) == 0;
	if (ftruncate(t.copy.fd, 0) || ftruncate(t.copy.fd, (off_t)size))
		abort();
	for (uint64_t at = 0; at < size; at += 4096) {
		const struct state *from = proc_below(&t.rng, 100) < new_share ? &t.after : &t.before;
		bool is_super = at == SUPER_COPY_1_OFF || at == SUPER_COPY_2_OFF;

		if (t.has_zeros && !is_super && proc_below(&t.rng, 8) == 0)
			continue;
		memcpy(t.copy.map + at, from->bytes + at, 4096);
	}
	crash.blocks = 0;
}

/* ---------------------------------------------------------------- looking at what was recovered */

static void look_at_objects(fm_heap *heap, const char *when)
{
	char name[32];

	for (unsigned i = 0; i < OBJECTS && !t.has_zeros; i++) {
		const struct object *object = &t.object[i];

		if (!object->is_stable || !object->off)
			continue;
		if (fm_usable_size(fm_at(heap, object->off)) < object->size)
			fail_cut("%s: the object at %#llx of %zu bytes is lost", when, (unsigned long long)object->off,
			         object->size);
		else if (!crash_is_intact(fm_at(heap, object->off), object->id, object->size, SIZE_MAX))
			fail_cut("%s: the object at %#llx is damaged", when, (unsigned long long)object->off);
	}
	for (unsigned i = 0; i < ROOTS && !t.has_zeros && t.before.root_table == t.after.root_table; i++) {
		const void *p;

		snprintf(name, sizeof(name), "stable %u", i);
		p = fm_root_get(heap, name, i);
		if (!p)
			fail_cut("%s: root '%s' is lost: %s", when, name, fm_last_error());
		else if (!crash_is_intact(p, i, 100, SIZE_MAX))
			fail_cut("%s: the object of root '%s' is damaged", when, name);
	}
}

static int count_bytes(void *p, size_t usable, void *arg)
{
	(void)p;
	*(uint64_t *)arg += usable;
	return 0;
}

static void use(fm_heap *heap, const char *when)
{
	void *made[16];
	uint64_t id = proc_rand(&t.rng), bytes = 0, count = proc_count_objects(heap);
	size_t size[16];
	unsigned n = 0;

	if (fm_walk(heap, count_bytes, &bytes) != 0 || bytes > MAX_SIZE)
		fail_cut("%s: %llu live bytes", when, (unsigned long long)bytes);
	for (unsigned i = 0; i < 16; i++) {
		size[n] = random_size();
		made[n] = fm_malloc(heap, size[n]);
		if (!made[n])
			continue;
		crash_fill(made[n], id + n, size[n]);
		n++;
	}
	look_at_objects(heap, when);
	for (unsigned i = 0; i < n; i++)
		if (!crash_is_intact(made[i], id + i, size[i], SIZE_MAX) || fm_free(made[i]) != 0)
			fail_cut("%s: an object made after recovery is damaged: %s", when, fm_last_error());
	if (proc_count_objects(heap) != count)
		fail_cut("%s: %llu objects became %llu", when, (unsigned long long)count,
		         (unsigned long long)proc_count_objects(heap));
	if (fm_check(heap, print_finding, (void *)(uintptr_t)when) != 0)
		fail_cut("%s: fm_check: %s", when, fm_last_error());
}

/* The file, perhaps in the middle of a recovery: FM_RECOVER opens it, and then it is an ordinary heap. */
static void recover(struct crash_file *file, const char *when)
{
	fm_heap *heap = fm_open_fd(file->fd, FM_RECOVER, &t.options);

	if (!heap) {
		fail_cut("%s: recovering: %s (%s)", when, strerror(errno), fm_last_error());
		return;
	}
	if (fm_check(heap, print_finding, (void *)(uintptr_t)when) != 0)
		fail_cut("%s: fm_check: %s", when, fm_last_error());
	look_at_objects(heap, when);
	use(heap, when);
	if (fm_close(heap) != 0)
		fail_cut("%s: closing: %s", when, fm_last_error());
	heap = fm_open_fd(file->fd, 0, &t.options);
	if (!heap) {
		fail_cut("%s: opening after recovery: %s", when, fm_last_error());
		return;
	}
	if (fm_check(heap, print_finding, (void *)(uintptr_t)when) != 0)
		fail_cut("%s: fm_check: %s", when, fm_last_error());
	look_at_objects(heap, when);
	if (fm_close(heap) != 0)
		fail_cut("%s: closing: %s", when, fm_last_error());
}

/* A kill in the middle of recovery: what it leaves can be recovered. */
static void examine(void)
{
	int saved = errno;

	if (t.is_looking || t.failure[0])
		return;
	t.stores++;
	if (t.kills >= KILLS_EACH || proc_below(&t.rng, 1 + t.stores / 4))
		return;
	t.is_looking = true;
	t.kills++;
	t.killed++;
	crash_copy(&t.copy, &t.second);
	crash.blocks = 0;
	recover(&t.second, "killed while recovering");
	t.is_looking = false;
	errno = saved;
}

static void hook(const uint64_t *word)
{
	(void)word;
	examine();
}

static void must_be_unclean(unsigned flags)
{
	fm_heap *heap = fm_open_fd(t.copy.fd, flags, &t.options);

	if (heap)
		fail_cut("opened with flags %#x after a power cut", flags);
	else if (errno != EUCLEAN)
		fail_cut("opening with flags %#x: %s (%s)", flags, strerror(errno), fm_last_error());
}

static void one_cut(uint64_t cut_no)
{
	fm_heap *heap;

	t.cut_no = cut_no;
	t.rng = proc_mix(t.seed ^ cut_no << 20 ^ 1);
	t.stores = t.kills = 0;
	make_cut();
	memset(crash.boot_id, 0xb1, sizeof(crash.boot_id));
	t.is_looking = true;
	crash_copy(&t.copy, &t.second);
	must_be_unclean(0);
	must_be_unclean(FM_CREATE);
	must_be_unclean(FM_RDONLY);
	must_be_unclean(FM_RDONLY | FM_RECOVER);
	if (crash_file_size(&t.copy) != crash_file_size(&t.second) ||
	    memcmp(t.copy.map, t.second.map, crash_file_size(&t.copy)) != 0)
		fail_cut("an opening that failed changed the file");
	t.is_looking = false;
	crash.stop = examine;
	fm_truth_hook = hook;
	heap = fm_open_fd(t.copy.fd, FM_RECOVER, &t.options);
	fm_truth_hook = NULL;
	crash.stop = NULL;
	if (!heap) {
		fail_cut("recovering: %s (%s)", strerror(errno), fm_last_error());
		return;
	}
	t.mended += t.stores;
	if (fm_check(heap, print_finding, (void *)(uintptr_t) "recovered") != 0)
		fail_cut("fm_check: %s", fm_last_error());
	look_at_objects(heap, "recovered");
	use(heap, "recovered");
	if (fm_close(heap) != 0)
		fail_cut("closing: %s", fm_last_error());
	recover(&t.copy, "closed after recovery");
	memset(crash.boot_id, 0xb0, sizeof(crash.boot_id));
}

static void begin(uint64_t max_size)
{
	crash_file_make(&t.original, "heap", max_size);
	crash_file_make(&t.copy, "copy", max_size);
	crash_file_make(&t.second, "second", max_size);
	t.before.bytes = malloc(MAX_SIZE);
	t.after.bytes = malloc(MAX_SIZE);
	assert_non_null(t.before.bytes);
	assert_non_null(t.after.bytes);
	crash_begin(&t.original, &t.copy, &t.second);
	crash.is_sparse = true;
	t.options = (struct fm_options){.size = sizeof(t.options), .max_size = max_size,
	                                .address_space = max_size,
	                                .disable = FM_NO_ATFORK | FM_NO_EXIT_SYNC};
	t.failure[0] = 0;
	t.mended = t.killed = 0;
}

static void end(void)
{
	crash_end();
	crash_file_drop(&t.original);
	crash_file_drop(&t.copy);
	crash_file_drop(&t.second);
	free(t.before.bytes);
	free(t.after.bytes);
}

static void test_power_cuts(void **state)
{
	uint64_t cuts = proc_env("FM_CUTS", CUTS * proc_env("FM_SCALE", 100) / 100);
	uint64_t only = proc_env("FM_CASE", 0);
	double start = proc_now();

	(void)state;
	begin(MAX_SIZE);
	for (uint64_t cut_no = 1; (only || cut_no <= cuts) && !t.failure[0]; cut_no++) {
		if (only)
			cut_no = only;
		if (only || cut_no % CUTS_EACH == 1) {
			t.rng = proc_mix(t.seed ^ (cut_no - 1) / CUTS_EACH << 40);
			make_states();
		}
		one_cut(cut_no);
		if (only)
			break;
	}
	printf("# %llu cuts, %llu stores and calls of recoveries, %llu recoveries killed; %.0f cuts a second\n",
	       (unsigned long long)cuts, (unsigned long long)t.mended, (unsigned long long)t.killed,
	       (double)cuts / (proc_now() - start));
	end();
	if (t.failure[0])
		fail_msg("%s", t.failure);
	assert_true(t.killed > 0);
}

/* A file that is not the one that was in use: a copy of a heap in use is unclean, of a closed one not. */
static void test_copies(void **state)
{
	fm_heap *heap;

	(void)state;
	begin(MAX_SIZE);
	t.rng = proc_mix(t.seed);
	make_states();
	crash.copies[0] = NULL;
	for (unsigned i = 0; i < 2; i++) {
		const struct state *from = i ? &t.after : &t.before;

		assert_int_equal(ftruncate(t.copy.fd, 0), 0);
		assert_int_equal(ftruncate(t.copy.fd, (off_t)from->size), 0);
		memcpy(t.copy.map, from->bytes, from->size);
		crash_copy(&t.copy, &t.second);
		must_be_unclean(0);
		assert_memory_equal(t.copy.map, t.second.map, from->size);
		t.has_zeros = i == 0; /* objects of the earlier state may be freed by now */
		t.is_looking = true;
		recover(&t.copy, "copied while in use");
		t.is_looking = false;
		assert_string_equal(t.failure, "");
	}
	crash_copy(&t.original, &t.copy);
	crash.blocks = 0;
	heap = fm_open_fd(t.copy.fd, 0, &t.options);
	assert_non_null(heap);
	assert_int_equal(proc_check(heap), 0);
	look_at_objects(heap, "copied after closing");
	assert_int_equal(fm_close(heap), 0);
	assert_string_equal(t.failure, "");
	end();
}

/* A heap of more than 2048 segments, whose directory has an extent. After a cut the file may be as long as
 * it was before the extent, and the words of the truth page may be older than the extent's contents or
 * newer: what was there before the extent is not lost. */
static void test_directory_extent(void **state)
{
	static const char *const cut_name[] = {
		"all written", "the file is as long as before", "the truth page is from before",
		"the directory is from before", "the extent was not written",
	};
	struct truth_page_rec *truth;
	uint8_t old_truth[4096];
	static uint8_t old_directory[FIRST_JOURNAL_OFF - DIRECTORY_OFF];
	uint64_t old_size, extent;
	struct object old[3];
	unsigned n = 0;

	(void)state;
	begin(24 * GIB);
	t.has_zeros = true;
	t.heap = fm_open_fd(t.original.fd, FM_CREATE, &t.options);
	assert_non_null(t.heap);
	for (unsigned i = 0; i < 3; i++) {
		old[i] = (struct object){.id = i, .size = i < 2 ? 4 * GIB - 40 * MIB : 100};
		void *p = fm_malloc(t.heap, old[i].size);

		assert_non_null(p);
		crash_fill(p, i, old[i].size);
		old[i].off = fm_offset_of(t.heap, p);
	}
	old_size = crash_file_size(&t.original);
	memcpy(old_truth, t.original.map + TRUTH_PAGE_OFF, sizeof(old_truth));
	memcpy(old_directory, t.original.map + DIRECTORY_OFF, sizeof(old_directory));
	truth = (void *)(t.original.map + TRUTH_PAGE_OFF);
	for (; truth->directory_extent[0] == 0 && n < 100; n++)
		assert_non_null(fm_malloc(t.heap, 70 * MIB));
	extent = truth->directory_extent[0];
	assert_true(extent << SEGMENT_SHIFT >= old_size); /* else the cases below say nothing */
	for (unsigned cut = 0; cut < 5 && !t.failure[0]; cut++) {
		fm_heap *heap;

		crash_copy(&t.original, &t.copy);
		crash.blocks = 0;
		if (cut == 1 && ftruncate(t.copy.fd, (off_t)old_size))
			abort();
		if (cut == 2)
			memcpy(t.copy.map + TRUTH_PAGE_OFF, old_truth, sizeof(old_truth));
		if (cut == 3)
			memcpy(t.copy.map + DIRECTORY_OFF, old_directory, sizeof(old_directory));
		if (cut == 4)
			memset(t.copy.map + (extent << SEGMENT_SHIFT), 0, SEGMENT_SIZE);
		memset(crash.boot_id, 0xb1, sizeof(crash.boot_id));
		must_be_unclean(0);
		heap = fm_open_fd(t.copy.fd, FM_RECOVER, &t.options);
		if (!heap) {
			fail_cut("%s: %s (%s)", cut_name[cut], strerror(errno), fm_last_error());
			break;
		}
		if (fm_check(heap, print_finding, (void *)(uintptr_t)cut_name[cut]) != 0)
			fail_cut("%s: fm_check", cut_name[cut]);
		for (unsigned i = 0; i < 3; i++)
			if (fm_usable_size(fm_at(heap, old[i].off)) < old[i].size ||
			    !crash_is_intact(fm_at(heap, old[i].off), i, old[i].size, SIZE_MAX))
				fail_cut("%s: object %u is lost or damaged", cut_name[cut], i);
		if (!fm_malloc(heap, 100 * MIB) || fm_close(heap) != 0)
			fail_cut("%s: %s", cut_name[cut], fm_last_error());
		memset(crash.boot_id, 0xb0, sizeof(crash.boot_id));
	}
	memset(crash.boot_id, 0xb0, sizeof(crash.boot_id));
	assert_int_equal(fm_close(t.heap), 0);
	end();
	assert_string_equal(t.failure, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_power_cuts),
		cmocka_unit_test(test_copies),
		cmocka_unit_test(test_directory_extent),
	};

	t.seed = proc_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
