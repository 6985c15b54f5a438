//! Every other section of the file, and the whole.

use std::{fs, net::SocketAddr, path::Path, thread, time::Duration};

use ::providers::{catalog::Catalog, money::Money};

use super::{
    Ambiguous, AuthMode, BillingConfig, Config, ConfigError, FetchConfig, File, ImagesConfig,
    JobsConfig, LimitsConfig, LogConfig, LogFormat, Lookup, ServerConfig, SimulatorConfig, auth,
    check, database, providers, read::Reader, routes, section::Section, store,
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
    let in_auth = top.child("auth");
    let server = server(&top.child("server"), listen, auth::default_admin_listen(&in_auth));
    let auth = auth::auth(&in_auth, file.is_some(), &server);
    if auth.mode == AuthMode::Keys && auth.static_keys.is_empty() {
        resolved.warnings.push(
            "auth.static_keys is empty: calls need a key made with `mediagate keys create`"
                .to_owned(),
        );
    }
    let (database, data_dir) = database::database(&reader);
    if database.sqlite().is_none() && auth.master_key.is_none() {
        resolved
            .warnings
            .push("auth.master_key is not set: replicas of one database must share one".to_owned());
    }
    let store = store::store(&reader, &data_dir);
    let jobs = jobs(&top.child("jobs"), &server, store.retention);
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
        redis: database::redis(&top.child("redis")),
        database,
        data_dir,
        store,
        jobs,
        images: images(&top.child("images")),
        fetch: FetchConfig {
            allow: top.child("fetch").texts("allow", check::host_and_port).unwrap_or_default(),
            allow_callers: top
                .child("fetch")
                .texts("allow_callers", check::host_and_port)
                .unwrap_or_default(),
        },
        routes: routes::routes(&reader, &catalog, allow_unknown),
        limits: LimitsConfig {
            json_bytes: top
                .child("limits")
                .bytes("json_bytes", 1024..=1024 * MIB)
                .unwrap_or(64 * MIB),
            upload_bytes: top
                .child("limits")
                .bytes("upload_bytes", 1024..=1024 * MIB)
                .unwrap_or(50_000_000),
        },
        billing: billing(&top.child("billing")),
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

/// Proxies cut a connection that is idle for 30 s and more.
const HEARTBEAT: Duration = Duration::from_secs(15);

fn server(
    section: &Section<'_>,
    listen: Option<SocketAddr>,
    usual_admin: Option<SocketAddr>,
) -> ServerConfig {
    let in_file = section.parsed("listen", check::address);
    let admin_listen = section.parsed("admin_listen", check::address).or(usual_admin);
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
        heartbeat: HEARTBEAT,
        drain: section.seconds("drain_s", 0..=3600).unwrap_or(Duration::from_secs(30)),
        workers: section.integer("workers", 1..=1024).map_or_else(cores, |n| n as usize),
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn jobs(section: &Section<'_>, server: &ServerConfig, stored: Duration) -> JobsConfig {
    let words = [
        ("auto", Ambiguous::Auto),
        ("strict", Ambiguous::Strict),
        ("bounded_failover", Ambiguous::BoundedFailover),
    ];
    let retention = section.duration("retention");
    if retention.is_some_and(|time| time > stored) {
        let most = humantime::format_duration(stored);
        section.problem(
            "retention",
            format!("is longer than outputs are kept; write at most \"{most}\", or a longer store.retention"),
        );
    }
    let reachable = server.public_url.as_deref().is_some_and(|url| url.starts_with("https://"));
    let callbacks = section.flag("callbacks");
    if callbacks == Some(true) && server.public_url.is_none() {
        section.problem(
            "callbacks",
            "needs server.public_url: providers must know where to call; set it or leave this out",
        );
    }
    JobsConfig {
        image_deadline: section
            .child("deadlines")
            .duration("image")
            .unwrap_or(Duration::from_mins(10)),
        max_attempts: section.integer("max_attempts", 1..=20).unwrap_or(3) as u32,
        ambiguous: section.choice("ambiguous", &words).unwrap_or(Ambiguous::Auto),
        ambiguous_job_cap: section
            .parsed("ambiguous_job_cap_usd", check::amount)
            .unwrap_or(Money::from_nanos(100_000_000)),
        ambiguous_day_cap: section
            .parsed("ambiguous_day_cap_usd", check::amount)
            .unwrap_or(Money::from_nanos(1_000_000_000)),
        retention: retention.unwrap_or_else(|| stored.min(Duration::from_hours(72))),
        callbacks: callbacks.unwrap_or(reachable),
    }
}

fn billing(section: &Section<'_>) -> BillingConfig {
    BillingConfig {
        allow_unpriced: section.flag("allow_unpriced").unwrap_or(false),
        markup_basis_points: section.parsed("markup_percent", check::percent).unwrap_or(0),
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
        zero_retention: section.flag("zero_retention").unwrap_or(false),
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
    (catalog, allow_unknown)
}

fn overlay(dir: &Path) -> Result<Vec<(String, String)>, String> {
    let cannot = |e: std::io::Error| format!("{} cannot be read: {e}", dir.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        // A workflow is named whole, a catalogue file after its provider.
        let name = match path.extension().and_then(|end| end.to_str()) {
            Some("toml") => path.file_stem(),
            Some("json") => path.file_name(),
            _ => None,
        };
        if let Some(name) = name {
            let text = fs::read_to_string(&path)
                .map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
            files.push((name.to_string_lossy().into_owned(), text));
        }
    }
    files.sort();
    Ok(files)
}
