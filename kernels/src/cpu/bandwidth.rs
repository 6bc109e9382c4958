//! How fast this machine reads memory: the roof under which every decode step runs. Called by the benchmark and by the
//! appliance, which draws it in its charts.

use super::buffer::HostBuffer;
use super::pool::Pool;
use super::simd::Simd;
use crate::Result;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Buffer that is larger than the last-level cache a process can count on, bytes.
pub const DEFAULT_BUFFER: usize = 1 << 30;

/// A measured read bandwidth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReadBandwidth {
    /// Bytes read per second in the best pass.
    pub best: f64,
    /// Bytes read per second in the median pass.
    pub median: f64,
    /// Size of the buffer that was read, bytes.
    pub buffer: usize,
    /// Threads that read.
    pub threads: usize,
    /// Passes over the buffer.
    pub passes: usize,
}

/// Reads a buffer of `buffer` bytes again and again on `threads` threads (default: all) for about `time`, at least three
/// times after one pass that is not counted. Every thread takes the next megabyte, so a slow core does not hold the
/// others up.
///
/// # Errors
/// The buffer or the threads could not be had.
pub fn measure_read(threads: Option<usize>, buffer: usize, time: Duration) -> Result<ReadBandwidth> {
    const PART: usize = 1 << 20;
    let pool = Pool::new(super::thread_count(threads))?;
    let simd = Simd::available()[0];
    let parts = buffer.div_ceil(PART).max(1);
    let mut memory = HostBuffer::zeroed(parts * PART)?;
    // Pages that were never written are all the same page of zeros.
    pool.chunks(memory.as_mut_slice::<u64>(), PART / 8, |part, words| words.fill(part as u64));

    let memory = memory.as_slice::<u64>();
    let pass = || {
        let start = Instant::now();
        pool.run(parts, |part| {
            black_box(simd.fold(&memory[part * (PART / 8)..(part + 1) * (PART / 8)]));
        });
        (parts * PART) as f64 / start.elapsed().as_secs_f64().max(1e-9)
    };
    pass();
    let start = Instant::now();
    let mut speeds = Vec::new();
    while speeds.len() < 3 || start.elapsed() < time {
        speeds.push(pass());
    }
    speeds.sort_by(f64::total_cmp);
    Ok(ReadBandwidth {
        best: speeds[speeds.len() - 1],
        median: speeds[speeds.len() / 2],
        buffer: parts * PART,
        threads: pool.threads(),
        passes: speeds.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_reads_the_whole_buffer_at_a_finite_speed() {
        let read = measure_read(Some(2), 3 << 20, Duration::ZERO).expect("3 MiB are there");
        assert_eq!((read.buffer, read.threads, read.passes), (3 << 20, 2, 3));
        assert!(read.best.is_finite() && read.best >= read.median && read.median > 0.0);
    }
}
