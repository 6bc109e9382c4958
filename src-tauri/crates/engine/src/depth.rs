//! How many tokens are drafted for each request in a round: fixed, or chosen from how many drafts were accepted lately and
//! from what a row and a draft cost. The choice never changes a token, only how long it takes (see `step`).

use std::str::FromStr;

/// Most tokens drafted in a round.
pub const MOST: usize = 5;

/// How deep to draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Depth {
    /// As it pays.
    #[default]
    Auto,
    /// Always so many, 0 to [`MOST`].
    Fixed(usize),
}

impl Depth {
    /// The largest depth it may choose.
    pub fn most(self) -> usize {
        match self {
            Depth::Auto => MOST,
            Depth::Fixed(depth) => depth.min(MOST),
        }
    }
}

impl FromStr for Depth {
    type Err = String;

    fn from_str(text: &str) -> Result<Depth, String> {
        if text == "auto" {
            return Ok(Depth::Auto);
        }
        let depth = text.parse().ok().filter(|depth| *depth <= MOST);
        depth.map(Depth::Fixed).ok_or_else(|| format!("expected auto or a number from 0 to {MOST}"))
    }
}

impl std::fmt::Display for Depth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Depth::Auto => f.write_str("auto"),
            Depth::Fixed(depth) => write!(f, "{depth}"),
        }
    }
}

/// Rounds after which an acceptance counts half as much.
const HALF_LIFE: f64 = 12.0;
/// Share of drafts that is expected to be accepted before any was checked.
const HOPE: f64 = 0.6;
/// Rounds that a request rests after drafting did not pay, before it is tried again.
const REST: u32 = 32;
/// Rounds of a try.
const TRY: u32 = 4;

/// How likely each drafted position is to be accepted if those before it are.
#[derive(Debug, Clone)]
pub struct Acceptance {
    rates: [f64; MOST],
    /// Rounds left without drafts.
    resting: u32,
    /// Rounds left in which one token is drafted whatever it costs.
    trying: u32,
}

impl Default for Acceptance {
    fn default() -> Acceptance {
        Acceptance { rates: [HOPE; MOST], resting: 0, trying: TRY }
    }
}

impl Acceptance {
    /// Learns from a round: of `checked` drafts in order the first `accepted` were right; the one after them, if it was
    /// checked, was wrong, and those behind that were never put to the test.
    pub fn record(&mut self, checked: usize, accepted: usize) {
        let step = 1.0 - 0.5f64.powf(1.0 / HALF_LIFE);
        for (i, rate) in self.rates.iter_mut().enumerate().take(checked.min(accepted + 1)) {
            *rate += step * (f64::from(u8::from(i < accepted)) - *rate);
        }
    }

    /// Probability that the first so many drafts are all accepted, for 1, 2, ...
    fn survival(&self) -> [f64; MOST] {
        let mut alive = 1.0;
        self.rates.map(|rate| {
            alive *= rate;
            alive
        })
    }

    /// Whether the request drafts nothing for now. Counts nothing.
    pub fn is_resting(&self) -> bool {
        self.resting > 0
    }

    /// Whether the request drafts nothing for now; then not even its hidden states are kept up to date. Counts a round.
    pub fn rests(&mut self) -> bool {
        if self.resting > 0 {
            self.resting -= 1;
            if self.resting == 0 {
                self.trying = TRY;
            }
            return true;
        }
        false
    }
}

/// Requests that get depths of their own.
const APART: usize = 4;

/// Seconds that a round's parts cost.
#[derive(Debug, Clone, Copy)]
pub struct Price {
    /// A step of as many rows as there are requests.
    pub step: f64,
    /// One more row in it.
    pub row: f64,
    /// One step of the MTP head for all requests.
    pub draft: f64,
}

/// The depths of the next round of requests that leave it open, one per request, each at most its `room`. They make the most
/// tokens per second:
///
///   tokens  = requests + sum over drafts of the probability that they and all before them are accepted
///   seconds = step + row * drafts + draft * deepest
///
/// Drafts are added from the most to the least likely as long as that raises tokens / seconds, for every deepest depth. More
/// than [`APART`] requests get one depth together: a backend that records its steps has a record for every combination.
pub fn choose(requests: &mut [(&mut Acceptance, usize)], price: Price) -> Vec<usize> {
    let mut best = (requests.len() as f64 / price.step.max(1e-9), vec![0; requests.len()]);
    for deepest in 1..=MOST {
        if requests.len() > APART {
            let depths: Vec<usize> = requests.iter().map(|(_, room)| deepest.min(*room)).collect();
            let alive = requests
                .iter()
                .zip(&depths)
                .map(|((a, _), depth)| a.survival()[..*depth].iter().sum::<f64>());
            let tokens = requests.len() as f64 + alive.sum::<f64>();
            let drafts = depths.iter().sum::<usize>() as f64;
            let seconds = price.step + price.row * drafts + price.draft * deepest as f64;
            let rate = tokens / seconds.max(1e-9);
            if rate > best.0 {
                best = (rate, depths);
            }
            continue;
        }
        let mut drafts: Vec<(f64, usize)> = Vec::new();
        for (i, (acceptance, room)) in requests.iter().enumerate() {
            let alive = acceptance.survival();
            drafts.extend(alive[..deepest.min(*room)].iter().map(|alive| (*alive, i)));
        }
        // Probabilities fall along a request, so its shallower drafts come first.
        drafts.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (mut tokens, mut seconds) = (requests.len() as f64, price.step + price.draft * deepest as f64);
        let mut depths = vec![0; requests.len()];
        for (alive, request) in drafts {
            if (tokens + alive) / (seconds + price.row).max(1e-9) < tokens / seconds.max(1e-9) {
                break;
            }
            tokens += alive;
            seconds += price.row;
            depths[request] += 1;
            let rate = tokens / seconds.max(1e-9);
            if rate > best.0 {
                best = (rate, depths.clone());
            }
        }
    }
    let mut depths = best.1;
    for ((acceptance, room), depth) in requests.iter_mut().zip(&mut depths) {
        if acceptance.trying > 0 && *room > 0 {
            acceptance.trying -= 1;
            *depth = (*depth).max(1);
        } else if *depth == 0 && *room > 0 {
            acceptance.resting = REST;
        }
    }
    depths
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After many rounds in which the first `accepted` of `checked` drafts were right.
    fn used_to(checked: usize, accepted: usize) -> Acceptance {
        let mut acceptance = Acceptance { trying: 0, ..Acceptance::default() };
        (0..200).for_each(|_| acceptance.record(checked, accepted));
        acceptance
    }

    const SPARK: Price = Price { step: 0.0174, row: 0.0022, draft: 0.002 };

    fn one(acceptance: &mut Acceptance, price: Price) -> usize {
        choose(&mut [(acceptance, MOST)], price)[0]
    }

    #[test]
    fn sure_drafts_are_made_as_deep_as_they_go_and_hopeless_ones_not_at_all() {
        assert_eq!(one(&mut used_to(5, 5), SPARK), 5);
        assert_eq!(one(&mut used_to(1, 0), SPARK), 0);
        let mut two = used_to(3, 2);
        assert_eq!(one(&mut two, SPARK), 2);
    }

    #[test]
    fn a_row_that_costs_a_whole_step_pays_only_if_it_is_nearly_certain() {
        let dear = Price { step: 0.01, row: 0.01, draft: 0.001 };
        assert_eq!(one(&mut Acceptance { trying: 0, ..Acceptance::default() }, dear), 0);
        let free = Price { step: 0.01, row: 0.0, draft: 0.0 };
        assert_eq!(one(&mut Acceptance { trying: 0, ..Acceptance::default() }, free), 5);
    }

    #[test]
    fn a_request_that_rests_is_tried_again_after_a_while() {
        let mut bad = used_to(1, 0);
        assert_eq!(one(&mut bad, SPARK), 0);
        for _ in 0..REST {
            assert!(bad.rests());
        }
        assert!(!bad.rests());
        for _ in 0..TRY {
            assert_eq!(one(&mut bad, SPARK), 1);
            bad.record(1, 1);
        }
        // Four right ones in a row are not yet enough to pay.
        assert!(bad.rates[0] > 0.15);
    }

    #[test]
    fn in_company_the_likelier_request_gets_the_drafts() {
        let (mut good, mut bad) = (used_to(5, 5), used_to(1, 0));
        let depths = choose(&mut [(&mut bad, MOST), (&mut good, MOST)], SPARK);
        assert_eq!(depths[0], 0);
        assert!(depths[1] >= 3, "{depths:?}");
    }

    #[test]
    fn many_requests_get_one_depth() {
        let mut many: Vec<Acceptance> = (0..6).map(|i| used_to(5, i % 4)).collect();
        let mut requests: Vec<_> = many.iter_mut().map(|acceptance| (acceptance, MOST)).collect();
        let free = Price { step: 0.01, row: 0.0001, draft: 0.0 };
        let depths = choose(&mut requests, free);
        assert!(depths[0] > 0 && depths.iter().all(|depth| *depth == depths[0]), "{depths:?}");
    }

    #[test]
    fn no_request_gets_more_than_it_has_room_for() {
        let mut good = used_to(5, 5);
        for room in 0..=MOST {
            let depths = choose(&mut [(&mut good, room)], SPARK);
            assert!(depths[0] <= room, "{depths:?}");
        }
    }

    #[test]
    fn what_was_never_put_to_the_test_is_not_learnt_from() {
        let mut acceptance = Acceptance::default();
        (0..50).for_each(|_| acceptance.record(3, 0));
        assert!(acceptance.rates[0] < 0.1);
        assert_eq!(acceptance.rates[1], HOPE);
    }

    #[test]
    fn a_depth_is_read_from_what_a_person_types() {
        assert_eq!("auto".parse(), Ok(Depth::Auto));
        assert_eq!("3".parse(), Ok(Depth::Fixed(3)));
        for wrong in ["6", "-1", "", "Auto", "1.5"] {
            assert!(wrong.parse::<Depth>().is_err(), "{wrong}");
        }
        assert_eq!(format!("{} {}", Depth::Auto, Depth::Fixed(0)), "auto 0");
    }
}
