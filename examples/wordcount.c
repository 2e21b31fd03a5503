/* SPDX-License-Identifier: Apache-2.0
 *
 * wordcount: a hash table of words in a heap. It may be killed at any instruction.
 *
 *   wordcount HEAP [-v] [FILE|FOLDER...]   add the words of these files to the counts; without any,
 *                                          of the licence texts and copyright files of a Debian
 *                                          machine; -v prints each file's name when it is counted
 *   wordcount HEAP --top N                 the N most frequent words
 *   wordcount HEAP --query WORD...         the counts of these words
 *
 * Counts go to stdout, what was opened and done to stderr. A word is a longest sequence of the
 * letters a to z, in either case. Files that end in .gz or contain a zero byte are skipped.
 *
 * How a file is counted exactly once
 *
 *   A kill falls between two instructions: the heap then holds every store before that place and
 *   none after it. What matters is the order of stores, kept by compiler fences (store, LINK),
 *   and that each step takes effect by one aligned 64-bit store.
 *
 *   1. The words of a file are looked up, new ones linked with count 0. The file's effect is
 *      written to the index's log as changes "the word at offset o gets the value v", v being the
 *      whole new count, not a difference. The totals and the run's position are changes too.
 *   2. One store sets index.logged to the number of changes. From here on the file is counted.
 *   3. Each change is one store to its place.
 *   4. One store sets index.logged to 0.
 *
 *   Killed in 1, the log is not in force: counts and position are the old ones and the next run
 *   counts the file from its beginning. Killed in 3, whoever opens the heap next does step 3 again,
 *   which may be repeated since it stores values, not differences. There is no state in between.
 *
 *   A run's list of files lies in the heap too, linked by one store, with the position in it. An
 *   interrupted run is always finished; if the files asked for are the same, that is all.
 *
 *   Objects are linked after allocating and unlinked before freeing, so a kill between the two
 *   leaves one object allocated that nothing names, and never a link to a freed one.
 */
#define _XOPEN_SOURCE 700
#include <errno.h>
#include <fmalloc.h>
#include <ftw.h>
#include <glob.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#define ROOT "wordcount"
#define INDEX_TAG 0x776f726463310000u /* "wordc1": the layout of the structs below */
#define FIRST_SLOTS 1024
#define TOTALS 4 /* changes that every file's log ends with */

struct word {
	_Atomic uint64_t count;
	uint64_t mark; /* place in the log, if the change there is this word's; else meaningless */
	uint64_t len;
	char text[];
};

/* Open addressing, at most half full. Words never move: a larger table takes them over. */
struct table {
	uint64_t slots; /* a power of two */
	fm_ptr(struct word) slot[];
};

struct change {
	uint64_t at; /* offset of an _Atomic uint64_t */
	uint64_t value;
};

struct run {
	_Atomic uint64_t next; /* files before this one are done */
	uint64_t files;
	uint64_t len;
	char text[]; /* the files' names, each ended by a zero byte */
};

struct index {
	_Atomic uint64_t logged;  /* changes in force; 0: the log is free */
	_Atomic uint64_t files;   /* totals of all finished files */
	_Atomic uint64_t words;
	_Atomic uint64_t distinct;
	_Atomic uint64_t used;    /* slots in use; too high by one for each kill between two stores */
	_Atomic uint64_t current; /* which of the two tables counts; the other is null or left over */
	fm_ptr(struct table) table[2];
	fm_ptr(struct change) log;
	fm_ptr(struct run) run; /* null: none was interrupted */
};

/* What this process knows of the open heap. */
struct session {
	fm_heap *heap;
	struct index *index;
	struct table *table;
	struct change *log;
	uint64_t log_room;
	uint64_t changes; /* of the file being counted */
};

static int fail(const char *what)
{
	fprintf(stderr, "wordcount: %s: %s\n", what, fm_last_error());
	return -1;
}

/* ---------------------------------------------------------------- stores in order */

static void compiler_fence(void)
{
	atomic_signal_fence(memory_order_seq_cst);
}

static void store(_Atomic uint64_t *place, uint64_t value)
{
	compiler_fence();
	atomic_store_explicit(place, value, memory_order_relaxed);
	compiler_fence();
}

#define LINK(heap, pp, p) \
	do { \
		compiler_fence(); \
		fm_set((heap), (pp), (p)); \
		compiler_fence(); \
	} while (0)

/* Steps 3 and 4. */
static void apply_log(struct session *s)
{
	for (uint64_t i = 0, n = s->index->logged; i < n; i++)
		store(fm_at(s->heap, s->log[i].at), s->log[i].value);
	store(&s->index->logged, 0);
}

/* ---------------------------------------------------------------- the table */

static uint64_t hash_of(const char *text, size_t len)
{
	uint64_t h = 0xcbf29ce484222325u;

	for (size_t i = 0; i < len; i++)
		h = (h ^ (unsigned char)text[i]) * 0x100000001b3u;
	return h ^ h >> 32;
}

/* The slot of the word, or the empty one where it belongs. */
static uint64_t slot_of(struct session *s, struct table *t, const char *text, size_t len)
{
	uint64_t i = hash_of(text, len) & (t->slots - 1);

	for (;; i = (i + 1) & (t->slots - 1)) {
		struct word *w = fm_get(s->heap, t->slot[i]);

		if (!w || (w->len == len && !memcmp(w->text, text, len)))
			return i;
	}
}

/* Unlink and free the table that does not count: a smaller one, or left half filled by a kill. */
static int drop_spare(struct session *s)
{
	unsigned spare = !s->index->current;
	struct table *t = fm_get(s->heap, s->index->table[spare]);

	LINK(s->heap, &s->index->table[spare], NULL);
	return fm_free(t) ? fail("freeing a table") : 0;
}

static struct table *add_spare(struct session *s, uint64_t slots)
{
	struct table *t = fm_calloc(s->heap, 1, sizeof(*t) + slots * sizeof(t->slot[0]));

	if (!t) {
		fail("no room for a larger table");
		return NULL;
	}
	t->slots = slots;
	LINK(s->heap, &s->index->table[!s->index->current], t);
	return t;
}

/* Rehash: the new table is filled beside the old one and takes over by one store. */
static int grow(struct session *s)
{
	struct table *t = add_spare(s, s->table->slots * 2);
	uint64_t used = 0;

	if (!t)
		return -1;
	for (uint64_t i = 0; i < s->table->slots; i++) {
		struct word *w = fm_get(s->heap, s->table->slot[i]);

		if (!w)
			continue;
		fm_set(s->heap, &t->slot[slot_of(s, t, w->text, w->len)], w);
		used++;
	}
	store(&s->index->current, !s->index->current);
	s->table = t;
	store(&s->index->used, used);
	return drop_spare(s);
}

static struct word *find(struct session *s, const char *text, size_t len)
{
	return fm_get(s->heap, s->table->slot[slot_of(s, s->table, text, len)]);
}

static struct word *find_or_add(struct session *s, const char *text, size_t len)
{
	struct word *w = find(s, text, len);

	if (w)
		return w;
	if (s->index->used >= s->table->slots / 2 && grow(s))
		return NULL;
	w = fm_malloc(s->heap, sizeof(*w) + len);
	if (!w) {
		fail("no room for a word");
		return NULL;
	}
	w->count = 0;
	w->mark = 0;
	w->len = len;
	memcpy(w->text, text, len);
	store(&s->index->used, s->index->used + 1);
	LINK(s->heap, &s->table->slot[slot_of(s, s->table, text, len)], w);
	return w;
}

/* ---------------------------------------------------------------- step 1: a file's changes */

/* A log of at least `room` changes, with those made so far. Requires that the log is not in force.
 * Not by fm_realloc, which frees the old log before anybody can link the new one. */
static int make_room(struct session *s, uint64_t room)
{
	struct change *old = s->log, *log;

	if (room <= s->log_room)
		return 0;
	log = fm_malloc(s->heap, room * 2 * sizeof(*log));
	if (!log)
		return fail("no room for the log");
	if (old)
		memcpy(log, old, s->changes * sizeof(*log));
	LINK(s->heap, &s->index->log, log);
	s->log = log;
	s->log_room = fm_usable_size(log) / sizeof(*log);
	return fm_free(old) ? fail("freeing a log") : 0;
}

static void add_change(struct session *s, const _Atomic uint64_t *place, uint64_t value)
{
	s->log[s->changes].at = fm_offset_of(s->heap, place);
	s->log[s->changes++].value = value;
}

/* Count one occurrence in the log. Marks left by other files and processes fail by the offset. */
static int count_word(struct session *s, const char *text, size_t len, uint64_t *distinct)
{
	struct word *w = find_or_add(s, text, len);

	if (!w)
		return -1;
	if (w->mark < s->changes && s->log[w->mark].at == fm_offset_of(s->heap, &w->count)) {
		s->log[w->mark].value++;
		return 0;
	}
	if (make_room(s, s->changes + 1 + TOTALS))
		return -1;
	w->mark = s->changes;
	add_change(s, &w->count, w->count + 1);
	*distinct += w->count == 0;
	return 0;
}

static bool is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Steps 1 to 4 for one file of the run. text == NULL: skipped, which moves the position too. */
static int count_text(struct session *s, struct run *run, char *text, size_t len)
{
	uint64_t words = 0, distinct = 0;

	s->changes = 0;
	for (size_t i = 0, start; text && i < len; words += i > start) {
		while (i < len && !is_letter(text[i]))
			i++;
		for (start = i; i < len && is_letter(text[i]); i++)
			text[i] |= 'a' - 'A';
		if (i > start && count_word(s, text + start, i - start, &distinct))
			return -1;
	}
	if (make_room(s, s->changes + TOTALS))
		return -1;
	add_change(s, &run->next, run->next + 1);
	add_change(s, &s->index->files, s->index->files + (text != NULL));
	add_change(s, &s->index->words, s->index->words + words);
	add_change(s, &s->index->distinct, s->index->distinct + distinct);
	store(&s->index->logged, s->changes);
	apply_log(s);
	return 0;
}

/* ---------------------------------------------------------------- files */

/* The whole file in ordinary memory. NULL: not text if *skip, else an error. */
static char *read_text(const char *path, size_t *len, bool *skip)
{
	size_t room = 1 << 16, n, path_len = strlen(path);
	char *text = NULL, *more = NULL;
	FILE *f;

	*skip = path_len > 3 && !strcmp(path + path_len - 3, ".gz");
	f = *skip ? NULL : fopen(path, "rb");
	if (!f)
		return NULL;
	for (*len = 0;; *len += n, room *= 2) {
		more = realloc(text, room);
		if (!more)
			break;
		text = more;
		n = fread(text + *len, 1, room - *len, f);
		if (n < room - *len) {
			*len += n;
			break;
		}
	}
	*skip = more && !ferror(f) && memchr(text, 0, *len);
	if (!more || ferror(f) || *skip) {
		free(text);
		text = NULL;
	}
	fclose(f);
	return text;
}

/* Do the files of the run from its position on. 0, 1 if a file could not be read, -1. */
static int do_run(struct session *s, bool verbose)
{
	struct run *run = fm_get(s->heap, s->index->run);
	const char *path = run->text;
	int status = 0;

	for (uint64_t i = 0; i < run->files; i++, path += strlen(path) + 1) {
		size_t len = 0;
		bool skip, counted;
		char *text;

		if (i < run->next)
			continue;
		text = read_text(path, &len, &skip);
		counted = text != NULL;
		if (!text && !skip) {
			fprintf(stderr, "wordcount: %s: %s (skipped)\n", path, strerror(errno));
			status = 1;
		}
		if (count_text(s, run, text, len)) {
			free(text);
			return -1;
		}
		free(text);
		if (verbose && counted)
			puts(path);
	}
	LINK(s->heap, &s->index->run, NULL);
	return fm_free(run) ? fail("freeing a run") : status;
}

/* ---------------------------------------------------------------- making a run */

static struct names {
	char **name;
	size_t n;
	bool failed;
} names; // of the files to count; global because nftw() passes no argument

static void complain(const char *path)
{
	fprintf(stderr, "wordcount: %s: %s\n", path, strerror(errno));
	names.failed = true;
}

static int add_name(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	char **more;

	(void)ftw;
	if (type == FTW_DNR || type == FTW_NS)
		complain(path);
	if (type != FTW_F || !S_ISREG(st->st_mode))
		return 0;
	more = realloc(names.name, (names.n + 1) * sizeof(*more));
	if (!more)
		return -1;
	names.name = more;
	more[names.n] = realpath(path, NULL);
	return more[names.n] && ++names.n ? 0 : -1;
}

static void add_names(const char *path)
{
	if (nftw(path, add_name, 16, 0))
		complain(path);
}

static void add_default_names(void)
{
	static const char *const pattern[] = {
		"/usr/share/common-licenses/*",
		"/usr/share/doc/*/copyright",
	};
	glob_t found;

	for (int i = 0; i < 2; i++) {
		if (glob(pattern[i], 0, NULL, &found))
			continue;
		for (size_t k = 0; k < found.gl_pathc; k++)
			add_names(found.gl_pathv[k]);
		globfree(&found);
	}
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names as one text, sorted, each once and ended by a zero byte; frees the names. */
static char *take_names(uint64_t *files, size_t *len)
{
	char *text = NULL;
	FILE *out = open_memstream(&text, len);

	if (names.n)
		qsort(names.name, names.n, sizeof(names.name[0]), by_name);
	*files = 0;
	for (size_t i = 0; i < names.n; i++) {
		if (i + 1 < names.n && !strcmp(names.name[i], names.name[i + 1]))
			continue;
		if (out)
			fwrite(names.name[i], 1, strlen(names.name[i]) + 1, out);
		++*files;
	}
	while (names.n)
		free(names.name[--names.n]);
	free(names.name);
	if (!out || fclose(out)) {
		complain("list of files");
		free(text);
		return NULL;
	}
	return text;
}

/* Put a new run into the heap, with the position at its first file. */
static int begin_run(struct session *s, uint64_t files, const char *text, size_t len)
{
	struct run *run = fm_malloc(s->heap, sizeof(*run) + len);

	if (!run)
		return fail("no room for the list of files");
	run->next = 0;
	run->files = files;
	run->len = len;
	memcpy(run->text, text, len);
	LINK(s->heap, &s->index->run, run);
	return 0;
}

/* Finish the interrupted run if there is one; count the files of `text` unless that did. */
static int count_files(struct session *s, uint64_t files, const char *text, size_t len,
                       bool verbose)
{
	struct run *run = fm_get(s->heap, s->index->run);
	bool is_same = run && run->len == len && !memcmp(run->text, text, len);
	int before = run ? do_run(s, verbose) : 0, after = 0;

	if (before == -1)
		return -1;
	if (!is_same)
		after = begin_run(s, files, text, len) ? -1 : do_run(s, verbose);
	return after ? after : before;
}

static int count(struct session *s, char **paths, int n, bool verbose)
{
	uint64_t files;
	size_t len;
	char *text;
	int status;

	for (int i = 0; i < n; i++)
		add_names(paths[i]);
	if (n == 0)
		add_default_names();
	text = take_names(&files, &len);
	status = names.failed ? -1 : count_files(s, files, text, len, verbose);
	free(text);
	return status;
}

/* ---------------------------------------------------------------- answers */

static void print_word(const char *text, size_t len, uint64_t count)
{
	printf("%llu %.*s\n", (unsigned long long)count, (int)len, text);
}

static int by_count(const void *a, const void *b)
{
	const struct word *v = *(struct word *const *)a, *w = *(struct word *const *)b;
	int order = memcmp(v->text, w->text, v->len < w->len ? v->len : w->len);

	if (v->count != w->count)
		return v->count < w->count ? 1 : -1;
	return order ? order : v->len < w->len ? -1 : 1;
}

static int print_top(struct session *s, uint64_t wanted)
{
	struct word **words = malloc((s->index->distinct + 1) * sizeof(struct word *));
	size_t n = 0;

	if (!words) {
		perror("wordcount");
		return -1;
	}
	for (uint64_t i = 0; i < s->table->slots; i++) {
		struct word *w = fm_get(s->heap, s->table->slot[i]);

		if (w && w->count && n < s->index->distinct)
			words[n++] = w;
	}
	qsort(words, n, sizeof(words[0]), by_count);
	for (size_t i = 0; i < n && i < wanted; i++)
		print_word(words[i]->text, words[i]->len, words[i]->count);
	free(words);
	return 0;
}

static void print_counts(struct session *s, char **words, int n)
{
	for (int i = 0; i < n; i++) {
		size_t len = strlen(words[i]);
		struct word *w;

		for (char *c = words[i]; *c; c++)
			if (is_letter(*c))
				*c |= 'a' - 'A';
		w = find(s, words[i], len);
		print_word(words[i], len, w ? w->count : 0);
	}
}

/* ---------------------------------------------------------------- opening */

static int make_index(struct session *s)
{
	s->index = fm_calloc(s->heap, 1, sizeof(*s->index));
	if (!s->index || !add_spare(s, FIRST_SLOTS))
		return -1;
	store(&s->index->current, 1);
	return fm_root_set(s->heap, ROOT, s->index, INDEX_TAG);
}

/* Find the index. 0, -1, or 1 if the heap must be open for writing to finish what a kill left. */
static int load(struct session *s, bool writing)
{
	s->index = fm_root_get(s->heap, ROOT, INDEX_TAG);
	if (!s->index && !(writing && errno == ENOENT && make_index(s) == 0))
		return fail("no word counts in this heap");
	if (!writing && s->index->logged)
		return 1;
	s->table = fm_get(s->heap, s->index->table[s->index->current]);
	s->log = fm_get(s->heap, s->index->log);
	s->log_room = s->log ? fm_usable_size(s->log) / sizeof(*s->log) : 0;
	if (!writing)
		return 0;
	apply_log(s);
	return drop_spare(s);
}

static void report(const struct session *s, const struct timespec *from, const struct timespec *to)
{
	const struct index *ix = s->index;
	const struct run *run = fm_get(s->heap, ix->run);

	fprintf(stderr, "opened in %ld us: %llu files, %llu words, %llu different",
	        (to->tv_sec - from->tv_sec) * 1000000 + (to->tv_nsec - from->tv_nsec) / 1000,
	        (unsigned long long)ix->files, (unsigned long long)ix->words,
	        (unsigned long long)ix->distinct);
	if (run)
		fprintf(stderr, "; a run was interrupted at file %llu of %llu",
		        (unsigned long long)run->next, (unsigned long long)run->files);
	fprintf(stderr, "\n");
}

static int open_heap(struct session *s, const char *path, unsigned flags)
{
	struct timespec from, to;
	int status;

	clock_gettime(CLOCK_MONOTONIC, &from);
	s->heap = fm_open(path, flags, NULL);
	clock_gettime(CLOCK_MONOTONIC, &to);
	if (!s->heap)
		return fail(path);
	status = load(s, !(flags & FM_RDONLY));
	if (status == 0)
		report(s, &from, &to);
	else if (fm_close(s->heap))
		return fail("closing");
	return status;
}

static int usage(void)
{
	fprintf(stderr, "usage: wordcount HEAP [-v] [FILE|FOLDER...]\n"
	                "       wordcount HEAP --top N\n"
	                "       wordcount HEAP --query WORD...\n");
	return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 2 ? argv[2] : "";
	bool top = !strcmp(verb, "--top"), query = !strcmp(verb, "--query"), verbose = !strcmp(verb, "-v");
	bool asks = top || query;
	struct session s = {0};
	int status, first = 2 + (asks || verbose);

	if (argc < 2 || argv[1][0] == '-' || (verb[0] == '-' && !asks && !verbose) ||
	    (asks && argc < 4) || (top && argc > 4))
		return usage();
	setvbuf(stdout, NULL, _IOLBF, 0);
	status = open_heap(&s, argv[1], asks ? FM_RDONLY : FM_CREATE);
	if (status == 1)
		status = open_heap(&s, argv[1], 0);
	if (status)
		return EXIT_FAILURE;
	if (top)
		status = print_top(&s, strtoull(argv[3], NULL, 10));
	else if (query)
		print_counts(&s, argv + first, argc - first);
	else
		status = count(&s, argv + first, argc - first, verbose);
	if (!asks)
		fprintf(stderr, "now: %llu files, %llu words, %llu different\n",
		        (unsigned long long)s.index->files, (unsigned long long)s.index->words,
		        (unsigned long long)s.index->distinct);
	if (fm_close(s.heap))
		status = fail("closing");
	return status ? EXIT_FAILURE : EXIT_SUCCESS;
}
