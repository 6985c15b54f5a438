//! What only PostgreSQL has: other writers, a network, connections that die.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::join_all};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{Barrier, watch},
};

use super::{
    super::{
        Db, DbError, DbSettings, Durability,
        testing::{on_postgres, open},
    },
    add_one, advice, revision,
};

#[tokio::test]
async fn a_locked_row_makes_others_wait() {
    on_postgres(|url| async move {
        let db = open(&url).await;
        let other = open(&url).await;
        let (locked, is_locked) = watch::channel(false);
        let (release, released) = watch::channel(false);
        let holder = tokio::spawn(async move {
            other
                .transaction(Durability::Process, move |tx| {
                    let (locked, mut released) = (locked.clone(), released.clone());
                    async move {
                        let keys = ["tenants".to_owned()];
                        let rows = tx.lock("SELECT value FROM revision", "name", &keys).await?;
                        locked.send_replace(true);
                        released.wait_for(|released| *released).await.unwrap();
                        let sum = rows[0].int(0)? + 10;
                        tx.execute("UPDATE revision SET value = $1", &[sum.into()]).await
                    }
                    .boxed()
                })
                .await
        });
        is_locked.clone().wait_for(|locked| *locked).await.unwrap();
        let waiter = tokio::spawn(async move { (add_one(&db, Durability::Process).await, db) });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!waiter.is_finished());
        release.send_replace(true);
        holder.await.unwrap().unwrap();
        let (value, db) = waiter.await.unwrap();
        assert_eq!(value.unwrap(), 12);
        assert_eq!(revision(&db).await, 12);
    })
    .await;
}

#[tokio::test]
async fn a_deadlock_is_done_again() {
    on_postgres(|url| async move {
        let db = open(&url).await;
        let calls = Arc::new(AtomicU32::new(0));
        let barrier = Arc::new(Barrier::new(2));
        let run = |first: &'static str, second: &'static str| {
            let (calls, barrier) = (Arc::clone(&calls), Arc::clone(&barrier));
            db.transaction(Durability::Process, move |tx| {
                let first_time = calls.fetch_add(1, Ordering::SeqCst) < 2;
                let barrier = Arc::clone(&barrier);
                async move {
                    tx.execute(first, &[]).await?;
                    if first_time {
                        barrier.wait().await;
                    }
                    tx.execute(second, &[]).await
                }
                .boxed()
            })
        };
        let tenants = "UPDATE revision SET value = value + 1";
        let org = "UPDATE org SET rev = rev + 1";
        let (one, two) = tokio::join!(run(tenants, org), run(org, tenants));
        assert_eq!((one.unwrap(), two.unwrap()), (1, 1));
        assert!(calls.load(Ordering::SeqCst) >= 3);
        assert_eq!(revision(&db).await, 3);
    })
    .await;
}

#[tokio::test]
async fn a_failed_order_is_done_again() {
    on_postgres(|url| async move {
        let db = open(&url).await;
        let calls = Arc::new(AtomicU32::new(0));
        let barrier = Arc::new(Barrier::new(2));
        let run = || {
            let (calls, barrier) = (Arc::clone(&calls), Arc::clone(&barrier));
            db.transaction(Durability::Full, move |tx| {
                let first_time = calls.fetch_add(1, Ordering::SeqCst) < 2;
                let barrier = Arc::clone(&barrier);
                async move {
                    tx.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", &[]).await?;
                    let sum = tx.query("SELECT sum(value) FROM revision", &[]).await?[0].int(0)?;
                    if first_time {
                        barrier.wait().await;
                    }
                    let name = format!("after {sum}");
                    let sql = "INSERT INTO revision (name, value) VALUES ($1, 1)";
                    tx.execute(sql, &[name.into()]).await
                }
                .boxed()
            })
        };
        let (one, two) = tokio::join!(run(), run());
        assert_eq!((one.unwrap(), two.unwrap()), (1, 1));
        assert!(calls.load(Ordering::SeqCst) >= 3);
        let rows = db.query("SELECT name FROM revision ORDER BY name", vec![]).await.unwrap();
        let names: Vec<String> = rows.iter().map(|row| row.text(0).unwrap()).collect();
        assert_eq!(names, ["after 1", "after 2", "tenants"]);
    })
    .await;
}

#[tokio::test]
async fn commits_are_as_durable_as_asked() {
    on_postgres(|url| async move {
        let db = open(&url).await;
        let setting = |durability| {
            db.transaction(durability, |tx| {
                let sql = "SELECT current_setting('synchronous_commit')";
                async move { tx.query(sql, &[]).await?[0].text(0) }.boxed()
            })
        };
        for _ in 0..2 {
            assert_eq!(setting(Durability::Process).await.unwrap(), "off");
            assert_eq!(setting(Durability::Full).await.unwrap(), "on");
        }
        // Also where the server is set up to be quick.
        let (client, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let sql = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', \
                   current_database()); END $$";
        client.batch_execute(sql).await.unwrap();
        let quick = open(&url).await;
        let sql = "SELECT current_setting('synchronous_commit')";
        let found = quick
            .transaction(Durability::Full, move |tx| {
                async move { tx.query(sql, &[]).await?[0].text(0) }.boxed()
            })
            .await;
        assert_eq!(found.unwrap(), "on");
    })
    .await;
}

/// As a restart or a failover does to idle connections.
#[tokio::test]
async fn killed_connections_are_replaced() {
    on_postgres(|url| async move {
        let db = open(&url).await;
        let (client, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        for round in 1..=5 {
            // Several of each kind lie in the pools.
            let busy = (0..8).map(|_| async {
                add_one(&db, Durability::Process).await.unwrap();
                revision(&db).await;
            });
            join_all(busy).await;
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                       WHERE datname = current_database() AND pid <> pg_backend_pid()";
            let killed: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
            assert!(killed >= 2, "{killed}");
            if round % 2 == 0 {
                assert!(revision(&db).await > 1);
            }
            add_one(&db, Durability::Process).await.unwrap();
            assert_eq!(revision(&db).await, 1 + round * 9);
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_only_reads_is_an_outage() {
    on_postgres(|url| async move {
        let db = open(&url).await;
        let error = db
            .transaction(Durability::Process, |tx| {
                async move {
                    tx.execute("SET TRANSACTION READ ONLY", &[]).await?;
                    tx.execute("UPDATE org SET rev = rev + 1", &[]).await
                }
                .boxed()
            })
            .await
            .unwrap_err();
        assert!(advice(&error).contains("primary"), "{error:?}");
        add_one(&db, Durability::Process).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn more_may_wait_than_there_are_connections() {
    on_postgres(|url| async move {
        let db = Db::open(&DbSettings { url, max_connections: 1 }).await.unwrap();
        let before = revision(&db).await;
        // Longer in all than a server that is gone is waited for.
        let slow = (0..30).map(|_| {
            db.transaction(Durability::Process, |tx| {
                async move {
                    tx.query("SELECT pg_sleep(0.05)::text", &[]).await?;
                    tx.execute("UPDATE revision SET value = value + 1", &[]).await
                }
                .boxed()
            })
        });
        for done in join_all(slow).await {
            done.unwrap();
        }
        assert_eq!(revision(&db).await, before + 30);
    })
    .await;
}

#[tokio::test]
async fn what_is_no_database_is_an_outage() {
    on_postgres(|url| async move {
        let refused = async |url: String| {
            Db::open(&DbSettings { url, max_connections: 2 }).await.unwrap_err()
        };
        let missing = format!("{url}_missing");
        assert!(advice(&refused(missing).await).contains("no such database"));
        let mut stranger = url::Url::parse(&url).unwrap();
        stranger.set_username("nobody_of_this_name").unwrap();
        let error = refused(stranger.into()).await;
        assert!(advice(&error).contains("user or password"), "{error:?}");
    })
    .await;
}

/// What a proxy does with its connections.
#[derive(Clone, Copy, PartialEq)]
enum Line {
    Open,
    /// Nothing comes through, and nobody says so.
    Silent,
    /// New ones are closed, and so are those there were.
    Cut,
}

/// A proxy before the server, whose line can be broken.
async fn proxy(server: &str) -> (String, watch::Sender<Line>) {
    let mut url = url::Url::parse(server).unwrap();
    let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
    let (sender, line) = watch::channel(Line::Open);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (mut line, target) = (line.clone(), target.clone());
            tokio::spawn(async move {
                if *line.borrow() == Line::Open {
                    let mut far = TcpStream::connect(target).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => return,
                        _ = line.wait_for(|line| *line != Line::Open) => {}
                    }
                }
                let _ = line.wait_for(|line| *line == Line::Cut).await;
            });
        }
    });
    (url.into(), sender)
}

#[tokio::test]
async fn a_server_that_is_gone_is_noticed_within_a_second() {
    on_postgres(|server| async move {
        let (url, line) = proxy(&server).await;
        let db = open(&url).await;
        for broken in [Line::Silent, Line::Cut, Line::Silent] {
            // Some connections lie in the pools, and some are in use.
            join_all((0..3).map(|_| add_one(&db, Durability::Process))).await;
            let value = revision(&db).await;
            line.send_replace(broken);
            for _ in 0..2 {
                let begun = Instant::now();
                let writes = join_all((0..20).map(|_| add_one(&db, Durability::Full)));
                let reads = join_all((0..20).map(|_| db.query("SELECT 1", vec![])));
                let (writes, reads) = tokio::join!(writes, reads);
                let waited = begun.elapsed();
                for error in writes
                    .into_iter()
                    .map(Result::unwrap_err)
                    .chain(reads.into_iter().map(Result::unwrap_err))
                {
                    let DbError::Unavailable(outage) = &error else { panic!("{error:?}") };
                    assert!(!outage.is_ambiguous(), "{error:?}");
                }
                assert!(waited < Duration::from_millis(1300), "{waited:?}");
            }
            line.send_replace(Line::Cut);
            line.send_replace(Line::Open);
            assert_eq!(add_one(&db, Durability::Full).await.unwrap(), value + 1);
            assert_eq!(revision(&db).await, value + 1);
        }
    })
    .await;
}

/// Nobody knows what came of a commit whose answer was lost, and the error says so.
#[tokio::test]
async fn a_commit_without_an_answer_is_ambiguous() {
    on_postgres(|server| async move {
        let (url, line) = proxy(&server).await;
        let db = open(&url).await;
        let cut = line.clone();
        let error = db
            .transaction(Durability::Full, move |tx| {
                let line = cut.clone();
                async move {
                    let done = tx.execute("UPDATE revision SET value = value + 1", &[]).await;
                    line.send_replace(Line::Cut);
                    done
                }
                .boxed()
            })
            .await
            .unwrap_err();
        let DbError::Unavailable(outage) = &error else { panic!("{error:?}") };
        assert!(outage.is_ambiguous(), "{error:?}");
        line.send_replace(Line::Open);
        add_one(&db, Durability::Full).await.unwrap();
    })
    .await;
}
