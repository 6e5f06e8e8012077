//! Refresh-token families, tickets and throttles in Redis.
//!
//! Its keys stand in `vault/names.rs`. Times are microseconds since 1970, and decide; the keys' own expiry only clears away,
//! [`CLOCK_SLACK`] later.

mod names;
mod scripts;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use fred::prelude::*;
use fred::types::scripts::Script;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use uuid::Uuid;

use self::names::Names;
use self::scripts::Scripts;
use super::listener::{Heard, Listener};
use super::redis::{Redis, port_error as failed};
use crate::adapters::announcements::Announcements;
use crate::domain::ids::{FamilyId, UserId};
use crate::ports::{
    ANSWER_MAX_BYTES, ANSWERS_MAX, CHANGES_REMEMBERED, CachedProfile, Changed,
    FAMILIES_PER_USER_MAX, Family, Once, OnceKey, PortError, REPLACED_TOKENS_MAX, REUSE_MARK_MIN,
    Result, Revoked, Rotation, Spent, Throttle, Ticket, Vault,
};

/// How far the clocks of pods and of Redis may be apart before something is cleared away too early.
const CLOCK_SLACK: Duration = Duration::from_secs(60 * 60);
/// People asked about at a time.
const LOOKS_AT_ONCE: usize = 32;

pub struct RedisVault {
    redis: Redis,
    names: Names,
    scripts: Scripts,
    revocations: Arc<Announcements<Revoked>>,
    changes: Arc<Announcements<Changed>>,
    channel: String,
    changed_channel: String,
    listener: Listener,
}

impl RedisVault {
    /// Opens a connection of its own that listens for revocations.
    pub async fn open(redis: Redis) -> Result<Self> {
        let names = Names::of(&redis.namespace);
        let (channel, changed_channel) = (names.channel("revoked"), names.channel("changed"));
        let revocations = Arc::new(Announcements::default());
        let changes = Arc::new(Announcements::default());
        let (tell, tell_changes) = (revocations.clone(), changes.clone());
        let of_people = changed_channel.clone();
        let listener = Listener::start(&redis, move |what| match what {
            Heard::Message { channel, value } if *channel == *of_people => match named(value) {
                Some(person) => tell_changes.tell(Changed::Person(person)),
                None => tracing::warn!("a message about a change names nobody"),
            },
            Heard::Message { value, .. } => match named(value) {
                Some(family) => tell.tell(Revoked::Family(family)),
                None => tracing::warn!("a message about a revocation names no family"),
            },
            Heard::Missed => {
                tell.tell(Revoked::Missed);
                tell_changes.tell(Changed::Missed);
            }
        })
        .await?;
        listener.listen(&channel).await?;
        listener.listen(&changed_channel).await?;
        Ok(Self {
            redis,
            names,
            scripts: Scripts::load(),
            revocations,
            changes,
            channel,
            changed_channel,
            listener,
        })
    }

    async fn run<R: FromValue>(
        &self,
        operation: &'static str,
        script: &Script,
        keys: Vec<String>,
        args: Vec<Value>,
    ) -> Result<R> {
        script
            .evalsha_with_reload(self.redis.pool.next(), keys, args)
            .await
            .map_err(|e| failed(operation, e))
    }
}

fn named<T: std::str::FromStr>(value: &Value) -> Option<T> {
    value.as_str()?.parse().ok()
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn millis(duration: Duration) -> i64 {
    micros(duration) / 1_000
}

fn slack_ms() -> i64 {
    micros(CLOCK_SLACK) / 1_000
}

/// When Redis may forget what ends at `end`: milliseconds since 1970.
fn forget_at(end: DateTime<Utc>) -> i64 {
    end.timestamp_millis().saturating_add(slack_ms())
}

/// What only another program could have written.
fn corrupt(operation: &'static str) -> PortError {
    PortError::fatal(operation, "the stored family can't be read")
}

fn family(
    operation: &'static str,
    id: FamilyId,
    user: Option<&String>,
    expires: Option<&String>,
) -> Result<Family> {
    let user_id = user.and_then(|text| text.parse::<Uuid>().ok());
    let expires_at = expires
        .and_then(|text| text.parse().ok())
        .and_then(DateTime::from_timestamp_micros);
    match (user_id, expires_at) {
        (Some(user_id), Some(expires_at)) => Ok(Family {
            id,
            user_id: UserId(user_id),
            expires_at,
        }),
        _ => Err(corrupt(operation)),
    }
}

fn bytes(token: &[u8; 32]) -> Value {
    Value::Bytes(bytes::Bytes::copy_from_slice(token))
}

#[async_trait]
impl Vault for RedisVault {
    async fn ping(&self) -> Result<()> {
        self.redis.ping().await?;
        self.listener.ping().await
    }

    async fn create_family(&self, family: &Family, token: [u8; 32]) -> Result<()> {
        const OPERATION: &str = "create a token family";
        let expires = family.expires_at.timestamp_micros();
        // The index first: a family that revoke_user can't find must not exist.
        let excess: Vec<String> = self
            .run(
                OPERATION,
                &self.scripts.index_family,
                vec![self.names.index_key(family.user_id)],
                vec![
                    family.id.to_string().into(),
                    expires.into(),
                    i64::try_from(FAMILIES_PER_USER_MAX)
                        .unwrap_or(i64::MAX)
                        .into(),
                    slack_ms().into(),
                ],
            )
            .await?;
        for id in excess {
            let id: FamilyId = id.parse().map_err(|_| corrupt(OPERATION))?;
            self.revoke(id, Utc::now() + REUSE_MARK_MIN).await?;
            self.unlist(family.user_id, id).await?;
        }
        let _written: i64 = self
            .run(
                OPERATION,
                &self.scripts.create_family,
                vec![
                    self.names.family_key(family.id, "family"),
                    self.names.family_key(family.id, "revoked"),
                ],
                vec![
                    family.user_id.to_string().into(),
                    expires.into(),
                    bytes(&token),
                    forget_at(family.expires_at).into(),
                ],
            )
            .await?;
        Ok(())
    }

    async fn rotate(
        &self,
        id: FamilyId,
        token: [u8; 32],
        successor: [u8; 32],
        now: DateTime<Utc>,
        grace: Duration,
    ) -> Result<Rotation> {
        const OPERATION: &str = "rotate a refresh token";
        let answer: Vec<String> = self
            .run(
                OPERATION,
                &self.scripts.rotate,
                vec![
                    self.names.family_key(id, "family"),
                    self.names.family_key(id, "replaced"),
                    self.names.family_key(id, "revoked"),
                ],
                vec![
                    bytes(&token),
                    bytes(&successor),
                    now.timestamp_micros().into(),
                    micros(grace).into(),
                    i64::try_from(REPLACED_TOKENS_MAX)
                        .unwrap_or(i64::MAX)
                        .into(),
                    (now + REUSE_MARK_MIN).timestamp_micros().into(),
                    slack_ms().into(),
                    self.channel.clone().into(),
                    id.to_string().into(),
                ],
            )
            .await?;
        let family = || family(OPERATION, id, answer.get(1), answer.get(2));
        match answer.first().map(String::as_str) {
            Some("rotated") => Ok(Rotation::Rotated(family()?)),
            Some("grace") => Ok(Rotation::Grace(family()?)),
            Some("reused") => {
                let family = family()?;
                self.unlist(family.user_id, id).await?;
                Ok(Rotation::Reused(family))
            }
            Some("unknown") => Ok(Rotation::Unknown),
            _ => Err(corrupt(OPERATION)),
        }
    }

    async fn family_of(
        &self,
        id: FamilyId,
        token: [u8; 32],
        now: DateTime<Utc>,
    ) -> Result<Option<Family>> {
        const OPERATION: &str = "find a token family";
        let answer: Option<Vec<String>> = self
            .run(
                OPERATION,
                &self.scripts.family_of,
                vec![
                    self.names.family_key(id, "family"),
                    self.names.family_key(id, "replaced"),
                ],
                vec![bytes(&token), now.timestamp_micros().into()],
            )
            .await?;
        answer
            .map(|found| family(OPERATION, id, found.first(), found.get(1)))
            .transpose()
    }

    async fn revoke(&self, id: FamilyId, until: DateTime<Utc>) -> Result<()> {
        const OPERATION: &str = "revoke a token family";
        let user: Option<String> = self
            .run(
                OPERATION,
                &self.scripts.revoke,
                vec![
                    self.names.family_key(id, "family"),
                    self.names.family_key(id, "replaced"),
                    self.names.family_key(id, "revoked"),
                ],
                vec![
                    until.timestamp_micros().into(),
                    forget_at(until).into(),
                    self.channel.clone().into(),
                    id.to_string().into(),
                ],
            )
            .await?;
        if let Some(user) = user {
            let user: UserId = user.parse().map_err(|_| corrupt(OPERATION))?;
            self.unlist(user, id).await?;
        }
        Ok(())
    }

    async fn revoke_user(&self, user: UserId, until: DateTime<Utc>) -> Result<()> {
        const OPERATION: &str = "revoke a person's token families";
        let families: Vec<String> = self
            .redis
            .pool
            .zrange(self.names.index_key(user), 0, -1, None, false, None, false)
            .await
            .map_err(|e| failed(OPERATION, e))?;
        for id in families {
            let id: FamilyId = id.parse().map_err(|_| corrupt(OPERATION))?;
            self.revoke(id, until).await?;
            // One that was listed but never written leaves its name here.
            self.unlist(user, id).await?;
        }
        Ok(())
    }

    async fn logged_in(&self, users: &[UserId], now: DateTime<Utc>) -> Result<Vec<UserId>> {
        #[expect(clippy::cast_precision_loss, reason = "exact until the year 2255")]
        let after_us = (now.timestamp_micros() + 1) as f64;
        let asked = stream::iter(users.iter().copied()).map(|user| async move {
            // By when each family is over.
            let standing: u64 = self
                .redis
                .pool
                .zcount(self.names.index_key(user), after_us, f64::INFINITY)
                .await
                .map_err(|e| failed("look for logins", e))?;
            Result::Ok((standing > 0).then_some(user))
        });
        let found = asked.buffer_unordered(LOOKS_AT_ONCE);
        found
            .try_filter_map(|user| async move { Ok(user) })
            .try_collect()
            .await
    }

    async fn is_revoked(&self, family: FamilyId, now: DateTime<Utc>) -> Result<bool> {
        let until: Option<i64> = self
            .redis
            .pool
            .get(self.names.family_key(family, "revoked"))
            .await
            .map_err(|e| failed("look up a revocation", e))?;
        Ok(until.is_some_and(|until| until > now.timestamp_micros()))
    }

    async fn revocations(&self) -> Result<mpsc::Receiver<Revoked>> {
        Ok(self.revocations.subscribe())
    }

    async fn cached_profile(&self, user: UserId) -> Result<CachedProfile> {
        let (profile, generation): (Option<String>, Option<u64>) = self
            .redis
            .pool
            .mget(self.names.profile_keys(user))
            .await
            .map_err(|e| failed("read a cached profile", e))?;
        Ok(CachedProfile {
            profile,
            generation: generation.unwrap_or_default(),
        })
    }

    async fn cache_profile(
        &self,
        user: UserId,
        profile: &str,
        generation: u64,
        ttl: Duration,
    ) -> Result<bool> {
        self.run(
            "cache a profile",
            &self.scripts.cache_profile,
            self.names.profile_keys(user),
            vec![
                generation.to_string().into(),
                profile.into(),
                millis(ttl).max(1).to_string().into(),
            ],
        )
        .await
    }

    async fn announce_change(&self, user: UserId) -> Result<()> {
        let _: i64 = self
            .run(
                "announce a change",
                &self.scripts.change_profile,
                self.names.profile_keys(user),
                vec![millis(CHANGES_REMEMBERED).to_string().into()],
            )
            .await?;
        self.redis
            .pool
            .next()
            .publish::<(), _, _>(self.changed_channel.as_str(), user.to_string())
            .await
            .map_err(|e| failed("announce a change", e))
    }

    async fn changes(&self) -> Result<mpsc::Receiver<Changed>> {
        Ok(self.changes.subscribe())
    }

    async fn put_ticket(&self, ticket: [u8; 32], claims: &Ticket, ttl: Duration) -> Result<()> {
        // Redis refuses an expiry of 0.
        let ttl_ms = (micros(ttl) / 1_000).max(1);
        let args = vec![claims.as_str().into(), ttl_ms.to_string().into()];
        let keys = vec![self.names.ticket_key(&ticket)];
        let put = self.run::<String>("put a ticket", &self.scripts.put_ticket, keys, args);
        put.await.map(drop)
    }

    async fn take_ticket(&self, ticket: [u8; 32]) -> Result<Option<Ticket>> {
        self.redis
            .pool
            .getdel(self.names.ticket_key(&ticket))
            .await
            .map_err(|e| failed("take a ticket", e))
    }

    async fn throttle(&self, key: &str, limit: u32, window: Duration) -> Result<Throttle> {
        let wait: i64 = self
            .run(
                "count a try",
                &self.scripts.throttle,
                vec![self.names.throttle_key(key)],
                vec![i64::from(limit).into(), micros(window).max(1).into()],
            )
            .await?;
        Ok(match u64::try_from(wait) {
            Ok(wait) if wait > 0 => Throttle::Wait(Duration::from_micros(wait)),
            _ => Throttle::Allowed,
        })
    }

    async fn spend(&self, key: &str, limit: u32, window: Duration) -> Result<Spent> {
        let (allowed, remaining, reset): (i64, i64, i64) = self
            .run(
                "count a request",
                &self.scripts.spend,
                vec![self.names.limit_key(key)],
                vec![i64::from(limit).into(), micros(window).max(1).into()],
            )
            .await?;
        Ok(Spent {
            allowed: allowed == 1,
            remaining: u32::try_from(remaining).unwrap_or(0),
            reset: Duration::from_micros(u64::try_from(reset).unwrap_or(0)),
        })
    }

    async fn forgive(&self, key: &str) -> Result<()> {
        self.redis
            .pool
            .del(self.names.throttle_key(key))
            .await
            .map_err(|e| failed("forget tries", e))
    }

    async fn take_back(&self, key: &str) -> Result<()> {
        self.redis
            .pool
            .rpop(self.names.throttle_key(key), None)
            .await
            .map_err(|e| failed("take a try back", e))
    }

    async fn begin_once(&self, once: &OnceKey, lease: Duration) -> Result<Once> {
        let most = ANSWERS_MAX.to_string();
        let known = self.once(once, "begin", lease, most).await?;
        Ok(match known.strip_prefix('A') {
            Some(answer) => Once::Answered(answer.to_owned()),
            None if known.is_empty() => Once::Begun,
            None => Once::InFlight,
        })
    }

    async fn answer_once(&self, once: &OnceKey, answer: &str, keep: Duration) -> Result<bool> {
        if answer.len() > ANSWER_MAX_BYTES {
            return Err(PortError::fatal("keep an answer", "it is too long"));
        }
        let done = self.once(once, "answer", keep, answer.to_owned()).await?;
        Ok(done == "1")
    }

    async fn forget_once(&self, once: &OnceKey) -> Result<()> {
        let nothing = String::new();
        self.once(once, "forget", Duration::ZERO, nothing)
            .await
            .map(drop)
    }
}

impl RedisVault {
    async fn once(
        &self,
        once: &OnceKey,
        how: &'static str,
        time: Duration,
        last: String,
    ) -> Result<String> {
        let args = vec![
            how.into(),
            hex::encode(once.key).into(),
            hex::encode(once.request).into(),
            (micros(time) / 1_000).max(1).into(),
            last.into(),
        ];
        self.run(
            "hold an idempotency key",
            &self.scripts.once,
            self.names.once_keys(once),
            args,
        )
        .await
    }

    async fn unlist(&self, user: UserId, family: FamilyId) -> Result<()> {
        self.redis
            .pool
            .zrem(self.names.index_key(user), family.to_string())
            .await
            .map_err(|e| failed("unlist a token family", e))
    }
}
