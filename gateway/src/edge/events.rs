//! `/rooms/{id}/events`: what happened in a room, newest first: its entries, read across the log and the archive, and of a
//! session who came and went.

use std::collections::VecDeque;

use atelier_shared::domain::entry::Entry;
use atelier_shared::domain::ids::{RoomId, Seq, UserId};
use atelier_shared::domain::room::RoomKind;
use atelier_shared::domain::user::DELETED_NAME;
use atelier_shared::domain::visit::{VisitEvent, VisitPlace};
use atelier_shared::ports::HistoryQuery;
use axum::Json;
use axum::extract::State;
use chrono::Utc;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{MaybePrincipal, may_enter};
use super::extract::{Id, Query};
use super::history::{CHUNK, LOOKED_AT_MAX, STRANGER, WireEntry, moved_on, place, shown};
use super::page::{Page, PageParams, cursor};
use super::problem::Problem;
use super::refusals::{BadQuery, Failures, Missing, NeedsRight};
use super::state::App;

/// Where the next page begins: before this entry, and before this coming or going.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Place {
    seq: Option<u64>,
    visit: Option<VisitPlace>,
}

/// Everything durable that happened, newest first; of a session also who joined and left (`user_joined`, `user_left`,
/// without a `seq`: they are not in the log).
#[utoipa::path(get, path = "/rooms/{room_id}/events", tag = "rooms", params(("room_id" = String, Path), PageParams), security((), ("bearer" = [])), responses(
    (status = 200, description = "A page of events", body = Page<WireEntry>), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn events(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(id): Id<RoomId>,
    Query(page): Query<PageParams>,
) -> Result<Json<Page<WireEntry>>, Problem> {
    let (room, _) = may_enter(&app, &id, principal.as_ref()).await?;
    let limit = page.limit()?;
    let from: Place = page.after()?.unwrap_or_default();
    // Before the log is read: what is then in the log came after them.
    let visits = match room.kind {
        RoomKind::Session => visits(&app, &id, from.visit, limit).await?,
        _ => Visits::none(from.visit),
    };
    let wanted = Wanted {
        reader: principal.map_or(STRANGER, |principal| principal.user_id),
        before: place("cursor", from.seq)?,
        limit,
    };
    let entries = backwards(&app, &id, wanted).await?;
    merged(&app, &id, entries, visits, limit).await.map(Json)
}

/// Comings and goings that a page may show.
struct Visits {
    events: VecDeque<VisitEvent>,
    /// The page before ended here.
    before: Option<VisitPlace>,
    /// There are more behind the last.
    more: bool,
}

impl Visits {
    fn none(before: Option<VisitPlace>) -> Self {
        Self {
            events: VecDeque::new(),
            before,
            more: false,
        }
    }
}

async fn visits(
    app: &App,
    room: &RoomId,
    before: Option<VisitPlace>,
    limit: usize,
) -> Result<Visits, Problem> {
    if let Err(error) = app.rooms.note_visits().await {
        tracing::debug!(%room, %error, "the latest visits are not shown yet");
    }
    let page = app.backends.records.visits(room, before.as_ref(), limit);
    let mut page = page.await?;
    let people = page.items.iter().map(|event| event.user_id).collect();
    let deleted = app.profiles.deleted_among(people).await?;
    for event in &mut page.items {
        if deleted.contains(&event.user_id) {
            DELETED_NAME.clone_into(&mut event.name);
        }
    }
    Ok(Visits {
        events: page.items.into(),
        // Who comes while the first pages are looked at is in none of the later ones.
        before: before.or_else(|| Some(VisitPlace::at(Utc::now()))),
        more: page.more,
    })
}

/// As a WebSocket client is told of it, with who it was.
fn visit_value(event: &VisitEvent) -> Value {
    let mut value = json!({
        "type": if event.gone { "user_left" } else { "user_joined" },
        "from": event.client_id,
        "ts": event.at.timestamp_millis(),
        "userId": event.client_id,
        "user_id": event.user_id,
        "name": event.name,
        "color": event.color,
        "simulated": event.simulated,
        "user": {
            "id": event.client_id,
            "user_id": event.user_id,
            "name": event.name,
            "color": event.color,
        },
    });
    if let Some(reason) = &event.reason {
        value["reason"] = json!(reason);
    }
    value
}

/// Both in one list by time, as much as fits a page. (Entries keep the log's order, whatever their times say.)
async fn merged(
    app: &App,
    room: &RoomId,
    found: Found,
    visits: Visits,
    limit: usize,
) -> Result<Page<WireEntry>, Problem> {
    let order = interleaved(&found, &visits, limit);
    let entries = order.iter().filter(|from| **from == From::Log).count();
    let taken = order.len() - entries;
    let left_over = found.left_over || entries < found.entries.len();
    let more = left_over || visits.more || taken < visits.events.len();
    let seq = match found.entries.get(entries) {
        // Everything above the first that is left over was shown.
        Some(next) => Some(next.seq.next()),
        // Of a log without entries nothing is left, whatever comes meanwhile.
        None if !found.left_over => found.before.or(Some(Seq(1))),
        None => found.before,
    };
    let visit = match taken {
        0 => visits.before,
        taken => visits.events.get(taken - 1).map(VisitEvent::place),
    };
    let next = Place {
        seq: seq.map(|seq| seq.0),
        visit,
    };
    let shown_entries = shown(app, room, &found.entries[..entries]).await?;
    let mut shown_entries = shown_entries.into_iter();
    let mut shown_visits = visits.events.iter().map(visit_value);
    let mut items = Vec::with_capacity(order.len());
    for from in order {
        match from {
            From::Log => items.extend(shown_entries.next().flatten()),
            From::Visits => {
                let value = shown_visits.next();
                items.extend(value.as_ref().map(WireEntry::of).transpose()?);
            }
        }
    }
    Ok(Page {
        items,
        next_cursor: more.then(|| cursor(&next)).flatten(),
    })
}

/// What a page of history is made of.
struct Wanted {
    reader: UserId,
    before: Option<Seq>,
    limit: usize,
}

/// Newest first: what is not archived yet from the end of the log, the rest from the archive.
async fn backwards(app: &App, room: &RoomId, wanted: Wanted) -> Result<Found, Problem> {
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
    // Nothing is before the first entry.
    found.left_over |= more && found.before != Some(Seq(1));
    app.profiles.anonymise_entries(&mut found.entries).await?;
    Ok(found)
}

/// A page being filled.
struct Found {
    wanted: Wanted,
    entries: Vec<Entry>,
    looked_at: usize,
    /// Everything from here on has been looked at.
    before: Option<Seq>,
    /// Not everything has been looked at.
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

/// Where an item of a page comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Log,
    Visits,
}

/// The newest of both first. Who came at the moment of an entry came before it, who went then went after it.
fn interleaved(found: &Found, visits: &Visits, limit: usize) -> Vec<From> {
    let (mut entries, mut events) = (
        found.entries.iter().peekable(),
        visits.events.iter().peekable(),
    );
    let mut order = Vec::new();
    while order.len() < limit {
        let from = match (entries.peek(), events.peek()) {
            (Some(entry), Some(event)) => {
                let (entry_ms, event_ms) = (entry.record.ts_ms, event.at.timestamp_millis());
                if event_ms > entry_ms || (event_ms == entry_ms && event.gone) {
                    From::Visits
                } else {
                    From::Log
                }
            }
            (Some(_), None) if !visits.more => From::Log,
            (None, Some(_)) if !found.left_over => From::Visits,
            // What comes next on the other side may be newer.
            _ => break,
        };
        match from {
            From::Log => drop(entries.next()),
            From::Visits => drop(events.next()),
        }
        order.push(from);
    }
    order
}

#[cfg(test)]
mod tests {
    use atelier_shared::domain::entry::{Author, Body, Record};
    use atelier_shared::domain::ids::{ClientId, MessageId};

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

    fn event(ms: i64, gone: bool) -> VisitEvent {
        VisitEvent {
            at: chrono::DateTime::from_timestamp_millis(ms).unwrap(),
            gone,
            client_id: "c".parse::<ClientId>().unwrap(),
            user_id: STRANGER,
            name: "Ana".into(),
            color: "teal".into(),
            simulated: false,
            reason: None,
        }
    }

    #[test]
    fn who_came_and_went_stands_among_the_entries_by_time() {
        let mut found = Found::new(wanted(9));
        for (seq, ms) in [(3, 30), (2, 20), (1, 10)] {
            let mut entry = chat(seq, "x", None);
            entry.record.ts_ms = ms;
            found.look_at(&entry);
        }
        let events = [event(30, true), event(25, false), event(10, false)];
        let mut visits = Visits {
            events: events.into(),
            ..Visits::none(None)
        };
        let (log, visit) = (From::Log, From::Visits);
        let all = [visit, log, visit, log, log, visit];
        assert_eq!(interleaved(&found, &visits, 9), all);
        assert_eq!(interleaved(&found, &visits, 2), [visit, log]);
        found.left_over = true;
        assert_eq!(
            interleaved(&found, &visits, 9),
            all[..5],
            "entries before it may be newer"
        );
        visits.more = true;
        visits.events.truncate(1);
        assert_eq!(interleaved(&found, &visits, 9), [visit]);
    }
}
