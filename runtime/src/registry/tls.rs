//! Certificates and keys → a TLS configuration.

use super::hosts::Trust;
use super::{RegistryError, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// The configuration that a host asks for. The roots are the system's and those that the host's files add.
pub(super) fn config(trust: &Trust) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let bad = |reason: String| RegistryError::Config { path: "TLS".into(), reason };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(e.to_string()))?;
    let builder = if trust.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else {
        let mut roots = RootCertStore::empty();
        // Some of a system's certificates may be unreadable or odd; the others serve.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for path in &trust.roots {
            let unusable = |e: String| RegistryError::Config { path: path.clone(), reason: e };
            for cert in certificates(path)? {
                roots.add(cert).map_err(|e| unusable(e.to_string()))?;
            }
        }
        builder.with_root_certificates(roots)
    };
    match &trust.client {
        None => Ok(builder.with_no_client_auth()),
        Some((cert, key)) => {
            let unusable = |e: String| RegistryError::Config { path: key.clone(), reason: e };
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| unusable(format!("it holds no key: {e}")))?;
            builder.with_client_auth_cert(certificates(cert)?, key).map_err(|e| unusable(e.to_string()))
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let unusable = |reason: String| RegistryError::Config { path: path.to_owned(), reason };
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(unusable("it holds no certificate (PEM)".to_owned())),
        Err(e) => Err(unusable(format!("it holds no certificates: {e}"))),
    }
}

/// Believes any certificate, for hosts that `skip_verify` or Docker's rule for this machine's registries names.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
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
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
