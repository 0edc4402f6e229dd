//! A certificate for `localhost`, and the authority that it is from: a server's own, in its folder.

use crate::server::Missing;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Three PEM files.
pub(crate) struct Certificate {
    /// Whom a client has to trust.
    pub(crate) authority: PathBuf,
    pub(crate) certificate: PathBuf,
    /// For its owner alone: Postgres asks for that.
    pub(crate) key: PathBuf,
}

/// Makes them. Not for `127.0.0.1`, so that a client that does not look at the name can be told.
pub(crate) fn issue(folder: &Path) -> Result<Certificate, Missing> {
    let failed = |error: rcgen::Error| Missing::new(format!("no certificate could be made: {error}"));
    let authority_key = rcgen::KeyPair::generate().map_err(failed)?;
    let mut authority = rcgen::CertificateParams::new(Vec::new()).map_err(failed)?;
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key).map_err(failed)?.pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let subject = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).map_err(failed)?;
    let certificate_pem = subject.signed_by(&key, &issuer).map_err(failed)?.pem();

    let made = Certificate {
        authority: folder.join("authority.pem"),
        certificate: folder.join("certificate.pem"),
        key: folder.join("key.pem"),
    };
    std::fs::write(&made.authority, authority_pem)?;
    std::fs::write(&made.certificate, certificate_pem)?;
    std::fs::write(&made.key, key.serialize_pem())?;
    std::fs::set_permissions(&made.key, std::fs::Permissions::from_mode(0o600))?;
    Ok(made)
}
