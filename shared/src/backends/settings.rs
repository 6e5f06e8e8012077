//! What the settings of the stores must be, so that a mistake is refused by name before anything is opened.

use super::{OpenError, given};
use crate::config::StoreConfig;

const POSTGRES_SCHEMES: &[&str] = &["postgres", "postgresql"];
const MONGO_SCHEMES: &[&str] = &["mongodb", "mongodb+srv"];
/// What the Redis client knows, with and without TLS: one server, a cluster, sentinels.
const REDIS_SCHEMES: &[&str] = &[
    "redis",
    "rediss",
    "redis-cluster",
    "rediss-cluster",
    "redis-sentinel",
    "rediss-sentinel",
];

impl StoreConfig {
    /// Where files live, if it is said. `GCP_BUCKET_NAME` is another spelling of it.
    pub(super) fn files_url(&self) -> Result<Option<String>, OpenError> {
        let bucket = given(&self.gcp_bucket_name).map(|name| format!("gs://{name}"));
        match (given(&self.files_url), bucket) {
            (Some(url), Some(bucket)) if url.trim_end_matches('/') != bucket => {
                Err(OpenError::Setting {
                    setting: "GCP_BUCKET_NAME",
                    reason: format!(
                        "says {bucket}, but FILES_URL is set to something else: set one of them"
                    ),
                })
            }
            (Some(url), _) => Ok(Some(url.to_owned())),
            (None, bucket) => Ok(bucket),
        }
    }

    /// Which setting says where files live.
    pub(super) fn files_setting(&self) -> &'static str {
        match given(&self.files_url) {
            None if given(&self.gcp_bucket_name).is_some() => "GCP_BUCKET_NAME",
            _ => "FILES_URL",
        }
    }

    /// The Redis of queues and tokens, where it is not that of the rooms.
    pub(super) fn own_queue_url(&self) -> Option<&str> {
        let own = given(&self.redis_queue_url);
        own.filter(|own| given(&self.redis_url) != Some(own))
    }

    /// Which setting says where queues and tokens live.
    pub(super) fn queue_setting(&self) -> &'static str {
        match self.own_queue_url() {
            Some(_) => "REDIS_QUEUE_URL",
            None => "REDIS_URL",
        }
    }

    /// Refuses what would only fail later, or do harm.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let refuse = |setting, reason: &str| {
            Err(OpenError::Setting {
                setting,
                reason: reason.to_owned(),
            })
        };
        // Braces would move every key to another slot of a Redis Cluster.
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':');
        if self.redis_namespace.is_empty()
            || self.redis_namespace.len() > 64
            || !self.redis_namespace.bytes().all(word)
        {
            return refuse(
                "REDIS_NAMESPACE",
                "must have 1 to 64 of A-Z a-z 0-9 _ - . :",
            );
        }
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if self.db_name.is_empty() || self.db_name.len() > 63 || !self.db_name.bytes().all(word) {
            return refuse("DB_NAME", "must have 1 to 63 of A-Z a-z 0-9 _ -");
        }
        let urls: [(_, _, &[&str]); 5] = [
            ("DATABASE_URL", &self.database_url, POSTGRES_SCHEMES),
            (
                "DATABASE_READ_URL",
                &self.database_read_url,
                POSTGRES_SCHEMES,
            ),
            ("REDIS_URL", &self.redis_url, REDIS_SCHEMES),
            ("REDIS_QUEUE_URL", &self.redis_queue_url, REDIS_SCHEMES),
            ("MONGO_URL", &self.mongo_url, MONGO_SCHEMES),
        ];
        for (setting, url, schemes) in urls {
            let Some(url) = given(url) else { continue };
            let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
            if !schemes.contains(&scheme) {
                let reason = format!("must begin with {}://", schemes.join(":// or "));
                return refuse(setting, &reason);
            }
        }
        if self.database_pool == 0 {
            return refuse("DATABASE_POOL", "must be at least 1");
        }
        if self.room_tail_max == 0 {
            return refuse("ROOM_TAIL_MAX", "must be at least 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_another_kind_of_store_is_refused_by_its_setting() {
        let mut config = StoreConfig {
            database_url: Some("postgresql://h/d".into()),
            redis_url: Some("rediss-cluster://h".into()),
            mongo_url: Some("mongodb+srv://h".into()),
            ..StoreConfig::default()
        };
        config.check().unwrap();
        config.redis_queue_url = Some("http://h".into());
        let error = config.check().unwrap_err().to_string();
        assert!(
            error.starts_with("REDIS_QUEUE_URL: must begin with redis://"),
            "{error}"
        );
        config.database_url = Some("mysql://h/d".into());
        let error = config.check().unwrap_err().to_string();
        assert!(error.starts_with("DATABASE_URL: "), "{error}");
    }

    #[test]
    fn a_bucket_name_is_another_spelling_of_files_url() {
        let mut config = StoreConfig {
            gcp_bucket_name: Some("drawings".into()),
            ..StoreConfig::default()
        };
        assert_eq!(
            config.files_url().unwrap().as_deref(),
            Some("gs://drawings")
        );
        config.files_url = Some("gs://drawings/".into());
        assert!(config.files_url().is_ok());
        config.files_url = Some("s3://drawings".into());
        let error = config.files_url().unwrap_err().to_string();
        assert!(error.starts_with("GCP_BUCKET_NAME"), "{error}");
    }

    #[test]
    fn settings_that_would_do_harm_are_refused_by_name() {
        let refused = |change: fn(&mut StoreConfig)| {
            let mut config = StoreConfig::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(StoreConfig::default().check().is_ok());
        assert!(refused(|c| c.redis_namespace = "{a}".into()).starts_with("REDIS_NAMESPACE"));
        assert!(refused(|c| c.db_name = "a.b".into()).starts_with("DB_NAME"));
        assert!(refused(|c| c.database_pool = 0).starts_with("DATABASE_POOL"));
        assert!(refused(|c| c.room_tail_max = 0).starts_with("ROOM_TAIL_MAX"));
    }
}
