//! The state's contract on MariaDB and on Postgres, by one host and by two that share the tables.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{on_each, open_with, prefix};
use sandpost_message::{Message, MessageId};
use sandpost_ports::ErrorKind;
use sandpost_ports::contract;
use sandpost_ports::state::{
    Claim, DeadLetter, DeadLetterStatus, DeadLetters as _, Deployment, Deployments as _, EffectState, Effects as _,
    Keep, Ledger as _, LedgerEntry, RecordedRequest, RequestClaim, Requests as _, Step,
};
use sandpost_shared_state::{Config, SharedState};
use std::sync::Arc;

const T0_MS: u64 = 1_767_225_600_000;

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_kept() {
    on_each(async |server| {
        let state = open_with(&server.url(), &prefix(), |_| {});
        contract::state::check(Arc::clone(&state) as _).await;
        // Again, over what the first time left, with one row a batch and one connection.
        let small = open_with(&server.url(), &prefix(), |config| {
            config.forget_batch_max = 1;
            config.pool_max_connections = 1;
        });
        contract::state::check(Arc::clone(&small) as _).await;
        contract::state::check(state).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_kept_encrypted() {
    // As the program does. Another test may have been first.
    rustls::crypto::ring::default_provider().install_default().ok();
    let servers = [
        (sandpost_services::mariadb_with_tls(), "ssl-mode=VERIFY_IDENTITY", "ssl-ca"),
        (sandpost_services::postgres_with_tls(), "sslmode=verify-full", "sslrootcert"),
    ];
    for (server, verified, authority) in servers {
        let Some(server) = server else { continue };
        let url = |host: &str| format!("{}?{verified}", server.url().replace("127.0.0.1", host));
        let trusting = |host: &str| format!("{}&{authority}={}", url(host), server.authority().unwrap().display());
        let state = open_with(&trusting("localhost"), &prefix(), |_| {});
        contract::state::check(Arc::clone(&state) as _).await;
        sandpost_services::checked("state contract, encrypted", &server);
        for url in [url("localhost"), trusting("127.0.0.1")] {
            let state = open_with(&url, &prefix(), |_| {});
            let error = state.held_dead_letter(&MessageId::new(), &"orders".parse().unwrap()).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unavailable, "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hosts_one_gets_a_claim() {
    on_each(async |server| {
        let shared = prefix();
        let hosts = [open_with(&server.url(), &shared, |_| {}), open_with(&server.url(), &shared, |_| {})];
        for round in 0..10 {
            let (message, subscription) = (MessageId::new(), "orders".parse().unwrap());
            let tasks: Vec<_> = (0..16)
                .map(|number| {
                    let (host, message) = (Arc::clone(&hosts[number % 2]), message.clone());
                    let subscription: sandpost_message::SubscriptionName = std::clone::Clone::clone(&subscription);
                    tokio::spawn(async move {
                        let (key, owner) = (format!("effect {round}"), format!("owner {number}"));
                        let ours =
                            host.claim(&key, &owner, &message, &subscription, T0_MS).await.unwrap() == Claim::Ours;
                        let sends = ours && host.advance(&key, &owner, EffectState::Sending).await.is_ok();
                        let request = RecordedRequest {
                            fingerprint: b"body".to_vec(),
                            plan: owner.into_bytes(),
                            stale_at_ms: T0_MS + 100,
                            expires_at_ms: T0_MS + 1_000,
                        };
                        let claimed = host.claim_request(&key, request, T0_MS).await.unwrap();
                        assert!(matches!(claimed, RequestClaim::Fresh | RequestClaim::InFlight), "{claimed:?}");
                        (sends, claimed == RequestClaim::Fresh)
                    })
                })
                .collect();
            let (mut sending, mut fresh) = (0, 0);
            for task in tasks {
                let (sends, is_fresh) = task.await.unwrap();
                sending += usize::from(sends);
                fresh += usize::from(is_fresh);
            }
            assert_eq!((sending, fresh), (1, 1), "exactly one of 16 on two hosts");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_host_wrote_the_other_reads() {
    on_each(async |server| {
        let shared = prefix();
        let (one, two) = (open_with(&server.url(), &shared, |_| {}), open_with(&server.url(), &shared, |_| {}));
        let message = Message::new("orders".parse().unwrap(), vec![0, 1, 255], T0_MS);
        let steps: Vec<LedgerEntry> =
            (0..200).map(|at| LedgerEntry::of(&message, Step::Started, T0_MS + at, Some("n\0n"))).collect();
        one.record(steps[..150].to_vec()).await.unwrap();
        two.record(steps[150..].to_vec()).await.unwrap();
        let times: Vec<u64> = two.history(&message.id).await.unwrap().iter().map(|step| step.at_ms).collect();
        assert_eq!(times, (T0_MS..T0_MS + 200).collect::<Vec<_>>(), "batches of several statements keep their order");

        // The same message dies on both at once: one letter is kept.
        let letter = |host: usize| DeadLetter {
            id: MessageId::new().to_string(),
            message: message.clone(),
            subscription: "orders".parse().unwrap(),
            dead_at_ms: T0_MS,
            cause: "rejected".to_owned(),
            reason: format!("host {host}"),
            attempts: 1,
            plugin: "orders".parse().unwrap(),
            version: None,
            digest: None,
            trace_id: message.trace.trace_id(),
            status: DeadLetterStatus::Held,
        };
        let both: Vec<_> = (0..12)
            .map(|number| {
                let (host, letter) = (Arc::clone([&one, &two][number % 2]), letter(number));
                tokio::spawn(async move { host.add_dead_letter(letter).await })
            })
            .collect();
        for added in both {
            added.await.unwrap().unwrap();
        }
        let subscription = "orders".parse().unwrap();
        let kept = one.dead_letters(&sandpost_ports::state::DeadLetterFilter::default(), None, 100).await.unwrap();
        assert_eq!(kept.len(), 1);
        assert_eq!(two.held_dead_letter(&message.id, &subscription).await.unwrap().as_ref(), Some(&kept[0].id));
        assert_eq!(one.dead_letter("’").await.unwrap(), None, "an id that no column takes is not there");
        let page = one.dead_letters(&sandpost_ports::state::DeadLetterFilter::default(), Some("’"), 1).await;
        assert_eq!(page.unwrap_err().kind, ErrorKind::Invalid);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_keeps_what_it_is_told_and_deployments_have_a_bound() {
    on_each(async |server| {
        let state: Arc<SharedState> = open_with(&server.url(), &prefix(), |config: &mut Config| {
            config.ledger = Keep::Failures;
            config.deployments_kept_max = 3;
        });
        let message = Message::new("orders".parse().unwrap(), Vec::new(), T0_MS);
        let steps = [Step::Accepted, Step::Started, Step::RetryPlanned, Step::Acknowledged];
        state.record(steps.iter().map(|step| LedgerEntry::of(&message, *step, T0_MS, None)).collect()).await.unwrap();
        let kept: Vec<Step> = state.history(&message.id).await.unwrap().iter().map(|step| step.step).collect();
        assert_eq!(kept, [Step::RetryPlanned]);

        let plugin: sandpost_message::PluginName = "orders".parse().unwrap();
        for number in 0..7_u8 {
            let deployment = Deployment {
                plugin: plugin.clone(),
                version: format!("1.0.{number}"),
                digest: sandpost_message::Digest::from_bytes([number; 32]),
                deployed_at_ms: T0_MS,
                cause: "file".to_owned(),
            };
            state.record_deployment(deployment).await.unwrap();
        }
        let versions: Vec<String> =
            state.deployments(&plugin, 100).await.unwrap().into_iter().map(|deployment| deployment.version).collect();
        assert_eq!(versions, ["1.0.6", "1.0.5", "1.0.4"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_recorded_side_by_side_keep_their_order_and_fail_alone() {
    on_each(async |server| {
        let state = open_with(&server.url(), &prefix(), |_| {});
        let message = Message::new("orders".parse().unwrap(), Vec::new(), T0_MS);
        let entries = |call: u64| {
            let mut entries: Vec<LedgerEntry> = (0..=call % 3)
                .map(|row| LedgerEntry::of(&message, Step::Started, T0_MS, Some(&format!("{call}.{row}"))))
                .collect();
            if call % 50 == 7 {
                // No column takes as much.
                entries[0].trace_id = "0".repeat(10_000);
            }
            entries
        };
        // More than one statement takes, and one call that is more than a statement by itself.
        let calls: Vec<Vec<LedgerEntry>> =
            (0..300).map(entries).chain([(0..150).flat_map(|_| entries(2)).collect()]).collect();
        let answers = futures_util::future::join_all(calls.iter().map(|call| state.record(call.clone()))).await;
        let mut expected = Vec::new();
        for (number, (call, answer)) in calls.iter().zip(answers).enumerate() {
            if number % 50 == 7 {
                let error = answer.unwrap_err();
                assert!(matches!(error.kind, ErrorKind::Invalid), "{number}: {error:?}");
            } else {
                answer.unwrap();
                expected.extend(call.iter().map(|entry| entry.detail.clone()));
            }
        }
        let found: Vec<Option<String>> =
            state.history(&message.id).await.unwrap().into_iter().map(|entry| entry.detail).collect();
        assert_eq!(found, expected);
    })
    .await;
}
