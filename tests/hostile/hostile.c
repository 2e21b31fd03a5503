/* SPDX-License-Identifier: Apache-2.0
 *
 * Hostile headers and truncations (part of test 10 of the plan). Populated heaps in memory files are
 * damaged in one place or many, cut or lengthened, and opened in a child:
 *
 *   - opening fails with an errno and a sentence, and the file is byte for byte as it was; or
 *   - it gives a heap that survives fm_check, fm_walk with every object read, fm_stats, the roots,
 *     200 random operations and fm_close, without a crash, a hang, or much memory; and if fm_check
 *     found nothing, nothing is found afterwards and no object that was allocated overlaps another.
 *
 * Uses the record sizes of src/store/format.h to aim and to mend checksums.
 *
 *   FM_STEP    every FM_STEP-th (byte, change) of the superblocks, the truth page's fields more
 *              densely, other regions more thinly; 1: all of all regions (default 41)
 *   FM_RANDOM  cases of random damage for each heap (700)
 *   FM_SEED    of the random damage and the operations
 *   FM_CASE    run this one case only, as printed (with the step, count and seed printed): heap:number
 */
#define _GNU_SOURCE 1
#include "../support/proc_util.h"

#include "../../src/store/format.h"

#include <stdatomic.h>
#include <sys/resource.h>

#define STEP 41           /* defaults of FM_STEP and FM_RANDOM */
#define RANDOM_CASES 700
#define BATCH 200         /* cases that one child runs */
#define OPERATIONS 200
#define MAX_FAILURES 20   /* then the heap's other cases are left out */
#define MAX_OBJECTS 4096
#define CASE_LIMIT_S (PROC_SANITIZED ? 60 : 10)
#define METADATA_1 SEGMENT_SIZE /* segment 1's metadata unit */

enum kind { NOTHING, BYTE, CUT, LENGTHEN, RANDOM };

struct damage {
	enum kind kind;
	bool mend;              /* the superblocks' checksums, afterwards */
	unsigned change;        /* BYTE: number of the change; LENGTHEN: byte that is appended */
	uint64_t at;            /* BYTE: offset; CUT, LENGTHEN: new size; RANDOM: seed */
};

/* A populated heap in a memory file. */
struct subject {
	const char *name;
	int fd;
	size_t size;
	unsigned char *map;      /* the file */
	unsigned char *pristine; /* what it holds undamaged */
	unsigned char *expected; /* what it holds damaged */
	struct damage *cases;
	long count, room;
};

struct tally {
	_Atomic long current, failures;
	_Atomic long refused, unclean, opened, with_findings;
};

static struct tally *tally;
static uint64_t seed;

/* ---------------------------------------------------------------- damage */

#define CHANGES 12

static unsigned char change_byte(unsigned char b, unsigned change)
{
	switch (change) {
	case 0: return 0;
	case 1: return 0xff;
	case 2: return (unsigned char)(b + 1);
	case 3: return (unsigned char)(b - 1);
	default: return (unsigned char)(b ^ 1u << (change - 4));
	}
}

static void crc32c_mend(unsigned char *super)
{
	uint32_t crc = ~UINT32_C(0);

	for (size_t i = 0; i < offsetof(struct super_rec, checksum); i++) {
		crc ^= super[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ UINT32_C(0x82f63b78) : crc >> 1;
	}
	crc = ~crc;
	memcpy(super + offsetof(struct super_rec, checksum), &crc, sizeof(crc));
}

/* A place where damage is interesting: the fields first, then anything of the metadata. */
static size_t choose_place(const struct subject *s, uint64_t *rng)
{
	bool has_1 = s->size >= METADATA_1 + 2 * UNIT_SIZE;
	size_t m = has_1 && proc_below(rng, 3) == 0 ? METADATA_1 : UNIT_SIZE;

	switch (proc_below(rng, 8)) {
	case 0: return SUPER_COPY_1_OFF + proc_below(rng, 512);
	case 1: return SUPER_COPY_2_OFF + proc_below(rng, 512);
	case 2: return TRUTH_PAGE_OFF + proc_below(rng, 96);
	case 3: return DIRECTORY_OFF + proc_below(rng, 64);
	case 4: return DIRECTORY_OFF + proc_below(rng, 16384);
	case 5: return m + proc_below(rng, UNIT_WORDS_LEN);
	case 6: return m + proc_below(rng, UNIT_SIZE);
	default: return proc_below(rng, 2 * UNIT_SIZE);
	}
}

static uint64_t choose_word(uint64_t *rng)
{
	uint64_t r = proc_rand(rng);

	switch (proc_below(rng, 10)) {
	case 0: return 0;
	case 1: return UINT64_MAX;
	case 2: return r >> proc_below(rng, 64);
	case 3: return UINT64_C(1) << (r & 63);
	case 4: return slab_word((unsigned)(r & 7), (uint32_t)(r >> 8 & 0xffff));
	case 5: return slab_word((unsigned)(r & 0xff), (uint32_t)(r >> 8) >> (r >> 40 & 31));
	case 6: return run_word(r >> 8 & 0x7ff);
	case 7: return huge_word(r >> 8 & 0xffffffffff) >> (r & 1);
	case 8: return 1 + (r & 3);
	default: return r & 0xfffff000;
	}
}

static void damage_at_random(struct subject *s, uint64_t state)
{
	uint64_t rng = proc_mix(state), n = 1 + proc_below(&rng, proc_below(&rng, 4) ? 4 : 16);

	for (uint64_t i = 0; i < n; i++) {
		size_t at = choose_place(s, &rng), from = choose_place(s, &rng);
		size_t len = 1 + proc_below(&rng, proc_below(&rng, 4) ? 16 : 2048);
		uint64_t word = choose_word(&rng);

		switch (proc_below(&rng, 6)) {
		case 0:
			s->expected[at] = (unsigned char)word;
			break;
		case 1:
			memset(s->expected + at, (int)(word & 0xff), len);
			break;
		case 2:
			memmove(s->expected + at, s->expected + from, len);
			break;
		default: /* a whole word */
			memcpy(s->expected + (at & ~(size_t)7), &word, sizeof(word));
		}
	}
}

/* The parts of the file that damage_at_random and BYTE may change. */
static void copy_metadata(const struct subject *s, unsigned char *to, const unsigned char *from)
{
	size_t end = 3 * UNIT_SIZE < s->size ? 3 * UNIT_SIZE : s->size;

	memcpy(to, from, end);
	if (s->size >= METADATA_1 + 2 * UNIT_SIZE)
		memcpy(to + METADATA_1, from + METADATA_1, 2 * UNIT_SIZE);
}

/* Damage the file; returns its size. */
static size_t inflict(struct subject *s, const struct damage *d)
{
	size_t size = s->size;

	if (d->kind == BYTE)
		s->expected[d->at] = change_byte(s->expected[d->at], d->change);
	if (d->kind == RANDOM)
		damage_at_random(s, d->at);
	if (d->mend) {
		crc32c_mend(s->expected + SUPER_COPY_1_OFF);
		crc32c_mend(s->expected + SUPER_COPY_2_OFF);
	}
	copy_metadata(s, s->map, s->expected);
	if (d->kind == CUT || d->kind == LENGTHEN) {
		size = d->at;
		proc_must(ftruncate(s->fd, (off_t)size) == 0);
		if (d->kind == LENGTHEN && d->change)
			proc_must(pwrite(s->fd, "\xa5", 1, (off_t)size - 1) == 1);
	}
	return size;
}

static void restore(struct subject *s)
{
	proc_must(ftruncate(s->fd, (off_t)s->size) == 0);
	for (size_t at = 0; at < s->size; at += 4096) {
		size_t len = s->size - at < 4096 ? s->size - at : 4096;

		if (memcmp(s->map + at, s->pristine + at, len) != 0)
			memcpy(s->map + at, s->pristine + at, len);
	}
	copy_metadata(s, s->expected, s->pristine);
}

static bool is_unchanged(const struct subject *s, size_t size)
{
	struct stat st;

	if (fstat(s->fd, &st) != 0 || (size_t)st.st_size != size)
		return false;
	return memcmp(s->map, s->expected, size < s->size ? size : s->size) == 0;
}

/* ---------------------------------------------------------------- cases */

static void add_case(struct subject *s, struct damage d)
{
	if (s->count == s->room) {
		s->room = s->room ? 2 * s->room : 1024;
		s->cases = realloc(s->cases, (size_t)s->room * sizeof(*s->cases));
		if (!s->cases)
			abort();
	}
	s->cases[s->count++] = d;
}

/* Every step-th change of the bytes [from, to). The step is odd and no multiple of 3, so that all
 * kinds of change come up. */
static void add_bytes(struct subject *s, size_t from, size_t to, uint64_t step, bool mend)
{
	while (step % 2 == 0 || step % 3 == 0)
		step++;
	if (to > s->size)
		to = s->size;
	for (uint64_t i = proc_mix(seed ^ from) % step; i < (to - from) * CHANGES; i += step)
		add_case(s, (struct damage){ BYTE, mend, (unsigned)(i % CHANGES), from + i / CHANGES });
}

static void add_metadata(struct subject *s, size_t at, uint64_t step)
{
	if (s->size < at + UNIT_SIZE)
		return;
	add_bytes(s, at, at + UNIT_WORDS_LEN, step, false);
	add_bytes(s, at + UNIT_WORDS_LEN, at + PAIRS_LEN, 1 + (step - 1) * 20, false);
	add_bytes(s, at + PAIRS_LEN, at + UNIT_SIZE, 1 + (step - 1) * 50, false);
}

static void add_cases(struct subject *s, uint64_t step, uint64_t random)
{
	uint64_t thin = 1 + (step - 1) * 10, thinner = 1 + (step - 1) * 30;

	add_case(s, (struct damage){ .kind = NOTHING });
	for (size_t copy = 0; copy <= SUPER_COPY_2_OFF; copy += SUPER_COPY_2_OFF) {
		add_bytes(s, copy, copy + sizeof(struct super_rec), step, false);
		add_bytes(s, copy, copy + sizeof(struct super_rec), step, true);
		add_bytes(s, copy + sizeof(struct super_rec), copy + 4096, thin, false);
	}
	add_bytes(s, TRUTH_PAGE_OFF, TRUTH_PAGE_OFF + 96, 1 + step / 8, false);
	add_bytes(s, TRUTH_PAGE_OFF + 96, TRUTH_PAGE_OFF + 4096, thin, false);
	add_bytes(s, DIRECTORY_OFF, DIRECTORY_OFF + 64, 1 + step / 8, false);
	add_bytes(s, DIRECTORY_OFF + 64, DIRECTORY_OFF + 16384, thinner, false);
	add_metadata(s, UNIT_SIZE, step);
	add_metadata(s, METADATA_1, step);
	for (size_t size = 0; size <= 2 * UNIT_SIZE && size < s->size; size += 512)
		add_case(s, (struct damage){ CUT, false, 0, size });
	for (size_t i = 1; i < 64; i++) {
		size_t size = 2 * UNIT_SIZE + (s->size - 2 * UNIT_SIZE) / 64 * i;

		add_case(s, (struct damage){ CUT, false, 0, i % 2 ? size : size & ~(UNIT_SIZE - 1) });
		add_case(s, (struct damage){ CUT, false, 0, s->size - i });
	}
	for (size_t i = 0; i < 24; i++) /* lengthened by 1 byte to 8 MiB */
		add_case(s, (struct damage){ LENGTHEN, false, i % 2, s->size + ((size_t)1 << i) });
	for (uint64_t i = 0; i < random; i++)
		add_case(s, (struct damage){ RANDOM, i % 3 != 0, 0, proc_mix(seed) + i });
}

/* ---------------------------------------------------------------- using what was opened */

static _Atomic unsigned char sink;

struct use {
	fm_heap *heap;
	void *object[MAX_OBJECTS]; /* found by the walk; freed ones are NULL */
	size_t objects;
	void *root[64];
	char name[64][ROOT_NAME_MAX + 1];
	uint64_t tag[64];
	size_t roots;
};

static int see_object(void *p, size_t usable, void *arg)
{
	struct use *u = arg;
	const unsigned char *b = p;
	unsigned char sum = 0;

	for (size_t i = 0; i < usable; i += 512)
		sum = (unsigned char)(sum + b[i]);
	if (usable)
		sum = (unsigned char)(sum + b[usable - 1]);
	sink = sum;
	if (u->objects < MAX_OBJECTS)
		u->object[u->objects++] = p;
	return 0;
}

static int see_root(const char *name, void *p, uint64_t tag, void *arg)
{
	struct use *u = arg;

	proc_must(strlen(name) <= ROOT_NAME_MAX);
	if (u->roots < 64) {
		strcpy(u->name[u->roots], name);
		u->tag[u->roots] = tag;
		u->root[u->roots++] = p;
	}
	return 0;
}

static bool is_root(const struct use *u, const void *p)
{
	for (size_t i = 0; i < u->roots; i++)
		if (u->root[i] == p)
			return true;
	return u->roots == 64;
}

/* Free or move an object that was in the file. */
static void use_old_object(struct use *u, uint64_t *rng)
{
	size_t i = proc_below(rng, u->objects);
	void *p = u->object[i];

	if (!p || is_root(u, p))
		return;
	u->object[i] = NULL;
	if (proc_below(rng, 2))
		(void)fm_free(p);
	else
		(void)fm_realloc(u->heap, p, proc_below(rng, 2000));
}

/* Ask about an address and an offset that may be anything, and free one that is never an object. */
static void use_wild(struct use *u, size_t size, uint64_t *rng)
{
	uint64_t off = proc_below(rng, 4) ? proc_below(rng, size) : proc_rand(rng);
	unsigned char *p = (unsigned char *)fm_at_checked(u->heap, off, proc_below(rng, 100));

	if (p)
		sink = *p;
	(void)fm_usable_size((char *)u->heap->mem + proc_below(rng, size));
	proc_must(fm_free((char *)u->heap->mem + (proc_below(rng, size) | 1)) == -1);
}

struct own {
	unsigned char *p;
	size_t size;
	uint64_t id;
};

#define OWN 64

static bool own_intact(const struct own *own)
{
	for (size_t i = 0; i < OWN; i++)
		if (own[i].p && !proc_intact(own[i].p, own[i].id, own[i].size, own[i].size))
			return false;
	return true;
}

/* Random operations. Returns whether no object that was allocated here lost its content. */
static bool operate(struct use *u, size_t size, uint64_t state)
{
	uint64_t rng = state;
	struct own own[OWN] = { { NULL, 0, 0 } };
	bool intact = true;

	for (int i = 0; i < OPERATIONS; i++) {
		struct own *o = &own[proc_below(&rng, OWN)];

		if (u->objects && proc_below(&rng, 4) == 0)
			use_old_object(u, &rng);
		if (proc_below(&rng, 8) == 0)
			use_wild(u, size, &rng);
		if (o->p) {
			intact = intact && proc_intact(o->p, o->id, o->size, o->size);
			(void)fm_free(o->p);
			o->p = NULL;
			continue;
		}
		o->size = proc_below(&rng, proc_below(&rng, 8) ? 600 : 40000);
		if (proc_below(&rng, 100) == 0)
			o->size = 300000 + proc_below(&rng, 500000);
		o->id = proc_rand(&rng);
		o->p = fm_malloc(u->heap, o->size);
		if (!o->p)
			proc_must(errno != 0 && fm_last_error()[0] != '\0');
		else
			proc_fill(o->p, o->id, o->size);
	}
	(void)fm_root_set(u->heap, "one more", NULL, 7);
	(void)fm_root_remove(u->heap, "root 1");
	return intact && own_intact(own);
}

static void ignore_misuse(const struct fm_misuse *misuse, void *arg)
{
	(void)arg;
	proc_must(misuse->text && misuse->text[0]);
}

/* Use the heap in all ways; what must hold holds. */
static const char *use_heap(fm_heap *heap, size_t size, bool writable, uint64_t state)
{
	static struct use u;
	struct fm_statistics stats = { .size = sizeof(stats) };
	long findings = fm_check(heap, NULL, NULL);
	bool intact;

	memset(&u, 0, sizeof(u));
	u.heap = heap;
	(void)fm_walk(heap, see_object, &u);
	(void)fm_stats(heap, &stats);
	(void)fm_root_each(heap, see_root, &u);
	for (size_t i = 0; i < u.roots; i++)
		(void)fm_root_get(heap, u.name[i], u.tag[i]);
	(void)fm_root_get(heap, "root 0", 1);
	tally->with_findings += findings != 0;
	if (findings == 0 && stats.live_objects < u.objects)
		return "fm_stats counts fewer objects than fm_walk";
	if (!writable)
		return fm_malloc(heap, 8) ? "a heap opened for reading allocates" : NULL;
	intact = operate(&u, size, state);
	if (findings != 0) {
		(void)fm_check(heap, NULL, NULL);
		return NULL;
	}
	if (!intact)
		return "fm_check found nothing, but allocated objects overlap";
	if (proc_check(heap) != 0)
		return "fm_check found nothing, but does after some operations";
	return NULL;
}

/* ---------------------------------------------------------------- running cases */

static const char *open_and_use(struct subject *s, const struct damage *d, long number, size_t size)
{
	struct fm_options options = {
		.size = sizeof(options),
		.address_space = UINT64_C(4) << 30,
		.max_size = number % 2 ? s->size + (UINT64_C(64) << 20) : 0,
	};
	unsigned flags = number % 8 == 5 ? FM_RDONLY : 0;
	fm_heap *heap;
	const char *bad;

	errno = 0;
	heap = fm_open_fd(s->fd, flags, &options);
	if (!heap) {
		if (errno == 0 || fm_last_error()[0] == '\0')
			return "refused without errno or text";
		if (d->kind == NOTHING)
			return "the undamaged heap was refused";
		if (!is_unchanged(s, size))
			return "the refused file was changed";
		if (errno != EUCLEAN) {
			tally->refused++;
			return NULL;
		}
		tally->unclean++;
		heap = fm_open_fd(s->fd, FM_RECOVER, &options);
		if (!heap)
			return errno && fm_last_error()[0] ? NULL : "not recovered, without errno or text";
		flags = 0;
	}
	tally->opened++;
	bad = use_heap(heap, size, !(flags & FM_RDONLY), seed + (uint64_t)number);
	if (d->kind == NOTHING && fm_check(heap, NULL, NULL) != 0)
		bad = "the undamaged heap has findings";
	(void)fm_close(heap);
	if (!bad && flags & FM_RDONLY && !is_unchanged(s, size))
		bad = "opening for reading changed the file";
	return bad;
}

static void describe(const struct subject *s, long number, const char *what)
{
	static const char *const kinds[] = { "nothing", "byte", "cut", "lengthen", "random" };
	const struct damage *d = &s->cases[number];

	fprintf(stderr, "# FM_CASE=%s:%ld FM_STEP=%llu FM_RANDOM=%llu FM_SEED=%llu: %s\n", s->name, number,
	        (unsigned long long)proc_env("FM_STEP", STEP),
	        (unsigned long long)proc_env("FM_RANDOM", RANDOM_CASES), (unsigned long long)seed, what);
	fprintf(stderr, "#   (%s%s at %#llx, change %u)\n", kinds[d->kind], d->mend ? ", mended" : "",
	        (unsigned long long)d->at, d->change);
}

struct batch {
	struct subject *subject;
	long from, to;
};

static void limit_memory(const struct subject *s)
{
	struct rlimit file = { s->size + (256u << 20), s->size + (256u << 20) };
	struct rlimit data = { 1u << 30, 1u << 30 };

	signal(SIGXFSZ, SIG_IGN);
	proc_must(setrlimit(RLIMIT_FSIZE, &file) == 0);
	if (!PROC_SANITIZED)
		proc_must(setrlimit(RLIMIT_DATA, &data) == 0);
}

static int run_batch(void *arg)
{
	struct batch *b = arg;
	struct subject *s = b->subject;

	fm_set_misuse_handler(ignore_misuse, NULL);
	limit_memory(s);
	for (long i = b->from; i < b->to; i++) {
		const char *bad;

		tally->current = i;
		alarm(CASE_LIMIT_S);
		restore(s);
		bad = open_and_use(s, &s->cases[i], i, inflict(s, &s->cases[i]));
		if (bad) {
			tally->failures++;
			describe(s, i, bad);
		}
	}
	restore(s);
	return 0;
}

/* All cases [from, to), in children; a child that dies is the failure of its current case. */
static void run_cases(struct subject *s, long from, long to)
{
	struct batch b = { s, from, from };

	while (b.from < to && tally->failures < MAX_FAILURES) {
		int end;

		b.to = b.from + BATCH < to ? b.from + BATCH : to;
		tally->current = b.from;
		end = proc_end(proc_start(run_batch, &b, 600000));
		if (end == 0) {
			b.from = b.to;
			continue;
		}
		tally->failures++;
		describe(s, tally->current,
		         end == -SIGALRM ? "hangs" : end < 0 ? strsignal(-end) : "fails");
		b.from = tally->current + 1;
	}
}

/* ---------------------------------------------------------------- the heaps */

struct population {
	int fd;
	bool has_large, leave;
};

static int populate(void *arg)
{
	static const size_t sizes[] = { 0, 16, 24, 40, 64, 100, 512, 1000, 4000, 12000, 70000 };
	const struct population *pop = arg;
	fm_heap *heap = fm_open_fd(pop->fd, FM_CREATE, NULL);
	uint64_t rng = 1;
	void *p = NULL;

	proc_must(heap != NULL);
	for (unsigned i = 0; i < 400; i++) {
		size_t size = sizes[i < 11 ? i : proc_below(&rng, 9)];
		char name[16];

		p = fm_malloc(heap, size);
		proc_must(p != NULL);
		proc_fill(p, i, size);
		snprintf(name, sizeof(name), "root %u", i / 80);
		if (i % 80 == 0)
			proc_must(fm_root_set(heap, name, p, 1) == 0);
		else if (i % 3 == 0)
			proc_must(fm_free(p) == 0);
	}
	for (unsigned i = 0; i < 6; i++) {
		p = fm_malloc(heap, (i < 3 || !pop->has_large ? 500000u : 1400000u) + i * 90000u);
		proc_must(p != NULL);
		if (i % 2)
			proc_must(fm_free(p) == 0);
		if (i == 2 && !pop->has_large)
			break;
	}
	if (pop->has_large) {
		void *huge = fm_malloc(heap, 4200000), *freed = fm_malloc(heap, 4100000);

		p = fm_malloc(heap, 4000000);
		proc_must(huge && freed && p);
		proc_must(fm_root_set(heap, "huge", huge, 2) == 0);
		proc_must(fm_free(freed) == 0);
	}
	proc_must(proc_check(heap) == 0);
	if (!pop->leave)
		proc_must(fm_close(heap) == 0);
	return 0;
}

static void make_subject(struct subject *s, const char *name, bool has_large, bool leave)
{
	struct population pop = { memfd_create(name, MFD_CLOEXEC), has_large, leave };
	struct stat st;

	assert_true(pop.fd > 2);
	assert_int_equal(proc_run(populate, &pop), 0);
	assert_int_equal(fstat(pop.fd, &st), 0);
	memset(s, 0, sizeof(*s));
	s->name = name;
	s->fd = pop.fd;
	s->size = (size_t)st.st_size;
	s->map = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
	assert_true(s->map != MAP_FAILED);
	s->pristine = malloc(s->size);
	s->expected = malloc(s->size);
	assert_true(s->pristine && s->expected);
	memcpy(s->pristine, s->map, s->size);
	memcpy(s->expected, s->map, s->size);
}

static void drop_subject(struct subject *s)
{
	munmap(s->map, s->size);
	close(s->fd);
	free(s->pristine);
	free(s->expected);
	free(s->cases);
}

static void test_subject(const char *name, bool has_large, bool leave, uint64_t factor)
{
	const char *only = getenv("FM_CASE");
	uint64_t step = proc_env("FM_STEP", STEP);
	struct subject s;
	double start = proc_now();
	long number = -1;

	make_subject(&s, name, has_large, leave);
	add_cases(&s, 1 + (step - 1) * factor, proc_env("FM_RANDOM", RANDOM_CASES) / factor);
	memset(tally, 0, sizeof(*tally));
	if (only && (strncmp(only, name, strlen(name)) != 0 || only[strlen(name)] != ':')) {
		drop_subject(&s);
		skip();
	}
	if (only) {
		number = strtol(only + strlen(name) + 1, NULL, 10);
		assert_in_range(number, 0, s.count - 1);
		run_cases(&s, number, number + 1);
	} else {
		run_cases(&s, 0, s.count);
	}
	printf("# %s: %zu bytes, %ld cases in %.1f s: %ld refused, %ld unclean, %ld opened, %ld of them "
	       "with findings\n",
	       name, s.size, s.count, proc_now() - start, tally->refused, tally->unclean, tally->opened,
	       tally->with_findings);
	drop_subject(&s);
	assert_int_equal(tally->failures, 0);
	if (!only) {
		assert_true(tally->refused > 0);
		assert_true(tally->opened > 0);
		assert_true(tally->with_findings > 0);
	}
}

static void test_small_clean(void **state)
{
	(void)state;
	test_subject("small-clean", false, false, 1);
}

static void test_small_dirty(void **state)
{
	(void)state;
	test_subject("small-dirty", false, true, 3);
}

static void test_large_clean(void **state)
{
	(void)state;
	test_subject("large-clean", true, false, 4);
}

static int setup(void **state)
{
	(void)state;
	seed = proc_seed();
	tally = proc_shared(sizeof(*tally));
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_small_clean),
		cmocka_unit_test(test_small_dirty),
		cmocka_unit_test(test_large_clean),
	};

	return cmocka_run_group_tests_name("hostile", tests, setup, NULL);
}
