//! Which languages this machine can run: found on its disk, tried in a box, and turned into programs.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use atelier_shared::domain::job::{JobSpec, SourceFile};
use atelier_shared::domain::language::{self, LANGUAGES, Language, TOOL_FOLDERS, Toolchain};
use base64::Engine as _;
use bytes::Bytes;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    Limits, Outcome, OutputSink, Program, ProgramFile, Sandbox, SandboxError, Step, Verdict,
    exhausted, package,
};

const MIB: u64 = 1024 * 1024;

/// One language on this machine.
#[derive(Debug, Clone, Serialize)]
pub struct FoundLanguage {
    pub name: &'static str,
    pub label: &'static str,
    pub aliases: &'static [&'static str],
    pub entry_file: &'static str,
    /// `None` when it is absent.
    pub version: Option<String>,
    /// The tool whose version that is.
    pub path: Option<String>,
    /// Why it is absent.
    pub missing: Option<String>,
    #[serde(skip)]
    located: Option<Located>,
}

/// A toolchain on the disk.
#[derive(Debug, Clone)]
struct Located {
    language: &'static Language,
    toolchain: &'static Toolchain,
    tools: Vec<(&'static str, String)>,
}

/// All languages of the table, present or not.
#[derive(Debug, Clone)]
pub struct Toolchains {
    languages: Vec<FoundLanguage>,
}

impl Toolchains {
    /// Looks for every language and asks what is found for its version inside a box: only what answers there is present.
    ///
    /// # Errors
    /// When the sandbox itself fails.
    pub async fn discover(sandbox: &dyn Sandbox) -> Result<Self, SandboxError> {
        let tries = LANGUAGES.iter().map(|language| discover(sandbox, language));
        let languages = futures::future::try_join_all(tries).await?;
        Ok(Self { languages })
    }

    /// Every row of the table, in its order.
    pub fn languages(&self) -> &[FoundLanguage] {
        &self.languages
    }

    /// `(name, version)` of those that are present.
    pub fn present(&self) -> Vec<(String, String)> {
        let pair = |found: &FoundLanguage| Some((found.name.to_owned(), found.version.clone()?));
        self.languages.iter().filter_map(pair).collect()
    }

    /// Makes a job into a program: names filled in, limits taken from the language, then the job, then cut to `ceiling`.
    ///
    /// # Errors
    /// [`SandboxError::Invalid`] with the field of the job: an unknown or absent language, another version, bad base64.
    pub fn program(&self, job: &JobSpec, ceiling: &Limits) -> Result<Program, SandboxError> {
        let unknown =
            || SandboxError::invalid("language", format!("`{}` is not known", job.language));
        let row = language::find(&job.language).ok_or_else(unknown)?;
        let found = self
            .languages
            .iter()
            .find(|found| found.name == row.name)
            .ok_or_else(unknown)?;
        let (Some(located), Some(version)) = (&found.located, &found.version) else {
            let reason = found.missing.as_deref().unwrap_or("absent");
            return Err(SandboxError::invalid(
                "language",
                format!("`{}` is not available here: {reason}", row.name),
            ));
        };
        if let Some(wanted) = &job.version
            && !language::is_version(version, wanted)
        {
            return Err(SandboxError::invalid(
                "version",
                format!("{} {version} is here, not {wanted}", row.name),
            ));
        }
        let files = job
            .files
            .iter()
            .enumerate()
            .map(|(index, file)| decode(index, file));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let first = files
            .first()
            .ok_or_else(|| SandboxError::invalid("files", "is empty"))?;
        // Where none is named: the language's own, else the first.
        let usual = files.iter().find(|file| file.path == row.entry_file);
        let entry = job
            .entrypoint
            .as_deref()
            .unwrap_or(&usual.unwrap_or(first).path)
            .to_owned();
        if files.iter().all(|file| file.path != entry) {
            return Err(SandboxError::invalid(
                "entrypoint",
                format!("`{entry}` is none of the files"),
            ));
        }
        Ok(located.program(job, files, &entry, ceiling))
    }
}

impl Toolchains {
    /// A runtime that gave up because its own heap was full ran out of memory, though the box had not killed it. Its words and
    /// its end count only where the kernel saw half of that heap in use. `memory_bytes`: the run's limit.
    pub fn judge(&self, job: &JobSpec, memory_bytes: u64, outcome: &mut Outcome) {
        let row = language::find(&job.language).map(|row| row.name);
        let found = self.languages.iter().find(|found| Some(found.name) == row);
        let located = found.and_then(|found| found.located.as_ref());
        let how = located.and_then(|located| located.toolchain.exhausted);
        if let (Some(how), Some(step)) = (how, &mut outcome.run) {
            exhausted::judge(how, exhausted::heap_bytes(memory_bytes), step);
        }
    }
}

impl Located {
    fn program(
        &self,
        job: &JobSpec,
        files: Vec<ProgramFile>,
        entry: &str,
        ceiling: &Limits,
    ) -> Program {
        let defaults = self.toolchain.defaults;
        let usual = Limits {
            memory_bytes: defaults.memory_mb * MIB,
            disk_bytes: defaults.disk_mb * MIB,
            ..Limits::default()
        };
        let limits = usual.asked(&job.limits, ceiling);
        let compile_ms = defaults.compile_seconds * 1000;
        let compile_limits = Limits {
            memory_bytes: limits
                .memory_bytes
                .max(defaults.compile_memory_mb * MIB)
                .min(ceiling.memory_bytes),
            wall_ms: limits.wall_ms.max(compile_ms).min(ceiling.wall_ms),
            cpu_ms: limits.cpu_ms.max(compile_ms).min(ceiling.cpu_ms),
            ..limits
        };
        let mut sources: Vec<&str> = files
            .iter()
            .map(|file| file.path.as_str())
            .filter(|path| self.is_source(path))
            .collect();
        if !sources.contains(&entry) {
            sources.push(entry);
        }
        let is_module = files.iter().any(|file| file.path == "go.mod");
        let source = files.iter().find(|file| file.path == entry);
        let class = package::class(entry, source.map_or(&[], |file| &file.content));
        let names = |limits: &Limits| Names {
            located: self,
            entry,
            sources: &sources,
            class: &class,
            is_module,
            heap_mb: exhausted::heap_bytes(limits.memory_bytes) / MIB,
        };
        let env: Vec<(String, String)> = self
            .toolchain
            .env
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect();
        let compile = self.toolchain.compile.map(|template| Step {
            argv: names(&compile_limits).fill_all(template),
            env: env.clone(),
            ..Step::default()
        });
        let mut argv = names(&limits).fill_all(self.toolchain.run);
        argv.extend(job.args.iter().cloned());
        // The job's own variables win over the language's.
        let own = job
            .env
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()));
        let env = env
            .into_iter()
            .filter(|(key, _)| !job.env.contains_key(key))
            .chain(own)
            .collect();
        Program {
            compile_limits: compile.is_some().then_some(compile_limits),
            compile,
            run: Step {
                argv,
                env,
                stdin: Bytes::from(job.stdin.clone()),
                cwd: String::new(),
            },
            files,
            limits,
            artifacts: None,
        }
    }

    fn is_source(&self, path: &str) -> bool {
        path.rsplit_once('.')
            .is_some_and(|(_, extension)| self.language.extensions.contains(&extension))
    }
}

/// What templates are filled with.
struct Names<'a> {
    located: &'a Located,
    entry: &'a str,
    sources: &'a [&'a str],
    class: &'a str,
    is_module: bool,
    heap_mb: u64,
}

impl Names<'_> {
    fn fill_all(&self, template: &[&str]) -> Vec<String> {
        let mut argv = Vec::new();
        for argument in template {
            if *argument == "{package}" && self.is_module {
                let folder = self.entry.rsplit_once('/').map_or("", |(folder, _)| folder);
                argv.push(format!("./{folder}"));
            } else if matches!(*argument, "{sources}" | "{package}") {
                argv.extend(self.sources.iter().map(|path| no_option(path)));
            } else {
                argv.push(self.fill(argument));
            }
        }
        argv
    }

    /// Fills in one pass, so that a file's name can't name a placeholder.
    fn fill(&self, argument: &str) -> String {
        let mut filled = String::new();
        let mut rest = argument;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, behind)) = after.split_once('}') else {
                break;
            };
            filled.push_str(before);
            filled.push_str(&self.value(name));
            rest = behind;
        }
        filled.push_str(rest);
        filled
    }

    fn value(&self, name: &str) -> String {
        let stem = || {
            self.entry
                .rsplit_once('.')
                .map_or(self.entry, |(stem, _)| stem)
        };
        match name {
            "entry" => no_option(self.entry),
            "stem" => no_option(stem()),
            "class" => self.class.to_owned(),
            "heap_mb" => self.heap_mb.to_string(),
            tool => self
                .located
                .tools
                .iter()
                .find(|(known, _)| *known == tool)
                .map(|(_, path)| path.clone())
                .unwrap_or_default(),
        }
    }
}

/// A file called `-x` is a file, not an option.
fn no_option(path: &str) -> String {
    if path.starts_with('-') {
        format!("./{path}")
    } else {
        path.to_owned()
    }
}

fn decode(index: usize, file: &SourceFile) -> Result<ProgramFile, SandboxError> {
    let content = match file.encoding.as_deref() {
        None | Some("utf8") => Bytes::from(file.content.clone()),
        Some("base64") => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(&file.content);
            decoded.map(Bytes::from).map_err(|error| {
                SandboxError::invalid(format!("files[{index}].content"), error.to_string())
            })?
        }
        Some(other) => {
            let reason = format!("`{other}` is neither `utf8` nor `base64`");
            return Err(SandboxError::invalid(
                format!("files[{index}].encoding"),
                reason,
            ));
        }
    };
    Ok(ProgramFile {
        path: file.path.clone(),
        content,
        executable: false,
    })
}

/// Folders outside `/usr` that hold toolchains and are shown to boxes, as `/opt/<name>`.
pub fn folders() -> Vec<String> {
    let toolchains = LANGUAGES.iter().flat_map(|language| language.toolchains);
    let tools = toolchains
        .flat_map(|toolchain| toolchain.tools)
        .filter_map(|tool| find_tool(tool.files).ok());
    let folders: BTreeSet<String> = tools.filter_map(|(_, real)| opt_folder(&real)).collect();
    folders.into_iter().collect()
}

async fn discover(
    sandbox: &dyn Sandbox,
    language: &'static Language,
) -> Result<FoundLanguage, SandboxError> {
    let mut reasons = Vec::new();
    for toolchain in language.toolchains {
        let located = match locate(language, toolchain) {
            Ok(located) => located,
            Err(reason) => {
                reasons.push(reason);
                continue;
            }
        };
        match version(sandbox, &located).await? {
            Ok(version) => return Ok(found(language, Ok((version, located)))),
            Err(reason) => reasons.push(reason),
        }
    }
    Ok(found(language, Err(reasons.join("; "))))
}

fn found(language: &'static Language, result: Result<(String, Located), String>) -> FoundLanguage {
    let (located, version, missing) = match result {
        Ok((version, located)) => (Some(located), Some(version), None),
        Err(reason) => (None, None, Some(reason)),
    };
    FoundLanguage {
        name: language.name,
        label: language.label,
        aliases: language.aliases,
        entry_file: language.entry_file,
        version,
        path: located
            .as_ref()
            .and_then(|located| located.tools.first())
            .map(|(_, path)| path.clone()),
        missing,
        located,
    }
}

fn locate(language: &'static Language, toolchain: &'static Toolchain) -> Result<Located, String> {
    let find =
        |tool: &'static language::Tool| find_tool(tool.files).map(|(path, _)| (tool.name, path));
    let tools = toolchain
        .tools
        .iter()
        .map(find)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Located {
        language,
        toolchain,
        tools,
    })
}

/// The first of these files that a box could run: its path, and where it really is.
fn find_tool(files: &[&str]) -> Result<(String, PathBuf), String> {
    let mut unreachable = None;
    for file in files {
        for folder in tool_folders() {
            let path = folder.join(file);
            let Ok(real) = path.canonicalize() else {
                continue;
            };
            let runs = real
                .metadata()
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o001 != 0);
            if runs && (real.starts_with("/usr") || opt_folder(&real).is_some()) {
                return Ok((path.to_string_lossy().into_owned(), real));
            }
            unreachable = Some(format!("{} is not within reach of a box", real.display()));
        }
    }
    Err(unreachable.unwrap_or_else(|| format!("no {} in /usr or /opt", files.join(" or "))))
}

fn tool_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = TOOL_FOLDERS.iter().map(PathBuf::from).collect();
    let mut in_opt: Vec<PathBuf> = std::fs::read_dir("/opt")
        .map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.path().join("bin"))
                .filter(|path| path.is_dir())
                .collect()
        })
        .unwrap_or_default();
    in_opt.sort();
    folders.extend(in_opt);
    folders
}

/// `/opt/<name>` of a path below it.
fn opt_folder(path: &Path) -> Option<String> {
    let below = path.strip_prefix("/opt").ok()?;
    let name = below.components().next()?.as_os_str().to_str()?;
    (below.components().count() > 1).then(|| format!("/opt/{name}"))
}

/// Asks a toolchain for its version, in a box. The inner error says why it is as good as absent.
async fn version(
    sandbox: &dyn Sandbox,
    located: &Located,
) -> Result<Result<String, String>, SandboxError> {
    let Some((_, path)) = located.tools.first() else {
        return Ok(Err("no tool".into()));
    };
    let argv = [path.as_str()]
        .into_iter()
        .chain(located.toolchain.version.iter().copied());
    let mut program = Program::command(argv);
    program.limits.memory_bytes = located.toolchain.defaults.memory_mb.max(512) * MIB;
    program.run.env = located
        .toolchain
        .env
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect();
    let outcome = sandbox
        .run(program, OutputSink::none(), CancellationToken::new())
        .await?;
    let Some(step) = outcome.run else {
        return Ok(Err(format!("{path} was not run")));
    };
    if step.verdict != Verdict::Exited || step.exit_code != Some(0) {
        let said = String::from_utf8_lossy(&step.stderr);
        let said = step
            .message
            .as_deref()
            .or(said.lines().next())
            .unwrap_or("without a word")
            .to_owned();
        return Ok(Err(format!("{path} fails in a box: {said}")));
    }
    let said = String::from_utf8_lossy(&[step.stdout, step.stderr].concat()).into_owned();
    let Some(version) = first_version(&said) else {
        return Ok(Err(format!("{path} tells no version: {said:?}")));
    };
    let (major, minor) = located.toolchain.oldest;
    if numbers(&version) < vec![major, minor] {
        return Ok(Err(format!(
            "{path} is {version}, {major}.{minor} is needed"
        )));
    }
    Ok(Ok(version))
}

/// The first number of a text that has dots in it, or the first number.
fn first_version(text: &str) -> Option<String> {
    let words = || {
        text.split(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .map(|word| word.trim_matches('.'))
    };
    let dotted = words().find(|word| word.contains('.'));
    dotted
        .or_else(|| words().find(|word| !word.is_empty()))
        .map(str::to_owned)
}

fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map_while(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_tools_say() {
        for (said, version) in [
            ("Python 3.11.2\n", "3.11.2"),
            ("v20.20.2\n", "20.20.2"),
            ("go version go1.19.8 linux/amd64\n", "1.19.8"),
            ("openjdk 17.0.15 2025-04-15\nOpenJDK Runtime\n", "17.0.15"),
            (
                "GNU bash, version 5.2.15(1)-release (x86_64-pc-linux-gnu)\n",
                "5.2.15",
            ),
            ("12.2.0\n", "12.2.0"),
            ("14\n", "14"),
            ("rustc 1.63.0\n", "1.63.0"),
            (
                "3.40.1 2022-12-28 14:03:47 df5c253c0b3dd24916e4ec7cf77d3db5294cc9fd45ae7b9c5e82ad8197f3alt1\n",
                "3.40.1",
            ),
        ] {
            assert_eq!(first_version(said).as_deref(), Some(version));
        }
        assert_eq!(first_version("no number"), None);
    }

    #[test]
    fn a_version_is_asked_for_by_its_beginning() {
        assert!(
            language::is_version("3.11.2", "3")
                && language::is_version("3.11.2", "3.11")
                && language::is_version("20.1.0", "v20")
        );
        assert!(!language::is_version("3.11.2", "3.1") && !language::is_version("3.11.2", "2"));
    }

    #[test]
    fn tools_outside_usr_and_opt_count_as_absent() {
        assert_eq!(
            opt_folder(Path::new("/opt/node/bin/node")).as_deref(),
            Some("/opt/node")
        );
        assert_eq!(opt_folder(Path::new("/opt/node")), None);
        assert_eq!(opt_folder(Path::new("/srv/opt/node/bin/node")), None);
    }

    #[test]
    fn a_file_named_like_an_option_or_a_placeholder_stays_a_file() {
        let language = language::find("python").expect("a row");
        let located = Located {
            language,
            toolchain: &language.toolchains[0],
            tools: vec![("python", "/usr/bin/python3".into())],
        };
        let names = Names {
            located: &located,
            entry: "-c{python}.py",
            sources: &[],
            class: "",
            is_module: false,
            heap_mb: 1,
        };
        assert_eq!(
            names.fill_all(language.toolchains[0].run),
            ["/usr/bin/python3", "./-c{python}.py"]
        );
    }
}
