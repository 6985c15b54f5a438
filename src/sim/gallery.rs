//! Draws pictures beside the event loop, each once, and remembers the last ones.

use std::{
    collections::{HashMap, VecDeque},
    panic::catch_unwind,
    sync::{Arc, OnceLock, mpsc},
    thread,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::encode::Recipe;

/// Bytes of pictures that are remembered; any other can be drawn again.
const REMEMBERED: usize = 64 << 20;

/// The pictures of a simulator and the threads that draw them.
pub(crate) struct Gallery {
    orders: mpsc::Sender<Arc<Frame>>,
    shelf: Mutex<Shelf>,
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
        let (orders, queue) = mpsc::channel::<Arc<Frame>>();
        let queue = Arc::new(Mutex::new(queue));
        // One core is left to those who serve.
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let painters = cores.saturating_sub(1).clamp(1, 4);
        for i in 0..painters {
            let queue = Arc::clone(&queue);
            let work = move || {
                loop {
                    let order = queue.lock().recv();
                    let Ok(frame) = order else { return };
                    frame.picture.get_or_init(|| {
                        // A panic must not leave those who wait for the picture waiting.
                        catch_unwind(|| frame.recipe.make())
                            .unwrap_or_else(|_| Err("the painter panicked".to_owned()))
                    });
                    frame.hung.notify_waiters();
                }
            };
            if let Err(error) = thread::Builder::new().name(format!("sim-draw-{i}")).spawn(work) {
                tracing::error!(%error, "the simulator has one painter less");
            }
        }
        Self { orders, shelf: Mutex::default() }
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
        if self.orders.send(Arc::clone(&frame)).is_err() {
            let _first = frame.picture.set(Err("the painters are gone".to_owned()));
        }
        frame
    }

    /// A picture, drawn if need be.
    pub(crate) async fn picture(&self, recipe: &Recipe) -> Result<Bytes, String> {
        let frame = self.frame(recipe);
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
