//! Times as callers see them: RFC 3339, UTC, milliseconds.

use sandpost_message::TimestampMs;
use time::OffsetDateTime;
use time::macros::format_description;

/// The last millisecond that the format can show.
const MAX_MS: TimestampMs = 253_402_300_799_999;

/// `2026-11-20T09:00:00.123Z`.
pub(crate) fn rfc3339(at_ms: TimestampMs) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms.min(MAX_MS)) * 1_000_000)
        .ok()
        .and_then(|at| at.format(&format).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn times_have_milliseconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_795_166_790_007), "2026-11-20T09:26:30.007Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
