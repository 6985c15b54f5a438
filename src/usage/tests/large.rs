//! How quick reports are over a million rows: a year of an organisation with many keys.
//!
//! `scripts/servers cargo test --release --lib usage::tests::large -- --ignored --nocapture`

use std::time::{Duration, Instant};

use super::params;
use crate::{
    db::{Db, Durability, Insert, Value, testing},
    tenant::days,
    usage::{
        report::{Question, Whose},
        when::DAY_MS,
    },
};

static USAGE: Insert = Insert {
    into: "usage_day (org, day, project, api_key, model, provider, label, value, unit, requests, \
           quantity, amount)",
    columns: 12,
    conflict: "",
};

/// 365 days of 100 keys with 9 models each, every one with two units and a label besides.
async fn fill(db: &Db) {
    let first = days(2026, 1, 1);
    for day in first..first + 365 {
        let mut rows: Vec<Vec<Value>> = Vec::new();
        for key in 0..100 {
            for model in 0..9 {
                for (label, value, unit) in
                    [("", "", "request"), ("", "", "image"), ("team", "red", "image")]
                {
                    rows.push(vec![
                        "default".into(),
                        day.into(),
                        "default".into(),
                        format!("mg_{key:016}").into(),
                        format!("model-{model}").into(),
                        "fal".into(),
                        label.into(),
                        value.into(),
                        unit.into(),
                        3.into(),
                        3_000_000.into(),
                        120_000_000.into(),
                    ]);
                }
            }
        }
        db.transaction(Durability::Process, move |tx| {
            let rows = rows.clone();
            Box::pin(async move {
                for part in rows.chunks(500) {
                    tx.insert_many(&USAGE, part).await?;
                }
                Ok(())
            })
        })
        .await
        .unwrap();
    }
    let vacuum = if db.is_shared() { "ANALYZE usage_day" } else { "ANALYZE" };
    db.transaction(Durability::Process, move |tx| {
        Box::pin(async move { tx.execute(vacuum, &[]).await })
    })
    .await
    .unwrap();
}

#[tokio::test]
#[ignore = "a million rows on each engine"]
async fn a_month_of_a_million_rows_is_quick() {
    testing::each(|db| async move {
        let start = Instant::now();
        fill(&db).await;
        println!("{db:?}: filled in {:?}", start.elapsed());
        let key = Some("mg_0000000000000042".to_owned());
        let org = Some("default".to_owned());
        for (key, query, most) in [
            (key.clone(), "from=2026-06-01&to=2026-07-01", 100),
            (key, "from=2026-01-01&to=2027-01-01&group_by=model", 400),
            (None, "from=2026-06-01&to=2026-07-01&group_by=day", 1000),
            (None, "from=2026-06-01&to=2026-07-01&group_by=day,key,model&limit=10000", 2000),
            (None, "from=2026-06-01&to=2026-07-01&group_by=label", 1000),
        ] {
            let whose = Whose { org: org.clone(), project: None, key: key.clone() };
            let now = days(2026, 12, 31) * DAY_MS;
            let question = Question::read(&mut params(query), whose, false, now).unwrap();
            let start = Instant::now();
            let report = question.answer(&db).await.unwrap().to_json();
            let took = start.elapsed();
            let lines = report["data"].as_array().unwrap().len();
            println!("{db:?}: {took:?} for {lines} lines of {query}, one key: {}", key.is_some());
            assert!(took < Duration::from_millis(most), "{query}: {took:?}");
        }
    })
    .await;
}
