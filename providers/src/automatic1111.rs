//! AUTOMATIC1111's web UI and Forge: one synchronous JSON call that lasts as long as the drawing.

use serde_json::{Map, Value};

use crate::{
    Adapter, Call, Fault, Output, Picture, RemoteJob, Reply, SendKind, Source, Step, UpstreamError,
    WireRequest, body,
    catalog::{SizeRule, Task},
    fastapi::Detail,
    reply::{fault_of, refusal, text},
};

/// `POST {base}/txt2img`, `/img2img` or `/extra-single-image`.
pub(crate) struct Automatic1111;

/// The upstream name of the checkpoint that happens to be loaded.
const LOADED: &str = "loaded";

impl Adapter for Automatic1111 {
    fn name(&self) -> &'static str {
        "automatic1111"
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let mut fields = body::fields(call);
        let upscales = call.deployment.task == Task::ImageUpscale;
        let path = match call.deployment.task {
            Task::ImageUpscale => "/extra-single-image",
            _ if call.image.images.is_empty() => "/txt2img",
            _ => "/img2img",
        };
        if upscales {
            let factor = match call.deployment.size {
                SizeRule::Input { factor, .. } => factor,
                _ => 1,
            };
            // Else it makes the picture twice as large.
            fields.entry("upscaling_resize").or_insert_with(|| factor.into());
        } else {
            if let Some(picture) = call.image.images.first() {
                // Else the picture is pressed into a square.
                fields.insert("width".to_owned(), picture.size.width.into());
                fields.insert("height".to_owned(), picture.size.height.into());
            }
            if call.image.mask.is_some() {
                // White is what is drawn anew.
                fields.insert("inpainting_mask_invert".to_owned(), 0.into());
            }
            if call.upstream != LOADED {
                let name = "override_settings.sd_model_checkpoint";
                body::put(&mut fields, name, call.upstream.into());
            }
        }
        let request = WireRequest::post_json(call.endpoint(path), &Value::Object(fields));
        Ok(Step::Send { kind: SendKind::Submit, request })
    }

    fn advance(
        &self,
        call: &Call<'_>,
        _sent: SendKind,
        _job: Option<&RemoteJob>,
        reply: &Reply,
    ) -> Result<Step, UpstreamError> {
        if reply.is_success() {
            output(call, &reply.json()?).map(Step::Done)
        } else {
            Err(refused(reply))
        }
    }
}

fn output(call: &Call<'_>, answer: &Map<String, Value>) -> Result<Output, UpstreamError> {
    // A text that holds JSON; too long a one was lifted out of the reply.
    let info = answer.get("info").and_then(Value::as_str).unwrap_or_default();
    let info: Value = serde_json::from_str(info).unwrap_or_default();
    // Some settings put a sheet of all pictures before them, and extensions theirs behind.
    let first = info["index_of_first_image"].as_u64().unwrap_or(0) as usize;
    let listed = answer.get("images").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let images = listed.iter().skip(first).take(call.image.n.max(1) as usize);
    let pictures: Vec<Picture> = images
        .chain(answer.get("image"))
        .filter_map(Value::as_str)
        .filter(|data| !data.is_empty())
        .enumerate()
        .map(|(index, data)| {
            let seed =
                info["all_seeds"].get(first + index).or_else(|| info["all_seeds"].get(index));
            Picture { seed: seed.and_then(Value::as_u64), ..Picture::new(Source::inline(data)) }
        })
        .collect();
    if !pictures.is_empty() {
        return Ok(Output { pictures, ..Output::default() });
    }
    if answer.contains_key("images") || answer.contains_key("image") {
        return Err(UpstreamError::new(Fault::Empty, "the server drew no picture"));
    }
    Err(UpstreamError::malformed("the server's reply has no images"))
}

/// `{"detail"}`, or `{"error", "errors"}` where drawing failed.
fn refused(reply: &Reply) -> UpstreamError {
    let answer: Value = serde_json::from_slice(reply.text()).unwrap_or_default();
    let detail = Detail::of(&answer).unwrap_or_default();
    let kind = text(&answer, "error");
    let said = [Some(detail.message.as_str()), text(&answer, "errors"), kind];
    let words = said.into_iter().flatten().find(|words| !words.is_empty());
    let checkpoint = words.is_some_and(|words| words.to_lowercase().contains("checkpoint"));
    let fault = match reply.status {
        // The pages of a server that was started without its API.
        404 if words == Some("Not Found") || words.is_none() => Fault::Unavailable,
        404 | 422 | 500 if checkpoint => Fault::UnknownModel,
        // What ran out of memory or broke is over: nothing is paid, and nothing goes on.
        500 if words.is_some() => Fault::JobFailed,
        status => fault_of(status),
    };
    if fault == Fault::Invalid && words.is_none() {
        return refusal(Fault::Malformed, reply, None);
    }
    refusal(fault, reply, words).code(kind).param(detail.param.as_deref())
}
