//! CPU time of the server for each delivered message: at a steady pace, and with four always under way in every room.

use std::time::Duration;

use anyhow::Result;

use crate::Settings;
use crate::bare_epoll::Writes;
use crate::load::{Crowd, Message, Pace, Shape};
use crate::process::{CpuTime, OnLoadCore};
use crate::report::Section;
use crate::server::{self, Server};

const SHAPE: Shape = Shape {
    rooms: 10,
    people: 100,
    senders: 4,
};
const STEADY: Pace = Pace::Steady(10);
const WARM_UP: Duration = Duration::from_millis(500);

/// A server with its crowd, and what that sends.
struct Contestant {
    server: usize,
    message: Message,
}

/// Both paces over the same servers and crowds, the repetitions of the contestants interleaved.
pub fn measure(settings: &Settings, paced: bool, burst: bool) -> Result<Vec<Section>> {
    let servers = [
        server::bare(Writes::Each)?,
        server::bare(Writes::Joined)?,
        server::embedded()?,
    ];
    let _core = OnLoadCore::enter()?;
    let mut crowds = Vec::new();
    for server in &servers {
        let path = |room, place| format!("/api/ws/fanout-{room}?client_id=r{room}p{place}");
        // The relay tells rooms by the whole path.
        let bare = |room, _| format!("/fanout-{room}");
        let is_atelier = crowds.len() == 2;
        let mut crowd = if is_atelier {
            Crowd::connect(&[server.address], SHAPE, path)?
        } else {
            Crowd::connect(&[server.address], SHAPE, bare)?
        };
        if is_atelier {
            crowd.join()?;
        }
        crowd.sleepless = true;
        crowds.push(crowd);
    }
    // The relay is given what Atelier's clients receive, so that both write the same bytes.
    crowds[2].run(Message::Chat, STEADY, WARM_UP)?;
    let same = Message::Raw(crowds[2].delivery_bytes);
    let contestants = [
        (0, same),
        (1, same),
        (2, Message::Chat),
        (2, Message::Cursor),
    ]
    .map(|(server, message)| Contestant { server, message });
    let mut sections = Vec::new();
    let phases = [
        (
            paced,
            STEADY,
            settings.paced(),
            "paced, 10 messages/s a room",
        ),
        (
            burst,
            Pace::InFlight,
            settings.burst(),
            "burst, 4 in flight a room",
        ),
    ];
    for (wanted, pace, duration, title) in phases {
        if wanted {
            let title = format!("fan-out {title}: {} rooms x {}", SHAPE.rooms, SHAPE.people);
            sections.push(phase(
                settings,
                title,
                pace,
                duration,
                &servers,
                &mut crowds,
                &contestants,
            )?);
        }
    }
    Ok(sections)
}

fn phase(
    settings: &Settings,
    title: String,
    pace: Pace,
    duration: Duration,
    servers: &[Server],
    crowds: &mut [Crowd],
    contestants: &[Contestant],
) -> Result<Section> {
    let names = [
        "bare epoll, one write for each delivery",
        "bare epoll, writes joined",
        "atelier, chat_message (logged)",
        "atelier, cursor (latest wins)",
    ];
    let mut section = Section::new(title, "CPU us/delivery", &names);
    for contestant in contestants {
        crowds[contestant.server].run(contestant.message, pace, WARM_UP)?;
    }
    for _ in 0..settings.repetitions {
        for (row, contestant) in section.rows.iter_mut().zip(contestants) {
            let crowd = &mut crowds[contestant.server];
            let process = &servers[contestant.server].process;
            let before: CpuTime = process.cpu_time()?;
            let run = crowd.run(contestant.message, pace, duration)?;
            let spent_us = process.cpu_time()?.since_ns(&before) as f64 / 1_000.0;
            let delivered = run.delivered as f64;
            row.push(
                spent_us / delivered,
                &[
                    ("p50 us", run.latency.percentile_us(0.5)),
                    ("p99 us", run.latency.percentile_us(0.99)),
                    ("deliveries/s", delivered / duration.as_secs_f64()),
                    (
                        "% overwritten",
                        100.0 * run.missing as f64 / (delivered + run.missing as f64),
                    ),
                ],
            );
        }
    }
    for (row, _) in section
        .rows
        .iter_mut()
        .zip(contestants)
        .filter(|(_, c)| !c.message.is_ephemeral())
    {
        row.also.retain(|(name, _)| *name != "% overwritten");
    }
    Ok(section)
}
