#include "handover.hpp"

#include <algorithm>
#include <cstring>

#include "executor.hpp"

namespace emu {

// Forgets the marks of all threads, if there are any.
static void clear(bool* of, size_t bytes, uint32_t& count) {
    if (count) memset(of, 0, bytes);
    count = 0;
}

void Handover::begin_launch(const Kernel* of) {
    kernel = of;
    tells = telling.count(of) != 0;
    last.clear();
    low = ~uint64_t{0}, high = 0;
    atomics.clear();
}

void Handover::begin_block(uint32_t block) {
    number = block;
    announced = pending = everyone_acquired = false;
    clear(unfenced, sizeof unfenced, writers_here);
    clear(covered, sizeof covered, coverers);
    clear(acquired, sizeof acquired, acquirers);
}

void Handover::block_barrier() {
    if (coverers) pending = false;
    if (writers_here) pending = true;
    if (acquirers) everyone_acquired = true;
    clear(unfenced, sizeof unfenced, writers_here);
    clear(covered, sizeof covered, coverers);
    clear(acquired, sizeof acquired, acquirers);
}

void Handover::fence() {
    bool& mine = unfenced[thread->index.x];
    writers_here -= mine;
    mine = false;
    note(covered, coverers);
    if (announced) note(acquired, acquirers);
}

void Handover::atomic(const void* at) {
    if (is_shared(at)) return;
    uint32_t who = thread->index.x;
    if (unfenced[who] || (pending && !covered[who])) {
        fail("CUDA_ERROR_LAUNCH_FAILED (719)", std::string("an atomic on device memory tells other blocks of what ") +
                                                   (unfenced[who] ? "this thread" : "the block") + " wrote, with no __threadfence() between");
    }
    announced = true;
    atomics[number]++;
    if (!tells) {
        telling.insert(kernel);
        tells = true;
    }
}

void Handover::wrote(uint64_t at, size_t n) {
    low = std::min(low, at & ~uint64_t{3}), high = std::max(high, (at + n + 3) & ~uint64_t{3});
    for (uint64_t word = at / 4; word <= (at + n - 1) / 4; word++) last[word] = {number, atomics[number]};
}

void Handover::read(uint64_t at, size_t n) {
    const bool behind = everyone_acquired || acquired[thread->index.x];
    for (uint64_t word = at / 4; word <= (at + n - 1) / 4; word++) {
        auto found = last.find(word);
        if (found == last.end() || found->second.block == number) continue;
        if (!behind) {
            fail("CUDA_ERROR_LAUNCH_FAILED (719)",
                 "a read of what another block of the launch wrote, with no __threadfence() behind an atomic that told of it");
        }
        if (found->second.atomics == atomics[found->second.block]) {
            fail("CUDA_ERROR_LAUNCH_FAILED (719)", "a read of what another block of the launch wrote after the last atomic that could tell of it");
        }
    }
}

} // namespace emu
