#include "memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>

namespace emu {

constexpr uint8_t POISON = 0xff;
constexpr uint8_t FENCE = 0xa5;
constexpr uint64_t NEAR = 1u << 20;

Memory::Memory(uint64_t limit) : page(static_cast<size_t>(sysconf(_SC_PAGESIZE))), limit(limit) {}

Memory::~Memory() {
    for (auto& [at, b] : buffers) munmap(b.mapping, b.mapped);
}

static uint64_t up(uint64_t v, uint64_t to) { return (v + to - 1) / to * to; }

uint64_t Memory::alloc(uint64_t bytes, Failure& failure) {
    if (bytes > limit - used) {
        failure = {"CUDA_ERROR_OUT_OF_MEMORY (2)", std::to_string(bytes) + " bytes asked for, " + std::to_string(limit - used) + " of " + std::to_string(limit) + " are free"};
        return 0;
    }
    uint64_t room = up(bytes ? bytes : 1, page);
    size_t mapped = room + 2 * page;
    void* m = mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char* first = static_cast<char*>(m) + page;
    if (m == MAP_FAILED || mprotect(first, room, PROT_READ | PROT_WRITE) != 0) {
        if (m != MAP_FAILED) munmap(m, mapped);
        failure = {"CUDA_ERROR_OUT_OF_MEMORY (2)", "the system gives no " + std::to_string(bytes) + " bytes"};
        return 0;
    }
    char* at = first + room - up(bytes, 16);
    memset(first, FENCE, static_cast<size_t>(at - first));
    memset(at, POISON, bytes);
    memset(at + bytes, FENCE, up(bytes, 16) - bytes);
    used += bytes;
    uint64_t address = reinterpret_cast<uint64_t>(at);
    buffers[address] = {bytes, static_cast<char*>(m), mapped, true};
    return address;
}

bool Memory::free(uint64_t at, Failure& failure) {
    auto it = buffers.find(at);
    if (it == buffers.end() || !it->second.live) {
        failure = {"CUDA_ERROR_INVALID_VALUE (1)", "free of an address that is no buffer, or no longer"};
        return false;
    }
    Buffer& b = it->second;
    mmap(b.mapping, b.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    b.live = false;
    used -= b.bytes;
    return true;
}

void* Memory::range(uint64_t at, uint64_t bytes, const char* what, Failure& failure) const {
    auto it = buffers.upper_bound(at);
    if (it != buffers.begin()) {
        const auto& [start, b] = *--it;
        if (b.live && at - start <= b.bytes && bytes <= b.bytes - (at - start)) return reinterpret_cast<void*>(at);
    }
    std::string where = describe(at);
    failure = {"CUDA_ERROR_INVALID_VALUE (1)", std::string(what) + " of " + std::to_string(bytes) + " bytes at an address that is not in one live buffer" + (where.empty() ? "" : ": " + where)};
    return nullptr;
}

void Memory::around(uint64_t page, uint64_t& start, uint64_t& end) const {
    start = end = 0;
    auto it = buffers.upper_bound(page + 4095);
    if (it == buffers.begin()) return;
    const auto& [at, b] = *--it;
    if (b.live && page >= reinterpret_cast<uint64_t>(b.mapping) && page < reinterpret_cast<uint64_t>(b.mapping) + b.mapped) {
        start = at;
        end = at + b.bytes;
    }
}

bool Memory::intact(Failure& failure) const {
    for (const auto& [at, b] : buffers) {
        if (!b.live) continue;
        const uint8_t* start = reinterpret_cast<const uint8_t*>(at);
        const uint8_t* first = reinterpret_cast<const uint8_t*>(b.mapping) + page;
        for (const uint8_t* p = start - first < 256 ? first : start - 256; p < start; p++) {
            if (*p != FENCE) {
                failure = {"CUDA_ERROR_ILLEGAL_ADDRESS (700)", "something was written " + describe(reinterpret_cast<uint64_t>(p))};
                return false;
            }
        }
        for (const uint8_t* p = start + b.bytes; p < start + up(b.bytes, 16); p++) {
            if (*p != FENCE) {
                failure = {"CUDA_ERROR_ILLEGAL_ADDRESS (700)", "something was written " + describe(reinterpret_cast<uint64_t>(p))};
                return false;
            }
        }
    }
    return true;
}

std::string Memory::describe(uint64_t at) const {
    auto words = [&](uint64_t start, const Buffer& b) {
        std::string of = (b.live ? "a buffer of " : "a buffer given back, of ") + std::to_string(b.bytes) + " bytes";
        if (at < start) return std::to_string(start - at) + " bytes before " + of;
        if (at - start < b.bytes) return "at byte " + std::to_string(at - start) + " of " + of;
        return std::to_string(at - start - b.bytes) + " bytes behind the end of " + of;
    };
    auto after = buffers.upper_bound(at);
    const std::pair<const uint64_t, Buffer>* best = nullptr;
    uint64_t distance = NEAR;
    if (after != buffers.end() && after->first - at < distance) {
        best = &*after;
        distance = after->first - at;
    }
    if (after != buffers.begin()) {
        const auto& before = *std::prev(after);
        uint64_t end = before.first + before.second.bytes;
        uint64_t d = at < end ? 0 : at - end;
        if (d < distance) best = &before;
    }
    return best ? words(best->first, best->second) : std::string();
}

} // namespace emu
