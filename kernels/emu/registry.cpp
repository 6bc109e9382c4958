#include "registry.hpp"

namespace emu {

// Before main only the initialisers run, one after another, and afterwards nobody writes it.
static constinit const Kernel* first = nullptr;

Kernel::Kernel(const char* name, const char* file, uint32_t most_threads, uint32_t args_bytes, void (*run)(const void*))
    : name(name), file(file), most_threads(most_threads), args_bytes(args_bytes), run(run), next(first) {
    first = this;
}

const Kernel* find_kernel(const std::string& name) {
    for (const Kernel* k = first; k; k = k->next) {
        if (name == k->name) return k;
    }
    return nullptr;
}

} // namespace emu
