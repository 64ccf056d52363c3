//! [`Rules`]: which strings are told.

use super::encoding::{Encoding, is_ascii_text};
use crate::query::utf16;

/// Which strings are told.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Ascending, each once.
    pub encodings: Vec<Encoding>,
    /// In characters.
    pub min_length: usize,
    /// Whether UTF-16 may be of any script.
    pub all_scripts: bool,
}

impl Rules {
    /// Whether text is long enough, and is not something else that looks like it.
    pub(super) fn wants(&self, encoding: Encoding, bytes: &[u8]) -> bool {
        let Some(order) = encoding.byte_order() else {
            // No character is longer than four bytes.
            return bytes.len() >= self.min_length
                && (encoding != Encoding::Utf8
                    || bytes.len() / 4 >= self.min_length
                    || encoding.characters(bytes) >= self.min_length);
        };
        if bytes.len() / 2 < self.min_length || encoding.characters(bytes) < self.min_length {
            return false;
        }
        if self.all_scripts {
            // Two letters make an ideograph.
            return !bytes.iter().all(|&byte| is_ascii_text(byte) || byte == b'\n' || byte == b'\r');
        }
        // Small numbers look like letters with accents.
        let ascii = utf16::units(bytes, order).filter(|&unit| unit < 0x80).count();
        2 * ascii >= bytes.len() / 2
    }
}
