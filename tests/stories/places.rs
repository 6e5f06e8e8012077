//! Workspaces, projects and teams: who may know of them, who may do what, and that it counts in rooms at once.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{Address, Person, Rest, Stories, Story, Told};

pub fn stories(all: &mut Stories) {
    all.both(places_are_made_listed_changed_and_deleted);
    all.both(strangers_learn_of_no_place_and_ranks_are_kept);
    all.both(the_last_owner_stays);
    all.both(a_projects_people_are_in_its_rooms_what_they_are_in_the_project);
    all.both(whom_a_workspace_sends_away_is_out_of_its_rooms_on_every_pod);
    all.both(a_deleted_project_takes_its_rooms_along);
}

fn id(made: &Value) -> anyhow::Result<String> {
    Ok(made["id"].as_str().context("an id")?.to_owned())
}

/// Makes something by a POST with a name; its path.
async fn make(rest: &Rest, collection: &str, name: &str) -> anyhow::Result<String> {
    let path = format!("/api/v1{collection}");
    let made = rest.post(&path, json!({"name": name})).await?;
    let location = made.headers.get("location").cloned();
    let location = location.context("Location")?.to_str()?.to_owned();
    let made = made.expect(201)?;
    ensure!(location.ends_with(&id(&made)?), "{location}: {made}");
    ensure!(made["name"] == name && made["role"] == "owner", "{made}");
    Ok(location)
}

async fn take_in(rest: &Rest, place: &str, person: &Person, role: &str) -> Told {
    let body = json!({"user_id": person.id, "role": role});
    let member = rest.post(&format!("{place}/members"), body).await?;
    let member = member.expect(201)?;
    ensure!(
        member["user_id"] == person.id.as_str() && member["role"] == role,
        "{member}"
    );
    Ok(())
}

async fn places_are_made_listed_changed_and_deleted(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let workspace = make(&rest, "/workspaces", "Compilers").await?;
    let workspace_id = workspace.rsplit('/').next().context("an id")?.to_owned();
    let project = make(
        &rest,
        &format!("/workspaces/{workspace_id}/projects"),
        "Parser",
    )
    .await?;
    let team = make(&rest, "/teams", "Readers").await?;
    for place in [&workspace, &project, &team] {
        let body = json!({"description": "two\nlines"});
        let changed = rest.patch(place, body).await?.expect(200)?;
        let found = rest.get(place).await?.expect(200)?;
        ensure!(changed == found, "{changed} {found}");
        ensure!(
            found["description"] == "two\nlines" && !found["name"].is_null(),
            "what is absent stays: {found}"
        );
        for (body, field) in [
            (json!({"name": ""}), "name"),
            (json!({"description": "x".repeat(5_000)}), "description"),
            (json!({"owner": "me"}), "owner"),
        ] {
            let refused = rest.patch(place, body).await?.problem(422, "invalid")?;
            ensure!(refused["field"] == field, "{refused}");
        }
        let members = rest.get(&format!("{place}/members")).await?.expect(200)?;
        let items = members["items"].as_array().context("items")?;
        ensure!(
            items.len() == 1 && items[0]["role"] == "owner" && items[0]["name"] == "Ana",
            "{members}"
        );
    }
    ensure!(
        rest.get(&project).await?.expect(200)?["workspace_id"] == workspace_id.as_str(),
        "a project says where it is"
    );
    let wrong = project.replace("/projects/", "/teams/");
    rest.get(&wrong).await?.problem(404, "not-found")?;

    let mut made = vec![workspace.clone()];
    for n in 0..4 {
        made.push(make(&rest, "/workspaces", &format!("W{n}")).await?);
    }
    made.reverse();
    let mut listed = Vec::new();
    let mut path = "/api/v1/workspaces?limit=2".to_owned();
    loop {
        let page = rest.get(&path).await?.expect(200)?;
        for item in page["items"].as_array().context("items")? {
            listed.push(format!("/api/v1/workspaces/{}", id(item)?));
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/workspaces?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    ensure!(listed == made, "newest first: {made:?}, but {listed:?}");
    for place in [&team, &workspace] {
        rest.delete(place).await?.expect(204)?;
        rest.get(place).await?.problem(404, "not-found")?;
    }
    rest.get(&project).await?.problem(404, "not-found")?;
    Ok(())
}

async fn strangers_learn_of_no_place_and_ranks_are_kept(story: Story) -> Told {
    let cluster = story.shared().await?;
    let nobody = cluster.rest();
    let mut people = Vec::new();
    for name in ["Owner", "Admin", "Member", "Viewer", "Stranger"] {
        people.push(nobody.guest(name).await?);
    }
    let [owner, admin, member, viewer, stranger] = &people[..] else {
        unreachable!("five people")
    };
    let owners = nobody.as_person(owner);
    let team = make(&owners, "/teams", "Ranks").await?;
    take_in(&owners, &team, admin, "admin").await?;
    let admins = nobody.as_person(admin);
    take_in(&admins, &team, member, "member").await?;
    take_in(&admins, &team, viewer, "viewer").await?;
    nobody.get(&team).await?.problem(401, "unauthenticated")?;
    let strangers = nobody.as_person(stranger);
    for path in [team.clone(), format!("{team}/members")] {
        strangers.get(&path).await?.problem(404, "not-found")?;
    }
    strangers.delete(&team).await?.problem(404, "not-found")?;
    let members = format!("{team}/members");
    let one = |person: &Person| format!("{members}/{}", person.id);
    for low in [member, viewer] {
        let rest = nobody.as_person(low);
        rest.get(&members).await?.expect(200)?;
        rest.patch(&team, json!({"name": "Mine"}))
            .await?
            .problem(403, "forbidden")?;
        let body = json!({"user_id": stranger.id, "role": "viewer"});
        rest.post(&members, body).await?.problem(403, "forbidden")?;
        rest.delete(&one(admin)).await?.problem(403, "forbidden")?;
    }
    // An admin is above members, not above owners, and makes none.
    admins.delete(&team).await?.problem(403, "forbidden")?;
    admins
        .delete(&one(owner))
        .await?
        .problem(403, "forbidden")?;
    let to = |role: &str| json!({"role": role});
    admins
        .patch(&one(owner), to("viewer"))
        .await?
        .problem(403, "forbidden")?;
    admins
        .patch(&one(member), to("owner"))
        .await?
        .problem(403, "forbidden")?;
    admins
        .patch(&one(member), to("viewer"))
        .await?
        .expect(200)?;
    let twice = json!({"user_id": member.id, "role": "viewer"});
    admins
        .post(&members, twice)
        .await?
        .problem(409, "conflict")?;
    for (body, field) in [
        (
            json!({"user_id": "0190b3c4-0000-7000-8000-000000000000", "role": "viewer"}),
            "user_id",
        ),
        (json!({"user_id": stranger.id, "role": "king"}), "role"),
    ] {
        let refused = admins.post(&members, body).await?.problem(422, "invalid")?;
        ensure!(refused["field"] == field, "{refused}");
    }
    // Whoever wants to may go, and is a stranger then.
    nobody
        .as_person(viewer)
        .delete(&one(viewer))
        .await?
        .expect(204)?;
    nobody
        .as_person(viewer)
        .get(&team)
        .await?
        .problem(404, "not-found")?;
    admins
        .delete(&one(viewer))
        .await?
        .problem(404, "not-found")?;
    Ok(())
}

async fn the_last_owner_stays(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (ana, ben) = (
        cluster.rest().guest("Ana").await?,
        cluster.rest().guest("Ben").await?,
    );
    let (anas, bens) = (
        cluster.rest().as_person(&ana),
        cluster.rest().as_person(&ben),
    );
    let workspace = make(&anas, "/workspaces", "Kept").await?;
    let projects = format!("{}/projects", workspace.trim_start_matches("/api/v1"));
    for place in [
        &workspace,
        &make(&anas, &projects, "P").await?,
        &make(&anas, "/teams", "T").await?,
    ] {
        let herself = format!("{place}/members/{}", ana.id);
        let to = |role: &str| json!({"role": role});
        anas.delete(&herself).await?.problem(409, "conflict")?;
        anas.patch(&herself, to("admin"))
            .await?
            .problem(409, "conflict")?;
        take_in(&anas, place, &ben, "owner").await?;
        anas.patch(&herself, to("viewer")).await?.expect(200)?;
        let himself = format!("{place}/members/{}", ben.id);
        bens.delete(&himself).await?.problem(409, "conflict")?;
        bens.patch(&herself, to("owner")).await?.expect(200)?;
        if place != &workspace {
            bens.delete(&himself).await?.expect(204)?;
        }
    }
    Ok(())
}

/// A workspace with a project with a room, all of this person: the workspace's path, the project's, the room.
async fn project_with_room(rest: &Rest) -> anyhow::Result<(String, String, String)> {
    let workspace = make(rest, "/workspaces", "Works").await?;
    let projects = format!("{}/projects", workspace.trim_start_matches("/api/v1"));
    let project = make(rest, &projects, "Project").await?;
    let project_id = project.rsplit('/').next().context("an id")?;
    let room = json!({"kind": "project", "project_id": project_id});
    let room = rest.make_room(room).await?;
    Ok((workspace, project, room))
}

async fn a_projects_people_are_in_its_rooms_what_they_are_in_the_project(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let (anas, bens) = (rest.as_person(&ana), rest.as_person(&ben));
    let (workspace, project, room) = project_with_room(&anas).await?;
    let shown = anas
        .get(&format!("/api/v1/rooms/{room}"))
        .await?
        .expect(200)?;
    ensure!(
        shown["kind"] == "project" && shown["access"] == "members" && shown["listed"] == false,
        "{shown}"
    );
    let door = cluster.door(Address::Rooms, &room).person(&ben);
    door.refused(403, "forbidden").await?;
    let project_id = project.rsplit('/').next().context("an id")?;
    let in_project = json!({"project_id": project_id});
    let refused = bens.post("/api/v1/rooms", in_project.clone()).await?;
    ensure!(
        refused.problem(422, "invalid")?["field"] == "project_id",
        "a stranger"
    );
    let kind_alone = json!({"kind": "project"});
    let refused = anas.post("/api/v1/rooms", kind_alone).await?;
    ensure!(
        refused.problem(422, "invalid")?["field"] == "project_id",
        "no project"
    );

    take_in(&anas, &workspace, &ben, "viewer").await?;
    bens.post("/api/v1/rooms", in_project.clone())
        .await?
        .problem(403, "forbidden")?;
    let listed = bens.get("/api/v1/rooms?limit=200").await?.expect(200)?;
    let items = listed["items"].as_array().context("items")?;
    ensure!(
        items.iter().any(|r| r["id"] == room.as_str()),
        "not listed: {listed}"
    );
    let client = door.clone().at(cluster.there().address()).enter().await?;
    ensure!(client.connected["role"] == "viewer", "{}", client.connected);

    // A change in the workspace counts in the room from its answer on, on every pod.
    let himself = format!("{workspace}/members/{}", ben.id);
    anas.patch(&himself, json!({"role": "member"}))
        .await?
        .expect(200)?;
    let told = client.expect("role_changed").await?;
    ensure!(
        told["user_id"] == ben.id.as_str() && told["role"] == "editor",
        "{told}"
    );
    client.chat("as an editor").await?;
    anas.patch(&himself, json!({"role": "viewer"}))
        .await?
        .expect(200)?;
    client
        .send(json!({"type": "chat_message", "content": "too late", "ref": "late"}))
        .await?;
    let refused = client.expect_where("error", |m| m["ref"] == "late").await?;
    ensure!(refused["code"] == "forbidden", "{refused}");

    // The greater counts: the project makes him host, though the workspace says viewer.
    take_in(&anas, &project, &ben, "admin").await?;
    let path = format!("/api/v1/rooms/{room}");
    let seen = bens.get(&path).await?.expect(200)?;
    ensure!(seen["role"] == "host", "{seen}");
    bens.patch(&path, json!({"name": "Ben was here"}))
        .await?
        .expect(200)?;
    bens.post("/api/v1/rooms", in_project).await?.expect(201)?;
    Ok(())
}

async fn whom_a_workspace_sends_away_is_out_of_its_rooms_on_every_pod(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let (anas, bens) = (rest.as_person(&ana), rest.as_person(&ben));
    let (workspace, project, room) = project_with_room(&anas).await?;
    take_in(&anas, &workspace, &ben, "member").await?;
    take_in(&anas, &project, &ben, "member").await?;
    let project_id = project.rsplit('/').next().context("an id")?;
    let own = bens.make_room(json!({"project_id": project_id})).await?;
    let mut clients = Vec::new();
    for room in [&room, &own] {
        let door = cluster.door(Address::Rooms, room).person(&ben);
        clients.push(door.enter().await?);
        clients.push(door.at(cluster.there().address()).enter().await?);
    }
    let stays = cluster
        .door(Address::Rooms, &room)
        .person(&ana)
        .enter()
        .await?;
    let himself = format!("{workspace}/members/{}", ben.id);
    anas.delete(&himself).await?.expect(204)?;
    for client in &clients {
        client.closed_with(4403).await?;
    }
    for room in [&room, &own] {
        let door = cluster.door(Address::Rooms, room).person(&ben);
        door.refused(403, "forbidden").await?;
    }
    bens.get(&project).await?.problem(404, "not-found")?;
    let listed = bens.get("/api/v1/rooms?limit=200").await?.expect(200)?;
    let items = listed["items"].as_array().context("items")?;
    ensure!(
        items.iter().all(|r| r["project_id"] != project_id),
        "{listed}"
    );
    stays.chat("still here").await?;
    Ok(())
}

async fn a_deleted_project_takes_its_rooms_along(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let anas = cluster.rest().as_person(&ana);
    let (workspace, project, room) = project_with_room(&anas).await?;
    let client = cluster
        .door(Address::Rooms, &room)
        .at(cluster.there().address())
        .person(&ana)
        .enter()
        .await?;
    anas.delete(&workspace).await?.expect(204)?;
    client.closed_with(4404).await?;
    anas.get(&project).await?.problem(404, "not-found")?;
    anas.get(&format!("/api/v1/rooms/{room}"))
        .await?
        .problem(404, "not-found")?;
    Ok(())
}
