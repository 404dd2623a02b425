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
