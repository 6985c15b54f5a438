//! Plain media vocabulary: sizes, ratios, formats. No pixels are touched here.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Width and height in pixels, both at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Size {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

impl Size {
    /// A size from its sides.
    pub const fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    /// The number of pixels.
    pub const fn pixels(self) -> u64 {
        self.width as u64 * self.height as u64
    }

    /// Width over height.
    pub fn ratio(self) -> f64 {
        f64::from(self.width) / f64::from(self.height)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// An aspect ratio as it was written, such as 16:9. Not reduced: vendors list `10:16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Aspect {
    /// Parts across.
    pub width: u32,
    /// Parts down.
    pub height: u32,
}

impl Aspect {
    /// A ratio from its parts.
    pub const fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    /// Width over height.
    pub fn ratio(self) -> f64 {
        f64::from(self.width) / f64::from(self.height)
    }

    /// Whether both stand for the very same ratio (`16:10` and `8:5` do).
    pub fn same(self, other: Self) -> bool {
        u64::from(self.width) * u64::from(other.height)
            == u64::from(other.width) * u64::from(self.height)
    }
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.width, self.height)
    }
}

/// A size or ratio that is not two positive whole numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not two positive whole numbers joined by {1:?}")]
pub struct ParsePairError(String, char);

fn pair(text: &str, separator: char) -> Result<(u32, u32), ParsePairError> {
    let number = |s: &str| match s.parse::<u32>() {
        Ok(n) if n > 0 && s.bytes().all(|b| b.is_ascii_digit()) => Some(n),
        _ => None,
    };
    text.split_once(separator)
        .and_then(|(w, h)| Some((number(w)?, number(h)?)))
        .ok_or_else(|| ParsePairError(text.to_owned(), separator))
}

impl FromStr for Size {
    type Err = ParsePairError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        pair(text, 'x').map(|(width, height)| Self { width, height })
    }
}

impl FromStr for Aspect {
    type Err = ParsePairError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        pair(text, ':').map(|(width, height)| Self { width, height })
    }
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
as_text!(Size, Aspect);

/// A still-picture format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Lossless, with alpha.
    Png,
    /// Lossy, no alpha.
    #[serde(alias = "jpg")]
    Jpeg,
    /// Lossy or lossless, with alpha.
    Webp,
    /// Lossy, with alpha.
    Avif,
    /// Palette, still only.
    Gif,
    /// Vectors; passed on, never rendered.
    Svg,
}

impl Format {
    /// Every format, in the order they are offered.
    pub const ALL: [Self; 6] =
        [Self::Png, Self::Jpeg, Self::Webp, Self::Avif, Self::Gif, Self::Svg];

    /// The name in the API: `png`, `jpeg`, ...
    pub const fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Webp => "webp",
            Self::Avif => "avif",
            Self::Gif => "gif",
            Self::Svg => "svg",
        }
    }

    /// The file name extension, without the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            other => other.name(),
        }
    }

    /// The media type.
    pub const fn mime(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
            Self::Avif => "image/avif",
            Self::Gif => "image/gif",
            Self::Svg => "image/svg+xml",
        }
    }

    /// Whether a picture in this format may be transparent in more than one colour.
    pub const fn has_alpha(self) -> bool {
        matches!(self, Self::Png | Self::Webp | Self::Avif | Self::Svg)
    }

    /// Whether `output_compression` means anything for it.
    pub const fn is_lossy(self) -> bool {
        matches!(self, Self::Jpeg | Self::Webp | Self::Avif)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = ();

    /// Reads the API's names, and `jpg`.
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "jpg" => Ok(Self::Jpeg),
            _ => Self::ALL.into_iter().find(|f| f.name() == text).ok_or(()),
        }
    }
}

/// The size a deployment is asked for, in the vendor's own terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NativeSize {
    /// The pixels the vendor is expected to draw; the decoded picture is what is believed.
    pub size: Size,
    /// How the vendor wants to hear it.
    pub words: SizeWords,
}

/// The vendor's word for a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SizeWords {
    /// Width and height, however the wire spells them.
    Pixels,
    /// A ratio, and a resolution tier where the deployment has them.
    Ratio(Aspect, Option<String>),
    /// A preset's name.
    Preset(String),
    /// Nothing is sent: the vendor draws its own default.
    Omitted,
}
