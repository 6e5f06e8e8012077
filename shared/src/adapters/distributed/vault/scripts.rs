//! What the vault has Redis do in one step; each file says what holds of it. People log in and stay so when memory is full.

use fred::types::scripts::Script;

pub struct Scripts {
    pub create_family: Script,
    pub rotate: Script,
    pub family_of: Script,
    pub revoke: Script,
    pub index_family: Script,
    pub throttle: Script,
    pub once: Script,
    pub spend: Script,
    pub cache_profile: Script,
    pub change_profile: Script,
    pub put_ticket: Script,
}

impl Scripts {
    pub fn load() -> Self {
        Self {
            create_family: Script::from_lua(include_str!("create_family.lua")),
            rotate: Script::from_lua(include_str!("rotate.lua")),
            family_of: Script::from_lua(include_str!("family_of.lua")),
            revoke: Script::from_lua(include_str!("revoke.lua")),
            index_family: Script::from_lua(include_str!("index_family.lua")),
            throttle: Script::from_lua(include_str!("throttle.lua")),
            once: Script::from_lua(include_str!("once.lua")),
            spend: Script::from_lua(include_str!("spend.lua")),
            cache_profile: Script::from_lua(include_str!("cache_profile.lua")),
            change_profile: Script::from_lua(include_str!("change_profile.lua")),
            put_ticket: Script::from_lua(include_str!("put_ticket.lua")),
        }
    }
}
