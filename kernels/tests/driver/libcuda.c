// A stand-in for NVIDIA's libcuda.so.1, as far as src/cuda/driver.rs uses it: one GPU whose memory is the host's and whose
// kernels do nothing. It is strict and late: asynchronous copies happen only when something waits for them, so that a
// buffer that is reused too early shows; a kernel's argument has the size that its machine code says. Tests load it; nothing ships it.
//
// FAKE_CUDA is a list of words, divided by commas: what is wrong with it, and which GPU it is (a GB10, if it does not say).
//   old, no-device, mismatch            the driver
//   two, unsupported, h200              the GPU
//   illegal                             waiting for the GPU reports a fault
//   taken                               all of the memory is free when first asked, and hardly any later
//   crowded                             no allocation of more than 8 MiB succeeds
//   no-graphs                           no memory for recorded graphs
//   heavy-graphs                        a recorded graph takes 8 MiB
#include <elf.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 1, MEMORY = 2, NO_DEVICE = 100, NO_CONTEXT = 201, NOT_FOUND = 500, ILLEGAL = 700, CAPTURE = 900, UNKNOWN = 999 };

static int mode(const char* name) {
    const char* at = getenv("FAKE_CUDA");
    size_t length = strlen(name);
    while (at) {
        if (strncmp(at, name, length) == 0 && (at[length] == 0 || at[length] == ',')) return 1;
        at = strchr(at, ',');
        if (at) at++;
    }
    return 0;
}

// Whether a GPU is the discrete one, a Hopper.
static int hopper(int device) { return device || mode("h200"); }

// What was called, one word each, to standard output: the test reads it. Not with FAKE_CUDA_QUIET.
static void tell(const char* form, ...) {
    if (getenv("FAKE_CUDA_QUIET")) return;
    va_list list;
    va_start(list, form);
    printf("fake: ");
    vprintf(form, list);
    printf("\n");
    fflush(stdout);
    va_end(list);
}

static __thread void* current;
static int capturing;
static long held;
static size_t in_graphs; // bytes

struct copy { void* to; const void* from; size_t bytes; int byte; };
static struct copy queue[4096];
static size_t queued;
static uint64_t passed; // copies that have been done in all

static void run(size_t until) {
    for (size_t i = 0; i < until; i++) {
        if (queue[i].from) memcpy(queue[i].to, queue[i].from, queue[i].bytes);
        else memset(queue[i].to, queue[i].byte, queue[i].bytes);
    }
    memmove(queue, queue + until, (queued - until) * sizeof *queue);
    queued -= until;
    passed += until;
}

static int enqueue(struct copy copy) {
    if (!current) return NO_CONTEXT;
    if (queued == sizeof queue / sizeof *queue) run(queued);
    queue[queued++] = copy;
    return OK;
}

struct event { uint64_t after; };

static int wait_until(uint64_t after) {
    if (!current) return NO_CONTEXT;
    if (capturing) return CAPTURE;
    if (after > passed) {
        run(after - passed);
        tell("ran, %zu left", queued);
    }
    return OK;
}

int cuDriverGetVersion(int* version) { *version = mode("old") ? 12080 : 13000; return OK; }
int cuInit(unsigned flags) { return mode("no-device") ? NO_DEVICE : mode("mismatch") ? 803 : flags ? INVALID : OK; }
int cuGetErrorName(int code, const char** name) {
    *name = code == MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : code == ILLEGAL ? "CUDA_ERROR_ILLEGAL_ADDRESS"
          : code == 803 ? "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH" : code == INVALID ? "CUDA_ERROR_INVALID_VALUE" : NULL;
    return *name ? OK : INVALID;
}
int cuDeviceGetCount(int* count) { *count = mode("two") ? 2 : 1; return OK; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return OK; }
int cuDeviceGetName(char* name, int size, int device) {
    snprintf(name, size, "%s", mode("unsupported") ? "Stand-in 4090" : hopper(device) ? "Stand-in H200" : "Stand-in GB10");
    return OK;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (size_t)(hopper(device) ? 141 : 128) << 30; return OK; }
int cuDeviceGetAttribute(int* value, int which, int device) {
    switch (which) {
        case 75: *value = mode("unsupported") ? 8 : hopper(device) ? 9 : 12; break;
        case 76: *value = mode("unsupported") ? 9 : hopper(device) ? 0 : 1; break;
        case 16: *value = hopper(device) ? 132 : 48; break;
        case 38: *value = (hopper(device) ? 50 : 24) << 20; break;
        case 97: *value = hopper(device) ? 232448 : 101376; break;
        case 18: *value = !hopper(device); break;
        default: return INVALID;
    }
    return OK;
}
int cuDevicePrimaryCtxRetain(void** context, int device) { *context = (void*)(intptr_t)(device + 1); held++; return OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { held--; tell("released %d, %ld things held", device, held); return OK; }
int cuCtxSetCurrent(void* context) { current = context; return OK; }

int cuStreamCreate(void** stream, unsigned flags) { *stream = malloc(1); held++; return flags == 1 ? OK : INVALID; }
int cuStreamDestroy_v2(void* stream) { free(stream); held--; return OK; }
int cuStreamSynchronize(void* stream) { (void)stream; return mode("illegal") ? ILLEGAL : wait_until(passed + queued); }
int cuStreamBeginCapture_v2(void* stream, int mode) { (void)stream; capturing = 1; return mode == 1 ? OK : INVALID; }
int cuStreamEndCapture(void* stream, void** graph) { (void)stream; capturing = 0; *graph = malloc(1); held++; return OK; }
int cuGraphInstantiateWithFlags(void** made, void* graph, unsigned long long flags) {
    (void)graph;
    if (mode("no-graphs")) return MEMORY;
    if (mode("heavy-graphs")) in_graphs += (size_t)8 << 20;
    *made = malloc(1);
    held++;
    return flags ? INVALID : OK;
}
int cuGraphUpload(void* graph, void* stream) { (void)graph; (void)stream; tell("uploaded"); return OK; }
int cuGraphLaunch(void* graph, void* stream) { (void)graph; (void)stream; tell("replayed"); return OK; }
int cuGraphDestroy(void* graph) { free(graph); held--; return OK; }
int cuGraphExecDestroy(void* graph) { free(graph); held--; return OK; }

int cuEventCreate(void** event, unsigned flags) { (void)flags; *event = calloc(1, sizeof(struct event)); held++; return OK; }
int cuEventDestroy_v2(void* event) { free(event); held--; return OK; }
int cuEventRecord(void* event, void* stream) { (void)stream; ((struct event*)event)->after = passed + queued; return OK; }
int cuEventSynchronize(void* event) { return wait_until(((struct event*)event)->after); }
int cuEventElapsedTime_v2(float* ms, void* from, void* to) { (void)from; (void)to; *ms = 2.0f; return OK; }

// FAKE_CUDA_FREE: MiB that are free; 1024 otherwise.
int cuMemGetInfo_v2(size_t* free, size_t* total) {
    static int asked;
    const char* told = getenv("FAKE_CUDA_FREE");
    *total = (size_t)141 << 30;
    *free = (size_t)(told ? atol(told) : 1024) << 20;
    if (mode("taken") && asked++ > 0) *free = (size_t)64 << 20;
    *free -= in_graphs < *free ? in_graphs : *free;
    return OK;
}
int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    if (!current) return NO_CONTEXT;
    if (bytes > (size_t)1 << 30 || (mode("crowded") && bytes > (size_t)8 << 20)) return MEMORY;
    *address = (uint64_t)(uintptr_t)aligned_alloc(512, (bytes + 511) / 512 * 512);
    held++;
    return OK;
}
int cuMemFree_v2(uint64_t address) { wait_until(passed + queued); free((void*)(uintptr_t)address); held--; return OK; }
int cuMemHostAlloc(void** host, size_t bytes, unsigned flags) { *host = malloc(bytes); held++; return flags ? INVALID : OK; }
int cuMemFreeHost(void* host) { free(host); held--; return OK; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
    (void)stream;
    return capturing ? CAPTURE : enqueue((struct copy){(void*)(uintptr_t)to, from, bytes, 0});
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
    (void)stream;
    return capturing ? CAPTURE : enqueue((struct copy){to, (void*)(uintptr_t)from, bytes, 0});
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    (void)stream;
    return capturing ? CAPTURE : enqueue((struct copy){(void*)(uintptr_t)to, (void*)(uintptr_t)from, bytes, 0});
}
int cuMemsetD8Async(uint64_t to, unsigned char byte, size_t bytes, void* stream) {
    (void)stream;
    return capturing ? OK : enqueue((struct copy){(void*)(uintptr_t)to, NULL, bytes, byte});
}

// A kernel: its name, and the size of its argument by the attribute PARAM_CBANK (0x0a) in the section .nv.info.NAME: symbol,
// offset, size.
struct function { const char* name; size_t argument; };

static size_t argument_of(const unsigned char* image, const char* name) {
    const Elf64_Ehdr* elf = (const Elf64_Ehdr*)image;
    const Elf64_Shdr* sections = (const Elf64_Shdr*)(image + elf->e_shoff);
    const char* names = (const char*)image + sections[elf->e_shstrndx].sh_offset;
    for (int i = 0; i < elf->e_shnum; i++) {
        const char* section = names + sections[i].sh_name;
        if (strncmp(section, ".nv.info.", 9) != 0 || strcmp(section + 9, name) != 0) continue;
        const unsigned char *at = image + sections[i].sh_offset, *end = at + sections[i].sh_size;
        while (at + 4 <= end) {
            uint16_t size, bytes;
            memcpy(&size, at + 2, 2);
            if (at[0] == 4 && at[1] == 0x0a) return memcpy(&bytes, at + 10, 2), bytes;
            at += 4 + (at[0] == 4 ? size : 0);
        }
    }
    return 0;
}

int cuModuleLoadData(void** module, const void* image) {
    if (memcmp(image, "\177ELF", 4) != 0 || (uintptr_t)image % 64 != 0) return INVALID;
    *module = (void*)image;
    held++;
    return OK;
}
int cuModuleUnload(void* module) { (void)module; held--; return OK; }
int cuModuleGetFunction(void** function, void* module, const char* name) {
    size_t argument = argument_of(module, name);
    struct function* made = malloc(sizeof *made);
    *made = (struct function){strdup(name), argument};
    *function = made;
    return argument ? OK : NOT_FOUND;
}
int cuFuncLoad(void* function) { (void)function; return OK; }
int cuFuncGetParamInfo(void* function, size_t index, size_t* offset, size_t* size) {
    *offset = 0;
    *size = ((struct function*)function)->argument;
    return index ? INVALID : OK;
}
int cuFuncGetAttribute(int* value, int which, void* function) { (void)function; *value = 1024; return which == 1 ? OK : INVALID; }
int cuFuncSetAttribute(void* function, int which, int value) {
    (void)function;
    return (which == 8 && value > 0) || (which == 9 && (value == 100 || value == -1)) ? OK : INVALID;
}

struct config { unsigned grid[3], block[3], shared; void* stream; int* attributes; unsigned count; };
int cuLaunchKernelEx(const struct config* config, void* function, void** arguments, void** extra) {
    if (!current) return NO_CONTEXT;
    if (extra || !arguments || !config->grid[0] || !config->block[0]) return INVALID;
    // A model has thousands of launches.
    if (strncmp(((struct function*)function)->name, "measure_", 8) == 0)
        tell("launched %s grid %u block %u shared %u pdl %d", ((struct function*)function)->name, config->grid[0], config->block[0], config->shared,
             config->count ? config->attributes[0] == 6 && config->attributes[2] == 1 : 0);
    return OK;
}
