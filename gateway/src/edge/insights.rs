//! `/insights`: titled notes with tags and links, shared with a team; votes; search.

use atelier_shared::domain::ids::{InsightId, PlaceId};
use atelier_shared::domain::insight::{self, Insight, Link};
use atelier_shared::domain::place::{PlaceKind, PlaceRole};
use atelier_shared::ports::{self, InsightFilter, InsightSeen};
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use chrono::{SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::client::Authenticated;
use super::extract::{Body, Id, Query};
use super::health::rfc3339;
use super::page::{Page, PageParams, cursor};
use super::places;
use super::problem::{Kind, Problem};
use super::refusals::{BadBody, BadQuery, Failures, Missing, NeedsRight, NeedsToken};
use super::state::App;
use crate::identity::Principal;

/// Longest search text, in bytes.
const SEARCH_MAX_BYTES: usize = 256;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"title": "Parsing is slow", "body": "Two passes would do.", "tags": ["parser"]}))]
pub struct NewInsight {
    /// 1 to 200 characters
    title: String,
    /// At most 64 KiB
    #[serde(default)]
    body: String,
    /// At most 20, each 1 to 32 characters
    #[serde(default)]
    tags: Vec<String>,
    /// At most 20: `{kind: room | message | run, id, room_id?}`
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    links: Vec<Link>,
    /// Who may read it besides you
    team_id: Option<Uuid>,
}

/// What is absent stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"tags": ["parser", "speed"]}))]
pub struct InsightPatch {
    title: Option<String>,
    body: Option<String>,
    tags: Option<Vec<String>>,
    #[schema(value_type = Option<Vec<Object>>)]
    links: Option<Vec<Link>>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct InsightQuery {
    /// Only where title, body or tags hold this, in any case
    q: Option<String>,
    /// Only with this tag
    tag: Option<String>,
    /// Only those of this team
    team_id: Option<Uuid>,
    /// Most items to answer with, 1 to 200
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// `next_cursor` of the page before
    cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct InsightView {
    id: Uuid,
    team_id: Option<Uuid>,
    author: AuthorView,
    title: String,
    body: String,
    tags: Vec<String>,
    #[schema(value_type = Vec<Object>)]
    links: Vec<Link>,
    votes: u64,
    /// Your vote is among them
    voted: bool,
    created_at: String,
    updated_at: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct AuthorView {
    id: Uuid,
    name: Option<String>,
}

impl From<InsightSeen> for InsightView {
    fn from(seen: InsightSeen) -> Self {
        let it = seen.insight;
        Self {
            id: it.id.0,
            team_id: it.team.map(|team| team.0),
            author: AuthorView {
                id: it.author.0,
                name: seen.author_name,
            },
            title: it.title,
            body: it.body,
            tags: it.tags,
            links: it.links,
            votes: seen.votes,
            voted: seen.voted,
            created_at: rfc3339(it.created_at),
            updated_at: rfc3339(it.updated_at),
        }
    }
}

/// Keeps an insight: for yourself, or for a team that you are a member of.
#[utoipa::path(post, path = "/insights", operation_id = "create", tag = "insights", request_body = NewInsight, security(("bearer" = [])), responses(
    (status = 201, description = "The insight", body = InsightView, headers(("location" = String, description = "Its path"))),
    NeedsRight, BadBody, Failures,
))]
pub async fn create(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Body(asked): Body<NewInsight>,
) -> Result<impl IntoResponse, Problem> {
    let team = asked.team_id.map(PlaceId);
    if let Some(team) = team {
        let may = places::may(&app, PlaceKind::Team, team, &principal, PlaceRole::Member);
        may.await.map_err(|problem| match problem.kind {
            Kind::NotFound => no_such_team(),
            _ => problem.at("team_id"),
        })?;
    }
    let now = Utc::now().trunc_subsecs(6);
    let insight = Insight {
        id: InsightId::generate(),
        team,
        author: principal.user_id,
        title: insight::title(&asked.title)?,
        body: insight::body(&asked.body)?,
        tags: insight::tags(&asked.tags)?,
        links: insight::links(asked.links)?,
        created_at: now,
        updated_at: now,
    };
    if !app.backends.records.create_insight(&insight).await? {
        return Err(no_such_team());
    }
    let location = format!("/api/v1/insights/{}", insight.id);
    let view = seen(&app, insight.id, &principal).await?;
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(InsightView::from(view)),
    ))
}

fn no_such_team() -> Problem {
    Problem::invalid("team_id", "there is no such team")
}

/// Your insights and those of your teams, newest first.
#[utoipa::path(get, path = "/insights", operation_id = "list", tag = "insights", params(InsightQuery), security(("bearer" = [])), responses(
    (status = 200, description = "A page of insights", body = Page<InsightView>), NeedsToken, BadQuery, Failures,
))]
pub async fn list(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Query(asked): Query<InsightQuery>,
) -> Result<Json<Page<InsightView>>, Problem> {
    let lower = |field: &'static str, text: Option<String>| {
        let text = text.unwrap_or_default().trim().to_lowercase();
        if text.len() > SEARCH_MAX_BYTES || text.contains('\0') {
            let reason = format!("must have at most {SEARCH_MAX_BYTES} bytes of text");
            return Err(Problem::invalid(field, reason));
        }
        Ok(text)
    };
    let filter = InsightFilter {
        search: lower("q", asked.q)?,
        tag: lower("tag", asked.tag)?,
        team: asked.team_id.map(PlaceId),
    };
    let page = PageParams {
        limit: asked.limit,
        cursor: asked.cursor,
    };
    let before: Option<InsightId> = page.after()?;
    let records = &app.backends.records;
    let found = records
        .list_insights(principal.user_id, &filter, before, page.limit()?)
        .await?;
    let last = found.items.last().map(|seen| seen.insight.id);
    let next_cursor = last.filter(|_| found.more).and_then(|id| cursor(&id));
    let items = found.items.into_iter().map(InsightView::from).collect();
    Ok(Json(Page { items, next_cursor }))
}

/// One insight.
#[utoipa::path(get, path = "/insights/{insight_id}", operation_id = "get", tag = "insights", params(("insight_id" = Uuid, Path)), security(("bearer" = [])), responses(
    (status = 200, description = "The insight", body = InsightView), NeedsRight, Missing, Failures,
))]
pub async fn get(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(id): Id<InsightId>,
) -> Result<Json<InsightView>, Problem> {
    seen(&app, id, &principal)
        .await
        .map(InsightView::from)
        .map(Json)
}

/// Changes an insight; its author, and the team's admins.
#[utoipa::path(patch, path = "/insights/{insight_id}", operation_id = "patch", tag = "insights", params(("insight_id" = Uuid, Path)), request_body = InsightPatch, security(("bearer" = [])), responses(
    (status = 200, description = "The insight as it is now", body = InsightView), NeedsRight, Missing, BadBody, Failures,
))]
pub async fn patch(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(id): Id<InsightId>,
    Body(asked): Body<InsightPatch>,
) -> Result<Json<InsightView>, Problem> {
    own(&app, id, &principal).await?;
    let patch = ports::InsightPatch {
        title: asked.title.as_deref().map(insight::title).transpose()?,
        body: asked.body.as_deref().map(insight::body).transpose()?,
        tags: asked.tags.as_deref().map(insight::tags).transpose()?,
        links: asked.links.map(insight::links).transpose()?,
    };
    let records = &app.backends.records;
    if !records.patch_insight(id, &patch, Utc::now()).await? {
        return Err(Problem::not_found("insight"));
    }
    seen(&app, id, &principal)
        .await
        .map(InsightView::from)
        .map(Json)
}

/// Deletes an insight; its author, and the team's admins.
#[utoipa::path(delete, path = "/insights/{insight_id}", operation_id = "delete", tag = "insights", params(("insight_id" = Uuid, Path)), security(("bearer" = [])), responses(
    (status = 204, description = "Gone"), NeedsRight, Missing, Failures,
))]
pub async fn delete(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(id): Id<InsightId>,
) -> Result<StatusCode, Problem> {
    own(&app, id, &principal).await?;
    if !app.backends.records.delete_insight(id).await? {
        return Err(Problem::not_found("insight"));
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Votes for an insight; once, however often.
#[utoipa::path(post, path = "/insights/{insight_id}/votes", operation_id = "vote", tag = "insights", params(("insight_id" = Uuid, Path)), security(("bearer" = [])), responses(
    (status = 200, description = "The insight with its votes", body = InsightView), NeedsRight, Missing, Failures,
))]
pub async fn vote(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(id): Id<InsightId>,
) -> Result<Json<InsightView>, Problem> {
    set_vote(&app, id, &principal, true).await
}

/// Takes the vote back.
#[utoipa::path(delete, path = "/insights/{insight_id}/votes", operation_id = "unvote", tag = "insights", params(("insight_id" = Uuid, Path)), security(("bearer" = [])), responses(
    (status = 200, description = "The insight with its votes", body = InsightView), NeedsRight, Missing, Failures,
))]
pub async fn unvote(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(id): Id<InsightId>,
) -> Result<Json<InsightView>, Problem> {
    set_vote(&app, id, &principal, false).await
}

async fn set_vote(
    app: &App,
    id: InsightId,
    principal: &Principal,
    votes: bool,
) -> Result<Json<InsightView>, Problem> {
    seen(app, id, principal).await?;
    let records = &app.backends.records;
    if !records.vote(id, principal.user_id, votes).await? {
        return Err(Problem::not_found("insight"));
    }
    seen(app, id, principal)
        .await
        .map(InsightView::from)
        .map(Json)
}

/// An insight that is the asker's own, or of a team of theirs; any other is none.
async fn seen(app: &App, id: InsightId, principal: &Principal) -> Result<InsightSeen, Problem> {
    let missing = || Problem::not_found("insight");
    let records = &app.backends.records;
    let seen = records.insight(id, principal.user_id).await?;
    let seen = seen.ok_or_else(missing)?;
    if principal.is_admin || seen.insight.author == principal.user_id {
        return Ok(seen);
    }
    let team = seen.insight.team.ok_or_else(missing)?;
    let role = records.place_role(team, principal.user_id).await?;
    role.map(|_| seen).ok_or_else(missing)
}

/// [`seen`], by somebody who may change it.
async fn own(app: &App, id: InsightId, principal: &Principal) -> Result<(), Problem> {
    let seen = seen(app, id, principal).await?;
    if principal.is_admin || seen.insight.author == principal.user_id {
        return Ok(());
    }
    if let Some(team) = seen.insight.team {
        let role = app
            .backends
            .records
            .place_role(team, principal.user_id)
            .await?;
        if role >= Some(PlaceRole::Admin) {
            return Ok(());
        }
    }
    Err(Problem::forbidden(
        "This is for its author and the team's admins.",
    ))
}
