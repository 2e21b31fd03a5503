/* SPDX-License-Identifier: Apache-2.0
 *
 * fm_open: what it creates, adopts and refuses, who may have a heap open, and what it says of damaged
 * and unclean files. Each documented errno that can be provoked, and what must stay untouched.
 */
#include "../support/api_util.h"

/* ---------------------------------------------------------------- creating */

static void a_missing_file_is_created(void **state)
{
	static const char zeros[PAGE_SIZE];
	fm_heap *heap;

	(void)state;
	FAILS(fm_open(heap_path, 0, NULL), NULL, ENOENT);
	assert_int_equal(access(heap_path, F_OK), -1);
	heap = open_or_fail(heap_path, FM_CREATE, NULL);
	assert_int_equal(access(heap_path, F_OK), 0);
	assert_ptr_equal(heap->mem, heap->s);
	assert_true(heap->fd >= 0);
	assert_memory_equal((char *)heap->mem + PAGE_SIZE, zeros, PAGE_SIZE);
	assert_int_equal(live_objects(heap), 0);
	close_checked(heap);
	close_checked(open_or_fail(heap_path, 0, NULL));
	close_checked(open_or_fail(heap_path, FM_CREATE, NULL));
}

static void excl_refuses_what_exists(void **state)
{
	(void)state;
	close_checked(open_or_fail(heap_path, FM_CREATE | FM_EXCL, NULL));
	FAILS(fm_open(heap_path, FM_CREATE | FM_EXCL, NULL), NULL, EEXIST);
	close_checked(open_or_fail(heap_path, 0, NULL));
	write_file(path_of("empty"), "", 0);
	FAILS(fm_open(path_of("empty"), FM_CREATE | FM_EXCL, NULL), NULL, EEXIST);
	assert_file_is(path_of("empty"), "", 0);
	assert_int_equal(symlink("nowhere", path_of("dangling")), 0);
	FAILS(fm_open(path_of("dangling"), FM_CREATE | FM_EXCL, NULL), NULL, EEXIST);
	assert_int_equal(access(path_of("nowhere"), F_OK), -1);
}

static void permissions_are_as_asked_for(void **state)
{
	static const struct {
		mode_t mode, mask, result;
	} cases[] = { { 0, 0, 0600 },        { 0, 0777 & ~0700, 0600 }, { 0666, 022, 0644 },
		      { 0666, 0, 0666 },     { 0640, 077, 0600 },       { 0400 | 0200 | 040, 0, 0640 } };
	mode_t before = umask(0);

	(void)state;
	for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct fm_options options = { .size = sizeof options, .mode = cases[i].mode };

		umask(cases[i].mask);
		close_checked(open_or_fail(heap_path, FM_CREATE, &options));
		assert_int_equal(mode_of(heap_path), cases[i].result);
		// the mode of what exists stays
		options.mode = 0600;
		close_checked(open_or_fail(heap_path, FM_CREATE, &options));
		assert_int_equal(mode_of(heap_path), cases[i].result);
		unlink(heap_path);
	}
	umask(before);
}

static void a_file_of_zeros_becomes_a_heap(void **state)
{
	static const size_t sizes[] = { 0, 1, 511, 4096, 12345, 65536, 100000, 1048576, 9000001 };
	static char zeros[9000001];

	(void)state;
	for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		fm_heap *heap;

		write_file(heap_path, zeros, sizes[i]);
		FAILS(fm_open(heap_path, 0, NULL), NULL, EILSEQ);
		assert_file_is(heap_path, zeros, sizes[i]);
		heap = open_or_fail(heap_path, FM_CREATE, NULL);
		assert_memory_equal((char *)heap->mem + PAGE_SIZE, zeros, PAGE_SIZE);
		assert_int_equal(live_objects(heap), 0);
		assert_non_null(fm_malloc(heap, 100000));
		close_checked(heap);
		heap = open_or_fail(heap_path, 0, NULL);
		assert_int_equal(live_objects(heap), 1);
		close_checked(heap);
		unlink(heap_path);
	}
}

static void a_sparse_file_of_zeros_becomes_a_heap(void **state)
{
	struct fm_options options = { .size = sizeof options };
	fm_heap *heap;

	(void)state;
	write_file(heap_path, "", 0);
	assert_int_equal(truncate(heap_path, (off_t)1 << 32), 0);
	heap = open_or_fail(heap_path, FM_CREATE, &options);
	memset(fm_malloc(heap, 1 * MIB), 1, 1 * MIB);
	close_checked(heap);
	heap = open_or_fail(heap_path, 0, NULL);
	assert_int_equal(live_objects(heap), 1);
	close_checked(heap);
}

/* A limit below the file's size is that size. */
static void max_size_below_the_file(void **state)
{
	struct fm_options options = { .size = sizeof options, .max_size = 128 * KIB - 1 };
	struct fm_statistics s = { .size = sizeof s };
	fm_heap *heap;
	struct stat st;

	(void)state;
	FAILS(fm_open(heap_path, FM_CREATE, &options), NULL, EINVAL);
	options.max_size++;
	heap = open_or_fail(heap_path, FM_CREATE, &options);
	assert_int_equal(fm_stats(heap, &s), 0);
	assert_int_equal(s.max_size, 128 * KIB);
	close_checked(heap);
	heap = open_or_fail(heap_path, 0, NULL);
	memset(fm_malloc(heap, 5 * MIB), 1, 5 * MIB);
	close_checked(heap);
	assert_int_equal(stat(heap_path, &st), 0);
	options.max_size = 1;
	heap = open_or_fail(heap_path, 0, &options);
	assert_int_equal(fm_stats(heap, &s), 0);
	assert_int_equal(s.max_size, st.st_size);
	FAILS(fm_malloc(heap, 5 * MIB), NULL, ENOMEM);
	close_checked(heap);
}

/* The struct of a newer version: what this one does not know must be 0. */
static void longer_options(void **state)
{
	struct {
		struct fm_options known;
		unsigned char more[64];
	} options = { .known = { .size = sizeof options, .max_size = 8 * MIB } };
	fm_heap *heap;

	(void)state;
	for (unsigned i = 0; i < sizeof options.more; i += 21) {
		options.more[i] = 1;
		FAILS(fm_open(heap_path, FM_CREATE, &options.known), NULL, EINVAL);
		options.more[i] = 0;
	}
	assert_int_equal(access(heap_path, F_OK), -1);
	heap = open_or_fail(heap_path, FM_CREATE, &options.known);
	assert_null(fm_malloc(heap, 9 * MIB)); /* max_size was read */
	close_checked(heap);
	/* its last byte counts, and what is behind it does not */
	options.known.size = sizeof options.known + 1;
	options.more[1] = 1;
	close_checked(open_or_fail(heap_path, 0, &options.known));
	options.more[0] = 1;
	FAILS(fm_open(heap_path, 0, &options.known), NULL, EINVAL);
	options.known.size = SIZE_MAX; /* not a size */
	FAILS(fm_open(heap_path, 0, &options.known), NULL, EINVAL);
}

/* A file that holds anything else is refused, and not a byte of it changes. */
static void refused_untouched(const void *bytes, size_t len, unsigned flags)
{
	struct stat before, after;
	int fd;

	write_file(heap_path, bytes, len);
	assert_int_equal(stat(heap_path, &before), 0);
	FAILS(fm_open(heap_path, flags, NULL), NULL, EILSEQ);
	fd = open(heap_path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	FAILS(fm_open_fd(fd, flags, NULL), NULL, EILSEQ);
	assert_int_equal(close(fd), 0);
	assert_file_is(heap_path, bytes, len);
	assert_int_equal(stat(heap_path, &after), 0);
	assert_int_equal(before.st_mtim.tv_sec, after.st_mtim.tv_sec);
	assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
	assert_int_equal(before.st_ino, after.st_ino);
	assert_int_equal(before.st_mode, after.st_mode);
	unlink(heap_path);
}

static void foreign_files_are_refused(void **state)
{
	static const size_t sizes[] = { 1, 7, 8, 100, 4096, 65536, 262144, 1048577 };
	static const unsigned flags[] = { 0, FM_CREATE, FM_RDONLY, FM_RECOVER, FM_CREATE | FM_RECOVER };
	static unsigned char bytes[1048577];

	(void)state;
	for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		for (unsigned j = 0; j < sizeof flags / sizeof flags[0]; j++) {
			for (size_t k = 0; k < sizes[i]; k++)
				bytes[k] = (unsigned char)("some text\n"[k % 10]);
			refused_untouched(bytes, sizes[i], flags[j]);
			// zeros but for one byte, the first and the last
			memset(bytes, 0, sizes[i]);
			bytes[sizes[i] - 1] = 1;
			refused_untouched(bytes, sizes[i], flags[j]);
			bytes[sizes[i] - 1] = 0;
			bytes[0] = 1;
			refused_untouched(bytes, sizes[i], flags[j]);
		}
	}
}

static void heaps_of_the_original_are_refused_by_name(void **state)
{
	static const uint64_t magics[] = { 123456, 123457 };
	static const size_t sizes[] = { 4096, 16384, 2097152 };
	static unsigned char bytes[2097152];
	char generic[300];

	(void)state;
	write_file(heap_path, "something else entirely", 23);
	FAILS(fm_open(heap_path, 0, NULL), NULL, EILSEQ);
	snprintf(generic, sizeof generic, "%s", fm_last_error());
	assert_null(strstr(generic, "original"));
	for (unsigned i = 0; i < 2; i++) {
		for (unsigned j = 0; j < 3; j++) {
			memset(bytes, 0, sizes[j]);
			for (unsigned k = 0; k < 8; k++)
				bytes[k] = (unsigned char)(magics[i] >> (8 * k));
			refused_untouched(bytes, sizes[j], 0);
			refused_untouched(bytes, sizes[j], FM_CREATE);
			write_file(heap_path, bytes, sizes[j]);
			FAILS(fm_open(heap_path, FM_CREATE, NULL), NULL, EILSEQ);
			assert_non_null(strstr(fm_last_error(), "original"));
			unlink(heap_path);
		}
	}
}

static void what_open_refuses(void **state)
{
	char name[400];
	fm_heap *heap;

	(void)state;
	memset(name, 'n', sizeof name);
	name[300] = 0;
	FAILS(fm_open(path_of(name), FM_CREATE, NULL), NULL, ENAMETOOLONG);
	FAILS(fm_open("", FM_CREATE, NULL), NULL, ENOENT);
	FAILS(fm_open(path_of("no/folder/here"), FM_CREATE, NULL), NULL, ENOENT);
	write_file(path_of("file"), "x", 1);
	FAILS(fm_open(path_of("file/below"), FM_CREATE, NULL), NULL, ENOTDIR);
	assert_int_equal(mkdir(path_of("folder"), 0700), 0);
	errno = 0;
	assert_null(fm_open(path_of("folder"), FM_CREATE, NULL));
	assert_true(errno == EISDIR || errno == EINVAL);
	assert_int_equal(mkfifo(path_of("fifo"), 0600), 0);
	FAILS(fm_open(path_of("fifo"), FM_CREATE, NULL), NULL, EINVAL);
	FAILS(fm_open("/dev/null", FM_CREATE, NULL), NULL, EINVAL);
	assert_int_equal(symlink(path_of("loop"), path_of("loop")), 0);
	FAILS(fm_open(path_of("loop"), 0, NULL), NULL, ELOOP);
	// a symbolic link to a heap is that heap
	close_checked(create_heap());
	assert_int_equal(symlink("heap.fm", path_of("link")), 0);
	heap = open_or_fail(path_of("link"), 0, NULL);
	FAILS(fm_open(heap_path, 0, NULL), NULL, EBUSY);
	close_checked(heap);
}

static void no_descriptors_left(void **state)
{
	struct rlimit before, now;
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	(void)state;
	close_checked(create_heap());
	assert_true(fd >= 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	for (rlim_t spare = 0; spare < 2; spare++) {
		now = before;
		now.rlim_cur = (rlim_t)fd + spare;
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &now), 0);
		errno = 0;
		FAILS(fm_open(heap_path, 0, NULL), NULL, EMFILE);
		FAILS(fm_open(path_of("new.fm"), FM_CREATE, NULL), NULL, EMFILE);
	}
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(close(fd), 0);
	assert_int_equal(access(path_of("new.fm"), F_OK), -1);
	close_checked(open_or_fail(heap_path, 0, NULL));
}

/* The descriptors that a process with 0, 1 and 2 closed gets are none of these. */
static void low_descriptors(void)
{
	fm_heap *heap;

	NEED(close(0) == 0 && close(1) == 0);
	heap = fm_open(heap_path, FM_CREATE, NULL);
	NEED(heap);
	NEED(fcntl(heap->fd, F_GETFD) & FD_CLOEXEC);
	NEED(fcntl(0, F_GETFD) == -1 && fcntl(1, F_GETFD) == -1);
	NEED(fm_malloc(heap, 1000));
	NEED(fm_close(heap) == 0);
	NEED(fcntl(0, F_GETFD) == -1 && fcntl(1, F_GETFD) == -1);
}

static void closed_standard_descriptors_stay_closed(void **state)
{
	(void)state;
	in_child(low_descriptors);
}

static unsigned open_descriptors(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 256; fd++)
		count += fcntl(fd, F_GETFD) != -1;
	return count;
}

static void no_descriptor_leaks(void **state)
{
	unsigned before = open_descriptors();

	(void)state;
	for (unsigned i = 0; i < 20; i++) {
		fm_heap *heap = open_or_fail(heap_path, FM_CREATE, NULL);

		FAILS(fm_open(heap_path, 0, NULL), NULL, EBUSY);
		close_checked(heap);
		FAILS(fm_open(heap_path, FM_CREATE | FM_EXCL, NULL), NULL, EEXIST);
		FAILS(fm_open(path_of("missing"), 0, NULL), NULL, ENOENT);
	}
	write_file(path_of("foreign"), "foreign", 7);
	FAILS(fm_open(path_of("foreign"), 0, NULL), NULL, EILSEQ);
	assert_int_equal(open_descriptors(), before);
}

/* ---------------------------------------------------------------- who else has it open */

static void busy_in_the_same_process(void **state)
{
	fm_heap *heap = create_heap();
	int fd = open(heap_path, O_RDWR | O_CLOEXEC);

	(void)state;
	assert_true(fd >= 0);
	FAILS(fm_open(heap_path, 0, NULL), NULL, EBUSY);
	FAILS(fm_open(heap_path, FM_CREATE, NULL), NULL, EBUSY);
	FAILS(fm_open(heap_path, FM_RDONLY, NULL), NULL, EBUSY);
	FAILS(fm_open(heap_path, FM_RECOVER, NULL), NULL, EBUSY);
	FAILS(fm_open_fd(fd, 0, NULL), NULL, EBUSY);
	assert_int_equal(link(heap_path, path_of("hard")), 0);
	FAILS(fm_open(path_of("hard"), 0, NULL), NULL, EBUSY);
	assert_int_equal(rename(heap_path, path_of("renamed")), 0);
	FAILS(fm_open(path_of("renamed"), 0, NULL), NULL, EBUSY);
	assert_non_null(fm_malloc(heap, 100));
	close_checked(heap);
	heap = fm_open_fd(fd, 0, NULL);
	assert_non_null(heap);
	close_checked(heap);
	close(fd);
}

static void busy_in_another_process(void **state)
{
	struct holder holder;

	(void)state;
	holder = holder_start(heap_path, FM_CREATE, 0);
	FAILS(fm_open(heap_path, 0, NULL), NULL, EBUSY);
	FAILS(fm_open(heap_path, FM_CREATE, NULL), NULL, EBUSY);
	FAILS(fm_open(heap_path, FM_RDONLY, NULL), NULL, EBUSY);
	FAILS(fm_open(heap_path, FM_CREATE | FM_EXCL, NULL), NULL, EEXIST);
	holder_stop(&holder);
	close_checked(open_or_fail(heap_path, 0, NULL));
}

static void readers_beside_each_other(void **state)
{
	struct holder first, second;
	fm_heap *heap;

	(void)state;
	close_checked(create_heap());
	first = holder_start(heap_path, FM_RDONLY, 0);
	second = holder_start(heap_path, FM_RDONLY, 0);
	heap = open_or_fail(heap_path, FM_RDONLY, NULL);
	assert_int_equal(fm_close(heap), 0);
	FAILS(fm_open(heap_path, 0, NULL), NULL, EBUSY);
	holder_stop(&first);
	FAILS(fm_open(heap_path, 0, NULL), NULL, EBUSY);
	holder_stop(&second);
	close_checked(open_or_fail(heap_path, 0, NULL));
}

static void waiting_times_out(void **state)
{
	struct fm_options options = { .size = sizeof options, .wait_ms = 300 };
	struct holder holder;
	uint64_t start;

	(void)state;
	holder = holder_start(heap_path, FM_CREATE, 0);
	start = now_ms();
	FAILS(fm_open(heap_path, FM_WAIT, &options), NULL, ETIMEDOUT);
	assert_in_range(now_ms() - start, 290, 5000);
	holder_stop(&holder);
}

static void waiting_ends_when_it_is_free(void **state)
{
	struct fm_options options = { .size = sizeof options, .wait_ms = 20000 };
	struct holder holder;
	uint64_t start;

	(void)state;
	for (unsigned limited = 0; limited < 2; limited++) {
		holder = holder_start(heap_path, FM_CREATE, 300);
		start = now_ms();
		close_checked(open_or_fail(heap_path, FM_WAIT, limited ? &options : NULL));
		assert_in_range(now_ms() - start, 100, 15000);
		holder_stop(&holder);
	}
}

static void on_alarm(int signal_no)
{
	(void)signal_no;
}

static void waiting_is_interrupted(void **state)
{
	struct itimerval timer = { { 0, 50000 }, { 0, 150000 } }, none = { { 0, 0 }, { 0, 0 } };
	struct sigaction action = { .sa_handler = on_alarm }, before;
	struct holder holder;
	uint64_t start;

	(void)state;
	holder = holder_start(heap_path, FM_CREATE, 0);
	assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
	start = now_ms();
	assert_int_equal(setitimer(ITIMER_REAL, &timer, NULL), 0);
	FAILS(fm_open(heap_path, FM_WAIT, NULL), NULL, EINTR);
	assert_int_equal(setitimer(ITIMER_REAL, &none, NULL), 0);
	assert_in_range(now_ms() - start, 50, 5000);
	assert_int_equal(sigaction(SIGALRM, &before, NULL), 0);
	holder_stop(&holder);
}

/* ---------------------------------------------------------------- damaged and unclean */

static void flip(const char *path, off_t offset)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	unsigned char byte;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &byte, 1, offset), 1);
	byte = (unsigned char)~byte;
	assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
	assert_int_equal(close(fd), 0);
}

/* The superblock stands at 0 and at 8 KiB (docs/format.md). */
static void both_superblocks_damaged(void **state)
{
	(void)state;
	close_checked(create_heap());
	for (off_t at = 32; at < 64; at += 7) {
		flip(heap_path, at);
		flip(heap_path, 8192 + at);
		FAILS(fm_open(heap_path, 0, NULL), NULL, EBADMSG);
		FAILS(fm_open(heap_path, FM_CREATE, NULL), NULL, EBADMSG);
		FAILS(fm_open(heap_path, FM_RDONLY, NULL), NULL, EBADMSG);
		flip(heap_path, at);
		flip(heap_path, 8192 + at);
	}
	close_checked(open_or_fail(heap_path, 0, NULL));
}

static void a_file_cut_short(void **state)
{
	fm_heap *heap = create_heap();
	struct stat st;

	(void)state;
	for (unsigned i = 0; i < 10; i++)
		assert_non_null(fm_malloc(heap, 1 * MIB));
	close_checked(heap);
	assert_int_equal(stat(heap_path, &st), 0);
	for (off_t len = st.st_size - 65536; len > 65536; len /= 2) {
		copy_file(heap_path, path_of("cut.fm"));
		assert_int_equal(truncate(path_of("cut.fm"), len), 0);
		FAILS(fm_open(path_of("cut.fm"), 0, NULL), NULL, EBADMSG);
		FAILS(fm_open(path_of("cut.fm"), FM_CREATE, NULL), NULL, EBADMSG);
		FAILS(fm_open(path_of("cut.fm"), FM_RDONLY, NULL), NULL, EBADMSG);
		assert_int_equal(stat(path_of("cut.fm"), &st), 0);
		assert_int_equal(st.st_size, len);
	}
}

static void a_copy_made_while_in_use(void **state)
{
	fm_heap *heap = create_heap();
	void *p = fm_malloc(heap, 100);

	(void)state;
	assert_int_equal(fm_root_set(heap, "it", p, 1), 0);
	copy_file(heap_path, path_of("copy.fm"));
	copy_file(heap_path, path_of("second.fm"));
	close_checked(heap);
	FAILS(fm_open(path_of("copy.fm"), 0, NULL), NULL, EUCLEAN);
	FAILS(fm_open(path_of("copy.fm"), FM_CREATE, NULL), NULL, EUCLEAN);
	heap = open_or_fail(path_of("copy.fm"), FM_RECOVER, NULL);
	assert_non_null(fm_root_get(heap, "it", 1));
	assert_int_equal(live_objects(heap), 1);
	close_checked(heap);
	close_checked(open_or_fail(path_of("copy.fm"), 0, NULL));
	FAILS(fm_open(path_of("second.fm"), 0, NULL), NULL, EUCLEAN);
	assert_int_equal(setenv("FMALLOC_RECOVER", "1", 1), 0);
	heap = fm_open(path_of("second.fm"), 0, NULL);
	assert_int_equal(unsetenv("FMALLOC_RECOVER"), 0);
	assert_non_null(heap);
	assert_non_null(fm_root_get(heap, "it", 1));
	close_checked(heap);
	// a copy of a closed heap is a heap
	copy_file(heap_path, path_of("third.fm"));
	heap = open_or_fail(path_of("third.fm"), 0, NULL);
	assert_int_equal(live_objects(heap), 1);
	close_checked(heap);
}

static void open_and_die(void)
{
	fm_heap *heap = fm_open(heap_path, FM_CREATE, NULL);
	char *p;

	NEED(heap);
	for (unsigned i = 0; i < 1000; i++) {
		p = fm_malloc(heap, 100 + i);
		NEED(p);
		memset(p, (int)i, 100 + i);
	}
	NEED(fm_root_set(heap, "last", p, 0) == 0);
}

static void open_and_leave_by_exit(void)
{
	open_and_die();
	exit(0);
}

static void open_and_leave_unsynced(void)
{
	struct fm_options options = { .size = sizeof options, .disable = FM_NO_EXIT_SYNC };

	NEED(fm_open(heap_path, FM_CREATE, &options));
	exit(0);
}

static void a_process_that_ends_without_closing(void **state)
{
	fm_heap *heap;

	(void)state;
	for (size_t run = 1; run <= 3; run++) {
		in_child(open_and_die);
		heap = open_or_fail(heap_path, 0, NULL);
		assert_int_equal(live_objects(heap), run * 1000);
		assert_non_null(fm_root_get(heap, "last", 0));
		close_checked(heap);
	}
}

/* A normal exit marks the heap clean: another file of the same contents needs no recovery. */
static void a_normal_exit_leaves_it_clean(void **state)
{
	(void)state;
#if defined(__SANITIZE_THREAD__)
	print_message("# the sanitizer's own thread is there at exit\n");
	skip();
#endif
	in_child(open_and_leave_by_exit);
	copy_file(heap_path, path_of("copy.fm"));
	close_checked(open_or_fail(path_of("copy.fm"), 0, NULL));
	in_child(open_and_leave_unsynced);
	copy_file(heap_path, path_of("copy.fm"));
	FAILS(fm_open(path_of("copy.fm"), 0, NULL), NULL, EUCLEAN);
	close_checked(open_or_fail(heap_path, 0, NULL));
}

static pid_t left_child;

/* A process that is killed while a child of it lives on. */
static void die_before_the_child(unsigned disable)
{
	struct fm_options options = { .size = sizeof options, .disable = disable };
	int ready[2], status;
	pid_t pid;
	char byte;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		NEED(fm_open(heap_path, FM_CREATE, &options));
		pid_t child = fork();

		NEED(child >= 0);
		if (child == 0) {
			pid_t self = getpid();

			NEED(write(ready[1], &self, sizeof self) == sizeof self);
			NEED(write(ready[1], "x", 1) == 1);
			sleep(60);
			_exit(0);
		}
		sleep(60);
		_exit(0);
	}
	assert_int_equal(read(ready[0], &left_child, sizeof left_child), sizeof left_child);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(ready[0]);
	close(ready[1]);
}

static void fork_and_the_lock(void **state)
{
	(void)state;
	die_before_the_child(0);
	close_checked(open_or_fail(heap_path, 0, NULL));
	assert_int_equal(kill(left_child, SIGKILL), 0);
	die_before_the_child(FM_NO_ATFORK);
	FAILS(fm_open(heap_path, 0, NULL), NULL, EBUSY);
	assert_int_equal(kill(left_child, SIGKILL), 0);
	close_checked(open_or_fail(heap_path, FM_WAIT, NULL));
}

/* ---------------------------------------------------------------- main */

int main(void)
{
	const struct CMUnitTest tests[] = {
		API_TEST(a_missing_file_is_created),
		API_TEST(excl_refuses_what_exists),
		API_TEST(permissions_are_as_asked_for),
		API_TEST(a_file_of_zeros_becomes_a_heap),
		API_TEST(a_sparse_file_of_zeros_becomes_a_heap),
		API_TEST(max_size_below_the_file),
		API_TEST(longer_options),
		API_TEST(foreign_files_are_refused),
		API_TEST(heaps_of_the_original_are_refused_by_name),
		API_TEST(what_open_refuses),
		API_TEST(no_descriptors_left),
		API_TEST(closed_standard_descriptors_stay_closed),
		API_TEST(no_descriptor_leaks),
		API_TEST(busy_in_the_same_process),
		API_TEST(busy_in_another_process),
		API_TEST(readers_beside_each_other),
		API_TEST(waiting_times_out),
		API_TEST(waiting_ends_when_it_is_free),
		API_TEST(waiting_is_interrupted),
		API_TEST(both_superblocks_damaged),
		API_TEST(a_file_cut_short),
		API_TEST(a_copy_made_while_in_use),
		API_TEST(a_process_that_ends_without_closing),
		API_TEST(a_normal_exit_leaves_it_clean),
		API_TEST(fork_and_the_lock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
