//! What MySQL's and MariaDB's error numbers mean.

use crate::fault::Meaning;
use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;

/// `KILL` of a connection that is not there.
pub(super) const NO_SUCH_THREAD: u16 = 1094;

pub(super) fn number(error: &dyn DatabaseError) -> Option<u16> {
    error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}

pub(super) fn meaning(error: &dyn DatabaseError) -> Meaning {
    match number(error).unwrap_or(0) {
        // Unique, not null, without a default, foreign keys, checks, partitions.
        1022 | 1048 | 1062 | 1169 | 1216 | 1217 | 1364 | 1451 | 1452 | 1526 | 1557 | 1586 | 1761 | 1762 | 3819
        | 4025 => Meaning::Conflict,
        1792 => Meaning::ReadOnly,
        1044 | 1045 | 1049 | 1130 | 1251 | 1275 | 1698 | 1820 | 1862 | 3118 | 4151 => Meaning::NotLetIn,
        1095 | 1142 | 1143 | 1227 | 1370 | 1410 => Meaning::Denied,
        1969 | 3024 => Meaning::TooLong,
        1317 => Meaning::Ended,
        1213 | 1614 => Meaning::Contended { all_undone: true },
        // Of a wait for a lock that took too long the server undoes the statement alone, as it is configured by default.
        1020 | 1205 | 3572 => Meaning::Contended { all_undone: false },
        1040 | 1203 | 1226 | 1290 | 1836 | 3032 => Meaning::Busy,
        1021 | 1037 | 1038 | 1041 | 1104 | 1114 | 1153 | 1206 => Meaning::Full,
        1235 | 1295 => Meaning::Unsupported,
        1053 | 1077 | 1079 | 1080 | 1152 | 1158 | 1159 | 1160 | 1161 | 1184 | 1927 | 3169 | 4031 => Meaning::Leaving,
        // By their class: syntax and names, values, how many rows an inner statement may answer, what a trigger says.
        _ => match error.code().as_deref() {
            Some(code) if code.starts_with("42") || code.starts_with("22") || code.starts_with("21") => {
                Meaning::Invalid
            }
            Some("45000") => Meaning::Invalid,
            Some(code) if code.starts_with("23") => Meaning::Conflict,
            Some(code) if code.starts_with("0A") => Meaning::Unsupported,
            Some(code) if code.starts_with("08") => Meaning::Leaving,
            _ => of_no_class(number(error).unwrap_or(0)),
        },
    }
}

/// The general class, HY000, has mistakes of a statement too.
fn of_no_class(number: u16) -> Meaning {
    match number {
        // Values that are none of their column's, more values than columns, a view that takes no change, an unknown collation or
        // system name, JSON that is none, a function's arguments.
        1093
        | 1191
        | 1193
        | 1210
        | 1222
        | 1242
        | 1265
        | 1273
        | 1288
        | 1292
        | 1347
        | 1348
        | 1364..=1366
        | 1393
        | 1394
        | 1406
        | 1411
        | 1423
        | 1442
        | 1525
        | 1582
        | 1583
        | 1690
        | 3140..=3158
        | 4038 => Meaning::Invalid,
        _ => Meaning::Other,
    }
}
