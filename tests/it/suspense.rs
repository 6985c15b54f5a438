//! Attempts whose outcome nobody knows: seen by operators, and settled by the provider's invoice.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    books::{command, said},
    support::{
        Answer, Reply,
        vendors::{GEMINI, gemini_error},
    },
    usage::{ADMIN, Setup},
};

/// A gateway whose provider answers one call so that nobody knows what became of it, and the next
/// one not at all. Gives the organisation and both jobs.
async fn lost() -> (Setup, String, Vec<String>) {
    let setup = Setup::start().await;
    let (org, _, key) = setup.key("mine").await;
    setup.make("/credits", json!({"org": org, "amount_usd": "10", "id": "1"})).await;
    setup.upstream.on("POST", GEMINI, vec![gemini_error(500, "INTERNAL"), Reply::reset()]);
    let mut jobs = Vec::new();
    for prompt in ["a", "b"] {
        let body = json!({"model": "nano-banana", "prompt": prompt});
        let call = setup.gateway.post("/v1/images/generations", &body).bearer_auth(&key);
        let answer = Answer::of(call).await;
        answer.error(502, "submit_outcome_unknown", None);
        jobs.push(answer.header("x-mediagate-job-id").unwrap().to_owned());
    }
    setup.gateway.books().settled().await;
    (setup, org, jobs)
}

async fn settle(setup: &Setup, key: &str, path: &str, billed: Value) -> Answer {
    let body = json!({"billed_usd": billed, "memo": "invoice 2026-11"});
    setup.ask(key, Method::POST, &format!("/jobs/{path}/settle"), Some(body)).await
}

async fn suspense(setup: &Setup) -> Value {
    let balance = setup.get("/ledger/trial-balance").await;
    assert_eq!(balance["balanced"], true, "{balance}");
    let units = balance["data"].as_array().unwrap();
    let usd = units.iter().find(|unit| unit["unit"] == "usd").unwrap();
    usd["accounts"]["system:suspense"].clone()
}

fn jobs_of(list: &Value) -> Vec<&str> {
    list["data"].as_array().unwrap().iter().map(|row| row["job"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_unknown_outcome_is_listed_and_settled() {
    let (setup, org, jobs) = lost().await;
    assert_eq!(suspense(&setup).await, "0.078000000");
    let list = setup.get("/attempts?state=unknown").await;
    assert_eq!(jobs_of(&list), [jobs[1].as_str(), jobs[0].as_str()]);
    let shown = &list["data"][1];
    assert!(shown["age_seconds"].as_i64().unwrap() < 60 && shown["sent_at"].is_i64(), "{shown}");
    for (field, wanted) in [
        ("id", json!(format!("{}-0", jobs[0]))),
        ("number", json!(0)),
        ("org", json!(org)),
        ("model", json!("nano-banana")),
        ("deployment", json!("gemini/nano-banana")),
        ("provider", json!("gemini")),
        ("credential", json!("config")),
        ("state", json!("unknown")),
        ("expected_usd", json!("0.039000000")),
    ] {
        assert_eq!(shown[field], wanted, "{field}");
    }
    let first = setup.get("/attempts?provider=gemini&limit=1").await;
    let next = format!("/attempts?limit=1&after={}", first["next"].as_str().unwrap());
    let second = setup.get(&next).await;
    assert_eq!((jobs_of(&first), jobs_of(&second)), (vec![&*jobs[1]], vec![&*jobs[0]]));
    assert_eq!((&second["has_more"], &second["next"]), (&json!(false), &json!(null)));
    assert_eq!(setup.get("/attempts?provider=fal").await["data"], json!([]));

    let path = format!("{}/attempts/0", jobs[0]);
    let settled = settle(&setup, ADMIN, &path, json!("0.04")).await.ok();
    assert_eq!(
        (&settled["state"], &settled["outcome"], &settled["billed_usd"]),
        (&json!("failed"), &json!("settled"), &json!("0.040000000"))
    );
    assert_eq!(suspense(&setup).await, "0.039000000");
    settle(&setup, ADMIN, &path, json!("0.04")).await.error(400, "invalid_request", Some("number"));
    let path = format!("{}/attempts/0", jobs[1]);
    settle(&setup, ADMIN, &path, json!("0")).await.ok();
    assert_eq!(suspense(&setup).await, "0.000000000");
    assert_eq!(setup.get("/attempts?state=unknown").await["data"], json!([]));

    let moved = [
        "absorb absorbed cost 40000000",
        "adjust payable:gemini suspense 39000000",
        "provider_cost cost payable:gemini 40000000",
        "suspense suspense payable:gemini 39000000",
    ];
    let books = setup.gateway.books();
    let of_operator = |job: &str| -> Vec<String> {
        books.moved(job).into_iter().filter(|line| !line.contains("credit:")).collect()
    };
    assert_eq!(of_operator(&jobs[0]), moved);
    assert_eq!(of_operator(&jobs[1]), [moved[1], moved[3]]);
    let ledger = setup.get(&format!("/ledger?job={}&kind=adjust", jobs[0])).await;
    assert_eq!(ledger["data"][0]["memo"], "invoice 2026-11", "{ledger}");
    assert_eq!(setup.get("/ledger/drift").await["data"], json!([]));
    let credits = setup.get(&format!("/credits?org={org}")).await;
    assert_eq!(credits["available_usd"], "10.000000000", "the client paid: {credits}");
    let costs = setup.get("/reconciliation?group_by=provider").await["data"][0].clone();
    for (field, wanted) in [
        ("requests", json!(1)),
        ("expected_usd", json!("0.039000000")),
        ("reported_usd", json!("0.040000000")),
        ("suspense_usd", json!("0.000000000")),
    ] {
        assert_eq!(costs[field], wanted, "{costs}");
    }
    let job = setup.get(&format!("/jobs/{}", jobs[0])).await;
    assert_eq!((&job["status"], &job["charged_usd"]), (&json!("unknown"), &json!(null)));
    assert_eq!(job["attempts"][0]["billed_usd"], "0.040000000", "{job}");
    let audit = setup.get("/audit?limit=100").await;
    let lines = audit["data"].as_array().unwrap();
    let lines: Vec<&Value> = lines.iter().filter(|l| l["action"] == "attempt.settle").collect();
    assert_eq!(lines.len(), 2, "{audit}");
    assert_eq!(lines[1]["target"], format!("{}-0", jobs[0]));
    assert_eq!(lines[1]["detail"]["billed_usd"], "0.040000000");
}

#[tokio::test]
async fn what_is_wrong_settles_nothing() {
    let (setup, org, jobs) = lost().await;
    let (other, ..) = setup.key("theirs").await;
    let path = format!("{}/attempts/0", jobs[0]);
    for wrong in [
        json!("0.1x"),
        json!("-1"),
        json!("-0"),
        json!(""),
        json!(" 1"),
        json!("1e3"),
        json!("NaN"),
        json!("0.0000000001"),
        json!("1000000.000000001"),
        json!("99999999999999999999"),
        json!(0.04),
        json!(1e30),
        json!(1),
        json!(["1"]),
        json!(null),
    ] {
        let answer = settle(&setup, ADMIN, &path, wrong.clone()).await;
        let message = answer.error(400, "invalid_request", Some("billed_usd"));
        assert!(message.contains("billed_usd"), "{wrong}: {message}");
    }
    for (body, field) in [
        (json!({"billed_usd": "1"}), "memo"),
        (json!({"billed_usd": "1", "memo": ""}), "memo"),
        (json!({"billed_usd": "1", "memo": "a\u{0}b"}), "memo"),
        (json!({"billed_usd": "1", "memo": "m", "billed": "2"}), "billed"),
    ] {
        let url = format!("/jobs/{path}/settle");
        let answer = setup.ask(ADMIN, Method::POST, &url, Some(body)).await;
        answer.error(400, "invalid_request", Some(field));
    }
    for (path, code, field) in [
        (format!("{}/attempts/1", jobs[0]), "not_found", "number"),
        (format!("{}/attempts/-1", jobs[0]), "not_found", "number"),
        (format!("{}/attempts/x", jobs[0]), "not_found", "number"),
        ("job_none/attempts/0".to_owned(), "job_not_found", "id"),
    ] {
        settle(&setup, ADMIN, &path, json!("1")).await.error(404, code, Some(field));
    }
    for (query, field) in [("state=failed", "state"), ("limit=0", "limit"), ("after=x", "after")] {
        let answer = setup.ask(ADMIN, Method::GET, &format!("/attempts?{query}"), None).await;
        answer.error(400, "invalid_request", Some(field));
    }
    // An owner of the organisation sees them; what the operator pays is not its business.
    for (whose, seen, status) in [(&org, 2, 403), (&other, 0, 404)] {
        let made = json!({"name": "o", "role": "owner", "org": whose});
        let made = setup.make("/admin-keys", made).await;
        let key = made["key"].as_str().unwrap();
        let list = setup.ask(key, Method::GET, "/attempts?state=unknown", None).await.ok();
        assert_eq!(list["data"].as_array().unwrap().len(), seen);
        assert_eq!(settle(&setup, key, &path, json!("1")).await.status, status);
    }
    let elsewhere = format!("/attempts?org={other}");
    assert_eq!(setup.get(&elsewhere).await["data"], json!([]));
    assert_eq!(suspense(&setup).await, "0.078000000");
    let audit = setup.get("/audit?limit=100").await.to_string();
    assert!(!audit.contains("attempt.settle"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_lists_and_settles() {
    let (setup, org, jobs) = lost().await;
    for (is_remote, job) in [(false, &jobs[0]), (true, &jobs[1])] {
        let csv = said(&setup, &["ledger", "unknown", "--provider", "gemini", "--csv"], is_remote);
        assert_eq!(csv.lines().count(), if is_remote { 2 } else { 3 }, "{csv}");
        let words = ["ledger", "unknown", "--org", &org, "--limit", "1", "--json"];
        let shown: Value = serde_json::from_str(&said(&setup, &words, is_remote)).unwrap();
        assert_eq!(jobs_of(&shown), [jobs[1].as_str()]);
        let words = |billed: &'static str| {
            ["ledger", "settle", job, "0", "--billed-usd", billed, "--memo", "invoice 7"]
        };
        for wrong in ["0.1x", "1e3"] {
            let output = command(&setup, &words(wrong), is_remote);
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{told}");
            assert!(told.contains("billed_usd is"), "{told}");
        }
        let text = said(&setup, &words("0.05"), is_remote);
        assert_eq!(text, format!("{job}-0 is settled: 0.050000000 USD were billed\n"));
        let again = command(&setup, &words("0.05"), is_remote);
        let told = String::from_utf8_lossy(&again.stderr);
        assert_eq!(again.status.code(), Some(2), "{told}");
        assert!(told.contains("failed, not unknown"), "{told}");
    }
    assert_eq!(suspense(&setup).await, "0.000000000");
    let audit = setup.get("/audit?limit=100").await;
    let lines = audit["data"].as_array().unwrap();
    let actors = lines.iter().filter(|line| line["action"] == "attempt.settle");
    let actors: Vec<&Value> = actors.map(|line| &line["actor"]).collect();
    assert_eq!(actors, ["config", "cli"]);
}
