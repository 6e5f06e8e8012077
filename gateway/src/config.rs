//! Every setting of the gateway: a flag and an environment variable, with its default, its unit and its bounds.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use atelier_shared::Mode;
use atelier_shared::domain::document::UPDATE_MAX_BYTES;
use clap::Args;
use clap::builder::BoolishValueParser;
use ipnet::IpNet;
use thiserror::Error;
use tracing::warn;

use crate::identity;

/// What stands around an update in a frame of the binary dialects: types, lengths, a document's name.
const BINARY_ENVELOPE: usize = 1_024;

/// Which setting stops the start, and why.
#[derive(Debug, Error)]
#[error("{setting}: {reason}")]
pub struct ConfigError {
    pub setting: &'static str,
    pub reason: String,
}

impl ConfigError {
    pub(crate) fn new(setting: &'static str, reason: impl Into<String>) -> Self {
        Self {
            setting,
            reason: reason.into(),
        }
    }
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Gateway")]
pub struct GatewayConfig {
    /// Origins that browsers may call from, comma-separated; `*` = any, then without credentials. Unset: pages of this host,
    /// and pages of this machine (localhost, whatever port) as long as the server is called by such a name, too
    #[arg(long, env = "CORS_ORIGINS", value_delimiter = ',')]
    pub cors_origins: Vec<String>,
    /// Another spelling of CORS_ORIGINS
    #[arg(long, env = "ALLOWED_ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,
    /// Networks (CIDR) of the proxies whose X-Forwarded-For counts, comma-separated
    #[arg(long, env = "TRUSTED_PROXIES", value_delimiter = ',', value_parser = network)]
    pub trusted_proxies: Vec<IpNet>,
    /// Does connecting to an unknown room make it (open, ephemeral)? Embedded mode: true, distributed mode: false
    #[arg(long, env = "ANONYMOUS_ROOMS", value_parser = BoolishValueParser::new())]
    pub anonymous_rooms: Option<bool>,
    /// Bearer token of the administrator; embedded mode makes one, distributed mode has none unless set
    #[arg(long, env = "ATELIER_ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,
    /// It was made here, and is kept in the data folder.
    #[arg(skip)]
    pub admin_token_is_ours: bool,
    /// Ed25519 keys that sign access tokens: PEM text or comma-separated paths. The first signs, all verify
    #[arg(long, env = "JWT_PRIVATE_KEY", hide_env_values = true)]
    pub jwt_private_key: Option<String>,
    /// Secret that signs access tokens with HS256 instead; should have 32 bytes or more
    #[arg(long, env = "JWT_SECRET_KEY", hide_env_values = true)]
    pub jwt_secret_key: Option<String>,
    /// Life of an access token, seconds
    #[arg(long, env = "ACCESS_TOKEN_LIFETIME", default_value_t = 900, value_parser = clap::value_parser!(u32).range(10..=86_400))]
    pub access_token_lifetime_s: u32,
    /// Life of a login however often it is refreshed, seconds
    #[arg(long, env = "REFRESH_TOKEN_LIFETIME", default_value_t = 2_592_000, value_parser = clap::value_parser!(u32).range(60..=31_536_000))]
    pub refresh_token_lifetime_s: u32,
    /// Password hashes computed at once (19 MiB and one core each)
    #[arg(long, env = "PASSWORD_HASHES_AT_ONCE", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub password_hashes_at_once: u16,
    /// Failed logins for one account from one address, in 15 minutes, before it must wait
    #[arg(long, env = "LOGIN_TRIES", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub login_tries: u32,
    /// Accounts and guests made from one address in an hour
    #[arg(long, env = "REGISTRATIONS_PER_ADDRESS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub registrations_per_address: u32,
    /// Jobs that one person may send in a minute
    #[arg(long, env = "JOBS_PER_MINUTE", default_value_t = 6_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub jobs_per_minute: u32,
    /// Invitations that one address may look at or accept in a minute
    #[arg(long, env = "INVITES_PER_MINUTE", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub invites_per_minute: u32,
    /// Requests that read, by one person or address, in 10 seconds
    #[arg(long, env = "RATE_READS", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub rate_reads: u32,
    /// Requests that change something, by one person or address, in 10 seconds
    #[arg(long, env = "RATE_WRITES", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub rate_writes: u32,
    /// Uploads by one person or address in a minute
    #[arg(long, env = "RATE_UPLOADS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub rate_uploads: u32,
    /// Logins, registrations, refreshes and looks at invites from one address in a minute
    #[arg(long, env = "RATE_ENTRIES", default_value_t = 6_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub rate_entries: u32,
    /// Rooms that one address (IPv6: a /64) holds that are active or younger than 24 h
    #[arg(long, env = "ROOMS_PER_ADDRESS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rooms_per_address: u32,
    /// Durable messages a second for each connection (draw and update are exempt)
    #[arg(long, env = "MESSAGE_RATE", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub message_rate: u32,
    /// Durable messages a connection may send at once
    #[arg(long, env = "MESSAGE_BURST", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub message_burst: u32,
    /// Largest WebSocket message, bytes
    #[arg(long, env = "MAX_FRAME", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1_024..=16_777_216))]
    pub max_frame: u32,
    /// A WebSocket that is silent for so long is closed 4500, milliseconds
    #[arg(long, env = "WEBSOCKET_CONNECTION_TIMEOUT", default_value_t = 300_000, value_parser = clap::value_parser!(u32).range(100..=86_400_000))]
    pub websocket_connection_timeout_ms: u32,
    /// A person who sends nothing for so long is not present any more, seconds
    #[arg(long, env = "PRESENCE_TIMEOUT", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub presence_timeout_s: u32,
    /// How long the name of somebody without an account is held after their last heartbeat, seconds; 0 holds none
    #[arg(long, env = "USER_RELEASE_DELAY", default_value_t = 120, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub user_release_delay_s: u32,
    /// Refuse guests and registrations a name that somebody holds; else `/users/check` tells of it and nobody is refused
    #[arg(long, env = "UNIQUE_NAMES", default_value_t = false, action = clap::ArgAction::Set)]
    pub unique_names: bool,
    /// How often a client should send a heartbeat, and how often an idle socket is pinged, milliseconds
    #[arg(long, env = "HEARTBEAT_INTERVAL", default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(100..=3_600_000))]
    pub heartbeat_ms: u32,
    /// Recent frames kept in memory for each room, bytes at most; what everybody has had is let go after some seconds
    #[arg(long, env = "ROOM_RING_BYTES", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(65_536..=1_073_741_824))]
    pub room_ring_bytes: u32,
    /// Largest document of a room, as a merged Yjs update, bytes
    #[arg(long, env = "DOCUMENT_MAX_BYTES", default_value_t = 16 << 20, value_parser = clap::value_parser!(u32).range(1_024..=268_435_456))]
    pub document_max_bytes: u32,
    /// A reader that takes nothing for so long is closed 4508 (HTTP: cut off), seconds
    #[arg(long, env = "SLOW_READER_TIMEOUT", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub slow_reader_timeout_s: u32,
    /// How long a stopping gateway waits for its connections to end, seconds
    #[arg(long, env = "DRAIN_TIMEOUT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=3_600))]
    pub drain_s: u32,
    /// Open TCP connections in all, WebSockets included; one in eight, 256 at most, is left to requests and probes
    #[arg(long, env = "MAX_CONNECTIONS", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub max_connections: u32,
    /// Largest body of a REST request, bytes
    #[arg(long, env = "MAX_BODY", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1_024..=67_108_864))]
    pub max_body: u32,
    /// Largest drawing that a room can be made from, bytes
    #[arg(long, env = "MAX_IMPORT", default_value_t = 32 << 20, value_parser = clap::value_parser!(u32).range(1_024..=134_217_728))]
    pub max_import: u32,
    /// A REST request that takes longer is answered 503, seconds
    #[arg(long, env = "REQUEST_TIMEOUT", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub request_timeout_s: u32,
    /// Types that may be uploaded, comma-separated
    #[arg(
        long,
        env = "ALLOWED_FILE_TYPES",
        value_delimiter = ',',
        default_value = "image/jpeg,image/png,image/gif,image/webp,image/bmp,image/svg+xml,application/pdf"
    )]
    pub allowed_file_types: Vec<String>,
    /// Largest file that may be uploaded, bytes
    #[arg(long, env = "MAX_FILE_SIZE", default_value_t = 10_485_760, value_parser = clap::value_parser!(u32).range(1..=2_147_483_648))]
    pub max_file_size: u32,
    /// Memory that uploads under way may hold together, bytes; beyond it others wait. One holds 256 KiB where files lie in
    /// a folder and 5 MiB where they lie in a bucket
    #[arg(long, env = "UPLOAD_MEMORY", default_value_t = 128 << 20, value_parser = clap::value_parser!(u32).range(8_388_608..))]
    pub upload_memory: u32,
    /// An upload must be over within this, seconds
    #[arg(long, env = "UPLOAD_TIMEOUT", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub upload_timeout_s: u32,
    /// What links to files begin with, such as `https://collab.example.com`; without it links are paths on this server
    #[arg(long, env = "PUBLIC_URL")]
    pub public_url: Option<String>,
    /// A client must have sent a request's headers within this, and an idle connection is closed after it, seconds; more than
    /// the time that a load balancer keeps idle connections to a server (mostly 60)
    #[arg(long, env = "HEADER_TIMEOUT", default_value_t = 75, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub header_timeout_s: u32,
}

/// A shorter administrator token is warned of.
const ADMIN_TOKEN_MIN: usize = 16;

impl GatewayConfig {
    /// Settles what depends on the mode, before anything is opened: refuses what contradicts itself, and makes the
    /// signing key and the administrator's token that embedded mode keeps in its data folder.
    pub fn prepare(&mut self, mode: Mode, data_dir: &Path) -> Result<(), ConfigError> {
        // Blank is how some files spell "not set".
        for setting in [
            &mut self.admin_token,
            &mut self.jwt_private_key,
            &mut self.jwt_secret_key,
            &mut self.public_url,
        ] {
            if setting
                .as_ref()
                .is_some_and(|value| value.trim().is_empty())
            {
                *setting = None;
            }
        }
        self.settle_origins()?;
        self.settle_files()?;
        if self.jwt_private_key.is_some() && self.jwt_secret_key.is_some() {
            return Err(ConfigError::new(
                "JWT_PRIVATE_KEY",
                "set either JWT_PRIVATE_KEY or JWT_SECRET_KEY, not both",
            ));
        }
        let unsigned = self.jwt_private_key.is_none() && self.jwt_secret_key.is_none();
        match mode {
            Mode::Distributed if unsigned => {
                return Err(ConfigError::new(
                    "JWT_PRIVATE_KEY",
                    "distributed mode needs JWT_PRIVATE_KEY (Ed25519 PEM or a path to one) or JWT_SECRET_KEY, the same on every gateway",
                ));
            }
            Mode::Embedded if unsigned => {
                self.jwt_private_key = Some(identity::keys::keep_signing_key(data_dir)?);
            }
            Mode::Embedded | Mode::Distributed => {}
        }
        identity::keys::check(self)?;
        if mode == Mode::Embedded && self.admin_token.is_none() {
            self.admin_token = Some(identity::keys::keep_admin_token(data_dir)?);
            self.admin_token_is_ours = true;
        }
        if self
            .admin_token
            .as_ref()
            .is_some_and(|token| token.len() < ADMIN_TOKEN_MIN)
        {
            warn!(
                "ATELIER_ADMIN_TOKEN has less than {ADMIN_TOKEN_MIN} characters: it can be guessed"
            );
        }
        self.anonymous_rooms.get_or_insert(mode == Mode::Embedded);
        Ok(())
    }

    /// The secret that signs callbacks where `CALLBACK_SECRET` is not set, derived from the keys that sign tokens.
    /// `None`: there are none here either, as may be on a worker.
    ///
    /// # Errors
    /// The keys can't be read.
    pub fn callback_secret(&self) -> Result<Option<String>, ConfigError> {
        let set = |key: &Option<String>| key.as_ref().is_some_and(|key| !key.trim().is_empty());
        if !set(&self.jwt_private_key) && !set(&self.jwt_secret_key) {
            return Ok(None);
        }
        identity::keys::callback_secret(self).map(Some)
    }

    /// CORS_ORIGINS and ALLOWED_ORIGINS are one setting; afterwards `cors_origins` holds it.
    fn settle_origins(&mut self) -> Result<(), ConfigError> {
        let clean = |list: &[String]| -> Vec<String> {
            let mut list: Vec<String> = list
                .iter()
                .map(|origin| origin.trim().trim_end_matches('/').to_owned())
                .filter(|origin| !origin.is_empty())
                .collect();
            list.sort();
            list.dedup();
            list
        };
        let (cors, allowed) = (clean(&self.cors_origins), clean(&self.allowed_origins));
        if !cors.is_empty() && !allowed.is_empty() && cors != allowed {
            return Err(ConfigError::new(
                "CORS_ORIGINS",
                "CORS_ORIGINS and ALLOWED_ORIGINS are the same setting and have different values",
            ));
        }
        let origins = if cors.is_empty() { allowed } else { cors };
        for origin in &origins {
            check_origin(origin)?;
        }
        self.allowed_origins.clone_from(&origins);
        self.cors_origins = origins;
        Ok(())
    }

    /// Afterwards the types are spelled as the program spells them, and the public address has no slash at its end.
    fn settle_files(&mut self) -> Result<(), ConfigError> {
        let types = crate::edge::file_types(&self.allowed_file_types)?;
        self.allowed_file_types = types.into_iter().map(str::to_owned).collect();
        if let Some(address) = &mut self.public_url {
            let good = url::Url::parse(address).is_ok_and(|url| {
                matches!(url.scheme(), "http" | "https")
                    && url.query().is_none()
                    && url.fragment().is_none()
            });
            if !good {
                return Err(ConfigError::new(
                    "PUBLIC_URL",
                    format!("\"{address}\" is not an address like https://collab.example.com"),
                ));
            }
            let trimmed = address.trim_end_matches('/').len();
            address.truncate(trimmed);
        }
        Ok(())
    }

    /// May a page of this origin use this server, which it calls `host` (with the port)?
    pub fn origin_allowed(&self, origin: &str, host: Option<&str>) -> bool {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        let same_host = authority.is_some() && authority == host;
        let listed = |allowed: &String| allowed == "*" || allowed.eq_ignore_ascii_case(origin);
        same_host
            || self.cors_origins.iter().any(listed)
            || self.cors_origins.is_empty() && is_on_this_machine(origin, host)
    }

    pub fn is_trusted_proxy(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_proxies
            .iter()
            .any(|network| network.contains(&address))
    }

    pub fn anonymous_rooms(&self) -> bool {
        self.anonymous_rooms.unwrap_or(false)
    }

    pub fn websocket_connection_timeout(&self) -> Duration {
        Duration::from_millis(self.websocket_connection_timeout_ms.into())
    }

    pub fn presence_timeout(&self) -> Duration {
        Duration::from_secs(self.presence_timeout_s.into())
    }

    pub fn user_release_delay(&self) -> Duration {
        Duration::from_secs(self.user_release_delay_s.into())
    }

    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms.into())
    }

    pub fn slow_reader_timeout(&self) -> Duration {
        Duration::from_secs(self.slow_reader_timeout_s.into())
    }

    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_s.into())
    }

    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_s.into())
    }

    pub fn upload_timeout(&self) -> Duration {
        Duration::from_secs(self.upload_timeout_s.into())
    }

    pub fn header_timeout(&self) -> Duration {
        Duration::from_secs(self.header_timeout_s.into())
    }

    pub fn max_frame(&self) -> usize {
        self.max_frame as usize
    }

    /// Of the binary dialects: what somebody wrote without a connection comes as one edit, and stock providers have no way
    /// to send less. As large as an update may be, and what stands around it.
    pub fn max_binary_frame(&self) -> usize {
        self.max_frame()
            .max(self.max_update_bytes() + BINARY_ENVELOPE)
    }

    /// How large one edit of a document may be.
    pub fn max_update_bytes(&self) -> usize {
        UPDATE_MAX_BYTES.min(self.document_max_bytes())
    }

    pub fn room_ring_bytes(&self) -> usize {
        self.room_ring_bytes as usize
    }

    pub fn document_max_bytes(&self) -> usize {
        self.document_max_bytes as usize
    }
}

/// A CIDR network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("\"{text}\" is not a network like 10.0.0.0/8"))
}

fn check_origin(origin: &str) -> Result<(), ConfigError> {
    let good = origin == "*"
        || url::Url::parse(origin).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.origin().ascii_serialization() == origin.to_ascii_lowercase()
        });
    if good {
        return Ok(());
    }
    Err(ConfigError::new(
        "CORS_ORIGINS",
        format!("\"{origin}\" is not an origin like https://app.example.com"),
    ))
}

/// A page that somebody develops on the machine that the server runs on. A page elsewhere whose name is made to point here
/// (DNS rebinding) calls the server by that name.
pub(crate) fn is_on_this_machine(origin: &str, host: Option<&str>) -> bool {
    let is_local = |authority: &str| {
        let name = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
            None => authority
                .split_once(':')
                .map_or(authority, |(name, _)| name),
        };
        let address = name.parse::<IpAddr>();
        // An origin or a host has no user before an @: what has one is neither.
        let plain = !authority.contains('@');
        plain && (name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|a| a.is_loopback()))
    };
    let page = origin.split_once("://").map(|(_, authority)| authority);
    page.is_some_and(is_local) && host.is_some_and(is_local)
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        gateway: GatewayConfig,
    }

    /// Parses the flags alone: what the environment of the test run says (the local services' settings) does not count.
    pub(crate) fn parse_alone<T: Parser>(flags: &[&str]) -> Result<T, clap::Error> {
        let argv = std::iter::once("atelier").chain(flags.iter().copied());
        let command = T::command().mut_args(|arg| arg.env(None::<&str>));
        T::from_arg_matches(&command.try_get_matches_from(argv)?)
    }

    pub(crate) fn parse(flags: &[&str]) -> Result<GatewayConfig, clap::Error> {
        parse_alone::<Cli>(flags).map(|cli| cli.gateway)
    }

    fn prepared(flags: &[&str], mode: Mode) -> Result<GatewayConfig, ConfigError> {
        let mut config = parse(flags).unwrap();
        let folder = std::env::temp_dir().join(format!("atelier-{}", uuid::Uuid::now_v7()));
        let outcome = config.prepare(mode, &folder);
        let _ = std::fs::remove_dir_all(&folder);
        outcome.map(|()| config)
    }

    const SECRET: &str = "--jwt-secret-key=0123456789abcdef0123456789abcdef";

    #[test]
    fn a_malformed_value_is_refused_with_its_name() {
        for (flag, name) in [
            ("--message-rate=0", "--message-rate"),
            ("--trusted-proxies=10.0.0.0/40", "--trusted-proxies"),
            ("--anonymous-rooms=perhaps", "--anonymous-rooms"),
        ] {
            let error = parse(&[flag]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn two_spellings_of_the_origins_must_agree() {
        let both = [
            SECRET,
            "--cors-origins=https://a.example,https://b.example/",
            "--allowed-origins=https://b.example,https://a.example",
        ];
        let config = prepared(&both, Mode::Distributed).unwrap();
        assert_eq!(
            config.cors_origins,
            ["https://a.example", "https://b.example"]
        );
        let error = prepared(
            &[
                SECRET,
                "--cors-origins=https://a.example",
                "--allowed-origins=https://c.example",
            ],
            Mode::Distributed,
        )
        .unwrap_err();
        assert_eq!(error.setting, "CORS_ORIGINS");
        let error = prepared(&[SECRET, "--cors-origins=a.example/x"], Mode::Distributed);
        assert_eq!(error.unwrap_err().setting, "CORS_ORIGINS");
    }

    #[test]
    fn pages_of_the_same_machine_are_let_in_unless_origins_are_listed() {
        let unset = prepared(&[], Mode::Embedded).unwrap();
        let listed = prepared(&["--cors-origins=https://a.example"], Mode::Embedded).unwrap();
        for (origin, host, allowed) in [
            ("http://localhost:3000", "127.0.0.1:8080", true),
            ("http://127.0.0.1:3000", "localhost:8080", true),
            ("http://[::1]:3000", "localhost", true),
            ("http://evil.example", "localhost:8080", false),
            ("http://localhost.evil.example", "localhost:8080", false),
            ("http://localhost:3000", "rebound.example:8080", false),
            (
                "http://localhost:3000@evil.example",
                "localhost:8080",
                false,
            ),
            ("null", "localhost:8080", false),
        ] {
            let seen = unset.origin_allowed(origin, Some(host));
            assert_eq!(seen, allowed, "{origin} at {host}");
            assert!(!listed.origin_allowed(origin, Some(host)), "{origin}");
        }
        assert!(listed.origin_allowed("https://a.example", Some("b.example")));
        assert!(listed.origin_allowed("https://b.example", Some("b.example")));
        assert!(!unset.origin_allowed("http://localhost:3000", None));
    }

    #[test]
    fn distributed_mode_needs_exactly_one_signing_key() {
        let error = prepared(&[], Mode::Distributed).unwrap_err();
        assert_eq!(error.setting, "JWT_PRIVATE_KEY");
        let error = prepared(&[SECRET, "--jwt-private-key=x"], Mode::Distributed).unwrap_err();
        assert!(error.reason.contains("not both"), "{error}");
        let error = prepared(&["--jwt-private-key=/no/such/key.pem"], Mode::Distributed);
        assert_eq!(error.unwrap_err().setting, "JWT_PRIVATE_KEY");
        let config = prepared(&[SECRET], Mode::Distributed).unwrap();
        assert!(!config.anonymous_rooms() && config.admin_token.is_none());
    }

    #[test]
    fn embedded_mode_makes_its_own_key_and_admin_token() {
        let config = prepared(&[], Mode::Embedded).unwrap();
        assert!(config.jwt_private_key.unwrap().contains("PRIVATE KEY"));
        assert!(config.admin_token_is_ours && config.admin_token.unwrap().len() >= 32);
        assert_eq!(config.anonymous_rooms, Some(true));
    }
}
