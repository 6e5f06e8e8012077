//! Rooms that the cleanup removed: the rows and the queries of [`crate::ports::RemovalRecords`].

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{corrupt, parse};
use crate::domain::removal::Removal;

#[derive(Debug, sqlx::FromRow)]
pub struct RemovalRow {
    id: Uuid,
    room_id: String,
    state: String,
    snapshot: String,
    entries: i64,
    files: i64,
    target: Option<String>,
    removed_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
}

impl RemovalRow {
    pub fn removal(self) -> sqlx::Result<Removal> {
        Ok(Removal {
            id: self.id,
            room: parse(&self.room_id)?,
            state: parse(&self.state)?,
            snapshot: serde_json::from_str(&self.snapshot).map_err(corrupt)?,
            entries: u64::try_from(self.entries).map_err(corrupt)?,
            files: u64::try_from(self.files).map_err(corrupt)?,
            target: self.target.as_deref().map(parse).transpose()?,
            removed_at: self.removed_at,
            expires_at: self.expires_at,
        })
    }
}

macro_rules! removal_records {
    ($adapter:ty) => {
        #[async_trait::async_trait]
        impl crate::ports::RemovalRecords for $adapter {
            async fn removal_of(
                &self,
                room: &crate::domain::ids::RoomId,
            ) -> crate::ports::Result<Option<crate::domain::removal::Removal>> {
                use crate::adapters::queries::removals::RemovalRow;

                let found = async {
                    let mut tx = self.read().await?;
                    let row: Option<RemovalRow> = rows(
                        "SELECT * FROM removed_rooms WHERE room_id = $1 AND state IN ('removing', 'kept')",
                    )
                    .bind(room.as_str())
                    .fetch_optional(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    row.map(RemovalRow::removal).transpose()
                };
                bounded(found).await.map_err(|e| failed("find a room's removal", e))
            }

            async fn remove_room(
                &self,
                room: &crate::domain::ids::RoomId,
                quiet_since: chrono::DateTime<chrono::Utc>,
                at: chrono::DateTime<chrono::Utc>,
                expires_at: chrono::DateTime<chrono::Utc>,
            ) -> crate::ports::Result<Option<crate::domain::removal::Removal>> {
                use crate::adapters::queries::{micros, roles, rooms, unstorable};
                use crate::domain::removal::{Removal, RemovalState, Snapshot};
                use crate::domain::room::Retention;

                let removed = async {
                    let mut tx = self.write().await?;
                    // Locks the row against whoever touches it or changes a role in it; the condition is judged under it.
                    let row: Option<rooms::RoomRow> = rows(
                        "UPDATE rooms SET role_version = role_version + 1
                         WHERE id = $1 AND retention = $2 AND last_activity_at <= $3 RETURNING *",
                    )
                    .bind(room.as_str())
                    .bind(Retention::Ephemeral.as_str())
                    .bind(micros(quiet_since))
                    .fetch_optional(&mut *tx)
                    .await?;
                    let Some(row) = row else { return Ok(None) };
                    let members: Vec<roles::MemberRow> = rows(
                        "SELECT user_id, role, NULL AS name FROM room_members WHERE room_id = $1 ORDER BY user_id",
                    )
                    .bind(room.as_str())
                    .fetch_all(&mut *tx)
                    .await?;
                    let members = members.into_iter().map(|row| {
                        let member = row.membership()?;
                        sqlx::Result::Ok((member.user_id, member.role))
                    });
                    let mut removal = Removal {
                        id: uuid::Uuid::now_v7(),
                        room: room.clone(),
                        state: RemovalState::Removing,
                        snapshot: Snapshot {
                            room: row.room()?,
                            members: members.collect::<sqlx::Result<Vec<_>>>()?,
                        },
                        entries: 0,
                        files: 0,
                        target: None,
                        removed_at: micros(at),
                        expires_at: micros(expires_at),
                    };
                    statement("DELETE FROM rooms WHERE id = $1")
                        .bind(room.as_str())
                        .execute(&mut *tx)
                        .await?;
                    statement(
                        "INSERT INTO deleted_rooms (id, deleted_at) VALUES ($1, $2)
                         ON CONFLICT (id) DO UPDATE SET deleted_at = excluded.deleted_at",
                    )
                    .bind(room.as_str())
                    .bind(removal.removed_at)
                    .execute(&mut *tx)
                    .await?;
                    removal.files = statement("UPDATE files SET room_id = $2 WHERE room_id = $1")
                        .bind(room.as_str())
                        .bind(removal.kept_under().as_str())
                        .execute(&mut *tx)
                        .await?
                        .rows_affected();
                    statement(
                        "INSERT INTO removed_rooms (id, room_id, state, snapshot, entries, files, removed_at, expires_at)
                         VALUES ($1, $2, $3, $4, 0, $5, $6, $7)",
                    )
                    .bind(removal.id)
                    .bind(room.as_str())
                    .bind(removal.state.as_str())
                    .bind(serde_json::to_string(&removal.snapshot).map_err(unstorable)?)
                    .bind(i64::try_from(removal.files).map_err(unstorable)?)
                    .bind(removal.removed_at)
                    .bind(removal.expires_at)
                    .execute(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(Some(removal))
                };
                bounded(removed).await.map_err(|e| failed("remove a room", e))
            }

            async fn unfinished_removals(
                &self,
                limit: usize,
            ) -> crate::ports::Result<Vec<crate::domain::removal::Removal>> {
                use crate::adapters::queries::removals::RemovalRow;

                let limit = i64::try_from(limit.min(crate::ports::PAGE_MAX)).unwrap_or(i64::MAX);
                let listed = async {
                    let mut tx = self.read().await?;
                    let rows: Vec<RemovalRow> = rows(
                        "SELECT * FROM removed_rooms WHERE state IN ('removing', 'kept') ORDER BY id LIMIT +$1",
                    )
                    .bind(limit)
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    rows.into_iter().map(RemovalRow::removal).collect::<sqlx::Result<Vec<_>>>()
                };
                bounded(listed).await.map_err(|e| failed("list unfinished removals", e))
            }

            async fn claim_removal(
                &self,
                id: uuid::Uuid,
                worker: uuid::Uuid,
                now: chrono::DateTime<chrono::Utc>,
                until: chrono::DateTime<chrono::Utc>,
            ) -> crate::ports::Result<Option<crate::domain::removal::Removal>> {
                use crate::adapters::queries::{micros, removals::RemovalRow};

                let claimed = async {
                    let mut tx = self.write().await?;
                    let row: Option<RemovalRow> = rows(
                        "UPDATE removed_rooms SET worker = $2, claimed_until = $4
                         WHERE id = $1 AND state IN ('removing', 'kept')
                             AND (worker IS NULL OR worker = $2 OR claimed_until <= $3)
                         RETURNING *",
                    )
                    .bind(id)
                    .bind(worker)
                    .bind(micros(now))
                    .bind(micros(until))
                    .fetch_optional(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    row.map(RemovalRow::removal).transpose()
                };
                bounded(claimed).await.map_err(|e| failed("claim a removal", e))
            }

            async fn undo_removal(&self, id: uuid::Uuid) -> crate::ports::Result<bool> {
                use crate::domain::removal::RemovalState;

                let undone = async {
                    let mut tx = self.write().await?;
                    let Some(removal) = Self::removal_row(&mut tx, id).await? else {
                        return Ok(false);
                    };
                    if removal.state != RemovalState::Removing
                        || !Self::insert_snapshot(&mut tx, &removal.snapshot).await?
                    {
                        return Ok(false);
                    }
                    statement("DELETE FROM deleted_rooms WHERE id = $1")
                        .bind(removal.room.as_str())
                        .execute(&mut *tx)
                        .await?;
                    statement("UPDATE files SET room_id = $2 WHERE room_id = $1")
                        .bind(removal.kept_under().as_str())
                        .bind(removal.room.as_str())
                        .execute(&mut *tx)
                        .await?;
                    statement("DELETE FROM removed_rooms WHERE id = $1").bind(id).execute(&mut *tx).await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(true)
                };
                bounded(undone).await.map_err(|e| failed("take a room's removal back", e))
            }

            async fn mark_kept(
                &self,
                id: uuid::Uuid,
                worker: uuid::Uuid,
                entries: u64,
            ) -> crate::ports::Result<bool> {
                use crate::adapters::queries::unstorable;
                use crate::domain::removal::RemovalState;

                let marked = async {
                    let mut tx = self.write().await?;
                    let done = statement(
                        "UPDATE removed_rooms SET state = $2, entries = $3
                         WHERE id = $1 AND state = $4 AND worker = $5",
                    )
                    .bind(id)
                    .bind(RemovalState::Kept.as_str())
                    .bind(i64::try_from(entries).map_err(unstorable)?)
                    .bind(RemovalState::Removing.as_str())
                    .bind(worker)
                    .execute(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(done.rows_affected() > 0)
                };
                bounded(marked).await.map_err(|e| failed("keep a removed room's content", e))
            }

            async fn finish_removal(&self, id: uuid::Uuid) -> crate::ports::Result<bool> {
                use crate::domain::removal::RemovalState;

                let finished = async {
                    let mut tx = self.write().await?;
                    let done: Option<(String,)> =
                        rows("UPDATE removed_rooms SET state = $2 WHERE id = $1 AND state = $3 RETURNING room_id")
                            .bind(id)
                            .bind(RemovalState::Removed.as_str())
                            .bind(RemovalState::Kept.as_str())
                            .fetch_optional(&mut *tx)
                            .await?;
                    let Some((room,)) = done else { return Ok(false) };
                    statement("DELETE FROM deleted_rooms WHERE id = $1")
                        .bind(room)
                        .execute(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(true)
                };
                bounded(finished).await.map_err(|e| failed("finish a room's removal", e))
            }

            async fn removal(
                &self,
                id: uuid::Uuid,
            ) -> crate::ports::Result<Option<crate::domain::removal::Removal>> {
                use crate::adapters::queries::removals::RemovalRow;

                let found = async {
                    let mut tx = self.read().await?;
                    let row: Option<RemovalRow> = rows("SELECT * FROM removed_rooms WHERE id = $1")
                        .bind(id)
                        .fetch_optional(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    row.map(RemovalRow::removal).transpose()
                };
                bounded(found).await.map_err(|e| failed("find a removal", e))
            }

            async fn removals(
                &self,
                before: Option<uuid::Uuid>,
                limit: usize,
            ) -> crate::ports::Result<crate::ports::Page<crate::domain::removal::Removal>> {
                use crate::adapters::queries::{one_more, page, removals::RemovalRow};

                let listed = async {
                    let mut tx = self.read().await?;
                    let rows: Vec<RemovalRow> =
                        rows("SELECT * FROM removed_rooms WHERE id < $1 ORDER BY id DESC LIMIT +$2")
                            .bind(before.unwrap_or(uuid::Uuid::max()))
                            .bind(one_more(limit))
                            .fetch_all(&mut *tx)
                            .await?;
                    tx.commit().await?;
                    rows.into_iter().map(RemovalRow::removal).collect::<sqlx::Result<Vec<_>>>()
                };
                let removals = bounded(listed).await.map_err(|e| failed("list removals", e))?;
                Ok(page(removals, limit))
            }

            async fn expired_removals(
                &self,
                now: chrono::DateTime<chrono::Utc>,
                limit: usize,
            ) -> crate::ports::Result<Vec<crate::domain::removal::Removal>> {
                use crate::adapters::queries::{micros, removals::RemovalRow};
                use crate::domain::removal::RemovalState;

                let limit = i64::try_from(limit.min(crate::ports::PAGE_MAX)).unwrap_or(i64::MAX);
                let listed = async {
                    let mut tx = self.read().await?;
                    let rows: Vec<RemovalRow> = rows(
                        "SELECT * FROM removed_rooms WHERE expires_at <= $1 AND state = $2
                         ORDER BY expires_at LIMIT +$3",
                    )
                    .bind(micros(now))
                    .bind(RemovalState::Removed.as_str())
                    .bind(limit)
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    rows.into_iter().map(RemovalRow::removal).collect::<sqlx::Result<Vec<_>>>()
                };
                bounded(listed).await.map_err(|e| failed("list expired removals", e))
            }

            async fn begin_restore(
                &self,
                id: uuid::Uuid,
                target: &crate::domain::ids::RoomId,
                worker: uuid::Uuid,
                now: chrono::DateTime<chrono::Utc>,
                until: chrono::DateTime<chrono::Utc>,
            ) -> crate::ports::Result<crate::ports::RestoreBegun> {
                use crate::adapters::queries::micros;
                use crate::domain::removal::RemovalState;
                use crate::ports::RestoreBegun;

                let begun = async {
                    let mut tx = self.write().await?;
                    let Some(mut removal) = Self::removal_row(&mut tx, id).await? else {
                        return Ok(RestoreBegun::Missing);
                    };
                    match removal.state {
                        RemovalState::Removing | RemovalState::Kept => return Ok(RestoreBegun::UnderWay),
                        RemovalState::Restoring => {
                            let claimed = statement(
                                "UPDATE removed_rooms SET worker = $2, claimed_until = $4
                                 WHERE id = $1 AND (worker IS NULL OR worker = $2 OR claimed_until <= $3)",
                            )
                            .bind(id)
                            .bind(worker)
                            .bind(micros(now))
                            .bind(micros(until))
                            .execute(&mut *tx)
                            .await?;
                            if claimed.rows_affected() == 0 {
                                return Ok(RestoreBegun::UnderWay);
                            }
                        }
                        RemovalState::Removed => {
                            if !Self::reserve(&mut tx, target, now).await? {
                                return Ok(RestoreBegun::TargetTaken);
                            }
                            statement(
                                "UPDATE removed_rooms SET state = $2, target = $3, worker = $4, claimed_until = $5
                                 WHERE id = $1",
                            )
                            .bind(id)
                            .bind(RemovalState::Restoring.as_str())
                            .bind(target.as_str())
                            .bind(worker)
                            .bind(micros(until))
                            .execute(&mut *tx)
                            .await?;
                            removal.state = RemovalState::Restoring;
                            removal.target = Some(target.clone());
                        }
                    }
                    tx.commit().await?;
                    sqlx::Result::Ok(RestoreBegun::Begun(Box::new(removal)))
                };
                bounded(begun).await.map_err(|e| failed("begin to restore a room", e))
            }

            async fn finish_restore(
                &self,
                id: uuid::Uuid,
                worker: uuid::Uuid,
                at: chrono::DateTime<chrono::Utc>,
            ) -> crate::ports::Result<bool> {
                use crate::adapters::queries::micros;
                use crate::domain::removal::RemovalState;
                use crate::domain::room::Retention;

                let finished = async {
                    let mut tx = self.write().await?;
                    let Some(removal) = Self::removal_row(&mut tx, id).await? else {
                        return Ok(false);
                    };
                    // Under the lock that reading it took.
                    let ours = statement("UPDATE removed_rooms SET worker = worker WHERE id = $1 AND worker = $2")
                        .bind(id)
                        .bind(worker)
                        .execute(&mut *tx)
                        .await?;
                    if ours.rows_affected() == 0 {
                        return Ok(false);
                    }
                    let (RemovalState::Restoring, Some(target), mut snapshot) =
                        (removal.state, removal.target.clone(), removal.snapshot.clone())
                    else {
                        return Ok(false);
                    };
                    snapshot.room.id = target.clone();
                    snapshot.room.last_activity_at = micros(at);
                    snapshot.room.retention = Retention::Keep;
                    if let Some(project) = snapshot.room.project_id
                        && !Self::lock_place(&mut tx, crate::domain::ids::PlaceId(project)).await?
                    {
                        snapshot.room.project_id = None;
                    }
                    if !Self::insert_snapshot(&mut tx, &snapshot).await? {
                        return Ok(false);
                    }
                    statement("DELETE FROM deleted_rooms WHERE id = $1")
                        .bind(target.as_str())
                        .execute(&mut *tx)
                        .await?;
                    statement("UPDATE files SET room_id = $2 WHERE room_id = $1")
                        .bind(removal.kept_under().as_str())
                        .bind(target.as_str())
                        .execute(&mut *tx)
                        .await?;
                    statement("DELETE FROM removed_rooms WHERE id = $1").bind(id).execute(&mut *tx).await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(true)
                };
                bounded(finished).await.map_err(|e| failed("restore a room", e))
            }

            async fn delete_removal(&self, id: uuid::Uuid) -> crate::ports::Result<bool> {
                use crate::domain::removal::RemovalState;

                let deleted = async {
                    let mut tx = self.write().await?;
                    let done = statement("DELETE FROM removed_rooms WHERE id = $1 AND state = $2")
                        .bind(id)
                        .bind(RemovalState::Removed.as_str())
                        .execute(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(done.rows_affected() > 0)
                };
                bounded(deleted).await.map_err(|e| failed("forget a removal", e))
            }

            async fn reserve_room_id(
                &self,
                id: &crate::domain::ids::RoomId,
                at: chrono::DateTime<chrono::Utc>,
            ) -> crate::ports::Result<bool> {
                let reserved = async {
                    let mut tx = self.write().await?;
                    let free = Self::reserve(&mut tx, id, at).await?;
                    if free {
                        tx.commit().await?;
                    }
                    sqlx::Result::Ok(free)
                };
                bounded(reserved).await.map_err(|e| failed("reserve a room's id", e))
            }
        }
    };
}
pub(crate) use removal_records;
