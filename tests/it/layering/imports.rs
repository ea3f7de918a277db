//! Imports of source files, read from their text.

use std::{fs, path::Path};

/// A source file.
pub struct Source {
    /// Path below `src/`.
    pub path: String,
    /// Its text, without unit tests.
    pub text: String,
    /// The same without comments.
    pub code: String,
}

impl Source {
    /// Returns all files below `src/`.
    pub fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = Vec::new();
        collect(&root, &root, &mut files);
        assert!(files.len() > 20, "the sources were not found");
        files
    }

    /// Returns the top-level module of the file.
    pub fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    /// Returns the part of `folder`, such as `store/redis`, that the file belongs to: the name of a child module, or
    /// `mod` for the file that declares the children. `None` if it is elsewhere.
    pub fn part_of(&self, folder: &str) -> Option<String> {
        if self.path == format!("{folder}.rs") {
            return Some("mod".to_owned());
        }
        let below = self.path.strip_prefix(folder)?.strip_prefix('/')?;
        below.split(['/', '.']).next().map(str::to_owned)
    }

    /// Returns the functions of the file that have a body, each with its number of lines. Relies on the format that
    /// `cargo fmt` gives: a body ends at the first brace with the indentation of its function.
    pub fn functions(&self) -> Vec<(&str, usize)> {
        let lines: Vec<_> = self.text.lines().collect();
        let mut functions = Vec::new();
        for (at, line) in lines.iter().enumerate() {
            let Some(name) = function_name(line) else { continue };
            let indent = &line[..line.len() - line.trim_start().len()];
            let is_last = |line: &&str| {
                let rest = line.strip_prefix(indent).filter(|rest| !rest.starts_with(' '));
                rest.is_some_and(|rest| rest.ends_with(';') || rest.ends_with('}'))
            };
            let length = lines[at..].iter().position(is_last).expect("the function has an end") + 1;
            if lines[at + length - 1].ends_with('}') {
                functions.push((name, length));
            }
        }
        functions
    }

    /// Returns the paths that the file names, from the root of the crate.
    pub fn imports(&self) -> Vec<Vec<String>> {
        let here = self.module_path();
        let mut imports = Vec::new();
        for root in ["crate", "super", "self"] {
            for (at, _) in self.code.match_indices(&format!("{root}::")) {
                let is_start = !self.code[..at].ends_with(|letter: char| is_word(letter) || letter == ':');
                // A file that makes names of its children public does not import them.
                let statement = self.code[..at].rsplit(['\n', ';']).next().unwrap_or_default().trim_start();
                if is_start && !statement.starts_with("pub") {
                    imports.extend(tree(&self.code[at..]).0.into_iter().map(|path| absolute(&here, &path)));
                }
            }
        }
        imports
    }

    /// Returns the public names of a file that its children define, each with its child.
    pub fn reexports(&self) -> Vec<(String, String)> {
        let mut names = Vec::new();
        for (at, _) in self.code.match_indices("pub use ") {
            for mut path in tree(&self.code[at + "pub use ".len()..]).0 {
                path.retain(|part| part != "self");
                if let [child, .., name] = &path[..] {
                    names.push((name.clone(), child.clone()));
                }
            }
        }
        names
    }

    /// Returns whether the code names `word` outside of its imports.
    pub fn names(&self, word: &str) -> bool {
        let statements = self.code.split(';');
        let code = statements.filter(|statement| !statement.lines().last().unwrap_or_default().contains("use "));
        let mut code = code.filter(|statement| !statement.contains("use self::"));
        code.any(|statement| statement.split(|letter| !is_word(letter)).any(|name| name == word))
    }

    fn module_path(&self) -> Vec<String> {
        let path = self.path.trim_end_matches(".rs");
        path.split('/').filter(|part| *part != "mod" && *part != "lib").map(str::to_owned).collect()
    }
}

/// Returns the name of the function whose signature begins on a line.
fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let is_word = |word: &str| matches!(word, "const" | "async" | "unsafe" | "in") || word.starts_with("pub");
    let name = after.split(['(', '<']).next()?;
    before.split_whitespace().all(|word| is_word(word.trim_end_matches(')'))).then_some(name)
}

fn collect(folder: &Path, root: &Path, into: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            collect(&entry, root, into);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let path = entry.strip_prefix(root).expect("it is under the root").display().to_string();
            let text = fs::read_to_string(&entry).expect("a readable file");
            let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned();
            let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let code = lines.collect::<Vec<_>>().join("\n");
            into.push(Source { path, text, code });
        }
    }
}

/// Returns the paths that a tree such as `crate::{a::{B, C}, d}` stands for, and the length of its text.
fn tree(text: &str) -> (Vec<Vec<String>>, usize) {
    let mut path = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if text[at..].starts_with('{') {
            let (branches, length) = branches(&text[at + 1..]);
            let paths = branches.into_iter().map(|branch| path.iter().cloned().chain(branch).collect());
            return (paths.collect(), at + 1 + length);
        }
        let word: String = text[at..].chars().take_while(|letter| is_word(*letter) || *letter == '*').collect();
        at += word.len();
        path.push(word);
        if !text[at..].starts_with("::") || text[at..].starts_with("::<") {
            return (vec![path], at);
        }
        at += "::".len();
    }
}

/// Returns the paths of a group up to its closing brace, and the length of its text.
fn branches(text: &str) -> (Vec<Vec<String>>, usize) {
    let mut paths = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len()
            - text[at..].trim_start_matches(|letter: char| letter.is_whitespace() || letter == ',').len();
        if text[at..].is_empty() || text[at..].starts_with('}') {
            return (paths, (at + 1).min(text.len()));
        }
        let (found, length) = tree(&text[at..]);
        paths.extend(found);
        // An alias, `as x`, names nothing.
        let rest = text[at + length..].find([',', '}']).unwrap_or_default();
        at += length + rest;
    }
}

fn absolute(here: &[String], path: &[String]) -> Vec<String> {
    let mut from = if path[0] == "crate" { Vec::new() } else { here.to_vec() };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => _ = from.pop(),
            name => from.push(name.to_owned()),
        }
    }
    from
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}
