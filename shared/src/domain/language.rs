//! The languages that code can be run in: a table. Adding a language is adding a row.
//!
//! Templates name what is filled in: `{tool}` the path of a tool of the row by its name, `{entry}` the entry file,
//! `{stem}` the same without extension, `{class}` its name as a class of the package that it declares, `{sources}` (alone in
//! its argument) every file with one of the row's extensions, `{package}` (alone too) the entry's folder where there is a
//! `go.mod`, else the same as `{sources}`, `{heap_mb}` three quarters of the memory limit in MiB. A job's
//! arguments follow the run template.

/// A language.
#[derive(Debug)]
pub struct Language {
    /// The canonical name, as jobs say it.
    pub name: &'static str,
    /// The name people read.
    pub label: &'static str,
    pub aliases: &'static [&'static str],
    /// Where a job's single source goes.
    pub entry_file: &'static str,
    /// Extensions of source files, without the dot.
    pub extensions: &'static [&'static str],
    /// Ways to run it, best first; the first whose tools are there is used.
    pub toolchains: &'static [Toolchain],
}

/// One way to run a language.
#[derive(Debug)]
pub struct Toolchain {
    /// Programs it needs; the first is the one whose version is told.
    pub tools: &'static [Tool],
    /// Arguments with which the first tool tells its version; the first number in its output is taken.
    pub version: &'static [&'static str],
    /// Versions below (major, minor) can't do it.
    pub oldest: (u32, u32),
    pub compile: Option<&'static [&'static str]>,
    pub run: &'static [&'static str],
    /// Added to the environment of both steps.
    pub env: &'static [(&'static str, &'static str)],
    /// How its runtime ends where it has a heap of its own and that is full.
    pub exhausted: Option<Exhausted>,
    /// What the steps may spend unless the job says otherwise, in MiB and seconds.
    pub defaults: Defaults,
}

/// How a runtime ends when its own heap is full, before the box's memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// By a signal, with these words on its standard error.
    Aborts(&'static str),
    /// With this exit code, and these words on its standard output.
    Exits(i32, &'static str),
}

const V8_EXHAUSTED: Option<Exhausted> = Some(Exhausted::Aborts("JavaScript heap out of memory"));

/// A program of a toolchain.
#[derive(Debug)]
pub struct Tool {
    /// The name in templates.
    pub name: &'static str,
    /// File names it goes by, best first.
    pub files: &'static [&'static str],
}

/// What a language needs where it differs from any program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    pub memory_mb: u64,
    pub disk_mb: u64,
    pub compile_memory_mb: u64,
    pub compile_seconds: u64,
}

const SMALL: Defaults = Defaults {
    memory_mb: 256,
    disk_mb: 64,
    compile_memory_mb: 512,
    compile_seconds: 30,
};
const VIRTUAL_MACHINE: Defaults = Defaults {
    memory_mb: 512,
    ..SMALL
};
const LARGE_COMPILER: Defaults = Defaults {
    disk_mb: 512,
    compile_memory_mb: 1024,
    compile_seconds: 60,
    ..SMALL
};

const fn tool(name: &'static str, files: &'static [&'static str]) -> Tool {
    Tool { name, files }
}

const fn script(
    tools: &'static [Tool],
    version: &'static [&'static str],
    run: &'static [&'static str],
) -> Toolchain {
    Toolchain {
        tools,
        version,
        oldest: (0, 0),
        compile: None,
        run,
        env: &[],
        exhausted: None,
        defaults: SMALL,
    }
}

/// Folders in which tools are looked for, in this order; after them every `/opt/<name>/bin`. Nothing else is visible in
/// a sandbox: a toolchain in somebody's home is as good as none.
pub const TOOL_FOLDERS: &[&str] = &[
    "/usr/local/bin",
    "/usr/bin",
    "/usr/local/go/bin",
    "/usr/local/cargo/bin",
    "/usr/lib/go/bin",
];

/// Every language there is a row for.
pub static LANGUAGES: &[Language] = &[
    Language {
        name: "python",
        label: "Python",
        aliases: &["python3", "py"],
        entry_file: "main.py",
        extensions: &["py"],
        toolchains: &[Toolchain {
            // Unbuffered, so that people see output while it is made.
            env: &[("PYTHONUNBUFFERED", "1"), ("PYTHONDONTWRITEBYTECODE", "1")],
            oldest: (3, 0),
            ..script(
                &[tool("python", &["python3"])],
                &["--version"],
                &["{python}", "{entry}"],
            )
        }],
    },
    Language {
        name: "javascript",
        label: "JavaScript (Node.js)",
        aliases: &["js", "node", "nodejs"],
        entry_file: "main.js",
        extensions: &["js", "mjs", "cjs"],
        toolchains: &[Toolchain {
            exhausted: V8_EXHAUSTED,
            defaults: VIRTUAL_MACHINE,
            ..script(
                &[tool("node", &["node", "nodejs"])],
                &["--version"],
                &["{node}", "--max-old-space-size={heap_mb}", "{entry}"],
            )
        }],
    },
    Language {
        name: "typescript",
        label: "TypeScript (Node.js)",
        aliases: &["ts"],
        entry_file: "main.ts",
        extensions: &["ts", "mts", "cts"],
        toolchains: &[
            // Node strips the types itself.
            Toolchain {
                oldest: (22, 6),
                exhausted: V8_EXHAUSTED,
                defaults: VIRTUAL_MACHINE,
                ..script(
                    &[tool("node", &["node", "nodejs"])],
                    &["--version"],
                    &[
                        "{node}",
                        "--experimental-strip-types",
                        "--disable-warning=ExperimentalWarning",
                        "--max-old-space-size={heap_mb}",
                        "{entry}",
                    ],
                )
            },
            // Types are stripped and not checked here either, so that a job means the same wherever it runs.
            Toolchain {
                oldest: (5, 6),
                compile: Some(&[
                    "{tsc}",
                    "--outDir",
                    ".",
                    "--target",
                    "es2022",
                    "--module",
                    "commonjs",
                    "--noCheck",
                    "{sources}",
                ]),
                exhausted: V8_EXHAUSTED,
                defaults: VIRTUAL_MACHINE,
                ..script(
                    &[tool("tsc", &["tsc"]), tool("node", &["node", "nodejs"])],
                    &["--version"],
                    &["{node}", "--max-old-space-size={heap_mb}", "{stem}.js"],
                )
            },
        ],
    },
    Language {
        name: "bash",
        label: "Bash",
        aliases: &["sh", "shell"],
        entry_file: "main.sh",
        extensions: &["sh", "bash"],
        toolchains: &[script(
            &[tool("bash", &["bash"])],
            &["--version"],
            &["{bash}", "{entry}"],
        )],
    },
    Language {
        name: "c",
        label: "C",
        aliases: &[],
        entry_file: "main.c",
        extensions: &["c"],
        toolchains: &[Toolchain {
            compile: Some(&[
                "{cc}",
                "-std=gnu17",
                "-O2",
                "-Wall",
                "-o",
                "program",
                "{sources}",
                "-lm",
                "-pthread",
            ]),
            ..script(
                &[tool("cc", &["gcc", "clang"])],
                &["-dumpfullversion", "-dumpversion"],
                &["./program"],
            )
        }],
    },
    Language {
        name: "cpp",
        label: "C++",
        aliases: &["c++", "cxx"],
        entry_file: "main.cpp",
        extensions: &["cpp", "cc", "cxx"],
        toolchains: &[Toolchain {
            compile: Some(&[
                "{cxx}",
                "-std=gnu++20",
                "-O2",
                "-Wall",
                "-o",
                "program",
                "{sources}",
                "-pthread",
            ]),
            ..script(
                &[tool("cxx", &["g++", "clang++"])],
                &["-dumpfullversion", "-dumpversion"],
                &["./program"],
            )
        }],
    },
    Language {
        name: "rust",
        label: "Rust",
        aliases: &["rs"],
        entry_file: "main.rs",
        extensions: &["rs"],
        toolchains: &[Toolchain {
            compile: Some(&[
                "{rustc}",
                "--edition",
                "2021",
                "-O",
                "-o",
                "program",
                "{entry}",
            ]),
            defaults: LARGE_COMPILER,
            // The compiler calls it to link.
            ..script(
                &[tool("rustc", &["rustc"]), tool("cc", &["cc"])],
                &["--version"],
                &["./program"],
            )
        }],
    },
    Language {
        name: "go",
        label: "Go",
        aliases: &["golang"],
        entry_file: "main.go",
        extensions: &["go"],
        toolchains: &[Toolchain {
            compile: Some(&["{go}", "build", "-o", "program", "{package}"]),
            env: &[
                ("GOCACHE", "/box/.cache/go-build"),
                ("GOPATH", "/box/.cache/go"),
                ("GOTMPDIR", "/box"),
                ("GOPROXY", "off"),
                ("GOTOOLCHAIN", "local"),
                ("GOTELEMETRY", "off"),
                ("GOFLAGS", "-buildvcs=false"),
                ("CGO_ENABLED", "0"),
            ],
            defaults: LARGE_COMPILER,
            ..script(&[tool("go", &["go"])], &["version"], &["./program"])
        }],
    },
    Language {
        name: "java",
        label: "Java",
        aliases: &[],
        entry_file: "Main.java",
        extensions: &["java"],
        toolchains: &[Toolchain {
            compile: Some(&[
                "{javac}",
                "-J-Xmx{heap_mb}m",
                "-J-XX:+UseSerialGC",
                "-J-XX:TieredStopAtLevel=1",
                "-J-XX:-UsePerfData",
                "-d",
                ".",
                "{sources}",
            ]),
            oldest: (11, 0),
            exhausted: Some(Exhausted::Exits(
                3,
                "Terminating due to java.lang.OutOfMemoryError",
            )),
            defaults: VIRTUAL_MACHINE,
            ..script(
                &[tool("java", &["java"]), tool("javac", &["javac"])],
                &["--version"],
                &[
                    "{java}",
                    "-Xmx{heap_mb}m",
                    "-XX:+UseSerialGC",
                    "-XX:-UsePerfData",
                    "-XX:+ExitOnOutOfMemoryError",
                    "-cp",
                    ".",
                    "{class}",
                ],
            )
        }],
    },
    Language {
        name: "ruby",
        label: "Ruby",
        aliases: &["rb"],
        entry_file: "main.rb",
        extensions: &["rb"],
        toolchains: &[script(
            &[tool("ruby", &["ruby"])],
            &["--version"],
            &["{ruby}", "{entry}"],
        )],
    },
    Language {
        name: "perl",
        label: "Perl",
        aliases: &["pl"],
        entry_file: "main.pl",
        extensions: &["pl"],
        toolchains: &[script(
            &[tool("perl", &["perl"])],
            &["-e", "printf '%vd', $^V"],
            &["{perl}", "{entry}"],
        )],
    },
    Language {
        name: "lua",
        label: "Lua",
        aliases: &[],
        entry_file: "main.lua",
        extensions: &["lua"],
        toolchains: &[script(
            &[tool("lua", &["lua5.4", "lua", "lua5.3", "luajit"])],
            &["-v"],
            &["{lua}", "{entry}"],
        )],
    },
    Language {
        name: "php",
        label: "PHP",
        aliases: &[],
        entry_file: "main.php",
        extensions: &["php"],
        toolchains: &[script(
            &[tool("php", &["php"])],
            &["--version"],
            &["{php}", "{entry}"],
        )],
    },
    Language {
        name: "sql",
        label: "SQL (SQLite)",
        aliases: &["sqlite", "sqlite3"],
        entry_file: "main.sql",
        extensions: &["sql"],
        toolchains: &[script(
            &[tool("sqlite", &["sqlite3"])],
            &["--version"],
            &["{sqlite}", "-batch", "-bail", ":memory:", ".read '{entry}'"],
        )],
    },
];

/// What compilers are told to call what they make, where they can be told.
const COMPILED: &str = "program";

impl Language {
    /// Whether its compiler leaves a file of this path, which nobody asked the program for.
    pub fn compiles_to(&self, path: &str) -> bool {
        let compilers = self.toolchains.iter().filter_map(|way| way.compile);
        let mut arguments = compilers.flatten();
        (path == COMPILED && arguments.any(|argument| *argument == COMPILED))
            || (self.name == "java" && path.ends_with(".class"))
    }
}

/// The row of a name or alias, in any case.
pub fn find(name: &str) -> Option<&'static Language> {
    let is = |given: &&str| given.eq_ignore_ascii_case(name);
    LANGUAGES
        .iter()
        .find(|language| is(&language.name) || language.aliases.iter().any(is))
}

/// Is the `version` found what is wanted: the same, or beginning with it at a dot (`3`, `3.11`), a `v` before it or not?
pub fn is_version(version: &str, wanted: &str) -> bool {
    let wanted = wanted.trim_start_matches('v');
    version
        .strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_name_means_two_languages() {
        let mut seen = BTreeSet::new();
        for language in LANGUAGES {
            for name in [&language.name].into_iter().chain(language.aliases) {
                assert!(
                    seen.insert(name.to_ascii_lowercase()),
                    "{name} stands twice"
                );
            }
        }
    }

    #[test]
    fn every_row_can_be_run_and_names_its_tools() {
        for language in LANGUAGES {
            let name = language.name;
            let extension = language
                .entry_file
                .rsplit_once('.')
                .map(|(_, extension)| extension);
            assert!(
                extension.is_some_and(|extension| language.extensions.contains(&extension)),
                "{name}: entry file"
            );
            assert!(!language.toolchains.is_empty(), "{name}: no toolchain");
            for toolchain in language.toolchains {
                assert!(
                    !toolchain.tools.is_empty()
                        && !toolchain.run.is_empty()
                        && !toolchain.version.is_empty(),
                    "{name}"
                );
                for argument in toolchain
                    .run
                    .iter()
                    .chain(toolchain.compile.unwrap_or_default())
                {
                    for (_, rest) in argument
                        .match_indices('{')
                        .map(|(at, _)| argument.split_at(at))
                    {
                        let placeholder = rest
                            .split_once('}')
                            .map(|(inside, _)| &inside[1..])
                            .expect("closed");
                        let known = ["entry", "stem", "class", "sources", "package", "heap_mb"]
                            .contains(&placeholder)
                            || toolchain.tools.iter().any(|tool| tool.name == placeholder);
                        assert!(known, "{name}: nothing fills in {{{placeholder}}}");
                    }
                }
            }
        }
    }

    #[test]
    fn languages_are_found_by_alias_in_any_case() {
        assert_eq!(find("JS").map(|language| language.name), Some("javascript"));
        assert_eq!(find("Python").map(|language| language.name), Some("python"));
        assert!(find("cobol").is_none());
    }
}
