//! Pictures that came with a request, made into what a deployment takes: upright, without what a
//! camera wrote into them, within its limits, in a format it reads; masks in its own polarity.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use providers::{
    Input,
    catalog::{InputField, InputForm, InputRule, Task},
    media::{Format, Size},
};
use serde_json::Value;

use super::{
    Engine,
    candidate::Candidate,
    failure::{Class, Failure, INVALID_IMAGE},
    job::Job,
    outgoing::Inputs,
    picture,
    request::{Adjustment, AdjustmentKind, Given, ImageRequest},
    unix,
};
use crate::media::{
    blob::{Blob, Budget},
    convert::{self, Conversion, Pixels},
    mask::Mask,
    plan::Geometry,
    pool::Pool,
    sniff::{self, DecodeLimits, HEAD, Sniffed},
    strip,
};
use crate::{
    error::{Code, Error},
    store::ObjectMeta,
};

const IMAGE: &str = "image";
const MASK: &str = "mask";
/// Quality of a picture that must be encoded anew to be sent.
const QUALITY: u8 = 92;
/// How long a provider may fetch a picture.
const LENT: Duration = Duration::from_hours(1);
/// How often a picture that is still too large in bytes is made smaller.
const TRIES: u32 = 5;

/// What a deployment is sent of a request's pictures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared {
    /// The pictures, for the call.
    pub(crate) images: Vec<Input>,
    /// The mask, for the call.
    pub(crate) mask: Option<Input>,
    /// Their bytes.
    pub(crate) inputs: Inputs,
}

/// The size a picture is sent in.
pub(crate) fn sent_size(given: &Given, rule: &InputRule) -> Size {
    let size = given.size;
    let long = f64::from(size.width.max(size.height));
    let by_side = rule.max_side.map_or(1.0, |most| f64::from(most) / long);
    let by_pixels = rule.max_pixels.map_or(1.0, |most| (most as f64 / size.pixels() as f64).sqrt());
    scaled(size, by_side.min(by_pixels))
}

fn scaled(size: Size, factor: f64) -> Size {
    if factor >= 1.0 {
        return size;
    }
    let side = |side: u32| ((f64::from(side) * factor).floor() as u32).max(1);
    Size::new(side(size.width), side(size.height))
}

/// The format a picture is sent in.
pub(crate) fn sent_format(given: &Given, rule: &InputRule) -> Format {
    if rule.formats.contains(&given.format) {
        return given.format;
    }
    let holds = |format: &&Format| !given.has_alpha || format.has_alpha();
    let format = rule.formats.iter().find(holds).or(rule.formats.first());
    format.copied().unwrap_or(Format::Png)
}

/// What is known beforehand to differ in what is sent from what came.
pub(crate) fn foreseen(request: &ImageRequest, rule: &InputRule) -> Vec<Adjustment> {
    let mut told = Vec::new();
    for given in &request.given {
        let (size, format) = (sent_size(given, rule), sent_format(given, rule));
        if size != given.size {
            let reason = format!("the provider takes pictures up to {size} of this shape");
            told.push(Adjustment::new("image", AdjustmentKind::Resized, reason).values(
                given.size.to_string(),
                size.to_string(),
                Value::Null,
            ));
        }
        let heavy = rule.max_bytes.is_some_and(|most| given.bytes > most);
        if format != given.format || heavy {
            let reason = match rule.max_bytes.filter(|_| heavy) {
                Some(most) => format!("the provider takes pictures of up to {most} bytes"),
                None => format!("the provider does not read {}", given.format),
            };
            told.push(Adjustment::new("image", AdjustmentKind::Converted, reason).values(
                given.format.name(),
                format.name(),
                Value::Null,
            ));
        }
    }
    told
}

/// Refuses a mask that marks nothing, before anything is written down or sent.
pub(crate) async fn check_mask(
    request: &ImageRequest,
    pool: &Pool,
    limits: DecodeLimits,
) -> Result<(), Error> {
    let Some(mask) = &request.mask else { return Ok(()) };
    let marks = request.mask_marks;
    let read = work(mask, MASK, pool, move |bytes, sniffed| {
        Mask::read(&bytes, sniffed, marks.into(), &limits).map(drop).map_err(|e| e.to_string())
    });
    read.await.map_err(|failure| {
        let code = match failure.class {
            Class::Rejected => Code::InvalidImage,
            _ => Code::InternalError,
        };
        Error::new(code, failure.message).param(MASK)
    })
}

/// Makes what a deployment takes of a request's pictures.
pub(crate) async fn prepare(
    engine: &Engine,
    job: &Job,
    request: &ImageRequest,
    candidate: &Candidate,
) -> Result<Prepared, Failure> {
    let mut prepared = Prepared::default();
    let deployment = &candidate.served.deployment;
    if deployment.task == Task::ImageGenerate {
        return Ok(prepared);
    }
    let (pool, budget) = (&engine.pool, engine.transport.budget());
    let limits = picture::decode_limits(engine.settings.pictures);
    let rule = &deployment.inputs;
    let fetched = |field: &Option<InputField>| {
        field.as_ref().is_some_and(|field| field.form == InputForm::Url)
    };
    for (index, given) in request.given.iter().enumerate() {
        let made = made(given, rule, pool, budget, limits).await?;
        let mut input = named(made.format, made.size)?;
        if fetched(&deployment.wire.images) {
            input.url = Some(lent(engine, job, candidate, &made, &index.to_string()).await?);
        }
        prepared.inputs.add(input.token, made.blob);
        prepared.images.push(input);
    }
    if let (Some(given), Some(rule)) =
        (request.mask.as_ref().filter(|_| !candidate.lays), rule.mask)
    {
        let size = prepared.images.first().map_or(given.size, |first| first.size);
        let marks = request.mask_marks;
        let file = work(given, IMAGE, pool, move |bytes, sniffed| {
            let mask =
                Mask::read(&bytes, sniffed, marks.into(), &limits).map_err(|e| e.to_string())?;
            let mask = mask.resized(size).map_err(|e| e.to_string())?;
            mask.encode(rule).map_err(|e| e.to_string())
        });
        let blob = put_aside(file.await?, budget)?;
        let mut input = named(rule.format, size)?;
        let made = Made { blob, format: rule.format, size };
        if fetched(&deployment.wire.mask) {
            input.url = Some(lent(engine, job, candidate, &made, MASK).await?);
        }
        prepared.inputs.add(input.token, made.blob);
        prepared.mask = Some(input);
    }
    Ok(prepared)
}

/// Lays what was drawn over the first picture of the request, so that what its mask keeps stays.
/// `drawn` has the size that is delivered.
pub(crate) async fn laid(
    request: &ImageRequest,
    drawn: Pixels,
    pool: &Pool,
    limits: DecodeLimits,
) -> Result<Pixels, Failure> {
    let (Some(first), Some(mask)) = (request.given.first(), &request.mask) else {
        return Ok(drawn);
    };
    let size = drawn.size;
    let original = work(first, IMAGE, pool, move |bytes, sniffed| {
        let c = as_it_is(sniffed, size, Format::Png);
        let rendered = convert::render(&bytes, sniffed, &c, &limits);
        rendered.map(|(pixels, _)| pixels).map_err(|e| e.to_string())
    });
    let original = original.await?;
    let marks = request.mask_marks;
    work(mask, MASK, pool, move |bytes, sniffed| {
        let mask = Mask::read(&bytes, sniffed, marks.into(), &limits).map_err(|e| e.to_string())?;
        let mask = mask.resized(size).map_err(|e| e.to_string())?;
        mask.lay(&drawn, &original).map_err(|e| e.to_string())
    })
    .await
}

/// A link under which the provider may fetch a picture.
async fn lent(
    engine: &Engine,
    job: &Job,
    candidate: &Candidate,
    made: &Made,
    name: &str,
) -> Result<String, Failure> {
    let deployment = &candidate.served.deployment;
    let meta = ObjectMeta {
        format: made.format,
        model: deployment.model.clone(),
        provider: deployment.provider.clone(),
        deployment: deployment.slug(),
        job: job.id.clone(),
        task: job.task.clone(),
        parameters: BTreeMap::new(),
        cost_usd: None,
        seed: None,
        prompt_sha256: None,
        sha256: None,
        created: unix(SystemTime::now()),
    };
    let key = format!("inputs/{}-{name}.{}", job.id, made.format.extension());
    engine.store.lend(&key, &meta, &made.blob, LENT).await.map_err(|error| {
        tracing::error!(job = job.id, %error, "a picture could not be put where its provider fetches it");
        let message = "the picture could not be put where the provider fetches it";
        Failure::new(Class::Unavailable, "store_unavailable", message)
    })
}

/// A picture as it is sent.
struct Made {
    blob: Blob,
    format: Format,
    size: Size,
}

async fn made(
    given: &Given,
    rule: &InputRule,
    pool: &Pool,
    budget: &Arc<Budget>,
    limits: DecodeLimits,
) -> Result<Made, Failure> {
    let (size, format) = (sent_size(given, rule), sent_format(given, rule));
    let most = rule.max_bytes;
    let lossy =
        rule.formats.iter().copied().find(|f| f.is_lossy() && (!given.has_alpha || f.has_alpha()));
    let untouched = (size, format) == (given.size, given.format);
    let file = work(given, IMAGE, pool, move |bytes, sniffed| {
        let fits = |file: &Bytes| most.is_none_or(|most| file.len() as u64 <= most);
        let upright = sniffed.orientation == image::metadata::Orientation::NoTransforms;
        if untouched && upright {
            let clean = strip::strip(&bytes, format).map_err(|e| e.to_string())?;
            let clean = clean.unwrap_or(bytes.clone());
            if fits(&clean) {
                return Ok((clean, format, size));
            }
        }
        let (mut size, mut format) = (size, format);
        for round in 0..TRIES {
            let c = as_it_is(sniffed, size, format);
            let made = convert::convert(&bytes, sniffed, &c, &limits).map_err(|e| e.to_string())?;
            if fits(&made.bytes) {
                return Ok((made.bytes, format, size));
            }
            // First without what the eye does not miss, then with fewer pixels.
            match lossy.filter(|lossy| *lossy != format) {
                Some(lossy) if round == 0 => format = lossy,
                _ => size = scaled(size, 0.75),
            }
        }
        Err("it cannot be made small enough for the provider".to_owned())
    });
    let (file, format, size) = file.await?;
    Ok(Made { blob: put_aside(file, budget)?, format, size })
}

/// A conversion to a size and a format, with nothing else changed.
fn as_it_is(sniffed: &Sniffed, size: Size, format: Format) -> Conversion {
    Conversion {
        geometry: (size != sniffed.size).then_some(Geometry {
            crop: None,
            scale_to: size,
            pad: None,
            delivered: size,
        }),
        format,
        quality: QUALITY,
        webp_lossless: false,
        background: [255; 3],
        pad_transparent: false,
    }
}

/// Does pixel work on a picture of the request.
async fn work<T: Send + 'static>(
    given: &Given,
    param: &'static str,
    pool: &Pool,
    job: impl FnOnce(Bytes, &Sniffed) -> Result<T, String> + Send + 'static,
) -> Result<T, Failure> {
    let blob = given.blob.clone().ok_or_else(|| {
        // Taken over after a crash: what was sent goes on, and nothing new can be sent.
        let message = "the pictures of this request went down with the process that took them";
        Failure::new(Class::Gateway, "inputs_gone", message)
    })?;
    let unusable = |reason: String| {
        let message = format!("the {param} of the request cannot be used: {reason}");
        let failure = Failure::new(Class::Rejected, INVALID_IMAGE, message);
        Failure { param: Some(param.to_owned()), ..failure }
    };
    let head = blob.head(HEAD).map_err(|e| unusable(e.to_string()))?;
    let sniffed = sniff::sniff(&head).map_err(|e| unusable(e.to_string()))?;
    let conversion = as_it_is(&sniffed, sniffed.size, Format::Png);
    let weight = conversion.weight(&sniffed) + given.bytes;
    let done = pool.run_in_turn(conversion.lane(), weight, move || {
        let bytes = blob.to_bytes().map_err(|e| e.to_string())?;
        job(bytes, &sniffed)
    });
    let done = done.await.map_err(|_| {
        Failure::new(Class::Gateway, "internal_error", "work on a picture broke off")
    })?;
    done.map_err(unusable)
}

fn named(format: Format, size: Size) -> Result<Input, Failure> {
    let token = getrandom::u64().map_err(|_| {
        Failure::new(Class::Gateway, "internal_error", "no random numbers are to be had")
    })?;
    Ok(Input { token, format, size, url: None })
}

fn put_aside(file: Bytes, budget: &Arc<Budget>) -> Result<Blob, Failure> {
    Blob::within(file, budget).map_err(|_| {
        Failure::new(Class::Gateway, "internal_error", "a picture could not be put aside")
    })
}
