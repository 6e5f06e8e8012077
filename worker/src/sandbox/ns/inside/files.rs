//! A work folder's files, for drivers whose programs have no first process of ours to write and read them.

use std::io;

use bytes::Bytes;

use super::collect;
pub use super::collect::Piece;
use super::work::{self, Refusal};
use crate::sandbox::{ArtifactRequest, Skipped};

/// One file of a program.
#[derive(Debug)]
pub struct FileToWrite {
    pub path: String,
    pub content: Bytes,
    pub executable: bool,
}

/// Writes all files below `work`, `owner`'s where one is given.
///
/// # Errors
/// Which file, and why.
pub fn write_all(work: &str, files: &[FileToWrite], owner: Option<u32>) -> Result<(), Refusal> {
    let folder = work::open_work(work).map_err(|error| work::refusal(0, &error))?;
    for (index, file) in files.iter().enumerate() {
        work::write(&folder, &file.path, file.executable, &file.content, owner)
            .map_err(|error| work::refusal(index, &error))?;
    }
    Ok(())
}

/// Hands every regular file below `work` that matches to `take`; answers what matched and was left.
///
/// Nothing of the program may run any more.
///
/// # Errors
/// That of the file system, or of `take`.
pub fn collect(
    work: &str,
    request: &ArtifactRequest,
    take: &mut dyn FnMut(Piece<'_>) -> io::Result<()>,
) -> io::Result<Vec<Skipped>> {
    collect::collect(work, request, take)
}
