//! Reads the outline of a v1 update: which structs it brings, what it deletes, and, where that is asked, how deep it nests.
//! Allocates and recurses only by what is really there, so that it can stand before every other reader of outside bytes.
//!
//! The format (lib0, v1): `clients { structs, client, clock { struct } } deletions`; see Yjs' `encoding.js`. Refused is,
//! beside what is cut off, contradicts itself or claims more than there are bytes for, whatever a stock Yjs client could
//! not read.

use std::collections::HashSet;

use super::Malformed;
use super::id_set::IdSet;
use super::nesting::{Nesting, Parent};

/// Arrays and maps in plain values, one in another.
const VALUE_DEPTH_MAX: usize = 64;
/// JavaScript's largest safe integer: no client id is greater.
const CLIENT_MAX: u64 = (1 << 53) - 1;

const GC: u8 = 0;
const SKIP: u8 = 10;
const HAS_ORIGIN: u8 = 0x80;
const HAS_RIGHT_ORIGIN: u8 = 0x40;
const HAS_PARENT_SUB: u8 = 0x20;

/// What an update brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Ids of its structs; skipped ranges are not among them.
    pub structs: IdSet,
    /// Ids it deletes.
    pub deleted: IdSet,
    /// How many shared types are among its structs.
    pub types: usize,
    /// Where its deletions begin.
    pub deletions_at: usize,
}

impl Outline {
    /// # Errors
    /// What is wrong with the bytes, for the person who sent them.
    pub fn read(update: &[u8]) -> Result<Self, Malformed> {
        Self::read_with(update, None)
    }

    /// As [`Self::read`], and its shared types lie at most [`super::NESTING_MAX`] deep in one another.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_shallow(update: &[u8]) -> Result<Self, Malformed> {
        let mut nesting = Nesting::default();
        let outline = Self::read_into(update, &mut nesting)?;
        nesting.check()?;
        Ok(outline)
    }

    /// As [`Self::read`], and notes where its structs live.
    pub(super) fn read_into(update: &[u8], nesting: &mut Nesting) -> Result<Self, Malformed> {
        Self::read_with(update, Some(nesting))
    }

    fn read_with(update: &[u8], mut nesting: Option<&mut Nesting>) -> Result<Self, Malformed> {
        let mut reader = Reader {
            bytes: update,
            at: 0,
        };
        let (mut structs, mut types) = (IdSet::default(), 0);
        let clients = reader.count()?;
        let mut met = HashSet::new();
        for _ in 0..clients {
            let count = reader.count()?;
            let client = reader.client()?;
            let mut clock = reader.clock()?;
            if !met.insert(client) {
                return Err(Malformed::new("a client comes twice"));
            }
            for _ in 0..count {
                let item = reader.item()?;
                let end = clock
                    .checked_add(item.length)
                    .ok_or(Malformed::new("a clock is too large"))?;
                if item.is_held {
                    structs.insert(client, clock..end);
                    types += usize::from(item.is_type);
                    if let Some(nesting) = &mut nesting {
                        nesting.push(client, clock..end, item.parent, item.is_type);
                    }
                }
                clock = end;
            }
        }
        let deletions_at = reader.at;
        let deleted = reader.deletions()?;
        if reader.at != update.len() {
            return Err(Malformed::new("there are bytes behind the update's end"));
        }
        Ok(Self {
            structs,
            deleted,
            types,
            deletions_at,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.structs.is_empty() && self.deleted.is_empty()
    }
}

/// Reads a v1 state vector: for each client how much of it is held.
///
/// # Errors
/// As [`Outline::read`].
pub fn read_state_vector(bytes: &[u8]) -> Result<IdSet, Malformed> {
    let mut reader = Reader { bytes, at: 0 };
    let mut held = IdSet::default();
    for _ in 0..reader.count()? {
        let client = reader.client()?;
        let clock = reader.clock()?;
        held.insert(client, 0..clock);
    }
    if reader.at != bytes.len() {
        return Err(Malformed::new(
            "there are bytes behind the state vector's end",
        ));
    }
    Ok(held)
}

struct Item {
    length: u32,
    /// Not only a place left out.
    is_held: bool,
    is_type: bool,
    parent: Parent,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = *self.bytes.get(self.at).ok_or(Malformed::CUT)?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        if length > self.left() {
            return Err(Malformed::CUT);
        }
        let bytes = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(bytes)
    }

    fn var(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed::new("a number is too long"))
    }

    /// A signed number, whose first byte has room for six bits.
    fn signed(&mut self) -> Result<(), Malformed> {
        for _ in 0..10 {
            if self.byte()? < 0x80 {
                return Ok(());
            }
        }
        Err(Malformed::new("a number is too long"))
    }

    /// How many things follow, each of at least a byte.
    fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.var()?;
        match usize::try_from(count) {
            Ok(count) if count <= self.left() => Ok(count),
            _ => Err(Malformed::new(
                "it claims to hold more than it has bytes for",
            )),
        }
    }

    fn client(&mut self) -> Result<u64, Malformed> {
        match self.var()? {
            client if client <= CLIENT_MAX => Ok(client),
            _ => Err(Malformed::new("a client id is too large")),
        }
    }

    fn clock(&mut self) -> Result<u32, Malformed> {
        // Half of what 32 bits hold: readers compute differences of clocks with a sign.
        match u32::try_from(self.var()?) {
            Ok(clock) if i32::try_from(clock).is_ok() => Ok(clock),
            _ => Err(Malformed::new("a clock is too large")),
        }
    }

    fn length(&mut self) -> Result<u32, Malformed> {
        match self.clock()? {
            0 => Err(Malformed::new("a struct is empty")),
            length => Ok(length),
        }
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.count()?;
        std::str::from_utf8(self.take(length)?).map_err(|_| Malformed::new("a text is not UTF-8"))
    }

    /// JSON, as embeds and formats are written. `serde_json` bounds its depth.
    fn json(&mut self) -> Result<(), Malformed> {
        serde_json::from_str::<serde::de::IgnoredAny>(self.text()?)
            .map(drop)
            .map_err(|_| Malformed::new("a value is not JSON"))
    }

    fn id(&mut self) -> Result<(u64, u32), Malformed> {
        Ok((self.client()?, self.clock()?))
    }

    fn item(&mut self) -> Result<Item, Malformed> {
        let info = self.byte()?;
        if info == GC || info == SKIP {
            return Ok(Item {
                length: self.length()?,
                is_held: info == GC,
                is_type: false,
                parent: Parent::Root,
            });
        }
        let origin = (info & HAS_ORIGIN != 0).then(|| self.id()).transpose()?;
        let right = (info & HAS_RIGHT_ORIGIN != 0)
            .then(|| self.id())
            .transpose()?;
        let parent = match origin.or(right) {
            // Where its neighbour lives, there it lives.
            Some(neighbour) => Parent::Of(neighbour),
            None => {
                let parent = match self.var()? {
                    1 => {
                        self.text()?;
                        Parent::Root
                    }
                    0 => Parent::In(self.id()?),
                    _ => return Err(Malformed::new("a parent is of no known kind")),
                };
                if info & HAS_PARENT_SUB != 0 {
                    self.text()?;
                }
                parent
            }
        };
        let (length, is_type) = self.content(info & 0x1f)?;
        Ok(Item {
            length,
            is_held: true,
            is_type,
            parent,
        })
    }

    /// Length in clocks, and whether other structs can live in it.
    fn content(&mut self, kind: u8) -> Result<(u32, bool), Malformed> {
        const ONE: Result<(u32, bool), Malformed> = Ok((1, false));
        match kind {
            1 => Ok((self.length()?, false)),
            3 => {
                let length = self.count()?;
                self.take(length)?;
                ONE
            }
            4 => {
                let text = self.text()?;
                let units = text.encode_utf16().count();
                match u32::try_from(units) {
                    Ok(units @ 1..) => Ok((units, false)),
                    _ => Err(Malformed::new("a struct is empty")),
                }
            }
            5 => self.json().and(ONE),
            6 => {
                self.text()?;
                self.json().and(ONE)
            }
            7 => {
                match self.var()? {
                    // An XML element or hook has a name.
                    3 | 5 => drop(self.text()?),
                    0..=6 => {}
                    _ => return Err(Malformed::new("a type is of no known kind")),
                }
                Ok((1, true))
            }
            8 => {
                let count = self.length()?;
                for _ in 0..count {
                    self.value()?;
                }
                Ok((count, false))
            }
            9 => {
                self.text()?;
                self.value().and(ONE)
            }
            // 2 is JSON as Yjs wrote it until 2020.
            _ => Err(Malformed::new("a struct is of no known kind")),
        }
    }

    /// One plain value and all that it holds, without recursion.
    fn value(&mut self) -> Result<(), Malformed> {
        // How many values are still to come, and are they a map's, on each level.
        let mut open: Vec<(usize, bool)> = vec![(1, false)];
        while let Some((left, keyed)) = open.last_mut() {
            if *left == 0 {
                open.pop();
                continue;
            }
            *left -= 1;
            if *keyed {
                self.text()?;
            }
            match self.byte()? {
                116 => {
                    let length = self.count()?;
                    self.take(length)?;
                }
                kind @ (117 | 118) => {
                    if open.len() > VALUE_DEPTH_MAX {
                        return Err(Malformed::TOO_DEEP);
                    }
                    open.push((self.count()?, kind == 118));
                }
                119 => drop(self.text()?),
                120 | 121 | 126 | 127 => {}
                122 | 123 => drop(self.take(8)?),
                124 => drop(self.take(4)?),
                125 => self.signed()?,
                _ => return Err(Malformed::new("a value is of no known kind")),
            }
        }
        Ok(())
    }

    fn deletions(&mut self) -> Result<IdSet, Malformed> {
        let mut deleted = IdSet::default();
        for _ in 0..self.count()? {
            let client = self.client()?;
            for _ in 0..self.count()? {
                let start = self.clock()?;
                let end = start
                    .checked_add(self.clock()?)
                    .ok_or(Malformed::new("a clock is too large"))?;
                deleted.insert(client, start..end);
            }
        }
        Ok(deleted)
    }
}
