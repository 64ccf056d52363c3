//! [`RuleText`]: rule files as text, with what they include, and what is wrong with them.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;

use boreal::compiler::ExternalValue;
use boreal_parser::file::YaraFileComponent;
use boreal_parser::rule::Rule;
use serde::Serialize;

/// Files that include files are followed so deep.
const MAX_DEPTH: usize = 32;

/// A rule file that was read by somebody else.
#[derive(Clone, Debug)]
pub struct RuleText {
    /// What messages call it: its path.
    pub name: String,
    /// The namespace that its rules are in; those of one namespace see each other, and must differ in name.
    pub namespace: String,
    /// What it says.
    pub text: String,
}

/// Where in a rule file something is, and what is to be said of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// The file's name.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// What is to be said.
    pub message: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// Why rules could not be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// A rule file says something that cannot be.
    #[error("{0}")]
    Rule(Remark),
    /// A file that is included cannot be read.
    #[error("{place}")]
    Include {
        /// Which `include`.
        place: Remark,
        /// Why.
        source: io::Error,
    },
    /// Two values for one external variable.
    #[error("the variable {0} is defined twice")]
    DefinedTwice(String),
}

/// The value of a variable that rules use and do not define.
#[derive(Clone, Debug, PartialEq)]
pub enum External {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a point.
    Float(f64),
    /// All else.
    Text(String),
}

impl External {
    /// What a value is meant to be, as yara's `-d NAME=VALUE` takes it.
    #[must_use]
    pub fn parse(value: &str) -> Self {
        match value {
            "true" => Self::Boolean(true),
            "false" => Self::Boolean(false),
            _ => value
                .parse()
                .map(Self::Integer)
                .ok()
                .or_else(|| float(value))
                .unwrap_or(Self::Text(value.into())),
        }
    }

    pub(super) fn value(&self) -> ExternalValue {
        match self {
            Self::Boolean(value) => ExternalValue::Boolean(*value),
            Self::Integer(value) => ExternalValue::Integer(*value),
            Self::Float(value) => ExternalValue::Float(*value),
            Self::Text(value) => ExternalValue::Bytes(value.clone().into_bytes()),
        }
    }
}

/// Digits and one point: words such as `inf` are text.
fn float(value: &str) -> Option<External> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let plain = digits.contains('.') && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    plain.then(|| value.parse().map(External::Float).ok()).flatten()
}

/// A file and what it includes, each include by its number: the compiler knows texts by no better name.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub files: Vec<LoadedFile>,
}

#[derive(Debug)]
pub(super) struct LoadedFile {
    pub name: String,
    pub text: String,
    /// The names of the modules that it imports.
    pub imports: Vec<String>,
    /// The strings of each rule that has any, as they are declared.
    pub strings: Vec<Vec<Declaration>>,
}

/// `$name = "value" modifiers`.
#[derive(Debug)]
pub(super) struct Declaration {
    /// `RULE:$NAME`.
    pub name: String,
    pub text: String,
    pub private: bool,
}

/// Reads what `include "PATH"` means: given the name of the file in which it stands, and the path, it returns the name
/// of the file that is meant, and what it says.
pub type ReadInclude<'a> = dyn FnMut(&str, &str) -> io::Result<(String, String)> + 'a;

impl Loaded {
    /// Takes a file and all that it includes, and returns its number.
    pub fn load(&mut self, name: &str, text: &str, read: &mut ReadInclude<'_>) -> Result<usize, RulesError> {
        self.load_within(name, text, read, &mut Vec::new())
    }

    fn load_within(
        &mut self,
        name: &str,
        text: &str,
        read: &mut ReadInclude<'_>,
        above: &mut Vec<String>,
    ) -> Result<usize, RulesError> {
        let parsed = boreal_parser::parse(text).map_err(|error| {
            let diagnostic = error.to_diagnostic();
            let at = diagnostic.labels.first().map_or(0, |label| label.range.start);
            RulesError::Rule(remark(name, text, at, diagnostic.message))
        })?;
        above.push(name.to_owned());
        let mut imports = Vec::new();
        let mut strings = Vec::new();
        let mut numbered = String::with_capacity(text.len());
        let mut done = 0;
        for component in parsed.components {
            match component {
                YaraFileComponent::Rule(rule) => strings.push(declarations(&rule, text)),
                YaraFileComponent::Import(import) => imports.push(import.name),
                YaraFileComponent::Include(include) => {
                    let place = |message: String| remark(name, text, include.span.start, message);
                    let what = format!("cannot include {:?}", include.path);
                    let (path, included) = read(name, &include.path)
                        .map_err(|source| RulesError::Include { place: place(what.clone()), source })?;
                    if above.len() >= MAX_DEPTH || above.contains(&path) {
                        return Err(RulesError::Rule(place(format!("{what}: it includes itself"))));
                    }
                    let number = self.load_within(&path, &included, read, above)?;
                    let (Some(before), Some(within)) =
                        (text.get(done..include.span.start), text.get(include.span.clone()))
                    else {
                        return Err(RulesError::Rule(place(what)));
                    };
                    numbered.push_str(before);
                    numbered.push_str(&format!("include \"{number}\""));
                    // The lines behind it keep their numbers.
                    numbered.extend(within.chars().filter(|&c| c == '\n'));
                    done = include.span.end;
                }
            }
        }
        numbered.push_str(text.get(done..).unwrap_or_default());
        above.pop();
        self.files.push(LoadedFile { name: name.to_owned(), text: numbered, imports, strings });
        Ok(self.files.len() - 1)
    }

    /// The texts by the numbers that stand in the includes.
    pub fn numbered(&self) -> HashMap<String, String> {
        self.files.iter().enumerate().map(|(number, file)| (number.to_string(), file.text.clone())).collect()
    }

    /// The names of all strings, in order.
    pub fn names(&self) -> Vec<String> {
        let rules = self.files.iter().flat_map(|file| &file.strings);
        rules.flatten().map(|declaration| declaration.name.clone()).collect()
    }

    /// What the compiler has to say of the file with this number.
    pub fn remark(&self, error: &boreal::compiler::AddRuleError, top: usize) -> Remark {
        let number = error.path.as_ref().and_then(|path| path.to_str()?.parse().ok()).unwrap_or(top);
        let diagnostic = error.to_diagnostic();
        let label = diagnostic.labels.first();
        let mut message = diagnostic.message;
        if let Some(label) = label.filter(|label| !label.message.is_empty()) {
            message = format!("{message}: {}", label.message);
        }
        let at = label.map_or(0, |label| label.range.start);
        match self.files.get(number) {
            Some(file) => remark(&file.name, &file.text, at, message),
            None => Remark { file: String::new(), line: 0, column: 0, message },
        }
    }
}

fn declarations(rule: &Rule, text: &str) -> Vec<Declaration> {
    let declared = |span: Range<usize>| text.get(span).unwrap_or_default().to_owned();
    rule.variables
        .iter()
        .map(|string| Declaration {
            name: format!("{}:${}", rule.name, string.name),
            text: declared(string.span.clone()),
            private: string.modifiers.private,
        })
        .collect()
}

fn remark(file: &str, text: &str, at: usize, message: String) -> Remark {
    let before = text.get(..at).unwrap_or(text);
    let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Remark { file: file.to_owned(), line, column, message }
}
