//! Recraft: OpenAI's route with styles and sizes of its own, for pictures and for vectors.

use axum::response::Response;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    commission::{Told, commission, gate, item, text},
    exchange::{Exchange, Problem, json as reply, with},
    studio,
};

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    gate(x, x.segments() == ["v1", "images", "generations"])?;
    let object = x.json()?;
    let model = Some(text(&object, "model")).filter(|m| !m.is_empty()).unwrap_or("recraftv4_1");
    let wanted = commission(x, model, &object)?;
    if object.contains_key("style") && object.contains_key("style_id") {
        return Err(Problem::Rule("style and style_id exclude each other".to_owned()));
    }
    if x.moderated().is_some() {
        return Err(Problem::Moderated);
    }
    let (job, pictures) = studio::work(x, model, wanted.recipes).await?;
    let inline = text(&object, "response_format") == "b64_json";
    let items = pictures.iter().enumerate().map(|(index, picture)| {
        let mut item = item(x, &job, index, picture, inline);
        item["image_id"] = Uuid::new_v4().to_string().into();
        item
    });
    let credits = wanted.family.number("credits").unwrap_or_default() as u64;
    let body = json!({
        "created": x.sim.jobs.clock(job.created) as u64,
        "credits": credits * u64::from(wanted.order.count),
        "data": items.collect::<Vec<Value>>(),
    });
    Ok(with(reply(200, &body), "x-recraft-requestid", &job.id))
}

/// A refusal in the vendor's words.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let told = Told::of(problem);
    let code = match problem {
        Problem::NoKey | Problem::WrongKeyForm | Problem::BadKey => "unauthorized",
        Problem::NoCredit => "not_enough_credits",
        Problem::RateLimited(_) => "rate_limit_exceeded",
        Problem::Internal | Problem::Unavailable => "internal_error",
        Problem::Moderated => "prohibited_content",
        Problem::NoRoute(_) | Problem::NoJob(_) => "not_found",
        _ => "invalid_request",
    };
    // A model is a field like any other.
    let unknown_model = matches!(problem, Problem::NoModel(_) | Problem::Retired(_));
    let status = if unknown_model { 400 } else { told.status };
    let words = match problem {
        Problem::Moderated => "The prompt contains prohibited content",
        _ => &told.words,
    };
    let answer = reply(status, &json!({"code": code, "message": words}));
    with(Told::hinted(problem, answer), "x-recraft-requestid", Uuid::new_v4())
}
