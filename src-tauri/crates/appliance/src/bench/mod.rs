//! Benchmarks: measures the engine through its own endpoint, one run at a time, keeps the runs beside the history, compares them and
//! writes them in the formats of others. Called by the control API; `hearth bench` calls `measure` for an endpoint elsewhere.

mod compare;
mod conditions;
mod export;
mod facts;
#[cfg(test)]
mod fake;
mod figures;
mod fill;
mod link;
mod measure;
pub(crate) mod measured;
mod prose;
mod run;
mod store;
mod suite;
mod talk;
#[cfg(test)]
mod tests;
pub mod types;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use hearth_engine::status::{EngineStatus, Fault};
use tokio::sync::watch;

pub use compare::compare;
pub use export::{ExportFormat, export};

use conditions::Machine;
use link::{Address, Endpoint};
use run::{Source, finish, progress};
use store::Store;
use types::{BenchList, BenchOrder, BenchProgress, BenchRun, BenchRunState};

use crate::{
    ApplianceError,
    control::{
        figures::{DepthFigures, MeasuredSpeed},
        types::{Notice, Profile},
    },
    models,
    supervisor::{Supervisor, now_ms},
};

/// Runs of a model that measured figures are looked for in.
const LOOKED_THROUGH: u32 = 20;

/// The handle; cheap to clone.
#[derive(Clone)]
pub(crate) struct Benchmarks {
    store: Arc<Mutex<Store>>,
    supervisor: Supervisor,
    roof: watch::Receiver<Option<f64>>,
    progress: Arc<watch::Sender<Option<BenchProgress>>>,
    /// Number of the run that is to end.
    cancel: Arc<watch::Sender<u32>>,
}

/// Why a run was not begun.
#[derive(Debug)]
pub(crate) enum NotBegun {
    /// The order makes no sense.
    Bad(ApplianceError),
    /// It could be, if somebody insisted or waited.
    Objection(Fault),
    /// It cannot be kept.
    Broken(ApplianceError),
}

impl Benchmarks {
    /// Opens (or begins) the file; one that cannot be used is moved aside, which the notice tells.
    pub(crate) fn open(
        path: &Path,
        supervisor: Supervisor,
        roof: watch::Receiver<Option<f64>>,
    ) -> (Benchmarks, Option<Notice>) {
        let (mut store, notice) = Store::open_or_begin(path);
        if let Err(error) = store.end_orphans() {
            tracing::warn!(%error, "a benchmark of an earlier run still seems to run");
        }
        let (progress, _) = watch::channel(None);
        let benchmarks = Benchmarks {
            store: Arc::new(Mutex::new(store)),
            supervisor,
            roof,
            progress: Arc::new(progress),
            cancel: Arc::new(watch::channel(0).0),
        };
        (benchmarks, notice)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // A job that panicked has left SQLite between two statements at most.
        self.store.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Away from the threads that serve.
    async fn with<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Store) -> Result<T, ApplianceError> + Send + 'static,
    ) -> Result<T, ApplianceError> {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || job(&mut this.store())).await;
        done.unwrap_or_else(|error| Err(ApplianceError::Benchmarks { cause: error.to_string() }))
    }

    /// How far the run under way is, or how the last one ended.
    pub(crate) fn progress(&self) -> watch::Receiver<Option<BenchProgress>> {
        self.progress.subscribe()
    }

    fn is_running(&self) -> bool {
        self.progress.borrow().as_ref().is_some_and(|progress| progress.state == BenchRunState::Running)
    }

    /// Begins a run.
    ///
    /// # Errors
    /// See `NotBegun`.
    pub(crate) async fn start(&self, order: BenchOrder) -> Result<BenchProgress, NotBegun> {
        suite::check(&order).map_err(NotBegun::Bad)?;
        let source = Source::Supervised(self.supervisor.clone());
        let profile = self.supervisor.view().borrow().profile.clone();
        let (status, endpoint) = ask(&source).await.map_err(NotBegun::Objection)?;
        let roof = *self.roof.borrow();
        let most = models::card(&profile.model).ok().and_then(|card| card.max_context);
        let mut run =
            prepare(&source, &status, order, Some(profile), roof, most).await.map_err(NotBegun::Objection)?;
        drop(endpoint);
        // From here on no other run begins.
        let mut taken = false;
        self.progress.send_if_modified(|now| {
            taken = now.as_ref().is_some_and(|now| now.state == BenchRunState::Running);
            if !taken {
                *now = Some(progress(&run, None, None));
            }
            !taken
        });
        if taken {
            let text = "A benchmark is running already.";
            return Err(NotBegun::Objection(Fault::new("bench_running", text, "Wait for it, or cancel it.")));
        }
        let begun = self.with(move |store| store.begin(&mut run).map(|()| run)).await;
        let run = match begun {
            Ok(run) => run,
            Err(error) => {
                self.progress.send_replace(None);
                return Err(NotBegun::Broken(error));
            }
        };
        let first = progress(&run, None, None);
        self.progress.send_replace(Some(first.clone()));
        tokio::spawn(self.clone().carry_out(source, run));
        Ok(first)
    }

    /// Runs, writing down every row; cancelled or not, the run is in the file when the progress says that it is over.
    async fn carry_out(self, source: Source, mut run: BenchRun) {
        let seed = getrandom::u64().unwrap_or(run.id.into());
        let (mut cancel, id) = (self.cancel.subscribe(), run.id);
        let cancelled = {
            let this = self.clone();
            let mut tell = move |run: &BenchRun, now: BenchProgress| {
                if let Err(error) = this.store().write(run) {
                    tracing::warn!(%error, "a benchmark is not kept");
                }
                this.progress.send_replace(Some(now));
            };
            tokio::select! {
                () = run::run(&source, &mut run, seed, &mut tell) => false,
                _ = cancel.wait_for(|cancelled| *cancelled == id) => true,
            }
        };
        if cancelled {
            run.state = BenchRunState::Cancelled;
            finish(&source, &mut run).await;
        }
        if let Err(error) = self.store().write(&run) {
            tracing::warn!(%error, "a benchmark is not kept");
        }
        self.progress.send_replace(Some(progress(&run, None, None)));
    }

    /// Ends the run under way; false if there is none.
    pub(crate) fn cancel(&self) -> bool {
        let running = self.progress.borrow().clone().filter(|now| now.state == BenchRunState::Running);
        if let Some(now) = &running {
            self.cancel.send_replace(now.id);
        }
        running.is_some()
    }

    /// All runs, newest first.
    pub(crate) async fn list(&self) -> Result<BenchList, ApplianceError> {
        let runs = self.with(|store| store.list()).await?;
        Ok(BenchList { progress: self.progress.borrow().clone(), runs })
    }

    /// One run.
    pub(crate) async fn read(&self, id: u32) -> Result<Option<BenchRun>, ApplianceError> {
        self.with(move |store| store.read(id)).await
    }

    /// Deletes one; false if there was none. The run under way stays.
    pub(crate) async fn remove(&self, id: u32) -> Result<bool, ApplianceError> {
        if self.is_running() && self.progress.borrow().as_ref().is_some_and(|progress| progress.id == id) {
            return Ok(false);
        }
        self.with(move |store| store.remove(id)).await
    }

    /// The models that benchmarks were made of, as profiles name them.
    pub(crate) async fn models(&self) -> Result<Vec<String>, ApplianceError> {
        self.with(|store| store.models()).await
    }

    /// What benchmarks measured of a profile, and of each depth of drafting.
    pub(crate) async fn measured(&self, profile: &Profile) -> (Option<MeasuredSpeed>, Vec<DepthFigures>) {
        let model = profile.model.clone();
        let runs = self.with(move |store| store.of_model(&model, LOOKED_THROUGH)).await;
        runs.map(|runs| measured::from_runs(&runs, profile)).unwrap_or_default()
    }
}

/// Measures an endpoint elsewhere on this machine, which need not belong to an appliance. `authority`: `127.0.0.1:8000`.
///
/// # Errors
/// It cannot be reached, the order makes no sense, or something speaks against measuring.
pub async fn measure(
    authority: &str,
    key: Option<String>,
    order: BenchOrder,
    tell: &mut (dyn FnMut(&BenchRun, BenchProgress) + Send),
) -> Result<BenchRun, Fault> {
    suite::check(&order).map_err(|error| error.fault())?;
    let address = Address::Tcp { authority: authority.to_owned(), key };
    let source = Source::Fixed(Endpoint { address, model: String::new() });
    let (status, endpoint) = ask(&source).await?;
    let source = Source::Fixed(endpoint);
    let mut run = prepare(&source, &status, order, None, None, None).await?;
    run::run(&source, &mut run, getrandom::u64().unwrap_or(1), tell).await;
    Ok(run)
}

/// The engine's own description, and its endpoint under the name it serves.
async fn ask(source: &Source) -> Result<(EngineStatus, Endpoint), Fault> {
    let endpoint = source.endpoint().await.map_err(|error| error.fault())?;
    let status = endpoint.status(u64::MAX).await.map_err(|error| error.fault())?;
    let model = status.model.as_ref().map(|model| model.id.clone()).unwrap_or_default();
    Ok((status, Endpoint { model, ..endpoint }))
}

/// A run with everything but its figures. The fault is the first thing that speaks against it, unless somebody insists.
async fn prepare(
    source: &Source,
    status: &EngineStatus,
    order: BenchOrder,
    profile: Option<Profile>,
    roof: Option<f64>,
    most_context: Option<u32>,
) -> Result<BenchRun, Fault> {
    let Some(engine) = status.model.clone() else {
        return Err(Fault::new("engine_stopped", "No model is running.", "Start one, then measure again."));
    };
    let keepers: Vec<u32> = source.keepers().into_iter().chain([status.pid]).collect();
    let machine = tokio::task::spawn_blocking(move || Machine::look(&keepers)).await.unwrap_or_default();
    let objections = machine.objections(status);
    if let Some(first) = objections.first().filter(|_| !order.anyway) {
        return Err(first.clone());
    }
    let rows = suite::plan(&order, &engine, most_context);
    if rows.iter().all(|row| row.fault.is_some()) {
        let why = rows.first().and_then(|row| row.fault.clone());
        return Err(why.unwrap_or_else(|| {
            Fault::new("nothing_to_measure", "Nothing is to be measured.", "Choose a part.")
        }));
    }
    let conditions =
        tokio::task::spawn_blocking(move || machine.conditions(engine, profile, roof, objections))
            .await
            .map_err(|error| {
                Fault::new(
                    "bench_failed",
                    format!("The conditions cannot be read: {error}."),
                    "Report this with the log.",
                )
                .with("reason", error.to_string())
            })?;
    Ok(BenchRun {
        id: 0,
        state: BenchRunState::Running,
        fault: None,
        started_ms: now_ms(),
        ended_ms: None,
        repeats: order.repeats.unwrap_or(suite::REPEATS),
        order,
        conditions,
        rows,
    })
}
