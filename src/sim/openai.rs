//! OpenAI: `POST /openai/v1/images/generations` and `/edits`, the latter with JSON or a form;
//! synchronous, base64 in the reply. No model that is left makes variations.

use axum::response::{IntoResponse as _, Response};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, header};
use serde_json::{Map, Value, json};

use super::{
    data::{Family, Order, VendorData, at},
    encode::Recipe,
    exchange::{Exchange, Problem, check_key, json as reply, with},
    form::{self, Part},
    given,
    picture::openai_wording,
    schema::{self, Violation, Wrong, type_name},
    studio::{self, Wish},
    vendor::Vendor,
};

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    let route = x.segments();
    let ["v1", "images", operation @ ("generations" | "edits" | "variations")] = route.as_slice()
    else {
        return Err(Problem::NoRoute(x.joined()));
    };
    if x.method != Method::POST {
        return Err(Problem::Method(x.joined()));
    }
    check_key(x.authorization("bearer"))?;
    let (object, parts) = body(x, operation)?;
    let model = object.get("model").and_then(Value::as_str).unwrap_or("dall-e-2").to_owned();
    let data = VendorData::of(x.vendor);
    if data.retired.contains(&model) {
        return Err(Problem::Retired(model));
    }
    let family = match *operation {
        "generations" => data.model(&model),
        "edits" => data.worker(&model),
        _ => {
            let words = format!("Invalid value: '{model}'. Value must be 'dall-e-2'.");
            let violation = Violation::rule("model", &model.into(), words);
            return Err(Problem::Fields(vec![violation]));
        }
    };
    let family = family.ok_or_else(|| Problem::NoModel(model.clone()))?;
    let answer = generate(x, &model, family, &object, &parts).await?;
    let answer = with(answer, "openai-version", "2020-10-01");
    Ok(with(answer, "openai-processing-ms", "1500"))
}

/// The body of a request: an object, or the parts of a form and an object of those that name
/// the model.
pub(crate) fn body<'a>(
    x: &'a Exchange,
    operation: &str,
) -> Result<(Map<String, Value>, Vec<Part<'a>>), Problem> {
    if operation == "generations" || x.media_type() != "multipart/form-data" {
        return Ok((x.json()?, Vec::new()));
    }
    let parts = form::parse(x.header("content-type"), &x.body)
        .map_err(|words| Problem::Rule(format!("Could not parse multipart form: {words}.")))?;
    let model = parts.iter().find(|part| part.name == "model" && part.file.is_none());
    let text = model.map(|part| String::from_utf8_lossy(part.content).into_owned());
    let object = text.into_iter().map(|text| ("model".to_owned(), text.into())).collect();
    Ok((object, parts))
}

/// What a form asks for.
fn form_order(
    family: &Family,
    parts: &[Part<'_>],
) -> Result<(Map<String, Value>, Order), Vec<Violation>> {
    let (texts, raws) = given::sort(family.pictures.as_ref(), parts)?;
    let violation = |field: &str, wrong| {
        vec![Violation { path: vec![field.to_owned()], wrong, given: Value::Null }]
    };
    // The form has one field less than the object.
    if texts.iter().any(|(name, _)| name == "moderation") {
        return Err(violation("moderation", Wrong::Unknown));
    }
    if raws.iter().all(|raw| raw.mask) {
        return Err(violation("image", Wrong::Missing));
    }
    let object = schema::typed(&family.fields, texts);
    let order = family.order_with(&object, raws)?;
    Ok((object, order))
}

/// Checks a request, draws, and answers as OpenAI does; Azure answers the same.
pub(crate) async fn generate(
    x: &Exchange,
    model: &str,
    family: &Family,
    object: &Map<String, Value>,
    parts: &[Part<'_>],
) -> Result<Response, Problem> {
    let (object, order) = if parts.is_empty() {
        (object.clone(), family.order(object).map_err(Problem::Fields)?)
    } else {
        form_order(family, parts).map_err(Problem::Fields)?
    };
    let object = &object;
    let text = |field: &str| at(object, field).and_then(Value::as_str);
    combinations(object, &order).map_err(|violation| Problem::Fields(vec![*violation]))?;
    if x.moderated().is_some() {
        return Err(Problem::Moderated);
    }
    let prompt = text("prompt").unwrap_or_default();
    let wish = Wish {
        prompt,
        transparent: text("background") == Some("transparent"),
        quality: at(object, "output_compression").and_then(Value::as_u64).map(|q| q as u8),
        ..Wish::default()
    };
    let quality = match text("quality") {
        None | Some("auto") => family.word("auto_quality"),
        Some(level) => level,
    };
    let recipes = studio::recipes(x, model, &order, &wish);
    let (job, pictures) = studio::work(x, model, recipes.clone()).await?;
    let background = if wish.transparent { "transparent" } else { "opaque" };
    let mut body = Map::new();
    body.insert("created".to_owned(), (x.sim.jobs.clock(job.created) as u64).into());
    body.insert("background".to_owned(), background.into());
    body.insert("data".to_owned(), Value::Null);
    body.insert("output_format".to_owned(), order.format.name().into());
    body.insert("quality".to_owned(), quality.into());
    body.insert("size".to_owned(), order.size.to_string().into());
    body.insert("usage".to_owned(), usage(family, &order, quality, prompt));
    let answer = if at(object, "stream") == Some(&Value::Bool(true)) {
        let partials = at(object, "partial_images").and_then(Value::as_u64).unwrap_or(0);
        events(x, &recipes, &pictures, body, partials).await?
    } else {
        let images: Vec<Value> = pictures.iter().map(|bytes| item(x.vendor, bytes)).collect();
        body.insert("data".to_owned(), images.into());
        reply(200, &Value::Object(body))
    };
    Ok(with(answer, "x-request-id", format!("req_{}", job.id.replace('-', ""))))
}

/// One picture of a reply; Azure tells what its filters found.
fn item(vendor: Vendor, bytes: &Bytes) -> Value {
    let mut item = json!({"b64_json": STANDARD.encode(bytes)});
    if vendor == Vendor::Azure {
        let safe = json!({"filtered": false, "severity": "safe"});
        let kinds =
            || ["hate", "self_harm", "sexual", "violence"].map(|k| (k.to_owned(), safe.clone()));
        let content: Map<String, Value> = kinds().into_iter().collect();
        let mut prompt = content.clone();
        prompt.insert("jailbreak".to_owned(), json!({"detected": false, "filtered": false}));
        item["content_filter_results"] = content.into();
        item["prompt_filter_results"] = prompt.into();
    }
    item
}

/// Rules that concern two fields at once.
fn combinations(object: &Map<String, Value>, order: &Order) -> Result<(), Box<Violation>> {
    let background = at(object, "background");
    if background.and_then(Value::as_str) == Some("transparent") && !order.format.has_alpha() {
        let words = format!(
            "Transparent background is not supported for output format '{}'.",
            order.format
        );
        return Err(Box::new(Violation::rule("background", &json!("transparent"), words)));
    }
    if let Some(level) = at(object, "output_compression")
        && level.as_u64() != Some(100)
        && !order.format.is_lossy()
    {
        let words = "Compression less than 100 is not supported for PNG output format.";
        return Err(Box::new(Violation::rule("output_compression", level, words)));
    }
    Ok(())
}

/// Tokens of a call: what the level costs for a megapixel, by the picture's area.
fn usage(family: &Family, order: &Order, quality: &str, prompt: &str) -> Value {
    let per_megapixel = family.number(quality).unwrap_or(1000.0);
    let megapixels = order.size.pixels() as f64 / f64::from(1 << 20);
    let output = (per_megapixel * megapixels).ceil() as u64 * u64::from(order.count);
    let text = prompt.chars().count().div_ceil(4) as u64 + 6;
    let seen = order.work.as_ref().map_or(0, |work| work.pixels.div_ceil(1024));
    let input = text + seen;
    json!({
        "input_tokens": input,
        "input_tokens_details": {"image_tokens": seen, "text_tokens": text},
        "output_tokens": output,
        "output_tokens_details": {"image_tokens": output, "text_tokens": 0},
        "total_tokens": input + output,
    })
}

/// The stream of events: partial pictures, then each finished one.
async fn events(
    x: &Exchange,
    recipes: &[Recipe],
    pictures: &[Bytes],
    mut body: Map<String, Value>,
    partials: u64,
) -> Result<Response, Problem> {
    let usage = body.remove("usage").unwrap_or_default();
    body.remove("data");
    let created = body.remove("created").unwrap_or_default();
    body.insert("created_at".to_owned(), created);
    let edit = recipes.first().is_some_and(|recipe| recipe.scene.work.is_some());
    let kind = if edit { "image_edit" } else { "image_generation" };
    let mut text = String::new();
    let mut event = |name: &str, picture: &Bytes, more: &[(&str, Value)]| {
        let mut data = Map::new();
        data.insert("type".to_owned(), name.into());
        data.insert("b64_json".to_owned(), STANDARD.encode(picture).into());
        data.extend(body.clone());
        data.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        text += "event: ";
        text += name;
        text += "\ndata: ";
        text += &Value::Object(data).to_string();
        text += "\n\n";
    };
    for (recipe, picture) in recipes.iter().zip(pictures) {
        for index in 0..partials {
            let mut rough = recipe.clone();
            rough.scene.veil = super::draw::Veil::Blurred;
            let rough = x.sim.gallery.picture(&rough).await.map_err(|_| Problem::Internal)?;
            let more = [("partial_image_index", index.into())];
            event(&format!("{kind}.partial_image"), &rough, &more);
        }
        event(&format!("{kind}.completed"), picture, &[("usage", usage.clone())]);
    }
    Ok(([(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")], text).into_response())
}

fn error(
    status: u16,
    kind: &str,
    code: Option<&str>,
    param: Option<&str>,
    message: &str,
) -> Response {
    let error = json!({"message": message, "type": kind, "param": param, "code": code});
    reply(status, &json!({"error": error}))
}

/// A field's fault in OpenAI's words, with its code.
pub(crate) fn wording(violation: &Violation) -> (String, &'static str) {
    let path = dotted(violation);
    let given = &violation.given;
    match &violation.wrong {
        Wrong::Unknown => (format!("Unknown parameter: '{path}'."), "unknown_parameter"),
        Wrong::Missing => {
            (format!("Missing required parameter: '{path}'."), "missing_required_parameter")
        }
        Wrong::Type(kind) => {
            let (wanted, got) = (article(kind.name()), article(type_name(given)));
            let message =
                format!("Invalid type for '{path}': expected {wanted}, but got {got} instead.");
            (message, "invalid_type")
        }
        Wrong::Value(values) => {
            let quoted: Vec<String> = values.iter().map(|value| format!("'{value}'")).collect();
            let list = match quoted.split_last() {
                Some((last, rest)) if !rest.is_empty() => {
                    format!("{}, and {last}", rest.join(", "))
                }
                _ => quoted.concat(),
            };
            let given = given.as_str().unwrap_or_default();
            (format!("Invalid value: '{given}'. Supported values are: {list}."), "invalid_value")
        }
        Wrong::Below(least) => (
            format!(
                "Invalid '{path}': integer below minimum value. Expected a value >= {least}, but got {given} instead."
            ),
            "integer_below_min_value",
        ),
        Wrong::Above(most) => (
            format!(
                "Invalid '{path}': integer above maximum value. Expected a value <= {most}, but got {given} instead."
            ),
            "integer_above_max_value",
        ),
        Wrong::Short(least) => (
            format!(
                "Invalid '{path}': string too short. Expected a string with minimum length {least}."
            ),
            "string_below_min_length",
        ),
        Wrong::Long(most) => (
            format!(
                "Invalid '{path}': string too long. Expected a string with maximum length {most}, but got a string with length {} instead.",
                given.as_str().map_or(0, |s| s.chars().count())
            ),
            "string_above_max_length",
        ),
        Wrong::Picture(flaw) => openai_wording(flaw, violation),
        Wrong::Rule(words) if path == "size" => (
            format!("Invalid size '{}': {words}.", given.as_str().unwrap_or_default()),
            "invalid_value",
        ),
        Wrong::Rule(words) => (words.clone(), "invalid_value"),
    }
}

fn article(noun: &str) -> String {
    let vowel = noun.starts_with(['a', 'i', 'o']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}

/// `images[0].image_url` for the path images, 0, `image_url`.
fn dotted(violation: &Violation) -> String {
    let mut out = String::new();
    for part in &violation.path {
        if part.bytes().all(|b| b.is_ascii_digit()) {
            out.extend(["[", part, "]"]);
        } else {
            out += if out.is_empty() { "" } else { "." };
            out += part;
        }
    }
    out
}

/// A refusal in OpenAI's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let invalid = "invalid_request_error";
    let response = match problem {
        Problem::NoKey | Problem::WrongKeyForm => error(
            401,
            invalid,
            None,
            None,
            "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
        ),
        Problem::BadKey => error(
            401,
            invalid,
            Some("invalid_api_key"),
            None,
            "Incorrect API key provided: bad-key. You can find your API key at https://platform.openai.com/account/api-keys.",
        ),
        Problem::NoCredit => error(
            429,
            "insufficient_quota",
            Some("insufficient_quota"),
            None,
            "You exceeded your current quota, please check your plan and billing details.",
        ),
        Problem::RateLimited(wait) => {
            let message = format!(
                "Rate limit reached for images per minute in organization org-sim: Limit 5, Used 5, Requested 1. Please try again in {wait}s."
            );
            let response =
                error(429, "rate_limit_exceeded", Some("rate_limit_exceeded"), None, &message);
            let response = with(response, "retry-after", wait);
            let response = with(response, "x-ratelimit-limit-requests", 5);
            let response = with(response, "x-ratelimit-remaining-requests", 0);
            with(response, "x-ratelimit-reset-requests", format!("{wait}s"))
        }
        Problem::Internal => error(
            500,
            "server_error",
            Some("server_error"),
            None,
            "The server had an error while processing your request. Sorry about that!",
        ),
        Problem::Unavailable => error(
            503,
            "server_error",
            Some("service_unavailable"),
            None,
            "The engine is currently overloaded, please try again later",
        ),
        Problem::Moderated => error(
            400,
            "image_generation_user_error",
            Some("moderation_blocked"),
            None,
            "Your request was rejected by the safety system. If you believe this is an error, contact us at help.openai.com and include the request ID req_simulated. safety_violations=[violence].",
        ),
        Problem::MediaType(given) => error(
            400,
            invalid,
            Some("unsupported_content_type"),
            None,
            &format!(
                "Unsupported content type: '{given}'. This API method only accepts 'application/json' requests, but you specified the header 'Content-Type: {given}'. Please try again with a supported content type."
            ),
        ),
        Problem::Malformed => error(
            400,
            invalid,
            None,
            None,
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)",
        ),
        Problem::NoRoute(path) | Problem::NoJob(path) => {
            error(404, invalid, Some("unknown_url"), None, &format!("Invalid URL (POST {path})"))
        }
        Problem::Method(path) => error(
            405,
            invalid,
            Some("method_not_supported"),
            None,
            &format!(
                "Not allowed to use this method on {path}. (HINT: Perhaps you meant to use a different HTTP method?)"
            ),
        ),
        Problem::NoModel(model) => error(
            404,
            invalid,
            Some("model_not_found"),
            None,
            &format!("The model '{model}' does not exist or you do not have access to it."),
        ),
        Problem::Retired(model) => error(
            404,
            invalid,
            Some("model_not_found"),
            None,
            &format!(
                "The model '{model}' has been deprecated, learn more here: https://platform.openai.com/docs/deprecations"
            ),
        ),
        Problem::Fields(violations) => {
            let Some(first) = violations.first() else { return refuse(&Problem::Internal) };
            let (message, code) = wording(first);
            error(400, invalid, Some(code), Some(&dotted(first)), &message)
        }
        Problem::Rule(words) => error(400, invalid, None, None, words),
    };
    with(response, "x-request-id", format!("req_{}", uuid::Uuid::new_v4().simple()))
}

#[cfg(test)]
mod tests {
    use super::{super::schema::Kind, *};

    #[test]
    fn faults_of_fields_are_worded_as_openai_words_them() {
        let check = |wrong: Wrong, given: Value, message: &str, code: &str| {
            let violation = Violation { path: vec!["n".to_owned()], wrong, given };
            assert_eq!(wording(&violation), (message.to_owned(), wording(&violation).1));
            assert_eq!(wording(&violation).1, code);
        };
        check(Wrong::Unknown, json!(1), "Unknown parameter: 'n'.", "unknown_parameter");
        check(
            Wrong::Type(Kind::Integer),
            json!("two"),
            "Invalid type for 'n': expected an integer, but got a string instead.",
            "invalid_type",
        );
        check(
            Wrong::Value(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]),
            json!("d"),
            "Invalid value: 'd'. Supported values are: 'a', 'b', and 'c'.",
            "invalid_value",
        );
        check(
            Wrong::Above(10.0),
            json!(11),
            "Invalid 'n': integer above maximum value. Expected a value <= 10, but got 11 instead.",
            "integer_above_max_value",
        );
    }
}
