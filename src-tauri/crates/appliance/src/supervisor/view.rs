//! What the supervisor shows to the gateway (can a request go through, and where) and to the dashboard (what is going on).

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use hearth_engine::status::{EnginePhase, EngineStatus, Fault};

use crate::control::types::{EngineState, Profile};

/// A running engine's address. The generation grows with every process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Unix socket.
    pub socket: PathBuf,
    /// 1-based count of engine processes of this appliance.
    pub generation: u64,
}

/// The supervisor's state.
#[derive(Debug, Clone)]
pub enum Life {
    /// Nobody asked for an engine.
    Stopped,
    /// A process runs and is not ready yet.
    Loading {
        /// Since when.
        since: Instant,
        /// How long the last load of this profile took.
        last: Option<Duration>,
    },
    /// Requests are answered.
    Serving {
        /// Unix milliseconds.
        since_ms: f64,
    },
    /// Running requests are finished.
    Stopping {
        /// When they are cut off.
        deadline: Instant,
    },
    /// Waiting before the next attempt.
    Restarting {
        /// 1-based.
        attempt: u32,
        /// When it is made.
        until: Instant,
        /// What happened.
        fault: Fault,
    },
    /// Given up.
    Failed {
        /// Why.
        fault: Fault,
    },
}

/// Whether a request can go through.
#[derive(Debug, Clone, PartialEq)]
pub enum Reach {
    /// Send it there.
    Open(Target),
    /// Wait.
    Soon,
    /// Refuse it; the fault says why.
    Shut(Fault),
}

/// Everything the supervisor shows.
#[derive(Debug, Clone)]
pub struct EngineView {
    /// What it does.
    pub life: Life,
    /// What is, or would be, started.
    pub profile: Profile,
    /// The process, if there is one.
    pub target: Option<Target>,
    /// The engine's last word; null without a process.
    pub status: Option<Arc<EngineStatus>>,
    /// Most attempts for one fault (for display).
    pub attempts: u32,
    /// Crashes since the appliance started.
    pub crashes: u64,
    /// Those of them that were faults of the GPU.
    pub device_faults: u64,
    /// What could not be started, and why, when the profile that served before runs again.
    pub returned: Option<Box<(Profile, Fault)>>,
    /// How long a serving engine has not answered, once that is unusual.
    pub silent: Option<Duration>,
}

impl EngineView {
    pub(crate) fn stopped(profile: Profile) -> EngineView {
        EngineView {
            life: Life::Stopped,
            profile,
            target: None,
            status: None,
            attempts: 0,
            crashes: 0,
            device_faults: 0,
            returned: None,
            silent: None,
        }
    }

    /// Whether a request can go through now.
    pub fn reach(&self) -> Reach {
        match (&self.life, &self.target) {
            (Life::Serving { .. }, Some(target)) => Reach::Open(target.clone()),
            (Life::Loading { .. } | Life::Restarting { .. } | Life::Serving { .. }, _) => Reach::Soon,
            (Life::Stopping { .. }, _) => Reach::Shut(Fault::new(
                "engine_stopping",
                "The model is being stopped.",
                "Start it again in the Hearth window, then retry.",
            )),
            (Life::Stopped, _) => Reach::Shut(Fault::new(
                "engine_stopped",
                "No model is running.",
                "Press Start in the Hearth window, or run `hearth up --start`.",
            )),
            (Life::Failed { fault }, _) => Reach::Shut(fault.clone()),
        }
    }

    /// True while something moves: then readings are taken often.
    pub fn busy(&self) -> bool {
        match self.life {
            Life::Loading { .. } | Life::Stopping { .. } | Life::Restarting { .. } => true,
            Life::Serving { .. } => self.status.as_ref().is_some_and(|s| s.running + s.queued > 0),
            Life::Stopped | Life::Failed { .. } => false,
        }
    }

    /// The state in the words of the dashboard.
    pub fn state(&self, now: Instant) -> EngineState {
        let left = |until: Instant| until.saturating_duration_since(now).as_secs_f64();
        match &self.life {
            Life::Stopped => EngineState::Stopped,
            Life::Loading { since, last } => {
                let spent = now.saturating_duration_since(*since).as_secs_f64();
                let seconds_left = last.map(|last| (last.as_secs_f64() - spent).max(0.0));
                match self.status.as_ref().map(|status| &status.phase) {
                    Some(EnginePhase::Loading { stage, index, count, fraction }) => EngineState::Loading {
                        stage: stage.clone(),
                        index: *index,
                        count: *count,
                        fraction: *fraction,
                        seconds_left,
                    },
                    _ => EngineState::Loading {
                        stage: "start process".into(),
                        index: 0,
                        count: 1,
                        fraction: 0.0,
                        seconds_left,
                    },
                }
            }
            Life::Serving { since_ms } => match self.silent {
                Some(silent) => EngineState::Degraded {
                    since_ms: *since_ms,
                    fault: Fault::new(
                        "engine_silent",
                        format!("The engine has not answered for {} s.", silent.as_secs()),
                        "Wait: it is ended and started again if it stays silent. Or stop it now.",
                    )
                    .with("seconds", silent.as_secs()),
                },
                None => EngineState::Serving { since_ms: *since_ms, prefill: self.prefill() },
            },
            Life::Stopping { deadline } => EngineState::Stopping {
                running: self.status.as_ref().map_or(0, |status| status.running + status.queued),
                seconds_left: left(*deadline),
            },
            Life::Restarting { attempt, until, fault } => EngineState::Restarting {
                attempt: *attempt,
                of: self.attempts,
                seconds_left: left(*until),
                fault: fault.clone(),
            },
            Life::Failed { fault } => EngineState::Error { fault: fault.clone() },
        }
    }

    /// Share of the prompts read, over the requests in prefill; null if none is.
    fn prefill(&self) -> Option<f64> {
        use hearth_engine::status::RequestPhase::Prefill;
        let reading = self.status.as_ref()?.active.iter().filter(|request| request.phase == Prefill);
        let (read, all) = reading.fold((0.0, 0.0), |(read, all), request| {
            (read + f64::from(request.prefilled_tokens), all + f64::from(request.prompt_tokens))
        });
        (all > 0.0).then(|| (read / all).clamp(0.0, 1.0))
    }
}

/// Unix milliseconds now.
pub(crate) fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_millis() as f64)
}
