// Turns a kernel's type into a function that takes its arguments from 8-byte slots.
#pragma once
#include "runtime.h"
#include <utility>

namespace emu {

template <class F> struct Signature;
template <class... A> struct Signature<void (*)(A...)> {
    static_assert(((sizeof(A) <= 8) && ...), "a kernel argument has at most 8 bytes");
    enum { N_ARGS = sizeof...(A) };

    template <class T> static T take(uint64_t slot) {
        T t;
        memcpy(&t, &slot, sizeof t);
        return t;
    }
    template <size_t... I> static void apply(void (*f)(A...), const uint64_t* a, std::index_sequence<I...>) {
        f(take<A>(a[I])...); }
    static void call(void (*f)(A...), const uint64_t* a) { apply(f, a, std::index_sequence_for<A...>()); }
};

template <auto F> void call_kernel(const uint64_t* args) { Signature<decltype(F)>::call(F, args); }

#define EMU_KERNEL(f, max_threads) {#f, emu::Signature<decltype(&f)>::N_ARGS, max_threads, emu::call_kernel<&f>}

} // namespace emu
