//! What a finished attempt holds: pictures, or where they are, and what was counted. All of it
//! can be written down and read back, for a paid output must outlive the process.

use serde::{Deserialize, Serialize};

use crate::money::Money;

/// What a finished attempt holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The pictures, in the vendor's order. Never empty.
    pub pictures: Vec<Picture>,
    /// What the vendor counted.
    pub usage: Usage,
    /// The quality level the vendor says it used, where `auto` was asked.
    pub quality: Option<String>,
}

/// One picture of an output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    /// The bytes, or where they are.
    pub source: Source,
    /// The seed it was drawn with, if the vendor says so.
    pub seed: Option<u64>,
    /// The prompt as the vendor rewrote it.
    pub revised_prompt: Option<String>,
    /// Set where the vendor delivered a blackened or blurred picture in place of refused content.
    pub withheld: bool,
}

impl Picture {
    /// A picture with nothing said about it.
    pub fn new(source: Source) -> Self {
        Self { source, seed: None, revised_prompt: None, withheld: false }
    }

    /// One of several pictures that was refused for its content, with nothing in its place.
    pub(crate) fn refused() -> Self {
        Self { withheld: true, ..Self::new(Source::Base64(String::new())) }
    }
}

/// Where a picture's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Base64 text of a reply, short enough not to be lifted.
    Base64(String),
    /// A blob of the reply this output was read from: gone with it.
    Blob(usize),
    /// To be downloaded, without the key.
    Url(String),
}

impl Source {
    /// What a reply's base64 or data URI field holds: a lifted blob or the text itself.
    pub fn inline(text: &str) -> Self {
        if let Some(index) = text.strip_prefix("\u{1}blob:").and_then(|n| n.parse().ok()) {
            return Self::Blob(index);
        }
        match text.split_once(";base64,") {
            Some((head, data)) if head.starts_with("data:") => Self::Base64(data.to_owned()),
            _ => Self::Base64(text.to_owned()),
        }
    }

    /// The picture of an item that has a field for base64 and one for a URL, either of which may
    /// be filled.
    pub(crate) fn of(data: Option<&str>, url: Option<&str>) -> Option<Self> {
        let filled = |text: &&str| !text.is_empty();
        let inline = data.filter(filled).map(Self::inline);
        inline.or_else(|| url.filter(filled).map(Self::link))
    }

    /// What a reply's URL field holds: data URIs are taken inline.
    pub fn link(text: &str) -> Self {
        if text.starts_with("data:") || text.starts_with('\u{1}') {
            Self::inline(text)
        } else {
            Self::Url(text.to_owned())
        }
    }
}

/// What the vendor counted, where it counts tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Tokens of the prompt's text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_input_tokens: Option<u64>,
    /// Tokens of input pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_input_tokens: Option<u64>,
    /// Tokens of text written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_output_tokens: Option<u64>,
    /// Tokens of pictures drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_output_tokens: Option<u64>,
    /// What the vendor says it bills us for this call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub billed: Option<Money>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifted;

    #[test]
    fn inline_sources_are_recognised() {
        assert_eq!(Source::inline(&lifted(3)), Source::Blob(3));
        assert_eq!(Source::inline("data:image/png;base64,AAAA"), Source::Base64("AAAA".into()));
        assert_eq!(Source::link("https://x.example/a"), Source::Url("https://x.example/a".into()));
        assert_eq!(Source::link("data:image/png;base64,AAAA"), Source::Base64("AAAA".into()));
    }

    #[test]
    fn outputs_are_written_down_and_read_back() {
        let output = Output {
            pictures: vec![
                Picture {
                    seed: Some(u64::MAX),
                    revised_prompt: Some("a teapot".into()),
                    withheld: true,
                    ..Picture::new(Source::Url("https://x.example/a".into()))
                },
                Picture::new(Source::Base64("AAAA".into())),
                Picture::new(Source::Blob(3)),
            ],
            usage: Usage {
                image_output_tokens: Some(1056),
                billed: Some(Money::from_nanos(1)),
                ..Usage::default()
            },
            quality: Some("high".into()),
        };
        let text = serde_json::to_string(&output).unwrap();
        assert!(text.contains(r#""usage":{"image_output_tokens":1056,"billed":"0.000000001"}"#));
        assert_eq!(serde_json::from_str::<Output>(&text).unwrap(), output);
    }
}
