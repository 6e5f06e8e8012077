//! Presence on Redis: each room's members in a hash, found again by their pod in an index of the same slot; pods live by
//! leases.
//!
//! # Who is dead, and who may say so
//! A lease is a time on Redis's clock, judged in the script that reads it. That alone would be wrong after Redis itself
//! stood still (stopped, swapping, cut off, restarted from its file): all leases are over at once, and the first pod
//! back would reap all others. So a pod may judge others only while it has itself renewed *steadily for a full lease*:
//! no two of its renewals, as Redis carried them out, lie more than half a lease apart, the last is not older, and all were
//! carried out by this server in this life of it: one that was started again, or promoted, may hold what was so a while ago,
//! and who is missing there may have come since.
//!
//! Why that is enough, with pods that renew every third of a lease L: the lease of a living pod lapses only if none of
//! its renewals was carried out for at least 2/3 L. If the reason is Redis, then no other pod's renewals were carried out
//! in that time either, because 2/3 L is more than L/2 every pod's steadiness starts anew with its first renewal
//! afterwards, and nobody is reaped for a full L from then on: time for every living pod to renew. A step of the clock,
//! forwards or backwards, breaks steadiness in the same way, and so does a reaper that was itself asleep. A pod that is
//! cut off alone, while others renew steadily, is reaped; its next renewal tells it so by starting anew, as it does when
//! Redis has lost its memory, and its members enter again.
//!
//! # No ghosts
//! `places` names every member under its pod, is written by the same scripts as the members and lies in the same slot,
//! so it can't disagree with them. The pods' leases lie in another slot: a pod that lapsed may still enter members, and
//! is therefore remembered, and looked for again, until [`FORGET_AFTER`]; and it renews before it enters if its own lease
//! may be over.

mod occupied;
mod reap;
mod reports;

use std::time::Duration;

use async_trait::async_trait;
use dashmap::DashMap;
use fred::prelude::*;
use tokio::time::Instant;

use super::keys::RoomKeys;
use super::redis::{Redis, port_error};
use super::room_log::failed;
use super::script::Script;
use crate::domain::ids::{ClientId, ConnectionId, PodId, RoomId, UserId};
use crate::domain::presence::Member;
use crate::ports::{Claim, NAME_HOLDERS_MAX, PortError, Presence, Reports, Result, RoomOccupancy};

/// How long a lapsed pod's record is kept, and its members looked for.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// See [`Presence`].
pub struct RedisPresence {
    redis: Redis,
    scripts: Scripts,
    /// Leases that this process renewed: until when, by our own clock, and how long they are.
    leases: DashMap<PodId, (Instant, Duration)>,
}

struct Scripts {
    enter: Script,
    update: Script,
    leave: Script,
    renew: Script,
    steady: Script,
    lapsed: Script,
    forget: Script,
    retire: Script,
    report: Script,
    reports: Script,
    hold_name: Script,
    take_name: Script,
    name_held: Script,
}

impl RedisPresence {
    pub fn new(redis: Redis) -> Self {
        Self {
            redis,
            scripts: Scripts {
                enter: Script::new(include_str!("presence/enter.lua")),
                update: Script::new(include_str!("presence/update.lua")),
                leave: Script::new(include_str!("presence/leave.lua")),
                renew: Script::new(include_str!("presence/renew.lua")),
                steady: Script::new(include_str!("presence/steady.lua")),
                lapsed: Script::new(include_str!("presence/lapsed.lua")),
                forget: Script::new(include_str!("presence/forget.lua")),
                retire: Script::new(include_str!("presence/retire.lua")),
                report: Script::new(include_str!("presence/report.lua")),
                reports: Script::new(include_str!("presence/reports.lua")),
                hold_name: Script::new(include_str!("presence/hold_name.lua")),
                take_name: Script::new(include_str!("presence/take_name.lua")),
                name_held: Script::new(include_str!("presence/name_held.lua")),
            },
            leases: DashMap::new(),
        }
    }

    fn keys<'a>(&'a self, room: &'a RoomId) -> RoomKeys<'a> {
        RoomKeys::new(&self.redis.namespace, room)
    }

    /// Keys of the pods' leases, in a slot of their own: pods, steady, claims.
    fn lease_keys(&self) -> Vec<String> {
        ["pods", "steady", "claims"]
            .iter()
            .map(|what| format!("{}:{{pods}}:{what}", self.redis.namespace))
            .collect()
    }

    /// Hashed: names have any characters, and are no business of whoever looks into Redis.
    fn name_key(&self, name: &str) -> String {
        use sha2::{Digest, Sha256};
        let hash = hex::encode(Sha256::digest(name));
        format!("{}:name:{hash}", self.redis.namespace)
    }

    /// Keys that a member is written to: members, places, occupied.
    fn member_keys(&self, room: &RoomId) -> Vec<String> {
        let keys = self.keys(room);
        vec![keys.members(), keys.places(), keys.occupied()]
    }

    async fn renew_if_lapsed(&self, pod: PodId) -> Result<()> {
        let lease = self.leases.get(&pod).map(|lease| *lease);
        match lease {
            Some((until, length)) if until <= Instant::now() => {
                self.renew(pod, length).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    async fn remove(
        &self,
        room: &RoomId,
        client_id: &ClientId,
        connection: &str,
    ) -> Result<Option<Member>> {
        const DOING: &str = "leave a room";
        let args = vec![
            room.as_str().into(),
            client_id.as_str().into(),
            connection.into(),
        ];
        let reply = self
            .scripts
            .leave
            .call(&self.redis, self.member_keys(room), args)
            .await
            .map_err(failed(DOING, room))?;
        reply
            .as_bytes()
            .map(|json| member(DOING, room, json))
            .transpose()
    }
}

fn member(operation: &'static str, room: &RoomId, json: &[u8]) -> Result<Member> {
    serde_json::from_slice(json)
        .map_err(|e| PortError::fatal(operation, format!("room {room}: malformed member: {e}")))
}

fn json(operation: &'static str, member: &Member) -> Result<Value> {
    serde_json::to_string(member)
        .map(Value::from)
        .map_err(|e| PortError::fatal(operation, e))
}

#[async_trait]
impl Presence for RedisPresence {
    async fn ping(&self) -> Result<()> {
        self.redis.ping().await
    }

    async fn enter(
        &self,
        room: &RoomId,
        member: &Member,
        take_over: Option<ConnectionId>,
    ) -> Result<Claim> {
        const DOING: &str = "enter a room";
        self.renew_if_lapsed(member.pod).await?;
        let args = vec![
            room.as_str().into(),
            member.client_id.as_str().into(),
            member.connection.to_string().into(),
            member.user_id.to_string().into(),
            member.pod.to_string().into(),
            json(DOING, member)?,
            take_over.map(|c| c.to_string()).unwrap_or_default().into(),
        ];
        let reply = self
            .scripts
            .enter
            .call(&self.redis, self.member_keys(room), args)
            .await
            .map_err(failed(DOING, room))?
            .into_array();
        let holder = |at: usize| {
            let json = reply.get(at).and_then(Value::as_bytes).unwrap_or_default();
            self::member(DOING, room, json).map(Box::new)
        };
        match reply.first().and_then(Value::as_str).as_deref() {
            Some("entered") => Ok(Claim::Entered),
            Some("replaced") => Ok(Claim::Replaced(holder(1)?)),
            Some("held") => Ok(Claim::Held(holder(1)?)),
            _ => Err(PortError::fatal(
                DOING,
                format!("room {room}: malformed answer"),
            )),
        }
    }

    async fn update(&self, room: &RoomId, member: &Member) -> Result<bool> {
        const DOING: &str = "update a member";
        let args = vec![
            member.client_id.as_str().into(),
            member.connection.to_string().into(),
            member.pod.to_string().into(),
            json(DOING, member)?,
        ];
        self.scripts
            .update
            .call(&self.redis, vec![self.keys(room).members()], args)
            .await
            .and_then(FromValue::from_value)
            .map_err(failed(DOING, room))
    }

    async fn leave(
        &self,
        room: &RoomId,
        client_id: &ClientId,
        connection: ConnectionId,
    ) -> Result<bool> {
        let removed = self
            .remove(room, client_id, &connection.to_string())
            .await?;
        Ok(removed.is_some())
    }

    async fn members(&self, room: &RoomId) -> Result<Vec<Member>> {
        const DOING: &str = "list the members of a room";
        let values: Vec<Value> = self
            .redis
            .pool
            .hvals(self.keys(room).members())
            .await
            .map_err(failed(DOING, room))?;
        let mut members = values
            .iter()
            .map(|value| member(DOING, room, value.as_bytes().unwrap_or_default()))
            .collect::<Result<Vec<_>>>()?;
        members.sort_by(|a, b| a.client_id.cmp(&b.client_id));
        Ok(members)
    }

    async fn members_of(&self, pod: PodId, limit: usize) -> Result<Vec<(RoomId, Member)>> {
        let mut found = Vec::new();
        self.list_pod(&pod.to_string(), limit, &mut found).await?;
        Ok(found)
    }

    async fn occupied(&self, after: Option<&RoomId>, limit: usize) -> Result<Vec<RoomOccupancy>> {
        self.occupied_page(after, limit).await
    }

    async fn renew(&self, pod: PodId, lease: Duration) -> Result<Duration> {
        // Before the call: what we think of our lease may end early, never late.
        let until = Instant::now() + lease;
        let args = vec![pod.to_string().into(), lease.as_millis().to_string().into()];
        let steady_ms: u64 = self
            .scripts
            .renew
            .call(&self.redis, self.lease_keys(), args)
            .await
            .and_then(FromValue::from_value)
            .map_err(|e| port_error("renew a pod's lease", e))?;
        self.leases.insert(pod, (until, lease));
        Ok(Duration::from_millis(steady_ms))
    }

    async fn steady(&self, pod: PodId) -> Result<Duration> {
        let steady_ms: u64 = self
            .scripts
            .steady
            .call(&self.redis, self.lease_keys(), vec![pod.to_string().into()])
            .await
            .and_then(FromValue::from_value)
            .map_err(|e| port_error("ask how steady a pod is", e))?;
        Ok(Duration::from_millis(steady_ms))
    }

    async fn reap(&self, by: PodId, limit: usize) -> Result<Vec<(RoomId, Member)>> {
        self.reap_lapsed(by, limit).await
    }

    async fn lapsed(&self, by: PodId, limit: usize) -> Result<Vec<(RoomId, Member)>> {
        self.list_lapsed(by, limit).await
    }

    async fn report(
        &self,
        pod: PodId,
        report: &str,
        lease: Duration,
        add: &[(&'static str, u64)],
    ) -> Result<()> {
        self.put_report(pod, report, lease, add).await
    }

    async fn reports(&self) -> Result<Reports> {
        self.read_reports().await
    }

    async fn hold_name(&self, key: &str, person: UserId, ttl: Duration) -> Result<()> {
        let args = vec![
            person.to_string().into(),
            ttl.as_millis().to_string().into(),
            NAME_HOLDERS_MAX.to_string().into(),
        ];
        self.scripts
            .hold_name
            .call(&self.redis, vec![self.name_key(key)], args)
            .await
            .map_err(|e| port_error("hold a name", e))?;
        Ok(())
    }

    async fn take_name(&self, key: &str, person: UserId, ttl: Duration) -> Result<bool> {
        let args = vec![
            person.to_string().into(),
            ttl.as_millis().to_string().into(),
        ];
        self.scripts
            .take_name
            .call(&self.redis, vec![self.name_key(key)], args)
            .await
            .and_then(FromValue::from_value)
            .map_err(|e| port_error("take a name", e))
    }

    async fn is_name_held(&self, key: &str, person: Option<UserId>) -> Result<bool> {
        let args = vec![person.map(|id| id.to_string()).unwrap_or_default().into()];
        self.scripts
            .name_held
            .call(&self.redis, vec![self.name_key(key)], args)
            .await
            .and_then(FromValue::from_value)
            .map_err(|e| port_error("look for a name's holders", e))
    }

    async fn retire(&self, pod: PodId) -> Result<()> {
        self.leases.remove(&pod);
        self.scripts
            .retire
            .call(&self.redis, self.lease_keys(), vec![pod.to_string().into()])
            .await
            .map_err(|e| port_error("retire a pod", e))?;
        Ok(())
    }
}
