//! Turns the `.sql` files of one database into a migrator: numbered in the order given, each applied once.

use std::borrow::Cow;

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// `scripts` are `(what it does, its SQL by include_str!)`, the oldest first; one that was applied anywhere never changes.
pub fn migrator(scripts: &[(&'static str, &'static str)]) -> Migrator {
    let migrations = (1..).zip(scripts).map(|(version, (description, sql))| {
        Migration::new(
            version,
            Cow::Borrowed(description),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    });
    Migrator::with_migrations(migrations.collect())
}
