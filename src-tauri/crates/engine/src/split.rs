//! Cuts a step into passes for backends whose prefill rounds otherwise than their decode: a row that writes must not be
//! computed with a prompt's arithmetic only because a prompt is read in the same step. Used by `load`'s runner.

use hearth_kernels::ops::Pass;

/// A part of a step: a pass of its own, and which ids and wanted rows are its.
#[derive(Debug)]
pub struct Part {
    /// Its segments, rows counted from zero.
    pub pass: Pass,
    /// Its rows in the step.
    pub rows: std::ops::Range<usize>,
    /// Its wanted rows, counted from zero.
    pub want: Vec<u32>,
}

/// The parts of `pass`, in order: as many segments together as have at most `most` rows, longer ones alone.
pub fn parts(pass: &Pass, want: &[u32], most: usize) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for segment in &pass.segments {
        let first = segment.first_row;
        let joins = |part: &Part| part.rows.len() + segment.rows <= most;
        if !parts.last().is_some_and(joins) {
            let pass = Pass { segments: Vec::new(), exact: pass.exact };
            parts.push(Part { pass, rows: first..first, want: Vec::new() });
        }
        let part = parts.last_mut().expect("one was just made sure of");
        let mut segment = segment.clone();
        segment.first_row = part.rows.len();
        part.rows.end += segment.rows;
        part.pass.segments.push(segment);
    }
    for part in &mut parts {
        let of_part = want.iter().filter(|row| part.rows.contains(&(**row as usize)));
        part.want = of_part.map(|row| row - part.rows.start as u32).collect();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_kernels::ops::Segment;

    fn pass(rows: &[usize]) -> Pass {
        let mut first_row = 0;
        let segments = rows.iter().enumerate().map(|(slot, &rows)| {
            let segment =
                Segment { slot, first_row, rows, position: 9, pages: vec![slot as u32], snapshots: vec![] };
            first_row += rows;
            segment
        });
        Pass { segments: segments.collect(), exact: false }
    }

    #[test]
    fn writers_stay_together_and_a_prompt_is_read_apart() {
        let parts = parts(&pass(&[1, 1, 1, 300]), &[0, 1, 2, 302], 16);
        let cut: Vec<_> = parts.iter().map(|part| (part.rows.clone(), part.want.clone())).collect();
        assert_eq!(cut, [(0..3, vec![0, 1, 2]), (3..303, vec![299])]);
        assert_eq!(parts[1].pass.segments[0].first_row, 0);
        assert_eq!(parts[1].pass.segments[0].slot, 3);
    }

    #[test]
    fn more_writers_than_fit_go_in_several_passes_and_a_short_rest_of_a_prompt_joins_them() {
        let rows = |rows: &[usize]| {
            let wanted: Vec<u32> = Vec::new();
            parts(&pass(rows), &wanted, 16).iter().map(|part| part.rows.len()).collect::<Vec<_>>()
        };
        assert_eq!(rows(&[1; 40]), [16, 16, 8]);
        assert_eq!(rows(&[1, 1, 5]), [7]);
        assert_eq!(rows(&[1, 1, 15]), [2, 15]);
        assert_eq!(rows(&[17]), [17]);
        assert_eq!(rows(&[]), [0usize; 0]);
    }
}
