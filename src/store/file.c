/* SPDX-License-Identifier: Apache-2.0
 *
 * Finding, making and locking the heap file.
 *
 * A heap never becomes visible half made: it is built without a name, its superblock written last, and
 * then linked to its path, which fails if the path exists by then. An existing file of zeros becomes a
 * heap by the write of its superblock alone.
 */
#include "../base/bits.h"
#include "../base/status.h"
#include "store.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

/* On the stack, which in threads may have as little as 32 KiB. */
#define SCAN_CHUNK ((size_t)4096)

/* Times that the path may change under our hands before we give up. */
#define MAX_TRIES 100

/* Times that a path may be missing for opening and taken for creating: a dangling symbolic link is for ever. */
#define MAX_CONTRADICTIONS 3

static const char *name_of(const struct store_request *request)
{
	return request->path ? request->path : "the descriptor";
}

/* The folder of `path` into `dir` of PATH_MAX bytes. */
static int folder_of(const char *path, char *dir)
{
	const char *slash = strrchr(path, '/');
	size_t len = slash ? (size_t)(slash - path) : 0;

	if (strlen(path) >= PATH_MAX)
		return fail(ENAMETOOLONG, "the path is longer than %d bytes", PATH_MAX);
	if (!slash)
		strcpy(dir, ".");
	else if (len == 0)
		strcpy(dir, "/");
	else {
		memcpy(dir, path, len);
		dir[len] = 0;
	}
	return 0;
}

/* The lock, when it comes free. A signal between two sleeps counts as one that comes in the next: it is held until
 * then. */
static int wait_for_lock(int lock_fd, const struct store_request *request, const sigset_t *before)
{
	uint64_t start = os->now_ms();
	unsigned pause_ms = 1;
	int r;

	while ((r = os->lock(lock_fd, !request->read_only)) == -EWOULDBLOCK) {
		if (request->wait_ms && os->now_ms() - start >= (uint64_t)request->wait_ms)
			return fail(ETIMEDOUT, "%s is still in use after %d ms", name_of(request), request->wait_ms);
		if (os->sleep_ms(pause_ms, before) == -EINTR)
			return fail(EINTR, "a signal came while waiting for %s", name_of(request));
		if (pause_ms < 16)
			pause_ms *= 2;
	}
	return r ? fail(-r, "locking %s:", name_of(request)) : 0;
}

static int lock_file(int lock_fd, const struct store_request *request)
{
	sigset_t before;
	int r = os->lock(lock_fd, !request->read_only), saved;

	if (r == -EWOULDBLOCK && !request->wait)
		return fail(EBUSY, "%s is in use by another heap handle or process", name_of(request));
	if (r != -EWOULDBLOCK)
		return r ? fail(-r, "locking %s:", name_of(request)) : 0;
	os->hold_signals(&before);
	r = wait_for_lock(lock_fd, request, &before);
	saved = errno;
	os->release_signals(&before); /* handlers may run here */
	errno = saved;
	return r;
}

/* Are all bytes of the file zero? 1, 0, or -errno. */
static int is_all_zero(int fd, uint64_t size)
{
	uint64_t chunk[SCAN_CHUNK / 8];
	uint64_t off = 0;

	while (off < size) {
		ssize_t n;
		int r = os->next_data(fd, &off);

		if (r == -ENXIO)
			return 1;
		/* a file system that cannot tell: read it all */
		off = round_down(off, LENGTH_PAGE);
		n = os->pread_full(fd, chunk, sizeof(chunk), off);
		if (n < 0)
			return (int)n;
		if (n == 0)
			return 1;
		if ((size_t)n < sizeof(chunk))
			memset((char *)chunk + n, 0, sizeof(chunk) - (size_t)n);
		for (size_t i = 0; i < SCAN_CHUNK / 8; i++)
			if (chunk[i])
				return 0;
		off += (uint64_t)n;
	}
	return 1;
}

/* Written once, the extent is overwritten in place: a synchronous write into an unwritten one costs double. */
static int zero_journal(const struct store *store)
{
	static uint8_t zeros[FIRST_JOURNAL_LEN];

	return os->pwrite_full(store->fd, zeros, sizeof(zeros), FIRST_JOURNAL_OFF);
}

/* Turn the locked, all-zero file into an empty heap: everything but the superblock, which comes last. */
static int make_heap(struct store *store, const struct store_request *request)
{
	struct super_rec rec;
	uint8_t uuid[16];
	int (*write)(int fd, const void *buf, size_t len, uint64_t off);
	uint64_t size = max_u64(round_up(min_u64(store->size, UINT64_MAX / 2), UNIT_SIZE), HEAP_MIN_SIZE);
	int r = os->random(uuid, sizeof(uuid));

	if (r)
		return fail(-r, "getrandom:");
	if (request->max_size && request->max_size < HEAP_MIN_SIZE)
		return fail(EINVAL, "max_size is less than the %d KiB of an empty heap", (int)(HEAP_MIN_SIZE / KIB));
	if (size > os->file_size_limit())
		return fail(EFBIG, "the file size limit is less than an empty heap");
	os->no_copy_on_write(store->fd);
	r = os->allocate(store->fd, 0, HEAP_MIN_SIZE);
	if (r == -EOPNOTSUPP)
		r = 0; /* store_extend finds out again and writes zeros */
	if (!r && store->size < size)
		r = os->truncate(store->fd, size);
	if (r)
		return fail(-r, "allocating the first blocks of %s:", name_of(request));
	store->size = size;
	super_init(&rec, uuid);
	store_stamp(store, &rec);
	if (store->is_atomic) {
		rec.kind = SUPER_ATOMIC;
		rec.journal_oldest = 1;
	}
	if (store_map_new(store, &rec, request->address_space, request->max_size))
		return -1;
	r = store_back(store, 0, HEAP_MIN_SIZE);
	if (!r && store->is_atomic)
		r = zero_journal(store);
	if (!r && !request->no_sync)
		r = os->sync(store->fd);
	super_seal(&rec);
	write = request->no_sync ? os->pwrite_full : os->pwrite_sync;
	if (!r)
		r = write(store->fd, &rec, sizeof(rec), SUPER_COPY_1_OFF);
	if (!r)
		r = write(store->fd, &rec, sizeof(rec), SUPER_COPY_2_OFF);
	if (r) {
		store_unmap(store);
		return fail(-r, "writing the first superblock of %s:", name_of(request));
	}
	store->super.rec = rec;
	store->super.copy = 1;
	store->super.both_valid = true;
	store->created = true;
	store->is_marked = true;
	return 0;
}

/* A name beside `path` that nobody has. 0 or -errno. */
static int temporary_name(char name[STORE_NAME_MAX], const char *path)
{
	uint64_t number;
	int r = os->random(&number, sizeof(number));

	if (!r)
		snprintf(name, STORE_NAME_MAX, "%s.%016llx", path, (unsigned long long)number);
	return r;
}

/* The lock's description, of the file `path` or, if that is NULL, of `fd`, with the file's identity: a child forked at any
 * time has neither of the two or both, and closes the descriptor. 0 or -errno. */
static int open_lock(struct store *store, const char *path, int fd, bool writable)
{
	struct os_stat st;
	int r;

	store_lock_descriptors();
	store->lock_fd = path ? os->open(path, writable) : os->reopen(fd, writable);
	r = store->lock_fd < 0 ? store->lock_fd : os->stat_fd(store->lock_fd, &st);
	if (!r)
		store->id = st.id;
	store_unlock_descriptors();
	return r;
}

int store_create_unnamed(struct store *store, const struct store_request *request, char temporary[STORE_NAME_MAX])
{
	char dir[PATH_MAX];
	mode_t mode = request->mode ? request->mode : 0600;
	int r;

	temporary[0] = 0;
	store->fd = store->lock_fd = -1;
	if (folder_of(request->path, dir))
		return -1;
	store->fd = os->create_unnamed(dir, mode);
	r = store->fd < 0 ? store->fd : open_lock(store, NULL, store->fd, true);
	if (store->fd == -EOPNOTSUPP || store->fd == -EISDIR || (store->fd >= 0 && store->lock_fd < 0)) {
		/* no unnamed files here, or no /proc to link them by */
		if (store->fd >= 0)
			os->close(store->fd);
		r = temporary_name(temporary, request->path);
		store->fd = r ? r : os->create_named(temporary, mode);
		r = store->fd < 0 ? store->fd : open_lock(store, temporary, -1, true);
	}
	return r ? fail(-r, "creating %s:", request->path) : 0;
}

int store_sync_folder(const char *path)
{
	char dir[PATH_MAX];
	int r = folder_of(path, dir) ? -ENAMETOOLONG : os->sync_dir(dir);

	/* a folder that can't be read, or a file system that can't sync folders: nothing to be done */
	return r == -EACCES || r == -EPERM || r == -EINVAL || r == -EOPNOTSUPP ? 0 : r;
}

int store_publish(struct store *store, const struct store_request *request, const char *temporary)
{
	int r = *temporary ? os->link_named(temporary, request->path)
	                   : os->link_unnamed(store->fd, request->path);

	if (r)
		return r;
	r = store_sync_folder(request->path);
	if (r == 0)
		return 0;
	os->unlink(request->path);
	return r;
}

/* Create the heap at request->path. 1: somebody else was faster, open theirs. */
static int create_file(struct store *store, const struct store_request *request)
{
	char temporary[STORE_NAME_MAX];
	int r;

	if (store_create_unnamed(store, request, temporary))
		goto undo;
	store->size = 0;
	/* locked before it has a name: nobody can come in between */
	if (lock_file(store->lock_fd, request) || make_heap(store, request))
		goto undo;
	r = store_publish(store, request, temporary);
	if (!r)
		return 0;
	store_unmap(store);
	if (r == -EEXIST && !request->exclusive) {
		store_close_file(store);
		return 1;
	}
	fail(-r, "linking the new heap to %s:", request->path);
undo:
	if (store->fd >= 0 && *temporary) {
		int saved = errno;

		os->unlink(temporary);
		errno = saved;
	}
	store_close_file(store);
	return -1;
}

/* Open the existing file: two descriptions of the same file, locked. 1: the path changed, start again; 2: there
 * is no file, and it is to be created. */
static int open_existing(struct store *store, const struct store_request *request)
{
	struct os_stat st, path_st;
	bool writable = !request->read_only;
	int r;

	store->fd = request->path ? os->open(request->path, writable) : os->reopen(request->fd, writable);
	if (store->fd == -ENOENT && request->create && request->path)
		return 2;
	if (store->fd < 0 && !request->path)
		return fail(-store->fd, "opening the descriptor's file anew, by /proc/self/fd:");
	if (store->fd < 0)
		return fail(-store->fd, "opening %s:", name_of(request));
	r = open_lock(store, request->path, request->fd, writable);
	if (!r)
		r = os->stat_fd(store->fd, &st);
	if (r) {
		fail(-r, "opening %s:", name_of(request));
		goto undo;
	}
	if (!st.is_regular) {
		fail(EINVAL, "%s is not a regular file", name_of(request));
		goto undo;
	}
	if (!store_is_same_file(&st.id, &store->id)) {
		store_close_file(store);
		return 1;
	}
	if (lock_file(store->lock_fd, request))
		goto undo;
	if (request->path) {
		r = os->stat_path(request->path, &path_st);
		if (r == -ENOENT || (!r && !store_is_same_file(&st.id, &path_st.id))) {
			store_close_file(store);
			return 1;
		}
	}
	r = os->stat_fd(store->fd, &st); /* the size may have changed while we waited */
	if (r) {
		fail(-r, "opening %s:", name_of(request));
		goto undo;
	}
	store->size = st.size;
	return 0;
undo:
	store_close_file(store);
	return -1;
}

/* Read the superblock of the locked file, or make the file a heap. */
static int take_file(struct store *store, const struct store_request *request)
{
	enum super_verdict verdict;
	int r = super_read(store->fd, store->size, &store->super, &verdict);

	if (r)
		return fail(-r, "reading %s:", name_of(request));
	if (verdict == SUPER_EMPTY) {
		r = is_all_zero(store->fd, store->size);
		if (r < 0)
			return fail(-r, "reading %s:", name_of(request));
		if (r == 0)
			verdict = SUPER_FOREIGN;
		else if (!request->create || request->read_only)
			return fail(EILSEQ, "%s is %s; FM_CREATE would make it a heap", name_of(request),
			            store->size ? "all zeros" : "empty");
		else
			return make_heap(store, request);
	}
	switch (verdict) {
	case SUPER_ORIGINAL:
		return fail(EILSEQ, "%s is a heap of the original fmalloc (another format); it is left as it is",
		            name_of(request));
	case SUPER_DAMAGED:
		return fail(EBADMSG, "%s is a heap whose superblock is damaged in both copies", name_of(request));
	case SUPER_UNKNOWN:
		return fail(ENOTSUP, "%s is a heap of a newer format than this library knows", name_of(request));
	case SUPER_OK:
		break;
	default:
		return fail(EILSEQ, "%s is not a heap; it is left as it is", name_of(request));
	}
	store->is_atomic = store->super.rec.kind == SUPER_ATOMIC;
	if (store->is_atomic != request->atomic && !request->convert)
		return fail(EPROTOTYPE, "%s is %s; FM_CONVERT would change that", name_of(request),
		            store->is_atomic ? "an atomic heap, to be opened with FM_ATOMIC"
		                             : "a live heap, to be opened without FM_ATOMIC");
	if (store->super.rec.ro_compat & ~SUPER_RO_COMPAT && !request->read_only)
		return fail(ENOTSUP, "%s has features this library may only read: use FM_RDONLY", name_of(request));
	return 0;
}

/* As it is before the first step. */
static void reset(struct store *store, const struct store_request *request)
{
	store_lock_descriptors();
	memset(store, 0, sizeof(*store));
	store->fd = store->lock_fd = -1;
	store_unlock_descriptors();
	store->read_only = request->read_only;
	store->is_atomic = request->atomic;
	store->no_sync = request->no_sync;
}

int store_open_file(struct store *store, const struct store_request *request)
{
	unsigned tries = 0, contradictions = 0;
	int r;

	do {
		if (tries++ == MAX_TRIES || contradictions == MAX_CONTRADICTIONS)
			return fail(ENOENT, "%s keeps changing, or is a dangling link", name_of(request));
		reset(store, request);
		store_learn_boot(store);
		if (store->boot_error && !request->read_only)
			return store_boot_unknown(store);
		if (request->exclusive) {
			struct os_stat st;

			r = os->stat_path(request->path, &st);
			if (r != -ENOENT)
				return r ? fail(-r, "creating %s:", request->path)
				         : fail(EEXIST, "%s exists", request->path);
			r = create_file(store, request);
		} else {
			r = open_existing(store, request);
			if (r == 0 && take_file(store, request)) {
				store_close_file(store);
				return -1;
			}
			if (r == 2) {
				r = create_file(store, request);
				contradictions += r == 1;
			}
		}
	} while (r == 1);
	if (r)
		return -1;
	store->super.no_sync = store->no_sync;
	return 0;
}

void store_close_file(struct store *store)
{
	int saved = errno;

	if (store->lock_fd >= 0) {
		/* a child that was forked a moment ago may have the description still */
		if (store_is_ours(store, store->lock_fd))
			os->unlock(store->lock_fd);
	}
	store_close_lock(store);
	store_close_fd(store);
	errno = saved;
}
