// What watches the memory accesses of kernels: their bounds to the byte, and races in shared memory.
//
// The compiler puts a call before every access (-fsanitize=thread; the sanitizer's own library is not linked). Two accesses
// of one place by two threads, one of them a write, must have a barrier between them: __syncthreads(), or __syncwarp() that
// names both lanes. Shuffles and matrix products are no barriers for memory, on the device neither. Atomics are not looked at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "machine.hpp"

namespace emu {

class Watch {
  public:
    // Cells for `bytes` of shared memory at `base`.
    Watch(const void* base, size_t bytes);
    ~Watch();
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
    bool made() const { return cells != nullptr; }

    void begin_launch();
    void begin_block();
    void block_barrier() { everyone = ++now; }
    void warp_barrier(uint32_t warp, uint32_t mask);

    // Empty, or what is wrong with an access of thread `who` to [at, at + n) of shared memory.
    std::string shared(uint32_t who, const void* at, size_t n, bool write);
    // The same for memory that is neither shared nor a stack.
    std::string device(const Memory& memory, const void* at, size_t n);

  private:
    // The last accesses of four bytes; times before the block's start count as none.
    struct Cell {
        uint32_t write_time, read_time;
        uint16_t writer, reader;
        uint8_t written, read; // which of the four bytes
        uint16_t unused;
    };
    // Readers beyond thread numbers: several lanes of one warp, several warps.
    static constexpr uint16_t LANES_OF = 1024, MANY = 2047;

    struct Page {
        uint64_t page = 0, start = 0, end = 0; // start == end: no device memory
    };

    bool ordered(uint32_t before, uint32_t time, uint32_t who) const;

    const uint8_t* base;
    size_t bytes;
    Cell* cells = nullptr;
    uint32_t now = 1, start = 1, everyone = 1;
    uint32_t whole[MOST_WARPS] = {};            // time of the last __syncwarp() of all lanes
    uint32_t partly[MOST_WARPS] = {};           // of the last one of some
    uint32_t pairs[MOST_WARPS][WARP][WARP] = {}; // of the last one that named both
    Page pages[256];
};

} // namespace emu
