//! `/analytics/team` and `/projects/{id}/activity`: who did how much when, from the archive's account of it.

use std::collections::{BTreeMap, BTreeSet};

use atelier_shared::domain::activity::{
    ActivityCounts, Bucket, at_minute, edges, minute_of, slot_minutes, zone,
};
use atelier_shared::domain::ids::{PlaceId, RoomId, UserId};
use atelier_shared::domain::place::PlaceKind;
use atelier_shared::ports::{ACTIVITY_SUBJECTS_MAX, ActivityQuery, PAGE_MAX};
use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Datelike, Duration, Utc};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::client::Authenticated;
use super::extract::{Id, Query};
use super::health::rfc3339;
use super::page::{Page, PageParams, cursor};
use super::places::known;
use super::problem::Problem;
use super::refusals::{BadQuery, Failures, Missing, NeedsRight};
use super::state::App;
use super::words::BucketWord;

/// What is shown where the asker names no beginning.
const DEFAULT_DAYS: i64 = 7;
/// People of one page who are looked up at a time.
const PROFILES_AT_ONCE: usize = 16;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct TeamAnalyticsFilter {
    team_id: Uuid,
    /// RFC 3339, to the minute; seven days before `to` where absent
    from: Option<DateTime<Utc>>,
    /// Not itself; now where absent
    to: Option<DateTime<Utc>>,
    /// `hour`, `day` (where absent) or `week` (from Monday)
    #[param(value_type = Option<BucketWord>)]
    bucket: Option<Bucket>,
    /// Name of the time zone whose clock the buckets follow; UTC where absent
    #[param(example = "Europe/Berlin")]
    tz: Option<String>,
}

/// What the people of a team did, in buckets of time.
#[derive(Debug, Serialize, ToSchema)]
pub struct TeamAnalytics {
    team_id: Uuid,
    from: String,
    to: String,
    /// `hour`, `day` or `week`
    #[schema(example = "day")]
    bucket: &'static str,
    tz: String,
    /// Every bucket from first to last, also where nobody did anything
    items: Vec<BucketView>,
    /// Always `null`: all buckets come at once, at most 1,000
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct BucketView {
    start: String,
    end: String,
    /// Those who did anything, by user id
    people: Vec<PersonActivity>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct PersonActivity {
    user_id: Uuid,
    name: Option<String>,
    #[serde(flatten)]
    counts: Counts,
    /// Minutes in which they did anything
    active_minutes: u64,
}

/// What one person did in one room in one minute.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProjectActivity {
    /// The minute's beginning
    at: String,
    room_id: String,
    user_id: Uuid,
    name: Option<String>,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Debug, Serialize, ToSchema)]
struct Counts {
    messages: u64,
    comments: u64,
    strokes: u64,
    edits: u64,
    runs: u64,
}

impl From<ActivityCounts> for Counts {
    fn from(counts: ActivityCounts) -> Self {
        Self {
            messages: counts.messages,
            comments: counts.comments,
            strokes: counts.strokes,
            edits: counts.edits,
            runs: counts.runs,
        }
    }
}

/// Messages, comments, strokes, edits, runs and active minutes of a team's people, in hours, days or weeks of a time zone.
/// For the team's own people; what is a second old is counted.
#[utoipa::path(get, path = "/analytics/team", operation_id = "team", tag = "analytics", params(TeamAnalyticsFilter), security(("bearer" = [])), responses(
    (status = 200, description = "Figures", body = TeamAnalytics), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn team(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Query(filter): Query<TeamAnalyticsFilter>,
) -> Result<Json<TeamAnalytics>, Problem> {
    let team = PlaceId(filter.team_id);
    known(&app, PlaceKind::Team, team, &principal).await?;
    in_range("from", filter.from)?;
    in_range("to", filter.to)?;
    let to = filter.to.unwrap_or_else(Utc::now);
    let from = filter.from.unwrap_or(to - Duration::days(DEFAULT_DAYS));
    let bucket = filter.bucket.unwrap_or(Bucket::Day);
    let zone = zone("tz", filter.tz.as_deref().unwrap_or("UTC"))?;
    let edges = edges(bucket, zone, from, to)?;
    let b = &app.backends;
    let members = b
        .records
        .place_members(team, None, ACTIVITY_SUBJECTS_MAX)
        .await?;
    let names: BTreeMap<UserId, Option<String>> = members
        .items
        .into_iter()
        .map(|member| (member.user_id, member.name))
        .collect();
    let query = ActivityQuery {
        users: names.keys().copied().collect(),
        from_minute: minute_of(from),
        to_minute: minute_of(to + Duration::seconds(59)),
        slot_minutes: slot_minutes(&edges),
    };
    let mut people: Vec<BTreeMap<UserId, (ActivityCounts, u64)>> =
        vec![BTreeMap::new(); edges.len().saturating_sub(1)];
    for slot in b.archive.activity_of(&query).await? {
        let start = at_minute(slot.start_minute);
        let at = edges.partition_point(|edge| *edge <= start).max(1) - 1;
        if let Some(bucket) = people.get_mut(at) {
            let (counts, minutes) = bucket.entry(slot.user_id).or_default();
            *counts += slot.counts;
            *minutes += slot.active_minutes;
        }
    }
    let items = edges.windows(2).zip(people).map(|(ends, people)| {
        let person =
            |(user, (counts, active_minutes)): (UserId, (ActivityCounts, u64))| PersonActivity {
                user_id: user.0,
                name: names.get(&user).cloned().flatten(),
                counts: counts.into(),
                active_minutes,
            };
        BucketView {
            start: rfc3339(ends[0]),
            end: rfc3339(ends[1]),
            people: people.into_iter().map(person).collect(),
        }
    });
    Ok(Json(TeamAnalytics {
        team_id: filter.team_id,
        from: rfc3339(from),
        to: rfc3339(to),
        bucket: bucket.as_str(),
        tz: zone.name().to_owned(),
        items: items.collect(),
        next_cursor: None,
    }))
}

/// Where clocks and calendars can be reckoned with, whatever the zone.
fn in_range(field: &'static str, time: Option<DateTime<Utc>>) -> Result<(), Problem> {
    if time.is_none_or(|time| (2..=9_998).contains(&time.year())) {
        return Ok(());
    }
    Err(Problem::invalid(field, "must be of the years 2 to 9998"))
}

/// What was done in the rooms of a project, by minute, newest first; for those who belong to it.
#[utoipa::path(get, path = "/projects/{project_id}/activity", operation_id = "activity", tag = "projects", params(("project_id" = Uuid, Path), PageParams), security(("bearer" = [])), responses(
    (status = 200, description = "A page of activity", body = Page<ProjectActivity>), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn project(
    State(app): State<App>,
    Authenticated(principal): Authenticated,
    Id(project): Id<PlaceId>,
    Query(page): Query<PageParams>,
) -> Result<Json<Page<ProjectActivity>>, Problem> {
    known(&app, PlaceKind::Project, project, &principal).await?;
    let before: Option<(i64, UserId, RoomId)> = page.after()?;
    let limit = page.limit()?;
    let (app, b) = (&app, &app.backends);
    let rooms = b.records.rooms_in(project, PAGE_MAX).await?;
    let mut rows = b.archive.activity_in(&rooms, before, limit + 1).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more);
    let next_cursor = last.and_then(|row| cursor(&(row.minute, row.user_id, &row.room)));
    let people: BTreeSet<UserId> = rows.iter().map(|row| row.user_id).collect();
    let known = stream::iter(people).map(|id| async move {
        let user = app.profiles.get(id).await?;
        Ok::<_, Problem>((id, user))
    });
    let people: BTreeMap<UserId, _> = known
        .buffer_unordered(PROFILES_AT_ONCE)
        .try_collect()
        .await?;
    let items = rows.into_iter().map(|row| {
        let user = people.get(&row.user_id).and_then(Option::as_ref);
        ProjectActivity {
            at: rfc3339(at_minute(row.minute)),
            room_id: row.room.to_string(),
            user_id: row.user_id.0,
            name: user.map(|user| user.name.clone()),
            counts: row.counts.into(),
        }
    });
    Ok(Json(Page {
        items: items.collect(),
        next_cursor,
    }))
}
