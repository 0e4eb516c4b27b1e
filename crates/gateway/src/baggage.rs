//! W3C baggage: the assignment travels with it, so that instrumented instances carry it on to whatever they ask.
//!
//! Promises: the caller's members stay as they are; our own that came in are replaced, never passed on. When there is no room within the
//! limits, ours are the ones that are left out. Source: W3C Baggage, sections 3.1 (list) and 3.3.2 (limits).

use http::{HeaderMap, header::HeaderName};

/// The header's name.
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const REVISION: &[u8] = b"modelyard.revision";
const SESSION: &[u8] = b"modelyard.session";
/// Most bytes of a list, and most members.
const LONGEST: usize = 8192;
const MOST: usize = 64;

/// Writes a list: the caller's members, if there is a list of theirs, then ours.
pub fn write(out: &mut Vec<u8>, given: Option<&HeaderMap>, revision: &[u8], session: Option<&[u8]>) {
    let from = out.len();
    let mut count = 0;
    for (key, member) in given.into_iter().flat_map(members) {
        if key != REVISION && key != SESSION {
            if count > 0 {
                out.push(b',');
            }
            out.extend_from_slice(member);
            count += 1;
        }
    }
    let (theirs, kept) = (out.len(), count);
    for (key, value) in [(REVISION, Some(revision)), (SESSION, session)] {
        let Some(value) = value else { continue };
        if count > 0 {
            out.push(b',');
        }
        out.extend_from_slice(key);
        out.push(b'=');
        out.extend_from_slice(value);
        count += 1;
    }
    let fits = count <= MOST && out.len() - from <= LONGEST;
    if !fits && kept > 0 {
        out.truncate(theirs);
    }
}

/// The session that came in.
pub fn session(given: &HeaderMap) -> Option<&[u8]> {
    let (_, member) = members(given).find(|(key, _)| *key == SESSION)?;
    let value = member.split(|&byte| byte == b'=').nth(1)?;
    let value = value.split(|&byte| byte == b';').next()?.trim_ascii();
    (!value.is_empty()).then_some(value)
}

/// Keys and members of all lists; empty members are left out.
fn members(given: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lists = given.get_all(BAGGAGE).into_iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    lists.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty()).map(|member| {
        let key = member.split(|&byte| matches!(byte, b'=' | b';')).next().unwrap_or_default();
        (key.trim_ascii(), member)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn written(given: &[&str]) -> String {
        let mut map = HeaderMap::new();
        for list in given {
            map.append(BAGGAGE, HeaderValue::from_str(list).unwrap());
        }
        let mut out = b"before".to_vec();
        write(&mut out, Some(&map), b"7", Some(b"00ff"));
        String::from_utf8(out.split_off(6)).unwrap()
    }

    const OURS: &str = "modelyard.revision=7,modelyard.session=00ff";

    #[test]
    fn ours_come_after_the_caller_s_and_are_not_forged() {
        assert_eq!(written(&[]), OURS);
        assert_eq!(written(&["a=1;p, b = 2", "c=3"]), format!("a=1;p,b = 2,c=3,{OURS}"));
        assert_eq!(written(&["modelyard.revision=1, a=1 ,modelyard.session = f,,"]), format!("a=1,{OURS}"));
    }

    #[test]
    fn the_caller_s_are_kept_when_there_is_no_room() {
        let most = vec!["k=v"; MOST - 2].join(",");
        assert_eq!(written(&[&most]), format!("{most},{OURS}"));
        let many = vec!["k=v"; MOST - 1].join(",");
        assert_eq!(written(&[&many]), many);
        let long = format!("k={}", "v".repeat(LONGEST - OURS.len() - 3));
        assert_eq!(written(&[&long]).len(), LONGEST);
        let longer = format!("{long}v");
        assert_eq!(written(&[&longer]), longer);
    }
}
