//! `/rooms/{id}/events` and `/log`: what happened in a room, read across the log and the archive. Messages are in
//! [`super::messages`].

use std::collections::BTreeMap;

use atelier_shared::domain::entry::{Body, Entry};
use atelier_shared::domain::ids::{Epoch, MessageId, RoomId, Seq, UserId};
use atelier_shared::ports::{HistoryQuery, PortError};
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
use super::page::{Page, PageParams, cursor, limit};
use super::problem::Problem;
use super::refusals::{BadQuery, Failures, Missing, NeedsRight};
use super::state::App;
use crate::room::json::outgoing::entry_value;

/// Entries read at a time.
const CHUNK: usize = 256;
/// Entries looked through to fill one page before it is answered short.
const LOOKED_AT_MAX: usize = 4_096;
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

/// Entries as they may be seen now: without the words of messages that were deleted since, reactions with all who are under
/// them.
async fn shown(app: &App, room: &RoomId, entries: &[Entry]) -> Result<Vec<WireEntry>, Problem> {
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
            continue;
        };
        let reactors = match (&entry.record.body, message) {
            (Body::Reaction { emoji, .. }, Some(message)) => message.users_of(emoji),
            _ => &[],
        };
        items.push(WireEntry::of(&entry_value(
            &entry,
            reactors,
            &app.identity,
        ))?);
    }
    Ok(items)
}

/// Everything durable that happened, newest first.
#[utoipa::path(get, path = "/rooms/{room_id}/events", tag = "rooms", params(("room_id" = String, Path), PageParams), security((), ("bearer" = [])), responses(
    (status = 200, description = "A page of events", body = Page<WireEntry>), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn events(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(room): Id<RoomId>,
    Query(page): Query<PageParams>,
) -> Result<Json<Page<WireEntry>>, Problem> {
    may_enter(&app, &room, principal.as_ref()).await?;
    let wanted = Wanted {
        reader: principal.map_or(STRANGER, |principal| principal.user_id),
        before: place("cursor", page.after()?)?,
        limit: page.limit()?,
    };
    backwards(&app, &room, wanted).await.map(Json)
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
    let now_ms = Utc::now().timestamp_millis();
    let head =
        recovery::activate(&*b.log, &*b.archive, &id, None, room.role_version, now_ms).await?;
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

fn moved_on(epoch: Epoch) -> PortError {
    PortError::retry("read room", format!("epoch {epoch} ended meanwhile"))
}

/// What a page of history is made of.
struct Wanted {
    reader: UserId,
    before: Option<Seq>,
    limit: usize,
}

/// Newest first: what is not archived yet from the end of the log, the rest from the archive.
async fn backwards(app: &App, room: &RoomId, wanted: Wanted) -> Result<Page<WireEntry>, Problem> {
    let b = &app.backends;
    // The archive's head first: what it gains meanwhile is then read from both, never from neither.
    let archived = b.archive.head(room).await?.seq;
    let mut found = Found::new(wanted);
    if let Some(head) = b.log.head(room).await? {
        let tail_begins = archived.max(head.trimmed);
        let mut end = found
            .before
            .map_or(head.seq, |before| Seq(before.0 - 1))
            .min(head.seq);
        while end > tail_begins && !found.is_full() {
            let after = Seq(end.0.saturating_sub(CHUNK as u64)).max(tail_begins);
            let count = usize::try_from(end.0 - after.0).unwrap_or(0);
            let chunk = b.log.read(room, head.epoch, after, count).await?;
            let chunk = chunk.ok_or_else(|| moved_on(head.epoch))?;
            chunk.iter().rev().for_each(|entry| found.look_at(entry));
            if !found.left_over {
                found.before = Some(after.next());
            }
            end = after;
        }
    }
    let mut more = true;
    while more && !found.is_full() {
        let query = HistoryQuery {
            kinds: Vec::new(),
            before: found.before,
            reader: Some(found.wanted.reader),
            limit: CHUNK,
        };
        let page = b.archive.history(room, &query).await?;
        more = page.more && !page.entries.is_empty();
        page.entries.iter().for_each(|entry| found.look_at(entry));
    }
    let next_cursor = if more || found.left_over {
        found.before.and_then(|before| cursor(&before))
    } else {
        None
    };
    app.profiles.anonymise_entries(&mut found.entries).await?;
    Ok(Page {
        items: shown(app, room, &found.entries).await?,
        next_cursor,
    })
}

/// A page being filled.
struct Found {
    wanted: Wanted,
    entries: Vec<Entry>,
    looked_at: usize,
    /// Everything from here on has been looked at.
    before: Option<Seq>,
    /// The page was full before everything at hand had been looked at.
    left_over: bool,
}

impl Found {
    fn new(mut wanted: Wanted) -> Self {
        // Nothing is before the first entry.
        wanted.before = wanted.before.map(|before| before.max(Seq(1)));
        Self {
            before: wanted.before,
            wanted,
            entries: Vec::new(),
            looked_at: 0,
            left_over: false,
        }
    }

    fn is_full(&self) -> bool {
        self.left_over || self.entries.len() >= self.wanted.limit || self.looked_at >= LOOKED_AT_MAX
    }

    fn look_at(&mut self, entry: &Entry) {
        if self.entries.len() >= self.wanted.limit {
            self.left_over = true;
            return;
        }
        self.looked_at += 1;
        self.before = Some(entry.seq);
        if entry.visible_to(self.wanted.reader) {
            self.entries.push(entry.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use atelier_shared::domain::entry::{Author, Record};
    use atelier_shared::domain::ids::ClientId;

    use super::*;

    fn chat(seq: u64, content: &str, audience: Option<Vec<UserId>>) -> Entry {
        Entry {
            seq: Seq(seq),
            record: Record {
                ts_ms: 0,
                author: Author {
                    client_id: "c".parse::<ClientId>().unwrap(),
                    user_id: STRANGER,
                    connection: None,
                    name: "Ana".into(),
                    color: None,
                    avatar_url: None,
                },
                reference: None,
                audience,
                body: Body::ChatMessage {
                    id: MessageId::generate(),
                    content: content.into(),
                    mentions: Vec::new(),
                    reply_to: None,
                    thread: None,
                    file_id: None,
                    file_name: None,
                },
            },
        }
    }

    fn wanted(limit: usize) -> Wanted {
        Wanted {
            reader: STRANGER,
            before: None,
            limit,
        }
    }

    #[test]
    fn a_page_holds_what_is_wanted_and_knows_where_it_stopped() {
        let mut found = Found::new(wanted(1));
        found.look_at(&chat(9, "HELLO", None));
        found.look_at(&chat(8, "bye", None));
        assert!(found.is_full() && found.left_over);
        assert_eq!(found.before, Some(Seq(9)), "8 has not been looked at");
    }

    #[test]
    fn what_is_for_others_is_left_out() {
        let mut found = Found::new(wanted(9));
        found.look_at(&chat(2, "hello", Some(vec![UserId::generate()])));
        found.look_at(&chat(1, "hello", Some(vec![STRANGER])));
        let seqs: Vec<u64> = found.entries.iter().map(|entry| entry.seq.0).collect();
        assert_eq!((seqs, found.before), (vec![1], Some(Seq(1))));
    }
}
