//! Which addresses may be connected to.
//!
//! A catalogue's URLs come from whoever fills the catalogue; the loader must not become that person's
//! way into the network it runs in. Invariant: a name is resolved once, every address it has is
//! judged, and the connection goes to one of those that passed: a name that answers differently the
//! second time (DNS rebinding) gains nothing.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

/// A range of addresses: `10.1.0.0/16`, `fd00::/8`, `127.0.0.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    const fn v4(a: u8, b: u8, c: u8, bits: u8) -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::new(a, b, c, 0)),
            bits,
        }
    }

    const fn v6(first: u16, second: u16, bits: u8) -> Self {
        Self {
            address: IpAddr::V6(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0)),
            bits,
        }
    }

    fn contains(self, address: IpAddr) -> bool {
        let shift = |width: u32| width.saturating_sub(u32::from(self.bits));
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let prefix = |a: Ipv4Addr| u32::from(a).checked_shr(shift(32)).unwrap_or(0);
                prefix(own) == prefix(other)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let prefix = |a: Ipv6Addr| u128::from(a).checked_shr(shift(128)).unwrap_or(0);
                prefix(own) == prefix(other)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is no network: it looks like 10.1.0.0/16, or all");
        if text == "all" || text == "true" {
            // What `Guard::new` takes for every address of both families.
            return Ok(Self {
                address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                bits: 0,
            });
        }
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().map_err(|_| wrong())?,
            None => width,
        };
        if bits > width {
            return Err(wrong());
        }
        Ok(Self { address, bits })
    }
}

/// Not of the public Internet: the special-purpose registries of IANA (RFC 6890).
const SPECIAL: &[Network] = &[
    Network::v4(0, 0, 0, 8),        // this network
    Network::v4(10, 0, 0, 8),       // private
    Network::v4(100, 64, 0, 10),    // shared by carriers
    Network::v4(127, 0, 0, 8),      // this machine
    Network::v4(169, 254, 0, 16),   // this link, and metadata of clouds
    Network::v4(172, 16, 0, 12),    // private
    Network::v4(192, 0, 0, 24),     // protocols
    Network::v4(192, 0, 2, 24),     // documentation
    Network::v4(192, 168, 0, 16),   // private
    Network::v4(198, 18, 0, 15),    // benchmarks
    Network::v4(198, 51, 100, 24),  // documentation
    Network::v4(203, 0, 113, 24),   // documentation
    Network::v4(224, 0, 0, 4),      // groups
    Network::v4(240, 0, 0, 4),      // reserved, and broadcast
    Network::v6(0, 0, 8),           // unspecified, this machine, and forms of IPv4 (judged before)
    Network::v6(0x100, 0, 64),      // discard
    Network::v6(0x2001, 0, 23),     // protocols, Teredo among them
    Network::v6(0x2001, 0xdb8, 32), // documentation
    Network::v6(0x3fff, 0, 20),     // documentation
    Network::v6(0x5f00, 0, 16),     // segment routing
    Network::v6(0xfc00, 0, 7),      // private
    Network::v6(0xfe80, 0, 9),      // this link, this site
    Network::v6(0xff00, 0, 8),      // groups
];

/// Where credentials of a cloud's machines and containers come from.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
];

/// Judges addresses.
#[derive(Debug, Clone)]
pub struct Guard(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    allowed: Vec<Network>,
    allows_all: bool,
    allows_metadata: bool,
}

/// An address that must not be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateAddress {
    pub host: String,
    pub address: IpAddr,
}

impl fmt::Display for PrivateAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, address } = self;
        write!(
            f,
            "{host} is at {address}, which is not an address of the public Internet: \
             --allow-private-addresses={address} allows it"
        )
    }
}

impl std::error::Error for PrivateAddress {}

impl Guard {
    /// Lets through what is public, and what is in `allowed`.
    pub fn new(allowed: &[Network]) -> Self {
        Self(Arc::new(Rules {
            allowed: allowed.to_vec(),
            allows_all: allowed
                .iter()
                .any(|network| network.bits == 0 && network.address.is_ipv6()),
            allows_metadata: false,
        }))
    }

    /// And where a cloud's credentials come from: for stores that the user named, not a catalogue.
    pub fn with_metadata(&self) -> Self {
        Self(Arc::new(Rules {
            allowed: self.0.allowed.clone(),
            allows_all: self.0.allows_all,
            allows_metadata: true,
        }))
    }

    fn allows(&self, address: IpAddr) -> bool {
        let address = inner(address);
        let Rules {
            allowed,
            allows_all,
            allows_metadata,
        } = &*self.0;
        let is_in = |networks: &[Network]| networks.iter().any(|n| n.contains(address));
        *allows_all
            || !is_in(SPECIAL)
            || is_in(allowed)
            || (*allows_metadata && METADATA.contains(&address))
    }

    /// All addresses of a host, or the first that is not allowed: one such makes the host suspect.
    pub fn judge(
        &self,
        host: &str,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, PrivateAddress> {
        let judged = addresses.into_iter().map(|address| {
            if self.allows(address.ip()) {
                Ok(address)
            } else {
                Err(PrivateAddress {
                    host: host.to_owned(),
                    address: inner(address.ip()),
                })
            }
        });
        judged.collect()
    }
}

/// The IPv4 address that an IPv6 address stands for, if it does: mapped (RFC 4291), translated
/// (RFC 6052), 6to4 (RFC 3056).
fn inner(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return v4.into();
    }
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => v4(high, low).into(),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(guard: &Guard, address: &str) -> bool {
        guard.allows(address.parse().unwrap())
    }

    #[test]
    fn only_public_addresses_pass_in_whatever_form_they_are_written() {
        let guard = Guard::new(&[]);
        for public in [
            "8.8.8.8",
            "172.32.0.1",
            "192.0.3.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "3fff:1000::1",
        ] {
            assert!(allows(&guard, public), "{public}");
        }
        for special in [
            "0.0.0.0",
            "10.1.2.3",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.31.255.255",
            "192.168.0.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2001::1",
            "3fff:fff::1",
            "5f00::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!allows(&guard, special), "{special}");
        }
    }

    #[test]
    fn what_is_allowed_is_no_more_than_was_said() {
        let networks = |texts: &[&str]| -> Vec<Network> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let guard = Guard::new(&networks(&["10.1.0.0/16", "fd00:1::/32", "127.0.0.1"]));
        for (address, is_allowed) in [
            ("10.1.255.1", true),
            ("::ffff:10.1.0.1", true),
            ("10.2.0.1", false),
            ("fd00:1::9", true),
            ("fd00:2::9", false),
            ("127.0.0.1", true),
            ("127.0.0.2", false),
            ("::1", false),
            ("169.254.169.254", false),
        ] {
            assert_eq!(allows(&guard, address), is_allowed, "{address}");
        }
        assert!(allows(&guard.with_metadata(), "169.254.169.254"));
        let all = Guard::new(&networks(&["all"]));
        assert!(allows(&all, "127.0.0.1") && allows(&all, "::1"));
        for wrong in [
            "10.0.0.0/33",
            "10.0.0/8",
            "local",
            "fd00::/129",
            "1.2.3.4/x",
        ] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_private_address_among_public_ones_makes_a_host_suspect() {
        let addresses = ["8.8.8.8:80", "10.0.0.1:80"].map(|text| text.parse().unwrap());
        let error = Guard::new(&[])
            .judge("shop.example", addresses)
            .unwrap_err();
        assert_eq!(error.address, IpAddr::from([10, 0, 0, 1]));
        assert!(
            error.to_string().starts_with("shop.example is at 10.0.0.1"),
            "{error}"
        );
    }
}
