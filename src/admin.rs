//! `atelier admin`: what only somebody with the stores' credentials may do.

use anyhow::{Context, bail};
use atelier_shared::ports::Records;

/// `grant NAME` or `revoke NAME`.
pub async fn run(records: &dyn Records, arguments: &[String]) -> anyhow::Result<String> {
    let (is_admin, name) = match arguments {
        [verb, name] if verb == "grant" => (true, name),
        [verb, name] if verb == "revoke" => (false, name),
        _ => bail!(
            "usage: atelier admin grant NAME | atelier admin revoke NAME | atelier admin callback-secret"
        ),
    };
    let found = records
        .set_admin(name, is_admin)
        .await
        .context("change the account")?;
    if !found {
        bail!("there is no account named {name}");
    }
    let word = if is_admin { "is" } else { "is no longer" };
    Ok(format!(
        "{name} {word} an administrator (from the next login or refresh on)\n"
    ))
}
