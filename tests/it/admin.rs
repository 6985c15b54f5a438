//! The operator's listener: keys made, changed and revoked, and who may do what to whom.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Answer, Gateway, Upstream, pictures,
    vendors::{self, GEMINI},
};

const ROOT: &str = "canary-operator-0123456789";

async fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::start().await;
    upstream.on("POST", GEMINI, vendors::gemini(&pictures::png(64, 64)));
    let more = format!(
        "auth.mode = \"keys\"\nauth.admin_key = \"{ROOT}\"\nserver.admin_listen = \"127.0.0.1:0\""
    );
    let gateway = Gateway::with(&upstream, &["gemini"], &more).await;
    (upstream, gateway)
}

/// An operator with a credential.
#[derive(Clone)]
struct Operator<'g> {
    gateway: &'g Gateway,
    key: String,
}

impl Operator<'_> {
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request =
            self.gateway.admin(method, &format!("/admin/v1/{path}")).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        Answer::of(request).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    #[track_caller]
    fn made(answer: &Answer) -> Value {
        assert_eq!(answer.status, 201, "{}", answer.shown());
        answer.json()
    }

    async fn make(&self, path: &str, body: Value) -> Value {
        let answer = self.send(Method::POST, path, Some(body)).await;
        Self::made(&answer)
    }
}

fn root(gateway: &Gateway) -> Operator<'_> {
    Operator { gateway, key: ROOT.to_owned() }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

async fn draw(gateway: &Gateway, key: &str) -> Answer {
    let body = json!({"model": "nano-banana", "prompt": "a teapot"});
    Answer::of(gateway.post("/v1/images/generations", &body).bearer_auth(key)).await
}

async fn models(gateway: &Gateway, key: &str) -> Answer {
    Answer::of(gateway.request(Method::GET, "/v1/models").bearer_auth(key)).await
}

#[tokio::test]
async fn a_key_is_made_used_changed_and_revoked() {
    let (_upstream, gateway) = start().await;
    let root = root(&gateway);
    let made = root.make("keys", json!({"name": "ci", "models": ["nano-*"], "rpm": 60})).await;
    let (id, key) = (text(&made["id"]), text(&made["key"]));
    assert!(key.starts_with(&format!("{id}_")) && id.starts_with("mg_"));
    draw(&gateway, key).await.ok();
    // As Anthropic's SDKs send it.
    let call = gateway.request(Method::GET, "/v1/models").header("x-api-key", key);
    Answer::of(call).await.ok();
    // The secret is in the creating answer alone.
    let kept = root.get(&format!("keys/{id}")).await;
    let listed = root.get("keys").await;
    for answer in [&kept, &listed, &root.get("audit").await] {
        assert!(!answer.shown().contains(&key[20..]), "{}", answer.shown());
    }
    let mut shown = kept.ok();
    assert_eq!((&shown["status"], &shown["rpm"]), (&json!("active"), &json!(60)));
    shown["key"] = key.into();
    shown["budget"] = Value::Null;
    assert_eq!(shown, made);
    let path = format!("keys/{id}");
    let change = async |to: Value| root.send(Method::PATCH, &path, Some(to)).await.ok();
    change(json!({"models": ["gpt-*"]})).await;
    let message = draw(&gateway, key).await.error(403, "model_not_allowed", Some("model"));
    assert!(message.contains("gpt-*"), "{message}");
    let changed = change(json!({"models": ["*"], "endpoints": ["/v1/models"], "rpm": null})).await;
    assert_eq!((&changed["rpm"], &changed["name"]), (&Value::Null, &json!("ci")));
    let message = draw(&gateway, key).await.error(403, "endpoint_not_allowed", None);
    assert!(message.contains("/v1/models"), "{message}");
    models(&gateway, key).await.ok();
    let revoked = root.send(Method::DELETE, &path, None).await.ok();
    assert_eq!(revoked["status"], "revoked");
    models(&gateway, key).await.error(401, "invalid_api_key", None);
    // Revoked stays revoked.
    let change = root.send(Method::PATCH, &path, Some(json!({"rpm": 1}))).await;
    change.error(400, "invalid_request", Some("id"));
    root.send(Method::DELETE, &path, None).await.ok();
    let lines = root.get("audit").await.ok();
    let actions: Vec<&str> =
        lines["data"].as_array().unwrap().iter().map(|line| text(&line["action"])).collect();
    assert_eq!(actions, ["key.revoke", "key.update", "key.update", "key.create"]);
    assert_eq!(
        (&lines["data"][0]["actor"], &lines["data"][0]["target"]),
        (&json!("config"), &json!(id))
    );
}

#[tokio::test]
async fn a_key_that_is_no_good_is_told_no_reason() {
    let (_upstream, gateway) = start().await;
    let root = root(&gateway);
    let soon = mediagate::tenant::now() / 1000 + 2;
    let short = root.make("keys", json!({"name": "short", "expires_at": soon})).await;
    let gone = root.make("keys", json!({"name": "gone"})).await;
    let other = root.make("keys", json!({"name": "other"})).await;
    models(&gateway, text(&short["key"])).await.ok();
    root.send(Method::DELETE, &format!("keys/{}", text(&gone["id"])), None).await.ok();
    let begun = Instant::now();
    while models(&gateway, text(&short["key"])).await.status == 200 {
        assert!(begun.elapsed() < Duration::from_secs(4));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // One that was never made, and one whose secret belongs to another id: both well formed.
    let pepper = mediagate::tenant::key::Pepper::new(&[1; 32], &[]);
    let unknown = pepper.mint(mediagate::tenant::key::Kind::Data).unwrap();
    let wrong = forged(text(&other["id"]), unknown.text.expose());
    let keys = [
        text(&short["key"]),
        text(&gone["key"]),
        unknown.text.expose(),
        &wrong,
        "sk-foreign",
        ROOT,
    ];
    let mut bodies = Vec::new();
    for key in keys {
        let answer = models(&gateway, key).await;
        answer.error(401, "invalid_api_key", None);
        bodies.push(answer.body);
    }
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "{bodies:?}");
    let status = root.get(&format!("keys/{}", text(&short["id"]))).await.ok()["status"].clone();
    assert_eq!(status, "expired");
    // A slip of the finger may be told: it says nothing of any key.
    let cut = &text(&other["key"])[..50];
    let message = models(&gateway, cut).await.error(401, "invalid_api_key", None);
    assert!(message.contains("mistyped"), "{message}");
}

/// A key of the right shape with this id and another's secret.
fn forged(id: &str, other: &str) -> String {
    const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let body = format!("{id}{}", &other[id.len()..other.len() - 6]);
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut sum = [0_u8; 6];
    for place in sum.iter_mut().rev() {
        *place = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    body + std::str::from_utf8(&sum).unwrap()
}

#[tokio::test]
async fn each_key_opens_its_own_listener_only() {
    let (_upstream, gateway) = start().await;
    let root = root(&gateway);
    let data = root.make("keys", json!({"name": "ci"})).await;
    let operator = root.make("admin-keys", json!({"name": "o", "role": "owner"})).await;
    let operator = Operator { key: text(&operator["key"]).to_owned(), ..root.clone() };
    operator.get("keys").await.ok();
    for key in [operator.key.as_str(), ROOT] {
        models(&gateway, key).await.error(401, "invalid_api_key", None);
    }
    let refused = Operator { key: text(&data["key"]).to_owned(), ..root.clone() };
    let nobody = Operator { key: "x".to_owned(), ..root.clone() };
    let bodies = [refused.get("keys").await, nobody.get("keys").await];
    for answer in &bodies {
        answer.error(401, "invalid_api_key", None);
    }
    assert_eq!(bodies[0].body, bodies[1].body);
    // The data listener has no such paths, whoever asks.
    let call = gateway.request(Method::GET, "/admin/v1/keys").bearer_auth(ROOT);
    Answer::of(call).await.error(404, "not_found", None);
    Answer::of(gateway.admin(Method::GET, "/admin/v1/keys")).await.error(
        401,
        "invalid_api_key",
        None,
    );
    let call = gateway.admin(Method::GET, "/v1/models").bearer_auth(text(&data["key"]));
    assert_eq!(Answer::of(call).await.status, 404);
    // Metrics and health need none.
    for path in ["/metrics", "/readyz", "/livez", "/openapi.json"] {
        assert_eq!(Answer::of(gateway.admin(Method::GET, path)).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn without_a_credential_there_is_no_admin_api() {
    let upstream = Upstream::start().await;
    let more = "server.admin_listen = \"127.0.0.1:0\"";
    let gateway = Gateway::with(&upstream, &["gemini"], more).await;
    for path in ["keys", "keys/mg_0123456789abcdef", "orgs", "audit", "nothing"] {
        let call = gateway.admin(Method::GET, &format!("/admin/v1/{path}")).bearer_auth(ROOT);
        assert_eq!(Answer::of(call).await.status, 404, "{path}");
    }
    assert_eq!(Answer::of(gateway.admin(Method::GET, "/metrics")).await.status, 200);
}

/// One thing of every kind in an organisation: path and what makes it.
async fn furnish(root: &Operator<'_>, name: &str) -> (String, Vec<String>) {
    let org = root.make("orgs", json!({"name": name})).await;
    let org = text(&org["id"]).to_owned();
    let project = root.make("projects", json!({"name": "site", "org": org})).await;
    let project = text(&project["id"]).to_owned();
    let key = root.make("keys", json!({"name": "k", "project": project})).await;
    let admin = json!({"name": "a", "role": "viewer", "org": org});
    let admin = root.make("admin-keys", admin).await;
    let own = json!({"project": project, "provider": "fal", "key": "canary-own"});
    let own = root.make("provider-keys", own).await;
    let paths = vec![
        format!("orgs/{org}"),
        format!("projects/{project}"),
        format!("keys/{}", text(&key["id"])),
        format!("admin-keys/{}", text(&admin["id"])),
        format!("provider-keys/{}", text(&own["id"])),
    ];
    (org, paths)
}

async fn operator<'g>(root: &Operator<'g>, org: Option<&str>, role: &str) -> Operator<'g> {
    let made = root.make("admin-keys", json!({"name": role, "role": role, "org": org})).await;
    Operator { key: text(&made["key"]).to_owned(), ..root.clone() }
}

#[tokio::test]
async fn operators_may_what_their_role_allows() {
    let (_upstream, gateway) = start().await;
    let root = root(&gateway);
    // What is tried, and the lowest role within the organisation that may; then that above all.
    let rank = |role: &str| ["viewer", "member", "admin", "owner"].iter().position(|r| *r == role);
    for (above_all, role) in [false, true]
        .into_iter()
        .flat_map(|a| ["viewer", "member", "admin", "owner"].map(|r| (a, r)))
    {
        let (org, paths) = furnish(&root, &format!("{role}-{above_all}")).await;
        let who = operator(&root, (!above_all).then_some(org.as_str()), role).await;
        let project = paths[1].split('/').nth(1).unwrap();
        let never = "nobody";
        let in_org = |lowest: &'static str| if above_all { lowest } else { never };
        let named = json!({"name": "x"});
        for (method, path, body, status, lowest) in [
            (Method::GET, "audit".to_owned(), None, 200, "viewer"),
            (Method::GET, paths[0].clone(), None, 200, "viewer"),
            (Method::GET, paths[1].clone(), None, 200, "viewer"),
            (Method::GET, paths[2].clone(), None, 200, "viewer"),
            (Method::GET, paths[3].clone(), None, 200, "viewer"),
            (Method::GET, paths[4].clone(), None, 200, "viewer"),
            (Method::GET, format!("keys?org={org}"), None, 200, "viewer"),
            (
                Method::POST,
                "keys".into(),
                Some(json!({"name": "x", "project": project})),
                201,
                "member",
            ),
            (Method::DELETE, paths[2].clone(), None, 200, "member"),
            (Method::POST, "projects".into(), Some(json!({"name": "x", "org": org})), 201, "admin"),
            (Method::PATCH, paths[1].clone(), Some(named.clone()), 200, "admin-or-taken"),
            (
                Method::POST,
                "provider-keys".into(),
                Some(json!({"project": project, "provider": "bfl", "key": "canary-own"})),
                201,
                "admin",
            ),
            (Method::DELETE, paths[4].clone(), None, 200, "admin"),
            (
                Method::POST,
                "admin-keys".into(),
                Some(json!({"name": "x", "role": "viewer", "org": org})),
                201,
                "owner",
            ),
            (Method::DELETE, paths[3].clone(), None, 200, "owner"),
            (Method::POST, "orgs".into(), Some(named.clone()), 201, in_org("owner")),
            (Method::PATCH, paths[0].clone(), Some(json!({"prepaid": true})), 200, in_org("owner")),
            (Method::DELETE, paths[1].clone(), None, 200, "admin"),
            (Method::DELETE, paths[0].clone(), None, 200, in_org("owner")),
        ] {
            let answer = who.send(method.clone(), &path, body).await;
            let what = format!("{role}, above all: {above_all}: {method} {path}");
            let shown = answer.shown();
            if lowest == "admin-or-taken" {
                // The name is taken by the project made just before: the right is looked at first.
                let expected = if rank(role) >= rank("admin") { 400 } else { 403 };
                assert_eq!(answer.status, expected, "{what}: {shown}");
                continue;
            }
            let may = lowest != never && rank(role) >= rank(lowest);
            assert_eq!(answer.status, if may { status } else { 403 }, "{what}: {shown}");
            if !may {
                answer.error(403, "endpoint_not_allowed", None);
            }
        }
    }
}

#[tokio::test]
async fn what_belongs_to_others_does_not_exist() {
    let (_upstream, gateway) = start().await;
    let root = root(&gateway);
    let (own, _) = furnish(&root, "own").await;
    let (other, paths) = furnish(&root, "other").await;
    let project = paths[1].split('/').nth(1).unwrap();
    for role in ["viewer", "member", "admin", "owner"] {
        let who = operator(&root, Some(&own), role).await;
        for path in &paths {
            let absent = format!("{}/none", path.split('/').next().unwrap());
            for (method, body) in [
                (Method::GET, None),
                (Method::PATCH, Some(json!({"name": "mine"}))),
                (Method::DELETE, None),
            ] {
                let answer = who.send(method.clone(), path, body.clone()).await;
                let none = who.send(method.clone(), &absent, body).await;
                let what = format!("{role} {method} {path}");
                if answer.status == 405 {
                    assert_eq!(none.status, 405, "{what}");
                    continue;
                }
                let told = answer.error(404, "not_found", None);
                let of_none = none.error(404, "not_found", None);
                let id = path.split('/').nth(1).unwrap();
                assert_eq!(told.replace(id, "none"), of_none, "{what}");
            }
        }
        for (path, body) in [
            ("keys", json!({"name": "x", "project": project})),
            ("projects", json!({"name": "x", "org": other})),
            ("provider-keys", json!({"project": project, "provider": "fal", "key": "k"})),
            ("admin-keys", json!({"name": "x", "role": "viewer", "org": other})),
        ] {
            let answer = who.send(Method::POST, path, Some(body)).await;
            answer.error(404, "not_found", None);
        }
        for list in ["keys", "projects", "admin-keys", "provider-keys", "audit"] {
            let answer = who.get(&format!("{list}?org={other}")).await;
            answer.error(404, "not_found", None);
            let shown = who.get(list).await;
            shown.ok();
            assert!(!shown.shown().contains(&other), "{list}: {}", shown.shown());
        }
        who.get(&format!("keys?project={project}")).await.error(404, "not_found", None);
        let orgs = who.get("orgs").await.ok();
        assert_eq!(orgs["data"].as_array().unwrap().len(), 1, "{orgs}");
    }
    // Untouched.
    for path in &paths {
        root.get(path).await.ok();
    }
}

#[tokio::test]
async fn nobody_gives_more_than_they_have() {
    let (_upstream, gateway) = start().await;
    let root = root(&gateway);
    let (org, _) = furnish(&root, "own").await;
    let owner = operator(&root, Some(&org), "owner").await;
    let give = async |who: &Operator<'_>, body: Value| {
        who.send(Method::POST, "admin-keys", Some(body)).await
    };
    // An owner of one organisation makes owners there, and nobody above it.
    let second = give(&owner, json!({"name": "x", "role": "owner"})).await;
    assert_eq!(Operator::made(&second)["org"], json!(org));
    give(&owner, json!({"name": "x", "role": "viewer", "org": null})).await.error(
        404,
        "not_found",
        None,
    );
    // One who is revoked is refused from the next call on.
    let second = second.json();
    let who = Operator { key: text(&second["key"]).to_owned(), ..root.clone() };
    who.get("keys").await.ok();
    owner.send(Method::DELETE, &format!("admin-keys/{}", text(&second["id"])), None).await.ok();
    who.get("keys").await.error(401, "invalid_api_key", None);
    // And one whose time is over.
    let soon = mediagate::tenant::now() / 1000 + 1;
    let short = json!({"name": "x", "role": "viewer", "expires_at": soon});
    let short = root.make("admin-keys", short).await;
    let who = Operator { key: text(&short["key"]).to_owned(), ..root.clone() };
    tokio::time::sleep(Duration::from_millis(2100)).await;
    who.get("keys").await.error(401, "invalid_api_key", None);
    // With the organisation goes whoever ran it, and its keys.
    root.send(Method::DELETE, &format!("orgs/{org}"), None).await.ok();
    owner.get("keys").await.error(401, "invalid_api_key", None);
}

#[tokio::test]
async fn wrong_fields_are_named() {
    let (_upstream, gateway) = start().await;
    let root = root(&gateway);
    let key = |more: Value| {
        let mut body = json!({"name": "k"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ("keys", body)
    };
    let huge = "1".to_owned() + &"0".repeat(30);
    for ((path, body), param, part) in [
        (("keys", json!({})), "name", "missing"),
        (key(json!({"name": ""})), "name", "1 to 100"),
        (key(json!({"name": "a\u{7}"})), "name", "control"),
        (key(json!({"name": 7})), "name", "text"),
        (key(json!({"budget_usd": "-1"})), "budget_usd", "below zero"),
        (key(json!({"budget_usd": huge})), "budget_usd", "9.2 billion"),
        (key(json!({"budget_usd": 5})), "budget_usd", "text"),
        (key(json!({"budget_usd": "0.0000000001"})), "budget_usd", "nine decimals"),
        (key(json!({"budget_usd": "5", "budget_period": "year"})), "budget_period", "month"),
        (key(json!({"budget_period": "month"})), "budget_period", "budget_usd"),
        (key(json!({"rpm": 0})), "rpm", "revoke"),
        (key(json!({"rpm": -1})), "rpm", "whole number"),
        (key(json!({"rpm": 1.5})), "rpm", "whole number"),
        (key(json!({"tpm": 4_294_967_296_u64})), "tpm", "4294967295"),
        (key(json!({"models": []})), "models", "nothing"),
        (key(json!({"models": ["a b"]})), "models", "spaces"),
        (key(json!({"models": "*"})), "models", "list"),
        (key(json!({"endpoints": ["/admin/*"]})), "endpoints", "/v1/"),
        (key(json!({"expires_at": 1})), "expires_at", "past"),
        (key(json!({"expires_at": i64::MAX})), "expires_at", "Unix seconds"),
        (key(json!({"expires_at": "2030-01-01"})), "expires_at", "Unix seconds"),
        // Nothing but the rights of the key can be said: no address, no header, no credential.
        (key(json!({"base_url": "http://169.254.169.254"})), "base_url", "no field"),
        (key(json!({"headers": {}})), "headers", "no field"),
        (key(json!({"key": "mg_mine"})), "key", "no field"),
        (key(json!({"id": "mg_mine"})), "id", "no field"),
        (key(json!({"org": "default"})), "org", "no field"),
        (key(json!({"created_by": "me"})), "created_by", "no field"),
        (("projects", json!({"name": "default"})), "name", "taken"),
        (("admin-keys", json!({"name": "x", "role": "root"})), "role", "viewer"),
        (
            ("provider-keys", json!({"project": "default", "provider": "fall", "key": "k"})),
            "provider",
            "\"fal\"",
        ),
        (
            ("provider-keys", json!({"project": "default", "provider": "fal", "key": " "})),
            "key",
            "space",
        ),
        (
            (
                "provider-keys",
                json!({"project": "default", "provider": "fal", "key": "k", "base_url": "x"}),
            ),
            "base_url",
            "no field",
        ),
        (("orgs", json!({"name": "x", "low_balance_usd": "-1"})), "low_balance_usd", "below zero"),
    ] {
        let what = format!("{path} {body}");
        let answer = root.send(Method::POST, path, Some(body)).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.shown());
        let message = answer.error(400, "invalid_request", Some(param));
        assert!(message.contains(part), "{what}: {message}");
    }
    for (query, param) in [
        ("keys?limit=0", "limit"),
        ("keys?limit=101", "limit"),
        ("keys?limit=x", "limit"),
        ("keys?after=mg_none", "after"),
        ("keys?sort=name", "sort"),
        ("keys?limit=1&limit=2", "limit"),
    ] {
        root.get(query).await.error(400, "invalid_request", Some(param));
    }
    // A budget of nothing is a budget.
    let made = root.make("keys", json!({"name": "k", "budget_usd": "0"})).await;
    assert_eq!(made["budget"]["amount"], "0.000000000");
    assert_eq!(made["budget"]["period"], "total");
    // Nothing of the rest was made.
    let keys = root.get("keys").await.ok();
    assert_eq!(keys["data"].as_array().unwrap().len(), 1, "{keys}");
}

#[tokio::test]
async fn lists_are_read_page_by_page() {
    let (_upstream, gateway) = start().await;
    let root = root(&gateway);
    let mut wanted = Vec::new();
    for i in 0..7 {
        let made = root.make("keys", json!({"name": format!("k{i}")})).await;
        wanted.push(text(&made["id"]).to_owned());
    }
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let list = root.get(&format!("keys?limit=3{after}")).await.ok();
        assert_eq!(list["object"], "list");
        seen.extend(list["data"].as_array().unwrap().iter().map(|k| text(&k["id"]).to_owned()));
        assert_eq!(list["last_id"], json!(seen.last()));
        if list["has_more"] == false {
            break;
        }
        after = format!("&after={}", text(&list["last_id"]));
    }
    // Newest first; those of one millisecond in the order of their ids.
    assert_eq!(seen.len(), 7);
    wanted.sort();
    seen.sort();
    assert_eq!(seen, wanted);
    let audit = root.get("audit?limit=2").await.ok();
    let next = root.get(&format!("audit?limit=100&after={}", text(&audit["last_id"]))).await.ok();
    assert_eq!(audit["has_more"], true);
    assert_eq!(next["data"].as_array().unwrap().len(), 5, "{next}");
}

#[tokio::test]
async fn the_description_lists_every_path() {
    let (_upstream, gateway) = start().await;
    let document = Answer::of(gateway.admin(Method::GET, "/openapi.json")).await.ok();
    for path in [
        "/admin/v1/orgs",
        "/admin/v1/orgs/{id}",
        "/admin/v1/projects",
        "/admin/v1/projects/{id}",
        "/admin/v1/keys",
        "/admin/v1/keys/{id}",
        "/admin/v1/admin-keys",
        "/admin/v1/admin-keys/{id}",
        "/admin/v1/provider-keys",
        "/admin/v1/provider-keys/{id}",
        "/admin/v1/attempts",
        "/admin/v1/jobs/{id}/attempts/{number}/settle",
        "/admin/v1/audit",
        "/metrics",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
}
