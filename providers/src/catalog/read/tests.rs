use super::*;

const PIXELS: &str = r#"
    [wide."1K"]
    "1:1" = "1024x1024"
    [wide."2K"]
    "1:1" = "2048x2048"
"#;

const VENDOR: &str = r#"
    title = "Vendor"
    docs = "https://vendor.example/docs"
    adapter = "openai"
    base_url = "https://api.vendor.example/v1"
    auth = { header = "authorization", prefix = "Bearer ", env = ["VENDOR_KEY"] }
    owned = ["n"]
    unlisted = { wire = "plain", size = "grid", formats = ["png"] }

    [size.grid]
    kind = "grid"
    multiple_of = 16
    min = 256
    max = 2048

    [size.tiers]
    kind = "ratios"
    ratios = ["1:1"]
    tiers = ["1K", "2K"]
    pixels = "wide"

    [wire.plain]
    prompt = "prompt"
    size = { as = "text", field = "size" }
    n = "n"
    format = { field = "output_format", values = { png = "png", jpeg = "jpeg" } }
    quality = { field = "quality", values = { low = "low", hd = "high" } }

    [wire.ratio]
    prompt = "prompt"
    size = { as = "ratio", field = "aspect_ratio", tier = "resolution" }

    [[model]]
    id = "painter"
    aliases = ["brush"]
    upstream = "painter-1"
    task = "image.generate"
    size = "grid"
    default_size = "1024x1024"
    default_quality = "high"
    n = 4
    formats = ["png", "jpeg"]
    wire = "plain"
    price = [
        { unit = "image", usd = "0.01", quality = "low" },
        { unit = "image", usd = "0.02", quality = "high" },
    ]
    source = "price page"
    checked = "2026-11-20"
    confidence = "confirmed"

    [[model]]
    id = "sketcher"
    upstream = "sketcher-1"
    task = "image.generate"
    size = "tiers"
    formats = ["png"]
    wire = "ratio"
    price = [
        { unit = "image", usd = "0.03", tier = "1K" },
        { unit = "image", usd = "0.05", tier = "2K" },
    ]
    source = "price page"
    checked = "2026-11-20"
    confidence = "partial"

    [[retired]]
    id = "old-painter"
    now = "painter"
"#;

fn read(text: &str) -> Result<Catalog, CatalogError> {
    Catalog::parse([("_pixels", PIXELS), ("vendor", text)])
}

#[test]
fn a_good_file_is_read_whole() {
    let catalog = read(VENDOR).unwrap();
    let vendor = &catalog.providers["vendor"];
    let names: Vec<&str> = vendor.models.iter().map(|m| m.model.as_str()).collect();
    assert_eq!(names, ["painter", "sketcher"]);
    assert_eq!(vendor.models[0].default_size, Some(Size::new(1024, 1024)));
    assert_eq!(vendor.models[1].size.finite().len(), 2);
    assert_eq!(vendor.models[1].size.default_tier(), Some("1K"));
    assert!(vendor.unlisted.is_some());
}

/// Each case changes one thing of the good file, and is refused with these words.
#[test]
fn a_mistake_is_named_with_its_file_and_model() {
    for (old, new, words) in [
        ("title =", "titel =", "unknown field"),
        ("adapter = \"openai\"", "adapter = \"telex\"", "no adapter named \"telex\""),
        ("example/v1\"", "example/v1/\"", "ends with a slash"),
        ("id = \"sketcher\"", "id = \"painter\"", "\"painter\": this id is there twice"),
        ("wire = \"ratio\"", "wire = \"radio\"", "\"sketcher\": there is no [wire.radio]"),
        ("size = \"tiers\"", "size = \"tears\"", "\"sketcher\": there is no [size.tears]"),
        ("pixels = \"wide\"", "pixels = \"wild\"", "\"tiers\": no pixel table \"wild\""),
        ("ratios = [\"1:1\"]", "ratios = [\"1:1\", \"3:2\"]", "no pixels for 3:2"),
        ("ratios = [\"1:1\"]", "ratios = []", "either ratios or a range"),
        ("min = 256", "min = 250", "min on the grid"),
        ("source = \"price page\"", "source = \"\"", "source must not be empty"),
        ("source = \"price page\"", "notes = \"\"", "unknown field `notes`"),
        ("checked = \"2026-11-20\"", "checked = \"20 Nov\"", "dates like"),
        ("confidence = \"partial\"", "confidence = \"sure\"", "unknown variant `sure`"),
        ("n = 4", "n = 11", "n must be 1 to 10"),
        ("n = \"n\"\n", "", "no field for it"),
        ("[\"png\", \"jpeg\"]", "[]", "formats must not be empty"),
        ("[\"png\", \"jpeg\"]", "[\"png\", \"webp\"]", "no word for the format webp"),
        ("default_size = \"1024x1024\"", "default_size = \"1000x1000\"", "is not on the grid"),
        ("size = \"tiers\"", "size = \"grid\"", "cannot express a size rule of kind grid"),
        (", tier = \"resolution\"", "", "no field for them"),
        ("usd = \"0.03\"", "usd = \"-0.03\"", "\"sketcher\": a price is negative"),
        ("usd = \"0.03\"", "usd = 0.03", "expected a string"),
        ("usd = \"0.03\"", "usd = \"3 cents\"", "not a decimal amount"),
        ("usd = \"0.03\"", "usd = \"0.03\", per = 0", "at least 1"),
        ("tier = \"2K\" }", "tier = \"4K\" }", "the tier \"4K\", which"),
        (
            "{ unit = \"image\", usd = \"0.05\", tier = \"2K\" },",
            "",
            "no price for the tier \"2K\"",
        ),
        ("quality = \"low\" }", "quality = \"tiny\" }", "no quality \"tiny\""),
        ("default_quality = \"high\"", "default_quality = \"hd\"", "no quality \"hd\""),
        (
            "unit = \"image\", usd = \"0.03\"",
            "unit = \"text_input_token\", usd = \"0.03\"",
            "do not mix",
        ),
        (
            "unit = \"image\", usd = \"0.03\"",
            "unit = \"step\", usd = \"0.03\"",
            "\"sketcher\": a picture cannot be billed by the step",
        ),
        (
            "unit = \"image\", usd = \"0.03\"",
            "unit = \"cached_input_token\", usd = \"0.03\"",
            "cannot be billed by the cached_input_token",
        ),
        (
            "unit = \"image\", usd = \"0.03\"",
            "unit = \"picture\", usd = \"0.03\"",
            "unknown variant `picture`",
        ),
        (
            "unlisted = { wire = \"plain\"",
            "unlisted = { wire = \"ratio\"",
            "unlisted: the wire cannot",
        ),
        (
            "aliases = [\"brush\"]",
            "aliases = [\"sketcher\"]",
            "the alias \"sketcher\" means \"sketcher\"",
        ),
        ("aliases = [\"brush\"]", "aliases = [\"old-painter\"]", "is still in use"),
        ("now = \"painter\"", "now = \"poet\"", "there is no model \"poet\""),
    ] {
        let changed = VENDOR.replacen(old, new, 1);
        assert_ne!(changed, VENDOR, "{old} is not in the file");
        let error = read(&changed).map(|_| ()).unwrap_err();
        assert_eq!(error.file, "vendor", "{new}");
        assert!(error.reason.contains(words), "{new}: {error}");
    }
}

#[test]
fn a_row_without_a_price_is_refused() {
    let start = VENDOR.find("price = [").unwrap();
    let end = start + VENDOR[start..].find(']').unwrap() + 1;
    let unpriced = format!("{}price = []{}", &VENDOR[..start], &VENDOR[end..]);
    assert!(read(&unpriced).unwrap_err().reason.contains("is not sold"));
    let tokens = r#"price = [{ unit = "image_output_token", usd = "30", per = 1000000 }]"#;
    let unestimated = format!("{}{tokens}{}", &VENDOR[..start], &VENDOR[end..]);
    assert!(read(&unestimated).unwrap_err().reason.contains("an estimate is needed"));
}

#[test]
fn a_later_file_replaces_rows_and_keeps_the_rest() {
    let start = VENDOR.find("[[model]]\n    id = \"sketcher\"").unwrap();
    let head = VENDOR[..start].replace("0.02", "0.09");
    let files = [("_pixels", PIXELS), ("vendor", VENDOR), ("vendor", head.as_str())];
    let catalog = Catalog::parse(files).unwrap();
    let vendor = &catalog.providers["vendor"];
    assert_eq!(vendor.models.len(), 2);
    assert_eq!(vendor.models[0].price[1].usd, "0.09".parse().unwrap());
    assert_eq!(vendor.models[1].model, "sketcher");
}
