//! Connections to Redis: every timeout and bound that fred leaves off by default is set here.

use std::time::Duration;

use fred::prelude::*;
use fred::types::config::UnresponsiveConfig;

use crate::ports::{PortError, Result};

/// A command unanswered for so long failed (it may have been carried out).
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Commands that wait while the connection is down; beyond it they fail at once.
const BUFFERED_COMMANDS: usize = 10_000;
/// Pub/sub messages that wait for our own reader; beyond it they are lost and we see the lag.
const BROADCAST_CAPACITY: usize = 8_192;

/// What all Redis adapters share: where, and under which first word of every key.
#[derive(Debug, Clone)]
pub struct Redis {
    /// Round-robin pool for ordinary commands.
    pub pool: Pool,
    /// First word of every key and channel.
    pub namespace: String,
    builder: Builder,
}

impl Redis {
    pub async fn connect(url: &str, namespace: &str, connections: usize) -> Result<Self> {
        let config = Config::from_url(url).map_err(|e| PortError::fatal("parse REDIS_URL", e))?;
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
                c.unresponsive = UnresponsiveConfig {
                    max_timeout: Some(Duration::from_secs(4)),
                    interval: Duration::from_secs(1),
                };
                c.tcp.nodelay = Some(true);
            })
            .set_policy(ReconnectPolicy::new_exponential(0, 50, 1_000, 2));
        let pool = builder
            .build_pool(connections)
            .map_err(|e| PortError::fatal("configure Redis", e))?;
        pool.init()
            .await
            .map_err(|e| PortError::retry("connect to Redis", e))?;
        Ok(Self {
            pool,
            namespace: namespace.to_owned(),
            builder,
        })
    }

    /// A connection of its own for subscriptions.
    pub async fn subscriber(&self) -> Result<fred::clients::SubscriberClient> {
        let client = self
            .builder
            .build_subscriber_client()
            .map_err(|e| PortError::fatal("configure Redis subscriber", e))?;
        client
            .init()
            .await
            .map_err(|e| PortError::retry("connect to Redis", e))?;
        Ok(client)
    }

    /// A connection of its own for blocking or strictly ordered commands.
    pub async fn dedicated(&self) -> Result<Client> {
        let client = self
            .builder
            .build()
            .map_err(|e| PortError::fatal("configure Redis", e))?;
        client
            .init()
            .await
            .map_err(|e| PortError::retry("connect to Redis", e))?;
        Ok(client)
    }

    pub async fn ping(&self) -> Result<()> {
        self.pool
            .ping::<()>(None)
            .await
            .map_err(|e| port_error("ping Redis", e))
    }
}

/// Is it worth trying again? What Redis itself refused (a script error, a wrong type) is final; OOM, LOADING, READONLY
/// and everything about connections is not.
pub fn port_error(operation: &'static str, error: Error) -> PortError {
    let transient_answer = [
        "OOM",
        "LOADING",
        "READONLY",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "MASTERDOWN",
    ]
    .iter()
    .any(|word| error.details().starts_with(word));
    let answered = matches!(
        error.kind(),
        ErrorKind::InvalidCommand | ErrorKind::InvalidArgument | ErrorKind::Parse | ErrorKind::Auth
    );
    if answered && !transient_answer {
        PortError::fatal(operation, error)
    } else {
        PortError::retry(operation, error)
    }
}
