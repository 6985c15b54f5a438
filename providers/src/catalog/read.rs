//! Reads catalogue files, strictly: what is wrong is said with its file and model.

mod check;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{
    Auth, Catalog, Confidence, Deployment, EMBEDDED, InputRule, PriceLine, Provider, Retired,
    SizeRule, Task, Wire,
};
use crate::{
    adapter,
    media::{Format, Size},
};
use check::{check_formats, check_inputs, check_row, check_size};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderFile {
    title: String,
    docs: String,
    adapter: String,
    base_url: String,
    #[serde(default)]
    base_urls: BTreeMap<String, String>,
    auth: Auth,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    settings: BTreeMap<String, String>,
    #[serde(default)]
    owned: Vec<String>,
    #[serde(default)]
    wire: BTreeMap<String, Wire>,
    #[serde(default)]
    size: BTreeMap<String, SizeRule>,
    #[serde(default)]
    inputs: BTreeMap<String, InputRule>,
    #[serde(default)]
    model: Vec<Row>,
    unlisted: Option<Unlisted>,
    #[serde(default)]
    retired: Vec<Retired>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    id: String,
    #[serde(default)]
    aliases: Vec<String>,
    upstream: String,
    path: Option<String>,
    task: Tasks,
    inputs: Option<String>,
    size: String,
    default_size: Option<Size>,
    default_quality: Option<String>,
    #[serde(default = "one")]
    n: u32,
    formats: Vec<Format>,
    prompt_max: Option<u32>,
    wire: String,
    workflow: Option<String>,
    price: Vec<PriceLine>,
    #[serde(default)]
    estimate: Vec<PriceLine>,
    #[serde(default)]
    set: BTreeMap<String, serde_json::Value>,
    source: String,
    checked: String,
    confidence: Confidence,
    retires: Option<String>,
}

/// One task, or several that are called alike.
#[derive(Deserialize)]
#[serde(untagged)]
enum Tasks {
    One(Task),
    Many(Vec<Task>),
}

impl Tasks {
    fn all(&self) -> &[Task] {
        match self {
            Self::One(task) => std::slice::from_ref(task),
            Self::Many(tasks) => tasks,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unlisted {
    path: Option<String>,
    wire: String,
    size: String,
    formats: Vec<Format>,
}

type PixelTables = BTreeMap<String, BTreeMap<String, BTreeMap<String, Size>>>;

/// A catalogue file that cannot be used, with the place and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("catalogue file {file}: {reason}")]
pub struct CatalogError {
    /// The file, without its ending.
    pub file: String,
    /// What is wrong, and where in the file.
    pub reason: String,
}

impl Catalog {
    /// The catalogue this build was made with.
    pub fn embedded() -> Result<Self, CatalogError> {
        Self::parse(EMBEDDED.iter().copied())
    }

    /// Reads files given as (name without ending, text), and workflows with their ending. A later file of the same name replaces
    /// the rows with the same id and task of an earlier one and adds the rest; its other settings win.
    pub fn parse<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, CatalogError> {
        let (workflows, files): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(name, _)| name.strip_suffix(".json").is_some());
        let workflows = workflows.into_iter().collect();
        let mut pixels = PixelTables::new();
        let mut catalog = Self::default();
        for (name, text) in files {
            let wrong = |reason: String| CatalogError { file: name.to_owned(), reason };
            if name == "_pixels" {
                let tables: PixelTables = toml::from_str(text).map_err(|e| wrong(e.to_string()))?;
                pixels.extend(tables);
                continue;
            }
            let file: ProviderFile = toml::from_str(text).map_err(|e| wrong(e.to_string()))?;
            let provider = provider(name, file, &pixels, &workflows).map_err(wrong)?;
            match catalog.providers.get_mut(name) {
                None => {
                    catalog.providers.insert(name.to_owned(), provider);
                }
                Some(known) => overlay(known, provider),
            }
        }
        check_names(&catalog)?;
        Ok(catalog)
    }
}

fn one() -> u32 {
    1
}

/// A name must mean one model, whoever sells it, and a retired one must lead to a living one.
fn check_names(catalog: &Catalog) -> Result<(), CatalogError> {
    let public: BTreeSet<&str> = catalog.deployments().map(|d| d.model.as_str()).collect();
    let mut meaning: BTreeMap<&str, &str> = public.iter().map(|name| (*name, *name)).collect();
    for row in catalog.deployments() {
        for alias in &row.aliases {
            let known = *meaning.entry(alias).or_insert(&row.model);
            if known != row.model {
                return Err(CatalogError {
                    file: row.provider.clone(),
                    reason: format!("model {:?}: the alias {alias:?} means {known:?}", row.model),
                });
            }
        }
    }
    for provider in catalog.providers.values() {
        for old in &provider.retired {
            let wrong = |reason| Err(CatalogError { file: provider.id.clone(), reason });
            if meaning.contains_key(old.id.as_str()) {
                return wrong(format!("retired {:?}: the name is still in use", old.id));
            }
            if !public.contains(old.now.as_str()) {
                return wrong(format!("retired {:?}: there is no model {:?}", old.id, old.now));
            }
        }
    }
    Ok(())
}

fn overlay(known: &mut Provider, newer: Provider) {
    let mut models = std::mem::take(&mut known.models);
    for row in newer.models {
        match models.iter_mut().find(|m| m.model == row.model && m.task == row.task) {
            Some(old) => *old = row,
            None => models.push(row),
        }
    }
    *known = Provider { models, ..newer };
}

fn provider(
    id: &str,
    file: ProviderFile,
    pixels: &PixelTables,
    workflows: &BTreeMap<&str, &str>,
) -> Result<Provider, String> {
    if adapter(&file.adapter).is_none() {
        return Err(format!("there is no adapter named {:?}", file.adapter));
    }
    if file.base_urls.values().chain([&file.base_url]).any(|url| url.ends_with('/')) {
        return Err("base_url ends with a slash".to_owned());
    }
    file.auth.check(&file.settings, &file.base_urls)?;
    let mut sizes = file.size;
    for (name, rule) in &mut sizes {
        look_up_pixels(rule, pixels).map_err(|e| format!("size {name:?}: {e}"))?;
    }
    let find_wire = |name: &str| {
        file.wire.get(name).cloned().ok_or_else(|| format!("there is no [wire.{name}]"))
    };
    let find_size =
        |name: &str| sizes.get(name).cloned().ok_or_else(|| format!("there is no [size.{name}]"));
    let mut models: Vec<Deployment> = Vec::new();
    for row in file.model {
        let at = |e: String| format!("model {:?}: {e}", row.id);
        let mut wire = find_wire(&row.wire).map_err(at)?;
        wire.set.extend(row.set.clone());
        let size = find_size(&row.size).map_err(at)?;
        let inputs = match &row.inputs {
            None => None,
            Some(name) => Some(
                file.inputs
                    .get(name)
                    .cloned()
                    .ok_or_else(|| at(format!("there is no [inputs.{name}]")))?,
            ),
        };
        check_row(&row, &wire, &size).map_err(at)?;
        check_inputs(&row, inputs.as_ref(), &wire, &size).map_err(at)?;
        let workflow = row.workflow.as_deref().map(|name| workflow(name, workflows));
        let tasks = row.task.all();
        if models.iter().any(|m| m.model == row.id && tasks.contains(&m.task)) {
            return Err(at("this id is there twice".to_owned()));
        }
        let deployment = Deployment {
            provider: id.to_owned(),
            model: row.id.clone(),
            aliases: row.aliases,
            upstream: row.upstream,
            path: row.path,
            task: Task::default(),
            inputs: inputs.unwrap_or_default(),
            size,
            default_size: row.default_size,
            default_quality: row.default_quality,
            n: row.n,
            formats: row.formats,
            prompt_max: row.prompt_max,
            wire,
            workflow: workflow.transpose().map_err(at)?,
            price: row.price,
            estimate: row.estimate,
            source: row.source,
            checked: row.checked,
            confidence: row.confidence,
            retires: row.retires,
        };
        models.extend(tasks.iter().map(|task| Deployment { task: *task, ..deployment.clone() }));
    }
    let unlisted = match file.unlisted {
        None => None,
        Some(u) => {
            let at = |e: String| format!("unlisted: {e}");
            let (wire, size) = (find_wire(&u.wire).map_err(at)?, find_size(&u.size).map_err(at)?);
            check_formats(&u.formats, &wire).map_err(at)?;
            check_size(None, &wire, &size).map_err(at)?;
            Some(Deployment {
                provider: id.to_owned(),
                path: u.path,
                n: 1,
                formats: u.formats,
                wire,
                size,
                ..Deployment::default()
            })
        }
    };
    Ok(Provider {
        id: id.to_owned(),
        title: file.title,
        docs: file.docs,
        adapter: file.adapter,
        base_url: file.base_url,
        base_urls: file.base_urls,
        auth: file.auth,
        headers: file.headers,
        hosts: file.hosts,
        settings: file.settings,
        owned: file.owned,
        models,
        unlisted,
        retired: file.retired,
    })
}

/// A workflow lies beside the catalogue files, under its own name.
fn workflow(name: &str, known: &BTreeMap<&str, &str>) -> Result<serde_json::Value, String> {
    let text = known.get(name).ok_or_else(|| format!("there is no workflow {name:?}"))?;
    match serde_json::from_str(text) {
        Ok(value @ serde_json::Value::Object(_)) => Ok(value),
        Ok(_) => Err(format!("workflow {name:?}: no object; save it in the API format")),
        Err(e) => Err(format!("workflow {name:?}: {e}")),
    }
}

/// Checks a size rule by itself and fills in the pixels of its ratios.
fn look_up_pixels(rule: &mut SizeRule, known: &PixelTables) -> Result<(), String> {
    let say = |text: &str| Err(text.to_owned());
    match &*rule {
        SizeRule::Grid { multiple_of, min, max, .. }
            if *multiple_of == 0 || min > max || !min.is_multiple_of(*multiple_of) =>
        {
            return say("multiple_of at least 1, min on the grid and at most max");
        }
        SizeRule::List { sizes } if sizes.is_empty() => return say("sizes is empty"),
        SizeRule::Presets { presets } if presets.is_empty() => return say("presets is empty"),
        SizeRule::Ratios { ratios, range, .. } if ratios.is_empty() == range.is_none() => {
            return say("either ratios or a range");
        }
        SizeRule::Ratios { range: Some(_), area: None, .. } => return say("a range needs an area"),
        _ => {}
    }
    let SizeRule::Ratios { ratios, tiers, pixels, area, table, .. } = rule else { return Ok(()) };
    if let Some(name) = pixels {
        let by_tier = known.get(name).ok_or_else(|| format!("no pixel table {name:?}"))?;
        let alone = tiers.is_empty() && by_tier.len() == 1;
        for (tier, by_ratio) in by_tier {
            let tier = if alone { "" } else { tier };
            let sizes = by_ratio.iter();
            table.extend(sizes.map(|(ratio, size)| ((tier.to_owned(), ratio.clone()), *size)));
        }
    }
    let tiers = if tiers.is_empty() { vec![String::new()] } else { tiers.clone() };
    for tier in tiers {
        for ratio in &*ratios {
            if area.is_none() && !table.contains_key(&(tier.clone(), ratio.to_string())) {
                return Err(format!("no pixels for {ratio} at tier {tier:?}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
