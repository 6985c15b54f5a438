//! Gemini API: `POST /gemini/v1beta/models/{model}:generateContent`, pictures inline. What the
//! safety system blocks comes as 200 without a picture.

use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use serde_json::{Map, Value, json};

use super::{
    data::{Family, VendorData, at},
    draw::Veil,
    encode::Recipe,
    exchange::{Exchange, Problem, check_key, json as reply},
    given::Takes,
    picture::{Flaw, Raw},
    schema::{Violation, Wrong},
    studio::{self, Wish},
};

/// What a model says beside the picture, and the tokens of it.
const SPOKEN: &str = "Here is your picture:";
const SPOKEN_TOKENS: u64 = 6;

/// Longest request.
const INLINE_MAX: usize = 20 << 20;
/// Tokens of the pictures worked from.
const SEEN_TOKENS: u64 = 258;

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    let route = x.segments();
    let ["v1beta", "models", call] = route.as_slice() else {
        return Err(Problem::NoRoute(x.joined()));
    };
    let Some((model, "generateContent")) = call.split_once(':') else {
        return Err(Problem::NoRoute(x.joined()));
    };
    if x.method != Method::POST {
        return Err(Problem::Method(x.joined()));
    }
    // A key in the place of a token is read as a token.
    if x.headers.contains_key("authorization") {
        return Err(Problem::WrongKeyForm);
    }
    let header = Some(x.header("x-goog-api-key")).filter(|key| !key.is_empty());
    check_key(header.or_else(|| x.query.get("key").map(String::as_str)))?;
    let data = VendorData::of(x.vendor);
    if data.retired.iter().any(|id| id == model) {
        return Err(Problem::Retired(model.to_owned()));
    }
    let family = data.model(model).ok_or_else(|| Problem::NoModel(model.to_owned()))?;
    // A request with its pictures inline is at most so long.
    if x.body.len() > INLINE_MAX {
        let words = format!("Request payload size exceeds the limit: {INLINE_MAX} bytes.");
        return Err(Problem::Rule(words));
    }
    let object = camel(x.json()?);
    let order = family.order_with(&object, pictures(&object)).map_err(Problem::Fields)?;
    let prompt = texts(&object);
    if prompt.trim().is_empty() {
        return Err(Problem::Rule(
            "Unable to submit request because it must have a text parameter.".to_owned(),
        ));
    }
    if let Some(how) = x.moderated() {
        return Ok(reply(200, &blocked(model, how)));
    }
    let wish = Wish {
        prompt: &prompt,
        seed: at(&object, "generationConfig.seed").and_then(Value::as_u64),
        ..Wish::default()
    };
    let recipes = studio::recipes(x, model, &order, &wish);
    let (job, pictures) = studio::work(x, model, recipes.clone()).await?;
    let mut parts = Vec::new();
    if wants_text(&object) {
        parts.push(json!({"text": SPOKEN}));
    }
    if let (Some(_), Some(recipe)) = (family.number("thoughts"), recipes.first()) {
        parts.push(draft(recipe)?);
    }
    for (recipe, picture) in recipes.iter().zip(&pictures) {
        parts.push(inline(recipe, picture));
    }
    let spoken = if wants_text(&object) { SPOKEN_TOKENS } else { 0 };
    let drawn = tokens(family, &object);
    let tokens = drawn + spoken;
    let mut details = vec![json!({"modality": "IMAGE", "tokenCount": drawn})];
    if spoken > 0 {
        details.push(json!({"modality": "TEXT", "tokenCount": spoken}));
    }
    let text = prompt.chars().count().div_ceil(4) as u64;
    let seen = if order.work.is_some() { SEEN_TOKENS } else { 0 };
    let input = text + seen;
    let mut prompt_details = vec![json!({"modality": "TEXT", "tokenCount": text})];
    if seen > 0 {
        prompt_details.push(json!({"modality": "IMAGE", "tokenCount": seen}));
    }
    let mut body = json!({
        "candidates": [{
            "content": {"role": "model", "parts": parts},
            "finishReason": "STOP",
            "index": 0,
        }],
        "usageMetadata": {
            "promptTokenCount": input,
            "candidatesTokenCount": tokens,
            "totalTokenCount": input + tokens,
            "promptTokensDetails": prompt_details,
            "candidatesTokensDetails": details,
        },
        "modelVersion": model,
        "responseId": job.id,
    });
    if let Some(thoughts) = family.number("thoughts") {
        let thoughts = thoughts as u64;
        body["usageMetadata"]["thoughtsTokenCount"] = thoughts.into();
        body["usageMetadata"]["totalTokenCount"] = (input + tokens + thoughts).into();
    }
    Ok(reply(200, &body))
}

fn inline(recipe: &Recipe, picture: &[u8]) -> Value {
    json!({"inlineData": {"mimeType": recipe.mime(), "data": STANDARD.encode(picture)}})
}

/// A picture of the model's thoughts, which is not the answer.
fn draft(recipe: &Recipe) -> Result<Value, Problem> {
    let mut rough = recipe.clone();
    rough.scene.veil = Veil::Blurred;
    rough.scene.size = providers::media::Size::new(64, 64);
    let picture = rough.make().map_err(|_| Problem::Internal)?;
    let mut part = inline(&rough, &picture);
    part["thought"] = true.into();
    Ok(part)
}

/// All texts of the conversation's last turn.
fn texts(object: &Map<String, Value>) -> String {
    let last = at(object, "contents").and_then(|turns| turns.as_array()?.last());
    let parts = last.and_then(|turn| turn.get("parts")?.as_array());
    let texts = parts.into_iter().flatten().filter_map(|part| part.get("text")?.as_str());
    texts.collect::<Vec<_>>().join(" ")
}

/// The pictures of the conversation.
pub(crate) fn pictures(object: &Map<String, Value>) -> Vec<Raw> {
    let turns = at(object, "contents").and_then(Value::as_array).into_iter().flatten().enumerate();
    let parts = turns.flat_map(|(turn, content)| {
        let parts = content.get("parts").and_then(Value::as_array).into_iter().flatten();
        parts.enumerate().map(move |(index, part)| (turn, index, part))
    });
    parts
        .filter_map(|(turn, index, part)| {
            let data = part.get("inlineData")?;
            let words = ["contents", &turn.to_string(), "parts", &index.to_string(), "inlineData"];
            let path = words.map(str::to_owned).to_vec();
            let text = |field: &str| data.get(field).and_then(Value::as_str);
            Some(Takes::part(path, text("data")?, text("mimeType")?))
        })
        .collect()
}

/// Without a word about it a model may also speak.
fn wants_text(object: &Map<String, Value>) -> bool {
    let modalities = at(object, "generationConfig.responseModalities").and_then(Value::as_array);
    modalities.is_none_or(|list| list.iter().any(|word| word == "TEXT"))
}

fn tokens(family: &Family, object: &Map<String, Value>) -> u64 {
    let tier = at(object, "generationConfig.imageConfig.imageSize").and_then(Value::as_str);
    family.number(tier.unwrap_or("1K")).unwrap_or_default() as u64
}

/// The picture is not there, and the status is 200.
fn blocked(model: &str, how: &str) -> Value {
    let mut body = match how {
        // The picture was made and then withheld.
        "output" => json!({"candidates": [{"finishReason": "IMAGE_SAFETY", "index": 0}]}),
        // The model answers with words.
        "text" => json!({"candidates": [{
            "content": {"role": "model", "parts": [{"text": "I can't create that picture."}]},
            "finishReason": "STOP",
            "index": 0,
        }]}),
        _ => json!({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}),
    };
    body["usageMetadata"] = json!({"promptTokenCount": 8, "totalTokenCount": 8});
    body["modelVersion"] = model.into();
    body
}

/// Protocol buffers take both spellings of a name; inside there is one.
pub(crate) fn camel(object: Map<String, Value>) -> Map<String, Value> {
    object.into_iter().map(|(name, value)| (camel_name(&name), camel_value(value))).collect()
}

fn camel_value(value: Value) -> Value {
    match value {
        Value::Object(object) => camel(object).into(),
        Value::Array(items) => items.into_iter().map(camel_value).collect(),
        other => other,
    }
}

fn camel_name(name: &str) -> String {
    let mut words = name.split('_');
    let mut out = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        out.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        out.extend(letters);
    }
    out
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// `generation_config.image_config` and `contents[0].parts[1]`.
fn place_of(path: &[String]) -> String {
    let mut out = String::new();
    for part in path {
        if part.bytes().all(|b| b.is_ascii_digit()) {
            out.extend(["[", part, "]"]);
        } else {
            out += if out.is_empty() { "" } else { "." };
            out += &snake(part);
        }
    }
    out
}

fn wording(violation: &Violation) -> (String, String) {
    let (name, parent) = match violation.path.split_last() {
        Some((name, parent)) => (name.as_str(), place_of(parent)),
        None => ("", String::new()),
    };
    let place = place_of(&violation.path);
    match &violation.wrong {
        Wrong::Unknown => {
            let at = if parent.is_empty() { String::new() } else { format!(" at '{parent}'") };
            (
                parent,
                format!(
                    "Invalid JSON payload received. Unknown name \"{name}\"{at}: Cannot find field."
                ),
            )
        }
        Wrong::Type(_) | Wrong::Value(_) => {
            let message = format!("Invalid value at '{place}', {}", violation.given);
            (place, message)
        }
        Wrong::Picture(Flaw::Unreadable | Flaw::Spelling) => {
            (place, "Unable to process input image. Please retry or report in https://developers.generativeai.google/guide/troubleshooting".to_owned())
        }
        Wrong::Picture(Flaw::Format(kind)) => (place, format!("Unsupported MIME type: {kind}")),
        _ => {
            let message = format!("* GenerateContentRequest.{place}: {}", violation.words());
            (place, message)
        }
    }
}

/// A refusal in Google's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let error = |code: u16, status: &str, message: &str, details: Value| {
        let mut error = json!({"code": code, "message": message, "status": status});
        if !details.is_null() {
            error["details"] = details;
        }
        reply(code, &json!({"error": error}))
    };
    let info = |reason: &str| {
        json!([{
            "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason,
            "domain": "googleapis.com",
            "metadata": {"service": "generativelanguage.googleapis.com"},
        }])
    };
    let null = Value::Null;
    match problem {
        Problem::NoKey => error(
            403,
            "PERMISSION_DENIED",
            "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other form of API consumer identity to call this API.",
            null,
        ),
        Problem::WrongKeyForm => error(
            401,
            "UNAUTHENTICATED",
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
            info("ACCESS_TOKEN_TYPE_UNSUPPORTED"),
        ),
        Problem::BadKey => error(
            400,
            "INVALID_ARGUMENT",
            "API key not valid. Please pass a valid API key.",
            info("API_KEY_INVALID"),
        ),
        Problem::NoCredit => error(
            429,
            "RESOURCE_EXHAUSTED",
            "Your prepayment credits are depleted. Please go to AI Studio at https://ai.studio/projects to manage your project and billing.",
            null,
        ),
        Problem::RateLimited(wait) => error(
            429,
            "RESOURCE_EXHAUSTED",
            &format!(
                "You exceeded your current quota, please check your plan and billing details. Please retry in {wait}s."
            ),
            json!([
                {
                    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                    "violations": [{"quotaMetric": "generativelanguage.googleapis.com/generate_requests", "quotaId": "GenerateRequestsPerMinutePerProjectPerModel"}],
                },
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{wait}s")},
            ]),
        ),
        Problem::Internal => error(
            500,
            "INTERNAL",
            "An internal error has occurred. Please retry or report in https://developers.generativeai.google/guide/troubleshooting",
            null,
        ),
        Problem::Unavailable => {
            error(503, "UNAVAILABLE", "The model is overloaded. Please try again later.", null)
        }
        Problem::Moderated => {
            error(400, "INVALID_ARGUMENT", "The prompt could not be submitted.", null)
        }
        Problem::NoModel(model) | Problem::Retired(model) | Problem::NoJob(model) => error(
            404,
            "NOT_FOUND",
            &format!(
                "models/{model} is not found for API version v1beta, or is not supported for generateContent. Call ListModels to see the list of available models and their supported methods."
            ),
            null,
        ),
        Problem::NoRoute(path) => error(
            404,
            "NOT_FOUND",
            &format!("The requested URL {path} was not found on this server."),
            null,
        ),
        Problem::Method(path) => {
            error(405, "UNIMPLEMENTED", &format!("The method is not allowed for {path}."), null)
        }
        Problem::MediaType(_) | Problem::Malformed => {
            error(400, "INVALID_ARGUMENT", "Invalid JSON payload received. Unexpected token.", null)
        }
        Problem::Rule(words) => error(400, "INVALID_ARGUMENT", words, null),
        Problem::Fields(violations) => {
            let worded: Vec<_> = violations.iter().map(wording).collect();
            let messages: Vec<&str> = worded.iter().map(|(_, message)| message.as_str()).collect();
            let list: Vec<Value> = worded
                .iter()
                .map(|(field, message)| json!({"field": field, "description": message}))
                .collect();
            let details = json!([{
                "@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": list,
            }]);
            error(400, "INVALID_ARGUMENT", &messages.join("\n"), details)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_name_are_one() {
        let given =
            json!({"generation_config": {"image_config": [{"aspect_ratio": "a_b"}]}, "x": 1});
        let Value::Object(given) = given else { unreachable!() };
        let wanted = json!({"generationConfig": {"imageConfig": [{"aspectRatio": "a_b"}]}, "x": 1});
        assert_eq!(Value::Object(camel(given)), wanted);
    }

    #[test]
    fn places_are_named_as_google_names_them() {
        let path = ["contents", "0", "parts", "1", "inlineData"].map(str::to_owned);
        assert_eq!(place_of(&path), "contents[0].parts[1].inline_data");
    }
}
