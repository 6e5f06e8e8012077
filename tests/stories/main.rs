//! The stories of Atelier: its own processes, real sockets, both modes, and what PROTOCOL.md and API.md promise.
//!
//! Embedded stories always run. Distributed ones need what `deploy/local/services env` prints: without it they show as
//! ignored, or fail where `CI` or `ATELIER_REQUIRE_SERVICES` is set. A failed story leaves its logs in
//! `target/tmp/stories/<name>`.

mod archive;
mod authorisation;
mod backups;
mod boards;
mod cleanup;
mod company;
mod crashes;
mod delivery;
mod document_losses;
mod documents;
mod drawing_order;
mod figures_of_teams;
mod harness;
mod idempotency;
mod insights;
mod invites;
mod job_callbacks;
mod job_crashes;
mod job_output;
mod jobs;
mod limits;
mod logins;
mod losses;
mod messages;
mod metrics;
mod model;
mod names;
mod odd_requests;
mod openapi;
mod operations;
mod people;
mod places;
mod reference_clients;
mod reference_rest;
mod refusals;
mod rooms;
mod slow_readers;
mod standing;
mod starting;
mod third_party;
mod unjoined;
mod uploads;
mod visits;

/// Stories told at once where nothing else is asked for: most of their time they wait.
const AT_ONCE: usize = 4;

fn main() {
    let mut args = libtest_mimic::Arguments::from_args();
    args.test_threads.get_or_insert(AT_ONCE);
    let mut stories = harness::Stories::default();
    logins::stories(&mut stories);
    crashes::stories(&mut stories);
    losses::stories(&mut stories);
    model::stories(&mut stories);
    jobs::stories(&mut stories);
    job_crashes::stories(&mut stories);
    job_output::stories(&mut stories);
    job_callbacks::stories(&mut stories);
    idempotency::stories(&mut stories);
    archive::stories(&mut stories);
    authorisation::stories(&mut stories);
    boards::stories(&mut stories);
    drawing_order::stories(&mut stories);
    backups::stories(&mut stories);
    starting::stories(&mut stories);
    rooms::stories(&mut stories);
    places::stories(&mut stories);
    people::stories(&mut stories);
    figures_of_teams::stories(&mut stories);
    insights::stories(&mut stories);
    reference_clients::stories(&mut stories);
    reference_rest::stories(&mut stories);
    company::stories(&mut stories);
    documents::stories(&mut stories);
    document_losses::stories(&mut stories);
    delivery::stories(&mut stories);
    slow_readers::stories(&mut stories);
    refusals::stories(&mut stories);
    odd_requests::stories(&mut stories);
    openapi::stories(&mut stories);
    operations::stories(&mut stories);
    messages::stories(&mut stories);
    standing::stories(&mut stories);
    invites::stories(&mut stories);
    uploads::stories(&mut stories);
    limits::stories(&mut stories);
    cleanup::stories(&mut stories);
    metrics::stories(&mut stories);
    names::stories(&mut stories);
    unjoined::stories(&mut stories);
    visits::stories(&mut stories);
    third_party::stories(&mut stories);
    let told = libtest_mimic::run(&args, stories.trials());
    let ended = harness::story::end_all();
    if let Err(error) = &ended {
        eprintln!("the shared processes did not end well: {error:#}");
    }
    if told.has_failed() || ended.is_err() {
        std::process::exit(101);
    }
}
