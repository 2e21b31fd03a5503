/* SPDX-License-Identifier: Apache-2.0
 *
 * A program as they were written for the original fmalloc, in processes of its own: this test
 * starts itself with a heap file as argument, which makes it that program. It includes nothing but
 * fmalloc.hpp for it, never closes the heap, and adds a node at each run.
 */
#include <fmalloc.hpp>

#include "folder_util.h"

/* ---------------------------------------------------------------- the program */

struct node {
	int val;
	fm_ptr<struct node> next;
} __attribute__((packed));

struct app_super {
	fm_ptr<struct node> head;
};

static struct node *new_node(int val)
{
	struct node *n = (struct node *) fmalloc(sizeof(struct node));
	if (n == NULL) {
		printf("no memory\n");
		exit(1);
	}
	n->val = val;
	n->next = NULL;
	return n;
}

static void append(struct node *head, struct node *newnode)
{
	struct node *n = head;
	while (n->next)
		n = n->next;
	n->next = newnode;
}

static int read_nodes(struct node *head)
{
	int count = 0;
	struct node *n = head->next;
	while (n) {
		printf(" %d", n->val);
		count++;
		n = n->next;
	}
	return count;
}

static int program(const char *path)
{
	bool init = false;
	struct fm_info *fi = fmalloc_init(path, &init);
	if (!fi) {
		printf("cannot open\n");
		return 1;
	}
	fmalloc_set_target(fi);

	struct app_super *super = (struct app_super *) ((unsigned long) fi->mem + PAGE_SIZE);
	if (init) {
		printf("new:");
		super->head = (struct node *) fmalloc(sizeof(struct node));
		super->head->next = NULL;
		for (int i = 0; i < 10; i++)
			append(super->head, new_node(i));
	} else if (super->head) {
		printf("found:");
		append(super->head, new_node(10 + read_nodes(super->head)));
	}
	printf("\n");
	return 0;
}

/* ---------------------------------------------------------------- the test */

#include <errno.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
extern "C" {
#include <cmocka.h>
}

static std::string folder, file;

static int make_folder(void **)
{
	char path[256];

	if (folder_make(path, sizeof path, "fmalloc-cxx"))
		return -1;
	folder = path;
	file = folder + "/list.heap";
	return 0;
}

static int remove_folder(void **)
{
	unlink(file.c_str());
	return rmdir(folder.c_str());
}

/* Run the program on the file in a process of its own. Returns its exit status, or -1. */
static int run(char *output, size_t size)
{
	int fd[2];
	if (pipe(fd))
		return -1;
	pid_t child = fork();
	if (child == 0) {
		dup2(fd[1], STDOUT_FILENO);
		close(fd[0]);
		close(fd[1]);
		execl("/proc/self/exe", "original_list", file.c_str(), (char *)NULL);
		_exit(127);
	}
	close(fd[1]);
	size_t len = 0;
	ssize_t got;
	while (len < size - 1 && (got = read(fd[0], output + len, size - 1 - len)) > 0)
		len += (size_t)got;
	output[len] = '\0';
	close(fd[0]);
	int status;
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

static void written_once_found_again(void **)
{
	char output[256];

	assert_int_equal(run(output, sizeof output), 0);
	assert_string_equal(output, "new:\n");
	assert_int_equal(run(output, sizeof output), 0);
	assert_string_equal(output, "found: 0 1 2 3 4 5 6 7 8 9\n");
	assert_int_equal(run(output, sizeof output), 0);
	assert_string_equal(output, "found: 0 1 2 3 4 5 6 7 8 9 20\n");
}

struct count {
	int objects, of_wrong_size;
};

static int count_object(void *, size_t usable, void *arg)
{
	struct count *count = (struct count *)arg;
	count->objects++;
	count->of_wrong_size += usable < sizeof(struct node);
	return 0;
}

static void the_heap_is_whole(void **)
{
	fm_heap *heap = fm_open(file.c_str(), 0, NULL);
	assert_non_null(heap);
	fmalloc_set_target(heap);
	assert_int_equal(fm_check(heap, NULL, NULL), 0);

	struct count count = { 0, 0 };
	assert_int_equal(fm_walk(heap, count_object, &count), 0);
	assert_int_equal(count.objects, 1 + 10 + 2);
	assert_int_equal(count.of_wrong_size, 0);

	/* The bytes in the file are offsets: the list can be followed without fm_ptr. */
	const char *mem = (const char *)heap->mem;
	uint64_t at;
	int nodes = 0;
	memcpy(&at, mem + PAGE_SIZE, 8);
	while (at) {
		assert_true(fm_at_checked(heap, at, sizeof(struct node)) == mem + at);
		memcpy(&at, mem + at + 4, 8);
		nodes++;
	}
	assert_int_equal(nodes, 13);
	assert_int_equal(fm_close(heap), 0);
}

/* What is no heap is refused and stays as it is. */
static void another_file_is_refused(void **)
{
	char output[256], found[16] = "";
	FILE *f = fopen(file.c_str(), "w");
	assert_non_null(f);
	assert_true(fputs("not a heap", f) >= 0);
	assert_int_equal(fclose(f), 0);

	assert_int_equal(run(output, sizeof output), 1);
	assert_string_equal(output, "cannot open\n");

	f = fopen(file.c_str(), "r");
	assert_non_null(f);
	assert_int_equal(fread(found, 1, sizeof found - 1, f), 10);
	assert_int_equal(fclose(f), 0);
	assert_string_equal(found, "not a heap");
}

int main(int argc, char **argv)
{
	if (argc == 2)
		return program(argv[1]);

	const struct CMUnitTest tests[] = {
		cmocka_unit_test(written_once_found_again),
		cmocka_unit_test(the_heap_is_whole),
		cmocka_unit_test(another_file_is_refused),
	};
	return cmocka_run_group_tests_name("a program for the original", tests, make_folder,
	                                   remove_folder);
}
