//! The binary itself: exit codes, and what it writes to its log.

use std::{
    io::Read as _,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    Reply, Upstream, config,
    gateway::database,
    pictures,
    vendors::{self, GEMINI},
};

const BINARY: &str = env!("CARGO_BIN_EXE_mediagate");
const PROMPT: &str = "canary-prompt-of-a-teapot";
const KEY: &str = "canary-key-of-a-client";

fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).env_clear().output().unwrap()
}

#[test]
fn commands_end_with_the_code_that_says_how_it_went() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wrong.toml");
    std::fs::write(&path, "[server]\nlisten = \"127.0.0.1:4000\"\nlisen = 1\n").unwrap();
    let file = path.to_str().unwrap();
    for (arguments, code) in [
        (vec!["version"], 0),
        (vec!["--help"], 0),
        (vec!["catalog"], 0),
        (vec!["check", "--config", file], 2),
        (vec!["serve", "--config", file], 2),
        (vec!["serve", "--config", "/nowhere/mediagate.toml"], 2),
        (vec!["nonsense"], 2),
    ] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    }
    let said = run(&["check", "--config", file]);
    let said =
        String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
    assert!(said.contains("server.lisen") && said.contains("server.listen"), "{said}");
    let rows: Value = serde_json::from_slice(&run(&["catalog", "--json"]).stdout).unwrap();
    let count = rows["data"].as_array().unwrap().len();
    assert!(count >= 60, "{count}");
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves with JSON logs, makes one call for each reply, and returns the log's lines.
async fn logged(replies: Vec<Reply>) -> Vec<Value> {
    mediagate::media::fetch::install_tls();
    let upstream = Upstream::start().await;
    let calls = replies.len();
    let mut replies = replies.into_iter();
    upstream.on_each("POST", GEMINI, move |_| replies.next().unwrap());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let sha256 = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(KEY));
    let more = format!(
        "server.listen = \"127.0.0.1:{port}\"\nlog.format = \"json\"\nlog.level = \"debug\"\n\
         auth.mode = \"keys\"\nauth.static_keys = [{{ name = \"ci\", sha256 = \"{sha256}\" }}]"
    );
    let dir = tempfile::tempdir().unwrap();
    let text = database(dir.path()) + &config(&upstream, &["gemini"], &more);
    let path = dir.path().join("mediagate.toml");
    std::fs::write(&path, text).unwrap();
    let child = Command::new(BINARY)
        .args(["serve", "--config", path.to_str().unwrap()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut process = Process(child);
    let mut pipe = process.0.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut log = String::new();
        pipe.read_to_string(&mut log).unwrap();
        log
    });
    let client = reqwest::Client::builder().build().unwrap();
    let url = format!("http://127.0.0.1:{port}");
    for _ in 0..200 {
        if client.get(format!("{url}/livez")).send().await.is_ok_and(|r| r.status() == 200) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..calls {
        let body = json!({"model": "gemini/nano-banana", "prompt": PROMPT});
        let request = client
            .post(format!("{url}/v1/images/generations"))
            .header("content-type", "application/json")
            .body(body.to_string());
        let answer = request.bearer_auth(KEY).send().await.unwrap();
        answer.bytes().await.unwrap();
    }
    drop(process);
    let log = reader.join().unwrap();
    for canary in [PROMPT, KEY, "secret-of-gemini"] {
        assert!(!log.contains(canary), "{canary} is in the log:\n{log}");
    }
    log.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[tokio::test]
async fn every_request_is_one_line_without_prompt_or_key() {
    let refusal = format!("the prompt {PROMPT} is not allowed");
    let error = json!({"error": {"code": 400, "message": refusal, "status": "INVALID_ARGUMENT"}});
    let lines =
        logged(vec![vendors::gemini(&pictures::png(64, 64)), Reply::json(400, &error)]).await;
    let requests: Vec<&Value> = lines
        .iter()
        .filter(|l| l["message"] == "request" && l["path"] == "/v1/images/generations")
        .collect();
    assert_eq!(requests.len(), 2, "{lines:?}");
    for (line, status, code) in [(requests[0], 200, ""), (requests[1], 400, "invalid_request")] {
        assert_eq!((&line["status"], &line["code"]), (&json!(status), &json!(code)), "{line}");
        assert_eq!(line["key"], "ci", "{line}");
        assert_eq!(line["attempts"], 1, "{line}");
        assert_eq!(line["deployment"], "gemini/nano-banana", "{line}");
        assert!(line["request_id"].is_string() && line["ms"].is_u64(), "{line}");
        assert!(line["job"].as_str().unwrap().starts_with("job_"), "{line}");
    }
}
