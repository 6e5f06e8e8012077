//! `/rooms/{id}/messages` and what sessions ask of theirs: pages of folded messages, search, threads, figures.

use std::collections::BTreeMap;

use atelier_shared::domain::ids::{MessageId, RoomId, UserId};
use atelier_shared::domain::message::MessageKind;
use atelier_shared::domain::search;
use atelier_shared::domain::user::DELETED_NAME;
use atelier_shared::ports::MessageQuery;
use atelier_shared::recovery;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::client::{MaybePrincipal, may_enter};
use super::extract::{Id, Query};
use super::history::{STRANGER, WireEntry, place};
use super::page::{Page, PageParams, cursor};
use super::problem::Problem;
use super::refusals::{BadQuery, Failures, Missing, NeedsRight};
use super::state::App;
use crate::identity::Principal;
use crate::room::json::outgoing::rfc3339;
use crate::room::json::shown::message_value;

/// Longest search text, in bytes.
const SEARCH_MAX_BYTES: usize = 256;
/// People that the figures name, those with most messages first.
const PEOPLE_SHOWN_MAX: usize = 100;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MessageFilter {
    /// Only messages before this seq
    #[param(maximum = 9_223_372_036_854_775_807_u64)]
    before: Option<u64>,
    /// Only messages in which each of these words begins a word, in any case
    q: Option<String>,
    /// Only this message and the answers in its thread
    thread: Option<Uuid>,
    /// Most items to answer with, 1 to 200
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// `next_cursor` of the page before
    cursor: Option<String>,
}

/// Chat messages and comments as they are now, newest first; direct messages only to the two of them. Edited ones carry
/// `edited_at`, deleted ones no more than `id`, `seq` and `deleted_at`.
#[utoipa::path(get, path = "/rooms/{room_id}/messages", operation_id = "messages", tag = "rooms", params(("room_id" = String, Path), MessageFilter), security((), ("bearer" = [])), responses(
    (status = 200, description = "A page of messages", body = Page<WireEntry>), NeedsRight, Missing, BadQuery, Failures,
))]
pub async fn list(
    State(app): State<App>,
    MaybePrincipal(principal): MaybePrincipal,
    Id(room): Id<RoomId>,
    Query(filter): Query<MessageFilter>,
) -> Result<Json<Page<WireEntry>>, Problem> {
    may_enter(&app, &room, principal.as_ref()).await?;
    let page = PageParams {
        limit: filter.limit,
        cursor: filter.cursor,
    };
    let reader = reader(principal.as_ref());
    let query = MessageQuery {
        before: place("cursor", page.after()?)?.or(place("before", filter.before)?),
        reader,
        words: asked_words(filter.q.as_deref().unwrap_or(""))?,
        thread: thread(&app, &room, reader, filter.thread).await?,
        limit: page.limit()?,
    };
    let b = &app.backends;
    let (mut messages, next) = recovery::messages(&*b.log, &*b.archive, &room, &query).await?;
    app.profiles.anonymise_messages(messages.iter_mut()).await?;
    let items = messages
        .iter()
        .map(|message| WireEntry::of(&message_value(message, &app.identity)));
    Ok(Json(Page {
        items: items.collect::<Result<_, _>>()?,
        next_cursor: next.and_then(|seq| cursor(&seq)),
    }))
}

fn reader(principal: Option<&Principal>) -> UserId {
    principal.map_or(STRANGER, |principal| principal.user_id)
}

fn asked_words(q: &str) -> Result<std::collections::BTreeSet<String>, Problem> {
    if q.len() > SEARCH_MAX_BYTES {
        let text = format!("must have at most {SEARCH_MAX_BYTES} bytes");
        return Err(Problem::invalid("q", text));
    }
    let words = search::words(q);
    if words.is_empty() && !q.trim().is_empty() {
        return Err(Problem::invalid("q", "must hold a word"));
    }
    Ok(words)
}

/// The first message of the thread that was asked for by any of its messages.
async fn thread(
    app: &App,
    room: &RoomId,
    reader: UserId,
    asked: Option<Uuid>,
) -> Result<Option<MessageId>, Problem> {
    let Some(id) = asked.map(MessageId) else {
        return Ok(None);
    };
    let b = &app.backends;
    let mut found = recovery::messages_by_id(&*b.log, &*b.archive, room, &[id]).await?;
    let message = found.remove(&id).filter(|m| m.visible_to(reader));
    let message = message.ok_or_else(|| Problem::not_found("message").at("thread"))?;
    Ok(Some(message.thread().unwrap_or(id)))
}

/// Figures of the messages that you may see.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageStats {
    /// Not deleted
    total: i64,
    /// Of these: chat messages, comments, direct messages
    by_type: ByType,
    edited: i64,
    deleted: i64,
    /// Answers in threads
    replies: i64,
    /// Reactions that they bear
    reactions: i64,
    /// Who wrote most, at most 100
    by_user: Vec<UserMessages>,
    first_at: Option<String>,
    last_at: Option<String>,
}

#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ByType {
    chat_message: i64,
    code_comment: i64,
    direct_message: i64,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct UserMessages {
    user_id: Uuid,
    name: String,
    messages: i64,
}

/// How many messages a room has, of which type and by whom. Direct messages count for the two of them.
pub async fn stats(
    app: &App,
    room: &RoomId,
    principal: Option<&Principal>,
) -> Result<MessageStats, Problem> {
    may_enter(app, room, principal).await?;
    let b = &app.backends;
    let counts = recovery::message_counts(&*b.log, &*b.archive, room, reader(principal)).await?;
    let mut by_type = ByType::default();
    let mut by_user: BTreeMap<UserId, UserMessages> = BTreeMap::new();
    for counts in &counts {
        let of_type = match counts.kind {
            MessageKind::ChatMessage => &mut by_type.chat_message,
            MessageKind::CodeComment => &mut by_type.code_comment,
            MessageKind::DirectMessage => &mut by_type.direct_message,
        };
        *of_type += counts.messages;
        let theirs = by_user.entry(counts.user_id).or_insert(UserMessages {
            user_id: counts.user_id.0,
            name: counts.name.clone(),
            messages: 0,
        });
        theirs.messages += counts.messages;
    }
    let mut by_user: Vec<UserMessages> = by_user.into_values().collect();
    by_user.sort_by_key(|user| std::cmp::Reverse(user.messages));
    by_user.truncate(PEOPLE_SHOWN_MAX);
    let people = by_user.iter().map(|user| UserId(user.user_id)).collect();
    let deleted = app.profiles.deleted_among(people).await?;
    for user in &mut by_user {
        if deleted.contains(&UserId(user.user_id)) {
            DELETED_NAME.clone_into(&mut user.name);
        }
    }
    let sum = |of: fn(&atelier_shared::domain::message::MessageCounts) -> i64| {
        counts.iter().map(of).sum::<i64>()
    };
    Ok(MessageStats {
        total: sum(|c| c.messages),
        by_type,
        edited: sum(|c| c.edited),
        deleted: sum(|c| c.deleted),
        replies: sum(|c| c.replies),
        reactions: sum(|c| c.reactions),
        by_user,
        first_at: counts.iter().map(|c| c.first_ms).min().map(rfc3339),
        last_at: counts.iter().map(|c| c.last_ms).max().map(rfc3339),
    })
}
