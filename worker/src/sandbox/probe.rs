//! Which walls this machine gives, and whether they are enough.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SandboxError;

/// One wall between a program and the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    UserNamespace,
    MountNamespace,
    PidNamespace,
    NetworkNamespace,
    IpcNamespace,
    UtsNamespace,
    CgroupNamespace,
    /// Each box has a host user of its own, not the worker's.
    OwnHostUser,
    /// A `/proc` that shows the box alone and no kernel settings.
    PrivateProc,
    NoCapabilities,
    NoNewPrivileges,
    Seccomp,
    Landlock,
    /// No signal leaves the box, though processes outside are in sight.
    SignalScope,
    /// No socket can be opened at all.
    NoNetwork,
    /// A kernel of its own, in user space or a virtual machine.
    OwnKernel,
    /// Memory is limited and counted over all processes by the kernel.
    MemoryControl,
    /// So is the number of processes.
    ProcessControl,
    /// CPU time is counted over all processes by the kernel.
    CpuAccounting,
}

impl Layer {
    /// Without these the namespace driver runs nothing, whatever the policy says.
    pub const INDISPENSABLE: &'static [Self] = &[
        Self::UserNamespace,
        Self::MountNamespace,
        Self::PidNamespace,
        Self::NetworkNamespace,
        Self::IpcNamespace,
        Self::UtsNamespace,
        Self::NoCapabilities,
        Self::NoNewPrivileges,
        Self::Seccomp,
    ];

    /// Without these the driver that needs no namespaces runs nothing. Signals must be held back by one of two: see
    /// [`Tier::judge`].
    pub const WITHOUT_NAMESPACES: &'static [Self] = &[
        Self::NoCapabilities,
        Self::NoNewPrivileges,
        Self::Seccomp,
        Self::Landlock,
        Self::NoNetwork,
    ];

    /// Without one of these the tier is [`TierLevel::Reduced`].
    pub const FULL: &'static [Self] = &[
        Self::OwnHostUser,
        Self::Landlock,
        Self::MemoryControl,
        Self::ProcessControl,
        Self::CpuAccounting,
    ];

    /// The name shown to operators.
    pub fn name(self) -> &'static str {
        match self {
            Self::UserNamespace => "user namespace",
            Self::MountNamespace => "mount namespace",
            Self::PidNamespace => "pid namespace",
            Self::NetworkNamespace => "network namespace",
            Self::IpcNamespace => "ipc namespace",
            Self::UtsNamespace => "uts namespace",
            Self::CgroupNamespace => "cgroup namespace",
            Self::OwnHostUser => "own host user",
            Self::PrivateProc => "private /proc",
            Self::NoCapabilities => "no capabilities",
            Self::NoNewPrivileges => "no new privileges",
            Self::Seccomp => "seccomp",
            Self::Landlock => "landlock",
            Self::SignalScope => "signal scope",
            Self::NoNetwork => "no network",
            Self::OwnKernel => "own kernel",
            Self::MemoryControl => "memory control",
            Self::ProcessControl => "process control",
            Self::CpuAccounting => "cpu accounting",
        }
    }
}

/// Whether a layer stands, seen from inside a box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerState {
    /// With a detail such as a version; may be empty.
    Present(String),
    /// With the reason.
    Missing(String),
}

/// One line of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerReport {
    pub layer: Layer,
    pub state: LayerState,
}

impl LayerReport {
    pub(crate) fn new(layer: Layer, found: Result<String, String>) -> Self {
        let state = match found {
            Ok(detail) => LayerState::Present(detail),
            Err(reason) => LayerState::Missing(reason),
        };
        Self { layer, state }
    }
}

/// How strong a sandbox is, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TierLevel {
    /// No namespaces: Landlock and seccomp hold, and the host's processes and file names can be guessed at.
    Basic,
    /// Namespaces and seccomp hold, but a layer behind them is missing.
    Reduced,
    /// Every layer holds.
    Full,
}

impl fmt::Display for TierLevel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Basic => "basic",
            Self::Reduced => "reduced",
            Self::Full => "full",
        })
    }
}

impl FromStr for TierLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "basic" => Ok(Self::Basic),
            "reduced" => Ok(Self::Reduced),
            "full" => Ok(Self::Full),
            other => Err(format!(
                "`{other}` is no sandbox tier; say `full`, `reduced` or `basic`"
            )),
        }
    }
}

/// What a driver found it can promise here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tier {
    /// The driver's name: `ns`, `gvisor` or `landlock`.
    pub driver: &'static str,
    pub level: TierLevel,
    pub layers: Vec<LayerReport>,
}

impl Tier {
    /// Of a driver that has not been probed yet.
    pub(crate) fn none(driver: &'static str) -> Self {
        Self {
            driver,
            level: TierLevel::Basic,
            layers: Vec::new(),
        }
    }

    /// Judges a probe.
    ///
    /// # Errors
    /// [`SandboxError::Unavailable`] when an indispensable layer is missing.
    pub(crate) fn judge(
        driver: &'static str,
        layers: Vec<LayerReport>,
    ) -> Result<Self, SandboxError> {
        let stands = |layer: Layer| {
            layers.iter().any(|report| {
                report.layer == layer && matches!(report.state, LayerState::Present(_))
            })
        };
        let (needed, best) = match driver {
            "landlock" => (Layer::WITHOUT_NAMESPACES, TierLevel::Basic),
            "gvisor" => (&[Layer::OwnKernel] as &[Layer], TierLevel::Full),
            _ => (Layer::INDISPENSABLE, TierLevel::Full),
        };
        if let Some(layer) = needed.iter().find(|layer| !stands(**layer)) {
            return Err(SandboxError::Unavailable(format!("no {}", layer.name())));
        }
        if driver == "landlock" && !stands(Layer::OwnHostUser) && !stands(Layer::SignalScope) {
            return Err(SandboxError::Unavailable(
                "neither its own host user nor a signal scope: a program could kill the worker"
                    .into(),
            ));
        }
        // What a kernel of its own does not need from the host's.
        let behind = |layer: &Layer| driver == "gvisor" && *layer == Layer::Landlock;
        let full = Layer::FULL
            .iter()
            .all(|layer| stands(*layer) || behind(layer));
        let level = match best {
            TierLevel::Full if !full => TierLevel::Reduced,
            best => best,
        };
        Ok(Self {
            driver,
            level,
            layers,
        })
    }

    /// The layers that don't stand, with the reason for each.
    pub fn missing(&self) -> Vec<String> {
        let reason = |report: &LayerReport| match &report.state {
            LayerState::Missing(reason) => Some(format!("{} ({reason})", report.layer.name())),
            LayerState::Present(_) => None,
        };
        self.layers.iter().filter_map(reason).collect()
    }
}

impl fmt::Display for Tier {
    /// One line for the start banner: `ns, full: user namespace, …, landlock (ABI 7), …; missing: …`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, {}:", self.driver, self.level)?;
        let mut comma = "";
        for report in &self.layers {
            if let LayerState::Present(detail) = &report.state {
                write!(formatter, "{comma} {}", report.layer.name())?;
                if !detail.is_empty() {
                    write!(formatter, " ({detail})")?;
                }
                comma = ",";
            }
        }
        let missing = self.missing();
        if !missing.is_empty() {
            write!(formatter, "; missing: {}", missing.join(", "))?;
        }
        Ok(())
    }
}

/// Which tier is enough for code nobody vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Anything below refuses to start.
    pub minimum: TierLevel,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            minimum: TierLevel::Full,
        }
    }
}

impl Policy {
    /// # Errors
    /// [`SandboxError::TierTooWeak`] with what is missing.
    pub fn check(&self, tier: &Tier) -> Result<(), SandboxError> {
        if tier.level >= self.minimum {
            return Ok(());
        }
        Err(SandboxError::TierTooWeak {
            found: tier.level,
            required: self.minimum,
            missing: tier.missing().join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<LayerReport> {
        let layers = Layer::INDISPENSABLE.iter().chain(Layer::FULL);
        layers
            .map(|layer| LayerReport::new(*layer, Ok(String::new())))
            .collect()
    }

    fn without(missing: Layer) -> Vec<LayerReport> {
        let mut layers = all();
        for report in &mut layers {
            if report.layer == missing {
                report.state = LayerState::Missing("not here".into());
            }
        }
        layers
    }

    #[test]
    fn a_missing_cgroup_lowers_the_tier_and_the_default_policy_refuses_it() {
        let tier = Tier::judge("ns", without(Layer::MemoryControl)).expect("reduced is a tier");
        assert_eq!(tier.level, TierLevel::Reduced);
        let refusal = Policy::default()
            .check(&tier)
            .expect_err("full is asked for")
            .to_string();
        assert!(refusal.contains("memory control (not here)"), "{refusal}");
        assert!(
            Policy {
                minimum: TierLevel::Reduced
            }
            .check(&tier)
            .is_ok()
        );
    }

    #[test]
    fn a_missing_namespace_is_refused_whatever_the_policy() {
        for layer in Layer::INDISPENSABLE {
            assert!(Tier::judge("ns", without(*layer)).is_err(), "{layer:?}");
        }
    }

    #[test]
    fn without_namespaces_the_tier_is_basic_and_signals_must_be_held_back() {
        let report = |layer: &Layer| LayerReport::new(*layer, Ok(String::new()));
        let walls: Vec<LayerReport> = Layer::WITHOUT_NAMESPACES.iter().map(report).collect();
        assert!(Tier::judge("landlock", walls.clone()).is_err());
        for holder in [Layer::OwnHostUser, Layer::SignalScope] {
            let with = [walls.clone(), vec![report(&holder)]].concat();
            let tier = Tier::judge("landlock", with).expect("a tier");
            assert_eq!(tier.level, TierLevel::Basic);
            for minimum in [TierLevel::Reduced, TierLevel::Full] {
                assert!(Policy { minimum }.check(&tier).is_err());
            }
        }
    }

    #[test]
    fn a_layer_nobody_reported_counts_as_missing() {
        assert!(Tier::judge("ns", Vec::new()).is_err());
    }
}
