/* SPDX-License-Identifier: Apache-2.0
 *
 * malloc for programs that know nothing of fmalloc: LD_PRELOAD=libfmalloc-preload.so.
 *
 *   family.c     malloc and its family; the fast paths are fmalloc's own
 *   heap.c       the process's heap: when and where it is made, and when it can't be
 *   bootstrap.c  memory for what allocates while the heap is being made
 *   fork.c       what a forked child gets
 *
 * Each process has a heap of its own in a file without a name, which the kernel takes away with the process however
 * it ends. Nothing is synced: the file is memory and not a store.
 */
#ifndef PRELOAD_H
#define PRELOAD_H

#include <fmalloc.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The process's heap, or NULL while it has none. */
extern fm_heap *preload_heap;

/* A call of the heap failed, with errno. Can it be asked again? Makes the heap if there is none yet. False: the
 * bootstrap arena serves, since this thread is making the heap, or none can be made. */
bool preload_is_ready(void);

/* ---- heap.c, for fork.c */

/* A file without a name where the heap's is, or in memory if that place can't be reached any more; -1 with errno. */
int preload_make_file(void);

/* `fd` is the heap's file now. It is made as long as the heap may become, without blocks: should the program close
 * the heap's descriptors, it can still grow through its mapping. */
void preload_took(int fd);

/* Bytes that the heap's file has blocks for; -1: the program has closed its descriptor. */
off_t preload_blocks(void);

/* In a child: it has no heap; the next allocation makes one. */
void preload_forget(void);

void preload_set_fork_handlers(void);

/* One line to standard error. */
void preload_complain(const char *what, const char *name, int error);

/* ---- bootstrap.c */

#define BOOTSTRAP_SIZE 65536
extern char bootstrap_arena[BOOTSTRAP_SIZE];

/* NULL with errno ENOMEM when the arena is used up. Memory is never reused, and is zero. */
void *bootstrap_alloc(size_t size, size_t alignment);
size_t bootstrap_usable_size(const void *p);

static inline bool is_bootstrap(const void *p)
{
	return (uintptr_t)p - (uintptr_t)bootstrap_arena < BOOTSTRAP_SIZE;
}

#endif
