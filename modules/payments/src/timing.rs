//! Timeouts and delays that belong to the protocol with callers and provider. An operator has no reason to change them; tests shorten them.

use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a command waits for its outcome before it returns `in_progress`. Shorter than the 3 s of a saga's call; the call to the provider
    /// continues in the background.
    pub command_timeout: Duration,
    /// The timeout of one call to the provider. Its outcome is then unknown, and the provider is queried for it. Longer than any provider takes.
    pub provider_timeout: Duration,
    /// The delay after which a caller that received `in_progress` repeats its command: most outcomes are known by then.
    pub retry_after: Duration,
    /// The delay before the sandbox responds to `pm_card_timeout`, which takes effect at once. Longer than `command_timeout`, so that callers see
    /// an unknown outcome.
    pub sandbox_timeout: Duration,
    /// The delay between a response of the sandbox and its webhook: usually the response arrives first, as with real providers.
    pub sandbox_webhook_delay: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            command_timeout: Duration::from_secs(2),
            provider_timeout: Duration::from_secs(30),
            retry_after: Duration::from_millis(500),
            sandbox_timeout: Duration::from_millis(2_500),
            sandbox_webhook_delay: Duration::from_millis(200),
        }
    }
}
