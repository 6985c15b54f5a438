//! What the gateway itself costs, measured on the real binary over loopback.
//!
//! `cargo bench --bench gateway` prints four tables, and `-- overhead kept` only those named so:
//! 1. one picture of 1.5 MB in base64 that passes untouched: the provider called directly beside
//!    the provider called through the gateway, in turns, by durability of the records (overhead);
//! 2. a hundred such pictures at once, with and without keeping them, by durability (kept);
//! 3. jobs of the simulator's queues: from the moment the provider is done to the moment the
//!    caller holds the picture, and status requests per job, where the provider pushes (fal) and
//!    where it must be polled (Black Forest Labs, Replicate);
//! 3. memory: idle, and with a hundred pictures of 20 MB in flight.
//!
//! Nothing is asserted: the machine decides the figures, so read the ratios.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark talks and may fail")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

const GATEWAY: &str = env!("CARGO_BIN_EXE_mediagate");
const CALLS: usize = 200;
const ROUNDS: usize = 5;

fn main() {
    // `cargo test --benches` must not run for minutes.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let asked: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load of this machine before the run: {}", load.trim());
    let tables =
        [("overhead", overhead as fn()), ("kept", kept), ("queues", queues), ("memory", memory)];
    for (name, table) in tables {
        if asked.is_empty() || asked.iter().any(|word| word == name) {
            table();
        }
    }
}

/// What the gateway is told besides its provider: where pictures are kept, and how durable the
/// records of its database are.
const MEMORY: &str = "[store]\nkind = \"memory\"\n";
const PROCESS: &str = "[database]\ndurability = \"process\"\n";
const FULL: &str = "[database]\ndurability = \"full\"\n";
const UNKEPT: &str = "zero_retention = true\n";

// ---------------------------------------------------------------------------------------------
// A picture that passes untouched

fn overhead() {
    let upstream = canned(openai_reply(616, 616));
    let start = |durability: &str| {
        let provider =
            format!("[providers.openai]\napi_key = \"k\"\nbase_url = \"http://{upstream}/v1\"\n");
        Gateway::start(&format!("{durability}{provider}"))
    };
    let gateways = [("process", start(PROCESS)), ("full", start(FULL))];
    for (_, gateway) in &gateways {
        println!(
            "start to ready: {:.0} ms; idle memory: {:.1} MB",
            gateway.ready.as_secs_f64() * 1e3,
            gateway.memory("VmRSS")
        );
    }
    let mut direct = Vec::new();
    let mut through = [Vec::new(), Vec::new()];
    let mut accepted = [Vec::new(), Vec::new()];
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        direct.push(latency(upstream, "").0);
        for (index, (_, gateway)) in gateways.iter().enumerate() {
            let (ms, length) = latency(gateway.address, "");
            through[index].push(ms);
            bytes = length;
            accepted[index].push(latency(gateway.address, "prefer: respond-async\r\n").0);
        }
    }
    let direct = median(&mut direct);
    println!(
        "\npicture in base64, {:.2} MB answer, untouched, one caller, median of {ROUNDS} x {CALLS}; \
         and the 202 for a job that is asked for later\n\
         | durability | direct ms | through the gateway ms | added ms | ratio | accepted ms |\n\
         |---|---|---|---|---|---|",
        bytes as f64 / 1e6,
    );
    for (index, (word, _)) in gateways.iter().enumerate() {
        let through = median(&mut through[index]);
        println!(
            "| {word} | {direct:.2} | {through:.2} | {:.2} | {:.2} | {:.2} |",
            through - direct,
            through / direct,
            median(&mut accepted[index])
        );
    }
}

/// A call whose picture passes as it comes.
fn untouched() -> Value {
    json!({"model": "openai/gpt-image-2", "prompt": "a cat", "size": "auto"})
}

/// Median milliseconds of a call, and the bytes of its answer.
fn latency(to: SocketAddr, headers: &str) -> (f64, usize) {
    let mut connection = connect(to);
    let mut times = Vec::new();
    let mut length = 0;
    for call in 0..CALLS + 20 {
        let begun = Instant::now();
        let answer = post_with(&mut connection, headers, &untouched());
        if call >= 20 {
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        length = answer.len();
    }
    (median(&mut times), length)
}

// ---------------------------------------------------------------------------------------------
// Pictures that are kept beside their answers

fn kept() {
    println!(
        "\n100 callers at once, 3 pictures of 1.5 MB in base64 each, median of 3\n\
         | pictures | durability | answers p50 ms | p95 | all s | peak MB |\n|---|---|---|---|---|---|"
    );
    let upstream = canned(openai_reply(616, 616));
    let runs = [
        ("direct", None),
        ("not kept", Some((UNKEPT, PROCESS))),
        ("kept on disk", Some(("", PROCESS))),
        ("not kept", Some((UNKEPT, FULL))),
        ("kept on disk", Some(("", FULL))),
    ];
    for (pictures, settings) in runs {
        let mut figures = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..3 {
            let gateway = settings.map(|(retention, durability)| {
                Gateway::start_with(&format!(
                    "[log]\nlevel = \"error\"\n{retention}{durability}[store]\nkind = \"disk\"\n\
                     [providers.openai]\napi_key = \"k\"\nbase_url = \"http://{upstream}/v1\"\n"
                ))
            });
            let to = gateway.as_ref().map_or(upstream, |gateway| gateway.address);
            let begun = Instant::now();
            let callers = (0..100).map(|_| {
                thread::spawn(move || {
                    let mut connection = connect(to);
                    let mut call = || {
                        let begun = Instant::now();
                        post(&mut connection, &untouched());
                        begun.elapsed().as_secs_f64() * 1e3
                    };
                    [call(), call(), call()]
                })
            });
            let callers: Vec<_> = callers.collect();
            let mut times: Vec<f64> =
                callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
            let all = begun.elapsed().as_secs_f64();
            let p50 = median(&mut times);
            let peak = gateway.map_or(0.0, |gateway| gateway.memory("VmHWM"));
            for (list, figure) in
                figures.iter_mut().zip([p50, times[times.len() * 95 / 100], all, peak])
            {
                list.push(figure);
            }
        }
        let durability = match settings {
            Some((_, PROCESS)) => "process",
            Some(_) => "full",
            None => "",
        };
        let [p50, p95, all, peak] = figures.map(|mut list| median(&mut list));
        println!("| {pictures} | {durability} | {p50:.0} | {p95:.0} | {all:.2} | {peak:.0} |");
    }
}

// ---------------------------------------------------------------------------------------------
// Queues

fn queues() {
    println!(
        "\nqueues: seconds from the provider's end to the caller's picture, and polls per job\n\
         | provider | job p50 s | sigma | jobs | overhead mean s | known after, mean s | p95 s | \
         polls |\n|---|---|---|---|---|---|---|---|"
    );
    for (run, sigma) in [(1.5, 0.25), (3.5, 0.25), (3.5, 0.5)] {
        let sim: SocketAddr = format!("127.0.0.1:{}", free_port()).parse().unwrap();
        let simulator = Command::new(GATEWAY)
            .args(["simulate", "--listen", &sim.to_string(), "--queue-s", "0.5"])
            .args(["--run-s", &run.to_string(), "--sigma", &sigma.to_string()])
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let _simulator = Process(simulator);
        wait_for(sim, "/sim/stats");
        let gateway = Gateway::start(&format!(
            "[fetch]\nallow = [\"{sim}\"]\n\
             [providers.fal]\napi_key = \"k\"\nbase_url = \"http://{sim}/fal\"\n\
             [providers.bfl]\napi_key = \"k\"\nbase_url = \"http://{sim}/bfl/v1\"\n\
             [providers.replicate]\napi_key = \"k\"\nbase_url = \"http://{sim}/replicate/v1\"\n"
        ));
        for model in ["fal/flux-1-dev", "bfl/flux-1.1-pro", "replicate/flux-1-dev"] {
            let ends = jobs(gateway.address, model);
            report(sim, model, &ends, run + 0.5, sigma);
        }
    }
}

fn report(sim: SocketAddr, model: &str, ends: &[f64], median_s: f64, sigma: f64) {
    let vendor = model.split('/').next().unwrap();
    let stats: Value = serde_json::from_slice(&get(sim, "/sim/stats").1).unwrap();
    let all = stats["jobs"].as_array().unwrap().iter();
    let jobs: Vec<&Value> = all.filter(|job| job["vendor"] == vendor).collect();
    let number = |job: &Value, name: &str| job[name].as_f64().unwrap();
    let done: f64 = jobs.iter().map(|j| number(j, "done")).sum();
    let polls: f64 = jobs.iter().map(|j| number(j, "polls")).sum();
    let mut known: Vec<f64> =
        jobs.iter().map(|j| number(j, "first_seen_done") - number(j, "done")).collect();
    known.sort_by(f64::total_cmp);
    let count = ends.len() as f64;
    println!(
        "| {vendor} | {median_s:.1} | {sigma} | {} | {:.3} | {:.3} | {:.3} | {:.2} |",
        ends.len(),
        (ends.iter().sum::<f64>() - done) / count,
        known.iter().sum::<f64>() / count,
        known[known.len() * 95 / 100],
        polls / count
    );
}

/// Runs forty jobs, eight at a time; when each caller had its picture, in Unix seconds.
fn jobs(gateway: SocketAddr, model: &str) -> Vec<f64> {
    let body = json!({"model": model, "prompt": "a cat", "size": "auto"});
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let body = body.clone();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(caller * 130));
                let mut connection = connect(gateway);
                let one = |_| {
                    post(&mut connection, &body);
                    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
                };
                (0..5).map(one).collect::<Vec<f64>>()
            })
        })
        .collect();
    callers.into_iter().flat_map(|c| c.join().unwrap()).collect()
}

// ---------------------------------------------------------------------------------------------
// Memory

fn memory() {
    let upstream = canned(openai_reply(2640, 2640));
    let gateway = Gateway::start(&format!(
        "[providers.openai]\napi_key = \"k\"\nbase_url = \"http://{upstream}/v1\"\n"
    ));
    let idle = gateway.memory("VmRSS");
    let begun = Instant::now();
    let address = gateway.address;
    let one = move || post(&mut connect(address), &untouched()).len();
    let callers: Vec<_> = (0..100).map(|_| thread::spawn(one)).collect();
    let whole = callers.into_iter().filter_map(|c| c.join().ok()).filter(|l| *l > 20_000_000);
    println!(
        "\n100 pictures of 20 MB at once: {} whole answers in {:.1} s\n\
         | idle MB | peak MB | added MB |\n|---|---|---|\n| {idle:.1} | {:.1} | {:.1} |",
        whole.count(),
        begun.elapsed().as_secs_f64(),
        gateway.memory("VmHWM"),
        gateway.memory("VmHWM") - idle
    );
}

// ---------------------------------------------------------------------------------------------
// The processes

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Gateway {
    address: SocketAddr,
    ready: Duration,
    process: Process,
    _files: tempfile::TempDir,
}

impl Gateway {
    fn start(settings: &str) -> Self {
        Self::start_with(&format!("{MEMORY}[log]\nlevel = \"error\"\n{settings}"))
    }

    fn start_with(settings: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let config = files.path().join("mediagate.toml");
        let address: SocketAddr = format!("127.0.0.1:{}", free_port()).parse().unwrap();
        let text = format!("[server]\nlisten = \"{address}\"\n[auth]\nmode = \"open\"\n{settings}");
        std::fs::write(&config, text).unwrap();
        let begun = Instant::now();
        let child = Command::new(GATEWAY)
            .env("MEDIAGATE_DATA_DIR", files.path())
            .arg("serve")
            .arg("--config")
            .arg(&config)
            .spawn()
            .unwrap();
        wait_for(address, "/readyz");
        Self { address, ready: begun.elapsed(), process: Process(child), _files: files }
    }

    /// A figure of the kernel's about the process, in megabytes.
    fn memory(&self, figure: &str) -> f64 {
        let path = format!("/proc/{}/status", self.process.0.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|l| l.starts_with(figure)).unwrap();
        let kilobytes: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes / 1024.0
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_for(address: SocketAddr, path: &str) {
    for _ in 0..2000 {
        if TcpStream::connect(address).is_ok() && get(address, path).0 == 200 {
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
    println!("{address}{path} does not answer");
}

// ---------------------------------------------------------------------------------------------
// The provider and the caller

/// A provider that answers every request with the same bytes, one thread a connection.
fn canned(reply: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reply = Arc::new(reply);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let reply = Arc::clone(&reply);
            thread::spawn(move || {
                let _ = stream.set_nodelay(true);
                while read_message(&mut stream).is_some() && stream.write_all(&reply).is_ok() {}
            });
        }
    });
    address
}

/// An OpenAI answer with one picture of noise, which PNG cannot make smaller.
fn openai_reply(width: u32, height: u32) -> Vec<u8> {
    let mut state = 0x9E37_79B9_u32;
    let noise = (0..width as usize * height as usize * 3).map(|_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 24) as u8
    });
    let pixels: Vec<u8> = noise.collect();
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fastest);
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    let body = json!({
        "created": 1,
        "data": [{"b64_json": STANDARD.encode(&file)}],
        "usage": {
            "input_tokens": 9, "output_tokens": 1056, "total_tokens": 1065,
            "input_tokens_details": {"text_tokens": 9, "image_tokens": 0}
        }
    })
    .to_string();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn connect(to: SocketAddr) -> TcpStream {
    let connection = TcpStream::connect(to).unwrap();
    connection.set_nodelay(true).unwrap();
    connection
}

fn post(connection: &mut TcpStream, body: &Value) -> Vec<u8> {
    post_with(connection, "", body)
}

/// `headers` are lines, each with its end.
fn post_with(connection: &mut TcpStream, headers: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let request = format!(
        "POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer k\r\n\
         content-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).unwrap();
    let (status, answer) = read_message(connection).unwrap();
    assert!(
        [200, 202].contains(&status),
        "{status} {}",
        String::from_utf8_lossy(&answer[..answer.len().min(500)])
    );
    answer
}

fn get(address: SocketAddr, path: &str) -> (u16, Vec<u8>) {
    let mut connection = connect(address);
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).unwrap();
    read_message(&mut connection).unwrap_or((0, Vec::new()))
}

/// Reads a message with a content length: its status (0 for a request) and body.
fn read_message(stream: &mut TcpStream) -> Option<(u16, Vec<u8>)> {
    let mut data = Vec::with_capacity(64 * 1024);
    let mut chunk = vec![0; 256 * 1024];
    let head = loop {
        if let Some(end) = data.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        let n = stream.read(&mut chunk).ok().filter(|n| *n > 0)?;
        data.extend_from_slice(&chunk[..n]);
    };
    let text = String::from_utf8_lossy(&data[..head]).to_ascii_lowercase();
    let length: usize = text
        .lines()
        .find_map(|l| l.strip_prefix("content-length:"))
        .map_or(0, |v| v.trim().parse().unwrap());
    let status = text.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let mut body = data.split_off(head);
    body.reserve(length.saturating_sub(body.len()));
    while body.len() < length {
        let n = stream.read(&mut chunk).ok().filter(|n| *n > 0)?;
        body.extend_from_slice(&chunk[..n]);
    }
    Some((status, body))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
