//! Rule files and variables, as the command line names them.

use std::io;
use std::path::Path;

use memfetch::query::rules::{External, RuleText, Rules, RulesError};

/// What keeps rules from being used.
#[derive(Debug, thiserror::Error)]
pub enum RuleFailure {
    /// A rule file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A variable that is not NAME=VALUE.
    #[error("{0:?} defines no variable: it should be NAME=VALUE")]
    Definition(String),
    /// The rules are wrong.
    #[error("the rules cannot be compiled")]
    Rules(#[from] RulesError),
}

/// Reads and compiles rules. Each file is a path, or `NAMESPACE:PATH` as yara has it; each definition `NAME=VALUE`.
/// What a file includes is looked for from its own folder.
pub fn compile(files: &[String], definitions: &[String]) -> Result<Rules, RuleFailure> {
    let texts = files.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    let externals = definitions
        .iter()
        .map(|definition| match definition.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), External::parse(value))),
            _ => Err(RuleFailure::Definition(definition.clone())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Rules::compile(&texts, &externals, &mut include)?)
}

fn read(file: &str) -> Result<RuleText, RuleFailure> {
    // A file that is there under the whole word is that file.
    let (namespace, path) = match file.split_once(':') {
        Some((namespace, path)) if !namespace.contains('/') && !Path::new(file).exists() => (namespace, path),
        _ => ("default", file),
    };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(RuleText { name: path.to_owned(), namespace: namespace.to_owned(), text }),
        Err(source) => Err(RuleFailure::File { path: path.to_owned(), source }),
    }
}

fn include(from: &str, path: &str) -> io::Result<(String, String)> {
    let path = Path::new(from).parent().unwrap_or(Path::new("")).join(path);
    // One name for each file, so that a loop is seen.
    let text = std::fs::read_to_string(&path)?;
    Ok((path.canonicalize()?.to_string_lossy().into_owned(), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_namespaces_includes_and_variables() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::create_dir(path("sub")).unwrap();
        std::fs::write(path("a.yar"), "include \"sub/b.yar\" rule a { condition: b and level == 3 }")
            .unwrap();
        std::fs::write(path("sub/b.yar"), "include \"../c.yar\" rule b { condition: c }").unwrap();
        std::fs::write(path("c.yar"), "rule c { condition: true }").unwrap();
        std::fs::write(path("loop.yar"), "include \"./loop.yar\"").unwrap();
        let named = format!("other:{}", path("c.yar"));
        assert_eq!(compile(&[path("a.yar"), named], &["level=3".to_owned()]).unwrap().len(), 4);
        let wrong = compile(&[path("loop.yar")], &[]).unwrap_err();
        assert!(matches!(wrong, RuleFailure::Rules(RulesError::Rule(_))), "{wrong:?}");
        assert!(matches!(compile(&[path("none.yar")], &[]), Err(RuleFailure::File { .. })));
        assert!(matches!(compile(&[], &["=3".to_owned()]), Err(RuleFailure::Definition(_))));
    }
}
