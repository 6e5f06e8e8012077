//! How SQLite and Postgres carry out the queries of Records (and SQLite those of the archive): by an index each. The
//! statements are those that the program sends, as sqlx logs them; MongoDB's are in `archive/plans.rs`.

mod postgres;
mod records;
pub mod seen;
mod sqlite;

use atelier_shared::Mode;
use libtest_mimic::Trial;

use crate::fixture::only;

pub fn trials(trials: &mut Vec<Trial>) {
    let embedded = Mode::Embedded;
    only(
        trials,
        embedded,
        "records",
        "no_query_walks_a_whole_table",
        sqlite::records,
    );
    only(
        trials,
        embedded,
        "archive",
        "no_query_walks_a_whole_table",
        sqlite::archive,
    );
    only(
        trials,
        Mode::Distributed,
        "records",
        "no_query_walks_a_whole_table",
        postgres::records,
    );
}
