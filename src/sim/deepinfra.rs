//! DeepInfra: its own surface, a path per model, data URIs in the reply.

use axum::response::Response;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    commission::{Told, commission, gate},
    exchange::{Exchange, Problem, json as reply},
    fal::validator_words,
    studio::{self, seconds},
};

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    let model = match x.segments().as_slice() {
        ["v1", "inference", model @ ..] if !model.is_empty() => model.join("/"),
        _ => return Err(Problem::NoRoute(x.joined())),
    };
    gate(x, true)?;
    let object = x.json()?;
    let wanted = commission(x, &model, &object)?;
    if x.moderated() == Some("") {
        return Err(Problem::Moderated);
    }
    // Dollars of a picture, or of a step over 1024x1024.
    let area = wanted.order.size.pixels() as f64 / f64::from(1 << 20);
    let steps = object.get("num_inference_steps").and_then(Value::as_f64);
    let each = match wanted.family.number("step") {
        Some(step) => step * area * steps.or(wanted.family.number("steps")).unwrap_or_default(),
        None => wanted.family.number("image").unwrap_or_default(),
    };
    let seed = wanted.recipes.first().map(|recipe| recipe.scene.seed);
    let mut recipes = wanted.recipes;
    let unsafe_picture = x.moderated().is_some();
    for recipe in &mut recipes {
        // What is not safe to show is black.
        if unsafe_picture {
            recipe.scene.veil = super::draw::Veil::Black;
        }
    }
    let (job, pictures) = studio::work(x, &model, recipes).await?;
    let images: Vec<String> = pictures
        .iter()
        .map(|picture| {
            format!("data:{};base64,{}", wanted.order.format.mime(), STANDARD.encode(picture))
        })
        .collect();
    let body = json!({
        "request_id": job.id.replace('-', ""),
        "inference_status": {
            "status": "succeeded",
            "runtime_ms": (seconds(job.run) * 1000.0) as u64,
            "cost": each * f64::from(wanted.order.count),
            "tokens_generated": null,
            "tokens_input": null,
        },
        "images": images,
        "nsfw_content_detected": vec![unsafe_picture; pictures.len()],
        "seed": seed,
    });
    Ok(reply(200, &body))
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
    let words = match problem {
        Problem::NoModel(_) | Problem::Retired(_) => "model not found",
        Problem::NoCredit => "inference prohibited, not enough balance",
        _ => &told.words,
    };
    Told::hinted(problem, reply(told.status, &json!({"detail": {"error": words}})))
}
