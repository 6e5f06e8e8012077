//! Sets of struct ids: for each client, ranges of clocks. What a document holds, what it has deleted, and what of both an
//! update brings.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ids by client. Ranges of one client are sorted and neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdSet(BTreeMap<u64, Vec<Range<u32>>>);

impl IdSet {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Clients, ascending, with their ranges.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &[Range<u32>])> {
        self.0
            .iter()
            .map(|(client, ranges)| (*client, ranges.as_slice()))
    }

    /// How many ranges it takes to say it.
    pub fn ranges(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Everything of this client from clock 0 on without a hole ends here: its entry in a state vector.
    pub fn prefix(&self, client: u64) -> u32 {
        match self.0.get(&client).and_then(|ranges| ranges.first()) {
            Some(first) if first.start == 0 => first.end,
            _ => 0,
        }
    }

    pub fn insert(&mut self, client: u64, range: Range<u32>) {
        if range.is_empty() {
            return;
        }
        let ranges = self.0.entry(client).or_default();
        match ranges.last_mut() {
            // The usual case: at the end, or right behind it.
            None => ranges.push(range),
            Some(last) if range.start > last.end => ranges.push(range),
            Some(last) if range.start >= last.start => last.end = last.end.max(range.end),
            Some(_) => insert_between(ranges, range),
        }
    }

    pub fn extend(&mut self, other: &Self) {
        for (client, ranges) in other.iter() {
            for range in ranges {
                self.insert(client, range.clone());
            }
        }
    }

    pub fn contains_all(&self, other: &Self) -> bool {
        other.iter().all(|(client, ranges)| {
            let held = self.0.get(&client).map_or(&[][..], Vec::as_slice);
            ranges.iter().all(|range| {
                let at = held.partition_point(|h| h.end < range.end);
                held.get(at).is_some_and(|h| h.start <= range.start)
            })
        })
    }

    /// What is here and not in `other`.
    pub fn minus(&self, other: &Self) -> Self {
        let mut rest = Self::default();
        for (client, ranges) in self.iter() {
            let Some(taken) = other.0.get(&client) else {
                rest.0.insert(client, ranges.to_vec());
                continue;
            };
            for range in ranges {
                let mut start = range.start;
                let first = taken.partition_point(|t| t.end <= start);
                for hole in taken[first..].iter().take_while(|t| t.start < range.end) {
                    rest.insert(client, start..hole.start.max(start));
                    start = hole.end;
                }
                rest.insert(client, start.min(range.end)..range.end);
            }
        }
        rest
    }

    /// As the delete set that ends a v1 update.
    pub fn encode_deletions(&self, out: &mut Vec<u8>) {
        write_var(out, self.0.len() as u64);
        for (client, ranges) in self.iter().rev() {
            write_var(out, client);
            write_var(out, ranges.len() as u64);
            for range in ranges {
                write_var(out, range.start.into());
                write_var(out, (range.end - range.start).into());
            }
        }
    }

    /// As a v1 state vector: for each client the end of what is held without a hole.
    pub fn encode_state_vector(&self) -> Vec<u8> {
        let prefixes: Vec<(u64, u32)> = self
            .iter()
            .rev()
            .map(|(client, _)| (client, self.prefix(client)))
            .filter(|(_, clock)| *clock > 0)
            .collect();
        let mut out = Vec::with_capacity(1 + prefixes.len() * 8);
        write_var(&mut out, prefixes.len() as u64);
        for (client, clock) in prefixes {
            write_var(&mut out, client);
            write_var(&mut out, clock.into());
        }
        out
    }
}

fn insert_between(ranges: &mut Vec<Range<u32>>, mut range: Range<u32>) {
    let from = ranges.partition_point(|held| held.end < range.start);
    let to = from + ranges[from..].partition_point(|held| held.start <= range.end);
    if let (Some(first), true) = (ranges.get(from), from < to) {
        range.start = range.start.min(first.start);
        range.end = range.end.max(ranges[to - 1].end);
    }
    ranges.splice(from..to, [range]);
}

/// An unsigned integer as lib0 writes it (LEB128).
pub fn write_var(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(ranges: &[(u64, u32, u32)]) -> IdSet {
        let mut set = IdSet::default();
        for (client, start, length) in ranges {
            set.insert(*client, *start..start + length);
        }
        set
    }

    fn ids(set: &IdSet) -> Vec<(u64, u32)> {
        set.iter()
            .flat_map(|(client, ranges)| {
                ranges
                    .iter()
                    .flat_map(move |range| range.clone().map(move |clock| (client, clock)))
            })
            .collect()
    }

    fn some() -> impl Strategy<Value = Vec<(u64, u32, u32)>> {
        prop::collection::vec((0..3u64, 0..40u32, 0..8u32), 0..24)
    }

    proptest! {
        #[test]
        fn sets_of_ranges_are_sets_of_ids(a in some(), b in some()) {
            let (one, other) = (set(&a), set(&b));
            let (ids_of_one, ids_of_other) = (ids(&one), ids(&other));
            let mut plain: Vec<(u64, u32)> = a
                .iter()
                .flat_map(|(client, start, length)| (*start..start + length).map(move |c| (*client, c)))
                .collect();
            plain.sort_unstable();
            plain.dedup();
            prop_assert_eq!(&ids_of_one, &plain);
            let rest: Vec<_> = ids_of_one.iter().copied().filter(|id| !ids_of_other.contains(id)).collect();
            prop_assert_eq!(ids(&one.minus(&other)), rest.clone());
            prop_assert_eq!(other.contains_all(&one), rest.is_empty());
            let mut both = one.clone();
            both.extend(&other);
            prop_assert!(both.contains_all(&one) && both.contains_all(&other));
            for (_, ranges) in both.iter() {
                prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
        }
    }
}
