//! Every language of the table that is on this machine runs; the absent ones say so.

use atelier_shared::domain::job::{JobSpec, JobState, SourceFile};
use atelier_shared::domain::language::LANGUAGES;
use atelier_worker::sandbox::toolchains::Toolchains;
use atelier_worker::sandbox::{
    CompileCache, Limits, OutputSink, Program, ProgramFile, Sandbox as _, SandboxError, Step,
};
use libtest_mimic::{Completion, Failed, Trial};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::fixture::{block_on, job, run, shared, shared_handle, test, text};

static TOOLCHAINS: OnceCell<Toolchains> = OnceCell::const_new();

async fn toolchains() -> Result<&'static Toolchains, SandboxError> {
    TOOLCHAINS
        .get_or_try_init(|| Toolchains::discover(shared()))
        .await
}

/// A program per language: reads a number from standard input and prints six times it, an argument, and fails on demand.
pub const PROGRAMS: &[(&str, &str)] = &[
    (
        "python",
        "import sys, json, math, asyncio, hashlib\nprint(6 * int(input()), sys.argv[1])\n",
    ),
    (
        "javascript",
        "const n = require('fs').readFileSync(0, 'utf8');\nconsole.log(6 * Number(n), process.argv[2]);\n",
    ),
    (
        "typescript",
        "declare const require: any, process: any;\nconst n: string = require('fs').readFileSync(0, 'utf8');\nconsole.log(6 * Number(n), process.argv[2]);\n",
    ),
    ("bash", "read n\necho $((6 * n)) \"$1\"\n"),
    (
        "c",
        "#include <stdio.h>\nint main(int c, char **v) { int n; if (scanf(\"%d\", &n) != 1) return 1; printf(\"%d %s\\n\", 6 * n, v[1]); }\n",
    ),
    (
        "cpp",
        "#include <iostream>\nint main(int c, char **v) { int n; std::cin >> n; std::cout << 6 * n << ' ' << v[1] << std::endl; }\n",
    ),
    (
        "rust",
        "fn main() { let mut s = String::new(); std::io::stdin().read_line(&mut s).unwrap(); println!(\"{} {}\", 6 * s.trim().parse::<i32>().unwrap(), std::env::args().nth(1).unwrap()); }\n",
    ),
    (
        "go",
        "package main\nimport (\"fmt\"; \"os\")\nfunc main() { var n int; fmt.Scan(&n); fmt.Println(6*n, os.Args[1]) }\n",
    ),
    (
        "java",
        "public class Main { public static void main(String[] a) { System.out.println(6 * new java.util.Scanner(System.in).nextInt() + \" \" + a[0]); } }\n",
    ),
    ("ruby", "puts \"#{6 * $stdin.gets.to_i} #{ARGV[0]}\"\n"),
    ("perl", "my $n = <STDIN>; print 6 * $n, \" $ARGV[0]\\n\";\n"),
    (
        "lua",
        "print(6 * math.tointeger(io.read('n')) .. ' ' .. arg[1])\n",
    ),
    (
        "php",
        "<?php echo 6 * intval(fgets(STDIN)), ' ', $argv[1], \"\\n\";\n",
    ),
    ("sql", "select (6 * 7) || ' times';\n"),
];

pub fn tests() -> Vec<Trial> {
    let mut tests: Vec<Trial> = LANGUAGES
        .iter()
        .map(|language| {
            let name = language.name;
            Trial::ignorable_test(
                format!("{name}_reads_input_and_arguments_and_prints"),
                move || block_on(runs(name)),
            )
        })
        .collect();
    tests.push(test(
        "a_compile_error_is_told_apart_from_a_run",
        compile_error,
    ));
    tests.push(Trial::ignorable_test(
        "the_same_source_is_compiled_once_in_every_compiled_language",
        || block_on(compiled_once()),
    ));
    tests.push(test(
        "a_program_can_t_change_what_is_kept_of_its_compilation",
        kept_clean,
    ));
    tests.push(test(
        "an_unknown_or_absent_language_and_another_version_are_refused_by_field",
        refusals,
    ));
    tests.push(Trial::ignorable_test(
        "a_runtime_whose_heap_is_full_has_run_out_of_memory",
        || block_on(full_heaps()),
    ));
    tests.push(Trial::ignorable_test(
        "java_packages_and_go_modules_are_run",
        || block_on(packages()),
    ));
    tests.push(test(
        "without_an_entrypoint_the_language_s_own_file_is_run",
        usual_entry,
    ));
    tests.push(test(
        "every_row_is_present_with_a_version_or_absent_with_a_reason",
        every_row,
    ));
    tests
}

fn is_here(toolchains: &Toolchains, name: &str) -> bool {
    let mut rows = toolchains.languages().iter();
    rows.any(|row| row.name == name && row.missing.is_none())
}

async fn full_heaps() -> Result<Completion, Failed> {
    let toolchains = toolchains().await?;
    let mut tried = 0;
    let node = "const all = []; while (true) all.push(new Array(10000).fill(1.5));";
    let java = "import java.util.*; public class Main { public static void main(String[] a) { List<byte[]> all = new ArrayList<>(); while (true) all.add(new byte[1 << 20]); } }";
    for (name, entry, source) in [
        ("javascript", "main.js", node),
        ("typescript", "main.ts", node),
        ("java", "Main.java", java),
    ] {
        if !is_here(toolchains, name) {
            continue;
        }
        tried += 1;
        let job = job(name, entry, source);
        let program = toolchains.program(&job, &Limits::CEILING)?;
        let memory_bytes = program.limits.memory_bytes;
        let mut outcome = run(shared(), program).await?;
        toolchains.judge(&job, memory_bytes, &mut outcome);
        assert_eq!(
            outcome.state(),
            JobState::OutOfMemory,
            "{name}: {outcome:?}"
        );
    }
    Ok(if tried == 0 {
        Completion::ignored_with("no runtime with a heap here")
    } else {
        Completion::Completed
    })
}

async fn packages() -> Result<Completion, Failed> {
    let toolchains = toolchains().await?;
    let mut tried = 0;
    let java = [(
        "Main.java",
        "// first\npackage a.b;\nclass Main { public static void main(String[] a) { System.out.println(\"there\"); } }",
    )];
    let go = [
        (
            "main.go",
            "package main\nimport \"here.example/sub\"\nfunc main() { println(sub.Word) }\n",
        ),
        ("go.mod", "module here.example\n"),
        ("sub/sub.go", "package sub\nconst Word = \"there\"\n"),
    ];
    for (name, files) in [("java", &java[..]), ("go", &go[..])] {
        if !is_here(toolchains, name) {
            continue;
        }
        tried += 1;
        let mut job = job(name, files[0].0, files[0].1);
        job.files
            .extend(files[1..].iter().map(|(path, text)| SourceFile {
                path: (*path).into(),
                content: (*text).into(),
                encoding: None,
            }));
        let program = toolchains.program(&job, &Limits::CEILING)?;
        let outcome = run(shared(), program).await?;
        assert_eq!(outcome.state(), JobState::Succeeded, "{name}: {outcome:?}");
    }
    Ok(if tried == 0 {
        Completion::ignored_with("neither is here")
    } else {
        Completion::Completed
    })
}

async fn usual_entry() -> Result<(), Failed> {
    let toolchains = toolchains().await?;
    for (own, expected) in [("main.py", "main\n"), ("other.py", "lib\n")] {
        let mut job = job("python", "lib.py", "print('lib')");
        job.files.push(SourceFile {
            path: own.into(),
            content: "print('main')".into(),
            encoding: None,
        });
        let program = toolchains.program(&job, &Limits::CEILING)?;
        let outcome = run(shared(), program).await?;
        let said = outcome.run.map(|step| text(&step.stdout));
        assert_eq!(said.as_deref(), Some(expected), "{own}");
    }
    Ok(())
}

async fn runs(name: &str) -> Result<Completion, Failed> {
    let toolchains = toolchains().await?;
    let found = toolchains
        .languages()
        .iter()
        .find(|found| found.name == name)
        .ok_or("no row")?;
    if let Some(missing) = &found.missing {
        return Ok(Completion::ignored_with(missing));
    }
    let (_, source) = PROGRAMS
        .iter()
        .find(|(language, _)| *language == name)
        .ok_or("no program to try it with")?;
    let mut job = job(name, found.entry_file, source);
    job.stdin = "7\n".into();
    if name != "sql" {
        job.args = vec!["times".into()];
    }
    let program = toolchains.program(&job, &Limits::CEILING)?;
    let outcome = run(shared(), program).await?;
    let said = outcome
        .deciding_step()
        .map(|step| (text(&step.stdout), text(&step.stderr)));
    assert_eq!(outcome.state(), JobState::Succeeded, "{outcome:?}");
    assert_eq!(
        said,
        Some(("42 times\n".into(), String::new())),
        "{outcome:?}"
    );
    Ok(Completion::Completed)
}

async fn compile_error() -> Result<(), Failed> {
    let program = toolchains()
        .await?
        .program(&job("c", "main.c", "int main( {"), &Limits::CEILING)?;
    let outcome = shared()
        .run(program, OutputSink::none(), CancellationToken::new())
        .await?;
    let compile = outcome.compile.as_ref().ok_or("no compile step")?;
    assert_eq!(
        (compile.exit_code, outcome.run.is_some(), outcome.state()),
        (Some(1), false, JobState::Failed)
    );
    assert!(
        text(&compile.stderr).contains("main.c:1"),
        "{}",
        text(&compile.stderr)
    );
    Ok(())
}

/// A sandbox that keeps what was compiled, over the shared one.
fn cache() -> CompileCache {
    CompileCache::new(shared_handle(), 64 * 1024 * 1024)
}

/// What a job printed, and what its compile step says of itself.
async fn through(
    cache: &CompileCache,
    program: Program,
) -> Result<(String, Option<String>), Failed> {
    let outcome = cache
        .run(program, OutputSink::none(), CancellationToken::new())
        .await?;
    assert_eq!(outcome.state(), JobState::Succeeded, "{outcome:?}");
    let run = outcome.run.ok_or("no run step")?;
    let compile = outcome.compile.ok_or("no compile step")?;
    Ok((text(&run.stdout), compile.message))
}

async fn compiled_once() -> Result<Completion, Failed> {
    let toolchains = toolchains().await?;
    let cache = cache();
    let mut tried = 0;
    for (name, source) in PROGRAMS {
        let found = toolchains.languages().iter().find(|row| row.name == *name);
        let Some(found) = found.filter(|row| row.missing.is_none()) else {
            continue;
        };
        let mut first = job(name, found.entry_file, source);
        first.stdin = "7\n".into();
        first.args = vec!["times".into()];
        let second = JobSpec {
            stdin: "8\n".into(),
            ..first.clone()
        };
        let program = toolchains.program(&first, &Limits::CEILING)?;
        if program.compile.is_none() {
            continue;
        }
        tried += 1;
        let (said, message) = through(&cache, program).await?;
        assert_eq!((said.as_str(), &message), ("42 times\n", &None), "{name}");
        let program = toolchains.program(&second, &Limits::CEILING)?;
        let (said, message) = through(&cache, program).await?;
        assert_eq!(said, "48 times\n", "{name}");
        assert!(message.is_some(), "{name} was compiled again");
    }
    Ok(if tried == 0 {
        Completion::ignored_with("no compiled language here")
    } else {
        Completion::Completed
    })
}

async fn kept_clean() -> Result<(), Failed> {
    let cache = cache();
    let compile = |source: &str| Program {
        compile: Some(Step {
            argv: ["/bin/cp", "main.sh", "made.sh"].map(Into::into).to_vec(),
            ..Step::default()
        }),
        files: vec![ProgramFile {
            path: "main.sh".into(),
            content: source.to_owned().into(),
            executable: false,
        }],
        ..Program::command(["/bin/sh", "./made.sh"])
    };
    let source = "echo honest; echo 'echo poisoned' > made.sh; echo 'echo poisoned' > main.sh";
    for _ in 0..3 {
        let (said, _) = through(&cache, compile(source)).await?;
        assert_eq!(said, "honest\n");
    }
    let (said, message) = through(&cache, compile("echo another")).await?;
    assert_eq!((said.as_str(), message), ("another\n", None));
    Ok(())
}

async fn refusals() -> Result<(), Failed> {
    let toolchains = toolchains().await?;
    let field = |job| match toolchains.program(&job, &Limits::CEILING) {
        Err(SandboxError::Invalid { field, .. }) => field,
        other => format!("{other:?}"),
    };
    assert_eq!(field(job("cobol", "main.cob", "")), "language");
    let mut old = job("bash", "main.sh", "");
    old.version = Some("1".into());
    assert_eq!(field(old), "version");
    let mut nowhere = job("bash", "main.sh", "");
    nowhere.entrypoint = Some("other.sh".into());
    assert_eq!(field(nowhere), "entrypoint");
    let mut garbled = job("bash", "main.sh", "***");
    garbled.files[0].encoding = Some("base64".into());
    assert_eq!(field(garbled), "files[0].content");
    Ok(())
}

async fn every_row() -> Result<(), Failed> {
    let languages = toolchains().await?.languages();
    assert_eq!(languages.len(), LANGUAGES.len());
    for found in languages {
        eprintln!(
            "{:<11} {}",
            found.name,
            found
                .version
                .as_ref()
                .or(found.missing.as_ref())
                .map_or("", String::as_str)
        );
        assert!(
            found.version.is_some() != found.missing.is_some(),
            "{found:?}"
        );
        assert!(found.missing.as_deref() != Some(""), "{found:?}");
    }
    Ok(())
}
