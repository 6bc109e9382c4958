//! The SQLite file of the conversations: one row each, and an index of their words.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::types::{Chat, ChatSummary};
use crate::{ApplianceError, control::types::Notice, history::move_aside};

/// `secure_delete` overwrites what is deleted, so that a deleted conversation is not in the file's free pages.
const TABLES: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    PRAGMA secure_delete = ON;
    CREATE TABLE IF NOT EXISTS chats (
        id TEXT PRIMARY KEY, title TEXT NOT NULL, model TEXT NOT NULL, updated_ms REAL NOT NULL, body TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS chats_by_time ON chats (updated_ms);
    CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (id UNINDEXED, title, text, tokenize = 'unicode61 remove_diacritics 2');
    INSERT INTO words (words, rank) VALUES ('secure-delete', 1);
    PRAGMA user_version = 1;";

pub(super) struct Store {
    db: Connection,
}

impl Store {
    pub(super) fn open_or_begin(path: &Path) -> (Store, Option<Notice>) {
        let error = match Store::open(path) {
            Ok(store) => return (store, None),
            Err(error) => error,
        };
        tracing::warn!(%error, "the conversations are begun anew");
        if let (Ok(aside), Ok(store)) = (move_aside(path), Store::open(path)) {
            let text = format!(
                "Your chats could not be read and were moved to {}; a new file is begun.",
                aside.display()
            );
            let notice = Notice::new("chats_moved", "warning", text);
            return (store, Some(notice.with("file", aside)));
        }
        let db = Connection::open_in_memory().expect("SQLite opens a database in memory");
        db.execute_batch(TABLES).expect("the tables are valid SQL");
        let text = format!("Your chats cannot be kept and will be lost at the end: {error}.");
        let notice = Notice::new("chats_in_memory", "warning", text);
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
        db.prepare("SELECT id, title, model, updated_ms, body FROM chats")?;
        Ok(Store { db })
    }

    pub(super) fn list(&self, search: &str, limit: u32) -> Result<Vec<ChatSummary>, ApplianceError> {
        if search.trim().is_empty() {
            let sql =
                "SELECT id, title, model, updated_ms, NULL FROM chats ORDER BY updated_ms DESC LIMIT ?1";
            return self.summaries(sql, params![limit]);
        }
        let Some(query) = query(search) else { return Ok(Vec::new()) };
        let sql = "SELECT chats.id, chats.title, chats.model, chats.updated_ms, snippet(words, 2, char(2), char(3), '…', 14)
            FROM words JOIN chats ON chats.id = words.id WHERE words MATCH ?1 ORDER BY chats.updated_ms DESC LIMIT ?2";
        self.summaries(sql, params![query, limit])
    }

    fn summaries(
        &self,
        sql: &str,
        values: &[&dyn rusqlite::ToSql],
    ) -> Result<Vec<ChatSummary>, ApplianceError> {
        let read = || -> rusqlite::Result<Vec<ChatSummary>> {
            let mut statement = self.db.prepare_cached(sql)?;
            let rows = statement.query_map(values, |row| {
                Ok(ChatSummary {
                    id: row.get(0)?,
                    title: row.get(1)?,
                    model: row.get(2)?,
                    updated_ms: row.get(3)?,
                    excerpt: row.get(4)?,
                })
            })?;
            rows.collect()
        };
        read().map_err(failed)
    }

    pub(super) fn read(&self, id: &str) -> Result<Option<Chat>, ApplianceError> {
        let body: Option<String> = self
            .db
            .query_row("SELECT body FROM chats WHERE id = ?1", [id], |row| row.get(0))
            .optional()
            .map_err(failed)?;
        body.map(|body| serde_json::from_str(&body).map_err(failed)).transpose()
    }

    pub(super) fn write(&mut self, chat: &Chat) -> Result<(), ApplianceError> {
        let body = serde_json::to_string(chat).map_err(failed)?;
        let change = self.db.transaction().map_err(failed)?;
        let write = || -> rusqlite::Result<()> {
            let sql = "INSERT OR REPLACE INTO chats (id, title, model, updated_ms, body) VALUES (?1, ?2, ?3, ?4, ?5)";
            change.execute(sql, params![chat.id, chat.title, chat.model, chat.updated_ms, body])?;
            change.execute("DELETE FROM words WHERE id = ?1", [&chat.id])?;
            change.execute(
                "INSERT INTO words (id, title, text) VALUES (?1, ?2, ?3)",
                params![chat.id, chat.title, text(chat)],
            )?;
            Ok(())
        };
        write().map_err(failed)?;
        change.commit().map_err(failed)
    }

    pub(super) fn remove(&mut self, id: &str) -> Result<bool, ApplianceError> {
        let mut remove = || -> rusqlite::Result<bool> {
            let change = self.db.transaction()?;
            let removed = change.execute("DELETE FROM chats WHERE id = ?1", [id])? > 0;
            change.execute("DELETE FROM words WHERE id = ?1", [id])?;
            change.commit()?;
            Ok(removed)
        };
        let removed = remove().map_err(failed)?;
        self.forget()?;
        Ok(removed)
    }

    pub(super) fn remove_all(&mut self) -> Result<u32, ApplianceError> {
        let removed = self.db.execute("DELETE FROM chats", []).map_err(failed)?;
        self.db.execute("DELETE FROM words", []).map_err(failed)?;
        self.forget()?;
        self.db.execute_batch("VACUUM").map_err(failed)?;
        self.forget()?;
        Ok(u32::try_from(removed).unwrap_or(u32::MAX))
    }

    /// The log beside the file holds what was written last; what was deleted must not stay in it, nor in an index's old parts.
    fn forget(&self) -> Result<(), ApplianceError> {
        let merge = "INSERT INTO words (words) VALUES ('optimize'); PRAGMA wal_checkpoint(TRUNCATE);";
        self.db.execute_batch(merge).map_err(failed)
    }
}

fn failed(cause: impl std::fmt::Display) -> ApplianceError {
    ApplianceError::Chats { cause: cause.to_string() }
}

/// The words that a search looks through: questions and answers of all branches, thoughts not.
fn text(chat: &Chat) -> String {
    chat.messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n")
}

/// FTS5's query for "all of these words, each perhaps only begun"; null if there is no word in it.
fn query(search: &str) -> Option<String> {
    let words = search.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let terms: Vec<String> = words.map(|word| format!("\"{word}\"*")).collect();
    (!terms.is_empty()).then(|| terms.join(" "))
}
