//! The helpdesk, a second product on the platform: its modules in one table, and the command line, which is the platform's.

use std::{process::ExitCode, sync::Arc};

use banyan_host::{Contract, Demo, Gateway, Module, Product};
use banyan_http::Routes;
use banyan_remote::grpc::{MESSAGE_BYTES, Remotes};
use helpdesk_agents_contract::{Agents, RemoteAgents, ServedAgents};
use helpdesk_tickets_contract::{RemoteTickets, ServedTickets, Tickets};

// How each module is started in this process. `absent.rs` replaces the file of a module that is not compiled in.
#[cfg_attr(feature = "agents", path = "local/agents.rs")]
#[cfg_attr(not(feature = "agents"), path = "local/absent.rs")]
mod agents;
#[cfg_attr(feature = "tickets", path = "local/tickets.rs")]
#[cfg_attr(not(feature = "tickets"), path = "local/absent.rs")]
mod tickets;

/// Every module's contract: the module itself if it is local, otherwise its client.
#[derive(Clone)]
struct Contracts {
    agents: Arc<dyn Agents>,
    tickets: Arc<dyn Tickets>,
}

impl Contracts {
    /// As clients of the remote modules.
    fn remote(remotes: &Remotes) -> Self {
        Contracts {
            agents: Arc::new(RemoteAgents::new(remotes.channel("agents"))),
            tickets: Arc::new(RemoteTickets::new(remotes.channel("tickets"))),
        }
    }
}

/// The modules, in the order in which they start: each after those it calls.
const MODULES: &[Module<Contracts>] = &[
    Module {
        name: "agents",
        calls: &[],
        subscribes: &["tickets.ticket"],
        settings: "",
        contract: Contract {
            service: helpdesk_agents_contract::SERVICE,
            descriptors: helpdesk_agents_contract::DESCRIPTOR_SET,
            serve: |contracts, services| services.add(ServedAgents(contracts.agents.clone()).server(MESSAGE_BYTES)),
        },
        local: agents::MODULE,
    },
    Module {
        name: "tickets",
        calls: &["agents"],
        subscribes: &[],
        settings: include_str!("../modules/tickets/config/default.toml"),
        contract: Contract {
            service: helpdesk_tickets_contract::SERVICE,
            descriptors: helpdesk_tickets_contract::DESCRIPTOR_SET,
            serve: |contracts, services| services.add(ServedTickets(contracts.tickets.clone()).server(MESSAGE_BYTES)),
        },
        local: tickets::MODULE,
    },
];

/// The helpdesk as the platform runs it.
static HELPDESK: Product<Contracts> = Product {
    name: "Helpdesk",
    version: env!("CARGO_PKG_VERSION"),
    command: "helpdesk",
    summary: "A helpdesk in one binary: agents and tickets.",
    description: "A helpdesk: people report problems as tickets, and agents work on them.",
    document: include_str!("../openapi.json"),
    modules: MODULES,
    contracts: Contracts::remote,
    tokens: None,
    gateway: Gateway {
        is_local: cfg!(feature = "gateway"),
        pages: |_| Routes::new(|_| ()),
        calls: &[],
    },
    demo: Demo {
        users: "two agents, Ada and Grace, and a ticket",
        operator: None,
    },
    saga_module: "tickets",
};

fn main() -> ExitCode {
    banyan_host::cli::run(&HELPDESK, &[])
}
