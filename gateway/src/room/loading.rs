//! How a room comes to life: its log followed, brought into agreement with the archive, and folded.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use atelier_shared::domain::ids::{Epoch, RoomId, Seq};
use atelier_shared::domain::room::Room;
use atelier_shared::domain::state::RoomState;
use atelier_shared::ports::{LogHead, Result};
use atelier_shared::recovery;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::actor::{Actor, HOUSEKEEPING, PeopleWrite};
use super::dialect::Spoken;
use super::document::DocumentCare;
use super::messages::Known;
use super::pending::Queue;
use super::registry::{Handle, Rooms, Shared};
use super::ring::{Feed, LatestValues, Ring};
use super::tried::Tried;
use super::yjs::awareness::Awareness;

impl Actor {
    /// Loads a room and starts its task.
    pub async fn start(rooms: Rooms, room: Room, mailbox: usize) -> Result<Handle> {
        let (actor, handle) = Self::load(rooms.clone(), room, mailbox).await?;
        rooms.metrics.rooms.inc();
        rooms.tasks.spawn(actor.run());
        let idle = watch_idle(rooms.clone(), handle.shared.id.clone());
        rooms.tasks.spawn(idle);
        Ok(handle)
    }

    /// Subscribes first, then brings log and archive into agreement, then folds.
    pub async fn load(rooms: Rooms, room: Room, mailbox: usize) -> Result<(Self, Handle)> {
        let b = &rooms.backends;
        let subscription = b.log.subscribe(&room.id).await?;
        let (head, state, applied) = load(&rooms, &room, None).await?;
        let members = b.presence.members(&room.id).await?;
        let (sender, receiver) = mpsc::channel(mailbox);
        let feed = Feed {
            ring: Ring::new(rooms.config.room_ring_bytes(), applied),
            latest: LatestValues::default(),
        };
        let shared = Arc::new(Shared::new(room.id.clone(), feed, head.epoch));
        let now = Instant::now();
        let mut actor = Self {
            shared: shared.clone(),
            head,
            applied,
            state,
            board: None,
            document: DocumentCare::default(),
            known: Known::default(),
            awareness: Awareness::default(),
            spoken: Spoken::default(),
            members: members
                .into_iter()
                .filter(|m| m.joined)
                .map(|m| (m.client_id.clone(), Box::new(m)))
                .collect(),
            locals: HashMap::new(),
            simulated: BTreeMap::new(),
            sockets: Vec::new(),
            mailbox: receiver,
            subscription,
            work: FuturesUnordered::new(),
            pending: Queue::default(),
            appending: false,
            batches: 0,
            document_askers: Vec::new(),
            writing_people: PeopleWrite::No,
            reading_roles: false,
            roles_changed_again: false,
            append_after: None,
            ahead: BTreeMap::new(),
            hole_since: None,
            repairing: false,
            activating: false,
            head_behind: false,
            draws: Vec::new(),
            draws_acked: 0,
            draw_window_until: now,
            signals: VecDeque::new(),
            publishing: false,
            challenges: Vec::new(),
            joining: HashMap::new(),
            told: (0, 0),
            urgent_end: 0,
            next_fan_out: now,
            people_due: now,
            next_housekeeping: now + HOUSEKEEPING,
            beats: 0,
            empty_since: Some(now),
            closed: false,
            ahead_of_us: Vec::new(),
            last_applied: None,
            forked: false,
            stored_ahead: Vec::new(),
            tried: Tried::default(),
            looks: 0,
            boards_owed: BTreeSet::new(),
            next_boards: now,
            room,
            rooms,
        };
        actor.document_loaded();
        let handle = Handle {
            mailbox: sender,
            shared,
        };
        Ok((actor, handle))
    }
}

/// A room that is opened and never written to leaves the hot store too.
async fn watch_idle(rooms: Rooms, room: RoomId) {
    let queue = &*rooms.backends.queue;
    if let Err(error) = recovery::watch_idle(queue, &room, recovery::IDLE_AFTER).await {
        tracing::debug!(%room, %error, "stays in the hot store until it is written to or opened again");
    }
}

/// Brings log and archive into agreement and folds the room's state.
pub async fn load(
    rooms: &Rooms,
    room: &Room,
    seen: Option<(Epoch, Seq)>,
) -> Result<(LogHead, RoomState, Seq)> {
    let b = &rooms.backends;
    let now_ms = chrono::Utc::now().timestamp_millis();
    let head = recovery::activate(
        &*b.log,
        &*b.archive,
        &room.id,
        seen,
        room.role_version,
        now_ms,
    )
    .await?;
    rooms.metrics.room_loads.inc();
    let (state, applied) = recovery::load(&*b.log, &*b.archive, &room.id, &head).await?;
    // If nobody can say now, the first beat asks again.
    rooms
        .profiles
        .look_up(state.chat.reactors().collect())
        .await;
    Ok((head, state, applied))
}
