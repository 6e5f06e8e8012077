//! What the domain needs from the world. Each trait states its promises; `shared/tests/contract` holds every
//! adapter to every one of them.

mod activity;
mod archive;
mod backups;
mod files;
mod insights;
mod live_output;
mod places;
mod presence;
pub(crate) mod queue;
mod records;
mod removals;
mod roles;
mod room_log;
mod vault;
mod visits;

pub use activity::{
    ACTIVITY_SLOTS_MAX, ACTIVITY_SUBJECTS_MAX, ActivityArchive, ActivityQuery, ActivitySlot,
    RoomMinute,
};
pub use archive::{
    Archive, ArchiveHead, HistoryPage, HistoryQuery, MESSAGE_AUTHORS_MAX, MessagePage,
    MessageQuery, StaleEpoch,
};
pub use backups::{BACKUPS_MAX, Backups};
pub use files::{FileMeta, Files};
pub use insights::{InsightFilter, InsightPatch, InsightRecords, InsightSeen};
pub use live_output::{
    LiveOutput, OUTPUT_PIECE_MAX_BYTES, OUTPUT_PIECES_MAX, OutputPage, OutputPiece, OutputWaker,
};
pub use places::{PlaceChange, PlaceDeletion, PlaceMember, PlacePatch, PlaceRecords, PlaceScope};
pub use presence::{Claim, NAME_HOLDERS_MAX, Presence, Reports, RoomOccupancy};
pub use queue::{
    Cancelled, Claimed, DEAD_MAX, DEAD_PAGE_MAX, DEPTH_MAX, DeadJob, Enqueue, Enqueued,
    ID_MAX_BYTES, LEASE_LAPSED, Lease, PAYLOAD_MAX_BYTES, Queue, QueueStats, QueueWaker,
    REASON_MAX_BYTES, Settled, WorkerInfo,
};
pub use records::{
    Acceptance, CleanupRecords, CreateUserError, DELETED_ID_RESERVED, FileIs, FileRecords,
    INVITES_MAX, InviteRecords, JobQuery, JobRecords, PAGE_MAX, Page, Records, RoomCreation,
    RoomPatch, RoomQuery, RoomQuota, RoomRecords, RoomVisibility, RoomsOfAddress, UserDeletion,
    UserPatch, UserRecords,
};
pub use removals::{RemovalRecords, RestoreBegun};
pub use roles::{MEMBERS_MAX, Membership, RoleChange, RoleRecords};
pub use room_log::{
    APPEND_MAX, APPEND_MAX_BYTES, Append, Appended, Bar, Delivery, LogHead, READ_MAX_BYTES,
    Refusal, RoomLog, SUBSCRIPTION_CAPACITY, Subscription,
};
pub use vault::{
    ANSWER_MAX_BYTES, ANSWERS_MAX, CHANGES_REMEMBERED, CachedProfile, Changed,
    FAMILIES_PER_USER_MAX, Family, Once, OnceKey, REPLACED_TOKENS_MAX, REUSE_MARK_MIN,
    REVOCATIONS_CAPACITY, Revoked, Rotation, Spent, TICKETS_MAX, Throttle, Ticket, Vault,
};
pub use visits::{VISITS_MAX, VisitKey, VisitRecords};

use thiserror::Error;

/// Is it worth trying again?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The store is away or overloaded; the same call may succeed later. It may also have been carried out.
    Retry,
    /// The store answered; the same call will fail again.
    Final,
}

/// A store failed. Absence and refusals are values of their own; this is for what should not happen.
#[derive(Debug, Error)]
#[error("{operation}: {source}")]
pub struct PortError {
    pub operation: &'static str,
    pub fate: Fate,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl PortError {
    pub fn retry(
        operation: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            operation,
            fate: Fate::Retry,
            source: source.into(),
        }
    }

    pub fn fatal(
        operation: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            operation,
            fate: Fate::Final,
            source: source.into(),
        }
    }

    pub fn is_retryable(&self) -> bool {
        self.fate == Fate::Retry
    }
}

pub type Result<T, E = PortError> = std::result::Result<T, E>;
