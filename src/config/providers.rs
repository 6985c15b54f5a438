//! `[providers.<id>]`: keys, addresses and settings of the providers that are switched on.

use std::{collections::BTreeMap, time::Duration};

use ::providers::catalog::{AuthKind, Catalog, Provider};

use super::{
    Credential, ProviderSettings, Secret, ServiceAccount, check, credential, read::Reader,
    section::Section, suggest,
};

/// What a simulated provider is given where an operator gave nothing.
const SIMULATED: &str = "simulated";

/// How long one request may take where nothing else is said: synchronous makers of pictures
/// take minutes at their highest quality.
const TIMEOUT: Duration = Duration::from_mins(5);

/// What is switched on.
pub(super) struct Providers {
    pub(super) on: BTreeMap<String, ProviderSettings>,
    pub(super) stand_in: bool,
    pub(super) warnings: Vec<String>,
}

/// Resolves the providers. `simulator` is what the file says: `None` without a file.
pub(super) fn resolve(
    reader: &Reader<'_>,
    catalog: &Catalog,
    simulator: Option<bool>,
) -> Providers {
    let table = reader.top().child("providers");
    let mut found = Providers { on: BTreeMap::new(), stand_in: false, warnings: Vec::new() };
    let mut off = Vec::new();
    for (id, section) in table.children() {
        let Some(provider) = catalog.providers.get(&id) else {
            let known: Vec<&str> = catalog.providers.keys().map(String::as_str).collect();
            table.problem(&id, format!("is no known provider{}", suggest::hint(&id, &known)));
            // An unknown provider is one mistake: its keys are not reported too.
            section.know_all();
            continue;
        };
        let (settings, disabled) = configured(reader, provider, &section, simulator);
        match settings {
            _ if disabled => off.push(id),
            Some(settings) => {
                if check::is_clear_text(&settings.base_url) {
                    found.warnings.push(format!("providers.{id}: its key travels unencrypted"));
                }
                found.on.insert(id, settings);
            }
            None => {}
        }
    }
    if simulator.is_none() {
        from_environment(reader, catalog, &mut found);
        found.stand_in = found.on.is_empty();
    }
    if simulator == Some(true) {
        found.stand_in = true;
        if !found.on.is_empty() {
            let ids: Vec<&str> = found.on.keys().map(String::as_str).collect();
            found.warnings.push(format!(
                "simulator.enabled stands in for every provider: {} will not be called",
                ids.join(", ")
            ));
        }
    }
    if found.stand_in {
        for (id, provider) in &catalog.providers {
            if !off.contains(id) && !found.on.contains_key(id) {
                found.on.insert(id.clone(), simulated(provider));
            }
        }
    }
    found
}

fn configured(
    reader: &Reader<'_>,
    provider: &Provider,
    section: &Section<'_>,
    simulator: Option<bool>,
) -> (Option<ProviderSettings>, bool) {
    let disabled = section.flag("disabled").unwrap_or(false);
    let required = !disabled && simulator != Some(true);
    let given_url = section.parsed("base_url", check::base_url);
    let credential = credential::read(reader, provider, section);
    let api_key = section.secret("api_key").or_else(|| match credential {
        Some(_) => None,
        None => usual_key(reader, provider),
    });
    // What is written down goes before what lies in the environment; a key is the simpler one.
    let credential = credential.filter(|_| api_key.is_none());
    if required && api_key.is_none() && credential.is_none() {
        demand_key(provider, section);
    }
    let settings: BTreeMap<String, String> = provider
        .settings
        .iter()
        .map(|(name, default)| {
            let mut value = section.text(name).unwrap_or_else(|| default.clone());
            if let Some(Credential::Google(ServiceAccount { project: Some(project), .. })) =
                &credential
                && name == "project"
                && value.is_empty()
            {
                value.clone_from(project);
            }
            (name.clone(), value)
        })
        .collect();
    let template = provider.base_url(&settings, api_key.is_some());
    for (name, value) in &settings {
        let place = format!("{{{name}}}");
        let urls = || provider.base_urls.values().chain([&provider.base_url]);
        let in_url_only = urls().any(|url| url.contains(&place));
        let unused = in_url_only && (given_url.is_some() || !template.contains(&place));
        if value.is_empty() && required && !unused {
            section
                .problem(name, format!("is missing; {} cannot be called without", provider.title));
        }
    }
    let filled = fill(template, &settings);
    if given_url.is_none()
        && settings.iter().all(|(k, v)| !v.is_empty() || !template.contains(&format!("{{{k}}}")))
        && let Err(e) = check::base_url(&filled)
    {
        section.problem("base_url", format!("{filled:?} {e}; check the settings it is made of"));
    }
    let resolved = ProviderSettings {
        id: provider.id.clone(),
        base_url: given_url.unwrap_or(filled),
        api_key: api_key.unwrap_or_default(),
        credential,
        timeout: section.seconds("timeout_s", 1..=3600).unwrap_or(TIMEOUT),
        renames: renames(provider, section),
        settings,
    };
    (Some(resolved), disabled)
}

/// Says what proves to this provider who calls.
fn demand_key(provider: &Provider, section: &Section<'_>) {
    if let Some((key, fix)) = credential::missing(provider.auth.kind) {
        if ["api_key", "profile", "secret_key", key].iter().all(|key| !section.has(key)) {
            section.problem(key, format!("is missing; {fix}"));
        }
    } else if provider.auth.kind == AuthKind::Key
        && !section.has("api_key")
        && let Some(name) = provider.auth.env.first()
    {
        let fix = format!("write api_key = \"${{{name}}}\" or set the variable {name}");
        section.problem("api_key", format!("is missing; {fix}"));
    }
}

/// `deployments`: public name to the account's own name for it.
fn renames(provider: &Provider, section: &Section<'_>) -> BTreeMap<String, String> {
    let mut renames = BTreeMap::new();
    for (name, upstream) in section.named_texts("deployments") {
        let key = format!("deployments.{name}");
        let row = provider.models.iter().find(|m| m.model == name || m.aliases.contains(&name));
        match row {
            Some(_) if upstream.trim().is_empty() => {
                section.problem(&key, "is empty; write the deployment's name");
            }
            Some(row) => {
                renames.insert(row.model.clone(), upstream);
            }
            None => {
                let known: Vec<&str> = provider.models.iter().map(|m| m.model.as_str()).collect();
                let hint = suggest::hint(&name, &known);
                section.problem(&key, format!("{} sells no such model{hint}", provider.title));
            }
        }
    }
    renames
}

fn usual_key(reader: &Reader<'_>, provider: &Provider) -> Option<Secret> {
    let set = |name: &String| reader.env(name).filter(|value| !value.trim().is_empty());
    provider.auth.env.iter().find_map(set).map(|key| Secret::new(key.trim().to_owned()))
}

/// Without a file: every provider whose key is in its usual variable.
fn from_environment(reader: &Reader<'_>, catalog: &Catalog, found: &mut Providers) {
    for (id, provider) in &catalog.providers {
        let Some(api_key) = usual_key(reader, provider) else { continue };
        let template = provider.base_url(&provider.settings, true);
        let needed = |name: &str| {
            let place = format!("{{{name}}}");
            template.contains(&place) || !provider.base_url.contains(&place)
        };
        let mut settings = provider.settings.iter();
        if let Some((name, _)) = settings.find(|(name, v)| v.is_empty() && needed(name)) {
            found.warnings.push(format!(
                "{id} is left out: it has a key, but providers.{id}.{name} must be set in a file"
            ));
            continue;
        }
        let settings = provider.settings.clone();
        let resolved = ProviderSettings {
            id: id.clone(),
            base_url: fill(provider.base_url(&settings, true), &settings),
            api_key,
            credential: None,
            timeout: TIMEOUT,
            renames: BTreeMap::new(),
            settings,
        };
        found.on.insert(id.clone(), resolved);
    }
}

fn simulated(provider: &Provider) -> ProviderSettings {
    let mut settings = provider.settings.clone();
    for value in settings.values_mut().filter(|value| value.is_empty()) {
        SIMULATED.clone_into(value);
    }
    ProviderSettings {
        id: provider.id.clone(),
        base_url: fill(&provider.base_url, &settings),
        credential: None,
        api_key: Secret::new(SIMULATED.to_owned()),
        timeout: TIMEOUT,
        renames: BTreeMap::new(),
        settings,
    }
}

fn fill(template: &str, settings: &BTreeMap<String, String>) -> String {
    settings
        .iter()
        .fold(template.to_owned(), |url, (name, value)| url.replace(&format!("{{{name}}}"), value))
}

/// Fills the settings into the paths and headers of what is switched on.
pub(super) fn fill_paths(catalog: &mut Catalog, on: &BTreeMap<String, ProviderSettings>) {
    for (id, provider) in &mut catalog.providers {
        let Some(ProviderSettings { settings, .. }) = on.get(id) else { continue };
        for value in provider.headers.values_mut() {
            *value = fill(value, settings);
        }
        for row in provider.models.iter_mut().chain(&mut provider.unlisted) {
            row.path = row.path.as_ref().map(|path| fill(path, settings));
        }
    }
}
