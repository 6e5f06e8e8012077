//! What people say, and what is said about it: edits, deletions, reactions, threads, search, figures, on every pod alike.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{
    Address, Client, Cluster, Options, PATIENCE, Person, Rest, Stories, Story, Told, fresh, until,
};

pub fn stories(all: &mut Stories) {
    all.both(an_edit_a_reaction_and_a_deletion_reach_everybody_and_history);
    all.both(a_message_archived_long_ago_can_be_edited_on_any_pod);
    all.both(only_its_author_edits_and_only_a_host_deletes_others);
    all.both(people_who_react_at_once_are_counted_once_each_everywhere);
    all.both(answers_make_a_thread_and_history_has_pages_search_and_figures);
    all.both(what_is_said_about_a_direct_message_stays_between_the_two);
    all.both(who_views_a_file_is_known_on_every_pod);
    all.both(session_updates_merge_into_what_newcomers_are_told);
}

/// Logs a message and gives its seq and id.
pub async fn say(client: &Client, mut message: Value) -> anyhow::Result<(u64, String)> {
    let reference = fresh("ref");
    message["ref"] = reference.clone().into();
    client.send(message).await?;
    let ack = client
        .expect_where("ack", |m| m["ref"] == reference.as_str())
        .await?;
    let id = ack["id"]
        .as_str()
        .context("the ack of a message has its id")?;
    Ok((ack["seq"].as_u64().context("seq")?, id.to_owned()))
}

/// Sends a durable message that must be refused with this code and field.
pub async fn refused(client: &Client, mut message: Value, code: &str, field: &str) -> Told {
    let reference = fresh("ref");
    message["ref"] = reference.clone().into();
    client.send(message.clone()).await?;
    let answer = client
        .expect_where("error", |m| m["ref"] == reference.as_str())
        .await?;
    ensure!(
        answer["code"] == code && answer["field"] == field,
        "{message} should be refused as {code} at {field}: {answer}"
    );
    Ok(())
}

fn chat(content: &str) -> Value {
    json!({"type": "chat_message", "content": content})
}

fn reaction(id: &str, emoji: &str, action: &str) -> Value {
    json!({"type": "reaction", "data": {"message_id": id, "emoji": emoji, "action": action}})
}

async fn history(rest: &Rest, room: &str, query: &str) -> anyhow::Result<Vec<Value>> {
    let path = format!("/api/v1/rooms/{room}/messages?{query}");
    let page = rest.get(&path).await?.expect(200)?;
    Ok(page["items"].as_array().context("items")?.clone())
}

/// A session with a host, an editor on another pod, and their tokens.
struct Company {
    cluster: Cluster,
    session: String,
    ana: Person,
    ben: Person,
    host: Client,
    editor: Client,
}

async fn company(story: &Story) -> anyhow::Result<Company> {
    let cluster = story.shared().await?;
    let rest = cluster.rest();
    let (ana, ben) = (rest.guest("Ana").await?, rest.guest("Ben").await?);
    let session = rest
        .as_person(&ana)
        .make_room(json!({"kind": "session"}))
        .await?;
    let path = format!("/api/v1/sessions/{session}/participants");
    let body = json!({"user_id": ben.id, "role": "editor"});
    rest.as_person(&ana).post(&path, body).await?.expect(201)?;
    let door = cluster.door(Address::Session, &session);
    let there = door.clone().at(cluster.there().address());
    Ok(Company {
        host: door.person(&ana).enter().await?,
        editor: there.person(&ben).enter().await?,
        cluster,
        session,
        ana,
        ben,
    })
}

async fn an_edit_a_reaction_and_a_deletion_reach_everybody_and_history(story: Story) -> Told {
    let it = company(&story).await?;
    let (_, id) = say(&it.editor, chat("frist words, @Ana")).await?;
    let seen = it.host.expect("chat_message").await?;
    ensure!(
        seen["id"] == id.as_str() && seen["file_url"].is_null(),
        "{seen}"
    );
    let edit = json!({"type": "chat_edit", "message_id": id, "content": "first thing, @Ben"});
    let edited = it.editor.log(edit).await?;
    let told = it.host.expect("chat_edited").await?;
    ensure!(
        told["seq"] == edited && told["message_id"] == id.as_str(),
        "{told}"
    );
    ensure!(
        told["content"] == "first thing, @Ben" && told["edited_at"].is_string(),
        "{told}"
    );
    ensure!(
        told["from"] == it.editor.client_id.as_str() && told["ts"].is_i64(),
        "{told}"
    );
    it.host.log(reaction(&id, "👍", "add")).await?;
    let told = it.editor.expect("reaction_update").await?;
    ensure!(
        told["message_id"] == id.as_str() && told["emoji"] == "👍" && told["count"] == 1,
        "{told}"
    );
    ensure!(told["users"][0]["user_id"] == it.ana.id, "{told}");

    // The same whichever pod is asked, before it is archived and after.
    for (pod, person) in [(it.cluster.here(), &it.ana), (it.cluster.there(), &it.ben)] {
        let rest = Rest::at(pod).as_person(person);
        let items = history(&rest, &it.session, "q=THING").await?;
        let [one] = &items[..] else {
            anyhow::bail!("one message: {items:?}")
        };
        ensure!(
            one["id"] == id.as_str() && one["content"] == "first thing, @Ben",
            "{one}"
        );
        ensure!(
            one["mentions"] == json!(["Ben"]) && one["edited_at"].is_string(),
            "{one}"
        );
        ensure!(one["reactions"][0]["count"] == 1, "{one}");
        let old = history(&rest, &it.session, "q=frist").await?;
        ensure!(old.is_empty(), "found by words that are gone: {old:?}");
    }

    let at = it.host.position().1;
    it.editor
        .log(json!({"type": "chat_delete", "message_id": id}))
        .await?;
    let told = it.host.expect("chat_deleted").await?;
    ensure!(
        told["message_id"] == id.as_str() && told["deleted_at"].is_string(),
        "{told}"
    );
    let rest = it.cluster.rest().as_person(&it.ana);
    // Nobody says the words again: neither history, nor events, nor the log, nor a resume from before.
    let archived = || async {
        it.host
            .expect_where("archived", |m| m["seq"].as_u64() > Some(at))
            .await
    };
    for look in 0..2 {
        let items = history(&rest, &it.session, "").await?;
        let one = items.last().context("it keeps its place")?;
        ensure!(
            one["id"] == id.as_str() && one["deleted_at"].is_string(),
            "{one}"
        );
        ensure!(one.get("content").is_none(), "{one}");
        ensure!(history(&rest, &it.session, "q=first").await?.is_empty());
        for what in ["events", "log"] {
            let path = format!("/api/v1/rooms/{}/{what}", it.session);
            let text = rest.get(&path).await?.text;
            ensure!(text.contains(&id), "{what} names it: {text}");
            ensure!(
                !text.contains("first thing") && !text.contains("frist"),
                "{what} still says it: {text}"
            );
        }
        if look == 0 {
            archived().await?;
        }
    }
    let door = it
        .cluster
        .door(Address::Session, &it.session)
        .person(&it.ana);
    let back = door
        .query("epoch", it.host.position().0)
        .query("seq", 0)
        .enter()
        .await?;
    back.expect("chat_deleted").await?;
    let said: Vec<_> = back.frames();
    ensure!(
        !said.iter().any(|m| m.to_string().contains("frist")),
        "a resume says it again"
    );
    let gone = json!({"type": "chat_edit", "message_id": id, "content": "again"});
    refused(&it.editor, gone, "not_found", "message_id").await
}

async fn a_message_archived_long_ago_can_be_edited_on_any_pod(story: Story) -> Told {
    // Processes of its own, that take as much at once as they are sent.
    let options = Options::default()
        .set("MESSAGE_RATE", 100_000)
        .set("MESSAGE_BURST", 100_000);
    let cluster = story.cluster(options).await?;
    let rest = cluster.rest();
    let ana = rest.guest("Ana").await?;
    let room = rest
        .as_person(&ana)
        .make_room(json!({"kind": "open"}))
        .await?;
    let door = cluster.door(Address::Rooms, &room).person(&ana);
    let client = door.enter().await?;
    let (seq, id) = say(&client, chat("archived words")).await?;
    client
        .expect_where("archived", |m| m["seq"].as_u64() >= Some(seq))
        .await?;
    // 600 more: it is known to no gateway any more, whatever each remembers.
    for chunk in 0..6 {
        let batch = (0..100).map(|n| chat(&format!("filler {chunk} {n}")));
        client.send_all(batch).await?;
        client.answered().await?;
        client.chat("turn").await?;
    }
    let there = door.clone().at(cluster.there().address()).enter().await?;
    there.log(reaction(&id, "🎉", "add")).await?;
    let told = client.expect("reaction_update").await?;
    ensure!(told["count"] == 1, "{told}");
    let edit = json!({"type": "chat_edit", "message_id": id, "content": "new words"});
    there.log(edit).await?;
    client.expect("chat_edited").await?;
    let found = history(&rest.as_person(&ana), &room, "q=new").await?;
    ensure!(found.len() == 1 && found[0]["seq"] == seq, "{found:?}");
    let unknown = json!({"type": "chat_edit", "message_id": uuid::Uuid::now_v7(), "content": "x"});
    refused(&there, unknown, "not_found", "message_id").await?;
    let unknown = reaction(&uuid::Uuid::now_v7().to_string(), "🎉", "add");
    refused(&there, unknown, "not_found", "data.message_id").await?;
    let mut answer = chat("to whom?");
    answer["reply_to"] = json!(uuid::Uuid::now_v7());
    refused(&there, answer, "not_found", "reply_to").await
}

async fn only_its_author_edits_and_only_a_host_deletes_others(story: Story) -> Told {
    let it = company(&story).await?;
    let (_, hers) = say(&it.host, chat("the host's")).await?;
    let (_, his) = say(&it.editor, chat("the editor's")).await?;
    let edit = |id: &str| json!({"type": "chat_edit", "message_id": id, "content": "mine now"});
    let delete = |id: &str| json!({"type": "chat_delete", "message_id": id});
    refused(&it.editor, edit(&hers), "forbidden", "message_id").await?;
    refused(&it.editor, delete(&hers), "forbidden", "message_id").await?;
    refused(&it.host, edit(&his), "forbidden", "message_id").await?;
    it.host.log(delete(&his)).await?;
    it.editor.expect("chat_deleted").await?;
    refused(&it.host, delete(&his), "not_found", "message_id").await?;
    refused(
        &it.host,
        reaction(&his, "👍", "add"),
        "not_found",
        "data.message_id",
    )
    .await
}

async fn people_who_react_at_once_are_counted_once_each_everywhere(story: Story) -> Told {
    const PEOPLE: usize = 12;
    let cluster = story.shared().await?;
    let door = cluster.door(Address::Plain, &fresh("room"));
    let there = door.clone().at(cluster.there().address());
    let author = door.enter().await?;
    let (_, id) = say(&author, chat("who is for it?")).await?;
    let mut people = Vec::new();
    for n in 0..PEOPLE {
        let door = if n % 2 == 0 { &door } else { &there };
        people.push(door.enter().await?);
    }
    // Whoever reacts last is not told of it: asked are those who only look on, one on each pod.
    let onlooker = there.enter().await?;
    // Everybody twice, from both pods at the same time; the first takes it back.
    futures::future::try_join_all(people.iter().map(|person| async {
        person
            .send_all([reaction(&id, "👍", "add"), reaction(&id, "👍", "add")])
            .await
    }))
    .await?;
    let counted = |n: usize| {
        let id = id.clone();
        move |m: &Value| m["message_id"] == id.as_str() && m["count"] == n
    };
    for person in [&author, &onlooker] {
        person
            .until("all to be counted", PATIENCE, |frames| {
                let mut updates = frames.iter().filter(|m| m["type"] == "reaction_update");
                updates.next_back().is_some_and(|m| m["count"] == PEOPLE)
            })
            .await?;
    }
    people[0].log(reaction(&id, "👍", "remove")).await?;
    author
        .expect_where("reaction_update", counted(PEOPLE - 1))
        .await?;
    onlooker
        .expect_where("reaction_update", counted(PEOPLE - 1))
        .await?;
    // Who comes back is told the same count.
    let back = author.way_back().query("seq", 0).enter().await?;
    back.expect_where("reaction_update", counted(PEOPLE - 1))
        .await
        .map(|_| ())
}

async fn answers_make_a_thread_and_history_has_pages_search_and_figures(story: Story) -> Told {
    let it = company(&story).await?;
    let (_, root) = say(&it.host, chat("root of all")).await?;
    let answer =
        |to: &str, text: &str| json!({"type": "chat_message", "content": text, "reply_to": to});
    let (_, first) = say(&it.editor, answer(&root, "first answer")).await?;
    let told = it.host.expect("chat_message").await?;
    ensure!(told["reply_to"] == root.as_str(), "{told}");
    let (_, second) = say(&it.host, answer(&first, "answer to the answer")).await?;
    let comment = json!({"file": "a.py", "line": 3, "content": "looks wrong", "reply_to": root});
    let (_, comment) = say(&it.editor, json!({"type": "code_comment", "data": comment})).await?;
    say(&it.editor, chat("something else")).await?;
    let rest = it.cluster.rest().as_person(&it.ana);
    let base = format!("/api/v1/sessions/{}/messages", it.session);
    let ids = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().into_iter().flatten();
        items
            .filter_map(|m| m["id"].as_str().map(str::to_owned))
            .collect()
    };
    for asked in [&root, &second] {
        let page = rest
            .get(&format!("{base}?thread={asked}"))
            .await?
            .expect(200)?;
        ensure!(
            ids(&page) == [&comment, &second, &first, &root].map(String::clone),
            "the thread, newest first: {page}"
        );
    }
    let unknown = uuid::Uuid::now_v7();
    rest.get(&format!("{base}?thread={unknown}"))
        .await?
        .problem(404, "not-found")?;

    // Pages of two, all the way down, are the whole.
    let whole = rest.get(&base).await?.expect(200)?;
    let (mut paged, mut path) = (Vec::new(), format!("{base}?limit=2"));
    loop {
        let page = rest.get(&path).await?.expect(200)?;
        paged.extend(ids(&page));
        let Some(next) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("{base}?limit=2&cursor={next}");
    }
    ensure!(
        paged == ids(&whole) && paged.len() == 5,
        "{paged:?} of {whole}"
    );
    let found = rest.get(&format!("{base}?q=answ")).await?.expect(200)?;
    ensure!(
        ids(&found) == [&second, &first].map(String::clone),
        "{found}"
    );
    rest.get(&format!("{base}?q=%3F%21"))
        .await?
        .problem(422, "invalid")?;

    it.editor
        .log(json!({"type": "chat_delete", "message_id": first}))
        .await?;
    it.editor.log(reaction(&root, "❤️", "add")).await?;
    let stats = rest.get(&format!("{base}/stats")).await?.expect(200)?;
    ensure!(
        stats["total"] == 4 && stats["deleted"] == 1 && stats["reactions"] == 1,
        "{stats}"
    );
    ensure!(
        stats["by_type"] == json!({"chat_message": 3, "code_comment": 1, "direct_message": 0}),
        "{stats}"
    );
    let of = |id: &str| {
        let users = stats["by_user"].as_array().into_iter().flatten();
        users
            .filter(|user| user["user_id"] == id)
            .find_map(|user| user["messages"].as_i64())
    };
    ensure!(
        of(&it.ana.id) == Some(2) && of(&it.ben.id) == Some(2),
        "{stats}"
    );
    Ok(())
}

async fn what_is_said_about_a_direct_message_stays_between_the_two(story: Story) -> Told {
    let it = company(&story).await?;
    let rest = it.cluster.rest();
    let eve = rest.guest("Eve").await?;
    let path = format!("/api/v1/sessions/{}/participants", it.session);
    let body = json!({"user_id": eve.id, "role": "host"});
    rest.as_person(&it.ana)
        .post(&path, body)
        .await?
        .expect(201)?;
    let watcher = it
        .cluster
        .door(Address::Session, &it.session)
        .person(&eve)
        .enter()
        .await?;
    let direct = |to: &str| json!({"type": "direct_message", "to": to, "content": "psst quietly"});
    let (_, id) = say(&it.host, direct(&it.ben.id)).await?;
    it.editor.expect("direct_message").await?;
    it.editor.log(reaction(&id, "🤫", "add")).await?;
    it.host.expect("reaction_update").await?;
    let edit = json!({"type": "chat_edit", "message_id": id, "content": "psst, quieter"});
    it.host.log(edit).await?;
    it.editor.expect("chat_edited").await?;
    // Not even a host learns that it exists.
    refused(
        &watcher,
        reaction(&id, "👀", "add"),
        "not_found",
        "data.message_id",
    )
    .await?;
    let delete = json!({"type": "chat_delete", "message_id": id});
    refused(&watcher, delete, "not_found", "message_id").await?;
    let nobody = direct(&uuid::Uuid::now_v7().to_string());
    refused(&it.host, nobody, "not_found", "to").await?;
    let after = it.host.chat("for all").await?;
    watcher
        .expect_where("chat_message", |m| m["seq"] == after)
        .await?;
    for kind in ["direct_message", "reaction_update", "chat_edited"] {
        watcher.saw_no(kind)?;
    }
    let stats = format!("/api/v1/sessions/{}/messages/stats", it.session);
    for (person, count) in [(&it.ana, 1), (&it.ben, 1), (&eve, 0)] {
        let rest = rest.as_person(person);
        let items = history(&rest, &it.session, "q=psst").await?;
        ensure!(items.len() == count, "{items:?}");
        let stats = rest.get(&stats).await?.expect(200)?;
        ensure!(stats["by_type"]["direct_message"] == count, "{stats}");
        for what in ["events", "log"] {
            let path = format!("/api/v1/rooms/{}/{what}", it.session);
            let text = rest.get(&path).await?.text;
            ensure!(text.contains("psst") == (count == 1), "{what}: {text}");
        }
    }
    Ok(())
}

async fn who_views_a_file_is_known_on_every_pod(story: Story) -> Told {
    let it = company(&story).await?;
    let view = json!({"file": "main.py", "start_line": 1, "end_line": 60});
    it.host
        .send(json!({"type": "viewport_update", "data": view}))
        .await?;
    let cursor = json!({"file": "main.py", "line": 42, "column": 10});
    it.editor
        .send(json!({"type": "cursor_update", "data": cursor}))
        .await?;
    let path = format!("/api/v1/sessions/{}/files?path=main.py", it.session);
    let viewers = async |count: usize| {
        for pod in [it.cluster.here(), it.cluster.there()] {
            let rest = Rest::at(pod).as_person(&it.ana);
            until("the viewers to be known", PATIENCE, async || {
                let page = rest.get(&path).await?.expect(200)?;
                ensure!(
                    page["items"].as_array().map(Vec::len) == Some(count),
                    "{page}"
                );
                anyhow::Ok(page)
            })
            .await?;
        }
        anyhow::Ok(())
    };
    viewers(2).await?;
    let elsewhere = json!({"file": "other.py", "line": 1, "column": 1});
    it.editor
        .send(json!({"type": "cursor_update", "data": elsewhere}))
        .await?;
    viewers(1).await?;
    it.host.close().await?;
    viewers(0).await
}

async fn session_updates_merge_into_what_newcomers_are_told(story: Story) -> Told {
    let it = company(&story).await?;
    let update = |data: Value| json!({"type": "session_update", "data": data});
    it.editor
        .log(update(json!({"title": "Parser", "draft": true})))
        .await?;
    let told = it.host.expect("session_update").await?;
    ensure!(
        told["data"]["title"] == "Parser" && told["from"] == it.editor.client_id.as_str(),
        "{told}"
    );
    it.host
        .log(update(json!({"draft": null, "files": ["a.py"]})))
        .await?;
    it.editor.expect("session_update").await?;
    for pod in [it.cluster.here(), it.cluster.there()] {
        let door = it.cluster.door(Address::Session, &it.session);
        let late = door.at(pod.address()).person(&it.ben).enter().await?;
        let metadata = &late.connected["room"]["metadata"];
        ensure!(
            *metadata == json!({"title": "Parser", "files": ["a.py"]}),
            "{metadata}"
        );
    }
    // What every newcomer is told can't grow without end.
    for n in 0..4 {
        let part = update(json!({format!("part{n}"): "x".repeat(16_000)}));
        it.editor.log(part).await?;
    }
    let more = update(json!({"more": "x".repeat(16_000)}));
    refused(&it.editor, more, "invalid", "data").await
}
