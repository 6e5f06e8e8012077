//! Runtimes with a heap of their own give up when that is full, before the box's memory is: that is running out of memory
//! too.

use atelier_shared::domain::language::Exhausted;
use bytes::Bytes;

use super::{StepOutcome, Verdict};

const MIB: u64 = 1024 * 1024;

/// Turns the step's end into [`Verdict::OutOfMemory`] where the runtime ended as it does with a full heap, and the kernel saw
/// at least half of that heap in use: words alone a program could say for itself.
pub fn judge(exhausted: Exhausted, heap_bytes: u64, step: &mut StepOutcome) {
    let says = |bytes: &Bytes, words: &str| String::from_utf8_lossy(bytes).contains(words);
    let gave_up = match exhausted {
        Exhausted::Aborts(words) => step.verdict == Verdict::Signaled && says(&step.stderr, words),
        Exhausted::Exits(code, words) => {
            step.verdict == Verdict::Exited
                && step.exit_code == Some(code)
                && says(&step.stdout, words)
        }
    };
    if gave_up && step.usage.max_memory_bytes >= heap_bytes / 2 {
        step.verdict = Verdict::OutOfMemory;
        step.exit_code = None;
        step.message = Some(format!("its heap of {heap_bytes} bytes was full"));
    }
}

/// What a runtime with a heap of its own is given for it.
pub fn heap_bytes(memory_bytes: u64) -> u64 {
    (memory_bytes / MIB * 3 / 4).max(1) * MIB
}

#[cfg(test)]
mod tests {
    use atelier_shared::domain::job::Usage;

    use super::*;

    #[test]
    fn a_full_heap_is_told_by_the_runtime_s_end_and_the_kernel_s_count() {
        let ended = |verdict, exit_code, said: &str, bytes| {
            let mut step = StepOutcome {
                verdict,
                exit_code,
                signal: None,
                stdout: Bytes::copy_from_slice(said.as_bytes()),
                stderr: Bytes::copy_from_slice(said.as_bytes()),
                truncated: false,
                usage: Usage {
                    max_memory_bytes: bytes,
                    ..Usage::default()
                },
                message: None,
            };
            for exhausted in [Exhausted::Aborts("full"), Exhausted::Exits(3, "full")] {
                judge(exhausted, 100, &mut step);
            }
            step.verdict
        };
        let full = Verdict::OutOfMemory;
        assert_eq!(ended(Verdict::Signaled, None, "heap full", 90), full);
        assert_eq!(ended(Verdict::Exited, Some(3), "heap full", 90), full);
        // Words alone, another end, or memory that was never used.
        assert_ne!(ended(Verdict::Exited, Some(1), "heap full", 90), full);
        assert_ne!(ended(Verdict::Exited, Some(3), "heap full", 40), full);
        assert_ne!(ended(Verdict::Signaled, None, "", 90), full);
    }
}
