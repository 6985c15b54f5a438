//! Comparing both ways: what is missing fails like what is too much.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use providers::{Body, Output, PartValue, Source, UpstreamError, WireRequest};
use serde_json::{Map, Value, json};

use crate::case::{Case, Check, Send};

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

pub(crate) fn same(at: &str, want: &Value, got: &Value) -> Check {
    let found = differences(at, want, got);
    if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
}

/// A request as `NN-send.json` writes it, without its kind.
pub(crate) fn written(case: &Case, request: &WireRequest) -> Check<Value> {
    let headers: BTreeMap<&str, &str> =
        request.headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
    if headers.len() != request.headers.len() {
        return Err("a header is sent twice".to_owned());
    }
    let mut out = json!({"method": request.method, "url": request.url, "headers": headers});
    match &request.body {
        Body::Empty => {}
        Body::Json(text) => {
            let mut json = serde_json::from_slice(text).map_err(|e| format!("body: {e}"))?;
            case.inline(&mut json)?;
            out["json"] = json;
        }
        Body::Form(parts) => {
            let mut form = Map::new();
            for part in parts {
                let value = match &part.value {
                    PartValue::Text(text) => text.as_str().into(),
                    PartValue::File { name, mime, data } => {
                        json!({"name": name, "mime": mime, "data": STANDARD.encode(data)})
                    }
                    PartValue::Input { name, mime, token } => {
                        let inputs = case.inputs();
                        let file = inputs.get(*token as usize).ok_or("no such picture")?;
                        json!({"name": name, "mime": mime, "data": STANDARD.encode(case.file(file)?)})
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

pub(crate) fn check_request(at: &str, case: &Case, want: &Send, got: &WireRequest) -> Check {
    let mut full = json!({"method": want.method, "url": want.url, "headers": want.headers});
    for (name, body) in [("json", &want.json), ("form", &want.form)] {
        if let Some(body) = body {
            full[name] = case.fill(body, false, &mut Vec::new())?;
        }
    }
    same(at, &full, &written(case, got)?)
}

pub(crate) fn check_output(case: &Case, want: &Value, output: &Output, blobs: &[String]) -> Check {
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

pub(crate) fn check_error(case: &Case, want: &Value, error: &UpstreamError) -> Check {
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
