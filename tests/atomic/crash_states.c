/* SPDX-License-Identifier: Apache-2.0
 *
 * Crash states of the commit protocol (tests 3, 9 and 13 of the plan). A heap on a memory file commits random changes
 * while everything it does to the file is recorded; then, for points in time before, inside and after each
 * operation, files as a device may hold them after a power cut are made and opened:
 *
 *   - the content is exactly that of commit k or k + 1, and of k + 1 if that commit had returned;
 *   - a read-only opening sees the same and writes nothing;
 *   - fm_check finds nothing, and the heap can be used;
 *   - while the heap works, the order of writes is kept (order_monitor.h);
 *   - all that on a device that garbles what it is writing, if sectors are written whole;
 *   - a crash at any point of the recovery, and of the recovery after that, changes nothing;
 *   - nor does a power cut in a recovery that followed a kill, whose page cache showed what the device has not, be it
 *     that no later sync brings it there.
 *
 *   FM_COMMIT_STATES   states in all (7000)
 *   FM_SEED            what is done, and which states
 */
#define _GNU_SOURCE 1
#include "order_monitor.h"

#include "alloc/heap.h"
#include "store/atomic.h"
#include "store/record.h"

#define ROOM     (UINT64_C(256) << 20)
#define COMMITS  40
#define OBJECTS  24
#define MAX_SNAPS 1024

enum note { NOTE_OPENED, NOTE_COMMIT, NOTE_COMMITTED };

/* How a heap commits. */
struct shape {
	const char *name;
	uint64_t record_max, journal_max;
	unsigned sector;
	bool thread, large, reopens;
	const char *track;
	bool zeros; /* objects hold zeros, in space that was given back and had other bytes before */
};

static const struct shape shapes[] = {
	{"small commits", RECORD_MAX, 1, 0, false, false, false, "uffd", false},
	{"reopened", RECORD_MAX, 1, 0, false, false, true, "uffd", false},
	{"chains", 12288, 1, 0, false, false, true, "mprotect", false},
	{"whole sectors", RECORD_MAX, 1, 512, false, false, true, "pagemap", false},
	{"a journal that grows", RECORD_MAX, 0, 0, false, true, true, "uffd", false},
	{"a checkpoint thread", RECORD_MAX, 1, 0, true, false, true, "uffd", false},
	{"chains and growth, with a thread", 65536, 0, 4096, true, true, true, "pagemap", false},
	{"zeros where data was", RECORD_MAX, 0, 0, false, true, true, "uffd", true},
};

/* The heap's bytes as of a commit, and which units it uses. */
struct snap {
	uint8_t *bytes;
	uint8_t *is_used; /* of each unit */
	uint8_t *is_zero; /* of each page */
	uint64_t size;
};

static struct {
	uint64_t seed, states, wanted, per_shape;
	struct snap snaps[MAX_SNAPS];
	unsigned snaps_used;
	struct sim sim, inner;
	struct sim_image image;
	const struct shape *shape;
	uint64_t rng;
} t;

/* ---------------------------------------------------------------- what the heap holds */

static const struct store *store_of(const fm_heap *heap)
{
	return &((const struct heap *)(const void *)heap)->store;
}

static void use(uint8_t *is_used, uint64_t unit, uint64_t n, uint64_t units)
{
	for (uint64_t i = unit; i < unit + n && i < units; i++)
		is_used[i] = 1;
}

/* What the truth says is used, by the format alone: not by what the library thinks. */
static void find_used(const fm_heap *heap, uint8_t *is_used, uint64_t units)
{
	const struct truth_page_rec *truth = (const void *)((const uint8_t *)heap->mem + TRUTH_PAGE_OFF);
	const uint64_t *directory = (const void *)((const uint8_t *)heap->mem + DIRECTORY_OFF);

	use(is_used, 0, 1, units);
	for (uint64_t s = 0; s <= truth->last_segment; s++) {
		const uint64_t *words = (const void *)((const uint8_t *)heap->mem + metadata_off(s));

		if (segment_word_kind(directory[s]) == SEGMENT_HUGE)
			use(is_used, s * 64, (huge_word_pages(directory[s]) + 15) / 16, units);
		if (s && segment_word_kind(directory[s]) != SEGMENT_METADATA)
			continue;
		use(is_used, metadata_off(s) / UNIT_SIZE, 1, units);
		for (unsigned u = metadata_unit(s) + 1; u < SEGMENT_UNITS; u++)
			use(is_used, s * 64 + u, unit_word_units(words[u]), units);
	}
}

static void take_snap(const fm_heap *heap)
{
	struct snap *snap = &t.snaps[t.snaps_used++];

	assert_true(t.snaps_used < MAX_SNAPS);
	snap->size = store_of(heap)->size;
	snap->bytes = mmap(NULL, snap->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_true(snap->bytes != MAP_FAILED);
	snap->is_used = calloc(snap->size / UNIT_SIZE + 1, 1);
	assert_non_null(snap->is_used);
	snap->is_zero = calloc(snap->size / 4096 + 1, 1);
	assert_non_null(snap->is_zero);
	find_used(heap, snap->is_used, snap->size / UNIT_SIZE);
	for (uint64_t page = 0; page < snap->size / 4096; page++) {
		static const uint8_t zeros[4096];
		const uint8_t *now = (const uint8_t *)heap->mem + page * 4096;

		snap->is_zero[page] = atomic_is_own(store_of(heap), page) || memcmp(now, zeros, 4096) == 0;
		if (!snap->is_zero[page])
			memcpy(snap->bytes + page * 4096, now, 4096);
	}
}

/* Is all that the commit uses what it was? The first page that is not, or UINT64_MAX. */
static uint64_t first_difference(const fm_heap *heap, const struct snap *snap)
{
	off_t data = 0, hole = 0; /* the file's bytes [hole before data, data) are a hole, and so zero: not looked at */

	for (uint64_t page = 0; page < snap->size / 4096; page++) {
		if (!snap->is_used[page * 4096 / UNIT_SIZE] || atomic_is_own(store_of(heap), page))
			continue;
		if (snap->is_zero[page] && !store_of(heap)->read_only && page * 4096 < store_of(heap)->size) {
			if ((off_t)(page * 4096) >= hole) {
				data = lseek(heap->fd, (off_t)(page * 4096), SEEK_DATA);
				data = data < 0 ? INT64_MAX : data;
				hole = data == INT64_MAX ? data : lseek(heap->fd, data, SEEK_HOLE);
			}
			if ((off_t)(page * 4096 + 4096) <= data)
				continue;
		}
		if (page * 4096 >= store_of(heap)->size ||
		    memcmp((const uint8_t *)heap->mem + page * 4096, snap->bytes + page * 4096, 4096) != 0)
			return page;
	}
	return UINT64_MAX;
}

static void drop_snaps(void)
{
	while (t.snaps_used) {
		struct snap *snap = &t.snaps[--t.snaps_used];

		munmap(snap->bytes, snap->size);
		free(snap->is_used);
		free(snap->is_zero);
	}
}

/* ---------------------------------------------------------------- doing */

static struct fm_options options_of(const struct shape *shape)
{
	struct fm_options options = {
		.size = sizeof(options),
		.address_space = 128 << 20,
		.disable = FM_NO_ATFORK | (shape->thread ? 0 : FM_NO_CHECKPOINT),
		.journal_max = shape->journal_max,
		.sector = shape->sector,
	};

	return options;
}

static fm_heap *open_it(int fd, unsigned flags)
{
	struct fm_options options = options_of(t.shape);
	fm_heap *heap = fm_open_fd(fd, FM_ATOMIC | flags, &options);

	if (!heap)
		fail_msg("%s: opening: %s", t.shape->name, fm_last_error());
	return heap;
}

/* Offsets of objects are kept in the application's page. */
static uint64_t *slots_of(const fm_heap *heap)
{
	return (uint64_t *)(void *)((char *)heap->mem + PAGE_SIZE);
}

static void change(fm_heap *heap)
{
	uint64_t *slots = slots_of(heap);
	unsigned n = (unsigned)proc_below(&t.rng, proc_below(&t.rng, 8) ? 6 : 60) + 1;

	for (unsigned i = 0; i < n; i++) {
		unsigned k = (unsigned)proc_below(&t.rng, OBJECTS);
		size_t size = proc_below(&t.rng, 12) ? proc_below(&t.rng, 300) + 8 : proc_below(&t.rng, 30000) + 8;
		char name[8];

		if (t.shape->large && proc_below(&t.rng, 60) == 0)
			size = proc_below(&t.rng, 3000000) + 500000;
		switch (proc_below(&t.rng, 8)) {
		case 0:
			snprintf(name, sizeof(name), "r%u", k % 8);
			assert_int_equal(fm_root_set(heap, name, fm_at(heap, slots[k]), 3), 0);
			break;
		case 1:
		case 2:
			if (slots[k])
				assert_int_equal(fm_free(fm_at(heap, slots[k])), 0);
			slots[k] = 0;
			break;
		case 3:
			if (slots[k])
				memset(fm_at(heap, slots[k]), (int)i, fm_usable_size(fm_at(heap, slots[k])) / 2 + 1);
			break;
		default: {
			bool is_zero = t.shape->zeros && !slots[k] && proc_below(&t.rng, 2);
			void *p = slots[k] ? fm_realloc(heap, fm_at(heap, slots[k]), size)
			          : is_zero ? fm_calloc(heap, 1, size) : fm_malloc(heap, size);

			assert_non_null(p);
			if (!is_zero)
				proc_fill(p, proc_rand(&t.rng), size);
			slots[k] = fm_offset_of(heap, p);
		}
		}
	}
}

static void commit(fm_heap *heap)
{
	take_snap(heap);
	sim_note(&t.sim, NOTE_COMMIT, t.snaps_used - 1);
	if (fm_commit(heap))
		fail_msg("%s: commit: %s", t.shape->name, fm_last_error());
	sim_note(&t.sim, NOTE_COMMITTED, t.snaps_used - 1);
	monitor_commit(&t.sim, t.snaps[t.snaps_used - 1].is_used, t.snaps[t.snaps_used - 1].size / UNIT_SIZE);
}

static void work(int fd)
{
	fm_heap *heap = open_it(fd, FM_CREATE);

	take_snap(heap);
	sim_note(&t.sim, NOTE_OPENED, 0);
	for (unsigned i = 0; i < COMMITS; i++) {
		change(heap);
		commit(heap);
		if (proc_below(&t.rng, 8) == 0) {
			change(heap);
			assert_int_equal(fm_rollback(heap), 0);
			assert_true(first_difference(heap, &t.snaps[t.snaps_used - 1]) == UINT64_MAX);
		}
		if (t.shape->reopens && proc_below(&t.rng, 8) == 0) {
			change(heap);
			assert_int_equal(fm_close(heap), 0);
			heap = open_it(fd, 0);
		}
	}
	assert_int_equal(fm_check(heap, NULL, NULL), 0);
	assert_int_equal(fm_close(heap), 0);
}

/* ---------------------------------------------------------------- looking */

/* Commits that a state may show. */
struct allowed {
	bool may_be_empty;
	unsigned least, most;
};

static void print_finding(const struct fm_finding *finding, void *arg)
{
	(void)arg;
	fprintf(stderr, "# fm_check: %#llx is %#llx: %s\n", (unsigned long long)finding->offset,
	        (unsigned long long)finding->value, finding->text);
}

/* Which of the allowed commits is it? */
static unsigned which(const fm_heap *heap, const struct allowed *allowed, const char *what)
{
	uint64_t page = 0;

	for (unsigned k = allowed->least; k <= allowed->most; k++) {
		page = first_difference(heap, &t.snaps[k]);
		if (page == UINT64_MAX)
			return k;
	}
	fail_msg("seed %llu, %s, state %llu, %s: neither commit %u nor %u; page %llu differs",
	         (unsigned long long)t.seed, t.shape->name, (unsigned long long)t.states, what, allowed->least,
	         allowed->most, (unsigned long long)page);
	return 0;
}

static fm_heap *open_state(unsigned flags, const struct allowed *allowed)
{
	struct fm_options options = options_of(&shapes[0]);
	fm_heap *heap = fm_open_fd(t.image.fd, FM_ATOMIC | flags, &options);

	if (!heap && !(allowed->may_be_empty && errno == EILSEQ))
		fail_msg("seed %llu, %s, state %llu: opening with %#x: %s", (unsigned long long)t.seed, t.shape->name,
		         (unsigned long long)t.states, flags, fm_last_error());
	return heap;
}

static enum sim_choice any_choice(void)
{
	static const enum sim_choice often[8] = {SIM_NONE, SIM_ALL, SIM_SUBSET, SIM_SUBSET,
	                                         SIM_TORN, SIM_TORN, SIM_TORN, SIM_PAGES};

	if (t.shape->sector && proc_below(&t.rng, 4) == 0)
		return SIM_GARBLED;
	return often[proc_below(&t.rng, 8)];
}

/* A power cut: what opens the state does so after a restart. */
static void cut_power(struct sim_player *player, enum sim_choice choice, uint64_t bits)
{
	static uint64_t boots;

	sim_os.boot = ++boots;
	player->sector = t.shape->sector;
	sim_state(player, &t.image, choice, bits, &t.rng);
}

/* Open the state that is in the image, and see. The recovery is recorded in t.inner. Returns the commit. */
static unsigned look(const struct allowed *allowed)
{
	unsigned before = sim_os.touches, read = 0, k;
	bool reads = proc_below(&t.rng, 8) == 0;
	fm_heap *heap = reads ? open_state(FM_RDONLY, allowed) : NULL;

	t.states++;
	if (reads && heap) {
		read = which(heap, allowed, "read-only");
		assert_int_equal(fm_close(heap), 0);
		assert_int_equal(sim_os.touches, before);
	}
	heap = open_state(0, allowed);
	if (!heap)
		return 0;
	k = which(heap, allowed, "recovered");
	if (reads)
		assert_int_equal(k, read);
	if (fm_check(heap, print_finding, NULL) != 0)
		fail_msg("seed %llu, %s, state %llu: fm_check", (unsigned long long)t.seed, t.shape->name,
		         (unsigned long long)t.states);
	if (proc_below(&t.rng, 16) == 0) {
		void *p = fm_malloc(heap, 5000);

		assert_non_null(p);
		memset(p, 1, 5000);
		slots_of(heap)[511] = fm_offset_of(heap, p);
		assert_int_equal(fm_commit(heap), 0);
		assert_int_equal(fm_close(heap), 0);
		heap = open_state(0, allowed);
		assert_int_equal(((char *)fm_at(heap, slots_of(heap)[511]))[4999], 1);
		assert_int_equal(fm_check(heap, NULL, NULL), 0);
	}
	assert_int_equal(fm_close(heap), 0);
	return k;
}

/* The power goes during the recovery of the state in the image, again and again, to a depth of three. */
static void crash_recovery(const struct allowed *allowed, unsigned depth)
{
	struct sim_player player;
	uint32_t cut;
	struct allowed exactly;
	fm_heap *heap;
	uint64_t size = t.image.size == UINT64_MAX ? t.image.room : t.image.size;
	struct stat st;

	assert_int_equal(fstat(t.image.fd, &st), 0);
	size = (uint64_t)st.st_size;
	sim_player_init(&player, &t.inner, ROOM);
	memcpy(player.stable, t.image.map, size);
	player.stable_size = size;
	sim_rewind(&t.inner, size);
	sim_os.sim = &t.inner;
	t.inner.is_recording = true;
	heap = open_state(0, allowed);
	t.inner.is_recording = false;
	if (!heap) {
		sim_player_drop(&player);
		sim_os.touches = 5000;
		return;
	}
	exactly.may_be_empty = false;
	exactly.least = exactly.most = which(heap, allowed, "recovered");
	t.inner.is_recording = false;
	assert_int_equal(fm_close(heap), 0);
	cut = (uint32_t)proc_below(&t.rng, t.inner.count + 1);
	while (player.at < cut)
		sim_step(&player);
	sim_os.touches = 5000; /* the image is made from scratch */
	cut_power(&player, any_choice(), proc_rand(&t.rng));
	if (depth > 1)
		crash_recovery(&exactly, depth - 1);
	else
		look(&exactly);
	sim_player_drop(&player);
	sim_os.touches = 5000;
}

/* The process is killed: the page cache has everything. The heap is opened again, on the same boot, and then the power
 * goes: nothing that the first process had not synced needs to be on the device, and if the cache `lies`, no
 * sync brings it there: a write error was forgotten. */
static void kill_then_cut(struct sim_player *player, const struct allowed *allowed, bool lies)
{
	uint32_t old_count = t.sim.count, cut, pendings = player->pendings, at = player->at;
	uint64_t old_size = t.sim.size;
	struct sim_op *later = malloc((old_count - at + 1) * sizeof(*later));
	struct sim_player second;
	struct allowed exactly = {false, 0, 0};
	enum sim_choice choice = any_choice();
	struct stat st;
	fm_heap *heap;

	assert_non_null(later);
	memcpy(later, t.sim.ops + at, (old_count - at) * sizeof(*later));
	sim_state(player, &t.image, SIM_ALL, 0, &t.rng);
	sim_os.boot = 0;
	assert_int_equal(fstat(t.image.fd, &st), 0);
	t.sim.count = at;
	t.sim.size = (uint64_t)st.st_size;
	sim_os.sim = &t.sim;
	t.sim.is_recording = true;
	heap = open_state(0, allowed);
	t.sim.is_recording = false;
	if (heap) {
		exactly.least = exactly.most = which(heap, allowed, "after a kill");
		assert_int_equal(fm_close(heap), 0);
		/* the commit that is seen now is acknowledged by being seen, once opening has returned */
		cut = at + (uint32_t)proc_below(&t.rng, t.sim.count - at + 1);
		if (cut < t.sim.count)
			exactly = *allowed;
		sim_player_init(&second, &t.sim, ROOM);
		memcpy(second.stable, player->stable, player->stable_size);
		second.stable_size = player->stable_size;
		second.at = at;
		second.pendings = second.pendings_room = pendings;
		second.pending = malloc((pendings + 1) * sizeof(*second.pending));
		assert_non_null(second.pending);
		memcpy(second.pending, player->pending, pendings * sizeof(*second.pending));
		second.lost_before = lies ? at : 0;
		second.page_settled = calloc(ROOM / 4096, sizeof(*second.page_settled));
		assert_non_null(second.page_settled);
		while (second.at < cut)
			sim_step(&second);
		sim_os.touches = 5000;
		cut_power(&second, choice == SIM_GARBLED ? SIM_TORN : choice, proc_rand(&t.rng));
		if (getenv("FM_DUMP")) {
			printf("# killed at %u, cut at %u of %u, lies %d, allowed %u..%u\n", at, cut, t.sim.count, lies,
			       exactly.least, exactly.most);
			for (uint32_t i = at > 40 ? at - 40 : 0; i < t.sim.count; i++)
				printf("#   %u: kind %d off %llu len %llu begin %u\n", i, t.sim.ops[i].kind,
				       (unsigned long long)t.sim.ops[i].off, (unsigned long long)t.sim.ops[i].len,
				       t.sim.ops[i].begin);
		}
		look(&exactly);
		sim_player_drop(&second);
	}
	sim_os.touches = 5000;
	memcpy(t.sim.ops + at, later, (old_count - at) * sizeof(*later));
	t.sim.count = old_count;
	t.sim.size = old_size;
	free(later);
}

static void states_at(struct sim_player *player, const struct allowed *allowed, unsigned n)
{
	/* few un-synced writes: all subsets by their number, as far as states go; else some */
	bool all = player->pendings < 12 && n > 1u << player->pendings;

	for (unsigned i = 0; i < n; i++) {
		bool by_number = all && i < 1u << player->pendings;

		cut_power(player, by_number ? SIM_SUBSET : any_choice(), by_number ? i : proc_rand(&t.rng));
		look(allowed);
	}
	if (n && proc_below(&t.rng, 6) == 0) {
		cut_power(player, any_choice(), proc_rand(&t.rng));
		crash_recovery(allowed, 1 + (unsigned)proc_below(&t.rng, 3));
	}
	if (n && proc_below(&t.rng, 6) == 0)
		kill_then_cut(player, allowed, proc_below(&t.rng, 2));
}

static void play(void)
{
	struct sim_player player;
	struct allowed allowed = {true, 0, 0};
	uint64_t end = t.states + t.per_shape;
	uint64_t points = t.sim.count;

	if (getenv("FM_DUMP"))
		for (uint32_t i = 0; i < t.sim.count && i < 60; i++)
			printf("# %u: kind %d off %llu len %llu begin %u\n", i, t.sim.ops[i].kind,
			       (unsigned long long)t.sim.ops[i].off, (unsigned long long)t.sim.ops[i].len, t.sim.ops[i].begin);

	sim_player_init(&player, &t.sim, ROOM);
	sim_os.touches = 5000;
	t.image.size = UINT64_MAX;
	while (player.at < t.sim.count) {
		const struct sim_op *op = &t.sim.ops[player.at];
		uint64_t left = t.sim.count - player.at;
		uint64_t budget = end > t.states ? (end - t.states) / left : 0;
		unsigned n = (unsigned)budget + (proc_below(&t.rng, left) < (end > t.states ? (end - t.states) % left : 0));

		sim_step(&player);
		if (op->kind == SIM_NOTE && op->off == NOTE_OPENED)
			allowed.may_be_empty = false;
		if (op->kind == SIM_NOTE && op->off == NOTE_COMMIT)
			allowed.most = (unsigned)op->len;
		if (op->kind == SIM_NOTE && op->off == NOTE_COMMITTED)
			allowed.least = (unsigned)op->len;
		if (op->kind != SIM_NOTE)
			states_at(&player, &allowed, n);
	}
	printf("# %s: %llu operations\n", t.shape->name, (unsigned long long)points);
	sim_player_drop(&player);
}

/* ---------------------------------------------------------------- all shapes */

static void one_shape(const struct shape *shape)
{
	int fd = memfd_create("heap", MFD_CLOEXEC);
	uint64_t before = t.states;
	double start = proc_now();

	assert_true(fd >= 0);
	t.shape = shape;
	atomic_record_max = shape->record_max;
	setenv("FMALLOC_TRACK", shape->track, 1);
	sim_rewind(&t.sim, 0);
	sim_os.sim = &t.sim;
	monitor_begin();
	t.sim.watch = monitor_watch;
	sim_os.boot = 0;
	sim_os.sync_us = shape->thread ? 2000 : 0;
	t.sim.is_recording = true;
	work(fd);
	t.sim.is_recording = false;
	t.sim.watch = NULL;
	sim_os.sync_us = 0;
	assert_true(monitor.applied > COMMITS && monitor.retired > COMMITS / 2);
	if (monitor.bad)
		fail_msg("seed %llu, %s: %llu writes out of order, the first: %s", (unsigned long long)t.seed, shape->name,
		         (unsigned long long)monitor.bad, monitor.text);
	setenv("FMALLOC_TRACK", "pagemap", 1);
	play();
	printf("# %s: %llu states, %.0f a second\n", shape->name, (unsigned long long)(t.states - before),
	       (double)(t.states - before) / (proc_now() - start));
	fflush(stdout);
	drop_snaps();
	close(fd);
}

static void test_shape(void **state)
{
	one_shape(*state);
}

int main(void)
{
	enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };
	struct CMUnitTest tests[SHAPES];
	struct os_stat st;
	int r;

	t.seed = proc_seed();
	t.rng = t.seed;
	t.wanted = proc_env("FM_COMMIT_STATES", 7000);
	t.per_shape = t.wanted / SHAPES;
	sim_init(&t.sim, 0);
	sim_init(&t.inner, 0);
	sim_image_make(&t.image, ROOM);
	/* every state is the file that was in use, on the boot that used it */
	if (os_linux.stat_fd(t.image.fd, &st))
		return 1;
	sim_os.id = st.id;
	sim_os.has_id = true;
	sim_begin(&t.sim);
	for (unsigned i = 0; i < SHAPES; i++)
		tests[i] = (struct CMUnitTest){shapes[i].name, test_shape, NULL, NULL, (void *)(uintptr_t)&shapes[i]};
	if (getenv("FM_TEST"))
		cmocka_set_test_filter(getenv("FM_TEST"));
	r = cmocka_run_group_tests(tests, NULL, NULL);
	sim_image_drop(&t.image);
	sim_drop(&t.sim);
	sim_drop(&t.inner);
	return r;
}
