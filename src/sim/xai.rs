//! xAI: OpenAI's route with ratios and tiers; what is blocked is told at HTTP 200.

use axum::response::Response;
use serde_json::{Value, json};

use super::{
    commission::{Told, commission, gate, item, text, withheld},
    exchange::{Exchange, Problem, json as reply},
    studio,
};

/// Plays the vendor.
pub(crate) async fn answer(x: &Exchange) -> Result<Response, Problem> {
    gate(x, x.segments() == ["v1", "images", "generations"])?;
    let object = x.json()?;
    let model = text(&object, "model");
    let wanted = commission(x, model, &object)?;
    match x.moderated() {
        Some("") => return Err(Problem::Moderated),
        Some(_) => {
            withheld(x, model).await;
            let blocked = json!({"url": null, "mime_type": "image/jpeg", "revised_prompt": "", "respect_moderation": false});
            let data = vec![blocked; wanted.order.count as usize];
            return Ok(reply(200, &json!({"data": data, "usage": {"cost_in_usd_ticks": 0}})));
        }
        None => {}
    }
    let (job, pictures) = studio::work(x, model, wanted.recipes.clone()).await?;
    let inline = text(&object, "response_format") == "b64_json";
    let data: Vec<Value> = pictures
        .iter()
        .enumerate()
        .map(|(index, picture)| {
            let mut item = item(x, &job, index, picture, inline);
            item["mime_type"] = "image/jpeg".into();
            item["revised_prompt"] = "".into();
            item["respect_moderation"] = true.into();
            item
        })
        .collect();
    // Ticks of a picture: those of its tier, or fewer for a quick one.
    let tier = Some(text(&object, "resolution")).filter(|tier| !tier.is_empty()).unwrap_or("1k");
    let quick = format!("{}-{tier}", text(&object, "quality"));
    let ticks = wanted.family.number(&quick).or_else(|| wanted.family.number(tier));
    let ticks = ticks.unwrap_or_default() as u64 * u64::from(wanted.order.count);
    Ok(reply(200, &json!({"data": data, "usage": {"cost_in_usd_ticks": ticks}})))
}

/// A refusal in the vendor's words. A bad key is a 400.
pub(crate) fn refuse(problem: &Problem) -> Response {
    let told = Told::of(problem);
    let invalid = "Client specified an invalid argument";
    let (status, code) = match problem {
        Problem::BadKey => (400, invalid),
        Problem::NoCredit => {
            (403, "The caller does not have permission to execute the specified operation")
        }
        Problem::RateLimited(_) => (429, "Some resource has been exhausted"),
        Problem::Internal => (500, "Internal error"),
        Problem::Unavailable => (503, "The service is currently unavailable"),
        Problem::NoKey | Problem::WrongKeyForm => {
            (401, "The request does not have valid authentication credentials for the operation")
        }
        Problem::NoModel(_) | Problem::Retired(_) | Problem::NoRoute(_) => {
            (404, "Some requested entity was not found")
        }
        _ => (told.status, invalid),
    };
    let words = match problem {
        Problem::BadKey => {
            "Incorrect API key provided: ba***ey. You can obtain an API key from https://console.x.ai."
        }
        Problem::NoCredit => {
            "Your team has used all available credits. To continue making API requests, purchase more credits."
        }
        Problem::Moderated => "Generated image rejected by content moderation.",
        _ => &told.words,
    };
    Told::hinted(problem, reply(status, &json!({"code": code, "error": words})))
}
