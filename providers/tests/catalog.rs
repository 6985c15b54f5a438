//! The catalogue this build is made with: complete, sourced, priced, unambiguous.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at once")]

use std::collections::{BTreeMap, BTreeSet};

use providers::{
    ADAPTERS, Body, Call, ImageCall, Recovery, Step, Usage, adapter,
    catalog::{AuthKind, Catalog, Deployment, Drawn, SizeRule, WorkedFrom},
    media::Size,
    money::Money,
};

fn embedded() -> Catalog {
    Catalog::embedded().unwrap()
}

fn find<'a>(catalog: &'a Catalog, slug: &str) -> &'a Deployment {
    catalog.deployments().find(|d| d.slug() == slug).unwrap_or_else(|| panic!("no {slug}"))
}

fn price(row: &Deployment, size: Size, quality: Option<&str>, tier: Option<&str>) -> Money {
    let drawn = Drawn { size, quality, tier, from: WorkedFrom::default() };
    let cost = row.cost(&[drawn], &Usage::default());
    cost.unwrap_or_else(|| panic!("{} has no price for {drawn:?}", row.slug())).total()
}

/// Whether it is a server that an operator runs.
fn own(catalog: &Catalog, row: &Deployment) -> bool {
    catalog.providers[&row.provider].auth.kind == AuthKind::Optional
}

#[test]
fn sixty_deployments_or_more_are_sourced_dated_and_priced() {
    let catalog = embedded();
    let mut count = 0;
    for row in catalog.deployments() {
        let slug = row.slug();
        count += 1;
        assert!(row.source.len() > 3, "{slug} has no source");
        let day: Vec<u32> = row.checked.split('-').map(|part| part.parse().unwrap()).collect();
        assert!(day[0] >= 2026 && day[1] <= 12 && day[2] <= 31, "{slug} was checked {day:?}");
        let free = price(row, Size::new(1024, 1024), None, None) == Money::ZERO;
        assert_eq!(free, own(&catalog, row), "only a server of one's own is free: {slug}");
    }
    assert!(count >= 60, "only {count} deployments");
}

#[test]
fn every_size_a_rule_can_name_has_a_price() {
    let catalog = embedded();
    for row in catalog.deployments().filter(|row| !own(&catalog, row)) {
        for native in row.size.finite() {
            let tier = match &native.words {
                providers::media::SizeWords::Ratio(_, tier) => tier.as_deref(),
                _ => None,
            };
            assert!(price(row, native.size, None, tier) > Money::ZERO, "{} {native:?}", row.slug());
        }
    }
}

#[test]
fn every_quality_a_wire_can_ask_has_a_price_and_the_unknown_one_is_the_dearest() {
    let size = Size::new(1024, 1024);
    for row in embedded().deployments() {
        let Some(choice) = &row.wire.quality else { continue };
        let unknown = price(row, size, Some("auto"), None);
        for word in choice.values.values() {
            assert!(price(row, size, Some(word), None) <= unknown, "{} {word}", row.slug());
        }
    }
}

#[test]
fn every_name_means_one_model() {
    let catalog = embedded();
    let public: BTreeSet<&str> = catalog.deployments().map(|d| d.model.as_str()).collect();
    let mut meaning: BTreeMap<&str, &str> = BTreeMap::new();
    for row in catalog.deployments() {
        for name in &row.aliases {
            assert!(!public.contains(name.as_str()), "{}: {name} is a public name", row.slug());
            let known = *meaning.entry(name).or_insert(&row.model);
            assert_eq!(known, row.model, "the alias {name}");
        }
    }
    for old in catalog.providers.values().flat_map(|p| &p.retired) {
        assert!(public.contains(old.now.as_str()), "{} leads nowhere", old.id);
        assert!(!public.contains(old.id.as_str()), "{} is still sold", old.id);
        assert!(!meaning.contains_key(old.id.as_str()), "{} is an alias too", old.id);
    }
    for (alias, model) in [
        ("flux-pro-1.1", "flux-1.1-pro"),
        ("flux-dev", "flux-1-dev"),
        ("flux-schnell", "flux-1-schnell"),
    ] {
        assert_eq!(meaning.get(alias), Some(&model));
    }
    let retired: Vec<&str> =
        catalog.providers.values().flat_map(|p| &p.retired).map(|r| r.id.as_str()).collect();
    for old in ["dall-e-2", "dall-e-3", "gpt-image-1"] {
        assert!(retired.contains(&old), "{old}");
    }
}

#[test]
fn one_public_name_is_shared_by_its_vendors() {
    let catalog = embedded();
    let vendors: BTreeSet<&str> = catalog
        .deployments()
        .filter(|d| d.model == "flux-1.1-pro")
        .map(|d| d.provider.as_str())
        .collect();
    for vendor in ["bfl", "fal", "replicate", "together"] {
        assert!(vendors.contains(vendor), "{vendor} does not sell flux-1.1-pro");
    }
}

#[test]
fn adapters_and_providers_need_each_other() {
    let catalog = embedded();
    let spoken: BTreeSet<&str> = catalog.providers.values().map(|p| p.adapter.as_str()).collect();
    for known in ADAPTERS {
        assert!(spoken.contains(known.name()), "no provider speaks {}", known.name());
    }
    for provider in catalog.providers.values() {
        let id = &provider.id;
        assert!(adapter(&provider.adapter).is_some(), "{id}");
        let sells = !provider.models.is_empty() || provider.unlisted.is_some();
        assert!(sells, "{id} sells nothing");
        let keyless = provider.auth.kind == AuthKind::Optional;
        assert_eq!(provider.auth.env.is_empty(), keyless, "{id}'s key variable");
        assert_eq!(provider.auth.header, provider.auth.header.to_lowercase(), "{id}");
        assert!(!provider.owned.is_empty(), "{id} owns no field");
    }
}

/// A field that every call sets must not be open to callers as well: it would be overwritten in
/// silence.
#[test]
fn fields_that_are_always_set_are_owned() {
    let catalog = embedded();
    for row in catalog.deployments() {
        let owned = &catalog.providers[&row.provider].owned;
        for name in row.wire.set.keys() {
            let outer = name.split('.').next().unwrap().to_owned();
            assert!(owned.contains(&outer), "{}: {outer}", row.slug());
        }
    }
}

#[test]
fn sizes_are_sane() {
    for row in embedded().deployments() {
        let slug = row.slug();
        for native in row.size.finite() {
            let (size, longest) = (native.size, native.size.width.max(native.size.height));
            assert!(size.pixels() >= 160_000 && longest <= 12_288, "{slug}: {size}");
            if let providers::media::SizeWords::Ratio(ratio, _) = native.words {
                let off = (size.ratio() / ratio.ratio()).ln().abs();
                assert!(off < 0.08, "{slug}: {size} is no {ratio}");
            }
        }
        if let SizeRule::Grid { .. } = row.size {
            assert!(
                row.size.on_grid(Size::new(2048, 2048)) || row.size.on_grid(Size::new(1024, 1024))
            );
        }
    }
}

/// Prices held against the vendors' lists by hand.
#[test]
fn known_prices() {
    let catalog = embedded();
    for (slug, size, quality, tier, usd) in [
        ("bfl/flux-1.1-pro", "1024x768", None, None, "0.04"),
        ("bfl/flux-2-pro", "1024x1024", None, None, "0.03"),
        ("bfl/flux-2-pro", "1024x1040", None, None, "0.045"),
        ("bfl/flux-2-pro", "2048x2048", None, None, "0.075"),
        ("bfl/flux-2-pro", "512x512", None, None, "0.03"),
        ("bfl/flux-2-klein-4b", "1440x1440", None, None, "0.015"),
        ("fal/flux-1-schnell", "1024x768", None, None, "0.003"),
        ("fal/flux-1-dev", "1024x1024", None, None, "0.05"),
        ("fal/flux-1.1-pro-ultra", "2048x2048", None, None, "0.06"),
        ("fal/nano-banana-2", "512x512", None, Some("0.5K"), "0.06"),
        ("fal/nano-banana-2", "1024x1024", None, None, "0.08"),
        ("fal/nano-banana-pro", "4096x4096", None, Some("4K"), "0.3"),
        ("fal/gpt-image-2", "1024x768", None, None, "0.145"),
        ("fal/gpt-image-2", "1024x1024", Some("low"), None, "0.006"),
        ("fal/gpt-image-2.5-flare", "1024x1024", None, None, "0.05268"),
        ("fal/gpt-image-2.5-flare", "3840x2160", Some("max"), None, "0.40026"),
        ("ideogram/ideogram-v3", "1024x1024", None, None, "0.06"),
        ("ideogram/ideogram-v3", "1024x1024", Some("FLASH"), None, "0.03"),
        ("ideogram/ideogram-v4", "2048x2048", Some("QUALITY"), None, "0.1"),
        ("luma/photon-1", "2048x1152", None, None, "0.015"),
        ("luma-agents/luma-uni-1", "2048x1152", None, None, "0.0404"),
        ("openai/gpt-image-2", "1536x1024", Some("medium"), None, "0.041"),
        ("openai/gpt-image-2", "1024x1024", None, None, "0.211"),
        ("openai/gpt-image-2", "3840x2160", Some("high"), None, "0.401"),
        ("openai/gpt-image-1-mini", "1024x1024", Some("high"), None, "0.036"),
        ("gemini/nano-banana-pro", "2048x2048", None, Some("2K"), "0.134"),
        ("gemini/nano-banana-2", "512x512", None, Some("512"), "0.045"),
        ("recraft/recraft-v2-vector", "1024x1024", None, None, "0.044"),
        ("recraft/recraft-v4.1-pro", "2048x2048", None, None, "0.21"),
        ("replicate/flux-1-schnell", "1344x768", None, None, "0.003"),
        ("replicate/ideogram-v3-quality", "1024x1024", None, None, "0.09"),
        ("runway/runway-gen4-image", "1280x720", None, None, "0.05"),
        ("runway/runway-gen4-image", "1024x1024", None, None, "0.08"),
        ("runway/nano-banana-pro", "3168x1344", None, None, "0.2"),
        ("runway/nano-banana-pro", "6336x2688", None, None, "0.4"),
        ("stability/stable-image-core", "1232x1232", None, None, "0.03"),
        ("stability/sd3.5-large", "1024x1024", None, None, "0.065"),
        ("together/flux-1-schnell", "1024x1024", None, None, "0.002831156"),
        ("xai/grok-imagine-image-quality", "2048x2048", None, Some("2k"), "0.07"),
        ("xai/grok-imagine-image-2.0", "1024x1024", Some("low"), Some("1k"), "0.04"),
        ("xai/grok-imagine-image-2.0", "1024x1024", None, None, "0.06"),
        ("fireworks/flux-1-dev", "1024x1024", None, None, "0.014"),
        ("fireworks/sdxl-1.0", "1024x1024", None, None, "0.0039"),
        ("deepinfra/flux-1-schnell", "1024x1024", None, None, "0.002"),
        ("deepinfra/flux-1-dev", "512x1024", None, None, "0.0045"),
        ("byteplus/seedream-5-pro", "1536x1536", None, None, "0.045"),
        ("byteplus/seedream-5-pro", "2048x2048", None, None, "0.09"),
        ("runware/flux-1-dev", "1024x1024", None, None, "0.0038"),
        ("prodia/flux-1-schnell", "512x512", None, None, "0.0025"),
        ("minimax/minimax-image-01", "1024x1024", None, None, "0.0035"),
    ] {
        let size: Size = size.parse().unwrap();
        let expected: Money = usd.parse().unwrap();
        assert_eq!(price(find(&catalog, slug), size, quality, tier), expected, "{slug} {size}");
    }
}

#[test]
fn tokens_are_billed_as_counted() {
    let catalog = embedded();
    let row = find(&catalog, "openai/gpt-image-2");
    let drawn = [Drawn {
        size: Size::new(1024, 1024),
        quality: Some("low"),
        tier: None,
        from: WorkedFrom::default(),
    }];
    let text_only = Usage { text_input_tokens: Some(42), ..Usage::default() };
    let usage = Usage { image_output_tokens: Some(1056), ..text_only };
    // 42 × 5 and 1056 × 30 dollars per million.
    assert_eq!(row.cost(&drawn, &usage).unwrap().total(), "0.03189".parse().unwrap());
    // Without the tokens of the picture the estimate stands.
    assert_eq!(row.cost(&drawn, &text_only).unwrap().total(), "0.006".parse().unwrap());
}

#[test]
fn no_caller_may_set_what_a_callback_travels_in() {
    let catalog = embedded();
    let mut checked = BTreeSet::new();
    for provider in catalog.providers.values() {
        let dialect = adapter(&provider.adapter).unwrap();
        if !dialect.recovery().contains(&Recovery::Callback) {
            continue;
        }
        let row = &provider.models[0];
        let image = ImageCall::default();
        let sent = |url: Option<&'static str>| {
            let call = Call {
                deployment: row,
                base_url: &provider.base_url,
                hosts: &[],
                upstream: &row.upstream,
                image: &image,
                client_ref: None,
                callback_url: url,
                callback_secret: url,
            };
            let Ok(Step::Send { request, .. }) = dialect.begin(&call) else { panic!("no submit") };
            let body: Vec<String> = match &request.body {
                Body::Json(text) => {
                    let body: serde_json::Map<String, serde_json::Value> =
                        serde_json::from_slice(text).unwrap();
                    body.keys().cloned().collect()
                }
                Body::Form(parts) => parts.iter().map(|part| part.name.clone()).collect(),
                Body::Empty => panic!("no body"),
            };
            let query = request.url.split_once('?').map_or("", |(_, query)| query);
            let query = query.split('&').filter_map(|field| Some(field.split_once('=')?.0));
            query.map(str::to_owned).chain(body).collect::<BTreeSet<String>>()
        };
        let (with, without) =
            (sent(Some("https://media.example.com/callbacks/x/1/2/3")), sent(None));
        let added: Vec<&String> = with.difference(&without).collect();
        assert!(!added.is_empty(), "{}: the callback does not travel", provider.id);
        for field in added {
            assert!(provider.owned.contains(field), "{}: {field} is not owned", provider.id);
            checked.insert(format!("{} {field}", provider.id));
        }
    }
    assert_eq!(
        checked.iter().map(String::as_str).collect::<Vec<_>>(),
        [
            "bfl webhook_secret",
            "bfl webhook_url",
            "fal fal_webhook",
            "ideogram webhook_url",
            "luma callback_url",
            "replicate webhook",
            "replicate webhook_events_filter"
        ]
    );
}
