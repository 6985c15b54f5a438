//! How a planned call becomes a vendor's fields: the catalogue names them, this writes them.

use serde_json::{Map, Value};

use crate::{
    Call, Part, PartValue,
    catalog::{Choice, SizeField, Wire},
    media::{NativeSize, SizeWords},
};

/// The fields of a call, without the model. Passed-through fields come first, so that what the
/// engine decided always wins.
pub fn fields(call: &Call<'_>) -> Map<String, Value> {
    let wire: &Wire = &call.deployment.wire;
    let image = call.image;
    let mut body = image.extra.clone();
    for (name, value) in &wire.set {
        put(&mut body, name, value.clone());
    }
    if let Some(name) = &wire.prompt {
        put(&mut body, name, image.prompt.as_str().into());
    }
    if let (Some(field), Some(size)) = (&wire.size, &image.size) {
        put_size(&mut body, field, size);
    }
    if let Some(name) = wire.n.as_ref().filter(|_| image.n > 1) {
        put(&mut body, name, image.n.into());
    }
    if let (Some(name), Some(seed)) = (&wire.seed, image.seed) {
        put(&mut body, name, seed.into());
    }
    if let (Some(name), Some(text)) = (&wire.negative_prompt, &image.negative_prompt) {
        put(&mut body, name, text.as_str().into());
    }
    if let (Some(choice), Some(format)) = (&wire.format, image.format)
        && let Some(word) = choice.values.get(format.name())
    {
        put(&mut body, &choice.field, word.as_str().into());
        if let (Some(name), Some(quality)) = (&wire.compression, image.compression) {
            put(&mut body, name, quality.into());
        }
    }
    let words: [(&Option<Choice>, &Option<String>); 4] = [
        (&wire.quality, &image.quality),
        (&wire.background, &image.background),
        (&wire.moderation, &image.moderation),
        (&wire.style, &image.style),
    ];
    for (choice, word) in words {
        if let (Some(choice), Some(word)) = (choice, word)
            && !choice.field.is_empty()
        {
            put(&mut body, &choice.field, word.as_str().into());
        }
    }
    if let (Some(name), Some(user)) = (&wire.user, &image.user) {
        put(&mut body, name, user.as_str().into());
    }
    body
}

/// The same fields as parts of a form; objects and lists are written as JSON.
pub fn form(call: &Call<'_>) -> Vec<Part> {
    fields(call)
        .into_iter()
        .map(|(name, value)| {
            let text = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
            Part { name, value: PartValue::Text(text) }
        })
        .collect()
}

fn put_size(body: &mut Map<String, Value>, field: &SizeField, native: &NativeSize) {
    let size = native.size;
    match (field, &native.words) {
        (SizeField::Text { field, separator }, SizeWords::Pixels) => {
            put(body, field, format!("{}{separator}{}", size.width, size.height).into());
        }
        (SizeField::Sides { width, height }, SizeWords::Pixels) => {
            put(body, width, size.width.into());
            put(body, height, size.height.into());
        }
        (SizeField::Ratio { field, separator, tier }, SizeWords::Ratio(aspect, named)) => {
            put(body, field, format!("{}{separator}{}", aspect.width, aspect.height).into());
            if let (Some(tier), Some(name)) = (tier, named) {
                put(body, tier, name.as_str().into());
            }
        }
        (SizeField::Preset { field }, SizeWords::Preset(name)) => {
            put(body, field, name.as_str().into());
        }
        // A rule and a wire that do not fit are refused when the catalogue is read.
        _ => {}
    }
}

/// Sets a field; each dot in its name goes one object deeper.
pub fn put(body: &mut Map<String, Value>, name: &str, value: Value) {
    match name.split_once('.') {
        None => {
            body.insert(name.to_owned(), value);
        }
        Some((outer, inner)) => {
            let slot = body.entry(outer).or_insert_with(|| Value::Object(Map::new()));
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            if let Value::Object(map) = slot {
                put(map, inner, value);
            }
        }
    }
}
