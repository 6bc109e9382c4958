//! Measures one row, or the rows that share a prompt: sends its requests, reads their streams, and works the figures out. Called by
//! the runner, which drops the future to cancel: that ends the requests, too.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use serde_json::{Value, json};

use super::{
    facts::Hunt,
    figures::{peak_tok_s, work_out},
    fill::{Context, Essay, Filled, SUBJECTS, exactly},
    link::{BenchError, Endpoint, NAME, Told, finished},
    suite::{LONG_PROMPT, TURNS},
    talk::Talk,
    types::{BenchPart, BenchRow, BenchShot, BenchTask, BenchTraffic},
};

/// Turns after which the depths are tried: the conversation holds code to copy from.
const TALK_BEFORE: usize = 3;
/// Tokens that a request of the warm-up writes.
const WARM_UP_TOKENS: u32 = 32;

/// What a run needs while it measures.
pub(crate) struct Bench<'a> {
    pub(crate) endpoint: &'a Endpoint,
    /// How often each is measured.
    pub(crate) repeats: u32,
    /// Makes every prompt of this run another one.
    pub(crate) seed: u64,
    /// Makes every prompt of these rows another one within the run.
    pub(crate) salt: u64,
    /// The engine's last finished request that is known.
    pub(crate) seen: u64,
    /// Requests sent so far.
    pub(crate) sent: u32,
}

/// Seconds that a token costs, from the warm-up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) prefill_s: f64,
    pub(crate) decode_s: f64,
}

impl Bench<'_> {
    /// Runs some requests whose figures count for nothing but the estimate of time.
    ///
    /// # Errors
    /// As for a row.
    pub(crate) async fn warm_up(&mut self, context: u32) -> Result<Pace, BenchError> {
        let prompt = (context / 4).clamp(128, 512);
        let mut pace = Pace { prefill_s: 0.0, decode_s: 0.0 };
        for round in 0..2 {
            let filled = self.essay(1_000_000 + round, prompt).await?;
            let (shot, _) = self.shoot(essay_request(&filled, WARM_UP_TOKENS, 0), 0, true).await?;
            let decoded = shot.output_tokens.saturating_sub(shot.first_tokens).max(1);
            pace = Pace {
                prefill_s: shot.ttft_s / f64::from(shot.prompt_tokens.max(1)),
                decode_s: (shot.last_s - shot.ttft_s).max(0.0) / f64::from(decoded),
            };
        }
        self.look().await;
        Ok(pace)
    }

    /// Measures rows that belong together: all of one prompt in the part `contexts`, otherwise one.
    ///
    /// # Errors
    /// The endpoint failed; the rows hold what came before.
    pub(crate) async fn measure(&mut self, rows: &mut [BenchRow]) -> Result<(), BenchError> {
        self.look().await;
        let Some(part) = rows.first().map(|row| row.part) else { return Ok(()) };
        let names = match part {
            BenchPart::Contexts => self.contexts(rows).await?,
            BenchPart::Prefill => self.prefill(&mut rows[0]).await?,
            BenchPart::Company => self.company(&mut rows[0]).await?,
            BenchPart::Depths => self.depths(&mut rows[0]).await?,
            BenchPart::Agent => self.talks(&mut rows[0]).await?,
            BenchPart::Facts => self.facts(&mut rows[0]).await?,
            BenchPart::Arena => self.arena(&mut rows[0]).await?,
        };
        let (records, disturbed) = self.look().await;
        for ((row, shot), number) in names.0 {
            if let (Some(shot), Some(record)) = (rows[row].shots.get_mut(shot), records.get(&self.id(number)))
            {
                let whole =
                    |counts: &[u64]| counts.iter().map(|n| u32::try_from(*n).unwrap_or(u32::MAX)).collect();
                shot.rounds = u32::try_from(record.rounds).ok();
                (shot.drafted, shot.accepted) = (whole(&record.drafted), whole(&record.accepted));
            }
        }
        for row in rows {
            row.disturbed = disturbed;
            work_out(row);
        }
        Ok(())
    }

    /// What the engine finished since the last look: what drafting did, by request, and whether others were served. An endpoint
    /// that does not tell knows neither.
    async fn look(&mut self) -> (HashMap<String, hearth_engine::status::Speculation>, bool) {
        let Ok(status) = self.endpoint.status(self.seen).await else { return Default::default() };
        self.seen = status.finished.last().map_or(self.seen, |last| last.seq);
        let (ours, disturbed) = finished(&status);
        (ours.into_iter().map(|one| (one.id.clone(), one.speculation.clone())).collect(), disturbed)
    }

    async fn contexts(&mut self, rows: &mut [BenchRow]) -> Result<Names, BenchError> {
        let mut names = Names::new();
        let prompt = rows[0].prompt.unwrap_or(1);
        let colds = if prompt >= LONG_PROMPT { 1 } else { self.repeats };
        for repeat in 0..colds {
            let filled = self.essay(u64::from(repeat), prompt).await?;
            for (index, row) in rows.iter_mut().enumerate() {
                // Behind a long prompt only the writing is repeated: the prompt is known by then.
                for again in 0..self.repeats.div_ceil(colds) {
                    if index == 0 && again == 0 {
                        let (shot, _) =
                            self.shoot(essay_request(&filled, row.output, repeat), repeat, true).await?;
                        names.note(index, row, shot, self.sent);
                    }
                    let number = repeat.max(again);
                    let (shot, _) =
                        self.shoot(essay_request(&filled, row.output, number), number, false).await?;
                    names.note(index, row, shot, self.sent);
                }
            }
        }
        Ok(names)
    }

    async fn prefill(&mut self, row: &mut BenchRow) -> Result<Names, BenchError> {
        let mut names = Names::new();
        for repeat in 0..self.repeats {
            let filled = self.essay(u64::from(repeat), row.prompt.unwrap_or(1)).await?;
            for cold in [true, false] {
                let (shot, _) = self.shoot(essay_request(&filled, row.output, repeat), repeat, cold).await?;
                names.note(0, row, shot, self.sent);
            }
        }
        Ok(names)
    }

    async fn company(&mut self, row: &mut BenchRow) -> Result<Names, BenchError> {
        let mut names = Names::new();
        let output = row.output;
        // The first step of a new width may record something; that belongs to no figure.
        for round in 0..=self.repeats {
            let mut requests = Vec::new();
            for client in 0..row.clients {
                let filled =
                    self.essay(u64::from(round) * 1000 + u64::from(client), row.prompt.unwrap_or(1)).await?;
                requests.push(essay_request(
                    &filled,
                    if round == 0 { 8.min(output) } else { output },
                    client,
                ));
            }
            let told = self.together(requests, round.saturating_sub(1), true).await?;
            if round > 0 {
                names.batch(row, told);
            }
        }
        Ok(names)
    }

    async fn depths(&mut self, row: &mut BenchRow) -> Result<Names, BenchError> {
        let mut names = Names::new();
        let depth = row.mtp_depth.clone().unwrap_or_default();
        self.salt = 0;
        for repeat in 0..self.repeats {
            // All depths continue the same prompts with the same seeds, so they write the same answers.
            let mut request = match row.traffic {
                BenchTraffic::Agent => {
                    Talk::after(row.traffic, &self.name(repeat), TALK_BEFORE).request(repeat)
                }
                _ => {
                    let filled = self.essay(u64::from(repeat), row.prompt.unwrap_or(1)).await?;
                    essay_request(&filled, row.output, repeat)
                }
            };
            request["mtp_depth"] = json!(depth);
            let (shot, _) = self.shoot(request, repeat, false).await?;
            names.note(0, row, shot, self.sent);
        }
        Ok(names)
    }

    async fn talks(&mut self, row: &mut BenchRow) -> Result<Names, BenchError> {
        let mut names = Names::new();
        for repeat in 0..self.repeats {
            let mut talk = Talk::begin(row.traffic, &format!("{}-{}", self.name(repeat), row.shots.len()));
            let mut turn = 0;
            while !talk.is_over() {
                let seed = repeat * TURNS + turn;
                let (shot, told) = self.shoot(talk.request(seed), repeat, turn == 0).await?;
                names.note(0, row, shot, self.sent);
                talk.heard(&told);
                turn += 1;
            }
        }
        Ok(names)
    }

    async fn facts(&mut self, row: &mut BenchRow) -> Result<Names, BenchError> {
        let mut names = Names::new();
        let hunt = Hunt { task: row.task.unwrap_or(BenchTask::Middle), seed: self.seed ^ self.salt };
        let filled =
            exactly(self.endpoint, &hunt, self.seed ^ self.salt ^ 0xfac7, row.prompt.unwrap_or(1)).await?;
        let body = json!({ "messages": filled.messages, "max_tokens": row.output, "temperature": 0 });
        let (shot, told) = self.shoot(body, 0, true).await?;
        names.note(0, row, shot, self.sent);
        row.score = Some(hunt.score(&told.text, filled.sentences));
        Ok(names)
    }

    /// A cell as llama-benchy measures it: all clients load their contexts, then all ask behind them.
    async fn arena(&mut self, row: &mut BenchRow) -> Result<Names, BenchError> {
        let mut names = Names::new();
        let (depth, prompt, output) = (row.depth_tokens, row.prompt.unwrap_or(1), row.output);
        for repeat in 0..self.repeats {
            let (mut loading, mut asking) = (Vec::new(), Vec::new());
            for client in 0..row.clients {
                let seed = self.seed
                    ^ self.salt
                    ^ (u64::from(repeat) * 1000 + u64::from(client) + 1).wrapping_mul(0x5851_f42d);
                let system = match depth {
                    0 => None,
                    depth => {
                        let frame = Context { system: None, has_context: true };
                        let filled = exactly(self.endpoint, &frame, seed, depth).await?;
                        loading.push(plain_request(&filled.messages, output, client));
                        filled.messages[0]["content"].as_str().map(str::to_owned)
                    }
                };
                let frame = Context { system: system.as_deref(), has_context: system.is_some() };
                let filled = exactly(self.endpoint, &frame, seed ^ 0xa5, depth + prompt).await?;
                asking.push(plain_request(&filled.messages, output, client));
            }
            if !loading.is_empty() {
                let mut told = self.together(loading, repeat, true).await?;
                told.iter_mut().for_each(|(shot, _, _)| shot.context_phase = true);
                for (shot, _, sent) in told {
                    names.note(0, row, shot, sent);
                }
            }
            let told = self.together(asking, repeat, depth == 0).await?;
            names.batch(row, told);
        }
        Ok(names)
    }

    /// A text of so many tokens with a wish behind it. The same number is the same text within a run.
    async fn essay(&self, number: u64, tokens: u32) -> Result<Filled, BenchError> {
        let subject = SUBJECTS[(number % SUBJECTS.len() as u64) as usize];
        let seed =
            self.seed ^ self.salt ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(tokens) << 32;
        exactly(self.endpoint, &Essay { subject }, seed, tokens).await
    }

    /// A name that no other run has.
    fn name(&self, repeat: u32) -> String {
        format!("{:x}-{repeat}", self.seed)
    }

    /// Sends one request.
    async fn shoot(&mut self, body: Value, repeat: u32, cold: bool) -> Result<(BenchShot, Told), BenchError> {
        self.sent += 1;
        let told = self.endpoint.chat(&self.id(self.sent), body).await?;
        let shot = shot(&told, repeat, cold, Duration::ZERO)?;
        Ok((shot, told))
    }

    /// Sends requests at once.
    async fn together(
        &mut self,
        bodies: Vec<Value>,
        repeat: u32,
        cold: bool,
    ) -> Result<Vec<(BenchShot, Told, u32)>, BenchError> {
        let first = self.sent + 1;
        self.sent += bodies.len() as u32;
        let (endpoint, begun) = (self.endpoint, Instant::now());
        let asked = bodies.into_iter().zip(first..).map(|(body, number)| {
            let id = self.id(number);
            async move {
                let since = begun.elapsed();
                let told = endpoint.chat(&id, body).await?;
                Ok::<_, BenchError>((shot(&told, repeat, cold, since)?, told, number))
            }
        });
        try_join_all(asked).await
    }

    fn id(&self, number: u32) -> String {
        format!("{NAME}{:x}-{number}", self.seed)
    }
}

/// Which request a shot was, so that the engine's word about it can be found.
struct Names(Vec<((usize, usize), u32)>);

impl Names {
    fn new() -> Names {
        Names(Vec::new())
    }

    fn note(&mut self, index: usize, row: &mut BenchRow, shot: BenchShot, sent: u32) {
        self.0.push(((index, row.shots.len()), sent));
        row.shots.push(shot);
    }

    /// The requests of clients side by side, with the peak of all.
    fn batch(&mut self, row: &mut BenchRow, told: Vec<(BenchShot, Told, u32)>) {
        let all: Vec<(f64, u32)> = told
            .iter()
            .flat_map(|(shot, told, _)| told.times.iter().map(|(at, tokens)| (shot.begun_s + at, *tokens)))
            .collect();
        row.peaks.extend(peak_tok_s(&all));
        for (shot, _, sent) in told {
            self.note(0, row, shot, sent);
        }
    }
}

/// What a client saw. An answer without a token was no answer.
fn shot(told: &Told, repeat: u32, cold: bool, begun: Duration) -> Result<BenchShot, BenchError> {
    let (Some(first), Some(last)) = (told.first_s, told.times.last()) else {
        return Err(BenchError::Answer("it wrote nothing".into()));
    };
    Ok(BenchShot {
        repeat,
        cold,
        context_phase: false,
        prompt_tokens: told.prompt_tokens,
        cached_tokens: told.cached_tokens,
        output_tokens: told.output_tokens,
        first_tokens: told.times.first().map_or(0, |(_, tokens)| *tokens),
        begun_s: begun.as_secs_f64(),
        ttft_s: first,
        last_s: last.0,
        peak_tok_s: peak_tok_s(&told.times),
        rounds: None,
        drafted: Vec::new(),
        accepted: Vec::new(),
    })
}

/// Free text of exactly so many tokens: an end is not allowed before, so the model goes on writing.
fn essay_request(filled: &Filled, output: u32, seed: u32) -> Value {
    plain_request(&filled.messages, output, seed)
}

fn plain_request(messages: &Value, output: u32, seed: u32) -> Value {
    json!({ "messages": messages, "max_tokens": output, "min_tokens": output, "seed": seed })
}
