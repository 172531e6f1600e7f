//! `sslmode` and `sslrootcert` mean to the loader what they mean to libpq, on a server with certificates of its own.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lookbook_tests::{Cluster, loader, not_tested};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;

/// The server has this name in its certificate, and answers at 127.0.0.1, too.
const NAME: &str = "localhost";

/// A server that listens on the loop-back, with certificates in a folder of its user; `None`, said loudly, where it is built
/// without TLS.
struct Server {
    cluster: Cluster,
    folder: TempDir,
    port: u16,
}

impl Server {
    fn start() -> Result<Option<Self>> {
        let library = Cluster::shared()?
            .connect("postgres", "postgres")?
            .query_one("SHOW ssl_library", &[])?;
        if library.get::<_, &str>(0).is_empty() {
            not_tested("a server with TLS, this one is built without")?;
            return Ok(None);
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let cluster = Cluster::start(&[
            &format!("port={port}"),
            "listen_addresses='127.0.0.1'",
            "log_connections=on",
        ])?;
        let folder = tempfile::tempdir()?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        Ok(Some(Self {
            cluster,
            folder,
            port,
        }))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// From now on it shows `certificate`.
    fn show(&self, certificate: &str, key: &KeyPair) -> Result<()> {
        let (certificate_file, key_file) = (self.file("server.crt"), self.file("server.key"));
        fs::write(&certificate_file, certificate)?;
        fs::write(&key_file, key.serialize_pem())?;
        fs::set_permissions(&key_file, Permissions::from_mode(0o600))?;
        self.cluster.installation().give_to_server_user(&key_file)?;
        self.cluster.configure(&[
            "ssl=on",
            &format!("ssl_cert_file='{}'", certificate_file.display()),
            &format!("ssl_key_file='{}'", key_file.display()),
        ])?;
        self.cluster.restart()
    }

    /// What the loader says of a connection to `host`, or that it was encrypted.
    fn connect(&self, host: &str, mode: &str, roots: Option<&Path>) -> Result<Result<(), String>> {
        let port = self.port;
        let roots = roots.map(|file| format!("&sslrootcert={}", file.display()));
        let url = format!(
            "postgresql://postgres@{host}:{port}/postgres?sslmode={mode}{}",
            roots.unwrap_or_default()
        );
        let logged = self.cluster.log().len();
        // A home without certificates.
        let output = loader()?
            .args(["doctor", "--database", &url])
            .env("HOME", self.folder.path())
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        let log = self.cluster.log();
        let seen = log[logged..]
            .lines()
            .find(|line| line.contains("connection authorized"));
        match seen {
            Some(seen) if seen.contains("SSL enabled") => Ok(Ok(())),
            Some(_) => Ok(Err("it is not encrypted".to_owned())),
            None => Ok(Err(said)),
        }
    }

    fn expect(
        &self,
        host: &str,
        mode: &str,
        roots: Option<&Path>,
        refusal: Option<&str>,
    ) -> Result<()> {
        let found = self.connect(host, mode, roots)?;
        let what = format!("{host} {mode} {roots:?}: {found:?}");
        match refusal {
            None => ensure!(found.is_ok(), "{what}"),
            Some(reason) => ensure!(found.is_err_and(|said| said.contains(reason)), "{what}"),
        }
        Ok(())
    }
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

#[test]
fn who_signed_and_for_which_name_counts_as_it_does_to_libpq() -> Result<()> {
    let Some(server) = Server::start()? else {
        return Ok(());
    };
    let (ours, other) = (authority("ours")?, authority("other")?);
    let (root, wrong) = (server.file("root.crt"), server.file("wrong.crt"));
    fs::write(&root, ours.pem())?;
    fs::write(&wrong, other.pem())?;
    let key = KeyPair::generate()?;
    let named = CertificateParams::new(vec![NAME.to_owned()])?;
    server.show(&named.signed_by(&key, &ours)?.pem(), &key)?;

    let (root, wrong) = (Some(root.as_path()), Some(wrong.as_path()));
    let (by_nobody, for_another) = (Some("UnknownIssuer"), Some("not valid for name"));
    for (host, mode, roots, refusal) in [
        (NAME, "disable", None, Some("it is not encrypted")),
        (NAME, "prefer", None, None),
        (NAME, "require", None, None),
        (NAME, "require", root, None),
        (NAME, "require", wrong, by_nobody),
        ("127.0.0.1", "require", root, None),
        (NAME, "verify-ca", root, None),
        (NAME, "verify-ca", wrong, by_nobody),
        ("127.0.0.1", "verify-ca", root, None),
        (NAME, "verify-full", root, None),
        (NAME, "verify-full", wrong, by_nobody),
        ("127.0.0.1", "verify-full", root, for_another),
        // The system's.
        (NAME, "verify-full", None, by_nobody),
        (
            NAME,
            "verify-full",
            Some(Path::new("/no/such.crt")),
            Some("/no/such.crt"),
        ),
    ] {
        server.expect(host, mode, roots, refusal)?;
    }
    Ok(())
}

#[test]
fn a_self_signed_certificate_is_trusted_where_it_is_given_as_the_root() -> Result<()> {
    let Some(server) = Server::start()? else {
        return Ok(());
    };
    let root = server.file("root.crt");
    // As `openssl req -x509` makes it: it may sign others.
    let mut params = CertificateParams::new(vec![NAME.to_owned()])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    server.show(&certificate.pem(), &key)?;
    fs::write(&root, certificate.pem())?;
    let given = Some(root.as_path());
    server.expect(NAME, "verify-full", given, None)?;
    server.expect("127.0.0.1", "verify-ca", given, None)?;
    server.expect(
        "127.0.0.1",
        "verify-full",
        given,
        Some("not valid for name"),
    )?;
    // Another of the same name.
    let other = KeyPair::generate()?;
    fs::write(&root, params.self_signed(&other)?.pem())?;
    server.expect(NAME, "verify-ca", given, Some("invalid peer certificate"))?;

    // Not for ever.
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    let expired = params.self_signed(&key)?;
    server.show(&expired.pem(), &key)?;
    fs::write(&root, expired.pem())?;
    server
        .expect(NAME, "verify-ca", given, Some("expired"))
        .context("an expired one")
}
