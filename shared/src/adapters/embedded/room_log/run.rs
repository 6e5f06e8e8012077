//! A file of refs that is written once: sorted by hash, with a Bloom filter of them in front, of which memory holds a copy.
//!
//! `log.refs.<number>`: a magic word, the number of refs (u64), until when the last of them counts (i64), the filter, the
//! refs of 32 bytes each. Numbers are little-endian.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::refs::{Known, REF_BYTES, RefHash, Table};
use crate::domain::ids::Seq;

const NAME: &str = "log.refs.";
const MAGIC: [u8; 8] = *b"alrefs01";
const HEADER: usize = 24;
const ROW: usize = REF_BYTES + 16;
/// Bits of the filter for each ref, and how many of them a ref sets: one foreign ref in a hundred is looked for in vain.
const BITS_PER_REF: usize = 10;
const PROBES: u64 = 7;

#[derive(Debug)]
pub struct Run {
    number: u64,
    path: PathBuf,
    file: File,
    count: usize,
    until_ms: i64,
    filter: Filter,
}

impl Run {
    /// Every run in the folder, from the oldest on.
    pub fn all(folder: &Path) -> io::Result<Vec<Self>> {
        let mut runs = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(NAME));
            let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) else {
                continue;
            };
            let path = folder.join(&name);
            match Self::open(number, &path)? {
                Some(run) => runs.push(run),
                None => std::fs::remove_file(path)?,
            }
        }
        runs.sort_by_key(|run| run.number);
        Ok(runs)
    }

    /// `None`: it was not written to its end.
    fn open(number: u64, path: &Path) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut header = [0; HEADER];
        if length < HEADER as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut header, 0)?;
        let number_at = |at: usize| {
            let bytes = header[at..at + 8].try_into();
            bytes.map_or(0, u64::from_le_bytes)
        };
        let count = usize::try_from(number_at(8)).unwrap_or(usize::MAX);
        let whole = count
            .checked_mul(ROW)
            .map(|rows| HEADER + Filter::bytes_for(count) + rows);
        if header[..8] != MAGIC || whole.map(|whole| whole as u64) != Some(length) {
            return Ok(None);
        }
        let mut filter = vec![0; Filter::bytes_for(count)];
        file.read_exact_at(&mut filter, HEADER as u64)?;
        Ok(Some(Self {
            number,
            path: path.to_owned(),
            file,
            count,
            until_ms: number_at(16).cast_signed(),
            filter: Filter(filter),
        }))
    }

    /// Returns when it is on the disk.
    pub fn write(folder: &Path, number: u64, table: &Table) -> io::Result<Self> {
        let mut rows: Vec<(&RefHash, &Known)> = table.iter().collect();
        rows.sort_unstable_by_key(|(hash, _)| **hash);
        let mut filter = Filter(vec![0; Filter::bytes_for(rows.len())]);
        for (hash, _) in &rows {
            filter.add(hash);
        }
        let until_ms = rows.iter().map(|(_, known)| known.until_ms).max();
        let mut bytes = Vec::with_capacity(HEADER + filter.0.len() + rows.len() * ROW);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&(rows.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&until_ms.unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(&filter.0);
        for (hash, known) in &rows {
            bytes.extend_from_slice(*hash);
            bytes.extend_from_slice(&known.seq.0.to_le_bytes());
            bytes.extend_from_slice(&known.until_ms.to_le_bytes());
        }
        let path = folder.join(format!("{NAME}{number}"));
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        File::open(folder)?.sync_all()?;
        Ok(Self {
            number,
            path,
            file,
            count: rows.len(),
            until_ms: until_ms.unwrap_or(0),
            filter,
        })
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    /// After this none of its refs counts.
    pub fn until_ms(&self) -> i64 {
        self.until_ms
    }

    pub fn get(&self, hash: &RefHash) -> io::Result<Option<Known>> {
        if !self.filter.may_have(hash) {
            return Ok(None);
        }
        let first = (HEADER + self.filter.0.len()) as u64;
        let (mut low, mut high) = (0, self.count);
        let mut row = [0; ROW];
        while low < high {
            let middle = low.midpoint(high);
            self.file
                .read_exact_at(&mut row, first + (middle * ROW) as u64)?;
            let (there, rest) = row.split_at(REF_BYTES);
            match there.cmp(hash) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let (seq, until_ms) = rest.split_at(8);
                    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
                    return Ok(Some(Known {
                        seq: Seq(number(seq)),
                        until_ms: number(until_ms).cast_signed(),
                    }));
                }
            }
        }
        Ok(None)
    }

    pub fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, file = %self.path.display(), "a file of expired refs is not removed");
        }
    }
}

/// A Bloom filter. A hash brings its own randomness.
#[derive(Debug)]
struct Filter(Vec<u8>);

impl Filter {
    fn bytes_for(refs: usize) -> usize {
        (refs * BITS_PER_REF).div_ceil(8).max(1)
    }

    fn bits(&self, hash: &RefHash) -> impl Iterator<Item = (usize, u8)> + use<> {
        let (first, second) = hash.split_at(8);
        let number = |half: &[u8]| half.try_into().map_or(0, u64::from_le_bytes);
        let (first, second) = (number(first), number(second) | 1);
        let bits = self.0.len() as u64 * 8;
        (0..PROBES).map(move |n| {
            let bit = first.wrapping_add(n.wrapping_mul(second)) % bits;
            let byte = usize::try_from(bit / 8).unwrap_or(0);
            (byte, 1 << (bit % 8))
        })
    }

    fn add(&mut self, hash: &RefHash) {
        for (byte, bit) in self.bits(hash) {
            self.0[byte] |= bit;
        }
    }

    fn may_have(&self, hash: &RefHash) -> bool {
        self.bits(hash).all(|(byte, bit)| self.0[byte] & bit != 0)
    }
}
