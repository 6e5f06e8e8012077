//! Rooms and roles: the rows and the queries of [`crate::ports::RoomRecords`].

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use super::{corrupt, parse, unstorable};
use crate::domain::ids::UserId;
use crate::domain::place::PlaceRole;
use crate::domain::room::{Activity, Role, Room};
use crate::ports::Membership;

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

#[derive(Debug, sqlx::FromRow)]
pub struct MemberRow {
    user_id: Uuid,
    role: String,
    name: Option<String>,
}

impl MemberRow {
    pub fn membership(self) -> sqlx::Result<Membership> {
        Ok(Membership {
            user_id: UserId(self.user_id),
            role: parse(&self.role)?,
            name: self.name,
        })
    }
}

/// What a role's word makes of a person in a room: `source` says whether the room gave it or a place.
pub fn standing(source: &str, word: &str) -> sqlx::Result<Role> {
    match source {
        "room" => parse(word),
        _ => parse::<PlaceRole>(word).map(PlaceRole::in_rooms),
    }
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
    ($adapter:ty, $db:ty) => {
        #[async_trait::async_trait]
        impl crate::ports::RoomRecords for $adapter {
            async fn create_room(&self, room: &crate::domain::room::Room) -> crate::ports::Result<bool> {
                use crate::adapters::queries::{micros, rooms};
                use crate::domain::room::Role;

                let made = async {
                    let mut tx = self.write().await?;
                    if let Some(project) = room.project_id
                        && !Self::lock_place(&mut tx, crate::domain::ids::PlaceId(project)).await?
                    {
                        return Ok(false);
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
                        return Ok(false);
                    }
                    // Only after the insert: it waits for a deletion under way, and this statement then sees what that left.
                    let reserved: Option<(String,)> =
                        rows("SELECT id FROM deleted_rooms WHERE id = $1 AND deleted_at > $2")
                            .bind(room.id.as_str())
                            .bind(micros(room.created_at) - crate::ports::DELETED_ID_RESERVED)
                            .fetch_optional(&mut *tx)
                            .await?;
                    if reserved.is_some() {
                        return Ok(false);
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
                    Ok(true)
                };
                made.await.map_err(|e| failed("create a room", e))
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
                found.await.map_err(|e| failed("find a room", e))
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
                found.await.map_err(|e| failed("find rooms", e))
            }

            async fn list_rooms(
                &self,
                visible: crate::ports::RoomVisibility,
                before: Option<(chrono::DateTime<chrono::Utc>, crate::domain::ids::RoomId)>,
                limit: usize,
            ) -> crate::ports::Result<crate::ports::Page<crate::domain::room::Room>> {
                use crate::adapters::queries::{end_of_time, micros, one_more, page, rooms::RoomRow};
                use crate::ports::RoomVisibility;

                let (at, id) = match &before {
                    Some((at, id)) => (micros(*at), id.as_str()),
                    None => (end_of_time(), ""),
                };
                let listed = async {
                    let mut tx = self.read().await?;
                    let query = match visible {
                        RoomVisibility::All => rows(
                            "SELECT * FROM rooms WHERE (created_at, id) < ($1, $2)
                             ORDER BY created_at DESC, id DESC LIMIT +$3",
                        ),
                        RoomVisibility::Listed => rows(
                            "SELECT * FROM rooms WHERE listed AND (created_at, id) < ($1, $2)
                             ORDER BY created_at DESC, id DESC LIMIT +$3",
                        ),
                        // Three lists, each read off its own index, not one condition that none can serve. Of each project
                        // the newest as many as fit the page.
                        RoomVisibility::For(_) => rows(
                            "SELECT * FROM rooms WHERE id IN (
                                 SELECT id FROM (
                                     SELECT id FROM rooms WHERE listed AND (created_at, id) < ($1, $2)
                                     ORDER BY created_at DESC, id DESC LIMIT +$3
                                 ) AS listed_rooms
                                 UNION
                                 SELECT id FROM (
                                     SELECT room_id AS id FROM room_members
                                     WHERE user_id = $4 AND (room_created_at, room_id) < ($1, $2)
                                     ORDER BY room_created_at DESC, room_id DESC LIMIT +$3
                                 ) AS own_rooms
                                 UNION
                                 SELECT id FROM (
                                     SELECT rooms.id FROM (
                                         SELECT place_id AS id FROM place_members WHERE user_id = $4
                                         UNION
                                         SELECT places.id FROM place_members
                                         JOIN places ON places.parent = place_members.place_id
                                         WHERE place_members.user_id = $4
                                     ) AS mine
                                     JOIN rooms ON rooms.project_id = mine.id
                                     WHERE (rooms.created_at, rooms.id) < ($1, $2) AND rooms.created_at >= COALESCE((
                                         SELECT older.created_at FROM rooms AS older
                                         WHERE older.project_id = mine.id AND (older.created_at, older.id) < ($1, $2)
                                         ORDER BY older.created_at DESC, older.id DESC LIMIT 1 OFFSET +$3
                                     ), $5)
                                     ORDER BY rooms.created_at DESC, rooms.id DESC LIMIT +$3
                                 ) AS project_rooms
                             )
                             ORDER BY created_at DESC, id DESC LIMIT +$3",
                        ),
                    };
                    let mut query = query.bind(at).bind(id).bind(one_more(limit));
                    if let RoomVisibility::For(person) = visible {
                        query = query.bind(person.0).bind(chrono::DateTime::UNIX_EPOCH);
                    }
                    let rows: Vec<RoomRow> = query.fetch_all(&mut *tx).await?;
                    tx.commit().await?;
                    rows.into_iter().map(RoomRow::room).collect::<sqlx::Result<Vec<_>>>()
                };
                let rooms = listed.await.map_err(|e| failed("list rooms", e))?;
                Ok(page(rooms, limit))
            }

            async fn update_room(&self, room: &crate::domain::room::Room) -> crate::ports::Result<bool> {
                let updated = async {
                    let mut tx = self.write().await?;
                    let done = statement(
                        "UPDATE rooms SET name = $2, access = $3, listed = $4, retention = $5, allows = $6, kind = $7
                         WHERE id = $1",
                    )
                    .bind(room.id.as_str())
                    .bind(&room.name)
                    .bind(room.access.as_str())
                    .bind(room.listed)
                    .bind(room.retention.as_str())
                    .bind(sqlx::types::Json(&room.allows))
                    .bind(room.kind.as_str())
                    .execute(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(done.rows_affected() > 0)
                };
                updated.await.map_err(|e| failed("update a room", e))
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
                touched.await.map_err(|e| failed("touch a room", e))
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
                let deleted = deleted.await.map_err(|e| failed("delete a room", e))?;
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
                if let Err(error) = swept.await {
                    tracing::warn!(%error, "lapsed reservations of room ids were not forgotten; the next deletion tries again");
                }
                Ok(true)
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
                released.await.map_err(|e| failed("release a room's id", e))
            }

            async fn count_rooms_of_address(
                &self,
                address: &str,
                since: chrono::DateTime<chrono::Utc>,
                active: &[crate::domain::ids::RoomId],
            ) -> crate::ports::Result<u64> {
                use crate::adapters::queries::{LIST_CHUNK, corrupt, micros};

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
                    let (mut count,): (i64,) =
                        rows("SELECT COUNT(*) FROM rooms WHERE creator_address = $1 AND created_at >= $2")
                            .bind(address)
                            .bind(since)
                            .fetch_one(&mut *tx)
                            .await?;
                    for chunk in active.chunks(LIST_CHUNK) {
                        let mut query =
                            sqlx::QueryBuilder::<$db>::new("SELECT COUNT(*) FROM rooms WHERE creator_address = ");
                        query.push_bind(address).push(" AND created_at < ").push_bind(since).push(" AND id IN (");
                        let mut list = query.separated(", ");
                        for id in chunk {
                            list.push_bind(*id);
                        }
                        query.push(")");
                        let (older,): (i64,) =
                            query.build_query_as().persistent(false).fetch_one(&mut *tx).await?;
                        count += older;
                    }
                    tx.commit().await?;
                    u64::try_from(count).map_err(corrupt)
                };
                counted.await.map_err(|e| failed("count the rooms of an address", e))
            }

            async fn role(
                &self,
                room: &crate::domain::ids::RoomId,
                user: crate::domain::ids::UserId,
            ) -> crate::ports::Result<Option<crate::domain::room::Role>> {
                use crate::adapters::queries::rooms::standing;

                let found = async {
                    let mut tx = self.read().await?;
                    let rows: Vec<(String, String)> = rows(
                        "SELECT 'room' AS source, role FROM room_members WHERE room_id = $1 AND user_id = $2
                         UNION ALL
                         SELECT 'place' AS source, place_members.role
                         FROM rooms JOIN places ON places.id = rooms.project_id
                         JOIN place_members ON place_members.place_id IN (places.id, places.parent)
                         WHERE rooms.id = $1 AND place_members.user_id = $2",
                    )
                    .bind(room.as_str())
                    .bind(user.0)
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    let roles = rows.iter().map(|(source, word)| standing(source, word));
                    Ok(roles.collect::<sqlx::Result<Vec<_>>>()?.into_iter().max())
                };
                found.await.map_err(|e| failed("find a role", e))
            }

            async fn roles(
                &self,
                room: &crate::domain::ids::RoomId,
                users: &[crate::domain::ids::UserId],
            ) -> crate::ports::Result<
                Vec<(crate::domain::ids::UserId, crate::domain::room::Role)>,
            > {
                use crate::adapters::queries::{LIST_CHUNK, rooms::standing};
                use crate::domain::ids::UserId;

                let users = &users[..users.len().min(crate::ports::MEMBERS_MAX)];
                let found = async {
                    let mut tx = self.read().await?;
                    let mut found = std::collections::BTreeMap::new();
                    for chunk in users.chunks(LIST_CHUNK) {
                        let mut query = sqlx::QueryBuilder::<$db>::new(
                            "SELECT user_id, 'room' AS source, role FROM room_members WHERE room_id = ",
                        );
                        query.push_bind(room.as_str()).push(" AND user_id IN (");
                        let mut list = query.separated(", ");
                        for user in chunk {
                            list.push_bind(user.0);
                        }
                        query.push(
                            ") UNION ALL SELECT place_members.user_id, 'place' AS source, place_members.role
                             FROM rooms JOIN places ON places.id = rooms.project_id
                             JOIN place_members ON place_members.place_id IN (places.id, places.parent)
                             WHERE rooms.id = ",
                        );
                        query.push_bind(room.as_str()).push(" AND place_members.user_id IN (");
                        let mut list = query.separated(", ");
                        for user in chunk {
                            list.push_bind(user.0);
                        }
                        query.push(")");
                        let rows: Vec<(uuid::Uuid, String, String)> =
                            query.build_query_as().persistent(false).fetch_all(&mut *tx).await?;
                        for (user, source, word) in rows {
                            let role = standing(&source, &word)?;
                            let greatest = found.entry(UserId(user)).or_insert(role);
                            *greatest = role.max(*greatest);
                        }
                    }
                    tx.commit().await?;
                    sqlx::Result::Ok(found.into_iter().collect())
                };
                found.await.map_err(|e| failed("find roles", e))
            }

            async fn member(
                &self,
                room: &crate::domain::ids::RoomId,
                user: crate::domain::ids::UserId,
            ) -> crate::ports::Result<Option<crate::ports::Membership>> {
                use crate::adapters::queries::rooms::MemberRow;

                let found = async {
                    let mut tx = self.read().await?;
                    let row: Option<MemberRow> = rows(
                        "SELECT room_members.user_id, room_members.role, users.name
                         FROM room_members LEFT JOIN users ON users.id = room_members.user_id
                         WHERE room_members.room_id = $1 AND room_members.user_id = $2",
                    )
                    .bind(room.as_str())
                    .bind(user.0)
                    .fetch_optional(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    row.map(MemberRow::membership).transpose()
                };
                found.await.map_err(|e| failed("find a member of a room", e))
            }

            async fn members(
                &self,
                room: &crate::domain::ids::RoomId,
            ) -> crate::ports::Result<Vec<crate::ports::Membership>> {
                use crate::adapters::queries::rooms::MemberRow;

                let listed = async {
                    let mut tx = self.read().await?;
                    let rows: Vec<MemberRow> = rows(
                        "SELECT room_members.user_id, room_members.role, users.name
                         FROM room_members LEFT JOIN users ON users.id = room_members.user_id
                         WHERE room_members.room_id = $1 ORDER BY room_members.user_id LIMIT +$2",
                    )
                    .bind(room.as_str())
                    .bind(i64::try_from(crate::ports::MEMBERS_MAX).unwrap_or(i64::MAX))
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    rows.into_iter().map(MemberRow::membership).collect::<sqlx::Result<Vec<_>>>()
                };
                listed.await.map_err(|e| failed("list the members of a room", e))
            }

            async fn set_role(
                &self,
                room: &crate::domain::ids::RoomId,
                user: crate::domain::ids::UserId,
                role: Option<crate::domain::room::Role>,
            ) -> crate::ports::Result<Option<u64>> {
                let set = async {
                    let mut tx = self.write().await?;
                    // First the room: its row lock puts the changes of one room's roles in order.
                    let raised: Option<(i64,)> =
                        rows("UPDATE rooms SET role_version = role_version + 1 WHERE id = $1 RETURNING role_version")
                            .bind(room.as_str())
                            .fetch_optional(&mut *tx)
                            .await?;
                    let Some((version,)) = raised else {
                        return Ok(None);
                    };
                    match role {
                        Some(role) => {
                            statement(
                                "INSERT INTO room_members (room_id, user_id, role) VALUES ($1, $2, $3)
                                 ON CONFLICT (room_id, user_id) DO UPDATE SET role = excluded.role",
                            )
                            .bind(room.as_str())
                            .bind(user.0)
                            .bind(role.as_str())
                            .execute(&mut *tx)
                            .await?
                        }
                        None => {
                            statement("DELETE FROM room_members WHERE room_id = $1 AND user_id = $2")
                                .bind(room.as_str())
                                .bind(user.0)
                                .execute(&mut *tx)
                                .await?
                        }
                    };
                    tx.commit().await?;
                    crate::adapters::queries::rooms::version(version).map(Some)
                };
                set.await.map_err(|e| failed("set a role", e))
            }
        }
    };
}
pub(crate) use room_records;
