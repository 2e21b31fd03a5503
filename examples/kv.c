/* SPDX-License-Identifier: Apache-2.0
 *
 * kv: keys and values in an atomic heap, in the keys' order.
 *
 *   kv HEAP put KEY VALUE         set the value of KEY; the heap is made if it is missing
 *   kv HEAP get KEY               print the value of KEY
 *   kv HEAP del KEY               forget KEY
 *   kv HEAP load FILE [LINES]     put the lines of FILE, a commit every LINES lines (1000)
 *   kv HEAP scan PREFIX           print each KEY<TAB>VALUE whose key begins with PREFIX, in the order of bytes
 *
 * A line KEY<TAB>VALUE is loaded as that; of a line without a tab each word becomes a key, with the line's number
 * as its value. After each commit load prints how many lines are committed now.
 *
 * Exit status: 0; 1 if KEY is not there; 2 for anything else, with a sentence on stderr.
 *
 * What the atomic heap does here
 *
 *   The entries are a skip list, an ordinary linked structure that is changed in place: an insertion is up to
 *   HEIGHT stores into entries all over the heap, and a value that fits is overwritten where it is. Nothing is
 *   logged, copied or put in a safe order. fm_commit() makes all stores, allocations and frees since the last
 *   commit durable together. A kill or a power cut before it leaves the commit before; so does every error,
 *   since fm_close() drops what is not committed.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fmalloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROOT "kv"
#define INDEX_TAG 0x6b76696e64657831u /* "kvindex1": the layout of the two structs below */
#define HEIGHT 20                     /* levels: enough for 4^20 entries */
#define WAIT_MS 10000                 /* for another process that has the heap open */

enum { DONE = 0, ABSENT = 1, FAILED = 2 };

typedef fm_ptr(struct entry) entry_ptr;

/* An entry of height h is in the lists of levels 0 to h - 1. The key follows next[], the value the key, both
 * ended by a zero byte. */
struct entry {
	uint64_t height;
	entry_ptr next[];
};

struct index {
	uint64_t random; /* for the heights: rolled back with everything else */
	entry_ptr first[HEIGHT];
};

struct store {
	fm_heap *heap;
	struct index *index; /* NULL: nothing was ever committed */
};

static int fail(void)
{
	fprintf(stderr, "kv: %s\n", fm_last_error());
	return FAILED;
}

static int fail_errno(const char *what)
{
	fprintf(stderr, "kv: %s: %s\n", what, strerror(errno));
	return FAILED;
}

/* ---------------------------------------------------------------- the skip list */

static char *key_of(struct entry *e) { return (char *)&e->next[e->height]; }
static char *value_of(struct entry *e) { return key_of(e) + strlen(key_of(e)) + 1; }

/* The first entry whose key is not below `key`, or NULL. `links[h]` becomes the link of level h that leads
 * there or passes over it: what changes when an entry with this key comes or goes. */
static struct entry *seek(struct store *s, const char *key, entry_ptr *links[HEIGHT])
{
	entry_ptr *level = s->index->first;
	struct entry *e = NULL;

	for (int h = HEIGHT - 1; h >= 0; h--) {
		while ((e = fm_get(s->heap, level[h])) && strcmp(key_of(e), key) < 0)
			level = e->next;
		links[h] = &level[h];
	}
	return e;
}

static struct entry *find(struct store *s, const char *key, entry_ptr *links[HEIGHT])
{
	struct entry *e = s->index ? seek(s, key, links) : NULL;

	return e && strcmp(key_of(e), key) == 0 ? e : NULL;
}

/* A fourth of all entries of a level is in the next one, too. */
static uint64_t random_height(struct index *ix)
{
	uint64_t height = 1;

	ix->random ^= ix->random << 13;
	ix->random ^= ix->random >> 7;
	ix->random ^= ix->random << 17;
	for (uint64_t bits = ix->random; height < HEIGHT && (bits & 3) == 0; bits >>= 2)
		height++;
	return height;
}

static int insert(struct store *s, const char *key, const char *value, entry_ptr *links[HEIGHT])
{
	uint64_t height = random_height(s->index);
	size_t size = sizeof(struct entry) + height * sizeof(entry_ptr) + strlen(key) + strlen(value) + 2;
	struct entry *e = fm_malloc(s->heap, size);

	if (!e)
		return fail();
	e->height = height;
	strcpy(key_of(e), key);
	strcpy(value_of(e), value);
	for (uint64_t h = 0; h < height; h++) {
		e->next[h] = *links[h];
		fm_set(s->heap, links[h], e);
	}
	return DONE;
}

static int delete(struct entry *e, entry_ptr *links[HEIGHT])
{
	for (uint64_t h = 0; h < e->height; h++)
		*links[h] = e->next[h];
	return fm_free(e) ? fail() : DONE;
}

static int put(struct store *s, const char *key, const char *value)
{
	entry_ptr *links[HEIGHT];
	struct entry *e = find(s, key, links);

	if (e && (size_t)(value_of(e) - (char *)e) + strlen(value) < fm_usable_size(e)) {
		strcpy(value_of(e), value);
		return DONE;
	}
	if (e && delete(e, links))
		return FAILED;
	return insert(s, key, value, links);
}

static int commit(struct store *s)
{
	return fm_commit(s->heap) ? fail() : DONE;
}

/* ---------------------------------------------------------------- load */

static int load_line(struct store *s, char *line, size_t len, size_t number)
{
	char *tab = strchr(line, '\t'), *rest = line, *word, text[24];

	if (strlen(line) < len) {
		fprintf(stderr, "kv: line %zu holds a zero byte\n", number);
		return FAILED;
	}
	if (tab) {
		*tab = 0;
		return put(s, line, tab + 1);
	}
	snprintf(text, sizeof(text), "%zu", number);
	while ((word = strtok_r(rest, " \f\r\v", &rest)))
		if (put(s, word, text))
			return FAILED;
	return DONE;
}

static int load(struct store *s, FILE *in, size_t batch)
{
	char *line = NULL;
	size_t room = 0, lines = 0;
	int status = DONE;

	for (ssize_t len; status == DONE && (len = getline(&line, &room, in)) != -1;) {
		len -= line[len - 1] == '\n';
		line[len] = 0;
		status = load_line(s, line, (size_t)len, ++lines);
		if (status == DONE && lines % batch == 0 && (status = commit(s)) == DONE)
			printf("%zu lines\n", lines);
	}
	free(line);
	if (status == DONE && ferror(in))
		status = fail_errno("reading");
	if (status == DONE && lines % batch && (status = commit(s)) == DONE)
		printf("%zu lines\n", lines);
	return status;
}

/* ---------------------------------------------------------------- the verbs */

static int do_load(struct store *s, char **args)
{
	size_t batch = args[1] ? strtoull(args[1], NULL, 10) : 1000;
	FILE *in = fopen(args[0], "r");
	int status = in ? load(s, in, batch ? batch : 1) : fail_errno(args[0]);

	if (in)
		fclose(in);
	return status;
}

static int do_put(struct store *s, char **args)
{
	return put(s, args[0], args[1]) ? FAILED : commit(s);
}

static int do_get(struct store *s, char **args)
{
	entry_ptr *links[HEIGHT];
	struct entry *e = find(s, args[0], links);

	if (e)
		puts(value_of(e));
	return e ? DONE : ABSENT;
}

static int do_del(struct store *s, char **args)
{
	entry_ptr *links[HEIGHT];
	struct entry *e = find(s, args[0], links);

	if (!e)
		return ABSENT;
	return delete(e, links) ? FAILED : commit(s);
}

static int do_scan(struct store *s, char **args)
{
	entry_ptr *links[HEIGHT];
	struct entry *e = s->index ? seek(s, args[0], links) : NULL;

	for (; e && !strncmp(key_of(e), args[0], strlen(args[0])); e = fm_get(s->heap, e->next[0]))
		printf("%s\t%s\n", key_of(e), value_of(e));
	return DONE;
}

static const struct verb {
	const char *name, *usage;
	int least, most; /* arguments */
	unsigned flags;
	int (*run)(struct store *, char **args);
} verbs[] = {
	{"put", "KEY VALUE", 2, 2, FM_CREATE, do_put},
	{"get", "KEY", 1, 1, FM_RDONLY, do_get},
	{"del", "KEY", 1, 1, 0, do_del},
	{"load", "FILE [LINES]", 1, 2, FM_CREATE, do_load},
	{"scan", "PREFIX", 1, 1, FM_RDONLY, do_scan},
	{0},
};

static int open_store(struct store *s, const char *path, unsigned flags)
{
	struct fm_options options = {.size = sizeof(options), .wait_ms = WAIT_MS};

	s->heap = fm_open(path, flags | FM_ATOMIC | FM_WAIT, &options);
	if (!s->heap)
		return fail();
	s->index = fm_root_get(s->heap, ROOT, INDEX_TAG);
	if (s->index || (errno == ENOENT && !(flags & FM_CREATE)))
		return DONE;
	if (errno != ENOENT || !(s->index = fm_calloc(s->heap, 1, sizeof(*s->index))))
		return fail();
	s->index->random = 0x9e3779b97f4a7c15u;
	return fm_root_set(s->heap, ROOT, s->index, INDEX_TAG) ? fail() : DONE;
}

static int usage(void)
{
	for (const struct verb *verb = verbs; verb->name; verb++)
		fprintf(stderr, "%s kv HEAP %s %s\n", verb == verbs ? "usage:" : "      ", verb->name, verb->usage);
	return FAILED;
}

int main(int argc, char **argv)
{
	const struct verb *verb = verbs;
	struct store s = {0};
	int status;

	while (argc > 2 && verb->name && strcmp(argv[2], verb->name))
		verb++;
	if (argc < 3 || !verb->name || argc - 3 < verb->least || argc - 3 > verb->most)
		return usage();
	setvbuf(stdout, NULL, _IOLBF, 0);
	status = open_store(&s, argv[1], verb->flags);
	if (status == DONE)
		status = verb->run(&s, argv + 3);
	if (s.heap && fm_close(s.heap))
		status = fail();
	if (fflush(stdout) || ferror(stdout))
		status = fail_errno("output");
	return status;
}
