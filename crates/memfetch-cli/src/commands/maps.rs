//! `memfetch maps`.

use std::io::{self, BufWriter, Write};

use crate::ending::Ending;
use crate::failure::Failure;
use crate::plan::Maps;
use crate::{map_table, source};

/// Lists the mappings that are wanted.
pub fn run(plan: &Maps) -> Result<Ending, Failure> {
    let memory = source::open(&plan.source)?;
    let regions = memory.regions()?;
    let wanted: Vec<_> = regions.iter().filter(|region| plan.selection.wants(region)).collect();
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    map_table::write(memory.as_ref(), &wanted, plan.layout, &mut out)?;
    out.flush()?;
    Ok(if wanted.is_empty() { Ending::Different } else { Ending::Done })
}
