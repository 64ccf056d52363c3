//! [`Places`]: where something lies, in the words and the keys of JSON that all reports have in common.

use std::ffi::OsStr;

use memfetch::Address;
use memfetch::query::atlas::{Atlas, Landmark};
use serde::Serialize;

use crate::text::printable;

/// What lies where; neighbours are found sooner.
pub struct Places<'a> {
    atlas: Atlas<'a>,
    last: Option<Landmark>,
}

impl<'a> Places<'a> {
    /// By these names.
    pub const fn new(atlas: Atlas<'a>) -> Self {
        Self { atlas, last: None }
    }

    /// The names.
    pub const fn atlas(&self) -> &Atlas<'a> {
        &self.atlas
    }

    /// What lies at `at`; nothing where nothing is mapped.
    pub fn at(&mut self, at: Address) -> Option<&Landmark> {
        match &mut self.last {
            Some(landmark) if landmark.span.contains(at) => landmark.move_to(at),
            last => *last = self.atlas.landmark(at),
        }
        self.last.as_ref()
    }

    /// `libc.so.6+0x1234`, `[heap]+0x10`, `7f120000+0x10` for what has no name; nothing where nothing is mapped.
    pub fn words(&mut self, at: Address) -> Option<String> {
        self.at(at).map(words)
    }

    /// The same for JSON.
    pub fn json(&mut self, at: Address) -> Place {
        self.at(at).map(Place::from).unwrap_or_default()
    }
}

/// What lies there, as it may be shown on a terminal.
pub fn words(landmark: &Landmark) -> String {
    printable(OsStr::new(&landmark.to_string()))
}

/// A place in JSON, to be flattened into what lies there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<Within>,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<Within>,
}

/// How far into something that begins somewhere. Plain anonymous memory has an empty name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Within {
    name: String,
    start: Address,
    offset: u64,
}

impl From<&Landmark> for Place {
    fn from(landmark: &Landmark) -> Self {
        let at = landmark.region_start.saturating_add(landmark.region_offset);
        let within = |name: &OsStr, offset: u64| {
            let start = Address::new(at.get().saturating_sub(offset));
            Within { name: name.to_string_lossy().into_owned(), start, offset }
        };
        Self {
            region: Some(within(&landmark.region, landmark.region_offset)),
            module: landmark.module.as_ref().map(|(name, offset)| within(name, *offset)),
        }
    }
}

#[cfg(test)]
mod tests {
    use memfetch::{Backing, Touch};
    use memfetch_testkit::Space;

    use super::*;

    #[test]
    fn places_in_words_and_in_json() {
        let space = Space::new()
            .region(0x1000, 0x1000, "rw-p", Backing::Heap)
            .region(0x3000, 0x1000, "rw-p", Backing::Anonymous { label: None })
            .region(0x5000, 0x1000, "rw-p", Backing::Anonymous { label: Some("a\x1b".into()) });
        let mut places = Places::new(Atlas::new(&space, Touch::Stored).unwrap());
        for (at, expected) in [
            (0x1000, Some("[heap]")),
            (0x1010, Some("[heap]+0x10")),
            (0x3008, Some("3000+0x8")),
            (0x3000, Some("3000+0x0")),
            (0x5001, Some("[anon:a\\x1b]+0x1")),
            (0x2000, None),
            (0x1008, Some("[heap]+0x8")),
        ] {
            assert_eq!(places.words(Address::new(at)).as_deref(), expected, "{at:#x}");
        }
        let json = |place: Place| serde_json::to_string(&place).unwrap();
        assert_eq!(
            json(places.json(Address::new(0x1010))),
            r#"{"region":{"name":"[heap]","start":"0x1000","offset":16}}"#
        );
        assert_eq!(json(places.json(Address::new(0x2000))), "{}");
    }
}
