// What a failure tells of the threads: who waits where.
#include <cstdio>
#include <map>

#include "executor.hpp"

namespace emu {

const char* name_of(Together what) {
    switch (what) {
    case Together::Syncwarp: return "__syncwarp";
    case Together::Shuffle: return "shuffle";
    case Together::Vote: return "vote";
    case Together::MmaF16: return "mma_f16";
    case Together::MmaBf16: return "mma_bf16";
    case Together::MmaE4m3: return "mma_e4m3";
    case Together::MmaNvf4: return "mma_nvf4";
    case Together::Ldmatrix: return "ldmatrix";
    case Together::LdmatrixTrans: return "ldmatrix_trans";
    }
    return "?";
}

static std::string doing(const Thread& t) {
    std::string at = t.site.file ? std::string(" at ") + t.site.file + ":" + std::to_string(t.site.line) : std::string();
    char mask[24];
    switch (t.doing) {
    case Doing::Nothing: return t.site.file ? "running after" + at.substr(3) : "not yet run to its first wait";
    case Doing::Syncthreads: return "in __syncthreads()" + at;
    case Doing::Warp:
        snprintf(mask, sizeof mask, " of mask %08x", t.mask);
        return std::string("in a ") + name_of(t.what) + mask + at;
    case Doing::Spin: return "spinning" + at;
    case Doing::Ended: return "ended";
    }
    return "?";
}

// "threads 0-31, 64: in __syncthreads() at f.cu:12; threads 32-63: ended"
std::string Executor::who_waits() const {
    std::map<std::string, std::vector<uint32_t>> groups;
    for (uint32_t i = 0; i < launch->threads; i++) groups[doing(threads[i])].push_back(i);
    std::string text;
    size_t told = 0;
    for (const auto& [what, who] : groups) {
        if (told++ == 8) return text + "; and others";
        if (!text.empty()) text += "; ";
        text += who.size() == 1 ? "thread " : "threads ";
        size_t ranges = 0;
        for (size_t i = 0; i < who.size();) {
            size_t j = i;
            while (j + 1 < who.size() && who[j + 1] == who[j] + 1) j++;
            if (ranges++) text += ", ";
            if (ranges > 6) {
                text += "...";
                break;
            }
            text += std::to_string(who[i]);
            if (j > i) text += "-" + std::to_string(who[j]);
            i = j + 1;
        }
        text += ": " + what;
    }
    return text;
}

} // namespace emu
