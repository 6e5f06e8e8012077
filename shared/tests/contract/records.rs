//! Promises of the Records port.

mod abandoned;
mod departures;
mod files;
mod insights;
mod invites;
pub mod jobs;
mod people;
mod places;
mod removals;
mod replica;
mod restores;
mod roles;
mod rooms;
mod silence;
pub mod visits;

use std::sync::Arc;

use atelier_shared::domain::ids::UserId;
use atelier_shared::domain::user::{NewUser, User, UserKind};
use chrono::{DateTime, SubsecRound, Utc};
use libtest_mimic::Trial;
use uuid::Uuid;

pub fn trials(trials: &mut Vec<Trial>) {
    abandoned::trials(trials);
    people::trials(trials);
    rooms::trials(trials);
    places::trials(trials);
    departures::trials(trials);
    roles::trials(trials);
    jobs::trials(trials);
    invites::trials(trials);
    files::trials(trials);
    insights::trials(trials);
    removals::trials(trials);
    replica::trials(trials);
    restores::trials(trials);
    silence::trials(trials);
    visits::trials(trials);
}

/// Now, as the store keeps it.
pub fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// A word that no other test uses: all share one database.
pub fn unique(word: &str) -> String {
    format!("{word}-{}", Uuid::new_v4().simple())
}

pub fn account(username: &str) -> NewUser {
    NewUser {
        user: User {
            id: UserId::generate(),
            kind: UserKind::Account,
            username: username.to_owned(),
            name: username.to_owned(),
            email: None,
            avatar_url: None,
            is_admin: false,
            created_at: now(),
        },
        password_hash: Some("$argon2id$one".to_owned()),
    }
}

/// Runs `count` calls at the same time and gives what each answered.
async fn at_once<T, F, R>(count: usize, call: F) -> Vec<T>
where
    T: Send + 'static,
    F: Fn(usize) -> R,
    R: Future<Output = T> + Send + 'static,
{
    let gate = Arc::new(tokio::sync::Barrier::new(count));
    let tasks: Vec<_> = (0..count)
        .map(|index| {
            let (gate, call) = (gate.clone(), call(index));
            tokio::spawn(async move {
                gate.wait().await;
                call.await
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.expect("a call that does not panic"));
    }
    answers
}
