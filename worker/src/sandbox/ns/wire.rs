//! What worker, helper and box say to each other: frames of length, kind and body over stream sockets.
//!
//! Worker and helper share one binary, so this is no public protocol and carries no version.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;

use atelier_shared::domain::job::Usage;
use bytes::{Buf as _, Bytes};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::accounting::AccountingChoice;
use super::kind::BoxKind;
use crate::sandbox::program::{MAX_ARGUMENT_BYTES, MAX_CONTENT_BYTES, MAX_FILES, MAX_PATH_BYTES};
use crate::sandbox::{
    ArtifactRequest, Channel, LayerReport, Limits, Program, ProgramFile, Skipped, Step, StepKind,
    Verdict,
};

/// Length of a frame's head: `u32` length of kind and body, `u8` kind.
const HEAD: usize = 5;
/// Most bytes of output or artifact in one frame.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Room made for one reading.
const READ_BYTES: usize = 16 * 1024;
/// Most bytes a helper or box may say at once to the one above it.
pub const MAX_REPORT_BYTES: usize = 1024 * 1024;
/// Most bytes of a program: contents, per file what names it, and two steps. In JSON a byte may take six.
pub const MAX_PROGRAM_BYTES: usize = MAX_CONTENT_BYTES
    + MAX_FILES * (MAX_PATH_BYTES * 6 + 64)
    + 2 * MAX_ARGUMENT_BYTES * 6
    + 1024 * 1024;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Worker to helper, first of all: [`Configuration`].
    Configure = 1,
    /// Helper to worker: it can take programs; [`Ready`].
    Ready,
    /// Helper to worker: it can't, in words.
    Refused,
    /// Worker to helper on a program's own socket: the program.
    Program,
    /// Helper to worker: [`OutputHead`] and bytes.
    Output,
    /// Box to worker through the helper: a file's path begins, JSON string.
    ArtifactPath,
    /// Box to worker through the helper: bytes of the file begun last.
    ArtifactData,
    /// Helper to worker: [`Done`]; the last frame.
    Done,
    /// Helper to worker: [`Failure`]; the last frame.
    Failed,
    /// Helper to box: its user is mapped, go on.
    Enter,
    /// Box to helper: it stands; [`Ready`]'s layers.
    BoxReady,
    /// Helper to box: files to write; head and contents.
    Files,
    /// Helper to box: start a process; [`StepOrder`] and standard input.
    Step,
    /// Box to helper: [`StepEnd`].
    StepEnd,
    /// Helper to box: bring out files; [`ArtifactRequest`].
    Collect,
    /// Box to helper: `Vec<Skipped>`.
    Collected,
    /// Box to helper: [`Failure`]; the box is no use any more.
    BoxFailed,
}

impl Kind {
    const ALL: [Self; 17] = [
        Self::Configure,
        Self::Ready,
        Self::Refused,
        Self::Program,
        Self::Output,
        Self::ArtifactPath,
        Self::ArtifactData,
        Self::Done,
        Self::Failed,
        Self::Enter,
        Self::BoxReady,
        Self::Files,
        Self::Step,
        Self::StepEnd,
        Self::Collect,
        Self::Collected,
        Self::BoxFailed,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// How the helper is to work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Configuration {
    pub kind: BoxKind,
    /// Where boxes without a file system of their own have their folders.
    pub work_folder: Option<String>,
    /// Programs running at one time.
    pub slots: usize,
    /// Boxes kept ready.
    pub warm: usize,
    /// First host user of the boxes; one each.
    pub first_host_user: u32,
    pub accounting: AccountingChoice,
    /// Folders outside `/usr` that hold toolchains.
    pub toolchain_folders: Vec<String>,
    /// Limits for which boxes are kept ready; other disk limits get a box made to measure.
    pub usual: Limits,
}

/// The helper's first words.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ready {
    pub layers: Vec<LayerReport>,
    pub slots: usize,
}

/// The head of a program; contents follow in the order compile input, run input, files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProgramHead {
    pub compile: Option<Step>,
    pub compile_input: usize,
    pub run: Step,
    pub run_input: usize,
    pub files: Vec<FileHead>,
    pub limits: Limits,
    pub compile_limits: Option<Limits>,
    pub artifacts: Option<ArtifactRequest>,
}

/// One file of a program, its content elsewhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileHead {
    pub path: String,
    pub length: usize,
    pub executable: bool,
}

/// One process for a box to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepOrder {
    pub step: Step,
    pub limits: Limits,
    /// Hold each process's data segment to the memory limit.
    pub limit_data_segment: bool,
    /// Processes of the same user that are not the box's, and count towards the same limit.
    pub tasks_beside: u64,
}

/// How a process of a box ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepEnd {
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// Why it was never started.
    pub refusal: Option<String>,
    pub wall_us: u64,
}

/// One step as the helper saw it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepReport {
    pub verdict: Verdict,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub truncated: bool,
    pub usage: Usage,
    pub message: Option<String>,
}

/// The end of a program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    pub compile: Option<StepReport>,
    pub run: Option<StepReport>,
    pub skipped: Vec<Skipped>,
}

/// The sandbox's own failure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// The field at fault when it is the program's.
    pub field: Option<String>,
    pub reason: String,
}

/// Where a piece of output belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputHead {
    pub step: StepKind,
    pub channel: Channel,
    pub offset: u64,
}

impl OutputHead {
    const LENGTH: usize = 10;

    pub fn encode(self) -> [u8; Self::LENGTH] {
        let mut head = [0; Self::LENGTH];
        head[0] = u8::from(self.step == StepKind::Run);
        head[1] = u8::from(self.channel == Channel::Stderr);
        head[2..].copy_from_slice(&self.offset.to_le_bytes());
        head
    }

    pub fn decode(body: &mut Bytes) -> Option<Self> {
        if body.len() < Self::LENGTH {
            return None;
        }
        Some(Self {
            step: if body.get_u8() == 0 {
                StepKind::Compile
            } else {
                StepKind::Run
            },
            channel: if body.get_u8() == 0 {
                Channel::Stdout
            } else {
                Channel::Stderr
            },
            offset: body.get_u64_le(),
        })
    }
}

/// A frame of any body.
pub fn frame(kind: Kind, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(HEAD - 1 + length);
    // Bodies are bounded far below 4 GiB by the constants above; a longer one would be refused by the reader.
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    bytes.push(kind as u8);
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes
}

/// A frame whose body is JSON.
pub fn message<T: Serialize>(kind: Kind, body: &T) -> io::Result<Vec<u8>> {
    Ok(frame(kind, &[&serde_json::to_vec(body)?]))
}

/// A frame of a JSON head and contents.
pub fn message_with<T: Serialize>(kind: Kind, head: &T, contents: &[&[u8]]) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(head)?;
    let length = u32::try_from(head.len())
        .map_err(io::Error::other)?
        .to_le_bytes();
    let mut parts: Vec<&[u8]> = vec![&length, &head];
    parts.extend_from_slice(contents);
    Ok(frame(kind, &parts))
}

/// The body of [`message`].
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    Ok(serde_json::from_slice(body)?)
}

/// The head and contents of [`message_with`].
pub fn parse_with<T: DeserializeOwned>(mut body: Bytes) -> io::Result<(T, Bytes)> {
    if body.len() < 4 {
        return Err(malformed());
    }
    let length = body.get_u32_le() as usize;
    if body.len() < length {
        return Err(malformed());
    }
    let head = body.split_to(length);
    Ok((serde_json::from_slice(&head)?, body))
}

/// Takes the next `length` bytes of contents.
pub fn take(contents: &mut Bytes, length: usize) -> io::Result<Bytes> {
    if contents.len() < length {
        return Err(malformed());
    }
    Ok(contents.split_to(length))
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed frame")
}

/// A program as one frame.
pub fn program(program: &Program) -> io::Result<Vec<u8>> {
    let compile_input = program.compile.as_ref().map_or(&[][..], |step| &step.stdin);
    let mut contents: Vec<&[u8]> = vec![compile_input, &program.run.stdin];
    contents.extend(program.files.iter().map(|file| &file.content[..]));
    let head = |file: &ProgramFile| FileHead {
        path: file.path.clone(),
        length: file.content.len(),
        executable: file.executable,
    };
    let head = ProgramHead {
        compile: program.compile.clone(),
        compile_input: compile_input.len(),
        run: program.run.clone(),
        run_input: program.run.stdin.len(),
        files: program.files.iter().map(head).collect(),
        limits: program.limits,
        compile_limits: program.compile_limits,
        artifacts: program.artifacts.clone(),
    };
    message_with(Kind::Program, &head, &contents)
}

/// Puts frames together from whatever a socket gives.
#[derive(Debug)]
pub struct Inbox {
    bytes: Vec<u8>,
    longest: usize,
}

/// What reading once gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    Some,
    Nothing,
    End,
}

impl Inbox {
    /// `longest` bounds the body of a frame.
    pub fn new(longest: usize) -> Self {
        Self {
            bytes: Vec::new(),
            longest,
        }
    }

    /// Adds bytes read elsewhere.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Reads once.
    ///
    /// # Errors
    /// That of `read(2)`; a reset connection is an end.
    pub fn fill(&mut self, socket: impl AsFd) -> io::Result<Filled> {
        self.bytes.reserve(READ_BYTES);
        loop {
            return match rustix::io::read(&socket, rustix::buffer::spare_capacity(&mut self.bytes))
            {
                Ok(0) | Err(rustix::io::Errno::CONNRESET) => Ok(Filled::End),
                Ok(_) => Ok(Filled::Some),
                Err(rustix::io::Errno::AGAIN) => Ok(Filled::Nothing),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// `InvalidData` for a frame that is too long, empty or of an unknown kind.
    pub fn next(&mut self) -> io::Result<Option<(Kind, Bytes)>> {
        let Some(length) = self.bytes.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > self.longest.saturating_add(1) {
            return Err(malformed());
        }
        if self.bytes.len() < 4 + length {
            return Ok(None);
        }
        let rest = self.bytes.split_off(4 + length);
        let mut whole = Bytes::from(std::mem::replace(&mut self.bytes, rest));
        whole.advance(4);
        let kind = Kind::from_byte(whole.get_u8()).ok_or_else(malformed)?;
        Ok(Some((kind, whole)))
    }
}

/// Frames waiting for a socket that would block.
#[derive(Debug, Default)]
pub struct Outbox {
    frames: VecDeque<Bytes>,
    length: usize,
}

impl Outbox {
    pub fn push(&mut self, frame: Vec<u8>) {
        self.length += frame.len();
        self.frames.push_back(frame.into());
    }

    /// Bytes waiting.
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Writes what the socket takes.
    ///
    /// # Errors
    /// That of `write(2)` other than `EAGAIN`.
    pub fn flush(&mut self, socket: impl AsFd) -> io::Result<()> {
        while let Some(first) = self.frames.front_mut() {
            match rustix::io::write(&socket, first) {
                Ok(written) => {
                    first.advance(written);
                    self.length -= written;
                    if first.is_empty() {
                        self.frames.pop_front();
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_being_cut_anywhere() {
        let first = frame(
            Kind::Output,
            &[
                &OutputHead {
                    step: StepKind::Run,
                    channel: Channel::Stderr,
                    offset: 7,
                }
                .encode(),
                b"hi",
            ],
        );
        let both = [first, frame(Kind::Enter, &[])].concat();
        for cut in 0..both.len() {
            let mut inbox = Inbox::new(64);
            let mut seen = Vec::new();
            for part in [&both[..cut], &both[cut..]] {
                inbox.push(part);
                while let Some(frame) = inbox.next().expect("well formed") {
                    seen.push(frame);
                }
            }
            assert_eq!(seen.len(), 2, "cut at {cut}");
            let (kind, mut body) = seen.remove(0);
            assert_eq!(kind, Kind::Output);
            let head = OutputHead::decode(&mut body).expect("a head");
            assert_eq!(
                (head.step, head.channel, head.offset, &body[..]),
                (StepKind::Run, Channel::Stderr, 7, &b"hi"[..])
            );
            assert_eq!(seen.remove(0), (Kind::Enter, Bytes::new()));
        }
    }

    #[test]
    fn a_frame_beyond_its_bound_is_refused_before_it_is_read() {
        let mut inbox = Inbox::new(16);
        inbox.push(&frame(Kind::Output, &[&[0; 17]])[..4]);
        assert!(inbox.next().is_err());
    }

    #[test]
    fn a_head_longer_than_its_frame_is_refused() {
        let body = Bytes::from_static(&[255, 255, 255, 255, b'{', b'}']);
        assert!(parse_with::<Skipped>(body).is_err());
    }

    #[test]
    fn every_kind_is_known_by_its_byte() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index + 1);
            assert_eq!(Kind::from_byte(kind as u8), Some(kind));
        }
        assert_eq!(Kind::from_byte(0), None);
    }
}
