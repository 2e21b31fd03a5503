/* SPDX-License-Identifier: Apache-2.0 */
#include "roots.h"

#include "../base/status.h"
#include "alloc.h"

#include <errno.h>
#include <string.h>

#define FIRST_CAPACITY 7 /* with its header the table is 64 bytes */

/* ---------------------------------------------------------------- reading, of a file not trusted */

/* The live object at `off`, at least `len` bytes long, or NULL after fail(). */
static void *object_at(struct heap *heap, uint64_t off, uint64_t len)
{
	struct object object;

	if (off % 8 == 0 && alloc_object_at(heap, off, &object) && object.is_live && object.off == off &&
	    object.len >= len)
		return heap->store.base + off;
	return fail(EUCLEAN, "a root's record at offset %llu is damaged", (unsigned long long)off), NULL;
}

/* The table, or NULL: none (errno 0) or damaged (after fail()). */
static struct root_table_rec *table_of(struct heap *heap)
{
	uint64_t off = truth_load(&store_truth(&heap->store)->root_table);
	struct root_table_rec *table;
	struct object object;

	errno = 0;
	if (off == 0)
		return NULL;
	table = object_at(heap, off, sizeof(*table));
	if (!table)
		return NULL;
	alloc_object_at(heap, off, &object);
	if ((object.len - sizeof(*table)) / 8 >= table->capacity)
		return table;
	return fail(EUCLEAN, "the root table is damaged"), NULL;
}

static const struct root_rec *record_at(struct heap *heap, uint64_t off)
{
	const struct root_rec *root = object_at(heap, off, sizeof(*root));

	if (!root)
		return NULL;
	if (root->name_len == 0 || root->name_len > ROOT_NAME_MAX ||
	    !object_at(heap, off, offsetof(struct root_rec, name) + root->name_len))
		return fail(EUCLEAN, "a root's record at offset %llu is damaged", (unsigned long long)off), NULL;
	return root;
}

/* Does the record at `off` seem to have this name? It is not validated yet; only bytes of the file are read. */
static bool seems_named(const struct heap *heap, uint64_t off, const char *name, size_t len)
{
	const struct root_rec *root = (const struct root_rec *)((uintptr_t)heap->store.base + off);

	return off % 8 == 0 && off < heap_size(heap) &&
	       offsetof(struct root_rec, name) + len <= heap_size(heap) - off &&
	       root->name_len == len && memcmp(root->name, name, len) == 0;
}

/* The word of the root `name`, or NULL: errno ENOENT, or EUCLEAN after fail(). *unused gets a word that
 * is 0, if there is one. */
static uint64_t *find_word(struct heap *heap, const char *name, uint64_t **unused)
{
	struct root_table_rec *table = table_of(heap);
	size_t len = strlen(name);

	*unused = NULL;
	if (!table) {
		if (errno == 0)
			errno = ENOENT;
		return NULL;
	}
	for (uint64_t i = 0; i < table->capacity; i++) {
		uint64_t off = truth_load(&table->word[i]);

		if (off == 0)
			*unused = &table->word[i];
		else if (seems_named(heap, off, name, len))
			return record_at(heap, off) ? &table->word[i] : NULL;
	}
	errno = ENOENT;
	return NULL;
}

/* ---------------------------------------------------------------- changing */

static int check_name(const char *name)
{
	size_t len = name ? strlen(name) : 0;

	if (len >= 1 && len <= ROOT_NAME_MAX)
		return 0;
	return fail(EINVAL, "a root's name has 1 to %u bytes", ROOT_NAME_MAX);
}

static uint64_t new_object(struct heap *heap, uint64_t len)
{
	bool is_zero;
	uint8_t *p = alloc_new(heap, len, 8, &is_zero);

	return p ? (uint64_t)(p - heap->store.base) : 0;
}

static void free_object(struct heap *heap, uint64_t off)
{
	enum fm_misuse_kind ignored;

	if (off)
		alloc_free(heap, heap->store.base + off, &ignored);
}

static uint64_t new_record(struct heap *heap, const char *name, uint64_t target, uint64_t type_tag)
{
	size_t len = strlen(name);
	uint64_t off = new_object(heap, offsetof(struct root_rec, name) + len);
	struct root_rec *root = (struct root_rec *)(void *)(heap->store.base + off);

	if (off == 0)
		return 0;
	store_wrote(&heap->store, root, offsetof(struct root_rec, name) + len);
	root->type_tag = type_tag;
	root->target = target;
	root->name_len = (uint32_t)len;
	memcpy(root->name, name, len);
	return off;
}

/* Make a table of twice the words; returns its first unused word, or NULL after fail(). */
static uint64_t *grow_table(struct heap *heap)
{
	struct root_table_rec *old = table_of(heap), *table;
	uint64_t old_off = truth_load(&store_truth(&heap->store)->root_table);
	uint64_t used = old ? old->capacity : 0;
	uint64_t capacity = old ? 2 * used + 1 : FIRST_CAPACITY;
	uint64_t off;

	if (!old && old_off)
		return NULL;
	off = new_object(heap, sizeof(*table) + capacity * 8);
	if (off == 0)
		return NULL;
	table = (struct root_table_rec *)(void *)(heap->store.base + off);
	store_wrote(&heap->store, table, sizeof(*table) + capacity * 8);
	memset(table, 0, sizeof(*table) + capacity * 8);
	table->capacity = capacity;
	if (used)
		memcpy(table->word, old->word, used * 8);
	truth_store(&store_truth(&heap->store)->root_table, off);
	free_object(heap, old_off);
	return &table->word[used];
}

static int put(struct heap *heap, const char *name, uint64_t target, uint64_t type_tag)
{
	uint64_t *unused;
	uint64_t *word = find_word(heap, name, &unused);
	uint64_t record, old;

	if (!word && errno != ENOENT)
		return -1;
	/* one new object at a time: a kill leaks one at most */
	if (!word)
		word = unused ? unused : grow_table(heap);
	if (!word)
		return -1;
	record = new_record(heap, name, target, type_tag);
	if (record == 0)
		return -1;
	old = truth_load(word);
	store_wrote(&heap->store, word, sizeof(*word));
	truth_store(word, record);
	free_object(heap, old);
	return 0;
}

int roots_put(struct heap *heap, const char *name, uint64_t target, uint64_t type_tag)
{
	int r;

	if (check_name(name))
		return -1;
	pthread_mutex_lock(&heap->roots_lock);
	r = put(heap, name, target, type_tag);
	pthread_mutex_unlock(&heap->roots_lock);
	return r;
}

int roots_remove(struct heap *heap, const char *name)
{
	uint64_t *unused, *word;
	int r = 0;

	if (check_name(name))
		return -1;
	if (heap->read_only)
		return fail(EROFS, "the heap is open for reading only");
	if (load_relaxed(&heap->rests) && heap_wake(heap))
		return -1;
	pthread_mutex_lock(&heap->roots_lock);
	word = find_word(heap, name, &unused);
	if (word) {
		uint64_t old = truth_load(word);

		store_wrote(&heap->store, word, sizeof(*word));
		truth_store(word, 0);
		free_object(heap, old);
	} else {
		r = errno == ENOENT ? fail(ENOENT, "there is no root '%s'", name) : -1;
	}
	pthread_mutex_unlock(&heap->roots_lock);
	return r;
}

/* ---------------------------------------------------------------- looking */

int roots_find(struct heap *heap, const char *name, uint64_t *target, uint64_t *type_tag)
{
	uint64_t *unused, *word;
	int r = 0;

	if (check_name(name))
		return -1;
	pthread_mutex_lock(&heap->roots_lock);
	word = find_word(heap, name, &unused);
	if (word) {
		const struct root_rec *root = record_at(heap, truth_load(word));

		*target = root->target;
		*type_tag = root->type_tag;
	} else {
		r = errno == ENOENT ? fail(ENOENT, "there is no root '%s'", name) : -1;
	}
	pthread_mutex_unlock(&heap->roots_lock);
	return r;
}

void *roots_target(const struct heap *heap, uint64_t target)
{
	return target && target < heap_size(heap) ? heap->store.base + target : NULL;
}

struct root_view {
	char name[ROOT_NAME_MAX + 1];
	void *p;
	uint64_t type_tag;
};

/* Read the next root at or after word *i. 1, 0 at the end, -1 after fail(). Needs roots_lock. */
static int next_root(struct heap *heap, uint64_t *i, struct root_view *view)
{
	const struct root_table_rec *table = table_of(heap);
	const struct root_rec *root;

	if (!table)
		return errno ? -1 : 0;
	while (*i < table->capacity && !truth_load(&table->word[*i]))
		++*i;
	if (*i >= table->capacity)
		return 0;
	root = record_at(heap, truth_load(&table->word[*i]));
	if (!root)
		return -1;
	memcpy(view->name, root->name, root->name_len);
	view->name[root->name_len] = 0;
	view->p = roots_target(heap, root->target);
	view->type_tag = root->type_tag;
	return 1;
}

int roots_each(struct heap *heap, int (*visit)(const char *, void *, uint64_t, void *), void *arg)
{
	struct root_view view;
	int r;

	for (uint64_t i = 0;; i++) {
		pthread_mutex_lock(&heap->roots_lock);
		r = next_root(heap, &i, &view);
		pthread_mutex_unlock(&heap->roots_lock);
		if (r != 1)
			return r;
		r = visit(view.name, view.p, view.type_tag, arg);
		if (r)
			return r;
	}
}

/* ---------------------------------------------------------------- the set of their offsets */

static void set_add(struct roots_set *set, uint64_t off)
{
	uint64_t i = off / 8 * UINT64_C(0x9E3779B97F4A7C15) >> 20 & (set->slots - 1);

	while (set->slot[i])
		i = (i + 1) & (set->slots - 1);
	set->slot[i] = off;
}

bool roots_set_has(const struct roots_set *set, uint64_t off)
{
	uint64_t i;

	if (set->slots == 0)
		return false;
	i = off / 8 * UINT64_C(0x9E3779B97F4A7C15) >> 20 & (set->slots - 1);
	while (set->slot[i] && set->slot[i] != off)
		i = (i + 1) & (set->slots - 1);
	return set->slot[i] != 0;
}

int roots_set_make(struct heap *heap, struct roots_set *set)
{
	const struct root_table_rec *table;
	void *memory;
	int r = 0;

	memset(set, 0, sizeof(*set));
	pthread_mutex_lock(&heap->roots_lock);
	table = table_of(heap);
	if (!table) {
		r = errno ? -1 : 0;
		goto out;
	}
	set->slots = 512;
	while (set->slots < 2 * (table->capacity + 1))
		set->slots *= 2;
	r = os->reserve_memory(set->slots * 8, &memory);
	if (!r) {
		set->slot = memory;
		r = os->protect(memory, set->slots * 8, true, true);
	}
	if (r) {
		r = fail(-r, "memory for the set of roots:");
		roots_set_drop(set);
		goto out;
	}
	set_add(set, truth_load(&store_truth(&heap->store)->root_table));
	for (uint64_t i = 0; i < table->capacity; i++)
		if (truth_load(&table->word[i]))
			set_add(set, truth_load(&table->word[i]));
out:
	pthread_mutex_unlock(&heap->roots_lock);
	return r;
}

void roots_set_drop(struct roots_set *set)
{
	if (set->slot)
		os->unmap(set->slot, set->slots * 8);
	memset(set, 0, sizeof(*set));
}
