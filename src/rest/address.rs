//! Where a request comes from.
//!
//! A client's word about its own address counts for nothing; that of a trusted proxy counts for the address that it was
//! called from. So the list is read from its end, and ends at the first address that is no trusted proxy's.

use std::net::{IpAddr, SocketAddr};

use actix_web::http::header::HeaderMap;

use crate::config::Network;

/// Most addresses of one request that are looked at.
const MAX_HOPS: usize = 32;

/// The client's address: the peer's, or, behind trusted proxies, what the outermost of them says.
///
/// `X-Forwarded-For` and `Forwarded` are read alike. A proxy sets one of them and passes the other on as the client sent
/// it; when both are there and disagree, nobody knows which, and the peer's address is all that is certain.
pub fn client_address(trusted: &[Network], headers: &HeaderMap, peer: IpAddr) -> IpAddr {
    let peer = peer.to_canonical();
    let trusts = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if !trusts(peer) {
        return peer;
    }
    let outermost = |hops: Vec<Option<IpAddr>>| {
        let mut address = peer;
        for hop in hops.into_iter().rev().take(MAX_HOPS) {
            let Some(hop) = hop else { break };
            address = hop.to_canonical();
            if !trusts(address) {
                break;
            }
        }
        address
    };
    let (old, new) = (hops(headers, "x-forwarded-for"), hops(headers, "forwarded"));
    match (old, new) {
        (None, None) => peer,
        (Some(hops), None) | (None, Some(hops)) => outermost(hops),
        (Some(old), Some(new)) => {
            let (old, new) = (outermost(old), outermost(new));
            if old == new { old } else { peer }
        }
    }
}

/// The addresses in a header, as they were added; `None` for one that is hidden or none. Nothing without the header.
fn hops(headers: &HeaderMap, name: &str) -> Option<Vec<Option<IpAddr>>> {
    let mut list = Vec::new();
    for value in headers.get_all(name) {
        // What is no text is no address either, but it stands for something.
        let text = value.to_str().unwrap_or_default();
        list.extend(text.split(',').map(|element| match name {
            "forwarded" => forwarded_for(element),
            _ => address(element.trim()),
        }));
    }
    (!list.is_empty()).then_some(list)
}

/// The `for=` of one element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut parts = element.split(';').filter_map(|part| part.trim().split_once('='));
    let (_, value) = parts.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    let value = value.trim();
    let plain = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    address(plain)
}

/// An address, with or without a port, in brackets or not.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Ok(with_port) = text.parse::<SocketAddr>() {
        return Some(with_port.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn seen(peer: &str, headers: &[(&'static str, &str)]) -> String {
        let trusted: Vec<Network> = ["10.0.0.0/8", "2001:db8::/32"].map(|text| text.parse().unwrap()).into();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        client_address(&trusted, &map, peer.parse().unwrap()).to_string()
    }

    #[test]
    fn a_client_is_not_believed_about_its_own_address() {
        assert_eq!(seen("192.0.2.1", &[("x-forwarded-for", "198.51.100.1")]), "192.0.2.1");
        assert_eq!(seen("192.0.2.1", &[("forwarded", "for=198.51.100.1")]), "192.0.2.1");
        assert_eq!(seen("::ffff:192.0.2.1", &[]), "192.0.2.1");
    }

    #[test]
    fn behind_trusted_proxies_the_first_address_from_the_right_counts_that_is_none_of_theirs() {
        let spoofed = "127.0.0.1, 203.0.113.9, 10.1.1.1";
        assert_eq!(seen("10.0.0.1", &[("x-forwarded-for", spoofed)]), "203.0.113.9");
        let twice = [("x-forwarded-for", "127.0.0.1"), ("x-forwarded-for", "203.0.113.9")];
        assert_eq!(seen("10.0.0.1", &twice), "203.0.113.9");
        assert_eq!(seen("10.0.0.1", &[("x-forwarded-for", "10.2.2.2, 10.3.3.3")]), "10.2.2.2");
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
        let forwarded = "for=1.2.3.4, For=\"[2001:db9::5]:4711\";proto=https, for=10.1.1.1;by=10.0.0.1";
        assert_eq!(seen("10.0.0.1", &[("forwarded", forwarded)]), "2001:db9::5");
    }

    #[test]
    fn ports_and_brackets_are_no_part_of_an_address() {
        for (text, address) in [
            ("203.0.113.9:80", "203.0.113.9"),
            ("[2001:db9::1]", "2001:db9::1"),
            ("[2001:db9::1]:1", "2001:db9::1"),
        ] {
            assert_eq!(seen("10.0.0.1", &[("x-forwarded-for", text)]), address, "{text}");
        }
    }

    #[test]
    fn what_hides_an_address_ends_the_list() {
        assert_eq!(seen("10.0.0.1", &[("x-forwarded-for", "127.0.0.1, unknown")]), "10.0.0.1");
        assert_eq!(
            seen("10.0.0.1", &[("forwarded", "for=127.0.0.1, for=_hidden, for=10.9.9.9")]),
            "10.9.9.9"
        );
        assert_eq!(seen("10.0.0.1", &[("forwarded", "for=127.0.0.1, proto=https")]), "10.0.0.1");
    }

    #[test]
    fn of_two_headers_that_disagree_none_is_believed() {
        let both = |new| [("x-forwarded-for", "203.0.113.9"), ("forwarded", new)];
        assert_eq!(seen("10.0.0.1", &both("for=127.0.0.1")), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &both("for=127.0.0.1, for=203.0.113.9")), "203.0.113.9");
    }
}
