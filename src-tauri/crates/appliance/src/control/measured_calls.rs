//! The calls for measured speeds, which stand where estimates would: from benchmarks, or else from requests that the running engine has
//! served.

use axum::{Json, body::Bytes, extract::State, response::IntoResponse};

use super::{
    Control,
    calls::{Answer, failed, message},
    figures::{Measured, MeasuredModel, MeasuredSpeed},
    types::{PlanRequest, Profile},
};
use crate::{
    bench::measured::{from_requests, speed_key},
    supervisor::Life,
};

pub(super) async fn profile(State(control): State<Control>, body: Bytes) -> Answer {
    let PlanRequest { profile } = message(&body, None)?;
    profile.check().map_err(|error| failed(&error))?;
    let (speed, depths) = control.benchmarks.measured(&profile).await;
    let speed = match speed {
        Some(speed) => Some(speed),
        None => served(&control, &profile).await,
    };
    Ok(Json(Measured { speed, depths }).into_response())
}

pub(super) async fn models(State(control): State<Control>) -> Answer {
    let settings = control.settings.borrow().profile.clone();
    let running = control.supervisor.view().borrow().profile.model.clone();
    let mut names = control.benchmarks.models().await.map_err(|error| failed(&error))?;
    if !names.contains(&running) {
        names.push(running);
    }
    let mut found = Vec::new();
    for model in names {
        let profile = Profile { model: model.clone(), ..settings.clone() };
        let speed = match control.benchmarks.measured(&profile).await.0 {
            Some(speed) => Some(speed),
            None => served(&control, &profile).await,
        };
        found.extend(speed.map(|speed| MeasuredModel { model, speed }));
    }
    Ok(Json(found).into_response())
}

/// From the requests of the engine that runs, if it runs this profile: what earlier engines were started with is not known.
async fn served(control: &Control, profile: &Profile) -> Option<MeasuredSpeed> {
    let (running, since_ms) = {
        let view = control.supervisor.view();
        let view = view.borrow();
        let Life::Serving { since_ms } = view.life else { return None };
        (view.profile.clone(), since_ms)
    };
    if speed_key(&running) != speed_key(profile) {
        return None;
    }
    let (rates, newest_ms) = control.board.history.decode_rates(running.model, since_ms).await?;
    from_requests(rates, newest_ms)
}
