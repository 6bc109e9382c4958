//! A request that holds a slot: its tokens, its place in the KV pages, its text, and the channel to its client.
//! Owned by the engine thread; `schedule` reads it, the engine's step advances it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use hearth_kernels::sample::{SampleRow, choose};
use tokio::sync::mpsc::Sender;

use crate::{
    depth::Acceptance,
    detokenise::Detokeniser,
    echo::Echo,
    grammar::Guide,
    logprobs::{Distribution, Logprobs},
    policy::{Reading, Writing},
    prefix::NodeId,
    queue::{Waiting, unix_ms},
    request::{Event, Finish, Request, Usage},
    sampler::Seen,
    status::{EngineRequest, Fault, FinishedRequest, RequestEnd, RequestPhase, Speculation},
    stop::StopStrings,
    tokenizer::Tokenizer,
};

/// How long a client may leave its events unread before its request is ended.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running request.
#[derive(Debug)]
pub struct Sequence {
    /// As it was submitted.
    pub request: Request,
    /// Recurrent-state slot.
    pub slot: usize,
    /// Its KV pages in order.
    pub pages: Vec<u32>,
    /// How many of them, from the first, belong to the tree of prefixes; the others are its own.
    pub shared: usize,
    /// The node of the last shared page.
    pub node: Option<NodeId>,
    /// Positions, ascending, at which reading pauses so that the state there is kept.
    pub marks: Vec<usize>,
    /// The state after the last page that its answer filled, and the position it belongs to.
    pub kept: Option<(usize, usize)>,
    /// True if a step of it failed: what it computed cannot be trusted.
    pub spoiled: bool,
    /// Prompt and answer.
    pub ids: Vec<u32>,
    /// Positions whose keys, values and state have been computed.
    pub computed: usize,
    /// Counted for the penalties.
    pub seen: Seen,
    /// Recurrent-state slots for the rows before the last one of a round; at least as many as drafts.
    pub lanes: Vec<usize>,
    /// What the next tokens are thought to be, perhaps as only the device knows them (`Sampled::id`).
    pub drafts: Vec<u32>,
    /// How well its drafts did lately.
    pub acceptance: Acceptance,
    /// True: they were copied from earlier text.
    pub echoed: bool,
    /// True: its text repeats itself by now, so that its next drafts should be copied.
    pub echoes: bool,
    /// Where its text repeats itself.
    pub echo: Echo,
    /// How well copied drafts did lately.
    pub echo_acceptance: Acceptance,
    /// How all did altogether.
    pub speculation: Speculation,
    /// Tokens of the prompt that were known when it first ran.
    cached: Option<usize>,
    /// Its place in the form that the answer must have.
    pub guide: Option<Guide>,
    limit: usize,
    events: Sender<Event>,
    detokeniser: Detokeniser,
    stop: StopStrings,
    arrived: Instant,
    arrived_ms: f64,
    admitted: Instant,
    /// When rows of it were computed last.
    last_read: Instant,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    blocked_since: Option<Instant>,
}

/// How a sequence ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// With an answer.
    Finished(Finish),
    /// The client went away.
    Cancelled,
    /// With a fault.
    Failed(Fault),
}

/// The last event of a request, not yet sent.
#[derive(Debug)]
pub struct Farewell {
    /// What is said.
    pub event: Event,
    /// To whom.
    pub events: Sender<Event>,
}

impl Farewell {
    /// Sends it. There is room: `Sequence::is_blocked` keeps a place free. A closed channel means that nobody listens.
    pub fn send(self) {
        let _ = self.events.try_send(self.event);
    }
}

impl Sequence {
    /// A request that leaves the queue; it has no slot and no pages yet.
    pub fn admit(waiting: Waiting) -> Sequence {
        let Waiting { request, limit, events, arrived, arrived_ms, .. } = waiting;
        Sequence {
            ids: request.prompt.clone(),
            seen: Seen::new(&request.prompt, &request.sampling),
            guide: request.constraint.as_ref().map(Guide::new),
            stop: StopStrings::new(request.stop.clone()),
            request,
            slot: 0,
            pages: Vec::new(),
            shared: 0,
            node: None,
            marks: Vec::new(),
            kept: None,
            spoiled: false,
            cached: None,
            computed: 0,
            lanes: Vec::new(),
            drafts: Vec::new(),
            acceptance: Acceptance::default(),
            echoed: false,
            echoes: false,
            echo: Echo::default(),
            echo_acceptance: Acceptance::default(),
            speculation: Speculation::default(),
            limit,
            events,
            detokeniser: Detokeniser::default(),
            arrived,
            arrived_ms,
            admitted: Instant::now(),
            last_read: Instant::now(),
            first_token: None,
            last_token: None,
            blocked_since: None,
        }
    }

    /// Tokens written.
    pub fn written(&self) -> usize {
        self.ids.len() - self.request.prompt.len()
    }

    /// Notes what is known of its text as it starts to run.
    pub fn begin(&mut self) {
        self.cached.get_or_insert(self.computed);
    }

    /// True while text is being read: the prompt (also while only its last row is missing), or after a pause all of it.
    pub fn in_prefill(&self) -> bool {
        self.written() == 0 || self.ids.len() > self.computed + 1
    }

    /// What the policy wants to know of it while it writes.
    pub fn writing(&self, rows: usize, now: Instant) -> Writing {
        let since = now.saturating_duration_since(self.last_token.unwrap_or(now)).as_secs_f64();
        Writing { rows, context: self.computed, since, priority: self.request.priority }
    }

    /// What the policy wants to know of it while it reads.
    pub fn reading(&self, now: Instant) -> Reading {
        let seconds = |from: Instant| now.saturating_duration_since(from).as_secs_f64();
        Reading {
            left: self.ids.len() - self.computed,
            waited: seconds(self.arrived),
            idle: seconds(self.last_read),
            priority: self.request.priority,
        }
    }

    /// Learns from a round: of `checked` drafts the first `accepted` were right.
    pub fn learn(&mut self, checked: usize, accepted: usize) {
        let acceptance = if self.echoed { &mut self.echo_acceptance } else { &mut self.acceptance };
        acceptance.record(checked, accepted);
        self.speculation.record(checked, accepted, self.echoed);
    }

    /// Rows it may read in one chunk: up to its next mark, or its end.
    pub fn readable(&self) -> usize {
        self.marks.first().copied().unwrap_or(self.ids.len()) - self.computed
    }

    /// Whether its next pass may be started before its next tokens, at most `unread`, are known: nothing but the tokens
    /// themselves depends on them, and the client has room for these, the next one and the end.
    pub fn may_run_ahead(&self, unread: usize) -> bool {
        self.guide.is_none()
            && !self.request.sampling.penalises()
            && self.request.logprobs.is_none()
            && self.events.capacity() >= unread + 2
            && self.must_end().is_none()
    }

    /// Whether so many tokens may reach the limit of the answer, or the length before which it does not end: how many they
    /// are decides then about the next pass.
    pub fn may_end_within(&self, tokens: usize) -> bool {
        self.written() + tokens >= self.limit || self.written() < self.request.min_tokens
    }

    /// True if the limit of the answer is reached with its next token.
    pub fn ends_with_next(&self) -> bool {
        self.written() + 1 >= self.limit
    }

    /// Whether its drafts may stay where the device chose them until they have been put to the test.
    pub fn may_draft_unseen(&self) -> bool {
        self.guide.is_none() && !self.request.sampling.penalises()
    }

    /// Learns what the drafts are that only the device knew; None: none could be chosen, so nothing behind it was drafted.
    pub fn settle_drafts(&mut self, known: &HashMap<u32, Option<u32>>) {
        for i in 0..self.drafts.len() {
            match known.get(&self.drafts[i]) {
                Some(Some(token)) => self.drafts[i] = *token,
                Some(None) => return self.drafts.truncate(i),
                None => {}
            }
        }
    }

    /// Tokens that may be drafted for the next round, with at most `unread` on their way: none beyond the limit of the
    /// answer, nor more than the client has room for beside the token that is certain and the end of the answer.
    pub fn room_for_drafts(&self, unread: usize) -> usize {
        let left = self.limit.saturating_sub(self.written() + unread + 1);
        left.min(self.events.capacity().saturating_sub(2 + unread))
    }

    /// The slots that get the state after each of `rows` rows: none for a single one, which stays where it is.
    pub fn snapshots(&self, rows: usize) -> Vec<u32> {
        if rows < 2 {
            return Vec::new();
        }
        self.lanes[..rows - 1].iter().chain([&self.slot]).map(|slot| *slot as u32).collect()
    }

    /// Of `rows` rows that were computed the first `valid` are the sequence's; the others followed a wrong draft. The
    /// state after the last valid one is where `snapshots` said.
    pub fn advance(&mut self, rows: usize, valid: usize) {
        self.last_read = Instant::now();
        self.computed += valid;
        if valid < rows {
            std::mem::swap(&mut self.slot, &mut self.lanes[valid - 1]);
        }
    }

    /// True if the client reads too slowly to take another token and the end of the answer. Such a request pauses; the
    /// others go on.
    pub fn is_blocked(&mut self) -> bool {
        // One place for the token and one for `Done`, so that sending never fails for want of room.
        if self.events.capacity() >= 2 {
            self.blocked_since = None;
            return false;
        }
        self.blocked_since.get_or_insert_with(Instant::now);
        true
    }

    /// Whether the sequence must end before its next row: its client went away or has read nothing for too long.
    pub fn must_end(&self) -> Option<Ended> {
        if self.events.is_closed() {
            return Some(Ended::Cancelled);
        }
        let fault = || {
            Fault::new(
                "client_too_slow",
                format!("The client has read nothing for {} seconds.", PATIENCE.as_secs()),
                "Read the stream faster, or ask for the answer without streaming.",
            )
            .with("seconds", PATIENCE.as_secs())
        };
        self.blocked_since.filter(|since| since.elapsed() > PATIENCE).map(|_| Ended::Failed(fault()))
    }

    /// Begins the masks of the rows behind each of the first `drafts` drafts, while the model computes those rows.
    pub fn prepare(&mut self, drafts: usize) {
        if let Some(guide) = &mut self.guide {
            guide.prepare(&self.drafts[..drafts]);
        }
    }

    /// Cuts the drafts at the first one that the form of the answer forbids.
    pub fn cut_drafts(&mut self) {
        if let Some(guide) = &mut self.guide {
            // A grammar that cannot be followed any further ends the request when its token is chosen.
            let allowed = guide.allowed_prefix(&self.drafts).unwrap_or(0);
            self.drafts.truncate(allowed);
        }
    }

    /// Waits for the masks of the rows that are to be sampled.
    pub fn await_masks(&mut self) -> Result<(), Fault> {
        self.guide.as_mut().map_or(Ok(()), Guide::await_masks)
    }

    /// How the token at `position` is to be chosen. `row`: how many of this round's drafts lie before it; `seen`: what was
    /// seen up to there.
    pub fn setting<'a>(
        &'a self,
        row: usize,
        position: usize,
        seen: &'a [(u32, u32)],
        tokenizer: &'a Tokenizer,
    ) -> SampleRow<'a> {
        let early = position - self.request.prompt.len() < self.request.min_tokens;
        let mut banned = if early { tokenizer.ends() } else { &[] };
        let mut allowed = None;
        if let Some(guide) = &self.guide {
            match guide.mask(row) {
                Some(mask) => {
                    allowed = Some(&mask.words[..]);
                    // A form that is complete ends the answer, however short it is.
                    banned = if mask.ends_only { &[] } else { banned };
                }
                // Reasoning may not be all there is when an answer of a form was asked for.
                None if guide.is_awaited() => banned = tokenizer.ends(),
                None => {}
            }
        }
        self.request.sampling.row(position, seen, banned, allowed)
    }

    /// How the draft for `position` is to be chosen: as the token itself, but for the form of the answer, which cuts drafts
    /// when they are there.
    pub fn draft_setting<'a>(&'a self, position: usize, tokenizer: &'a Tokenizer) -> SampleRow<'a> {
        let early = position - self.request.prompt.len() < self.request.min_tokens;
        let banned = if early { tokenizer.ends() } else { &[] };
        self.request.sampling.row(position, self.seen.tokens(), banned, None)
    }

    /// Chooses the token behind the first `row` of `drafts` here, by its logits, which are changed.
    pub fn choose(
        &self,
        logits: &mut [f32],
        row: usize,
        drafts: &[u32],
        tokenizer: &Tokenizer,
    ) -> (Option<u32>, Option<Box<Logprobs>>) {
        let tokens = tokenizer.len().min(logits.len());
        let distribution = self.request.logprobs.map(|top| (top, Distribution::of(logits, tokens)));
        let seen = self.seen.with(&drafts[..row.min(drafts.len())]);
        let setting = self.setting(row, self.ids.len() + row, &seen, tokenizer);
        let token = choose(&mut logits[..tokens], &setting);
        let logprobs = token.zip(distribution).map(|(token, (top, of))| Box::new(of.report(token, top)));
        (token, logprobs)
    }

    /// Takes in a sampled token: text, stop strings, limits. Sends the token unless it ends the answer.
    pub fn write(
        &mut self,
        id: u32,
        logprobs: Option<Box<Logprobs>>,
        tokenizer: &Tokenizer,
    ) -> Option<Ended> {
        let now = Instant::now();
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        self.ids.push(id);
        self.seen.write(id);
        if tokenizer.ends().contains(&id) && !self.request.ignore_end {
            return Some(Ended::Finished(Finish::Stop));
        }
        let released = self.stop.push(&self.detokeniser.push(tokenizer.bytes(id)));
        // A closed channel is noticed before the next step by `must_end`; room was checked by `is_blocked`.
        let _ = self.events.try_send(Event::Token { id, text: released.text, logprobs });
        let complete = match self.guide.as_mut().map(|guide| guide.advance(id)).transpose() {
            Ok(complete) => complete == Some(true),
            Err(fault) => return Some(Ended::Failed(fault)),
        };
        if released.stopped || complete {
            Some(Ended::Finished(Finish::Stop))
        } else if self.written() >= self.limit {
            Some(Ended::Finished(Finish::Length))
        } else {
            None
        }
    }

    /// The record for the history, and the last event, which goes out after the record is written: who has the answer
    /// must find it in the history.
    pub fn end(mut self, ended: Ended) -> (FinishedRequest, Option<Farewell>) {
        let cached = self.cached.unwrap_or(0);
        let usage = Usage { prompt: self.request.prompt.len(), cached, output: self.written() };
        let (finish, error, event) = match ended {
            Ended::Finished(finish) => {
                // A character that the limit cut off shows as U+FFFD; after a stop string nothing shows.
                let rest = self.stop.push(self.detokeniser.finish());
                let text = rest.text + &self.stop.finish();
                let end = match finish {
                    Finish::Stop => RequestEnd::Stop,
                    Finish::Length => RequestEnd::Length,
                };
                (end, None, Some(Event::Done { text, finish, usage }))
            }
            Ended::Cancelled => (RequestEnd::Cancelled, None, None),
            Ended::Failed(fault) => {
                let event = Event::Failed { fault: fault.clone(), usage };
                (RequestEnd::Error, Some(fault), Some(event))
            }
        };
        let between = self.first_token.zip(self.last_token).filter(|_| usage.output > 1);
        let record = FinishedRequest {
            seq: 0,
            id: self.request.id,
            kind: self.request.kind,
            prompt_tokens: usage.prompt as u32,
            cached_tokens: usage.cached as u32,
            speculation: self.speculation,
            output_tokens: usage.output as u32,
            queue_s: (self.admitted - self.arrived).as_secs_f64(),
            ttft_s: self.first_token.map(|t| (t - self.arrived).as_secs_f64()),
            decode_s: between.map(|(first, last)| (last - first).as_secs_f64()),
            finish,
            error,
            started_ms: self.arrived_ms,
            ended_ms: unix_ms(),
        };
        (record, event.map(|event| Farewell { event, events: self.events }))
    }

    /// For the status.
    pub fn describe(&self) -> EngineRequest {
        EngineRequest {
            id: self.request.id.clone(),
            phase: if self.in_prefill() { RequestPhase::Prefill } else { RequestPhase::Decode },
            prompt_tokens: self.request.prompt.len() as u32,
            prefilled_tokens: self.computed.min(self.request.prompt.len()) as u32,
            output_tokens: self.written() as u32,
            started_ms: self.arrived_ms,
        }
    }
}
