//! Whether and how one deployment can serve a request, decided on paper before anyone is called.

use std::{borrow::Cow, sync::Arc};

use providers::{
    ImageCall, Usage,
    catalog::{Choice, Deployment, Drawn, InputField, InputForm, SizeRule, Task, WorkedFrom},
    media::{Format, Size, SizeWords},
    money::Cost,
};
use serde_json::Value;

use super::{
    given,
    registry::Served,
    request::{Adjustment, AdjustmentKind, ImageRequest},
};
use crate::{
    error::Code,
    media::plan::{self, Fit, PlanError, SizeAsk, SizePlan, Want},
};

/// Quality words of the OpenAI API, old and new. Anything else is a mistake.
const QUALITIES: [&str; 8] = ["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"];

/// What is said to a model that edits, to make it draw a variation.
const NEUTRAL: &str = "Draw a variation of this picture: the same subject, style and composition, \
                       with small natural differences.";

/// A deployment that can serve the request, and just how.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The deployment.
    pub served: Arc<Served>,
    /// How the size is met.
    pub size: SizePlan,
    /// What to send; `n` and `seed` are set for each call.
    pub call: ImageCall,
    /// What is known beforehand to differ from what was asked.
    pub adjustments: Vec<Adjustment>,
    /// The pictures that each one is made from, as they are sent.
    pub from: WorkedFrom,
    /// Whether the mask is kept to here: what it keeps is laid over what the provider draws.
    pub lays: bool,
    /// The most it will cost for all pictures; `None` where it has no price.
    pub cost: Option<Cost>,
}

impl Candidate {
    /// The tier that is asked for, if any; prices depend on it.
    pub fn tier(&self) -> Option<&str> {
        match self.size.native.as_ref().map(|n| &n.words) {
            Some(SizeWords::Ratio(_, tier)) => tier.as_deref(),
            _ => None,
        }
    }
}

/// A deployment that cannot serve the request, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excluded {
    /// `provider/model`.
    pub deployment: String,
    /// The error a caller gets where no other can.
    pub code: Code,
    /// The field that cannot be honoured.
    pub param: Cow<'static, str>,
    /// Why, and what would work.
    pub reason: String,
}

/// What bounds planning.
#[derive(Clone, Copy, Debug)]
pub struct PlanLimits {
    /// Largest local enlargement, linear.
    pub max_upscale: f64,
    /// Whether deployments without a price may be used.
    pub allow_unpriced: bool,
    /// Whether providers can fetch pictures from here.
    pub lends: bool,
    /// Most pixels of a picture that is decoded.
    pub max_pixels: u64,
}

/// Plans a request for one deployment.
pub fn consider(
    served: &Arc<Served>,
    request: &ImageRequest,
    limits: PlanLimits,
) -> Result<Candidate, Excluded> {
    let mut planner =
        Planner { served, deployment: &served.deployment, request, adjustments: Vec::new() };
    planner.plan(limits)
}

struct Planner<'a> {
    served: &'a Arc<Served>,
    deployment: &'a Deployment,
    request: &'a ImageRequest,
    adjustments: Vec<Adjustment>,
}

impl Planner<'_> {
    fn excluded(
        &self,
        code: Code,
        param: impl Into<Cow<'static, str>>,
        reason: impl Into<String>,
    ) -> Excluded {
        let (param, reason) = (param.into(), reason.into());
        Excluded { deployment: self.served.slug(), code, param, reason }
    }

    fn unsupported(
        &self,
        param: impl Into<Cow<'static, str>>,
        reason: impl Into<String>,
    ) -> Excluded {
        self.excluded(Code::UnsupportedParameter, param, reason)
    }

    fn plan(&mut self, limits: PlanLimits) -> Result<Candidate, Excluded> {
        self.check_prompt()?;
        self.check_given(limits.lends)?;
        let wire = &self.deployment.wire;
        let scale = self.plan_scale()?;
        let fidelity = self.plan_word(
            "input_fidelity",
            wire.fidelity.as_ref(),
            self.request.fidelity.as_ref(),
        )?;
        if let Some(drafts) = self.request.partial_images.filter(|drafts| *drafts > 0) {
            let reason = "drafts of this provider are not passed on";
            self.adjustments.push(
                Adjustment::new("partial_images", AdjustmentKind::Dropped, reason).values(
                    drafts,
                    Value::Null,
                    0,
                ),
            );
        }
        let lays = self.plan_mask();
        let prompt = self.plan_prompt();
        if self.request.seed.is_some() && wire.seed.is_none() {
            return Err(self.unsupported("seed", "this deployment takes no seed"));
        }
        if self.request.negative_prompt.is_some() && wire.negative_prompt.is_none() {
            let reason = "this deployment takes no negative prompt";
            return Err(self.unsupported("negative_prompt", reason));
        }
        let size = self.plan_size(limits, scale, lays)?;
        let (format, compression) = self.plan_format(&size, lays)?;
        let background = self.plan_background()?;
        let quality = self.plan_quality()?;
        let moderation = self.plan_word(
            "moderation",
            wire.moderation.as_ref(),
            self.request.moderation.as_ref(),
        )?;
        let style = self.plan_word("style", wire.style.as_ref(), self.request.style.as_ref())?;
        let extra = self.plan_extra()?;
        let call = ImageCall {
            prompt,
            // Made when they are sent.
            images: Vec::new(),
            mask: None,
            scale,
            fidelity,
            n: 1,
            size: size.native.clone(),
            format,
            compression,
            seed: self.request.seed,
            negative_prompt: self.request.negative_prompt.clone(),
            quality,
            background,
            moderation,
            style,
            user: self.request.user.clone(),
            extra,
        };
        if self.request.strict
            && let Some(bent) = self.adjustments.iter().find(|a| !a.is_harmless())
        {
            let reason = format!("strict: {}", bent.reason);
            return Err(self.unsupported(bent.param.clone(), reason));
        }
        let mut candidate = Candidate {
            served: Arc::clone(self.served),
            size,
            call,
            adjustments: std::mem::take(&mut self.adjustments),
            from: self.from(),
            lays,
            cost: None,
        };
        candidate.cost = expected_cost(&candidate, self.request.n);
        if candidate.cost.is_none() && !limits.allow_unpriced {
            let reason = "this deployment has no price; the operator can allow unpriced calls";
            return Err(self.excluded(Code::UnpricedModel, "model", reason));
        }
        Ok(candidate)
    }

    fn check_prompt(&self) -> Result<(), Excluded> {
        let Some(most) = self.deployment.prompt_max else { return Ok(()) };
        let length = self.request.prompt.chars().count();
        if length > most as usize {
            let reason = format!("the prompt has {length} characters, and {most} are taken");
            return Err(self.excluded(Code::InvalidRequest, "prompt", reason));
        }
        Ok(())
    }

    /// The pictures worked from fit the deployment, or can be made to fit.
    fn check_given(&mut self, lends: bool) -> Result<(), Excluded> {
        if !self.deployment.task.takes_pictures() {
            return Ok(());
        }
        let rule = &self.deployment.inputs;
        let given = &self.request.given;
        if given.len() > rule.images as usize {
            let reason =
                format!("{} pictures came, and this deployment takes {}", given.len(), rule.images);
            return Err(self.unsupported("image", reason));
        }
        let small =
            |size: Size| rule.min_side.is_some_and(|least| size.width.min(size.height) < least);
        let sent = |given| given::sent_size(given, rule);
        if let Some(small) = given.iter().map(sent).find(|size| small(*size)) {
            let least = rule.min_side.unwrap_or_default();
            let reason = format!("a picture of {small} is too small: sides from {least} are taken");
            return Err(self.excluded(Code::InvalidImage, "image", reason));
        }
        let wire = &self.deployment.wire;
        let fetches = |field: &Option<InputField>| {
            field.as_ref().is_some_and(|field| field.form == InputForm::Url)
        };
        if !lends && (fetches(&wire.images) || fetches(&wire.mask)) {
            let reason = "this provider fetches pictures from a link: the operator can set \
                          server.public_url to an https address, or keep outputs in S3";
            return Err(self.unsupported("image", reason));
        }
        if rule.mask.is_some_and(|mask| mask.required) && self.request.mask.is_none() {
            let reason = "this deployment needs a mask that marks what is edited";
            return Err(self.unsupported("mask", reason));
        }
        self.adjustments.extend(given::foreseen(self.request, rule));
        Ok(())
    }

    /// The pictures a call is made from, as they are sent.
    fn from(&self) -> WorkedFrom {
        if !self.deployment.task.takes_pictures() {
            return WorkedFrom::default();
        }
        let sent = |given| given::sent_size(given, &self.deployment.inputs).pixels();
        WorkedFrom {
            pictures: u32::try_from(self.request.given.len()).unwrap_or(u32::MAX),
            pixels: self.request.given.iter().map(sent).sum(),
        }
    }

    /// Whether a mask has to be kept to here.
    fn plan_mask(&mut self) -> bool {
        let lays = self.request.mask.is_some() && self.deployment.inputs.mask.is_none();
        if lays {
            let reason =
                "this deployment takes no mask; what the mask keeps is laid over what it draws";
            self.adjustments.push(
                Adjustment::new("mask", AdjustmentKind::Emulated, reason).values(
                    "mask",
                    Value::Null,
                    "mask",
                ),
            );
        }
        lays
    }

    fn plan_scale(&self) -> Result<Option<u32>, Excluded> {
        let Some(factor) = self.request.scale else { return Ok(None) };
        let factors = &self.deployment.inputs.factors;
        if factors.contains(&factor) {
            return Ok(self.deployment.wire.scale.is_some().then_some(factor));
        }
        let known: Vec<String> = factors.iter().map(u32::to_string).collect();
        let reason = if known.is_empty() {
            "this deployment takes no scale_factor".to_owned()
        } else {
            format!("scale_factor {factor} is not one of {}", known.join(", "))
        };
        Err(self.unsupported("scale_factor", reason))
    }

    fn plan_prompt(&mut self) -> String {
        let asked = &self.request.prompt;
        let task = self.deployment.task;
        if task == Task::ImageEdit && self.request.task == Task::ImageVariation && asked.is_empty()
        {
            let reason = "this model has no variations; it edits the picture with a neutral prompt";
            self.adjustments.push(
                Adjustment::new("prompt", AdjustmentKind::Emulated, reason).values(
                    Value::Null,
                    NEUTRAL,
                    Value::Null,
                ),
            );
            return NEUTRAL.to_owned();
        }
        let silent = !matches!(task, Task::ImageGenerate | Task::ImageEdit);
        if silent && !asked.is_empty() && self.deployment.wire.prompt.is_none() {
            let reason = "this deployment takes no prompt";
            self.adjustments.push(
                Adjustment::new("prompt", AdjustmentKind::Dropped, reason).values(
                    asked.as_str(),
                    Value::Null,
                    Value::Null,
                ),
            );
            return String::new();
        }
        asked.clone()
    }

    /// The deployment with its sizes as they are for the pictures at hand.
    fn sized(&self, scale: Option<u32>) -> Cow<'_, Deployment> {
        if !matches!(self.deployment.size, SizeRule::Input { .. }) {
            return Cow::Borrowed(self.deployment);
        }
        let first = self.request.given.first();
        let first = first.map(|given| given::sent_size(given, &self.deployment.inputs));
        let size = self.deployment.size.for_input(first, scale.or(self.request.scale));
        Cow::Owned(Deployment { size, ..self.deployment.clone() })
    }

    fn plan_size(
        &mut self,
        limits: PlanLimits,
        scale: Option<u32>,
        lays: bool,
    ) -> Result<SizePlan, Excluded> {
        let price = |size: Size, tier: Option<&str>| self.served.price(size, tier);
        let deployment = self.sized(scale);
        let plan = |ask: &SizeAsk| plan::plan_size(&deployment, ask, limits.max_upscale, &price);
        let mut planned = plan(&self.request.size);
        if let (true, Want::Auto, Some(first)) =
            (lays, &self.request.size.want, self.request.given.first())
        {
            // What is laid over it must lie where it lay.
            let like =
                |size| SizeAsk { want: Want::Exact(size), fit: Fit::Stretch, ..self.request.size };
            planned = match plan(&like(first.size)) {
                Err(PlanError::TooMuchEnlargement { largest, .. }) => plan(&like(largest)),
                planned => planned,
            };
        }
        let planned = planned.map_err(|error| {
            let examples = plan::examples(&deployment.size).join(", ");
            let reason = format!("{error}; sizes that work: {examples}");
            self.excluded(Code::InvalidSize, "size", reason)
        })?;
        drop(deployment);
        self.check_drawn(&planned, limits)?;
        if let (true, Want::Auto, Some(first), Some(delivered)) =
            (lays, &self.request.size.want, self.request.given.first(), planned.delivered)
            && delivered != first.size
        {
            let reason = format!("this deployment reaches {delivered} of this shape");
            self.adjustments.push(Adjustment::new("size", AdjustmentKind::Resized, reason).values(
                first.size.to_string(),
                planned.native_text(),
                delivered.to_string(),
            ));
        }
        let (native, delivered) = (planned.native_text(), planned.delivered_text());
        let asked = self.request.size_text.clone();
        if let Some(asked) = asked
            && !planned.is_untouched()
        {
            let reason = format!("the provider draws {native}; the gateway makes it {delivered}");
            self.adjustments.push(
                Adjustment::new("size", AdjustmentKind::Resized, reason)
                    .values(asked, native, delivered),
            );
        } else if let Some(asked) = self.request.size_text.clone().filter(|a| *a != native) {
            self.adjustments.push(
                Adjustment::new("size", AdjustmentKind::Renamed, "the provider's own words")
                    .values(asked, native, delivered),
            );
        }
        Ok(planned)
    }

    /// What is drawn can be handed over, and an upscale makes the picture as large as asked.
    fn check_drawn(&self, planned: &SizePlan, limits: PlanLimits) -> Result<(), Excluded> {
        let Some(drawn) = planned.expected else { return Ok(()) };
        let decodes = !planned.is_untouched() || self.request.format.is_some();
        if decodes && drawn.pixels() > limits.max_pixels {
            let reason = format!(
                "{drawn} is drawn, and up to {} pixels can be changed here; ask for the picture as \
                 it is drawn",
                limits.max_pixels
            );
            return Err(self.excluded(Code::ImageTooLarge, "size", reason));
        }
        let first = self.request.given.first();
        if let (Task::ImageUpscale, Some(first)) = (self.deployment.task, first) {
            let least = u64::from(self.request.scale.unwrap_or(1)).pow(2) * first.size.pixels();
            // Rounding to a multiple may cost a few rows.
            if drawn.pixels() * 100 < least * 95 || drawn.pixels() <= first.size.pixels() {
                let reason =
                    format!("this deployment makes {drawn} of a picture of {}", first.size);
                return Err(self.unsupported("scale_factor", reason));
            }
        }
        Ok(())
    }

    /// The format to ask the provider for, and its quality.
    fn plan_format(
        &mut self,
        size: &SizePlan,
        lays: bool,
    ) -> Result<(Option<Format>, Option<u8>), Excluded> {
        let deployment = self.deployment;
        let own = deployment.formats.first().copied().unwrap_or(Format::Png);
        // A quality alone is one of the provider's own format.
        let alone = self.request.compression.map(|_| own);
        // What a mask keeps stays as it is only without loss.
        let whole = (lays && deployment.makes(Format::Png)).then_some(Format::Png);
        let Some(wanted) = self.request.format.or(alone) else {
            return Ok((whole.filter(|_| deployment.wire.format.is_some()), None));
        };
        if (wanted == Format::Svg) != (own == Format::Svg) {
            let reason = format!("this deployment draws {own}");
            return Err(self.unsupported("output_format", reason));
        }
        let lossless_only = self.request.webp_lossless && wanted == Format::Webp;
        let native = if !size.is_untouched() || lossless_only || lays {
            // The picture is encoded here in any case: ask for it without loss if possible.
            Format::Png
        } else {
            wanted
        };
        let asked = if deployment.makes(native) {
            native
        } else if deployment.makes(Format::Png) {
            Format::Png
        } else {
            own
        };
        if asked != wanted {
            let reason = if deployment.makes(wanted) {
                format!("the picture is encoded anew as {wanted}")
            } else {
                format!("the provider does not make {wanted}")
            };
            self.adjustments.push(
                Adjustment::new("output_format", AdjustmentKind::Converted, reason).values(
                    wanted.name(),
                    asked.name(),
                    wanted.name(),
                ),
            );
        }
        if let Some(quality) = self.request.compression.filter(|_| !wanted.is_lossy()) {
            let reason = format!("{wanted} is lossless");
            self.adjustments.push(
                Adjustment::new("output_compression", AdjustmentKind::Dropped, reason).values(
                    quality,
                    Value::Null,
                    Value::Null,
                ),
            );
        }
        let sends = deployment.wire.format.is_some();
        let compression = self.request.compression.filter(|_| asked == wanted && wanted.is_lossy());
        if compression.is_some() && deployment.wire.compression.is_none() && !lossless_only {
            self.adjustments.push(
                Adjustment::new(
                    "output_compression",
                    AdjustmentKind::Emulated,
                    "the provider has no such setting; the picture is encoded anew",
                )
                .values(compression, Value::Null, compression),
            );
        }
        Ok((sends.then_some(asked), compression))
    }

    fn plan_background(&mut self) -> Result<Option<String>, Excluded> {
        let Some(asked) = &self.request.background else { return Ok(None) };
        let choice = self.deployment.wire.background.as_ref();
        if let Some(word) = choice.and_then(|c| c.values.get(asked.as_str())) {
            return Ok(Some(word.clone()));
        }
        match asked.as_str() {
            "transparent" => Err(self.unsupported(
                "background",
                "this deployment does not draw transparent backgrounds",
            )),
            // Every model draws an opaque background unless told otherwise.
            _ => Ok(None),
        }
    }

    fn plan_quality(&mut self) -> Result<Option<String>, Excluded> {
        let Some(asked) = &self.request.quality else { return Ok(None) };
        let Some(choice) = &self.deployment.wire.quality else {
            if !QUALITIES.contains(&asked.as_str()) {
                let reason = format!("quality is one of {}", QUALITIES.join(", "));
                return Err(self.excluded(Code::InvalidRequest, "quality", reason));
            }
            if asked != "auto" {
                let reason = "this deployment has one quality level";
                self.adjustments.push(
                    Adjustment::new("quality", AdjustmentKind::Dropped, reason).values(
                        asked.as_str(),
                        Value::Null,
                        Value::Null,
                    ),
                );
            }
            return Ok(None);
        };
        let word = self.word("quality", choice, asked)?;
        if word != *asked {
            let reason = format!("{asked} is called {word} here");
            self.adjustments.push(
                Adjustment::new("quality", AdjustmentKind::Renamed, reason).values(
                    asked.as_str(),
                    word.as_str(),
                    word.as_str(),
                ),
            );
        }
        Ok(Some(word))
    }

    /// A word for a field that changes nothing that is paid for or seen in size: dropped, and
    /// said, where the deployment has no such field.
    fn plan_word(
        &mut self,
        param: &'static str,
        choice: Option<&Choice>,
        asked: Option<&String>,
    ) -> Result<Option<String>, Excluded> {
        match (choice, asked) {
            (_, None) => Ok(None),
            (Some(choice), Some(asked)) => self.word(param, choice, asked).map(Some),
            (None, Some(asked)) => {
                if asked != "auto" {
                    let reason = format!("this deployment has no {param} setting");
                    self.adjustments.push(
                        Adjustment::new(param, AdjustmentKind::Dropped, reason).values(
                            asked.as_str(),
                            Value::Null,
                            Value::Null,
                        ),
                    );
                }
                Ok(None)
            }
        }
    }

    fn word(&self, param: &'static str, choice: &Choice, asked: &str) -> Result<String, Excluded> {
        choice.values.get(asked).cloned().ok_or_else(|| {
            let known: Vec<&str> = choice.values.keys().map(String::as_str).collect();
            let reason = format!("{param} {asked:?} is not one of {}", known.join(", "));
            self.unsupported(param, reason)
        })
    }

    /// Unknown fields and this provider's own options.
    fn plan_extra(&mut self) -> Result<serde_json::Map<String, Value>, Excluded> {
        let mut extra = self.request.extra.clone();
        for (name, value) in &extra {
            let reason =
                format!("{name} is not a field of this API; it goes to the provider as it is");
            self.adjustments.push(
                Adjustment::new(name.clone(), AdjustmentKind::Passthrough, reason).values(
                    value.clone(),
                    value.clone(),
                    Value::Null,
                ),
            );
        }
        if let Some(own) = self.request.provider_options.get(&self.deployment.provider) {
            extra.extend(own.clone());
        }
        if let Some(owned) = extra.keys().find(|k| self.served.owned.contains(k)) {
            let reason = format!(
                "{owned} is decided by the gateway for {}; use size, n and response_format",
                self.deployment.provider
            );
            let on_top = self.request.extra.contains_key(owned);
            let param = if on_top { owned.clone() } else { "provider_options".to_owned() };
            return Err(self.unsupported(param, reason));
        }
        Ok(extra)
    }
}

/// The most the candidate will cost for `n` pictures.
fn expected_cost(candidate: &Candidate, n: u32) -> Option<Cost> {
    let deployment = &candidate.served.deployment;
    let size = candidate
        .size
        .expected
        .or(deployment.default_size)
        .unwrap_or_else(|| largest(&deployment.size));
    let quality = candidate.call.quality.as_deref().filter(|q| *q != "auto");
    let drawn = Drawn { size, quality, tier: candidate.tier(), from: candidate.from };
    deployment.cost(&vec![drawn; n as usize], &Usage::default())
}

/// The largest picture a rule allows, where a default is not known.
fn largest(rule: &SizeRule) -> Size {
    let finite = rule.finite().into_iter().map(|n| n.size).max_by_key(|s| s.pixels());
    match (finite, rule) {
        (Some(size), _) => size,
        (None, SizeRule::Grid { max, .. }) => Size::new(*max, *max),
        (None, _) => Size::new(2048, 2048),
    }
}
