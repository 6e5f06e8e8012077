//! Running code: from POST to the result, in a room's sight, and through the death of workers.

use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Address, Cluster, Options, PATIENCE, Person, Rest, Stories, Story, Told, until,
};

pub fn stories(all: &mut Stories) {
    all.distributed(a_job_whose_worker_is_killed_is_run_again_by_another_once);
    all.embedded(a_job_whose_process_is_killed_is_run_again_after_the_restart);
    all.distributed(a_worker_told_to_stop_finishes_or_hands_back_its_jobs);
    all.distributed(a_run_handed_back_is_cancelled_for_good);
    all.both(a_program_runs_and_its_result_is_42);
    all.both(a_program_that_fails_says_how);
    all.both(people_in_the_room_see_a_run_start_speak_and_finish);
    all.both(nothing_that_an_owner_sends_passes_for_the_end_of_a_run);
    all.both(a_job_is_cancelled_waiting_or_running);
    all.both(a_run_cancelled_before_it_began_ends_in_its_room);
    all.both(jobs_are_refused_by_field);
    all.both(jobs_belong_to_who_sent_them);
    all.both(one_trace_leads_from_the_request_to_the_result);
}

/// Starting a box and an interpreter on a busy machine.
const RUN_PATIENCE: Duration = Duration::from_secs(90);

async fn submit(rest: &Rest, body: Value) -> anyhow::Result<String> {
    let answer = rest.post("/api/v1/jobs", body).await?;
    let location = answer.headers.get("location").cloned();
    let job = answer.expect(202)?;
    ensure!(job["status"] == "queued", "{job}");
    let id = job["id"].as_str().context("an id")?.to_owned();
    let location = location.context("Location")?;
    ensure!(location.to_str()?.ends_with(&id), "{location:?}");
    Ok(id)
}

async fn job(rest: &Rest, id: &str) -> anyhow::Result<Value> {
    rest.get(&format!("/api/v1/jobs/{id}")).await?.expect(200)
}

async fn in_state(rest: &Rest, id: &str, state: &str, patience: Duration) -> anyhow::Result<Value> {
    until(&format!("the job to be {state}"), patience, async || {
        let job = job(rest, id).await?;
        ensure!(job["status"] == state, "{job}");
        Ok(job)
    })
    .await
}

async fn ana(cluster: &Cluster) -> anyhow::Result<(Person, Rest)> {
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    Ok((ana, rest))
}

async fn a_program_runs_and_its_result_is_42(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (ana, rest) = ana(&cluster).await?;
    let id = submit(&rest, json!({"language": "python", "source": "print(6*7)"})).await?;
    let there = Rest::at(cluster.there()).as_person(&ana);
    let done = in_state(&there, &id, "succeeded", RUN_PATIENCE).await?;
    let result = &done["result"];
    ensure!(
        result["stdout"] == "42\n" && result["exit_code"] == 0 && result["truncated"] == false,
        "{done}"
    );
    ensure!(
        result["attempts"] == 1 && result["usage"]["wall_ms"].is_u64(),
        "{done}"
    );
    // Files, arguments, standard input and environment reach the program.
    let body = json!({
        "language": "python",
        "files": [
            {"path": "main.py", "content": "import os, sys, part\nprint(part.NAME, sys.argv[1:], input(), os.environ['WORD'])"},
            {"path": "part.py", "content": "NAME = 'part'"},
        ],
        "args": ["a", "b c"], "stdin": "typed\n", "env": {"WORD": "word"},
    });
    let id = submit(&rest, body).await?;
    let done = in_state(&rest, &id, "succeeded", RUN_PATIENCE).await?;
    ensure!(
        done["result"]["stdout"] == "part ['a', 'b c'] typed word\n",
        "{done}"
    );
    let listed = rest.get("/api/v1/jobs?limit=1").await?.expect(200)?;
    ensure!(
        listed["items"][0]["id"] == id.as_str() && listed["next_cursor"].is_string(),
        "newest first: {listed}"
    );
    Ok(())
}

async fn a_program_that_fails_says_how(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (_, rest) = ana(&cluster).await?;
    for (source, limits, state, says) in [
        (
            "import sys; sys.exit(3)",
            json!({}),
            "failed",
            json!({"exit_code": 3}),
        ),
        (
            "while True: pass",
            json!({"wall_ms": 500}),
            "timed_out",
            json!({}),
        ),
        (
            "print('x' * 100_000)",
            json!({"output_bytes": 1_000}),
            "output_limit",
            json!({"truncated": true}),
        ),
        (
            "x = bytearray(400_000_000)",
            json!({"memory_bytes": 100_000_000}),
            "out_of_memory",
            json!({}),
        ),
        (
            "import os; os.kill(os.getpid(), 11)",
            json!({}),
            "killed",
            json!({"signal": 11}),
        ),
    ] {
        let id = submit(
            &rest,
            json!({"language": "python", "source": source, "limits": limits}),
        )
        .await?;
        let done = in_state(&rest, &id, state, RUN_PATIENCE)
            .await
            .context(source)?;
        for (name, value) in says.as_object().into_iter().flatten() {
            ensure!(done["result"][name] == *value, "{source}: {done}");
        }
    }
    Ok(())
}

/// The room tells each ref once: nobody can use up the one that the end is told under.
async fn nothing_that_an_owner_sends_passes_for_the_end_of_a_run(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (ana, rest) = ana(&cluster).await?;
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let door = cluster.door(Address::Rooms, &room).person(&ana);
    let client = door.enter().await?;
    // It ends when it is cancelled, after what is sent meanwhile.
    let source = "import time; time.sleep(60)";
    let run = json!({"type": "run", "language": "python", "source": source, "limits": {"wall_ms": 60_000}});
    client.send(run).await?;
    let started = client
        .expect_within("run_started", RUN_PATIENCE, |_| true)
        .await?;
    let id = started["run_id"].as_str().context("run_id")?;
    let reference = format!("run:{id}:finished");
    let message = json!({"type": "chat_message", "content": "over", "ref": reference});
    client.send(message).await?;
    let mine = |m: &Value| m["ref"] == reference.as_str();
    client.expect_where("ack", mine).await?;
    ensure!(client.count("run_finished") == 0, "it has been used up");
    rest.post(&format!("/api/v1/jobs/{id}/cancel"), json!({}))
        .await?
        .expect(200)?;
    client
        .expect_within("run_finished", RUN_PATIENCE, |m| {
            m["run_id"] == id && m["status"] == "cancelled"
        })
        .await
        .map(drop)
}

async fn people_in_the_room_see_a_run_start_speak_and_finish(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (ana, rest) = ana(&cluster).await?;
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let door = cluster.door(Address::Rooms, &room);
    let watchers = [
        door.enter().await?,
        door.clone().at(cluster.there().address()).enter().await?,
    ];
    let body = json!({"language": "python", "source": "print(6*7)", "room_id": room});
    let id = submit(&rest, body).await?;
    for watcher in &watchers {
        let is_it = |m: &Value| m["run_id"] == id.as_str();
        let started = watcher
            .expect_within("run_started", RUN_PATIENCE, is_it)
            .await?;
        ensure!(
            started["language"] == "python" && started["user"]["name"] == "Ana",
            "{started}"
        );
        ensure!(started["user"]["user_id"] == ana.id.as_str(), "{started}");
        let finished = watcher
            .expect_within("run_finished", RUN_PATIENCE, is_it)
            .await?;
        ensure!(
            finished["status"] == "succeeded" && finished["exit_code"] == 0,
            "{finished}"
        );
        ensure!(
            started["seq"].as_u64() < finished["seq"].as_u64(),
            "{started} {finished}"
        );
        // In pieces, each with its offset; not logged.
        let mut said = String::new();
        while said != "42\n" {
            let output = watcher.expect_where("run_output", is_it).await?;
            ensure!(
                output["stream"] == "stdout" && output["offset"] == said.len(),
                "after {said:?}: {output}"
            );
            ensure!(output.get("seq").is_none(), "{output}");
            said += output["chunk"].as_str().context("chunk")?;
        }
    }
    // A stranger may not run code in a room that is not theirs.
    let eve = cluster.rest().guest("Eve").await?;
    let session = rest.make_room(json!({"kind": "session"})).await?;
    let body = json!({"language": "python", "source": "1", "room_id": session});
    cluster
        .rest()
        .as_person(&eve)
        .post("/api/v1/jobs", body)
        .await?
        .problem(403, "forbidden")?;
    Ok(())
}

async fn a_job_is_cancelled_waiting_or_running(story: Story) -> Told {
    let cluster = story
        .cluster(Options::default().gateways(1).set("CODE_CONCURRENCY", 1))
        .await?;
    let (_, rest) = ana(&cluster).await?;
    let long = json!({"language": "python", "source": "import time; time.sleep(60)", "limits": {"wall_ms": 60_000}});
    let running = submit(&rest, long.clone()).await?;
    in_state(&rest, &running, "running", RUN_PATIENCE).await?;
    let waiting = submit(&rest, long).await?;
    rest.post(&format!("/api/v1/jobs/{waiting}/cancel"), json!({}))
        .await?
        .expect(200)?;
    let done = in_state(&rest, &waiting, "cancelled", PATIENCE).await?;
    // It has come to something, for whoever waits for that.
    ensure!(
        done["result"]["status"] == "cancelled" && done["result"]["attempts"] == 0,
        "{done}"
    );
    rest.post(&format!("/api/v1/jobs/{running}/cancel"), json!({}))
        .await?
        .expect(200)?;
    in_state(&rest, &running, "cancelled", PATIENCE).await?;
    // Its place is free again.
    let next = submit(&rest, json!({"language": "python", "source": "print(1)"})).await?;
    in_state(&rest, &next, "succeeded", RUN_PATIENCE).await?;
    let over = rest
        .post(&format!("/api/v1/jobs/{next}/cancel"), json!({}))
        .await?;
    over.problem(409, "conflict")?;
    rest.delete(&format!("/api/v1/jobs/{next}"))
        .await?
        .expect(204)?;
    rest.get(&format!("/api/v1/jobs/{next}"))
        .await?
        .problem(404, "not-found")?;
    Ok(())
}

async fn a_run_cancelled_before_it_began_ends_in_its_room(story: Story) -> Told {
    let cluster = story
        .cluster(Options::default().gateways(1).set("CODE_CONCURRENCY", 1))
        .await?;
    let (ana, rest) = ana(&cluster).await?;
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let door = cluster.door(Address::Rooms, &room);
    let watcher = door.clone().enter().await?;
    let asker = door.person(&ana).enter().await?;
    let long = json!({"language": "python", "source": "import time; time.sleep(60)", "limits": {"wall_ms": 60_000}});
    let running = submit(&rest, long).await?;
    in_state(&rest, &running, "running", RUN_PATIENCE).await?;
    let run = json!({"type": "run", "ref": "waits", "language": "python", "source": "print(1)"});
    asker.send(run.clone()).await?;
    let waiting = until("the run to wait", PATIENCE, async || {
        let path = format!("/api/v1/jobs?status=queued&room_id={room}");
        let page = rest.get(&path).await?.expect(200)?;
        let id = page["items"][0]["id"].as_str().context("a job")?;
        anyhow::Ok(id.to_owned())
    })
    .await?;
    for _ in 0..2 {
        rest.post(&format!("/api/v1/jobs/{waiting}/cancel"), json!({}))
            .await?
            .expect(200)?;
    }
    let is_it = |m: &Value| m["run_id"] == waiting.as_str();
    let ended = watcher.expect_where("run_finished", is_it).await?;
    ensure!(ended["status"] == "cancelled", "{ended}");
    let ack = asker.expect_where("ack", |m| m["ref"] == "waits").await?;
    ensure!(ack["seq"] == ended["seq"], "{ack} {ended}");
    // Sent again it is the same run, which is over.
    asker.send(run).await?;
    let again = asker.expect_where("ack", |m| m["ref"] == "waits").await?;
    ensure!(again["seq"] == ended["seq"], "{again} {ended}");
    rest.post(&format!("/api/v1/jobs/{running}/cancel"), json!({}))
        .await?
        .expect(200)?;
    in_state(&rest, &running, "cancelled", PATIENCE).await?;
    // Its worker is free again, and of the cancelled one nothing runs: the room hears of no start and no second end.
    let next = json!({"language": "python", "source": "print(1)", "room_id": room});
    let next = submit(&rest, next).await?;
    let is_next = |m: &Value| m["run_id"] == next.as_str();
    let started = watcher
        .expect_within("run_started", RUN_PATIENCE, |m| is_next(m) || is_it(m))
        .await?;
    ensure!(is_next(&started), "{started}");
    let finished = watcher
        .expect_within("run_finished", RUN_PATIENCE, |m| is_next(m) || is_it(m))
        .await?;
    ensure!(is_next(&finished), "{finished}");
    Ok(())
}

async fn jobs_are_refused_by_field(story: Story) -> Told {
    let cluster = story.shared().await?;
    cluster
        .rest()
        .post("/api/v1/jobs", json!({"language": "python", "source": "1"}))
        .await?
        .problem(401, "unauthenticated")?;
    let (_, rest) = ana(&cluster).await?;
    for (body, field) in [
        (json!({"source": "1"}), "language"),
        (json!({"language": "klingon", "source": "1"}), "language"),
        (json!({"language": "python"}), "source"),
        (
            json!({"language": "python", "files": [{"path": "../x.py", "content": "1"}]}),
            "files",
        ),
        (
            json!({"language": "python", "source": "1", "limits": {"wall_ms": 0}}),
            "limits.wall_ms",
        ),
        (
            json!({"language": "python", "source": "1", "network": true}),
            "network",
        ),
        // Within what could be asked for anywhere, beyond what the workers here grant.
        (
            json!({"language": "python", "source": "1", "limits": {"cpu_ms": 61_000}}),
            "limits.cpu_ms",
        ),
    ] {
        let problem = rest
            .post("/api/v1/jobs", body.clone())
            .await?
            .problem(422, "invalid")?;
        let named = problem["field"].as_str().unwrap_or_default();
        ensure!(
            named.starts_with(field),
            "{body} should name {field}: {problem}"
        );
    }
    Ok(())
}

async fn jobs_belong_to_who_sent_them(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (_, rest) = ana(&cluster).await?;
    let eve = cluster.rest().guest("Eve").await?;
    let eve = cluster.rest().as_person(&eve);
    let id = submit(&rest, json!({"language": "python", "source": "print(1)"})).await?;
    for answer in [
        eve.get(&format!("/api/v1/jobs/{id}")).await?,
        eve.delete(&format!("/api/v1/jobs/{id}")).await?,
        eve.post(&format!("/api/v1/jobs/{id}/cancel"), json!({}))
            .await?,
        rest.get(&format!("/api/v1/jobs/{}", uuid::Uuid::new_v4()))
            .await?,
    ] {
        answer.problem(404, "not-found")?;
    }
    in_state(&rest, &id, "succeeded", RUN_PATIENCE)
        .await
        .map(|_| ())
}

async fn one_trace_leads_from_the_request_to_the_result(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (_, rest) = ana(&cluster).await?;
    let trace = uuid::Uuid::new_v4().simple().to_string();
    let request = rest.request(reqwest::Method::POST, "/api/v1/jobs");
    let request = request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
    let body = json!({"language": "python", "source": "print(1)"});
    let answer = crate::harness::Answer::of(request.json(&body).send().await?).await?;
    let id = answer.expect(202)?["id"]
        .as_str()
        .context("an id")?
        .to_owned();
    let done = in_state(&rest, &id, "succeeded", RUN_PATIENCE).await?;
    ensure!(done["result"]["trace_id"] == trace.as_str(), "{done}");
    Ok(())
}

/// Runs for so long that its worker can be killed meanwhile.
fn long_job(room: &str) -> Value {
    let source = "import time\ntime.sleep(8)\nprint(6*7)";
    json!({"language": "python", "source": source, "room_id": room, "limits": {"wall_ms": 60_000}})
}

async fn run_again(cluster: &Cluster, rest: &Rest, room: &str, id: &str) -> Told {
    let done = in_state(rest, id, "succeeded", RUN_PATIENCE).await?;
    ensure!(
        done["result"]["stdout"] == "42\n" && done["result"]["attempts"] == 2,
        "{done}"
    );
    ensure!(done["attempts"] == 2, "{done}");
    // Once: one result, and told once.
    let door = cluster.door(Address::Rooms, room);
    let newcomer = door.clone().at(cluster.there().address()).enter().await?;
    let past = newcomer.way_back().query("seq", 0).enter().await?;
    past.expect_where("run_finished", |m| m["run_id"] == id)
        .await?;
    past.answered().await?;
    let told = (past.count("run_started"), past.count("run_finished"));
    ensure!(
        told == (1, 1),
        "started and finished were told {told:?} times"
    );
    Ok(())
}

async fn a_job_whose_worker_is_killed_is_run_again_by_another_once(story: Story) -> Told {
    let options = Options::default()
        .workers(2)
        .set("JOB_LEASE", 3)
        .set("CODE_CONCURRENCY", 1);
    let cluster = story.cluster(options).await?;
    let (_, rest) = ana(&cluster).await?;
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let id = submit(&rest, long_job(&room)).await?;
    in_state(&rest, &id, "running", RUN_PATIENCE).await?;
    let busy = busy_worker(&cluster).await?;
    cluster.worker(busy).kill().await?;
    run_again(&cluster, &rest, &room, &id).await
}

async fn a_job_whose_process_is_killed_is_run_again_after_the_restart(story: Story) -> Told {
    let cluster = story
        .cluster(Options::default().set("JOB_LEASE", 3))
        .await?;
    let (_, rest) = ana(&cluster).await?;
    let room = rest
        .make_room(json!({"kind": "open", "retention": "keep"}))
        .await?;
    let id = submit(&rest, long_job(&room)).await?;
    in_state(&rest, &id, "running", RUN_PATIENCE).await?;
    cluster.here().kill().await?;
    cluster.here().restart().await?;
    run_again(&cluster, &rest, &room, &id).await
}

/// The worker under which a program runs: the one whose process has a descendant that is the interpreter.
async fn busy_worker(cluster: &Cluster) -> anyhow::Result<usize> {
    until("a worker to run the program", PATIENCE, async || {
        for n in 0..2 {
            let family = cluster.worker(n).descendants().await?;
            if family.iter().any(|command| command.contains("python")) {
                return Ok(n);
            }
        }
        anyhow::bail!("none has")
    })
    .await
}

async fn a_worker_told_to_stop_finishes_or_hands_back_its_jobs(story: Story) -> Told {
    let options = Options::default()
        .workers(2)
        .set("CODE_CONCURRENCY", 1)
        .set("WORKER_DRAIN", 1);
    let cluster = story.cluster(options).await?;
    let (_, rest) = ana(&cluster).await?;
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let id = submit(&rest, long_job(&room)).await?;
    in_state(&rest, &id, "running", RUN_PATIENCE).await?;
    let busy = busy_worker(&cluster).await?;
    cluster.worker(busy).signal(Signal::TERM).await?;
    let status = cluster.worker(busy).ended(PATIENCE).await?;
    ensure!(status.success(), "{status}");
    // Handed back, not lost with its lease, and not counted as an attempt that failed.
    let done = in_state(&rest, &id, "succeeded", RUN_PATIENCE).await?;
    ensure!(
        done["result"]["stdout"] == "42\n" && done["result"]["attempts"] == 1,
        "{done}"
    );
    Ok(())
}

async fn a_run_handed_back_is_cancelled_for_good(story: Story) -> Told {
    let options = Options::default()
        .gateways(1)
        .workers(1)
        .set("CODE_CONCURRENCY", 1)
        .set("WORKER_DRAIN", 1);
    let cluster = story.cluster(options).await?;
    let (_, rest) = ana(&cluster).await?;
    let room = rest.make_room(json!({"kind": "open"})).await?;
    let id = submit(&rest, long_job(&room)).await?;
    in_state(&rest, &id, "running", RUN_PATIENCE).await?;
    cluster.worker(0).signal(Signal::TERM).await?;
    let status = cluster.worker(0).ended(PATIENCE).await?;
    ensure!(status.success(), "{status}");
    // It waits, and nobody has it.
    let cancel = format!("/api/v1/jobs/{id}/cancel");
    let job = rest.post(&cancel, json!({})).await?.expect(200)?;
    ensure!(job["status"] == "cancelled", "{job}");
    ensure!(job["result"]["status"] == "cancelled", "{job}");
    cluster.worker(0).restart().await?;
    let next = submit(&rest, json!({"language": "python", "source": "print(1)"})).await?;
    in_state(&rest, &next, "succeeded", RUN_PATIENCE).await?;
    let admin = rest.with_token(crate::harness::ADMIN_TOKEN);
    let queues = admin.get("/api/v1/queues").await?.expect(200)?;
    let mut queues = queues["items"].as_array().into_iter().flatten();
    let code = queues.find(|queue| queue["name"] == "code_execution");
    ensure!(
        code.is_some_and(|queue| queue["finished_total"] == 1),
        "{code:?}"
    );
    let door = cluster.door(Address::Rooms, &room);
    let past = door
        .enter()
        .await?
        .way_back()
        .query("seq", 0)
        .enter()
        .await?;
    let told = past
        .expect_where("run_finished", |m| m["run_id"] == id.as_str())
        .await?;
    ensure!(told["status"] == "cancelled", "{told}");
    Ok(())
}
