//! Conversations of the chat page, kept in a SQLite file of their own (`chats.db`) that nothing else reads: counts and times live
//! in the history, words live here, and only while the setting `keep_chats` is on. Called by the control API.

mod check;
mod store;
pub mod types;

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use store::Store;
use types::{Chat, ChatSummary};

pub(crate) use check::is_id;

use crate::{ApplianceError, control::types::Notice};

/// Most conversations a list names.
const LISTED: u32 = 500;

/// The handle; cheap to clone.
#[derive(Clone)]
pub(crate) struct Chats {
    store: Arc<Mutex<Store>>,
}

impl Chats {
    /// Opens (or begins) the file; one that cannot be used is moved aside, which the notice tells.
    pub(crate) fn open(path: &Path) -> (Chats, Option<Notice>) {
        let (store, notice) = Store::open_or_begin(path);
        (Chats { store: Arc::new(Mutex::new(store)) }, notice)
    }

    /// Away from the threads that serve: a search may read the whole file.
    async fn with<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Store) -> Result<T, ApplianceError> + Send + 'static,
    ) -> Result<T, ApplianceError> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || {
            // A job that panicked has left SQLite between two statements at most, and a transaction is rolled back.
            let mut store = store.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            job(&mut store)
        });
        done.await.unwrap_or_else(|error| Err(ApplianceError::Chats { cause: error.to_string() }))
    }

    /// Newest first; with words to search for, only those that have all of them.
    pub(crate) async fn list(&self, search: String) -> Result<Vec<ChatSummary>, ApplianceError> {
        self.with(move |store| store.list(&search, LISTED)).await
    }

    /// One conversation.
    pub(crate) async fn read(&self, id: String) -> Result<Option<Chat>, ApplianceError> {
        self.with(move |store| store.read(&id)).await
    }

    /// Keeps a conversation, in place of the one with the same id.
    pub(crate) async fn write(&self, chat: Chat) -> Result<(), ApplianceError> {
        check::check(&chat)?;
        self.with(move |store| store.write(&chat)).await
    }

    /// Removes one; false if there was none.
    pub(crate) async fn remove(&self, id: String) -> Result<bool, ApplianceError> {
        self.with(move |store| store.remove(&id)).await
    }

    /// Removes all, also from the file's free pages; how many there were.
    pub(crate) async fn remove_all(&self) -> Result<u32, ApplianceError> {
        self.with(Store::remove_all).await
    }
}

#[cfg(test)]
mod tests {
    use super::{
        types::{ChatEnd, ChatFigures, ChatMessage, ChatRole, ChatSampling},
        *,
    };

    fn message(id: &str, parent: Option<&str>, role: ChatRole, content: &str) -> ChatMessage {
        ChatMessage {
            id: id.into(),
            parent: parent.map(Into::into),
            role,
            content: content.into(),
            reasoning: String::new(),
            tool_calls: Vec::new(),
            end: ChatEnd::Done,
            fault: None,
            model: None,
            figures: ChatFigures::default(),
            at_ms: 1.0,
        }
    }

    fn chat(id: &str, words: &str) -> Chat {
        Chat {
            id: id.into(),
            title: format!("About {id}"),
            model: "ember".into(),
            system: String::new(),
            sampling: ChatSampling { temperature: Some(0.5), ..ChatSampling::default() },
            messages: vec![
                message("q", None, ChatRole::User, words),
                message("a1", Some("q"), ChatRole::Assistant, "First answer"),
                message("a2", Some("q"), ChatRole::Assistant, "Second answer"),
            ],
            head: Some("a2".into()),
            created_ms: 1.0,
            updated_ms: words.len() as f64,
        }
    }

    #[tokio::test]
    async fn a_conversation_with_its_branches_outlives_the_appliance() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chats.db");
        let (chats, notice) = Chats::open(&path);
        assert_eq!(notice, None);
        chats.write(chat("one", "short")).await.unwrap();
        chats.write(chat("two", "a longer question")).await.unwrap();
        let mut changed = chat("one", "short");
        changed.head = Some("a1".into());
        chats.write(changed.clone()).await.unwrap();
        drop(chats);
        let (chats, _) = Chats::open(&path);
        let list = chats.list(String::new()).await.unwrap();
        assert_eq!(list.iter().map(|chat| chat.id.as_str()).collect::<Vec<_>>(), ["two", "one"]);
        assert_eq!(chats.read("one".into()).await.unwrap(), Some(changed));
        assert_eq!(chats.read("none".into()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn all_words_are_found_whatever_their_case_accents_and_endings_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let (chats, _) = Chats::open(&folder.path().join("chats.db"));
        chats.write(chat("kiln", "Wie heiß wird der Ofen in Köln?")).await.unwrap();
        chats.write(chat("code", "What does fn main() { } do?")).await.unwrap();
        for (search, expected) in [
            ("koln", vec!["kiln"]),
            ("OFEN wird", vec!["kiln"]),
            ("mai", vec!["code"]),
            ("answer", vec!["code", "kiln"]),
            ("ofen main", vec![]),
            ("\"OR* NEAR(", vec![]),
            ("()", vec![]),
            ("about kiln", vec!["kiln"]),
        ] {
            let mut found: Vec<String> =
                chats.list(search.into()).await.unwrap().into_iter().map(|c| c.id).collect();
            found.sort();
            assert_eq!(found, expected, "{search}");
        }
        let found = chats.list("ofen".into()).await.unwrap();
        assert!(found[0].excerpt.as_ref().unwrap().contains("\u{2}Ofen\u{3}"), "{found:?}");
    }

    #[tokio::test]
    async fn what_is_deleted_is_gone_from_the_file_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chats.db");
        let (chats, _) = Chats::open(&path);
        chats.write(chat("one", "unmistakable-secret")).await.unwrap();
        chats.write(chat("two", "another-hidden-word")).await.unwrap();
        assert!(chats.remove("one".into()).await.unwrap());
        assert!(!chats.remove("one".into()).await.unwrap());
        assert_eq!(chats.list("unmistakable".into()).await.unwrap(), []);
        assert_eq!(chats.remove_all().await.unwrap(), 1);
        drop(chats);
        for entry in std::fs::read_dir(folder.path()).unwrap().flatten() {
            let bytes = std::fs::read(entry.path()).unwrap();
            for word in ["unmistakable", "hidden"] {
                let found = bytes.windows(word.len()).any(|window| window == word.as_bytes());
                assert!(!found, "{word} is still in {:?}", entry.path());
            }
        }
    }

    #[tokio::test]
    async fn what_could_not_be_shown_again_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (chats, _) = Chats::open(&folder.path().join("chats.db"));
        let broken: [fn(&mut Chat); 6] = [
            |chat| chat.id = "../up".into(),
            |chat| chat.head = Some("nobody".into()),
            |chat| chat.messages[1].id = "q".into(),
            |chat| chat.messages[0].parent = Some("a1".into()),
            |chat| chat.title = "x".repeat(1000),
            |chat| chat.updated_ms = f64::NAN,
        ];
        for (i, change) in broken.iter().enumerate() {
            let mut chat = chat("one", "words");
            change(&mut chat);
            assert_eq!(chats.write(chat).await.unwrap_err().code(), "bad_setting", "case {i}");
        }
        assert_eq!(chats.list(String::new()).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_file_that_is_no_database_is_moved_aside_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chats.db");
        std::fs::write(&path, [0xff; 4096]).unwrap();
        let (chats, notice) = Chats::open(&path);
        assert_eq!(notice.expect("it is told").code, "chats_moved");
        chats.write(chat("one", "words")).await.unwrap();
    }
}
