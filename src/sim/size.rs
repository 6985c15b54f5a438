//! How a vendor is told a size, which sizes are legal, and what it then draws.

use std::collections::BTreeMap;

use providers::media::{Aspect, Size};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    data::{at, pixels},
    schema::{Violation, Wrong},
};

/// Where the size of a picture comes from. Field names are dotted.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "from", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum SizeSpec {
    /// One text, `1024x1024`.
    Text {
        field: String,
        /// What is drawn for `auto` and when nothing is said.
        default: Size,
        #[serde(default)]
        rule: Rule,
        /// A field that may give a ratio instead; the nearest legal size is drawn.
        ratio: Option<String>,
        /// Words that may stand in place of the pixels.
        #[serde(default)]
        words: BTreeMap<String, Size>,
        /// What stands between the sides.
        #[serde(default = "cross")]
        separator: String,
    },
    /// Two numbers.
    Sides {
        width: String,
        height: String,
        default: Size,
        #[serde(default)]
        rule: Rule,
        /// A field that may give a ratio instead, of the default's area.
        ratio: Option<String>,
    },
    /// A preset's name, or an object with `width` and `height`.
    Preset {
        field: String,
        default: Size,
        presets: BTreeMap<String, Size>,
        #[serde(default)]
        rule: Rule,
    },
    /// That of the first picture; nothing is asked.
    Input,
    /// A ratio, and a tier where there are such.
    Ratio {
        field: String,
        default: String,
        tier: Option<Tier>,
        /// The table that says what is drawn.
        table: Option<String>,
        /// Pixels of every picture, where there is no table.
        area: Option<u64>,
        /// What sides are then rounded to.
        #[serde(default = "sixteen")]
        step: u32,
        /// The narrowest and the widest ratio, where any between them will do.
        range: Option<[Aspect; 2]>,
        /// Bounds of `width` and `height` when the ratio or tier is `custom`.
        custom: Option<Rule>,
    },
}

/// The field of a tier.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tier {
    field: String,
    default: String,
}

fn cross() -> String {
    "x".to_owned()
}

fn sixteen() -> u32 {
    16
}

/// Which sizes are legal. What is not given is not limited.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Rule {
    /// Just these.
    sizes: Vec<Size>,
    multiple_of: Option<u32>,
    min_edge: Option<u32>,
    max_edge: Option<u32>,
    min_pixels: Option<u64>,
    max_pixels: Option<u64>,
    max_ratio: Option<u32>,
    /// Sides are rounded down to this multiple instead of being refused.
    snap: Option<u32>,
}

impl Rule {
    /// The size drawn, or why it is refused.
    fn apply(&self, size: Size) -> Result<Size, String> {
        let (short, long) = (size.width.min(size.height), size.width.max(size.height));
        let refuse = |words: String| Err(words);
        if !self.sizes.is_empty() && !self.sizes.contains(&size) {
            let names: Vec<String> = self.sizes.iter().map(Size::to_string).collect();
            return refuse(format!("must be one of {}", names.join(", ")));
        }
        if let Some(step) = self.multiple_of
            && !(size.width.is_multiple_of(step) && size.height.is_multiple_of(step))
        {
            return refuse(format!("width and height must both be divisible by {step}"));
        }
        if let Some(least) = self.min_edge.filter(|least| short < *least) {
            return refuse(format!("width and height must be at least {least}"));
        }
        if let Some(most) = self.max_edge.filter(|most| long > *most) {
            return refuse(format!("width and height must be at most {most}"));
        }
        if let Some(most) = self.max_ratio
            && u64::from(long) > u64::from(short) * u64::from(most)
        {
            return refuse(format!("the ratio must be between 1:{most} and {most}:1"));
        }
        if let Some(least) = self.min_pixels.filter(|least| size.pixels() < *least) {
            return refuse(format!("the picture must have at least {least} pixels"));
        }
        if let Some(most) = self.max_pixels.filter(|most| size.pixels() > *most) {
            return refuse(format!("the picture must have at most {most} pixels"));
        }
        let snap = self.snap.unwrap_or(1);
        let down = |side: u32| (side / snap * snap).max(snap);
        Ok(Size::new(down(size.width), down(size.height)))
    }
}

fn side(value: Option<&Value>) -> Option<u32> {
    u32::try_from(value?.as_u64()?).ok().filter(|n| *n > 0)
}

impl SizeSpec {
    /// Whether a request asks for a size, be it by ratio.
    pub(crate) fn asked(&self, object: &Map<String, Value>) -> bool {
        let said = |field: &String| {
            let word = at(object, field).and_then(Value::as_str);
            at(object, field).is_some()
                && !["auto", "match_input_image"].contains(&word.unwrap_or(""))
        };
        match self {
            Self::Input => false,
            Self::Text { field, ratio, .. } => said(field) || ratio.as_ref().is_some_and(said),
            Self::Sides { width, height, .. } => said(width) || said(height),
            Self::Preset { field, .. } | Self::Ratio { field, .. } => said(field),
        }
    }

    /// The size a request asks for.
    pub(crate) fn read(&self, object: &Map<String, Value>) -> Result<Size, Box<Violation>> {
        match self {
            Self::Input => Ok(Size::new(1, 1)),
            Self::Text { field, default, rule, ratio, words, separator } => {
                let wanted = ratio.as_ref().and_then(|field| at(object, field)?.as_str());
                // Ideogram writes a ratio like a size.
                let wanted = wanted.and_then(|text| text.replace('x', ":").parse::<Aspect>().ok());
                if let Some(aspect) = wanted {
                    return Ok(nearest(aspect, &rule.sizes).unwrap_or(*default));
                }
                let Some(given) = at(object, field) else { return Ok(*default) };
                let text = given.as_str().unwrap_or_default();
                if text == "auto" {
                    return Ok(*default);
                }
                if let Some(size) = words.get(text) {
                    return Ok(*size);
                }
                let pixels = text.replacen(separator.as_str(), "x", 1).parse();
                let size: Size = pixels.map_err(|_| {
                    let words = format!("must be WIDTH{separator}HEIGHT in pixels, or auto");
                    Box::new(Violation::rule(field, given, words))
                })?;
                rule.apply(size).map_err(|words| Box::new(Violation::rule(field, given, words)))
            }
            Self::Sides { width, height, default, rule, ratio } => {
                let wanted = ratio.as_ref().and_then(|field| at(object, field)?.as_str());
                if let Some(aspect) = wanted.and_then(|text| text.parse::<Aspect>().ok())
                    && at(object, width).or_else(|| at(object, height)).is_none()
                {
                    return Ok(of_area(default.pixels(), aspect, rule.multiple_of.unwrap_or(16)));
                }
                let asked = Size::new(
                    side(at(object, width)).unwrap_or(default.width),
                    side(at(object, height)).unwrap_or(default.height),
                );
                // Blame the side that breaks the rule, where only one does.
                let square = |side| rule.apply(Size::new(side, side)).is_err();
                let blamed =
                    if square(asked.width) || !square(asked.height) { width } else { height };
                let given = at(object, blamed).unwrap_or(&Value::Null);
                rule.apply(asked).map_err(|words| Box::new(Violation::rule(blamed, given, words)))
            }
            Self::Preset { field, default, presets, rule } => match at(object, field) {
                Some(Value::String(name)) => Ok(*presets.get(name).unwrap_or(default)),
                Some(given @ Value::Object(sides)) => {
                    let asked = Size::new(
                        side(sides.get("width")).unwrap_or(default.width),
                        side(sides.get("height")).unwrap_or(default.height),
                    );
                    rule.apply(asked)
                        .map_err(|words| Box::new(Violation::rule(field, given, words)))
                }
                _ => Ok(*default),
            },
            Self::Ratio { field, default, tier, custom, .. } => {
                let said = |field: &str| at(object, field).and_then(Value::as_str);
                let ratio = said(field).unwrap_or(default);
                let level = tier.as_ref().map(|t| said(&t.field).unwrap_or(&t.default));
                if let Some(rule) = custom
                    && (ratio == "custom" || level == Some("custom"))
                {
                    let missing = |name: &str| {
                        Box::new(Violation {
                            path: vec![name.to_owned()],
                            wrong: Wrong::Missing,
                            given: Value::Null,
                        })
                    };
                    let asked = Size::new(
                        side(at(object, "width")).ok_or_else(|| missing("width"))?,
                        side(at(object, "height")).ok_or_else(|| missing("height"))?,
                    );
                    let given = at(object, "width").unwrap_or(&Value::Null);
                    return rule
                        .apply(asked)
                        .map_err(|w| Box::new(Violation::rule("width", given, w)));
                }
                // Without a picture to match there is nothing but the default.
                let ratio =
                    if ["match_input_image", "auto"].contains(&ratio) { "1:1" } else { ratio };
                self.drawn(ratio, level).map_err(|words| {
                    Box::new(Violation::rule(
                        field,
                        at(object, field).unwrap_or(&Value::Null),
                        words,
                    ))
                })
            }
        }
    }

    fn drawn(&self, ratio: &str, level: Option<&str>) -> Result<Size, String> {
        let Self::Ratio { table, area, step, range, .. } = self else {
            return Err("has no ratios".to_owned());
        };
        // A table may have ratios that are no two whole numbers.
        if let Some(table) = table {
            return pixels(table, level, ratio)
                .ok_or_else(|| format!("is not drawn at {}", level.unwrap_or("this tier")));
        }
        let aspect: Aspect = ratio.parse().map_err(|_| "must be W:H".to_owned())?;
        if let Some([narrow, wide]) = range
            && !(narrow.ratio()..=wide.ratio()).contains(&aspect.ratio())
        {
            return Err(format!("aspect ratio must be between {narrow} and {wide}"));
        }
        Ok(of_area(area.unwrap_or(1 << 20), aspect, *step))
    }

    /// Each ratio at each tier that the fields allow, with what would be drawn. For the test
    /// that the tables have no holes.
    #[cfg(test)]
    pub(crate) fn samples(
        &self,
        fields: &super::schema::Fields,
    ) -> Vec<(String, Result<Size, String>)> {
        let Self::Ratio { field, tier, .. } = self else { return Vec::new() };
        let values = |path: &str| -> Vec<String> {
            let mut parts = path.split('.');
            let mut found = fields.get(parts.next().unwrap()).unwrap();
            for part in parts {
                found = found.fields.get(part).unwrap();
            }
            found.values.clone()
        };
        let levels: Vec<Option<String>> = match tier {
            Some(tier) => values(&tier.field).into_iter().map(Some).collect(),
            None => vec![None],
        };
        let special = |text: &str| ["match_input_image", "auto", "custom"].contains(&text);
        let ratios = values(field);
        levels
            .iter()
            .filter(|level| !level.as_deref().is_some_and(special))
            .flat_map(|level| ratios.iter().filter(|r| !special(r)).map(move |r| (level, r)))
            .map(|(level, ratio)| {
                (format!("{ratio} {level:?}"), self.drawn(ratio, level.as_deref()))
            })
            .collect()
    }
}

/// The size of a ratio that comes nearest to an area, in steps.
fn of_area(area: u64, aspect: Aspect, step: u32) -> Size {
    let step = f64::from(step);
    let round = |side: f64| ((side / step).round().max(1.0) * step) as u32;
    let width = (area as f64 * aspect.ratio()).sqrt();
    Size::new(round(width), round(width / aspect.ratio()))
}

fn nearest(aspect: Aspect, sizes: &[Size]) -> Option<Size> {
    let off = |size: &Size| (size.ratio() / aspect.ratio()).ln().abs();
    sizes.iter().min_by(|a, b| off(a).total_cmp(&off(b))).copied()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: &str, request: &Value, expected: Result<&str, &str>) {
        let spec: SizeSpec = toml::from_str(spec).unwrap();
        let found = spec.read(request.as_object().unwrap());
        match expected {
            Ok(size) => assert_eq!(found.unwrap().to_string(), size, "{request}"),
            Err(field) => assert_eq!(found.unwrap_err().dotted(), field, "{request}"),
        }
    }

    #[test]
    fn sizes_are_read_as_each_vendor_spells_them() {
        let text = "from = 'text'\nfield = 'size'\ndefault = '1024x1024'\n\
                    rule = { multiple_of = 16, max_edge = 3840, max_ratio = 3, min_pixels = 655360 }";
        check(text, &json!({}), Ok("1024x1024"));
        check(text, &json!({"size": "auto"}), Ok("1024x1024"));
        check(text, &json!({"size": "1536x1024"}), Ok("1536x1024"));
        for bad in ["1000x700", "10x", "64x64", "3856x1600", "3200x1024", "big"] {
            check(text, &json!({"size": bad}), Err("size"));
        }
        let sides = "from = 'sides'\nwidth = 'width'\nheight = 'height'\ndefault = '1024x768'\n\
                     rule = { multiple_of = 32, min_edge = 256, max_edge = 1440 }";
        check(sides, &json!({}), Ok("1024x768"));
        check(sides, &json!({"height": 1024}), Ok("1024x1024"));
        check(sides, &json!({"width": 1000}), Err("width"));
        check(sides, &json!({"height": 100}), Err("height"));
        let preset = "from = 'preset'\nfield = 'image_size'\ndefault = '1024x768'\n\
                      presets = { square = '512x512' }\nrule = { snap = 16, max_pixels = 4194304 }";
        check(preset, &json!({"image_size": "square"}), Ok("512x512"));
        check(preset, &json!({"image_size": {"width": 1000, "height": 700}}), Ok("992x688"));
        check(preset, &json!({"image_size": {"width": 4000, "height": 4000}}), Err("image_size"));
        let ratio = "from = 'ratio'\nfield = 'aspect_ratio'\ndefault = '16:9'\narea = 4194304\n\
                     step = 64\nrange = ['9:21', '21:9']\ncustom = { multiple_of = 32 }";
        check(ratio, &json!({}), Ok("2752x1536"));
        check(ratio, &json!({"aspect_ratio": "1:1"}), Ok("2048x2048"));
        check(ratio, &json!({"aspect_ratio": "3:1"}), Err("aspect_ratio"));
        check(
            ratio,
            &json!({"aspect_ratio": "custom", "width": 320, "height": 640}),
            Ok("320x640"),
        );
        check(ratio, &json!({"aspect_ratio": "custom", "width": 320}), Err("height"));
    }
}
