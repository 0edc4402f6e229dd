//! An SMTP relay as the provider of e-mail.
