//! Roles in rooms: the rows and the queries of [`crate::ports::RoleRecords`].

use uuid::Uuid;

use super::parse;
use crate::domain::ids::UserId;
use crate::domain::place::PlaceRole;
use crate::domain::room::Role;
use crate::ports::Membership;

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

macro_rules! role_records {
    ($adapter:ty, $db:ty) => {
        #[async_trait::async_trait]
        impl crate::ports::RoleRecords for $adapter {
            async fn role(
                &self,
                room: &crate::domain::ids::RoomId,
                user: crate::domain::ids::UserId,
            ) -> crate::ports::Result<Option<crate::domain::room::Role>> {
                use crate::adapters::queries::roles::standing;

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
                bounded(found).await.map_err(|e| failed("find a role", e))
            }

            async fn roles(
                &self,
                room: &crate::domain::ids::RoomId,
                users: &[crate::domain::ids::UserId],
            ) -> crate::ports::Result<
                Vec<(crate::domain::ids::UserId, crate::domain::room::Role)>,
            > {
                use crate::adapters::queries::{LIST_CHUNK, roles::standing};
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
                bounded(found).await.map_err(|e| failed("find roles", e))
            }

            async fn member(
                &self,
                room: &crate::domain::ids::RoomId,
                user: crate::domain::ids::UserId,
            ) -> crate::ports::Result<Option<crate::ports::Membership>> {
                use crate::adapters::queries::roles::MemberRow;

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
                bounded(found).await.map_err(|e| failed("find a member of a room", e))
            }

            async fn members(
                &self,
                room: &crate::domain::ids::RoomId,
                after: Option<crate::domain::ids::UserId>,
                limit: usize,
            ) -> crate::ports::Result<crate::ports::Page<crate::ports::Membership>> {
                use crate::adapters::queries::roles::MemberRow;
                use crate::adapters::queries::{one_more, page};

                let listed = async {
                    let mut tx = self.read().await?;
                    let rows: Vec<MemberRow> = rows(
                        "SELECT room_members.user_id, room_members.role, users.name
                         FROM room_members LEFT JOIN users ON users.id = room_members.user_id
                         WHERE room_members.room_id = $1 AND room_members.user_id > $2
                         ORDER BY room_members.user_id LIMIT +$3",
                    )
                    .bind(room.as_str())
                    .bind(after.map_or(uuid::Uuid::nil(), |user| user.0))
                    .bind(one_more(limit))
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    rows.into_iter().map(MemberRow::membership).collect::<sqlx::Result<Vec<_>>>()
                };
                let members = bounded(listed).await.map_err(|e| failed("list the members of a room", e))?;
                Ok(page(members, limit))
            }

            async fn set_role(
                &self,
                room: &crate::domain::ids::RoomId,
                user: crate::domain::ids::UserId,
                role: Option<crate::domain::room::Role>,
            ) -> crate::ports::Result<crate::ports::RoleChange> {
                use crate::domain::room::Role;
                use crate::ports::RoleChange;

                let set = async {
                    let mut tx = self.write().await?;
                    // First the room: its row lock puts the changes of one room's roles in order.
                    let raised: Option<(i64,)> =
                        rows("UPDATE rooms SET role_version = role_version + 1 WHERE id = $1 RETURNING role_version")
                            .bind(room.as_str())
                            .fetch_optional(&mut *tx)
                            .await?;
                    let Some((version,)) = raised else {
                        return Ok(RoleChange::Missing);
                    };
                    if role != Some(Role::Host) {
                        // Under the same lock: of two hosts who send each other away the second finds itself alone.
                        let (is_last,): (bool,) = rows(
                            "SELECT EXISTS (
                                 SELECT 1 FROM room_members WHERE room_id = $1 AND user_id = $2 AND role = $3
                             ) AND NOT EXISTS (
                                 SELECT 1 FROM room_members WHERE room_id = $1 AND user_id <> $2 AND role = $3
                             ) AS is_last",
                        )
                        .bind(room.as_str())
                        .bind(user.0)
                        .bind(Role::Host.as_str())
                        .fetch_one(&mut *tx)
                        .await?;
                        if is_last {
                            // What was raised is taken back with the rest.
                            return Ok(RoleChange::LastHost);
                        }
                    }
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
                    crate::adapters::queries::rooms::version(version).map(RoleChange::Done)
                };
                bounded(set).await.map_err(|e| failed("set a role", e))
            }
        }
    };
}
pub(crate) use role_records;
