//! `memfetch maps`.

use std::io::{self, BufWriter, Write};

use crate::ending::Ending;
use crate::failure::Failure;
use crate::plan::Maps;
use crate::{map_table, source, summary};

/// Lists the mappings that are wanted; of an image that was cut short, those that are known.
pub fn run(plan: &Maps) -> Result<Ending, Failure> {
    let source = source::open(&plan.source)?;
    let memory = source.memory();
    let regions = memory.regions()?;
    let wanted: Vec<_> = regions.iter().filter(|region| plan.selection.wants(region)).collect();
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let written = map_table::write(memory, source.witness(), &wanted, plan.layout, &mut out);
    match written.and_then(|()| Ok(out.flush()?)) {
        // Whoever has read enough of the table still learns how it ended.
        Err(failure) if failure.is_broken_pipe() => {}
        written => written?,
    }
    let shortfall = source.shortfall();
    if let Some(why) = &shortfall {
        // Standard output is for the table, which a program may read.
        let text = summary::incomplete(&plan.source, why, "what was lost is not counted");
        let _ = writeln!(io::stderr(), "{text}");
    }
    Ok(if wanted.is_empty() || shortfall.is_some() { Ending::Different } else { Ending::Done })
}
