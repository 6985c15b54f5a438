//! Reading the folders: `case.toml`, the numbered exchanges, and how they end.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use providers::{
    ImageCall, Input, Reply, ReplyBody, SendKind,
    catalog::{SizeRule, Task, Wire},
    inlined, lifted,
    media::{Aspect, Format, NativeSize, Size, SizeWords},
};
use serde::Deserialize;
use serde_json::{Map, Value};

pub(crate) type Check<T = ()> = Result<T, String>;

/// `case.toml`.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Meta {
    pub(crate) deployment: Target,
    /// What is asked of it.
    #[serde(default)]
    pub(crate) task: Task,
    /// Values for the settings in the base URL.
    #[serde(default)]
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) call: CallSpec,
    /// Our name of the submit.
    pub(crate) client_ref: Option<String>,
    /// Where the provider is to push.
    pub(crate) callback: Option<CallbackSpec>,
    /// `done`, `wait` (the fixture ends while the job runs), the name of a fault, or what is left
    /// of a submit whose reply was lost: `absent` or `unclear` after a search, else `unknown`.
    pub(crate) expect: String,
    /// Page, section and date it was transcribed from, or `recorded` and the date.
    pub(crate) source: String,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CallbackSpec {
    pub(crate) url: String,
    pub(crate) secret: Option<String>,
}

/// What is called: a row of the catalogue, or one made up here.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Target {
    Row(String),
    Inline(Box<Inline>),
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Inline {
    pub(crate) adapter: String,
    pub(crate) base_url: String,
    #[serde(default)]
    pub(crate) hosts: Vec<String>,
    pub(crate) upstream: String,
    pub(crate) path: Option<String>,
    pub(crate) size: Option<SizeRule>,
    #[serde(default)]
    pub(crate) wire: Wire,
    #[serde(default)]
    pub(crate) formats: Vec<Format>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CallSpec {
    pub(crate) prompt: String,
    /// Files of the pictures to work from.
    pub(crate) images: Vec<String>,
    /// The file of the mask.
    pub(crate) mask: Option<String>,
    pub(crate) scale: Option<u32>,
    pub(crate) fidelity: Option<String>,
    pub(crate) n: Option<u32>,
    pub(crate) size: Option<Size>,
    pub(crate) ratio: Option<Aspect>,
    pub(crate) tier: Option<String>,
    pub(crate) preset: Option<String>,
    pub(crate) format: Option<Format>,
    pub(crate) compression: Option<u8>,
    pub(crate) seed: Option<u64>,
    pub(crate) negative_prompt: Option<String>,
    pub(crate) quality: Option<String>,
    pub(crate) background: Option<String>,
    pub(crate) moderation: Option<String>,
    pub(crate) style: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) extra: Map<String, Value>,
}

impl CallSpec {
    pub(crate) fn image(&self) -> ImageCall {
        let words = match (&self.ratio, &self.preset, self.size) {
            (Some(ratio), _, _) => Some(SizeWords::Ratio(*ratio, self.tier.clone())),
            (_, Some(name), _) => Some(SizeWords::Preset(name.clone())),
            (_, _, Some(_)) => Some(SizeWords::Pixels),
            _ => None,
        };
        // Pixels beside a ratio or preset are for the planner; an adapter must not need them.
        let size = self.size.unwrap_or(Size::new(1, 1));
        let input = |index: usize, name: &String| Input {
            token: index as u64,
            format: name.rsplit('.').next().and_then(|e| e.parse().ok()).unwrap_or(Format::Png),
            size,
            url: Some(format!("https://media.example.com/media/{name}")),
        };
        ImageCall {
            images: self.images.iter().enumerate().map(|(i, name)| input(i, name)).collect(),
            mask: self.mask.as_ref().map(|name| input(self.images.len(), name)),
            scale: self.scale,
            fidelity: self.fidelity.clone(),
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
pub(crate) struct Send {
    pub(crate) kind: SendKind,
    pub(crate) method: String,
    pub(crate) url: String,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) json: Option<Value>,
    pub(crate) form: Option<Value>,
    /// The event stream offered beside a poll; `null` says that there is none.
    pub(crate) listen: Option<Value>,
    /// The job as it stands before this request.
    pub(crate) job: Option<Value>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    #[serde(default = "ok")]
    pub(crate) status: u16,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) json: Option<Value>,
    pub(crate) text: Option<String>,
    pub(crate) media: Option<String>,
    /// The parts of a form, in order.
    pub(crate) parts: Option<Vec<ReplyPart>>,
    /// Nothing of it arrived.
    #[serde(default)]
    pub(crate) lost: bool,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReplyPart {
    name: String,
    mime: String,
    json: Option<Value>,
    media: Option<String>,
}

fn ok() -> u16 {
    200
}

/// What the provider pushes.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Push {
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) json: Option<Value>,
    pub(crate) text: Option<String>,
    /// Whether it must be taken for nothing.
    #[serde(default)]
    pub(crate) ignored: bool,
    /// The job it completes the records with.
    pub(crate) job: Option<Value>,
}

/// The search for the job of a lost submit.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Search {
    /// When the submit was sent, seconds since 1970.
    pub(crate) sent_at: u64,
    pub(crate) url: String,
    /// The ids that may be the submit's.
    pub(crate) found: Vec<String>,
    /// Ids that are known as those of other submits.
    #[serde(default)]
    pub(crate) taken: Vec<String>,
}

/// One thing that happens.
#[derive(Clone)]
pub(crate) enum Exchange {
    Send(Box<Send>, Answer),
    Push(Push),
    Search(Search, Answer),
}

#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) dir: PathBuf,
    pub(crate) meta: Meta,
    pub(crate) exchanges: Vec<Exchange>,
    /// `output.json` or `error.json`.
    pub(crate) end: Option<Value>,
    /// `cancel.json`: the request that would cancel the last job.
    pub(crate) cancel: Option<Value>,
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Check<Option<T>> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|e| format!("{}: {e}", path.display()))
}

impl Case {
    pub(crate) fn load(dir: &Path) -> Check<Self> {
        let text =
            fs::read_to_string(dir.join("case.toml")).map_err(|e| format!("case.toml: {e}"))?;
        let meta: Meta = toml::from_str(&text).map_err(|e| format!("case.toml: {e}"))?;
        let mut exchanges = Vec::new();
        for i in 1.. {
            let file = |name: &str| dir.join(format!("{i:02}-{name}.json"));
            let (send, search) = (read(&file("send"))?, read(&file("search"))?);
            exchanges.push(match (send, search, read(&file("reply"))?, read(&file("push"))?) {
                (Some(send), None, Some(reply), None) => Exchange::Send(Box::new(send), reply),
                (None, Some(search), Some(reply), None) => Exchange::Search(search, reply),
                (None, None, None, Some(push)) => Exchange::Push(push),
                (None, None, None, None) => break,
                _ => return Err(format!("{i:02}: a send or a search and its reply, or a push")),
            });
        }
        let end = match meta.expect.as_str() {
            "wait" | "absent" | "unclear" | "unknown" => None,
            "done" => read(&dir.join("output.json"))?,
            _ => read(&dir.join("error.json"))?,
        };
        let open = ["wait", "absent", "unclear", "unknown"].contains(&meta.expect.as_str());
        if !open && end.is_none() {
            return Err("output.json (expect = \"done\") or error.json is missing".to_owned());
        }
        let known = |name: &str| {
            ["case.toml", "output.json", "error.json", "cancel.json"].contains(&name)
                || Path::new(name).extension().is_none_or(|e| e != "json")
                || name.get(..2).and_then(|n| n.parse().ok()).is_some_and(|n: usize| {
                    n <= exchanges.len()
                        && ["-send.json", "-reply.json", "-push.json", "-search.json"]
                            .contains(&&name[2..])
                })
        };
        if let Some(odd) = entries(dir).into_iter().find(|name| !known(name)) {
            return Err(format!("{odd} is not part of a fixture, or a number is missing"));
        }
        let cancel = read(&dir.join("cancel.json"))?;
        Ok(Self { dir: dir.to_owned(), meta, exchanges, end, cancel })
    }

    /// A media file of the case, or one shared by all.
    pub(crate) fn file(&self, name: &str) -> Check<Vec<u8>> {
        fs::read(self.dir.join(name))
            .or_else(|_| fs::read(root().join("_media").join(name)))
            .map_err(|e| format!("{name}: {e}"))
    }

    /// The pictures to work from and the mask, by their tokens.
    pub(crate) fn inputs(&self) -> Vec<&String> {
        self.meta.call.images.iter().chain(&self.meta.call.mask).collect()
    }

    /// Puts the pictures in the place of what stands for them in a body, as the engine does.
    pub(crate) fn inline(&self, value: &mut Value) -> Check {
        match value {
            Value::String(text) => {
                for (token, name) in self.inputs().into_iter().enumerate() {
                    let stand_in = inlined(token as u64);
                    if text.contains(&stand_in) {
                        *text = text.replace(&stand_in, &STANDARD.encode(self.file(name)?));
                    }
                }
                Ok(())
            }
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.inline(item)),
            Value::Object(map) => map.values_mut().try_for_each(|item| self.inline(item)),
            _ => Ok(()),
        }
    }

    /// Fills in `@base64:` strings: as they are, or lifted into `blobs`.
    pub(crate) fn fill(&self, value: &Value, lift: bool, blobs: &mut Vec<String>) -> Check<Value> {
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

    pub(crate) fn reply(
        &self,
        answer: &Answer,
        lift: bool,
        blobs: &mut Vec<String>,
    ) -> Check<Reply> {
        blobs.clear();
        let body = match (&answer.json, &answer.text, &answer.media, &answer.parts) {
            (Some(json), None, None, None) => {
                ReplyBody::Text(Bytes::from(self.fill(json, lift, blobs)?.to_string()))
            }
            (None, Some(text), None, None) => ReplyBody::Text(Bytes::from(text.clone())),
            (None, None, Some(name), None) => {
                let name = name.strip_prefix("@file:").unwrap_or(name);
                blobs.push(STANDARD.encode(self.file(name)?));
                ReplyBody::Media(0)
            }
            (None, None, None, Some(parts)) => ReplyBody::Text(self.form(answer, parts)?),
            _ => return Err("a reply has exactly one of json, text, media and parts".to_owned()),
        };
        let headers = answer.headers.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(Reply { status: answer.status, headers, body })
    }
}

impl Case {
    /// A form with the boundary that the content type names.
    fn form(&self, answer: &Answer, parts: &[ReplyPart]) -> Check<Bytes> {
        let kind = answer.headers.get("content-type").map(String::as_str).unwrap_or_default();
        let boundary = kind.split_once("boundary=").ok_or("parts need a boundary")?.1;
        let boundary = boundary.trim_matches('"');
        let mut form = Vec::new();
        for ReplyPart { name, mime, json, media } in parts {
            let head = format!(
                "--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"; \
                 filename=\"{name}\"\r\ncontent-type: {mime}\r\n\r\n"
            );
            form.extend(head.into_bytes());
            match (json, media) {
                (Some(json), None) => form.extend(json.to_string().into_bytes()),
                (None, Some(file)) => form.extend(self.file(file)?),
                _ => return Err("a part has either json or media".to_owned()),
            }
            form.extend(b"\r\n");
        }
        form.extend(format!("--{boundary}--\r\n").into_bytes());
        Ok(Bytes::from(form))
    }
}

impl Push {
    /// As a reply, which is how adapters see it.
    pub(crate) fn answer(&self) -> Answer {
        Answer {
            status: 200,
            headers: self.headers.clone(),
            json: self.json.clone(),
            text: self.text.clone(),
            media: None,
            parts: None,
            lost: false,
        }
    }
}

pub(crate) fn entries(dir: &Path) -> Vec<String> {
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
pub(crate) fn cases() -> Vec<(String, String, Check<Case>)> {
    cases_in(&root())
}

/// The cases of another folder of fixtures.
pub(crate) fn cases_in(root: &Path) -> Vec<(String, String, Check<Case>)> {
    let mut all = Vec::new();
    for provider in entries(root) {
        let dir = root.join(&provider);
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
