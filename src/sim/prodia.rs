//! Prodia: one route, the model is the type of the job. Bytes out, alone or in a form.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    commission::{Told, accepted, commission, gate, stamp, text},
    exchange::{Exchange, Problem, bytes, json as reply},
    studio::{self, seconds},
};

const FORM: &str = "multipart/form-data; boundary=simulated-form";

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    gate(x, x.segments() == ["v2", "job"])?;
    let (kind, object) = flat(x.json()?, x.header("accept"))?;
    let wanted = commission(x, &kind, &object)?;
    if x.moderated().is_some() {
        return Err(Problem::Moderated);
    }
    let (job, pictures) = studio::work(x, &kind, wanted.recipes.clone()).await?;
    let (Some(recipe), Some(picture)) = (wanted.recipes.first(), pictures.into_iter().next())
    else {
        return Err(Problem::Internal);
    };
    if !x.header("accept").starts_with("multipart/form-data") {
        return Ok(bytes(StatusCode::OK, recipe.mime(), picture));
    }
    let mut config = object;
    config.remove("accept");
    config.insert("seed".to_owned(), recipe.scene.seed.into());
    let mut told = json!({
        "type": kind,
        "id": job.id,
        "created_at": stamp(x, job.created),
        "updated_at": stamp(x, job.ends()),
        "state": {"current": "completed"},
        "config": config,
        "metrics": {"elapsed": seconds(job.run)},
    });
    if x.query.get("price").is_some_and(|price| price == "true") {
        told["price"] = json!({
            "product": wanted.family.word("product"),
            "dollars": wanted.family.number("dollars"),
        });
    }
    let heads = [
        "--simulated-form\r\nContent-Disposition: form-data; name=\"job\"; filename=\"job.json\"\r\n\
         Content-Type: application/json\r\n\r\n",
        "\r\n--simulated-form\r\nContent-Disposition: form-data; name=\"output\"; filename=\"output\"\r\n",
    ];
    let mut body = Vec::new();
    body.extend_from_slice(heads[0].as_bytes());
    body.extend_from_slice(told.to_string().as_bytes());
    body.extend_from_slice(heads[1].as_bytes());
    body.extend_from_slice(format!("Content-Type: {}\r\n\r\n", recipe.mime()).as_bytes());
    body.extend_from_slice(&picture);
    body.extend_from_slice(b"\r\n--simulated-form--\r\n");
    Ok(bytes(StatusCode::OK, FORM, body))
}

/// The type of a job, and its config with the format of the header.
pub(crate) fn flat(
    mut object: Map<String, Value>,
    accept: &str,
) -> Result<(String, Map<String, Value>), Problem> {
    let kind = text(&object, "type").to_owned();
    object.remove("type");
    let Some(Value::Object(mut config)) = object.remove("config") else {
        return Err(Problem::Rule("config is required".to_owned()));
    };
    if let Some(name) = object.keys().next() {
        return Err(Problem::Rule(format!("{name} is not a known field")));
    }
    if let Some(kind) = accepted(accept) {
        config.insert("accept".to_owned(), kind.into());
    }
    Ok((kind, config))
}

/// A refusal in the vendor's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let told = Told::of(problem);
    let unknown_model = matches!(problem, Problem::NoModel(_) | Problem::Retired(_));
    let (status, words) = match problem {
        Problem::Fields(_) => (400, format!("config.{}", told.words)),
        _ if unknown_model => (400, format!("unknown job type: {}", told.words)),
        _ => (told.status, told.words),
    };
    Told::hinted(problem, reply(status, &json!({"error": words})))
}
