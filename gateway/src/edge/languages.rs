//! `/languages`: what can be run.

use std::collections::{BTreeMap, BTreeSet};

use atelier_shared::domain::language::LANGUAGES;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::page::Page;
use super::problem::Problem;
use super::refusals::Failures;
use super::state::App;

/// A language, and whether a worker has it now.
#[derive(Debug, Serialize, ToSchema)]
pub struct LanguageView {
    #[schema(example = "python")]
    name: &'static str,
    #[schema(example = "Python")]
    label: &'static str,
    #[schema(example = json!(["python3", "py"]))]
    aliases: &'static [&'static str],
    /// Where a job's `source` goes
    #[schema(example = "main.py")]
    entry_file: &'static str,
    /// Some worker can run it right now
    available: bool,
    /// Versions that the workers have
    #[schema(example = json!(["3.11.2"]))]
    versions: Vec<String>,
}

/// Every language there is, with what the workers have of it.
#[utoipa::path(get, path = "/languages", tag = "jobs", responses(
    (status = 200, description = "Languages", body = Page<LanguageView>), Failures,
))]
pub async fn languages(State(app): State<App>) -> Result<Json<Page<LanguageView>>, Problem> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for worker in app.backends.queue.workers().await? {
        for (name, version) in worker.languages {
            found.entry(name).or_default().insert(version);
        }
    }
    let items = LANGUAGES.iter().map(|language| {
        let versions = found.remove(language.name);
        LanguageView {
            name: language.name,
            label: language.label,
            aliases: language.aliases,
            entry_file: language.entry_file,
            available: versions.is_some(),
            versions: versions.unwrap_or_default().into_iter().collect(),
        }
    });
    Ok(Json(Page::whole(items.collect())))
}
