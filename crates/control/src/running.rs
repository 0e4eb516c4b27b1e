//! The `running` documents: who runs in this home, and whether it still does.

use std::path::Path;
use std::time::Duration;

use modelyard_core::home::Running;
use modelyard_targets::identity;

/// Reads the document, if there is one that makes sense.
pub fn read(path: &Path) -> Option<Running> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Whether the very process that wrote the document still runs.
pub fn is_alive(running: &Running) -> bool {
    identity::is_alive(running.pid, running.start_ticks)
}

/// Writes the document whole: to a file beside, then renamed.
///
/// # Errors
/// The file system's.
pub fn write(path: &Path, running: &Running) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let beside = path.with_extension("json.new");
    std::fs::write(&beside, serde_json::to_vec(running)?)?;
    std::fs::rename(beside, path)
}

/// Waits until the process has ended, at most `limit`.
pub async fn wait_for_end(running: &Running, limit: Duration) {
    let deadline = tokio::time::Instant::now() + limit;
    while is_alive(running) && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
