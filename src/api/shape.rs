//! The shapes of requests and answers, as the API document shows them. Requests are read field
//! by field in [`super::request`], so that every mistake names its field.

use serde::Serialize;
use utoipa::ToSchema;

/// A request to work from pictures. It takes every field of [`ImagesRequest`] too. In JSON a picture
/// is an https link, a data URI or `{"image_url": ...}`.
#[derive(Serialize, ToSchema)]
pub(super) struct EditsRequest {
    /// A public name, a provider slug, a route or an alias.
    #[schema(example = "gpt-image-2")]
    model: String,
    /// The pictures, 1 to 16: `image`, `image[]` or `images`.
    #[schema(format = Binary)]
    image: Vec<String>,
    /// What of the first picture is edited; of the same size.
    #[schema(format = Binary)]
    mask: Option<String>,
    /// How the mask marks that: `transparent`, `white` or `black`.
    mask_marks: Option<String>,
    /// What to draw. Variations, `upscale` and `remove_background` need none.
    prompt: Option<String>,
    /// `edit`, `upscale` or `remove_background`; only at `/v1/images/edits`.
    mode: Option<String>,
    /// With `upscale`: how many times as long each side gets.
    scale_factor: Option<u32>,
    /// `low` or `high`: how closely the pictures are kept to.
    input_fidelity: Option<String>,
}

/// A picture request. Unknown fields go to the provider as they are.
#[derive(Serialize, ToSchema)]
pub(super) struct ImagesRequest {
    /// A public name, a provider slug, a route or an alias.
    #[schema(example = "flux-1.1-pro")]
    model: String,
    /// Models to try after it.
    models: Option<Vec<String>>,
    /// What to draw.
    prompt: String,
    /// How many pictures.
    #[schema(minimum = 1, maximum = 10, default = 1)]
    n: Option<u32>,
    /// `auto`, `1536x1024`, `16:9`, `512`, `1K`, `2K` or `4K`.
    #[schema(example = "1024x1024")]
    size: Option<String>,
    /// `16:9`; beside a tier in `size` or `resolution`.
    aspect_ratio: Option<String>,
    /// `512`, `1K`, `2K` or `4K`.
    resolution: Option<String>,
    /// `cover`, `pad`, `stretch`, `contain` or `none`.
    fit: Option<String>,
    /// The colour behind padding and flattened transparency: `#rrggbb`.
    pad_color: Option<String>,
    /// `auto`, `low`, `medium`, `high`; some models take more.
    quality: Option<String>,
    /// `auto`, `opaque` or `transparent`.
    background: Option<String>,
    /// `png`, `jpeg`, `webp`, `avif`, `gif` or `svg`.
    output_format: Option<String>,
    /// Quality of the lossy formats.
    #[schema(minimum = 0, maximum = 100)]
    output_compression: Option<u8>,
    /// Lossless WebP.
    webp_lossless: Option<bool>,
    /// `b64_json` or `url`.
    response_format: Option<String>,
    /// The seed; with several calls each takes the next.
    seed: Option<u32>,
    /// What must not be in the picture.
    negative_prompt: Option<String>,
    /// `auto` or `low`.
    moderation: Option<String>,
    /// A style of the model.
    style: Option<String>,
    /// The end user.
    user: Option<String>,
    /// Refuse whatever would be changed beyond renaming.
    strict: Option<bool>,
    /// Report mere renamings too.
    verbose: Option<bool>,
    /// All pictures or none.
    require_all: Option<bool>,
    /// `order`, `only`, `ignore` and `allow_fallbacks`.
    #[schema(value_type = Option<Object>)]
    provider: Option<()>,
    /// Fields for one provider: `{"fal": {...}}`.
    #[schema(value_type = Option<Object>)]
    provider_options: Option<()>,
}

/// Pictures.
#[derive(Serialize, ToSchema)]
pub(super) struct ImagesResponse {
    /// Seconds since 1970.
    created: u64,
    /// The pictures.
    data: Vec<Picture>,
    /// How they came about: provider, attempts, adjustments, cost, outputs.
    #[schema(value_type = Object)]
    mediagate: (),
}

/// One picture.
#[derive(Serialize, ToSchema)]
pub(super) struct Picture {
    /// Its base64 text.
    b64_json: Option<String>,
    /// A signed link that expires.
    url: Option<String>,
    /// The prompt as the provider rewrote it.
    revised_prompt: Option<String>,
}

/// What went wrong.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorResponse {
    error: ErrorBody,
}

/// The error itself; `docs/errors.md` has the codes.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorBody {
    message: String,
    r#type: String,
    param: Option<String>,
    code: String,
}
