use std::collections::BTreeMap;

use proptest::prelude::*;
use providers::{
    Usage,
    catalog::{Catalog, Drawn, WorkedFrom},
};

use super::*;

fn size(text: &str) -> Size {
    text.parse().unwrap()
}

fn aspects(texts: &[&str]) -> Vec<Aspect> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

fn list(sizes: &[&str]) -> SizeRule {
    SizeRule::List { sizes: sizes.iter().map(|t| size(t)).collect() }
}

fn ratios(ratios: &[&str], tiers: &[&str], table: &[(&str, &str, &str)]) -> SizeRule {
    let cell = |(tier, ratio, pixels): &(&str, &str, &str)| {
        ((String::from(*tier), String::from(*ratio)), size(pixels))
    };
    SizeRule::Ratios {
        ratios: aspects(ratios),
        range: None,
        tiers: tiers.iter().copied().map(String::from).collect(),
        pixels: None,
        area: None,
        multiple_of: 1,
        table: table.iter().map(cell).collect(),
    }
}

fn range(low: &str, high: &str) -> SizeRule {
    SizeRule::Ratios {
        ratios: Vec::new(),
        range: Some([low.parse().unwrap(), high.parse().unwrap()]),
        tiers: Vec::new(),
        pixels: None,
        area: Some(1_048_576),
        multiple_of: 16,
        table: BTreeMap::new(),
    }
}

fn grid(multiple_of: u32, min: u32, max: u32) -> SizeRule {
    SizeRule::Grid { multiple_of, min, max, min_pixels: 0, max_pixels: None, max_ratio: None }
}

fn presets(named: &[(&str, &str)]) -> SizeRule {
    SizeRule::Presets { presets: named.iter().map(|(n, s)| ((*n).to_owned(), size(s))).collect() }
}

fn sold(rule: &SizeRule, default_size: Option<&str>) -> Deployment {
    Deployment { size: rule.clone(), default_size: default_size.map(size), ..Deployment::default() }
}

fn flat(_: Size, _: Option<&str>) -> Money {
    Money::from_nanos(1)
}

fn ask(text: &str, fit: &str) -> SizeAsk {
    // "16:9@2K" stands for the ratio in one field and the tier in another.
    let (given, tier) = text.split_once('@').map_or((text, None), |(s, t)| (s, Some(t)));
    parse_ask(Some(given), None, tier, Some(fit), None).unwrap()
}

/// `native -> delivered`, or the error.
fn told(deployment: &Deployment, asked: &str, fit: &str) -> String {
    match plan_size(deployment, &ask(asked, fit), 1.5, &flat) {
        Ok(plan) => format!("{} -> {}", plan.native_text(), plan.delivered_text()),
        Err(PlanError::TooMuchEnlargement { needed, largest }) => {
            format!("enlarged {needed:.3}, largest {largest}")
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_kind_of_rule_serves_every_kind_of_ask() {
    let gpt = list(&["1024x1024", "1536x1024", "1024x1536"]);
    let squares = list(&["256x256", "512x512", "1024x1024"]);
    let nano = ratios(
        &["1:1", "3:2", "16:9"],
        &["1K", "0.5K", "2K"],
        &[
            ("1K", "1:1", "1024x1024"),
            ("1K", "3:2", "1264x848"),
            ("1K", "16:9", "1376x768"),
            ("0.5K", "1:1", "512x512"),
            ("0.5K", "3:2", "632x424"),
            ("0.5K", "16:9", "688x384"),
            ("2K", "1:1", "2048x2048"),
            ("2K", "3:2", "2528x1696"),
            ("2K", "16:9", "2752x1536"),
        ],
    );
    let plain =
        ratios(&["1:1", "16:10"], &[], &[("", "1:1", "1024x1024"), ("", "16:10", "1280x800")]);
    let kontext = range("3:7", "7:3");
    let flux = grid(32, 256, 1440);
    let fal = presets(&[
        ("square_hd", "1024x1024"),
        ("square", "512x512"),
        ("landscape_4_3", "1024x768"),
        ("landscape_16_9", "1024x576"),
    ]);
    let fixed = SizeRule::Fixed { size: size("1024x768") };
    let mut wrong = Vec::new();
    for (rule, default, asked, fit, expected) in [
        // A list.
        (&gpt, None, "auto", "cover", "auto -> auto"),
        (&gpt, Some("1024x1024"), "auto", "cover", "auto -> 1024x1024"),
        (&gpt, None, "1536x1024", "cover", "1536x1024 -> 1536x1024"),
        (&gpt, None, "1792x1024", "cover", "1536x1024 -> 1792x1024"),
        (&gpt, None, "512x512", "cover", "1024x1024 -> 512x512"),
        (&gpt, None, "1000x700", "cover", "1536x1024 -> 1000x700"),
        (&gpt, None, "1000x700", "pad", "1536x1024 -> 1000x700"),
        (&gpt, None, "1000x700", "stretch", "1536x1024 -> 1000x700"),
        (&gpt, None, "1000x700", "contain", "1536x1024 -> 1000x667"),
        (&gpt, None, "1000x700", "none", "1536x1024 -> 1536x1024"),
        (&gpt, None, "3:2", "cover", "1536x1024 -> 1536x1024"),
        (&gpt, None, "16:9", "cover", "1536x1024 -> 1536x864"),
        (&gpt, None, "9:16", "cover", "1024x1536 -> 864x1536"),
        (&gpt, None, "16:9", "none", "1536x1024 -> 1536x1024"),
        (&gpt, None, "16:9", "pad", "1536x1024 -> 1820x1024"),
        (&gpt, None, "1K", "cover", "1024x1024 -> 1024x1024"),
        (&gpt, None, "2K", "cover", "enlarged 2.000, largest 1536x1536"),
        (&gpt, None, "2K", "none", "1024x1024 -> 1024x1024"),
        (&gpt, None, "16:9@1K", "cover", "1536x1024 -> 1365x768"),
        (&gpt, None, "4000x1000", "pad", "1536x1024 -> 4000x1000"),
        (&gpt, None, "4000x1000", "contain", "1536x1024 -> 1500x1000"),
        (&squares, None, "300x300", "cover", "512x512 -> 300x300"),
        (&squares, None, "1:1", "cover", "1024x1024 -> 1024x1024"),
        (&squares, Some("512x512"), "1:1", "cover", "512x512 -> 512x512"),
        (&squares, None, "600x100", "none", "256x256 -> 256x256"),
        // Ratios with tiers.
        (&nano, None, "auto", "cover", "auto -> auto"),
        (&nano, None, "1024x1024", "cover", "1:1 at 1K -> 1024x1024"),
        (&nano, None, "1536x1024", "cover", "3:2 at 2K -> 1536x1024"),
        (&nano, None, "512x512", "cover", "1:1 at 0.5K -> 512x512"),
        (&nano, None, "16:9", "cover", "16:9 at 1K -> 1376x768"),
        (&nano, None, "32:18", "cover", "16:9 at 1K -> 1376x768"),
        (&nano, None, "5:4", "cover", "3:2 at 1K -> 1060x848"),
        (&nano, None, "2K", "cover", "1:1 at 2K -> 2048x2048"),
        (&nano, Some("1376x768"), "2K", "cover", "16:9 at 2K -> 2752x1536"),
        (&nano, None, "512", "cover", "1:1 at 0.5K -> 512x512"),
        (&nano, None, "16:9@2K", "cover", "16:9 at 2K -> 2752x1536"),
        (&nano, None, "5:4@1K", "cover", "3:2 at 2K -> 1145x916"),
        (&nano, None, "4K", "cover", "enlarged 2.000, largest 3072x3072"),
        // Ratios without tiers, spelled as the vendor spells them.
        (&plain, None, "8:5", "cover", "16:10 -> 1280x800"),
        (&plain, None, "1280x720", "cover", "16:10 -> 1280x720"),
        (&plain, None, "1K", "cover", "1:1 -> 1024x1024"),
        // A range of ratios.
        (&kontext, None, "1000x700", "cover", "10:7 -> 1000x700"),
        (&kontext, None, "16:9", "cover", "16:9 -> 1360x768"),
        (&kontext, None, "3:1", "cover", "7:3 -> 1568x523"),
        (&kontext, None, "300x1200", "cover", "3:7 -> 300x1200"),
        (&kontext, None, "1792x1024", "cover", "7:4 -> 1792x1024"),
        (&kontext, None, "2K", "cover", "enlarged 2.000, largest 1536x1536"),
        // A grid.
        (&flux, None, "1024x1024", "cover", "1024x1024 -> 1024x1024"),
        (&flux, None, "1000x700", "cover", "1024x704 -> 1000x700"),
        (&flux, None, "1792x1024", "cover", "1440x832 -> 1792x1024"),
        (&flux, None, "16:9", "cover", "1024x576 -> 1024x576"),
        (&flux, None, "15:14", "cover", "960x896 -> 960x896"),
        (&flux, None, "100:99", "cover", "1056x1024 -> 1034x1024"),
        (&flux, None, "1000x700", "none", "1024x704 -> 1024x704"),
        (&flux, Some("1024x768"), "1K", "cover", "1184x896 -> 1182x887"),
        (&flux, None, "2K", "cover", "1440x1440 -> 2048x2048"),
        (&flux, None, "4K", "cover", "enlarged 2.844, largest 2160x2160"),
        // Presets.
        (&fal, None, "1024x1024", "cover", "square_hd -> 1024x1024"),
        (&fal, None, "1000x700", "cover", "landscape_4_3 -> 1000x700"),
        (&fal, None, "16:9", "cover", "landscape_16_9 -> 1024x576"),
        (&fal, None, "512x512", "cover", "square -> 512x512"),
        // Fixed.
        (&fixed, None, "auto", "cover", "auto -> 1024x768"),
        (&fixed, None, "500x500", "cover", "1024x768 -> 500x500"),
        (&fixed, None, "1:1", "cover", "1024x768 -> 768x768"),
        (&fixed, None, "1K", "cover", "1024x768 -> 1182x887"),
        (&fixed, None, "1000x3000", "none", "1024x768 -> 1024x768"),
        (&list(&[]), None, "1:1", "cover", "the deployment has no usable size"),
    ] {
        let deployment = sold(rule, default);
        let got = told(&deployment, asked, fit);
        if got != expected {
            wrong.push(format!("{} {asked} {fit}: {got}, not {expected}", rule.kind()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn preference_goes_enlargement_crop_price_exact_crop_waste() {
    fn by_pixels(size: Size, _: Option<&str>) -> Money {
        Money::from_nanos(i64::try_from(size.pixels()).unwrap())
    }
    fn small_is_dear(size: Size, _: Option<&str>) -> Money {
        Money::from_nanos(i64::MAX - i64::try_from(size.pixels()).unwrap())
    }
    for (sizes, price, expected) in [
        // Without enlargement, though it crops more and costs more.
        (["900x900", "1600x1000"], by_pixels as fn(Size, Option<&str>) -> Money, "1600x1000"),
        // Less cropping, though it costs more.
        (["1000x1100", "2000x2000"], by_pixels, "2000x2000"),
        // Two points of cropping count as nothing: the cheaper.
        (["1020x1000", "2000x2000"], by_pixels, "1020x1000"),
        (["1020x1000", "2000x2000"], small_is_dear, "2000x2000"),
        // Of equal price the exact share decides before waste.
        (["1020x1000", "2000x2000"], flat, "2000x2000"),
        // Of equal share the waste decides.
        (["2000x2000", "1200x1200"], flat, "1200x1200"),
    ] {
        let deployment = sold(&list(&sizes), None);
        let plan = plan_size(&deployment, &ask("1000x1000", "cover"), 1.5, &price).unwrap();
        assert_eq!(plan.native_text(), expected, "{sizes:?}");
    }
    // Three sizes each within three points of the next: the least is what counts.
    let chain = sold(&list(&["1000x1000", "1025x1000", "1050x1000"]), None);
    let plan = plan_size(&chain, &ask("1000x1000", "cover"), 1.5, &small_is_dear).unwrap();
    assert_eq!(plan.native_text(), "1025x1000");
}

#[test]
fn the_plan_tells_what_it_costs_the_picture() {
    let gpt = sold(&list(&["1024x1024", "1536x1024"]), None);
    let plan = plan_size(&gpt, &ask("1792x1024", "cover"), 1.5, &flat).unwrap();
    assert!((plan.enlargement - 1792.0 / 1536.0).abs() < 1e-9);
    assert!((plan.cropped - (1.0 - 878.0 / 1024.0)).abs() < 1e-9);
    assert!(!plan.is_untouched());
    assert!(plan_size(&gpt, &ask("3:2", "cover"), 1.5, &flat).unwrap().is_untouched());
    assert!(plan_size(&gpt, &ask("1792x1024", "cover"), 1.1, &flat).is_err());
}

#[test]
fn examples_are_sizes_the_rule_draws() {
    for (rule, expected) in [
        (list(&["1024x1024", "1536x1024"]), "1024x1024 1536x1024"),
        (SizeRule::Fixed { size: size("640x480") }, "640x480"),
        (
            grid(32, 256, 1440),
            "1024x1024 1248x832 832x1248 1152x864 864x1152 1024x576 576x1024 1408x704 704x1408",
        ),
        (
            range("3:7", "7:3"),
            "1024x1024 1248x832 832x1248 1184x880 880x1184 1360x768 768x1360 1456x720 720x1456",
        ),
    ] {
        assert_eq!(examples(&rule).join(" "), expected);
    }
}

/// Whether a vendor with this rule takes the native size, judged by the rule's data alone.
fn is_legal(rule: &SizeRule, native: &NativeSize) -> bool {
    match (rule, &native.words) {
        (SizeRule::List { sizes }, SizeWords::Pixels) => sizes.contains(&native.size),
        (SizeRule::Grid { .. }, SizeWords::Pixels) => rule.on_grid(native.size),
        (SizeRule::Presets { presets }, SizeWords::Preset(name)) => {
            presets.get(name) == Some(&native.size)
        }
        (SizeRule::Fixed { size }, SizeWords::Omitted) => *size == native.size,
        (SizeRule::Ratios { ratios, range, tiers, .. }, SizeWords::Ratio(ratio, tier)) => {
            let listed = ratios.contains(ratio);
            let between = range
                .is_some_and(|[low, high]| (low.ratio()..=high.ratio()).contains(&ratio.ratio()));
            let known = tier.as_ref().map_or(tiers.is_empty(), |t| tiers.contains(t));
            (listed || between) && known
        }
        _ => false,
    }
}

/// Whether a cover plan for these pixels is possible at all, tried on every size of the rule.
fn is_reachable(rule: &SizeRule, asked: Size) -> bool {
    let reaches = |s: Size| {
        f64::from(asked.width) <= f64::from(s.width) * 1.5 + 1e-6
            && f64::from(asked.height) <= f64::from(s.height) * 1.5 + 1e-6
    };
    match rule {
        SizeRule::Grid { multiple_of, max, .. } => {
            let step = usize::try_from(*multiple_of).unwrap();
            (0..=*max).step_by(step).any(|w| {
                (0..=*max).step_by(step).any(|h| {
                    let size = Size::new(w, h);
                    reaches(size) && rule.on_grid(size)
                })
            })
        }
        _ => rule.finite().iter().any(|n| reaches(n.size)),
    }
}

#[test]
fn the_whole_catalogue_serves_the_matrix_within_each_vendors_schema() {
    let catalog = Catalog::embedded().unwrap();
    let mut served = 0;
    for deployment in catalog.deployments() {
        let size = deployment.size.for_input(Some(Size::new(1024, 768)), None);
        let deployment = &Deployment { size, ..deployment.clone() };
        let price = |size: Size, tier: Option<&str>| {
            let drawn = Drawn { size, quality: None, tier, from: WorkedFrom::default() };
            deployment.cost(&[drawn], &Usage::default()).map_or(Money::MAX, |c| c.total())
        };
        for asked in [
            "auto",
            "1024x1024",
            "1536x1024",
            "1792x1024",
            "512x512",
            "1000x700",
            "16:9",
            "9:16",
            "1:1",
            "16:9@1K",
            "512",
            "1K",
            "2K",
            "4K",
            "3000x200",
        ] {
            for fit in ["cover", "pad", "stretch", "contain", "none"] {
                let at = format!("{} {asked} {fit}", deployment.slug());
                let ask = ask(asked, fit);
                let plan = match plan_size(deployment, &ask, 1.5, &price) {
                    Ok(plan) => plan,
                    Err(PlanError::NoSize) => panic!("{at}: no size"),
                    Err(PlanError::TooMuchEnlargement { needed, largest }) => {
                        assert!(needed > 1.5, "{at}");
                        if let (Want::Exact(size), "cover") = (ask.want, fit)
                            && !matches!(deployment.size, SizeRule::Ratios { range: Some(_), .. })
                        {
                            assert!(!is_reachable(&deployment.size, size), "{at}");
                        }
                        assert!(largest.pixels() > 0, "{at}");
                        continue;
                    }
                };
                served += 1;
                let Some(native) = &plan.native else {
                    assert_eq!(ask.want, Want::Auto, "{at}");
                    continue;
                };
                assert!(is_legal(&deployment.size, native), "{at}: {native:?}");
                check_delivery(&plan, &ask, &at);
            }
        }
    }
    assert!(served > 60 * 15 * 3, "only {served} plans");
}

/// The picture the vendor is expected to draw, and others a little off, end as asked.
fn check_delivery(plan: &SizePlan, ask: &SizeAsk, at: &str) {
    let drawn = plan.expected.unwrap();
    for actual in [
        drawn,
        Size::new(drawn.width + 16, drawn.height),
        Size::new(drawn.width + 3, drawn.height + 8),
    ] {
        let geometry = resize_for(&plan.target, plan.fit, actual, 1.5).unwrap();
        let delivered = geometry.map_or(actual, |g| g.delivered);
        if actual == drawn {
            assert_eq!(plan.delivered, Some(delivered), "{at}");
        }
        match (ask.want, ask.fit) {
            (_, Fit::None) => assert_eq!(delivered, actual, "{at}"),
            (Want::Exact(size), Fit::Contain) => {
                assert!(delivered.width <= size.width && delivered.height <= size.height, "{at}");
            }
            (Want::Exact(size), _) => assert_eq!(delivered, size, "{at}"),
            (Want::Ratio(aspect), fit) if fit != Fit::Contain => {
                let told = matches!(&plan.native.as_ref().unwrap().words,
                    SizeWords::Ratio(native, _) if native.same(aspect));
                assert!(told || geometry::has_ratio(delivered, aspect.ratio()), "{at}");
                assert!(!told || geometry.is_none(), "{at}");
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn random_sizes_get_legal_natives_and_exact_delivery(
        which in 0usize..6, asked in (1u32..6000, 1u32..6000),
    ) {
        let rule = [
            grid(32, 256, 1440),
            grid(16, 64, 2048),
            list(&["1024x1024", "1536x1024", "1024x1536"]),
            range("9:21", "21:9"),
            presets(&[("square", "512x512"), ("wide", "1024x576")]),
            ratios(&["1:1", "16:9"], &["1K", "2K"], &[
                ("1K", "1:1", "1024x1024"), ("1K", "16:9", "1376x768"),
                ("2K", "1:1", "2048x2048"), ("2K", "16:9", "2752x1536"),
            ]),
        ][which].clone();
        let want = Want::Exact(Size::new(asked.0, asked.1));
        let ask = SizeAsk { want, fit: Fit::Cover, pad_color: [255; 3] };
        let plan = plan_size(&sold(&rule, None), &ask, f64::INFINITY, &flat).unwrap();
        prop_assert!(is_legal(&rule, plan.native.as_ref().unwrap()), "{:?}", plan.native);
        prop_assert_eq!(plan.delivered, Some(Size::new(asked.0, asked.1)));
    }
}
