//! In which lives of the machine the journal was written: a file that nobody synced may come back shorter from a power
//! failure, with nothing in it that tells.
//!
//! A journal says whose life what follows was written in. Where the next life is another machine's start, and the one before
//! did not end by saying so, the rooms that stand there may lack their last entries.

pub const BOOT_BYTES: usize = 16;

/// One start of the machine, as seen by one opening of the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Tells one start of the machine from every other; zeros where the system does not tell.
    pub boot: [u8; BOOT_BYTES],
    /// Whatever is acknowledged is on the disk. Also written as the last frame of a log that was closed: whoever finds it there finds
    /// everything before it.
    pub is_kept: bool,
}

impl Life {
    /// The present one.
    pub fn now(is_kept: bool) -> Self {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot = uuid::Uuid::parse_str(text.trim()).unwrap_or_default();
        Self {
            boot: boot.into_bytes(),
            is_kept,
        }
    }

    /// May something be missing of what was written in `before`, now that this life has begun?
    pub fn may_lack(self, before: Option<Self>) -> bool {
        // A journal that names no life is of an older release: what became of it is not known.
        before.is_none_or(|before| before.boot != self.boot && !before.is_kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(boot: u8, is_kept: bool) -> Life {
        Life {
            boot: [boot; BOOT_BYTES],
            is_kept,
        }
    }

    #[test]
    fn only_another_start_of_the_machine_may_have_lost_what_was_not_synced() {
        let now = life(2, false);
        assert!(now.may_lack(Some(life(1, false))));
        assert!(now.may_lack(None));
        assert!(!now.may_lack(Some(life(1, true))), "synced, or closed");
        assert!(!now.may_lack(Some(life(2, false))), "only the process died");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_machine_tells_its_life() {
        assert_eq!(Life::now(false), Life::now(false));
        assert_ne!(Life::now(false).boot, [0; BOOT_BYTES]);
    }
}
