//! The supervisor's loop: one task that waits for the next of four things (an order, the engine's end, the time to look, the end of
//! a pause) and answers each in one function.

use std::{
    collections::HashMap,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use hearth_engine::{
    is_device_fault,
    status::{EnginePhase, EngineStatus, Fault},
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::sleep_until,
};

use super::{
    Ended, EngineView, Life, LogBook, Order, SupervisorOptions, Target,
    policy::{Failures, Next},
    process::{DETERMINISTIC_EXIT, DEVICE_EXIT, EngineProcess, describe},
    view::now_ms,
};
use crate::{
    control::types::{Profile, Settings},
    last_good, uds,
};

/// Lines of the log that go with a fault as evidence.
const EVIDENCE_LINES: usize = 4;

struct Drive {
    options: SupervisorOptions,
    publish: watch::Sender<EngineView>,
    ended: mpsc::Sender<Ended>,
    log: Arc<LogBook>,
    engine: Option<EngineProcess>,
    generation: u64,
    failures: Failures,
    /// The present process became ready then.
    ready_at: Option<Instant>,
    /// The engine answered last then.
    heard_at: Instant,
    next_look: Instant,
    /// `seq` of the last finished request that was passed on.
    seen: u64,
    /// The supervisor itself ended the process; its exit is not a crash.
    ending: bool,
    /// Why the supervisor killed a stuck engine.
    verdict: Option<Fault>,
    /// Start this once the present engine is gone.
    then_start: Option<Profile>,
    /// The engine is not to refuse a model for want of memory: a person said so.
    anyway: bool,
    /// The profile that served before, and whether it was started anyway, until its replacement serves.
    fallback: Option<(Profile, bool)>,
    /// Answer these once the engine is gone, and end.
    farewells: Vec<oneshot::Sender<()>>,
    load_times: HashMap<String, Duration>,
}

pub(super) async fn run(
    options: SupervisorOptions,
    mut orders: mpsc::Receiver<Order>,
    publish: watch::Sender<EngineView>,
    ended: mpsc::Sender<Ended>,
    stirred: Arc<Notify>,
    log: Arc<LogBook>,
) {
    let now = Instant::now();
    let mut drive = Drive {
        options,
        publish,
        ended,
        log,
        engine: None,
        generation: 0,
        failures: Failures::default(),
        ready_at: None,
        heard_at: now,
        next_look: now,
        seen: 0,
        ending: false,
        verdict: None,
        then_start: None,
        anyway: false,
        fallback: None,
        farewells: Vec::new(),
        load_times: HashMap::new(),
    };
    loop {
        let alive = drive.engine.is_some();
        if !alive && !drive.farewells.is_empty() {
            drive.farewells.drain(..).for_each(|tell| {
                let _ = tell.send(());
            });
            return;
        }
        let pause_end = drive.pause_end();
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => drive.obey(order).await,
                None => return,
            },
            status = gone(&mut drive.engine), if alive => drive.on_exit(status),
            () = stirred.notified(), if alive => drive.next_look = Instant::now(),
            () = sleep_until(drive.next_look.into()), if alive => drive.look().await,
            () = sleep_until(pause_end.unwrap_or(now).into()), if pause_end.is_some() => drive.on_pause_end(),
        }
    }
}

/// Resolves when the process is gone; null if its end could not be observed.
async fn gone(engine: &mut Option<EngineProcess>) -> Option<ExitStatus> {
    match engine {
        Some(engine) => (&mut engine.exit).await.ok(),
        None => std::future::pending().await,
    }
}

impl Drive {
    fn life(&self) -> Life {
        self.publish.borrow().life.clone()
    }

    fn show(&self, change: impl FnOnce(&mut EngineView)) {
        self.publish.send_modify(change);
    }

    fn pause_end(&self) -> Option<Instant> {
        match self.publish.borrow().life {
            Life::Restarting { until, .. } if self.engine.is_none() => Some(until),
            Life::Stopping { deadline } => Some(deadline),
            _ => None,
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Start(profile) => self.start(profile, false).await,
            Order::StartAnyway(profile) => {
                self.log.add("-- started although the plan says that it does not fit");
                self.start(profile, true).await;
            }
            Order::Stop { now } => {
                self.then_start = None;
                self.fallback = None;
                self.show(|view| view.returned = None);
                self.stop(now).await;
            }
            Order::Shutdown(tell) => {
                self.then_start = None;
                self.farewells.push(tell);
                self.stop(false).await;
            }
        }
    }

    async fn start(&mut self, profile: Profile, anyway: bool) {
        self.failures = Failures::default();
        self.show(|view| view.returned = None);
        let before = self.publish.borrow().profile.clone();
        let (life, running) = (self.life(), before == profile);
        if matches!(life, Life::Serving { .. }) && !running {
            self.fallback = Some((before, self.anyway));
        }
        let keeps = running && matches!(life, Life::Loading { .. } | Life::Serving { .. });
        if !keeps {
            self.anyway = anyway;
        }
        match life {
            Life::Loading { .. } | Life::Serving { .. } if running => {}
            Life::Loading { .. } | Life::Serving { .. } | Life::Stopping { .. } => {
                self.then_start = Some(profile);
                self.stop(false).await;
            }
            Life::Stopped | Life::Restarting { .. } | Life::Failed { .. } => self.launch(profile),
        }
    }

    /// Ends the engine: at once if it is still loading or `now`, else after the running requests.
    async fn stop(&mut self, now: bool) {
        let Some(engine) = &self.engine else {
            return self.show(|view| view.life = Life::Stopped);
        };
        self.ending = true;
        let idle = !self.publish.borrow().busy();
        match self.life() {
            _ if now => engine.kill(),
            Life::Loading { .. } => engine.kill(),
            Life::Stopping { .. } => return,
            _ => {
                let socket = self.publish.borrow().target.as_ref().map(|target| target.socket.clone());
                if let Some(socket) = socket {
                    let limit = self.options.policy.poll_timeout;
                    if let Err(error) =
                        uds::json::<serde_json::Value>(&socket, "POST", "/control/drain", limit).await
                    {
                        tracing::warn!(%error, "the engine was not told to finish; it is ended at the deadline");
                    }
                }
                // The view may be a second old; the next look decides, unless nothing has run for a while.
                self.next_look = Instant::now() + Duration::from_millis(if idle { 20 } else { 100 });
            }
        }
        let deadline = Instant::now() + self.options.policy.drain;
        self.show(|view| view.life = Life::Stopping { deadline });
    }

    fn launch(&mut self, profile: Profile) {
        self.generation += 1;
        (self.seen, self.ending, self.verdict, self.ready_at) = (0, false, None, None);
        let name = format!("engine-{}-{}.sock", std::process::id(), self.generation);
        let started = self.options.places.socket(&name).and_then(|socket| {
            self.log.add(&format!("-- starting {} (engine {})", profile.model, self.generation));
            // Read anew each time: a person may have changed it. A file that cannot be read is the control API's to report.
            let reserve = Settings::read(&self.options.places.settings()).ok().and_then(|s| s.memory_reserve);
            let engine = EngineProcess::start(
                &self.options.program,
                &profile,
                reserve,
                self.anyway,
                &socket,
                &self.options.places.prefixes(),
                &self.log,
            )?;
            Ok((engine, Target { socket, generation: self.generation }))
        });
        self.heard_at = Instant::now();
        self.next_look = self.heard_at + Duration::from_millis(20);
        let last = self.load_times.get(&key(&profile)).copied();
        let attempts = self.options.policy.attempts;
        match started {
            Ok((engine, target)) => {
                self.engine = Some(engine);
                self.show(|view| {
                    view.life = Life::Loading { since: Instant::now(), last };
                    (view.profile, view.target, view.status, view.attempts) =
                        (profile, Some(target), None, attempts);
                });
            }
            Err(error) => {
                let fault = error.fault();
                tracing::error!(%error, "the engine did not start");
                self.show(|view| {
                    view.life = Life::Failed { fault };
                    (view.profile, view.target, view.status, view.attempts) = (profile, None, None, attempts);
                });
            }
        }
    }

    fn on_pause_end(&mut self) {
        match &self.engine {
            Some(engine) => {
                self.log.add("-- the time to finish is over; running requests are cut off");
                engine.kill();
                // Do not come back here while the process goes away.
                let deadline = Instant::now() + Duration::from_secs(1);
                self.show(|view| view.life = Life::Stopping { deadline });
            }
            None => {
                let profile = self.publish.borrow().profile.clone();
                self.launch(profile);
            }
        }
    }

    /// Reads the status and draws the conclusions.
    async fn look(&mut self) {
        let Some(target) = self.publish.borrow().target.clone() else { return };
        let policy = self.options.policy.clone();
        let path = format!("/status?after={}", self.seen);
        match uds::json::<EngineStatus>(&target.socket, "GET", &path, policy.poll_timeout).await {
            Ok(status) => {
                self.heard_at = Instant::now();
                self.take_in(status, &target).await;
            }
            Err(error) => {
                let silent = self.heard_at.elapsed();
                tracing::debug!(%error, ?silent, "no status");
                // One missed reading on a busy machine says nothing.
                let unusual = silent > policy.poll_timeout + policy.idle_poll;
                if unusual && matches!(self.life(), Life::Serving { .. }) {
                    self.show(|view| view.silent = Some(silent));
                }
                if silent > policy.silence {
                    self.condemn(
                        "engine_silent",
                        format!("The engine has not answered for {} s.", silent.as_secs()),
                        silent,
                    );
                }
            }
        }
        let pace = match self.publish.borrow().busy() {
            // A process that is being started is asked often: readiness is what everybody waits for.
            true if self.ready_at.is_none() => policy.busy_poll / 4,
            true => policy.busy_poll,
            false => policy.idle_poll,
        };
        self.next_look = Instant::now() + pace;
    }

    async fn take_in(&mut self, status: EngineStatus, target: &Target) {
        let model = status.model.as_ref().map_or_else(String::new, |model| model.id.clone());
        for request in &status.finished {
            self.seen = self.seen.max(request.seq);
            let _ = self.ended.try_send(Ended { model: model.clone(), request: request.clone() });
        }
        let (life, status) = (self.life(), Arc::new(status));
        match (&status.phase, &life) {
            (EnginePhase::Ready, Life::Loading { since, .. }) => {
                self.ready_at = Some(Instant::now());
                let profile = self.publish.borrow().profile.clone();
                self.load_times.insert(key(&profile), since.elapsed());
                last_good::write(&self.options.places.last_good(), &profile);
                self.fallback = None;
                tracing::info!(
                    model,
                    generation = target.generation,
                    seconds = since.elapsed().as_secs_f64(),
                    "ready"
                );
                self.show(|view| view.life = Life::Serving { since_ms: now_ms() });
            }
            (_, Life::Stopping { .. }) if status.running + status.queued == 0 => {
                if let Some(engine) = &self.engine {
                    engine.terminate();
                }
            }
            (_, Life::Serving { .. }) => {
                let age = Duration::from_secs_f64(status.heartbeat_age_ms.clamp(0.0, 1e9) / 1000.0);
                if age > self.options.policy.heartbeat {
                    self.condemn(
                        "engine_stuck",
                        format!("The engine has not moved for {} s.", age.as_secs()),
                        age,
                    );
                }
            }
            _ => {}
        }
        self.show(|view| (view.status, view.silent) = (Some(status), None));
    }

    /// Kills an engine that does not move; its exit is then handled like a crash with this fault.
    fn condemn(&mut self, code: &str, message: String, silent: Duration) {
        self.log.add(&format!("-- {message} It is ended and started again."));
        let fault = Fault::new(code, message, "Nothing to do: it is started again.");
        self.verdict = Some(fault.with("seconds", silent.as_secs()));
        if let Some(engine) = &self.engine {
            engine.kill();
        }
    }

    fn on_exit(&mut self, status: Option<ExitStatus>) {
        self.engine = None;
        let text = status.map_or_else(|| "an unknown end".into(), describe);
        self.log.add(&format!("-- the engine ended: {text}"));
        if self.ending {
            self.show(|view| {
                (view.life, view.target, view.status, view.silent) = (Life::Stopped, None, None, None);
            });
            if let Some(profile) = self.then_start.take() {
                self.launch(profile);
            }
            return;
        }
        let fault = self.cause(status, &text);
        let device = status.and_then(|status| status.code()) == Some(DEVICE_EXIT);
        tracing::warn!(code = fault.code, "{} ({text})", fault.message);
        let ready_for = self.ready_at.take().map(|at| at.elapsed());
        let next = self.failures.count(&self.options.policy, &fault, ready_for);
        let good = match next {
            Next::GiveUp if ready_for.is_none() => self.fallback.take(),
            _ => None,
        };
        if let Some((good, anyway)) = good {
            self.log.add(&format!("-- going back to {}, which served before", good.model));
            (self.failures, self.anyway) = (Failures::default(), anyway);
            let failed = self.publish.borrow().profile.clone();
            self.show(|view| {
                view.crashes += 1;
                view.returned = Some(Box::new((failed, given_up(fault))));
            });
            return self.launch(good);
        }
        let life = match next {
            Next::Retry { attempt, pause } => {
                Life::Restarting { attempt, until: Instant::now() + pause, fault }
            }
            Next::GiveUp => Life::Failed { fault: given_up(fault) },
        };
        self.show(|view| {
            view.crashes += 1;
            view.device_faults += u64::from(device);
            (view.life, view.target, view.status, view.silent) = (life, None, None, None);
        });
    }

    /// The fault behind an exit: our own verdict, the engine's last word, or the way it ended.
    fn cause(&mut self, status: Option<ExitStatus>, text: &str) -> Fault {
        if let Some(fault) = self.verdict.take() {
            return fault;
        }
        let view = self.publish.borrow();
        if let Some(EnginePhase::Failed { fault }) = view.status.as_ref().map(|status| &status.phase) {
            return fault.clone();
        }
        let lines: Vec<String> = self.log.tail(EVIDENCE_LINES + 1);
        let evidence = lines[..lines.len().saturating_sub(1)].join("\n");
        let last_words = lines.iter().rev().skip(1).find_map(|line| serde_json::from_str::<Fault>(line).ok());
        if let Some(fault) = last_words {
            return fault;
        }
        let fault = match status.and_then(|status| status.code()) {
            Some(DETERMINISTIC_EXIT) => {
                Fault::new("engine_refused", "The engine refused the model.", "Open the log to see why.")
            }
            Some(DEVICE_EXIT) => Fault::new(
                "device_fault",
                "The GPU reports a fault.",
                "The model is started again. If it happens often, `journalctl -k | grep Xid` names the cause.",
            ),
            _ => Fault::new(
                "engine_crashed",
                format!("The engine ended unexpectedly with {text}."),
                "It is started again; open the log if it happens often.",
            )
            .with("end", text),
        };
        fault.with_evidence(evidence)
    }
}

/// Profiles that load alike.
fn key(profile: &Profile) -> String {
    let Profile { model, context, max_requests, kv, draft_head, draft_vocabulary, .. } = profile;
    format!("{model} {context:?} {max_requests} {kv} {draft_head} {draft_vocabulary:?}")
}

/// A fault as it reads once nothing is tried any more: the ones that promise another start say what to do instead.
fn given_up(fault: Fault) -> Fault {
    let next_step = match fault.code.as_str() {
        "engine_crashed" | "engine_stuck" | "engine_silent" => {
            "Open the log to see why, then press Start to try again."
        }
        code if is_device_fault(code) => {
            "Restart the machine, then press Start. `journalctl -k | grep Xid` names the cause."
        }
        _ => return fault,
    };
    Fault { next_step: next_step.into(), ..fault.with("given_up", true) }
}
