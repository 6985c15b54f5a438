//! What each vendor refuses, and in which words.

use serde_json::{Value, json};

use super::*;

const BEARER: &str = "authorization";

/// A key that is missing, in the wrong place, unknown, or without credit.
#[tokio::test]
async fn keys_are_refused_as_each_vendor_does() {
    let sim = Simulator::start(quick()).await;
    let check = async |vendor: Vendor,
                       auth: (&'static str, &'static str),
                       status: u16,
                       pointer: &str,
                       says: &str| {
        let refused = Vendor { auth, ..vendor }.submit(&sim, "", "a fox").await.unwrap();
        let body = refused.json();
        assert_eq!(refused.status, status, "{} {auth:?}: {body}", vendor.name);
        let text = body.pointer(pointer).unwrap_or(&body).to_string();
        assert!(text.contains(says), "{} {auth:?}: {body}", vendor.name);
    };
    let none = ("x-nothing", "x");
    check(OPENAI, none, 401, "/error/message", "You didn't provide an API key").await;
    check(OPENAI, ("api-key", "sk"), 401, "/error/type", "invalid_request_error").await;
    check(OPENAI, (BEARER, "Bearer bad-key"), 401, "/error/code", "invalid_api_key").await;
    check(OPENAI, (BEARER, "Bearer no-credit"), 429, "/error/code", "insufficient_quota").await;
    check(AZURE, none, 401, "/error/code", "401").await;
    check(AZURE, ("api-key", "bad-key"), 401, "/error/message", "invalid subscription key").await;
    check(TOGETHER, none, 401, "/error/code", "missing_api_key").await;
    check(TOGETHER, (BEARER, "Bearer bad-key"), 401, "/error/code", "invalid_api_key").await;
    check(TOGETHER, (BEARER, "Bearer no-credit"), 402, "/error/message", "Credit").await;
    check(FAL, none, 401, "/detail", "Authentication is required").await;
    check(FAL, (BEARER, "Bearer id:secret"), 401, "/detail", "Authentication is required").await;
    check(FAL, (BEARER, "Key bad-key"), 401, "/detail", "Invalid").await;
    check(FAL, (BEARER, "Key no-credit"), 403, "/detail", "Exhausted balance").await;
    check(REPLICATE, none, 401, "/title", "Unauthenticated").await;
    check(REPLICATE, (BEARER, "Bearer bad-key"), 401, "/detail", "valid").await;
    check(REPLICATE, (BEARER, "Bearer no-credit"), 402, "/title", "Insufficient credit").await;
    check(BFL, none, 403, "/detail", "Not authenticated").await;
    check(BFL, (BEARER, "Bearer x"), 403, "/detail", "Not authenticated").await;
    check(BFL, ("x-key", "no-credit"), 402, "/detail", "Insufficient credits").await;
    check(GEMINI, none, 403, "/error/status", "PERMISSION_DENIED").await;
    check(GEMINI, (BEARER, "Bearer AIza"), 401, "/error/status", "UNAUTHENTICATED").await;
    check(GEMINI, ("x-goog-api-key", "bad-key"), 400, "/error/details/0/reason", "API_KEY_INVALID")
        .await;
    check(GEMINI, ("x-goog-api-key", "no-credit"), 429, "/error/message", "depleted").await;
    check(STABILITY, none, 401, "/name", "unauthorized").await;
    check(STABILITY, (BEARER, "Bearer no-credit"), 402, "/name", "payment_required").await;
}

/// A request that is valid but for one change.
#[tokio::test]
async fn fields_are_checked_as_each_vendor_does() {
    let sim = Simulator::start(quick()).await;
    let check = async |vendor: Vendor, change: Value, status: u16, pointer: &str, says: &str| {
        let mut body = vendor.body("a fox");
        merge(&mut body, &change);
        let mut answer = sim.post(vendor.submit, vendor.auth, &body).await;
        if vendor.name == "fal" {
            // The queue takes anything; the result refuses.
            assert_eq!(answer.status, 200, "{change}");
            answer = FAL.finish(&sim, &answer.json()).await.0;
            assert_eq!(answer.header("x-fal-retryable"), "false");
        }
        let reply = answer.json();
        assert_eq!(answer.status, status, "{} {change}: {reply}", vendor.name);
        let text = reply.pointer(pointer).unwrap_or(&Value::Null).to_string();
        assert!(text.contains(says), "{} {change}: {reply}", vendor.name);
    };
    let (code, message) = ("/error/code", "/error/message");
    for vendor in [OPENAI, AZURE] {
        check(vendor, json!({"seed": 1}), 400, code, "unknown_parameter").await;
        check(
            vendor,
            json!({"response_format": "b64_json"}),
            400,
            message,
            "Unknown parameter: 'response_format'.",
        )
        .await;
        check(vendor, json!({"prompt": null}), 400, code, "missing_required_parameter").await;
        check(vendor, json!({"prompt": "x".repeat(32_001)}), 400, code, "string_above_max_length")
            .await;
        check(vendor, json!({"n": 0}), 400, code, "integer_below_min_value").await;
        check(vendor, json!({"n": 11}), 400, code, "integer_above_max_value").await;
        check(vendor, json!({"n": "two"}), 400, code, "invalid_type").await;
        check(vendor, json!({"quality": "max"}), 400, code, "invalid_value").await;
        for size in ["1000x700", "10x", "0x0", "512x512", "4096x1024", "3200x1024", "1024X1024"] {
            check(vendor, json!({"size": size}), 400, "/error/param", "size").await;
        }
        let clear = json!({"background": "transparent", "output_format": "jpeg"});
        check(vendor, clear, 400, "/error/param", "background").await;
        check(vendor, json!({"output_compression": 50}), 400, "/error/param", "output_compression")
            .await;
        check(vendor, json!({"output_compression": 101}), 400, code, "integer_above_max_value")
            .await;
    }
    check(OPENAI, json!({"model": "gpt-image-9"}), 404, code, "model_not_found").await;
    check(OPENAI, json!({"model": "dall-e-3"}), 404, message, "deprecated").await;
    check(
        OPENAI,
        json!({"model": "gpt-image-1.5", "size": "1792x1024"}),
        400,
        "/error/param",
        "size",
    )
    .await;
    check(TOGETHER, json!({"size": "1024x1024"}), 400, code, "unknown_parameter").await;
    check(TOGETHER, json!({"response_format": "b64_json"}), 400, code, "invalid_value").await;
    check(TOGETHER, json!({"width": 1001}), 400, "/error/param", "width").await;
    check(TOGETHER, json!({"height": 4096}), 400, "/error/param", "height").await;
    check(TOGETHER, json!({"n": 5}), 400, code, "integer_above_max_value").await;
    check(TOGETHER, json!({"model": "nobody/nothing"}), 404, code, "model_not_available").await;
    let kind = "/detail/0/type";
    check(FAL, json!({"size": "1024x1024"}), 422, kind, "extra_forbidden").await;
    check(FAL, json!({"prompt": null}), 422, kind, "missing").await;
    check(FAL, json!({"prompt": 3}), 422, kind, "string_type").await;
    check(FAL, json!({"num_images": 5}), 422, "/detail/0/loc/1", "num_images").await;
    check(FAL, json!({"image_size": "huge"}), 422, kind, "literal_error").await;
    check(
        FAL,
        json!({"image_size": {"width": 9000, "height": 9000}}),
        422,
        "/detail/0/loc/1",
        "image_size",
    )
    .await;
    check(FAL, json!({"output_format": "webp"}), 422, "/detail/0/msg", "'jpeg' or 'png'").await;
    check(
        REPLICATE,
        json!({"input": {"width": 512}}),
        422,
        "/detail",
        "Additional property width is not allowed",
    )
    .await;
    check(
        REPLICATE,
        json!({"input": {"prompt": 3}}),
        422,
        "/detail",
        "- input.prompt: Invalid type. Expected: string, given: integer",
    )
    .await;
    check(
        REPLICATE,
        json!({"input": {"aspect_ratio": "7:1"}}),
        422,
        "/detail",
        "must be one of the following",
    )
    .await;
    check(
        REPLICATE,
        json!({"input": {"num_outputs": 5}}),
        422,
        "/invalid_fields/0/field",
        "input.num_outputs",
    )
    .await;
    check(REPLICATE, json!({"inputs": {}}), 422, "/detail", "inputs").await;
    check(BFL, json!({"aspect_ratio": "1:1"}), 422, kind, "extra_forbidden").await;
    check(BFL, json!({"width": 1000}), 422, "/detail/0/loc/1", "width").await;
    check(BFL, json!({"width": 4096, "height": 4096}), 422, kind, "value_error").await;
    check(BFL, json!({"output_format": "webp"}), 422, kind, "literal_error").await;
    check(BFL, json!({"safety_tolerance": 6}), 422, kind, "less_than_equal").await;
    check(
        GEMINI,
        json!({"prompt": "x"}),
        400,
        message,
        "Unknown name \\\"prompt\\\": Cannot find field.",
    )
    .await;
    let config = |change: Value| json!({"generationConfig": change});
    check(
        GEMINI,
        config(json!({"size": "1K"})),
        400,
        message,
        "Unknown name \\\"size\\\" at 'generation_config'",
    )
    .await;
    check(GEMINI, config(json!({"candidateCount": 2})), 400, "/error/status", "INVALID_ARGUMENT")
        .await;
    check(GEMINI, config(json!({"imageConfig": {"imageSize": "1k"}})), 400, message, "image_size")
        .await;
    check(GEMINI, json!({"contents": []}), 400, "/error/status", "INVALID_ARGUMENT").await;
    let first =
        Vendor { submit: "/gemini/v1beta/models/gemini-2.5-flash-image:generateContent", ..GEMINI };
    check(
        first,
        json!({}),
        400,
        message,
        "Unknown name \\\"imageSize\\\" at 'generation_config.image_config'",
    )
    .await;
}

/// Objects are merged, null removes, anything else is replaced.
fn merge(body: &mut Value, change: &Value) {
    match (body, change) {
        (Value::Object(body), Value::Object(change)) => {
            for (name, value) in change {
                if value.is_null() {
                    body.remove(name);
                } else {
                    merge(body.entry(name.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (body, change) => *body = change.clone(),
    }
}

#[tokio::test]
async fn stability_is_strict_about_its_forms() {
    let sim = Simulator::start(quick()).await;
    let check = async |product: &str, accept: &str, fields: &[(&str, &str)], says: &str| {
        let (kind, body) = form(fields);
        let path = format!("/stability/v2beta/stable-image/generate/{product}");
        let headers = [STABILITY.auth, ("content-type", kind.as_str()), ("accept", accept)];
        let answer = sim.send("POST", &path, &headers, body).await.unwrap();
        let reply = answer.json();
        assert_eq!((answer.status, &reply["name"]), (400, &json!("bad_request")), "{reply}");
        assert!(reply["errors"][0].as_str().unwrap().contains(says), "{reply}");
        assert!(reply["id"].is_string());
    };
    let prompt = ("prompt", "a fox");
    check("core", "image/*", &[prompt, ("size", "1024x1024")], "size: is not a known field").await;
    check("core", "image/*", &[], "prompt: is required").await;
    check("core", "image/*", &[prompt, ("aspect_ratio", "4:3")], "aspect_ratio: must be one of")
        .await;
    check("core", "image/*", &[prompt, ("seed", "4294967295")], "seed: must be at most").await;
    check("core", "image/*", &[prompt, ("seed", "many")], "seed: must be a integer").await;
    check("core", "image/*", &[prompt, ("model", "sd3.5-large")], "model: is not a known").await;
    check("sd3", "image/*", &[prompt, ("output_format", "webp")], "output_format: must be").await;
    check("sd3", "image/*", &[prompt, ("model", "sd9")], "model: must be one of").await;
    check("core", "image/png", &[prompt], "accept: must be one of").await;
    let json = sim.post(STABILITY.submit, STABILITY.auth, &json!({"prompt": "a fox"})).await;
    assert_eq!(
        (json.status, &json.json()["errors"][0]),
        (400, &json!("content-type: must be multipart/form-data"))
    );
}

#[tokio::test]
async fn content_types_methods_and_paths_are_checked() {
    let sim = Simulator::start(quick()).await;
    for vendor in [OPENAI, AZURE, TOGETHER, REPLICATE, BFL, GEMINI] {
        let body = vendor.body("a fox").to_string();
        for (kind, body) in [("text/plain", body.as_str()), ("application/json", "{\"prompt\"")] {
            let headers = [vendor.auth, ("content-type", kind)];
            let answer = sim.send("POST", vendor.submit, &headers, body.to_owned()).await.unwrap();
            assert!([400, 415, 422].contains(&answer.status), "{} {kind}: {answer:?}", vendor.name);
            assert!(answer.json().is_object());
        }
    }
    for vendor in ALL {
        let method = sim.get(vendor.submit, vendor.auth).await;
        assert!([404, 405].contains(&method.status), "{}: {method:?}", vendor.name);
        let nowhere = sim.post(&format!("/{}/nowhere", vendor.name), vendor.auth, &json!({})).await;
        assert_eq!(nowhere.status, 404, "{}: {nowhere:?}", vendor.name);
    }
    // Azure's classic path wants its version.
    let bare = AZURE.submit.split('?').next().unwrap();
    let answer = sim.post(bare, AZURE.auth, &AZURE.body("a fox")).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!("404")));
    let unknown = bare.replace("gpt-image-2", "mine") + "?api-version=1";
    let answer = sim.post(&unknown, AZURE.auth, &AZURE.body("a fox")).await;
    assert_eq!(answer.json()["error"]["code"], "DeploymentNotFound");
    let unknown = sim.post("/fal/nobody/nothing", FAL.auth, &json!({})).await;
    assert_eq!((unknown.status, unknown.json()["detail"].is_string()), (404, true));
}
