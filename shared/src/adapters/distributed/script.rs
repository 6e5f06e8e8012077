//! Calls one Lua script by its hash, pipelined, and sends its text where Redis doesn't know it.

use fred::prelude::*;
use fred::types::{ClusterHash, CustomCommand};
use fred::util::redis_keyslot;

use super::redis::Redis;

/// A script of a `.lua` file. Written to be carried out again safely wherever an answer may be lost.
#[derive(Debug)]
pub struct Script {
    text: &'static str,
    sha1: String,
}

impl Script {
    pub fn new(text: &'static str) -> Self {
        let sha1 = fred::types::scripts::Script::from_lua(text)
            .sha1()
            .to_string();
        Self { text, sha1 }
    }

    /// All keys in one slot; at least one. The reply as it came.
    pub async fn call(
        &self,
        redis: &Redis,
        keys: Vec<String>,
        args: Vec<Value>,
    ) -> Result<Value, Error> {
        let slot = redis_keyslot(keys.first().map(String::as_bytes).unwrap_or_default());
        let command = |name, script: &str| {
            // fred holds back all other commands of the connection while its own EVALSHA waits for an answer; a custom
            // command is pipelined. Of the ways to give it a hash slot fred heeds only the number.
            let command = CustomCommand::new_static(name, ClusterHash::Custom(slot), false);
            let mut all = Vec::with_capacity(2 + keys.len() + args.len());
            all.push(Value::from(script));
            all.push(Value::from(keys.len().to_string()));
            all.extend(keys.iter().map(|key| Value::from(key.as_str())));
            // Cheap: strings are counted references.
            all.extend(args.iter().cloned());
            redis.pool.next().custom(command, all)
        };
        match command("EVALSHA", &self.sha1).await {
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                command("EVAL", self.text).await
            }
            reply => reply,
        }
    }
}
