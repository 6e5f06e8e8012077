//! Connections to Redis: every timeout and bound that fred leaves off by default is set here.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use fred::prelude::*;
use fred::types::ClusterHash;
use fred::types::CustomCommand;

use super::watchdog::Watchdog;
use crate::ports::{PortError, Result};

/// A command unanswered for so long failed (it may have been carried out).
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Commands that wait while the connection is down; beyond it they fail at once.
const BUFFERED_COMMANDS: usize = 10_000;
/// Pub/sub messages that wait for our own reader; beyond it they are lost and we see the lag.
const BROADCAST_CAPACITY: usize = 8_192;

/// Sharded pub/sub and script flags came with it.
const OLDEST_MAJOR: u32 = 7;

/// The only `maxmemory-policy` under which nothing that we put there is thrown away.
const KEEPING_POLICY: &str = "noeviction";

/// What all Redis adapters share: where, and under which first word of every key.
#[derive(Debug, Clone)]
pub struct Redis {
    /// Round-robin pool for ordinary commands.
    pub pool: Pool,
    /// First word of every key and channel.
    pub namespace: String,
    builder: Builder,
    _watchdog: Arc<Watchdog>,
}

impl Redis {
    pub async fn connect(url: &str, namespace: &str, connections: usize) -> Result<Self> {
        let config =
            Config::from_url(url).map_err(|e| PortError::fatal("read the address of Redis", e))?;
        let mut builder = Builder::from_config(config);
        builder
            .with_performance_config(|c| {
                c.default_command_timeout = COMMAND_TIMEOUT;
                c.broadcast_channel_capacity = BROADCAST_CAPACITY;
            })
            .with_connection_config(|c| {
                c.connection_timeout = CONNECT_TIMEOUT;
                c.internal_command_timeout = COMMAND_TIMEOUT;
                c.max_command_buffer_len = BUFFERED_COMMANDS;
                // An ambiguous failure is the caller's to judge: a script may have run.
                c.max_command_attempts = 1;
                c.tcp.nodelay = Some(true);
            })
            .set_policy(ReconnectPolicy::new_exponential(0, 50, 1_000, 2));
        let pool = builder
            .build_pool(connections)
            .map_err(|e| PortError::fatal("configure Redis", e))?;
        pool.init().await.map_err(|e| match e.kind() {
            // A wrong password does not pass by itself.
            ErrorKind::Auth => PortError::fatal("connect to Redis", e),
            _ => PortError::retry("connect to Redis", e),
        })?;
        let mut watchdog = Watchdog::default();
        for client in pool.clients() {
            watchdog.watch(client.clone());
        }
        let redis = Self {
            pool,
            namespace: namespace.to_owned(),
            builder,
            _watchdog: Arc::new(watchdog),
        };
        redis.inspect_server().await?;
        Ok(redis)
    }

    /// Refuses a Redis that is too old, and warns of one that may throw our data away.
    async fn inspect_server(&self) -> Result<()> {
        let info = self.info().await?;
        if let Some(version) = field(&info, "redis_version")
            && let Some(Ok(major)) = version.split('.').next().map(str::parse::<u32>)
            && major < OLDEST_MAJOR
        {
            return Err(PortError::fatal(
                "connect to Redis",
                format!("REDIS_URL: Redis {OLDEST_MAJOR} or later is needed, this is {version}"),
            ));
        }
        match field(&info, "maxmemory_policy") {
            Some(KEEPING_POLICY) => {}
            Some(policy) => tracing::error!(
                policy,
                "Redis may EVICT room logs, presence and queues: set maxmemory-policy to noeviction"
            ),
            None => tracing::warn!(
                "Redis does not tell its maxmemory-policy: make sure that it is noeviction"
            ),
        }
        Ok(())
    }

    /// May it throw data away to make room? `None` where it does not tell its policy.
    pub async fn may_evict(&self) -> Result<Option<bool>> {
        let info = self.info().await?;
        Ok(field(&info, "maxmemory_policy").map(|policy| policy != KEEPING_POLICY))
    }

    /// INFO and not CONFIG GET, which hosted Redis often forbids. Of a cluster one node answers, another each time.
    async fn info(&self) -> Result<String> {
        self.pool
            .next()
            .custom(
                CustomCommand::new_static("INFO", ClusterHash::Random, false),
                Vec::<Value>::new(),
            )
            .await
            .map_err(|e| port_error("ask Redis what it is", e))
    }

    /// The connection of the pool that all go by who name the same: what is sent over it together arrives in order.
    pub fn client_for(&self, name: &str) -> &Client {
        let clients = self.pool.clients();
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let place = hasher.finish() % (clients.len().max(1) as u64);
        &clients[usize::try_from(place).unwrap_or(0)]
    }

    /// A connection of its own for subscriptions, sharded or not. It speaks RESP3, in which it can be pinged, and so watched, like
    /// any other; the caller puts it under a [`Watchdog`].
    pub async fn subscriber_client(&self) -> Result<Client> {
        let mut builder = self.builder.clone();
        builder.with_config(|config| config.version = fred::types::RespVersion::RESP3);
        let client = builder
            .build()
            .map_err(|e| PortError::fatal("configure Redis subscriber", e))?;
        client
            .init()
            .await
            .map_err(|e| PortError::retry("connect to Redis", e))?;
        Ok(client)
    }

    /// Does it answer, and take writes?
    pub async fn ping(&self) -> Result<()> {
        const DOING: &str = "ping Redis";
        match role(self.pool.next()).await {
            Ok(role) if is_replica(&role) => {
                let reason = "it is a replica and takes no writes";
                Err(PortError::retry(DOING, reason))
            }
            Ok(_) => Ok(()),
            // It may forbid the question.
            Err(error) if is_final(&error) => {
                let pong = self.pool.ping::<()>(None).await;
                pong.map_err(|e| port_error(DOING, e))
            }
            Err(error) => Err(port_error(DOING, error)),
        }
    }
}

/// Asks a server (of a cluster: one) what it is.
pub async fn role(client: &impl ClientLike) -> Result<Value, Error> {
    let command = CustomCommand::new_static("ROLE", ClusterHash::Random, false);
    client.custom(command, Vec::<Value>::new()).await
}

/// ROLE's answer begins with a word.
pub fn is_replica(role: &Value) -> bool {
    match role {
        Value::Array(words) => words.first().and_then(Value::as_str).as_deref() == Some("slave"),
        _ => false,
    }
}

/// A field of INFO's answer.
pub fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// First words of error replies that pass by themselves: memory, loading, failover, a disk that is full.
const TRANSIENT_REPLIES: [&str; 12] = [
    "OOM",
    "LOADING",
    "READONLY",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "MASTERDOWN",
    "BUSY",
    "MISCONF",
    "NOREPLICAS",
    "MOVED",
    "ASK",
    "UNBLOCKED",
];

/// Is it worth trying again? What Redis itself refused (a script error, a wrong type) is final; OOM, LOADING, READONLY
/// and everything about connections is not.
pub fn port_error(operation: &'static str, error: Error) -> PortError {
    if is_final(&error) {
        PortError::fatal(operation, error)
    } else {
        PortError::retry(operation, error)
    }
}

pub fn is_final(error: &Error) -> bool {
    if matches!(
        error.kind(),
        ErrorKind::InvalidCommand | ErrorKind::InvalidArgument | ErrorKind::Parse | ErrorKind::Auth
    ) {
        return true;
    }
    // An error reply begins with its code in capitals; what fred itself says does not.
    let code = error.details().split(' ').next().unwrap_or_default();
    let replied = code.len() > 2 && code.bytes().all(|b| b.is_ascii_uppercase());
    replied && !TRANSIENT_REPLIES.contains(&code)
}
