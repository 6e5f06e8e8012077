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
    all.both(a_held_name_is_nobody_elses);
    all.both(of_parallel_registrations_one_wins_and_the_others_hear_the_field);
    all.distributed(a_made_up_name_is_free_when_its_gateway_has_died);
    all.both(a_deleted_person_is_nameless_everywhere);
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
    // And in rooms, also where a form's empty field comes with the name.
    let door = cluster.door(Address::Plain, &fresh("room")).person(&ana);
    let room = door.at(cluster.there().address()).enter().await?;
    room.send(json!({"type": "join", "name": "Ana", "avatar_url": ""}))
        .await?;
    room.expect("users_list").await?;
    let user = &room.connected["user"];
    ensure!(
        user["avatar_url"] == "https://example.com/ana.png",
        "{user}"
    );
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
    // More than may wait (64), by far.
    let tries = (0..250).map(|n| {
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
        wrong >= 65 && busy > 0,
        "{wrong} were answered, {busy} sent away"
    );
    Ok(())
}

async fn a_held_name_is_nobody_elses(story: Story) -> Told {
    let options = Options::default()
        .workers(0)
        .set("USER_RELEASE_DELAY", 4)
        .set("UNIQUE_NAMES", true);
    let cluster = story.cluster(options).await?;
    let (here, there) = (cluster.rest(), Rest::at(cluster.there()));
    let guest = async |rest: &Rest, name: &str| {
        rest.post("/api/v1/auth/guest", json!({"name": name})).await
    };
    let register = async |rest: &Rest, name: &str| {
        let body = json!({"username": name, "password": "correct horse"});
        rest.post("/api/v1/auth/register", body).await
    };
    let ben = here.guest("Ben").await?;
    // Somebody else is told so, in any spelling, on any pod.
    for name in ["Ben", "BEN", " ben "] {
        let refused = guest(&there, name).await?.problem(409, "conflict")?;
        ensure!(refused["field"] == "name", "{refused}");
        let refused = register(&there, name).await?.problem(409, "conflict")?;
        ensure!(refused["field"] == "username", "{refused}");
    }
    let mallory = there.guest("Mallory").await?;
    let rename = there
        .as_person(&mallory)
        .patch("/api/v1/users/me", json!({"name": "ben"}))
        .await?;
    ensure!(
        rename.problem(409, "conflict")?["field"] == "name",
        "renamed"
    );
    // He himself makes it an account's, and then it is for ever.
    register(&there.as_person(&ben), "Ben").await?.expect(201)?;
    let refused = guest(&here, "Ben").await?.problem(409, "conflict")?;
    ensure!(refused["field"] == "name", "{refused}");
    // A registration that fails holds nothing.
    let body = json!({"username": "Nora", "password": "correct horse", "email": "n@example.com"});
    here.post("/api/v1/auth/register", body)
        .await?
        .expect(201)?;
    let body = json!({"username": "Nina", "password": "correct horse", "email": "N@example.com"});
    let refused = here.post("/api/v1/auth/register", body).await?;
    ensure!(
        refused.problem(409, "conflict")?["field"] == "email",
        "taken"
    );
    here.guest("Nina").await?;
    // Whoever falls silent lets go in time.
    here.guest("Cora").await?;
    guest(&there, "Cora").await?.problem(409, "conflict")?;
    until("Cora's name is free", PATIENCE, async || {
        guest(&there, "Cora").await?.expect(201)
    })
    .await?;
    // A made-up name is held by nobody who does not go by it.
    here.guest("User12").await?;
    there.guest("User12").await?;
    Ok(())
}

async fn of_parallel_registrations_one_wins_and_the_others_hear_the_field(story: Story) -> Told {
    let cluster = story.shared().await?;
    let pods = [cluster.rest(), Rest::at(cluster.there())];
    for field in ["username", "email"] {
        let (name, mail) = (fresh("dup"), format!("{}@example.com", fresh("dup")));
        let tries = (0..6).map(|n| {
            let rest = pods[n % 2].clone();
            let body = match field {
                "username" => json!({"username": name, "password": "correct horse"}),
                _ => json!({"username": fresh("dup"), "email": mail, "password": "correct horse"}),
            };
            async move { rest.post("/api/v1/auth/register", body).await }
        });
        let mut won = 0;
        for answer in futures::future::try_join_all(tries).await? {
            if answer.status == 201 {
                won += 1;
            } else {
                let refused = answer.problem(409, "conflict")?;
                ensure!(refused["field"] == field, "{refused}");
            }
        }
        ensure!(won == 1, "{field}: {won} of six were registered");
        let login = if field == "username" {
            name
        } else {
            mail.to_uppercase()
        };
        pods[1].login(&login, "correct horse").await?;
    }
    Ok(())
}

async fn a_made_up_name_is_free_when_its_gateway_has_died(story: Story) -> Told {
    let options = Options::default()
        .workers(0)
        .set("USER_RELEASE_DELAY", 3_600);
    let cluster = story.cluster(options).await?;
    let (room, there) = (fresh("crash"), Rest::at(cluster.there()));
    let client = cluster.door(Address::Plain, &room).enter().await?;
    client.join("User4711").await?;
    let named = cluster.door(Address::Plain, &room).enter().await?;
    named.join("Vera").await?;
    for name in ["User4711", "Vera"] {
        until("the name is taken", PATIENCE, async || {
            ensure!(!available(&there, "/users/check", name).await?, "{name}");
            anyhow::Ok(())
        })
        .await?;
    }
    cluster.here().kill().await?;
    until("the made-up name is free", PATIENCE, async || {
        ensure!(available(&there, "/users/check", "User4711").await?, "held");
        anyhow::Ok(())
    })
    .await?;
    ensure!(
        !available(&there, "/users/check", "Vera").await?,
        "a name of her own has its time"
    );
    Ok(())
}

async fn a_deleted_person_is_nameless_everywhere(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (here, there) = (cluster.rest(), Rest::at(cluster.there()));
    let username = fresh("zoe");
    let zoe = here.register(&username, "correct horse").await?;
    let ben = here.guest("Ben").await?;
    let bens = there.as_person(&ben);
    let room = here
        .as_person(&ben)
        .make_room(json!({"kind": "open"}))
        .await?;
    let door = cluster.door(Address::Rooms, &room);
    let client = door.clone().person(&zoe).enter().await?;
    let reader = door.clone().person(&ben).enter().await?;
    let far = door.at(cluster.there().address()).person(&ben);
    let far = far.enter().await?;
    client.chat("a word").await?;
    let message = reader.expect("chat_message").await?;
    let data = json!({"message_id": message["id"], "emoji": "👍", "action": "add"});
    client
        .log(json!({"type": "reaction", "data": data}))
        .await?;
    let path = json!({"id": "p", "width": 1, "color": "#000000", "points": [0, 0, 1, 1], "ts": 1});
    client.log(json!({"type": "draw", "paths": [path]})).await?;
    crate::cleanup::upload(&here.as_person(&zoe), Some(&room)).await?;
    let base = format!("/api/v1/rooms/{room}");
    let shown = [
        format!("{base}/messages"),
        format!("{base}/messages?q=word"),
        format!("{base}/events"),
        format!("{base}/log"),
        format!("{base}/files"),
        format!("{base}/export.json"),
        format!("{base}/export.svg"),
    ];
    let text = async |path: &String| {
        let answer = bens.get(path).await?;
        ensure!(answer.status == 200, "{path}: {}", answer.text);
        anyhow::Ok(answer.text)
    };
    for path in &shown[..5] {
        ensure!(text(path).await?.contains(&username), "{path} knows her");
    }
    here.as_person(&zoe)
        .delete("/api/v1/users/me")
        .await?
        .expect(204)?;
    // Live, with a reaction, on any pod: she is counted still.
    until("no reaction names her", PATIENCE, async || {
        for (by, to) in [(&reader, &far), (&far, &reader)] {
            for action in ["add", "remove"] {
                let data = json!({"message_id": message["id"], "emoji": "👍", "action": action});
                let seq = by.log(json!({"type": "reaction", "data": data})).await?;
                let update = |update: &Value| update["seq"] == seq;
                let told = to.expect_where("reaction_update", update).await?;
                ensure!(told["users"][0]["user_id"] == zoe.id.as_str(), "{told}");
                ensure!(!told.to_string().contains(&username), "{told}");
            }
        }
        anyhow::Ok(())
    })
    .await?;
    until("her name is nowhere any more", PATIENCE, async || {
        for path in &shown {
            let text = text(path).await?;
            ensure!(!text.contains(&username), "{path}: {text}");
        }
        anyhow::Ok(())
    })
    .await?;
    // Nor is whoever comes back told of it.
    let again = cluster
        .door(Address::Rooms, &room)
        .person(&ben)
        .query("epoch", 1)
        .query("seq", 0)
        .enter()
        .await?;
    again.expect("reaction_update").await?;
    again.answered().await?;
    for frame in again.frames() {
        ensure!(!frame.to_string().contains(&username), "{frame}");
    }
    Ok(())
}
