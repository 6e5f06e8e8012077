//! Promises of the Vault port.

mod families;
mod full;
mod once;
mod profiles;
mod revocations;
mod spending;
mod tickets;
mod tries;

use std::time::Duration;

use atelier_shared::domain::ids::{FamilyId, UserId};
use atelier_shared::ports::Family;
use chrono::{DateTime, SubsecRound, Utc};
use libtest_mimic::Trial;
use sha2::{Digest, Sha256};

pub fn trials(trials: &mut Vec<Trial>) {
    families::trials(trials);
    full::trials(trials);
    once::trials(trials);
    profiles::trials(trials);
    revocations::trials(trials);
    tickets::trials(trials);
    tries::trials(trials);
    spending::trials(trials);
}

const GRACE: Duration = Duration::from_secs(20);
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Now, as the store keeps it.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// The hash of a token.
fn token(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

fn family_of(user: UserId) -> Family {
    Family {
        id: FamilyId::generate(),
        user_id: user,
        expires_at: now() + MONTH,
    }
}

fn family() -> Family {
    family_of(UserId::generate())
}
