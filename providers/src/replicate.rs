use crate::{Adapter, Call, RemoteJob, Reply, SendKind, Step, UpstreamError};

pub(crate) struct Replicate;

impl Adapter for Replicate {
    fn name(&self) -> &'static str {
        "replicate"
    }
    fn begin(&self, _call: &Call<'_>) -> Result<Step, UpstreamError> {
        Err(UpstreamError::malformed(""))
    }
    fn advance(
        &self,
        _call: &Call<'_>,
        _sent: SendKind,
        _job: Option<&RemoteJob>,
        _reply: &Reply,
    ) -> Result<Step, UpstreamError> {
        Err(UpstreamError::malformed(""))
    }
}
