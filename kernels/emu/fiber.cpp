#include "fiber.hpp"

#include <sys/mman.h>
#include <unistd.h>

#if defined(__x86_64__)
// An indirect jump in place of `ret`: the return predictor would miss every time.
asm(R"(
.text
.globl hearth_emu_switch
.type hearth_emu_switch, @function
hearth_emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmpq *%rcx
.size hearth_emu_switch, .-hearth_emu_switch
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl hearth_emu_switch
.type hearth_emu_switch, %function
hearth_emu_switch:
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
    mov sp, x1
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
.size hearth_emu_switch, .-hearth_emu_switch
)");
#else
#error "the CUDA emulator knows x86-64 and aarch64"
#endif

namespace emu {

Stacks::Stacks() : page(static_cast<size_t>(sysconf(_SC_PAGESIZE))), span(MOST * (BYTES + page)) {
    void* at = mmap(nullptr, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    base = at == MAP_FAILED ? nullptr : static_cast<char*>(at);
}

Stacks::~Stacks() {
    if (base) munmap(base, span);
}

void* Stacks::start(size_t i, void (*entry)()) {
    if (!base || i >= MOST) return nullptr;
    while (made <= i) {
        if (mprotect(base + made * (BYTES + page) + page, BYTES, PROT_READ | PROT_WRITE) != 0) return nullptr;
        made++;
    }
    // Tops at different distances from the page's end: at equal ones all fibers would fight for the same cache sets.
    char* top = base + (i + 1) * (BYTES + page) - (i * 5 % 32) * 128;
    void** sp = reinterpret_cast<void**>(top);
#if defined(__x86_64__)
    *--sp = nullptr; // where a return address would lie: the entry sees the alignment of a called function
    *--sp = reinterpret_cast<void*>(entry);
    for (int r = 0; r < 6; r++) *--sp = nullptr;
#else
    sp -= 20;
    for (int r = 0; r < 20; r++) sp[r] = nullptr;
    sp[11] = reinterpret_cast<void*>(entry);
#endif
    return sp;
}

int Stacks::guard_at(const void* at) const {
    const char* p = static_cast<const char*>(at);
    if (!base || p < base || p >= base + span) return -1;
    size_t offset = static_cast<size_t>(p - base);
    return offset % (BYTES + page) < page ? static_cast<int>(offset / (BYTES + page)) : -1;
}

} // namespace emu
