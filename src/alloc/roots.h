/* SPDX-License-Identifier: Apache-2.0
 *
 * Named roots. The table is an object of words, each 0 or the offset of a record that never changes; a root is
 * published, replaced and removed by one store of its word. The table grows by a copy, switched by the store
 * of its offset in the truth page. A kill in between leaks the new record or table, nothing else.
 */
#ifndef FM_ALLOC_ROOTS_H
#define FM_ALLOC_ROOTS_H

#include "heap.h"

/* 0, or -1 after fail(). `target` is an offset, 0 for NULL. */
int roots_put(struct heap *heap, const char *name, uint64_t target, uint64_t type_tag);
int roots_find(struct heap *heap, const char *name, uint64_t *target, uint64_t *type_tag);

/* The target's address. NULL also if the object was freed and the file has become shorter since. */
void *roots_target(const struct heap *heap, uint64_t target);

int roots_remove(struct heap *heap, const char *name);
int roots_each(struct heap *heap, int (*visit)(const char *, void *, uint64_t, void *), void *arg);

/* The offsets of the table and the records, as a set. */
struct roots_set {
	uint64_t *slot; /* open addressing */
	uint64_t slots; /* a power of two, or 0 */
};

int roots_set_make(struct heap *heap, struct roots_set *set);
bool roots_set_has(const struct roots_set *set, uint64_t off);
void roots_set_drop(struct roots_set *set);

#endif
