/* SPDX-License-Identifier: Apache-2.0 */
#include "status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static __thread char text[256];

int fail(int err, const char *fmt, ...)
{
	va_list args;
	size_t len = strlen(fmt);

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (len && fmt[len - 1] == ':') {
		size_t used = strlen(text);

		errno = err;
		snprintf(text + used, sizeof(text) - used, " %m");
	}
	errno = err;
	return -1;
}

const char *status_text(void)
{
	return text;
}
