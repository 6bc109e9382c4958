// The device's memory: each buffer in pages of its own, its end against an inaccessible page. What was given back stays
// inaccessible, at an address that no later buffer gets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "machine.hpp"

namespace emu {

class Memory {
  public:
    explicit Memory(uint64_t limit);
    ~Memory();
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    // `bytes` of 0xFF. 0 and words in `failure` when there is no room. The address is a multiple of 16, no more, so that
    // the end of the buffer, rounded up to 16, is the end of its last page.
    uint64_t alloc(uint64_t bytes, Failure& failure);
    bool free(uint64_t at, Failure& failure);
    // The host's address of [at, at + bytes), which must lie in one live buffer.
    void* range(uint64_t at, uint64_t bytes, const char* what, Failure& failure) const;
    // The bytes of the live buffer whose pages hold the page at `page`; start == end when there is none.
    void around(uint64_t page, uint64_t& start, uint64_t& end) const;
    // True unless something was written just before or behind a buffer, where its first and last page have room.
    bool intact(Failure& failure) const;
    // The buffer at or nearest to an address, in words; empty when none is near.
    std::string describe(uint64_t at) const;

  private:
    struct Buffer {
        uint64_t bytes;
        char* mapping;
        size_t mapped;
        bool live;
    };
    size_t page;
    uint64_t limit, used = 0;
    std::map<uint64_t, Buffer> buffers; // by address, with those given back
};

} // namespace emu
