//! What each field of a run may be: its sizes, its characters, and where it may lead.

use std::collections::{BTreeMap, BTreeSet};

use atelier_shared::domain::Invalid;
use atelier_shared::domain::job::{AskedLimits, JobSpec, SourceFile};
use atelier_shared::domain::language;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const FILES_MAX: usize = 64;
const PATH_MAX_BYTES: usize = 255;
pub const STDIN_MAX_BYTES: usize = 256 * 1024;
const ARGS_MAX: usize = 64;
const ARG_MAX_BYTES: usize = 4 * 1024;
const ENV_MAX: usize = 64;
const ENV_NAME_MAX_BYTES: usize = 128;
const ENV_VALUE_MAX_BYTES: usize = 4 * 1024;
const CALLBACK_MAX_BYTES: usize = 2_048;

/// Name, least and most of each limit that can be asked for. The worker cuts to its own ceilings, which may be lower.
type Bound = (&'static str, fn(&AskedLimits) -> Option<u64>, u64, u64);
const MIB: u64 = 1 << 20;
const LIMITS: [Bound; 6] = [
    ("limits.wall_ms", |l| l.wall_ms, 100, 300_000),
    ("limits.cpu_ms", |l| l.cpu_ms, 100, 300_000),
    (
        "limits.memory_bytes",
        |l| l.memory_bytes,
        16 * MIB,
        4096 * MIB,
    ),
    ("limits.pids", |l| l.pids, 1, 512),
    ("limits.output_bytes", |l| l.output_bytes, 1, 16 * MIB),
    ("limits.disk_bytes", |l| l.disk_bytes, MIB, 1024 * MIB),
];

pub fn check_files(files: &[SourceFile]) -> Result<(), Invalid> {
    if files.is_empty() {
        return Err(Invalid::new("files", "must not be empty"));
    }
    if files.len() > FILES_MAX {
        return Err(at_most("files", FILES_MAX, "files"));
    }
    let mut paths = BTreeSet::new();
    for file in files {
        check_path(&file.path)?;
        if !paths.insert(file.path.as_str()) {
            return Err(Invalid::new(
                "files.path",
                format!("\"{}\" stands twice", file.path),
            ));
        }
        match file.encoding.as_deref() {
            None | Some("utf8") => {}
            Some("base64") => {
                STANDARD
                    .decode(&file.content)
                    .map_err(|_| Invalid::new("files.content", "is not base64"))?;
            }
            Some(_) => return Err(Invalid::new("files.encoding", "must be utf8 or base64")),
        }
    }
    // `a` can't be a file and the folder of `a/b`.
    let folder_too = paths
        .iter()
        .find(|path| paths.iter().any(|other| is_inside(other, path)));
    if let Some(path) = folder_too {
        return Err(Invalid::new(
            "files.path",
            format!("\"{path}\" is a file and a folder"),
        ));
    }
    Ok(())
}

fn is_inside(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.starts_with('/'))
}

fn check_path(path: &str) -> Result<(), Invalid> {
    if path.is_empty() || path.len() > PATH_MAX_BYTES {
        return Err(Invalid::new(
            "files.path",
            format!("must have 1 to {PATH_MAX_BYTES} bytes"),
        ));
    }
    let plain = path
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..");
    if !plain || path.contains('\\') || path.chars().any(char::is_control) {
        return Err(Invalid::new(
            "files.path",
            "must be relative, with plain names between its slashes",
        ));
    }
    // It may stand first among a tool's arguments.
    if path.starts_with('-') {
        return Err(Invalid::new("files.path", "must not begin with -"));
    }
    Ok(())
}

pub fn check_args(args: &[String]) -> Result<(), Invalid> {
    if args.len() > ARGS_MAX {
        return Err(at_most("args", ARGS_MAX, "arguments"));
    }
    args.iter().try_for_each(|arg| {
        if arg.len() > ARG_MAX_BYTES {
            return Err(at_most("args", ARG_MAX_BYTES, "bytes in each"));
        }
        no_nul("args", arg)
    })
}

pub fn check_env(env: &BTreeMap<String, String>) -> Result<(), Invalid> {
    if env.len() > ENV_MAX {
        return Err(at_most("env", ENV_MAX, "variables"));
    }
    for (name, value) in env {
        let named = name.len() <= ENV_NAME_MAX_BYTES
            && name.bytes().enumerate().all(|(at, b)| {
                b == b'_' || b.is_ascii_alphabetic() || (at > 0 && b.is_ascii_digit())
            })
            && !name.is_empty();
        if !named {
            return Err(Invalid::new(
                "env",
                "names are A-Z a-z 0-9 _ and don't begin with a digit",
            ));
        }
        if value.len() > ENV_VALUE_MAX_BYTES {
            return Err(at_most("env", ENV_VALUE_MAX_BYTES, "bytes in each value"));
        }
        no_nul("env", value)?;
    }
    Ok(())
}

/// Refuses what no worker grants. Each limit of `ceilings` is one worker's; a limit that none of them names is not refused.
pub fn within(asked: &AskedLimits, ceilings: &[AskedLimits]) -> Result<(), Invalid> {
    for (field, limit, least, _) in LIMITS {
        let most = ceilings.iter().filter_map(limit).max();
        if let (Some(value), Some(most)) = (limit(asked), most)
            && value > most
        {
            return Err(Invalid::new(
                field,
                format!("must be {least} to {most} here"),
            ));
        }
    }
    Ok(())
}

/// Refuses a version that no worker has of its language. `found`: what the workers have of it; of a language that nobody
/// has now, nobody knows.
pub fn version_is_here(spec: &JobSpec, found: &BTreeSet<String>) -> Result<(), Invalid> {
    let Some(wanted) = &spec.version else {
        return Ok(());
    };
    let here = found
        .iter()
        .any(|version| language::is_version(version, wanted));
    if here || found.is_empty() {
        return Ok(());
    }
    let versions: Vec<&str> = found.iter().map(String::as_str).collect();
    Err(Invalid::new(
        "version",
        format!("must be {} or the beginning of it", versions.join(", ")),
    ))
}

pub fn check_limits(limits: &AskedLimits) -> Result<(), Invalid> {
    for (field, asked, least, most) in LIMITS {
        if asked(limits).is_some_and(|value| !(least..=most).contains(&value)) {
            return Err(Invalid::new(field, format!("must be {least} to {most}")));
        }
    }
    Ok(())
}

/// Where it leads is looked at when it is called.
pub fn check_callback(url: &str) -> Result<(), Invalid> {
    const FIELD: &str = "callback_url";
    if url.len() > CALLBACK_MAX_BYTES {
        return Err(at_most(FIELD, CALLBACK_MAX_BYTES, "bytes"));
    }
    let parsed = url::Url::parse(url).map_err(|error| Invalid::new(FIELD, error.to_string()))?;
    if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
        return Err(Invalid::new(FIELD, "must be an http or https URL"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(Invalid::new(FIELD, "must not hold a user name or password"));
    }
    Ok(())
}

pub fn text(field: &'static str, text: &str, least: usize, most: usize) -> Result<(), Invalid> {
    if !(least..=most).contains(&text.len()) || text.chars().any(char::is_control) {
        return Err(Invalid::new(
            field,
            format!("must have {least} to {most} plain characters"),
        ));
    }
    Ok(())
}

fn no_nul(field: &'static str, text: &str) -> Result<(), Invalid> {
    if text.contains('\0') {
        return Err(Invalid::new(field, "must not hold a NUL character"));
    }
    Ok(())
}

pub fn at_most(field: &'static str, most: usize, of: &str) -> Invalid {
    Invalid::new(field, format!("at most {most} {of}"))
}
