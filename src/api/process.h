/* SPDX-License-Identifier: Apache-2.0
 *
 * What the library does beside its calls: at fork and at exit. Each has an option that turns it off.
 */
#ifndef FM_API_PROCESS_H
#define FM_API_PROCESS_H

/* Before a heap is opened with fm_options.disable = `disable`. 0, or -1 after fail(). */
int process_prepare(unsigned disable);

#endif
