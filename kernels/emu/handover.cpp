#include "handover.hpp"

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
    if (!tells) {
        telling.insert(kernel);
        tells = true;
    }
}

void Handover::wrote(uint64_t at, size_t n) {
    for (uint64_t word = at / 4; word <= (at + n - 1) / 4; word++) last[word] = number;
}

void Handover::read(uint64_t at, size_t n) {
    for (uint64_t word = at / 4; word <= (at + n - 1) / 4; word++) {
        auto found = last.find(word);
        if (found == last.end() || found->second == number) continue;
        fail("CUDA_ERROR_LAUNCH_FAILED (719)", "a read of what another block of the launch wrote, with no __threadfence() behind an atomic that told of it");
    }
}

} // namespace emu
