//! `kill -9` of the all-in-one shop at random times under load. Afterwards the auditor must find nothing wrong.
//!
//! Fifty customers' orders are in flight all the time. The shop is killed `BANYAN_TEST_KILLS` times (5 unless set) and started again on the same
//! data. It does not test power loss: the operating system keeps what a killed process has written.

use std::time::Duration;

use libtest_mimic::Trial;
use rand::Rng;

use crate::{
    harness::{Shop, Stage, runtime},
    load::{Load, SETTINGS, check_always},
};

const IN_FLIGHT: usize = 50;

pub fn trials() -> Vec<Trial> {
    Stage::ALL_IN_ONE
        .into_iter()
        .map(|stage| {
            Trial::test(
                format!(
                    "crash[{}]::kill_9_under_load_loses_and_duplicates_nothing",
                    stage.name()
                ),
                move || {
                    runtime().block_on(kill_under_load(stage));
                    Ok(())
                },
            )
        })
        .collect()
}

fn kills() -> u32 {
    std::env::var("BANYAN_TEST_KILLS")
        .ok()
        .and_then(|kills| kills.parse().ok())
        .unwrap_or(5)
}

async fn kill_under_load(stage: Stage) {
    let mut shop = Shop::start_with(stage, SETTINGS).await;
    let load = Load::start(&shop.client(), IN_FLIGHT).await;
    for _ in 0..kills() {
        let wait = Duration::from_millis(rand::rng().random_range(300..1_500));
        tokio::time::sleep(wait).await;
        shop.kill().await;
        check_always(&shop).await;
        shop.boot().await;
    }
    load.end(&shop).await;
    shop.remove().await;
}
