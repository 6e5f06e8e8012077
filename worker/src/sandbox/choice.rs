//! Which driver runs code on this machine: the one asked for, or the first that gives the tier asked for.

use std::sync::Arc;

use clap::ValueEnum;

use super::{
    BoxKind, GvisorConfig, GvisorSandbox, NsConfig, NsSandbox, Policy, Sandbox, SandboxError,
};

/// A driver, or the choice among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum DriverChoice {
    /// `ns`, else `gvisor`, else `landlock`: the first that gives the tier asked for
    #[default]
    Auto,
    /// Namespaces, and all other walls within them
    Ns,
    /// Landlock and seccomp alone, for pods that forbid user namespaces; one program at a time
    Landlock,
    /// A kernel of each program's own, by the runsc of this machine
    Gvisor,
}

/// Starts the driver, probed and within the policy.
///
/// # Errors
/// That of the driver asked for; where any would do, [`SandboxError::Unavailable`] with what each of them said.
pub async fn start(
    choice: DriverChoice,
    boxes: NsConfig,
    gvisor: GvisorConfig,
    policy: Policy,
) -> Result<Arc<dyn Sandbox>, SandboxError> {
    let tried: &[DriverChoice] = match choice {
        DriverChoice::Auto => &[
            DriverChoice::Ns,
            DriverChoice::Gvisor,
            DriverChoice::Landlock,
        ],
        DriverChoice::Ns => &[DriverChoice::Ns],
        DriverChoice::Gvisor => &[DriverChoice::Gvisor],
        DriverChoice::Landlock => &[DriverChoice::Landlock],
    };
    let mut refusals = Vec::new();
    for driver in tried {
        let started: Result<Arc<dyn Sandbox>, SandboxError> = match driver {
            DriverChoice::Gvisor => GvisorSandbox::start(gvisor.clone(), policy)
                .await
                .map(|sandbox| Arc::new(sandbox) as Arc<dyn Sandbox>),
            driver => {
                let kind = match driver {
                    DriverChoice::Landlock => BoxKind::Landlock,
                    _ => BoxKind::Namespaces,
                };
                let config = NsConfig {
                    kind,
                    ..boxes.clone()
                };
                NsSandbox::start(config, policy)
                    .await
                    .map(|sandbox| Arc::new(sandbox) as Arc<dyn Sandbox>)
            }
        };
        match started {
            Ok(sandbox) => return Ok(sandbox),
            Err(refusal) => refusals.push((driver, refusal)),
        }
    }
    if refusals.len() == 1
        && let Some((_, refusal)) = refusals.pop()
    {
        return Err(refusal);
    }
    let said = refusals.iter().map(|(driver, refusal)| {
        let name = driver.to_possible_value();
        let name = name.as_ref().map_or("", |value| value.get_name());
        format!("{name}: {refusal}")
    });
    Err(SandboxError::Unavailable(
        said.collect::<Vec<_>>().join("; "),
    ))
}
