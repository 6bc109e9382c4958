//! Names and numbers as exports write them: English, with a dot, and nothing where nothing is known.

use super::super::types::{BenchFigureName, BenchPart, BenchRow, BenchTask, BenchTraffic};

/// A part's name.
pub(super) fn part(part: BenchPart) -> &'static str {
    match part {
        BenchPart::Contexts => "contexts",
        BenchPart::Prefill => "prefill",
        BenchPart::Company => "company",
        BenchPart::Depths => "depths",
        BenchPart::Agent => "agent",
        BenchPart::Facts => "facts",
        BenchPart::Arena => "arena",
    }
}

/// What is written.
pub(super) fn traffic(traffic: BenchTraffic) -> &'static str {
    match traffic {
        BenchTraffic::Text => "text",
        BenchTraffic::Agent => "agent",
        BenchTraffic::Facts => "facts",
    }
}

/// What is asked.
pub(super) fn task(task: BenchTask) -> &'static str {
    match task {
        BenchTask::Start => "one fact, start",
        BenchTask::Middle => "one fact, middle",
        BenchTask::End => "one fact, end",
        BenchTask::Five => "five facts",
        BenchTask::Lost => "lost in the middle",
    }
}

/// A figure's name with its unit.
pub(super) fn figure(name: BenchFigureName) -> &'static str {
    match name {
        BenchFigureName::DecodeTokS => "decode_tok_s",
        BenchFigureName::TotalTokS => "total_tok_s",
        BenchFigureName::PrefillTokS => "prefill_tok_s",
        BenchFigureName::TtftColdS => "ttft_cold_s",
        BenchFigureName::TtftCachedS => "ttft_cached_s",
        BenchFigureName::TokensPerRound => "tokens_per_round",
    }
}

/// Tokens of the prompt as the engine counted them: the lowest and highest of all requests, one number if they agree.
pub(super) fn prompt_tokens(row: &BenchRow) -> String {
    let counts = row.shots.iter().filter(|shot| !shot.context_phase).map(|shot| shot.prompt_tokens);
    match (counts.clone().min(), counts.max()) {
        (Some(low), Some(high)) if low == high => low.to_string(),
        (Some(low), Some(high)) => format!("{low}-{high}"),
        _ => String::new(),
    }
}

/// Unix milliseconds as `2026-11-27 20:40:39Z` (the civil calendar of Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms").
pub(super) fn utc(unix_ms: f64) -> String {
    let seconds = (unix_ms / 1000.0).floor() as i64;
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}Z")
}

/// A field of a CSV file (RFC 4180).
pub(super) fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_dates() {
        assert_eq!(utc(0.0), "1970-01-01 00:00:00Z");
        assert_eq!(utc(1_709_210_096_000.0), "2024-02-29 12:34:56Z");
        assert_eq!(utc(1_795_812_039_999.0), "2026-11-27 20:40:39Z");
    }

    #[test]
    fn commas_and_quotes_are_kept_within_a_field() {
        assert_eq!(quoted("plain"), "plain");
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
    }
}
