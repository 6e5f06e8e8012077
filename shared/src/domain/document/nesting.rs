//! How deep shared types lie in one another, in an update or in a whole document. Readers delete and collect them by
//! recursion, so a document that nests without end would end the process that reads it.

use std::collections::HashMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::{Malformed, Outline};

/// Shared types, one in another. Far beyond what an editor makes, far below what a thread's stack holds.
pub const NESTING_MAX: usize = 256;
/// What is put through a `Doc` all the same, on a stack of its own: several pods that each judge by what they know may
/// together let a little more in.
const BORNE_MAX: usize = 50_000;
/// Stack for each level of recursion, more than a build without optimisation takes.
const STACK_PER_LEVEL: usize = 4 << 10;
const STACK: usize = 2 << 20;

/// At most so many types lie in one another in a document of these pieces, whatever else may come to join them: what hangs on
/// something that is not here counts as if it all were to hang on one another. Whoever adds so many types to it makes it at
/// most so much deeper. Costs what the pieces hold.
///
/// # Errors
/// A piece can't be read, or they nest in a circle.
pub(super) fn levels<'a>(pieces: impl IntoIterator<Item = &'a Bytes>) -> Result<usize, Malformed> {
    let mut nesting = Nesting::default();
    for piece in pieces {
        Outline::read_into(piece, &mut nesting)?;
    }
    nesting.levels()
}

/// Runs work that recurses once for each of so many levels. `None`: it panicked, gave nothing, or there are too many.
pub(super) fn recursing<T: Send>(
    levels: usize,
    work: impl FnOnce() -> Option<T> + Send,
) -> Option<T> {
    if levels <= NESTING_MAX {
        return catch_unwind(AssertUnwindSafe(work)).ok().flatten();
    }
    if levels > BORNE_MAX {
        return None;
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK + levels * STACK_PER_LEVEL);
        let running = thread.spawn_scoped(scope, work).ok()?;
        running.join().ok().flatten()
    })
}

/// Where a struct lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// At the top, or nowhere.
    Root,
    /// In this type.
    In((u64, u32)),
    /// Where this other struct lives.
    Of((u64, u32)),
}

#[derive(Debug)]
struct Place {
    clocks: Range<u32>,
    parent: Parent,
    depth: Depth,
}

/// Of what lives at this place, how many types are around it.
#[derive(Debug, Clone, Copy)]
enum Depth {
    Unknown,
    /// Being found out right now: meeting it again means a circle.
    Asked,
    Known(Level),
}

/// So many types around it, up to what they hang on: the top (0), or something that is not here.
#[derive(Debug, Clone, Copy)]
struct Level {
    under: u32,
    around: usize,
}

const TOP: u32 = 0;

/// The places of structs.
#[derive(Debug, Default)]
pub struct Nesting {
    clients: HashMap<u64, Vec<Place>>,
    types: usize,
    /// What is hung on but not here, by number.
    missing: HashMap<(u64, u32), u32>,
}

impl Nesting {
    /// Of one update the structs of a client come in order of their clocks.
    pub fn push(&mut self, client: u64, clocks: Range<u32>, parent: Parent, is_type: bool) {
        self.types += usize::from(is_type);
        if clocks.is_empty() {
            return;
        }
        let place = Place {
            clocks,
            parent,
            depth: Depth::Unknown,
        };
        self.clients.entry(client).or_default().push(place);
    }

    /// # Errors
    /// It nests deeper than [`NESTING_MAX`], or in a circle.
    pub fn check(mut self) -> Result<(), Malformed> {
        // Each level is a type: with so few there is nothing to find out.
        if self.types <= NESTING_MAX {
            return Ok(());
        }
        let deepest = self.deepest()?.into_values().max();
        if deepest.is_some_and(|deepest| deepest > NESTING_MAX) {
            return Err(Malformed::TOO_DEEP);
        }
        Ok(())
    }

    /// See [`levels`].
    fn levels(mut self) -> Result<usize, Malformed> {
        if self.types <= NESTING_MAX {
            return Ok(self.types);
        }
        self.put_in_order();
        Ok(self.deepest()?.into_values().sum())
    }

    /// Pieces may hold parts of the same: each clock stays where it came first.
    fn put_in_order(&mut self) {
        for places in self.clients.values_mut() {
            places.sort_by_key(|place| place.clocks.start);
            let mut end = 0;
            places.retain_mut(|place| {
                place.clocks.start = place.clocks.start.max(end);
                end = end.max(place.clocks.end);
                !place.clocks.is_empty()
            });
        }
    }

    /// The most types around anything, by what it hangs on.
    fn deepest(&mut self) -> Result<HashMap<u32, usize>, Malformed> {
        let all: Vec<(u64, usize)> = self
            .clients
            .iter()
            .flat_map(|(client, places)| (0..places.len()).map(|at| (*client, at)))
            .collect();
        let mut path = Vec::new();
        let mut deepest: HashMap<u32, usize> = HashMap::new();
        for place in all {
            let level = self.find_level(place, &mut path)?;
            let known = deepest.entry(level.under).or_default();
            *known = level.around.max(*known);
        }
        Ok(deepest)
    }

    fn find_level(
        &mut self,
        start: (u64, usize),
        path: &mut Vec<(u64, usize)>,
    ) -> Result<Level, Malformed> {
        path.clear();
        let mut next = Some(start);
        let mut level = Level {
            under: TOP,
            around: 0,
        };
        while let Some(at) = next {
            let Some(place) = self.place(at) else { break };
            match place.depth {
                Depth::Known(known) => {
                    level = known;
                    break;
                }
                Depth::Asked => return Err(Malformed::new("it nests in a circle")),
                Depth::Unknown => place.depth = Depth::Asked,
            }
            let parent = place.parent;
            path.push(at);
            next = match parent {
                Parent::Root => None,
                Parent::In(id) | Parent::Of(id) => {
                    let found = self.find(id);
                    if found.is_none() {
                        level.under = self.number_of(id);
                    }
                    found
                }
            };
        }
        for at in path.iter().rev() {
            let Some(place) = self.place(*at) else {
                continue;
            };
            if matches!(place.parent, Parent::In(_)) {
                level.around += 1;
            }
            place.depth = Depth::Known(level);
        }
        Ok(level)
    }

    fn number_of(&mut self, id: (u64, u32)) -> u32 {
        let next = u32::try_from(self.missing.len() + 1).unwrap_or(u32::MAX);
        *self.missing.entry(id).or_insert(next)
    }

    fn place(&mut self, (client, at): (u64, usize)) -> Option<&mut Place> {
        self.clients.get_mut(&client)?.get_mut(at)
    }

    fn find(&self, (client, clock): (u64, u32)) -> Option<(u64, usize)> {
        let places = self.clients.get(&client)?;
        let at = places.partition_point(|place| place.clocks.end <= clock);
        let place = places.get(at)?;
        place.clocks.contains(&clock).then_some((client, at))
    }
}
