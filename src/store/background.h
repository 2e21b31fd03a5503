/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads of the library's own, which work beside the program. They block all signals, and do not exist in a forked
 * child, whose calls fail before they would need one.
 */
#ifndef FM_STORE_BACKGROUND_H
#define FM_STORE_BACKGROUND_H

#include <pthread.h>

/* Begin one that runs `run(arg)`. 0 or -errno. */
int background_start(pthread_t *thread, void *(*run)(void *arg), void *arg);

/* Wait until it has ended. */
void background_join(pthread_t thread);

/* How many there are in the process. */
unsigned background_threads(void);

/* In a forked child: there are none. */
void background_after_fork(void);

#endif
