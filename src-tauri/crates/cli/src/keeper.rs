//! The engine's half of "the engine dies with the appliance, always". Called first thing in `main`.
//!
//! The appliance starts an engine with `HEARTH_KEEPER=<its pid>` and holds the other end of the engine's standard input. Two
//! things end the engine when the appliance is gone, however it went: the kernel's parent-death signal, and the end of that pipe
//! (which also covers a parent that died before the signal was asked for).

use std::io::Read;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// The variable that names the appliance's process.
pub const KEEPER: &str = "HEARTH_KEEPER";

/// Exit code of an engine whose appliance is gone (sysexits: EX_UNAVAILABLE).
const ORPHANED: i32 = 69;

/// Ties this process to the appliance if the appliance started it; does nothing otherwise.
pub fn die_with_the_appliance() {
    let Some(keeper) = std::env::var(KEEPER).ok().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw)
    else {
        return;
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("hearth: no parent-death signal on this system ({error}); watching the pipe alone");
    }
    if getppid() != Some(keeper) {
        eprintln!("hearth: the appliance (pid {}) is gone; this engine ends too", keeper.as_raw_nonzero());
        std::process::exit(ORPHANED);
    }
    let watch = std::thread::Builder::new().name("keeper".into()).spawn(|| {
        let mut byte = [0u8; 1];
        // Nothing is ever written to the pipe, so any return but an interruption is its end.
        while let Ok(1..) = std::io::stdin().read(&mut byte) {}
        std::process::exit(ORPHANED);
    });
    if let Err(error) = watch {
        eprintln!("hearth: cannot watch the appliance: {error}");
        std::process::exit(ORPHANED);
    }
}
