//! What each vendor's models take and draw: the files in `data/`, read once.
//!
//! Transcribed from the vendors' own documentation, never from the gateway's catalogue: the
//! two must be able to disagree.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use providers::media::{Format, Size};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    given::{Follow, Takes},
    picture::{Raw, Work},
    schema::{self, Fields, Violation},
    size::SizeSpec,
    vendor::Vendor,
};

/// One vendor's file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VendorData {
    /// Groups of fields that families share.
    #[serde(default)]
    fields: BTreeMap<String, Fields>,
    /// Models that take the same request and draw the same way.
    family: BTreeMap<String, Family>,
    /// The vendor's model ids and their family.
    models: BTreeMap<String, String>,
    /// The family that works from pictures, where it is another one.
    #[serde(default)]
    edits: BTreeMap<String, String>,
    /// Ids the vendor has switched off.
    #[serde(default)]
    pub retired: Vec<String>,
}

/// Models that take the same request and draw the same way.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Family {
    /// The groups of fields it takes.
    #[serde(default)]
    takes: Vec<String>,
    /// Fields of its own; these win over a group's.
    #[serde(default)]
    pub fields: Fields,
    /// Where the size comes from and what is legal.
    pub size: SizeSpec,
    /// The pictures it works from.
    pub pictures: Option<Takes>,
    /// How the size follows from them where none is asked.
    follow: Option<Follow>,
    /// The field that says how many pictures are wanted.
    pub count: Option<String>,
    /// What it draws unasked.
    pub format: Format,
    /// The field that asks for another format, dotted.
    #[serde(default = "output_format")]
    pub format_field: String,
    /// What only this vendor's code reads.
    #[serde(default)]
    pub extra: Map<String, Value>,
}

fn output_format() -> String {
    "output_format".to_owned()
}

/// Tables of pixels: table, tier, ratio.
type Pixels = BTreeMap<String, BTreeMap<String, BTreeMap<String, Size>>>;

static PIXELS: LazyLock<Pixels> =
    LazyLock::new(|| read("pixels", include_str!("data/pixels.toml")).unwrap_or_default());

static VENDORS: LazyLock<BTreeMap<Vendor, VendorData>> = LazyLock::new(|| {
    Vendor::ALL
        .into_iter()
        .filter_map(|vendor| {
            let mut data: VendorData = read(vendor.name(), vendor.data())?;
            for family in data.family.values_mut() {
                for group in &family.takes {
                    for (name, field) in data.fields.get(group).into_iter().flatten() {
                        family.fields.entry(name.clone()).or_insert_with(|| field.clone());
                    }
                }
                if let Some(takes) = &family.pictures {
                    takes.describe(&mut family.fields);
                }
            }
            Some((vendor, data))
        })
        .collect()
});

static NONE: LazyLock<VendorData> = LazyLock::new(VendorData::default);

/// A file that does not parse is a vendor without models; a test sees to it that all do.
fn read<T: for<'a> Deserialize<'a>>(name: &str, text: &str) -> Option<T> {
    toml::from_str(text)
        .inspect_err(|error| tracing::error!(%error, name, "the simulator's data is damaged"))
        .ok()
}

/// The pixels a table gives for a ratio; without a tier those of about one megapixel.
pub(crate) fn pixels(table: &str, tier: Option<&str>, ratio: &str) -> Option<Size> {
    let tiers = PIXELS.get(table)?;
    let rows = match tier {
        Some(tier) => tiers.get(tier)?,
        None => tiers.get("1K").or_else(|| tiers.get("1"))?,
    };
    rows.get(ratio).copied()
}

impl VendorData {
    /// A vendor's data.
    pub(crate) fn of(vendor: Vendor) -> &'static Self {
        VENDORS.get(&vendor).unwrap_or(&NONE)
    }

    /// The family of a model.
    pub(crate) fn model(&self, id: &str) -> Option<&Family> {
        self.family.get(self.models.get(id)?)
    }

    /// The family of a model where it works from pictures.
    pub(crate) fn worker(&self, id: &str) -> Option<&Family> {
        let family = self.edits.get(id).or_else(|| self.models.get(id))?;
        self.family.get(family).filter(|family| family.pictures.is_some())
    }

    /// Every model's id.
    pub(crate) fn models(&self) -> impl Iterator<Item = &str> {
        self.models.keys().map(String::as_str)
    }
}

/// What a valid request asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Order {
    /// Pixels of each picture.
    pub size: Size,
    /// How many.
    pub count: u32,
    /// The file format.
    pub format: Format,
    /// The picture it is drawn from.
    pub work: Option<Arc<Work>>,
}

impl Family {
    /// Whether it draws without a picture.
    pub(crate) fn generates(&self) -> bool {
        self.pictures.as_ref().is_none_or(|takes| !takes.is_required())
    }

    /// Checks a request and reads from it what to draw.
    pub(crate) fn order(&self, object: &Map<String, Value>) -> Result<Order, Vec<Violation>> {
        self.order_with(object, Vec::new())
    }

    /// The same with pictures that do not stand in the object.
    pub(crate) fn order_with(
        &self,
        object: &Map<String, Value>,
        mut raws: Vec<Raw>,
    ) -> Result<Order, Vec<Violation>> {
        let mut found = schema::check(&self.fields, object);
        if !found.is_empty() {
            return Err(found);
        }
        let size = match self.size.read(object) {
            Ok(size) => size,
            Err(violation) => {
                found.push(*violation);
                Size::new(1, 1)
            }
        };
        if !found.is_empty() {
            return Err(found);
        }
        let work = match &self.pictures {
            Some(takes) => {
                raws.extend(takes.lift(object));
                takes.work(raws)?
            }
            None => None,
        };
        let size = match (&work, &self.follow) {
            (Some(work), Some(follow)) if follow.always || !self.size.asked(object) => {
                follow.size(work.picture.size, object)
            }
            _ => size,
        };
        if let (Some(takes), Some(work)) = (&self.pictures, &work)
            && let Some(violation) = takes.too_much(work, size)
        {
            return Err(vec![violation]);
        }
        let count = self.count.as_ref().and_then(|field| object.get(field)?.as_u64());
        let format = at(object, &self.format_field)
            .and_then(Value::as_str)
            .and_then(|name| name.to_ascii_lowercase().parse().ok())
            .unwrap_or(self.format);
        Ok(Order { size, count: count.unwrap_or(1) as u32, format, work })
    }

    /// A number of `extra`.
    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        self.extra.get(name)?.as_f64()
    }

    /// A word of `extra`.
    pub(crate) fn word(&self, name: &str) -> &str {
        self.extra.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}

/// The value at a dotted path; `null` counts as absent.
pub(crate) fn at<'a>(object: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut parts = path.split('.');
    let first = object.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part)).filter(|value| !value.is_null())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_parses_and_every_model_has_its_family() {
        let _: Pixels = toml::from_str(include_str!("data/pixels.toml")).unwrap();
        for vendor in Vendor::ALL {
            let data: VendorData =
                toml::from_str(vendor.data()).unwrap_or_else(|e| panic!("{}: {e}", vendor.name()));
            assert!(!data.models.is_empty());
            for (model, family) in data.models.iter().chain(&data.edits) {
                assert!(data.family.contains_key(family), "{model}: no family {family}");
            }
            for (name, family) in &data.family {
                assert!(
                    data.models.values().chain(data.edits.values()).any(|f| f == name),
                    "{}: nothing is of family {name}",
                    vendor.name()
                );
                for group in &family.takes {
                    assert!(data.fields.contains_key(group), "{name}: no fields {group}");
                }
            }
        }
    }

    #[test]
    fn every_ratio_and_tier_a_family_allows_has_pixels() {
        for vendor in Vendor::ALL {
            for (name, family) in &VendorData::of(vendor).family {
                for (given, size) in family.size.samples(&family.fields) {
                    assert!(size.is_ok(), "{} {name} {given:?}: {size:?}", vendor.name());
                }
            }
        }
    }
}
