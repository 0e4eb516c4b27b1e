//! API versions of one name that several services answer, and what callers of an old one are told.
//!
//! Promises: whoever asks a deprecated version learns it from every answer, errors included; nothing is looked up for the others.
//! Sources: RFC 9745 (`Deprecation: @seconds`), RFC 8594 (`Sunset: HTTP-date`), RFC 5829 (`successor-version`).

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use modelyard_core::api::{Deprecation, Standing, deprecation, path};
use modelyard_core::route::RouteTable;
use modelyard_core::{ServiceName, Timestamp};

const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// What is told with each answer of a deprecated API version.
#[derive(Debug)]
pub struct Notice {
    told: Deprecation,
    deprecation: HeaderValue,
    sunset: Option<HeaderValue>,
    link: Option<HeaderValue>,
}

impl Notice {
    fn new(root: &ServiceName, told: Deprecation) -> Self {
        let sunset = told.sunset.filter(|at| at.0 / 1_000 <= LAST_SECOND).map(date);
        let deprecation = HeaderValue::from_str(&format!("@{}", told.since.0 / 1_000));
        let link = format!("<{}>; rel=\"successor-version\"", path(root.as_str(), told.successor));
        Self {
            told,
            deprecation: deprecation.unwrap_or_else(|_| HeaderValue::from_static("@0")), // digits are always a valid value
            sunset: sunset.and_then(|date| HeaderValue::from_str(&date).ok()),
            link: HeaderValue::from_str(&link).ok(),
        }
    }

    /// The same for people.
    pub fn words(&self) -> String {
        let until = self.told.sunset.map(|at| format!(", may be switched off from {}", date(at))).unwrap_or_default();
        format!("Deprecated since {}{until}; the next version is v{}", date(self.told.since), self.told.successor)
    }

    /// Tells it. What the instance said of its own is replaced, but for further links.
    pub fn tell(&self, headers: &mut HeaderMap) {
        headers.insert(DEPRECATION, self.deprecation.clone());
        if let Some(sunset) = &self.sunset {
            headers.insert(SUNSET, sunset.clone());
        }
        if let Some(link) = &self.link {
            headers.append(header::LINK, link.clone());
        }
    }
}

fn date(at: Timestamp) -> String {
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs((at.0 / 1_000).min(LAST_SECOND)))
}

// 9999-12-31T23:59:59Z: an HTTP date has four digits for the year.
const LAST_SECOND: u64 = 253_402_300_799;

/// API versions by the name that callers know, and what is told of them.
#[derive(Debug, Default)]
pub struct Versions {
    /// Versions of a name that other services answer.
    further: HashMap<ServiceName, BTreeMap<u16, ServiceName>>,
    notices: HashMap<ServiceName, Rc<Notice>>,
}

impl Versions {
    /// What a table says of them.
    pub fn of(table: &RouteTable) -> Self {
        let mut versions = Self::default();
        for (name, route) in &table.services {
            let Some(serves) = &route.serves else { continue };
            let known = versions.further.entry(serves.of.clone()).or_default();
            known.entry(serves.standing.version).or_insert_with(|| name.clone());
        }
        for (root, further) in &versions.further {
            let first = table.services.get(root).map(|route| (root, first_standing(route.default_api)));
            let standing = |name| Some((name, table.services.get(name)?.serves.as_ref()?.standing));
            let all: Vec<(&ServiceName, Standing)> =
                first.into_iter().chain(further.values().filter_map(standing)).collect();
            let standings: Vec<Standing> = all.iter().map(|(_, standing)| *standing).collect();
            let told = all.iter().filter_map(|(name, standing)| {
                let told = deprecation(standing.version, &standings)?;
                Some(((*name).clone(), Rc::new(Notice::new(root, told))))
            });
            versions.notices.extend(told);
        }
        versions
    }

    /// Who answers this API version of a name, if another service does.
    pub fn further(&self, name: &str, api: u16) -> Option<&ServiceName> {
        self.further.get(name)?.get(&api)
    }

    /// API versions of a name that other services answer.
    pub fn all_further(&self, name: &str) -> impl Iterator<Item = (u16, &ServiceName)> {
        self.further.get(name).into_iter().flatten().map(|(&api, name)| (api, name))
    }

    /// What callers of a service are told, if its version is deprecated.
    pub fn notice(&self, service: &ServiceName) -> Option<Rc<Notice>> {
        self.notices.get(service).cloned()
    }
}

const fn first_standing(version: u16) -> Standing {
    Standing { version, since: None, sunset: None }
}

#[cfg(test)]
mod tests {
    use modelyard_core::api::ApiRoute;
    use modelyard_core::route::ServiceRoute;

    use super::*;

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    fn table(further: &[(&str, u16, Option<u64>, Option<u64>)]) -> RouteTable {
        let first = ServiceRoute { default_api: 1, ..ServiceRoute::default() };
        let mut table = RouteTable::default();
        table.services.insert(name("wine"), first);
        for &(service, version, since, sunset) in further {
            let standing = Standing { version, since: since.map(Timestamp), sunset: sunset.map(Timestamp) };
            let serves = Some(ApiRoute { of: name("wine"), standing });
            table
                .services
                .insert(name(service), ServiceRoute { default_api: version, serves, ..ServiceRoute::default() });
        }
        table
    }

    fn told(versions: &Versions, service: &str) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        if let Some(notice) = versions.notice(&name(service)) {
            notice.tell(&mut headers);
        }
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
    }

    #[test]
    fn callers_of_an_old_version_are_told_in_the_words_of_the_rfcs() {
        // 2026-11-29T00:00:00Z and 2027-03-01T00:00:00Z.
        let versions = Versions::of(&table(&[("wine-v2", 2, Some(1_795_910_400_999), Some(1_803_859_200_000))]));
        let expected = [
            ("deprecation", "@1795910400"),
            ("sunset", "Mon, 01 Mar 2027 00:00:00 GMT"),
            ("link", "</wine/v2>; rel=\"successor-version\""),
        ];
        assert_eq!(told(&versions, "wine"), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(told(&versions, "wine-v2").is_empty());
        assert_eq!(versions.further("wine", 2), Some(&name("wine-v2")));
        assert_eq!((versions.further("wine", 1), versions.further("beer", 2)), (None, None));
    }

    #[test]
    fn nothing_is_told_before_the_next_version_serves_nor_after_it_left() {
        assert!(told(&Versions::of(&table(&[("wine-v2", 2, None, Some(1))])), "wine").is_empty());
        assert!(told(&Versions::of(&table(&[])), "wine").is_empty());
    }

    #[test]
    fn a_version_stays_where_it_is_when_the_first_one_leaves() {
        let mut table = table(&[("wine-v2", 2, Some(1), None), ("wine-v3", 3, Some(2), None)]);
        table.services.remove("wine");
        let versions = Versions::of(&table);
        let further: Vec<_> = versions.all_further("wine").map(|(api, name)| (api, name.to_string())).collect();
        assert_eq!(further, [(2, "wine-v2".to_owned()), (3, "wine-v3".to_owned())]);
        assert_eq!(told(&versions, "wine-v2")[1].1, "</wine/v3>; rel=\"successor-version\"");
    }

    #[test]
    fn of_two_that_claim_a_version_the_first_by_name_has_it_and_absurd_dates_are_not_told() {
        let versions = Versions::of(&table(&[("b", 2, Some(1), None), ("a", 2, Some(u64::MAX), Some(u64::MAX))]));
        assert_eq!(versions.further("wine", 2), Some(&name("a")));
        assert_eq!(told(&versions, "wine").len(), 2, "no sunset");
    }
}
