//! A PostgreSQL that refuses, closes connections or falls silent: an outage for the callers, and over when the server is well again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use banyan_core::FaultKind;
use banyan_durable::{Db, MachineryLimits, Settings, Storage};
use banyan_durable_testing::{PostgresHome, settings};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use tokio::{
    io::copy,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{
    harness::count,
    writing::{say, with_table},
};

async fn open(storage: &Storage) -> Db {
    let db = banyan_durable_testing::open("durable", storage, settings()).await;
    with_table(&db).await;
    db
}

async fn write(db: &Db) -> Result<(), banyan_core::Fault> {
    db.write((), |tx, ()| async move {
        say(&tx, "insert into word values ('word')").await
    })
    .await
}

/// Fills the pool, so that there are several connections to lose.
async fn use_all_connections(db: &Db) {
    let reads = (0..settings().pool).map(|_| count(db, "select count(*) from pg_sleep(0.1)"));
    futures::future::join_all(reads).await;
}

async fn admin(home: &PostgresHome) -> DatabaseConnection {
    Database::connect(home.url()).await.unwrap()
}

#[tokio::test]
async fn connections_that_the_server_closed_are_replaced_without_an_error() {
    let home = PostgresHome::new().await;
    let (db, admin) = (open(&home.storage("durable").await).await, admin(&home).await);
    let terminate = "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and application_name = 'banyan-durable'";
    use_all_connections(&db).await;
    admin.execute_unprepared(terminate).await.unwrap();
    assert_eq!(count(&db, "select count(*) from word").await, 0);
    use_all_connections(&db).await;
    admin.execute_unprepared(terminate).await.unwrap();
    write(&db).await.unwrap();
    db.close().await;
    admin.close().await.unwrap();
    home.remove().await;
}

#[tokio::test]
async fn a_server_that_refuses_to_write_is_unavailable_and_not_ready_until_it_writes_again() {
    let home = PostgresHome::new().await;
    let (db, admin) = (open(&home.storage("durable").await).await, admin(&home).await);
    let set = |setting: &str| format!("alter database {} {setting}", home.name());
    admin
        .execute_unprepared(&set("set default_transaction_read_only = on"))
        .await
        .unwrap();
    // Connections that are open keep their settings, as those to a server that is made a standby do not.
    db.read()
        .query_all_raw(sea_orm::Statement::from_string(
            db.backend(),
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and application_name = 'banyan-durable' and pid <> pg_backend_pid()",
        ))
        .await
        .unwrap();
    let refused = write(&db).await;
    // The one connection that is left still writes; every new one does not.
    let refused = match refused {
        Ok(()) => {
            use_all_connections(&db).await;
            futures::future::join_all((0..settings().pool).map(|_| write(&db)))
                .await
                .into_iter()
                .find_map(Result::err)
                .expect("a new connection refuses")
        }
        Err(fault) => fault,
    };
    assert_eq!(refused.kind, FaultKind::Unavailable, "{refused}");
    admin
        .execute_unprepared("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name = 'banyan-durable'")
        .await
        .unwrap();
    let not_ready = db.ping().await.unwrap_err();
    assert!(not_ready.kind == FaultKind::Unavailable, "{not_ready}");
    use_all_connections(&db).await;
    admin
        .execute_unprepared(&set("reset default_transaction_read_only"))
        .await
        .unwrap();
    // Each connection refuses once at most: it is not used again.
    for _ in 0..settings().pool {
        let _ = write(&db).await;
    }
    let before = count(&db, "select count(*) from word").await;
    write(&db).await.unwrap();
    assert_eq!(count(&db, "select count(*) from word").await, before + 1);
    db.ping().await.unwrap();
    db.close().await;
    admin.close().await.unwrap();
    home.remove().await;
}

/// A login without the right to use its schema is told that its tables do not exist. So is one whose schema is restored at the moment.
#[tokio::test]
async fn tables_that_cannot_be_seen_for_a_while_are_an_outage() {
    let home = PostgresHome::new().await;
    let (db, admin) = (open(&home.storage("durable").await).await, admin(&home).await);
    write(&db).await.unwrap();
    admin
        .execute_unprepared("alter schema durable rename to away")
        .await
        .unwrap();
    let refused = write(&db).await.unwrap_err();
    assert_eq!(refused.kind, FaultKind::Unavailable, "{refused}");
    db.ping().await.expect_err("not ready while writes fail");
    admin
        .execute_unprepared("alter schema away rename to durable")
        .await
        .unwrap();
    db.ping().await.expect("ready without another write");
    write(&db).await.unwrap();
    assert_eq!(count(&db, "select count(*) from word").await, 2);
    db.close().await;
    admin.close().await.unwrap();
    home.remove().await;
}

/// A right to one table of many: other writes succeed, those of the leases among them, and the module is not ready all the same.
#[tokio::test]
async fn a_right_that_is_withdrawn_from_one_table_ends_readiness_until_it_is_back() {
    let home = PostgresHome::new().await;
    let storage = home.storage("durable").await;
    let db = open(&storage).await;
    write(&db).await.unwrap();
    db.ping().await.unwrap();
    let login = db.read().query_one_raw(sea_orm::Statement::from_string(
        db.backend(),
        "select current_user::text",
    ));
    let login: String = login.await.unwrap().unwrap().try_get_by_index(0).unwrap();
    let admin = admin(&home).await;
    // A superuser has every right: the module must have a login of its own, as in production.
    let role = format!("{}_limited", home.name());
    for sql in [
        format!("create role \"{role}\" login password 'a-password'"),
        format!("grant usage, create on schema durable to \"{role}\""),
        "do $$ declare t text; begin for t in select tablename from pg_tables where schemaname = 'durable' loop
             execute format('alter table durable.%I owner to %I', t, 'ROLE'); end loop; end $$"
            .replace("ROLE", &role),
    ] {
        admin.execute_unprepared(&sql).await.unwrap();
    }
    db.close().await;
    let Storage::Postgres { url, schema } = storage else {
        panic!("PostgreSQL")
    };
    let mut url = url::Url::parse(&url).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("a-password")).unwrap();
    let limited = Storage::Postgres {
        url: url.to_string(),
        schema,
    };
    let clock = Arc::new(banyan_core::SystemClock);
    let db = Db::open("durable", &limited, settings(), clock, Arc::new(banyan_core::RandomIds))
        .await
        .unwrap();
    write(&db).await.unwrap();
    // A table of somebody else in the schema is not the module's.
    for sql in [
        "create table durable.report (word text)".to_owned(),
        format!("revoke insert on durable.word from \"{role}\""),
    ] {
        admin.execute_unprepared(&sql).await.unwrap();
    }
    db.ping().await.expect("nothing has failed, so nothing is looked up");
    assert_eq!(write(&db).await.unwrap_err().kind, FaultKind::Unavailable);
    let other = || {
        db.write(
            (),
            |tx, ()| async move { say(&tx, "update lease set until = until").await },
        )
    };
    for _ in 0..2 {
        other().await.unwrap();
        let not_ready = db.ping().await.unwrap_err();
        assert!(
            not_ready.detail.contains("lacks rights to the tables word"),
            "{not_ready}"
        );
    }
    admin
        .execute_unprepared(&format!("grant insert on durable.word to \"{role}\""))
        .await
        .unwrap();
    db.ping().await.expect("ready without another write");
    write(&db).await.unwrap();
    db.close().await;
    let gone = format!("reassign owned by \"{role}\" to \"{login}\"; drop owned by \"{role}\"; drop role \"{role}\"");
    admin.execute_unprepared(&gone).await.unwrap();
    admin.close().await.unwrap();
    home.remove().await;
}

/// The limits that the server has for us, on each connection of the pool: they end what a suspended process has left behind.
#[tokio::test]
async fn the_limits_of_the_server_are_set_on_every_connection_and_end_a_long_statement() {
    let home = PostgresHome::new().await;
    let storage = home.storage("durable").await;
    let limits = MachineryLimits {
        job_timeout: Duration::from_millis(50),
        ..MachineryLimits::default()
    };
    let db = banyan_durable_testing::open("durable", &storage, Settings { limits, ..settings() }).await;
    let set = "select count(*) from pg_sleep(0.1) where current_setting('lock_timeout') = '40ms'
         and current_setting('statement_timeout') = '500ms' and current_setting('idle_in_transaction_session_timeout') = '500ms'";
    let all = futures::future::join_all((0..settings().pool).map(|_| count(&db, set))).await;
    assert!(all.iter().all(|set| *set == 1), "{all:?}");
    let connections =
        "select count(*) from pg_stat_activity where datname = current_database() and query like '%pg_sleep(0.1)%'";
    assert_eq!(
        count(&db, connections).await,
        i64::from(settings().pool),
        "each was asked"
    );
    // A read has no limit of ours as short as this one.
    let begun = Instant::now();
    let read = db
        .read()
        .query_all_raw(sea_orm::Statement::from_string(db.backend(), "select pg_sleep(20)"));
    let ended = read.await.unwrap_err();
    assert!(ended.to_string().contains("statement timeout"), "{ended}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(banyan_durable::fault(ended).kind, FaultKind::Unavailable);
    db.close().await;
    home.remove().await;
}

/// A proxy to the server. What is connected when it falls silent hears nothing any more; what connects afterwards does.
async fn proxy(server: String) -> (u16, watch::Sender<u32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (silence, generation) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut generation = generation.clone();
            let mut server = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(async move {
                let own = *generation.borrow_and_update();
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                tokio::select! {
                    _ = copy(&mut from_client, &mut to_server) => return,
                    _ = copy(&mut from_server, &mut to_client) => return,
                    _ = generation.wait_for(|now| *now > own) => {}
                }
                // Both ends stay open, and nothing passes.
                std::future::pending::<()>().await;
            });
        }
    });
    (port, silence)
}

#[tokio::test]
async fn connections_that_fall_silent_are_given_up_within_their_limits() {
    let home = PostgresHome::new().await;
    let Storage::Postgres { url, schema } = home.storage("durable").await else {
        panic!("PostgreSQL")
    };
    let mut parsed = url::Url::parse(&url).unwrap();
    let server = format!("127.0.0.1:{}", parsed.port().unwrap());
    let (port, silence) = proxy(server).await;
    parsed.set_port(Some(port)).unwrap();
    let db = open(&Storage::Postgres {
        url: parsed.to_string(),
        schema,
    })
    .await;
    use_all_connections(&db).await;
    silence.send_modify(|generation| *generation += 1);
    let begun = Instant::now();
    // All at once, so that each meets another connection.
    let (db, pool) = (Arc::new(db), settings().pool);
    let faults = futures::future::join_all((0..pool).map(|_| write(&db))).await;
    for fault in faults.into_iter().filter_map(Result::err) {
        assert_eq!(fault.kind, FaultKind::Unavailable, "{fault}");
    }
    // Far below what the operating system takes to notice.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    write(&db).await.unwrap();
    assert!(count(&db, "select count(*) from word").await >= 1);
    db.close().await;
    home.remove().await;
}
