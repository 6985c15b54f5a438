//! Posts to URLs that nobody vouches for: the webhooks of tenants.

use bytes::Bytes;
use http::{HeaderMap, header};
use tokio::time::{Instant, timeout_at};

use super::{FetchError, Fetcher, connect_error};

impl Fetcher {
    /// Whether a URL may be asked at all, as far as the URL alone can tell. What its name
    /// resolves to is judged when it is dialled.
    pub fn admits(&self, url: &str) -> Result<(), FetchError> {
        self.0.gate.admit(url).map(drop)
    }

    /// Posts a body and gives the status. Redirects are not followed and the answer is not read:
    /// it could only tell somebody what stands in our network.
    pub async fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
        patience: std::time::Duration,
    ) -> Result<u16, FetchError> {
        let deadline = Instant::now() + patience.min(self.0.rules.total_timeout);
        let target = self.0.gate.admit(url)?;
        let send = async {
            let client = self.client(&target).await?;
            let request = client
                .post(target.url.clone())
                .headers(headers)
                .header(header::ACCEPT_ENCODING, "identity")
                .body(body);
            request.send().await.map_err(connect_error)
        };
        let response = timeout_at(deadline, send).await.map_err(|_| FetchError::Timeout)??;
        Ok(response.status().as_u16())
    }
}
