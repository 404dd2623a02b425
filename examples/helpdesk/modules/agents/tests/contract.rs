//! Agents through the contract, on both databases.

use std::sync::Arc;

use banyan_core::{Call, RandomIds};
use banyan_durable::Db;
use banyan_durable_testing::on_both;
use helpdesk_agents::{Needs, SCHEMA};
use helpdesk_agents_contract::{Agents, ReleaseCapacity, ReserveCapacity, reservation::Outcome};
use uuid::Uuid;

/// The demo agents: Ada with three places, Grace with one.
async fn demo_agents(db: Db) -> Arc<dyn Agents> {
    let needs = Needs {
        db,
        ids: Arc::new(RandomIds),
    };
    let offers = helpdesk_agents::start(needs).await.expect("agents starts");
    (offers.seed)().await.expect("the demo agents are added");
    offers.contract
}

fn reserve(command: u128, ticket: u128) -> ReserveCapacity {
    ReserveCapacity {
        command_id: Uuid::from_u128(command).to_string(),
        ticket_id: Uuid::from_u128(ticket).to_string(),
    }
}

fn release(command: u128, undoes: u128) -> ReleaseCapacity {
    ReleaseCapacity {
        command_id: Uuid::from_u128(command).to_string(),
        undoes: Uuid::from_u128(undoes).to_string(),
    }
}

async fn reserved(agents: &Arc<dyn Agents>, command: u128, ticket: u128) -> String {
    let reservation = agents
        .reserve_capacity(&Call::default(), reserve(command, ticket))
        .await;
    match reservation.expect("a response").outcome {
        Some(Outcome::Reserved(reserved)) => reserved.agent_id,
        other => panic!("not reserved: {other:?}"),
    }
}

async fn outcome(agents: &Arc<dyn Agents>, command: u128, ticket: u128) -> Option<Outcome> {
    let reservation = agents
        .reserve_capacity(&Call::default(), reserve(command, ticket))
        .await;
    reservation.expect("a response").outcome
}

async fn released(agents: &Arc<dyn Agents>, command: u128, undoes: u128) -> bool {
    let release = agents
        .release_capacity(&Call::default(), release(command, undoes))
        .await;
    release.expect("a response").released
}

#[tokio::test]
async fn a_repeated_command_reserves_one_place() {
    on_both(SCHEMA, |db| async move {
        let agents = demo_agents(db).await;
        let first = reserved(&agents, 1, 1).await;
        assert_eq!(reserved(&agents, 1, 1).await, first);
        let (second, third) = (reserved(&agents, 2, 2).await, reserved(&agents, 3, 3).await);
        // Ada has two free places after the first reservation, then as few as Grace, and was added before her.
        assert_eq!((&second, &third), (&first, &first));
    })
    .await;
}

#[tokio::test]
async fn nobody_works_on_one_ticket_twice() {
    on_both(SCHEMA, |db| async move {
        let agents = demo_agents(db).await;
        assert_ne!(reserved(&agents, 1, 1).await, reserved(&agents, 2, 1).await);
        assert!(matches!(outcome(&agents, 3, 1).await, Some(Outcome::AllBusy(_))));
    })
    .await;
}

#[tokio::test]
async fn a_command_that_found_all_agents_busy_succeeds_later() {
    on_both(SCHEMA, |db| async move {
        let agents = demo_agents(db).await;
        for ticket in 1..=4 {
            reserved(&agents, ticket, ticket).await;
        }
        assert!(matches!(outcome(&agents, 5, 5).await, Some(Outcome::AllBusy(_))));
        assert!(released(&agents, 11, 1).await);
        reserved(&agents, 5, 5).await;
    })
    .await;
}

#[tokio::test]
async fn a_reservation_that_arrives_after_its_undo_does_nothing() {
    on_both(SCHEMA, |db| async move {
        let agents = demo_agents(db).await;
        assert!(!released(&agents, 11, 1).await);
        assert!(matches!(outcome(&agents, 1, 1).await, Some(Outcome::Undone(_))));
        assert!(!released(&agents, 11, 1).await);
    })
    .await;
}
