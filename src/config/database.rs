//! `[database]`, `[redis]` and the directory of the gateway's own data.

use std::path::{Path, PathBuf};

use url::Url;

use super::{Secret, read::Reader, section::Section};

const SQLITE: &str = "sqlite://";

/// Where money, keys and jobs are kept.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// `sqlite://path` or `postgres://...`; may hold a password.
    pub url: Secret,
    /// When a commit counts.
    pub durability: Durability,
    /// Most connections at once; SQLite has one writer and this many readers.
    pub max_connections: usize,
}

/// When a commit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Synced where the promise needs it, fast where it does not.
    Auto,
    /// Always synced to the disk.
    Full,
    /// When it survives this process, though perhaps not a loss of power.
    Process,
}

/// What replicas share beside the database.
#[derive(Clone, Debug, Default)]
pub struct RedisConfig {
    /// `redis://...`; may hold a password. Without it limits are counted in this process.
    pub url: Option<Secret>,
}

impl DatabaseConfig {
    /// The file of an SQLite database.
    pub fn sqlite(&self) -> Option<&Path> {
        self.url.expose().strip_prefix(SQLITE).map(Path::new)
    }

    /// What can be told about the place, without user and password.
    pub fn place(&self) -> String {
        match self.sqlite() {
            Some(path) => format!("sqlite {}", path.display()),
            None => place(self.url.expose(), 5432),
        }
    }
}

impl RedisConfig {
    /// What can be told about the place, without user and password.
    pub fn place(&self) -> Option<String> {
        self.url.as_ref().map(|url| place(url.expose(), 6379))
    }
}

fn place(url: &str, usual_port: u16) -> String {
    let Ok(url) = Url::parse(url) else { return String::new() };
    let port = url.port().unwrap_or(usual_port);
    let host = url.host_str().filter(|host| !host.is_empty()).unwrap_or("localhost");
    format!("{} {host}:{port}{}", url.scheme(), url.path())
}

/// Reads `[database]`, and says where the data directory is: `MEDIAGATE_DATA_DIR`, else the
/// directory of the SQLite database that is configured, else `./data`.
pub(super) fn database(reader: &Reader<'_>) -> (DatabaseConfig, PathBuf) {
    let section = reader.top().child("database");
    let url = checked(&section, database_url);
    let from_environment = reader.env("MEDIAGATE_DATA_DIR").filter(|dir| !dir.is_empty());
    let beside = || {
        let path = Path::new(url.as_ref()?.expose().strip_prefix(SQLITE)?);
        let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        Some(parent.unwrap_or(Path::new(".")).to_path_buf())
    };
    let data_dir = from_environment
        .map(PathBuf::from)
        .or_else(beside)
        .unwrap_or_else(|| PathBuf::from("./data"));
    let usual = || Secret::new(format!("{SQLITE}{}", data_dir.join("mediagate.db").display()));
    let words =
        [("auto", Durability::Auto), ("full", Durability::Full), ("process", Durability::Process)];
    let config = DatabaseConfig {
        url: url.unwrap_or_else(usual),
        durability: section.choice("durability", &words).unwrap_or(Durability::Auto),
        max_connections: section.integer("max_connections", 1..=1000).unwrap_or(16) as usize,
    };
    (config, data_dir)
}

/// Reads `[redis]`.
pub(super) fn redis(section: &Section<'_>) -> RedisConfig {
    RedisConfig { url: checked(section, redis_url) }
}

/// A URL that may hold a password: it is never shown.
fn checked(
    section: &Section<'_>,
    check: impl FnOnce(&str) -> Result<(), String>,
) -> Option<Secret> {
    let url = section.secret("url")?;
    check(url.expose()).map_err(|error| section.problem("url", error)).ok()?;
    Some(url)
}

fn database_url(text: &str) -> Result<(), String> {
    let fix = "write \"sqlite://data/mediagate.db\" or \"postgres://user:password@host/database\"";
    if let Some(path) = text.strip_prefix(SQLITE) {
        return match path {
            "" => Err(format!("names no file; {fix}")),
            _ if path.ends_with('/') => Err(format!("names a directory; {fix}")),
            _ if path.contains(['?', '#', '\0']) => {
                Err("has options; SQLite's are fixed, write the path alone".to_owned())
            }
            _ => Ok(()),
        };
    }
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "postgres" | "postgresql") => match url.host_str() {
            Some(host) if !host.is_empty() => Ok(()),
            _ => Err(format!("names no host; {fix}")),
        },
        _ => Err(format!("is no database that is known; {fix}")),
    }
}

fn redis_url(text: &str) -> Result<(), String> {
    let fix = "write \"redis://user:password@host:6379/0\"";
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "rediss" | "valkeys") => Err(
            "asks for TLS, which this build does not speak to Redis; write redis:// and keep the \
             way there private"
                .to_owned(),
        ),
        Ok(url) if matches!(url.scheme(), "redis" | "valkey") => match url.host_str() {
            Some(host) if !host.is_empty() => redis::Client::open(text)
                .map(drop)
                .map_err(|_| format!("has a database or an option that is none; {fix}")),
            _ => Err(format!("names no host; {fix}")),
        },
        _ => Err(format!("is no URL of Redis; {fix}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{check_refused, parse, parse_with},
        *,
    };

    #[test]
    fn data_lies_together() {
        for (text, env, dir, url) in [
            (None, None, "./data", "sqlite://./data/mediagate.db"),
            (Some(""), None, "./data", "sqlite://./data/mediagate.db"),
            (None, Some("/srv/mg"), "/srv/mg", "sqlite:///srv/mg/mediagate.db"),
            (None, Some(""), "./data", "sqlite://./data/mediagate.db"),
            (Some("sqlite://var/x.db"), None, "var", "sqlite://var/x.db"),
            (Some("sqlite:///var/x.db"), None, "/var", "sqlite:///var/x.db"),
            (Some("sqlite://x.db"), None, ".", "sqlite://x.db"),
            (Some("sqlite://var/x.db"), Some("/srv"), "/srv", "sqlite://var/x.db"),
            (Some("postgres://db/mg"), None, "./data", "postgres://db/mg"),
        ] {
            let file = text.map(|url| match url {
                "" => String::new(),
                url => format!("[database]\nurl = \"{url}\""),
            });
            let env: Vec<_> = env.map(|dir| ("MEDIAGATE_DATA_DIR", dir)).into_iter().collect();
            let config = parse_with(file.as_deref(), &env).unwrap();
            assert_eq!(config.data_dir, Path::new(dir), "{text:?} {env:?}");
            assert_eq!(config.database.url.expose(), url, "{text:?} {env:?}");
            assert_eq!(config.database.durability, Durability::Auto);
            assert_eq!(config.database.max_connections, 16);
        }
    }

    #[test]
    fn places_are_told_without_the_password() {
        for (section, url, place) in [
            ("database", "sqlite://var/x.db", "sqlite var/x.db"),
            ("database", "postgres://me:canary@db.example/mg", "postgres db.example:5432/mg"),
            ("database", "postgresql://db:6432/mg?sslmode=require", "postgresql db:6432/mg"),
            ("redis", "redis://:canary@cache:1/3", "redis cache:1/3"),
            ("redis", "valkey://me:canary@cache", "valkey cache:6379"),
        ] {
            let config = parse(&format!("[{section}]\nurl = \"{url}\"")).unwrap();
            let told = match section {
                "redis" => config.redis.place().unwrap(),
                _ => config.database.place(),
            };
            assert_eq!(told, place);
            assert!(!format!("{config:?} {config:#?}").contains("canary"), "{url}");
        }
        assert_eq!(parse("").unwrap().redis.place(), None);
    }

    #[test]
    fn bad_urls_say_what_would_work_and_show_nothing() {
        let known = "database.url: is no database that is known; write \"sqlite://data";
        for (section, url, wanted) in [
            ("database", "mysql://me:canary@h/d", known),
            ("database", "canary.db", known),
            ("database", "sqlite:canary.db", known),
            ("database", "postgres://canary:x@:99999/d", known),
            ("database", "postgres:///canary", "names no host"),
            ("database", "sqlite://", "names no file"),
            ("database", "sqlite://canary/", "names a directory"),
            ("database", "sqlite://canary.db?mode=ro", "has options"),
            ("redis", "http://canary", "redis.url: is no URL of Redis; write \"redis://"),
            ("redis", "canary:6379", "is no URL of Redis"),
            ("redis", "redis://", "names no host"),
            ("redis", "redis://h/canary", "has a database or an option that is none"),
            ("redis", "rediss://:canary@h", "asks for TLS"),
        ] {
            let text = format!("[{section}]\nurl = \"{url}\"");
            check_refused(&[(&text, &[wanted])]);
            assert!(!parse(&text).unwrap_err().to_string().contains("canary"), "{url}");
        }
        check_refused(&[
            ("[database]\nurl = 5", &["database.url: is an integer; write a text in quotes"]),
            ("[database]\nurl = \"\"", &["database.url: is empty"]),
            ("[database]\ndurability = \"ful\"", &["not one of auto, full, process; did you mean"]),
            ("[database]\nmax_connections = 0", &["0 is not a whole number from 1 to 1000"]),
            ("[database]\nmax_conections = 4", &["did you mean \"database.max_connections\"?"]),
            ("[redis]\nhost = \"h\"", &["unknown key \"redis.host\""]),
        ]);
    }
}
