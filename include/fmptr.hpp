/* SPDX-License-Identifier: Apache-2.0
 *
 * fm_ptr<T>: a pointer member of 8 bytes that stays valid in the file.
 *
 * It holds the offset of what it points to from the start of the calling thread's target heap, 0
 * for null, and behaves as a `T *` to an object in that heap. It is trivially copyable, so memcpy and
 * realloc may move it. T may be void or incomplete where a `T *` would do with it.
 *
 * Its alignment is 1, so it may be a member of a packed struct. Its bytes are those of fm_ptr(T) in
 * C, whose alignment is 8: a struct that C and C++ share must be packed, or have it at multiples of 8.
 *
 *     struct node { int val; fm_ptr<struct node> next; } __attribute__((packed));
 *
 *     n->next = (struct node *)fmalloc(sizeof(struct node));
 *     for (struct node *i = n; i; i = i->next) ...
 *
 * As in the original fmalloc, it converts to every `U *` without a cast and can be assigned every
 * `U *`. A raw pointer is not converted to an fm_ptr by itself, so that `c ? n->next : raw` is a
 * raw pointer: write `fm_ptr<T> p(raw)`, not `fm_ptr<T> p = raw`.
 *
 * What differs from the original:
 *   - Arithmetic is that of a pointer: it counts in objects, where the original counted in bytes,
 *     and the difference of two pointers is a number. There is no *, /, |, ^, <<, >>: convert to
 *     uintptr_t for these.
 *   - A pointer to a base class or a derived one is adjusted as by a cast of raw pointers.
 *   - Of the integers only unsigned long and unsigned long long, taken as addresses, can be
 *     assigned and compared, beside 0 and NULL.
 */
#ifndef FMPTR_HPP
#define FMPTR_HPP

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cstddef>
#include <type_traits>

#include "fmalloc.h"

/* g++ takes an fm_ptr variable that is converted to a pointer for a pointer to the packed fm_ptr, and
 * warns at each `T *p = variable;` with a T that is not packed. The lines that it warns about are the
 * program's, so the warning stays off after this header; clang++ is right about it. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Waddress-of-packed-member"
#endif

extern "C" {
/* Address of the calling thread's target heap; 0 while the thread has set none. */
extern __thread FM_API uint64_t __fm_addr_base;
/* Address of the process's first heap; 0 while none is open. */
extern FM_API uint64_t __fm_first_base;
}

namespace fm_detail {

/* Where offsets count from: the thread's target or else the process's first heap; 0 without one. */
inline uint64_t base() noexcept
{
	if (__builtin_expect(__fm_addr_base != 0, 1))
		return __fm_addr_base;
	return __atomic_load_n(&__fm_first_base, __ATOMIC_RELAXED);
}

/* The type R for an I that can be added to a pointer. */
template <class I, class R>
using if_index =
	typename std::enable_if<std::is_integral<I>::value || std::is_enum<I>::value, R>::type;

/* The type R for an I in which programs keep addresses. */
template <class I, class R>
using if_address =
	typename std::enable_if<std::is_same<I, unsigned long>::value ||
	                                std::is_same<I, unsigned long long>::value,
	                        R>::type;

} // namespace fm_detail

template <class T>
class __attribute__((packed)) fm_ptr {
	uint64_t off;

	T *get() const noexcept
	{
		return off ? (T *)(uintptr_t)(fm_detail::base() + off) : nullptr;
	}

	static uint64_t offset_of(T *p) noexcept
	{
		return p ? (uint64_t)(uintptr_t)p - fm_detail::base() : 0;
	}

public:
	/* ------------------------------------------------ making and assigning */

	constexpr fm_ptr() noexcept : off(0) {}
	constexpr fm_ptr(std::nullptr_t) noexcept : off(0) {}

	template <class U>
	explicit fm_ptr(U *p) noexcept : off(offset_of((T *)p)) {}

	template <class U,
	          class = typename std::enable_if<std::is_convertible<U *, T *>::value>::type>
	fm_ptr(const fm_ptr<U> &p) noexcept : off(offset_of((U *)p)) {}

	fm_ptr &operator=(std::nullptr_t) noexcept
	{
		off = 0;
		return *this;
	}

	template <class U>
	fm_ptr &operator=(U *p) noexcept
	{
		off = offset_of((T *)p);
		return *this;
	}

	template <class I>
	fm_detail::if_address<I, fm_ptr> &operator=(I address) noexcept
	{
		off = offset_of((T *)(uintptr_t)address);
		return *this;
	}

	/* ------------------------------------------------ converting */

	template <class U>
	operator U *() const noexcept
	{
		return (U *)get();
	}

	explicit operator bool() const noexcept { return off != 0; }

	template <class I, class = typename std::enable_if<std::is_integral<I>::value>::type>
	explicit operator I() const noexcept
	{
		return (I)(uintptr_t)get();
	}

	/* ------------------------------------------------ using */

	T *operator->() const noexcept { return get(); }

	template <class V = T>
	typename std::enable_if<!std::is_void<V>::value, V>::type &operator*() const noexcept
	{
		return *get();
	}

	template <class I, class V = T>
	fm_detail::if_index<I, typename std::enable_if<!std::is_void<V>::value, V>::type> &
	operator[](I i) const noexcept
	{
		return get()[i];
	}

	/* ------------------------------------------------ moving on and back */

	template <class I>
	fm_detail::if_index<I, fm_ptr> &operator+=(I n) noexcept
	{
		return *this = get() + n;
	}

	template <class I>
	fm_detail::if_index<I, fm_ptr> &operator-=(I n) noexcept
	{
		return *this = get() - n;
	}

	fm_ptr &operator++() noexcept { return *this = get() + 1; }
	fm_ptr &operator--() noexcept { return *this = get() - 1; }

	fm_ptr operator++(int) noexcept
	{
		fm_ptr old = *this;
		++*this;
		return old;
	}

	fm_ptr operator--(int) noexcept
	{
		fm_ptr old = *this;
		--*this;
		return old;
	}
};

/* ------------------------------------------------ arithmetic: results are raw pointers */

template <class T, class I>
inline fm_detail::if_index<I, T> *operator+(const fm_ptr<T> &p, I n) noexcept
{
	return (T *)p + n;
}

template <class T, class I>
inline fm_detail::if_index<I, T> *operator+(I n, const fm_ptr<T> &p) noexcept
{
	return (T *)p + n;
}

template <class T, class I>
inline fm_detail::if_index<I, T> *operator-(const fm_ptr<T> &p, I n) noexcept
{
	return (T *)p - n;
}

template <class T, class U>
inline ptrdiff_t operator-(const fm_ptr<T> &p, const fm_ptr<U> &q) noexcept
{
	return (T *)p - (U *)q;
}

template <class T, class U>
inline ptrdiff_t operator-(const fm_ptr<T> &p, U *q) noexcept
{
	return (T *)p - q;
}

template <class T, class U>
inline ptrdiff_t operator-(U *p, const fm_ptr<T> &q) noexcept
{
	return p - (T *)q;
}

/* ------------------------------------------------ comparisons: of addresses; null is address 0 */

#define FM_PTR_COMPARE(op) \
	template <class T, class U> \
	inline bool operator op(const fm_ptr<T> &p, const fm_ptr<U> &q) noexcept \
	{ \
		return (T *)p op (U *)q; \
	} \
	template <class T, class U> \
	inline bool operator op(const fm_ptr<T> &p, U *q) noexcept \
	{ \
		return (uintptr_t)(U *)p op (uintptr_t)q; \
	} \
	template <class T, class U> \
	inline bool operator op(U *p, const fm_ptr<T> &q) noexcept \
	{ \
		return (uintptr_t)p op (uintptr_t)(U *)q; \
	} \
	template <class T> \
	inline bool operator op(const fm_ptr<T> &p, std::nullptr_t) noexcept \
	{ \
		return p op (T *)nullptr; \
	} \
	template <class T> \
	inline bool operator op(std::nullptr_t, const fm_ptr<T> &q) noexcept \
	{ \
		return (T *)nullptr op q; \
	} \
	template <class T, class I> \
	inline fm_detail::if_address<I, bool> operator op(const fm_ptr<T> &p, I q) noexcept \
	{ \
		return (I)p op q; \
	} \
	template <class T, class I> \
	inline fm_detail::if_address<I, bool> operator op(I p, const fm_ptr<T> &q) noexcept \
	{ \
		return p op (I)q; \
	}

FM_PTR_COMPARE(==)
FM_PTR_COMPARE(!=)
FM_PTR_COMPARE(<)
FM_PTR_COMPARE(<=)
FM_PTR_COMPARE(>)
FM_PTR_COMPARE(>=)

#undef FM_PTR_COMPARE

#endif
