//! Listings, folds and reconciliation.

use serde_json::{Value as Json, json};

use super::{Moved, account, params, run, transfer};
use crate::{
    db::{Db, testing},
    tenant::days,
    usage::{
        books, entries,
        fold::{Drift, drift, trial_balance},
        reconcile,
        when::DAY_MS,
    },
};

/// Two jobs against credits and a budget: one captured for less than was held, one released, one
/// still running, and what they cost the operator.
const BOOKED: &[Moved] = &[
    ("fund:1", "fund", "usd", "system:external", "credit:default", 1000, None),
    ("j1:hold:0", "hold", "usd", "credit:default", "system:revenue", 100, None),
    ("j1:hold:1", "hold", "image", "budget:b1", "system:budgets", 2_000_000, None),
    ("j2:hold:0", "hold", "usd", "credit:default", "system:revenue", 50, None),
    ("j3:hold:0", "hold", "usd", "credit:default", "system:revenue", 25, None),
    (
        "j1:capture:0",
        "capture",
        "usd",
        "credit:default",
        "system:revenue",
        70,
        Some(("j1:hold:0", 100)),
    ),
    (
        "j1:capture:1",
        "capture",
        "image",
        "budget:b1",
        "system:budgets",
        1_000_000,
        Some(("j1:hold:1", 2_000_000)),
    ),
    ("j1-0:provider_cost", "provider_cost", "usd", "system:cost", "system:payable:fal", 60, None),
    (
        "j2:release:0",
        "release",
        "usd",
        "credit:default",
        "system:revenue",
        50,
        Some(("j2:hold:0", 50)),
    ),
    ("j1:refund:0", "refund", "usd", "system:revenue", "credit:default", 20, None),
];

async fn fill(db: &Db) {
    transfer(db, BOOKED).await;
    account(db, "credit:default", "usd", -950, 25, Some(0)).await;
    account(db, "budget:b1", "image", 1_000_000, 0, Some(3_000_000)).await;
}

async fn list(db: &Db, org: Option<&str>, query: &str) -> Json {
    let mut params = params(query);
    let filter = entries::Filter::read(&mut params, org.map(str::to_owned)).unwrap();
    params.finish().unwrap();
    filter.answer(db).await.unwrap().to_json()
}

fn ids(list: &Json) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn transfers_are_listed_newest_first() {
    testing::each(|db| async move {
        fill(&db).await;
        // A job whose id begins with another's.
        transfer(&db, &[("j11:hold:0", "hold", "usd", "credit:none", "system:revenue", 0, None)])
            .await;
        let newest: Vec<&str> = BOOKED.iter().rev().map(|b| b.0).collect();
        let of_job = |job: &str| -> Vec<&str> {
            newest
                .iter()
                .copied()
                .filter(|id| {
                    id.starts_with(&format!("{job}:")) || id.starts_with(&format!("{job}-"))
                })
                .collect()
        };
        let mut all = newest.clone();
        all.insert(all.len() - 1, "j11:hold:0");
        let credits: Vec<&str> = newest
            .iter()
            .copied()
            .filter(|id| !["j1:hold:1", "j1:capture:1", "j1-0:provider_cost"].contains(id))
            .collect();
        for (org, query, wanted) in [
            (None, "", all),
            (Some("default"), "to=1970-01-02&from=1970-01-01", {
                let mut all = newest.clone();
                all.retain(|id| *id != "j1-0:provider_cost");
                all.insert(all.len() - 1, "j11:hold:0");
                all
            }),
            (Some("other"), "", vec![]),
            // Naming another organisation than one's own changes nothing.
            (Some("other"), "org=default", vec![]),
            (None, "org=other", vec![]),
            (None, "job=j1", of_job("j1")),
            (None, "job=j3", of_job("j3")),
            (None, "job=j", vec![]),
            (None, "account=credit:default", credits),
            (None, "account=credit:default&kind=refund", vec!["j1:refund:0"]),
            (None, "account=credit:default&job=j2", of_job("j2")),
            (None, "account=system:payable:fal", vec!["j1-0:provider_cost"]),
            (None, "kind=capture", vec!["j1:capture:1", "j1:capture:0"]),
            (None, "from=1970-01-01T00:16:48Z&to=1970-01-01T00:16:49Z", vec!["j2:release:0"]),
            (None, "account=' OR 1=1 --", vec![]),
            (None, "job=%25", vec![]),
        ] {
            let answer = list(&db, org, query).await;
            assert_eq!(ids(&answer), wanted, "{org:?} {query}");
            assert_eq!(answer["has_more"], false);
        }
    })
    .await;
}

#[tokio::test]
async fn pages_of_transfers_meet() {
    testing::each(|db| async move {
        fill(&db).await;
        for query in ["", "account=credit:default", "job=j1", "account=credit:default&job=j1"] {
            let whole = list(&db, None, query).await;
            let mut paged = Vec::new();
            let mut after = String::new();
            loop {
                let page = list(&db, None, &format!("{query}&limit=2&after={after}")).await;
                paged.extend(ids(&page).into_iter().map(str::to_owned));
                match page["next"].as_str() {
                    Some(next) => after = next.to_owned(),
                    None => break,
                }
            }
            assert_eq!(paged, ids(&whole), "{query}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_transfer_shows_all_there_is() {
    testing::each(|db| async move {
        fill(&db).await;
        let answer = list(&db, None, "kind=capture&account=budget:b1").await;
        assert_eq!(
            answer["data"][0],
            json!({"id": "j1:capture:1", "object": "transfer", "kind": "capture", "org": "default",
                   "unit": "image", "debit": "budget:b1", "credit": "system:budgets",
                   "amount": "1", "hold": "j1:hold:1", "held": "2", "job": "j1", "memo": null,
                   "at": "1970-01-01T00:16:46.000Z"})
        );
        let filter = entries::Filter::read(&mut params("job=j2&kind=release"), None).unwrap();
        assert_eq!(
            filter.answer(&db).await.unwrap().to_table().to_csv(),
            "at,kind,org,unit,debit,credit,amount,held,job,memo,id\r\n\
             1970-01-01T00:16:48.000Z,release,default,usd,credit:default,system:revenue,\
             0.000000050,0.000000050,j2,,j2:release:0\r\n"
        );
    })
    .await;
}

#[test]
fn wrong_filters_name_the_field() {
    for (query, param) in [
        ("kind=captured", "kind"),
        ("from=x", "from"),
        ("to=x", "to"),
        ("after=x", "after"),
        ("limit=10001", "limit"),
        ("account=a%00", "account"),
    ] {
        let error = entries::Filter::read(&mut params(query), None).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param), "{query}");
    }
}

#[tokio::test]
async fn stored_balances_are_the_fold() {
    testing::each(|db| async move {
        fill(&db).await;
        assert_eq!(drift(&db).await.unwrap(), []);
        let units = trial_balance(&db).await.unwrap();
        let usd = &units["usd"];
        assert_eq!(usd.sum, 0);
        let accounts: Vec<_> = usd.accounts.iter().map(|(a, n)| (a.as_str(), *n)).collect();
        assert_eq!(
            accounts,
            [
                ("credits", -950),
                ("system:cost", 60),
                ("system:external", 1000),
                ("system:payable:fal", -60),
                ("system:revenue", -50)
            ]
        );
        assert_eq!(units["image"].sum, 0);
        assert_eq!(units["image"].accounts["budgets"], 1_000_000);
        assert_eq!(books::trial_balance_json(&units)["balanced"], true);
    })
    .await;
}

#[tokio::test]
async fn drift_is_seen_to_the_nano_dollar() {
    let one = |account: &str, stored, folded| Drift {
        account: account.to_owned(),
        unit: "usd".to_owned(),
        stored,
        folded,
    };
    for (change, wanted) in [
        (
            "UPDATE account SET posted = posted + 1 WHERE id = 'credit:default'",
            vec![one("credit:default", (-949, 25), (-950, 25))],
        ),
        (
            "UPDATE account SET pending = pending - 1 WHERE id = 'credit:default'",
            vec![one("credit:default", (-950, 24), (-950, 25))],
        ),
        (
            "DELETE FROM account WHERE id = 'credit:default'",
            vec![one("credit:default", (0, 0), (-950, 25))],
        ),
        (
            "INSERT INTO account (id, org, unit, posted, pending) VALUES ('credit:x', 'x', 'usd', 0, 3)",
            vec![one("credit:x", (0, 3), (0, 0))],
        ),
        // Two errors that cancel each other in the sum of all.
        (
            "UPDATE account SET posted = posted + 1, pending = pending - 1 WHERE id = 'credit:default'",
            vec![one("credit:default", (-949, 24), (-950, 25))],
        ),
    ] {
        testing::each(|db| {
            let wanted = wanted.clone();
            async move {
                fill(&db).await;
                run(&db, vec![(change, vec![])]).await;
                assert_eq!(drift(&db).await.unwrap(), wanted, "{change}");
                let units = trial_balance(&db).await.unwrap();
                let pays = wanted[0].stored.0 - wanted[0].folded.0;
                assert_eq!(units["usd"].sum, i128::from(pays), "{change}");
            }
        })
        .await;
    }
}

#[tokio::test]
async fn drift_is_seen_among_many_accounts() {
    testing::each(|db| async move {
        let mut wrong = Vec::new();
        for n in 0..230 {
            let id = format!("credit:{n:03}");
            let posted = i64::from(n % 100 == 99);
            let insert = "INSERT INTO account (id, org, unit, posted, pending) \
                          VALUES ($1, 'x', 'usd', $2, 0)";
            run(&db, vec![(insert, vec![id.as_str().into(), posted.into()])]).await;
            if posted == 1 {
                wrong.push(id);
            }
        }
        // Moved between accounts that do not exist: before, among and behind the operator's.
        let orphans = "INSERT INTO transfer (id, kind, org, unit, debit, credit, amount, at) \
                       VALUES ('o1', 'adjust', '', 'usd', 'budget:gone', 'user:gone', 5, 0), \
                       ('o2', 'adjust', '', 'usd', 'system:revenue', 'system:external', 5, 0)";
        run(&db, vec![(orphans, vec![])]).await;
        let found = drift(&db).await.unwrap();
        let mut found: Vec<_> = found.into_iter().map(|drift| drift.account).collect();
        found.sort();
        wrong.extend(["budget:gone".to_owned(), "user:gone".to_owned()]);
        wrong.sort();
        assert_eq!(found, wrong);
    })
    .await;
}

#[tokio::test]
async fn accounts_are_shown_with_their_fold() {
    testing::each(|db| async move {
        fill(&db).await;
        let ask = |query: &'static str, org: Option<&'static str>| {
            let db = db.clone();
            async move {
                let filter =
                    books::Filter::read(&mut params(query), org.map(str::to_owned)).unwrap();
                filter.answer(&db).await.unwrap()
            }
        };
        let all = ask("", None).await.to_json();
        assert_eq!(
            all["data"][1],
            json!({"id": "credit:default", "object": "account", "org": "default", "unit": "usd",
                   "posted": "-0.000000950", "pending": "0.000000025", "cap": "0.000000000",
                   "frozen": false,
                   "folded": {"posted": "-0.000000950", "pending": "0.000000025"}})
        );
        let first = ask("limit=1", None).await;
        assert_eq!(first.next(), Some("budget:b1"));
        let second = ask("after=budget:b1", None).await;
        assert_eq!(second.to_json()["data"][0]["id"], "credit:default");
        assert_eq!(ask("org=default", Some("other")).await.to_json()["data"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn costs_are_held_against_what_providers_say() {
    testing::each(|db| async move {
        let sql = "INSERT INTO cost_day (day, org, provider, credential, model, requests, expected, \
                   reported_requests, reported, suspense) \
                   VALUES ($1, 'default', $2, $3, $4, $5, $6, $7, $8, $9)";
        let day = days(2026, 9, 1);
        let rows = [
            (day, "fal", "a", "flux", [2, 80, 2, 90, 0]),
            (day, "fal", "b", "flux", [1, 40, 1, 30, 0]),
            (day + 1, "fal", "a", "flux", [3, 120, 1, 40, 7]),
            (day, "=evil", "a", "gpt", [1, 1000, 0, 0, 0]),
        ];
        let rows = rows.map(|(day, provider, credential, model, sums): (i64, &str, &str, &str, [i64; 5])| {
            let mut row = vec![day.into(), provider.into(), credential.into(), model.into()];
            row.extend(sums.map(crate::db::Value::from));
            (sql, row)
        });
        run(&db, rows.to_vec()).await;
        let now = days(2026, 9, 3) * DAY_MS;
        for (query, csv) in [
            ("", "day,provider,model,requests,expected_usd,reported_requests,reported_usd,suspense_usd,difference_usd\r\n\
                  2026-09-01,'=evil,gpt,1,0.000001000,0,0.000000000,0.000000000,\r\n\
                  2026-09-01,fal,flux,3,0.000000120,3,0.000000120,0.000000000,0.000000000\r\n\
                  2026-09-02,fal,flux,3,0.000000120,1,0.000000040,0.000000007,\r\n"),
            ("provider=fal&group_by=credential&to=2026-09-02", "credential,requests,expected_usd,reported_requests,reported_usd,suspense_usd,difference_usd\r\n\
                  a,2,0.000000080,2,0.000000090,0.000000000,0.000000010\r\n\
                  b,1,0.000000040,1,0.000000030,0.000000000,-0.000000010\r\n"),
        ] {
            let mut params = params(query);
            let question = reconcile::Question::read(&mut params, now).unwrap();
            params.finish().unwrap();
            assert_eq!(question.answer(&db).await.unwrap().to_table().to_csv(), csv, "{query}");
        }
        let question = reconcile::Question::read(&mut params("group_by=provider"), now).unwrap();
        let answer = question.answer(&db).await.unwrap().to_json();
        assert_eq!(
            answer["data"][1],
            json!({"provider": "fal", "requests": 6, "expected_usd": "0.000000240",
                   "reported_requests": 4, "reported_usd": "0.000000160",
                   "suspense_usd": "0.000000007", "difference_usd": null})
        );
        let error = reconcile::Question::read(&mut params("group_by=org"), now).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("group_by"));
    })
    .await;
}
