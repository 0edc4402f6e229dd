//! The forms that the port's texts have: decimals, dates, times, JSON. Read into numbers, and written from them.
//!
//! A date here is one of the calendar: 30 February has the form and is refused.

use sandpost_ports::PortError;

/// Most digits before and after the point, each. More than any database keeps.
const DIGITS_MAX: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Date {
    pub(crate) year: u16,
    pub(crate) month: u8,
    pub(crate) day: u8,
}

/// A span of time, as MySQL's TIME; or the time of a day, where it is less than 24 hours and not negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clock {
    pub(crate) is_negative: bool,
    pub(crate) hours: u16,
    pub(crate) minutes: u8,
    pub(crate) seconds: u8,
    pub(crate) micros: u32,
}

impl Clock {
    pub(crate) fn total_micros(self) -> i64 {
        let seconds = (i64::from(self.hours) * 60 + i64::from(self.minutes)) * 60 + i64::from(self.seconds);
        let micros = seconds * 1_000_000 + i64::from(self.micros);
        if self.is_negative { -micros } else { micros }
    }
}

/// A decimal number in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decimal {
    pub(crate) is_negative: bool,
    /// Without leading zeros; empty for none.
    pub(crate) whole: String,
    pub(crate) fraction: String,
}

pub(crate) fn date(text: &str) -> Result<Date, PortError> {
    read_date(text).ok_or_else(|| of_form("YYYY-MM-DD"))
}

pub(crate) fn time(text: &str) -> Result<Clock, PortError> {
    read_time(text).ok_or_else(|| of_form("[-]HHH:MM:SS[.ffffff]"))
}

pub(crate) fn datetime(text: &str) -> Result<(Date, Clock), PortError> {
    read_datetime(text).ok_or_else(|| of_form("YYYY-MM-DDTHH:MM:SS[.ffffff]"))
}

pub(crate) fn timestamp(text: &str) -> Result<(Date, Clock), PortError> {
    let zoneless = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00"));
    zoneless.and_then(read_datetime).ok_or_else(|| of_form("YYYY-MM-DDTHH:MM:SS[.ffffff]Z"))
}

pub(crate) fn decimal(text: &str) -> Result<Decimal, PortError> {
    let not = || PortError::invalid("a parameter is not a decimal number");
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(whole, fraction)| (whole, Some(fraction)));
    let is_digits = |text: &str| (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if !is_digits(whole) || !fraction.is_none_or(is_digits) {
        return Err(not());
    }
    Ok(Decimal {
        is_negative: text.starts_with('-'),
        whole: whole.trim_start_matches('0').to_owned(),
        fraction: fraction.unwrap_or_default().to_owned(),
    })
}

pub(crate) fn json(text: &str) -> Result<(), PortError> {
    if is_json(text) { Ok(()) } else { Err(PortError::invalid("a parameter is not JSON")) }
}

pub(crate) fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// `YYYY-MM-DD`
pub(crate) fn write_date(year: u16, month: u8, day: u8) -> String {
    format!("{year:04}-{month:02}-{day:02}")
}

/// `HH:MM:SS`, with the fraction where it is not nothing.
pub(crate) fn write_clock(hours: u32, minutes: u8, seconds: u8, micros: u32) -> String {
    if micros == 0 {
        format!("{hours:02}:{minutes:02}:{seconds:02}")
    } else {
        format!("{hours:02}:{minutes:02}:{seconds:02}.{micros:06}")
    }
}

fn of_form(form: &str) -> PortError {
    PortError::invalid(format!("a parameter is not of the form {form}"))
}

fn number<T: std::str::FromStr>(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<T> {
    let is_number = digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

fn read_date(text: &str) -> Option<Date> {
    let mut parts = text.split('-');
    let date = Date {
        year: number(parts.next()?, 4..=4)?,
        month: number(parts.next()?, 2..=2)?,
        day: number(parts.next()?, 2..=2)?,
    };
    let days = match date.month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if date.year.is_multiple_of(4) && (!date.year.is_multiple_of(100) || date.year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => return None,
    };
    ((1..=days).contains(&date.day) && parts.next().is_none()).then_some(date)
}

fn read_time(text: &str) -> Option<Clock> {
    let (is_negative, clock) = text.strip_prefix('-').map_or((false, text), |clock| (true, clock));
    read_clock(clock, 2..=3).map(|clock| Clock { is_negative, ..clock })
}

fn read_datetime(text: &str) -> Option<(Date, Clock)> {
    let (date, clock) = text.split_once('T')?;
    let clock = read_clock(clock, 2..=2)?;
    if clock.hours > 23 {
        return None;
    }
    Some((read_date(date)?, clock))
}

fn read_clock(text: &str, hours: std::ops::RangeInclusive<usize>) -> Option<Clock> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = clock.split(':');
    let (hours, minutes, seconds) =
        (number(parts.next()?, hours)?, number(parts.next()?, 2..=2)?, number(parts.next()?, 2..=2)?);
    let micros: u32 = number(fraction, 1..=6)?;
    let micros = micros * 10_u32.pow(6 - u32::try_from(fraction.len()).ok()?);
    let is_clock = minutes < 60 && seconds < 60 && parts.next().is_none();
    is_clock.then_some(Clock { is_negative: false, hours, minutes, seconds, micros })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_and_others_refused() {
        assert_eq!(date("2024-02-29").unwrap(), Date { year: 2024, month: 2, day: 29 });
        for wrong in ["2026-02-29", "2026-13-01", "2026-1-1", "28.02.2026", "0000-00-00", "2026-01-01-01", ""] {
            assert!(date(wrong).is_err(), "{wrong}");
        }
        let clock = Clock { is_negative: true, hours: 838, minutes: 59, seconds: 59, micros: 500_000 };
        assert_eq!(time("-838:59:59.5").unwrap(), clock);
        for wrong in ["12:60:00", "1:00:00", "12:00", "12:00:00.1234567", "12:00:00.", "--12:00:00"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert!(datetime("2026-01-01T23:59:59.000001").is_ok());
        for wrong in ["2026-01-01 00:00:00", "2026-01-01T24:00:00", "2026-01-01T00:00:00Z"] {
            assert!(datetime(wrong).is_err(), "{wrong}");
        }
        assert!(timestamp("2026-01-01T00:00:00+00:00").is_ok() && timestamp("2026-01-01T00:00:00+02:00").is_err());
        let one = Decimal { is_negative: true, whole: "1".into(), fraction: "50".into() };
        assert_eq!(decimal("-001.50").unwrap(), one);
        for wrong in ["1,5", ".5", "5.", "1e5", "--1", "", "NaN"] {
            assert!(decimal(wrong).is_err(), "{wrong}");
        }
        assert_eq!(write_clock(838, 59, 59, 0), "838:59:59");
        assert_eq!(write_clock(0, 0, 1, 250_000), "00:00:01.250000");
    }
}
