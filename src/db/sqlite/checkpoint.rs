//! The thread that carries the write-ahead log over into the file, so that nobody who writes has
//! to wait for that: it takes two waits for the disk and may take many writes.

use std::{
    ffi::c_int,
    path::{Path, PathBuf},
    sync::mpsc::{SyncSender, sync_channel},
    thread,
};

use rusqlite::{Connection, hooks::Wal};

use super::{DbError, connect, fault};

/// Pages that the log grows by until they are carried over, 4 kB each; SQLite's own figure.
const SOME: c_int = 1000;

/// Pages from which on the writer carries them over itself. SQLite begins the log anew only where
/// nothing was written meanwhile, so under a load without a pause it would grow for ever.
const MANY: c_int = 16_000;

/// The way to the thread. The thread ends when this and the connections it watches are gone.
pub(super) struct Checkpoints(SyncSender<()>);

impl Checkpoints {
    /// Starts the thread. It opens the file when it has something to do.
    pub(super) fn start(path: PathBuf) -> Result<Self, DbError> {
        let (bell, rung) = sync_channel(1);
        thread::Builder::new()
            .name("sqlite-checkpoint".to_owned())
            .spawn(move || {
                let mut kept = None;
                while rung.recv().is_ok() {
                    let done = carry_over(kept.take(), &path);
                    // What could not be done now is done after the next commits.
                    kept = done.inspect_err(|error| tracing::warn!(%error, "no checkpoint")).ok();
                }
            })
            .map_err(|error| DbError::outage("no thread can be started for it", error))?;
        Ok(Self(bell))
    }

    /// Looks at the log after every commit of a connection, in the place of SQLite.
    pub(super) fn watch(&self, connection: &mut Connection) -> rusqlite::Result<()> {
        let bell = self.0.clone();
        let mut next = SOME;
        connection.wal_hook(Some(move |wal: &mut Wal, pages: c_int| {
            if pages < next - SOME {
                // The log began anew.
                next = SOME;
            }
            if pages >= next {
                next = pages + SOME;
                if pages >= MANY {
                    // The commit itself went well, and the thread may be at it just now.
                    let _ = wal.checkpoint();
                } else {
                    let _ = bell.try_send(());
                }
            }
            Ok(())
        }))
    }
}

fn carry_over(kept: Option<Connection>, path: &Path) -> Result<Connection, DbError> {
    let connection = kept.map_or_else(|| connect(path), Ok)?;
    let passive = "PRAGMA wal_checkpoint(PASSIVE)";
    connection.query_row(passive, [], |_| Ok(())).map_err(fault)?;
    Ok(connection)
}
