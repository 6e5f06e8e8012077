//! Keyset pagination: `?limit=&cursor=` in, `{items, next_cursor}` out. A cursor is opaque to clients.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 200;
/// Longest cursor looked at; ours have about 120 characters.
const CURSOR_MAX_BYTES: usize = 512;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageParams {
    /// Most items to answer with, 1 to 200
    #[param(default = 50, minimum = 1, maximum = 200)]
    pub limit: Option<usize>,
    /// `next_cursor` of the page before
    pub cursor: Option<String>,
}

impl PageParams {
    pub fn limit(&self) -> Result<usize, Problem> {
        limit(self.limit)
    }

    /// Where the page starts; `None`: at the beginning.
    pub fn after<K: DeserializeOwned>(&self) -> Result<Option<K>, Problem> {
        let Some(cursor) = self.cursor.as_deref().filter(|cursor| !cursor.is_empty()) else {
            return Ok(None);
        };
        let refused = || Problem::invalid("cursor", "is not one that a list answered with");
        if cursor.len() > CURSOR_MAX_BYTES {
            return Err(refused());
        }
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| refused())?;
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|_| refused())
    }
}

/// 1 to 200; 50 where the client doesn't say.
pub fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    match asked.unwrap_or(LIMIT_DEFAULT) {
        limit @ 1..=LIMIT_MAX => Ok(limit),
        _ => Err(Problem::invalid(
            "limit",
            format!("must be 1 to {LIMIT_MAX}"),
        )),
    }
}

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Ask for the next page with it; `null`: this was the last
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A list that always fits one page.
    pub fn whole(items: Vec<T>) -> Self {
        Self {
            items,
            next_cursor: None,
        }
    }
}

/// What [`PageParams::after`] reads back.
pub fn cursor<K: Serialize>(key: &K) -> Option<String> {
    serde_json::to_vec(key)
        .ok()
        .map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_back_and_a_made_up_one_is_refused() {
        let params = |cursor: Option<String>| PageParams {
            limit: None,
            cursor,
        };
        let key = ("2026-01-01T00:00:00Z".to_owned(), 7_u32);
        let back = params(cursor(&key)).after::<(String, u32)>().unwrap();
        assert_eq!(back, Some(key));
        assert_eq!(params(None).after::<u32>().unwrap(), None);
        for bad in ["!", "aGVsbG8", &"A".repeat(600)] {
            let error = params(Some(bad.to_owned())).after::<u32>().unwrap_err();
            assert_eq!(error.field.as_deref(), Some("cursor"));
        }
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(limit(None).unwrap(), LIMIT_DEFAULT);
        assert!(limit(Some(0)).is_err() && limit(Some(201)).is_err());
    }
}
