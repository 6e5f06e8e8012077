//! Insights: kept, shared with a team, searched, voted for.

use anyhow::{Context, ensure};
use serde_json::json;

use crate::harness::{Stories, Story, Told, fresh};

pub fn stories(all: &mut Stories) {
    all.both(an_insight_is_shared_with_its_team_searched_and_voted_for_once);
}

async fn an_insight_is_shared_with_its_team_searched_and_voted_for_once(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben, eve) = (
        rest.guest("Ana").await?,
        rest.guest("Ben").await?,
        rest.guest("Eve").await?,
    );
    let (anas, bens, eves) = (
        rest.as_person(&ana),
        rest.as_person(&ben),
        rest.as_person(&eve),
    );
    let team = anas
        .post("/api/v1/teams", json!({"name": "T"}))
        .await?
        .expect(201)?;
    let team = team["id"].as_str().context("an id")?;
    let body = json!({"user_id": ben.id, "role": "member"});
    anas.post(&format!("/api/v1/teams/{team}/members"), body)
        .await?
        .expect(201)?;

    let word = fresh("word");
    let made = bens
        .post(
            "/api/v1/insights",
            json!({
                "title": "100% slower", "body": format!("Because of {word}."), "team_id": team,
                "tags": ["Parser", "speed", "parser"],
                "links": [{"kind": "message", "id": "m1", "room_id": "r1"}, {"kind": "run", "id": "j1"}],
            }),
        )
        .await?;
    let path = made
        .headers
        .get("location")
        .context("Location")?
        .to_str()?
        .to_owned();
    let made = made.expect(201)?;
    ensure!(
        made["tags"] == json!(["parser", "speed"])
            && made["votes"] == 0
            && made["author"]["name"] == "Ben",
        "{made}"
    );
    bens.post("/api/v1/insights", json!({"title": "Mine alone"}))
        .await?
        .expect(201)?;
    // Found by words and tag, by those of the team; strangers know of none.
    for (query, found) in [
        (format!("q={}", word.to_uppercase()), 1),
        (format!("tag=PARSER&team_id={team}"), 1),
        (format!("q=100%25&team_id={team}"), 1),
        (format!("q=100_slower&team_id={team}"), 0),
        ("tag=parse".to_owned(), 0),
    ] {
        let page = anas
            .get(&format!("/api/v1/insights?{query}"))
            .await?
            .expect(200)?;
        let items = page["items"].as_array().context("items")?;
        ensure!(items.len() == found, "{query}: {page}");
    }
    ensure!(
        eves.get("/api/v1/insights").await?.expect(200)?["items"] == json!([]),
        "a stranger sees none"
    );
    eves.get(&path).await?.problem(404, "not-found")?;
    rest.get(&path).await?.problem(401, "unauthenticated")?;

    let votes = format!("{path}/votes");
    for _ in 0..2 {
        let voted = anas.post(&votes, json!({})).await?.expect(200)?;
        ensure!(voted["votes"] == 1 && voted["voted"] == true, "{voted}");
    }
    ensure!(
        bens.post(&votes, json!({})).await?.expect(200)?["votes"] == 2,
        "his own counts"
    );
    let back = anas.delete(&votes).await?.expect(200)?;
    ensure!(back["votes"] == 1 && back["voted"] == false, "{back}");
    eves.post(&votes, json!({}))
        .await?
        .problem(404, "not-found")?;

    // The author changes it, and an owner of the team; a member does not.
    let carl = rest.guest("Carl").await?;
    let body = json!({"user_id": carl.id, "role": "member"});
    anas.post(&format!("/api/v1/teams/{team}/members"), body)
        .await?
        .expect(201)?;
    let carls = rest.as_person(&carl);
    carls
        .patch(&path, json!({"title": "x"}))
        .await?
        .problem(403, "forbidden")?;
    let changed = anas
        .patch(&path, json!({"tags": ["new"]}))
        .await?
        .expect(200)?;
    ensure!(
        changed["tags"] == json!(["new"]) && changed["title"] == "100% slower",
        "{changed}"
    );
    for (body, field) in [
        (json!({"title": ""}), "title"),
        (json!({"tags": [""]}), "tags"),
        (
            json!({"links": [{"kind": "message", "id": "m"}]}),
            "links.room_id",
        ),
        (json!({"team_id": team}), "team_id"),
    ] {
        let refused = bens.patch(&path, body).await?.problem(422, "invalid")?;
        ensure!(refused["field"] == field, "{refused}");
    }
    let refused = eves
        .post("/api/v1/insights", json!({"title": "x", "team_id": team}))
        .await?;
    ensure!(
        refused.problem(422, "invalid")?["field"] == "team_id",
        "not her team"
    );
    bens.delete(&path).await?.expect(204)?;
    anas.get(&path).await?.problem(404, "not-found")?;
    Ok(())
}
