// What one block of a launch leaves in device memory for another: a counter or flag may tell of it only when a fence stands
// between the writes and the atomic, and it may be read only when one stands behind the atomic that told, and only if the
// writer's block had an atomic after it wrote. A GPU forgives the lack of any nearly always. Source: CUDA C++ programming
// guide, "Memory fence functions"; PTX ISA, "Memory consistency model".
//
// Blocks run one after another here, so only what a kernel does without fences can be seen, not what becomes of it. Who wrote
// what is kept for kernels that were seen to use atomics on device memory, from their second block on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <unordered_set>

#include "machine.hpp"

namespace emu {

class Handover {
  public:
    void begin_launch(const Kernel* of);
    void begin_block(uint32_t number);
    // All threads of the block have met: what one did before happened before what any does now.
    void block_barrier();

    // The running thread: a fence; an atomic, or a load with acquire or a store with release, which are fences besides.
    void fence();
    void atomic(const void* at);
    void acquire() { note(acquired, acquirers); }

    // It is about to access [at, at + n) of device memory.
    void access(uint64_t at, size_t n, bool write) {
        if (write) note(unfenced, writers_here);
        if (!tells) return;
        if (write) wrote(at, n);
        else if (at < high && at + n > low) read(at, n);
    }

  private:
    static constexpr uint32_t MOST = Stacks::MOST;

    void note(bool of[MOST], uint32_t& count) {
        bool& mine = of[thread->index.x];
        count += !mine;
        mine = true;
    }
    void wrote(uint64_t at, size_t n);
    void read(uint64_t at, size_t n);

    const Kernel* kernel = nullptr;
    std::unordered_set<const Kernel*> telling;   // kernels with atomics on device memory
    bool tells = false;                          // this one
    struct Writer {
        uint32_t block, atomics; // of this launch; how many atomics its threads had had by then
    };
    std::unordered_map<uint64_t, Writer> last;       // four bytes: who wrote them
    uint64_t low = ~uint64_t{0}, high = 0;           // all of them lie between
    std::unordered_map<uint32_t, uint32_t> atomics;  // of each block of the launch so far
    uint32_t number = 0;
    bool announced = false;         // this block has had an atomic
    bool pending = false;           // writes before the last barrier that their writers put no fence behind
    bool everyone_acquired = false; // a fence behind an atomic, before the last barrier
    // Of each thread since the last barrier: wrote without a fence behind it; a fence behind `pending`; behind an atomic.
    bool unfenced[MOST] = {}, covered[MOST] = {}, acquired[MOST] = {};
    uint32_t writers_here = 0, coverers = 0, acquirers = 0;
};

} // namespace emu
