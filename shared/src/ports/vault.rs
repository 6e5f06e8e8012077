//! Short-lived secrets and counters: refresh-token families, one-time tickets, login throttles.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::mpsc;

use super::Result;
use crate::domain::ids::{FamilyId, UserId};

/// Replaced tokens of one family that are remembered for telling reuse; older ones become [`Rotation::Unknown`].
pub const REPLACED_TOKENS_MAX: usize = 256;
/// Families of one person at a time; one more revokes the one that would end first.
pub const FAMILIES_PER_USER_MAX: usize = 1_000;
/// A family that the vault itself revoked (reuse, too many) stays marked for so long at least: longer than any access
/// token lives.
pub const REUSE_MARK_MIN: Duration = Duration::from_secs(24 * 60 * 60);
/// Revocations that wait for one subscriber; beyond it they are lost to it.
pub const REVOCATIONS_CAPACITY: usize = 4_096;
/// Tickets that wait to be redeemed in embedded mode; beyond it `put_ticket` fails, to be tried again.
pub const TICKETS_MAX: usize = 100_000;

/// A login: whose it is and when it ends whatever happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    pub id: FamilyId,
    pub user_id: UserId,
    pub expires_at: DateTime<Utc>,
}

/// What came of presenting a refresh token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotation {
    /// It was current; the successor is now.
    Rotated(Family),
    /// It was replaced less than the grace ago (two tabs, a lost answer), and its successor was not used: that stands.
    Grace(Family),
    /// It was replaced before that: somebody has a copy. The family is revoked by this very call, as if by
    /// [`Vault::revoke`] until the family's own end, and for [`REUSE_MARK_MIN`] at least.
    Reused(Family),
    /// Never heard of it, or its family is revoked or over.
    Unknown,
}

/// May this go on?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Throttle {
    Allowed,
    /// Too many; try again after so long.
    Wait(Duration),
}

/// What a subscriber to revocations hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revoked {
    Family(FamilyId),
    /// Some may have gone by unheard: whoever must be sure asks `is_revoked` of those it knows.
    Missed,
}

/// Longest answer kept for an idempotency key, in bytes.
pub const ANSWER_MAX_BYTES: usize = 256 * 1024;
/// Idempotency keys remembered for one owner; beyond it the answer that would be forgotten first goes.
pub const ANSWERS_MAX: usize = 10_000;

/// Where a request with an idempotency key stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Once {
    /// It is the first: whoever asked carries it out.
    Begun,
    /// The first is not answered yet.
    InFlight,
    /// What the first was answered.
    Answered(String),
}

/// One request with an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnceKey {
    /// Who sent it (hashed).
    pub owner: [u8; 32],
    /// The key and what it was sent to (hashed).
    pub key: [u8; 32],
    /// Made up for this very request: who tries again is another.
    pub request: [u8; 16],
}

/// What became of a wish to spend one of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    pub allowed: bool,
    /// What is left now.
    pub remaining: u32,
    /// Refused: there is room again after so long. Allowed: the window ends after so long.
    pub reset: Duration,
}

/// What a subscriber to changes of people hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Person(UserId),
    /// Some may have gone by unheard: anybody may have changed.
    Missed,
}

/// What the vault has of a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CachedProfile {
    /// As it was given to [`Vault::cache_profile`]; `None`: nothing is kept.
    pub profile: Option<String>,
    /// To be given back with what is read from the records now.
    pub generation: u64,
}

/// Changes of a person are remembered for so long: a profile that was read earlier must not be cached any more.
pub const CHANGES_REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// What a one-time WebSocket ticket stands for: the claims of the token it was made with, as JSON.
pub type Ticket = String;

/// Promises: every check-and-change is one step; tokens are kept as SHA-256 only; a ticket is redeemed once; revoked
/// families reach every subscriber of every pod within a second while the store is up, and `is_revoked` tells at once.
/// Families and revocations survive a restart of the store (embedded: of the process).
///
/// A token is presented with the family that it says it belongs to (the caller writes the family's id into it, in
/// clear), so that a family and its tokens can lie in one place. A family at or past its end is unknown.
#[async_trait]
pub trait Vault: Send + Sync {
    async fn ping(&self) -> Result<()>;

    /// Starts a family with its first token (SHA-256). A family that was revoked already stays revoked.
    async fn create_family(&self, family: &Family, token: [u8; 32]) -> Result<()>;

    /// Presents a `token` of `family`; if it is current, `successor` replaces it. Within `grace` of a replacement the replaced
    /// token answers [`Rotation::Grace`] (the caller derives the same successor from it), as long as that successor was not
    /// presented itself: from then on it is reuse.
    async fn rotate(
        &self,
        family: FamilyId,
        token: [u8; 32],
        successor: [u8; 32],
        now: DateTime<Utc>,
        grace: Duration,
    ) -> Result<Rotation>;

    /// The family, if `token` is or was one of its tokens; for logout. `None`: unknown.
    async fn family_of(
        &self,
        family: FamilyId,
        token: [u8; 32],
        now: DateTime<Utc>,
    ) -> Result<Option<Family>>;

    /// Ends a family; its access tokens are refused until they run out (`until`).
    async fn revoke(&self, family: FamilyId, until: DateTime<Utc>) -> Result<()>;

    /// Ends every family of a person.
    async fn revoke_user(&self, user: UserId, until: DateTime<Utc>) -> Result<()>;

    /// Those of `users` who have a family that is neither over at `now` nor revoked, in no particular order.
    async fn logged_in(&self, users: &[UserId], now: DateTime<Utc>) -> Result<Vec<UserId>>;

    async fn is_revoked(&self, family: FamilyId, now: DateTime<Utc>) -> Result<bool>;

    /// Families revoked from now on, on any pod. What was revoked while the store was out of reach is not told; that
    /// something may be missing is ([`Revoked::Missed`]).
    async fn revocations(&self) -> Result<mpsc::Receiver<Revoked>>;

    /// What the pods share of a person's profile. May keep nothing (embedded: there is one process, with a cache of its own).
    async fn cached_profile(&self, user: UserId) -> Result<CachedProfile>;

    /// Shares a profile with the other pods for `ttl`, read after [`Self::cached_profile`] gave this generation. False: the
    /// person changed since (or nothing is kept), and what was read may be old.
    async fn cache_profile(
        &self,
        user: UserId,
        profile: &str,
        generation: u64,
        ttl: Duration,
    ) -> Result<bool>;

    /// What is known of this person changed: what is cached of it is gone, and every subscriber of every pod is told.
    async fn announce_change(&self, user: UserId) -> Result<()>;

    /// People who changed from now on, on any pod; that something may be missing is told, too.
    async fn changes(&self) -> Result<mpsc::Receiver<Changed>>;

    async fn put_ticket(&self, ticket: [u8; 32], claims: &Ticket, ttl: Duration) -> Result<()>;

    /// Redeems it: the second caller gets `None`.
    async fn take_ticket(&self, ticket: [u8; 32]) -> Result<Option<Ticket>>;

    /// Counts one try under `key` in a sliding log of `window`; more than `limit` must wait. A refused try is not counted.
    async fn throttle(&self, key: &str, limit: u32, window: Duration) -> Result<Throttle>;

    /// Spends one of `limit` in a sliding `window` under `key`; two numbers are kept, whatever the limit, by counting what
    /// was spent in the fixed window before as spread evenly over it. A refused one is not counted.
    async fn spend(&self, key: &str, limit: u32, window: Duration) -> Result<Spent>;

    /// Forgets the tries under `key` (a login that succeeded).
    async fn forgive(&self, key: &str) -> Result<()>;

    /// Forgets one try under `key`, the newest; where there is none, nothing happens.
    async fn take_back(&self, key: &str) -> Result<()>;

    /// Begins a request if no other of this owner and key is in flight or answered. Held for `lease`: if its holder is not
    /// heard of until then, the key is free again.
    async fn begin_once(&self, once: &OnceKey, lease: Duration) -> Result<Once>;

    /// Remembers the answer (at most [`ANSWER_MAX_BYTES`]) for `keep`. False: the lease had lapsed and another request has
    /// the key; nothing changed.
    async fn answer_once(&self, once: &OnceKey, answer: &str, keep: Duration) -> Result<bool>;

    /// Nothing came of the request: the key is free again, if this request still holds it.
    async fn forget_once(&self, once: &OnceKey) -> Result<()>;
}
