//! Rooms: made, listed, entered on every address, changed, deleted.

use anyhow::{Context, ensure};
use serde_json::json;

use crate::harness::{
    ADDRESSES, Address, Options, PATIENCE, Rest, Stories, Story, Told, fresh, until,
};

pub fn stories(all: &mut Stories) {
    all.both(a_room_is_made_listed_and_entered_on_every_address);
    all.both(connecting_to_an_unknown_room_makes_it_where_that_is_allowed);
    all.both(rooms_of_one_address_are_limited);
    all.both(only_members_enter_a_session);
    all.both(a_role_change_counts_on_every_pod_at_once);
    all.both(losing_membership_closes_sockets_on_every_pod);
    all.both(deleting_a_room_closes_its_sockets);
    all.both(a_list_of_rooms_has_pages);
}

async fn a_room_is_made_listed_and_entered_on_every_address(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest(&fresh("Ana")).await?;
    let rest = cluster.rest().as_person(&ana);
    let name = fresh("Design");
    let made = rest
        .post("/api/v1/rooms", json!({"name": name, "kind": "open"}))
        .await?;
    let location = made.headers.get("location").cloned();
    let made = made.expect(201)?;
    let id = made["id"].as_str().context("an id")?.to_owned();
    let location = location.context("Location")?.to_str()?.to_owned();
    let at_location = rest.get(&location).await?.expect(200)?;
    ensure!(
        at_location["id"] == id.as_str() && made["name"] == name.as_str(),
        "{made}"
    );

    let there = Rest::at(cluster.there());
    let listed = there.get("/api/v1/rooms?limit=200").await?.expect(200)?;
    let items = listed["items"].as_array().context("items")?;
    ensure!(
        items.iter().any(|room| room["id"] == id.as_str()),
        "not listed: {listed}"
    );

    let mut clients = Vec::new();
    for (n, address) in ADDRESSES.into_iter().enumerate() {
        let client = cluster.door(address, &id).person(&ana).enter().await?;
        let connected = &client.connected;
        ensure!(
            connected["room"]["id"] == id.as_str(),
            "{address:?}: {connected}"
        );
        ensure!(
            connected["heartbeat_ms"] == 30_000 && connected["max_frame"] == 1 << 20,
            "{connected}"
        );
        client.join(&fresh(&format!("Ana{n}"))).await?;
        clients.push(client);
    }
    // One room, whatever the address: what one says the other three hear.
    let seq = clients[0].chat("hello").await?;
    for client in &clients[1..] {
        let heard = client
            .expect_where("chat_message", |m| m["content"] == "hello")
            .await?;
        ensure!(
            heard["seq"] == seq && heard["from"] == clients[0].client_id.as_str(),
            "{heard}"
        );
    }

    // A body that may say nothing need not be there.
    let request = rest.request(
        reqwest::Method::POST,
        &format!("/api/v1/rooms/{id}/invites"),
    );
    crate::harness::Answer::of(request.send().await?)
        .await?
        .expect(201)?;
    let label = "n".repeat(64);
    let path = format!("/api/v1/rooms/{id}");
    let renamed = rest
        .patch(&path, json!({"name": label}))
        .await?
        .expect(200)?;
    ensure!(renamed["name"] == label.as_str(), "{renamed}");
    let refused = rest
        .patch(&path, json!({"name": format!("{label}n")}))
        .await?;
    let refused = refused.problem(422, "invalid")?;
    ensure!(refused["field"] == "name", "{refused}");

    // The bare lists of the reference documents.
    let active = until("the room among the active ones", PATIENCE, async || {
        let rooms = there.get("/api/rooms").await?.expect(200)?;
        let rooms = rooms.as_array().context("a bare array")?;
        let room = rooms.iter().find(|room| room["id"] == id.as_str()).cloned();
        let room = room.context("not there yet")?;
        ensure!(room["user_count"] == 4, "{room}");
        anyhow::Ok(room)
    })
    .await?;
    ensure!(
        active["users"]
            .as_array()
            .is_some_and(|users| users.len() == 4),
        "{active}"
    );
    for path in [
        format!("/api/rooms/{id}/users"),
        format!("/rooms/{id}/users"),
    ] {
        let users = there.get(&path).await?.expect(200)?;
        let users = users.as_array().context("a bare array")?.clone();
        ensure!(
            users.len() == 4 && users[0].get("cursor_position").is_some(),
            "{path}: {users:?}"
        );
    }
    Ok(())
}

async fn connecting_to_an_unknown_room_makes_it_where_that_is_allowed(story: Story) -> Told {
    let cluster = story.shared().await?;
    for address in [Address::Plain, Address::Named] {
        let room = fresh("room");
        let client = cluster.door(address, &room).enter().await?;
        let made = &client.connected["room"];
        ensure!(
            made["kind"] == "open" && made["retention"] == "ephemeral",
            "{made}"
        );
        ensure!(client.connected["role"] == "editor", "{}", client.connected);
        cluster
            .door(Address::Rooms, &room)
            .at(cluster.there().address())
            .enter()
            .await?;
    }
    for address in [Address::Rooms, Address::Session] {
        let ana = cluster.rest().guest("Ana").await?;
        cluster
            .door(address, &fresh("room"))
            .person(&ana)
            .refused(404, "not-found")
            .await?;
    }
    let options = Options::default()
        .gateways(1)
        .workers(0)
        .set("ANONYMOUS_ROOMS", false);
    let cluster = story.cluster(options).await?;
    for address in [Address::Plain, Address::Named] {
        cluster
            .door(address, &fresh("room"))
            .refused(404, "not-found")
            .await?;
    }
    Ok(())
}

async fn rooms_of_one_address_are_limited(story: Story) -> Told {
    let options = Options::default().workers(0).unset("ROOMS_PER_ADDRESS");
    let cluster = story.cluster(options).await?;
    let mut last = None;
    for n in 0..10 {
        let address = [Address::Plain, Address::Named][n % 2];
        last = Some(cluster.door(address, &fresh("room")).enter().await?);
    }
    let there = cluster.there().address();
    for address in [Address::Plain, Address::Named] {
        cluster
            .door(address, &fresh("room"))
            .at(there)
            .refused(429, "room-limit")
            .await?;
    }
    let ana = cluster.rest().guest("Ana").await?;
    let rest = Rest::at(cluster.there()).as_person(&ana);
    rest.post("/api/v1/rooms", json!({}))
        .await?
        .problem(429, "room-limit")?;
    // Rooms that are there are entered as before.
    let known = last.context("ten rooms")?.connected["room"]["id"].clone();
    let known = known.as_str().context("an id")?;
    cluster
        .door(Address::Plain, known)
        .at(there)
        .enter()
        .await
        .map(|_| ())
}

async fn only_members_enter_a_session(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben, eve) = (
        rest.guest("Ana").await?,
        rest.guest(&fresh("Ben")).await?,
        rest.guest("Eve").await?,
    );
    let session = rest
        .as_person(&ana)
        .post("/api/v1/sessions", json!({"name": "Pairing"}))
        .await?;
    let session = session.expect(201)?;
    let id = session["id"].as_str().context("an id")?;
    let body = json!({"user_id": ben.id, "role": "viewer"});
    let path = format!("/api/v1/sessions/{id}/participants");
    rest.as_person(&eve)
        .post(&path, body.clone())
        .await?
        .problem(403, "forbidden")?;
    rest.as_person(&ana).post(&path, body).await?.expect(201)?;
    for address in ADDRESSES {
        let door = cluster.door(address, id).at(cluster.there().address());
        door.refused(401, "unauthenticated").await?;
        door.clone().person(&eve).refused(403, "forbidden").await?;
        let client = door.person(&ben).enter().await?;
        ensure!(client.connected["role"] == "viewer", "{}", client.connected);
        client
            .send(json!({"type": "chat_message", "content": "psst", "ref": "r"}))
            .await?;
        let refused = client.expect("error").await?;
        ensure!(
            refused["code"] == "forbidden" && refused["ref"] == "r",
            "{refused}"
        );
    }
    Ok(())
}

async fn a_role_change_counts_on_every_pod_at_once(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let room = rest
        .as_person(&ana)
        .make_room(json!({"kind": "session"}))
        .await?;
    let path = format!("/api/v1/rooms/{room}/members");
    let body = json!({"user_id": ben.id, "role": "editor"});
    rest.as_person(&ana).post(&path, body).await?.expect(201)?;
    let door = cluster
        .door(Address::Session, &room)
        .at(cluster.there().address());
    let client = door.person(&ben).enter().await?;
    client.chat("as an editor").await?;
    let one = format!("{path}/{}", ben.id);
    rest.as_person(&ana)
        .patch(&one, json!({"role": "viewer"}))
        .await?
        .expect(200)?;
    // The answer is the promise: from here on nothing of his is logged, though his pod may not have heard yet.
    client
        .send(json!({"type": "chat_message", "content": "too late", "ref": "late"}))
        .await?;
    let refused = client.expect_where("error", |m| m["ref"] == "late").await?;
    ensure!(refused["code"] == "forbidden", "{refused}");
    let told = client.expect("role_changed").await?;
    ensure!(
        told["user_id"] == ben.id && told["role"] == "viewer",
        "{told}"
    );
    Ok(())
}

async fn losing_membership_closes_sockets_on_every_pod(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let room = rest
        .as_person(&ana)
        .make_room(json!({"kind": "session"}))
        .await?;
    let path = format!("/api/v1/rooms/{room}/members");
    let body = json!({"user_id": ben.id, "role": "editor"});
    rest.as_person(&ana).post(&path, body).await?.expect(201)?;
    let door = cluster.door(Address::Session, &room).person(&ben);
    let here = door.enter().await?;
    let there = door.clone().at(cluster.there().address()).enter().await?;
    rest.as_person(&ana)
        .delete(&format!("{path}/{}", ben.id))
        .await?
        .expect(204)?;
    here.closed_with(4403).await?;
    there.closed_with(4403).await?;
    door.refused(403, "forbidden").await.map(|_| ())
}

async fn deleting_a_room_closes_its_sockets(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let door = cluster.door(Address::Rooms, &room);
    let here = door.enter().await?;
    let there = door.clone().at(cluster.there().address()).enter().await?;
    rest.delete(&format!("/api/v1/rooms/{room}"))
        .await?
        .expect(204)?;
    here.closed_with(4404).await?;
    there.closed_with(4404).await?;
    door.refused(404, "not-found").await.map(|_| ())
}

async fn a_list_of_rooms_has_pages(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(rest.make_room(json!({"kind": "session"})).await?);
    }
    let mut listed = Vec::new();
    let mut path = "/api/v1/sessions?limit=2".to_owned();
    loop {
        let page = rest.get(&path).await?.expect(200)?;
        let items = page["items"].as_array().context("items")?;
        ensure!(items.len() <= 2, "{page}");
        listed.extend(
            items
                .iter()
                .filter_map(|room| room["id"].as_str().map(str::to_owned)),
        );
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/sessions?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    made.reverse();
    ensure!(
        listed == made,
        "newest first: {made:?}, but listed {listed:?}"
    );
    // Whoever asks for rooms with people in them gets full pages of those.
    let client = cluster.door(Address::Rooms, &made[2]).person(&ana);
    let client = client.enter().await?;
    client.join("Ana").await?;
    until("one of the five is active", PATIENCE, async || {
        let (mut active, base) = (Vec::new(), "/api/v1/rooms?active=true&limit=5");
        let mut path = base.to_owned();
        loop {
            let page = rest.get(&path).await?.expect(200)?;
            let items = page["items"].as_array().context("items")?;
            let ids = items.iter().filter_map(|room| room["id"].as_str());
            active.extend(ids.map(str::to_owned));
            let Some(cursor) = page["next_cursor"].as_str() else {
                break;
            };
            ensure!(items.len() == 5, "a short page: {page}");
            path = format!("{base}&cursor={cursor}");
        }
        let ours: Vec<&String> = active.iter().filter(|id| made.contains(id)).collect();
        ensure!(ours == [&made[2]], "{ours:?}");
        anyhow::Ok(())
    })
    .await?;
    client.close().await
}
