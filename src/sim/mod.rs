//! The provider simulator.
/// x
#[derive(Debug, Clone, Default)]
pub struct SimSettings {
    /// x
    pub queue_s: f64,
    /// x
    pub run_s: f64,
    /// x
    pub sigma: f64,
    /// x
    pub seed: u64,
    /// x
    pub x: u8,
}
/// x
pub fn mount(_: &str) -> Option<&'static str> {
    None
}
/// x
pub fn router(_: SimSettings) -> axum::Router {
    axum::Router::new()
}
