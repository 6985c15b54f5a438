//! What a row says fits together.

use std::collections::BTreeSet;

use super::Row;
use crate::{
    catalog::{InputForm, InputRule, Many, SizeField, SizeRule, Wire, price::bills_pictures},
    media::{Format, Size},
    money::Money,
};

pub(super) fn check_row(row: &Row, wire: &Wire, size: &SizeRule) -> Result<(), String> {
    let say = |text: &str| Err(text.to_owned());
    if row.id.is_empty() || row.upstream.is_empty() || row.source.is_empty() {
        return say("id, upstream and source must not be empty");
    }
    if row.n == 0 || row.n > 10 {
        return say("n must be 1 to 10");
    }
    if row.n > 1 && wire.n.is_none() {
        return say("n is above 1 but the wire has no field for it");
    }
    let date = |d: &str| d.len() == 10 && d.split('-').map(str::len).eq([4, 2, 2]);
    if !date(&row.checked) || row.retires.as_deref().is_some_and(|d| !date(d)) {
        return say("checked and retires are dates like 2026-11-01");
    }
    check_formats(&row.formats, wire)?;
    check_size(row.default_size, wire, size)?;
    check_price(row, wire, size)
}

/// What a row says of the pictures it works from fits together.
pub(super) fn check_inputs(
    row: &Row,
    inputs: Option<&InputRule>,
    wire: &Wire,
    size: &SizeRule,
) -> Result<(), String> {
    let say = |text: &str| Err(text.to_owned());
    let tasks = row.task.all();
    if tasks.is_empty() {
        return say("task is empty");
    }
    let takes = tasks.iter().filter(|task| task.takes_pictures()).count();
    if takes == 0 {
        return match (inputs, size) {
            (Some(_), _) => say("inputs are for a task that takes pictures"),
            (_, SizeRule::Input { .. }) => say("a size that follows the input needs one"),
            _ => Ok(()),
        };
    }
    let Some(inputs) = inputs else {
        return say("a task that takes pictures needs inputs");
    };
    if inputs.images == 0 || inputs.formats.is_empty() {
        return say("inputs: images and formats must not be empty");
    }
    let Some(images) = &wire.images else {
        return say("the wire has no field for pictures");
    };
    if inputs.images > 1 && images.many == Many::One {
        return say("inputs: several images but the wire has a field for one");
    }
    if images.many == Many::Repeated && images.form != InputForm::File {
        return say("only files of a form can be repeated");
    }
    match (&inputs.mask, &wire.mask) {
        (Some(_), None) => return say("inputs: a mask but the wire has no field for it"),
        (Some(_), Some(field)) if field.many != Many::One => return say("there is one mask"),
        _ => {}
    }
    if matches!(size, SizeRule::Input { .. }) && takes < tasks.len() {
        return say("a size that follows the input needs one for every task");
    }
    if !inputs.factors.is_empty() && wire.scale.is_none() && inputs.factors.len() > 1 {
        return say("inputs: several factors but the wire has no field for them");
    }
    Ok(())
}

pub(super) fn check_formats(formats: &[Format], wire: &Wire) -> Result<(), String> {
    if formats.is_empty() {
        return Err("formats must not be empty".to_owned());
    }
    if formats.len() > 1 && wire.format.is_none() {
        return Err("several formats but the wire has no field for them".to_owned());
    }
    if let Some(choice) = &wire.format
        && let Some(format) = formats.iter().find(|f| !choice.values.contains_key(f.name()))
    {
        return Err(format!("the wire has no word for the format {format}"));
    }
    Ok(())
}

pub(super) fn check_size(
    default: Option<Size>,
    wire: &Wire,
    size: &SizeRule,
) -> Result<(), String> {
    match (&wire.size, size) {
        (None, SizeRule::Fixed { .. } | SizeRule::Input { .. })
        | (
            Some(SizeField::Text { .. } | SizeField::Sides { .. }),
            SizeRule::List { .. } | SizeRule::Grid { .. },
        )
        | (Some(SizeField::Ratio { .. }), SizeRule::Ratios { .. })
        | (Some(SizeField::Preset { .. }), SizeRule::Presets { .. }) => {}
        _ => return Err(format!("the wire cannot express a size rule of kind {}", size.kind())),
    }
    if let (Some(SizeField::Ratio { tier, .. }), SizeRule::Ratios { tiers, .. }) =
        (&wire.size, size)
    {
        if tier.is_none() && tiers.len() > 1 {
            return Err("several tiers but the wire has no field for them".to_owned());
        }
        if tier.is_some() && tiers.is_empty() {
            return Err("the wire has a field for tiers but the size rule has none".to_owned());
        }
    }
    let finite = size.finite();
    match default {
        Some(drawn) if matches!(size, SizeRule::Grid { .. }) && !size.on_grid(drawn) => {
            Err(format!("the default size {drawn} is not on the grid"))
        }
        Some(drawn) if !finite.is_empty() && finite.iter().all(|s| s.size != drawn) => {
            Err(format!("the default size {drawn} is not among the sizes"))
        }
        _ => Ok(()),
    }
}

fn check_price(row: &Row, wire: &Wire, size: &SizeRule) -> Result<(), String> {
    let say = |text: &str| Err(text.to_owned());
    if row.price.is_empty() {
        return say("a row without a price is not sold: leave it out");
    }
    let odd = row.price.iter().chain(&row.estimate).find(|line| !bills_pictures(line.unit));
    if let Some(line) = odd {
        return Err(format!(
            "a picture cannot be billed by the {}: the quantity is not known; \
             write the price by image, megapixel or token",
            line.unit
        ));
    }
    let tokens = row.price.iter().filter(|line| line.unit.is_token()).count();
    if tokens > 0 && tokens < row.price.len() {
        return say("a price by token and one by picture do not mix");
    }
    if tokens > 0 && row.estimate.is_empty() {
        return say("tokens are billed afterwards, so an estimate is needed");
    }
    if tokens == 0 && !row.estimate.is_empty() {
        return say("an estimate is for prices by token");
    }
    if row.estimate.iter().any(|line| line.unit.is_token()) {
        return say("an estimate is by picture, not by token");
    }
    let has_word = |quality: &str| {
        wire.quality.as_ref().is_some_and(|choice| choice.values.values().any(|v| v == quality))
    };
    let lines = || row.price.iter().chain(&row.estimate);
    for line in lines() {
        if line.usd < Money::ZERO {
            return say("a price is negative");
        }
        if line.per == 0 || line.megapixel == 0 {
            return say("per and megapixel must be at least 1");
        }
    }
    let mut qualities =
        lines().filter_map(|l| l.quality.as_deref()).chain(row.default_quality.as_deref());
    if let Some(quality) = qualities.find(|q| !has_word(q)) {
        return Err(format!("the wire has no quality {quality:?}"));
    }
    let tiers: &[String] = if let SizeRule::Ratios { tiers, .. } = size { tiers } else { &[] };
    let priced: BTreeSet<&str> = lines().filter_map(|l| l.tier.as_deref()).collect();
    if let Some(tier) = priced.iter().find(|t| !tiers.iter().any(|known| known == *t)) {
        return Err(format!("a price for the tier {tier:?}, which the size rule does not have"));
    }
    if let Some(tier) = tiers.iter().find(|t| !priced.is_empty() && !priced.contains(t.as_str())) {
        return Err(format!("no price for the tier {tier:?}"));
    }
    Ok(())
}
