//! Artifacts: a plugin's bytes by their digest, compiled once, and the compiled form kept on disk.
//!
//! Compiling takes from 0.1 s (Rust) to 12 s (Python), loading what was compiled 0.1 ms. The bytes are kept too, so that
//! a host whose plugin file was broken meanwhile goes on with the version that served last.
//!
//! Invariants
//! - A compiled file is native code, and loading it means trusting whoever wrote it. The folder is the host's own: made
//!   0700, files 0600. A file that belongs to somebody else, or that others may write, is not loaded; one that is cut,
//!   changed, or of another engine is compiled anew. This guards against accidents and other users, not against
//!   somebody who already acts as the host's user.
//! - Files appear whole or not at all to whoever looks: written beside their place and renamed. A plugin's bytes are synced
//!   before, and are whole after a power cut too. What was compiled is not, because that holds up whoever else syncs: cut, it is
//!   found out and compiled anew.
//! - Bytes that do not have the digest they are kept under are not used.
//!
//! Not here: what the bytes may do (`deploy`).

use crate::engine::Engine;
use sandpost_message::Digest;
use sandpost_telemetry::events::runtime as events;
use sha2::{Digest as _, Sha256};
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use wasmtime::component::Component;

/// The first bytes of a compiled file; the number is the layout's.
const MAGIC: &[u8; 8] = b"SPCWASM1";
/// Magic, length of the code, its sha256.
const HEADER_BYTES: usize = 8 + 8 + 32;
/// Compiled code is at most so many times as large as its component (measured: 2.5 for Rust, 4 for Python).
const COMPILED_GROWTH_MAX: u64 = 32;

/// The artifacts of a host, in one folder.
pub struct Artifacts {
    folder: PathBuf,
    engine: Arc<Engine>,
    /// Tells compiled files of this engine from others: version, machine, settings.
    compatibility: String,
    artifact_max_bytes: u64,
}

/// Why an artifact is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The folder or a file of it.
    #[error("the artifact folder cannot be used")]
    Folder(#[from] io::Error),
    /// Over `artifact_max_bytes`.
    #[error("the file is over {limit_bytes} bytes (artifact_max_bytes)")]
    TooLarge {
        /// What it may be.
        limit_bytes: u64,
    },
    /// wasmtime does not take it.
    #[error("not valid: {0}")]
    Compile(String),
}

/// The sha256 of these bytes.
pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

impl Artifacts {
    /// Opens the folder, and makes it where it is not there. `artifact_max_bytes` bounds a plugin's file; 64 MiB takes
    /// every language that was tried.
    pub fn open(folder: &Path, engine: Arc<Engine>, artifact_max_bytes: u64) -> Result<Self, ArtifactError> {
        make_folder(folder)?;
        let mut hasher = DefaultHasher::new();
        engine.wasmtime().precompile_compatibility_hash().hash(&mut hasher);
        let compatibility = format!("{:016x}", hasher.finish());
        Ok(Self { folder: folder.to_owned(), engine, compatibility, artifact_max_bytes })
    }

    /// The engine that they are compiled for.
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// How large a plugin's file may be.
    pub fn artifact_max_bytes(&self) -> u64 {
        self.artifact_max_bytes
    }

    /// Reads a file without reading more of it than is taken.
    pub fn read_file(&self, path: &Path) -> Result<Vec<u8>, ArtifactError> {
        read_bounded(path, self.artifact_max_bytes)?
            .ok_or(ArtifactError::TooLarge { limit_bytes: self.artifact_max_bytes })
    }

    /// Keeps the bytes under their digest. Nothing happens where they are kept already.
    pub fn keep(&self, digest: &Digest, bytes: &[u8]) -> Result<(), ArtifactError> {
        let path = self.bytes_path(digest);
        if std::fs::metadata(&path).is_ok_and(|kept| kept.len() == bytes.len() as u64) {
            return Ok(());
        }
        let file = self.write(&[bytes])?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    /// The bytes that are kept under this digest; none where there are none, or they do not have it.
    pub fn kept(&self, digest: &Digest) -> Result<Option<Vec<u8>>, ArtifactError> {
        match read_bounded(&self.bytes_path(digest), self.artifact_max_bytes) {
            Ok(bytes) => Ok(bytes.filter(|bytes| digest_of(bytes) == *digest)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The compiled component: from the folder where it is there, else compiled now and put there. Blocks: seconds for
    /// large ones.
    pub(crate) fn component(&self, digest: &Digest, bytes: &[u8]) -> Result<Component, ArtifactError> {
        if let Some(component) = self.load_compiled(digest, bytes.len() as u64) {
            return Ok(component);
        }
        let since = Instant::now();
        let component =
            self.engine.compile(bytes).map_err(|error| ArtifactError::Compile(one_line(&format!("{error:#}"))))?;
        events::Compiled { digest: digest.short(), size_bytes: bytes.len() as u64, duration: since.elapsed() }.emit();
        // Without the file the next start takes longer; the deployment goes on.
        let kept = component.serialize().map_err(|error| error.to_string()).and_then(|code| {
            let header =
                [MAGIC.as_slice(), &(code.len() as u64).to_le_bytes(), Sha256::digest(&code).as_slice()].concat();
            let file = self.write(&[&header, &code]).map_err(|error| error.to_string())?;
            file.persist(self.compiled_path(digest)).map(drop).map_err(|error| error.to_string())
        });
        if let Err(error) = kept {
            events::CompiledNotKept { digest: digest.short(), error: &error }.emit();
        }
        Ok(component)
    }

    /// Deletes what is kept under other digests than these, and what was compiled for other engines.
    pub fn prune(&self, keep: &HashSet<Digest>) -> Result<(), ArtifactError> {
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let Some((stem, extension)) = name.rsplit_once('.') else { continue };
            let (digest, of_this_engine) = match (extension, stem.split_once('-')) {
                ("wasm", None) => (stem, true),
                ("cwasm", Some((digest, compatibility))) => (digest, compatibility == self.compatibility),
                _ => continue,
            };
            let Ok(digest) = digest.parse::<Digest>() else { continue };
            if !of_this_engine || !keep.contains(&digest) {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn load_compiled(&self, digest: &Digest, size_bytes: u64) -> Option<Component> {
        let path = self.compiled_path(digest);
        let reason =
            match read_trusted(&path, size_bytes.saturating_mul(COMPILED_GROWTH_MAX).max(self.artifact_max_bytes)) {
                Ok(None) => return None,
                Ok(Some(file)) => match checked_code(&file) {
                    Some(code) => match deserialize(&self.engine, code) {
                        Ok(component) => return Some(component),
                        Err(error) => one_line(&format!("{error:#}")),
                    },
                    None => "it is cut or changed".to_owned(),
                },
                Err(error) => error.to_string(),
            };
        events::CompiledRejected { digest: digest.short(), reason: &reason }.emit();
        None
    }

    fn bytes_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.wasm"))
    }

    fn compiled_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}-{}.cwasm", self.compatibility))
    }

    /// Beside its place.
    fn write(&self, parts: &[&[u8]]) -> io::Result<tempfile::NamedTempFile> {
        // tempfile makes it 0600.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        for part in parts {
            file.write_all(part)?;
        }
        Ok(file)
    }
}

/// The code in a compiled file, if the header says that it is whole.
fn checked_code(file: &[u8]) -> Option<&[u8]> {
    let (header, code) = file.split_at_checked(HEADER_BYTES)?;
    let length = u64::from_le_bytes(header[8..16].try_into().ok()?);
    let whole = header.starts_with(MAGIC) && length == code.len() as u64 && header[16..] == *Sha256::digest(code);
    whole.then_some(code)
}

#[expect(unsafe_code, reason = "wasmtime cannot check native code; who may have written it is checked here")]
fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes are what `Component::serialize` gave this host: the file lies in the host's own folder, belongs
    // to the host's user and is writable by nobody else (`read_trusted`), and its checksum holds (`checked_code`).
    // wasmtime itself refuses code of another version, machine or configuration.
    unsafe { Component::deserialize(engine.wasmtime(), code) }
}

#[cfg(unix)]
fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(not(unix))]
fn make_folder(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)
}

/// Reads a file that nobody else can have written; none where there is none.
fn read_trusted(path: &Path, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let metadata = file.metadata()?;
        if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(io::Error::other("it belongs to somebody else, or others may write it"));
        }
    }
    read_all(file, limit_bytes)?.map(Some).ok_or_else(|| io::Error::other("it is too large"))
}

/// Reads a file; none where it is over the limit.
fn read_bounded(path: &Path, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    read_all(std::fs::File::open(path)?, limit_bytes)
}

fn read_all(file: std::fs::File, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read;
    let length = file.metadata()?.len().min(limit_bytes);
    // One more, so that the end is seen without growing.
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0).saturating_add(1));
    file.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit_bytes).then_some(bytes))
}

/// An error of several lines in one.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
