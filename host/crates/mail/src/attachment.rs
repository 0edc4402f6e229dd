//! Files in a mail: names, types and contents that providers take.
//!
//! Not here: viruses. A scanner is the operator's, behind the provider.

use crate::address::overrides_direction;
use crate::error::{ComposeError, within};
use crate::header::check_text;
use crate::limits::{CONTENT_ID_MAX_CHARS, FILENAME_MAX_CHARS, Limits};
use crate::{Attachment, link};
use std::collections::BTreeSet;

/// What SES refuses, by extension: AWS, "Amazon SES unsupported attachment types", in its order.
pub const REFUSED_EXTENSIONS: &[&str] = &[
    "ade", "adp", "app", "asp", "bas", "bat", "cer", "chm", "cmd", "com", "cpl", "crt", "csh", "der", "exe", "fxp",
    "gadget", "hlp", "hta", "inf", "ins", "isp", "its", "js", "jse", "ksh", "lib", "lnk", "mad", "maf", "mag", "mam",
    "maq", "mar", "mas", "mat", "mau", "mav", "maw", "mda", "mdb", "mde", "mdt", "mdw", "mdz", "msc", "msh", "msh1",
    "msh2", "mshxml", "msh1xml", "msh2xml", "msi", "msp", "mst", "ops", "pcd", "pif", "plg", "prf", "prg", "reg",
    "scf", "scr", "sct", "shb", "shs", "sys", "ps1", "ps1xml", "ps2", "ps2xml", "psc1", "psc2", "tmp", "url", "vb",
    "vbe", "vbs", "vps", "vsmacros", "vss", "vst", "vsw", "vxd", "ws", "wsc", "wsf", "wsh", "xnk",
];

pub(crate) fn check_all(attachments: &[Attachment], limits: &Limits) -> Result<(), ComposeError> {
    within("number of attachments", attachments.len(), limits.attachments_max)?;
    // Base64 makes four bytes of three; known too large before anything is encoded.
    let encoded = attachments.iter().fold(0_usize, |sum, a| sum.saturating_add(a.content.len() / 3 * 4));
    within("mail in bytes, encoded", encoded, limits.mail_max_bytes)?;
    for (at, attachment) in attachments.iter().enumerate() {
        check(attachment, at + 1)?;
        let same_id =
            |earlier: &Attachment| earlier.content_id.is_some() && earlier.content_id == attachment.content_id;
        if attachments[..at].iter().any(same_id) {
            return Err(invalid(at + 1, "content id", "is used twice"));
        }
    }
    Ok(())
}

/// What is named and not there, and the other way round.
pub(crate) fn compare_content_ids(html: &str, attachments: &[Attachment]) -> Vec<String> {
    let mut named = BTreeSet::new();
    for (at, _) in html.match_indices("cid:") {
        let rest = &html[at + 4..];
        let end = rest.find(['"', '\'', ')', ' ', '>', '<']).unwrap_or(rest.len());
        named.insert(link::decode_entities(&rest[..end]));
    }
    let there: BTreeSet<&str> = attachments.iter().filter_map(|a| a.content_id.as_deref()).collect();
    let mut warnings = Vec::new();
    if named.iter().any(|name| !there.contains(name.as_ref())) {
        warnings.push("the HTML names a content id that no attachment has".to_owned());
    }
    if there.iter().any(|id| !named.contains(*id)) {
        warnings.push("an attachment has a content id that the HTML does not name".to_owned());
    }
    warnings
}

fn check(attachment: &Attachment, number: usize) -> Result<(), ComposeError> {
    let field = |what: &str| format!("{what} of attachment {number}");
    check_text(&field("file name"), &attachment.filename)?;
    check_text(&field("content type"), &attachment.content_type)?;
    let name = attachment.filename.as_str();
    let chars = name.chars().count();
    if name.trim().is_empty() || chars > FILENAME_MAX_CHARS {
        return Err(invalid(number, "file name", "is not 1 to 255 characters"));
    }
    if name.contains(['/', '\\']) || overrides_direction(name) || name.contains("=?") {
        return Err(invalid(
            number,
            "file name",
            "contains a path, overrides text direction or reads as an encoded word",
        ));
    }
    // Windows takes trailing dots and spaces away, so `a.exe. ` is run as `a.exe`; `a.exe:x.txt` writes `a.exe`.
    let runs_as_executable = name.split(':').any(|part| {
        let part = part.trim_end_matches(['.', ' ']).to_lowercase();
        part.rsplit_once('.').is_some_and(|(_, extension)| REFUSED_EXTENSIONS.contains(&extension.trim()))
    });
    if runs_as_executable || is_executable(&attachment.content) {
        return Err(invalid(number, "file", "is of a kind that SES and others refuse (programs and scripts)"));
    }
    check_content_type(&attachment.content_type, number)?;
    if let Some(id) = &attachment.content_id {
        check_text(&field("content id"), id)?;
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$%*+-/=?^_`{|}~.@".contains(&b);
        if !(1..=CONTENT_ID_MAX_CHARS).contains(&id.len()) || !id.bytes().all(fits) {
            return Err(invalid(
                number,
                "content id",
                "is not 1 to 78 ASCII letters, digits or !#$%*+-/=?^_`{|}~.@ (without `cid:` and brackets)",
            ));
        }
    }
    Ok(())
}

fn check_content_type(text: &str, number: usize) -> Result<(), ComposeError> {
    const RULE: &str = "is not `type/subtype`, or is one that a file cannot have (multipart, message)";
    let essence = text.split(';').next().unwrap_or_default().trim();
    let token = |part: &str| {
        (1..=127).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
    };
    let well_formed = essence.split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub));
    let lower = essence.to_ascii_lowercase();
    // A part of these types must not be base64 (RFC 2045 §6.4), and would bring headers of its own.
    let brings_parts = lower.starts_with("multipart/") || lower.starts_with("message/");
    if !well_formed || brings_parts || !text.is_ascii() || text.len() > 255 {
        return Err(invalid(number, "content type", RULE));
    }
    lettre::message::header::ContentType::parse(text).map(drop).map_err(|_| invalid(number, "content type", RULE))
}

/// Windows and Unix programs by their first bytes, whatever they are called.
fn is_executable(content: &[u8]) -> bool {
    if content.starts_with(b"\x7fELF") {
        return true;
    }
    // The offset of the PE header stands at 0x3c; `MZ` alone could begin a text.
    let Some(offset) = content.get(0x3c..0x40).filter(|_| content.starts_with(b"MZ")) else { return false };
    let offset = offset.iter().rev().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
    content.get(offset..offset.saturating_add(4)) == Some(b"PE\0\0")
}

fn invalid(number: usize, what: &str, rule: &'static str) -> ComposeError {
    ComposeError::Invalid { field: format!("{what} of attachment {number}"), rule }
}
