//! Which settings are refused, and what the errors name.

use std::{env, fs};

use super::*;

fn load(toml: &str, environment: &[(&str, &str)]) -> anyhow::Result<Settings> {
    let file = (PathBuf::from("banyan.toml"), toml.to_owned());
    let defaults = Defaults::new([("users", ""), ("orders", "[orders]\nopen_checkouts = 1000\n")]);
    Settings::from_sources(
        &defaults,
        Some(file),
        environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())),
    )
}

fn error(toml: &str, environment: &[(&str, &str)]) -> String {
    format!("{:#}", load(toml, environment).unwrap_err())
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
    let settings = load(
        "data_dir = \"here\"\n[http]\nworkers = 3",
        &[("BANYAN__HTTP__WORKERS", "5")],
    )
    .unwrap();
    assert_eq!((settings.http.workers, settings.data_dir), (5, PathBuf::from("here")));
    assert_eq!(settings.http.listen.port(), 8080);
}

#[test]
fn an_unknown_key_is_refused_with_its_source_and_a_suggestion() {
    let text = error("[htpp]\nlisten = \"127.0.0.1:1\"", &[]);
    assert!(
        text.contains("banyan.toml sets htpp.listen") && text.contains("http.listen"),
        "{text}"
    );
    let text = error("", &[("BANYAN__HTTP__LISTN", "x")]);
    assert!(
        text.contains("BANYAN__HTTP__LISTN") && text.contains("http.listen"),
        "{text}"
    );
}

#[test]
fn a_value_of_the_wrong_type_is_refused_with_its_key_and_source() {
    let text = error("[http]\nworkers = \"many\"", &[]);
    assert!(
        text.contains("http.workers") && text.contains("banyan.toml") && text.contains("many"),
        "{text}"
    );
    let text = error("", &[("BANYAN__DISCOVERY__KIND", "dsn")]);
    assert!(
        text.contains("BANYAN__DISCOVERY__KIND") && text.contains("dsn") && text.contains("etcd"),
        "{text}"
    );
}

#[test]
fn a_value_can_be_read_from_a_file_and_is_not_shown() {
    let path = env::temp_dir().join(format!("banyan-secret-{}", std::process::id()));
    fs::write(&path, "postgres://shop:geheim@localhost/shop\n").unwrap();
    let in_file = ("BANYAN__DATABASE__URL_FILE", path.to_str().unwrap());
    // In any order in the environment, the file wins.
    let settings = load(
        "",
        &[in_file, ("BANYAN__DATABASE__URL", "postgres://other@localhost/other")],
    )
    .unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(
        settings.database.url.as_ref().unwrap().expose_secret(),
        "postgres://shop:geheim@localhost/shop"
    );
    let shown = settings.show().unwrap();
    assert!(
        shown.contains("postgres://shop@localhost/shop") && !shown.contains("geheim"),
        "{shown}"
    );
    assert!(!format!("{settings:?}").contains("geheim"));
}

#[test]
fn demo_stays_on_loopback_and_prod_refuses_what_is_unsafe() {
    assert!(error("", &[("BANYAN__HTTP__LISTEN", "0.0.0.0:80")]).contains("loopback"));
    assert!(error("", &[("BANYAN__ADMIN__LISTEN", "0.0.0.0:90")]).contains("admin.listen"));
    let prod = "profile = \"prod\"\n[auth]\nsigning_key_file = \"key.pem\"\nissuer = ";
    assert!(
        error(
            &format!("{prod}\"https://shop.example\""),
            &[("BANYAN__HTTP__LISTEN", "0.0.0.0:80")]
        )
        .contains("behind_tls")
    );
    assert_eq!(
        load(&format!("{prod}\"https://shop.example\""), &[])
            .unwrap()
            .rate_limit(),
        (50, 100)
    );
    let admin = [
        ("BANYAN__ADMIN__LISTEN", "0.0.0.0:90"),
        ("BANYAN__HTTP__BEHIND_TLS", "true"),
    ];
    assert!(error(&format!("{prod}\"https://shop.example\""), &admin).contains("admin.plaintext"));
    let without_password = [("BANYAN__DATABASE__URL", "postgres://shop@localhost/shop")];
    assert!(error(&format!("{prod}\"https://shop.example\""), &without_password).contains("has no password"));
}

#[test]
fn every_module_has_endpoints_and_a_section() {
    let settings = load("", &[("BANYAN__MODULES__USERS__ENDPOINT", "http://users-1:9000")]).unwrap();
    assert_eq!(settings.modules.keys().collect::<Vec<_>>(), ["orders", "users"]);
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Own {
        open_checkouts: u32,
    }
    assert_eq!(
        settings.section_of("orders").read::<Own>().unwrap().open_checkouts,
        1_000
    );
    let wrong = load("[orders]\nopen_checkouts = \"many\"", &[]).unwrap();
    let error = format!("{:#}", wrong.section_of("orders").read::<Own>().unwrap_err());
    assert!(
        error.contains("[orders]") && error.contains("banyan.toml") && error.contains("many"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_not_toml_is_refused_without_showing_its_text() {
    let text = error("[database]\nurl = \"postgres://shop:geheim@localhost/shop\n", &[]);
    assert!(
        text.contains("banyan.toml is not TOML, line 2") && !text.contains("geheim"),
        "{text}"
    );
}

#[test]
fn a_url_where_the_name_of_a_file_belongs_is_refused_without_its_password() {
    for url in [
        "postgres://shop:geheim@localhost/shop",
        "postgres://shop:ge/heim@localhost/shop",
        "shop:geheim@localhost",
    ] {
        let text = error("", &[("BANYAN__DATABASE__URL_FILE", url)]);
        assert!(
            text.contains("BANYAN__DATABASE__URL_FILE") && !text.contains("heim"),
            "{text}"
        );
    }
}

#[test]
fn a_host_is_a_name_or_an_address_without_scheme_and_port() {
    for wrong in ["https://shop.example", "shop.example:443", "shop.example/", "*"] {
        let text = error("", &[("BANYAN__HTTP__HOSTS", wrong)]);
        assert!(text.contains("http.hosts") && text.contains(wrong), "{text}");
    }
    load("", &[("BANYAN__HTTP__HOSTS", "shop.example,10.0.0.1,::1")]).unwrap();
}

#[test]
fn the_nearest_key_is_suggested() {
    for (variable, nearest) in [
        ("BANYAN__HTTP__LISEN", "http.listen"),
        ("BANYAN__HTTP__TRUSTED_PROXY", "http.trusted_proxies"),
        ("BANYAN__DURABEL__POOL", "durable.pool"),
        ("BANYAN__POOL", "durable.pool"),
        ("BANYAN__ORDERS__OPEN_CHECKOUT", "orders.open_checkouts"),
    ] {
        let text = error("", &[(variable, "1")]);
        assert!(text.contains(&format!("did you mean {nearest}?")), "{text}");
    }
    let text = error("", &[("BANYAN__QQQ__ZZZ", "1")]);
    assert!(text.contains("banyan config defaults"), "{text}");
}

#[test]
fn a_variable_whose_prefix_is_almost_right_is_refused() {
    for (variable, meant) in [
        ("BANYAN_HTTP_LISTEN", "BANYAN__HTTP__LISTEN"),
        ("BANYAN_HTTP__LISTEN", "BANYAN__HTTP__LISTEN"),
        ("BANYAN_PROFILE", "BANYAN__PROFILE"),
        ("BANYAN_DATABASE_URL_FILE", "BANYAN__DATABASE__URL_FILE"),
    ] {
        let text = error("", &[(variable, "x")]);
        assert!(
            text.contains(variable) && text.contains(&format!("did you mean {meant}?")),
            "{text}"
        );
    }
    load(
        "",
        &[
            ("BANYAN_CONFIG", "x"),
            ("BANYAN_TOKEN", "x"),
            ("BANYAN_TEST_POSTGRES", "x"),
        ],
    )
    .unwrap();
}

#[test]
fn nothing_that_is_needed_is_zero() {
    for key in [
        "durable.pool",
        "durable.lease_ms",
        "rpc.timeout_ms",
        "rpc.concurrency",
        "bus.prefetch",
        "discovery.probe_every_ms",
        "http.connections",
        "http.keep_alive_s",
        "orders.open_checkouts",
    ] {
        let variable = format!("BANYAN__{}", key.to_uppercase().replace('.', "__"));
        let text = error("", &[(&variable, "0")]);
        assert!(
            text.contains(&format!("{variable} sets {key} to 0")) && text.contains("at least 1"),
            "{text}"
        );
        let (section, name) = key.split_once('.').unwrap();
        let text = error(&format!("[{section}]\n{name} = 0"), &[]);
        assert!(text.contains("banyan.toml") && text.contains(key), "{text}");
    }
    load("", &[("BANYAN__HTTP__WORKERS", "0"), ("BANYAN__RPC__QUEUE", "0")]).unwrap();
}

#[test]
fn every_error_says_where_the_setting_comes_from() {
    let text = error("", &[("BANYAN__HTTP__LISTEN", "0.0.0.0:80")]);
    assert!(
        text.contains("0.0.0.0:80") && text.contains("comes from BANYAN__HTTP__LISTEN"),
        "{text}"
    );
    let text = error("[http]\nlisten = \"0.0.0.0:80\"", &[]);
    assert!(text.contains("http.listen comes from banyan.toml"), "{text}");
    let text = error("", &[("BANYAN__DATABASE__URL", "mysql://shop@localhost/shop")]);
    assert!(text.contains("comes from BANYAN__DATABASE__URL"), "{text}");
    let text = error("", &[("BANYAN__HTTP__PROXY_PROTOCOL", "true")]);
    assert!(
        text.contains("http.trusted_proxies") && text.contains("comes from BANYAN__HTTP__PROXY_PROTOCOL"),
        "{text}"
    );
}

#[test]
fn proxies_are_addresses_and_networks() {
    load(
        "",
        &[(
            "BANYAN__HTTP__TRUSTED_PROXIES",
            "10.0.0.1,10.1.0.0/16,2001:db8::/32,::1",
        )],
    )
    .unwrap();
    let text = error("", &[("BANYAN__HTTP__TRUSTED_PROXIES", "10.0.0.0/33")]);
    assert!(text.contains("10.0.0.0/33") && text.contains("10.0.0.0/8"), "{text}");
}

#[test]
fn localhost_is_an_address_to_listen_on() {
    let settings = load(
        "[admin]\nlisten = \"localhost:9090\"",
        &[("BANYAN__HTTP__LISTEN", "localhost:8081")],
    )
    .unwrap();
    assert_eq!(settings.http.listen.to_string(), "127.0.0.1:8081");
    assert_eq!(settings.admin.listen.unwrap().to_string(), "127.0.0.1:9090");
}

#[test]
fn prod_reaches_servers_with_tls() {
    let prod = "profile = \"prod\"\n[auth]\nissuer = \"https://shop.example\"";
    for (variable, url, key) in [
        (
            "BANYAN__DATABASE__URL",
            "postgres://shop:geheim@db/shop",
            "database.url",
        ),
        (
            "BANYAN__MODULES__ORDERS__DATABASE_URL",
            "postgres://shop:geheim@db/shop",
            "modules.orders.database_url",
        ),
        ("BANYAN__BUS__URL", "amqp://shop:geheim@db/%2f", "bus.url"),
        (
            "BANYAN__DISCOVERY__ETCD_ENDPOINTS",
            "http://db:2379",
            "discovery.etcd_endpoints",
        ),
        (
            "BANYAN__MODULES__ORDERS__ENDPOINT",
            "http://localhost:1,http://db:9000",
            "modules.orders.endpoint",
        ),
        (
            "BANYAN__MODULES__ORDERS__HTTP_ENDPOINT",
            "http://db:8080",
            "modules.orders.http_endpoint",
        ),
    ] {
        let text = error(prod, &[(variable, url)]);
        assert!(
            text.contains(key) && text.contains(variable) && text.contains("plaintext_hosts"),
            "{text}"
        );
        assert!(!text.contains("geheim"), "{text}");
        load(prod, &[(variable, url), ("BANYAN__PLAINTEXT_HOSTS", "db")]).unwrap();
        load("", &[(variable, url)]).unwrap();
    }
}
