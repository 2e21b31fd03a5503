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
		char reason[96];
		size_t used = strlen(text);

		/* the XSI or the GNU variant, whichever the C library declares */
		snprintf(text + used, sizeof(text) - used, " %s",
		         _Generic(strerror_r(err, reason, sizeof(reason)),
		                  char *: strerror_r(err, reason, sizeof(reason)),
		                  default: reason));
	}
	errno = err;
	return -1;
}

const char *status_text(void)
{
	return text;
}
