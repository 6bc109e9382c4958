//! Refuses passes that the loaded model cannot run, before any of its state is touched.

use crate::ModelError;
use crate::options::{LoadOptions, PAGE_LEN};
use crate::spec::ModelSpec;
use hearth_kernels::ops::Pass;
use hearth_kernels::sample::is_id;

fn refuse(what: &'static str, expected: impl Into<String>, found: impl ToString) -> Result<(), ModelError> {
    Err(ModelError::Pass { what, expected: expected.into(), found: found.to_string() })
}

/// Checks a pass and its ids.
pub(crate) fn check(
    pass: &Pass,
    ids: &[u32],
    want: &[u32],
    spec: &ModelSpec,
    options: &LoadOptions,
) -> Result<(), ModelError> {
    let mut rows = 0usize;
    for (i, s) in pass.segments.iter().enumerate() {
        if s.first_row != rows {
            return refuse("first row of a segment", rows.to_string(), s.first_row);
        }
        if s.rows == 0 || s.rows > options.max_rows {
            return refuse("rows of a segment", format!("from 1 to {}", options.max_rows), s.rows);
        }
        rows += s.rows;
        let states = options.states();
        if let Some(slot) = std::iter::once(s.slot)
            .chain(s.snapshots.iter().map(|slot| *slot as usize))
            .find(|slot| *slot >= states)
        {
            return refuse("slot", format!("below {states}"), slot);
        }
        if pass.segments[..i].iter().any(|other| other.slot == s.slot) {
            return refuse("slot", "another for every segment", s.slot);
        }
        let end = s.position.saturating_add(s.rows);
        if end > options.context {
            return refuse("end of a segment", format!("at most the context, {}", options.context), end);
        }
        if s.pages.len() < end.div_ceil(PAGE_LEN) {
            return refuse(
                "pages of a segment",
                format!("at least {}", end.div_ceil(PAGE_LEN)),
                s.pages.len(),
            );
        }
        if let Some(page) = s.pages.iter().find(|page| **page as usize >= options.pages()) {
            return refuse("page", format!("below {}", options.pages()), page);
        }
    }
    if rows == 0 || rows > options.max_rows {
        return refuse("rows", format!("from 1 to {}", options.max_rows), rows);
    }
    if ids.len() != rows {
        return refuse("ids", format!("{rows}, one per row"), ids.len());
    }
    if let Some(id) = ids.iter().find(|id| !is_id(**id, spec.vocab)) {
        return refuse("id", format!("below {}", spec.vocab), id);
    }
    if let Some(row) = want.iter().find(|row| **row as usize >= rows) {
        return refuse("wanted row", format!("below {rows}"), row);
    }
    Ok(())
}
