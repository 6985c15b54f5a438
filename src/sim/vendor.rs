//! The vendors the simulator plays.

use axum::response::Response;

use super::{
    azure, bfl, byteplus, commission, dashscope, deepinfra,
    exchange::{Exchange, Problem},
    fal, fireworks, gemini, ideogram, luma, luma_agents, minimax, openai, prodia, recraft,
    replicate, runware, runway, stability, together, xai,
};

/// A vendor the simulator plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Vendor {
    OpenAi,
    Azure,
    Together,
    Fal,
    Replicate,
    Bfl,
    Gemini,
    Stability,
    Xai,
    Byteplus,
    Recraft,
    Minimax,
    Deepinfra,
    Fireworks,
    Dashscope,
    Runware,
    Luma,
    Runway,
    Ideogram,
    Prodia,
    LumaAgents,
}

/// Which request of a call it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// The one that is paid.
    #[default]
    Submit,
    /// Asks for a job's state.
    Poll,
    /// Fetches a finished job's answer.
    Result,
    /// Downloads a picture.
    File,
    /// Anything else.
    Other,
}

impl Stage {
    /// The word for it in switches and statistics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Poll => "poll",
            Self::Result => "result",
            Self::File => "file",
            Self::Other => "other",
        }
    }
}

impl Vendor {
    pub(crate) const ALL: [Self; 21] = [
        Self::OpenAi,
        Self::Azure,
        Self::Together,
        Self::Fal,
        Self::Replicate,
        Self::Bfl,
        Self::Gemini,
        Self::Stability,
        Self::Xai,
        Self::Byteplus,
        Self::Recraft,
        Self::Minimax,
        Self::Deepinfra,
        Self::Fireworks,
        Self::Dashscope,
        Self::Runware,
        Self::Luma,
        Self::Runway,
        Self::Ideogram,
        Self::Prodia,
        Self::LumaAgents,
    ];

    /// The first segment of its paths.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Azure => "azure",
            Self::Together => "together",
            Self::Fal => "fal",
            Self::Replicate => "replicate",
            Self::Bfl => "bfl",
            Self::Gemini => "gemini",
            Self::Stability => "stability",
            Self::Xai => "xai",
            Self::Byteplus => "byteplus",
            Self::Recraft => "recraft",
            Self::Minimax => "minimax",
            Self::Deepinfra => "deepinfra",
            Self::Fireworks => "fireworks",
            Self::Dashscope => "dashscope",
            Self::Runware => "runware",
            Self::Luma => "luma",
            Self::Runway => "runway",
            Self::Ideogram => "ideogram",
            Self::Prodia => "prodia",
            Self::LumaAgents => "luma-agents",
        }
    }

    /// The path that stands for its base URL, version segment included.
    pub(crate) const fn mount(self) -> &'static str {
        match self {
            Self::OpenAi => "/openai/v1",
            Self::Azure => "/azure/openai",
            Self::Together => "/together/v1",
            Self::Fal => "/fal",
            Self::Replicate => "/replicate/v1",
            Self::Bfl => "/bfl/v1",
            Self::Gemini => "/gemini/v1beta",
            Self::Stability => "/stability/v2beta",
            Self::Xai => "/xai/v1",
            Self::Byteplus => "/byteplus/api/v3",
            Self::Recraft => "/recraft/v1",
            Self::Minimax => "/minimax/v1",
            Self::Deepinfra => "/deepinfra/v1",
            Self::Fireworks => "/fireworks/inference/v1",
            Self::Dashscope => "/dashscope/api/v1",
            Self::Runware => "/runware/v1",
            Self::Luma => "/luma/dream-machine/v1",
            Self::Runway => "/runway/v1",
            Self::Ideogram => "/ideogram/v1",
            Self::Prodia => "/prodia/v2",
            Self::LumaAgents => "/luma-agents/v1",
        }
    }

    /// The vendor of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|vendor| vendor.name() == name)
    }

    /// Its models, as text.
    pub(crate) const fn data(self) -> &'static str {
        match self {
            Self::OpenAi => include_str!("data/openai.toml"),
            Self::Azure => include_str!("data/azure.toml"),
            Self::Together => include_str!("data/together.toml"),
            Self::Fal => include_str!("data/fal.toml"),
            Self::Replicate => include_str!("data/replicate.toml"),
            Self::Bfl => include_str!("data/bfl.toml"),
            Self::Gemini => include_str!("data/gemini.toml"),
            Self::Stability => include_str!("data/stability.toml"),
            Self::Xai => include_str!("data/xai.toml"),
            Self::Byteplus => include_str!("data/byteplus.toml"),
            Self::Recraft => include_str!("data/recraft.toml"),
            Self::Minimax => include_str!("data/minimax.toml"),
            Self::Deepinfra => include_str!("data/deepinfra.toml"),
            Self::Fireworks => include_str!("data/fireworks.toml"),
            Self::Dashscope => include_str!("data/dashscope.toml"),
            Self::Runware => include_str!("data/runware.toml"),
            Self::Luma => include_str!("data/luma.toml"),
            Self::Runway => include_str!("data/runway.toml"),
            Self::Ideogram => include_str!("data/ideogram.toml"),
            Self::Prodia => include_str!("data/prodia.toml"),
            Self::LumaAgents => include_str!("data/luma-agents.toml"),
        }
    }

    /// Whether it works through a queue of jobs.
    pub(crate) const fn has_jobs(self) -> bool {
        matches!(
            self,
            Self::Fal
                | Self::Replicate
                | Self::Bfl
                | Self::Fireworks
                | Self::Dashscope
                | Self::Runware
                | Self::Luma
                | Self::LumaAgents
                | Self::Runway
                | Self::Ideogram
        )
    }

    /// Whether it pushes the end of a job.
    pub(crate) const fn pushes(self) -> bool {
        matches!(self, Self::Fal | Self::Replicate | Self::Bfl | Self::Luma)
    }

    /// Whether it hands out URLs of pictures.
    pub(crate) const fn has_files(self) -> bool {
        self.has_jobs()
            || matches!(
                self,
                Self::Together | Self::Xai | Self::Byteplus | Self::Recraft | Self::Minimax
            )
    }

    /// Seconds a result can be fetched.
    pub(crate) const fn keeps_s(self) -> u64 {
        match self {
            Self::Bfl => 600,
            Self::Byteplus | Self::Recraft | Self::Minimax | Self::Dashscope | Self::Runway => {
                24 * 3600
            }
            _ => 3600,
        }
    }

    /// Which request it is, and of which job.
    pub(crate) fn place(self, x: &Exchange) -> (Stage, Option<String>) {
        match self {
            Self::Fal => fal::place(x),
            Self::Replicate => replicate::place(x),
            Self::Bfl => bfl::place(x),
            Self::Stability => stability::place(x),
            Self::Fireworks => fireworks::place(x),
            Self::Runware => runware::place(x),
            Self::Luma | Self::LumaAgents | Self::Ideogram => commission::place(x, "generations"),
            Self::Runway | Self::Dashscope => commission::place(x, "tasks"),
            _ if x.method == http::Method::POST => (Stage::Submit, None),
            _ => (Stage::Other, None),
        }
    }

    /// Plays the vendor.
    pub(crate) async fn answer(self, x: &Exchange) -> Result<Response, Problem> {
        match self {
            Self::OpenAi => openai::answer(x).await,
            Self::Azure => azure::answer(x).await,
            Self::Together => together::answer(x).await,
            Self::Fal => fal::answer(x).await,
            Self::Replicate => replicate::answer(x).await,
            Self::Bfl => bfl::answer(x).await,
            Self::Gemini => gemini::answer(x).await,
            Self::Stability => stability::answer(x).await,
            Self::Xai => xai::answer(x).await,
            Self::Byteplus => byteplus::answer(x).await,
            Self::Recraft => recraft::answer(x).await,
            Self::Minimax => minimax::answer(x).await,
            Self::Deepinfra => deepinfra::answer(x).await,
            Self::Fireworks => fireworks::answer(x).await,
            Self::Dashscope => dashscope::answer(x).await,
            Self::Runware => runware::answer(x).await,
            Self::Luma => luma::answer(x).await,
            Self::Runway => runway::answer(x).await,
            Self::Ideogram => ideogram::answer(x).await,
            Self::Prodia => prodia::answer(x).await,
            Self::LumaAgents => luma_agents::answer(x).await,
        }
    }

    /// A refusal, as the vendor words it.
    pub(crate) fn refuse(self, problem: &Problem) -> Response {
        match self {
            Self::OpenAi => openai::refuse(problem),
            Self::Azure => azure::refuse(problem),
            Self::Together => together::refuse(problem),
            Self::Fal => fal::refuse(problem),
            Self::Replicate => replicate::refuse(problem),
            Self::Bfl => bfl::refuse(problem),
            Self::Gemini => gemini::refuse(problem),
            Self::Stability => stability::refuse(problem),
            Self::Xai => xai::refuse(problem),
            Self::Byteplus => byteplus::refuse(problem),
            Self::Recraft => recraft::refuse(problem),
            Self::Minimax => minimax::refuse(problem),
            Self::Deepinfra => deepinfra::refuse(problem),
            Self::Fireworks => fireworks::refuse(problem),
            Self::Dashscope => dashscope::refuse(problem),
            Self::Runware => runware::refuse(problem),
            Self::Luma => luma::refuse(problem),
            Self::Runway => runway::refuse(problem),
            Self::Ideogram => ideogram::refuse(problem),
            Self::Prodia => prodia::refuse(problem),
            Self::LumaAgents => luma_agents::refuse(problem),
        }
    }
}
