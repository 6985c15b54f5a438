//! How a planned call becomes a vendor's fields: the catalogue names them, this writes them.

use serde_json::{Map, Value};

use crate::{
    Call, Input, Part, PartValue,
    catalog::{Choice, InputField, InputForm, Many, SizeField, Wire},
    inlined,
    media::{NativeSize, SizeWords},
};

/// The fields of a call, without the model. Passed-through fields come first, so that what the
/// engine decided always wins.
pub fn fields(call: &Call<'_>) -> Map<String, Value> {
    let wire: &Wire = &call.deployment.wire;
    let image = call.image;
    let mut body = image.extra.clone();
    for (name, value) in &wire.usual {
        body.entry(name).or_insert_with(|| value.clone());
    }
    for (name, value) in &wire.set {
        put(&mut body, name, value.clone());
    }
    if let Some(name) = wire.prompt.as_ref().filter(|_| !image.prompt.is_empty()) {
        put(&mut body, name, image.prompt.as_str().into());
    }
    if let (Some(field), Some(size)) = (&wire.size, &image.size) {
        put_size(&mut body, field, size);
    }
    for (field, inputs) in inputs(call).filter(|(field, _)| field.form != InputForm::File) {
        put_inputs(&mut body, field, inputs);
    }
    if let (Some(name), Some(factor)) = (&wire.scale, image.scale) {
        put(&mut body, name, factor.into());
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
    let words: [(&Option<Choice>, &Option<String>); 5] = [
        (&wire.fidelity, &image.fidelity),
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

/// A number out of our name of the submit, which is as good as chance: for vendors that would take
/// the same seed each time. FNV-1a, 31 bits.
pub(crate) fn chance(call: &Call<'_>) -> Option<u64> {
    let hash = call.client_ref?.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Some(hash % 2_147_483_647)
}

/// Takes the format out of the fields: it is asked for in the `accept` header where the wire
/// calls its field so. Without one asked, it is the one the deployment gives first.
pub(crate) fn accept(call: &Call<'_>, fields: &mut Map<String, Value>) -> Option<String> {
    let named = call.deployment.wire.format.as_ref().filter(|choice| choice.field == "accept")?;
    let first = call.deployment.formats.first().and_then(|format| named.values.get(format.name()));
    match fields.remove("accept") {
        Some(Value::String(asked)) => Some(asked),
        _ => first.cloned(),
    }
}

/// The pictures of a call and its mask, each with how it is written.
fn inputs<'a>(call: &'a Call<'_>) -> impl Iterator<Item = (&'a InputField, &'a [Input])> {
    let (wire, image) = (&call.deployment.wire, call.image);
    let pairs = [(&wire.images, image.images.as_slice()), (&wire.mask, image.mask.as_slice())];
    pairs.into_iter().filter_map(|(field, inputs)| {
        field.as_ref().filter(|_| !inputs.is_empty()).map(|field| (field, inputs))
    })
}

fn put_inputs(body: &mut Map<String, Value>, field: &InputField, inputs: &[Input]) {
    let one = |input: &Input| -> Value {
        let text = input.text(field.form).into();
        match &field.item {
            None => text,
            Some(item) => Value::Object(Map::from_iter([(item.clone(), text)])),
        }
    };
    match field.many {
        Many::List => put(body, &field.field, inputs.iter().map(one).collect()),
        Many::One | Many::Repeated | Many::Numbered => {
            for (index, input) in inputs.iter().enumerate() {
                put(body, &numbered(&field.field, index), one(input));
            }
        }
    }
}

/// `image`, `image_2`, `image_3`.
fn numbered(field: &str, index: usize) -> String {
    if index == 0 { field.to_owned() } else { format!("{field}_{}", index + 1) }
}

impl Input {
    /// How it stands in a JSON body.
    pub fn text(&self, form: InputForm) -> String {
        match form {
            InputForm::DataUri => {
                format!("data:{};base64,{}", self.format.mime(), inlined(self.token))
            }
            InputForm::Base64 | InputForm::File => inlined(self.token),
            InputForm::Url => self.url.clone().unwrap_or_default(),
        }
    }

    /// How it stands in a form, under a file name of its own.
    pub fn file(&self, name: &str) -> PartValue {
        PartValue::Input {
            name: format!("{name}.{}", self.format.extension()),
            mime: self.format.mime(),
            token: self.token,
        }
    }
}

/// The same fields as parts of a form; objects and lists are written as JSON. Pictures come last.
pub fn form(call: &Call<'_>) -> Vec<Part> {
    let files = inputs(call).filter(|(field, _)| field.form == InputForm::File);
    let files = files.flat_map(|(field, inputs)| {
        inputs.iter().enumerate().map(|(index, input)| {
            let name = match field.many {
                Many::Numbered => numbered(&field.field, index),
                _ => field.field.clone(),
            };
            let stem = name.trim_end_matches("[]").to_owned();
            Part { value: input.file(&numbered(&stem, index)), name }
        })
    });
    let files: Vec<Part> = files.collect();
    fields(call)
        .into_iter()
        .map(|(name, value)| {
            let text = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
            Part { name, value: PartValue::Text(text) }
        })
        .chain(files)
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
