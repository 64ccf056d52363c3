//! Sizes and durations, read and shown.

use std::time::Duration;

/// How the unit of a size is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Units {
    /// `132 KiB`
    Full,
    /// `132K`
    Short,
}

const PREFIXES: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];

/// A size in the largest unit that leaves at least 1, with one decimal below 10; at most 8 characters, or 5.
#[must_use]
pub fn size(bytes: u64, units: Units) -> String {
    if bytes == 0 {
        return "0".to_owned();
    }
    let (number, prefix) = scaled(bytes);
    match (units, prefix) {
        (Units::Full, None) => format!("{number} B"),
        (Units::Full, Some(prefix)) => format!("{number} {prefix}iB"),
        (Units::Short, None) => format!("{number}B"),
        (Units::Short, Some(prefix)) => format!("{number}{prefix}"),
    }
}

/// The number that is shown, and the prefix of its unit.
fn scaled(bytes: u64) -> (String, Option<char>) {
    if bytes < 1024 {
        return (bytes.to_string(), None);
    }
    let mut shift = 10;
    for (index, prefix) in PREFIXES.into_iter().enumerate() {
        let last = index + 1 == PREFIXES.len();
        // Rounded to what is shown, so that 1023.9 KiB becomes 1 MiB and not 1024 KiB.
        let tenths = (u128::from(bytes) * 10 + (1 << (shift - 1))) >> shift;
        if tenths < 100 {
            let (whole, tenth) = (tenths / 10, tenths % 10);
            let text = if tenth == 0 { whole.to_string() } else { format!("{whole}.{tenth}") };
            return (text, Some(prefix));
        }
        let whole = (u128::from(bytes) + (1 << (shift - 1))) >> shift;
        if whole < 1024 || last {
            return (whole.to_string(), Some(prefix));
        }
        shift += 10;
    }
    (bytes.to_string(), None)
}

/// A duration with the unit that suits it and three digits at most: `340 µs`, `12.3 ms`, `2.2 s`, `3 min 5 s`.
#[must_use]
pub fn duration(time: Duration) -> String {
    let nanoseconds = time.as_nanos();
    let show = |per_unit: u128, unit: &str| {
        let tenths = (nanoseconds * 10 + per_unit / 2) / per_unit;
        if tenths < 1000 && !tenths.is_multiple_of(10) {
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        } else {
            format!("{} {unit}", (nanoseconds + per_unit / 2) / per_unit)
        }
    };
    match nanoseconds {
        0 => "0 s".to_owned(),
        1..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => show(1_000, "µs"),
        1_000_000..1_000_000_000 => show(1_000_000, "ms"),
        1_000_000_000..60_000_000_000 => show(1_000_000_000, "s"),
        _ => format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60),
    }
}

/// A number with its noun: `1 thread`, `2 threads`.
#[must_use]
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Reads a size: a whole number with K, M, G, T, P (of 1024), `KiB` and `KB` likewise, or bytes.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_uppercase();
    let unit = unit.strip_suffix("IB").or_else(|| unit.strip_suffix('B')).unwrap_or(&unit);
    let power = match unit {
        "" => Some(0),
        _ => PREFIXES.iter().position(|prefix| unit == prefix.to_string()).map(|index| index + 1),
    };
    let number: Option<u64> = number.parse().ok();
    let (Some(number), Some(power)) = (number, power) else {
        return Err("a size is a whole number with a unit, such as 512M or 4GiB".to_owned());
    };
    number.checked_mul(1 << (10 * power)).ok_or_else(|| "a size is at most 16 EiB".to_owned())
}

/// Reads a number of things: as [`parse_size`], or hexadecimal with 0x.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse_count(text: &str) -> Result<u64, String> {
    let wrong = |_| "a count is a number such as 64, 0x40, 4K or 1MiB".to_owned();
    let count = match text.strip_prefix("0x").filter(|digits| !digits.starts_with('+')) {
        Some(digits) => u64::from_str_radix(digits, 16).map_err(|error| wrong(error.to_string())),
        None => parse_size(text).map_err(wrong),
    }?;
    if count == 0 { Err("a count is at least 1".to_owned()) } else { Ok(count) }
}

/// Reads an alignment: a power of two.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse_alignment(text: &str) -> Result<u64, String> {
    let align = text.parse().ok().filter(|align: &u64| align.is_power_of_two() && *align <= 1 << 30);
    align.ok_or_else(|| "an alignment is 1, 2, 4, 8 ... bytes".to_owned())
}

/// Reads a byte: decimal, or hexadecimal with 0x.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse_byte(text: &str) -> Result<u8, String> {
    let byte = match text.strip_prefix("0x") {
        Some(digits) => u8::from_str_radix(digits, 16),
        None => text.parse(),
    };
    byte.map_err(|_| "a byte is a number from 0 to 255, or from 0x0 to 0xff".to_owned())
}

/// Reads a duration: `500ms`, `10s`, `2m`, or seconds.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a duration is a whole number with a unit, such as 500ms, 10s or 2m".to_owned();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let time = match unit.trim() {
        "ms" => Duration::from_millis(number),
        "" | "s" => Duration::from_secs(number),
        "m" | "min" => Duration::from_secs(number.checked_mul(60).ok_or_else(wrong)?),
        _ => return Err(wrong()),
    };
    if time.is_zero() { Err("a time limit is longer than nothing".to_owned()) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_stay_short_and_round_across_units() {
        for (bytes, full, short) in [
            (0, "0", "0"),
            (17, "17 B", "17B"),
            (4096, "4 KiB", "4K"),
            (1536, "1.5 KiB", "1.5K"),
            (135_168, "132 KiB", "132K"),
            (1_048_575, "1 MiB", "1M"),
            (1023 << 20, "1023 MiB", "1023M"),
            (10 * 1024 + 100, "10 KiB", "10K"),
            (u64::MAX, "16 EiB", "16E"),
        ] {
            assert_eq!(size(bytes, Units::Full), full);
            assert_eq!(size(bytes, Units::Short), short);
        }
        for shift in 0..64 {
            for bytes in [1_u64 << shift, (1 << shift) - 1, (1_u64 << shift) | (1 << shift >> 1)] {
                assert!(
                    size(bytes, Units::Full).len() <= 8 && size(bytes, Units::Short).len() <= 5,
                    "{bytes}"
                );
            }
        }
    }

    #[test]
    fn sizes_and_durations_are_read() {
        for (text, bytes) in [("0", 0), ("512", 512), ("4k", 4096), ("4 KiB", 4096), ("2GB", 2 << 30)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "G", "1.5G", "-1", "4X", "99999999999E"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        for (text, milliseconds) in [("500ms", 500), ("10", 10_000), ("10s", 10_000), ("2m", 120_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)));
        }
        for bad in ["", "0", "1h", "s", "1.5s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_and_bytes_are_read() {
        for (text, count) in [("1", 1), ("0x40", 64), ("4K", 4096), ("1MiB", 1 << 20)] {
            assert_eq!(parse_count(text), Ok(count), "{text}");
        }
        for bad in ["", "0", "0x", "0x+1", "-1", "0x0", "1x"] {
            assert!(parse_count(bad).is_err(), "{bad}");
        }
        assert_eq!((parse_byte("255"), parse_byte("0x1f")), (Ok(255), Ok(31)));
        assert!(parse_byte("256").is_err() && parse_byte("0x100").is_err() && parse_byte("x").is_err());
    }

    #[test]
    fn durations_are_shown_with_three_digits() {
        for (nanoseconds, text) in [
            (340_000, "340 µs"),
            (12_340_000, "12.3 ms"),
            (2_200_000_000, "2.2 s"),
            (2_000_000_000, "2 s"),
            (185_000_000_000, "3 min 5 s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanoseconds)), text);
        }
    }
}
