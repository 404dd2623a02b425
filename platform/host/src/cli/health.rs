//! `banyan health`: whether the server is ready, for operators and for the health checks of containers.

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use super::{Failure, Output, local_url, print, print_json};
use crate::settings::Settings;

#[derive(Args)]
pub struct Health {
    /// The URL of the server. Default: the address in the settings.
    #[arg(long, env = "BANYAN_URL", value_name = "URL")]
    url: Option<String>,
}

impl Health {
    pub async fn run(self, settings: &Settings, output: Output) -> Result<(), Failure> {
        let base = match (self.url, settings.admin.listen) {
            (Some(url), _) => url,
            (None, Some(admin)) => format!("http://{admin}"),
            (None, None) => local_url(settings)?,
        };
        let url = format!("{}/health/ready", base.trim_end_matches('/'));
        let client = reqwest::Client::builder()
            .timeout(std::time::Duration::from_secs(5))
            .build()
            .context("creating the HTTP client")?;
        let response = client
            .get(&url)
            .send()
            .await
            .map_err(|error| Failure::NotReady(format!("no response from {url}: {error}")))?;
        let ready = response.status().is_success();
        let body: Value = response
            .json()
            .await
            .map_err(|error| Failure::NotReady(format!("the response of {url} is not JSON: {error}")))?;
        if output == Output::Json {
            print_json(&body)?;
        } else {
            print(if ready { "ready" } else { "not ready" })?;
            for (name, state) in body["checks"].as_object().into_iter().flatten() {
                print(&format!(
                    "  {name}: {}",
                    state.as_str().map_or_else(|| state.to_string(), str::to_owned)
                ))?;
            }
        }
        if ready {
            Ok(())
        } else {
            Err(Failure::NotReady("the server is not ready".to_owned()))
        }
    }
}
