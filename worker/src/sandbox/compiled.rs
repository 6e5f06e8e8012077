//! Programs that are compiled once: what a compile step made is kept by the hash of all that went into it.
//!
//! A program with a compile step is taken apart. The compile step runs in a box of its own, what it made is brought out
//! before any of the program's own code ran (so that nobody can leave something else in the cache than the compiler
//! made), and the run step gets it as files in a second box. The next program with the same files, command, limits and
//! compiler needs the second box only.

use std::collections::{HashMap, VecDeque};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use async_trait::async_trait;
use atelier_shared::domain::job::Usage;
use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::output::{Channel, OutputChunk, OutputSink, StepKind};
use super::program::{MAX_CONTENT_BYTES, MAX_FILES};
use super::{
    ArtifactRequest, Outcome, Program, ProgramFile, Sandbox, SandboxError, Step, StepOutcome, Tier,
    Verdict,
};

/// Live output chunks of a compile step that wait for their reader.
const COMPILE_CHUNKS: usize = 16;
/// What a kept step says of itself.
const KEPT: &str = "compiled before: taken from the cache";

type Key = [u8; 32];

/// A sandbox that remembers what compile steps made.
#[derive(Debug)]
pub struct CompileCache {
    inner: Arc<dyn Sandbox>,
    kept: Mutex<Kept>,
}

/// What one compile step made.
#[derive(Debug)]
struct Product {
    step: StepOutcome,
    files: Vec<ProgramFile>,
}

impl Product {
    /// Bytes that keeping it costs, about.
    fn weight(&self) -> usize {
        let files: usize = self
            .files
            .iter()
            .map(|file| file.path.len() + file.content.len())
            .sum();
        files + self.step.stdout.len() + self.step.stderr.len() + size_of::<Self>()
    }
}

/// Oldest use goes first when the bytes run out.
#[derive(Debug)]
struct Kept {
    products: HashMap<Key, Arc<Product>>,
    /// Least recently used first.
    order: VecDeque<Key>,
    bytes: usize,
    most_bytes: usize,
}

impl Kept {
    fn get(&mut self, key: &Key) -> Option<Arc<Product>> {
        let product = self.products.get(key)?.clone();
        self.order.retain(|other| other != key);
        self.order.push_back(*key);
        Some(product)
    }

    fn put(&mut self, key: Key, product: Arc<Product>) {
        let weight = product.weight();
        if weight > self.most_bytes || self.products.contains_key(&key) {
            return;
        }
        self.bytes += weight;
        self.products.insert(key, product);
        self.order.push_back(key);
        while self.bytes > self.most_bytes {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if let Some(gone) = self.products.remove(&oldest) {
                self.bytes -= gone.weight();
            }
        }
    }
}

impl CompileCache {
    /// Keeps at most `most_bytes` of products in memory.
    pub fn new(inner: Arc<dyn Sandbox>, most_bytes: usize) -> Self {
        let kept = Kept {
            products: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            most_bytes,
        };
        Self {
            inner,
            kept: Mutex::new(kept),
        }
    }

    /// Runs the compile step alone. The inner error is the outcome of a step that made nothing to go on with;
    /// `Ok(None)`: what it made can't be carried into another box.
    async fn compile(
        &self,
        program: &Program,
        compile: &Step,
        output: &OutputSink,
        cancel: &CancellationToken,
    ) -> Result<Result<Option<Product>, Outcome>, SandboxError> {
        let sources: usize = program.files.iter().map(|file| file.content.len()).sum();
        let alone = Program {
            files: program.files.clone(),
            compile: None,
            run: compile.clone(),
            limits: program.compile_limits.unwrap_or(program.limits),
            compile_limits: None,
            artifacts: Some(ArtifactRequest {
                patterns: vec!["**".into()],
                max_files: MAX_FILES,
                max_bytes: (MAX_CONTENT_BYTES - sources.min(MAX_CONTENT_BYTES)) as u64,
            }),
        };
        let (sink, mut chunks) = OutputSink::channel(COMPILE_CHUNKS);
        let mut output = output.clone();
        let relay = async move {
            while let Some(chunk) = chunks.recv().await {
                let step = StepKind::Compile;
                output.send(OutputChunk { step, ..chunk }).await;
            }
        };
        let (outcome, ()) = tokio::join!(self.inner.run(alone, sink, cancel.clone()), relay);
        let outcome = outcome?;
        let Some(step) = outcome.run else {
            return Ok(Err(Outcome {
                compile: None,
                run: None,
                artifacts: Vec::new(),
                artifacts_skipped: Vec::new(),
            }));
        };
        if step.verdict != Verdict::Exited || step.exit_code != Some(0) {
            return Ok(Err(Outcome {
                compile: Some(step),
                run: None,
                artifacts: Vec::new(),
                artifacts_skipped: Vec::new(),
            }));
        }
        if !outcome.artifacts_skipped.is_empty() {
            return Ok(Ok(None));
        }
        let made = outcome.artifacts.into_iter().filter(|artifact| {
            !program
                .files
                .iter()
                .any(|file| file.path == artifact.path && file.content == artifact.content)
        });
        let files = made
            .map(|artifact| ProgramFile {
                path: artifact.path,
                content: artifact.content,
                // Modes are not brought out; whether it is run is the run step's to say.
                executable: true,
            })
            .collect();
        Ok(Ok(Some(Product { step, files })))
    }
}

#[async_trait]
impl Sandbox for CompileCache {
    fn tier(&self) -> &Tier {
        self.inner.tier()
    }

    async fn shutdown(&self) {
        self.inner.shutdown().await;
    }

    async fn run(
        &self,
        program: Program,
        output: OutputSink,
        cancel: CancellationToken,
    ) -> Result<Outcome, SandboxError> {
        let Some(compile) = program.compile.clone() else {
            return self.inner.run(program, output, cancel).await;
        };
        let Some(key) = key_of(&program, &compile) else {
            return self.inner.run(program, output, cancel).await;
        };
        let kept = self.kept.lock().get(&key);
        let (product, step) = match kept {
            Some(product) => {
                let mut step = product.step.clone();
                step.usage = Usage::default();
                step.message = Some(KEPT.into());
                say_again(&step, output.clone()).await;
                (product, step)
            }
            None => match self.compile(&program, &compile, &output, &cancel).await? {
                Err(outcome) => return Ok(outcome),
                // Compiled a second time, in the box it runs in; what it says has been heard.
                Ok(None) => {
                    let (sink, relay) = without_compile(output);
                    return tokio::join!(self.inner.run(program, sink, cancel), relay).0;
                }
                Ok(Some(product)) => {
                    let product = Arc::new(product);
                    self.kept.lock().put(key, product.clone());
                    let step = product.step.clone();
                    (product, step)
                }
            },
        };
        let mut outcome = self
            .inner
            .run(with_product(program, &product), output, cancel)
            .await?;
        outcome.compile = Some(step);
        Ok(outcome)
    }
}

/// The program as it stands after its compile step.
fn with_product(program: Program, product: &Product) -> Program {
    let replaced = |file: &ProgramFile| product.files.iter().any(|made| made.path == file.path);
    let sources = program.files.iter().filter(|file| !replaced(file));
    Program {
        files: sources.chain(&product.files).cloned().collect(),
        compile: None,
        compile_limits: None,
        ..program
    }
}

/// Everything that may change what the compiler makes. `None`: the compiler can't be looked at, so nothing is kept.
fn key_of(program: &Program, compile: &Step) -> Option<Key> {
    let tool = std::fs::metadata(compile.argv.first()?).ok()?;
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    // An upgraded compiler is another file.
    for number in [tool.dev(), tool.ino(), tool.size()] {
        add(&number.to_le_bytes());
    }
    add(&tool.mtime().to_le_bytes());
    add(&tool.mtime_nsec().to_le_bytes());
    for argument in &compile.argv {
        add(argument.as_bytes());
    }
    add(b"env");
    for (name, value) in &compile.env {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    add(compile.cwd.as_bytes());
    add(&compile.stdin);
    // A compiler with less memory or disk may fail where another does not.
    let limits = program.compile_limits.unwrap_or(program.limits);
    add(&serde_json::to_vec(&limits).ok()?);
    for file in &program.files {
        add(file.path.as_bytes());
        add(&file.content);
        add(&[u8::from(file.executable)]);
    }
    Some(hash.finalize().into())
}

/// What the compiler said when it ran, for those who follow live.
async fn say_again(step: &StepOutcome, mut output: OutputSink) {
    for (channel, bytes) in [
        (Channel::Stdout, &step.stdout),
        (Channel::Stderr, &step.stderr),
    ] {
        if !bytes.is_empty() {
            let chunk = OutputChunk {
                step: StepKind::Compile,
                channel,
                offset: 0,
                bytes: Bytes::clone(bytes),
            };
            output.send(chunk).await;
        }
    }
}

/// A sink that passes on what the run step says, and what drives it.
fn without_compile(mut output: OutputSink) -> (OutputSink, impl Future<Output = ()>) {
    let (sink, mut chunks) = OutputSink::channel(COMPILE_CHUNKS);
    let relay = async move {
        while let Some(chunk) = chunks.recv().await {
            if chunk.step == StepKind::Run {
                output.send(chunk).await;
            }
        }
    };
    (sink, relay)
}
