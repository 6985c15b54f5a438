//! Every adapter against every fixture: what it sends and what it makes of each reply.
//!
//! `fixtures/README.md` describes the folders. Everything is compared both ways: a field too
//! many fails like a field too few. Each case runs twice, with base64 left in the replies and
//! with it lifted out as the engine does; both must end the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use providers::{
    ADAPTERS, Adapter, Body, Call, ImageCall, Output, PartValue, RemoteJob, Reply, ReplyBody,
    SendKind, Source, Step, UpstreamError, WireRequest, adapter,
    catalog::{Catalog, Deployment, Provider, SizeRule, Wire},
    lifted,
    media::{Aspect, Format, NativeSize, Size, SizeWords},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Adapters whose fixtures are still to be written. May only shrink.
const UNWRITTEN: &[&str] = &["fal", "replicate", "bfl", "stability", "gemini"];

type Check<T = ()> = Result<T, String>;

// ---------------------------------------------------------------------------------------------
// Reading the folders

/// `case.toml`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    deployment: Target,
    /// Values for the settings in the base URL.
    #[serde(default)]
    settings: BTreeMap<String, String>,
    call: CallSpec,
    /// `done`, `wait` (the fixture ends while the job runs) or the name of a fault.
    expect: String,
    /// Page, section and date it was transcribed from, or `recorded` and the date.
    source: String,
}

/// What is called: a row of the catalogue, or one made up here.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Target {
    Row(String),
    Inline(Box<Inline>),
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inline {
    adapter: String,
    base_url: String,
    #[serde(default)]
    hosts: Vec<String>,
    upstream: String,
    path: Option<String>,
    size: Option<SizeRule>,
    #[serde(default)]
    wire: Wire,
    #[serde(default)]
    formats: Vec<Format>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CallSpec {
    prompt: String,
    n: Option<u32>,
    size: Option<Size>,
    ratio: Option<Aspect>,
    tier: Option<String>,
    preset: Option<String>,
    format: Option<Format>,
    compression: Option<u8>,
    seed: Option<u64>,
    negative_prompt: Option<String>,
    quality: Option<String>,
    background: Option<String>,
    moderation: Option<String>,
    style: Option<String>,
    user: Option<String>,
    extra: Map<String, Value>,
}

impl CallSpec {
    fn image(&self) -> ImageCall {
        let words = match (&self.ratio, &self.preset, self.size) {
            (Some(ratio), _, _) => Some(SizeWords::Ratio(*ratio, self.tier.clone())),
            (_, Some(name), _) => Some(SizeWords::Preset(name.clone())),
            (_, _, Some(_)) => Some(SizeWords::Pixels),
            _ => None,
        };
        // Pixels beside a ratio or preset are for the planner; an adapter must not need them.
        let size = self.size.unwrap_or(Size::new(1, 1));
        ImageCall {
            prompt: self.prompt.clone(),
            n: self.n.unwrap_or(1),
            size: words.map(|words| NativeSize { size, words }),
            format: self.format,
            compression: self.compression,
            seed: self.seed,
            negative_prompt: self.negative_prompt.clone(),
            quality: self.quality.clone(),
            background: self.background.clone(),
            moderation: self.moderation.clone(),
            style: self.style.clone(),
            user: self.user.clone(),
            extra: self.extra.clone(),
        }
    }
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Send {
    kind: SendKind,
    method: String,
    url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    json: Option<Value>,
    form: Option<Value>,
    /// The event stream offered beside a poll; `null` says that there is none.
    listen: Option<Value>,
    /// The job as it stands before this request.
    job: Option<Value>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    json: Option<Value>,
    text: Option<String>,
    media: Option<String>,
}

#[derive(Clone)]
struct Case {
    dir: PathBuf,
    meta: Meta,
    exchanges: Vec<(Send, Answer)>,
    /// `output.json` or `error.json`.
    end: Option<Value>,
    /// `cancel.json`: the request that would cancel the last job.
    cancel: Option<Value>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Check<Option<T>> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| format!("{}: {e}", path.display()))
}

impl Case {
    fn load(dir: &Path) -> Check<Self> {
        let text =
            fs::read_to_string(dir.join("case.toml")).map_err(|e| format!("case.toml: {e}"))?;
        let meta: Meta = toml::from_str(&text).map_err(|e| format!("case.toml: {e}"))?;
        let mut exchanges = Vec::new();
        for i in 1.. {
            let send = read(&dir.join(format!("{i:02}-send.json")))?;
            let reply = read(&dir.join(format!("{i:02}-reply.json")))?;
            match (send, reply) {
                (Some(send), Some(reply)) => exchanges.push((send, reply)),
                (None, None) => break,
                _ => return Err(format!("{i:02}: a send and a reply belong together")),
            }
        }
        let end = match meta.expect.as_str() {
            "wait" => None,
            "done" => read(&dir.join("output.json"))?,
            _ => read(&dir.join("error.json"))?,
        };
        if meta.expect != "wait" && end.is_none() {
            return Err("output.json (expect = \"done\") or error.json is missing".to_owned());
        }
        let known = |name: &str| {
            ["case.toml", "output.json", "error.json", "cancel.json"].contains(&name)
                || !name.ends_with(".json")
                || name.get(..2).and_then(|n| n.parse().ok()).is_some_and(|n: usize| {
                    n <= exchanges.len() && ["-send.json", "-reply.json"].contains(&&name[2..])
                })
        };
        if let Some(odd) = entries(dir).into_iter().find(|name| !known(name)) {
            return Err(format!("{odd} is not part of a fixture, or a number is missing"));
        }
        let cancel = read(&dir.join("cancel.json"))?;
        Ok(Self { dir: dir.to_owned(), meta, exchanges, end, cancel })
    }

    /// A media file of the case, or one shared by all.
    fn file(&self, name: &str) -> Check<Vec<u8>> {
        fs::read(self.dir.join(name))
            .or_else(|_| fs::read(root().join("_media").join(name)))
            .map_err(|e| format!("{name}: {e}"))
    }

    /// Fills in `@base64:` strings: as they are, or lifted into `blobs`.
    fn fill(&self, value: &Value, lift: bool, blobs: &mut Vec<String>) -> Check<Value> {
        Ok(match value {
            Value::String(text) => match text.split_once("@base64:") {
                None => value.clone(),
                Some((before, name)) => {
                    let full = format!("{before}{}", STANDARD.encode(self.file(name)?));
                    if lift {
                        blobs.push(full);
                        lifted(blobs.len() - 1).into()
                    } else {
                        full.into()
                    }
                }
            },
            Value::Array(items) => {
                items.iter().map(|v| self.fill(v, lift, blobs)).collect::<Check<_>>()?
            }
            Value::Object(map) => Value::Object(
                map.iter()
                    .map(|(k, v)| Ok((k.clone(), self.fill(v, lift, blobs)?)))
                    .collect::<Check<_>>()?,
            ),
            _ => value.clone(),
        })
    }

    fn reply(&self, answer: &Answer, lift: bool, blobs: &mut Vec<String>) -> Check<Reply> {
        blobs.clear();
        let body = match (&answer.json, &answer.text, &answer.media) {
            (Some(json), None, None) => {
                ReplyBody::Text(Bytes::from(self.fill(json, lift, blobs)?.to_string()))
            }
            (None, Some(text), None) => ReplyBody::Text(Bytes::from(text.clone())),
            (None, None, Some(name)) => {
                let name = name.strip_prefix("@file:").unwrap_or(name);
                blobs.push(STANDARD.encode(self.file(name)?));
                ReplyBody::Media(0)
            }
            _ => return Err("a reply has exactly one of json, text and media".to_owned()),
        };
        let headers = answer.headers.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(Reply { status: answer.status, headers, body })
    }
}

fn entries(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Every case as (provider, scenario, what was read).
fn cases() -> Vec<(String, String, Check<Case>)> {
    let mut all = Vec::new();
    for provider in entries(&root()) {
        let dir = root().join(&provider);
        if provider.starts_with('_') || !dir.is_dir() {
            continue;
        }
        for scenario in entries(&dir).into_iter().filter(|name| dir.join(name).is_dir()) {
            let case = Case::load(&dir.join(&scenario));
            all.push((provider.clone(), scenario, case));
        }
    }
    all
}

// ---------------------------------------------------------------------------------------------
// Who is called

struct Called {
    adapter: &'static dyn Adapter,
    deployment: Deployment,
    base_url: String,
    hosts: Vec<String>,
}

fn row<'a>(catalog: &'a Catalog, slug: &str) -> Option<(&'a Provider, &'a Deployment)> {
    let provider = catalog.providers.get(slug.split_once('/')?.0)?;
    Some((provider, provider.models.iter().find(|d| d.slug() == slug)?))
}

fn called(catalog: &Catalog, case: &Case, folder: &str) -> Check<Called> {
    let find = |name: &str| adapter(name).ok_or_else(|| format!("no adapter named {name:?}"));
    match &case.meta.deployment {
        Target::Row(slug) => {
            let (provider, deployment) =
                row(catalog, slug).ok_or_else(|| format!("{slug:?} is not in the catalogue"))?;
            let mut base_url = provider.base_url.clone();
            for (name, value) in case.meta.settings.iter().chain(&provider.settings) {
                base_url = base_url.replace(&format!("{{{name}}}"), value);
            }
            Ok(Called {
                adapter: find(&provider.adapter)?,
                deployment: deployment.clone(),
                base_url,
                hosts: provider.hosts.clone(),
            })
        }
        Target::Inline(inline) => Ok(Called {
            adapter: find(&inline.adapter)?,
            deployment: Deployment {
                provider: folder.to_owned(),
                upstream: inline.upstream.clone(),
                path: inline.path.clone(),
                n: 10,
                size: inline.size.clone().unwrap_or_default(),
                formats: inline.formats.clone(),
                wire: inline.wire.clone(),
                ..Deployment::default()
            },
            base_url: inline.base_url.clone(),
            hosts: inline.hosts.clone(),
        }),
    }
}

// ---------------------------------------------------------------------------------------------
// Comparing

/// Where two values differ, one line per difference; empty where they are equal.
fn differences(at: &str, want: &Value, got: &Value) -> Vec<String> {
    match (want, got) {
        (Value::Object(want), Value::Object(got)) => {
            let keys: BTreeSet<&String> = want.keys().chain(got.keys()).collect();
            keys.into_iter()
                .flat_map(|key| match (want.get(key), got.get(key)) {
                    (Some(w), Some(g)) => differences(&format!("{at}.{key}"), w, g),
                    (Some(w), None) => vec![format!("{at}.{key}: missing, want {w}")],
                    (None, Some(g)) => vec![format!("{at}.{key}: not in the fixture, got {g}")],
                    (None, None) => Vec::new(),
                })
                .collect()
        }
        (Value::Array(want), Value::Array(got)) if want.len() == got.len() => want
            .iter()
            .zip(got)
            .enumerate()
            .flat_map(|(i, (w, g))| differences(&format!("{at}[{i}]"), w, g))
            .collect(),
        _ if want == got => Vec::new(),
        _ => vec![format!("{at}: want {want}, got {got}")],
    }
}

fn same(at: &str, want: &Value, got: &Value) -> Check {
    let found = differences(at, want, got);
    if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
}

/// A request as `NN-send.json` writes it, without its kind.
fn written(request: &WireRequest) -> Check<Value> {
    let headers: BTreeMap<&str, &str> =
        request.headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
    if headers.len() != request.headers.len() {
        return Err("a header is sent twice".to_owned());
    }
    let mut out = json!({"method": request.method, "url": request.url, "headers": headers});
    match &request.body {
        Body::Empty => {}
        Body::Json(text) => {
            out["json"] = serde_json::from_slice(text).map_err(|e| format!("body: {e}"))?;
        }
        Body::Form(parts) => {
            let mut form = Map::new();
            for part in parts {
                let value = match &part.value {
                    PartValue::Text(text) => text.as_str().into(),
                    PartValue::File { name, mime, data } => {
                        json!({"name": name, "mime": mime, "data": STANDARD.encode(data)})
                    }
                };
                // A name that comes again becomes a list.
                match form.get_mut(&part.name) {
                    None => {
                        form.insert(part.name.clone(), value);
                    }
                    Some(Value::Array(list)) => list.push(value),
                    Some(one) => *one = Value::Array(vec![one.clone(), value]),
                }
            }
            out["form"] = Value::Object(form);
        }
    }
    Ok(out)
}

fn check_request(at: &str, case: &Case, want: &Send, got: &WireRequest) -> Check {
    let mut full = json!({"method": want.method, "url": want.url, "headers": want.headers});
    for (name, body) in [("json", &want.json), ("form", &want.form)] {
        if let Some(body) = body {
            full[name] = case.fill(body, false, &mut Vec::new())?;
        }
    }
    same(at, &full, &written(got)?)
}

fn check_output(case: &Case, want: &Value, output: &Output, blobs: &[String]) -> Check {
    let mut pictures = Vec::new();
    for picture in &output.pictures {
        let text = match &picture.source {
            Source::Url(_) => None,
            Source::Base64(text) => Some(text),
            Source::Blob(i) => Some(blobs.get(*i).ok_or("a blob that is not in the reply")?),
        };
        let mut out = match (&picture.source, text) {
            (Source::Url(url), _) => json!({"url": url}),
            (_, Some(text)) => {
                let data = text.split_once(";base64,").map_or(text.as_str(), |(_, data)| data);
                json!({"data": data})
            }
            _ => json!({}),
        };
        if let Some(seed) = picture.seed {
            out["seed"] = seed.into();
        }
        if let Some(prompt) = &picture.revised_prompt {
            out["revised_prompt"] = prompt.as_str().into();
        }
        if picture.withheld {
            out["withheld"] = true.into();
        }
        pictures.push(out);
    }
    let mut got = json!({"pictures": pictures});
    if let Some(quality) = &output.quality {
        got["quality"] = quality.as_str().into();
    }
    let usage = &output.usage;
    let mut counted = Map::new();
    for (name, count) in [
        ("text_input_tokens", usage.text_input_tokens),
        ("image_input_tokens", usage.image_input_tokens),
        ("text_output_tokens", usage.text_output_tokens),
        ("image_output_tokens", usage.image_output_tokens),
    ] {
        if let Some(count) = count {
            counted.insert(name.to_owned(), count.into());
        }
    }
    if let Some(billed) = usage.billed {
        counted.insert("billed".to_owned(), billed.to_string().into());
    }
    if !counted.is_empty() {
        got["usage"] = Value::Object(counted);
    }
    same("output", &case.fill(want, false, &mut Vec::new())?, &got)
}

fn check_error(case: &Case, want: &Value, error: &UpstreamError) -> Check {
    let mut want = want.clone();
    let mut got = json!({"fault": error.fault.name()});
    if let Some(delay) = error.retry_after {
        // Whole seconds compare as whole numbers.
        got["retry_after"] = if delay.subsec_nanos() == 0 {
            delay.as_secs().into()
        } else {
            delay.as_secs_f64().into()
        };
    }
    if let Some(code) = &error.code {
        got["code"] = code.as_str().into();
    }
    if let Some(param) = &error.param {
        got["param"] = param.as_str().into();
    }
    if let Some(text) = want.as_object_mut().and_then(|map| map.remove("message")) {
        let text = text.as_str().unwrap_or_default();
        if text.is_empty() || !error.message.contains(text) {
            return Err(format!("error.message: want {text:?} in {:?}", error.message));
        }
    }
    if error.message.is_empty() || error.message.contains("://") {
        return Err(format!("error.message: empty, or shows an address: {:?}", error.message));
    }
    if want.get("fault").and_then(Value::as_str) != Some(&case.meta.expect) {
        return Err("error.json and case.toml name different faults".to_owned());
    }
    same("error", &want, &got)
}

// ---------------------------------------------------------------------------------------------
// Driving

fn drive(case: &Case, called: &Called, lift: bool) -> Check {
    let image = case.meta.call.image();
    let call = Call {
        deployment: &called.deployment,
        base_url: &called.base_url,
        hosts: &called.hosts,
        upstream: &called.deployment.upstream,
        image: &image,
    };
    let expect = case.meta.expect.as_str();
    let mut blobs = Vec::new();
    let mut job: Option<RemoteJob> = None;
    let mut exchanges = case.exchanges.iter().enumerate();
    let mut step = called.adapter.begin(&call);
    loop {
        let left = exchanges.len();
        let (offered, listen) = match step {
            Ok(Step::Done(output)) => {
                return match (expect, left, &case.end) {
                    ("done", 0, Some(want)) => check_output(case, want, &output, &blobs),
                    ("done", _, _) => Err(format!("done, but {left} exchanges are left")),
                    _ => Err(format!("done, want {expect}")),
                };
            }
            Err(error) => {
                return match (&case.end, left) {
                    (Some(want), 0) if expect != "done" => check_error(case, want, &error),
                    _ => Err(format!("{error}; want {expect}, {left} exchanges are left")),
                };
            }
            Ok(Step::Send { kind, request }) => (vec![(kind, request)], None),
            Ok(Step::Wait { job: now, poll, listen }) => {
                if let Some(want) = &case.cancel {
                    let request = called.adapter.cancel(&call, &now);
                    same("cancel", want, &request.map_or(Ok(Value::Null), |r| written(&r))?)?;
                }
                job = Some(now);
                if left == 0 && expect == "wait" {
                    return Ok(());
                }
                let mut offered = vec![(SendKind::Poll, poll)];
                offered.extend(listen.clone().map(|request| (SendKind::Listen, request)));
                (offered, Some(listen))
            }
        };
        let Some((i, (want, answer))) = exchanges.next() else {
            return Err(format!("no exchange is left for {offered:?}"));
        };
        let at = format!("{:02}-send", i + 1);
        let Some((kind, request)) = offered.iter().find(|(kind, _)| *kind == want.kind) else {
            return Err(format!("{at}.kind: want {:?}, offered {offered:?}", want.kind));
        };
        check_request(&at, case, want, request)?;
        if let (Some(want), Some(got)) = (&want.listen, &listen) {
            let got = got.as_ref().map_or(Ok(Value::Null), written)?;
            same(&format!("{at}.listen"), want, &got)?;
        }
        if let Some(want) = &want.job {
            let got = serde_json::to_value(&job).map_err(|e| e.to_string())?;
            same(&format!("{at}.job"), want, &got)?;
        }
        let reply = case.reply(answer, lift, &mut blobs)?;
        step = called.adapter.advance(&call, *kind, job.as_ref(), &reply);
    }
}

fn check(catalog: &Catalog, folder: &str, case: &Case) -> Check {
    if case.meta.source.trim().len() < 10 {
        return Err("source: say which page and date it was transcribed from".to_owned());
    }
    let called = called(catalog, case, folder)?;
    if case.exchanges.is_empty() {
        return Err("there is no 01-send.json".to_owned());
    }
    drive(case, &called, false)?;
    drive(case, &called, true).map_err(|e| format!("with base64 lifted: {e}"))
}

#[test]
fn every_fixture_is_sent_and_read_as_written() {
    let catalog = Catalog::embedded().unwrap();
    let mut wrong = Vec::new();
    for (provider, scenario, case) in cases() {
        if let Err(e) = case.and_then(|case| check(&catalog, &provider, &case)) {
            wrong.push(format!("fixtures/{provider}/{scenario}:\n{e}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_fixture_that_differs_in_one_field_fails() {
    let catalog = Catalog::embedded().unwrap();
    let mut tried = 0;
    for (provider, scenario, case) in cases() {
        let case = case.unwrap();
        let fails = |case: &Case, what: &str| {
            assert!(check(&catalog, &provider, case).is_err(), "{provider}/{scenario}: {what}");
        };
        for (i, (send, _)) in case.exchanges.iter().enumerate() {
            let mut changed = case.clone();
            changed.exchanges[i].0.url.push('x');
            fails(&changed, "another address passed");
            for (name, body) in [("json", &send.json), ("form", &send.form)] {
                let Some(Value::Object(fields)) = body else { continue };
                let mut bodies: Vec<Map<String, Value>> = fields
                    .keys()
                    .map(|left_out| {
                        fields.clone().into_iter().filter(|(k, _)| k != left_out).collect()
                    })
                    .collect();
                let mut more = fields.clone();
                more.insert("a_field_too_many".to_owned(), 1.into());
                bodies.push(more);
                for body in bodies {
                    let mut changed = case.clone();
                    let slot = &mut changed.exchanges[i].0;
                    *if name == "json" { &mut slot.json } else { &mut slot.form } =
                        Some(Value::Object(body));
                    fails(&changed, "another body passed");
                    tried += 1;
                }
            }
        }
        if let Some(Value::Object(end)) = &case.end {
            for field in end.keys().filter(|field| *field != "message") {
                let mut changed = case.clone();
                changed.end = changed.end.map(|mut end| {
                    end[field] = "something else".into();
                    end
                });
                fails(&changed, "another end passed");
            }
        }
    }
    assert!(tried > 0, "no fixture was tried");
}

/// Whether a scenario shows a call that goes well.
fn happy(scenario: &str) -> bool {
    scenario == "happy" || scenario.starts_with("happy-")
}

/// What tells one request shape of a provider from another: the fields' names, without the
/// constants that come with every call.
fn shape(deployment: &Deployment) -> String {
    let wire = Wire { set: BTreeMap::new(), ..deployment.wire.clone() };
    format!("{} {wire:?}", deployment.provider)
}

#[test]
fn every_adapter_and_every_request_shape_of_the_catalogue_has_a_happy_fixture() {
    let catalog = Catalog::embedded().unwrap();
    let (mut adapters, mut shapes) = (BTreeSet::new(), BTreeSet::new());
    for (provider, scenario, case) in cases() {
        let case = case.unwrap();
        if happy(&scenario) && case.meta.expect == "done" {
            let called = called(&catalog, &case, &provider).unwrap();
            adapters.insert(called.adapter.name());
            shapes.insert(shape(&called.deployment));
        }
    }
    let mut missing: BTreeMap<String, String> = ADAPTERS
        .iter()
        .map(|a| a.name())
        .filter(|name| !adapters.contains(name) && !UNWRITTEN.contains(name))
        .map(|name| (name.to_owned(), format!("adapter {name}")))
        .collect();
    for deployment in catalog.deployments() {
        let adapter = &catalog.providers[&deployment.provider].adapter;
        let key = shape(deployment);
        if !shapes.contains(&key) && !UNWRITTEN.contains(&adapter.as_str()) {
            missing.entry(key).or_insert_with(|| deployment.slug());
        }
    }
    let missing: Vec<&String> = missing.values().collect();
    assert!(missing.is_empty(), "no happy fixture for the request shape of {missing:?}");
}
