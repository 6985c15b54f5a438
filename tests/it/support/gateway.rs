//! A gateway on a port of its own, and answers as a client sees them.

use std::{net::SocketAddr, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderMap;
use mediagate::{
    config::{Config, File},
    media::fetch::install_tls,
    serve::{self, Running},
};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use tempfile::TempDir;

use super::{Books, Upstream};

/// A configuration with these providers at a stand-in, each under its own name as path. Keys in
/// `more` (dotted, one a line) go before the defaults.
pub(crate) fn config(upstream: &Upstream, providers: &[&str], more: &str) -> String {
    let address = upstream.address;
    let mut lines = vec![
        "server.listen = \"127.0.0.1:0\"".to_owned(),
        "auth.mode = \"open\"".to_owned(),
        "store.kind = \"memory\"".to_owned(),
        format!("fetch.allow = [\"{address}\"]"),
    ];
    for id in providers {
        lines.push(format!("providers.{id}.api_key = \"secret-of-{id}\""));
        lines.push(format!("providers.{id}.base_url = \"http://{address}/{id}\""));
    }
    let key = |line: &str| line.split('=').next().unwrap().trim().to_owned();
    let given: Vec<String> = more.lines().map(key).collect();
    lines.retain(|line| !given.contains(&key(line)));
    lines.push(more.to_owned());
    lines.join("\n")
}

/// The line that puts the database into a directory.
pub(crate) fn database(directory: &Path) -> String {
    format!("database.url = \"sqlite://{}/mediagate.db\"\n", directory.display())
}

/// Reads a configuration as the command line would, without any environment.
pub(crate) fn parse(text: &str) -> Result<Config, mediagate::config::ConfigError> {
    parse_in(text, Path::new("data"))
}

/// The same with a data directory of its own.
fn parse_in(text: &str, data: &Path) -> Result<Config, mediagate::config::ConfigError> {
    let file = File { path: Path::new("mediagate.toml"), text };
    let data = data.to_str().unwrap();
    Config::parse(Some(file), &|name| (name == "MEDIAGATE_DATA_DIR").then(|| data.to_owned()))
}

/// A running gateway.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) client: Client,
    running: Running,
    /// Its database and what else is its own.
    pub(crate) data: TempDir,
}

impl Gateway {
    pub(crate) async fn start(config: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config).await
    }

    /// A gateway that finds what another has left.
    pub(crate) async fn start_in(data: TempDir, config: &str) -> Self {
        Self::start_with(data, config, |_| ()).await
    }

    /// The same with settings that are not for operators.
    pub(crate) async fn start_with(
        data: TempDir,
        config: &str,
        set: impl FnOnce(&mut Config),
    ) -> Self {
        install_tls();
        let mut config = parse_in(config, data.path()).unwrap_or_else(|e| panic!("{e}"));
        set(&mut config);
        let running = serve::start(config).await.unwrap_or_else(|e| panic!("{e:?}"));
        let client = Client::builder().no_proxy().build().unwrap();
        Self { address: running.address, client, running, data }
    }

    /// A gateway with these providers at a stand-in; see [`config`].
    pub(crate) async fn with(upstream: &Upstream, providers: &[&str], more: &str) -> Self {
        Self::start(&config(upstream, providers, more)).await
    }

    /// A request to the operator's listener.
    pub(crate) fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        let address = self.running.admin_address.unwrap();
        self.client.request(method, format!("http://{address}{path}"))
    }

    pub(crate) async fn shut_down(self) {
        self.stop().await;
    }

    /// Stops it, and gives what it leaves.
    pub(crate) async fn stop(self) -> TempDir {
        self.running.shut_down().await;
        self.data
    }

    /// What stands in its database.
    pub(crate) fn books(&self) -> Books {
        Books::at(&self.data.path().join("mediagate.db"))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, path)
            .header("content-type", "application/json")
            .body(body.to_string())
    }

    /// Asks for a picture.
    pub(crate) async fn draw(&self, body: Value) -> Answer {
        Answer::of(self.post("/v1/images/generations", &body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Codes after which a repeat costs nothing or joins.
const RETRIED: [&str; 7] = [
    "idempotency_in_flight",
    "rate_limit_exceeded",
    "providers_rate_limited",
    "overloaded",
    "no_provider_available",
    "job_still_running",
    "store_unavailable",
];

impl Answer {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await.unwrap(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.shown()))
    }

    /// The body for a message, without its pictures.
    pub(crate) fn shown(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let words = text.split('"').map(|word| if word.len() > 2000 { "..." } else { word });
        words.collect::<Vec<_>>().join("\"")
    }

    /// The JSON of a success.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.shown());
        self.json()
    }

    /// An error in OpenAI's shape with the right advice; gives its message.
    #[track_caller]
    pub(crate) fn error(&self, status: u16, code: &str, param: Option<&str>) -> String {
        let text = self.shown();
        assert_eq!(self.status, status, "{text}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{text}");
        let error = self.json()["error"].clone();
        assert_eq!(error["code"], code, "{text}");
        assert_eq!(error["param"], serde_json::json!(param), "{text}");
        let kind = match status {
            401 => "authentication_error",
            402 => "insufficient_quota",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        assert_eq!(error["type"], kind, "{text}");
        let retry = if RETRIED.contains(&code) { "true" } else { "false" };
        assert_eq!(self.header("x-should-retry"), Some(retry), "{text}");
        assert!(self.header("x-request-id").is_some(), "{text}");
        if let Some(wait) = self.header("retry-after") {
            let seconds: u64 = wait.parse().unwrap();
            let ms: u64 = self.header("retry-after-ms").unwrap().parse().unwrap();
            assert!(seconds <= 120 && ms == seconds * 1000, "{wait} and {ms} ms");
        }
        let message = error["message"].as_str().unwrap().to_owned();
        assert!(!message.is_empty());
        message
    }

    /// The deployments tried, with what became of each.
    pub(crate) fn attempts(&self) -> Vec<(String, String)> {
        let attempts = self.json()["mediagate"]["attempts"].clone();
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        let attempts = attempts.as_array().cloned().unwrap_or_default();
        attempts.iter().map(|a| (text(&a["deployment"]), text(&a["outcome"]))).collect()
    }

    /// The pictures of a base64 answer.
    #[track_caller]
    pub(crate) fn pictures(&self) -> Vec<Bytes> {
        let data = self.ok()["data"].as_array().unwrap().clone();
        let decode = |v: &Value| STANDARD.decode(v["b64_json"].as_str().unwrap()).unwrap().into();
        data.iter().map(decode).collect()
    }

    /// The only picture of a base64 answer.
    #[track_caller]
    pub(crate) fn picture(&self) -> Bytes {
        let pictures = self.pictures();
        assert_eq!(pictures.len(), 1);
        pictures[0].clone()
    }

    /// The links of an answer.
    #[track_caller]
    pub(crate) fn links(&self) -> Vec<String> {
        let data = self.ok()["data"].as_array().unwrap().clone();
        data.iter().map(|v| v["url"].as_str().unwrap().to_owned()).collect()
    }

    /// `mediagate.cost.usd`.
    #[track_caller]
    pub(crate) fn cost(&self) -> String {
        self.ok()["mediagate"]["cost"]["usd"].as_str().unwrap().to_owned()
    }
}
