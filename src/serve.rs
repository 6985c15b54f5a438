//! Runs the gateway: builds the parts from the configuration, listens, and stops in order.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::Path,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    http::{Request, Version},
};
use hyper::{
    body::Incoming,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use providers::money::Money;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api::{self, App, admin::Admin, auth::Auth, line::Line},
    config::{self, Config},
    db::{Db, DbSettings, Durability},
    engine::{
        Engine, EngineSettings, JobDurability,
        callback::Callbacks,
        deliver::AmbiguityPolicy,
        job::Jobs,
        lease::Lease,
        millis,
        registry::{Enabled, Registry},
        risk::{self, DayRisk},
        transport::Transport,
        unix,
    },
    jobs::{Desk, audit, erase},
    limit::Limiter,
    media::{
        blob::Budget,
        fetch::{FetchRules, Fetcher, HostPort},
        pool::{self, Pool},
    },
    metrics::Metrics,
    seal::Sealer,
    sim,
    store::{KeyTemplate, S3Settings, Store, StoreKind, StoreSettings},
    tenant::directory::{self, Directory},
    usage::outbox::Outbox,
};

/// Memory that pictures on their way through may take together; beyond it they go to disk.
const BLOB_BUDGET: usize = 128 * 1024 * 1024;
/// What the memory store holds at most.
const MEMORY_STORE: u64 = 512 * 1024 * 1024;
/// How long before the end of the drain time those who still wait are told to come back.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A request's head must be there within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const SWEEP_EVERY: Duration = Duration::from_mins(5);
/// More than the API takes, so that the API says so in its own words.
const MOST_HEADERS: usize = 256;

/// Why the gateway could not start.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct StartError {
    what: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> StartError {
    let what = what.into();
    move |source| StartError { what, source: source.into() }
}

/// A gateway that listens.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it listens for operators.
    pub admin_address: Option<SocketAddr>,
    app: Arc<App>,
    stop: CancellationToken,
    /// Ends what must go on until the last job has ended.
    last: CancellationToken,
    simulator: CancellationToken,
    drain: Duration,
    accepting: JoinHandle<()>,
    /// Held until the process ends.
    _lock: Option<fs::File>,
}

impl Running {
    /// Stops accepting, lets accepted calls and paid jobs finish within the drain time.
    pub async fn shut_down(self) {
        self.app.drain();
        self.stop.cancel();
        let over = tokio::time::Instant::now() + self.drain;
        let closing = self.app.closing.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(over - LAST_WORDS.min(self.drain / 2)).await;
            closing.cancel();
        });
        let _ = self.accepting.await;
        let tasks = &self.app.engine.tasks;
        tasks.close();
        if tokio::time::timeout_at(over, tasks.wait()).await.is_err() {
            tracing::warn!(
                jobs = tasks.len(),
                "stopped before these jobs were over; whoever starts next goes on with them"
            );
        }
        self.app.engine.hand_over().await;
        self.last.cancel();
        // Last, for running jobs may be waiting for it.
        self.simulator.cancel();
    }
}

/// Builds everything, listens, and returns at once.
pub async fn start(config: Config) -> Result<Running, StartError> {
    crate::media::fetch::install_tls();
    let listen = config.server.listen;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(failed(format!("{listen} cannot be listened on; is it in use?")))?;
    let address = listener.local_addr().map_err(failed("the listener has no address"))?;
    let stop = CancellationToken::new();
    let simulated = CancellationToken::new();
    let simulator = if config.simulator.stand_in {
        Some(start_simulator(&config, &simulated).await?)
    } else {
        None
    };
    let lock = lock(&config)?;
    let database = database(&config).await?;
    let (db, sealer) = (database.desk.db().clone(), Arc::clone(&database.sealer));
    let directory = directory(&config, &db, &sealer, &stop).await;
    let engine =
        Arc::new(engine(&config, address, simulator, database, Arc::clone(&directory)).await?);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if simulator.is_some() {
        tracing::warn!("SIMULATED: no provider is called and nothing is paid; set a provider key");
    }
    sweep(&engine, &stop);
    let last = CancellationToken::new();
    tokio::spawn(Arc::clone(&engine).renew_leases(last.clone()));
    engine.inherit().await.map_err(failed("unfinished jobs cannot be taken over"))?;
    tokio::spawn(Arc::clone(&engine).tend(stop.clone()));
    tokio::spawn(audit::run(db.clone(), engine.metrics.books.clone(), stop.clone()));
    let degraded = engine.metrics.limits_degraded.clone();
    let limiter = Limiter::new(config.redis.url.as_ref(), degraded)
        .await
        .map_err(failed("redis.url cannot be used"))?;
    let alerts = Arc::clone(engine.desk.alerts());
    let outbox = Outbox::new(db.clone(), engine.fetcher.clone(), Arc::clone(&sealer), alerts);
    tokio::spawn(outbox.run(stop.clone()));
    let app = Arc::new(App {
        engine,
        limiter,
        auth: Auth::new(directory, config.auth.mode == config::AuthMode::Open),
        admin: config.auth.admin_key.clone().map(|key| Admin {
            db,
            sealer,
            key,
            providers: config.catalog.providers.keys().cloned().collect(),
        }),
        json_limit: usize::try_from(config.limits.json_bytes).unwrap_or(usize::MAX),
        upload_limit: config.limits.upload_bytes,
        wait: config.server.wait,
        heartbeat: config.server.heartbeat,
        cors_origins: config.server.cors_origins.clone(),
        draining: false.into(),
        closing: CancellationToken::new(),
    });
    let router = api::router(Arc::clone(&app), &config.server.cors_origins);
    let accepting = tokio::spawn(accept(listener, router, stop.clone(), config.server.drain));
    let mut admin_address = None;
    if let Some(listen) = config.server.admin_listen {
        let admin = TcpListener::bind(listen)
            .await
            .map_err(failed(format!("{listen} cannot be listened on; is it in use?")))?;
        admin_address = Some(admin.local_addr().map_err(failed("the listener has no address"))?);
        let router = api::admin_router(Arc::clone(&app));
        tokio::spawn(accept(admin, router, stop.clone(), Duration::ZERO));
        tracing::info!(address = %listen, "metrics on http://{listen}/metrics");
    }
    tracing::info!(
        %address,
        deployments = app.engine.registry.served().len(),
        "listening on http://{address}/v1"
    );
    let drain = config.server.drain;
    Ok(Running {
        address,
        admin_address,
        app,
        stop,
        last,
        simulator: simulated,
        drain,
        accepting,
        _lock: lock,
    })
}

/// Serves until the process is told to stop.
pub async fn run(config: Config) -> Result<(), StartError> {
    let running = start(config).await?;
    stop_signal().await;
    tracing::info!("stopping: running jobs are finished first");
    tokio::select! {
        () = running.shut_down() => {}
        () = stop_signal() => tracing::warn!("stopped at once, at the second signal"),
    }
    Ok(())
}

/// Resolves at SIGTERM or Ctrl-C.
pub async fn stop_signal() {
    let interrupt = tokio::signal::ctrl_c();
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = interrupt => {}
        _ = terminate => {}
    }
}

async fn engine(
    config: &Config,
    address: SocketAddr,
    simulator: Option<SocketAddr>,
    database: Database,
    directory: Arc<Directory>,
) -> Result<Engine, StartError> {
    let enabled: Vec<Enabled> = config
        .providers
        .values()
        .filter_map(|provider| {
            let base_url = match simulator {
                Some(at) => format!("http://{at}{}", sim::mount(&provider.id)?),
                None => provider.base_url.clone(),
            };
            Some(Enabled {
                id: provider.id.clone(),
                base_url,
                key: match simulator {
                    Some(_) => "simulated".to_owned(),
                    None => provider.api_key.expose().to_owned(),
                },
                credential: provider.credential.clone().filter(|_| simulator.is_none()),
                timeout: provider.timeout,
                settings: provider.settings.clone(),
                renames: provider.renames.clone(),
                simulated: simulator.is_some(),
            })
        })
        .collect();
    let routes: BTreeMap<String, Vec<String>> =
        config.routes.iter().map(|(name, route)| (name.clone(), route.targets.clone())).collect();
    let mut catalog = Cow::Borrowed(&config.catalog);
    if simulator.is_some() {
        // What it does not play is not on offer.
        sim::keep_played(catalog.to_mut());
    }
    let registry = Registry::new(&catalog, &enabled, routes, config.allow_unknown)
        .map_err(failed("a provider cannot be spoken to"))?;
    let transport = Transport::new(Budget::new(BLOB_BUDGET))
        .map_err(failed("the HTTP client cannot be set up"))?;
    let mut allow = hosts("fetch.allow", &config.fetch.allow)?;
    if let Some(at) = simulator {
        allow.push(at.to_string().parse().map_err(failed("the simulator's address"))?);
    }
    let rules = FetchRules {
        allow,
        own_listeners: [Some(address), config.server.admin_listen].into_iter().flatten().collect(),
        ..FetchRules::default()
    };
    let callers = FetchRules {
        allow: hosts("fetch.allow_callers", &config.fetch.allow_callers)?,
        ..rules.clone()
    };
    let fetcher = Fetcher::new(rules).map_err(failed("the fetcher cannot be set up"))?;
    let callers_fetcher = Fetcher::new(callers).map_err(failed("the fetcher cannot be set up"))?;
    let pool = Pool::new(pool::Settings::default())
        .map_err(failed("the threads for pixel work cannot be started"))?;
    let store = store(config, address).await?;
    let settings = EngineSettings {
        deadline: config.jobs.image_deadline,
        max_attempts: config.jobs.max_attempts,
        ambiguous: match config.jobs.ambiguous {
            config::Ambiguous::Auto => AmbiguityPolicy::Auto,
            config::Ambiguous::Strict => AmbiguityPolicy::Strict,
            config::Ambiguous::BoundedFailover => AmbiguityPolicy::BoundedFailover,
        },
        ambiguous_job_cap: config.jobs.ambiguous_job_cap,
        allow_unpriced: config.billing.allow_unpriced,
        markup_bp: config.billing.markup_basis_points,
        durability: match config.database.durability {
            config::Durability::Auto => JobDurability::Auto,
            config::Durability::Full => JobDurability::Full,
            config::Durability::Process => JobDurability::Process,
        },
        retention: config.jobs.retention,
        zero_retention: config.log.zero_retention,
        ..EngineSettings::new(config.images.max_upscale, config.images.max_pixels)
    };
    Ok(Engine {
        registry,
        transport,
        fetcher,
        callers_fetcher,
        pool,
        store,
        metrics: Metrics::default(),
        jobs: Jobs::default(),
        settings,
        callbacks: config.jobs.callbacks.then(|| {
            let key = database.sealer.derive("callback addresses");
            Callbacks::new(config.server.public_url(address), key)
        }),
        lease: Lease::new(database.desk.db().is_shared()),
        unanswered: Mutex::default(),
        risk: DayRisk::new(config.jobs.ambiguous_day_cap, database.at_risk_today),
        directory,
        desk: database.desk,
        sealer: database.sealer,
        tasks: TaskTracker::new(),
    })
}

fn hosts(key: &str, pairs: &[String]) -> Result<Vec<HostPort>, StartError> {
    let parsed = pairs.iter().map(|pair| pair.parse().map_err(failed(format!("{key}: {pair:?}"))));
    parsed.collect()
}

/// The database as found, and what opens what is sealed in it.
struct Database {
    desk: Desk,
    sealer: Arc<Sealer>,
    at_risk_today: Money,
}

async fn database(config: &Config) -> Result<Database, StartError> {
    let sealer =
        Sealer::load(config.auth.master_key.as_ref().map(config::Secret::expose), &config.data_dir)
            .map_err(failed("the master key cannot be had"))?;
    let settings = DbSettings {
        url: config.database.url.expose().to_owned(),
        max_connections: config.database.max_connections,
    };
    let what = format!("the database ({}) cannot be opened", config.database.place());
    let db = Db::open(&settings).await.map_err(failed(what))?;
    check_master_key(&db, &sealer).await?;
    let spent = risk::suspended(&db, risk::today()).await;
    let at_risk_today = spent.map_err(failed("the database cannot be read"))?;
    Ok(Database { desk: Desk::new(db), sealer: Arc::new(sealer), at_risk_today })
}

/// What was sealed under another master key could never be opened again: refuses to start.
async fn check_master_key(db: &Db, sealer: &Sealer) -> Result<(), StartError> {
    let fresh = sealer.check_value().map_err(failed("no random numbers are to be had"))?;
    let stored = db
        .transaction(Durability::Full, move |tx| {
            let fresh = fresh.clone();
            Box::pin(async move {
                let insert = "INSERT INTO setting (name, value) VALUES ('master_check', $1) \
                              ON CONFLICT (name) DO NOTHING";
                tx.execute(insert, &[fresh.into()]).await?;
                let rows = tx.query("SELECT value FROM setting WHERE name = 'master_check'", &[]);
                rows.await?.first().map_or(Ok(Vec::new()), |row| row.bytes(0))
            })
        })
        .await
        .map_err(failed("the database cannot be written"))?;
    sealer.verify_check(&stored).map_err(failed("the database was sealed under another master key"))
}

/// The lock that makes a SQLite database this process' own, until it ends.
fn lock(config: &Config) -> Result<Option<fs::File>, StartError> {
    let Some(database) = config.database.sqlite() else { return Ok(None) };
    let path = database.with_added_extension("lock");
    let what = format!("{} cannot be locked; does another gateway use it?", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed(what.clone()))?;
    }
    let file = fs::OpenOptions::new().create(true).write(true).truncate(false).open(&path);
    let file = file.map_err(failed(what.clone()))?;
    file.try_lock().map_err(failed(what))?;
    Ok(Some(file))
}

async fn store(config: &Config, address: SocketAddr) -> Result<Store, StartError> {
    let key_template: KeyTemplate =
        config.store.key_template.parse().map_err(failed("store.key_template cannot be used"))?;
    let mut signing_key = None;
    let kind = match &config.store.kind {
        config::StoreKind::Memory => StoreKind::Memory { max_bytes: MEMORY_STORE },
        config::StoreKind::Disk { path } => {
            let key = signing_key_in(path).map_err(failed(format!(
                "the key for links cannot be kept in {}",
                path.display()
            )))?;
            signing_key = Some(key);
            StoreKind::Disk { path: path.clone() }
        }
        config::StoreKind::S3(s3) => StoreKind::S3(S3Settings {
            bucket: s3.bucket.clone(),
            region: s3.region.clone(),
            endpoint: s3.endpoint.clone(),
            path_style: s3.path_style,
            access_key: s3.access_key.expose().to_owned(),
            secret_key: s3.secret_key.expose().to_owned(),
            presign_ttl: s3.presign_ttl,
            public_base_url: s3.public_base_url.clone(),
        }),
    };
    let signing_key = match signing_key {
        Some(key) => key,
        None => fresh_key().map_err(failed("no random numbers are to be had"))?,
    };
    let settings = StoreSettings {
        kind,
        retention: config.store.retention,
        key_template,
        public_url: config.server.public_url(address),
        signing_keys: vec![signing_key],
    };
    let what = match &settings.kind {
        StoreKind::Disk { path } => {
            format!("the output store in {} cannot be opened", path.display())
        }
        _ => "the output store cannot be opened".to_owned(),
    };
    Store::open(settings).await.map_err(failed(what))
}

fn fresh_key() -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(key)
}

/// The key that signs links, kept beside the files so that links outlive a restart.
fn signing_key_in(media: &Path) -> io::Result<[u8; 32]> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let dir = media.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let path = dir.join("media-links.key");
    if let Ok(text) = fs::read_to_string(&path) {
        let mut key = [0; 32];
        return match hex::decode_to_slice(text.trim(), &mut key) {
            Ok(()) => Ok(key),
            Err(e) => Err(io::Error::new(io::ErrorKind::InvalidData, e)),
        };
    }
    fs::create_dir_all(dir)?;
    let key = fresh_key()?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    io::Write::write_all(&mut file, hex::encode(key).as_bytes())?;
    file.sync_all()?;
    Ok(key)
}

/// All keys, kept up to date until told to stop.
async fn directory(
    config: &Config,
    db: &Db,
    sealer: &Arc<Sealer>,
    stop: &CancellationToken,
) -> Arc<Directory> {
    let statics = config.auth.static_keys.iter().map(directory::StaticKey::from).collect();
    let directory = Arc::new(Directory::new(db.clone(), Arc::clone(sealer), statics));
    if let Err(error) = directory.refresh().await {
        // Nobody is let in until it answers.
        tracing::error!(%error, "keys cannot be read yet");
    }
    tokio::spawn(Arc::clone(&directory).watch(stop.clone()));
    directory
}

/// The simulator on a port of its own, reached over real sockets like any provider.
async fn start_simulator(
    config: &Config,
    stop: &CancellationToken,
) -> Result<SocketAddr, StartError> {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(failed("the simulator has no port to listen on"))?;
    let address = listener.local_addr().map_err(failed("the simulator has no address"))?;
    let settings = sim::SimSettings {
        queue_s: config.simulator.queue_s,
        run_s: config.simulator.run_s,
        sigma: config.simulator.sigma,
        seed: config.simulator.seed,
        ..sim::SimSettings::default()
    };
    let stop = stop.clone();
    let router = sim::router(settings);
    tokio::spawn(accept(listener, router, stop, Duration::ZERO));
    Ok(address)
}

fn sweep(engine: &Arc<Engine>, stop: &CancellationToken) {
    let (engine, stop) = (Arc::clone(engine), stop.clone());
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            engine.jobs.sweep(SystemTime::now());
            match erase::erase(engine.desk.db(), millis::now()).await {
                Ok(0) => {}
                Ok(jobs) => tracing::info!(jobs, "erased what was past its time"),
                Err(error) => tracing::warn!(%error, "old jobs could not be erased"),
            }
            match engine.store.sweep(unix(SystemTime::now())).await {
                Ok(swept) if swept.objects > 0 => {
                    tracing::info!(objects = swept.objects, bytes = swept.bytes, "swept the store");
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the store could not be swept"),
            }
        }
    });
}

/// Accepts connections until told to stop, then gives those that are open the drain time.
pub async fn accept(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    drain: Duration,
) {
    let graceful = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: wait for some to be given back.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        connection(stream, &router, &graceful);
    }
    drop(listener);
    let mut over = pin!(graceful.shutdown());
    let _ = tokio::time::timeout(drain, &mut over).await;
}

fn connection(stream: TcpStream, router: &Router, graceful: &GracefulShutdown) {
    let _ = stream.set_nodelay(true);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MOST_HEADERS);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(100);
    let line = Line::default();
    let stream = TokioIo::new(line.watch(stream));
    let routes = TowerToHyperService::new(router.clone());
    let requests = line.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        // Over HTTP/2 a request says nothing of the answers to others.
        if request.version() < Version::HTTP_2 {
            requests.begin();
            request.extensions_mut().insert(requests.clone());
        }
        routes.call(request)
    });
    let connection = builder.serve_connection_with_upgrades(stream, service).into_owned();
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended early");
        }
        line.end();
    });
}
