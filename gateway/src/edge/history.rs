//! `/rooms/{id}/log`, and entries as they may be seen: read across the log and the archive. Messages are in
//! [`super::messages`], what happened in [`super::events`].

use std::collections::BTreeMap;

use atelier_shared::domain::entry::{Body, Entry};
use atelier_shared::domain::ids::{Epoch, MessageId, RoomId, Seq, UserId};
use atelier_shared::ports::PortError;
use atelier_shared::recovery;
use axum::Json;
use axum::extract::State;
use chrono::Utc;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::client::{MaybePrincipal, may_enter};
use super::extract::{Id, Query};
use super::page::{PageParams, cursor, limit};
use super::problem::Problem;
use super::refusals::{BadQuery, Failures, Missing, NeedsRight};
use super::state::App;
use crate::room::json::shown::entry_value;

/// Entries read at a time.
pub(super) const CHUNK: usize = 256;
/// Entries looked through to fill one page before it is answered short.
pub(super) const LOOKED_AT_MAX: usize = 4_096;
/// Who reads where nobody is known: nobody's private messages are theirs.
pub(super) const STRANGER: UserId = UserId(Uuid::max());

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LogFilter {
    /// Only entries after this seq
    #[param(maximum = 9_223_372_036_854_775_807_u64)]
    since: Option<u64>,
    /// Most items to answer with, 1 to 200
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// `next_cursor` of the page before
    cursor: Option<String>,
}

/// A durable message as a WebSocket client receives it: `{type, seq, from, ts, …}`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = Object, example = json!({"type": "chat_message", "seq": 7, "from": "client", "ts": 1_760_000_000_000_u64, "content": "hello"}))]
pub struct WireEntry(Box<RawValue>);

/// Entries in order, and where the log stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogPage {
    epoch: u64,
    /// The last entry's; ask again while `next_cursor` is not null
    seq: u64,
    /// All up to here is archived
    archived_seq: u64,
    items: Vec<WireEntry>,
    next_cursor: Option<String>,
}

impl WireEntry {
    pub(super) fn of(value: &Value) -> Result<Self, Problem> {
        serde_json::value::to_raw_value(value)
            .map(Self)
            .map_err(|_| Problem::internal())
    }
}

/// Entries as they may be seen now, each: without the words of messages that were deleted since (`None`: nothing is left of
/// it), reactions with all who are under them.
pub(super) async fn shown(
    app: &App,
    room: &RoomId,
    entries: &[Entry],
) -> Result<Vec<Option<WireEntry>>, Problem> {
    let about = |entry: &Entry| {
        entry
            .record
            .body
            .message_id()
            .or(entry.record.body.target())
    };
    let mut ids: Vec<MessageId> = entries.iter().filter_map(about).collect();
    ids.sort_unstable();
    ids.dedup();
    let b = &app.backends;
    let mut messages = match ids.as_slice() {
        [] => BTreeMap::new(),
        ids => recovery::messages_by_id(&*b.log, &*b.archive, room, ids).await?,
    };
    app.profiles
        .anonymise_messages(messages.values_mut())
        .await?;
    let mut items = Vec::new();
    for entry in entries {
        let message = about(entry).and_then(|id| messages.get(&id));
        let Some(entry) = recovery::as_shown(entry, message) else {
            items.push(None);
            continue;
        };
        let reactors = match (&entry.record.body, message) {
            (Body::Reaction { emoji, .. }, Some(message)) => message.users_of(emoji),
            _ => &[],
        };
        let value = entry_value(&entry, reactors, &app.identity);
        items.push(Some(WireEntry::of(&value)?));
    }
    Ok(items)
}

/// The log after a seq, oldest first: what a WebSocket's `resume` would bring.
#[utoipa::path(get, path = "/rooms/{room_id}/log", tag = "rooms", params(("room_id" = String, Path), LogFilter), security((), ("bearer" = [])), responses(
    (status = 200, description = "Entries in order", body = LogPage), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn log(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(id): Id<RoomId>,
    Query(filter): Query<LogFilter>,
) -> Result<Json<LogPage>, Problem> {
    let (room, _) = may_enter(&app, &id, principal.as_ref()).await?;
    let reader = principal.map_or(STRANGER, |principal| principal.user_id);
    let page = PageParams {
        limit: filter.limit,
        cursor: filter.cursor,
    };
    let most = limit(page.limit)?;
    let since = place("since", filter.since)?;
    let after = place("cursor", page.after()?)?.or(since);
    let mut after = after.unwrap_or(Seq(0));
    let b = &app.backends;
    let was_idle = b.log.head(&id).await?.is_none();
    let now_ms = Utc::now().timestamp_millis();
    let head =
        recovery::activate(&*b.log, &*b.archive, &id, None, room.role_version, now_ms).await?;
    if was_idle {
        // Nobody opens the room for this: it goes back by itself.
        recovery::watch_idle(&*b.queue, &id, recovery::IDLE_AFTER).await?;
    }
    let mut found = Vec::new();
    let mut looked_at = 0;
    while after < head.seq && found.len() < most && looked_at < LOOKED_AT_MAX {
        let room_for = (most - found.len()).min(CHUNK);
        let entries =
            recovery::read_after(&*b.log, &*b.archive, &id, head.epoch, after, room_for).await?;
        let entries = entries.filter(|entries| !entries.is_empty());
        let mut entries = entries.ok_or_else(|| moved_on(head.epoch))?;
        app.profiles.anonymise_entries(&mut entries).await?;
        looked_at += entries.len();
        for entry in &entries {
            after = entry.seq;
            if entry.visible_to(reader) {
                found.push(entry.clone());
            }
        }
    }
    let items = shown(&app, &id, &found).await?;
    let items = items.into_iter().flatten().collect();
    let next_cursor = if after < head.seq {
        cursor(&after)
    } else {
        None
    };
    Ok(Json(LogPage {
        epoch: head.epoch.0,
        seq: head.seq.0,
        archived_seq: head.archived.0,
        items,
        next_cursor,
    }))
}

/// A place in a log; stores keep them as signed numbers.
pub(super) fn place(field: &'static str, asked: Option<u64>) -> Result<Option<Seq>, Problem> {
    match asked {
        Some(seq) if i64::try_from(seq).is_err() => Err(Problem::invalid(
            field,
            format!("must be at most {}", i64::MAX),
        )),
        seq => Ok(seq.map(Seq)),
    }
}

pub(super) fn moved_on(epoch: Epoch) -> PortError {
    PortError::retry("read room", format!("epoch {epoch} ended meanwhile"))
}
