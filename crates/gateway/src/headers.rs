//! Which header fields go on, and which end at the gateway.
//!
//! Source: RFC 9110, section 7.6.1 (`Connection`), and the fields that it lists.

use http::{HeaderName, HeaderValue, header};

use crate::baggage::BAGGAGE;

/// Revision that answered; as a request's header, the revision wanted.
pub const REVISION: HeaderName = HeaderName::from_static("modelyard-revision");
/// Session that a request belongs to, told to instances: 16 hexadecimal digits.
pub const SESSION: HeaderName = HeaderName::from_static("modelyard-session");
/// Values of the revision's flags, told to instances.
pub const FLAGS: HeaderName = HeaderName::from_static(modelyard_core::flags::HEADER);
/// Version of the package that answered.
pub const VERSION: HeaderName = HeaderName::from_static("modelyard-version");
/// Service wanted by a gRPC call whose messages do not name a model.
pub const SERVICE: HeaderName = HeaderName::from_static("modelyard-service");
/// Marks a shadow's copy, so that its instance and its telemetry can tell it from real traffic.
pub const SHADOW: HeaderName = HeaderName::from_static("modelyard-shadow");
/// Trace context of the request that a shadow's copy is a copy of: the copy has a span of its own, linked to this one.
pub const SHADOW_OF: HeaderName = HeaderName::from_static("modelyard-shadow-of");
/// Id of the request, given or made.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C trace context.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Whom the request came from.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Protocol that the request came by.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Whether a field is about this connection only. `Trailer` is not: trailers go on, and so does their announcement.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || *name == header::TE
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
}

/// Whether a request's field is left out because it ends here or is written anew.
pub fn is_left_out(name: &HeaderName) -> bool {
    is_hop_by_hop(name)
        || *name == header::HOST
        || *name == header::CONTENT_LENGTH
        || *name == header::EXPECT
        || *name == TRACEPARENT
        || *name == REQUEST_ID
        || *name == FORWARDED_FOR
        || *name == FORWARDED_PROTO
        || *name == REVISION
        || *name == SESSION
        || *name == FLAGS
        || *name == BAGGAGE
        || *name == SHADOW
        || *name == SHADOW_OF
}

/// The tokens of a list.
pub fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// The field that a token of `Connection` names, if it is one that is not left out anyway.
pub fn named(token: &[u8]) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(token).ok()?;
    // What frames the message cannot be taken away by naming it: that would be a way to smuggle.
    let framing = name == header::CONTENT_LENGTH || name == header::HOST || name == header::TRAILER;
    (!is_hop_by_hop(&name) && !framing && name.as_str() != "close").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_names_fields_but_not_those_that_frame() {
        let value = HeaderValue::from_static("close, keep-alive,, X-Mine , content-length");
        let names: Vec<_> = tokens(&value).filter_map(named).collect();
        assert_eq!(names, ["x-mine"]);
    }
}
