//! The same rooms on Atelier and on stock servers from npm: CPU time for each delivery at a steady pace and in a burst, and
//! latency between two servers.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::Settings;
use crate::load::{Crowd, Dialect, Message, Pace, Shape};
use crate::peers::Peer;
use crate::process::{OnLoadCore, SERVER_CORE};
use crate::report::Section;
use crate::server::{self, Server};

const SHAPE: Shape = Shape {
    rooms: 10,
    people: 100,
    senders: 4,
};
const STEADY: Pace = Pace::Steady(10);
const WARM_UP: Duration = Duration::from_millis(500);
/// Servers ping every half minute and wait as long for an answer, which comes when a contestant has its turn.
const TURN_MOST: Duration = Duration::from_secs(3);
/// Turns of each contestant; there are many of them.
const REPETITIONS_MOST: usize = 3;

const BETWEEN: Shape = Shape {
    rooms: 5,
    people: 4,
    senders: 4,
};
/// Messages a second in each room, between two servers.
const BETWEEN_PACE: Pace = Pace::Steady(20);

/// A server, or several that share their rooms, with a crowd.
struct Contestant {
    name: String,
    servers: Vec<Server>,
    crowd: Crowd,
    message: Message,
}

impl Contestant {
    fn new(
        name: impl Into<String>,
        servers: Vec<Server>,
        shape: Shape,
        dialect: Dialect,
        message: Message,
    ) -> Result<Self> {
        // Rooms that no other contestant over the same stores has: what is typed again is no news.
        let group = if servers.len() == 1 {
            "peers"
        } else {
            "between"
        };
        let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
        let crowd = Crowd::enter(&addresses, shape, dialect, group)?;
        Ok(Self {
            name: name.into(),
            servers,
            crowd,
            message,
        })
    }
}

pub fn measure(settings: &Settings) -> Result<Vec<Section>> {
    let peers: Vec<Peer> = Peer::ALL
        .into_iter()
        .filter(|peer| peer.is_installed())
        .collect();
    let stores = server::stores()?;
    if let Some(stores) = &stores {
        server::migrate(stores)?;
    } else {
        crate::say("other servers run without Redis: REDIS_URL is not set");
    }
    let mut sections = fan_out(settings, &peers, stores.as_deref())?;
    if let Some(stores) = &stores {
        sections.extend(between(settings, &peers, stores)?);
    }
    Ok(sections)
}

type Stores = [(&'static str, String)];

fn fan_out(settings: &Settings, peers: &[Peer], stores: Option<&Stores>) -> Result<Vec<Section>> {
    let redis = std::env::var("REDIS_URL").ok().filter(|_| stores.is_some());
    let _core = OnLoadCore::enter()?;
    let ours = |name, server, dialect, message| {
        Contestant::new(name, vec![server], SHAPE, dialect, message)
    };
    let mut contestants = vec![
        ours(
            "atelier, /yjs",
            server::embedded()?,
            Dialect::Yjs,
            Message::Typed,
        )?,
        ours(
            "atelier, /hocuspocus",
            server::embedded()?,
            Dialect::Hocuspocus,
            Message::Typed,
        )?,
        ours(
            "atelier, chat_message",
            server::embedded()?,
            Dialect::Json,
            Message::Chat,
        )?,
    ];
    if let Some(stores) = stores {
        let gateway = server::gateway_on_core(stores)?;
        let name = "atelier gateway over Redis, /yjs";
        contestants.push(ours(name, gateway, Dialect::Yjs, Message::Typed)?);
    }
    for peer in peers {
        let server = peer.start(redis.as_deref(), Some(SERVER_CORE))?;
        contestants.push(Contestant::new(
            peer.name(redis.as_deref()),
            vec![server],
            SHAPE,
            peer.dialect(),
            Message::Typed,
        )?);
    }
    for contestant in &mut contestants {
        contestant.crowd.sleepless = true;
    }
    let paces = [
        (STEADY, settings.paced(), "paced, 10 messages/s a room"),
        (
            Pace::InFlight,
            settings.burst(),
            "burst, 4 in flight a room",
        ),
    ];
    let mut sections = Vec::new();
    for (pace, duration, title) in paces {
        let title = format!(
            "beside other servers, {title}: {} rooms x {}",
            SHAPE.rooms, SHAPE.people
        );
        let duration = duration.min(TURN_MOST);
        sections.push(phase(settings, title, pace, duration, &mut contestants)?);
    }
    Ok(sections)
}

fn phase(
    settings: &Settings,
    title: String,
    pace: Pace,
    duration: Duration,
    contestants: &mut [Contestant],
) -> Result<Section> {
    let names: Vec<&str> = contestants.iter().map(|c| c.name.as_str()).collect();
    let mut section = Section::new(title, "CPU us/delivery", &names);
    for contestant in contestants.iter_mut() {
        contestant.crowd.wake()?;
        let warm = contestant.crowd.run(contestant.message, pace, WARM_UP);
        warm.with_context(|| contestant.name.clone())?;
    }
    for _ in 0..settings.repetitions.min(REPETITIONS_MOST) {
        for (row, contestant) in section.rows.iter_mut().zip(contestants.iter_mut()) {
            contestant.crowd.wake()?;
            let process = &contestant.servers[0].process;
            let before = process.cpu_time()?;
            let run = contestant.crowd.run(contestant.message, pace, duration);
            let run = run.with_context(|| contestant.name.clone())?;
            let spent_us = process.cpu_time()?.since_ns(&before) as f64 / 1_000.0;
            let delivered = run.delivered as f64;
            row.push(
                spent_us / delivered,
                &[
                    ("p50 us", run.latency.percentile_us(0.5)),
                    ("p99 us", run.latency.percentile_us(0.99)),
                    ("deliveries/s", delivered / duration.as_secs_f64()),
                ],
            );
        }
    }
    Ok(section)
}

/// From a client of one server to a client of another.
fn between(settings: &Settings, peers: &[Peer], stores: &Stores) -> Result<Vec<Section>> {
    let redis = std::env::var("REDIS_URL")?;
    let gateways =
        || -> Result<Vec<Server>> { Ok(vec![server::gateway(stores)?, server::gateway(stores)?]) };
    let ours =
        |name, dialect, message| Contestant::new(name, gateways()?, BETWEEN, dialect, message);
    let mut contestants = vec![
        ours("atelier, /yjs", Dialect::Yjs, Message::Typed)?,
        ours("atelier, chat_message", Dialect::Json, Message::Chat)?,
    ];
    for peer in peers.iter().filter(|peer| peer.scales()) {
        let servers = vec![
            peer.start(Some(&redis), None)?,
            peer.start(Some(&redis), None)?,
        ];
        let name = peer.name(Some(&redis));
        contestants.push(Contestant::new(
            name,
            servers,
            BETWEEN,
            peer.dialect(),
            Message::Typed,
        )?);
    }
    let names: Vec<&str> = contestants.iter().map(|c| c.name.as_str()).collect();
    let title = |part: &str| {
        format!(
            "beside other servers, from one to another, {part}: {} rooms x {}",
            BETWEEN.rooms, BETWEEN.people
        )
    };
    let mut sections = [
        (Section::new(title("p50"), "us", &names), 0.5),
        (Section::new(title("p99"), "us", &names), 0.99),
    ];
    let duration = settings.pods().min(TURN_MOST);
    for contestant in &mut contestants {
        let warm = contestant
            .crowd
            .run(contestant.message, BETWEEN_PACE, WARM_UP);
        warm.with_context(|| contestant.name.clone())?;
    }
    for _ in 0..settings.repetitions.min(REPETITIONS_MOST) {
        for (index, contestant) in contestants.iter_mut().enumerate() {
            contestant.crowd.wake()?;
            let run = contestant
                .crowd
                .run(contestant.message, BETWEEN_PACE, duration)
                .with_context(|| contestant.name.clone())?;
            for (section, part) in &mut sections {
                section.rows[index].push(run.latency.percentile_us(*part), &[]);
            }
        }
    }
    Ok(sections.map(|(section, _)| section).into())
}
