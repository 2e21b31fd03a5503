/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of the table that tells where page faults were; os.h says what each does.
 */
#ifndef FM_OS_LINUX_SAMPLES_H
#define FM_OS_LINUX_SAMPLES_H

#include "os.h"

int samples_open(struct os_samples *samples);
unsigned samples_read(struct os_samples *samples, uint64_t *addresses, unsigned n);
void samples_close(struct os_samples *samples);

#endif
