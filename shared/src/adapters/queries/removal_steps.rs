//! What the queries of [`crate::ports::RemovalRecords`] are made of: steps within their transactions.

macro_rules! removal_steps {
    ($adapter:ty, $db:ty) => {
        impl $adapter {
            /// Inserts a room's row and its members as a snapshot has them. False: the id is taken.
            async fn insert_snapshot(
                tx: &mut sqlx::Transaction<'static, $db>,
                snapshot: &crate::domain::removal::Snapshot,
            ) -> sqlx::Result<bool> {
                use crate::adapters::queries::{micros, rooms};

                let room = &snapshot.room;
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
                .execute(&mut **tx)
                .await?;
                if done.rows_affected() == 0 {
                    return Ok(false);
                }
                for (user, role) in &snapshot.members {
                    statement("INSERT INTO room_members (room_id, user_id, role) VALUES ($1, $2, $3)")
                        .bind(room.id.as_str())
                        .bind(user.0)
                        .bind(role.as_str())
                        .execute(&mut **tx)
                        .await?;
                }
                Ok(true)
            }

            async fn removal_row(
                tx: &mut sqlx::Transaction<'static, $db>,
                id: uuid::Uuid,
            ) -> sqlx::Result<Option<crate::domain::removal::Removal>> {
                use crate::adapters::queries::removals::RemovalRow;

                // Locks it: what is read here is acted upon.
                statement("UPDATE removed_rooms SET state = state WHERE id = $1")
                    .bind(id)
                    .execute(&mut **tx)
                    .await?;
                let row: Option<RemovalRow> = rows("SELECT * FROM removed_rooms WHERE id = $1")
                    .bind(id)
                    .fetch_optional(&mut **tx)
                    .await?;
                row.map(RemovalRow::removal).transpose()
            }

            /// Reserves the id of no room. False: there is such a room, or one is being removed, or comes back under it; the
            /// caller then rolls back.
            async fn reserve(
                tx: &mut sqlx::Transaction<'static, $db>,
                id: &crate::domain::ids::RoomId,
                at: chrono::DateTime<chrono::Utc>,
            ) -> sqlx::Result<bool> {
                use crate::adapters::queries::micros;

                // A row for a moment: whoever makes this room now waits for the end of this transaction, and the other way
                // round; then one sees what the other did.
                let free = statement(
                    "INSERT INTO rooms (id, name, kind, access, listed, retention, allows, role_version, created_at,
                         last_activity_at)
                     VALUES ($1, '', '', '', $2, '', $3, 0, $4, $4) ON CONFLICT (id) DO NOTHING",
                )
                .bind(id.as_str())
                .bind(false)
                .bind(sqlx::types::Json(Vec::<String>::new()))
                .bind(micros(at))
                .execute(&mut **tx)
                .await?;
                if free.rows_affected() == 0 {
                    return Ok(false);
                }
                statement("DELETE FROM rooms WHERE id = $1").bind(id.as_str()).execute(&mut **tx).await?;
                let under_way: Option<(String,)> = rows(
                    "SELECT room_id FROM removed_rooms WHERE target = $1
                     UNION ALL
                     SELECT room_id FROM removed_rooms WHERE room_id = $1 AND state IN ('removing', 'kept')",
                )
                .bind(id.as_str())
                .fetch_optional(&mut **tx)
                .await?;
                if under_way.is_some() {
                    return Ok(false);
                }
                statement(
                    "INSERT INTO deleted_rooms (id, deleted_at) VALUES ($1, $2)
                     ON CONFLICT (id) DO UPDATE SET deleted_at = excluded.deleted_at",
                )
                .bind(id.as_str())
                .bind(micros(at))
                .execute(&mut **tx)
                .await?;
                Ok(true)
            }
        }
    };
}
pub(crate) use removal_steps;
