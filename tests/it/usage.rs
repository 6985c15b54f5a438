//! Usage, credits, budgets, the ledger and webhooks, as keys and operators see them.

use std::net::TcpListener;

use mediagate::db::{Db, DbSettings, Durability, Value as Sql};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Gateway, Upstream, config};

pub(crate) const ADMIN: &str = "an-admin-key-of-the-test";

pub(crate) struct Setup {
    pub(crate) gateway: Gateway,
    pub(crate) upstream: Upstream,
    pub(crate) admin: String,
    db: Db,
    config: String,
}

impl Setup {
    pub(crate) async fn start() -> Self {
        let upstream = Upstream::start().await;
        let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let more = format!(
            "auth.mode = \"keys\"
auth.admin_key = \"{ADMIN}\"
server.admin_listen = \"{admin}\""
        );
        let config = config(&upstream, &["gemini"], &more);
        let gateway = Gateway::start(&config).await;
        let url = format!("sqlite://{}/mediagate.db", gateway.data.path().display());
        let db = Db::open(&DbSettings { url, max_connections: 2 }).await.unwrap();
        Self { gateway, upstream, admin: format!("http://{admin}"), db, config }
    }

    /// The directory of the gateway's data, with its configuration as `mediagate.toml`.
    pub(crate) fn directory(&self) -> &std::path::Path {
        let path = self.gateway.data.path();
        std::fs::write(path.join("mediagate.toml"), &self.config).unwrap();
        path
    }

    /// Asks the admin listener.
    pub(crate) async fn ask(
        &self,
        key: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let url = format!("{}/admin/v1{path}", self.admin);
        let mut request = self.gateway.client.request(method, url).bearer_auth(key);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        Answer::of(request).await
    }

    async fn ask_owned(
        &self,
        key: &str,
        method: Method,
        path: String,
        body: Option<Value>,
    ) -> Answer {
        self.ask(key, method, &path, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.ask(ADMIN, Method::GET, path, None).await.ok()
    }

    pub(crate) async fn make(&self, path: &str, body: Value) -> Value {
        let made = self.ask(ADMIN, Method::POST, path, Some(body)).await;
        assert_eq!(made.status, 201, "{path}: {}", made.shown());
        made.json()
    }

    /// A key of a fresh project in a fresh organisation: its organisation, id and text.
    pub(crate) async fn key(&self, name: &str) -> (String, String, String) {
        let org = self.make("/orgs", json!({"name": name, "prepaid": true})).await;
        let org = org["id"].as_str().unwrap().to_owned();
        let project = self.make("/projects", json!({"name": "web", "org": org})).await;
        let key = self.make("/keys", json!({"name": "ci", "project": project["id"]})).await;
        let text = |name: &str| key[name].as_str().unwrap().to_owned();
        (org, text("id"), text("key"))
    }

    async fn of_key(&self, key: &str, path: &str) -> Answer {
        Answer::of(self.gateway.request(Method::GET, path).bearer_auth(key)).await
    }

    pub(crate) async fn run(&self, sql: &'static str, params: Vec<Sql>) {
        self.db
            .transaction(Durability::Process, move |tx| {
                let params = params.clone();
                Box::pin(async move { tx.execute(sql, &params).await })
            })
            .await
            .unwrap();
    }

    /// Two requests with three pictures, today.
    pub(crate) async fn use_up(&self, org: &str, key: &str, model: &str, amount: i64) {
        let sql = "INSERT INTO usage_day (day, org, project, api_key, model, provider, label, \
                   value, unit, requests, quantity, amount) \
                   VALUES ($1, $2, 'p', $3, $4, 'fal', $5, $6, $7, 2, $8, $9)";
        let project = "UPDATE usage_day SET project = (SELECT project FROM api_key \
                       WHERE id = usage_day.api_key)";
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let day = i64::try_from(now / 86_400).unwrap();
        for (label, value) in [("", ""), ("team", "=1+1")] {
            for (unit, quantity, amount) in
                [("request", 2_000_000_i64, 0_i64), ("image", 3_000_000, amount)]
            {
                let row: Vec<Sql> = vec![
                    day.into(),
                    org.into(),
                    key.into(),
                    model.into(),
                    label.into(),
                    value.into(),
                    unit.into(),
                    quantity.into(),
                    amount.into(),
                ];
                self.run(sql, row).await;
            }
        }
        self.run(project, vec![]).await;
    }
}

#[tokio::test]
async fn a_key_sees_its_own_use_and_nobody_elses() {
    let setup = Setup::start().await;
    let (mine, my_id, my_key) = setup.key("mine").await;
    let (theirs, their_id, their_key) = setup.key("theirs").await;
    setup.use_up(&mine, &my_id, "flux", 120_000_000).await;
    setup.use_up(&theirs, &their_id, "secret-model", 990_000_000).await;

    let answer = setup.of_key(&my_key, "/v1/usage?group_by=key,model").await.ok();
    assert_eq!(
        answer["data"],
        json!([{"key": my_id, "model": "flux", "requests": 2, "units": {"image": "3"},
                "usd": "0.120000000"}])
    );
    assert_eq!(answer["object"], "list");
    assert_eq!(answer["total_usd"], "0.120000000");
    for path in [
        "/v1/usage?model=secret-model",
        "/v1/usage?group_by=project&model=%27%20OR%20%271%27%3D%271",
        "/v1/usage?label.team=%27%3B%20DROP%20TABLE%20usage_day%3B--",
        "/v1/usage?from=0&to=9999-12-31&provider=%25",
        "/v1/usage?from=0&to=1970-01-02",
    ] {
        let answer = setup.of_key(&my_key, path).await.ok();
        assert_eq!(answer["data"], json!([]), "{path}");
        assert_eq!(answer["total_usd"], "0.000000000", "{path}");
    }
    let everything = setup.of_key(&my_key, "/v1/usage?from=0&to=9999-12-31").await;
    assert!(!everything.shown().contains("secret") && !everything.shown().contains(&theirs));
    let credits = setup.of_key(&their_key, "/v1/credits").await.ok();
    assert_eq!(
        credits,
        json!({"available_usd": "0.000000000", "held_usd": "0.000000000",
               "spent_usd": "0.990000000", "budgets": []})
    );
    for path in ["/v1/usage", "/v1/credits"] {
        assert_eq!(setup.of_key("mg_wrong", path).await.status, 401, "{path}");
        assert_eq!(setup.of_key(ADMIN, path).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn tables_come_as_csv() {
    let setup = Setup::start().await;
    let (org, id, key) = setup.key("=cmd").await;
    setup.use_up(&org, &id, "flux", 120_000_000).await;
    let url = setup.gateway.url("/v1/usage?group_by=label");
    let request =
        setup.gateway.client.get(url).bearer_auth(&key).header("accept", "text/csv, */*;q=0.1");
    let by_header = Answer::of(request).await;
    let by_field = setup.of_key(&key, "/v1/usage?group_by=label&format=csv").await;
    for answer in [by_header, by_field] {
        assert_eq!(answer.status, 200, "{}", answer.shown());
        assert_eq!(answer.header("content-type"), Some("text/csv; charset=utf-8; header=present"));
        assert_eq!(answer.header("x-mediagate-next"), None);
        let text = String::from_utf8(answer.body.to_vec()).unwrap();
        assert_eq!(text, "label,value,requests,usd,image\r\nteam,'=1+1,2,0.120000000,3\r\n");
    }
    let paged = setup.of_key(&key, "/v1/usage?group_by=unit&format=csv&limit=1").await;
    let next = paged.header("x-mediagate-next").unwrap();
    let rest =
        setup.of_key(&key, &format!("/v1/usage?group_by=unit&limit=1&after={next}")).await.ok();
    assert_eq!(rest["data"][0]["unit"], "request");
    assert_eq!(rest["has_more"], false);
}

#[tokio::test]
async fn wrong_questions_are_told_what_is_wrong() {
    let setup = Setup::start().await;
    let (_, _, key) = setup.key("mine").await;
    for (query, param) in [
        ("from=yesterday", "from"),
        ("from=2026-09-02&to=2026-09-01", "from"),
        ("to=99999999999999999999", "to"),
        ("group_by=colour", "group_by"),
        ("group_by=org", "group_by"),
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("after=zzz", "after"),
        ("format=xml", "format"),
        ("form=2026-09-01", "form"),
        ("model=a&model=b", "model"),
        ("model=%00", "model"),
    ] {
        let answer = setup.of_key(&key, &format!("/v1/usage?{query}")).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.shown());
        assert_eq!(answer.json()["error"]["param"], param, "{query}");
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{query}");
    }
    assert_eq!(setup.of_key(&key, "/v1/credits?x=1").await.status, 400);
}

#[tokio::test]
async fn operators_see_what_they_may() {
    let setup = Setup::start().await;
    let (mine, my_id, _) = setup.key("mine").await;
    let (theirs, their_id, _) = setup.key("theirs").await;
    setup.use_up(&mine, &my_id, "flux", 120_000_000).await;
    setup.use_up(&theirs, &their_id, "gpt", 990_000_000).await;
    setup
        .run(
            "INSERT INTO transfer (id, kind, org, unit, debit, credit, amount, memo, at) VALUES \
             ('fund:1', 'fund', $1, 'usd', 'system:external', $2, 5000000000, 'paid', 1000)",
            vec![mine.as_str().into(), format!("credit:{mine}").into()],
        )
        .await;
    setup
        .run(
            "INSERT INTO account (id, org, unit, posted, pending, cap, ceiling) \
             VALUES ($1, $2, 'usd', -5000000000, 0, 0, 0)",
            vec![format!("credit:{mine}").into(), mine.as_str().into()],
        )
        .await;

    let all = setup.get("/usage?group_by=org&from=0").await;
    assert_eq!(all["data"].as_array().unwrap().len(), 2);
    assert_eq!(all["total_usd"], "1.110000000");
    let one = setup.get(&format!("/usage?group_by=model&org={theirs}")).await;
    assert_eq!(one["data"][0]["model"], "gpt");
    let one = setup.get(&format!("/usage?group_by=model&key={my_id}")).await;
    assert_eq!(one["data"][0]["model"], "flux");
    let credits = setup.get(&format!("/credits?org={mine}")).await;
    assert_eq!(credits["funded_usd"], "5.000000000");
    assert_eq!(credits["available_usd"], "5.000000000");
    let ledger = setup.get(&format!("/ledger?account=credit:{mine}")).await;
    assert_eq!(ledger["data"][0]["memo"], "paid");
    assert_eq!(ledger["data"][0]["amount"], "5.000000000");
    let accounts = setup.get("/ledger/accounts").await;
    assert_eq!(accounts["data"][0]["folded"]["posted"], "-5.000000000");
    assert_eq!(setup.get("/ledger/trial-balance").await["balanced"], true);
    assert_eq!(setup.get("/ledger/drift").await["data"], json!([]));
    assert_eq!(setup.get("/reconciliation").await["data"], json!([]));

    // An operator of one organisation sees that one; a viewer changes nothing.
    let viewer = json!({"name": "v", "role": "viewer", "org": theirs});
    let viewer = setup.make("/admin-keys", viewer).await;
    let viewer = viewer["key"].as_str().unwrap();
    let ask = |method: Method, path: String, body: Option<Value>| {
        setup.ask_owned(viewer, method, path, body)
    };
    let own = ask(Method::GET, "/usage?group_by=org".to_owned(), None).await.ok();
    assert_eq!(own["data"].as_array().unwrap().len(), 1);
    assert_eq!(own["data"][0]["org"], theirs.as_str());
    assert_eq!(ask(Method::GET, "/ledger".to_owned(), None).await.ok()["data"], json!([]));
    let budget = json!({"name": "b", "scope": "org", "scope_id": theirs, "limit_usd": "1"});
    for (method, path, body, status) in [
        (Method::GET, format!("/usage?org={mine}"), None, 404),
        (Method::GET, format!("/credits?org={mine}"), None, 404),
        (Method::GET, format!("/ledger?org={mine}"), None, 404),
        (Method::GET, format!("/ledger/accounts?org={mine}"), None, 404),
        (Method::GET, format!("/budgets?org={mine}"), None, 404),
        (Method::GET, format!("/webhooks?org={mine}"), None, 404),
        (Method::GET, "/ledger/trial-balance".to_owned(), None, 403),
        (Method::GET, "/ledger/drift".to_owned(), None, 403),
        (Method::GET, "/reconciliation".to_owned(), None, 403),
        (Method::POST, "/budgets".to_owned(), Some(budget), 403),
        (Method::POST, "/webhooks".to_owned(), Some(json!({"url": "https://example.com/"})), 403),
        (
            Method::POST,
            "/webhooks".to_owned(),
            Some(json!({"url": "https://example.com/", "org": mine})),
            404,
        ),
    ] {
        let answer = ask(method.clone(), path.clone(), body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.shown());
    }
    for path in ["/usage", "/credits", "/ledger", "/budgets", "/webhooks", "/reconciliation"] {
        assert_eq!(setup.ask("wrong", Method::GET, path, None).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn budgets_live_a_whole_life() {
    let setup = Setup::start().await;
    let (org, id, key) = setup.key("mine").await;
    setup.use_up(&org, &id, "flux", 120_000_000).await;
    let budget = json!({"name": "monthly", "org": org, "scope": "key", "scope_id": id,
                        "limit_usd": "5", "alert_percent": 80});
    let made = setup.make("/budgets", budget).await;
    let path = format!("/budgets/{}", made["id"].as_str().unwrap());
    assert_eq!(made["limit_usd"], "5.000000000");
    assert_eq!(made["spent_usd"], "0.120000000");
    assert_eq!(made["period"], "month");
    let credits = setup.of_key(&key, "/v1/credits").await.ok();
    assert_eq!(credits["budgets"][0]["name"], "monthly", "{credits:#}");
    assert_eq!(credits["budgets"][0]["spent_usd"], "0.120000000");

    let patch = |body: Value| setup.ask_owned(ADMIN, Method::PATCH, path.clone(), Some(body));
    let changed =
        patch(json!({"limit_usd": "0.05", "alert_percent": null, "name": "less"})).await.ok();
    assert_eq!(changed["limit_usd"], "0.050000000");
    assert_eq!(changed["spent_usd"], "0.120000000");
    assert_eq!(changed["alert_percent"], Value::Null);
    for (body, param) in [
        (json!({"limit_usd": "-1"}), "limit_usd"),
        (json!({"limit_usd": 5}), "limit_usd"),
        (json!({"limit_usd": "1e30"}), "limit_usd"),
        (json!({"limit_usd": "1000000000000000000000000000000"}), "limit_usd"),
        (json!({"limit": "5"}), "limit"),
        (json!({"alert_percent": 101}), "alert_percent"),
        (json!({"period": "year"}), "period"),
        (json!({"scope": "org"}), "scope"),
        (json!({"spent_usd": "0"}), "spent_usd"),
    ] {
        let answer = patch(body.clone()).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.shown());
        assert_eq!(answer.json()["error"]["param"], param, "{body}");
    }
    for body in [
        json!({"name": "b", "scope": "key", "scope_id": id, "org": org}),
        json!({"name": "b", "scope": "key", "scope_id": "mg_other", "org": org, "limit_usd": "1"}),
        json!({"name": "b", "scope": "key", "scope_id": id, "org": org, "unit": "teapot", "limit": "1"}),
        json!({"name": "b", "scope": "key", "scope_id": id, "org": org, "unit": "image", "limit_usd": "1"}),
    ] {
        let answer = setup.ask(ADMIN, Method::POST, "/budgets", Some(body.clone())).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.shown());
    }
    let listed = setup.get(&format!("/budgets?org={org}&scope=key")).await;
    assert_eq!(listed["data"][0]["name"], "less");
    let gone = setup.ask(ADMIN, Method::DELETE, &path, None).await.ok();
    assert_eq!(gone["deleted"], true);
    assert_eq!(setup.ask(ADMIN, Method::GET, &path, None).await.status, 404);
    let credits = setup.of_key(&key, "/v1/credits").await.ok();
    assert_eq!(credits["budgets"], json!([]));
    let log = setup.get(&format!("/audit?org={org}")).await;
    let acts: Vec<&str> = log["data"]
        .as_array()
        .unwrap()
        .iter()
        .take(3)
        .filter_map(|l| l["action"].as_str())
        .collect();
    assert_eq!(acts, ["budget.delete", "budget.update", "budget.create"]);
}

#[tokio::test]
async fn webhooks_are_delivered_and_listed() {
    use crate::support::Reply;
    let setup = Setup::start().await;
    let (org, ..) = setup.key("mine").await;
    setup.upstream.on(
        "POST",
        "/hook",
        [Reply::json(500, &json!({})), Reply::json(200, &json!({}))],
    );
    let url = format!("http://{}/hook", setup.upstream.address);
    for wrong in
        ["http://example.com/", "https://10.0.0.1/", "https://localhost/", "file:///etc/passwd"]
    {
        let body = json!({"org": org, "url": wrong});
        let answer = setup.ask(ADMIN, Method::POST, "/webhooks", Some(body)).await;
        // A name is judged when it is dialled.
        let wanted = if wrong.contains("localhost") { 201 } else { 400 };
        assert_eq!(answer.status, wanted, "{wrong}: {}", answer.shown());
    }
    let made = setup.make("/webhooks", json!({"org": org, "url": url})).await;
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_"));
    let id = made["id"].as_str().unwrap();
    let shown = setup.get(&format!("/webhooks/{id}")).await;
    assert_eq!(shown["secret"], Value::Null);
    assert_eq!(shown["events"], json!(["credits.low", "budget.alert", "budget.exceeded"]));

    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    setup
        .run(
            "INSERT INTO outbox (id, webhook, event, body, created_at, next_at, once) \
             VALUES ('evt_1', $1, 'credits.low', '{\"id\":\"evt_1\"}', $2, 0, 'x')",
            vec![id.into(), i64::try_from(now).unwrap().into()],
        )
        .await;
    let mut tries = 0;
    let delivered = loop {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let list = setup.get(&format!("/webhooks/{id}/deliveries")).await;
        let delivery = list["data"][0].clone();
        if delivery["status"] == "delivered" {
            break delivery;
        }
        tries += 1;
        assert!(tries < 100, "{delivery:#}");
        if delivery["last_error"].is_string() {
            assert_eq!(delivery["last_error"], "the receiver answered 500");
            // Sooner than the clock would.
            setup.run("UPDATE outbox SET next_at = 0 WHERE next_at IS NOT NULL", vec![]).await;
        }
    };
    assert_eq!(delivered["tries"], 2);
    let seen = setup.upstream.seen("/hook");
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1].headers["webhook-id"], "evt_1");
    assert!(seen[1].headers["webhook-signature"].to_str().unwrap().starts_with("v1,"));

    let path = format!("/webhooks/{id}");
    let changed =
        setup.ask(ADMIN, Method::PATCH, &path, Some(json!({"events": ["credits.low"]}))).await;
    assert_eq!(changed.ok()["events"], json!(["credits.low"]));
    assert_eq!(setup.ask(ADMIN, Method::DELETE, &path, None).await.ok()["deleted"], true);
    assert_eq!(setup.ask(ADMIN, Method::GET, &path, None).await.status, 404);
}

#[tokio::test]
async fn credits_are_added_once() {
    let setup = Setup::start().await;
    let (mine, _, key) = setup.key("mine").await;
    let (theirs, ..) = setup.key("theirs").await;
    let fund = |org: &str, amount: &str, id: &str| {
        let body = json!({"org": org, "amount_usd": amount, "id": id, "memo": "invoice"});
        setup.ask_owned(ADMIN, Method::POST, "/credits".to_owned(), Some(body))
    };
    for (org, amount, id, status, available) in [
        (&mine, "10", "inv-1", 201, "10.000000000"),
        (&mine, "10", "inv-1", 200, "10.000000000"),
        (&mine, "0.000000001", "inv-2", 201, "10.000000001"),
        // Another organisation's invoice of the same number is another funding.
        (&theirs, "5", "inv-1", 201, "5.000000000"),
    ] {
        let answer = fund(org, amount, id).await;
        assert_eq!(answer.status, status, "{id}: {}", answer.shown());
        assert_eq!(answer.json()["available_usd"], available, "{id}");
    }
    // Ten at once are one.
    let all = (0..10).map(|_| fund(&theirs, "7", "inv-7"));
    let answers = futures_util::future::join_all(all).await;
    let new = answers.iter().filter(|answer| answer.status == 201).count();
    assert!(answers.iter().all(|a| [200, 201].contains(&a.status)));
    assert_eq!(new, 1);
    assert_eq!(setup.get(&format!("/credits?org={theirs}")).await["funded_usd"], "12.000000000");

    let used = fund(&mine, "11", "inv-1").await;
    assert_eq!((used.status, used.json()["error"]["param"].as_str()), (422, Some("id")));
    for (body, status, param) in [
        (json!({"org": mine, "amount_usd": "0", "id": "x"}), 400, "amount_usd"),
        (json!({"org": mine, "amount_usd": "-1", "id": "x"}), 400, "amount_usd"),
        (json!({"org": mine, "amount_usd": "1e3", "id": "x"}), 400, "amount_usd"),
        (json!({"org": mine, "amount_usd": 10, "id": "x"}), 400, "amount_usd"),
        (
            json!({"org": mine, "amount_usd": "1000000000000000000000000000000", "id": "x"}),
            400,
            "amount_usd",
        ),
        (json!({"org": mine, "amount_usd": "9223372000", "id": "x"}), 201, ""),
        (json!({"org": mine, "amount_usd": "9223372000", "id": "y"}), 400, "amount_usd"),
        (json!({"org": mine, "amount_usd": "1"}), 400, "id"),
        (json!({"org": mine, "amount_usd": "1", "id": " "}), 400, "id"),
        (json!({"org": "org_none", "amount_usd": "1", "id": "x"}), 404, ""),
        (json!({"amount_usd": "1", "id": "x"}), 400, "org"),
    ] {
        let answer = setup.ask(ADMIN, Method::POST, "/credits", Some(body.clone())).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.shown());
        if !param.is_empty() {
            assert_eq!(answer.json()["error"]["param"], param, "{body}");
        }
    }
    // Nobody gives credits to their own organisation.
    let owner = json!({"name": "o", "role": "owner", "org": mine});
    let owner = setup.make("/admin-keys", owner).await;
    let body = json!({"org": mine, "amount_usd": "1", "id": "gift"});
    let gift =
        setup.ask(owner["key"].as_str().unwrap(), Method::POST, "/credits", Some(body)).await;
    assert_eq!(gift.status, 403, "{}", gift.shown());

    let listed = setup.get(&format!("/ledger?org={mine}&kind=fund")).await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 3);
    let log = setup.get(&format!("/audit?org={mine}")).await;
    let added = log["data"].as_array().unwrap().iter().filter(|l| l["action"] == "credits.add");
    assert_eq!(added.count(), 3);
    assert_eq!(setup.get("/ledger/drift").await["data"], json!([]));
    assert_eq!(setup.get("/ledger/trial-balance").await["balanced"], true);
    let seen = setup.of_key(&key, "/v1/credits").await.ok();
    assert_eq!(seen["available_usd"], "9223372010.000000001");
}
