//! What was: finished requests (never their text), samples for the charts, marks. Kept in SQLite by one thread that owns the
//! connection; everybody else sends it jobs. Losing the history never stops the appliance.

mod chart;
mod store;
mod usage;

use std::{
    path::Path,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use chart::Charts;
pub(crate) use chart::Sample;
use store::Store;
pub(crate) use store::move_aside;

use crate::{
    board::Spent,
    control::types::{History as Chart, HistoryEvent, Notice, RequestRecord, Usage},
};

/// Samples are written together this often; at most this much is lost when the power fails.
const FLUSH: Duration = Duration::from_secs(15);

type Job = Box<dyn FnOnce(&mut Keeper) + Send>;

struct Keeper {
    store: Store,
    charts: Charts,
    spent: usage::Unwritten,
}

impl Keeper {
    /// Writes what is only in memory.
    fn flush(&mut self) {
        self.store.write_samples(self.charts.unwritten());
        self.store.write_spent(std::mem::take(&mut self.spent));
    }
}

/// The handle.
#[derive(Debug)]
pub(crate) struct History {
    jobs: mpsc::Sender<Job>,
    thread: Option<JoinHandle<()>>,
}

impl History {
    /// Opens (or begins) the history. A file that cannot be used is moved aside; if even that fails, memory is used. Either is
    /// told by the notice.
    pub(crate) fn open(path: &Path) -> (History, Option<Notice>) {
        let (store, notice) = Store::open_or_begin(path);
        let charts = Charts::new(store.samples());
        let (jobs, inbox) = mpsc::channel::<Job>();
        let keep = move || {
            let mut keeper = Keeper { store, charts, spent: usage::Unwritten::default() };
            let mut flushed = Instant::now();
            loop {
                match inbox.recv_timeout(FLUSH) {
                    Ok(job) => job(&mut keeper),
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => break,
                }
                if flushed.elapsed() >= FLUSH {
                    keeper.flush();
                    flushed = Instant::now();
                }
            }
            keeper.flush();
        };
        let thread = thread::Builder::new().name("history".into()).spawn(keep).ok();
        (History { jobs, thread }, notice)
    }

    fn tell(&self, job: impl FnOnce(&mut Keeper) + Send + 'static) {
        let _ = self.jobs.send(Box::new(job));
    }

    async fn ask<T: Send + 'static>(&self, job: impl FnOnce(&mut Keeper) -> T + Send + 'static) -> Option<T> {
        let (answer, wait) = oneshot::channel();
        self.tell(move |keeper| {
            let _ = answer.send(job(keeper));
        });
        wait.await.ok()
    }

    /// Adds a sample of one second.
    pub(crate) fn sample(&self, sample: Sample) {
        self.tell(move |keeper| keeper.charts.push(sample));
    }

    /// Adds a stretch of time with an engine that ended at `t_ms`.
    pub(crate) fn spend(&self, t_ms: f64, spent: Spent) {
        self.tell(move |keeper| {
            if let Some(earlier) = keeper.spent.add(t_ms, spent) {
                keeper.store.write_spent(earlier);
            }
        });
    }

    /// What was served in the last `hours`; null if it cannot be read.
    pub(crate) async fn usage(&self, now_ms: f64, hours: u32) -> Option<Usage> {
        let sums = self.ask(move |keeper| {
            keeper.store.write_spent(std::mem::take(&mut keeper.spent));
            keeper.store.usage(now_ms, hours)
        });
        sums.await.flatten()
    }

    /// Adds a mark.
    pub(crate) fn mark(&self, event: HistoryEvent) {
        self.tell(move |keeper| {
            keeper.store.add_event(&event);
        });
    }

    /// Adds a request and gives it its row number.
    pub(crate) async fn add(&self, record: RequestRecord) -> RequestRecord {
        let same = record.clone();
        let added = self.ask(move |keeper| {
            let row = keeper.store.add_request(&record);
            RequestRecord { row, ..record }
        });
        added.await.unwrap_or(same)
    }

    /// The last requests, newest first.
    pub(crate) async fn requests(&self, limit: u32) -> Vec<RequestRecord> {
        self.ask(move |keeper| keeper.store.requests(limit)).await.unwrap_or_default()
    }

    /// Rates of decode of the last answers of a model since a time, and when the newest of them began; null if it cannot be read.
    pub(crate) async fn decode_rates(&self, model: String, since_ms: f64) -> Option<(Vec<f64>, f64)> {
        self.ask(move |keeper| keeper.store.decode_rates(&model, since_ms).ok()).await.flatten()
    }

    /// The charts of the last `seconds`.
    pub(crate) async fn chart(&self, now_ms: f64, seconds: u32) -> Chart {
        let chart = self.ask(move |keeper| {
            let from = now_ms - f64::from(seconds) * 1000.0;
            keeper.charts.chart(now_ms, seconds, keeper.store.events(from))
        });
        chart.await.unwrap_or_else(|| Charts::new(Vec::new()).chart(now_ms, seconds, Vec::new()))
    }
}

impl Drop for History {
    fn drop(&mut self) {
        // Closing the channel lets the thread write what it holds; wait for that.
        self.jobs = mpsc::channel().0;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str) -> RequestRecord {
        RequestRecord {
            row: 0.0,
            id: id.into(),
            kind: "chat".into(),
            model: "ember".into(),
            started_ms: 1000.0,
            total_s: 2.0,
            prompt_tokens: Some(5),
            cached_tokens: None,
            output_tokens: Some(7),
            queue_s: Some(0.0),
            ttft_s: None,
            decode_tok_s: Some(12.5),
            finish: "stop".into(),
            error: None,
            error_code: None,
        }
    }

    #[tokio::test]
    async fn requests_samples_and_marks_outlive_the_appliance() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        let (history, notice) = History::open(&path);
        assert_eq!(notice, None);
        let refused = RequestRecord {
            finish: "refused".into(),
            error: Some("The body is empty.".into()),
            error_code: Some("empty_body".into()),
            ..request("a")
        };
        let first = history.add(refused).await;
        let second = history.add(request("b")).await;
        assert!(second.row > first.row);
        history.sample(Sample { t_ms: 10_000.0, decode_tok_s: Some(40.0), ..Sample::default() });
        history.mark(HistoryEvent { t_ms: 10_000.0, kind: "started".into(), text: "ember".into() });
        drop(history);
        let (history, _) = History::open(&path);
        let rows = history.requests(10).await;
        assert_eq!(rows.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(rows[1], first);
        let chart = history.chart(11_000.0, 60).await;
        assert_eq!((chart.decode_tok_s, chart.events.len()), (vec![Some(40.0)], 1));
    }

    #[tokio::test]
    async fn rates_are_those_of_a_persons_long_answers_since_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (history, _) = History::open(&folder.path().join("history.db"));
        let long = |id: &str, started_ms: f64, rate: f64| RequestRecord {
            started_ms,
            decode_tok_s: Some(rate),
            output_tokens: Some(200),
            ..request(id)
        };
        for record in [
            long("before", 10.0, 1.0),
            long("a", 1000.0, 50.0),
            long("bench-1f-3", 1100.0, 90.0),
            RequestRecord { output_tokens: Some(8), ..long("short", 1200.0, 7.0) },
            RequestRecord { finish: "cancelled".into(), ..long("cancelled", 1300.0, 8.0) },
            RequestRecord { model: "other".into(), ..long("other", 1400.0, 9.0) },
            long("b", 1500.0, 60.0),
        ] {
            history.add(record).await;
        }
        assert_eq!(history.decode_rates("ember".into(), 500.0).await, Some((vec![60.0, 50.0], 1500.0)));
        assert_eq!(history.decode_rates("none".into(), 500.0).await, Some((vec![], 500.0)));
    }

    #[tokio::test]
    async fn what_was_served_is_summed_and_outlives_the_requests_and_the_appliance() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        let (history, _) = History::open(&path);
        let cached = RequestRecord { cached_tokens: Some(3), ..request("a") };
        history.add(cached).await;
        history
            .add(RequestRecord { output_tokens: None, prompt_tokens: None, ..request("failed early") })
            .await;
        history.add(RequestRecord { finish: "refused".into(), ..request("refused") }).await;
        history.spend(3000.0, Spent { seconds: 1.0, joules: Some(45.0) });
        history.spend(4000.0, Spent { seconds: 1.0, joules: None });
        drop(history);
        let (history, _) = History::open(&path);
        let usage = history.usage(5000.0, 24).await.unwrap();
        assert_eq!(
            (usage.requests, usage.prompt_tokens, usage.cached_tokens, usage.output_tokens),
            (2.0, 5.0, 3.0, 7.0)
        );
        assert_eq!((usage.energy_j, usage.measured_s, usage.loaded_s), (Some(45.0), 1.0, 2.0));
    }

    #[tokio::test]
    async fn a_history_of_the_first_version_is_read_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        let old = rusqlite::Connection::open(&path).unwrap();
        old.execute_batch(
            "CREATE TABLE requests (row INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, kind TEXT NOT NULL,
                model TEXT NOT NULL, started_ms REAL NOT NULL, total_s REAL NOT NULL, prompt_tokens INTEGER,
                cached_tokens INTEGER, output_tokens INTEGER, queue_s REAL, ttft_s REAL, decode_tok_s REAL,
                finish TEXT NOT NULL, error TEXT);
             CREATE TABLE samples (step INTEGER NOT NULL, t_ms REAL NOT NULL, decode_tok_s REAL, prefill_tok_s REAL,
                bandwidth_gb_s REAL, memory_bytes REAL, PRIMARY KEY (step, t_ms)) WITHOUT ROWID;
             INSERT INTO samples VALUES (1, 9000, 40, NULL, NULL, NULL);
             INSERT INTO requests (id, kind, model, started_ms, total_s, finish) VALUES ('old', 'chat', 'm', 1, 2, 'stop');
             PRAGMA user_version = 1;",
        )
        .unwrap();
        drop(old);
        let (history, notice) = History::open(&path);
        assert_eq!(notice, None);
        history.add(RequestRecord { error_code: Some("empty_body".into()), ..request("new") }).await;
        history.sample(Sample { t_ms: 10_000.0, power_w: Some(48.0), ..Sample::default() });
        drop(history);
        let (history, _) = History::open(&path);
        let chart = history.chart(11_000.0, 60).await;
        assert_eq!((chart.power_w, chart.decode_tok_s), (vec![None, Some(48.0)], vec![Some(40.0), None]));
        let rows = history.requests(10).await;
        let codes: Vec<_> = rows.iter().map(|row| (row.id.as_str(), row.error_code.as_deref())).collect();
        assert_eq!(codes, [("new", Some("empty_body")), ("old", None)]);
    }

    #[tokio::test]
    async fn refusals_push_out_other_refusals_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (history, _) = History::open(&folder.path().join("history.db"));
        history.add(request("answered")).await;
        for i in 0..1010 {
            history.add(RequestRecord { finish: "refused".into(), ..request(&format!("refused-{i}")) }).await;
        }
        let rows = history.requests(5000).await;
        assert_eq!(
            (rows.len(), rows[1000].id.as_str(), rows[999].id.as_str()),
            (1001, "answered", "refused-10")
        );
    }

    #[tokio::test]
    async fn a_broken_file_is_moved_aside_with_a_notice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        for rubbish in [&b"this is not a database, and long enough to be looked at"[..], &[0xff; 8192]] {
            std::fs::write(&path, rubbish).unwrap();
            let (history, notice) = History::open(&path);
            assert_eq!(notice.expect("it is told").code, "history_moved");
            history.add(request("a")).await;
            assert_eq!(history.requests(10).await.len(), 1);
            drop(history);
            std::fs::remove_file(&path).unwrap();
        }
        let kept = std::fs::read_dir(folder.path()).unwrap().flatten();
        assert_eq!(kept.filter(|e| e.file_name().to_string_lossy().contains("broken")).count(), 2);
    }

    #[tokio::test]
    async fn a_file_that_breaks_in_the_middle_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        let (history, _) = History::open(&path);
        for i in 0..500 {
            history.add(request(&format!("request-{i}"))).await;
        }
        drop(history);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[4096..middle].fill(0xaa);
        std::fs::write(&path, bytes).unwrap();
        let (_history, notice) = History::open(&path);
        assert_eq!(notice.expect("it is told").code, "history_moved");
    }
}
