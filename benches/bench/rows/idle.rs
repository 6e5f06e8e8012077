//! Anonymous memory of the server for each connection that has nothing to say.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::Settings;
use crate::bare_epoll::Writes;
use crate::load::{Crowd, Shape};
use crate::process::{OnLoadCore, Process};
use crate::report::Section;
use crate::server;

/// What is there before: what a server needs once is not counted.
const BEFORE: Shape = Shape {
    rooms: 5,
    people: 100,
    senders: 0,
};
const IDLE: Shape = Shape {
    rooms: 50,
    people: 100,
    senders: 0,
};
/// Memory is read when it has not fallen for so long, as servers give back what connecting took.
const STILL: Duration = Duration::from_secs(1);
const STILL_PATIENCE: Duration = Duration::from_secs(8);

/// Fresh servers for each repetition: memory that was once used is cheaper the second time.
pub fn measure(settings: &Settings) -> Result<Section> {
    let title = format!(
        "idle connections: {}, in rooms of 100",
        IDLE.rooms * IDLE.people
    );
    let mut section = Section::new(title, "bytes/connection", &["bare epoll", "atelier"]);
    for _ in 0..settings.repetitions.min(3) {
        for (index, row) in section.rows.iter_mut().enumerate() {
            let is_atelier = index == 1;
            let server = if is_atelier {
                server::embedded()?
            } else {
                server::bare(Writes::Joined)?
            };
            let _core = OnLoadCore::enter()?;
            let enter = |shape: Shape, group: &str| -> Result<Crowd> {
                let path = |room, place| {
                    if is_atelier {
                        format!("/api/ws/{group}-{room}?client_id=r{room}p{place}")
                    } else {
                        format!("/{group}-{room}")
                    }
                };
                let mut crowd = Crowd::connect(&[server.address], shape, path)?;
                if is_atelier {
                    crowd.join()?;
                }
                Ok(crowd)
            };
            let first = enter(BEFORE, "before")?;
            let memory_before = still_bytes(&server.process)?;
            let cpu_before = server.process.cpu_time()?;
            let crowd = enter(IDLE, "idle")?;
            let cpu_us = server.process.cpu_time()?.since_ns(&cpu_before) as f64 / 1_000.0;
            let grown = still_bytes(&server.process)?.saturating_sub(memory_before) as f64;
            let connections = crowd.len() as f64;
            row.push(
                grown / connections,
                &[("CPU us/connect and join", cpu_us / connections)],
            );
            drop(first);
        }
    }
    Ok(section)
}

pub fn still_bytes(process: &Process) -> Result<u64> {
    still_for(process, STILL, STILL_PATIENCE)
}

/// What it takes when that has not fallen for so long.
pub fn still_for(process: &Process, still: Duration, patience: Duration) -> Result<u64> {
    let deadline = Instant::now() + patience;
    let mut least = (process.anonymous_bytes()?, Instant::now());
    while least.1.elapsed() < still && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        let bytes = process.anonymous_bytes()?;
        if bytes < least.0 {
            least = (bytes, Instant::now());
        }
    }
    Ok(least.0)
}
