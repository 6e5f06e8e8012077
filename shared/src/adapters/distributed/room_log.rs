//! The room log on Redis: a stream for each room, written by one script, followed through sharded pub/sub.

mod hub;
mod scripts;
mod wire;

use async_trait::async_trait;
use fred::interfaces::PubsubInterface;
use fred::prelude::*;
use futures::{StreamExt, TryStreamExt, stream};

use self::hub::Hub;
use self::scripts::Scripts;
use super::keys::{self, RoomKeys};
use super::memory::Memory;
use super::redis::{Redis, is_final, port_error};
use crate::domain::entry::{Entry, RefKey};
use crate::domain::ids::{Epoch, PARTITIONS, RoomId, Seq};
use crate::domain::signal::Signal;
use crate::ports::{
    APPEND_MAX, APPEND_MAX_BYTES, Append, Appended, Bar, LogHead, PortError, READ_MAX_BYTES,
    Refusal, Result, RoomLog, Subscription,
};

/// How long a ref is remembered at least.
const REF_MEMORY_MS: i64 = 24 * 60 * 60 * 1_000;
/// Refs that are written within one span share a bucket, which expires whole. Shorter ones would keep refs for less long beyond
/// their time, and make more buckets to look each up in.
const REF_SPAN_MS: i64 = 6 * 60 * 60 * 1_000;
/// How far the clocks of two pods may differ.
const CLOCK_SKEW_MS: i64 = 5 * 60 * 1_000;
/// Dirty rooms listed at most, whatever was asked for.
const DIRTY_MAX: usize = 100_000;
/// Partitions asked at a time when all are looked through.
const SCAN_WIDTH: usize = 64;
/// Rooms are archived in so many groups: what the workers of a cluster share.
const ARCHIVE_GROUPS: u16 = 16;

/// See [`RoomLog`].
pub struct RedisRoomLog {
    redis: Redis,
    scripts: Scripts,
    hub: Hub,
    memory: Memory,
    room_tail_max: u64,
}

impl RedisRoomLog {
    /// `room_tail_max`: entries a room may hold unarchived.
    pub async fn open(redis: Redis, room_tail_max: u64) -> Result<Self> {
        let hub = Hub::open(&redis).await?;
        let memory = Memory::watch(redis.clone()).await;
        Ok(Self {
            memory,
            redis,
            scripts: Scripts::new(),
            hub,
            room_tail_max,
        })
    }

    fn keys<'a>(&'a self, room: &'a RoomId) -> RoomKeys<'a> {
        RoomKeys::new(&self.redis.namespace, room)
    }
}

/// Failures name their room.
pub(super) fn failed(operation: &'static str, room: &RoomId) -> impl Fn(Error) -> PortError {
    move |error| {
        let text = format!("room {room}: {error}");
        if is_final(&error) {
            PortError::fatal(operation, text)
        } else {
            PortError::retry(operation, text)
        }
    }
}

/// The buckets in which a ref may lie that is still to be remembered, that of `now` first. Buckets and not one hash
/// with an expiry for each field, because Redis has that only from 7.4 on; a bucket expires whole.
fn ref_spans(now_ms: i64) -> Vec<i64> {
    let present = now_ms.div_euclid(REF_SPAN_MS);
    let oldest = (now_ms - REF_MEMORY_MS - CLOCK_SKEW_MS).div_euclid(REF_SPAN_MS);
    let newest = (now_ms + CLOCK_SKEW_MS).div_euclid(REF_SPAN_MS);
    let others = (oldest..=newest).filter(|span| *span != present);
    std::iter::once(present).chain(others).collect()
}

/// From now until what is written last into the present bucket may be forgotten, by any clock.
fn ref_bucket_seconds(now_ms: i64) -> i64 {
    let present_ends_ms = (now_ms.div_euclid(REF_SPAN_MS) + 1) * REF_SPAN_MS;
    (present_ends_ms + REF_MEMORY_MS + 2 * CLOCK_SKEW_MS - now_ms) / 1_000
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

#[async_trait]
impl RoomLog for RedisRoomLog {
    async fn ping(&self) -> Result<()> {
        self.redis.ping().await?;
        self.hub.ping().await
    }

    async fn head(&self, room: &RoomId) -> Result<Option<LogHead>> {
        const DOING: &str = "read the head of a room log";
        let reply: Value = self
            .redis
            .pool
            .hmget(self.keys(room).meta(), wire::HEAD_FIELDS.to_vec())
            .await
            .map_err(failed(DOING, room))?;
        wire::head(room, reply.into_array()).map_err(|e| PortError::fatal(DOING, e))
    }

    async fn is_unbroken(&self, room: &RoomId) -> Result<bool> {
        self.scripts
            .unbroken
            .call(&self.redis, vec![self.keys(room).meta()], Vec::new())
            .await
            .and_then(FromValue::from_value)
            .map_err(failed("ask whether a room log is unbroken", room))
    }

    async fn seed(
        &self,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        role_version: u64,
        now_ms: i64,
    ) -> Result<LogHead> {
        const DOING: &str = "seed a room log";
        let keys = self.keys(room);
        let mut all = vec![keys.meta(), keys.log(), keys.dirty()];
        all.extend(ref_spans(now_ms).into_iter().map(|span| keys.refs(span)));
        let args = vec![
            room.as_str().into(),
            keys.channel().into(),
            number(epoch.0),
            number(seq.0),
            number(role_version),
            now_ms.to_string().into(),
            wire::signal_text(&Signal::EpochRaised { epoch })
                .map_err(|e| PortError::fatal(DOING, e))?
                .into(),
        ];
        let reply = self
            .scripts
            .seed
            .call(&self.redis, all, args)
            .await
            .map_err(failed(DOING, room))?;
        wire::head(room, reply.into_array())
            .map_err(|e| PortError::fatal(DOING, e))?
            .ok_or_else(|| PortError::retry(DOING, format!("room {room}: gone at once")))
    }

    async fn append(&self, append: Append<'_>) -> Result<(Vec<Appended>, bool), Refusal> {
        const DOING: &str = "append to a room log";
        let Append { room, records, .. } = append;
        let keys = self.keys(room);
        let mut all = vec![keys.meta(), keys.log(), keys.dirty()];
        let spans = ref_spans(append.now_ms);
        all.extend(spans.into_iter().map(|span| keys.refs(span)));
        // What is stored already is told also where there is no room for more.
        let room_tail_max = match self.memory.is_short() {
            true => 0,
            false => self.room_tail_max,
        };
        let mut args = Vec::with_capacity(7 + 2 * records.len());
        args.extend([
            room.as_str().into(),
            keys.channel().into(),
            number(append.epoch.0),
            number(append.seen.0),
            number(append.role_version),
            number(room_tail_max),
            ref_bucket_seconds(append.now_ms).to_string().into(),
        ]);
        let too_large = |what: String| PortError::fatal(DOING, format!("room {room}: {what}"));
        if records.len() > APPEND_MAX {
            let count = records.len();
            return Err(too_large(format!("{count} records at once, at most {APPEND_MAX}")).into());
        }
        let mut bytes = 0;
        for record in records {
            let json = serde_json::to_string(record)
                .map_err(|e| PortError::fatal(DOING, format!("room {room}: {e}")))?;
            bytes += json.len();
            args.push(json.into());
            args.push(
                record
                    .ref_key()
                    .map(|key| wire::ref_field(&key))
                    .unwrap_or_default()
                    .into(),
            );
        }
        if bytes > APPEND_MAX_BYTES {
            return Err(
                too_large(format!("{bytes} bytes at once, at most {APPEND_MAX_BYTES}")).into(),
            );
        }
        match self.scripts.append.call(&self.redis, all, args).await {
            Ok(reply) => wire::append_reply(room, reply.into_array())
                .map_err(|e| Refusal::Port(PortError::fatal(DOING, e)))?,
            // Memory is full, and what fills it is what the archive has not taken yet.
            Err(error) if error.details().starts_with("OOM") => Err(Refusal::ArchiveBehind),
            Err(error) => Err(failed(DOING, room)(error).into()),
        }
    }

    async fn read(
        &self,
        room: &RoomId,
        epoch: Epoch,
        after: Seq,
        limit: usize,
    ) -> Result<Option<Vec<Entry>>> {
        const DOING: &str = "read a room log";
        let keys = self.keys(room);
        let args = vec![
            number(epoch.0),
            number(after.0),
            limit.to_string().into(),
            READ_MAX_BYTES.to_string().into(),
        ];
        let reply = self
            .scripts
            .read
            .call(&self.redis, vec![keys.meta(), keys.log()], args)
            .await
            .map_err(failed(DOING, room))?;
        if reply.is_null() {
            return Ok(None);
        }
        wire::entries(room, reply.into_array())
            .map(Some)
            .map_err(|e| PortError::fatal(DOING, e))
    }

    async fn seqs_of_refs(&self, room: &RoomId, refs: &[RefKey]) -> Result<Vec<Option<Seq>>> {
        const DOING: &str = "look refs up in a room log";
        if refs.is_empty() {
            return Ok(Vec::new());
        }
        let keys = self.keys(room);
        let fields: Vec<Key> = refs.iter().map(|key| wire::ref_field(key).into()).collect();
        let buckets = ref_spans(now_ms()).into_iter().map(|span| {
            let (key, fields) = (keys.refs(span), fields.clone());
            async move {
                self.redis
                    .pool
                    .hmget::<Vec<Option<String>>, _, _>(key, fields)
                    .await
            }
        });
        let found = futures::future::try_join_all(buckets)
            .await
            .map_err(failed(DOING, room))?;
        let seq = |at: usize| {
            let in_buckets = found.iter().filter_map(|bucket| bucket.get(at)?.as_ref());
            // Else it is barred: see bar.lua.
            let mut stored = in_buckets.filter(|text| !text.starts_with('!'));
            stored.next().map(|text| text.parse().map(Seq)).transpose()
        };
        let seqs: std::result::Result<Vec<Option<Seq>>, _> = (0..refs.len()).map(seq).collect();
        seqs.map_err(|e| PortError::fatal(DOING, format!("room {room}: malformed ref: {e}")))
    }

    async fn bar(&self, bar: Bar<'_>) -> Result<Vec<Option<Seq>>, Refusal> {
        const DOING: &str = "bar refs of a room log";
        let Bar { room, refs, .. } = bar;
        let keys = self.keys(room);
        let mut all = vec![keys.meta()];
        all.extend(
            ref_spans(bar.now_ms)
                .into_iter()
                .map(|span| keys.refs(span)),
        );
        let mut args = vec![
            room.as_str().into(),
            number(bar.epoch.0),
            number(bar.seen.0),
            ref_bucket_seconds(bar.now_ms).to_string().into(),
        ];
        for (key, connection) in refs {
            args.push(wire::ref_field(key).into());
            args.push(connection.to_string().into());
        }
        let reply = self.scripts.bar.call(&self.redis, all, args).await;
        let reply = reply.map_err(failed(DOING, room))?;
        wire::bar_reply(room, reply.into_array())
            .map_err(|e| Refusal::Port(PortError::fatal(DOING, e)))?
    }

    async fn subscribe(&self, room: &RoomId) -> Result<Subscription> {
        self.hub.subscribe(room).await
    }

    async fn publish(&self, room: &RoomId, signal: &Signal) -> Result<()> {
        const DOING: &str = "publish to a room";
        let text = wire::signal_text(signal).map_err(|e| PortError::fatal(DOING, e))?;
        self.redis
            .client_for(room.as_str())
            .spublish(self.keys(room).channel(), text)
            .await
            .map_err(failed(DOING, room))
    }

    async fn set_role_version(&self, room: &RoomId, role_version: u64) -> Result<()> {
        self.scripts
            .set_role_version
            .call(
                &self.redis,
                vec![self.keys(room).meta()],
                vec![number(role_version)],
            )
            .await
            .map_err(failed("set the role version of a room log", room))?;
        Ok(())
    }

    fn archive_groups(&self) -> u16 {
        ARCHIVE_GROUPS
    }

    /// Every partition's set (a group is every sixteenth), asked for in turns of [`SCAN_WIDTH`] from a random one on, so
    /// that no room waits for ever behind a limit.
    async fn dirty_rooms(&self, group: Option<u16>, limit: usize) -> Result<Vec<RoomId>> {
        const DOING: &str = "list rooms to archive";
        let limit = limit.min(DIRTY_MAX);
        let start = rand::random_range(0..PARTITIONS);
        let asked = (0..PARTITIONS)
            .map(|n| (start + n) % PARTITIONS)
            .filter(|partition| group.is_none_or(|group| partition % ARCHIVE_GROUPS == group));
        let mut partitions = stream::iter(asked)
            .map(|partition| async move {
                let key = keys::dirty(&self.redis.namespace, partition);
                self.redis
                    .pool
                    .srandmember::<Vec<String>, _>(key, Some(limit))
                    .await
                    .map_err(|e| port_error(DOING, e))
            })
            .buffer_unordered(SCAN_WIDTH);
        let mut rooms = Vec::new();
        while rooms.len() < limit
            && let Some(names) = partitions.try_next().await?
        {
            // One malformed name must not keep every other room from the archive.
            for name in names {
                match name.parse() {
                    Ok(room) => rooms.push(room),
                    Err(error) => tracing::error!(name, %error, "malformed name of a dirty room"),
                }
            }
        }
        rooms.truncate(limit);
        Ok(rooms)
    }

    async fn confirm_archived(
        &self,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        trim_to: Seq,
    ) -> Result<bool> {
        const DOING: &str = "confirm what is archived of a room log";
        let keys = self.keys(room);
        let signal = wire::signal_text(&Signal::Archived { epoch, seq })
            .map_err(|e| PortError::fatal(DOING, e))?;
        let args = vec![
            room.as_str().into(),
            keys.channel().into(),
            number(epoch.0),
            number(seq.0),
            number(trim_to.0),
            signal.into(),
        ];
        self.scripts
            .confirm
            .call(
                &self.redis,
                vec![keys.meta(), keys.log(), keys.dirty()],
                args,
            )
            .await
            .and_then(FromValue::from_value)
            .map_err(failed(DOING, room))
    }

    async fn unload(&self, room: &RoomId, epoch: Epoch, seq: Seq) -> Result<bool> {
        let keys = self.keys(room);
        let mut all = vec![keys.meta(), keys.log(), keys.dirty()];
        all.extend(ref_spans(now_ms()).into_iter().map(|span| keys.refs(span)));
        self.scripts
            .unload
            .call(
                &self.redis,
                all,
                vec![room.as_str().into(), number(epoch.0), number(seq.0)],
            )
            .await
            .and_then(FromValue::from_value)
            .map_err(failed("unload a room log", room))
    }
}

/// Scripts take numbers as decimal text.
fn number(n: u64) -> Value {
    n.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the time of day, and with clocks apart by the skew, the bucket written is looked at 24 h later.
    #[test]
    fn a_bucket_is_looked_at_as_long_as_its_refs_are_remembered() {
        for minute in 0..(2 * 24 * 60) {
            let written = 80_000 * REF_SPAN_MS + minute * 60_000;
            let bucket = ref_spans(written)[0];
            for apart in [-CLOCK_SKEW_MS, 0, CLOCK_SKEW_MS] {
                for age in [0, REF_MEMORY_MS / 2, REF_MEMORY_MS] {
                    assert!(
                        ref_spans(written + age + apart).contains(&bucket),
                        "{minute} {apart} {age}"
                    );
                }
            }
            let lives_ms = ref_bucket_seconds(written) * 1_000;
            assert!(lives_ms > REF_MEMORY_MS + CLOCK_SKEW_MS);
            assert!(lives_ms <= REF_SPAN_MS + REF_MEMORY_MS + 2 * CLOCK_SKEW_MS);
        }
    }
}
