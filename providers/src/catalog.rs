//! The catalogue: what each vendor sells, as strictly parsed data.
//!
//! One TOML file per vendor, named after it; `_pixels.toml` holds the pixel tables they share.
//! An unknown key, a duplicate, a dangling name or a bad price is an error that names the file
//! and the model. The format is described in `docs/adding-a-provider.md`.

mod auth;
mod input;
mod price;
mod read;
mod size;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use auth::{Auth, AuthKind};
pub use input::{InputField, InputForm, InputRule, Many, MaskArea, MaskRule};
pub use price::{Counted, Drawn, PriceLine, Round, WorkedFrom};
pub use read::CatalogError;
pub use size::{SizeRule, sized};

use crate::media::{Format, Size};

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
    /// What stands in for it: `api_key` where the credential is a key, else `name=value` where a
    /// setting has that value.
    pub base_urls: BTreeMap<String, String>,
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

impl Catalog {
    /// Every deployment, vendor by vendor, in the order of the files.
    pub fn deployments(&self) -> impl Iterator<Item = &Deployment> {
        self.providers.values().flat_map(|p| p.models.iter())
    }
}

impl Provider {
    /// The base URL to fill in, for these settings and a key (`by_key`) or another credential.
    pub fn base_url(&self, settings: &BTreeMap<String, String>, by_key: bool) -> &str {
        let keyed = self.base_urls.get("api_key").filter(|_| by_key && self.auth.needs_signing());
        let set = || settings.iter().find_map(|(k, v)| self.base_urls.get(&format!("{k}={v}")));
        keyed.or_else(set).unwrap_or(&self.base_url)
    }
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
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Task {
    /// Draws a picture from a text.
    #[default]
    #[serde(rename = "image.generate")]
    ImageGenerate,
    /// Draws a picture from a text and pictures.
    #[serde(rename = "image.edit")]
    ImageEdit,
    /// Draws a picture like another one.
    #[serde(rename = "image.variation")]
    ImageVariation,
    /// Makes a picture larger.
    #[serde(rename = "image.upscale")]
    ImageUpscale,
    /// Makes all but a picture's subject transparent.
    #[serde(rename = "image.remove_background")]
    ImageRemoveBackground,
}

impl Task {
    /// Every task, in the order of the documentation.
    pub const ALL: [Self; 5] = [
        Self::ImageGenerate,
        Self::ImageEdit,
        Self::ImageVariation,
        Self::ImageUpscale,
        Self::ImageRemoveBackground,
    ];

    /// Its name in the catalogue and in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ImageGenerate => "image.generate",
            Self::ImageEdit => "image.edit",
            Self::ImageVariation => "image.variation",
            Self::ImageUpscale => "image.upscale",
            Self::ImageRemoveBackground => "image.remove_background",
        }
    }

    /// Whether it works from pictures.
    pub const fn takes_pictures(self) -> bool {
        !matches!(self, Self::ImageGenerate)
    }
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
    /// Which pictures it takes; of no meaning for a task that takes none.
    pub inputs: InputRule,
    /// Which sizes it draws.
    pub size: SizeRule,
    /// What it draws when no size is asked, if the vendor says.
    pub default_size: Option<Size>,
    /// The quality level it draws at when none is asked, if the vendor says.
    pub default_quality: Option<String>,
    /// Most pictures in one call.
    pub n: u32,
    /// Formats the vendor may be asked for; the first is what it gives unasked.
    pub formats: Vec<Format>,
    /// Longest prompt, in characters.
    pub prompt_max: Option<u32>,
    /// How its fields are called.
    pub wire: Wire,
    /// A body with placeholders, where the operator decides what is sent.
    pub workflow: Option<serde_json::Value>,
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

/// How a deployment's fields are called on the wire. A dot in a name goes into an object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wire {
    /// The prompt; some dialects place it themselves.
    pub prompt: Option<String>,
    /// The size.
    pub size: Option<SizeField>,
    /// The pictures to work from.
    pub images: Option<InputField>,
    /// The mask.
    pub mask: Option<InputField>,
    /// The factor of an upscale.
    pub scale: Option<String>,
    /// How closely the pictures are kept to.
    pub fidelity: Option<Choice>,
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
    /// Fields sent unless the caller passes them: what the vendor demands, and callers may change.
    pub usual: BTreeMap<String, serde_json::Value>,
    /// Fields sent with every call.
    pub set: BTreeMap<String, serde_json::Value>,
}

/// A field with a fixed vocabulary.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The field's name. Empty where nothing is sent: the row itself stands for the choice, such
    /// as a path that only draws transparent backgrounds.
    #[serde(default)]
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
