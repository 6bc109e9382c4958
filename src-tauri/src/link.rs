//! Keeps the window and an appliance together: looks for one, starts one if there is none, watches it, and says so.
//! `app` runs it once for the life of the window and turns its news into pages and tray icons.
//!
//!   look -> attached, watched once a second -> gone ---> failed: waits for Retry, and looks on its own meanwhile
//!     `--> start -> attached ...         `--> failed -^

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{self, Address, Glimpse};
use crate::error::DesktopError;
use crate::kept::{self, Kept};
use crate::place::Place;
use crate::words::Language;

const WATCH_EVERY: Duration = Duration::from_secs(1);
/// An appliance that systemd restarts, or a machine that swaps, is silent for a moment.
const SILENCES: u32 = 4;
const START_PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How the window stands to an appliance.
#[derive(Debug)]
pub enum Connection {
    /// Asking the port in the settings.
    Looking,
    /// Nobody was there; `hearth up` is starting.
    Starting,
    /// The dashboard is shown.
    Attached,
    /// Nothing to show.
    Failed(DesktopError),
}

impl Connection {
    /// For the waiting page.
    pub fn page(&self, language: Language) -> Value {
        let mut page = match self {
            Connection::Looking => json!({"kind": "looking"}),
            Connection::Starting => json!({"kind": "starting"}),
            Connection::Attached => json!({"kind": "attached"}),
            Connection::Failed(error) => json!({"kind": "failed", "fault": error.fault(language)}),
        };
        page["language"] = language.code().into();
        page
    }
}

/// What the window and the tray are told.
#[derive(Debug)]
pub enum News {
    /// Show the waiting page.
    Wait,
    /// Show this page.
    Show(String),
    /// The appliance says.
    Seen(Glimpse),
    /// There is no appliance to ask.
    Unseen,
}

/// The link between one window and the appliance.
pub struct Link {
    place: Place,
    connection: Mutex<Connection>,
    address: Mutex<Option<Address>>,
    kept: Mutex<Option<Kept>>,
    again: Notify,
}

/// Held only for a read or an assignment, so nothing can panic inside.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of these locks can panic")
}

impl Link {
    /// A link to whatever answers at `place`.
    pub fn new(place: Place) -> Link {
        Link {
            place,
            connection: Mutex::new(Connection::Looking),
            address: Mutex::new(None),
            kept: Mutex::new(None),
            again: Notify::new(),
        }
    }

    /// How it stands, for the waiting page.
    pub fn page(&self, language: Language) -> Value {
        lock(&self.connection).page(language)
    }

    /// The appliance that is shown.
    pub fn address(&self) -> Option<Address> {
        lock(&self.address).clone()
    }

    /// Whether the appliance is one that a window started, so that quitting may end it.
    pub fn keeps(&self) -> bool {
        lock(&self.kept).is_some()
    }

    /// Another try, asked for by a person.
    pub fn retry(&self) {
        self.again.notify_one();
    }

    /// Ends the appliance if a window started it.
    pub async fn stop_kept(&self) {
        let kept = lock(&self.kept).take();
        if let Some(kept) = kept {
            kept.stop().await;
        }
    }

    /// Runs for the life of the window.
    pub async fn run(&self, tell: impl Fn(News)) {
        let mut start = true;
        loop {
            self.set(Connection::Looking);
            let error = match self.reach(start).await {
                Ok(address) => {
                    *lock(&self.address) = Some(address.clone());
                    self.set(Connection::Attached);
                    tell(News::Show(address.page()));
                    let error = self.watch(&address, &tell).await;
                    *lock(&self.address) = None;
                    error
                }
                Err(error) => error,
            };
            self.set(Connection::Failed(error));
            tell(News::Unseen);
            tell(News::Wait);
            start = self.wait_for_retry().await;
        }
    }

    fn set(&self, connection: Connection) {
        *lock(&self.connection) = connection;
    }

    /// True when a person asked for another try, false when somebody else has started an appliance.
    async fn wait_for_retry(&self) -> bool {
        loop {
            if timeout(LOOK_AGAIN, self.again.notified()).await.is_ok() {
                return true;
            }
            if self.find().await.is_some() {
                return false;
            }
        }
    }

    /// The appliance that answers now, and its process id.
    async fn find(&self) -> Option<(Address, i32)> {
        let (address, pid) = self.place.running()?;
        client::state(&address).await.is_ok().then_some((address, pid))
    }

    async fn reach(&self, start: bool) -> Result<Address, DesktopError> {
        match self.find().await {
            Some((address, pid)) => {
                let mut kept = lock(&self.kept);
                if kept.as_ref().map(Kept::pid) != Some(pid) {
                    *kept = Kept::adopt(pid, &self.place.places.state);
                }
                Ok(address)
            }
            // Whatever stands in the way, `hearth up` names it.
            None if start => self.start().await,
            None => Err(self.gone()),
        }
    }

    async fn start(&self) -> Result<Address, DesktopError> {
        self.set(Connection::Starting);
        let program = self.place.program()?;
        // One that is still there and silent would be in the way of the new one.
        self.stop_kept().await;
        let mut kept = Kept::start(&program, self.place.port, &self.place.places.state)?;
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let ended = kept.ended();
            match (self.find().await, ended) {
                (Some((address, pid)), _) if pid == kept.pid() => {
                    *lock(&self.kept) = Some(kept);
                    return Ok(address);
                }
                // Somebody else was faster; theirs is as good, and not ours to stop.
                (Some((address, _)), Some(_)) => {
                    kept.forget();
                    return Ok(address);
                }
                (None, Some(status)) => {
                    kept.forget();
                    return Err(DesktopError::EndedEarly { status, said: self.said() });
                }
                (_, None) if Instant::now() > deadline => {
                    let said = self.said();
                    kept.stop().await;
                    return Err(DesktopError::NoAnswer { seconds: START_PATIENCE.as_secs(), said });
                }
                (_, None) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Returns when the appliance is gone.
    async fn watch(&self, address: &Address, tell: &impl Fn(News)) -> DesktopError {
        let mut silences = 0;
        while silences < SILENCES {
            match client::state(address).await {
                Ok(glimpse) => {
                    silences = 0;
                    tell(News::Seen(glimpse));
                }
                Err(_) => silences += 1,
            }
            if lock(&self.kept).as_mut().and_then(Kept::ended).is_some() {
                break;
            }
            sleep(WATCH_EVERY).await;
        }
        self.gone()
    }

    fn gone(&self) -> DesktopError {
        let mut kept = lock(&self.kept);
        let said = if kept.is_some() { self.said() } else { String::new() };
        if let Some(ours) = kept.as_mut()
            && ours.ended().is_some()
        {
            ours.forget();
            *kept = None;
        }
        DesktopError::Gone { said }
    }

    fn said(&self) -> String {
        kept::said(&self.place.places.state)
    }
}
