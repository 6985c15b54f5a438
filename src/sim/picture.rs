//! A picture that came with a request: how it is read, what may be wrong with it, and what is to
//! be done with it.

use std::io::Cursor;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use image::{DynamicImage, ImageFormat, ImageReader};
use providers::media::{Format, Size};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::schema::Violation;

/// What is done with pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Does {
    /// Something in it changes.
    #[default]
    Edit,
    /// Another one like it.
    Vary,
    /// The same, larger.
    Enlarge,
    /// All but the subject becomes transparent.
    Cut,
}

/// Which part of a mask is edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Polarity {
    Transparent,
    White,
    Black,
}

/// A picture as it came.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    /// Where it stood.
    pub path: Vec<String>,
    /// Whether it is the mask.
    pub mask: bool,
    /// What stood there.
    pub content: Content,
    /// The type it is declared as, if it is.
    pub kind: Option<String>,
}

/// What stands in the place of a picture.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A data URI or an address.
    Uri(String),
    /// Base64, or an address where that is taken.
    Base64(String),
    /// A file.
    Bytes(Bytes),
}

/// What is wrong with a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Neither a data URI nor an address, or not base64.
    Spelling,
    /// Its address cannot be fetched.
    Download,
    /// It does not decode.
    Unreadable,
    /// Of a format or type that is not taken.
    Format(String),
    /// Too many bytes.
    Heavy(usize),
    /// Too many pixels.
    Large(String),
    /// Too few.
    Small(u32),
    /// The mask has another size than the picture.
    MaskSize(Size, Size),
    /// The mask has no alpha channel.
    MaskAlpha,
    /// The mask has greys.
    MaskGrey,
    /// A mask without a picture.
    MaskAlone,
}

impl Flaw {
    /// Plain words.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Spelling => "must be a base64 encoded image or a URL".to_owned(),
            Self::Download => "could not be downloaded".to_owned(),
            Self::Unreadable => "could not be decoded as an image".to_owned(),
            Self::Format(kind) => format!("is of an unsupported type: {kind}"),
            Self::Heavy(most) => format!("must be at most {most} bytes"),
            Self::Large(most) => format!("is too large: at most {most}"),
            Self::Small(least) => format!("must have sides of at least {least} pixels"),
            Self::MaskSize(mask, picture) => {
                format!("must have the size of the image: {mask} in place of {picture}")
            }
            Self::MaskAlpha => "must have an alpha channel".to_owned(),
            Self::MaskGrey => "must be black and white only".to_owned(),
            Self::MaskAlone => "needs an image".to_owned(),
        }
    }
}

/// A picture's file.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub bytes: Bytes,
    pub size: Size,
    digest: [u8; 32],
}

impl PartialEq for File {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for File {}

impl std::hash::Hash for File {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

/// What is to be done with the pictures of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Work {
    /// The first picture.
    pub picture: File,
    /// Pixels of all pictures.
    pub pixels: u64,
    /// Where it is edited.
    pub mask: Option<(File, Polarity)>,
    /// What is done.
    pub does: Does,
}

impl Work {
    /// How much of each pixel is edited, 0 to 255, in the mask's own size.
    pub(crate) fn edited(&self) -> Result<Option<(Size, Vec<u8>)>, String> {
        let Some((file, polarity)) = &self.mask else { return Ok(None) };
        let pixels = decode(&file.bytes).map_err(|e| e.to_string())?;
        let amounts = match polarity {
            Polarity::Transparent => pixels.to_rgba8().pixels().map(|p| 255 - p.0[3]).collect(),
            Polarity::White => pixels.to_luma8().into_raw(),
            Polarity::Black => pixels.to_luma8().iter().map(|value| 255 - value).collect(),
        };
        Ok(Some((file.size, amounts)))
    }
}

/// What is wrong with a picture in OpenAI's words.
pub(crate) fn openai_wording(flaw: &Flaw, violation: &Violation) -> (String, &'static str) {
    let at = violation.path.iter().find_map(|part| part.parse::<usize>().ok()).unwrap_or(0) + 1;
    match flaw {
        Flaw::Spelling => (
            "Invalid image data URL: expected a base64-encoded data URL.".to_owned(),
            "invalid_value",
        ),
        Flaw::Download => ("Error while downloading file.".to_owned(), "invalid_image_url"),
        Flaw::Unreadable => (
            format!("Invalid image file or mode for image {at}, please check your image file."),
            "invalid_image_file",
        ),
        Flaw::Format(kind) => (
            format!(
                "Invalid file 'image': unsupported mimetype ('{kind}'). Supported file formats are 'image/jpeg', 'image/png', and 'image/webp'."
            ),
            "unsupported_file_mimetype",
        ),
        Flaw::Heavy(most) => (
            format!("Invalid image: file too large. Expected a file of at most {most} bytes."),
            "image_too_large",
        ),
        Flaw::MaskSize(..) => (
            "Invalid mask image format - mask size does not match image size".to_owned(),
            "invalid_mask_image_format",
        ),
        Flaw::MaskAlpha => (
            "Invalid mask image format - mask must have an alpha channel".to_owned(),
            "invalid_mask_image_format",
        ),
        other => (format!("Invalid image: it {}.", other.words()), "invalid_value"),
    }
}

/// Decodes whole: what does not is refused.
pub(crate) fn decode(bytes: &[u8]) -> image::ImageResult<DynamicImage> {
    ImageReader::new(Cursor::new(bytes)).with_guessed_format()?.decode()
}

/// The file and its pixels, if it is of these formats and not too heavy.
pub(super) fn read(
    raw: &Raw,
    formats: &[Format],
    max_bytes: Option<usize>,
) -> Result<(File, DynamicImage), Flaw> {
    let coded = |text: &str| STANDARD.decode(text).map(Bytes::from).map_err(|_| Flaw::Spelling);
    let mut declared = raw.kind.clone();
    let bytes = match &raw.content {
        Content::Bytes(bytes) => bytes.clone(),
        // Nothing is fetched: the simulator has no network.
        Content::Uri(text) | Content::Base64(text) if text.starts_with("http") => {
            return Err(Flaw::Download);
        }
        Content::Base64(text) => coded(text)?,
        Content::Uri(text) => {
            let (kind, data) = text
                .strip_prefix("data:")
                .and_then(|rest| rest.split_once(";base64,"))
                .ok_or(Flaw::Spelling)?;
            declared = Some(kind.to_owned());
            coded(data)?
        }
    };
    let known = |mime: &String| formats.iter().any(|format| format.mime() == mime);
    if let Some(kind) = declared.filter(|kind| !known(kind)) {
        return Err(Flaw::Format(kind));
    }
    if let Some(most) = max_bytes.filter(|most| bytes.len() > *most) {
        return Err(Flaw::Heavy(most));
    }
    let found = match image::guess_format(&bytes).map_err(|_| Flaw::Unreadable)? {
        ImageFormat::Png => Format::Png,
        ImageFormat::Jpeg => Format::Jpeg,
        ImageFormat::WebP => Format::Webp,
        other => return Err(Flaw::Format(other.to_mime_type().to_owned())),
    };
    if !formats.contains(&found) {
        return Err(Flaw::Format(found.mime().to_owned()));
    }
    let pixels = decode(&bytes).map_err(|_| Flaw::Unreadable)?;
    let size = Size::new(pixels.width(), pixels.height());
    let digest = Sha256::digest(&bytes).into();
    Ok((File { bytes, size, digest }, pixels))
}
