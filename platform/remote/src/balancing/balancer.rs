//! Which of a module's instances are healthy, and which of them is called next.
//!
//! Every instance is probed continuously. It leaves the rotation at the first probe that fails, at the second in a row without a response in time, or when
//! a caller reports that it refused the connection, and is back after the first probe that succeeds. The next instance is chosen by "the power of two choices" (Mitzenmacher, 2001):
//! of two at random the one with fewer calls in flight. That keeps slow instances from being overloaded, without comparing all of them for each
//! call.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard};
use serde::Serialize;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info, warn};
use utoipa::ToSchema;

use crate::discovery::{Address, Interface, Probing};

/// How instances are connected and probed.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// What a call is made over; clones share the underlying connection.
    type Connection: Clone + Send + Sync + 'static;

    /// Prepares a connection to an instance, without opening it yet.
    ///
    /// # Errors
    /// It could never be connected, whatever its state: the settings are wrong.
    fn connect(&self, address: &Address) -> anyhow::Result<Self::Connection>;

    /// Whether it is healthy; see [`Probing`].
    ///
    /// # Errors
    /// It is not; says why.
    async fn probe(&self, connection: &Self::Connection) -> Result<(), String>;
}

/// The instances of one module. Clones share their state; probing ends with `stop` or the last clone.
pub struct Balancer<C: Connector> {
    shared: Arc<Shared<C::Connection>>,
}

impl<C: Connector> Clone for Balancer<C> {
    fn clone(&self) -> Self {
        Balancer {
            shared: self.shared.clone(),
        }
    }
}

/// One instance, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InstanceState {
    /// Where it answers.
    #[schema(value_type = String, example = "http://10.0.0.1:9000")]
    pub address: Address,
    /// Whether it is given calls.
    pub in_rotation: bool,
    /// Calls of this process that it has not answered yet.
    pub in_flight: usize,
    /// Why it is not in rotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Why a module has unhealthy instances or none at all: how many are healthy, and the reason of the first that is not. `None` if all are healthy.
pub fn why_degraded(instances: &[InstanceState]) -> Option<String> {
    let healthy = instances.iter().filter(|instance| instance.in_rotation).count();
    let all = instances.len();
    if healthy == all && all > 0 {
        return None;
    }
    let why = instances
        .iter()
        .find_map(|instance| Some(format!("; {}: {}", instance.address, instance.reason.as_ref()?)));
    Some(format!(
        "{healthy} of {all} instances are healthy{}",
        why.unwrap_or_default()
    ))
}

struct Shared<C> {
    known: RwLock<Vec<Arc<Member<C>>>>,
    /// Those that can never be connected, with the reason.
    unusable: RwLock<Vec<(Address, String)>>,
    /// The labels of the metrics: module and interface.
    measured_as: OnceLock<(String, Interface)>,
    _running: DropGuard,
}

/// One instance, for as long as discovery knows it.
struct Member<C> {
    address: Address,
    connection: C,
    in_flight: AtomicUsize,
    /// Written only under `probe_state`; read without it.
    in_rotation: AtomicBool,
    probe_state: Mutex<ProbeState>,
    rotation: Weak<Shared<C>>,
    /// Set when discovery no longer knows it.
    removed: CancellationToken,
}

#[derive(Default)]
struct ProbeState {
    refusals: u64,
    reason: Option<String>,
}

/// An instance that was picked for one call, which counts as in flight until this is dropped.
pub struct Picked<C> {
    member: Arc<Member<C>>,
}

impl<C: Connector> Balancer<C> {
    /// Starts probing. Must be called within a runtime.
    pub fn start(
        connector: C,
        addresses: watch::Receiver<Vec<Address>>,
        probing: Probing,
        stop: CancellationToken,
    ) -> Self {
        let running = stop.child_token();
        let shared = Arc::new(Shared {
            known: RwLock::default(),
            unusable: RwLock::default(),
            measured_as: OnceLock::new(),
            _running: running.clone().drop_guard(),
        });
        let keeper = Keeper {
            connector: Arc::new(connector),
            shared: Arc::downgrade(&shared),
            running,
            probing,
        };
        keeper.run(addresses);
        Balancer { shared }
    }

    /// Records how many instances there are, and how many of them are in rotation, with these labels.
    #[must_use]
    pub fn measured_as(self, module: &str, interface: Interface) -> Self {
        let _ = self.shared.measured_as.set((module.to_owned(), interface));
        self.shared.measure();
        self
    }

    /// Of two in rotation, at random, the one with fewer calls in flight. An instance that was never probed yet counts as healthy. `None` if none
    /// is left.
    pub fn pick(&self) -> Option<Picked<C::Connection>> {
        self.shared.pick(|_| true)
    }

    /// Like [`pick`](Balancer::pick), but a different instance: for a second attempt.
    pub fn pick_other(&self, not: &Picked<C::Connection>) -> Option<Picked<C::Connection>> {
        self.shared.pick(|member| member.address != not.member.address)
    }

    /// All instances that are known.
    pub fn states(&self) -> Vec<InstanceState> {
        let mut states: Vec<InstanceState> = self.shared.known().iter().map(|member| member.state()).collect();
        let unusable = |(address, reason): &(Address, String)| InstanceState {
            address: address.clone(),
            in_rotation: false,
            in_flight: 0,
            reason: Some(reason.clone()),
        };
        states.extend(self.shared.unusable().iter().map(unusable));
        states
    }
}

impl<C> Shared<C> {
    fn known(&self) -> RwLockReadGuard<'_, Vec<Arc<Member<C>>>> {
        self.known.read()
    }

    fn unusable(&self) -> RwLockReadGuard<'_, Vec<(Address, String)>> {
        self.unusable.read()
    }

    fn pick(&self, is_eligible: impl Fn(&Member<C>) -> bool) -> Option<Picked<C>> {
        let known = self.known();
        let eligible = || {
            known
                .iter()
                .filter(|member| member.in_rotation.load(Ordering::Relaxed) && is_eligible(member))
        };
        // An instance may leave the rotation meanwhile; then any other will do.
        let nth = |n| eligible().nth(n).or_else(|| eligible().next());
        let member = match eligible().count() {
            0 => return None,
            1 => nth(0)?,
            count => {
                let one = rand::random_range(0..count);
                let other = (one + rand::random_range(1..count)) % count;
                let (one, other) = (nth(one)?, nth(other)?);
                let load = |member: &Member<C>| member.in_flight.load(Ordering::Relaxed);
                if load(other) < load(one) { other } else { one }
            }
        };
        member.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Picked { member: member.clone() })
    }

    fn measure(&self) {
        let Some((module, interface)) = self.measured_as.get() else {
            return;
        };
        let (known, healthy) = {
            let known = self.known();
            (
                known.len() + self.unusable().len(),
                known
                    .iter()
                    .filter(|member| member.in_rotation.load(Ordering::Relaxed))
                    .count(),
            )
        };
        let labels = [("module", module.clone()), ("interface", interface.name().to_owned())];
        #[expect(clippy::cast_precision_loss, reason = "no module has 2^52 instances")]
        {
            metrics::gauge!("banyan_discovery_instances", &labels).set(known as f64);
            metrics::gauge!("banyan_discovery_instances_in_rotation", &labels).set(healthy as f64);
        }
    }
}

impl<C> Member<C> {
    fn probe_state(&self) -> MutexGuard<'_, ProbeState> {
        self.probe_state.lock()
    }

    fn state(&self) -> InstanceState {
        let probe_state = self.probe_state();
        InstanceState {
            address: self.address.clone(),
            in_rotation: self.in_rotation.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            reason: probe_state.reason.clone(),
        }
    }

    fn leave(&self, probe_state: &mut ProbeState, reason: String) {
        if self.in_rotation.swap(false, Ordering::Relaxed) {
            warn!(instance = %self.address, reason, "an instance leaves the rotation");
        }
        probe_state.reason = Some(reason);
    }

    fn rejoin(&self, probe_state: &mut ProbeState) {
        if !self.in_rotation.swap(true, Ordering::Relaxed) {
            info!(instance = %self.address, "an instance is back in rotation");
        }
        probe_state.reason = None;
    }

    fn measure(&self) {
        if let Some(rotation) = self.rotation.upgrade() {
            rotation.measure();
        }
    }
}

impl<C> Picked<C> {
    pub fn connection(&self) -> &C {
        &self.member.connection
    }

    pub fn address(&self) -> &Address {
        &self.member.address
    }

    /// Reports that it refused the connection: it leaves the rotation at once, until a probe that begins later succeeds.
    pub fn refused(&self) {
        {
            let mut probe_state = self.member.probe_state();
            probe_state.refusals += 1;
            self.member
                .leave(&mut probe_state, "it refused a connection".to_owned());
        }
        self.member.measure();
    }
}

impl<C> Drop for Picked<C> {
    fn drop(&mut self) {
        self.member.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps the rotation up to date: applies what discovery reports, and probes.
struct Keeper<C: Connector> {
    connector: Arc<C>,
    shared: Weak<Shared<C::Connection>>,
    running: CancellationToken,
    probing: Probing,
}

impl<C: Connector> Keeper<C> {
    /// Applies what is known now, before it returns, and every change from then on.
    fn run(self, mut addresses: watch::Receiver<Vec<Address>>) {
        let first = addresses.borrow_and_update().clone();
        self.apply(&first);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = self.running.cancelled() => return,
                    changed = addresses.changed() => {
                        if changed.is_err() {
                            // Nothing will change any more; the probes continue.
                            return;
                        }
                        let known = addresses.borrow_and_update().clone();
                        self.apply(&known);
                    }
                }
            }
        });
    }

    /// A known instance keeps its connection and its state; a new one is in rotation and probed at once; calls to a removed one may finish.
    fn apply(&self, addresses: &[Address]) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut before: BTreeMap<Address, Arc<Member<C::Connection>>> = shared
            .known()
            .iter()
            .map(|member| (member.address.clone(), member.clone()))
            .collect();
        let mut now = Vec::with_capacity(addresses.len());
        let (mut new, mut unusable) = (Vec::new(), Vec::new());
        for address in addresses {
            if let Some(member) = before.remove(address) {
                now.push(member);
                continue;
            }
            match self.connector.connect(address) {
                Ok(connection) => {
                    let member = Arc::new(Member {
                        address: address.clone(),
                        connection,
                        in_flight: AtomicUsize::new(0),
                        in_rotation: AtomicBool::new(true),
                        probe_state: Mutex::default(),
                        rotation: self.shared.clone(),
                        removed: self.running.child_token(),
                    });
                    now.push(member.clone());
                    new.push(member);
                }
                Err(why) => {
                    if !shared.unusable().iter().any(|(known, _)| known == address) {
                        error!(instance = %address, "an instance cannot be connected, and is ignored: {why:#}");
                    }
                    unusable.push((address.clone(), format!("{why:#}")));
                }
            }
        }
        *shared.unusable.write() = unusable;
        *shared.known.write() = now;
        before.into_values().for_each(|member| member.removed.cancel());
        for member in new {
            tokio::spawn(probe(self.connector.clone(), member, self.probing));
        }
        shared.measure();
    }
}

/// Probes one instance until it is removed. A single late response is a hiccup, of the instance or of this process, whose own suspension makes every probe
/// late: the instance is probed again at once, and leaves only if there is no response again.
async fn probe<C: Connector>(connector: Arc<C>, member: Arc<Member<C::Connection>>, probing: Probing) {
    let Probing {
        every,
        timeout: probe_timeout,
    } = probing;
    let removed = member.removed.clone();
    let probing = async {
        let mut was_late = false;
        loop {
            let refusals = member.probe_state().refusals;
            let result = timeout(probe_timeout, connector.probe(&member.connection)).await;
            let is_first_late = result.is_err() && !was_late;
            was_late = result.is_err();
            if is_first_late {
                continue;
            }
            {
                let mut probe_state = member.probe_state();
                match result {
                    // A probe that was in flight when a caller was refused proves nothing.
                    Ok(Ok(())) if probe_state.refusals != refusals => {}
                    Ok(Ok(())) => member.rejoin(&mut probe_state),
                    Ok(Err(reason)) => member.leave(&mut probe_state, reason),
                    Err(_) => member.leave(
                        &mut probe_state,
                        format!("no response to a probe within {} ms", probe_timeout.as_millis()),
                    ),
                }
            }
            member.measure();
            tokio::time::sleep(jittered(every)).await;
        }
    };
    tokio::select! {
        () = removed.cancelled() => {}
        () = probing => {}
    }
}

/// A fifth more or less, so that many processes do not probe at the same time.
fn jittered(every: Duration) -> Duration {
    every.mul_f64(rand::random_range(0.8..=1.2))
}

#[cfg(test)]
mod tests;
