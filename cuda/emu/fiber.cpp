#include "fiber.h"
#include <stdint.h>

#if defined(__x86_64__)
// Saved on the stack, from sp upwards: r15 r14 r13 r12 rbx rbp, return address.
asm(R"(
    .text
    .globl emu_switch
    .type emu_switch, @function
emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq (%rsi), %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emu_switch, .-emu_switch
)");
enum { SAVED_WORDS = 8, RETURN_WORD = 6 };
#elif defined(__aarch64__)
// Saved from sp upwards: x19 … x30 (12 words), d8 … d15 (8 words).
asm(R"(
    .text
    .globl emu_switch
    .type emu_switch, %function
emu_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    ldr x9, [x1]
    mov sp, x9
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size emu_switch, .-emu_switch
)");
enum { SAVED_WORDS = 20, RETURN_WORD = 11 };
#endif

namespace emu {

#if defined(__x86_64__) || defined(__aarch64__)
extern "C" void emu_switch(Fiber* from, Fiber* to);

void fiber_init(Fiber* f, char* stack, size_t size, void (*entry)()) {
    uint64_t* sp = (uint64_t*)(((uintptr_t)stack + size) & ~(uintptr_t)15) - SAVED_WORDS;
    for (int i = 0; i < SAVED_WORDS; i++) sp[i] = 0;
    sp[RETURN_WORD] = (uint64_t)(uintptr_t)entry;
    f->sp = sp;
}

void fiber_switch(Fiber* from, Fiber* to) { emu_switch(from, to); }
#else
void fiber_init(Fiber* f, char* stack, size_t size, void (*entry)()) {
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = stack;
    f->context.uc_stack.ss_size = size;
    f->context.uc_link = nullptr;
    makecontext(&f->context, entry, 0);
}

void fiber_switch(Fiber* from, Fiber* to) { swapcontext(&from->context, &to->context); }
#endif

} // namespace emu
