//! SES for tests.
