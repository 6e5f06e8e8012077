//! Watching a program: live on any pod, from where one was, and after the end; many jobs at once; the files they leave.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Cluster, Person, Rest, Stories, Story, Told, until};

pub fn stories(all: &mut Stories) {
    all.both(a_program_is_watched_live_on_another_pod_until_its_end);
    all.both(a_watcher_goes_on_where_it_was);
    all.both(a_program_that_is_over_is_read_from_its_result);
    all.both(a_program_tells_how_far_it_is);
    all.both(a_batch_takes_what_it_can);
    all.both(files_a_program_leaves_are_downloads);
    all.both(jobs_are_listed_by_what_is_asked_for);
}

async fn a_program_tells_how_far_it_is(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    // The pause is what a watcher has to look at the first step.
    let source = "echo '::progress 42 half way'; sleep 2; echo '::progress 100%'";
    let body = json!({"language": "bash", "source": source});
    let job = rest.post("/api/v1/jobs", body).await?.expect(202)?;
    let id = job["id"].as_str().context("an id")?;
    let mut events = Events::open(&rest, id, None).await?;
    let mut steps = Vec::new();
    let end = loop {
        let event = events.next().await?.context("an end")?;
        match event.name.as_str() {
            "progress" => {
                if steps.is_empty() {
                    let now = rest.get(&format!("/api/v1/jobs/{id}")).await?.expect(200)?;
                    ensure!(now["progress"]["percent"].is_u64(), "{now}");
                }
                steps.push(event.data);
            }
            "end" => break event.data,
            _ => {}
        }
    };
    let last = json!({"percent": 100, "message": ""});
    ensure!(
        steps == [json!({"percent": 42, "message": "half way"}), last.clone()],
        "{steps:?}"
    );
    ensure!(end["result"]["progress"] == last, "{end}");
    let done = rest.get(&format!("/api/v1/jobs/{id}")).await?.expect(200)?;
    ensure!(done["progress"] == last, "{done}");
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(60);

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

/// Events as they come.
struct Events {
    bytes: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    read: Vec<u8>,
}

impl Events {
    async fn open(rest: &Rest, job: &str, last: Option<&str>) -> anyhow::Result<Self> {
        let path = format!("/api/v1/jobs/{job}/output");
        let mut request = rest.request(Method::GET, &path);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = request.send().await?.error_for_status()?;
        let kind = response.headers().get("content-type").cloned();
        ensure!(
            kind.as_ref()
                .is_some_and(|kind| kind == "text/event-stream"),
            "{kind:?}"
        );
        Ok(Self {
            bytes: response.bytes_stream().boxed(),
            read: Vec::new(),
        })
    }

    /// `None`: the server closed the stream.
    async fn next(&mut self) -> anyhow::Result<Option<Event>> {
        let next = async {
            loop {
                if let Some(end) = self.read.windows(2).position(|two| two == b"\n\n") {
                    let block: Vec<u8> = self.read.drain(..end + 2).collect();
                    if let Some(event) = parse(&String::from_utf8(block)?)? {
                        return Ok(Some(event));
                    }
                    continue;
                }
                match self.bytes.next().await {
                    Some(bytes) => self.read.extend_from_slice(&bytes?),
                    None => return Ok(None),
                }
            }
        };
        tokio::time::timeout(PATIENCE, next)
            .await
            .context("no event")?
    }

    async fn read_all(mut self) -> anyhow::Result<Vec<Event>> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await? {
            events.push(event);
        }
        Ok(events)
    }
}

/// Comments are no events.
fn parse(block: &str) -> anyhow::Result<Option<Event>> {
    let field = |name: &str| {
        let mut lines = block.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim_start().to_owned())
    };
    let (Some(name), Some(data)) = (field("event"), field("data")) else {
        return Ok(None);
    };
    Ok(Some(Event {
        name,
        id: field("id").unwrap_or_default(),
        data: serde_json::from_str(&data)?,
    }))
}

/// What was said in `stream`; each piece must begin where the last one ended.
fn said(events: &[Event], stream: &str, mut at: usize) -> anyhow::Result<String> {
    let mut text = String::new();
    for event in events.iter().filter(|e| e.name == "output") {
        if event.data["stream"] != stream {
            continue;
        }
        ensure!(
            event.data["offset"] == at,
            "expected offset {at}: {event:?}"
        );
        let chunk = event.data["chunk"].as_str().context("chunk")?;
        at += chunk.len();
        text += chunk;
    }
    Ok(text)
}

fn statuses(events: &[Event]) -> Vec<&str> {
    let told = events.iter().filter(|event| event.name == "status");
    told.filter_map(|event| event.data["status"].as_str())
        .collect()
}

async fn ana(cluster: &Cluster) -> anyhow::Result<(Person, Rest, Rest)> {
    let ana = cluster.rest().guest("Ana").await?;
    let (here, there) = (cluster.rest(), Rest::at(cluster.there()));
    Ok((ana.clone(), here.as_person(&ana), there.as_person(&ana)))
}

async fn submit(rest: &Rest, body: Value) -> anyhow::Result<String> {
    let job = rest.post("/api/v1/jobs", body).await?.expect(202)?;
    Ok(job["id"].as_str().context("an id")?.to_owned())
}

/// Says things until somebody makes it stop: what it waits for is not a time.
fn talkative() -> Value {
    let source = "import sys, time\nn = 0\nwhile True:\n    print('line', n, 'ü', flush=True)\n    n += 1\n    time.sleep(0.02)";
    json!({"language": "python", "source": source, "limits": {"wall_ms": 60_000}})
}

async fn a_program_is_watched_live_on_another_pod_until_its_end(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (_, here, there) = ana(&cluster).await?;
    let id = submit(&here, talkative()).await?;
    let mut events = Events::open(&there, &id, None).await?;
    let mut seen = Vec::new();
    // It speaks while it runs.
    while said(&seen, "stdout", 0)?.lines().count() < 5 {
        seen.push(events.next().await?.context("it ended early")?);
    }
    here.delete(&format!("/api/v1/jobs/{id}"))
        .await?
        .expect(204)?;
    while let Some(event) = events.next().await? {
        seen.push(event);
    }
    let end = seen.last().context("an end")?;
    ensure!(
        end.name == "end" && end.data["result"]["status"] == "cancelled",
        "{end:?}"
    );
    let stdout = end.data["result"]["stdout"].as_str().context("stdout")?;
    ensure!(
        said(&seen, "stdout", 0)? == stdout,
        "what was said is what is kept"
    );
    let told = statuses(&seen);
    ensure!(
        told.ends_with(&["running", "cancelled"]) && told.len() <= 3,
        "{told:?}"
    );
    Ok(())
}

async fn a_watcher_goes_on_where_it_was(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (_, here, there) = ana(&cluster).await?;
    let id = submit(&here, talkative()).await?;
    let mut seen = Vec::new();
    // Every time on the other pod, dropped in the midst.
    for turn in 0..4 {
        let rest = if turn % 2 == 0 { &there } else { &here };
        let last = seen.last().map(|event: &Event| event.id.clone());
        let mut events = Events::open(rest, &id, last.as_deref()).await?;
        let lines = said(&seen, "stdout", 0)?.lines().count();
        while said(&seen, "stdout", 0)?.lines().count() < lines + 3 {
            seen.push(events.next().await?.context("it ended early")?);
        }
    }
    here.post(&format!("/api/v1/jobs/{id}/cancel"), json!({}))
        .await?
        .expect(200)?;
    until("the job to be over", PATIENCE, async || {
        let job = here.get(&format!("/api/v1/jobs/{id}")).await?.expect(200)?;
        ensure!(job["status"] == "cancelled", "{job}");
        anyhow::Ok(())
    })
    .await?;
    // And the rest from the result.
    let last = seen.last().map(|event| event.id.clone());
    let events = Events::open(&there, &id, last.as_deref()).await?;
    seen.extend(events.read_all().await?);
    let end = seen.last().context("an end")?;
    ensure!(end.name == "end", "{end:?}");
    let stdout = end.data["result"]["stdout"].as_str().context("stdout")?;
    ensure!(said(&seen, "stdout", 0)? == stdout, "each byte once");
    // Somebody at the end already gets the end alone.
    let events = Events::open(&there, &id, Some(&end.id)).await?;
    let again = events.read_all().await?;
    ensure!(
        said(&again, "stdout", stdout.len())?.is_empty(),
        "{again:?}"
    );
    ensure!(
        again.last().is_some_and(|event| event.name == "end"),
        "{again:?}"
    );
    Ok(())
}

async fn a_program_that_is_over_is_read_from_its_result(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (_, here, there) = ana(&cluster).await?;
    // Longer than one event, not all of it text, in both streams.
    let source = "import sys\nsys.stdout.buffer.write(b'\\xff' + 'ü'.encode() * 20_000)\nsys.stderr.write('oh')";
    let id = submit(&here, json!({"language": "python", "source": source})).await?;
    let live = Events::open(&here, &id, None).await?.read_all().await?;
    let later = Events::open(&there, &id, None).await?.read_all().await?;
    for events in [&live, &later] {
        let end = events.last().context("an end")?;
        let result = &end.data["result"];
        ensure!(result["status"] == "succeeded", "{end:?}");
        for stream in ["stdout", "stderr"] {
            ensure!(said(events, stream, 0)? == result[stream].as_str().unwrap_or_default());
        }
        ensure!(result["stderr"] == "oh", "{end:?}");
    }
    // It is nobody else's business.
    let eve = cluster.rest().guest("Eve").await?;
    let path = format!("/api/v1/jobs/{id}/output");
    let refused = cluster.rest().as_person(&eve).get(&path).await?;
    refused.problem(404, "not-found")?;
    cluster
        .rest()
        .get(&path)
        .await?
        .problem(401, "unauthenticated")?;
    Ok(())
}

async fn a_batch_takes_what_it_can(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (_, here, _) = ana(&cluster).await?;
    let good = json!({"language": "bash", "source": "echo hi"});
    let body = json!({"jobs": [
        good, {"language": "cobol", "source": "1"}, {"language": "bash", "source": "1", "nmae": 1}, good,
    ]});
    let answer = here.post("/api/v1/jobs/batch", body).await?.expect(202)?;
    let items = answer["items"].as_array().context("items")?;
    ensure!(items.len() == 4, "{answer}");
    ensure!(
        items[0]["status"] == "queued" && items[3]["status"] == "queued",
        "{answer}"
    );
    ensure!(items[0]["id"] != items[3]["id"], "{answer}");
    ensure!(
        items[1]["type"] == "/problems/invalid" && items[1]["field"] == "jobs[1].language",
        "{answer}"
    );
    ensure!(
        items[2]["field"] == "jobs[2].nmae" && items[2]["status"] == 422,
        "{answer}"
    );
    for item in [&items[0], &items[3]] {
        let id = item["id"].as_str().context("id")?;
        let events = Events::open(&here, id, None).await?.read_all().await?;
        ensure!(said(&events, "stdout", 0)? == "hi\n", "{events:?}");
    }
    for jobs in [json!([]), json!(vec![good.clone(); 101])] {
        let refused = here
            .post("/api/v1/jobs/batch", json!({"jobs": jobs}))
            .await?;
        let problem = refused.problem(422, "invalid")?;
        ensure!(problem["field"] == "jobs", "{problem}");
    }
    Ok(())
}

async fn files_a_program_leaves_are_downloads(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (_, here, there) = ana(&cluster).await?;
    let source = "import os\nos.makedirs('out')\nopen('out/ü <b>.html', 'w').write('<script>')\nopen('a.bin', 'wb').write(bytes(range(256)))\nos.symlink('/etc/passwd', 'passwd')";
    let id = submit(&here, json!({"language": "python", "source": source})).await?;
    let events = Events::open(&here, &id, None).await?.read_all().await?;
    let end = events.last().context("an end")?;
    let listed = json!([{"path": "a.bin", "size": 256}, {"path": "out/ü <b>.html", "size": 8}]);
    ensure!(end.data["result"]["artifacts"] == listed, "{end:?}");
    let file = |path: &str| format!("/api/v1/jobs/{id}/artifacts/{path}");
    let page = there.get(&file("out/%C3%BC%20%3Cb%3E.html")).await?;
    ensure!(page.status == 200 && page.text == "<script>", "{page:?}");
    let header = |name: &str| page.headers.get(name).and_then(|v| v.to_str().ok());
    ensure!(
        header("x-content-type-options") == Some("nosniff"),
        "{page:?}"
    );
    ensure!(
        header("content-type") == Some("application/octet-stream"),
        "{page:?}"
    );
    let disposition = header("content-disposition").unwrap_or_default();
    ensure!(disposition.starts_with("attachment;"), "{disposition}");
    let bytes = there.request(Method::GET, &file("a.bin")).send().await?;
    ensure!(bytes.bytes().await? == (0..=255).collect::<Vec<u8>>());
    for path in ["passwd", "main.py", "..%2F..%2Fa.bin", "out"] {
        there.get(&file(path)).await?.problem(404, "not-found")?;
    }
    let eve = cluster.rest().guest("Eve").await?;
    let refused = cluster.rest().as_person(&eve).get(&file("a.bin")).await?;
    refused.problem(404, "not-found")?;
    // They go with the job.
    here.delete(&format!("/api/v1/jobs/{id}"))
        .await?
        .expect(204)?;
    there.get(&file("a.bin")).await?.problem(404, "not-found")?;
    let gone = there.get(&format!("/api/v1/jobs/{id}")).await?;
    gone.problem(404, "not-found")?;
    Ok(())
}

async fn jobs_are_listed_by_what_is_asked_for(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (_, here, _) = ana(&cluster).await?;
    let room = here.make_room(json!({"kind": "open"})).await?;
    let ok = json!({"language": "bash", "source": "true"});
    let mut fails = json!({"language": "bash", "source": "false"});
    fails["room_id"] = json!(room);
    for body in [&ok, &fails] {
        let id = submit(&here, body.clone()).await?;
        Events::open(&here, &id, None).await?.read_all().await?;
    }
    for (query, expected) in [
        ("status=succeeded", vec!["succeeded"]),
        ("status=failed", vec!["failed"]),
        (&format!("room_id={room}"), vec!["failed"]),
        ("limit=10", vec!["failed", "succeeded"]),
        ("status=dead", vec![]),
    ] {
        let found = here.get(&format!("/api/v1/jobs?{query}")).await?;
        let found = found.expect(200)?;
        let items = found["items"].as_array().context("items")?;
        let states: Vec<_> = items.iter().filter_map(|i| i["status"].as_str()).collect();
        if states != expected {
            bail!("{query}: {found}");
        }
    }
    // A project's turns are its members'.
    let id_of = |place: Value| place["id"].as_str().map(str::to_owned).context("an id");
    let named = json!({"name": "Compilers"});
    let workspace = here.post("/api/v1/workspaces", named.clone()).await?;
    let workspace = id_of(workspace.expect(201)?)?;
    let projects = format!("/api/v1/workspaces/{workspace}/projects");
    let project = id_of(here.post(&projects, named).await?.expect(201)?)?;
    let mut of_project = ok;
    of_project["project_id"] = json!(project);
    let id = submit(&here, of_project.clone()).await?;
    let found = here
        .get(&format!("/api/v1/jobs?project_id={project}"))
        .await?;
    let found = found.expect(200)?;
    ensure!(
        found["items"][0]["id"] == id.as_str()
            && found["items"].as_array().is_some_and(|i| i.len() == 1),
        "{found}"
    );
    let eve = cluster.rest().guest("Eve").await?;
    let eve = cluster.rest().as_person(&eve);
    let refused = eve.post("/api/v1/jobs", of_project).await?;
    let problem = refused.problem(404, "not-found")?;
    ensure!(problem["field"] == "project_id", "{problem}");
    let refused = here.get("/api/v1/jobs?status=lost").await?;
    let problem = refused.problem(422, "invalid")?;
    ensure!(problem["field"] == "status", "{problem}");
    Ok(())
}
