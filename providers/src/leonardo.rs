//! Leonardo: a generation is opened, asked after by its id, and holds addresses in the end. Known
//! from client code, so replies are read in every shape that was seen.

use serde_json::Value;

use crate::{
    Adapter, Call, Fault, Output, Picture, RemoteJob, Reply, SendKind, Source, Step, UpstreamError,
    Usage, WireRequest, body,
    money::Money,
    reply::{self, fault_at, lacks_credits, refuses_content, text},
    wire::escape,
};

/// Leonardo's dialect.
pub(crate) struct Leonardo;

const DOLLAR: Money = Money::from_nanos(1_000_000_000);

impl Adapter for Leonardo {
    fn name(&self) -> &'static str {
        "leonardo"
    }

    fn is_queue(&self) -> bool {
        true
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let mut fields = body::fields(call);
        fields.insert("modelId".to_owned(), call.upstream.into());
        let url = call.endpoint("/generations");
        let request = WireRequest::post_json(url, &Value::Object(fields));
        Ok(Step::Send { kind: SendKind::Submit, request })
    }

    fn advance(
        &self,
        call: &Call<'_>,
        sent: SendKind,
        job: Option<&RemoteJob>,
        reply: &Reply,
    ) -> Result<Step, UpstreamError> {
        if !reply.is_success() {
            return Err(refusal(sent, reply));
        }
        let answer: Value = reply.json()?;
        match job {
            Some(job) => state(job, &answer, reply),
            None => accepted(call, &answer),
        }
    }

    fn cancel(&self, call: &Call<'_>, job: &RemoteJob) -> Option<WireRequest> {
        job.delete(call)
    }

    fn resume(&self, call: &Call<'_>, job: &RemoteJob) -> Result<Step, UpstreamError> {
        Ok(RemoteJob { state: job.state, billed: job.billed, ..unseen(call, &job.id) }.wait())
    }
}

fn unseen(call: &Call<'_>, id: &str) -> RemoteJob {
    RemoteJob::new(id, format!("{}/generations/{}", call.base_url, escape(id))).deletable()
}

/// The reply to a submit: the job stands in an object whose name differs between versions.
fn accepted(call: &Call<'_>, answer: &Value) -> Result<Step, UpstreamError> {
    let envelope = ["sdGenerationJob", "generate"].iter().find_map(|name| answer.get(name));
    let envelope = envelope.unwrap_or(answer);
    let id = text(envelope, "generationId")
        .ok_or_else(|| UpstreamError::malformed("the provider's reply names no generation"))?;
    let cost = envelope.get("cost").or_else(|| answer.get("cost"));
    Ok(RemoteJob { billed: cost.and_then(dollars), ..unseen(call, id) }.wait())
}

/// Dollars, where the cost is in them; what a credit is worth depends on the plan.
fn dollars(cost: &Value) -> Option<Money> {
    let amount = text(cost, "amount").filter(|_| text(cost, "unit") == Some("DOLLARS"))?;
    Money::of_number(amount, DOLLAR)
}

fn state(job: &RemoteJob, answer: &Value, reply: &Reply) -> Result<Step, UpstreamError> {
    let generation = match answer.get("generations_by_pk") {
        Some(generation @ Value::Object(_)) => generation,
        Some(Value::Null) => {
            let message = "the provider does not know the generation";
            return Err(UpstreamError::new(Fault::JobLost, message));
        }
        _ => return Err(UpstreamError::malformed("the provider's reply has no generation")),
    };
    match text(generation, "status").unwrap_or_default() {
        "COMPLETE" => done(job, generation),
        "FAILED" => {
            let words = Some("the generation failed");
            Err(reply::refusal(Fault::JobFailed, reply, words).code(Some("FAILED")))
        }
        _ => Ok(job.running().wait()),
    }
}

fn done(job: &RemoteJob, generation: &Value) -> Result<Step, UpstreamError> {
    let images = generation.get("generated_images").and_then(Value::as_array);
    let pictures: Vec<Picture> = images.into_iter().flatten().filter_map(picture).collect();
    if pictures.is_empty() {
        return Err(UpstreamError::new(Fault::Empty, "the generation holds no picture"));
    }
    if pictures.iter().all(|picture| picture.withheld) {
        let message = "the provider found the picture not safe and withheld it";
        return Err(UpstreamError::new(Fault::Moderated, message).code(Some("nsfw")));
    }
    let usage = Usage { billed: job.billed, ..Usage::default() };
    Ok(Step::Done(Output { pictures, usage, quality: None }))
}

/// A picture marked as unsafe is delivered all the same; one that is missing was withheld.
fn picture(image: &Value) -> Option<Picture> {
    match text(image, "url") {
        Some(url) => Some(Picture::new(Source::link(url))),
        None => (image.get("nsfw") == Some(&Value::Bool(true))).then(Picture::refused),
    }
}

/// What a reply that is not 2xx means: `{"error", "path", "code"}`, as far as is known.
fn refusal(sent: SendKind, reply: &Reply) -> UpstreamError {
    let answer: Value = serde_json::from_slice(reply.text()).unwrap_or_default();
    let words = reply::words(&answer);
    let said = words.as_deref().unwrap_or_default();
    let fault = match (sent, reply.status) {
        (SendKind::Submit, 400 | 403 | 422) if refuses_content(said) => Fault::Moderated,
        (SendKind::Submit, 400 | 403) if lacks_credits(said) => Fault::Balance,
        // How a bad key is refused at times.
        (_, 500) if said.contains("authorization hook") => Fault::Credential,
        (sent, status) => fault_at(sent, status),
    };
    let param = text(&answer, "path").and_then(|path| path.strip_prefix("$."));
    reply::refusal(fault, reply, words.as_deref()).code(text(&answer, "code")).param(param)
}
