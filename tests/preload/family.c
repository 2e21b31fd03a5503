/* SPDX-License-Identifier: Apache-2.0
 *
 * The malloc family under preload: what each function promises, and when it may be called: before and after
 * main, by threads at their end, beside signals, with libraries that come and go.
 */
#define _GNU_SOURCE 1
#include "../support/preload_util.h"

#include <dlfcn.h>
#include <pthread.h>

static bool is_aligned(const void *p, size_t alignment)
{
	return (uintptr_t)p % alignment == 0;
}

/* ---------------------------------------------------------------- sizes and contents */

static int sizes(void)
{
	static uint8_t *p[5000];

	for (size_t i = 0; i < 5000; i++) {
		size_t size = i < 4200 ? i : i * 37;

		p[i] = malloc(size);
		must(p[i] != NULL && is_aligned(p[i], 16));
		must(malloc_usable_size(p[i]) >= size);
		memset(p[i], (int)(i % 251), malloc_usable_size(p[i])); /* all of it is the program's */
	}
	must(preload_is_in_file(p[0]) && preload_is_in_file(p[4999]));
	for (size_t i = 0; i < 5000; i++) {
		for (size_t k = 0, n = malloc_usable_size(p[i]); k < n; k++)
			must(p[i][k] == i % 251);
		free(p[i]);
	}
	must(malloc_usable_size(NULL) == 0);
	free(NULL);
	p[0] = malloc(0);
	p[1] = malloc(0);
	must(p[0] && p[1] && p[0] != p[1]);
	must(malloc_usable_size(p[0]) > 0);
	free(p[0]);
	free(p[1]);
	return 0;
}

static int zeroed(void)
{
	for (unsigned round = 0; round < 3; round++) {
		for (size_t size = 1; size < 20000000; size = size * 3 + 7) {
			uint8_t *p = calloc(size / 3 + 1, 3);

			must(p != NULL && is_aligned(p, 16));
			for (size_t i = 0; i < size; i++)
				must(p[i] == 0);
			memset(p, 0xff, size);
			free(p);
		}
	}
	must(calloc(0, 10) != NULL && calloc(10, 0) != NULL);
	return 0;
}

static int resized(void)
{
	uint8_t *p = NULL;
	size_t filled = 0;

	for (size_t size = 1; size < 30000000; size += size / 2 + 1) {
		p = realloc(p, size);
		must(p != NULL && is_aligned(p, 16));
		for (size_t i = 0; i < filled; i += filled / 1000 + 1)
			must(p[i] == (uint8_t)(i % 253));
		for (filled = 0; filled < size; filled++)
			p[filled] = (uint8_t)(filled % 253);
	}
	for (size_t size = filled; size > 0; size /= 2) {
		p = reallocarray(p, size, 1);
		must(p != NULL);
		for (size_t i = 0; i < size; i += size / 1000 + 1)
			must(p[i] == (uint8_t)(i % 253));
	}
	must(realloc(p, 0) == NULL); /* frees it, as glibc does */
	return 0;
}

static volatile size_t odd = 48; /* compilers would warn */

static int alignments(void)
{
	void *p;

	for (size_t alignment = 8; alignment <= (4 << 20); alignment *= 2) {
		for (size_t size = 0; size < 3000000; size = size * 5 + 1) {
			must(posix_memalign(&p, alignment, size) == 0 && is_aligned(p, alignment) && is_aligned(p, 16));
			memset(p, 1, size);
			free(p);
			p = memalign(alignment, size);
			must(p != NULL && is_aligned(p, alignment));
			p = realloc(p, size + 100);
			must(p != NULL && is_aligned(p, 16));
			free(p);
			p = aligned_alloc(alignment, size);
			must(p != NULL && is_aligned(p, alignment) && malloc_usable_size(p) >= size);
			free(p);
		}
	}
	p = memalign(odd, 100); /* glibc: the next power of two */
	must(p != NULL && is_aligned(p, 64));
	must((p = valloc(10)) && is_aligned(p, (size_t)getpagesize()));
	must((p = pvalloc(10)) && is_aligned(p, (size_t)getpagesize()));
	must(malloc_usable_size(p) >= (size_t)getpagesize());
	errno = 0;
	p = &p;
	must(posix_memalign(&p, 3, 10) == EINVAL && posix_memalign(&p, 4, 10) == EINVAL);
	must(posix_memalign(&p, 64, (size_t)PTRDIFF_MAX) == ENOMEM);
	must(p == &p && errno == 0); /* neither is touched */
	must(aligned_alloc(odd, 96) == NULL && errno == EINVAL);
	return 0;
}

/* Requests that can't be had, in variables: compilers know better. */
static volatile size_t huge = SIZE_MAX;

static int errors(void)
{
	void *p = malloc(100);

	for (size_t less = 0; less < 40; less++) {
		errno = 0;
		must(malloc(huge - less) == NULL && errno == ENOMEM);
		errno = 0;
		must(realloc(p, huge - less) == NULL && errno == ENOMEM);
		errno = 0;
		must(memalign(64, huge - less) == NULL && errno == ENOMEM);
		errno = 0;
		must(calloc(1, huge - less) == NULL && errno == ENOMEM);
		errno = 0;
		must(pvalloc(huge - less) == NULL && errno == ENOMEM);
	}
	errno = 0;
	must(malloc(huge / 2) == NULL && errno == ENOMEM);
	errno = 0;
	must(calloc(huge / 2, 3) == NULL && errno == ENOMEM);
	errno = 0;
	must(reallocarray(p, huge / 2, 3) == NULL && errno == ENOMEM);
	must(malloc_usable_size(p) >= 100);
	free(p);
	/* free leaves errno alone: small, large, huge, behind the thread's back */
	for (size_t size = 10; size < 100000000; size *= 4) {
		p = malloc(size);
		must(p != NULL);
		errno = 12345;
		free(p);
		must(errno == 12345);
	}
	p = malloc(50000000); /* and freed: there is something to give back */
	must(p != NULL);
	free(p);
	errno = 12345;
	must(malloc_trim(0) == 1);
	must(malloc_trim(0) == 0 && errno == 12345);
	return 0;
}

/* ---------------------------------------------------------------- before and after main */

static void *early, *in_constructor;

static void before_all(int argc, char **argv, char **env)
{
	(void)argc;
	(void)argv;
	(void)env;
	early = strcpy(malloc(100), "before all");
}

__attribute__((section(".preinit_array"), used)) static void (*preinit)(int, char **, char **) = before_all;

__attribute__((constructor(101))) static void construct(void)
{
	in_constructor = strcpy(malloc(100), "constructor");
}

static void *late;
static char *path_of_last_words;

__attribute__((destructor(101))) static void destruct(void)
{
	int fd;

	if (!late)
		return;
	free(late);
	late = realloc(malloc(10), 100000);
	fd = open(path_of_last_words, O_WRONLY | O_CREAT, 0600);
	if (fd >= 0 && late && preload_is_in_file(late))
		close(write(fd, "x", 1) == 1 ? fd : -1);
	free(late);
}

static void at_exit(void)
{
	free(early);
	late = malloc(1000);
}

static int whole_life(void)
{
	char *grown;

	must(strcmp(early, "before all") == 0 && is_aligned(early, 16));
	must(strcmp(in_constructor, "constructor") == 0);
	must(malloc_usable_size(early) >= 100);
	grown = realloc(early, 1000);
	must(grown && strcmp(grown, "before all") == 0 && preload_is_in_file(grown));
	early = grown;
	path_of_last_words = malloc(PATH_MAX);
	proc_path(path_of_last_words, getenv("TEST_DIR"), "words");
	must(atexit(at_exit) == 0);
	exit(0);
}

static void test_whole_life(void **state)
{
	char words[PATH_MAX], heap[PATH_MAX];

	(void)state;
	proc_path(words, preload_dir, "words");
	proc_path(heap, preload_dir, "heap.fm");
	assert_int_equal(preload_run("whole_life", heap, NULL), 0);
	assert_string_equal(preload_stderr, "");
	assert_int_equal(unlink(words), 0); /* written by the last destructor, with memory that it allocated */
}

/* ---------------------------------------------------------------- threads */

#define THREADS 6
#define SLOTS   512

static void *shared[SLOTS]; /* atomic */
static pthread_key_t key;

static void at_thread_end(void *p)
{
	/* once more behind the library's own turn, where the thread has no cache */
	static __thread int turns;

	free(p);
	p = malloc(777);
	must(p != NULL);
	if (turns++ < 2)
		pthread_setspecific(key, p);
	else
		free(p);
}

static void *exchange(void *arg)
{
	uint64_t random = (uintptr_t)arg;

	pthread_setspecific(key, malloc(50));
	for (unsigned i = 0; i < 100000; i++) {
		uint64_t number = proc_rand(&random);
		size_t size = number % 64 ? number >> 20 & 1023 : number >> 20 & 0x3ffff;
		uint64_t *p = malloc(size + 16), *old;

		must(p != NULL);
		p[0] = size;
		((uint8_t *)p)[size + 15] = (uint8_t)(size ^ 0x5a);
		old = __atomic_exchange_n(&shared[number % SLOTS], p, __ATOMIC_ACQ_REL);
		if (!old)
			continue;
		must(((uint8_t *)old)[old[0] + 15] == (uint8_t)(old[0] ^ 0x5a));
		free(old);
	}
	return NULL;
}

static void *one_allocation(void *arg)
{
	pthread_setspecific(key, malloc(50));
	return malloc((uintptr_t)arg);
}

static int threads(void)
{
	pthread_t thread[THREADS];

	must(pthread_key_create(&key, at_thread_end) == 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		must(pthread_create(&thread[i], NULL, exchange, (void *)(i + 1)) == 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		must(pthread_join(thread[i], NULL) == 0);
	for (uintptr_t i = 0; i < 1000; i++) {
		void *p;

		must(pthread_create(&thread[0], NULL, one_allocation, (void *)(i * 3)) == 0);
		must(pthread_join(thread[0], &p) == 0);
		must(p != NULL && malloc_usable_size(p) >= i * 3);
		free(p);
	}
	return 0;
}

/* Thread-local storage that comes with libraries: the dynamic linker allocates in the middle of everything. */
static void *load_and_unload(void *arg)
{
	static const char *const names[] = {"libstdc++.so.6", "libm.so.6", "libresolv.so.2", "libcmocka.so.0", "libgcc_s.so.1"};

	(void)arg;
	for (unsigned i = 0; i < 100; i++) {
		void *library = dlopen(names[i % 5], RTLD_NOW | RTLD_LOCAL);
		void *p = malloc(i * 100);

		dlsym(RTLD_DEFAULT, "no_such_symbol");
		free(dlerror() ? p : NULL);
		if (library)
			dlclose(library);
	}
	return arg;
}

static int libraries(void)
{
	pthread_t thread[4];

	for (unsigned i = 0; i < 4; i++)
		must(pthread_create(&thread[i], NULL, load_and_unload, NULL) == 0);
	for (unsigned i = 0; i < 4; i++)
		must(pthread_join(thread[i], NULL) == 0);
	return 0;
}

/* ---------------------------------------------------------------- signals */

static volatile sig_atomic_t ticks;

static void tick(int number)
{
	(void)number;
	ticks++;
}

/* Growth is made of system calls that signals interrupt. */
static int signals(void)
{
	struct itimerval often = {{0, 50}, {0, 50}};
	struct sigaction action = {.sa_handler = tick};
	static char *p[400];

	must(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0);
	for (unsigned round = 0; round < 3 || ticks < 100; round++) {
		for (unsigned i = 0; i < 400; i++) {
			p[i] = malloc(1000 + i * 997);
			must(p[i] != NULL);
			p[i][999] = 1;
		}
		for (unsigned i = 0; i < 400; i++)
			free(p[i]);
	}
	return 0;
}

/* ---------------------------------------------------------------- */

static const struct preload_case cases[] = {
	{"sizes", sizes},         {"zeroed", zeroed},   {"resized", resized},     {"alignments", alignments},
	{"errors", errors},       {"whole_life", whole_life}, {"threads", threads}, {"libraries", libraries},
	{"signals", signals},
};

#define PASSES(name) static void test_##name(void **state) { (void)state; preload_must_pass(#name, NULL); }
PASSES(sizes)
PASSES(zeroed)
PASSES(resized)
PASSES(alignments)
PASSES(errors)
PASSES(threads)
PASSES(libraries)
PASSES(signals)

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),      cmocka_unit_test(test_zeroed),  cmocka_unit_test(test_resized),
		cmocka_unit_test(test_alignments), cmocka_unit_test(test_errors),  cmocka_unit_test(test_whole_life),
		cmocka_unit_test(test_threads),    cmocka_unit_test(test_libraries), cmocka_unit_test(test_signals),
	};
	int r = preload_main(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));

	return r >= 0 ? r : preload_end(cmocka_run_group_tests(tests, NULL, NULL));
}
