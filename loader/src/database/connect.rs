//! One connection, and where the extensions' things are.
//!
//! Invariants: a password in a URL never reaches a message; what somebody put into a schema of the user's search path is
//! never taken for something else, so names outside of `pg_catalog` are written with their schemas.

use std::{env, error::Error, str::FromStr, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use postgres::{
    Client, Config, GenericClient,
    config::{Host, SslMode},
    error::SqlState,
};

use super::tls;

/// What the client library waits before it asks whether the other side is there.
const LIBRARY_KEEPALIVE: Duration = Duration::from_secs(2 * 60 * 60);
/// What we wait, and how long it may take to answer.
const SILENCE: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const NOT_UNDERSTOOD: &str = "the database URL is not understood; it looks like postgresql://user@host:5432/name, or \
                              postgresql:///name?host=/folder/of/the/socket";

/// The search path that the role has by itself, until the transaction ends: for names that the user wrote, and for
/// statements that run triggers of the shop. Whatever else they name has its schema, and their operators take exactly
/// the types that they are given, or the shop could give them others.
pub const OWN_PATH: &str = "SET LOCAL search_path TO DEFAULT";
/// What a session has otherwise.
pub const SAFE_PATH: &str = "SET search_path = pg_catalog, pg_temp";

/// The schemas of the two extensions as SQL names them.
#[derive(Debug, Clone, Default)]
pub struct Extensions {
    pub lookbook: Option<String>,
    pub vector: Option<String>,
}

impl Extensions {
    fn of(client: &mut impl GenericClient) -> Result<Self> {
        let mut schema_of = |extension| -> Result<Option<String>> {
            let found = client.query_opt(
                "SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e \
                 JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = $1",
                &[&extension],
            )?;
            Ok(found.map(|row| row.get(0)))
        };
        Ok(Self {
            lookbook: schema_of("lookbook")?,
            vector: schema_of("vector")?,
        })
    }
}

/// Something of our extension as SQL names it.
pub fn ours(client: &mut impl GenericClient, name: &str) -> Result<String> {
    let schema = Extensions::of(client)?.lookbook;
    let schema = schema.context("the database does not have the extension any more")?;
    Ok(format!("{schema}.{name}"))
}

/// Connects to the database of `url`, or of `LOOKBOOK_DATABASE` or `DATABASE_URL`, and makes sure
/// that the extension is there.
pub fn connect(url: Option<&str>) -> Result<Client> {
    Ok(connect_to_target(url, false)?.0)
}

/// Connects to a database whose tables are written or read. Without our extension pgvector has to be there, and the user
/// has to have said that ours may be missing.
pub fn connect_to_target(
    url: Option<&str>,
    may_lack_extension: bool,
) -> Result<(Client, Extensions)> {
    let (mut client, target) = connect_to_server(url)?;
    let extensions = Extensions::of(&mut client)?;
    if extensions.lookbook.is_some() {
        return Ok((client, extensions));
    }
    if !may_lack_extension {
        return Err(no_extension(&mut client, &target, &extensions)?);
    }
    if extensions.vector.is_none() {
        bail!(
            "{target} has neither lookbook nor pgvector: run CREATE EXTENSION vector in that database (or CREATE EXTENSION \
             lookbook, where the server has it)"
        );
    }
    Ok((client, extensions))
}

/// Connects to a database that may know nothing of us.
pub fn connect_anywhere(url: Option<&str>) -> Result<Client> {
    Ok(connect_to_server(url)?.0)
}

/// Connects, whether or not the extension is there; says where to, without a password.
pub fn connect_to_server(url: Option<&str>) -> Result<(Client, String)> {
    let url = match url {
        Some(url) => url.to_owned(),
        None => ["LOOKBOOK_DATABASE", "DATABASE_URL"]
            .iter()
            .find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
            .context("no database was named: give --database URL, or set LOOKBOOK_DATABASE")?,
    };
    check_form(&url)?;
    let (url, encryption) = tls::Encryption::of_environment(&url)?;
    let mut config = Config::from_str(&url).context(NOT_UNDERSTOOD)?;
    super::libpq::complete(&mut config);
    // As libpq, which never encrypts what does not leave the machine.
    let is_local = |host: &Host| matches!(host, Host::Unix(_));
    if config.get_hosts().iter().all(is_local) && config.get_hostaddrs().is_empty() {
        config.ssl_mode(SslMode::Disable);
    } else if let Some(mode) = encryption.mode {
        config.ssl_mode(mode);
    }
    config.application_name("lookbook");
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    // A network that falls silent is found out in minutes, not in hours.
    if config.get_keepalives_idle() == LIBRARY_KEEPALIVE {
        config.keepalives_idle(SILENCE);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(SILENCE);
    }
    let target = describe(&config);
    let client = if config.get_ssl_mode() == SslMode::Disable {
        config.connect(postgres::NoTls)
    } else {
        config.connect(encryption.connector()?)
    };
    let mut client = client.map_err(|error| refused(error, &config, &target))?;
    // A load outlives the limits that a role may have for its web requests.
    // The first alone: its time counts for all that is sent with it. The rest at once: between two statements an idle session
    // may be ended.
    client.batch_execute("SET statement_timeout = 0")?;
    client.batch_execute(&format!(
        "{SAFE_PATH}; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
         SET client_min_messages = warning; \
         SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
         WHERE name IN ('idle_session_timeout', 'transaction_timeout')"
    ))?;
    notice_our_end(&mut client)?;
    Ok((client, target))
}

/// Fails where the text is no URL of PostgreSQL and no `key=value` pairs, and where a part of the password would be taken for
/// the host, and so be shown and looked up.
fn check_form(text: &str) -> Result<()> {
    let url = ["postgresql://", "postgres://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let Some(url) = url else {
        ensure!(
            text.contains('=') && !text.contains("://"),
            "{NOT_UNDERSTOOD}"
        );
        return Ok(());
    };
    let place = url.split('?').next().unwrap_or_default();
    let is_plain = match place.split_once('@') {
        Some((user, place)) => !user.contains('/') && !place.contains('@'),
        None => true,
    };
    ensure!(
        is_plain,
        "the database URL has an @ or a / too many: in a user's name or password, @ is written %40, / %2F, : %3A, ? %3F, # %23 and \
         % %25; or leave the password to PGPASSWORD or ~/.pgpass"
    );
    Ok(())
}

/// Why there is no connection.
fn refused(error: postgres::Error, config: &Config, target: &str) -> anyhow::Error {
    // The client library has no other name for it.
    let lacks_password = error
        .source()
        .is_some_and(|cause| cause.to_string() == "password missing");
    let refused = format!("cannot connect to {target}");
    if lacks_password {
        let role = config.get_user().unwrap_or_default();
        return anyhow!(
            "{refused}: the server asks for the password of role {role}: give it in PGPASSWORD, ~/.pgpass or the URL"
        );
    }
    anyhow::Error::from(error).context(refused)
}

/// A killed loader that waited for a lock, or had an index made, goes on in the server for no more than a second
/// (PostgreSQL 14; older ones have no such setting).
fn notice_our_end(client: &mut Client) -> Result<()> {
    let set = "SELECT pg_catalog.set_config(name, '1s', false) FROM pg_catalog.pg_settings \
               WHERE name = 'client_connection_check_interval'";
    match client.batch_execute(set) {
        // Refused on platforms that cannot watch a connection.
        Err(error) if error.code() != Some(&SqlState::INVALID_PARAMETER_VALUE) => Err(error.into()),
        _ => Ok(()),
    }
}

fn no_extension(
    client: &mut Client,
    target: &str,
    extensions: &Extensions,
) -> Result<anyhow::Error> {
    let without = match extensions.vector {
        Some(_) => "; or load without it, by pgvector: --pgvector",
        None => "",
    };
    let is_available = client
        .query_opt(
            "SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'lookbook'",
            &[],
        )?
        .is_some();
    Ok(match is_available {
        true => anyhow!(
            "{target} does not have the extension yet: run CREATE EXTENSION lookbook in that database{without}"
        ),
        false => anyhow!(
            "the server of {target} does not have the extension: install it there with make install \
             PG_CONFIG=..., then run CREATE EXTENSION lookbook{without}"
        ),
    })
}

/// Where a connection goes, without its password.
fn describe(config: &Config) -> String {
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(folder) => folder.display().to_string(),
    });
    let mut hosts: Vec<String> = hosts.collect();
    let ports = config.get_ports();
    let port = match ports {
        [port] => format!(", port {port}"),
        _ => String::new(),
    };
    if ports.len() == hosts.len() && ports.len() > 1 {
        for (host, port) in hosts.iter_mut().zip(ports) {
            *host = format!("{host}:{port}");
        }
    }
    let host = match hosts.is_empty() {
        true => "no host".to_owned(),
        false => hosts.join(", "),
    };
    let name = config
        .get_dbname()
        .or(config.get_user())
        .unwrap_or("of the user");
    format!("database {name} at {host}{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_never_reaches_a_message() {
        let url = "postgresql://shop:s3cret@localhost:1/catalogue";
        let error = format!(
            "{:#}",
            connect(Some(url)).err().expect("nothing listens on port 1")
        );
        assert!(
            error.contains("database catalogue at localhost, port 1"),
            "{error}"
        );
        assert!(!error.contains("s3cret"), "{error}");
        let several = describe(&"postgresql://a:1,b:2/shop".parse().expect("a URL"));
        assert_eq!(several, "database shop at a:1, b:2");
        let error = format!(
            "{:#}",
            connect(Some("postgresql://u:s3cret@[/x"))
                .err()
                .expect("bad")
        );
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn a_password_is_not_taken_for_a_host() {
        for url in [
            "postgresql://pw:p@ss/w@127.0.0.1:1/ld",
            "postgres://pw:p@ss@127.0.0.1/ld",
            "postgresql://pw:a/b@127.0.0.1/ld",
        ] {
            let error = connect(Some(url)).err().expect("refused").to_string();
            assert!(error.contains("@ is written %40"), "{error}");
            assert!(!error.contains("127.0.0.1"), "{error}");
        }
        for url in ["mysql://root@localhost/x", "nonsense"] {
            let error = connect(Some(url)).err().expect("refused");
            assert_eq!(format!("{error:#}"), NOT_UNDERSTOOD);
        }
        for url in [
            "postgresql:///name?host=/a/folder&user=a@b",
            "postgresql://user:p%40ss%2Fw@host:5432/name?application_name=a@b",
            "postgres://host",
            "host=/a/folder password=p@s/s",
        ] {
            check_form(url).unwrap();
        }
    }
}
