//! `/ws/{room}`: a name is one person's at a time, and nobody is locked out by a connection that is dead.

use anyhow::{Context, ensure};
use serde_json::json;

use crate::harness::{Address, Client, Stories, Story, Told, fresh};

pub fn stories(all: &mut Stories) {
    all.both(a_name_is_one_persons_in_every_room);
    all.both(a_name_is_not_taken_by_joining_under_it);
    all.both(a_name_of_a_token_is_one_persons_too);
    all.both(a_silent_bearer_of_a_name_makes_way);
    all.both(a_page_that_reloads_again_and_again_keeps_its_name);
}

async fn a_name_is_one_persons_in_every_room(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (name, here, elsewhere) = (fresh("Ana"), fresh("board"), fresh("board"));
    let there = cluster
        .door(Address::Named, &elsewhere)
        .at(cluster.there().address())
        .query("username", &name);
    let ana = cluster.door(Address::Named, &here);
    let ana = ana.query("username", &name).enter().await?;
    ana.answered().await?;
    let refused = there.clone().query("username", name.to_uppercase());
    let refused = refused.refused(409, "conflict").await?;
    ensure!(refused.body["field"] == "username", "{}", refused.body);
    // She herself may be in several rooms.
    let token = ana.resume_token.clone();
    let again = there.clone().query("resume_token", token).enter().await?;
    again.close().await?;
    // Where names are labels it is nobody's.
    let label = cluster.door(Address::Plain, &elsewhere).enter().await?;
    label.join(&name).await?;
    label.close().await?;
    // She leaves, and the name is free at once: a page that goes from room to room has no other.
    ana.close().await?;
    let next = there.enter().await?;
    next.close().await
}

async fn a_name_is_not_taken_by_joining_under_it(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (name, room) = (fresh("Ana"), fresh("board"));
    let door = cluster.door(Address::Named, &room);
    let ana = door.clone().query("username", &name).enter().await?;
    let ben = door.at(cluster.there().address()).enter().await?;
    ana.expect("users").await?;
    let join = |name: &str| json!({"type": "join", "name": name, "color": "teal"});
    ben.send(join(&name)).await?;
    let error = ben.expect("error").await?;
    ensure!(
        error["code"] == "conflict" && error["field"] == "name",
        "{error}"
    );
    ben.send(join(&fresh("Ben"))).await?;
    ben.expect("users_list").await?;
    let joined = ana.expect("user_joined").await?;
    ensure!(
        joined["userId"] == ben.client_id.as_str() && joined["color"] == "teal",
        "{joined}"
    );
    // She goes by another name now: the old one is his.
    ana.send(join(&fresh("Anna"))).await?;
    ben.expect("user_updated").await?;
    ben.send(join(&name)).await?;
    let renamed = ana.expect("user_updated").await?;
    ensure!(renamed["name"] == name.as_str(), "{renamed}");
    // Nor in another room, while he bears it.
    let other = cluster
        .door(Address::Named, &fresh("board"))
        .enter()
        .await?;
    other.send(join(&name.to_uppercase())).await?;
    let said = json!({"type": "chat_message", "content": "hi", "ref": "r"});
    other.send(said).await?;
    let error = other.expect("error").await?;
    ensure!(
        error["code"] == "conflict" && error["field"] == "name",
        "{error}"
    );
    other.acknowledged("r").await?;
    // What is sent right behind a join is sent under its name.
    let next = fresh("Cleo");
    let said = json!({"type": "chat_message", "content": "I am Cleo"});
    let watcher = cluster
        .door(Address::Rooms, room_of(&other)?)
        .enter()
        .await?;
    other.send_all([join(&next), said]).await?;
    let heard = watcher.expect("chat_message").await?;
    ensure!(heard["user"]["name"] == next.as_str(), "{heard}");
    ben.close().await?;
    other.send(join(&name)).await?;
    let renamed = watcher.expect("user_updated").await?;
    ensure!(renamed["name"] == name.as_str(), "{renamed}");
    Ok(())
}

fn room_of(client: &Client) -> anyhow::Result<&str> {
    let room = client.connected["room"]["id"].as_str();
    room.context("connected.room.id")
}

async fn a_name_of_a_token_is_one_persons_too(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (name, room) = (fresh("Ana"), fresh("board"));
    let rest = cluster.rest();
    let (ana, eve) = (rest.guest(&name).await?, rest.guest(&name).await?);
    let door = cluster.door(Address::Named, &room);
    let there = door.clone().at(cluster.there().address());
    let first = door.clone().person(&ana).enter().await?;
    first.answered().await?;
    let refused = there.clone().person(&eve).refused(409, "conflict").await?;
    ensure!(refused.body["field"] == "username", "{}", refused.body);
    let elsewhere = cluster.door(Address::Named, &fresh("board"));
    elsewhere
        .clone()
        .person(&eve)
        .refused(409, "conflict")
        .await?;
    // An account that goes by another name than its own has that, too; whoever asks ahead is told so, but for itself.
    let password = "correct horse battery staple";
    let account = rest.register(&fresh("account"), password).await?;
    let shown = fresh("Zoe");
    let board = cluster.door(Address::Named, &fresh("board"));
    let board = board.query("username", &shown).person(&account);
    let bearer = board.enter().await?;
    for (asker, free) in [(&eve, false), (&account, true)] {
        let rest = rest.as_person(asker);
        let check = json!({"username": &shown});
        let told = rest.post("/users/check", check).await?.expect(200)?;
        ensure!(told["available"] == free, "{told}");
    }
    bearer.close().await?;
    // Under another name she comes in; where names are labels under this one.
    let other = there.clone().person(&eve).query("username", fresh("Eve"));
    other.enter().await?.close().await?;
    let label = cluster.door(Address::Plain, &room).person(&eve);
    label.enter().await?.close().await?;
    // The same person: in another room besides, and in this one instead.
    elsewhere.person(&ana).enter().await?.close().await?;
    let second = there.person(&ana).enter().await?;
    first.closed_with(4409).await?;
    second.answered().await
}

/// The network took her, her page came back and knows nothing of who it was.
async fn a_silent_bearer_of_a_name_makes_way(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (name, room) = (fresh("Ana"), fresh("board"));
    let door = cluster.door(Address::Named, &room);
    let there = door.clone().at(cluster.there().address());
    let ben = there.enter().await?;
    ben.expect("users").await?;
    let lost = door.clone().query("username", &name).enter().await?;
    ben.expect("user_joined").await?;
    lost.read_on(false);
    let back = there.clone().query("username", &name).enter().await?;
    ben.expect_where("user_left", |m| m["userId"] == lost.client_id.as_str())
        .await?;
    ben.expect_where("user_joined", |m| m["userId"] == back.client_id.as_str())
        .await?;
    // By a join it is the same.
    back.read_on(false);
    let again = door.enter().await?;
    again.join(&name).await?;
    ben.expect_where("user_left", |m| m["userId"] == back.client_id.as_str())
        .await?;
    let joined = ben
        .expect_where("user_joined", |m| m["userId"] == again.client_id.as_str())
        .await?;
    ensure!(joined["name"] == name.as_str(), "{joined}");
    Ok(())
}

/// Each time as somebody new: such a page keeps no token. It leaves before all that was set off by its coming is done.
async fn a_page_that_reloads_again_and_again_keeps_its_name(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (name, room) = (fresh("Ana"), fresh("board"));
    let door = cluster.door(Address::Named, &room).query("username", &name);
    for turn in 0..40 {
        let server = if turn % 2 == 0 {
            cluster.here()
        } else {
            cluster.there()
        };
        let page = door.clone().at(server.address()).enter().await?;
        page.close().await?;
    }
    Ok(())
}
