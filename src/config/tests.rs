//! Whole files in, settings or problems out.

use std::{fs, path::Path};

use super::*;

const ACME: &str = r#"
title = "Acme"
docs = "https://acme.example/docs"
adapter = "openai"
base_url = "https://api.acme.example/v1"
auth = { header = "authorization", prefix = "Bearer ", env = ["ACME_KEY", "ACME_TOKEN"] }
[wire.w]
prompt = "prompt"
size = { as = "text", field = "size" }
[size.s]
kind = "list"
sizes = ["1024x1024"]
[[model]]
id = "painter-1"
aliases = ["painter-one"]
upstream = "acme/painter"
task = "image.generate"
size = "s"
formats = ["png"]
wire = "w"
price = [{ unit = "image", usd = "0.04" }]
source = "test"
checked = "2026-11-01"
confidence = "confirmed"
"#;

fn blue() -> String {
    ACME.replace("\"Acme\"", "\"Blue\"")
        .replace("https://api.acme.example/v1", "https://{resource}.blue.example/v1")
        .replace(
            "[\"ACME_KEY\", \"ACME_TOKEN\"] }",
            "[\"BLUE_KEY\"] }\nsettings = { resource = \"\", api_version = \"2025\" }",
        )
        .replace(
            "upstream = \"acme/painter\"",
            "upstream = \"painter\"\npath = \"/{upstream}?v={api_version}\"",
        )
}

pub(super) fn parse_with(text: Option<&str>, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let file = text.map(|text| File { path: Path::new("mediagate.toml"), text });
    let lookup = |name: &str| {
        env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    sections::config(file, &lookup, &[("acme", ACME), ("blue", &blue())], None)
}

pub(super) fn parse(text: &str) -> Result<Config, ConfigError> {
    parse_with(Some(text), &[])
}

/// Each file's messages must hold these parts, in this order and number.
pub(super) fn check_refused(cases: &[(&str, &[&str])]) {
    for (text, wanted) in cases {
        let lines: Vec<String> = match parse(text) {
            Ok(_) => Vec::new(),
            Err(e) => e.lines().collect(),
        };
        assert_eq!(lines.len(), wanted.len(), "{text}\n{lines:#?}");
        for (line, part) in lines.iter().zip(*wanted) {
            assert!(line.contains(part), "{text}\n{line}\nlacks {part}");
        }
    }
}

#[test]
fn without_a_file_the_gateway_is_local_and_open() {
    let config = parse_with(None, &[]).unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:4000");
    assert_eq!(config.server.public_url(config.server.listen), "http://127.0.0.1:4000");
    assert_eq!(config.auth.mode, AuthMode::Open);
    assert!(
        matches!(&config.store.kind, StoreKind::Disk { path } if path == Path::new("./data/media"))
    );
    assert!(config.simulator.stand_in);
    assert_eq!(config.providers.keys().collect::<Vec<_>>(), ["acme", "blue"]);
    assert_eq!(config.limits.json_bytes, 64 << 20);

    let config = parse_with(None, &[("MEDIAGATE_DATA_DIR", "/srv/mg")]).unwrap();
    assert!(
        matches!(&config.store.kind, StoreKind::Disk { path } if path == Path::new("/srv/mg/media"))
    );
}

#[test]
fn without_a_file_the_usual_keys_switch_providers_on() {
    let config = parse_with(None, &[("ACME_TOKEN", " k2\n")]).unwrap();
    assert!(!config.simulator.stand_in);
    assert_eq!(config.providers.keys().collect::<Vec<_>>(), ["acme"]);
    assert_eq!(config.providers["acme"].api_key.expose(), "k2");
    assert_eq!(config.providers["acme"].base_url, "https://api.acme.example/v1");

    let config = parse_with(None, &[("ACME_KEY", ""), ("BLUE_KEY", "k")]).unwrap();
    assert!(config.simulator.stand_in, "a provider that lacks a setting is not switched on");
    assert!(config.warnings[0].contains("providers.blue.resource"), "{:?}", config.warnings);
}

#[test]
fn every_key_is_read() {
    let text = format!(
        r#"
[server]
listen = "0.0.0.0:8080"
admin_listen = "127.0.0.1:8081"
public_url = "https://media.example.com"
cors_origins = ["https://app.example.com"]
wait_s = 100
drain_s = "1m"
workers = 3
[auth]
static_keys = [{{ name = "ci", sha256 = "{hash}", models = ["paint*"] }}]
admin_key = "${{ADMIN}}"
master_key = "{hash_of_master}"
[database]
url = "postgres://me:pw@db/mg"
durability = "full"
max_connections = 8
[redis]
url = "redis://:pw@cache:6379/1"
[store]
kind = "s3"
retention = "24h"
key_template = "{{date}}/{{job}}/{{index}}.{{ext}}"
bucket = "pictures"
region = "eu-central-1"
endpoint = "http://127.0.0.1:9000"
path_style = true
access_key = "AK"
secret_key = "SK"
presign_ttl = "1h"
public_base_url = "https://cdn.example.com"
[jobs]
deadlines = {{ image = "5m" }}
max_attempts = 4
ambiguous = "strict"
ambiguous_job_cap_usd = "0.25"
ambiguous_day_cap_usd = "2.5"
retention = "24h"
callbacks = false
[images]
max_upscale = 2
max_pixels = 40_000_000
[fetch]
allow = ["127.0.0.1:9900"]
[providers.acme]
api_key = "${{A_KEY}}"
base_url = "http://127.0.0.1:9900/acme"
timeout_s = "${{A_TIME}}"
[providers.blue]
api_key = "b"
resource = "mine"
deployments = {{ painter-one = "my-painter" }}
[routes.hero]
targets = ["painter-1", "blue/painter-1", "acme/acme/painter"]
policy = "order"
[catalog]
allow_unknown = true
[limits]
json_bytes = "8MiB"
[billing]
allow_unpriced = true
markup_percent = "12.5"
[simulator]
enabled = false
queue_s = 0.1
run_s = 2
sigma = 0.0
seed = 7
[log]
format = "json"
level = "info,mediagate=debug"
zero_retention = true
"#,
        hash = "ab".repeat(32),
        hash_of_master = "01ab".repeat(16)
    );
    let admin = "an-admin-key-of-an-operator";
    let env = [("A_KEY", "canary"), ("A_TIME", "30"), ("ADMIN", admin)];
    let config = match parse_with(Some(&text), &env) {
        Ok(config) => config,
        Err(e) => panic!("{e}"),
    };
    assert_eq!(config.server.listen.port(), 8080);
    assert_eq!(config.server.admin_listen.map(|a| a.port()), Some(8081));
    assert_eq!(config.server.public_url.as_deref(), Some("https://media.example.com"));
    assert_eq!(config.server.wait, Duration::from_secs(100));
    assert_eq!(config.server.drain, Duration::from_mins(1));
    assert_eq!(config.server.workers, 3);
    assert_eq!(config.auth.static_keys[0].sha256, [0xab; 32]);
    assert_eq!(config.auth.static_keys[0].models, ["paint*"]);
    let StoreKind::S3(s3) = &config.store.kind else { panic!("{:?}", config.store.kind) };
    assert_eq!((s3.bucket.as_str(), s3.path_style), ("pictures", true));
    assert_eq!(s3.secret_key.expose(), "SK");
    assert_eq!(s3.presign_ttl, Duration::from_hours(1));
    assert_eq!(config.jobs.image_deadline, Duration::from_mins(5));
    assert_eq!(config.jobs.ambiguous, Ambiguous::Strict);
    assert_eq!(config.jobs.ambiguous_job_cap.to_string(), "0.250000000");
    assert_eq!(config.auth.admin_key.as_ref().unwrap().expose(), admin);
    assert_eq!(config.auth.master_key.as_ref().unwrap().expose()[..2], [1, 0xab]);
    assert_eq!(config.database.url.expose(), "postgres://me:pw@db/mg");
    assert_eq!(config.database.durability, Durability::Full);
    assert_eq!(config.database.max_connections, 8);
    assert_eq!(config.redis.url.as_ref().unwrap().expose(), "redis://:pw@cache:6379/1");
    assert_eq!(config.jobs.ambiguous_day_cap.to_string(), "2.500000000");
    assert_eq!(config.jobs.retention, Duration::from_hours(24));
    assert!(!config.jobs.callbacks);
    assert_eq!(config.billing.markup_basis_points, 1250);
    assert!(config.log.zero_retention);
    assert_eq!(config.images.max_pixels, 40_000_000);
    assert_eq!(config.fetch.allow, ["127.0.0.1:9900"]);
    assert_eq!(config.providers["acme"].timeout, Duration::from_secs(30));
    assert_eq!(config.providers["acme"].base_url, "http://127.0.0.1:9900/acme");
    assert_eq!(config.providers["blue"].base_url, "https://mine.blue.example/v1");
    assert_eq!(config.providers["blue"].renames["painter-1"], "my-painter");
    assert_eq!(
        config.catalog.providers["blue"].models[0].path.as_deref(),
        Some("/{upstream}?v=2025")
    );
    assert_eq!(config.routes["hero"].targets.len(), 3);
    assert!(config.allow_unknown && config.billing.allow_unpriced);
    assert_eq!(config.limits.json_bytes, 8 << 20);
    let simulator =
        SimulatorConfig { stand_in: false, queue_s: 0.1, run_s: 2.0, sigma: 0.0, seed: 7 };
    assert_eq!(config.simulator, simulator);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    check_refused(&[
        (
            "[server]\nlisen = \"127.0.0.1:1\"",
            &["mediagate.toml:2: unknown key \"server.lisen\"; did you mean \"server.listen\"?"],
        ),
        ("listen = \"127.0.0.1:1\"", &["unknown key \"listen\"; did you mean \"server.listen\"?"]),
        ("[sever]\nlisten = 1", &["unknown key \"sever\"; did you mean \"server\"?"]),
        (
            "[auth]\nbasic = \"x\"",
            &["unknown key \"auth.basic\"; the nearest known key is \"auth."],
        ),
        ("[jobs.deadlines]\nimages = \"1m\"", &["did you mean \"jobs.deadlines.image\"?"]),
        (
            "[providers.acme]\napi_key = \"k\"\napi_kye = \"k\"",
            &["did you mean \"providers.acme.api_key\"?"],
        ),
        ("[providers.acmee]\napi_key = \"k\"", &["is no known provider; did you mean \"acme\"?"]),
        (
            "[[providers.acme.credentials]]\napi_key = \"k\"\n[providers.acme]\napi_key = \"k\"",
            &[
                "unknown key \"providers.acme.credentials\"; the nearest known key is \"providers.acme.",
            ],
        ),
        (
            "[auth]\nstatic_keys = [{ nmae = \"a\", sha256 = \"x\" }]",
            &[
                "is no SHA-256",
                "static_keys[0].name: is missing",
                "did you mean \"auth.static_keys[0].name\"?",
            ],
        ),
    ]);
}

#[test]
fn bad_values_say_key_value_and_example() {
    check_refused(&[
        (
            "[server]\nlisten = \"4000\"",
            &["server.listen: \"4000\" is no address; write one such as \"127.0.0.1:4000\""],
        ),
        ("[server]\nlisten = 4000", &["server.listen: is an integer; write a text in quotes"]),
        (
            "[server]\nwait_s = \"10 parsecs\"",
            &["server.wait_s: \"10 parsecs\" is no duration; write for example"],
        ),
        ("[server]\nwait_s = -1", &["server.wait_s: -1 is not a whole number from 1 to 3600"]),
        ("[server]\npublic_url = \"https://a.example/\"", &["ends with a slash"]),
        ("[server]\nworkers = 0", &["server.workers: 0 is not a whole number from 1"]),
        (
            "[server]\nlisten = \"127.0.0.1:4000\"\nadmin_listen = \"0.0.0.0:4000\"",
            &["mediagate.toml:3: server.admin_listen: 0.0.0.0:4000 is also server.listen"],
        ),
        ("[server]\nadmin_listen = \"127.0.0.1:4000\"", &["is also server.listen"]),
        (
            "[server]\nlisten = \"0.0.0.0:4000\"\n[auth]\nmode = \"open\"",
            &["auth.mode: \"open\" lets anyone"],
        ),
        ("[auth]\nmode = \"opne\"", &["\"opne\" is not one of keys, open; did you mean \"open\"?"]),
        ("[store]\nretention = 72", &["store.retention: 72 has no unit; write for example"]),
        ("[store]\nretention = \"72\"", &["store.retention: \"72\" has no unit"]),
        ("[store]\nkey_template = \"{job}-{index}-{nope}\"", &["unknown placeholder {nope}"]),
        ("[store]\nkey_template = \"{job}\"", &["{index} is missing"]),
        (
            "[store]\nbucket = \"b\"",
            &["store.bucket: has no effect here; it needs store.kind = \"s3\""],
        ),
        (
            "[store]\nkind = \"s3\"\nbucket = \"b\"",
            &[
                "store.region: is missing",
                "store.access_key: is missing",
                "store.secret_key: is missing",
            ],
        ),
        (
            "[jobs]\nambiguous_job_cap_usd = \"0,10\"",
            &["\"0,10\" is no amount; write dollars such as \"0.10\""],
        ),
        ("[jobs]\nambiguous_job_cap_usd = 0.1", &["is a float; write a text in quotes"]),
        ("[jobs]\nambiguous_day_cap_usd = \"-0.1\"", &["ambiguous_day_cap_usd: \"-0.1\" is below"]),
        (
            "[jobs]\nretention = \"73h\"",
            &["jobs.retention: is longer than outputs are kept; write at most \"3days\""],
        ),
        ("[jobs]\nretention = \"2h\"\n[store]\nretention = \"1h\"", &["at most \"1h\""]),
        ("[jobs]\nretention = \"0s\"", &["jobs.retention: must be longer than nothing"]),
        ("[jobs]\ncallbacks = true", &["jobs.callbacks: needs server.public_url"]),
        ("[jobs]\ncallbacks = \"yes\"", &["\"yes\" is not true or false"]),
        ("[billing]\nmarkup_percent = 5", &["billing.markup_percent: is an integer; write a text"]),
        (
            "[billing]\nmarkup_percent = \"0.001\"",
            &["\"0.001\" is no percentage from 0 to 10000 with at most two decimals"],
        ),
        ("[billing]\nmarkup_percent = \"-5\"", &["\"-5\" is no percentage"]),
        ("[billing]\nmarkup = \"5\"", &["did you mean \"billing.markup_percent\"?"]),
        ("[log]\nzero_retention = 1", &["1 is not true or false"]),
        (
            "[limits]\njson_bytes = \"64 parsecs\"",
            &["limits.json_bytes: \"64 parsecs\" is no size"],
        ),
        (
            "[fetch]\nallow = [\"127.0.0.1\"]",
            &["fetch.allow[0]: \"127.0.0.1\" is no host and port"],
        ),
        (
            "[providers.acme]\napi_key = \"k\"\nbase_url = \"ftp://a\"",
            &["providers.acme.base_url: \"ftp://a\" must begin with http"],
        ),
        (
            "[providers.acme]\napi_key = \"${NOPE}\"",
            &["mediagate.toml:2: providers.acme.api_key: the environment variable NOPE is not set"],
        ),
        ("[providers.acme]", &["api_key: is missing; write api_key = \"${ACME_KEY}\""]),
        ("[providers.blue]\napi_key = \"k\"", &["providers.blue.resource: is missing"]),
        (
            "[providers.blue]\napi_key = \"k\"\nresource = \"a b\"",
            &["check the settings it is made of"],
        ),
        (
            "[providers.blue]\napi_key = \"k\"\nresource = \"r\"\ndeployments = { paintr-1 = \"x\" }",
            &["Blue sells no such model; did you mean \"painter-1\"?"],
        ),
        (
            "[routes.r]\ntargets = [\"paintr-1\"]",
            &["routes.r.targets[0]: \"paintr-1\" is no known model; did you mean \"painter-1\"?"],
        ),
        ("[routes.r]\ntargets = []", &["routes.r.targets: names no model"]),
        ("[routes.r]", &["routes.r.targets: names no model"]),
        (
            "[routes.r]\ntargets = [\"q\"]\n[routes.q]\ntargets = [\"painter-1\"]",
            &["is a route; a route's targets are models"],
        ),
        ("[routes.\"acme/painter-1\"]\ntargets = [\"painter-1\"]", &["collides with a model"]),
        ("[routes.painter-one]\ntargets = [\"painter-1\"]", &["collides with a model"]),
        ("[routes.\"r:floor\"]\ntargets = [\"painter-1\"]", &["ends like a variant"]),
        (
            "[routes.r]\ntargets = [\"painter-1\"]\npolicy = \"price\"",
            &["\"price\" is not one of order"],
        ),
        ("[log]\nlevel = \"info=maybe=\"", &["is no level"]),
        ("[catalog]\ndir = \"/nowhere\"", &["catalog.dir: /nowhere cannot be read"]),
        (
            "[images]\nmax_upscale = \"big\"",
            &["images.max_upscale: \"big\" is not a number from 1 to 8"],
        ),
        ("server = 5", &["server: is an integer; write a table"]),
        ("[server\nlisten = 1", &["mediagate.toml:1: not valid TOML"]),
    ]);
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_file() {
    check_refused(&[(
        "[log]\nlevle = \"info\"\n[server]\nwait_s = true\n\n[store]\nkind = \"tape\"",
        &[
            "toml:2: unknown key \"log.levle\"",
            "toml:4: server.wait_s",
            "toml:7: store.kind: \"tape\"",
        ],
    )]);
}

#[test]
fn jobs_are_remembered_no_longer_than_their_outputs() {
    for (text, hours) in [
        ("", 72),
        ("[store]\nretention = \"1h\"", 1),
        ("[store]\nretention = \"30d\"", 72),
        ("[store]\nretention = \"30d\"\n[jobs]\nretention = \"30d\"", 720),
    ] {
        assert_eq!(parse(text).unwrap().jobs.retention, Duration::from_hours(hours), "{text}");
    }
}

#[test]
fn providers_call_back_where_they_can_reach_us() {
    for (text, on) in [
        ("", false),
        ("[server]\npublic_url = \"https://a.example\"", true),
        ("[server]\npublic_url = \"http://a.example\"", false),
        ("[server]\npublic_url = \"http://a.example\"\n[jobs]\ncallbacks = true", true),
        ("[server]\npublic_url = \"https://a.example\"\n[jobs]\ncallbacks = false", false),
    ] {
        assert_eq!(parse(text).unwrap().jobs.callbacks, on, "{text}");
    }
}

#[test]
fn replicas_are_told_to_share_a_master_key() {
    let warned = |text: &str| {
        parse(text).unwrap().warnings.iter().any(|warning| warning.contains("auth.master_key"))
    };
    let shared = "[database]\nurl = \"postgres://db/mg\"\n";
    let key = format!("{shared}[auth]\nmaster_key = \"{}\"", "01ab".repeat(16));
    assert!(!warned("") && warned(shared) && !warned(&key));
}

#[test]
fn a_route_may_stand_before_a_public_name() {
    let config = parse("[routes.painter-1]\ntargets = [\"acme/painter-1\"]").unwrap();
    assert_eq!(config.routes["painter-1"].policy, RoutePolicy::Order);
}

#[test]
fn with_a_file_the_simulator_must_be_asked_for() {
    let config = parse("").unwrap();
    assert!(!config.simulator.stand_in && config.providers.is_empty());
    assert!(config.warnings.iter().any(|w| w.contains("no provider is switched on")));

    let config = parse("[simulator]\nenabled = true\n[providers.blue]\ndisabled = true").unwrap();
    assert!(config.simulator.stand_in);
    assert_eq!(config.providers.keys().collect::<Vec<_>>(), ["acme"]);

    let config = parse("[simulator]\nenabled = true\n[providers.acme]\napi_key = \"k\"").unwrap();
    assert!(
        config.warnings.iter().any(|w| w.contains("acme will not be called")),
        "{:?}",
        config.warnings
    );
}

#[test]
fn a_disabled_provider_needs_no_key() {
    let config = parse("[providers.acme]\ndisabled = true\n[providers.blue]\ndisabled = true");
    assert!(config.unwrap().providers.is_empty());
}

#[test]
fn no_secret_is_ever_shown() {
    let canary = "canary-5f1d";
    let text = format!(
        "[auth]\nmode = \"keys\"\n[store]\nkind = \"s3\"\nbucket = \"b\"\nregion = \"r\"\naccess_key = \"{canary}\"\nsecret_key = \"{canary}\"\n[providers.acme]\napi_key = \"${{K}}\"\n"
    );
    let env = [("K", canary)];
    let config = parse_with(Some(&text), &env).unwrap();
    assert_eq!(config.providers["acme"].api_key.expose(), canary);
    assert!(!format!("{config:?} {config:#?}").contains(canary));

    for broken in [
        format!("{text}api_key = \"{canary}\"\n"),
        format!("{text}x = {canary}\n"),
        format!("{text}x = \"{canary}\n"),
        format!("{text}api_kye = \"{canary}\"\n"),
        format!("{text}base_url = \"${{K}}\"\n"),
        format!("{text}timeout_s = \"${{K}}\"\n"),
        text.replace("\"canary-5f1d\"", "[\"canary-5f1d\"]"),
    ] {
        let shown = parse_with(Some(&broken), &env).unwrap_err().to_string();
        assert!(!shown.contains(canary), "{shown}");
    }
}

#[test]
fn a_directory_adds_to_the_catalogue() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("corner.toml");
    fs::write(&file, ACME.replace("\"Acme\"", "\"Corner\"")).unwrap();
    let text = format!(
        "[catalog]\ndir = {:?}\n[providers.corner]\napi_key = \"k\"",
        dir.path().display().to_string()
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.providers["corner"].base_url, "https://api.acme.example/v1");

    // A server of one's own costs nothing, where that is said.
    fs::write(&file, ACME.replace("\"0.04\"", "\"0\"")).unwrap();
    assert_eq!(
        parse(&text).unwrap().catalog.providers["corner"].models[0].price[0].usd,
        Money::ZERO
    );

    fs::write(&file, ACME.replace("\"0.04\"", "\"4 cents\"")).unwrap();
    let problems = parse(&text).unwrap_err().to_string();
    assert!(
        problems.contains("catalogue file corner") && problems.contains("4 cents"),
        "{problems}"
    );
}

/// The worked example of `docs/adding-a-provider.md`, as an operator adds it.
#[test]
fn the_example_provider_needs_no_code() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/brightbrush/catalog");
    let text = format!(
        "[catalog]\ndir = {:?}\n[providers.brightbrush]\napi_key = \"k\"\n\
         [routes.hero]\ntargets = [\"brightbrush-2\", \"flux-1.1-pro\"]",
        dir.display().to_string()
    );
    let file = File { path: Path::new("mediagate.toml"), text: &text };
    let config = Config::parse(Some(file), &|_| None).unwrap();
    assert_eq!(config.providers["brightbrush"].base_url, "https://api.brightbrush.example/v1");
}

/// What the documentation shows must load.
#[test]
fn the_documented_files_are_good() {
    for page in ["README.md", "docs/configuration.md", "docs/self-hosted.md"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
        let blocks: Vec<&str> = text.split("```toml\n").skip(1).collect();
        let mut tried = 0;
        for block in blocks.iter().filter_map(|b| b.split("```").next()) {
            let path = Path::new(page);
            let value = |name: &str| match name {
                "MEDIAGATE_ADMIN_KEY" | "MEDIAGATE_MASTER_KEY" => "01ab".repeat(16),
                "GOOGLE_APPLICATION_CREDENTIALS" => "tests/data/service-account.json".to_owned(),
                _ => "1".to_owned(),
            };
            let file = File { path, text: block };
            let config = Config::parse(Some(file), &|name| Some(value(name)));
            assert!(config.is_ok(), "{}\n{block}", config.unwrap_err());
            tried += 1;
        }
        assert!(tried > 0, "{page} shows no file");
    }
}
