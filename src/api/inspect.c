/* SPDX-License-Identifier: Apache-2.0 */
#include "../alloc/audit.h"
#include "../alloc/walk.h"
#include "../base/status.h"
#include "registry.h"
#include "sizes.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

int fm_stats(fm_heap *handle, struct fm_statistics *stats)
{
	struct heap *heap = registry_usable(handle);
	struct fm_statistics all = {.size = sizeof(all)};
	size_t size;
	int r, cancel;

	if (!heap)
		return -1;
	if (!stats || stats->size < sizeof(stats->size) || stats->size > FM_STRUCT_MAX)
		return fail(EINVAL, "fm_stats.size is not set");
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	r = walk_stats(heap, &all);
	pthread_setcancelstate(cancel, NULL);
	if (r)
		return -1;
	size = stats->size;
	memcpy(stats, &all, size < sizeof(all) ? size : sizeof(all));
	if (size > sizeof(all))
		memset((char *)stats + sizeof(all), 0, size - sizeof(all));
	stats->size = size;
	return 0;
}

struct visitor {
	struct heap *heap;
	int (*visit)(void *p, size_t usable_size, void *arg);
	void *arg;
};

static int pass_on(const struct object *object, void *arg)
{
	const struct visitor *visitor = arg;

	return visitor->visit(visitor->heap->store.base + object->off, object->len, visitor->arg);
}

int fm_walk(fm_heap *handle, int (*visit)(void *p, size_t usable_size, void *arg), void *arg)
{
	struct heap *heap = registry_usable(handle);
	struct visitor visitor = {heap, visit, arg};
	int r, cancel;

	if (!heap)
		return -1;
	if (!visit)
		return fail(EINVAL, "fm_walk needs a function to call");
	/* it has memory that a cancelled `visit` would leave behind */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	r = walk_objects(heap, pass_on, &visitor);
	pthread_setcancelstate(cancel, NULL);
	return r;
}

long fm_check(fm_heap *handle, void (*finding)(const struct fm_finding *, void *), void *arg)
{
	struct heap *heap = registry_usable(handle);
	struct audit audit = {.heap = heap, .finding = finding, .arg = arg};
	int cancel;

	if (!heap)
		return -1;
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	audit_heap(&audit);
	audit_derived(&audit);
	pthread_setcancelstate(cancel, NULL);
	return audit.count;
}
