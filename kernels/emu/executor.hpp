// The state of one OS thread that runs kernels: fibers, warps, shared memory, the choice of who runs next.
#pragma once

#include <atomic>
#include <memory>

#include "machine.hpp"
#include "registry.hpp"
#include "watch.hpp"

namespace emu {

// Addresses that kernels know as shared memory: the dynamic part, then one stretch per SHARED array, each with
// inaccessible pages on both sides and its end against one of them. Made anew, as 0xFF, for every block.
class Shared {
  public:
    Shared();
    ~Shared();
    bool made() const { return base != nullptr; }
    bool contains(const void* at) const;
    const void* start() const { return base; }
    static constexpr size_t RESERVE = 64u << 20;
    // The place of `bytes` of dynamic shared memory, poisoned.
    uint8_t* dynamic(size_t bytes);
    // The place of an array in block `ordinal`, poisoned at the block's first use. nullptr: no room.
    void* array(const SharedArray& array, uint32_t ordinal);
    // Sum of the arrays that block `ordinal` uses.
    size_t in_use() const { return used; }
    // The array nearest to a bad address, in words.
    std::string describe(const void* at) const;
    // Forgets the places of all arrays when the reserve is nearly used up. Only between launches.
    void tidy();

  private:
    struct Place {
        uint8_t* at = nullptr;
        size_t bytes = 0;
        uint32_t ordinal = 0;
        const char* name = nullptr;
    };
    uint8_t* stretch(size_t bytes);

    size_t page;
    uint8_t* base = nullptr;
    size_t next = 0;
    uint8_t* dynamic_end = nullptr;
    size_t dynamic_bytes = 0;
    std::vector<Place> places;
    uint32_t last_ordinal = 0;
    size_t used = 0;
};

class Executor {
  public:
    // The one of this OS thread; nullptr and words in `failure` when the system refuses the memory.
    static Executor* here(Failure& failure);

    bool run(const Launch& launch, const Options& options, const Memory& memory, Failure& failure);

    // Called by fibers.
    void block_barrier(Site site);
    void meet(Together what, uint32_t mask, Site site);
    void spin(Site site);
    [[noreturn]] void fail(const char* code, const std::string& what);
    [[noreturn]] void thread_main();

    // Called in the signal handler: true when the fault is a kernel's, which then continues in `landing`.
    // One second of this OS thread's computing is over: true when the block has had all of its time.
    bool tick() { return running() && (ticks = ticks + 1) >= options.seconds; }
    bool running() const { return thread != nullptr; }
    bool stack_guard(const void* at) const { return stacks.guard_at(at) >= 0; }

    Shared shared;
    Options options{};
    const Memory* memory = nullptr;
    const Launch* launch = nullptr;

  private:
    bool run_block(uint32_t number, Failure& failure);
    Thread* next();
    void wait();
    uint32_t pick(uint32_t of);
    uint64_t random();
    [[noreturn]] void deadlock(const char* how);
    std::string who_waits() const;

    Stacks stacks;
    Watch watch{shared.start(), Shared::RESERVE, stacks.start_address(), stacks.bytes()};
    std::unique_ptr<Thread[]> threads;
    std::unique_ptr<Warp[]> warps;
    void* scheduler = nullptr;
    uint64_t state = 0;
    uint32_t ready_warps = 0, warp = 0;
    uint32_t arrived = 0, ended = 0;
    Site barrier;
    uint32_t spins = 0;
    volatile uint32_t ticks = 0;
    bool by_chance = true; // how the next thread is chosen
    bool failed = false;
    Failure what_failed;

};

HEARTH_EMU_TLS constinit Executor* executor;
// Set while a thread runs whose accesses are to be checked.
HEARTH_EMU_TLS constinit Watch* watching;

inline void touched(const void* at, size_t n, bool write) {
    if (Watch* watch = watching) watch->access(at, n, write);
}

// Turns the faults of kernels into failures; installed once for the process, once for each OS thread.
bool catch_faults(Failure& failure);
// Starts or stops the ticks of this OS thread. Where the system has no such clock, there are none.
void count_seconds(bool on);
// In words: what lies at or near an address.
std::string describe_address(const Executor& executor, const void* at);

} // namespace emu
