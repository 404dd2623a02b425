//! Where PostgreSQL is: a URL with one host or several, and a session with the first one that serves.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, Executor, PgConnection, Row, postgres::PgConnectOptions};
use tokio::time::timeout;

/// The timeout for one of several hosts.
const HOST_LIMIT: Duration = Duration::from_secs(2);

/// The parts of a database URL, around its comma-separated hosts.
struct Parts<'a> {
    /// With the scheme and the login.
    before: &'a str,
    hosts: &'a str,
    after: &'a str,
}

impl<'a> Parts<'a> {
    fn of(url: &'a str) -> Option<Self> {
        let start = url.find("://")? + 3;
        let end = url[start..].find(['/', '?']).map_or(url.len(), |end| start + end);
        let start = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
        Some(Parts {
            before: &url[..start],
            hosts: &url[start..end],
            after: &url[end..],
        })
    }
}

/// The same URL with its first host alone.
pub fn first_host(url: &str) -> String {
    match Parts::of(url) {
        Some(parts) => {
            let first = parts.hosts.split(',').next().unwrap_or_default();
            format!("{}{first}{}", parts.before, parts.after)
        }
        None => url.to_owned(),
    }
}

/// `url` with all hosts of `original`.
pub fn with_hosts_of(url: &str, original: &str) -> String {
    match (Parts::of(url), Parts::of(original)) {
        (Some(own), Some(original)) => format!("{}{}{}", own.before, original.hosts, own.after),
        _ => url.to_owned(),
    }
}

/// How to connect to each of the hosts, in order.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    each: Vec<PgConnectOptions>,
    /// Only a host that can be written to will do.
    read_write: bool,
    /// Statements that set up a session. Not options of the start: a pooler between us refuses or ignores those.
    setup: String,
}

impl Servers {
    pub fn parse(url: &str) -> Result<Self, sqlx::Error> {
        let parts = Parts::of(url).ok_or_else(|| invalid("is not postgres://user:password@host:port/database"))?;
        let (after, read_write) = without_target(parts.after)?;
        let mut each = Vec::new();
        for host in parts.hosts.split(',') {
            let options: PgConnectOptions = format!("{}{host}{after}", parts.before).parse()?;
            let bare = options
                .get_host()
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned();
            // An address of IPv6 stands in brackets in a URL, and nowhere else.
            let options = if bare == options.get_host() {
                options
            } else {
                options.host(&bare)
            };
            // PgBouncer refuses this parameter, and nothing here is read as text.
            each.push(options.extra_float_digits(None));
        }
        Ok(Servers {
            each,
            read_write,
            setup: String::new(),
        })
    }

    /// Changes how each host is connected to.
    pub fn map(mut self, change: impl Fn(PgConnectOptions) -> PgConnectOptions) -> Self {
        self.each = self.each.into_iter().map(change).collect();
        self
    }

    /// Sets `name` in every session.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        let value = value.replace('\'', "''");
        self.setup.push_str(&format!("set {name} to '{value}'; "));
        self
    }

    /// Sets the schema in which names are looked up.
    pub fn schema(mut self, schema: &str) -> Self {
        let schema = schema.replace('"', "\"\"");
        self.setup.push_str(&format!("set search_path to \"{schema}\"; "));
        self
    }

    /// A session with the first host that serves, set up.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        Ok(self.find().await?.0)
    }

    /// As [`connect`](Servers::connect), and how that host is connected to.
    pub async fn find(&self) -> Result<(PgConnection, &PgConnectOptions), sqlx::Error> {
        let mut last = invalid("names no host");
        for options in &self.each {
            let connecting = self.connect_to(options);
            let connected = if self.each.len() == 1 {
                connecting.await
            } else {
                let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "the host did not respond");
                timeout(HOST_LIMIT, connecting)
                    .await
                    .unwrap_or(Err(sqlx::Error::Io(late)))
            };
            match connected {
                Ok(connection) => return Ok((connection, options)),
                Err(error) => {
                    if self.each.len() > 1 {
                        tracing::debug!(host = options.get_host(), port = options.get_port(), %error, "this host is passed over");
                    }
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn connect_to(&self, options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
        let mut connection = PgConnection::connect_with(options).await?;
        if !self.setup.is_empty() {
            connection
                .execute(sqlx::raw_sql(AssertSqlSafe(self.setup.as_str())))
                .await?;
        }
        if self.read_write {
            let row = connection
                .fetch_one(sqlx::raw_sql("show transaction_read_only"))
                .await?;
            if row.try_get::<String, _>(0)? != "off" {
                let _ = connection.close().await;
                return Err(sqlx::Error::Io(std::io::Error::other(
                    "the host is read-only, and target_session_attrs is read-write",
                )));
            }
        }
        Ok(connection)
    }

    /// Refuses a pooler that hands a session of the server to another client after each transaction. What a session is set up with, its named
    /// statements and its locks would be another client's. Seen by two sessions that are one at the server.
    pub async fn refuse_transaction_pooling(&self) -> Result<(), sqlx::Error> {
        let mut one = self.connect().await?;
        // A pooler may have no second session to give; then it gives none away either.
        let Ok(Ok(mut two)) = timeout(HOST_LIMIT, self.connect()).await else {
            return Ok(());
        };
        let first = session_at_server(&mut one).await?;
        let mut shared = false;
        for _ in 0..3 {
            let (other, again) = (session_at_server(&mut two).await?, session_at_server(&mut one).await?);
            shared |= other == first || again != first;
        }
        let _ = one.close().await;
        let _ = two.close().await;
        if shared {
            return Err(sqlx::Error::Configuration(
                "a pooler in front of PostgreSQL pools transactions or statements; banyan needs sessions: set pool_mode = session for this database in \
                 pgbouncer.ini, or connect to PostgreSQL itself"
                    .into(),
            ));
        }
        Ok(())
    }
}

async fn session_at_server(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let row = connection
        .fetch_one(sqlx::raw_sql("select pg_backend_pid()::text"))
        .await?;
    let id: String = row.try_get(0)?;
    id.parse()
        .map_err(|_| invalid("is served by something that numbers no sessions"))
}

/// The rest of the URL without `target_session_attrs`, which the driver does not know, and whether it asks for a host that can be written to.
fn without_target(after: &str) -> Result<(String, bool), sqlx::Error> {
    let Some((path, query)) = after.split_once('?') else {
        return Ok((after.to_owned(), false));
    };
    let mut read_write = false;
    let mut kept = Vec::new();
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("target_session_attrs", "any")) => read_write = false,
            Some(("target_session_attrs", "read-write" | "primary")) => read_write = true,
            Some(("target_session_attrs", other)) => {
                return Err(invalid(&format!(
                    "has target_session_attrs={other}; it may be any, read-write or primary"
                )));
            }
            _ => kept.push(pair),
        }
    }
    let query = if kept.is_empty() {
        String::new()
    } else {
        format!("?{}", kept.join("&"))
    };
    Ok((format!("{path}{query}"), read_write))
}

fn invalid(what: &str) -> sqlx::Error {
    sqlx::Error::Configuration(format!("the database URL {what}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(url: &str) -> Vec<(String, u16)> {
        let servers = Servers::parse(url).unwrap();
        let host = |options: &PgConnectOptions| (options.get_host().to_owned(), options.get_port());
        servers.each.iter().map(host).collect()
    }

    #[test]
    fn a_url_names_one_host_or_several_also_by_addresses_of_ipv6() {
        let url = "postgres://me:pass@word@[::1]:5433,db-2,10.0.0.3:5434/shop?sslmode=require&target_session_attrs=read-write";
        assert_eq!(
            hosts(url),
            [
                ("::1".to_owned(), 5433),
                ("db-2".to_owned(), 5432),
                ("10.0.0.3".to_owned(), 5434)
            ]
        );
        assert!(Servers::parse(url).unwrap().read_write);
        assert_eq!(hosts("postgres://localhost/shop"), [("localhost".to_owned(), 5432)]);
        let one = first_host(url);
        assert!(one.contains("@[::1]:5433/shop?"), "{one}");
        assert_eq!(with_hosts_of(&one, url), url);
    }

    #[test]
    fn an_unknown_target_is_named_with_what_it_may_be() {
        let error = Servers::parse("postgres://a,b/shop?target_session_attrs=standby").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("target_session_attrs=standby; it may be any"),
            "{error}"
        );
    }
}
