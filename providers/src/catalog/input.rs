//! What a deployment takes beside a text: pictures to work from, and masks.

use serde::Deserialize;

use crate::media::Format;

/// Which pictures a deployment takes. Others are made to fit before they are sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InputRule {
    /// Most pictures of one call.
    pub images: u32,
    /// Formats taken; a picture in another one is sent in the first that can hold it.
    pub formats: Vec<Format>,
    /// Most bytes of one picture, before base64.
    pub max_bytes: Option<u64>,
    /// Most pixels of one picture.
    pub max_pixels: Option<u64>,
    /// Longest side.
    pub max_side: Option<u32>,
    /// Shortest side; a picture below it is refused, for enlarging it would make up what is seen.
    pub min_side: Option<u32>,
    /// How a mask is understood; none where the vendor takes no mask.
    pub mask: Option<MaskRule>,
    /// The factors of an upscale; empty where the vendor decides.
    pub factors: Vec<u32>,
}

impl Default for InputRule {
    fn default() -> Self {
        Self {
            images: 1,
            formats: vec![Format::Png, Format::Jpeg, Format::Webp],
            max_bytes: None,
            max_pixels: None,
            max_side: None,
            min_side: None,
            mask: None,
            factors: Vec::new(),
        }
    }
}

/// How a vendor understands a mask, which always has the size of the first picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskRule {
    /// What is to be edited.
    pub edits: MaskArea,
    /// Whether nothing can be edited without one.
    #[serde(default)]
    pub required: bool,
    /// Whether there is nothing between edited and kept: greys are cut in the middle.
    #[serde(default)]
    pub binary: bool,
    /// The format it is sent in, one without loss.
    #[serde(default = "png")]
    pub format: Format,
}

/// How a mask marks what is to be edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskArea {
    /// Where it is transparent; the rest is opaque. OpenAI's own.
    Transparent,
    /// Where it is white; the rest is black.
    White,
    /// Where it is black; the rest is white.
    Black,
}

fn png() -> Format {
    Format::Png
}

/// How pictures are written on the wire.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputField {
    /// The field; with `numbered`, that of the first.
    pub field: String,
    /// How one is written.
    #[serde(rename = "as")]
    pub form: InputForm,
    /// How several stand.
    #[serde(default)]
    pub many: Many,
    /// The field of the object that each stands in, where it is not bare.
    pub item: Option<String>,
}

/// How a picture is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputForm {
    /// `data:image/png;base64,...`
    DataUri,
    /// Base64 alone.
    Base64,
    /// A file of a form.
    File,
    /// An address the vendor fetches it from: ours, signed and short-lived.
    Url,
}

/// How several pictures stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Many {
    /// There is only one.
    #[default]
    One,
    /// In a list, also when there is one.
    List,
    /// In fields with numbers: `image`, `image_2`, `image_3`.
    Numbered,
    /// In parts of a form with the same name.
    Repeated,
}
