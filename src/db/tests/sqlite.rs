//! What only SQLite has: a file, other processes at that file, one writer.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::join_all};
use rusqlite::Connection;

use super::{
    super::{Db, DbError, DbSettings, Durability, testing::on_sqlite, testing::open},
    add_one, advice, revision,
};

fn file(url: &str) -> PathBuf {
    PathBuf::from(url.strip_prefix("sqlite://").unwrap())
}

async fn refused(url: &str) -> DbError {
    Db::open(&DbSettings { url: url.to_owned(), max_connections: 4 }).await.unwrap_err()
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    on_sqlite(|url| async move {
        let nested = file(&url).with_file_name("a").join("b").join("c.db");
        let db = open(&format!("sqlite://{}", nested.display())).await;
        add_one(&db, Durability::Full).await.unwrap();
        for side in ["", "-wal", "-shm"] {
            let path = PathBuf::from(format!("{}{side}", nested.display()));
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
    })
    .await;
}

#[tokio::test]
async fn a_lock_by_another_process_is_not_waited_for_long() {
    on_sqlite(|url| async move {
        let db = open(&url).await;
        let value = add_one(&db, Durability::Process).await.unwrap();
        let other = Connection::open(file(&url)).unwrap();
        other.execute_batch("BEGIN IMMEDIATE; UPDATE revision SET value = 99").unwrap();
        let begun = Instant::now();
        let waiting = (0..20).map(|_| add_one(&db, Durability::Process));
        for done in join_all(waiting).await {
            assert!(advice(&done.unwrap_err()).contains("locked by another process"));
        }
        let waited = begun.elapsed();
        assert!(waited > Duration::from_millis(800), "{waited:?}");
        assert!(waited < Duration::from_millis(1500), "{waited:?}");
        // Readers do not care.
        assert_eq!(revision(&db).await, value);
        other.execute_batch("ROLLBACK").unwrap();
        let begun = Instant::now();
        assert_eq!(add_one(&db, Durability::Process).await.unwrap(), value + 1);
        assert!(begun.elapsed() < Duration::from_millis(500));

        // A short lock is waited for.
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let release = tokio::task::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            other.execute_batch("ROLLBACK").unwrap();
        });
        assert_eq!(add_one(&db, Durability::Full).await.unwrap(), value + 2);
        release.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_command_may_write_beside_a_server() {
    on_sqlite(|url| async move {
        let (server, command) = (open(&url).await, open(&url).await);
        let before = revision(&server).await;
        let add = |db: Db| async move {
            for _ in 0..50 {
                add_one(&db, Durability::Full).await.unwrap();
            }
        };
        tokio::join!(tokio::spawn(add(server.clone())), tokio::spawn(add(command.clone())))
            .0
            .unwrap();
        add(command.clone()).await;
        assert_eq!(revision(&server).await, revision(&command).await);
        assert_eq!(revision(&server).await, before + 150);
    })
    .await;
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    on_sqlite(|url| async move {
        std::fs::write(
            file(&url),
            b"garbage, but long enough to be taken for a header ".repeat(99),
        )
        .unwrap();
        assert!(advice(&refused(&url).await).contains("not a SQLite database"));
        let below = format!("{url}/below.db");
        assert!(advice(&refused(&below).await).contains("below.db cannot be made"));
        let directory = format!("sqlite://{}", file(&url).parent().unwrap().display());
        assert!(advice(&refused(&directory).await).contains("cannot be opened"));
    })
    .await;
    for url in ["sqlite://", "mysql://h/db", "data/mediagate.db"] {
        let error = refused(url).await;
        assert!(matches!(error, DbError::Settings(_)), "{url}: {error:?}");
    }
}

/// As the disk would: the writer's own connection may not grow the file, or not write at all.
async fn pragma(db: &Db, sql: &'static str) {
    db.transaction(Durability::Process, move |tx| async move { tx.query(sql, &[]).await }.boxed())
        .await
        .unwrap();
}

async fn fill(db: &Db) -> Result<u64, DbError> {
    db.transaction(Durability::Full, |tx| {
        async move {
            let sql = "INSERT INTO setting (name, value) VALUES ('big', $1)";
            tx.execute(sql, &[vec![7_u8; 1 << 20].into()]).await
        }
        .boxed()
    })
    .await
}

#[tokio::test]
async fn a_full_disk_is_an_outage_that_ends() {
    on_sqlite(|url| async move {
        let db = open(&url).await;
        pragma(&db, "PRAGMA max_page_count = 64").await;
        assert!(advice(&fill(&db).await.unwrap_err()).contains("disk is full"));
        add_one(&db, Durability::Full).await.unwrap();
        pragma(&db, "PRAGMA max_page_count = 100000").await;
        assert_eq!(fill(&db).await.unwrap(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_file_that_may_not_be_written_is_an_outage_that_ends() {
    on_sqlite(|url| async move {
        let db = open(&url).await;
        pragma(&db, "PRAGMA query_only = 1").await;
        assert!(advice(&fill(&db).await.unwrap_err()).contains("may not be written"));
        // The connection was opened anew.
        assert_eq!(fill(&db).await.unwrap(), 1);
    })
    .await;
}

/// Only where permissions mean anything: root writes what it likes.
#[tokio::test]
async fn a_read_only_file_can_still_be_read() {
    on_sqlite(|url| async move {
        drop(open(&url).await);
        let path = file(&url);
        let read_only = |path: &Path| {
            let mut permissions = path.metadata().unwrap().permissions();
            permissions.set_readonly(true);
            std::fs::set_permissions(path, permissions).unwrap();
        };
        read_only(&path);
        if std::fs::OpenOptions::new().write(true).open(&path).is_ok() {
            eprintln!("skipped: this user may write to read-only files");
            return;
        }
        let db = open(&url).await;
        assert_eq!(revision(&db).await, 1);
        let error = add_one(&db, Durability::Process).await.unwrap_err();
        assert!(advice(&error).contains("may not be written"), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn the_disk_is_asked_as_often_as_needed() {
    const NORMAL: i64 = 1;
    const FULL: i64 = 2;
    on_sqlite(|url| async move {
        let db = open(&url).await;
        let synchronous = |durability| {
            db.transaction(durability, |tx| {
                async move { tx.query("PRAGMA synchronous", &[]).await?[0].int(0) }.boxed()
            })
        };
        for _ in 0..2 {
            assert_eq!(synchronous(Durability::Process).await.unwrap(), NORMAL);
            assert_eq!(synchronous(Durability::Full).await.unwrap(), FULL);
        }
        let mode = db.query("PRAGMA journal_mode", vec![]).await.unwrap();
        assert_eq!(mode[0].text(0).unwrap(), "wal");
    })
    .await;
}

#[tokio::test]
async fn the_writer_waits_for_nothing_else() {
    on_sqlite(|url| async move {
        let db = open(&url).await;
        let error = db
            .transaction(Durability::Process, |tx| {
                async move {
                    tx.execute("UPDATE revision SET value = 99", &[]).await?;
                    tokio::task::yield_now().await;
                    Ok(())
                }
                .boxed()
            })
            .await
            .unwrap_err();
        assert!(matches!(error, DbError::Corrupt(_)), "{error:?}");
        assert_eq!(revision(&db).await, 1);
    })
    .await;
}

#[tokio::test]
async fn what_nobody_waits_for_is_not_begun() {
    on_sqlite(|url| async move {
        let db = open(&url).await;
        let (release, held) = mpsc::channel::<()>();
        let first = tokio::spawn({
            let db = db.clone();
            async move {
                db.transaction(Durability::Process, move |_| {
                    held.recv().unwrap();
                    async { Ok(()) }.boxed()
                })
                .await
            }
        });
        let ran = Arc::new(AtomicBool::new(false));
        let second = tokio::spawn({
            let (db, ran) = (db.clone(), Arc::clone(&ran));
            async move {
                db.transaction(Durability::Process, move |_| {
                    ran.store(true, Ordering::SeqCst);
                    async { Ok(()) }.boxed()
                })
                .await
            }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        second.abort();
        assert!(second.await.unwrap_err().is_cancelled());
        release.send(()).unwrap();
        first.await.unwrap().unwrap();
        add_one(&db, Durability::Process).await.unwrap();
        assert!(!ran.load(Ordering::SeqCst));
    })
    .await;
}
