//! The SQLite file: tables, rows in and out, and what happens when the file is broken.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, Row, params};

use super::{
    chart::{COARSE_MIN, FINE_S, Sample, Stepped},
    usage,
};
use crate::{
    ApplianceError,
    control::types::{HistoryEvent, Notice, RequestRecord, Usage},
    supervisor::now_ms,
};

/// Requests kept.
const REQUESTS_KEPT: i64 = 10_000;
/// Refused requests kept among them: a client that is refused again and again must not push out what was answered.
const REFUSED_KEPT: i64 = 1000;
/// Marks kept.
const EVENTS_KEPT: i64 = 1000;

const TABLES: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    CREATE TABLE IF NOT EXISTS requests (
        row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL,
        started_ms REAL NOT NULL, total_s REAL NOT NULL, prompt_tokens INTEGER, cached_tokens INTEGER,
        output_tokens INTEGER, queue_s REAL, ttft_s REAL, decode_tok_s REAL, finish TEXT NOT NULL, error TEXT,
        error_code TEXT);
    CREATE TABLE IF NOT EXISTS samples (
        step INTEGER NOT NULL, t_ms REAL NOT NULL, decode_tok_s REAL, prefill_tok_s REAL, bandwidth_gb_s REAL,
        memory_bytes REAL, power_w REAL, temperature_c REAL, clock_mhz REAL, tokens_per_round REAL,
        PRIMARY KEY (step, t_ms)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS events (
        row INTEGER PRIMARY KEY AUTOINCREMENT, t_ms REAL NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL);
    PRAGMA user_version = 3;";

/// Columns that tables of earlier versions lack.
const ADDED: [(&str, &str, &str); 5] = [
    ("requests", "error_code", "TEXT"),
    ("samples", "power_w", "REAL"),
    ("samples", "temperature_c", "REAL"),
    ("samples", "clock_mhz", "REAL"),
    ("samples", "tokens_per_round", "REAL"),
];

pub(super) struct Store {
    db: Connection,
}

impl Store {
    pub(super) fn open_or_begin(path: &Path) -> (Store, Option<Notice>) {
        let error = match Store::open(path) {
            Ok(store) => return (store, None),
            Err(error) => error,
        };
        tracing::warn!(%error, "the history is begun anew");
        let aside = move_aside(path);
        if let (Ok(aside), Ok(store)) = (&aside, Store::open(path)) {
            let text = format!(
                "The history could not be read and was moved to {}; a new one is begun.",
                aside.display()
            );
            let notice = Notice::new("history_moved", "warning", text);
            return (store, Some(notice.with("file", aside)));
        }
        let db = Connection::open_in_memory().expect("SQLite opens a database in memory");
        db.execute_batch(TABLES)
            .and_then(|()| db.execute_batch(usage::TABLE))
            .expect("the tables are valid SQL");
        let text = format!("The history cannot be kept and will be lost at the end: {error}.");
        let notice = Notice::new("history_in_memory", "warning", text);
        (Store { db }, Some(notice.with("reason", error.to_string())))
    }

    fn open(path: &Path) -> Result<Store, ApplianceError> {
        let failed = |cause| ApplianceError::History { path: path.into(), cause };
        let db = Connection::open(path).map_err(failed)?;
        let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if verdict != "ok" {
            return Err(failed(rusqlite::Error::InvalidParameterName(verdict)));
        }
        db.execute_batch(TABLES).and_then(|()| db.execute_batch(usage::TABLE)).map_err(failed)?;
        for (table, column, kind) in ADDED {
            let has = "SELECT COUNT(*) FROM pragma_table_info(?1) WHERE name = ?2";
            let there: i64 = db.query_row(has, [table, column], |row| row.get(0)).map_err(failed)?;
            if there == 0 {
                db.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} {kind}"))
                    .map_err(failed)?;
            }
        }
        // A table of the same name from elsewhere passes the statements above; reading shows whether it is ours.
        db.prepare(REQUEST_COLUMNS).map_err(failed)?;
        Ok(Store { db })
    }

    pub(super) fn add_request(&self, r: &RequestRecord) -> f64 {
        let sql = "INSERT INTO requests (id, kind, model, started_ms, total_s, prompt_tokens, cached_tokens, output_tokens,
            queue_s, ttft_s, decode_tok_s, finish, error, error_code)
            VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14)";
        let values = params![
            r.id,
            r.kind,
            r.model,
            r.started_ms,
            r.total_s,
            r.prompt_tokens,
            r.cached_tokens,
            r.output_tokens,
            r.queue_s,
            r.ttft_s,
            r.decode_tok_s,
            r.finish,
            r.error,
            r.error_code
        ];
        if let Err(error) = self.db.execute(sql, values) {
            tracing::warn!(%error, "a request is missing from the history");
            return 0.0;
        }
        let row = self.db.last_insert_rowid();
        if let Err(error) = usage::add_request(&self.db, r) {
            tracing::warn!(%error, "a request is missing from the sums");
        }
        let _ = self.db.execute("DELETE FROM requests WHERE row <= ?1", [row - REQUESTS_KEPT]);
        if r.finish == "refused" {
            let _ = self.db.execute(OLD_REFUSALS, [REFUSED_KEPT]);
        }
        row as f64
    }

    pub(super) fn requests(&self, limit: u32) -> Vec<RequestRecord> {
        self.rows(&format!("{REQUEST_COLUMNS} ORDER BY row DESC LIMIT {limit}"), 0.0, |row| {
            Ok(RequestRecord {
                row: row.get::<_, i64>(0)? as f64,
                id: row.get(1)?,
                kind: row.get(2)?,
                model: row.get(3)?,
                started_ms: row.get(4)?,
                total_s: row.get(5)?,
                prompt_tokens: row.get(6)?,
                cached_tokens: row.get(7)?,
                output_tokens: row.get(8)?,
                queue_s: row.get(9)?,
                ttft_s: row.get(10)?,
                decode_tok_s: row.get(11)?,
                finish: row.get(12)?,
                error: row.get(13)?,
                error_code: row.get(14)?,
            })
        })
    }

    /// Rates of the last answers of a model since a time that were long enough to have one, and when the newest began. Those of
    /// benchmarks are not a person's.
    pub(super) fn decode_rates(&self, model: &str, since_ms: f64) -> rusqlite::Result<(Vec<f64>, f64)> {
        let mut statement = self.db.prepare_cached(
            "SELECT decode_tok_s, started_ms FROM requests WHERE model = ?1 AND started_ms >= ?2 AND decode_tok_s > 0
                AND output_tokens >= 32 AND finish IN ('stop', 'length') AND id NOT LIKE 'bench-%'
                ORDER BY row DESC LIMIT 100",
        )?;
        let rows = statement.query_map(params![model, since_ms], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rows = rows.collect::<rusqlite::Result<Vec<(f64, f64)>>>()?;
        let newest = rows.first().map_or(since_ms, |(_, started_ms)| *started_ms);
        Ok((rows.into_iter().map(|(rate, _)| rate).collect(), newest))
    }

    pub(super) fn add_event(&self, event: &HistoryEvent) {
        let sql = "INSERT INTO events (t_ms, kind, text) VALUES (?1, ?2, ?3)";
        match self.db.execute(sql, params![event.t_ms, event.kind, event.text]) {
            Ok(_) => {
                let last = self.db.last_insert_rowid();
                let _ = self.db.execute("DELETE FROM events WHERE row <= ?1", [last - EVENTS_KEPT]);
            }
            Err(error) => tracing::warn!(%error, "a mark is missing from the history"),
        }
    }

    pub(super) fn events(&self, from_ms: f64) -> Vec<HistoryEvent> {
        self.rows("SELECT t_ms, kind, text FROM events WHERE t_ms >= ?1 ORDER BY t_ms", from_ms, |row| {
            Ok(HistoryEvent { t_ms: row.get(0)?, kind: row.get(1)?, text: row.get(2)? })
        })
    }

    /// Writes in one transaction, and forgets what the charts no longer show.
    pub(super) fn write_samples(&mut self, samples: Vec<Stepped>) {
        if samples.is_empty() {
            return;
        }
        let now = samples.last().map_or_else(now_ms, |(_, sample)| sample.t_ms);
        let write = |db: &mut Connection| -> rusqlite::Result<()> {
            let change = db.transaction()?;
            for (step, s) in samples {
                change.prepare_cached(INSERT_SAMPLE)?.execute(params![
                    step,
                    s.t_ms,
                    s.decode_tok_s,
                    s.prefill_tok_s,
                    s.bandwidth_gb_s,
                    s.memory_bytes,
                    s.power_w,
                    s.temperature_c,
                    s.clock_mhz,
                    s.tokens_per_round
                ])?;
            }
            let old = "DELETE FROM samples WHERE step = ?1 AND t_ms < ?2";
            change.execute(old, params![1, now - 1000.0 * FINE_S as f64])?;
            change.execute(old, params![60, now - 60_000.0 * COARSE_MIN as f64])?;
            change.commit()
        };
        if let Err(error) = write(&mut self.db) {
            tracing::warn!(%error, "samples are missing from the history");
        }
    }

    /// All samples, oldest first.
    pub(super) fn samples(&self) -> Vec<Stepped> {
        let sql = "SELECT step, t_ms, decode_tok_s, prefill_tok_s, bandwidth_gb_s, memory_bytes, power_w, temperature_c,
            clock_mhz, tokens_per_round FROM samples WHERE t_ms >= ?1 ORDER BY t_ms";
        self.rows(sql, 0.0, |row| {
            let sample = Sample {
                t_ms: row.get(1)?,
                decode_tok_s: row.get(2)?,
                prefill_tok_s: row.get(3)?,
                bandwidth_gb_s: row.get(4)?,
                memory_bytes: row.get(5)?,
                power_w: row.get(6)?,
                temperature_c: row.get(7)?,
                clock_mhz: row.get(8)?,
                tokens_per_round: row.get(9)?,
            };
            Ok((row.get(0)?, sample))
        })
    }

    /// Adds time with an engine to the sums.
    pub(super) fn write_spent(&self, unwritten: usage::Unwritten) {
        if let Err(error) = unwritten.write(&self.db) {
            tracing::warn!(%error, "energy is missing from the sums");
        }
    }

    /// What was served in the last `hours`; null if the file cannot be read.
    pub(super) fn usage(&self, now_ms: f64, hours: u32) -> Option<Usage> {
        usage::sum(&self.db, now_ms, hours).inspect_err(|error| tracing::warn!(%error, "no sums")).ok()
    }

    /// Rows of a query with one parameter; a query that fails gives none.
    fn rows<T>(&self, sql: &str, from: f64, read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
        let query = || -> rusqlite::Result<Vec<T>> {
            self.db.prepare_cached(sql)?.query_map([from], read)?.collect()
        };
        query().unwrap_or_else(|error| {
            tracing::warn!(%error, "the history cannot be read");
            Vec::new()
        })
    }
}

const INSERT_SAMPLE: &str = "INSERT OR REPLACE INTO samples (step, t_ms, decode_tok_s, prefill_tok_s, bandwidth_gb_s,
    memory_bytes, power_w, temperature_c, clock_mhz, tokens_per_round) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)";

const OLD_REFUSALS: &str = "DELETE FROM requests WHERE finish = 'refused' AND row <=
    (SELECT row FROM requests WHERE finish = 'refused' ORDER BY row DESC LIMIT 1 OFFSET ?1)";

const REQUEST_COLUMNS: &str =
    "SELECT row, id, kind, model, started_ms, total_s, prompt_tokens, cached_tokens, output_tokens,
    queue_s, ttft_s, decode_tok_s, finish, error, error_code FROM requests WHERE row > ?1";

/// Renames the file (and SQLite's side files, which belong to it) out of the way.
pub(crate) fn move_aside(path: &Path) -> std::io::Result<PathBuf> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let stamp = format!("{:.0}", now_ms());
    let aside = beside(&format!(".broken-{stamp}"));
    std::fs::rename(path, &aside)?;
    for side in ["-wal", "-shm"] {
        let _ = std::fs::rename(beside(side), beside(&format!(".broken-{stamp}{side}")));
    }
    Ok(aside)
}
