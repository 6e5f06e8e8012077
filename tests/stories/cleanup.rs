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
}

/// Longer than a run may wait for a worker that was killed.
const LONG: Duration = Duration::from_secs(60);
/// Seconds that an orphan is left alone: longer than a new cluster takes to its first scheduled cleanup, which would
/// otherwise be the one to remove what a story wants to see removed.
const GRACE: u64 = 12;
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0\x90wS\xde";

fn admin(rest: &Rest) -> Rest {
    rest.with_token("the-administrator-of-the-stories")
}

async fn upload(rest: &Rest, room: Option<&str>) -> anyhow::Result<Value> {
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
    // The name is free again, and nothing of the old room is in the new one.
    let again = until("the name to be free", PATIENCE, async || {
        cluster.door(Address::Plain, &gone).enter().await
    })
    .await?;
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
