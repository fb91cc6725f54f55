//! Sizes, durations and numbers as people write them.

use std::time::Duration;

const SIZE_UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Bytes, from `40GiB`, `512 MiB`, `10GB` or plain bytes. Units are read without regard to case.
///
/// # Errors
/// What is wrong and what may be written, as one clause.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!("'{text}' is not a size; write bytes, or a whole number with KiB, MiB, GiB, TiB, kB, MB, GB or TB, as in 40GiB")
    };
    let (number, unit) = split(text);
    let unit = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?.1;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).ok_or_else(|| format!("'{text}' is more than 16 EiB; write a smaller size, as in 40GiB"))
}

/// Time, from `200ms`, `2s`, `500us`, `1min`, or a plain number of milliseconds. A fraction is fine: `1.5s`.
///
/// # Errors
/// What is wrong and what may be written, as one clause.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a duration; write a number with us, ms, s or min, as in 200ms");
    let (number, unit) = split(text);
    let seconds = match unit {
        "us" => 1e-6,
        "" | "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())
}

/// A number of at least 0, fractions allowed.
pub(crate) fn number(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(n) if n.is_finite() && n >= 0.0 => Ok(n),
        _ => Err(format!("'{text}' is not a number of at least 0; write one, as in 25 or 0.5")),
    }
}

/// The digits (and point) at the front, and the unit behind them.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_binary_decimal_and_plain_units() {
        assert_eq!(size("40GiB"), Ok(40 << 30));
        assert_eq!(size("512 MiB"), Ok(512 << 20));
        assert_eq!(size("10GB"), Ok(10_000_000_000));
        assert_eq!(size(" 42144366592 "), Ok(42_144_366_592));
        assert_eq!(size("1tib"), Ok(1 << 40));
        assert_eq!(size("0"), Ok(0));
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in ["", "GiB", "40XB", "-1GiB", "1.5GiB", "4 0GiB", "40GiB!", "0x10", "G", "é"] {
            assert!(size(text).unwrap_err().contains("40GiB"), "{text}");
        }
        assert!(size("99999999TiB").unwrap_err().contains("more than 16 EiB"));
        assert!(size("99999999999999999999").is_err());
    }

    #[test]
    fn durations() {
        assert_eq!(duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("200"), Ok(Duration::from_millis(200)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("10 us"), Ok(Duration::from_micros(10)));
        assert_eq!(duration("2min"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for text in ["", "ms", "-1s", "1h", "1.2.3s", "99999999999999999999999999s"] {
            assert!(duration(text).unwrap_err().contains("200ms"), "{text}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(number("25"), Ok(25.0));
        assert_eq!(number(" 0.5 "), Ok(0.5));
        for text in ["", "-1", "nan", "inf", "25GB"] {
            assert!(number(text).is_err(), "{text}");
        }
    }
}
