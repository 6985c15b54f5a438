//! Connections: how they are made, lent and given back.

use std::{
    ops::Deref,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime,
};
use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::time::timeout;
use tokio_postgres::{
    Config, NoTls,
    config::{Host, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    super::{DbError, DbSettings},
    PATIENCE,
    fault::{fault, unreachable},
};

/// How long a connection is waited for while the server is seen to work.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What a connection is told first. Times are milliseconds; nothing may hang for ever. A server
/// that does not write commits to its disk before it answers is asked to do so. Whoever writes
/// looks rows up by their keys: a plan that was made while a table was small and reads all of it
/// would be kept for minutes while the table grows.
const WRITER: &str = "SET statement_timeout = 5000; SET lock_timeout = 3000; \
    SET idle_in_transaction_session_timeout = 10000; SET jit = off; SET enable_seqscan = off; \
    SET default_transaction_isolation = 'read committed'; \
    SELECT set_config('synchronous_commit', 'on', false) \
    WHERE current_setting('synchronous_commit') = 'off'";
const READER: &str = "SET statement_timeout = 15000; SET lock_timeout = 3000; \
    SET idle_in_transaction_session_timeout = 10000; SET jit = off; \
    SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = on";

/// The two pools of one database.
pub(super) struct Pools {
    writers: Pool,
    readers: Pool,
    pulse: Pulse,
}

impl Pools {
    /// Two thirds of the connections write. None is made yet.
    pub(super) fn new(settings: &DbSettings) -> Result<Self, DbError> {
        let config = configuration(&settings.url)?;
        let readers = (settings.max_connections / 3).max(1);
        let writers = settings.max_connections.saturating_sub(readers).max(1);
        Ok(Self {
            writers: pool(&config, writers, WRITER)?,
            readers: pool(&config, readers, READER)?,
            pulse: Pulse::default(),
        })
    }

    pub(super) async fn writer(&self) -> Result<Lent, DbError> {
        self.lend(&self.writers).await
    }

    pub(super) async fn reader(&self) -> Result<Lent, DbError> {
        self.lend(&self.readers).await
    }

    /// Waits for a connection while others are given back, for a server with much to do is not
    /// one that is gone.
    async fn lend(&self, pool: &Pool) -> Result<Lent, DbError> {
        let begun = Instant::now();
        let mut waiting = pin!(pool.get());
        loop {
            match timeout(PATIENCE, &mut waiting).await {
                Ok(Ok(connection)) => {
                    let pulse = self.pulse.clone();
                    return Ok(Lent { connection: Some(connection), pulse });
                }
                Ok(Err(PoolError::Backend(error))) => return Err(unreachable(error)),
                Ok(Err(PoolError::PostCreateHook(HookError::Backend(error)))) => {
                    return Err(fault(error));
                }
                Ok(Err(error)) => {
                    return Err(DbError::outage("the server cannot be reached", error));
                }
                Err(_) if self.pulse.is_alive() && begun.elapsed() < LONGEST_WAIT => {}
                Err(_) => {
                    return Err(DbError::unavailable(
                        "no connection was free in time; see whether the server answers, or allow \
                         more connections",
                    ));
                }
            }
        }
    }
}

/// A connection in use. It is closed when dropped, unless it is given back.
pub(super) struct Lent {
    connection: Option<Object>,
    pulse: Pulse,
}

impl Lent {
    /// Whether it was made just now.
    pub(super) fn is_fresh(&self) -> bool {
        self.connection.as_ref().is_none_or(|object| Object::metrics(object).recycle_count == 0)
    }

    /// Puts it back: it works, and no transaction is open on it.
    pub(super) fn give_back(mut self) {
        self.pulse.beat();
        drop(self.connection.take());
    }
}

impl Deref for Lent {
    type Target = Object;

    #[expect(clippy::expect_used, reason = "it is taken only where Lent itself ends")]
    fn deref(&self) -> &Object {
        self.connection.as_ref().expect("a lent connection is there")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(Object::take(connection));
        }
    }
}

/// When the server last finished something.
#[derive(Clone)]
struct Pulse(Arc<(Instant, AtomicU64)>);

impl Default for Pulse {
    fn default() -> Self {
        Self(Arc::new((Instant::now(), AtomicU64::new(0))))
    }
}

impl Pulse {
    fn now(&self) -> u64 {
        self.0.0.elapsed().as_millis() as u64
    }

    fn beat(&self) {
        self.0.1.store(self.now(), Ordering::Relaxed);
    }

    fn is_alive(&self) -> bool {
        let silent = self.now().saturating_sub(self.0.1.load(Ordering::Relaxed));
        Duration::from_millis(silent) < PATIENCE
    }
}

/// The URL, with what we want of every connection. Its errors name options, never values.
fn configuration(url: &str) -> Result<Config, DbError> {
    // TLS is always verified in full here.
    let url = url
        .replace("sslmode=verify-full", "sslmode=require")
        .replace("sslmode=verify-ca", "sslmode=require");
    let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        DbError::Settings(format!("the database URL cannot be read: {cause}"))
    })?;
    config.connect_timeout(PATIENCE).tcp_user_timeout(Duration::from_secs(5));
    config.keepalives_idle(Duration::from_secs(10));
    if config.get_application_name().is_none() {
        config.application_name("mediagate");
    }
    Ok(config)
}

fn pool(config: &Config, size: usize, greeting: &'static str) -> Result<Pool, DbError> {
    let settings = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = match tls(config)? {
        Some(tls) => Manager::from_config(config.clone(), tls, settings),
        None => Manager::from_config(config.clone(), NoTls, settings),
    };
    Pool::builder(manager)
        .max_size(size)
        .create_timeout(Some(PATIENCE))
        .recycle_timeout(Some(PATIENCE))
        .runtime(Runtime::Tokio1)
        .post_create(Hook::async_fn(move |client, _| {
            Box::pin(
                async move { client.batch_execute(greeting).await.map_err(HookError::Backend) },
            )
        }))
        .build()
        .map_err(|error| DbError::Settings(format!("no connection pool can be made: {error}")))
}

/// TLS where it is asked for, and where the network is not this machine. The server must then show
/// a certificate that this machine trusts.
fn tls(config: &Config) -> Result<Option<MakeRustlsConnect>, DbError> {
    let here = config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => {
            let address = name.parse::<std::net::IpAddr>();
            name == "localhost" || address.is_ok_and(|address| address.is_loopback())
        }
        Host::Unix(_) => true,
    });
    let required = config.get_ssl_mode() == SslMode::Require;
    if config.get_ssl_mode() == SslMode::Disable || (here && !required) {
        return Ok(None);
    }
    crate::media::fetch::install_tls();
    match ClientConfig::builder().with_platform_verifier() {
        Ok(builder) => Ok(Some(MakeRustlsConnect::new(builder.with_no_client_auth()))),
        Err(error) if required => Err(DbError::Settings(format!(
            "TLS to the database needs the certificates this machine trusts (Debian package \
             ca-certificates): {error}"
        ))),
        Err(error) => {
            tracing::warn!(%error, "no trusted certificates here: the database is asked without TLS");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_used_where_it_matters() {
        let check = |url: &str, expected: bool| {
            let config = configuration(url).unwrap();
            assert_eq!(tls(&config).unwrap().is_some(), expected, "{url}");
        };
        check("postgres://u:p@127.0.0.1/db", false);
        check("postgres://u:p@localhost:5433/db", false);
        check("postgres://u:p@[::1]/db", false);
        check("postgres:///db?host=/run/postgresql", false);
        check("postgresql://u:p@localhost/db?sslmode=require", true);
        check("postgres://u:p@db.example/db", true);
        check("postgres://u:p@db.example/db?sslmode=verify-full", true);
        check("postgres://u:p@db.example/db?sslmode=verify-ca", true);
        check("postgres://u:p@db.example/db?sslmode=disable", false);
        check("postgres://u:p@localhost,db.example/db", true);
    }

    #[test]
    fn an_unreadable_url_is_refused_without_its_password() {
        let check = |url: &str, expected: &str| {
            let error = configuration(url).unwrap_err().to_string();
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("s3cret"), "{url}: {error}");
        };
        check("postgres://u:s3cret@h/db?sslmode=maybe", "sslmode");
        check("postgres://u:s3cret@h/db?colour=red", "colour");
        check("postgres://u:s3cret@h:port/db", "port");
    }
}
