//! `mediagate check`: what the configuration comes to.

use std::{collections::BTreeSet, io::Write};

use super::Failure;
use crate::config::{AuthMode, Config, StoreKind};

/// Prints a summary. A configuration that loads but can serve nothing fails too.
pub(super) fn run(config: &Config, out: &mut dyn Write) -> Result<(), Failure> {
    for warning in &config.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    let from = match &config.file {
        Some(path) => path.display().to_string(),
        None => "no file: built-in defaults and the environment".to_owned(),
    };
    writeln!(out, "config     {from}")?;
    writeln!(out, "listener   http://{} ({})", config.server.listen, auth(config))?;
    if let Some(admin) = config.server.admin_listen {
        writeln!(out, "admin      http://{admin}")?;
    }
    writeln!(out, "database   {}", config.database.place())?;
    if let Some(redis) = config.redis.place() {
        writeln!(out, "shared     {redis}")?;
    }
    writeln!(out, "store      {}", store(config))?;
    writeln!(out, "providers  {}", providers(config))?;
    let sold =
        || config.catalog.deployments().filter(|d| config.providers.contains_key(&d.provider));
    let names: BTreeSet<&str> = sold().map(|d| d.model.as_str()).collect();
    writeln!(
        out,
        "models     {} models in {} deployments, {} routes",
        names.len(),
        sold().count(),
        config.routes.len()
    )?;
    if config.providers.is_empty() {
        let fix = "give a provider a key, or set simulator.enabled = true";
        return Err(Failure::Usage(format!("no provider is switched on: {fix}")));
    }
    Ok(writeln!(out, "good")?)
}

fn auth(config: &Config) -> String {
    match (config.auth.mode, config.auth.static_keys.len()) {
        (AuthMode::Open, _) => "open: no key needed".to_owned(),
        (AuthMode::Keys, 1) => "1 key".to_owned(),
        (AuthMode::Keys, count) => format!("{count} keys"),
    }
}

fn store(config: &Config) -> String {
    let place = match &config.store.kind {
        StoreKind::Memory => "memory".to_owned(),
        StoreKind::Disk { path } => format!("disk {}", path.display()),
        StoreKind::S3(s3) => format!("s3 bucket {}", s3.bucket),
    };
    format!("{place}, kept {}", humantime::format_duration(config.store.retention))
}

fn providers(config: &Config) -> String {
    let ids: Vec<&str> = config.providers.keys().map(String::as_str).collect();
    match (ids.is_empty(), config.simulator.stand_in) {
        (true, _) => "none".to_owned(),
        (false, true) => format!("SIMULATED, nobody is called or paid: {}", ids.join(", ")),
        (false, false) => ids.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::File;

    fn check(text: Option<&str>, wanted: &[&str]) -> Result<(), Failure> {
        let file = text.map(|text| File { path: Path::new("m.toml"), text });
        let config = Config::parse(file, &|_| None).unwrap();
        let mut out = Vec::new();
        let result = run(&config, &mut out);
        let shown = String::from_utf8(out).unwrap();
        for part in wanted {
            assert!(shown.contains(part), "{shown}\nlacks {part}");
        }
        result
    }

    #[test]
    fn the_summary_says_what_will_run() {
        let local = [
            "no file",
            "http://127.0.0.1:4000 (open",
            "database   sqlite ./data/mediagate.db",
            "disk ./data/media, kept 3days",
            "SIMULATED",
        ];
        check(None, &local).unwrap();
        let text = "[store]\nkind = \"memory\"\n[providers.openai]\napi_key = \"k\"";
        let fine =
            ["m.toml", "(0 keys)", "warning: auth.static_keys", "memory", "providers  openai\n"];
        check(Some(text), &fine).unwrap();
        let shared = "[database]\nurl = \"postgres://u:p@db/mg\"\n[redis]\nurl = \"redis://:p@r\"\n\
                      [auth]\nadmin_key = \"an-admin-key-of-mine\"\n[providers.openai]\napi_key = \"k\"";
        let told = [
            "admin      http://127.0.0.1:4001\n",
            "database   postgres db:5432/mg\n",
            "shared     redis r:6379\n",
        ];
        check(Some(shared), &told).unwrap();
    }

    #[test]
    fn serving_nothing_is_a_failure() {
        let failure = check(Some(""), &["providers  none"]).unwrap_err();
        assert!(matches!(failure, Failure::Usage(text) if text.contains("simulator.enabled")));
    }
}
