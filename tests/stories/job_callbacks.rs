//! Results posted to whoever asked for them: signed, again after a failure, and never into a private network.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::story::lock;
use crate::harness::{Cluster, Options, Rest, Stories, Story, Told, until};

pub fn stories(all: &mut Stories) {
    all.both(a_result_is_posted_signed_and_again_after_a_failure);
    all.both(no_callback_goes_into_a_private_network);
    all.both(a_result_is_signed_without_a_secret_configured);
}

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "what the receiver knows";

/// What was posted.
#[derive(Debug, Clone)]
struct Posted {
    head: String,
    body: String,
}

impl Posted {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Takes what is posted, and answers with these statuses in turn; the last for ever.
struct Receiver {
    port: u16,
    posted: Arc<Mutex<Vec<Posted>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Receiver {
    async fn start(statuses: &'static [&'static str]) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let posted: Arc<Mutex<Vec<Posted>>> = Arc::default();
        let seen = posted.clone();
        let task = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let turn = lock(&seen).len().min(statuses.len() - 1);
                // A request that is none is the story's failure: nothing was posted.
                if let Ok(request) = receive(connection, statuses[turn]).await {
                    lock(&seen).push(request);
                }
            }
        });
        Ok(Self { port, posted, task })
    }

    fn posted(&self) -> Vec<Posted> {
        lock(&self.posted).clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(connection: TcpStream, status: &str) -> anyhow::Result<Posted> {
    let mut reader = BufReader::new(connection);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head).await? > 0, "no request");
    }
    let mut posted = Posted {
        head,
        body: String::new(),
    };
    let length: usize = posted.header("content-length").context("length")?.parse()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    posted.body = String::from_utf8(body)?;
    // Somewhere that nobody may be sent to.
    let answer = format!(
        "HTTP/1.1 {status}\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    reader.get_mut().write_all(answer.as_bytes()).await?;
    Ok(posted)
}

async fn submit(rest: &Rest, callback: &str) -> anyhow::Result<String> {
    let body = json!({"language": "bash", "source": "echo hi", "callback_url": callback});
    let job = rest.post("/api/v1/jobs", body).await?.expect(202)?;
    Ok(job["id"].as_str().context("an id")?.to_owned())
}

async fn open(story: &Story, networks: Option<&str>) -> anyhow::Result<(Cluster, Rest)> {
    let mut options = Options::default()
        .gateways(1)
        .set("CALLBACK_SECRET", SECRET);
    if let Some(networks) = networks {
        options = options.set("CALLBACK_NETWORKS", networks);
    }
    let cluster = story.cluster(options).await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    Ok((cluster, rest))
}

async fn a_result_is_posted_signed_and_again_after_a_failure(story: Story) -> Told {
    let (_cluster, rest) = open(&story, Some("127.0.0.0/8")).await?;
    let receiver = Receiver::start(&["503 Unavailable", "200 OK"]).await?;
    let url = format!("http://localhost:{}/results?from=atelier", receiver.port);
    let id = submit(&rest, &url).await?;
    let posted = until("two posts", PATIENCE, async || {
        let posted = receiver.posted();
        ensure!(posted.len() >= 2, "{posted:?}");
        anyhow::Ok(posted)
    })
    .await?;
    for each in &posted {
        ensure!(
            each.head.starts_with("POST /results?from=atelier HTTP/1.1"),
            "{each:?}"
        );
        ensure!(each.header("atelier-job") == Some(id.as_str()), "{each:?}");
        let timestamp = each.header("atelier-timestamp").context("a time")?;
        let expected = signature(timestamp, &each.body);
        ensure!(
            each.header("atelier-signature") == Some(&expected),
            "{each:?}"
        );
        let body: Value = serde_json::from_str(&each.body)?;
        ensure!(
            body["id"] == id.as_str()
                && body["status"] == "succeeded"
                && body["result"]["stdout"] == "hi\n",
            "{body}"
        );
    }
    // A redirect is not followed, and not tried again: it is the receiver's mistake.
    let moved = Receiver::start(&["307 Temporary Redirect"]).await?;
    let id = submit(&rest, &format!("http://127.0.0.1:{}/", moved.port)).await?;
    let letter = dead_letter(&rest, &id).await?;
    ensure!(
        letter["reason"] == "the callback was answered 307",
        "{letter}"
    );
    ensure!(moved.posted().len() == 1, "{:?}", moved.posted());
    Ok(())
}

async fn no_callback_goes_into_a_private_network(story: Story) -> Told {
    let (_cluster, rest) = open(&story, None).await?;
    let receiver = Receiver::start(&["200 OK"]).await?;
    for host in [
        "127.0.0.1",
        "localhost",
        "[::ffff:127.0.0.1]",
        "0x7f.1",
        "2130706433",
    ] {
        let id = submit(&rest, &format!("http://{host}:{}/", receiver.port)).await?;
        let letter = dead_letter(&rest, &id).await?;
        ensure!(
            letter["reason"] == "callback_url: leads to no public address",
            "{host}: {letter}"
        );
        // Its job is untouched by that.
        let job = rest.get(&format!("/api/v1/jobs/{id}")).await?.expect(200)?;
        ensure!(job["status"] == "succeeded", "{job}");
        ensure!(
            receiver.posted().is_empty(),
            "{host}: {:?}",
            receiver.posted()
        );
    }
    for url in [
        "ftp://example.com/",
        "http://",
        "x",
        "http://a:b@example.com/",
    ] {
        let body = json!({"language": "bash", "source": "true", "callback_url": url});
        let refused = rest.post("/api/v1/jobs", body).await?;
        let problem = refused.problem(422, "invalid")?;
        ensure!(problem["field"] == "callback_url", "{problem}");
    }
    Ok(())
}

/// Without a secret of its own it is derived from the key that signs tokens, the same on gateway and worker.
async fn a_result_is_signed_without_a_secret_configured(story: Story) -> Told {
    let options = Options::default()
        .gateways(1)
        .set("CALLBACK_NETWORKS", "127.0.0.0/8");
    let cluster = story.cluster(options).await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let receiver = Receiver::start(&["200 OK"]).await?;
    submit(&rest, &format!("http://127.0.0.1:{}/", receiver.port)).await?;
    let posted = until("a post", PATIENCE, async || {
        receiver.posted().into_iter().next().context("nothing yet")
    })
    .await?;
    let signature = posted.header("atelier-signature").context("signed")?;
    ensure!(
        signature
            .strip_prefix("v1=")
            .is_some_and(|hex| hex.len() == 64),
        "{signature}"
    );
    Ok(())
}

async fn dead_letter(rest: &Rest, id: &str) -> anyhow::Result<Value> {
    let admin = rest.with_token(crate::harness::ADMIN_TOKEN);
    until("a dead letter", PATIENCE, async || {
        let letters = admin.get("/api/v1/queues/callback/dead").await?;
        let letters = letters.expect(200)?;
        let mut items = letters["items"].as_array().into_iter().flatten();
        let letter = items.find(|letter| letter["id"] == id).cloned();
        letter.with_context(|| letters.to_string())
    })
    .await
}

/// RFC 2104 by hand, so that the receiver's half is not the sender's code.
fn signature(timestamp: &str, body: &str) -> String {
    use sha2::{Digest, Sha256};
    let mut key = [0_u8; 64];
    key[..SECRET.len()].copy_from_slice(SECRET.as_bytes());
    let pad = |byte: u8| key.map(|k| k ^ byte);
    let inner = Sha256::new()
        .chain_update(pad(0x36))
        .chain_update(format!("{timestamp}.{body}"))
        .finalize();
    let outer = Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner)
        .finalize();
    format!("v1={outer:x}")
}
