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
