//! The scripts that write and read a room log; each file states its invariant.

use crate::adapters::distributed::script::Script;

pub struct Scripts {
    pub append: Script,
    pub bar: Script,
    pub seed: Script,
    pub confirm: Script,
    pub unload: Script,
    pub read: Script,
    pub set_role_version: Script,
    pub unbroken: Script,
}

impl Scripts {
    pub fn new() -> Self {
        Self {
            append: Script::new(include_str!("append.lua")),
            bar: Script::new(include_str!("bar.lua")),
            seed: Script::new(include_str!("seed.lua")),
            confirm: Script::new(include_str!("confirm.lua")),
            unload: Script::new(include_str!("unload.lua")),
            read: Script::new(include_str!("read.lua")),
            set_role_version: Script::new(include_str!("set_role_version.lua")),
            unbroken: Script::new(include_str!("unbroken.lua")),
        }
    }
}
