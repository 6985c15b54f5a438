//! What a wrong configuration gets before any socket opens, and what a start finds.

use std::error::Error as _;

use mediagate::serve;
use providers::catalog::EMBEDDED;

use crate::support::{Upstream, config, gateway::parse};

#[track_caller]
fn refused(text: &str, expected: &[&str]) {
    let error = parse(text).expect_err(text).to_string();
    for part in expected {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
    assert!(!error.contains("very-secret"), "{error}");
}

#[test]
fn mistakes_are_named_with_what_would_fix_them() {
    let listen = "[server]\nlisten = \"127.0.0.1:4000\"\n";
    for (text, expected) in [
        ("[server]\nlissten = \"x\"", vec!["mediagate.toml:2", "lissten", "listen"]),
        ("[servr]\nlisten = \"x\"", vec!["servr", "server"]),
        ("[providers.fall]\napi_key = \"very-secret\"", vec!["fall", "fal"]),
        ("[providers.fal]\napi_kee = \"very-secret\"", vec!["api_kee", "api_key"]),
        ("[providers.fal]\ndisabled = false", vec!["providers.fal.api_key", "FAL_KEY"]),
        ("[providers.fal]\napi_key = \"${NOT_SET}\"", vec!["NOT_SET"]),
        (&format!("{listen}admin_listen = \"127.0.0.1:4000\""), vec!["admin_listen", "4000"]),
        (&format!("{listen}admin_listen = \"0.0.0.0:4000\""), vec!["admin_listen", "4000"]),
        (
            "[server]\nlisten = \"0.0.0.0:4000\"\n[auth]\nmode = \"open\"",
            vec!["auth.mode", "127.0.0.1"],
        ),
        ("[server]\nlisten = \"4000\"", vec!["server.listen", "127.0.0.1:4000"]),
        ("[routes.r]\ntargets = [\"flux-1-devv\"]", vec!["flux-1-devv", "flux-1-dev"]),
        ("[routes.r]\ntargets = []", vec!["routes.r.targets"]),
        ("[auth]\nstatic_keys = [{ name = \"a\", sha256 = \"very-secret\" }]", vec!["sha256"]),
        ("[fetch]\nallow = [\"http://a\"]", vec!["fetch.allow", "127.0.0.1:9900"]),
        ("[jobs]\nambiguous_job_cap_usd = \"-1\"", vec!["ambiguous_job_cap_usd"]),
        ("[store]\nkind = \"s3\"", vec!["store.bucket", "store.region"]),
        ("not toml at all", vec!["mediagate.toml"]),
    ] {
        refused(text, &expected);
    }
    // All at once.
    refused("[server]\nlissten = 1\n[jobs]\nmax_attempts = 0", &["lissten", "max_attempts"]);
}

#[test]
fn prices_that_are_none_are_refused() {
    let (_, fal) = EMBEDDED.iter().find(|(name, _)| *name == "fal").unwrap();
    for (price, complaint) in [
        ("\"cheap\"", "cheap"),
        ("\"-0.003\"", "price"),
        ("0.003", "usd"),
        ("\"0.0000000000003\"", "0.0000000000003"),
    ] {
        let text = fal.replace("usd = \"0.003\"", &format!("usd = {price}"));
        assert_ne!(text, **fal);
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("fal.toml"), text).unwrap();
        let config = format!("[catalog]\ndir = \"{}\"", directory.path().display());
        let error = parse(&config).expect_err(price).to_string().to_lowercase();
        assert!(error.contains("catalog.dir") && error.contains("fal"), "{price}: {error}");
        assert!(error.contains(complaint), "{price}: {error}");
    }
}

/// The start's error with its causes.
async fn start_fails(text: &str) -> String {
    let error = serve::start(parse(text).unwrap()).await.expect_err("must not start");
    let mut chain = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        chain.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    chain
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let upstream = Upstream::start().await;
    let taken = format!("server.listen = \"{}\"", upstream.address);
    let error = start_fails(&config(&upstream, &["fal"], &taken)).await;
    assert!(error.contains(&upstream.address.to_string()), "{error}");
    let taken = format!("server.admin_listen = \"{}\"", upstream.address);
    let error = start_fails(&config(&upstream, &["fal"], &taken)).await;
    assert!(error.contains(&upstream.address.to_string()), "{error}");
}

#[tokio::test]
async fn a_store_that_cannot_be_made_is_named() {
    let upstream = Upstream::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    for path in [file.clone(), file.join("media")] {
        let store = format!("store.kind = \"disk\"\nstore.path = \"{}\"", path.display());
        let error = start_fails(&config(&upstream, &["fal"], &store)).await;
        assert!(error.contains("store") || error.contains("kept in"), "{error}");
        assert!(error.contains("file"), "{error}");
    }
    // A damaged key for links is not silently replaced: old links would die.
    std::fs::write(directory.path().join("media-links.key"), "damaged").unwrap();
    let path = directory.path().join("media");
    let store = format!("store.kind = \"disk\"\nstore.path = \"{}\"", path.display());
    let error = start_fails(&config(&upstream, &["fal"], &store)).await;
    assert!(error.contains("links"), "{error}");
}
