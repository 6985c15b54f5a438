//! Black Forest Labs: one endpoint per model, one picture per call, and a polling URL on the
//! cluster that took the job. Every outcome of a job arrives with HTTP 200.

use std::time::Duration;

use serde_json::Value;

use crate::{
    Adapter, Call, Fault, Output, Picture, Pushed, Recovery, RemoteJob, Reply, SendKind, Signature,
    Source, Step, UpstreamError, Usage, WireRequest, body,
    fastapi::Detail,
    money::Money,
    reply::{self, fault_at, text},
    signature::{Algorithm, Encoding, Keys, Signed},
    wire::escape,
};

/// The dialect of Black Forest Labs.
pub(crate) struct Bfl;

/// Secondary sources only: the documentation names a `webhook_secret`, and no header.
const SIGNATURE: Signature = Signature {
    algorithm: Algorithm::HmacSha256,
    keys: Keys::OfSubmit,
    message: &[Signed::Body],
    headers: &["x-bfl-signature", "x-webhook-signature"],
    prefix: "sha256=",
    encoding: Encoding::Hex,
    timestamp: None,
    tolerance_s: 0,
    required: false,
};

impl Adapter for Bfl {
    fn name(&self) -> &'static str {
        "bfl"
    }

    fn is_queue(&self) -> bool {
        true
    }

    fn begin(&self, call: &Call<'_>) -> Result<Step, UpstreamError> {
        let mut fields = body::fields(call);
        if let Some(callback) = call.callback_url {
            fields.insert("webhook_url".to_owned(), callback.into());
            if let Some(secret) = call.callback_secret {
                fields.insert("webhook_secret".to_owned(), secret.into());
            }
        }
        let url = call.endpoint("/{upstream}");
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
        match (sent, job) {
            (SendKind::Submit, _) => accepted(call, reply),
            (_, Some(job)) => state(call, sent, job, reply),
            (_, None) => Err(UpstreamError::new(Fault::JobLost, "no job is known for this reply")),
        }
    }

    fn recovery(&self) -> &'static [Recovery] {
        &[Recovery::Callback]
    }

    fn resume(&self, call: &Call<'_>, job: &RemoteJob) -> Result<Step, UpstreamError> {
        if call.may_follow(&job.status_url) {
            return Ok(job.clone().wait());
        }
        Ok(RemoteJob { billed: job.billed, state: job.state, ..unseen(call, &job.id) }.wait())
    }

    fn callback(&self, call: &Call<'_>, job: Option<&RemoteJob>, push: &Reply) -> Option<Pushed> {
        let answer: Value = push.json().ok()?;
        let id = text(&answer, "id").or_else(|| text(&answer, "task_id"))?;
        let job = match job {
            Some(job) if job.id == id => job.clone(),
            Some(_) => return None,
            None => unseen(call, id),
        };
        // The word for success differs from that of a poll; the picture does not.
        let sample = answer.get("result").and_then(|result| text(result, "sample"));
        let step = match sample {
            Some(_) => done(call, &job, &answer),
            None => state(call, SendKind::Poll, &job, push),
        };
        Some(Pushed { job, step })
    }

    fn signature(&self) -> Option<&'static Signature> {
        Some(&SIGNATURE)
    }
}

/// What a credit is worth in dollars: a hundredth.
const CREDIT: Money = Money::from_nanos(10_000_000);

fn accepted(call: &Call<'_>, reply: &Reply) -> Result<Step, UpstreamError> {
    if !reply.is_success() {
        return Err(refusal(SendKind::Submit, reply));
    }
    let answer: Value = reply.json()?;
    let id = text(&answer, "id")
        .ok_or_else(|| UpstreamError::malformed("the provider's reply names no job id"))?;
    let built = unseen(call, id);
    let given = text(&answer, "polling_url").filter(|url| call.may_follow(url));
    let status_url = given.map_or(built.status_url, str::to_owned);
    Ok(RemoteJob { status_url, billed: reply::billed(reply, "cost", CREDIT), ..built }.wait())
}

/// The job of an id, asked for at the global host, which does not know the jobs of all clusters.
fn unseen(call: &Call<'_>, id: &str) -> RemoteJob {
    RemoteJob::new(id, format!("{}/get_result?id={}", call.base_url, escape(id)))
}

fn state(
    call: &Call<'_>,
    sent: SendKind,
    job: &RemoteJob,
    reply: &Reply,
) -> Result<Step, UpstreamError> {
    // A job that is unknown may be a 404 with the same body as a state.
    if !reply.is_success() && reply.status != 404 {
        return Err(refusal(sent, reply));
    }
    let answer: Value = match reply.json() {
        Err(_) if reply.status == 404 => Value::Null,
        parsed => parsed?,
    };
    match end(call, job, reply, &answer) {
        // With a webhook the submit names no cluster. One that does not know the job proves
        // nothing then: the push will tell.
        Some(Err(error))
            if error.fault == Fault::JobLost
                && call.callback_url.is_some()
                && job.status_url == unseen(call, &job.id).status_url =>
        {
            Ok(job.clone().wait())
        }
        Some(end) => end,
        None if reply.status == 404 => Err(refusal(sent, reply)),
        None => Ok(job.running().wait()),
    }
}

/// How a job ended, by the word of its state; none while it runs. Fireworks uses the same words.
pub(crate) fn end(
    call: &Call<'_>,
    job: &RemoteJob,
    reply: &Reply,
    answer: &Value,
) -> Option<Result<Step, UpstreamError>> {
    let word = answer.get("status").or_else(|| answer.get("state")).and_then(Value::as_str)?;
    let fault = match word.to_ascii_lowercase().as_str() {
        "ready" => return Some(done(call, job, answer)),
        "request moderated" | "content moderated" => Fault::Moderated,
        "error" | "failed" => Fault::JobFailed,
        "task not found" => Fault::JobLost,
        _ => return None,
    };
    let reasons = reasons(answer);
    let message = if reasons.is_empty() { word.to_owned() } else { format!("{word}: {reasons}") };
    Some(Err(reply::refusal(fault, reply, Some(&message)).code(Some(word))))
}

fn done(call: &Call<'_>, job: &RemoteJob, answer: &Value) -> Result<Step, UpstreamError> {
    let result = answer.get("result").unwrap_or(&Value::Null);
    let sample = text(result, "sample");
    let sample = sample.ok_or_else(|| {
        UpstreamError::new(Fault::Empty, "the provider's result holds no picture")
    })?;
    let picture = Picture {
        source: Source::link(sample),
        seed: result.get("seed").and_then(Value::as_u64),
        revised_prompt: reply::revised(call, text(result, "prompt")),
        withheld: false,
    };
    let usage = Usage { billed: job.billed, ..Usage::default() };
    Ok(Step::Done(Output { pictures: vec![picture], usage, quality: None }))
}

/// Why a job was refused or failed, as far as `details` says.
fn reasons(answer: &Value) -> String {
    let Some(details) = answer.get("details") else { return String::new() };
    let said = ["Moderation Reasons", "error", "message"].iter().find_map(|k| details.get(k));
    match said.unwrap_or(details) {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        _ => String::new(),
    }
}

/// What a reply that is not 2xx means: `{"detail"}` in both of FastAPI's shapes, or
/// `{"error", "message", "retry_after"}`.
fn refusal(sent: SendKind, reply: &Reply) -> UpstreamError {
    let answer: Value = serde_json::from_slice(reply.text()).unwrap_or_default();
    let detail = Detail::of(&answer).unwrap_or_default();
    let code = text(&answer, "error");
    let message = Some(detail.message.as_str())
        .filter(|message| !message.is_empty())
        .or_else(|| text(&answer, "message"))
        .or(code);
    let error = reply::refusal(fault_at(sent, reply.status), reply, message);
    let seconds = answer.get("retry_after").and_then(Value::as_f64);
    let asked = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
    let hint = error.retry_after.or(asked);
    error.code(code.or(detail.kind.as_deref())).param(detail.param).retry_after(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImageCall, catalog::Deployment};

    #[test]
    fn credits_become_exact_dollars_and_odd_ones_lose_no_job() {
        let (deployment, image) = (Deployment::default(), ImageCall::default());
        let call = Call {
            deployment: &deployment,
            base_url: "https://api.bfl.ai/v1",
            hosts: &[],
            upstream: "flux-2-pro",
            image: &image,
            client_ref: None,
            callback_url: None,
            callback_secret: None,
        };
        for (cost, usd) in [
            ("\"cost\": 3", Some("0.03")),
            ("\"cost\": 3.0", Some("0.03")),
            ("\"cost\": 30.0", Some("0.3")),
            ("\"cost\": 0", Some("0")),
            ("\"cost\": 1e-05", Some("0.0000001")),
            ("\"cost\": 0.30000000000000004", Some("0.003000001")),
            ("\"cost\": NaN", None),
            ("\"cost\": Infinity", None),
            ("\"cost\": -1", None),
            ("\"cost\": 1e400", None),
            ("\"cost\": \"3\"", None),
            ("\"cost\": null", None),
            ("\"cost\": [3]", None),
            ("\"cost\": {\"credits\": 3}", None),
            ("\"cost\": 3, \"cost\": 4", Some("0.04")),
            ("\"price\": 3", None),
        ] {
            let text = format!(r#"{{"id": "j1", {cost}, "output_mp": NaN}}"#);
            let body = crate::ReplyBody::Text(bytes::Bytes::from(text));
            let step = accepted(&call, &Reply { status: 200, headers: Vec::new(), body });
            let Ok(Step::Wait { job, .. }) = step else { unreachable!("{cost}: {step:?}") };
            assert_eq!(job.billed, usd.map(|usd| usd.parse().unwrap()), "{cost}");
        }
    }

    #[test]
    fn reasons_are_read_where_there_are_any() {
        for (details, text) in [
            (r#"{"Moderation Reasons": ["Violence", null, "Gore"]}"#, "Violence, Gore"),
            (r#"{"Moderation Reasons": "Violence"}"#, "Violence"),
            (r#"{"error": "out of memory"}"#, "out of memory"),
            (r#""out of memory""#, "out of memory"),
            (r#"{"trace": 7}"#, ""),
            ("null", ""),
        ] {
            let answer = serde_json::from_str(&format!(r#"{{"details": {details}}}"#)).unwrap();
            assert_eq!(reasons(&answer), text, "{details}");
        }
    }
}
