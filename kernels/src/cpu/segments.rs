//! Checks of a pass: what an op may rely on once `check` has returned.

use std::collections::HashMap;

use crate::ops::Pass;
use crate::{OpError, Result};

/// Refuses segments that leave gaps, are empty, or name a state slot that does not exist or that another one names.
pub(crate) fn check_slots(op: &'static str, pass: &Pass, slots: usize) -> Result<()> {
    check_rows(op, pass)?;
    // Which segment named a slot, and whether as a snapshot.
    let mut named: HashMap<usize, (usize, bool)> = HashMap::new();
    for (i, segment) in pass.segments.iter().enumerate() {
        let kept = segment.snapshots.iter().map(|slot| (*slot as usize, true));
        for (slot, snapshot) in std::iter::once((segment.slot, false)).chain(kept) {
            let what = if snapshot { "snapshot slot" } else { "segment slot" };
            if slot >= slots {
                return Err(OpError::shape(op, what, format!("below {slots}"), slot));
            }
            // A snapshot may replace the state that its own segment started from.
            let before = named.insert(slot, (i, snapshot));
            if before.is_some_and(|before| before != (i, false)) {
                return Err(OpError::shape(op, what, "one segment per slot", format!("{slot} twice")));
            }
        }
    }
    Ok(())
}

/// Consecutive rows that take the state of slot `from` (nothing, at position 0) and leave theirs in `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub from: usize,
    pub to: usize,
    pub first_row: usize,
    pub rows: usize,
    pub position: usize,
}

impl Run {
    /// Brings the state to where the rows will change it. `states` holds `size` numbers per slot.
    pub fn enter<'a>(&self, states: &'a mut [f32], size: usize) -> &'a mut [f32] {
        if self.position > 0 && self.from != self.to {
            states.copy_within(self.from * size..(self.from + 1) * size, self.to * size);
        }
        let state = &mut states[self.to * size..(self.to + 1) * size];
        if self.position == 0 {
            state.fill(0.0);
        }
        state
    }
}

/// The runs of a checked pass, in order: a segment with snapshots is one run per row.
pub(crate) fn runs(pass: &Pass) -> impl Iterator<Item = Run> {
    pass.segments.iter().flat_map(|segment| {
        let whole = segment.snapshots.is_empty();
        (0..if whole { 1 } else { segment.rows }).map(move |i| {
            let slot = |i: usize| segment.snapshots.get(i).map_or(segment.slot, |slot| *slot as usize);
            Run {
                from: if i == 0 { segment.slot } else { slot(i - 1) },
                to: slot(i),
                first_row: segment.first_row + i,
                rows: if whole { segment.rows } else { 1 },
                position: segment.position + i,
            }
        })
    })
}

/// Refuses segments whose positions are not covered by existing pages of `page_len` positions.
pub(crate) fn check_pages(op: &'static str, pass: &Pass, pages: usize, page_len: usize) -> Result<()> {
    check_rows(op, pass)?;
    for segment in &pass.segments {
        let end = segment.position.saturating_add(segment.rows);
        let held = segment.pages.len().saturating_mul(page_len);
        if held < end {
            return Err(OpError::shape(op, "pages", format!("room for {end} positions"), format!("{held}")));
        }
        if let Some(page) = segment.pages.iter().find(|page| **page as usize >= pages) {
            return Err(OpError::shape(op, "page", format!("below {pages}"), page));
        }
    }
    Ok(())
}

/// Refuses segments that are empty, not in row order without gaps, or with snapshots for only some of the rows.
fn check_rows(op: &'static str, pass: &Pass) -> Result<()> {
    let mut next = 0usize;
    for segment in &pass.segments {
        if segment.first_row != next || segment.rows == 0 {
            return Err(OpError::shape(
                op,
                "segment",
                format!("at least one row from row {next} on"),
                format!("{} rows from row {}", segment.rows, segment.first_row),
            ));
        }
        if !segment.snapshots.is_empty() && segment.snapshots.len() != segment.rows {
            return Err(OpError::shape(
                op,
                "snapshots",
                format!("none, or one for each of {} rows", segment.rows),
                segment.snapshots.len(),
            ));
        }
        next = next
            .checked_add(segment.rows)
            .ok_or_else(|| OpError::shape(op, "segment", "rows that fit in memory", segment.rows))?;
    }
    Ok(())
}
