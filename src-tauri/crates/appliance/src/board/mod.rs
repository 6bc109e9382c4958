//! Puts everything together, several times a second when something happens and once a second when not, and publishes it as one
//! snapshot. It also writes the history. The control API reads what is published here.

mod compose;
mod energy;
mod memory;
mod meter;
mod sensors;

use std::{
    mem::{Discriminant, discriminant},
    sync::Arc,
    time::{Duration, Instant},
};

use hearth_engine::status::{FinishedRequest, RequestEnd};
use hearth_monitor::Host;
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use compose::{Present, Recent};
pub(crate) use energy::Spent;
pub(crate) use memory::reserve;
use meter::Meter;
use sensors::{Sensors, Wanted};

use crate::{
    control::types::{
        Endpoint, EngineState, HistoryEvent, ModelCard, Notice, RequestRecord, Settings, Snapshot,
    },
    history::{History, Sample},
    models,
    supervisor::{Ended, EngineView, Life, Supervisor, now_ms},
};

/// Between snapshots while something happens.
const BUSY: Duration = Duration::from_millis(250);
/// Between samples of the charts, and snapshots while nothing happens.
const IDLE: Duration = Duration::from_secs(1);
/// A tick that comes this much too early counts: the snapshot before was published a moment after its own tick.
const SLACK: Duration = Duration::from_millis(20);
/// A prompt from this length on is marked in the charts: it explains what comes after it.
const LONG_PROMPT: u32 = 32 * 1024;
/// A model's files are looked at again this often, in case they came or went.
const CARD_AGE: Duration = Duration::from_secs(10);

/// What the board needs.
pub(crate) struct BoardOptions {
    pub supervisor: Supervisor,
    pub history: Arc<History>,
    pub settings: watch::Receiver<Settings>,
    pub ended: mpsc::Receiver<Ended>,
    pub endpoint: Endpoint,
    pub notices: Vec<Notice>,
    /// Measured read bandwidth, bytes per second; comes later, once.
    pub roof: watch::Receiver<Option<f64>>,
}

/// The published side.
#[derive(Clone)]
pub(crate) struct Board {
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub requests: broadcast::Sender<RequestRecord>,
    pub history: Arc<History>,
}

impl Board {
    pub(crate) fn start(options: BoardOptions) -> Board {
        let mut keeper = Keeper::new(options);
        let (publish, snapshot) = watch::channel(Arc::new(keeper.snapshot()));
        let (requests, _) = broadcast::channel(256);
        let board = Board { snapshot, requests: requests.clone(), history: keeper.options.history.clone() };
        tokio::spawn(async move { keeper.run(publish, requests).await });
        board
    }
}

struct Keeper {
    options: BoardOptions,
    view: watch::Receiver<EngineView>,
    meter: Meter,
    host: Host,
    sensors: Sensors,
    recent: Recent,
    card: Option<(String, Instant, Option<ModelCard>)>,
    started: Instant,
    life: Discriminant<Life>,
    /// Code of what is wrong while serving.
    complaint: Option<String>,
    began_with: Settings,
}

impl Keeper {
    fn new(options: BoardOptions) -> Keeper {
        let view = options.supervisor.view();
        let life = discriminant(&view.borrow().life);
        let began_with = options.settings.borrow().clone();
        Keeper {
            view,
            meter: Meter::default(),
            host: Host::read(),
            sensors: Sensors::open(),
            recent: Recent::default(),
            card: None,
            started: Instant::now(),
            life,
            complaint: None,
            began_with,
            options,
        }
    }

    async fn run(
        &mut self,
        publish: watch::Sender<Arc<Snapshot>>,
        requests: broadcast::Sender<RequestRecord>,
    ) {
        let mut tick = interval(BUSY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut sampled, mut published) = (Instant::now(), Instant::now());
        loop {
            let mut at_once = false;
            tokio::select! {
                _ = tick.tick() => {}
                changed = self.view.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    at_once = self.note_life();
                }
                changed = self.options.settings.changed() => at_once = changed.is_ok(),
                Some(ended) = self.options.ended.recv() => {
                    let record = self.options.history.add(record(&ended)).await;
                    self.recent.add(record.ttft_s);
                    self.note_long(&record);
                    let _ = requests.send(record);
                    at_once = true;
                }
            }
            let sample_due = sampled.elapsed() + SLACK >= IDLE;
            let busy = self.view.borrow().busy();
            let due = at_once || sample_due || (busy && published.elapsed() + SLACK >= BUSY);
            if !due {
                continue;
            }
            if sample_due {
                let wanted = self.wanted(requests.receiver_count() > 0);
                if let Some(spent) = self.sensors.read(Instant::now(), wanted) {
                    self.options.history.spend(now_ms(), spent);
                }
            }
            let snapshot = self.snapshot();
            if sample_due {
                sampled = Instant::now();
                self.note_complaint(&snapshot.state);
                self.options.history.sample(sample(&snapshot));
            }
            published = Instant::now();
            publish.send_replace(Arc::new(snapshot));
        }
    }

    /// Marks starts, stops and crashes; true if the engine's state changed its kind.
    fn note_life(&mut self) -> bool {
        let (life, profile) = {
            let view = self.view.borrow_and_update();
            (view.life.clone(), view.profile.model.clone())
        };
        if discriminant(&life) == self.life {
            return false;
        }
        self.life = discriminant(&life);
        let (kind, text) = match life {
            Life::Serving { .. } => ("started", profile),
            Life::Stopped => ("stopped", profile),
            Life::Restarting { fault, .. } | Life::Failed { fault } => ("crashed", fault.message),
            Life::Loading { .. } | Life::Stopping { .. } => return true,
        };
        self.options.history.mark(HistoryEvent { t_ms: now_ms(), kind: kind.into(), text });
        true
    }

    /// What the sensors are asked for.
    fn wanted(&self, watched: bool) -> Wanted {
        let view = self.view.borrow();
        let model = view.status.as_ref().and_then(|status| status.model.as_ref());
        let computing = view.busy() && model.is_some_and(|model| model.device == "cuda");
        Wanted { engine: view.status.as_ref().map(|status| status.pid), computing, watched }
    }

    /// Marks when something begins to be wrong while serving.
    fn note_complaint(&mut self, state: &EngineState) {
        let complaint = match state {
            EngineState::Degraded { fault, .. } => Some(fault.code.clone()),
            _ => None,
        };
        if complaint == self.complaint {
            return;
        }
        if let Some(code) = &complaint {
            let text = code.replace('_', " ");
            self.options.history.mark(HistoryEvent { t_ms: now_ms(), kind: "degraded".into(), text });
        }
        self.complaint = complaint;
    }

    /// Marks a long prompt where it came.
    fn note_long(&self, record: &RequestRecord) {
        if let Some(tokens) = record.prompt_tokens.filter(|tokens| *tokens >= LONG_PROMPT) {
            let text = format!("{}K", tokens / 1024);
            self.options.history.mark(HistoryEvent {
                t_ms: record.started_ms,
                kind: "long_prompt".into(),
                text,
            });
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        let view = self.view.borrow().clone();
        match (&view.target, &view.status) {
            (Some(target), Some(status)) => {
                self.meter.push(Instant::now(), target.generation, &status.counters)
            }
            _ => self.meter.clear(),
        }
        let settings = self.options.settings.borrow().clone();
        // What runs is shown while it runs; else what would be started.
        let profile = match view.life {
            Life::Stopped => settings.profile.clone(),
            _ => view.profile.clone(),
        };
        let card = self.card(&profile.model);
        let capped = self.sensors.held_by_supply();
        let engine = view.status.as_ref().map(|status| status.pid);
        Present {
            view: &view,
            settings: &settings,
            began_with: &self.began_with,
            profile,
            card,
            rates: self.meter.rates(),
            recent: &self.recent,
            host: &self.host,
            gpu: self.sensors.gpu(),
            cpu: self.sensors.cpu(),
            bus_share: self.sensors.bus_share(),
            engine_on_gpu: self.sensors.gpu_memory_of(engine),
            largest: self.sensors.largest(),
            capped,
            endpoint: &self.options.endpoint,
            notices: &self.options.notices,
            roof: *self.options.roof.borrow(),
            uptime: self.started.elapsed(),
        }
        .snapshot()
    }

    fn card(&mut self, model: &str) -> Option<ModelCard> {
        if let Some((name, at, card)) = &self.card
            && name == model
            && at.elapsed() < CARD_AGE
        {
            return card.clone();
        }
        let card = models::card(model).ok();
        self.card = Some((model.into(), Instant::now(), card.clone()));
        card
    }
}

fn sample(snapshot: &Snapshot) -> Sample {
    let parts = &snapshot.memory.parts;
    let (gpu, cpu) = (snapshot.machine.gpu.as_ref(), snapshot.machine.cpu_now.as_ref());
    let in_use =
        parts.iter().filter(|part| part.kind != "free" && part.kind != "cache").map(|part| part.bytes);
    Sample {
        t_ms: snapshot.time_ms,
        decode_tok_s: snapshot.throughput.decode_tok_s,
        prefill_tok_s: snapshot.throughput.prefill_tok_s,
        bandwidth_gb_s: snapshot.bandwidth.gb_s,
        memory_bytes: snapshot.memory.total.map(|_| in_use.sum()),
        power_w: gpu.and_then(|gpu| gpu.power_w),
        temperature_c: gpu.map_or(cpu.and_then(|cpu| cpu.temperature_c), |gpu| gpu.temperature_c),
        clock_mhz: gpu.map_or(cpu.and_then(|cpu| cpu.clock_mhz), |gpu| gpu.sm_clock_mhz),
        tokens_per_round: snapshot.drafts.as_ref().and_then(|drafts| drafts.tokens_per_round),
    }
}

fn record(ended: &Ended) -> RequestRecord {
    let FinishedRequest { id, kind, prompt_tokens, cached_tokens, output_tokens, .. } = ended.request.clone();
    let request = &ended.request;
    // The first token belongs to the prompt's time; decode is the tokens after it.
    let after_first = f64::from(output_tokens.saturating_sub(1));
    let failed_early = request.error.is_some() && prompt_tokens == 0;
    RequestRecord {
        row: 0.0,
        id,
        kind: kind.name().into(),
        model: ended.model.clone(),
        started_ms: request.started_ms,
        total_s: ((request.ended_ms - request.started_ms) / 1000.0).max(0.0),
        prompt_tokens: (!failed_early).then_some(prompt_tokens),
        cached_tokens: (!failed_early).then_some(cached_tokens),
        output_tokens: (request.finish != RequestEnd::Refused).then_some(output_tokens),
        queue_s: (!failed_early).then_some(request.queue_s),
        ttft_s: request.ttft_s,
        decode_tok_s: request.decode_s.filter(|s| *s > 0.0 && after_first > 0.0).map(|s| after_first / s),
        finish: match request.finish {
            RequestEnd::Stop => "stop",
            RequestEnd::Length => "length",
            RequestEnd::Cancelled => "cancelled",
            RequestEnd::Error => "error",
            RequestEnd::Refused => "refused",
        }
        .into(),
        error: request.error.as_ref().map(|fault| fault.message.clone()),
        error_code: request.error.as_ref().map(|fault| fault.code.clone()),
    }
}
