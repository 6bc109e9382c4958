#include "watch.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "executor.hpp"
#include "memory.hpp"

namespace emu {

Watch::Watch(const void* base, size_t bytes, const void* stacks, size_t stacks_bytes)
    : base(static_cast<const uint8_t*>(base)), bytes(bytes), stacks(reinterpret_cast<uintptr_t>(stacks)), stacks_bytes(stacks_bytes) {
    void* at = mmap(nullptr, bytes / 4 * sizeof(Cell), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    cells = at == MAP_FAILED ? nullptr : static_cast<Cell*>(at);
}

Watch::~Watch() {
    if (cells) munmap(cells, bytes / 4 * sizeof(Cell));
}

void Watch::begin_launch(const Kernel* kernel) {
    for (Page& page : pages) page = {};
    handover.begin_launch(kernel);
}

void Watch::begin_block(uint32_t number) {
    everyone = ++now;
    handover.begin_block(number);
}

void Watch::warp_barrier(uint32_t warp, uint32_t mask) {
    now++;
    if (mask == ALL_LANES) {
        whole[warp] = now;
        return;
    }
    partly[warp] = now;
    for (uint32_t a = 0; a < WARP; a++) {
        for (uint32_t b = 0; b < WARP; b++) {
            if (mask >> a & mask >> b & 1u) pairs[warp][a][b] = now;
        }
    }
}

// True if a barrier of the warp lies between an access of `before` (a thread, or readers), not before the last barrier of
// the block, and one of `who` now.
bool Watch::ordered(uint32_t before, uint32_t time, uint32_t who) const {
    if (before == MANY) return false;
    uint32_t warp = who / WARP;
    if (before >= LANES_OF) return before - LANES_OF == warp && (time < whole[warp] || time < partly[warp]);
    return before / WARP == warp && (time < whole[warp] || time < pairs[warp][before % WARP][who % WARP]);
}

inline void Watch::touch(size_t number, uint8_t mask, uint32_t who, bool write) {
    Cell& cell = cells[number];
    if (cell.writer != who && cell.write_time >= everyone && cell.written & mask && !ordered(cell.writer, cell.write_time, who)) {
        race(4 * number, who, write, cell.writer, true);
    }
    bool read = cell.read_time >= everyone && cell.read & mask; // since the last barrier of the block
    if (write) {
        if (read && cell.reader != who && !ordered(cell.reader, cell.read_time, who)) race(4 * number, who, true, cell.reader, false);
        cell.written = cell.write_time >= everyone && cell.writer == who ? cell.written | mask : mask;
        cell.writer = static_cast<uint16_t>(who);
        cell.write_time = now;
        cell.read = 0;
        return;
    }
    if (!read) {
        cell.reader = static_cast<uint16_t>(who);
        cell.read = mask;
    } else if (cell.reader != who && cell.reader != MANY) {
        uint32_t warp = cell.reader < LANES_OF ? cell.reader / WARP : cell.reader - LANES_OF;
        cell.reader = static_cast<uint16_t>(warp == who / WARP ? LANES_OF + warp : MANY);
    }
    cell.read |= mask;
    cell.read_time = now;
}

void Watch::shared(size_t first, size_t n, bool write) {
    uint32_t who = thread->index.x;
    if ((first | n) % 4 == 0) {
        for (size_t i = first / 4; i < (first + n) / 4; i++) touch(i, 15, who, write);
        return;
    }
    for (size_t i = first; i < first + n;) {
        size_t byte = i % 4, count = std::min(4 - byte, first + n - i);
        touch(i / 4, static_cast<uint8_t>(((1u << count) - 1) << byte), who, write);
        i += count;
    }
}

void Watch::race(size_t at, uint32_t who, bool write, uint32_t other, bool wrote) {
    std::string whom = other < LANES_OF ? "thread " + std::to_string(other) : "other threads";
    fail("CUDA_ERROR_LAUNCH_FAILED (719)", "a race on " + executor->shared.describe(base + at) + ": thread " + std::to_string(who) +
                                               (write ? " writes" : " reads") + " what " + whom + (wrote ? " wrote" : " read") + ", with no barrier between");
}

// An address whose page is not the last one of its kind, or that is beyond its buffer, or that is no device memory.
void Watch::device(uint64_t address, size_t n, bool write) {
    Page& page = pages[(address >> 12) % 256];
    if (page.number != address >> 12) {
        page.number = address >> 12;
        executor->memory->around(page.number << 12, page.start, page.end);
        // Memory of the host: arguments, the emulator's own state. All of it is allowed.
        if (page.start == page.end) page = {page.number, 0, HOST};
    }
    if (address >= page.start && address + n <= page.end) return;
    fail("CUDA_ERROR_ILLEGAL_ADDRESS (700)", std::string(write ? "a write of " : "a read of ") + std::to_string(n) + " bytes: " +
                                                 executor->memory->describe(address < page.start ? address : std::max(address, page.end)));
}

} // namespace emu

// ---- What the compiler's calls are named -----------------------------------------------------------------------------

#define HEARTH_WATCH(n)                                                                                                \
    void __tsan_read##n(void* at) { emu::touched(at, n, false); }                                                      \
    void __tsan_write##n(void* at) { emu::touched(at, n, true); }                                                      \
    void __tsan_unaligned_read##n(void* at) { emu::touched(at, n, false); }                                            \
    void __tsan_unaligned_write##n(void* at) { emu::touched(at, n, true); }                                            \
    void __tsan_volatile_read##n(void* at) { emu::touched(at, n, false); }                                             \
    void __tsan_volatile_write##n(void* at) { emu::touched(at, n, true); }

extern "C" {

HEARTH_WATCH(1)
HEARTH_WATCH(2)
HEARTH_WATCH(4)
HEARTH_WATCH(8)
HEARTH_WATCH(16)

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_read_range(void* at, size_t n) { emu::touched(at, n, false); }
void __tsan_write_range(void* at, size_t n) { emu::touched(at, n, true); }

// Clang's names for what memcpy and memset would be.
void* __tsan_memcpy(void* to, const void* from, size_t n) {
    emu::touched(from, n, false);
    emu::touched(to, n, true);
    return memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, size_t n) {
    emu::touched(from, n, false);
    emu::touched(to, n, true);
    return memmove(to, from, n);
}
void* __tsan_memset(void* to, int byte, size_t n) {
    emu::touched(to, n, true);
    return memset(to, byte, n);
}

} // extern "C"
