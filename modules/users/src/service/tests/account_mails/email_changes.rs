//! A change of the email address: the new one confirms it, and the old one is told.

use banyan_core::FaultKind;
use banyan_durable_testing::on_both;

use super::{
    super::{PASSWORD, Shop, code},
    ADA, change_email, confirm, open_verifying, prepare, register, requested, token,
};

#[tokio::test]
async fn an_address_changes_when_the_new_one_confirms_and_the_old_one_is_told() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        let ada = shop.register(ADA).await;
        let session = shop.log_in(ADA, PASSWORD).await.unwrap();
        assert_eq!(
            code(change_email(&shop, &ada, "a wrong guess", "new@example.com").await),
            "wrong_password"
        );
        change_email(&shop, &ada, PASSWORD, "old@example.com").await.unwrap();
        let superseded = token(&shop, &db, "email_change").await;
        change_email(&shop, &ada, PASSWORD, "New@example.com").await.unwrap();
        let mail = requested(&db, "email_change").await.pop().unwrap();
        let (address, of_change) = prepare(&shop.service, &mail).await.unwrap();
        assert_eq!(address, "New@example.com");
        assert!(
            shop.log_in(ADA, PASSWORD).await.is_ok(),
            "the old one counts until then"
        );
        assert_eq!(code(confirm(&shop, &superseded).await), "invalid_token");
        confirm(&shop, &of_change.unwrap()).await.unwrap();
        assert_eq!(code(shop.log_in(ADA, PASSWORD).await), "invalid_credentials");
        assert!(shop.log_in("new@example.com", PASSWORD).await.is_ok());
        assert_eq!(
            code(shop.service.refresh(&session.refresh_token).await),
            "invalid_refresh_token"
        );
        let told = requested(&db, "email_changed").await;
        assert_eq!(prepare(&shop.service, &told[0]).await, Some((ADA.to_owned(), None)));
        // The old address is free, and a wrong password counts as a failed log-in does.
        shop.register(ADA).await;
        for _ in 0..9 {
            change_email(&shop, &ada, "a wrong guess", "x@example.com")
                .await
                .unwrap_err();
        }
        for expected in ["wrong_password", "too_many_failed_logins"] {
            let refused = change_email(&shop, &ada, "a wrong guess", "x@example.com").await;
            assert_eq!(code(refused), expected);
        }
    })
    .await;
}

#[tokio::test]
async fn of_two_who_want_one_address_one_gets_it_and_the_other_is_told() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = Shop::open(db.clone()).await;
        let (ada, bob) = (shop.register(ADA).await, shop.register("bob@example.com").await);
        let mut tokens = Vec::new();
        for user in [&ada, &bob] {
            change_email(&shop, user, PASSWORD, "both@example.com").await.unwrap();
            tokens.push(token(&shop, &db, "email_change").await);
        }
        let (one, other) = tokio::join!(confirm(&shop, &tokens[0]), confirm(&shop, &tokens[1]));
        let mut codes = [code(one), code(other)];
        codes.sort();
        assert_eq!(codes, ["", "email_taken"]);
        let carol = shop.register("carol@example.com").await;
        let taken = change_email(&shop, &carol, PASSWORD, "BOTH@example.com")
            .await
            .unwrap_err();
        assert_eq!((taken.kind, taken.code.as_str()), (FaultKind::Conflict, "email_taken"));
    })
    .await;
}

#[tokio::test]
async fn where_addresses_are_verified_a_change_does_not_tell_who_exists() {
    on_both(crate::SCHEMA, |db| async move {
        let shop = open_verifying(db.clone()).await;
        for email in [ADA, "bob@example.com"] {
            register(&shop, email).await;
            let of_verification = token(&shop, &db, "email_verification").await;
            confirm(&shop, &of_verification).await.unwrap();
        }
        let page = shop.service.list(&banyan_core::PageRequest::default(), Some(ADA)).await;
        let ada = page.unwrap().items.remove(0);
        for new in ["bob@example.com", "free@example.com", "bob@example.com"] {
            assert_eq!(change_email(&shop, &ada, PASSWORD, new).await, Ok(()), "{new}");
        }
        let of_change = token(&shop, &db, "email_change").await;
        assert_eq!(code(confirm(&shop, &of_change).await), "email_taken");
        for new in ["bob@example.com", "free@example.com"] {
            assert_eq!(
                code(change_email(&shop, &ada, PASSWORD, new).await),
                "too_many_mails",
                "{new}"
            );
        }
    })
    .await;
}
