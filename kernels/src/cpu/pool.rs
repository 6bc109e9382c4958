//! The threads of the CPU backend: a few workers that take numbered tasks from one counter. Between jobs they spin for a
//! moment, because the next op follows within microseconds, and then sleep. Every op of the backend calls it.

use crate::{OpError, Result};
use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a worker waits awake for the next job.
const AWAKE: Duration = Duration::from_micros(200);
/// In the gate: the job accepts workers.
const OPEN: u64 = 1 << 15;
/// In the gate: how many workers are inside the job.
const INSIDE: u64 = OPEN - 1;
/// In the gate: one more job.
const NEXT: u64 = 1 << 16;

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// Something on cache lines of its own (two, which processors fetch as a pair): who waits for one thing must not take
/// the line of another from the core that writes it.
#[repr(align(128))]
struct Apart<T>(T);

impl<T> std::ops::Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What the caller and the workers share.
struct Shared {
    /// Job number, OPEN, and how many workers are inside.
    gate: Apart<AtomicU64>,
    next: Apart<AtomicUsize>,
    /// The job: valid while the gate is open or a worker is inside.
    task: UnsafeCell<Option<&'static Task<'static>>>,
    count: AtomicUsize,
    stop: AtomicBool,
    panicked: AtomicBool,
    asleep: Mutex<usize>,
    wake: Condvar,
}

// SAFETY: `task` is written only by the caller that holds the pool's turn, while the gate is closed and nobody is inside;
// everything else in it is atomic or locked.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

/// Some threads that work together on one job at a time.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of `threads` threads, the caller's among them.
    pub fn new(threads: usize) -> Result<Pool> {
        let shared = Arc::new(Shared {
            gate: Apart(AtomicU64::new(0)),
            task: UnsafeCell::new(None),
            next: Apart(AtomicUsize::new(0)),
            count: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            asleep: Mutex::new(0),
            wake: Condvar::new(),
        });
        let mut pool = Pool { shared, workers: Vec::new(), turn: Mutex::new(()) };
        for i in 1..threads {
            let shared = pool.shared.clone();
            let worker = std::thread::Builder::new()
                .name(format!("hearth-cpu-{i}"))
                .spawn(move || work(&shared))
                .map_err(|e| OpError::Threads { device: "cpu", threads, reason: e.to_string() })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(0)`, ..., `task(count - 1)`, each once, on all threads; returns when all are done.
    pub fn run(&self, count: usize, task: impl Fn(usize) + Sync) {
        if self.workers.is_empty() || count <= 1 {
            return (0..count).for_each(task);
        }
        let _turn = lock(&self.turn);
        let shared = &*self.shared;
        let task: &Task<'_> = &task;
        // SAFETY: only the lifetime is lengthened. Workers use the reference only while they are counted inside the gate,
        // and `Closing` below waits, also when a task panics, until nobody is inside and nobody can enter.
        let task = unsafe { std::mem::transmute::<&Task<'_>, &'static Task<'static>>(task) };
        // SAFETY: we hold the turn and the last job's gate is closed and empty, so nobody reads the cell.
        unsafe { *shared.task.get() = Some(task) };
        shared.next.store(0, Ordering::Relaxed);
        shared.count.store(count, Ordering::Relaxed);
        let gate = shared.gate.load(Ordering::Relaxed);
        shared.gate.store((gate & !(OPEN | INSIDE)).wrapping_add(NEXT) | OPEN, Ordering::SeqCst);
        {
            let asleep = lock(&shared.asleep);
            if *asleep > 0 {
                shared.wake.notify_all();
            }
        }
        {
            let _closing = Closing(shared);
            shared.take(task, count);
        }
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a task of the CPU backend panicked");
    }

    /// Calls `task(i, chunk)` for every chunk of `len` elements (the last may be shorter).
    pub fn chunks<T: Send>(&self, data: &mut [T], len: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        let (len, total) = (len.max(1), data.len());
        let parts = Disjoint::new(data);
        self.run(total.div_ceil(len), |i| {
            // SAFETY: chunk i is used by task i alone, and every task runs once.
            task(i, unsafe { parts.slice(i * len, len.min(total - i * len)) });
        });
    }
}

/// Ends a job: nobody may enter any more, and everybody inside has left.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut turns = 0u32;
        while self.0.gate.load(Ordering::Acquire) & INSIDE != 0 {
            turns += 1;
            if turns > 10_000 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

impl Shared {
    /// Takes tasks until none is left.
    fn take(&self, task: &Task<'_>, count: usize) {
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            task(i);
        }
    }

    /// Tries to enter a job other than number `seen`.
    fn enter(&self, seen: u64) -> Option<u64> {
        let gate = self.gate.load(Ordering::Acquire);
        if gate & OPEN == 0 || gate / NEXT == seen {
            return None;
        }
        self.gate
            .compare_exchange(gate, gate + 1, Ordering::AcqRel, Ordering::Relaxed)
            .ok()
            .map(|gate| gate / NEXT)
    }
}

/// A worker's life.
fn work(shared: &Shared) {
    let mut seen = 0;
    let mut idle_since = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) {
        if let Some(job) = shared.enter(seen) {
            seen = job;
            // SAFETY: we are counted inside the gate, so the caller keeps the task alive and does not write the cell.
            if let Some(task) = unsafe { *shared.task.get() } {
                let count = shared.count.load(Ordering::Relaxed);
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shared.take(task, count)))
                    .is_err()
                {
                    shared.panicked.store(true, Ordering::Relaxed);
                }
            }
            shared.gate.fetch_sub(1, Ordering::Release);
            idle_since = Instant::now();
            continue;
        }
        for _ in 0..4 {
            std::hint::spin_loop();
        }
        if idle_since.elapsed() > AWAKE {
            let mut asleep = lock(&shared.asleep);
            *asleep += 1;
            while !shared.stop.load(Ordering::Relaxed) && {
                let gate = shared.gate.load(Ordering::SeqCst);
                gate & OPEN == 0 || gate / NEXT == seen
            } {
                asleep = shared.wake.wait(asleep).unwrap_or_else(PoisonError::into_inner);
            }
            *asleep -= 1;
            idle_since = Instant::now();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(lock(&self.shared.asleep));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker's panic was reported to the caller of its job already.
            let _ = worker.join();
        }
    }
}

/// A mutable slice that several tasks write at different places.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out memory only through `slice`, whose caller promises that no two tasks share a place.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes the slice over for as long as the tasks run.
    pub fn new(data: &'a mut [T]) -> Self {
        Disjoint { start: data.as_mut_ptr(), len: data.len(), owner: PhantomData }
    }

    /// `len` elements from `first` on. Panics if they are not all inside.
    ///
    /// # Safety
    /// No other slice of the same elements may be alive.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, first: usize, len: usize) -> &'a mut [T] {
        assert!(first <= self.len && len <= self.len - first, "a task reached beyond its tensor");
        // SAFETY: in bounds by the check above, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) }
    }
}

/// Some columns of all rows of a matrix: what one of several tasks may write.
pub(crate) struct Columns<'a> {
    all: Disjoint<'a, f32>,
    stride: usize,
    first: usize,
    width: usize,
}

// SAFETY: it alone may touch its columns; see `columns`.
unsafe impl Send for Columns<'_> {}

/// Cuts a matrix of `stride` columns into stripes of `width` columns (the last may be narrower).
pub(crate) fn columns(data: &mut [f32], stride: usize, width: usize) -> Vec<Columns<'_>> {
    let (start, len) = (data.as_mut_ptr(), data.len());
    let stripe = |first: usize| Columns {
        all: Disjoint { start, len, owner: PhantomData },
        stride,
        first,
        width: width.min(stride - first),
    };
    (0..stride).step_by(width.max(1)).map(stripe).collect()
}

impl Columns<'_> {
    /// How many columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Its part of row `i`.
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        // SAFETY: stripes do not overlap, and `&mut self` keeps this one from being lent twice.
        unsafe { self.all.slice(i * self.stride + self.first, self.width) }
    }
}
