//! How it starts, and how it refuses to.

use std::collections::BTreeMap;

use anyhow::ensure;

use crate::harness::process::{self, Spec};
use crate::harness::{Options, Rest, Stories, Story, Told, proxy};

pub fn stories(all: &mut Stories) {
    all.embedded(alone_it_says_where_to_look_and_what_it_found);
    all.embedded(a_half_configured_start_is_refused_naming_what_is_missing);
    all.embedded(distributed_mode_without_a_signing_key_is_refused);
    all.embedded(an_unknown_flag_or_a_malformed_value_is_refused_by_name);
    all.embedded(a_gateway_or_worker_alone_needs_distributed_mode);
    all.embedded(a_taken_port_is_told_by_name);
}

async fn alone_it_says_where_to_look_and_what_it_found(story: Story) -> Told {
    let options = Options::default().unset("ATELIER_ADMIN_TOKEN");
    let cluster = story.cluster(options).await?;
    let said = cluster.here().printed();
    for part in [&cluster.here().url("/"), "/docs", "languages", "sandbox"] {
        ensure!(
            said.contains(part),
            "it should say {part:?}, but said:\n{said}"
        );
    }
    let line = said.lines().find(|line| line.contains("admin token"));
    let words = line.unwrap_or_default().split_whitespace();
    let token = words.clone().nth(2).unwrap_or_default();
    let rest: Rest = cluster.rest().with_token(token);
    let me = rest.get("/api/v1/auth/me").await?.expect(200)?;
    ensure!(
        me["is_admin"] == true,
        "the printed token should be the administrator's: {me}"
    );
    ensure!(
        said.contains("python"),
        "Python is on this machine; it said:\n{said}"
    );
    Ok(())
}

/// Runs the program with these settings; expects it to end badly, and returns what it said.
async fn refused(
    story: &Story,
    arguments: &[&str],
    settings: &[(&str, &str)],
) -> anyhow::Result<String> {
    let settings = settings
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let spec = Spec {
        name: crate::harness::fresh("refused"),
        arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        settings: settings.collect::<BTreeMap<_, _>>(),
        folder: story.folder().to_owned(),
    };
    let (status, said) = process::run(&spec).await?;
    ensure!(
        !status.success(),
        "it should not have started; it said:\n{said}"
    );
    Ok(said)
}

const POSTGRES: (&str, &str) = ("DATABASE_URL", "postgres://127.0.0.1:1/none");
const REDIS: (&str, &str) = ("REDIS_URL", "redis://127.0.0.1:1");
const MONGO: (&str, &str) = ("MONGO_URL", "mongodb://127.0.0.1:1");

async fn a_half_configured_start_is_refused_naming_what_is_missing(story: Story) -> Told {
    for (set, missing) in [
        (vec![POSTGRES], ["REDIS_URL", "MONGO_URL"].as_slice()),
        (vec![POSTGRES, REDIS], &["MONGO_URL"]),
        (vec![REDIS, MONGO], &["DATABASE_URL"]),
    ] {
        let said = refused(&story, &[], &set).await?;
        for name in missing {
            ensure!(
                said.contains(name),
                "{name} is missing, but it said: {said}"
            );
        }
        ensure!(said.contains("missing"), "it said: {said}");
    }
    Ok(())
}

async fn distributed_mode_without_a_signing_key_is_refused(story: Story) -> Told {
    let said = refused(&story, &["gateway"], &[POSTGRES, REDIS, MONGO]).await?;
    ensure!(said.contains("JWT_PRIVATE_KEY"), "it said: {said}");
    Ok(())
}

async fn an_unknown_flag_or_a_malformed_value_is_refused_by_name(story: Story) -> Told {
    for (arguments, settings, name) in [
        (["--colour=red"].as_slice(), [].as_slice(), "--colour"),
        (&["--message-rate=many"], &[], "--message-rate"),
        (&[], &[("MESSAGE_RATE", "0")], "--message-rate"),
        (&["sing"], &[], "sing"),
    ] {
        let said = refused(&story, arguments, settings).await?;
        ensure!(
            said.contains(name),
            "it should name {name}, but said: {said}"
        );
    }
    Ok(())
}

async fn a_gateway_or_worker_alone_needs_distributed_mode(story: Story) -> Told {
    for command in ["gateway", "worker"] {
        let said = refused(&story, &[command], &[]).await?;
        ensure!(said.contains("distributed mode"), "it said: {said}");
    }
    Ok(())
}

async fn a_taken_port_is_told_by_name(story: Story) -> Told {
    let port = proxy::free_port()?;
    let _holder = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let listen = format!("--listen=127.0.0.1:{port}");
    let data = tempfile::tempdir()?;
    let folder = data.path().display().to_string();
    let said = refused(&story, &[&listen], &[("ATELIER_DATA_DIR", &folder)]).await?;
    ensure!(
        said.contains("ATELIER_LISTEN") && said.contains(&port.to_string()),
        "it said: {said}"
    );
    Ok(())
}
