//! Files in the data folder.

use std::path::Path;

use crate::adapters::files::ObjectFiles;
use crate::ports::Result;

/// `data_dir/files`, made if it is not there.
pub async fn open(data_dir: &Path) -> Result<ObjectFiles> {
    ObjectFiles::folder(&data_dir.join("files")).await
}
