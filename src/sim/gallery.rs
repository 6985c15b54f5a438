//! Draws pictures beside the event loop, each once, and remembers the last ones.
//!
//! A picture is begun when its job is taken, so that it is there when the job ends. One that
//! somebody waits for goes before those.

use std::{
    collections::{HashMap, VecDeque},
    panic::catch_unwind,
    sync::{Arc, OnceLock},
    thread,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use super::encode::Recipe;

/// Bytes of pictures that are remembered; any other can be drawn again.
const REMEMBERED: usize = 64 << 20;

/// The pictures of a simulator and the threads that draw them.
pub(crate) struct Gallery {
    easel: Arc<Easel>,
    shelf: Mutex<Shelf>,
}

/// Where orders wait for a painter.
#[derive(Default)]
struct Easel {
    orders: Mutex<Orders>,
    come: Condvar,
}

#[derive(Default)]
struct Orders {
    awaited: VecDeque<Arc<Frame>>,
    ahead: VecDeque<Arc<Frame>>,
    closed: bool,
}

impl Easel {
    /// The next picture to draw; none once the gallery is gone.
    fn next(&self) -> Option<Arc<Frame>> {
        let mut orders = self.orders.lock();
        loop {
            if orders.closed {
                return None;
            }
            let first = orders.awaited.pop_front();
            if let Some(frame) = first.or_else(|| orders.ahead.pop_front()) {
                return Some(frame);
            }
            self.come.wait(&mut orders);
        }
    }

    fn paint(&self) {
        while let Some(frame) = self.next() {
            frame.picture.get_or_init(|| {
                // A panic must not leave those who wait for the picture waiting.
                catch_unwind(|| frame.recipe.make())
                    .unwrap_or_else(|_| Err("the painter panicked".to_owned()))
            });
            frame.hung.notify_waiters();
        }
    }
}

impl Drop for Gallery {
    fn drop(&mut self) {
        self.easel.orders.lock().closed = true;
        self.easel.come.notify_all();
    }
}

#[derive(Default)]
struct Shelf {
    frames: HashMap<Recipe, Arc<Frame>>,
    oldest: VecDeque<Recipe>,
}

struct Frame {
    recipe: Recipe,
    picture: OnceLock<Result<Bytes, String>>,
    hung: Notify,
}

impl Gallery {
    /// An empty gallery; its threads end with it.
    pub(crate) fn new() -> Self {
        let easel = Arc::new(Easel::default());
        // One core is left to those who serve.
        let cores = thread::available_parallelism().map_or(1, usize::from);
        for i in 0..cores.saturating_sub(1).clamp(1, 4) {
            let theirs = Arc::clone(&easel);
            let thread = thread::Builder::new().name(format!("sim-draw-{i}"));
            if let Err(error) = thread.spawn(move || theirs.paint()) {
                tracing::error!(%error, "the simulator has one painter less");
            }
        }
        Self { easel, shelf: Mutex::default() }
    }

    /// Begins a picture, if it is not there yet.
    pub(crate) fn order(&self, recipe: &Recipe) {
        self.frame(recipe);
    }

    fn frame(&self, recipe: &Recipe) -> Arc<Frame> {
        let mut shelf = self.shelf.lock();
        if let Some(frame) = shelf.frames.get(recipe) {
            return Arc::clone(frame);
        }
        let frame = Arc::new(Frame {
            recipe: recipe.clone(),
            picture: OnceLock::new(),
            hung: Notify::new(),
        });
        shelf.frames.insert(recipe.clone(), Arc::clone(&frame));
        shelf.oldest.push_back(recipe.clone());
        shelf.tidy();
        self.easel.orders.lock().ahead.push_back(Arc::clone(&frame));
        self.easel.come.notify_one();
        frame
    }

    /// The bytes of a picture, if it is drawn.
    pub(crate) fn weight(&self, recipe: &Recipe) -> Option<usize> {
        let frame = self.frame(recipe);
        frame.picture.get()?.as_ref().ok().map(Bytes::len)
    }

    /// A picture, drawn if need be.
    pub(crate) async fn picture(&self, recipe: &Recipe) -> Result<Bytes, String> {
        let frame = self.frame(recipe);
        if frame.picture.get().is_none() {
            self.easel.orders.lock().awaited.push_back(Arc::clone(&frame));
            self.easel.come.notify_one();
        }
        loop {
            let hung = frame.hung.notified();
            if let Some(picture) = frame.picture.get() {
                return picture.clone();
            }
            hung.await;
        }
    }
}

impl Shelf {
    /// Takes the oldest pictures down while there are too many; those in work weigh nothing.
    fn tidy(&mut self) {
        let weigh = |frame: &Arc<Frame>| {
            frame.picture.get().and_then(|p| p.as_ref().ok()).map_or(0, Bytes::len)
        };
        let mut weight: usize = self.frames.values().map(weigh).sum();
        while weight > REMEMBERED
            && let Some(recipe) = self.oldest.pop_front()
        {
            weight -= self.frames.remove(&recipe).as_ref().map_or(0, weigh);
        }
    }
}

#[cfg(test)]
mod tests {
    use providers::media::{Format, Size};

    use super::*;
    use crate::sim::{
        draw::{Scene, Veil},
        encode::Harm,
    };

    #[tokio::test]
    async fn a_picture_is_drawn_once_and_the_same_again_after_it_was_taken_down() {
        let scene = Scene {
            size: Size::new(64, 64),
            prompt: "a fox".to_owned(),
            caption: String::new(),
            seed: 1,
            transparent: false,
            veil: Veil::Clear,
            work: None,
        };
        let recipe = Recipe { scene, format: Format::Png, quality: 90, harm: Harm::None };
        let gallery = Gallery::new();
        gallery.order(&recipe);
        let first = gallery.picture(&recipe).await.unwrap();
        let second = gallery.picture(&recipe).await.unwrap();
        assert_eq!(first.as_ptr(), second.as_ptr(), "remembered, not drawn again");
        *gallery.shelf.lock() = Shelf::default();
        let again = gallery.picture(&recipe).await.unwrap();
        assert_ne!(first.as_ptr(), again.as_ptr());
        assert_eq!(first, again);
    }
}
