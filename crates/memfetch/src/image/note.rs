//! The note by which an image of ours says where it came from: an ELF note ahead of the data.
//!
//! Owner `MEMFETCH`, type `0x464d454d` (`MEMF`); the descriptor is [`Origin`] as JSON, padded with spaces to a multiple of four,
//! so that `strings` and `jq` read it where nothing else is at hand. Unknown fields are skipped.

use crate::error::FormatError;
use crate::image::record::Origin;

/// The owner of the note, without the NUL that ends it in the file.
pub const OWNER: &[u8] = b"MEMFETCH";

/// Its type, `MEMF`: the descriptor is an [`Origin`]. None of the small numbers, since eu-readelf takes those for the
/// kernel's notes whoever owns them.
pub const TYPE_ORIGIN: u32 = 0x464d_454d;

/// The descriptor for this origin. Its length is a multiple of four.
#[must_use]
pub fn encode(origin: &Origin) -> Vec<u8> {
    // Plain fields only: this cannot fail, and an empty descriptor would be refused by `decode`.
    let mut json = serde_json::to_vec(origin).unwrap_or_default();
    json.resize(json.len().next_multiple_of(4), b' ');
    json
}

/// Reads a descriptor.
///
/// # Errors
///
/// [`FormatError::Nonsense`] where it is no JSON, or a field is missing or makes no sense.
pub fn decode(descriptor: &[u8]) -> Result<Origin, FormatError> {
    let end = descriptor
        .iter()
        .rposition(|byte| !matches!(byte, 0 | b' '))
        .map_or(0, |last| last.saturating_add(1));
    serde_json::from_slice(descriptor.get(..end).unwrap_or_default())
        .map_err(|error| FormatError::Nonsense(format!("its MEMFETCH note makes no sense: {error}")))
}
