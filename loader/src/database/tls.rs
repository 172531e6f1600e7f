//! Encrypted connections with libpq's meaning of `sslmode`: `prefer` and `require` encrypt,
//! `verify-ca` and `verify-full` also check who answers (both check the host's name), against the
//! system's certificates or those of `sslrootcert`.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Whether to check who answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Verification {
    None,
    SystemRoots,
    Roots(PathBuf),
}

impl Verification {
    /// Takes `sslmode=verify-...` and `sslrootcert` out of a URL: the client library does not know
    /// them. What is left asks for encryption.
    pub fn of_url(url: &str) -> (String, Self) {
        let Some((base, query)) = url.split_once('?') else {
            return (url.to_owned(), Self::None);
        };
        let mut verification = Self::None;
        let mut kept = Vec::new();
        let mut roots = None;
        for option in query.split('&') {
            match option.split_once('=') {
                Some(("sslmode", "verify-ca" | "verify-full")) => {
                    verification = Self::SystemRoots;
                    kept.push("sslmode=require");
                }
                Some(("sslrootcert", file)) => roots = Some(PathBuf::from(file)),
                _ => kept.push(option),
            }
        }
        if let (Self::SystemRoots, Some(file)) = (&verification, roots) {
            verification = Self::Roots(file);
        }
        (format!("{base}?{}", kept.join("&")), verification)
    }
}

/// What the client library calls to encrypt.
pub fn connector(verification: &Verification) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .context("cannot set up TLS")?;
    let config = match verification {
        Verification::None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth(),
        Verification::SystemRoots => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        Verification::Roots(file) => {
            let name = file.display();
            let mut roots = RootCertStore::empty();
            let certificates = CertificateDer::pem_file_iter(file)
                .with_context(|| format!("cannot read sslrootcert {name}"))?;
            for certificate in certificates {
                let certificate = certificate.with_context(|| format!("sslrootcert {name}"))?;
                roots
                    .add(certificate)
                    .with_context(|| format!("sslrootcert {name}"))?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    Ok(MakeRustlsConnect::new(config))
}

/// libpq's `sslmode=require`: against eavesdropping only. Signatures are checked all the same.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifying_modes_are_taken_out_of_the_url() {
        let of = Verification::of_url;
        assert_eq!(
            of("postgresql://h/d"),
            ("postgresql://h/d".into(), Verification::None)
        );
        assert_eq!(
            of("postgresql://h/d?sslmode=require&options=x"),
            (
                "postgresql://h/d?sslmode=require&options=x".into(),
                Verification::None
            )
        );
        assert_eq!(
            of("postgresql://h/d?sslmode=verify-full"),
            (
                "postgresql://h/d?sslmode=require".into(),
                Verification::SystemRoots
            )
        );
        assert_eq!(
            of("postgresql://h/d?sslrootcert=/ca.pem&sslmode=verify-ca"),
            (
                "postgresql://h/d?sslmode=require".into(),
                Verification::Roots("/ca.pem".into())
            )
        );
    }

    #[test]
    fn every_verification_gives_a_connector_or_names_the_file() {
        connector(&Verification::None).unwrap();
        connector(&Verification::SystemRoots).unwrap();
        let error = connector(&Verification::Roots("/nowhere.pem".into()))
            .err()
            .expect("no file");
        assert!(
            error.to_string().contains("sslrootcert /nowhere.pem"),
            "{error}"
        );
    }
}
