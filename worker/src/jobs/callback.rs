//! Callbacks: a finished job's result, posted to the address its sender named.
//!
//! The address is a stranger's choice, so it is resolved once, every address found is checked, and the connection goes to
//! a checked one: a name that changes its mind in between (DNS rebinding) leads nowhere. Redirects are not followed, no
//! proxy is used, and of the answer only the status is read.

mod address;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use atelier_shared::domain::job::{JobResult, JobState, QUEUE_CALLBACK};
use atelier_shared::outbox::CallBack;
use atelier_shared::ports::{Archive, Records};
use atelier_shared::withdrawal;
use chrono::Utc;
use hmac::{Hmac, Mac};
use ipnet::IpNet;
use reqwest::Client;
use reqwest::redirect::Policy;
use serde::Serialize;
use sha2::Sha256;
use url::Url;
use uuid::Uuid;

use super::{Attempt, Failure, Job};
use crate::bridge::Backoff;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the connection to the status.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Text of each stream that is sent; the whole is at `GET /jobs/{id}`.
const STREAM_MAX_BYTES: usize = 256 * 1024;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

/// What calling back takes.
pub struct CallBacks {
    pub records: Arc<dyn Records>,
    pub archive: Arc<dyn Archive>,
    /// Signs what is sent.
    pub secret: String,
    /// Networks that may be called although they are not public.
    pub allowed: Vec<IpNet>,
}

/// What is posted.
#[derive(Serialize)]
struct Body {
    id: Uuid,
    status: JobState,
    /// `null` where it has none, or it has expired.
    result: Option<JobResult>,
}

impl Job for CallBack {
    type Services = Arc<CallBacks>;

    const QUEUE: &'static str = QUEUE_CALLBACK;
    const TIMEOUT: Duration = Duration::from_secs(60);
    const BACKOFF: Backoff = Backoff {
        first: Duration::from_secs(2),
        most: Duration::from_secs(10 * 60),
    };

    async fn run(self, _: Attempt, services: Arc<CallBacks>) -> Result<(), Failure> {
        let Some(row) = services.records.job(self.job_id).await? else {
            return Ok(());
        };
        let Some(url) = &row.spec.callback_url else {
            return Ok(());
        };
        let stored = services.archive.result(row.id, Utc::now()).await?;
        let mut result = stored.or_else(|| withdrawal::result_of(&row));
        if let Some(result) = &mut result {
            shorten(result);
        }
        let body = Body {
            id: row.id.0,
            status: row.state,
            result,
        };
        let body = serde_json::to_vec(&body).map_err(|e| Failure::Final(e.to_string()))?;
        let url: Url = url
            .parse()
            .map_err(|_| Failure::Final("callback_url: not a URL".into()))?;
        services.post(url, row.id.0, body).await
    }
}

impl CallBacks {
    async fn post(&self, url: Url, job: Uuid, body: Vec<u8>) -> Result<(), Failure> {
        let addresses = self.resolve(&url).await?;
        let mut client = Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .user_agent(concat!("atelier/", env!("CARGO_PKG_VERSION")));
        if let Some(name) = url.domain() {
            client = client.resolve_to_addrs(name, &addresses);
        }
        let client = client.build().map_err(|e| Failure::Retry(text(&e)))?;
        let timestamp = Utc::now().timestamp().to_string();
        let signature = sign(&self.secret, &timestamp, &body);
        let request = client
            .post(url)
            .header("content-type", "application/json")
            .header("atelier-job", job.to_string())
            .header("atelier-timestamp", &timestamp)
            .header("atelier-signature", signature);
        let answer = request.body(body).send().await;
        let status = answer.map_err(|e| Failure::Retry(text(&e)))?.status();
        let said = format!("the callback was answered {}", status.as_u16());
        match status.as_u16() {
            200..=299 => Ok(()),
            408 | 425 | 429 | 500..=599 => Err(Failure::Retry(said)),
            _ => Err(Failure::Final(said)),
        }
    }

    /// Where the name leads, as far as we go there.
    async fn resolve(&self, url: &Url) -> Result<Vec<SocketAddr>, Failure> {
        let invalid = |why: &str| Failure::Final(format!("callback_url: {why}"));
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("neither http nor https"));
        }
        let port = url
            .port_or_known_default()
            .ok_or_else(|| invalid("no port"))?;
        let found: Vec<IpAddr> = match url.host() {
            Some(url::Host::Ipv4(address)) => vec![address.into()],
            Some(url::Host::Ipv6(address)) => vec![address.into()],
            Some(url::Host::Domain(name)) => {
                let found = tokio::net::lookup_host((name, port)).await;
                let found = found.map_err(|e| Failure::Retry(format!("callback_url: {e}")))?;
                found.map(|address| address.ip()).collect()
            }
            None => return Err(invalid("no host")),
        };
        let allowed = |address: &IpAddr| {
            address::is_public(*address)
                || self
                    .allowed
                    .iter()
                    .any(|net| net.contains(&address.to_canonical()))
        };
        let open: Vec<SocketAddr> = found
            .iter()
            .filter(|address| allowed(address))
            .take(ADDRESSES_MAX)
            .map(|address| SocketAddr::new(*address, port))
            .collect();
        if open.is_empty() {
            return Err(invalid("leads to no public address"));
        }
        Ok(open)
    }
}

/// Without the URL, which may hold what is nobody's business.
fn text(error: &reqwest::Error) -> String {
    let kind = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the request failed"
    };
    format!("callback: {kind}")
}

/// `v1=` and the HMAC-SHA256 of `<timestamp>.<body>`, hexadecimal.
fn sign(secret: &str, timestamp: &str, body: &[u8]) -> String {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(secret.as_bytes()).expect("a key");
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("v1={}", hex::encode(mac.finalize().into_bytes()))
}

fn shorten(result: &mut JobResult) {
    let cut = |text: &mut String, truncated: &mut bool| {
        if text.len() > STREAM_MAX_BYTES {
            text.truncate(text.floor_char_boundary(STREAM_MAX_BYTES));
            *truncated = true;
        }
    };
    cut(&mut result.stdout, &mut result.truncated);
    cut(&mut result.stderr, &mut result.truncated);
    if let Some(compile) = &mut result.compile {
        cut(&mut compile.stdout, &mut compile.truncated);
        cut(&mut compile.stderr, &mut compile.truncated);
    }
}

#[cfg(test)]
mod tests {
    use atelier_shared::Backends;
    use atelier_shared::config::StoreConfig;
    use atelier_shared::domain::ids::{JobId, UserId};
    use atelier_shared::domain::job::{AskedLimits, Job as Row, JobSpec};
    use atelier_shared::outbox;

    use super::*;

    /// Its job died; while that is posted an administrator has it tried again, and it succeeds.
    #[tokio::test]
    async fn what_comes_while_a_result_is_posted_is_posted_too() {
        let folder = tempfile::tempdir().unwrap();
        let stores = StoreConfig {
            data_dir: folder.path().to_owned(),
            ..StoreConfig::default()
        };
        let queue = Backends::open(&stores).await.unwrap().queue;
        let row = Row {
            id: JobId::generate(),
            owner: UserId::generate(),
            owner_name: String::new(),
            room_id: None,
            project_id: None,
            priority: 0,
            spec: JobSpec {
                language: "bash".into(),
                version: None,
                files: Vec::new(),
                entrypoint: None,
                stdin: String::new(),
                args: Vec::new(),
                env: std::collections::BTreeMap::new(),
                limits: AskedLimits::default(),
                callback_url: Some("http://example.org/".into()),
            },
            state: JobState::Dead,
            attempts: 1,
            revivals: 0,
            traceparent: None,
            asked_by: None,
            created_at: Utc::now(),
            started_at: None,
            finished_at: None,
        };
        let claim = async || {
            queue
                .claim(QUEUE_CALLBACK, REQUEST_TIMEOUT, 1)
                .await
                .unwrap()
        };
        outbox::call_back(&*queue, &row).await.unwrap();
        let posting = claim().await.unwrap();
        outbox::call_back(&*queue, &row).await.unwrap();
        queue.finish(&posting.lease).await.unwrap();
        let again = claim().await.unwrap();
        assert_eq!(again.payload, posting.payload);
        queue.finish(&again.lease).await.unwrap();
        assert!(claim().await.is_err(), "once more, and then no more");
    }

    #[test]
    fn a_signature_covers_time_and_body() {
        // Computed with Python's hmac module.
        let known = "v1=b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163";
        assert_eq!(sign("secret", "1700000000", b"{}"), known);
        assert_ne!(sign("secret", "1700000001", b"{}"), known);
        assert_ne!(sign("secret", "1700000000", b"{ }"), known);
    }
}
