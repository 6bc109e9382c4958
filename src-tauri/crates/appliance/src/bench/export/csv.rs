//! One line a figure, for spreadsheets. What is unknown is empty.

use super::{
    super::types::{BenchRow, BenchRowState, BenchRun},
    words::{figure, part, prompt_tokens, quoted, task, traffic},
};

const HEADER: &str = "run,model,part,traffic,task,depth_tokens,prompt,prompt_counted,output,clients,mtp_depth,state,disturbed,\
                      figure,median,low,high,values,reason\n";

pub(super) fn write(run: &BenchRun) -> String {
    let mut text = HEADER.to_owned();
    for row in &run.rows {
        let start = start(run, row);
        for figure_of in &row.figures {
            let values: Vec<String> = figure_of.values.iter().map(|value| format!("{value}")).collect();
            let (median, low, high) = (figure_of.median, figure_of.low, figure_of.high);
            let name = figure(figure_of.name);
            text += &format!("{start},{name},{median},{low},{high},{},\n", values.join(" "));
        }
        if let Some(score) = row.score {
            let share = f64::from(score.right) / f64::from(score.of.max(1));
            text += &format!("{start},facts_found,{share},,,{}/{},\n", score.right, score.of);
        }
        if row.figures.is_empty() && row.score.is_none() {
            let reason = row.fault.as_ref().map(|fault| fault.message.clone()).unwrap_or_default();
            text += &format!("{start},,,,,,{}\n", quoted(&reason));
        }
    }
    text
}

fn start(run: &BenchRun, row: &BenchRow) -> String {
    let number = |value: Option<u32>| value.map(|n| n.to_string()).unwrap_or_default();
    [
        run.id.to_string(),
        quoted(&run.conditions.engine.id),
        part(row.part).into(),
        traffic(row.traffic).into(),
        quoted(row.task.map_or("", task)),
        row.depth_tokens.to_string(),
        number(row.prompt),
        prompt_tokens(row),
        row.output.to_string(),
        row.clients.to_string(),
        row.mtp_depth.clone().unwrap_or_default(),
        state(row.state).into(),
        row.disturbed.to_string(),
    ]
    .join(",")
}

fn state(state: BenchRowState) -> &'static str {
    match state {
        BenchRowState::Waiting => "not measured",
        BenchRowState::Running => "running",
        BenchRowState::Done => "done",
        BenchRowState::Skipped => "skipped",
        BenchRowState::Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::tests::finished_run, *};

    #[test]
    fn every_line_has_as_many_fields_as_the_header() {
        let text = write(&finished_run());
        let fields = |line: &str| {
            let (mut count, mut inside) = (1, false);
            for c in line.chars() {
                match c {
                    '"' => inside = !inside,
                    ',' if !inside => count += 1,
                    _ => {}
                }
            }
            count
        };
        let wanted = fields(HEADER);
        assert!(text.lines().count() > 4);
        for line in text.lines() {
            assert_eq!(fields(line), wanted, "{line}");
        }
        assert!(text.contains("decode_tok_s") && text.contains("skipped") && text.contains("facts_found"));
    }
}
