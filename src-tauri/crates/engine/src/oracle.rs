//! A runner for tests that computes nothing and remembers everything: which token is in which place of which page, and
//! which tokens every recurrent state has seen. It panics when a row looks back on anything but its own text. After token
//! n it expects n + 1, unless told otherwise.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use hearth_kernels::{ops::Pass, rounds::Follow, sample::SampleRow};
use hearth_model::{KeptSizes, Seed};

use crate::{
    runner::{Given, Limits, OnHost, Runner, Sampled},
    status::EngineMemory,
};

pub(crate) const LIMITS: Limits = Limits {
    context: 64,
    slots: 3,
    states: 3,
    max_rows: 8,
    decode_rows: None,
    page_len: 4,
    pages: 48,
    mtp: false,
    exact: false,
    ahead: false,
};

/// Numbers per row of logits; the byte tokenizer knows 259 of them.
pub(crate) const VOCAB: u32 = 300;

/// What ran in one step: per segment slot, position and rows.
pub(crate) type Step = Vec<(usize, usize, usize)>;

/// The logits of a row whose last token is the argument.
pub(crate) type Expect = fn(u32) -> Vec<f32>;

#[derive(Clone)]
pub(crate) struct Oracle {
    pub steps: Arc<Mutex<Vec<Step>>>,
    /// Tokens that each recurrent state has seen.
    pub states: HashMap<usize, Vec<u32>>,
    /// Tokens whose keys and values are in the pages.
    pub pages: HashMap<(u32, usize), u32>,
    /// Fails when a row has this id.
    pub poison: Option<u32>,
    pub limits: Limits,
    /// What the model expects after a token.
    pub expect: Expect,
    /// What its MTP head expects.
    pub guess: Expect,
    /// Tokens after which the head drafts; of its last step, one per row.
    pub drafted: Vec<u32>,
    /// Where the rows of the trunk's last pass stand: the first page of their text, and their position.
    pub trunk_rows: Vec<(u32, usize)>,
    /// The same of the head's last step.
    pub head_rows: Vec<(u32, usize)>,
    /// Tokens it has chosen.
    pub sampled: usize,
    /// Rows of the trunk that went on from rounds nobody had read.
    pub followed: usize,
    pub host: OnHost,
}

/// The next number is likely, the others are not.
pub(crate) fn next(id: u32) -> Vec<f32> {
    let favourite = (id + 1) % 250;
    (0..VOCAB).map(|id| if id == favourite { 3.0 } else { (id % 11) as f32 * 0.1 }).collect()
}

/// Right except after every fourth number.
pub(crate) fn mostly_next(id: u32) -> Vec<f32> {
    if id.is_multiple_of(4) { next(id + 1) } else { next(id) }
}

/// Always wrong.
pub(crate) fn never_next(id: u32) -> Vec<f32> {
    next(id + 1)
}

impl Default for Oracle {
    fn default() -> Oracle {
        Oracle {
            steps: Arc::default(),
            states: HashMap::new(),
            pages: HashMap::new(),
            poison: None,
            limits: LIMITS,
            expect: next,
            guess: next,
            drafted: Vec::new(),
            trunk_rows: Vec::new(),
            head_rows: Vec::new(),
            sampled: 0,
            followed: 0,
            host: OnHost::default(),
        }
    }
}

fn tokens(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Where the rows of a pass stand.
fn places(pass: &Pass) -> Vec<(u32, usize)> {
    let rows = |s: &hearth_kernels::ops::Segment| {
        let (text, first) = (s.pages[0], s.position);
        (0..s.rows).map(move |i| (text, first + i))
    };
    pass.segments.iter().flat_map(rows).collect()
}

impl Oracle {
    fn check(&self, pass: &Pass, ids: &[u32]) {
        assert_eq!(pass.rows(), ids.len());
        assert!(ids.len() <= self.limits.max_rows, "too many rows");
        for (i, segment) in pass.segments.iter().enumerate() {
            let end = segment.position + segment.rows;
            assert!(end <= self.limits.context && segment.pages.len() * self.limits.page_len >= end);
            assert!(segment.slot < self.limits.states);
            // Pages that are written belong to one request alone.
            let written = &segment.pages[segment.position / self.limits.page_len..];
            for (j, other) in pass.segments.iter().enumerate() {
                assert!(i == j || !written.iter().any(|page| other.pages.contains(page)), "a page of two");
                let states = |s: &hearth_kernels::ops::Segment| -> Vec<usize> {
                    s.snapshots.iter().map(|s| *s as usize).chain([s.slot]).collect()
                };
                assert!(
                    i == j || !states(segment).iter().any(|s| states(other).contains(s)),
                    "a state of two"
                );
            }
        }
    }

    fn check_follows(&self, pass: &Pass, ids: &[u32], picks: &[u32], follows: &[Follow]) {
        assert!(follows.is_empty() || self.limits.ahead);
        for follow in follows {
            follow.check("follow", pass, ids, picks).expect("it fits the pass");
        }
    }

    fn place(&self, pages: &[u32], position: usize) -> (u32, usize) {
        (pages[position / self.limits.page_len], position % self.limits.page_len)
    }
}

impl Runner for Oracle {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn run(&mut self, pass: &Pass, ids: &[u32], want: &[u32], follows: &[Follow]) -> Result<(), String> {
        self.check_follows(pass, ids, want, follows);
        self.followed += follows.len();
        let (pass, ids, _) = &self.host.settled(pass, ids, &[], follows);
        self.check(pass, ids);
        if ids.iter().any(|id| Some(*id) == self.poison) {
            return Err("poisoned".into());
        }
        for segment in &pass.segments {
            let mut seen = match segment.position {
                0 => Vec::new(),
                _ => self.states.get(&segment.slot).cloned().expect("a state that somebody computed"),
            };
            assert_eq!(seen.len(), segment.position, "the state is not that of the position before");
            for (position, id) in seen.iter().enumerate() {
                let kept = self.pages.get(&self.place(&segment.pages, position));
                assert_eq!(kept, Some(id), "keys and values of another text at {position}");
            }
            for i in 0..segment.rows {
                let id = ids[segment.first_row + i];
                seen.push(id);
                let place = self.place(&segment.pages, segment.position + i);
                self.pages.insert(place, id);
                if let Some(slot) = segment.snapshots.get(i) {
                    self.states.insert(*slot as usize, seen.clone());
                }
            }
            if segment.snapshots.is_empty() {
                self.states.insert(segment.slot, seen);
            }
        }
        self.trunk_rows = places(pass);
        self.steps
            .lock()
            .expect("one thread")
            .push(pass.segments.iter().map(|s| (s.slot, s.position, s.rows)).collect());
        self.host.keep(want.iter().map(|row| (self.expect)(ids[*row as usize])).collect());
        Ok(())
    }

    fn draft(
        &mut self,
        pass: &Pass,
        next_ids: &[u32],
        seed: Seed<'_>,
        want: &[u32],
        follows: &[Follow],
    ) -> Result<(), String> {
        assert!(self.limits.mtp);
        let (seeds, before) = match seed {
            Seed::Forward(rows) => (rows, std::mem::take(&mut self.trunk_rows)),
            Seed::Draft(rows) => (rows, std::mem::take(&mut self.head_rows)),
        };
        let picks = [seeds, want].concat();
        self.check_follows(pass, next_ids, &picks, follows);
        let (pass, next_ids, picks) = &self.host.settled(pass, next_ids, &picks, follows);
        self.check(pass, next_ids);
        let (seeds, want) = picks.split_at(next_ids.len());
        assert_eq!(seeds.len(), next_ids.len());
        self.head_rows = places(pass);
        let ahead = usize::from(matches!(seed, Seed::Draft(_)));
        for (row, (text, position)) in self.head_rows.iter().enumerate() {
            // Rows that repeat the one before them are nobody's.
            if row > 0 && seeds[row] == seeds[row - 1] {
                assert_eq!(next_ids[row], next_ids[row - 1]);
            } else {
                let expected = (*text, *position - ahead);
                assert_eq!(before[seeds[row] as usize], expected, "the hidden state of another row");
            }
        }
        if ahead == 0 {
            self.trunk_rows = before;
        }
        self.drafted = next_ids.clone();
        self.host.keep(want.iter().map(|row| (self.guess)(next_ids[*row as usize])).collect());
        Ok(())
    }

    fn sample(&mut self, tokens: usize, rows: &[Option<SampleRow<'_>>]) -> Result<Sampled, String> {
        self.sampled += rows.iter().flatten().count();
        Ok(self.host.sample(tokens, rows))
    }

    fn read(&mut self, sampled: Sampled) -> Result<Vec<Given>, String> {
        Ok(OnHost::read(sampled))
    }

    fn copy_state(&mut self, from: usize, to: usize) -> Result<(), String> {
        let state = self.states.get(&from).cloned().ok_or("a state that nobody computed")?;
        self.states.insert(to, state);
        Ok(())
    }

    fn kept_sizes(&self) -> KeptSizes {
        KeptSizes { page: 4 * self.limits.page_len, state: vec![4, 4 * self.limits.context] }
    }

    fn read_page(&mut self, page: u32) -> Result<Vec<u8>, String> {
        let token = |place| self.pages.get(&(page, place)).copied().unwrap_or(u32::MAX);
        Ok((0..self.limits.page_len).flat_map(|place| token(place).to_le_bytes()).collect())
    }

    fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<(), String> {
        assert_eq!(bytes.len(), self.kept_sizes().page);
        self.pages.extend(tokens(bytes).enumerate().map(|(place, token)| ((page, place), token)));
        Ok(())
    }

    fn read_state(&mut self, slot: usize, part: usize) -> Result<Vec<u8>, String> {
        let seen = self.states.get(&slot).ok_or("a state that nobody computed")?;
        if part == 0 {
            return Ok((seen.len() as u32).to_le_bytes().to_vec());
        }
        let mut padded = seen.clone();
        padded.resize(self.limits.context, 0);
        Ok(padded.into_iter().flat_map(u32::to_le_bytes).collect())
    }

    fn write_state(&mut self, slot: usize, part: usize, bytes: &[u8]) -> Result<(), String> {
        assert_eq!(bytes.len(), self.kept_sizes().state[part]);
        if part == 0 {
            let seen = tokens(bytes).next().map_or(0, |seen| seen as usize);
            self.states.insert(slot, vec![u32::MAX; seen]);
        } else if let Some(state) = self.states.get_mut(&slot) {
            let seen = state.len();
            *state = tokens(bytes).take(seen).collect();
        }
        Ok(())
    }

    fn bytes_per_step(&self, rows: usize, _context: usize) -> u64 {
        1000 + rows as u64
    }

    fn memory(&self) -> EngineMemory {
        EngineMemory { weights: 1.0, kv: 480.0, kv_used: 0.0, kv_cached: 0.0, state: 2.0, scratch: 3.0 }
    }
}
