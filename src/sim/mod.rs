//! The provider simulator: every vendor at once on one listener, each under its own path.
//!
//! It plays the vendors' true wire protocols, strictly: what the vendor would refuse is refused
//! here in the vendor's words. It shares no code with the adapters and no data with the
//! catalogue, so that it can prove them wrong. One file per dialect ([`openai`], [`fal`], ...),
//! its models in `data/`, around common parts:
//!
//! 1. [`router`] turns a request into an [`Exchange`](exchange::Exchange) and finds the fault
//!    that is switched on, if any ([`faults`]).
//! 2. The dialect checks key, content type and fields ([`schema`], [`size`]) and takes a job
//!    ([`jobs`]), whose pictures begin to be drawn at once ([`gallery`], [`draw`], [`encode`]).
//! 3. Replies tell the job's state by the time that has passed; pictures come inline or from
//!    [`files`], by URLs that expire. Whoever asked for it is told of the end ([`hooks`]).
//! 4. [`tally`] keeps the truth: how many jobs were taken, and how many are billed.

#[cfg(test)]
mod agreement;
mod azure;
mod bfl;
mod byteplus;
mod commission;
mod dashscope;
mod data;
mod deepinfra;
mod draw;
mod encode;
mod exchange;
mod fal;
mod faults;
mod files;
mod fireworks;
mod form;
mod gallery;
mod gemini;
mod given;
mod hooks;
mod ideogram;
mod jobs;
mod luma;
mod luma_agents;
mod minimax;
mod openai;
mod picture;
mod prodia;
mod recraft;
mod replicate;
mod retouch;
mod rng;
mod runware;
mod runway;
mod schema;
mod server;
mod size;
mod stability;
mod studio;
mod tally;
mod together;
mod vendor;
mod xai;

pub use faults::{FaultRate, UnknownFault};
pub use server::{router, serve};

use providers::catalog::{Catalog, Deployment, Task};

use data::Family;
use gallery::Gallery;
use hooks::Hooks;
use jobs::Jobs;

/// How the simulator behaves.
#[derive(Clone, Debug)]
pub struct SimSettings {
    /// Median seconds a job waits in the queue.
    pub queue_s: f64,
    /// Median seconds the work takes.
    pub run_s: f64,
    /// Spread of both: the standard deviation of their logarithm.
    pub sigma: f64,
    /// Decides all that is left to chance.
    pub seed: u64,
    /// The path under which the router is mounted, without a trailing slash; empty at the root.
    pub base_path: String,
    /// Faults that happen now and then.
    pub faults: Vec<FaultRate>,
}

impl Default for SimSettings {
    /// About two seconds a picture, so that a first try is quick.
    fn default() -> Self {
        Self {
            queue_s: 0.6,
            run_s: 1.5,
            sigma: 0.25,
            seed: 1,
            base_path: String::new(),
            faults: Vec::new(),
        }
    }
}

/// The path behind the listener's address that stands for a provider's base URL; none if the
/// simulator does not play it.
pub fn mount(provider: &str) -> Option<&'static str> {
    vendor::Vendor::named(provider).map(vendor::Vendor::mount)
}

/// Whether it plays a deployment: its vendor, and the model in this task.
pub fn plays(deployment: &Deployment) -> bool {
    vendor::Vendor::named(&deployment.provider).is_some_and(|vendor| {
        let data = data::VendorData::of(vendor);
        match deployment.task {
            Task::ImageGenerate => data.model(&deployment.upstream).is_some_and(Family::generates),
            _ => data.worker(&deployment.upstream).is_some(),
        }
    })
}

/// Leaves in a catalogue what it plays.
pub fn keep_played(catalog: &mut Catalog) {
    for provider in catalog.providers.values_mut() {
        provider.models.retain(plays);
    }
    catalog.providers.retain(|id, provider| mount(id).is_some() && !provider.models.is_empty());
}

/// A running simulator.
pub(crate) struct Sim {
    settings: SimSettings,
    jobs: Jobs,
    gallery: Gallery,
    hooks: Hooks,
    /// Signs the URLs of pictures.
    secret: [u8; 16],
}
