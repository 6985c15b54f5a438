//! Migrations on both engines.

use futures_util::future::join_all;

use super::{
    super::{Db, DbError, DbSettings, Durability, migrate, testing},
    add_one, revision,
};

#[tokio::test]
async fn a_database_is_made_once_and_found_again() {
    testing::each_url(|url| async move {
        for times in 1..=3 {
            let db = testing::open(&url).await;
            assert_eq!(add_one(&db, Durability::Full).await.unwrap(), 1 + times);
            let rows = db.query("SELECT version, applied_at FROM migration", vec![]).await.unwrap();
            assert_eq!(rows.len(), migrate::MIGRATIONS.len());
            assert_eq!(rows[0].int(0).unwrap(), 1);
            assert!(rows[0].int(1).unwrap() > 1_700_000_000_000);
        }
    })
    .await;
}

#[tokio::test]
async fn many_may_start_at_once() {
    testing::each_url(|url| async move {
        let opened = (0..6).map(|_| {
            let url = url.clone();
            tokio::spawn(async move { testing::open(&url).await })
        });
        let opened: Vec<Db> = join_all(opened).await.into_iter().map(Result::unwrap).collect();
        for db in &opened {
            assert_eq!(revision(db).await, 1);
        }
    })
    .await;
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    testing::each_url(|url| async move {
        let db = testing::open(&url).await;
        db.transaction(Durability::Full, |tx| {
            Box::pin(async { tx.execute("INSERT INTO migration VALUES (41, 0)", &[]).await })
        })
        .await
        .unwrap();
        drop(db);
        let error = Db::open(&DbSettings { url, max_connections: 2 }).await.unwrap_err();
        let DbError::Settings(text) = error else { panic!("{error:?}") };
        let known = migrate::MIGRATIONS.len();
        assert!(text.contains("has version 41"), "{text}");
        assert!(text.contains(&format!("knows {known} at most")), "{text}");
    })
    .await;
}

const GOOD: &str = "CREATE TABLE thing (id TEXT PRIMARY KEY, size INTEGER) STRICT, WITHOUT ROWID;
                    INSERT INTO thing VALUES ('INTEGER', 7);";
const BAD: &str = "CREATE TABLE other (id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
                   INSERT INTO nothing VALUES (1);";
const MENDED: &str = "CREATE TABLE other (id BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;";

/// A migration that fails leaves nothing of itself, and those before it stay.
#[test]
fn a_migration_is_all_or_nothing_on_sqlite() {
    let mut connection = rusqlite::Connection::open_in_memory().unwrap();
    let mut go = |list: &[&str]| migrate::sqlite(&mut connection, list);
    go(&[GOOD]).unwrap();
    assert!(matches!(go(&[GOOD, BAD]).unwrap_err(), DbError::Corrupt(_)));
    go(&[GOOD, MENDED]).unwrap();
    go(&[GOOD, MENDED]).unwrap();
    assert!(matches!(go(&[GOOD]).unwrap_err(), DbError::Settings(_)));
    let sql = "SELECT (SELECT size FROM thing) + (SELECT count(*) FROM other) + max(version) \
               FROM migration";
    assert_eq!(connection.query_one(sql, [], |row| row.get::<_, i64>(0)).unwrap(), 9);
}

#[tokio::test]
async fn a_migration_is_all_or_nothing_on_postgres() {
    testing::on_postgres(|url| async move {
        let go = async |list: &[&str]| {
            let (client, connection) =
                tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            migrate::postgres(&client, list).await.map(|()| client)
        };
        go(&[GOOD]).await.unwrap();
        assert!(matches!(go(&[GOOD, BAD]).await.err(), Some(DbError::Corrupt(_))));
        go(&[GOOD, MENDED]).await.unwrap();
        let client = go(&[GOOD, MENDED]).await.unwrap();
        assert!(matches!(go(&[GOOD]).await.err(), Some(DbError::Settings(_))));
        let sql = "SELECT (SELECT size FROM thing) + (SELECT count(*) FROM other) + max(version) \
                   FROM migration";
        assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 9);
    })
    .await;
}
