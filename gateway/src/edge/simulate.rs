//! `/simulate/users/{room_id}`: people who are none, for load tests.

use atelier_shared::domain::ids::RoomId;
use axum::Json;
use axum::extract::State;
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::client::{Administrator, ClientAddress, make_room_by_connecting};
use super::extract::{Id, Query};
use super::problem::{Kind, Problem};
use super::refusals::{BadQuery, Failures, Missing, NeedsRight};
use super::state::App;

const COUNT_DEFAULT: usize = 10;
/// Simulated people of one room, on all pods together.
const SIMULATED_MAX: usize = 1_000;
/// Leaves written at once.
const LEAVES_AT_ONCE: usize = 32;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SimulateParams {
    /// How many, 1 to 1000; 10 where absent, or, for removing, all
    #[param(minimum = 1, maximum = 1000)]
    count: Option<usize>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"success": true, "simulated_users": 10, "total_users": 15}))]
pub struct SimulatedView {
    success: bool,
    /// Put in by this call
    simulated_users: usize,
    /// Everybody who has joined now
    total_users: usize,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"success": true, "removed": 10}))]
pub struct RemovedView {
    success: bool,
    removed: usize,
}

fn bounded(count: Option<usize>) -> Result<Option<usize>, Problem> {
    match count {
        Some(0) => Err(too_many()),
        Some(count) if count > SIMULATED_MAX => Err(too_many()),
        count => Ok(count),
    }
}

fn too_many() -> Problem {
    Problem::invalid(
        "count",
        format!("must be 1 to {SIMULATED_MAX}, and no more in one room"),
    )
}

/// Puts simulated people into a room: they join, move their cursors and leave like real ones. For administrators.
#[utoipa::path(post, path = "/simulate/users/{room_id}", tag = "simulate", params(("room_id" = String, Path), SimulateParams), security(("bearer" = [])), responses(
    (status = 200, description = "They are there", body = SimulatedView), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn add(
    State(app): State<App>,
    address: ClientAddress,
    Administrator(admin): Administrator,
    Id(id): Id<RoomId>,
    Query(asked): Query<SimulateParams>,
) -> Result<Json<SimulatedView>, Problem> {
    let count = bounded(asked.count)?.unwrap_or(COUNT_DEFAULT);
    if app.is_draining() {
        let text = "This gateway is stopping; another will answer.";
        return Err(Problem::new(Kind::Draining, text));
    }
    let room = make_room_by_connecting(&app, &id, &address, Some(&admin)).await?;
    let presence = &app.backends.presence;
    let there = presence.members(&room.id).await?;
    if there.iter().filter(|member| member.simulated).count() + count > SIMULATED_MAX {
        return Err(too_many());
    }
    app.rooms.simulate(&room, count).await?;
    let members = presence.members(&room.id).await?;
    Ok(Json(SimulatedView {
        success: true,
        simulated_users: count,
        total_users: members.iter().filter(|member| member.joined).count(),
    }))
}

/// Takes simulated people out of a room, whichever gateway they are of. For administrators.
#[utoipa::path(delete, path = "/simulate/users/{room_id}", tag = "simulate", params(("room_id" = String, Path), SimulateParams), security(("bearer" = [])), responses(
    (status = 200, description = "They are gone", body = RemovedView), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn remove(
    State(app): State<App>,
    Administrator(_): Administrator,
    Id(id): Id<RoomId>,
    Query(asked): Query<SimulateParams>,
) -> Result<Json<RemovedView>, Problem> {
    let count = bounded(asked.count)?.unwrap_or(usize::MAX);
    let room = app.backends.records.room(&id).await?;
    let room = room.ok_or_else(|| Problem::not_found("room"))?;
    let members = app.backends.presence.members(&room.id).await?;
    let simulated = members.into_iter().filter(|member| member.simulated);
    let (app, room) = (&app, &room);
    let leave = |member| async move { app.rooms.end_simulated(room, &member).await };
    let left: Vec<_> = stream::iter(simulated.take(count))
        .map(leave)
        .buffer_unordered(LEAVES_AT_ONCE)
        .collect()
        .await;
    let mut removed = 0;
    for left in left {
        removed += usize::from(left?);
    }
    Ok(Json(RemovedView {
        success: true,
        removed,
    }))
}
