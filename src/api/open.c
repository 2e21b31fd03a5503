/* SPDX-License-Identifier: Apache-2.0 */
#include "../alloc/alloc.h"
#include "../base/status.h"
#include "process.h"
#include "registry.h"
#include "sizes.h"
#include "target.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ALL_FLAGS   (FM_CREATE | FM_EXCL | FM_RDONLY | FM_FIXED | FM_WAIT | FM_RECOVER | FM_ATOMIC | FM_CONVERT | \
	FM_DECLARED)
#define ALL_DISABLE (FM_NO_EXIT_SYNC | FM_NO_ATFORK | FM_NO_SYNC | FM_NO_CHECKPOINT)

/* What a program frees it mostly needs again within seconds. */
#define DECAY_MS 10000

static bool is_zero_behind(const uint8_t *bytes, size_t from, size_t to)
{
	while (from < to && bytes[from] == 0)
		from++;
	return from >= to;
}

/* The caller's options, with zeros for what its version of the struct does not have. */
static int read_options(struct fm_options *out, const struct fm_options *in)
{
	memset(out, 0, sizeof(*out));
	if (!in)
		return 0;
	if (in->size < sizeof(in->size))
		return fail(EINVAL, "fm_options.size is not set");
	/* what a newer version has and asks for, and what is no size at all */
	if (in->size > FM_STRUCT_MAX || !is_zero_behind((const uint8_t *)in, sizeof(*out), in->size))
		return fail(EINVAL, "fm_options has members that this version does not know");
	memcpy(out, in, in->size < sizeof(*out) ? in->size : sizeof(*out));
	if (out->disable & ~ALL_DISABLE || out->wait_ms < 0 || out->decay_ms < -1 ||
	    (out->sector != 0 && out->sector != 64 && out->sector != 512 && out->sector != 4096))
		return fail(EINVAL, "fm_options has a value that this version does not know");
	return 0;
}

static fm_heap *open_heap(const char *path, int fd, unsigned flags, const struct fm_options *options)
{
	struct store_request request = {
		.path = path,
		.fd = fd,
		.create = flags & FM_CREATE,
		.exclusive = flags & FM_EXCL,
		.read_only = flags & FM_RDONLY,
		.fixed = flags & FM_FIXED,
		.wait = flags & FM_WAIT,
		.recover = flags & FM_RECOVER,
		.atomic = flags & FM_ATOMIC,
		.convert = flags & FM_CONVERT,
		.declared = flags & FM_DECLARED,
		.track = flags & FM_ATOMIC ? getenv("FMALLOC_TRACK") : NULL,
	};
	struct fm_options given;
	struct heap *heap;
	uint64_t *alive;
	int r, cancel;

	if (flags & ~ALL_FLAGS)
		return fail(EINVAL, "flags 0x%x are not known", flags & ~ALL_FLAGS), NULL;
	if (flags & FM_EXCL && (!(flags & FM_CREATE) || !path))
		return fail(EINVAL, "FM_EXCL goes with FM_CREATE and a path"), NULL;
	if (flags & FM_RDONLY && flags & FM_CONVERT)
		return fail(EINVAL, "FM_RDONLY and FM_CONVERT exclude each other"), NULL;
	if (flags & FM_DECLARED && !(flags & FM_ATOMIC))
		return fail(EINVAL, "FM_DECLARED goes with FM_ATOMIC"), NULL;
	if (flags & FM_RDONLY && flags & FM_CREATE)
		return fail(EINVAL, "FM_RDONLY and FM_CREATE exclude each other"), NULL;
	if (read_options(&given, options))
		return NULL;
	if (flags & FM_ATOMIC && given.disable & FM_NO_SYNC)
		return fail(EINVAL, "FM_NO_SYNC and FM_ATOMIC exclude each other"), NULL;
	request.max_size = given.max_size;
	request.address_space = given.address_space;
	request.mode = given.mode;
	request.wait_ms = given.wait_ms;
	request.no_sync = given.disable & FM_NO_SYNC;
	request.sector = given.sector;
	request.commit_at_close = given.commit_at_close;
	request.journal_max = given.journal_max;
	request.keep_max = given.keep_max;
	request.no_thread = given.disable & FM_NO_CHECKPOINT;
	if (process_prepare(given.disable))
		return NULL;
	heap = registry_take(&alive);
	if (!heap)
		return NULL;
	heap->disable = given.disable;
	heap->decay_ms = given.decay_ms ? given.decay_ms : DECAY_MS;
	/* it has cancellation points, and locks to give back */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	r = heap_open(heap, &request, alive);
	if (r) {
		int saved = errno;

		registry_give(heap);
		errno = saved;
	} else {
		registry_publish(heap);
		target_refresh();
	}
	pthread_setcancelstate(cancel, NULL);
	return r ? NULL : &heap->pub;
}

fm_heap *fm_open(const char *path, unsigned flags, const struct fm_options *options)
{
	if (!path)
		return fail(EINVAL, "the path is NULL"), NULL;
	return open_heap(path, -1, flags, options);
}

fm_heap *fm_open_fd(int fd, unsigned flags, const struct fm_options *options)
{
	if (fd < 0)
		return fail(EBADF, "%d is no descriptor", fd), NULL;
	return open_heap(NULL, fd, flags, options);
}

struct fm_info *fmalloc_init(const char *filepath, bool *init)
{
	fm_heap *handle = fm_open(filepath, FM_CREATE, NULL);

	if (!handle)
		return NULL;
	if (init)
		*init = heap_of_handle(handle)->store.created;
	return handle;
}

int fm_close(fm_heap *handle)
{
	struct heap *heap = registry_usable(handle);
	int r, saved, cancel;

	if (!heap)
		return -1;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	target_forget(heap);
	registry_withdraw(heap);
	r = heap_close(heap);
	saved = errno;
	registry_give(heap);
	target_refresh();
	pthread_setcancelstate(cancel, NULL);
	errno = saved;
	return r;
}

int fm_sync(fm_heap *handle)
{
	struct heap *heap = registry_usable(handle);

	int r, cancel;

	if (!heap)
		return -1;
	if (heap->read_only)
		return 0;
	if (heap->store.is_atomic)
		return fm_commit(handle);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	r = store_sync(&heap->store);
	pthread_setcancelstate(cancel, NULL);
	return r;
}

int fm_trim(fm_heap *handle, size_t keep_bytes)
{
	struct heap *heap = registry_usable(handle);
	int r, cancel;

	if (!heap)
		return -1;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	r = alloc_trim(heap, keep_bytes);
	pthread_setcancelstate(cancel, NULL);
	return r;
}

const char *fm_last_error(void)
{
	return status_text();
}
