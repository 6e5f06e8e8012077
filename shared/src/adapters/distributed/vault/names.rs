//! What the vault's keys and channels in Redis are called.
//!
//! `{ns}:vault:{<family>}:family|replaced|revoked` (one slot for each family, so that one script sees all of it),
//! `{ns}:vault:{user:<id>}:families` (what to revoke with a person), `{ns}:vault:ticket:<sha256>`,
//! `{ns}:vault:throttle|limit:<sha256 of the key>`, `{ns}:vault:{once:<owner>}:ends|held` (idempotency keys),
//! `{ns}:vault:{profile:<id>}:value|changes`; channels `{ns}:vault:revoked` and `{ns}:vault:changed`.

use sha2::{Digest, Sha256};

use crate::domain::ids::{FamilyId, UserId};
use crate::ports::OnceKey;

pub struct Names {
    namespace: String,
}

impl Names {
    pub fn of(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
        }
    }

    pub fn channel(&self, what: &str) -> String {
        format!("{}:vault:{what}", self.namespace)
    }

    pub fn family_key(&self, family: FamilyId, part: &str) -> String {
        format!("{}:vault:{{{family}}}:{part}", self.namespace)
    }

    pub fn index_key(&self, user: UserId) -> String {
        format!("{}:vault:{{user:{user}}}:families", self.namespace)
    }

    /// The profile, and the number of its changes of late.
    pub fn profile_keys(&self, user: UserId) -> Vec<String> {
        ["value", "changes"]
            .iter()
            .map(|part| format!("{}:vault:{{profile:{user}}}:{part}", self.namespace))
            .collect()
    }

    pub fn ticket_key(&self, ticket: &[u8; 32]) -> String {
        format!("{}:vault:ticket:{}", self.namespace, hex::encode(ticket))
    }

    /// Hashed: of any length, and no business of whoever looks into Redis.
    pub fn throttle_key(&self, key: &str) -> String {
        format!(
            "{}:vault:throttle:{}",
            self.namespace,
            hex::encode(Sha256::digest(key))
        )
    }

    /// Hashed, as [`Self::throttle_key`] is.
    pub fn limit_key(&self, key: &str) -> String {
        format!(
            "{}:vault:limit:{}",
            self.namespace,
            hex::encode(Sha256::digest(key))
        )
    }

    /// When each of its keys ends, and what is held of them.
    pub fn once_keys(&self, once: &OnceKey) -> Vec<String> {
        let owner = hex::encode(once.owner);
        ["ends", "held"]
            .iter()
            .map(|part| format!("{}:vault:{{once:{owner}}}:{part}", self.namespace))
            .collect()
    }
}
