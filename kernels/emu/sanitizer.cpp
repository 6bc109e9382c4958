// What the compiler's checks in kernels call (-fsanitize=alignment,bounds,shift,integer-divide-by-zero): a kernel that
// does what C++ leaves undefined fails with the line. The sanitizer's own library is not linked.
#include <cstdio>

#include "machine.hpp"

namespace {

// Every report of the sanitizer starts with it (compiler-rt, ubsan_handlers.h).
struct Report {
    const char* file;
    uint32_t line, column;
};

[[noreturn]] void refuse(const void* report, const char* code, const std::string& what) {
    const Report* r = static_cast<const Report*>(report);
    emu::fail(code, what + ", at " + (r->file ? r->file : "?") + ":" + std::to_string(r->line));
}

} // namespace

extern "C" {

void __ubsan_handle_type_mismatch_v1(const void* report, uintptr_t at) {
    char address[32];
    snprintf(address, sizeof address, "0x%zx", static_cast<size_t>(at));
    refuse(report, "CUDA_ERROR_MISALIGNED_ADDRESS (716)", std::string("an access to address ") + address + ", misaligned for its type");
}

void __ubsan_handle_out_of_bounds(const void* report, uintptr_t index) {
    refuse(report, "CUDA_ERROR_ILLEGAL_ADDRESS (700)", "index " + std::to_string(static_cast<intptr_t>(index)) + " is outside of an array");
}

void __ubsan_handle_shift_out_of_bounds(const void* report, uintptr_t, uintptr_t) {
    refuse(report, "CUDA_ERROR_LAUNCH_FAILED (719)", "a shift by more bits than the number has, or of a negative number");
}

void __ubsan_handle_divrem_overflow(const void* report, uintptr_t, uintptr_t) {
    refuse(report, "CUDA_ERROR_LAUNCH_FAILED (719)", "an integer division by zero, or one that overflows");
}

} // extern "C"
