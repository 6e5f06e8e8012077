//! A room, and the people in it, as REST shows them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use atelier_shared::domain::ids::{ClientId, RoomId};
use atelier_shared::domain::presence::Member;
use atelier_shared::domain::room::{Role, Room};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::documents;
use super::health::rfc3339;
use super::page::{Page, PageParams, cursor};
use super::problem::Problem;
use super::state::App;

/// Reads of presence at once, for one list.
const PRESENCE_READS_AT_ONCE: usize = 16;
/// How long a live room is asked who is in it.
const LIVE_WITHIN: Duration = Duration::from_millis(250);

/// Somebody in a room, by connection.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserInRoom {
    /// `client_id` of the connection
    id: String,
    /// The person behind it
    user_id: Uuid,
    name: String,
    #[schema(example = "#3B82F6")]
    color: String,
    avatar_url: Option<String>,
    /// What the client last sent as its cursor's position
    cursor_position: Option<Value>,
    selection: Option<Value>,
    /// `active`, `idle` or `away`
    status: &'static str,
    /// `host`, `editor` or `viewer`
    role: &'static str,
    simulated: bool,
}

impl From<Member> for UserInRoom {
    fn from(member: Member) -> Self {
        Self {
            id: member.client_id.to_string(),
            user_id: member.user_id.0,
            name: member.name,
            color: member.color,
            avatar_url: member.avatar_url,
            cursor_position: member.cursor_position.map(|value| *value),
            selection: member.selection.map(|value| *value),
            status: member.status.as_str(),
            role: member.role.as_str(),
            simulated: member.simulated,
        }
    }
}

/// A room and its people.
#[derive(Debug, Serialize, ToSchema)]
pub struct RoomView {
    #[schema(example = "abc123")]
    id: String,
    name: String,
    /// People who have joined
    user_count: usize,
    /// Hex characters of the document's state
    doc_size: usize,
    users: Vec<UserInRoom>,
    #[serde(flatten)]
    settings: RoomSettings,
    /// What you are in it
    #[schema(example = "host")]
    role: Option<&'static str>,
    /// Of a room just made from a drawing
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imported: Option<ImportReport>,
}

/// What became of the file that a room was made from.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImportReport {
    pub strokes: usize,
    /// So many of them are outlines of shapes that were only filled
    pub outlined: usize,
    /// Elements that can't be strokes, by name
    #[schema(example = json!({"text": 2}))]
    pub left_out: BTreeMap<String, usize>,
}

/// A room in a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct RoomSummary {
    id: String,
    name: String,
    user_count: usize,
    #[serde(flatten)]
    settings: RoomSettings,
}

#[derive(Debug, Serialize, ToSchema)]
struct RoomSettings {
    /// `open`, `whiteboard`, `session` or `project`
    kind: &'static str,
    /// Who may enter without being a member: `open`, `invite` or `members`
    access: &'static str,
    listed: bool,
    /// What becomes of it when it is empty: `keep` or `ephemeral`
    retention: &'static str,
    /// `draw`, `chat`, `document`, `code`
    allows: Vec<&'static str>,
    project_id: Option<Uuid>,
    created_by: Option<Uuid>,
    created_at: String,
    last_activity_at: String,
}

impl From<&Room> for RoomSettings {
    fn from(room: &Room) -> Self {
        Self {
            kind: room.kind.as_str(),
            access: room.access.as_str(),
            listed: room.listed,
            retention: room.retention.as_str(),
            allows: room.allows.iter().map(|a| a.as_str()).collect(),
            project_id: room.project_id,
            created_by: room.created_by.map(|id| id.0),
            created_at: rfc3339(room.created_at),
            last_activity_at: rfc3339(room.last_activity_at),
        }
    }
}

impl RoomSummary {
    pub fn new(room: &Room, user_count: usize) -> Self {
        Self {
            id: room.id.to_string(),
            name: room.name.clone(),
            user_count,
            settings: room.into(),
        }
    }
}

/// A room as the list of active rooms shows it, to anybody.
#[derive(Debug, Serialize, ToSchema)]
pub struct ActiveRoom {
    #[schema(example = "abc123")]
    id: String,
    name: String,
    user_count: usize,
    /// Hex characters of the document's state
    doc_size: usize,
    /// Empty where not everybody may enter
    users: Vec<UserInRoom>,
}

impl ActiveRoom {
    pub fn new(room: Room, users: Vec<UserInRoom>, user_count: usize, doc_size: usize) -> Self {
        Self {
            id: room.id.to_string(),
            name: room.name,
            user_count,
            doc_size,
            users,
        }
    }
}

/// Everybody in the room: as presence has them, where cursors and the like come with a beat, and as they are now to a room
/// that is live here.
async fn members(app: &App, room: &RoomId) -> Result<Vec<Member>, Problem> {
    let mut members = app.backends.presence.members(room).await?;
    // A room that has a lot to do is not waited for.
    let here = tokio::time::timeout(LIVE_WITHIN, app.rooms.members(room));
    let here = here.await.ok().flatten().unwrap_or_default();
    let mut here: HashMap<ClientId, Member> = here
        .into_iter()
        .map(|member| (member.client_id.clone(), member))
        .collect();
    for member in &mut members {
        if let Some(now) = here.remove(&member.client_id)
            && now.connection == member.connection
        {
            *member = now;
        }
    }
    Ok(members)
}

/// The people who have joined, by client id.
pub async fn users_in(app: &App, room: &RoomId) -> Result<Vec<UserInRoom>, Problem> {
    let members = members(app, room).await?;
    Ok(members
        .into_iter()
        .filter(|member| member.joined)
        .map(UserInRoom::from)
        .collect())
}

/// Somebody who views a file.
#[derive(Debug, Serialize, ToSchema)]
pub struct Viewer {
    #[serde(flatten)]
    user: UserInRoom,
    #[schema(example = "main.py")]
    file: String,
    line: Option<u64>,
    column: Option<u64>,
    start_line: Option<u64>,
    end_line: Option<u64>,
}

/// Who views a file (or any), by client id.
pub async fn viewers(
    app: &App,
    room: &RoomId,
    file: Option<&str>,
    page: &PageParams,
) -> Result<Page<Viewer>, Problem> {
    let (after, limit) = (page.after::<ClientId>()?, page.limit()?);
    let mut members = members(app, room).await?;
    members.sort_unstable_by(|a, b| a.client_id.cmp(&b.client_id));
    let mut viewers = members.into_iter().filter_map(|mut member| {
        let viewing = *member.viewing.take().filter(|_| member.joined)?;
        let wanted = file.is_none_or(|file| viewing.file == file)
            && after.as_ref().is_none_or(|after| member.client_id > *after);
        wanted.then(|| (member.client_id.clone(), viewing, member))
    });
    let mut items = Vec::new();
    let mut last = None;
    for (client_id, viewing, member) in viewers.by_ref().take(limit) {
        last = Some(client_id);
        items.push(Viewer {
            user: member.into(),
            file: viewing.file,
            line: viewing.line,
            column: viewing.column,
            start_line: viewing.start_line,
            end_line: viewing.end_line,
        });
    }
    let more = viewers.next().is_some();
    let next_cursor = last.filter(|_| more).and_then(|id| cursor(&id));
    Ok(Page { items, next_cursor })
}

/// [`users_in`] for several rooms.
pub async fn users_in_all(
    app: &App,
    rooms: Vec<RoomId>,
) -> Result<HashMap<RoomId, Vec<UserInRoom>>, Problem> {
    stream::iter(rooms)
        .map(|room| async move {
            let users = users_in(app, &room).await?;
            Ok((room, users))
        })
        .buffer_unordered(PRESENCE_READS_AT_ONCE)
        .try_collect()
        .await
}

/// The whole view of one room for somebody who may enter it.
pub async fn view(app: &App, room: &Room, role: Role) -> Result<RoomView, Problem> {
    let users = users_in(app, &room.id).await?;
    let sizes = documents::sizes(app, std::slice::from_ref(&room.id)).await;
    Ok(RoomView {
        id: room.id.to_string(),
        name: room.name.clone(),
        user_count: users.len(),
        doc_size: sizes.get(&room.id).copied().unwrap_or(0),
        users,
        settings: room.into(),
        role: Some(role.as_str()),
        imported: None,
    })
}
