// Faults of kernels (an inaccessible address, an illegal instruction) become failures: the handler sends the faulting
// thread to a landing of its own, with a stack of its own, from where it fails like any other.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "executor.hpp"
#include "memory.hpp"

namespace emu {

constexpr int CAUGHT[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
constexpr size_t STACK = 256 * 1024;

static struct sigaction before[64];

struct Fault {
    int signal = 0;
    void* at = nullptr;
    bool known = false;
};
static thread_local __attribute__((tls_model("initial-exec"))) constinit Fault fault{};
static thread_local __attribute__((tls_model("initial-exec"))) constinit char* landing_stack = nullptr;

std::string describe_address(const Executor& executor, const void* at) {
    if (executor.shared.contains(at)) return executor.shared.describe(at);
    return executor.memory->describe(reinterpret_cast<uint64_t>(at));
}

[[noreturn]] static void landing() {
    if (fault.signal == SIGRTMIN + 7) {
        executor->fail("CUDA_ERROR_LAUNCH_TIMEOUT (702)", "the block has computed for " + std::to_string(executor->options.seconds) + " s: a loop without an end");
    }
    if (fault.signal == SIGFPE) executor->fail("CUDA_ERROR_LAUNCH_FAILED (719)", "an integer division by zero, or one that overflows");
    if (fault.signal == SIGILL || fault.signal == SIGTRAP) executor->fail("CUDA_ERROR_ILLEGAL_INSTRUCTION (715)", "an illegal instruction");
    if (!fault.known) executor->fail("CUDA_ERROR_ILLEGAL_ADDRESS (700)", "an access to an address that no memory can have, or a misaligned vector access");
    if (executor->stack_guard(fault.at)) executor->fail("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES (701)", "a thread's stack is used up");
    char address[32];
    snprintf(address, sizeof address, "%p", fault.at);
    std::string where = describe_address(*executor, fault.at);
    executor->fail("CUDA_ERROR_ILLEGAL_ADDRESS (700)", std::string("an access to address ") + address + ": " + (where.empty() ? "no buffer is near" : where));
}

static void go_to_landing(int signal, siginfo_t* info, void* context);

static void on_fault(int signal, siginfo_t* info, void* context) {
    if (!executor || !executor->running()) {
        // Not a kernel's: as if this handler were not there.
        struct sigaction& old = before[signal];
        if (old.sa_flags & SA_SIGINFO) {
            old.sa_sigaction(signal, info, context);
        } else if (old.sa_handler == SIG_DFL || old.sa_handler == SIG_IGN) {
            sigaction(signal, &old, nullptr); // the instruction runs again and meets the default
        } else {
            old.sa_handler(signal);
        }
        return;
    }
    go_to_landing(signal, info, context);
}

// A second of computing is over.
static void on_tick(int signal, siginfo_t* info, void* context) {
    if (executor && executor->tick()) go_to_landing(signal, info, context);
}

static void go_to_landing(int signal, siginfo_t* info, void* context) {
    fault.signal = signal;
    fault.at = info->si_addr;
    // Addresses that are not canonical come without the address (SI_KERNEL); so do misaligned vector moves.
    fault.known = info->si_code > 0 && info->si_code != SI_KERNEL;
    uintptr_t top = reinterpret_cast<uintptr_t>(landing_stack + STACK) & ~uintptr_t{63};
    ucontext_t* u = static_cast<ucontext_t*>(context);
#if defined(__x86_64__)
    u->uc_mcontext.gregs[REG_RSP] = static_cast<greg_t>(top - 8); // the alignment of a called function
    u->uc_mcontext.gregs[REG_RIP] = reinterpret_cast<greg_t>(&landing);
    u->uc_mcontext.gregs[REG_EFL] &= ~greg_t{0x400}; // direction flag
#else
    u->uc_mcontext.sp = top;
    u->uc_mcontext.pc = reinterpret_cast<uint64_t>(&landing);
    u->uc_mcontext.pstate &= ~uint64_t{0xc00}; // no branch-target state left over
#endif
}

static bool install() {
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    for (int signal : CAUGHT) {
        if (sigaction(signal, &action, &before[signal]) != 0) return false;
    }
    action.sa_sigaction = on_tick;
    action.sa_flags |= SA_RESTART;
    return sigaction(SIGRTMIN + 7, &action, nullptr) == 0;
}

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

// What one OS thread needs: the stack of the landing, one for the handlers where the thread has none, a clock of its own.
struct ThreadSetup {
    char* landing = nullptr;
    char* alternate = nullptr;
    bool usable = false;
    bool has_clock = false;
    timer_t clock{};

    ThreadSetup() {
        auto map = [](size_t bytes) {
            void* m = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            return m == MAP_FAILED ? nullptr : static_cast<char*>(m);
        };
        landing = map(STACK);
        landing_stack = landing;
        usable = landing != nullptr;
        stack_t now{};
        if (sigaltstack(nullptr, &now) == 0 && (now.ss_flags & SS_DISABLE)) {
            alternate = map(STACK);
            stack_t mine{};
            mine.ss_sp = alternate;
            mine.ss_size = STACK;
            usable = usable && alternate && sigaltstack(&mine, nullptr) == 0;
        }
        struct sigevent tick{};
        tick.sigev_notify = SIGEV_THREAD_ID;
        tick.sigev_signo = SIGRTMIN + 7;
        tick.sigev_notify_thread_id = gettid();
        has_clock = timer_create(CLOCK_THREAD_CPUTIME_ID, &tick, &clock) == 0;
    }
    ~ThreadSetup() {
        if (has_clock) timer_delete(clock);
        if (alternate) {
            stack_t none{};
            none.ss_flags = SS_DISABLE;
            sigaltstack(&none, nullptr);
            munmap(alternate, STACK);
        }
        if (landing) munmap(landing, STACK);
    }
};

static ThreadSetup& mine() {
    static thread_local ThreadSetup stacks;
    return stacks;
}

void count_seconds(bool on) {
    struct itimerspec every{};
    every.it_interval.tv_sec = every.it_value.tv_sec = on ? 1 : 0;
    if (mine().has_clock) timer_settime(mine().clock, 0, &every, nullptr);
}

bool catch_faults(Failure& failure) {
    static bool installed = install();
    if (installed && mine().usable) return true;
    failure = {"CUDA_ERROR_OPERATING_SYSTEM (304)", "the system lets no handler catch the faults of kernels"};
    return false;
}

} // namespace emu
