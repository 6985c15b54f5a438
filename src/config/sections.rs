//! Every other section of the file, and the whole.

use std::{fs, net::SocketAddr, path::Path, thread, time::Duration};

use ::providers::{catalog::Catalog, money::Money};

use super::{
    Ambiguous, AuthConfig, AuthMode, BillingConfig, Config, ConfigError, FetchConfig, File,
    ImagesConfig, JobsConfig, LimitsConfig, LogConfig, LogFormat, Lookup, ServerConfig,
    SimulatorConfig, StaticKey, check, providers, read::Reader, routes, section::Section, store,
};

const MIB: u64 = 1 << 20;

/// Reads everything. `built_in` is the catalogue as (name, text), `listen` goes before the file.
pub(super) fn config(
    file: Option<File<'_>>,
    env: &Lookup<'_>,
    built_in: &[(&str, &str)],
    listen: Option<SocketAddr>,
) -> Result<Config, ConfigError> {
    let path = file.map(|f| f.path.to_path_buf());
    let reader = Reader::new(file.map_or("", |f| f.text), env);
    let top = reader.top();
    let (mut catalog, allow_unknown) = catalog(&top.child("catalog"), built_in);
    let mut simulator = simulator(&top.child("simulator"));
    let in_file = file.is_some().then_some(simulator.stand_in);
    let mut resolved = providers::resolve(&reader, &catalog, in_file);
    simulator.stand_in = resolved.stand_in;
    providers::fill_paths(&mut catalog, &resolved.on);
    let server = server(&top.child("server"), listen);
    let auth = auth(&top.child("auth"), file.is_some(), &server);
    if auth.mode == AuthMode::Keys && auth.static_keys.is_empty() {
        resolved.warnings.push("auth.static_keys is empty: every call will be refused".to_owned());
    }
    if resolved.on.is_empty() {
        resolved.warnings.push(
            "no provider is switched on: give one a key, or set simulator.enabled = true"
                .to_owned(),
        );
    }
    let config = Config {
        file: path.clone(),
        server,
        auth,
        store: store::store(&reader),
        jobs: jobs(&top.child("jobs")),
        images: images(&top.child("images")),
        fetch: FetchConfig {
            allow: top.child("fetch").texts("allow", check::host_and_port).unwrap_or_default(),
        },
        routes: routes::routes(&reader, &catalog, allow_unknown),
        limits: LimitsConfig {
            json_bytes: top
                .child("limits")
                .bytes("json_bytes", 1024..=1024 * MIB)
                .unwrap_or(64 * MIB),
        },
        billing: BillingConfig {
            allow_unpriced: top.child("billing").flag("allow_unpriced").unwrap_or(false),
        },
        log: log(&top.child("log")),
        warnings: resolved.warnings,
        providers: resolved.on,
        catalog,
        allow_unknown,
        simulator,
    };
    let problems = reader.finish();
    if problems.is_empty() { Ok(config) } else { Err(ConfigError { file: path, problems }) }
}

fn server(section: &Section<'_>, listen: Option<SocketAddr>) -> ServerConfig {
    let in_file = section.parsed("listen", check::address);
    let admin_listen = section.parsed("admin_listen", check::address);
    let listen = listen.or(in_file).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 4000)));
    if let Some(admin) = admin_listen
        && admin.port() == listen.port()
        && admin.port() != 0
        && (admin.ip() == listen.ip()
            || admin.ip().is_unspecified()
            || listen.ip().is_unspecified())
    {
        section
            .problem("admin_listen", format!("{admin} is also server.listen; take another port"));
    }
    ServerConfig {
        listen,
        admin_listen,
        public_url: section.parsed("public_url", check::base_url),
        cors_origins: section.texts("cors_origins", check::origin).unwrap_or_default(),
        wait: section.seconds("wait_s", 1..=3600).unwrap_or(Duration::from_secs(590)),
        drain: section.seconds("drain_s", 0..=3600).unwrap_or(Duration::from_secs(30)),
        workers: section.integer("workers", 1..=1024).map_or_else(cores, |n| n as usize),
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn auth(section: &Section<'_>, in_file: bool, server: &ServerConfig) -> AuthConfig {
    let default = if in_file { AuthMode::Keys } else { AuthMode::Open };
    let words = [("keys", AuthMode::Keys), ("open", AuthMode::Open)];
    let mode = section.choice("mode", &words).unwrap_or(default);
    if mode == AuthMode::Open && !server.listen.ip().is_loopback() {
        section.problem(
            "mode",
            format!(
                "\"open\" lets anyone who reaches {} spend the keys; listen on 127.0.0.1 or set auth.mode = \"keys\"",
                server.listen
            ),
        );
    }
    let mut static_keys: Vec<StaticKey> = Vec::new();
    for key in section.tables("static_keys") {
        let name = key.text("name").filter(|name| !name.is_empty());
        // What stands here by mistake may be the key itself: it is not shown.
        let sha256 = key.text("sha256").and_then(|text| {
            check::sha256(&text).map_err(|error| key.problem("sha256", error)).ok()
        });
        for (field, missing, example) in [
            ("name", name.is_none(), "name = \"ci\""),
            ("sha256", sha256.is_none() && !key.has("sha256"), "sha256 = \"9f86d0...\""),
        ] {
            if missing {
                key.problem(field, format!("is missing; write for example {example}"));
            }
        }
        let models = key.texts("models", check::pattern).unwrap_or_else(|| vec!["*".to_owned()]);
        let (Some(name), Some(sha256)) = (name, sha256) else { continue };
        if static_keys.iter().any(|other| other.name == name) {
            key.problem("name", format!("{name:?} is there twice; names tell keys apart in logs"));
        }
        if static_keys.iter().any(|other| other.sha256 == sha256) {
            key.problem("sha256", "is there twice; give every name a key of its own");
        }
        static_keys.push(StaticKey { name, sha256, models });
    }
    AuthConfig { mode, static_keys }
}

fn jobs(section: &Section<'_>) -> JobsConfig {
    let words = [
        ("auto", Ambiguous::Auto),
        ("strict", Ambiguous::Strict),
        ("bounded_failover", Ambiguous::BoundedFailover),
    ];
    let cap = section.parsed("ambiguous_job_cap_usd", |text| match text.parse::<Money>() {
        Ok(amount) if amount >= Money::ZERO => Ok(amount),
        Ok(_) => Err("is below zero".to_owned()),
        Err(_) => Err("is no amount; write dollars such as \"0.10\"".to_owned()),
    });
    JobsConfig {
        image_deadline: section
            .child("deadlines")
            .duration("image")
            .unwrap_or(Duration::from_mins(10)),
        max_attempts: section.integer("max_attempts", 1..=20).unwrap_or(3) as u32,
        ambiguous: section.choice("ambiguous", &words).unwrap_or(Ambiguous::Auto),
        ambiguous_job_cap: cap.unwrap_or(Money::from_nanos(100_000_000)),
    }
}

fn images(section: &Section<'_>) -> ImagesConfig {
    ImagesConfig {
        max_upscale: section.number("max_upscale", 1.0..=8.0).unwrap_or(1.5),
        max_pixels: section.integer("max_pixels", 1_000_000..=1_000_000_000).unwrap_or(50_000_000),
    }
}

fn simulator(section: &Section<'_>) -> SimulatorConfig {
    let usual = SimulatorConfig::default();
    SimulatorConfig {
        stand_in: section.flag("enabled").unwrap_or(false),
        queue_s: section.number("queue_s", 0.0..=3600.0).unwrap_or(usual.queue_s),
        run_s: section.number("run_s", 0.0..=3600.0).unwrap_or(usual.run_s),
        sigma: section.number("sigma", 0.0..=5.0).unwrap_or(usual.sigma),
        seed: section.integer("seed", 0..=u64::MAX).unwrap_or(usual.seed),
    }
}

fn log(section: &Section<'_>) -> LogConfig {
    let level = section.parsed("level", |text| {
        tracing_subscriber::EnvFilter::try_new(text)
            .map(|_| text.to_owned())
            .map_err(|_| "is no level; write error, warn, info, debug or trace".to_owned())
    });
    let words = [("pretty", LogFormat::Pretty), ("json", LogFormat::Json)];
    LogConfig {
        format: section.choice("format", &words).unwrap_or(LogFormat::Pretty),
        level: level.unwrap_or_else(|| "info".to_owned()),
    }
}

/// The built-in catalogue, under the operator's own files.
fn catalog(section: &Section<'_>, built_in: &[(&str, &str)]) -> (Catalog, bool) {
    let allow_unknown = section.flag("allow_unknown").unwrap_or(false);
    let own = section.text("dir").map(|dir| overlay(Path::new(&dir)));
    let own = own.unwrap_or(Ok(Vec::new())).unwrap_or_else(|e| {
        section.problem("dir", e);
        Vec::new()
    });
    let own = own.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    let both = built_in.iter().copied().chain(own);
    let catalog = Catalog::parse(both).unwrap_or_else(|e| {
        section.problem("dir", e);
        Catalog::parse(built_in.iter().copied()).unwrap_or_default()
    });
    for row in catalog.deployments() {
        if row.price.iter().all(|line| line.usd == Money::ZERO) {
            section.problem("dir", format!("the price of {} is zero", row.slug()));
        }
    }
    (catalog, allow_unknown)
}

fn overlay(dir: &Path) -> Result<Vec<(String, String)>, String> {
    let cannot = |e: std::io::Error| format!("{} cannot be read: {e}", dir.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.extension().is_some_and(|end| end == "toml")
            && let Some(name) = path.file_stem()
        {
            let text = fs::read_to_string(&path)
                .map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
            files.push((name.to_string_lossy().into_owned(), text));
        }
    }
    files.sort();
    Ok(files)
}
