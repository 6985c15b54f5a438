//! CPU work on threads of its own, bounded in number, in waiting and in memory.
//!
//! Two lanes. `Normal` has one thread per core but one (at least one), so the threads that
//! serve sockets keep a core. `Slow` is for work of a second and more, which today is AVIF: half
//! as many threads (at least one) that take nothing else, so it delays other conversions only by
//! sharing the processor, never by queueing before them. A call passes three gates in order: a
//! place in its lane's queue, or it is refused at once; a thread of its lane; its share of the
//! memory that all decoded pictures together may take. Memory is taken last, so what waits for a
//! thread holds none.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread,
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// The grain of the memory budget, since a semaphore counts in 32 bits.
const GRAIN: u64 = 4096;

/// Which threads may do the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Milliseconds: decoding, resizing, most encoding.
    Normal,
    /// Seconds: AVIF encoding.
    Slow,
}

/// Why work was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Too much is waiting already; come back later.
    #[error("too many conversions are waiting, try again later")]
    Full,
    /// The work panicked; its thread lives on.
    #[error("the conversion failed unexpectedly")]
    Panicked,
    /// The pool is shutting down.
    #[error("the conversion threads have stopped")]
    Stopped,
}

/// How large a pool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Threads of the normal lane, at least 1.
    pub threads: usize,
    /// Threads of the slow lane, at least 1.
    pub slow_threads: usize,
    /// Calls that may wait in each lane.
    pub queue: usize,
    /// Bytes of decoded pixels at once, over both lanes.
    pub memory: u64,
}

impl Default for Settings {
    /// As many threads as this machine has cores but one, 64 waiting, 256 MiB.
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.saturating_sub(1).max(1);
        Self { threads, slow_threads: (threads / 2).max(1), queue: 64, memory: 256 << 20 }
    }
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Debug)]
struct Threads {
    /// Places for work that runs or waits.
    places: Arc<Semaphore>,
    /// Idle threads.
    idle: Arc<Semaphore>,
    jobs: mpsc::Sender<Job>,
    /// The most memory one call is booked for, in grains.
    heaviest: u32,
}

/// The threads. Shared by reference counting; they end when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Pool {
    normal: Arc<Threads>,
    slow: Arc<Threads>,
    memory: Arc<Semaphore>,
}

impl Pool {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn new(settings: Settings) -> std::io::Result<Self> {
        let grains = u32::try_from(settings.memory.div_ceil(GRAIN)).unwrap_or(u32::MAX).max(1);
        // Slow work holds its memory for seconds: half is left for the rest.
        let slow = settings.slow_threads.max(1);
        let slow_share = (grains / 2 / u32::try_from(slow).unwrap_or(u32::MAX)).max(1);
        Ok(Self {
            normal: Threads::start("convert", settings.threads.max(1), settings.queue, grains)?,
            slow: Threads::start("convert-slow", slow, settings.queue, slow_share)?,
            memory: Arc::new(Semaphore::new(grains as usize)),
        })
    }

    /// Does work on a thread of the lane and returns its result.
    ///
    /// `weight` is the bytes of pixels it will hold. What outweighs the whole budget is booked
    /// for all of it and runs alone (in the slow lane: for its thread's part of half of it);
    /// limits on the picture itself belong to [`super::sniff`]. Dropping the future before the
    /// work began means that it never will; afterwards, that its result is thrown away.
    pub async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        weight: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let threads = self.threads(lane);
        let place = Arc::clone(&threads.places).try_acquire_owned().map_err(|_| PoolError::Full)?;
        self.run_at(place, threads, weight, work).await
    }

    /// The same for work that must not be refused, such as a picture that is paid already: waits
    /// for a place in the queue too. The caller bounds the time.
    pub async fn run_in_turn<T: Send + 'static>(
        &self,
        lane: Lane,
        weight: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let threads = self.threads(lane);
        let place = acquire(&threads.places, 1).await?;
        self.run_at(place, threads, weight, work).await
    }

    fn threads(&self, lane: Lane) -> &Threads {
        match lane {
            Lane::Normal => &self.normal,
            Lane::Slow => &self.slow,
        }
    }

    async fn run_at<T: Send + 'static>(
        &self,
        place: OwnedSemaphorePermit,
        threads: &Threads,
        weight: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let thread = acquire(&threads.idle, 1).await?;
        let grains = u32::try_from(weight.div_ceil(GRAIN)).unwrap_or(u32::MAX);
        let memory = acquire(&self.memory, grains.min(threads.heaviest)).await?;
        let (reply, result) = oneshot::channel();
        let job = Box::new(move || {
            let held = (place, thread, memory);
            if reply.is_closed() {
                return;
            }
            let outcome = catch_unwind(AssertUnwindSafe(work)).map_err(|_| PoolError::Panicked);
            // Given back before the caller hears, so that its next call finds them free.
            drop(held);
            let _ = reply.send(outcome);
        });
        threads.jobs.send(job).map_err(|_| PoolError::Stopped)?;
        result.await.unwrap_or(Err(PoolError::Stopped))
    }
}

async fn acquire(of: &Arc<Semaphore>, count: u32) -> Result<OwnedSemaphorePermit, PoolError> {
    Arc::clone(of).acquire_many_owned(count).await.map_err(|_| PoolError::Stopped)
}

impl Threads {
    fn start(name: &str, count: usize, queue: usize, heaviest: u32) -> std::io::Result<Arc<Self>> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let inbox = Arc::new(Mutex::new(inbox));
        for index in 0..count {
            let inbox = Arc::clone(&inbox);
            thread::Builder::new().name(format!("{name}-{index}")).spawn(move || {
                loop {
                    // The lock is held while waiting and given up before the work.
                    let next = inbox.lock().recv();
                    match next {
                        Ok(job) => job(),
                        Err(mpsc::RecvError) => break,
                    }
                }
            })?;
        }
        Ok(Arc::new(Self {
            places: Arc::new(Semaphore::new(count + queue)),
            idle: Arc::new(Semaphore::new(count)),
            jobs,
            heaviest,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, AtomicU64, Ordering},
        time::Duration,
    };

    use super::*;

    const SMALL: Settings = Settings { threads: 1, slow_threads: 1, queue: 2, memory: 100 * GRAIN };

    /// A thread held until the sender is dropped, and the call that holds it.
    fn hold(
        pool: &Pool,
        lane: Lane,
    ) -> (mpsc::Sender<()>, tokio::task::JoinHandle<Result<(), PoolError>>) {
        let (release, held) = mpsc::channel::<()>();
        let pool = pool.clone();
        let call = tokio::spawn(async move {
            let work = move || {
                let _ = held.recv();
            };
            pool.run(lane, 0, work).await
        });
        (release, call)
    }

    async fn settle() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn work_runs_on_a_thread_of_its_lane() {
        let pool = Pool::new(SMALL).unwrap();
        for (lane, name) in [(Lane::Normal, "convert-0"), (Lane::Slow, "convert-slow-0")] {
            let run = pool.run(lane, 1, || thread::current().name().map(str::to_owned)).await;
            assert_eq!(run.unwrap().as_deref(), Some(name));
        }
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once() {
        let pool = Pool::new(SMALL).unwrap();
        let held: Vec<_> = (0..3).map(|_| hold(&pool, Lane::Normal)).collect();
        settle().await;
        let refused = pool.run(Lane::Normal, 0, || ());
        let refused = tokio::time::timeout(Duration::from_secs(5), refused).await;
        assert_eq!(refused, Ok(Err(PoolError::Full)));
        assert_eq!(pool.run(Lane::Slow, 0, || ()).await, Ok(()), "lanes queue apart");
        for (release, call) in held {
            drop(release);
            assert_eq!(call.await.unwrap(), Ok(()));
        }
        assert_eq!(pool.run(Lane::Normal, 0, || ()).await, Ok(()));
    }

    #[tokio::test]
    async fn work_whose_caller_left_never_starts() {
        let pool = Pool::new(SMALL).unwrap();
        let (release, call) = hold(&pool, Lane::Normal);
        settle().await;
        let started = Arc::new(AtomicBool::new(false));
        let (flag, other) = (Arc::clone(&started), pool.clone());
        let waiting = tokio::spawn(async move {
            other.run(Lane::Normal, 0, move || flag.store(true, Ordering::Relaxed)).await
        });
        settle().await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        drop(release);
        call.await.unwrap().unwrap();
        assert_eq!(pool.run(Lane::Normal, 0, || ()).await, Ok(()));
        assert!(!started.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_panic_ends_the_call_and_not_the_thread() {
        let pool = Pool::new(SMALL).unwrap();
        for lane in [Lane::Normal, Lane::Slow] {
            for _ in 0..3 {
                let run = pool.run(lane, 7, || panic!("on purpose")).await;
                assert_eq!(run, Err::<(), _>(PoolError::Panicked));
            }
            assert_eq!(pool.run(lane, 7, || 5).await, Ok(5));
        }
        assert_eq!(pool.memory.available_permits(), 100);
    }

    #[tokio::test]
    async fn memory_is_shared_out_and_given_back() {
        let settings = Settings { threads: 8, queue: 100, ..SMALL };
        let pool = Pool::new(settings).unwrap();
        let (now, peak) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let calls = (0..40_u64).map(|i| {
            let (pool, now, peak) = (pool.clone(), Arc::clone(&now), Arc::clone(&peak));
            let weight = (10 + i % 40) * GRAIN;
            tokio::spawn(async move {
                let work = move || {
                    let sum = now.fetch_add(weight, Ordering::AcqRel) + weight;
                    peak.fetch_max(sum, Ordering::AcqRel);
                    thread::sleep(Duration::from_millis(2));
                    now.fetch_sub(weight, Ordering::AcqRel);
                };
                pool.run(Lane::Normal, weight, work).await
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap().unwrap();
        }
        let peak = peak.load(Ordering::Relaxed);
        assert!(peak <= settings.memory && peak > 49 * GRAIN, "{}", peak / GRAIN);
        assert_eq!(pool.memory.available_permits(), 100);
        assert_eq!(pool.run(Lane::Normal, u64::MAX, || 1).await, Ok(1), "alone");
    }

    #[tokio::test]
    async fn slow_work_leaves_memory_for_the_rest() {
        let pool = Pool::new(SMALL).unwrap();
        let (release, held) = mpsc::channel::<()>();
        let slow = pool.clone();
        let call = tokio::spawn(async move {
            slow.run(Lane::Slow, u64::MAX, move || {
                let _ = held.recv();
            })
            .await
        });
        settle().await;
        assert_eq!(pool.run(Lane::Normal, 50 * GRAIN, || 1).await, Ok(1));
        drop(release);
        call.await.unwrap().unwrap();
    }

    /// What a thread owns for as long as it lives.
    struct Owned(Option<Arc<()>>);

    thread_local! {
        static OWNED: std::cell::RefCell<Owned> = const { std::cell::RefCell::new(Owned(None)) };
    }

    #[tokio::test]
    async fn threads_end_with_the_pool() {
        let pool = Pool::new(SMALL).unwrap();
        let alive = Arc::new(());
        let here = Arc::clone(&alive);
        pool.run(Lane::Normal, 0, move || OWNED.with_borrow_mut(|o| o.0 = Some(here)))
            .await
            .unwrap();
        assert_eq!(Arc::strong_count(&alive), 2);
        drop(pool);
        for _ in 0..500 {
            if Arc::strong_count(&alive) == 1 {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("the thread outlived the pool");
    }
}
