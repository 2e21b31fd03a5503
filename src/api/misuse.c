/* SPDX-License-Identifier: Apache-2.0 */
#include "misuse.h"

#include "../base/atomics.h"
#include "../base/status.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static fm_misuse_handler *handler;
static void *handler_arg;

void fm_set_misuse_handler(fm_misuse_handler *new_handler, void *arg)
{
	pthread_mutex_lock(&lock);
	handler = new_handler;
	handler_arg = arg;
	pthread_mutex_unlock(&lock);
}

void misuse_report(enum fm_misuse_kind kind, const void *address, fm_heap *heap)
{
	int err = errno;
	char text[256];
	struct fm_misuse misuse = {kind, address, heap, text};
	const char *debug = getenv("FMALLOC_DEBUG");
	fm_misuse_handler *call;
	void *arg;

	strncpy(text, status_text(), sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	if (debug && strcmp(debug, "abort") == 0)
		abort();
	pthread_mutex_lock(&lock);
	call = handler;
	arg = handler_arg;
	pthread_mutex_unlock(&lock);
	if (call)
		call(&misuse, arg);
	fail(err, "%s", text);
}

void misuse_before_fork(void)
{
	pthread_mutex_lock(&lock);
}

void misuse_after_fork(void)
{
	pthread_mutex_unlock(&lock);
}
