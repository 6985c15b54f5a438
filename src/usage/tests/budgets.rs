//! Budgets: made, changed and deleted without touching what was used.

use serde_json::{Value as Json, json};

use super::{account, run, use_up};
use crate::{
    db::{Db, testing},
    tenant::{
        DEFAULT, Period, Scope,
        budgets::NewBudget,
        days,
        role::{Actor, Role},
        store::{Change, Page, StoreError},
    },
    usage::{
        budgets::{self, BudgetChange, Wanted},
        fold::drift,
        when::DAY_MS,
    },
};

const NOW: (i64, i64, i64) = (2026, 9, 15);

fn now() -> i64 {
    days(NOW.0, NOW.1, NOW.2) * DAY_MS + 1
}

fn root() -> Actor {
    Actor::above_all("test")
}

fn new(scope: Scope, scope_id: &str, unit: &str, period: Period, amount: i64) -> NewBudget {
    NewBudget {
        name: "cap".to_owned(),
        scope,
        scope_id: scope_id.to_owned(),
        unit: unit.to_owned(),
        period,
        amount,
        alert_percent: None,
    }
}

/// Use of two keys in two months; `user` is a label like any other.
async fn fill(db: &Db) {
    let (august, september) = (days(2026, 8, 31), days(2026, 9, 14));
    use_up(
        db,
        &[
            (august, "default", "default", "k1", "m", "p", "", "", "image", [1, 1_000_000, 100]),
            (september, "default", "default", "k1", "m", "p", "", "", "image", [2, 2_000_000, 200]),
            (september, "default", "default", "k1", "m", "p", "", "", "request", [2, 2_000_000, 5]),
            (
                september,
                "default",
                "default",
                "k1",
                "m",
                "p",
                "user",
                "ann",
                "image",
                [1, 1_000_000, 100],
            ),
            (september, "default", "default", "k2", "m", "p", "", "", "image", [4, 4_000_000, 400]),
            (september, "other", "default", "k1", "m", "p", "", "", "image", [8, 8_000_000, 800]),
        ],
    )
    .await;
    let key = "INSERT INTO api_key (id, org, project, name, hash, models, endpoints, created_by, \
               created_at, rev) VALUES ('k1', 'default', 'default', 'k', $1, '[]', '[]', 't', 0, 1)";
    run(db, vec![(key, vec![vec![1_u8; 32].into()])]).await;
}

async fn stored(db: &Db) -> Vec<(String, i64, i64, Option<i64>, Option<i64>)> {
    let sql = "SELECT id, posted, pending, cap, ceiling FROM account ORDER BY id";
    let rows = db.query(sql, vec![]).await.unwrap();
    rows.iter()
        .map(|row| {
            let id = row.text(0).unwrap();
            // Ids are random.
            let id = id.split(':').skip(2).collect::<Vec<_>>().join(":");
            (
                id,
                row.int(1).unwrap(),
                row.int(2).unwrap(),
                row.opt_int(3).unwrap(),
                row.opt_int(4).unwrap(),
            )
        })
        .collect()
}

#[tokio::test]
async fn a_budget_starts_from_what_was_used() {
    for (made, accounts) in [
        (new(Scope::Key, "k1", "usd", Period::Month, 1000), vec![("2026-09-01", 205, 1000)]),
        (new(Scope::Key, "k1", "usd", Period::Day, 1000), vec![("2026-09-15", 0, 1000)]),
        (new(Scope::Key, "k1", "usd", Period::Total, 1000), vec![("", 305, 1000)]),
        (
            new(Scope::Key, "k1", "image", Period::Week, 1000),
            vec![("2026-09-14", 2_000_000, 2_000_000)],
        ),
        (
            new(Scope::Project, "default", "image", Period::Month, i64::MAX),
            vec![("2026-09-01", 6_000_000, i64::MAX)],
        ),
        // What is used already is over the limit: it stays used, and nothing more is allowed.
        (new(Scope::Org, "default", "usd", Period::Month, 10), vec![("2026-09-01", 605, 605)]),
        (new(Scope::Org, "default", "usd", Period::Month, 0), vec![("2026-09-01", 605, 605)]),
        (new(Scope::User, "*", "usd", Period::Month, 1000), vec![("2026-09-01:ann", 100, 1000)]),
        (new(Scope::User, "bob", "usd", Period::Month, 1000), vec![]),
    ] {
        testing::each(|db| {
            let (made, accounts) = (made.clone(), accounts.clone());
            async move {
                fill(&db).await;
                let budget =
                    budgets::create(&db, &root(), DEFAULT, made.clone(), now()).await.unwrap();
                let amount = Some(made.amount);
                let wanted: Vec<_> = accounts
                    .iter()
                    .map(|(id, posted, ceiling)| {
                        ((*id).to_owned(), *posted, 0, amount, Some(*ceiling))
                    })
                    .collect();
                assert_eq!(stored(&db).await, wanted, "{made:?}");
                // The opening balance is a transfer like any other.
                assert_eq!(drift(&db).await.unwrap(), [], "{made:?}");
                assert_eq!(budget.budget.amount, made.amount);
            }
        })
        .await;
    }
}

#[tokio::test]
async fn no_field_touches_what_was_used() {
    testing::each(|db| async move {
        fill(&db).await;
        let made = new(Scope::Key, "k1", "usd", Period::Month, 1000);
        let id = budgets::create(&db, &root(), DEFAULT, made, now()).await.unwrap().budget.id;
        // A running job holds 300 of it.
        run(&db, vec![("UPDATE account SET pending = 300", vec![])]).await;
        let used = |posted: i64, cap: i64, ceiling: i64| {
            vec![("2026-09-01".to_owned(), posted, 300, Some(cap), Some(ceiling))]
        };
        for (to, wanted) in [
            (
                BudgetChange { name: Some("new".to_owned()), ..BudgetChange::default() },
                used(205, 1000, 1000),
            ),
            (BudgetChange { amount: Some(2000), ..BudgetChange::default() }, used(205, 2000, 2000)),
            // Below what is used and held: both stay, nothing is added.
            (BudgetChange { amount: Some(400), ..BudgetChange::default() }, used(205, 400, 505)),
            (BudgetChange { amount: Some(0), ..BudgetChange::default() }, used(205, 0, 505)),
            (
                BudgetChange { alert_percent: Change::To(80), ..BudgetChange::default() },
                used(205, 0, 505),
            ),
            (
                BudgetChange { alert_percent: Change::Clear, ..BudgetChange::default() },
                used(205, 0, 505),
            ),
            (BudgetChange { amount: Some(1000), ..BudgetChange::default() }, used(205, 1000, 1000)),
        ] {
            let changed = budgets::update(&db, &root(), &id, to.clone(), now()).await.unwrap();
            assert_eq!(stored(&db).await, wanted, "{to:?}");
            assert_eq!(changed.to_json()["spent_usd"], "0.000000205", "{to:?}");
            assert_eq!(changed.to_json()["held_usd"], "0.000000300", "{to:?}");
        }
        // Another period has an account of its own; the old one stays as it was.
        let to = |period| BudgetChange { period: Some(period), ..BudgetChange::default() };
        let daily = budgets::update(&db, &root(), &id, to(Period::Day), now()).await.unwrap();
        assert_eq!(daily.to_json()["spent_usd"], "0.000000000");
        let monthly = budgets::update(&db, &root(), &id, to(Period::Month), now()).await.unwrap();
        assert_eq!(monthly.to_json()["spent_usd"], "0.000000205");
        assert_eq!(monthly.to_json()["resets_at"], days(2026, 10, 1) * 86_400);
        // Deleted, its accounts are history.
        budgets::delete(&db, &root(), &id, now()).await.unwrap();
        assert_eq!(stored(&db).await.len(), 2);
        let gone = budgets::get(&db, &root(), &id, now()).await;
        assert!(matches!(gone, Err(StoreError::NotFound { .. })));
        // Every change is in the log, and told to every replica.
        let log = db.query("SELECT action FROM audit ORDER BY id", vec![]).await.unwrap();
        assert_eq!(log.len(), 11);
        let rev =
            db.query("SELECT value FROM revision WHERE name = 'tenants'", vec![]).await.unwrap();
        assert_eq!(rev[0].int(0).unwrap(), 12);
    })
    .await;
}

#[tokio::test]
async fn every_user_of_a_budget_gets_the_new_limit() {
    testing::each(|db| async move {
        fill(&db).await;
        let made = new(Scope::User, "*", "usd", Period::Month, 1000);
        let id = budgets::create(&db, &root(), DEFAULT, made, now()).await.unwrap().budget.id;
        for (user, pending) in [("bob", 7), ("a:b'c%", 8)] {
            account(&db, &format!("budget:{id}:2026-09-01:{user}"), "usd", 0, pending, Some(1000))
                .await;
        }
        account(&db, &format!("budget:{id}:2026-08-01:bob"), "usd", 9, 0, Some(1000)).await;
        account(&db, &format!("budget:{id}x:2026-09-01:bob"), "usd", 9, 0, Some(1000)).await;
        let to = BudgetChange { amount: Some(5), ..BudgetChange::default() };
        budgets::update(&db, &root(), &id, to, now()).await.unwrap();
        let of = |id: &str, posted, pending, cap, ceiling| {
            (id.to_owned(), posted, pending, Some(cap), Some(ceiling))
        };
        assert_eq!(
            stored(&db).await,
            [
                of("2026-08-01:bob", 9, 0, 1000, 1000),
                of("2026-09-01:a:b'c%", 0, 8, 5, 8),
                of("2026-09-01:ann", 100, 0, 5, 100),
                of("2026-09-01:bob", 0, 7, 5, 7),
                of("2026-09-01:bob", 9, 0, 1000, 1000),
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    testing::each(|db| async move {
        fill(&db).await;
        let good = || new(Scope::Org, "default", "usd", Period::Month, 5);
        for (made, field) in [
            (NewBudget { amount: -1, ..good() }, "amount"),
            (NewBudget { name: " ".to_owned(), ..good() }, "name"),
            (NewBudget { unit: "teapot".to_owned(), ..good() }, "unit"),
            (NewBudget { alert_percent: Some(0), ..good() }, "alert_percent"),
            (NewBudget { alert_percent: Some(101), ..good() }, "alert_percent"),
            (new(Scope::Org, "other", "usd", Period::Month, 5), "scope_id"),
            (new(Scope::Key, "k2", "usd", Period::Month, 5), "scope_id"),
            (new(Scope::Project, "none", "usd", Period::Month, 5), "scope_id"),
            (new(Scope::User, "", "usd", Period::Month, 5), "scope_id"),
        ] {
            let refused = budgets::create(&db, &root(), DEFAULT, made.clone(), now()).await;
            assert!(
                matches!(&refused, Err(StoreError::Invalid { field: f, .. }) if *f == field),
                "{made:?}: {refused:?}"
            );
        }
        assert_eq!(stored(&db).await, []);

        let id = budgets::create(&db, &root(), DEFAULT, good(), now()).await.unwrap().budget.id;
        let change = || BudgetChange { amount: Some(-1), ..BudgetChange::default() };
        let refused = budgets::update(&db, &root(), &id, change(), now()).await;
        assert!(matches!(refused, Err(StoreError::Invalid { field: "amount", .. })));

        // Of another organisation nobody learns that it is there; lower roles only look.
        let stranger = Actor { org: Some("other".to_owned()), ..root() };
        let raise = || BudgetChange { amount: Some(9), ..BudgetChange::default() };
        let page = Page { limit: 10, after: None };
        for refused in [
            budgets::get(&db, &stranger, &id, now()).await.map(drop),
            budgets::update(&db, &stranger, &id, raise(), now()).await.map(drop),
            budgets::delete(&db, &stranger, &id, now()).await,
            budgets::create(&db, &stranger, DEFAULT, good(), now()).await.map(drop),
        ] {
            assert!(matches!(refused, Err(StoreError::NotFound { .. })), "{refused:?}");
        }
        let wanted = Wanted { org: Some(DEFAULT.to_owned()), ..Wanted::default() };
        assert!(budgets::list(&db, &stranger, &wanted, &page, now()).await.is_err());
        let mine = budgets::list(&db, &stranger, &Wanted::default(), &page, now()).await.unwrap();
        assert!(mine.items.is_empty());
        for role in [Role::Viewer, Role::Member] {
            let actor = Actor { role, ..root() };
            assert!(budgets::get(&db, &actor, &id, now()).await.is_ok());
            let refused = budgets::update(&db, &actor, &id, raise(), now()).await;
            assert!(matches!(refused, Err(StoreError::Denied(_))), "{role:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn budgets_are_listed_with_their_use() {
    testing::each(|db| async move {
        fill(&db).await;
        for (n, made) in [
            new(Scope::Key, "k1", "image", Period::Month, 9_000_000),
            new(Scope::Org, "default", "usd", Period::Total, 900),
            new(Scope::User, "*", "usd", Period::Day, 900),
        ]
        .into_iter()
        .zip(0..)
        .map(|(made, n)| (n, made))
        {
            budgets::create(&db, &root(), DEFAULT, made, now() + n).await.unwrap();
        }
        let page = Page { limit: 10, after: None };
        let list = |wanted: Wanted| {
            let (db, page) = (db.clone(), page.clone());
            async move {
                let part = budgets::list(&db, &root(), &wanted, &page, now()).await.unwrap();
                let shown = |b: &budgets::Listed| {
                    let b = b.to_json();
                    json!([
                        b["scope"],
                        b["unit"],
                        b["limit_usd"],
                        b["limit"],
                        b["spent_usd"],
                        b["spent"]
                    ])
                };
                part.items.iter().map(shown).collect::<Vec<Json>>()
            }
        };
        assert_eq!(
            list(Wanted::default()).await,
            [
                json!(["user", "usd", "0.000000900", null, null, null]),
                json!(["org", "usd", "0.000000900", null, "0.000000705", null]),
                json!(["key", "image", null, "9", null, "2"]),
            ]
        );
        let keys = Wanted { scope: Some(Scope::Key), ..Wanted::default() };
        assert_eq!(list(keys).await.len(), 1);
        let none = Wanted { scope_id: Some("' OR 1=1 --".to_owned()), ..Wanted::default() };
        assert_eq!(list(none).await.len(), 0);
    })
    .await;
}
