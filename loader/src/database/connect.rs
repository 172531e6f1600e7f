//! One connection with everything a verb needs on its search path.
//!
//! Invariant: a password in a URL never reaches a message.

use std::{env, str::FromStr, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use postgres::{
    Client, Config,
    config::{Host, SslMode},
};

use super::{quoted, tls};

/// What the client library waits before it asks whether the other side is there.
const LIBRARY_KEEPALIVE: Duration = Duration::from_secs(2 * 60 * 60);
/// What we wait, and how long it may take to answer.
const SILENCE: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the database of `url`, or of `LOOKBOOK_DATABASE` or `DATABASE_URL`, and makes sure
/// that the extension is there. Its schema is put at the end of the search path.
pub fn connect(url: Option<&str>) -> Result<Client> {
    let (mut client, target) = connect_to_server(url)?;
    let schema = extension_schema(&mut client, &target)?;
    see(&mut client, &schema)?;
    Ok(client)
}

/// Connects to a database whose tables are written or read; whether the extension is there. Without it
/// pgvector has to be, and the user has to have said that it may be missing.
pub fn connect_to_target(url: Option<&str>, may_lack_extension: bool) -> Result<(Client, bool)> {
    if !may_lack_extension {
        return Ok((connect(url)?, true));
    }
    let (mut client, target) = connect_to_server(url)?;
    let found = client.query_opt(
        "SELECT e.extname = 'lookbook', n.nspname::text FROM pg_catalog.pg_extension e \
         JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace \
         WHERE e.extname IN ('lookbook', 'vector') ORDER BY e.extname LIMIT 1",
        &[],
    )?;
    let Some(row) = found else {
        bail!(
            "{target} has neither lookbook nor pgvector: run CREATE EXTENSION vector in that database (or CREATE EXTENSION \
             lookbook, where the server has it)"
        );
    };
    let (has_extension, schema): (bool, String) = (row.get(0), row.get(1));
    see(&mut client, &schema)?;
    if has_extension
        && let Some(vector) = schema_of(&mut client, "vector")?
        && vector != schema
    {
        see(&mut client, &vector)?;
    }
    Ok((client, has_extension))
}

/// Puts a schema at the end of the search path.
fn see(client: &mut Client, schema: &str) -> Result<()> {
    client.execute(
        "SELECT pg_catalog.set_config('search_path', pg_catalog.concat_ws(', ', \
         nullif(pg_catalog.current_setting('search_path'), ''), $1::text), false)",
        &[&quoted(schema)],
    )?;
    Ok(())
}

fn schema_of(client: &mut Client, extension: &str) -> Result<Option<String>> {
    let found = client.query_opt(
        "SELECT n.nspname::text FROM pg_catalog.pg_extension e \
         JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = $1",
        &[&extension],
    )?;
    Ok(found.map(|row| row.get(0)))
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
    let (url, encryption) = tls::Encryption::of_environment(&url)?;
    let mut config = Config::from_str(&url).context(
        "the database URL is not understood; it looks like postgresql://user@host:5432/name, or \
         postgresql:///name?host=/folder/of/the/socket",
    )?;
    super::libpq::complete(&mut config);
    if let Some(mode) = encryption.mode {
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
    let mut client = client.with_context(|| format!("cannot connect to {target}"))?;
    // A load outlives the limits that a role may have for its web requests.
    // The first alone: its time counts for all that is sent with it.
    client.batch_execute("SET statement_timeout = 0")?;
    client.batch_execute(
        "SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
         SET client_min_messages = warning; \
         SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
         WHERE name IN ('idle_session_timeout', 'transaction_timeout')",
    )?;
    Ok((client, target))
}

fn extension_schema(client: &mut Client, target: &str) -> Result<String> {
    if let Some(schema) = schema_of(client, "lookbook")? {
        return Ok(schema);
    }
    let has_pgvector = schema_of(client, "vector")?.is_some();
    let without = match has_pgvector {
        true => "; or load without it, by pgvector: --pgvector",
        false => "",
    };
    let is_available = client
        .query_opt(
            "SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'lookbook'",
            &[],
        )?
        .is_some();
    if is_available {
        bail!(
            "{target} does not have the extension yet: run CREATE EXTENSION lookbook in that database{without}"
        );
    }
    Err(anyhow!(
        "the server of {target} does not have the extension: install it there with make install \
         PG_CONFIG=..., then run CREATE EXTENSION lookbook{without}"
    ))
}

/// Where a connection goes, without its password.
fn describe(config: &Config) -> String {
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(folder) => folder.display().to_string(),
    });
    let hosts: Vec<String> = hosts.collect();
    let host = if hosts.is_empty() {
        "no host".to_owned()
    } else {
        hosts.join(", ")
    };
    let port = config
        .get_ports()
        .first()
        .map(|port| format!(", port {port}"))
        .unwrap_or_default();
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
        let error = format!(
            "{:#}",
            connect(Some("postgresql://u:s3cret@[/x"))
                .err()
                .expect("bad")
        );
        assert!(!error.contains("s3cret"), "{error}");
    }
}
