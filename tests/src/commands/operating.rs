//! `health`, `saga` and `dlq` against a running shop, and what a second process beside it is told.

use serde_json::json;
use tokio::process::Command;
use uuid::Uuid;

use super::{
    checks,
    place::{Place, Process},
};
use crate::{
    data,
    harness::{Stage, free_port},
};

checks![
    operators_see_and_act_from_the_command_line,
    health_is_told_in_plaintext_on_an_address_of_its_own,
    a_shop_measures_its_sagas_and_its_outbox,
];

/// One shop for all of it: what is asked here changes nothing for the next question.
async fn operators_see_and_act_from_the_command_line() {
    let place = Place::new(Stage::Sqlite).await;
    let shop = place.serve().await;
    health(&place, &shop).await;
    sagas(&place, &shop).await;
    dead_letters(&place, &shop).await;
    those_who_may_not_are_told_why(&place, &shop).await;
    a_second_process_is_refused(&place, &shop).await;
    shop.stop().await;
    place.remove().await;
}

/// As images and probes ask: they know the address, and no certificate names that.
async fn health_is_told_in_plaintext_on_an_address_of_its_own() {
    let place = Place::new(Stage::Sqlite).await;
    let dev_certs = crate::architecture::root().join("scripts/dev-certs");
    let made = Command::new(dev_certs)
        .arg(place.directory())
        .arg("gateway")
        .output()
        .await
        .expect("scripts/dev-certs runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let admin = format!("127.0.0.1:{}", free_port());
    let settings = [
        ("BANYAN__HTTP__TLS_CERTIFICATE_FILE", "gateway.pem"),
        ("BANYAN__HTTP__TLS_KEY_FILE", "gateway-key.pem"),
    ];
    let settings = [&settings[..], &[("BANYAN__ADMIN__LISTEN", admin.as_str())]].concat();
    let shop = place.serve_with(&settings).await;
    assert!(
        shop.base.starts_with("https://") && shop.banner.contains(&format!("http://{admin}/health/ready")),
        "{}",
        shop.banner
    );
    let ready = place.run_with(&["health"], &settings).await.expect(0).out;
    assert!(ready.starts_with("ready\n"), "{ready}");
    // Whoever wants the API must name it as its certificate does.
    place
        .run_with(&["saga", "list"], &settings)
        .await
        .expect(1)
        .saying(&["--url https://", "BANYAN_URL"]);
    place
        .run_with(&["health"], &settings[..2])
        .await
        .expect(1)
        .saying(&["--url https://"]);
    shop.stop().await;
    place.remove().await;
}

async fn health(place: &Place, shop: &Process) {
    let text = place.run(&["health", "--url", &shop.base]).await.expect(0);
    assert!(
        text.out.starts_with("ready\n") && text.out.contains("database:orders: ok"),
        "{}",
        text.out
    );
    // Without an address: the shop that the settings describe.
    let json = place
        .run_with(
            &["health", "--output", "json"],
            &[("BANYAN__HTTP__LISTEN", shop.address())],
        )
        .await
        .expect(0)
        .json();
    assert_eq!(
        (&json["status"], &json["checks"]["database:users"]),
        (&json!("ready"), &json!("ok"))
    );
}

async fn sagas(place: &Place, shop: &Process) {
    let order = shop.client.customer().await.order("rare-fig", 1, "pm_card_visa").await;
    let id = order["id"].as_str().expect("an id");
    let url = ["--url", &shop.base];
    let ops = shop.client.ops().await;
    let path = format!("/api/v1/ops/orders/sagas?business_key={id}");
    let done = |list: &serde_json::Value| list["items"][0]["state"] == "completed";
    crate::scenarios::eventually(&ops, &path, "the saga is completed", done).await;

    let text = place.run(&[&["saga", "list"][..], &url].concat()).await.expect(0).out;
    assert!(
        text.lines()
            .any(|line| line.contains(id) && line.contains("checkout") && line.contains("completed")),
        "{text}"
    );
    let json = place
        .run(&[&["saga", "list", "--output", "json", "--state", "completed"][..], &url].concat())
        .await
        .expect(0)
        .json();
    let saga = json[0]["item"].clone();
    assert_eq!(
        (&json[0]["module"], &saga["business_key"]),
        (&json!("orders"), &json!(id))
    );
    let parked = place
        .run(&[&["saga", "list", "--state", "parked"][..], &url].concat())
        .await
        .expect(0)
        .out;
    assert_eq!(parked.trim(), "none");

    let saga_id = saga["id"].as_str().expect("an id");
    let shown = place
        .run(&[&["saga", "show", saga_id][..], &url].concat())
        .await
        .expect(0)
        .json();
    assert!(shown["log"].as_array().is_some_and(|log| log.len() > 5), "{shown}");
    let retry = place
        .run(&[&["saga", "retry", saga_id, "--reason", "a test"][..], &url].concat())
        .await;
    retry.expect(1).saying(&["409", saga_id]);
    let nobody = Uuid::now_v7().to_string();
    place
        .run(&[&["saga", "show", &nobody][..], &url].concat())
        .await
        .expect(1)
        .saying(&["404", "no such saga"]);
    place
        .run(&[&["saga", "list", "--state", "nonsense"][..], &url].concat())
        .await
        .expect(1)
        .saying(&["400", "state"]);
    place
        .run(&[&["saga", "list", "--module", "nonsense"][..], &url].concat())
        .await
        .expect(1)
        .saying(&["404", "no such module"]);
}

async fn dead_letters(place: &Place, shop: &Process) {
    let url = ["--url", &shop.base];
    let list = [&["dlq", "list"][..], &url].concat();
    assert_eq!(place.run(&list).await.expect(0).out.trim(), "none");
    assert_eq!(
        place
            .run(&[&list[..], &["--output", "json"]].concat())
            .await
            .expect(0)
            .json(),
        json!([])
    );

    // It takes a bug to get one, so it is written into the table.
    let id = Uuid::now_v7();
    let connection = data::connect(&place.data_directory(), None, "notifications").await;
    let columns =
        "id, source, subject, version, kind, body, state, attempts, failures, next_attempt_at, created_at, last_error";
    let row = format!(
        "(x'{}', 'orders', 'order/x', 1, 'banyan.orders.v1.Unheard', '{{\"of\": \"a bug\"}}', 'dead', 5, 5, 0, 0, 'a bug')",
        id.simple()
    );
    data::execute(&connection, &format!("insert into retry ({columns}) values {row}"))
        .await
        .expect("a dead letter");
    connection.close().await.expect("the connection closes");

    let id = id.to_string();
    let listed = place.run(&list).await.expect(0).out;
    assert!(
        listed.contains("notifications") && listed.contains(&id) && listed.contains("a bug"),
        "{listed}"
    );
    let shown = place
        .run(&[&["dlq", "show", "notifications", &id][..], &url].concat())
        .await
        .expect(0)
        .json();
    assert_eq!(shown["event"]["of"], "a bug", "{shown}");
    let discard = [
        &[
            "dlq",
            "discard",
            "notifications",
            &id,
            "--reason",
            "a test",
            "--comment",
            "not missed",
        ][..],
        &url,
    ]
    .concat();
    place.run(&discard).await.expect(0);
    place.run(&discard).await.expect(1).saying(&["409"]);
    assert_eq!(place.run(&list).await.expect(0).out.trim(), "none");
    let audit = shop
        .client
        .ops()
        .await
        .get("/api/v1/ops/notifications/audit")
        .await
        .expect(200)
        .json();
    assert!(audit["items"][0].to_string().contains("not missed"), "{audit}");
}

async fn those_who_may_not_are_told_why(place: &Place, shop: &Process) {
    let list = ["saga", "list", "--url", shop.base.as_str()];
    place
        .run(&[&list[..], &["--token", "nonsense"]].concat())
        .await
        .expect(1)
        .saying(&["401"]);
    let customer = ["--email", "demo@banyan.example", "--password", "banyan-demo"];
    place
        .run(&[&list[..], &customer].concat())
        .await
        .expect(1)
        .saying(&["403", "role ops"]);
    let wrong = ["--email", "ops@banyan.example", "--password", "geheim"];
    let ended = place
        .run(&[&list[..], &wrong].concat())
        .await
        .expect(1)
        .saying(&["401"]);
    assert!(!ended.err.contains("geheim"), "{}", ended.err);
    // Outside the demo nobody is assumed.
    let token = shop.client.ops().await.token().to_owned();
    let key = place.file("key.pem", "unread");
    let prod = [
        ("BANYAN__PROFILE", "prod"),
        ("BANYAN__AUTH__SIGNING_KEY_FILE", key.as_str()),
        ("BANYAN__AUTH__ISSUER", "https://shop.example"),
    ];
    place
        .run_with(&list, &prod)
        .await
        .expect(1)
        .saying(&["--token", "BANYAN_TOKEN"]);
    place
        .run_with(&list, &[&prod[..], &[("BANYAN_TOKEN", token.as_str())]].concat())
        .await
        .expect(0);
}

async fn a_second_process_is_refused(place: &Place, shop: &Process) {
    for arguments in [
        &["serve"][..],
        &["migrate"],
        &["migrate", "status"],
        &["seed"],
        &["seed", "--reset"],
    ] {
        place.run(arguments).await.expect(1).saying(&[
            "another banyan uses the data directory data",
            "BANYAN__DATA_DIR",
            "PostgreSQL",
        ]);
    }
    let elsewhere = Place::new(Stage::Sqlite)
        .await
        .with(&[("BANYAN__HTTP__LISTEN", shop.address())]);
    elsewhere.run(&["serve"]).await.expect(1).saying(&[
        shop.address(),
        "http.listen",
        "is another banyan running?",
        "BANYAN__HTTP__LISTEN",
    ]);
    elsewhere.remove().await;
    shop.client.get("/health/ready").await.expect(200);
}

/// What Prometheus reads. Sagas and events that are stuck are put into the tables before the start, since it takes a bug to get one.
async fn a_shop_measures_its_sagas_and_its_outbox() {
    let place = Place::new(Stage::Sqlite).await;
    place.run(&["migrate"]).await.expect(0);
    let orders = data::connect(&place.data_directory(), None, "orders").await;
    for (at, (version, state)) in [(1, "parked"), (99, "parked"), (1, "completed")]
        .into_iter()
        .enumerate()
    {
        let columns = "id, kind, definition_version, business_key, state, step, payload, lease_token, lease_until, next_run_at, attempts, failures, \
                       deadline_told, compensate_asked, created_at, updated_at";
        let row = format!(
            "(x'{}', 'checkout', {version}, 'k{at}', '{state}', '', '{{}}', 0, 0, 0, 0, 0, 0, 0, 0, 0)",
            Uuid::now_v7().simple()
        );
        data::execute(&orders, &format!("insert into saga ({columns}) values {row}"))
            .await
            .expect("a saga");
    }
    for (at, state) in ["dead", "dead", "discarded"].into_iter().enumerate() {
        let columns =
            "id, source, subject, version, kind, body, state, attempts, failures, next_attempt_at, created_at";
        let row = format!(
            "(x'{}', 'shipping', 'shipment/{at}', 1, 'k', '{{}}', '{state}', 5, 5, 0, 0)",
            Uuid::now_v7().simple()
        );
        data::execute(&orders, &format!("insert into retry ({columns}) values {row}"))
            .await
            .expect("a dead letter");
    }
    orders.close().await.expect("the connection closes");
    let shop = place.serve().await;
    let customer = shop.client.customer().await;
    for method in ["pm_card_visa", "pm_card_visa", "pm_card_declined"] {
        customer.order("rare-fig", 1, method).await;
    }
    let ended = [("completed", 2.0), ("compensated", 1.0)];
    let all_ended = |metrics: &Metrics| {
        ended.iter().all(|(state, sagas)| {
            metrics.of(
                "banyan_sagas_ended_total",
                &["kind=checkout", &format!("state={state}")],
            ) == *sagas
        })
    };
    let metrics = Metrics::until(&shop, "the checkouts have ended", all_ended).await;
    let checkouts = |state: &str| {
        metrics.of(
            "banyan_sagas",
            &["module=orders", "kind=checkout", &format!("state={state}")],
        )
    };
    assert_eq!(
        (
            checkouts("parked"),
            metrics.of("banyan_sagas_unknown_definition", &["module=orders"])
        ),
        (2.0, 1.0)
    );
    assert_eq!(
        metrics.of("banyan_dead_letters", &["module=orders"]),
        2.0,
        "those discarded are nobody's concern"
    );
    assert_eq!(metrics.of("banyan_dead_letters", &["module=notifications"]), 0.0);
    let step = |step: &str, outcome: &str| {
        let labels = [
            "kind=checkout",
            "direction=do",
            &format!("step={step}"),
            &format!("outcome={outcome}"),
        ];
        metrics.of("banyan_saga_step_seconds_count", &labels)
    };
    assert_eq!(
        (step("reserve_stock", "answered"), step("ready_shipment", "answered")),
        (3.0, 2.0)
    );
    assert!(metrics.of("banyan_commit_batch_jobs_count", &["module=orders"]) > 10.0);

    // Three placed, two confirmed, one cancelled; on one of its turns the gauge sees that none waits any more.
    let sent = |metrics: &Metrics| {
        let published = metrics.of("banyan_outbox_published_total", &["module=orders"]);
        published == 6.0 && metrics.of("banyan_outbox_pending", &["module=orders"]) == 0.0
    };
    let metrics = Metrics::until(&shop, "the events are sent", sent).await;
    assert_eq!(
        metrics.of("banyan_outbox_publish_failures_total", &["module=orders"]),
        0.0
    );
    assert_eq!(
        metrics.of("banyan_outbox_oldest_pending_seconds", &["module=orders"]),
        0.0
    );
    assert_eq!(metrics.of("banyan_outbox_delay_seconds_count", &["module=orders"]), 6.0);
    let heard =
        |metrics: &Metrics| metrics.of("banyan_reactions_total", &["module=notifications", "outcome=handled"]) >= 6.0;
    Metrics::until(&shop, "the events are heard", heard).await;
    shop.stop().await;
    place.remove().await;
}

/// `/metrics`, as text.
struct Metrics(String);

impl Metrics {
    /// Reads them until `holds`.
    async fn until(shop: &Process, what: &str, holds: impl Fn(&Metrics) -> bool) -> Metrics {
        let begun = std::time::Instant::now();
        loop {
            let metrics =
                Metrics(String::from_utf8(shop.client.get("/metrics").await.expect(200).bytes).expect("text"));
            if holds(&metrics) {
                return metrics;
            }
            assert!(
                begun.elapsed() < std::time::Duration::from_secs(30),
                "not within 30 s: {what}\n{}",
                metrics.0
            );
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// The value of the one series with this name and all of these labels, written `label=value`; not a number if there is none yet.
    fn of(&self, name: &str, labels: &[&str]) -> f64 {
        let labels: Vec<String> = labels
            .iter()
            .filter_map(|label| label.split_once('='))
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        let is_it = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
                && labels.iter().all(|label| line.contains(label.as_str()))
        };
        let mut found = self.0.lines().filter(is_it);
        let value = found
            .next()
            .and_then(|line| line.rsplit(' ').next())
            .and_then(|value| value.parse().ok());
        assert!(found.next().is_none(), "{name} {labels:?} is more than one series");
        value.unwrap_or(f64::NAN)
    }
}
