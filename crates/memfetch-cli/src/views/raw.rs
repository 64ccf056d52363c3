//! [`Raw`]: the bytes and nothing else.

use std::io::Write;
use std::ops::ControlFlow;

use memfetch::Fault;
use memfetch::query::reader::Chunk;

use super::Show;
use crate::failure::Failure;
use crate::stdout::Stdout;

/// So many bytes of filler are written at once.
const BLOCK: usize = 64 << 10;

/// The bytes.
pub struct Raw {
    out: Stdout,
    /// What stands for a missing byte; without it the output ends before the first.
    fill: Option<u8>,
    stopped_at: Option<Fault>,
    any: bool,
}

impl Raw {
    /// To standard output.
    pub const fn new(out: Stdout, fill: Option<u8>) -> Self {
        Self { out, fill, stopped_at: None, any: false }
    }
}

impl Show for Raw {
    fn show(&mut self, chunk: Chunk<'_>) -> Result<ControlFlow<()>, Failure> {
        match (chunk, self.fill) {
            (Chunk::Bytes(_, bytes), _) => self.out.write_all(bytes)?,
            (Chunk::Zeros(span), _) => self.out.write_zeros(span.len())?,
            (Chunk::Missing(span, cause), None) => {
                let fault = Fault { at: span.start(), cause };
                if !self.any {
                    return Err(Failure::Unread(fault));
                }
                self.stopped_at = Some(fault);
                return Ok(ControlFlow::Break(()));
            }
            (Chunk::Missing(span, _), Some(byte)) => {
                let filler = vec![byte; BLOCK];
                let mut left = span.len();
                while left > 0 {
                    let now = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
                    self.out.write_all(filler.get(..now).unwrap_or(&filler))?;
                    left -= now as u64;
                }
            }
        }
        self.any = true;
        Ok(ControlFlow::Continue(()))
    }

    fn finish(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }

    fn stopped_at(&self) -> Option<Fault> {
        self.stopped_at
    }
}
