#include "executor.hpp"

#include "memory.hpp"

namespace emu {

thread_local constinit Thread* thread = nullptr;
thread_local constinit Block block{};
thread_local constinit Executor* executor = nullptr;
thread_local constinit Watch* watching = nullptr;

// A loop that only spins this often, with nobody getting anywhere, waits for ever.
constexpr uint32_t MOST_SPINS = 1u << 20;

Executor* Executor::here(Failure& failure) {
    static thread_local std::unique_ptr<Executor> mine;
    if (!mine) {
        mine = std::make_unique<Executor>();
        mine->threads = std::make_unique<Thread[]>(Stacks::MOST);
        mine->warps = std::make_unique<Warp[]>(MOST_WARPS);
        for (uint32_t i = 0; i < Stacks::MOST; i++) {
            mine->threads[i].lane = i % WARP;
            mine->threads[i].warp = &mine->warps[i / WARP];
        }
        executor = mine.get();
    }
    if (!mine->shared.made() || !mine->watch.made()) {
        failure = {"CUDA_ERROR_OUT_OF_MEMORY (2)", "the system gives no address space for shared memory"};
        return nullptr;
    }
    return catch_faults(failure) ? mine.get() : nullptr;
}

// xorshift64*: all that is asked of it is that orders differ between seeds.
uint64_t Executor::random() {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1dull;
}

// One of the set bits.
uint32_t Executor::pick(uint32_t of) {
    if (!by_chance) {
        bool lowest = options.order == Order::Forward;
        return static_cast<uint32_t>(lowest ? __builtin_ctz(of) : 31 - __builtin_clz(of));
    }
    uint32_t by = static_cast<uint32_t>(random() >> 59);
    uint32_t turned = of >> by | of << ((32 - by) & 31);
    return (static_cast<uint32_t>(__builtin_ctz(turned)) + by) & 31;
}

// The thread to run now. A warp goes on while one of its lanes can (its stacks are in the cache), now and then another.
Thread* Executor::next() {
    if (!ready_warps) return nullptr;
    bool stay = ready_warps >> warp & 1u;
    if (stay && by_chance && (random() >> 60) == 0) stay = false;
    if (!stay) warp = pick(ready_warps);
    Warp& w = warps[warp];
    uint32_t lane = pick(w.ready);
    w.ready &= ~(1u << lane);
    if (!w.ready) ready_warps &= ~(1u << warp);
    by_chance = options.order == Order::Random;
    return &threads[warp * WARP + lane];
}

// Leaves the running thread, which is somebody's to wake or is ready already.
void Executor::wait() {
    Thread* self = thread;
    Thread* other = next();
    if (!other) deadlock("no thread of the block can go on");
    if (other == self) return;
    thread = other;
    hearth_emu_switch(&self->sp, other->sp);
}

void Executor::block_barrier(Site site) {
    thread->doing = Doing::Syncthreads;
    thread->site = site;
    if (ended) fail("CUDA_ERROR_LAUNCH_FAILED (719)", "__syncthreads() which threads that have ended never reach: " + who_waits());
    if (arrived == 0) {
        barrier = site;
    } else if (barrier.line != site.line || barrier.file != site.file) {
        fail("CUDA_ERROR_LAUNCH_FAILED (719)", "threads of the block are at different __syncthreads(): " + who_waits());
    }
    if (++arrived == launch->threads) {
        arrived = 0;
        spins = 0;
        watch.block_barrier();
        uint32_t count = (launch->threads + WARP - 1) / WARP;
        for (uint32_t w = 0; w < count; w++) warps[w].ready = ALL_LANES;
        ready_warps = count == 32 ? ALL_LANES : (1u << count) - 1;
    }
    wait();
    thread->doing = Doing::Nothing;
}

void Executor::meet(Together what, uint32_t mask, Site site) {
    Thread* self = thread;
    Warp& w = *self->warp;
    uint32_t mine = 1u << self->lane;
    self->doing = Doing::Warp;
    self->what = what;
    self->mask = mask;
    self->site = site;
    if (!(mask & mine)) fail("CUDA_ERROR_LAUNCH_FAILED (719)", std::string(name_of(what)) + " with a mask that does not name the calling lane");
    if (mask & w.ended) fail("CUDA_ERROR_LAUNCH_FAILED (719)", std::string(name_of(what)) + " with a mask that names lanes that have ended: " + who_waits());
    uint32_t i = 0;
    while (i < w.meetings && w.meeting[i].mask != mask) i++;
    if (i == w.meetings) w.meeting[w.meetings++] = {mask, 0, what};
    Meeting& meeting = w.meeting[i];
    if (meeting.what != what) {
        fail("CUDA_ERROR_LAUNCH_FAILED (719)", "lanes of one warp do different things with one mask: " + who_waits());
    }
    meeting.arrived |= mine;
    if (meeting.arrived == mask) {
        meeting = w.meeting[--w.meetings];
        spins = 0;
        compute(what, w, mask);
        if (what == Together::Syncwarp) watch.warp_barrier(static_cast<uint32_t>(self->warp - warps.get()), mask);
        w.ready |= mask;
        ready_warps |= 1u << (self->warp - warps.get());
    }
    wait();
    self->doing = Doing::Nothing;
}

void Executor::spin(Site site) {
    Thread* self = thread;
    self->doing = Doing::Spin;
    self->site = site;
    if (++spins > MOST_SPINS) deadlock("threads read a flag again and again that nobody sets (blocks run one after another)");
    self->warp->ready |= 1u << self->lane;
    ready_warps |= 1u << (self->warp - warps.get());
    // By chance in every order: a fixed one would choose this thread again.
    by_chance = true;
    warp = pick(ready_warps);
    wait();
    self->doing = Doing::Nothing;
}

void Executor::deadlock(const char* how) { fail("CUDA_ERROR_LAUNCH_TIMEOUT (702)", std::string(how) + ": " + who_waits()); }

void Executor::fail(const char* code, const std::string& what) {
    failed = true;
    what_failed.code = code;
    what_failed.what = std::string("kernel ") + launch->kernel->name;
    if (thread) {
        auto text = [](uint32_t v) { return std::to_string(v); };
        what_failed.what += ", block (" + text(block.block.x) + ", " + text(block.block.y) + ", " + text(block.block.z) + "), thread " +
                            text(thread->index.x);
        if (thread->site.file) what_failed.what += ", at or after " + std::string(thread->site.file) + ":" + std::to_string(thread->site.line);
    }
    what_failed.what += ": " + what;
    thread = nullptr;
    void* dropped;
    hearth_emu_switch(&dropped, scheduler);
    __builtin_unreachable();
}

void Executor::thread_main() {
    launch->kernel->run(launch->args);
    Thread* self = thread;
    self->doing = Doing::Ended;
    Warp& w = *self->warp;
    w.ended |= 1u << self->lane;
    spins = 0;
    if (arrived) fail("CUDA_ERROR_LAUNCH_FAILED (719)", "the thread ended without reaching a __syncthreads() at which others wait: " + who_waits());
    for (uint32_t i = 0; i < w.meetings; i++) {
        if (w.meeting[i].mask & w.ended) {
            fail("CUDA_ERROR_LAUNCH_FAILED (719)", std::string("the lane ended without reaching a ") + name_of(w.meeting[i].what) + " whose mask names it: " + who_waits());
        }
    }
    void* dropped;
    if (++ended == launch->threads) {
        thread = nullptr;
        hearth_emu_switch(&dropped, scheduler);
    }
    Thread* other = next();
    if (!other) deadlock("no thread of the block can go on");
    thread = other;
    hearth_emu_switch(&dropped, other->sp);
    __builtin_unreachable();
}

static void fiber_entry() { executor->thread_main(); }

bool Executor::run_block(uint32_t number, Failure& failure) {
    Index grid = launch->grid;
    block.block = {number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y};
    block.ordinal++;
    block.dynamic_shared = shared.dynamic(launch->shared);
    uint32_t count = launch->threads / WARP;
    for (uint32_t w = 0; w < count; w++) {
        warps[w].ready = ALL_LANES;
        warps[w].ended = warps[w].meetings = 0;
    }
    ready_warps = count == 32 ? ALL_LANES : (1u << count) - 1;
    warp = pick(ready_warps);
    arrived = ended = spins = ticks = 0;
    watch.begin_block(number);
    for (uint32_t i = 0; i < launch->threads; i++) {
        Thread& t = threads[i];
        t.sp = stacks.start(i, fiber_entry);
        if (!t.sp) {
            failure = {"CUDA_ERROR_OUT_OF_MEMORY (2)", "the system gives no stacks for the threads of a block"};
            return false;
        }
        t.index = {i, 0, 0};
        t.doing = Doing::Nothing;
        t.site = {};
        t.copy_groups = 0;
        t.copies.clear();
    }
    thread = next();
    watching = options.watch ? &watch : nullptr;
    hearth_emu_switch(&scheduler, thread->sp);
    watching = nullptr;
    if (failed) failure = what_failed;
    return !failed;
}

bool Executor::run(const Launch& l, const Options& o, const Memory& m, Failure& failure) {
    launch = &l;
    options = o;
    memory = &m;
    failed = false;
    by_chance = o.order == Order::Random;
    state = o.seed * 0x9e3779b97f4a7c15ull + 0x632be59bd9b4e019ull;
    if (!state) state = 1;
    block.grid = l.grid;
    block.dim = {l.threads, 1, 1};
    shared.tidy();
    watch.begin_launch(l.kernel);
    uint32_t count = l.grid.x * l.grid.y * l.grid.z;
    std::vector<uint32_t> order;
    if (o.order == Order::Random) {
        order.resize(count);
        for (uint32_t i = 0; i < count; i++) order[i] = i;
        for (uint32_t i = count; i > 1; i--) std::swap(order[i - 1], order[random() % i]);
    }
    count_seconds(true);
    bool well = true;
    for (uint32_t i = 0; well && i < count; i++) {
        uint32_t number = o.order == Order::Random ? order[i] : o.order == Order::Forward ? i : count - 1 - i;
        well = run_block(number, failure);
    }
    count_seconds(false);
    return well;
}

bool run(const Launch& launch, const Options& options, const Memory& memory, Failure& failure) {
    Executor* e = Executor::here(failure);
    return e && e->run(launch, options, memory, failure);
}

void fail(const char* code, const std::string& what) { executor->fail(code, what); }
void syncthreads(Site site) { executor->block_barrier(site); }
void meet(Together what, uint32_t mask, Site site) { executor->meet(what, mask, site); }
void spin(Site site) { executor->spin(site); }
void fenced() {
    if (watching) watching->handover.fence();
}
void told(const void* at) {
    if (watching) watching->handover.atomic(at);
}
void acquired() {
    if (watching) watching->handover.acquire();
}

} // namespace emu
