//! Fireworks: a model is a path. Most answer with the bytes of the picture, Kontext with a job
//! that is asked after by `POST`.

use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{
    commission::{Commission, Told, accepted, asked, commission, gate, hook, text},
    data::VendorData,
    draw::Veil,
    exchange::{Exchange, Problem, bytes, json as reply, with},
    fal::validator_words,
    files,
    jobs::State,
    studio,
    vendor::Stage,
};

/// Which request it is, and of which job.
pub(crate) fn place(x: &Exchange) -> (Stage, Option<String>) {
    match x.segments().as_slice() {
        [.., "get_result"] => {
            let id = x.json().ok().map(|object| text(&object, "id").to_owned());
            (Stage::Poll, id)
        }
        _ if x.method == Method::POST => (Stage::Submit, None),
        _ => (Stage::Other, None),
    }
}

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    let path = x.segments();
    let [version, v1, group, rest @ ..] = path.as_slice() else {
        return Err(Problem::NoRoute(x.joined()));
    };
    let (route, model) = match (*group, rest) {
        ("workflows", [model @ .., last @ ("text_to_image" | "get_result")]) => (*last, model),
        ("workflows", model) => ("job", model),
        ("image_generation", model) => ("image_generation", model),
        _ => return Err(Problem::NoRoute(x.joined())),
    };
    gate(x, (*version, *v1) == ("inference", "v1"))?;
    let model = model.join("/");
    let mut object = x.json()?;
    if route == "get_result" {
        return Ok(result(x, text(&object, "id")));
    }
    let data = VendorData::of(x.vendor);
    if data.model(&model).is_none_or(|family| family.word("route") != route) {
        return Err(Problem::NoModel(model));
    }
    let header = x.header("accept");
    if route != "job"
        && let Some(kind) = accepted(header)
    {
        object.insert("accept".to_owned(), kind.into());
    }
    let wanted = commission(x, &model, &object)?;
    if route == "job" {
        let hook =
            hook(&object, "webhook_url")?.map(|hook| super::hooks::Hook { muted: true, ..hook });
        let job = studio::take(x, &model, Value::Null, wanted.outcome(x), hook).await;
        return Ok(reply(200, &json!({"request_id": job.id})));
    }
    drawn(x, &model, wanted, header.contains("application/json")).await
}

/// The picture itself, or base64 of it.
async fn drawn(
    x: &Exchange,
    model: &str,
    wanted: Commission,
    as_json: bool,
) -> Result<Response, Problem> {
    if x.moderated() == Some("") {
        return Err(Problem::Moderated);
    }
    let filtered = x.moderated().is_some();
    let mut recipes = wanted.recipes;
    for recipe in &mut recipes {
        recipe.scene.veil = if filtered { Veil::Black } else { Veil::Clear };
    }
    let reason = if filtered { "CONTENT_FILTERED" } else { "SUCCESS" };
    let (_, pictures) = studio::work(x, model, recipes.clone()).await?;
    let (Some(recipe), Some(picture)) = (recipes.first(), pictures.into_iter().next()) else {
        return Err(Problem::Internal);
    };
    let seed = recipe.scene.seed;
    if as_json {
        let item =
            json!({"base64": STANDARD.encode(&picture), "finishReason": reason, "seed": seed});
        return Ok(reply(200, &json!([item])));
    }
    let answer = bytes(StatusCode::OK, recipe.mime(), picture);
    Ok(with(with(answer, "finish-reason", reason), "seed", seed))
}

/// The answer to a poll.
fn result(x: &Exchange, id: &str) -> Response {
    let Ok(job) = asked(x, id) else {
        return reply(200, &json!({"id": id, "status": "Task not found", "result": null}));
    };
    let output = job.fault.as_ref().is_some_and(|f| f.value.as_deref() == Some("output"));
    let status = match (job.state(), &job.work) {
        (State::Queued | State::Running, _) => "Pending",
        (_, Ok(_)) => "Ready",
        (_, Err(Problem::Moderated)) if output => "Content Moderated",
        (_, Err(Problem::Moderated)) => "Request Moderated",
        (_, Err(_)) => "Error",
    };
    let result = match status {
        "Ready" => json!({
            "sample": files::url(x, &job, 0),
            "prompt": job.prompt,
            "seed": job.work.as_ref().ok().and_then(|list| Some(list.first()?.scene.seed)),
        }),
        _ => Value::Null,
    };
    reply(200, &json!({"id": id, "status": status, "result": result}))
}

/// A refusal in the vendor's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let told = Told::of(problem);
    if let Problem::Fields(violations) = problem {
        let list = violations.iter().map(|violation| {
            let mut loc = vec!["body".to_owned()];
            loc.extend(violation.path.iter().cloned());
            let (kind, message) = validator_words(violation);
            json!({"type": kind, "loc": loc, "msg": message})
        });
        return reply(422, &json!({"detail": list.collect::<Vec<Value>>()}));
    }
    let (kind, code) = match problem {
        Problem::NoKey | Problem::WrongKeyForm | Problem::BadKey => ("unauthorized", None),
        Problem::NoCredit => ("payment_required", None),
        Problem::RateLimited(_) => ("rate_limit_error", None),
        Problem::Internal | Problem::Unavailable => ("server_error", None),
        Problem::Moderated => ("invalid_request_error", Some("content_policy")),
        Problem::NoModel(_) | Problem::Retired(_) | Problem::NoRoute(_) => {
            ("not_found_error", Some("NOT_FOUND"))
        }
        _ => ("invalid_request_error", None),
    };
    let error = json!({"object": "error", "type": kind, "code": code, "message": told.words});
    Told::hinted(problem, reply(told.status, &json!({"error": error})))
}
