//! A mail as a row: what is searched by in columns, the MIME as it is, the rest as JSON.
//!
//! The JSON's shape is that of the file's version; a change of shape is a new version.

use bytes::Bytes;
use rusqlite::Row;
use sandpost_ports::email::{Address, CaughtMail, Mail, MailOrigin};
use std::borrow::Cow;

/// What `SQLite` has to be told once for a new file. `sent` outlives `mails`: it is what deduplicates.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE sent (
        number     INTEGER PRIMARY KEY AUTOINCREMENT,
        key        TEXT NOT NULL UNIQUE,
        sent_at_ms INTEGER NOT NULL,
        recipients INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX sent_by_time ON sent (sent_at_ms, recipients);
    CREATE TABLE mails (
        number       INTEGER PRIMARY KEY,
        caught_at_ms INTEGER NOT NULL,
        size_bytes   INTEGER NOT NULL,
        key          TEXT NOT NULL,
        mail         TEXT NOT NULL,
        mime         BLOB NOT NULL
    ) STRICT;
";

/// The columns that [`read`] takes, in its order.
pub(crate) const COLUMNS: &str = "number, caught_at_ms, key, mail, mime";

/// What is kept as JSON.
#[derive(serde::Serialize, serde::Deserialize)]
struct Kept<'a> {
    sender: Cow<'a, Address>,
    to: Cow<'a, [Address]>,
    cc: Cow<'a, [Address]>,
    bcc: Cow<'a, [Address]>,
    subject: Cow<'a, str>,
    html: Option<Cow<'a, str>>,
    text: Cow<'a, str>,
    tags: Cow<'a, [(String, String)]>,
    origin: Cow<'a, MailOrigin>,
}

/// The `mail` column.
pub(crate) fn write(mail: &Mail) -> serde_json::Result<String> {
    serde_json::to_string(&Kept {
        sender: Cow::Borrowed(&mail.sender),
        to: Cow::Borrowed(&mail.to),
        cc: Cow::Borrowed(&mail.cc),
        bcc: Cow::Borrowed(&mail.bcc),
        subject: Cow::Borrowed(&mail.subject),
        html: mail.html.as_deref().map(Cow::Borrowed),
        text: Cow::Borrowed(&mail.text),
        tags: Cow::Borrowed(&mail.tags),
        origin: Cow::Borrowed(&mail.origin),
    })
}

/// From a row of [`COLUMNS`].
pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<CaughtMail> {
    let json: String = row.get(3)?;
    let kept: Kept<'_> = serde_json::from_str(&json)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, Box::new(error)))?;
    let mail = Mail {
        key: row.get(2)?,
        sender: kept.sender.into_owned(),
        to: kept.to.into_owned(),
        cc: kept.cc.into_owned(),
        bcc: kept.bcc.into_owned(),
        subject: kept.subject.into_owned(),
        html: kept.html.map(Cow::into_owned),
        text: kept.text.into_owned(),
        mime: Bytes::from(row.get::<_, Vec<u8>>(4)?),
        tags: kept.tags.into_owned(),
        origin: kept.origin.into_owned(),
    };
    Ok(CaughtMail { number: unsigned(row.get(0)?), caught_at_ms: unsigned(row.get(1)?), mail })
}

/// `SQLite`'s integers are signed. Ours begin at 0 and stay far below.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The way back.
pub(crate) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
