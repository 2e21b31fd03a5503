/* SPDX-License-Identifier: Apache-2.0
 *
 * FM_CONVERT with power cuts at every operation (tests 3 and 9 of the plan). A live heap with full segments and their
 * hints, joined slots, huge objects, free segments and objects freed by other threads was used, closed or killed, some of it
 * not on the device yet; it becomes atomic, commits, and becomes live again. The files that a device may hold meanwhile:
 *
 *   - are of one kind or the other, and a live one of before is as clean or unclean as it was;
 *   - an atomic one holds exactly what the live heap held, or the commit; so does the live one after it;
 *   - fm_check finds nothing, and all objects can be freed.
 *
 *   FM_CONVERT_STATES   for each shape (120)
 *   FM_SEED             which
 */
#define _GNU_SOURCE 1
#include "order_monitor.h"

#define ROOM    (UINT64_C(128) << 20)
#define SMALL   3000u
#define WIDE    2500u
#define HUGES   3u
#define RUNS    24u

enum { NOTE_ATOMIC = 1, NOTE_COMMIT, NOTE_COMMITTED, NOTE_LIVE };

/* What a heap holds: a number that depends on each object's place, size and bytes. */
struct content {
	uint64_t sum, objects;
};

static struct {
	uint64_t seed, rng, states, recovered;
	struct sim sim;
	struct sim_image image;
	struct content before, after; /* the commit */
	const char *shape;
	uint32_t begins; /* operations before it are the live heap's */
	bool is_clean; /* the live heap was closed, and all of it is on the device */
} t;

static const struct fm_options options = {
	.size = sizeof(options),
	.address_space = ROOM,
	.disable = FM_NO_ATFORK | FM_NO_CHECKPOINT,
};

static uint64_t *app_of(const fm_heap *heap)
{
	return (uint64_t *)(void *)((char *)heap->mem + PAGE_SIZE);
}

/* ---------------------------------------------------------------- content */

static fm_heap *walked;

static int add_object(void *p, size_t usable, void *arg)
{
	struct content *content = arg;
	uint64_t h = proc_mix(fm_offset_of(walked, p) * 31 + usable);

	for (size_t at = 0; at + 8 <= usable; at += 8 + at / 16 / 8 * 8) {
		uint64_t word;

		memcpy(&word, (const char *)p + at, 8);
		h = proc_mix(h ^ word);
	}
	content->sum += h;
	content->objects++;
	return 0;
}

static struct content content_of(fm_heap *heap)
{
	struct content content = {0, 0};

	walked = heap;
	assert_int_equal(fm_walk(heap, add_object, &content), 0);
	for (unsigned i = 0; i < PAGE_SIZE / 8; i++)
		content.sum += proc_mix(app_of(heap)[i] + i);
	content.sum += proc_mix(fm_offset_of(heap, fm_root_get(heap, "root", 5)));
	return content;
}

static bool is_same(struct content a, struct content b)
{
	return a.sum == b.sum && a.objects == b.objects;
}

/* ---------------------------------------------------------------- a live heap */

static void *filled(fm_heap *heap, size_t size)
{
	void *p = fm_malloc(heap, size);

	assert_non_null(p);
	proc_fill(p, proc_rand(&t.rng), fm_usable_size(p));
	return p;
}

static void *free_some(void *arg)
{
	void **some = arg;

	for (unsigned i = 0; i < SMALL; i += 11)
		assert_int_equal(fm_free(some[i]), 0);
	return NULL;
}

static void fill(fm_heap *heap)
{
	static void *small[SMALL], *wide[WIDE], *huge[HUGES], *run[RUNS];
	pthread_t thread;
	uint64_t joined = 0;

	for (unsigned i = 0; i < SMALL; i++)
		small[i] = filled(heap, 64);
	for (unsigned i = 0; i < SMALL; i++)
		if (i % 4 != 0 && i % 11 != 0)
			assert_int_equal(fm_free(small[i]), 0);
	/* slots of the small ones, joined */
	for (unsigned i = 0; i < WIDE; i++) {
		wide[i] = filled(heap, 180);
		for (unsigned k = 0; k < SMALL && i < 5; k += 4)
			joined += fm_offset_of(heap, wide[i]) >> 16 == fm_offset_of(heap, small[k]) >> 16;
	}
	assert_true(joined > 0);
	for (unsigned i = 0; i < HUGES; i++)
		huge[i] = filled(heap, (5 + i) * SEGMENT_SIZE / 4);
	for (unsigned i = 0; i < RUNS; i++)
		run[i] = filled(heap, 300000);
	/* free segments in the middle, and a full one before */
	assert_int_equal(fm_free(huge[1]), 0);
	for (unsigned i = 0; i < RUNS; i += 5)
		assert_int_equal(fm_free(run[i]), 0);
	/* freed by another thread, and not collected */
	assert_int_equal(pthread_create(&thread, NULL, free_some, small), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(fm_root_set(heap, "root", run[1], 5), 0);
	app_of(heap)[0] = fm_offset_of(heap, huge[0]);
	app_of(heap)[1] = fm_offset_of(heap, huge[2]);
}

static fm_heap *open_it(int fd, unsigned flags)
{
	fm_heap *heap = fm_open_fd(fd, flags, &options);

	if (!heap)
		fail_msg("%s: %s", t.shape, fm_last_error());
	return heap;
}

/* ---------------------------------------------------------------- doing */

static uint64_t size_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_size;
}

/* The heap's file as the device has it: `old` is that; what differs now was written and not synced. */
static void note_unsynced(int fd, const uint8_t *old, uint64_t old_size)
{
	uint64_t size = size_of(fd);
	static uint8_t page[4096];

	if (size != old_size) {
		t.sim.size = size;
		sim_add(&t.sim, SIM_SIZE, size, 0, NULL, 0);
	}
	for (uint64_t off = 0; off < size; off += 4096) {
		assert_int_equal(os_linux.pread_full(fd, page, 4096, off), 4096);
		if (memcmp(page, old + off, 4096) == 0)
			continue;
		/* its mark was synchronous */
		if (off == SUPER_COPY_1_OFF || off == SUPER_COPY_2_OFF)
			sim_add(&t.sim, SIM_WSYNC_END, off, 0, NULL, sim_add(&t.sim, SIM_WSYNC, off, 4096, page, 0));
		else
			sim_add(&t.sim, SIM_WRITE, off, 4096, page, 0);
	}
}

/* Of the file as it is, without touching it. */
static struct content content_of_copy(int fd)
{
	int copy = memfd_create("copy", MFD_CLOEXEC);
	uint64_t size = size_of(fd);
	uint8_t *bytes = malloc(size);
	struct content content;
	fm_heap *heap;

	assert_true(copy >= 0 && bytes);
	assert_int_equal(os_linux.pread_full(fd, bytes, size, 0), (ssize_t)size);
	assert_int_equal(os_linux.pwrite_full(copy, bytes, size, 0), 0);
	heap = open_it(copy, 0);
	content = content_of(heap);
	assert_int_equal(fm_close(heap), 0);
	free(bytes);
	close(copy);
	return content;
}

static void change(fm_heap *heap)
{
	for (unsigned i = 0; i < 200; i++)
		filled(heap, 40 + i);
	assert_int_equal(fm_free(fm_at(heap, app_of(heap)[0])), 0);
	app_of(heap)[0] = 0;
	memset(fm_at(heap, app_of(heap)[1]), 3, 20000);
	assert_int_equal(fm_root_set(heap, "root", filled(heap, 6 * SEGMENT_SIZE / 5), 5), 0);
}

static void work(int fd, uint8_t *old, uint64_t *old_size)
{
	fm_heap *heap = open_it(fd, FM_CREATE);
	pid_t pid;
	int status;

	fill(heap);
	t.before = content_of(heap);
	assert_int_equal(fm_check(heap, NULL, NULL), 0);
	assert_int_equal(fm_close(heap), 0);
	*old_size = size_of(fd);
	assert_int_equal(os_linux.pread_full(fd, old, *old_size, 0), (ssize_t)*old_size);
	if (!t.is_clean) {
		/* a process on the same boot that is killed: its stores are in the cache alone */
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0) {
			heap = fm_open_fd(fd, 0, &options);
			proc_must(heap != NULL);
			for (unsigned i = 0; i < 30; i++)
				proc_fill(fm_malloc(heap, 3000), i, 3000);
			app_of(heap)[7] = 1;
			kill(getpid(), SIGKILL);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
	}
	sim_rewind(&t.sim, *old_size);
	note_unsynced(fd, old, *old_size);
	if (!t.is_clean)
		t.before = content_of_copy(fd);
	t.begins = t.sim.count;
	monitor_begin();
	t.sim.watch = monitor_watch;
	t.sim.is_recording = true;
	heap = open_it(fd, FM_ATOMIC | FM_CONVERT);
	sim_note(&t.sim, NOTE_ATOMIC, 0);
	assert_true(is_same(content_of(heap), t.before));
	change(heap);
	t.after = content_of(heap);
	sim_note(&t.sim, NOTE_COMMIT, 0);
	assert_int_equal(fm_commit(heap), 0);
	sim_note(&t.sim, NOTE_COMMITTED, 0);
	filled(heap, 100000);
	assert_int_equal(fm_close(heap), 0);
	heap = open_it(fd, FM_CONVERT);
	sim_note(&t.sim, NOTE_LIVE, 0);
	t.sim.is_recording = false;
	t.sim.watch = NULL;
	assert_true(is_same(content_of(heap), t.after));
	assert_int_equal(fm_check(heap, NULL, NULL), 0);
	assert_int_equal(fm_close(heap), 0);
	if (monitor.bad)
		fail_msg("%s: %llu writes out of order, the first: %s", t.shape, (unsigned long long)monitor.bad, monitor.text);
}

/* ---------------------------------------------------------------- looking */

static int free_it(void *p, size_t usable, void *arg)
{
	(void)usable;
	(void)arg;
	return fm_free(p) == 0 ? 0 : 1;
}

static void must_hold(fm_heap *heap, bool may_be_before, bool may_be_after)
{
	struct content content = content_of(heap);

	if (!(may_be_before && is_same(content, t.before)) && !(may_be_after && is_same(content, t.after)))
		fail_msg("seed %llu, %s, state %llu: %llu objects, before %llu, after %llu", (unsigned long long)t.seed, t.shape,
		         (unsigned long long)t.states, (unsigned long long)content.objects,
		         (unsigned long long)t.before.objects, (unsigned long long)t.after.objects);
	assert_int_equal(fm_check(heap, NULL, NULL), 0);
	if (proc_below(&t.rng, 8) == 0) {
		assert_int_equal(fm_walk(heap, free_it, NULL), 0);
		assert_int_equal(fm_root_remove(heap, "root"), 0);
		assert_int_equal(fm_check(heap, NULL, NULL), 0);
		assert_non_null(fm_malloc(heap, 5 * SEGMENT_SIZE));
	}
}

/* `note` is the last that was passed. */
static void look(uint64_t note)
{
	fm_heap *heap = fm_open_fd(t.image.fd, FM_ATOMIC, &options);

	t.states++;
	if (heap) {
		must_hold(heap, note <= NOTE_COMMIT, note >= NOTE_COMMIT);
		assert_int_equal(fm_close(heap), 0);
		assert_true(note < NOTE_LIVE);
		return;
	}
	if (errno != EPROTOTYPE || (note > 0 && note < NOTE_COMMITTED))
		fail_msg("seed %llu, %s, state %llu behind %d: %s", (unsigned long long)t.seed, t.shape,
		         (unsigned long long)t.states, (int)note, fm_last_error());
	heap = fm_open_fd(t.image.fd, 0, &options);
	if (!heap) {
		assert_int_equal(errno, EUCLEAN);
		assert_true(note >= NOTE_COMMITTED || !t.is_clean);
		assert_null(fm_open_fd(t.image.fd, FM_ATOMIC | FM_CONVERT, &options));
		assert_int_equal(errno, EUCLEAN);
		assert_null(fm_open_fd(t.image.fd, FM_ATOMIC | FM_CONVERT | FM_RECOVER, &options));
		assert_int_equal(errno, EUCLEAN);
		heap = fm_open_fd(t.image.fd, FM_RECOVER, &options);
		t.recovered++;
		/* of what the live heap had not synced anything may be there */
		if (note == 0) {
			assert_true(heap || fm_last_error()[0]);
			if (heap)
				fm_close(heap);
			return;
		}
	}
	assert_non_null(heap);
	must_hold(heap, note == 0, note != 0);
	assert_int_equal(fm_close(heap), 0);
}

static void play(const uint8_t *old, uint64_t old_size)
{
	static const enum sim_choice choices[] = {SIM_NONE, SIM_ALL, SIM_SUBSET, SIM_TORN, SIM_TORN, SIM_PAGES};
	uint64_t wanted = proc_env("FM_CONVERT_STATES", 120), note = 0;
	struct sim_player player;

	sim_player_init(&player, &t.sim, ROOM);
	memcpy(player.stable, old, old_size);
	player.stable_size = old_size;
	wanted = wanted ? wanted : 1;
	while (player.at < t.sim.count) {
		const struct sim_op *op = &t.sim.ops[player.at];

		sim_step(&player);
		if (op->kind == SIM_NOTE)
			note = op->off;
		if (player.at < t.begins)
			continue;
		/* more around the first superblock of another kind */
		for (uint64_t i = note == 0 ? 20 : 1 + wanted / (t.sim.count + 1); i; i--) {
			if (note && proc_below(&t.rng, t.sim.count) > wanted)
				continue;
			sim_os.boot++;
			sim_os.touches = 5000;
			sim_state(&player, &t.image, choices[proc_below(&t.rng, 6)], proc_rand(&t.rng), &t.rng);
			look(note);
		}
	}
	sim_player_drop(&player);
}

static void one_shape(void **state)
{
	int fd = memfd_create("heap", MFD_CLOEXEC);
	uint8_t *old = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t old_size, before = t.states;

	assert_true(fd >= 0 && old != MAP_FAILED);
	t.shape = *state;
	t.is_clean = strcmp(t.shape, "closed") == 0;
	sim_os.boot = 0;
	work(fd, old, &old_size);
	play(old, old_size);
	printf("# %s: %u operations, %llu states, %llu of them recovered as live heaps, %llu objects\n", t.shape, t.sim.count,
	       (unsigned long long)(t.states - before), (unsigned long long)t.recovered, (unsigned long long)t.after.objects);
	munmap(old, ROOM);
	close(fd);
}

static void *const closed = (void *)(uintptr_t)"closed", *const killed = (void *)(uintptr_t)"killed";

int main(void)
{
	const struct CMUnitTest tests[] = {
		{"closed", one_shape, NULL, NULL, closed},
		{"killed", one_shape, NULL, NULL, killed},
	};
	struct os_stat st;
	int r;

	t.seed = proc_seed();
	t.rng = t.seed;
	sim_init(&t.sim, 0);
	sim_image_make(&t.image, ROOM);
	if (os_linux.stat_fd(t.image.fd, &st))
		return 1;
	sim_os.id = st.id;
	sim_os.has_id = true;
	sim_begin(&t.sim);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	sim_image_drop(&t.image);
	sim_drop(&t.sim);
	return r;
}
