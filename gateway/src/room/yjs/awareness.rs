//! Awareness: what each editor shows of itself (cursor, name, colour), as JSON that the server relays and does not own.
//!
//! The highest clock of a client id wins; at the same clock, being gone wins. Each client id belongs to the connection
//! that brought it: when that is gone, on whichever pod, every pod says `null` one clock later, so that nobody stays a ghost.

use std::collections::HashMap;

use atelier_shared::domain::ids::ConnectionId;
use bytes::Bytes;
use serde::de::IgnoredAny;
use tokio::time::{Duration, Instant};

use super::lib0::{Malformed, NUMBER_MAX, Reader, put_var_bytes, put_var_uint};

/// Longest state of one client id, as JSON text.
pub const STATE_MAX_BYTES: usize = 64 * 1024;
/// Client ids in one room.
const CLIENTS_MAX: usize = 8_192;
/// All states of one room.
const ROOM_MAX_BYTES: usize = 8 << 20;
/// Client ids that one connection may bring: its own, and what tabs of one browser tell one another and pass on.
const OWNED_MAX: usize = 64;
/// A state that was not renewed for so long is over (clients renew theirs every 15 s).
const OUTDATED: Duration = Duration::from_secs(30);
/// The clock of somebody who has gone is remembered for so long: what they said before must not bring them back.
const REMEMBERED: Duration = Duration::from_secs(120);

/// One client id's state at one clock; `None` = gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub client: u64,
    pub clock: u64,
    /// JSON text, never `null`.
    pub state: Option<Bytes>,
}

/// Reads an awareness update. Every state is JSON: what others can't parse must not reach them.
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>, Malformed> {
    let mut reader = Reader::new(bytes);
    let count = reader.var_uint()?;
    // An entry takes three bytes at least: nothing is set aside for what can't be there.
    if count > (reader.remaining() / 3) as u64 || count > CLIENTS_MAX as u64 {
        return Err(Malformed("more awareness entries than bytes"));
    }
    (0..count).map(|_| entry(&mut reader)).collect()
}

fn entry(reader: &mut Reader<'_>) -> Result<Entry, Malformed> {
    let (client, clock) = (reader.var_uint()?, reader.var_uint()?);
    let text = reader.var_string()?;
    if text.len() > STATE_MAX_BYTES {
        return Err(Malformed("an awareness state is too large"));
    }
    if clock >= NUMBER_MAX {
        return Err(Malformed("an awareness clock is out of range"));
    }
    serde_json::from_str::<IgnoredAny>(text)
        .map_err(|_| Malformed("an awareness state is not JSON"))?;
    let state = (text.trim() != "null").then(|| Bytes::copy_from_slice(text.as_bytes()));
    Ok(Entry {
        client,
        clock,
        state,
    })
}

pub fn encode<'a>(entries: impl ExactSizeIterator<Item = &'a Entry>) -> Vec<u8> {
    let mut out = Vec::new();
    put_var_uint(&mut out, entries.len() as u64);
    for entry in entries {
        put_var_uint(&mut out, entry.client);
        put_var_uint(&mut out, entry.clock);
        put_var_bytes(&mut out, entry.state.as_deref().unwrap_or(b"null"));
    }
    out
}

#[derive(Debug)]
struct Known {
    entry: Entry,
    /// The connection that brought it, on whichever pod; `None`: gone.
    owner: Option<ConnectionId>,
    /// Last renewed.
    at: Instant,
}

/// What came of an entry.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It counts: everybody else is to be told.
    New,
    /// Nothing new, but the client id is this connection's now.
    Owned,
    /// Known already, or nobody's.
    Old,
    /// The client id was declared gone at this clock: its owner, who is back, has to go beyond it.
    Outdone(Entry),
    /// There is no room for it.
    Full,
}

/// All that is known in one room.
#[derive(Debug, Default)]
pub struct Awareness {
    clients: HashMap<u64, Known>,
    bytes: usize,
}

impl Awareness {
    /// Those who are here.
    pub fn present(&self) -> Vec<&Entry> {
        let entries = self.clients.values().map(|known| &known.entry);
        entries.filter(|entry| entry.state.is_some()).collect()
    }

    /// Those whom connections of this kind brought.
    pub fn owned_by<'a>(
        &'a self,
        whose: impl Fn(&ConnectionId) -> bool + 'a,
    ) -> impl Iterator<Item = (ConnectionId, &'a Entry)> {
        self.clients.values().filter_map(move |known| {
            let owner = known.owner.filter(|owner| whose(owner))?;
            Some((owner, &known.entry))
        })
    }

    /// Everybody's connections.
    pub fn owners(&self) -> impl Iterator<Item = ConnectionId> {
        self.clients.values().filter_map(|known| known.owner)
    }

    /// Was this said before, or is it about a client id that is another connection's?
    pub fn has_heard(&self, entry: &Entry, from: ConnectionId) -> bool {
        self.clients.get(&entry.client).is_some_and(|known| {
            entry.clock <= known.entry.clock || known.owner.is_some_and(|owner| owner != from)
        })
    }

    /// Takes an entry in. `claims`: it is the sender's own, not one it passes on, so the client id becomes its.
    pub fn apply(
        &mut self,
        entry: &Entry,
        from: ConnectionId,
        claims: bool,
        now: Instant,
    ) -> Outcome {
        let Some(known) = self.clients.get_mut(&entry.client) else {
            return self.add(entry, from, now);
        };
        let same = entry.clock == known.entry.clock;
        let goes = entry.state.is_none() && known.entry.state.is_some();
        if entry.clock > known.entry.clock || (same && goes) {
            if known.entry.state.is_none() && entry.state.is_none() {
                known.entry.clock = entry.clock;
                return Outcome::Old;
            }
            let (was, is) = (size(&known.entry), size(entry));
            if is > was && self.bytes - was + is > ROOM_MAX_BYTES {
                return Outcome::Full;
            }
            self.bytes = self.bytes - was + is;
            if claims || known.owner.is_none() {
                known.owner = Some(from);
            }
            known.entry = entry.clone();
            known.at = now;
            if entry.state.is_none() {
                known.owner = None;
            }
            return Outcome::New;
        }
        if known.entry.state.is_none() {
            return match entry.state {
                Some(_) => Outcome::Outdone(known.entry.clone()),
                None => Outcome::Old,
            };
        }
        if same && claims && known.owner != Some(from) {
            known.owner = Some(from);
            known.at = now;
            return Outcome::Owned;
        }
        Outcome::Old
    }

    /// The owner of a client id that was declared gone is back with what it showed before. It counts at the next clock, to
    /// which the owner itself goes when it hears that it is gone; not every editor says so before its next renewal (15 s).
    pub fn come_back(
        &mut self,
        gone: &Entry,
        state: Option<Bytes>,
        from: ConnectionId,
        now: Instant,
    ) -> Option<Entry> {
        let back = Entry {
            client: gone.client,
            clock: gone.clock + 1,
            state,
        };
        (self.apply(&back, from, true, now) == Outcome::New).then_some(back)
    }

    fn add(&mut self, entry: &Entry, from: ConnectionId, now: Instant) -> Outcome {
        if entry.state.is_none() {
            return Outcome::Old;
        }
        let owned = self.owners().filter(|owner| *owner == from).count();
        let full = self.clients.len() >= CLIENTS_MAX || self.bytes + size(entry) > ROOM_MAX_BYTES;
        if full || owned >= OWNED_MAX {
            return Outcome::Full;
        }
        self.bytes += size(entry);
        let known = Known {
            entry: entry.clone(),
            owner: Some(from),
            at: now,
        };
        self.clients.insert(entry.client, known);
        Outcome::New
    }

    /// A connection is gone: its client ids are, one clock later. Returns what the others are to be told.
    pub fn leave(&mut self, connection: ConnectionId, now: Instant) -> Vec<Entry> {
        self.end(now, |known| {
            (known.owner == Some(connection)).then_some(known.entry.clock + 1)
        })
    }

    /// Who was not renewed for 30 s is gone, at the clock they had (so that waking up brings them back).
    pub fn outdated(&mut self, now: Instant) -> Vec<Entry> {
        self.end(now, |known| {
            let over = known.entry.state.is_some() && now >= known.at + OUTDATED;
            over.then_some(known.entry.clock)
        })
    }

    /// Forgets those who have been gone for so long that nobody needs to be told any more.
    pub fn forget(&mut self, now: Instant) -> Vec<u64> {
        let over = |known: &mut Known| known.entry.state.is_none() && now >= known.at + REMEMBERED;
        let forgotten = self.clients.extract_if(|_, known| over(known));
        forgotten.map(|(client, _)| client).collect()
    }

    fn end(&mut self, now: Instant, clock_of: impl Fn(&Known) -> Option<u64>) -> Vec<Entry> {
        let mut gone = Vec::new();
        for known in self.clients.values_mut() {
            let Some(clock) = clock_of(known) else {
                continue;
            };
            self.bytes -= size(&known.entry);
            known.owner = None;
            known.at = now;
            known.entry.clock = clock;
            known.entry.state = None;
            gone.push(known.entry.clone());
        }
        gone
    }
}

fn size(entry: &Entry) -> usize {
    entry.state.as_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(client: u64, clock: u64, state: Option<&'static str>) -> Entry {
        Entry {
            client,
            clock,
            state: state.map(|text| Bytes::from_static(text.as_bytes())),
        }
    }

    fn two() -> (ConnectionId, ConnectionId) {
        (ConnectionId::generate(), ConnectionId::generate())
    }

    #[test]
    fn an_update_is_read_as_it_was_written() {
        let entries = [says(1, 0, Some("{}")), says(4_294_967_295, 9, None)];
        assert_eq!(parse(&encode(entries.iter())), Ok(entries.to_vec()));
        assert_eq!(parse(&[0]), Ok(vec![]));
    }

    #[test]
    fn what_others_could_not_parse_is_refused() {
        for state in ["", "{", "undefined", "{}x", "\u{0}"] {
            let entry = Entry {
                state: Some(Bytes::from(state.to_owned())),
                ..says(1, 1, None)
            };
            assert!(parse(&encode([entry].iter())).is_err(), "{state:?}");
        }
        let long = Entry {
            state: Some(format!("\"{}\"", "x".repeat(STATE_MAX_BYTES)).into()),
            ..says(1, 1, None)
        };
        assert!(parse(&encode([long].iter())).is_err());
        assert!(
            parse(&[0xff, 0xff, 0xff, 0xff, 0x0f, 1]).is_err(),
            "a count without entries"
        );
    }

    #[test]
    fn the_highest_clock_wins_and_being_gone_wins_at_the_same_clock() {
        let (mut all, (a, b), now) = (Awareness::default(), two(), Instant::now());
        assert_eq!(
            all.apply(&says(1, 5, Some("5")), a, true, now),
            Outcome::New
        );
        assert_eq!(
            all.apply(&says(1, 4, Some("4")), a, true, now),
            Outcome::Old
        );
        assert_eq!(
            all.apply(&says(1, 5, Some("x")), b, false, now),
            Outcome::Old,
            "passed on"
        );
        assert_eq!(
            all.apply(&says(1, 6, Some("6")), a, true, now),
            Outcome::New
        );
        assert_eq!(all.present(), [&says(1, 6, Some("6"))]);
        assert_eq!(all.apply(&says(1, 6, None), b, false, now), Outcome::New);
        assert!(all.present().is_empty());
        assert_eq!(
            all.apply(&says(2, 1, None), b, true, now),
            Outcome::Old,
            "nobody knew them"
        );
    }

    #[test]
    fn who_leaves_is_gone_one_clock_later_and_must_outdo_it_to_return() {
        let (mut all, (a, b), now) = (Awareness::default(), two(), Instant::now());
        all.apply(&says(1, 5, Some("{}")), a, true, now);
        all.apply(&says(2, 1, Some("{}")), b, true, now);
        assert_eq!(all.leave(a, now), [says(1, 6, None)]);
        assert_eq!(all.leave(a, now), [], "told once");
        assert_eq!(all.present().len(), 1);
        let again = all.apply(&says(1, 5, Some("{}")), b, true, now);
        assert_eq!(again, Outcome::Outdone(says(1, 6, None)));
        assert_eq!(
            all.apply(&says(1, 7, Some("{}")), b, true, now),
            Outcome::New
        );
    }

    #[test]
    fn an_owner_who_is_back_is_seen_at_once() {
        let (mut all, (a, b), now) = (Awareness::default(), two(), Instant::now());
        all.apply(&says(1, 5, Some("{}")), a, true, now);
        let gone = all.leave(a, now).remove(0);
        let state = says(1, 5, Some("{}")).state;
        let back = all.come_back(&gone, state.clone(), b, now);
        assert_eq!(back, Some(says(1, 7, Some("{}"))));
        assert_eq!(all.present().len(), 1);
        // An editor that says so itself says nothing new.
        let again = all.apply(&says(1, 7, Some("{}")), b, true, now);
        assert_eq!(again, Outcome::Old);
        assert_eq!(all.come_back(&gone, state, b, now), None, "once");
        assert_eq!(all.leave(b, now), [says(1, 8, None)]);
    }

    #[test]
    fn who_came_back_before_their_old_connection_was_missed_stays() {
        let (mut all, (a, b), now) = (Awareness::default(), two(), Instant::now());
        all.apply(&says(1, 5, Some("{}")), a, true, now);
        assert_eq!(
            all.apply(&says(1, 5, Some("{}")), b, true, now),
            Outcome::Owned
        );
        assert_eq!(all.leave(a, now), []);
        assert_eq!(all.leave(b, now), [says(1, 6, None)]);
    }

    #[test]
    fn what_is_said_again_is_told_from_news() {
        let (mut all, (a, b), now) = (Awareness::default(), two(), Instant::now());
        let said = says(1, 5, Some("{}"));
        assert!(!all.has_heard(&said, b), "nobody knows them");
        all.apply(&said, a, true, now);
        assert!(all.has_heard(&said, b), "an echo");
        let next = says(1, 6, Some("{}"));
        assert!(all.has_heard(&next, b), "passed on from another tab");
        assert!(!all.has_heard(&next, a));
        all.leave(a, now);
        assert!(all.has_heard(&said, b), "an echo of somebody who is gone");
    }

    #[test]
    fn who_is_not_renewed_is_over_after_30_s() {
        let (mut all, (a, _), now) = (Awareness::default(), two(), Instant::now());
        all.apply(&says(1, 5, Some("{}")), a, true, now);
        assert_eq!(all.outdated(now + Duration::from_secs(29)), []);
        let later = now + Duration::from_secs(31);
        assert_eq!(all.outdated(later), [says(1, 5, None)]);
        assert_eq!(
            all.apply(&says(1, 6, Some("{}")), a, true, later),
            Outcome::New,
            "awake again"
        );
        all.leave(a, later);
        assert!(all.forget(later).is_empty());
        assert_eq!(all.forget(later + REMEMBERED), [1]);
    }

    #[test]
    fn one_connection_can_not_fill_the_room() {
        let (mut all, (a, b), now) = (Awareness::default(), two(), Instant::now());
        let brought = (0..1_000)
            .filter(|id| all.apply(&says(*id, 1, Some("{}")), a, false, now) == Outcome::New)
            .count();
        assert_eq!(brought, OWNED_MAX);
        assert_eq!(
            all.apply(&says(5_000, 1, Some("{}")), b, true, now),
            Outcome::New
        );
    }
}
