//! TLS to the three servers: whom to trust, and who we are.
//!
//! Whether a connection is encrypted, its URL says: `amqps://`, `rediss://`, `sslmode`. If it is, chain and
//! host name are verified, always. `PostgreSQL` is the one whose URL may leave it open: then the
//! answer depends on where the server is ([`postgres`]).

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::settings::Vars;

/// `TLS_CA_FILE`, `TLS_CLIENT_CERT_FILE`, `TLS_CLIENT_KEY_FILE`.
#[derive(Clone, Default)]
pub struct Tls {
    authorities: Option<Arc<[u8]>>,
    identity: Option<Arc<Identity>>,
}

/// What a server that asks for it is shown.
struct Identity {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Tls {
    pub fn read(vars: &mut Vars) -> Self {
        let authorities = read_pem(vars, "TLS_CA_FILE", "certificates", has_certificates);
        let certificate = read_pem(vars, "TLS_CLIENT_CERT_FILE", "certificates", has_certificates);
        let key = read_pem(vars, "TLS_CLIENT_KEY_FILE", "a private key", |pem| {
            PrivateKeyDer::from_pem_slice(pem).is_ok()
        });
        let is_told = |name| vars.optional(name).is_some();
        if is_told("TLS_CLIENT_CERT_FILE") != is_told("TLS_CLIENT_KEY_FILE") {
            vars.problem(
                "TLS_CLIENT_CERT_FILE and TLS_CLIENT_KEY_FILE: allowed are both or none".to_owned(),
            );
        }
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                let identity = Identity { certificate, key };
                if let Err(error) = identity.check() {
                    vars.problem(format!("TLS_CLIENT_CERT_FILE and TLS_CLIENT_KEY_FILE: {error}"));
                }
                Some(Arc::new(identity))
            }
            // One that is set and can't be used was told.
            _ => None,
        };
        Self { authorities: authorities.map(Into::into), identity }
    }

    /// For the broker.
    pub(crate) fn amqp(&self) -> lapin::tcp::OwnedTLSConfig {
        let identity = self.identity.as_ref().map(|identity| lapin::tcp::OwnedIdentity::PKCS8 {
            pem: identity.certificate.clone(),
            key: identity.key.clone(),
        });
        let authorities = self.authorities.as_deref();
        let cert_chain = authorities.map(|pem| String::from_utf8_lossy(pem).into_owned());
        lapin::tcp::OwnedTLSConfig { identity, cert_chain }
    }

    /// For Redis.
    pub(crate) fn redis(&self) -> redis::TlsCertificates {
        let client_tls = self.identity.as_ref().map(|identity| redis::ClientTlsConfig {
            client_cert: identity.certificate.clone(),
            client_key: identity.key.clone(),
        });
        redis::TlsCertificates {
            client_tls,
            root_cert: self.authorities.as_deref().map(Into::into),
        }
    }

    /// The authorities, for a client of HTTP that talks to one of the servers.
    #[must_use]
    pub fn authorities(&self) -> Option<&[u8]> {
        self.authorities.as_deref()
    }
}

impl Identity {
    /// Whether a client can show it: a certificate of version 3, and its own key.
    fn check(&self) -> Result<(), rustls::Error> {
        let pem = |error: rustls::pki_types::pem::Error| rustls::Error::General(error.to_string());
        let certificates = CertificateDer::pem_slice_iter(&self.certificate);
        let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(pem)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(pem)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_client_auth_cert(certificates, key)
            .map(drop)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (own, identity) = (self.authorities.is_some(), self.identity.is_some());
        write!(f, "Tls {{ own_authorities: {own}, client_certificate: {identity} }}")
    }
}

/// How to reach `PostgreSQL`: an error names what is wrong, and no value.
///
/// - `sslmode` says it: `disable`, `prefer` and `verify-ca` are what they are; `allow` is refused, for the
///   client library never encrypts with it; `require` is
///   verified like `verify-full`, for a connection to whoever answers protects nothing.
/// - It says nothing, and the server is on this machine: encrypted if the server can, as ever.
/// - It says nothing, and the server is elsewhere: `verify-full`.
pub(crate) fn postgres(url: &url::Url, tls: &Tls) -> Result<PgConnectOptions, String> {
    if let Some((unknown, _)) = url.query_pairs().find(|(name, _)| !is_known(name)) {
        return Err(format!("has the parameter {unknown:?}, which is not known"));
    }
    let mut options: PgConnectOptions = url.as_str().parse().map_err(|_| {
        "has a parameter that can't be used: see sslmode, port, hostaddr".to_owned()
    })?;
    let is_told = url.query_pairs().any(|(name, _)| ["sslmode", "ssl-mode"].contains(&&*name));
    // The client library takes PGSSLMODE for the default.
    let mode = options.get_ssl_mode();
    let is_told = is_told || !matches!(mode, PgSslMode::Prefer);
    let is_here = options.get_socket().is_some() || is_loopback(options.get_host());
    if matches!(mode, PgSslMode::Allow) {
        return Err(
            "has sslmode=allow: allowed are disable, prefer, require, verify-ca, verify-full"
                .to_owned(),
        );
    }
    let mode = match mode {
        PgSslMode::Require => PgSslMode::VerifyFull,
        _ if !is_told && !is_here => PgSslMode::VerifyFull,
        mode => mode,
    };
    options = options.ssl_mode(mode);
    let has = |names: &[&str]| url.query_pairs().any(|(name, _)| names.contains(&&*name));
    if let Some(pem) = &tls.authorities
        && !has(&["sslrootcert", "ssl-root-cert", "ssl-ca"])
    {
        options = options.ssl_root_cert_from_pem(pem.to_vec());
    }
    if let Some(identity) = &tls.identity
        && !has(&["sslcert", "ssl-cert"])
    {
        options = options
            .ssl_client_cert_from_pem(&identity.certificate)
            .ssl_client_key_from_pem(&identity.key);
    }
    Ok(options)
}

/// Whether a connection may go unencrypted, or to whoever answers, over a network.
#[must_use]
pub fn is_exposed(options: &PgConnectOptions) -> bool {
    let is_here = options.get_socket().is_some() || is_loopback(options.get_host());
    !is_here && !matches!(options.get_ssl_mode(), PgSslMode::VerifyFull)
}

/// Parameters of a URL of `PostgreSQL` that the client library takes; of any other it would show the value.
fn is_known(name: &str) -> bool {
    const KNOWN: [&str; 19] = [
        "sslmode",
        "ssl-mode",
        "sslrootcert",
        "ssl-root-cert",
        "ssl-ca",
        "sslcert",
        "ssl-cert",
        "sslkey",
        "ssl-key",
        "statement-cache-capacity",
        "host",
        "hostaddr",
        "port",
        "dbname",
        "user",
        "password",
        "application_name",
        "options",
        "options[]",
    ];
    KNOWN.contains(&name) || (name.starts_with("options[") && name.ends_with(']'))
}

/// Whether a host is this machine.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn has_certificates(pem: &[u8]) -> bool {
    let mut certificates = CertificateDer::pem_slice_iter(pem).peekable();
    certificates.peek().is_some() && certificates.all(|certificate| certificate.is_ok())
}

/// Largest file of certificates: those of a whole system are a quarter of it.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// The file that a setting names; `None`: it names none, or one that can't be used.
fn read_pem(
    vars: &mut Vars,
    name: &str,
    wanted: &str,
    is_good: impl Fn(&[u8]) -> bool,
) -> Option<Vec<u8>> {
    let path = vars.optional(name)?;
    match read_bounded(&path) {
        Ok(pem) if is_good(&pem) => Some(pem),
        Ok(_) => {
            vars.problem(format!("{name}={path:?}: allowed is a file with {wanted} in PEM"));
            None
        }
        Err(error) => {
            vars.problem(format!("{name}={path:?} can't be read: {error}"));
            None
        }
    }
}

/// A device, of which nobody knows how much it gives, is no file.
fn read_bounded(path: &str) -> std::io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_PEM_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_PEM_BYTES {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str) -> PgSslMode {
        let url = url::Url::parse(url).unwrap();
        postgres(&url, &Tls::default()).unwrap().get_ssl_mode()
    }

    #[test]
    fn a_server_elsewhere_is_verified_unless_the_url_says_otherwise() {
        for here in [
            "postgres://u:p@127.0.0.1:5432/d",
            "postgres://u@localhost/d",
            "postgres://u@[::1]/d",
            "postgres://u@%2Frun%2Fpostgresql/d",
            "postgres:///d?host=/run/postgresql",
        ] {
            assert!(matches!(mode(here), PgSslMode::Prefer), "{here}");
        }
        for verified in [
            "postgres://u@db.internal/d",
            "postgres://u@10.0.0.7/d",
            "postgres://u@db/d?sslmode=require",
            "postgres://u@127.0.0.1/d?sslmode=require",
            "postgres://u@db/d?sslmode=verify-full",
            "postgres://u@localhost/d?host=db",
            "postgres://u@localhost/d?hostaddr=10.0.0.7",
        ] {
            assert!(matches!(mode(verified), PgSslMode::VerifyFull), "{verified}");
        }
        assert!(matches!(mode("postgres://u@db/d?sslmode=disable"), PgSslMode::Disable));
        assert!(matches!(mode("postgres://u@db/d?sslmode=prefer"), PgSslMode::Prefer));
        let allow = url::Url::parse("postgres://u@db/d?sslmode=allow").unwrap();
        assert!(postgres(&allow, &Tls::default()).unwrap_err().contains("sslmode=allow"));
        assert!(matches!(mode("postgres://u@db/d?ssl-mode=verify-ca"), PgSslMode::VerifyCa));
    }

    #[test]
    fn what_is_wrong_with_a_url_is_told_without_its_values() {
        let error = |url: &str| {
            postgres(&url::Url::parse(url).unwrap(), &Tls::default()).map(drop).unwrap_err()
        };
        let told = error("postgres://u@h/d?pasword=geheim");
        assert!(told.contains("\"pasword\"") && !told.contains("geheim"), "{told}");
        let told = error("postgres://u@h/d?sslmode=geheim");
        assert!(told.contains("sslmode") && !told.contains("geheim"), "{told}");
    }

    #[test]
    fn files_that_hold_no_certificate_are_told_with_the_other_problems() {
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let mut vars = Vars::from_pairs([
            ("TLS_CA_FILE", own),
            ("TLS_CLIENT_CERT_FILE", "/nowhere/client.pem"),
        ]);
        Tls::read(&mut vars);
        let error = vars.finish(()).unwrap_err().to_string();
        for part in ["TLS_CA_FILE=", "in PEM", "/nowhere/client.pem", "both or none"] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}
