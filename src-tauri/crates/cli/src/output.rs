//! Standard output that may be closed by its reader (`hearth list | head`): then there is nobody to print for, and no error either.

use std::io::Write;

/// Prints a line at once.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints a text that ends its own lines.
pub fn text(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
