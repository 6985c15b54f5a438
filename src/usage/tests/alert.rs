//! Who is told what, and how often.

use serde_json::{Value as Json, json};

use super::run;
use crate::{
    db::{Db, Durability, testing},
    ledger::Account,
    usage::alert::{Alerts, Event, Moved, Refused, raise},
};

/// A webhook for everything and one for low credits; a budget with an alert at 80 percent.
async fn fill(db: &Db) {
    run(
        db,
        vec![
            ("INSERT INTO webhook (id, org, url, sealed_secret, events, created_at, rev) \
              VALUES ('w1', 'default', 'u', $1, \
              '[\"credits.low\",\"budget.alert\",\"budget.exceeded\"]', 0, 2)", vec![vec![0_u8].into()]),
            ("INSERT INTO webhook (id, org, url, sealed_secret, events, created_at, rev) \
              VALUES ('w2', 'default', 'u', $1, '[\"credits.low\"]', 0, 2)", vec![vec![0_u8].into()]),
            ("INSERT INTO webhook (id, org, url, sealed_secret, events, created_at, deleted_at, rev) \
              VALUES ('w3', 'default', 'u', $1, '[\"credits.low\"]', 0, 1, 2)", vec![vec![0_u8].into()]),
            ("INSERT INTO budget (id, org, name, scope, scope_id, unit, period, amount, \
              alert_percent, created_at, rev) VALUES \
              ('b1', 'default', 'team', 'project', 'web', 'usd', 'month', 1000, 80, 0, 2), \
              ('b2', 'default', 'users', 'user', '*', 'image', 'total', 3000000, 50, 0, 2), \
              ('b3', 'default', 'quiet', 'org', 'default', 'usd', 'month', 1000, NULL, 0, 2)", vec![]),
            ("UPDATE org SET prepaid = 1, low_balance = 500 WHERE id = 'default'", vec![]),
            ("UPDATE revision SET value = 2 WHERE name = 'tenants'", vec![]),
        ],
    )
    .await;
}

fn balance(account: &str, posted: i64, cap: Option<i64>) -> Account {
    Account {
        id: account.to_owned(),
        org: "default".to_owned(),
        unit: "usd".to_owned(),
        posted,
        pending: 10,
        cap,
        ceiling: cap,
        frozen: false,
    }
}

/// Whom to tell of a balance that was something else before.
fn moved(alerts: &Alerts, before: i64, account: &Account) -> Vec<Event> {
    alerts.moved(&Moved { account, before, cause: "job_1", at: 1_788_220_800_000 })
}

async fn stored(db: &Db) -> Vec<(String, String, Json)> {
    let sql = "SELECT webhook, event, body FROM outbox ORDER BY webhook, id";
    let rows = db.query(sql, vec![]).await.unwrap();
    rows.iter()
        .map(|row| {
            let body: Json = serde_json::from_str(&row.text(2).unwrap()).unwrap();
            (row.text(0).unwrap(), row.text(1).unwrap(), body)
        })
        .collect()
}

async fn write(db: &Db, events: Vec<Event>) {
    db.transaction(Durability::Process, move |tx| {
        let events = events.clone();
        Box::pin(async move { raise(tx, &events).await })
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn only_a_crossing_is_told() {
    testing::each(|db| async move {
        let alerts = Alerts::default();
        alerts.refresh(&db).await.unwrap();
        // Nobody listens yet.
        assert_eq!(moved(&alerts, 0, &balance("budget:b1:2026-09-01", 1000, Some(1000))), []);
        fill(&db).await;
        alerts.refresh(&db).await.unwrap();
        for (account, before, posted, cap, told) in [
            ("budget:b1:2026-09-01", 0, 799, Some(1000), 0),
            ("budget:b1:2026-09-01", 799, 800, Some(1000), 1),
            ("budget:b1:2026-09-01", 800, 801, Some(1000), 0),
            ("budget:b1:2026-09-01", 0, 1000, Some(1000), 1),
            // What is given back crosses nothing.
            ("budget:b1:2026-09-01", 1000, 100, Some(1000), 0),
            ("budget:b1:2026-09-01", 0, i64::MAX, Some(i64::MAX), 1),
            ("budget:b1:2026-09-01", 0, 1000, Some(0), 0),
            ("budget:b1:2026-09-01", 0, 1000, None, 0),
            ("budget:b2:ann", 0, 1_500_000, Some(3_000_000), 1),
            ("budget:b3:2026-09-01", 0, 1000, Some(1000), 0),
            ("budget:none:2026-09-01", 0, 1000, Some(1000), 0),
            // Both webhooks want to know of credits; 500 is the mark.
            ("credit:default", -1000, -500, Some(0), 0),
            ("credit:default", -500, -499, Some(0), 2),
            ("credit:default", -499, 0, Some(0), 0),
            ("credit:other", -1000, 0, Some(0), 0),
            ("system:revenue", 0, 1000, None, 0),
        ] {
            let events = moved(&alerts, before, &balance(account, posted, cap));
            assert_eq!(events.len(), told, "{account} {before} to {posted}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_occasion_is_written_once_and_says_what_happened() {
    testing::each(|db| async move {
        fill(&db).await;
        let alerts = Alerts::default();
        alerts.refresh(&db).await.unwrap();
        for _ in 0..3 {
            write(&db, moved(&alerts, 0, &balance("budget:b1:2026-09-01", 900, Some(1000)))).await;
            write(&db, moved(&alerts, -1000, &balance("credit:default", -400, Some(0)))).await;
            let refused = Refused {
                account: "budget:b2:2026-09-01:ann",
                asked: 2_000_000,
                left: 500_000,
                at: 0,
            };
            // Another process knows nothing of what this one remembers.
            let other = Alerts::default();
            other.refresh(&db).await.unwrap();
            write(&db, other.refused(&refused)).await;
        }
        let told = stored(&db).await;
        let kinds: Vec<_> = told.iter().map(|(w, e, _)| (w.as_str(), e.as_str())).collect();
        assert_eq!(kinds.len(), 4, "{kinds:?}");
        let of = |kind: &str, hook: &str| {
            told.iter().find(|(w, e, _)| w == hook && e == kind).unwrap().2.clone()
        };
        let alert = of("budget.alert", "w1");
        assert_eq!(alert["type"], "budget.alert");
        assert_eq!(alert["created"], 1_788_220_800);
        assert_eq!(
            alert["data"],
            json!({"org": "default",
                   "budget": {"id": "b1", "name": "team", "scope": "project", "scope_id": "web",
                              "unit": "usd", "period": "month"},
                   "limit_usd": "0.000001000", "window": "2026-09-01", "alert_percent": 80,
                   "spent_usd": "0.000000900", "held_usd": "0.000000010"})
        );
        assert_eq!(
            of("credits.low", "w2")["data"],
            json!({"org": "default", "available_usd": "0.000000390",
                   "low_balance_usd": "0.000000500"})
        );
        let exceeded = of("budget.exceeded", "w1");
        assert_eq!(exceeded["data"]["asked"], "2");
        assert_eq!(exceeded["data"]["left"], "0.5");
        assert_eq!(exceeded["data"]["user"], "2026-09-01:ann");
    })
    .await;
}

#[tokio::test]
async fn refusals_are_counted_out_in_memory() {
    testing::each(|db| async move {
        fill(&db).await;
        let alerts = Alerts::default();
        alerts.refresh(&db).await.unwrap();
        let refused = |at| {
            alerts.refused(&Refused { account: "budget:b1:2026-09-01", asked: 5, left: 1, at })
        };
        // What was not committed is told again.
        assert_eq!(refused(0).len(), 1);
        assert_eq!(refused(0).len(), 1);
        alerts.told(&refused(0));
        assert_eq!(refused(1).len(), 0);
        assert_eq!(refused(59_999).len(), 0);
        // After a minute the database is asked whether it was told.
        assert_eq!(refused(60_000).len(), 1);
        let credits = Refused { account: "credit:default", asked: 5, left: 1, at: 0 };
        assert_eq!(alerts.refused(&credits).len(), 0);
    })
    .await;
}
