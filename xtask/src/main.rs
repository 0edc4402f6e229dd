//! The repository's own commands. What a user of the product needs is in `sandpost`.
fn main() {}
