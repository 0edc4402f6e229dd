//! What every document driver keeps.
