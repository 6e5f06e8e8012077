//! The people of the tables, each with a token, and the places that they stand in.

use std::collections::BTreeMap;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::OnceCell;

use crate::harness::{ADMIN_TOKEN, Cluster, Options, Person, Rest, Story, fresh, until};

/// What signs the cluster's tokens, so that the story can make one that has run out.
const SECRET: &str = "the-signing-secret-of-the-stories-about-who-may-what";
pub const PASSWORD: &str = "correct horse";
/// A job with a file left behind.
const LEAVES_A_FILE: &str = "open('out.txt', 'w').write('left')";
/// Starting a box on a busy machine.
const RUN_PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Everybody, at one gateway and (for the paths under /api) at another.
pub struct Cast {
    pub here: Rest,
    pub there: Rest,
    people: BTreeMap<&'static str, Person>,
    expired: String,
    /// Kept by the owner for all; no row changes them.
    pub places: Places,
    done: OnceCell<String>,
    done_in_project: OnceCell<String>,
}

/// A workspace with one project, and a team, everybody in them as the table says.
#[derive(Debug, Clone)]
pub struct Places {
    pub workspace: String,
    pub project: String,
    pub team: String,
}

/// The roles that the table's people have in places.
const STANDING: [(&str, &str); 5] = [
    ("viewer", "viewer"),
    ("editor", "member"),
    ("host", "member"),
    ("wsadmin", "admin"),
    ("bystander", "viewer"),
];

pub fn id_of(made: &Value) -> anyhow::Result<String> {
    let id = made["id"].as_str();
    Ok(id.with_context(|| format!("an id: {made}"))?.to_owned())
}

impl Cast {
    pub async fn of(story: &Story) -> anyhow::Result<(Cluster, Self)> {
        let options = Options::default()
            .set("JWT_PRIVATE_KEY", "")
            .set("JWT_SECRET_KEY", SECRET)
            .set("INVITES_PER_MINUTE", 100_000);
        let cluster = story.cluster(options).await?;
        let (here, there) = (cluster.rest(), Rest::at(cluster.there()));
        let mut people = BTreeMap::new();
        people.insert("guest", here.guest("Gast").await?);
        for name in [
            "stranger",
            "viewer",
            "editor",
            "host",
            "wsadmin",
            "owner",
            "bystander",
            "newcomer",
            "revoked",
        ] {
            people.insert(name, here.register(name, PASSWORD).await?);
        }
        let gone = json!({"refresh_token": people["revoked"].refresh_token});
        here.post("/api/v1/auth/logout", gone).await?.expect(204)?;
        let mut cast = Self {
            expired: run_out(&people["host"].token)?,
            here,
            there,
            people,
            places: Places {
                workspace: String::new(),
                project: String::new(),
                team: String::new(),
            },
            done: OnceCell::new(),
            done_in_project: OnceCell::new(),
        };
        cast.places.workspace = cast.make_workspace().await?;
        cast.places.project = cast.make_project(&cast.places.workspace).await?;
        cast.places.team = cast.make_team().await?;
        Ok((cluster, cast))
    }

    /// The id of somebody who has one of their own.
    pub fn id(&self, who: &str) -> Option<&str> {
        self.people.get(who).map(|person| person.id.as_str())
    }

    /// `None`: they come without a token.
    pub fn token(&self, who: &str) -> Option<&str> {
        match who {
            "nobody" => None,
            "admin" => Some(ADMIN_TOKEN),
            "expired" => Some(&self.expired),
            who => Some(&self.people[who].token),
        }
    }

    pub fn rest(&self, who: &str) -> Rest {
        match self.token(who) {
            Some(token) => self.here.with_token(token),
            None => self.here.clone(),
        }
    }

    pub async fn make_workspace(&self) -> anyhow::Result<String> {
        self.make_place("/api/v1/workspaces").await
    }

    /// Everybody is in it by its workspace; the bystander has a role of their own.
    pub async fn make_project(&self, workspace: &str) -> anyhow::Result<String> {
        let path = format!("/api/v1/workspaces/{workspace}/projects");
        let owner = self.rest("owner");
        let made = owner.post(&path, json!({"name": "Parser"})).await?;
        let id = id_of(&made.expect(201)?)?;
        let member = json!({"user_id": self.id("bystander"), "role": "viewer"});
        let members = format!("/api/v1/projects/{id}/members");
        owner.post(&members, member).await?.expect(201)?;
        Ok(id)
    }

    pub async fn make_team(&self) -> anyhow::Result<String> {
        self.make_place("/api/v1/teams").await
    }

    async fn make_place(&self, collection: &str) -> anyhow::Result<String> {
        let owner = self.rest("owner");
        let made = owner.post(collection, json!({"name": "Works"})).await?;
        let id = id_of(&made.expect(201)?)?;
        for (who, role) in STANDING {
            let member = json!({"user_id": self.id(who), "role": role});
            let members = format!("{collection}/{id}/members");
            owner.post(&members, member).await?.expect(201)?;
        }
        Ok(id)
    }

    /// A room that the host made, with a viewer, an editor and a bystander in it; of a project, with all of its people.
    pub async fn make_room(&self, kind: &str) -> anyhow::Result<String> {
        let host = self.rest("host");
        if kind == "project" {
            let body = json!({"project_id": self.places.project});
            return host.make_room(body).await;
        }
        let room = host.make_room(json!({"kind": kind})).await?;
        for (who, role) in [
            ("viewer", "viewer"),
            ("editor", "editor"),
            ("bystander", "viewer"),
        ] {
            let member = json!({"user_id": self.id(who), "role": role});
            let members = format!("/api/v1/rooms/{room}/members");
            host.post(&members, member).await?.expect(201)?;
        }
        Ok(room)
    }

    /// A job of the host's that is over and left a file.
    pub async fn done_job(&self, in_project: bool) -> anyhow::Result<String> {
        let cell = if in_project {
            &self.done_in_project
        } else {
            &self.done
        };
        let id = cell.get_or_try_init(async || {
            let mut body = json!({"language": "python", "source": LEAVES_A_FILE});
            if in_project {
                body["room_id"] = self.make_room("project").await?.into();
            }
            let host = self.rest("host");
            let id = id_of(&host.post("/api/v1/jobs", body).await?.expect(202)?)?;
            until("the job to be over", RUN_PATIENCE, async || {
                let job = host.get(&format!("/api/v1/jobs/{id}")).await?.expect(200)?;
                anyhow::ensure!(job["status"] == "succeeded", "{job}");
                Ok(())
            })
            .await?;
            anyhow::Ok(id)
        });
        id.await.cloned()
    }

    /// Somebody of this kind whom nobody needs afterwards.
    pub async fn somebody(&self, kind: &str) -> anyhow::Result<Person> {
        match kind {
            "guest" => self.here.guest(&fresh("g")).await,
            _ => self.here.register(&fresh("s"), PASSWORD).await,
        }
    }
}

/// The same token, signed as the server signs, with a time that is over.
fn run_out(token: &str) -> anyhow::Result<String> {
    let mut parts = token.split('.');
    let (Some(head), Some(claims)) = (parts.next(), parts.next()) else {
        anyhow::bail!("not a JWT")
    };
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    claims["exp"] = (claims["iat"].as_i64().context("iat")? - 60).into();
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes())?;
    mac.update(signed.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    Ok(format!("{signed}.{signature}"))
}
