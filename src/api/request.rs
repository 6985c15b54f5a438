//! From a JSON body to an [`ImageRequest`], field by field, with an error that names the field.

use std::collections::BTreeMap;

use providers::{catalog::Task, media::Format};
use serde_json::{Map, Value};

use crate::{
    engine::request::{ImageRequest, MaskMarks, ProviderChoice},
    error::{Code, Error},
    media::plan,
};

const MOST_PICTURES: u64 = 10;
/// Names of this API that are refused rather than passed on to a provider, and what to do.
const NOT_HERE: [(&str, &str); 4] = [
    ("image", "use /v1/images/edits"),
    ("images", "use /v1/images/edits"),
    ("mask", "use /v1/images/edits"),
    ("async", "send the header 'prefer: respond-async'"),
];
/// Fields of this API that hold text, whatever it reads like.
pub(super) const KNOWN_TEXTS: [&str; 19] = [
    "prompt",
    "negative_prompt",
    "model",
    "size",
    "aspect_ratio",
    "resolution",
    "fit",
    "pad_color",
    "quality",
    "background",
    "output_format",
    "response_format",
    "moderation",
    "style",
    "user",
    "input_fidelity",
    "mode",
    "mask_marks",
    "task",
];

/// What a path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `/v1/images/generations`.
    Generation,
    /// `/v1/images/edits`.
    Edit,
    /// `/v1/images/variations`.
    Variation,
}

/// Takes fields out of a body; what is left is unknown.
struct Fields(Map<String, Value>);

impl Fields {
    /// A field that is there and not null.
    fn take(&mut self, name: &str) -> Option<Value> {
        // The order of the rest does not matter to anyone.
        self.0.swap_remove(name).filter(|v| !v.is_null())
    }

    fn text(&mut self, name: &'static str) -> Result<Option<String>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(Error::invalid(name, format!("{name} is {other}, not a string"))),
        }
    }

    fn flag(&mut self, name: &'static str) -> Result<bool, Error> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => {
                Err(Error::invalid(name, format!("{name} is {other}, not true or false")))
            }
        }
    }

    fn number(&mut self, name: &'static str, least: u64, most: u64) -> Result<Option<u64>, Error> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_u64().filter(|n| (least..=most).contains(n)) {
            Some(number) => Ok(Some(number)),
            None => Err(Error::invalid(
                name,
                format!("{name} is {value}, not a whole number from {least} to {most}"),
            )),
        }
    }

    fn object(&mut self, name: &'static str) -> Result<Map<String, Value>, Error> {
        match self.take(name) {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map),
            Some(other) => Err(Error::invalid(name, format!("{name} is {other}, not an object"))),
        }
    }

    fn texts(&mut self, name: &'static str) -> Result<Vec<String>, Error> {
        let wrong = || Error::invalid(name, format!("{name} is not a list of strings"));
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text),
                    _ => Err(wrong()),
                })
                .collect(),
            Some(_) => Err(wrong()),
        }
    }

    fn choice(&mut self, name: &'static str, allowed: &[&str]) -> Result<Option<String>, Error> {
        let Some(word) = self.text(name)? else { return Ok(None) };
        if allowed.contains(&word.as_str()) {
            return Ok(Some(word));
        }
        let message = format!("{name} {word:?} is not one of {}", allowed.join(", "));
        Err(Error::invalid(name, message))
    }
}

/// A call for pictures.
#[derive(Debug)]
pub(super) struct Generation {
    /// What is asked for.
    pub(super) request: ImageRequest,
    /// Whether white space is wanted while the job runs.
    pub(super) heartbeat: bool,
    /// Whether events are wanted in place of a document.
    pub(super) stream: bool,
}

/// Most labels of a call, and their longest names and values: those of OpenAI's `metadata`.
const MOST_LABELS: usize = 16;
const LONGEST_LABEL: usize = 64;
const LONGEST_VALUE: usize = 512;

/// The caller's end user: usage and budgets are counted by it.
fn user(fields: &mut Fields) -> Result<Option<String>, Error> {
    let user = fields.text("user")?.filter(|user| !user.is_empty());
    if user.as_ref().is_some_and(|u| u.len() > LONGEST_VALUE || u.chars().any(char::is_control)) {
        let message = format!("user is at most {LONGEST_VALUE} bytes without control characters");
        return Err(Error::invalid("user", message));
    }
    Ok(user)
}

/// Names and values that usage is counted by.
fn labels(fields: &mut Fields) -> Result<BTreeMap<String, String>, Error> {
    let wrong = |message: String| Error::invalid("metadata", message);
    let metadata = fields.object("metadata")?;
    if metadata.len() > MOST_LABELS {
        return Err(wrong(format!("metadata has at most {MOST_LABELS} entries")));
    }
    let mut labels = BTreeMap::new();
    for (name, value) in metadata {
        let Value::String(value) = value else {
            return Err(wrong(format!("metadata {name:?} is not a string")));
        };
        if name.chars().chain(value.chars()).any(char::is_control) {
            return Err(wrong(format!("metadata {name:?} holds control characters")));
        }
        if name.is_empty() || name.len() > LONGEST_LABEL || value.len() > LONGEST_VALUE {
            let limits = format!("{LONGEST_LABEL} bytes of name and {LONGEST_VALUE} of value");
            return Err(wrong(format!("metadata {name:?} is too long; {limits} are taken")));
        }
        labels.insert(name, value);
    }
    Ok(labels)
}

/// Reads the fields of a call. The pictures it works from are added later.
pub(super) fn read(kind: Kind, body: Map<String, Value>) -> Result<Generation, Error> {
    let mut fields = Fields(body);
    // Pictures of the paths that take them were taken out before.
    for (name, advice) in NOT_HERE {
        if fields.take(name).is_some_and(|value| value != Value::Bool(false)) {
            return Err(Error::new(
                Code::UnsupportedParameter,
                format!("{name} is not taken here; {advice}"),
            )
            .param(name));
        }
    }
    let stream = fields.flag("stream")?;
    let partial_images = fields.number("partial_images", 0, 3)?;
    if partial_images.is_some_and(|n| n > 0) && !stream {
        return Err(Error::invalid("partial_images", "partial_images needs stream: true"));
    }
    let task = task(kind, &mut fields)?;
    let models = models(&mut fields)?;
    let prompt = fields.text("prompt")?.filter(|p| !p.trim().is_empty());
    if prompt.is_none() && matches!(task, Task::ImageGenerate | Task::ImageEdit) {
        return Err(Error::invalid("prompt", "prompt is missing or empty"));
    }
    let scale = fields.number("scale_factor", 1, 16)?.map(|factor| factor as u32);
    if scale.is_some() && task != Task::ImageUpscale {
        let message = "scale_factor needs mode: \"upscale\" at /v1/images/edits";
        return Err(Error::invalid("scale_factor", message));
    }
    let n = fields.number("n", 1, MOST_PICTURES)?.unwrap_or(1);
    let size_text = fields.text("size")?;
    let aspect_ratio = fields.text("aspect_ratio")?;
    let resolution = fields.text("resolution")?;
    let fit = fields.text("fit")?;
    let pad_color = fields.text("pad_color")?;
    let size = plan::parse_ask(
        size_text.as_deref(),
        aspect_ratio.as_deref(),
        resolution.as_deref(),
        fit.as_deref(),
        pad_color.as_deref(),
    )
    .map_err(|e| {
        let code = if e.param == "size" { Code::InvalidSize } else { Code::InvalidRequest };
        Error::new(code, e.message).param(e.param)
    })?;
    let said: Vec<String> = [size_text, aspect_ratio, resolution].into_iter().flatten().collect();
    let (format, background) = look(&mut fields)?;
    let webp_lossless = fields.flag("webp_lossless")?;
    if webp_lossless && format != Some(Format::Webp) {
        let message = "webp_lossless needs output_format webp";
        return Err(Error::invalid("webp_lossless", message));
    }
    let heartbeat = fields.flag("heartbeat")?;
    let wants_url =
        fields.choice("response_format", &["url", "b64_json"])?.as_deref() == Some("url");
    if stream && wants_url {
        let message = "a stream carries base64; leave response_format or stream out";
        return Err(Error::invalid("response_format", message));
    }
    let request = ImageRequest {
        task,
        models,
        prompt: prompt.unwrap_or_default(),
        partial_images: partial_images.map(|drafts| drafts as u32),
        given: Vec::new(),
        mask: None,
        mask_marks: mask_marks(&mut fields)?,
        scale,
        fidelity: fields.choice("input_fidelity", &["low", "high"])?,
        n: n as u32,
        size,
        size_text: (!said.is_empty()).then(|| said.join(" ")),
        quality: fields.text("quality")?,
        background,
        format,
        compression: fields.number("output_compression", 0, 100)?.map(|n| n as u8),
        webp_lossless,
        wants_url,
        moderation: fields.choice("moderation", &["auto", "low"])?,
        style: fields.text("style")?,
        user: user(&mut fields)?,
        labels: labels(&mut fields)?,
        seed: fields.number("seed", 0, u64::from(u32::MAX))?,
        negative_prompt: fields.text("negative_prompt")?.filter(|p| !p.is_empty()),
        strict: fields.flag("strict")?,
        verbose: fields.flag("verbose")?,
        require_all: fields.flag("require_all")?,
        providers: provider_choice(&mut fields)?,
        provider_options: provider_options(&mut fields)?,
        extra: fields.0,
    };
    Ok(Generation { request, heartbeat, stream })
}

/// What is to be done: that of the path, or at the path of edits the `mode`.
fn task(kind: Kind, fields: &mut Fields) -> Result<Task, Error> {
    if kind != Kind::Edit && fields.take("mode").is_some() {
        let message = "mode is for /v1/images/edits";
        return Err(Error::new(Code::UnsupportedParameter, message).param("mode"));
    }
    match kind {
        Kind::Generation => Ok(Task::ImageGenerate),
        Kind::Variation => Ok(Task::ImageVariation),
        Kind::Edit => {
            let mode = fields.choice("mode", &["edit", "upscale", "remove_background"])?;
            Ok(match mode.as_deref() {
                Some("upscale") => Task::ImageUpscale,
                Some("remove_background") => Task::ImageRemoveBackground,
                _ => Task::ImageEdit,
            })
        }
    }
}

/// How the mask marks what is edited.
fn mask_marks(fields: &mut Fields) -> Result<MaskMarks, Error> {
    let marks = fields.choice("mask_marks", &["transparent", "white", "black"])?;
    Ok(match marks.as_deref() {
        Some("white") => MaskMarks::White,
        Some("black") => MaskMarks::Black,
        _ => MaskMarks::Transparent,
    })
}

fn models(fields: &mut Fields) -> Result<Vec<String>, Error> {
    let mut models: Vec<String> = fields.text("model")?.into_iter().collect();
    models.extend(fields.texts("models")?);
    if models.is_empty() || models.iter().any(String::is_empty) {
        let message = "model is missing; GET /v1/models lists what there is";
        return Err(Error::invalid("model", message));
    }
    Ok(models)
}

/// Format and background, which depend on each other.
fn look(fields: &mut Fields) -> Result<(Option<Format>, Option<String>), Error> {
    let background = fields.choice("background", &["auto", "opaque", "transparent"])?;
    let Some(name) = fields.text("output_format")? else { return Ok((None, background)) };
    let format = name.parse::<Format>().map_err(|()| {
        let names: Vec<&str> = Format::ALL.iter().map(|f| f.name()).collect();
        let message = format!("output_format {name:?} is not one of {}", names.join(", "));
        Error::invalid("output_format", message)
    })?;
    if background.as_deref() == Some("transparent") && !format.has_alpha() {
        let message = format!("{format} cannot be transparent; use png, webp or avif");
        return Err(Error::invalid("background", message));
    }
    Ok((Some(format), background))
}

fn provider_choice(fields: &mut Fields) -> Result<ProviderChoice, Error> {
    let mut object = Fields(fields.object("provider")?);
    let choice = ProviderChoice {
        order: object.texts("order")?,
        only: object.texts("only")?,
        ignore: object.texts("ignore")?,
        no_fallbacks: match object.take("allow_fallbacks") {
            None => false,
            Some(Value::Bool(allow)) => !allow,
            Some(_) => {
                let message = "allow_fallbacks is not true or false";
                return Err(Error::invalid("provider.allow_fallbacks", message));
            }
        },
    };
    match object.0.keys().next() {
        None => Ok(choice),
        Some(other) => Err(Error::new(
            Code::UnsupportedParameter,
            format!("provider.{other} is not known; use order, only, ignore or allow_fallbacks"),
        )
        .param(format!("provider.{other}"))),
    }
}

fn provider_options(fields: &mut Fields) -> Result<BTreeMap<String, Map<String, Value>>, Error> {
    let options = fields.object("provider_options")?;
    options
        .into_iter()
        .map(|(provider, value)| {
            if let Value::Object(map) = value {
                return Ok((provider, map));
            }
            let param = format!("provider_options.{provider}");
            let message = format!("{param} is not an object");
            Err(Error::invalid(param, message))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(body: Value) -> Result<ImageRequest, Error> {
        match body {
            Value::Object(map) => read(Kind::Generation, map).map(|g| g.request),
            _ => unreachable!("test bodies are objects"),
        }
    }

    #[test]
    fn mistakes_name_their_field() {
        for (change, param) in [
            (json!({"model": null}), "model"),
            (json!({"model": 7}), "model"),
            (json!({"prompt": null}), "prompt"),
            (json!({"prompt": "  "}), "prompt"),
            (json!({"n": 0}), "n"),
            (json!({"n": 11}), "n"),
            (json!({"n": "two"}), "n"),
            (json!({"n": 1.5}), "n"),
            (json!({"size": "10x"}), "size"),
            (json!({"size": "0x0"}), "size"),
            (json!({"size": "99999x99999"}), "size"),
            (json!({"size": "1024x1024", "aspect_ratio": "16:9"}), "aspect_ratio"),
            (json!({"response_format": "file"}), "response_format"),
            (json!({"output_compression": 101}), "output_compression"),
            (json!({"output_format": "bmp"}), "output_format"),
            (json!({"output_format": "jpeg", "background": "transparent"}), "background"),
            (json!({"output_format": "png", "webp_lossless": true}), "webp_lossless"),
            (json!({"seed": -1}), "seed"),
            (json!({"strict": "yes"}), "strict"),
            (json!({"models": "flux"}), "models"),
            (json!({"provider": {"sort": "price"}}), "provider.sort"),
            (json!({"provider_options": {"fal": 1}}), "provider_options.fal"),
            (json!({"stream": 1}), "stream"),
            (json!({"stream": true, "response_format": "url"}), "response_format"),
            (json!({"partial_images": 2}), "partial_images"),
            (json!({"partial_images": 4, "stream": true}), "partial_images"),
            (json!({"scale_factor": 2}), "scale_factor"),
            (json!({"input_fidelity": "medium"}), "input_fidelity"),
            (json!({"mask": "data:"}), "mask"),
        ] {
            let mut body = json!({"model": "m", "prompt": "p"});
            for (name, value) in change.as_object().unwrap() {
                body[name] = value.clone();
            }
            let error = parse(body).expect_err(&change.to_string());
            assert_eq!(error.param.as_deref(), Some(param), "{change}: {}", error.message);
            assert_eq!(error.code.status(), 400);
        }
    }

    #[test]
    fn what_is_not_known_is_left_over() {
        let request =
            parse(json!({"model": "m", "prompt": "p", "n": null, "guidance_scale": 3.5})).unwrap();
        assert_eq!(request.n, 1);
        assert_eq!(request.extra.len(), 1);
        assert_eq!(request.extra["guidance_scale"], 3.5);
        let upper = parse(json!({"model": "m", "prompt": "p", "size": "1024X1024"}));
        assert!(upper.is_ok());
    }
}
