//! `/api/metrics`, `/api/metrics/events` and `/ws/stats`: the whole cluster's figures as JSON.

use std::collections::HashSet;
use std::time::Duration;

use atelier_shared::domain::ids::RoomId;
use axum::Json;
use axum::extract::State as AppState;
use serde::Deserialize;
use utoipa::IntoParams;

use super::client::MaybePrincipal;
use super::extract::Query;
use super::problem::Problem;
use super::refusals::{BadQuery, Failures, NeedsToken};
use super::state::App;
use crate::figures::{EVENTS_MAX, Event, Figures, State, events as all_events};

/// How often a gateway reports, and for how long a report stands.
const REPORT_EVERY: Duration = Duration::from_secs(1);
const REPORT_LEASE: Duration = Duration::from_secs(6);
const EVENTS_DEFAULT: usize = 50;

/// Usage in figures; names no room.
#[utoipa::path(get, path = "/api/metrics", tag = "metrics", operation_id = "figures", responses(
    (status = 200, description = "Figures of the whole cluster", body = Figures), Failures,
))]
pub async fn figures(AppState(app): AppState<App>) -> Result<Json<Figures>, Problem> {
    tell(&app).await?;
    let occupied = app.occupancy.now().await?;
    let reports = app.backends.presence.reports().await?;
    Ok(Json(Figures::of(
        &reports,
        &app.metrics.traffic,
        occupied.len(),
    )))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventFilter {
    /// Most events to answer with; there are never more than 100
    #[param(default = 50, minimum = 1)]
    limit: Option<usize>,
}

/// The latest events, oldest first: those of listed rooms, to administrators all.
#[utoipa::path(get, path = "/api/metrics/events", tag = "metrics", operation_id = "figures_events", params(EventFilter), security((), ("bearer" = [])), responses(
    (status = 200, description = "Events", body = Vec<Event>), NeedsToken, BadQuery, Failures,
))]
pub async fn events(
    AppState(app): AppState<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Query(filter): Query<EventFilter>,
) -> Result<Json<Vec<Event>>, Problem> {
    let limit = filter.limit.unwrap_or(EVENTS_DEFAULT);
    if limit == 0 {
        return Err(Problem::invalid("limit", "must be at least 1"));
    }
    tell(&app).await?;
    let reports = app.backends.presence.reports().await?;
    let mut events = all_events(&reports);
    if !principal.is_some_and(|principal| principal.is_admin) {
        let mut named: Vec<RoomId> = events.iter().filter_map(Event::room).collect();
        named.sort();
        named.dedup();
        let rooms = app.backends.records.rooms(&named).await?;
        let listed: HashSet<RoomId> = rooms
            .into_iter()
            .filter(|room| room.listed)
            .map(|room| room.id)
            .collect();
        events.retain(|event| event.room().is_some_and(|room| listed.contains(&room)));
    }
    let newest = events.len().saturating_sub(limit.min(EVENTS_MAX));
    Ok(Json(events.split_off(newest)))
}

/// Reports what this gateway counted. One at a time: what was added to the totals must not be added again.
async fn tell(app: &App) -> Result<(), Problem> {
    let _turn = app.reporting.lock().await;
    let state = State {
        connections: app.metrics.connections.get(),
        started_at: app.started_at,
        documents: app.rooms.documents(),
    };
    let (report, new) = app.metrics.traffic.told(state);
    let presence = &app.backends.presence;
    presence
        .report(app.rooms.pod, &report, REPORT_LEASE, &new)
        .await?;
    app.metrics.traffic.added(&new);
    Ok(())
}

/// Reports on a beat until the gateway is gone.
pub fn report_on(app: &App) {
    let app = app.clone();
    let stop = app.rooms.stop.clone();
    tokio::spawn(async move {
        let mut beat = tokio::time::interval(REPORT_EVERY);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                () = stop.cancelled() => return,
            }
            app.metrics.traffic.sample();
            // A store that is away has been logged where it was asked.
            let _ = tell(&app).await;
        }
    });
}
