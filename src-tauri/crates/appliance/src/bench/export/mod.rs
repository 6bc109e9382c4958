//! A run as a file, in Hearth's own formats and in those of others. Called by the control API and by `hearth bench`.

mod arena;
mod benchy;
mod csv;
mod markdown;
mod words;

use super::types::BenchRun;

/// A format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// Everything there is, as the control API has it.
    Json,
    /// One line a figure.
    Csv,
    /// Tables for people.
    Markdown,
    /// llama-benchy's JSON report.
    LlamaBenchy,
    /// Spark Arena's `benchmark.csv`, which has llama-benchy's columns.
    SparkArena,
    /// Spark Arena's `metadata.json`.
    SparkArenaMetadata,
}

impl ExportFormat {
    /// All, in the order of menus.
    pub const ALL: [ExportFormat; 6] = [
        ExportFormat::Json,
        ExportFormat::Csv,
        ExportFormat::Markdown,
        ExportFormat::LlamaBenchy,
        ExportFormat::SparkArena,
        ExportFormat::SparkArenaMetadata,
    ];

    /// Its name in addresses and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            ExportFormat::Json => "json",
            ExportFormat::Csv => "csv",
            ExportFormat::Markdown => "markdown",
            ExportFormat::LlamaBenchy => "llama-benchy",
            ExportFormat::SparkArena => "spark-arena",
            ExportFormat::SparkArenaMetadata => "spark-arena-metadata",
        }
    }

    /// The format of a name.
    pub fn named(name: &str) -> Option<ExportFormat> {
        ExportFormat::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The media type of its files.
    pub fn media_type(self) -> &'static str {
        match self {
            ExportFormat::Json | ExportFormat::LlamaBenchy | ExportFormat::SparkArenaMetadata => {
                "application/json"
            }
            ExportFormat::Csv | ExportFormat::SparkArena => "text/csv; charset=utf-8",
            ExportFormat::Markdown => "text/markdown; charset=utf-8",
        }
    }
}

/// Writes a run.
pub fn export(run: &BenchRun, format: ExportFormat) -> String {
    let pretty = |value: &serde_json::Value| format!("{value:#}\n");
    match format {
        ExportFormat::Json => pretty(&serde_json::to_value(run).unwrap_or_default()),
        ExportFormat::Csv => csv::write(run),
        ExportFormat::Markdown => markdown::write(run),
        ExportFormat::LlamaBenchy => pretty(&benchy::report(run)),
        ExportFormat::SparkArena => arena::csv(run),
        ExportFormat::SparkArenaMetadata => pretty(&arena::metadata(run)),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::finished_run, *};

    #[test]
    fn every_format_has_a_name_and_writes_something() {
        let run = finished_run();
        for format in ExportFormat::ALL {
            assert_eq!(ExportFormat::named(format.name()), Some(format));
            let text = export(&run, format);
            let numbers = !text.contains("NaN") && !text.contains(",inf") && !text.contains(": inf");
            assert!(text.ends_with('\n') && numbers, "{text}");
        }
        assert_eq!(ExportFormat::named("xml"), None);
    }

    #[test]
    fn hearths_own_json_is_read_back_whole() {
        let run = finished_run();
        let read: BenchRun = serde_json::from_str(&export(&run, ExportFormat::Json)).unwrap();
        assert_eq!((read.id, &read.order, read.rows.len()), (run.id, &run.order, run.rows.len()));
        for (read, row) in read.rows.iter().zip(&run.rows) {
            assert_eq!(
                (read.part, read.prompt, &read.fault, read.score),
                (row.part, row.prompt, &row.fault, row.score)
            );
            assert_eq!(read.shots.len(), row.shots.len());
            // The last digit of a number may be another one.
            for (read, figure) in read.figures.iter().zip(&row.figures) {
                assert!(read.name == figure.name && (read.median / figure.median - 1.0).abs() < 1e-12);
            }
        }
    }
}
