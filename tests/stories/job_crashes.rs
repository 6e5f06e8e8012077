//! A worker is killed with -9 at each step of a job, or loses a store: the job ends in one final state, with one result,
//! and what was finished is not run again.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::proxy::{Proxy, Weather};
use crate::harness::stall::{At, Stall};
use crate::harness::stores::{Stores, delete_namespace};
use crate::harness::{Address, Cluster, Options, Rest, Stories, Story, Told, until};

pub fn stories(all: &mut Stories) {
    all.distributed(killed_when_it_had_claimed_it_runs_once);
    all.distributed(killed_while_it_ran_it_is_run_again_to_one_result);
    all.distributed(killed_when_the_result_was_on_its_way_it_ends_once);
    all.distributed(killed_when_the_result_was_written_it_is_not_run_again);
    all.distributed(killed_before_the_queue_heard_it_is_not_run_again);
    all.distributed(a_job_that_kills_its_worker_twice_is_quarantined_and_can_be_replayed);
    all.distributed(an_emptied_redis_loses_no_job_and_doubles_none);
    all.distributed(a_result_waits_for_mongodb);
}

/// A lease of 3 s, the start of a worker in a debug build, a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a worker says to each store, at the step it is about to do.
const LOADS_THE_ROW: &[u8] = b"SELECT * FROM jobs WHERE id = $1";
const STORES_THE_RESULT: &[u8] = b"insert\0\x0c\0\0\0job_results\0";
const ENDS_THE_ROW: &[u8] = b"UPDATE jobs SET state = $2, finished_at";
const SETTLES_THE_JOB: &[u8] = b"$6\r\nfinish\r\n";

/// One gateway that sees its stores, and one worker that sees them through traps.
struct Stage {
    cluster: Cluster,
    rest: Rest,
    room: String,
    postgres: Stall,
    redis: Stall,
    mongo: Stall,
}

impl Stage {
    async fn set(story: &Story) -> anyhow::Result<Self> {
        let stores = Stores::make().await?;
        let (mut postgres, mut redis, mut mongo) = (
            stores.postgres.clone(),
            stores.redis.clone(),
            stores.mongo.clone(),
        );
        // A member of a replica set names its own address; the driver must not go there.
        mongo.set_query(Some("directConnection=true"));
        let stalls = (
            Stall::into_url(&mut postgres, 5432).await?,
            Stall::into_url(&mut redis, 6379).await?,
            Stall::into_url(&mut mongo, 27017).await?,
        );
        let options = Options::default()
            .gateways(1)
            .workers(1)
            .stores(stores)
            .set("JOB_LEASE", 3)
            .set("CODE_CONCURRENCY", 1)
            .set_worker("DATABASE_URL", &postgres)
            .set_worker("REDIS_URL", &redis)
            .set_worker("MONGO_URL", &mongo);
        let cluster = story.cluster(options).await?;
        let ana = cluster.rest().guest("Ana").await?;
        let rest = cluster.rest().as_person(&ana);
        let room = rest.make_room(json!({"kind": "open"})).await?;
        Ok(Self {
            cluster,
            rest,
            room,
            postgres: stalls.0,
            redis: stalls.1,
            mongo: stalls.2,
        })
    }

    /// Says something that no other run says.
    async fn submit(&self, source: &str) -> anyhow::Result<String> {
        let source = format!("import uuid, time\nprint(uuid.uuid4(), flush=True)\n{source}");
        let body = json!({"language": "python", "source": source, "room_id": self.room, "limits": {"wall_ms": 60_000}});
        let job = self.rest.post("/api/v1/jobs", body).await?.expect(202)?;
        Ok(job["id"].as_str().context("an id")?.to_owned())
    }

    async fn kill_and_restart(&self) -> Told {
        self.cluster.worker(0).kill().await?;
        for stall in [&self.postgres, &self.redis, &self.mongo] {
            stall.disarm();
        }
        self.cluster.worker(0).restart().await
    }

    async fn job(&self, id: &str) -> anyhow::Result<Value> {
        let path = format!("/api/v1/jobs/{id}");
        self.rest.get(&path).await?.expect(200)
    }

    /// Its row's own state, without what a result that is written already would say.
    async fn listed_state(&self, id: &str) -> anyhow::Result<String> {
        let jobs = self.rest.get("/api/v1/jobs").await?.expect(200)?;
        let found = jobs["items"].as_array().into_iter().flatten();
        let mut found = found.filter(|job| job["id"] == id);
        let state = found.next().map(|job| job["status"].clone());
        Ok(state
            .context("listed")?
            .as_str()
            .context("text")?
            .to_owned())
    }

    /// One final state, one result, told once, and nothing left in the queue.
    async fn ends(&self, id: &str, state: &str, attempts: u64) -> anyhow::Result<Value> {
        let done = until(&format!("the job to be {state}"), PATIENCE, async || {
            let listed = self.listed_state(id).await?;
            ensure!(listed == state, "{listed}");
            self.job(id).await
        })
        .await?;
        ensure!(
            done["status"] == state && done["result"]["status"] == state,
            "{done}"
        );
        ensure!(done["result"]["attempts"] == attempts, "{done}");
        self.queue_is_empty().await?;
        let after = self.job(id).await?;
        ensure!(after == done, "it changed afterwards: {after}");
        let door = self.cluster.door(Address::Rooms, &self.room);
        let newcomer = door.clone().enter().await?;
        let past = newcomer.way_back().query("seq", 0).enter().await?;
        past.expect_where("run_finished", |m| m["run_id"] == id)
            .await?;
        past.answered().await?;
        let told = (past.count("run_started"), past.count("run_finished"));
        ensure!(told.0 <= 1 && told.1 == 1, "told {told:?} times");
        Ok(done)
    }

    async fn queue(&self) -> anyhow::Result<Value> {
        let admin = self.rest.with_token(crate::harness::ADMIN_TOKEN);
        let queues = admin.get("/api/v1/queues").await?.expect(200)?;
        let mut queues = queues["items"].as_array().into_iter().flatten();
        let code = queues.find(|queue| queue["name"] == "code_execution");
        code.cloned().context("code_execution")
    }

    async fn queue_is_empty(&self) -> Told {
        until("the queue to be empty", PATIENCE, async || {
            let queue = self.queue().await?;
            ensure!(queue["depth"] == 0 && queue["in_flight"] == 0, "{queue}");
            anyhow::Ok(())
        })
        .await
    }

    async fn running(&self, id: &str) -> Told {
        until("the program to speak", PATIENCE, async || {
            let family = self.cluster.worker(0).descendants().await?;
            ensure!(
                family.iter().any(|line| line.contains("main.py")),
                "{family:?}"
            );
            ensure!(self.listed_state(id).await? == "running", "not running");
            anyhow::Ok(())
        })
        .await
    }
}

async fn killed_when_it_had_claimed_it_runs_once(story: Story) -> Told {
    let stage = Stage::set(&story).await?;
    stage.postgres.arm(LOADS_THE_ROW, At::TheCall);
    let id = stage.submit("").await?;
    stage.postgres.caught(PATIENCE).await?;
    ensure!(stage.queue().await?["in_flight"] == 1, "claimed");
    stage.kill_and_restart().await?;
    // The claim counted, and nothing ran under it.
    let done = stage.ends(&id, "succeeded", 2).await?;
    ensure!(said(&done)?.lines().count() == 1, "{done}");
    Ok(())
}

async fn killed_while_it_ran_it_is_run_again_to_one_result(story: Story) -> Told {
    let stage = Stage::set(&story).await?;
    let id = stage.submit("time.sleep(4)").await?;
    stage.running(&id).await?;
    stage.kill_and_restart().await?;
    let done = stage.ends(&id, "succeeded", 2).await?;
    ensure!(said(&done)?.lines().count() == 1, "of one run: {done}");
    Ok(())
}

async fn killed_when_the_result_was_on_its_way_it_ends_once(story: Story) -> Told {
    let stage = Stage::set(&story).await?;
    // MongoDB has it, and the worker never knew.
    stage.mongo.arm(STORES_THE_RESULT, At::TheAnswer);
    let id = stage.submit("").await?;
    stage.mongo.caught(PATIENCE).await?;
    let first = until("the result to be there", PATIENCE, async || {
        let job = stage.job(&id).await?;
        ensure!(job["result"].is_object(), "{job}");
        said(&job)
    })
    .await?;
    stage.kill_and_restart().await?;
    let done = stage.ends(&id, "succeeded", 1).await?;
    ensure!(said(&done)? == first, "the first run's: {done}");
    ensure!(done["attempts"] == 1, "it began once: {done}");
    Ok(())
}

async fn killed_when_the_result_was_written_it_is_not_run_again(story: Story) -> Told {
    let stage = Stage::set(&story).await?;
    stage.postgres.arm(ENDS_THE_ROW, At::TheCall);
    let id = stage.submit("").await?;
    stage.postgres.caught(PATIENCE).await?;
    let before = stage.job(&id).await?;
    ensure!(before["result"].is_object(), "written: {before}");
    ensure!(stage.listed_state(&id).await? == "running", "not ended");
    stage.kill_and_restart().await?;
    let done = stage.ends(&id, "succeeded", 1).await?;
    ensure!(done["result"] == before["result"], "{before}\n{done}");
    ensure!(done["attempts"] == 1, "it began once: {done}");
    Ok(())
}

async fn killed_before_the_queue_heard_it_is_not_run_again(story: Story) -> Told {
    let stage = Stage::set(&story).await?;
    stage.redis.arm(SETTLES_THE_JOB, At::TheCall);
    let id = stage.submit("").await?;
    until("the job to be over", PATIENCE, async || {
        let state = stage.listed_state(&id).await?;
        ensure!(state == "succeeded", "{state}");
        anyhow::Ok(())
    })
    .await?;
    stage.redis.caught(PATIENCE).await?;
    let before = stage.job(&id).await?;
    stage.kill_and_restart().await?;
    let done = stage.ends(&id, "succeeded", 1).await?;
    ensure!(done == before, "nothing changed: {before}\n{done}");
    Ok(())
}

async fn a_job_that_kills_its_worker_twice_is_quarantined_and_can_be_replayed(
    story: Story,
) -> Told {
    let stage = Stage::set(&story).await?;
    let id = stage.submit("time.sleep(5)").await?;
    for _ in 0..2 {
        stage.running(&id).await?;
        stage.kill_and_restart().await?;
    }
    let done = stage.ends(&id, "dead", 2).await?;
    let message = done["result"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("2 workers died"), "{done}");
    let admin = stage.rest.with_token(crate::harness::ADMIN_TOKEN);
    let dead = "/api/v1/queues/code_execution/dead";
    stage.rest.get(dead).await?.problem(403, "forbidden")?;
    let letters = admin.get(&format!("{dead}?limit=1")).await?.expect(200)?;
    let letter = &letters["items"][0];
    ensure!(
        letter["id"] == id.as_str() && letter["payload"]["job_id"] == id.as_str(),
        "{letters}"
    );
    let reason = letter["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("quarantined"), "{letters}");
    ensure!(letters["next_cursor"].is_null(), "{letters}");
    // The worker is well now: as new, with attempts of its own.
    let replay = format!("{dead}/{id}/replay");
    admin.post(&replay, json!({})).await?.expect(200)?;
    let done = until("the job to be done", PATIENCE, async || {
        let job = stage.job(&id).await?;
        ensure!(job["status"] == "succeeded", "{job}");
        anyhow::Ok(job)
    })
    .await?;
    ensure!(done["result"]["attempts"] == 1, "{done}");
    // Its room hears both starts and both ends.
    let told = until("the room to hear", PATIENCE, async || {
        let path = format!("/api/v1/rooms/{}/log?since=0", stage.room);
        let log = stage.rest.get(&path).await?.expect(200)?.to_string();
        let count = |word: &str| log.matches(&format!("\"{word}\"")).count();
        ensure!(count("run_finished") >= 2, "{log}");
        anyhow::Ok((count("run_started"), count("run_finished")))
    })
    .await?;
    ensure!(told == (2, 2), "{told:?}");
    admin
        .post(&replay, json!({}))
        .await?
        .problem(404, "not-found")?;
    Ok(())
}

async fn an_emptied_redis_loses_no_job_and_doubles_none(story: Story) -> Told {
    let stage = Stage::set(&story).await?;
    let mut ids = vec![stage.submit("time.sleep(5)").await?];
    stage.running(&ids[0]).await?;
    for _ in 0..4 {
        ids.push(stage.submit("").await?);
    }
    let stores = stage.cluster.stores()?;
    delete_namespace(stores.redis.as_str(), &stores.name).await?;
    for id in &ids {
        let done = until("the job to be done", PATIENCE * 2, async || {
            let job = stage.job(id).await?;
            ensure!(job["status"] == "succeeded", "{job}");
            anyhow::Ok(job)
        })
        .await?;
        ensure!(said(&done)?.lines().count() == 1, "{done}");
    }
    stage.queue_is_empty().await
}

async fn a_result_waits_for_mongodb(story: Story) -> Told {
    let mut stores = Stores::make().await?;
    let mut mongo = stores.mongo.clone();
    mongo.set_query(Some("directConnection=true"));
    stores.mongo.set_query(Some("directConnection=true"));
    let proxy = Proxy::into_url(&mut mongo, 27017).await?;
    let options = Options::default()
        .gateways(1)
        .workers(1)
        .stores(stores)
        .set("CODE_CONCURRENCY", 1)
        .set_worker("MONGO_URL", &mongo);
    let cluster = story.cluster(options).await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let source = "import time, uuid\nprint(uuid.uuid4(), flush=True)\ntime.sleep(3)";
    let body = json!({"language": "python", "source": source});
    let job = rest.post("/api/v1/jobs", body).await?.expect(202)?;
    let id = job["id"].as_str().context("an id")?.to_owned();
    let look = async || rest.get(&format!("/api/v1/jobs/{id}")).await?.expect(200);
    until("the program to run", PATIENCE, async || {
        let family = cluster.worker(0).descendants().await?;
        ensure!(
            family.iter().any(|line| line.contains("main.py")),
            "{family:?}"
        );
        anyhow::Ok(())
    })
    .await?;
    proxy.set(Weather::Cut);
    until("the program to end", PATIENCE, async || {
        let family = cluster.worker(0).descendants().await?;
        ensure!(
            !family.iter().any(|line| line.contains("main.py")),
            "{family:?}"
        );
        anyhow::Ok(())
    })
    .await?;
    let waiting = look().await?;
    ensure!(waiting["status"] == "running", "{waiting}");
    proxy.set(Weather::Pass);
    let done = until("the job to be done", PATIENCE, async || {
        let job = look().await?;
        ensure!(job["status"] == "succeeded", "{job}");
        anyhow::Ok(job)
    })
    .await?;
    ensure!(
        done["attempts"] == 1 && said(&done)?.lines().count() == 1,
        "run once: {done}"
    );
    Ok(())
}

fn said(job: &Value) -> anyhow::Result<String> {
    let stdout = job["result"]["stdout"].as_str();
    stdout.map(str::to_owned).context("stdout")
}
