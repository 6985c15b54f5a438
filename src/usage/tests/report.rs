//! Reports of use.

use serde_json::{Value as Json, json};

use super::{Used, params, use_up};
use crate::{
    db::{Db, testing},
    tenant::days,
    usage::{
        report::{Question, Whose},
        when::DAY_MS,
    },
};

/// Three days of two organisations. The default one pays 40 nano-dollars a picture.
async fn fill(db: &Db) {
    let first = days(2026, 9, 1);
    let rows: &[Used] = &[
        (first, "default", "web", "k1", "flux", "fal", "", "", "request", [2, 2_000_000, 0]),
        (first, "default", "web", "k1", "flux", "fal", "", "", "image", [2, 3_000_000, 120]),
        (first, "default", "web", "k1", "flux", "fal", "", "", "megapixel", [2, 1_500_000, 7]),
        (first, "default", "web", "k1", "flux", "fal", "team", "red", "request", [2, 2_000_000, 0]),
        (first, "default", "web", "k1", "flux", "fal", "team", "red", "image", [2, 3_000_000, 127]),
        (
            first,
            "default",
            "web",
            "k1",
            "flux",
            "fal",
            "user",
            "=ann",
            "request",
            [1, 1_000_000, 0],
        ),
        (first, "default", "web", "k1", "flux", "fal", "user", "=ann", "image", [1, 1_000_000, 40]),
        (first + 1, "default", "web", "k2", "gpt", "openai", "", "", "request", [1, 1_000_000, 0]),
        (
            first + 1,
            "default",
            "web",
            "k2",
            "gpt",
            "openai",
            "",
            "",
            "image",
            [1, 1_000_000, 1_000],
        ),
        (first + 1, "default", "app", "k3", "flux", "bfl", "", "", "request", [1, 1_000_000, 5]),
        (first + 2, "default", "web", "k1", "flux", "fal", "", "", "request", [1, 1_000_000, 0]),
        (first + 2, "default", "web", "k1", "flux", "fal", "", "", "image", [1, 1_000_000, 40]),
        (first, "other", "web", "k9", "flux", "fal", "", "", "request", [9, 9_000_000, 0]),
        (first, "other", "web", "k9", "flux", "fal", "", "", "image", [9, 9_000_000, 9_000]),
        (first, "other", "web", "k9", "flux", "fal", "team", "red", "image", [9, 9_000_000, 9_000]),
    ];
    use_up(db, rows).await;
}

fn now() -> i64 {
    days(2026, 9, 3) * DAY_MS + 5
}

fn whose(org: &str, project: Option<&str>, key: Option<&str>) -> Whose {
    let own = |text: Option<&str>| text.map(str::to_owned);
    let org = Some(org.to_owned()).filter(|org| !org.is_empty());
    Whose { org, project: own(project), key: own(key) }
}

async fn ask(db: &Db, whose: Whose, query: &str) -> Json {
    let all = whose.org.is_none();
    let mut params = params(query);
    let question = Question::read(&mut params, whose, all, now()).unwrap();
    params.finish().unwrap();
    question.answer(db).await.unwrap().to_json()
}

/// The lines of an answer, each as one text.
fn lines(answer: &Json) -> Vec<String> {
    let line = |line: &Json| {
        let texts = line.as_object().unwrap().values().map(|v| match v {
            Json::String(text) => text.trim_start_matches("0.0000").to_owned(),
            other => other.to_string().replace('"', ""),
        });
        texts.collect::<Vec<_>>().join(" ")
    };
    answer["data"].as_array().unwrap().iter().map(line).collect()
}

#[tokio::test]
async fn usage_adds_up_in_every_grouping() {
    testing::each(|db| async move {
        fill(&db).await;
        let org = || whose("default", None, None);
        for (who, query, wanted, total) in [
            (
                org(),
                "",
                vec![
                    "2026-09-01 2 {image:3,megapixel:1.5} 00127",
                    "2026-09-02 2 {image:1} 01005",
                    "2026-09-03 1 {image:1} 00040",
                ],
                "0.000001172",
            ),
            (
                org(),
                "group_by=model,provider",
                vec![
                    "flux bfl 1 {} 00005",
                    "flux fal 3 {image:4,megapixel:1.5} 00167",
                    "gpt openai 1 {image:1} 01000",
                ],
                "0.000001172",
            ),
            (
                org(),
                "group_by=unit",
                vec![
                    "image 4 {image:5} 01160",
                    "megapixel 2 {megapixel:1.5} 00007",
                    "request 5 {request:5} 00005",
                ],
                "0.000001172",
            ),
            (
                org(),
                "group_by=label",
                vec!["team red 2 {image:3} 00127", "user =ann 1 {image:1} 00040"],
                "0.000001172",
            ),
            (
                org(),
                "group_by=day&label.user=%3Dann",
                vec!["2026-09-01 1 {image:1} 00040"],
                "0.000000040",
            ),
            (
                org(),
                "group_by=project&from=2026-09-02&to=2026-09-03",
                vec!["app 1 {} 00005", "web 1 {image:1} 01000"],
                "0.000001005",
            ),
            (
                org(),
                "group_by=key,key&unit=megapixel",
                vec!["k1 2 {megapixel:1.5} 00007"],
                "0.000000007",
            ),
            (
                org(),
                "model=flux&provider=fal&from=2026-09-03",
                vec!["2026-09-03 1 {image:1} 00040"],
                "0.000000040",
            ),
            // The whole of time.
            (
                org(),
                "group_by=provider&from=0&to=9999-12-31",
                vec![
                    "bfl 1 {} 00005",
                    "fal 3 {image:4,megapixel:1.5} 00167",
                    "openai 1 {image:1} 01000",
                ],
                "0.000001172",
            ),
            // One key, one project, nobody.
            (
                whose("default", Some("web"), Some("k1")),
                "group_by=key",
                vec!["k1 3 {image:4,megapixel:1.5} 00167"],
                "0.000000167",
            ),
            (
                whose("default", Some("app"), None),
                "group_by=key",
                vec!["k3 1 {} 00005"],
                "0.000000005",
            ),
            (whose("default", Some("web"), Some("k9")), "", vec![], "0.000000000"),
            // Another organisation's project of the same name, and everybody.
            (
                whose("other", Some("web"), None),
                "group_by=key",
                vec!["k9 9 {image:9} 09000"],
                "0.000009000",
            ),
            (
                whose("", None, None),
                "group_by=org",
                vec!["default 5 {image:5,megapixel:1.5} 01172", "other 9 {image:9} 09000"],
                "0.000010172",
            ),
        ] {
            let answer = ask(&db, who.clone(), query).await;
            assert_eq!(lines(&answer), wanted, "{who:?} {query}");
            assert_eq!(answer["total_usd"], total, "{who:?} {query}");
            assert_eq!(answer["has_more"], false, "{query}");
        }
    })
    .await;
}

#[tokio::test]
async fn nothing_a_caller_sends_is_sql() {
    testing::each(|db| async move {
        fill(&db).await;
        let key = || whose("default", Some("web"), Some("k1"));
        for text in [
            "' OR '1'='1",
            "x' UNION SELECT * FROM api_key --",
            "'; DROP TABLE usage_day; --",
            "\\'; DELETE FROM usage_day; --",
            "$1",
            "%",
            "_",
            "\u{2019} OR 1=1",
        ] {
            let encoded: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
            for query in [
                format!("model={encoded}"),
                format!("provider={encoded}"),
                format!("unit={encoded}"),
                format!("label.team={encoded}"),
                format!("label.{encoded}=red"),
            ] {
                let answer = ask(&db, key(), &query).await;
                assert_eq!(answer["data"], json!([]), "{query}");
                assert_eq!(answer["total_usd"], "0.000000000", "{query}");
            }
        }
        assert_eq!(lines(&ask(&db, key(), "group_by=key").await).len(), 1);
    })
    .await;
}

#[test]
fn wrong_questions_name_the_field() {
    for (query, param, part) in [
        ("from=yesterday", "from", "Unix seconds"),
        ("to=2026-02-30", "to", "no time"),
        ("from=2026-09-02&to=2026-09-01", "from", "before"),
        ("group_by=modle", "group_by", "\"model\""),
        ("group_by=day,,key", "group_by", "grouped by \"\""),
        ("group_by=org", "group_by", "grouped by \"org\""),
        ("limit=0", "limit", "1 to 10000"),
        ("limit=10001", "limit", "1 to 10000"),
        ("after=x", "after", "cursor"),
        ("after=WyJ4Il0", "after", "cursor"),
        ("label.a=1&label.b=2", "label.b", "one label"),
        ("label.=1", "label.", "no name"),
        ("model=a%00b", "model", "NUL"),
    ] {
        let error = Question::read(&mut params(query), whose("default", None, None), false, now())
            .unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param), "{query}");
        assert!(error.message.contains(part), "{query}: {}", error.message);
    }
}

#[tokio::test]
async fn pages_meet_without_gap_or_overlap() {
    testing::each(|db| async move {
        fill(&db).await;
        let org = || whose("default", None, None);
        for by in ["day,key,unit", "label,day", "key", "unit,label"] {
            let whole = lines(&ask(&db, org(), &format!("group_by={by}")).await);
            for limit in 1..=3 {
                let mut paged = Vec::new();
                let mut after = String::new();
                loop {
                    let query = format!("group_by={by}&limit={limit}&after={after}");
                    let page = ask(&db, org(), &query).await;
                    assert!(lines(&page).len() <= limit, "{query}");
                    paged.extend(lines(&page));
                    match page["next"].as_str() {
                        Some(next) => after = next.to_owned(),
                        None => break,
                    }
                }
                assert_eq!(paged, whole, "{by} by {limit}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn lines_of_many_units_are_never_cut() {
    testing::each(|db| async move {
        // More rows than are read at once: 30 models with 50 units each.
        let names = |prefix: &str, n: i64| -> &'static str {
            Box::leak(format!("{prefix}{n:02}").into_boxed_str())
        };
        let day = days(2026, 9, 1);
        let mut rows: Vec<Used> = Vec::new();
        for model in 0..30 {
            for unit in 0..50 {
                let (model, unit) = (names("m", model), names("u", unit));
                rows.push((
                    day,
                    "default",
                    "p",
                    "k",
                    model,
                    "fal",
                    "",
                    "",
                    unit,
                    [1, 1_000_000, 1],
                ));
            }
        }
        use_up(&db, &rows).await;
        let mut seen = Vec::new();
        let mut after = String::new();
        loop {
            let query = format!("group_by=model&limit=30&after={after}");
            let page = ask(&db, whose("default", None, None), &query).await;
            for line in page["data"].as_array().unwrap() {
                assert_eq!(line["units"].as_object().unwrap().len(), 50);
                assert_eq!(line["usd"], "0.000000050");
                seen.push(line["model"].as_str().unwrap().to_owned());
            }
            match page["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(seen.len(), 30);
        seen.dedup();
        assert_eq!(seen.len(), 30);
    })
    .await;
}

#[tokio::test]
async fn tables_have_a_column_for_every_unit() {
    testing::each(|db| async move {
        fill(&db).await;
        for (query, csv) in [
            (
                "group_by=day,model",
                "day,model,requests,usd,image,megapixel\r\n\
                 2026-09-01,flux,2,0.000000127,3,1.5\r\n\
                 2026-09-02,flux,1,0.000000005,,\r\n\
                 2026-09-02,gpt,1,0.000001000,1,\r\n\
                 2026-09-03,flux,1,0.000000040,1,\r\n",
            ),
            (
                "group_by=label&label.user=%3Dann",
                "label,value,requests,usd,image\r\nuser,'=ann,1,0.000000040,1\r\n",
            ),
            ("model=none", "day,requests,usd\r\n"),
        ] {
            let question =
                Question::read(&mut params(query), whose("default", None, None), false, now());
            let table = question.unwrap().answer(&db).await.unwrap().to_table();
            assert_eq!(table.to_csv(), csv, "{query}");
        }
    })
    .await;
}

/// Whether a plan reads an index and not a whole table.
#[tokio::test]
async fn months_are_read_from_an_index() {
    testing::each(|db| async move {
        for (who, query) in [
            (whose("default", Some("web"), Some("k1")), "group_by=day,model"),
            (whose("default", None, None), "group_by=label"),
            (whose("", None, None), "group_by=org"),
        ] {
            let question = Question::read(&mut params(query), who, true, now()).unwrap();
            for plan in question.plans(&db).await {
                assert!(plan.contains("SEARCH") || plan.contains("Index"), "{query}: {plan}");
                assert!(
                    !plan.contains("SCAN usage_day") && !plan.contains("Seq Scan"),
                    "{query}: {plan}"
                );
            }
        }
    })
    .await;
}
