//! What one program may spend.

use atelier_shared::domain::job::AskedLimits;
use serde::{Deserialize, Serialize};

use super::SandboxError;

const MIB: u64 = 1024 * 1024;

/// What one step may spend; disk, inodes and processes are those of the whole box.
///
/// Files of the box live in memory, so what is written also counts towards `memory_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Wall clock of a step.
    pub wall_ms: u64,
    /// CPU time of a step, summed over all its processes.
    pub cpu_ms: u64,
    /// Memory of all processes together, without swap.
    pub memory_bytes: u64,
    /// Processes and threads alive at one time.
    pub pids: u32,
    /// Standard output and standard error together; beyond it the step is killed.
    pub output_bytes: u64,
    /// Bytes of files under the work folder, and the size of the largest file.
    pub disk_bytes: u64,
    /// Files and folders under the work folder.
    pub inodes: u64,
    /// Open files of one process.
    pub open_files: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wall_ms: 15_000,
            cpu_ms: 10_000,
            memory_bytes: 256 * MIB,
            pids: 64,
            output_bytes: MIB,
            disk_bytes: 64 * MIB,
            inodes: 4096,
            open_files: 256,
        }
    }
}

impl Limits {
    /// The most a program may ask for unless the configuration says otherwise.
    pub const CEILING: Self = Self {
        wall_ms: 300_000,
        cpu_ms: 300_000,
        memory_bytes: 2048 * MIB,
        pids: 512,
        output_bytes: 16 * MIB,
        disk_bytes: 1024 * MIB,
        inodes: 65_536,
        open_files: 1024,
    };

    /// The least with which a process can be started at all.
    const FLOOR: Self = Self {
        wall_ms: 1,
        cpu_ms: 1,
        memory_bytes: 4 * MIB,
        pids: 1,
        output_bytes: 0,
        disk_bytes: 4096,
        inodes: 16,
        open_files: 8,
    };

    /// These limits with what was asked for in their place, cut to `ceiling`.
    #[must_use]
    pub fn asked(self, asked: &AskedLimits, ceiling: &Self) -> Self {
        let pids = asked
            .pids
            .map_or(self.pids, |pids| u32::try_from(pids).unwrap_or(u32::MAX));
        Self {
            wall_ms: asked.wall_ms.unwrap_or(self.wall_ms).min(ceiling.wall_ms),
            cpu_ms: asked.cpu_ms.unwrap_or(self.cpu_ms).min(ceiling.cpu_ms),
            memory_bytes: asked
                .memory_bytes
                .unwrap_or(self.memory_bytes)
                .min(ceiling.memory_bytes),
            pids: pids.min(ceiling.pids),
            output_bytes: asked
                .output_bytes
                .unwrap_or(self.output_bytes)
                .min(ceiling.output_bytes),
            disk_bytes: asked
                .disk_bytes
                .unwrap_or(self.disk_bytes)
                .min(ceiling.disk_bytes),
            inodes: self.inodes.min(ceiling.inodes),
            open_files: self.open_files.min(ceiling.open_files),
        }
    }

    /// As whoever asks for limits knows them.
    pub fn told(&self) -> AskedLimits {
        AskedLimits {
            wall_ms: Some(self.wall_ms),
            cpu_ms: Some(self.cpu_ms),
            memory_bytes: Some(self.memory_bytes),
            pids: Some(self.pids.into()),
            output_bytes: Some(self.output_bytes),
            disk_bytes: Some(self.disk_bytes),
        }
    }

    /// Checks every limit against the ceiling and the least that makes sense.
    ///
    /// # Errors
    /// [`SandboxError::Invalid`] naming the field as `limits.<name>`.
    pub fn check(&self, ceiling: &Self) -> Result<(), SandboxError> {
        let rows = [
            (
                "wall_ms",
                self.wall_ms,
                Self::FLOOR.wall_ms,
                ceiling.wall_ms,
            ),
            ("cpu_ms", self.cpu_ms, Self::FLOOR.cpu_ms, ceiling.cpu_ms),
            (
                "memory_bytes",
                self.memory_bytes,
                Self::FLOOR.memory_bytes,
                ceiling.memory_bytes,
            ),
            (
                "pids",
                self.pids.into(),
                Self::FLOOR.pids.into(),
                ceiling.pids.into(),
            ),
            (
                "output_bytes",
                self.output_bytes,
                Self::FLOOR.output_bytes,
                ceiling.output_bytes,
            ),
            (
                "disk_bytes",
                self.disk_bytes,
                Self::FLOOR.disk_bytes,
                ceiling.disk_bytes,
            ),
            ("inodes", self.inodes, Self::FLOOR.inodes, ceiling.inodes),
            (
                "open_files",
                self.open_files,
                Self::FLOOR.open_files,
                ceiling.open_files,
            ),
        ];
        for (name, value, least, most) in rows {
            if value < least || value > most {
                return Err(SandboxError::invalid(
                    format!("limits.{name}"),
                    format!("{value} is not between {least} and {most}"),
                ));
            }
        }
        Ok(())
    }
}
