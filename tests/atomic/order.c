/* SPDX-License-Identifier: Apache-2.0
 *
 * The order of writes with several threads and the checkpoint's beside them, on every way of finding pages (test 13 of
 * the plan): order_monitor.h looks at each. And the folder: its entry is on the device before anything is acknowledged,
 * also where the process that made the file was killed in between.
 *
 *   FM_ROUNDS   commits of each thread (60)
 *   FM_SEED     what is done
 */
#define _GNU_SOURCE 1
#include "order_monitor.h"
#include "way.h"

#define THREADS 3
#define SLOTS   12

static struct {
	uint64_t seed, rounds;
	char *dir, path[300], other[300];
	struct sim sim;
	/* of the folder */
	struct os_calls table;
	unsigned links, folder_syncs; /* since the last link */
	bool dies, unsynced, bad;
	unsigned supers; /* written to a copy */
	int folder_error;
} t;

static void *writing(fm_heap *heap, void *p, size_t len)
{
	assert_int_equal(fm_will_write(heap, p, len), 0);
	return p;
}

/* ---------------------------------------------------------------- threads */

struct worker {
	pthread_t thread;
	fm_heap *heap;
	uint64_t *slots, rng;
	int failures;
};

static void *work(void *arg)
{
	struct worker *w = arg;

	for (uint64_t i = 0; i < t.rounds; i++) {
		w->failures += fm_begin(w->heap) != 0;
		writing(w->heap, w->slots, SLOTS * sizeof(*w->slots));
		for (unsigned n = (unsigned)proc_below(&w->rng, 3) + 1; n; n--) {
			uint64_t *slot = &w->slots[proc_below(&w->rng, SLOTS)];
			size_t size = proc_below(&w->rng, 200) + 8;
			void *p;

			if (*slot)
				w->failures += fm_free(fm_at(w->heap, *slot)) != 0;
			p = fm_malloc(w->heap, size);
			w->failures += !p;
			proc_fill(writing(w->heap, p, size), proc_rand(&w->rng), size);
			*slot = fm_offset_of(w->heap, p);
		}
		w->failures += fm_end(w->heap) != 0;
		w->failures += fm_commit(w->heap) != 0;
	}
	return NULL;
}

static fm_heap *open_it(const char *path, unsigned flags)
{
	struct fm_options options = {.size = sizeof(options), .address_space = 1 << 30, .journal_max = 1};
	fm_heap *heap = fm_open(path, atomic_heap() | flags, &options);

	if (!heap)
		fail_msg("%s", fm_last_error());
	return heap;
}

static void run_threads(fm_heap *heap)
{
	struct worker workers[THREADS];

	for (unsigned i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){.heap = heap, .rng = t.seed + i};
		workers[i].slots = fm_calloc(heap, SLOTS, sizeof(uint64_t));
		assert_non_null(workers[i].slots);
	}
	for (unsigned i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	for (unsigned i = 0; i < THREADS; i++) {
		assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
		assert_int_equal(workers[i].failures, 0);
	}
	assert_int_equal(fm_check(heap, NULL, NULL), 0);
}

static void expect_order(const char *way)
{
	if (monitor.bad)
		fail_msg("seed %llu, %s: %llu writes out of order, the first: %s", (unsigned long long)t.seed, way,
		         (unsigned long long)monitor.bad, monitor.text);
	assert_true(monitor.applied > 0 && monitor.retired > 0);
}

static void threads(void **state)
{
	const char *way = *state;
	struct fm_statistics stats = {.size = sizeof(stats)};
	fm_heap *heap;

	unlink(t.path);
	setenv("FMALLOC_TRACK", way, 1);
	sim_rewind(&t.sim, 0);
	sim_begin(&t.sim);
	sim_os.sync_us = 1500;
	monitor_begin();
	t.sim.watch = monitor_watch;
	t.sim.is_recording = true;
	for (unsigned i = 0; i < 3; i++) {
		heap = open_it(t.path, FM_CREATE);
		run_threads(heap);
		assert_int_equal(fm_stats(heap, &stats), 0);
		assert_true(stats.checkpoints > 0);
		assert_non_null(fm_malloc(heap, 100000));
		if (i == 1)
			assert_int_equal(fm_rollback(heap), 0);
		assert_int_equal(fm_close(heap), 0);
	}
	t.sim.is_recording = false;
	os = &os_linux;
	printf("# %s: %u operations, %llu writes applied, %llu records retired, %llu waits\n", way, t.sim.count,
	       (unsigned long long)monitor.applied, (unsigned long long)monitor.retired,
	       (unsigned long long)stats.waits);
	expect_order(way);
}

/* ---------------------------------------------------------------- no fallocate */

static int cannot_allocate(int fd, uint64_t off, uint64_t len)
{
	(void)fd;
	(void)off;
	(void)len;
	return -EOPNOTSUPP;
}

/* A file system without fallocate: the file grows by writing zeros, around the journal, which others write to. */
static void without_fallocate(void **state)
{
	struct fm_statistics stats = {.size = sizeof(stats)};
	fm_heap *heap;

	(void)state;
	unlink(t.path);
	unsetenv("FMALLOC_TRACK");
	sim_rewind(&t.sim, 0);
	sim_begin(&t.sim);
	sim_os.table.allocate = cannot_allocate;
	sim_os.sync_us = 0;
	monitor_begin();
	t.sim.watch = monitor_watch;
	t.sim.is_recording = true;
	heap = open_it(t.path, FM_CREATE);
	for (unsigned i = 0; i < 6; i++) {
		void *p = fm_malloc(heap, 3 << 20);

		assert_non_null(p);
		memset(p, (int)i + 1, 100000);
		assert_int_equal(fm_commit(heap), 0);
		/* uncommitted: the file grows beside records that are needed */
		assert_non_null(fm_malloc(heap, 5 << 20));
	}
	assert_int_equal(fm_stats(heap, &stats), 0);
	assert_true(stats.journal_size > 1 << 20);
	assert_int_equal(fm_check(heap, NULL, NULL), 0);
	assert_int_equal(fm_close(heap), 0);
	t.sim.is_recording = false;
	os = &os_linux;
	expect_order("without fallocate");
	heap = open_it(t.path, 0);
	assert_int_equal(fm_check(heap, NULL, NULL), 0);
	assert_int_equal(fm_close(heap), 0);
}

/* ---------------------------------------------------------------- the folder */

static int link_it(int fd, const char *path)
{
	int r = os_linux.link_unnamed(fd, path);

	t.links++;
	t.folder_syncs = 0;
	if (t.dies)
		_exit(7);
	return r;
}

static int link_by_name(const char *from, const char *path)
{
	t.links++;
	t.folder_syncs = 0;
	return os_linux.link_named(from, path);
}

static int sync_folder(const char *dir)
{
	if (t.folder_error)
		return -t.folder_error;
	t.folder_syncs++;
	return os_linux.sync_dir(dir);
}

/* A copy's superblocks come after a sync of the rest, and its name after them. */
static bool is_copy(int fd)
{
	struct stat st, heap_st;

	return stat(t.path, &heap_st) == 0 && fstat(fd, &st) == 0 && st.st_ino != heap_st.st_ino;
}

static int write_some(int fd, const void *buf, size_t len, uint64_t off)
{
	t.unsynced = t.unsynced || is_copy(fd);
	return os_linux.pwrite_full(fd, buf, len, off);
}

static int clone_some(int from, int to, uint64_t off, uint64_t len)
{
	t.unsynced = t.unsynced || is_copy(to);
	return os_linux.clone(from, to, off, len);
}

static int write_synced(int fd, const void *buf, size_t len, uint64_t off)
{
	if (is_copy(fd)) {
		t.bad = t.bad || t.unsynced;
		t.supers++;
	}
	return os_linux.pwrite_sync(fd, buf, len, off);
}

static int sync_some(int fd)
{
	int r = os_linux.sync(fd);

	if (is_copy(fd))
		t.unsynced = false;
	return r;
}

static int no_unnamed(const char *dir, mode_t mode)
{
	(void)dir;
	(void)mode;
	return -EOPNOTSUPP;
}

static void the_folder(void **state)
{
	fm_heap *heap;
	pid_t pid;
	int status;

	(void)state;
	unsetenv("FMALLOC_TRACK");
	t.table = os_linux;
	t.table.link_unnamed = link_it;
	t.table.link_named = link_by_name;
	t.table.sync_dir = sync_folder;
	t.table.pwrite_full = write_some;
	t.table.write_view = view_by_writing;
	t.table.stores_cheaply = always_cheaply;
	t.table.pwrite_sync = write_synced;
	t.table.clone = clone_some;
	t.table.sync = sync_some;
	t.table.sync_view = sync_view_by_sync;
	os = &t.table;
	for (unsigned i = 0; i < 2; i++) {
		unlink(t.path);
		unlink(t.other);
		t.table.create_unnamed = i ? no_unnamed : os_linux.create_unnamed;
		t.links = 0;
		heap = open_it(t.path, FM_CREATE);
		assert_true(t.links == 1 && t.folder_syncs > 0);
		assert_int_equal(fm_snapshot(heap, t.other), 0);
		assert_true(t.links == 2 && t.folder_syncs > 0);
		assert_true(t.supers == 2 * (i + 1) && !t.unsynced && !t.bad);
		assert_int_equal(fm_close(heap), 0);
	}
	t.table.create_unnamed = os_linux.create_unnamed;
	/* the entry that can't be synced is no entry */
	unlink(t.path);
	t.folder_error = EIO;
	assert_null(fm_open(t.path, FM_ATOMIC | FM_CREATE, NULL));
	assert_int_equal(errno, EIO);
	assert_int_equal(access(t.path, F_OK), -1);
	t.folder_error = 0;
	/* killed before it was synced: who comes next does it, before he writes */
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		t.dies = true;
		fm_open(t.path, FM_ATOMIC | FM_CREATE, NULL);
		_exit(1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	assert_int_equal(access(t.path, F_OK), 0);
	t.folder_syncs = 0;
	t.folder_error = EIO;
	assert_null(fm_open(t.path, FM_ATOMIC, NULL));
	assert_int_equal(errno, EIO);
	t.folder_error = 0;
	heap = open_it(t.path, 0);
	assert_int_equal(t.folder_syncs, 1);
	assert_int_equal(fm_close(heap), 0);
	os = &os_linux;
}

/* ---------------------------------------------------------------- a copy beside commits */

static struct {
	fm_heap *heap;
	unsigned pieces, pages; /* written to the copy */
	uint64_t commits;
} beside;

static void commit_beside(void)
{
	uint64_t *app = (uint64_t *)(void *)((char *)beside.heap->mem + PAGE_SIZE);

	app[0] = app[300] = ++beside.commits;
	assert_int_equal(fm_commit(beside.heap), 0);
}

/* The copy is made in pieces; then the pages come that were applied meanwhile. */
static int write_copy(int fd, const void *buf, size_t len, uint64_t off)
{
	if (is_copy(fd) && len > 4096 && beside.pieces++ == 1)
		commit_beside();
	if (is_copy(fd) && len == 4096 && beside.pages++ == 0)
		commit_beside();
	return os_linux.pwrite_full(fd, buf, len, off);
}

static int cannot_clone(int from, int to, uint64_t off, uint64_t len)
{
	(void)from;
	(void)to;
	(void)off;
	(void)len;
	return -EOPNOTSUPP;
}

/* What is committed while the file is copied, and while that is copied once more, is in the copy. */
static void a_copy_catches_up(void **state)
{
	const uint64_t *app;
	fm_heap *copy;
	void *p;

	(void)state;
	unlink(t.path);
	unlink(t.other);
	t.table = os_linux;
	t.table.pwrite_full = write_copy;
	t.table.clone = cannot_clone;
	os = &t.table;
	memset(&beside, 0, sizeof(beside));
	beside.heap = open_it(t.path, FM_CREATE);
	p = fm_malloc(beside.heap, 3 << 20);
	assert_non_null(p);
	memset(p, 1, 3 << 20);
	assert_int_equal(fm_commit(beside.heap), 0);
	assert_int_equal(fm_snapshot(beside.heap, t.other), 0);
	assert_int_equal(beside.commits, 2);
	copy = open_it(t.other, 0);
	app = (const uint64_t *)(const void *)((const char *)copy->mem + PAGE_SIZE);
	assert_true(app[0] == 2 && app[300] == 2);
	assert_int_equal(fm_check(copy, NULL, NULL), 0);
	assert_int_equal(fm_close(copy), 0);
	assert_int_equal(fm_close(beside.heap), 0);
	os = &os_linux;
}

/* ---------------------------------------------------------------- a page that is being applied */

#define LATER_PAGES 16u

static struct {
	fm_heap *heap;
	uint64_t *later;          /* in pages behind the application's; */
	unsigned pages;           /* so many are changed: by writing, or by the view */
	pthread_t committer;
	bool by_view;
	bool begun, stops, copied; /* atomic: the commit was begun; its write to the application's page; that one copied again */
} stop;

static bool is_in_app(uint64_t off)
{
	return off / PAGE_SIZE == 1;
}

static bool wait_for(const bool *what, unsigned ms)
{
	while (!load_acquire(what) && ms--)
		proc_sleep_us(1000);
	return load_acquire(what);
}

static void *commit_both(void *arg)
{
	uint64_t *app = (uint64_t *)(void *)((char *)stop.heap->mem + PAGE_SIZE);

	app[2] = 1;
	for (unsigned i = 0; i < stop.pages; i++)
		stop.later[i * PAGE_SIZE / 8] = 1;
	return fm_commit(stop.heap) ? arg : NULL;
}

/* The commit begins while the copy is made, and stops before it writes the application's page until that was copied once
 * more, which is too early. A copy that waits for it makes it wait for all of the time. */
static int write_slowly(int fd, const void *buf, size_t len, uint64_t off)
{
	bool copies = is_copy(fd);
	int r;

	if (copies && len > PAGE_SIZE && !load_acquire(&stop.begun)) {
		store_release(&stop.begun, true);
		if (pthread_create(&stop.committer, NULL, commit_both, &stop) || !wait_for(&stop.stops, 10000))
			return -EIO;
	}
	if (!copies && load_acquire(&stop.begun) && is_in_app(off) && !load_acquire(&stop.stops)) {
		store_release(&stop.stops, true);
		wait_for(&stop.copied, 500);
	}
	r = os_linux.pwrite_full(fd, buf, len, off);
	if (copies && len == PAGE_SIZE && is_in_app(off))
		store_release(&stop.copied, true);
	return r;
}

static int view_slowly(int fd, void *view, const struct os_piece *pieces, unsigned n)
{
	stop.by_view = true;
	return view_by_writing(fd, view, pieces, n);
}

/* N1: what is written while the pages are copied once more is in the copy as a whole. */
static void a_copy_is_no_half_commit(void **state)
{
	const uint64_t *app;
	fm_heap *copy;
	const uint64_t *later;
	void *failed;

	unlink(t.path);
	unlink(t.other);
	t.table = os_linux;
	t.table.pwrite_full = write_slowly;
	t.table.write_view = view_slowly;
	t.table.stores_cheaply = always_cheaply;
	t.table.clone = cannot_clone;
	os = &t.table;
	memset(&stop, 0, sizeof(stop));
	stop.heap = open_it(t.path, FM_CREATE);
	stop.pages = *(const unsigned *)*state;
	stop.later = fm_calloc(stop.heap, LATER_PAGES, PAGE_SIZE);
	assert_non_null(stop.later);
	assert_int_equal(fm_root_set(stop.heap, "later", stop.later, 0), 0);
	for (unsigned i = 0; i < LATER_PAGES; i++)
		stop.later[i * PAGE_SIZE / 8] = 2;
	assert_int_equal(fm_commit(stop.heap), 0); /* as many are written before any are copied */
	assert_int_equal(fm_snapshot(stop.heap, t.other), 0);
	assert_int_equal(pthread_join(stop.committer, &failed), 0);
	assert_null(failed);
	assert_true(stop.stops && stop.by_view == (stop.pages > 1));
	copy = open_it(t.other, 0);
	app = (const uint64_t *)(const void *)((const char *)copy->mem + PAGE_SIZE);
	later = fm_root_get(copy, "later", 0);
	assert_int_equal(app[2], 1);
	for (unsigned i = 0; i < stop.pages; i++)
		assert_int_equal(later[i * PAGE_SIZE / 8], 1);
	assert_int_equal(fm_check(copy, NULL, NULL), 0);
	assert_int_equal(fm_close(copy), 0);
	assert_int_equal(fm_close(stop.heap), 0);
	os = &os_linux;
}

/* ---------------------------------------------------------------- superblocks on a device that garbles */

/* How the writing of a superblock ends: in an error, in a kill (of the one that says clean), in a power cut that garbles
 * its sector. */
enum end { NO_END, REFUSED, KILLED, CUT };

/* What a device has that loses what it is not made to keep, shared by the processes that use it. */
struct device {
	struct super_rec super[2];
	bool is_dirty[2]; /* the page cache has another one, and brings it there with a sync */
	enum end end;
	uint64_t value;   /* that was committed */
};

static struct device *device;

static const struct fm_options garbling = {
	.size = sizeof(garbling), .address_space = 1 << 30, .sector = 512, .disable = FM_NO_CHECKPOINT};

/* Which copy is written, or 2: it is none. */
static unsigned copy_at(size_t len, uint64_t off)
{
	if (len != sizeof(struct super_rec))
		return 2;
	return off == SUPER_COPY_1_OFF ? 0 : off == SUPER_COPY_2_OFF ? 1 : 2;
}

static void write_or_die(int fd, const void *buf, uint64_t len, uint64_t off)
{
	if (os_linux.pwrite_full(fd, buf, len, off))
		_exit(2);
}

static void cut_power(int fd, unsigned copy)
{
	struct super_rec garbage;
	unsigned other = 1 - copy;

	memset(&garbage, 0xa5, sizeof(garbage));
	write_or_die(fd, &garbage, sizeof(garbage), copy ? SUPER_COPY_2_OFF : SUPER_COPY_1_OFF);
	write_or_die(fd, &device->super[other], sizeof(garbage), other ? SUPER_COPY_2_OFF : SUPER_COPY_1_OFF);
	_exit(7);
}

static int write_super_sync(int fd, const void *buf, size_t len, uint64_t off)
{
	unsigned copy = copy_at(len, off);
	enum end end = device->end;

	if (copy == 2)
		return os_linux.pwrite_full(fd, buf, len, off);
	if (end == KILLED && ((const struct super_rec *)buf)->state != SUPER_CLEAN)
		end = NO_END;
	if (end == CUT)
		cut_power(fd, copy);
	write_or_die(fd, buf, len, off);
	device->is_dirty[copy] = end == KILLED;
	if (end == KILLED)
		_exit(7);
	if (end == REFUSED) {
		device->end = NO_END;
		return -EIO; /* the cache has it, and takes it for written */
	}
	memcpy(&device->super[copy], buf, len);
	return 0;
}

static int write_super(int fd, const void *buf, size_t len, uint64_t off)
{
	if (copy_at(len, off) < 2)
		device->is_dirty[copy_at(len, off)] = true;
	return os_linux.pwrite_full(fd, buf, len, off);
}

static int sync_super(int fd)
{
	for (unsigned copy = 0; copy < 2; copy++)
		if (device->is_dirty[copy] &&
		    os_linux.pread_full(fd, &device->super[copy], sizeof(struct super_rec),
		                        copy ? SUPER_COPY_2_OFF : SUPER_COPY_1_OFF) < 0)
			return -EIO;
	device->is_dirty[0] = device->is_dirty[1] = false;
	return 0;
}

/* The journal grows, and then holds commits that only the latest superblock finds, and that were made with a longer file than
 * closing leaves; the closing ends as `end` says. */
static void fill_and_close(enum end end)
{
	struct fm_statistics stats = {.size = sizeof(stats)};
	fm_heap *heap = fm_open(t.path, FM_ATOMIC | FM_CREATE, &garbling);
	uint64_t *words = heap ? fm_calloc(heap, 200, 8) : NULL;
	unsigned left = 30;
	void *long_one;

	if (!words || fm_root_set(heap, "words", words, 0))
		_exit(2);
	while (left) {
		words[0] = words[1 + device->value % 199] = device->value + 1;
		if (fm_commit(heap) || fm_stats(heap, &stats) || device->value++ > 10000)
			_exit(2);
		left -= stats.journal_size > SEGMENT_SIZE;
	}
	long_one = fm_malloc(heap, 8 << 20);
	if (!long_one || fm_commit(heap) || fm_free(long_one) || fm_commit(heap))
		_exit(2);
	device->end = end;
	fm_close(heap);
	_exit(end == REFUSED && device->end == NO_END ? 7 : 2);
}

static void in_a_process(void (*run)(void *arg), void *arg)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		run(arg);
		_exit(3);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 7);
}

static void first_process(void *arg)
{
	fill_and_close(*(enum end *)arg);
}

static void second_process(void *arg)
{
	(void)arg;
	device->end = CUT;
	fm_open(t.path, FM_ATOMIC, &garbling);
}

/* A superblock does not get to the device, which the next process can't see; and while that one writes one, the power
 * goes: the other copy, as the device has it, knows the last commit. */
static void a_copy_counts_on_the_device(void **state)
{
	enum end end = *(enum end *)*state;
	fm_heap *heap;

	unlink(t.path);
	unsetenv("FMALLOC_TRACK");
	device = mmap(NULL, sizeof(*device), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(device != MAP_FAILED);
	t.table = os_linux;
	t.table.pwrite_full = write_super;
	t.table.pwrite_sync = write_super_sync;
	t.table.sync = sync_super;
	t.table.sync_view = sync_view_by_sync;
	sim_os.boot = 0;
	t.table.boot_id = sim_boot_id;
	os = &t.table;
	in_a_process(first_process, &end);
	in_a_process(second_process, NULL);
	sim_os.boot = 1;
	device->end = NO_END;
	heap = open_it(t.path, 0);
	assert_int_equal(*(uint64_t *)fm_root_get(heap, "words", 0), device->value);
	assert_int_equal(fm_check(heap, NULL, NULL), 0);
	assert_int_equal(fm_close(heap), 0);
	os = &os_linux;
	munmap(device, sizeof(*device));
}

static void *const uffd = (void *)(uintptr_t)"uffd", *const granules = (void *)(uintptr_t)"mprotect",
	*const pages = (void *)(uintptr_t)"pagemap", *const declared = (void *)(uintptr_t)"declared";

int main(void)
{
	static unsigned few = 1, many = LATER_PAGES;
	static enum end refused = REFUSED, killed = KILLED;
	const struct CMUnitTest tests[] = {
		{"uffd", threads, NULL, NULL, uffd},
		{"mprotect", threads, NULL, NULL, granules},
		{"pagemap", threads, NULL, NULL, pages},
		{"declared", threads, NULL, NULL, declared},
		cmocka_unit_test(without_fallocate),
		cmocka_unit_test(the_folder),
		cmocka_unit_test(a_copy_catches_up),
		{"a_copy_is_no_half_commit, written", a_copy_is_no_half_commit, NULL, NULL, &few},
		{"a_copy_is_no_half_commit, by the view", a_copy_is_no_half_commit, NULL, NULL, &many},
		{"a superblock that was refused", a_copy_counts_on_the_device, NULL, NULL, &refused},
		{"a superblock that was being written", a_copy_counts_on_the_device, NULL, NULL, &killed},
	};
	int r;

	t.seed = proc_seed();
	t.rounds = proc_env("FM_ROUNDS", 60);
	sim_init(&t.sim, 0);
	t.dir = proc_dir_make();
	snprintf(t.path, sizeof(t.path), "%s/heap", t.dir);
	snprintf(t.other, sizeof(t.other), "%s/other", t.dir);
	r = cmocka_run_group_tests(tests, NULL, NULL);
	proc_dir_remove(t.dir);
	sim_drop(&t.sim);
	return r;
}
