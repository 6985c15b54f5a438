//! The catalogue held against the simulator's own data: both were transcribed by themselves,
//! so where they agree both are probably right.

use providers::{
    Body, Call, ImageCall, PartValue, Step, adapter,
    catalog::{Catalog, Deployment, SizeRule},
    media::{Format, NativeSize, Size, SizeWords},
};
use serde_json::{Map, Value};

use super::{
    data::{Order, VendorData},
    gemini::camel,
    schema,
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

/// What the simulator makes of a request that the adapter builds.
fn ordered(
    vendor: Vendor,
    deployment: &Deployment,
    image: &ImageCall,
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
        client_ref: None,
        callback_url: None,
        callback_secret: None,
    };
    let step = adapter(dialect).unwrap().begin(&call).map_err(|e| format!("{e:?}"))?;
    let Step::Send { request, .. } = step else { return Err("nothing is sent".to_owned()) };
    let family = VendorData::of(vendor)
        .model(&deployment.upstream)
        .ok_or_else(|| "is not known to the simulator".to_owned())?;
    let object = match request.body {
        Body::Json(bytes) => {
            let mut object: Map<String, Value> = serde_json::from_slice(&bytes).unwrap();
            match vendor {
                Vendor::Replicate => object.remove("input").unwrap().as_object().cloned().unwrap(),
                Vendor::Gemini => camel(object),
                _ => object,
            }
        }
        Body::Form(parts) => {
            let texts = parts.into_iter().filter_map(|part| match part.value {
                PartValue::Text(text) => Some((part.name, text)),
                PartValue::File { .. } | PartValue::Input { .. } => None,
            });
            schema::typed(&family.fields, texts.collect())
        }
        Body::Empty => return Err("an empty body is sent".to_owned()),
    };
    family.order(&object).map_err(|violations| {
        let words: Vec<String> =
            violations.iter().map(|v| format!("{} {}", v.dotted(), v.words())).collect();
        words.join("; ")
    })
}

#[test]
fn every_deployment_is_taken_at_every_size_and_format_and_drawn_so() {
    let mut catalog = Catalog::embedded().unwrap();
    super::keep_played(&mut catalog);
    assert!(catalog.deployments().count() > 80, "{}", catalog.deployments().count());
    let (mut problems, mut asked) = (Vec::new(), 0);
    for provider in catalog.providers.values() {
        let vendor = Vendor::named(&provider.id).unwrap();
        for deployment in &provider.models {
            let formats: Vec<Option<Format>> = if deployment.wire.format.is_some() {
                deployment.formats.iter().map(|format| Some(*format)).chain([None]).collect()
            } else {
                vec![None]
            };
            for size in sizes(deployment) {
                for format in &formats {
                    let image = ImageCall {
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
                    let wanted_size = size.as_ref().map(|s| s.size).or(deployment.default_size);
                    // Gemini promises no format: its pictures are PNG or JPEG as it likes.
                    let promised = deployment.formats.first().filter(|_| vendor != Vendor::Gemini);
                    let wanted_format = format.or(promised.copied());
                    let slug = deployment.slug();
                    match ordered(vendor, deployment, &image, &provider.hosts) {
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
                        }
                    }
                }
            }
        }
    }
    problems.dedup();
    assert!(problems.is_empty(), "{} of {asked}:\n{}", problems.len(), problems.join("\n"));
    assert!(asked > 1000, "{asked}");
}
