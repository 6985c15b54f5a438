//! Imagen on Vertex AI: `:predict` with instances and parameters.
//!
//! A picture that was filtered is an entry with its reason in place of the bytes; where all were,
//! the answer may be an empty object.

use serde_json::{Map, Value, json};

use super::items;
use crate::{
    Call, Fault, Output, Picture, Source, UpstreamError, WireRequest, body,
    catalog::InputForm,
    reply::{revised, text},
};

/// Whether a deployment is called so.
pub(super) fn speaks(call: &Call<'_>) -> bool {
    call.deployment.path.as_deref().is_some_and(|path| path.ends_with(":predict"))
}

pub(super) fn request(call: &Call<'_>) -> WireRequest {
    let image = call.image;
    let mut fields = body::fields(call);
    let mut instance = Map::from_iter([("prompt".to_owned(), image.prompt.as_str().into())]);
    if let Some(picture) = image.images.first() {
        let bytes = picture.text(InputForm::Base64);
        let mut references = vec![json!({
            "referenceType": "REFERENCE_TYPE_RAW", "referenceId": 1,
            "referenceImage": {"bytesBase64Encoded": bytes},
        })];
        references.extend(image.mask.as_ref().map(|mask| {
            json!({
                "referenceType": "REFERENCE_TYPE_MASK", "referenceId": 2,
                "referenceImage": {"bytesBase64Encoded": mask.text(InputForm::Base64)},
                "maskImageConfig": {"maskMode": "MASK_MODE_USER_PROVIDED"},
            })
        }));
        instance.insert("referenceImages".to_owned(), references.into());
    }
    body::put(&mut fields, "instances", json!([instance]));
    // Several are drawn where no number is given.
    body::put(&mut fields, "parameters.sampleCount", image.n.max(1).into());
    if image.seed.is_some() {
        // Else the seed is refused.
        body::put(&mut fields, "parameters.addWatermark", false.into());
        body::put(&mut fields, "parameters.enhancePrompt", false.into());
    }
    let url = call.endpoint("/publishers/google/models/{upstream}:predict");
    WireRequest::post_json(url, &Value::Object(fields))
}

pub(super) fn output(call: &Call<'_>, answer: &Value) -> Result<Output, UpstreamError> {
    let predictions = items(&answer["predictions"]);
    let pictures: Vec<Picture> = predictions
        .iter()
        .filter_map(|one| {
            let source = Source::inline(text(one, "bytesBase64Encoded")?);
            let revised_prompt = revised(call, text(one, "prompt"));
            Some(Picture { revised_prompt, ..Picture::new(source) })
        })
        .collect();
    if !pictures.is_empty() {
        return Ok(Output { pictures, ..Output::default() });
    }
    if let Some(reason) = predictions.iter().find_map(|one| text(one, "raiFilteredReason")) {
        let message = format!("the provider refused the content ({reason})");
        return Err(UpstreamError::new(Fault::Moderated, message));
    }
    if answer.as_object().is_some_and(Map::is_empty) {
        let message = "the provider filtered every picture for its content";
        return Err(UpstreamError::new(Fault::Moderated, message));
    }
    match answer.get("predictions") {
        Some(Value::Array(_)) => {
            Err(UpstreamError::new(Fault::Empty, "the provider drew no picture"))
        }
        _ => Err(UpstreamError::malformed("the provider's reply has no predictions")),
    }
}

/// Whether a refusal's words say that the prompt was blocked: there is no code for it.
pub(super) fn blocked(words: &str) -> bool {
    let words = words.to_lowercase();
    ["safety", "responsible ai", "usage guidelines", "sensitive words"]
        .iter()
        .any(|said| words.contains(said))
}
