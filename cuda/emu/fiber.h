// Cooperative threads: a stack and a switch.
#pragma once
#include <stddef.h>
#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

namespace emu {

struct Fiber {
#if defined(__x86_64__) || defined(__aarch64__)
    void* sp;
#else
    ucontext_t context;
#endif
};

// Prepares a fiber that will call entry() on the given stack. entry must never return.
void fiber_init(Fiber* f, char* stack, size_t size, void (*entry)());
// Saves the running context in *from and continues *to.
void fiber_switch(Fiber* from, Fiber* to);

} // namespace emu
