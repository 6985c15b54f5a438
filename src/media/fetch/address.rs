//! Which addresses a guarded fetch may dial: those that belong to the public Internet, and no
//! others.
//!
//! The lists are the IANA special-purpose registries (RFC 6890 and its successors) and the
//! well-known metadata addresses of clouds. What an IPv6 address embeds is judged like the
//! address it would reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 blocks that are not the public Internet, as address and prefix length.
const CLOSED_V4: &[(Ipv4Addr, u32)] = &[
    (Ipv4Addr::UNSPECIFIED, 8),            // "this network", unspecified
    (Ipv4Addr::new(10, 0, 0, 0), 8),       // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),    // carrier NAT; 100.100.100.200 is Alibaba's metadata
    (Ipv4Addr::new(127, 0, 0, 0), 8),      // loopback
    (Ipv4Addr::new(168, 63, 129, 16), 32), // Azure's platform address, public but only inside
    (Ipv4Addr::new(169, 254, 0, 0), 16),   // link-local; 169.254.169.254 is cloud metadata
    (Ipv4Addr::new(172, 16, 0, 0), 12),    // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),     // protocol assignments; Oracle's metadata
    (Ipv4Addr::new(192, 0, 2, 0), 24),     // TEST-NET-1
    (Ipv4Addr::new(192, 88, 99, 0), 24),   // 6to4 relay, withdrawn
    (Ipv4Addr::new(192, 168, 0, 0), 16),   // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),    // benchmarking
    (Ipv4Addr::new(198, 51, 100, 0), 24),  // TEST-NET-2
    (Ipv4Addr::new(203, 0, 113, 0), 24),   // TEST-NET-3
    (Ipv4Addr::new(224, 0, 0, 0), 4),      // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),      // reserved, broadcast
];

/// Blocks inside the global unicast space 2000::/3 that are closed all the same. Everything
/// outside 2000::/3 is closed anyway.
const CLOSED_V6: &[(Ipv6Addr, u32)] = &[
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments, Teredo, ORCHID
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

const GLOBAL_UNICAST: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
const MAPPED: (Ipv6Addr, u32) = (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
const NAT64: (Ipv6Addr, u32) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
const SIX_TO_FOUR: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16);

/// Whether an address belongs to the public Internet.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !CLOSED_V4.iter().any(|(block, bits)| {
        let mask = u32::MAX << (32 - bits);
        address.to_bits() & mask == block.to_bits() & mask
    })
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // The IPv4 address is the whole destination.
    if within(address, MAPPED) || within(address, NAT64) {
        return is_public_v4(embedded(address, 12));
    }
    // IPv4-compatible (::/96) and local-use NAT64 (64:ff9b:1::/48) addresses fall out here: the
    // former is withdrawn, the latter says nothing certain about where it leads.
    if !within(address, GLOBAL_UNICAST) || CLOSED_V6.iter().any(|block| within(address, *block)) {
        return false;
    }
    if within(address, SIX_TO_FOUR) && !is_public_v4(embedded(address, 2)) {
        return false;
    }
    // ISATAP: any prefix, then 0000:5efe or 0200:5efe and the IPv4 address.
    let words = address.segments();
    let isatap = words[5] == 0x5efe && matches!(words[4], 0 | 0x0200);
    !isatap || is_public_v4(embedded(address, 12))
}

fn within(address: Ipv6Addr, (block, bits): (Ipv6Addr, u32)) -> bool {
    let mask = u128::MAX << (128 - bits);
    address.to_bits() & mask == block.to_bits() & mask
}

/// The four bytes from `at`, as an IPv4 address.
fn embedded(address: Ipv6Addr, at: usize) -> Ipv4Addr {
    let bytes = address.octets();
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(public: bool, addresses: &[&str]) {
        for text in addresses {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(is_public(address), public, "{text}");
        }
    }

    #[test]
    fn public_addresses_pass() {
        check(
            true,
            &[
                "1.1.1.1",
                "8.8.8.8",
                "9.255.255.255",
                "11.0.0.0",
                "100.63.255.255",
                "100.128.0.0",
                "126.255.255.255",
                "128.0.0.0",
                "168.63.129.15",
                "169.253.255.255",
                "169.255.0.0",
                "172.15.255.255",
                "172.32.0.0",
                "192.0.1.0",
                "192.167.255.255",
                "192.169.0.0",
                "198.17.255.255",
                "198.20.0.0",
                "223.255.255.255",
                "2001:200::1",
                "2001:4860:4860::8888",
                "2606:4700:4700::1111",
                "2a00:1450:4001:800::200e",
                "::ffff:8.8.8.8",
                "64:ff9b::8.8.8.8",
                "2002:808:808::1",
                "2a00::5efe:808:808",
            ],
        );
    }

    #[test]
    fn special_ipv4_is_refused() {
        check(
            false,
            &[
                "0.0.0.0",
                "0.1.2.3",
                "10.0.0.1",
                "10.255.255.255",
                "100.64.0.0",
                "100.100.100.200",
                "100.127.255.255",
                "127.0.0.1",
                "127.255.255.254",
                "168.63.129.16",
                "169.254.0.1",
                "169.254.169.254",
                "169.254.170.2",
                "172.16.0.0",
                "172.31.255.255",
                "192.0.0.1",
                "192.0.0.192",
                "192.0.2.1",
                "192.88.99.1",
                "192.168.0.0",
                "192.168.255.255",
                "198.18.0.0",
                "198.19.255.255",
                "198.51.100.7",
                "203.0.113.9",
                "224.0.0.1",
                "239.255.255.250",
                "240.0.0.1",
                "255.255.255.255",
            ],
        );
    }

    #[test]
    fn special_ipv6_is_refused() {
        check(
            false,
            &[
                "::",
                "::1",
                "100::1",
                "fc00::1",
                "fd00:ec2::254",
                "fd20:ce::254",
                "fdff::1",
                "fe80::1",
                "febf::1",
                "fec0::1",
                "ff02::1",
                "ff0e::1",
                "2001:db8::1",
                "3fff::1",
                "3fff:fff::1",
                "2001::1",
                "2001:10::1",
                "2001:20::1",
                "5f00::1",
                "4000::1",
                "e000::1",
            ],
        );
    }

    #[test]
    fn an_embedded_address_is_judged_like_itself() {
        check(
            false,
            &[
                "::ffff:127.0.0.1",
                "::ffff:169.254.169.254",
                "::ffff:10.0.0.1",
                "::ffff:0:0",
                "::ffff:0:127.0.0.1",
                "::127.0.0.1",
                "::10.0.0.1",
                "::8.8.8.8",
                "64:ff9b::127.0.0.1",
                "64:ff9b::a9fe:a9fe",
                "64:ff9b:1::7f00:1",
                "64:ff9b:1:7f00:0:100::",
                "2002:7f00:1::1",
                "2002:a9fe:a9fe::1",
                "2002:c0a8:101::1",
                "2001:0:4136:e378:8000:63bf:3fff:fdd2",
                "2001:0:a00:1::f5ff:fffe",
                "2a00::5efe:7f00:1",
                "2a00::200:5efe:a9fe:a9fe",
                "fe80::5efe:c0a8:101",
            ],
        );
    }
}
