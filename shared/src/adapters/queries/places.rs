//! Workspaces, projects and teams: the rows and the queries of [`crate::ports::PlaceRecords`].

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::parse;
use crate::domain::ids::{PlaceId, RoomId, UserId};
use crate::domain::place::{Place, PlaceRole};
use crate::ports::PlaceMember;

#[derive(Debug, sqlx::FromRow)]
pub struct PlaceRow {
    id: Uuid,
    kind: String,
    parent: Option<Uuid>,
    name: String,
    description: String,
    created_by: Option<Uuid>,
    created_at: DateTime<Utc>,
    #[sqlx(default)]
    own_role: Option<String>,
}

impl PlaceRow {
    pub fn place(self) -> sqlx::Result<(Place, Option<PlaceRole>)> {
        let role = self.own_role.as_deref().map(parse).transpose()?;
        let place = Place {
            id: PlaceId(self.id),
            kind: parse(&self.kind)?,
            parent: self.parent.map(PlaceId),
            name: self.name,
            description: self.description,
            created_by: self.created_by.map(UserId),
            created_at: self.created_at,
        };
        Ok((place, role))
    }
}

#[derive(Debug, sqlx::FromRow)]
pub struct PlaceMemberRow {
    user_id: Uuid,
    role: String,
    name: Option<String>,
}

impl PlaceMemberRow {
    pub fn member(self) -> sqlx::Result<PlaceMember> {
        Ok(PlaceMember {
            user_id: UserId(self.user_id),
            role: parse(&self.role)?,
            name: self.name,
        })
    }
}

/// Rooms and their role versions as read.
pub fn versions(rows: Vec<(String, i64)>) -> sqlx::Result<Vec<(RoomId, u64)>> {
    rows.into_iter()
        .map(|(id, version)| Ok((parse(&id)?, super::rooms::version(version)?)))
        .collect()
}

macro_rules! place_records {
    ($adapter:ty, $db:ty) => {
        impl $adapter {
            /// Takes the lock that changes under one workspace (or of one team) queue for. False: no such place.
            async fn lock_place(
                tx: &mut sqlx::Transaction<'static, $db>,
                id: crate::domain::ids::PlaceId,
            ) -> sqlx::Result<bool> {
                let locked = statement(
                    "UPDATE places SET version = version + 1
                     WHERE id = (SELECT COALESCE(parent, id) FROM places WHERE id = $1)",
                )
                .bind(id.0)
                .execute(&mut **tx)
                .await?;
                if locked.rows_affected() == 0 {
                    return Ok(false);
                }
                // Only now: the place may have gone while this waited for the lock.
                let there: Option<(uuid::Uuid,)> = rows("SELECT id FROM places WHERE id = $1")
                    .bind(id.0)
                    .fetch_optional(&mut **tx)
                    .await?;
                Ok(there.is_some())
            }
        }

        #[async_trait::async_trait]
        impl crate::ports::PlaceRecords for $adapter {
            async fn create_place(
                &self,
                place: &crate::domain::place::Place,
            ) -> crate::ports::Result<bool> {
                let made = async {
                    let mut tx = self.write().await?;
                    if let Some(parent) = place.parent
                        && !Self::lock_place(&mut tx, parent).await?
                    {
                        return Ok(false);
                    }
                    statement(
                        "INSERT INTO places (id, kind, parent, name, description, created_by, created_at, version)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, 1)",
                    )
                    .bind(place.id.0)
                    .bind(place.kind.as_str())
                    .bind(place.parent.map(|parent| parent.0))
                    .bind(&place.name)
                    .bind(&place.description)
                    .bind(place.created_by.map(|user| user.0))
                    .bind(crate::adapters::queries::micros(place.created_at))
                    .execute(&mut *tx)
                    .await?;
                    if let Some(maker) = place.created_by {
                        statement("INSERT INTO place_members (place_id, user_id, role) VALUES ($1, $2, $3)")
                            .bind(place.id.0)
                            .bind(maker.0)
                            .bind(crate::domain::place::PlaceRole::Owner.as_str())
                            .execute(&mut *tx)
                            .await?;
                    }
                    tx.commit().await?;
                    sqlx::Result::Ok(true)
                };
                bounded(made).await.map_err(|e| failed("create a place", e))
            }

            async fn place(
                &self,
                id: crate::domain::ids::PlaceId,
            ) -> crate::ports::Result<Option<crate::domain::place::Place>> {
                use crate::adapters::queries::places::PlaceRow;

                let found = async {
                    let mut tx = self.read().await?;
                    let row: Option<PlaceRow> = rows("SELECT * FROM places WHERE id = $1")
                        .bind(id.0)
                        .fetch_optional(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    row.map(|row| row.place().map(|(place, _)| place)).transpose()
                };
                bounded(found).await.map_err(|e| failed("find a place", e))
            }

            async fn patch_place(
                &self,
                id: crate::domain::ids::PlaceId,
                patch: &crate::ports::PlacePatch,
            ) -> crate::ports::Result<Option<crate::domain::place::Place>> {
                use crate::adapters::queries::places::PlaceRow;

                let patched = async {
                    let mut tx = self.write().await?;
                    let row: Option<PlaceRow> = rows(
                        "UPDATE places SET name = COALESCE($2, name), description = COALESCE($3, description)
                         WHERE id = $1 RETURNING *",
                    )
                    .bind(id.0)
                    .bind(&patch.name)
                    .bind(&patch.description)
                    .fetch_optional(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    row.map(|row| row.place().map(|(place, _)| place)).transpose()
                };
                bounded(patched).await.map_err(|e| failed("change a place", e))
            }

            async fn delete_place(
                &self,
                id: crate::domain::ids::PlaceId,
            ) -> crate::ports::Result<crate::ports::PlaceDeletion> {
                use crate::ports::PlaceDeletion;

                let deleted = async {
                    let mut tx = self.write().await?;
                    if !Self::lock_place(&mut tx, id).await? {
                        return Ok(PlaceDeletion::Missing);
                    }
                    let room: Option<(String,)> = rows(
                        "SELECT id FROM rooms WHERE project_id IN (SELECT id FROM places WHERE id = $1 OR parent = $1)
                         LIMIT 1",
                    )
                    .bind(id.0)
                    .fetch_optional(&mut *tx)
                    .await?;
                    if room.is_some() {
                        return Ok(PlaceDeletion::HasRooms);
                    }
                    statement("DELETE FROM places WHERE id = $1")
                        .bind(id.0)
                        .execute(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(PlaceDeletion::Deleted)
                };
                bounded(deleted).await.map_err(|e| failed("delete a place", e))
            }

            async fn rooms_in(
                &self,
                id: crate::domain::ids::PlaceId,
                limit: usize,
            ) -> crate::ports::Result<Vec<crate::domain::ids::RoomId>> {
                let listed = async {
                    let mut tx = self.read().await?;
                    let rows: Vec<(String,)> = rows(
                        "SELECT id FROM rooms WHERE project_id IN (SELECT id FROM places WHERE id = $1 OR parent = $1)
                         LIMIT +$2",
                    )
                    .bind(id.0)
                    .bind(i64::try_from(limit.min(crate::ports::PAGE_MAX)).unwrap_or(i64::MAX))
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    rows.iter()
                        .map(|(id,)| crate::adapters::queries::parse(id))
                        .collect::<sqlx::Result<Vec<_>>>()
                };
                bounded(listed).await.map_err(|e| failed("list the rooms of a place", e))
            }

            async fn list_places(
                &self,
                scope: crate::ports::PlaceScope,
                reader: crate::domain::ids::UserId,
                before: Option<crate::domain::ids::PlaceId>,
                limit: usize,
            ) -> crate::ports::Result<
                crate::ports::Page<(
                    crate::domain::place::Place,
                    Option<crate::domain::place::PlaceRole>,
                )>,
            > {
                use crate::adapters::queries::places::PlaceRow;
                use crate::adapters::queries::{one_more, page};
                use crate::ports::PlaceScope;

                let listed = async {
                    let mut tx = self.read().await?;
                    let before = before.map_or(uuid::Uuid::max(), |id| id.0);
                    let query = match scope {
                        PlaceScope::Of(person, kind) => rows::<PlaceRow>(
                            "SELECT places.*, mine.role AS own_role
                             FROM place_members AS theirs JOIN places ON places.id = theirs.place_id
                             LEFT JOIN place_members AS mine ON mine.place_id = places.id AND mine.user_id = $1
                             WHERE theirs.user_id = $4 AND places.kind = $5 AND places.id < $2
                             ORDER BY places.id DESC LIMIT +$3",
                        )
                        .bind(reader.0)
                        .bind(before)
                        .bind(one_more(limit))
                        .bind(person.0)
                        .bind(kind.as_str()),
                        PlaceScope::In(workspace) => rows(
                            "SELECT places.*, mine.role AS own_role
                             FROM places LEFT JOIN place_members AS mine
                                 ON mine.place_id = places.id AND mine.user_id = $1
                             WHERE places.parent = $4 AND places.id < $2 ORDER BY places.id DESC LIMIT +$3",
                        )
                        .bind(reader.0)
                        .bind(before)
                        .bind(one_more(limit))
                        .bind(workspace.0),
                        PlaceScope::All(kind) => rows(
                            "SELECT places.*, mine.role AS own_role
                             FROM places LEFT JOIN place_members AS mine
                                 ON mine.place_id = places.id AND mine.user_id = $1
                             WHERE places.kind = $4 AND places.id < $2 ORDER BY places.id DESC LIMIT +$3",
                        )
                        .bind(reader.0)
                        .bind(before)
                        .bind(one_more(limit))
                        .bind(kind.as_str()),
                    };
                    let rows = query.fetch_all(&mut *tx).await?;
                    tx.commit().await?;
                    rows.into_iter().map(PlaceRow::place).collect::<sqlx::Result<Vec<_>>>()
                };
                let places = bounded(listed).await.map_err(|e| failed("list places", e))?;
                Ok(page(places, limit))
            }

            async fn place_role(
                &self,
                place: crate::domain::ids::PlaceId,
                user: crate::domain::ids::UserId,
            ) -> crate::ports::Result<Option<crate::domain::place::PlaceRole>> {
                use crate::adapters::queries::parse;
                use crate::domain::place::PlaceRole;

                let found = async {
                    let mut tx = self.read().await?;
                    let rows: Vec<(String,)> = rows(
                        "SELECT place_members.role FROM places
                         JOIN place_members ON place_members.place_id IN (places.id, places.parent)
                         WHERE places.id = $1 AND place_members.user_id = $2",
                    )
                    .bind(place.0)
                    .bind(user.0)
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    let roles = rows.iter().map(|(word,)| parse::<PlaceRole>(word));
                    Ok(roles.collect::<sqlx::Result<Vec<_>>>()?.into_iter().max())
                };
                bounded(found).await.map_err(|e| failed("find a role in a place", e))
            }

            async fn place_member(
                &self,
                place: crate::domain::ids::PlaceId,
                user: crate::domain::ids::UserId,
            ) -> crate::ports::Result<Option<crate::ports::PlaceMember>> {
                use crate::adapters::queries::places::PlaceMemberRow;

                let found = async {
                    let mut tx = self.read().await?;
                    let row: Option<PlaceMemberRow> = rows(
                        "SELECT place_members.user_id, place_members.role, users.name
                         FROM place_members LEFT JOIN users ON users.id = place_members.user_id
                         WHERE place_members.place_id = $1 AND place_members.user_id = $2",
                    )
                    .bind(place.0)
                    .bind(user.0)
                    .fetch_optional(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    row.map(PlaceMemberRow::member).transpose()
                };
                bounded(found).await.map_err(|e| failed("find a member of a place", e))
            }

            async fn place_members(
                &self,
                place: crate::domain::ids::PlaceId,
                after: Option<crate::domain::ids::UserId>,
                limit: usize,
            ) -> crate::ports::Result<crate::ports::Page<crate::ports::PlaceMember>> {
                use crate::adapters::queries::places::PlaceMemberRow;
                use crate::adapters::queries::{one_more, page};

                let listed = async {
                    let mut tx = self.read().await?;
                    let rows: Vec<PlaceMemberRow> = rows(
                        "SELECT place_members.user_id, place_members.role, users.name
                         FROM place_members LEFT JOIN users ON users.id = place_members.user_id
                         WHERE place_members.place_id = $1 AND place_members.user_id > $2
                         ORDER BY place_members.user_id LIMIT +$3",
                    )
                    .bind(place.0)
                    .bind(after.map_or(uuid::Uuid::nil(), |user| user.0))
                    .bind(one_more(limit))
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    rows.into_iter().map(PlaceMemberRow::member).collect::<sqlx::Result<Vec<_>>>()
                };
                let members = bounded(listed).await.map_err(|e| failed("list the members of a place", e))?;
                Ok(page(members, limit))
            }

            async fn set_place_role(
                &self,
                place: crate::domain::ids::PlaceId,
                user: crate::domain::ids::UserId,
                seen: Option<crate::domain::place::PlaceRole>,
                role: Option<crate::domain::place::PlaceRole>,
            ) -> crate::ports::Result<crate::ports::PlaceChange> {
                use crate::adapters::queries::{parse, places};
                use crate::domain::place::PlaceRole;
                use crate::ports::PlaceChange;

                let set = async {
                    let mut tx = self.write().await?;
                    if !Self::lock_place(&mut tx, place).await? {
                        return Ok(PlaceChange::Missing);
                    }
                    let own: Option<(String,)> =
                        rows("SELECT role FROM place_members WHERE place_id = $1 AND user_id = $2")
                            .bind(place.0)
                            .bind(user.0)
                            .fetch_optional(&mut *tx)
                            .await?;
                    let own = own.map(|(word,)| parse::<PlaceRole>(&word)).transpose()?;
                    if own != seen {
                        return Ok(PlaceChange::Changed);
                    }
                    if own == Some(PlaceRole::Owner) && role != Some(PlaceRole::Owner) {
                        let (others,): (i64,) = rows(
                            "SELECT COUNT(*) FROM place_members WHERE place_id = $1 AND role = $3 AND user_id <> $2",
                        )
                        .bind(place.0)
                        .bind(user.0)
                        .bind(PlaceRole::Owner.as_str())
                        .fetch_one(&mut *tx)
                        .await?;
                        if others == 0 {
                            return Ok(PlaceChange::LastOwner);
                        }
                    }
                    if let Some(role) = role {
                        statement(
                            "INSERT INTO place_members (place_id, user_id, role) VALUES ($1, $2, $3)
                             ON CONFLICT (place_id, user_id) DO UPDATE SET role = excluded.role",
                        )
                        .bind(place.0)
                        .bind(user.0)
                        .bind(role.as_str())
                        .execute(&mut *tx)
                        .await?;
                    } else {
                        statement(
                            "DELETE FROM place_members WHERE user_id = $2
                                 AND place_id IN (SELECT id FROM places WHERE id = $1 OR parent = $1)",
                        )
                        .bind(place.0)
                        .bind(user.0)
                        .execute(&mut *tx)
                        .await?;
                        // Whoever still comes in by the workspace keeps what the rooms gave them.
                        statement(
                            "DELETE FROM room_members WHERE user_id = $2 AND room_id IN (
                                 SELECT rooms.id FROM rooms JOIN places ON places.id = rooms.project_id
                                 WHERE (places.id = $1 OR places.parent = $1) AND NOT EXISTS (
                                     SELECT 1 FROM place_members
                                     WHERE place_members.user_id = $2
                                         AND place_members.place_id IN (places.id, places.parent)
                                 )
                             )",
                        )
                        .bind(place.0)
                        .bind(user.0)
                        .execute(&mut *tx)
                        .await?;
                    }
                    let raised: Vec<(String, i64)> = rows(
                        "UPDATE rooms SET role_version = role_version + 1
                         WHERE project_id IN (SELECT id FROM places WHERE id = $1 OR parent = $1)
                         RETURNING id, role_version",
                    )
                    .bind(place.0)
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    places::versions(raised).map(PlaceChange::Done)
                };
                bounded(set).await.map_err(|e| failed("set a role in a place", e))
            }
        }
    };
}
pub(crate) use place_records;
