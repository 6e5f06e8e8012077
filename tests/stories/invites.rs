//! Coming in by invitation, under a name of one's own, and the people who are none.

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::cluster::ADMIN_TOKEN;
use crate::harness::{
    Address, Client, Cluster, Options, PATIENCE, Person, Rest, Stories, Story, Told, fresh, until,
};

pub fn stories(all: &mut Stories) {
    all.both(an_invitation_lets_in_as_many_as_it_says_and_nobody_once_revoked);
    all.both(invitations_are_for_hosts_and_refused_by_field);
    all.both(joining_is_told_in_order_and_once);
    all.both(of_several_who_come_at_once_under_one_name_one_gets_in);
    all.both(simulated_people_come_move_and_leave_on_every_pod);
    all.distributed(simulated_people_end_with_their_pod);
    all.both(somebody_who_says_nothing_is_dropped_once_and_comes_back_by_speaking);
    all.both(a_silent_socket_is_swept_with_one_user_left);
}

async fn invite(rest: &Rest, room: &str, body: Value) -> anyhow::Result<(Value, String)> {
    let answer = rest
        .post(&format!("/api/v1/rooms/{room}/invites"), body)
        .await?;
    let invite = answer.expect(201)?;
    let code = invite["code"].as_str().context("code")?.to_owned();
    ensure!(code.len() >= 22, "128 bits: {invite}");
    Ok((invite, code))
}

async fn an_invitation_lets_in_as_many_as_it_says_and_nobody_once_revoked(story: Story) -> Told {
    const USES: usize = 3;
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let ana = rest.guest("Ana").await?;
    let hers = rest.as_person(&ana);
    let room = hers
        .make_room(json!({"kind": "session", "name": "Pairing"}))
        .await?;
    let host = cluster
        .door(Address::Session, &room)
        .person(&ana)
        .enter()
        .await?;
    let (made, code) = invite(&hers, &room, json!({"role": "viewer", "max_uses": USES})).await?;
    ensure!(made["uses"] == 0 && made["max_uses"] == USES, "{made}");
    ensure!(
        made["url"].as_str().is_some_and(|url| url.contains(&code)),
        "{made}"
    );
    let look = rest
        .get(&format!("/api/v1/invites/{code}"))
        .await?
        .expect(200)?;
    ensure!(
        look["room"]["name"] == "Pairing" && look["role"] == "viewer",
        "{look}"
    );
    let accept = format!("/api/v1/invites/{code}/accept");
    rest.post(&accept, json!({}))
        .await?
        .problem(401, "unauthenticated")?;
    // More at once than it says, on both pods.
    let guests = try_join_all((0..USES + 3).map(|_| rest.guest("Guest"))).await?;
    let answers = guests.iter().enumerate().map(|(n, guest)| {
        let pod = if n % 2 == 0 {
            cluster.here()
        } else {
            cluster.there()
        };
        let rest = Rest::at(pod).as_person(guest);
        let accept = accept.clone();
        async move { rest.post(&accept, json!({})).await }
    });
    let mut inside: Vec<&Person> = Vec::new();
    for (answer, guest) in try_join_all(answers).await?.into_iter().zip(&guests) {
        if answer.status == 200 {
            ensure!(
                answer.body["room"]["id"] == room.as_str() && answer.body["role"] == "viewer",
                "{}",
                answer.body
            );
            inside.push(guest);
        } else {
            answer.problem(410, "gone")?;
        }
    }
    ensure!(
        inside.len() == USES,
        "{} came in by {USES} uses",
        inside.len()
    );
    host.expect_where("role_changed", |m| m["role"] == "viewer")
        .await?;
    let door = cluster
        .door(Address::Session, &room)
        .at(cluster.there().address());
    let guest = door.clone().person(inside[0]).enter().await?;
    ensure!(guest.connected["role"] == "viewer", "{}", guest.connected);
    // One who is in already uses nothing up, and keeps what they have.
    let again = rest.as_person(inside[0]).post(&accept, json!({})).await?;
    ensure!(again.expect(200)?["role"] == "viewer");
    let listed = hers
        .get(&format!("/api/v1/rooms/{room}/invites"))
        .await?
        .expect(200)?;
    ensure!(
        listed["items"][0]["uses"] == USES && listed["items"][0].get("code").is_none(),
        "{listed}"
    );

    // A better one makes an editor of a viewer; revoked, it lets nobody in, and who came stays.
    let (made, code) = invite(&hers, &room, json!({"role": "editor"})).await?;
    let accept = format!("/api/v1/invites/{code}/accept");
    rest.as_person(inside[0])
        .post(&accept, json!({}))
        .await?
        .expect(200)?;
    guest
        .expect_where("role_changed", |m| m["role"] == "editor")
        .await?;
    guest.chat("now I may speak").await?;
    let one = format!(
        "/api/v1/rooms/{room}/invites/{}",
        made["id"].as_str().context("id")?
    );
    hers.delete(&one).await?.expect(204)?;
    hers.delete(&one).await?.problem(404, "not-found")?;
    let late = rest.guest("Late").await?;
    rest.as_person(&late)
        .post(&accept, json!({}))
        .await?
        .problem(404, "not-found")?;
    guest.chat("still here").await.map(|_| ())
}

async fn invitations_are_for_hosts_and_refused_by_field(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let hers = rest.as_person(&ana);
    let room = hers.make_room(json!({"kind": "session"})).await?;
    let path = format!("/api/v1/rooms/{room}/invites");
    let (_, code) = invite(
        &hers,
        &room,
        json!({"role": "editor", "expires_in_s": 3600}),
    )
    .await?;
    let his = rest.as_person(&ben);
    his.post(&path, json!({}))
        .await?
        .problem(403, "forbidden")?;
    his.post(&format!("/api/v1/invites/{code}/accept"), json!({}))
        .await?
        .expect(200)?;
    his.post(&path, json!({}))
        .await?
        .problem(403, "forbidden")?;
    his.get(&path).await?.problem(403, "forbidden")?;
    for (body, field) in [
        (json!({"role": "king"}), "role"),
        (json!({"max_uses": 0}), "max_uses"),
        (json!({"expires_in_s": 0}), "expires_in_s"),
        (json!({"uses": 1}), "uses"),
    ] {
        let problem = hers.post(&path, body).await?.problem(422, "invalid")?;
        ensure!(problem["field"] == field, "{problem}");
    }
    rest.get("/api/v1/invites/nobody-made-this-one")
        .await?
        .problem(404, "not-found")
        .map(|_| ())
}

async fn joining_is_told_in_order_and_once(story: Story) -> Told {
    let cluster = story.shared().await?;
    let room = fresh("room");
    let door = cluster.door(Address::Plain, &room);
    let watcher = door.clone().at(cluster.there().address()).enter().await?;
    let stroke = json!({"id": "s", "width": 1, "color": "#000000", "points": [1, 2], "ts": 5});
    watcher
        .log(json!({"type": "draw", "paths": [stroke]}))
        .await?;
    let client = door.enter().await?;
    client.expect("users").await?;
    let kinds: Vec<String> = client
        .frames()
        .iter()
        .filter_map(|m| m["type"].as_str().map(str::to_owned))
        .filter(|kind| ["connected", "board", "users"].contains(&kind.as_str()))
        .collect();
    ensure!(kinds == ["connected", "board", "users"], "{kinds:?}");
    let name = client.connected["user"]["name"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        name.strip_prefix("User")
            .is_some_and(|n| n.parse::<u32>().is_ok()),
        "a made-up name is User<number>: {name}"
    );
    watcher.saw_no("user_joined")?;
    let others = client.join("Ana").await?;
    ensure!(
        !others
            .iter()
            .any(|user| user["id"] == client.client_id.as_str()),
        "users_list is everyone but oneself: {others:?}"
    );
    let joined = watcher.expect("user_joined").await?;
    ensure!(
        joined["userId"] == client.client_id.as_str() && joined["name"] == "Ana",
        "{joined}"
    );
    client.join("Anna").await?;
    let updated = watcher.expect("user_updated").await?;
    ensure!(updated["name"] == "Anna", "{updated}");
    // Presence in every status, and a late joiner is shown it.
    for status in ["idle", "away", "active", "away"] {
        client
            .send(json!({"type": "presence_update", "data": {"status": status}}))
            .await?;
        watcher
            .expect_where("presence_update", |m| m["data"]["status"] == status)
            .await?;
    }
    let late = door.enter().await?;
    let seen = late.expect("users").await?;
    let seen = seen["users"].as_array().into_iter().flatten();
    let ana = seen.into_iter().find(|user| user["name"] == "Anna");
    ensure!(ana.is_some_and(|user| user["status"] == "away"), "{ana:?}");
    client.close().await?;
    watcher.expect("user_left").await?;
    ensure!(
        watcher.count("user_joined") == 1 && watcher.count("user_left") == 1,
        "each once"
    );
    Ok(())
}

async fn of_several_who_come_at_once_under_one_name_one_gets_in(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Named, &fresh("board"));
    door.enter().await?.close().await?;
    let doors = (0..6).map(|n| {
        let pod = if n % 2 == 0 {
            cluster.here()
        } else {
            cluster.there()
        };
        door.clone().at(pod.address()).query("username", "Ana")
    });
    let came = futures::future::join_all(doors.map(|door| async move { door.enter().await })).await;
    let inside: Vec<Client> = came.into_iter().filter_map(Result::ok).collect();
    ensure!(inside.len() <= 1, "{} of one name", inside.len());
    // Whoever comes later is refused while one is there, and can't take the name by joining either.
    let ana = match inside.into_iter().next() {
        Some(ana) => ana,
        None => door.clone().query("username", "Ana").enter().await?,
    };
    let there = door.clone().at(cluster.there().address());
    there
        .clone()
        .query("username", "ana")
        .refused(409, "conflict")
        .await?;
    let ben = there.query("username", "Ben").enter().await?;
    let answer = until("the other pod to know her", PATIENCE, async || {
        let users = Rest::at(cluster.there())
            .get(&format!(
                "/rooms/{}/users",
                ana.connected["room"]["id"].as_str().unwrap_or("")
            ))
            .await?;
        ensure!(users.text.contains("\"Ana\""), "{}", users.text);
        anyhow::Ok(())
    });
    answer.await?;
    ben.send(json!({"type": "join", "name": "Ana"})).await
}

async fn users(pod: &crate::harness::process::Process, room: &str) -> anyhow::Result<Vec<Value>> {
    let users = Rest::at(pod)
        .get(&format!("/api/rooms/{room}/users"))
        .await?
        .expect(200)?;
    Ok(users.as_array().context("a bare array")?.clone())
}

async fn simulated_people_come_move_and_leave_on_every_pod(story: Story) -> Told {
    let cluster = story.shared().await?;
    let room = fresh("crowd");
    let watcher = cluster
        .door(Address::Plain, &room)
        .at(cluster.there().address())
        .enter()
        .await?;
    watcher.join("Watcher").await?;
    let path = format!("/api/simulate/users/{room}");
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest();
    rest.post(&path, json!({}))
        .await?
        .problem(401, "unauthenticated")?;
    rest.as_person(&ana)
        .post(&path, json!({}))
        .await?
        .problem(403, "forbidden")?;
    let admin = cluster.admin();
    for bad in [0, 1001] {
        let problem = admin
            .post(&format!("{path}?count={bad}"), json!({}))
            .await?
            .problem(422, "invalid")?;
        ensure!(problem["field"] == "count", "{problem}");
    }
    let made = admin.post(&path, json!({})).await?.expect(200)?;
    ensure!(
        made == json!({"success": true, "simulated_users": 10, "total_users": 11}),
        "{made}"
    );
    for pod in [cluster.here(), cluster.there()] {
        let users = users(pod, &room).await?;
        let simulated = users
            .iter()
            .filter(|user| user["simulated"] == true)
            .count();
        ensure!((users.len(), simulated) == (11, 10), "{users:?}");
    }
    for _ in 0..10 {
        watcher
            .expect_where("user_joined", |m| m["simulated"] == true)
            .await?;
    }
    watcher.expect("cursor").await?;
    // Removed by way of the other pod: four of them, then all.
    let there = Rest::at(cluster.there()).with_token(ADMIN_TOKEN);
    let some = there
        .delete(&format!("{path}?count=4"))
        .await?
        .expect(200)?;
    ensure!(some == json!({"success": true, "removed": 4}), "{some}");
    let rest = admin.delete(&path).await?.expect(200)?;
    ensure!(rest == json!({"success": true, "removed": 6}), "{rest}");
    for _ in 0..10 {
        watcher.expect("user_left").await?;
    }
    until("all to be gone", PATIENCE, async || {
        let users = users(cluster.here(), &room).await?;
        ensure!(users.len() == 1, "{users:?}");
        anyhow::Ok(())
    })
    .await?;
    watcher.answered().await?;
    ensure!(watcher.count("user_left") == 10, "each leaves once");
    Ok(())
}

async fn simulated_people_end_with_their_pod(story: Story) -> Told {
    let cluster = story.cluster(Options::default().workers(0)).await?;
    let room = fresh("crowd");
    let watcher = cluster
        .door(Address::Plain, &room)
        .at(cluster.there().address())
        .enter()
        .await?;
    let path = format!("/api/simulate/users/{room}?count=20");
    cluster.admin().post(&path, json!({})).await?.expect(200)?;
    let there = async |count: usize| {
        until("the crowd to be counted", PATIENCE, async || {
            let users = users(cluster.there(), &room).await?;
            ensure!(users.len() == count, "{} there", users.len());
            anyhow::Ok(())
        })
        .await
    };
    there(20).await?;
    cluster.here().signal(Signal::TERM).await?;
    there(0).await?;
    watcher.answered().await?;
    ensure!(watcher.count("user_left") == 20, "each leaves once");
    let status = cluster.here().ended(PATIENCE).await?;
    ensure!(status.success(), "{status}");
    Ok(())
}

async fn quick(story: &Story, name: &str, value: u32) -> anyhow::Result<Cluster> {
    story.cluster(Options::default().set(name, value)).await
}

async fn somebody_who_says_nothing_is_dropped_once_and_comes_back_by_speaking(
    story: Story,
) -> Told {
    let cluster = quick(&story, "PRESENCE_TIMEOUT", 3).await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let watcher = door.clone().at(cluster.there().address()).enter().await?;
    let quiet = door.enter().await?;
    quiet.join("Quiet").await?;
    watcher.expect("user_joined").await?;
    // Its socket lives: it is the person who is not refreshed.
    let left = watcher.expect("user_left").await?;
    ensure!(left["reason"] == "stale", "{left}");
    quiet.send(json!({"type": "heartbeat"})).await?;
    let back = watcher.expect("user_joined").await?;
    ensure!(back["name"] == "Quiet", "{back}");
    ensure!(watcher.count("user_left") == 1, "dropped once");
    Ok(())
}

async fn a_silent_socket_is_swept_with_one_user_left(story: Story) -> Told {
    let cluster = quick(&story, "WEBSOCKET_CONNECTION_TIMEOUT", 3_000).await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let watcher = door.clone().at(cluster.there().address()).enter().await?;
    let silent = door.enter().await?;
    silent.join("Silent").await?;
    watcher.expect("user_joined").await?;
    let swept = until("the silent one to be swept", PATIENCE, async || {
        // The watcher speaks, so that it is not silent itself.
        watcher.answered().await?;
        ensure!(silent.is_closed(), "still open");
        anyhow::Ok(())
    });
    swept.await?;
    silent.closed_with(4500).await?;
    watcher.expect("user_left").await?;
    watcher.answered().await?;
    ensure!(watcher.count("user_left") == 1, "told once");
    Ok(())
}
