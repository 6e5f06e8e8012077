//! The epoch rule: brings a room's log and its archive into agreement before anything is written, and reads across the
//! two as if they were one.
//!
//! The archive owns the epoch. A log that is missing, or shorter than what its reader or the archive has seen, is never
//! written to: the epoch is raised in the archive by compare-and-set, and the log is started anew at what is archived.
//! What was archived is final whatever the epoch; only the tail behind it can be lost, and clients send that again.

mod activate;
mod append;
mod documents;
mod messages;
mod read;

pub use activate::activate;
pub use append::{
    ARCHIVE_DELAY, ArchiveRoom, ArchiveWakes, ArchiveWork, IDLE_AFTER, append, append_all,
    archive_room, known_refs, refs_need_archive, wake_archive, wake_archive_group, watch_idle,
};
pub use documents::merge_if_due;
pub use messages::{as_shown, message_counts, messages, messages_by_id};
pub use read::{archived, load, present, read_after};
