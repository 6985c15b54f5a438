//! What was in suspense leaves it once and exactly, and is not forgotten before.

use super::*;
use crate::{
    jobs::{Settle, erase},
    metrics::BookMetrics,
    usage::{
        fold,
        unknown::{self, Sums},
    },
};

const DAY: i64 = 86_400_000;
/// When the invoice came.
const LATER: i64 = NOW + 9 * DAY;

fn unknown_of(job: &str, number: i64) -> AttemptRow {
    AttemptRow { state: AttemptState::Unknown, ..attempt(job, number) }
}

/// A job that is over, with these attempts.
async fn over(desk: &Desk, id: &str, state: JobState, attempts: Vec<AttemptRow>) {
    let Act::Open(mut open) = opening(id, 3 * CENT, None) else { unreachable!() };
    let sent = |row: &AttemptRow| AttemptRow { state: AttemptState::Intent, ..row.clone() };
    open.attempts = attempts.iter().map(sent).collect();
    write(desk, Act::Open(open)).await.unwrap();
    let Act::Finish(mut finish) = finishing(id, state, 2 * CENT) else { unreachable!() };
    finish.attempts = attempts;
    write(desk, Act::Finish(finish)).await.unwrap();
}

fn settling(job: &str, number: i64, billed: i64) -> Act {
    Act::Settle(Settle {
        attempt: crate::jobs::row::attempt_id(job, number),
        job: job.to_owned(),
        billed,
        memo: "invoice".to_owned(),
        at: LATER,
    })
}

async fn texts(db: &Db, sql: &'static str) -> Vec<String> {
    let rows = db.query(sql, Vec::new()).await.unwrap();
    rows.iter().map(|row| row.text(0).unwrap()).collect()
}

async fn suspense(db: &Db) -> i64 {
    let balance = fold::trial_balance(db).await.unwrap().remove("usd").unwrap_or_default();
    assert_eq!(balance.sum, 0, "{balance:?}");
    let suspense = balance.accounts.get("system:suspense").copied().unwrap_or(0);
    assert_eq!(unknown::sums(db).await.unwrap().suspense, suspense);
    let by_day = "SELECT CAST(COALESCE(SUM(suspense), 0) AS BIGINT) FROM cost_day";
    assert_eq!(number(db, by_day).await, suspense, "the sums by day say something else");
    suspense
}

#[tokio::test]
async fn what_was_in_suspense_leaves_it_once_and_exactly() {
    for (price, billed) in [
        (Some(CENT), 0),
        (Some(CENT), CENT),
        (Some(CENT), 1),
        (Some(CENT), 7 * CENT),
        (Some(0), 0),
        (Some(0), CENT),
        (None, 0),
        (None, CENT),
    ] {
        each(|db| async move {
            let desk = Desk::new(db.clone());
            let first = AttemptRow { expected: price, ..unknown_of("job_a", 0) };
            let attempts = vec![first, unknown_of("job_a", 1)];
            over(&desk, "job_a", JobState::Unknown, attempts).await;
            let before = suspense(&db).await;
            assert_eq!(before, price.unwrap_or(0) + CENT);
            assert_eq!(write(&desk, settling("job_a", 0, billed)).await, Ok(Done::Written));
            assert_eq!(suspense(&db).await, CENT, "{price:?} {billed}");
            for other in [0, billed, 3 * CENT] {
                let again = write(&desk, settling("job_a", 0, other)).await;
                assert_eq!(again, Err(Denied::NotNow));
            }
            let rows = db
                .query(
                    "SELECT id, kind, debit, credit, amount, memo FROM transfer \
                     WHERE at = $1 ORDER BY id",
                    vec![LATER.into()],
                )
                .await
                .unwrap();
            let booked: Vec<String> = rows
                .iter()
                .map(|row| {
                    let text = |column| row.text(column).unwrap();
                    let memo = row.opt_text(5).unwrap().unwrap_or_default();
                    let amount = row.int(4).unwrap();
                    format!("{} {} {} {} {amount} {memo}", text(0), text(1), text(2), text(3))
                })
                .collect();
            let line = |what: &str, sides: &str, amount: i64, memo: &str| {
                format!("job_a-0:{what} {sides} {amount} {memo}")
            };
            let mut wanted = vec![line(
                "settled",
                "adjust system:payable:fal system:suspense",
                price.unwrap_or(0),
                "invoice",
            )];
            if billed > 0 {
                let sides = "absorb system:absorbed system:cost";
                wanted.insert(0, line("absorb", sides, billed, ""));
                let sides = "provider_cost system:cost system:payable:fal";
                wanted.insert(1, line("provider_cost", sides, billed, ""));
            }
            assert_eq!(booked, wanted);
            let costs = "SELECT requests, expected, reported_requests, reported, suspense \
                         FROM cost_day WHERE day = $1";
            let rows = db.query(costs, vec![LATER.div_euclid(DAY).into()]).await.unwrap();
            let seen: Vec<i64> =
                rows.iter().flat_map(|row| (0..5).map(|i| row.int(i).unwrap())).collect();
            let counted = [1, price.unwrap_or(0), 1, billed, 0];
            assert_eq!(seen, if billed > 0 { &counted[..] } else { &[] });
            let rows = db.query(format!("{ATTEMPT_COLUMNS} ORDER BY number"), Vec::new()).await;
            let rows: Vec<AttemptRow> =
                rows.unwrap().iter().map(|row| AttemptRow::from_row(row).unwrap()).collect();
            let settled = AttemptRow {
                state: AttemptState::Failed,
                outcome: Some("settled".to_owned()),
                billed: Some(billed),
                expected: price,
                ..attempt("job_a", 0)
            };
            assert_eq!(rows, [settled, unknown_of("job_a", 1)]);
            write(&desk, settling("job_a", 1, 0)).await.unwrap();
            assert_eq!(suspense(&db).await, 0);
            assert_eq!(number(&db, "SELECT posted FROM account").await, 0, "a client paid");
            check_books(&db).await;
        })
        .await;
    }
}

#[tokio::test]
async fn only_what_is_unknown_of_a_job_that_is_over_is_settled() {
    each(|db| async move {
        let desk = Desk::new(db.clone());
        let failed = AttemptRow { state: AttemptState::Failed, ..attempt("job_a", 1) };
        let delivered = AttemptRow { state: AttemptState::Delivered, ..attempt("job_a", 2) };
        let attempts = vec![unknown_of("job_a", 0), failed, delivered];
        over(&desk, "job_a", JobState::Succeeded, attempts).await;
        write(&desk, opening("job_b", CENT, None)).await.unwrap();
        let change =
            Attempts { job: "job_b".to_owned(), epoch: 1, attempts: vec![unknown_of("job_b", 0)] };
        write(&desk, Act::Attempts(change)).await.unwrap();
        let Act::Open(mut open) = opening("job_s", CENT, None) else { unreachable!() };
        open.job.simulated = true;
        write(&desk, Act::Open(open)).await.unwrap();
        let Act::Finish(mut finish) = finishing("job_s", JobState::Unknown, 0) else {
            unreachable!()
        };
        finish.attempts = vec![unknown_of("job_s", 0)];
        write(&desk, Act::Finish(finish)).await.unwrap();

        let before = number(&db, "SELECT COUNT(*) FROM transfer").await;
        let mut foreign = settling("job_b", 0, CENT);
        if let Act::Settle(settle) = &mut foreign {
            settle.job = "job_a".to_owned();
        }
        for (what, act) in [
            ("failed", settling("job_a", 1, CENT)),
            ("delivered", settling("job_a", 2, CENT)),
            ("not there", settling("job_a", 3, CENT)),
            ("no job", settling("job_x", 0, CENT)),
            ("the job goes on", settling("job_b", 0, CENT)),
            ("of another job", foreign),
            ("simulated", settling("job_s", 0, CENT)),
        ] {
            assert_eq!(write(&desk, act).await, Err(Denied::NotNow), "{what}");
        }
        let below = write(&desk, settling("job_a", 0, -1)).await;
        assert_eq!(below, Err(Denied::Ledger(Refusal::Amount)));
        assert_eq!(number(&db, "SELECT COUNT(*) FROM transfer").await, before);
        assert_eq!(suspense(&db).await, CENT);

        // However many say so at once, one of them is heard.
        let calls = (1..=20).map(|n| write(&desk, settling("job_a", 0, n)));
        let heard = join_all(calls).await.into_iter().flatten().count();
        assert_eq!((heard, suspense(&db).await), (1, 0));
        // The database would not take it either.
        let twice = "INSERT INTO transfer (id, kind, org, unit, debit, credit, amount, at) \
                     VALUES ('job_a-0:settled', 'adjust', '', 'usd', 'a', 'b', 0, 0)";
        let rule = db
            .transaction(Durability::Process, move |tx| {
                Box::pin(async move { tx.execute(twice, &[]).await })
            })
            .await;
        assert!(matches!(rule, Err(crate::db::DbError::Conflict(_))), "{rule:?}");
        check_books(&db).await;
    })
    .await;
}

#[tokio::test]
async fn what_nobody_knows_is_shown_and_told_of_after_a_day() {
    each(|db| async move {
        let desk = Desk::new(db.clone());
        let metrics = BookMetrics::default();
        let seen = || (metrics.unknown.get(), metrics.suspense.get());
        assert_eq!(audit::watch(&db, &metrics, NOW).await.unwrap(), None);
        assert_eq!(seen(), (0, 0));
        let attempts = (0..22)
            .map(|n| AttemptRow { sent_at: NOW - 100 + n, ..unknown_of("job_a", n) })
            .collect();
        over(&desk, "job_a", JobState::Unknown, attempts).await;
        assert_eq!(audit::watch(&db, &metrics, NOW - 100 + DAY).await.unwrap(), None);
        assert_eq!(seen(), (22, 22 * CENT));
        let old = audit::watch(&db, &metrics, NOW - 98 + DAY).await.unwrap().unwrap();
        assert_eq!(
            old,
            audit::Old { first: vec!["job_a-0".into(), "job_a-1".into()], more: false }
        );
        let old = audit::watch(&db, &metrics, NOW + DAY).await.unwrap().unwrap();
        assert_eq!((old.first.len(), old.more), (20, true));
        for n in 0..21 {
            write(&desk, settling("job_a", n, n)).await.unwrap();
        }
        let old = audit::watch(&db, &metrics, LATER).await.unwrap().unwrap();
        assert_eq!(old, audit::Old { first: vec!["job_a-21".into()], more: false });
        assert_eq!(seen(), (1, CENT));
    })
    .await;
}

#[tokio::test]
async fn what_is_in_suspense_outlives_its_results() {
    each(|db| async move {
        let desk = Desk::new(db.clone());
        over(&desk, "job_a", JobState::Unknown, vec![unknown_of("job_a", 0)]).await;
        let delivered = AttemptRow { state: AttemptState::Delivered, ..attempt("job_b", 1) };
        let attempts = vec![unknown_of("job_b", 0), delivered.clone()];
        over(&desk, "job_b", JobState::Succeeded, attempts).await;
        let plain = vec![AttemptRow { job: "job_c".to_owned(), ..delivered }];
        over(&desk, "job_c", JobState::Succeeded, plain).await;
        let jobs = "SELECT id FROM job ORDER BY id";
        let contents = "SELECT COUNT(*) FROM job WHERE result IS NOT NULL OR labels <> '{}'";
        assert_eq!(erase::erase(&db, NOW).await.unwrap(), 0);
        assert_eq!(number(&db, contents).await, 3);
        assert_eq!(erase::erase(&db, LATER).await.unwrap(), 1);
        assert_eq!(texts(&db, jobs).await, ["job_a", "job_b"]);
        assert_eq!(number(&db, contents).await, 0, "content is kept beyond its time");
        let sums = Sums { attempts: 2, suspense: 2 * CENT };
        assert_eq!(unknown::sums(&db).await.unwrap(), sums);
        write(&desk, settling("job_a", 0, CENT)).await.unwrap();
        assert_eq!(erase::erase(&db, LATER).await.unwrap(), 1);
        assert_eq!(texts(&db, jobs).await, ["job_b"]);
        write(&desk, settling("job_b", 0, CENT)).await.unwrap();
        assert_eq!(erase::erase(&db, LATER).await.unwrap(), 1);
        assert_eq!(number(&db, "SELECT COUNT(*) FROM attempt").await, 0);
        assert_eq!(suspense(&db).await, 0);
    })
    .await;
}
