//! Pictures that came with a request, made into what a deployment takes: upright, without what a
//! camera wrote into them, within its limits, in a format it reads; masks in its own polarity.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use image::metadata::Orientation;
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
    convert::{self, Conversion},
    mask::Mask,
    plan::Geometry,
    pool::{Lane, Pool},
    sniff::{self, DecodeLimits, HEAD, SniffError, Sniffed, TAIL},
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

/// Looks at a picture that came: what it is, and that it is a whole, still picture within limits.
pub(crate) async fn look(
    engine: &Engine,
    blob: Blob,
    sha256: String,
    param: &'static str,
) -> Result<Given, Error> {
    let invalid = |message: String| Error::new(Code::InvalidImage, message).param(param);
    let limits = picture::decode_limits(engine.settings.pictures);
    let (bytes, source) = (blob.media_len(), blob.clone());
    // What tells the orientation may stand at the end: the whole file is read. It is only looked
    // through, so its bytes are all that is held.
    let looked = engine.pool.run_in_turn(Lane::Normal, bytes, move || {
        let file = source.to_bytes().map_err(|e| Looked::Damaged(e.to_string()))?;
        let sniffed = sniff::sniff_within(&file, &limits).map_err(|error| match error {
            SniffError::TooLarge { .. } => Looked::TooLarge(error.to_string()),
            other => Looked::Damaged(other.to_string()),
        })?;
        let tail = &file[file.len().saturating_sub(TAIL)..];
        let head = &file[..file.len().min(HEAD)];
        let whole = sniff::is_complete(sniffed.format, bytes, head, tail)
            // Phones append a film to a photograph: its end is not that of the file.
            || matches!(strip::strip(&file, sniffed.format), Ok(Some(_)));
        Ok::<_, Looked>((sniffed, whole))
    });
    let (sniffed, whole) = match looked.await.map_err(Error::internal)? {
        Ok(found) => found,
        Err(Looked::TooLarge(said)) => {
            return Err(Error::new(Code::ImageTooLarge, said).param(param));
        }
        Err(Looked::Damaged(said)) => return Err(invalid(format!("{param}: {said}"))),
    };
    if matches!(sniffed.format, Format::Avif | Format::Svg) {
        let message = format!("{param} is {}; send png, jpeg, webp or gif", sniffed.format);
        return Err(invalid(message));
    }
    if !whole {
        let message = format!("{param} is cut off: the file ends before the picture does");
        return Err(invalid(message));
    }
    if sniffed.animated {
        return Err(invalid(format!("{param} has more than one frame; send a still picture")));
    }
    Ok(Given {
        format: sniffed.format,
        size: sniffed.size,
        has_alpha: sniffed.has_alpha,
        bytes,
        sha256,
        blob: Some(blob),
    })
}

/// Why a picture that came is of no use.
enum Looked {
    TooLarge(String),
    Damaged(String),
}

/// Refuses a mask that marks nothing, before anything is written down or sent.
pub(crate) async fn check_mask(
    request: &ImageRequest,
    pool: &Pool,
    limits: DecodeLimits,
) -> Result<(), Error> {
    let Some(mask) = &request.mask else { return Ok(()) };
    let marks = request.mask_marks;
    let read = work(mask, MASK, pool, heavy(mask), move |bytes, sniffed| {
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
        let file = work(given, MASK, pool, heavy(given), move |bytes, sniffed| {
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
    let fits = move |file: &Bytes| most.is_none_or(|most| file.len() as u64 <= most);
    if (size, format) == (given.size, given.format) {
        let clean = work(given, IMAGE, pool, 2 * given.bytes, move |bytes, sniffed| {
            if sniffed.orientation != Orientation::NoTransforms {
                return Ok(None);
            }
            let clean = strip::strip(&bytes, format).map_err(|e| e.to_string())?;
            Ok(Some(clean.unwrap_or(bytes)).filter(fits))
        });
        if let Some(clean) = clean.await? {
            return Ok(Made { blob: put_aside(clean, budget)?, format, size });
        }
    }
    let file = work(given, IMAGE, pool, heavy(given), move |bytes, sniffed| {
        let (mut size, mut format) = (size, format);
        for round in 0..TRIES {
            let c = as_it_is(sniffed, size, format);
            let made = convert::convert(&bytes, sniffed, &c, &limits).map_err(|e| e.to_string())?;
            if fits(&made.bytes) {
                return Ok(Some((made.bytes, format, size)));
            }
            // First without what the eye does not miss, then with fewer pixels.
            match lossy.filter(|lossy| *lossy != format) {
                Some(lossy) if round == 0 => format = lossy,
                _ => {
                    let share = most.unwrap_or(u64::MAX) as f64 / made.bytes.len() as f64;
                    size = scaled(size, share.sqrt() * 0.95);
                }
            }
        }
        Ok(None)
    });
    let (file, format, size) = file.await?.ok_or_else(|| {
        let message = "a picture of the request cannot be made small enough for the provider";
        let failure = Failure::new(Class::Unsupported, "image_too_heavy", message);
        Failure { param: Some(IMAGE.to_owned()), ..failure }
    })?;
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

/// A picture of the request, to be read on the pool.
#[derive(Clone, Debug)]
pub(crate) struct GivenBytes {
    blob: Blob,
    size: Size,
}

/// The bytes of a picture that came along.
pub(crate) fn bytes_of(given: &Given) -> Result<GivenBytes, Failure> {
    let blob = given.blob.clone().ok_or_else(|| {
        // Taken over after a crash: what was sent goes on, and nothing new can be sent.
        let message = "the pictures of this request went down with the process that took them; \
                       send it again";
        Failure::new(Class::Unwritten, "inputs_gone", message)
    })?;
    Ok(GivenBytes { blob, size: given.size })
}

impl GivenBytes {
    /// Bytes its pixels take, decoded.
    pub(crate) fn decoded_bytes(&self) -> u64 {
        self.size.pixels() * 4
    }

    /// The file, and what it is. What its head says was held against the limits when it came.
    pub(crate) fn read(&self) -> Result<(Bytes, Sniffed), String> {
        let bytes = self.blob.to_bytes().map_err(|e| e.to_string())?;
        let sniffed = sniff::sniff_within(&bytes, &ANY).map_err(|e| e.to_string())?;
        Ok((bytes, sniffed))
    }
}

/// No limits: those that count are asked where a picture is let in, and where one is decoded.
const ANY: DecodeLimits =
    DecodeLimits { max_pixels: u64::MAX, max_side: u32::MAX, max_bytes: u64::MAX };

/// Does work on a picture of the request, holding `weight` bytes.
async fn work<T: Send + 'static>(
    given: &Given,
    param: &'static str,
    pool: &Pool,
    weight: u64,
    job: impl FnOnce(Bytes, &Sniffed) -> Result<T, String> + Send + 'static,
) -> Result<T, Failure> {
    let unusable = |reason: String| {
        let message = format!("the {param} of the request cannot be used: {reason}");
        let failure = Failure::new(Class::Rejected, INVALID_IMAGE, message);
        Failure { param: Some(param.to_owned()), ..failure }
    };
    let source = bytes_of(given)?;
    let done = pool.run_in_turn(Lane::Normal, weight, move || {
        let (bytes, sniffed) = source.read()?;
        job(bytes, &sniffed)
    });
    let done = done.await.map_err(|_| {
        Failure::new(Class::Gateway, "internal_error", "work on a picture broke off")
    })?;
    done.map_err(unusable)
}

/// Bytes held while a picture is decoded and encoded anew.
fn heavy(given: &Given) -> u64 {
    given.bytes + given.size.pixels() * 8
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
