//! The language, case by case and by properties. Every case is what MongoDB does.

mod cases;
mod properties;
