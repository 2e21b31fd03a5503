/* SPDX-License-Identifier: Apache-2.0
 *
 * Every-store crash of a live heap (test 1 of the plan). Random operations run on a heap in a memory file.
 * At every store of allocator truth, and after every system call that changes the file, the file is copied
 * as a SIGKILL at that instruction would leave it, and the copy is opened:
 *
 *   - it opens with no flag, and fm_check finds nothing;
 *   - every object allocated before is there with its size and content, but for the one that is being freed
 *     or resized, which is there or is not; nothing else is there but the one block in flight;
 *   - the roots are those from before or after the operation;
 *   - closed and opened again it holds exactly the same (a quarter of the states);
 *   - it works on: objects are allocated and freed, or all are freed and no slab and no space is left.
 *
 * Linked with the hook build; uses src/os/os.h and src/store/format.h through crash_util.h.
 *
 *   FM_STATES  states to examine, all scenarios together
 *   FM_SCALE   per cent of the default number of states
 *   FM_SEED    of everything random; FM_ROUND: of each scenario only this round, as printed
 *   FM_SCENARIO  only the scenarios in whose name this occurs
 */
#define _GNU_SOURCE 1
#include "crash_util.h"

#include <pthread.h>

void (*fm_truth_hook)(const uint64_t *word);

#define STATES      80000
#define MAX_OBJECTS 400
#define JOINED_LEN  (3 * 480)
#define FILLING     550 /* operations, the last of which free */
#define EMPTYING    200
#define MAX_ROOTS   40
#define MIB         (UINT64_C(1) << 20)
#define GIB         (UINT64_C(1) << 30)

/* ---------------------------------------------------------------- what the heap must hold */

struct object {
	uint64_t off;
	uint64_t id;   /* of its content */
	size_t size;   /* as asked for, and filled */
	size_t usable;
};

struct root {
	bool is_set;
	uint64_t target, tag;
};

enum verb {
	MALLOC, CALLOC, ALIGNED, REALLOC, FREE,      /* by the main thread */
	HELPER_MALLOC, HELPER_FREE, HELPER_REALLOC,  /* by another one */
	HELPER_EXIT,
	ROOT_SET, ROOT_REMOVE,
	REOPEN,
	VERBS
};

static const char *const verb_name[VERBS] = {
	"malloc", "calloc", "aligned", "realloc", "free", "helper malloc", "helper free", "helper realloc",
	"helper exit", "root set", "root remove", "reopen",
};

/* The operation in flight. */
struct op {
	enum verb verb;
	bool is_done;            /* and the model knows its result: nothing may differ */
	const struct object *old; /* the object being freed or resized, or NULL */
	size_t size, alignment;  /* of the one being allocated */
	bool may_add;            /* an object may appear */
	unsigned root_no;
	struct root root;        /* its new value */
};

struct scenario {
	const char *name;
	unsigned share;     /* per mille of all states */
	unsigned ops;       /* of a round */
	unsigned keep;      /* objects at most */
	uint64_t max_size;  /* of the file */
	unsigned prelude; /* operations of prelude[] that a round begins with */
	bool joins;    /* objects of joined slots must come up */
	bool is_dense; /* files have all their blocks; else memory comes as it is touched, which is faster */
	unsigned weight[VERBS];
	size_t (*size)(uint64_t *rng);
};

/* Shared with the process that opens the copies: it has none of this one's locks, threads and heaps. */
static struct test {
	struct crash_file original, copy;
	const struct scenario *scenario;
	fm_heap *heap;
	struct fm_options options;
	uint64_t seed, round, rng, look_rng, next_id;
	size_t few[6];            /* the sizes of this round, where the scenario wants few */
	struct object object[MAX_OBJECTS]; /* by rising offset */
	unsigned count;
	struct root root[MAX_ROOTS];
	struct op op;
	unsigned op_no, state_no; /* of the round, of the operation */
	bool is_watching;
	uint64_t states;          /* examined in all */
	uint64_t extended;        /* those of a directory with an extent */
	uint64_t joined;          /* objects of joined slots */
	uint64_t blocks;          /* that the copy pretends to have */
	void (*look)(void);       /* what the other process is to do */
	unsigned found_heap, found_zeros; /* in a file that becomes a heap */
	char failure[600];
} *t;

static void fail_state(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void fail_state(const char *format, ...)
{
	char what[300];
	va_list args;

	if (t->failure[0])
		return;
	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	snprintf(t->failure, sizeof(t->failure),
	         "%s: FM_SEED=%llu FM_ROUND=%llu operation %u (%s, size %zu) state %u: %s", t->scenario->name,
	         (unsigned long long)t->seed, (unsigned long long)t->round, t->op_no, verb_name[t->op.verb],
	         t->op.size, t->state_no, what);
}

static void root_name(unsigned no, char name[256])
{
	size_t len = (size_t)snprintf(name, 256, "root %u ", no);

	/* every eighth has the longest name there is */
	if (no % 8 == 0) {
		memset(name + len, 'x', 255 - len);
		name[255] = 0;
	}
}

/* ---------------------------------------------------------------- looking at a copy */

/* What a walk through the opened copy found. */
struct look {
	const fm_heap *heap;
	unsigned next;      /* object of the model that is due */
	uint64_t hash;
	unsigned found, missing, added;
	const struct object *gone;
	bool is_old_there;
	uint64_t added_off;
	size_t added_usable;
	unsigned roots[MAX_ROOTS]; /* how often each was seen */
};

static void hash_in(struct look *look, uint64_t value)
{
	look->hash = proc_mix(look->hash ^ value);
}

static void note_gone(struct look *look)
{
	look->gone = &t->object[look->next++];
	look->missing++;
}

static void look_at_known(struct look *look, const uint8_t *p, size_t usable)
{
	const struct object *object = &t->object[look->next++];
	bool is_old = object == t->op.old && !t->op.is_done;

	look->found++;
	look->is_old_there |= is_old;
	if (usable != object->usable && !(is_old && t->op.size <= usable))
		fail_state("object at %#llx has %zu usable bytes, not %zu", (unsigned long long)object->off,
		           usable, object->usable);
	if (!crash_is_intact(p, object->id, object->size, usable))
		fail_state("object at %#llx of %zu bytes is damaged", (unsigned long long)object->off,
		           object->size);
}

static int look_at_object(void *p, size_t usable, void *arg)
{
	struct look *look = arg;
	uint64_t off = fm_offset_of(look->heap, p);

	hash_in(look, off);
	hash_in(look, usable);
	while (look->next < t->count && t->object[look->next].off < off)
		note_gone(look);
	if (look->next < t->count && t->object[look->next].off == off) {
		look_at_known(look, p, usable);
		return 0;
	}
	look->found++;
	look->added++;
	look->added_off = off;
	look->added_usable = usable;
	return 0;
}

static bool is_object(uint64_t off)
{
	for (unsigned i = 0; i < t->count; i++)
		if (t->object[i].off == off)
			return &t->object[i] != t->op.old;
	return false;
}

/* A root whose object was freed may be NULL: the file may end before it. */
static bool is_root(const struct root *root, uint64_t target, uint64_t tag)
{
	return root->is_set && root->tag == tag &&
	       (root->target == target || (target == 0 && !is_object(root->target)));
}

static int look_at_root(const char *name, void *p, uint64_t tag, void *arg)
{
	struct look *look = arg;
	uint64_t target = fm_offset_of(look->heap, p);
	char expected[256];
	unsigned no;

	hash_in(look, proc_mix(tag));
	if (sscanf(name, "root %u ", &no) != 1 || no >= MAX_ROOTS || look->roots[no]++)
		return fail_state("root '%s'", name), 0;
	root_name(no, expected);
	if (strcmp(name, expected) != 0)
		fail_state("root's name '%s'", name);
	if (!is_root(&t->root[no], target, tag) &&
	    !(t->op.verb == ROOT_SET && t->op.root_no == no && is_root(&t->op.root, target, tag)))
		fail_state("root %u has target %#llx and tag %llu, not %#llx and %llu", no,
		           (unsigned long long)target, (unsigned long long)tag,
		           (unsigned long long)t->root[no].target, (unsigned long long)t->root[no].tag);
	return 0;
}

static void judge_roots(const struct look *look)
{
	for (unsigned i = 0; i < MAX_ROOTS; i++) {
		bool in_flight = (t->op.verb == ROOT_SET || t->op.verb == ROOT_REMOVE) && t->op.root_no == i &&
		                 !t->op.is_done;

		/* one being set for the first time, or removed, may be there or not; one being replaced is */
		if (in_flight && !(t->op.verb == ROOT_SET && t->root[i].is_set))
			continue;
		if (look->roots[i] != t->root[i].is_set)
			fail_state("root %u is %s", i, look->roots[i] ? "there" : "missing");
	}
}

/* Is what differs from the model what the operation in flight may have done so far? */
static void judge_difference(const struct look *look)
{
	const struct op *op = &t->op;
	bool is_old_gone = look->missing == 1 && op->old && look->gone == op->old && !op->is_done;
	bool may_add = op->may_add && !op->is_done;
	const uint8_t *added = (const uint8_t *)look->heap->mem + look->added_off;

	if (look->missing > is_old_gone)
		fail_state("%u objects are missing, one at %#llx", look->missing,
		           (unsigned long long)look->gone->off);
	if (look->added > may_add)
		fail_state("%u objects too many, one at %#llx of %zu bytes", look->added,
		           (unsigned long long)look->added_off, look->added_usable);
	if (look->added && op->size > look->added_usable)
		fail_state("the block in flight has %zu bytes", look->added_usable);
	if (look->added && op->alignment && look->added_off % op->alignment)
		fail_state("the block in flight is not aligned: %#llx", (unsigned long long)look->added_off);
	if (is_old_gone && (op->verb == REALLOC || op->verb == HELPER_REALLOC)) {
		size_t kept = op->size < op->old->size ? op->size : op->old->size;

		if (look->added != 1)
			fail_state("realloc lost the object");
		else if (!crash_is_intact(added, op->old->id, op->old->size, kept))
			fail_state("realloc's new block lacks the content");
	}
}

static void print_finding(const struct fm_finding *f, void *arg)
{
	(void)arg;
	fail_state("finding at %#llx (%#llx): %s", (unsigned long long)f->offset, (unsigned long long)f->value,
	           f->text);
}

static fm_heap *open_copy(void)
{
	fm_heap *heap = fm_open_fd(t->copy.fd, 0, &t->options);

	if (!heap)
		fail_state("opening: %s (%s)", strerror(errno), fm_last_error());
	return heap;
}

static void look_at(fm_heap *heap, struct look *look)
{
	memset(look, 0, sizeof(*look));
	look->heap = heap;
	if (fm_check(heap, print_finding, NULL) != 0)
		fail_state("fm_check: %s", fm_last_error());
	if (fm_walk(heap, look_at_object, look) != 0)
		fail_state("fm_walk: %s", fm_last_error());
	while (look->next < t->count)
		note_gone(look);
	if (fm_root_each(heap, look_at_root, look) != 0)
		fail_state("fm_root_each: %s", fm_last_error());
	judge_difference(look);
	judge_roots(look);
}

static void close_copy(fm_heap *heap)
{
	if (fm_close(heap) != 0)
		fail_state("closing: %s (%s)", strerror(errno), fm_last_error());
}

/* Allocate and free in the reopened heap. */
static void use_copy(fm_heap *heap, const struct look *look)
{
	struct object made[4];
	unsigned n = 1 + (unsigned)proc_below(&t->look_rng, 4);
	uint64_t left = look->found;

	if (look->added && proc_below(&t->look_rng, 2)) {
		if (fm_free(fm_at(heap, look->added_off)) != 0)
			fail_state("freeing the block in flight: %s", fm_last_error());
		left--;
	}
	for (unsigned i = 0; i < 2 && t->count; i++) {
		const struct object *object = &t->object[proc_below(&t->look_rng, t->count)];

		if (object == look->gone || fm_usable_size(fm_at(heap, object->off)) == 0)
			continue; /* gone, or freed by the turn before */
		if (fm_free(fm_at(heap, object->off)) != 0)
			fail_state("freeing %#llx: %s", (unsigned long long)object->off, fm_last_error());
		left--;
	}
	for (unsigned i = 0; i < n; i++) {
		void *p;

		made[i].size = t->scenario->size(&t->look_rng);
		made[i].id = UINT64_MAX / 2 + i;
		p = fm_malloc(heap, made[i].size);
		made[i].off = fm_offset_of(heap, p);
		if (!p)
			continue; /* the file may not be larger */
		crash_fill(p, made[i].id, made[i].size);
		left++;
	}
	for (unsigned i = 0; i < n; i++)
		if (made[i].off && !crash_is_intact(fm_at(heap, made[i].off), made[i].id, made[i].size, SIZE_MAX))
			fail_state("an object made after reopening is damaged");
	if (fm_check(heap, print_finding, NULL) != 0)
		fail_state("fm_check after use: %s", fm_last_error());
	if (proc_count_objects(heap) != left)
		fail_state("%llu objects after use, not %llu", (unsigned long long)proc_count_objects(heap),
		           (unsigned long long)left);
}

static int free_visited(void *p, size_t usable, void *arg)
{
	(void)usable;
	(void)arg;
	if (fm_free(p) != 0)
		fail_state("freeing: %s", fm_last_error());
	return 0;
}

/* Free everything in the reopened heap: no slab and no space may be left. */
static void empty_copy(fm_heap *heap)
{
	const struct truth_page_rec *truth = (const void *)((const char *)heap->mem + TRUTH_PAGE_OFF);
	struct fm_statistics stats = {.size = sizeof(stats)};
	bool has_table;

	if (fm_walk(heap, free_visited, NULL) != 0)
		fail_state("fm_walk: %s", fm_last_error());
	for (unsigned i = 0; i < MAX_ROOTS; i++) {
		char name[256];

		root_name(i, name);
		if (fm_root_remove(heap, name) != 0 && errno != ENOENT)
			fail_state("removing a root: %s", fm_last_error());
	}
	close_copy(heap);
	heap = open_copy();
	if (!heap)
		return;
	truth = (const void *)((const char *)heap->mem + TRUTH_PAGE_OFF);
	has_table = truth->root_table != 0;
	if (fm_stats(heap, &stats) != 0)
		fail_state("fm_stats: %s", fm_last_error());
	if (stats.live_objects || stats.slab_bytes != has_table * UNIT_SIZE || stats.remote_frees)
		fail_state("after freeing all: %llu objects, %llu bytes in slabs, %llu remote frees",
		           (unsigned long long)stats.live_objects, (unsigned long long)stats.slab_bytes,
		           (unsigned long long)stats.remote_frees);
	if (!has_table && truth->directory_extent[0] == 0 && stats.file_size != HEAP_MIN_SIZE)
		fail_state("after freeing all the file has %llu bytes", (unsigned long long)stats.file_size);
	close_copy(heap);
}

static void look_and_use(void)
{
	struct look look, again;
	fm_heap *heap = open_copy();

	if (!heap)
		return;
	look_at(heap, &look);
	if (proc_below(&t->look_rng, 4) == 0) {
		close_copy(heap);
		heap = open_copy();
		if (!heap)
			return;
		look_at(heap, &again);
		if (look.hash != again.hash || look.found != again.found)
			fail_state("reopening changed what the heap holds");
	}
	if (proc_below(&t->look_rng, 16) == 0) {
		empty_copy(heap);
		return;
	}
	use_copy(heap, &look);
	close_copy(heap);
}

/* ---------------------------------------------------------------- the process that looks */

static struct {
	pid_t pid;
	int to, from; /* pipes */
} looker;

static void looker_main(int from, int to)
{
	char byte;

	while (read(from, &byte, 1) == 1) {
		crash.blocks = t->blocks;
		t->look();
		if (write(to, &byte, 1) != 1)
			break;
	}
	_exit(0);
}

static void looker_start(void)
{
	static const int taken[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGSYS};
	int to[2], from[2];

	assert_int_equal(pipe2(to, O_CLOEXEC), 0);
	assert_int_equal(pipe2(from, O_CLOEXEC), 0);
	fflush(NULL);
	looker.pid = fork();
	assert_true(looker.pid >= 0);
	if (looker.pid == 0) {
		for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++)
			signal(taken[i], SIG_DFL);
		close(to[1]);
		close(from[0]);
		looker_main(to[0], from[1]);
	}
	close(to[0]);
	close(from[1]);
	looker.to = to[1];
	looker.from = from[0];
}

/* Its exit code. */
static int looker_end(void)
{
	close(looker.to);
	close(looker.from);
	return proc_end(looker.pid);
}

/* Copy the file as it is now, and let the other process call look(). */
static void examine_by(void (*look)(void))
{
	int saved = errno;
	char byte = 0;

	if (!t->is_watching || t->failure[0])
		return;
	t->state_no++;
	t->states++;
	crash_copy(&t->original, &t->copy);
	if (crash_file_size(&t->copy) >= UNIT_SIZE)
		t->extended += ((const struct truth_page_rec *)(const void *)(t->copy.map + TRUTH_PAGE_OFF))
		                       ->directory_extent[0] != 0;
	/* sometimes the copy looks as if it had lost blocks */
	t->blocks = proc_below(&t->look_rng, 8) ? crash.blocks : 0;
	t->look = look;
	if (write(looker.to, &byte, 1) != 1 || read(looker.from, &byte, 1) != 1)
		fail_state("the process that opened the copy died");
	errno = saved;
}

static void examine(void)
{
	examine_by(look_and_use);
}

static bool lies_in_truth(uint64_t off, uint64_t value)
{
	const struct truth_page_rec *truth = (const void *)(t->original.map + TRUTH_PAGE_OFF);
	const uint64_t *directory = (const void *)(t->original.map + DIRECTORY_OFF);
	uint64_t segment_no = off >> SEGMENT_SHIFT;

	/* an extent of the directory, before it counts */
	if (value == 0 && segment_no > 0 && segment_no < DIRECTORY_INLINE_WORDS &&
	    directory[segment_no] == SEGMENT_FREE)
		return true;
	for (unsigned i = 0; i < DIRECTORY_EXTENTS; i++)
		if (segment_no && truth->directory_extent[i] == segment_no)
			return true;
	if (off < UNIT_SIZE)
		return off >= TRUTH_PAGE_OFF && off < FIRST_JOURNAL_OFF;
	/* words of the root table are an object's; roots are looked at in every state */
	return (off >= metadata_off(segment_no) && off < metadata_off(segment_no) + UNIT_SIZE) ||
	       t->op.verb == ROOT_SET || t->op.verb == ROOT_REMOVE;
}

static void hook(const uint64_t *word)
{
	if (!t->is_watching || t->failure[0])
		return;
	if ((uintptr_t)word % 8)
		fail_state("a store of truth that is not aligned");
	if (t->heap && !lies_in_truth(fm_offset_of(t->heap, word), *word))
		fail_state("a store of truth to offset %#llx", (unsigned long long)fm_offset_of(t->heap, word));
	/* a giant object has a thousand interior segments, set one by one and cleared: one in 64 is looked at */
	if (t->scenario->max_size > 8 * GIB && *word <= SEGMENT_INTERIOR && t->state_no > 8 &&
	    proc_below(&t->look_rng, 64))
		return;
	examine();
}

/* ---------------------------------------------------------------- the other thread */

static struct {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool is_running, has_work;
	void *(*work)(void *arg);
	void *arg, *result;
	int error;
} helper = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

static void *helper_main(void *arg)
{
	pthread_mutex_lock(&helper.lock);
	for (;;) {
		while (!helper.has_work)
			pthread_cond_wait(&helper.cond, &helper.lock);
		if (!helper.work)
			break;
		helper.result = helper.work(helper.arg);
		helper.error = errno;
		helper.has_work = false;
		pthread_cond_broadcast(&helper.cond);
	}
	helper.has_work = false;
	pthread_mutex_unlock(&helper.lock);
	return arg;
}

/* Let the helper call work(arg), and wait for it; work == NULL ends it. */
static void *helper_do(void *(*work)(void *), void *arg)
{
	void *result = NULL;

	if (!helper.is_running && !work)
		return NULL;
	if (!helper.is_running) {
		assert_int_equal(pthread_create(&helper.thread, NULL, helper_main, NULL), 0);
		helper.is_running = true;
	}
	pthread_mutex_lock(&helper.lock);
	helper.work = work;
	helper.arg = arg;
	helper.has_work = true;
	pthread_cond_broadcast(&helper.cond);
	while (work && helper.has_work)
		pthread_cond_wait(&helper.cond, &helper.lock);
	result = helper.result;
	errno = helper.error;
	pthread_mutex_unlock(&helper.lock);
	if (!work) {
		pthread_join(helper.thread, NULL);
		helper.is_running = false;
	}
	return result;
}

/* ---------------------------------------------------------------- operations */

static void *do_alloc(void *arg)
{
	(void)arg;
	if (t->op.verb == CALLOC)
		return fm_calloc(t->heap, 1, t->op.size);
	if (t->op.alignment)
		return fm_aligned_alloc(t->heap, t->op.alignment, t->op.size);
	return fm_malloc(t->heap, t->op.size);
}

static void *do_free(void *arg)
{
	return fm_free(arg) == 0 ? arg : NULL;
}

static void *do_realloc(void *arg)
{
	return fm_realloc(t->heap, arg, t->op.size);
}

static void model_add(void *p)
{
	struct object object = {fm_offset_of(t->heap, p), t->next_id++, t->op.size, fm_usable_size(p)};
	unsigned at = t->count++;

	while (at > 0 && t->object[at - 1].off > object.off) {
		t->object[at] = t->object[at - 1];
		at--;
	}
	t->object[at] = object;
	t->joined += object.usable == JOINED_LEN && t->scenario->joins;
	crash_fill(p, object.id, object.size);
}

static void model_remove(const struct object *object)
{
	unsigned at = (unsigned)(object - t->object);

	memmove(&t->object[at], &t->object[at + 1], (--t->count - at) * sizeof(*object));
}

/* Slabs are to be full, and then to have holes, before slots are joined; nothing of this is new to the scenarios. */
static bool is_filling(void)
{
	return t->scenario->joins && t->op_no < FILLING;
}

static void *run(void *(*work)(void *), void *arg, bool by_helper)
{
	void *result;

	t->is_watching = !is_filling();
	result = by_helper ? helper_do(work, arg) : work(arg);
	t->is_watching = false;
	return result;
}

static void allocate(bool by_helper)
{
	void *p;

	t->op.may_add = true;
	p = run(do_alloc, NULL, by_helper);
	if (!p && errno != ENOMEM)
		fail_state("allocating: %s (%s)", strerror(errno), fm_last_error());
	if (p && t->op.verb == CALLOC)
		for (size_t i = 0; i < t->op.size; i++)
			if (((uint8_t *)p)[i])
				fail_state("calloc gave a byte that is not zero");
	if (p)
		model_add(p);
}

static void release(bool by_helper)
{
	const struct object *object = &t->object[proc_below(&t->rng, t->count)];

	if (t->op_no <= t->scenario->prelude)
		object = &t->object[0];
	t->op.old = object;
	if (!run(do_free, fm_at(t->heap, object->off), by_helper))
		fail_state("freeing: %s (%s)", strerror(errno), fm_last_error());
	model_remove(object);
}

static void resize(bool by_helper)
{
	const struct object *object = &t->object[proc_below(&t->rng, t->count)];
	size_t kept;
	void *p;

	/* half of the time near the old size: large ones change in place */
	if (proc_below(&t->rng, 2))
		t->op.size = object->size / 2 + proc_below(&t->rng, object->size + 2);
	kept = t->op.size < object->size ? t->op.size : object->size;
	t->op.old = object;
	t->op.may_add = true;
	p = run(do_realloc, fm_at(t->heap, object->off), by_helper);
	if (!p) {
		if (errno != ENOMEM)
			fail_state("realloc: %s (%s)", strerror(errno), fm_last_error());
		return;
	}
	if (!crash_is_intact(p, object->id, object->size, kept))
		fail_state("realloc lost the content");
	model_remove(object);
	model_add(p);
}

static void set_root(void)
{
	char name[256];
	int r;

	root_name(t->op.root_no, name);
	t->op.root.is_set = true;
	t->op.root.tag = proc_below(&t->rng, 1000);
	if (t->count && proc_below(&t->rng, 8))
		t->op.root.target = t->object[proc_below(&t->rng, t->count)].off;
	t->op.may_add = true;
	t->op.size = 0;
	t->is_watching = true;
	r = fm_root_set(t->heap, name, fm_at(t->heap, t->op.root.target), t->op.root.tag);
	t->is_watching = false;
	if (r == 0)
		t->root[t->op.root_no] = t->op.root;
	else if (errno != ENOMEM)
		fail_state("fm_root_set: %s (%s)", strerror(errno), fm_last_error());
}

static void remove_root(void)
{
	char name[256];
	int r;

	root_name(t->op.root_no, name);
	t->op.may_add = true; /* the record, no longer named and not yet freed */
	t->op.size = 0;
	t->is_watching = true;
	r = fm_root_remove(t->heap, name);
	t->is_watching = false;
	if (r != (t->root[t->op.root_no].is_set ? 0 : -1))
		fail_state("fm_root_remove: %d, %s", r, fm_last_error());
	t->root[t->op.root_no].is_set = false;
}

/* Close, trim, mark clean, open, examine, harvest: nothing may change. */
static void reopen(void)
{
	int r;

	t->is_watching = true;
	r = fm_close(t->heap);
	t->heap = NULL;
	if (r)
		fail_state("closing: %s", fm_last_error());
	examine();
	t->heap = fm_open_fd(t->original.fd, 0, &t->options);
	t->is_watching = false;
	if (!t->heap)
		fail_state("opening: %s", fm_last_error());
}

/* More than the header's directory has words for: its extent comes where an object was freed. */
static const enum verb prelude[] = {MALLOC, MALLOC, MALLOC, FREE, MALLOC};

static enum verb choose_verb(void)
{
	const unsigned *weight = t->scenario->weight;
	unsigned all = 0;
	uint64_t pick;

	if (is_filling())
		return t->op_no < FILLING - EMPTYING ? MALLOC : FREE;
	if (t->op_no <= t->scenario->prelude)
		return prelude[t->op_no - 1];
	for (unsigned i = 0; i < VERBS; i++)
		all += weight[i];
	pick = proc_below(&t->rng, all);
	for (unsigned i = 0; i < VERBS; i++) {
		if (pick < weight[i])
			return (enum verb)i;
		pick -= weight[i];
	}
	return FREE;
}

static bool needs_object(enum verb verb)
{
	return verb == REALLOC || verb == FREE || verb == HELPER_FREE || verb == HELPER_REALLOC;
}

static void one_operation(void)
{
	enum verb verb = choose_verb();
	bool is_full = t->count >= t->scenario->keep;

	if (needs_object(verb) && !t->count)
		verb = MALLOC;
	if (!needs_object(verb) && verb < HELPER_EXIT && is_full)
		verb = verb < HELPER_MALLOC ? FREE : HELPER_FREE;
	memset(&t->op, 0, sizeof(t->op));
	t->op.verb = verb;
	t->op.size = t->scenario->size(&t->rng);
	t->op.root_no = (unsigned)proc_below(&t->rng, MAX_ROOTS);
	t->state_no = 0;
	switch (verb) {
	case ALIGNED:
		t->op.alignment = (size_t)16 << proc_below(&t->rng, 9);
		if (proc_below(&t->rng, 8) == 0 && t->scenario->max_size > 24 * MIB)
			t->op.alignment = SEGMENT_SIZE;
		/* fall through */
	case MALLOC:
	case CALLOC:
	case HELPER_MALLOC:
		allocate(verb == HELPER_MALLOC);
		break;
	case REALLOC:
	case HELPER_REALLOC:
		resize(verb == HELPER_REALLOC);
		break;
	case FREE:
	case HELPER_FREE:
		release(verb == HELPER_FREE);
		break;
	case HELPER_EXIT:
		t->is_watching = true;
		helper_do(NULL, NULL);
		t->is_watching = false;
		break;
	case ROOT_SET:
		set_root();
		break;
	case ROOT_REMOVE:
		remove_root();
		break;
	default:
		reopen();
	}
	/* what it left behind: all of it is done */
	t->op.is_done = true;
	t->is_watching = true;
	if (!t->failure[0] && proc_below(&t->rng, 4) == 0)
		examine();
	t->is_watching = false;
}

/* ---------------------------------------------------------------- scenarios */

static size_t small_size(uint64_t *rng)
{
	return t->few[proc_below(rng, 3)] >> 7;
}

static size_t slab_size(uint64_t *rng)
{
	return t->few[proc_below(rng, 4)];
}

static size_t mixed_size(uint64_t *rng)
{
	if (proc_below(rng, 64) == 0)
		return 4 * MIB + proc_below(rng, 5 * MIB);
	return (size_t)1 << proc_below(rng, 17) << proc_below(rng, 2) | proc_below(rng, 64);
}

static size_t large_size(uint64_t *rng)
{
	switch (proc_below(rng, 8)) {
	case 0:
		return 4 * MIB + proc_below(rng, 5 * MIB);
	case 1:
		return t->few[0];
	default:
		return 520 * 1024 + proc_below(rng, 3 * MIB);
	}
}

static size_t giant_size(uint64_t *rng)
{
	if (t->op_no <= t->scenario->prelude)
		return t->op_no == 1 ? 20 * MIB : 3 * GIB + proc_below(rng, GIB);
	if (proc_below(rng, 3) == 0)
		return t->few[proc_below(rng, 4)];
	return proc_below(rng, 6) ? GIB + proc_below(rng, 3 * GIB) : 5 * MIB + proc_below(rng, 40 * MIB);
}

/* Slots of 480 bytes take all units; what would need a slab of its own then takes JOINED_LEN of those. */
static size_t joined_size(uint64_t *rng)
{
	return is_filling() || proc_below(rng, 2) ? 449 + proc_below(rng, 32) : 1281 + proc_below(rng, 128);
}

/* Sizes 16..4096 (>> 7) or 2 KiB..512 KiB: few of them, so that slabs fill up and get empty. */
static const struct scenario scenarios[] = {
	{
		.name = "small objects", .share = 400, .ops = 400, .keep = 300, .max_size = 16 * MIB,
		.weight = {[MALLOC] = 30, [CALLOC] = 4, [ALIGNED] = 4, [REALLOC] = 10, [FREE] = 24,
		           [HELPER_MALLOC] = 20, [HELPER_FREE] = 20, [HELPER_REALLOC] = 4, [HELPER_EXIT] = 2,
		           [REOPEN] = 1},
		.size = small_size,
	},
	{
		.name = "slabs come and go", .share = 300, .ops = 200, .keep = 60, .max_size = 24 * MIB,
		.weight = {[MALLOC] = 30, [CALLOC] = 2, [ALIGNED] = 2, [REALLOC] = 6, [FREE] = 24,
		           [HELPER_MALLOC] = 20, [HELPER_FREE] = 24, [HELPER_REALLOC] = 2, [HELPER_EXIT] = 4,
		           [REOPEN] = 3},
		.size = slab_size,
	},
	{
		.name = "joined slots", .share = 50, .ops = 900, .keep = 390, .max_size = 5 * 64 * 1024, .joins = true,
		.weight = {[MALLOC] = 30, [CALLOC] = 4, [REALLOC] = 6, [FREE] = 24, [HELPER_FREE] = 14,
		           [HELPER_EXIT] = 1},
		.size = joined_size,
	},
	{
		.name = "roots", .share = 122, .ops = 200, .keep = 40, .max_size = 8 * MIB, .is_dense = true,
		.weight = {[MALLOC] = 8, [FREE] = 6, [HELPER_FREE] = 2, [ROOT_SET] = 40, [ROOT_REMOVE] = 20,
		           [REOPEN] = 2},
		.size = small_size,
	},
	{
		.name = "everything", .share = 100, .ops = 200, .keep = 80, .max_size = 48 * MIB,
		.weight = {[MALLOC] = 20, [CALLOC] = 4, [ALIGNED] = 8, [REALLOC] = 16, [FREE] = 20,
		           [HELPER_MALLOC] = 10, [HELPER_FREE] = 10, [HELPER_REALLOC] = 4, [HELPER_EXIT] = 2,
		           [ROOT_SET] = 3, [ROOT_REMOVE] = 2, [REOPEN] = 4},
		.size = mixed_size,
	},
	{
		.name = "runs and huge objects", .share = 23, .ops = 80, .keep = 8, .max_size = 48 * MIB,
		.weight = {[MALLOC] = 20, [CALLOC] = 1, [ALIGNED] = 6, [REALLOC] = 30, [FREE] = 20,
		           [HELPER_FREE] = 4, [HELPER_REALLOC] = 4, [REOPEN] = 4},
		.size = large_size,
	},
	{
		.name = "more segments than the first directory has", .share = 5, .ops = 40, .keep = 12,
		.max_size = 14 * GIB, .prelude = sizeof(prelude) / sizeof(prelude[0]),
		.weight = {[MALLOC] = 30, [FREE] = 12, [HELPER_FREE] = 2, [REOPEN] = 4},
		.size = giant_size,
	},
};

static void begin_round(const struct scenario *scenario, uint64_t round)
{
	t->scenario = scenario;
	t->round = round;
	t->rng = proc_mix(t->seed + round * 1000003 + (uint64_t)(scenario - scenarios));
	t->look_rng = proc_mix(t->rng);
	t->count = 0;
	t->op_no = 0;
	t->heap = NULL;
	memset(t->root, 0, sizeof(t->root));
	for (unsigned i = 0; i < 6; i++)
		t->few[i] = (size_t)2048 << proc_below(&t->rng, 8) | proc_below(&t->rng, 2048);
	crash.stop = examine;
	if (ftruncate(t->original.fd, 0) || ftruncate(t->copy.fd, 0))
		abort();
	t->options = (struct fm_options){.size = sizeof(t->options), .max_size = scenario->max_size,
	                                .address_space = scenario->max_size,
	                                .disable = FM_NO_ATFORK | FM_NO_EXIT_SYNC};
	t->heap = fm_open_fd(t->original.fd, FM_CREATE, &t->options);
	assert_non_null(t->heap);
	fm_truth_hook = hook;
}

static void end_round(void)
{
	helper_do(NULL, NULL);
	if (t->heap)
		fm_close(t->heap);
	fm_truth_hook = NULL;
}

static void begin_scenario(const struct scenario *scenario)
{
	t->failure[0] = 0;
	crash_begin(&t->original, &t->copy, NULL);
	crash.is_sparse = !scenario->is_dense;
	looker_start();
}

static void end_scenario(void)
{
	int code = looker_end();

	crash_end();
	if (t->failure[0])
		fail_msg("%s (%d)", t->failure, code);
	assert_int_equal(code, 0);
}

static void run_scenario(void **state)
{
	const struct scenario *scenario = *state;
	uint64_t wanted = proc_env("FM_STATES", STATES * proc_env("FM_SCALE", 100) / 100) * scenario->share / 1000;
	uint64_t only = proc_env("FM_ROUND", 0), first = t->states;
	double start = proc_now();

	if (getenv("FM_SCENARIO") && !strstr(scenario->name, getenv("FM_SCENARIO")))
		skip();
	begin_scenario(scenario);
	for (uint64_t round = only ? only : 1; t->states - first < wanted && !t->failure[0]; round++) {
		begin_round(scenario, round);
		while (t->op_no < scenario->ops && !t->failure[0] &&
		       (only || t->op_no < scenario->prelude || t->states - first < wanted)) {
			t->op_no++;
			one_operation();
		}
		end_round();
		if (only)
			break;
	}
	printf("# %s: %llu states, %.0f a second\n", scenario->name, (unsigned long long)(t->states - first),
	       (double)(t->states - first) / (proc_now() - start));
	end_scenario();
	if (scenario->max_size > 8 * GIB && !only)
		assert_true(t->extended > 0);
	if (scenario->joins && !only)
		assert_true(t->joined > 0);
}

/* ---------------------------------------------------------------- creation */

/* While a file becomes a heap it is a file of zeros, or the empty heap. */
static void look_at_creation(void)
{
	fm_heap *heap = fm_open_fd(t->copy.fd, 0, &t->options);
	struct look look;

	if (heap)
		t->found_heap++;
	else if (errno != EILSEQ)
		fail_state("opening: %s", fm_last_error());
	else
		t->found_zeros++;
	if (heap)
		close_copy(heap);
	heap = fm_open_fd(t->copy.fd, FM_CREATE, &t->options);
	if (!heap) {
		fail_state("creating: %s", fm_last_error());
		return;
	}
	look_at(heap, &look);
	use_copy(heap, &look);
	close_copy(heap);
}

static void examine_creation(void)
{
	examine_by(look_at_creation);
}

static void hook_creation(const uint64_t *word)
{
	(void)word;
	examine_creation();
}

static void test_creation(void **state)
{
	static const uint64_t sizes[] = {0, 1, 4096, 100000, HEAP_MIN_SIZE, 5 * MIB + 3};

	(void)state;
	begin_scenario(&scenarios[0]);
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		begin_round(&scenarios[0], i);
		assert_int_equal(fm_close(t->heap), 0);
		assert_int_equal(ftruncate(t->original.fd, 0), 0);
		assert_int_equal(ftruncate(t->original.fd, (off_t)sizes[i]), 0);
		crash.stop = examine_creation;
		fm_truth_hook = hook_creation;
		t->op = (struct op){.verb = REOPEN};
		t->state_no = 0;
		t->is_watching = true;
		t->heap = fm_open_fd(t->original.fd, FM_CREATE, &t->options);
		assert_non_null(t->heap);
		assert_int_equal(fm_close(t->heap), 0);
		t->is_watching = false;
		t->heap = NULL;
		end_round();
	}
	end_scenario();
	assert_true(t->found_heap >= 12);
	assert_true(t->found_zeros >= 6);
}

int main(void)
{
	struct CMUnitTest tests[1 + sizeof(scenarios) / sizeof(scenarios[0])];
	unsigned n = 0;

	t = proc_shared(sizeof(*t));
	t->seed = proc_seed();
	crash_file_make(&t->original, "heap", 14 * GIB);
	crash_file_make(&t->copy, "copy", 14 * GIB);
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_creation);
	for (unsigned i = 0; i < sizeof(scenarios) / sizeof(scenarios[0]); i++)
		tests[n++] = (struct CMUnitTest){scenarios[i].name, run_scenario, NULL, NULL,
		                                 (void *)(uintptr_t)&scenarios[i]};
	return _cmocka_run_group_tests("every store", tests, n, NULL, NULL);
}
