/* SPDX-License-Identifier: Apache-2.0 */
#include "../alloc/roots.h"

#include "../base/status.h"
#include "registry.h"

#include <errno.h>

int fm_root_set(fm_heap *handle, const char *name, void *p, uint64_t type_tag)
{
	struct heap *heap = registry_usable(handle);
	uint64_t off = 0;

	if (!heap)
		return -1;
	if (p) {
		off = (uint64_t)((uint8_t *)p - heap->store.base);
		if (off == 0 || off >= heap_size(heap))
			return fail(EINVAL, "%p does not lie in this heap", p);
	}
	return roots_put(heap, name, off, type_tag);
}

void *fm_root_get(fm_heap *handle, const char *name, uint64_t type_tag)
{
	struct heap *heap = registry_usable(handle);
	uint64_t target, tag;

	if (!heap || roots_find(heap, name, &target, &tag))
		return NULL;
	if (tag != type_tag)
		return fail(EPROTOTYPE, "root '%s' has type tag 0x%llx, not 0x%llx", name, (unsigned long long)tag,
		            (unsigned long long)type_tag), NULL;
	if (target >= heap_size(heap))
		return fail(EFAULT, "the object of root '%s' was freed, and is beyond the file's end", name), NULL;
	errno = 0;
	return roots_target(heap, target);
}

int fm_root_remove(fm_heap *handle, const char *name)
{
	struct heap *heap = registry_usable(handle);

	return heap ? roots_remove(heap, name) : -1;
}

int fm_root_each(fm_heap *handle,
                 int (*visit)(const char *name, void *p, uint64_t type_tag, void *arg), void *arg)
{
	struct heap *heap = registry_usable(handle);

	if (!heap)
		return -1;
	if (!visit)
		return fail(EINVAL, "fm_root_each needs a function to call");
	return roots_each(heap, visit, arg);
}
