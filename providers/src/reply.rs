//! What replies of all vendors have in common: statuses, delays, texts fit to be shown.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, value::RawValue};

use crate::{
    Call, Fault, Output, Picture, Reply, SendKind, Source, Step, UpstreamError, money::Money,
    said::Said,
};

/// What a status means where the body says nothing better. Success is for the caller to tell.
pub(crate) fn fault_of(status: u16) -> Fault {
    match status {
        401 | 403 => Fault::Credential,
        402 => Fault::Balance,
        404 => Fault::UnknownModel,
        408 | 409 => Fault::Server,
        429 => Fault::RateLimited,
        400..=499 => Fault::Invalid,
        503 => Fault::Unavailable,
        500..=599 => Fault::Server,
        _ => Fault::Malformed,
    }
}

/// The same for a queue: what a status means depends on whether a job was accepted already.
pub(crate) fn fault_at(sent: SendKind, status: u16) -> Fault {
    match (sent, status) {
        (SendKind::Submit, _) => fault_of(status),
        (_, 404 | 410) => Fault::JobLost,
        (_, 503) => Fault::Server,
        // Asking how a job is going cannot be the caller's mistake.
        (SendKind::Poll | SendKind::Listen, _) if fault_of(status) == Fault::Invalid => {
            Fault::Server
        }
        _ => fault_of(status),
    }
}

/// The delay of `retry-after-ms`, else of `retry-after` in seconds. A date is no use without a
/// clock and is ignored.
pub(crate) fn retry_after(reply: &Reply) -> Option<Duration> {
    let read = |name: &str, per_second: f64| {
        let number: f64 = reply.header(name)?.trim().parse().ok()?;
        Duration::try_from_secs_f64(number / per_second).ok()
    };
    read("retry-after-ms", 1000.0).or_else(|| read("retry-after", 1.0))
}

/// A text field of an object; none where it is missing, empty or no text.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object.get(field)?.as_str().filter(|text| !text.is_empty())
}

/// What a reply says that the call costs, counted in units worth `each`; a slash in the field goes
/// into an object. It is read from the text of the number, for money never passes through a float;
/// a figure that is none must not cost us what is paid.
pub(crate) fn billed(reply: &Reply, field: &str, each: Money) -> Option<Money> {
    let mut value: Box<RawValue> = reply.json().ok()?;
    for name in field.split('/') {
        let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(value.get()).ok()?;
        value = fields.remove(name)?;
    }
    Money::of_number(value.get(), each)
}

/// Whether a vendor's words refuse a prompt or a picture for its content, where no code says so.
pub(crate) fn refuses_content(words: &str) -> bool {
    let words = words.to_lowercase();
    [
        "nsfw",
        "moderat",
        "content policy",
        "content filter",
        "usage guidelines",
        "prohibited content",
    ]
    .iter()
    .any(|said| words.contains(said))
}

/// The one picture of a synchronous reply, where the vendor says how it ended in Stability's
/// words.
pub(crate) fn drawn(
    source: Option<Source>,
    reason: Option<&str>,
    seed: Option<u64>,
) -> Result<Step, UpstreamError> {
    if reason == Some("CONTENT_FILTERED") {
        let message = "the picture was filtered for its content";
        return Err(UpstreamError::new(Fault::Moderated, message).code(reason));
    }
    let source = source
        .ok_or_else(|| UpstreamError::new(Fault::Empty, "the provider's reply holds no picture"))?;
    let picture = Picture { seed, ..Picture::new(source) };
    Ok(Step::Done(Output { pictures: vec![picture], ..Output::default() }))
}

/// A reply that is the picture itself, with the seed and how it ended in its headers.
pub(crate) fn drawn_bytes(blob: usize, reply: &Reply) -> Result<Step, UpstreamError> {
    let seed = reply.header("seed").and_then(|seed| seed.parse().ok());
    drawn(Some(Source::Blob(blob)), reply.header("finish-reason"), seed)
}

/// Whether a vendor's words say that the balance is empty, where no status does.
pub(crate) fn lacks_credits(words: &str) -> bool {
    let words = words.to_lowercase();
    [
        "insufficient credits",
        "enough credits",
        "enough api tokens",
        "insufficient balance",
        "insufficient funds",
    ]
    .iter()
    .any(|said| words.contains(said))
}

/// A refusal with the vendor's words, made fit to be shown, and the delay it asks for in its
/// headers. Without words the status speaks.
pub(crate) fn refusal(fault: Fault, reply: &Reply, words: Option<&str>) -> UpstreamError {
    let message = match words.map(shown).filter(|text| !text.is_empty()) {
        Some(text) => text,
        None => format!("the provider answered with status {}", reply.status),
    };
    UpstreamError::new(fault, message).retry_after(retry_after(reply))
}

/// What an error body says, for vendors that publish no schema of theirs.
pub(crate) fn words(body: &Value) -> Option<String> {
    Said::of(body).message
}

/// The prompt a vendor says it drew, where that is not the one it was given.
pub(crate) fn revised(call: &Call<'_>, prompt: Option<&str>) -> Option<String> {
    // A very long one was lifted out of the reply, and only its stand-in is left.
    let kept = |text: &&str| !text.is_empty() && !text.starts_with('\u{1}');
    prompt.filter(kept).filter(|text| *text != call.image.prompt).map(str::to_owned)
}

/// A vendor's text without the addresses and (masked) keys that some put in.
pub(crate) fn shown(text: &str) -> String {
    let secret = |word: &str| {
        let bare = word.trim_start_matches(|c: char| !c.is_alphanumeric());
        ["sk-", "r8_", "AIza"].iter().any(|start| bare.starts_with(start)) || word.contains("***")
    };
    let words: Vec<&str> = text
        .split_whitespace()
        .map(|word| match word {
            _ if word.contains("://") => "(address)",
            _ if secret(word) => "(key)",
            _ => word,
        })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReplyBody;

    fn reply(headers: &[(&str, &str)]) -> Reply {
        Reply {
            status: 429,
            headers: headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            body: ReplyBody::Text(bytes::Bytes::new()),
        }
    }

    #[test]
    fn delays_are_read_from_seconds_and_milliseconds() {
        let check = |headers: &[(&str, &str)], millis: Option<u64>| {
            let want = millis.map(Duration::from_millis);
            assert_eq!(retry_after(&reply(headers)), want, "{headers:?}");
        };
        check(&[], None);
        check(&[("retry-after", "20")], Some(20_000));
        check(&[("retry-after", " 0.5 ")], Some(500));
        check(&[("retry-after", "20"), ("retry-after-ms", "19500")], Some(19_500));
        check(&[("retry-after", "20"), ("retry-after-ms", "soon")], Some(20_000));
        check(&[("retry-after", "Fri, 06 Nov 2026 10:00:00 GMT")], None);
        for wrong in ["-1", "NaN", "inf", "1e300", ""] {
            check(&[("retry-after", wrong)], None);
        }
    }

    #[test]
    fn statuses_have_a_meaning() {
        for (status, fault) in [
            (302, Fault::Malformed),
            (400, Fault::Invalid),
            (401, Fault::Credential),
            (402, Fault::Balance),
            (403, Fault::Credential),
            (404, Fault::UnknownModel),
            (408, Fault::Server),
            (409, Fault::Server),
            (413, Fault::Invalid),
            (422, Fault::Invalid),
            (429, Fault::RateLimited),
            (500, Fault::Server),
            (502, Fault::Server),
            (503, Fault::Unavailable),
            (504, Fault::Server),
            (529, Fault::Server),
        ] {
            assert_eq!(fault_of(status), fault, "{status}");
        }
    }

    #[test]
    fn a_job_changes_what_a_status_means() {
        for (sent, status, fault) in [
            (SendKind::Submit, 404, Fault::UnknownModel),
            (SendKind::Poll, 404, Fault::JobLost),
            (SendKind::Result, 410, Fault::JobLost),
            (SendKind::Submit, 503, Fault::Unavailable),
            (SendKind::Poll, 503, Fault::Server),
            (SendKind::Listen, 429, Fault::RateLimited),
            (SendKind::Submit, 422, Fault::Invalid),
            (SendKind::Poll, 422, Fault::Server),
            (SendKind::Result, 422, Fault::Invalid),
        ] {
            assert_eq!(fault_at(sent, status), fault, "{sent:?} {status}");
        }
    }

    #[test]
    fn refusals_for_content_are_told_by_their_words() {
        for (words, moderated) in [
            ("Generated image rejected by content moderation.", true),
            ("Content violates usage guidelines", true),
            ("Prompt may be NSFW", true),
            ("The prompt asks for prohibited content", true),
            ("safety_tolerance must be at most 6", false),
            ("content-type is not supported", false),
        ] {
            assert_eq!(refuses_content(words), moderated, "{words}");
        }
    }

    #[test]
    fn addresses_and_keys_are_not_shown() {
        for (said, text) in [
            ("size is  not\nallowed", "size is not allowed"),
            ("Incorrect API key provided: sk-ab**yz.", "Incorrect API key provided: (key)"),
            ("a risk-free (sk-live) key", "a risk-free (key) key"),
            ("See https://x.example/keys for more", "See (address) for more"),
        ] {
            assert_eq!(shown(said), text);
        }
        let silent = refusal(Fault::Server, &reply(&[("retry-after", "1")]), Some(" "));
        assert_eq!(silent.message, "the provider answered with status 429");
        assert_eq!(silent.retry_after, Some(Duration::from_secs(1)));
    }
}
