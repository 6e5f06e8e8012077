//! How it starts, and how it refuses to.

use std::collections::BTreeMap;
use std::process::ExitStatus;

use anyhow::{Context, ensure};

use crate::harness::process::{self, Spec};
use crate::harness::stores::{OwnMongo, OwnRedis, Stores};
use crate::harness::{Options, Rest, Stories, Story, Told, proxy};

pub fn stories(all: &mut Stories) {
    all.embedded(alone_it_says_where_to_look_and_what_it_found);
    all.embedded(a_half_configured_start_is_refused_naming_what_is_missing);
    all.embedded(distributed_mode_without_a_signing_key_is_refused);
    all.embedded(an_unknown_flag_or_a_malformed_value_is_refused_by_name);
    all.embedded(a_gateway_or_worker_alone_needs_distributed_mode);
    all.embedded(a_taken_port_is_told_by_name);
    all.embedded(migrate_alone_says_that_it_was_embedded_and_what_it_did);
    all.embedded(a_key_that_cannot_be_read_is_told_before_anything_is_said);
    all.embedded(a_folder_of_files_that_cannot_be_is_told_by_its_setting);
    all.distributed(a_wrong_password_is_told_by_its_setting);
    all.distributed(a_mongodb_that_is_no_replica_set_is_refused);
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
    let (status, said) = run(story, arguments, settings).await?;
    ensure!(
        !status.success(),
        "it should not have started; it said:\n{said}"
    );
    Ok(said)
}

async fn run(
    story: &Story,
    arguments: &[&str],
    settings: &[(&str, &str)],
) -> anyhow::Result<(ExitStatus, String)> {
    let settings = settings
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let spec = Spec {
        name: crate::harness::fresh("refused"),
        arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        settings: settings.collect::<BTreeMap<_, _>>(),
        folder: story.folder().to_owned(),
    };
    process::run(&spec).await
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

async fn migrate_alone_says_that_it_was_embedded_and_what_it_did(story: Story) -> Told {
    let data = tempfile::tempdir()?;
    let folder = data.path().join("kept here");
    let settings = [("ATELIER_DATA_DIR", folder.to_str().context("UTF-8")?)];
    // Again it says the same: there is nothing that it must not do twice.
    for _ in 0..2 {
        let (status, said) = run(&story, &["migrate"], &settings).await?;
        ensure!(status.success(), "{said}");
        for part in ["embedded mode", "DATABASE_URL", settings[0].1, "schema"] {
            ensure!(said.contains(part), "{part:?} should be in: {said}");
        }
        ensure!(!said.contains("the databases"), "it has none: {said}");
        for file in ["records.db", "archive.db", "queue.db", "vault.db"] {
            ensure!(folder.join(file).is_file(), "{file} is not there");
        }
    }
    Ok(())
}

async fn a_key_that_cannot_be_read_is_told_before_anything_is_said(story: Story) -> Told {
    let data = tempfile::tempdir()?;
    let key = data.path().join("no such key.pem");
    let settings = [
        ("ATELIER_DATA_DIR", data.path().to_str().context("UTF-8")?),
        ("JWT_PRIVATE_KEY", key.to_str().context("UTF-8")?),
        // Without it callbacks would need the key first.
        ("CALLBACK_SECRET", "a secret of somebody's own"),
    ];
    let said = refused(&story, &[], &settings).await?;
    ensure!(said.contains("JWT_PRIVATE_KEY"), "it said: {said}");
    ensure!(!said.contains("listens on"), "it does not: {said}");
    Ok(())
}

async fn a_folder_of_files_that_cannot_be_is_told_by_its_setting(story: Story) -> Told {
    let data = tempfile::tempdir()?;
    let taken = data.path().join("taken");
    std::fs::write(&taken, "a file, and no folder")?;
    let url = format!("file://{}/files", taken.display());
    let settings = [
        ("ATELIER_DATA_DIR", data.path().to_str().context("UTF-8")?),
        ("FILES_URL", &url),
    ];
    let said = refused(&story, &[], &settings).await?;
    ensure!(said.contains("FILES_URL: "), "it said: {said}");
    ensure!(said.contains("taken"), "it said: {said}");
    Ok(())
}

async fn a_wrong_password_is_told_by_its_setting(story: Story) -> Told {
    let redis = OwnRedis::start().await?;
    redis.configure("requirepass", "sesame").await?;
    let stores = Stores::make().await?;
    let files = format!("file://{}", stores.files.path().display());
    let good = redis.url()?;
    let mut wrong = good.clone();
    let set = wrong.set_password(Some("guessed"));
    ensure!(set.is_ok(), "a URL takes a password");
    let open = stores.redis.to_string();
    for (setting, rooms, queues) in [
        ("REDIS_URL", wrong.as_str(), open.as_str()),
        ("REDIS_URL", good.as_str(), open.as_str()),
        ("REDIS_QUEUE_URL", &open, wrong.as_str()),
    ] {
        let settings = [
            ("DATABASE_URL", stores.postgres.as_str()),
            ("MONGO_URL", stores.mongo.as_str()),
            ("DB_NAME", &stores.name),
            ("REDIS_URL", rooms),
            ("REDIS_QUEUE_URL", queues),
            ("FILES_URL", &files),
            ("JWT_SECRET_KEY", "0123456789abcdef0123456789abcdef"),
        ];
        let migrated = run(&story, &["migrate"], &settings).await?;
        ensure!(migrated.0.success(), "{}", migrated.1);
        let said = refused(&story, &["gateway"], &settings).await?;
        let told = said.lines().last().unwrap_or_default();
        ensure!(told.contains(&format!("{setting}: Redis")), "{said}");
        ensure!(!said.contains("guessed"), "a password is told: {said}");
        ensure!(!said.contains("not there yet"), "it waited: {said}");
    }
    Ok(())
}

/// Nothing could ever be archived there, and nobody would be told.
async fn a_mongodb_that_is_no_replica_set_is_refused(story: Story) -> Told {
    let mongo = OwnMongo::start().await?;
    let stores = Stores::make().await?;
    let files = format!("file://{}", stores.files.path().display());
    let settings = [
        ("DATABASE_URL", stores.postgres.as_str()),
        ("REDIS_URL", stores.redis.as_str()),
        ("MONGO_URL", &mongo.url()),
        ("DB_NAME", &stores.name),
        ("FILES_URL", &files),
        ("JWT_SECRET_KEY", "0123456789abcdef0123456789abcdef"),
    ];
    for arguments in [["migrate"], ["gateway"]] {
        let said = refused(&story, &arguments, &settings).await?;
        let told = said.lines().last().unwrap_or_default();
        ensure!(told.contains("MONGO_URL: MongoDB"), "{said}");
        ensure!(told.contains("replica set"), "{said}");
        ensure!(!said.contains("not there yet"), "it waited: {said}");
    }
    Ok(())
}
