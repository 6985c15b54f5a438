//! The catalogue: what each vendor sells, as strictly parsed data.
//!
//! One TOML file per vendor, named after it; `_pixels.toml` holds the pixel tables they share.
//! An unknown key, a duplicate, a dangling name or a bad price is an error that names the file
//! and the model. The format is described in `docs/adding-a-provider.md`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    Usage, adapter,
    media::{Aspect, Format, NativeSize, Size, SizeWords},
    money::{Cost, Line, Money, Quantity, Rate, Unit},
};

/// The catalogue files embedded at build time, as (name, text).
pub const EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/catalog.rs"));

/// Everything on sale.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// The vendors, by id.
    pub providers: BTreeMap<String, Provider>,
}

/// A vendor with an endpoint and a key.
#[derive(Clone, Debug, Default)]
pub struct Provider {
    /// The vendor's short name in lower case, also the name of its file.
    pub id: String,
    /// The name people use.
    pub title: String,
    /// Where its documentation lives.
    pub docs: String,
    /// The dialect it speaks.
    pub adapter: String,
    /// Host and version path; `{name}` stands for a setting.
    pub base_url: String,
    /// How it takes its key.
    pub auth: Auth,
    /// Headers sent with every request to it.
    pub headers: BTreeMap<String, String>,
    /// Further hosts, with their subdomains, whose job URLs may be followed with the key.
    pub hosts: Vec<String>,
    /// Settings an operator may give, with their defaults; an empty default must be given.
    pub settings: BTreeMap<String, String>,
    /// Fields the engine owns in this dialect: refused when a caller passes them.
    pub owned: Vec<String>,
    /// What it sells.
    pub models: Vec<Deployment>,
    /// How a model that is not listed is called, where the operator allows that.
    pub unlisted: Option<Deployment>,
    /// Names that are no longer sold anywhere and the living model that takes their calls.
    pub retired: Vec<Retired>,
}

/// How a vendor takes its key.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// The header, in lower case.
    pub header: String,
    /// What stands before the key.
    #[serde(default)]
    pub prefix: String,
    /// The environment variables the key usually lives in, the usual one first.
    pub env: Vec<String>,
}

/// A retired model name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retired {
    /// The old name.
    pub id: String,
    /// The public name that stands in.
    pub now: String,
}

/// What a model does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Draws a picture from a text.
    #[default]
    #[serde(rename = "image.generate")]
    ImageGenerate,
}

/// How sure a row is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Id, shape and price seen at the vendor.
    Confirmed,
    /// From maintained third-party data.
    Secondary,
    /// At least one field is remembered or inferred.
    #[default]
    Partial,
}

/// One model as one vendor sells it.
#[derive(Clone, Debug, Default)]
pub struct Deployment {
    /// The vendor.
    pub provider: String,
    /// The public name, shared by every vendor of the same model.
    pub model: String,
    /// Other spellings of the public name.
    pub aliases: Vec<String>,
    /// The vendor's own id.
    pub upstream: String,
    /// Path behind the base URL, where it is not the dialect's usual one.
    pub path: Option<String>,
    /// What it does.
    pub task: Task,
    /// Which sizes it draws.
    pub size: SizeRule,
    /// What it draws when no size is asked, if the vendor says.
    pub default_size: Option<Size>,
    /// Most pictures in one call.
    pub n: u32,
    /// Formats the vendor may be asked for; the first is what it gives unasked.
    pub formats: Vec<Format>,
    /// Longest prompt, in characters.
    pub prompt_max: Option<u32>,
    /// How its fields are called.
    pub wire: Wire,
    /// What it costs.
    pub price: Vec<PriceLine>,
    /// What a call is expected to cost where tokens are billed and known only afterwards.
    pub estimate: Vec<PriceLine>,
    /// Where the row comes from.
    pub source: String,
    /// The day the row was last held against its source.
    pub checked: String,
    /// How sure it is.
    pub confidence: Confidence,
    /// The day the vendor takes it off the market.
    pub retires: Option<String>,
}

impl Deployment {
    /// `provider/model`: the name that pins the vendor.
    pub fn slug(&self) -> String {
        format!("{}/{}", self.provider, self.model)
    }

    /// Whether the vendor can be asked for this format.
    pub fn makes(&self, format: Format) -> bool {
        self.formats.contains(&format)
            && (self.wire.format.is_some() || self.formats.first() == Some(&format))
    }

    /// Whether it draws transparent backgrounds on demand.
    pub fn draws_transparent(&self) -> bool {
        self.wire.background.as_ref().is_some_and(|b| b.values.contains_key("transparent"))
    }
}

/// Which sizes a deployment draws.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum SizeRule {
    /// Just these sizes.
    List {
        /// The sizes.
        sizes: Vec<Size>,
    },
    /// A list of ratios, with or without resolution tiers.
    Ratios {
        /// The ratios the vendor takes, as it spells them.
        #[serde(default)]
        ratios: Vec<Aspect>,
        /// Any ratio between these two, where there is no list.
        range: Option<[Aspect; 2]>,
        /// The tiers, in the vendor's words, the default first.
        #[serde(default)]
        tiers: Vec<String>,
        /// The pixel table that says what is drawn.
        pixels: Option<String>,
        /// Pixels of every picture, where there is no table.
        area: Option<u64>,
        /// What sides are multiples of, with `area`.
        #[serde(default = "one")]
        multiple_of: u32,
        /// The table, once looked up: (tier, ratio) to size.
        #[serde(skip)]
        table: BTreeMap<(String, String), Size>,
    },
    /// Any width and height on a grid within bounds.
    Grid {
        /// What both sides are multiples of.
        multiple_of: u32,
        /// Shortest side.
        min: u32,
        /// Longest side.
        max: u32,
        /// Fewest pixels.
        #[serde(default)]
        min_pixels: u64,
        /// Most pixels.
        max_pixels: Option<u64>,
        /// Largest ratio of the longer to the shorter side.
        max_ratio: Option<u32>,
    },
    /// Named sizes.
    Presets {
        /// Name to size.
        presets: BTreeMap<String, Size>,
    },
    /// One size, whatever is asked.
    Fixed {
        /// The size.
        size: Size,
    },
}

fn one() -> u32 {
    1
}

impl Default for SizeRule {
    fn default() -> Self {
        Self::Fixed { size: Size::new(1024, 1024) }
    }
}

impl SizeRule {
    /// The name of the rule's kind in documents and answers.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::List { .. } => "list",
            Self::Ratios { .. } => "ratios",
            Self::Grid { .. } => "grid",
            Self::Presets { .. } => "presets",
            Self::Fixed { .. } => "fixed",
        }
    }

    /// Every size of a rule that has finitely many; empty for a grid and a ratio range.
    pub fn finite(&self) -> Vec<NativeSize> {
        match self {
            Self::List { sizes } => {
                sizes.iter().map(|&size| NativeSize { size, words: SizeWords::Pixels }).collect()
            }
            Self::Ratios { ratios, tiers, table, area, multiple_of, .. } => {
                let named: Vec<Option<&String>> =
                    if tiers.is_empty() { vec![None] } else { tiers.iter().map(Some).collect() };
                let drawn = |tier: Option<&String>, ratio: Aspect| {
                    table
                        .get(&(tier.cloned().unwrap_or_default(), ratio.to_string()))
                        .copied()
                        .or_else(|| area.map(|area| sized(ratio.ratio(), area, *multiple_of)))
                };
                named
                    .iter()
                    .flat_map(|tier| ratios.iter().map(move |ratio| (*tier, *ratio)))
                    .filter_map(|(tier, ratio)| {
                        let words = SizeWords::Ratio(ratio, tier.cloned());
                        Some(NativeSize { size: drawn(tier, ratio)?, words })
                    })
                    .collect()
            }
            Self::Presets { presets } => presets
                .iter()
                .map(|(name, &size)| NativeSize { size, words: SizeWords::Preset(name.clone()) })
                .collect(),
            Self::Fixed { size } => {
                vec![NativeSize { size: *size, words: SizeWords::Omitted }]
            }
            Self::Grid { .. } => Vec::new(),
        }
    }

    /// Whether a size obeys a grid's bounds; false for other rules.
    pub fn on_grid(&self, size: Size) -> bool {
        let Self::Grid { multiple_of, min, max, min_pixels, max_pixels, max_ratio } = self else {
            return false;
        };
        let (short, long) = (size.width.min(size.height), size.width.max(size.height));
        size.width.is_multiple_of(*multiple_of)
            && size.height.is_multiple_of(*multiple_of)
            && short >= *min
            && long <= *max
            && size.pixels() >= *min_pixels
            && max_pixels.is_none_or(|most| size.pixels() <= most)
            && max_ratio.is_none_or(|most| u64::from(long) <= u64::from(short) * u64::from(most))
    }
}

/// The sides of about `area` pixels at a ratio, rounded to a multiple.
pub fn sized(ratio: f64, area: u64, multiple_of: u32) -> Size {
    let step = f64::from(multiple_of.max(1));
    let round = |side: f64| ((side / step).round().max(1.0) * step) as u32;
    let width = (area as f64 * ratio).sqrt();
    Size::new(round(width), round(width / ratio))
}

/// How a deployment's fields are called on the wire. A dot in a name goes into an object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wire {
    /// The prompt; some dialects place it themselves.
    pub prompt: Option<String>,
    /// The size.
    pub size: Option<SizeField>,
    /// The number of pictures, where more than one can be asked.
    pub n: Option<String>,
    /// The seed.
    pub seed: Option<String>,
    /// What must not be in the picture.
    pub negative_prompt: Option<String>,
    /// The format.
    pub format: Option<Choice>,
    /// The quality of a lossy format, 0 to 100.
    pub compression: Option<String>,
    /// The quality level.
    pub quality: Option<Choice>,
    /// The background.
    pub background: Option<Choice>,
    /// The moderation level.
    pub moderation: Option<Choice>,
    /// The style.
    pub style: Option<Choice>,
    /// The caller's end user.
    pub user: Option<String>,
    /// Fields sent with every call.
    pub set: BTreeMap<String, serde_json::Value>,
}

/// A field with a fixed vocabulary.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The field's name.
    pub field: String,
    /// Our word to the vendor's.
    pub values: BTreeMap<String, String>,
}

/// How a size is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "as", rename_all = "lowercase", deny_unknown_fields)]
pub enum SizeField {
    /// One text: `1024x1024`.
    Text {
        /// The field.
        field: String,
        /// What joins the sides.
        #[serde(default = "x")]
        separator: String,
    },
    /// Two numbers in two fields.
    Sides {
        /// The field of the width.
        width: String,
        /// The field of the height.
        height: String,
    },
    /// A ratio, and a tier where the deployment has them.
    Ratio {
        /// The field of the ratio.
        field: String,
        /// What joins the parts.
        #[serde(default = "colon")]
        separator: String,
        /// The field of the tier.
        tier: Option<String>,
    },
    /// A preset's name.
    Preset {
        /// The field.
        field: String,
    },
}

fn x() -> String {
    "x".to_owned()
}

fn colon() -> String {
    ":".to_owned()
}

/// One line of a price list.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceLine {
    /// What is counted.
    pub unit: Unit,
    /// Dollars, a decimal string, for `per` units.
    pub usd: Money,
    /// How many units the price buys.
    #[serde(default = "one_u64")]
    pub per: u64,
    /// Pixels the vendor calls a megapixel.
    #[serde(default = "million")]
    pub megapixel: u64,
    /// Whether a fraction of a unit counts as a whole one, picture by picture.
    #[serde(default)]
    pub round: Round,
    /// Counts only the units up to this many of each picture.
    pub first: Option<u64>,
    /// Counts only the units beyond this many of each picture.
    pub after: Option<u64>,
    /// Only at this quality level.
    pub quality: Option<String>,
    /// Only at this resolution tier.
    pub tier: Option<String>,
    /// Only up to this many pixels; of several such lines the first that fits counts.
    pub max_pixels: Option<u64>,
}

/// How fractions of a unit are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Round {
    /// As they are.
    #[default]
    None,
    /// Up to the next whole unit.
    Up,
}

fn one_u64() -> u64 {
    1
}

fn million() -> u64 {
    1_000_000
}

/// What the price of one picture depends on.
#[derive(Clone, Copy, Debug)]
pub struct Drawn<'a> {
    /// Its size.
    pub size: Size,
    /// Its quality level; `None` where it is not known, and the dearest is taken.
    pub quality: Option<&'a str>,
    /// Its tier.
    pub tier: Option<&'a str>,
}

impl Deployment {
    /// What the drawn pictures cost. Where tokens are billed, `usage` decides; without it the
    /// estimate does. `None` where the deployment has no price for them.
    pub fn cost(&self, drawn: &[Drawn<'_>], usage: &Usage) -> Option<Cost> {
        let counts_tokens = self.price.iter().any(|line| token_count(line.unit, usage).is_some());
        if counts_tokens {
            return Some(token_cost(&self.price, usage));
        }
        let per_picture =
            if self.price.iter().any(|l| is_token(l.unit)) { &self.estimate } else { &self.price };
        let mut total = Cost::default();
        for picture in drawn {
            total.merge(picture_cost(per_picture, *picture)?);
        }
        Some(total)
    }
}

fn is_token(unit: Unit) -> bool {
    !matches!(unit, Unit::Image | Unit::Megapixel)
}

fn token_count(unit: Unit, usage: &Usage) -> Option<u64> {
    match unit {
        Unit::TextInputToken => usage.text_input_tokens,
        Unit::ImageInputToken => usage.image_input_tokens,
        Unit::TextOutputToken => usage.text_output_tokens,
        Unit::ImageOutputToken => usage.image_output_tokens,
        Unit::Image | Unit::Megapixel => None,
    }
}

fn charged(line: &PriceLine, quantity: Quantity) -> Line {
    let rate = Rate { amount: line.usd, per: line.per };
    let amount = rate.charge(quantity).unwrap_or(Money::MAX);
    Line { unit: line.unit, quantity, rate, amount }
}

fn token_cost(price: &[PriceLine], usage: &Usage) -> Cost {
    let lines = price
        .iter()
        .filter_map(|line| Some((line, token_count(line.unit, usage)?)))
        .filter(|(_, count)| *count > 0)
        .map(|(line, count)| charged(line, Quantity::whole(count)))
        .collect();
    Cost { lines }
}

fn picture_cost(price: &[PriceLine], drawn: Drawn<'_>) -> Option<Cost> {
    let quality_priced = |q: &str| price.iter().any(|l| l.quality.as_deref() == Some(q));
    let quality = drawn.quality.filter(|q| quality_priced(q));
    let qualities: BTreeSet<&str> = match quality {
        Some(known) => [known].into(),
        None => price.iter().filter_map(|l| l.quality.as_deref()).collect(),
    };
    let mut options: Vec<Cost> = if qualities.is_empty() {
        vec![lines_for(price, drawn, None)]
    } else {
        qualities.into_iter().map(|q| lines_for(price, drawn, Some(q))).collect()
    };
    options.retain(|cost| !cost.lines.is_empty());
    options.into_iter().max_by_key(Cost::total)
}

fn lines_for(price: &[PriceLine], drawn: Drawn<'_>, quality: Option<&str>) -> Cost {
    let fits = |line: &&PriceLine| {
        line.quality.as_deref().is_none_or(|q| Some(q) == quality)
            && line.tier.as_deref().is_none_or(|t| Some(t) == drawn.tier)
    };
    let matching: Vec<&PriceLine> = price.iter().filter(fits).collect();
    let pixels = drawn.size.pixels();
    let sized: Vec<&PriceLine> =
        matching.iter().copied().filter(|l| l.max_pixels.is_some()).collect();
    let by_size = sized.iter().find(|l| l.max_pixels.is_some_and(|most| pixels <= most));
    let chosen = by_size.or(sized.last()).copied();
    let lines = matching
        .into_iter()
        .filter(|line| line.max_pixels.is_none() || Some(*line) == chosen)
        .filter_map(|line| {
            let mut quantity = match line.unit {
                Unit::Megapixel => Quantity::micros(
                    u64::try_from(u128::from(pixels) * 1_000_000 / u128::from(line.megapixel))
                        .unwrap_or(u64::MAX),
                ),
                _ => Quantity::whole(1),
            };
            if line.round == Round::Up {
                quantity = quantity.round_up();
            }
            let mut micros = quantity.as_micros();
            if let Some(first) = line.first {
                // A picture below one unit still pays the first one whole.
                micros = Quantity::whole(first).as_micros();
            }
            if let Some(after) = line.after {
                micros = micros.saturating_sub(Quantity::whole(after).as_micros());
            }
            (micros > 0).then(|| charged(line, Quantity::micros(micros)))
        })
        .collect();
    Cost { lines }
}

// ---------------------------------------------------------------------------------------------
// Reading the files

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderFile {
    title: String,
    docs: String,
    adapter: String,
    base_url: String,
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
    task: Task,
    size: String,
    default_size: Option<Size>,
    #[serde(default = "one")]
    n: u32,
    formats: Vec<Format>,
    prompt_max: Option<u32>,
    wire: String,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unlisted {
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

    /// Reads files given as (name without ending, text). A later file of the same name replaces
    /// the rows with the same id of an earlier one and adds the rest; its other settings win.
    pub fn parse<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, CatalogError> {
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
            let provider = provider(name, file, &pixels).map_err(wrong)?;
            match catalog.providers.get_mut(name) {
                None => {
                    catalog.providers.insert(name.to_owned(), provider);
                }
                Some(known) => overlay(known, provider),
            }
        }
        Ok(catalog)
    }

    /// Every deployment, vendor by vendor, in the order of the files.
    pub fn deployments(&self) -> impl Iterator<Item = &Deployment> {
        self.providers.values().flat_map(|p| p.models.iter())
    }
}

fn overlay(known: &mut Provider, newer: Provider) {
    let mut models = std::mem::take(&mut known.models);
    for row in newer.models {
        match models.iter_mut().find(|m| m.model == row.model) {
            Some(old) => *old = row,
            None => models.push(row),
        }
    }
    *known = Provider { models, ..newer };
}

fn provider(id: &str, file: ProviderFile, pixels: &PixelTables) -> Result<Provider, String> {
    if adapter(&file.adapter).is_none() {
        return Err(format!("there is no adapter named {:?}", file.adapter));
    }
    if file.base_url.ends_with('/') {
        return Err("base_url ends with a slash".to_owned());
    }
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
        check_row(&row, &wire, &size).map_err(at)?;
        if models.iter().any(|m| m.model == row.id) {
            return Err(at("this id is there twice".to_owned()));
        }
        models.push(Deployment {
            provider: id.to_owned(),
            model: row.id,
            aliases: row.aliases,
            upstream: row.upstream,
            path: row.path,
            task: row.task,
            size,
            default_size: row.default_size,
            n: row.n,
            formats: row.formats,
            prompt_max: row.prompt_max,
            wire,
            price: row.price,
            estimate: row.estimate,
            source: row.source,
            checked: row.checked,
            confidence: row.confidence,
            retires: row.retires,
        });
    }
    let unlisted = file
        .unlisted
        .map(|u| {
            Ok::<_, String>(Deployment {
                provider: id.to_owned(),
                n: 1,
                formats: u.formats,
                wire: find_wire(&u.wire)?,
                size: find_size(&u.size)?,
                ..Deployment::default()
            })
        })
        .transpose()
        .map_err(|e| format!("unlisted: {e}"))?;
    Ok(Provider {
        id: id.to_owned(),
        title: file.title,
        docs: file.docs,
        adapter: file.adapter,
        base_url: file.base_url,
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

fn check_row(row: &Row, wire: &Wire, size: &SizeRule) -> Result<(), String> {
    let say = |text: &str| Err(text.to_owned());
    if row.id.is_empty() || row.upstream.is_empty() || row.source.is_empty() {
        return say("id, upstream and source must not be empty");
    }
    if row.formats.is_empty() {
        return say("formats must not be empty");
    }
    if row.n == 0 || row.n > 10 {
        return say("n must be 1 to 10");
    }
    if row.n > 1 && wire.n.is_none() {
        return say("n is above 1 but the wire has no field for it");
    }
    if row.formats.len() > 1 && wire.format.is_none() {
        return say("several formats but the wire has no field for them");
    }
    if let Some(choice) = &wire.format
        && let Some(format) = row.formats.iter().find(|f| !choice.values.contains_key(f.name()))
    {
        return Err(format!("the wire has no word for the format {format}"));
    }
    if row.price.is_empty() {
        return say("a row without a price is not sold: leave it out");
    }
    for line in row.price.iter().chain(&row.estimate) {
        if line.usd < Money::ZERO {
            return say("a price is negative");
        }
        if line.per == 0 || line.megapixel == 0 {
            return say("per and megapixel must be at least 1");
        }
    }
    if row.price.iter().any(|l| is_token(l.unit)) && row.estimate.is_empty() {
        return say("tokens are billed afterwards, so an estimate is needed");
    }
    let date = |d: &str| d.len() == 10 && d.split('-').map(str::len).eq([4, 2, 2]);
    if !date(&row.checked) || row.retires.as_deref().is_some_and(|d| !date(d)) {
        return say("checked and retires are dates like 2026-11-01");
    }
    match (&wire.size, size) {
        (None, SizeRule::Fixed { .. })
        | (
            Some(SizeField::Text { .. } | SizeField::Sides { .. }),
            SizeRule::List { .. } | SizeRule::Grid { .. },
        )
        | (Some(SizeField::Ratio { .. }), SizeRule::Ratios { .. })
        | (Some(SizeField::Preset { .. }), SizeRule::Presets { .. }) => {}
        _ => return Err(format!("the wire cannot express a size rule of kind {}", size.kind())),
    }
    if let (Some(SizeField::Ratio { tier: None, .. }), SizeRule::Ratios { tiers, .. }) =
        (&wire.size, size)
        && tiers.len() > 1
    {
        return say("several tiers but the wire has no field for them");
    }
    Ok(())
}

fn look_up_pixels(rule: &mut SizeRule, pixels: &PixelTables) -> Result<(), String> {
    match rule {
        SizeRule::Ratios { ratios, range, tiers, pixels: named, area, table, .. } => {
            if ratios.is_empty() == range.is_none() {
                return Err("either ratios or a range".to_owned());
            }
            if range.is_some() && area.is_none() {
                return Err("a range needs an area".to_owned());
            }
            if let Some(name) = named {
                let known = pixels.get(name).ok_or_else(|| format!("no pixel table {name:?}"))?;
                let alone = (tiers.is_empty() && known.len() == 1).then(String::new);
                for (tier, by_ratio) in known {
                    let key = alone.clone().unwrap_or_else(|| tier.clone());
                    for (ratio, size) in by_ratio {
                        table.insert((key.clone(), ratio.clone()), *size);
                    }
                }
            }
            let tier_names = if tiers.is_empty() { vec![String::new()] } else { tiers.clone() };
            for tier in tier_names {
                for ratio in &*ratios {
                    if area.is_none() && !table.contains_key(&(tier.clone(), ratio.to_string())) {
                        return Err(format!("no pixels for {ratio} at tier {tier:?}"));
                    }
                }
            }
        }
        SizeRule::Grid { multiple_of, min, max, .. } => {
            if *multiple_of == 0 || min > max || !min.is_multiple_of(*multiple_of) {
                return Err("multiple_of at least 1, min on the grid and at most max".to_owned());
            }
        }
        SizeRule::List { sizes } if sizes.is_empty() => return Err("sizes is empty".to_owned()),
        SizeRule::Presets { presets } if presets.is_empty() => {
            return Err("presets is empty".to_owned());
        }
        _ => {}
    }
    Ok(())
}
