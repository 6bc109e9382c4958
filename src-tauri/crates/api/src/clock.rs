//! Dates for chat templates: Python's `strftime` in UTC, as far as templates use it.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// The time now, by a format.
pub fn strftime_now(format: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    strftime(format, now)
}

/// A time in Unix seconds, by a format; an unknown directive stays as it is.
fn strftime(format: &str, unix: u64) -> String {
    let (day, second) = (unix / 86_400, unix % 86_400);
    let (year, month, date) = civil(day);
    let weekday = DAYS[((day + 3) % 7) as usize];
    let name = MONTHS[month as usize - 1];
    let of_year = day - day_of(year);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let hour12 = if hour % 12 == 0 { 12 } else { hour % 12 };
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        // `%-d` is a number without its leading zero.
        let bare = directive == Some('-');
        if bare {
            directive = chars.next();
        }
        let number = |value: u64| if bare { value.to_string() } else { format!("{value:02}") };
        match directive {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &number(year % 100),
            Some('m') => out += &number(month),
            Some('d') => out += &number(date),
            Some('H') => out += &number(hour),
            Some('I') => out += &number(hour12),
            Some('M') => out += &number(minute),
            Some('S') => out += &number(second % 60),
            Some('p') => out += if hour < 12 { "AM" } else { "PM" },
            Some('B') => out += name,
            Some('b') => out += &name[..3],
            Some('A') => out += weekday,
            Some('a') => out += &weekday[..3],
            Some('j') => out += &format!("{:03}", of_year + 1),
            Some('F') => out += &format!("{year}-{month:02}-{date:02}"),
            Some('T') => out += &format!("{hour:02}:{minute:02}:{:02}", second % 60),
            Some('Z') => out += "UTC",
            Some('%') => out.push('%'),
            other => {
                out.push('%');
                out.extend(other);
            }
        }
    }
    out
}

fn leap(year: u64) -> bool {
    (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
}

/// Days from 1970 to the first of January of a year.
fn day_of(year: u64) -> u64 {
    (1970..year).map(|y| if leap(y) { 366 } else { 365 }).sum()
}

/// Year, month (from 1) and day of the month (from 1) of a day since 1970.
fn civil(day: u64) -> (u64, u64, u64) {
    let mut year = 1970 + day / 366;
    while day_of(year + 1) <= day {
        year += 1;
    }
    let mut rest = day - day_of(year);
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    for (month, length) in (1..).zip(lengths) {
        if rest < length {
            return (year, month, rest + 1);
        }
        rest -= length;
    }
    unreachable!("the lengths of the months add up to the year")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix, expected) in [
            (0, "1970-01-01 00:00:00 Thursday 001"),
            (951_782_400, "2000-02-29 00:00:00 Tuesday 060"),
            (1_767_225_599, "2025-12-31 23:59:59 Wednesday 365"),
            (1_795_176_000, "2026-11-20 12:00:00 Friday 324"),
        ] {
            assert_eq!(strftime("%Y-%m-%d %H:%M:%S %A %j", unix), expected);
        }
        assert_eq!(
            strftime("%d %b %Y, %-I %p, 100%% %Q", 1_794_096_000 - 8 * 86_400),
            "31 Oct 2026, 12 AM, 100% %Q"
        );
    }
}
