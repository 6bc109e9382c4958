//! The memory bar: the engine's exact parts, what others hold, the cache, and what is free; together always the whole pool.

use hearth_engine::status::EngineMemory;
use hearth_monitor::HostMemory;

use crate::control::types::{Memory, MemoryPart, Source};

/// The reserve of the settings, or the engine's own.
pub(crate) fn reserve(setting: Option<f64>, host: Option<&HostMemory>) -> f64 {
    setting.unwrap_or_else(|| host.map_or(0.0, |host| hearth_engine::default_reserve(host.total) as f64))
}

/// Draws the bar. Without an engine its parts are left out; without /proc/meminfo only the engine's parts are known.
pub(crate) fn bar(host: Option<&HostMemory>, engine: Option<&EngineMemory>, reserve: f64) -> Memory {
    let mut parts = Vec::new();
    let mut add =
        |kind: &str, bytes: f64, source| parts.push(MemoryPart { kind: kind.into(), bytes, source });
    let mut own = 0.0;
    if let Some(engine) = engine {
        let kv_used = engine.kv_used.min(engine.kv);
        add("weights", engine.weights, Source::Exact);
        add("kv_used", kv_used, Source::Exact);
        add("kv_reserved", engine.kv - kv_used, Source::Exact);
        add("state", engine.state, Source::Exact);
        add("scratch", engine.scratch, Source::Exact);
        own = engine.weights + engine.kv + engine.state + engine.scratch;
    }
    let Some(host) = host else { return Memory { total: None, reserve, parts } };
    let (used, cache, free) = (host.used() as f64, host.reclaimable() as f64, host.free as f64);
    // Weights that are mapped from files are page cache to the kernel, and pages never touched are free to it; both are the
    // engine's here, so what exceeds "used" is taken from the cache and then from what is free.
    let other = (used - own).max(0.0);
    let from_cache = (own - used).clamp(0.0, cache);
    let from_free = (own - used - from_cache).clamp(0.0, free);
    add("other", other, if engine.is_some() { Source::Estimated } else { Source::Measured });
    add("cache", cache - from_cache, Source::Measured);
    add("free", free - from_free, Source::Measured);
    Memory { total: Some(host.total as f64), reserve, parts }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: HostMemory = HostMemory { total: 1000, free: 300, available: 700 };

    fn engine(weights: f64) -> EngineMemory {
        EngineMemory { weights, kv: 50.0, kv_used: 20.0, kv_cached: 0.0, state: 5.0, scratch: 5.0 }
    }

    fn part(memory: &Memory, kind: &str) -> Option<f64> {
        memory.parts.iter().find(|part| part.kind == kind).map(|part| part.bytes)
    }

    #[test]
    fn the_parts_always_add_up_to_the_pool() {
        for weights in [0.0, 100.0, 240.0, 400.0, 700.0] {
            let memory = bar(Some(&HOST), Some(&engine(weights)), 0.0);
            let sum: f64 = memory.parts.iter().map(|part| part.bytes).sum();
            assert_eq!(sum, 1000.0, "with weights of {weights}: {memory:?}");
            assert!(memory.parts.iter().all(|part| part.bytes >= 0.0), "{memory:?}");
        }
    }

    #[test]
    fn without_an_engine_its_parts_are_left_out_and_not_zero() {
        let memory = bar(Some(&HOST), None, 0.0);
        assert_eq!(part(&memory, "weights"), None);
        assert_eq!((part(&memory, "other"), part(&memory, "free")), (Some(300.0), Some(300.0)));
    }

    #[test]
    fn without_meminfo_the_pool_is_unknown() {
        let memory = bar(None, Some(&engine(1.0)), 0.0);
        assert_eq!((memory.total, part(&memory, "other")), (None, None));
        assert_eq!(part(&memory, "kv_reserved"), Some(30.0));
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
