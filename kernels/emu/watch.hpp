// What watches the memory accesses of kernels: their bounds to the byte, races in shared memory, and (handover.hpp) what blocks
// tell each other without a fence.
//
// The compiler puts a call before every access (-fsanitize=thread; the sanitizer's own library is not linked). Two accesses
// of one place by two threads, one of them a write, must have a barrier between them: __syncthreads(), or __syncwarp() that
// names both lanes. Shuffles and matrix products are no barriers for memory, on the device neither. Atomics are not looked at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "handover.hpp"
#include "machine.hpp"

namespace emu {

class Watch {
  public:
    // Cells for `bytes` of shared memory at `base`. Accesses to [stacks, stacks + stacks_bytes) are a thread's own.
    Watch(const void* base, size_t bytes, const void* stacks, size_t stacks_bytes);
    ~Watch();
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
    bool made() const { return cells != nullptr; }

    void begin_launch(const Kernel* kernel);
    void begin_block(uint32_t number);
    void block_barrier() {
        everyone = ++now;
        handover.block_barrier();
    }
    void warp_barrier(uint32_t warp, uint32_t mask);

    // The running thread is about to access [at, at + n).
    void access(const void* at, size_t n, bool write) {
        uintptr_t address = reinterpret_cast<uintptr_t>(at);
        if (address - stacks < stacks_bytes) return;
        if (address - reinterpret_cast<uintptr_t>(base) < bytes) return shared(address - reinterpret_cast<uintptr_t>(base), n, write);
        const Page& page = pages[(address >> 12) % 256];
        if (page.number != address >> 12 || address < page.start || address + n > page.end) device(address, n, write);
        if (page.end != HOST) handover.access(address, n, write);
    }

    Handover handover;

  private:
    // The last accesses of four bytes; those before the last barrier of the block count as none.
    struct Cell {
        uint32_t write_time, read_time;
        uint16_t writer, reader;
        uint8_t written, read; // which of the four bytes
        uint16_t unused;
    };
    // Readers beyond thread numbers: several lanes of one warp, several warps.
    static constexpr uint16_t LANES_OF = 1024, MANY = 2047;

    // Where the pages end that are the host's.
    static constexpr uint64_t HOST = UINT64_MAX;

    struct Page {
        uint64_t number = UINT64_MAX, start = 0, end = 0;
    };

    void shared(size_t first, size_t n, bool write);
    void touch(size_t number, uint8_t mask, uint32_t who, bool write);
    void device(uint64_t address, size_t n, bool write);
    [[noreturn]] void race(size_t at, uint32_t who, bool write, uint32_t other, bool wrote);
    bool ordered(uint32_t before, uint32_t time, uint32_t who) const;

    const uint8_t* base;
    size_t bytes;
    uintptr_t stacks;
    size_t stacks_bytes;
    Cell* cells = nullptr;
    uint32_t now = 1;
    uint32_t everyone = 1; // time of the last barrier of the block, or of its start
    uint32_t whole[MOST_WARPS] = {};            // time of the last __syncwarp() of all lanes
    uint32_t partly[MOST_WARPS] = {};           // of the last one of some
    uint32_t pairs[MOST_WARPS][WARP][WARP] = {}; // of the last one that named both
    Page pages[256];
};

} // namespace emu
