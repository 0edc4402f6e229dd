//! MongoDB as a document database.
