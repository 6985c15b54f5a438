//! What may still be spent.

use serde_json::json;

use super::{account, run, transfer, use_up};
use crate::{
    db::{Db, testing},
    tenant::{Budget, Grant, Period, RateLimits, Scope, days},
    usage::{
        credits::{of_key, of_org},
        when::DAY_MS,
    },
};

fn budget(
    id: &str,
    scope: Scope,
    scope_id: &str,
    unit: &str,
    period: Period,
    amount: i64,
) -> Budget {
    Budget {
        id: id.to_owned(),
        name: format!("the {id}"),
        scope,
        scope_id: scope_id.to_owned(),
        unit: unit.to_owned(),
        period,
        amount,
        alert_percent: None,
    }
}

fn grant(prepaid: bool, budgets: Vec<Budget>) -> Grant {
    Grant {
        key_id: "k1".to_owned(),
        key_name: "web".to_owned(),
        org: "default".to_owned(),
        project: "web".to_owned(),
        models: Vec::new(),
        endpoints: Vec::new(),
        expires_at: None,
        limits: RateLimits::default(),
        budgets,
        prepaid,
        join_retries: true,
        heartbeat: false,
    }
}

const USD: i64 = 1_000_000_000;

async fn left(db: &Db, grant: &Grant) -> serde_json::Value {
    let now = days(2026, 9, 15) * DAY_MS;
    of_key(db, grant, None, now).await.unwrap().to_json()
}

#[tokio::test]
async fn the_least_of_credits_and_budgets_is_available() {
    testing::each(|db| async move {
        // Bought 10, used 3, holds 1.
        account(&db, "credit:default", "usd", -7 * USD, USD, Some(0)).await;
        account(&db, "budget:b1:2026-09-01", "usd", USD, USD / 2, Some(5 * USD)).await;
        account(&db, "budget:b1:2026-08-01", "usd", 5 * USD, 0, Some(5 * USD)).await;
        account(&db, "budget:b2", "image", 1_500_000, 1_000_000, Some(3_000_000)).await;
        let day = days(2026, 9, 1);
        use_up(
            &db,
            &[
                (day, "default", "web", "k1", "m", "p", "", "", "image", [1, 1, USD]),
                (day, "default", "web", "k1", "m", "p", "team", "a", "image", [1, 1, USD]),
                (day, "default", "web", "k2", "m", "p", "", "", "image", [1, 1, 2 * USD]),
            ],
        )
        .await;
        let job = "INSERT INTO job (id, org, project, api_key, task, model, state, request_id, \
                   fingerprint, created_at, deadline_at, expires_at, owner, epoch, lease_until, \
                   legs, settled, labels) VALUES ($1, 'default', 'web', $2, 't', 'm', 'running', \
                   'r', $3, 0, 0, 0, 'o', 0, 0, $4, $5, '{}')";
        let legs = "[{\"account\":\"credit:default\",\"unit\":\"usd\",\"amount\":250000000},\
                    {\"account\":\"budget:b1:2026-09-01\",\"unit\":\"usd\",\"amount\":250000000},\
                    {\"account\":\"budget:b2\",\"unit\":\"image\",\"amount\":1000000}]";
        for (id, key, settled) in
            [("j1", "k1", 0), ("j2", "k1", 0), ("j3", "k1", 1), ("j4", "k2", 0)]
        {
            let settled: i64 = settled;
            let row = vec![id.into(), key.into(), vec![1_u8].into(), legs.into(), settled.into()];
            run(&db, vec![(job, row)]).await;
        }

        let month = budget("b1", Scope::Key, "k1", "usd", Period::Month, 5 * USD);
        let images = budget("b2", Scope::Project, "web", "image", Period::Total, 3_000_000);
        let fresh = budget("b3", Scope::Org, "default", "usd", Period::Day, 9 * USD);
        let users = budget("b4", Scope::User, "*", "usd", Period::Week, USD);
        let all = vec![month.clone(), images, fresh, users];
        assert_eq!(
            left(&db, &grant(true, all)).await,
            json!({
                "available_usd": "3.500000000",
                "held_usd": "0.500000000",
                "spent_usd": "1.000000000",
                "budgets": [
                    {"name": "the b1", "scope": "key", "period": "month", "unit": "usd",
                     "limit_usd": "5.000000000", "spent_usd": "1.000000000",
                     "held_usd": "0.500000000", "resets_at": days(2026, 10, 1) * 86_400},
                    {"name": "the b2", "scope": "project", "period": "total", "unit": "image",
                     "limit": "3", "spent": "1.5", "held": "1", "resets_at": null},
                    {"name": "the b3", "scope": "org", "period": "day", "unit": "usd",
                     "limit_usd": "9.000000000", "spent_usd": "0.000000000",
                     "held_usd": "0.000000000", "resets_at": days(2026, 9, 16) * 86_400},
                ],
            })
        );
        for (grant, available) in [
            (grant(true, vec![]), json!("6.000000000")),
            (grant(false, vec![]), json!(null)),
            (grant(false, vec![month.clone()]), json!("3.500000000")),
            // A limit below what was used leaves nothing, and no debt.
            (grant(false, vec![Budget { amount: USD, ..month.clone() }]), json!("0.000000000")),
            (grant(true, vec![Budget { amount: i64::MAX, ..month.clone() }]), json!("6.000000000")),
            (grant(true, vec![Budget { amount: 0, ..month }]), json!("0.000000000")),
        ] {
            assert_eq!(left(&db, &grant).await["available_usd"], available, "{grant:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_key_has_spent_nothing() {
    testing::each(|db| async move {
        assert_eq!(
            left(&db, &grant(true, vec![])).await,
            json!({"available_usd": "0.000000000", "held_usd": "0.000000000",
                   "spent_usd": "0.000000000", "budgets": []})
        );
    })
    .await;
}

#[tokio::test]
async fn an_organisation_sees_what_it_bought() {
    testing::each(|db| async move {
        assert_eq!(of_org(&db, "none").await.unwrap(), None);
        account(&db, "credit:default", "usd", -7 * USD, USD, Some(0)).await;
        transfer(
            &db,
            &[
                ("fund:1", "fund", "usd", "system:external", "credit:default", 6 * USD, None),
                ("fund:2", "fund", "usd", "system:external", "credit:default", 4 * USD, None),
                ("j1:refund:0", "refund", "usd", "system:revenue", "credit:default", USD, None),
            ],
        )
        .await;
        let sql = "UPDATE org SET prepaid = 1, low_balance = 5000000000 WHERE id = 'default'";
        run(&db, vec![(sql, vec![])]).await;
        assert_eq!(
            of_org(&db, "default").await.unwrap().unwrap().to_json(),
            json!({"object": "credits", "org": "default", "prepaid": true,
                   "available_usd": "6.000000000", "held_usd": "1.000000000",
                   "spent_usd": "3.000000000", "funded_usd": "10.000000000",
                   "low_balance_usd": "5.000000000"})
        );
    })
    .await;
}
