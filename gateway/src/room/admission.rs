//! Coming in: a place in presence first, then the socket. Everything here happens before the upgrade is answered, so that
//! a refusal is an HTTP status.

use std::sync::Arc;
use std::time::Duration;

use atelier_shared::domain::ids::{ClientId, ConnectionId, Epoch, RoomId, Seq};
use atelier_shared::domain::names;
use atelier_shared::domain::presence::{Member, Status};
use atelier_shared::domain::room::{Role, Room};
use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::{Claim, PortError};
use bytes::Bytes;
use chrono::Utc;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::actor::{Command, Enter};
use super::coming::OnTheWay;
use super::connection::{Connection, Speaks};
use super::follower::Follower;
use super::outbound::Transport;
use super::registry::{Handle, OpenSocket, Rooms};
use super::session::Session;
use super::shared_socket::SharedSocket;
use crate::identity::Principal;
use crate::seats::Seat;

/// How long the holder of a client id has to show that it is alive.
pub const CHALLENGE: Duration = Duration::from_secs(2);

/// Looks at who else bears a name, and the pause between them.
pub const NAME_LOOKS: usize = 10;
pub const NAME_PAUSE: Duration = Duration::from_millis(50);

/// To whoever comes in the moment when a room's task ends.
pub const PUT_AWAY: &str = "come back: the room was just being put away";

/// Colours for people who bring none.
const PALETTE: [&str; 10] = [
    "#3B82F6", "#EF4444", "#10B981", "#F59E0B", "#8B5CF6", "#EC4899", "#06B6D4", "#84CC16",
    "#F97316", "#6366F1",
];

/// Somebody at the door, with the right to enter.
#[derive(Debug)]
pub struct Newcomer {
    pub room: Room,
    pub role: Role,
    pub principal: Principal,
    pub client_id: Option<ClientId>,
    /// The name to be joined under at once.
    pub name: Option<String>,
    pub color: Option<String>,
    pub avatar_url: Option<String>,
    /// One person at a time bears a name (the address of PROTOCOL.md that says so): a later `join` can't take somebody's.
    pub name_is_exclusive: bool,
    /// Came by a name there, of its own choice or its token's, which is to be its alone from the start.
    pub claims_name: bool,
    pub resume: Option<(Epoch, Seq)>,
    pub speaks: Speaks,
}

/// Why somebody with the right to enter does not get in.
#[derive(Debug, Error)]
pub enum AdmissionError {
    #[error("this client id is connected under another identity")]
    ClientIdHeld,
    #[error("this name is somebody else's")]
    NameHeld,
    #[error("this server is going away")]
    Draining,
    #[error(transparent)]
    Port(#[from] PortError),
}

/// A place in the room, waiting for its socket.
#[derive(Debug)]
pub struct Admission {
    rooms: Rooms,
    handle: Handle,
    member: Member,
    principal: Principal,
    room: Room,
    resume: Option<(Epoch, Seq)>,
    speaks: Speaks,
    /// Whose place in presence it took.
    replaces: Option<ConnectionId>,
    on_the_way: OnTheWay,
}

impl std::fmt::Debug for Rooms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rooms")
            .field("pod", &self.pod)
            .finish_non_exhaustive()
    }
}

impl Rooms {
    /// Takes the newcomer's place: replaces its own earlier connection, waits while somebody else's is asked for a sign of
    /// life (2 s).
    pub async fn admit(&self, newcomer: Newcomer) -> Result<Admission, AdmissionError> {
        if self.is_draining() {
            return Err(AdmissionError::Draining);
        }
        let Newcomer {
            room,
            role,
            principal,
            resume,
            ..
        } = &newcomer;
        let handle = self.open(room).await?;
        let mut member = self.member_of(&newcomer, *role);
        if member.avatar_url.is_none() {
            member.avatar_url = self.own_avatar(principal).await;
        }
        let on_the_way = OnTheWay::new(handle.shared.clone(), member.connection);
        if newcomer.claims_name
            && let Some(name) = &newcomer.name
        {
            self.claim_name(&handle, name, &newcomer).await?;
        }
        let mut placed = self.claim(&handle, room, &mut member).await;
        if let (Ok(replaces), true) = (&placed, newcomer.claims_name) {
            let replaces = *replaces;
            placed = self.settle_name(room, &member).await.map(|()| replaces);
        }
        if let (Err(_), true) = (&placed, newcomer.claims_name) {
            self.release_name(&member).await;
        }
        let replaces = placed?;
        Ok(Admission {
            rooms: self.clone(),
            handle,
            member,
            principal: principal.clone(),
            resume: *resume,
            room: newcomer.room,
            speaks: newcomer.speaks,
            replaces,
            on_the_way,
        })
    }

    /// The picture of an account or guest; a store that is away keeps nobody out for it.
    async fn own_avatar(&self, principal: &Principal) -> Option<String> {
        let profile = self.profiles.get(principal.row()?).await.ok()??;
        profile.avatar_url.clone()
    }

    fn member_of(&self, newcomer: &Newcomer, role: Role) -> Member {
        let connection = ConnectionId::generate();
        let client_id = newcomer
            .client_id
            .clone()
            .unwrap_or_else(ClientId::generate);
        let spread = hash(client_id.as_str());
        let made_up = || names::made_up(spread);
        let color = color_of(&client_id);
        Member {
            connection,
            pod: self.pod,
            user_id: newcomer.principal.user_id,
            name: newcomer.name.clone().unwrap_or_else(made_up),
            color: newcomer.color.clone().unwrap_or_else(|| color.to_owned()),
            avatar_url: newcomer.avatar_url.clone(),
            role,
            status: Status::Active,
            simulated: false,
            joined: newcomer.name.is_some(),
            cursor_position: None,
            selection: None,
            viewing: None,
            name_is_exclusive: newcomer.name_is_exclusive,
            client_id,
        }
    }

    /// Takes the place in presence; whose it was, if somebody made way.
    async fn claim(
        &self,
        handle: &Handle,
        room: &Room,
        member: &mut Member,
    ) -> Result<Option<ConnectionId>, AdmissionError> {
        let presence = &self.backends.presence;
        let mut take_over = None;
        loop {
            let claim = presence.enter(&room.id, member, take_over).await?;
            self.people_changed();
            match claim {
                Claim::Entered => return Ok(None),
                Claim::Replaced(old) => {
                    if old.user_id == member.user_id && old.joined && !member.joined {
                        // The same person again: others need not see it leave and come.
                        *member = Member {
                            connection: member.connection,
                            pod: member.pod,
                            role: member.role,
                            ..(*old).clone()
                        };
                        presence.update(&room.id, member).await?;
                    }
                    let connection = old.connection;
                    let replaced = Signal::Replaced { connection };
                    self.backends.log.publish(&room.id, &replaced).await?;
                    if old.user_id != member.user_id && old.joined && !member.joined {
                        // Who comes has nothing to tell the others yet: they must hear that the other is gone.
                        self.tell_left(&room.id, &member.client_id, connection, Some("replaced"))
                            .await?;
                    }
                    return Ok(Some(connection));
                }
                Claim::Held(holder) => {
                    let held = take_over == Some(holder.connection);
                    if held || self.is_alive(handle, holder.connection).await {
                        return Err(AdmissionError::ClientIdHeld);
                    }
                    take_over = Some(holder.connection);
                }
            }
        }
    }

    async fn is_alive(&self, handle: &Handle, connection: ConnectionId) -> bool {
        let (reply, answer) = oneshot::channel();
        let challenge = Command::Challenge { connection, reply };
        if handle.mailbox.send(challenge).await.is_err() {
            return false;
        }
        matches!(tokio::time::timeout(CHALLENGE, answer).await, Ok(Ok(())))
    }

    /// Of two who came at the same moment under one name, one gives way: whoever sees the other and came by the later
    /// connection at once, the earlier one if the other is still there after a while (it had looked before we came).
    async fn settle_name(&self, room: &Room, member: &Member) -> Result<(), AdmissionError> {
        let key = names::key(&member.name);
        for _ in 0..NAME_LOOKS {
            let members = self.backends.presence.members(&room.id).await?;
            let rival = members.into_iter().find(|other| {
                other.joined && other.user_id != member.user_id && names::key(&other.name) == key
            });
            let Some(rival) = rival else { return Ok(()) };
            if rival.connection < member.connection {
                break;
            }
            tokio::time::sleep(NAME_PAUSE).await;
        }
        let (client_id, connection) = (&member.client_id, member.connection);
        let presence = &self.backends.presence;
        presence.leave(&room.id, client_id, connection).await?;
        self.people_changed();
        Err(AdmissionError::NameHeld)
    }

    /// The same principal's earlier connection under this name makes way, and so does somebody's who shows no sign of life
    /// (2 s); anybody else's keeps it.
    async fn claim_name(
        &self,
        handle: &Handle,
        name: &str,
        newcomer: &Newcomer,
    ) -> Result<(), AdmissionError> {
        let (room, principal) = (&newcomer.room.id, &newcomer.principal);
        let key = names::key(name);
        let presence = &self.backends.presence;
        let bears = |member: &Member| member.joined && names::key(&member.name) == key;
        let is_rival = |member: &Member| bears(member) && member.user_id != principal.user_id;
        let mut members = presence.members(room).await?;
        if members.iter().any(is_rival) {
            // It may be leaving at this moment: a page that reloads does not know who it was.
            tokio::time::sleep(NAME_PAUSE).await;
            members = presence.members(room).await?;
        }
        for member in members.into_iter().filter(bears) {
            let own = member.user_id == principal.user_id;
            let same_client = newcomer.client_id.as_ref() == Some(&member.client_id);
            if own && (same_client || !member.name_is_exclusive) {
                // The same client takes its own place (others need not see it leave and come); and where names are labels
                // one person may have several tabs.
                continue;
            }
            if !own && self.is_alive(handle, member.connection).await {
                return Err(AdmissionError::NameHeld);
            }
            self.make_way(room, &member).await?;
        }
        self.claim_name_everywhere(name, principal.user_id).await
    }

    /// Takes a member out whose place or name is somebody's now.
    pub async fn make_way(&self, room: &RoomId, member: &Member) -> Result<(), PortError> {
        let connection = member.connection;
        let (presence, log) = (&self.backends.presence, &self.backends.log);
        if presence.leave(room, &member.client_id, connection).await? {
            self.people_changed();
            log.publish(room, &Signal::Replaced { connection }).await?;
            self.tell_left(room, &member.client_id, connection, Some("replaced"))
                .await?;
        }
        self.release_name(member).await;
        Ok(())
    }

    /// Presence has let go of this connection: its visit ends, if there is one, and every pod hears of it.
    pub async fn tell_left(
        &self,
        room: &RoomId,
        client_id: &ClientId,
        connection: ConnectionId,
        reason: Option<&str>,
    ) -> Result<(), PortError> {
        self.visits.end(room, client_id, reason);
        let left = Signal::Left {
            client_id: client_id.clone(),
            connection,
            reason: reason.map(str::to_owned),
        };
        self.backends.log.publish(room, &left).await
    }
}

impl Admission {
    /// The socket came: starts the connection's own task. `early` = bytes that came behind the handshake.
    ///
    /// A task of its own, so that what the handshake needed is not carried along for the connection's life.
    pub async fn connect(self, stream: TcpStream, seat: Seat, early: Bytes) {
        let (rooms, handle) = (self.rooms.clone(), self.handle.clone());
        let connection = self.enter(Transport::Own(stream, Some(seat))).await;
        let session = Session::new(rooms.clone(), handle, connection);
        rooms.tasks.spawn(session.run(early));
    }

    /// Takes the place in the room, with a part of a socket that other rooms use too.
    pub async fn share(self, socket: &Arc<SharedSocket>) -> Follower {
        let (rooms, handle) = (self.rooms.clone(), self.handle.clone());
        let connection = self.enter(Transport::Shared(socket.clone())).await;
        Follower {
            rooms,
            handle,
            connection,
        }
    }

    /// Takes the place in the room, with a socket of its own or a part of one.
    async fn enter(self, transport: Transport) -> Arc<Connection> {
        let Self {
            rooms,
            handle,
            member,
            principal,
            room,
            resume,
            speaks,
            replaces,
            on_the_way,
        } = self;
        let (now_ms, family) = (Utc::now().timestamp_millis(), principal.family);
        let connection = Connection::new(
            member.connection,
            member.client_id.clone(),
            member.user_id,
            speaks,
            transport,
            now_ms,
        );
        let socket = OpenSocket {
            connection: connection.clone(),
            user_id: member.user_id,
            family: None,
        };
        rooms.sockets.insert(connection.id, socket);
        rooms.metrics.connections.inc();
        rooms.metrics.connections_total.inc();
        if rooms.is_draining() {
            connection.close(4503, "this server is going away; come back to another");
        }
        let enter = Command::Enter(Box::new(Enter {
            connection: connection.clone(),
            member,
            principal,
            room,
            resume,
            replaces,
            on_the_way,
        }));
        if handle.mailbox.send(enter).await.is_err() {
            // The room's task ended between admission and upgrade.
            connection.close(1012, PUT_AWAY);
        }
        rooms.is_of_login(connection.id, family);
        connection
    }

    /// The upgrade failed: gives the place back.
    pub async fn abandon(self) {
        let (client_id, connection) = (&self.member.client_id, self.member.connection);
        leave_presence(&self.rooms, &self.handle, client_id, connection).await;
        if let Some(before) = self.replaces {
            // The others know the client by the connection that made way for this one.
            let room = &self.handle.shared.id;
            let told = self.rooms.tell_left(room, client_id, before, None).await;
            untold(room, told);
        }
        self.rooms.release_name(&self.member).await;
    }
}

/// The room's task did not take the leave: presence must not keep a ghost.
pub async fn leave_presence(
    rooms: &Rooms,
    handle: &Handle,
    client_id: &ClientId,
    connection: ConnectionId,
) {
    let room = &handle.shared.id;
    let left = rooms.backends.presence.leave(room, client_id, connection);
    match left.await {
        Ok(true) => {
            rooms.people_changed();
            let told = rooms.tell_left(room, client_id, connection, None).await;
            untold(room, told);
        }
        Ok(false) => {}
        Err(error) => tracing::debug!(%room, %error, "a leave is left to the lease"),
    }
}

fn untold(room: &RoomId, told: Result<(), PortError>) {
    if let Err(error) = told {
        tracing::debug!(%room, %error, "a leave was not told; presence repairs it");
    }
}

/// Spread by the id's own randomness; the same client keeps its colour.
pub fn color_of(client_id: &ClientId) -> &'static str {
    let spread = hash(client_id.as_str());
    PALETTE[usize::try_from(spread % PALETTE.len() as u64).unwrap_or(0)]
}

fn hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
