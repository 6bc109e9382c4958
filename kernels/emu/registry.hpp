// Kernels by name. A KERNEL in a .cu file registers itself when the program starts.
#pragma once

#include <cstdint>
#include <string>

namespace emu {

struct Kernel {
    const char* name;
    const char* file;
    uint32_t most_threads; // of its launch bounds
    uint32_t args_bytes;
    void (*run)(const void* args);
    const Kernel* next = nullptr;

    Kernel(const char* name, const char* file, uint32_t most_threads, uint32_t args_bytes, void (*run)(const void*));
};

const Kernel* find_kernel(const std::string& name);

} // namespace emu
