//! Files: uploaded, told to everybody, served by links that end, refused where they could do harm.

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    Address, Answer, Options, PATIENCE, Rest, Stories, Story, Told, fresh, until,
};

pub fn stories(all: &mut Stories) {
    all.both(a_file_is_told_to_everybody_and_served_by_its_link);
    all.both(what_could_do_harm_is_refused_by_name);
    all.both(a_chat_message_names_its_file);
    all.both(a_hundred_uploads_at_once_hold_little_memory);
    all.both(a_file_of_somebody_without_a_token_has_a_sender);
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0\x90wS\xde";

/// A form as browsers write it; fields in the order given.
fn form(fields: &[(&str, Option<&str>, &[u8])]) -> (String, Vec<u8>) {
    let boundary = fresh("boundary");
    let mut body = Vec::new();
    for (name, file, value) in fields {
        body.extend(
            format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"").bytes(),
        );
        if let Some(file) = file {
            body.extend(format!("; filename=\"{file}\"\r\nContent-Type: text/html").bytes());
        }
        body.extend(b"\r\n\r\n");
        body.extend(*value);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{boundary}--\r\n").bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

async fn upload(
    rest: &Rest,
    path: &str,
    fields: &[(&str, Option<&str>, &[u8])],
) -> anyhow::Result<Answer> {
    let (content_type, body) = form(fields);
    let request = rest
        .request(Method::POST, path)
        .header("content-type", content_type);
    Answer::of(request.body(body).send().await?).await
}

/// The answer to a link, with one header.
async fn fetch(rest: &Rest, link: &str, header: (&str, &str)) -> anyhow::Result<reqwest::Response> {
    let request = rest.request(Method::GET, link).header(header.0, header.1);
    Ok(request.send().await?)
}

fn link(value: &Value) -> anyhow::Result<&str> {
    value.as_str().with_context(|| format!("no link: {value}"))
}

async fn a_file_is_told_to_everybody_and_served_by_its_link(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let here = cluster.door(Address::Rooms, &room).enter().await?;
    let there = cluster
        .door(Address::Rooms, &room)
        .at(cluster.there().address())
        .enter()
        .await?;
    let hers = cluster.door(Address::Rooms, &room).person(&ana);
    let hers = hers.query("color", "teal").enter().await?;
    hers.answered().await?;
    // At the root, as reference clients do it, and with the room behind the file.
    let fields: [(&str, Option<&str>, &[u8]); 2] = [
        ("file", Some("../cät \\\"x\\\".png"), PNG),
        ("room_id", None, room.as_bytes()),
    ];
    let file = upload(&rest, "/upload", &fields).await?.expect(201)?;
    ensure!(
        file["content_type"] == "image/png" && file["size"] == PNG.len(),
        "{file}"
    );
    ensure!(
        file["room_id"] == room.as_str() && file["uploaded_by"] == ana.id.as_str(),
        "{file}"
    );
    for client in [&here, &there] {
        let told = client.expect("file_shared").await?;
        ensure!(told["user"]["color"] == "teal", "{told}");
        ensure!(
            told["file"]["id"] == file["id"] && told["user"]["user_id"] == ana.id.as_str(),
            "{told}"
        );
        // Anybody who has the link, from any gateway, without a token.
        let response = fetch(
            &Rest::at(cluster.there()),
            link(&told["file"]["url"])?,
            ("accept", "image/*"),
        )
        .await?;
        ensure!(response.status() == 200, "{response:?}");
        let headers = response.headers().clone();
        let header = |name: &str| {
            headers
                .get(name)
                .and_then(|v| v.to_str().ok())
                .unwrap_or("")
        };
        ensure!(
            header("content-type") == "image/png" && header("x-content-type-options") == "nosniff"
        );
        ensure!(
            header("content-security-policy").contains("sandbox"),
            "{headers:?}"
        );
        let disposition = header("content-disposition");
        ensure!(
            disposition.starts_with("inline; filename=\"") && !disposition.contains('/'),
            "{disposition}"
        );
        ensure!(response.bytes().await? == PNG);
    }

    let nobody = cluster.rest();
    let url = link(&file["url"])?;
    for (asked, status, content_range, bytes) in [
        (
            "bytes=1-3",
            206,
            format!("bytes 1-3/{}", PNG.len()),
            &PNG[1..4],
        ),
        (
            "bytes=-4",
            206,
            format!("bytes {}-{}/{}", PNG.len() - 4, PNG.len() - 1, PNG.len()),
            &PNG[PNG.len() - 4..],
        ),
        (
            "bytes=9999-",
            416,
            format!("bytes */{}", PNG.len()),
            &b""[..],
        ),
    ] {
        let response = fetch(&nobody, url, ("range", asked)).await?;
        ensure!(response.status() == status, "{asked}: {response:?}");
        ensure!(
            response.headers()["content-range"] == content_range,
            "{asked}: {response:?}"
        );
        if status == 416 {
            Answer::of(response).await?.problem(416, "no-such-range")?;
            continue;
        }
        ensure!(response.bytes().await? == bytes, "{asked}");
    }
    let tag = format!("\"{}\"", file["sha256"].as_str().unwrap_or_default());
    let same = fetch(&nobody, url, ("if-none-match", &tag)).await?;
    ensure!(same.status() == 304, "{same:?}");
    let id = file["id"].as_str().unwrap_or_default();
    let (before, _) = url.split_once("sig=").context("a signed link")?;
    for forged in [
        format!("/api/v1/files/{id}"),
        format!("{before}sig=AAAA"),
        url.replace("exp=", "exp=9"),
        url.replace("exp=1", "exp=0"),
    ] {
        nobody.get(&forged).await?.problem(403, "forbidden")?;
    }

    // Whoever comes later, and whoever looks back, gets a link of their own.
    let late = cluster
        .door(Address::Rooms, &room)
        .query("epoch", 1)
        .query("seq", 0)
        .enter()
        .await?;
    let told = late.expect("file_shared").await?;
    ensure!(told["file"]["name"] == file["name"], "{told}");
    let listed = nobody
        .get(&format!("/api/v1/rooms/{room}/files"))
        .await?
        .expect(200)?;
    ensure!(listed["items"][0]["id"] == id, "{listed}");
    let events = nobody
        .get(&format!("/api/v1/rooms/{room}/events"))
        .await?
        .expect(200)?;
    let found = events["items"]
        .as_array()
        .and_then(|items| items.iter().find(|e| e["type"] == "file_shared"));
    let again = link(&found.context("the event")?["file"]["url"])?;
    ensure!(fetch(&nobody, again, ("accept", "*/*")).await?.status() == 200);

    let ben = cluster.rest().guest("Ben").await?;
    let path = format!("/api/v1/files/{id}");
    cluster
        .rest()
        .as_person(&ben)
        .delete(&path)
        .await?
        .problem(403, "forbidden")?;
    ensure!(rest.delete(&path).await?.status == 204);
    nobody.get(url).await?.problem(404, "not-found")?;
    Ok(())
}

async fn what_could_do_harm_is_refused_by_name(story: Story) -> Told {
    let cluster = story.shared().await?;
    let rest = cluster
        .rest()
        .as_person(&cluster.rest().guest("Ana").await?);
    let room = rest.make_room(json!({"kind": "session"})).await?;
    let in_room = |bytes: &'static [u8]| {
        let (rest, room) = (rest.clone(), room.clone());
        async move {
            let fields: [(&str, Option<&str>, &[u8]); 2] = [
                ("room_id", None, room.as_bytes()),
                ("file", Some("a.png"), bytes),
            ];
            upload(&rest, "/api/v1/upload", &fields).await
        }
    };
    for program in [
        &b"MZ\x90\0 a program"[..],
        b"#!/bin/sh",
        b"<html><script>x</script></html>",
        b"plain",
    ] {
        let problem = in_room(program)
            .await?
            .problem(415, "unsupported-media-type")?;
        let detail = problem["detail"].as_str().unwrap_or_default();
        ensure!(
            detail.contains("image/png") && detail.contains("application/pdf"),
            "{problem}"
        );
    }
    for svg in [
        &br#"<!DOCTYPE svg [<!ENTITY a "b">]><svg xmlns="http://www.w3.org/2000/svg">&a;</svg>"#[..],
        br#"<svg xmlns="http://www.w3.org/2000/svg"><g></svg>"#,
    ] {
        let problem = in_room(svg).await?.problem(422, "invalid")?;
        ensure!(problem["field"] == "file", "{problem}");
    }
    // Under another name a file is none.
    let fields: [(&str, Option<&str>, &[u8]); 1] = [("image", Some("a.png"), PNG)];
    let problem = upload(&rest, "/upload", &fields)
        .await?
        .problem(422, "invalid")?;
    ensure!(problem["field"] == "file", "{problem}");
    let mut large = PNG.to_vec();
    large.resize(10_485_761, 0);
    let fields: [(&str, Option<&str>, &[u8]); 2] = [
        ("room_id", None, room.as_bytes()),
        ("file", Some("a.png"), &large),
    ];
    upload(&rest, "/upload", &fields)
        .await?
        .problem(413, "too-large")?;
    large.resize(15_000_000, 0);
    let fields: [(&str, Option<&str>, &[u8]); 1] = [("file", Some("a.png"), &large)];
    upload(&rest, "/upload", &fields)
        .await?
        .problem(413, "too-large")?;

    let fields: [(&str, Option<&str>, &[u8]); 1] = [("room_id", None, room.as_bytes())];
    let problem = upload(&rest, "/upload", &fields)
        .await?
        .problem(422, "invalid")?;
    ensure!(problem["field"] == "file", "{problem}");
    rest.post("/upload", json!({}))
        .await?
        .problem(415, "unsupported-media-type")?;
    let stranger = cluster
        .rest()
        .as_person(&cluster.rest().guest("Eve").await?);
    let fields: [(&str, Option<&str>, &[u8]); 2] = [
        ("file", Some("a.png"), PNG),
        ("room_id", None, room.as_bytes()),
    ];
    upload(&stranger, "/upload", &fields)
        .await?
        .problem(403, "forbidden")?;
    let listed = rest
        .get(&format!("/api/v1/rooms/{room}/files"))
        .await?
        .expect(200)?;
    ensure!(listed["items"] == json!([]), "{listed}");

    // A picture that is one is stored without what is none.
    let svg = br#"<?xml version="1.0"?><!-- x --><svg xmlns="http://www.w3.org/2000/svg"><metadata>m</metadata><path d="M0 0" onclick="x()"/><script>alert(1)</script><image href="http://a.example/b.png"/></svg>"#;
    let file = in_room(svg).await?.expect(201)?;
    let served = fetch(&rest, link(&file["url"])?, ("accept", "*/*")).await?;
    ensure!(served.headers()["content-type"] == "image/svg+xml");
    let text = served.text().await?;
    ensure!(
        text.contains("<path d=\"M0 0\">")
            && !["metadata", "alert", "onclick", "a.example"]
                .iter()
                .any(|word| text.contains(word)),
        "{text}"
    );
    ensure!(file["size"] == text.len(), "of what is stored: {file}");
    // Sent again by a client that had no answer: another boundary, the same form.
    let again = async |bytes: &[u8]| {
        let (content_type, body) = form(&[
            ("room_id", None, room.as_bytes()),
            ("file", Some("b.png"), bytes),
        ]);
        let request = rest
            .request(Method::POST, "/upload")
            .header("content-type", content_type)
            .header("idempotency-key", format!("upload-{room}"));
        Answer::of(request.body(body).send().await?).await
    };
    let first = again(PNG).await?.expect(201)?;
    let second = again(PNG).await?.expect(201)?;
    ensure!(first == second, "{first} {second}");
    let mut other = PNG.to_vec();
    other.push(0);
    again(&other).await?.problem(422, "idempotency-mismatch")?;
    Ok(())
}

async fn a_chat_message_names_its_file(story: Story) -> Told {
    let cluster = story.shared().await?;
    let person = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&person);
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let fields: [(&str, Option<&str>, &[u8]); 1] = [("file", Some("cat.png"), PNG)];
    let file = upload(&rest, "/upload", &fields).await?.expect(201)?;
    ensure!(file["room_id"].is_null(), "{file}");
    let ana = cluster
        .door(Address::Rooms, &room)
        .person(&person)
        .enter()
        .await?;
    let ben = cluster.door(Address::Rooms, &room).enter().await?;
    // What is somebody else's and in no room can't be shown by others.
    let message =
        json!({"type": "chat_message", "content": "see", "file_id": file["id"], "ref": "r"});
    ben.send(message.clone()).await?;
    let error = ben.expect("error").await?;
    ensure!(
        error["field"] == "file_id" && error["ref"] == "r",
        "{error}"
    );
    ana.send(message).await?;
    let seen = ben.expect("chat_message").await?;
    ensure!(
        seen["file_name"] == "cat.png" && seen["file_id"] == file["id"],
        "{seen}"
    );
    ensure!(
        fetch(&cluster.rest(), link(&seen["file_url"])?, ("accept", "*/*"))
            .await?
            .status()
            == 200
    );
    let listed = rest
        .get(&format!("/api/v1/rooms/{room}/files"))
        .await?
        .expect(200)?;
    ensure!(
        listed["items"][0]["id"] == file["id"],
        "now it is the room's: {listed}"
    );
    // And a file of one room can't be shown in another.
    let other = rest.make_room(json!({"kind": "open"})).await?;
    let elsewhere = cluster
        .door(Address::Rooms, &other)
        .person(&person)
        .enter()
        .await?;
    elsewhere
        .send(json!({"type": "chat_message", "content": "see", "file_id": file["id"]}))
        .await?;
    let error = elsewhere.expect("error").await?;
    ensure!(error["field"] == "file_id", "{error}");
    // It goes with its message.
    ana.send(json!({"type": "chat_delete", "message_id": seen["id"]}))
        .await?;
    ben.expect("chat_deleted").await?;
    until("the file to go with its message", PATIENCE, async || {
        let left = fetch(&cluster.rest(), link(&seen["file_url"])?, ("accept", "*/*")).await?;
        ensure!(left.status() == 404, "{left:?}");
        Ok(())
    })
    .await?;
    Ok(())
}

async fn resident_bytes(rest: &Rest) -> anyhow::Result<f64> {
    let text = rest.get("/metrics").await?.text;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    line.and_then(|value| value.trim().parse().ok())
        .context("the resident memory")
}

async fn a_hundred_uploads_at_once_hold_little_memory(story: Story) -> Told {
    const UPLOADS: usize = 100;
    /// Enough to tell a stream from a buffer; more would starve what runs beside it.
    const SIZE: usize = 4 << 20;
    /// Half of what is on its way.
    const GROWTH_MAX: f64 = 200.0 * 1_048_576.0;
    let cluster = story
        .cluster(Options::default().gateways(1).workers(0))
        .await?;
    let rest = cluster
        .rest()
        .as_person(&cluster.rest().guest("Ana").await?);
    let before = resident_bytes(&cluster.rest()).await?;
    let mut file = PNG.to_vec();
    file.resize(SIZE, 7);
    let (content_type, body) = form(&[("file", Some("a.png"), &file)]);
    let body = tokio_tungstenite::tungstenite::Bytes::from(body);
    let uploads = try_join_all((0..UPLOADS).map(async |_| {
        let request = rest
            .request(Method::POST, "/upload")
            .header("content-type", content_type.as_str())
            .body(body.clone());
        Answer::of(request.send().await?).await?.expect(201)
    }));
    let watched = cluster.rest();
    let watch = async {
        let mut most: f64 = 0.0;
        loop {
            most = most.max(resident_bytes(&watched).await?);
            ensure!(
                most - before < GROWTH_MAX,
                "from {before} to {most} bytes while {UPLOADS} files of {SIZE} came in"
            );
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let stored = tokio::select! {
        stored = uploads => stored?,
        seen = watch => { let never: anyhow::Result<std::convert::Infallible> = seen; match never? {} }
    };
    ensure!(stored.iter().all(|file| file["size"] == SIZE), "all whole");
    Ok(())
}

async fn a_file_of_somebody_without_a_token_has_a_sender(story: Story) -> Told {
    let cluster = story.shared().await?;
    let room = fresh("board");
    let door = cluster.door(Address::Plain, &room);
    let (ana, ben) = (door.enter().await?, door.enter().await?);
    ana.join("Ana").await?;
    let rest = cluster.rest();
    let file = ("file", Some("a.png"), PNG);
    let proof = ("resume_token", None, ana.resume_token.as_bytes());
    let fields = [("room_id", None, room.as_bytes()), proof, file];
    let sent = upload(&rest, "/upload", &fields).await?.expect(201)?;
    ensure!(sent["uploader_name"] == "Ana", "{sent}");
    let told = ben.expect("file_shared").await?;
    ensure!(told["user"]["name"] == "Ana", "{told}");
    // Whoever shows nothing has a made-up name; the room may stand in the URL.
    let path = format!("/upload?room_id={room}");
    let sent = upload(&rest, &path, &[file]).await?.expect(201)?;
    ensure!(sent["room_id"] == room.as_str(), "{sent}");
    let told = ben.expect("file_shared").await?;
    let name = told["user"]["name"].as_str().unwrap_or_default();
    ensure!(name.starts_with("User"), "{told}");
    let refused = upload(&rest, "/upload?room_id=no/room", &[file]).await?;
    let problem = refused.problem(422, "invalid")?;
    ensure!(problem["field"] == "room_id", "{problem}");
    Ok(())
}
