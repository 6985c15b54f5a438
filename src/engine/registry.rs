//! Which names mean what, and which deployments stand behind them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use providers::{
    Adapter, Usage,
    catalog::{Catalog, Deployment, Drawn, WorkedFrom},
    media::Size,
    money::Money,
};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::{poll::Spread, sign::Signer, transport::Access};
use crate::config::Credential;

/// Status requests to one provider are at least this far apart.
const POLL_GAP: Duration = Duration::from_millis(20);

/// How to reach a provider that is switched on.
#[derive(Clone, Debug)]
pub struct Enabled {
    /// The provider's id.
    pub id: String,
    /// Host and version path, settings filled in.
    pub base_url: String,
    /// The key; of no meaning where there is a credential.
    pub key: String,
    /// What requests are signed with, in place of a key.
    pub credential: Option<Credential>,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// Values of the provider's settings, for paths.
    pub settings: BTreeMap<String, String>,
    /// Public name to the name the operator gave it at the provider.
    pub renames: BTreeMap<String, String>,
    /// Whether the simulator stands behind it.
    pub simulated: bool,
}

/// A deployment that can be called now.
#[derive(Clone, Debug)]
pub struct Served {
    /// The catalogue's row.
    pub deployment: Deployment,
    /// Speaks its dialect.
    pub adapter: &'static dyn Adapter,
    /// Host and version path.
    pub base_url: String,
    /// Further hosts whose job URLs may be followed with the key.
    pub hosts: Vec<String>,
    /// The model's name on the wire.
    pub upstream: String,
    /// Key and headers.
    pub access: Access,
    /// Fields a caller may not pass through.
    pub owned: Vec<String>,
    /// Whether the simulator stands behind it.
    pub simulated: bool,
    /// Whose key it is called with: the operator's, or a project's own, by its id.
    pub credential: String,
    /// The header of a key, and what stands before it there.
    pub keyed: (HeaderName, String),
    /// Spreads the provider's status requests.
    pub spread: Arc<Spread>,
}

/// The credential of the configuration.
pub const OPERATOR: &str = "config";

impl Served {
    /// `provider/model`.
    pub fn slug(&self) -> String {
        self.deployment.slug()
    }

    /// The same deployment, called with a project's own key: its project pays the provider, so
    /// nothing is charged for it here. None for a key that cannot stand in a header,
    /// and where the address is that of the operator's own account.
    pub fn with_key(&self, id: &str, key: &str) -> Option<Self> {
        if self.access.signer.as_ref().is_some_and(|signer| !signer.yields_to_keys()) {
            return None;
        }
        let (header, prefix) = &self.keyed;
        let mut value = HeaderValue::try_from(format!("{prefix}{key}")).ok()?;
        value.set_sensitive(true);
        let key = Some((header.clone(), value));
        let access = Access { key, signer: None, ..self.access.clone() };
        Some(Self { access, credential: id.to_owned(), ..self.clone() })
    }

    /// Whether the operator pays the provider for it.
    pub fn is_operators(&self) -> bool {
        self.credential == OPERATOR
    }

    /// The most one picture of this size costs; [`Money::MAX`] where it has no price.
    pub fn price(&self, size: Size, tier: Option<&str>) -> Money {
        self.deployment
            .cost(
                &[Drawn { size, quality: None, tier, from: WorkedFrom::default() }],
                &Usage::default(),
            )
            .map_or(Money::MAX, |cost| cost.total())
    }
}

/// What a model name means.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The name answers carry.
    pub model: String,
    /// Set where a retired name was asked and another model stands in.
    pub substituted: bool,
    /// The deployments, in the order they are tried.
    pub deployments: Vec<Arc<Served>>,
}

/// Why a model name leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// No such name; these are the nearest.
    Unknown(Vec<String>),
    /// The model is known, and sold by these providers, but none of them is switched on.
    NoProvider(Vec<String>),
}

/// A name's target within the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    model: String,
    substituted: bool,
}

/// All names and what they mean.
#[derive(Debug)]
pub struct Registry {
    served: Vec<Arc<Served>>,
    /// Lower-case alias to public name; `None` where two models claim it.
    names: BTreeMap<String, Option<Target>>,
    /// (provider, lower-case name or upstream id) to public name.
    pinned: BTreeMap<(String, String), String>,
    sellers: BTreeMap<String, BTreeSet<String>>,
    authors: BTreeSet<String>,
    routes: BTreeMap<String, Vec<String>>,
    unlisted: BTreeMap<String, Arc<Served>>,
}

/// A provider's key, credential or header that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the key, the credential or a header of provider {0} cannot be used")]
pub struct BadHeader(String);

impl Registry {
    /// Builds the tables. `routes` maps a name to targets in order; `allow_unlisted` lets a
    /// slug with an id that is not in the catalogue through.
    pub fn new(
        catalog: &Catalog,
        enabled: &[Enabled],
        routes: BTreeMap<String, Vec<String>>,
        allow_unlisted: bool,
    ) -> Result<Self, BadHeader> {
        let mut registry = Self {
            served: Vec::new(),
            names: BTreeMap::new(),
            pinned: BTreeMap::new(),
            sellers: BTreeMap::new(),
            authors: BTreeSet::new(),
            routes,
            unlisted: BTreeMap::new(),
        };
        for row in catalog.deployments() {
            registry.add_names(row);
        }
        for retired in catalog.providers.values().flat_map(|p| &p.retired) {
            let target = Target { model: retired.now.clone(), substituted: true };
            registry.names.insert(retired.id.to_lowercase(), Some(target));
        }
        // A public name always means its own model, whatever else is called so.
        for row in catalog.deployments() {
            let target = Target { model: row.model.clone(), substituted: false };
            registry.names.insert(row.model.to_lowercase(), Some(target));
        }
        for on in enabled {
            let Some(provider) = catalog.providers.get(&on.id) else { continue };
            let Some(adapter) = providers::adapter(&provider.adapter) else { continue };
            let bad = || BadHeader(on.id.clone());
            let name = HeaderName::try_from(provider.auth.header.as_str()).map_err(|_| bad())?;
            let mut key = HeaderValue::try_from(format!("{}{}", provider.auth.prefix, on.key))
                .map_err(|_| bad())?;
            key.set_sensitive(true);
            let signer = match &on.credential {
                None => None,
                Some(credential) => {
                    let auth = &provider.auth;
                    let region = on.settings.get("region").map_or("", String::as_str);
                    let signer = Signer::new(credential, &auth.scope, &auth.service, region);
                    Some(Arc::new(signer.ok_or_else(bad)?))
                }
            };
            // A server that asks for no key gets none.
            let key = (signer.is_none() && !on.key.is_empty()).then(|| (name.clone(), key));
            let mut headers = HeaderMap::new();
            for (header, value) in &provider.headers {
                let header = HeaderName::try_from(header.as_str()).map_err(|_| bad())?;
                headers.insert(header, HeaderValue::try_from(value).map_err(|_| bad())?);
            }
            let spread = Arc::new(Spread::new(POLL_GAP));
            let serve = |row: &Deployment| {
                let mut deployment = row.clone();
                if let Some(path) = &mut deployment.path {
                    for (name, value) in &on.settings {
                        *path = path.replace(&format!("{{{name}}}"), value);
                    }
                }
                let upstream = on.renames.get(&row.model).unwrap_or(&deployment.upstream).clone();
                Arc::new(Served {
                    deployment,
                    adapter,
                    base_url: on.base_url.clone(),
                    hosts: provider.hosts.clone(),
                    upstream,
                    access: Access {
                        key: key.clone(),
                        signer: signer.clone(),
                        headers: headers.clone(),
                        timeout: on.timeout,
                    },
                    owned: provider.owned.clone(),
                    simulated: on.simulated,
                    credential: OPERATOR.to_owned(),
                    keyed: (name.clone(), provider.auth.prefix.clone()),
                    spread: Arc::clone(&spread),
                })
            };
            registry.served.extend(provider.models.iter().map(serve));
            if let Some(row) = provider.unlisted.as_ref().filter(|_| allow_unlisted) {
                registry.unlisted.insert(on.id.clone(), serve(row));
            }
        }
        let typical = Size::new(1024, 1024);
        registry.served.sort_by_cached_key(|s| (s.price(typical, None), s.slug()));
        Ok(registry)
    }

    fn add_names(&mut self, row: &Deployment) {
        let provider = row.provider.clone();
        self.sellers.entry(row.model.clone()).or_default().insert(provider.clone());
        if let Some((author, _)) = row.upstream.split_once('/') {
            self.authors.insert(author.to_lowercase());
        }
        for name in row.aliases.iter().chain([&row.model, &row.upstream]) {
            let name = name.to_lowercase();
            self.pinned.insert((provider.clone(), name.clone()), row.model.clone());
            let target = Target { model: row.model.clone(), substituted: false };
            self.names
                .entry(name)
                .and_modify(|known| {
                    if known.as_ref() != Some(&target) {
                        *known = None;
                    }
                })
                .or_insert_with(|| Some(target.clone()));
        }
    }

    /// Every deployment that can be called now, cheapest first.
    pub fn served(&self) -> &[Arc<Served>] {
        &self.served
    }

    /// The operator's routes.
    pub fn routes(&self) -> &BTreeMap<String, Vec<String>> {
        &self.routes
    }

    /// The meaning of a name. Order: route, public name, slug, alias.
    pub fn resolve(&self, name: &str) -> Result<Resolved, Unresolved> {
        let Some(targets) = self.routes.get(name) else {
            return self.resolve_model(name);
        };
        let mut deployments: Vec<Arc<Served>> = Vec::new();
        let mut substituted = false;
        for target in targets {
            // A target whose provider is switched off is no reason to refuse the route.
            let Ok(found) = self.resolve_model(target) else { continue };
            substituted |= found.substituted;
            for deployment in found.deployments {
                if !deployments.iter().any(|d| Arc::ptr_eq(d, &deployment)) {
                    deployments.push(deployment);
                }
            }
        }
        if deployments.is_empty() {
            return Err(Unresolved::NoProvider(targets.clone()));
        }
        Ok(Resolved { model: name.to_owned(), substituted, deployments })
    }

    fn resolve_model(&self, name: &str) -> Result<Resolved, Unresolved> {
        let lower = name.to_lowercase();
        if let Some(Some(target)) = self.names.get(&lower)
            && target.model.to_lowercase() == lower
        {
            return self.public(target);
        }
        if let Some((provider, rest)) = lower.split_once('/') {
            let key = (provider.to_owned(), rest.to_owned());
            if let Some(model) = self.pinned.get(&key) {
                return self.pin(provider, model);
            }
            if let Some(unlisted) = self.unlisted.get(provider) {
                // The id is passed on in the caller's own spelling.
                let upstream = name.split_once('/').map_or(name, |(_, rest)| rest);
                return Ok(unlisted_model(unlisted, name, upstream));
            }
            if self.authors.contains(provider)
                && !self.names.contains_key(&lower)
                && let Some(Some(target)) = self.names.get(rest)
            {
                return self.public(target);
            }
        }
        match self.names.get(&lower) {
            Some(Some(target)) => self.public(target),
            _ => Err(Unresolved::Unknown(self.nearest(&lower))),
        }
    }

    fn public(&self, target: &Target) -> Result<Resolved, Unresolved> {
        let deployments: Vec<Arc<Served>> =
            self.served.iter().filter(|s| s.deployment.model == target.model).cloned().collect();
        if deployments.is_empty() {
            return Err(Unresolved::NoProvider(self.sold_by(&target.model)));
        }
        Ok(Resolved { model: target.model.clone(), substituted: target.substituted, deployments })
    }

    fn pin(&self, provider: &str, model: &str) -> Result<Resolved, Unresolved> {
        let rows = self
            .served
            .iter()
            .filter(|s| s.deployment.provider == provider && s.deployment.model == model);
        let deployments: Vec<Arc<Served>> = rows.cloned().collect();
        if deployments.is_empty() {
            return Err(Unresolved::NoProvider(vec![provider.to_owned()]));
        }
        Ok(Resolved { model: model.to_owned(), substituted: false, deployments })
    }

    fn sold_by(&self, model: &str) -> Vec<String> {
        self.sellers.get(model).into_iter().flatten().cloned().collect()
    }

    fn nearest(&self, name: &str) -> Vec<String> {
        let mut names: Vec<&String> = self.sellers.keys().chain(self.routes.keys()).collect();
        let likeness = |other: &str| {
            let score = strsim::jaro_winkler(name, other).max(strsim::sorensen_dice(name, other));
            (score * 1e6) as u64
        };
        names.sort_by_cached_key(|n| (std::cmp::Reverse(likeness(&n.to_lowercase())), n.len()));
        names.into_iter().take(3).cloned().collect()
    }
}

fn unlisted_model(template: &Arc<Served>, name: &str, upstream: &str) -> Resolved {
    let mut deployment = template.deployment.clone();
    upstream.clone_into(&mut deployment.model);
    upstream.clone_into(&mut deployment.upstream);
    let served = Served { deployment, upstream: upstream.to_owned(), ..Served::clone(template) };
    Resolved { model: name.to_owned(), substituted: false, deployments: vec![Arc::new(served)] }
}
