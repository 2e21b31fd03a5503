/* SPDX-License-Identifier: Apache-2.0
 *
 * fmalloc for C++11 and later, source-compatible with the original fmalloc: fmalloc.h, fm_ptr<T>,
 * and the standard headers that its programs did not include themselves.
 *
 * A program written for the original compiles unchanged, with one thing to look at: arithmetic on
 * an fm_ptr<T> is that of a `T *`. `p + 1` is the next object, where the original went one byte on,
 * and `p - q` is a number of objects. fmptr.hpp lists the differences.
 */
#ifndef FMALLOC_HPP
#define FMALLOC_HPP

#include <algorithm>
#include <atomic>
#include <vector>

#include <assert.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fmalloc.h"
#include "fmptr.hpp"

#endif
