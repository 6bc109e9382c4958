//! The control API: what the window, a browser, the CLI and scripts use to see and steer the appliance.

mod bench_calls;
mod calls;
mod chats;
mod defaults;
pub(crate) mod doctor;
mod events;
pub(crate) mod figures;
pub(crate) mod guard;
mod hub_calls;
mod measured_calls;
mod model_calls;
pub mod model_types;
mod readings;
pub mod types;

use std::{path::PathBuf, sync::Arc};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post},
};
use hearth_monitor::HostMemory;
use tokio::sync::watch;

use self::{doctor::Surgery, types::Settings};
use crate::{
    bench::Benchmarks,
    board::{Board, reserve},
    chats::Chats,
    hub::Hub,
    plan::Surroundings,
    supervisor::Supervisor,
    token::Token,
};

/// Largest body of a control message.
const BODY_LIMIT: usize = 64 * 1024;
/// Largest conversation.
const CHAT_LIMIT: usize = 16 << 20;

/// What the control API works on.
#[derive(Clone)]
pub(crate) struct Control {
    pub board: Board,
    pub chats: Chats,
    pub benchmarks: Benchmarks,
    pub supervisor: Supervisor,
    pub hub: Hub,
    /// Headers of models on the hub, so that they can be sized again without asking it.
    pub outlines: PathBuf,
    pub settings: Arc<watch::Sender<Settings>>,
    pub settings_file: PathBuf,
    pub token: Token,
    pub roof: watch::Receiver<Option<f64>>,
    pub surgery: Surgery,
    /// Turns true when the appliance ends; event streams end with it.
    pub ending: watch::Receiver<bool>,
}

impl Control {
    /// What a plan is measured against, now.
    pub(crate) fn surroundings(&self) -> Surroundings {
        let host = HostMemory::read();
        let status = self.supervisor.view().borrow().status.clone();
        Surroundings {
            host,
            engine: status.and_then(|status| status.memory.clone()),
            reserve: reserve(self.settings.borrow().memory_reserve, host.as_ref()),
            roof: *self.roof.borrow(),
        }
    }

    /// The routes below /api, behind the guard.
    pub(crate) fn routes(self) -> Router {
        let guarded = middleware::from_fn_with_state(self.token.clone(), guard::control);
        Router::new()
            .route("/api/state", get(calls::state))
            .route("/api/events", get(events::events))
            .route("/api/history", get(calls::history))
            .route("/api/requests", get(calls::requests))
            .route("/api/usage", get(calls::usage))
            .route("/api/models", get(model_calls::models))
            .route("/api/models/inspect", post(model_calls::inspect))
            .route("/api/models/files", post(model_calls::files))
            .route("/api/models/import", post(model_calls::import))
            .route("/api/catalogue", get(model_calls::catalogue))
            .route("/api/hub/search", get(model_calls::search))
            .route("/api/models/remove", get(hub_calls::removal).post(hub_calls::remove))
            .route("/api/downloads", get(hub_calls::downloads).post(hub_calls::download))
            .route("/api/downloads/{number}", post(hub_calls::order))
            .route("/api/hub", get(hub_calls::hub))
            .route("/api/hub/token", axum::routing::put(hub_calls::token))
            .route("/api/settings", get(calls::settings).put(calls::change_settings))
            .route("/api/log", get(calls::log))
            .route("/api/engine/start", post(calls::start))
            .route("/api/engine/stop", post(calls::stop))
            .route("/api/plan", post(calls::plan))
            .route("/api/chats", get(chats::list).delete(chats::remove_all))
            .route(
                "/api/chats/{id}",
                get(chats::read)
                    .put(chats::write)
                    .delete(chats::remove)
                    .layer(DefaultBodyLimit::max(CHAT_LIMIT)),
            )
            .route("/api/measured", get(measured_calls::models).post(measured_calls::profile))
            .route("/api/bench", get(bench_calls::list).post(bench_calls::start))
            .route("/api/bench/cancel", post(bench_calls::cancel))
            .route("/api/bench/compare", get(bench_calls::compare))
            .route("/api/bench/{id}", get(bench_calls::read).delete(bench_calls::remove))
            .route("/api/bench/{id}/export", get(bench_calls::export))
            .route("/api/doctor", get(doctor::examine))
            .route("/api/doctor/report", get(doctor::report))
            .route("/api/doctor/fix", post(doctor::fix))
            .route("/api/{*rest}", axum::routing::any(calls::unknown))
            .method_not_allowed_fallback(calls::wrong_method)
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            .layer(guarded)
            .with_state(self)
    }
}
