//! Tables for people: conditions first, then one table a part, medians with their spread.

use super::{
    super::{
        figures::of,
        types::{BenchFigureName, BenchPart, BenchReading, BenchRow, BenchRowState, BenchRun, BenchRunState},
    },
    words::{part, prompt_tokens, task, traffic, utc},
};

const PARTS: [BenchPart; 7] = [
    BenchPart::Contexts,
    BenchPart::Prefill,
    BenchPart::Company,
    BenchPart::Depths,
    BenchPart::Agent,
    BenchPart::Facts,
    BenchPart::Arena,
];
const COLUMNS: [(BenchFigureName, &str); 6] = [
    (BenchFigureName::DecodeTokS, "decode tok/s"),
    (BenchFigureName::TotalTokS, "all clients tok/s"),
    (BenchFigureName::PrefillTokS, "prefill tok/s"),
    (BenchFigureName::TtftColdS, "first token cold, s"),
    (BenchFigureName::TtftCachedS, "first token cached, s"),
    (BenchFigureName::TokensPerRound, "tokens per round"),
];

pub(super) fn write(run: &BenchRun) -> String {
    let conditions = &run.conditions;
    let engine = &conditions.engine;
    let unknown = || "unknown".to_owned();
    let state = match run.state {
        BenchRunState::Done => "complete",
        BenchRunState::Running => "still running",
        BenchRunState::Cancelled => "**partial: cancelled**",
        BenchRunState::Failed => "**partial: broken off**",
    };
    let formats: Vec<&str> = conditions.formats.iter().map(|share| share.format.as_str()).collect();
    let others: Vec<&str> = conditions.others.iter().map(|one| one.name.as_str()).collect();
    let overruled: Vec<&str> = conditions.overruled.iter().map(|fault| fault.message.as_str()).collect();
    let none = |list: Vec<&str>, word: &str| if list.is_empty() { word.to_owned() } else { list.join(", ") };
    let lines = [
        ("Run", format!("{}, {state}, {}", run.id, utc(run.started_ms))),
        ("Note", run.order.note.clone()),
        ("Hearth", conditions.version.clone()),
        (
            "Model",
            format!(
                "{}, revision {}, {}",
                engine.id,
                conditions.revision.clone().unwrap_or_else(unknown),
                none(formats, "format unknown")
            ),
        ),
        (
            "Profile",
            format!(
                "context {}, {} requests, KV {}, depth {}, exact {}, FP4 activations {}",
                engine.context,
                engine.max_requests,
                engine.kv,
                engine.mtp_depth.clone().unwrap_or_else(|| "none".into()),
                engine.exact,
                engine.fp4_activations
            ),
        ),
        (
            "Machine",
            format!(
                "{} on {}, driver {}, kernel {}, reads {}",
                engine.device,
                conditions
                    .gpu
                    .clone()
                    .unwrap_or_else(|| format!("{} ({} cores)", conditions.cpu, conditions.cores)),
                conditions.driver.clone().unwrap_or_else(unknown),
                conditions.kernel.clone().unwrap_or_else(unknown),
                conditions.roof_gb_s.map_or_else(unknown, |roof| format!("{roof:.1} GB/s"))
            ),
        ),
        ("Before", reading(Some(&conditions.before))),
        ("After", reading(conditions.after.as_ref())),
        ("Others on the GPU", none(others, "none")),
        ("Measured anyway although", none(overruled, "nothing spoke against it")),
        ("Repeats", format!("{}; medians, lowest to highest in brackets", run.repeats)),
    ];
    let mut text = format!("# {} measured by Hearth\n\n", engine.name);
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        text += &format!("- {name}: {value}\n");
    }
    for one in PARTS {
        let rows: Vec<&BenchRow> = run.rows.iter().filter(|row| row.part == one).collect();
        if !rows.is_empty() {
            text += &table(one, &rows);
        }
    }
    text
}

fn reading(reading: Option<&BenchReading>) -> String {
    let Some(reading) = reading else { return "unknown".into() };
    let value = |value: Option<f64>, unit: &str| value.map(|value| format!("{value:.0} {unit}"));
    let known: Vec<String> = [
        value(reading.power_w, "W"),
        value(reading.temperature_c, "°C"),
        value(reading.clock_mhz, "MHz"),
        value(reading.busy, "% busy"),
        reading
            .held_by
            .as_ref()
            .filter(|list| !list.is_empty())
            .map(|list| format!("held by {}", list.join(", "))),
    ]
    .into_iter()
    .flatten()
    .collect();
    if known.is_empty() { "unknown".into() } else { known.join(", ") }
}

fn table(one: BenchPart, rows: &[&BenchRow]) -> String {
    let columns: Vec<_> =
        COLUMNS.iter().filter(|(name, _)| rows.iter().any(|row| of(row, *name).is_some())).collect();
    let scored = rows.iter().any(|row| row.score.is_some());
    let mut heads = vec!["measurement", "prompt tokens"];
    heads.extend(columns.iter().map(|(_, head)| *head));
    if scored {
        heads.push("facts found");
    }
    let mut text =
        format!("\n## {}\n\n| {} |\n|{}\n", part(one), heads.join(" | "), " --- |".repeat(heads.len()));
    for row in rows {
        let mut cells = vec![name(row), prompt_tokens(row)];
        match row.state {
            BenchRowState::Done => {
                for (name, _) in &columns {
                    cells.push(of(row, *name).map_or_else(String::new, |figure| match figure.values.len() {
                        1 => format!("{:.2}", figure.median),
                        _ => format!("{:.2} ({:.2} to {:.2})", figure.median, figure.low, figure.high),
                    }));
                }
                if scored {
                    cells.push(
                        row.score
                            .map_or_else(String::new, |score| format!("{} of {}", score.right, score.of)),
                    );
                }
            }
            _ => {
                let why = row.fault.as_ref().map_or("not measured", |fault| fault.message.as_str());
                cells.push(why.replace('|', "\\|"));
            }
        }
        cells.resize(heads.len(), String::new());
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text
}

fn name(row: &BenchRow) -> String {
    let prompt = row.prompt.map_or_else(String::new, |prompt| prompt.to_string());
    let mut name = match row.part {
        BenchPart::Contexts => format!("{prompt} + {}", row.output),
        BenchPart::Prefill => prompt,
        BenchPart::Company => format!("{} clients", row.clients),
        BenchPart::Depths => {
            format!("depth {}, {}", row.mtp_depth.clone().unwrap_or_default(), traffic(row.traffic))
        }
        BenchPart::Agent => traffic(row.traffic).into(),
        BenchPart::Facts => format!("{prompt}, {}", row.task.map_or("", task)),
        BenchPart::Arena => format!("pp{prompt} tg{} @ d{} (c{})", row.output, row.depth_tokens, row.clients),
    };
    if row.disturbed {
        name += " (disturbed by another request)";
    }
    name
}

#[cfg(test)]
mod tests {
    use super::{super::super::tests::finished_run, *};

    #[test]
    fn a_partial_run_says_so_and_every_row_of_a_table_has_all_its_cells() {
        let mut run = finished_run();
        assert!(write(&run).contains("complete"));
        run.state = BenchRunState::Cancelled;
        let text = write(&run);
        assert!(
            text.contains("partial: cancelled") && text.contains("## contexts") && text.contains("5 of 5"),
            "{text}"
        );
        let mut width = 0;
        for line in text.lines().filter(|line| line.starts_with('|')) {
            let bars = line.matches('|').count();
            if line.starts_with("| measurement") {
                width = bars;
            }
            assert_eq!(bars, width, "{line}");
        }
    }
}
