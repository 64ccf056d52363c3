//! From words to addresses.

use super::{Base, Extent, Offset, Place, Where};
use crate::address::{Address, Span};
use crate::query::atlas::{Atlas, NameError};
use crate::query::symbols::Symbol;

/// Where the words lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The first address.
    pub start: Address,
    /// The address behind the last one, if the words tell it.
    pub end: Option<Address>,
    /// The symbol at the start, if it was named and nothing was added to it.
    pub symbol: Option<Symbol>,
}

impl Stretch {
    /// The span, if the words tell it.
    #[must_use]
    pub fn span(&self) -> Option<Span> {
        Span::new(self.start, self.end?)
    }
}

/// Why words lead nowhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// A name in them does not.
    #[error(transparent)]
    Name(#[from] NameError),
    /// They lead below 0, or past the end of the 64-bit space.
    #[error("`{0}` lies outside of the address space")]
    Outside(String),
    /// The end lies before the start.
    #[error("`{0}` ends before it starts")]
    Backwards(String),
    /// It has no end: nothing is mapped at its start.
    #[error("`{text}` has no end: nothing is mapped at {at}")]
    NotMapped {
        /// The words.
        text: String,
        /// The start.
        at: Address,
    },
    /// They can be read in several ways, each of which leads somewhere.
    #[error("`{text}` may be {}", readings.join(", or "))]
    Readings {
        /// The words.
        text: String,
        /// The ways.
        readings: Vec<String>,
    },
}

/// A place that was found.
struct Found {
    at: Address,
    symbol: Option<Symbol>,
}

impl Where {
    /// Finds it.
    ///
    /// # Errors
    ///
    /// [`PlaceError`], of each kind.
    pub fn resolve(&self, atlas: &mut Atlas<'_>) -> Result<Stretch, PlaceError> {
        if let Some(unsplit) = &self.unsplit
            && let Ok(found) = unsplit.resolve(atlas)
        {
            let Ok(other) = self.split(atlas) else {
                return Ok(Stretch { start: found.at, end: None, symbol: found.symbol });
            };
            let span = other.span().map_or_else(|| other.start.to_string(), |span| span.to_string());
            let readings = vec![format!("the name of what lies at {}", found.at), format!("the span {span}")];
            return Err(PlaceError::Readings { text: self.to_string(), readings });
        }
        self.split(atlas)
    }

    fn split(&self, atlas: &mut Atlas<'_>) -> Result<Stretch, PlaceError> {
        let Found { at: start, symbol } = self.start.resolve(atlas)?;
        let outside = || PlaceError::Outside(self.to_string());
        let end = match &self.extent {
            Extent::Open => None,
            Extent::To(end) => Some(end.resolve(atlas)?.at),
            Extent::Length(length) => Some(start.checked_add(*length).ok_or_else(outside)?),
            Extent::Rest => {
                let region = atlas.regions().at(start);
                let missing = || PlaceError::NotMapped { text: self.to_string(), at: start };
                Some(region.ok_or_else(missing)?.span.end())
            }
        };
        if end.is_some_and(|end| end < start) {
            return Err(PlaceError::Backwards(self.to_string()));
        }
        Ok(Stretch { start, end, symbol })
    }
}

impl Place {
    fn resolve(&self, atlas: &mut Atlas<'_>) -> Result<Found, PlaceError> {
        let heap = |atlas: &Atlas<'_>| atlas.regions().heap().map(|region| region.span.start());
        let stack = |atlas: &Atlas<'_>| atlas.regions().stack().map(|region| region.span.start());
        match &self.base {
            Base::At(at) => self.moved(*at, &self.offsets, None),
            Base::Heap => self.moved(heap(atlas).ok_or(NameError::NoRegion("heap"))?, &self.offsets, None),
            Base::Stack => self.moved(stack(atlas).ok_or(NameError::NoRegion("stack"))?, &self.offsets, None),
            Base::Symbol { module, symbol } => {
                let symbol = atlas.symbol(module.as_deref(), symbol)?;
                self.moved(symbol.address, &self.offsets, Some(symbol))
            }
            Base::Name(name) => self.by_name(name, atlas),
        }
    }

    /// A `+1` may be part of the name of a file.
    fn by_name(&self, name: &str, atlas: &Atlas<'_>) -> Result<Found, PlaceError> {
        let mut longer = name.to_owned();
        let mut known = Vec::new();
        let mut error = None;
        for taken in 0..=self.offsets.len() {
            let (into_name, rest) = self.offsets.split_at(taken);
            if let Some(offset) = into_name.last() {
                longer.push_str(&offset.text);
            }
            match atlas.module(&longer) {
                Ok(module) => known.push((longer.clone(), module.span.start(), rest)),
                Err(NameError::NoModule(_)) if taken > 0 => {}
                Err(other) => error = error.or(Some(other)),
            }
        }
        match (known.as_slice(), error) {
            ([(_, base, rest)], None | Some(NameError::NoModule(_))) => self.moved(*base, rest, None),
            ([_, _, ..], _) => {
                let reading =
                    |(name, base, rest): &(String, Address, &[Offset])| match self.moved(*base, rest, None) {
                        Ok(found) => format!("{} ({name} and an offset of {})", found.at, sum(rest)),
                        Err(_) => name.clone(),
                    };
                let readings = known.iter().map(reading).collect();
                Err(PlaceError::Readings { text: self.to_string(), readings })
            }
            (_, Some(error)) => Err(error.into()),
            ([], None) => Err(NameError::NoModule(name.to_owned()).into()),
        }
    }

    fn moved(&self, base: Address, offsets: &[Offset], symbol: Option<Symbol>) -> Result<Found, PlaceError> {
        let at = i128::from(base.get()) + sum(offsets);
        let at = u64::try_from(at).map_err(|_| PlaceError::Outside(self.to_string()))?;
        Ok(Found { at: Address::new(at), symbol: symbol.filter(|_| offsets.is_empty()) })
    }
}

/// At most [`super::MOST_OFFSETS`] numbers of 64 bits.
fn sum(offsets: &[Offset]) -> i128 {
    offsets.iter().map(|offset| offset.by).sum()
}
