//! Requests sent again: what was made once is not made twice.

use anyhow::ensure;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::stall::{At, Stall};
use crate::harness::stores::Stores;
use crate::harness::{Answer, Options, PATIENCE, Rest, Stories, Story, Told, fresh, until};

pub fn stories(all: &mut Stories) {
    all.both(a_request_sent_again_gets_the_same_answer_on_any_pod);
    all.both(of_many_requests_with_one_key_one_makes_something);
    all.both(a_request_that_made_nothing_leaves_its_key_free);
    all.distributed(a_job_asked_for_again_after_its_gateway_was_killed_runs_once);
    all.both(a_registration_sent_again_makes_one_account);
}

async fn post(rest: &Rest, path: &str, key: &str, body: &Value) -> anyhow::Result<Answer> {
    let request = rest.request(Method::POST, path);
    let request = request.header("Idempotency-Key", key).json(body);
    Answer::of(request.send().await?).await
}

fn program() -> Value {
    json!({"language": "python", "source": "print(1)"})
}

async fn a_request_sent_again_gets_the_same_answer_on_any_pod(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let ben = cluster.rest().guest("Ben").await?;
    let (here, there) = (
        cluster.rest().as_person(&ana),
        Rest::at(cluster.there()).as_person(&ana),
    );
    for (path, body, other, status) in [
        (
            "/jobs",
            program(),
            json!({"language": "bash", "source": "true"}),
            202,
        ),
        (
            "/rooms",
            json!({"name": "plans"}),
            json!({"name": "other"}),
            201,
        ),
    ] {
        let v1 = format!("/api/v1{path}");
        let first = post(&here, &v1, "key-1", &body).await?;
        // Under /api the same things stand.
        let second = post(&there, &format!("/api{path}"), "key-1", &body).await?;
        ensure!(
            first.status == status && second.status == status && first.text == second.text,
            "{} {}, {} {}",
            first.status,
            first.text,
            second.status,
            second.text
        );
        for name in ["location", "content-type"] {
            ensure!(
                first.headers.get(name) == second.headers.get(name),
                "{name}"
            );
        }
        let refused = post(&there, &v1, "key-1", &other).await?;
        refused.problem(422, "idempotency-mismatch")?;
        let another = post(&here, &v1, "key-2", &body).await?.expect(status)?;
        ensure!(another["id"] != first.body["id"], "another key: {another}");
        let bens = post(&there.as_person(&ben), &v1, "key-1", &body).await?;
        ensure!(
            bens.expect(status)?["id"] != first.body["id"],
            "another person"
        );
    }
    let long = "k".repeat(256);
    let refused = post(&here, "/api/v1/jobs", &long, &program()).await?;
    let problem = refused.problem(422, "invalid")?;
    ensure!(problem["field"] == "Idempotency-Key", "{problem}");
    Ok(())
}

async fn of_many_requests_with_one_key_one_makes_something(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let there = Rest::at(cluster.there()).as_person(&ana);
    let body = program();
    let requests = (0..20).map(|n| {
        let rest = if n % 2 == 0 { &rest } else { &there };
        post(rest, "/api/v1/jobs", "one", &body)
    });
    let mut ids = Vec::new();
    for answer in futures::future::try_join_all(requests).await? {
        if answer.status == 202 {
            ids.push(answer.body["id"].clone());
        } else {
            answer.problem(409, "idempotency-in-flight")?;
        }
    }
    ids.dedup();
    ensure!(ids.len() == 1, "jobs made: {ids:?}");
    let jobs = rest.get("/api/v1/jobs").await?.expect(200)?;
    ensure!(
        jobs["items"].as_array().is_some_and(|j| j.len() == 1),
        "{jobs}"
    );
    Ok(())
}

async fn a_request_that_made_nothing_leaves_its_key_free(story: Story) -> Told {
    let cluster = story.shared().await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let wrong = json!({"language": "cobol", "source": "1"});
    let refused = post(&rest, "/api/v1/jobs", "key", &wrong).await?;
    refused.problem(422, "invalid")?;
    let made = post(&rest, "/api/v1/jobs", "key", &program()).await?;
    made.expect(202)?;
    Ok(())
}

async fn a_registration_sent_again_makes_one_account(story: Story) -> Told {
    let cluster = story.shared().await?;
    let (here, there) = (cluster.rest(), Rest::at(cluster.there()));
    let key = fresh("key");
    let account = |name: &str| json!({"username": name, "password": "correct horse battery"});
    let name = fresh("ana");
    for (path, body, other) in [
        ("/auth/register", account(&name), account(&fresh("ana"))),
        (
            "/auth/guest",
            json!({"name": "Ana"}),
            json!({"name": "Ben"}),
        ),
    ] {
        let first = post(&here, &format!("/api/v1{path}"), &key, &body).await?;
        let again = post(&there, &format!("/api{path}"), &key, &body).await?;
        ensure!(
            first.status == 201 && again.status == 201 && first.text == again.text,
            "{} {}, {} {}",
            first.status,
            first.text,
            again.status,
            again.text
        );
        let refused = post(&there, &format!("/api/v1{path}"), &key, &other).await?;
        refused.problem(422, "idempotency-mismatch")?;
        let another = post(&here, &format!("/api/v1{path}"), &fresh("key"), &body).await?;
        if path == "/auth/guest" {
            ensure!(
                another.expect(201)?["user"]["id"] != first.body["user"]["id"],
                "another guest"
            );
        } else {
            another.problem(409, "conflict")?;
        }
    }
    Ok(())
}

/// What is kept of an answer, on its way to Redis.
const KEEPS_THE_ANSWER: &[u8] = b"body_hash";

async fn a_job_asked_for_again_after_its_gateway_was_killed_runs_once(story: Story) -> Told {
    let stores = Stores::make().await?;
    let mut redis = stores.redis.clone();
    let stall = Stall::into_url(&mut redis, 6379).await?;
    let options = Options::default()
        .gateways(1)
        .workers(1)
        .stores(stores)
        .set("REQUEST_TIMEOUT", 3)
        .set("REDIS_URL", &redis);
    let cluster = story.cluster(options).await?;
    let ana = cluster.rest().guest("Ana").await?;
    let rest = cluster.rest().as_person(&ana);
    let batch = json!({"jobs": [program(), program()]});
    for (path, body, jobs) in [
        ("/api/v1/jobs", program(), 1),
        ("/api/v1/jobs/batch", batch, 3),
    ] {
        stall.arm(KEEPS_THE_ANSWER, At::TheCall);
        let unanswered = async {
            let answer = post(&rest, path, "key-1", &body).await;
            ensure!(answer.is_err(), "it was answered: {answer:?}");
            anyhow::Ok(())
        };
        let killed = async {
            stall.caught(PATIENCE).await?;
            cluster.gateway(0).kill().await
        };
        tokio::try_join!(unanswered, killed)?;
        stall.disarm();
        cluster.gateway(0).restart().await?;
        // Held until its lease is over; then it is the job's, and no other's.
        let other = json!({"language": "bash", "source": "true"});
        let (first, status) = if jobs == 1 {
            (&other, 422)
        } else {
            (&body, 202)
        };
        until("the key to be free", PATIENCE, async || {
            let answer = post(&rest, path, "key-1", first).await?;
            ensure!(answer.status == status, "{} {}", answer.status, answer.text);
            Ok(())
        })
        .await?;
        let again = post(&rest, path, "key-1", &body).await?.expect(202)?;
        let listed = rest.get("/api/v1/jobs").await?.expect(200)?;
        let listed = listed["items"].as_array().map(Vec::len);
        ensure!(listed == Some(jobs), "{listed:?}: {again}");
    }
    Ok(())
}
