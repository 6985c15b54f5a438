//! The fixtures that the adapters satisfy, played against the simulator: what a happy fixture
//! sends is taken, and the reply has the fixture's status, fields and types.

use std::{fs, path::Path};

use futures_util::future::join_all;
use mediagate::sim;
use providers::catalog::Catalog;
use serde_json::{Map, Value};

use super::*;

/// Fixtures that show something which the simulator does not play. May only shrink.
const NOT_PLAYED: &[(&str, &str)] = &[
    // Asks a model for a field that only its successors have.
    ("openai", "happy-passed-through"),
    // The reply of models that are switched off.
    ("openai", "happy-url"),
    // A URL although base64 was asked.
    ("together", "happy-url"),
    ("byteplus", "happy-lite"),
    ("deepinfra", "happy-pro"),
    // A field that is made up, to show that it is passed on.
    ("xai", "happy-url"),
    ("dashscope", "happy-every-field"),
];

/// Vendors that only this test asks, and their keys.
const MORE: [(&str, (&str, &str)); 13] = {
    const BEARER: (&str, &str) = ("authorization", "Bearer test");
    [
        ("xai", BEARER),
        ("byteplus", BEARER),
        ("recraft", BEARER),
        ("minimax", BEARER),
        ("deepinfra", BEARER),
        ("fireworks", BEARER),
        ("dashscope", BEARER),
        ("runware", BEARER),
        ("luma", BEARER),
        ("luma-agents", BEARER),
        ("runway", BEARER),
        ("ideogram", ("api-key", "test")),
        ("prodia", BEARER),
    ]
};

fn read(path: &Path) -> Option<Value> {
    fs::read_to_string(path).ok().map(|text| serde_json::from_str(&text).unwrap())
}

fn named(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Whether the simulator plays the row that a fixture calls; one made up there says nothing. The
/// pictures of edits are stand-ins there: `sim::agreement` sends real ones.
fn is_played(catalog: &Catalog, folder: &Path) -> bool {
    let case: toml::Table =
        toml::from_str(&fs::read_to_string(folder.join("case.toml")).unwrap()).unwrap();
    let task = case.get("task").and_then(|task| task.as_str()).unwrap_or("image.generate");
    let Some(slug) = case["deployment"].as_str() else { return true };
    let mut rows =
        catalog.deployments().filter(|row| row.slug() == slug && row.task.name() == task);
    task == "image.generate" && rows.any(sim::plays)
}

#[tokio::test]
async fn every_happy_fixture_goes_as_written() {
    // Long enough to see every state, with all fixtures at once.
    let settings = SimSettings { queue_s: 1.0, run_s: 1.0, ..quick() };
    let sim = Simulator::start(settings).await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let catalog = Catalog::embedded().unwrap();
    let mut all = Vec::new();
    let more = MORE.map(|(name, auth)| Vendor { name, auth, submit: "" });
    for vendor in ALL.into_iter().chain(more) {
        let folder = root.join(vendor.name);
        let scenarios = named(&folder).into_iter().filter(|scenario| {
            (scenario == "happy" || scenario.starts_with("happy-"))
                && !NOT_PLAYED.contains(&(vendor.name, scenario.as_str()))
                && is_played(&catalog, &folder.join(scenario))
        });
        all.extend(scenarios.map(|scenario| (vendor, scenario)));
    }
    let played = all.len();
    let (sim, root) = (&sim, &root);
    let play = |(vendor, scenario): (Vendor, String)| async move {
        let played = play(sim, vendor, &root.join(vendor.name).join(&scenario)).await;
        played.err().map(|problem| format!("{}/{scenario}: {problem}", vendor.name))
    };
    let problems: Vec<String> =
        join_all(all.into_iter().map(play)).await.into_iter().flatten().collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(played > 40, "{played}");
}

async fn play(sim: &Simulator, vendor: Vendor, folder: &Path) -> Result<(), String> {
    // What the fixture calls by a name of its own, the simulator names otherwise.
    let mut names: Vec<(String, String)> = Vec::new();
    for i in 1.. {
        let Some(send) = read(&folder.join(format!("{i:02}-send.json"))) else { return Ok(()) };
        let wanted = read(&folder.join(format!("{i:02}-reply.json"))).unwrap();
        if send["kind"] == "listen" {
            continue;
        }
        let url = send["url"].as_str().unwrap();
        let url = if let Some((_, ours)) = names.iter().find(|(theirs, _)| theirs == url) {
            ours.clone()
        } else {
            let path = url.split_once("://").unwrap().1.split_once('/').unwrap().1;
            names
                .iter()
                .fold(format!("{}/{}/{path}", sim.base, vendor.name), |url, (theirs, ours)| {
                    url.replace(theirs, ours)
                })
        };
        let (kind, body) = content(&send);
        let body = names.iter().fold(body, |body, (theirs, ours)| body.replace(theirs, ours));
        let mut headers = vec![vendor.auth];
        // The catalogue says it for every request, so no fixture does.
        if vendor.name == "runway" {
            headers.push(("x-runway-version", "2024-11-06"));
        }
        if !kind.is_empty() {
            headers.push(("content-type", kind.as_str()));
        }
        let given: Map<String, Value> = send["headers"].as_object().cloned().unwrap_or_default();
        headers.extend(given.iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())));
        let start = Instant::now();
        let answer = loop {
            let answer = sim
                .send(send["method"].as_str().unwrap(), &url, &headers, body.clone())
                .await
                .map_err(|e| e.to_string())?;
            // Where the reply tells a state, wait until it is that of the fixture.
            let state = |reply: &Value| {
                let places = ["/status", "/state", "/output/task_status", "/data/0/status"];
                places.iter().find_map(|place| reply.pointer(place)).cloned()
            };
            let now = serde_json::from_slice(&answer.bytes).unwrap_or(Value::Null);
            if state(&wanted["json"]) == state(&now) || send["kind"] == "submit" {
                break answer;
            }
            if start.elapsed() > Duration::from_secs(15) {
                return Err(format!("{i:02}: never {:?}, now {now}", state(&wanted["json"])));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let status = wanted["status"].as_u64().unwrap();
        let text = String::from_utf8_lossy(&answer.bytes);
        let text: String = text.chars().take(400).collect();
        if u64::from(answer.status) != status {
            return Err(format!("{i:02}: {} in place of {status}: {text}", answer.status));
        }
        if !wanted["parts"].is_null() {
            if !text.contains("name=\"job\"") {
                return Err(format!("{i:02}: not the form: {text}"));
            }
            continue;
        }
        if wanted["json"].is_null() {
            let format = image::guess_format(&answer.bytes).map_err(|e| format!("{i:02}: {e}"))?;
            let said = &wanted["headers"]["content-type"];
            if said.as_str().is_some_and(|said| said != format.to_mime_type()) {
                return Err(format!("{i:02}: {format:?} in place of {said}"));
            }
            continue;
        }
        alike(&wanted["json"], &answer.json(), &mut format!("{i:02}"), &mut names)?;
    }
    Ok(())
}

/// The body of a send and its content type.
fn content(send: &Value) -> (String, String) {
    if !send["json"].is_null() {
        return ("application/json".to_owned(), send["json"].to_string());
    }
    let Some(fields) = send["form"].as_object() else { return Default::default() };
    let texts: Vec<(&str, &str)> =
        fields.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))).collect();
    form(&texts)
}

/// Every field of the fixture is there with its type; notes how names correspond.
fn alike(
    wanted: &Value,
    found: &Value,
    path: &mut String,
    names: &mut Vec<(String, String)>,
) -> Result<(), String> {
    match (wanted, found) {
        // How much a picture weighs is told once it is drawn.
        (_, Value::Null) if path.ends_with("file_size") => Ok(()),
        // Words are counted only where the model speaks.
        (Value::Array(wanted), Value::Array(found)) if path.ends_with("TokensDetails") => {
            let first = |list: &[Value]| list.first().cloned().unwrap_or_default();
            alike(&first(wanted), &first(found), &mut format!("{path}[0]"), names)
        }
        // Drafts and texts may stand around the pictures.
        (Value::Array(wanted), Value::Array(found)) if path.ends_with("content.parts") => {
            let pictures = |parts: &[Value]| -> Vec<Value> {
                let answers = parts.iter().filter(|part| part.get("thought").is_none());
                answers.filter_map(|part| part.get("inlineData").cloned()).collect()
            };
            let (wanted, found) = (pictures(wanted), pictures(found));
            alike(&wanted[..1].into(), &found.into(), &mut format!("{path}.pictures"), names)
        }
        (Value::String(wanted), Value::String(found)) => {
            if wanted != found && wanted.len() > 8 {
                names.push((wanted.clone(), found.clone()));
            }
            Ok(())
        }
        (Value::Null, _)
        | (Value::Number(_), Value::Number(_))
        | (Value::Bool(_), Value::Bool(_)) => Ok(()),
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            for (index, (wanted, found)) in wanted.iter().zip(found).enumerate() {
                alike(wanted, found, &mut format!("{path}[{index}]"), names)?;
            }
            Ok(())
        }
        (Value::Object(wanted), Value::Object(found)) => {
            for (name, wanted) in wanted {
                let found = found.get(name).ok_or_else(|| format!("{path}.{name} is missing"))?;
                alike(wanted, found, &mut format!("{path}.{name}"), names)?;
            }
            Ok(())
        }
        _ => {
            let found: String = found.to_string().chars().take(200).collect();
            Err(format!("{path}: {found} in place of {wanted}"))
        }
    }
}
