//! Invitations: the rows and the queries of [`crate::ports::InviteRecords`].

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{corrupt, parse};
use crate::domain::ids::UserId;
use crate::domain::invite::Invite;

#[derive(Debug, sqlx::FromRow)]
pub struct InviteRow {
    id: Uuid,
    room_id: String,
    code_hash: Vec<u8>,
    role: String,
    created_by: Uuid,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    max_uses: Option<i64>,
    uses: i64,
}

impl InviteRow {
    pub fn invite(self) -> sqlx::Result<Invite> {
        Ok(Invite {
            id: self.id,
            room: parse(&self.room_id)?,
            code_hash: self
                .code_hash
                .try_into()
                .map_err(|_| sqlx::Error::Decode("a code's hash has not 32 bytes".into()))?,
            role: parse(&self.role)?,
            created_by: UserId(self.created_by),
            created_at: self.created_at,
            expires_at: self.expires_at,
            max_uses: self
                .max_uses
                .map(u32::try_from)
                .transpose()
                .map_err(corrupt)?,
            uses: u32::try_from(self.uses).map_err(corrupt)?,
        })
    }
}

macro_rules! invite_records {
    ($adapter:ty) => {
        #[async_trait::async_trait]
        impl crate::ports::InviteRecords for $adapter {
            async fn create_invite(&self, invite: &crate::domain::invite::Invite) -> crate::ports::Result<bool> {
                use crate::adapters::queries::micros;

                let made = async {
                    let mut tx = self.write().await?;
                    // The room's row lock puts its invitations in order, so that their count holds.
                    let room = statement("UPDATE rooms SET role_version = role_version WHERE id = $1")
                        .bind(invite.room.as_str())
                        .execute(&mut *tx)
                        .await?;
                    let (held,): (i64,) = rows("SELECT COUNT(*) FROM invites WHERE room_id = $1")
                        .bind(invite.room.as_str())
                        .fetch_one(&mut *tx)
                        .await?;
                    let most = i64::try_from(crate::ports::INVITES_MAX).unwrap_or(i64::MAX);
                    if room.rows_affected() == 0 || held >= most {
                        return Ok(false);
                    }
                    statement(
                        "INSERT INTO invites (id, room_id, code_hash, role, created_by, created_at, expires_at,
                             max_uses, uses)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                    )
                    .bind(invite.id)
                    .bind(invite.room.as_str())
                    .bind(invite.code_hash.to_vec())
                    .bind(invite.role.as_str())
                    .bind(invite.created_by.0)
                    .bind(micros(invite.created_at))
                    .bind(invite.expires_at.map(micros))
                    .bind(invite.max_uses.map(i64::from))
                    .bind(i64::from(invite.uses))
                    .execute(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(true)
                };
                bounded(made).await.map_err(|e| failed("create an invitation", e))
            }

            async fn invites(
                &self,
                room: &crate::domain::ids::RoomId,
                before: Option<uuid::Uuid>,
                limit: usize,
            ) -> crate::ports::Result<crate::ports::Page<crate::domain::invite::Invite>> {
                use crate::adapters::queries::invites::InviteRow;
                use crate::adapters::queries::{one_more, page};

                let listed = async {
                    let mut tx = self.read().await?;
                    let rows: Vec<InviteRow> = rows(
                        "SELECT * FROM invites WHERE room_id = $1 AND id < $2 ORDER BY id DESC LIMIT +$3",
                    )
                    .bind(room.as_str())
                    .bind(before.unwrap_or(uuid::Uuid::max()))
                    .bind(one_more(limit))
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    rows.into_iter().map(InviteRow::invite).collect::<sqlx::Result<Vec<_>>>()
                };
                let invites = bounded(listed).await.map_err(|e| failed("list invitations", e))?;
                Ok(page(invites, limit))
            }

            async fn invite_by_code(
                &self,
                code_hash: [u8; 32],
            ) -> crate::ports::Result<Option<crate::domain::invite::Invite>> {
                use crate::adapters::queries::invites::InviteRow;

                let found = async {
                    let mut tx = self.read().await?;
                    let row: Option<InviteRow> = rows("SELECT * FROM invites WHERE code_hash = $1")
                        .bind(code_hash.to_vec())
                        .fetch_optional(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    row.map(InviteRow::invite).transpose()
                };
                bounded(found).await.map_err(|e| failed("find an invitation", e))
            }

            async fn accept_invite(
                &self,
                code_hash: [u8; 32],
                user: crate::domain::ids::UserId,
                now: chrono::DateTime<chrono::Utc>,
            ) -> crate::ports::Result<crate::ports::Acceptance> {
                use crate::adapters::queries::{invites::InviteRow, parse, rooms::version};
                use crate::domain::room::Role;
                use crate::ports::Acceptance;

                let accepted = async {
                    let mut tx = self.write().await?;
                    let row: Option<InviteRow> = rows("SELECT * FROM invites WHERE code_hash = $1")
                        .bind(code_hash.to_vec())
                        .fetch_optional(&mut *tx)
                        .await?;
                    let Some(row) = row else {
                        return Ok(Acceptance::Unknown);
                    };
                    let room = row.invite()?.room;
                    // The room first, as whoever changes a role or deletes it does.
                    let raised: Option<(i64,)> =
                        rows("UPDATE rooms SET role_version = role_version + 1 WHERE id = $1 RETURNING role_version")
                            .bind(room.as_str())
                            .fetch_optional(&mut *tx)
                            .await?;
                    // What stands now that nobody else can change it.
                    let row: Option<InviteRow> = rows("SELECT * FROM invites WHERE code_hash = $1")
                        .bind(code_hash.to_vec())
                        .fetch_optional(&mut *tx)
                        .await?;
                    let (Some((raised,)), Some(row)) = (raised, row) else {
                        return Ok(Acceptance::Unknown);
                    };
                    let invite = row.invite()?;
                    let held: Option<(String,)> =
                        rows("SELECT role FROM room_members WHERE room_id = $1 AND user_id = $2")
                            .bind(room.as_str())
                            .bind(user.0)
                            .fetch_optional(&mut *tx)
                            .await?;
                    let held: Option<Role> = held.map(|(word,)| parse(&word)).transpose()?;
                    if let Some(role) = held.filter(|role| *role >= invite.role) {
                        return Ok(Acceptance::Member { room, role });
                    }
                    if !invite.stands(now) {
                        return Ok(Acceptance::Over);
                    }
                    statement("UPDATE invites SET uses = uses + 1 WHERE id = $1")
                        .bind(invite.id)
                        .execute(&mut *tx)
                        .await?;
                    statement(
                        "INSERT INTO room_members (room_id, user_id, role) VALUES ($1, $2, $3)
                         ON CONFLICT (room_id, user_id) DO UPDATE SET role = excluded.role",
                    )
                    .bind(room.as_str())
                    .bind(user.0)
                    .bind(invite.role.as_str())
                    .execute(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(Acceptance::Joined {
                        room,
                        role: invite.role,
                        role_version: version(raised)?,
                    })
                };
                bounded(accepted).await.map_err(|e| failed("accept an invitation", e))
            }

            async fn revoke_invite(
                &self,
                room: &crate::domain::ids::RoomId,
                id: uuid::Uuid,
            ) -> crate::ports::Result<bool> {
                let revoked = async {
                    let mut tx = self.write().await?;
                    // The room first, as above: an acceptance under way is through, or finds it gone.
                    statement("UPDATE rooms SET role_version = role_version WHERE id = $1")
                        .bind(room.as_str())
                        .execute(&mut *tx)
                        .await?;
                    let done = statement("DELETE FROM invites WHERE room_id = $1 AND id = $2")
                        .bind(room.as_str())
                        .bind(id)
                        .execute(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(done.rows_affected() == 1)
                };
                bounded(revoked).await.map_err(|e| failed("revoke an invitation", e))
            }
        }
    };
}
pub(crate) use invite_records;
