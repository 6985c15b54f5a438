//! The command line beside a running gateway, and what is found of secrets afterwards.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    Upstream, config,
    gateway::database,
    pictures,
    vendors::{self, GEMINI},
};

const BINARY: &str = env!("CARGO_BIN_EXE_mediagate");
const OPERATOR: &str = "canary-of-the-operator-0123";
const PROVIDER_KEY: &str = "canary-of-a-project-at-fal";
const STATIC: &str = "canary-of-a-static-key";

/// The real binary with a log that says everything.
struct Program {
    child: Child,
    log: Option<std::thread::JoinHandle<String>>,
    directory: tempfile::TempDir,
    data: String,
    admin: String,
    client: reqwest::Client,
    _upstream: Upstream,
}

fn free() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Program {
    async fn start() -> Self {
        mediagate::media::fetch::install_tls();
        let upstream = Upstream::start().await;
        upstream.on("POST", GEMINI, vendors::gemini(&pictures::png(64, 64)));
        let directory = tempfile::tempdir().unwrap();
        let (data, admin) = (free(), free());
        let sha256 = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(STATIC));
        let more = format!(
            "server.listen = \"{data}\"\nserver.admin_listen = \"{admin}\"\n\
             log.format = \"json\"\nlog.level = \"trace\"\n\
             auth.mode = \"keys\"\nauth.admin_key = \"{OPERATOR}\"\n\
             auth.static_keys = [{{ name = \"ci\", sha256 = \"{sha256}\" }}]"
        );
        let text = database(directory.path()) + &config(&upstream, &["gemini"], &more);
        fs::write(directory.path().join("mediagate.toml"), text).unwrap();
        let mut child = Command::new(BINARY)
            .arg("serve")
            .current_dir(directory.path())
            .env_clear()
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut pipe = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut log = Vec::new();
            pipe.read_to_end(&mut log).unwrap();
            String::from_utf8_lossy(&log).into_owned()
        });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let program =
            Self { child, log: Some(log), directory, data, admin, client, _upstream: upstream };
        let begun = Instant::now();
        let ready = format!("http://{}/readyz", program.admin);
        while program.client.get(&ready).send().await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        program
    }

    fn command(&self, words: &[&str]) -> Output {
        Command::new(BINARY)
            .args(words)
            .current_dir(self.directory.path())
            .env_clear()
            .output()
            .unwrap()
    }

    #[track_caller]
    fn said(&self, words: &[&str]) -> String {
        let output = self.command(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    async fn models(&self, key: &str) -> u16 {
        let url = format!("http://{}/v1/models", self.data);
        self.client.get(url).bearer_auth(key).send().await.unwrap().status().as_u16()
    }

    async fn ask(&self, key: &str, url: &str, body: &Value) -> (u16, String) {
        let request = self.client.post(url).bearer_auth(key);
        let request = request.header("content-type", "application/json").body(body.to_string());
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Ends the program and gives its log.
    fn end(mut self) -> (String, tempfile::TempDir) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let log = self.log.take().unwrap().join().unwrap();
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap());
        (log, directory)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

#[tokio::test]
async fn the_command_line_works_beside_a_running_gateway() {
    let program = Program::start().await;
    // Made by another process: works at once.
    let key = program.said(&["keys", "create", "--name", "ci", "--expires", "30d"]);
    assert!(key.starts_with("mg_") && !key.contains(char::is_whitespace), "{key}");
    assert_eq!(program.models(&key).await, 200);
    let made: Value =
        serde_json::from_str(&program.said(&["keys", "create", "--name", "two", "--json"]))
            .unwrap();
    assert_eq!(program.models(made["key"].as_str().unwrap()).await, 200);
    // Revoked by another process: refused within a second. The whole key may be given.
    assert_eq!(program.said(&["keys", "revoke", &key]), format!("revoked {}", &key[..19]));
    let begun = Instant::now();
    while program.models(&key).await == 200 {
        assert!(begun.elapsed() < Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(program.models(&key).await, 401);
    let listed = program.said(&["keys", "list"]);
    assert!(listed.contains("revoked") && listed.contains("two"), "{listed}");
    assert!(!listed.contains(&key[20..]), "{listed}");
    // Over the admin listener the same is said.
    let url = format!("http://{}", program.admin);
    let there = ["--url", &url, "--admin-key", OPERATOR];
    let far = |words: &[&'static str]| [words, &there].concat();
    assert_eq!(program.said(&far(&["keys", "list"])), listed);
    let project = program.said(&far(&["projects", "create", "--name", "site"]));
    let words = ["keys", "create", "--name", "far", "--project", "site", "--json"];
    let made: Value = serde_json::from_str(&program.said(&far(&words))).unwrap();
    assert_eq!(made["project"], json!(project));
    assert_eq!(program.models(made["key"].as_str().unwrap()).await, 200);
    assert!(program.said(&["projects", "list"]).contains(&project));
    let id = made["id"].as_str().unwrap().to_owned();
    program.said(&[&["keys", "revoke", id.as_str()][..], &there].concat());
    assert_eq!(program.models(made["key"].as_str().unwrap()).await, 401);
    for (words, code, part) in [
        (vec!["keys", "create"], 2, "--name"),
        (vec!["keys", "create", "--name", ""], 2, "1 to 100"),
        (vec!["keys", "create", "--name", "x", "--budget-usd", "-1"], 2, "below zero"),
        (vec!["keys", "create", "--name", "x", "--period", "day"], 2, "--budget-usd"),
        (vec!["keys", "create", "--name", "x", "--expires", "soon"], 2, "soon"),
        (vec!["keys", "create", "--name", "x", "--project", "nope"], 1, "nope"),
        (vec!["keys", "revoke", "mg_0123456789abcdef"], 1, "no key"),
        (vec!["keys", "list", "--admin-key", "k"], 2, "--url"),
        (vec!["keys", "list", "--url", &url], 2, "MEDIAGATE_ADMIN_KEY"),
        (vec!["keys", "list", "--url", &url, "--admin-key", "wrong"], 1, "not known"),
        (vec!["keys", "list", "--url", "4001", "--admin-key", "k"], 2, "http://127.0.0.1:4001"),
        (vec!["keys", "list", "--config", "none.toml"], 2, "none.toml"),
    ] {
        let output = program.command(&words);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        assert!(text.contains(part), "{words:?}: {text}");
        assert!(output.stdout.is_empty(), "{words:?}");
    }
}

#[tokio::test]
async fn no_secret_is_left_behind() {
    let program = Program::start().await;
    let (data, admin) = (program.data.clone(), program.admin.clone());
    let (draw, keys) =
        (format!("http://{data}/v1/images/generations"), format!("http://{admin}/admin/v1/keys"));
    let mut secrets = vec![OPERATOR.to_owned(), PROVIDER_KEY.to_owned(), STATIC.to_owned()];
    let mut shown = String::new();
    for (path, body) in [
        ("keys", json!({"name": "ci", "budget_usd": "5"})),
        ("admin-keys", json!({"name": "o", "role": "viewer"})),
        ("provider-keys", json!({"project": "default", "provider": "fal", "key": PROVIDER_KEY})),
    ] {
        let url = format!("http://{admin}/admin/v1/{path}");
        let (status, text) = program.ask(OPERATOR, &url, &body).await;
        assert_eq!(status, 201, "{text}");
        let body: Value = serde_json::from_str(&text).unwrap();
        secrets.extend(body["key"].as_str().map(|key| key[20..].to_owned()));
        // The third answer shows nothing.
        assert_eq!(body["key"].is_string(), path != "provider-keys", "{text}");
        assert!(!text.contains(PROVIDER_KEY), "{text}");
    }
    secrets.push(program.said(&["keys", "create", "--name", "cli"])[20..].to_owned());
    assert_eq!(secrets.len(), 6);
    let whole: Vec<String> = {
        let text = program.said(&["keys", "create", "--name", "used"]);
        secrets.push(text[20..].to_owned());
        vec![text, STATIC.to_owned(), OPERATOR.to_owned()]
    };
    // Used rightly, and in every wrong way.
    for key in &whole {
        let picture = json!({"model": "nano-banana", "prompt": "a teapot"});
        for body in [picture.clone(), json!({"model": "none", "prompt": "x"}), json!("x")] {
            shown += &program.ask(key, &draw, &body).await.1;
        }
        for body in [json!({"key": key}), json!({"name": key.repeat(9)})] {
            shown += &program.ask(key, &keys, &body).await.1;
        }
        let cut = &key[..key.len() - 1];
        shown += &program.ask(cut, &draw, &picture).await.1;
        let provider = json!({"project": "default", "provider": key, "key": key});
        let url = format!("http://{admin}/admin/v1/provider-keys");
        let (status, text) = program.ask("wrong", &url, &provider).await;
        assert_eq!(status, 401);
        shown += &text;
    }
    for path in ["metrics", "admin/v1/keys", "admin/v1/admin-keys", "admin/v1/provider-keys"]
        .into_iter()
        .chain(["admin/v1/audit?limit=100", "openapi.json"])
    {
        let request = program.client.get(format!("http://{admin}/{path}")).bearer_auth(OPERATOR);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        shown += &answer.text().await.unwrap();
    }
    let (log, directory) = program.end();
    // The log is one: it knows of the calls.
    assert!(log.contains("/v1/images/generations") && log.contains("invalid_api_key"));
    let kept = files(directory.path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let names: Vec<String> = kept.iter().map(name).collect();
    assert!(names.contains(&"mediagate.db".to_owned()), "{names:?}");
    for secret in &secrets {
        assert!(!shown.contains(secret), "{secret} is shown");
        assert!(!log.contains(secret), "{secret} is in the log");
        for path in kept.iter().filter(|path| name(path) != "mediagate.toml") {
            let bytes = fs::read(path).unwrap();
            assert!(!contains(&bytes, secret), "{secret} is in {}", path.display());
        }
    }
    // The search finds what is there.
    let db = kept.iter().filter(|path| name(path).starts_with("mediagate.db"));
    assert!(db.into_iter().any(|path| contains(&fs::read(path).unwrap(), "admin_key.create")));
}
