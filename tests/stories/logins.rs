//! Accounts, guests, tokens, and what ends a login.

use std::time::Duration;

use anyhow::{bail, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Address, Options, PATIENCE, Rest, SOON, Stories, Story, Told, fresh, until};

pub fn stories(all: &mut Stories) {
    all.both(a_refresh_token_that_comes_again_ends_the_login);
    all.both(a_token_runs_out_with_a_notice_unless_it_is_renewed);
    all.both(an_account_registers_logs_in_refreshes_and_logs_out);
    all.both(unknown_users_and_wrong_passwords_get_one_answer);
    all.both(fields_are_refused_by_name);
    all.both(logging_out_closes_sockets_on_every_pod_within_a_second);
    all.both(a_ticket_opens_one_socket);
    all.both(a_token_comes_in_by_header_subprotocol_or_url);
    all.both(tokens_are_signed_with_a_published_key);
    all.both(failed_logins_must_wait_and_say_how_long);
}

const PASSWORD: &str = "correct horse battery staple";

async fn an_account_registers_logs_in_refreshes_and_logs_out(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (here, there) = (cluster.rest(), Rest::at(cluster.there()));
    let name = fresh("ana");
    let email = format!("{name}@example.com");
    let body = json!({"username": name, "password": PASSWORD, "email": email, "name": "Ana"});
    let made = here.post("/api/v1/auth/register", body.clone()).await?;
    ensure!(
        made.headers["cache-control"] == "no-store",
        "tokens must not be cached: {:?}",
        made.headers
    );
    let made = made.expect(201)?;
    ensure!(
        made["token_type"] == "Bearer" && made["expires_in"] == 900,
        "{made}"
    );
    ensure!(
        made["user"]["kind"] == "account" && made["user"]["name"] == "Ana",
        "{made}"
    );
    for (taken, free) in [("username", "email"), ("email", "username")] {
        let mut body = body.clone();
        let at = if free == "email" { "@example.com" } else { "" };
        body[free] = format!("{}{at}", fresh("x")).into();
        let again = there.post("/api/v1/auth/register", body).await?;
        let problem = again.problem(409, "conflict")?;
        ensure!(problem["field"] == taken, "{problem}");
    }

    let by_email = there.login(&email.to_uppercase(), PASSWORD).await?;
    let me = here
        .as_person(&by_email)
        .get("/api/auth/me")
        .await?
        .expect(200)?;
    ensure!(me["username"] == name && me["email"] == email, "{me}");

    let next = here.refresh(&by_email.refresh_token).await?;
    ensure!(
        next.refresh_token != by_email.refresh_token,
        "a refresh token is good for one use"
    );
    there
        .as_person(&next)
        .get("/api/v1/auth/me")
        .await?
        .expect(200)?;

    let body = json!({"refresh_token": next.refresh_token});
    there
        .post("/api/v1/auth/logout", body.clone())
        .await?
        .expect(204)?;
    let refused = here.post("/api/v1/auth/refresh", body).await?;
    refused.expect(401)?;
    until(
        "the access token to be refused on the other pod",
        PATIENCE,
        async || {
            let answer = here.as_person(&next).get("/api/v1/auth/me").await?;
            answer.problem(401, "token-revoked")
        },
    )
    .await?;
    // Other logins of the same person go on.
    here.login(&name, PASSWORD).await.map(|_| ())
}

async fn unknown_users_and_wrong_passwords_get_one_answer(story: Story) -> Told {
    let rest = story.shared().await?.rest();
    let name = fresh("eve");
    rest.register(&name, PASSWORD).await?;
    let answer = async |username: &str| {
        let body = json!({"username": username, "password": "not the password"});
        let answer = rest.post("/api/v1/auth/login", body).await?;
        let mut problem = answer.problem(401, "wrong-credentials")?;
        problem["trace_id"] = Value::Null;
        anyhow::Ok(problem)
    };
    let (wrong, unknown) = (answer(&name).await?, answer(&fresh("nobody")).await?);
    ensure!(
        wrong == unknown,
        "they can be told apart: {wrong} and {unknown}"
    );
    Ok(())
}

async fn fields_are_refused_by_name(story: Story) -> Told {
    let rest = story.shared().await?.rest();
    for (body, field) in [
        (json!({"username": "", "password": PASSWORD}), "username"),
        (
            json!({"username": "a\u{202e}b", "password": PASSWORD}),
            "username",
        ),
        (
            json!({"username": fresh("x"), "password": "short"}),
            "password",
        ),
        (
            json!({"username": fresh("x"), "password": PASSWORD, "email": "nowhere"}),
            "email",
        ),
        (json!({"password": PASSWORD}), "username"),
        (json!({"username": 5, "password": PASSWORD}), "username"),
    ] {
        let answer = rest.post("/api/v1/auth/register", body.clone()).await?;
        let problem = answer.problem(422, "invalid")?;
        ensure!(
            problem["field"] == field,
            "{body} should name {field}: {problem}"
        );
    }
    let request = rest.request(reqwest::Method::POST, "/api/v1/auth/login");
    let request = request.header("content-type", "application/json").body("{");
    let answer = crate::harness::Answer::of(request.send().await?).await?;
    answer.problem(400, "malformed").map(|_| ())
}

async fn a_refresh_token_that_comes_again_ends_the_login(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (here, there) = (cluster.rest(), Rest::at(cluster.there()));
    let first = here.guest("Gus").await?;
    let second = here.refresh(&first.refresh_token).await?;
    // A client that did not get the answer asks again, perhaps elsewhere: the same successor.
    let repeated = there.refresh(&first.refresh_token).await?;
    ensure!(
        repeated.refresh_token == second.refresh_token,
        "within the grace the successor is the same"
    );
    let third = there.refresh(&second.refresh_token).await?;
    let body = json!({"refresh_token": first.refresh_token});
    // Its successor was used: whoever comes with it now has a copy, and the grace is no excuse.
    let answer = here.post("/api/v1/auth/refresh", body).await?;
    answer.problem(401, "token-revoked")?;
    let body = json!({"refresh_token": third.refresh_token});
    there
        .post("/api/v1/auth/refresh", body)
        .await?
        .expect(401)?;
    until("its access token to be refused", PATIENCE, async || {
        let answer = there.as_person(&third).get("/api/v1/auth/me").await?;
        answer.problem(401, "token-revoked")
    })
    .await
    .map(|_| ())
}

async fn logging_out_closes_sockets_on_every_pod_within_a_second(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let room = rest
        .as_person(&ana)
        .make_room(json!({"kind": "open"}))
        .await?;
    let door = cluster.door(Address::Rooms, &room);
    let here = door.clone().person(&ana).enter().await?;
    let there = door.clone().at(cluster.there().address());
    let (there, other) = (
        there.clone().person(&ana).enter().await?,
        there.person(&ben).enter().await?,
    );
    let body = json!({"refresh_token": ana.refresh_token});
    rest.post("/api/v1/auth/logout", body).await?.expect(204)?;
    let told = Instant::now();
    here.closed_with(4401).await?;
    there.closed_with(4401).await?;
    let took = told.elapsed();
    ensure!(took < SOON, "the sockets closed after {took:?}");
    other.answered().await
}

async fn a_ticket_opens_one_socket(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let ana = rest.guest("Ana").await?;
    let room = rest
        .as_person(&ana)
        .make_room(json!({"kind": "session"}))
        .await?;
    let ticket = rest
        .as_person(&ana)
        .post("/api/v1/auth/ws-ticket", json!({}))
        .await?
        .expect(200)?;
    let ticket = ticket["ticket"].as_str().unwrap_or_default();
    let door = cluster
        .door(Address::Session, &room)
        .query("ticket", ticket);
    let client = door.clone().at(cluster.there().address()).enter().await?;
    ensure!(
        client.connected["user"]["user_id"] == ana.id,
        "{}",
        client.connected
    );
    door.refused(401, "token-invalid").await.map(|_| ())
}

async fn a_token_comes_in_by_header_subprotocol_or_url(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let ana = rest.guest(&fresh("Ana")).await?;
    let room = rest
        .as_person(&ana)
        .make_room(json!({"kind": "session"}))
        .await?;
    for address in crate::harness::ADDRESSES {
        let door = cluster.door(address, &room);
        for door in [
            door.clone().person(&ana),
            door.clone().query("token", &ana.token),
            door.clone()
                .header("sec-websocket-protocol", format!("bearer, {}", ana.token)),
        ] {
            let client = door.enter().await?;
            ensure!(
                client.connected["role"] == "host",
                "{address:?}: {}",
                client.connected
            );
        }
    }
    Ok(())
}

async fn tokens_are_signed_with_a_published_key(story: Story) -> Told {
    let cluster = story.shared().await?;
    let person = cluster.rest().guest("Ana").await?;
    let keys = Rest::at(cluster.there())
        .get("/.well-known/jwks.json")
        .await?
        .expect(200)?;
    let header = person.token.split('.').next().unwrap_or_default();
    let header: Value = serde_json::from_slice(&base64_url(header)?)?;
    ensure!(header["alg"] == "EdDSA", "{header}");
    let published = keys["keys"].as_array().into_iter().flatten();
    let mut known = published.filter(|key| key["kid"] == header["kid"] && key["crv"] == "Ed25519");
    let key = known.next();
    ensure!(
        key.is_some_and(|key| key["d"].is_null()),
        "{header} is not among {keys}"
    );
    Ok(())
}

/// Unpadded base64url, for reading a header; not for anything that must be safe.
fn base64_url(text: &str) -> anyhow::Result<Vec<u8>> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for digit in text.bytes() {
        let Some(value) = DIGITS.iter().position(|d| *d == digit) else {
            bail!("not base64url: {text}");
        };
        bits = bits << 6 | u32::try_from(value)?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff)?);
        }
    }
    Ok(bytes)
}

async fn failed_logins_must_wait_and_say_how_long(story: Story) -> Told {
    let options = Options::default()
        .gateways(1)
        .workers(0)
        .set("LOGIN_TRIES", 2)
        .set("TRUSTED_PROXIES", "127.0.0.0/8,::1/128");
    let rest = story.cluster(options).await?.rest();
    let name = fresh("ana");
    rest.register(&name, PASSWORD).await?;
    let try_with = async |password: &str| {
        let body = json!({"username": name, "password": password});
        rest.post("/api/v1/auth/login", body).await
    };
    for _ in 0..2 {
        try_with("wrong").await?.problem(401, "wrong-credentials")?;
    }
    let refused = try_with(PASSWORD).await?;
    let wait = refused
        .headers
        .get("retry-after")
        .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    refused.problem(429, "rate-limited")?;
    ensure!(
        wait.is_some_and(|s| (1..=900).contains(&s)),
        "retry-after: {wait:?}"
    );
    // Whoever guesses locks nobody out: from elsewhere the right password is still right.
    let elsewhere = rest
        .request(reqwest::Method::POST, "/api/v1/auth/login")
        .header("x-forwarded-for", "192.0.2.77")
        .json(&json!({"username": name, "password": PASSWORD}));
    let status = elsewhere.send().await?.status();
    ensure!(status == 200, "from another address: {status}");
    Ok(())
}

async fn a_token_runs_out_with_a_notice_unless_it_is_renewed(story: Story) -> Told {
    // Long enough for a busy machine to renew in time, and below the 30 s of the notice.
    const LIFETIME: Duration = Duration::from_secs(20);
    // A token's times are whole seconds.
    const PRECISION: Duration = Duration::from_secs(1);
    let options = Options::default().gateways(1).workers(0);
    let options = options.set("ACCESS_TOKEN_LIFETIME", LIFETIME.as_secs());
    let cluster = story.cluster(options).await?;
    let rest = cluster.rest();
    let began = Instant::now();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let room = rest
        .as_person(&ana)
        .make_room(json!({"kind": "open"}))
        .await?;
    let door = cluster.door(Address::Rooms, &room);
    let (lapses, renews) = (
        door.clone().person(&ana).enter().await?,
        door.person(&ben).enter().await?,
    );
    let notice = renews.expect("notice").await?;
    let in_ms = notice["in_ms"].as_u64().unwrap_or(u64::MAX);
    ensure!((1..=30_000).contains(&in_ms), "{notice}");
    renews
        .send(json!({"type": "auth", "token": ana.token}))
        .await?;
    let refused = renews.expect("error").await?;
    ensure!(
        refused["field"] == "token",
        "somebody else's token must not count: {refused}"
    );
    // Time itself is what this is about: half of a token's life later one of the two comes with a new one.
    tokio::time::sleep_until(began + LIFETIME / 2).await;
    let next = rest.refresh(&ben.refresh_token).await?;
    renews
        .send(json!({"type": "auth", "token": next.token}))
        .await?;
    renews
        .expect_where("notice", |m| m["code"] == "token_renewed")
        .await?;
    lapses.closed_with(4401).await?;
    renews.answered().await?;
    let took = began.elapsed();
    ensure!(
        took >= LIFETIME - PRECISION,
        "closed after {took:?}, before the token ran out"
    );
    Ok(())
}
