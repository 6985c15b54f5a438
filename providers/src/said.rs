//! What a vendor says when it refuses, wherever it puts the words: OpenAI's `error` object, a
//! bare `error` or `message`, or the `detail` of FastAPI.

use serde_json::Value;

use crate::{
    Fault, Reply, SendKind, UpstreamError,
    fastapi::Detail,
    reply::{fault_at, refusal, refuses_content, shown, text},
};

/// The words of a refusal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// What is wrong.
    pub(crate) message: Option<String>,
    /// The vendor's code for it.
    pub(crate) code: Option<String>,
    /// The field complained of.
    pub(crate) param: Option<String>,
}

impl Said {
    /// Reads the body of a refusal; everything is missing where it holds no JSON.
    pub(crate) fn in_reply(reply: &Reply) -> Self {
        Self::of(&serde_json::from_slice(reply.text()).unwrap_or_default())
    }

    /// Reads a refusal.
    pub(crate) fn of(body: &Value) -> Self {
        let error = body.get("error").unwrap_or(&Value::Null);
        let detail = Detail::of(body).unwrap_or_default();
        let detailed = Some(detail.message.as_str()).filter(|text| !text.is_empty());
        let message = detailed.or_else(|| text(error, "message"));
        let message = message.or_else(|| text(body, "error")).or_else(|| text(body, "message"));
        let code = text(error, "code").or_else(|| text(body, "code"));
        let code = code.or_else(|| text(error, "type")).or(detail.kind.as_deref());
        Self {
            message: message.map(str::to_owned),
            code: code.map(str::to_owned),
            param: text(error, "param").map(str::to_owned).or(detail.param),
        }
    }

    /// As an error where no status speaks: one that stands inside a reply with HTTP 200.
    pub(crate) fn into_error(self, fault: Fault) -> UpstreamError {
        let message = self.message.as_deref().map(shown).filter(|text| !text.is_empty());
        let message = message.unwrap_or_else(|| "the provider refused without a reason".to_owned());
        UpstreamError::new(fault, message).code(self.code).param(self.param)
    }

    /// Whether the message holds one of these, which are in lower case.
    pub(crate) fn speaks_of(&self, words: &[&str]) -> bool {
        let message = self.message.as_deref().unwrap_or_default().to_lowercase();
        words.iter().any(|word| message.contains(word))
    }

    /// Whether the words refuse a prompt or a picture for its content, where no code says so.
    pub(crate) fn refuses_content(&self) -> bool {
        self.message.as_deref().is_some_and(refuses_content)
    }
}

/// What a reply that is not 2xx means: `told` is the vendor's own way to say it, the status
/// speaks where that says nothing.
pub(crate) fn refused(
    sent: SendKind,
    reply: &Reply,
    told: impl Fn(&Said) -> Option<Fault>,
) -> UpstreamError {
    let said = Said::in_reply(reply);
    // Asking how a job is going cannot be the caller's mistake.
    let told = told(&said).filter(|fault| sent == SendKind::Submit || *fault != Fault::Invalid);
    let fault = told.unwrap_or_else(|| match reply.status {
        400 | 403 | 422 if said.refuses_content() => Fault::Moderated,
        status => fault_at(sent, status),
    });
    // Only the vendor's own words can say that the caller is wrong; a proxy's page cannot.
    let fault = match fault {
        Fault::Invalid if said.message.is_none() => Fault::Malformed,
        fault => fault,
    };
    refusal(fault, reply, said.message.as_deref()).code(said.code).param(said.param)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_are_found_wherever_they_are() {
        for (body, message, code, param) in [
            (
                json!({"error": {"message": "no", "type": "t", "param": "size", "code": "c"}}),
                Some("no"),
                Some("c"),
                Some("size"),
            ),
            (json!({"error": {"message": "no", "type": "t"}}), Some("no"), Some("t"), None),
            (json!({"code": "c", "error": "no"}), Some("no"), Some("c"), None),
            (json!({"code": "c", "message": "no"}), Some("no"), Some("c"), None),
            (json!({"detail": {"error": "no"}}), Some("no"), None, None),
            (
                json!({"detail": [{"loc": ["body", "seed"], "msg": "no", "type": "int"}]}),
                Some("no"),
                Some("int"),
                Some("seed"),
            ),
            (json!({"error": "", "message": "no"}), Some("no"), None, None),
            (json!({"error": {"code": 7}, "message": "no"}), Some("no"), None, None),
            (json!({"detail": [{"msg": "no"}], "error": "other"}), Some("no"), None, None),
            (json!({"detail": null, "message": "no"}), Some("no"), None, None),
            (json!({"status": 7}), None, None, None),
            (Value::Null, None, None, None),
        ] {
            let said = Said::of(&body);
            let got = (said.message.as_deref(), said.code.as_deref(), said.param.as_deref());
            assert_eq!(got, (message, code, param), "{body}");
        }
    }
}
