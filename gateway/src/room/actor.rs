//! One task owns one room on this pod: it takes commands and deliveries, and decides when the fan-out writes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use atelier_shared::domain::entry::{Entry, Record};
use atelier_shared::domain::ids::{ClientId, ConnectionId, Epoch, Seq};
use atelier_shared::domain::presence::Member;
use atelier_shared::domain::room::Room;
use atelier_shared::domain::signal::Signal;
use atelier_shared::domain::state::RoomState;
use atelier_shared::ports::{Delivery, LogHead, Subscription};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio::time::Instant;

use super::admission::PUT_AWAY;
pub use super::command::{Command, Enter};
use super::connection::Connection;
use super::dialect::Spoken;
use super::document::{DocumentAsker, DocumentCare};
pub use super::done::{Done, People};
use super::epoch::LastApplied;
use super::json::incoming::{Durable, Ephemeral, Run, StandingChange};
use super::messages::Known;
use super::pending::Queue;
use super::registry::{Rooms, Shared};
use super::tried::Tried;
use super::yjs;
use super::yjs::awareness::Awareness;
use crate::identity::Principal;

/// Commands or deliveries taken in one go before the fan-out gets its turn.
const TAKE_AT_ONCE: usize = 256;
/// How often a room looks after its connections, its people and its log.
pub const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// A room without connections stays loaded for so long.
pub const LINGER: Duration = Duration::from_secs(30);

/// A connection as its room sees it.
#[derive(Debug)]
pub struct Local {
    pub connection: Arc<Connection>,
    pub member: Member,
    pub principal: Principal,
    /// Told that its token runs out.
    pub warned: bool,
    /// Told that it is about to be closed for its silence.
    pub warned_stale: bool,
    /// Silent for so long that others were told it left; it comes back with its next message.
    pub dropped: bool,
    /// What others see of it changed and is not in presence yet.
    pub changed: bool,
    pub pinged_ms: i64,
    /// What it has shown of itself, in a binary dialect.
    pub seen: yjs::Seen,
    /// One of its messages is being looked into; those behind it wait, so that their order stays.
    pub busy: bool,
    pub held: VecDeque<Submission>,
    /// It has gone while it was busy: it leaves when those that wait are through.
    pub parting: Option<Parting>,
    /// Counted as a client that is back.
    pub came_back: bool,
}

/// How somebody goes whose last messages are still to be carried out.
#[derive(Debug, Clone, Copy)]
pub struct Parting {
    /// Its own principal came again and has its place.
    pub replaced: bool,
    /// Beats that it has been waited for.
    pub beats: u8,
}

/// A durable message as it waits for its turn.
#[derive(Debug)]
pub enum Submission {
    Write(Box<Durable>),
    Standing(StandingChange),
    Run(Box<Run>),
}

/// Somebody resumes behind what this pod has applied: another pod was quicker.
#[derive(Debug, Clone, Copy)]
pub struct AheadOfUs {
    pub connection: ConnectionId,
    pub epoch: Epoch,
    pub seq: Seq,
    /// The log was looked at so often before: what those looks saw says nothing of what this one knows.
    pub looks_before: u64,
}

/// The drawing at one seq, encoded once for however many join.
#[derive(Debug)]
pub struct BoardSnapshot {
    pub seq: Seq,
    pub drawing: atelier_shared::domain::board::Drawing,
    pub frames: OnceCell<Vec<Bytes>>,
}

/// Whether changed members are on their way to presence.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PeopleWrite {
    No,
    Now,
    /// And somebody asked for another write meanwhile.
    Again,
}

pub struct Actor {
    pub rooms: Rooms,
    pub room: Room,
    pub shared: Arc<Shared>,
    pub head: LogHead,
    /// All up to here is folded into `state` and pushed to the ring (or held for the drawing window).
    pub applied: Seq,
    pub state: RoomState,
    pub board: Option<Arc<BoardSnapshot>>,
    pub document: DocumentCare,
    pub known: Known,
    pub awareness: Awareness,
    /// What the connections here speak.
    pub spoken: Spoken,
    /// Everybody who has joined, on any pod.
    pub members: BTreeMap<ClientId, Box<Member>>,
    pub locals: HashMap<ConnectionId, Box<Local>>,
    /// Simulated people of this pod.
    pub simulated: BTreeMap<ConnectionId, Member>,
    /// The sockets in fan-out order.
    pub sockets: Vec<Arc<Connection>>,
    pub mailbox: mpsc::Receiver<Command>,
    pub subscription: Subscription,
    pub work: FuturesUnordered<BoxFuture<'static, Done>>,
    pub pending: Queue,
    pub appending: bool,
    /// Batches that were begun.
    pub batches: u64,
    /// Asked for the document right behind edits of their own.
    pub document_askers: Vec<DocumentAsker>,
    pub writing_people: PeopleWrite,
    pub reading_roles: bool,
    /// Roles changed while they were being read.
    pub roles_changed_again: bool,
    /// No append before this: the store was away.
    pub append_after: Option<Instant>,
    /// Entries that came before their predecessors.
    pub ahead: BTreeMap<Seq, Entry>,
    pub hole_since: Option<Instant>,
    pub repairing: bool,
    pub activating: bool,
    pub head_behind: bool,
    /// Draws of the present window, in seq order.
    pub draws: Vec<Entry>,
    pub draws_acked: usize,
    pub draw_window_until: Instant,
    /// Signals to other pods: in order, and the latest of each ephemeral kind.
    pub signals: VecDeque<Signal>,
    pub publishing: bool,
    pub challenges: Vec<(ConnectionId, oneshot::Sender<()>)>,
    /// Who waits for the name that it wants to join under, and the latest of each kind that it has shown meanwhile: others
    /// see it behind the join.
    pub joining: HashMap<ConnectionId, Vec<Ephemeral>>,
    /// The ring's end and the latest version at the last fan-out.
    pub told: (u64, u64),
    /// The ring's end behind the last frame that does not wait for company.
    pub urgent_end: u64,
    /// No fan-out before this: the room is hot.
    pub next_fan_out: Instant,
    /// No fan-out before this only to tell who came and went.
    pub people_due: Instant,
    pub next_housekeeping: Instant,
    pub beats: u64,
    pub empty_since: Option<Instant>,
    pub closed: bool,
    /// Connections that know more than this pod does yet, and wait for it to read on.
    pub ahead_of_us: Vec<AheadOfUs>,
    pub last_applied: Option<LastApplied>,
    /// The log went another way than what was told here: it needs a new epoch.
    pub forked: bool,
    /// Resends that are stored further on than this pod knows: acknowledged when it is there.
    pub stored_ahead: Vec<(Seq, Record)>,
    /// Records whose append failed and is tried again.
    pub tried: Tried,
    /// How often the log's head was looked at.
    pub looks: u64,
    /// Sent a draw again that lost against what they may not know: to be shown the board.
    pub boards_owed: BTreeSet<ConnectionId>,
    /// No such board before this.
    pub next_boards: Instant,
}

impl Actor {
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn keeps its arguments twice, and every open room pays for its task's size"
    )]
    pub fn run(mut self) -> impl Future<Output = ()> + Send {
        async move {
            loop {
                let due = self.next_due();
                tokio::select! {
                    command = self.mailbox.recv() => match command {
                        Some(command) => self.command(command),
                        None => break,
                    },
                    delivery = self.subscription.next() => match delivery {
                        Some(delivery) => self.delivery(delivery),
                        None => {
                            self.close_all(4503, "this server is going away");
                            break;
                        }
                    },
                    Some(done) = self.work.next(), if !self.work.is_empty() => self.finish(done),
                    () = tokio::time::sleep_until(due) => {}
                }
                if self.has_news() || !(self.appending || self.pending.is_empty()) {
                    // Whoever else is ready has its turn first, and what it brings joins this append and this write: a room's
                    // task would otherwise run right behind the first of several who sent at the same time.
                    tokio::task::yield_now().await;
                }
                self.take_what_waits();
                self.begin_those_we_caught_up_with();
                self.acknowledge_those_we_caught_up_with();
                self.answer_for_documents();
                let now = Instant::now();
                if now >= self.next_housekeeping {
                    self.next_housekeeping = now + HOUSEKEEPING;
                    self.keep_house(now);
                    self.shared.feed.write().latest.hasten();
                }
                self.start_append(now);
                self.repair_holes(now);
                self.release_draws(now);
                self.show_boards(now);
                self.start_publishing();
                if self.has_news() && now >= self.next_fan_out {
                    self.fan_out().await;
                }
                if self.is_over(now) {
                    break;
                }
            }
            // Boxed: else the task would be as large again for its last moment.
            Box::pin(self.end()).await;
        }
    }

    fn take_what_waits(&mut self) {
        for _ in 0..TAKE_AT_ONCE {
            let Ok(command) = self.mailbox.try_recv() else {
                break;
            };
            self.command(command);
        }
        for _ in 0..TAKE_AT_ONCE {
            let Ok(delivery) = self.subscription.receiver.try_recv() else {
                break;
            };
            self.delivery(delivery);
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Enter(enter) => self.enter(*enter),
            Command::Leave { connection } => self.leave(connection),
            Command::Join { connection, join } => {
                self.join(connection, *join);
            }
            Command::Resume {
                connection,
                epoch,
                seq,
                shown,
            } => {
                if self.is_shown_to_be(connection, shown) {
                    self.resume(connection, epoch, seq);
                }
            }
            Command::Renewed {
                connection,
                principal,
            } => {
                if let Some(local) = self.locals.get_mut(&connection) {
                    local.principal = *principal;
                    local.warned = false;
                }
            }
            Command::Ephemeral { connection, value } => self.ephemeral(connection, *value),
            Command::Durable {
                connection,
                message,
            } => self.submit(connection, Submission::Write(message)),
            Command::Standing { connection, change } => {
                self.submit(connection, Submission::Standing(change));
            }
            Command::Run { connection, run } => self.submit(connection, Submission::Run(run)),
            Command::Simulate { count, reply } => self.simulate(count, reply),
            Command::EndSimulated => self.end_all_simulated(),
            Command::Chat { reply } => {
                let _ = reply.send(self.state.chat.clone());
            }
            Command::NotOutdone {
                page,
                connection,
                reply,
            } => drop(reply.send(self.replayed(page, connection))),
            Command::Users { connection } => self.send_users(connection),
            Command::Awareness {
                connection,
                shown,
                may_echo,
            } => self.awareness(connection, shown, may_echo),
            Command::QueryAwareness { connection } => self.tell_awareness(connection),
            Command::Stateless {
                connection,
                payload,
            } => {
                self.stateless(Some(connection), &payload);
                let pod = self.rooms.pod;
                self.signal_others(Signal::Stateless { pod, payload });
            }
            Command::Scope { connection } => self.tell_scope(connection),
            Command::Document { asker, reply } => self.asked_for_document(asker, reply),
            Command::Counted { then, levels } => self.document_counted(then, levels),
            Command::Members { reply } => {
                let members = self.members.values().map(|m| (**m).clone());
                let _ = reply.send(members.collect());
            }
            Command::Challenge { connection, reply } => self.challenge(connection, reply),
            Command::Alive { connection } => self.signals.push_back(Signal::Alive { connection }),
            Command::LookWhoIsHere => self.refresh_people(),
        }
    }

    pub fn delivery(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Entries { epoch, entries } if epoch == self.head.epoch => {
                for entry in entries {
                    self.receive(entry);
                }
            }
            Delivery::Entries { epoch, .. } => {
                if epoch > self.head.epoch {
                    self.activate();
                }
            }
            Delivery::Signal(signal) => self.signal(*signal),
            Delivery::Gap => {
                self.rooms.metrics.gaps.inc();
                self.look_at_last();
                // What the log has beyond us is not on its way: it went by unheard.
                self.head_behind = true;
                self.verify();
                self.refresh_people();
                self.ask_for_awareness();
            }
        }
    }

    pub fn finish(&mut self, done: Done) {
        match done {
            Done::Appended {
                epoch,
                batch,
                result,
            } => self.appended(epoch, batch, result),
            Done::Repaired { epoch, read } => self.repaired(epoch, read),
            Done::Looked(looked) => self.verified(looked),
            Done::LastRead { epoch, last, there } => self.last_read(epoch, &last, there.as_deref()),
            Done::Activated(result) => self.activated(result),
            Done::People(Ok(people)) => self.compare_people(people),
            Done::PeopleWritten { unwritten } => self.people_written(&unwritten),
            Done::PeopleEntered(connections) => {
                self.mark_changed(&connections);
                self.write_changed();
            }
            Done::Roles(read) => self.roles_read(read),
            Done::Published => self.publishing = false,
            Done::Merged { merge, merged } => self.merged(&merge, merged),
            Done::DocumentRead(read) => self.document_read(read),
            Done::NameAsked(asked) => self.name_asked(*asked),
            Done::Found(found) => self.found(found),
            Done::Submitted {
                connection,
                reference,
                epoch,
                told,
            } => self.carried_out(connection, reference, epoch, told),
            Done::Again {
                connection,
                epoch,
                ack,
            } => self.found_again(connection, epoch, ack),
            Done::People(Err(error)) => {
                tracing::debug!(room = %self.room.id, %error, "will be tried again");
            }
            Done::Nothing => {}
        }
    }

    /// When the task must wake although nothing comes in.
    fn next_due(&self) -> Instant {
        let mut due = self.next_housekeeping;
        if let Some(news) = self.news_due() {
            due = due.min(news);
        }
        if !self.draws.is_empty() {
            due = due.min(self.draw_window_until);
        }
        if !self.boards_owed.is_empty() {
            due = due.min(self.next_boards);
        }
        if let (Some(since), false) = (self.hole_since, self.repairing) {
            due = due.min(since + super::epoch::HOLE_PATIENCE);
        }
        if let (Some(after), false) = (self.append_after, self.appending) {
            due = due.min(after);
        }
        due
    }

    /// Somebody came, or the last one left: the cleanup counts from here.
    pub fn touch(&self) {
        let (backends, room) = (self.rooms.backends.clone(), self.room.id.clone());
        self.rooms.tasks.spawn(async move {
            if let Err(error) = backends.records.touch_room(&room, chrono::Utc::now()).await {
                tracing::warn!(%room, %error, "a room's last activity was not noted");
            }
        });
    }

    pub fn is_over(&mut self, now: Instant) -> bool {
        let stopping = self.closed || self.rooms.stop.is_cancelled();
        if !self.locals.is_empty() || !(stopping || self.simulated.is_empty()) {
            self.empty_since = None;
            return false;
        }
        if self.empty_since.is_none() {
            self.touch();
        }
        let since = *self.empty_since.get_or_insert(now);
        let lingers = !stopping && (now < since + LINGER || !self.shared.coming.is_empty());
        !lingers && self.pending.is_empty() && !self.appending
    }

    /// Closes the mailbox, so that `Rooms::open` starts another task; who came in the last moment is sent there.
    async fn end(mut self) {
        self.mailbox.close();
        self.end_all_simulated();
        self.rooms.ended(&self.room.id);
        while let Some(command) = self.mailbox.recv().await {
            if let Command::Enter(enter) = command {
                enter.connection.close(1012, PUT_AWAY);
            }
        }
        self.rooms.metrics.rooms.dec();
    }

    pub fn close_all(&mut self, code: u16, reason: &str) {
        for local in self.locals.values() {
            local.connection.close(code, reason);
        }
        self.end_all_simulated();
        self.closed = true;
    }
}
