//! Objects in this process. For trying things out, and for gateways that keep nothing.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use subtle::ConstantTimeEq as _;

use super::{Claim, Kept, Object, ObjectHeader, ObjectId, ObjectStream, StoreError, Swept};

#[derive(Debug)]
pub(super) struct Memory {
    max_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: HashMap<String, Held>,
    /// Held, and about to be.
    bytes: u64,
}

#[derive(Debug)]
struct Held {
    id: ObjectId,
    header: ObjectHeader,
    body: Bytes,
}

impl Memory {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self { max_bytes, state: Mutex::default() }
    }

    /// Copies the blob, so that its own memory or file is free for the next request. Blocks.
    pub(super) fn put(&self, object: Object) -> Result<Kept, StoreError> {
        let expected = object.body.media_len();
        let room = self.reserve(expected, object.meta.created)?;
        let mut body = BytesMut::with_capacity(expected as usize);
        let (len, sha256) = object.read(|piece| {
            body.extend_from_slice(&piece);
            Ok(())
        })?;
        let Object { key, id, expires_at, meta, .. } = object;
        let header = ObjectHeader { format: meta.format, len, sha256: sha256.clone(), expires_at };
        let mut state = self.state.lock();
        room.settle(&mut state, len);
        if let Some(before) =
            state.objects.insert(key.clone(), Held { id, header, body: body.freeze() })
        {
            state.bytes -= before.header.len;
        }
        Ok(Kept { key, id, bytes: len, sha256, expires_at: Some(expires_at) })
    }

    /// Makes room, by removing what is past its retention and nothing else.
    fn reserve(&self, bytes: u64, now: u64) -> Result<Room<'_>, StoreError> {
        let mut state = self.state.lock();
        if state.bytes.saturating_add(bytes) > self.max_bytes {
            state.sweep(now);
        }
        if state.bytes.saturating_add(bytes) > self.max_bytes {
            return Err(StoreError::Full);
        }
        state.bytes += bytes;
        Ok(Room { memory: self, bytes })
    }

    pub(super) fn open(&self, claim: &Claim) -> Result<(ObjectHeader, ObjectStream), StoreError> {
        let state = self.state.lock();
        let held = state.objects.get(&claim.key).filter(|held| same(held.id, claim.id));
        let held = held.ok_or(StoreError::Unknown)?;
        let body = held.body.clone();
        Ok((held.header.clone(), stream::once(async move { Ok(body) }).boxed()))
    }

    pub(super) fn sweep(&self, now: u64) -> Swept {
        self.state.lock().sweep(now)
    }
}

/// Compares ids in the same time wherever they differ.
pub(super) fn same(a: ObjectId, b: ObjectId) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

impl State {
    fn sweep(&mut self, now: u64) -> Swept {
        let mut swept = Swept::default();
        self.objects.retain(|_, held| {
            let keep = held.header.expires_at > now;
            if !keep {
                swept.objects += 1;
                swept.bytes += held.header.len;
            }
            keep
        });
        self.bytes -= swept.bytes;
        swept
    }
}

/// Bytes set aside; given back unless settled.
struct Room<'a> {
    memory: &'a Memory,
    bytes: u64,
}

impl Room<'_> {
    /// Turns what was set aside into what is held.
    fn settle(mut self, state: &mut State, held: u64) {
        state.bytes = state.bytes - self.bytes + held;
        self.bytes = 0;
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.memory.state.lock().bytes -= self.bytes;
        }
    }
}
