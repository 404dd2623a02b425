//! Commands that need no running shop: help, settings, modules, the OpenAPI document; and usage errors.

use banyan::MODULES;

use super::{checks, installation::Installation};
use crate::harness::Stage;

checks![
    help_names_every_command_and_exits_0,
    a_usage_error_exits_2_and_prints_usage,
    an_unknown_setting_is_reported_with_its_key_and_source,
    an_invalid_value_is_reported_with_its_key_and_source,
    the_printed_defaults_are_a_valid_settings_file,
    settings_are_shown_without_secrets,
    no_command_shows_the_password_of_a_url,
    modules_are_printed_as_text_diagram_and_json,
    the_openapi_document_is_printed_without_a_running_shop_or_settings,
    client_commands_exit_3_when_no_shop_responds,
    a_closed_output_pipe_is_not_an_error,
];

const COMMANDS: [&str; 10] = [
    "serve",
    "migrate",
    "seed",
    "modules",
    "openapi",
    "config",
    "health",
    "dlq",
    "subscribers",
    "saga",
];

async fn help_names_every_command_and_exits_0() {
    let installation = Installation::new(Stage::Sqlite).await;
    let help = installation.run(&["--help"]).await.expect(0);
    for word in COMMANDS.into_iter().chain([
        "--config",
        "--output",
        "BANYAN_CONFIG",
        "banyan config defaults",
        "Exit codes",
    ]) {
        assert!(help.out.contains(word), "{word} is not in:\n{}", help.out);
    }
    let and: [(&[&str], &[&str]); 12] = [
        (&["migrate"], &["status", "up", "--provision", "login"]),
        (&["seed"], &["--reset"]),
        (&["modules"], &["--mermaid"]),
        (&["config"], &["show", "defaults"]),
        (&["health"], &["--url", "BANYAN_URL"]),
        (&["dlq"], &["list", "show", "retry", "discard"]),
        (&["subscribers"], &["list", "give-up"]),
        (
            &["subscribers", "give-up"],
            &["--reason", "<MODULE>", "<SUBSCRIBER>", "audit log"],
        ),
        (
            &["saga"],
            &[
                "list",
                "show",
                "retry",
                "compensate",
                "abandon",
                "leftovers",
                "undo",
                "--module",
            ],
        ),
        (
            &["saga", "abandon"],
            &["--reason", "--comment", "audit log", "BANYAN_TOKEN"],
        ),
        (&["saga", "undo"], &["--reason", "--key", "<ID>", "<UNDO>"]),
        (&["dlq", "retry"], &["--reason", "<MODULE>", "<ID>"]),
    ];
    for command in COMMANDS {
        let help = installation.run(&[command, "--help"]).await.expect(0);
        assert!(
            help.out.contains(&format!("Usage: banyan {command}")) && help.err.is_empty(),
            "{help:?}"
        );
    }
    for (command, words) in and {
        let help = installation.run(&[command, &["--help"]].concat()).await.expect(0);
        assert!(
            words.iter().all(|word| help.out.contains(word)),
            "{command:?} does not print all of {words:?}:\n{}",
            help.out
        );
    }
    assert!(
        installation
            .run(&["--version"])
            .await
            .expect(0)
            .out
            .starts_with("banyan ")
    );
    assert!(!installation.data_directory().exists(), "printing help creates no data");
}

async fn a_usage_error_exits_2_and_prints_usage() {
    let installation = Installation::new(Stage::Sqlite).await;
    let wrong: [&[&str]; 7] = [
        &["nonsense"],
        &["serve", "--nonsense"],
        &["saga"],
        &["saga", "retry", "x"],
        &["dlq", "discard", "orders", "x"],
        &["--output", "xml", "modules"],
        &["migrate", "down"],
    ];
    for arguments in wrong {
        let ended = installation.run(arguments).await.expect(2);
        assert!(
            ended.err.contains("Usage: banyan") || ended.err.contains("--help"),
            "{arguments:?}: {}",
            ended.err
        );
        assert!(ended.out.is_empty(), "{arguments:?}: {}", ended.out);
    }
    installation.run(&["sagas"]).await.expect(2).stderr_contains(&["saga"]);
}

async fn an_unknown_setting_is_reported_with_its_key_and_source() {
    let installation = Installation::new(Stage::Sqlite).await;
    for command in ["serve", "migrate", "seed", "modules", "config", "health"] {
        installation
            .run_with(&[command], &[("BANYAN__HTTP__LISTN", "x")])
            .await
            .expect(1)
            .stderr_contains(&["BANYAN__HTTP__LISTN", "http.listn", "http.listen"]);
    }
    let file = installation.file("other.toml", "[orders]\ncheckout_deadline = 3\n");
    installation
        .run(&["config", "show", "--config", &file])
        .await
        .expect(1)
        .stderr_contains(&[&file, "orders.checkout_deadline", "orders.checkout_deadline_s"]);
    installation.file("banyan.toml", "[htpp]\nlisten = \"127.0.0.1:1\"\n");
    installation
        .run(&["serve"])
        .await
        .expect(1)
        .stderr_contains(&["banyan.toml", "htpp.listen", "http.listen"]);
    installation
        .run_with(&["serve"], &[("BANYAN_CONFIG", "missing.toml")])
        .await
        .expect(1)
        .stderr_contains(&["missing.toml"]);
    assert!(
        !installation.data_directory().exists(),
        "a wrong setting creates no data"
    );
}

async fn an_invalid_value_is_reported_with_its_key_and_source() {
    let installation = Installation::new(Stage::Sqlite).await;
    let wrong = [
        ("BANYAN__HTTP__WORKERS", "many", "http.workers"),
        ("BANYAN__HTTP__LISTEN", "nowhere", "http.listen"),
        ("BANYAN__PROFILE", "live", "profile"),
        ("BANYAN__LOG__FILTER", "info,=,", "log.filter"),
        ("BANYAN__ORDERS__CHECKOUT_DEADLINE_S", "soon", "checkout_deadline_s"),
        (
            "BANYAN__DATABASE__URL",
            "mysql://shop:geheim@localhost/shop",
            "database.url",
        ),
        (
            "BANYAN__DATABASE__URL_FILE",
            "/nowhere/at/all",
            "BANYAN__DATABASE__URL_FILE",
        ),
    ];
    for (variable, value, key) in wrong {
        let ended = installation
            .run_with(&["serve"], &[(variable, value)])
            .await
            .expect(1)
            .stderr_contains(&[key]);
        assert!(!ended.err.contains("geheim"), "{}", ended.err);
    }
    let file = installation.file("broken.toml", "[http\n");
    installation
        .run(&["serve", "--config", &file])
        .await
        .expect(1)
        .stderr_contains(&[&file]);
}

async fn the_printed_defaults_are_a_valid_settings_file() {
    let installation = Installation::new(Stage::Sqlite).await;
    // Also when a setting is wrong: that is when the defaults are needed most.
    let defaults = installation
        .run_with(&["config", "defaults"], &[("BANYAN__HTPP__LISTEN", "x")])
        .await
        .expect(0)
        .out;
    assert!(
        defaults.contains("[http]") && defaults.contains("# The address and port the API listens on."),
        "{defaults}"
    );
    let plain = installation.run(&["config", "show"]).await.expect(0).out;
    let file = installation.file("all.toml", &defaults);
    assert_eq!(
        installation
            .run(&["--config", &file, "config", "show"])
            .await
            .expect(0)
            .out,
        plain
    );
    assert_eq!(
        installation.run(&["config"]).await.expect(0).out,
        plain,
        "showing is the default"
    );
}

async fn settings_are_shown_without_secrets() {
    let installation = Installation::new(Stage::Sqlite).await;
    let from_file = installation.file("url", "postgres://payments:geheim@db/payments\n");
    let secrets = [
        (
            "BANYAN__DATABASE__URL",
            "postgres://shop:geheim@localhost/shop?sslpassword=geheim&password=geheim",
        ),
        (
            "BANYAN__MODULES__ORDERS__DATABASE_URL",
            "postgres://orders:geheim@db-orders/orders",
        ),
        ("BANYAN__MODULES__PAYMENTS__DATABASE_URL_FILE", from_file.as_str()),
        ("BANYAN__PAYMENTS__WEBHOOK_SECRET", "whsec_geheim"),
        ("BANYAN__NOTIFICATIONS__SMTP_URL", "smtp://mail:geheim@localhost:25"),
        ("BANYAN__HTTP__TRUSTED_PROXIES", "127.0.0.1, 10.0.0.1"),
    ];
    for arguments in [
        &["config", "show"][..],
        &["config", "show", "--output", "json"],
        &["modules"],
        &["modules", "--output", "json"],
    ] {
        let shown = installation.run_with(arguments, &secrets).await.expect(0);
        assert!(
            !shown.out.contains("geheim") && !shown.err.contains("geheim"),
            "{arguments:?}: {shown:?}"
        );
        assert!(shown.out.contains("db-orders/orders"), "{arguments:?}: {}", shown.out);
    }
    let json = installation
        .run_with(&["config", "show", "--output", "json"], &secrets)
        .await
        .expect(0)
        .json();
    assert_eq!(json["payments"]["webhook_secret"], "(hidden)");
    assert_eq!(
        json["http"]["trusted_proxies"],
        serde_json::json!(["127.0.0.1", "10.0.0.1"])
    );
    assert_eq!(json["http"]["listen"], "127.0.0.1:0");
}

/// In every setting that holds a URL, with every character that moves the end of a host: at start, and when the settings are shown.
async fn no_command_shows_the_password_of_a_url() {
    let installation = Installation::new(Stage::Sqlite).await;
    let settings = url_settings(&installation.run(&["config", "defaults"]).await.expect(0).out);
    for expected in [
        "database.url",
        "bus.url",
        "notifications.smtp_url",
        "discovery.etcd_endpoints",
        "modules.users.database_url",
        "auth.issuer",
    ] {
        assert!(
            settings.iter().any(|(key, _)| key == expected),
            "{expected}: {settings:?}"
        );
    }
    let variable = |key: &str| format!("BANYAN__{}", key.to_uppercase().replace('.', "__"));
    for character in ["/", "#", "?", "@", "%", ":", " ", "/@"] {
        // 7 would be a port, so that what is before the character can be taken for a whole host.
        for secret in [format!("geheim{character}heim"), format!("7{character}geheim")] {
            let url = |scheme: &str| format!("{scheme}://shop:{secret}@127.0.0.1:1,127.0.0.2:2/shop");
            let all: Vec<(String, String)> = settings
                .iter()
                .map(|(key, scheme)| (variable(key), url(scheme)))
                .collect();
            let all: Vec<(&str, &str)> = all.iter().map(|(name, url)| (name.as_str(), url.as_str())).collect();
            let shown = installation.run_with(&["config", "show"], &all).await;
            assert!(
                !shown.out.contains("heim") && !shown.err.contains("heim"),
                "{secret}: {shown:?}"
            );
        }
        let ends_the_host = !["@", "%", ":"].contains(&character);
        for (key, scheme) in &settings {
            let url = format!("{scheme}://shop:geheim{character}heim@127.0.0.1:1/shop");
            // With a URL that can be read, a shop would start.
            let command: &[&str] = if ends_the_host { &["serve"] } else { &["config", "show"] };
            let ended = installation.run_with(command, &[(&variable(key), &url)]).await;
            assert!(
                !ended.out.contains("heim") && !ended.err.contains("heim"),
                "{key} {url}: {ended:?}"
            );
            let refused = ended.code != Some(0) && ended.err.contains(key) && ended.err.contains("%2F");
            assert!(refused || !ends_the_host, "{key} {url}: {ended:?}");
        }
    }
}

/// The keys whose value, or example, is a URL, and its scheme.
fn url_settings(defaults: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in defaults.lines() {
        let line = line.trim_start_matches("# ");
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
        }
        let Some((key, value)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) else {
            continue;
        };
        let scheme = value.trim_matches('"').split_once("://").map(|(scheme, _)| scheme);
        if let Some(scheme) = scheme.or(Some("http").filter(|_| key == "etcd_endpoints")) {
            found.push((format!("{section}.{key}"), scheme.to_owned()));
        }
    }
    found
}

async fn modules_are_printed_as_text_diagram_and_json() {
    let installation = Installation::new(Stage::Sqlite).await;
    let text = installation.run(&["modules"]).await.expect(0).out;
    let diagram = installation.run(&["modules", "--mermaid"]).await.expect(0).out;
    let json = installation
        .run(&["modules", "--output", "json"])
        .await
        .expect(0)
        .json();
    assert_eq!(json.as_array().map(Vec::len), Some(MODULES.len()));
    assert!(
        diagram.starts_with("flowchart LR")
            && diagram.contains("orders --> payments")
            && diagram.contains("orders -. order .-> notifications"),
        "{diagram}"
    );
    for module in json.as_array().into_iter().flatten() {
        let name = module["name"].as_str().expect("a name");
        assert!(text.contains(name) && diagram.contains(name), "{name}");
        assert_eq!(
            (&module["placement"], module["data"].as_str()),
            (&serde_json::json!("local"), Some(format!("data/{name}.db").as_str()))
        );
    }
    assert!(
        !installation.data_directory().exists(),
        "printing modules creates no data"
    );
}

async fn the_openapi_document_is_printed_without_a_running_shop_or_settings() {
    let installation = Installation::new(Stage::Sqlite).await;
    let document = installation
        .run_with(&["openapi"], &[("BANYAN__NONSENSE", "1")])
        .await
        .expect(0)
        .json();
    assert!(
        document["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1"))
    );
    assert_eq!(
        std::fs::read_dir(installation.directory())
            .expect("a directory")
            .count(),
        0,
        "printing creates no data"
    );
}

async fn client_commands_exit_3_when_no_shop_responds() {
    let installation = Installation::new(Stage::Sqlite).await;
    // Nothing listens on port 1.
    for arguments in [
        &["health"][..],
        &["saga", "list"],
        &["dlq", "list"],
        &["subscribers", "list"],
        &["health", "--output", "json"],
    ] {
        let ended = installation
            .run_with(arguments, &[("BANYAN__HTTP__LISTEN", "127.0.0.1:1")])
            .await
            .expect(3);
        assert!(
            ended.err.contains("no response from http://127.0.0.1:1/"),
            "{}",
            ended.err
        );
    }
    installation
        .run(&["health", "--url", "http://127.0.0.1:1"])
        .await
        .expect(3);
    installation
        .run_with(&["saga", "list"], &[("BANYAN_URL", "http://127.0.0.1:1")])
        .await
        .expect(3);
}

async fn a_closed_output_pipe_is_not_an_error() {
    let installation = Installation::new(Stage::Sqlite).await;
    let script = format!(
        "{} config defaults | head -n 1; echo ${{PIPESTATUS[0]}}",
        crate::harness::binary().display()
    );
    let output = tokio::process::Command::new("bash")
        .args(["-c", &script])
        .current_dir(installation.directory())
        .output()
        .await
        .expect("bash");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.ends_with("\n0\n"),
        "{text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
