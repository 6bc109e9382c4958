//! Cuts a step into parts for backends whose prefill rounds otherwise than their decode: a row that writes must not be
//! computed with a prompt's arithmetic only because a prompt is read in the same step. Used by `step`.

use crate::schedule::Batch;

/// The parts of `batch`, in order: as many segments together as have at most `most` rows, longer ones alone. None: all
/// rows are computed alike, in one part.
pub fn parts(batch: Batch, most: Option<usize>) -> Vec<Batch> {
    let Some(most) = most else { return vec![batch] };
    let mut parts: Vec<Batch> = Vec::new();
    for (i, segment) in batch.pass.segments.iter().enumerate() {
        let joins = |part: &Batch| part.ids.len() + segment.rows <= most;
        if !parts.last().is_some_and(joins) {
            parts.push(Batch::new(batch.pass.exact));
        }
        parts.last_mut().expect("one was just made sure of").take_over(&batch, i);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Member;
    use hearth_kernels::ops::Segment;

    /// Writers with as many rows as given, all wanted, then a prompt of which the last row is wanted.
    fn batch(writers: &[usize], prompt: usize) -> Batch {
        let mut batch = Batch::new(false);
        let rows = writers.iter().map(|rows| (*rows, true)).chain((prompt > 0).then_some((prompt, false)));
        for (index, (rows, writes)) in rows.enumerate() {
            let first_row = batch.ids.len();
            batch.ids.extend((first_row..first_row + rows).map(|row| row as u32 + 100));
            batch.pass.segments.push(Segment {
                slot: index,
                first_row,
                rows,
                position: 9,
                pages: vec![index as u32],
                snapshots: vec![],
            });
            let first = batch.want.len();
            let last = first_row + rows;
            batch.want.extend((if writes { first_row } else { last - 1 }..last).map(|row| row as u32));
            batch.members.push(Member { index, writes, wanted: first..batch.want.len() });
        }
        batch
    }

    #[test]
    fn writers_stay_together_and_a_prompt_is_read_apart() {
        let parts = parts(batch(&[1, 3, 1], 300), Some(16));
        let cut: Vec<_> = parts.iter().map(|part| (part.ids.len(), part.want.clone())).collect();
        assert_eq!(cut, [(5, vec![0, 1, 2, 3, 4]), (300, vec![299])]);
        assert_eq!(parts[0].members[1], Member { index: 1, writes: true, wanted: 1..4 });
        assert_eq!(parts[1].members, [Member { index: 3, writes: false, wanted: 0..1 }]);
        assert_eq!((parts[1].pass.segments[0].first_row, parts[1].pass.segments[0].slot), (0, 3));
        assert_eq!((parts[0].ids[4], parts[1].ids[0]), (104, 105));
    }

    #[test]
    fn more_writers_than_fit_go_in_several_passes_and_a_short_rest_of_a_prompt_joins_them() {
        let rows = |writers: &[usize], prompt| {
            parts(batch(writers, prompt), Some(16)).iter().map(|part| part.ids.len()).collect::<Vec<_>>()
        };
        assert_eq!(rows(&[1; 40], 0), [16, 16, 8]);
        assert_eq!(rows(&[4; 5], 0), [16, 4]);
        assert_eq!(rows(&[1, 1], 5), [7]);
        assert_eq!(rows(&[1, 1], 15), [2, 15]);
        assert_eq!(rows(&[], 17), [17]);
        assert_eq!(parts(batch(&[1; 40], 9), None).len(), 1);
    }
}
