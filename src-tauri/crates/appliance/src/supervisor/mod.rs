//! Keeps one engine process alive: start, watch, drain, restart, give up. Everybody else sees its `EngineView` and sends `Order`s.
//!
//! A crash after the engine was ready is answered with a restart, as often as it takes, with a growing pause. A failure before
//! that is probably deterministic: the same fault three times in a row ends in the error state, where a person decides.

mod drive;
mod log;
mod policy;
mod process;
#[cfg(test)]
mod tests;
mod view;

use std::{path::PathBuf, sync::Arc};

use hearth_engine::status::FinishedRequest;
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub use log::LogBook;
pub use policy::Policy;
pub(crate) use view::now_ms;
pub use view::{EngineView, Life, Reach, Target};

use crate::{Places, control::types::Profile};

/// What the supervisor can be told.
#[derive(Debug)]
pub enum Order {
    /// Start (or replace) the engine.
    Start(Profile),
    /// The same, although it does not seem to fit.
    StartAnyway(Profile),
    /// Finish what runs, or cut it off, and stop.
    Stop {
        /// Cut it off.
        now: bool,
    },
    /// Stop and end the supervisor; answered when the engine is gone.
    Shutdown(oneshot::Sender<()>),
}

/// A request that ended, with the model that answered it.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Model id.
    pub model: String,
    /// The engine's record.
    pub request: FinishedRequest,
}

/// What the supervisor needs to know.
#[derive(Debug, Clone)]
pub struct SupervisorOptions {
    /// The `hearth` program.
    pub program: PathBuf,
    /// Where sockets and logs go.
    pub places: Places,
    /// What is started first, or shown as stopped.
    pub profile: Profile,
    /// Times and counts.
    pub policy: Policy,
}

/// The handle: cheap to clone.
#[derive(Debug, Clone)]
pub struct Supervisor {
    orders: mpsc::Sender<Order>,
    view: watch::Receiver<EngineView>,
    stirred: Arc<Notify>,
    log: Arc<LogBook>,
    ended: mpsc::Sender<Ended>,
}

impl Supervisor {
    /// Starts the supervisor on the running Tokio runtime. `ended` receives every request that ended.
    pub fn start(options: SupervisorOptions, ended: mpsc::Sender<Ended>) -> Supervisor {
        let (orders, inbox) = mpsc::channel(16);
        let (publish, view) = watch::channel(EngineView::stopped(options.profile.clone()));
        let stirred = Arc::new(Notify::new());
        let log = Arc::new(LogBook::open(options.places.state.join("engine.log")));
        tokio::spawn(drive::run(options, inbox, publish, ended.clone(), stirred.clone(), log.clone()));
        Supervisor { orders, view, stirred, log, ended }
    }

    /// Sends an order; false if the supervisor has ended.
    pub async fn order(&self, order: Order) -> bool {
        self.orders.send(order).await.is_ok()
    }

    /// The present and all future views.
    pub fn view(&self) -> watch::Receiver<EngineView> {
        self.view.clone()
    }

    /// Tells that a request has come or gone, so that the status is read soon and not at the idle pace.
    pub fn stir(&self) {
        self.stirred.notify_one();
    }

    /// Passes on the end of a request that its engine did not live to tell.
    pub(crate) fn report(&self, ended: Ended) {
        // A full channel means thousands of ends in a moment; one row less is the smaller harm.
        let _ = self.ended.try_send(ended);
    }

    /// The engine's last lines.
    pub fn log(&self) -> &LogBook {
        &self.log
    }

    /// Stops the engine and waits until it is gone.
    pub async fn shutdown(&self) {
        let (done, gone) = oneshot::channel();
        if self.order(Order::Shutdown(done)).await {
            let _ = gone.await;
        }
    }
}

#[cfg(test)]
impl Supervisor {
    /// A supervisor whose view the test sets.
    pub(crate) fn pretended(view: watch::Receiver<EngineView>, ended: mpsc::Sender<Ended>) -> Supervisor {
        let log = Arc::new(LogBook::open(PathBuf::from("/dev/null")));
        Supervisor { orders: mpsc::channel(1).0, view, stirred: Arc::default(), log, ended }
    }
}
