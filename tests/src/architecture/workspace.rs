//! The workspace as the rules see it: packages with their dependencies, sources with their text.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

#[derive(Clone, Debug)]
pub struct Package {
    pub name: String,
    /// Names of normal and build dependencies.
    pub dependencies: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Source {
    /// From the repository's root, with `/`.
    pub path: String,
    pub text: String,
}

impl Source {
    /// Lines with their numbers, without comments and without unit tests, which stand in a `mod` at a file's end.
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let begins_tests = |(line, next): &(&str, Option<&str>)| {
            line.starts_with("#[cfg(test)]") && next.is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'))
        };
        let lines = self.text.lines().zip(self.text.lines().skip(1).map(Some).chain([None]));
        let code = lines
            .take_while(move |pair| !begins_tests(pair))
            .map(|(line, _)| line)
            .enumerate();
        code.map(|(at, line)| (at + 1, line.trim()))
            .filter(|(_, line)| !line.starts_with("//") && !line.starts_with("--"))
    }
}

#[derive(Clone, Debug)]
pub struct Workspace {
    /// The names of the modules: the packages in the folders `modules/<name>`.
    pub modules: Vec<String>,
    pub packages: Vec<Package>,
    pub sources: Vec<Source>,
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests are a folder of the repository")
        .to_owned()
}

impl Workspace {
    /// The repository's.
    pub fn load() -> Self {
        Workspace::at(&root())
    }

    /// That of a copy of the repository.
    pub fn at(root: &Path) -> Self {
        let metadata = metadata(root, &["--no-deps"]);
        let packages = metadata["packages"].as_array().expect("packages");
        let modules = packages.iter().filter(|package| {
            let manifest = text(&package["manifest_path"]);
            root.join("modules").join(text(&package["name"])).join("Cargo.toml") == Path::new(&manifest)
        });
        let modules = modules.map(|package| text(&package["name"])).collect();
        let packages = packages.iter().map(|package| Package {
            name: text(&package["name"]),
            dependencies: package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| text(&dependency["name"]))
                .collect(),
        });
        let mut workspace = Workspace {
            modules,
            packages: packages.collect(),
            sources: Vec::new(),
        };
        for folder in [
            "app",
            "examples",
            "generator/src",
            "load",
            "modules",
            "platform",
            "shared-kernel",
            "tests",
        ] {
            workspace.read(root, &root.join(folder));
        }
        workspace
    }

    fn read(&mut self, root: &Path, directory: &Path) {
        let mut entries: Vec<PathBuf> = fs::read_dir(directory)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        entries.sort();
        for path in entries {
            let kind = path.extension().and_then(|extension| extension.to_str());
            if path.is_dir() && !path.ends_with("target") {
                self.read(root, &path);
            } else if matches!(kind, Some("rs" | "sql")) {
                let from_root = path
                    .strip_prefix(root)
                    .expect("below the root")
                    .to_string_lossy()
                    .replace('\\', "/");
                self.sources.push(Source {
                    path: from_root,
                    text: fs::read_to_string(&path).expect("a readable source"),
                });
            }
        }
    }

    pub fn is_module(&self, package: &str) -> bool {
        self.modules.iter().any(|module| module == package)
    }

    pub fn package_mut(&mut self, name: &str) -> &mut Package {
        self.packages
            .iter_mut()
            .find(|package| package.name == name)
            .unwrap_or_else(|| panic!("there is no package {name}"))
    }

    /// Every dependency of one of our packages on another, sorted.
    pub fn edges(&self) -> Vec<(String, String)> {
        let ours: Vec<&str> = self.packages.iter().map(|package| package.name.as_str()).collect();
        let mut edges: Vec<(String, String)> = self
            .packages
            .iter()
            .flat_map(|package| package.dependencies.iter().map(move |dependency| (package, dependency)))
            .filter(|(_, dependency)| ours.contains(&dependency.as_str()))
            .map(|(package, dependency)| (package.name.clone(), dependency.clone()))
            .collect();
        edges.sort();
        edges.dedup();
        edges
    }
}

/// Every package of the lock file with its licence.
pub fn licences() -> Vec<(String, String)> {
    let metadata = metadata(&root(), &[]);
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            (
                text(&package["name"]),
                package["license"]
                    .as_str()
                    .unwrap_or("no stated licence")
                    .replace('/', " OR "),
            )
        })
        .collect()
}

fn metadata(root: &Path, arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(arguments)
        .current_dir(root)
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}
