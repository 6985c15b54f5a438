//! Azure OpenAI: OpenAI's dialect under deployments, with its own key, versions and errors.
//!
//! Deployments are named after their models.

use axum::response::Response;
use http::Method;
use serde_json::{Value, json};

use super::{
    data::VendorData,
    exchange::{Exchange, Problem, check_key, json as reply, with},
    openai,
};

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    let route = x.segments();
    let (deployment, operation) = match route.as_slice() {
        ["openai", "deployments", name, "images", operation @ ("generations" | "edits")] => {
            (Some(*name), *operation)
        }
        ["openai", "v1", "images", operation @ ("generations" | "edits")] => (None, *operation),
        _ => return Err(Problem::NoRoute(x.joined())),
    };
    if x.method != Method::POST {
        return Err(Problem::Method(x.joined()));
    }
    if deployment.is_some() && x.query.get("api-version").is_none_or(String::is_empty) {
        return Err(Problem::NoRoute(x.joined()));
    }
    let key = Some(x.header("api-key")).filter(|key| !key.is_empty());
    check_key(key.or_else(|| x.authorization("bearer")))?;
    let (mut object, mut parts) = openai::body(x, operation)?;
    // The deployment in the path wins, whatever the body says.
    let model = match deployment {
        Some(name) => {
            object.insert("model".to_owned(), name.into());
            parts.retain(|part| part.name != "model");
            name.to_owned()
        }
        None => object.get("model").and_then(Value::as_str).unwrap_or_default().to_owned(),
    };
    let data = VendorData::of(x.vendor);
    let family = if operation == "edits" { data.worker(&model) } else { data.model(&model) };
    let family = family.ok_or_else(|| Problem::NoModel(model.clone()))?;
    let answer = openai::generate(x, &model, family, &object, &parts).await?;
    Ok(with(answer, "apim-request-id", uuid::Uuid::new_v4()))
}

/// A refusal in Azure's words where they differ from OpenAI's.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let coded = |status: u16, code: &str, message: &str| {
        reply(status, &json!({"error": {"code": code, "message": message}}))
    };
    match problem {
        Problem::NoKey | Problem::WrongKeyForm | Problem::BadKey => coded(
            401,
            "401",
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription and use a correct regional API endpoint for your resource.",
        ),
        Problem::RateLimited(wait) => {
            let message = format!(
                "Requests to the ImageGenerations_Create Operation under Azure OpenAI API have exceeded call rate limit of your current pricing tier. Please retry after {wait} seconds."
            );
            let response = with(coded(429, "429", &message), "retry-after", wait);
            with(response, "retry-after-ms", wait * 1000)
        }
        Problem::Moderated => reply(
            400,
            &json!({"error": {
                "code": "content_policy_violation",
                "type": "invalid_request_error",
                "message": "Your request was rejected as a result of our safety system.",
                "inner_error": {
                    "code": "ResponsibleAIPolicyViolation",
                    "content_filter_results": {
                        "violence": {"filtered": true, "severity": "high"},
                        "jailbreak": {"detected": false, "filtered": false},
                    },
                },
            }}),
        ),
        Problem::NoRoute(_) => coded(404, "404", "Resource not found"),
        Problem::NoModel(_) | Problem::Retired(_) => coded(
            404,
            "DeploymentNotFound",
            "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a moment and try again.",
        ),
        Problem::Internal => coded(
            500,
            "InternalServerError",
            "The server had an error while processing your request. Sorry about that!",
        ),
        Problem::Unavailable => coded(
            503,
            "ServiceUnavailable",
            "The service is temporarily unable to process your request. Please try again later.",
        ),
        other => openai::refuse(other),
    }
}
