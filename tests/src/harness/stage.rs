//! The placements that are tested: which processes there are, and which modules each contains.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use banyan::MODULES;

/// The database of a shop, and how its modules are distributed over processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// One process on SQLite.
    Sqlite,
    /// One process on PostgreSQL.
    Postgres,
    /// Payments and inventory in a process of their own, everything else with the gateway in another.
    Extracted,
    /// Every module in a process of its own behind the gateway.
    Split,
}

/// One process of a stage.
#[derive(Clone, Debug)]
pub struct Role {
    /// The name of the process.
    pub name: &'static str,
    pub modules: Vec<&'static str>,
    pub is_edge: bool,
}

/// The modules that the stage `extracted` runs in a process of their own.
const EXTRACTED: [&str; 2] = ["inventory", "payments"];

impl Stage {
    pub const ALL: [Stage; 4] = [Stage::Sqlite, Stage::Postgres, Stage::Extracted, Stage::Split];
    /// Those with a single process.
    pub const ALL_IN_ONE: [Stage; 2] = [Stage::Sqlite, Stage::Postgres];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Sqlite => "sqlite",
            Stage::Postgres => "postgres",
            Stage::Extracted => "extracted",
            Stage::Split => "split",
        }
    }

    /// The processes; the gateway is the last one.
    pub fn roles(self) -> Vec<Role> {
        let role = |name, modules, is_edge| Role { name, modules, is_edge };
        match self {
            Stage::Sqlite | Stage::Postgres => vec![role("shop", MODULES.to_vec(), true)],
            Stage::Extracted => {
                let (extracted, rest) = MODULES.into_iter().partition(|module| EXTRACTED.contains(module));
                vec![role("stock-and-money", extracted, false), role("rest", rest, true)]
            }
            Stage::Split => MODULES
                .into_iter()
                .map(|module| role(module, vec![module], false))
                .chain([role("gateway", Vec::new(), true)])
                .collect(),
        }
    }

    /// Whether events need a broker.
    pub fn is_split(self) -> bool {
        self.roles().len() > 1
    }
}

impl Role {
    /// The binary with the modules of this process, as `scripts/lib/binaries.sh` builds it.
    pub fn binary(&self) -> PathBuf {
        if self.name == "shop" {
            return binary();
        }
        let parts: Vec<&str> = self
            .is_edge
            .then_some("gateway")
            .into_iter()
            .chain(self.modules.iter().copied())
            .collect();
        let binary = target().join("placements").join(parts.join("+")).join("banyan");
        assert!(
            binary.exists(),
            "{} is not built: run scripts/test.sh, or scripts/lib/binaries.sh first",
            binary.display()
        );
        binary
    }
}

/// The all-in-one binary that was built beside this test.
pub fn binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let binary = target().join("banyan");
        // If only some modules were built last, the binary there contains only those.
        let modules = Command::new(&binary)
            .args(["modules", "--output", "json"])
            .env_clear()
            .output();
        let is_all_in_one = modules.is_ok_and(|modules| {
            modules.status.success() && !String::from_utf8_lossy(&modules.stdout).contains("remote")
        });
        assert!(
            is_all_in_one,
            "{} does not contain all modules: run scripts/test.sh, or cargo build -p banyan first",
            binary.display()
        );
        binary
    };
    BINARY.get_or_init(find).clone()
}

/// The second product, which was built beside this test.
pub fn helpdesk() -> PathBuf {
    let binary = target().join("helpdesk");
    let is_built = binary.exists();
    assert!(
        is_built,
        "{} is not built: run cargo build -p helpdesk first",
        binary.display()
    );
    binary
}

/// Where this test and all binaries were built.
pub fn target() -> PathBuf {
    let test = std::env::current_exe().expect("this test's own path");
    test.parent()
        .and_then(Path::parent)
        .expect("target/<profile>/deps")
        .to_owned()
}
