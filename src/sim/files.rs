//! Where results are hosted: an object store with signed URLs that expire.

use std::time::Duration;

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{StatusCode, header};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{
    Sim,
    exchange::{Exchange, bytes, with},
    faults::Kind,
    jobs::Job,
};

/// The URL of a job's picture.
pub(crate) fn url(x: &Exchange, job: &Job, index: usize) -> String {
    let recipe = job.work.as_ref().ok().and_then(|recipes| recipes.get(index));
    let extension = recipe.map_or("bin", |recipe| recipe.format.extension());
    let expires = x.sim.jobs.clock(expiry(job)) as u64;
    let file = format!("{}/{}/{index}.{extension}", job.vendor.name(), job.id);
    let signature = sign(&x.sim, &file, expires);
    format!("{}/files/{file}?expires={expires}&signature={signature}", x.origin)
}

fn expiry(job: &Job) -> Instant {
    match job.fault.as_ref().map(|fault| fault.kind) {
        Some(Kind::Expired) => job.created,
        _ => job.ends() + Duration::from_secs(job.vendor.keeps_s()),
    }
}

fn sign(sim: &Sim, file: &str, expires: u64) -> String {
    let mut hasher = Sha256::new();
    hasher.update(sim.secret);
    hasher.update(file.as_bytes());
    hasher.update(expires.to_be_bytes());
    hex::encode(&hasher.finalize()[..16])
}

/// The job a file belongs to.
pub(crate) fn job(x: &Exchange) -> Option<Job> {
    let [id, _] = x.path.as_slice() else { return None };
    x.sim.jobs.get(x.vendor, id)
}

/// Serves a picture.
pub(crate) async fn answer(x: &Exchange) -> Response {
    let [id, name] = x.path.as_slice() else { return refuse(404, "NoSuchKey", "no such file") };
    // An object store takes one kind of authorisation; a key sent to it is also a key leaked.
    let credentials = ["authorization", "x-key", "x-goog-api-key", "api-key"];
    if credentials.iter().any(|name| x.headers.contains_key(*name)) {
        return refuse(400, "InvalidArgument", "Only one auth mechanism allowed");
    }
    if x.method != http::Method::GET && x.method != http::Method::HEAD {
        return refuse(405, "MethodNotAllowed", "The specified method is not allowed");
    }
    let expires = x.query.get("expires").and_then(|text| text.parse().ok()).unwrap_or(0);
    let file = format!("{}/{id}/{name}", x.vendor.name());
    if x.query.get("signature") != Some(&sign(&x.sim, &file, expires)) {
        return refuse(403, "SignatureDoesNotMatch", "the signature does not match");
    }
    if expires as f64 <= x.sim.jobs.clock(Instant::now()) {
        return refuse(403, "AccessDenied", "Request has expired");
    }
    let index = name.split('.').next().and_then(|index| index.parse::<usize>().ok());
    let found = x.sim.jobs.get(x.vendor, id);
    let recipe = found.as_ref().and_then(|job| job.work.as_ref().ok()?.get(index?));
    let (Some(job), Some(recipe)) = (&found, recipe) else {
        return refuse(404, "NoSuchKey", "no such file");
    };
    if job.fault.as_ref().is_some_and(|fault| fault.kind == Kind::Redirect) {
        let to = [(header::LOCATION, "http://169.254.169.254/latest/meta-data/")];
        return (StatusCode::FOUND, to).into_response();
    }
    match x.sim.gallery.picture(recipe).await {
        Ok(picture) => {
            let response = bytes(StatusCode::OK, recipe.mime(), Body::from(picture));
            with(response, "cache-control", "private, max-age=600")
        }
        Err(error) => {
            tracing::error!(error, "the simulator could not draw");
            refuse(500, "InternalError", "the picture could not be drawn")
        }
    }
}

/// A refusal, as object stores word it.
pub(crate) fn refuse(status: u16, code: &str, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    bytes(status, "application/xml", body)
}
