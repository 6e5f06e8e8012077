//! Which rooms are live on this pod, and what the pod does for all of them: its lease, reaping, ended logins, draining.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use atelier_shared::domain::ids::{ConnectionId, Epoch, FamilyId, PodId, RoomId, UserId};
use atelier_shared::domain::names;
use atelier_shared::domain::presence::Member;
use atelier_shared::domain::room::Room;
use atelier_shared::ports::{PortError, Result, Revoked};
use atelier_shared::recovery::ArchiveWakes;
use atelier_shared::{Backends, Mode, visits};
use dashmap::DashMap;
use parking_lot::RwLock;
use rand::Rng;
use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::actor::{Actor, Command};
use super::coming::Coming;
use super::connection::Connection;
use super::document::DocumentSnapshot;
use super::json::outgoing;
use super::ring::Feed;
use super::visits::Visits;
use crate::config::GatewayConfig;
use crate::identity::{Identity, Profiles};
use crate::metrics::Metrics;

/// Commands that wait for one room's task. Senders wait beyond it, and so stop reading their sockets.
const MAILBOX: usize = 1024;
/// A pod's members are alive for so long after its last renewal.
pub const LEASE: Duration = Duration::from_secs(6);
pub(super) const RENEW_EVERY: Duration = Duration::from_secs(2);
/// Members of dead pods that one beat hands out at most.
const REAP_AT_ONCE: usize = 1_000;

/// What outlives any one room's task: the parts that connections read.
#[derive(Debug)]
pub struct Shared {
    pub id: RoomId,
    pub feed: RwLock<Feed>,
    pub coming: Coming,
    /// Of the room's document, as it is kept here.
    pub document_bytes: AtomicUsize,
    /// At most so many types lie in one another in it.
    pub document_levels: AtomicUsize,
    epoch: AtomicU64,
}

impl Shared {
    pub fn new(id: RoomId, feed: Feed, epoch: Epoch) -> Self {
        Self {
            id,
            feed: RwLock::new(feed),
            coming: Coming::default(),
            document_bytes: AtomicUsize::new(0),
            document_levels: AtomicUsize::new(0),
            epoch: AtomicU64::new(epoch.0),
        }
    }

    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    pub fn set_epoch(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Ordering::Release);
    }
}

/// A live room, held by whoever talks to it.
#[derive(Debug, Clone)]
pub struct Handle {
    pub mailbox: mpsc::Sender<Command>,
    pub shared: Arc<Shared>,
}

/// An open socket, by what may end it.
#[derive(Debug)]
pub struct OpenSocket {
    pub connection: Arc<Connection>,
    pub user_id: UserId,
    pub family: Option<FamilyId>,
}

/// All live rooms of this pod; cheap to clone.
#[derive(Clone)]
pub struct Rooms(pub(super) Arc<Inner>);

pub struct Inner {
    pub backends: Backends,
    pub config: GatewayConfig,
    pub identity: Identity,
    pub profiles: Profiles,
    pub metrics: Metrics,
    pub pod: PodId,
    pub tasks: TaskTracker,
    /// Ends the pod's own beats, after the last connection is gone.
    pub stop: CancellationToken,
    pub sockets: DashMap<ConnectionId, OpenSocket>,
    pub wakes: ArchiveWakes,
    pub(super) visits: Visits,
    live: DashMap<RoomId, Arc<OnceCell<Handle>>>,
    people_changes: Arc<AtomicU64>,
    draining: AtomicBool,
}

impl std::ops::Deref for Rooms {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Rooms {
    /// Takes the pod's first lease and starts its beats.
    pub async fn start(
        backends: Backends,
        config: GatewayConfig,
        identity: Identity,
        profiles: Profiles,
        metrics: Metrics,
    ) -> Result<Self> {
        let rooms = Self(Arc::new(Inner {
            pod: PodId::generate(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            sockets: DashMap::new(),
            wakes: ArchiveWakes::default(),
            visits: Visits::new(backends.records.clone()),
            live: DashMap::new(),
            people_changes: Arc::default(),
            draining: AtomicBool::new(false),
            backends,
            config,
            identity,
            profiles,
            metrics,
        }));
        rooms.backends.presence.renew(rooms.pod, LEASE).await?;
        let revocations = rooms.backends.vault.revocations().await?;
        let changes = rooms.backends.vault.changes().await?;
        rooms.spawn_until_stop(rooms.profiles.clone().follow(changes));
        if rooms.backends.mode == Mode::Embedded {
            // Nobody is in a room of a process that has just begun.
            let ended = visits::end_lost(&rooms.backends, chrono::Utc::now(), false).await?;
            tracing::debug!(ended, "visits that the process before this one left open");
        }
        rooms.spawn_until_stop(rooms.clone().keep_noting_visits());
        rooms.spawn_until_stop(rooms.clone().keep_lease());
        rooms.spawn_until_stop(rooms.clone().end_revoked(revocations));
        Ok(rooms)
    }

    /// Rises whenever presence has taken somebody of this pod in or let them go.
    pub fn people_changes(&self) -> Arc<AtomicU64> {
        self.people_changes.clone()
    }

    /// Presence knows somebody of this pod since now, or not any more.
    pub(super) fn people_changed(&self) {
        self.people_changes.fetch_add(1, Ordering::Release);
    }

    fn spawn_until_stop(&self, beat: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = beat => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// The live room, loading it if it isn't: two first comers load it once.
    pub async fn open(&self, room: &Room) -> Result<Handle> {
        loop {
            let cell = self.live.entry(room.id.clone()).or_default().clone();
            let handle = cell
                .get_or_try_init(|| Actor::start(self.clone(), room.clone(), MAILBOX))
                .await;
            match handle {
                Ok(handle) if !handle.mailbox.is_closed() => return Ok(handle.clone()),
                // Its task has just ended for want of people: forget it and start another.
                Ok(_) => self.forget(&room.id, &cell),
                Err(error) => {
                    self.forget(&room.id, &cell);
                    return Err(error);
                }
            }
        }
    }

    fn forget(&self, id: &RoomId, cell: &Arc<OnceCell<Handle>>) {
        self.live.remove_if(id, |_, now| Arc::ptr_eq(now, cell));
    }

    /// The live room, if it is live here.
    pub fn find(&self, id: &RoomId) -> Option<Handle> {
        let handle = self.live.get(id)?.get()?.clone();
        (!handle.mailbox.is_closed()).then_some(handle)
    }

    /// A room's task has ended.
    pub(super) fn ended(&self, id: &RoomId) {
        let closed = |cell: &Arc<OnceCell<Handle>>| {
            cell.get().is_some_and(|handle| handle.mailbox.is_closed())
        };
        self.live.remove_if(id, |_, cell| closed(cell));
    }

    /// The people of a room as this pod sees them; `None`: it is not live here.
    pub async fn members(&self, id: &RoomId) -> Option<Vec<Member>> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let handle = self.find(id)?;
        handle.mailbox.send(Command::Members { reply }).await.ok()?;
        answer.await.ok()
    }

    /// The live rooms that have a document, and its bytes.
    pub fn documents(&self) -> Vec<(RoomId, usize)> {
        let live = self.live.iter();
        live.filter_map(|live| {
            let bytes = live
                .value()
                .get()?
                .shared
                .document_bytes
                .load(Ordering::Relaxed);
            (bytes > 0).then(|| (live.key().clone(), bytes))
        })
        .collect()
    }

    /// Bytes of the room's document as this pod keeps it; `None`: it is not live here.
    pub fn document_bytes(&self, id: &RoomId) -> Option<usize> {
        let handle = self.find(id)?;
        Some(handle.shared.document_bytes.load(Ordering::Relaxed))
    }

    /// The room's document; `None`: it is not live here, or has none.
    pub async fn document(&self, id: &RoomId) -> Option<Arc<DocumentSnapshot>> {
        self.find(id)?.document().await.ok().flatten()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Tells every client to go elsewhere, spread over the first half of `within` so that they do not all come at once,
    /// and closes 4503 whoever is left. Returns when all are gone or `within` is over.
    pub async fn drain(&self, within: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        self.end_simulated_here();
        let spread = within / 2;
        let spread_ms = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX).max(1);
        for socket in &self.sockets {
            let connection = socket.connection.clone();
            let after_ms = rand::rng().random_range(0..spread_ms);
            connection.send(outgoing::drain(after_ms));
            self.tasks.spawn(async move {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                connection.close(4503, "this server is going away; come back to another");
            });
        }
        let gone = async {
            while !self.sockets.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(within, gone).await;
        self.stop.cancel();
        self.tasks.close();
        let ended = async {
            self.tasks.wait().await;
            if let Err(error) = self.visits.write().await {
                tracing::warn!(%error, "who left last is left to the cleanup to note");
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), ended).await;
        if let Err(error) = self.backends.presence.retire(self.pod).await {
            tracing::warn!(%error, "the pod's lease was left to lapse");
        }
    }

    /// Simulated people of this pod end with its drain.
    fn end_simulated_here(&self) {
        let live: Vec<Handle> = self
            .live
            .iter()
            .filter_map(|room| room.get().cloned())
            .collect();
        self.tasks.spawn(async move {
            for handle in live {
                // A room that has just ended has ended them itself.
                let _ = handle.mailbox.send(Command::EndSimulated).await;
            }
        });
    }

    /// Renews this pod's lease, and takes the members of pods whose lease lapsed out of their rooms.
    async fn keep_lease(self) {
        let mut beat = tokio::time::interval(RENEW_EVERY);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            beat.tick().await;
            match self.beat().await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, "presence is away; nobody is reaped meanwhile");
                }
                Err(_) => {}
            }
        }
    }

    async fn beat(&self) -> Result<(), PortError> {
        let presence = &self.backends.presence;
        if presence.renew(self.pod, LEASE).await?.is_zero() {
            self.tasks.spawn(self.clone().look_who_is_here());
            self.spawn_until_stop(self.clone().take_out_ghosts());
        }
        for (room, member) in presence.reap(self.pod, REAP_AT_ONCE).await? {
            if names::is_made_up(&member.name) {
                // Nobody goes by it any more, and made-up names are not held.
                let (key, person) = (names::key(&member.name), member.user_id);
                if let Err(error) = presence.hold_name(&key, person, Duration::ZERO).await {
                    tracing::debug!(%error, "a made-up name is held until its time is over");
                }
            }
            if member.joined && !member.simulated {
                self.remember(&room, member.user_id).await;
            }
            self.tell_left(&room, &member.client_id, member.connection, Some("lost"))
                .await?;
        }
        Ok(())
    }

    /// This pod was away, or the store has lost its memory: its people may be missing there.
    async fn look_who_is_here(self) {
        let live = self.live.iter().filter_map(|cell| cell.get().cloned());
        for handle in live.collect::<Vec<_>>() {
            // A room whose task has just ended has nobody in it.
            let _ = handle.mailbox.send(Command::LookWhoIsHere).await;
        }
    }

    /// Closes the sockets of logins that were ended, on whichever pod.
    async fn end_revoked(self, mut revocations: mpsc::Receiver<Revoked>) {
        while let Some(revoked) = revocations.recv().await {
            match revoked {
                Revoked::Family(family) => self.end_login(family),
                Revoked::Missed => self.end_missed().await,
            }
        }
    }

    fn end_login(&self, family: FamilyId) {
        self.close_where(4401, "this login was ended", |socket| {
            socket.family == Some(family)
        });
    }

    /// Some revocations may have gone by unheard: asks of every login with an open socket.
    async fn end_missed(&self) {
        let families: HashSet<FamilyId> = self.sockets.iter().filter_map(|s| s.family).collect();
        for family in families {
            self.end_login_if_revoked(family).await;
        }
    }

    /// Asks whether a login with an open socket was ended, in case that went by unheard.
    /// A socket belongs to this login now. It may have ended between the look at its token and here, where no news of it would
    /// have found the socket.
    pub(super) fn is_of_login(&self, connection: ConnectionId, family: Option<FamilyId>) {
        if let Some(mut socket) = self.sockets.get_mut(&connection) {
            socket.family = family;
        }
        if let Some(family) = family {
            let rooms = self.clone();
            self.tasks
                .spawn(async move { rooms.end_login_if_revoked(family).await });
        }
    }

    async fn end_login_if_revoked(&self, family: FamilyId) {
        loop {
            match self.identity.is_revoked(family).await {
                Ok(true) => return self.end_login(family),
                Ok(false) => return,
                // Away again: not in a tight circle, and not given up.
                Err(error) => {
                    tracing::debug!(%error, "whether a login was ended is asked again");
                    tokio::time::sleep(RENEW_EVERY).await;
                }
            }
        }
    }

    fn close_where(&self, code: u16, reason: &str, which: impl Fn(&OpenSocket) -> bool) {
        for socket in &self.sockets {
            if which(&socket) {
                socket.connection.close(code, reason);
            }
        }
    }
}
