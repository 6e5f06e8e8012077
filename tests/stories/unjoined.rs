//! Whoever connects and never joins is somebody all the same: spoken to, given a role, sent out, and said to have left.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{Address, Client, Cluster, Door, Rest, Stories, Story, Told, fresh};
use crate::messages::refused;

pub fn stories(all: &mut Stories) {
    all.both(whoever_never_joins_can_be_reached_on_every_pod);
    all.both(whoever_has_just_dropped_out_gets_what_is_written_to_them);
    all.both(whoever_showed_a_cursor_is_said_to_have_left);
    all.both(a_role_given_to_somebody_anonymous_outlasts_their_connection);
    all.both(whoever_is_sent_out_stays_out_of_an_open_room);
    all.both(a_room_is_active_as_soon_as_somebody_is_in_it);
}

fn person(client: &Client) -> anyhow::Result<String> {
    let id = client.connected["user"]["user_id"].as_str();
    id.map(str::to_owned).context("connected.user.user_id")
}

/// An open room, and whoever made it in it.
async fn hosted(cluster: &Cluster) -> anyhow::Result<(Door, Client)> {
    let ana = cluster.rest().guest("Ana").await?;
    let hers = cluster.rest().as_person(&ana);
    let room = hers.make_room(json!({"kind": "open"})).await?;
    let door = cluster.door(Address::Plain, &room);
    let host = door.clone().person(&ana).enter().await?;
    Ok((door, host))
}

async fn whoever_never_joins_can_be_reached_on_every_pod(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (door, host) = hosted(&cluster).await?;
    for server in [cluster.here(), cluster.there()] {
        let lurker = door.clone().at(server.address()).enter().await?;
        lurker.expect("users").await?;
        let id = person(&lurker)?;
        host.log(json!({"type": "direct_message", "to": id, "content": "who are you?"}))
            .await?;
        let told = lurker.expect("direct_message").await?;
        ensure!(told["content"] == "who are you?", "{told}");
        host.log(json!({"type": "set_role", "user_id": id, "role": "viewer"}))
            .await?;
        lurker.expect("role_changed").await?;
        let said = json!({"type": "chat_message", "content": "nobody"});
        refused(&lurker, said, "forbidden", "type").await?;
        host.log(json!({"type": "kick", "user_id": id})).await?;
        lurker.closed_with(4403).await?;
    }
    host.saw_no("user_joined")?;
    host.saw_no("user_left")
}

async fn whoever_has_just_dropped_out_gets_what_is_written_to_them(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let ana = door.clone().enter().await?;
    ana.join("Ana").await?;
    for server in [cluster.here(), cluster.there()] {
        let visitor = door.clone().at(server.address()).enter().await?;
        visitor.join("Visitor").await?;
        let id = person(&visitor)?;
        ana.expect("user_joined").await?;
        let back = visitor.way_back();
        visitor.close().await?;
        ana.expect("user_left").await?;
        let to = |id: &str| json!({"type": "direct_message", "to": id, "content": "come back"});
        ana.log(to(&id)).await?;
        let stranger = uuid::Uuid::new_v4().to_string();
        refused(&ana, to(&stranger), "not_found", "to").await?;
        let again = back.enter().await?;
        let told = again.expect("direct_message").await?;
        ensure!(told["content"] == "come back", "{told}");
        again.close().await?;
    }
    Ok(())
}

async fn whoever_showed_a_cursor_is_said_to_have_left(story: Story) -> Told {
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let watcher = door.clone().enter().await?;
    let there = door.clone().at(cluster.there().address()).enter().await?;
    there.expect("users").await?;
    let silent = door.enter().await?;
    silent.close().await?;
    let shows = door.enter().await?;
    shows.send(json!({"type": "cursor", "position": 7})).await?;
    for client in [&watcher, &there] {
        client.expect("cursor").await?;
    }
    let id = shows.client_id.clone();
    shows.close().await?;
    for client in [&watcher, &there] {
        let left = client.expect("user_left").await?;
        ensure!(left["userId"] == id.as_str(), "{left}");
        ensure!(client.count("user_left") == 1, "once, and of nobody else");
    }
    Ok(())
}

async fn a_role_given_to_somebody_anonymous_outlasts_their_connection(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (door, host) = hosted(&cluster).await?;
    let visitor = door.enter().await?;
    visitor.join("Visitor").await?;
    let id = person(&visitor)?;
    host.log(json!({"type": "set_role", "user_id": id, "role": "viewer"}))
        .await?;
    visitor.expect("role_changed").await?;
    let back = visitor.way_back();
    visitor.close().await?;
    for server in [cluster.there(), cluster.here()] {
        let again = back.clone().at(server.address()).enter().await?;
        ensure!(person(&again)? == id, "{}", again.connected);
        ensure!(again.connected["role"] == "viewer", "{}", again.connected);
        again.close().await?;
    }
    // Who shows no resume token is somebody else.
    let other = door.enter().await?;
    ensure!(other.connected["role"] == "editor", "{}", other.connected);
    Ok(())
}

async fn whoever_is_sent_out_stays_out_of_an_open_room(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let hers = rest.as_person(&ana);
    let room = hers.make_room(json!({"kind": "open"})).await?;
    let elsewhere = hers.make_room(json!({"kind": "open"})).await?;
    let door = cluster.door(Address::Plain, &room);
    let host = door.clone().person(&ana).enter().await?;
    let kick = |id: &str| json!({"type": "kick", "user_id": id});
    let page = fresh("page");
    let visitor = door.clone().client_id(&page).enter().await?;
    visitor.join("Visitor").await?;
    let (id, back) = (person(&visitor)?, visitor.way_back());
    host.log(kick(&id)).await?;
    visitor.closed_with(4403).await?;
    let guest = door.clone().person(&ben).enter().await?;
    host.log(kick(&ben.id)).await?;
    guest.closed_with(4403).await?;
    for server in [cluster.here(), cluster.there()] {
        // By the resume token, by nothing but the client id, and by a token; over REST, too.
        let at = server.address();
        back.clone().at(at).refused(403, "forbidden").await?;
        let plain = door.clone().at(at).client_id(&page);
        plain.refused(403, "forbidden").await?;
        let his = door.clone().at(at).person(&ben);
        his.refused(403, "forbidden").await?;
        let users = Rest::at(server).as_person(&ben);
        users
            .get(&format!("/api/v1/rooms/{room}/users"))
            .await?
            .problem(403, "forbidden")?;
        // Others come in, and they may go elsewhere.
        door.clone().at(at).enter().await?.close().await?;
        let other = cluster.door(Address::Plain, &elsewhere).at(at);
        other.person(&ben).enter().await?.close().await?;
    }
    // A host thinks better of it.
    for id in [&id, &ben.id] {
        host.log(json!({"type": "set_role", "user_id": id, "role": "editor"}))
            .await?;
    }
    back.at(cluster.there().address()).enter().await?;
    door.person(&ben).enter().await.map(|_| ())
}

async fn a_room_is_active_as_soon_as_somebody_is_in_it(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let listed = async |id: &str| {
        let rooms = rest.get("/api/rooms").await?.expect(200)?;
        let rooms = rooms.as_array().context("a bare array")?;
        anyhow::Ok(rooms.iter().find(|room| room["id"] == id).cloned())
    };
    // The list is by id, and shows a hundred.
    for _ in 0..3 {
        let id = fresh("0active");
        ensure!(listed(&id).await?.is_none());
        let door = cluster.door(Address::Plain, &id);
        let client = door.enter().await?;
        client.join("Ana").await?;
        let room = listed(&id).await?.context("listed at once")?;
        let users = room["users"].as_array().map(Vec::len);
        ensure!(room["user_count"] == 1 && users == Some(1), "{room}");
        let users: Value = rest
            .get(&format!("/api/rooms/{id}/users"))
            .await?
            .expect(200)?;
        ensure!(users[0]["name"] == "Ana", "{users}");
        client.close().await?;
    }
    Ok(())
}
