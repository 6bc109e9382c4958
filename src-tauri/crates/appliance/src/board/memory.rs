//! The memory bar: the engine's exact parts, what others hold, the cache, and what is free; together always the whole pool.

use hearth_engine::status::EngineMemory;
use hearth_monitor::{GpuMemory, HostMemory};

use crate::control::types::{Memory, MemoryPart, Source};

/// The memory a model lives in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pool {
    /// The host's.
    Host(Option<HostMemory>),
    /// The host's, which is the GPU's too.
    Unified(Option<HostMemory>),
    /// The GPU's own.
    Gpu(GpuMemory),
}

/// The reserve of the settings, or the engine's own.
pub(crate) fn reserve(setting: Option<f64>, host: Option<&HostMemory>) -> f64 {
    setting.unwrap_or_else(|| host.map_or(0.0, |host| hearth_engine::default_reserve(host.total) as f64))
}

/// Draws the bar. Without an engine its parts are left out; without /proc/meminfo only the engine's parts are known. `on_gpu` is what
/// the driver says the engine's process holds: what is more than its own parts is CUDA's.
pub(super) fn bar(pool: Pool, engine: Option<&EngineMemory>, on_gpu: Option<u64>, reserve: f64) -> Memory {
    let mut parts = Vec::new();
    let mut add =
        |kind: &str, bytes: f64, source| parts.push(MemoryPart { kind: kind.into(), bytes, source });
    let mut own = 0.0;
    if let Some(engine) = engine {
        let kv_used = engine.kv_used.min(engine.kv);
        add("weights", engine.weights, Source::Exact);
        add("kv_used", kv_used, Source::Exact);
        let kv_cached = engine.kv_cached.clamp(0.0, (engine.kv - kv_used).max(0.0));
        if kv_cached > 0.0 {
            add("kv_cached", kv_cached, Source::Exact);
        }
        add("kv_reserved", engine.kv - kv_used - kv_cached, Source::Exact);
        add("state", engine.state, Source::Exact);
        add("scratch", engine.scratch, Source::Exact);
        own = engine.weights + engine.kv + engine.state + engine.scratch;
    }
    let context = on_gpu.filter(|_| engine.is_some()).map(|bytes| (bytes as f64 - own).max(0.0));
    let (name, whole, used, cache) = match pool {
        Pool::Host(host) => {
            ("host", host.map(|h| h.total), host.map(|h| h.used()), host.map(|h| h.reclaimable()))
        }
        Pool::Unified(host) => {
            ("unified", host.map(|h| h.total), host.map(|h| h.used()), host.map(|h| h.reclaimable()))
        }
        Pool::Gpu(gpu) => ("gpu", Some(gpu.total), Some(gpu.used), None),
    };
    let memory = |total, parts| Memory { total, reserve, parts, pool: name.into(), others: Vec::new() };
    let Some((total, used)) = whole.zip(used).map(|(total, used)| (total as f64, used as f64)) else {
        return memory(None, parts);
    };
    let cache_now = cache.unwrap_or(0) as f64;
    let free = total - used - cache_now;
    // Weights that are mapped from files are page cache to the kernel, and pages never touched are free to it; both are the
    // engine's here, so what exceeds "used" is taken from the cache and then from what is free.
    let beyond = (used - own).max(0.0);
    let context = context.map(|bytes| bytes.min(beyond));
    if let Some(bytes) = context.filter(|bytes| *bytes > 0.0) {
        add("context", bytes, Source::Measured);
    }
    let from_cache = (own - used).clamp(0.0, cache_now);
    let from_free = (own - used - from_cache).clamp(0.0, free);
    let other = beyond - context.unwrap_or(0.0);
    add("other", other, if engine.is_some() { Source::Estimated } else { Source::Measured });
    if cache.is_some() {
        add("cache", cache_now - from_cache, Source::Measured);
    }
    add("free", free - from_free, Source::Measured);
    memory(Some(total), parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostMemory = HostMemory { total: 1000, free: 300, available: 700 };

    fn engine(weights: f64) -> EngineMemory {
        EngineMemory { weights, kv: 50.0, kv_used: 20.0, kv_cached: 8.0, state: 5.0, scratch: 5.0 }
    }

    fn part(memory: &Memory, kind: &str) -> Option<f64> {
        memory.parts.iter().find(|part| part.kind == kind).map(|part| part.bytes)
    }

    #[test]
    fn the_parts_always_add_up_to_the_pool() {
        let pools = [
            Pool::Host(Some(HOST)),
            Pool::Unified(Some(HOST)),
            Pool::Gpu(GpuMemory { total: 1000, used: 500 }),
        ];
        for (pool, weights) in
            pools.iter().flat_map(|pool| [0.0, 100.0, 240.0, 400.0, 700.0].map(|w| (*pool, w)))
        {
            for on_gpu in [None, Some(0), Some(470), Some(5000)] {
                let memory = bar(pool, Some(&engine(weights)), on_gpu, 0.0);
                let sum: f64 = memory.parts.iter().map(|part| part.bytes).sum();
                assert_eq!(sum, 1000.0, "with weights of {weights}: {memory:?}");
                assert!(memory.parts.iter().all(|part| part.bytes >= 0.0), "{memory:?}");
            }
        }
    }

    #[test]
    fn without_an_engine_its_parts_are_left_out_and_not_zero() {
        let memory = bar(Pool::Host(Some(HOST)), None, Some(99), 0.0);
        assert_eq!((part(&memory, "weights"), part(&memory, "context")), (None, None));
        assert_eq!((part(&memory, "other"), part(&memory, "free")), (Some(300.0), Some(300.0)));
    }

    #[test]
    fn without_meminfo_the_pool_is_unknown() {
        let memory = bar(Pool::Unified(None), Some(&engine(1.0)), None, 0.0);
        assert_eq!((memory.total, part(&memory, "other")), (None, None));
        assert_eq!((part(&memory, "kv_cached"), part(&memory, "kv_reserved")), (Some(8.0), Some(22.0)));
    }

    #[test]
    fn a_card_has_no_page_cache_and_what_the_process_holds_beyond_its_parts_is_cudas() {
        let gpu = GpuMemory { total: 1000, used: 300 };
        let memory = bar(Pool::Gpu(gpu), Some(&engine(100.0)), Some(190), 0.0);
        assert_eq!((part(&memory, "context"), part(&memory, "other")), (Some(30.0), Some(110.0)));
        assert_eq!((part(&memory, "cache"), part(&memory, "free")), (None, Some(700.0)));
        assert_eq!(memory.pool, "gpu");
    }

    #[test]
    fn the_reserve_follows_the_machine_unless_it_is_set() {
        let spark = HostMemory { total: 128 << 30, free: 0, available: 0 };
        let small = HostMemory { total: 16 << 30, free: 0, available: 0 };
        assert_eq!(reserve(None, Some(&spark)), (12u64 << 30) as f64);
        assert_eq!(reserve(None, Some(&small)), (2u64 << 30) as f64);
        assert_eq!(reserve(Some(7.0), Some(&spark)), 7.0);
    }
}
