//! The pictures a request brings: where a family takes them, what it refuses, and what is to be
//! done with them. Transcribed from the vendors' documentation like the rest of `data/`.

use std::sync::Arc;

use bytes::Bytes;
use image::DynamicImage;
use providers::media::{Format, Size};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    data::at,
    form::Part,
    picture::{Content, Does, File, Flaw, Polarity, Raw, Work, read},
    schema::{Field, Fields, Kind, Violation, Wrong},
};

/// Where a family takes pictures, and which.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Takes {
    /// The field, or the name of a form's files.
    pub field: String,
    /// The name of its files where it takes forms, too.
    file: Option<String>,
    /// The field of the object that each stands in.
    item: Option<String>,
    /// How one is written.
    #[serde(default)]
    written: Written,
    /// How several are.
    #[serde(default)]
    many: Many,
    /// Most of them.
    #[serde(default = "one")]
    max: usize,
    /// Whether nothing is done without one.
    #[serde(default)]
    required: bool,
    /// What the family does with them.
    #[serde(default)]
    does: Does,
    /// The formats it reads.
    #[serde(default = "usual_formats")]
    formats: Vec<Format>,
    max_bytes: Option<usize>,
    max_pixels: Option<u64>,
    /// Most pixels of all pictures and the drawn one.
    max_pixels_in_all: Option<u64>,
    max_side: Option<u32>,
    min_side: Option<u32>,
    /// The mask, where it takes one.
    mask: Option<Mask>,
}

/// Where a family takes a mask, and what it means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mask {
    field: String,
    item: Option<String>,
    edits: Polarity,
    #[serde(default)]
    required: bool,
    /// Nothing between black and white.
    #[serde(default)]
    binary: bool,
    /// Any size will do: it is scaled.
    #[serde(default)]
    scaled: bool,
    max_bytes: Option<usize>,
}

fn one() -> usize {
    1
}

fn usual_formats() -> Vec<Format> {
    vec![Format::Png, Format::Jpeg, Format::Webp]
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Written {
    /// A data URI, or an address.
    #[default]
    Uri,
    /// Nothing but base64, or an address.
    Base64,
    /// A file of a form.
    File,
    /// The dialect finds them.
    Parts,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Many {
    #[default]
    One,
    List,
    /// `input_image`, `input_image_2`, ...
    Numbered,
}

/// How the answer's size follows from the first picture's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Follow {
    /// About so many pixels, at its ratio.
    area: Option<u64>,
    /// What sides are then rounded to.
    #[serde(default = "dot")]
    step: u32,
    /// How much larger, unless the field says otherwise.
    #[serde(default = "dot")]
    factor: u32,
    factor_field: Option<String>,
    /// Whatever size is asked.
    #[serde(default)]
    pub always: bool,
}

fn dot() -> u32 {
    1
}

impl Follow {
    /// The size drawn from a picture.
    pub(crate) fn size(&self, picture: Size, object: &Map<String, Value>) -> Size {
        let said = self.factor_field.as_ref().and_then(|field| at(object, field));
        let asked = said.and_then(|value| match value {
            Value::String(text) => text.trim_end_matches('x').parse().ok(),
            other => other.as_f64(),
        });
        let mut scale = asked.unwrap_or_else(|| f64::from(self.factor));
        if let Some(area) = self.area {
            scale *= (area as f64 / picture.pixels() as f64).sqrt();
        }
        let step = f64::from(self.step);
        let side = |side: u32| ((f64::from(side) * scale / step).round().max(1.0) * step) as u32;
        Size::new(side(picture.width), side(picture.height))
    }
}

impl Takes {
    /// Whether nothing is drawn without a picture.
    pub(crate) fn is_required(&self) -> bool {
        self.required
    }

    /// Adds the fields of pictures and mask to those that a family describes itself.
    pub(crate) fn describe(&self, fields: &mut Fields) {
        if matches!(self.written, Written::File | Written::Parts) {
            return;
        }
        let mut add = |name: String, field: Field| {
            fields.entry(name).or_insert(field);
        };
        let single = |item: Option<&String>, required: bool| {
            let text = Field { required, nullable: !required, ..Field::of(Kind::String) };
            match item {
                None => text,
                Some(item) => {
                    let inner = Field { required: true, ..Field::of(Kind::String) };
                    let fields = Fields::from([(item.clone(), inner)]);
                    Field { required, fields, ..Field::of(Kind::Object) }
                }
            }
        };
        match self.many {
            Many::One => add(self.field.clone(), single(self.item.as_ref(), self.required)),
            Many::List => {
                let items = Field { nullable: false, ..single(self.item.as_ref(), false) };
                let list = Field {
                    required: self.required,
                    min: self.required.then_some(1.0),
                    max: Some(self.max as f64),
                    items: Some(Box::new(items)),
                    ..Field::of(Kind::Array)
                };
                add(self.field.clone(), list);
            }
            Many::Numbered => {
                for index in 0..self.max {
                    add(numbered(&self.field, index), single(None, self.required && index == 0));
                }
            }
        }
        if let Some(mask) = &self.mask {
            add(mask.field.clone(), single(mask.item.as_ref(), mask.required));
        }
    }

    /// The pictures in a checked object.
    pub(crate) fn lift(&self, object: &Map<String, Value>) -> Vec<Raw> {
        let mut raws = Vec::new();
        if matches!(self.written, Written::File | Written::Parts) {
            return raws;
        }
        let mut add = |mut path: Vec<String>, value: &Value, item: Option<&String>, mask: bool| {
            let text = item.map_or(Some(value), |item| value.get(item)).and_then(Value::as_str);
            path.extend(item.cloned());
            if let Some(text) = text {
                let content = match self.written {
                    Written::Base64 => Content::Base64(text.to_owned()),
                    _ => Content::Uri(text.to_owned()),
                };
                raws.push(Raw { path, mask, content, kind: None });
            }
        };
        let item = self.item.as_ref();
        match self.many {
            Many::List => {
                let list = at(object, &self.field).and_then(Value::as_array);
                for (index, value) in list.into_iter().flatten().enumerate() {
                    add(vec![self.field.clone(), index.to_string()], value, item, false);
                }
            }
            Many::One | Many::Numbered => {
                for index in 0..self.max {
                    let name = numbered(&self.field, index);
                    if let Some(value) = at(object, &name) {
                        add(vec![name], value, item, false);
                    }
                }
            }
        }
        if let Some(mask) = &self.mask
            && let Some(value) = at(object, &mask.field)
        {
            add(vec![mask.field.clone()], value, mask.item.as_ref(), true);
        }
        raws
    }

    /// A file of a form, if it is a picture's or the mask's.
    pub(crate) fn file(&self, name: &str, bytes: &[u8], kind: Option<&String>) -> Option<Raw> {
        let mask = self.mask.as_ref().is_some_and(|mask| mask.field == name);
        let own = self.file.as_ref().unwrap_or(&self.field);
        let named = name == own || name == format!("{own}[]");
        (mask || named).then(|| Raw {
            path: vec![name.to_owned()],
            mask,
            content: Content::Bytes(Bytes::copy_from_slice(bytes)),
            kind: kind.cloned(),
        })
    }

    /// A picture that the dialect found.
    pub(crate) fn part(path: Vec<String>, data: &str, kind: &str) -> Raw {
        let content = Content::Base64(data.to_owned());
        Raw { path, mask: false, content, kind: Some(kind.to_owned()) }
    }

    /// Reads and checks the pictures.
    pub(crate) fn work(&self, raws: Vec<Raw>) -> Result<Option<Arc<Work>>, Vec<Violation>> {
        let missing = |field: &str| {
            let wrong = Wrong::Missing;
            vec![Violation { path: vec![field.to_owned()], wrong, given: Value::Null }]
        };
        let (masks, raws): (Vec<_>, Vec<_>) = raws.into_iter().partition(|raw| raw.mask);
        if raws.len() > self.max {
            let (path, wrong) = (vec![self.field.clone()], Wrong::Long(self.max));
            return Err(vec![Violation { path, wrong, given: raws.len().into() }]);
        }
        let mut pictures = Vec::new();
        for raw in &raws {
            pictures.push(self.picture(raw).map_err(|flaw| vec![flawed(raw, flaw)])?.0);
        }
        let pixels = pictures.iter().map(|file| file.size.pixels()).sum();
        let Some(picture) = pictures.into_iter().next() else {
            return match masks.first() {
                _ if self.required => Err(missing(&self.field)),
                Some(mask) => Err(vec![flawed(mask, Flaw::MaskAlone)]),
                None => Ok(None),
            };
        };
        let mask = match (&self.mask, masks.first()) {
            (Some(rule), Some(raw)) => {
                let file = rule.read(self, raw, picture.size);
                Some((file.map_err(|flaw| vec![flawed(raw, flaw)])?, rule.edits))
            }
            (Some(rule), None) if rule.required => return Err(missing(&rule.field)),
            _ => None,
        };
        Ok(Some(Arc::new(Work { picture, pixels, mask, does: self.does })))
    }

    /// Whether pictures and the drawn one are too many pixels together.
    pub(crate) fn too_much(&self, work: &Work, drawn: Size) -> Option<Violation> {
        let most = self.max_pixels_in_all?;
        let flaw = Flaw::Large(format!("{most} pixels of all images and the drawn one"));
        let path = vec![self.field.clone()];
        (work.pixels + drawn.pixels() > most).then(|| Violation {
            path,
            wrong: Wrong::Picture(flaw),
            given: Value::Null,
        })
    }

    fn picture(&self, raw: &Raw) -> Result<(File, DynamicImage), Flaw> {
        let (file, pixels) = read(raw, &self.formats, self.max_bytes)?;
        let size = file.size;
        if let Some(most) = self.max_pixels.filter(|most| size.pixels() > *most) {
            return Err(Flaw::Large(format!("{most} pixels")));
        }
        if let Some(most) = self.max_side.filter(|most| size.width.max(size.height) > *most) {
            return Err(Flaw::Large(format!("{most} pixels a side")));
        }
        if let Some(least) = self.min_side.filter(|least| size.width.min(size.height) < *least) {
            return Err(Flaw::Small(least));
        }
        Ok((file, pixels))
    }
}

impl Mask {
    fn read(&self, takes: &Takes, raw: &Raw, picture: Size) -> Result<File, Flaw> {
        let formats =
            if self.edits == Polarity::Transparent { &[Format::Png][..] } else { &takes.formats };
        let (file, pixels) = read(raw, formats, self.max_bytes.or(takes.max_bytes))?;
        if self.edits == Polarity::Transparent && !pixels.color().has_alpha() {
            return Err(Flaw::MaskAlpha);
        }
        if !self.scaled && file.size != picture {
            return Err(Flaw::MaskSize(file.size, picture));
        }
        let pure = |value: &u8| *value == 0 || *value == 255;
        if self.binary && !pixels.to_luma8().iter().all(pure) {
            return Err(Flaw::MaskGrey);
        }
        Ok(file)
    }
}

/// A form's texts and pictures.
type Sorted = (Vec<(String, String)>, Vec<Raw>);

/// A form's texts and pictures; any other file is a field nobody knows.
pub(crate) fn sort(takes: Option<&Takes>, parts: &[Part<'_>]) -> Result<Sorted, Vec<Violation>> {
    let (mut texts, mut raws) = (Vec::new(), Vec::new());
    let wrong = |part: &Part<'_>, wrong: Wrong| {
        vec![Violation { path: vec![part.name.clone()], wrong, given: Value::Null }]
    };
    for part in parts {
        if part.file.is_some() {
            let raw =
                takes.and_then(|takes| takes.file(&part.name, part.content, part.kind.as_ref()));
            raws.push(raw.ok_or_else(|| wrong(part, Wrong::Unknown))?);
        } else {
            let text = String::from_utf8(part.content.to_vec())
                .map_err(|_| wrong(part, Wrong::Type(Kind::String)))?;
            texts.push((part.name.clone(), text));
        }
    }
    Ok((texts, raws))
}

/// `name`, `name_2`, `name_3`.
fn numbered(name: &str, index: usize) -> String {
    if index == 0 { name.to_owned() } else { format!("{name}_{}", index + 1) }
}

fn flawed(raw: &Raw, flaw: Flaw) -> Violation {
    let given = match &raw.content {
        Content::Uri(text) | Content::Base64(text) => text.chars().take(48).collect::<String>(),
        Content::Bytes(_) => String::new(),
    };
    Violation { path: raw.path.clone(), wrong: Wrong::Picture(flaw), given: given.into() }
}
