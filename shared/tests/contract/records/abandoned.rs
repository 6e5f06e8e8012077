//! Callers who give up: wherever they do, the connection that comes back to the pool is in no transaction.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use atelier_shared::Mode;
use atelier_shared::domain::ids::RoomId;
use atelier_shared::domain::room::{Room, RoomChoice};
use libtest_mimic::Trial;
use sqlx::postgres::PgPool;

use super::{now, unique};
use crate::fixture::{self, Outcome, only};

pub fn trials(trials: &mut Vec<Trial>) {
    only(
        trials,
        Mode::Distributed,
        "records",
        "a_caller_who_gives_up_leaves_no_transaction_open",
        given_up,
    );
}

/// Gives up when `call` has waited `waits` times. True: it was done before.
async fn give_up_after<T>(waits: usize, call: impl Future<Output = T>) -> bool {
    let (mut call, mut waited) = (pin!(call), 0);
    poll_fn(|cx| {
        if waited == waits {
            return Poll::Ready(false);
        }
        match call.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending => {
                waited += 1;
                if waited == waits {
                    Poll::Ready(false)
                } else {
                    Poll::Pending
                }
            }
        }
    })
    .await
}

async fn given_up(mode: Mode) -> Outcome {
    let mut config = fixture::config(mode).await;
    let name = unique("abandoned");
    let mut url: url::Url = config.database_url.as_deref().unwrap_or_default().parse()?;
    let watcher = PgPool::connect(url.as_str()).await?;
    url.query_pairs_mut().append_pair("application_name", &name);
    config.database_url = Some(url.to_string());
    config.database_pool = 1;
    let records = fixture::open(config).await.records;
    let room = Room::new(RoomId::generate(), RoomChoice::default(), None, None, now());
    assert!(records.create_room(&room).await?);
    let mut through = 0;
    for waits in 1..40 {
        let touched = give_up_after(waits, records.touch_room(&room.id, now())).await;
        let read = give_up_after(waits, records.room(&room.id)).await;
        through += usize::from(touched && read);
        // What is rolled back or begun at this moment is over soon; what was forgotten stays.
        let mut looks = 0;
        loop {
            let (open,): (i64,) = sqlx::query_as(
                "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = $1 AND state LIKE 'idle in transaction%'",
            )
            .bind(&name)
            .fetch_one(&watcher)
            .await?;
            if open == 0 {
                break;
            }
            looks += 1;
            assert!(
                looks < 200,
                "given up after {waits}: a transaction stays open"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert!(through > 0, "nobody was ever through: it waits more often");
    // And what is written afterwards is there for everybody.
    let next = Room::new(RoomId::generate(), RoomChoice::default(), None, None, now());
    assert!(records.create_room(&next).await?);
    let seen: Option<(String,)> = sqlx::query_as("SELECT id FROM rooms WHERE id = $1")
        .bind(next.id.as_str())
        .fetch_optional(&watcher)
        .await?;
    assert!(seen.is_some());
    Ok(())
}
