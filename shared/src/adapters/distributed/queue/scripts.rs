//! The queue's Lua scripts: named bounds, the shared part and one body each.

use fred::prelude::*;
use fred::types::scripts::Script;

use crate::adapters::distributed::redis::{Redis, port_error};
use crate::ports::{DEAD_MAX, DEPTH_MAX, LEASE_LAPSED, Result};

/// Leases reaped, jobs promoted and tenants looked at by one claim, at most: keeps a script under a millisecond.
const CHUNK: usize = 64;

#[derive(Debug)]
pub(super) struct Scripts {
    pub enqueue: LuaScript,
    pub claim: LuaScript,
    pub settle: LuaScript,
    pub cancel: LuaScript,
    pub replay: LuaScript,
    pub dead: LuaScript,
    pub stats: LuaScript,
    pub workers: LuaScript,
    pub tick: LuaScript,
}

#[derive(Debug)]
pub(super) struct LuaScript(Script);

impl Scripts {
    pub fn new() -> Self {
        let bounds = format!(
            "local CHUNK, DEPTH_MAX, DEAD_MAX, LEASE_LAPSED = {CHUNK}, {DEPTH_MAX}, {DEAD_MAX}, '{LEASE_LAPSED}'\n"
        );
        // Jobs go on when memory is full: their leases above all, or programs that run would be begun anew.
        let bounds = format!("#!lua flags=allow-oom\n{bounds}");
        let queue = |body: &str| {
            let text = format!("{bounds}{}{body}", include_str!("common.lua"));
            LuaScript(Script::from_lua(text))
        };
        Self {
            enqueue: queue(include_str!("enqueue.lua")),
            claim: queue(include_str!("claim.lua")),
            settle: queue(include_str!("settle.lua")),
            cancel: queue(include_str!("cancel.lua")),
            replay: queue(include_str!("replay.lua")),
            dead: queue(include_str!("dead.lua")),
            stats: queue(include_str!("stats.lua")),
            workers: LuaScript(Script::from_lua(format!(
                "{bounds}{}",
                include_str!("workers.lua")
            ))),
            tick: LuaScript(Script::from_lua(include_str!("tick.lua"))),
        }
    }
}

impl LuaScript {
    /// By hash; a server that does not know it (new, emptied, failed over) is told the text.
    pub async fn run<R: FromValue>(
        &self,
        redis: &Redis,
        operation: &'static str,
        keys: impl Into<fred::types::MultipleKeys> + Send,
        args: Vec<String>,
    ) -> Result<R> {
        self.0
            .evalsha_with_reload(redis.pool.next(), keys, args)
            .await
            .map_err(|e| port_error(operation, e))
    }
}
