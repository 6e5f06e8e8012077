//! How much one caller may ask: told ahead, refused with when to come again, counted for the whole cluster.

use std::io::ErrorKind;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

use crate::harness::{
    Address, Answer, Options, PATIENCE, Rest, Stories, Story, Told, fresh, until,
};

pub fn stories(all: &mut Stories) {
    all.both(a_limit_is_told_ahead_and_counts_on_every_gateway);
    all.both(a_forged_proxy_header_gives_no_rooms);
    all.embedded(sockets_are_bounded_and_leave_room_for_requests);
    all.embedded(who_reads_no_answer_is_cut_off);
}

async fn from(rest: &Rest, method: Method, path: &str, forwarded: &str) -> anyhow::Result<Answer> {
    let request = rest
        .request(method.clone(), path)
        .header("x-forwarded-for", forwarded);
    let request = if method == Method::POST {
        request.json(&json!({}))
    } else {
        request
    };
    Answer::of(request.send().await?).await
}

async fn a_limit_is_told_ahead_and_counts_on_every_gateway(story: Story) -> Told {
    const LIMIT: usize = 12;
    let cluster = story
        .cluster(Options::default().workers(0).set("RATE_WRITES", LIMIT))
        .await?;
    let (here, there) = (cluster.rest(), Rest::at(cluster.there()));
    let mut refused = None;
    // A window may end in between; then what was spent before still counts for a part.
    for n in 0..4 * LIMIT {
        let gateway = if n % 2 == 0 { &here } else { &there };
        let answer = gateway.patch("/api/v1/rooms/none", json!({})).await?;
        let policy = answer
            .headers
            .get("ratelimit-policy")
            .context("RateLimit-Policy")?;
        ensure!(policy == &format!("\"write\";q={LIMIT};w=10"), "{policy:?}");
        let left = answer
            .headers
            .get("ratelimit")
            .context("RateLimit")?
            .to_str()?;
        if answer.status == 429 {
            ensure!(left.starts_with("\"write\";r=0;t="), "{left}");
            refused = Some(answer);
            break;
        }
        ensure!(left.contains(";r="), "{left}");
    }
    let refused = refused.context("nothing was refused")?;
    let wait: u64 = refused
        .headers
        .get("retry-after")
        .context("Retry-After")?
        .to_str()?
        .parse()?;
    ensure!((1..=20).contains(&wait), "{wait}");
    refused.problem(429, "rate-limited")?;
    // What reads is counted apart, and a person apart from their address.
    here.get("/api/v1/rooms").await?.expect(200)?;
    let ana = here.guest("Ana").await?;
    here.as_person(&ana).make_room(json!({})).await?;
    // Probes always get through.
    ensure!(here.get("/livez").await?.status == 200);
    Ok(())
}

async fn a_forged_proxy_header_gives_no_rooms(story: Story) -> Told {
    const ROOMS: u32 = 3;
    let options = || {
        Options::default()
            .workers(0)
            .set("ROOMS_PER_ADDRESS", ROOMS)
    };
    let cluster = story.cluster(options()).await?;
    let rest = cluster
        .rest()
        .as_person(&cluster.rest().guest("Ana").await?);
    for n in 0..ROOMS {
        from(
            &rest,
            Method::POST,
            "/api/v1/rooms",
            &format!("198.51.100.{n}"),
        )
        .await?
        .expect(201)?;
    }
    // No proxy is trusted: whatever the header says, it was one and the same address.
    from(&rest, Method::POST, "/api/v1/rooms", "198.51.100.99")
        .await?
        .problem(429, "room-limit")?;

    let trusting = story
        .cluster(options().set("TRUSTED_PROXIES", "127.0.0.0/8"))
        .await?;
    let rest = trusting
        .rest()
        .as_person(&trusting.rest().guest("Ana").await?);
    for n in 0..ROOMS {
        // What the client itself wrote stands to the left of what the proxy added.
        let header = format!("198.51.100.{n}, 203.0.113.7");
        from(&rest, Method::POST, "/api/v1/rooms", &header)
            .await?
            .expect(201)?;
    }
    from(&rest, Method::POST, "/api/v1/rooms", "203.0.113.7")
        .await?
        .problem(429, "room-limit")?;
    from(&rest, Method::POST, "/api/v1/rooms", "203.0.113.8")
        .await?
        .expect(201)?;
    // A whole /64 of IPv6 is one address.
    for n in 0..ROOMS {
        let header = format!("2001:db8::{n}");
        from(&rest, Method::POST, "/api/v1/rooms", &header)
            .await?
            .expect(201)?;
    }
    from(&rest, Method::POST, "/api/v1/rooms", "2001:db8::ffff")
        .await?
        .problem(429, "room-limit")?;
    Ok(())
}

async fn sockets_are_bounded_and_leave_room_for_requests(story: Story) -> Told {
    const MOST: usize = 32;
    let options = Options::default().set("MAX_CONNECTIONS", MOST);
    let cluster = story.cluster(options).await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let mut clients = Vec::new();
    for _ in 0..MOST - MOST / 8 {
        clients.push(door.enter().await?);
    }
    let refused = door.refused(503, "busy").await?;
    ensure!(refused.headers.contains_key("retry-after"), "{refused:?}");
    cluster.rest().get("/livez").await?.expect(200)?;
    clients.pop();
    until("a place to be free", PATIENCE, async || door.enter().await)
        .await?
        .answered()
        .await
}

async fn who_reads_no_answer_is_cut_off(story: Story) -> Told {
    // Far more than kernels take for a reader who does not read.
    const ASKED: usize = 64;
    let cluster = story
        .cluster(Options::default().set("SLOW_READER_TIMEOUT", 1))
        .await?;
    let address = cluster.here().address();
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4_096)?;
    let mut silent = socket.connect(address).await?;
    let ask = format!("GET /openapi.json HTTP/1.1\r\nHost: {address}\r\n\r\n");
    silent.write_all(ask.repeat(ASKED).as_bytes()).await?;
    until("the connection to be cut off", PATIENCE, async || {
        let written = silent.try_write(b"G");
        let cut_off = written.is_err_and(|error| {
            matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            )
        });
        ensure!(cut_off, "it is open");
        Ok(())
    })
    .await
}
