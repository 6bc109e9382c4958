//! Checks of a pass: what an op may rely on once `check` has returned.

use crate::ops::Pass;
use crate::{OpError, Result};

/// Refuses segments that leave gaps, are empty, or name a state slot that does not exist.
pub(crate) fn check_slots(op: &'static str, pass: &Pass, slots: usize) -> Result<()> {
    check_rows(op, pass)?;
    for (i, segment) in pass.segments.iter().enumerate() {
        if segment.slot >= slots {
            return Err(OpError::shape(op, "segment slot", format!("below {slots}"), segment.slot));
        }
        if pass.segments[..i].iter().any(|other| other.slot == segment.slot) {
            return Err(OpError::shape(
                op,
                "segment slot",
                "one segment per slot",
                format!("{} twice", segment.slot),
            ));
        }
    }
    Ok(())
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

/// Refuses segments that are empty or not in row order without gaps.
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
        next = next
            .checked_add(segment.rows)
            .ok_or_else(|| OpError::shape(op, "segment", "rows that fit in memory", segment.rows))?;
    }
    Ok(())
}
