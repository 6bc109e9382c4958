// Settles a staged pass that goes on from rounds nobody has read: takes back, segment by segment, what of it supposed that all
// drafts were accepted. As src/rounds.rs defines it. Launched between the copy of the pass and the pass.
#include "hearth.cuh"

constexpr u32 THREADS = 32, MOST = 16, DRAFTS = 5;
constexpr u32 CHOSEN = 0x80000000u, NOBODY = 0xffffffffu;

enum Kind : u32 { HEAD, DRAFT, SEEDED_DRAFT, TRUNK };

struct Follow {
    u32 segment;
    u32 chosen;              // place of the token chosen after the round's first row
    u32 count;               // drafts
    u32 kind;
    u32 drafts[DRAFTS];      // tokens, or CHOSEN and a place
    u32 states[DRAFTS + 1];  // TRUNK: slots of the states after the round's rows
    u32 want;                // HEAD: the pick that names the last valid row, or NOBODY
};

struct FollowArgs {
    const Pass* pass;
    const u32* chosen;
    u32* rejected;  // [follows]
    u32 follows, unused;
    Follow follow[MOST];
};
static_assert(sizeof(FollowArgs) == 1056, "as in rounds.rs");

KERNEL(follow_rounds, THREADS, 1, FollowArgs) {
    pdl_wait();
    if (threadIdx.x < args.follows) {
        const Follow& follow = args.follow[threadIdx.x];
        const Pass& pass = *args.pass;
        u32 accepted = 0;
        for (; accepted < follow.count; accepted++) {
            u32 draft = follow.drafts[accepted];
            if (draft >= CHOSEN) draft = args.chosen[draft - CHOSEN];
            if (draft == NOBODY || draft != args.chosen[follow.chosen + accepted]) break;
        }
        const u32 rejected = follow.count - accepted;
        args.rejected[threadIdx.x] = rejected;
        // The pass is this kernel's to change; to all others it is constant.
        auto own = [](const u32* p) { return const_cast<u32*>(p); };
        u32 *ids = own(pass.ids), *picks = own(pass.picks);
        const u32 segment = follow.segment, first = pass.seg_first[segment], rows = pass.seg_rows[segment];
        if (follow.kind == HEAD) {
            const u32 last = first + accepted;
            for (u32 row = last + 1; row < first + rows; row++) {
                ids[row] = ids[last];
                picks[row] = picks[last];
            }
            if (follow.want != NOBODY) picks[follow.want] -= rejected;
        } else {
            own(pass.seg_position)[segment] -= rejected;
            for (u32 row = first; row < first + rows; row++) own(pass.row_position)[row] -= rejected;
        }
        if (follow.kind == SEEDED_DRAFT) picks[first] -= rejected;
        if (follow.kind == TRUNK) {
            ids[first] -= rejected;
            const u32 mine = pass.seg_slot[segment], other = follow.states[accepted];
            own(pass.seg_slot)[segment] = other;
            for (u32 row = first; row < first + rows; row++) {
                u32& slot = own(pass.snapshots)[row];
                if (slot == mine) slot = other;
                else if (slot == other) slot = mine;
            }
        }
    }
    // Kernels may look at the pass before they wait for those ahead of them; so none may start before this is written.
    __threadfence();
}
