//! Which addresses are nobody's business of ours, and how names become addresses.

use futures::future::BoxFuture;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

const fn v4(a: u8, b: u8, c: u8, prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix))
}

const fn v6(segments: [u16; 7], prefix: u8) -> IpNet {
    let [a, b, c, d, e, f, g] = segments;
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, 0), prefix))
}

/// The specification's ten, then what else leads into a network of somebody's own.
const DENIED: [IpNet; 23] = [
    v4(0, 0, 0, 8),
    v4(10, 0, 0, 8),
    v4(127, 0, 0, 8),
    v4(169, 254, 0, 16),
    v4(172, 16, 0, 12),
    v4(192, 168, 0, 16),
    // ::1, ::, and addresses of IPv4 in the old spelling.
    v6([0; 7], 96),
    v6([0xfe80, 0, 0, 0, 0, 0, 0], 10),
    v6([0xfc00, 0, 0, 0, 0, 0, 0], 7),
    v6([0, 0, 0, 0, 0, 0xffff, 0], 96),
    // Carriers' own, and a cloud's metadata among them.
    v4(100, 64, 0, 10),
    v4(192, 0, 0, 24),
    v4(198, 18, 0, 15),
    // Many at once, and nobody's.
    v4(224, 0, 0, 4),
    v4(240, 0, 0, 4),
    v6([0xff00, 0, 0, 0, 0, 0, 0], 8),
    // Site-local of old, discard, documentation.
    v6([0xfec0, 0, 0, 0, 0, 0, 0], 10),
    v6([0x100, 0, 0, 0, 0, 0, 0], 64),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0], 32),
    // Ways from IPv6 to IPv4: NAT64, Teredo, 6to4.
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0], 96),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0], 48),
    v6([0x2001, 0, 0, 0, 0, 0, 0], 32),
    v6([0x2002, 0, 0, 0, 0, 0, 0], 16),
];

/// Whether nobody may have us call this address.
pub(super) fn is_denied(address: IpAddr) -> bool {
    DENIED.iter().any(|net| net.contains(&address))
}

type Ask = dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync;

/// How a name becomes addresses.
#[derive(Clone)]
pub struct Lookup(Arc<Ask>);

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup")
    }
}

impl Lookup {
    /// Anything that answers with every address of a name.
    pub fn new(
        ask: impl Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(ask))
    }

    /// The system's resolver.
    pub(super) fn system() -> Self {
        Self::new(|host| {
            Box::pin(async move {
                let found = tokio::net::lookup_host((host, 0)).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        })
    }

    /// Every address of a name.
    pub(super) async fn ask(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        (self.0)(host.to_owned()).await
    }
}
