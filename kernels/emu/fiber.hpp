// A fiber: a stack of its own and a switch to it. One per CUDA thread of the block that runs.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
// Saves the callee-saved registers and the stack pointer in *save, and continues where `to` was saved.
void hearth_emu_switch(void** save, void* to);
}

namespace emu {

// Stacks of one OS thread, made as blocks grow, each with an inaccessible page below it.
class Stacks {
  public:
    static constexpr size_t MOST = 1024;
    static constexpr size_t BYTES = 128 * 1024;

    Stacks();
    ~Stacks();
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;

    // The saved stack pointer of a fiber that starts in `entry` (which never returns) on stack `i`. Makes the stack
    // usable at its first use; nullptr when the system refuses.
    void* start(size_t i, void (*entry)());
    // The index of the stack whose guard page holds `at`, or -1.
    const void* start_address() const { return base; }
    size_t bytes() const { return span; }
    int guard_at(const void* at) const;

  private:
    size_t page, span;
    char* base;
    size_t made = 0;
};

} // namespace emu
