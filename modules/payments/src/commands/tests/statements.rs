//! What a command costs PostgreSQL, in our own database and in the provider's books.

use std::time::Duration;

use banyan_durable_testing::StatementLog;

use super::{Home, Order, on_postgres};
use crate::{
    commands::record::{Recorded, record_webhook},
    provider::Response,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_has_few_statements_and_a_repeated_webhook_at_most_one() {
    on_postgres(|home| async move {
        let (ours, payments) = StatementLog::before(&home.payments, Duration::ZERO).await;
        let (theirs, books) = StatementLog::before(&home.books, Duration::ZERO).await;
        let shop = Home { payments, books }.open().await;
        let order = Order::new();
        // Opening the books creates their tables.
        ours.take();
        theirs.take();
        assert_eq!(order.authorise(&shop).await, "authorised");
        let (statements, requests) = (ours.take(), theirs.take());
        assert_eq!(statements.len(), 6, "{statements:#?}");
        assert_eq!(requests.len(), 2, "{requests:#?}");
        assert_eq!(order.capture(&shop).await, "captured");
        let (statements, requests) = (ours.take(), theirs.take());
        assert_eq!(statements.len(), 6, "{statements:#?}");
        assert_eq!(requests.len(), 3, "{requests:#?}");
        let (command, response) = (order.command("capture"), Response::Accepted { id: "cap".into() });
        let command = command.parse().unwrap();
        // This process needs no statement to recognise it; another needs a read.
        assert!(shop.service.calls.has_recorded(command));
        let repeated = record_webhook(&shop.db, command, response).await;
        assert_eq!(repeated.unwrap(), Recorded::Before);
        let statements = ours.take();
        assert_eq!(statements.len(), 1, "{statements:#?}");
        shop.crash().await;
    })
    .await;
}
