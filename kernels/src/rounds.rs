//! Passes that go on from a round (draft + verify) of which only the device knows how many drafts were accepted: the engine
//! starts them before it has read the round's tokens, and [`crate::Ops::follow`] settles them where the tokens are.

use crate::ops::Pass;
use crate::sample::{CHOSEN, PLACES, accepted};
use crate::{OpError, Result};

/// Most drafts of a round.
pub const DRAFTS: usize = 5;

/// A segment that goes on from a round of its sequence: a token and `drafts` after it. Pass, ids and picks are told as if all
/// drafts were accepted; what was rejected is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follow {
    /// Number of the segment in its pass.
    pub segment: usize,
    /// What stands for the token that was chosen after the round's first row ([`crate::sample::Chosen::id`]); those of its
    /// other rows lie in the places behind.
    pub chosen: u32,
    /// The drafts that the round checked, as tokens or as ids that stand for them.
    pub drafts: Vec<u32>,
    /// What the segment is.
    pub kind: Following,
}

/// What goes on from a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Following {
    /// The round's own rows on their way through the MTP head, seeds by row. Rows behind the last valid one repeat its token
    /// and its seed, so that they ask for no experts of their own; what they leave in the cache is written again. `want`:
    /// the pick that names the last valid row.
    Head {
        /// Its place among the picks.
        want: Option<usize>,
    },
    /// A row of the MTP head behind the round. `seeded`: its seed is a row of the step before, which had the round's rows.
    Draft {
        /// Whether it is.
        seeded: bool,
    },
    /// The sequence's next round in the trunk; its first id is the token chosen after the accepted drafts.
    Trunk {
        /// Slots that hold the recurrent state after each row of the round before. The last is the segment's own; it changes
        /// places with the one after the last valid row.
        states: Vec<u32>,
    },
}

/// A pass that goes on from rounds, once their outcome is known.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The pass.
    pub pass: Pass,
    /// Token ids of its rows.
    pub ids: Vec<u32>,
    /// Rows that are gathered.
    pub picks: Vec<u32>,
    /// How many drafts were rejected, per [`Follow`].
    pub rejected: Vec<usize>,
}

impl Settled {
    /// What becomes of a pass; `token` knows what ids stand for, None if no token could be chosen. The follows fit the pass
    /// ([`Follow::check`]).
    pub fn of(
        pass: &Pass,
        ids: &[u32],
        picks: &[u32],
        follows: &[Follow],
        token: impl Fn(u32) -> Option<u32>,
    ) -> Settled {
        let (pass, ids, picks) = (pass.clone(), ids.to_vec(), picks.to_vec());
        let rejected = follows.iter().map(|follow| follow.rejected(&token)).collect();
        let mut settled = Settled { pass, ids, picks, rejected };
        for (follow, rejected) in follows.iter().zip(&settled.rejected) {
            follow.settle(*rejected, &mut settled.pass, &mut settled.ids, &mut settled.picks);
        }
        settled
    }
}

impl Follow {
    /// How many drafts were rejected; `token` knows what ids stand for, None if no token could be chosen.
    pub fn rejected(&self, token: impl Fn(u32) -> Option<u32>) -> usize {
        let rows = 0..self.drafts.len() as u32;
        let chosen: Vec<Option<u32>> = rows.map(|row| token(self.chosen + row)).collect();
        let drafts: Vec<u32> = self.drafts.iter().map_while(|draft| token(*draft)).collect();
        self.drafts.len() - accepted(&chosen, &drafts)
    }

    /// Takes back what was `rejected`: the definition that devices are held against.
    pub fn settle(&self, rejected: usize, pass: &mut Pass, ids: &mut [u32], picks: &mut [u32]) {
        let segment = &mut pass.segments[self.segment];
        let first = segment.first_row;
        match &self.kind {
            Following::Head { want } => {
                let last = first + segment.rows - 1 - rejected;
                for row in last + 1..first + segment.rows {
                    (ids[row], picks[row]) = (ids[last], picks[last]);
                }
                if let Some(want) = want {
                    picks[*want] -= rejected as u32;
                }
            }
            Following::Draft { seeded } => {
                segment.position -= rejected;
                picks[first] -= if *seeded { rejected as u32 } else { 0 };
            }
            Following::Trunk { states } => {
                segment.position -= rejected;
                ids[first] -= rejected as u32;
                let (own, other) = (segment.slot as u32, states[self.drafts.len() - rejected]);
                segment.slot = other as usize;
                for slot in &mut segment.snapshots {
                    if *slot == own {
                        *slot = other;
                    } else if *slot == other {
                        *slot = own;
                    }
                }
            }
        }
    }

    /// Refuses what does not fit `pass`, `ids` and `picks`: nothing may be written beside them.
    ///
    /// # Errors
    /// [`OpError::Shape`] with what is wrong.
    pub fn check(&self, op: &'static str, pass: &Pass, ids: &[u32], picks: &[u32]) -> Result<()> {
        let refuse = |what, expected: String, found: String| Err(OpError::shape(op, what, expected, found));
        let count = self.drafts.len();
        let Some(segment) = pass.segments.get(self.segment) else {
            let expected = format!("below {}", pass.segments.len());
            return refuse("segment", expected, self.segment.to_string());
        };
        if count > DRAFTS {
            return refuse("drafts", format!("at most {DRAFTS}"), count.to_string());
        }
        let last = self.chosen.saturating_add(count as u32);
        if !(CHOSEN..CHOSEN + PLACES as u32).contains(&self.chosen) || last >= CHOSEN + PLACES as u32 {
            return refuse("chosen", "places of chosen tokens".into(), format!("{} to {last}", self.chosen));
        }
        let first = segment.first_row;
        let behind = !matches!(self.kind, Following::Head { .. });
        if behind && segment.position < count {
            return refuse("position", format!("at least {count}"), segment.position.to_string());
        }
        match &self.kind {
            Following::Head { want } => {
                if segment.rows != count + 1 || picks.len() < first + segment.rows {
                    let expected = format!("{} with a seed each", count + 1);
                    return refuse("rows", expected, segment.rows.to_string());
                }
                let last = (first + count) as u32;
                if want.is_some_and(|want| picks.get(want) != Some(&last)) {
                    return refuse("wanted row", format!("{last}, the round's last"), format!("{want:?}"));
                }
            }
            Following::Draft { seeded } => {
                if segment.rows != 1 || (*seeded && picks.get(first).is_none_or(|seed| *seed < count as u32))
                {
                    return refuse(
                        "rows",
                        "one, seeded by the round's last".into(),
                        segment.rows.to_string(),
                    );
                }
            }
            Following::Trunk { states } => {
                if states.len() != count + 1 || states.last() != Some(&(segment.slot as u32)) {
                    let expected = format!("{} slots, the last {}", count + 1, segment.slot);
                    return refuse("states", expected, format!("{states:?}"));
                }
                if ids.get(first) != Some(&last) {
                    return refuse("first id", last.to_string(), format!("{:?}", ids.get(first)));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Segment;

    fn follow(kind: Following) -> Follow {
        Follow { segment: 0, chosen: CHOSEN + 7, drafts: vec![40, CHOSEN + 3, 42], kind }
    }

    fn pass(rows: usize, snapshots: &[u32]) -> Pass {
        let segment = Segment {
            slot: 9,
            first_row: 0,
            rows,
            position: 20,
            pages: vec![],
            snapshots: snapshots.to_vec(),
        };
        Pass { segments: vec![segment], exact: false }
    }

    /// Drafts 40, 41, 42; chosen after the round's rows as given.
    fn rejected(chosen: [Option<u32>; 3], middle: Option<u32>) -> usize {
        follow(Following::Draft { seeded: false }).rejected(|id| match id.checked_sub(CHOSEN) {
            None => Some(id),
            Some(3) => middle,
            Some(place) => chosen[place as usize - 7],
        })
    }

    #[test]
    fn drafts_are_rejected_from_the_first_that_is_not_what_was_chosen() {
        let all = [Some(40), Some(41), Some(42)];
        assert_eq!(rejected(all, Some(41)), 0);
        assert_eq!(rejected(all, Some(9)), 2);
        assert_eq!(rejected([Some(1), Some(41), Some(42)], Some(41)), 3);
        // A token that could not be chosen is no draft, and agrees with none.
        assert_eq!(rejected(all, None), 2);
        assert_eq!(rejected([Some(40), None, Some(42)], Some(41)), 2);
        assert_eq!(rejected([Some(40), None, Some(42)], None), 2);
    }

    #[test]
    fn the_next_round_begins_behind_the_accepted_drafts_with_the_state_of_the_last_of_them() {
        let next = follow(Following::Trunk { states: vec![4, 5, 6, 9] });
        let mut pass = pass(3, &[4, 5, 9]);
        let mut ids = [CHOSEN + 10, 1, 2];
        assert!(next.check("follow", &pass, &ids, &[]).is_ok());
        next.settle(2, &mut pass, &mut ids, &mut []);
        let segment = &pass.segments[0];
        assert_eq!((segment.position, segment.slot, &segment.snapshots[..]), (18, 5, &[4, 9, 5][..]));
        assert_eq!(ids, [CHOSEN + 8, 1, 2]);
    }

    #[test]
    fn rows_of_the_head_behind_the_last_valid_one_repeat_it() {
        let head = follow(Following::Head { want: Some(4) });
        let mut pass = pass(4, &[]);
        let (mut ids, mut picks) = ([7, 8, 9, 10], [0, 1, 2, 3, 3]);
        assert!(head.check("follow", &pass, &ids, &picks).is_ok());
        head.settle(1, &mut pass, &mut ids, &mut picks);
        assert_eq!((ids, picks, pass.segments[0].position), ([7, 8, 9, 9], [0, 1, 2, 2, 2], 20));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let good = follow(Following::Trunk { states: vec![4, 5, 6, 9] });
        let ids = [CHOSEN + 10];
        let refused = |follow: Follow| follow.check("follow", &pass(1, &[]), &ids, &[]).is_err();
        assert!(!refused(good.clone()));
        assert!(refused(Follow { segment: 1, ..good.clone() }));
        assert!(refused(Follow { chosen: 7, ..good.clone() }));
        assert!(refused(Follow { chosen: CHOSEN + PLACES as u32 - 2, ..good.clone() }));
        assert!(refused(Follow { drafts: vec![1; DRAFTS + 1], ..good.clone() }));
        assert!(refused(Follow { kind: Following::Trunk { states: vec![9] }, ..good.clone() }));
        assert!(refused(Follow { kind: Following::Head { want: None }, ..good.clone() }));
        assert!(refused(Follow { kind: Following::Draft { seeded: true }, ..good.clone() }));
        assert!(good.check("follow", &pass(1, &[]), &[5], &[]).is_err());
    }
}
