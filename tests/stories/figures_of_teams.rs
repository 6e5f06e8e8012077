//! Who did how much: a team's figures, and a project's activity.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{Address, PATIENCE, Rest, Stories, Story, Told, until};

pub fn stories(all: &mut Stories) {
    all.both(a_teams_figures_and_a_projects_activity_come_from_what_was_archived);
    all.both(figures_are_for_the_team_and_refuse_nonsense_by_name);
}

async fn made(rest: &Rest, path: &str, body: Value) -> anyhow::Result<String> {
    let made = rest.post(path, body).await?.expect(201)?;
    Ok(made["id"].as_str().context("an id")?.to_owned())
}

async fn a_teams_figures_and_a_projects_activity_come_from_what_was_archived(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let anas = rest.as_person(&ana);
    let team = made(&anas, "/api/v1/teams", json!({"name": "T"})).await?;
    let body = json!({"user_id": ben.id, "role": "member"});
    let members = format!("/api/v1/teams/{team}/members");
    anas.post(&members, body).await?.expect(201)?;
    let workspace = made(&anas, "/api/v1/workspaces", json!({"name": "W"})).await?;
    let projects = format!("/api/v1/workspaces/{workspace}/projects");
    let project = made(&anas, &projects, json!({"name": "P"})).await?;
    let in_project = json!({"project_id": project, "access": "open"});
    let room = anas.make_room(in_project).await?;
    let elsewhere = anas.make_room(json!({"kind": "open"})).await?;
    let enter = async |room: &str, person| {
        let client = cluster
            .door(Address::Rooms, room)
            .person(person)
            .enter()
            .await?;
        anyhow::Ok(client)
    };
    let here = enter(&room, &ana).await?;
    here.chat("one").await?;
    here.chat("two").await?;
    let path = |id: &str| json!({"id": id, "width": 1, "color": "#000000", "points": [0, 0, 1, 1], "ts": 1});
    here.log(json!({"type": "draw", "paths": [path("a"), path("b"), path("c")]}))
        .await?;
    enter(&room, &ben).await?.chat("three").await?;
    enter(&elsewhere, &ben).await?.chat("four").await?;

    let figures = format!("/api/v1/analytics/team?team_id={team}&bucket=hour&tz=Asia/Kolkata");
    until("all of it is counted", PATIENCE, async || {
        let figures = anas.get(&figures).await?.expect(200)?;
        ensure!(
            figures["tz"] == "Asia/Kolkata" && figures["bucket"] == "hour",
            "{figures}"
        );
        let items = figures["items"].as_array().context("items")?;
        ensure!(items.len() >= 168, "every hour of a week: {}", items.len());
        let people = items
            .iter()
            .filter_map(|item| item["people"].as_array())
            .flatten();
        let sum = |person: &str, field: &str| {
            let theirs = people.clone().filter(|p| p["user_id"] == person);
            theirs.filter_map(|p| p[field].as_u64()).sum::<u64>()
        };
        let of_ana = (sum(&ana.id, "messages"), sum(&ana.id, "strokes"));
        ensure!(of_ana == (2, 3), "Ana: {of_ana:?}");
        ensure!(
            sum(&ben.id, "messages") == 2,
            "Ben: {}",
            sum(&ben.id, "messages")
        );
        ensure!(sum(&ana.id, "active_minutes") >= 1, "Ana was active");
        anyhow::Ok(())
    })
    .await?;

    let activity = format!("/api/v1/projects/{project}/activity");
    let page = anas.get(&activity).await?.expect(200)?;
    let items = page["items"].as_array().context("items")?;
    ensure!(
        items.iter().all(|item| item["room_id"] == room.as_str()),
        "{page}"
    );
    let messages: u64 = items
        .iter()
        .filter_map(|item| item["messages"].as_u64())
        .sum();
    ensure!(messages == 3, "of the project's room alone: {page}");
    let first = anas
        .get(&format!("{activity}?limit=1"))
        .await?
        .expect(200)?;
    let cursor = first["next_cursor"].as_str().context("there is more")?;
    let rest_of_it = anas
        .get(&format!("{activity}?cursor={cursor}"))
        .await?
        .expect(200)?;
    let more = rest_of_it["items"].as_array().context("items")?;
    ensure!(more.len() + 1 == items.len(), "{first} {rest_of_it}");
    rest.as_person(&ben)
        .get(&activity)
        .await?
        .problem(404, "not-found")?;
    Ok(())
}

async fn figures_are_for_the_team_and_refuse_nonsense_by_name(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, eve) = (rest.guest("Ana").await?, rest.guest("Eve").await?);
    let anas = rest.as_person(&ana);
    let team = made(&anas, "/api/v1/teams", json!({"name": "T"})).await?;
    let path = format!("/api/v1/analytics/team?team_id={team}");
    rest.get(&path).await?.problem(401, "unauthenticated")?;
    rest.as_person(&eve)
        .get(&path)
        .await?
        .problem(404, "not-found")?;
    for (more, field) in [
        ("&tz=Mars/Olympus", "tz"),
        ("&bucket=year", "bucket"),
        ("&from=yesterday", "from"),
        ("&from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "to"),
        (
            "&from=2000-01-01T00:00:00Z&to=2026-01-01T00:00:00Z&bucket=hour",
            "from",
        ),
    ] {
        let refused = anas
            .get(&format!("{path}{more}"))
            .await?
            .problem(422, "invalid")?;
        ensure!(refused["field"] == field, "{more}: {refused}");
    }
    // The day on which Berlin's clock was put forward has 23 hours.
    let days = "&from=2026-03-29T10:00:00Z&to=2026-03-29T11:00:00Z&tz=Europe/Berlin";
    let figures = anas.get(&format!("{path}{days}")).await?.expect(200)?;
    let day = &figures["items"][0];
    ensure!(
        day["start"] == "2026-03-28T23:00:00.000Z" && day["end"] == "2026-03-29T22:00:00.000Z",
        "{figures}"
    );
    Ok(())
}
