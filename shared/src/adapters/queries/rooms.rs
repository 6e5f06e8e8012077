//! Rooms: the rows and the queries of [`crate::ports::RoomRecords`].

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use super::{corrupt, end_of_time, micros, parse, unstorable};
use crate::domain::ids::UserId;
use crate::domain::room::{Activity, Room};
use crate::ports::RoomQuery;

/// Lapsed reservations forgotten at each deletion: more than one, so that they don't pile up.
pub const FORGET_CHUNK: i64 = 100;

#[derive(Debug, sqlx::FromRow)]
pub struct RoomRow {
    id: String,
    name: String,
    kind: String,
    access: String,
    listed: bool,
    retention: String,
    allows: Json<Vec<Activity>>,
    created_by: Option<Uuid>,
    creator_address: Option<String>,
    project_id: Option<Uuid>,
    role_version: i64,
    created_at: DateTime<Utc>,
    last_activity_at: DateTime<Utc>,
}

impl RoomRow {
    pub fn room(self) -> sqlx::Result<Room> {
        Ok(Room {
            id: parse(&self.id)?,
            name: self.name,
            kind: parse(&self.kind)?,
            access: parse(&self.access)?,
            listed: self.listed,
            retention: parse(&self.retention)?,
            allows: self.allows.0,
            created_by: self.created_by.map(UserId),
            creator_address: self.creator_address,
            project_id: self.project_id,
            role_version: version(self.role_version)?,
            created_at: self.created_at,
            last_activity_at: self.last_activity_at,
        })
    }
}

/// Where a list goes on. (A time that is none of ours is beyond either end.)
pub fn before(query: &RoomQuery) -> (DateTime<Utc>, &str) {
    match &query.before {
        Some((at, id)) => {
            let at = (*at).clamp(DateTime::UNIX_EPOCH, end_of_time());
            (micros(at), id.as_str())
        }
        None => (end_of_time(), ""),
    }
}

/// Rooms in the order of lists: those of several chunks are in none.
pub fn newest(rooms: &mut [Room]) {
    rooms.sort_unstable_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
}

/// A role version as read.
pub fn version(stored: i64) -> sqlx::Result<u64> {
    u64::try_from(stored).map_err(corrupt)
}

/// A role version to be written.
pub fn stored_version(version: u64) -> sqlx::Result<i64> {
    i64::try_from(version).map_err(unstorable)
}

macro_rules! room_records {
    ($adapter:ty, $db:ty, $lists:expr) => {
        impl $adapter {
            async fn whole_list(
                &self,
                query: &crate::ports::RoomQuery,
                limit: usize,
            ) -> sqlx::Result<Vec<crate::domain::room::Room>> {
                use crate::adapters::queries::{one_more, room_lists, rooms::{RoomRow, before}};
                use crate::ports::RoomVisibility;

                let lists = match query.kind {
                    None => $lists.of_all,
                    Some(_) => $lists.of_kind,
                };
                let sql = match query.visible {
                    RoomVisibility::All => lists[room_lists::WHOLE],
                    RoomVisibility::Listed => lists[room_lists::LISTED],
                    RoomVisibility::For(_) => lists[room_lists::FOR],
                };
                let (at, id) = before(query);
                let mut tx = self.read().await?;
                let mut asked = rows(sql).bind(at).bind(id).bind(one_more(limit));
                if let Some(kind) = query.kind {
                    asked = asked.bind(kind.as_str());
                }
                if let RoomVisibility::For(person) = query.visible {
                    asked = asked.bind(person.0).bind(chrono::DateTime::UNIX_EPOCH);
                }
                let rows: Vec<RoomRow> = asked.fetch_all(&mut *tx).await?;
                tx.commit().await?;
                rows.into_iter().map(RoomRow::room).collect()
            }

            async fn list_among(
                &self,
                query: &crate::ports::RoomQuery,
                ids: &std::collections::BTreeSet<crate::domain::ids::RoomId>,
                limit: usize,
            ) -> sqlx::Result<Vec<crate::domain::room::Room>> {
                use crate::adapters::queries::{
                    LIST_CHUNK, one_more,
                    room_lists::{MEMBER, OF_MY_PLACES},
                    rooms::{RoomRow, before, newest},
                };
                use crate::ports::RoomVisibility;

                let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
                let (at, id) = before(query);
                let mut found = Vec::new();
                let mut tx = self.read().await?;
                for chunk in ids.chunks(LIST_CHUNK) {
                    let mut asked = sqlx::QueryBuilder::<$db>::new("SELECT * FROM rooms WHERE id IN (");
                    let mut list = asked.separated(", ");
                    for id in chunk {
                        list.push_bind(*id);
                    }
                    asked.push(") AND (created_at, id) < (").push_bind(at).push(", ").push_bind(id).push(")");
                    if let Some(kind) = query.kind {
                        asked.push(" AND kind = ").push_bind(kind.as_str());
                    }
                    match query.visible {
                        RoomVisibility::All => {}
                        RoomVisibility::Listed => drop(asked.push(" AND listed")),
                        RoomVisibility::For(person) => {
                            asked.push(" AND (listed").push(MEMBER).push_bind(person.0);
                            asked.push(")").push(OF_MY_PLACES).push_bind(person.0).push("))");
                        }
                    }
                    asked.push(" ORDER BY created_at DESC, id DESC LIMIT +").push_bind(one_more(limit));
                    let rows: Vec<RoomRow> =
                        asked.build_query_as().persistent(false).fetch_all(&mut *tx).await?;
                    for row in rows {
                        found.push(row.room()?);
                    }
                }
                tx.commit().await?;
                newest(&mut found);
                Ok(found)
            }

            async fn rooms_since(
                tx: &mut sqlx::Transaction<'static, $db>,
                address: &str,
                since: chrono::DateTime<chrono::Utc>,
            ) -> sqlx::Result<u64> {
                let (count,): (i64,) =
                    rows("SELECT COUNT(*) FROM rooms WHERE creator_address = $1 AND created_at >= $2")
                        .bind(address)
                        .bind(crate::adapters::queries::micros(since))
                        .fetch_one(&mut **tx)
                        .await?;
                u64::try_from(count).map_err(crate::adapters::queries::corrupt)
            }
        }

        #[async_trait::async_trait]
        impl crate::ports::RoomRecords for $adapter {
            async fn create_room_within(
                &self,
                room: &crate::domain::room::Room,
                quota: Option<crate::ports::RoomQuota>,
            ) -> crate::ports::Result<crate::ports::RoomCreation> {
                use crate::adapters::queries::{micros, rooms};
                use crate::domain::room::Role;
                use crate::ports::RoomCreation;

                let made = async {
                    let mut tx = self.write().await?;
                    if let Some(project) = room.project_id
                        && !Self::lock_place(&mut tx, crate::domain::ids::PlaceId(project)).await?
                    {
                        return Ok(RoomCreation::Taken);
                    }
                    if let (Some(quota), Some(address)) = (quota, &room.creator_address) {
                        lock_address(&mut tx, address).await?;
                        if Self::rooms_since(&mut tx, address, quota.since).await? >= quota.most {
                            return Ok(RoomCreation::Full);
                        }
                    }
                    let done = statement(
                        "INSERT INTO rooms (id, name, kind, access, listed, retention, allows, created_by,
                             creator_address, project_id, role_version, created_at, last_activity_at)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
                         ON CONFLICT (id) DO NOTHING",
                    )
                    .bind(room.id.as_str())
                    .bind(&room.name)
                    .bind(room.kind.as_str())
                    .bind(room.access.as_str())
                    .bind(room.listed)
                    .bind(room.retention.as_str())
                    .bind(sqlx::types::Json(&room.allows))
                    .bind(room.created_by.map(|user| user.0))
                    .bind(&room.creator_address)
                    .bind(room.project_id)
                    .bind(rooms::stored_version(room.role_version)?)
                    .bind(micros(room.created_at))
                    .bind(micros(room.last_activity_at))
                    .execute(&mut *tx)
                    .await?;
                    if done.rows_affected() == 0 {
                        return Ok(RoomCreation::Taken);
                    }
                    // Only after the insert: it waits for a deletion under way, and this statement then sees what that left.
                    let reserved: Option<(String,)> =
                        rows("SELECT id FROM deleted_rooms WHERE id = $1 AND deleted_at > $2")
                            .bind(room.id.as_str())
                            .bind(micros(room.created_at) - crate::ports::DELETED_ID_RESERVED)
                            .fetch_optional(&mut *tx)
                            .await?;
                    if reserved.is_some() {
                        return Ok(RoomCreation::Taken);
                    }
                    statement("DELETE FROM deleted_rooms WHERE id = $1")
                        .bind(room.id.as_str())
                        .execute(&mut *tx)
                        .await?;
                    if let Some(maker) = room.created_by {
                        statement("INSERT INTO room_members (room_id, user_id, role) VALUES ($1, $2, $3)")
                            .bind(room.id.as_str())
                            .bind(maker.0)
                            .bind(Role::Host.as_str())
                            .execute(&mut *tx)
                            .await?;
                    }
                    tx.commit().await?;
                    sqlx::Result::Ok(RoomCreation::Made)
                };
                bounded(made).await.map_err(|e| failed("create a room", e))
            }

            async fn room(
                &self,
                id: &crate::domain::ids::RoomId,
            ) -> crate::ports::Result<Option<crate::domain::room::Room>> {
                use crate::adapters::queries::rooms::RoomRow;

                let found = async {
                    let mut tx = self.read().await?;
                    let row: Option<RoomRow> = rows("SELECT * FROM rooms WHERE id = $1")
                        .bind(id.as_str())
                        .fetch_optional(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    row.map(RoomRow::room).transpose()
                };
                bounded(found).await.map_err(|e| failed("find a room", e))
            }

            async fn rooms(
                &self,
                ids: &[crate::domain::ids::RoomId],
            ) -> crate::ports::Result<Vec<crate::domain::room::Room>> {
                use crate::adapters::queries::{LIST_CHUNK, rooms::RoomRow};

                if ids.is_empty() {
                    return Ok(Vec::new());
                }
                // Once each, or the same room asked for twice could answer from two chunks.
                let ids: Vec<&str> = ids
                    .iter()
                    .map(|id| id.as_str())
                    .collect::<std::collections::BTreeSet<_>>()
                    .into_iter()
                    .collect();
                let found = async {
                    let mut tx = self.read().await?;
                    let mut found = Vec::new();
                    for chunk in ids.chunks(LIST_CHUNK) {
                        let mut query = sqlx::QueryBuilder::<$db>::new("SELECT * FROM rooms WHERE id IN (");
                        let mut list = query.separated(", ");
                        for id in chunk {
                            list.push_bind(*id);
                        }
                        query.push(")");
                        let rows: Vec<RoomRow> =
                            query.build_query_as().persistent(false).fetch_all(&mut *tx).await?;
                        for row in rows {
                            found.push(row.room()?);
                        }
                    }
                    tx.commit().await?;
                    sqlx::Result::Ok(found)
                };
                bounded(found).await.map_err(|e| failed("find rooms", e))
            }

            async fn list_rooms(
                &self,
                query: &crate::ports::RoomQuery,
                limit: usize,
            ) -> crate::ports::Result<crate::ports::Page<crate::domain::room::Room>> {
                let listed = async {
                    match &query.among {
                        None => self.whole_list(query, limit).await,
                        Some(ids) => self.list_among(query, ids, limit).await,
                    }
                };
                let rooms = bounded(listed).await.map_err(|e| failed("list rooms", e))?;
                Ok(crate::adapters::queries::page(rooms, limit))
            }

            async fn patch_room(
                &self,
                id: &crate::domain::ids::RoomId,
                patch: &crate::ports::RoomPatch,
            ) -> crate::ports::Result<Option<crate::domain::room::Room>> {
                use crate::adapters::queries::rooms::RoomRow;

                let patched = async {
                    let mut tx = self.write().await?;
                    let row: Option<RoomRow> = rows(
                        "UPDATE rooms SET name = COALESCE($2, name), access = COALESCE($3, access),
                             listed = COALESCE($4, listed), retention = COALESCE($5, retention),
                             allows = COALESCE($6, allows), kind = COALESCE($7, kind)
                         WHERE id = $1 RETURNING *",
                    )
                    .bind(id.as_str())
                    .bind(&patch.name)
                    .bind(patch.access.map(|access| access.as_str()))
                    .bind(patch.listed)
                    .bind(patch.retention.map(|retention| retention.as_str()))
                    .bind(patch.allows.as_ref().map(sqlx::types::Json))
                    .bind(patch.kind.map(|kind| kind.as_str()))
                    .fetch_optional(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    row.map(RoomRow::room).transpose()
                };
                bounded(patched).await.map_err(|e| failed("change a room", e))
            }

            async fn touch_room(
                &self,
                id: &crate::domain::ids::RoomId,
                at: chrono::DateTime<chrono::Utc>,
            ) -> crate::ports::Result<()> {
                let touched = async {
                    let mut tx = self.write().await?;
                    statement("UPDATE rooms SET last_activity_at = $2 WHERE id = $1 AND last_activity_at < $2")
                        .bind(id.as_str())
                        .bind(crate::adapters::queries::micros(at))
                        .execute(&mut *tx)
                        .await?;
                    tx.commit().await
                };
                bounded(touched).await.map_err(|e| failed("touch a room", e))
            }

            async fn delete_room(
                &self,
                id: &crate::domain::ids::RoomId,
                at: chrono::DateTime<chrono::Utc>,
            ) -> crate::ports::Result<bool> {
                use crate::adapters::queries::{micros, rooms};

                let deleted = async {
                    let mut tx = self.write().await?;
                    let done = statement("DELETE FROM rooms WHERE id = $1")
                        .bind(id.as_str())
                        .execute(&mut *tx)
                        .await?;
                    if done.rows_affected() == 0 {
                        return Ok(false);
                    }
                    statement(
                        "INSERT INTO deleted_rooms (id, deleted_at) VALUES ($1, $2)
                         ON CONFLICT (id) DO UPDATE SET deleted_at = excluded.deleted_at",
                    )
                    .bind(id.as_str())
                    .bind(micros(at))
                    .execute(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(true)
                };
                let deleted = bounded(deleted).await.map_err(|e| failed("delete a room", e))?;
                if !deleted {
                    return Ok(false);
                }
                // In a transaction of its own: the room is gone whatever becomes of the sweep.
                let swept = async {
                    let mut tx = self.write().await?;
                    statement(
                        "DELETE FROM deleted_rooms WHERE id IN (
                             SELECT id FROM deleted_rooms WHERE deleted_at <= $1 ORDER BY deleted_at LIMIT +$2
                         )",
                    )
                    .bind(micros(at) - crate::ports::DELETED_ID_RESERVED)
                    .bind(rooms::FORGET_CHUNK)
                    .execute(&mut *tx)
                    .await?;
                    tx.commit().await
                };
                if let Err(error) = bounded(swept).await {
                    tracing::warn!(%error, "lapsed reservations of room ids were not forgotten; the next deletion tries again");
                }
                Ok(true)
            }

            async fn is_room_deleted(
                &self,
                id: &crate::domain::ids::RoomId,
            ) -> crate::ports::Result<bool> {
                let asked = async {
                    let mut tx = self.read().await?;
                    let reserved: Option<(String,)> = rows(
                        "SELECT id FROM deleted_rooms
                         WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM rooms WHERE rooms.id = deleted_rooms.id)",
                    )
                    .bind(id.as_str())
                    .fetch_optional(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(reserved.is_some())
                };
                bounded(asked).await.map_err(|e| failed("look for a deleted room", e))
            }

            async fn release_room_id(
                &self,
                id: &crate::domain::ids::RoomId,
            ) -> crate::ports::Result<()> {
                let released = async {
                    let mut tx = self.write().await?;
                    statement("DELETE FROM deleted_rooms WHERE id = $1")
                        .bind(id.as_str())
                        .execute(&mut *tx)
                        .await?;
                    tx.commit().await
                };
                bounded(released).await.map_err(|e| failed("release a room's id", e))
            }

            async fn count_rooms_of_address(
                &self,
                address: &str,
                since: chrono::DateTime<chrono::Utc>,
                active: &[crate::domain::ids::RoomId],
            ) -> crate::ports::Result<crate::ports::RoomsOfAddress> {
                use crate::adapters::queries::{LIST_CHUNK, corrupt, micros};
                use crate::ports::RoomsOfAddress;

                let since = micros(since);
                // Once each, or a room named twice could be counted in two chunks.
                let active: Vec<&str> = active
                    .iter()
                    .map(|id| id.as_str())
                    .collect::<std::collections::BTreeSet<_>>()
                    .into_iter()
                    .collect();
                let counted = async {
                    let mut tx = self.read().await?;
                    let young = Self::rooms_since(&mut tx, address, since).await?;
                    let mut older = 0;
                    for chunk in active.chunks(LIST_CHUNK) {
                        let mut query =
                            sqlx::QueryBuilder::<$db>::new("SELECT COUNT(*) FROM rooms WHERE creator_address = ");
                        query.push_bind(address).push(" AND created_at < ").push_bind(since).push(" AND id IN (");
                        let mut list = query.separated(", ");
                        for id in chunk {
                            list.push_bind(*id);
                        }
                        query.push(")");
                        let (some,): (i64,) =
                            query.build_query_as().persistent(false).fetch_one(&mut *tx).await?;
                        older += u64::try_from(some).map_err(corrupt)?;
                    }
                    tx.commit().await?;
                    sqlx::Result::Ok(RoomsOfAddress { young, older })
                };
                bounded(counted).await.map_err(|e| failed("count the rooms of an address", e))
            }
        }
    };
}
pub(crate) use room_records;
