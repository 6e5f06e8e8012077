//! Presence in memory: one process, which starts empty.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::domain::ids::{ClientId, ConnectionId, PodId, RoomId, UserId};
use crate::domain::presence::Member;
use crate::ports::{Claim, NAME_HOLDERS_MAX, Presence, Reports, Result, RoomOccupancy};

/// See [`Presence`].
#[derive(Default)]
pub struct MemoryPresence {
    state: Mutex<State>,
    names: Mutex<Names>,
}

/// Names that lapsed are forgotten whenever so many more are held.
const NAMES_SWEPT_EVERY: usize = 1_024;

/// Who holds one name, until when: nearly always one person.
type Holders = Vec<(UserId, Instant)>;

/// Who holds which name until when.
#[derive(Default)]
struct Names {
    holders: HashMap<Box<str>, Holders>,
    sweep_at: usize,
}

impl Names {
    fn hold(&mut self, key: &str, person: UserId, ttl: Duration, now: Instant) {
        if self.holders.len() >= self.sweep_at {
            self.holders
                .retain(|_, holders| holders.iter().any(|(_, until)| *until > now));
            self.sweep_at = self.holders.len() + NAMES_SWEPT_EVERY;
        }
        let holders = match self.holders.get_mut(key) {
            Some(holders) => holders,
            None => self.holders.entry(key.into()).or_default(),
        };
        let held = holders.iter().find(|(holder, _)| *holder == person);
        let until = held.map_or(now, |(_, until)| *until).max(now + ttl);
        holders.retain(|(holder, until)| *until > now && *holder != person);
        if !ttl.is_zero() {
            // Nearly always the only one.
            holders.reserve_exact(1);
            holders.push((person, until));
        }
        if holders.len() > NAME_HOLDERS_MAX
            && let Some(first) = (0..holders.len()).min_by_key(|at| holders[*at].1)
        {
            holders.swap_remove(first);
        }
        if holders.is_empty() {
            self.holders.remove(key);
        }
    }

    /// By anybody but `person`?
    fn is_held(&self, key: &str, person: Option<UserId>, now: Instant) -> bool {
        self.holders.get(key).is_some_and(|holders| {
            let mut others = holders.iter().filter(|(holder, _)| Some(*holder) != person);
            others.any(|(_, until)| *until > now)
        })
    }
}

#[derive(Default)]
struct State {
    rooms: BTreeMap<RoomId, BTreeMap<ClientId, Box<Member>>>,
    pods: HashMap<PodId, Lease>,
    reports: HashMap<PodId, (Instant, String)>,
    totals: BTreeMap<String, u64>,
}

/// A pod may judge others only while it has itself renewed steadily for a full lease: then neither a process that
/// was stopped nor a clock that stood still makes the living look dead. The distributed adapter explains it in full.
struct Lease {
    length: Duration,
    renewed: Instant,
    /// No two renewals since then lie more than half a lease apart.
    steady_since: Instant,
    retired: bool,
}

impl Lease {
    fn is_steady(&self, now: Instant) -> bool {
        !self.retired && now - self.renewed <= self.length / 2
    }

    fn has_lapsed(&self, now: Instant) -> bool {
        self.retired || now - self.renewed >= self.length
    }

    fn may_judge(&self, now: Instant) -> bool {
        self.is_steady(now) && now - self.steady_since >= self.length
    }
}

impl State {
    fn may_judge(&self, pod: PodId, now: Instant) -> bool {
        let lease = self.pods.get(&pod);
        lease.is_some_and(|lease| lease.may_judge(now))
    }

    /// The members of pods whose lease lapsed.
    fn dead(&self, now: Instant, limit: usize) -> Vec<(RoomId, ClientId)> {
        let lapsed = |pod: &PodId| {
            let lease = self.pods.get(pod);
            lease.is_some_and(|lease| lease.has_lapsed(now))
        };
        self.rooms
            .iter()
            .flat_map(|(room, members)| members.values().map(move |member| (room, member)))
            .filter(|(_, member)| lapsed(&member.pod))
            .take(limit)
            .map(|(room, member)| (room.clone(), member.client_id.clone()))
            .collect()
    }

    fn remove(&mut self, room: &RoomId, client_id: &ClientId) -> Option<Box<Member>> {
        let members = self.rooms.get_mut(room)?;
        let removed = members.remove(client_id);
        if members.is_empty() {
            self.rooms.remove(room);
        }
        removed
    }
}

#[async_trait]
impl Presence for MemoryPresence {
    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn enter(
        &self,
        room: &RoomId,
        member: &Member,
        take_over: Option<ConnectionId>,
    ) -> Result<Claim> {
        let mut state = self.state.lock();
        let members = state.rooms.entry(room.clone()).or_default();
        let Some(holder) = members.get_mut(&member.client_id) else {
            members.insert(member.client_id.clone(), Box::new(member.clone()));
            return Ok(Claim::Entered);
        };
        let again = holder.connection == member.connection;
        if !again && holder.user_id != member.user_id && take_over != Some(holder.connection) {
            return Ok(Claim::Held(holder.clone()));
        }
        let before = std::mem::replace(holder, Box::new(member.clone()));
        if again {
            return Ok(Claim::Entered);
        }
        Ok(Claim::Replaced(before))
    }

    async fn update(&self, room: &RoomId, member: &Member) -> Result<bool> {
        let mut state = self.state.lock();
        let held = state
            .rooms
            .get_mut(room)
            .and_then(|members| members.get_mut(&member.client_id))
            .filter(|held| held.connection == member.connection && held.pod == member.pod);
        Ok(held.map(|held| (**held).clone_from(member)).is_some())
    }

    async fn leave(
        &self,
        room: &RoomId,
        client_id: &ClientId,
        connection: ConnectionId,
    ) -> Result<bool> {
        let mut state = self.state.lock();
        let held = state
            .rooms
            .get(room)
            .and_then(|members| members.get(client_id));
        if held.is_none_or(|held| held.connection != connection) {
            return Ok(false);
        }
        Ok(state.remove(room, client_id).is_some())
    }

    async fn members(&self, room: &RoomId) -> Result<Vec<Member>> {
        let state = self.state.lock();
        Ok(state
            .rooms
            .get(room)
            .map(|members| members.values().map(|m| (**m).clone()).collect())
            .unwrap_or_default())
    }

    async fn members_of(&self, pod: PodId, limit: usize) -> Result<Vec<(RoomId, Member)>> {
        let state = self.state.lock();
        let all = state
            .rooms
            .iter()
            .flat_map(|(room, members)| members.values().map(move |member| (room, member)));
        let theirs = all.filter(|(_, member)| member.pod == pod).take(limit);
        Ok(theirs
            .map(|(room, member)| (room.clone(), Member::clone(member)))
            .collect())
    }

    async fn occupied(&self, after: Option<&RoomId>, limit: usize) -> Result<Vec<RoomOccupancy>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.state.lock();
        let rooms = state.rooms.range::<RoomId, _>((from, Bound::Unbounded));
        Ok(rooms
            .take(limit)
            .map(|(room, members)| RoomOccupancy {
                room: room.clone(),
                members: members.len(),
            })
            .collect())
    }

    async fn renew(&self, pod: PodId, lease: Duration) -> Result<Duration> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let steady_since = state
            .pods
            .get(&pod)
            .filter(|known| known.is_steady(now))
            .map_or(now, |known| known.steady_since);
        let renewed = Lease {
            length: lease,
            renewed: now,
            steady_since,
            retired: false,
        };
        state.pods.insert(pod, renewed);
        Ok(now - steady_since)
    }

    async fn steady(&self, pod: PodId) -> Result<Duration> {
        let now = Instant::now();
        let state = self.state.lock();
        let steady = state.pods.get(&pod).filter(|lease| lease.is_steady(now));
        Ok(steady.map_or(Duration::ZERO, |lease| now - lease.steady_since))
    }

    async fn reap(&self, by: PodId, limit: usize) -> Result<Vec<(RoomId, Member)>> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if !state.may_judge(by, now) {
            return Ok(Vec::new());
        }
        let dead = state.dead(now, limit);
        let all = dead.len() < limit;
        let reaped = dead
            .into_iter()
            .filter_map(|(room, client_id)| Some((room.clone(), *state.remove(&room, &client_id)?)))
            .collect();
        if all {
            state.pods.retain(|_, lease| !lease.has_lapsed(now));
        }
        Ok(reaped)
    }

    async fn lapsed(&self, by: PodId, limit: usize) -> Result<Vec<(RoomId, Member)>> {
        let now = Instant::now();
        let state = self.state.lock();
        if !state.may_judge(by, now) {
            return Ok(Vec::new());
        }
        let dead = state.dead(now, limit).into_iter();
        let member = |(room, client): (RoomId, ClientId)| {
            let member = Member::clone(state.rooms.get(&room)?.get(&client)?);
            Some((room, member))
        };
        Ok(dead.filter_map(member).collect())
    }

    async fn report(
        &self,
        pod: PodId,
        report: &str,
        lease: Duration,
        add: &[(&'static str, u64)],
    ) -> Result<()> {
        let mut state = self.state.lock();
        state
            .reports
            .insert(pod, (Instant::now() + lease, report.to_owned()));
        for (name, amount) in add {
            *state.totals.entry((*name).to_owned()).or_default() += amount;
        }
        Ok(())
    }

    async fn hold_name(&self, key: &str, person: UserId, ttl: Duration) -> Result<()> {
        self.names.lock().hold(key, person, ttl, Instant::now());
        Ok(())
    }

    async fn take_name(&self, key: &str, person: UserId, ttl: Duration) -> Result<bool> {
        let now = Instant::now();
        let mut names = self.names.lock();
        let free = !names.is_held(key, Some(person), now);
        if free {
            names.hold(key, person, ttl, now);
        }
        Ok(free)
    }

    async fn reports(&self) -> Result<Reports> {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.reports.retain(|_, (until, _)| *until > now);
        Ok(Reports {
            live: state
                .reports
                .values()
                .map(|(_, report)| report.clone())
                .collect(),
            totals: state.totals.clone(),
        })
    }

    async fn is_name_held(&self, key: &str, person: Option<UserId>) -> Result<bool> {
        Ok(self.names.lock().is_held(key, person, Instant::now()))
    }

    async fn retire(&self, pod: PodId) -> Result<()> {
        if let Some(lease) = self.state.lock().pods.get_mut(&pod) {
            lease.retired = true;
        }
        Ok(())
    }
}
