//! What happens in a round, all of it from one seed: who does what in which order, and what goes wrong meanwhile. How it
//! interleaves is the machine's business.

use std::time::Duration;

use atelier_shared::Mode;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Rooms of a round: they share its misfortunes.
const ROOMS: usize = 4;
const MEMBERS: std::ops::RangeInclusive<usize> = 3..=4;
const STEPS: std::ops::RangeInclusive<usize> = 18..=30;
/// How long members pause between two steps at most.
const PAUSE_MAX_MS: u64 = 160;

/// One thing that a member does. The numbers choose among what there is when its turn comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Chat,
    /// Without a ref: it may be lost, it may not come twice.
    ChatOnce,
    /// Many at once.
    Burst,
    Direct,
    Edit,
    Delete,
    React,
    Draw,
    Clear,
    Type,
    Cut,
    Session,
    /// A message that was sent before, with its ref.
    Again,
    /// `resume` on the open socket, from a little before.
    Resume,
    Rename,
    /// Stops reading for a while.
    Doze,
    /// Its socket is gone, without a word.
    Vanish,
    /// Says goodbye, stays away for a while and comes back.
    Leave,
    /// A second socket of the same client takes its place.
    Replace,
}

#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub act: Act,
    pub numbers: [u32; 3],
    pub pause: Duration,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    KillGateway(usize),
    FreezeGateway(usize),
    KillWorker,
    /// The archive stands still.
    FreezeWorker,
    EmptyRedis,
    RestartRedisEmpty,
    /// Back to what it held a moment before.
    RollRedisBack,
    CutRedis,
    SilenceMongo,
    CutMongo,
}

#[derive(Debug, Clone, Copy)]
pub struct Strike {
    pub after: Duration,
    pub fault: Fault,
    pub lasts: Duration,
}

#[derive(Debug)]
pub struct Plan {
    pub seed: u64,
    /// Rooms, members, steps.
    pub rooms: Vec<Vec<Vec<Step>>>,
    pub strikes: Vec<Strike>,
}

impl Plan {
    pub fn new(seed: u64, mode: Mode) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let rooms = (0..ROOMS)
            .map(|_| {
                let members = random.random_range(MEMBERS);
                (0..members).map(|_| steps(&mut random)).collect()
            })
            .collect();
        let strikes = (0..random.random_range(1..=3))
            .map(|_| strike(&mut random, mode))
            .collect();
        Self {
            seed,
            rooms,
            strikes,
        }
    }
}

fn steps(random: &mut StdRng) -> Vec<Step> {
    (0..random.random_range(STEPS))
        .map(|_| Step {
            act: act(random),
            numbers: random.random(),
            pause: Duration::from_millis(random.random_range(0..PAUSE_MAX_MS)),
        })
        .collect()
}

fn act(random: &mut StdRng) -> Act {
    const WEIGHTS: [(Act, u32); 19] = [
        (Act::Chat, 16),
        (Act::ChatOnce, 4),
        (Act::Burst, 4),
        (Act::Direct, 6),
        (Act::Edit, 6),
        (Act::Delete, 3),
        (Act::React, 6),
        (Act::Draw, 22),
        (Act::Clear, 2),
        (Act::Type, 16),
        (Act::Cut, 6),
        (Act::Session, 4),
        (Act::Again, 6),
        (Act::Resume, 3),
        (Act::Rename, 2),
        (Act::Doze, 3),
        (Act::Vanish, 4),
        (Act::Leave, 3),
        (Act::Replace, 2),
    ];
    let total: u32 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    let mut at = random.random_range(0..total);
    for (act, weight) in WEIGHTS {
        match at.checked_sub(weight) {
            Some(rest) => at = rest,
            None => return act,
        }
    }
    Act::Chat
}

fn strike(random: &mut StdRng, mode: Mode) -> Strike {
    let gateway = random.random_range(0..2);
    let faults: &[Fault] = match mode {
        Mode::Embedded => &[Fault::KillGateway(0), Fault::FreezeGateway(0)],
        Mode::Distributed => &[
            Fault::KillGateway(gateway),
            Fault::KillGateway(gateway),
            Fault::FreezeGateway(gateway),
            Fault::KillWorker,
            Fault::FreezeWorker,
            Fault::EmptyRedis,
            Fault::EmptyRedis,
            Fault::RestartRedisEmpty,
            Fault::RollRedisBack,
            Fault::RollRedisBack,
            Fault::CutRedis,
            Fault::SilenceMongo,
            Fault::CutMongo,
        ],
    };
    Strike {
        after: Duration::from_millis(random.random_range(150..1_500)),
        fault: faults[random.random_range(0..faults.len())],
        lasts: Duration::from_millis(random.random_range(100..1_500)),
    }
}
