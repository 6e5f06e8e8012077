//! Files that chat messages name: looked up before the message is logged, gone when it is.

use atelier_shared::domain::entry::Body;
use atelier_shared::domain::file;
use atelier_shared::domain::ids::{FileId, RoomId, UserId};
use atelier_shared::ports::{FileIs, PortError};
use uuid::Uuid;

use super::actor::Actor;
use super::json::outgoing::ErrorFrame;
use super::registry::Rooms;

/// How long a sender should wait when the store of files' rows is away.
const AWAY_RETRY_MS: u64 = 1_000;

impl Rooms {
    /// Looks up the file that a message names, puts it into the room if it is in none, and writes its name into the
    /// message. The refusal names the field.
    pub async fn attach(
        &self,
        room: &RoomId,
        by: UserId,
        body: &mut Body,
    ) -> Result<(), ErrorFrame> {
        let Body::ChatMessage {
            file_id: Some(id),
            file_name,
            ..
        } = body
        else {
            return Ok(());
        };
        match self.attached_name(room, by, FileId(*id)).await {
            Ok(Some(name)) => {
                *file_name = Some(name);
                Ok(())
            }
            Ok(None) => {
                let text = "there is no such file in this room, and none of yours";
                Err(ErrorFrame::new("invalid", format!("file_id: {text}")).field("file_id"))
            }
            Err(error) => {
                tracing::warn!(%error, "a message's file could not be looked up");
                let refusal = ErrorFrame::new("unavailable", "files are away for a moment");
                Err(refusal.retry_in_ms(AWAY_RETRY_MS))
            }
        }
    }

    async fn attached_name(
        &self,
        room: &RoomId,
        by: UserId,
        id: FileId,
    ) -> Result<Option<String>, PortError> {
        let records = &self.backends.records;
        let file = records.file(id).await?;
        let Some(file) = file.filter(|file| file.may_be_shown_in(room, by)) else {
            return Ok(None);
        };
        if file.room.is_none() && !records.attach_file(id, room).await? {
            return Ok(None);
        }
        Ok(Some(file.name))
    }

    /// The message of `author` that named this file was deleted: the file goes with it, unless somebody else uploaded it.
    /// Not waited for; what is missed stays until its room goes.
    pub fn message_gone(&self, room: &RoomId, author: UserId, file: Uuid) {
        let (backends, room, id) = (self.backends.clone(), room.clone(), FileId(file));
        self.tasks.spawn(async move {
            let gone = async {
                let file = backends.records.file(id).await?;
                let theirs = file.is_some_and(|file| {
                    file.room.as_ref() == Some(&room) && file.goes_with_message_of(author)
                });
                if theirs && backends.records.delete_file(id, FileIs::In(&room)).await? {
                    backends.files.delete(&file::key(id)).await?;
                }
                Ok::<_, PortError>(())
            };
            if let Err(error) = gone.await {
                tracing::warn!(%error, "the file of a deleted message was not removed");
            }
        });
    }
}

impl Actor {
    /// Before a deletion is folded in: the file of the message goes too. Every pod that knows the message sees to it, for
    /// the one whose client asked may die; one of them finds the file there.
    pub fn forget_file(&self, body: &Body) {
        let Body::ChatDeleted { message_id, .. } = body else {
            return;
        };
        let Some(message) = self.known.get(*message_id) else {
            return;
        };
        if let Body::ChatMessage {
            file_id: Some(file),
            ..
        } = &message.record.body
        {
            self.rooms
                .message_gone(&self.room.id, message.author(), *file);
        }
    }
}
