//! Servers that fall silent under load: connections to PostgreSQL or the broker stay open and nothing passes, for one process or for all.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, seq::IndexedRandom};
use url::Url;

use super::{Case, Story, faults, proxy::Proxy};
use crate::{
    harness::{Plan, Stage},
    load::{Load, SETTINGS},
};

pub fn all() -> Vec<Case> {
    vec![("servers_that_fall_silent_lose_duplicate_and_park_nothing", || {
        Box::pin(fall_silent())
    })]
}

const IN_FLIGHT: usize = 20;

/// A proxy for each process, by the name of its role.
type Proxies = BTreeMap<&'static str, Proxy>;

/// The URL of the same server behind a proxy of its own.
async fn through_proxy(url: &str) -> (Proxy, String) {
    let mut url = Url::parse(url).expect("a URL");
    let proxy = Proxy::to_port(url.port().expect("its port")).await;
    url.set_port(Some(proxy.port)).expect("a URL with a host");
    (proxy, url.into())
}

async fn fall_silent() {
    let mut shop = Plan::on(Stage::Split).with(SETTINGS).prepare().await;
    let database_url = shop.database_url().expect("PostgreSQL");
    let broker_url = std::env::var("BANYAN_TEST_RABBITMQ").expect("a broker");
    let (mut databases, mut brokers) = (Proxies::new(), Proxies::new());
    // The gateway has neither.
    for process in shop.processes().iter_mut().filter(|process| !process.role.is_edge) {
        for (url, setting, proxies) in [
            (&database_url, "BANYAN__DATABASE__URL", &mut databases),
            (&broker_url, "BANYAN__BUS__URL", &mut brokers),
        ] {
            let (proxy, url) = through_proxy(url).await;
            process.set(setting, url);
            proxies.insert(process.role.name, proxy);
        }
    }
    shop.boot().await;
    let mut story = Story::default();
    let load = Load::start(&shop.client(), IN_FLIGHT).await;
    for _ in 0..faults() {
        for (server, proxies) in [("the database", &databases), ("the broker", &brokers)] {
            let (silent, lasts) = {
                let mut random = rand::rng();
                let names: Vec<&str> = proxies.keys().copied().collect();
                let one = *names.choose(&mut random).expect("processes");
                let silent = if random.random_bool(0.3) { names } else { vec![one] };
                // Longer than any limit of a statement, and than a lease; in the full run sometimes also longer than the broker's heartbeat.
                let longest = if faults() > 1 { 30_000 } else { 9_000 };
                (silent, Duration::from_millis(random.random_range(7_000..longest)))
            };
            story.add(format!("{server} is silent for {silent:?}, {lasts:?}"));
            silent.iter().for_each(|name| proxies[name].cut());
            tokio::time::sleep(lasts).await;
            silent.iter().for_each(|name| proxies[name].restore());
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }
    load.end(&shop).await;
    // Nobody restarted anything.
    shop.until_ready().await;
    shop.remove().await;
}
