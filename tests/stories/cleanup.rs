//! Cleaning up: what nobody wants goes, once, whatever dies meanwhile; what somebody wants stays.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    Address, Answer, Cluster, Mode, Options, PATIENCE, Rest, Stories, Story, Told, fresh, until,
};

pub fn stories(all: &mut Stories) {
    all.both(an_ephemeral_room_goes_when_it_was_empty_for_its_time_and_others_stay);
    all.both(cleanup_is_for_administrators);
    all.both(orphaned_files_go_once_though_two_clean_at_once);
    all.distributed(a_cleanup_whose_worker_is_killed_is_finished_by_the_next);
    all.both(whoever_is_in_a_cleaned_room_is_told_first_and_it_can_be_brought_back);
    all.both(whoever_was_told_can_keep_the_room);
    all.distributed(a_room_whose_removal_was_cut_off_is_removed_by_the_next_worker);
    all.both(of_a_deleted_room_nothing_is_left);
    all.embedded(a_silent_connection_is_told_before_it_is_closed);
}

/// Longer than a run may wait for a worker that was killed.
const LONG: Duration = Duration::from_secs(120);
/// Seconds that an orphan is left alone: longer than a new cluster takes to its first scheduled cleanup, which would
/// otherwise be the one to remove what a story wants to see removed.
const GRACE: u64 = 12;
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0\x90wS\xde";

fn admin(rest: &Rest) -> Rest {
    rest.with_token("the-administrator-of-the-stories")
}

pub async fn upload(rest: &Rest, room: Option<&str>) -> anyhow::Result<Value> {
    let boundary = fresh("boundary");
    let mut body = Vec::new();
    if let Some(room) = room {
        let field = "Content-Disposition: form-data; name=\"room_id\"";
        body.extend(format!("--{boundary}\r\n{field}\r\n\r\n{room}\r\n").bytes());
    }
    let field = "Content-Disposition: form-data; name=\"file\"; filename=\"a.png\"";
    body.extend(format!("--{boundary}\r\n{field}\r\n\r\n").bytes());
    body.extend(PNG);
    body.extend(format!("\r\n--{boundary}--\r\n").bytes());
    let request = rest.request(Method::POST, "/upload").header(
        "content-type",
        format!("multipart/form-data; boundary={boundary}"),
    );
    Answer::of(request.body(body).send().await?)
        .await?
        .expect(201)
}

async fn status_of(cluster: &Cluster, link: &Value) -> anyhow::Result<u16> {
    let link = link.as_str().context("a link")?;
    Ok(cluster.rest().get(link).await?.status)
}

async fn an_ephemeral_room_goes_when_it_was_empty_for_its_time_and_others_stay(
    story: Story,
) -> Told {
    let options = Options::default()
        .set("ROOM_CLEANUP_DELAY", 1)
        .set("CLEANUP_SCHEDULER_INTERVAL", 1);
    let cluster = story.cluster(options).await?;
    let (gone, occupied) = (fresh("gone"), fresh("occupied"));
    let rest = cluster
        .rest()
        .as_person(&cluster.rest().guest("Ana").await?);
    let kept = rest.make_room(json!({"kind": "open"})).await?;
    let guest = cluster.door(Address::Plain, &gone).enter().await?;
    guest.join("Ana").await?;
    guest.chat("soon forgotten").await?;
    let shared = upload(&rest, Some(&gone)).await?;
    let stays = cluster.door(Address::Plain, &occupied).enter().await?;
    stays.join("Ben").await?;
    guest.close().await?;
    until("the room and its file to go", LONG, async || {
        let answer = cluster.rest().get(&format!("/api/v1/rooms/{gone}")).await?;
        ensure!(answer.status == 404, "{}", answer.text);
        let file = status_of(&cluster, &shared["url"]).await?;
        ensure!(file == 404, "its file: {file}");
        Ok(())
    })
    .await?;
    for room in [&kept, &occupied] {
        let answer = cluster.rest().get(&format!("/api/v1/rooms/{room}")).await?;
        ensure!(answer.status == 200, "{room} is wanted: {}", answer.text);
    }
    stays.chat("still here").await?;
    // The name is free again as soon as the removal is over, and nothing of the old room is in the new one.
    let door = cluster.door(Address::Plain, &gone);
    let again = until("the name to be free", LONG, async || door.enter().await).await?;
    ensure!(again.connected["seq"] == 0, "{}", again.connected);
    let messages = cluster
        .rest()
        .get(&format!("/api/v1/rooms/{gone}/messages"))
        .await?
        .expect(200)?;
    ensure!(messages["items"] == json!([]), "{messages}");
    again.chat("a new beginning").await?;
    let status = admin(&cluster.rest())
        .get("/cleanup/status")
        .await?
        .expect(200)?;
    ensure!(
        status["succeeded"].as_u64() > Some(0) && status["failed"] == 0,
        "{status}"
    );
    ensure!(
        status["success_rate"] == 1.0 && status["next_run"].is_string(),
        "{status}"
    );
    Ok(())
}

async fn cleanup_is_for_administrators(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster
        .rest()
        .as_person(&cluster.rest().guest("Ana").await?);
    let room = ana.make_room(json!({"kind": "open"})).await?;
    for base in ["", "/api", "/api/v1"] {
        for path in [
            "",
            "/auto-users",
            "/orphaned-files",
            "/comprehensive",
            "/force-stuck-users",
        ] {
            let path = format!("{base}/cleanup{path}");
            cluster
                .rest()
                .post(&path, json!({}))
                .await?
                .problem(401, "unauthenticated")?;
            ana.post(&path, json!({}))
                .await?
                .problem(403, "forbidden")?;
        }
        ana.get(&format!("{base}/cleanup/status"))
            .await?
            .problem(403, "forbidden")?;
        // A room that is kept is not removed, whoever asks.
        let path = format!("{base}/cleanup/room/{room}");
        let run = admin(&cluster.rest()).post(&path, json!({})).await?;
        ensure!(
            matches!(run.status, 200 | 202) && run.body["removed"] == json!({}),
            "{}",
            run.text
        );
    }
    admin(&cluster.rest())
        .post("/cleanup/room/none", json!({}))
        .await?
        .problem(404, "not-found")?;
    ana.get(&format!("/api/v1/rooms/{room}"))
        .await?
        .expect(200)?;
    Ok(())
}

async fn orphaned_files_go_once_though_two_clean_at_once(story: Story) -> Told {
    let options = Options::default()
        .workers(2)
        .set("FILE_CLEANUP_GRACE", GRACE);
    let cluster = story.cluster(options).await?;
    let rest = cluster
        .rest()
        .as_person(&cluster.rest().guest("Ana").await?);
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let (orphan, wanted) = (
        upload(&rest, None).await?,
        upload(&rest, Some(&room)).await?,
    );
    let (here, there) = (admin(&cluster.rest()), admin(&Rest::at(cluster.there())));
    until("the grace to pass", PATIENCE, async || {
        let tried = here
            .post("/cleanup/orphaned-files?dry_run=true", json!({}))
            .await?
            .expect(200)?;
        ensure!(
            tried["removed"]["orphaned_files"] == 1 && tried["dry_run"] == true,
            "{tried}"
        );
        Ok(())
    })
    .await?;
    ensure!(
        status_of(&cluster, &orphan["url"]).await? == 200,
        "a dry run removes nothing"
    );
    let (one, two) = tokio::try_join!(
        here.post("/cleanup/orphaned-files", json!({})),
        there.post("/api/v1/cleanup/orphaned-files", json!({})),
    )?;
    let (one, two) = (one.expect(200)?, two.expect(200)?);
    let removed = |run: &Value| run["removed"]["orphaned_files"].as_u64().unwrap_or(0);
    ensure!(removed(&one) + removed(&two) == 1, "{one} {two}");
    ensure!(status_of(&cluster, &orphan["url"]).await? == 404);
    ensure!(
        status_of(&cluster, &wanted["url"]).await? == 200,
        "what is in a room stays"
    );
    let status = here.get("/api/v1/cleanup/status").await?.expect(200)?;
    ensure!(
        status["runs"]
            .as_array()
            .is_some_and(|runs| runs.len() >= 3),
        "{status}"
    );
    ensure!(
        story.mode() == Mode::Embedded || status["failed"] == 0,
        "{status}"
    );
    Ok(())
}

async fn a_cleanup_whose_worker_is_killed_is_finished_by_the_next(story: Story) -> Told {
    const FILES: usize = 60;
    let options = Options::default()
        .gateways(1)
        .set("FILE_CLEANUP_GRACE", GRACE)
        .set("JOB_LEASE", 3);
    let cluster = story.cluster(options).await?;
    let rest = cluster
        .rest()
        .as_person(&cluster.rest().guest("Ana").await?);
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let wanted = upload(&rest, Some(&room)).await?;
    let mut orphans = Vec::new();
    for _ in 0..FILES {
        orphans.push(upload(&rest, None).await?["url"].clone());
    }
    let boss = admin(&cluster.rest());
    until("the grace to pass", PATIENCE, async || {
        let tried = boss
            .post("/cleanup/orphaned-files?dry_run=true", json!({}))
            .await?
            .expect(200)?;
        ensure!(tried["removed"]["orphaned_files"] == FILES, "{tried}");
        Ok(())
    })
    .await?;
    let asked = boss.post("/cleanup/orphaned-files", json!({}));
    let killed = async {
        // As soon as it has begun: the first file is gone.
        until("the cleanup to begin", PATIENCE, async || {
            ensure!(status_of(&cluster, &orphans[0]).await? == 404, "not yet");
            Ok(())
        })
        .await?;
        cluster.worker(0).kill().await?;
        cluster.worker(0).restart().await
    };
    let (asked, killed) = tokio::join!(asked, killed);
    killed?;
    let asked = asked?;
    ensure!(matches!(asked.status, 200 | 202), "{}", asked.text);
    until("all orphans to go", LONG, async || {
        for orphan in &orphans {
            let seen = status_of(&cluster, orphan).await?;
            ensure!(seen == 404, "one is still there: {seen}");
        }
        Ok(())
    })
    .await?;
    ensure!(
        status_of(&cluster, &wanted["url"]).await? == 200,
        "what is wanted stays"
    );
    Ok(())
}

/// Cleans a room by name; `what` of it was removed.
async fn clean(boss: &Rest, room: &str) -> anyhow::Result<Value> {
    let run = boss
        .post(&format!("/cleanup/room/{room}"), json!({}))
        .await?;
    run.expect(200)
}

async fn gone(cluster: &Cluster, room: &str) -> anyhow::Result<()> {
    let answer = cluster.rest().get(&format!("/api/v1/rooms/{room}")).await?;
    ensure!(answer.status == 404, "{room}: {}", answer.text);
    Ok(())
}

async fn removal_of(boss: &Rest, room: &str) -> anyhow::Result<Value> {
    let page = boss.get("/cleanup/removed?limit=200").await?.expect(200)?;
    let items = page["items"].as_array().context("items")?;
    let found = items.iter().find(|item| item["room_id"] == room);
    found.cloned().context("the room among the removed")
}

async fn whoever_is_in_a_cleaned_room_is_told_first_and_it_can_be_brought_back(
    story: Story,
) -> Told {
    let cluster = story.shared().await?;
    let (boss, room) = (admin(&cluster.rest()), fresh("cleaned"));
    let ana = cluster.door(Address::Plain, &room).enter().await?;
    ana.join("Ana").await?;
    let far = cluster
        .door(Address::Plain, &room)
        .at(cluster.there().address())
        .enter()
        .await?;
    let path = json!({"id": "p", "width": 1, "color": "#000000", "points": [0, 0, 1, 1], "ts": 1});
    ana.log(json!({"type": "draw", "paths": [path]})).await?;
    ana.chat("not to be forgotten").await?;
    let shared = upload(&cluster.rest(), Some(&room)).await?;
    let tried = boss
        .post(&format!("/cleanup/room/{room}?dry_run=true"), json!({}))
        .await?
        .expect(200)?;
    ensure!(
        tried["removed"]["rooms"] == 1 && tried["removed"]["people_told"] == 2,
        "{tried}"
    );
    ana.answered().await?;
    ana.saw_no("notice")?;
    let run = clean(&boss, &room).await?;
    ensure!(
        run["removed"]["rooms"] == 1 && run["removed"]["backups"] == 1,
        "{run}"
    );
    for client in [&ana, &far] {
        let told = client
            .expect_where("notice", |notice| notice["code"] == "cleanup")
            .await?;
        ensure!(told["in_ms"] == 1_000, "{told}");
        client.closed_with(4404).await?;
    }
    gone(&cluster, &room).await?;
    ensure!(
        status_of(&cluster, &shared["url"]).await? == 404,
        "its file"
    );
    let removal = removal_of(&boss, &room).await?;
    let kept = removal["entries"].as_u64().context("entries")?;
    ensure!(
        kept >= 2 && removal["files"] == 1 && removal["state"] == "removed",
        "{removal}"
    );
    // Whoever makes a room of that name now finds nothing of the old one, its backups least of all.
    let stranger = until("the name to be free", PATIENCE, async || {
        cluster.door(Address::Plain, &room).enter().await
    })
    .await?;
    ensure!(stranger.connected["seq"] == 0, "{}", stranger.connected);
    for list in ["messages", "files", "backups"] {
        let path = format!("/api/v1/rooms/{room}/{list}");
        let page = cluster.rest().get(&path).await?.expect(200)?;
        ensure!(page["items"] == json!([]), "{list}: {page}");
    }
    let base = format!(
        "/cleanup/removed/{}",
        removal["id"].as_str().context("an id")?
    );
    let nobody = cluster
        .rest()
        .as_person(&cluster.rest().guest("Eve").await?);
    for (method, path) in [
        (Method::GET, "/cleanup/removed".to_owned()),
        (Method::GET, format!("{base}/export")),
        (Method::POST, format!("{base}/restore")),
    ] {
        let answer = nobody.request(method, &path).send().await?;
        Answer::of(answer).await?.problem(403, "forbidden")?;
    }
    let drawing = boss.get(&format!("{base}/export")).await?.expect(200)?;
    ensure!(drawing["paths"][0]["id"] == "p", "{drawing}");
    let svg = boss.get(&format!("{base}/export?format=svg")).await?;
    ensure!(
        svg.status == 200 && svg.text.contains("<svg"),
        "{}",
        svg.text
    );
    let restored = boss
        .post(&format!("{base}/restore"), json!({}))
        .await?
        .expect(200)?;
    let back = restored["room_id"].as_str().context("a room")?;
    ensure!(back != room && restored["entries"] == kept, "{restored}");
    let messages = cluster
        .rest()
        .get(&format!("/api/v1/rooms/{back}/messages"))
        .await?
        .expect(200)?;
    let told = messages["items"].as_array().context("items")?;
    ensure!(
        told.iter()
            .any(|item| item["content"] == "not to be forgotten"),
        "{messages}"
    );
    ensure!(
        status_of(&cluster, &shared["url"]).await? == 200,
        "its file"
    );
    let again = cluster.door(Address::Plain, back).enter().await?;
    let board = again.expect("board").await?;
    ensure!(board["paths"][0]["id"] == "p", "{board}");
    again.chat("goes on").await?;
    boss.post(&format!("{base}/restore"), json!({}))
        .await?
        .problem(404, "not-found")?;
    Ok(())
}

async fn whoever_was_told_can_keep_the_room(story: Story) -> Told {
    let options = Options::default().set("CLEANUP_NOTICE", 3);
    let cluster = story.cluster(options).await?;
    let (boss, room) = (admin(&cluster.rest()), fresh("kept"));
    let ana = cluster.door(Address::Plain, &room).enter().await?;
    ana.chat("mine").await?;
    let cleaning = clean(&boss, &room);
    let keeping = async {
        ana.expect_where("notice", |notice| notice["code"] == "cleanup")
            .await?;
        let path = format!("/api/v1/rooms/{room}");
        let kept = boss.patch(&path, json!({"retention": "keep"})).await?;
        kept.expect(200)
    };
    let (run, kept) = tokio::try_join!(cleaning, keeping)?;
    ensure!(kept["retention"] == "keep", "{kept}");
    ensure!(run["removed"]["rooms"].is_null(), "{run}");
    ana.chat("still here").await?;
    let again = clean(&boss, &room).await?;
    ensure!(
        again["removed"] == json!({}) && again["skipped"].is_string(),
        "a kept room is left alone, and the answer says so: {again}"
    );
    Ok(())
}

async fn a_room_whose_removal_was_cut_off_is_removed_by_the_next_worker(story: Story) -> Told {
    let options = Options::default()
        .gateways(1)
        .set("CLEANUP_SCHEDULER_INTERVAL", 1)
        .set("JOB_LEASE", 3);
    let cluster = story.cluster(options).await?;
    let (boss, room) = (admin(&cluster.rest()), fresh("cut"));
    let ana = cluster.door(Address::Plain, &room).enter().await?;
    ana.chat("whole").await?;
    ana.close().await?;
    let asked = clean(&boss, &room);
    let killed = async {
        // Its row is gone, and the rest is yet to go.
        until("the removal to begin", LONG, async || {
            gone(&cluster, &room).await
        })
        .await?;
        cluster.worker(0).kill().await?;
        cluster.worker(0).restart().await
    };
    let (asked, killed) = tokio::join!(asked, killed);
    killed?;
    drop(asked);
    let removal = until("the next to finish it", LONG, async || {
        let removal = removal_of(&boss, &room).await?;
        ensure!(removal["state"] == "removed", "{removal}");
        Ok(removal)
    })
    .await?;
    ensure!(removal["entries"].as_u64() >= Some(1), "{removal}");
    let id = removal["id"].as_str().context("an id")?;
    let restored = boss
        .post(&format!("/cleanup/removed/{id}/restore"), json!({}))
        .await?
        .expect(200)?;
    ensure!(
        restored["room_id"] == room,
        "its own name was free: {restored}"
    );
    let messages = cluster
        .rest()
        .get(&format!("/api/v1/rooms/{room}/messages"))
        .await?
        .expect(200)?;
    ensure!(messages["items"][0]["content"] == "whole", "{messages}");
    Ok(())
}

async fn of_a_deleted_room_nothing_is_left(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster
        .rest()
        .as_person(&cluster.rest().guest("Ana").await?);
    let room = ana.make_room(json!({"kind": "open"})).await?;
    let client = cluster.door(Address::Rooms, &room).enter().await?;
    client.chat("gone for good").await?;
    let shared = upload(&ana, Some(&room)).await?;
    ana.delete(&format!("/api/v1/rooms/{room}"))
        .await?
        .expect(204)?;
    client.closed_with(4404).await?;
    ensure!(
        status_of(&cluster, &shared["url"]).await? == 404,
        "its file is not served any more"
    );
    let boss = admin(&cluster.rest());
    // What its host deleted is not kept aside.
    let page = boss.get("/cleanup/removed?limit=200").await?.expect(200)?;
    let items = page["items"].as_array().context("items")?;
    ensure!(items.iter().all(|item| item["room_id"] != room), "{page}");
    Ok(())
}

async fn a_silent_connection_is_told_before_it_is_closed(story: Story) -> Told {
    let options = Options::default()
        .workers(0)
        .set("WEBSOCKET_CONNECTION_TIMEOUT", 6_000)
        .set("HEARTBEAT_INTERVAL", 2_000);
    let cluster = story.cluster(options).await?;
    let room = fresh("silent");
    let silent = cluster.door(Address::Plain, &room).enter().await?;
    silent.join("Silent").await?;
    let alive = cluster.door(Address::Plain, &room).enter().await?;
    alive.join("Alive").await?;
    // It reads nothing, so it answers no ping.
    silent.read_on(false);
    alive.expect("user_left").await?;
    silent.read_on(true);
    let told = silent
        .expect_where("notice", |notice| {
            notice["code"] == "cleanup" && notice["in_ms"].as_u64() > Some(0)
        })
        .await?;
    ensure!(told["in_ms"].as_u64() <= Some(2_000), "{told}");
    silent.closed_with(4500).await?;
    alive.saw_no("notice")?;
    alive.answered().await
}
