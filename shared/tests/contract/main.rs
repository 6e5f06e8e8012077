//! Every promise of every port, run against both modes.
//!
//! Embedded always runs. Distributed needs DATABASE_URL, REDIS_URL and MONGO_URL (`deploy/local/services env`): without
//! them its tests show as ignored, or fail where `CI` or `ATELIER_REQUIRE_SERVICES` is set.

mod fixture;

fn main() {
    let args = libtest_mimic::Arguments::from_args();
    let trials: Vec<libtest_mimic::Trial> = Vec::new();
    libtest_mimic::run(&args, trials).exit();
}
