//! Backups in SQLite.

use async_trait::async_trait;
use sqlx::{QueryBuilder, Row};

use super::SqliteArchive;
use crate::adapters::archive::to_db;
use crate::adapters::embedded::sqlite::port_error;
use crate::domain::backup::Backup;
use crate::domain::ids::{BackupId, Epoch, RoomId, Seq};
use crate::ports::{BACKUPS_MAX, Backups, PortError, Result};

fn decode(about: &str) -> Result<Backup> {
    serde_json::from_str(about).map_err(|e| PortError::fatal("decode backup", e))
}

#[async_trait]
impl Backups for SqliteArchive {
    async fn changed_rooms(&self, limit: usize) -> Result<Vec<RoomId>> {
        let rows = sqlx::query("SELECT room FROM room_heads WHERE unbacked = 1 LIMIT +$1")
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&self.file.read)
            .await
            .map_err(|e| port_error("list changed rooms", e))?;
        rows.into_iter()
            .map(|row| {
                let room: String = row.get(0);
                room.parse()
                    .map_err(|e| PortError::fatal("list changed rooms", e))
            })
            .collect()
    }

    async fn mark_backed_up(&self, room: &RoomId, epoch: Epoch, seq: Seq) -> Result<()> {
        sqlx::query(
            "UPDATE room_heads SET unbacked = 0
             WHERE room = $1 AND epoch = $2 AND seq <= $3 AND unbacked = 1",
        )
        .bind(room.as_str())
        .bind(to_db(epoch.0)?)
        .bind(to_db(seq.0)?)
        .execute(&self.file.write)
        .await
        .map_err(|e| port_error("mark room as backed up", e))?;
        Ok(())
    }

    async fn put_backup(
        &self,
        room: &RoomId,
        epoch: Epoch,
        backup: &Backup,
        state: &[u8],
    ) -> Result<bool> {
        let about =
            serde_json::to_string(backup).map_err(|e| PortError::fatal("encode backup", e))?;
        let done = sqlx::query(
            "INSERT INTO backups (room, id, about, state) SELECT $1, $2, $3, $4
             WHERE COALESCE((SELECT epoch FROM room_heads WHERE room = $1), 0) = $5",
        )
        .bind(room.as_str())
        .bind(backup.id.0)
        .bind(about)
        .bind(state)
        .bind(to_db(epoch.0)?)
        .execute(&self.file.write)
        .await
        .map_err(|e| port_error("put backup", e))?;
        Ok(done.rows_affected() == 1)
    }

    async fn backups(
        &self,
        room: &RoomId,
        before: Option<BackupId>,
        limit: usize,
    ) -> Result<Vec<Backup>> {
        let mut sql = QueryBuilder::<sqlx::Sqlite>::new("SELECT about FROM backups WHERE room = ");
        sql.push_bind(room.as_str());
        if let Some(before) = before {
            sql.push(" AND id < ").push_bind(before.0);
        }
        sql.push(" ORDER BY id DESC LIMIT +")
            .push_bind(i64::try_from(limit.min(BACKUPS_MAX)).unwrap_or(i64::MAX));
        let rows = sql
            .build()
            .fetch_all(&self.file.read)
            .await
            .map_err(|e| port_error("list backups", e))?;
        rows.iter().map(|row| decode(row.get(0))).collect()
    }

    async fn backup(&self, room: &RoomId, id: BackupId) -> Result<Option<(Backup, Vec<u8>)>> {
        let row = sqlx::query("SELECT about, state FROM backups WHERE room = $1 AND id = $2")
            .bind(room.as_str())
            .bind(id.0)
            .fetch_optional(&self.file.read)
            .await
            .map_err(|e| port_error("read backup", e))?;
        row.map(|row| Ok((decode(row.get(0))?, row.get(1))))
            .transpose()
    }

    async fn rooms_with_backups(
        &self,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Vec<RoomId>> {
        const OPERATION: &str = "list rooms with backups";
        let rooms: Vec<String> = sqlx::query_scalar(
            "SELECT DISTINCT room FROM backups WHERE room > $1 ORDER BY room LIMIT +$2",
        )
        .bind(after.map_or("", RoomId::as_str))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&self.file.read)
        .await
        .map_err(|e| port_error(OPERATION, e))?;
        let parsed = rooms.iter().map(|room| room.parse());
        parsed
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| PortError::fatal(OPERATION, e))
    }

    async fn remove_backups(&self, room: &RoomId, ids: &[BackupId]) -> Result<()> {
        let failed = |e| port_error("remove backups", e);
        let mut transaction = self.file.write.begin().await.map_err(failed)?;
        for id in ids {
            sqlx::query("DELETE FROM backups WHERE room = $1 AND id = $2")
                .bind(room.as_str())
                .bind(id.0)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }
}
