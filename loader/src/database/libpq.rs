//! What libpq's programs take from elsewhere where a URL does not say it: environment variables and the password file
//! (libpq-envars, libpq-pgpass). So `psql` and the loader go to the same place with the same words.

use std::{
    env,
    path::{Path, PathBuf},
    sync::Once,
};

use postgres::{Config, config::Host};
use rustix::fs::{Mode, stat};

use crate::messages;

const PORT: u16 = 5432;
/// Where servers of distributions put their sockets, and where PostgreSQL does by itself.
const SOCKET_FOLDERS: &[&str] = &["/var/run/postgresql", "/tmp"];

/// Completes what `config` leaves open.
pub fn complete(config: &mut Config) {
    if config.get_ports().is_empty()
        && let Some(port) = variable("PGPORT").and_then(|port| port.parse().ok())
    {
        config.port(port);
    }
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        match variable("PGHOST") {
            Some(hosts) => hosts.split(',').for_each(|host| {
                config.host(host);
            }),
            None => {
                let port = port_of(config);
                let mut folders = SOCKET_FOLDERS.iter();
                let socket =
                    |folder: &&&str| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists();
                config.host(folders.find(socket).copied().unwrap_or("localhost"));
            }
        }
    }
    if config.get_user().is_none()
        && let Some(user) = variable("PGUSER")
    {
        config.user(&user);
    }
    if config.get_dbname().is_none()
        && let Some(name) = variable("PGDATABASE")
    {
        config.dbname(&name);
    }
    if config.get_password().is_none()
        && let Some(password) = variable("PGPASSWORD").or_else(|| kept_password(config))
    {
        config.password(password);
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn port_of(config: &Config) -> u16 {
    config.get_ports().first().copied().unwrap_or(PORT)
}

static SAID: Once = Once::new();

/// That of the password file, if others cannot read it.
fn kept_password(config: &Config) -> Option<String> {
    let file = match variable("PGPASSFILE") {
        Some(file) => PathBuf::from(file),
        None => Path::new(&variable("HOME")?).join(".pgpass"),
    };
    let about = stat(&file).ok()?;
    if Mode::from_raw_mode(about.st_mode).intersects(Mode::RWXG | Mode::RWXO) {
        // A run has several connections.
        SAID.call_once(|| {
            messages::warn(format_args!(
                "password file {} is not used: others may read it; chmod 0600 {0}",
                file.display()
            ));
        });
        return None;
    }
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        // What the file says of sockets.
        _ => "localhost".to_owned(),
    };
    let user = config.get_user().map(str::to_owned);
    let user = user.or_else(|| variable("USER"))?;
    let name = config.get_dbname().unwrap_or(&user).to_owned();
    let asked = [&host, &port_of(config).to_string(), &name, &user].map(|text| text.to_owned());
    password_of(&std::fs::read_to_string(&file).ok()?, &asked)
}

/// The password on the first line whose host, port, database and user are those asked for, or `*`.
fn password_of(file: &str, asked: &[String; 4]) -> Option<String> {
    file.lines().find_map(|line| {
        if line.starts_with('#') {
            return None;
        }
        let fields = fields_of(line);
        let (password, said) = fields.split_last()?;
        let fits = said.len() == asked.len()
            && said
                .iter()
                .zip(asked)
                .all(|(said, asked)| said == "*" || said == asked);
        fits.then(|| password.clone())
    })
}

/// Host, port, database, user and password of a line; `\:` and `\\` stand for themselves.
fn fields_of(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let is_end = character == ':' && fields.len() < 5;
        let character = match character {
            '\\' => characters.next().unwrap_or('\\'),
            character => character,
        };
        match (is_end, fields.last_mut()) {
            (false, Some(field)) => field.push(character),
            _ => fields.push(String::new()),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let file = "# the shop\nother:5432:*:shop:wrong\ndb:5432:shop:loader:pass:with\\\\colons\n*:*:*:loader:any\na\\:b:*:*:*:odd\n";
        let ask = |host: &str, name: &str, user: &str| {
            let asked = [host, "5432", name, user].map(str::to_owned);
            password_of(file, &asked)
        };
        assert_eq!(
            ask("db", "shop", "loader").as_deref(),
            Some("pass:with\\colons")
        );
        assert_eq!(ask("db", "other", "loader").as_deref(), Some("any"));
        assert_eq!(ask("a:b", "x", "y").as_deref(), Some("odd"));
        assert_eq!(ask("db", "shop", "nobody"), None);
    }
}
