//! The simulator over a real socket: raw conversations with each vendor, its refusals, its
//! faults, and the fixtures that the adapters must satisfy too.

mod edits;
mod faults;
mod fixtures;
mod hooks;
mod queues;
mod refusals;
mod sync;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use mediagate::{
    media::fetch::install_tls,
    sim::{SimSettings, serve},
};
use reqwest::{Client, Method, redirect::Policy};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A running simulator and a client of it.
struct Simulator {
    base: String,
    client: Client,
}

/// A reply, read to its end.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    bytes: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

fn quick() -> SimSettings {
    SimSettings { queue_s: 0.1, run_s: 0.1, sigma: 0.0, ..SimSettings::default() }
}

impl Simulator {
    async fn start(settings: SimSettings) -> Self {
        install_tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve(listener, settings));
        let client = Client::builder()
            .redirect(Policy::none())
            .timeout(Duration::from_mins(3))
            .build()
            .unwrap();
        Self { base, client }
    }

    /// The whole conversation of a request, or why it broke.
    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Result<Answer, reqwest::Error> {
        let url =
            if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        let mut request = self.client.request(Method::from_bytes(method.as_bytes()).unwrap(), url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let reply = request.body(body).send().await?;
        let (status, headers) = (reply.status().as_u16(), reply.headers().clone());
        Ok(Answer { status, headers, bytes: reply.bytes().await? })
    }

    async fn get(&self, path: &str, auth: (&str, &str)) -> Answer {
        self.send("GET", path, &[auth], "").await.unwrap()
    }

    async fn post(&self, path: &str, auth: (&str, &str), body: &Value) -> Answer {
        let headers = [auth, ("content-type", "application/json")];
        self.send("POST", path, &headers, body.to_string()).await.unwrap()
    }

    /// Downloads without a key.
    async fn download(&self, url: &Value) -> Answer {
        self.send("GET", url.as_str().unwrap(), &[], "").await.unwrap()
    }

    /// Asks until the reply is as wanted.
    async fn until(
        &self,
        url: &Value,
        auth: (&str, &str),
        wanted: impl Fn(&Answer) -> bool,
    ) -> Answer {
        let start = Instant::now();
        loop {
            let answer = self.get(url.as_str().unwrap(), auth).await;
            if wanted(&answer) {
                return answer;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "never: {answer:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A vendor as the tests talk to it: the cheapest picture it makes.
#[derive(Clone, Copy, Debug)]
struct Vendor {
    name: &'static str,
    auth: (&'static str, &'static str),
    submit: &'static str,
}

const OPENAI: Vendor = Vendor {
    name: "openai",
    auth: ("authorization", "Bearer sk-test"),
    submit: "/openai/v1/images/generations",
};
const AZURE: Vendor = Vendor {
    name: "azure",
    auth: ("api-key", "test"),
    submit: "/azure/openai/deployments/gpt-image-2/images/generations?api-version=2025-04-01-preview",
};
const TOGETHER: Vendor = Vendor {
    name: "together",
    auth: ("authorization", "Bearer test"),
    submit: "/together/v1/images/generations",
};
const FAL: Vendor = Vendor {
    name: "fal",
    auth: ("authorization", "Key id:secret"),
    submit: "/fal/fal-ai/flux/dev",
};
const REPLICATE: Vendor = Vendor {
    name: "replicate",
    auth: ("authorization", "Bearer r8_test"),
    submit: "/replicate/v1/models/black-forest-labs/flux-schnell/predictions",
};
const BFL: Vendor = Vendor { name: "bfl", auth: ("x-key", "test"), submit: "/bfl/v1/flux-2-pro" };
const GEMINI: Vendor = Vendor {
    name: "gemini",
    auth: ("x-goog-api-key", "test"),
    submit: "/gemini/v1beta/models/gemini-3.1-flash-image:generateContent",
};
const STABILITY: Vendor = Vendor {
    name: "stability",
    auth: ("authorization", "Bearer sk-test"),
    submit: "/stability/v2beta/stable-image/generate/core",
};
const ALL: [Vendor; 8] = [OPENAI, AZURE, TOGETHER, FAL, REPLICATE, BFL, GEMINI, STABILITY];

impl Vendor {
    /// A valid request, small and with this prompt.
    fn body(&self, prompt: &str) -> Value {
        match self.name {
            "openai" => json!({"model": "gpt-image-2", "prompt": prompt}),
            "together" => json!({
                "model": "black-forest-labs/FLUX.1-schnell", "prompt": prompt,
                "width": 256, "height": 256,
            }),
            "fal" => json!({"prompt": prompt, "image_size": {"width": 256, "height": 128}}),
            "replicate" => json!({"input": {"prompt": prompt, "megapixels": "0.25"}}),
            "bfl" => json!({"prompt": prompt, "width": 128, "height": 256}),
            "gemini" => json!({
                "contents": [{"role": "user", "parts": [{"text": prompt}]}],
                "generationConfig": {
                    "responseModalities": ["IMAGE"], "imageConfig": {"imageSize": "512"},
                },
            }),
            _ => json!({"prompt": prompt}),
        }
    }

    /// Submits through a prefix (empty, or `/x/...`).
    async fn submit(
        &self,
        sim: &Simulator,
        prefix: &str,
        prompt: &str,
    ) -> Result<Answer, reqwest::Error> {
        let path = format!("{prefix}{}", self.submit);
        if self.name == "stability" {
            let (kind, body) = form(&[("prompt", prompt)]);
            return sim.send("POST", &path, &[self.auth, ("content-type", &kind)], body).await;
        }
        let headers = [self.auth, ("content-type", "application/json")];
        sim.send("POST", &path, &headers, self.body(prompt).to_string()).await
    }

    /// Where the reply to a submit says that the state can be asked; none if it has no jobs.
    fn poll(&self, submitted: &Value) -> Option<Value> {
        let pointer = match self.name {
            "fal" => "/status_url",
            "replicate" => "/urls/get",
            "bfl" => "/polling_url",
            _ => return None,
        };
        Some(submitted.pointer(pointer).unwrap().clone())
    }

    /// The job's end, and where its picture is.
    async fn finish(&self, sim: &Simulator, submitted: &Value) -> (Answer, Value) {
        let ended = |answer: &Answer| {
            let words = ["COMPLETED", "succeeded", "failed", "Pending"];
            let status = answer.json()["status"].as_str().unwrap_or_default().to_owned();
            if self.name == "bfl" { status != "Pending" } else { words.contains(&status.as_str()) }
        };
        let mut last = sim.until(&self.poll(submitted).unwrap(), self.auth, ended).await;
        if self.name == "fal" {
            last = sim.get(submitted["response_url"].as_str().unwrap(), self.auth).await;
        }
        let pointer = match self.name {
            "fal" => "/images/0/url",
            "replicate" => "/output/0",
            _ => "/result/sample",
        };
        let url = last.json().pointer(pointer).cloned().unwrap_or_default();
        (last, url)
    }
}

/// A form and its content type.
fn form(fields: &[(&str, &str)]) -> (String, String) {
    let boundary = "a-boundary-of-the-tests";
    let head = "Content-Disposition: form-data; name=";
    let parts: Vec<String> = fields
        .iter()
        .map(|(name, text)| format!("--{boundary}\r\n{head}\"{name}\"\r\n\r\n{text}\r\n"))
        .collect();
    let body = format!("{}--{boundary}--\r\n", parts.concat());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

/// The size and format of a picture, decoded whole.
fn decoded(bytes: &[u8]) -> (u32, u32, image::ImageFormat) {
    let picture = image::load_from_memory(bytes).unwrap();
    (picture.width(), picture.height(), image::guess_format(bytes).unwrap())
}
