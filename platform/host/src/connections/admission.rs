//! Who may hold a connection: a maximum in all and one per address, so that one client cannot take every file descriptor.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use banyan_http::{TrustedProxies, address_key};
use parking_lot::Mutex;

/// The open connections of one listener.
#[derive(Debug)]
pub struct Admission {
    in_all: usize,
    /// `None`: peers are not counted by their address.
    per_address: Option<usize>,
    /// Behind them are many clients, so they are not counted by their address.
    proxies: TrustedProxies,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    in_all: usize,
    by_address: HashMap<String, usize>,
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There are as many as this process may have.
    Full,
    /// This address has as many as one address may have.
    AddressFull,
}

impl Refused {
    /// The label of the metric.
    pub fn reason(self) -> &'static str {
        match self {
            Refused::Full => "full",
            Refused::AddressFull => "address_full",
        }
    }
}

impl Admission {
    pub fn new(in_all: usize, per_address: Option<usize>, proxies: TrustedProxies) -> Arc<Self> {
        Arc::new(Admission {
            in_all,
            per_address,
            proxies,
            open: Mutex::default(),
        })
    }

    /// Whether this peer may say for whom it connects, and which client it is.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.proxies.contains(peer)
    }

    /// Counts a connection until the permit is dropped.
    ///
    /// # Errors
    /// A limit is reached.
    pub fn admit(self: &Arc<Self>) -> Result<Permit, Refused> {
        let mut open = self.open.lock();
        if open.in_all >= self.in_all {
            return Err(Refused::Full);
        }
        open.in_all += 1;
        Ok(Permit {
            admission: self.clone(),
            address: None,
        })
    }
}

/// Counts one connection.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    address: Option<String>,
}

impl Permit {
    /// Counts the connection for this client too.
    ///
    /// # Errors
    /// Its address has as many connections as one may have.
    pub fn for_client(mut self, client: IpAddr) -> Result<Self, Refused> {
        let Some(maximum) = self.admission.per_address else {
            return Ok(self);
        };
        if self.admission.trusts(client) {
            return Ok(self);
        }
        let address = address_key(client);
        {
            let mut open = self.admission.open.lock();
            let count = open.by_address.entry(address.clone()).or_default();
            if *count >= maximum {
                return Err(Refused::AddressFull);
            }
            *count += 1;
        }
        self.address = Some(address);
        Ok(self)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock();
        open.in_all -= 1;
        let Some(address) = self.address.take() else { return };
        if let Some(count) = open.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(in_all: usize, per_address: usize, proxies: &[&str]) -> Arc<Admission> {
        let proxies = proxies.iter().map(|text| text.parse().unwrap());
        Admission::new(in_all, Some(per_address), TrustedProxies(proxies.collect()))
    }

    fn admitted(admission: &Arc<Admission>, client: &str) -> Result<Permit, Refused> {
        admission.admit()?.for_client(client.parse().unwrap())
    }

    #[test]
    fn an_address_has_its_maximum_and_others_are_not_affected() {
        let admission = admission(10, 2, &[]);
        let first = admitted(&admission, "192.0.2.1").unwrap();
        let _second = admitted(&admission, "192.0.2.1").unwrap();
        assert_eq!(admitted(&admission, "192.0.2.1").unwrap_err(), Refused::AddressFull);
        let _other = admitted(&admission, "192.0.2.2").unwrap();
        drop(first);
        let _third = admitted(&admission, "192.0.2.1").unwrap();
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let admission = admission(10, 1, &[]);
        let _first = admitted(&admission, "2001:db8:1:2::1").unwrap();
        assert_eq!(
            admitted(&admission, "2001:db8:1:2::2").unwrap_err(),
            Refused::AddressFull
        );
        let _other = admitted(&admission, "2001:db8:1:3::1").unwrap();
    }

    #[test]
    fn trusted_proxies_have_only_the_maximum_in_all() {
        let admission = admission(3, 1, &["10.0.0.0/8"]);
        let held: Vec<Permit> = (0..3).map(|_| admitted(&admission, "10.1.2.3").unwrap()).collect();
        assert_eq!(admitted(&admission, "10.1.2.3").unwrap_err(), Refused::Full);
        drop(held);
        assert!(admission.open.lock().by_address.is_empty());
        assert_eq!(admission.open.lock().in_all, 0);
    }

    #[test]
    fn a_refused_connection_is_not_counted() {
        let admission = admission(2, 1, &[]);
        let _first = admitted(&admission, "192.0.2.1").unwrap();
        for _ in 0..5 {
            assert_eq!(admitted(&admission, "192.0.2.1").unwrap_err(), Refused::AddressFull);
        }
        let _other = admitted(&admission, "192.0.2.2").unwrap();
    }
}
