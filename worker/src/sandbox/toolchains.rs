//! Which languages this machine can run.

/// Folders outside `/usr` that hold toolchains and are shown to boxes.
pub fn folders() -> Vec<String> {
    Vec::new()
}
