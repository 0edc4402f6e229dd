//! What every connection has in common, whatever service is behind it.
