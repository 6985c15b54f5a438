//! `[routes.<name>]`, and the names the catalogue knows.

use std::collections::{BTreeMap, BTreeSet};

use ::providers::catalog::Catalog;

use super::{RouteConfig, RoutePolicy, read::Reader, suggest};

/// Reads the routes and checks their targets against the catalogue.
pub(super) fn routes(
    reader: &Reader<'_>,
    catalog: &Catalog,
    allow_unknown: bool,
) -> BTreeMap<String, RouteConfig> {
    let names = Names::of(catalog);
    let table = reader.top().child("routes");
    let sections = table.children();
    let mut routes = BTreeMap::new();
    for (name, section) in &sections {
        if let Err(e) = names.may_be_a_route(name) {
            table.problem(name, e);
        }
        let check = |target: &str| {
            let is_route = sections.iter().any(|(other, _)| other == target);
            if names.knows(target) || (allow_unknown && names.has_provider(target)) {
                return Ok(target.to_owned());
            }
            if is_route {
                return Err("is a route; a route's targets are models".to_owned());
            }
            Err(format!("is no known model{}", suggest::hint(target, &names.near())))
        };
        let targets = section.texts("targets", check);
        if section.is_empty_list("targets") {
            section.problem("targets", "names no model; write for example [\"flux-1.1-pro\"]");
        }
        let policy = section.choice("policy", &[("order", RoutePolicy::Order)]).unwrap_or_default();
        routes.insert(name.clone(), RouteConfig { targets: targets.unwrap_or_default(), policy });
    }
    routes
}

/// Every name a model can be called by.
struct Names<'a> {
    public: BTreeSet<&'a str>,
    other: BTreeSet<String>,
    providers: BTreeSet<&'a str>,
}

impl<'a> Names<'a> {
    fn of(catalog: &'a Catalog) -> Self {
        let mut other = BTreeSet::new();
        for row in catalog.deployments() {
            let own = row.aliases.iter().chain([&row.model, &row.upstream]);
            for name in own {
                other.insert(format!("{}/{name}", row.provider));
                other.insert(name.clone());
            }
        }
        for provider in catalog.providers.values() {
            other.extend(provider.retired.iter().map(|r| r.id.clone()));
        }
        Self {
            public: catalog.deployments().map(|row| row.model.as_str()).collect(),
            other,
            providers: catalog.providers.keys().map(String::as_str).collect(),
        }
    }

    fn knows(&self, name: &str) -> bool {
        self.other.contains(name)
    }

    fn has_provider(&self, name: &str) -> bool {
        name.split_once('/')
            .is_some_and(|(id, rest)| self.providers.contains(id) && !rest.is_empty())
    }

    fn near(&self) -> Vec<&str> {
        self.other.iter().map(String::as_str).collect()
    }

    /// A route may stand before a public name, on purpose. It may not take a name that pins a
    /// provider, or one that reads as a variant.
    fn may_be_a_route(&self, name: &str) -> Result<(), String> {
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err("is no usable name: not empty, no white space".to_owned());
        }
        if name.ends_with(":floor") || name.ends_with(":nitro") {
            return Err("ends like a variant; take another name".to_owned());
        }
        if self.has_provider(name) || (self.knows(name) && !self.public.contains(name)) {
            return Err("collides with a model of the catalogue; take another name".to_owned());
        }
        Ok(())
    }
}
