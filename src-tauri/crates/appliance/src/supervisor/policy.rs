//! How long, how often: the times and counts of the supervisor in one place, and the decision after a failure.

use std::time::Duration;

use hearth_engine::status::Fault;

/// Times and counts.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Most attempts that fail before readiness with the same fault.
    pub attempts: u32,
    /// Pause before the first restart; doubled each time.
    pub first_pause: Duration,
    /// Longest pause.
    pub longest_pause: Duration,
    /// An engine that was ready this long starts with a clean slate when it crashes.
    pub steady_after: Duration,
    /// Time to finish running requests on stop.
    pub drain: Duration,
    /// Between readings of the status while something happens.
    pub busy_poll: Duration,
    /// Between readings when nothing does.
    pub idle_poll: Duration,
    /// One reading may take this long.
    pub poll_timeout: Duration,
    /// An engine that answers nothing this long is stuck.
    pub silence: Duration,
    /// A serving engine whose heartbeat is older is stuck. A step over a long prompt on a slow processor takes seconds.
    pub heartbeat: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            attempts: 3,
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(30),
            steady_after: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            busy_poll: Duration::from_millis(200),
            idle_poll: Duration::from_secs(1),
            poll_timeout: Duration::from_secs(3),
            silence: Duration::from_secs(60),
            heartbeat: Duration::from_secs(120),
        }
    }
}

/// The failures in a row, as far as they decide what comes next.
#[derive(Debug, Default)]
pub(super) struct Failures {
    crashes: u32,
    same_fault: u32,
    last_code: Option<String>,
}

/// What to do after a failure.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// Try again.
    Retry {
        /// 1-based number of the coming attempt among those with this fault.
        attempt: u32,
        /// Wait this long first.
        pause: Duration,
    },
    /// Leave it to the person.
    GiveUp,
}

impl Failures {
    /// Counts an engine that ended by itself. `ready_for`: how long it had been ready; null if it never was.
    pub(super) fn count(&mut self, policy: &Policy, fault: &Fault, ready_for: Option<Duration>) -> Next {
        if ready_for.is_some_and(|time| time >= policy.steady_after) {
            *self = Failures::default();
        }
        self.crashes += 1;
        let same = self.last_code.as_deref() == Some(&fault.code);
        self.same_fault = if ready_for.is_some() { 0 } else { 1 + if same { self.same_fault } else { 0 } };
        self.last_code = Some(fault.code.clone());
        if self.same_fault >= policy.attempts {
            return Next::GiveUp;
        }
        let doubled = policy.first_pause.saturating_mul(1 << (self.crashes - 1).min(16));
        let attempt = if ready_for.is_some() { self.crashes } else { self.same_fault + 1 };
        Next::Retry { attempt, pause: doubled.min(policy.longest_pause) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: &str) -> Fault {
        Fault::new(code, "It failed.", "Try again.")
    }

    #[test]
    fn the_same_fault_before_readiness_is_tried_three_times_and_no_more() {
        let (policy, mut failures) = (Policy::default(), Failures::default());
        assert!(matches!(failures.count(&policy, &fault("a"), None), Next::Retry { attempt: 2, .. }));
        assert!(matches!(failures.count(&policy, &fault("a"), None), Next::Retry { attempt: 3, .. }));
        assert_eq!(failures.count(&policy, &fault("a"), None), Next::GiveUp);
    }

    #[test]
    fn another_fault_begins_a_new_count() {
        let (policy, mut failures) = (Policy::default(), Failures::default());
        for code in ["a", "a", "b", "b"] {
            assert!(matches!(failures.count(&policy, &fault(code), None), Next::Retry { .. }), "{code}");
        }
        assert_eq!(failures.count(&policy, &fault("b"), None), Next::GiveUp);
    }

    #[test]
    fn an_engine_that_had_served_is_always_started_again_with_a_growing_pause() {
        let (policy, mut failures) = (Policy::default(), Failures::default());
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            let Next::Retry { pause, .. } =
                failures.count(&policy, &fault("a"), Some(Duration::from_secs(1)))
            else {
                panic!("gave up on an engine that had served");
            };
            assert!(pause >= last && pause <= policy.longest_pause);
            last = pause;
        }
        assert_eq!(last, policy.longest_pause);
        let after_an_hour = failures.count(&policy, &fault("a"), Some(Duration::from_secs(3600)));
        assert_eq!(after_an_hour, Next::Retry { attempt: 1, pause: policy.first_pause });
    }
}
