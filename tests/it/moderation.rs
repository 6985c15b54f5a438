//! Content that a provider refuses, in each vendor's form: the caller's 400, and nobody else is
//! asked.

use serde_json::{Value, json};

use crate::support::{
    Gateway, Reply, Upstream, each, pictures,
    vendors::{self, GEMINI, STABILITY},
};

/// A way to refuse: where it is scripted, the model that is asked, and the deployment after it.
struct Case {
    name: &'static str,
    model: &'static str,
    script: fn(&Upstream),
}

const CASES: &[Case] = &[
    Case {
        name: "OpenAI's 400",
        model: "openai/gpt-image-1-mini",
        script: |up| {
            up.on("POST", vendors::OPENAI, vendors::openai_error(400, "moderation_blocked"));
        },
    },
    Case {
        name: "fal's result",
        model: "fal/flux-1-dev",
        script: |up| {
            let detail = json!([{"loc": ["body", "prompt"], "msg": "flagged by a checker",
                "type": "content_policy_violation"}]);
            vendors::fal_job(up, Reply::json(422, &json!({ "detail": detail })));
        },
    },
    Case {
        name: "fal's blackened picture",
        model: "fal/flux-1-dev",
        script: |up| {
            up.on("GET", "/files/black.png", Reply::file("image/png", &pictures::png(64, 64)));
            let result = json!({"images": [{"url": up.url("/files/black.png")}],
                "has_nsfw_concepts": [true]});
            vendors::fal_job(up, Reply::json(200, &result));
        },
    },
    Case {
        name: "Replicate's failed prediction",
        model: "replicate/flux-1-dev",
        script: |up| {
            let state =
                vendors::replicate_state("failed", &Value::Null, Some("NSFW content detected"));
            vendors::replicate_job(up, state);
        },
    },
    Case {
        name: "BFL's moderated request",
        model: "bfl/flux-1-dev",
        script: |up| vendors::bfl_job(up, vendors::bfl_state("Request Moderated")),
    },
    Case {
        name: "BFL's moderated content",
        model: "bfl/flux-1-dev",
        script: |up| vendors::bfl_job(up, vendors::bfl_state("Content Moderated")),
    },
    Case {
        name: "Gemini's blocked prompt",
        model: "gemini/nano-banana",
        script: |up| {
            let body = json!({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}});
            up.on("POST", GEMINI, Reply::json(200, &body));
        },
    },
    Case {
        name: "Gemini's unsafe picture",
        model: "gemini/nano-banana",
        script: |up| {
            let body = json!({"candidates": [{"finishReason": "IMAGE_SAFETY"}]});
            up.on("POST", GEMINI, Reply::json(200, &body));
        },
    },
    Case {
        name: "Stability's 403",
        model: "stability/stable-image-core",
        script: |up| {
            let body = json!({"name": "content_moderation", "errors": ["flagged"]});
            up.on("POST", STABILITY, Reply::json(403, &body));
        },
    },
    Case {
        name: "Stability's filtered picture",
        model: "stability/stable-image-core",
        script: |up| {
            let picture = Reply::file("image/png", &pictures::png(64, 64));
            up.on("POST", STABILITY, picture.header("finish-reason", "CONTENT_FILTERED"));
        },
    },
];

#[tokio::test]
async fn every_form_of_refusal_is_the_callers_400_and_nobody_else_is_asked() {
    each(CASES, async |case| {
        let upstream = Upstream::start().await;
        (case.script)(&upstream);
        upstream.on("POST", vendors::TOGETHER, vendors::openai(&[pictures::png(1024, 1024)]));
        let route = format!("routes.r.targets = [\"{}\", \"together/flux-1-schnell\"]", case.model);
        let ids = ["openai", "fal", "replicate", "bfl", "gemini", "stability", "together"];
        let gateway = Gateway::with(&upstream, &ids, &route).await;
        let answer = gateway.draw(json!({"model": "r", "prompt": "something bad"})).await;
        answer.error(400, "content_policy_violation", param(&answer.json()));
        assert_eq!(upstream.submits("/").len(), 1, "{}", case.name);
        let attempts = answer.attempts();
        assert_eq!(attempts, [(case.model.to_owned(), "moderated".to_owned())], "{}", case.name);
        assert_eq!(answer.json()["mediagate"]["cost"], Value::Null);
    })
    .await;
}

/// A vendor may name the field, and nothing else may stand there.
fn param(answer: &Value) -> Option<&str> {
    answer["error"]["param"].as_str().filter(|param| *param == "prompt")
}
