//! The truth about money: which jobs a vendor took and which it bills, whoever noticed or not.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    jobs::{Job, State},
    vendor::Vendor,
};

/// Jobs by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    /// All that were taken.
    accepted: u64,
    /// Of those: not over yet.
    open: u64,
    /// Of those: paid for.
    billed: u64,
    /// Of those: cancelled in time, whether billed or not.
    cancelled: u64,
    /// Of those: ended without a picture and without a bill.
    failed: u64,
    /// Pictures that are paid for.
    pictures: u64,
}

impl Count {
    fn add(&mut self, job: &Job) {
        self.accepted += 1;
        match job.state() {
            State::Queued | State::Running => self.open += 1,
            State::Cancelled => self.cancelled += 1,
            State::Done => self.failed += u64::from(job.work.is_err()),
        }
        if Tally::bills(job) {
            self.billed += 1;
            self.pictures += job.work.as_ref().map_or(0, Vec::len) as u64;
        }
    }

    fn fields(self) -> Map<String, Value> {
        [
            ("accepted", self.accepted),
            ("open", self.open),
            ("billed", self.billed),
            ("cancelled", self.cancelled),
            ("failed", self.failed),
            ("billed_pictures", self.pictures),
        ]
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect()
    }
}

/// The counts of every vendor, deployment and prompt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    vendors: BTreeMap<Vendor, Count>,
    deployments: BTreeMap<(Vendor, String), Count>,
    prompts: BTreeMap<String, Count>,
}

impl Tally {
    /// Whether the vendor bills a job as it stands: it was drawn, or it was cancelled while
    /// Replicate's machine was already running. What is not over is not billed yet.
    pub(crate) fn bills(job: &Job) -> bool {
        match (job.state(), job.cancelled) {
            (State::Done, _) => job.work.is_ok(),
            (State::Cancelled, Some(at)) => {
                job.vendor == Vendor::Replicate && job.work.is_ok() && at >= job.starts()
            }
            _ => false,
        }
    }

    /// Counts a job.
    pub(crate) fn add(&mut self, job: &Job) {
        self.vendors.entry(job.vendor).or_default().add(job);
        self.deployments.entry((job.vendor, job.model.clone())).or_default().add(job);
        self.prompts.entry(job.prompt.clone()).or_default().add(job);
    }

    /// The counts of a vendor.
    pub(crate) fn vendor(&self, vendor: Vendor) -> Map<String, Value> {
        self.vendors.get(&vendor).copied().unwrap_or_default().fields()
    }

    /// The counts of every model of every vendor.
    pub(crate) fn deployments(&self) -> Vec<Value> {
        let deployment = |((vendor, model), count): (&(Vendor, String), &Count)| {
            let mut fields = count.fields();
            fields.insert("vendor".to_owned(), vendor.name().into());
            fields.insert("model".to_owned(), model.as_str().into());
            fields.into()
        };
        self.deployments.iter().map(deployment).collect()
    }

    /// The counts of every prompt.
    pub(crate) fn prompts(&self) -> Value {
        let fields = |(prompt, count): (&String, &Count)| (prompt.clone(), count.fields().into());
        json!(self.prompts.iter().map(fields).collect::<Map<String, Value>>())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sim::{
        SimSettings,
        exchange::Problem,
        jobs::{Jobs, NewJob},
    };

    #[tokio::test(start_paused = true)]
    async fn what_was_drawn_is_billed_and_a_stopped_machine_too() {
        let settings =
            SimSettings { queue_s: 1.0, run_s: 2.0, sigma: 0.0, ..SimSettings::default() };
        let jobs = Jobs::new(&settings);
        let take = |vendor: Vendor, ok: bool| {
            let work = if ok { Ok(Vec::new()) } else { Err(Problem::Internal) };
            let (model, prompt) = ("m", format!("{ok}"));
            let (fault, longer) = (None, Duration::ZERO);
            let (request, client_ref, hook) = (Value::Null, None, None);
            let new =
                NewJob { vendor, model, prompt, request, work, fault, longer, client_ref, hook };
            jobs.take(new).id
        };
        let check = |vendor: Vendor, counts: [u64; 5]| {
            let stats = jobs.stats();
            let found = ["accepted", "open", "billed", "cancelled", "failed"]
                .map(|name| stats["vendors"][vendor.name()][name].as_u64().unwrap());
            assert_eq!(found, counts, "{vendor:?}");
        };
        for vendor in [Vendor::Fal, Vendor::Replicate] {
            take(vendor, true);
            take(vendor, false);
            jobs.cancel(&take(vendor, true));
            check(vendor, [3, 2, 0, 1, 0]);
        }
        tokio::time::advance(Duration::from_millis(2_500)).await;
        for vendor in [Vendor::Fal, Vendor::Replicate] {
            let id = take(vendor, true);
            tokio::time::advance(Duration::from_millis(1_500)).await;
            jobs.cancel(&id);
        }
        check(Vendor::Fal, [4, 0, 1, 2, 1]);
        check(Vendor::Replicate, [4, 0, 2, 2, 1]);
        // Once forgotten they still count.
        tokio::time::advance(Duration::from_hours(2)).await;
        take(Vendor::Fal, true);
        check(Vendor::Replicate, [4, 0, 2, 2, 1]);
        let stats = jobs.stats();
        assert_eq!(stats["jobs"].as_array().unwrap().len(), 1);
        assert_eq!(stats["prompts"]["false"]["accepted"], 2);
        assert_eq!(stats["deployments"][0]["model"], "m");
    }
}
