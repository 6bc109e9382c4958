// The machine that a kernel runs on: one block at a time, its threads as fibers of one OS thread. A fiber runs until it
// must wait; then a thread that can run is chosen, by chance under a seed, so that what is missing between two barriers
// shows. cuda_emulated.hpp and ptx_emulated.hpp are what kernels see of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "fiber.hpp"

namespace emu {

constexpr uint32_t WARP = 32;
constexpr uint32_t MOST_WARPS = Stacks::MOST / WARP;
constexpr uint32_t ALL_LANES = 0xffffffffu;

enum class Order : uint32_t { Random = 0, Forward = 1, Reverse = 2 };
enum class AsyncCopies : uint32_t { Immediate = 0, Deferred = 1 };

struct Index {
    uint32_t x, y, z;
};

// A line of a kernel's source, for messages.
struct Site {
    const char* file = nullptr;
    int line = 0;
};

enum class Doing : uint8_t { Nothing, Syncthreads, Warp, Spin, Ended };

// What a warp does together. The lanes leave what they bring in their slots; the last that arrives computes for all.
enum class Together : uint8_t { Syncwarp, Shuffle, Vote, MmaF16, MmaBf16, MmaE4m3, MmaNvf4, Ldmatrix, LdmatrixTrans };

struct Slot {
    alignas(16) uint32_t word[16];
};

// Lanes that have arrived at one collective of one mask.
struct Meeting {
    uint32_t mask, arrived;
    Together what;
};

struct Copy {
    void* to;
    const void* from; // nullptr: zeros
    uint32_t bytes;
    uint32_t group;
};

struct Warp {
    uint32_t ready = 0, ended = 0;
    uint32_t meetings = 0;
    Meeting meeting[WARP];
    Slot slot[WARP];
};

struct Thread {
    void* sp = nullptr;
    Index index{};
    uint32_t lane = 0;
    Warp* warp = nullptr;
    Doing doing = Doing::Nothing;
    Together what{};
    uint32_t mask = 0;
    Site site;
    uint32_t copy_groups = 0; // committed so far
    std::vector<Copy> copies; // under AsyncCopies::Deferred: issued, not yet landed
};

// A failure, in the words that the Rust side passes on. The codes are those a CUDA driver would give.
struct Failure {
    std::string code, what;
};

struct Kernel;

struct Launch {
    const Kernel* kernel;
    Index grid;
    uint32_t threads, shared;
    const void* args;
};

struct Options {
    uint64_t seed;
    Order order;
    AsyncCopies copies;
    uint32_t shared_limit;
    uint32_t seconds; // of computing that one block may take; more is an endless loop
    bool watch;       // check every access: bounds to the byte, races
};

class Memory;

// What the running kernel reads often. One per OS thread that launches.
struct Block {
    Index block{}, grid{}, dim{};
    uint8_t* dynamic_shared = nullptr;
    uint32_t ordinal = 0; // counts blocks for ever: tells this block's shared arrays from the last one's
};

#define HEARTH_EMU_TLS extern thread_local __attribute__((tls_model("initial-exec")))
HEARTH_EMU_TLS constinit Thread* thread;
HEARTH_EMU_TLS constinit Block block;

// ---- What the emulated instructions call -----------------------------------------------------------------------------

// Ends the launch with a failure of the running thread.
[[noreturn]] void fail(const char* code, const std::string& what);

// Waits for every thread of the block.
void syncthreads(Site site);
// Waits for the lanes of `mask`; the last to arrive computes `what` for all from their slots.
void meet(Together what, uint32_t mask, Site site);
// Lets others run: in a loop that waits for another thread. Fails when nobody makes progress any more.
void spin(Site site);
// A fence of device memory; an atomic, which other blocks may take for word of what was written before; a load with acquire.
void fenced();
void told(const void* at);
void acquired();

inline Slot& my_slot() { return thread->warp->slot[thread->lane]; }

// One SHARED array of the source; every instance of a template has its own.
struct SharedArray {
    const char* name;
    size_t bytes;
    int number = -1; // in the order of first use in the process
};
void* shared_array(SharedArray& array, Site site);
bool is_shared(const void* at);


void copy_async(void* to, const void* from, uint32_t bytes, bool valid, Site site);
void commit_copies();
void wait_copies(uint32_t open);

// ---- What the host side calls ----------------------------------------------------------------------------------------

// Runs all blocks. Returns false and fills `failure` if a thread failed.
bool run(const Launch& launch, const Options& options, const Memory& memory, Failure& failure);

// The last to arrive calls it: computes for the lanes of `mask` what their slots ask for.
void compute(Together what, Warp& warp, uint32_t mask);
const char* name_of(Together what);

} // namespace emu
