//! How deep an update's shared types lie in one another. Readers delete and collect them by recursion, so a document that
//! nests without end would end the process that reads it.

use std::collections::HashMap;
use std::ops::Range;

use super::Malformed;

/// Shared types, one in another. Far beyond what an editor makes, far below what a thread's stack holds.
pub const NESTING_MAX: usize = 256;

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
    Known(usize),
}

/// The places of an update's structs.
#[derive(Debug, Default)]
pub struct Nesting {
    clients: HashMap<u64, Vec<Place>>,
    types: usize,
}

impl Nesting {
    /// Structs of one client come in order of their clocks.
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
        let all: Vec<(u64, usize)> = self
            .clients
            .iter()
            .flat_map(|(client, places)| (0..places.len()).map(|at| (*client, at)))
            .collect();
        let mut path = Vec::new();
        for place in all {
            self.find_depth(place, &mut path)?;
        }
        Ok(())
    }

    fn find_depth(
        &mut self,
        start: (u64, usize),
        path: &mut Vec<(u64, usize)>,
    ) -> Result<(), Malformed> {
        path.clear();
        let mut next = Some(start);
        let mut depth = 0;
        while let Some(at) = next {
            let Some(place) = self.place(at) else { break };
            match place.depth {
                Depth::Known(known) => {
                    depth = known;
                    break;
                }
                Depth::Asked => return Err(Malformed::new("it nests in a circle")),
                Depth::Unknown => place.depth = Depth::Asked,
            }
            let parent = place.parent;
            path.push(at);
            next = match parent {
                Parent::Root => None,
                Parent::In(id) | Parent::Of(id) => self.find(id),
            };
            if next.is_none() {
                // What it lives in is not here: counted from there.
                depth = 0;
            }
        }
        let mut around = depth;
        for at in path.iter().rev() {
            let Some(place) = self.place(*at) else {
                continue;
            };
            if matches!(place.parent, Parent::In(_)) {
                around += 1;
            }
            place.depth = Depth::Known(around);
            if around > NESTING_MAX {
                return Err(Malformed::TOO_DEEP);
            }
        }
        Ok(())
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
