//! Two runs side by side: every figure that both have, its change in percent, and whether the change is more than what repeats differ
//! by anyway. Called by the control API and by `hearth bench compare`.

use super::{
    figures::of,
    types::{
        BenchComparison, BenchConditionChange, BenchDifference, BenchFigureName, BenchRow, BenchRowState,
        BenchRun,
    },
};

/// Figures in the order in which they are shown.
const NAMES: [BenchFigureName; 6] = [
    BenchFigureName::DecodeTokS,
    BenchFigureName::TotalTokS,
    BenchFigureName::PrefillTokS,
    BenchFigureName::TtftColdS,
    BenchFigureName::TtftCachedS,
    BenchFigureName::TokensPerRound,
];

/// Holds two runs beside each other.
pub fn compare(a: &BenchRun, b: &BenchRun) -> BenchComparison {
    let done = |run: &BenchRun| -> Vec<BenchRow> {
        run.rows.iter().filter(|row| row.state == BenchRowState::Done).cloned().collect()
    };
    let (rows_a, mut rows_b) = (done(a), done(b));
    let (mut rows, mut alone) = (Vec::new(), 0);
    for row in &rows_a {
        match rows_b.iter().position(|other| alike(row, other)) {
            Some(at) => rows.extend(differences(row, &rows_b.remove(at))),
            None => alone += 1,
        }
    }
    let without_rows = |run: &BenchRun| BenchRun { rows: Vec::new(), ..run.clone() };
    BenchComparison {
        a: without_rows(a),
        b: without_rows(b),
        conditions: conditions(a, b),
        rows,
        unmatched: alone + rows_b.len() as u32,
    }
}

/// The same measurement.
fn alike(a: &BenchRow, b: &BenchRow) -> bool {
    let key = |row: &BenchRow| {
        (
            row.part,
            row.traffic,
            row.depth_tokens,
            row.prompt,
            row.output,
            row.clients,
            row.mtp_depth.clone(),
            row.task,
        )
    };
    key(a) == key(b)
}

fn differences(a: &BenchRow, b: &BenchRow) -> Vec<BenchDifference> {
    let named =
        BenchRow { shots: Vec::new(), figures: Vec::new(), kept: Vec::new(), peaks: Vec::new(), ..a.clone() };
    let change = |a: f64, b: f64| (a != 0.0).then(|| (b - a) / a);
    let mut found: Vec<BenchDifference> = NAMES
        .iter()
        .filter_map(|name| {
            let (left, right) = (of(a, *name)?, of(b, *name)?);
            let repeated = left.values.len() > 1 && right.values.len() > 1;
            let apart = left.high < right.low || right.high < left.low;
            let smaller_is_better = matches!(name, BenchFigureName::TtftColdS | BenchFigureName::TtftCachedS);
            let larger = right.median > left.median;
            Some(BenchDifference {
                row: named.clone(),
                name: Some(*name),
                a: left.median,
                b: right.median,
                change: change(left.median, right.median),
                beyond_spread: repeated.then_some(apart),
                better: (right.median != left.median).then_some(larger != smaller_is_better),
            })
        })
        .collect();
    if let (Some(left), Some(right)) = (a.score, b.score) {
        let share = |score: super::types::BenchScore| f64::from(score.right) / f64::from(score.of.max(1));
        let (left, right) = (share(left), share(right));
        found.push(BenchDifference {
            row: named,
            name: None,
            a: left,
            b: right,
            change: change(left, right),
            beyond_spread: None,
            better: (left != right).then_some(right > left),
        });
    }
    found
}

/// What is not the same.
fn conditions(a: &BenchRun, b: &BenchRun) -> Vec<BenchConditionChange> {
    let text = |run: &BenchRun| -> Vec<(&'static str, Option<String>)> {
        let conditions = &run.conditions;
        let engine = &conditions.engine;
        let formats: Vec<&str> = conditions.formats.iter().map(|share| share.format.as_str()).collect();
        let names = |list: Vec<String>| (!list.is_empty()).then(|| list.join(", "));
        vec![
            ("version", Some(conditions.version.clone())),
            ("model", Some(engine.name.clone())),
            ("revision", conditions.revision.clone()),
            ("formats", names(formats.into_iter().map(str::to_owned).collect())),
            ("device", Some(engine.device.clone())),
            ("gpu", conditions.gpu.clone()),
            ("driver", conditions.driver.clone()),
            ("cpu", Some(format!("{}, {}", conditions.cpu, conditions.cores))),
            ("kernel", conditions.kernel.clone()),
            ("context", Some(engine.context.to_string())),
            ("max_requests", Some(engine.max_requests.to_string())),
            ("kv", Some(engine.kv.clone())),
            ("mtp_depth", engine.mtp_depth.clone()),
            ("draft_head", engine.draft_head.clone()),
            ("stretch", engine.stretch.map(|stretch| stretch.to_string())),
            ("exact", Some(engine.exact.to_string())),
            ("fp4_activations", Some(engine.fp4_activations.to_string())),
            ("others", names(conditions.others.iter().map(|one| one.name.clone()).collect())),
            ("overruled", names(conditions.overruled.iter().map(|fault| fault.code.clone()).collect())),
            ("repeats", Some(run.repeats.to_string())),
        ]
    };
    let pairs = text(a).into_iter().zip(text(b));
    pairs
        .filter(|((_, a), (_, b))| a != b)
        .map(|((what, a), (_, b))| BenchConditionChange { what: what.into(), a, b })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            figures::work_out,
            tests::{finished_run, timed},
            types::BenchScore,
        },
        *,
    };

    fn run(speed: f64, spread: f64) -> BenchRun {
        let mut run = finished_run();
        let row = &mut run.rows[0];
        row.shots = [-1.0, 0.0, 1.0].map(|step| timed(speed + step * spread)).to_vec();
        work_out(row);
        run
    }

    fn decode(comparison: &BenchComparison) -> &BenchDifference {
        comparison.rows.iter().find(|row| row.name == Some(BenchFigureName::DecodeTokS)).unwrap()
    }

    #[test]
    fn a_change_is_marked_only_when_the_spreads_do_not_touch() {
        let faster = compare(&run(100.0, 2.0), &run(110.0, 2.0));
        let decode_row = decode(&faster);
        assert!((decode_row.change.unwrap() - 0.1).abs() < 1e-9);
        assert_eq!((decode_row.beyond_spread, decode_row.better), (Some(true), Some(true)));
        let noise = compare(&run(100.0, 8.0), &run(110.0, 8.0));
        assert_eq!((decode(&noise).beyond_spread, decode(&noise).better), (Some(false), Some(true)));
        let slower = compare(&run(110.0, 2.0), &run(100.0, 2.0));
        assert_eq!(decode(&slower).better, Some(false));
    }

    #[test]
    fn a_figure_measured_once_has_no_spread_to_be_beyond_of() {
        let mut once = run(100.0, 0.0);
        once.rows[0].shots.truncate(1);
        work_out(&mut once.rows[0]);
        assert_eq!(decode(&compare(&once, &run(150.0, 1.0))).beyond_spread, None);
    }

    #[test]
    fn a_longer_time_to_the_first_token_is_worse_and_more_facts_are_better() {
        let (mut a, mut b) = (run(100.0, 1.0), run(100.0, 1.0));
        b.rows[0]
            .shots
            .iter_mut()
            .for_each(|shot| (shot.ttft_s, shot.last_s) = (shot.ttft_s + 1.0, shot.last_s + 1.0));
        work_out(&mut b.rows[0]);
        (a.rows[0].score, b.rows[0].score) =
            (Some(BenchScore { right: 3, of: 5 }), Some(BenchScore { right: 5, of: 5 }));
        let found = compare(&a, &b);
        let cold = found.rows.iter().find(|row| row.name == Some(BenchFigureName::TtftColdS)).unwrap();
        assert_eq!((cold.better, cold.beyond_spread), (Some(false), Some(true)));
        let facts = found.rows.iter().find(|row| row.name.is_none()).unwrap();
        assert_eq!((facts.a, facts.b, facts.better), (0.6, 1.0, Some(true)));
    }

    #[test]
    fn other_conditions_and_rows_of_one_run_only_are_told() {
        let a = run(100.0, 1.0);
        let mut b = run(100.0, 1.0);
        b.conditions.engine.kv = "fp8".into();
        b.conditions.driver = Some("580.95".into());
        b.rows[0].output += 1;
        let found = compare(&a, &b);
        let changes: Vec<_> = found.conditions.iter().map(|c| (c.what.as_str(), c.b.as_deref())).collect();
        assert_eq!(changes, [("driver", Some("580.95")), ("kv", Some("fp8"))]);
        assert!(found.unmatched >= 2 && compare(&a, &a).unmatched == 0);
        assert!(compare(&a, &a).conditions.is_empty());
    }
}
