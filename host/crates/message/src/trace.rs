//! The W3C trace context that a message carries from the HTTP caller to the last effect.
//!
//! Only `traceparent`, version 00 (<https://www.w3.org/TR/trace-context/>). A header that does not parse starts a
//! new trace, as that page asks.

use std::fmt;

/// The one flag of version 00.
const SAMPLED: u8 = 1;

/// A position in a trace: 16 bytes of trace id, 8 bytes of parent id, flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceParent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl TraceParent {
    /// A new trace, sampled.
    pub fn new() -> Self {
        // Without a clock in it: samplers look at the last 7 bytes, which have to be random.
        let trace_id = uuid::Uuid::new_v4().as_u128();
        Self { trace_id, span_id: Self::random_span(), flags: SAMPLED }
    }

    /// Reads a `traceparent` header; none where it is malformed or all zero.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let well_formed = |text: &str, length| {
            text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let known = well_formed(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
        if !known || !well_formed(trace, 32) || !well_formed(span, 16) || !well_formed(flags, 2) {
            return None;
        }
        let parsed = Self {
            trace_id: u128::from_str_radix(trace, 16).ok()?,
            span_id: u64::from_str_radix(span, 16).ok()?,
            flags: u8::from_str_radix(flags, 16).ok()?,
        };
        (parsed.trace_id != 0 && parsed.span_id != 0).then_some(parsed)
    }

    /// The next span in the same trace.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span_id: Self::random_span(), ..*self }
    }

    /// The trace id alone, 32 hexadecimal digits: what logs, ledger and dead letters show.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The trace id as a number: on the wire 16 bytes, the highest first.
    pub fn trace_bits(&self) -> u128 {
        self.trace_id
    }

    /// The id of the span at this position: on the wire 8 bytes, the highest first.
    pub fn span_bits(&self) -> u64 {
        self.span_id
    }

    /// Whether whoever began the trace, or went on with it, records it.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The same position, recorded or not.
    #[must_use]
    pub fn with_sampled(&self, sampled: bool) -> Self {
        Self { flags: if sampled { self.flags | SAMPLED } else { self.flags & !SAMPLED }, ..*self }
    }

    fn random_span() -> u64 {
        // The two high bits are the UUID's variant: never zero.
        uuid::Uuid::new_v4().as_u64_pair().1
    }
}

impl Default for TraceParent {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

impl From<TraceParent> for String {
    fn from(trace: TraceParent) -> Self {
        trace.to_string()
    }
}

impl TryFrom<String> for TraceParent {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not a version 00 traceparent")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let trace = TraceParent::new();
        assert_eq!(TraceParent::parse(&trace.to_string()), Some(trace));
        assert_eq!(trace.child().trace_id(), trace.trace_id());
        assert_ne!(trace.child(), trace);
    }

    #[test]
    fn whether_it_is_recorded_goes_with_it() {
        let trace = TraceParent::new();
        assert!(trace.is_sampled() && trace.child().is_sampled());
        let dropped = trace.with_sampled(false);
        assert!(!dropped.is_sampled() && !dropped.child().is_sampled());
        assert!(dropped.to_string().ends_with("-00"));
        assert_eq!(dropped.with_sampled(true), trace);
    }

    #[test]
    fn refuses_what_the_specification_refuses() {
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
        assert!(TraceParent::parse("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later").is_some());
    }
}
