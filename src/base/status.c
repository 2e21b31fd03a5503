/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static __thread char text[256];

/* strerror() and %m translate where a locale is set, and allocate for that: in a program whose malloc is this
 * library they would come back to it with locks held. */
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 32)
const char *status_describe(int err)
{
	const char *words = strerrordesc_np(err);

	return words ? words : "unknown error";
}
#else
const char *status_describe(int err)
{
	return strerror(err);
}
#endif

int fail(int err, const char *fmt, ...)
{
	va_list args;
	size_t len = strlen(fmt);

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (len && fmt[len - 1] == ':') {
		size_t used = strlen(text);

		snprintf(text + used, sizeof(text) - used, " %s", status_describe(err));
	}
	errno = err;
	return -1;
}

const char *status_text(void)
{
	return text;
}
