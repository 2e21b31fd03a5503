/* SPDX-License-Identifier: Apache-2.0
 *
 * Structs that begin with their size, which a program of another version may have longer or shorter.
 */
#ifndef FM_API_SIZES_H
#define FM_API_SIZES_H

/* What no such struct will ever reach: a greater `size` was not set by anybody. */
#define FM_STRUCT_MAX 4096

#endif
