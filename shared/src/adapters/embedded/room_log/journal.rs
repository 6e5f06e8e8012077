//! The journal's file: written at its end, read in one go at the start and by place later, and written anew when most of it
//! is over.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{self, Frame, HEADER};

const NAME: &str = "log.journal";
const NEW_NAME: &str = "log.journal.new";
/// What the file begins with, its version in it.
const MAGIC: [u8; 16] = *b"atelier-log-0001";

/// See the module. One process writes it: the folder is locked.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    file: Arc<File>,
    end: u64,
    /// What stands in the file is no longer known.
    broken: bool,
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Journal {
    /// Opens or makes the journal in `folder`; `each` is given every frame's payload and where in the file that lies. What a
    /// crash left unfinished at the end was never acknowledged, and is cut off.
    pub fn open(
        folder: &Path,
        mut each: impl FnMut(&[u8], u64) -> Result<(), String>,
    ) -> io::Result<Self> {
        let path = folder.join(NAME);
        let half_written = folder.join(NEW_NAME);
        if half_written.exists() {
            std::fs::remove_file(half_written)?;
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        let length = file.metadata()?.len();
        let mut end = MAGIC.len() as u64;
        if length < end {
            file.set_len(0)?;
            file.write_all_at(&MAGIC, 0)?;
        } else {
            let mut reader = BufReader::with_capacity(1 << 20, &file);
            let mut magic = [0; MAGIC.len()];
            reader.read_exact(&mut magic)?;
            if magic != MAGIC {
                let text = format!("{} is not a journal of this version", path.display());
                return Err(invalid(text));
            }
            let mut payload = Vec::new();
            while let Some(at) = next_frame(&mut reader, &mut payload, &mut end)? {
                each(&payload, at)
                    .map_err(|what| invalid(format!("{}, at {at}: {what}", path.display())))?;
            }
            if end < length {
                let bytes = length - end;
                tracing::warn!(file = %path.display(), bytes, "the log's end was not written to its end; it is cut off");
                file.set_len(end)?;
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            file: Arc::new(file),
            end,
            broken: false,
        })
    }

    /// Returns where in the file the frame begins. An error leaves it as it was, or the journal broken.
    pub fn write(&mut self, frame: &mut Frame) -> io::Result<u64> {
        if self.broken {
            return Err(io::Error::other("a write before this one failed"));
        }
        let bytes = frame.seal();
        if let Err(error) = self.file.write_all_at(bytes, self.end) {
            self.broken = self.file.set_len(self.end).is_err();
            return Err(error);
        }
        let at = self.end;
        self.end += bytes.len() as u64;
        Ok(at)
    }

    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Nobody can know any more what is on the disk.
    pub fn break_off(&mut self) {
        self.broken = true;
    }

    pub fn len(&self) -> u64 {
        self.end
    }

    /// What is read by place. It stays readable when the journal is written anew.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// A journal that is to take this one's place.
    pub fn anew(&self) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.folder.join(NEW_NAME))?;
        file.write_all_at(&MAGIC, 0)?;
        Ok(Self {
            folder: self.folder.clone(),
            file: Arc::new(file),
            end: MAGIC.len() as u64,
            broken: false,
        })
    }

    /// Puts `new` in this one's place, once it is on the disk.
    pub fn replace(&mut self, new: Self) -> io::Result<()> {
        new.file.sync_all()?;
        std::fs::rename(self.folder.join(NEW_NAME), self.folder.join(NAME))?;
        *self = new;
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        if let Err(error) = synced {
            // If power fails now the old file may be there again: a log that was rolled back.
            tracing::error!(%error, "the journal's new name may not be on the disk");
        }
        Ok(())
    }
}

/// The next whole frame's payload and where it lies; `None` at the end, or before what is not whole.
fn next_frame(
    reader: &mut impl Read,
    payload: &mut Vec<u8>,
    end: &mut u64,
) -> io::Result<Option<u64>> {
    let mut header = [0; HEADER];
    if !fill(reader, &mut header)? {
        return Ok(None);
    }
    let Some((length, sum)) = frame::header(&header) else {
        return Ok(None);
    };
    payload.resize(length, 0);
    if !fill(reader, payload)? || !frame::is_whole(payload, sum) {
        return Ok(None);
    }
    let at = *end + HEADER as u64;
    *end = at + length as u64;
    Ok(Some(at))
}

/// False: the file ends before.
fn fill(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(n: u64) -> Frame {
        let mut frame = Frame::new();
        frame.removed(n);
        frame
    }

    fn payloads(folder: &Path) -> (Journal, Vec<Vec<u8>>) {
        let mut read = Vec::new();
        let journal = Journal::open(folder, |payload, at| {
            read.push((payload.to_vec(), at));
            Ok(())
        })
        .expect("a journal");
        // What is read by place is what was read in order.
        for (payload, at) in &read {
            let mut there = vec![0; payload.len()];
            journal.file().read_exact_at(&mut there, *at).unwrap();
            assert_eq!(&there, payload);
        }
        (
            journal,
            read.into_iter().map(|(payload, _)| payload).collect(),
        )
    }

    #[test]
    fn wherever_a_crash_cuts_the_file_whole_frames_before_it_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = payloads(folder.path());
        let mut ends = Vec::new();
        for n in 0..3 {
            journal.write(&mut frame(n)).unwrap();
            ends.push(journal.len());
        }
        let bytes = std::fs::read(folder.path().join(NAME)).unwrap();
        for cut in 0..=bytes.len() {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(NAME), &bytes[..cut]).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut as u64).count();
            let (mut journal, read) = payloads(folder.path());
            assert_eq!(read.len(), whole, "cut at {cut}");
            journal.write(&mut frame(9)).unwrap();
            let (_, read) = payloads(folder.path());
            assert_eq!(read.len(), whole + 1, "cut at {cut}, and written to");
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_journal_before_its_frame() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = payloads(folder.path());
        journal.write(&mut frame(1)).unwrap();
        let first_end = usize::try_from(journal.len()).unwrap();
        journal.write(&mut frame(2)).unwrap();
        let path = folder.path().join(NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[first_end + HEADER + 1] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(payloads(folder.path()).1.len(), 1);
        assert_eq!(std::fs::metadata(path).unwrap().len(), first_end as u64);
    }

    #[test]
    fn another_programs_file_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        std::fs::write(&path, b"atelier-log-0002 and more").unwrap();
        let error = Journal::open(folder.path(), |_, _| Ok(())).unwrap_err();
        assert!(error.to_string().contains("log.journal"), "{error}");
        assert_eq!(std::fs::metadata(path).unwrap().len(), 25);
    }

    #[test]
    fn a_journal_written_anew_takes_the_place_of_the_old_one_at_once_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = payloads(folder.path());
        journal.write(&mut frame(1)).unwrap();
        let mut new = journal.anew().unwrap();
        new.write(&mut frame(2)).unwrap();
        new.write(&mut frame(3)).unwrap();
        // A crash before it is in its place.
        let copy = tempfile::tempdir().unwrap();
        for name in [NAME, NEW_NAME] {
            std::fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
        }
        assert_eq!(payloads(copy.path()).1.len(), 1);
        assert!(!copy.path().join(NEW_NAME).exists());
        journal.replace(new).unwrap();
        journal.write(&mut frame(4)).unwrap();
        assert_eq!(payloads(folder.path()).1.len(), 3);
    }
}
