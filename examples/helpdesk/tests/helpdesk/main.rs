//! The helpdesk from outside: a real process, real HTTP, and `kill -9`.

mod process;

use std::fs;

use serde_json::{Value, json};

use process::{DEMO, Helpdesk, PATIENT, PROD, command};

/// The id of the agent of this name.
async fn agent(helpdesk: &Helpdesk, name: &str) -> String {
    let agents = helpdesk.get("/api/v1/agents").await;
    let agents = agents["items"].as_array().expect("a list");
    let found = agents.iter().find(|agent| agent["name"] == name);
    id(found.unwrap_or_else(|| panic!("there is no agent {name}")))
}

fn id(resource: &Value) -> String {
    resource["id"].as_str().expect("an id").to_owned()
}

async fn open_critical(helpdesk: &Helpdesk, subject: &str) -> String {
    let new = json!({"subject": subject, "severity": "critical"});
    id(&helpdesk.post("/api/v1/tickets", Some(new), 201).await)
}

/// A ticket that holds the last place of Ada and waits for a deputy, because nobody else is free; with it, the ticket that holds Grace.
async fn waiting_ticket(helpdesk: &Helpdesk) -> (String, String) {
    let first = open_critical(helpdesk, "The server room is on fire").await;
    helpdesk
        .until(&format!("/api/v1/tickets/{first}"), "it is assigned", |ticket| {
            ticket["status"] == "assigned"
        })
        .await;
    let second = open_critical(helpdesk, "The fire extinguisher is missing").await;
    let ada = agent(helpdesk, "Ada").await;
    helpdesk
        .until(&format!("/api/v1/agents/{ada}"), "Ada is full", |ada| {
            ada["reserved"] == 3
        })
        .await;
    (first, second)
}

async fn assign_and_close(helpdesk: Helpdesk) {
    let (ada, grace) = (agent(&helpdesk, "Ada").await, agent(&helpdesk, "Grace").await);
    helpdesk
        .until("/api/v1/tickets", "Ada has the demo ticket", |tickets| {
            tickets["items"][0]["status"] == "assigned"
        })
        .await;
    let ticket = open_critical(&helpdesk, "The server room is on fire").await;
    let path = format!("/api/v1/tickets/{ticket}");
    let assigned = helpdesk
        .until(&path, "it is assigned", |ticket| ticket["status"] == "assigned")
        .await;
    assert_eq!(assigned["agent_ids"], json!([ada, grace]));
    helpdesk.post(&format!("{path}/close"), None, 200).await;
    // Agents subscribes to TicketClosed.
    for (agent, reserved) in [(ada, 1), (grace, 0)] {
        let agent = helpdesk
            .until(&format!("/api/v1/agents/{agent}"), "the ticket is counted", |agent| {
                agent["closed_tickets"] == 1
            })
            .await;
        assert_eq!(agent["reserved"], reserved, "{agent}");
    }
    let refused = helpdesk.post(&format!("{path}/close"), None, 409).await;
    assert_eq!(refused["code"], "already_closed");
    helpdesk.remove().await;
}

async fn kill_while_waiting(mut helpdesk: Helpdesk) {
    let (_, waiting) = waiting_ticket(&helpdesk).await;
    helpdesk.kill_and_restart().await;
    let path = format!("/api/v1/tickets/{waiting}");
    assert_eq!(helpdesk.get(&path).await["status"], "open");
    let new = json!({"name": "Alan", "capacity": 1});
    let alan = id(&helpdesk.post("/api/v1/agents", Some(new), 201).await);
    helpdesk.kill_and_restart().await;
    let assigned = helpdesk
        .until(&path, "it is assigned", |ticket| ticket["status"] == "assigned")
        .await;
    assert_eq!(assigned["agent_ids"], json!([agent(&helpdesk, "Ada").await, alan]));
    // The reservation of before the first kill was not repeated.
    let ada = agent(&helpdesk, "Ada").await;
    assert_eq!(helpdesk.get(&format!("/api/v1/agents/{ada}")).await["reserved"], 3);
    helpdesk.remove().await;
}

async fn close_while_waiting(mut helpdesk: Helpdesk) {
    let (first, waiting) = waiting_ticket(&helpdesk).await;
    helpdesk
        .post(&format!("/api/v1/tickets/{waiting}/close"), None, 200)
        .await;
    helpdesk.kill_and_restart().await;
    let ada = agent(&helpdesk, "Ada").await;
    let ada = helpdesk
        .until(&format!("/api/v1/agents/{ada}"), "Ada is released", |ada| {
            ada["reserved"] == 2
        })
        .await;
    assert_eq!(ada["closed_tickets"], 0, "she did not work on it");
    let saga = format!("/api/v1/ops/tickets/sagas?business_key={waiting}");
    let sagas = helpdesk
        .until(&saga, "the saga is compensated", |sagas| {
            sagas["items"][0]["state"] == "compensated"
        })
        .await;
    let saga = id(&sagas["items"][0]);
    let saga = helpdesk.get(&format!("/api/v1/ops/tickets/sagas/{saga}")).await;
    let undone: Vec<&Value> = saga["log"]
        .as_array()
        .expect("a log")
        .iter()
        .filter(|entry| entry["entry"] == "undo")
        .map(|entry| &entry["step"])
        .collect();
    assert_eq!(undone, ["reserve_deputy", "reserve_agent"], "{saga}");
    // A ticket that was assigned keeps its agents.
    let first = helpdesk.get(&format!("/api/v1/tickets/{first}")).await;
    assert_eq!(first["status"], "assigned");
    helpdesk.remove().await;
}

#[tokio::test]
async fn a_critical_ticket_gets_an_agent_and_a_deputy_and_closing_it_frees_both_on_sqlite() {
    assign_and_close(Helpdesk::on_sqlite(DEMO).await).await;
}

#[tokio::test]
async fn a_critical_ticket_gets_an_agent_and_a_deputy_and_closing_it_frees_both_on_postgres() {
    assign_and_close(Helpdesk::on_postgres(DEMO).await).await;
}

#[tokio::test]
async fn a_killed_process_continues_the_assignment_after_its_restart_on_sqlite() {
    kill_while_waiting(Helpdesk::on_sqlite(DEMO).await).await;
}

#[tokio::test]
async fn a_killed_process_continues_the_assignment_after_its_restart_on_postgres() {
    kill_while_waiting(Helpdesk::on_postgres(DEMO).await).await;
}

#[tokio::test]
async fn a_ticket_that_is_closed_while_it_waits_releases_its_agent_on_sqlite() {
    close_while_waiting(Helpdesk::on_sqlite(PATIENT).await).await;
}

#[tokio::test]
async fn a_ticket_that_is_closed_while_it_waits_releases_its_agent_on_postgres() {
    close_while_waiting(Helpdesk::on_postgres(PATIENT).await).await;
}

#[tokio::test]
async fn a_repeated_request_with_the_same_key_opens_one_ticket() {
    let helpdesk = Helpdesk::on_sqlite(DEMO).await;
    let new = json!({"subject": "The phone is silent", "severity": "normal"});
    let first = helpdesk.post_keyed("/api/v1/tickets", "silent-phone", &new).await;
    let again = helpdesk.post_keyed("/api/v1/tickets", "silent-phone", &new).await;
    assert_eq!(first, again);
    let all = helpdesk.get("/api/v1/tickets").await;
    assert_eq!(all["items"].as_array().map(Vec::len), Some(2), "it and the demo ticket");
    let wrong = json!({"subject": "", "severity": "urgent"});
    let refused = helpdesk.post("/api/v1/tickets", Some(wrong), 422).await;
    assert_eq!(refused["errors"].as_array().map(Vec::len), Some(2), "{refused}");
    helpdesk.remove().await;
}

/// A product without users has no operators either, so that nobody can be one in `prod`.
#[tokio::test]
async fn the_operations_api_is_open_in_demo_and_closed_in_prod() {
    let demo = Helpdesk::on_sqlite(DEMO).await;
    let modules = demo.get("/api/v1/ops/modules").await;
    assert_eq!(modules["items"].as_array().map(Vec::len), Some(2));
    demo.remove().await;
    let prod = Helpdesk::on_sqlite(PROD).await;
    assert_eq!(prod.get("/api/v1/agents").await["items"], json!([]));
    let refused = prod.get_with("/api/v1/ops/modules", 401).await;
    assert_eq!(refused["code"], "unauthenticated");
    prod.remove().await;
}

/// `BANYAN_UPDATE_SNAPSHOTS=1` writes the committed document instead.
#[tokio::test]
async fn the_document_is_the_committed_one_and_is_served() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let output = command().arg("openapi").output().await.expect("the binary starts");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    if std::env::var_os("BANYAN_UPDATE_SNAPSHOTS").is_some() {
        return fs::write(path, printed).expect("the file can be written");
    }
    let committed = fs::read_to_string(path).expect("the committed document");
    assert!(
        committed == printed,
        "run this test with BANYAN_UPDATE_SNAPSHOTS=1 and look at the difference"
    );
    let helpdesk = Helpdesk::on_sqlite(DEMO).await;
    let committed: Value = serde_json::from_str(&committed).expect("JSON");
    assert_eq!(helpdesk.get("/openapi.json").await, committed);
    helpdesk.remove().await;
}
