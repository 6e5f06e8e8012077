//! What can go wrong with the sandbox itself, as opposed to the program in it.

use super::probe::TierLevel;

/// A failure of the sandbox. What the program did, however bad, is an [`Outcome`](super::Outcome).
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The program can't be run as written; `field` names what to change.
    #[error("{field}: {reason}")]
    Invalid { field: String, reason: String },
    /// The machine gives fewer layers than the policy asks for.
    #[error(
        "this machine gives the sandbox tier `{found}`, the configuration asks for `{required}`; missing: {missing}"
    )]
    TierTooWeak {
        found: TierLevel,
        required: TierLevel,
        missing: String,
    },
    /// The driver can't work on this machine at all.
    #[error("the sandbox can't start on this machine: {0}")]
    Unavailable(String),
    /// The helper process or the box died under the program. What the program did is unknown; run it again.
    #[error("the sandbox lost the program: {0}")]
    Lost(String),
}

impl SandboxError {
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// Whether the same program may succeed when it is run again.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Lost(_))
    }
}
