//! Relational data: people, rooms, roles, jobs. One body of queries serves both databases.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use thiserror::Error;
use uuid::Uuid;

use super::insights::InsightRecords;
use super::places::PlaceRecords;
use super::removals::RemovalRecords;
use super::roles::RoleRecords;
use super::visits::VisitRecords;
use super::{PortError, Result};
use crate::domain::cleanup::CleanupRun;
use crate::domain::file::StoredFile;
use crate::domain::ids::{FileId, JobId, RoomId, UserId};
use crate::domain::invite::Invite;
use crate::domain::job::{Job, JobState};
use crate::domain::place::Place;
use crate::domain::room::{Access, Activity, Retention, Role, Room, RoomKind};
use crate::domain::user::{NewUser, User};

/// One page of a keyset-paginated list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// There are more behind the last item.
    pub more: bool,
}

/// Why an account was not made.
#[derive(Debug, Error)]
pub enum CreateUserError {
    /// `username` or `email`.
    #[error("{0} is taken")]
    Taken(&'static str),
    #[error(transparent)]
    Port(#[from] PortError),
}

/// What is to change of a person; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserPatch {
    pub name: Option<String>,
    /// `Some(None)`: none any more.
    pub email: Option<Option<String>>,
    pub avatar_url: Option<Option<String>>,
}

/// What came of a wish to delete a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserDeletion {
    /// There is no such person.
    Missing,
    /// The person is the last owner of this workspace or team, and somebody or something is in it; nothing changed.
    LastOwner(Place),
    /// It is done, and raised the role versions of these rooms to these.
    Done(Vec<(RoomId, u64)>),
}

/// The longest page of a list; a longer one asked for is cut to it.
pub const PAGE_MAX: usize = 1_000;
/// How long the id of a deleted room can't be given again.
pub const DELETED_ID_RESERVED: Duration = Duration::from_secs(24 * 60 * 60);

/// Promises: user names and e-mail addresses are unique among accounts by [`crate::domain::names::key`], and nobody's
/// user name is another's e-mail address; times are kept to the microsecond.
#[async_trait]
pub trait UserRecords: Send + Sync {
    /// Keeps an account or a guest (whose names bind nobody else's); anonymous people are refused with an error.
    async fn create_user(&self, user: &NewUser) -> Result<(), CreateUserError>;

    async fn user(&self, id: UserId) -> Result<Option<User>>;

    /// The account with this user name or e-mail address, and its password hash (PHC string).
    async fn user_by_login(&self, login: &str) -> Result<Option<(User, String)>>;

    /// Is this the user name, or the e-mail address, of an account?
    async fn is_login_taken(&self, login: &str) -> Result<bool>;

    /// Changes what the patch names, and nothing else, whatever else changes at the same time. The person as they are now;
    /// `None`: no such person.
    async fn patch_user(
        &self,
        id: UserId,
        patch: &UserPatch,
    ) -> Result<Option<User>, CreateUserError>;

    /// Removes a person, their memberships and their name from their jobs, and remembers that they are gone. Workspaces
    /// and teams that held nobody and nothing else go along.
    async fn delete_user(&self, id: UserId, at: DateTime<Utc>) -> Result<UserDeletion>;

    /// Those of `ids` who were deleted; at most [`PAGE_MAX`] are asked for.
    async fn deleted_users(&self, ids: &[UserId]) -> Result<Vec<UserId>>;

    /// Guests made before `before`, by id after `after`, and of each: are they a member of a room or a place, or the author
    /// of an insight? At most `limit`.
    async fn guests(
        &self,
        before: DateTime<Utc>,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<(UserId, bool)>>;

    /// Forgets a guest who is none of what [`Self::guests`] asks. What they wrote elsewhere keeps the name that it was
    /// written under. False: there is no such guest, or they are something somewhere; nothing changed.
    async fn forget_guest(&self, id: UserId) -> Result<bool>;

    /// An error for a person who is not stored.
    async fn set_password_hash(&self, id: UserId, hash: &str) -> Result<()>;

    /// Makes an account an administrator, or not any more; tokens issued before say what was true then. False: no such
    /// account.
    async fn set_admin(&self, username: &str, is_admin: bool) -> Result<bool>;
}

/// Which rooms a reader may see in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomVisibility {
    /// Listed rooms only.
    Listed,
    /// Listed ones, those this person is a member of, and those of the projects they belong to.
    For(UserId),
    All,
}

/// Which rooms of a list. What is `None` does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomQuery {
    pub visible: RoomVisibility,
    pub kind: Option<RoomKind>,
    /// Only those of these.
    pub among: Option<BTreeSet<RoomId>>,
    /// Only those after this one in the list: made before it, or then and of a lesser id.
    pub before: Option<(DateTime<Utc>, RoomId)>,
}

impl RoomQuery {
    /// All that are visible.
    pub fn of(visible: RoomVisibility) -> Self {
        Self {
            visible,
            kind: None,
            among: None,
            before: None,
        }
    }
}

/// What is to change of a room; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoomPatch {
    pub name: Option<String>,
    pub kind: Option<RoomKind>,
    pub access: Option<Access>,
    pub listed: Option<bool>,
    pub retention: Option<Retention>,
    pub allows: Option<Vec<Activity>>,
}

/// How many rooms one address may have made lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomQuota {
    /// Rooms made from then on count.
    pub since: DateTime<Utc>,
    /// Most of them, with the new one.
    pub most: u64,
}

/// What came of a wish to make a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomCreation {
    Made,
    /// The id is taken, or was deleted less than [`DELETED_ID_RESERVED`] before `room.created_at`, or the room's project is
    /// gone; nothing changed.
    Taken,
    /// Its address has as many as the quota says; nothing changed.
    Full,
}

/// The rooms of one address that its limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomsOfAddress {
    /// Made since a time.
    pub young: u64,
    /// Made before it, and active.
    pub older: u64,
}

/// Promises: an id is given once; whatever a list asks for, a page reads about as many rows as it shows (or as `among` names).
#[async_trait]
pub trait RoomRecords: Send + Sync {
    /// [`Self::create_room_within`] no quota.
    async fn create_room(&self, room: &Room) -> Result<bool> {
        let made = self.create_room_within(room, None).await?;
        Ok(made == RoomCreation::Made)
    }

    /// Makes the room, and its creator (if any) host, in one step with counting the rooms of its address: however many are
    /// made at once, on whichever pods, no more come of it than the quota says.
    async fn create_room_within(
        &self,
        room: &Room,
        quota: Option<RoomQuota>,
    ) -> Result<RoomCreation>;

    async fn room(&self, id: &RoomId) -> Result<Option<Room>>;

    /// Those of `ids` that exist, in no particular order.
    async fn rooms(&self, ids: &[RoomId]) -> Result<Vec<Room>>;

    /// Newest first, keyset by `(created_at, id)`.
    async fn list_rooms(&self, query: &RoomQuery, limit: usize) -> Result<Page<Room>>;

    /// Changes what the patch names, and nothing else, whatever else changes at the same time. The room as it is now;
    /// `None`: no such room.
    async fn patch_room(&self, id: &RoomId, patch: &RoomPatch) -> Result<Option<Room>>;

    /// Something happened in the room; never moves `last_activity_at` back.
    async fn touch_room(&self, id: &RoomId, at: DateTime<Utc>) -> Result<()>;

    /// Removes the room and its roles; its id stays reserved from `at` on. False: no such room.
    async fn delete_room(&self, id: &RoomId, at: DateTime<Utc>) -> Result<bool>;

    /// Was a room of this id deleted lately, and is there none of it now?
    async fn is_room_deleted(&self, id: &RoomId) -> Result<bool>;

    /// The id of a deleted room may be given again from now on.
    async fn release_room_id(&self, id: &RoomId) -> Result<()>;

    /// Rooms made from this address since `since`, and those made before that are among `active`.
    async fn count_rooms_of_address(
        &self,
        address: &str,
        since: DateTime<Utc>,
        active: &[RoomId],
    ) -> Result<RoomsOfAddress>;
}

/// Which of a person's jobs. What is `None` does not matter.
#[derive(Debug, Clone)]
pub struct JobQuery {
    pub owner: UserId,
    pub state: Option<JobState>,
    pub room: Option<RoomId>,
    pub project: Option<Uuid>,
    /// Only older ones than this.
    pub before: Option<JobId>,
}

impl JobQuery {
    /// All of them.
    pub fn of(owner: UserId) -> Self {
        Self {
            owner,
            state: None,
            room: None,
            project: None,
            before: None,
        }
    }
}

/// Promises: state only moves forward (`queued` → `running` → final; `running` may be set again by a later attempt);
/// a final state never changes, but that a dead job can be revived. The row is the queue's outbox: a job not marked queued is found by `unqueued_jobs`;
/// one that began or ended needs no queueing any more, unless its queueing is doubted.
#[async_trait]
pub trait JobRecords: Send + Sync {
    /// False: a job of this room and owner was asked for by the same client under the same ref; nothing was stored.
    async fn create_job(&self, job: &Job) -> Result<bool>;

    /// Stores it, unless a job made since `since` is stored under this key: then that one is answered, as it is now.
    async fn create_job_once(
        &self,
        job: &Job,
        key: &[u8; 32],
        since: DateTime<Utc>,
    ) -> Result<Option<Job>>;

    async fn job(&self, id: JobId) -> Result<Option<Job>>;

    /// The queue has it. Idempotent.
    async fn mark_queued(&self, id: JobId) -> Result<()>;

    /// Takes back what [`Self::mark_queued`] said of at most `limit` jobs made before `before` that are not over, oldest
    /// first: a queue that lost its memory no longer has them. Returns how many.
    async fn doubt_queued(&self, before: DateTime<Utc>, limit: usize) -> Result<u64>;

    /// Takes back what [`Self::mark_queued`] said of at most `limit` jobs that ended since `since` (made within a day before
    /// that) and have somebody to be told, a room or a `callback_url`: a queue that lost its memory may have lost whoever was
    /// telling them. Returns how many.
    async fn doubt_ended(&self, since: DateTime<Utc>, limit: usize) -> Result<u64>;

    /// Jobs made before `before` that the queue was never confirmed to have, oldest first.
    async fn unqueued_jobs(&self, before: DateTime<Utc>, limit: usize) -> Result<Vec<Job>>;

    /// Attempt number `attempt` begins. False: no such job, or it is in a final state already. `attempts` never falls.
    async fn start_job(&self, id: JobId, attempt: u32, at: DateTime<Utc>) -> Result<bool>;

    /// Sets a final state (another one is an error). False: no such job, or it had one already; nothing changed.
    async fn finish_job(&self, id: JobId, state: JobState, at: DateTime<Utc>) -> Result<bool>;

    /// Cancels a job that waits and has not begun. False: there is none, or it has.
    async fn cancel_job(&self, id: JobId, at: DateTime<Utc>) -> Result<bool>;

    /// Makes a dead job one that waits, not tried and not confirmed to be queued. False: it is not dead.
    async fn revive_job(&self, id: JobId) -> Result<bool>;

    /// Newest first, by id.
    async fn list_jobs(&self, query: &JobQuery, limit: usize) -> Result<Page<Job>>;

    /// Removes a finished job. False: none, or not finished.
    async fn delete_job(&self, id: JobId) -> Result<bool>;
}

/// Invitations that one room has at a time, used up and expired ones included.
pub const INVITES_MAX: usize = 1_000;

/// What came of presenting an invitation's code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acceptance {
    /// The person has its role now, and one use is counted.
    Joined {
        room: RoomId,
        role: Role,
        /// The room's, after this change.
        role_version: u64,
    },
    /// The person had as much already; nothing changed.
    Member {
        room: RoomId,
        role: Role,
    },
    /// Expired or used up.
    Over,
    Unknown,
}

/// Promises: uses are counted with the role that they give, so that never more people come in than an invitation says;
/// of a code only its hash is stored; a revoked invitation lets nobody in.
#[async_trait]
pub trait InviteRecords: Send + Sync {
    /// False: there is no such room, or it has [`INVITES_MAX`] invitations.
    async fn create_invite(&self, invite: &Invite) -> Result<bool>;

    /// A room's, newest first by id, before `before`.
    async fn invites(
        &self,
        room: &RoomId,
        before: Option<Uuid>,
        limit: usize,
    ) -> Result<Page<Invite>>;

    /// Also one that is over.
    async fn invite_by_code(&self, code_hash: [u8; 32]) -> Result<Option<Invite>>;

    async fn accept_invite(
        &self,
        code_hash: [u8; 32],
        user: UserId,
        now: DateTime<Utc>,
    ) -> Result<Acceptance>;

    /// False: this room has no such invitation.
    async fn revoke_invite(&self, room: &RoomId, id: Uuid) -> Result<bool>;
}

/// Where a file must be for it to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileIs<'a> {
    Anywhere,
    InNoRoom,
    /// In this room; or with this removed room, by what it is kept under.
    In(&'a RoomId),
}

/// Promises: of all calls that delete one file, one is told that it did; a file is in at most one room, and stays there,
/// but that it goes with a room that is removed, and comes back with it.
#[async_trait]
pub trait FileRecords: Send + Sync {
    /// Keeps what is known of a file whose bytes are stored already. Repeated after a lost answer it changes nothing.
    /// `room_made_at`: only while the file's room is there and was made then. False: it is not; nothing was kept.
    async fn create_file(
        &self,
        file: &StoredFile,
        room_made_at: Option<DateTime<Utc>>,
    ) -> Result<bool>;

    async fn file(&self, id: FileId) -> Result<Option<StoredFile>>;

    /// Newest first by id, before `before`.
    async fn files_of_room(
        &self,
        room: &RoomId,
        before: Option<FileId>,
        limit: usize,
    ) -> Result<Page<StoredFile>>;

    /// Puts a file that is in no room into this one. False: no such file, or it is in another.
    async fn attach_file(&self, id: FileId, room: &RoomId) -> Result<bool>;

    /// Forgets a file if it is there at that moment; its bytes are deleted by the caller, afterwards. False: nothing was
    /// deleted.
    async fn delete_file(&self, id: FileId, only: FileIs<'_>) -> Result<bool>;

    /// Every file, by id, after `after`; at most `limit`.
    async fn files_after(&self, after: Option<FileId>, limit: usize) -> Result<Vec<StoredFile>>;
}

/// Runs of the cleanup; those older than seven days are forgotten when another is saved.
#[async_trait]
pub trait CleanupRecords: Send + Sync {
    /// Keeps a run, or what came of one that is kept already.
    async fn save_cleanup(&self, run: &CleanupRun) -> Result<()>;

    async fn cleanup(&self, id: uuid::Uuid) -> Result<Option<CleanupRun>>;

    /// The latest `limit` that were asked for, newest first.
    async fn cleanups(&self, limit: usize) -> Result<Vec<CleanupRun>>;
}

/// All of the relational data.
#[async_trait]
pub trait Records:
    UserRecords
    + RoomRecords
    + RoleRecords
    + PlaceRecords
    + InsightRecords
    + JobRecords
    + InviteRecords
    + FileRecords
    + CleanupRecords
    + RemovalRecords
    + VisitRecords
{
    async fn ping(&self) -> Result<()>;
}
