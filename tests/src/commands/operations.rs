//! `health`, `saga` and `dlq` against a running shop, and the errors of a second process on the same data.

use serde_json::json;
use tokio::process::Command;
use uuid::Uuid;

use super::{
    checks,
    installation::{Installation, Process},
};
use crate::{
    data,
    harness::{Stage, free_port},
};

checks![
    operators_see_and_act_from_the_command_line,
    health_is_served_in_plaintext_on_the_admin_address,
    sagas_and_the_outbox_are_measured,
];

/// One shop serves all of these checks: none of them changes anything for the next.
async fn operators_see_and_act_from_the_command_line() {
    let installation = Installation::new(Stage::Sqlite).await;
    let shop = installation.serve().await;
    health(&installation, &shop).await;
    sagas(&installation, &shop).await;
    dead_letters(&installation, &shop).await;
    subscribers(&installation, &shop).await;
    unauthorised_users_get_the_reason(&installation, &shop).await;
    a_second_process_is_refused(&installation, &shop).await;
    shop.stop().await;
    installation.remove().await;
}

/// As container images and probes call it: by an IP address, which is in no certificate.
async fn health_is_served_in_plaintext_on_the_admin_address() {
    let installation = Installation::new(Stage::Sqlite).await;
    let dev_certs = crate::architecture::root().join("scripts/dev-certs");
    let made = Command::new(dev_certs)
        .arg(installation.directory())
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
    let shop = installation.serve_with(&settings).await;
    assert!(
        shop.base.starts_with("https://") && shop.banner.contains(&format!("http://{admin}/health/ready")),
        "{}",
        shop.banner
    );
    let ready = installation.run_with(&["health"], &settings).await.expect(0).out;
    assert!(ready.starts_with("ready\n"), "{ready}");
    // A client of the API must use the name in its certificate.
    installation
        .run_with(&["saga", "list"], &settings)
        .await
        .expect(1)
        .stderr_contains(&["--url https://", "BANYAN_URL"]);
    installation
        .run_with(&["health"], &settings[..2])
        .await
        .expect(1)
        .stderr_contains(&["--url https://"]);
    shop.stop().await;
    installation.remove().await;
}

async fn health(installation: &Installation, shop: &Process) {
    let text = installation.run(&["health", "--url", &shop.base]).await.expect(0);
    assert!(
        text.out.starts_with("ready\n") && text.out.contains("database:orders: ok"),
        "{}",
        text.out
    );
    // Without `--url`: the shop that the settings describe.
    let json = installation
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

async fn sagas(installation: &Installation, shop: &Process) {
    let order = shop.client.customer().await.order("rare-fig", 1, "pm_card_visa").await;
    let id = order["id"].as_str().expect("an id");
    let url = ["--url", &shop.base];
    let ops = shop.client.ops().await;
    let path = format!("/api/v1/ops/orders/sagas?business_key={id}");
    let done = |list: &serde_json::Value| list["items"][0]["state"] == "completed";
    crate::scenarios::eventually(&ops, &path, "the saga is completed", done).await;

    let text = installation
        .run(&[&["saga", "list"][..], &url].concat())
        .await
        .expect(0)
        .out;
    assert!(
        text.lines()
            .any(|line| line.contains(id) && line.contains("checkout") && line.contains("completed")),
        "{text}"
    );
    let json = installation
        .run(&[&["saga", "list", "--output", "json", "--state", "completed"][..], &url].concat())
        .await
        .expect(0)
        .json();
    let saga = json[0]["item"].clone();
    assert_eq!(
        (&json[0]["module"], &saga["business_key"]),
        (&json!("orders"), &json!(id))
    );
    let parked = installation
        .run(&[&["saga", "list", "--state", "parked"][..], &url].concat())
        .await
        .expect(0)
        .out;
    assert_eq!(parked.trim(), "none");

    let saga_id = saga["id"].as_str().expect("an id");
    let shown = installation
        .run(&[&["saga", "show", saga_id][..], &url].concat())
        .await
        .expect(0)
        .json();
    assert!(shown["log"].as_array().is_some_and(|log| log.len() > 5), "{shown}");
    let retry = installation
        .run(&[&["saga", "retry", saga_id, "--reason", "a test"][..], &url].concat())
        .await;
    retry.expect(1).stderr_contains(&["409", saga_id]);
    let unknown = Uuid::now_v7().to_string();
    installation
        .run(&[&["saga", "show", &unknown][..], &url].concat())
        .await
        .expect(1)
        .stderr_contains(&["404", "no such saga"]);
    installation
        .run(&[&["saga", "list", "--state", "nonsense"][..], &url].concat())
        .await
        .expect(1)
        .stderr_contains(&["400", "state"]);
    installation
        .run(&[&["saga", "list", "--module", "nonsense"][..], &url].concat())
        .await
        .expect(1)
        .stderr_contains(&["404", "no such module"]);
}

async fn dead_letters(installation: &Installation, shop: &Process) {
    let url = ["--url", &shop.base];
    let list = [&["dlq", "list"][..], &url].concat();
    assert_eq!(installation.run(&list).await.expect(0).out.trim(), "none");
    assert_eq!(
        installation
            .run(&[&list[..], &["--output", "json"]].concat())
            .await
            .expect(0)
            .json(),
        json!([])
    );

    // Only a bug produces one, so the test inserts it into the table.
    let id = Uuid::now_v7();
    let connection = data::connect(&installation.data_directory(), None, "notifications").await;
    let columns =
        "id, source, subject, version, kind, body, state, attempts, failures, next_attempt_at, created_at, last_error";
    let row = format!(
        "(x'{}', 'orders', 'order/x', 1, 'banyan.orders.v1.Unheard', '{{\"of\": \"a bug\"}}', 'dead', 5, 5, 0, 0, 'a bug')",
        id.simple()
    );
    data::execute(&connection, &format!("insert into retry ({columns}) values {row}"))
        .await
        .expect("a dead letter");
    connection.close().await;

    let id = id.to_string();
    let listed = installation.run(&list).await.expect(0).out;
    assert!(
        listed.contains("notifications") && listed.contains(&id) && listed.contains("a bug"),
        "{listed}"
    );
    let shown = installation
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
    installation.run(&discard).await.expect(0);
    installation.run(&discard).await.expect(1).stderr_contains(&["409"]);
    assert_eq!(installation.run(&list).await.expect(0).out.trim(), "none");
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

async fn subscribers(installation: &Installation, shop: &Process) {
    let url = ["--url", &shop.base];
    let list = [&["subscribers", "list", "orders"][..], &url].concat();
    let rows = async || {
        let listed = installation.run(&list).await.expect(0).out;
        let rows = listed
            .lines()
            .map(|line| line.split_whitespace().map(str::to_owned).collect());
        rows.collect::<Vec<Vec<String>>>()
    };
    let listed = rows().await;
    assert_eq!(
        listed[0],
        ["module", "subscriber", "aggregate", "confirmed_before", "given_up"]
    );
    let of = |rows: &[Vec<String>], subscriber: &str| {
        let row = rows.iter().find(|row| row[1] == subscriber);
        row.unwrap_or_else(|| panic!("{subscriber} is not in {rows:?}")).clone()
    };
    let row = of(&listed, "notifications");
    assert_eq!([&*row[0], &*row[2], &*row[4]], ["orders", "order", "false"]);
    let give_up = |subscriber: &'static str| {
        [
            &["subscribers", "give-up", "orders", subscriber, "--reason", "a test"][..],
            &url,
        ]
        .concat()
    };
    installation
        .run(&give_up("nobody"))
        .await
        .expect(1)
        .stderr_contains(&["404", "nobody"]);
    installation
        .run(&give_up("notifications"))
        .await
        .expect(1)
        .stderr_contains(&["409", "so it runs", "Stop it, wait 180 s"]);
    assert_eq!(of(&rows().await, "notifications")[4], "false");
    let json = [&list[..], &["--output", "json"]].concat();
    let json = installation.run(&json).await.expect(0).json();
    let item = json.as_array().and_then(|rows| rows.first()).expect("a subscriber");
    assert_eq!(item["module"], "orders", "the producer");
    assert!(
        item["item"]["subscriber"].is_string() && item["item"]["module"].is_null(),
        "{item}"
    );
}

async fn unauthorised_users_get_the_reason(installation: &Installation, shop: &Process) {
    let list = ["saga", "list", "--url", shop.base.as_str()];
    installation
        .run(&[&list[..], &["--token", "nonsense"]].concat())
        .await
        .expect(1)
        .stderr_contains(&["401"]);
    let customer = ["--email", "demo@banyan.example", "--password", "banyan-demo"];
    installation
        .run(&[&list[..], &customer].concat())
        .await
        .expect(1)
        .stderr_contains(&["403", "role ops"]);
    let wrong = ["--email", "ops@banyan.example", "--password", "geheim"];
    let ended = installation
        .run(&[&list[..], &wrong].concat())
        .await
        .expect(1)
        .stderr_contains(&["401"]);
    assert!(!ended.err.contains("geheim"), "{}", ended.err);
    // Outside the demo profile there is no default user.
    let token = shop.client.ops().await.token().to_owned();
    let key = installation.file("key.pem", "unread");
    let prod = [
        ("BANYAN__PROFILE", "prod"),
        ("BANYAN__AUTH__SIGNING_KEY_FILE", key.as_str()),
        ("BANYAN__AUTH__ISSUER", "https://shop.example"),
    ];
    installation
        .run_with(&list, &prod)
        .await
        .expect(1)
        .stderr_contains(&["--token", "BANYAN_TOKEN"]);
    installation
        .run_with(&list, &[&prod[..], &[("BANYAN_TOKEN", token.as_str())]].concat())
        .await
        .expect(0);
}

async fn a_second_process_is_refused(installation: &Installation, shop: &Process) {
    for arguments in [
        &["serve"][..],
        &["migrate"],
        &["migrate", "status"],
        &["seed"],
        &["seed", "--reset"],
    ] {
        installation.run(arguments).await.expect(1).stderr_contains(&[
            "another banyan uses the data directory data",
            "BANYAN__DATA_DIR",
            "PostgreSQL",
        ]);
    }
    let other = Installation::new(Stage::Sqlite)
        .await
        .with(&[("BANYAN__HTTP__LISTEN", shop.address())]);
    other.run(&["serve"]).await.expect(1).stderr_contains(&[
        shop.address(),
        "http.listen",
        "is another banyan running?",
        "BANYAN__HTTP__LISTEN",
    ]);
    other.remove().await;
    shop.client.get("/health/ready").await.expect(200);
}

/// What Prometheus scrapes. Only a bug produces stuck sagas and events, so the test inserts them into the tables before the start.
async fn sagas_and_the_outbox_are_measured() {
    let installation = Installation::new(Stage::Sqlite).await;
    installation.run(&["migrate"]).await.expect(0);
    let orders = data::connect(&installation.data_directory(), None, "orders").await;
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
    orders.close().await;
    let shop = installation.serve().await;
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
        "discarded ones are not counted"
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

    // Three placed, two confirmed, one cancelled; the gauge is updated periodically, so it reaches zero a little later.
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
    let handled =
        |metrics: &Metrics| metrics.of("banyan_reactions_total", &["module=notifications", "outcome=handled"]) >= 6.0;
    Metrics::until(&shop, "the events are handled", handled).await;
    shop.stop().await;
    installation.remove().await;
}

/// `/metrics`, as text.
struct Metrics(String);

impl Metrics {
    /// Polls them until `holds`.
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

    /// The value of the one series with this name and all of these labels, written `label=value`; NaN before the first value.
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
