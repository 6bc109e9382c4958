//! What was measured of a profile, where estimates would stand otherwise: speed of free text and of agents, and what each depth of
//! drafting gains. Called by the control API for plans and lists of models.

use std::collections::BTreeMap;

use super::{
    figures::of,
    types::{BenchFigure, BenchFigureName, BenchPart, BenchRow, BenchRun, BenchTraffic},
};
use crate::control::{
    figures::{DepthFigures, MeasuredSpeed},
    types::Profile,
};

/// Requests of a person that a figure from them needs at least.
const REQUESTS: usize = 5;

/// What the speed of a model depends on, of a profile: everything but limits and manners.
pub(crate) fn speed_key(profile: &Profile) -> String {
    let mut value = serde_json::to_value(profile).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        for field in ["context", "max_requests", "max_waiting", "chunk", "sampling"] {
            fields.remove(field);
        }
    }
    value.to_string()
}

/// The same, but for the depth: runs that measured every depth tell of all.
fn key_without_depth(profile: &Profile) -> String {
    speed_key(&Profile { mtp_depth: String::new(), ..profile.clone() })
}

/// The speed of one client's free text.
pub(crate) fn general(rows: &[BenchRow]) -> Option<&BenchFigure> {
    let one =
        |row: &&BenchRow| row.clients == 1 && row.traffic == BenchTraffic::Text && row.mtp_depth.is_none();
    let decode = |row: &BenchRow| of(row, BenchFigureName::DecodeTokS).is_some();
    let within = |part: BenchPart| rows.iter().filter(one).find(|row| row.part == part && decode(row));
    [BenchPart::Agent, BenchPart::Contexts, BenchPart::Company, BenchPart::Arena]
        .into_iter()
        .find_map(within)
        .and_then(|row| of(row, BenchFigureName::DecodeTokS))
}

/// The speed of an agent.
fn agent(rows: &[BenchRow]) -> Option<&BenchFigure> {
    let row = rows.iter().find(|row| row.part == BenchPart::Agent && row.traffic == BenchTraffic::Agent)?;
    of(row, BenchFigureName::DecodeTokS)
}

/// The newest figures for a profile among runs of its model, newest first.
pub(crate) fn from_runs(runs: &[BenchRun], profile: &Profile) -> (Option<MeasuredSpeed>, Vec<DepthFigures>) {
    let same = |run: &&BenchRun, key: &dyn Fn(&Profile) -> String| {
        run.conditions.profile.as_ref().is_some_and(|other| key(other) == key(profile))
    };
    // A run that tells an agent's speed, too, comes before a newer one that does not.
    let alike: Vec<&BenchRun> = runs.iter().filter(|run| same(run, &speed_key)).collect();
    let told = alike.iter().find(|run| agent(&run.rows).is_some() && general(&run.rows).is_some());
    let speed = told.or(alike.iter().find(|run| general(&run.rows).is_some())).and_then(|run| {
        let general = general(&run.rows)?;
        let prefill = run.rows.iter().filter_map(|row| of(row, BenchFigureName::PrefillTokS));
        Some(MeasuredSpeed {
            decode_tok_s: general.median,
            agent_tok_s: agent(&run.rows).map(|figure| figure.median),
            prefill_tok_s: prefill.map(|figure| figure.median).reduce(f64::max),
            run: Some(run.id),
            requests: None,
            at_ms: run.started_ms,
        })
    });
    let depths = runs.iter().filter(|run| same(run, &key_without_depth)).map(|run| depths(&run.rows));
    (speed, depths.into_iter().find(|depths| !depths.is_empty()).unwrap_or_default())
}

/// What each depth reached, shallowest first, `auto` last.
pub(crate) fn depths(rows: &[BenchRow]) -> Vec<DepthFigures> {
    let mut found: BTreeMap<String, DepthFigures> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.part == BenchPart::Depths) {
        let (Some(depth), Some(speed)) = (&row.mtp_depth, of(row, BenchFigureName::DecodeTokS)) else {
            continue;
        };
        let figures = found.entry(depth.clone()).or_insert_with(|| DepthFigures {
            depth: depth.clone(),
            decode_tok_s: None,
            agent_tok_s: None,
            gain: None,
            agent_gain: None,
            kept: Vec::new(),
            tokens_per_round: None,
        });
        if row.traffic == BenchTraffic::Agent {
            figures.agent_tok_s = Some(speed.median);
        } else {
            figures.decode_tok_s = Some(speed.median);
            figures.kept = row.kept.clone();
            figures.tokens_per_round = of(row, BenchFigureName::TokensPerRound).map(|figure| figure.median);
        }
    }
    let plain = found.get("0").cloned();
    let gain = |now: Option<f64>, plain: Option<f64>| {
        now.zip(plain.filter(|plain| *plain > 0.0)).map(|(a, b)| a / b)
    };
    for figures in found.values_mut() {
        figures.gain = gain(figures.decode_tok_s, plain.as_ref().and_then(|plain| plain.decode_tok_s));
        figures.agent_gain = gain(figures.agent_tok_s, plain.as_ref().and_then(|plain| plain.agent_tok_s));
    }
    found.into_values().collect()
}

/// From a person's own requests, where nothing was measured on purpose: the median of their rates.
pub(crate) fn from_requests(mut rates: Vec<f64>, at_ms: f64) -> Option<MeasuredSpeed> {
    rates.sort_by(f64::total_cmp);
    let enough = rates.len() >= REQUESTS;
    super::figures::median(&rates).filter(|_| enough).map(|decode_tok_s| MeasuredSpeed {
        decode_tok_s,
        agent_tok_s: None,
        prefill_tok_s: None,
        run: None,
        requests: Some(rates.len() as u32),
        at_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            figures::work_out,
            tests::{finished_run, timed},
        },
        *,
    };

    /// A run whose free text wrote at this speed, and whose agent at that.
    fn run(id: u32, text: f64, agent: Option<f64>) -> BenchRun {
        let mut run = BenchRun { id, ..finished_run() };
        run.rows.retain(|row| row.part == BenchPart::Agent);
        for row in &mut run.rows {
            let speed = if row.traffic == BenchTraffic::Text { Some(text) } else { agent };
            row.shots = speed.map(timed).into_iter().collect();
            work_out(row);
        }
        run
    }

    fn profile() -> Profile {
        Profile { model: "m".into(), ..Profile::default() }
    }

    #[test]
    fn limits_and_manners_change_no_speed_and_everything_else_does() {
        let plain = profile();
        let roomy =
            Profile { context: Some(4096), max_requests: 9, max_waiting: 1, chunk: 64, ..plain.clone() };
        assert_eq!(speed_key(&plain), speed_key(&roomy));
        for other in [
            Profile { model: "n".into(), ..plain.clone() },
            Profile { kv: "fp8".into(), ..plain.clone() },
            Profile { mtp_depth: "2".into(), ..plain.clone() },
            Profile { exact: true, ..plain.clone() },
            Profile { fp4_activations: true, ..plain.clone() },
        ] {
            assert_ne!(speed_key(&plain), speed_key(&other), "{other:?}");
        }
    }

    #[test]
    fn the_newest_run_that_knows_both_speeds_is_told() {
        let speed =
            |runs: &[BenchRun]| from_runs(runs, &profile()).0.map(|speed| (speed.run, speed.agent_tok_s));
        let both = |speed: f64, agent: f64| run(1, speed, Some(agent));
        let newest_first = [run(3, 70.0, None), run(2, 60.0, Some(80.0)), both(50.0, 90.0)];
        let (run_id, agent) = speed(&newest_first).unwrap();
        assert_eq!(run_id, Some(2));
        assert!((agent.unwrap() - 80.0).abs() < 1e-9);
        assert_eq!(speed(&newest_first[..1]), Some((Some(3), None)));
        assert_eq!(from_runs(&newest_first, &Profile { kv: "fp8".into(), ..profile() }), (None, Vec::new()));
    }

    #[test]
    fn a_persons_requests_make_a_figure_once_there_are_some() {
        assert_eq!(from_requests(vec![50.0; 4], 1.0), None);
        let speed = from_requests(vec![10.0, 50.0, 40.0, 60.0, 55.0], 7.0).unwrap();
        assert_eq!((speed.decode_tok_s, speed.requests, speed.run, speed.at_ms), (50.0, Some(5), None, 7.0));
    }
}
