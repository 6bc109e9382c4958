// Shared memory and the copies into it that run behind a thread's back.
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

#include "executor.hpp"

namespace emu {

constexpr size_t MOST_STATIC = 48 << 10;   // static shared memory of one kernel, any GPU
constexpr size_t MOST_DYNAMIC = 256 << 10; // room, not a limit: the limit is the device's
constexpr uint8_t POISON = 0xff;

static size_t up(size_t v, size_t to) { return (v + to - 1) / to * to; }

Shared::Shared() : page(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    void* at = mmap(nullptr, RESERVE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return;
    base = static_cast<uint8_t*>(at);
    dynamic_end = stretch(MOST_DYNAMIC);
    if (!dynamic_end) {
        munmap(at, RESERVE);
        base = nullptr;
    } else {
        dynamic_end += MOST_DYNAMIC;
    }
}

Shared::~Shared() {
    if (base) munmap(base, RESERVE);
}

bool Shared::contains(const void* at) const {
    return at >= base && at < base + RESERVE;
}

// `bytes` (a multiple of 16) that end at an inaccessible page and start behind one.
uint8_t* Shared::stretch(size_t bytes) {
    size_t room = up(bytes, page);
    if (next + room + 2 * page > RESERVE) return nullptr;
    uint8_t* at = base + next + page;
    if (mprotect(at, room, PROT_READ | PROT_WRITE) != 0) return nullptr;
    next += page + room;
    return at + room - bytes;
}

uint8_t* Shared::dynamic(size_t bytes) {
    used = 0;
    dynamic_bytes = bytes;
    uint8_t* at = dynamic_end - up(bytes, 16);
    memset(at, POISON, up(bytes, 16));
    return at;
}

void* Shared::array(const SharedArray& array, uint32_t ordinal) {
    size_t number = static_cast<size_t>(array.number);
    if (number >= places.size()) places.resize(number + 1);
    Place& place = places[number];
    if (place.ordinal == ordinal && place.at) return place.at;
    if (!place.at) {
        place.at = stretch(up(array.bytes, 16));
        if (!place.at) return nullptr;
        place.bytes = array.bytes;
        place.name = array.name;
    }
    place.ordinal = ordinal;
    used += up(array.bytes, 16);
    memset(place.at, POISON, up(array.bytes, 16));
    return place.at;
}

void Shared::tidy() {
    if (next < RESERVE / 2) return;
    size_t keep = up(MOST_DYNAMIC, page) + page;
    mmap(base + keep, RESERVE - keep, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    next = keep;
    places.clear();
}

std::string Shared::describe(const void* at) const {
    const uint8_t* p = static_cast<const uint8_t*>(at);
    const uint8_t* dynamic = dynamic_end - up(dynamic_bytes, 16);
    if (p >= dynamic - MOST_DYNAMIC && p < dynamic_end + page) {
        return "byte " + std::to_string(p - dynamic) + " of the dynamic shared memory, " + std::to_string(dynamic_bytes) + " bytes";
    }
    for (const Place& place : places) {
        if (place.at && p + page >= place.at && p < place.at + place.bytes + page) {
            return "byte " + std::to_string(p - place.at) + " of the shared array '" + place.name + "', " + std::to_string(place.bytes) + " bytes";
        }
    }
    return "shared memory, near no array";
}

bool is_shared(const void* at) { return executor->shared.contains(at); }

// Numbers are given at run time because an array may be a template's, with one per instance.
static int number_of(SharedArray& array) {
    static std::atomic<int> count{0};
    std::atomic_ref<int> number(array.number);
    int n = number.load(std::memory_order_relaxed);
    if (n < 0) {
        int mine = count.fetch_add(1);
        if (number.compare_exchange_strong(n, mine)) n = mine;
    }
    return n;
}

void* shared_array(SharedArray& array, Site site) {
    thread->site = site;
    number_of(array);
    void* at = executor->shared.array(array, block.ordinal);
    if (!at) fail("CUDA_ERROR_OUT_OF_MEMORY (2)", "the emulator has no room for another shared array");
    size_t fixed = executor->shared.in_use(), dynamic = executor->launch->shared;
    if (fixed > MOST_STATIC || fixed + dynamic > executor->options.shared_limit) {
        fail("CUDA_ERROR_INVALID_VALUE (1)", "the block needs " + std::to_string(fixed) + " bytes of static and " + std::to_string(dynamic) +
                                                 " of dynamic shared memory; at most " + std::to_string(MOST_STATIC) + " may be static and " +
                                                 std::to_string(executor->options.shared_limit) + " in all");
    }
    return at;
}

static void land(const Copy& copy) {
    if (copy.from) {
        memcpy(copy.to, copy.from, copy.bytes);
    } else {
        memset(copy.to, 0, copy.bytes);
    }
}

void copy_async(void* to, const void* from, uint32_t bytes, bool valid, Site site) {
    thread->site = site;
    if (reinterpret_cast<uintptr_t>(to) % bytes || (valid && reinterpret_cast<uintptr_t>(from) % bytes)) {
        fail("CUDA_ERROR_MISALIGNED_ADDRESS (716)", "cp_async with an address that is no multiple of its size");
    }
    if (!is_shared(to)) fail("CUDA_ERROR_ILLEGAL_ADDRESS (700)", "cp_async to an address outside shared memory");
    if (valid && is_shared(from)) fail("CUDA_ERROR_ILLEGAL_ADDRESS (700)", "cp_async from shared memory");
    touched(to, bytes, true); // in either mode others must be done with the place
    if (valid) touched(from, bytes, false);
    Copy copy{to, valid ? from : nullptr, bytes, thread->copy_groups};
    if (executor->options.copies == AsyncCopies::Immediate) {
        land(copy);
    } else {
        memset(to, POISON, bytes); // what lies there while the copy is under way is nobody's
        thread->copies.push_back(copy);
    }
}

void commit_copies() { thread->copy_groups++; }

void wait_copies(uint32_t open) {
    auto& copies = thread->copies;
    size_t landed = 0;
    while (landed < copies.size() && copies[landed].group + open < thread->copy_groups) {
        touched(copies[landed].to, copies[landed].bytes, true);
        land(copies[landed++]);
    }
    copies.erase(copies.begin(), copies.begin() + static_cast<ptrdiff_t>(landed));
}

} // namespace emu
