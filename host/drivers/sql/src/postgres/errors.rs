//! What Postgres's error codes mean (<https://www.postgresql.org/docs/17/errcodes-appendix.html>).

use crate::fault::Meaning;
use sqlx::error::DatabaseError;

pub(super) fn meaning(error: &dyn DatabaseError) -> Meaning {
    let code = error.code().unwrap_or_default();
    match &*code {
        "25006" => Meaning::ReadOnly,
        "42501" => Meaning::Denied,
        "28000" | "28P01" | "3D000" => Meaning::NotLetIn,
        // By its limit, or by somebody.
        "57014" if error.message().contains("statement timeout") => Meaning::TooLong,
        "57014" => Meaning::Ended,
        "40001" | "40P01" | "40002" | "55P03" | "55006" => Meaning::Contended { all_undone: false },
        "57P03" | "53300" | "55000" => Meaning::Busy,
        "53000" | "53100" | "53200" | "53400" => Meaning::Full,
        "0A000" if error.message().contains("cached plan") => Meaning::Stale,
        "26000" => Meaning::Stale,
        "25001" | "0A000" => Meaning::Unsupported,
        "57P01" | "57P02" | "57P04" | "57P05" | "25P03" | "25P04" => Meaning::Leaving,
        code => match code.get(..2).unwrap_or_default() {
            "23" | "44" | "27" => Meaning::Conflict,
            // Syntax and names; values; rows of an inner statement; what a trigger says; an unknown schema or encoding.
            "42" | "22" | "21" | "P0" | "3F" | "2B" | "09" | "38" | "39" => Meaning::Invalid,
            "54" => Meaning::Full,
            "08" => Meaning::Leaving,
            _ => Meaning::Other,
        },
    }
}
