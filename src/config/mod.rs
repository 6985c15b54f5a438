//! The configuration: `mediagate.toml` and the environment, read whole and checked whole before
//! any socket opens. The only module that reads the environment.
//!
//! Every problem is found at once, names its dotted key and line, and says what would fix it.
//! `docs/configuration.md` describes every key.

mod auth;
mod check;
mod credential;
mod database;
mod env;
mod problem;
mod providers;
mod read;
mod routes;
mod secret;
mod section;
mod sections;
mod store;
mod suggest;
mod units;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ::providers::{
    catalog::{Catalog, EMBEDDED},
    money::Money,
};

pub use auth::{AuthConfig, AuthMode, StaticBudget, StaticKey};
pub use credential::{AwsKeys, Credential, ServiceAccount};
pub use database::{DatabaseConfig, Durability, RedisConfig};
pub use env::Lookup;
pub use problem::{ConfigError, Problem};
pub use secret::Secret;
pub use suggest::nearest;

/// Everything an operator can decide, complete and consistent.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from, if any.
    pub file: Option<PathBuf>,
    /// What an operator should know though it is no error.
    pub warnings: Vec<String>,
    /// `[server]`
    pub server: ServerConfig,
    /// `[auth]`
    pub auth: AuthConfig,
    /// Where the gateway keeps what is its own: the default database, its lock, its master key.
    pub data_dir: PathBuf,
    /// `[database]`
    pub database: DatabaseConfig,
    /// `[redis]`
    pub redis: RedisConfig,
    /// `[store]`
    pub store: StoreConfig,
    /// `[jobs]`
    pub jobs: JobsConfig,
    /// `[images]`
    pub images: ImagesConfig,
    /// `[fetch]`
    pub fetch: FetchConfig,
    /// The providers that are switched on, by id. Where the simulator stands in: all of them.
    pub providers: BTreeMap<String, ProviderSettings>,
    /// `[routes.<name>]`
    pub routes: BTreeMap<String, RouteConfig>,
    /// What can be bought: the built-in catalogue under that of `[catalog] dir`, with the
    /// settings of the providers filled into its paths and headers.
    pub catalog: Catalog,
    /// `[catalog] allow_unknown`: whether ids that are not in the catalogue are passed on.
    pub allow_unknown: bool,
    /// `[limits]`
    pub limits: LimitsConfig,
    /// `[billing]`
    pub billing: BillingConfig,
    /// `[simulator]`
    pub simulator: SimulatorConfig,
    /// `[log]`
    pub log: LogConfig,
}

/// Where and how to listen.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The address of the API.
    pub listen: SocketAddr,
    /// The address of the operator's listener, if there is one.
    pub admin_listen: Option<SocketAddr>,
    /// How clients reach this gateway, without a trailing slash; see [`Self::public_url`].
    pub public_url: Option<String>,
    /// Web origins that may call from a browser; `*` is any.
    pub cors_origins: Vec<String>,
    /// How long a call waits for its job.
    pub wait: Duration,
    /// How long a caller that wants white space hears nothing. Not for operators to set.
    pub heartbeat: Duration,
    /// How long running jobs may take to finish after a stop signal.
    pub drain: Duration,
    /// Threads that serve.
    pub workers: usize,
}

impl ServerConfig {
    /// The address in links: as configured, else the one that was bound.
    pub fn public_url(&self, bound: SocketAddr) -> String {
        match &self.public_url {
            Some(url) => url.clone(),
            None if bound.ip().is_unspecified() => format!("http://localhost:{}", bound.port()),
            None => format!("http://{bound}"),
        }
    }
}

/// Where finished pictures are kept.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The kind of place.
    pub kind: StoreKind,
    /// How long they are kept.
    pub retention: Duration,
    /// Their names, a text that [`KeyTemplate`](crate::store::KeyTemplate) reads.
    pub key_template: String,
}

/// The kind of place where pictures are kept.
#[derive(Clone, Debug)]
pub enum StoreKind {
    /// In this process.
    Memory,
    /// In a directory.
    Disk {
        /// The directory.
        path: PathBuf,
    },
    /// In a bucket.
    S3(S3Config),
}

/// A bucket of S3 or of anything that speaks its protocol.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// The bucket.
    pub bucket: String,
    /// Its region.
    pub region: String,
    /// The server, where it is not Amazon's.
    pub endpoint: Option<String>,
    /// Whether the bucket stands in the path and not in the host name.
    pub path_style: bool,
    /// The id of the access key.
    pub access_key: Secret,
    /// Its secret.
    pub secret_key: Secret,
    /// How long a link works.
    pub presign_ttl: Duration,
    /// Where the bucket can be read without signature; links are then not signed.
    pub public_base_url: Option<String>,
}

/// How jobs are run.
#[derive(Clone, Debug)]
pub struct JobsConfig {
    /// How long an image job may take in all.
    pub image_deadline: Duration,
    /// Most attempts of one job.
    pub max_attempts: u32,
    /// What to do when it is unknown whether a provider took a paid request.
    pub ambiguous: Ambiguous,
    /// The dearest call that `bounded_failover` may risk paying twice.
    pub ambiguous_job_cap: Money,
    /// Most that may be risked so in a day, all jobs together.
    pub ambiguous_day_cap: Money,
    /// How long finished jobs and their results are remembered; at most as long as outputs.
    pub retention: Duration,
    /// Whether providers are asked to call back when a job is over.
    pub callbacks: bool,
}

/// What to do when it is unknown whether a provider took a paid request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguous {
    /// Another provider for a call that costs at most the cap, else stop.
    Auto,
    /// Stop: nothing is ever bought twice.
    Strict,
    /// Another provider, as far as the cap allows.
    BoundedFailover,
}

/// How pictures are worked on.
#[derive(Clone, Debug)]
pub struct ImagesConfig {
    /// Most that a picture is enlarged here, linear.
    pub max_upscale: f64,
    /// Most pixels that are decoded.
    pub max_pixels: u64,
}

/// What the guarded fetcher may reach beside public https.
#[derive(Clone, Debug, Default)]
pub struct FetchConfig {
    /// `host:port` pairs excepted from the https, port and public-address rules.
    pub allow: Vec<String>,
    /// The same for links of callers, who are not to reach what providers may.
    pub allow_callers: Vec<String>,
}

/// A provider that is switched on.
#[derive(Clone, Debug)]
pub struct ProviderSettings {
    /// Its id in the catalogue.
    pub id: String,
    /// Host and version path, settings filled in, without a trailing slash.
    pub base_url: String,
    /// The key; empty where the provider takes none, or a credential stands in for it.
    pub api_key: Secret,
    /// What requests are signed with, in place of a key.
    pub credential: Option<Credential>,
    /// How long one request to it may take.
    pub timeout: Duration,
    /// Public name of a model to what this account calls it.
    pub renames: BTreeMap<String, String>,
    /// The provider's own settings, such as `api_version`, defaults filled in.
    pub settings: BTreeMap<String, String>,
}

/// A name of the operator's own for a list of models.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// Public names or slugs, never empty.
    pub targets: Vec<String>,
    /// How one of them is chosen.
    pub policy: RoutePolicy,
}

/// How a target of a route is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoutePolicy {
    /// The first that can do the job, in the order of the file.
    #[default]
    Order,
}

/// Limits of what a caller may send.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// Longest JSON body, in bytes.
    pub json_bytes: u64,
    /// Largest file of a form, in bytes.
    pub upload_bytes: u64,
}

/// Money.
#[derive(Clone, Debug, Default)]
pub struct BillingConfig {
    /// Whether models without a known price may be called.
    pub allow_unpriced: bool,
    /// What is charged on top of the provider's price, in hundredths of a percent.
    pub markup_basis_points: u32,
}

/// The provider simulator.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatorConfig {
    /// Whether it stands in for every provider, so that nobody is called or paid.
    pub stand_in: bool,
    /// Median seconds a simulated job queues.
    pub queue_s: f64,
    /// Median seconds it runs.
    pub run_s: f64,
    /// Spread of both, the sigma of a log-normal distribution; 0 is none.
    pub sigma: f64,
    /// Start of its random numbers; the same seed gives the same times and pictures.
    pub seed: u64,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self { stand_in: false, queue_s: 0.6, run_s: 1.5, sigma: 0.25, seed: 1 }
    }
}

/// What is logged.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// In which form.
    pub format: LogFormat,
    /// A level, or `tracing` directives such as `info,mediagate=debug`.
    pub level: String,
    /// Whether nothing of a request's content is stored, so that nothing of it can be replayed.
    pub zero_retention: bool,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// For machines.
    Json,
}

/// A configuration file's path and text.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// What it says.
    pub text: &'a str,
}

/// The file that is read where nothing names another one.
pub const DEFAULT_FILE: &str = "mediagate.toml";

impl Config {
    /// Reads the file named, else that of `MEDIAGATE_CONFIG`, else `mediagate.toml` where there
    /// is one, else none. `listen` goes before `server.listen`.
    pub fn load(path: Option<&Path>, listen: Option<SocketAddr>) -> Result<Self, ConfigError> {
        let env = |name: &str| real_variable(name);
        let named = path
            .map(Path::to_path_buf)
            .or_else(|| env("MEDIAGATE_CONFIG").filter(|text| !text.is_empty()).map(PathBuf::from));
        let default = || Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists());
        let Some(path) = named.or_else(default) else {
            return sections::config(None, &env, EMBEDDED, listen);
        };
        let text = fs::read_to_string(&path).map_err(|e| ConfigError {
            file: Some(path.clone()),
            problems: vec![Problem {
                key: String::new(),
                line: None,
                message: format!("the configuration file cannot be read: {e}"),
            }],
        })?;
        sections::config(Some(File { path: &path, text: &text }), &env, EMBEDDED, listen)
    }

    /// Reads a file's text, or what holds without one. `env` looks a variable up.
    pub fn parse(file: Option<File<'_>>, env: &Lookup<'_>) -> Result<Self, ConfigError> {
        sections::config(file, env, EMBEDDED, None)
    }
}

/// `MEDIAGATE_ADMIN_KEY`: what commands show to a running gateway.
pub fn admin_key_variable() -> Option<Secret> {
    real_variable("MEDIAGATE_ADMIN_KEY").filter(|text| !text.is_empty()).map(Secret::new)
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
fn real_variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
