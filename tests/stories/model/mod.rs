//! The model test: random clients in random rooms while processes die, stores lose their memory and archives stall, from a
//! seed. After each round every client's view must be what the log adds up to, and the log must hold what it promised.
//!
//! A run of all stories plays a few fixed seeds; `MODEL_SEED` one, `MODEL_ROUNDS` that many that nobody chose (`make model`). A failure
//! names its seed and shows what was about it.

mod board;
mod deeds;
mod history;
mod member;
mod plan;
mod stage;
mod told;
mod verdict;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use rand::Rng;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::harness::{Mode, Rest, Stories, Story, Told, fresh};
use history::History;
use member::Member;
use plan::{Plan, Step};
use stage::Stage;
use verdict::{Log, Newcomer};

/// The rounds of one run of all stories, by their seeds: of the many that were played, some that found a fault.
const EMBEDDED: [u64; 3] = [1, 2, 3];
const DISTRIBUTED: [u64; 3] = [2, 7, 15];
/// A round that takes longer is stuck.
const ROUND: Duration = Duration::from_secs(400);

pub fn stories(all: &mut Stories) {
    all.both(random_rooms_keep_every_promise);
}

fn seeds(mode: Mode) -> anyhow::Result<Vec<u64>> {
    let number = |name: &str| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty());
        value
            .map(|value| value.parse::<u64>().with_context(|| name.to_owned()))
            .transpose()
    };
    if let Some(seed) = number("MODEL_SEED")? {
        return Ok(vec![seed]);
    }
    match number("MODEL_ROUNDS")? {
        None => Ok(match mode {
            Mode::Embedded => EMBEDDED.to_vec(),
            Mode::Distributed => DISTRIBUTED.to_vec(),
        }),
        Some(rounds) => {
            let mut random = rand::rng();
            Ok((0..rounds).map(|_| random.random::<u32>().into()).collect())
        }
    }
}

async fn random_rooms_keep_every_promise(story: Story) -> Told {
    let stage = Arc::new(Stage::build(&story).await?);
    for seed in seeds(story.mode())? {
        let plan = Plan::new(seed, story.mode());
        if std::env::var_os("MODEL_ROUNDS").is_some() {
            eprintln!("model: {:?} MODEL_SEED={seed}", story.mode());
        }
        let round = timeout(ROUND, play(&stage, &plan)).await;
        round
            .unwrap_or_else(|_| Err(anyhow::anyhow!("stuck for {ROUND:?}")))
            .with_context(|| format!("MODEL_SEED={seed}, {:?}", plan.strikes))?;
    }
    Ok(())
}

/// All rooms of a round, and its misfortunes.
async fn play(stage: &Arc<Stage>, plan: &Plan) -> Told {
    let history = Arc::new(History::new());
    let (over, is_over) = watch::channel(false);
    let strikes = async {
        for strike in &plan.strikes {
            stage.strike(strike, &history).await?;
        }
        over.send_replace(true);
        anyhow::Ok(())
    };
    let rooms = plan.rooms.iter().enumerate().map(|(at, steps)| {
        let (history, is_over) = (&history, &is_over);
        async move {
            let name = format!("r{at}");
            let seed = plan.seed ^ ((at as u64 + 1) << 32);
            let lived = live(stage, &name, (steps, seed), is_over, history).await;
            lived.map_err(|error| {
                let problem = format!("{error:#}");
                let about = history.about(&problem, &format!("{name}."));
                anyhow::anyhow!("{problem}\n{about}")
            })
        }
    });
    tokio::try_join!(strikes, try_join_all(rooms)).map(|_| ())
}

/// One room from its first member's coming to the verdict.
async fn live(
    stage: &Arc<Stage>,
    name: &str,
    (steps, seed): (&[Vec<Step>], u64),
    is_over: &watch::Receiver<bool>,
    history: &Arc<History>,
) -> Told {
    let room = fresh("model");
    let people = Arc::new(Mutex::new(BTreeMap::new()));
    let mut members: Vec<Member> = (0..steps.len())
        .map(|at| {
            let who = (room.as_str(), format!("{name}.m{at}"), at);
            Member::new(who, seed, stage, history, &people)
        })
        .collect();
    try_join_all(
        members
            .iter_mut()
            .zip(steps)
            .map(|(member, steps)| member.live(steps)),
    )
    .await?;
    history.note(name, "everybody has said everything");
    // What is lost from here on would be lost of what is compared.
    let over = |_: &Member| *is_over.borrow();
    let waiting = members
        .iter_mut()
        .map(|m| m.until("the end of it all", over));
    try_join_all(waiting).await?;
    settle(&mut members).await?;
    // One more word of each, which everybody hears: then all have heard all.
    members.iter_mut().for_each(Member::chat);
    settle(&mut members).await?;
    let last = members.iter().filter_map(Member::last_of_own).max();
    let last = last.context("nobody wrote anything")?;
    try_join_all(
        members
            .iter_mut()
            .map(|member| member.until("the last entry", move |m| m.place.1 >= last)),
    )
    .await?;
    see_each_other(&mut members).await?;
    one_leaves(&mut members).await?;
    let newcomer = stage.door(&room, 1).enter().await?;
    let newcomer = Newcomer::of(&newcomer).await?;
    let log = Log::read(&mut members).await?;
    log.check_entries(&members)?;
    log.check_hearing(&members)?;
    log.check_state(&members, &newcomer)?;
    log.check_messages(&Rest::at(stage.cluster().here()), &room)
        .await
}

/// Everything that anybody wrote is archived.
async fn settle(members: &mut [Member]) -> Told {
    loop {
        let safe = |member: &Member| member.is_safe();
        try_join_all(
            members
                .iter_mut()
                .map(|m| m.until("what it wrote to be safe", safe)),
        )
        .await?;
        // A reload of one while another was waited for makes unsafe again.
        if members.iter().all(Member::is_safe) {
            return Ok(());
        }
    }
}

/// Each sees all the others here, and nobody else.
async fn see_each_other(members: &mut [Member]) -> Told {
    let all: BTreeSet<String> = members.iter().map(|m| m.client_id.clone()).collect();
    let sees_all = |member: &Member| {
        let mut seen = member.view.people.clone();
        seen.insert(member.client_id.clone());
        seen == all
    };
    loop {
        try_join_all(
            members
                .iter_mut()
                .map(|m| m.until("the others to be here", &sees_all)),
        )
        .await?;
        if members.iter().all(sees_all) {
            return Ok(());
        }
    }
}

/// One goes: everybody else is told, once.
async fn one_leaves(members: &mut [Member]) -> Told {
    let Some((leaver, others)) = members.split_last_mut() else {
        return Ok(());
    };
    let gone = leaver.client_id.clone();
    leaver.leave().await?;
    let told = |member: &Member| member.view.leaves.get(&gone).copied().unwrap_or(0);
    try_join_all(others.iter_mut().map(|m| {
        let gone = gone.clone();
        m.until("a leave to be told", move |m| {
            !m.view.people.contains(&gone)
        })
    }))
    .await?;
    for member in &*others {
        ensure!(
            told(member) >= 1,
            "{} was never told that {gone} left",
            member.name
        );
    }
    Ok(())
}
