//! AWS SES v2 as the provider of e-mail.
