//! How many jobs a key runs at once.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::{
    Refused,
    shared::{LeaseId, Shared},
};

/// Who runs how many jobs in this process.
#[derive(Debug)]
pub(super) struct Places {
    taken: Mutex<HashMap<String, u32>>,
    shared: Option<Arc<Shared>>,
}

/// A place among the jobs a key may run at once. Dropping it frees the place.
#[must_use = "the place is free again as soon as the permit is dropped"]
#[derive(Debug)]
pub struct Permit {
    places: Arc<Places>,
    key: String,
    lease: Option<LeaseId>,
}

impl Places {
    pub(super) fn new(shared: Option<Arc<Shared>>) -> Self {
        Self { taken: Mutex::default(), shared }
    }

    pub(super) async fn enter(this: &Arc<Self>, key: &str, most: u32) -> Result<Permit, Refused> {
        let busy = Refused::Busy { limit: most };
        let Some(count) = this.take(key, most) else { return Err(busy) };
        let mut permit = Permit { places: Arc::clone(this), key: key.to_owned(), lease: None };
        let Some(shared) = &this.shared else { return Ok(permit) };
        // Before the question is sent: where its answer is lost, the permit still frees the place.
        let lease = *permit.lease.insert(shared.new_lease());
        let free = match shared.lease(key, most, lease).await {
            Some(free) => free,
            None => count <= (most / shared.replicas()).max(1),
        };
        if !free {
            permit.lease = None;
            return Err(busy);
        }
        shared.hold(key, lease);
        Ok(permit)
    }

    /// Counts one more and says how many that makes, unless there are as many as may be.
    fn take(&self, key: &str, most: u32) -> Option<u32> {
        let mut taken = self.taken.lock();
        let count = taken.get(key).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        taken.insert(key.to_owned(), count + 1);
        Some(count + 1)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.taken.lock().is_empty()
    }

    fn leave(&self, key: &str) {
        let mut taken = self.taken.lock();
        if let Some(count) = taken.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(key);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.places.leave(&self.key);
        if let (Some(shared), Some(lease)) = (&self.places.shared, self.lease) {
            shared.release(&self.key, lease);
        }
    }
}
