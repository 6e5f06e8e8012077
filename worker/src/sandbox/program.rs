//! What is to be run: steps, files and limits, checked before a box is spent on them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Limits, SandboxError};

/// Most files one program may bring.
pub const MAX_FILES: usize = 1024;
/// Most bytes of a path inside the work folder.
pub const MAX_PATH_BYTES: usize = 512;
/// Most arguments of one step, and most environment variables.
pub const MAX_ARGUMENTS: usize = 256;
/// Most bytes of all arguments and environment variables of one step: all that a job may have (64 of each, of 4 KiB), and
/// what the language adds.
pub const MAX_ARGUMENT_BYTES: usize = 576 * 1024;
/// Most bytes of files and standard input together.
pub const MAX_CONTENT_BYTES: usize = 32 * 1024 * 1024;

/// One program: its files, an optional compile step and the step that runs it.
#[derive(Debug, Clone)]
pub struct Program {
    /// Written to the work folder before the first step.
    pub files: Vec<ProgramFile>,
    /// Runs first, in the same box under the same walls; the run step follows only if it exits with 0.
    pub compile: Option<Step>,
    pub run: Step,
    /// Limits of the run step, and of the box.
    pub limits: Limits,
    /// Limits of the compile step; disk, inodes and processes are always those of `limits`.
    pub compile_limits: Option<Limits>,
    /// Which files to bring out of the box after the last step.
    pub artifacts: Option<ArtifactRequest>,
}

/// One process to start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Step {
    /// The program as an absolute path, or one that starts with `./` from `cwd`, then its arguments. No search in `PATH`.
    pub argv: Vec<String>,
    /// Added to (and winning over) the box's own `PATH`, `HOME`, `TMPDIR`, `LANG`.
    pub env: Vec<(String, String)>,
    /// All of standard input; the step sees its end after it.
    #[serde(skip)]
    pub stdin: Bytes,
    /// Relative to the work folder; empty is the work folder itself.
    pub cwd: String,
}

/// One file of a program.
#[derive(Debug, Clone)]
pub struct ProgramFile {
    /// Relative to the work folder, `/` between names; folders are made as needed.
    pub path: String,
    pub content: Bytes,
    pub executable: bool,
}

/// Which files to bring out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArtifactRequest {
    /// `*` matches within a name, `**` over folders, `?` one character; relative to the work folder.
    pub patterns: Vec<String>,
    /// Most files brought out.
    pub max_files: usize,
    /// Most bytes of all files together.
    pub max_bytes: u64,
}

impl Program {
    /// A program of one step without files, under the default limits.
    pub fn command<I, S>(argv: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self {
            files: Vec::new(),
            compile: None,
            run: Step {
                argv: argv.into_iter().map(Into::into).collect(),
                ..Step::default()
            },
            limits: Limits::default(),
            compile_limits: None,
            artifacts: None,
        }
    }

    /// Checks everything that can be known without a box.
    ///
    /// # Errors
    /// [`SandboxError::Invalid`] naming the field.
    pub fn check(&self, ceiling: &Limits) -> Result<(), SandboxError> {
        self.limits.check(ceiling)?;
        if let Some(limits) = &self.compile_limits {
            limits.check(ceiling)?;
        }
        if self.files.len() > MAX_FILES {
            return Err(SandboxError::invalid(
                "files",
                format!("more than {MAX_FILES}"),
            ));
        }
        let mut content =
            self.run.stdin.len() + self.compile.as_ref().map_or(0, |step| step.stdin.len());
        for (index, file) in self.files.iter().enumerate() {
            check_path(&format!("files[{index}].path"), &file.path)?;
            content = content.saturating_add(file.content.len());
        }
        if content > MAX_CONTENT_BYTES {
            return Err(SandboxError::invalid(
                "files",
                format!("more than {MAX_CONTENT_BYTES} bytes with standard input"),
            ));
        }
        if let Some(step) = &self.compile {
            check_step("compile", step)?;
        }
        check_step("run", &self.run)
    }
}

fn check_path(field: &str, path: &str) -> Result<(), SandboxError> {
    let reason = if path.is_empty() {
        "is empty"
    } else if path.len() > MAX_PATH_BYTES {
        "is too long"
    } else if path.contains('\0') {
        "contains a zero byte"
    } else if path
        .split('/')
        .any(|name| name.is_empty() || name == "." || name == "..")
    {
        "must be relative, without empty names, `.` or `..`"
    } else if path.split('/').any(|name| name.len() > 255) {
        "has a name longer than 255 bytes"
    } else {
        return Ok(());
    };
    Err(SandboxError::invalid(field, reason))
}

fn check_step(name: &str, step: &Step) -> Result<(), SandboxError> {
    let Some(program) = step.argv.first() else {
        return Err(SandboxError::invalid(format!("{name}.argv"), "is empty"));
    };
    if !program.starts_with('/') && !program.starts_with("./") {
        return Err(SandboxError::invalid(
            format!("{name}.argv"),
            "must start with an absolute path or `./`",
        ));
    }
    if step.argv.len() > MAX_ARGUMENTS || step.env.len() > MAX_ARGUMENTS {
        return Err(SandboxError::invalid(
            format!("{name}.argv"),
            format!("more than {MAX_ARGUMENTS} arguments or variables"),
        ));
    }
    let bytes = step.argv.iter().map(String::len).sum::<usize>()
        + step
            .env
            .iter()
            .map(|(key, value)| key.len() + value.len() + 2)
            .sum::<usize>();
    if bytes > MAX_ARGUMENT_BYTES {
        return Err(SandboxError::invalid(
            format!("{name}.argv"),
            format!("more than {MAX_ARGUMENT_BYTES} bytes with the environment"),
        ));
    }
    if step.argv.iter().any(|argument| argument.contains('\0')) {
        return Err(SandboxError::invalid(
            format!("{name}.argv"),
            "contains a zero byte",
        ));
    }
    for (key, value) in &step.env {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            return Err(SandboxError::invalid(
                format!("{name}.env"),
                "a name is empty or has `=`, or a zero byte stands in it",
            ));
        }
    }
    if !step.cwd.is_empty() {
        check_path(&format!("{name}.cwd"), &step.cwd)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field_of(program: &Program) -> String {
        match program.check(&Limits::CEILING) {
            Err(SandboxError::Invalid { field, .. }) => field,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn paths_that_leave_the_work_folder_are_refused_by_name() {
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../x",
            "a//b",
            ".",
            "a\0b",
            "a/",
        ] {
            let mut program = Program::command(["/bin/true"]);
            program.files.push(ProgramFile {
                path: path.into(),
                content: Bytes::new(),
                executable: false,
            });
            assert_eq!(field_of(&program), "files[0].path", "{path:?}");
        }
    }

    #[test]
    fn limits_beyond_the_ceiling_are_refused_by_name() {
        let mut program = Program::command(["/bin/true"]);
        program.limits.memory_bytes = u64::MAX;
        assert_eq!(field_of(&program), "limits.memory_bytes");
    }

    #[test]
    fn programs_searched_in_the_path_are_refused() {
        assert_eq!(field_of(&Program::command(["true"])), "run.argv");
    }

    #[test]
    fn an_ordinary_program_passes() {
        let mut program = Program::command(["/usr/bin/python3", "src/main.py"]);
        program.files.push(ProgramFile {
            path: "src/main.py".into(),
            content: "print(1)".into(),
            executable: false,
        });
        assert!(program.check(&Limits::CEILING).is_ok());
    }
}
