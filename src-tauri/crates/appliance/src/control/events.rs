//! `GET /api/events`: the state, the downloads and the benchmark as they change and requests as they end, as
//! server-sent events.

use std::{
    convert::Infallible,
    mem::discriminant,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures::stream;
use hearth_hub::Download;
use tokio::sync::{broadcast, watch};

use super::{
    Control,
    model_types::DownloadCard,
    types::{EngineState, RequestRecord, Snapshot},
};
use crate::bench::types::BenchProgress;

/// While nothing runs, the readings alone are told this much apart: whoever watches an idle machine shall not keep it busy.
const CALM: Duration = Duration::from_millis(2900);

struct Listener {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    requests: broadcast::Receiver<RequestRecord>,
    /// Null where there can be no downloads.
    downloads: Option<watch::Receiver<Arc<Vec<Download>>>>,
    /// The benchmark under way, or the last one.
    benchmark: watch::Receiver<Option<BenchProgress>>,
    ending: watch::Receiver<bool>,
    /// The last state that was told, and when; null at first.
    told: Option<(Arc<Snapshot>, Instant)>,
    /// A request was told of: the readings that it changed must not wait.
    hurry: bool,
}

/// The present state at once, then changes. A listener that reads slowly gets the newest state, not all of them.
pub(super) async fn events(State(control): State<Control>) -> Response {
    let listener = Listener {
        snapshot: control.board.snapshot.clone(),
        requests: control.board.requests.subscribe(),
        downloads: control.hub.downloads.as_ref().map(|downloads| {
            let mut list = downloads.list();
            list.mark_changed();
            list
        }),
        benchmark: {
            let mut progress = control.benchmarks.progress();
            progress.mark_changed();
            progress
        },
        ending: control.ending.clone(),
        told: None,
        hurry: false,
    };
    let events = stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok::<_, Infallible>(event), listener))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

impl Listener {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if self.told.is_none() {
                return self.state();
            }
            tokio::select! {
                // Requests first: a state follows soon anyway.
                biased;
                () = ended(&mut self.ending) => return None,
                request = self.requests.recv() => match request {
                    Ok(request) => {
                        self.hurry = true;
                        return Event::default().event("request").json_data(request).ok();
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
                Some(list) = changed(&mut self.downloads) => return downloads(&list),
                Ok(()) = self.benchmark.changed() => {
                    if let Some(progress) = self.benchmark.borrow_and_update().clone() {
                        return Event::default().event("bench").json_data(progress).ok();
                    }
                },
                changed = self.snapshot.changed() => match changed {
                    Ok(()) if self.may_wait() => {}
                    Ok(()) => return self.state(),
                    Err(_) => return None,
                },
            }
        }
    }

    /// True if the newest state says nothing but readings of a machine at rest, and the last one was told just now.
    fn may_wait(&mut self) -> bool {
        let Some((told, at)) = &self.told else { return false };
        !self.hurry && at.elapsed() < CALM && only_readings(told, &self.snapshot.borrow_and_update())
    }

    fn state(&mut self) -> Option<Event> {
        let snapshot = self.snapshot.borrow_and_update().clone();
        self.hurry = false;
        self.told = Some((snapshot.clone(), Instant::now()));
        Event::default().event("state").json_data(&*snapshot).ok()
    }
}

/// Whether two states of a machine at rest differ by their readings alone.
fn only_readings(before: &Snapshot, after: &Snapshot) -> bool {
    let moving = matches!(
        after.state,
        EngineState::Loading { .. } | EngineState::Stopping { .. } | EngineState::Restarting { .. }
    );
    let rests = |snapshot: &Snapshot| snapshot.active.is_empty();
    !moving
        && rests(before)
        && rests(after)
        && discriminant(&before.state) == discriminant(&after.state)
        && before.profile == after.profile
        && before.model == after.model
        && before.notices == after.notices
        && before.language == after.language
}

/// The queue, when it has changed; pending forever without one.
async fn changed(list: &mut Option<watch::Receiver<Arc<Vec<Download>>>>) -> Option<Arc<Vec<Download>>> {
    let Some(receiver) = list else { return std::future::pending().await };
    match receiver.changed().await {
        Ok(()) => Some(receiver.borrow_and_update().clone()),
        Err(_) => {
            *list = None;
            None
        }
    }
}

fn downloads(list: &[Download]) -> Option<Event> {
    let cards: Vec<DownloadCard> = list.iter().map(DownloadCard::of).collect();
    Event::default().event("downloads").json_data(cards).ok()
}

async fn ended(ending: &mut watch::Receiver<bool>) {
    let _ = ending.wait_for(|ending| *ending).await;
}
