//! Every promise of every port, run against both modes.
//!
//! Embedded always runs. Distributed needs DATABASE_URL, REDIS_URL and MONGO_URL (`deploy/local/services env`): without
//! them its tests show as ignored, or fail where `CI` or `ATELIER_REQUIRE_SERVICES` is set.

mod archive;
mod files;
mod fixture;
mod live_output;
mod plans;
mod presence;
mod queue;
mod records;
mod recovery;
mod room_log;
mod stores;
mod vault;

fn main() {
    let args = libtest_mimic::Arguments::from_args();
    let mut trials: Vec<libtest_mimic::Trial> = Vec::new();
    archive::trials(&mut trials);
    files::trials(&mut trials);
    live_output::trials(&mut trials);
    plans::trials(&mut trials);
    presence::trials(&mut trials);
    queue::trials(&mut trials);
    recovery::trials(&mut trials);
    room_log::trials(&mut trials);
    records::trials(&mut trials);
    vault::trials(&mut trials);
    let conclusion = libtest_mimic::run(&args, trials);
    fixture::remove_stores();
    conclusion.exit();
}
