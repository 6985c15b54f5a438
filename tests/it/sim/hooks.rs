//! Pushes: signed, repeated, late, lost and forged; the list of predictions; jobs that are taken
//! although the reply is lost. What is pushed is checked with the gateway's own verifier.

use std::sync::Arc;

use axum::{Router, body::Bytes as Body, extract::State, http::StatusCode};
use mediagate::engine::callback_auth::{Rejected, verify};
use parking_lot::Mutex;
use providers::{
    Adapter, Call, ImageCall, Pushed, Reply, ReplyBody, Settled, Signature, Source, Step, adapter,
    catalog::Catalog, signature::SignatureKey,
};

use super::*;

/// Headers and body.
type Push = (Vec<(String, String)>, Body);

/// What was pushed to it, and how many pushes it refuses first.
#[derive(Default)]
struct Inbox {
    pushes: Mutex<Vec<Push>>,
    refuse: Mutex<u32>,
}

/// A receiver of pushes.
struct Receiver {
    url: String,
    inbox: Arc<Inbox>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/callbacks/v/job_1/att_1/mac", listener.local_addr().unwrap());
        let inbox = Arc::new(Inbox::default());
        let take = async |State(inbox): State<Arc<Inbox>>, headers: HeaderMap, body: Body| {
            let text = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
            let headers = headers.iter().map(|(n, v)| (n.as_str().to_owned(), text(v))).collect();
            inbox.pushes.lock().push((headers, body));
            let mut refuse = inbox.refuse.lock();
            if *refuse == 0 {
                return StatusCode::OK;
            }
            *refuse -= 1;
            StatusCode::SERVICE_UNAVAILABLE
        };
        let router = Router::new().fallback(take).with_state(Arc::clone(&inbox));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, inbox }
    }

    /// So many pushes, once they are there.
    async fn pushes(&self, count: usize) -> Vec<Push> {
        let start = Instant::now();
        loop {
            let pushes = self.inbox.pushes.lock().clone();
            if pushes.len() >= count {
                return pushes;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{} of {count}", pushes.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn count(&self) -> usize {
        self.inbox.pushes.lock().len()
    }
}

const PUSHING: [Vendor; 3] = [FAL, REPLICATE, BFL];
const SECRET: &str = "a-secret-of-ours";

/// Submits with the receiver's address, as the vendor wants it.
async fn submit(
    sim: &Simulator,
    vendor: Vendor,
    url: &str,
    prompt: &str,
) -> Result<Answer, reqwest::Error> {
    let (mut path, mut body) = (vendor.submit.to_owned(), vendor.body(prompt));
    match vendor.name {
        "fal" => {
            let query = url::form_urlencoded::byte_serialize(url.as_bytes());
            path = format!("{path}?fal_webhook={}", query.collect::<String>());
        }
        "replicate" => {
            body["webhook"] = url.into();
            body["webhook_events_filter"] = json!(["completed"]);
        }
        _ => {
            body["webhook_url"] = url.into();
            body["webhook_secret"] = SECRET.into();
        }
    }
    let headers = [vendor.auth, ("content-type", "application/json")];
    sim.send("POST", &path, &headers, body.to_string()).await
}

fn scheme(vendor: Vendor) -> &'static Signature {
    adapter(vendor.name).unwrap().signature().unwrap()
}

/// The vendor's keys, fetched as the scheme says.
async fn keys(sim: &Simulator, vendor: Vendor) -> Vec<SignatureKey> {
    let base = match vendor.name {
        "replicate" => format!("{}/replicate/v1", sim.base),
        name => format!("{}/{name}", sim.base),
    };
    let Some(wanted) = scheme(vendor).key_request(&base) else {
        return vec![SignatureKey::new(SECRET.as_bytes().to_vec())];
    };
    let auth: &[(&str, &str)] = if wanted.public { &[] } else { &[vendor.auth] };
    let answer = sim.send("GET", &wanted.request.url, auth, "").await.unwrap();
    let (status, body) = (answer.status, ReplyBody::Text(answer.bytes));
    scheme(vendor).read_keys(&Reply { status, headers: Vec::new(), body }).unwrap()
}

/// The vendor's deployment as the gateway calls it, for what its adapter makes of a push.
fn with_call<T>(
    sim: &Simulator,
    vendor: Vendor,
    callback_url: Option<&str>,
    run: impl FnOnce(&dyn Adapter, &Call<'_>) -> T,
) -> T {
    let catalog = Catalog::embedded().unwrap();
    let image = ImageCall { prompt: "a fox".to_owned(), ..ImageCall::default() };
    let upstream = match vendor.name {
        "fal" => "fal-ai/flux/dev",
        "replicate" => "black-forest-labs/flux-schnell",
        _ => "flux-2-pro",
    };
    let mut rows = catalog.providers[vendor.name].models.iter();
    let call = Call {
        deployment: rows.find(|row| row.upstream == upstream).unwrap(),
        base_url: &format!("{}{}", sim.base, mediagate::sim::mount(vendor.name).unwrap()),
        hosts: &[],
        upstream,
        image: &image,
        client_ref: None,
        callback_url,
        callback_secret: None,
    };
    run(adapter(vendor.name).unwrap(), &call)
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn ends_are_pushed_and_signed_as_the_vendors_do() {
    let (sim, receiver) = (Simulator::start(quick()).await, Receiver::start().await);
    for (index, vendor) in PUSHING.into_iter().enumerate() {
        let answer = submit(&sim, vendor, &receiver.url, "a fox").await.unwrap();
        assert!(answer.status < 300, "{answer:?}");
        assert_eq!(answer.json().get("polling_url"), None, "{}", vendor.name);
        let (headers, body) = receiver.pushes(index + 1).await.pop().unwrap();
        let keys = keys(&sim, vendor).await;
        assert_eq!(verify(scheme(vendor), &keys, &headers, &body, now()), Ok(()));
        let other = [body.as_ref(), b" "].concat();
        let forged = verify(scheme(vendor), &keys, &headers, &other, now());
        assert_eq!(forged, Err(Rejected::Wrong), "{}", vendor.name);
        // Nothing but the push is needed: not the reply to the submit, and no poll.
        let push = Reply { status: 200, headers, body: ReplyBody::Text(body) };
        let pushed = with_call(&sim, vendor, Some(&receiver.url), |adapter, call| {
            adapter.callback(call, None, &push)
        });
        let Some(Pushed { step: Ok(Step::Done(output)), .. }) = pushed else {
            panic!("{}: {pushed:?}", vendor.name)
        };
        let Source::Url(url) = &output.pictures[0].source else { panic!("{output:?}") };
        let file = sim.download(&url.as_str().into()).await;
        assert_eq!(file.status, 200, "{}", vendor.name);
    }
    let stats = sim.get("/sim/stats", BFL.auth).await.json();
    for job in stats["jobs"].as_array().unwrap() {
        let seen = [&job["pushes"], &job["push_status"], &job["billed"], &job["prompt"]];
        assert_eq!(seen, [&json!(1), &json!(200), &json!(true), &json!("a fox")]);
        assert_eq!(job["callback_url"], receiver.url.as_str());
    }
    assert_eq!(stats["prompts"]["a fox"]["billed"], 3);
    assert_eq!(stats["deployments"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn failures_are_pushed_too() {
    let (sim, receiver) = (Simulator::start(quick()).await, Receiver::start().await);
    for (index, (vendor, status)) in
        [(FAL, "ERROR"), (REPLICATE, "failed"), (BFL, "Request Moderated")].into_iter().enumerate()
    {
        submit(&sim, vendor, &receiver.url, "[[fault:moderated]]").await.unwrap();
        let (_, body) = receiver.pushes(index + 1).await.pop().unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["status"], status);
        if vendor.name == "fal" {
            assert_eq!(body["payload"]["detail"][0]["type"], "content_policy_violation");
        }
    }
    let stats = sim.get("/sim/stats", BFL.auth).await.json();
    assert_eq!(
        (&stats["vendors"]["fal"]["billed"], &stats["vendors"]["fal"]["failed"]),
        (&json!(0), &json!(1))
    );
}

#[tokio::test]
async fn pushes_are_repeated_late_early_lost_and_forged() {
    let sim = Simulator::start(quick()).await;
    for vendor in PUSHING {
        let keys = keys(&sim, vendor).await;
        let pushed = async |switch: &str, count: usize| {
            let receiver = Receiver::start().await;
            let prompt = format!("a fox [[fault:{switch}]]");
            submit(&sim, vendor, &receiver.url, &prompt).await.unwrap();
            (receiver.pushes(count).await, receiver)
        };
        let check = |pushes: &[Push], want: &Result<(), Rejected>| {
            for (headers, body) in pushes {
                let got = verify(scheme(vendor), &keys, headers, body, now());
                let same = std::mem::discriminant(&got) == std::mem::discriminant(want);
                assert!(same, "{}: {got:?}, want {want:?}", vendor.name);
            }
        };
        let (twice, _) = pushed("callback-twice", 2).await;
        check(&twice, &Ok(()));
        assert_eq!(twice[0].1, twice[1].1);

        let begun = Instant::now();
        let (late, _) = pushed("callback-late=1", 1).await;
        check(&late, &Ok(()));
        assert!(begun.elapsed() > Duration::from_millis(1_150), "{}", vendor.name);

        let early = Receiver::start().await;
        submit(&sim, vendor, &early.url, "[[fault:callback-early]]").await.unwrap();
        assert_eq!(early.count(), 1, "{}: not before the reply", vendor.name);

        for switch in ["callback-lost", "drop=silent", "accepted-500=silent"] {
            let lost = Receiver::start().await;
            let prompt = format!("a fox [[fault:{switch}]]");
            let _ = submit(&sim, vendor, &lost.url, &prompt).await;
            tokio::time::sleep(Duration::from_millis(400)).await;
            assert_eq!(lost.count(), 0, "{} {switch}", vendor.name);
        }

        check(&pushed("callback-forged", 1).await.0, &Err(Rejected::Wrong));
        check(&pushed("callback-forged=body", 1).await.0, &Err(Rejected::Wrong));
        if scheme(vendor).timestamp.is_some() {
            check(&pushed("callback-forged=stale", 1).await.0, &Err(Rejected::Stale(0)));
        }
    }
}

#[tokio::test]
async fn what_is_not_taken_is_pushed_again() {
    let (sim, receiver) = (Simulator::start(quick()).await, Receiver::start().await);
    *receiver.inbox.refuse.lock() = 1;
    submit(&sim, FAL, &receiver.url, "a fox").await.unwrap();
    let pushes = receiver.pushes(2).await;
    assert_eq!(pushes[0].1, pushes[1].1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stats = sim.get("/sim/stats", BFL.auth).await.json();
    let job = &stats["jobs"][0];
    assert_eq!((&job["pushes"], &job["push_status"]), (&json!(2), &json!(200)));
}

#[tokio::test]
async fn a_job_is_taken_although_the_reply_is_lost() {
    let (sim, receiver) = (Simulator::start(quick()).await, Receiver::start().await);
    let mut taken = 0;
    for vendor in PUSHING {
        for switch in ["drop", "truncated", "accepted-500", "accepted-hang"] {
            let prompt = format!("{} [[fault:{switch}]]", vendor.name);
            let sent = submit(&sim, vendor, &receiver.url, &prompt);
            match tokio::time::timeout(Duration::from_millis(500), sent).await {
                Ok(Ok(answer)) => assert_eq!((switch, answer.status), ("accepted-500", 500)),
                Ok(Err(error)) => assert!(["drop", "truncated"].contains(&switch), "{error:?}"),
                Err(_) => assert_eq!(switch, "accepted-hang"),
            }
            taken += 1;
            receiver.pushes(taken).await;
            let stats = sim.get("/sim/stats", BFL.auth).await.json();
            let count = &stats["prompts"][&prompt];
            assert_eq!((&count["accepted"], &count["billed"]), (&json!(1), &json!(1)), "{prompt}");
        }
    }
    // A vendor that answers at once bills what nobody waits for any more.
    let hung = OPENAI.submit(&sim, "", "alone [[fault:accepted-hang]]");
    assert!(tokio::time::timeout(Duration::from_millis(500), hung).await.is_err());
    let stats = sim.get("/sim/stats", BFL.auth).await.json();
    assert_eq!(stats["prompts"]["alone [[fault:accepted-hang]]"]["billed"], 1);
}

#[tokio::test]
async fn a_lost_submit_is_found_in_the_list() {
    let (sim, receiver) = (Simulator::start(quick()).await, Receiver::start().await);
    let found = async |callback_url: Option<&str>| {
        let sent_at = now();
        let request = with_call(&sim, REPLICATE, callback_url, |adapter, call| {
            adapter.search(call, sent_at).unwrap()
        });
        let answer = sim.get(&request.url, REPLICATE.auth).await;
        let (status, body) = (answer.status, ReplyBody::Text(answer.bytes));
        let reply = Reply { status, headers: Vec::new(), body };
        with_call(&sim, REPLICATE, callback_url, |adapter, call| {
            adapter.found(call, sent_at, &reply).unwrap().settle(|_| false)
        })
    };
    assert_eq!(found(None).await, Settled::Absent);
    let mut body = REPLICATE.body("a fox");
    let answer = sim.post(REPLICATE.submit, REPLICATE.auth, &body).await.json();
    let Settled::One(job) = found(None).await else { panic!("not found") };
    assert_eq!(
        (json!(job.id), json!(job.status_url)),
        (answer["id"].clone(), answer["urls"]["get"].clone())
    );
    // Two alike tell nothing; an address of our own does.
    body["webhook"] = receiver.url.as_str().into();
    let ours = sim.post(REPLICATE.submit, REPLICATE.auth, &body).await.json();
    sim.post(REPLICATE.submit, REPLICATE.auth, &REPLICATE.body("a fox")).await;
    assert_eq!(found(None).await, Settled::Unclear);
    let Settled::One(job) = found(Some(&receiver.url)).await else { panic!("not found") };
    assert_eq!(json!(job.id), ours["id"]);
}

#[tokio::test]
async fn predictions_are_listed_by_time_and_page_by_page() {
    let sim = Simulator::start(quick()).await;
    let begun = std::time::SystemTime::now() - Duration::from_secs(5);
    for n in 0..102 {
        let answer = REPLICATE.submit(&sim, "", &format!("fox {n}")).await.unwrap();
        assert_eq!(answer.status, 201);
    }
    REPLICATE.submit(&sim, "", "gone [[fault:lost]]").await.unwrap();
    let list = async |query: &str| {
        sim.get(&format!("/replicate/v1/predictions{query}"), REPLICATE.auth).await.json()
    };
    let time = |at: std::time::SystemTime| humantime::format_rfc3339_seconds(at).to_string();
    let (from, to) = (time(begun), time(begun + Duration::from_mins(1)));
    let first = list(&format!("?created_after={from}&created_before={to}")).await;
    let results = first["results"].as_array().unwrap();
    assert_eq!((results.len(), &results[0]["input"]["prompt"]), (100, &json!("fox 101")));
    let rest = sim.get(first["next"].as_str().unwrap(), REPLICATE.auth).await.json();
    assert_eq!(rest["results"].as_array().unwrap().len(), 2);
    assert!(rest["next"].is_null());
    let none = list(&format!("?created_before={from}")).await;
    assert_eq!((&none["results"], &none["next"]), (&json!([]), &Value::Null));
    let odd = sim.get("/replicate/v1/predictions?created=now", REPLICATE.auth).await;
    assert_eq!(odd.status, 422);
    let nobody = sim.send("GET", "/replicate/v1/predictions", &[], "").await.unwrap();
    assert_eq!(nobody.status, 401);
}

#[tokio::test]
async fn the_cost_is_what_the_switch_says() {
    let sim = Simulator::start(quick()).await;
    for (switch, text) in [
        ("cost=0.30000000000000004", r#""cost":0.30000000000000004"#),
        ("cost=NaN", r#""cost":NaN"#),
        ("cost=-1", r#""cost":-1"#),
        ("cost=1e400", r#""cost":1e400"#),
        ("cost=x10", r#""cost":30"#),
        ("slow=0", r#""cost":3.0"#),
    ] {
        let answer = BFL.submit(&sim, "", &format!("[[fault:{switch}]]")).await.unwrap();
        let body = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert!(body.contains(text), "{switch}: {body}");
        let got = Reply { status: 200, headers: Vec::new(), body: ReplyBody::Text(answer.bytes) };
        assert!(got.json::<Value>().unwrap()["id"].is_string(), "{switch}");
    }
    let odd = FAL.submit(&sim, "", "[[fault:cost=1]]").await.unwrap();
    assert_eq!(odd.status, 400);
}

#[tokio::test]
async fn odd_addresses_are_refused() {
    let sim = Simulator::start(quick()).await;
    for vendor in PUSHING {
        for url in ["", "/callbacks", "ftp://a.example/x", "no address"] {
            let answer = submit(&sim, vendor, url, "a fox").await.unwrap();
            assert_eq!(answer.status, 422, "{} {url:?}", vendor.name);
        }
    }
    let mut body = REPLICATE.body("a fox");
    body["webhook_events_filter"] = json!(["finished"]);
    assert_eq!(sim.post(REPLICATE.submit, REPLICATE.auth, &body).await.status, 422);
    let odd = format!("{}?webhook=https://a.example", FAL.submit);
    assert_eq!(sim.post(&odd, FAL.auth, &FAL.body("a fox")).await.status, 422);
}
