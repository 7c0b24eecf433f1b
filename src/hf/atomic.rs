//! Files that appear whole or not at all.

use crate::{Error, Result};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

/// Writes beside `path`, synchronises, then renames. Nothing is left behind after an error.
pub fn write(path: &Path, body: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary).map_err(Error::io(&temporary, "create")).and_then(|file| {
        let mut out = BufWriter::with_capacity(1 << 20, file);
        body(&mut out)?;
        let file = out.into_inner().map_err(|e| Error::io(path, "write")(e.into_error()))?;
        file.sync_all().map_err(Error::io(path, "synchronise"))?;
        std::fs::rename(&temporary, path).map_err(Error::io(path, "rename to"))
    });
    if written.is_err() {
        // The first error is the one to report.
        std::fs::remove_file(&temporary).ok();
    }
    written
}
