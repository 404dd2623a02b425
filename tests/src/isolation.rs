//! Each module's data is isolated: on PostgreSQL by login and privileges, on SQLite by file.

use std::{collections::BTreeSet, fs};

use banyan::MODULES;
use banyan_durable::Connection;
use banyan_durable::Storage;
use libtest_mimic::Trial;
use sea_orm::ConnectionTrait;

use crate::{
    architecture,
    commands::Installation,
    data::{self, PROVIDER, owners},
    harness::{Stage, runtime},
};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "isolation[postgres]::a_login_reads_and_writes_its_own_schema_and_no_other",
            || {
                runtime().block_on(logins_are_isolated());
                Ok(())
            },
        ),
        Trial::test("isolation[sqlite]::a_file_holds_only_the_tables_of_its_module", || {
            runtime().block_on(files_are_isolated());
            Ok(())
        }),
    ]
}

/// The tables that the migrations of `module` create, and those of the durable machinery.
fn tables_of(module: &str) -> BTreeSet<String> {
    let root = architecture::root();
    let mut tables = BTreeSet::from(["seaql_migrations".to_owned()]);
    for folder in ["platform/durable".to_owned(), format!("modules/{module}")] {
        for file in fs::read_dir(root.join(folder).join("migrations")).expect("migrations of this module") {
            let sql = fs::read_to_string(file.expect("a file").path()).expect("a readable file");
            let made = sql
                .lines()
                .filter_map(|line| line.trim_start().strip_prefix("create table "))
                .map(|rest| rest.strip_prefix("if not exists ").unwrap_or(rest));
            tables.extend(made.filter_map(|rest| rest.split([' ', '(']).next()).map(str::to_owned));
        }
    }
    tables
}

/// A seeded shop: with all its tables, and rows in them.
async fn shop(stage: Stage) -> Installation {
    let installation = Installation::new(stage).await;
    installation.run(&["seed"]).await.expect(0);
    installation
}

/// Every owner has exactly its own tables; `names` are those found.
fn expect_own_tables(found: &[(&str, BTreeSet<String>)]) {
    for (owner, tables) in found {
        if *owner == PROVIDER {
            assert!(!tables.is_empty(), "the provider has tables");
            let mut others: BTreeSet<String> = MODULES.into_iter().flat_map(tables_of).collect();
            // Every database says which installation it belongs to, and of which time it is.
            others.remove("installation");
            others.remove("mark");
            assert!(
                tables.is_disjoint(&others),
                "the provider's {tables:?} are tables of a module, too"
            );
        } else {
            assert_eq!(
                *tables,
                tables_of(owner),
                "the tables of {owner} are not those of its migrations"
            );
            assert!(tables.len() > 10, "{tables:?}");
        }
    }
}

async fn files_are_isolated() {
    let installation = shop(Stage::Sqlite).await;
    let mut found = Vec::new();
    for owner in owners() {
        let connection = data::connect(&installation.data_directory(), None, owner).await;
        let tables = data::names(
            &connection,
            // A virtual table is an index in the form of tables.
            "select name from pragma_table_list where schema = 'main' and type in ('table', 'view') and name not like 'sqlite_%'",
        )
        .await;
        found.push((owner, tables.into_iter().collect()));
        connection.close().await;
    }
    expect_own_tables(&found);
    let files = fs::read_dir(installation.data_directory())
        .expect("the data directory")
        .map(|file| file.expect("a file").file_name().into_string().expect("a name"));
    let databases: BTreeSet<String> = files.filter(|name| name.ends_with(".db")).collect();
    let expected: BTreeSet<String> = owners()
        .map(|owner| format!("{}.db", owner.replace('_', "-")))
        .collect();
    assert_eq!(databases, expected, "there is a file that belongs to no module");
    installation.remove().await;
}

async fn logins_are_isolated() {
    let installation = shop(Stage::Postgres).await;
    let url = installation.database_url().expect("a database");
    let admin = data::connect(installation.directory(), Some(&url), "public").await;
    let mut found = Vec::new();
    for owner in owners() {
        let sql = format!("select tablename::text as name from pg_tables where schemaname = '{owner}'");
        found.push((
            owner,
            data::names(&admin, &sql).await.into_iter().collect::<BTreeSet<_>>(),
        ));
    }
    expect_own_tables(&found);
    let schemas = "select distinct schemaname::text as name from pg_tables where schemaname not in ('pg_catalog', 'information_schema') order by 1";
    let expected: BTreeSet<String> = owners().map(str::to_owned).collect();
    assert_eq!(
        data::names(&admin, schemas).await.into_iter().collect::<BTreeSet<_>>(),
        expected,
        "there are tables that belong to no module"
    );

    let settings = banyan::settings(None, [("BANYAN__DATABASE__URL".to_owned(), url.clone())]).expect("settings");
    for owner in owners() {
        // The login that the shop itself uses.
        let Storage::Postgres { url, .. } =
            banyan_host::local::data::storage(&settings, owner, owner).expect("storage")
        else {
            panic!("{owner} is not on PostgreSQL")
        };
        let login = data::connect(installation.directory(), Some(&url), owner).await;
        has_no_admin_privileges(&login, owner).await;
        own_schema_is_accessible(&login, owner, &found).await;
        other_schemas_are_denied(&login, owner, &found).await;
        login.close().await;
    }
    admin.close().await;
    installation.remove().await;
}

/// The login belongs to its module alone and has no administrative privileges.
async fn has_no_admin_privileges(login: &Connection, owner: &str) {
    let who = data::names(login, "select current_user::text as name").await.remove(0);
    assert!(who.ends_with(&format!("_{owner}")), "{owner} logs in as {who}");
    let privileges = "select 'x' as name from pg_roles where rolname = current_user and (rolsuper or rolcreaterole or rolcreatedb or rolbypassrls or rolreplication)";
    assert_eq!(
        data::names(login, privileges).await,
        [""; 0],
        "{who} has more privileges than a module needs"
    );
    let groups = "select r.rolname::text as name from pg_auth_members m join pg_roles r on r.oid = m.roleid join pg_roles me on me.oid = m.member where me.rolname = current_user";
    assert_eq!(
        data::names(login, groups).await,
        [""; 0],
        "{who} has the privileges of other logins"
    );
}

async fn own_schema_is_accessible(login: &Connection, owner: &str, found: &[(&str, BTreeSet<String>)]) {
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

async fn other_schemas_are_denied(login: &Connection, owner: &str, found: &[(&str, BTreeSet<String>)]) {
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
    let mut not_denied = Vec::new();
    for statement in forbidden {
        match login.execute_unprepared(&statement).await {
            // 42501: insufficient_privilege, in every language of the server.
            Err(error) if is_denied(&error) => {}
            Err(error) => not_denied.push(format!("{statement}: refused for another reason: {error}")),
            Ok(_) => not_denied.push(format!("{statement}: done")),
        }
    }
    assert!(
        not_denied.is_empty(),
        "the login of {owner}:\n{}",
        not_denied.join("\n")
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
