//! What both engines promise.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use futures_util::{FutureExt, future::join_all};

use super::super::{Db, DbError, Durability, Insert, Row, Value};

super::on_both_engines! {
    super::values_come_back_as_they_went as values_come_back_as_they_went,
    super::placeholders_are_numbers as placeholders_are_numbers,
    super::sums_are_integers as sums_are_integers,
    super::text_is_bytes as text_is_bytes,
    super::a_reader_cannot_write as a_reader_cannot_write,
    super::commits_are_visible_at_once as commits_are_visible_at_once,
    super::updates_are_not_lost as updates_are_not_lost,
    super::an_error_rolls_back as an_error_rolls_back,
    super::a_panic_rolls_back as a_panic_rolls_back,
    super::constraints_conflict as constraints_conflict,
    super::a_spoiled_transaction_is_not_committed as a_spoiled_transaction_is_not_committed,
    super::wrong_values_are_refused as wrong_values_are_refused,
    super::locked_rows_come_in_order as locked_rows_come_in_order,
    super::many_rows_go_in_at_once as many_rows_go_in_at_once,
    super::a_row_may_come_twice as a_row_may_come_twice,
    super::work_goes_on_without_its_caller as work_goes_on_without_its_caller,
    super::statements_of_any_number as statements_of_any_number,
    super::a_transaction_sees_its_own_writes as a_transaction_sees_its_own_writes,
}

/// Runs one statement in a transaction of its own.
async fn run(db: &Db, sql: &'static str, params: Vec<Value>) -> Result<u64, DbError> {
    db.transaction(Durability::Process, move |tx| {
        let params = params.clone();
        async move { tx.execute(sql, &params).await }.boxed()
    })
    .await
}

async fn count(db: &Db, table: &str) -> i64 {
    db.query(format!("SELECT count(*) FROM {table}"), vec![]).await.unwrap()[0].int(0).unwrap()
}

const ACCOUNT: &str = "INSERT INTO account (id, org, unit, posted, pending, ceiling) \
                       VALUES ($1, 'default', 'usd', $2, 0, 100)";

async fn values_come_back_as_they_went(db: Db) {
    let blob: Vec<u8> = (0..=255).collect();
    let sql = "INSERT INTO setting (name, value) VALUES ($1, $2)";
    for (name, bytes) in [("empty", vec![]), ("all", blob.clone()), ("é 'quoted' \n", vec![0])] {
        assert_eq!(run(&db, sql, vec![name.into(), bytes.into()]).await.unwrap(), 1);
    }
    let rows = db.query("SELECT name, value FROM setting ORDER BY name", vec![]).await.unwrap();
    let row = |name: &str, bytes: Vec<u8>| Row(vec![name.into(), bytes.into()]);
    assert_eq!(rows, [row("all", blob), row("empty", vec![]), row("é 'quoted' \n", vec![0])]);

    for number in [0, -1, i64::MAX, i64::MIN] {
        let sql = "UPDATE org SET low_balance = $1 WHERE id = 'default'";
        assert_eq!(run(&db, sql, vec![number.into()]).await.unwrap(), 1);
        let rows = db.query("SELECT low_balance, deleted_at FROM org", vec![]).await.unwrap();
        assert_eq!(rows, [Row(vec![number.into(), Value::Null])]);
    }
    let sql = "UPDATE org SET low_balance = $1 WHERE deleted_at IS NULL AND prepaid = $2";
    assert_eq!(run(&db, sql, vec![Value::Null, false.into()]).await.unwrap(), 1);
    let rows = db.query("SELECT low_balance FROM org WHERE id = $1", vec!["default".into()]);
    assert_eq!(rows.await.unwrap()[0].opt_int(0).unwrap(), None);
    assert_eq!(db.query("SELECT id FROM org WHERE id = 'none'", vec![]).await.unwrap(), []);
}

async fn placeholders_are_numbers(db: Db) {
    let sql = "SELECT id, '$3' FROM org WHERE rev = $2 AND id = $1 AND (name = $1 OR rev > $2)";
    let rows = db.query(sql, vec!["default".into(), 1.into()]).await.unwrap();
    assert_eq!(rows, [Row(vec!["default".into(), "$3".into()])]);
    let sql = "SELECT id FROM org ORDER BY id LIMIT $1";
    assert_eq!(db.query(sql, vec![0.into()]).await.unwrap(), []);
    for params in [vec![], vec![1.into(), 2.into()]] {
        let error = db.query(sql, params).await.unwrap_err();
        assert!(matches!(error, DbError::Corrupt(_)), "{error:?}");
    }
}

async fn sums_are_integers(db: Db) {
    let amounts = [10_000, 5, i64::MAX - 20_000, -1];
    for (index, amount) in amounts.into_iter().enumerate() {
        let sql = "INSERT INTO account (id, org, unit, posted, pending) \
                   VALUES ($1, 'o', 'usd', $2, 0)";
        run(&db, sql, vec![format!("a{index}").into(), amount.into()]).await.unwrap();
    }
    let sql = "SELECT sum(posted), count(*), max(posted), min(posted), sum(cap), \
               coalesce(sum(pending), 0) FROM account WHERE org = $1";
    let rows = db.query(sql, vec!["o".into()]).await.unwrap();
    let total: i64 = amounts.iter().sum();
    let expected = [Some(total), Some(4), Some(i64::MAX - 20_000), Some(-1), None, Some(0)];
    assert_eq!(rows, [Row(expected.into_iter().map(Value::from).collect())]);
    let sql = "SELECT org FROM account GROUP BY org HAVING sum(posted) + $1 = $2";
    let rows = db.query(sql, vec![i64::from(-7).into(), (total - 7).into()]).await.unwrap();
    assert_eq!(rows.len(), 1);
    let rows = db.query("SELECT sum(posted) FROM account WHERE posted < 0", vec![]).await.unwrap();
    assert_eq!(rows[0].int(0).unwrap(), -1);
    let rows = db.query("SELECT posted > 0 FROM account ORDER BY id", vec![]).await.unwrap();
    let signs: Vec<i64> = rows.iter().map(|row| row.int(0).unwrap()).collect();
    assert_eq!(signs, [1, 1, 1, 0]);
}

async fn text_is_bytes(db: Db) {
    for name in ["b", "B", "a_", "a:", "ä", "a1", ""] {
        let sql = "INSERT INTO setting (name, value) VALUES ($1, $2)";
        run(&db, sql, vec![name.into(), vec![].into()]).await.unwrap();
    }
    let names =
        |rows: Vec<Row>| -> Vec<String> { rows.iter().map(|row| row.text(0).unwrap()).collect() };
    let rows = db.query("SELECT name FROM setting ORDER BY name", vec![]).await.unwrap();
    assert_eq!(names(rows), ["", "B", "a1", "a:", "a_", "b", "ä"]);
    let sql = "SELECT name FROM setting WHERE name > $1 AND name < $2 ORDER BY name DESC";
    let rows = db.query(sql, vec!["a1".into(), "b".into()]).await.unwrap();
    assert_eq!(names(rows), ["a_", "a:"]);
    let sql = "SELECT name FROM setting WHERE name LIKE $1";
    assert_eq!(names(db.query(sql, vec!["B%".into()]).await.unwrap()), ["B"]);
}

async fn a_reader_cannot_write(db: Db) {
    let error = db.query("UPDATE org SET name = 'x' RETURNING id", vec![]).await.unwrap_err();
    assert!(matches!(error, DbError::Unavailable(_)), "{error:?}");
    let rows = db.query("SELECT name FROM org", vec![]).await.unwrap();
    assert_eq!(rows[0].text(0).unwrap(), "default");
}

async fn commits_are_visible_at_once(db: Db) {
    for durability in [Durability::Process, Durability::Full, Durability::Process] {
        for _ in 0..20 {
            let sql =
                "UPDATE revision SET value = value + 1 WHERE name = 'tenants' RETURNING value";
            let value = db
                .transaction(durability, move |tx| {
                    async move { tx.query(sql, &[]).await?[0].int(0) }.boxed()
                })
                .await
                .unwrap();
            let rows = db.query("SELECT value FROM revision", vec![]).await.unwrap();
            assert_eq!(rows[0].int(0).unwrap(), value);
        }
    }
}

async fn updates_are_not_lost(db: Db) {
    const TASKS: i64 = 20;
    const TIMES: i64 = 10;
    run(&db, "UPDATE revision SET value = 0", vec![]).await.unwrap();
    let ids = ["credit:a".to_owned(), "credit:b".to_owned()];
    for id in &ids {
        run(&db, ACCOUNT, vec![id.into(), 0.into()]).await.unwrap();
    }
    let tasks = (0..TASKS).map(|task| {
        let (db, ids) = (db.clone(), ids.clone());
        tokio::spawn(async move {
            for turn in 0..TIMES {
                let ids = ids.clone();
                db.transaction(Durability::Process, move |tx| {
                    let ids = ids.clone();
                    async move {
                        // Read, then write: safe only because the rows are locked.
                        let select = "SELECT posted FROM account";
                        let rows = tx.lock(select, "id", &ids).await?;
                        for (id, row) in ids.iter().zip(&rows) {
                            let sum = row.int(0)? + if task % 2 == 0 { 1 } else { -1 };
                            let sql = "UPDATE account SET posted = $1 WHERE id = $2";
                            tx.execute(sql, &[sum.into(), id.into()]).await?;
                        }
                        tx.execute("UPDATE revision SET value = value + 1", &[]).await
                    }
                    .boxed()
                })
                .await
                .unwrap_or_else(|e| panic!("task {task}, turn {turn}: {e:?}"));
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
    let rows = db.query("SELECT posted FROM account ORDER BY id", vec![]).await.unwrap();
    assert_eq!(rows, [Row(vec![0.into()]), Row(vec![0.into()])]);
    let rows = db.query("SELECT value FROM revision", vec![]).await.unwrap();
    assert_eq!(rows[0].int(0).unwrap(), TASKS * TIMES);
}

async fn an_error_rolls_back(db: Db) {
    let done: Result<(), _> = db
        .transaction(Durability::Full, |tx| {
            async move {
                tx.execute(ACCOUNT, &["credit:x".into(), 1.into()]).await?;
                Err(DbError::Conflict("of my own".to_owned()))
            }
            .boxed()
        })
        .await;
    assert!(matches!(done, Err(DbError::Conflict(name)) if name == "of my own"));
    assert_eq!(count(&db, "account").await, 0);
}

async fn a_panic_rolls_back(db: Db) {
    for round in 0..3 {
        let done = AssertUnwindSafe(db.transaction(Durability::Process, |tx| {
            async move {
                tx.execute(ACCOUNT, &["credit:x".into(), 1.into()]).await?;
                assert_eq!(1, 2, "a panic on purpose");
                Ok(())
            }
            .boxed()
        }))
        .catch_unwind()
        .await;
        assert!(done.is_err());
        assert_eq!(count(&db, "account").await, 0);
        let name = format!("after {round}");
        run(&db, "UPDATE org SET name = $1", vec![name.into()]).await.unwrap();
    }
}

async fn constraints_conflict(db: Db) {
    run(&db, ACCOUNT, vec!["credit:x".into(), 0.into()]).await.unwrap();
    let check = async |sql, params, words: &[&str]| {
        let error = run(&db, sql, params).await.unwrap_err();
        let DbError::Conflict(name) = error else { panic!("{sql}: {error:?}") };
        assert!(words.iter().any(|word| name.contains(word)), "{sql}: {name}");
    };
    let one = || vec!["credit:x".into(), 0.into()];
    check(ACCOUNT, one(), &["account.id", "account_pkey"]).await;
    let over = "UPDATE account SET pending = 101 WHERE id = $1";
    check(over, vec!["credit:x".into()], &["ceiling", "account_check"]).await;
    let negative = "UPDATE account SET pending = -1 WHERE id = $1";
    check(negative, vec!["credit:x".into()], &["pending"]).await;
    let orphan = "INSERT INTO project (id, org, name, created_at, rev) VALUES ('p', $1, 'p', 0, 0)";
    check(orphan, vec!["nobody".into()], &["FOREIGN KEY", "project_org_fkey"]).await;
    let twice =
        "INSERT INTO project (id, org, name, created_at, rev) VALUES ('p', 'default', $1, 0, 0)";
    check(twice, vec!["default".into()], &["project.org", "project_org_name_key"]).await;
    let nothing = "UPDATE org SET name = $1";
    check(nothing, vec![Value::Null], &["org.name", "name"]).await;
    // Up to the ceiling is allowed, and nothing of the refused is left.
    run(&db, "UPDATE account SET pending = 100", vec![]).await.unwrap();
    assert_eq!(count(&db, "project").await, 1);
}

async fn a_spoiled_transaction_is_not_committed(db: Db) {
    let error = db
        .transaction(Durability::Process, |tx| {
            async move {
                tx.execute(ACCOUNT, &["credit:x".into(), 0.into()]).await?;
                let twice = tx.execute(ACCOUNT, &["credit:x".into(), 0.into()]).await;
                assert!(matches!(twice, Err(DbError::Conflict(_))), "{twice:?}");
                let later = tx.execute(ACCOUNT, &["credit:y".into(), 0.into()]).await;
                assert!(later.is_err());
                Ok(())
            }
            .boxed()
        })
        .await
        .unwrap_err();
    assert!(matches!(error, DbError::Corrupt(_)), "{error:?}");
    assert_eq!(count(&db, "account").await, 0);
}

async fn wrong_values_are_refused(db: Db) {
    let check = async |sql, params| {
        let error = run(&db, sql, params).await.unwrap_err();
        assert!(matches!(error, DbError::Corrupt(_)), "{sql}: {error:?}");
    };
    check("UPDATE org SET rev = $1", vec!["x".into()]).await;
    check("UPDATE org SET name = $1", vec![vec![7].into()]).await;
    check("UPDATE org SET name = \"default\"", vec![]).await;
    check("UPDATE nothing SET name = 1", vec![]).await;
    check("what is this", vec![]).await;
}

async fn locked_rows_come_in_order(db: Db) {
    for id in ["b", "a:", "a_", "B"] {
        run(&db, ACCOUNT, vec![id.into(), 0.into()]).await.unwrap();
    }
    let ids = ["b", "B", "a_", "none", "b", "a:"].map(str::to_owned);
    let rows = db
        .transaction(Durability::Process, move |tx| {
            let ids = ids.clone();
            async move { tx.lock("SELECT id FROM account", "id", &ids).await }.boxed()
        })
        .await
        .unwrap();
    let found: Vec<String> = rows.iter().map(|row| row.text(0).unwrap()).collect();
    assert_eq!(found, ["B", "a:", "a_", "b"]);
    let none = |tx: &mut super::super::Tx<'_>| {
        let rows = tx.lock("SELECT id FROM account", "id", &[]).now_or_never();
        rows.is_none_or(|rows| rows.unwrap().is_empty())
    };
    let empty = db.transaction(Durability::Process, move |tx| {
        let empty = none(tx);
        async move { Ok(empty) }.boxed()
    });
    assert!(empty.await.unwrap());
}

static SETTINGS: Insert = Insert { into: "setting (name, value)", columns: 2, conflict: "" };
static COUNTERS: Insert = Insert {
    into: "revision (name, value)",
    columns: 2,
    conflict: "ON CONFLICT (name) DO UPDATE SET value = revision.value + excluded.value",
};

async fn insert(db: &Db, insert: &'static Insert, rows: Vec<Vec<Value>>) -> Result<(), DbError> {
    db.transaction(Durability::Process, move |tx| {
        let rows = rows.clone();
        async move { tx.insert_many(insert, &rows).await }.boxed()
    })
    .await
}

async fn many_rows_go_in_at_once(db: Db) {
    let mut stored = 0;
    for size in [0, 1, 3, 4, 5, 16, 63, 64, 65, 149, 300_i64] {
        let value = |row: i64| Value::Bytes(vec![7; row as usize]);
        let rows = (0..size).map(|row| vec![format!("{size}/{row}").into(), value(row)]);
        insert(&db, &SETTINGS, rows.collect()).await.unwrap();
        stored += size;
        assert_eq!(count(&db, "setting").await, stored);
    }
    let sql = "SELECT value FROM setting WHERE name = '300/299'";
    assert_eq!(db.query(sql, vec![]).await.unwrap()[0].bytes(0).unwrap(), [7; 299]);
    // The last of many is one too many: none stays.
    let mut rows: Vec<Vec<Value>> =
        (0..100).map(|row| vec![format!("new {row}").into(), vec![].into()]).collect();
    rows.push(vec!["1/0".into(), vec![].into()]);
    let error = insert(&db, &SETTINGS, rows).await.unwrap_err();
    assert!(matches!(error, DbError::Conflict(_)), "{error:?}");
    let short = insert(&db, &SETTINGS, vec![vec!["short".into()]]).await.unwrap_err();
    assert!(matches!(short, DbError::Corrupt(_)), "{short:?}");
    assert_eq!(count(&db, "setting").await, stored);
}

async fn a_row_may_come_twice(db: Db) {
    for round in 1..=2_i64 {
        let rows = (0..200_i64).map(|n| vec![format!("counter {}", n % 3).into(), n.into()]);
        insert(&db, &COUNTERS, rows.collect()).await.unwrap();
        let sql = "SELECT value FROM revision WHERE name LIKE 'counter%' ORDER BY name";
        let rows = db.query(sql, vec![]).await.unwrap();
        let sums: Vec<i64> = rows.iter().map(|row| row.int(0).unwrap()).collect();
        let sum = |rest: i64| round * (0..200).filter(|n| n % 3 == rest).sum::<i64>();
        assert_eq!(sums, [sum(0), sum(1), sum(2)]);
    }
}

async fn work_goes_on_without_its_caller(db: Db) {
    let calls = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&calls);
    let worker = db.clone();
    let caller = tokio::spawn(async move {
        worker
            .transaction(Durability::Full, move |tx| {
                counter.fetch_add(1, Ordering::SeqCst);
                async move { tx.execute(ACCOUNT, &["credit:x".into(), 1.into()]).await }.boxed()
            })
            .await
    });
    while calls.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    caller.abort();
    for _ in 0..200 {
        if count(&db, "account").await == 1 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the transaction ended with its caller");
}

async fn statements_of_any_number(db: Db) {
    for number in 0..600 {
        let sql = format!("SELECT {number} FROM org WHERE rev >= $1");
        let rows = db.query(sql.clone(), vec![1.into()]).await.unwrap();
        assert_eq!(rows[0].int(0).unwrap(), number);
        let rows = db.transaction(Durability::Process, move |tx| {
            let sql = sql.clone();
            async move { tx.query(&sql, &[1.into()]).await }.boxed()
        });
        assert_eq!(rows.await.unwrap()[0].int(0).unwrap(), number);
    }
}

async fn a_transaction_sees_its_own_writes(db: Db) {
    db.transaction(Durability::Process, |tx| {
        async move {
            assert_eq!(tx.execute(ACCOUNT, &["credit:x".into(), 5.into()]).await?, 1);
            let sql = "UPDATE account SET posted = posted + $1 WHERE id = $2 RETURNING posted";
            let rows = tx.query(sql, &[2.into(), "credit:x".into()]).await?;
            assert_eq!(rows, [Row(vec![7.into()])]);
            assert_eq!(tx.execute(sql, &[2.into(), "nobody".into()]).await?, 0);
            assert_eq!(tx.execute(sql, &[2.into(), "credit:x".into()]).await?, 1);
            let rows = tx.query("SELECT posted FROM account", &[]).await?;
            assert_eq!(rows, [Row(vec![9.into()])]);
            Ok(())
        }
        .boxed()
    })
    .await
    .unwrap();
}
