/* SPDX-License-Identifier: Apache-2.0
 *
 * The reference model's memory of which objects must be alive: a treap ordered by offset (neighbours
 * show overlaps) and an array (for picking one at random). It knows nothing of how the library works.
 *
 *   object     what the model believes about one live object
 *   offset     the object's place in the file; addresses are not kept, they change with each opening
 *   pattern    the 64-bit words that the model stored in the object, a function of its id and place
 */
#ifndef MODEL_OBJECTS_H
#define MODEL_OBJECTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct model_object {
	uint64_t offset;
	uint64_t id;      /* pattern */
	size_t requested; /* bytes */
	size_t usable;    /* bytes, as the library told */
	size_t alignment; /* of the address, at every opening */
	size_t index;     /* in model_objects.list */
	uint64_t priority;
	struct model_object *left, *right;
};

struct model_objects {
	struct model_object *root;
	struct model_object **list;
	size_t count, capacity;
	uint64_t usable_bytes;
};

/* ---------------------------------------------------------------- random numbers */

struct model_random {
	uint64_t state;
};

static inline uint64_t model_scramble(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9u;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static inline uint64_t model_random(struct model_random *r)
{
	r->state += 0x9e3779b97f4a7c15u;
	return model_scramble(r->state);
}

/* A number from 0 to n - 1. */
static inline uint64_t model_below(struct model_random *r, uint64_t n)
{
	return (uint64_t)(((unsigned __int128)model_random(r) * n) >> 64);
}

/* A number from `low` (at least 1) to `high`, each power of two between them about as likely as the
 * others. */
static inline uint64_t model_log_between(struct model_random *r, uint64_t low, uint64_t high)
{
	unsigned first = 63u - (unsigned)__builtin_clzll(low);
	unsigned last = 63u - (unsigned)__builtin_clzll(high);
	uint64_t power = 1ull << (first + model_below(r, last - first + 1));
	uint64_t n = power + model_below(r, power);

	return n < low ? low : n > high ? high : n;
}

/* ---------------------------------------------------------------- ordered by offset */

static inline struct model_object *model_merge(struct model_object *a, struct model_object *b)
{
	if (!a || !b)
		return a ? a : b;
	if (a->priority > b->priority) {
		a->right = model_merge(a->right, b);
		return a;
	}
	b->left = model_merge(a, b->left);
	return b;
}

/* Split `t` into what lies below `offset` and the rest. */
static inline void model_split(struct model_object *t, uint64_t offset, struct model_object **below,
                               struct model_object **rest)
{
	while (t) {
		if (t->offset < offset) {
			*below = t;
			below = &t->right;
			t = t->right;
		} else {
			*rest = t;
			rest = &t->left;
			t = t->left;
		}
	}
	*below = NULL;
	*rest = NULL;
}

/* The last object that starts at or below `offset`, or NULL. */
static inline struct model_object *model_at_or_below(const struct model_objects *m, uint64_t offset)
{
	struct model_object *found = NULL;

	for (struct model_object *t = m->root; t;) {
		if (t->offset <= offset) {
			found = t;
			t = t->right;
		} else {
			t = t->left;
		}
	}
	return found;
}

/* The first object that starts at or above `offset`, or NULL. */
static inline struct model_object *model_at_or_above(const struct model_objects *m, uint64_t offset)
{
	struct model_object *found = NULL;

	for (struct model_object *t = m->root; t;) {
		if (t->offset >= offset) {
			found = t;
			t = t->left;
		} else {
			t = t->right;
		}
	}
	return found;
}

/* A live object that shares a byte with [offset, offset + len), or NULL. */
static inline struct model_object *model_overlapping(const struct model_objects *m, uint64_t offset,
                                                     size_t len)
{
	struct model_object *before = model_at_or_below(m, offset);
	struct model_object *after = model_at_or_above(m, offset);

	if (before && before->offset + before->usable > offset)
		return before;
	if (after && after->offset < offset + len)
		return after;
	return NULL;
}

/* Put `o` in; it must overlap nothing. */
static inline void model_insert(struct model_objects *m, struct model_object *o)
{
	struct model_object *below, *rest;

	if (m->count == m->capacity) {
		m->capacity = m->capacity ? m->capacity * 2 : 1024;
		m->list = realloc(m->list, m->capacity * sizeof(struct model_object *));
		if (!m->list)
			abort();
	}
	o->index = m->count;
	m->list[m->count++] = o;
	o->left = NULL;
	o->right = NULL;
	o->priority = model_scramble(o->offset ^ (o->id << 32));
	model_split(m->root, o->offset, &below, &rest);
	m->root = model_merge(model_merge(below, o), rest);
	m->usable_bytes += o->usable;
}

/* Take `o` out; it stays the caller's. */
static inline void model_take_out(struct model_objects *m, struct model_object *o)
{
	struct model_object *below, *rest, *self, *above;

	model_split(m->root, o->offset, &below, &rest);
	model_split(rest, o->offset + 1, &self, &above);
	if (self != o)
		abort();
	m->root = model_merge(below, above);
	m->list[o->index] = m->list[--m->count];
	m->list[o->index]->index = o->index;
	m->usable_bytes -= o->usable;
}

static inline struct model_object *model_pick(const struct model_objects *m, struct model_random *r)
{
	return m->count ? m->list[model_below(r, m->count)] : NULL;
}

static inline void model_forget_all(struct model_objects *m)
{
	for (size_t i = 0; i < m->count; i++)
		free(m->list[i]);
	free(m->list);
	memset(m, 0, sizeof *m);
}

static inline int model_compare_offsets(const void *a, const void *b)
{
	const struct model_object *const *x = a;
	const struct model_object *const *y = b;

	return ((*x)->offset > (*y)->offset) - ((*x)->offset < (*y)->offset);
}

/* ---------------------------------------------------------------- contents */

/* Bytes up to which every byte of an object is filled and compared; of a longer one the first and the
 * last 4 KiB and a word in each 64 KiB are. */
#define MODEL_WHOLE 32768u
#define MODEL_EDGE  4096u
#define MODEL_STEP  65536u

static inline uint64_t model_word(uint64_t id, size_t at)
{
	return model_scramble(id) + at * 0xd1342543de82ef95u;
}

static inline void model_fill_range(char *p, uint64_t id, size_t from, size_t to)
{
	for (; from + 8 <= to; from += 8) {
		uint64_t word = model_word(id, from);

		memcpy(p + from, &word, 8);
	}
	for (; from < to; from++)
		p[from] = (char)model_word(id, from);
}

/* First byte in [from, to) that differs from the pattern, or `to`. `from` is a multiple of 8; `end` is
 * the end that the range was filled to. */
static inline size_t model_differs_in_range(const char *p, uint64_t id, size_t from, size_t to,
                                            size_t end)
{
	while (from < to) {
		uint64_t word = model_word(id, from);
		size_t len = to - from < 8 ? to - from : 8;

		if (from + 8 > end) {
			if (p[from] != (char)word)
				return from;
			from++;
			continue;
		}
		if (memcmp(p + from, &word, len) != 0)
			return from;
		from += len;
	}
	return to;
}

static inline size_t model_tail(size_t len)
{
	return (len - MODEL_EDGE) & ~(size_t)7;
}

static inline void model_fill(char *p, uint64_t id, size_t len)
{
	if (len <= MODEL_WHOLE) {
		model_fill_range(p, id, 0, len);
		return;
	}
	model_fill_range(p, id, 0, MODEL_EDGE);
	for (size_t at = MODEL_STEP; at < model_tail(len); at += MODEL_STEP)
		model_fill_range(p, id, at, at + 8);
	model_fill_range(p, id, model_tail(len), len);
}

/* First byte below `upto` that differs from what model_fill(p, id, len) left, or `upto`. */
static inline size_t model_differs(const char *p, uint64_t id, size_t len, size_t upto)
{
	size_t at, end;

	upto = upto > len ? len : upto;
	if (len <= MODEL_WHOLE)
		return model_differs_in_range(p, id, 0, upto, len);
	end = upto < MODEL_EDGE ? upto : MODEL_EDGE;
	at = model_differs_in_range(p, id, 0, end, MODEL_EDGE);
	if (at < end)
		return at;
	for (size_t step = MODEL_STEP; step < model_tail(len) && step + 8 <= upto; step += MODEL_STEP) {
		at = model_differs_in_range(p, id, step, step + 8, step + 8);
		if (at < step + 8)
			return at;
	}
	if (upto <= model_tail(len))
		return upto;
	return model_differs_in_range(p, id, model_tail(len), upto, len);
}

#endif
