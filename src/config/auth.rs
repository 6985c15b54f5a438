//! `[auth]`: who may call, and the secrets of the gateway itself.

use std::net::{Ipv4Addr, SocketAddr};

use ::providers::money::Money;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{Secret, ServerConfig, check, section::Section};
use crate::tenant::{self, Period, RateLimits};

/// Shortest credential of an operator, in characters.
const SHORTEST_ADMIN_KEY: usize = 20;
/// Largest rate a key may have, per minute: beyond it a limit means nothing.
const FASTEST: u64 = 100_000_000;

/// Who may call.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// Whether a key is needed.
    pub mode: AuthMode,
    /// The keys kept in the file.
    pub static_keys: Vec<StaticKey>,
    /// The operator's credential on the admin listener, at least 20 characters.
    pub admin_key: Option<Secret>,
    /// The key under which stored payloads and provider keys are sealed; without it one is kept
    /// in the data directory.
    pub master_key: Option<Secret<Zeroizing<[u8; 32]>>>,
}

/// Whether a key is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// Every call needs a key.
    Keys,
    /// Anyone who reaches the loopback listener may call.
    Open,
}

/// A key kept in the file, as a hash only.
#[derive(Clone, Debug)]
pub struct StaticKey {
    /// What logs and answers call it.
    pub name: String,
    /// SHA-256 of the key.
    pub sha256: [u8; 32],
    /// The project it belongs to.
    pub project: String,
    /// The models it may call: names in which `*` stands for anything.
    pub models: Vec<String>,
    /// The paths it may call, such as `/v1/images/*`.
    pub endpoints: Vec<String>,
    /// How fast it may ask.
    pub limits: RateLimits,
    /// What it may spend.
    pub budget: Option<StaticBudget>,
}

/// What a key kept in the file may spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticBudget {
    /// At least zero, which means nothing.
    pub amount: Money,
    /// How long until it begins anew.
    pub period: Period,
}

/// Reads the section. `in_file` tells whether there is a file.
pub(super) fn auth(section: &Section<'_>, in_file: bool, server: &ServerConfig) -> AuthConfig {
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
    let static_keys = static_keys(section);
    AuthConfig {
        mode,
        admin_key: admin_key(section, &static_keys),
        master_key: section.secret("master_key").and_then(|text| {
            master_key(text.expose()).map_err(|e| section.problem("master_key", e)).ok()
        }),
        static_keys,
    }
}

/// Where operators are served if nothing is said: on loopback as soon as there is a credential.
pub(super) fn default_admin_listen(section: &Section<'_>) -> Option<SocketAddr> {
    section.has("admin_key").then_some(SocketAddr::from((Ipv4Addr::LOCALHOST, 4001)))
}

fn admin_key(section: &Section<'_>, static_keys: &[StaticKey]) -> Option<Secret> {
    let key = section.secret("admin_key")?;
    let text = key.expose();
    if text.len() < SHORTEST_ADMIN_KEY {
        let fix = "make one with `openssl rand -hex 32`";
        let least = SHORTEST_ADMIN_KEY;
        section.problem("admin_key", format!("is shorter than {least} characters; {fix}"));
        return None;
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        section.problem("admin_key", "holds more than visible ASCII; a header cannot carry it");
        return None;
    }
    let hash: [u8; 32] = Sha256::digest(text).into();
    if let Some(same) = static_keys.iter().find(|other| other.sha256 == hash) {
        let name = &same.name;
        section.problem("admin_key", format!("is also the key {name:?}; give operators their own"));
    }
    Some(key)
}

/// 32 bytes as 64 hexadecimal digits or as base64. Messages never show the text.
fn master_key(text: &str) -> Result<Secret<Zeroizing<[u8; 32]>>, String> {
    let mut key = Zeroizing::new([0; 32]);
    let bytes = match text.len() {
        64 => hex::decode(text).ok(),
        44 => STANDARD.decode(text).ok(),
        _ => None,
    };
    match bytes.map(Zeroizing::new) {
        Some(bytes) if bytes.len() == key.len() => key.copy_from_slice(&bytes),
        _ => {
            return Err("is no key of 32 bytes; write the 64 hexadecimal digits of \
                        `openssl rand -hex 32`, or its 44 characters of base64"
                .to_owned());
        }
    }
    if key.iter().all(|byte| *byte == key[0]) {
        return Err("is one byte repeated; make one with `openssl rand -hex 32`".to_owned());
    }
    Ok(Secret::new(key))
}

fn static_keys(section: &Section<'_>) -> Vec<StaticKey> {
    let mut keys: Vec<StaticKey> = Vec::new();
    for section in section.tables("static_keys") {
        let Some(key) = static_key(&section) else { continue };
        if keys.iter().any(|other| other.name == key.name) {
            let name = &key.name;
            section
                .problem("name", format!("{name:?} is there twice; names tell keys apart in logs"));
        }
        if keys.iter().any(|other| other.sha256 == key.sha256) {
            section.problem("sha256", "is there twice; give every name a key of its own");
        }
        keys.push(key);
    }
    keys
}

fn static_key(key: &Section<'_>) -> Option<StaticKey> {
    let name = key.text("name").filter(|name| !name.is_empty());
    // What stands here by mistake may be the key itself: it is not shown.
    let sha256 = key
        .text("sha256")
        .and_then(|text| check::sha256(&text).map_err(|error| key.problem("sha256", error)).ok());
    for (field, missing, example) in [
        ("name", name.is_none(), "name = \"ci\""),
        ("sha256", sha256.is_none() && !key.has("sha256"), "sha256 = \"9f86d0...\""),
    ] {
        if missing {
            key.problem(field, format!("is missing; write for example {example}"));
        }
    }
    let any = || vec!["*".to_owned()];
    let rate = |what: &str| key.integer(what, 1..=FASTEST).map(|number| number as u32);
    let models = key.texts("models", check::pattern).unwrap_or_else(any);
    let endpoints = key.texts("endpoints", check::endpoint).unwrap_or_else(any);
    let project = key.parsed("project", check::id).unwrap_or_else(|| tenant::DEFAULT.to_owned());
    let limits = RateLimits {
        rpm: rate("rpm"),
        ipm: rate("ipm"),
        tpm: rate("tpm"),
        max_concurrent: key.integer("max_concurrent", 1..=1_000_000).map(|number| number as u32),
    };
    let budget = budget(key);
    Some(StaticKey { name: name?, sha256: sha256?, project, models, endpoints, limits, budget })
}

fn budget(key: &Section<'_>) -> Option<StaticBudget> {
    let words = [
        ("day", Period::Day),
        ("week", Period::Week),
        ("month", Period::Month),
        ("total", Period::Total),
    ];
    let period = key.choice("budget_period", &words).unwrap_or(Period::Total);
    if key.has("budget_period") && !key.has("budget_usd") {
        key.problem("budget_period", "has no effect alone; write for example budget_usd = \"5\"");
    }
    let amount = key.parsed("budget_usd", check::budget)?;
    Some(StaticBudget { amount, period })
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{check_refused, parse},
        *,
    };

    const KEYS: &str = "[auth]\nstatic_keys = [{ name = \"ci\", sha256 = \
                        \"abababababababababababababababababababababababababababababababab\"";

    fn key(rest: &str) -> String {
        format!("{KEYS}{rest} }}]")
    }

    #[test]
    fn a_key_has_no_limits_but_those_it_is_given() {
        let config = parse(&key("")).unwrap();
        let bare = &config.auth.static_keys[0];
        assert_eq!((bare.limits, bare.budget), (RateLimits::default(), None));
        assert_eq!(
            (bare.project.as_str(), &bare.endpoints[..]),
            ("default", &["*".to_owned()][..])
        );

        let text = key(", project = \"web\", endpoints = [\"/v1/images/*\"], budget_usd = \"5\", \
                        rpm = 60, ipm = 20, tpm = 100_000, max_concurrent = 4");
        let config = parse(&text).unwrap();
        let full = &config.auth.static_keys[0];
        let limits = RateLimits {
            rpm: Some(60),
            ipm: Some(20),
            tpm: Some(100_000),
            max_concurrent: Some(4),
        };
        assert_eq!(full.limits, limits);
        let five = Money::from_nanos(5_000_000_000);
        assert_eq!(full.budget, Some(StaticBudget { amount: five, period: Period::Total }));
        assert_eq!((full.project.as_str(), full.endpoints[0].as_str()), ("web", "/v1/images/*"));
    }

    #[test]
    fn a_budget_may_be_nothing_and_its_smallest_part() {
        for (usd, nanos) in [("0", 0), ("0.000000001", 1), ("9223372036.854775807", i64::MAX)] {
            let text = key(&format!(", budget_usd = \"{usd}\", budget_period = \"month\""));
            let budget = parse(&text).unwrap().auth.static_keys[0].budget;
            let amount = Money::from_nanos(nanos);
            assert_eq!(budget, Some(StaticBudget { amount, period: Period::Month }), "{usd}");
        }
    }

    #[test]
    fn bad_keys_say_what_would_work() {
        let huge = format!(", budget_usd = \"1{}\"", "0".repeat(30));
        for (rest, wanted) in [
            (
                ", budget_usd = \"-1\"",
                "static_keys[0].budget_usd: \"-1\" is below zero; write \"0\"",
            ),
            (&huge, "is more than can be counted; write at most \"9000000000\""),
            (", budget_usd = \"0.0000000001\"", "has more than nine decimals"),
            (", budget_usd = \"1e30\"", "\"1e30\" is no amount; write dollars such as \"5\""),
            (", budget_usd = \"NaN\"", "\"NaN\" is no amount"),
            (", budget_usd = 0.5", "is a float; write a text in quotes"),
            (", budget_usd = 5", "is an integer; write a text in quotes"),
            (
                ", budget_usd = \"5\", budget_period = \"year\"",
                "not one of day, week, month, total",
            ),
            (", budget_period = \"day\"", "has no effect alone; write for example budget_usd"),
            (", rpm = 0", "rpm: 0 is not a whole number from 1 to 100000000"),
            (", ipm = -1", "ipm: -1 is not a whole number from 1"),
            (", tpm = 100_000_001", "is not a whole number from 1 to 100000000"),
            (", max_concurrent = 1.5", "max_concurrent: 1.5 is not a whole number from 1"),
            (", project = \"a b\"", "\"a b\" is no name; write 1 to 64 letters, digits"),
            (", project = \"\"", "is no name"),
            (
                ", endpoints = [\"images\"]",
                "\"images\" is no path; write one such as \"/v1/images/*\"",
            ),
            (", budget_used = \"5\"", "did you mean \"auth.static_keys[0].budget_usd\"?"),
        ] {
            check_refused(&[(&key(rest), &[wanted])]);
        }
    }

    #[test]
    fn all_of_a_keys_mistakes_come_at_once() {
        let text = key(", budget_usd = \"-1\", rpm = 0, project = \"\"");
        check_refused(&[(&text, &["project", "rpm", "budget_usd"])]);
    }

    #[test]
    fn an_admin_key_is_long_and_its_own() {
        let hash = hex::encode(Sha256::digest("a-key-of-twenty-chars"));
        let twice = format!(
            "[auth]\nadmin_key = \"a-key-of-twenty-chars\"\n\
             static_keys = [{{ name = \"ci\", sha256 = \"{hash}\" }}]"
        );
        check_refused(&[
            (
                "[auth]\nadmin_key = \"nineteen-characters\"",
                &["auth.admin_key: is shorter than 20 characters; make one with `openssl rand"],
            ),
            ("[auth]\nadmin_key = \"twenty characters and spaces\"", &["more than visible ASCII"]),
            ("[auth]\nadmin_key = \"\"", &["admin_key: is empty"]),
            ("[auth]\nadmin_key = 12345678901234567890", &["write a text in quotes"]),
            (&twice, &["admin_key: is also the key \"ci\""]),
        ]);
        let config = parse("[auth]\nadmin_key = \"twenty-characters-ok\"").unwrap();
        assert_eq!(config.auth.admin_key.as_ref().unwrap().expose(), "twenty-characters-ok");
        assert!(!format!("{config:?}").contains("twenty-characters-ok"));
    }

    #[test]
    fn an_admin_key_opens_the_admin_listener() {
        let listen = |text: &str| parse(text).unwrap().server.admin_listen.map(|a| a.to_string());
        let admin = "[auth]\nadmin_key = \"twenty-characters-ok\"\n";
        assert_eq!(listen(""), None);
        assert_eq!(listen(admin).as_deref(), Some("127.0.0.1:4001"));
        let text = format!("{admin}[server]\nadmin_listen = \"127.0.0.1:5001\"");
        assert_eq!(listen(&text).as_deref(), Some("127.0.0.1:5001"));
        let text = format!("{admin}[server]\nlisten = \"127.0.0.1:4001\"");
        check_refused(&[(&text, &["server.admin_listen: 127.0.0.1:4001 is also server.listen"])]);
    }

    #[test]
    fn a_master_key_is_32_bytes() {
        let bytes: Vec<u8> = (0..32).collect();
        let (as_hex, as_base64) = (hex::encode(&bytes), STANDARD.encode(&bytes));
        for text in [&as_hex, &as_hex.to_uppercase(), &as_base64] {
            let config = parse(&format!("[auth]\nmaster_key = \"{text}\"")).unwrap();
            assert_eq!(config.auth.master_key.as_ref().unwrap().expose()[..], bytes, "{text}");
            assert!(!format!("{config:?}").contains(text.as_str()));
        }
        let (short, long) = (&as_hex[2..], format!("{as_hex}00"));
        let (letter, unpadded) = (format!("g{}", &as_hex[1..]), &as_base64[..43]);
        let (zeros, other) = ("00".repeat(32), STANDARD.encode([7; 31]));
        for text in [short, &long, &letter, unpadded, &zeros, &other, "passphrase"] {
            let error = parse(&format!("[auth]\nmaster_key = \"{text}\"")).unwrap_err().to_string();
            assert!(error.contains("auth.master_key: is ") && error.contains("openssl"), "{error}");
            assert!(!error.contains(text), "{error}");
        }
    }
}
