//! Simulated people, for load tests: members like others, that move their cursors, but without sockets. They live where they
//! were made, and end with their room's task or their pod.

use atelier_shared::domain::ids::{ClientId, ConnectionId, UserId};
use atelier_shared::domain::presence::{Member, Status};
use atelier_shared::domain::room::{Role, Room};
use atelier_shared::domain::signal::Signal;
use atelier_shared::ports::{PortError, Result};
use futures::{FutureExt, StreamExt, stream};
use rand::Rng;
use serde_json::json;
use tokio::sync::oneshot;

use super::actor::{Actor, Command, Done};
use super::admission::color_of;
use super::json::incoming::Ephemeral;
use super::registry::Rooms;

/// Writes to presence at once.
const WRITES_AT_ONCE: usize = 32;
/// Where cursors move: characters of an imagined document.
const POSITIONS: u32 = 10_000;

impl Rooms {
    /// Puts so many simulated people into a room; returns when everybody's presence knows them.
    pub async fn simulate(&self, room: &Room, count: usize) -> Result<()> {
        let handle = self.open(room).await?;
        let (reply, answer) = oneshot::channel();
        let gone = || PortError::retry("simulate people", "the room was just being put away");
        let simulate = Command::Simulate { count, reply };
        handle.mailbox.send(simulate).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Takes a simulated person out of a room, whichever pod they are of. False: they had left.
    pub async fn end_simulated(&self, room: &Room, member: &Member) -> Result<bool> {
        let (client_id, connection) = (&member.client_id, member.connection);
        let left = self
            .backends
            .presence
            .leave(&room.id, client_id, connection)
            .await?;
        if left {
            self.people_changed();
            self.visits.end(&room.id, client_id, None);
            self.backends
                .log
                .publish(&room.id, &left_signal(member))
                .await?;
        }
        Ok(left)
    }
}

fn left_signal(member: &Member) -> Signal {
    Signal::Left {
        client_id: member.client_id.clone(),
        connection: member.connection,
        reason: None,
    }
}

impl Actor {
    pub fn simulate(&mut self, count: usize, reply: oneshot::Sender<Result<()>>) {
        let mut new = Vec::with_capacity(count);
        for _ in 0..count {
            let client_id = ClientId::generate();
            let member = Member {
                connection: ConnectionId::generate(),
                pod: self.rooms.pod,
                user_id: UserId::generate(),
                name: format!("Simulated {}", rand::rng().random_range(1..100_000)),
                color: color_of(&client_id).to_owned(),
                avatar_url: None,
                role: Role::Editor,
                status: Status::Active,
                simulated: true,
                joined: true,
                cursor_position: None,
                selection: None,
                viewing: None,
                name_is_exclusive: false,
                client_id,
            };
            self.simulated.insert(member.connection, member.clone());
            self.present(member.clone(), None);
            self.visit_begins(&member);
            self.signal_others(Signal::Present {
                member: Box::new(member.clone()),
            });
            new.push(member);
        }
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let enter = async move {
            let enter = |member: Member| {
                let (rooms, room) = (rooms.clone(), room.clone());
                async move {
                    let entered = rooms.backends.presence.enter(&room, &member, None).await;
                    rooms.people_changed();
                    entered
                }
            };
            let mut answers = stream::iter(new)
                .map(enter)
                .buffer_unordered(WRITES_AT_ONCE);
            let mut entered = Ok(());
            while let Some(answer) = answers.next().await {
                entered = entered.and(answer.map(drop));
            }
            let _ = reply.send(entered);
            Done::Nothing
        };
        self.work.push(enter.boxed());
    }

    /// Each moves every other beat or so.
    pub fn move_simulated(&mut self) {
        let mut rng = rand::rng();
        let mut moved: Vec<ConnectionId> = self.simulated.keys().copied().collect();
        moved.retain(|_| rng.random_bool(0.5));
        for id in moved {
            let position = rng.random_range(0..POSITIONS);
            let Some(mut member) = self.simulated.get(&id).cloned() else {
                continue;
            };
            let value = Ephemeral::Cursor {
                position: json!(position),
                name: None,
                color: None,
            };
            let kind = value.kind();
            let message = super::signals::show(&mut member, value);
            self.tell_latest(&member, kind, message, None);
            self.simulated.insert(id, member);
        }
    }

    /// They leave: the room is closed, or this pod stops.
    pub fn end_all_simulated(&mut self) {
        let ended: Vec<Member> = std::mem::take(&mut self.simulated).into_values().collect();
        if ended.is_empty() {
            return;
        }
        for member in &ended {
            self.gone(&member.client_id, member.connection, None);
        }
        let (rooms, room) = (self.rooms.clone(), self.room.id.clone());
        let here = rooms.clone();
        let noted = self.notes_visits();
        rooms.tasks.spawn(async move {
            let leave = |member: Member| {
                let (here, b, room) = (&here, &here.backends, &room);
                async move {
                    let (client_id, connection) = (&member.client_id, member.connection);
                    if b.presence.leave(room, client_id, connection).await? {
                        here.people_changed();
                        if noted {
                            here.visits.end(room, client_id, None);
                        }
                        b.log.publish(room, &left_signal(&member)).await?;
                    }
                    Ok::<(), PortError>(())
                }
            };
            let mut left = stream::iter(ended)
                .map(leave)
                .buffer_unordered(WRITES_AT_ONCE);
            while let Some(result) = left.next().await {
                if let Err(error) = result {
                    tracing::debug!(%room, %error, "a simulated person is left to the lease");
                }
            }
        });
    }
}
