/* SPDX-License-Identifier: Apache-2.0
 *
 * Random sequences of the whole public interface against a reference model that shares no code with
 * the library: which objects are alive, where, how big, with which contents, and which roots exist.
 *
 *   FM_SEED   the seed of a run (printed; another one each time without it)
 *   FM_OPS    operations altogether, 2000000 without it
 *   FM_TEST   run only the test of this name
 *
 * random_operations   two heaps in turn, one of them of limited size, reopened now and then at other
 *                     addresses
 * limited_size        a heap filled up to max_size again and again
 * threads             four threads in one heap that hand objects to each other, end and start again
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "fmalloc.h"

#include "../support/folder_util.h"
#include "../support/model_objects.h"

#define KIB ((size_t)1024)
#define MIB ((size_t)1024 * KIB)

#define ROOTS 24
#define PARTS 4

struct root {
	bool exists;
	char name[256];
	uint64_t offset, tag;
};

/* What one thread believes about the part of a heap that it is responsible for. */
struct model {
	fm_heap *heap;
	struct model_objects objects;
	struct model_random random;
	struct root roots[ROOTS];
	unsigned part;
	bool alone; /* no other thread uses the heap */
	uint64_t operations, next_id;
	uint64_t max_size, peak; /* bytes; peak: most usable bytes since the heap was empty */
	char error[600];
};

/* A distribution of sizes, and how far and long to go with it. */
struct shape {
	size_t (*pick)(struct model *);
	uint64_t bytes;
	uint64_t operations;
	unsigned weight;
};

static unsigned kind; /* FM_ATOMIC: the same on atomic heaps, which commit now and then and when they are closed */
static uint64_t seed, total_operations;
static char folder[4096];

/* Note what is wrong, for the main thread to report; always false. */
__attribute__((format(printf, 2, 3)))
static bool wrong(struct model *m, const char *format, ...)
{
	int used;
	va_list args;

	if (m->error[0])
		return false;
	used = snprintf(m->error, sizeof m->error, "part %u operation %" PRIu64 ": ", m->part,
	                m->operations);
	va_start(args, format);
	vsnprintf(m->error + used, sizeof m->error - (size_t)used, format, args);
	va_end(args);
	return false;
}

#define MUST(m, condition, ...) \
	do { \
		if (!(condition)) \
			return wrong((m), __VA_ARGS__); \
	} while (0)

static bool chance(struct model *m, unsigned one_in)
{
	return model_below(&m->random, one_in) == 0;
}

/* ---------------------------------------------------------------- objects */

static char *address(const struct model *m, const struct model_object *o)
{
	return fm_at(m->heap, o->offset);
}

static size_t ordinary_alignment(size_t size)
{
	return size % 16 == 0 ? 16 : 8;
}

/* The object's address is aligned and its contents are those that the model stored. */
static bool verify(struct model *m, const struct model_object *o)
{
	char *p = address(m, o);
	size_t at = model_differs(p, o->id, o->usable, o->usable);

	MUST(m, at == o->usable, "object at %#" PRIx64 " of %zu (usable %zu) bytes differs at %zu",
	     o->offset, o->requested, o->usable, at);
	MUST(m, (uintptr_t)p % o->alignment == 0, "object at %#" PRIx64 " is not aligned to %zu: %p",
	     o->offset, o->alignment, (void *)p);
	return true;
}

static bool verify_all(struct model *m)
{
	for (size_t i = 0; i < m->objects.count; i++) {
		struct model_object *o = m->objects.list[i];

		if (!verify(m, o))
			return false;
		MUST(m, fm_usable_size(address(m, o)) == o->usable,
		     "usable size of the object at %#" PRIx64 " changed from %zu to %zu", o->offset,
		     o->usable, fm_usable_size(address(m, o)));
	}
	return true;
}

/* Believe that `p` is now `o`, of `size` bytes: it must lie apart from all others; give it contents. */
static bool believe(struct model *m, struct model_object *o, void *p, size_t size, size_t alignment)
{
	struct model_object *other;

	o->offset = fm_offset_of(m->heap, p);
	o->requested = size;
	o->usable = fm_usable_size(p);
	o->alignment = alignment;
	o->id = m->next_id++;
	MUST(m, o->usable >= size, "%p: usable %zu for a request of %zu", p, o->usable, size);
	MUST(m, (uintptr_t)p % alignment == 0, "%p is not aligned to %zu (size %zu)", p, alignment, size);
	other = model_overlapping(&m->objects, o->offset, o->usable);
	MUST(m, !other, "new object %#" PRIx64 "+%zu overlaps %#" PRIx64 "+%zu", o->offset, o->usable,
	     other ? other->offset : 0, other ? other->usable : 0);
	model_insert(&m->objects, o);
	if (m->objects.usable_bytes > m->peak)
		m->peak = m->objects.usable_bytes;
	model_fill(p, o->id, o->usable);
	return true;
}

static struct model_object *new_object(void)
{
	struct model_object *o = calloc(1, sizeof *o);

	if (!o)
		abort();
	return o;
}

static bool believe_new(struct model *m, void *p, size_t size, size_t alignment)
{
	struct model_object *o = new_object();

	if (believe(m, o, p, size, alignment))
		return true;
	free(o);
	return false;
}

/* A request was answered with NULL: that must be for want of space in a heap that has been filled to
 * some part, which is smaller for what needs much space in one piece. */
static bool refused(struct model *m, size_t size)
{
	int error = errno;
	uint64_t part = size <= 1 * MIB ? 3 : 8;

	MUST(m, error == ENOMEM, "a request of %zu bytes gave NULL with errno %d (%s)", size, error,
	     fm_last_error());
	MUST(m, m->max_size && m->peak + size > m->max_size / part,
	     "a request of %zu bytes gave ENOMEM (%s) after at most %" PRIu64 " live bytes", size,
	     fm_last_error(), m->peak);
	MUST(m, fm_last_error()[0], "ENOMEM without a text");
	return true;
}

/* ---------------------------------------------------------------- sizes */

static size_t pick_small(struct model *m)
{
	return 16 + model_below(&m->random, 497);
}

static size_t pick_tiny(struct model *m)
{
	return model_below(&m->random, 65);
}

static size_t pick_medium(struct model *m)
{
	return model_log_between(&m->random, 1, 64 * KIB);
}

static size_t pick_large(struct model *m)
{
	return model_log_between(&m->random, 1, 4 * MIB);
}

static size_t pick_huge(struct model *m)
{
	return model_log_between(&m->random, 64 * KIB, 40 * MIB);
}

/* At and beside the places where one class of sizes ends: those that live objects show, and multiples
 * of the grains of space. */
static size_t pick_boundary(struct model *m)
{
	static const size_t grains[] = { 8, 16, 4 * KIB, 64 * KIB };
	struct model_object *o = model_pick(&m->objects, &m->random);
	size_t near = o ? o->usable : 448 * KIB;

	if (chance(m, 2))
		near = grains[model_below(&m->random, 4)] * (1 + model_below(&m->random, 20));
	else if (chance(m, 64))
		near = (64 * KIB) * (56 + model_below(&m->random, 16));
	near += model_below(&m->random, 3);
	return near > 6 * MIB ? 6 * MIB : near - 1;
}

static const struct shape shapes[] = {
	{ pick_small, 16 * MIB, 40000, 8 },    { pick_tiny, 3 * MIB, 40000, 4 },
	{ pick_boundary, 24 * MIB, 15000, 3 }, { pick_medium, 24 * MIB, 20000, 3 },
	{ pick_large, 48 * MIB, 3000, 2 },     { pick_huge, 200 * MIB, 150, 1 },
};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static const struct shape *pick_shape(struct model_random *random)
{
	unsigned sum = 0;
	uint64_t n;

	for (unsigned i = 0; i < SHAPES; i++)
		sum += shapes[i].weight;
	n = model_below(random, sum);
	for (unsigned i = 0;; i++) {
		if (n < shapes[i].weight)
			return &shapes[i];
		n -= shapes[i].weight;
	}
}

/* ---------------------------------------------------------------- operations */

static bool is_zero(const char *p, size_t len)
{
	return len == 0 || (p[0] == 0 && memcmp(p, p + 1, len - 1) == 0);
}

static bool allocate_zeroed(struct model *m, size_t size)
{
	size_t n = size % 3 == 0 ? 3 : 1;
	void *p;

	if (chance(m, 4)) {
		fmalloc_set_target(m->heap);
		p = fcalloc(size / n, n);
	} else {
		p = fm_calloc(m->heap, n, size / n);
	}
	if (!p)
		return refused(m, size);
	MUST(m, is_zero(p, size), "calloc of %zu bytes is not zero", size);
	return believe_new(m, p, size, ordinary_alignment(size));
}

static bool allocate_aligned(struct model *m, size_t size)
{
	unsigned bits = (unsigned)model_below(&m->random, chance(m, 32) ? 23 : 13);
	size_t alignment = (size_t)1 << bits, also = ordinary_alignment(size);
	void *p;

	if (chance(m, 4)) {
		fmalloc_set_target(m->heap);
		p = faligned_alloc(alignment, size);
	} else {
		p = fm_aligned_alloc(m->heap, alignment, size);
	}
	if (!p)
		return refused(m, size + alignment);
	return believe_new(m, p, size, alignment > also ? alignment : also);
}

static bool allocate_string(struct model *m, size_t size)
{
	char text[1024];
	size_t len = size < sizeof text ? size : sizeof text - 1, kept = len;
	char *p;

	for (size_t i = 0; i < len; i++)
		text[i] = (char)(1 + model_below(&m->random, 255));
	text[len] = 0;
	fmalloc_set_target(m->heap);
	switch (model_below(&m->random, 4)) {
	case 0:
		p = fm_strdup(m->heap, text);
		break;
	case 1:
		p = fstrdup(text);
		break;
	case 2:
		kept = model_below(&m->random, 2 * len + 1);
		p = fm_strndup(m->heap, text, kept);
		break;
	default:
		kept = model_below(&m->random, len + 1);
		p = fstrndup(text, kept);
		break;
	}
	kept = kept < len ? kept : len;
	if (!p)
		return refused(m, kept + 1);
	MUST(m, memcmp(p, text, kept) == 0 && p[kept] == 0, "copy of a string of %zu bytes differs", len);
	return believe_new(m, p, kept + 1, ordinary_alignment(kept + 1));
}

static bool allocate_plain(struct model *m, size_t size)
{
	void *p;

	switch (model_below(&m->random, 8)) {
	case 0:
		p = fm_realloc(m->heap, NULL, size);
		break;
	case 1:
		p = size % 5 == 0 ? fm_reallocarray(m->heap, NULL, size / 5, 5) :
		                    fm_reallocarray(m->heap, NULL, 1, size);
		break;
	case 2:
		fmalloc_set_target(m->heap);
		p = chance(m, 2) ? fmalloc(size) : frealloc(NULL, size);
		break;
	default:
		p = fm_malloc(m->heap, size);
		break;
	}
	if (!p)
		return refused(m, size);
	if (size >= 128) {
		size_t usable = fm_usable_size(p), rounded = (size + 15) / 16 * 16;

		/* a slot wastes an eighth of the request; slots joined because the heap can't grow a third of themselves */
		MUST(m, usable <= (rounded + rounded / 8) * 3 / 2, "%zu usable bytes for a request of %zu", usable,
		     size);
	}
	return believe_new(m, p, size, ordinary_alignment(size));
}

static bool do_allocate(struct model *m, size_t size)
{
	switch (model_below(&m->random, 16)) {
	case 0:
	case 1:
		return allocate_zeroed(m, size);
	case 2:
		return allocate_aligned(m, size);
	case 3:
		return allocate_string(m, size);
	default:
		return allocate_plain(m, size);
	}
}

/* Calls that must fail: the object `p` was freed a moment ago, nothing has been allocated since. */
static bool do_misuse_freed(struct model *m, void *p)
{
	errno = 0;
	MUST(m, fm_free(p) == -1 && errno == EINVAL, "double free of %p: errno %d", p, errno);
	errno = 0;
	MUST(m, fm_usable_size(p) == 0 && errno == EINVAL, "freed %p has a usable size", p);
	errno = 0;
	MUST(m, !fm_realloc(m->heap, p, 100) && errno == EINVAL, "realloc of freed %p: errno %d", p, errno);
	MUST(m, !fm_at_checked(m->heap, fm_offset_of(m->heap, p), 1), "fm_at_checked takes freed %p", p);
	return true;
}

static bool do_misuse_interior(struct model *m, const struct model_object *o)
{
	size_t at = 1 + model_below(&m->random, o->usable - 1);
	char *p = address(m, o) + at;

	errno = 0;
	MUST(m, fm_free(p) == -1 && errno == EINVAL, "free of byte %zu of an object of %zu: errno %d", at,
	     o->usable, errno);
	errno = 0;
	MUST(m, fm_usable_size(p) == 0 && errno == EINVAL, "byte %zu of an object of %zu has a usable size",
	     at, o->usable);
	return verify(m, o);
}

static bool do_free_object(struct model *m, struct model_object *o)
{
	void *p = address(m, o);

	if (!verify(m, o))
		return false;
	model_take_out(&m->objects, o);
	free(o);
	if (m->objects.count == 0)
		m->peak = 0;
	if (chance(m, 8)) {
		errno = 0;
		ffree(p);
		MUST(m, errno == 0, "ffree of %p: errno %d (%s)", p, errno, fm_last_error());
	} else {
		MUST(m, fm_free(p) == 0, "free of %p: errno %d (%s)", p, errno, fm_last_error());
	}
	return m->alone && chance(m, 64) ? do_misuse_freed(m, p) : true;
}

static size_t pick_new_size(struct model *m, const struct model_object *o, const struct shape *shape)
{
	switch (model_below(&m->random, 8)) {
	case 0:
		return model_below(&m->random, o->usable + 1);
	case 1:
		return o->usable;
	case 2:
		return o->usable + 1 + model_below(&m->random, 64);
	case 3:
		return chance(m, 8) || o->requested > 32 * MIB ? 0 : o->requested + o->requested / 2;
	default:
		return shape->pick(m);
	}
}

/* Requests that cannot be met leave the object as it is. */
static bool do_realloc_too_much(struct model *m, const struct model_object *o)
{
	void *p = address(m, o);
	size_t size = SIZE_MAX - model_below(&m->random, 5000);

	errno = 0;
	MUST(m, !fm_realloc(m->heap, p, size) && errno == ENOMEM, "realloc to %zu: errno %d", size, errno);
	errno = 0;
	MUST(m, !fm_reallocarray(m->heap, p, SIZE_MAX / 8, 9) && errno == ENOMEM,
	     "reallocarray of an overflowing product: errno %d", errno);
	return verify(m, o);
}

static bool do_realloc(struct model *m, struct model_object *o, const struct shape *shape)
{
	size_t old_usable = o->usable, size = pick_new_size(m, o, shape), kept, at;
	uint64_t old_id = o->id;
	void *p = address(m, o), *q;

	if (!verify(m, o))
		return false;
	if (chance(m, 64))
		return do_realloc_too_much(m, o);
	if (chance(m, 8)) {
		fmalloc_set_target(m->heap);
		q = size % 7 == 0 ? freallocarray(p, size / 7, 7) : frealloc(p, size);
	} else {
		q = size % 6 == 0 ? fm_reallocarray(m->heap, p, 6, size / 6) : fm_realloc(m->heap, p, size);
	}
	if (!q)
		return refused(m, size) && verify(m, o);
	kept = size < old_usable ? size : old_usable;
	at = model_differs(q, old_id, old_usable, kept);
	MUST(m, at == kept, "realloc from %zu to %zu bytes changed byte %zu", old_usable, size, at);
	model_take_out(&m->objects, o);
	if (!believe(m, o, q, size, ordinary_alignment(size))) {
		free(o);
		return false;
	}
	if (q != p && m->alone && chance(m, 64))
		return do_misuse_freed(m, p);
	return true;
}

/* More than the heap may hold: it looks for space everywhere, and takes none from anybody. */
static bool do_allocate_too_much(struct model *m)
{
	size_t size = (m->max_size ? m->max_size : (uint64_t)1 << 46) + model_below(&m->random, MIB);

	errno = 0;
	MUST(m, !fm_malloc(m->heap, size) && errno == ENOMEM, "malloc of %zu bytes: errno %d", size, errno);
	return true;
}

/* fm_at_checked around one object, fm_heap_of. */
static bool do_look(struct model *m, const struct model_object *o)
{
	size_t from = model_below(&m->random, o->usable);
	size_t len = 1 + model_below(&m->random, o->usable - from);
	char *p = address(m, o);

	MUST(m, fm_heap_of(p + from) == m->heap, "fm_heap_of %p is another heap", (void *)(p + from));
	MUST(m, fm_at_checked(m->heap, o->offset + from, len) == p + from,
	     "fm_at_checked refuses %zu bytes at %zu of an object of %zu", len, from, o->usable);
	errno = 0;
	MUST(m, !fm_at_checked(m->heap, o->offset + from, o->usable - from + 1) && errno == EINVAL,
	     "fm_at_checked takes one byte more than an object of %zu", o->usable);
	errno = 0;
	MUST(m, !fm_at_checked(m->heap, o->offset + from, SIZE_MAX - from) && errno == EINVAL,
	     "fm_at_checked takes SIZE_MAX bytes");
	errno = 0;
	MUST(m, !fm_at_checked(m->heap, UINT64_MAX - from, from + 2) && errno == EINVAL,
	     "fm_at_checked takes an offset that wraps");
	return verify(m, o);
}

/* ---------------------------------------------------------------- roots */

static void name_root(struct model *m, struct root *r)
{
	size_t len = 8 + (chance(m, 4) ? model_below(&m->random, 248) : model_below(&m->random, 20));

	for (size_t i = 8; i < len; i++)
		r->name[i] = (char)(1 + model_below(&m->random, 255));
	r->name[len] = 0;
	// no two alike, neither here nor in another thread's part
	r->name[0] = (char)('a' + m->part);
	for (unsigned i = 1; i < 8; i++)
		r->name[i] = (char)('a' + (m->next_id >> (5 * (i - 1))) % 32);
	m->next_id++;
}

/* May the root's address be withheld? Only if none of `models` has an object there, and the file of `file_size` bytes is
 * shorter; or the heap is, if it is an atomic one, whose journal may lie behind what it uses. */
static bool is_withheld(const struct model *models, unsigned count, const struct root *r, uint64_t file_size)
{
	for (unsigned i = 0; i < count; i++)
		if (model_overlapping(&models[i].objects, r->offset, 1))
			return false;
	return kind == FM_ATOMIC || r->offset >= file_size;
}

/* The same of a root of the model's own: others may just have made the file longer. */
static bool may_be_withheld(const struct model *m, const struct root *r)
{
	struct stat st;

	return fstat(m->heap->fd, &st) == 0 && is_withheld(m, 1, r, m->alone ? (uint64_t)st.st_size : 0);
}

static bool root_is_found(struct model *m, const struct root *r)
{
	void *p;
	int error;

	errno = 0;
	p = fm_root_get(m->heap, r->name, r->tag);
	error = errno;
	if (p || error != EFAULT || !may_be_withheld(m, r))
		MUST(m, fm_offset_of(m->heap, p) == r->offset && (p || error == 0),
		     "root %.8s: offset %#" PRIx64 " instead of %#" PRIx64 ", errno %d", r->name,
		     fm_offset_of(m->heap, p), r->offset, error);
	errno = 0;
	MUST(m, !fm_root_get(m->heap, r->name, ~r->tag) && errno == EPROTOTYPE,
	     "root %.8s with another tag: errno %d", r->name, errno);
	return true;
}

static bool do_root_set(struct model *m, struct root *r)
{
	struct model_object *o = model_pick(&m->objects, &m->random);
	bool renamed = !r->exists;
	void *p = NULL;
	uint64_t tag = chance(m, 4) ? 0 : model_random(&m->random);

	if (renamed) {
		name_root(m, r);
		errno = 0;
		MUST(m, !fm_root_get(m->heap, r->name, tag) && errno == ENOENT,
		     "a root that nobody set: errno %d (%s)", errno, fm_last_error());
		errno = 0;
		MUST(m, fm_root_remove(m->heap, r->name) == -1 && errno == ENOENT, "removed a root unset");
	}
	if (o && !chance(m, 8))
		p = address(m, o) + (chance(m, 8) ? model_below(&m->random, o->usable) : 0);
	if (fm_root_set(m->heap, r->name, p, tag) != 0) {
		if (!refused(m, 4096))
			return false;
		return renamed || root_is_found(m, r);
	}
	r->exists = true;
	r->offset = fm_offset_of(m->heap, p);
	r->tag = tag;
	return root_is_found(m, r);
}

static bool do_root(struct model *m)
{
	struct root *r = &m->roots[model_below(&m->random, ROOTS)];

	if (!r->exists || chance(m, 2))
		return do_root_set(m, r);
	if (chance(m, 2))
		return root_is_found(m, r);
	MUST(m, fm_root_remove(m->heap, r->name) == 0, "root_remove: errno %d", errno);
	r->exists = false;
	errno = 0;
	MUST(m, !fm_root_get(m->heap, r->name, r->tag) && errno == ENOENT, "a removed root is found");
	return true;
}

/* ---------------------------------------------------------------- the whole heap against the model */

/* `models` of one heap together. */
struct audit {
	struct model *models;
	unsigned count;
	struct model_object **sorted;
	size_t objects, at;
	unsigned roots;
	uint64_t file_size; /* bytes */
};

static int see_object(void *p, size_t usable, void *arg)
{
	struct audit *a = arg;
	struct model *m = a->models;
	struct model_object *o = a->at < a->objects ? a->sorted[a->at] : NULL;

	a->at++;
	if (o && o->offset == fm_offset_of(m->heap, p) && o->usable == usable)
		return 0;
	wrong(m, "fm_walk says %#" PRIx64 "+%zu, the model %#" PRIx64 "+%zu, at number %zu of %zu",
	      fm_offset_of(m->heap, p), usable, o ? o->offset : 0, o ? o->usable : 0, a->at, a->objects);
	return 1;
}

static int see_root(const char *name, void *p, uint64_t tag, void *arg)
{
	struct audit *a = arg;

	a->roots++;
	for (unsigned i = 0; i < a->count; i++) {
		for (unsigned j = 0; j < ROOTS; j++) {
			const struct root *r = &a->models[i].roots[j];

			if (r->exists && strcmp(r->name, name) == 0 && r->tag == tag &&
			    (r->offset == fm_offset_of(a->models->heap, p) ||
			     (!p && is_withheld(a->models, a->count, r, a->file_size))))
				return 0;
		}
	}
	wrong(a->models, "fm_root_each tells of a root %.8s (length %zu) for %#" PRIx64 " tag %#" PRIx64
	      " that the model doesn't know", name, strlen(name), fm_offset_of(a->models->heap, p), tag);
	return 1;
}

static void see_finding(const struct fm_finding *finding, void *arg)
{
	wrong(arg, "fm_check: at %#" PRIx64 " is %#" PRIx64 ": %s", finding->offset, finding->value,
	      finding->text);
}

static bool audit_walk(struct audit *a)
{
	struct model *m = a->models;
	int result;

	for (unsigned i = 0; i < a->count; i++)
		a->objects += a->models[i].objects.count;
	a->sorted = calloc(a->objects + 1, sizeof *a->sorted);
	if (!a->sorted)
		abort();
	for (unsigned i = 0, n = 0; i < a->count; i++) {
		const struct model_objects *part = &a->models[i].objects;

		memcpy(a->sorted + n, part->list, part->count * sizeof *a->sorted);
		n += (unsigned)part->count;
	}
	qsort(a->sorted, a->objects, sizeof *a->sorted, model_compare_offsets);
	for (size_t i = 1; i < a->objects; i++)
		MUST(m, a->sorted[i - 1]->offset + a->sorted[i - 1]->usable <= a->sorted[i]->offset,
		     "objects %#" PRIx64 "+%zu and %#" PRIx64 " overlap", a->sorted[i - 1]->offset,
		     a->sorted[i - 1]->usable, a->sorted[i]->offset);
	result = fm_walk(m->heap, see_object, a);
	MUST(m, result == 0, "fm_walk returns %d", result);
	MUST(m, a->at == a->objects, "fm_walk shows %zu of %zu objects", a->at, a->objects);
	return true;
}

static bool audit_stats(struct audit *a)
{
	struct model *m = a->models;
	struct fm_statistics s = { .size = sizeof s };
	uint64_t bytes = 0;
	struct stat st;

	for (unsigned i = 0; i < a->count; i++)
		bytes += a->models[i].objects.usable_bytes;
	MUST(m, fm_stats(m->heap, &s) == 0, "fm_stats: errno %d", errno);
	MUST(m, s.live_objects == a->objects, "fm_stats: %" PRIu64 " objects instead of %zu",
	     s.live_objects, a->objects);
	MUST(m, s.live_bytes == bytes, "fm_stats: %" PRIu64 " bytes instead of %" PRIu64, s.live_bytes,
	     bytes);
	MUST(m, s.small_objects + s.large_objects + s.huge_objects == s.live_objects,
	     "fm_stats: kinds of objects don't add up");
	MUST(m, fstat(m->heap->fd, &st) == 0 && s.file_size == (uint64_t)st.st_size,
	     "fm_stats: file size %" PRIu64, s.file_size);
	a->file_size = s.file_size;
	MUST(m, bytes + s.free_bytes <= s.file_size, "fm_stats: %" PRIu64 " live bytes and %" PRIu64
	     " free ones in a file of %" PRIu64, bytes, s.free_bytes, s.file_size);
	/* an atomic heap's journal comes on top, in whole segments at its end */
	MUST(m, m->max_size == 0 || s.file_size <= m->max_size + (kind ? s.journal_size + 8 * MIB : 0), "the file grew to %" PRIu64, s.file_size);
	return true;
}

static bool audit_roots(struct audit *a)
{
	struct model *m = a->models;
	unsigned roots = 0;

	for (unsigned i = 0; i < a->count; i++)
		for (unsigned j = 0; j < ROOTS; j++)
			roots += a->models[i].roots[j].exists;
	MUST(m, fm_root_each(m->heap, see_root, a) == 0, "fm_root_each: errno %d", errno);
	MUST(m, a->roots == roots, "fm_root_each shows %u of %u roots", a->roots, roots);
	return true;
}

/* The heap holds exactly what the models say, and the verifier finds nothing. */
static bool audit(struct model *models, unsigned count)
{
	struct audit a = { .models = models, .count = count };
	long findings = fm_check(models->heap, see_finding, models);
	bool good = findings == 0 ? audit_walk(&a) && audit_stats(&a) && audit_roots(&a) :
	                            wrong(models, "fm_check returns %ld", findings);

	free(a.sorted);
	return good;
}

/* ---------------------------------------------------------------- one heap, one thread */

/* Several threads change an atomic heap in sections, and commit outside of them. */
static bool is_shared_atomic(const struct model *m)
{
	return kind == FM_ATOMIC && !m->alone;
}

static bool do_sync(struct model *m)
{
	bool in_section = is_shared_atomic(m);

	MUST(m, !in_section || fm_end(m->heap) == 0, "fm_end: errno %d (%s)", errno, fm_last_error());
	MUST(m, fm_sync(m->heap) == 0, "fm_sync: errno %d (%s)", errno, fm_last_error());
	MUST(m, !in_section || fm_begin(m->heap) == 0, "fm_begin: errno %d (%s)", errno, fm_last_error());
	return true;
}

static bool step(struct model *m, const struct shape *shape, uint64_t bytes)
{
	unsigned growing = m->objects.usable_bytes < bytes ? 55 : 35;
	unsigned n = (unsigned)model_below(&m->random, 100);
	struct model_object *o = model_pick(&m->objects, &m->random);

	m->operations++;
	if (!o || n < growing)
		return do_allocate(m, shape->pick(m));
	if (n < 84)
		return do_free_object(m, o);
	if (n < 92)
		return do_realloc(m, o, shape);
	if (n < 94)
		return do_look(m, o);
	if (n < 95)
		return do_misuse_interior(m, o);
	if (n < 96)
		return do_root(m);
	if (n < 97 && chance(m, is_shared_atomic(m) ? 30 : 1000))
		return do_sync(m);
	if (n < 98 && chance(m, 20))
		return do_allocate_too_much(m);
	return verify(m, o);
}

static fm_heap *open_heap(struct model *m, const char *path, unsigned flags)
{
	struct fm_options options = { .size = sizeof options, .max_size = m->max_size, .commit_at_close = true };

	m->heap = fm_open(path, flags | kind, &options);
	return m->heap;
}

/* Close, and open again: somewhere else, or exactly where the heap was made. */
static bool reopen(struct model *models, unsigned count, const char *path, const void *home)
{
	struct model *m = models;
	bool fixed = chance(m, 4), elsewhere = !fixed && !chance(m, 4);
	void *before = m->heap->mem, *blocked = MAP_FAILED;

	MUST(m, fm_close(m->heap) == 0, "fm_close: errno %d (%s)", errno, fm_last_error());
	MUST(m, !fm_heap_of(before), "a closed heap still has its addresses");
	if (elsewhere)
		blocked = mmap(before, 4096, PROT_NONE,
		               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
	MUST(m, !elsewhere || blocked == before, "the place of a closed heap is not free");
	open_heap(m, path, fixed ? FM_FIXED : 0);
	if (elsewhere)
		munmap(blocked, 4096);
	MUST(m, m->heap, "fm_open of a closed heap: errno %d (%s)", errno, fm_last_error());
	MUST(m, !fixed || m->heap->mem == home, "FM_FIXED opens at %p instead of %p", m->heap->mem, home);
	MUST(m, !elsewhere || m->heap->mem != before, "a heap over somebody else's mapping");
	MUST(m, (uintptr_t)m->heap->mem % (4 * MIB) == 0, "a heap at %p", m->heap->mem);
	for (unsigned i = 0; i < count; i++) {
		models[i].heap = m->heap;
		if (!verify_all(&models[i]))
			return false;
	}
	return audit(models, count);
}

static int free_seen(void *p, size_t usable, void *arg)
{
	struct model *m = arg;
	struct model_object *o = model_at_or_below(&m->objects, fm_offset_of(m->heap, p));

	if (!o || o->offset != fm_offset_of(m->heap, p) || o->usable != usable) {
		wrong(m, "fm_walk shows %p, which is no object", p);
		return 1;
	}
	return !do_free_object(m, o);
}

static int count_seen(void *p, size_t usable, void *arg)
{
	size_t *count = arg;

	(void)p;
	(void)usable;
	++*count;
	return 0;
}

/* Free all, in one of two ways: then nothing is alive, and a limited heap has its space again. */
static bool free_everything(struct model *m)
{
	size_t left = 0;

	if (chance(m, 2)) {
		MUST(m, fm_walk(m->heap, free_seen, m) == 0, "fm_walk with frees");
	} else {
		while (m->objects.count)
			if (!do_free_object(m, model_pick(&m->objects, &m->random)))
				return false;
	}
	for (unsigned i = 0; i < ROOTS; i++) {
		MUST(m, !m->roots[i].exists || fm_root_remove(m->heap, m->roots[i].name) == 0,
		     "fm_root_remove: errno %d", errno);
		m->roots[i].exists = false;
	}
	MUST(m, fm_walk(m->heap, count_seen, &left) == 0 && left == 0, "%zu objects are left over", left);
	return audit(m, 1);
}

static void start_model(struct model *m, unsigned part, uint64_t max_size, uint64_t salt)
{
	memset(m, 0, sizeof *m);
	m->part = part;
	m->alone = true;
	m->next_id = (uint64_t)(part + 1) << 56;
	m->max_size = max_size;
	m->random.state = model_scramble(model_scramble(seed) + salt * 1000 + part);
}

#define REPORT(m, good) \
	do { \
		if (!(good)) \
			fail_msg("seed %" PRIu64 ", FM_OPS %" PRIu64 ": %s", seed, total_operations, \
			         (m)->error); \
	} while (0)

static void path_of(char *path, size_t size, const char *name)
{
	assert_true(snprintf(path, size, "%s/%s", folder, name) < (int)size);
}

static void random_operations(void **state)
{
	struct model models[2];
	char path[2][4200];
	const void *home[2];
	struct model_random random = { model_scramble(seed) };
	uint64_t left = total_operations * 5 / 8;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		start_model(&models[i], i, i == 0 ? 0 : 72 * MIB, 1);
		path_of(path[i], sizeof path[i], i == 0 ? "random0.fm" : "random1.fm");
		assert_non_null(open_heap(&models[i], path[i], FM_CREATE | FM_EXCL));
		home[i] = models[i].heap->mem;
	}
	for (unsigned round = 0; left > 0; round++) {
		const struct shape *shape = round < SHAPES ? &shapes[round] : pick_shape(&random);
		uint64_t n = shape->operations < left ? shape->operations : left;
		uint64_t bytes[2] = { model_below(&random, shape->bytes),
		                      model_below(&random, shape->bytes) };
		unsigned i = 0;

		left -= n;
		while (n-- > 0) {
			i = model_below(&random, 8) == 0 ? !i : i;
			REPORT(&models[i], step(&models[i], shape, bytes[i]));
			if (kind && model_below(&random, 2000) == 0)
				assert_int_equal(fm_commit(models[i].heap), 0);
			if (model_below(&random, 5000) == 0)
				REPORT(&models[i], audit(&models[i], 1));
		}
		for (i = 0; i < 2; i++) {
			REPORT(&models[i], audit(&models[i], 1));
			if (model_below(&random, 4) == 0)
				REPORT(&models[i], reopen(&models[i], 1, path[i], home[i]));
			if (model_below(&random, 12) == 0)
				REPORT(&models[i], free_everything(&models[i]));
		}
	}
	for (unsigned i = 0; i < 2; i++) {
		REPORT(&models[i], reopen(&models[i], 1, path[i], home[i]));
		REPORT(&models[i], free_everything(&models[i]));
		REPORT(&models[i], reopen(&models[i], 1, path[i], home[i]));
		assert_int_equal(fm_close(models[i].heap), 0);
		model_forget_all(&models[i].objects);
	}
}

/* ---------------------------------------------------------------- a heap that is full again and again */

/* Allocate by `pick` until the heap is full: the bytes that it took. Full is when no object fits of many in
 * a row, since one that does not may be a large one. */
static uint64_t fill_up(struct model *m, size_t (*pick)(struct model *), uint64_t *left)
{
	for (unsigned refused = 0; refused < 16; ) {
		size_t count = m->objects.count;

		m->operations++;
		*left -= *left > 0;
		REPORT(m, allocate_plain(m, pick(m)));
		refused = m->objects.count > count ? 0 : refused + 1;
	}
	return m->objects.usable_bytes;
}

static void limited_size(void **state)
{
	enum { LIMIT = 32 };
	static const struct {
		size_t (*pick)(struct model *);
		uint64_t bytes; /* that must have gone in before NULL */
	} fills[] = { { pick_small, 27 * MIB }, { pick_medium, 22 * MIB }, { pick_boundary, 12 * MIB },
		      { pick_large, 16 * MIB } };
	struct model m;
	char path[4200];
	uint64_t left = total_operations / 8;
	const void *home;

	(void)state;
	start_model(&m, 2, LIMIT * MIB, 2);
	path_of(path, sizeof path, "limited.fm");
	assert_non_null(open_heap(&m, path, FM_CREATE | FM_EXCL));
	home = m.heap->mem;
	for (unsigned round = 0; round < 4 || left > 0; round++) {
		size_t (*pick)(struct model *) = fills[round % 4].pick;
		uint64_t bytes = fill_up(&m, pick, &left), wanted = fills[round % 4].bytes;
		size_t keep;

		if (bytes < wanted)
			fail_msg("seed %" PRIu64 " round %u: full at %" PRIu64 " bytes", seed, round,
			         bytes);
		REPORT(&m, audit(&m, 1));
		keep = m.objects.count / 4;
		while (m.objects.count > keep)
			REPORT(&m, do_free_object(&m, model_pick(&m.objects, &m.random)));
		// what was given back can be had again, in the sizes in which it was given back
		bytes = fill_up(&m, pick, &left);
		if (bytes < wanted / 2)
			fail_msg("seed %" PRIu64 " round %u: full again at %" PRIu64 " bytes", seed, round,
			         bytes);
		if (chance(&m, 4))
			REPORT(&m, reopen(&m, 1, path, home));
		REPORT(&m, free_everything(&m));
		m.peak = 0;
		REPORT(&m, allocate_plain(&m, LIMIT / 2 * MIB));
		assert_int_equal(m.objects.count, 1);
		REPORT(&m, free_everything(&m));
	}
	assert_int_equal(fm_close(m.heap), 0);
	model_forget_all(&m.objects);
}

/* ---------------------------------------------------------------- threads */

/* Objects that other threads handed to a part, not yet taken over. */
struct inbox {
	pthread_mutex_t mutex;
	struct model_object *items[256];
	unsigned count;
};

struct worker {
	struct model model;
	struct inbox inbox;
	struct model_random random;
	const struct shape *shape;
	uint64_t bytes, operations; /* to do before the next meeting */
	unsigned exits;             /* destructor calls seen by the ending thread */
};

static struct model part_models[PARTS]; /* while nobody runs: the workers' models, side by side */
static struct worker workers[PARTS];
static pthread_key_t ending;

static bool take_over(struct worker *w)
{
	struct model_object *items[256];
	unsigned n;

	pthread_mutex_lock(&w->inbox.mutex);
	n = w->inbox.count;
	memcpy(items, w->inbox.items, n * sizeof items[0]);
	w->inbox.count = 0;
	pthread_mutex_unlock(&w->inbox.mutex);
	for (unsigned i = 0; i < n; i++) {
		struct model_object *o = items[i];
		struct model_object *other = model_overlapping(&w->model.objects, o->offset, o->usable);

		MUST(&w->model, !other, "handed over %#" PRIx64 "+%zu overlaps %#" PRIx64 "+%zu",
		     o->offset, o->usable, other ? other->offset : 0, other ? other->usable : 0);
		model_insert(&w->model.objects, o);
	}
	return true;
}

static void hand_over(struct worker *w)
{
	struct model_object *o = model_pick(&w->model.objects, &w->model.random);
	struct inbox *to = &workers[model_below(&w->random, PARTS)].inbox;

	if (!o)
		return;
	pthread_mutex_lock(&to->mutex);
	if (to->count < sizeof to->items / sizeof to->items[0]) {
		model_take_out(&w->model.objects, o);
		to->items[to->count++] = o;
	}
	pthread_mutex_unlock(&to->mutex);
}

static bool work_step(struct worker *w)
{
	struct fm_statistics s = { .size = sizeof s };
	struct model *m = &w->model;
	bool is_right, in_section = is_shared_atomic(m);

	MUST(m, !in_section || fm_begin(m->heap) == 0, "fm_begin: errno %d (%s)", errno, fm_last_error());
	is_right = model_below(&w->random, 32) != 0 || take_over(w);
	if (is_right && model_below(&w->random, 6) == 0)
		hand_over(w);
	if (model_below(&w->random, 20000) == 0)
		MUST(m, fm_stats(m->heap, &s) == 0, "fm_stats: errno %d", errno);
	is_right = is_right && step(m, w->shape, w->bytes);
	MUST(m, !in_section || fm_end(m->heap) == 0, "fm_end: errno %d (%s)", errno, fm_last_error());
	return is_right;
}

/* One life of a worker's thread: a part of its operations. Also as the destructor of thread data, after
 * the library's own has seen the thread end. */
static void work(struct worker *w, uint64_t n)
{
	while (n-- > 0 && w->operations > 0 && !w->model.error[0]) {
		w->operations--;
		work_step(w);
	}
}

static void at_thread_end(void *arg)
{
	struct worker *w = arg;

	if (++w->exits < 3)
		pthread_setspecific(ending, w);
	else if (!is_shared_atomic(&w->model)) // there is no section any more
		work(w, 30);
}

static void *live(void *arg)
{
	struct worker *w = arg;

	w->exits = 0;
	if (model_below(&w->random, 2) == 0)
		pthread_setspecific(ending, w);
	work(w, 1 + model_below(&w->random, 12000));
	return NULL;
}

/* Thread after thread for one worker, each with what its predecessors left. */
static void *live_again_and_again(void *arg)
{
	struct worker *w = arg;

	while (w->operations > 0 && !w->model.error[0]) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, live, w) != 0 || pthread_join(thread, NULL) != 0)
			wrong(&w->model, "no thread can be started");
	}
	return NULL;
}

/* Let all workers do their operations; then the heap is exactly what they believe together. */
static void run_workers(void)
{
	pthread_t threads[PARTS];

	for (unsigned i = 0; i < PARTS; i++)
		workers[i].model = part_models[i];
	for (unsigned i = 0; i < PARTS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, live_again_and_again, &workers[i]), 0);
	for (unsigned i = 0; i < PARTS; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	for (unsigned i = 0; i < PARTS; i++) {
		REPORT(&workers[i].model, !workers[i].model.error[0] && take_over(&workers[i]));
		part_models[i] = workers[i].model;
	}
	REPORT(&part_models[0], audit(part_models, PARTS));
}

static void threads(void **state)
{
	char path[4200];
	struct model_random random = { model_scramble(seed + 3) };
	uint64_t left = total_operations / 4;
	const void *home;
	fm_heap *first;
	size_t strays = 0;

	(void)state;
	// the process's first heap is the target of whoever sets none: nobody below
	path_of(path, sizeof path, "first.fm");
	first = fm_open(path, FM_CREATE | FM_EXCL | kind, NULL);
	assert_non_null(first);
	path_of(path, sizeof path, "threads.fm");
	assert_int_equal(pthread_key_create(&ending, at_thread_end), 0);
	for (unsigned i = 0; i < PARTS; i++) {
		start_model(&part_models[i], i, 0, 3);
		part_models[i].alone = false;
		workers[i].random.state = model_scramble(seed + 77 + i);
		assert_int_equal(pthread_mutex_init(&workers[i].inbox.mutex, NULL), 0);
	}
	assert_non_null(open_heap(&part_models[0], path, FM_CREATE | FM_EXCL));
	home = part_models[0].heap->mem;
	while (left > 0) {
		uint64_t n = left < 60000 ? left : 60000;

		left -= n;
		for (unsigned i = 0; i < PARTS; i++) {
			// large ones are rare, or most of the time goes into pages
			unsigned kinds = model_below(&random, 8) ? 3 : 5;
			const struct shape *shape = &shapes[model_below(&random, kinds)];

			part_models[i].heap = part_models[0].heap;
			workers[i].shape = shape;
			workers[i].operations = n / PARTS;
			if (workers[i].operations > shape->operations)
				workers[i].operations = shape->operations;
			workers[i].bytes = model_below(&random, shape->bytes / 4);
		}
		run_workers();
		if (model_below(&random, 3) == 0)
			REPORT(&part_models[0], reopen(part_models, PARTS, path, home));
	}
	// the main thread frees what it never allocated
	for (unsigned i = 0; i < PARTS; i++)
		while (part_models[i].objects.count)
			REPORT(&part_models[i],
			       do_free_object(&part_models[i], part_models[i].objects.list[0]));
	REPORT(&part_models[0], audit(part_models, PARTS));
	REPORT(&part_models[0], reopen(part_models, PARTS, path, home));
	assert_int_equal(fm_close(part_models[0].heap), 0);
	assert_int_equal(fm_walk(first, count_seen, &strays), 0);
	assert_int_equal(strays, 0);
	assert_int_equal(fm_close(first), 0);
	for (unsigned i = 0; i < PARTS; i++) {
		model_forget_all(&part_models[i].objects);
		pthread_mutex_destroy(&workers[i].inbox.mutex);
	}
	pthread_key_delete(ending);
}

/* ---------------------------------------------------------------- atomic heaps, on every way of finding pages */

static void as_atomic(void (*test)(void **state), const char *way)
{
	uint64_t all = total_operations;

	kind = FM_ATOMIC;
	total_operations = all / 6;
	setenv("FMALLOC_TRACK", way, 1);
	test(NULL);
	unsetenv("FMALLOC_TRACK");
	total_operations = all;
	kind = 0;
}

static void unlink_heap(const char *name)
{
	char path[4200];

	path_of(path, sizeof path, name);
	unlink(path);
}

static void atomic_operations(void **state)
{
	static const char *const ways[] = { "uffd", "mprotect", "pagemap" };

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		unlink_heap("random0.fm");
		unlink_heap("random1.fm");
		as_atomic(random_operations, ways[i]);
	}
}

static void atomic_limited_size(void **state)
{
	(void)state;
	unlink_heap("limited.fm");
	as_atomic(limited_size, "uffd");
}

static void atomic_threads(void **state)
{
	(void)state;
	unlink_heap("first.fm");
	unlink_heap("threads.fm");
	as_atomic(threads, "uffd");
}

/* ---------------------------------------------------------------- main */

static uint64_t number_from(const char *variable, uint64_t otherwise)
{
	const char *text = getenv(variable);

	return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

static int remove_files(void **state)
{
	static const char *const names[] = { "random0.fm", "random1.fm", "limited.fm", "first.fm",
		                             "threads.fm" };

	(void)state;
	for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
		char path[4200];

		snprintf(path, sizeof path, "%s/%s", folder, names[i]);
		unlink(path);
	}
	return rmdir(folder);
}

static int make_folder(void **state)
{
	(void)state;
	return folder_make(folder, sizeof folder, "fm-model");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_operations),
		cmocka_unit_test(limited_size),
		cmocka_unit_test(threads),
		cmocka_unit_test(atomic_operations),
		cmocka_unit_test(atomic_limited_size),
		cmocka_unit_test(atomic_threads),
	};
	struct timespec now;

	unsetenv("FMALLOC_DEBUG"); // some calls below are wrong on purpose
	clock_gettime(CLOCK_REALTIME, &now);
	seed = number_from("FM_SEED", (uint64_t)now.tv_nsec ^ ((uint64_t)getpid() << 32));
	total_operations = number_from("FM_OPS", 2000000);
	if (getenv("FM_TEST"))
		cmocka_set_test_filter(getenv("FM_TEST"));
	printf("# model: FM_SEED=%" PRIu64 " FM_OPS=%" PRIu64 "\n", seed, total_operations);
	fflush(stdout);
	return cmocka_run_group_tests(tests, make_folder, remove_files);
}
