//! What a client may ask to be run: every field checked and bounded before anything is stored.

use std::collections::BTreeMap;

use atelier_shared::domain::Invalid;
use atelier_shared::domain::ids::RoomId;
use atelier_shared::domain::job::{AskedLimits, JobSpec, SourceFile};
use atelier_shared::domain::language;
use atelier_shared::domain::objects;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;
use uuid::Uuid;

use super::bounds::{
    STDIN_MAX_BYTES, at_most, check_args, check_callback, check_env, check_files, check_limits,
    text,
};

const VERSION_MAX_BYTES: usize = 32;
const PRIORITY_MAX: i16 = 100;

/// Code to run: `source`, or `files`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"language": "python", "source": "print(6*7)"}))]
pub struct NewJob {
    /// A name or alias of `GET /languages`
    #[schema(example = "python")]
    language: String,
    /// A version that a worker has (`GET /languages`), or the beginning of one (`3`, `3.11`); any where absent
    version: Option<String>,
    /// One file's text, instead of `files`
    #[schema(example = "print(6*7)")]
    source: Option<String>,
    #[serde(default, deserialize_with = "objects::perhaps_many")]
    files: Option<Vec<FileBody>>,
    /// Path of the file to run; where absent the language's own (`main.py`, `main.c`, …), else the first
    entrypoint: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<String>)]
    stdin: String,
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<Vec<String>>)]
    args: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    env: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "objects::one_or_default")]
    #[schema(value_type = Option<LimitsBody>)]
    limits: AskedLimits,
    /// Only `false`: there is no network in the sandbox
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<bool>)]
    network: bool,
    /// A room whose people see it start and finish; needs editor there
    #[schema(value_type = Option<String>)]
    pub room_id: Option<RoomId>,
    /// A project that you may edit, whose turns in the queue it takes instead of yours
    pub project_id: Option<Uuid>,
    /// An http or https URL that the result is posted to; not one of a private network
    #[schema(example = "https://example.com/results")]
    callback_url: Option<String>,
    /// -100 to 100 among your own jobs, greater first
    #[serde(default, deserialize_with = "or_default")]
    #[schema(value_type = Option<i16>)]
    priority: i16,
}

/// `null` is as good as absent.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A source file.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FileBody {
    /// Relative, without `..`
    #[schema(example = "main.py")]
    path: String,
    #[schema(example = "print(6*7)")]
    content: String,
    /// `utf8` or `base64`
    encoding: Option<String>,
}

/// Absent limits are the language's own.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents AskedLimits")]
pub struct LimitsBody {
    /// Milliseconds, 100 to 300000
    #[schema(example = 15000)]
    wall_ms: Option<u64>,
    /// Milliseconds summed over all processes, 100 to 300000
    cpu_ms: Option<u64>,
    /// 16 MiB to 4 GiB
    memory_bytes: Option<u64>,
    /// 1 to 512
    pids: Option<u64>,
    /// 1 to 16 MiB
    output_bytes: Option<u64>,
    /// 1 MiB to 1 GiB
    disk_bytes: Option<u64>,
}

impl NewJob {
    /// What a `run` message may say.
    pub fn in_a_room(
        language: String,
        source: Option<String>,
        files: Option<Vec<FileBody>>,
        stdin: String,
    ) -> Self {
        Self {
            language,
            version: None,
            source,
            files,
            entrypoint: None,
            stdin,
            args: Vec::new(),
            env: BTreeMap::new(),
            limits: AskedLimits::default(),
            network: false,
            room_id: None,
            project_id: None,
            callback_url: None,
            priority: 0,
        }
    }

    /// The job's immutable description and its priority.
    pub fn check(self) -> Result<(JobSpec, i16), Invalid> {
        let language = language::find(&self.language).ok_or_else(|| {
            let known: Vec<&str> = language::LANGUAGES.iter().map(|l| l.name).collect();
            Invalid::new("language", format!("must be one of: {}", known.join(", ")))
        })?;
        if let Some(version) = &self.version {
            text("version", version, 1, VERSION_MAX_BYTES)?;
        }
        let files = match (self.source, self.files) {
            (Some(source), None) => vec![SourceFile {
                path: self
                    .entrypoint
                    .clone()
                    .unwrap_or_else(|| language.entry_file.to_owned()),
                content: source,
                encoding: None,
            }],
            (None, Some(files)) => files.into_iter().map(SourceFile::from).collect(),
            (Some(_), Some(_)) => {
                return Err(Invalid::new(
                    "source",
                    "give either source or files, not both",
                ));
            }
            (None, None) => return Err(Invalid::new("source", "give source or files")),
        };
        check_files(&files)?;
        if let Some(entry) = &self.entrypoint
            && !files.iter().any(|file| file.path == *entry)
        {
            return Err(Invalid::new("entrypoint", "is none of the files"));
        }
        if self.network {
            return Err(Invalid::new(
                "network",
                "must be false: there is no network in the sandbox",
            ));
        }
        if self.stdin.len() > STDIN_MAX_BYTES {
            return Err(at_most("stdin", STDIN_MAX_BYTES, "bytes"));
        }
        check_args(&self.args)?;
        check_env(&self.env)?;
        check_limits(&self.limits)?;
        if let Some(url) = &self.callback_url {
            check_callback(url)?;
        }
        if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&self.priority) {
            return Err(Invalid::new(
                "priority",
                format!("must be -{PRIORITY_MAX} to {PRIORITY_MAX}"),
            ));
        }
        let spec = JobSpec {
            language: language.name.to_owned(),
            version: self.version,
            files,
            entrypoint: self.entrypoint,
            stdin: self.stdin,
            args: self.args,
            env: self.env,
            limits: self.limits,
            callback_url: self.callback_url,
        };
        Ok((spec, self.priority))
    }
}

impl From<FileBody> for SourceFile {
    fn from(file: FileBody) -> Self {
        Self {
            path: file.path,
            content: file.content,
            encoding: file.encoding,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::super::bounds::{version_is_here, within};
    use super::*;

    #[test]
    fn struck_requests_and_callback_urls_are_taken_or_refused() {
        let samples = crate::fuzz::texts(&[
            "https://example.com:8443/results?x=1#y",
            "http://[::1]/",
            "http://127.0.0.1/",
            "https://user:word@example.com/",
            "https://ex\u{e4}mple.com/%2e%2e/",
        ]);
        crate::fuzz::strike(&samples, |input| {
            let text = String::from_utf8_lossy(input);
            if check_callback(&text).is_ok() {
                let url = url::Url::parse(&text).unwrap();
                assert!(matches!(url.scheme(), "http" | "https"));
                assert!(url.has_host() && url.username().is_empty() && url.password().is_none());
            }
        });
        let samples = crate::fuzz::texts(&[
            r#"{"language":"python","source":"print(1)","stdin":"x","args":["a"],"env":{"A":"1"},"limits":{"wall_ms":1000},"priority":5}"#,
            r#"{"language":"rust","files":[{"path":"src/main.rs","content":"Zg==","encoding":"base64"}],"entrypoint":"src/main.rs","callback_url":"https://example.com/"}"#,
        ]);
        crate::fuzz::strike(&samples, |input| {
            if let Ok(job) = serde_json::from_slice::<NewJob>(input) {
                let _ = job.check();
            }
        });
    }

    fn check(body: Value) -> Result<(JobSpec, i16), Invalid> {
        serde_json::from_value::<NewJob>(body).unwrap().check()
    }

    fn refused(body: Value) -> String {
        check(body).unwrap_err().field.into_owned()
    }

    #[test]
    fn a_source_becomes_the_entry_file_of_its_language() {
        let (spec, priority) = check(json!({"language": "JS", "source": "1"})).unwrap();
        assert_eq!(spec.language, "javascript");
        assert_eq!(spec.files[0].path, "main.js");
        assert_eq!(priority, 0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |field: &str, value: Value| {
            let mut body = json!({"language": "python", "source": "1"});
            body[field] = value;
            body
        };
        assert_eq!(
            refused(json!({"language": "cobol", "source": "1"})),
            "language"
        );
        assert_eq!(refused(json!({"language": "python"})), "source");
        assert_eq!(refused(with("files", json!([]))), "source");
        assert_eq!(refused(with("network", json!(true))), "network");
        assert_eq!(refused(with("priority", json!(101))), "priority");
        assert_eq!(refused(with("args", json!(["\0"]))), "args");
        assert_eq!(refused(with("env", json!({"1A": "x"}))), "env");
        assert_eq!(refused(with("env", json!({"": "x"}))), "env");
        assert_eq!(
            refused(with("stdin", json!("x".repeat(STDIN_MAX_BYTES + 1)))),
            "stdin"
        );
        assert_eq!(
            refused(with("limits", json!({"wall_ms": 0}))),
            "limits.wall_ms"
        );
        assert_eq!(
            refused(with("limits", json!({"memory_bytes": 1_u64 << 40}))),
            "limits.memory_bytes"
        );
        assert_eq!(refused(with("entrypoint", json!("../x.py"))), "files.path");
        for url in [
            "x",
            "/results",
            "ftp://example.com/",
            "file:///etc/passwd",
            "https://user:word@example.com/",
            &format!("https://example.com/{}", "x".repeat(2_048)),
        ] {
            assert_eq!(refused(with("callback_url", json!(url))), "callback_url");
        }
    }

    #[test]
    fn null_is_as_good_as_absent() {
        let nothing = json!({
            "language": "python", "source": "1", "version": null, "files": null, "entrypoint": null, "stdin": null,
            "args": null, "env": null, "limits": null, "network": null, "room_id": null, "project_id": null,
            "callback_url": null, "priority": null,
        });
        let plain = check(json!({"language": "python", "source": "1"})).unwrap();
        assert_eq!(check(nothing).unwrap(), plain);
    }

    #[test]
    fn a_version_that_no_worker_has_is_refused_by_name() {
        let found = BTreeSet::from(["3.11.2".to_owned()]);
        for (wanted, fine) in [
            (json!("3"), true),
            (json!("3.11"), true),
            (json!("v3.11.2"), true),
            (json!(null), true),
            (json!("3.1"), false),
            (json!("2.7"), false),
        ] {
            let body = json!({"language": "python", "source": "1", "version": wanted});
            let (spec, _) = check(body).unwrap();
            assert_eq!(version_is_here(&spec, &found).is_ok(), fine, "{wanted}");
            assert!(version_is_here(&spec, &BTreeSet::new()).is_ok());
        }
    }

    #[test]
    fn what_no_worker_grants_is_refused_by_name() {
        let of = |wall_ms| AskedLimits {
            wall_ms: Some(wall_ms),
            ..AskedLimits::default()
        };
        let refused = within(&of(61), &[of(10), of(60)]).unwrap_err();
        assert_eq!(refused.field, "limits.wall_ms");
        assert!(refused.reason.contains("60"), "{}", refused.reason);
        assert!(within(&of(60), &[of(10), of(60)]).is_ok());
        assert!(within(&of(61), &[]).is_ok(), "nobody has said");
        assert!(within(&of(61), &[AskedLimits::default()]).is_ok());
    }

    #[test]
    fn files_stay_inside_and_stand_once() {
        let files = |files: Value| json!({"language": "python", "files": files});
        let file = |path: &str| json!({"path": path, "content": "1"});
        assert!(check(files(json!([file("main.py"), file("lib/a.py")]))).is_ok());
        for bad in [
            "",
            "/a",
            "a//b",
            "../a",
            "a/..",
            "./a",
            "a\\b",
            "a\nb",
            "-x",
            &"a".repeat(256),
        ] {
            assert_eq!(refused(files(json!([file(bad)]))), "files.path", "{bad}");
        }
        assert_eq!(refused(files(json!([file("a"), file("a")]))), "files.path");
        assert_eq!(
            refused(files(json!([file("a"), file("a/b")]))),
            "files.path"
        );
        assert_eq!(refused(files(json!([]))), "files");
        let encoded = json!({"path": "a", "content": "*", "encoding": "base64"});
        assert_eq!(refused(files(json!([encoded]))), "files.content");
        let mut body = files(json!([file("a.py")]));
        body["entrypoint"] = json!("b.py");
        assert_eq!(refused(body), "entrypoint");
    }
}
