//! A fresh database for a test, on both engines.
//!
//! PostgreSQL is tested when `MEDIAGATE_TEST_POSTGRES` holds the URL of a server where databases
//! may be made (`scripts/servers` starts one); each test makes its own and drops it.

use std::{panic::AssertUnwindSafe, sync::Once};

use futures_util::FutureExt;

use super::{Db, DbSettings};

/// Runs `test` on an empty database of each engine.
pub(crate) async fn each<T: Future<Output = ()>>(test: impl Fn(Db) -> T) {
    let test = &test;
    each_url(|url| async move { test(open(&url).await).await }).await;
}

/// As [`each`], for tests that open the database themselves, as two replicas do.
pub(crate) async fn each_url<T: Future<Output = ()>>(test: impl Fn(String) -> T) {
    on_sqlite(&test).await;
    on_postgres(&test).await;
}

/// Runs `test` with the URL of a SQLite file that does not exist yet.
pub(crate) async fn on_sqlite<T: Future<Output = ()>>(test: impl Fn(String) -> T) {
    let directory = tempfile::tempdir().unwrap();
    test(format!("sqlite://{}", directory.path().join("test.db").display())).await;
}

/// Runs `test` with the URL of an empty PostgreSQL database, or says loudly that it does not.
pub(crate) async fn on_postgres<T: Future<Output = ()>>(test: impl Fn(String) -> T) {
    static ONCE: Once = Once::new();
    #[expect(clippy::disallowed_methods, reason = "tests have no configuration")]
    let Ok(server) = std::env::var("MEDIAGATE_TEST_POSTGRES") else {
        ONCE.call_once(|| {
            eprintln!(
                "WARNING: POSTGRESQL WAS NOT TESTED; run scripts/servers cargo test, or set \
                 MEDIAGATE_TEST_POSTGRES"
            );
        });
        return;
    };
    let (client, connection) =
        tokio_postgres::connect(&server, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let name = format!("mg_test_{}", uuid::Uuid::new_v4().simple());
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let mut url = url::Url::parse(&server).unwrap();
    url.set_path(&name);
    let done = AssertUnwindSafe(test(url.into())).catch_unwind().await;
    client.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}

/// Opens a database with few connections.
pub(crate) async fn open(url: &str) -> Db {
    Db::open(&DbSettings { url: url.to_owned(), max_connections: 8 }).await.unwrap()
}
