//! Uploaded files: the rows and the queries of [`crate::ports::FileRecords`].

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{corrupt, parse, unstorable};
use crate::domain::file::StoredFile;
use crate::domain::ids::{FileId, UserId};

#[derive(Debug, sqlx::FromRow)]
pub struct FileRow {
    id: Uuid,
    room_id: Option<String>,
    uploader: Option<Uuid>,
    uploader_name: String,
    name: String,
    content_type: String,
    size: i64,
    sha256: String,
    created_at: DateTime<Utc>,
}

impl FileRow {
    pub fn file(self) -> sqlx::Result<StoredFile> {
        Ok(StoredFile {
            id: FileId(self.id),
            room: self.room_id.as_deref().map(parse).transpose()?,
            uploader: self.uploader.map(UserId),
            uploader_name: self.uploader_name,
            name: self.name,
            content_type: self.content_type,
            size: u64::try_from(self.size).map_err(corrupt)?,
            sha256: self.sha256,
            created_at: self.created_at,
        })
    }
}

pub fn stored_size(size: u64) -> sqlx::Result<i64> {
    i64::try_from(size).map_err(unstorable)
}

macro_rules! file_records {
    ($adapter:ty) => {
        #[async_trait::async_trait]
        impl crate::ports::FileRecords for $adapter {
            async fn create_file(
                &self,
                file: &crate::domain::file::StoredFile,
                room_made_at: Option<chrono::DateTime<chrono::Utc>>,
            ) -> crate::ports::Result<bool> {
                use crate::adapters::queries::{files, micros};

                let made = async {
                    let mut tx = self.write().await?;
                    if let (Some(room), Some(at)) = (&file.room, room_made_at) {
                        // Locks it: whoever removes it takes this file along, or was first.
                        let there = statement(
                            "UPDATE rooms SET created_at = created_at WHERE id = $1 AND created_at = $2",
                        )
                        .bind(room.as_str())
                        .bind(micros(at))
                        .execute(&mut *tx)
                        .await?;
                        if there.rows_affected() == 0 {
                            return Ok(false);
                        }
                    }
                    statement(
                        "INSERT INTO files (id, room_id, uploader, uploader_name, name, content_type, size, sha256,
                             created_at)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                         ON CONFLICT (id) DO NOTHING",
                    )
                    .bind(file.id.0)
                    .bind(file.room.as_ref().map(|room| room.as_str()))
                    .bind(file.uploader.map(|user| user.0))
                    .bind(&file.uploader_name)
                    .bind(&file.name)
                    .bind(&file.content_type)
                    .bind(files::stored_size(file.size)?)
                    .bind(&file.sha256)
                    .bind(micros(file.created_at))
                    .execute(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(true)
                };
                bounded(made).await.map_err(|e| failed("keep a file", e))
            }

            async fn file(
                &self,
                id: crate::domain::ids::FileId,
            ) -> crate::ports::Result<Option<crate::domain::file::StoredFile>> {
                use crate::adapters::queries::files::FileRow;

                let found = async {
                    let mut tx = self.read().await?;
                    let row: Option<FileRow> = rows("SELECT * FROM files WHERE id = $1")
                        .bind(id.0)
                        .fetch_optional(&mut *tx)
                        .await?;
                    tx.commit().await?;
                    row.map(FileRow::file).transpose()
                };
                bounded(found).await.map_err(|e| failed("find a file", e))
            }

            async fn files_of_room(
                &self,
                room: &crate::domain::ids::RoomId,
                before: Option<crate::domain::ids::FileId>,
                limit: usize,
            ) -> crate::ports::Result<crate::ports::Page<crate::domain::file::StoredFile>> {
                use crate::adapters::queries::{files::FileRow, one_more, page};

                let before = before.map_or(uuid::Uuid::max(), |id| id.0);
                let listed = async {
                    let mut tx = self.read().await?;
                    let rows: Vec<FileRow> = rows(
                        "SELECT * FROM files WHERE room_id = $1 AND id < $2 ORDER BY id DESC LIMIT +$3",
                    )
                    .bind(room.as_str())
                    .bind(before)
                    .bind(one_more(limit))
                    .fetch_all(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    rows.into_iter().map(FileRow::file).collect::<sqlx::Result<Vec<_>>>()
                };
                let files = bounded(listed).await.map_err(|e| failed("list the files of a room", e))?;
                Ok(page(files, limit))
            }

            async fn attach_file(
                &self,
                id: crate::domain::ids::FileId,
                room: &crate::domain::ids::RoomId,
            ) -> crate::ports::Result<bool> {
                let attached = async {
                    let mut tx = self.write().await?;
                    let done = statement(
                        "UPDATE files SET room_id = $2 WHERE id = $1 AND (room_id IS NULL OR room_id = $2)",
                    )
                    .bind(id.0)
                    .bind(room.as_str())
                    .execute(&mut *tx)
                    .await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(done.rows_affected() > 0)
                };
                bounded(attached).await.map_err(|e| failed("put a file into a room", e))
            }

            async fn delete_file(
                &self,
                id: crate::domain::ids::FileId,
                only: crate::ports::FileIs<'_>,
            ) -> crate::ports::Result<bool> {
                use crate::ports::FileIs;

                let deleted = async {
                    let mut tx = self.write().await?;
                    let delete = match only {
                        FileIs::Anywhere => statement("DELETE FROM files WHERE id = $1").bind(id.0),
                        FileIs::InNoRoom => {
                            statement("DELETE FROM files WHERE id = $1 AND room_id IS NULL").bind(id.0)
                        }
                        FileIs::In(room) => statement("DELETE FROM files WHERE id = $1 AND room_id = $2")
                            .bind(id.0)
                            .bind(room.as_str()),
                    };
                    let done = delete.execute(&mut *tx).await?;
                    tx.commit().await?;
                    sqlx::Result::Ok(done.rows_affected() > 0)
                };
                bounded(deleted).await.map_err(|e| failed("delete a file", e))
            }

            async fn files_after(
                &self,
                after: Option<crate::domain::ids::FileId>,
                limit: usize,
            ) -> crate::ports::Result<Vec<crate::domain::file::StoredFile>> {
                use crate::adapters::queries::files::FileRow;

                let after = after.map_or(uuid::Uuid::nil(), |id| id.0);
                let limit = i64::try_from(limit.min(crate::ports::PAGE_MAX)).unwrap_or(i64::MAX);
                let listed = async {
                    let mut tx = self.read().await?;
                    let rows: Vec<FileRow> =
                        rows("SELECT * FROM files WHERE id > $1 ORDER BY id LIMIT +$2")
                            .bind(after)
                            .bind(limit)
                            .fetch_all(&mut *tx)
                            .await?;
                    tx.commit().await?;
                    rows.into_iter().map(FileRow::file).collect::<sqlx::Result<Vec<_>>>()
                };
                bounded(listed).await.map_err(|e| failed("list files", e))
            }
        }
    };
}
pub(crate) use file_records;
