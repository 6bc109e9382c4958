//! The SQLite file of the benchmarks, beside the history: one row a run, its figures as one text.

use std::path::Path;

use hearth_engine::status::Fault;
use rusqlite::{Connection, OptionalExtension, params};

use serde::de::DeserializeOwned;

use super::{
    measured::general,
    types::{BenchRowState, BenchRun, BenchRunState, BenchSummary},
};
use crate::{ApplianceError, control::types::Notice, history::move_aside};

/// Runs kept; the oldest go first.
const KEPT: u32 = 200;

const TABLES: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT, started_ms REAL NOT NULL, model TEXT NOT NULL, state TEXT NOT NULL, summary TEXT NOT NULL,
        body TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS runs_by_model ON runs (model);
    PRAGMA user_version = 1;";

pub(super) struct Store {
    db: Connection,
}

impl Store {
    /// Opens (or begins) the file; one that cannot be used is moved aside, which the notice tells.
    pub(super) fn open_or_begin(path: &Path) -> (Store, Option<Notice>) {
        let error = match Store::open(path) {
            Ok(store) => return (store, None),
            Err(error) => error,
        };
        tracing::warn!(%error, "the benchmarks are begun anew");
        if let (Ok(aside), Ok(store)) = (move_aside(path), Store::open(path)) {
            let text = format!(
                "The benchmarks could not be read and were moved to {}; a new file is begun.",
                aside.display()
            );
            let notice = Notice::new("benchmarks_moved", "warning", text);
            return (store, Some(notice.with("file", aside)));
        }
        let db = Connection::open_in_memory().expect("SQLite opens a database in memory");
        db.execute_batch(TABLES).expect("the tables are valid SQL");
        let text = format!("The benchmarks cannot be kept and will be lost at the end: {error}.");
        let notice = Notice::new("benchmarks_in_memory", "warning", text);
        (Store { db }, Some(notice.with("reason", error.to_string())))
    }

    fn open(path: &Path) -> Result<Store, rusqlite::Error> {
        let db = Connection::open(path)?;
        let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(rusqlite::Error::InvalidParameterName(verdict));
        }
        db.execute_batch(TABLES)?;
        // A table of the same name from elsewhere passes the statements above; reading shows whether it is ours.
        db.prepare("SELECT id, started_ms, model, state, summary, body FROM runs")?;
        Ok(Store { db })
    }

    /// Runs that an earlier appliance did not live to end are over.
    pub(super) fn end_orphans(&mut self) -> Result<(), ApplianceError> {
        for mut run in self.read_where("state = 'running'", params![])? {
            run.state = BenchRunState::Failed;
            run.fault = Some(Fault::new(
                "bench_broken_off",
                "Hearth ended while this was measured.",
                "What was measured until then is here; measure again for the rest.",
            ));
            run.ended_ms = run.ended_ms.or(Some(run.started_ms));
            self.write(&run)?;
        }
        Ok(())
    }

    /// Begins a run and gives it its number.
    pub(super) fn begin(&mut self, run: &mut BenchRun) -> Result<(), ApplianceError> {
        let sql =
            "INSERT INTO runs (started_ms, model, state, summary, body) VALUES (?1, ?2, 'running', '', '')";
        self.db.execute(sql, params![run.started_ms, model(run)]).map_err(failed)?;
        run.id = u32::try_from(self.db.last_insert_rowid()).map_err(failed)?;
        let sql = "DELETE FROM runs WHERE id NOT IN (SELECT id FROM runs ORDER BY id DESC LIMIT ?1)";
        self.db.execute(sql, [KEPT]).map_err(failed)?;
        self.write(run)
    }

    /// Writes what is known of a run.
    pub(super) fn write(&mut self, run: &BenchRun) -> Result<(), ApplianceError> {
        let body = serde_json::to_string(run).map_err(failed)?;
        let summary = serde_json::to_string(&summary(run)).map_err(failed)?;
        let state = match run.state {
            BenchRunState::Running => "running",
            BenchRunState::Done => "done",
            BenchRunState::Cancelled => "cancelled",
            BenchRunState::Failed => "failed",
        };
        let sql = "UPDATE runs SET state = ?2, summary = ?3, body = ?4 WHERE id = ?1";
        self.db.execute(sql, params![run.id, state, summary, body]).map_err(failed)?;
        Ok(())
    }

    /// All runs in short, newest first.
    pub(super) fn list(&self) -> Result<Vec<BenchSummary>, ApplianceError> {
        self.texts("SELECT summary FROM runs ORDER BY id DESC", params![])
    }

    /// The newest runs of a model, newest first.
    pub(super) fn of_model(&self, model: &str, most: u32) -> Result<Vec<BenchRun>, ApplianceError> {
        let newest = "id IN (SELECT id FROM runs WHERE model = ?1 ORDER BY id DESC LIMIT ?2)";
        self.read_where(newest, params![model, most])
    }

    fn read_where(
        &self,
        which: &str,
        values: &[&dyn rusqlite::ToSql],
    ) -> Result<Vec<BenchRun>, ApplianceError> {
        self.texts(&format!("SELECT body FROM runs WHERE {which} ORDER BY id DESC"), values)
    }

    /// A text that a later version wrote and this one cannot read is left out, not the whole list.
    fn texts<T: DeserializeOwned>(
        &self,
        sql: &str,
        values: &[&dyn rusqlite::ToSql],
    ) -> Result<Vec<T>, ApplianceError> {
        let mut statement = self.db.prepare(sql).map_err(failed)?;
        let texts = statement.query_map(values, |row| row.get::<_, String>(0)).map_err(failed)?;
        let texts = texts.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        Ok(texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect())
    }

    /// The models that there are runs of.
    pub(super) fn models(&self) -> Result<Vec<String>, ApplianceError> {
        let mut statement = self.db.prepare("SELECT DISTINCT model FROM runs").map_err(failed)?;
        let models = statement.query_map([], |row| row.get(0)).map_err(failed)?;
        models.collect::<Result<_, _>>().map_err(failed)
    }

    /// One run.
    pub(super) fn read(&self, id: u32) -> Result<Option<BenchRun>, ApplianceError> {
        let sql = "SELECT body FROM runs WHERE id = ?1";
        let body: Option<String> =
            self.db.query_row(sql, [id], |row| row.get(0)).optional().map_err(failed)?;
        body.map(|body| serde_json::from_str(&body).map_err(failed)).transpose()
    }

    /// Removes one; false if there was none.
    pub(super) fn remove(&mut self, id: u32) -> Result<bool, ApplianceError> {
        Ok(self.db.execute("DELETE FROM runs WHERE id = ?1", [id]).map_err(failed)? > 0)
    }
}

/// The model's name as profiles have it, by which measured figures are found.
fn model(run: &BenchRun) -> &str {
    run.conditions.profile.as_ref().map_or(&run.conditions.engine.id, |profile| &profile.model)
}

fn failed(cause: impl std::fmt::Display) -> ApplianceError {
    ApplianceError::Benchmarks { cause: cause.to_string() }
}

/// A run as a list shows it.
fn summary(run: &BenchRun) -> BenchSummary {
    let count = |state: BenchRowState| run.rows.iter().filter(|row| row.state == state).count() as u32;
    BenchSummary {
        id: run.id,
        state: run.state,
        started_ms: run.started_ms,
        seconds: run.ended_ms.map(|ended| (ended - run.started_ms) / 1000.0),
        model: run.conditions.engine.name.clone(),
        suite: run.order.suite,
        note: run.order.note.clone(),
        done: count(BenchRowState::Done),
        of: run.rows.len() as u32 - count(BenchRowState::Skipped),
        decode_tok_s: general(&run.rows).map(|figure| figure.median),
    }
}
