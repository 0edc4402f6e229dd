//! Publishers' requests by `Idempotency-Key`, for hosts that share a Redis and no database: a hash for each key.
//!
//! Invariants
//! - Every step is one script over one key: of many hosts that claim a key at once, one gets it.
//! - A claim carries an owner, new for each claim. So a claim whose answer was lost is repeated without being taken for
//!   another's, and a host gives up only what it holds itself.
//! - The first answer stays; whoever answers later, because it was taken for dead, answers the same.
//! - Whether a request is stale or expired goes by the caller's clock, as in every store of requests. Redis's own clock only
//!   removes what is long expired.
//!
//! A window is as durable as this Redis: one that starts empty, or evicts keys, has forgotten it.
//!
//! Not here: what is done where Redis does not answer. That is the caller's to decide, and an error to it.

use crate::errors::Effect;
use crate::link::{Line, Link};
use redis::{FromRedisValue, Script, ScriptInvocation};
use sandpost_message::{MessageId, TimestampMs};
use sandpost_ports::state::{RecordedRequest, RequestClaim, Requests};
use sandpost_ports::{ErrorKind, PortError};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How long Redis keeps a request after it expired: more than hosts' clocks are apart, so that one that is behind still
/// finds it.
const KEPT_AFTER_MS: u64 = 60_000;

/// Redis adds it to the time of now, and refuses what does not fit then.
const KEPT_MAX_MS: u64 = u64::MAX / 8;

/// Of a key: that of a header, with the caller's name and the topic.
const KEY_MAX_BYTES: usize = 1024;

/// `ARGV`: now, fingerprint, plan, stale at, expires at, owner, and for how long Redis keeps it. Times are whole
/// milliseconds, exact as a script's numbers.
const CLAIM: &str = "
    local known = redis.call('HMGET', KEYS[1], 'fingerprint', 'plan', 'stale_at_ms', 'expires_at_ms', 'owner', 'answer')
    local now = tonumber(ARGV[1])
    if not known[1] or tonumber(known[4]) <= now then
        redis.call('DEL', KEYS[1])
        redis.call('HSET', KEYS[1], 'fingerprint', ARGV[2], 'plan', ARGV[3])
    elseif known[1] ~= ARGV[2] then
        return {'mismatch', ''}
    elseif known[6] then
        return {'answered', known[6]}
    elseif known[5] ~= ARGV[6] and tonumber(known[3]) > now then
        return {'in-flight', ''}
    end
    redis.call('HSET', KEYS[1], 'stale_at_ms', ARGV[4], 'expires_at_ms', ARGV[5], 'owner', ARGV[6])
    redis.call('PEXPIRE', KEYS[1], ARGV[7])
    return {'ours', redis.call('HGET', KEYS[1], 'plan')}";

/// Says whether the request is known.
const ANSWER: &str = "
    if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
    redis.call('HSETNX', KEYS[1], 'answer', ARGV[1])
    return 1";

/// `ARGV[1]` is what the owners of this host begin with.
const ABANDON: &str = "
    local known = redis.call('HMGET', KEYS[1], 'owner', 'answer')
    if known[1] and not known[2] and string.sub(known[1], 1, #ARGV[1]) == ARGV[1] then
        redis.call('DEL', KEYS[1])
    end";

/// Requests under a prefix.
pub struct RedisRequests {
    link: Arc<Link>,
    prefix: String,
    /// This host's, as long as it runs, with a slash behind it.
    host: String,
    claims: AtomicU64,
    claim: Script,
    answer: Script,
    abandon: Script,
}

impl RedisRequests {
    pub(crate) fn new(link: Arc<Link>, prefix: String) -> Self {
        Self {
            link,
            prefix,
            host: format!("{}/", MessageId::new()),
            claims: AtomicU64::new(0),
            claim: Script::new(CLAIM),
            answer: Script::new(ANSWER),
            abandon: Script::new(ABANDON),
        }
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Runs a script that may be run again; it is, where nobody knows whether it was: a connection that was lost is made
    /// anew by the second.
    async fn twice<T: FromRedisValue>(&self, call: &ScriptInvocation<'_>) -> Result<T, PortError> {
        let run = || self.link.call(Effect::Writes, async |mut line: Line| call.invoke_async::<T>(&mut line).await);
        match run().await {
            Err(error) if error.kind == ErrorKind::UnknownOutcome => run().await,
            answer => answer,
        }
    }
}

#[async_trait::async_trait]
impl Requests for RedisRequests {
    async fn claim_request(
        &self,
        key: &str,
        request: RecordedRequest,
        now_ms: TimestampMs,
    ) -> Result<RequestClaim, PortError> {
        if key.len() > KEY_MAX_BYTES {
            return Err(PortError::invalid("the key of a request is longer than 1024 bytes"));
        }
        let owner = format!("{}{}", self.host, self.claims.fetch_add(1, Ordering::Relaxed));
        let kept_ms = request.expires_at_ms.saturating_sub(now_ms).saturating_add(KEPT_AFTER_MS).min(KEPT_MAX_MS);
        let mut call = self.claim.prepare_invoke();
        call.key(self.name(key)).arg(now_ms).arg(&request.fingerprint[..]).arg(&request.plan[..]);
        call.arg(request.stale_at_ms).arg(request.expires_at_ms).arg(owner).arg(kept_ms);
        let (outcome, bytes): (String, Vec<u8>) = self.twice(&call).await?;
        match outcome.as_str() {
            // Somebody else's plan is one that was begun before; of one's own it does not matter which.
            "ours" if bytes == request.plan => Ok(RequestClaim::Fresh),
            "ours" => Ok(RequestClaim::Resumed { plan: bytes }),
            "answered" => Ok(RequestClaim::Answered(bytes)),
            "mismatch" => Ok(RequestClaim::Mismatch),
            "in-flight" => Ok(RequestClaim::InFlight),
            _ => Err(PortError::new(ErrorKind::Other, "the claim of a request came to nothing that is known")),
        }
    }

    async fn answer_request(&self, key: &str, answer: Vec<u8>) -> Result<(), PortError> {
        let mut call = self.answer.prepare_invoke();
        call.key(self.name(key)).arg(answer);
        if self.twice::<bool>(&call).await? {
            Ok(())
        } else {
            Err(PortError::new(ErrorKind::Conflict, "the request is not known"))
        }
    }

    async fn abandon_request(&self, key: &str) -> Result<(), PortError> {
        let mut call = self.abandon.prepare_invoke();
        call.key(self.name(key)).arg(&self.host);
        self.twice(&call).await
    }

    /// Redis removes them by itself.
    async fn forget_requests(&self, _now_ms: TimestampMs, _max: usize) -> Result<u64, PortError> {
        Ok(0)
    }
}

impl fmt::Debug for RedisRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisRequests").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
