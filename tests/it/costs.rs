//! What providers say that they charge, however odd: a client pays what it was told, and the rest
//! is booked as ours.

use bytes::Bytes;
use serde_json::json;

use crate::support::{
    Gateway, Reply, Upstream, each, pictures,
    vendors::{self, BFL},
};

const FILE: &str = "/files/a.png";
/// What the catalogue says a picture costs, in nano-dollars.
const PRICE: i64 = 25_000_000;

async fn upstream(cost: &str) -> Upstream {
    let upstream = Upstream::start().await;
    let picture: Bytes = pictures::png(256, 192);
    upstream.on("GET", FILE, Reply::file("image/png", &picture));
    vendors::bfl_job(&upstream, vendors::bfl_ready(&upstream.url(FILE)));
    let url = upstream.url(&format!("{}?id=b1", vendors::BFL_POLL));
    let text = format!(r#"{{"id": "b1", "polling_url": "{url}", "cost": {cost}}}"#);
    upstream.on("POST", BFL, Reply::new(200, "application/json", text));
    upstream
}

#[tokio::test]
async fn a_client_pays_what_it_was_told_and_we_carry_the_rest() {
    // As said by the provider, in credits of a cent; as booked, in nano-dollars.
    let cases = [
        ("2.5", PRICE),
        ("NaN", PRICE),
        ("-Infinity", PRICE),
        ("-1", PRICE),
        ("\"2.5\"", PRICE),
        ("null", PRICE),
        ("0", 0),
        ("0.0", 0),
        ("1", 10_000_000),
        // 0.1 + 0.2: rounded up to a whole nano-dollar, once.
        ("0.30000000000000004", 3_000_001),
        ("2.5000000000000001", 25_000_001),
        ("25", 10 * PRICE),
        ("25e-1", PRICE),
        ("1e-30", 1),
        ("1e30", PRICE),
        ("1e400", PRICE),
    ];
    each(cases, async |(cost, owed)| {
        let upstream = upstream(cost).await;
        let gateway = Gateway::with(&upstream, &["bfl"], "").await;
        let answer = gateway.draw(json!({"model": "bfl/flux-1-dev", "prompt": "x"})).await;
        assert_eq!(answer.cost(), "0.025000000", "{cost}");
        let job = answer.header("x-mediagate-job-id").unwrap();
        gateway.books().settled().await;
        let mut moved = vec![
            format!("capture credit:default revenue {PRICE}"),
            format!("hold credit:default revenue {PRICE}"),
            format!("provider_cost cost payable:bfl {owed}"),
        ];
        if owed > PRICE {
            moved.insert(0, format!("absorb absorbed cost {}", owed - PRICE));
        }
        assert_eq!(gateway.books().moved(job), moved, "{cost}");
        let balance = "SELECT posted, pending FROM account";
        assert_eq!(gateway.books().rows(balance), [[PRICE.to_string(), "0".to_owned()]]);
        assert_eq!(upstream.submits("/").len(), 1, "{cost}");
    })
    .await;
}

#[tokio::test]
async fn a_markup_is_the_clients_and_not_the_providers() {
    let upstream = upstream("25").await;
    let markup = "billing.markup_percent = \"33.33\"";
    let gateway = Gateway::with(&upstream, &["bfl"], markup).await;
    let answer = gateway.draw(json!({"model": "bfl/flux-1-dev", "prompt": "x"})).await;
    assert_eq!(answer.cost(), "0.033332500");
    let job = answer.header("x-mediagate-job-id").unwrap();
    gateway.books().settled().await;
    let expected = [
        "absorb absorbed cost 216667500",
        "capture credit:default revenue 33332500",
        "hold credit:default revenue 33332500",
        "provider_cost cost payable:bfl 250000000",
    ];
    assert_eq!(gateway.books().moved(job), expected);
}
