//! Publishers' requests: a part of every store of the host's state, and by itself where hosts share nothing else.

use super::{RIVALS, T0_MS, random_name};
use crate::ErrorKind;
use crate::state::{RecordedRequest, RequestClaim, Requests};
use std::sync::Arc;

/// Who removes what is expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgets {
    /// The caller, by `forget_requests`.
    WhenAsked,
    /// The store by itself, some time after; `forget_requests` has nothing to do.
    ByItself,
}

/// Runs all checks of requests.
pub async fn check(requests: Arc<dyn Requests>, forgets: Forgets) {
    a_request_goes_its_way(&*requests).await;
    a_stale_request_is_resumed_by_one(&*requests).await;
    an_expired_request_is_absent(&*requests, forgets).await;
    one_of_many_is_fresh(&requests).await;
}

fn request(fingerprint: &str, plan: &str, now_ms: u64) -> RecordedRequest {
    RecordedRequest {
        fingerprint: fingerprint.as_bytes().to_vec(),
        plan: plan.as_bytes().to_vec(),
        stale_at_ms: now_ms + 100,
        expires_at_ms: now_ms + 1_000,
    }
}

async fn claim(state: &dyn Requests, key: &str, fingerprint: &str, plan: &str, now_ms: u64) -> RequestClaim {
    state.claim_request(key, request(fingerprint, plan, now_ms), now_ms).await.unwrap()
}

async fn a_request_goes_its_way(state: &dyn Requests) {
    let key = random_name("request");
    assert_eq!(claim(state, &key, "body", "plan", T0_MS).await, RequestClaim::Fresh);
    assert_eq!(claim(state, &key, "body", "plan 2", T0_MS + 1).await, RequestClaim::InFlight);
    assert_eq!(claim(state, &key, "other", "plan 2", T0_MS + 1).await, RequestClaim::Mismatch);
    let answer = vec![0, 255, 3];
    state.answer_request(&key, answer.clone()).await.unwrap();
    assert_eq!(claim(state, &key, "body", "plan 3", T0_MS + 2).await, RequestClaim::Answered(answer.clone()));
    assert_eq!(claim(state, &key, "other", "plan 3", T0_MS + 2).await, RequestClaim::Mismatch);
    // An answer stays, however stale, until the key expires; it cannot be abandoned any more.
    state.abandon_request(&key).await.unwrap();
    assert_eq!(claim(state, &key, "body", "plan 4", T0_MS + 500).await, RequestClaim::Answered(answer));

    let abandoned = random_name("request");
    assert_eq!(claim(state, &abandoned, "body", "plan", T0_MS).await, RequestClaim::Fresh);
    state.abandon_request(&abandoned).await.unwrap();
    state.abandon_request(&abandoned).await.unwrap();
    let nobody = state.answer_request(&abandoned, Vec::new()).await.unwrap_err();
    assert_eq!(nobody.kind, ErrorKind::Conflict, "{nobody}");
    assert_eq!(claim(state, &abandoned, "another body", "plan", T0_MS).await, RequestClaim::Fresh);
}

async fn a_stale_request_is_resumed_by_one(state: &dyn Requests) {
    let key = random_name("request");
    assert_eq!(claim(state, &key, "body", "the ids", T0_MS).await, RequestClaim::Fresh);
    assert_eq!(claim(state, &key, "body", "other ids", T0_MS + 99).await, RequestClaim::InFlight);
    assert_eq!(claim(state, &key, "other", "other ids", T0_MS + 100).await, RequestClaim::Mismatch);
    let resumed = RequestClaim::Resumed { plan: b"the ids".to_vec() };
    assert_eq!(claim(state, &key, "body", "other ids", T0_MS + 100).await, resumed);
    assert_eq!(claim(state, &key, "body", "more ids", T0_MS + 101).await, RequestClaim::InFlight, "one resumes it");
    assert_eq!(claim(state, &key, "body", "more ids", T0_MS + 200).await, resumed, "under the ids of the first time");
    state.answer_request(&key, b"done".to_vec()).await.unwrap();
    assert_eq!(claim(state, &key, "body", "", T0_MS + 900).await, RequestClaim::Answered(b"done".to_vec()));
}

async fn an_expired_request_is_absent(state: &dyn Requests, forgets: Forgets) {
    let keys = [random_name("request"), random_name("request"), random_name("request")];
    for (number, key) in (1..).zip(&keys) {
        // Times that nobody else has, so that only this check's requests are forgotten.
        assert_eq!(claim(state, key, "body", "plan", number).await, RequestClaim::Fresh);
        state.answer_request(key, Vec::new()).await.unwrap();
    }
    assert_eq!(claim(state, &keys[0], "other", "plan", 1_000).await, RequestClaim::Mismatch);
    assert_eq!(claim(state, &keys[0], "other", "plan", 1_001).await, RequestClaim::Fresh, "it expired then");
    assert_eq!(claim(state, &keys[0], "other", "plan", 1_002).await, RequestClaim::InFlight, "without its old answer");

    if forgets == Forgets::ByItself {
        assert_eq!(state.forget_requests(1_003, 1).await.unwrap(), 0);
        return;
    }
    assert!(state.forget_requests(1_003, 1).await.unwrap() <= 1);
    while state.forget_requests(1_003, 1).await.unwrap() > 0 {}
    assert_eq!(claim(state, &keys[0], "other", "plan", 1_003).await, RequestClaim::InFlight, "not yet expired");
    for key in &keys[1..] {
        assert_eq!(
            claim(state, key, "other", "plan", 5).await,
            RequestClaim::Fresh,
            "forgotten, even for an old clock"
        );
    }
    while state.forget_requests(10_000, 100).await.unwrap() > 0 {}
}

async fn one_of_many_is_fresh(state: &Arc<dyn Requests>) {
    for _ in 0..8 {
        let key = random_name("request");
        let rivals: Vec<_> = (0..RIVALS)
            .map(|number| {
                let (state, key) = (Arc::clone(state), key.clone());
                tokio::spawn(async move { claim(&*state, &key, "body", &number.to_string(), T0_MS).await })
            })
            .collect();
        let mut fresh = 0;
        for rival in rivals {
            match rival.await.unwrap() {
                RequestClaim::Fresh => fresh += 1,
                other => assert_eq!(other, RequestClaim::InFlight),
            }
        }
        assert_eq!(fresh, 1, "exactly one of {RIVALS}");
    }
}
