//! The catalogue held against the simulator's own data: both were transcribed by themselves,
//! so where they agree both are probably right.

use std::{collections::BTreeSet, io::Cursor};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use image::{DynamicImage, GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use providers::{
    Body, Call, ImageCall, Input, PartValue, Step, adapter,
    catalog::{Catalog, Deployment, MaskArea, SizeRule, Task},
    inlined,
    media::{Format, NativeSize, Size, SizeWords},
};
use serde_json::{Map, Value};

use super::{
    commission::accepted,
    dashscope,
    data::{Order, VendorData},
    form,
    gemini::{camel, pictures},
    given::sort,
    picture::{Does, Work},
    prodia,
    schema::{self, Violation},
    vendor::Vendor,
};

/// Sizes worth asking a deployment for: all that a list has, the corners of a grid.
fn sizes(deployment: &Deployment) -> Vec<Option<NativeSize>> {
    let mut sizes: Vec<Option<NativeSize>> =
        deployment.size.finite().into_iter().map(Some).collect();
    if let SizeRule::Grid { multiple_of, min, max, .. } = &deployment.size {
        let step = *multiple_of;
        let sides = [*min, 512, 768, 1024, 1536, 2048, *max].map(|s| s.div_ceil(step) * step);
        for width in sides {
            for height in sides {
                let size = Size::new(width, height);
                if deployment.size.on_grid(size) {
                    sizes.push(Some(NativeSize { size, words: SizeWords::Pixels }));
                }
            }
        }
    }
    sizes.push(None);
    sizes
}

/// The pictures and the mask of a row, small, and what of the first one the mask means: its left
/// half.
struct Given {
    images: Vec<Input>,
    mask: Option<Input>,
    files: Vec<(u64, Bytes)>,
}

const PICTURE: Size = Size { width: 96, height: 64 };

impl Given {
    fn of(deployment: &Deployment) -> Self {
        let mut given = Self { images: Vec::new(), mask: None, files: Vec::new() };
        if deployment.task == Task::ImageGenerate {
            return given;
        }
        let rule = &deployment.inputs;
        for index in 0..rule.images.min(3) {
            let pixels = RgbImage::from_fn(PICTURE.width, PICTURE.height, |x, y| {
                Rgb([x as u8, y as u8, index as u8])
            });
            let input = given.add(&pixels.into());
            given.images.push(input);
        }
        if let Some(mask) = &rule.mask {
            let pixels: DynamicImage = match mask.edits {
                MaskArea::Transparent => {
                    RgbaImage::from_fn(PICTURE.width, PICTURE.height, |x, _| {
                        Rgba([0, 0, 0, if x < PICTURE.width / 2 { 0 } else { 255 }])
                    })
                    .into()
                }
                polarity => GrayImage::from_fn(PICTURE.width, PICTURE.height, |x, _| {
                    let white = (x < PICTURE.width / 2) == (polarity == MaskArea::White);
                    Luma([if white { 255 } else { 0 }])
                })
                .into(),
            };
            given.mask = Some(given.add(&pixels));
        }
        given
    }

    fn add(&mut self, pixels: &DynamicImage) -> Input {
        let mut file = Cursor::new(Vec::new());
        pixels.write_to(&mut file, image::ImageFormat::Png).unwrap();
        let token = 0x5eed + self.files.len() as u64;
        self.files.push((token, file.into_inner().into()));
        Input { token, format: Format::Png, size: PICTURE, url: None }
    }

    fn works(&self) -> bool {
        !self.images.is_empty()
    }

    /// Whether the simulator sees the first picture, the task and the mask as they were meant.
    fn understood(&self, deployment: &Deployment, work: Option<&Work>) -> Result<(), String> {
        let Some(work) = work else {
            return if self.works() { Err("sees no picture".to_owned()) } else { Ok(()) };
        };
        let (_, first) = self.files.first().ok_or("sees a picture that was not sent")?;
        let does = match deployment.task {
            Task::ImageVariation => Does::Vary,
            Task::ImageUpscale => Does::Enlarge,
            Task::ImageRemoveBackground => Does::Cut,
            _ => Does::Edit,
        };
        if work.picture.bytes != *first || work.does != does {
            return Err(format!("does {:?} with some other picture", work.does));
        }
        let all = PICTURE.pixels() * self.images.len() as u64;
        if work.pixels != all {
            return Err(format!("sees {} pixels, not {all}", work.pixels));
        }
        let edited = work.edited()?.map(|(_, amounts)| (amounts[0], *amounts.last().unwrap()));
        let meant = self.mask.as_ref().map(|_| (255, 0));
        if edited == meant { Ok(()) } else { Err(format!("edits {edited:?}, not {meant:?}")) }
    }

    /// A body of JSON with the pictures in their places.
    fn filled(&self, body: &[u8]) -> Map<String, Value> {
        let mut text = String::from_utf8(body.to_vec()).unwrap();
        for (token, file) in &self.files {
            let place = inlined(*token).replace('\u{1}', "\\u0001");
            text = text.replace(&place, &STANDARD.encode(file));
        }
        serde_json::from_str(&text).unwrap()
    }

    /// A form as it is sent.
    fn form(&self, parts: Vec<providers::Part>) -> Vec<u8> {
        let mut out = Vec::new();
        for part in parts {
            let head = format!("--B\r\ncontent-disposition: form-data; name=\"{}\"", part.name);
            out.extend_from_slice(head.as_bytes());
            let file = |mime: &str| format!("; filename=\"f\"\r\ncontent-type: {mime}");
            let (more, data) = match part.value {
                PartValue::Text(text) => (String::new(), Bytes::from(text)),
                PartValue::File { mime, data, .. } => (file(mime), data),
                PartValue::Input { mime, token, .. } => {
                    let found = self.files.iter().find(|(t, _)| *t == token).unwrap();
                    (file(mime), found.1.clone())
                }
            };
            out.extend_from_slice(format!("{more}\r\n\r\n").as_bytes());
            out.extend_from_slice(&data);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"--B--\r\n");
        out
    }
}

/// The factors worth asking for.
fn scales(deployment: &Deployment) -> Vec<Option<u32>> {
    let factors = deployment.inputs.factors.iter().copied().map(Some);
    if deployment.wire.scale.is_some() { factors.chain([None]).collect() } else { vec![None] }
}

/// What the simulator makes of a request that the adapter builds.
fn ordered(
    vendor: Vendor,
    deployment: &Deployment,
    image: &ImageCall,
    given: &Given,
    hosts: &[String],
) -> Result<Order, String> {
    let dialect = match vendor {
        Vendor::OpenAi | Vendor::Azure | Vendor::Together => "openai",
        other => other.name(),
    };
    let call = Call {
        deployment,
        base_url: "https://vendor.example/v1",
        hosts,
        upstream: &deployment.upstream,
        image,
        client_ref: Some("af6dcea5-2c5c-4d3c-a2b1-51ff1d5d7b40"),
        callback_url: None,
        callback_secret: None,
    };
    let step = adapter(dialect).unwrap().begin(&call).map_err(|e| format!("{e:?}"))?;
    let Step::Send { request, .. } = step else { return Err("nothing is sent".to_owned()) };
    let data = VendorData::of(vendor);
    let family = match deployment.task {
        Task::ImageGenerate => data.model(&deployment.upstream),
        _ => data.worker(&deployment.upstream),
    };
    let family = family.ok_or_else(|| "is not known to the simulator".to_owned())?;
    let words = |violations: Vec<Violation>| {
        let words: Vec<String> =
            violations.iter().map(|v| format!("{} {}", v.dotted(), v.words())).collect();
        words.join("; ")
    };
    let accept = request.headers.iter().find(|(name, _)| *name == "accept");
    let accept = accept.map_or("", |(_, value)| value.as_str());
    let (object, raws) = match request.body {
        Body::Json(bytes) => {
            // A list of one task.
            let task = (vendor == Vendor::Runware).then(|| &bytes[1..bytes.len() - 1]);
            let mut object = given.filled(task.unwrap_or(&bytes));
            match vendor {
                Vendor::Dashscope => (dashscope::flat(object), Vec::new()),
                Vendor::Prodia => {
                    let config = prodia::flat(object, accept).map_err(|e| format!("{e:?}"))?.1;
                    (config, Vec::new())
                }
                Vendor::Fireworks => {
                    if let Some(kind) = accepted(accept) {
                        object.insert("accept".to_owned(), kind.into());
                    }
                    (object, Vec::new())
                }
                Vendor::Replicate => {
                    (object.remove("input").unwrap().as_object().cloned().unwrap(), Vec::new())
                }
                Vendor::Gemini => {
                    let object = camel(object);
                    let raws = pictures(&object);
                    (object, raws)
                }
                _ => (object, Vec::new()),
            }
        }
        Body::Form(parts) => {
            let body = given.form(parts);
            let parts = form::parse("multipart/form-data; boundary=B", &body).unwrap();
            let (texts, raws) = sort(family.pictures.as_ref(), &parts).map_err(words)?;
            (schema::typed(&family.fields, texts), raws)
        }
        Body::Empty => return Err("an empty body is sent".to_owned()),
    };
    family.order_with(&object, raws).map_err(words)
}

/// Vendors of which the simulator plays no edits yet. May only shrink.
const DRAW_ONLY: [Vendor; 13] = [
    Vendor::Xai,
    Vendor::Byteplus,
    Vendor::Recraft,
    Vendor::Minimax,
    Vendor::Deepinfra,
    Vendor::Fireworks,
    Vendor::Dashscope,
    Vendor::Runware,
    Vendor::Luma,
    Vendor::Runway,
    Vendor::Ideogram,
    Vendor::Prodia,
    Vendor::LumaAgents,
];

#[test]
fn every_deployment_is_taken_at_every_size_and_format_and_drawn_so() {
    let mut catalog = Catalog::embedded().unwrap();
    super::keep_played(&mut catalog);
    assert!(catalog.deployments().count() > 80, "{}", catalog.deployments().count());
    let (mut problems, mut asked) = (Vec::new(), 0);
    let mut tasks = BTreeSet::new();
    for provider in catalog.providers.values() {
        let vendor = Vendor::named(&provider.id).unwrap();
        for deployment in &provider.models {
            let formats: Vec<Option<Format>> = if deployment.wire.format.is_some() {
                deployment.formats.iter().map(|format| Some(*format)).chain([None]).collect()
            } else {
                vec![None]
            };
            let given = Given::of(deployment);
            tasks.insert((deployment.provider.clone(), deployment.task));
            for size in sizes(deployment) {
                for format in &formats {
                    for scale in scales(deployment) {
                        let image = ImageCall {
                            images: given.images.clone(),
                            mask: given.mask.clone(),
                            scale,
                            prompt: "a lighthouse".to_owned(),
                            n: deployment.n.max(1),
                            size: size.clone(),
                            format: *format,
                            seed: deployment.wire.seed.as_ref().map(|_| 7),
                            negative_prompt: deployment
                                .wire
                                .negative_prompt
                                .as_ref()
                                .map(|_| "rain".to_owned()),
                            ..ImageCall::default()
                        };
                        asked += 1;
                        let follows = match deployment.size.for_input(Some(PICTURE), scale) {
                            SizeRule::Fixed { size } if given.works() => Some(size),
                            _ => deployment.default_size,
                        };
                        let wanted_size = size.as_ref().map(|s| s.size).or(follows);
                        // Gemini promises no format: its pictures are PNG or JPEG as it likes.
                        let promised =
                            deployment.formats.first().filter(|_| vendor != Vendor::Gemini);
                        let wanted_format = format.or(promised.copied());
                        let slug = deployment.slug();
                        match ordered(vendor, deployment, &image, &given, &provider.hosts) {
                            Err(problem) => problems.push(format!("{slug} {size:?}: {problem}")),
                            Ok(order) => {
                                if wanted_size.is_some_and(|wanted| wanted != order.size) {
                                    problems.push(format!(
                                        "{slug}: {} is drawn for {size:?}, wanted {wanted_size:?}",
                                        order.size
                                    ));
                                }
                                if wanted_format.is_some_and(|wanted| wanted != order.format) {
                                    problems.push(format!(
                                    "{slug}: {} is drawn for {format:?}, wanted {wanted_format:?}",
                                    order.format
                                ));
                                }
                                if order.count != deployment.n.max(1) {
                                    problems.push(format!("{slug}: {} pictures", order.count));
                                }
                                if let Err(problem) =
                                    given.understood(deployment, order.work.as_deref())
                                {
                                    problems.push(format!("{slug}: {problem}"));
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    problems.dedup();
    assert!(problems.is_empty(), "{} of {asked}:\n{}", problems.len(), problems.join("\n"));
    assert!(asked > 1000, "{asked}");
    for vendor in Vendor::ALL {
        let name = vendor.name();
        let task = if DRAW_ONLY.contains(&vendor) { Task::ImageGenerate } else { Task::ImageEdit };
        assert!(tasks.contains(&(name.to_owned(), task)), "{name}: {task:?} is never asked");
    }
}
