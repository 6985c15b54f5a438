//! Two gateways on one PostgreSQL: one is killed, and the other finishes its jobs.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::time::sleep;

use super::{
    books::{Books, compare},
    rig::{Ask, Fate, Gate, Setup, Simulator},
};

/// A job of a replica that is gone is finished by another within this time (G7).
const TAKEN: Duration = Duration::from_secs(20);

/// A database of its own on the test's server, dropped at the end by [`gone`].
async fn database() -> Option<(tokio_postgres::Client, String, String)> {
    #[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
    let Ok(server) = std::env::var("MEDIAGATE_TEST_POSTGRES") else {
        eprintln!("WARNING: REPLICAS WERE NOT TESTED; run scripts/servers cargo test");
        return None;
    };
    let client = connect(&server).await;
    let name = format!("mg_test_{}", uuid::Uuid::new_v4().simple());
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let mut url = url::Url::parse(&server).unwrap();
    url.set_path(&name);
    Some((client, name, url.into()))
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_finishes_what_a_killed_one_began() {
    let Some((server, name, url)) = database().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let simulator = Simulator::start(1, &[]);
    let setup = Setup {
        providers: &[("fal", ""), ("bfl", ""), ("replicate", "")],
        callbacks: false,
        more: "",
    };
    // Replicas share the database, the store, and the master key.
    let data: PathBuf = dir.path().to_path_buf();
    let first = Gate::at(&simulator, setup, data.clone(), &url);
    first.start(None).await;
    let second = Gate::at(&simulator, setup, data, &url);
    second.start(None).await;
    // Slow enough that the kill meets them at work.
    let models = ["fal/flux-1-schnell", "bfl/flux-1-dev", "replicate/flux-1-schnell"];
    let asks: Vec<Ask> = models
        .iter()
        .flat_map(|model| [(model, false), (model, true)])
        .map(|(model, keyed)| Ask { keyed, ..Ask::new(model, "[[fault:slow=3]]") })
        .collect();
    let others = [&second];
    let asking = join_all(asks.iter().map(|ask| first.ask(ask, &others)));
    let ending = async {
        sleep(Duration::from_millis(1500)).await;
        first.kill();
        Instant::now()
    };
    let (fates, killed) = tokio::join!(asking, ending);
    let took = killed.elapsed();
    let fates: Vec<(Ask, Fate)> = asks.into_iter().zip(fates).collect();
    let books = Books::Postgres(connect(&url).await);
    let mut wrong = books.at_rest(Duration::from_secs(30)).await;
    wrong.extend(compare(&second, &books, &simulator, &fates, 1).await.violations);
    for (ask, fate) in &fates {
        if !matches!(fate, Fate::Picture { .. }) {
            wrong.push(format!("{} {fate:?}\n{}", ask.prompt, books.tell(ask).await));
        }
    }
    second.kill();
    wrong.extend(second.leaks());
    drop(books);
    server.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    eprintln!(
        "{} jobs of a killed replica were finished by another within {took:.1?}",
        fates.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(took < TAKEN, "{took:?}");
}
