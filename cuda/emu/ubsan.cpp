// What the compiler's checks for undefined behaviour call (-fsanitize=alignment,shift,…): the launch ends with a message.
#include "runtime.h"
#include <stdio.h>

namespace {

struct Place {
    const char* file;
    uint32_t line, column;
};
struct Pointer { // of a type that wants an alignment
    Place place;
    const void* type;
    uint8_t log_alignment, access; // access: 0 a load, 1 a store, others form a reference or call a member
};

std::string at(const Place& p) {
    const char* slash = strrchr(p.file, '/');
    return std::string(" (") + (slash ? slash + 1 : p.file) + ":" + std::to_string(p.line) + ")";
}

void undefined(const std::string& what, const Place* p) {
    if (emu::self) emu::fail(what + at(*p));
}

} // namespace

extern "C" {
void __ubsan_handle_type_mismatch_v1(Pointer* p, uint64_t address) {
    uint64_t alignment = 1ull << p->log_alignment;
    char s[128];
    if (!address) snprintf(s, sizeof s, "null pointer: access at 0x0");
    else
        snprintf(s, sizeof s, "misaligned %s at 0x%llx, which is %u modulo %u", p->access == 1 ? "write" : "read",
            (unsigned long long)address,
            (uint32_t)(address % alignment), (uint32_t)alignment);
    undefined(s, &p->place);
}
void __ubsan_handle_shift_out_of_bounds(Place* p, uint64_t value, uint64_t by) {
    undefined("shift of " + std::to_string((int64_t)value) + " by " + std::to_string((int64_t)by) + " bits", p);
}
void __ubsan_handle_add_overflow(Place* p, uint64_t, uint64_t) { undefined("overflow of a signed addition", p); }
void __ubsan_handle_sub_overflow(Place* p, uint64_t, uint64_t) { undefined("overflow of a signed subtraction", p); }
void __ubsan_handle_mul_overflow(Place* p, uint64_t, uint64_t) { undefined("overflow of a signed product", p); }
void __ubsan_handle_negate_overflow(Place* p, uint64_t) { undefined("overflow of a negation", p); }
void __ubsan_handle_divrem_overflow(Place* p, uint64_t, uint64_t) { undefined("division by zero, or its overflow", p); }
void __ubsan_handle_out_of_bounds(Place* p, uint64_t index) {
    undefined("index " + std::to_string((int64_t)index) + " outside of a local array", p);
}
}
