//! `GET /v1/models` and `/v1/models/{id}`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    Extension, Json,
    extract::{Query, State},
};
use providers::catalog::{Deployment, SizeRule, Task};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{App, auth::Tenant, path::Path};
use crate::{
    engine::{
        registry::{Resolved, Served},
        unresolved,
    },
    error::Error,
    media::plan,
};

/// What the query may say.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Options {
    #[serde(default)]
    expand: bool,
}

/// Every name that can be called now: public names, routes and provider slugs.
#[utoipa::path(
    get,
    path = "/v1/models",
    params(("expand" = Option<bool>, Query, description = "add what each model can do")),
    responses((status = 200, description = "OpenAI's list shape", body = Object)),
    security(("key" = []))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    options: Result<Query<Options>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Error> {
    let Query(options) =
        options.map_err(|e| Error::invalid("expand", e.body_text().to_lowercase()))?;
    let registry = &app.engine.registry;
    let mut names: BTreeSet<String> = BTreeSet::new();
    for served in registry.served() {
        names.insert(served.deployment.model.clone());
        names.insert(served.slug());
    }
    names.extend(registry.routes().keys().cloned());
    let data: Vec<Value> = names
        .iter()
        .filter(|name| tenant.check_model(name).is_ok())
        .filter_map(|name| Some((name, registry.resolve(name).ok()?)))
        .map(|(name, resolved)| model(name, &resolved, options.expand))
        .collect();
    Ok(Json(json!({ "object": "list", "data": data })))
}

/// One name, and what it can do.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    params(("id" = String, Path, description = "slashes as they are or as %2F")),
    responses(
        (status = 200, description = "OpenAI's model shape and a mediagate object", body = Object),
        (status = 404, description = "no such model", body = super::shape::ErrorResponse),
    ),
    security(("key" = []))
)]
pub(super) async fn retrieve(
    State(app): State<Arc<App>>,
    Extension(tenant): Extension<Tenant>,
    Path(id): Path,
) -> Result<Json<Value>, Error> {
    tenant.check_model(&id)?;
    let resolved = app.engine.registry.resolve(&id).map_err(|why| unresolved(&id, why))?;
    Ok(Json(model(&id, &resolved, true)))
}

fn model(name: &str, resolved: &Resolved, expand: bool) -> Value {
    let mut owners = resolved.deployments.iter().map(|s| s.deployment.provider.as_str());
    let owner = owners.next().filter(|first| owners.all(|owner| owner == *first));
    let owner = owner.unwrap_or("mediagate");
    // The catalogue knows no birthdays; OpenAI's shape wants a number.
    let mut model = json!({ "id": name, "object": "model", "created": 0, "owned_by": owner });
    if expand {
        model["mediagate"] = details(resolved);
    }
    model
}

fn details(resolved: &Resolved) -> Value {
    let deployments: Vec<&Deployment> =
        resolved.deployments.iter().map(|s| &s.deployment).collect();
    let any = |has: fn(&Deployment) -> bool| deployments.iter().any(|d| has(d));
    json!({
        "task": deployments.first().map(|d| d.task),
        "tasks": deployments.iter().map(|d| d.task).collect::<BTreeSet<_>>(),
        "model": resolved.model,
        "providers": resolved.deployments.iter().map(|s| deployment(s)).collect::<Vec<_>>(),
        "capabilities": {
            "seed": any(|d| d.wire.seed.is_some()),
            "negative_prompt": any(|d| d.wire.negative_prompt.is_some()),
            "transparent_background": any(Deployment::draws_transparent),
            "quality": any(|d| d.wire.quality.is_some()),
        },
        "parameters": parameters(&deployments),
        "sizes": deployments
            .iter()
            .map(|d| (named(d), sizes(&d.size)))
            .collect::<BTreeMap<_, _>>(),
        "pricing": deployments.iter().map(|d| (named(d), pricing(d))).collect::<BTreeMap<_, _>>(),
    })
}

/// A deployment's slug, with what it does where that is not to draw from words.
fn named(deployment: &Deployment) -> String {
    match deployment.task {
        Task::ImageGenerate => deployment.slug(),
        task => format!("{} {}", deployment.slug(), task.name()),
    }
}

fn deployment(served: &Served) -> Value {
    let d = &served.deployment;
    let takes = d.task.takes_pictures();
    json!({
        "task": d.task,
        "images": takes.then_some(d.inputs.images),
        "mask": takes.then_some(d.inputs.mask.is_some()),
        "scale_factors": takes.then_some(&d.inputs.factors),
        "deployment": d.slug(),
        "provider": d.provider,
        "upstream": served.upstream,
        "native_n": d.n,
        "formats": d.formats,
        "confidence": d.confidence,
        "retires": d.retires,
        "simulated": served.simulated,
    })
}

/// The parameters any deployment honours, typed as an enum, a range or a boolean.
fn parameters(deployments: &[&Deployment]) -> Value {
    let mut all = Map::new();
    all.insert("n".into(), json!({"type": "range", "min": 1, "max": 10}));
    all.insert(
        "output_format".into(),
        json!({"type": "enum", "values": ["png", "jpeg", "webp", "avif", "gif"]}),
    );
    all.insert("output_compression".into(), json!({"type": "range", "min": 0, "max": 100}));
    all.insert("response_format".into(), json!({"type": "enum", "values": ["b64_json", "url"]}));
    all.insert(
        "fit".into(),
        json!({"type": "enum", "values": ["cover", "pad", "stretch", "contain", "none"]}),
    );
    all.insert("strict".into(), json!({"type": "boolean"}));
    if deployments.iter().any(|d| d.wire.seed.is_some()) {
        all.insert("seed".into(), json!({"type": "range", "min": 0, "max": u32::MAX}));
    }
    for (name, choice) in [
        ("quality", deployments.iter().find_map(|d| d.wire.quality.as_ref())),
        ("background", deployments.iter().find_map(|d| d.wire.background.as_ref())),
        ("style", deployments.iter().find_map(|d| d.wire.style.as_ref())),
    ] {
        if let Some(choice) = choice {
            let values: Vec<&String> = choice.values.keys().collect();
            all.insert(name.into(), json!({"type": "enum", "values": values}));
        }
    }
    Value::Object(all)
}

fn sizes(rule: &SizeRule) -> Value {
    let mut shown = json!({ "rule": rule.kind(), "examples": plan::examples(rule) });
    if let SizeRule::Grid { multiple_of, min, max, min_pixels, max_pixels, max_ratio } = rule {
        shown["multiple_of"] = json!(multiple_of);
        shown["min"] = json!(min);
        shown["max"] = json!(max);
        shown["min_pixels"] = json!(min_pixels);
        shown["max_pixels"] = json!(max_pixels);
        shown["max_ratio"] = json!(max_ratio);
    }
    shown
}

fn pricing(deployment: &Deployment) -> Vec<Value> {
    deployment
        .price
        .iter()
        .map(|line| {
            json!({
                "unit": line.unit.name(),
                "usd": line.usd.to_string(),
                "per": line.per,
                "quality": line.quality,
                "tier": line.tier,
                "max_pixels": line.max_pixels,
            })
        })
        .collect()
}
