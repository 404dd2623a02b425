//! The sandbox provider behaves as providers do: idempotent by key, its own rules, its own books.

use banyan_core::{RandomIds, SystemClock};

use super::*;
use crate::commands::tests::{default_payments, euros, on_both};

fn wanted(method: &str) -> AuthorisationRequest {
    AuthorisationRequest {
        order_id: Uuid::now_v7(),
        amount: euros(100),
        method: method.into(),
    }
}

fn id(response: Response) -> String {
    match response {
        Response::Accepted { id } => id,
        Response::Declined { code, .. } => panic!("declined: {code}"),
    }
}

fn code(response: Response) -> String {
    match response {
        Response::Accepted { id } => panic!("accepted: {id}"),
        Response::Declined { code, .. } => code,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_has_one_effect_and_one_response() {
    on_both(|home| async move {
        let shop = home.open().await;
        let (provider, key, request) = (&shop.sandbox, Uuid::new_v4(), wanted("pm_card_visa"));
        assert_eq!(provider.find(key).await.unwrap(), None);
        let (one, two) = tokio::join!(provider.authorise(key, &request), provider.authorise(key, &request));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one, two);
        assert_eq!(provider.find(key).await.unwrap(), Some(one.clone()));
        let fault = provider.authorise(key, &wanted("pm_card_visa")).await.unwrap_err();
        assert_eq!(fault.code, "provider_key_reused");
        let (authorisation, refunds) = (id(one), [Uuid::new_v4(), Uuid::new_v4()]);
        provider
            .capture(Uuid::new_v4(), &authorisation, &euros(100))
            .await
            .unwrap();
        for key in [refunds[0], refunds[0], refunds[1]] {
            id(provider.refund(key, &authorisation, &euros(40)).await.unwrap());
        }
        assert_eq!(shop.effects().await, [1, 1, 0, 2]);
        assert_eq!(provider.totals().await.unwrap()[0].refunded, 80);
        shop.crash().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_provider_keeps_its_own_rules() {
    on_both(|home| async move {
        let shop = home.open().await;
        let provider = &shop.sandbox;
        let key = Uuid::new_v4;
        let taken = id(provider.authorise(key(), &wanted("pm_card_visa")).await.unwrap());
        assert_eq!(
            code(provider.refund(key(), &taken, &euros(1)).await.unwrap()),
            "not_captured"
        );
        assert_eq!(
            code(provider.capture(key(), &taken, &euros(101)).await.unwrap()),
            "exceeds_authorised"
        );
        id(provider.capture(key(), &taken, &euros(100)).await.unwrap());
        assert_eq!(
            code(provider.capture(key(), &taken, &euros(100)).await.unwrap()),
            "not_authorised"
        );
        assert_eq!(code(provider.void(key(), &taken).await.unwrap()), "not_authorised");
        assert_eq!(
            code(provider.refund(key(), &taken, &euros(101)).await.unwrap()),
            "exceeds_captured"
        );
        let given_up = id(provider.authorise(key(), &wanted("pm_card_visa")).await.unwrap());
        id(provider.void(key(), &given_up).await.unwrap());
        assert_eq!(code(provider.void(key(), &given_up).await.unwrap()), "not_authorised");
        assert_eq!(
            code(provider.capture(key(), &given_up, &euros(1)).await.unwrap()),
            "not_authorised"
        );
        assert_eq!(
            code(provider.capture(key(), "auth_of_nobody", &euros(1)).await.unwrap()),
            "unknown_authorisation"
        );
        let fails_once = id(provider
            .authorise(key(), &wanted("pm_card_capture_fails_once"))
            .await
            .unwrap());
        let capture = key();
        assert!(
            provider
                .capture(capture, &fails_once, &euros(100))
                .await
                .unwrap_err()
                .is_transient()
        );
        assert_eq!(provider.find(capture).await.unwrap(), None, "a 503 is not a response");
        id(provider.capture(capture, &fails_once, &euros(100)).await.unwrap());
        assert_eq!(shop.effects().await, [3, 2, 1, 0]);
        shop.crash().await;
    })
    .await;
}

/// Returns this secret, or fails.
#[derive(Debug)]
struct FixedSecret(Option<[u8; 32]>);

impl Secrets for FixedSecret {
    fn new_secret(&self) -> Result<[u8; 32], Fault> {
        self.0
            .ok_or_else(|| Fault::internal("no_randomness", "the test has no secret"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_are_signed_with_a_random_secret() {
    on_both(|home| async move {
        let open = async |secrets: FixedSecret| {
            Sandbox::open(
                &home.books,
                &banyan_durable_testing::settings(),
                &default_payments(),
                Timing::default(),
                Arc::new(SystemClock),
                Arc::new(RandomIds),
                &secrets,
            )
            .await
        };
        assert_eq!(
            open(FixedSecret(None)).await.map(drop).unwrap_err().code,
            "no_randomness"
        );
        let (sandbox, _) = open(FixedSecret(Some([7; 32]))).await.unwrap();
        let now = SystemClock.now();
        let event = WebhookEvent {
            id: Uuid::new_v4(),
            reference: Uuid::new_v4(),
            answer: Response::Accepted { id: "x".to_owned() },
        };
        let body = serde_json::to_vec(&event).unwrap();
        let signature = webhook::sign(hex::encode([7; 32]).as_bytes(), &body, now);
        assert!(sandbox.read_webhook(&signature, &body, now).is_ok());
        sandbox.close().await;
    })
    .await;
}
