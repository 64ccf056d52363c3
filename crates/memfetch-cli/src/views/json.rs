//! [`Json`]: one object, written part by part.

use std::io::Write;
use std::ops::ControlFlow;

use memfetch::query::reader::Chunk;
use memfetch::{Cause, Gaps, Span};
use serde::Serialize;

use super::Show;
use crate::failure::Failure;
use crate::json;
use crate::places::Place;
use crate::text::hex;

/// What the object is about: its first fields.
#[derive(Clone, Debug, Serialize)]
pub struct Subject {
    /// From where to where.
    #[serde(flatten)]
    pub span: Span,
    /// What the start lies in.
    #[serde(flatten)]
    pub within: Place,
    /// The start in words, or nothing where nothing is mapped.
    pub place: Option<String>,
    /// The type of values.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
}

/// An object whose last field is a list that is written as it comes.
pub struct List<W> {
    subject: Subject,
    name: &'static str,
    begun: bool,
    out: W,
}

impl<W: Write> List<W> {
    /// The subject's fields, and the list under `name`.
    pub const fn new(subject: Subject, name: &'static str, out: W) -> Self {
        Self { subject, name, begun: false, out }
    }

    /// Writes the next element, a line of its own.
    pub fn push(&mut self, element: &impl Serialize) -> Result<(), Failure> {
        if self.begun {
            self.out.write_all(b",\n")?;
        } else {
            self.begin()?;
        }
        Ok(json::write(&mut self.out, element)?)
    }

    fn begin(&mut self) -> Result<(), Failure> {
        self.begun = true;
        let head = json::text(&self.subject)?;
        let head = head.strip_suffix('}').unwrap_or(&head);
        Ok(writeln!(self.out, "{head},\"{}\":[", self.name)?)
    }

    /// Writes the end of it, with what is missing.
    pub fn finish(&mut self, gaps: &Gaps) -> Result<(), Failure> {
        if !self.begun {
            self.begin()?;
        }
        let gaps = json::text(gaps)?;
        writeln!(self.out, "\n],\"gaps\":{gaps}}}")?;
        Ok(self.out.flush()?)
    }
}

/// The bytes in hexadecimal.
pub struct Json<W> {
    list: List<W>,
    gaps: Gaps,
}

/// A part in JSON.
#[derive(Serialize)]
struct Part {
    #[serde(flatten)]
    span: Span,
    #[serde(flatten)]
    what: What,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Bytes(String),
    Zero(bool),
    Cause(Cause),
}

impl<W: Write> Json<W> {
    /// About this.
    pub const fn new(subject: Subject, out: W) -> Self {
        Self { list: List::new(subject, "parts", out), gaps: Gaps::new() }
    }
}

impl<W: Write> Show for Json<W> {
    fn show(&mut self, chunk: Chunk<'_>) -> Result<ControlFlow<()>, Failure> {
        let (span, what) = match chunk {
            Chunk::Bytes(at, bytes) => {
                let span = Span::from_len(at, bytes.len() as u64).unwrap_or(Span::empty_at(at));
                (span, What::Bytes(hex(bytes)))
            }
            Chunk::Zeros(span) => (span, What::Zero(true)),
            Chunk::Missing(span, cause) => {
                self.gaps.push(span, cause);
                (span, What::Cause(cause))
            }
        };
        self.list.push(&Part { span, what })?;
        Ok(ControlFlow::Continue(()))
    }

    fn finish(&mut self) -> Result<(), Failure> {
        self.list.finish(&self.gaps)
    }
}

#[cfg(test)]
mod tests {
    use memfetch::Address;

    use super::*;

    #[test]
    fn it_is_one_object() {
        let span = |start, len| Span::from_len(Address::new(start), len).unwrap();
        let subject = |kind| Subject {
            span: span(0x1000, 0x3000),
            within: Place::default(),
            place: Some("[heap]".to_owned()),
            kind,
        };
        let mut out = Vec::new();
        let mut json = Json::new(subject(None), &mut out);
        for chunk in [
            Chunk::Bytes(Address::new(0x1000), b"\x00\xff"),
            Chunk::Zeros(span(0x1002, 0xffe)),
            Chunk::Missing(span(0x2000, 0x1000), Cause::Os(5)),
        ] {
            assert!(json.show(chunk).unwrap().is_continue());
        }
        json.finish().unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            r#"{"start":"0x1000","end":"0x4000","place":"[heap]","parts":[
{"start":"0x1000","end":"0x1002","bytes":"00ff"},
{"start":"0x1002","end":"0x2000","zero":true},
{"start":"0x2000","end":"0x3000","cause":{"os":5}}
],"gaps":[{"span":{"start":"0x2000","end":"0x3000"},"cause":{"os":5}}]}
"#
        );
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
        let mut out = Vec::new();
        List::new(subject(Some("u8")), "values", &mut out).finish(&Gaps::new()).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&value["type"], &value["values"]), (&"u8".into(), &serde_json::json!([])));
    }
}
