use super::*;
use crate::{
    db::testing,
    tenant::{
        Period, Scope, budgets,
        role::Actor,
        store::{
            Change,
            keys::{self, Created, KeyBudget, Rights, RightsChange},
            orgs, projects, provider_keys as provider_store,
        },
    },
};

fn sealer() -> Arc<Sealer> {
    Arc::new(Sealer::new([7; 32].into(), []))
}

fn directory(db: &Db, statics: Vec<StaticKey>) -> Arc<Directory> {
    Arc::new(Directory::new(db.clone(), sealer(), statics))
}

fn root() -> Actor {
    Actor::above_all("test")
}

async fn key(db: &Db, project: &str, rights: Rights, budget: Option<KeyBudget>) -> Created {
    let pepper = Pepper::of(&sealer());
    keys::create(db, &pepper, &root(), project, rights, budget, 1000).await.unwrap()
}

async fn good(directory: &Directory, text: &str, now: i64) -> bool {
    match directory.authenticate(text, now).await {
        Ok(_) => true,
        Err(Refused::Unknown) => false,
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_key_works_until_it_is_revoked_or_ends() {
    testing::each(|db| async move {
        let directory = directory(&db, Vec::new());
        directory.refresh().await.unwrap();
        // Made after the directory was read: found at once.
        let forever = key(&db, DEFAULT, Rights::all("ci"), None).await;
        let text = forever.text.expose();
        let grant = directory.authenticate(text, 2000).await.unwrap();
        assert_eq!((&*grant.key_id, &*grant.key_name), (&*forever.key.id, "ci"));
        assert_eq!((&*grant.org, &*grant.project), (DEFAULT, DEFAULT));
        let rights = Rights { expires_at: Some(5000), ..Rights::all("short") };
        let short = key(&db, DEFAULT, rights, None).await;
        for (now, yes) in [(0, true), (4999, true), (5000, false), (i64::MAX, false), (4999, true)]
        {
            assert_eq!(good(&directory, short.text.expose(), now).await, yes, "{now}");
        }
        keys::revoke(&db, &root(), &forever.key.id, 3000).await.unwrap();
        assert!(good(&directory, text, 3000).await, "nobody told the directory yet");
        directory.refresh().await.unwrap();
        assert!(!good(&directory, text, 3000).await);
        assert!(good(&directory, short.text.expose(), 3000).await);
        // One that was never made, and its secret under an id that is good.
        let pepper = Pepper::of(&sealer());
        let stranger = pepper.mint(Kind::Data).unwrap();
        let stranger = stranger.text.expose();
        let forged = format!("{}{}", short.key.id, &stranger[19..stranger.len() - 6]);
        for text in [stranger, &key::tests::with_checksum(&forged)] {
            assert!(!good(&directory, text, 3000).await, "{text}");
        }
        let operators = pepper.mint(Kind::Admin).unwrap();
        for text in [operators.text.expose(), "", "sk-1", "mga_"] {
            assert!(!good(&directory, text, 3000).await, "{text}");
        }
        let cut = &short.text.expose()[..60];
        assert!(matches!(directory.authenticate(cut, 3000).await, Err(Refused::Mistyped)));
    })
    .await;
}

#[tokio::test]
async fn changes_arrive_at_every_replica_within_a_second() {
    testing::each_url(|url| async move {
        let (one, two) = (testing::open(&url).await, testing::open(&url).await);
        let (here, there) = (directory(&one, Vec::new()), directory(&two, Vec::new()));
        let stop = CancellationToken::new();
        for directory in [&here, &there] {
            directory.refresh().await.unwrap();
            tokio::spawn(Arc::clone(directory).watch(stop.clone()));
        }
        let made = key(&one, DEFAULT, Rights::all("ci"), None).await;
        for directory in [&here, &there] {
            assert!(good(directory, made.text.expose(), 2000).await);
        }
        let slow = RightsChange { rpm: Change::To(3), ..RightsChange::default() };
        keys::update(&one, &root(), &made.key.id, slow, 2000).await.unwrap();
        let begun = Instant::now();
        while there.authenticate(made.text.expose(), 2000).await.unwrap().limits.rpm != Some(3) {
            assert!(begun.elapsed() < Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        keys::revoke(&one, &root(), &made.key.id, 3000).await.unwrap();
        let begun = Instant::now();
        for directory in [&here, &there] {
            while good(directory, made.text.expose(), 3000).await {
                assert!(begun.elapsed() < Duration::from_secs(1));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        stop.cancel();
    })
    .await;
}

#[tokio::test]
async fn a_grant_has_the_budgets_of_all_above_it() {
    testing::each(|db| async move {
        let root = root();
        let org = orgs::create(&db, &root, "acme", true, None, 1).await.unwrap();
        let project = projects::create(&db, &root, &org.id, "site", 1).await.unwrap();
        let own = KeyBudget { usd: 5_000_000_000, period: Period::Month };
        let made = key(&db, &project.id, Rights::all("ci"), Some(own)).await;
        let other = key(&db, DEFAULT, Rights::all("other"), None).await;
        let directory = directory(&db, Vec::new());
        directory.refresh().await.unwrap();
        for (scope, id) in [
            (Scope::User, "*"),
            (Scope::Project, project.id.as_str()),
            (Scope::Org, org.id.as_str()),
        ] {
            let new = budgets::NewBudget {
                name: "cap".to_owned(),
                scope,
                scope_id: id.to_owned(),
                unit: "image".to_owned(),
                period: Period::Day,
                amount: 7_000_000,
                alert_percent: Some(80),
            };
            crate::usage::budgets::create(&db, &root, &org.id, new, 2).await.unwrap();
        }
        directory.refresh().await.unwrap();
        let grant = directory.authenticate(made.text.expose(), 3).await.unwrap();
        let scopes: Vec<Scope> = grant.budgets.iter().map(|b| b.scope).collect();
        assert_eq!(scopes, [Scope::Key, Scope::User, Scope::Project, Scope::Org]);
        assert_eq!(grant.budgets[0], made.budget.clone().unwrap());
        assert_eq!(grant.budgets[0].amount, 5_000_000_000);
        assert!(grant.prepaid);
        let other = directory.authenticate(other.text.expose(), 3).await.unwrap();
        assert!(other.budgets.is_empty() && !other.prepaid);
        // The project goes, and with it the key; the default one stays.
        projects::delete(&db, &root, &project.id, 4).await.unwrap();
        directory.refresh().await.unwrap();
        assert!(!good(&directory, made.text.expose(), 5).await);
        assert!(projects::delete(&db, &root, DEFAULT, 4).await.is_err());
        assert!(orgs::delete(&db, &root, DEFAULT, 4).await.is_err());
        orgs::delete(&db, &root, &org.id, 5).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn keys_of_the_configuration_have_rights_like_any_other() {
    testing::each(|db| async move {
        let project = projects::create(&db, &root(), DEFAULT, "site", 1).await.unwrap();
        let budget = Budget {
            id: "static-ci".to_owned(),
            name: "ci".to_owned(),
            scope: Scope::Key,
            scope_id: "static:ci".to_owned(),
            unit: "usd".to_owned(),
            period: Period::Total,
            amount: 1,
            alert_percent: None,
        };
        let ci = StaticKey {
            name: "ci".to_owned(),
            sha256: Sha256::digest(b"hunter2").into(),
            project: "site".to_owned(),
            budget: Some(budget.clone()),
            ..StaticKey::open()
        };
        let directory = directory(&db, vec![ci]);
        // Before the first reading nobody is let in, and nobody is called wrong.
        assert!(matches!(directory.open(), Err(Refused::Unavailable(_))));
        let grant = directory.authenticate("hunter2", 0).await.unwrap();
        assert_eq!((&*grant.key_id, &*grant.project), ("static:ci", &*project.id));
        assert_eq!(grant.budgets, [budget]);
        assert!(!good(&directory, "hunter3", 0).await);
        let open = directory.open().unwrap();
        assert_eq!((&*open.key_id, &*open.project, &*open.org), ("open", DEFAULT, DEFAULT));
    })
    .await;
}

#[tokio::test]
async fn a_projects_own_key_is_opened_for_it_alone() {
    testing::each(|db| async move {
        let directory = directory(&db, Vec::new());
        directory.refresh().await.unwrap();
        let secret = |text: &str| Secret::new(text.to_owned());
        let give = async |text: &str| {
            let (root, secret) = (root(), secret(text));
            provider_store::create(&db, &sealer(), &root, DEFAULT, "fal", &secret, 1).await.unwrap()
        };
        give("first").await;
        let second = give("second").await;
        directory.refresh().await.unwrap();
        let key = directory.provider_key(DEFAULT, "fal").unwrap();
        assert_eq!((&key.id, &key.secret), (&second.id, &Some(secret("second"))));
        assert!(directory.provider_key(DEFAULT, "bfl").is_none());
        assert!(directory.provider_key("other", "fal").is_none());
        // Under another master key it stays shut, and is not mistaken for absent.
        let stranger = Arc::new(Sealer::new([8; 32].into(), []));
        let shut = Directory::new(db.clone(), stranger, Vec::new());
        shut.refresh().await.unwrap();
        assert!(shut.provider_key(DEFAULT, "fal").unwrap().secret.is_none());
        provider_store::delete(&db, &root(), &second.id, 2).await.unwrap();
        directory.refresh().await.unwrap();
        assert!(directory.provider_key(DEFAULT, "fal").is_none());
        let kept = db.query("SELECT sealed FROM provider_key", Vec::new()).await.unwrap();
        assert!(kept.iter().all(|row| row.bytes(0).unwrap().is_empty()));
    })
    .await;
}

#[tokio::test]
async fn yesterdays_copy_is_believed() {
    testing::each(|db| async move {
        let directory = directory(&db, Vec::new());
        let made = key(&db, DEFAULT, Rights::all("ci"), None).await;
        directory.refresh().await.unwrap();
        assert!(good(&directory, made.text.expose(), 1).await);
        // As if restored: the key was not there, and the revision is lower.
        db.transaction(crate::db::Durability::Process, |tx| {
            Box::pin(async move {
                tx.execute("DELETE FROM api_key", &[]).await?;
                tx.execute("UPDATE revision SET value = 1", &[]).await?;
                Ok(())
            })
        })
        .await
        .unwrap();
        directory.refresh().await.unwrap();
        assert!(!good(&directory, made.text.expose(), 1).await);
    })
    .await;
}

#[tokio::test]
async fn unknown_keys_share_one_look() {
    testing::on_sqlite(|url| async move {
        let db = testing::open(&url).await;
        let directory = directory(&db, Vec::new());
        directory.refresh().await.unwrap();
        let pepper = Pepper::of(&sealer());
        let begun = Instant::now();
        let asked = (0..200).map(|_| {
            let (directory, text) = (Arc::clone(&directory), pepper.mint(Kind::Data).unwrap().text);
            async move { assert!(!good(&directory, text.expose(), 1).await) }
        });
        futures_util::future::join_all(asked).await;
        // Two looks at most: one under way, one for those who came later.
        assert!(begun.elapsed() < 4 * MISS, "{:?}", begun.elapsed());
    })
    .await;
}

/// Makes the database fail every look at the tenants, or work again.
async fn break_tenants(db: &Db, is_broken: bool) {
    let sql = if is_broken {
        "ALTER TABLE revision RENAME TO lost"
    } else {
        "ALTER TABLE lost RENAME TO revision"
    };
    db.transaction(crate::db::Durability::Process, move |tx| {
        Box::pin(async move { tx.execute(sql, &[]).await.map(drop) })
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_database_that_is_away_makes_no_key_wrong() {
    testing::each(|db| async move {
        let directory = directory(&db, Vec::new());
        let known = key(&db, DEFAULT, Rights::all("known"), None).await;
        directory.refresh().await.unwrap();
        let late = key(&db, DEFAULT, Rights::all("late"), None).await;
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&directory).watch(stop.clone()));
        break_tenants(&db, true).await;
        let begun = Instant::now();
        assert!(good(&directory, known.text.expose(), 1).await);
        let stranger = Pepper::of(&sealer()).mint(Kind::Data).unwrap();
        for text in [late.text.expose(), stranger.text.expose()] {
            let answer = directory.authenticate(text, 1).await;
            assert!(matches!(answer, Err(Refused::Unavailable(_))), "{answer:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(1));
        // What needs no look stays what it is.
        assert!(!good(&directory, "sk-foreign", 1).await);
        while directory.is_current() {
            assert!(begun.elapsed() < SILENCE + Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(good(&directory, known.text.expose(), 1).await);
        // It comes back without anybody's help, as a copy from before `known` was made, that went
        // on elsewhere.
        db.transaction(crate::db::Durability::Process, |tx| {
            Box::pin(async move {
                tx.execute("DELETE FROM api_key WHERE name = 'known'", &[]).await?;
                tx.execute("UPDATE lost SET value = value + 5", &[]).await.map(drop)
            })
        })
        .await
        .unwrap();
        break_tenants(&db, false).await;
        let begun = Instant::now();
        while !directory.is_current() {
            assert!(begun.elapsed() < Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(good(&directory, late.text.expose(), 1).await);
        for text in [stranger.text.expose(), known.text.expose()] {
            assert!(!good(&directory, text, 1).await);
        }
        stop.cancel();
    })
    .await;
}

/// `cargo test --release --lib the_check_takes -- --ignored --nocapture`: Welch's t between keys
/// that are wrong in the first and in the last character of their secret, and what a check costs.
#[tokio::test]
#[ignore = "a million timings; wants a quiet machine and a release build"]
async fn the_check_takes_as_long_wherever_a_key_is_wrong() {
    const SAMPLES: usize = 1_200_000;
    // Reading takes a little longer for some letters than for others, which tells nothing but what
    // the caller sent; over many keys that is the same for both.
    const KEYS: usize = 20_000;
    testing::on_sqlite(|url| async move {
        let db = testing::open(&url).await;
        let directory = directory(&db, Vec::new());
        directory.refresh().await.unwrap();
        let grant = directory.open().unwrap();
        let pepper = Pepper::of(&sealer());
        // Another letter, as likely as any: what is sent looks the same wherever it is wrong.
        let wrong = |text: &str, at: usize| {
            let mut body = text[..text.len() - 6].to_owned().into_bytes();
            let own = body[at];
            while body[at] == own {
                let other = pepper.mint(Kind::Data).unwrap();
                body[at] = other.text.expose().as_bytes()[at];
            }
            key::tests::with_checksum(&String::from_utf8(body).unwrap())
        };
        let tokens: Vec<[String; 2]> = (0..KEYS)
            .map(|_| {
                let minted = pepper.mint(Kind::Data).unwrap();
                let entry = Entry { hash: minted.hash, grant: Some(Arc::clone(&grant)) };
                let id = rows::number(&minted.id).unwrap();
                directory.published.write().keys.insert(id, entry);
                let text = minted.text.expose();
                [wrong(text, 20), wrong(text, text.len() - 7)]
            })
            .collect();
        let mut order = vec![0_u8; 2 * SAMPLES];
        getrandom::fill(&mut order).unwrap();
        let mut times: [Vec<u64>; 2] = [Vec::new(), Vec::new()];
        // Always in the same place: how a text lies in the cache would be measured, too.
        let mut token = String::new();
        for (pair, byte) in tokens.iter().cycle().zip(order) {
            let which = usize::from(byte & 1);
            token.clear();
            token.push_str(&pair[which]);
            let begun = std::time::Instant::now();
            let look = std::hint::black_box(directory.look(&token, 1));
            let took = begun.elapsed();
            assert!(matches!(look, Look::Refused(Refused::Unknown)));
            times[which].push(u64::try_from(took.as_nanos()).unwrap());
        }
        // Interrupts would drown everything: the slowest hundredth of all is cut.
        let mut all: Vec<u64> = times.concat();
        all.sort_unstable();
        let most = all[all.len() * 99 / 100];
        let [(n, mean, variance), (n2, mean2, variance2)] = times.map(|times| {
            let kept: Vec<f64> =
                times.into_iter().filter(|t| *t <= most).map(|t| t as f64).collect();
            let n = kept.len() as f64;
            let mean = kept.iter().sum::<f64>() / n;
            let variance = kept.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / (n - 1.0);
            (n, mean, variance)
        });
        let t = (mean - mean2) / (variance / n + variance2 / n2).sqrt();
        println!("first: {mean:.1} ns, last: {mean2:.1} ns, t = {t:.2} of {} samples", n + n2);
        assert!(t.abs() < 4.5);
    })
    .await;
}
