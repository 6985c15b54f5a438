//! The processes: a simulator, gateways that can be ended and started again, and a client that
//! asks as the SDKs do.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use reqwest::Client;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::time::sleep;

const BINARY: &str = env!("CARGO_BIN_EXE_mediagate");
/// In every prompt, and nowhere else.
pub(super) const CANARY: &str = "canary-teapot";
/// The client's key.
const KEY: &str = "canary-key-of-a-client";
/// Our key at every provider.
const PROVIDER_KEY: &str = "canary-key-at-a-provider";
/// How long a client asks on.
const PATIENCE: Duration = Duration::from_secs(100);

/// A child that does not outlive its owner.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client that waits for as long as a job may take.
pub(super) fn client() -> Client {
    mediagate::media::fetch::install_tls();
    Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

/// The simulator as a process of its own.
#[derive(Debug)]
pub(super) struct Simulator {
    pub(super) address: String,
    client: Client,
    _process: Process,
}

impl Simulator {
    /// Jobs of a third of a second, with these faults now and then.
    pub(super) fn start(seed: u64, faults: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["simulate", "--listen", "127.0.0.1:0", "--sigma", "0.4"]);
        command.args(["--queue-s", "0.08", "--run-s", "0.25", "--seed", &seed.to_string()]);
        for fault in faults {
            command.args(["--fault", fault]);
        }
        let mut process = Process(command.env_clear().stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).unwrap().split(';').next().unwrap().to_owned();
        Self { address, client: client(), _process: process }
    }

    /// What it took and what it bills, by prompt.
    pub(super) async fn prompts(&self) -> BTreeMap<String, Count> {
        let url = format!("http://{}/sim/stats", self.address);
        let text = self.client.get(url).send().await.unwrap().text().await.unwrap();
        let stats: Value = serde_json::from_str(&text).unwrap();
        let number = |v: &Value, name: &str| v[name].as_u64().unwrap();
        let count = |v: &Value| Count { open: number(v, "open"), billed: number(v, "billed") };
        let prompts = stats["prompts"].as_object().unwrap();
        prompts.iter().map(|(prompt, v)| (prompt.clone(), count(v))).collect()
    }
}

/// What the simulator knows of a prompt.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub(super) open: u64,
    pub(super) billed: u64,
}

/// What a gateway is started with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup<'a> {
    /// Providers, each with the path of a fault before its own, or nothing.
    pub(super) providers: &'a [(&'a str, &'a str)],
    /// Whether providers push.
    pub(super) callbacks: bool,
    /// Further lines of the configuration.
    pub(super) more: &'a str,
}

/// A port that nobody has, below those that outgoing connections take.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id();
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + (start.wrapping_mul(97).wrapping_add(step) % 19_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A gateway that ends and starts again on the same port, with the same data.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) base: String,
    pub(super) data: PathBuf,
    config: PathBuf,
    process: Mutex<Option<Process>>,
    /// When it was started, each time.
    starts: Mutex<Vec<SystemTime>>,
    client: Client,
    dir: Option<TempDir>,
}

impl Gate {
    /// A gateway that was never started, on a SQLite file of its own.
    pub(super) fn new(simulator: &Simulator, setup: Setup<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().to_path_buf();
        let url = format!("sqlite://{}", data.join("mediagate.db").display());
        let gate = Self::at(simulator, setup, data, &url);
        Self { dir: Some(dir), ..gate }
    }

    /// A gateway on a database, with its other data in a directory.
    pub(super) fn at(simulator: &Simulator, setup: Setup<'_>, data: PathBuf, url: &str) -> Self {
        let (port, sim) = (free_port(), &simulator.address);
        let base = format!("http://127.0.0.1:{port}");
        let sha256 = hex::encode(Sha256::digest(KEY));
        let mut lines = vec![
            format!("server.listen = \"127.0.0.1:{port}\""),
            format!("server.public_url = \"{base}\""),
            format!("jobs.callbacks = {}", setup.callbacks),
            "auth.mode = \"keys\"".to_owned(),
            format!(
                "auth.static_keys = [{{ name = \"ci\", sha256 = \"{sha256}\", budget_usd = \"1000\" }}]"
            ),
            format!("database.url = \"{url}\""),
            format!("store.path = \"{}\"", data.join("media").display()),
            format!("fetch.allow = [\"{sim}\"]"),
            "log.format = \"json\"".to_owned(),
            "log.level = \"info,mediagate=debug\"".to_owned(),
        ];
        for (id, fault) in setup.providers {
            let mount = mediagate::sim::mount(id).unwrap();
            lines.push(format!("providers.{id}.api_key = \"{PROVIDER_KEY}\""));
            lines.push(format!("providers.{id}.base_url = \"http://{sim}{fault}{mount}\""));
        }
        lines.push(setup.more.to_owned());
        let config = data.join(format!("mediagate-{port}.toml"));
        fs::write(&config, lines.join("\n")).unwrap();
        Self {
            base,
            data,
            config,
            process: Mutex::new(None),
            starts: Mutex::default(),
            client: client(),
            dir: None,
        }
    }

    fn log_path(&self, start: usize) -> PathBuf {
        self.config.with_extension(format!("{start}.log"))
    }

    /// Starts the process, with a point at which it ends. Returns once it listens or has ended.
    pub(super) async fn start(&self, crash_at: Option<&str>) {
        self.start_with(&crash_at.map_or_else(Vec::new, |point| vec!["--crash-at", point])).await;
    }

    /// The same with any arguments.
    pub(super) async fn start_with(&self, arguments: &[&str]) {
        let number = self.starts();
        self.starts.lock().push(SystemTime::now());
        let log = File::create(self.log_path(number)).unwrap();
        let mut command = Command::new(BINARY);
        command.args(["serve", "--config", self.config.to_str().unwrap()]).env_clear();
        command.env("MEDIAGATE_DATA_DIR", &self.data);
        command.args(arguments);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        *self.process.lock() = Some(Process(child));
        let begun = Instant::now();
        loop {
            let ready = self.client.get(format!("{}/livez", self.base)).send().await;
            if ready.is_ok_and(|answer| answer.status() == 200) || self.ended().is_some() {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "does not start: {}", self.logs());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// How the process ended, if it did.
    pub(super) fn ended(&self) -> Option<ExitStatus> {
        self.process.lock().as_mut().and_then(|process| process.0.try_wait().unwrap())
    }

    /// Waits until the process has ended by itself.
    pub(super) async fn ends(&self) {
        let begun = Instant::now();
        while self.ended().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(30), "does not end: {}", self.logs());
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the process as `kill -9` does, if it still runs.
    pub(super) fn kill(&self) {
        *self.process.lock() = None;
    }

    /// Everything it ever logged.
    pub(super) fn logs(&self) -> String {
        (0..self.starts()).map(|start| fs::read_to_string(self.log_path(start)).unwrap()).collect()
    }

    /// How often it was started.
    pub(super) fn starts(&self) -> usize {
        self.starts.lock().len()
    }

    /// How long after a start each job was taken up again, of the starts from `first` on.
    pub(super) fn resumed(&self, first: usize) -> Vec<Duration> {
        let starts = self.starts.lock().clone();
        let mut resumed = Vec::new();
        for (number, since) in starts.iter().enumerate().skip(first) {
            let log = fs::read_to_string(self.log_path(number)).unwrap();
            for line in log.lines().filter(|line| line.contains("\"taken over\"")) {
                // A line that the end of the process cut short says nothing.
                let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
                let at = humantime::parse_rfc3339(line["timestamp"].as_str().unwrap()).unwrap();
                resumed.push(at.duration_since(*since).unwrap_or_default());
            }
        }
        resumed
    }

    /// One request as the SDK sends it the `n`th time.
    async fn post(&self, ask: &Ask, n: u32) -> Result<(u16, HeaderMap, Bytes), reqwest::Error> {
        let body = json!({
            "model": ask.model,
            "prompt": ask.prompt,
            "size": "512x512",
            "response_format": if ask.links { "url" } else { "b64_json" },
        });
        let mut request = self
            .client
            .post(format!("{}/v1/images/generations", self.base))
            .bearer_auth(KEY)
            .header("content-type", "application/json")
            .header("x-request-id", &ask.id)
            .header("x-stainless-retry-count", n.to_string());
        if ask.keyed {
            request = request.header("idempotency-key", format!("key-{}", ask.id));
        }
        let response = request.body(body.to_string()).send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok((status, headers, response.bytes().await?))
    }

    /// Asks until there is an answer that no client would ask beyond. `others` are asked in turn
    /// where this one does not answer.
    pub(super) async fn ask(&self, ask: &Ask, others: &[&Gate]) -> Fate {
        let begun = Instant::now();
        let gates: Vec<&Gate> = std::iter::once(self).chain(others.iter().copied()).collect();
        let mut at = 0;
        for n in 0.. {
            if begun.elapsed() > PATIENCE {
                break;
            }
            let Ok((status, headers, body)) = gates[at].post(ask, n).await else {
                at = (at + 1) % gates.len();
                sleep(Duration::from_millis(30)).await;
                continue;
            };
            let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
            let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
            if status == 200 {
                let job = answer["mediagate"]["job_id"].as_str().unwrap().to_owned();
                return Fate::Picture { job, sha256: self.sha256(ask, &answer).await };
            }
            let code = answer["error"]["code"].as_str().unwrap_or_default().to_owned();
            if text("x-should-retry") != Some("true") {
                return Fate::Refused { status, code };
            }
            let wait = text("retry-after-ms").and_then(|ms| ms.parse().ok()).unwrap_or(200);
            sleep(Duration::from_millis(wait.min(400))).await;
        }
        Fate::Never
    }

    /// What came, or where it came from, as a hash.
    async fn sha256(&self, ask: &Ask, answer: &Value) -> String {
        let bytes: Bytes = if ask.links {
            let url = answer["data"][0]["url"].as_str().unwrap();
            match self.client.get(url).send().await {
                Ok(reply) => reply.bytes().await.unwrap_or_default(),
                // It may end before its link is followed.
                Err(_) => Bytes::new(),
            }
        } else {
            STANDARD.decode(answer["data"][0]["b64_json"].as_str().unwrap()).unwrap().into()
        };
        if bytes.is_empty() {
            return answer["mediagate"]["outputs"][0]["sha256"].as_str().unwrap().to_owned();
        }
        hex::encode(Sha256::digest(&bytes))
    }

    /// What is wrong with the stored result of a job whose caller got this picture.
    pub(super) async fn check_result(&self, ask: &Ask, job: &str, sha256: &str) -> Option<String> {
        let url = format!("{}/v1/jobs/{job}/result", self.base);
        let Ok(response) = self.client.get(url).bearer_auth(KEY).send().await else {
            return Some("the gateway is gone".to_owned());
        };
        let (status, body) = (response.status().as_u16(), response.bytes().await.unwrap());
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status != 200 {
            return Some(format!("its result is {status} {}", answer["error"]["code"]));
        }
        let stored = self.sha256(ask, &answer).await;
        (stored != sha256).then(|| format!("its result is {stored}, and {sha256} was answered"))
    }

    /// Leaves its directory for a look at what went wrong, and says where.
    pub(super) fn leave(&mut self) -> PathBuf {
        self.dir.take().map(TempDir::keep);
        self.data.clone()
    }

    /// Secrets that stand where they must not, in the data directory and what was logged.
    pub(super) fn leaks(&self) -> Vec<String> {
        let canaries = [CANARY, KEY, PROVIDER_KEY];
        let mut found = Vec::new();
        let mut todo = vec![self.data.clone()];
        while let Some(path) = todo.pop() {
            if path.is_dir() {
                todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                continue;
            }
            let is_config = path.extension().is_some_and(|ext| ext == "toml");
            // What is swept meanwhile holds nothing.
            let bytes = fs::read(&path).unwrap_or_default();
            for canary in canaries {
                if !is_config && memchr::memmem::find(&bytes, canary.as_bytes()).is_some() {
                    found.push(format!("{canary} is in {}", path.display()));
                }
            }
        }
        found
    }
}

/// What a client wants.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) id: String,
    pub(super) model: String,
    pub(super) prompt: String,
    /// Whether it sends an `Idempotency-Key`.
    pub(super) keyed: bool,
    /// Whether it wants links.
    pub(super) links: bool,
}

impl Ask {
    /// A request like no other; `words` may name a fault.
    pub(super) fn new(model: &str, words: &str) -> Self {
        let id = format!("ask-{}", uuid::Uuid::new_v4().simple());
        let prompt = format!("{CANARY} {id} {words}");
        Self { id, model: model.to_owned(), prompt, keyed: false, links: false }
    }
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Picture {
        job: String,
        sha256: String,
    },
    Refused {
        status: u16,
        code: String,
    },
    /// It asked in vain.
    Never,
}
