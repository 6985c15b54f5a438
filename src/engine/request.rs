//! A picture request in the gateway's own terms, however it arrived.

use std::{borrow::Cow, collections::BTreeMap};

use providers::{
    catalog::{MaskArea, Task},
    media::{Format, Size},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::media::{blob::Blob, plan::SizeAsk};

/// What a caller asked for. Values are checked for form; whether a deployment can honour them
/// is decided per deployment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageRequest {
    /// What is to be done.
    #[serde(default)]
    pub task: Task,
    /// The model, and those to try after it.
    pub models: Vec<String>,
    /// The text; empty only where the task needs none.
    pub prompt: String,
    /// The pictures to work from.
    #[serde(default)]
    pub given: Vec<Given>,
    /// What of the first one is to be edited.
    #[serde(default)]
    pub mask: Option<Given>,
    /// How the mask marks that.
    #[serde(default)]
    pub mask_marks: MaskMarks,
    /// The factor of an upscale.
    #[serde(default)]
    pub scale: Option<u32>,
    /// How closely the pictures are kept to: `low` or `high`.
    #[serde(default)]
    pub fidelity: Option<String>,
    /// Drafts that a stream is to show.
    #[serde(default)]
    pub partial_images: Option<u32>,
    /// How many pictures, 1 to 10.
    pub n: u32,
    /// The size, as parsed.
    pub size: SizeAsk,
    /// The size as it was written, for reports.
    pub size_text: Option<String>,
    /// `low`, `medium`, `high`, ...
    pub quality: Option<String>,
    /// `transparent`, `opaque` or `auto`.
    pub background: Option<String>,
    /// The format to deliver; `None` is the provider's own.
    pub format: Option<Format>,
    /// Quality of the lossy encoders, 0 to 100.
    pub compression: Option<u8>,
    /// Whether WebP is to be lossless.
    pub webp_lossless: bool,
    /// Whether links are wanted in place of base64.
    pub wants_url: bool,
    /// OpenAI's moderation level.
    pub moderation: Option<String>,
    /// A style name.
    pub style: Option<String>,
    /// The caller's end user.
    pub user: Option<String>,
    /// Names and values that usage is counted by.
    pub labels: BTreeMap<String, String>,
    /// The seed.
    pub seed: Option<u64>,
    /// What must not be in the picture.
    pub negative_prompt: Option<String>,
    /// Refuse whatever would be changed beyond renaming.
    pub strict: bool,
    /// Report mere renamings too.
    pub verbose: bool,
    /// Deliver all pictures or none.
    pub require_all: bool,
    /// Which providers may serve it.
    pub providers: ProviderChoice,
    /// Fields for one provider only.
    pub provider_options: BTreeMap<String, Map<String, Value>>,
    /// Unknown fields, passed on as they are.
    pub extra: Map<String, Value>,
}

impl ImageRequest {
    /// What was asked, for the records beside its pictures: no words of the caller, and the
    /// pictures it came with by the first half of their digests.
    pub fn parameters(&self) -> BTreeMap<String, String> {
        let digests: Vec<&str> =
            self.given.iter().map(|given| given.sha256.get(..32).unwrap_or_default()).collect();
        let all = [
            ("size", self.size_text.clone()),
            ("n", Some(self.n.to_string())),
            ("quality", self.quality.clone()),
            ("background", self.background.clone()),
            ("format", self.format.map(|format| format.name().to_owned())),
            ("seed", self.seed.map(|seed| seed.to_string())),
            ("style", self.style.clone()),
            ("moderation", self.moderation.clone()),
            ("scale_factor", self.scale.map(|factor| factor.to_string())),
            ("input_fidelity", self.fidelity.clone()),
            ("images", (!digests.is_empty()).then(|| digests.join(" "))),
            ("mask", self.mask.as_ref().and_then(|m| m.sha256.get(..32)).map(str::to_owned)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// A picture that came with a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Given {
    /// What its bytes are.
    pub format: Format,
    /// Pixels as shown, turned upright.
    pub size: Size,
    /// Whether it may be transparent somewhere.
    pub has_alpha: bool,
    /// How many bytes it has.
    pub bytes: u64,
    /// SHA-256 of them, in hex.
    pub sha256: String,
    /// The bytes; a process that takes a job over does not have them.
    #[serde(skip)]
    pub blob: Option<Blob>,
}

/// How a caller marks in a mask what is to be edited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskMarks {
    /// It is transparent, as OpenAI has it.
    #[default]
    Transparent,
    /// It is white.
    White,
    /// It is black.
    Black,
}

impl From<MaskMarks> for MaskArea {
    fn from(marks: MaskMarks) -> Self {
        match marks {
            MaskMarks::Transparent => Self::Transparent,
            MaskMarks::White => Self::White,
            MaskMarks::Black => Self::Black,
        }
    }
}

/// The `provider` object of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderChoice {
    /// These first, in this order.
    pub order: Vec<String>,
    /// Only these; empty is all.
    pub only: Vec<String>,
    /// Not these.
    pub ignore: Vec<String>,
    /// Whether another deployment may be tried when the first fails.
    pub no_fallbacks: bool,
}

/// Something that was not done just as it was asked, told to the caller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adjustment {
    /// The request field.
    pub param: Cow<'static, str>,
    /// What happened to it.
    pub kind: AdjustmentKind,
    /// What was asked.
    pub asked: Value,
    /// What the provider was asked for; once there is a picture, what it drew.
    pub native: Value,
    /// What the caller gets.
    pub delivered: Value,
    /// Why.
    pub reason: String,
}

/// What happened to a request detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdjustmentKind {
    /// Called otherwise at the provider; told only when `verbose`.
    Renamed,
    /// The bytes were converted.
    Converted,
    /// The pixels were scaled, cropped or padded.
    Resized,
    /// Done by the gateway in the provider's place.
    Emulated,
    /// The provider's default stands in for a value it does not take.
    Defaulted,
    /// Another model stands in.
    Substituted,
    /// Passed on as it came.
    Passthrough,
    /// Not honoured.
    Dropped,
}

impl Adjustment {
    /// An adjustment of a field.
    pub fn new(
        param: impl Into<Cow<'static, str>>,
        kind: AdjustmentKind,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            param: param.into(),
            kind,
            asked: Value::Null,
            native: Value::Null,
            delivered: Value::Null,
            reason: reason.into(),
        }
    }

    /// Says what was asked, sent and delivered.
    #[must_use]
    pub fn values(
        mut self,
        asked: impl Into<Value>,
        native: impl Into<Value>,
        delivered: impl Into<Value>,
    ) -> Self {
        (self.asked, self.native, self.delivered) = (asked.into(), native.into(), delivered.into());
        self
    }

    /// Whether it is about the pixels or the format: the plan foresees it, the picture that comes
    /// decides it.
    pub fn is_of_the_picture(&self) -> bool {
        use AdjustmentKind::{Converted, Resized};
        matches!((&*self.param, self.kind), ("size", Resized) | ("output_format", Converted))
    }

    /// Whether `strict` lets it pass.
    pub fn is_harmless(&self) -> bool {
        matches!(self.kind, AdjustmentKind::Renamed | AdjustmentKind::Passthrough)
    }
}
