//! How fast the engines are here. Not a test: it asserts nothing about speed.
//!
//! ```sh
//! scripts/servers --durable cargo test --lib db::tests::figures -- --ignored --nocapture
//! ```

use std::time::Instant;

use futures_util::{FutureExt, future::join_all};

use super::super::{Db, Durability, Insert, Value, testing};

static SETTINGS: Insert = Insert { into: "setting (name, value)", columns: 2, conflict: "" };

/// Transactions of so many rows by so many tasks; prints transactions and rows per second.
async fn measure(db: &Db, durability: Durability, tasks: usize, rows: usize, times: usize) {
    let begun = Instant::now();
    let running = (0..tasks).map(|_| {
        let db = db.clone();
        tokio::spawn(async move {
            for _ in 0..times {
                let name = || Value::from(uuid::Uuid::now_v7().to_string());
                let new: Vec<Vec<Value>> =
                    (0..rows).map(|_| vec![name(), vec![7_u8; 64].into()]).collect();
                db.transaction(durability, move |tx| {
                    let new = new.clone();
                    async move { tx.insert_many(&SETTINGS, &new).await }.boxed()
                })
                .await
                .unwrap();
            }
        })
    });
    for done in join_all(running).await {
        done.unwrap();
    }
    let per_second = (tasks * times) as f64 / begun.elapsed().as_secs_f64();
    println!(
        "{db:?} {durability:?}: {tasks} tasks, {rows} rows each: {per_second:.0} transactions/s, \
         {:.0} rows/s",
        per_second * rows as f64
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures, and asserts nothing"]
async fn how_fast() {
    testing::each(|db| async move {
        for durability in [Durability::Process, Durability::Full] {
            for (tasks, rows, times) in [(1, 1, 300), (16, 1, 50), (1, 64, 30)] {
                measure(&db, durability, tasks, rows, times).await;
            }
        }
        let begun = Instant::now();
        for _ in 0..2000 {
            db.query("SELECT value FROM revision WHERE name = $1", vec!["tenants".into()])
                .await
                .unwrap();
        }
        println!(
            "{db:?}: {:.0} reads/s, one after another",
            2000.0 / begun.elapsed().as_secs_f64()
        );
    })
    .await;
}
