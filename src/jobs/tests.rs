//! What the desk promises, on SQLite and on PostgreSQL.

mod settle;

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::{
    Act, AttemptRow, AttemptState, Denied, Desk, DeskError, Done, JobRow, JobState,
    act::{Attempts, Finish, KeyAsk, Open, Used},
    audit,
    row::{ATTEMPT_COLUMNS, JOB_COLUMNS},
};
use crate::{
    db::{
        Db, Durability,
        testing::{each, each_url, open as open_db},
    },
    ledger::{AccountSpec, Refusal, USD, credit},
};

const NOW: i64 = 1_790_000_000_000;
const CENT: i64 = 10_000_000;

fn job(id: &str) -> JobRow {
    JobRow {
        id: id.to_owned(),
        org: "default".to_owned(),
        project: "default".to_owned(),
        api_key: "k".to_owned(),
        task: "image.generate".to_owned(),
        model: "m".to_owned(),
        state: JobState::Running,
        request_id: "r".to_owned(),
        fingerprint: vec![1; 32],
        created_at: NOW,
        deadline_at: NOW + 600_000,
        finished_at: None,
        expires_at: NOW + 9_000_000,
        owner: "me".to_owned(),
        epoch: 1,
        lease_until: NOW + 15_000,
        legs: Vec::new(),
        settled: false,
        charge: None,
        abandoned: false,
        cancel_asked: false,
        simulated: false,
        labels: BTreeMap::from([("tier".to_owned(), "gold".to_owned())]),
        error_code: None,
        payload: Some(vec![7; 100]),
        result: None,
    }
}

fn attempt(job: &str, number: i64) -> AttemptRow {
    AttemptRow {
        job: job.to_owned(),
        number,
        deployment: "fal/m".to_owned(),
        provider: "fal".to_owned(),
        credential: "config".to_owned(),
        first: 0,
        count: 1,
        seed: Some(u64::MAX),
        state: AttemptState::Intent,
        outcome: None,
        sent_at: NOW,
        ms: None,
        expected: Some(CENT),
        billed: None,
        remote: None,
        output: None,
    }
}

fn credits(cap: Option<i64>) -> AccountSpec {
    AccountSpec {
        id: credit("default"),
        org: "default".to_owned(),
        unit: USD.to_owned(),
        cap,
        fixed: true,
    }
}

fn opening(id: &str, amount: i64, cap: Option<i64>) -> Act {
    Act::Open(Box::new(Open {
        job: job(id),
        chain: vec![(credits(cap), amount)],
        attempts: vec![attempt(id, 0)],
        key: None,
    }))
}

fn finishing(id: &str, state: JobState, amount: i64) -> Act {
    let delivered = state == JobState::Succeeded;
    let state_of = if delivered { AttemptState::Delivered } else { AttemptState::Failed };
    Act::Finish(Box::new(Finish {
        job: id.to_owned(),
        epoch: 1,
        state,
        measured: BTreeMap::from([(USD.to_owned(), amount)]),
        used: vec![Used {
            provider: "fal".to_owned(),
            unit: "image".to_owned(),
            requests: 0,
            quantity: 1_000_000,
            amount,
        }],
        attempts: vec![AttemptRow { state: state_of, ..attempt(id, 0) }],
        result: vec![9; 50],
        error_code: None,
        abandoned: false,
        expires_at: NOW + 9_000_000,
        at: NOW + 5_000,
    }))
}

async fn write(desk: &Desk, act: Act) -> Result<Done, Denied> {
    match desk.write("default", act, Durability::Process).await {
        Ok(done) => Ok(done),
        Err(DeskError::Denied(denied)) => Err(denied),
        Err(other) => panic!("{other:?}"),
    }
}

async fn fund(desk: &Desk, id: &str, amount: i64) -> Result<Done, Denied> {
    let (id, org, memo) = (id.to_owned(), "default".to_owned(), "test".to_owned());
    write(desk, Act::Fund { id, org, amount, memo, at: NOW }).await
}

async fn number(db: &Db, sql: &'static str) -> i64 {
    // PostgreSQL sums integers into decimals.
    db.query(sql, Vec::new()).await.unwrap()[0].int(0).unwrap()
}

/// Stored balance equals its transfers, no hold is open on a job that is over, and every success
/// was captured once.
async fn check_books(db: &Db) {
    let drift = "SELECT COUNT(*) FROM account a WHERE \
        a.posted <> CAST((SELECT COALESCE(SUM(CASE WHEN t.kind = 'capture' THEN t.amount ELSE 0 END), 0) \
            FROM transfer t WHERE t.debit = a.id) AS BIGINT) \
          - CAST((SELECT COALESCE(SUM(t.amount), 0) FROM transfer t WHERE t.credit = a.id) AS BIGINT) \
        OR a.pending <> CAST((SELECT COALESCE(SUM(CASE WHEN t.kind = 'hold' THEN t.amount ELSE -t.held END), 0) \
            FROM transfer t WHERE t.debit = a.id AND t.kind IN ('hold', 'capture', 'release', 'expire')) AS BIGINT)";
    assert_eq!(number(db, drift).await, 0, "a balance does not equal its transfers");
    let open = "SELECT COUNT(*) FROM transfer h JOIN job j ON j.id = h.job WHERE h.kind = 'hold' \
        AND j.finished_at IS NOT NULL AND NOT EXISTS \
        (SELECT 1 FROM transfer c WHERE c.hold = h.id)";
    assert_eq!(number(db, open).await, 0, "a hold is open on a job that is over");
    let unpaid = "SELECT COUNT(*) FROM job j WHERE (SELECT COUNT(*) FROM transfer t \
        WHERE t.job = j.id AND t.kind = 'capture' AND t.debit LIKE 'credit:%') \
        <> CASE WHEN j.state = 'succeeded' THEN 1 ELSE 0 END";
    assert_eq!(number(db, unpaid).await, 0, "captures and successes differ");
}

#[tokio::test]
async fn a_job_is_held_written_and_captured_with_its_cost() {
    each(|db| async move {
        let desk = Desk::new(db.clone());
        fund(&desk, "1", 100 * CENT).await.unwrap();
        write(&desk, opening("job_a", 10 * CENT, Some(0))).await.unwrap();
        let remote = AttemptRow {
            state: AttemptState::Accepted,
            remote: Some(vec![1, 2, 3]),
            ..attempt("job_a", 0)
        };
        let change = Attempts { job: "job_a".to_owned(), epoch: 1, attempts: vec![remote.clone()] };
        write(&desk, Act::Attempts(change)).await.unwrap();
        let rows = db.query(ATTEMPT_COLUMNS, Vec::new()).await.unwrap();
        assert_eq!(AttemptRow::from_row(&rows[0]).unwrap(), remote);
        let ask = Act::AskCancel { job: "job_a".to_owned() };
        write(&desk, ask).await.unwrap();
        let rows = db.query(JOB_COLUMNS, Vec::new()).await.unwrap();
        let stored = JobRow::from_row(&rows[0]).unwrap();
        assert_eq!(stored.payload, job("job_a").payload, "a later write lost what was asked");
        let captured = write(&desk, finishing("job_a", JobState::Succeeded, 4 * CENT)).await;
        assert_eq!(captured, Ok(Done::Captured(4 * CENT)));
        // Said twice, it is done once.
        let again = write(&desk, finishing("job_a", JobState::Succeeded, 4 * CENT)).await;
        assert_eq!(again, Ok(Done::Captured(4 * CENT)));
        let otherwise = write(&desk, finishing("job_a", JobState::Failed, 0)).await;
        assert_eq!(otherwise, Err(Denied::NotNow));
        let rows = db.query(JOB_COLUMNS, Vec::new()).await.unwrap();
        let stored = JobRow::from_row(&rows[0]).unwrap();
        assert_eq!((stored.state, stored.charge), (JobState::Succeeded, Some(4 * CENT)));
        assert_eq!(stored.payload, None, "what was asked is kept though nobody needs it");
        assert_eq!(stored.result, Some(vec![9; 50]));
        assert_eq!(stored.labels, job("job_a").labels);
        let rows = db.query("SELECT label, quantity, amount FROM usage_day ORDER BY label", vec![]);
        let rows = rows.await.unwrap();
        let seen: Vec<_> = rows
            .iter()
            .map(|r| (r.text(0).unwrap(), r.int(1).unwrap(), r.int(2).unwrap()))
            .collect();
        let line = |label: &str| (label.to_owned(), 1_000_000, 4 * CENT);
        assert_eq!(seen, [line(""), line("tier")]);
        check_books(&db).await;
    })
    .await;
}

#[tokio::test]
async fn a_thousand_at_once_never_spend_more_than_there_is() {
    each_url(|url| async move {
        // Two replicas where the database can do that.
        let first = open_db(&url).await;
        let desks = if first.is_shared() {
            vec![
                Desk::new(first.clone()),
                Desk::new(open_db(&url).await),
                Desk::new(open_db(&url).await),
            ]
        } else {
            vec![Desk::new(first.clone())]
        };
        fund(&desks[0], "1", 100 * CENT).await.unwrap();
        let calls = (0..1_000).map(|n| {
            let desk = &desks[n % desks.len()];
            async move {
                let id = format!("job_{n:04}");
                let act = opening(&id, 3 * CENT, Some(0));
                loop {
                    // A crowd of this size outlasts the patience of a caller.
                    match desk.write("default", act.clone(), Durability::Process).await {
                        Ok(_) => break Some(id),
                        Err(DeskError::Denied(Denied::Ledger(Refusal::Exceeded { .. }))) => {
                            break None;
                        }
                        Err(DeskError::Denied(other)) => panic!("{other:?}"),
                        Err(DeskError::Unavailable(_)) => {
                            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                        }
                    }
                }
            }
        });
        let opened: Vec<String> = join_all(calls).await.into_iter().flatten().collect();
        assert_eq!(opened.len(), 33, "33 times 3 cents fit into a dollar");
        let over = "SELECT COUNT(*) FROM account WHERE posted + pending > 0";
        assert_eq!(number(&first, over).await, 0);
        for id in &opened {
            write(&desks[0], finishing(id, JobState::Succeeded, 3 * CENT)).await.unwrap();
        }
        check_books(&first).await;
    })
    .await;
}

#[tokio::test]
async fn a_key_means_one_job_however_many_ask() {
    each(|db| async move {
        let desk = Desk::new(db.clone());
        let keyed = |id: &str, fingerprint: u8| {
            Act::Open(Box::new(Open {
                job: JobRow { fingerprint: vec![fingerprint; 32], ..job(id) },
                chain: vec![(credits(None), CENT)],
                attempts: Vec::new(),
                key: Some(KeyAsk { id: "key".to_owned(), expires_at: NOW + 1_000 }),
            }))
        };
        let calls = (0..100).map(|n| write(&desk, keyed(&format!("job_{n:03}"), 1)));
        let answers: Vec<Done> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
        let opened = answers.iter().filter(|a| matches!(a, Done::Opened(_))).count();
        assert_eq!(opened, 1);
        assert_eq!(number(&db, "SELECT COUNT(*) FROM job").await, 1);
        assert_eq!(write(&desk, keyed("job_x", 2)).await, Err(Denied::Mismatch));
        // What failed without a bill may be asked for again under the same key.
        let rows = db.query("SELECT id FROM job", Vec::new()).await.unwrap();
        let id = rows[0].text(0).unwrap();
        write(&desk, finishing(&id, JobState::Failed, 0)).await.unwrap();
        assert!(matches!(write(&desk, keyed("job_y", 1)).await, Ok(Done::Opened(_))));
        assert_eq!(write(&desk, keyed("job_z", 1)).await, Ok(Done::Known("job_y".to_owned())));
        // Past its time it is forgotten, but not while its job runs.
        let late = |id: &str, fingerprint: u8| {
            let mut late = keyed(id, fingerprint);
            if let Act::Open(open) = &mut late {
                open.job.created_at = NOW + 1_001;
            }
            late
        };
        assert_eq!(write(&desk, late("job_l", 1)).await, Ok(Done::Known("job_y".to_owned())));
        assert_eq!(write(&desk, late("job_l", 2)).await, Err(Denied::Mismatch));
        crate::jobs::erase::erase(&db, NOW + 2_000).await.unwrap();
        assert_eq!(number(&db, "SELECT COUNT(*) FROM idempotency").await, 1);
        write(&desk, finishing("job_y", JobState::Succeeded, CENT)).await.unwrap();
        assert!(matches!(write(&desk, late("job_l", 2)).await, Ok(Done::Opened(_))));
    })
    .await;
}

#[tokio::test]
async fn an_owner_that_was_replaced_writes_nothing() {
    each(|db| async move {
        let desk = Desk::new(db.clone());
        write(&desk, opening("job_a", CENT, None)).await.unwrap();
        let take = |now: i64| Act::Take {
            job: "job_a".to_owned(),
            owner: "other".to_owned(),
            now,
            lease_until: now + 15_000,
        };
        assert_eq!(write(&desk, take(NOW + 14_000)).await, Err(Denied::NotNow), "its lease holds");
        let Ok(Done::Taken(taken)) = write(&desk, take(NOW + 16_000)).await else {
            panic!("not taken");
        };
        assert_eq!((taken.epoch, taken.owner.as_str(), taken.abandoned), (2, "other", true));
        let stale =
            Attempts { job: "job_a".to_owned(), epoch: 1, attempts: vec![attempt("job_a", 1)] };
        assert_eq!(write(&desk, Act::Attempts(stale)).await, Err(Denied::Fenced));
        let stale = finishing("job_a", JobState::Succeeded, CENT);
        assert_eq!(write(&desk, stale.clone()).await, Err(Denied::Fenced));
        let mut mine = stale;
        if let Act::Finish(finish) = &mut mine {
            finish.epoch = 2;
        }
        assert_eq!(write(&desk, mine).await, Ok(Done::Captured(CENT)));
        assert_eq!(number(&db, "SELECT COUNT(*) FROM attempt").await, 1, "the stale write is in");
        check_books(&db).await;
    })
    .await;
}

#[tokio::test]
async fn what_providers_cost_is_booked_beside_what_clients_pay() {
    each(|db| async move {
        let desk = Desk::new(db.clone());
        write(&desk, opening("job_a", 2 * CENT, None)).await.unwrap();
        let mut act = finishing("job_a", JobState::Succeeded, 2 * CENT);
        if let Act::Finish(finish) = &mut act {
            finish.attempts = vec![
                // Nobody knows about the first, the second failed and was billed, the third
                // delivered and cost five times the price.
                AttemptRow { state: AttemptState::Unknown, ..attempt("job_a", 0) },
                AttemptRow {
                    state: AttemptState::Failed,
                    billed: Some(CENT),
                    ..attempt("job_a", 1)
                },
                AttemptRow {
                    state: AttemptState::Delivered,
                    billed: Some(5 * CENT),
                    ..attempt("job_a", 2)
                },
            ];
        }
        write(&desk, act).await.unwrap();
        let rows = db.query(
            "SELECT kind, amount FROM transfer WHERE debit LIKE 'system:%' ORDER BY kind, amount",
            Vec::new(),
        );
        let booked: Vec<(String, i64)> =
            rows.await.unwrap().iter().map(|r| (r.text(0).unwrap(), r.int(1).unwrap())).collect();
        let line = |kind: &str, cents: i64| (kind.to_owned(), cents * CENT);
        assert_eq!(
            booked,
            [
                line("absorb", 4),
                line("provider_cost", 1),
                line("provider_cost", 5),
                line("suspense", 1),
            ]
        );
        let costs =
            "SELECT requests, expected, reported_requests, reported, suspense FROM cost_day";
        let row = &db.query(costs, Vec::new()).await.unwrap()[0];
        let seen: Vec<i64> = (0..5).map(|i| row.int(i).unwrap()).collect();
        assert_eq!(seen, [2, 2 * CENT, 2, 6 * CENT, CENT]);
        check_books(&db).await;
    })
    .await;
}

#[tokio::test]
async fn one_that_breaks_a_rule_fails_alone() {
    each(|db| async move {
        let desk = Desk::new(db.clone());
        fund(&desk, "same", CENT).await.unwrap();
        // The same funding again breaks the uniqueness of its transfer; its neighbours go on.
        let (again, a, b) = tokio::join!(
            fund(&desk, "same", CENT),
            write(&desk, opening("job_a", 1, None)),
            write(&desk, opening("job_b", 1, None)),
        );
        assert_eq!(again, Err(Denied::NotNow));
        assert!(a.is_ok() && b.is_ok());
        assert_eq!(number(&db, "SELECT COUNT(*) FROM job").await, 2);
        let rule = db
            .transaction(Durability::Process, |tx| {
                Box::pin(async move {
                    let sql =
                        "UPDATE account SET ceiling = 0, posted = 1 WHERE id = 'credit:default'";
                    tx.execute(sql, &[]).await
                })
            })
            .await;
        assert!(matches!(rule, Err(crate::db::DbError::Conflict(_))), "{rule:?}");
        check_books(&db).await;
    })
    .await;
}

#[tokio::test]
async fn an_account_that_drifts_is_closed_and_the_rest_go_on() {
    each(|db| async move {
        let desk = Desk::new(db.clone());
        write(&desk, opening("job_a", CENT, None)).await.unwrap();
        assert_eq!(audit::check(&db).await.unwrap(), Vec::<String>::new());
        db.transaction(Durability::Process, |tx| {
            Box::pin(async move { tx.execute("UPDATE account SET posted = posted + 1", &[]).await })
        })
        .await
        .unwrap();
        let account = credit("default");
        assert_eq!(audit::check(&db).await.unwrap(), [account.as_str()]);
        assert_eq!(audit::check(&db).await.unwrap(), Vec::<String>::new(), "told once");
        let frozen = Denied::Ledger(Refusal::Frozen { account });
        assert_eq!(write(&desk, opening("job_b", CENT, None)).await, Err(frozen));
        let other = Act::Open(Box::new(Open {
            job: job("job_c"),
            chain: vec![(AccountSpec { id: "credit:other".to_owned(), ..credits(None) }, CENT)],
            attempts: Vec::new(),
            key: None,
        }));
        assert!(write(&desk, other).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn crossings_are_told_with_what_makes_them_true() {
    each(|db| async move {
        let desk = Desk::new(db.clone());
        db.transaction(Durability::Process, |tx| {
            Box::pin(async move {
                let hook = "INSERT INTO webhook (id, org, url, sealed_secret, events, created_at, \
                            rev) VALUES ('w', 'default', 'u', $1, \
                            '[\"credits.low\",\"budget.alert\",\"budget.exceeded\"]', 0, 2)";
                tx.execute(hook, &[vec![1_u8].into()]).await?;
                for sql in [
                    "INSERT INTO budget (id, org, name, scope, scope_id, unit, period, amount, \
                     alert_percent, created_at, rev) VALUES \
                     ('b', 'default', 'b', 'org', 'default', 'usd', 'total', 500000000, 60, 0, 2)",
                    "UPDATE org SET prepaid = 1, low_balance = 500000000 WHERE id = 'default'",
                    "UPDATE revision SET value = 2 WHERE name = 'tenants'",
                ] {
                    tx.execute(sql, &[]).await?;
                }
                Ok(())
            })
        })
        .await
        .unwrap();
        desk.alerts().refresh(&db).await.unwrap();
        let events = || async {
            let sql = "SELECT event FROM outbox ORDER BY event, id";
            let rows = db.query(sql, Vec::new()).await.unwrap();
            rows.iter().map(|row| row.text(0).unwrap()).collect::<Vec<_>>()
        };
        let with_budget = |id: &str, amount: i64| {
            let budget = AccountSpec {
                id: "budget:b".to_owned(),
                cap: Some(50 * CENT),
                fixed: false,
                ..credits(Some(0))
            };
            Act::Open(Box::new(Open {
                job: job(id),
                chain: vec![(credits(Some(0)), amount), (budget, amount)],
                attempts: Vec::new(),
                key: None,
            }))
        };
        fund(&desk, "1", 70 * CENT).await.unwrap();
        // A hold alone crosses nothing, nor does what is let go.
        write(&desk, with_budget("job_1", 40 * CENT)).await.unwrap();
        write(&desk, finishing("job_1", JobState::Failed, 0)).await.unwrap();
        assert_eq!(events().await, Vec::<String>::new());
        write(&desk, with_budget("job_2", 15 * CENT)).await.unwrap();
        write(&desk, finishing("job_2", JobState::Succeeded, 15 * CENT)).await.unwrap();
        assert_eq!(events().await, Vec::<String>::new());
        // 30 of 50 are 60 percent; 70 less 30 are below 50.
        write(&desk, with_budget("job_3", 15 * CENT)).await.unwrap();
        write(&desk, finishing("job_3", JobState::Succeeded, 15 * CENT)).await.unwrap();
        assert_eq!(events().await, ["budget.alert", "credits.low"]);
        // Refused ten times, told once.
        for n in 0..10 {
            let refused = write(&desk, with_budget(&format!("job_r{n}"), 21 * CENT)).await;
            assert!(matches!(refused, Err(Denied::Ledger(Refusal::Exceeded { .. }))));
        }
        assert_eq!(events().await, ["budget.alert", "budget.exceeded", "credits.low"]);
        // Funded and used up again, it is low again.
        fund(&desk, "2", 100 * CENT).await.unwrap();
        write(&desk, opening("job_4", 95 * CENT, Some(0))).await.unwrap();
        write(&desk, finishing("job_4", JobState::Succeeded, 95 * CENT)).await.unwrap();
        assert_eq!(
            events().await,
            ["budget.alert", "budget.exceeded", "credits.low", "credits.low"]
        );
        check_books(&db).await;
    })
    .await;
}

#[tokio::test]
async fn what_was_charged_is_given_back_once_and_exactly() {
    each(|db| async move {
        let desk = Desk::new(db.clone());
        let refund =
            |job: &str| Act::Refund { job: job.to_owned(), memo: "sorry".to_owned(), at: NOW };
        write(&desk, opening("job_a", 5 * CENT, None)).await.unwrap();
        assert_eq!(write(&desk, refund("job_a")).await, Err(Denied::NotNow), "nothing is charged");
        write(&desk, finishing("job_a", JobState::Succeeded, 3 * CENT)).await.unwrap();
        assert_eq!(write(&desk, refund("job_a")).await, Ok(Done::Written));
        assert_eq!(number(&db, "SELECT posted FROM account").await, 0);
        assert_eq!(write(&desk, refund("job_a")).await, Err(Denied::NotNow), "given back twice");
        assert_eq!(number(&db, "SELECT posted FROM account").await, 0);
        // A budget of pictures gets them back as well.
        let pictures = AccountSpec {
            id: "budget:p".to_owned(),
            unit: "image".to_owned(),
            cap: Some(5),
            ..credits(None)
        };
        let chain = vec![(credits(None), CENT), (pictures, 4)];
        let open = Open { job: job("job_p"), chain, attempts: Vec::new(), key: None };
        write(&desk, Act::Open(Box::new(open))).await.unwrap();
        let Act::Finish(mut finish) = finishing("job_p", JobState::Succeeded, CENT) else {
            unreachable!()
        };
        finish.measured.insert("image".to_owned(), 3);
        write(&desk, Act::Finish(finish)).await.unwrap();
        let used = "SELECT posted FROM account WHERE id = 'budget:p'";
        assert_eq!(number(&db, used).await, 3);
        assert_eq!(write(&desk, refund("job_p")).await, Ok(Done::Written));
        assert_eq!(number(&db, used).await, 0);
        write(&desk, opening("job_b", CENT, None)).await.unwrap();
        write(&desk, finishing("job_b", JobState::Failed, 0)).await.unwrap();
        assert_eq!(write(&desk, refund("job_b")).await, Err(Denied::NotNow), "nothing was charged");
        check_books(&db).await;
    })
    .await;
}
