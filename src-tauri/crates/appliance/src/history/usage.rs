//! What was served and what it took, by the hour: the cost card's figures. Kept apart from the requests, which are forgotten after
//! some thousands.

use rusqlite::{Connection, params};

use crate::{
    board::Spent,
    control::types::{RequestRecord, Usage},
};

pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS usage (
        hour INTEGER PRIMARY KEY, requests INTEGER NOT NULL DEFAULT 0, prompt_tokens INTEGER NOT NULL DEFAULT 0,
        cached_tokens INTEGER NOT NULL DEFAULT 0, output_tokens INTEGER NOT NULL DEFAULT 0, energy_j REAL NOT NULL DEFAULT 0,
        measured_s REAL NOT NULL DEFAULT 0, loaded_s REAL NOT NULL DEFAULT 0);";

/// Hours kept: more than a year.
const KEPT: i64 = 400 * 24;

fn hour(t_ms: f64) -> i64 {
    (t_ms / 3_600_000.0).floor() as i64
}

/// Time with an engine that is not on disk yet.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    hour: i64,
    energy_j: f64,
    measured_s: f64,
    loaded_s: f64,
}

impl Unwritten {
    /// Adds a stretch that ended at `t_ms`; what belongs to an earlier hour comes back, to be written.
    pub(super) fn add(&mut self, t_ms: f64, spent: Spent) -> Option<Unwritten> {
        let now = hour(t_ms);
        let earlier = (self.loaded_s > 0.0 && self.hour != now).then(|| std::mem::take(self));
        self.hour = now;
        self.loaded_s += spent.seconds;
        if let Some(joules) = spent.joules {
            self.energy_j += joules;
            self.measured_s += spent.seconds;
        }
        earlier
    }

    /// Adds it to the table.
    pub(super) fn write(self, db: &Connection) -> rusqlite::Result<()> {
        if self.loaded_s <= 0.0 {
            return Ok(());
        }
        db.prepare_cached(
            "INSERT INTO usage (hour, energy_j, measured_s, loaded_s) VALUES (?1,?2,?3,?4) ON CONFLICT (hour) DO UPDATE SET
                energy_j = energy_j + ?2, measured_s = measured_s + ?3, loaded_s = loaded_s + ?4",
        )?
        .execute(params![self.hour, self.energy_j, self.measured_s, self.loaded_s])?;
        db.prepare_cached("DELETE FROM usage WHERE hour < ?1")?.execute([self.hour - KEPT])?;
        Ok(())
    }
}

/// Adds a finished request. One that was refused served nothing.
pub(super) fn add_request(db: &Connection, request: &RequestRecord) -> rusqlite::Result<()> {
    if request.finish == "refused" {
        return Ok(());
    }
    let ended = request.started_ms + 1000.0 * request.total_s;
    let (prompt, cached) = (request.prompt_tokens.unwrap_or(0), request.cached_tokens.unwrap_or(0));
    db.prepare_cached(
        "INSERT INTO usage (hour, requests, prompt_tokens, cached_tokens, output_tokens) VALUES (?1,1,?2,?3,?4)
            ON CONFLICT (hour) DO UPDATE SET requests = requests + 1, prompt_tokens = prompt_tokens + ?2,
            cached_tokens = cached_tokens + ?3, output_tokens = output_tokens + ?4",
    )?
    .execute(params![hour(ended), prompt, cached, request.output_tokens.unwrap_or(0)])?;
    Ok(())
}

/// The sums of the last `hours`, the running one included.
pub(super) fn sum(db: &Connection, now_ms: f64, hours: u32) -> rusqlite::Result<Usage> {
    let sql = "SELECT TOTAL(requests), TOTAL(prompt_tokens), TOTAL(cached_tokens), TOTAL(output_tokens), TOTAL(energy_j),
        TOTAL(measured_s), TOTAL(loaded_s) FROM usage WHERE hour > ?1 AND hour <= ?2";
    let now = hour(now_ms);
    db.prepare_cached(sql)?.query_row([now - i64::from(hours), now], |row| {
        let measured_s: f64 = row.get(5)?;
        let energy: f64 = row.get(4)?;
        Ok(Usage {
            hours,
            requests: row.get(0)?,
            prompt_tokens: row.get(1)?,
            cached_tokens: row.get(2)?,
            output_tokens: row.get(3)?,
            energy_j: (measured_s > 0.0).then_some(energy),
            measured_s,
            loaded_s: row.get(6)?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: f64 = 3_600_000.0;

    fn table() -> Connection {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(TABLE).unwrap();
        db
    }

    fn spent(seconds: f64, joules: Option<f64>) -> Spent {
        Spent { seconds, joules }
    }

    #[test]
    fn energy_is_summed_by_the_hour_and_unknown_stays_unknown() {
        let db = table();
        let mut unwritten = Unwritten::default();
        assert!(unwritten.add(0.5 * HOUR, spent(1.0, None)).is_none());
        std::mem::take(&mut unwritten).write(&db).unwrap();
        assert_eq!(sum(&db, 0.9 * HOUR, 24).unwrap().energy_j, None);
        for _ in 0..10 {
            assert!(unwritten.add(0.9 * HOUR, spent(1.0, Some(50.0))).is_none());
        }
        let earlier = unwritten.add(1.1 * HOUR, spent(1.0, Some(7.0))).expect("the first hour is over");
        earlier.write(&db).unwrap();
        unwritten.write(&db).unwrap();
        let day = sum(&db, 1.2 * HOUR, 24).unwrap();
        assert_eq!((day.energy_j, day.measured_s, day.loaded_s), (Some(507.0), 11.0, 12.0));
        assert_eq!(sum(&db, 1.2 * HOUR, 1).unwrap().energy_j, Some(7.0));
        assert_eq!(sum(&db, 30.0 * HOUR, 24).unwrap().loaded_s, 0.0);
    }
}
