//! The most a mail may be. What an operator may change is in [`Limits`]; what the formats fix is a constant.

/// The most a mail may be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The whole mail, encoded. Default 10 485 760 (10 MiB): SES throttles what is above 10 MB, and v1 refuses it.
    pub mail_max_bytes: usize,
    /// The HTML as given, and again with its styles inlined. Default 1 048 576; Gmail shows 102 KB of it.
    pub html_max_bytes: usize,
    /// Tags in the HTML. Default 10 000. Bounds what a parser may build from it.
    pub html_elements_max: usize,
    /// The text part. Default 1 048 576.
    pub text_max_bytes: usize,
    /// `To`, `Cc` and `Bcc` together. Default 50, the most that SES takes.
    pub recipients_max: usize,
    /// The subject, unencoded. Default 998, a line's worth.
    pub subject_max_bytes: usize,
    /// Headers that a plugin sets. Default 32.
    pub headers_max: usize,
    /// Files in one mail. Default 32.
    pub attachments_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            mail_max_bytes: 10 * 1024 * 1024,
            html_max_bytes: 1024 * 1024,
            html_elements_max: 10_000,
            text_max_bytes: 1024 * 1024,
            recipients_max: 50,
            subject_max_bytes: 998,
            headers_max: 32,
            attachments_max: 32,
        }
    }
}

/// Bytes of a key: as long as a key of the effects ledger may be.
pub(crate) const KEY_MAX_BYTES: usize = 512;
/// Addresses in `Reply-To`. More than a few is a mistake.
pub(crate) const REPLY_TO_MAX: usize = 10;
/// Bytes of a header's name: what lettre takes.
pub(crate) const HEADER_NAME_MAX_BYTES: usize = 76;
/// Bytes of one header's value, unfolded: a long thread's `References`.
pub(crate) const HEADER_VALUE_MAX_BYTES: usize = 4096;
/// Bytes without a space in a header's value. RFC 5322 §2.1.1 allows 998 a line, and only a space can be folded at.
pub(crate) const HEADER_WORD_MAX_BYTES: usize = 900;
/// Bytes of the name beside an address.
pub(crate) const NAME_MAX_BYTES: usize = 256;
/// Characters of a file's name. SES, "Working with email attachments".
pub(crate) const FILENAME_MAX_CHARS: usize = 255;
/// Characters of a content id. The same page.
pub(crate) const CONTENT_ID_MAX_CHARS: usize = 78;
/// Tags of one mail. SES v2 API, `SendEmail`, `EmailTags`.
pub(crate) const TAGS_MAX: usize = 50;
/// Characters of a tag's name, and of its value. SES v2 API, `MessageTag`.
pub(crate) const TAG_MAX_CHARS: usize = 256;
/// Elements that are open inside each other, not counting those that close themselves. The inliner walks recursively.
pub(crate) const HTML_DEPTH_MAX: usize = 100;
/// Formatting elements (`<b>`, `<a>`, `<font>` …) open at once. A parser repeats them in every block that follows, so
/// leaving them open multiplies the document.
pub(crate) const HTML_FORMATTING_OPEN_MAX: usize = 16;
/// Bytes of CSS times elements: what inlining may produce at the worst.
pub(crate) const CSS_BYTES_TIMES_ELEMENTS_MAX: usize = 64 * 1024 * 1024;
/// Columns of the text part that is made from HTML: RFC 5322 §2.1.1 asks for 78.
pub(crate) const TEXT_WIDTH: usize = 78;
/// The last moment with a year of four digits, 9999-12-31T23:59:59Z: a `Date` cannot say more.
pub(crate) const DATE_MAX_MS: u64 = 253_402_300_799_000;
