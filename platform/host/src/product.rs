//! The description of a product: its modules, in one table.

use std::{fmt, sync::Arc};

use banyan_http::{KeySource, Routes};
use banyan_remote::grpc::{Callee, Callers, GATEWAY, Remotes, ServedModule, Services};

use crate::{local::LocalModule, settings::Defaults};

/// A product built on the platform. `C` is the product's own type with the contracts of all its modules.
pub struct Product<C: 'static> {
    /// Printed at start and in the OpenAPI document.
    pub name: &'static str,
    pub version: &'static str,
    /// The name of its program.
    pub command: &'static str,
    /// What it is, in a sentence: for the command line.
    pub summary: &'static str,
    /// The description in the OpenAPI document.
    pub description: &'static str,
    /// The committed OpenAPI document of all modules, which is the gateway's route table.
    pub document: &'static str,
    /// In the order in which they are started: each after those it calls.
    pub modules: &'static [Module<C>],
    /// The contracts of all modules, as clients of remote ones. A module that is local replaces its own when it is started.
    pub contracts: fn(&Remotes) -> C,
    /// The module that signs the access tokens. `None` for a product without users: its routes take `Anyone`, and its operations API is open in the
    /// profile `demo` and closed in `prod`.
    pub tokens: Option<Tokens<C>>,
    pub gateway: Gateway<C>,
    pub demo: Demo,
    /// The module whose sagas the command line shows by default.
    pub saga_module: &'static str,
}

/// One module of a product: its only registration.
pub struct Module<C: 'static> {
    pub name: &'static str,
    /// The modules it calls through their contracts.
    pub calls: &'static [&'static str],
    /// The aggregates of other modules whose events it subscribes to, as `<module>.<aggregate>`.
    pub subscribes: &'static [&'static str],
    /// Its own section of the settings with its defaults, as TOML with comments; empty for a module without settings.
    pub settings: &'static str,
    pub contract: Contract<C>,
    /// How it is started in this process; `None` in a binary without it.
    pub local: Option<LocalModule<C>>,
}

/// How a module's contract is served over gRPC.
pub struct Contract<C: 'static> {
    /// The full name of its service.
    pub service: &'static str,
    /// Its `.proto` files, compiled.
    pub descriptors: &'static [u8],
    pub serve: fn(&C, &mut Services),
}

/// The module that signs the access tokens.
pub struct Tokens<C: 'static> {
    /// The module from which every process fetches the public keys.
    pub module: &'static str,
    pub keys: fn(&C) -> Arc<dyn KeySource>,
    /// The calls of its contract that `keys` makes: every process may make them.
    pub calls: &'static [&'static str],
}

/// The edge: requests for remote modules are forwarded, and pages are composed of several modules.
pub struct Gateway<C: 'static> {
    /// Whether this binary is an edge.
    pub is_local: bool,
    /// The routes of the pages, relative to `/api/v1`.
    pub pages: fn(&C) -> Routes,
    /// The modules that the pages call.
    pub calls: &'static [&'static str],
}

/// The profile `demo`.
#[derive(Clone, Copy, Debug)]
pub struct Demo {
    /// The demo users, or the demo data of a product without users, in a sentence.
    pub users: &'static str,
    /// E-mail address and password of an operator, for the command line.
    pub operator: Option<(&'static str, &'static str)>,
}

impl<C> Product<C> {
    /// The table without its contracts.
    pub fn layout(&self) -> Layout {
        let module = |module: &Module<C>| ModuleLayout {
            name: module.name,
            calls: module.calls,
            subscribes: module.subscribes,
            service: module.contract.service,
            is_local: module.local.is_some(),
        };
        Layout {
            modules: self.modules.iter().map(module).collect(),
            tokens_from: self.tokens.as_ref().map(|tokens| tokens.module),
            token_calls: self.tokens.as_ref().map_or(&[], |tokens| tokens.calls),
            is_edge: self.gateway.is_local,
            pages_call: self.gateway.calls,
        }
    }

    /// Every setting of the product, with its default.
    pub fn defaults(&self) -> Defaults {
        Defaults::new(self.modules.iter().map(|module| (module.name, module.settings)))
    }

    /// The contracts of the local modules, to be served to other processes.
    pub(crate) fn served(&self, contracts: &C) -> Vec<ServedModule>
    where
        C: Clone + Send + 'static,
    {
        let layout = self.layout();
        let local = self.modules.iter().filter(|module| module.local.is_some());
        let served = local.map(|module| {
            let (contracts, serve) = (contracts.clone(), module.contract.serve);
            ServedModule {
                name: module.name,
                descriptors: module.contract.descriptors,
                callers: layout.may_call(module.name),
                serve: Box::new(move |services| serve(&contracts, services)),
            }
        });
        served.collect()
    }
}

impl<C> fmt::Debug for Product<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Product({})", self.name)
    }
}

/// A product's table without its contracts: all modules, their calls and subscriptions, and which are in this binary.
#[derive(Clone, Debug)]
pub struct Layout {
    pub modules: Vec<ModuleLayout>,
    pub tokens_from: Option<&'static str>,
    /// The calls by which every process fetches what verifies them.
    pub token_calls: &'static [&'static str],
    /// Whether this binary is an edge.
    pub is_edge: bool,
    /// The modules that an edge calls for its pages.
    pub pages_call: &'static [&'static str],
}

#[derive(Clone, Copy, Debug)]
pub struct ModuleLayout {
    pub name: &'static str,
    pub calls: &'static [&'static str],
    pub subscribes: &'static [&'static str],
    pub service: &'static str,
    pub is_local: bool,
}

impl Layout {
    /// The names of all modules.
    pub fn names(&self) -> Vec<&'static str> {
        self.modules.iter().map(|module| module.name).collect()
    }

    /// The modules in this binary.
    pub fn local(&self) -> Vec<&'static str> {
        let local = self.modules.iter().filter(|module| module.is_local);
        local.map(|module| module.name).collect()
    }

    /// The modules that are not in this binary.
    pub fn remote(&self) -> Vec<&'static str> {
        let remote = self.modules.iter().filter(|module| !module.is_local);
        remote.map(|module| module.name).collect()
    }

    pub fn find(&self, module: &str) -> Option<&ModuleLayout> {
        self.modules.iter().find(|known| known.name == module)
    }

    /// The remote modules that this process calls.
    pub fn called(&self) -> Vec<&'static str> {
        let remote = self.remote().into_iter();
        remote.filter(|module| !self.callers_of(module).is_empty()).collect()
    }

    /// All modules, as their callers know them.
    pub fn callees(&self) -> Vec<Callee> {
        let called = self.called();
        let callee = |module: &ModuleLayout| Callee {
            module: module.name,
            service: module.service,
            is_called: called.contains(&module.name),
        };
        self.modules.iter().map(callee).collect()
    }

    /// Who may call `module`, in all processes of the product.
    pub fn may_call(&self, module: &str) -> Callers {
        let of = |is_caller: &dyn Fn(&ModuleLayout) -> bool| {
            let callers = self.modules.iter().filter(|other| is_caller(other));
            callers.map(|caller| caller.name).collect()
        };
        Callers {
            modules: of(&|other| other.calls.contains(&module)),
            subscribers: of(&|other| other.subscribes_to(module)),
            gateway: self.pages_call.contains(&module),
            everyone: if self.tokens_from == Some(module) {
                self.token_calls
            } else {
                &[]
            },
        }
    }

    /// What the certificate of this process must name, so that others let its modules call them.
    pub fn names_in_certificate(&self) -> Vec<&'static str> {
        let mut names = self.local();
        names.extend(self.is_edge.then_some(GATEWAY));
        names
    }

    /// The callers of `module` in this process, as the beginnings of sentences.
    pub fn callers_of(&self, module: &str) -> Vec<String> {
        let mut callers = Vec::new();
        for local in self.modules.iter().filter(|module| module.is_local) {
            if local.calls.contains(&module) {
                callers.push(format!("{} calls", local.name));
            }
            if local.subscribes_to(module) {
                callers.push(format!("{} subscribes to the events of", local.name));
            }
        }
        if self.is_edge && self.pages_call.contains(&module) {
            callers.push("the gateway's pages call".to_owned());
        }
        if self.tokens_from == Some(module) {
            callers.push("the check of access tokens calls".to_owned());
        }
        callers
    }
}

impl ModuleLayout {
    /// The modules whose events it subscribes to.
    pub fn sources(&self) -> impl Iterator<Item = &'static str> {
        let split = self.subscribes.iter().filter_map(|topic| topic.split_once('.'));
        split.map(|(source, _)| source)
    }

    pub fn subscribes_to(&self, module: &str) -> bool {
        self.sources().any(|source| source == module)
    }
}
