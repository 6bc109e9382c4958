//! A run from its warm-up to its last row: one row after the other, each written down as soon as it is over, with the time that is
//! left. Called by the handle in `mod`, and by `hearth bench` for an endpoint elsewhere.

use std::time::{Duration, Instant};

use hearth_engine::status::Fault;

use super::{
    conditions::Machine,
    figures::median,
    link::{BenchError, Endpoint},
    measure::{Bench, Pace},
    suite::{LONG_PROMPT, TURNS},
    talk::TURN_TOKENS,
    types::{BenchPart, BenchProgress, BenchRow, BenchRowState, BenchRun, BenchRunState},
};
use crate::{
    control::types::Profile,
    supervisor::{Reach, Supervisor},
};

/// A model that is on its way is waited for this long.
const COMING: Duration = Duration::from_secs(120);
/// So many rows in a row that fail end the run.
const FAILURES: u32 = 3;

/// Where the endpoint is found, anew for every row: an engine may have been started again.
#[derive(Clone)]
pub(crate) enum Source {
    /// The appliance's own.
    Supervised(Supervisor),
    /// A fixed one.
    Fixed(Endpoint),
}

impl Source {
    /// The endpoint, waiting for an engine that is on its way.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn endpoint(&self) -> Result<Endpoint, BenchError> {
        let supervisor = match self {
            Source::Fixed(endpoint) => return Ok(endpoint.clone()),
            Source::Supervised(supervisor) => supervisor,
        };
        let mut view = supervisor.view();
        let found = async {
            loop {
                let (reach, model) = {
                    let view = view.borrow_and_update();
                    let model = view
                        .status
                        .as_ref()
                        .and_then(|status| status.model.as_ref().map(|model| model.id.clone()));
                    (view.reach(), model)
                };
                match (reach, model) {
                    (Reach::Open(target), Some(model)) => {
                        supervisor.stir();
                        return Ok(Endpoint { address: super::link::Address::Unix(target.socket), model });
                    }
                    (Reach::Shut(fault), _) => return Err(BenchError::Gone(fault)),
                    _ if view.changed().await.is_err() => break,
                    _ => {}
                }
            }
            Err(gone())
        };
        tokio::time::timeout(COMING, found).await.unwrap_or_else(|_| Err(gone()))
    }

    /// Whether the same profile still runs: rows of two profiles are no run.
    fn still_runs(&self, profile: Option<&Profile>) -> Result<(), BenchError> {
        let Source::Supervised(supervisor) = self else { return Ok(()) };
        if profile.is_none_or(|profile| *profile == supervisor.view().borrow().profile) {
            return Ok(());
        }
        let text = "Another profile was started while this was measured.";
        let fault = Fault::new("profile_changed", text, "Measure again when nothing is changed meanwhile.");
        Err(BenchError::Gone(fault))
    }

    /// Hearth's processes, whose memory is no other program's.
    pub(crate) fn keepers(&self) -> Vec<u32> {
        let engine = match self {
            Source::Supervised(supervisor) => {
                supervisor.view().borrow().status.as_ref().map(|status| status.pid)
            }
            Source::Fixed(_) => None,
        };
        [Some(std::process::id()), engine].into_iter().flatten().collect()
    }
}

fn gone() -> BenchError {
    BenchError::Gone(Fault::new("engine_stopped", "No model is running.", "Start one, then measure again."))
}

/// Measures all rows that wait. Called with everything but them filled in; `tell` is called at the beginning and after every row.
pub(crate) async fn run(
    source: &Source,
    run: &mut BenchRun,
    seed: u64,
    tell: &mut (dyn FnMut(&BenchRun, BenchProgress) + Send),
) {
    let done = all(source, run, seed, tell).await;
    run.state = if done.is_err() { BenchRunState::Failed } else { BenchRunState::Done };
    run.fault = done.err().map(|error| error.fault());
    finish(source, run).await;
}

/// Writes down how it ended. What was under way when a run was cut short was not measured.
pub(crate) async fn finish(source: &Source, run: &mut BenchRun) {
    for row in &mut run.rows {
        if row.state == BenchRowState::Running {
            row.state = BenchRowState::Waiting;
            (row.shots, row.peaks, row.score) = (Vec::new(), Vec::new(), None);
        }
    }
    let keepers = source.keepers();
    let machine = tokio::task::spawn_blocking(move || Machine::look(&keepers)).await.unwrap_or_default();
    run.conditions.after = Some(machine.reading());
    run.ended_ms = Some(crate::supervisor::now_ms());
}

async fn all(
    source: &Source,
    run: &mut BenchRun,
    seed: u64,
    tell: &mut (dyn FnMut(&BenchRun, BenchProgress) + Send),
) -> Result<(), BenchError> {
    tell(run, progress(run, None, None));
    let endpoint = source.endpoint().await?;
    let repeats = run.repeats;
    let mut bench = Bench { endpoint: &endpoint, repeats, seed, salt: 0, seen: 0, sent: 0 };
    run.conditions.latency_ms = latency(&endpoint).await;
    let begun = Instant::now();
    let pace = bench.warm_up(run.conditions.engine.context).await?;
    run.conditions.warm_up_s = Some(begun.elapsed().as_secs_f64());
    let (mut seen, mut sent) = (bench.seen, bench.sent);
    // How much longer rows took than was thought, so far.
    let (mut thought, mut took) = (0.0, 0.0);
    let mut failures = 0;
    while let Some((from, to)) = next(&run.rows) {
        run.rows[from..to].iter_mut().for_each(|row| row.state = BenchRowState::Running);
        let left: f64 = run
            .rows
            .iter()
            .enumerate()
            .map(|(at, row)| expected(row, at > from && at < to, pace, repeats))
            .sum();
        let factor = if thought > 0.0 { took / thought } else { 1.0 };
        tell(run, progress(run, Some(from), Some(left * factor)));
        let endpoint = source.endpoint().await?;
        source.still_runs(run.conditions.profile.as_ref())?;
        let mut bench =
            Bench { endpoint: &endpoint, repeats, seed, salt: (from as u64 + 1) << 40, seen, sent };
        let begun = Instant::now();
        let cost: f64 = (from..to).map(|at| expected(&run.rows[at], at > from, pace, repeats)).sum();
        let done = bench.measure(&mut run.rows[from..to]).await;
        (seen, sent) = (bench.seen, bench.sent);
        match done {
            Ok(()) => {
                (thought, took, failures) = (thought + cost, took + begun.elapsed().as_secs_f64(), 0);
                run.rows[from..to].iter_mut().for_each(|row| row.state = BenchRowState::Done);
            }
            Err(error) => {
                failures += 1;
                for row in &mut run.rows[from..to] {
                    (row.state, row.fault) = (BenchRowState::Failed, Some(error.fault()));
                    (row.shots, row.peaks, row.score) = (Vec::new(), Vec::new(), None);
                }
                if failures >= FAILURES {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// The rows that are measured next: one, or all behind one prompt.
fn next(rows: &[BenchRow]) -> Option<(usize, usize)> {
    let from = rows.iter().position(|row| row.state == BenchRowState::Waiting)?;
    let first = &rows[from];
    let together = |row: &&BenchRow| {
        row.state == BenchRowState::Waiting && row.part == BenchPart::Contexts && row.prompt == first.prompt
    };
    let more =
        if first.part == BenchPart::Contexts { rows[from..].iter().take_while(together).count() } else { 1 };
    Some((from, from + more))
}

/// Seconds that a row should take; zero for those that are over. `known`: its prompt was read for the row before it.
fn expected(row: &BenchRow, known: bool, pace: Pace, repeats: u32) -> f64 {
    if !matches!(row.state, BenchRowState::Waiting | BenchRowState::Running) {
        return 0.0;
    }
    let (prompt, output, times) =
        (f64::from(row.prompt.unwrap_or(0)), f64::from(row.output), f64::from(repeats));
    let clients = f64::from(row.clients);
    let (read, written) = match row.part {
        BenchPart::Contexts if known => (0.0, times * output),
        BenchPart::Contexts => {
            let colds = if row.prompt >= Some(LONG_PROMPT) { 1.0 } else { times };
            (colds * prompt, (times + colds) * output)
        }
        BenchPart::Prefill => (times * prompt, 2.0 * times),
        // Steps are shared, if not wholly.
        BenchPart::Company => ((times + 1.0) * clients * prompt, times * output * (0.75 + clients / 4.0)),
        BenchPart::Depths => (times * 200.0, times * output),
        BenchPart::Agent => {
            let turns = f64::from(TURNS) * times;
            (turns * 400.0, turns * f64::from(TURN_TOKENS))
        }
        BenchPart::Facts => (prompt, 24.0),
        BenchPart::Arena => {
            let all = f64::from(row.depth_tokens) + prompt;
            (times * clients * all, 2.0 * times * output * (0.75 + clients / 4.0))
        }
    };
    read * pace.prefill_s + written * pace.decode_s
}

/// How far a run is.
pub(crate) fn progress(run: &BenchRun, row: Option<usize>, seconds_left: Option<f64>) -> BenchProgress {
    let count = |what: &dyn Fn(&BenchRow) -> bool| run.rows.iter().filter(|row| what(row)).count() as u32;
    BenchProgress {
        id: run.id,
        state: run.state,
        done: count(&|row| matches!(row.state, BenchRowState::Done | BenchRowState::Failed)),
        of: count(&|row| row.state != BenchRowState::Skipped),
        row: row.and_then(|row| u32::try_from(row).ok()),
        seconds_left,
    }
}

/// Milliseconds of an exchange in which nothing is computed: the median of a few.
async fn latency(endpoint: &Endpoint) -> Option<f64> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        endpoint.json("GET", "/v1/models", None).await.ok()?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    median(&times)
}
