//! How long a message takes from a client of one gateway to a client of another, beside what Redis alone takes.

use std::time::Duration;

use anyhow::Result;

use crate::Settings;
use crate::load::{Crowd, Message, Pace, Shape};
use crate::redis::RoundTrip;
use crate::report::Section;
use crate::server;

const SHAPE: Shape = Shape {
    rooms: 5,
    people: 4,
    senders: 4,
};
/// Messages a second in each room.
const PER_ROOM: u32 = 20;
const WARM_UP: Duration = Duration::from_millis(500);

/// One section for the median, one for the 99th percentile. Empty, with a word of why, where there are no stores.
pub fn measure(settings: &Settings) -> Result<Vec<Section>> {
    let Some(stores) = server::stores()? else {
        crate::say(
            "cross-pod latency is left out: REDIS_URL is not set (scripts/bench starts what it needs)",
        );
        return Ok(Vec::new());
    };
    server::migrate(&stores)?;
    let gateways = [server::gateway(&stores)?, server::gateway(&stores)?];
    let redis_url = std::env::var("REDIS_URL")?;
    let mut redis = RoundTrip::connect(&redis_url)?;
    let addresses = gateways.each_ref().map(|gateway| gateway.address);
    let run = std::process::id();
    let path = |room, place| format!("/api/ws/pods-{run}-{room}?client_id=r{room}p{place}");
    let mut crowd = Crowd::connect(&addresses, SHAPE, path)?;
    crowd.join()?;
    let pace = Pace::Steady(PER_ROOM);
    for message in [Message::Chat, Message::Cursor] {
        crowd.run(message, pace, WARM_UP)?;
    }
    let names = [
        "bare Redis, publish to subscriber",
        "atelier, chat_message (logged)",
        "atelier, cursor (latest wins)",
    ];
    let title = |part: &str| {
        format!(
            "between two gateways, {part}: {} rooms x {}",
            SHAPE.rooms, SHAPE.people
        )
    };
    let mut sections = [
        (Section::new(title("p50"), "us", &names), 0.5),
        (Section::new(title("p99"), "us", &names), 0.99),
    ];
    let gap = Duration::from_secs(1) / (PER_ROOM * SHAPE.rooms as u32);
    let payload = crowd.delivery_bytes;
    for _ in 0..settings.repetitions {
        let latencies = [
            redis.run(payload, gap, settings.pods())?,
            crowd.run(Message::Chat, pace, settings.pods())?.latency,
            crowd.run(Message::Cursor, pace, settings.pods())?.latency,
        ];
        for (section, part) in &mut sections {
            for (row, latency) in section.rows.iter_mut().zip(&latencies) {
                row.push(latency.percentile_us(*part), &[]);
            }
        }
    }
    Ok(sections.map(|(section, _)| section).into())
}
