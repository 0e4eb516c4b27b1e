//! Access: tokens, what each may do, and the guard in front of the registry.
//!
//! Promises: only a hash of a token is kept; a token is shown once; what cannot be read refuses everybody. As long as no token was ever made,
//! nothing is demanded: everything listens on loopback then. Once the first is there, everybody needs one.
//! Absent on purpose: names and passwords. Where they are asked for, any name goes and the token is the password. Container
//! clients change it for short-lived ones by repository (`GET /token`).

mod endpoint;
mod grant;
mod guard;
mod short;
mod tokens;

pub(crate) use self::endpoint::routes;
pub use self::grant::{Grant, Role, Scope, fits};
pub use self::guard::{CHALLENGE, guard, secret};
pub use self::tokens::{Entry, Presented, Refused, Tokens};
pub use crate::address::percent_decoded;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use modelyard_core::Timestamp;

tokio::task_local! {
    static CALLER: Arc<Grant>;
}

/// What the token of the request that is being answered grants; none where no token is demanded or none was given.
pub fn caller() -> Option<Arc<Grant>> {
    CALLER.try_with(Arc::clone).ok()
}

/// Answers a request on behalf of a token.
pub async fn on_behalf<T>(grant: Arc<Grant>, work: impl Future<Output = T>) -> T {
    CALLER.scope(grant, work).await
}

/// A time as RFC 3339 writes it.
pub fn instant(at: Timestamp) -> String {
    let at = i64::try_from(at.0).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    at.unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// Now.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
