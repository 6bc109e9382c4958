// The C functions through which Rust drives the emulator. A device is used by one OS thread at a time; its owner sees to
// that. Every function returns 0, or 1 after it has written a code and words into `error`.
#include <cstdio>
#include <cstring>

#include "executor.hpp"
#include "memory.hpp"

using namespace emu;

extern "C" {

struct HearthEmuOptions {
    uint64_t memory;       // bytes of the device
    uint64_t seed;         // of the order in which threads and blocks run
    uint32_t order;        // emu::Order
    uint32_t copies;       // emu::AsyncCopies
    uint32_t shared_limit; // bytes of one block
    uint32_t watch;        // 0 or 1
    uint32_t seconds;      // of computing that one block may take
    uint32_t reserved;
};

struct HearthEmuError {
    char code[64];
    char what[2048];
};

struct HearthEmuDevice {
    Memory memory;
    Options options;
    uint64_t launches;
};

} // extern "C"

static int refuse(HearthEmuError* error, const Failure& failure) {
    snprintf(error->code, sizeof error->code, "%s", failure.code.c_str());
    snprintf(error->what, sizeof error->what, "%s", failure.what.c_str());
    return 1;
}

// Refuses what a driver would refuse.
static bool acceptable(const HearthEmuDevice& device, const std::string& name, const Launch& l, uint32_t args_bytes, Failure& f) {
    auto text = [](uint64_t v) { return std::to_string(v); };
    const char* invalid = "CUDA_ERROR_INVALID_VALUE (1)";
    if (!l.kernel) {
        f = {"CUDA_ERROR_NOT_FOUND (500)", "there is no kernel '" + name + "'"};
    } else if (l.threads == 0 || l.threads % WARP || l.threads > l.kernel->most_threads || l.threads > Stacks::MOST) {
        f = {invalid, "kernel " + name + ": a block of " + text(l.threads) + " threads; whole warps, at most " + text(l.kernel->most_threads) + ", may be asked for"};
    } else if (l.grid.x == 0 || l.grid.y == 0 || l.grid.z == 0 || l.grid.x > 0x7fffffff || l.grid.y > 65535 || l.grid.z > 65535 ||
               static_cast<uint64_t>(l.grid.x) * l.grid.y * l.grid.z > 0xffffffffu) {
        f = {invalid, "kernel " + name + ": a grid of " + text(l.grid.x) + " x " + text(l.grid.y) + " x " + text(l.grid.z) + " blocks"};
    } else if (l.shared > device.options.shared_limit) {
        f = {invalid, "kernel " + name + ": " + text(l.shared) + " bytes of dynamic shared memory; a block has at most " + text(device.options.shared_limit)};
    } else if (args_bytes != l.kernel->args_bytes) {
        f = {invalid, "kernel " + name + ": an argument of " + text(args_bytes) + " bytes; its struct has " + text(l.kernel->args_bytes)};
    } else {
        return true;
    }
    return false;
}

extern "C" {

HearthEmuDevice* hearth_emu_create(const HearthEmuOptions* o) {
    return new HearthEmuDevice{Memory(o->memory), {o->seed, static_cast<Order>(o->order), static_cast<AsyncCopies>(o->copies), o->shared_limit, o->seconds, o->watch != 0}, 0};
}

void hearth_emu_destroy(HearthEmuDevice* device) { delete device; }

int hearth_emu_alloc(HearthEmuDevice* device, uint64_t bytes, uint64_t* at, HearthEmuError* error) {
    Failure f;
    *at = device->memory.alloc(bytes, f);
    return *at ? 0 : refuse(error, f);
}

int hearth_emu_free(HearthEmuDevice* device, uint64_t at, HearthEmuError* error) {
    Failure f;
    return device->memory.free(at, f) ? 0 : refuse(error, f);
}

int hearth_emu_write(HearthEmuDevice* device, uint64_t to, const void* from, uint64_t bytes, HearthEmuError* error) {
    Failure f;
    void* p = device->memory.range(to, bytes, "a copy from the host", f);
    if (!p) return refuse(error, f);
    memcpy(p, from, bytes);
    return 0;
}

int hearth_emu_read(HearthEmuDevice* device, uint64_t from, void* to, uint64_t bytes, HearthEmuError* error) {
    Failure f;
    const void* p = device->memory.range(from, bytes, "a copy to the host", f);
    if (!p) return refuse(error, f);
    memcpy(to, p, bytes);
    return 0;
}

int hearth_emu_fill(HearthEmuDevice* device, uint64_t at, uint8_t byte, uint64_t bytes, HearthEmuError* error) {
    Failure f;
    void* p = device->memory.range(at, bytes, "a fill", f);
    if (!p) return refuse(error, f);
    memset(p, byte, bytes);
    return 0;
}

int hearth_emu_launch(HearthEmuDevice* device, const char* name, uint64_t name_bytes, const uint32_t grid[3], uint32_t threads,
                      uint32_t shared, const void* args, uint32_t args_bytes, HearthEmuError* error) {
    Failure f;
    std::string kernel(name, name_bytes);
    // A copy, aligned for any member.
    std::vector<Slot> aligned(args_bytes / sizeof(Slot) + 1);
    memcpy(aligned.data(), args, args_bytes);
    Launch launch{find_kernel(kernel), {grid[0], grid[1], grid[2]}, threads, shared, aligned.data()};
    if (!acceptable(*device, kernel, launch, args_bytes, f)) return refuse(error, f);
    Options options = device->options;
    options.seed += device->launches++;
    if (!run(launch, options, device->memory, f)) return refuse(error, f);
    if (!device->memory.intact(f)) {
        f.what = "kernel " + kernel + ": " + f.what;
        return refuse(error, f);
    }
    return 0;
}

} // extern "C"
