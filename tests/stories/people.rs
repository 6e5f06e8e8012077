//! People: which names are free, profiles that are never stale, and leaving for good.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{Address, Options, PATIENCE, Rest, Stories, Story, Told, fresh, until};

pub fn stories(all: &mut Stories) {
    all.both(a_name_is_taken_while_somebody_goes_by_it);
    all.both(a_changed_profile_is_seen_on_every_pod);
    all.both(deleting_an_account_leaves_what_it_wrote_without_its_name);
    all.both(the_last_owner_of_a_team_is_not_deleted);
    all.both(too_many_logins_at_once_are_sent_away_and_told_when_to_come_back);
}

async fn available(rest: &Rest, path: &str, name: &str) -> anyhow::Result<bool> {
    let answer = rest.post(path, json!({"username": name})).await?;
    let answer = answer.expect(200)?;
    answer["available"].as_bool().context("available")
}

async fn a_name_is_taken_while_somebody_goes_by_it(story: Story) -> Told {
    let options = Options::default().workers(0).set("USER_RELEASE_DELAY", 2);
    let cluster = story.cluster(options).await?;
    let (here, there) = (cluster.rest(), Rest::at(cluster.there()));
    for path in ["/users/check", "/api/users/check", "/api/v1/users/check"] {
        ensure!(
            available(&here, path, "Dora").await?,
            "{path}: nobody is Dora"
        );
        let refused = here.post(path, json!({"username": ""})).await?;
        ensure!(
            refused.problem(422, "invalid")?["field"] == "username",
            "{path}"
        );
    }
    let check = "/users/check";
    // An account's for ever, in any spelling.
    here.register("Ana", "correct horse").await?;
    ensure!(!available(&there, check, "ANA").await?, "an account has it");

    // A guest's while they are here, and for the delay after their last heartbeat: Cora's runs out, Ben's does not.
    let (ben, _) = (here.guest("Ben").await?, here.guest("Cora").await?);
    let room = here
        .as_person(&ben)
        .make_room(json!({"kind": "open"}))
        .await?;
    let client = cluster
        .door(Address::Rooms, &room)
        .person(&ben)
        .enter()
        .await?;
    client.join("Ben").await?;
    until("Cora's name is free", PATIENCE, async || {
        client.answered().await?;
        ensure!(available(&there, check, "Cora").await?, "not yet");
        anyhow::Ok(())
    })
    .await?;
    until("Ben's is not", PATIENCE, async || {
        client.answered().await?;
        ensure!(!available(&there, check, "ben").await?, "he is in a room");
        anyhow::Ok(())
    })
    .await?;
    ensure!(
        available(&there.as_person(&ben), check, "Ben").await?,
        "what one holds oneself is free for oneself"
    );
    let stranger = cluster.door(Address::Rooms, &room).enter().await?;
    stranger.join("User4711").await?;
    until("the made-up name is taken", PATIENCE, async || {
        ensure!(!available(&there, check, "User4711").await?, "not yet");
        anyhow::Ok(())
    })
    .await?;
    stranger.close().await?;
    client.close().await?;
    until("both names are free", PATIENCE, async || {
        ensure!(available(&there, check, "User4711").await?, "made up");
        ensure!(available(&there, check, "Ben").await?, "his delay is over");
        anyhow::Ok(())
    })
    .await
}

async fn a_changed_profile_is_seen_on_every_pod(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (here, there) = (cluster.rest(), Rest::at(cluster.there()));
    let (ana, ben) = (
        here.register(&fresh("ana"), "correct horse").await?,
        here.guest("Ben").await?,
    );
    let (anas, bens) = (here.as_person(&ana), there.as_person(&ben));
    let path = format!("/api/v1/users/{}", ana.id);
    for n in 0..5 {
        let before = bens.get(&path).await?.expect(200)?;
        ensure!(
            before.get("email").is_none() && before["kind"] == "account",
            "others see no address: {before}"
        );
        let name = format!("Ana {n}");
        let avatar = "https://example.com/ana.png";
        let body = json!({"name": name, "avatar_url": avatar});
        let changed = anas.patch("/api/v1/users/me", body).await?.expect(200)?;
        ensure!(changed["name"] == name.as_str(), "{changed}");
        until("the other pod shows the new name", PATIENCE, async || {
            let seen = bens.get(&path).await?.expect(200)?;
            ensure!(
                seen["name"] == name.as_str() && seen["avatar_url"] == avatar,
                "{seen}"
            );
            anyhow::Ok(())
        })
        .await?;
    }
    let cleared = json!({"avatar_url": null});
    let me = anas.patch("/api/v1/users/me", cleared).await?.expect(200)?;
    ensure!(me["avatar_url"].is_null() && me["name"] == "Ana 4", "{me}");
    ensure!(
        anas.get("/api/v1/users/me").await?.expect(200)? == me,
        "{me}"
    );
    let address = format!("{}@example.com", fresh("ana"));
    let body = json!({"email": address});
    anas.patch("/api/v1/users/me", body.clone())
        .await?
        .expect(200)?;
    let eve = here.register(&fresh("eve"), "correct horse").await?;
    let taken = here
        .as_person(&eve)
        .patch("/api/v1/users/me", body.clone())
        .await?;
    ensure!(
        taken.problem(409, "conflict")?["field"] == "email",
        "unique"
    );
    for (body, field) in [
        (json!({"name": "\u{202e}"}), "name"),
        (json!({"avatar_url": "javascript:1"}), "avatar_url"),
        (json!({"email": "x"}), "email"),
        (json!({"is_admin": true}), "is_admin"),
    ] {
        let refused = anas
            .patch("/api/v1/users/me", body)
            .await?
            .problem(422, "invalid")?;
        ensure!(refused["field"] == field, "{refused}");
    }
    let refused = bens
        .patch("/api/v1/users/me", body)
        .await?
        .problem(422, "invalid")?;
    ensure!(refused["field"] == "email", "guests have none: {refused}");
    there.get(&path).await?.problem(401, "unauthenticated")?;
    bens.get("/api/v1/users/0190b3c4-0000-7000-8000-000000000000")
        .await?
        .problem(404, "not-found")?;
    Ok(())
}

async fn deleting_an_account_leaves_what_it_wrote_without_its_name(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (here, there) = (cluster.rest(), Rest::at(cluster.there()));
    let username = fresh("ana");
    let ana = here.register(&username, "correct horse").await?;
    let ben = here.guest("Ben").await?;
    let anas = here.as_person(&ana);
    let room = here
        .as_person(&ben)
        .make_room(json!({"kind": "open"}))
        .await?;
    let door = cluster.door(Address::Rooms, &room).person(&ana);
    let client = door.enter().await?;
    let elsewhere = door.at(cluster.there().address()).enter().await?;
    client.chat("hello from me").await?;
    let messages = format!("/api/v1/rooms/{room}/messages");
    let author = async |rest: &Rest| -> anyhow::Result<Value> {
        let page = rest.get(&messages).await?.expect(200)?;
        Ok(page["items"][0]["user"].clone())
    };
    let before = author(&there).await?;
    ensure!(before["name"] == username.as_str(), "{before}");
    anas.delete("/api/v1/users/me").await?.expect(204)?;
    client.closed_with(4401).await?;
    elsewhere.closed_with(4401).await?;
    until("her name is gone on every pod", PATIENCE, async || {
        for rest in [&here, &there] {
            let after = author(rest).await?;
            ensure!(
                after["name"] == "Deleted user" && after["user_id"] == ana.id.as_str(),
                "{after}"
            );
        }
        anyhow::Ok(())
    })
    .await?;
    anas.get("/api/v1/users/me")
        .await?
        .problem(401, "token-revoked")?;
    let renewal = json!({"refresh_token": ana.refresh_token});
    here.post("/api/v1/auth/refresh", renewal)
        .await?
        .expect(401)?;
    let login = json!({"username": username, "password": "correct horse"});
    here.post("/api/v1/auth/login", login)
        .await?
        .problem(401, "wrong-credentials")?;
    let path = format!("/api/v1/users/{}", ana.id);
    there
        .as_person(&ben)
        .get(&path)
        .await?
        .problem(404, "not-found")?;
    ensure!(
        available(&there, "/users/check", &username).await?,
        "her name is free"
    );
    // Whoever comes back to the room from before the message finds it without her name, too.
    let reader = cluster
        .door(Address::Rooms, &room)
        .at(cluster.there().address())
        .person(&ben)
        .enter()
        .await?;
    reader.chat("still here").await?;
    Ok(())
}

async fn the_last_owner_of_a_team_is_not_deleted(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let anas = rest.as_person(&ana);
    let team = anas.post("/api/v1/teams", json!({"name": "Two"})).await?;
    let team = team.expect(201)?["id"]
        .as_str()
        .context("an id")?
        .to_owned();
    let members = format!("/api/v1/teams/{team}/members");
    let body = json!({"user_id": ben.id, "role": "member"});
    anas.post(&members, body).await?.expect(201)?;
    anas.delete("/api/v1/users/me")
        .await?
        .problem(409, "conflict")?;
    let himself = format!("{members}/{}", ben.id);
    anas.patch(&himself, json!({"role": "owner"}))
        .await?
        .expect(200)?;
    anas.delete("/api/v1/users/me").await?.expect(204)?;
    let left = rest.as_person(&ben).get(&members).await?.expect(200)?;
    let items = left["items"].as_array().context("items")?;
    ensure!(
        items.len() == 1 && items[0]["user_id"] == ben.id.as_str(),
        "{left}"
    );
    Ok(())
}

async fn too_many_logins_at_once_are_sent_away_and_told_when_to_come_back(story: Story) -> Told {
    let options = Options::default()
        .gateways(1)
        .workers(0)
        .set("PASSWORD_HASHES_AT_ONCE", 1);
    let cluster = story.cluster(options).await?;
    let rest = cluster.rest();
    let tries = (0..60).map(|n| {
        let (rest, name) = (rest.clone(), format!("nobody-{n}"));
        async move {
            let login = json!({"username": name, "password": "wrong horse"});
            rest.post("/api/v1/auth/login", login).await
        }
    });
    let (mut wrong, mut busy) = (0, 0);
    for answer in futures::future::try_join_all(tries).await? {
        if answer.status == 401 {
            wrong += 1;
            answer.problem(401, "wrong-credentials")?;
        } else {
            busy += 1;
            ensure!(answer.headers.contains_key("retry-after"), "{answer:?}");
            answer.problem(503, "busy")?;
        }
    }
    ensure!(
        wrong >= 9 && busy > 0,
        "{wrong} were answered, {busy} sent away"
    );
    Ok(())
}
