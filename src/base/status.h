/* SPDX-License-Identifier: Apache-2.0
 *
 * Failures: errno, and a sentence per thread that fm_last_error() returns.
 */
#ifndef FM_BASE_STATUS_H
#define FM_BASE_STATUS_H

/* Set errno to `err` and the thread's text; the text of `err` itself is appended if `fmt` ends in ':'.
 * Always returns -1, so that callers can `return fail(...)`. */
int fail(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The thread's last text, "" at first. */
const char *status_text(void);

/* What errno `err` means, untranslated. */
const char *status_describe(int err);

#endif
