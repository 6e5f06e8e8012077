//! Backups: made by the clock and on demand, listed, exported, restored in front of everybody, undone.

use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, Text, Transact, TransactionMut, Update};

use super::boards::board_of;
use crate::harness::{
    Address, Client, Cluster, Options, PATIENCE, Person, Rest, Stories, Story, Told, until,
};

/// The archive takes a room over, and the next beat backs it up, on a busy machine.
const LONG: Duration = Duration::from_secs(120);

pub fn stories(all: &mut Stories) {
    all.both(a_changed_room_is_backed_up_by_the_clock_and_an_unchanged_one_is_not);
    all.both(a_restore_reaches_every_open_client_and_can_be_undone);
    all.both(a_document_comes_back_by_an_update_that_open_editors_follow);
    all.both(backups_are_for_those_who_may);
}

fn line(id: &str, width: f64) -> Value {
    json!({"id": id, "width": width, "color": "#123456", "points": [0, 0, 1, 1], "ts": 5})
}

async fn enter(cluster: &Cluster, n: usize, room: &str, person: &Person) -> anyhow::Result<Client> {
    cluster
        .door(Address::Rooms, room)
        .at(cluster.gateway(n).address())
        .person(person)
        .enter()
        .await
}

async fn backups(rest: &Rest, room: &str) -> anyhow::Result<Vec<Value>> {
    let list = rest
        .get(&format!("/api/v1/rooms/{room}/backups"))
        .await?
        .expect(200)?;
    Ok(list["items"].as_array().context("items")?.clone())
}

async fn a_changed_room_is_backed_up_by_the_clock_and_an_unchanged_one_is_not(
    story: Story,
) -> Told {
    let options = Options::default()
        .set("BACKUP_INTERVAL", 1)
        .gateways(1)
        .workers(2);
    let cluster = story.cluster(options).await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let quiet = rest.make_room(json!({"kind": "open"})).await?;
    let client = enter(&cluster, 0, &room, &ana).await?;
    for (n, id) in ["first", "second"].into_iter().enumerate() {
        let seq = client
            .log(json!({"type": "draw", "paths": [line(id, 2.0)]}))
            .await?;
        let made = until("a backup", LONG, async || {
            let all = backups(&rest, &room).await.map_err(|e| e.to_string())?;
            let holds = all.first().is_some_and(|b| b["seq"].as_u64() >= Some(seq));
            holds.then(|| all[0].clone()).ok_or(format!("{all:?}"))
        })
        .await?;
        ensure!(
            made["reason"] == "scheduled" && made["strokes"] == n + 1,
            "{made}"
        );
    }
    // What is said is no part of the state: one more beat finds nothing to keep.
    let newest = |all: &[Value]| all.first().map(|backup| backup["id"].clone());
    let before = newest(&backups(&rest, &room).await?);
    let said = client.chat("hello").await?;
    client
        .expect_where("archived", |m| m["seq"].as_u64() >= Some(said))
        .await?;
    let other = enter(&cluster, 0, &quiet, &ana).await?;
    let drawn = other
        .log(json!({"type": "draw", "paths": [line("x", 1.0)]}))
        .await?;
    // Its backup is made by a beat after the one that looked at the message.
    until("the other room's backup", LONG, async || {
        let all = backups(&rest, &quiet).await.map_err(|e| e.to_string())?;
        let there = all.first().is_some_and(|b| b["seq"] == drawn);
        there.then_some(()).ok_or(format!("{all:?}"))
    })
    .await?;
    // Of one minute only the newest is kept: their number may fall.
    let after = newest(&backups(&rest, &room).await?);
    ensure!(after == before, "{after:?} instead of {before:?}");
    Ok(())
}

async fn drawn(client: &Client) -> anyhow::Result<Vec<(String, f64)>> {
    let paths = board_of(client).await?;
    let of = |path: &Value| Some((path["id"].as_str()?.to_owned(), path["width"].as_f64()?));
    paths.iter().map(of).collect::<Option<_>>().context("paths")
}

async fn a_restore_reaches_every_open_client_and_can_be_undone(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (ana, ben) = (
        cluster.rest().guest("Ana").await?,
        cluster.rest().guest("Ben").await?,
    );
    let rest = cluster.rest().as_person(&ana);
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let here = enter(&cluster, 0, &room, &ana).await?;
    let there = enter(&cluster, 1, &room, &ben).await?;
    here.log(json!({"type": "draw", "paths": [line("c", 1.0), line("b", 2.0), line("a", 3.0)]}))
        .await?;
    here.log(json!({"type": "session_update", "data": {"topic": "plan", "day": 1}}))
        .await?;
    let path = format!("/api/v1/rooms/{room}/backups");
    let made = rest.post(&path, json!({})).await?.expect(201)?;
    ensure!(made["strokes"] == 3 && made["reason"] == "asked", "{made}");
    let then = drawn(&enter(&cluster, 1, &room, &ana).await?).await?;

    // Somebody makes a mess, with a clock that is ahead.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let ahead = u64::try_from(now.as_millis())? + 3_000;
    there
        .log(json!({"type": "draw", "paths": [line("scribble", 9.0)], "erase": [{"id": "b", "ts": ahead}]}))
        .await?;
    there
        .log(json!({"type": "session_update", "data": {"topic": "mess", "day": null, "new": 1}}))
        .await?;
    let mess = drawn(&enter(&cluster, 0, &room, &ana).await?).await?;
    ensure!(mess != then, "nothing changed");

    let restore = |id: &Value| {
        let path = format!("{path}/{}/restore", id.as_str().unwrap_or_default());
        let rest = rest.clone();
        async move { rest.post(&path, json!({})).await?.expect(200) }
    };
    let skip = [here.frames().len(), there.frames().len()];
    let restored = restore(&made["id"]).await?;
    ensure!(restored["restored"]["id"] == made["id"], "{restored}");
    ensure!(restored["before"]["reason"] == "restore", "{restored}");
    for (client, skip) in [(&here, skip[0]), (&there, skip[1])] {
        client
            .news_after(skip, |m| {
                m["type"] == "draw" && m["erase"][0]["id"] == "scribble"
            })
            .await?;
        client
            .news_after(skip, |m| {
                m["type"] == "draw"
                    && m["paths"]
                        .as_array()
                        .is_some_and(|p| p.iter().any(|p| p["id"] == "b"))
            })
            .await?;
        client
            .news_after(skip, |m| {
                m["type"] == "session_update"
                    && m["data"] == json!({"topic": "plan", "day": 1, "new": null})
            })
            .await?;
    }
    for pod in 0..2 {
        let late = enter(&cluster, pod, &room, &ana).await?;
        ensure!(drawn(&late).await? == then, "the board is not what it was");
        let metadata = &late.connected["room"]["metadata"];
        ensure!(
            *metadata == json!({"topic": "plan", "day": 1}),
            "{metadata}"
        );
    }
    let again = restore(&made["id"]).await?;
    ensure!(
        again["edits"] == 0,
        "a second restore changes nothing: {again}"
    );
    restore(&restored["before"]["id"]).await?;
    let undone = until("the mess again", PATIENCE, async || {
        let seen = drawn(
            &enter(&cluster, 1, &room, &ana)
                .await
                .map_err(|e| e.to_string())?,
        )
        .await;
        let seen = seen.map_err(|e| e.to_string())?;
        if seen == mess {
            Ok(seen)
        } else {
            Err(format!("{seen:?}"))
        }
    });
    undone.await?;
    let export = async |format: &str| {
        let id = made["id"].as_str().unwrap_or_default();
        rest.get(&format!("{path}/{id}/export?format={format}"))
            .await
    };
    let (svg, json) = (export("svg").await?, export("json").await?.expect(200)?);
    ensure!(
        svg.status == 200 && svg.text.matches("<path ").count() == 3,
        "{}",
        svg.text
    );
    ensure!(json["paths"].as_array().map(Vec::len) == Some(3), "{json}");
    Ok(())
}

/// An editor's own copy follows by what it is sent and by nothing else.
async fn a_document_comes_back_by_an_update_that_open_editors_follow(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let (here, there) = (
        enter(&cluster, 0, &room, &ana).await?,
        enter(&cluster, 1, &room, &ana).await?,
    );
    let (doc, copy) = (Doc::new(), Doc::new());
    let (text, shown) = (
        doc.get_or_insert_text("content"),
        copy.get_or_insert_text("content"),
    );
    let edit = async |work: &dyn Fn(&mut TransactionMut<'_>)| {
        let update = {
            let mut transaction = doc.transact_mut();
            work(&mut transaction);
            transaction.encode_update_v1()
        };
        here.log(json!({"type": "update", "data": hex::encode(update)}))
            .await
    };
    let reads = async |client: &Client, wanted: &str| {
        client
            .until(&format!("the text {wanted:?}"), PATIENCE, |frames| {
                for frame in frames {
                    let data = frame["data"]
                        .as_str()
                        .filter(|_| frame["type"] == "update" || frame["type"] == "sync");
                    let update = data.and_then(|data| hex::decode(data).ok());
                    let update = update.and_then(|bytes| Update::decode_v1(&bytes).ok());
                    if let Some(update) = update {
                        // Again and again the same: it is merged.
                        let _ = copy.transact_mut().apply_update(update);
                    }
                }
                shown.get_string(&copy.transact()) == wanted
            })
            .await
    };
    edit(&|t| text.insert(t, 0, "as it was")).await?;
    let path = format!("/api/v1/rooms/{room}/backups");
    let made = rest.post(&path, json!({})).await?.expect(201)?;
    ensure!(made["document_bytes"].as_u64() > Some(0), "{made}");
    edit(&|t| text.remove_range(t, 0, 5)).await?;
    edit(&|t| text.insert(t, 0, "a mess that ")).await?;
    reads(&there, "a mess that  was").await?;
    let restore = async |id: &Value| {
        let id = id.as_str().unwrap_or_default();
        rest.post(&format!("{path}/{id}/restore"), json!({}))
            .await?
            .expect(200)
    };
    let restored = restore(&made["id"]).await?;
    reads(&there, "as it was").await?;
    restore(&restored["before"]["id"]).await?;
    reads(&there, "a mess that  was").await?;
    // In the file it is as it was.
    let id = made["id"].as_str().unwrap_or_default();
    let file = rest.get(&format!("{path}/{id}/export")).await?;
    let file = file.expect(200)?;
    let update = hex::decode(file["document"].as_str().context("document")?)?;
    let kept = Doc::new();
    let text = kept.get_or_insert_text("content");
    let update = Update::decode_v1(&update)?;
    kept.transact_mut().apply_update(update)?;
    let text = text.get_string(&kept.transact());
    ensure!(text == "as it was", "{text:?}");
    ensure!(file["metadata"].is_object(), "{file}");
    Ok(())
}

async fn backups_are_for_those_who_may(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let (as_ana, as_ben) = (rest.as_person(&ana), rest.as_person(&ben));
    let room = as_ana.make_room(json!({"kind": "whiteboard"})).await?;
    let path = format!("/api/v1/rooms/{room}/backups");
    rest.get(&path).await?.problem(401, "unauthenticated")?;
    as_ben.get(&path).await?.problem(403, "forbidden")?;
    as_ben
        .post(&path, json!({}))
        .await?
        .problem(403, "forbidden")?;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(as_ana.post(&path, json!({})).await?.expect(201)?["id"].clone());
    }
    let mut listed = Vec::new();
    let mut next = path.clone() + "?limit=2";
    loop {
        let page = as_ana.get(&next).await?.expect(200)?;
        listed.extend(
            page["items"]
                .as_array()
                .context("items")?
                .iter()
                .map(|b| b["id"].clone()),
        );
        match page["next_cursor"].as_str() {
            Some(cursor) => next = format!("{path}?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    made.reverse();
    ensure!(listed == made, "{listed:?} instead of {made:?}");
    let member = json!({"user_id": ben.id, "role": "editor"});
    as_ana
        .post(&format!("/api/v1/rooms/{room}/members"), member)
        .await?
        .expect(201)?;
    as_ben.post(&path, json!({})).await?.expect(201)?;
    let restore = format!("{path}/{}/restore", made[0].as_str().context("id")?);
    as_ben
        .post(&restore, json!({}))
        .await?
        .problem(403, "forbidden")?;
    as_ana.post(&restore, json!({})).await?.expect(200)?;
    for nowhere in ["00000000-0000-7000-8000-000000000000", "not-an-id"] {
        as_ana
            .post(&format!("{path}/{nowhere}/restore"), json!({}))
            .await?
            .problem(404, "not-found")?;
        as_ana
            .get(&format!("{path}/{nowhere}/export"))
            .await?
            .problem(404, "not-found")?;
    }
    Ok(())
}
