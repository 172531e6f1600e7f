//! Encrypted connections with libpq's meaning of `sslmode` and `sslrootcert`: `prefer` and `require` encrypt, `verify-ca`
//! and `require` with certificates also check who signed for the server, `verify-full` its name as well. Certificates are those of
//! `sslrootcert`, else of `~/.postgresql/root.crt`, else for `verify-…` the system's.

use std::{
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use percent_encoding::percent_decode_str;
use postgres::config::SslMode;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// What is wanted of a connection.
#[derive(Debug, PartialEq, Eq)]
pub struct Encryption {
    /// `None`: as the client library does by itself.
    pub mode: Option<SslMode>,
    roots: Roots,
    checks_name: bool,
}

/// Who has to have signed the server's certificate.
#[derive(Debug, PartialEq, Eq)]
enum Roots {
    Anybody,
    System,
    File(PathBuf),
}

impl Encryption {
    /// Takes `sslmode` and `sslrootcert` out of a URL, or of `key=value` pairs: the client library does not know all of
    /// them. What is missing comes from `variable`.
    pub fn of(
        text: &str,
        variable: impl Fn(&str) -> Option<String>,
        home: Option<&Path>,
    ) -> Result<(String, Self)> {
        let (rest, mode, certificates) = take_out(text)?;
        let mode = mode.or_else(|| variable("PGSSLMODE"));
        let kept = home.map(|home| home.join(".postgresql/root.crt"));
        let certificates = certificates
            .or_else(|| variable("PGSSLROOTCERT"))
            .map(PathBuf::from)
            .or_else(|| kept.filter(|file| file.exists()));
        let (is_verified, checks_name) = match mode.as_deref() {
            Some("verify-full") => (true, true),
            Some("verify-ca") => (true, false),
            Some("require") => (certificates.is_some(), false),
            _ => (false, false),
        };
        let encryption = Self {
            mode: match mode.as_deref() {
                None => None,
                Some("disable") => Some(SslMode::Disable),
                // Encrypted although it need not be.
                Some("allow" | "prefer") => Some(SslMode::Prefer),
                Some("require" | "verify-ca" | "verify-full") => Some(SslMode::Require),
                Some(other) => bail!(
                    "sslmode {other:?} is not known; it is disable, allow, prefer, require, verify-ca or verify-full"
                ),
            },
            roots: match (is_verified, certificates) {
                (false, _) => Roots::Anybody,
                (true, Some(file)) if file != Path::new("system") => Roots::File(file),
                (true, _) => Roots::System,
            },
            checks_name,
        };
        Ok((rest, encryption))
    }

    /// From the environment of this process.
    pub fn of_environment(text: &str) -> Result<(String, Self)> {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let home = env::home_dir();
        Self::of(text, variable, home.as_deref())
    }

    /// What the client library calls to encrypt.
    pub fn connector(&self) -> Result<MakeRustlsConnect> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .context("cannot set up TLS")?;
        let trusted = match &self.roots {
            Roots::Anybody => None,
            Roots::System => Some(rustls_native_certs::load_native_certs().certs),
            Roots::File(file) => Some(certificates_of(file)?),
        };
        let trusted = trusted
            .map(|certificates| self.trusted(certificates, provider.clone()))
            .transpose()
            .context("no certificates to verify the server by")?;
        let verified = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { trusted, provider }));
        Ok(MakeRustlsConnect::new(verified.with_no_client_auth()))
    }

    fn trusted(
        &self,
        certificates: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Trusted> {
        let mut roots = RootCertStore::empty();
        match self.roots {
            // Of the system's, some may be of kinds that are not known here.
            Roots::Anybody | Roots::System => {
                roots.add_parsable_certificates(certificates.iter().cloned());
            }
            Roots::File(_) => {
                for certificate in &certificates {
                    roots.add(certificate.clone())?;
                }
            }
        }
        Ok(Trusted {
            signers: WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()?,
            certificates,
            checks_name: self.checks_name,
        })
    }
}

fn certificates_of(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let name = file.display();
    CertificateDer::pem_file_iter(file)
        .with_context(|| format!("cannot read sslrootcert {name}"))?
        .map(|certificate| certificate.with_context(|| format!("sslrootcert {name}")))
        .collect()
}

/// The text without both options, and their values.
fn take_out(text: &str) -> Result<(String, Option<String>, Option<String>)> {
    let (mut mode, mut certificates) = (None, None);
    let mut is_ours = |key: &str, value: &str| {
        match key {
            "sslmode" => mode = Some(value.to_owned()),
            "sslrootcert" => certificates = Some(value.to_owned()),
            _ => return false,
        }
        true
    };
    let is_url = ["postgresql://", "postgres://"]
        .iter()
        .any(|scheme| text.starts_with(scheme));
    let rest = if is_url {
        let (base, query) = text.split_once('?').unwrap_or((text, ""));
        let mut kept = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let value = percent_decode_str(value)
                .decode_utf8()
                .with_context(|| format!("{key} of the database URL is not UTF-8"))?;
            if !is_ours(key, &value) {
                kept.push(option);
            }
        }
        match kept.is_empty() {
            true => base.to_owned(),
            false => format!("{base}?{}", kept.join("&")),
        }
    } else {
        let mut kept = Vec::new();
        let mut left = text.trim();
        while !left.is_empty() {
            let (pair, value, after) = first_pair(left);
            let key = pair.split('=').next().unwrap_or(pair).trim();
            if !is_ours(key, &value) {
                kept.push(pair);
            }
            left = after.trim_start();
        }
        kept.join(" ")
    };
    Ok((rest, mode, certificates))
}

/// The first `key = value` of such pairs, its value without quotes, and what follows.
fn first_pair(text: &str) -> (&str, String, &str) {
    let begin = match text.find('=') {
        Some(at) => at + 1 + (text[at + 1..].len() - text[at + 1..].trim_start().len()),
        None => text.len(),
    };
    let is_quoted = text[begin..].starts_with('\'');
    let (mut value, mut is_escaped) = (String::new(), false);
    for (at, c) in text[begin..].char_indices().skip(usize::from(is_quoted)) {
        let end = begin + at;
        match c {
            _ if is_escaped => {
                value.push(c);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            '\'' if is_quoted => return (&text[..=end], value, &text[end + 1..]),
            _ if !is_quoted && c.is_whitespace() => return (&text[..end], value, &text[end..]),
            _ => value.push(c),
        }
    }
    (text, value, "")
}

/// Whoever answers has the key of its certificate: libpq's `sslmode=require`. With `trusted` somebody also has to have
/// signed that certificate.
#[derive(Debug)]
struct Verifier {
    trusted: Option<Trusted>,
    provider: Arc<CryptoProvider>,
}

/// Who may have signed it.
#[derive(Debug)]
struct Trusted {
    signers: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
    /// `verify-full`; else `verify-ca`.
    checks_name: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext, Other};
        use rustls::Error::InvalidCertificate;
        let Some(trusted) = &self.trusted else {
            return Ok(ServerCertVerified::assertion());
        };
        let signers = &trusted.signers;
        match signers.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        {
            // Names are looked at last (`rustls::client::WebPkiServerVerifier`).
            Err(InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
                if !trusted.checks_name =>
            {
                Ok(ServerCertVerified::assertion())
            }
            // Of a certificate that may sign others, as a self-signed one often is, no server's is expected. That it has not
            // expired was looked at before (`webpki::verify_cert`).
            Err(InvalidCertificate(Other(_))) if trusted.certificates.contains(end_entity) => {
                if trusted.checks_name {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (String, Encryption) {
        Encryption::of(text, |_| None, None).unwrap()
    }

    fn encryption(mode: Option<SslMode>, roots: Roots, checks_name: bool) -> Encryption {
        Encryption {
            mode,
            roots,
            checks_name,
        }
    }

    #[test]
    fn both_options_are_taken_out_and_mean_what_they_mean_to_libpq() {
        let require = Some(SslMode::Require);
        for (text, rest, expected) in [
            (
                "postgresql://h/d",
                "postgresql://h/d",
                encryption(None, Roots::Anybody, false),
            ),
            (
                "postgresql://h/d?sslmode=require&options=x",
                "postgresql://h/d?options=x",
                encryption(require, Roots::Anybody, false),
            ),
            (
                "postgresql://h/d?sslmode=verify-full",
                "postgresql://h/d",
                encryption(require, Roots::System, true),
            ),
            (
                "postgres://h/d?sslrootcert=%2Fca%201.pem&sslmode=verify-ca",
                "postgres://h/d",
                encryption(require, Roots::File("/ca 1.pem".into()), false),
            ),
            (
                "postgresql://h/d?sslmode=require&sslrootcert=/ca.pem",
                "postgresql://h/d",
                encryption(require, Roots::File("/ca.pem".into()), false),
            ),
            (
                "host=h sslmode = verify-full sslrootcert='/c\\'a 1.pem' user='a b'",
                "host=h user='a b'",
                encryption(require, Roots::File("/c'a 1.pem".into()), true),
            ),
            (
                "host=h sslrootcert=system sslmode=verify-full",
                "host=h",
                encryption(require, Roots::System, true),
            ),
            (
                "host=h sslmode=allow sslrootcert=/ca.pem",
                "host=h",
                encryption(Some(SslMode::Prefer), Roots::Anybody, false),
            ),
        ] {
            assert_eq!(of(text), (rest.to_owned(), expected), "{text}");
        }
        let error = Encryption::of("host=h sslmode=sure", |_| None, None).unwrap_err();
        assert!(
            error.to_string().contains("\"sure\" is not known"),
            "{error}"
        );
    }

    #[test]
    fn what_is_missing_comes_from_the_environment_and_the_home() {
        let home = tempfile::tempdir().unwrap();
        let variable = |name: &str| (name == "PGSSLMODE").then(|| "verify-ca".to_owned());
        let of = |text| Encryption::of(text, variable, Some(home.path())).unwrap().1;
        assert_eq!(of("host=h").roots, Roots::System);
        let kept = home.path().join(".postgresql/root.crt");
        std::fs::create_dir(home.path().join(".postgresql")).unwrap();
        std::fs::write(&kept, "").unwrap();
        assert_eq!(of("host=h").roots, Roots::File(kept.clone()));
        assert_eq!(of("host=h sslmode=require").roots, Roots::File(kept));
        assert_eq!(of("host=h sslmode=prefer").roots, Roots::Anybody);
    }

    #[test]
    fn every_verification_gives_a_connector_or_names_the_file() {
        let of = |roots| encryption(None, roots, true).connector();
        of(Roots::Anybody).unwrap();
        of(Roots::System).unwrap();
        let error = of(Roots::File("/nowhere.pem".into()))
            .err()
            .expect("no file");
        assert!(
            error.to_string().contains("sslrootcert /nowhere.pem"),
            "{error}"
        );
    }
}
