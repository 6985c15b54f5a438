//! Size planning, on paper: what a caller asked ([`ask`]), which native size of a deployment
//! serves it best ([`native`]), and what must then be done to the real picture ([`geometry`]).
//!
//! Nothing here does IO or knows a vendor: how a deployment expresses size is data.

mod ask;
mod geometry;
mod grid;
mod native;

use providers::{
    catalog::{Deployment, SizeRule},
    media::{Aspect, NativeSize, Size, SizeWords},
    money::Money,
};

pub use ask::{AskError, Fit, MAX_PIXELS, MAX_SIDE, SizeAsk, Tier, Want, parse_ask};
pub use geometry::{Crop, Geometry, Padding, Target, resize_for};
pub use native::examples;

/// How one deployment serves an ask.
#[derive(Clone, Debug, PartialEq)]
pub struct SizePlan {
    /// The size to ask the vendor for; `None` sends no size.
    pub native: Option<NativeSize>,
    /// What the vendor will draw, where that is known.
    pub expected: Option<Size>,
    /// What the caller is to get.
    pub target: Target,
    /// How the picture is brought there.
    pub fit: Fit,
    /// Linear local enlargement of the expected picture; at most 1 means none.
    pub enlargement: f64,
    /// Share of the expected picture lost to cropping, 0 to 1.
    pub cropped: f64,
    /// The size of the delivered picture, where it is known.
    pub delivered: Option<Size>,
}

impl SizePlan {
    /// Whether the expected picture is delivered as the vendor draws it.
    pub fn is_untouched(&self) -> bool {
        self.target == Target::Untouched || self.delivered == self.expected
    }

    /// The native size in the vendor's words: `1248x832`, `3:2 at 1K`, `auto`.
    pub fn native_text(&self) -> String {
        match &self.native {
            None => "auto".to_owned(),
            Some(native) => match &native.words {
                SizeWords::Pixels | SizeWords::Omitted => native.size.to_string(),
                SizeWords::Ratio(aspect, None) => aspect.to_string(),
                SizeWords::Ratio(aspect, Some(tier)) => format!("{aspect} at {tier}"),
                SizeWords::Preset(name) => name.clone(),
            },
        }
    }

    /// The size of the delivered picture as planned: `1000x700`, or `auto` where the vendor
    /// decides.
    pub fn delivered_text(&self) -> String {
        self.delivered.map_or_else(|| "auto".to_owned(), |size| size.to_string())
    }
}

/// Why a deployment cannot serve a size.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Its pictures would have to be enlarged beyond the limit.
    #[error(
        "the picture would have to be enlarged {needed:.2} times; the largest that works is \
         {largest}"
    )]
    TooMuchEnlargement {
        /// Linear enlargement needed.
        needed: f64,
        /// The largest size of the asked ratio that is within the limit.
        largest: Size,
    },
    /// Its size rule holds no size at all.
    #[error("the deployment has no usable size")]
    NoSize,
}

/// Plans how a deployment serves an ask.
///
/// Of a deployment's native sizes the one is taken that has, in this order: the least local
/// enlargement; the least share lost to cropping (for pad, contain and stretch: left empty or
/// distorted), where shares up to 3 percentage points above the least count as equal; the lowest
/// price; the least exact share; the fewest pixels wasted; the most pixels. On a grid, sizes
/// that are equal in the first two are decided by their pixels, which is also their price order:
/// the picture drawn is never needlessly larger than the one asked.
///
/// A ratio alone asks for the deployment's default area and a tier alone for the ratio of its
/// default size, square where it has none. `price_of` gives the price of one picture of a size,
/// drawn at a tier named in the vendor's words.
///
/// # Errors
/// [`PlanError::TooMuchEnlargement`] where even the best size needs more than `max_upscale`.
pub fn plan_size(
    deployment: &Deployment,
    ask: &SizeAsk,
    max_upscale: f64,
    price_of: &dyn Fn(Size, Option<&str>) -> Money,
) -> Result<SizePlan, PlanError> {
    let sizes = native::Natives { deployment, fit: ask.fit, price_of };
    let default = default_size(deployment);
    let default_ratio = default.map_or(1.0, Size::ratio);
    let untouched = |native| (Some(native), Target::Untouched);
    let at = |size| (sizes.for_size(size), exact(size, ask.fit));
    let (native, target) = match ask.want {
        Want::Auto => {
            return Ok(SizePlan {
                native: None,
                expected: default,
                target: Target::Untouched,
                fit: ask.fit,
                enlargement: 1.0,
                cropped: 0.0,
                delivered: default,
            });
        }
        Want::Exact(size) => at(size),
        Want::Ratio(aspect) => {
            let native = sizes.with_ratio(aspect).or_else(|| sizes.near_ratio(aspect));
            let told = native.as_ref().is_some_and(|n| native::takes_ratio(&n.words, aspect));
            (native, if told { Target::Untouched } else { ratio(aspect, ask.fit) })
        }
        Want::Tier(tier) => sizes
            .with_tier(tier, default_ratio)
            .map_or_else(|| at(tier.size(default_ratio)), untouched),
        Want::RatioTier(aspect, tier) => sizes
            .with_ratio_and_tier(aspect, tier)
            .map_or_else(|| at(tier.size(aspect.ratio())), untouched),
    };
    let native = native.ok_or(PlanError::NoSize)?;
    finish(native, target, ask.fit, max_upscale)
}

fn finish(
    native: NativeSize,
    target: Target,
    fit: Fit,
    max_upscale: f64,
) -> Result<SizePlan, PlanError> {
    let drawn = native.size;
    let geometry = resize_for(&target, fit, drawn, max_upscale)?;
    let enlargement = match target {
        Target::Exact(asked) | Target::Inside(asked) => geometry::enlargement(drawn, asked, fit),
        Target::Untouched | Target::Ratio(_) => 1.0,
    };
    let cropped = geometry
        .and_then(|g| g.crop)
        .map_or(0.0, |c| 1.0 - c.size.pixels() as f64 / drawn.pixels() as f64);
    Ok(SizePlan {
        expected: Some(drawn),
        delivered: Some(geometry.map_or(drawn, |g| g.delivered)),
        native: Some(native),
        target,
        fit,
        enlargement,
        cropped,
    })
}

fn exact(size: Size, fit: Fit) -> Target {
    match fit {
        Fit::None => Target::Untouched,
        Fit::Contain => Target::Inside(size),
        Fit::Cover | Fit::Pad | Fit::Stretch => Target::Exact(size),
    }
}

fn ratio(aspect: Aspect, fit: Fit) -> Target {
    match fit {
        // Without bounds everything is inside.
        Fit::None | Fit::Contain => Target::Untouched,
        Fit::Cover | Fit::Pad | Fit::Stretch => Target::Ratio(aspect),
    }
}

fn default_size(deployment: &Deployment) -> Option<Size> {
    match deployment.size {
        SizeRule::Fixed { size } => Some(size),
        _ => deployment.default_size,
    }
}

#[cfg(test)]
mod tests;
