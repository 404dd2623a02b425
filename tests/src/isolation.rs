//! Each module's data is its own: on PostgreSQL by login and rights, on SQLite by file.

use std::{collections::BTreeSet, fs};

use banyan::config::Settings;
use banyan_durable::Storage;
use libtest_mimic::Trial;
use sea_orm::{ConnectionTrait, DatabaseConnection};

use crate::{
    architecture,
    commands::Place,
    data::{self, OWNERS},
    harness::{Stage, runtime},
};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "isolation[postgres]::a_login_reads_and_writes_its_own_schema_and_no_other",
            || {
                runtime().block_on(logins_are_kept_apart());
                Ok(())
            },
        ),
        Trial::test("isolation[sqlite]::a_file_holds_its_own_modules_tables_alone", || {
            runtime().block_on(files_hold_their_own());
            Ok(())
        }),
    ]
}

/// The tables that the migrations of `module` make, and the machinery's.
fn tables_of(module: &str) -> BTreeSet<String> {
    let root = architecture::root();
    let mut tables = BTreeSet::from(["seaql_migrations".to_owned()]);
    for folder in ["platform/durable".to_owned(), format!("modules/{module}")] {
        for file in fs::read_dir(root.join(folder).join("migrations")).expect("migrations of this module") {
            let sql = fs::read_to_string(file.expect("a file").path()).expect("a readable file");
            let made = sql
                .lines()
                .filter_map(|line| line.trim_start().strip_prefix("create table "));
            tables.extend(made.filter_map(|rest| rest.split([' ', '(']).next()).map(str::to_owned));
        }
    }
    tables
}

/// A shop that has run: with all its tables, and rows in them.
async fn shop(stage: Stage) -> Place {
    let place = Place::new(stage).await;
    place.run(&["seed"]).await.expect(0);
    place
}

/// Every owner has exactly its own tables; `names` are those found.
fn expect_own_tables(found: &[(&str, BTreeSet<String>)]) {
    for (owner, tables) in found {
        if *owner == "sandbox_provider" {
            assert!(!tables.is_empty(), "the provider keeps books");
            let others: BTreeSet<String> = OWNERS[..7].iter().flat_map(|module| tables_of(module)).collect();
            assert!(tables.is_disjoint(&others), "the provider's {tables:?} are others' too");
        } else {
            assert_eq!(
                *tables,
                tables_of(owner),
                "what {owner} keeps is not what its migrations make"
            );
            assert!(tables.len() > 10, "{tables:?}");
        }
    }
}

async fn files_hold_their_own() {
    let place = shop(Stage::Sqlite).await;
    let mut found = Vec::new();
    for owner in OWNERS {
        let connection = data::connect(&place.data_directory(), None, owner).await;
        let tables = data::names(
            &connection,
            "select name from sqlite_master where type in ('table', 'view') and name not like 'sqlite_%'",
        )
        .await;
        found.push((owner, tables.into_iter().collect()));
        connection.close().await.expect("the connection closes");
    }
    expect_own_tables(&found);
    let files = fs::read_dir(place.data_directory())
        .expect("the data directory")
        .map(|file| file.expect("a file").file_name().into_string().expect("a name"));
    let databases: BTreeSet<String> = files.filter(|name| name.ends_with(".db")).collect();
    let expected = OWNERS.map(|owner| format!("{}.db", owner.replace('_', "-")));
    assert_eq!(databases, BTreeSet::from(expected), "there is a file of nobody's");
    place.remove().await;
}

async fn logins_are_kept_apart() {
    let place = shop(Stage::Postgres).await;
    let url = place.database_url().expect("a database");
    let admin = data::connect(place.directory(), Some(&url), "public").await;
    let mut found = Vec::new();
    for owner in OWNERS {
        let sql = format!("select tablename::text as name from pg_tables where schemaname = '{owner}'");
        found.push((
            owner,
            data::names(&admin, &sql).await.into_iter().collect::<BTreeSet<_>>(),
        ));
    }
    expect_own_tables(&found);
    let schemas = "select distinct schemaname::text as name from pg_tables where schemaname not in ('pg_catalog', 'information_schema') order by 1";
    let mut owners = OWNERS.map(str::to_owned);
    owners.sort_unstable();
    assert_eq!(
        data::names(&admin, schemas).await,
        owners,
        "there are tables of nobody's"
    );

    let settings = Settings::from_sources(None, [("BANYAN__DATABASE__URL".to_owned(), url.clone())]).expect("settings");
    for owner in OWNERS {
        // The very login that the shop uses.
        let Storage::Postgres { url, .. } = banyan::local::data::place(&settings, owner).expect("a place") else {
            panic!("{owner} is not on PostgreSQL")
        };
        let login = data::connect(place.directory(), Some(&url), owner).await;
        has_no_powers(&login, owner).await;
        own_is_open(&login, owner, &found).await;
        others_are_closed(&login, owner, &found).await;
        login.close().await.expect("the connection closes");
    }
    admin.close().await.expect("the connection closes");
    place.remove().await;
}

/// The login is its module's alone, and no superuser that no right would stop.
async fn has_no_powers(login: &DatabaseConnection, owner: &str) {
    let who = data::names(login, "select current_user::text as name").await.remove(0);
    assert!(who.ends_with(&format!("_{owner}")), "{owner} logs in as {who}");
    let powers = "select 'x' as name from pg_roles where rolname = current_user and (rolsuper or rolcreaterole or rolcreatedb or rolbypassrls or rolreplication)";
    assert_eq!(
        data::names(login, powers).await,
        [""; 0],
        "{who} may more than a module needs"
    );
    let groups = "select r.rolname::text as name from pg_auth_members m join pg_roles r on r.oid = m.roleid join pg_roles me on me.oid = m.member where me.rolname = current_user";
    assert_eq!(data::names(login, groups).await, [""; 0], "{who} has others' rights");
}

async fn own_is_open(login: &DatabaseConnection, owner: &str, found: &[(&str, BTreeSet<String>)]) {
    let (_, tables) = found.iter().find(|(name, _)| *name == owner).expect("its tables");
    for table in tables {
        for statement in [
            format!("select * from {owner}.{table} limit 1"),
            format!("delete from {owner}.{table} where false"),
        ] {
            data::execute(login, &statement)
                .await
                .unwrap_or_else(|error| panic!("{owner} may not: {statement}: {error}"));
        }
    }
    let written =
        "create table probe (n bigint); insert into probe values (1); update probe set n = 2; drop table probe";
    data::execute(login, written)
        .await
        .unwrap_or_else(|error| panic!("{owner} may not write its own schema: {error}"));
}

async fn others_are_closed(login: &DatabaseConnection, owner: &str, found: &[(&str, BTreeSet<String>)]) {
    let mut forbidden = vec![
        "create table public.probe (n bigint)".to_owned(),
        format!("create schema probe_of_{owner}"),
        format!("create role probe_of_{owner}"),
        format!("create database probe_of_{owner}"),
        "set role postgres".to_owned(),
    ];
    for (other, tables) in found.iter().filter(|(name, _)| *name != owner) {
        for table in tables {
            forbidden.push(format!("select 1 from {other}.{table}"));
            forbidden.push(format!("delete from {other}.{table} where false"));
        }
        let table = tables.first().expect("a table");
        forbidden.extend([
            format!("create table {other}.probe (n bigint)"),
            format!("create view {other}.probe as select 1"),
            format!("create function {other}.probe() returns int language sql as 'select 1'"),
            format!("truncate {other}.{table}"),
            format!("drop table {other}.{table}"),
            format!("grant usage on schema {other} to current_user"),
            format!("alter schema {other} rename to probe"),
        ]);
    }
    let mut let_through = Vec::new();
    for statement in forbidden {
        match login.execute_unprepared(&statement).await {
            // 42501: insufficient_privilege, whatever language the server speaks.
            Err(error) if is_denied(&error) => {}
            Err(error) => let_through.push(format!("{statement}: refused for another reason: {error}")),
            Ok(_) => let_through.push(format!("{statement}: done")),
        }
    }
    assert!(
        let_through.is_empty(),
        "the login of {owner}:\n{}",
        let_through.join("\n")
    );
}

fn is_denied(error: &sea_orm::DbErr) -> bool {
    let (sea_orm::DbErr::Exec(sea_orm::RuntimeErr::SqlxError(error))
    | sea_orm::DbErr::Query(sea_orm::RuntimeErr::SqlxError(error))) = error
    else {
        return false;
    };
    error
        .as_database_error()
        .is_some_and(|error| error.code().as_deref() == Some("42501"))
}
