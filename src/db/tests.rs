//! One list of tests for both engines (`contract`), and some for what only one of them has.

mod contract;
mod figures;
mod migrate;
mod postgres;
mod sqlite;

use std::error::Error as _;

use futures_util::FutureExt;

use super::{Db, DbError, Durability};

/// Makes two tests of each function that takes a [`Db`]: one per engine.
macro_rules! on_both_engines {
    ($($test:path as $name:ident),* $(,)?) => {
        mod on_sqlite {
            use crate::db::testing::{on_sqlite, open};
            $(#[tokio::test]
            async fn $name() {
                on_sqlite(|url| async move { $test(open(&url).await).await }).await;
            })*
        }
        mod on_postgres {
            use crate::db::testing::{on_postgres, open};
            $(#[tokio::test]
            async fn $name() {
                on_postgres(|url| async move { $test(open(&url).await).await }).await;
            })*
        }
    };
}
use on_both_engines;

/// Adds one to the revision of the tenants, and returns what it is then.
async fn add_one(db: &Db, durability: Durability) -> Result<i64, DbError> {
    db.transaction(durability, |tx| {
        async move {
            let sql =
                "UPDATE revision SET value = value + 1 WHERE name = 'tenants' RETURNING value";
            tx.query(sql, &[]).await?[0].int(0)
        }
        .boxed()
    })
    .await
}

async fn revision(db: &Db) -> i64 {
    let sql = "SELECT value FROM revision WHERE name = 'tenants'";
    db.query(sql, vec![]).await.unwrap()[0].int(0).unwrap()
}

/// What an outage says.
#[track_caller]
fn advice(error: &DbError) -> String {
    assert!(matches!(error, DbError::Unavailable(_)), "{error:?}");
    error.source().unwrap().to_string()
}
